"""Samplers: how much data an estimator gets, and where its trajectories are cut."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tabular_bilevel._base.arguments import as_generator, as_real, positive_integer
from tabular_bilevel._base.arrays import FloatArray
from tabular_bilevel.finite.model import Model
from tabular_bilevel.kinds import by_kind
from tabular_bilevel.lq.follower import closed_loop, solve_follower
from tabular_bilevel.lq.linear import spectral_radius
from tabular_bilevel.lq.model import LinearQuadraticModel
from tabular_bilevel.lq.trajectories import draw as draw_states
from tabular_bilevel.sampling.all_trajectories import AllTrajectories
from tabular_bilevel.sampling.trajectories import Trajectories, as_known_policy, draw, joined

# What a cut trajectory leaves out, relative to the whole; below every sampling error.
NEGLIGIBLE = 1e-8

# Probability with which a trajectory outlives its rows; weights are at most 1, so this bounds what
# is left out.
OUTLIVED = 1e-12


class Sampler(Protocol):
    """Anything that draws trajectories of a model under a policy.

    Examples
    --------
    One that draws twice as many as another:

    >>> import tabular_bilevel as tb
    >>> class Twice:
    ...     def __init__(self, sampler):
    ...         self.sampler = sampler
    ...     def sample(self, model, policy, *, rng):
    ...         count, steps = 2 * self.sampler.n_trajectories, self.horizon(model)
    ...         return tb.sample_trajectories(model, policy, count=count, horizon=steps, rng=rng)
    ...     def horizon(self, model):
    ...         return self.sampler.horizon(model)
    ...     def survival(self, model):
    ...         return 1.0
    >>> method = tb.BoltzmannCovariance(tb.Interaction(Twice(tb.Episodes(10))))
    >>> method(tb.problems.bandit(), [0.0, 0.0], rng=0).n_trajectories
    20
    """

    def sample(self, model: Model, policy: FloatArray, *, rng: np.random.Generator) -> Trajectories:
        """Draw the trajectories.

        Parameters
        ----------
        model : Model
            Where they are made.
        policy : ndarray, shape (S, A)
            Probability of each action.
        rng : numpy.random.Generator
            Source of randomness; it advances.

        Returns
        -------
        Trajectories
            The sample.
        """
        ...

    def horizon(self, model: Model) -> int:
        """Count the steps after which a trajectory is cut.

        Parameters
        ----------
        model : Model
            Where they are made.

        Returns
        -------
        int
            The number of steps.
        """
        ...

    def survival(self, model: Model) -> float:
        """Return the probability with which a step is followed by another.

        Parameters
        ----------
        model : Model
            Where they are made.

        Returns
        -------
        float
            The probability; 1 where nothing is cut by chance.
        """
        ...


@dataclass(frozen=True)
class Episodes:
    """A fixed number of trajectories, all held at once: about 8 bytes a step.

    Attributes
    ----------
    n_trajectories : int
        Each from a fresh start.
    steps : int, optional
        Steps after which a trajectory is cut: not the `horizon` of `hypergradient`, which changes
        the objective, but one that leaves a bias. By default so many that what is left out is below
        a part in 10^8: ln(1e-8) / ln(max discount), 1,833 for a discount of 0.99. At a leader's
        discount of 1 it is the longest episode, and must be given if there is none.

    Raises
    ------
    ValueError
        On construction, if a setting is out of range; the message names it.

    Examples
    --------
    >>> import numpy as np
    >>> import tabular_bilevel as tb
    >>> model = tb.problems.bandit(leader_discount=0.5).model([0.0, 0.0])
    >>> tb.Episodes(10).horizon(model), tb.Episodes(10, steps=3).horizon(model)  # 2^-27 < 1e-8
    (27, 3)
    >>> policy, rng = tb.solve_follower(model).policy, np.random.default_rng(0)
    >>> tb.Episodes(4, steps=3).sample(model, policy, rng=rng).lengths
    array([3, 3, 3, 3])
    """

    n_trajectories: int = 1000
    steps: int | None = None

    def __post_init__(self) -> None:
        positive_integer("n_trajectories", self.n_trajectories)
        if self.steps is not None:
            positive_integer("steps", self.steps)

    def sample(self, model: Model, policy: FloatArray, *, rng: np.random.Generator) -> Trajectories:
        """Draw the trajectories."""
        found: Trajectories = _episodes(
            model, policy, count=self.n_trajectories, steps=self.horizon(model), rng=rng
        )
        return found

    def horizon(self, model: Model) -> int:
        """Count the steps after which a trajectory is cut."""
        return int(_negligible(model)) if self.steps is None else self.steps

    def survival(self, model: Model) -> float:
        """Return 1: nothing is cut by chance."""
        return 1.0


@dataclass(frozen=True)
class StepBudget:
    """A fixed number of steps, in environments that start anew when an episode ends.

    The published protocol. The last trajectory of each environment is cut where its steps run out;
    estimators average over starts, and over trajectories that are complete.

    Attributes
    ----------
    n_steps : int
        Number of steps in all.
    time_limit : int, optional
        Steps after which an episode is given up; by default as in `Episodes`.
    n_envs : int
        Environments that share the steps evenly.

    Raises
    ------
    ValueError
        On construction, if a setting is out of range; the message names it.

    Examples
    --------
    >>> import numpy as np
    >>> import tabular_bilevel as tb
    >>> model = tb.problems.layered(depth=4).model([0.0] * 4)
    >>> policy, rng = tb.solve_follower(model).policy, np.random.default_rng(0)
    >>> sample = tb.StepBudget(10).sample(model, policy, rng=rng)
    >>> sample.lengths, sample.complete  # the last is cut
    (array([4, 4, 2]), 2)
    >>> tb.StepBudget(10, n_envs=2).sample(model, policy, rng=rng).lengths
    array([4, 1, 4, 1])
    """

    n_steps: int
    time_limit: int | None = None
    n_envs: int = 1

    def __post_init__(self) -> None:
        positive_integer("n_steps", self.n_steps)
        if self.time_limit is not None:
            positive_integer("time_limit", self.time_limit)
        positive_integer("n_envs", self.n_envs)
        if self.n_steps % self.n_envs:
            raise ValueError(f"n_steps is {self.n_steps}, not a multiple of n_envs, {self.n_envs}")

    def sample(self, model: Model, policy: FloatArray, *, rng: np.random.Generator) -> Trajectories:
        """Draw the trajectories, one environment's after another's, as of `Sampler`."""
        steps, columns = self.n_steps // self.n_envs, self.horizon(model)
        policy, rng = as_known_policy(model, policy), as_generator(rng)
        return joined(
            [
                draw(model, policy, rows=steps, columns=columns, rng=rng, n_steps=steps)
                for _ in range(self.n_envs)
            ]
        )

    def horizon(self, model: Model) -> int:
        """Count the steps after which an episode is given up."""
        return negligible_horizon(model) if self.time_limit is None else self.time_limit

    def survival(self, model: Model) -> float:
        """Return 1: nothing is cut by chance."""
        return 1.0


@dataclass(frozen=True)
class Survivors:
    """Trajectories that are cut by chance, which leaves no bias (theory.md section 6).

    After each step a trajectory goes on with a probability of at least both discounts, and what
    later steps contribute is divided by the probability of having come there: weights stay at
    most 1. Fewer steps and less memory than `Episodes`, more noise a trajectory.

    Attributes
    ----------
    n_trajectories : int
        Each from a fresh start.
    probability : float, optional
        Probability of going on after a step; the larger discount by default.

    Raises
    ------
    ValueError
        On construction, if a setting is out of range; the message names it.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> problem = tb.problems.bandit(leader_discount=0.5)
    >>> sampler, theta = tb.Survivors(10), [0.0, 0.0]
    >>> sampler.survival(problem.model(theta))
    0.5
    >>> tb.BoltzmannCovariance(tb.Interaction(sampler)).target(problem, theta).round(6)
    array([-0.5,  0.5])
    """

    n_trajectories: int = 1000
    probability: float | None = None

    def __post_init__(self) -> None:
        positive_integer("n_trajectories", self.n_trajectories)
        if self.probability is not None and not 0.0 < as_real("probability", self.probability) < 1:
            raise ValueError(f"probability is {self.probability}, not in (0, 1)")

    def sample(self, model: Model, policy: FloatArray, *, rng: np.random.Generator) -> Trajectories:
        """Draw the trajectories."""
        return drawn(
            model,
            policy,
            rows=self.n_trajectories,
            columns=self.horizon(model),
            rng=rng,
            survival=self.survival(model),
        )

    def horizon(self, model: Model) -> int:
        """Count the steps that no trajectory outlives."""
        return max(1, math.ceil(math.log(OUTLIVED) / math.log(self.survival(model))))

    def survival(self, model: Model) -> float:
        """Return the probability with which a step is followed by another.

        Raises
        ------
        ValueError
            If weights would grow without bound: the leader's discount is 1, or `probability` is
            below a discount.
        """
        largest = max(model.follower_discount, model.leader_discount)
        if largest == 1.0:
            raise ValueError(
                "leader_discount is 1: trajectories that are cut by chance would have weights that "
                "grow without bound; take Episodes"
            )
        if self.probability is None:
            return largest if largest > 0.0 else 0.5
        if self.probability < largest:
            raise ValueError(
                f"probability is {self.probability}, below the discount {largest}: weights would "
                "grow without bound"
            )
        return self.probability


def drawn(
    model: Model, policy: FloatArray, *, rng: np.random.Generator, **how: Any
) -> Trajectories:
    """Draw as `draw` does, after a look at what was given."""
    return draw(model, as_known_policy(model, policy), rng=as_generator(rng), **how)


def negligible_horizon(model: Model) -> int:
    """Count the steps after which both discounted sums lack less than a part in 10^8."""
    discount = max(model.follower_discount, model.leader_discount)
    if discount == 1.0:
        return _longest_episode(model)
    return _steps(discount)


def _of_closed_loop(model: LinearQuadraticModel) -> int:
    """Count likewise, where squares of the state grow or fall, too; a leader's horizon is kept."""
    closed = closed_loop(model, solve_follower(model).gain)
    growth = max(1.0, spectral_radius(closed) ** 2)
    follower, leader = model.follower_discount * growth, model.leader_discount * growth
    steps = model.leader_horizon
    if steps is None:
        return _steps(max(follower, leader))
    return steps + _steps(follower)


def _steps(discount: float) -> int:
    if discount >= 1.0:
        raise ValueError("the state grows faster than the discount falls: give the sampler steps")
    return 1 if discount == 0.0 else max(1, math.ceil(math.log(NEGLIGIBLE) / math.log(discount)))


def _longest_episode(model: Model) -> int:
    """Count the steps after which every episode has ended, whatever the follower does."""
    anything = model.available / model.available.sum(axis=1, keepdims=True)
    try:
        return max(1, AllTrajectories(model, anything).longest)
    except ValueError as error:
        raise ValueError(
            "leader_discount is 1 and play may return to a state, so that episodes have no largest "
            "length: give the sampler a number of steps"
        ) from error


_negligible = by_kind(negligible_horizon, _of_closed_loop)
_episodes = by_kind(
    lambda model, policy, *, count, steps, rng: drawn(
        model, policy, rows=count, columns=steps, rng=rng
    ),
    draw_states,
)
