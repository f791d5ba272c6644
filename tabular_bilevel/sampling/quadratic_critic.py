"""A critic of linear-quadratic models that learns quadratics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tabular_bilevel._base.arguments import as_generator
from tabular_bilevel._base.arrays import FloatArray
from tabular_bilevel.lq.differences import learned_values
from tabular_bilevel.lq.model import LinearQuadraticModel
from tabular_bilevel.lq.rewards import QuadraticReward
from tabular_bilevel.lq.trajectories import Trajectories
from tabular_bilevel.lq.values import QuadraticValues
from tabular_bilevel.sampling.critics import exact_values


@dataclass(frozen=True)
class QuadraticCritic:
    """The leader's value of a vector of a state, learned in squares and products of its entries.

    Least squares of temporal differences (Bradtke and Barto, Machine Learning 22, 1996), all steps
    alike, without the leader's horizon. What a step leads to is taken from the model, as for the
    exact critic. Bias: of order 1 / steps; under a bump, what no quadratic can be.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> building = tb.problems.building_thermal_control()
    >>> learned = tb.Interaction(tb.Episodes(100, 100), tb.QuadraticCritic())
    >>> tb.NaivePolicyGradient(learned)(building, [0.0] * 8, rng=0).gradient.shape
    (8,)
    """

    def values(
        self,
        response: Any,
        trajectories: Any,
        *,
        rng: np.random.Generator,
        previous: FloatArray | None = None,
    ) -> Any:
        """Learn from trajectories of a linear-quadratic model, as of `Critic`."""
        as_generator(rng)  # what is none is refused all the same
        if not isinstance(trajectories, Trajectories):
            raise ValueError("QuadraticCritic is for linear-quadratic models, not for tables")
        model = trajectories.model
        earned = model.leader_reward.at(trajectories.states[:, :-1], trajectories.controls)
        return learned_values(trajectories.states, earned, model.leader_discount)

    def limit(self, model: LinearQuadraticModel, response: Any, sampler: Any) -> Any:
        """Compute what is learned from infinitely many trajectories, as of `Critic`: the truth.

        Raises ValueError if the leader's reward is a bump, whose value is no quadratic.
        """
        if not isinstance(model.leader_reward, QuadraticReward):
            raise ValueError("what a QuadraticCritic comes to is known of quadratic rewards only")
        found: QuadraticValues = exact_values(model.replace(leader_horizon=None), response)  # type: ignore[assignment]
        return found
