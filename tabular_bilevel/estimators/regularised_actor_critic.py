"""A single loop: the value-gap penalty, with policies that are still learning and a fading bonus.

Zeng, Bhatt, Ganesh, Koppel, "A Regularized Actor-Critic Algorithm for Bi-Level Reinforcement
Learning", AISTATS 2026, arXiv:2601.16399; theory.md section 9.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arguments import (
    as_generator,
    as_positive,
    as_real,
    as_theta,
    finite_array,
    require_method,
)
from tabular_bilevel._base.arrays import FloatArray, grouped_sums, quiet, ratio, read_only, softmax
from tabular_bilevel.certify.accuracy import Estimated
from tabular_bilevel.estimators.estimate import Estimate, bias_of
from tabular_bilevel.estimators.penalty import ValueGapPenalty, require_one_discount
from tabular_bilevel.exact.hypergradient import hypergradient
from tabular_bilevel.finite.linear import policy_system
from tabular_bilevel.finite.model import Model
from tabular_bilevel.finite.sensitivities import Sensitivities
from tabular_bilevel.problem import BilevelProblem, modelled, pulled_back, require_reward_parameters
from tabular_bilevel.sampling.experience import ITERATION, NOTHING, Memory, calls_before, law_of
from tabular_bilevel.sampling.samplers import Sampler
from tabular_bilevel.sampling.trajectories import Law, Trajectories

LOGITS, VALUES = "logits", "values"


@dataclass(frozen=True)
class RegularisedActorCritic:
    """The value-gap penalty's gradient at two policies that take one step of learning a call.

    Source: Zeng, Bhatt, Ganesh, Koppel (AISTATS 2026, arXiv:2601.16399); theory.md section 9.

    `ValueGapPenalty` solves for two policies in each call: the follower's, and the one that is
    tempted by r_F + r_L / weight. Here both are softmax tables that go on from call to call, in the
    memory, each with a critic V. A call takes the gradient at the policies as they are, the
    discounted occupancies of pairs being d pi, tempted, and d' pi', the follower's::

        dJ/dr_L = d pi             dJ/dr_F = weight (d pi - d' pi')

    and then moves each critic and each policy once, by the errors delta = r + gamma V(s') -
    temperature log pi(a|s) - V(s) of its own reward::

        V(s) += critic_step * mean of delta at s
        logits += step * mean of delta_t grad log pi(a_t|s_t), where step t weighs gamma^t

    In call k = 0, 1, ... the temperature is (1 + bonus / (k + 1)^fading) times the follower's own,
    and the weight is weight (k + 1)^growth: the bonus fades, the penalty hardens. A policy's step
    is actor_step, or 1 / temperature if that is less: longer steps overshoot for ever.

    Assumes: parameters of rewards, one discount for both players, all states visited. Bias: of
    order 1 / weight, from the bonus, and from policies that lag behind theta, times the weight.
    `expected` and `aim` tell these apart, along an ascent too.

    Known of the paper are its abstract and summaries (a single loop, softmax tables, TD critics,
    three time scales, a bonus that fades); its schedules, step sizes and constants are not, and
    those here are ours. There the follower has no entropy bonus of its own, and the bonus fades to
    nothing.

    Attributes
    ----------
    weight : float
        Weight of the penalty in the first call.
    growth : float
        Exponent with which it grows, at least 0.
    bonus : float
        By how much the first temperature is above the follower's own, relative to it; at least 0.
    fading : float
        Exponent with which that falls, at least 0; with 0 it stays.
    actor_step, critic_step : float
        Step sizes of policies, at most, and of critics; the critics' in (0, 1].
    sampler : Sampler, optional
        Sampler of trajectories under both policies; by default a call computes means from the
        model, as if it saw infinitely many.

    Raises
    ------
    ValueError
        On construction, if a setting is out of range, or the sampler lacks the method.

    Examples
    --------
    Called often at one theta, it comes near the exact gradient:

    >>> import tabular_bilevel as tb
    >>> problem, theta = tb.problems.bandit(), [0.0, 0.3]
    >>> method, memory = tb.RegularisedActorCritic(), {}
    >>> for _ in range(2000):
    ...     estimate = method(problem, theta, rng=0, memory=memory)
    ...     memory = estimate.memory
    >>> print(estimate.gradient.round(3), method.target(problem, theta).round(3))
    [-0.239  0.239] [-0.244  0.244]

    What the next call's mean lacks, by its policies and by bonus and penalty:

    >>> mean, aim = method.expected(problem, theta, memory), method.aim(problem, theta, memory)
    >>> print((mean - aim).round(4), (aim - method.target(problem, theta)).round(4))
    [-0.0001  0.0001] [ 0.0054 -0.0054]
    """

    weight: float = 10.0
    growth: float = 0.25
    bonus: float = 1.0
    fading: float = 0.5
    actor_step: float = 10.0
    critic_step: float = 0.5
    sampler: Sampler | None = None

    def __post_init__(self) -> None:
        as_positive("weight", self.weight)
        as_positive("actor_step", self.actor_step)
        if not 0.0 < as_real("critic_step", self.critic_step) <= 1.0:
            raise ValueError(f"critic_step is {self.critic_step}, not in (0, 1]")
        for name in ("growth", "bonus", "fading"):
            if not 0.0 <= as_real(name, getattr(self, name)) < np.inf:
                raise ValueError(f"{name} is {getattr(self, name)}, not a finite number from 0 on")
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
        """Estimate at the memory's policies, and move these; as of `Estimator`.

        Raises ValueError if the players' discounts differ, theta moves more than rewards, or the
        memory is that of a model of another size.
        """
        generator, drawn = as_generator(rng), list[Trajectories]()

        def drawing(sampler: Sampler, model: Model, policy: FloatArray) -> Trajectories:
            drawn.append(sampler.sample(model, policy, rng=generator))
            return drawn[-1]

        stage = self._stage(problem, theta, memory)
        seen = [self._seen(stage, learner, drawing) for learner in stage.learners]
        moved = [self._moved(stage, *pair) for pair in zip(stage.learners, seen, strict=True)]
        return Estimate(
            gradient=stage.gradient([each.flow for each in seen]),
            model=stage.model,
            memory={
                ITERATION: read_only(np.array([stage.iteration + 1.0])),
                LOGITS: read_only(np.stack([logits for logits, _ in moved])),
                VALUES: read_only(np.stack([value for _, value in moved])),
            },
            n_trajectories=sum(sample.count for sample in drawn),
            n_steps=sum(int(sample.lengths.sum()) for sample in drawn),
        )

    @quiet
    def expected(
        self, problem: BilevelProblem, theta: npt.ArrayLike, memory: Memory = NOTHING
    ) -> FloatArray:
        """Compute the mean of the next call's estimate, given the memory.

        Parameters
        ----------
        problem : BilevelProblem
            The leader's problem.
        theta : array_like, shape (d,)
            The leader's parameter.
        memory : mapping of str to ndarray
            What the estimate before left; by default the next call is the first.

        Returns
        -------
        ndarray, shape (d,)
            The mean, but for a last trajectory that a budget of steps cuts.
        """
        stage = self._stage(problem, theta, memory)
        return stage.gradient([self._seen(stage, one, law_of).flow for one in stage.learners])

    @quiet
    def aim(
        self, problem: BilevelProblem, theta: npt.ArrayLike, memory: Memory = NOTHING
    ) -> FloatArray:
        """Compute what the next call would come to if its policies had learned all there is.

        Parameters as of `expected`; shape (d,): the penalty's gradient at the call's weight and
        temperature.
        """
        stage = self._stage(problem, theta, memory)
        return ValueGapPenalty(stage.weight).target(Warmed(problem, stage.factor), theta)

    @quiet
    def target(self, problem: BilevelProblem, theta: npt.ArrayLike) -> FloatArray:
        """Compute what estimates come to after many calls at one theta, shape (d,).

        The exact gradient if the weight grows, else the penalty's; with the bonus, if it stays. No
        sampler that cuts trajectories gets there, as what is cut is multiplied by the weight.
        """
        self._stage(problem, theta, NOTHING)
        lasting = Warmed(problem, 1.0 if self.fading else 1.0 + self.bonus)
        if not self.growth:
            return ValueGapPenalty(self.weight).target(lasting, theta)
        return hypergradient(lasting, theta, accuracy=Estimated()).gradient

    bias = bias_of

    def _stage(self, problem: BilevelProblem, theta: npt.ArrayLike, memory: Memory) -> Stage:
        """Work out where the learning stands."""
        theta = read_only(as_theta(theta))
        model = modelled(problem, theta)
        require_one_discount("RegularisedActorCritic", model)
        if not memory:  # once a run is enough
            require_reward_parameters("RegularisedActorCritic", problem, theta, model)
        k = calls_before(memory)
        weight = float(self.weight * np.power(k + 1.0, self.growth))
        factor = float(1.0 + self.bonus / np.power(k + 1.0, self.fading))
        if not np.isfinite((weight, factor * model.temperature)).all():
            raise ValueError(
                f"the penalty's weight in call {k:g} is {weight:.3g}, and the temperature "
                f"{factor * model.temperature:.3g}: weight, growth or bonus is too large"
            )
        shape = model.follower_reward.shape
        logits = finite_array("previous", memory.get(LOGITS, np.zeros((2, *shape))), (2, *shape))
        values = finite_array(
            "previous", memory.get(VALUES, np.zeros((2, shape[0]))), (2, shape[0])
        )
        reward = model.follower_reward
        rewards = reward + model.leader_reward / weight, reward  # tempted, and the follower's own
        learners = [Learner(model, *each) for each in zip(rewards, logits, values, strict=True)]
        return Stage(problem, theta, model, k, weight, factor, learners)

    def _seen(
        self,
        stage: Stage,
        learner: Learner,
        seeing: Callable[[Sampler, Model, FloatArray], Trajectories | Law],
    ) -> Seen:
        """Look at a policy at work: in a sample, its law, or all that there is."""
        model, policy, value = stage.model, learner.policy, learner.value
        if self.sampler is None:
            system = policy_system(model, policy, model.follower_discount)
            flow = policy * system.solve_transposed(model.initial)[:, None]
            return Seen(flow, flow, model.next_value(value))
        seen = seeing(self.sampler, model, policy)
        counts, flow = seen.visits(model.follower_discount)
        if isinstance(seen, Law):
            return Seen(counts, flow, model.next_value(value))
        there = np.append(value, 0.0)[seen.next_states[seen.mask]]  # an end counts as 0
        pairs = seen.states[seen.mask] * model.n_actions + seen.actions[seen.mask]
        ahead = grouped_sums(pairs, there, counts.size).reshape(counts.shape)
        return Seen(counts, flow / seen.count, ratio(ahead, counts))

    def _moved(self, stage: Stage, learner: Learner, seen: Seen) -> tuple[FloatArray, FloatArray]:
        """Move a policy and its critic by one step of learning: logits and value."""
        model, temperature = stage.model, stage.factor * stage.model.temperature
        error = (
            learner.reward
            + model.follower_discount * seen.ahead
            - temperature * learner.log_policy
            - learner.value[:, None]
        )
        error[seen.counts == 0.0] = 0.0
        mean = ratio((seen.counts * error).sum(axis=1), seen.counts.sum(axis=1))
        earned = seen.flow / seen.flow.sum() * error
        slope = earned - learner.policy * earned.sum(axis=1, keepdims=True)
        step = min(self.actor_step, 1.0 / temperature)
        return learner.logits + step * slope, learner.value + self.critic_step * mean


class Learner:
    """A policy that is a softmax of a table, its critic, and the reward that it learns for."""

    def __init__(
        self, model: Model, reward: FloatArray, logits: FloatArray, value: FloatArray
    ) -> None:
        self.reward, self.logits, self.value = reward, logits, value
        shown = np.where(model.available, logits, -np.inf)
        self.policy = softmax(shown)
        top = shown.max(axis=1, keepdims=True)
        total = np.log(np.exp(shown - top).sum(axis=1, keepdims=True))
        self.log_policy = np.where(model.available, logits - top - total, 0.0)


@dataclass(frozen=True, eq=False)
class Seen:
    """What is seen of a policy: visits of pairs, discounted ones a start, and the values behind."""

    counts: FloatArray
    flow: FloatArray
    ahead: FloatArray


@dataclass(frozen=True, eq=False)
class Stage:
    """Where the learning stands at a theta; of the learners, the tempted one is first."""

    problem: BilevelProblem
    theta: FloatArray
    model: Model
    iteration: float
    weight: float
    factor: float
    learners: list[Learner]

    def gradient(self, flows: list[FloatArray]) -> FloatArray:
        """Compare the two policies' flows, shape (d,)."""
        tempted, own = flows
        measures = Sensitivities.of(
            self.model,
            leader_reward=tempted.copy(),
            follower_reward=self.weight * (tempted - own),
        )
        return read_only(pulled_back(self.problem, self.theta, measures))


class Warmed:
    """A problem whose follower's temperature is multiplied by a factor."""

    def __init__(self, problem: BilevelProblem, factor: float) -> None:
        self._problem, self._factor, self.pullback = problem, factor, problem.pullback

    def model(self, theta: FloatArray) -> Model:
        """Build the model, and warm it."""
        model = self._problem.model(theta)
        return model.with_temperature(self._factor * model.temperature)
