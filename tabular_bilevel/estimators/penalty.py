"""PBRL: a first-order gradient of the leader's objective with a penalty on the value gap.

Shen, Yang, Chen, "Principled Penalty-based Methods for Bilevel Reinforcement Learning and RLHF",
ICML 2024, arXiv:2402.06886; theory.md section 9.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arguments import as_generator, as_positive, as_theta, require_method
from tabular_bilevel._base.arrays import FloatArray, quiet, read_only
from tabular_bilevel.estimators.estimate import Estimate, bias_of
from tabular_bilevel.estimators.naive import direct_rule
from tabular_bilevel.finite.adjoint import temperature_slope
from tabular_bilevel.finite.follower import CompiledPolicyIteration, FollowerSolver, Response
from tabular_bilevel.finite.linear import policy_system
from tabular_bilevel.finite.model import Model
from tabular_bilevel.finite.sensitivities import Sensitivities
from tabular_bilevel.problem import BilevelProblem, pulled_back
from tabular_bilevel.sampling.critics import LeaderValues
from tabular_bilevel.sampling.experience import (
    FOLLOWER_VALUE,
    NOTHING,
    Experience,
    Memory,
    law_of,
    require_memory,
)
from tabular_bilevel.sampling.samplers import Sampler
from tabular_bilevel.sampling.trajectories import Law, Trajectories

PENALISED_VALUE = "penalised_value"


@dataclass(frozen=True)
class ValueGapPenalty:
    """The gradient of the leader's objective with a penalty on how far the follower falls short.

    Source: Shen, Yang, Chen (ICML 2024, arXiv:2402.06886); theory.md section 9.

    Instead of J the leader climbs::

        max_pi  J(theta, pi) - weight * ( V*_F(theta) - V_F^pi(theta) )

    with the follower's values averaged over the initial distribution. The maximising policy is the
    follower's soft-optimal one for the reward r_F + r_L / weight, and by the envelope theorem it
    needs no derivative: with d pi the discounted occupancies under it and under the follower's
    best response (*), and V the soft value for r_F + r_L / weight::

        dJ/dr_L = d pi       dJ/dr_F = weight (d pi - d* pi*)      dJ/drho = weight (V - V*_F)
        dJ/dP(s'|s,a) = weight gamma ( d pi V(s') - d* pi* V*_F(s') )
        dJ/d(temperature) = weight sum_{s,a} ( d* pi* log pi* - d pi log pi )

    Assumes: one discount for both players. Bias: of order 1 / weight, which vanishes as the
    weight grows, though only down to rounding, best at 1e7 to 1e8, while the variance of a sampled
    estimate grows with its square; and what cut trajectories leave out, times the weight.

    Attributes
    ----------
    weight : float
        Weight of the penalty.
    sampler : Sampler, optional
        Sampler of trajectories under both policies, to estimate the occupancies; by default these
        are computed from the model.
    follower : FollowerSolver
        How both policies are found.

    Raises
    ------
    ValueError
        On construction, if a setting is out of range, or a part lacks the method that it needs.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> problem, theta = tb.problems.bandit(), [0.0, 0.3]
    >>> exact = tb.hypergradient(problem, theta).gradient
    >>> targets = [tb.ValueGapPenalty(weight).target(problem, theta) for weight in (10.0, 100.0)]
    >>> near, nearer = (float(abs(target - exact).max()) for target in targets)
    >>> round(near / nearer, 1)  # of order 1 / weight
    10.9
    """

    weight: float = 100.0
    sampler: Sampler | None = None
    follower: FollowerSolver = CompiledPolicyIteration()

    def __post_init__(self) -> None:
        as_positive("weight", self.weight)
        require_method("follower", self.follower, "solve")
        if self.sampler is not None:
            require_method("sampler", self.sampler, "sample")

    @quiet
    def __call__(
        self,
        problem: BilevelProblem,
        theta: npt.ArrayLike,
        *,
        rng: np.random.Generator | int,
        memory: Memory = NOTHING,
    ) -> Estimate:
        """Compute or estimate the gradient, as of `Estimator`.

        Raises ValueError if the players' discounts differ.
        """
        generator, drawn = as_generator(rng), list[Trajectories]()

        def drawing(sampler: Sampler, model: Model, policy: FloatArray) -> Trajectories:
            drawn.append(sampler.sample(model, policy, rng=generator))
            return drawn[-1]

        estimate = self._estimate(problem, theta, memory, drawing)
        return replace(
            estimate,
            n_trajectories=sum(sample.count for sample in drawn),
            n_steps=sum(int(sample.lengths.sum()) for sample in drawn),
        )

    @quiet
    def target(self, problem: BilevelProblem, theta: npt.ArrayLike) -> FloatArray:
        """Compute what the estimates' mean comes to with infinite data, shape (d,).

        The gradient of the penalised objective, but for what the sampler cuts.
        """
        return self._estimate(problem, theta, NOTHING, law_of).gradient

    bias = bias_of

    def _estimate(
        self,
        problem: BilevelProblem,
        theta: npt.ArrayLike,
        memory: Memory,
        seeing: Callable[[Sampler, Model, FloatArray], Trajectories | Law],
    ) -> Estimate:
        """Compare the flows of both policies, as they are seen, or exact without a sampler."""
        theta = read_only(as_theta(theta))
        model = problem.model(theta)
        require_one_discount("ValueGapPenalty", model)
        reward = model.follower_reward + model.leader_reward / self.weight
        penalised = model.with_rewards(reward, model.leader_reward)
        require_memory(memory)
        response = self.follower.solve(model, start=memory.get(FOLLOWER_VALUE))
        tempted = self.follower.solve(penalised, start=memory.get(PENALISED_VALUE))

        def flow(answer: Response) -> Sensitivities:
            if self.sampler is None:
                return exact_flow(model, answer)
            values = LeaderValues(answer.action_value, answer.value)
            seen = seeing(self.sampler, model, answer.policy)
            experience = Experience(problem, theta, model, answer, seen, values)
            found: Sensitivities = direct_rule(experience).measures(experience)[0]
            return found

        climbed, best = flow(tempted), flow(response)
        measures = Sensitivities.of(
            model,
            leader_reward=climbed.leader_reward.copy(),
            follower_reward=self.weight * (climbed.leader_reward - best.leader_reward),
            transition=self.weight * (climbed.transition - best.transition),
            initial=self.weight * (climbed.initial - best.initial),
            temperature=lambda: (
                self.weight
                * (
                    temperature_slope(model, tempted, climbed.leader_reward)
                    - temperature_slope(model, response, best.leader_reward)
                )
            ),
        )
        return Estimate(
            gradient=read_only(pulled_back(problem, theta, measures)),
            model=model,
            response=response,
            memory={FOLLOWER_VALUE: response.value, PENALISED_VALUE: tempted.value},
        )


def require_one_discount(name: str, model: Model) -> None:
    """Raise unless both players discount alike."""
    if model.follower_discount != model.leader_discount:
        raise ValueError(
            f"{name} is defined for one discount, and follower_discount is "
            f"{model.follower_discount}, leader_discount {model.leader_discount}"
        )


def exact_flow(model: Model, response: Response) -> Sensitivities:
    """Differentiate a policy's own soft value: its occupancy, and that times what lies ahead."""
    policy, discount = response.policy, model.follower_discount
    system = policy_system(model, policy, discount)
    pairs = policy * system.solve_transposed(model.initial)[:, None]
    ahead = response.value[model.transition.indices]
    return Sensitivities.of(
        model,
        leader_reward=pairs,
        transition=discount * pairs.ravel()[model.entry_row] * ahead,
        initial=response.value.copy(),
    )
