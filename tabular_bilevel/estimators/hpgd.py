"""HPGD: hyper policy gradient descent.

Thoma, Pasztor, Krause, Ramponi, Hu, "Contextual Bilevel Reinforcement Learning for Incentive
Alignment", NeurIPS 2024, arXiv:2406.01575; theory.md section 6.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arguments import as_generator, require_method
from tabular_bilevel._base.arrays import FloatArray, quiet, ratio
from tabular_bilevel.estimators.boltzmann_covariance import BoltzmannCovariance
from tabular_bilevel.estimators.estimate import Estimate, bias_of
from tabular_bilevel.estimators.gathered import sampler_of
from tabular_bilevel.estimators.given_trajectories import GivenTrajectories
from tabular_bilevel.finite.follower import Response
from tabular_bilevel.finite.model import Model
from tabular_bilevel.kinds import by_kind
from tabular_bilevel.lq.traces import TraceRule as TraceRuleOfStates
from tabular_bilevel.problem import BilevelProblem, require_tables
from tabular_bilevel.sampling.critics import LeaderValues
from tabular_bilevel.sampling.experience import (
    LEADER_ACTION_VALUE,
    NOTHING,
    Experience,
    Interaction,
    Memory,
    law_of,
    require_interaction,
)
from tabular_bilevel.sampling.samplers import Sampler
from tabular_bilevel.sampling.traces import TraceRule
from tabular_bilevel.sampling.trajectories import Law, Trajectories


@dataclass(frozen=True)
class HyperPolicyGradient:
    """The HPGD estimator, for parameters of all tables, a leader's policy and the temperature.

    Source: Thoma et al. (NeurIPS 2024, arXiv:2406.01575); theory.md section 6.

    The direct part is that of BC-HG. Through the follower goes, for each on-policy trajectory::

        (1 / temperature) sum_t gamma_L^t (dQ_F - dV_F)(s_t, a_t) A_L(s_t, a_t)

    with dQ_F(s, a) and dV_F(s) averages of sampled tails sum_k gamma_F^k dr_F, over all visits to
    the pair and to the state. As linear maps of the tails they need no derivative: the credit
    W(s, a) / N(s, a) - W(s) / N(s), with N the visits and W the sums of gamma_L^t A_L /
    temperature over them, follows each trajectory, and the pass is as long as BC-HG's.

    The papers' variants: MC has `MonteCarloCritic`, SARSA has `SarsaCritic`, and oracle takes all
    averages, the critic's too, from a separate large sample that starts uniformly over states. With
    `uniform`, the published option of this name, such a sample has all that goes through the
    follower, its visits too: that is another gradient, the part through the follower being that of
    play that may start anywhere.

    Of a linear-quadratic model no state is visited twice. There a step is followed by its own tail,
    and dV_F is learned by temporal differences in squares and products of the state: the published
    variant TD.

    Assumes: the follower plays its soft-optimal policy; pairs are visited repeatedly. Bias: of
    order 1 / visits, since averages and credits share their data, and where a state was left by
    one action only its tails cancel: with few visits the estimate tends to the direct part alone.
    With infinite data, what cutting takes from the tails of late visits, a share of order
    1 / ((1 - gamma) steps) of them where episodes do not end by themselves.

    Attributes
    ----------
    interaction : Interaction
        How trajectories and the leader's values are got.
    oracle : Sampler, optional
        Sampler of the separate sample; by default all averages are taken from the experience.
    uniform : Sampler, optional
        Sampler of a separate sample that the whole part through the follower is taken from.

    Raises
    ------
    ValueError
        On construction, if a setting is out of range, a part lacks the method that it needs, or
        there are two separate samples.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> problem, theta = tb.problems.bandit(), [0.0, 0.0]
    >>> tb.HyperPolicyGradient().target(problem, theta), tb.hypergradient(problem, theta).gradient
    (array([-0.25,  0.25]), array([-0.25,  0.25]))
    >>> few = tb.HyperPolicyGradient(tb.Interaction(tb.Episodes(1)))
    >>> few(problem, theta, rng=0).gradient  # one visit: its tail is the average, and cancels
    array([0., 0.])
    """

    interaction: Interaction = Interaction()
    oracle: Sampler | None = None
    uniform: Sampler | None = None

    def __post_init__(self) -> None:
        require_interaction(self.interaction)
        if self.oracle is not None and self.uniform is not None:
            raise ValueError("oracle and uniform are two ways to take a separate sample")
        for name in ("oracle", "uniform"):
            if getattr(self, name) is not None:
                require_method(name, getattr(self, name), "sample")

    @quiet
    def __call__(
        self,
        problem: BilevelProblem,
        theta: npt.ArrayLike,
        *,
        rng: np.random.Generator | int,
        memory: Memory = NOTHING,
    ) -> Estimate:
        """Gather experience and estimate; as of `Estimator`."""
        generator = as_generator(rng)
        apart = self._apart
        if apart is None:
            return self.estimate(
                self.interaction.gather(problem, theta, rng=generator, memory=memory)
            )
        unasked = replace(self.interaction, critic=Unasked())
        experience = unasked.gather(problem, theta, rng=generator, memory=memory)
        everywhere = started_uniformly(experience.world)
        tails = apart.sample(everywhere, experience.response.policy, rng=generator)
        values = self.interaction.critic.values(
            experience.response, tails, rng=generator, previous=memory.get(LEADER_ACTION_VALUE)
        )
        remembered = {**experience.memory, LEADER_ACTION_VALUE: values.action_value}
        return self.estimate(replace(experience, values=values, memory=remembered), tails)

    @quiet
    def estimate(self, experience: Experience, tails: Trajectories | Law | None = None) -> Estimate:
        """Estimate from given experience, as `Interaction.gather` or `limit` makes it.

        The tails are a separate sample, or its law; by default they are those of the experience.
        """
        apart = experience if tails is None else replace(experience, seen=tails)
        rule = self.rule(experience if self.uniform is None else apart, apart)
        direct, indirect = rule.measures(experience)
        if apart is not experience:
            _, indirect = rule.measures(apart)
        return Estimate.traced(experience, direct, indirect)

    def rule(self, experience: Experience, tails: Experience) -> Any:
        """Credit each step with its part in dQ_F - dV_F, an average of the tails."""
        return _rule(experience.planned, experience, tails)

    @quiet
    def target(self, problem: BilevelProblem, theta: npt.ArrayLike) -> FloatArray:
        """Compute what the estimates' mean comes to with infinite data, shape (d,)."""
        limit = self.interaction.limit(problem, theta)
        apart = self._apart
        if apart is None:
            return self.estimate(limit).gradient
        everywhere = started_uniformly(limit.world)
        tails = law_of(apart, everywhere, limit.response.policy)
        values = self.interaction.critic.limit(everywhere, limit.response, apart)
        return self.estimate(replace(limit, values=values), tails).gradient

    bias = bias_of

    def enumerable(self, problem: BilevelProblem, theta: npt.ArrayLike) -> GivenTrajectories:
        """Make it ready to be given trajectories at one theta, in the sampler's place.

        Raises ValueError if it takes a separate sample.
        """
        if self._apart is not None:
            raise ValueError(f"estimator draws a sample of its own, from {self._apart}")
        limit = self.interaction.limit(problem, theta)
        return GivenTrajectories.of(limit, self.interaction.critic, self.estimate)

    sampler = property(sampler_of)

    @property
    def _apart(self) -> Sampler | None:
        return self.oracle if self.uniform is None else self.uniform


class Unasked:
    """A critic that knows nothing, used before the sample of the real one is drawn."""

    @quiet
    def values(
        self,
        response: Response,
        trajectories: Trajectories,
        *,
        rng: np.random.Generator,
        previous: FloatArray | None = None,
    ) -> LeaderValues:
        """Return zeros."""
        return LeaderValues.under(response.policy, np.zeros_like(response.policy))

    @quiet
    def limit(self, model: Model, response: Response, sampler: Sampler) -> LeaderValues:
        """Return zeros."""
        return LeaderValues.under(response.policy, np.zeros_like(response.policy))


def tail_credit(values: LeaderValues, weights: FloatArray, counts: FloatArray) -> FloatArray:
    """Credit each tail with its part in dQ_F - dV_F, shape (S, A)."""
    worth = weights * values.advantage
    per_state = ratio(worth.sum(axis=1), counts.sum(axis=1))
    return np.asarray(ratio(worth, counts) - per_state[:, None])


def started_uniformly(model: Model) -> Model:
    """Copy the model with every state as likely a start."""
    require_tables(model)
    return model.with_initial(np.full(model.n_states, 1.0 / model.n_states))


def _of_tables(_: object, experience: Experience, tails: Experience) -> TraceRule:
    world = experience.world
    _, weights = experience.seen.visits(world.leader_discount)
    counts, _ = tails.seen.visits(1.0)
    share = max(1, tails.seen.complete) / max(1, experience.seen.complete)
    credit = tail_credit(experience.values, weights, counts)
    return TraceRule(
        credit=credit * (share / experience.planned.temperature),
        credit_discount=tails.seen.survival,
        trace_discount=world.follower_discount,
        leader_discount=world.leader_discount,
    )


def _of_states(_: object, experience: Experience, tails: Experience) -> TraceRuleOfStates:
    """Make the rule of a linear-quadratic model: dV_F is learned by temporal differences."""
    rule: TraceRuleOfStates = BoltzmannCovariance().rule(experience)
    return replace(rule, state_values=True)


_rule = by_kind(_of_tables, _of_states)
