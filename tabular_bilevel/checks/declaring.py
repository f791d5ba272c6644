"""What an estimator is known to work with, and what a right one comes to with that."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tabular_bilevel._base.arrays import FloatArray
from tabular_bilevel.estimators.boltzmann_covariance import BoltzmannCovariance
from tabular_bilevel.finite.follower import FollowerSolver
from tabular_bilevel.mistakes.register import RIGHT
from tabular_bilevel.problem import BilevelProblem, modelled
from tabular_bilevel.sampling.critics import Critic, ExactCritic
from tabular_bilevel.sampling.experience import FOLLOWER_VALUE, Experience, Interaction
from tabular_bilevel.sampling.samplers import Episodes, Sampler


@dataclass(frozen=True)
class Declared:
    """What was declared of an estimator, as of `Interaction`; the rest is taken to be right."""

    simulator: BilevelProblem | None = None
    sampler: Sampler | None = None
    follower: FollowerSolver | None = None
    critic: Critic | None = None

    def __bool__(self) -> bool:
        return bool(self._given())

    def __str__(self) -> str:
        return ", ".join(f"{name}={given!r}" for name, given in self._given().items())

    def _given(self) -> dict[str, Any]:
        return {name: given for name, given in vars(self).items() if given is not None}

    def limit(self, problem: BilevelProblem, theta: FloatArray, burn_in: int = 0) -> Experience:
        """Compute what is known with infinite data, after calls of burn-in at the same theta."""
        interaction, memory = self._interaction(), dict[str, FloatArray]()
        if self.follower is not None:
            model = modelled(problem, theta)
            for _ in range(burn_in):
                response = self.follower.solve(model, start=memory.get(FOLLOWER_VALUE))
                memory[FOLLOWER_VALUE] = response.value
        known = interaction.limit(problem, theta, memory=memory)
        count = getattr(self.sampler, "n_trajectories", None)
        return replace(known, seen=replace(known.law, count=count))

    def _interaction(self) -> Interaction:
        return Interaction(**self._given())

    @property
    def learns(self) -> bool:
        """Whether the critic learns, so that finite data leave a bias."""
        return not isinstance(self.critic, ExactCritic | None)

    def method(self, count: int | None) -> BoltzmannCovariance | None:
        """Make a right estimator that works with this, if it is known with how much data.

        Where no sampler was declared, `count` is the number of an estimate's trajectories.
        """
        interaction = self._interaction()
        if self.sampler is None:
            if count is None:
                return None
            interaction = replace(interaction, sampler=Episodes(count))
        return BoltzmannCovariance(interaction)

    @staticmethod
    def target(known: Experience) -> FloatArray:
        """Compute the mean of a right estimator that knows this, shape (d,)."""
        return RIGHT.estimate(known).gradient
