"""Methods that are given trajectories, instead of drawing them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tabular_bilevel._base.arrays import FloatArray
from tabular_bilevel._base.display import displayed
from tabular_bilevel.estimators.estimate import Estimate
from tabular_bilevel.finite.model import Model
from tabular_bilevel.sampling.critics import Critic
from tabular_bilevel.sampling.experience import Experience
from tabular_bilevel.sampling.trajectories import Trajectories


@displayed
@dataclass(frozen=True, eq=False)
class GivenTrajectories:
    """A method at one theta, and the limit of experience whose law trajectories obey."""

    limit: Experience
    method: Callable[[Trajectories], Estimate] = field(repr=False)

    #: What it asked of a view: it has none.
    asked = None

    @classmethod
    def of(
        cls, limit: Experience, critic: Critic, method: Callable[[Experience], Estimate]
    ) -> GivenTrajectories:
        """Make a method ready whose critic sees the trajectories that are given, and no more."""

        def estimate(sample: Trajectories) -> Estimate:
            values = limit.values  # given ones do not depend on the sample
            if not getattr(critic, "given", False):
                values = critic.values(limit.response, sample, rng=NoRandomness())
            return method(replace(limit, seen=sample, values=values))

        return cls(limit, estimate)

    @property
    def model(self) -> Model:
        """The model that the trajectories are to come from."""
        return self.limit.law.made_in

    @property
    def policy(self) -> FloatArray:
        """What the follower does in it, shape (S, A)."""
        return self.limit.law.policy

    def estimate(self, sample: Trajectories) -> FloatArray:
        """Estimate from them, shape (d,)."""
        return self.method(sample).gradient


class NoRandomness(np.random.Generator):
    """Stands where a generator would: an expectation over what it draws is not enumerated."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_"):
            return super().__getattribute__(name)
        raise ValueError(
            f"the critic draws random numbers (rng.{name}), which enumeration does not go through"
        )
