"""Families of instances that test vectors are drawn from; each aims at some mistakes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import scipy.sparse as sp

from tabular_bilevel._base.arrays import FloatArray, read_only
from tabular_bilevel.finite.model import Model
from tabular_bilevel.problem import BilevelProblem, FeatureProblem
from tabular_bilevel.problems import (
    bandit,
    discrete_toy,
    four_rooms,
    garnet,
    grid_world,
    layered,
    random_game,
)
from tabular_bilevel.problems.markov_game import MarkovGame
from tabular_bilevel.vectors.load_vectors import TABLES

__all__ = ["FAMILIES", "Family", "Instance"]

DISCOUNTS = (0.0, 0.3, 0.9, 0.99, 0.999, 0.9999)

# Of the published four rooms.
FOUR_ROOMS_STATES = 104

SMALL_FOUR_ROOMS = "type octile\nheight 5\nwidth 5\nmap\n..@..\n.....\n@.@.@\n.....\n..@..\n"


@dataclass(frozen=True, eq=False)
class Instance:
    """A problem and a theta, with the flags that its tables do not show.

    Attributes
    ----------
    problem : BilevelProblem
        The leader's problem.
    theta : ndarray, shape (d,)
        The leader's parameter.
    flags : tuple of str
        Names in `NOTES`.
    """

    problem: BilevelProblem
    theta: FloatArray
    flags: tuple[str, ...] = ()


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
    draw : callable
        Makes the k-th instance, of at most `max_states` states, from ``(rng, k, max_states)``.
    """

    name: str
    summary: str
    smallest: int
    draw: Callable[[np.random.Generator, int, int], Instance]


def _at(problem: Any, rng: np.random.Generator, *flags: str, spread: float = 0.3) -> Instance:
    theta = read_only(spread * rng.normal(size=problem.n_parameters))
    return Instance(problem, theta, flags)


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


def _kernel(
    rng: np.random.Generator, n_states: int, n_actions: int, branching: int = 3
) -> FloatArray:
    kernel = np.zeros((n_states, n_actions, n_states))
    successors = min(branching, n_states)
    for s in range(n_states):
        for a in range(n_actions):
            places = rng.choice(n_states, successors, replace=False)
            kernel[s, a, places] = rng.dirichlet(np.ones(successors))
    return kernel


def _model(rng: np.random.Generator, shape: tuple[int, int], **tables: Any) -> Model:
    """Make a random model, but for the tables that are given."""
    usual = {
        "transition": _kernel(rng, *shape),
        "follower_reward": rng.normal(size=shape),
        "leader_reward": rng.normal(size=shape),
        "initial": rng.dirichlet(np.ones(shape[0])),
        **_scalars(rng),
    }
    return Model.from_tables(**{**usual, **tables})


def _moved(
    rng: np.random.Generator,
    base: Model,
    *tables: str,
    spread: float = 0.3,
    scales: Mapping[str, float] = MappingProxyType({}),
) -> Instance:
    """Let three parameters move what is named, by random features; all four tables by default."""
    sizes = {
        "follower_reward": base.follower_reward.size,
        "leader_reward": base.leader_reward.size,
        "transition": base.transition.nnz,
        "initial": base.n_states,
        "temperature": 1,
    }
    chosen = {
        name: scales.get(name, 1.0) * rng.normal(size=(sizes[name], 3)) for name in tables or TABLES
    }
    return _at(FeatureProblem(base, **chosen), rng, spread=spread)


def _temperature(rng: np.random.Generator, k: int, max_states: int) -> Instance:
    """Move the temperature, alone or with the rewards."""
    base = _model(rng, (_size(rng, max_states), 3))
    return _moved(rng, base, *(TABLES[:2] if k % 2 else ()), "temperature")


def _closed_form(rng: np.random.Generator, k: int, max_states: int) -> Instance:
    shapes = (_bandit, _no_choice, _no_lookahead, _two_loops, _chain)
    return shapes[k % len(shapes)](rng, max_states)


def _bandit(rng: np.random.Generator, max_states: int) -> Instance:
    """One state: J = pi.r_L / (1 - gamma_L) with pi the softmax of theta / temperature."""
    problem = bandit(
        leader_reward=rng.normal(size=int(rng.integers(2, 5))).tolist(),
        temperature=float(10.0 ** rng.uniform(-1.5, 1.0)),
        follower_discount=float(rng.choice(DISCOUNTS)),
        leader_discount=float(rng.choice(DISCOUNTS)),
    )
    return _at(problem, rng, "closed-form", spread=0.1)


def _no_choice(rng: np.random.Generator, max_states: int) -> Instance:
    """One action: nothing goes through the follower."""
    made = _moved(rng, _model(rng, (_size(rng, min(max_states, 6)), 1)))
    return Instance(made.problem, made.theta, ("closed-form",))


def _no_lookahead(rng: np.random.Generator, max_states: int) -> Instance:
    """Discounts of 0: Q_F = r_F, and J = sum of rho pi r_L where the leader's is 0, too."""
    base = _model(rng, (_size(rng, min(max_states, 6)), 3), follower_discount=0.0)
    if rng.random() < 0.5:
        base = base.replace(leader_discount=0.0)
    made = _moved(rng, base)
    return Instance(made.problem, made.theta, ("closed-form",))


def _two_loops(rng: np.random.Generator, max_states: int) -> Instance:
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
    return _at(FeatureProblem(base, follower_reward=pay), rng, "closed-form", spread=spread)


def _chain(rng: np.random.Generator, max_states: int) -> Instance:
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
    return _at(FeatureProblem(base, follower_reward=pay), rng, "closed-form", spread=0.1)


def _garnet(rng: np.random.Generator, k: int, max_states: int) -> Instance:
    problem = garnet(
        n_states=_size(rng, max_states),
        n_actions=int(rng.integers(2, 5)),
        n_parameters=1 + k % 6,
        branching=2,
        **_scalars(rng),
        rng=rng,
    )
    return _at(problem, rng)


def _one_table(rng: np.random.Generator, k: int, max_states: int) -> Instance:
    """Move one table alone, or both rewards."""
    choices = (*((name,) for name in TABLES), TABLES[:2])
    base = _model(rng, (_size(rng, max_states), 3))
    return _moved(rng, base, *choices[k % len(choices)])


def _tied(rng: np.random.Generator, k: int, max_states: int) -> Instance:
    """Actions as good as each other but for a few temperatures, which are tiny."""
    n_states = _size(rng, max_states)
    shape = n_states, 3
    beta = float(10.0 ** rng.uniform(-5.0, -2.0))
    discount = float(rng.choice([0.3, 0.9, 0.99]))
    # all actions of a state lead to the same places
    kernel = np.repeat(_kernel(rng, n_states, 1), 3, axis=1)
    reward = rng.normal(size=(n_states, 1)) + beta * rng.normal(size=shape)
    base = _model(
        rng, shape, transition=kernel, follower_reward=reward, temperature=beta,
        follower_discount=discount, leader_discount=float(rng.choice([0.5, 0.95, 0.99])),
    )  # fmt: skip
    made = _moved(rng, base, "follower_reward", "leader_reward", spread=0.3 * beta)
    return Instance(made.problem, made.theta, ("tied-actions",))


def _corners(rng: np.random.Generator, k: int, max_states: int) -> Instance:
    """Take anything to its end: discounts, temperatures, rewards, kernels."""
    shape = _size(rng, max_states, 1), int(rng.integers(1, 5))
    n_states = shape[0]
    scales = 10.0 ** rng.uniform(*((-8.0, -5.0), (4.0, 8.0), (-2.0, 2.0))[k % 3], size=2)
    beta = float(scales[0] * 10.0 ** rng.uniform(-4.0, 2.0))
    style = ("dense", "sparse", "deterministic", "absorbing", "unreachable")[k % 5]
    kernel = _kernel(rng, *shape, {"dense": 8, "deterministic": 1}.get(style, 3))
    if style == "absorbing":
        kernel[-1] = np.eye(n_states)[-1]
    if style == "unreachable" and n_states > 1:
        kernel[..., 0] += kernel[..., -1]
        kernel[..., -1] = 0.0
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
        follower_discount=float(rng.choice(DISCOUNTS)),
        leader_discount=float(rng.choice(DISCOUNTS)),
    )  # fmt: skip
    sizes = {"follower_reward": beta, "leader_reward": float(scales[1])}
    return _moved(rng, base, *(TABLES if rng.random() < 0.7 else TABLES[:2]), scales=sizes)


def _masks(rng: np.random.Generator, k: int, max_states: int) -> Instance:
    """Make some actions unavailable; what the tables hold there, a reward of 0, looks good."""
    shape = n_states, n_actions = _size(rng, max_states), 4
    available = rng.random(shape) < 0.6
    available[np.arange(n_states), rng.integers(n_actions, size=n_states)] = True
    available[0, :2] = True, False
    reward = -1.0 - np.abs(rng.normal(size=shape))
    return _moved(rng, _model(rng, shape, available=available, follower_reward=reward))


def _termination(rng: np.random.Generator, k: int, max_states: int) -> Instance:
    """Episodes end, by chance or after a fixed number of steps."""
    if k % 2 and max_states >= 4:
        width = min(3, max_states // 2)
        problem = layered(
            depth=min(4, max_states // width), width=width, branching=2, **_scalars(rng), rng=rng
        )
        return _at(problem, rng)
    shape = _size(rng, max_states), 3
    ends = rng.uniform(0.0, 0.5, size=shape) * (rng.random(shape) < 0.6)
    ends[0, 0] = 0.5
    kernel = _kernel(rng, *shape) * (1.0 - ends)[:, :, None]
    return _moved(rng, _model(rng, shape, transition=kernel, termination=ends))


def _undiscounted(rng: np.random.Generator, k: int, max_states: int) -> Instance:
    """Every state may end the episode, and the leader counts all steps alike."""
    shape = _size(rng, max_states), 3
    ends = rng.uniform(0.05, 0.5, size=shape)
    kernel = _kernel(rng, *shape) * (1.0 - ends)[:, :, None]
    base = _model(rng, shape, transition=kernel, termination=ends, leader_discount=1.0)
    return _moved(rng, base)


def _four_rooms(rng: np.random.Generator, k: int, max_states: int) -> Instance:
    """Pay for cells in the published rooms, if there is room for them, or in a fifth of them."""
    beta = float(rng.choice([0.001, 0.003, 0.005]))
    if max_states >= FOUR_ROOMS_STATES and k % 2 == 0:
        return _at(four_rooms(beta, float(rng.choice([1.0, 3.0, 5.0]))), rng)
    problem = grid_world(
        SMALL_FOUR_ROOMS,
        slip=float(rng.choice([0.0, 0.2, 0.44])),
        follower_discount=float(rng.choice([0.9, 0.99])),
        leader_discount=float(rng.choice([0.9, 0.95, 0.99])),
        temperature=10.0 * beta,
    )
    return _at(problem, rng, spread=0.02)


def _discrete_toy(rng: np.random.Generator, k: int, max_states: int) -> Instance:
    return _at(discrete_toy(float(1 + k % 2)), rng, "leader-policy", spread=1.0)


def _game(rng: np.random.Generator, max_states: int, *, seen: bool) -> MarkovGame:
    per_state = 2 if seen else 1
    return random_game(
        n_states=_size(rng, max_states // per_state),
        branching=2,
        **_scalars(rng),
        follower_observes_leader=seen,
        rng=rng,
    )


def _game_observed(rng: np.random.Generator, k: int, max_states: int) -> Instance:
    return _at(_game(rng, max_states, seen=True), rng, "leader-policy")


def _game_simultaneous(rng: np.random.Generator, k: int, max_states: int) -> Instance:
    return _at(_game(rng, max_states, seen=False), rng, "leader-policy")


#: By name; the draws of one do not depend on what others there are.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        family.name: family
        for family in (
            Family("closed-form", "a formula has the answer: see the docstrings", 3, _closed_form),
            Family("garnet", "random MDPs, everything at once", 2, _garnet),
            Family("one-table", "one table moves alone", 2, _one_table),
            Family("tied", "actions as good as each other, small temperatures", 2, _tied),
            Family("corners", "discounts, temperatures and rewards at their ends", 2, _corners),
            Family("masks", "unavailable actions", 2, _masks),
            Family("termination", "episodes that end", 2, _termination),
            Family("undiscounted", "episodes that end, leader's discount 1", 2, _undiscounted),
            Family("temperature", "the follower's temperature moves", 2, _temperature),
            Family("four-rooms", "the published grid, or a smaller one", 20, _four_rooms),
            Family("discrete-toy", "the published game, observed leader", 6, _discrete_toy),
            Family("game-observed", "the follower sees the leader's action", 4, _game_observed),
            Family("game-simultaneous", "it does not", 2, _game_simultaneous),
        )
    }
)
