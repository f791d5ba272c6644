"""SoBiRL: the score of the first action, with an undiscounted influence.

Yang, Gao, Yuan, "Bilevel Reinforcement Learning via the Development of Hyper-gradient without
Lower-Level Convexity", AISTATS 2025, arXiv:2405.19697, in the form in which the papers on
hypergradients compare it; theory.md section 6.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arrays import FloatArray, quiet
from tabular_bilevel.estimators.estimate import Estimate, Parts
from tabular_bilevel.finite.model import Model
from tabular_bilevel.finite.sensitivities import Sensitivities
from tabular_bilevel.problem import BilevelProblem, require_reward_parameters
from tabular_bilevel.sampling.experience import (
    NOTHING,
    Experience,
    Interaction,
    Memory,
    require_interaction,
)
from tabular_bilevel.sampling.traces import expected_traces, sampled_traces

__all__ = ["SoBiRL"]


@dataclass(frozen=True)
class SoBiRL:
    """The SoBiRL estimator, for parameters of rewards only.

    The direct part is that of BC-HG. Through the follower goes, for each on-policy trajectory::

        (1 / temperature) Q_L(s_0, a_0) sum_t ( dr_F(s_t, a_t) - E_pi dr_F(s_t, .) )

    undiscounted as published, or with gamma_F^t.

    Assumes: theta moves rewards only. Bias: what the follower does after the first step, and what
    an action changes after it, is missing, since E_pi[dr_F(s_t, a_t) - E_pi dr_F(s_t, .)] = 0 for
    every t > 0 whatever the discount; it vanishes where episodes are one step long.

    Attributes
    ----------
    interaction : Interaction
        How trajectories and the leader's values are got.
    discounted : bool
        Whether the sum has weights gamma_F^t.
    """

    interaction: Interaction = Interaction()
    discounted: bool = False

    def __post_init__(self) -> None:
        """Check the settings."""
        require_interaction(self.interaction)

    @quiet
    def __call__(
        self,
        problem: BilevelProblem,
        theta: npt.ArrayLike,
        *,
        rng: np.random.Generator | int,
        memory: Memory = NOTHING,
    ) -> Estimate:
        """Gather experience and estimate; parameters as of `BoltzmannCovariance`.

        Raises
        ------
        ValueError
            If theta moves transitions, the initial distribution or the temperature.
        """
        experience = self.interaction.gather(problem, theta, rng=rng, memory=memory)
        if not memory:  # once a run is enough
            require_reward_parameters("SoBiRL", problem, experience.theta, experience.model)
        return self.estimate(experience)

    @quiet
    def estimate(self, experience: Experience) -> Estimate:
        """Estimate from given experience, as `Interaction.gather` makes it."""
        discount = self._discount(experience.model, experience.trajectories.survival)
        credit = experience.values.action_value / experience.model.temperature
        direct, tails = sampled_traces(
            experience, credit=credit, credit_discount=0.0, trace_discount=discount
        )
        return Estimate.sampled(experience, direct, less_mean(tails, experience.response.policy))

    @quiet
    def target(self, problem: BilevelProblem, theta: npt.ArrayLike) -> FloatArray:
        """Compute what the estimates' mean comes to with infinite data, shape (d,)."""
        limit = self.interaction.limit(problem, theta)
        require_reward_parameters("SoBiRL", problem, limit.theta, limit.model)
        discount = self._discount(limit.planned, limit.survival)
        direct, tails = expected_traces(
            limit,
            credit=limit.values.action_value / limit.planned.temperature,
            credit_discount=0.0,
            trace_discount=discount,
        )
        indirect = less_mean(tails, limit.response.policy)
        return Parts(limit.problem, limit.theta, direct, indirect).pulled_back()

    def _discount(self, model: Model, survival: float) -> float:
        """Discount of the sum, which trajectories that are cut by chance need to be small."""
        if self.discounted:
            return model.follower_discount
        if survival < 1.0:
            raise ValueError(
                "SoBiRL without a discount is defined for trajectories that are not cut by chance, "
                f"and they survive a step with probability {survival}: weights would grow without "
                "bound"
            )
        return 1.0


def less_mean(tails: Sensitivities, policy: FloatArray) -> Sensitivities:
    """Take off, in each state, what the mean of dr_F under the policy has as its weight."""
    influence = tails.follower_reward
    centred = influence - policy * influence.sum(axis=1, keepdims=True)
    return Sensitivities.of(tails.model, follower_reward=centred)
