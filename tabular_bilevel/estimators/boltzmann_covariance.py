"""BC-HG: the Boltzmann covariance hypergradient, by eligibility traces.

Kudo, Tanabe, Wachi, Akimoto, "Sample-Efficient Hypergradient Estimation for Decentralized Bi-Level
Reinforcement Learning", ICAPS 2026, arXiv:2603.14867; as traces, theory.md section 6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arguments import as_flag
from tabular_bilevel.estimators.estimate import bias_of
from tabular_bilevel.estimators.gathered import (
    by_rule,
    enumerable_of,
    gathered,
    sampler_of,
    target_of,
)
from tabular_bilevel.kinds import by_kind
from tabular_bilevel.lq.traces import TraceRule as TraceRuleOfStates
from tabular_bilevel.lq.traces import require_noise
from tabular_bilevel.problem import BilevelProblem, TablesOnlyError
from tabular_bilevel.sampling.baselines import Baseline
from tabular_bilevel.sampling.experience import Experience, Interaction, require_interaction
from tabular_bilevel.sampling.traces import TraceRule

# Visits that nothing is divided by, since nothing was visited: 0 stays 0.
FEWEST = np.finfo(np.float64).smallest_normal


@dataclass(frozen=True)
class BoltzmannCovariance:
    """The BC-HG estimator, for parameters of all tables, a leader's policy and the temperature.

    Source: Kudo et al. (ICAPS 2026, arXiv:2603.14867); theory.md section 6.

    With eligibility e_t = gamma_F e_{t-1} + gamma_L^t A_L(s_t, a_t) / temperature, each step of an
    on-policy trajectory contributes::

        dJ/dr_F(s_t, a_t)            e_t
        dJ/dr_L(s_t, a_t)            gamma_L^t
        dJ/dlog P(s_{t+1}|s_t,a_t)   gamma_F e_t V_F(s_{t+1}) + gamma_L^{t+1} V_L(s_{t+1})
        dJ/dlog rho(s_0)             V_L(s_0)

    and the problem pulls the mean over trajectories back to theta. A leader's policy is part of the
    kernel here, with V_L(s, b) in the place of the published Q_L(s, b, a): the same mean, less
    variance.

    Of a linear-quadratic model the tables are matrices, and log P is the log-density of a Gaussian;
    its derivative, the score, is there in directions with noise only.

    Assumes: the follower plays its soft-optimal policy, and its value V_F is known (it enters
    kernel parameters only). Bias: none with an exact critic, but for what cut trajectories leave
    out, of order max(gamma_F, gamma_L)^steps; with a learned critic, its error; with averaged
    tails, one of order 1 / n_trajectories.

    Attributes
    ----------
    interaction : Interaction
        How trajectories and the leader's values are got.
    baseline : bool or Baseline
        Whether V_F(s_{t+1}) and V_L(s_{t+1}) have their means taken off, over the next state or,
        where theta moves the leader's policy alone, over the leader's next action: the same mean,
        less variance. Or what is taken off, such as `best_baseline` finds.
    own_action : bool
        Of models of tables: whether an arrival is worth more by the advantage of the action taken
        there, as in the published code, which has Q_L(s_t, b_t, a_t) and e_t where V_L(s_t, b_t)
        and gamma_F e_{t-1} do: the same mean, more variance.
    average_tails : bool
        Of models of tables: whether a step is followed not by its own tail but, as in the published
        code for four rooms, by the average over all visits to its pair.

    Raises
    ------
    ValueError
        On construction, if a setting is out of range, or a part lacks the method that it needs.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> problem, theta = tb.problems.bandit(leader_reward=[0.0, 1.0, 0.2]), [0.0, 0.0, 0.0]
    >>> estimator = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(10_000)))
    >>> estimate, exact = estimator(problem, theta, rng=0), tb.hypergradient(problem, theta)
    >>> bool(abs(estimate.gradient - exact.gradient).max() < 0.02)
    True
    >>> estimator.target(problem, theta).round(4), exact.gradient.round(4)
    (array([-0.1333,  0.2   , -0.0667]), array([-0.1333,  0.2   , -0.0667]))

    It also takes experience that is there already:

    >>> experience = estimator.interaction.gather(problem, theta, rng=0)
    >>> bool((estimator.estimate(experience).gradient == estimate.gradient).all())
    True
    >>> estimator.sampler
    Episodes(n_trajectories=10000, steps=None)
    """

    interaction: Interaction = Interaction()
    baseline: bool | Baseline = True
    own_action: bool = False
    average_tails: bool = False

    def __post_init__(self) -> None:
        require_interaction(self.interaction)
        if not isinstance(self.baseline, Baseline):
            as_flag("baseline", self.baseline)
        as_flag("own_action", self.own_action)
        as_flag("average_tails", self.average_tails)

    __call__ = gathered
    estimate = by_rule

    def rule(self, experience: Experience) -> Any:
        """Credit each step with the leader's advantage, by how likelier a reward makes it."""
        return _rule(experience.planned, experience, self)

    def rule_at(
        self, problem: BilevelProblem, theta: npt.ArrayLike
    ) -> tuple[TraceRule, Experience]:
        """Return its rule, and what it knows, where they do not depend on the sample.

        Raises ValueError if they do.
        """
        if self.average_tails:
            raise ValueError(
                "average_tails makes ratios of what the sample shows: their moments take "
                "enumeration, by check_by_enumeration, or sampling"
            )
        limit = self.interaction.given(problem, theta)
        return self.rule(limit), limit

    target = target_of
    bias = bias_of
    enumerable = enumerable_of
    sampler = property(sampler_of)


def _of_tables(_: object, experience: Experience, method: BoltzmannCovariance) -> TraceRule:
    seen, world = experience.seen, experience.world
    credit = experience.values.advantage / experience.planned.temperature
    discount = world.leader_discount
    if method.average_tails:
        counts, weights = seen.visits(discount)
        credit *= weights
        credit /= np.maximum(counts, FEWEST)
        discount = seen.survival
    return TraceRule(
        credit=credit,
        credit_discount=discount,
        trace_discount=world.follower_discount,
        leader_discount=world.leader_discount,
        baseline=method.baseline,
        own_action=method.own_action,
    )


def _of_states(_: object, experience: Any, method: BoltzmannCovariance) -> TraceRuleOfStates:
    """Make the rule of a linear-quadratic model, by Gaussian scores."""
    for name in ("own_action", "average_tails"):
        if getattr(method, name):
            raise TablesOnlyError(f"{name} is for models of tables: no state is visited twice")
    if isinstance(method.baseline, Baseline):
        raise TablesOnlyError(
            "baseline is a table of numbers, for models of tables: True or False here"
        )
    world = experience.world
    require_noise(experience.problem, experience.theta, world)
    return TraceRuleOfStates(
        credit=1.0 / experience.planned.temperature,
        credit_discount=world.leader_discount,
        trace_discount=world.follower_discount,
        leader_discount=world.leader_discount,
        baseline=method.baseline,
    )


_rule = by_kind(_of_tables, _of_states)
