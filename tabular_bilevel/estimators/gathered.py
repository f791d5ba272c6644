"""What methods that estimate from gathered experience have in common: each takes these as its own.

Of a method they need its `interaction`, and ``estimate(experience)``, or the `rule` that makes it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arrays import FloatArray, quiet
from tabular_bilevel.estimators.estimate import Estimate
from tabular_bilevel.estimators.given_trajectories import GivenTrajectories
from tabular_bilevel.problem import BilevelProblem
from tabular_bilevel.sampling.experience import NOTHING, Experience, Memory
from tabular_bilevel.sampling.samplers import Sampler


@quiet
def gathered(
    self: Any,
    problem: BilevelProblem,
    theta: npt.ArrayLike,
    *,
    rng: np.random.Generator | int,
    memory: Memory = NOTHING,
) -> Estimate:
    """Gather experience and estimate, as of `Estimator`."""
    experience = self.interaction.gather(problem, theta, rng=rng, memory=memory)
    estimate: Estimate = self.estimate(experience)
    return estimate


@quiet
def by_rule(self: Any, experience: Experience) -> Estimate:
    """Estimate from given experience, as `Interaction.gather` or `limit` makes it."""
    return Estimate.traced(experience, *self.rule(experience).measures(experience))


def rule_of(self: Any, problem: BilevelProblem, theta: npt.ArrayLike) -> tuple[Any, Experience]:
    """Return a method's rule, and what it knows, where they do not depend on the sample."""
    limit = self.interaction.given(problem, theta)
    return self.rule(limit), limit


@quiet
def target_of(self: Any, problem: BilevelProblem, theta: npt.ArrayLike) -> FloatArray:
    """Compute what the estimates' mean comes to with infinite data, as of `Estimator`."""
    gradient: FloatArray = self.estimate(self.interaction.limit(problem, theta)).gradient
    return gradient


def enumerable_of(self: Any, problem: BilevelProblem, theta: npt.ArrayLike) -> GivenTrajectories:
    """Make a method ready to be given trajectories at one theta, in the sampler's place."""
    limit = self.interaction.limit(problem, theta)
    return GivenTrajectories.of(limit, self.interaction.critic, self.estimate)


def sampler_of(self: Any) -> Sampler:
    """Where its data come from."""
    sampler: Sampler = self.interaction.sampler
    return sampler
