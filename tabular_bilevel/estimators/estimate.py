"""What every estimator is, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tabular_bilevel._arrays import FloatArray, read_only
from tabular_bilevel.problem import BilevelProblem

__all__ = ["Estimate", "Estimator"]


@dataclass(frozen=True, eq=False)
class Estimate:
    """A sampled hypergradient.

    Attributes
    ----------
    direct : ndarray, shape (d,)
        Estimate of the part with the follower's policy held fixed.
    indirect : ndarray, shape (d,)
        Estimate of the part through the follower's policy.
    n_trajectories, n_steps : int
        The sample behind it.
    """

    direct: FloatArray
    indirect: FloatArray
    n_trajectories: int
    n_steps: int

    @property
    def gradient(self) -> FloatArray:
        """The estimate, shape (d,)."""
        return np.asarray(read_only(self.direct + self.indirect))

    def __str__(self) -> str:
        return (
            f"Estimate: {self.direct.size} parameters, norm {np.linalg.norm(self.gradient):.6g}, "
            f"from {self.n_trajectories} trajectories of {self.n_steps} steps in all"
        )


class Estimator(Protocol):
    """A sampled gradient: called with a problem, theta and randomness; settings are its fields."""

    def __call__(
        self, problem: BilevelProblem, theta: FloatArray, *, rng: np.random.Generator
    ) -> Estimate:
        """Sample and estimate."""
        ...
