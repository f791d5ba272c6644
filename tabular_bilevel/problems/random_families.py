"""Random problems: Garnet and layered MDPs whose every table depends on theta, and games."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.sparse as sp

from tabular_bilevel._base.arguments import as_generator, positive_integer
from tabular_bilevel._base.arrays import FloatArray, IntArray
from tabular_bilevel.finite.model import Model
from tabular_bilevel.problems.features import FeatureProblem
from tabular_bilevel.problems.markov_game import MarkovGame


def garnet(
    *,
    n_states: int = 20,
    n_actions: int = 4,
    branching: int | None = None,
    n_parameters: int = 6,
    follower_discount: float = 0.9,
    leader_discount: float = 0.95,
    temperature: float = 0.1,
    rng: np.random.Generator | int = 0,
) -> FeatureProblem:
    """Build a random MDP with a few random successors a state and action.

    Rewards, kernel and initial distribution all depend on theta, by random features. Source of the
    family: Bhatnagar et al., "Natural actor-critic algorithms", Automatica 45 (2009).

    Parameters
    ----------
    n_states, n_actions : int
        Sizes.
    branching : int, optional
        Successors a state and action; 3, or as many as there are states.
    n_parameters : int
        Length of theta.
    follower_discount, leader_discount : float
        In [0, 1).
    temperature : float
        Temperature of the follower; positive.
    rng : numpy.random.Generator or int
        Source of randomness, or a seed.

    Returns
    -------
    FeatureProblem
        With `n_parameters` parameters.

    Raises
    ------
    ValueError
        If a size is not positive, a discount, the temperature or `rng` is out of range, or
        `branching` is larger than the number of states to choose from.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> str(tb.problems.garnet(rng=1).model([0.0] * 6)).split(", follower")[0]
    'Model: 20 states, 4 actions, 240 transitions'
    """
    generator = as_generator(rng)
    n_rows = positive_integer("n_states", n_states) * positive_integer("n_actions", n_actions)
    base = Model.from_tables(
        transition=_random_kernel(generator, n_rows, n_states, _branching(branching, 3, n_states)),
        follower_reward=generator.normal(size=(n_states, n_actions)),
        leader_reward=generator.normal(size=(n_states, n_actions)),
        initial=generator.dirichlet(np.ones(n_states)),
        follower_discount=follower_discount,
        leader_discount=leader_discount,
        temperature=temperature,
    )
    return _random_features(generator, base, n_parameters)


def layered(
    *,
    depth: int = 4,
    width: int = 3,
    n_actions: int = 2,
    branching: int | None = None,
    n_parameters: int = 4,
    follower_discount: float = 0.9,
    leader_discount: float = 0.95,
    temperature: float = 0.1,
    rng: np.random.Generator | int = 0,
) -> FeatureProblem:
    """Build a random MDP in which every trajectory ends after exactly `depth` steps.

    A state of a layer leads to the next layer only, and the last layer ends the episode. Its
    trajectories can be enumerated.

    Parameters
    ----------
    depth, width, n_actions : int
        Layers, states a layer, actions.
    branching : int, optional
        Successors a state and action; 2, or as many as a layer has states.
    n_parameters, follower_discount, leader_discount, temperature, rng
        As for `garnet`.

    Returns
    -------
    FeatureProblem
        With `n_parameters` parameters; rewards, kernel and initial distribution depend on them.

    Raises
    ------
    ValueError
        As `garnet`.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> problem = tb.problems.layered(depth=3, width=2)
    >>> problem.model([0.0] * 4).n_states
    6
    """
    generator = as_generator(rng)
    n_layers, size = positive_integer("depth", depth), positive_integer("width", width)
    shape = (n_layers * size, positive_integer("n_actions", n_actions))
    base = Model.from_tables(
        **_layered_kernel(generator, shape, size, branching),
        follower_reward=generator.normal(size=shape),
        leader_reward=generator.normal(size=shape),
        follower_discount=follower_discount,
        leader_discount=leader_discount,
        temperature=temperature,
    )
    return _random_features(generator, base, n_parameters)


def layered_game(
    *,
    depth: int = 5,
    width: int = 3,
    n_leader_actions: int = 2,
    n_actions: int = 2,
    branching: int | None = None,
    follower_discount: float = 0.9,
    leader_discount: float = 0.95,
    temperature: float = 0.2,
    follower_observes_leader: bool = True,
    rng: np.random.Generator | int = 0,
) -> MarkovGame:
    """Build a random two-player game in which every trajectory ends after exactly `depth` steps.

    As `layered`, its trajectories can be enumerated.

    Parameters
    ----------
    depth, width, n_leader_actions, n_actions : int
        Layers, states a layer, actions of the leader and of the follower.
    branching : int, optional
        Successors a state and pair of actions; 2, or as many as a layer has states.
    follower_discount, leader_discount, temperature
        As for `garnet`.
    follower_observes_leader : bool
        Whether the follower sees the leader's action before its own.
    rng : numpy.random.Generator or int
        Source of randomness, or a seed.

    Returns
    -------
    MarkovGame
        With ``depth * width * n_leader_actions`` parameters.

    Raises
    ------
    ValueError
        As `garnet`.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> print(tb.problems.layered_game(depth=3))
    MarkovGame: 9 states, 2 leader actions, 2 follower actions; the follower observes the leader
    """
    generator = as_generator(rng)
    n_layers, size = positive_integer("depth", depth), positive_integer("width", width)
    shape = (
        n_layers * size,
        positive_integer("n_leader_actions", n_leader_actions),
        positive_integer("n_actions", n_actions),
    )
    return MarkovGame(
        **_layered_kernel(generator, shape, size, branching),
        follower_reward=generator.normal(size=shape),
        leader_reward=generator.normal(size=shape),
        follower_discount=follower_discount,
        leader_discount=leader_discount,
        temperature=temperature,
        follower_observes_leader=follower_observes_leader,
    )


def random_game(
    *,
    n_states: int = 6,
    n_leader_actions: int = 2,
    n_actions: int = 3,
    branching: int | None = None,
    follower_discount: float = 0.9,
    leader_discount: float = 0.95,
    temperature: float = 0.2,
    follower_observes_leader: bool = True,
    rng: np.random.Generator | int = 0,
) -> MarkovGame:
    """Build a random two-player game.

    Parameters
    ----------
    n_states, n_leader_actions, n_actions : int
        Sizes.
    branching : int, optional
        Successors a state and pair of actions; 3, or as many as there are states.
    follower_discount, leader_discount, temperature, follower_observes_leader, rng
        As for `layered_game`.

    Returns
    -------
    MarkovGame
        With ``n_states * n_leader_actions`` parameters.

    Raises
    ------
    ValueError
        As `garnet`.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> print(tb.problems.random_game(rng=3))
    MarkovGame: 6 states, 2 leader actions, 3 follower actions; the follower observes the leader
    """
    generator = as_generator(rng)
    shape = (
        positive_integer("n_states", n_states),
        positive_integer("n_leader_actions", n_leader_actions),
        positive_integer("n_actions", n_actions),
    )
    return MarkovGame(
        transition=_random_kernel(
            generator, int(np.prod(shape)), n_states, _branching(branching, 3, n_states)
        ),
        follower_reward=generator.normal(size=shape),
        leader_reward=generator.normal(size=shape),
        initial=generator.dirichlet(np.ones(n_states)),
        follower_discount=follower_discount,
        leader_discount=leader_discount,
        temperature=temperature,
        follower_observes_leader=follower_observes_leader,
    )


def _branching(branching: int | None, usual: int, n_states: int) -> int:
    if branching is None:
        return min(usual, n_states)
    if positive_integer("branching", branching) > n_states:
        raise ValueError(f"branching is {branching}, more than the {n_states} states there are")
    return branching


def _random_kernel(
    rng: np.random.Generator, n_rows: int, n_states: int, branching: int
) -> sp.csr_array:
    columns: IntArray = np.concatenate(
        [rng.choice(n_states, size=branching, replace=False) for _ in range(n_rows)]
    )
    data: FloatArray = rng.dirichlet(np.ones(branching), size=n_rows).ravel()
    rows = np.repeat(np.arange(n_rows), branching)
    return sp.csr_array((data, (rows, columns)), shape=(n_rows, n_states))


def _layered_kernel(
    rng: np.random.Generator, shape: tuple[int, ...], width: int, branching: int | None
) -> dict[str, Any]:
    """Make transition, initial and termination of layers; `shape` is that of a reward table."""
    n_states, per_layer = shape[0], width * math.prod(shape[1:])
    successors = _branching(branching, 2, width)
    blocks = [
        _random_kernel(rng, per_layer, width, successors) for _ in range(n_states // width - 1)
    ]
    moves = sp.csr_array((math.prod(shape), n_states))
    if blocks:
        block = sp.coo_array(sp.block_diag(blocks))
        row, column = block.coords
        moves = sp.csr_array((block.data, (row, column + width)), shape=moves.shape)
    initial, termination = np.zeros(n_states), np.zeros(shape)
    initial[:width] = rng.dirichlet(np.ones(width))
    termination[-width:] = 1.0
    return {"transition": moves, "initial": initial, "termination": termination}


def _random_features(rng: np.random.Generator, base: Model, n_parameters: int) -> FeatureProblem:
    width = positive_integer("n_parameters", n_parameters)
    return FeatureProblem(
        base,
        follower_reward=rng.normal(size=(base.follower_reward.size, width)),
        leader_reward=rng.normal(size=(base.leader_reward.size, width)),
        transition=rng.normal(size=(base.transition.nnz, width)),
        initial=rng.normal(size=(base.n_states, width)),
    )
