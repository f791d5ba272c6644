"""HPGD: hyper policy gradient descent.

Thoma, Pasztor, Krause, Ramponi, Hu, "Contextual Bilevel Reinforcement Learning for Incentive
Alignment", NeurIPS 2024, arXiv:2406.01575; theory.md section 6.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arguments import as_generator, require_method
from tabular_bilevel._base.arrays import FloatArray, quiet, ratio
from tabular_bilevel.estimators.estimate import Estimate, Parts
from tabular_bilevel.finite.follower import Response
from tabular_bilevel.finite.model import Model
from tabular_bilevel.problem import BilevelProblem
from tabular_bilevel.sampling.critics import LeaderValues
from tabular_bilevel.sampling.experience import (
    LEADER_ACTION_VALUE,
    NOTHING,
    Experience,
    Interaction,
    Memory,
    require_interaction,
)
from tabular_bilevel.sampling.samplers import Sampler
from tabular_bilevel.sampling.traces import (
    expected_traces,
    expected_visits,
    sampled_traces,
    sampled_visits,
)
from tabular_bilevel.sampling.trajectories import Trajectories

__all__ = ["HyperPolicyGradient"]


@dataclass(frozen=True)
class HyperPolicyGradient:
    """The HPGD estimator, for parameters of all tables, a leader's policy and the temperature.

    The direct part is that of BC-HG. Through the follower goes, for each on-policy trajectory::

        (1 / temperature) sum_t gamma_L^t (dQ_F - dV_F)(s_t, a_t) A_L(s_t, a_t)

    with dQ_F(s, a) and dV_F(s) averages of sampled tails sum_k gamma_F^k dr_F, over all visits to
    the pair and to the state. As linear maps of the tails they need no derivative: the credit
    W(s, a) / N(s, a) - W(s) / N(s), with N the visits and W the sums of gamma_L^t A_L /
    temperature over them, follows each trajectory, and the pass is as long as BC-HG's.

    The papers' variants: MC has `MonteCarloCritic`, SARSA has `SarsaCritic`, and oracle takes all
    averages, the critic's too, from a separate large sample that starts uniformly over states.

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
    """

    interaction: Interaction = Interaction()
    oracle: Sampler | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        require_interaction(self.interaction)
        if self.oracle is not None:
            require_method("oracle", self.oracle, "sample")

    @quiet
    def __call__(
        self,
        problem: BilevelProblem,
        theta: npt.ArrayLike,
        *,
        rng: np.random.Generator | int,
        memory: Memory = NOTHING,
    ) -> Estimate:
        """Gather experience and estimate; parameters as of `BoltzmannCovariance`."""
        generator = as_generator(rng)
        if self.oracle is None:
            return self.estimate(
                self.interaction.gather(problem, theta, rng=generator, memory=memory)
            )
        unasked = replace(self.interaction, critic=Unasked())
        experience = unasked.gather(problem, theta, rng=generator, memory=memory)
        everywhere = started_uniformly(experience.trajectories.model)
        tails = self.oracle.sample(everywhere, experience.response.policy, rng=generator)
        values = self.interaction.critic.values(
            experience.response, tails, rng=generator, previous=memory.get(LEADER_ACTION_VALUE)
        )
        remembered = {**experience.memory, LEADER_ACTION_VALUE: values.action_value}
        return self.estimate(replace(experience, values=values, memory=remembered), tails)

    @quiet
    def estimate(self, experience: Experience, tails: Trajectories | None = None) -> Estimate:
        """Estimate from given experience, with tails from a separate sample if there is one."""
        sample = experience.trajectories
        counts, weights = sampled_visits(sample, sample.model.leader_discount)
        if tails is None:
            tails = sample
        else:
            counts, _ = sampled_visits(tails, 1.0)
        share = max(1, tails.complete) / max(1, sample.complete)
        credit = tail_credit(experience.values, weights, counts)
        credit *= share / experience.model.temperature
        direct, indirect = sampled_traces(
            experience, credit=credit, credit_discount=sample.survival
        )
        if tails is not sample:
            _, indirect = sampled_traces(
                experience, credit=credit, credit_discount=tails.survival, trajectories=tails
            )
        return Estimate.sampled(experience, direct, indirect)

    @quiet
    def target(self, problem: BilevelProblem, theta: npt.ArrayLike) -> FloatArray:
        """Compute what the estimates' mean comes to with infinite data, shape (d,)."""
        limit = tails = self.interaction.limit(problem, theta)
        start = limit.model.initial
        if self.oracle is not None:
            everywhere = started_uniformly(limit.model)
            start = everywhere.initial
            tails = replace(
                limit,
                horizon=self.oracle.horizon(everywhere),
                survival=self.oracle.survival(everywhere),
                values=self.interaction.critic.limit(everywhere, limit.response, self.oracle),
            )
        _, weights = expected_visits(limit, limit.model.leader_discount)
        counts, _ = expected_visits(tails, 1.0, initial=start)
        credit = tail_credit(tails.values, weights, counts) / limit.planned.temperature
        direct, _ = expected_traces(
            replace(limit, values=tails.values), credit=credit, credit_discount=0.0
        )
        _, indirect = expected_traces(
            tails, credit=credit, credit_discount=tails.survival, initial=start
        )
        return Parts(limit.problem, limit.theta, direct, indirect).pulled_back()


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
    return model.with_initial(np.full(model.n_states, 1.0 / model.n_states))
