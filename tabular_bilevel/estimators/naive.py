"""The naive policy gradient ("naive PGD"): the direct part alone.

The usual baseline of the papers on bilevel RL, e.g. Kudo et al., ICAPS 2026, arXiv:2603.14867;
theory.md section 6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tabular_bilevel.estimators.boltzmann_covariance import BoltzmannCovariance
from tabular_bilevel.estimators.estimate import bias_of
from tabular_bilevel.estimators.gathered import (
    by_rule,
    enumerable_of,
    gathered,
    rule_of,
    sampler_of,
    target_of,
)
from tabular_bilevel.kinds import by_kind
from tabular_bilevel.lq.traces import TraceRule as TraceRuleOfStates
from tabular_bilevel.sampling.experience import Experience, Interaction, require_interaction
from tabular_bilevel.sampling.traces import TraceRule


@dataclass(frozen=True)
class NaivePolicyGradient:
    """The leader's gradient with the follower's policy held fixed.

    Source: the baseline of those papers (arXiv:2603.14867); theory.md section 6.

    Each step of an on-policy trajectory contributes gamma_L^t to dJ/dr_L(s_t, a_t) and
    gamma_L^{t+1} V_L(s_{t+1}) to dJ/dlog P(s_{t+1}|s_t, a_t); nothing goes through the follower.

    Assumes: nothing of the follower. Bias: the whole part through the follower; it vanishes where
    the follower does not react (at high temperature, or with one action), and only there.

    Attributes
    ----------
    interaction : Interaction
        How trajectories and the leader's values are got; the critic matters to parameters of the
        kernel and of a leader's policy only.

    Raises
    ------
    ValueError
        On construction, if a setting is out of range, or a part lacks the method that it needs.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> problem, theta = tb.problems.bandit(), [0.0, 0.0]  # the leader pays nothing itself
    >>> tb.NaivePolicyGradient().target(problem, theta), tb.hypergradient(problem, theta).gradient
    (array([0., 0.]), array([-0.25,  0.25]))
    """

    interaction: Interaction = Interaction()

    def __post_init__(self) -> None:
        require_interaction(self.interaction)

    __call__ = gathered

    def rule(self, experience: Experience) -> Any:
        """Credit nothing."""
        return direct_rule(experience)

    estimate = by_rule
    rule_at = rule_of
    target = target_of
    bias = bias_of
    enumerable = enumerable_of
    sampler = property(sampler_of)


def direct_rule(experience: Experience) -> Any:
    """Credit nothing: what is left is the direct part."""
    return _direct(experience.planned, experience)


def _of_states(_: object, experience: Any) -> TraceRuleOfStates:
    rule: TraceRuleOfStates = BoltzmannCovariance().rule(experience)
    return rule.times(indirect=0.0)


def _of_tables(_: object, experience: Experience) -> TraceRule:
    world = experience.world
    return TraceRule(
        credit=np.zeros_like(experience.response.policy),
        credit_discount=0.0,
        trace_discount=0.0,
        leader_discount=world.leader_discount,
        indirect=0.0,
    )


_direct = by_kind(_of_tables, _of_states)
