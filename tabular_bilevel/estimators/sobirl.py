"""SoBiRL: the score of the first action, or of each by itself.

Yang, Gao, Yuan, "Bilevel Reinforcement Learning via the Development of Hyper-gradient without
Lower-Level Convexity", AISTATS 2025, arXiv:2405.19697, in the form in which the papers on
hypergradients compare it; theory.md section 6.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arguments import as_flag
from tabular_bilevel._base.arrays import FloatArray, quiet
from tabular_bilevel.estimators.estimate import Estimate, bias_of
from tabular_bilevel.estimators.gathered import by_rule, sampler_of
from tabular_bilevel.estimators.given_trajectories import GivenTrajectories
from tabular_bilevel.problem import BilevelProblem, require_reward_parameters
from tabular_bilevel.sampling.experience import (
    NOTHING,
    Experience,
    Interaction,
    Memory,
    require_interaction,
)
from tabular_bilevel.sampling.traces import TraceRule


@dataclass(frozen=True)
class SoBiRL:
    """The SoBiRL estimator, for parameters of rewards only.

    Source: Yang, Gao, Yuan (AISTATS 2025, arXiv:2405.19697); theory.md section 6.

    The direct part is that of BC-HG. Through the follower goes, for each on-policy trajectory::

        (1 / temperature) Q_L(s_0, a_0) sum_t ( dr_F(s_t, a_t) - E_pi dr_F(s_t, .) )

    undiscounted as published, or with gamma_F^t; or, in the form that the published code calls
    modified, each step with the leader's value of its own action::

        (1 / temperature) sum_t gamma_L^t Q_L(s_t, a_t) ( dr_F(s_t, a_t) - E_pi dr_F(s_t, .) )

    Assumes: theta moves rewards only. Bias: in the first form, what the follower does after the
    first step, since E_pi[dr_F(s_t, a_t) - E_pi dr_F(s_t, .)] = 0 for every t > 0 whatever the
    discount; in both, that an action is taken for what it leads to. It vanishes where episodes are
    one step long. Where dr_F is the same for all actions of a state, as where the leader pays for
    being in a place, both come to the naive gradient, each single estimate of them.

    Attributes
    ----------
    interaction : Interaction
        How trajectories and the leader's values are got.
    discounted : bool
        Whether the sum has weights gamma_F^t; of no matter with `each_step`.
    each_step : bool
        Whether each step is credited, with its own action's value, or the first alone.

    Raises
    ------
    ValueError
        On construction, if a setting is out of range, or a part lacks the method that it needs.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> for discount in (0.0, 0.5):  # where later steps count, what they do is missing
    ...     problem, theta = tb.problems.bandit(leader_discount=discount), [0.0, 0.0]
    ...     print(tb.SoBiRL().target(problem, theta), tb.hypergradient(problem, theta).gradient)
    [-0.25  0.25] [-0.25  0.25]
    [-0.25  0.25] [-0.5  0.5]
    >>> tb.SoBiRL(each_step=True).target(problem, theta).round(6)  # one state: all is in an action
    array([-0.5,  0.5])
    """

    interaction: Interaction = Interaction()
    discounted: bool = False
    each_step: bool = False

    def __post_init__(self) -> None:
        require_interaction(self.interaction)
        as_flag("discounted", self.discounted)
        as_flag("each_step", self.each_step)

    @quiet
    def __call__(
        self,
        problem: BilevelProblem,
        theta: npt.ArrayLike,
        *,
        rng: np.random.Generator | int,
        memory: Memory = NOTHING,
    ) -> Estimate:
        """Gather experience and estimate, as of `Estimator`.

        Raises ValueError if theta moves transitions, the initial distribution or the temperature.
        """
        experience = self.interaction.gather(problem, theta, rng=rng, memory=memory)
        if not memory:  # once a run is enough
            require_reward_parameters("SoBiRL", problem, experience.theta, experience.planned)
        return self.estimate(experience)

    estimate = by_rule

    def rule(self, experience: Experience) -> TraceRule:
        """Credit the first step alone, or each by itself, with the leader's action value.

        Raises ValueError if there is no discount, and trajectories are cut by chance.
        """
        planned, survival = experience.planned, experience.seen.survival
        leader_discount = experience.world.leader_discount
        if survival < 1.0 and not (self.discounted or self.each_step):
            raise ValueError(
                "SoBiRL without a discount is defined for trajectories that are not cut by chance, "
                f"and they survive a step with probability {survival}: weights would grow without "
                "bound"
            )
        trace_discount = planned.follower_discount if self.discounted else 1.0
        return TraceRule(
            credit=experience.values.action_value / planned.temperature,
            credit_discount=leader_discount if self.each_step else 0.0,
            trace_discount=0.0 if self.each_step else trace_discount,
            leader_discount=leader_discount,
            centred=True,
        )

    def rule_at(
        self, problem: BilevelProblem, theta: npt.ArrayLike
    ) -> tuple[TraceRule, Experience]:
        """Return its rule, and what it knows, where they do not depend on the sample."""
        limit = self.interaction.given(problem, theta)
        require_reward_parameters("SoBiRL", problem, limit.theta, limit.planned)
        return self.rule(limit), limit

    @quiet
    def target(self, problem: BilevelProblem, theta: npt.ArrayLike) -> FloatArray:
        """Compute what the estimates' mean comes to with infinite data, shape (d,)."""
        return self.estimate(self._limit(problem, theta)).gradient

    bias = bias_of

    def enumerable(self, problem: BilevelProblem, theta: npt.ArrayLike) -> GivenTrajectories:
        """Make it ready to be given trajectories at one theta, in the sampler's place."""
        limit = self._limit(problem, theta)
        return GivenTrajectories.of(limit, self.interaction.critic, self.estimate)

    sampler = property(sampler_of)

    def _limit(self, problem: BilevelProblem, theta: npt.ArrayLike) -> Experience:
        limit = self.interaction.limit(problem, theta)
        require_reward_parameters("SoBiRL", problem, limit.theta, limit.planned)
        return limit
