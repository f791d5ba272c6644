"""Trajectories under a Gaussian policy, and the law that they are drawn from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from tabular_bilevel._base.arguments import finite_array
from tabular_bilevel._base.arrays import FloatArray, quiet, read_only, restore_read_only
from tabular_bilevel._base.display import displayed
from tabular_bilevel.lq.arguments import as_not_negative
from tabular_bilevel.lq.follower import GaussianPolicy
from tabular_bilevel.lq.leader import MOST_NUMBERS
from tabular_bilevel.lq.model import LinearQuadraticModel


@displayed
@dataclass(frozen=True, eq=False)
class Trajectories:
    """Trajectories of one length, all from fresh starts.

    Attributes
    ----------
    model : LinearQuadraticModel
        Where they were made.
    states : ndarray, shape (count, T + 1, n)
        The last one is where the last step led.
    controls : ndarray, shape (count, T, m)
        The follower's inputs.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> model = tb.problems.building_thermal_control().model([0.0] * 8)
    >>> policy = tb.solve_follower(model).policy
    >>> sample = tb.sample_trajectories(model, policy, count=5, horizon=30, rng=0)
    >>> sample.states.shape, sample.controls.shape, sample.n_steps
    ((5, 31, 4), (5, 30, 2), 150)
    >>> sample.counted_steps, sample.cut(20).n_steps, sample.mean_return() < 0.0
    (30, 100, True)
    >>> sample.complete, sample.visits(0.5)[1][:3]
    (5, array([5.  , 2.5 , 1.25]))
    >>> sample.replace(model=model.replace(leader_horizon=10)).counted_steps
    10
    """

    model: LinearQuadraticModel = field(repr=False)
    states: FloatArray
    controls: FloatArray

    __setstate__ = restore_read_only

    @property
    def count(self) -> int:
        """Number of trajectories."""
        return len(self.controls)

    @property
    def n_steps(self) -> int:
        """Number of steps of all of them."""
        return int(self.controls.shape[0] * self.controls.shape[1])

    @property
    def counted_steps(self) -> int:
        """Steps of each in which the leader earns."""
        horizon, steps = self.model.leader_horizon, int(self.controls.shape[1])
        return steps if horizon is None else min(horizon, steps)

    @property
    def complete(self) -> int:
        """Number of trajectories that count as whole: all."""
        return self.count

    def visits(self, discount: float) -> tuple[None, FloatArray]:
        """Weigh the steps of all trajectories together, shape (T,), as of `Trajectories` of tables.

        There are no counts: nothing is visited twice.
        """
        return None, np.asarray(self.count * discount ** np.arange(self.controls.shape[1]))

    def cut(self, horizon: int) -> Trajectories:
        """Keep the first `horizon` steps of each, as of `Trajectories` of tables."""
        return self.replace(
            states=self.states[:, : horizon + 1], controls=self.controls[:, :horizon]
        )

    def replace(self, **changes: Any) -> Trajectories:
        """Copy with some attributes changed, as of `Trajectories` of tables."""
        return replace(self, **changes)

    def mean_return(self) -> float:
        """Average what the leader earned, discounted."""
        steps = self.counted_steps
        earned = self.model.leader_reward.at(self.states[:, :steps], self.controls[:, :steps])
        weights = self.model.leader_discount ** np.arange(steps)
        return float((earned @ weights).mean())


@displayed
@dataclass(frozen=True, eq=False)
class Law:
    """The law of trajectories; named as that of tables, so that mistakes can change either.

    They are cut at the horizon; an estimate has `count` of them, where that is known.
    """

    model: LinearQuadraticModel = field(repr=False)
    policy: GaussianPolicy
    horizon: int
    count: int | None = None
    complete: ClassVar[int] = 1
    restarts: ClassVar[bool] = False

    def sample(self, count: int, *, rng: np.random.Generator) -> Trajectories:
        """Draw trajectories."""
        return draw(self.model, self.policy, count=count, steps=self.horizon, rng=rng)

    @property
    def made_in(self) -> LinearQuadraticModel:
        """The model; mistakes of tables tell what is made elsewhere from it."""
        return self.model

    @property
    def n_steps(self) -> float:
        """Number of steps of one."""
        return float(self.horizon)

    def steps(self) -> Iterator[int]:
        """Go along the steps."""
        return iter(range(self.horizon))

    def visits(self, discount: float) -> tuple[None, FloatArray]:
        """Weigh the steps of a trajectory; nothing is visited twice."""
        return None, np.asarray(discount ** np.arange(self.horizon))


def as_policy(model: LinearQuadraticModel, policy: object) -> GaussianPolicy:
    """Check a gain and a covariance."""
    if not (isinstance(policy, tuple) and len(policy) == 2):
        raise ValueError("policy is not a pair: the gain and the covariance of the input")
    gain = finite_array("policy.gain", policy[0], (model.n_controls, model.n_states))
    covariance = as_not_negative("policy.covariance", policy[1], model.n_controls)
    return GaussianPolicy(read_only(gain), covariance)


@quiet
def draw(
    model: LinearQuadraticModel,
    policy: GaussianPolicy,
    *,
    count: int,
    steps: int,
    rng: np.random.Generator,
) -> Trajectories:
    """Simulate, all trajectories together, step by step."""
    n, m = model.n_states, model.n_controls
    if count * (steps + 1) * (n + m) > MOST_NUMBERS:
        raise ValueError(
            f"{count:,} trajectories of {steps:,} steps are more than {MOST_NUMBERS:,} numbers"
        )
    states, controls = np.empty((steps + 1, count, n)), rng.standard_normal((steps, count, m))
    controls @= root(policy.covariance).T
    states[0] = rng.standard_normal((count, n)) @ root(model.initial_covariance).T
    states[0] += model.initial_mean
    states[1:] = rng.standard_normal((steps, count, n)) @ root(model.noise).T
    for t in range(steps):
        controls[t] -= states[t] @ policy.gain.T
        states[t + 1] += states[t] @ model.dynamics.T + controls[t] @ model.control.T
    if not np.isfinite(states[-1]).all():
        raise ValueError(f"the state overflows float64 within {steps:,} steps")
    return Trajectories(
        model,
        read_only(np.ascontiguousarray(states.swapaxes(0, 1))),
        read_only(np.ascontiguousarray(controls.swapaxes(0, 1))),
    )


def root(covariance: FloatArray) -> FloatArray:
    """Take a root F of a covariance, F F' = covariance; it may be singular."""
    sizes, axes = np.linalg.eigh(covariance)
    return np.asarray(axes * np.sqrt(np.maximum(sizes, 0.0)))
