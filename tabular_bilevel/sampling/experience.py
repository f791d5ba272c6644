"""What estimators start from: a follower's response, trajectories, and a critic's values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arguments import as_generator, as_theta, entry, first, require_method
from tabular_bilevel._base.arrays import FloatArray, read_only
from tabular_bilevel.finite.follower import CompiledPolicyIteration, FollowerSolver, Response
from tabular_bilevel.finite.model import Model
from tabular_bilevel.problem import BilevelProblem
from tabular_bilevel.sampling.critics import Critic, ExactCritic, LeaderValues
from tabular_bilevel.sampling.samplers import Episodes, Sampler
from tabular_bilevel.sampling.trajectories import Trajectories

__all__ = ["NOTHING", "Experience", "Interaction", "Limit", "Memory", "require_interaction"]

#: What goes on from one call of an estimator to the next, by name: arrays only, easy to save.
Memory = Mapping[str, FloatArray]

NOTHING: Memory = MappingProxyType({})

FOLLOWER_VALUE, LEADER_ACTION_VALUE = "follower_value", "leader_action_value"


@dataclass(frozen=True, eq=False)
class Experience:
    """What an estimator has in hand after acting.

    Attributes
    ----------
    problem : BilevelProblem
        The leader's problem; where there is a simulator, the simulator.
    theta : ndarray, shape (d,)
        The leader's parameter.
    model : Model
        What the follower planned with.
    response : Response
        The follower's response to it.
    trajectories : Trajectories
        Sampled under that response; they know the model they come from.
    values : LeaderValues
        The critic's.
    memory : mapping of str to ndarray
        To go on from.
    """

    problem: BilevelProblem = field(repr=False)
    theta: FloatArray = field(repr=False)
    model: Model
    response: Response
    trajectories: Trajectories
    values: LeaderValues
    memory: Memory = field(repr=False)


@dataclass(frozen=True, eq=False)
class Limit:
    """What an infinite sample would show; the fields are those of `Experience`.

    Attributes
    ----------
    problem : BilevelProblem
        The leader's problem; where there is a simulator, the simulator.
    theta : ndarray, shape (d,)
        The leader's parameter.
    planned : Model
        What the follower planned with.
    model : Model
        The model that trajectories come from.
    response : Response
        The follower's response.
    values : LeaderValues
        What the critic comes to.
    horizon : int
        Steps after which trajectories are cut.
    survival : float
        Probability with which a step is followed by another.
    """

    problem: BilevelProblem = field(repr=False)
    theta: FloatArray = field(repr=False)
    planned: Model = field(repr=False)
    model: Model
    response: Response
    values: LeaderValues
    horizon: int
    survival: float


@dataclass(frozen=True)
class Interaction:
    """How a leader gets its experience; estimators share it, so that methods are compared alike.

    Attributes
    ----------
    sampler : Sampler
        How much data, and where trajectories are cut.
    critic : Critic
        Where the leader's values come from.
    follower : FollowerSolver
        How the follower answers; it starts from its last answer, if there is one.
    simulator : BilevelProblem, optional
        Where trajectories come from, if not from the problem that the follower plans with. The
        published four rooms have such a mismatch.
    """

    sampler: Sampler = Episodes()
    critic: Critic = ExactCritic()
    follower: FollowerSolver = CompiledPolicyIteration()
    simulator: BilevelProblem | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        for name, method in (("sampler", "sample"), ("critic", "values"), ("follower", "solve")):
            require_method(name, getattr(self, name), method)
        if self.simulator is not None:
            require_method("simulator", self.simulator, "model")

    def gather(
        self,
        problem: BilevelProblem,
        theta: npt.ArrayLike,
        *,
        rng: np.random.Generator | int,
        memory: Memory = NOTHING,
    ) -> Experience:
        """Let the follower answer, sample trajectories and ask the critic.

        Parameters
        ----------
        problem : BilevelProblem
            The leader's problem.
        theta : array_like, shape (d,)
            The leader's parameter.
        rng : numpy.random.Generator or int
            Source of randomness (it advances), or a seed.
        memory : mapping of str to ndarray
            Of the experience before, at a theta nearby.

        Returns
        -------
        Experience
            What an estimator's `estimate` takes.
        """
        generator, theta = as_generator(rng), read_only(as_theta(theta))
        model = problem.model(theta)
        response = self.follower.solve(model, start=memory.get(FOLLOWER_VALUE))
        world = problem if self.simulator is None else self.simulator
        trajectories = self.sampler.sample(
            self._simulated(theta, model), response.policy, rng=generator
        )
        values = self.critic.values(
            response, trajectories, rng=generator, previous=memory.get(LEADER_ACTION_VALUE)
        )
        return Experience(
            problem=world,
            theta=theta,
            model=model,
            response=response,
            trajectories=trajectories,
            values=values,
            memory={FOLLOWER_VALUE: response.value, LEADER_ACTION_VALUE: values.action_value},
        )

    def limit(self, problem: BilevelProblem, theta: npt.ArrayLike) -> Limit:
        """Compute what `gather` comes to with infinite data, without any before.

        Parameters
        ----------
        problem : BilevelProblem
            The leader's problem.
        theta : array_like, shape (d,)
            The leader's parameter.

        Returns
        -------
        Limit
            What an estimator's target is made of.
        """
        theta = read_only(as_theta(theta))
        planned = problem.model(theta)
        response = self.follower.solve(planned)
        world = problem if self.simulator is None else self.simulator
        model = self._simulated(theta, planned)
        return Limit(
            problem=world,
            theta=theta,
            planned=planned,
            model=model,
            response=response,
            values=self.critic.limit(model, response, self.sampler),
            horizon=self.sampler.horizon(model),
            survival=self.sampler.survival(model),
        )

    def _simulated(self, theta: FloatArray, planned: Model) -> Model:
        if self.simulator is None:
            return planned
        model = self.simulator.model(theta)
        found, wanted = model.follower_reward.shape, planned.follower_reward.shape
        if found != wanted:
            raise ValueError(f"simulator has tables of shape {found}, the problem {wanted}")
        if not np.array_equal(model.available, planned.available):
            index = first(model.available != planned.available)
            raise ValueError(
                f"{entry('available', index)} is {model.available[index]} in the simulator, "
                f"{planned.available[index]} in the problem"
            )
        return model


def require_interaction(interaction: object) -> None:
    """Raise unless experience can be gathered with it."""
    if isinstance(interaction, type) or not callable(getattr(interaction, "gather", None)):
        raise ValueError(
            f"interaction is {interaction!r}, not an Interaction, which holds a sampler"
        )
