"""Bi-AC: the bi-level actor-critic, for games whose follower sees the leader's action.

Zhang, Chen, Huang, Li, Yang, Zhang, Wang, "Bi-level Actor-Critic for Multi-agent Coordination",
AAAI 2020, arXiv:1909.03510; theory.md section 6.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arguments import positive_integer
from tabular_bilevel._base.arrays import FloatArray, quiet
from tabular_bilevel._base.errors import ConvergenceError
from tabular_bilevel.estimators.estimate import Estimate, bias_of
from tabular_bilevel.estimators.given_trajectories import GivenTrajectories
from tabular_bilevel.estimators.naive import NaivePolicyGradient
from tabular_bilevel.finite.follower import CompiledPolicyIteration, FollowerSolver, Response
from tabular_bilevel.finite.linear import discounted_system
from tabular_bilevel.finite.model import Model
from tabular_bilevel.problem import BilevelProblem
from tabular_bilevel.problems.markov_game import MarkovGame
from tabular_bilevel.sampling.critics import LeaderValues, learn_differences, require_step_size
from tabular_bilevel.sampling.experience import NOTHING, Experience, Interaction, Memory
from tabular_bilevel.sampling.samplers import Episodes, Sampler
from tabular_bilevel.sampling.traces import TraceRule
from tabular_bilevel.sampling.trajectories import Trajectories

# A better choice is worth more than the other by this, relative to the values' size: more than
# rounding, at any discount up to 0.99999.
TOLERANCE = 1e-11

# Policy iteration takes a few rounds; a hundred mean that rounding exchanges choices that tie.
MOST_CHOICES = 100


@dataclass(frozen=True)
class BiLevelActorCritic:
    """The naive policy gradient with a critic that trusts the leader to play its best.

    Source: Zhang et al. (AAAI 2020, arXiv:1909.03510); theory.md section 6.

    The critic learns by Q-learning, BR(s, b) being the mode of pi(.|s, b)::

        Q_L(s, b, a)  <-  r_L + gamma_L max_b' Q_L(s', b', BR(s', b'))

    and the leader's policy climbs gamma_L^t grad log f(b_t|s_t) Q_L(s_t, b_t, a_t).

    Assumes: a game whose follower sees the leader's action, and answers with its mode. Bias: the
    part through the follower is missing, and the critic's values are those of another leader, who
    plays its best action in each state from the next step on; both vanish together only where the
    follower does not react and the leader already does so.

    Attributes
    ----------
    sampler : Sampler
        How much data, and where trajectories are cut.
    step_size : float, optional
        Step size of the critic, in (0, 1]; by default its fixed point is computed from the model.
    sweeps : int
        The critic's passes over the data.
    follower : FollowerSolver
        How the follower answers.
    replay : int, optional
        How many earlier calls' trajectories are seen as well, as of `Interaction`.

    Raises
    ------
    ValueError
        On construction, if a setting is out of range, or a part lacks the method that it needs.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> game = tb.problems.layered_game(depth=2, width=1)
    >>> method, theta = tb.BiLevelActorCritic(tb.Episodes(10)), [0.0] * 4
    >>> method.target(game, theta).shape, method(game, theta, rng=0).n_trajectories
    ((4,), 10)
    >>> method.interaction_for(game).sampler
    Episodes(n_trajectories=10, steps=None)
    """

    sampler: Sampler = Episodes()
    step_size: float | None = None
    sweeps: int = 1
    follower: FollowerSolver = CompiledPolicyIteration()
    replay: int | None = None

    def __post_init__(self) -> None:
        positive_integer("sweeps", self.sweeps)
        Interaction(self.sampler, follower=self.follower, replay=self.replay)
        if self.step_size is not None:
            require_step_size(self.step_size)

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

        Raises ValueError if the problem is not a game whose follower sees the leader's action.
        """
        actor = NaivePolicyGradient(self.interaction_for(problem))
        return actor(problem, theta, rng=rng, memory=memory)

    @quiet
    def estimate(self, experience: Experience) -> Estimate:
        """Estimate from given experience, with the fixed point in the place of its values.

        If `step_size` is given, the values are left as they are: experience gathered by this
        method's `interaction_for` has those that its critic learnt.
        """
        critic = self.interaction_for(experience.problem).critic
        if self.step_size is None:
            values = critic.limit(experience.world, experience.response, self.sampler)
            experience = replace(experience, values=values)
        return NaivePolicyGradient().estimate(experience)

    def rule_at(
        self, problem: BilevelProblem, theta: npt.ArrayLike
    ) -> tuple[TraceRule, Experience]:
        """Return its rule, and what it knows, where they do not depend on the sample."""
        return NaivePolicyGradient(self.interaction_for(problem)).rule_at(problem, theta)

    @quiet
    def target(self, problem: BilevelProblem, theta: npt.ArrayLike) -> FloatArray:
        """Compute what the estimates' mean comes to with infinite data, shape (d,)."""
        return NaivePolicyGradient(self.interaction_for(problem)).target(problem, theta)

    bias = bias_of

    def enumerable(self, problem: BilevelProblem, theta: npt.ArrayLike) -> GivenTrajectories:
        """Make it ready to be given trajectories at one theta, in the sampler's place."""
        return NaivePolicyGradient(self.interaction_for(problem)).enumerable(problem, theta)

    def interaction_for(self, problem: BilevelProblem) -> Interaction:
        """Return how experience of a game is got: sampler, follower, and this method's critic.

        Parameters
        ----------
        problem : BilevelProblem
            A game whose follower sees the leader's action.

        Returns
        -------
        Interaction
            What gathers its experience.

        Raises
        ------
        ValueError
            If the problem is not a game whose follower sees the leader's action.
        """
        if not isinstance(problem, MarkovGame) or not problem.follower_observes_leader:
            raise ValueError(
                "BiLevelActorCritic is defined for Markov games whose follower sees the leader's "
                f"action, and the problem is {problem}"
            )
        if problem.leader_discount == 1.0:
            raise ValueError(
                "BiLevelActorCritic is defined for a leader's discount below 1, and it is 1: where "
                "the leader plays its best action alone, play need not end"
            )
        critic = StackelbergCritic(problem.n_leader_actions, self.step_size, self.sweeps)
        return Interaction(self.sampler, critic, self.follower, replay=self.replay)


@dataclass(frozen=True)
class StackelbergCritic:
    """The critic of Bi-AC, on the states (s, b) of the follower's model."""

    n_leader_actions: int
    step_size: float | None
    sweeps: int

    @property
    def given(self) -> bool:
        """Whether its values do not depend on the sample."""
        return self.step_size is None

    @quiet
    def values(
        self,
        response: Response,
        trajectories: Trajectories,
        *,
        rng: np.random.Generator,
        previous: FloatArray | None = None,
    ) -> LeaderValues:
        """Learn Q_L from the trajectories, or compute it."""
        if self.step_size is None:
            return self._fixed_point(trajectories.model, response)
        return learn_differences(
            response,
            trajectories,
            lambda table: self._best(response, table),
            step_size=self.step_size,
            sweeps=self.sweeps,
            rng=rng,
            previous=previous,
        )

    @quiet
    def limit(self, model: Model, response: Response, sampler: Sampler) -> LeaderValues:
        """Compute Q_L."""
        return self._fixed_point(model, response)

    def _best(self, response: Response, table: FloatArray) -> FloatArray:
        """Look up what the leader's best action in a state is worth, for each (s, b) alike."""
        mode = response.policy.argmax(axis=1)
        answered = np.take_along_axis(table, mode[:, None], axis=1)
        best = answered.reshape(-1, self.n_leader_actions).max(axis=1)
        return np.repeat(best, self.n_leader_actions)

    def _fixed_point(self, model: Model, response: Response) -> LeaderValues:
        """Compute Q_L by policy iteration over the leader's choice in each state."""
        n_actions, mode = model.n_actions, response.policy.argmax(axis=1)
        answered = np.arange(model.n_states) * n_actions + mode  # the pair that (s, b) comes to
        first = np.arange(0, model.n_states, self.n_leader_actions)
        choice = np.zeros(first.size, dtype=np.int64)
        for _ in range(MOST_CHOICES):
            pairs = np.repeat(answered[first + choice], self.n_leader_actions)
            system = discounted_system(model, model.transition[pairs], model.leader_discount)
            value = system.solve(model.leader_reward.ravel()[pairs])
            table = model.leader_reward + model.leader_discount * model.next_value(value)
            worth = table.ravel()[answered].reshape(-1, self.n_leader_actions)
            best = worth.argmax(axis=1)
            rows = np.arange(first.size)
            gain = worth[rows, best] - worth[rows, choice]
            better = gain > TOLERANCE * np.abs(worth).max()
            if not better.any():
                return LeaderValues.under(response.policy, table)
            choice = np.where(better, best, choice)
        raise ConvergenceError(
            f"the leader's best choices still change, for a gain of {gain.max():.3g}",
            residual=float(gain.max()),
            iterations=MOST_CHOICES,
        )
