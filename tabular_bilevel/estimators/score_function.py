"""The score-function form: returns times the derivative of the follower's log-probabilities.

Williams, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement
Learning", Machine Learning 8, 1992, with a policy that is differentiated through the follower's
equations; theory.md section 6.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tabular_bilevel._base.arguments import as_flag
from tabular_bilevel._base.arrays import FloatArray, grouped_sums
from tabular_bilevel._base.display import displayed
from tabular_bilevel.estimators.estimate import bias_of
from tabular_bilevel.estimators.gathered import (
    by_rule,
    enumerable_of,
    gathered,
    rule_of,
    sampler_of,
    target_of,
)
from tabular_bilevel.estimators.naive import direct_rule
from tabular_bilevel.finite.adjoint import influence_measures
from tabular_bilevel.finite.linear import policy_system
from tabular_bilevel.finite.sensitivities import Sensitivities
from tabular_bilevel.problem import require_tables
from tabular_bilevel.sampling.experience import Experience, Interaction, require_interaction
from tabular_bilevel.sampling.trajectories import Law, Trajectories


@dataclass(frozen=True)
class ScoreFunction:
    """REINFORCE through the follower, for parameters of all tables and a leader's policy.

    Source: Williams (1992); theory.md section 6.

    The direct part is that of BC-HG. Through the follower goes, for each on-policy trajectory::

        sum_t gamma_L^t dlog pi(a_t|s_t) ( R_t - b(s_t) )

    with R_t the leader's discounted return from step t on, as it was seen, and dlog pi the exact
    derivative of the follower's policy. That takes a linear system of the follower's model, which
    BC-HG does without; and no critic of the leader, but for the direct part of kernel parameters.

    Assumes: the follower plays its soft-optimal policy, whose model is known. Bias: what cut
    trajectories leave out of returns, of order gamma_L^steps.

    Attributes
    ----------
    interaction : Interaction
        How trajectories and the leader's values are got.
    baseline : bool
        Whether b is the critic's V_L, or 0. The mean is the same; the variance may be smaller, or
        larger: what is left of it has to do with dlog pi as well.

    Raises
    ------
    ValueError
        On construction, if a setting is out of range, or a part lacks the method that it needs.

    Examples
    --------
    >>> import numpy as np
    >>> import tabular_bilevel as tb
    >>> problem, theta = tb.problems.garnet(), np.full(6, 0.1)
    >>> methods = (tb.ScoreFunction(), tb.ScoreFunction(baseline=True), tb.BoltzmannCovariance())
    >>> for method in methods:
    ...     moments = tb.estimator_moments(problem, theta, method)
    ...     print(bool(np.allclose(moments.bias, 0.0)), round(moments.total_variance))
    True 5119
    True 1584
    True 2776
    """

    interaction: Interaction = Interaction()
    baseline: bool = False

    def __post_init__(self) -> None:
        require_interaction(self.interaction)
        as_flag("baseline", self.baseline)

    __call__ = gathered
    estimate = by_rule

    def rule(self, experience: Experience) -> ScoreRule:
        """Take the critic's values off returns, or nothing."""
        require_tables(experience.planned, what="ScoreFunction")
        value = experience.values.value
        return ScoreRule(value if self.baseline else np.zeros_like(value))

    rule_at = rule_of
    target = target_of
    bias = bias_of
    enumerable = enumerable_of
    sampler = property(sampler_of)


@displayed
@dataclass(frozen=True, eq=False)
class ScoreRule:
    """How the score-function form makes a gradient: `off`, shape (S,), is taken off returns."""

    off: FloatArray = field(repr=False)

    def measures(self, experience: Experience) -> tuple[Sensitivities, Sensitivities]:
        """Add up the sensitivities of both parts, of a sample, or compute their means."""
        direct, _ = direct_rule(experience).measures(experience)
        world, response, seen = experience.world, experience.response, experience.seen
        off = self.off
        gains = returns_of_law(seen, off) if isinstance(seen, Law) else returns_seen(seen, off)
        policy, discount = response.policy, world.follower_discount
        source = gains - policy * gains.sum(axis=1, keepdims=True)
        source /= experience.planned.temperature
        system = policy_system(world, policy, discount)
        arrivals = system.solve_transposed(discount * world.arrivals(source))
        influence = source + policy * arrivals[:, None]
        return direct, influence_measures(world, response, influence)


def returns_seen(sample: Trajectories, off: FloatArray) -> FloatArray:
    """Add up gamma_L^t (R_t - b(s_t)) over visits, per complete trajectory, shape (S, A)."""
    model = sample.model
    weights = (model.leader_discount / sample.survival) ** np.arange(sample.longest)
    gains = weights * sample.leader_reward
    gains = gains[:, ::-1].cumsum(axis=1)[:, ::-1] - weights * off[sample.states]
    sums = grouped_sums(sample.pairs, gains[sample.mask], model.available.size)
    return sums.reshape(model.available.shape) / max(1, sample.complete)


def returns_of_law(law: Law, off: FloatArray) -> FloatArray:
    """Compute the mean of `returns_seen` of one trajectory, step by step."""
    world, model = law.made_in, law.model
    gains, ahead = np.zeros(model.available.shape), np.zeros(model.n_states)
    for pairs in law.steps_back():
        action_value = model.leader_reward + model.leader_discount * world.next_value(ahead)
        gains = pairs * (action_value - off[:, None]) + model.leader_discount * gains
        ahead = np.vecdot(law.policy, action_value)
    return gains
