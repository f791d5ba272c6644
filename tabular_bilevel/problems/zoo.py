"""A zoo of instances: problems, each with a parameter to look at, ordinary ones and hard ones.

Named instances are always the same; families are drawn from, at a size. The suite that estimators
are checked on, test vectors, fuzzers and tests all take theirs from here, and yours can:

>>> import tabular_bilevel as tb
>>> from tabular_bilevel.problems import zoo
>>> ties = zoo.named("ties")
>>> tb.check_gradient(ties.problem, ties.theta).passed
True
>>> for family in ("tied", "masks", "game-observed"):
...     instance = zoo.draw(family, rng=1, max_states=6)
...     assert tb.check_gradient(instance.problem, instance.theta).passed
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tabular_bilevel._base.arguments import as_generator, positive_integer
from tabular_bilevel._base.arrays import read_only
from tabular_bilevel.finite.model import Model
from tabular_bilevel.problem import ForwardProblem
from tabular_bilevel.problems.closed_form import bandit, two_state
from tabular_bilevel.problems.contexts import Contexts
from tabular_bilevel.problems.discrete_toy import discrete_toy
from tabular_bilevel.problems.families import (
    FAMILIES,
    MILD,
    Family,
    Instance,
    Made,
    dense,
    ending,
    extreme_logits,
    mask,
    mild,
    moved,
    some_ends,
    with_theta,
)
from tabular_bilevel.problems.features import FeatureProblem
from tabular_bilevel.problems.four_rooms import four_rooms
from tabular_bilevel.problems.grid_world import grid_world
from tabular_bilevel.problems.random_families import garnet, layered, layered_game, random_game
from tabular_bilevel.problems.reparametrised import Budget, Reparametrised

__all__ = ["FAMILIES", "NAMES", "ORDINARY", "Family", "Instance", "budgeted", "draw", "named"]


def named(name: str) -> Instance:
    """Make the instance of this name, which is always the same.

    Parameters
    ----------
    name : str
        One of `NAMES`.

    Returns
    -------
    Instance
        The problem and its parameter.

    Raises
    ------
    ValueError
        If no instance has this name.

    Examples
    --------
    >>> from tabular_bilevel.problems.zoo import named
    >>> named("game").problem.follower_observes_leader
    True
    """
    if name not in _NAMED:
        raise ValueError(f"no instance is called {name!r}; there are {', '.join(NAMES)}")
    seed, make = _NAMED[name]
    problem, theta = make(np.random.default_rng(seed))
    return Instance(name, problem, read_only(np.array(theta, dtype=np.float64)))


def draw(
    family: str, rng: np.random.Generator | int, *, number: int = 0, max_states: int = 8
) -> Instance:
    """Draw an instance of a family.

    Parameters
    ----------
    family : str
        A name in `FAMILIES`.
    rng : numpy.random.Generator or int
        Source of randomness, or a seed.
    number : int
        Which of them it is: some families have kinds, which take turns.
    max_states : int
        Of its model, at most.

    Returns
    -------
    Instance
        The problem and its parameter.

    Raises
    ------
    ValueError
        If no family has this name, or none of its instances is so small.

    Examples
    --------
    >>> from tabular_bilevel.problems.zoo import draw
    >>> draw("garnet", 5, number=2, max_states=30).theta.shape
    (3,)
    """
    if family not in FAMILIES:
        raise ValueError(f"no family is called {family!r}; there are {', '.join(FAMILIES)}")
    most, least = positive_integer("max_states", max_states), FAMILIES[family].smallest
    if most < least:
        raise ValueError(f"max_states is {most}, and {family} needs {least}")
    return FAMILIES[family].draw(as_generator(rng), number, most)


def budgeted(instance: Instance, rng: np.random.Generator | int) -> Instance:
    """Let an instance's parameters be the shares of a budget, with logits hundreds apart.

    Parameters
    ----------
    instance : Instance
        Whose parameters.
    rng : numpy.random.Generator or int
        Source of randomness, or a seed.

    Returns
    -------
    Instance
        With a parameter more.

    Raises
    ------
    ValueError
        If `rng` is neither a generator nor a seed.

    Examples
    --------
    >>> from tabular_bilevel.problems.zoo import budgeted, named
    >>> budgeted(named("two-state"), 0).theta.shape
    (3,)
    """
    generator, size = as_generator(rng), instance.theta.size + 1
    sign, exponent = generator.choice([1.0, -1.0]), generator.choice([-310, -100, -3, 0, 3])
    problem = Reparametrised(instance.problem, Budget(float(sign) * 10.0 ** float(exponent), size))
    return Instance(instance.name, problem, extreme_logits(generator, size))


def _small_garnet(rng: np.random.Generator, **settings: Any) -> Made:
    usual = {"n_states": 5, "n_actions": 3, "n_parameters": 3, **MILD}
    return with_theta(garnet(**{**usual, **settings}, rng=rng), rng)


def _small_game(rng: np.random.Generator, *, seen: bool) -> Made:
    scalars: Mapping[str, Any] = {**MILD, "temperature": 0.3}
    game = random_game(n_states=3, n_actions=2, **scalars, follower_observes_leader=seen, rng=rng)
    return with_theta(game, rng)


def _unreachable(rng: np.random.Generator) -> Made:
    kernel = rng.dirichlet(np.ones(4), size=(5, 3))
    kernel = np.concatenate([kernel, np.zeros((5, 3, 1))], axis=2)  # nothing leads to state 4
    initial = np.append(rng.dirichlet(np.ones(4)), 0.0)
    return moved(rng, mild(rng, transition=kernel, initial=initial))


def _forbidden(rng: np.random.Generator) -> Made:
    reward = rng.normal(size=(5, 3))
    reward[[0, 2, 2, 4], [1, 0, 2, 2]] = -np.inf
    return moved(rng, mild(rng, follower_reward=reward))


def _forbidden_and_ending(rng: np.random.Generator) -> Made:
    reward = rng.normal(size=(5, 3))
    reward[1, 2] = reward[3, 0] = -np.inf
    ends = rng.uniform(0.0, 0.3, size=(5, 3)) * (rng.random((5, 3)) < 0.5)
    base = Model.from_tables(
        **ending(dense(rng, 5, 3), ends),
        follower_reward=reward,
        leader_reward=rng.normal(size=(5, 3)),
        initial=rng.dirichlet(np.ones(5)),
        **MILD,
    )
    return moved(rng, base)


def _masked_layers(rng: np.random.Generator) -> Made:
    """Layers of states that lack actions, and of pairs that may end the episode early."""
    base = layered(n_actions=3, **MILD, rng=rng).base
    shape = base.n_states, base.n_actions
    available = mask(rng, shape, 0.7)
    available[-1] = True  # where an index of -1 leads
    early = np.where(base.termination > 0.0, 0.0, some_ends(rng, shape))
    tables = ending(base.transition.toarray().reshape(*shape, -1), early)
    tables["termination"] += base.termination
    return moved(rng, base.replace(available=available, **tables))


def _ties(rng: np.random.Generator) -> Made:
    # all actions alike, so that each is as good as the others at theta = 0
    kernel = np.repeat(rng.dirichlet(np.ones(5), size=(5, 1)), 3, axis=1)
    reward = np.repeat(rng.normal(size=(5, 1)), 3, axis=1)
    base = mild(rng, transition=kernel, follower_reward=reward, temperature=0.1)
    problem, _ = moved(rng, base, "follower_reward", "leader_reward")
    return problem, np.zeros(3)


def _deterministic(rng: np.random.Generator) -> Made:
    kernel = np.zeros((5, 3, 5))
    following = rng.integers(5, size=(5, 3))
    np.put_along_axis(kernel, following[:, :, None], 1.0, axis=2)
    kernel[:, 0] = np.eye(5)[[1, 2, 3, 4, 0]]  # all states can be reached
    return moved(rng, mild(rng, transition=kernel), "follower_reward", "leader_reward")


def _corridor(rng: np.random.Generator) -> Made:
    """Walk on or turn back for twenty cells; what waits at the end decides at the start."""
    length = 20
    kernel = np.zeros((length, 2, length))
    for cell in range(length):
        kernel[cell, 0, max(cell - 1, 0)] = kernel[cell, 1, min(cell + 1, length - 1)] = 1.0
    follower, leader, ends = np.zeros((3, length, 2))
    ends[-1, 1] = leader[-1, 1] = 1.0
    ends[0, 0], leader[0, 0] = 1.0, -1.0
    base = Model.from_tables(
        **ending(kernel, ends), follower_reward=follower, leader_reward=leader,
        initial=np.eye(length)[length // 2], follower_discount=0.99, leader_discount=0.97,
        temperature=1.0,
    )  # fmt: skip
    pay = np.zeros((length * 2, 2))
    pay[1, 0] = pay[-1, 1] = 1.0  # for turning at the one end, for leaving at the other
    return FeatureProblem(base, follower_reward=pay, leader_reward=-pay), np.array([0.1, 0.2])


def _slippery(rng: np.random.Generator) -> Made:
    problem = grid_world(
        "type octile\nheight 3\nwidth 3\nmap\n...\n...\n...\n",
        follower_discount=0.9,
        leader_discount=0.8,
        temperature=0.3,
        slip=0.4,
    )
    return with_theta(problem, rng)


def _two_followers(rng: np.random.Generator) -> Made:
    """Let two followers, unlike in all tables and in size, share theta."""
    shapes = (5, 3), (4, 2)
    problems = [moved(rng, mild(rng, shape))[0] for shape in shapes]
    return with_theta(Contexts(problems, weights=[0.7, 0.3]), rng)


def _thousand(rng: np.random.Generator) -> Made:
    scalars: Mapping[str, Any] = {**MILD, "temperature": 5.0}
    return with_theta(garnet(n_parameters=1000, **scalars, rng=rng), rng, spread=0.01)


# Seed and maker. With these seeds both parts of the gradient matter, if both are there.
_NAMED: Mapping[str, tuple[int, Callable[[np.random.Generator], tuple[ForwardProblem, Any]]]] = {
    "plain": (17, _small_garnet),
    "small temperature": (13, lambda rng: _small_garnet(rng, temperature=0.05)),
    "discount near 1": (
        40,
        lambda rng: _small_garnet(rng, follower_discount=0.96, leader_discount=0.98),
    ),
    "unequal discounts": (
        42,
        lambda rng: _small_garnet(rng, follower_discount=0.3, leader_discount=0.9),
    ),
    "unreachable state": (34, _unreachable),
    "forbidden action": (35, _forbidden),
    "forbidden and ending": (7, _forbidden_and_ending),
    "masked layers": (11, _masked_layers),
    "kernel parameters only": (25, lambda rng: moved(rng, mild(rng), "transition")),
    "initial distribution only": (57, lambda rng: moved(rng, mild(rng), "initial")),
    "through the policy only": (59, lambda rng: moved(rng, mild(rng), "follower_reward")),
    "ties": (34, _ties),
    "deterministic kernel": (30, _deterministic),
    "long horizon": (0, _corridor),
    "episodic": (
        0,
        lambda rng: moved(
            rng, mild(rng, **ending(ends=some_ends(rng, (5, 3)), kernel=dense(rng, 5, 3)))
        ),
    ),
    "layered": (4, lambda rng: with_theta(layered(rng=rng), rng)),
    "one-state bandit": (
        59,
        lambda rng: with_theta(
            bandit(leader_reward=[0.0, 1.0, 0.3], temperature=0.5, leader_discount=0.5), rng
        ),
    ),
    "two-state": (0, lambda rng: (two_state(), [0.1, 0.2])),
    "one parameter": (2, lambda rng: _small_garnet(rng, n_parameters=1)),
    "a thousand parameters": (2, _thousand),
    "slippery grid": (10, _slippery),
    "game": (93, lambda rng: _small_game(rng, seen=True)),
    "game, leader unseen": (59, lambda rng: _small_game(rng, seen=False)),
    "layered game": (0, lambda rng: with_theta(layered_game(depth=3, rng=rng), rng)),
    "dense garnet": (0, lambda rng: with_theta(garnet(n_states=6, branching=6, rng=rng), rng)),
    "four rooms": (0, lambda rng: (four_rooms(), np.zeros(105))),
    # f(0|A) = 0.95: every part of the gradient matters there
    "discrete toy": (0, lambda rng: (discrete_toy(), [0.0, 0.0, 3.0, 0.0, 0.0, 0.0])),
    "two followers": (5, _two_followers),
    "random MDP": (2026, lambda rng: (garnet(rng=1), 0.1 * rng.normal(size=6))),
    "random game": (2026, lambda rng: (random_game(rng=1), 0.1 * rng.normal(size=18)[6:])),
}

#: Of the named instances.
NAMES = tuple(_NAMED)

#: Names of one of each class of problem, of the size that is usual for it.
ORDINARY = (
    "one-state bandit", "two-state", "random MDP", "dense garnet", "layered", "layered game",
    "random game", "game, leader unseen", "two followers", "discrete toy", "four rooms",
)  # fmt: skip
