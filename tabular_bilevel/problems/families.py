"""Families of random instances, each at what some mistake gets wrong: see `zoo`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import scipy.sparse as sp

from tabular_bilevel._base.arrays import BoolArray, FloatArray, read_only
from tabular_bilevel._base.errors import ConvergenceError
from tabular_bilevel.finite.follower import solve_follower
from tabular_bilevel.finite.leader import evaluate_leader
from tabular_bilevel.finite.model import Model
from tabular_bilevel.problem import ForwardProblem
from tabular_bilevel.problems.closed_form import bandit
from tabular_bilevel.problems.contexts import Contexts
from tabular_bilevel.problems.discrete_toy import discrete_toy
from tabular_bilevel.problems.features import FeatureProblem
from tabular_bilevel.problems.four_rooms import four_rooms
from tabular_bilevel.problems.grid_world import grid_world
from tabular_bilevel.problems.markov_game import MarkovGame
from tabular_bilevel.problems.random_families import garnet, layered, random_game

Made = tuple[ForwardProblem, FloatArray]

_TABLES = ("follower_reward", "leader_reward", "transition", "initial")

_DISCOUNTS = (0.0, 0.3, 0.9, 0.99, 0.999, 0.9999)

# Quickly mixing, so that noise hides little.
MILD: Mapping[str, Any] = {"follower_discount": 0.7, "leader_discount": 0.8, "temperature": 0.5}


def with_theta(problem: Any, rng: np.random.Generator, *, spread: float = 0.3) -> Made:
    """Draw a theta of normal numbers."""
    return problem, read_only(spread * rng.normal(size=problem.n_parameters))


def _size(rng: np.random.Generator, most: int, least: int = 2) -> int:
    """Draw a number of states: as many of 2 to 5 as of 12 to 30."""
    top = max(least, most)
    return min(top, int(np.exp(rng.uniform(np.log(least), np.log(top + 1)))))


def _scalars(rng: np.random.Generator) -> dict[str, Any]:
    """Draw discounts and a temperature that plain code can cope with."""
    return {
        "follower_discount": float(rng.choice([0.5, 0.9, 0.95, 0.99])),
        "leader_discount": float(rng.choice([0.3, 0.8, 0.97, 0.99])),
        "temperature": float(rng.choice([0.05, 0.2, 1.0, 5.0])),
    }


def sparse(
    rng: np.random.Generator, n_states: int, n_actions: int, branching: int = 3
) -> FloatArray:
    """Draw a kernel of few successors, shape (S, A, S)."""
    kernel = np.zeros((n_states, n_actions, n_states))
    successors = min(branching, n_states)
    for s in range(n_states):
        for a in range(n_actions):
            places = rng.choice(n_states, successors, replace=False)
            kernel[s, a, places] = rng.dirichlet(np.ones(successors))
    return kernel


def _model(
    rng: np.random.Generator,
    shape: tuple[int, int],
    kernel: Callable[..., FloatArray] = sparse,
    scalars: Callable[[np.random.Generator], Mapping[str, Any]] = _scalars,
    **tables: Any,
) -> Model:
    """Make a random model, but for the tables that are given."""
    usual = {
        "transition": kernel(rng, *shape),
        "follower_reward": rng.normal(size=shape),
        "leader_reward": rng.normal(size=shape),
        "initial": rng.dirichlet(np.ones(shape[0])),
        **scalars(rng),
    }
    return Model.from_tables(**{**usual, **tables})


def dense(rng: np.random.Generator, n_states: int, n_actions: int) -> FloatArray:
    """Draw a kernel of all successors, shape (S, A, S)."""
    return rng.dirichlet(np.ones(n_states), size=(n_states, n_actions))


def mild(rng: np.random.Generator, shape: tuple[int, int] = (5, 3), /, **tables: Any) -> Model:
    """Make a small dense model whose scalars are mild."""
    return _model(rng, shape, dense, lambda rng: MILD, **tables)


def moved(
    rng: np.random.Generator,
    base: Model,
    *tables: str,
    spread: float = 0.3,
    scales: Mapping[str, float] = MappingProxyType({}),
) -> Made:
    """Let three parameters move what is named, by random features; all four tables by default."""
    sizes = {
        "follower_reward": base.follower_reward.size,
        "leader_reward": base.leader_reward.size,
        "transition": base.transition.nnz,
        "initial": base.n_states,
        "temperature": 1,
    }
    chosen: Mapping[str, Any] = {
        name: scales.get(name, 1.0) * rng.normal(size=(sizes[name], 3))
        for name in tables or _TABLES
    }
    return with_theta(FeatureProblem(base, **chosen), rng, spread=spread)


def ending(kernel: FloatArray, ends: FloatArray) -> dict[str, Any]:
    """Let play end with these probabilities, shape (S, A)."""
    return {"transition": kernel * (1.0 - ends)[..., None], "termination": ends}


def some_ends(rng: np.random.Generator, shape: tuple[int, int]) -> FloatArray:
    """Draw how likely play ends: not at all for some pairs."""
    return rng.uniform(0.0, 0.5, size=shape) * (rng.random(shape) < 0.6)


def mask(rng: np.random.Generator, shape: tuple[int, int], share: float) -> BoolArray:
    """Let states lack actions; each keeps one."""
    available = rng.random(shape) < share
    available[np.arange(shape[0]), rng.integers(shape[1], size=shape[0])] = True
    return available


@dataclass(frozen=True, eq=False)
class Instance:
    """A problem, and where to look at it.

    Attributes
    ----------
    name : str
        Its own, or that of its family.
    problem : ForwardProblem
        The leader's problem.
    theta : ndarray, shape (d,)
        The leader's parameter.
    flags : tuple of str
        What its tables do not show, as test vectors flag it: ``"closed-form"`` where a formula has
        the answer, ``"leader-policy"`` where theta is one, ``"tied-actions"``.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> problem, theta = tb.problems.zoo.named("two-state").at
    >>> problem.n_parameters, theta
    (2, array([0.1, 0.2]))
    """

    name: str
    problem: ForwardProblem
    theta: FloatArray = field(repr=False)
    flags: tuple[str, ...] = ()

    @property
    def at(self) -> Made:
        """Problem and parameter, as most functions take them first."""
        return self.problem, self.theta


@dataclass(frozen=True)
class Family:
    """Instances of one kind.

    Attributes
    ----------
    name : str
        Its name.
    summary : str
        What it is, in a few words.
    smallest : int
        States of its largest instance that cannot be made smaller.
    make : callable
        Makes a problem and a parameter from ``(rng, k, max_states)``.
    flags : tuple of str
        Of each `Instance`.

    Examples
    --------
    >>> import numpy as np
    >>> from tabular_bilevel.problems import zoo
    >>> family = zoo.FAMILIES["garnet"]
    >>> drawn = family.draw(np.random.default_rng(0), 0, max_states=5)
    >>> drawn.name, drawn.problem.model(drawn.theta).n_states <= 5
    ('garnet', True)
    """

    name: str
    summary: str
    smallest: int
    make: Callable[[np.random.Generator, int, int], Made]
    flags: tuple[str, ...] = ()

    def draw(self, rng: np.random.Generator, k: int, max_states: int) -> Instance:
        """Draw the k-th instance; some families have kinds, which take turns.

        Parameters
        ----------
        rng : numpy.random.Generator
            Source of randomness; it advances.
        k : int
            Which of them it is.
        max_states : int
            Of its model, at most.

        Returns
        -------
        Instance
            The problem and its parameter.
        """
        return Instance(self.name, *self.make(rng, k, max_states), self.flags)


def _temperature(rng: np.random.Generator, k: int, max_states: int) -> Made:
    """Move the temperature, alone or with the rewards."""
    base = _model(rng, (_size(rng, max_states), 3))
    return moved(rng, base, *(_TABLES[:2] if k % 2 else ()), "temperature")


def _closed_form(rng: np.random.Generator, k: int, max_states: int) -> Made:
    shapes = (_bandit, _no_choice, _no_lookahead, _two_loops, _chain)
    return shapes[k % len(shapes)](rng, max_states)


def _bandit(rng: np.random.Generator, max_states: int) -> Made:
    """One state: J = pi.r_L / (1 - gamma_L) with pi the softmax of theta / temperature."""
    problem = bandit(
        leader_reward=rng.normal(size=int(rng.integers(2, 5))).tolist(),
        temperature=float(10.0 ** rng.uniform(-1.5, 1.0)),
        follower_discount=float(rng.choice(_DISCOUNTS)),
        leader_discount=float(rng.choice(_DISCOUNTS)),
    )
    return with_theta(problem, rng, spread=0.1)


def _no_choice(rng: np.random.Generator, max_states: int) -> Made:
    """One action: nothing goes through the follower."""
    return moved(rng, _model(rng, (_size(rng, min(max_states, 6)), 1)))


def _no_lookahead(rng: np.random.Generator, max_states: int) -> Made:
    """Discounts of 0: Q_F = r_F, and J = sum of rho pi r_L where the leader's is 0, too."""
    base = _model(rng, (_size(rng, min(max_states, 6)), 3), follower_discount=0.0)
    if rng.random() < 0.5:
        base = base.replace(leader_discount=0.0)
    return moved(rng, base)


def _two_loops(rng: np.random.Generator, max_states: int) -> Made:
    """Choose once between two loops: what they pay for ever is 1 + theta_0 and 1 + theta_1.

    pi = softmax(gamma_F theta / ((1 - gamma_F) temperature)), J = gamma_L pi.r_L / (1 - gamma_L).
    The 1 changes nothing but the size of what float64 has to subtract.
    """
    kernel = np.zeros((3, 2, 3))
    kernel[0, 0, 1] = kernel[0, 1, 2] = kernel[1, 0, 1] = kernel[2, 0, 2] = 1.0
    discount = float(rng.choice([0.9, 0.99, 0.9999]))
    base = Model.from_tables(
        transition=kernel,
        follower_reward=[[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]],
        leader_reward=[[0.0, 0.0], [rng.normal(), 0.0], [rng.normal(), 0.0]],
        initial=[1.0, 0.0, 0.0],
        available=[[True, True], [True, False], [True, False]],
        follower_discount=discount,
        leader_discount=float(rng.choice([0.5, 0.9, 0.999])),
        temperature=float(10.0 ** rng.uniform(-7.0, -3.0)),
    )
    pay = np.zeros((6, 2))
    pay[2, 0] = pay[4, 1] = 1.0
    # as good as each other but for a few temperatures
    spread = base.temperature * (1.0 - discount) / discount
    return with_theta(FeatureProblem(base, follower_reward=pay), rng, spread=spread)


def _chain(rng: np.random.Generator, max_states: int) -> Made:
    """Walk on for theta_1 or leave for theta_0, with the leader's pay at the end.

    From the last state back: V_s = temperature log(exp(theta_0 / temperature) + exp((theta_1 +
    gamma_F V_{s+1}) / temperature)), V_S = 0, and likewise for the leader.
    """
    length = _size(rng, min(max_states, 12), 3)
    kernel, ends = np.zeros((length, 2, length)), np.zeros((length, 2))
    ends[:, 0] = ends[-1, 1] = 1.0
    for s in range(length - 1):
        kernel[s, 1, s + 1] = 1.0
    leader = np.zeros((length, 2))
    leader[-1, 1] = 1.0
    base = Model.from_tables(
        transition=kernel,
        follower_reward=np.zeros((length, 2)),
        leader_reward=leader,
        initial=np.eye(length)[0],
        termination=ends,
        follower_discount=float(rng.choice([0.9, 0.99])),
        leader_discount=float(rng.choice([0.8, 0.95, 0.9999])),
        temperature=float(10.0 ** rng.uniform(-1.0, 0.5)),
    )
    pay = np.tile(np.eye(2), (length, 1))
    return with_theta(FeatureProblem(base, follower_reward=pay), rng, spread=0.1)


def _garnet(rng: np.random.Generator, k: int, max_states: int) -> Made:
    problem = garnet(
        n_states=_size(rng, max_states),
        n_actions=int(rng.integers(2, 5)),
        n_parameters=1 + k % 6,
        branching=2,
        **_scalars(rng),
        rng=rng,
    )
    return with_theta(problem, rng)


def _one_table(rng: np.random.Generator, k: int, max_states: int) -> Made:
    """Move one table alone, or both rewards."""
    choices = (*((name,) for name in _TABLES), _TABLES[:2])
    base = _model(rng, (_size(rng, max_states), 3))
    return moved(rng, base, *choices[k % len(choices)])


def _tied(rng: np.random.Generator, k: int, max_states: int) -> Made:
    """Actions as good as each other but for a few temperatures, which are tiny."""
    n_states = _size(rng, max_states)
    shape = n_states, 3
    beta = float(10.0 ** rng.uniform(-5.0, -2.0))
    discount = float(rng.choice([0.3, 0.9, 0.99]))
    # all actions of a state lead to the same places
    kernel = np.repeat(sparse(rng, n_states, 1), 3, axis=1)
    reward = rng.normal(size=(n_states, 1)) + beta * rng.normal(size=shape)
    base = _model(
        rng, shape, transition=kernel, follower_reward=reward, temperature=beta,
        follower_discount=discount, leader_discount=float(rng.choice([0.5, 0.95, 0.99])),
    )  # fmt: skip
    return moved(rng, base, "follower_reward", "leader_reward", spread=0.3 * beta)


def _corners(rng: np.random.Generator, k: int, max_states: int) -> Made:
    """Take anything to its end: discounts, temperatures, rewards, kernels."""
    shape = _size(rng, max_states, 1), int(rng.integers(1, 5))
    n_states = shape[0]
    scales = 10.0 ** rng.uniform(*((-8.0, -5.0), (4.0, 8.0), (-2.0, 2.0))[k % 3], size=2)
    beta = float(scales[0] * 10.0 ** rng.uniform(-4.0, 2.0))
    style = ("dense", "sparse", "deterministic", "absorbing", "unreachable")[k % 5]
    kernel = sparse(rng, *shape, {"dense": 8, "deterministic": 1}.get(style, 3))
    if style == "absorbing":
        kernel[-1] = np.eye(n_states)[-1]
    if style == "unreachable":
        _leave_out_the_last(kernel)
    initial = rng.dirichlet(np.ones(n_states))
    if style == "unreachable" or rng.random() < 0.3:
        initial = np.eye(n_states)[0]
    rewards = []
    for scale in scales:
        table = scale * rng.normal(size=shape)
        kind = rng.choice(["free", "tied", "negative", "zero"], p=[0.3, 0.5, 0.1, 0.1])
        if kind == "tied":
            table = scale * rng.normal(size=(n_states, 1)) + beta * rng.normal(size=shape)
        elif kind == "negative":
            table = -np.abs(table)
        elif kind == "zero":
            table = np.zeros(shape)
        rewards.append(table)
    base = _model(
        rng, shape, transition=sp.csr_array(kernel.reshape(-1, n_states)), initial=initial,
        follower_reward=rewards[0], leader_reward=rewards[1], temperature=beta,
        follower_discount=float(rng.choice(_DISCOUNTS)),
        leader_discount=float(rng.choice(_DISCOUNTS)),
    )  # fmt: skip
    sizes = {"follower_reward": beta, "leader_reward": float(scales[1])}
    return moved(rng, base, *(_TABLES if rng.random() < 0.7 else _TABLES[:2]), scales=sizes)


def _leave_out_the_last(kernel: FloatArray) -> None:
    """Let nothing lead to the last state, unless it is the only one."""
    if kernel.shape[-1] > 1:
        kernel[..., 0] += kernel[..., -1]
        kernel[..., -1] = 0.0


def _masks(rng: np.random.Generator, k: int, max_states: int) -> Made:
    """Make some actions unavailable; what the tables hold there, a reward of 0, looks good."""
    shape = _size(rng, max_states), 4
    available = mask(rng, shape, 0.6)
    available[0, :2] = True, False
    reward = -1.0 - np.abs(rng.normal(size=shape))
    return moved(rng, _model(rng, shape, available=available, follower_reward=reward))


def _termination(rng: np.random.Generator, k: int, max_states: int) -> Made:
    """Episodes end, by chance or after a fixed number of steps."""
    if k % 2 and max_states >= 4:
        width = min(3, max_states // 2)
        problem = layered(
            depth=min(4, max_states // width), width=width, branching=2, **_scalars(rng), rng=rng
        )
        return with_theta(problem, rng)
    shape = _size(rng, max_states), 3
    ends = some_ends(rng, shape)
    ends[0, 0] = 0.5
    return moved(rng, _model(rng, shape, **ending(sparse(rng, *shape), ends)))


def _undiscounted(rng: np.random.Generator, k: int, max_states: int) -> Made:
    """Every state may end the episode, and the leader counts all steps alike."""
    shape = _size(rng, max_states), 3
    ends = rng.uniform(0.05, 0.5, size=shape)
    base = _model(rng, shape, **ending(sparse(rng, *shape), ends), leader_discount=1.0)
    return moved(rng, base)


# Of the published four rooms, and a fifth of them.
_FOUR_ROOMS_STATES = 104
_SMALL_FOUR_ROOMS = "type octile\nheight 5\nwidth 5\nmap\n..@..\n.....\n@.@.@\n.....\n..@..\n"


def _four_rooms(rng: np.random.Generator, k: int, max_states: int) -> Made:
    """Pay for cells in the published rooms, if there is room for them, or in a fifth of them."""
    beta = float(rng.choice([0.001, 0.003, 0.005]))
    if max_states >= _FOUR_ROOMS_STATES and k % 2 == 0:
        return with_theta(four_rooms(beta, float(rng.choice([1.0, 3.0, 5.0]))), rng)
    problem = grid_world(
        _SMALL_FOUR_ROOMS,
        slip=float(rng.choice([0.0, 0.2, 0.44])),
        follower_discount=float(rng.choice([0.9, 0.99])),
        leader_discount=float(rng.choice([0.9, 0.95, 0.99])),
        temperature=10.0 * beta,
    )
    return with_theta(problem, rng, spread=0.02)


def _discrete_toy(rng: np.random.Generator, k: int, max_states: int) -> Made:
    return with_theta(discrete_toy(float(1 + k % 2)), rng, spread=1.0)


def _game(rng: np.random.Generator, max_states: int, *, seen: bool) -> Made:
    game = random_game(
        n_states=_size(rng, max_states // (2 if seen else 1)),
        branching=2,
        **_scalars(rng),
        follower_observes_leader=seen,
        rng=rng,
    )
    return with_theta(game, rng)


def _quick(rng: np.random.Generator, k: int, max_states: int) -> Made:
    """Mix quickly, so that estimates of many trajectories are cheap."""
    settings: dict[str, Any] = {
        "follower_discount": rng.uniform(0.3, 0.9),
        "leader_discount": rng.uniform(0.3, 0.9),
        "temperature": float(np.exp(rng.uniform(np.log(0.1), np.log(2.0)))),
        "n_actions": int(rng.integers(2, 4)),
        "rng": rng,
    }
    kind, n_states = rng.integers(3), int(rng.integers(2, min(max_states, 7) + 1))
    if kind == 0:
        problem: Any = garnet(n_states=n_states, n_parameters=int(rng.integers(1, 6)), **settings)
    elif kind == 1:
        problem = layered(depth=min(3, max_states // 2), width=2, **settings)
    else:
        seen = bool(rng.integers(2))
        problem = random_game(n_states=n_states // 2, follower_observes_leader=seen, **settings)
    return with_theta(problem, rng)


def _patchy(rng: np.random.Generator, k: int, max_states: int) -> Made:
    """States lack actions, pairs may end the episode and one must, all zeros are stored."""
    shape = max_states, 3
    ends = some_ends(rng, shape)
    ends[0, 0] = 1.0
    tables = ending(sparse(rng, *shape), ends)
    rows, columns = np.indices((3 * max_states, max_states))
    every = tables["transition"].ravel(), (rows.ravel(), columns.ravel())
    tables["transition"] = sp.coo_array(every, shape=rows.shape)
    return moved(rng, mild(rng, shape, available=mask(rng, shape, 0.6), **tables))


def _wild(rng: np.random.Generator, k: int, max_states: int) -> Made:
    """Draw a problem biased to where float64 fails, with 3 parameters at 0."""
    shape = int(rng.integers(1, min(max_states, 8) + 1)), int(rng.integers(1, 5))
    n_states, n_actions = shape
    beta = 10.0 ** rng.uniform(-6, 6)
    kernel, ends = _wild_kernel(rng, shape)
    follower, leader = _wild_rewards(rng, shape, beta), _wild_rewards(rng, shape, beta)
    available = mask(rng, shape, 0.7) if rng.random() < 0.3 else np.ones(shape, dtype=bool)
    base = Model.from_tables(
        transition=sp.csr_array(kernel.reshape(-1, n_states)),
        follower_reward=np.where(available, follower, -np.inf),
        leader_reward=leader,
        available=available,
        termination=ends,
        **_wild_start(rng, n_states),
        temperature=beta,
    )
    moves = rng.choice(["rewards", "all"])
    if rng.random() < 0.3:
        base = _without_discount(rng, base)
    problem = FeatureProblem(
        base,
        follower_reward=rng.normal(size=(n_states * n_actions, 3)),
        leader_reward=rng.normal(size=(n_states * n_actions, 3)) * (moves == "all"),
        transition=rng.normal(size=(base.transition.nnz, 3)) if moves == "all" else None,
        initial=rng.normal(size=(n_states, 3)) if moves == "all" else None,
        temperature=rng.normal(size=3) if rng.random() < 0.5 else None,
    )
    return problem, read_only(np.zeros(3))


def _wild_game(rng: np.random.Generator, k: int, max_states: int) -> Made:
    """Draw a game biased to where float64 fails, of either kind."""
    n_leader = int(rng.integers(1, min(max_states, 3) + 1))
    n_states = int(rng.integers(1, min(max_states // n_leader, 3) + 1))
    shape = n_states, n_leader, int(rng.integers(1, 4))
    beta = 10.0 ** rng.uniform(-6, 6)
    kernel, ends = _wild_kernel(rng, shape)
    game = MarkovGame(
        transition=kernel,
        termination=ends,
        follower_reward=_wild_rewards(rng, shape, beta),
        leader_reward=_wild_rewards(rng, shape, beta),
        **_wild_start(rng, n_states),
        temperature=beta,
        follower_observes_leader=bool(rng.random() < 0.5),
    )
    return with_theta(game, rng, spread=1.0)


def _wild_kernel(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[FloatArray, FloatArray]:
    """Draw a kernel of some style, and the ends of episodes; `shape` is that of a reward table."""
    n_states = shape[0]
    kernel, ends = np.zeros((*shape, n_states)), np.zeros(shape)
    style = rng.choice(["dense", "sparse", "deterministic", "absorbing"])
    for place in np.ndindex(shape):
        if style == "dense":
            kernel[place] = rng.dirichlet(np.ones(n_states))
        elif style == "absorbing" and rng.random() < 0.5:
            kernel[(*place, place[0])] = 1.0
        elif style == "deterministic":
            kernel[(*place, rng.integers(n_states))] = 1.0
        else:
            few = int(rng.integers(1, min(3, n_states) + 1))
            weights = rng.dirichlet(np.ones(few))
            kernel[place][rng.choice(n_states, few, replace=False)] = weights
    if n_states > 1 and rng.random() < 0.3:
        _leave_out_the_last(kernel)
    if rng.random() < 0.3:
        ends = rng.choice([0.0, 0.5, 1.0], p=[0.6, 0.2, 0.2], size=shape)
        kernel *= (1.0 - ends)[..., None]
    return kernel, ends


def _wild_rewards(rng: np.random.Generator, shape: tuple[int, ...], beta: float) -> FloatArray:
    """Draw rewards of 1e-8 to 1e8, some of them as good as each other but for a temperature."""
    table: FloatArray = rng.normal(size=shape) * 10.0 ** rng.uniform(-8, 8)
    kind = rng.choice(["free", "tied", "near", "negative", "zero"], p=[0.4, 0.2, 0.2, 0.1, 0.1])
    if kind == "tied":
        table[:] = table[..., :1]
    elif kind == "near":
        table = rng.normal(size=(*shape[:-1], 1)) + beta * rng.normal(size=shape)
    elif kind == "negative":
        table = -np.abs(table)
    elif kind == "zero":
        table = np.zeros(shape)
    return table


def _wild_start(rng: np.random.Generator, n_states: int) -> dict[str, Any]:
    initial = rng.dirichlet(np.ones(n_states))
    if rng.random() < 0.4:
        initial = np.eye(n_states)[rng.integers(n_states)]
    return {
        "initial": initial,
        "follower_discount": float(rng.choice(_DISCOUNTS)),
        "leader_discount": float(rng.choice(_DISCOUNTS)),
    }


def _without_discount(rng: np.random.Generator, base: Model) -> Model:
    """Make the leader's discount 1, with an end that every state leads to, sooner or later."""
    ends = base.termination.copy()
    rows = np.arange(base.n_states)[rng.random(base.n_states) < rng.choice([0.3, 1.0])]
    may = base.available[rows]  # an action's end, or everyone's
    may &= (np.arange(base.n_actions) == may.argmax(axis=1)[:, None]) | (rng.random() < 0.5)
    leak = 10.0 ** -rng.uniform(0, 6, (rows.size, 1))
    ends[rows] = np.where(may, np.maximum(ends[rows], leak), ends[rows])
    scale = np.divide(1.0 - ends, base.row_mass, out=np.zeros_like(ends), where=base.row_mass > 0.0)
    kernel = base.like_transition(base.transition.data * scale.ravel()[base.entry_row])
    try:
        model = base.replace(transition=kernel, termination=ends, leader_discount=1.0)
        lasting = evaluate_leader(model, solve_follower(model)).occupancy.sum()
    except (ValueError, ConvergenceError):  # play stays away from all ends, or all but always
        return base
    return model if lasting < 1e14 else base


# Of the ends of float64: what underflows must not be taken for 0.
_TINY_DISCOUNTS = (0.0, 5e-324, 1e-300, 1e-160, 1e-20, 0.5, 0.99)
_EXPONENTS = (-324, -320, -310, -300, -250, -160, -100, -20, -3, 0)
_LOGITS = (0.0, -1.0, -100.0, -700.0, -740.0, -745.0, -800.0, -1e5)


def _extreme_numbers(
    rng: np.random.Generator, shape: int | tuple[int, ...], most: int = 0
) -> FloatArray:
    """Draw numbers from 1e-324 to 10^most, some of them 0."""
    scale = 10.0 ** rng.choice([*_EXPONENTS, 0, 0, most])
    table = rng.normal(size=shape) * scale
    if rng.random() < 0.3:  # of all sizes at once
        table = rng.normal(size=shape) * 10.0 ** rng.choice([*_EXPONENTS, most], size=shape)
    return np.where(rng.random(shape) < 0.2, 0.0, table)


def _tiny_distribution(rng: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
    """Draw distributions most of whose entries are tiny."""
    n = shape[-1]
    table = np.abs(_extreme_numbers(rng, shape)).clip(0.0, 1e-3).reshape(-1, n)
    table[np.arange(len(table)), rng.integers(n, size=len(table))] = 0.0
    place = table.argmin(axis=1)
    table[np.arange(len(table)), place] = 0.0
    table[np.arange(len(table)), place] = 1.0 - table.sum(axis=1)
    return table.reshape(shape)


def extreme_logits(rng: np.random.Generator, size: int) -> FloatArray:
    """Draw logits, of which some are as good as infinite."""
    logits: FloatArray = rng.choice(_LOGITS, size=size) + rng.normal(size=size)
    return read_only(logits)


def _extreme(rng: np.random.Generator, k: int, max_states: int) -> Made:
    """Draw a problem of numbers at the ends of float64, and 2 parameters."""
    S, A, d = int(rng.integers(1, min(max_states, 4) + 1)), int(rng.integers(1, 4)), 2
    kernel = _tiny_distribution(rng, (S, A, S))
    if rng.random() < 0.3:
        kernel = dense(rng, S, A)
    initial = _tiny_distribution(rng, (S,)) if rng.random() < 0.6 else np.full(S, 1.0 / S)
    beta = float(10.0 ** rng.choice([-300, -100, -3, 0, 0, 0, 2, 100]))
    # logits of up to some hundreds
    reward = beta * rng.normal(size=(S, A)) * 10.0 ** rng.uniform(0, 3)
    if rng.random() < 0.4:
        reward = _extreme_numbers(rng, (S, A), 3)
    base = Model.from_tables(
        transition=kernel,
        follower_reward=reward,
        leader_reward=_extreme_numbers(rng, (S, A), int(rng.choice([3, 100, 280]))),
        initial=initial,
        follower_discount=float(rng.choice(_TINY_DISCOUNTS)),
        leader_discount=float(rng.choice(_TINY_DISCOUNTS)),
        temperature=beta,
    )
    most = int(rng.choice([0, 3, 100]))
    features: Mapping[str, Any] = {
        "follower_reward": _extreme_numbers(rng, (S * A, d), most),
        "leader_reward": _extreme_numbers(rng, (S * A, d), most),
        "transition": _extreme_numbers(rng, (base.transition.nnz, d), most),
        "initial": _extreme_numbers(rng, (S, d), most),
        "temperature": _extreme_numbers(rng, d, most),
    }
    some = {name: f for name, f in features.items() if rng.random() < 0.6} or features
    return FeatureProblem(base, **some), read_only(np.zeros(d))


def _extreme_game(rng: np.random.Generator, k: int, max_states: int) -> Made:
    """Draw a game and logits that are hundreds apart."""
    S, B, A = (int(rng.integers(1, 4)) for _ in range(3))
    initial = np.eye(S)[0] if rng.random() < 0.5 else _tiny_distribution(rng, (S,))
    game = MarkovGame(
        transition=_tiny_distribution(rng, (S, B, A, S)),
        follower_reward=rng.normal(size=(S, B, A)),
        leader_reward=_extreme_numbers(rng, (S, B, A), int(rng.choice([3, 100]))),
        initial=initial,
        follower_discount=float(rng.choice(_TINY_DISCOUNTS)),
        leader_discount=float(rng.choice(_TINY_DISCOUNTS)),
        temperature=float(10.0 ** rng.choice([-3, 0, 2])),
        follower_observes_leader=bool(rng.random() < 0.5),
    )
    return game, extreme_logits(rng, S * B)


def _contexts(rng: np.random.Generator, k: int, max_states: int) -> Made:
    """Let followers share theta: unlike in size, with masks and ends, or in games."""
    scalars, share = _scalars(rng), max_states // 2
    weights = rng.dirichlet(np.ones(2))
    if k % 3 == 2:
        games = [random_game(n_states=share // 2, **scalars, rng=rng) for _ in range(2)]
        return with_theta(Contexts(games, weights), rng)
    heat = rng.normal(size=3) if k % 3 else np.zeros(3)
    problems = []
    for _ in range(2):
        shape = _size(rng, share, 1), int(rng.integers(1, 4))
        base = _model(
            rng, shape, **ending(sparse(rng, *shape), some_ends(rng, shape)),
            available=mask(rng, shape, 0.7), scalars=lambda rng: scalars,
        )  # fmt: skip
        own, _ = moved(rng, base)
        features = {name: getattr(own, name) for name in _TABLES}
        problems.append(FeatureProblem(base, **features, temperature=heat))
    return with_theta(Contexts(problems, weights), rng)


#: By name; the draws of one do not depend on what others there are.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        family.name: family
        for family in (
            Family(
                "closed-form", "a formula has the answer: see the docstrings", 3, _closed_form,
                ("closed-form",),
            ),
            Family("garnet", "random MDPs, everything at once", 2, _garnet),
            Family("one-table", "one table moves alone", 2, _one_table),
            Family(
                "tied", "actions as good as each other, small temperatures", 2, _tied,
                ("tied-actions",),
            ),
            Family("corners", "discounts, temperatures and rewards at their ends", 2, _corners),
            Family("masks", "unavailable actions", 2, _masks),
            Family("termination", "episodes that end", 2, _termination),
            Family("undiscounted", "episodes that end, leader's discount 1", 2, _undiscounted),
            Family("temperature", "the follower's temperature moves", 2, _temperature),
            Family("four-rooms", "the published grid, or a smaller one", 20, _four_rooms),
            Family(
                "discrete-toy", "the published game, observed leader", 6, _discrete_toy,
                ("leader-policy",),
            ),
            Family(
                "game-observed", "the follower sees the leader's action", 4,
                lambda rng, k, most: _game(rng, most, seen=True), ("leader-policy",),
            ),
            Family(
                "game-simultaneous", "it does not", 2,
                lambda rng, k, most: _game(rng, most, seen=False), ("leader-policy",),
            ),
            Family("quick", "MDPs and games that mix quickly", 4, _quick),
            Family("patchy", "everything lacks something, in as many states as may be", 2, _patchy),
            Family("contexts", "several followers and one theta", 4, _contexts),
            Family("wild", "float64 fails: temperatures and rewards of any size", 1, _wild),
            Family(
                "wild-game", "the same of games of both kinds", 1, _wild_game, ("leader-policy",)
            ),
            Family("extreme", "numbers at the ends of float64", 1, _extreme),
            Family(
                "extreme-game", "the same of games, logits hundreds apart", 9, _extreme_game,
                ("leader-policy",),
            ),
        )
    }
)  # fmt: skip
