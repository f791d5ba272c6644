"""What estimators start from: a follower's response, trajectories, and a critic's values."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arguments import (
    as_generator,
    as_theta,
    entry,
    finite_array,
    first,
    keeps_up,
    positive_integer,
    require_method,
)
from tabular_bilevel._base.arrays import FloatArray, read_only, restore_read_only, unchecked
from tabular_bilevel._base.files import brief
from tabular_bilevel.finite.follower import (
    CompiledPolicyIteration,
    FollowerSolver,
    PolicyIteration,
    Response,
)
from tabular_bilevel.finite.model import Model
from tabular_bilevel.kinds import by_kind, solve_follower
from tabular_bilevel.lq.follower import GaussianPolicy
from tabular_bilevel.lq.follower import Response as LinearQuadraticResponse
from tabular_bilevel.lq.model import LinearQuadraticModel
from tabular_bilevel.lq.trajectories import Law as LawOfStates
from tabular_bilevel.problem import (
    BilevelProblem,
    TablesOnlyError,
    model_at,
    modelled,
    require_tables,
)
from tabular_bilevel.sampling.critics import Critic, ExactCritic, LeaderValues
from tabular_bilevel.sampling.replay import with_earlier
from tabular_bilevel.sampling.samplers import Episodes, Sampler
from tabular_bilevel.sampling.trajectories import Law, Trajectories

#: What goes on from one call of an estimator to the next, by name: arrays only, easy to save.
Memory = Mapping[str, FloatArray]

NOTHING: Memory = MappingProxyType({})

#: How many calls there were, of estimators whose settings change with them.
ITERATION = "iteration"

FOLLOWER_VALUE, LEADER_ACTION_VALUE = "follower_value", "leader_action_value"

# Kept for followers that have a table of their own to go on with, such as StoppedPolicyIteration.
FOLLOWER_ACTION_VALUE = "follower_action_value"


@dataclass(frozen=True, eq=False)
class Experience:
    """What an estimator knows: of a sample, or of the law that samples are drawn from.

    An estimate is made of the one, a target, in the same way, of the other: they differ in how
    often a step is seen.

    Attributes
    ----------
    problem : BilevelProblem
        The leader's problem; where there is a simulator, the simulator.
    theta : ndarray, shape (d,)
        The leader's parameter.
    planned : Model
        What the follower planned with.
    response : Response
        The follower's response to it.
    seen : Trajectories or Law
        Under that response, in a world that they know.
    values : LeaderValues
        The critic's values of the leader.
    memory : mapping of str to ndarray
        What the next call starts from.
    again : callable, optional
        Of a law: computes what would be known at another theta.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> problem, theta = tb.problems.two_state(), [0.0, 0.0]
    >>> experience = tb.Interaction(tb.Episodes(5, steps=9)).gather(problem, theta, rng=0)
    >>> experience.trajectories.count, experience.world is experience.planned
    (5, True)
    >>> experience.values.advantage.shape, sorted(experience.memory)
    ((2, 2), ['follower_value', 'leader_action_value'])
    """

    problem: BilevelProblem = field(repr=False)
    theta: FloatArray = field(repr=False)
    planned: Model
    response: Response
    seen: Trajectories | Law
    values: LeaderValues
    memory: Memory = field(default_factory=dict, repr=False)
    again: Callable[[FloatArray], Experience] | None = field(default=None, repr=False)

    __setstate__ = restore_read_only

    @property
    def world(self) -> Model:
        """The model that trajectories come from, as the leader knows it."""
        return self.seen.model

    @property
    def trajectories(self) -> Trajectories:
        """The sample; ValueError if there is a law in its place."""
        if isinstance(self.seen, Law):
            raise ValueError("what was seen is a law, not a sample of trajectories")
        return self.seen

    @property
    def law(self) -> Law:
        """The law; ValueError if there is a sample in its place."""
        if isinstance(self.seen, Trajectories):
            raise ValueError("what was seen is a sample of trajectories, not a law")
        return self.seen

    def seeing(self, trajectories: Trajectories) -> Experience:
        """Put trajectories in the place of the law, cut where it cuts them."""
        law = self.law
        return replace(self, seen=trajectories.cut(law.horizon).replace(model=law.model))

    @property
    def model(self) -> Model:
        """Deprecated: what is `planned` now."""
        warnings.warn("Experience.model is called planned now", DeprecationWarning, stacklevel=2)
        return self.planned


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
        How the follower answers; it starts from its last answer, if there is one. A follower that
        can `begin`, as `StoppedPolicyIteration`, says itself where.
    simulator : BilevelProblem, optional
        Where trajectories come from, if not from the problem that the follower plans with. The
        published four rooms have such a mismatch.
    replay : int, optional
        How many earlier calls' trajectories are seen beside those of now, without importance
        weights; they go on in the memory. Its exact effect on the mean is what `replayed` says.

    Raises
    ------
    ValueError
        On construction, if a setting is out of range, or a part lacks the method that it needs.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> interaction = tb.Interaction(tb.Episodes(20), tb.MonteCarloCritic())
    >>> experience = interaction.gather(tb.problems.bandit(), [0.0, 0.0], rng=0)
    >>> tb.BoltzmannCovariance(interaction).estimate(experience).n_trajectories
    20
    """

    sampler: Sampler = Episodes()
    critic: Critic = ExactCritic()
    follower: FollowerSolver = CompiledPolicyIteration()
    simulator: BilevelProblem | None = None
    replay: int | None = None

    def __post_init__(self) -> None:
        if self.replay is not None:
            positive_integer("replay", self.replay)
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
            What an earlier call left, at a theta nearby.

        Returns
        -------
        Experience
            What an estimator's `estimate` takes.

        Raises
        ------
        ValueError
            If theta does not fit the problem, or a simulator's tables do not fit the problem's.
        """
        require_memory(memory)
        generator, theta = as_generator(rng), read_only(as_theta(theta))
        planned: Any = model_at(problem, theta)
        _require_fit(planned, self.follower, self.critic)
        start, begin = memory.get(FOLLOWER_VALUE), getattr(self.follower, "begin", None)
        if begin is not None:
            start = begin(planned, previous=memory.get(FOLLOWER_ACTION_VALUE), rng=generator)
        response = answered(planned, self.follower, start)
        trajectories = self.sampler.sample(
            self._simulated(theta, planned), response.policy, rng=generator
        )
        earlier: dict[str, Any] = {}
        if self.replay is not None:
            require_tables(planned)
            trajectories, earlier = with_earlier(trajectories, memory, self.replay)
        values = self.critic.values(
            response, trajectories, rng=generator, previous=memory.get(LEADER_ACTION_VALUE)
        )
        kept = _kept(planned, response, values) | earlier
        if begin is not None:
            table = np.where(planned.available, response.action_value, 0.0)
            kept[FOLLOWER_ACTION_VALUE] = read_only(table)
        return unchecked(
            Experience,
            problem=problem if self.simulator is None else self.simulator,
            theta=theta,
            planned=planned,
            response=response,
            seen=trajectories,
            values=values,
            memory=kept,
            again=None,
        )

    def limit(
        self, problem: BilevelProblem, theta: npt.ArrayLike, *, memory: Memory = NOTHING
    ) -> Experience:
        """Compute what `gather` comes to with infinite data; arguments as of `gather`.

        Returns experience of a law, which an estimator's target is made of.
        """
        require_method("critic", self.critic, "limit")  # which sampling does without
        require_memory(memory)
        theta = read_only(as_theta(theta))
        planned: Any = model_at(problem, theta)
        _require_fit(planned, self.follower, self.critic)
        kept = FOLLOWER_ACTION_VALUE if hasattr(self.follower, "begin") else FOLLOWER_VALUE
        response = answered(planned, self.follower, memory.get(kept))
        world = self._simulated(theta, planned)
        return Experience(
            problem=problem if self.simulator is None else self.simulator,
            theta=theta,
            planned=planned,
            response=response,
            seen=_law(world, self.sampler, response.policy),
            values=self.critic.limit(world, response, self.sampler),
            again=partial(self.limit, problem),
        )

    def replayed(
        self, problem: BilevelProblem, theta: npt.ArrayLike, before: Sequence[npt.ArrayLike]
    ) -> list[Experience]:
        """Compute what `gather` comes to where earlier calls were at other thetas.

        With `Episodes`, an estimate that is a mean over trajectories is on average the mean of its
        estimates of these: that is the exact effect of replay.

        Parameters
        ----------
        problem : BilevelProblem
            The leader's problem.
        theta : array_like, shape (d,)
            The leader's parameter now.
        before : sequence of array_like, shape (d,)
            Those of the calls before, the last one last.

        Returns
        -------
        list of Experience
            Of the present law, and of those of the earlier calls that are seen, judged as now.

        Raises
        ------
        ValueError
            If the transitions that are stored change with theta; and as `limit`.

        Examples
        --------
        >>> import numpy as np
        >>> import tabular_bilevel as tb
        >>> game, method = tb.problems.discrete_toy(), tb.NaivePolicyGradient()
        >>> now, then = game.logits({"A": [0.8, 0.2]}), game.logits({"A": [0.5, 0.5]})
        >>> seen = tb.Interaction(replay=1).replayed(game, now, [then])
        >>> mean = np.mean([method.estimate(law).gradient for law in seen], axis=0)
        >>> mean[3].round(3), method.target(game, now)[3].round(3)
        (np.float64(0.986), np.float64(1.901))
        """
        if not isinstance(before, Iterable):
            raise ValueError(f"before is {before!r}, not a sequence of thetas")
        now = self.limit(problem, theta)
        if self.replay is not None:
            require_tables(now.planned)
        kept = list(before)[::-1][: self.replay or 0]
        there = [seen_of(now, self.limit(problem, at)) for at in kept]
        if any(each is None for each in there):
            raise ValueError(
                "the transitions that there are change with theta: no step is replayed"
            )
        return [now, *(each for each in there if each is not None)]

    def given(self, problem: BilevelProblem, theta: npt.ArrayLike) -> Experience:
        """Compute what is known whatever the sample shows, as `limit` does.

        Raises ValueError if the critic's values depend on the sample.
        """
        known = getattr(self.critic, "given", False)
        if not (known and keeps_up(self.critic, "limit", "values")):  # an heir may learn
            raise ValueError(
                f"critic is {self.critic}, which learns from the sample: moments take enumeration, "
                "by check_by_enumeration, or sampling; or a GivenCritic of what it learned"
            )
        return self.limit(problem, theta)

    def _simulated(self, theta: FloatArray, planned: Any) -> Any:
        if self.simulator is None:
            return planned
        require_tables(planned)
        model = modelled(self.simulator, theta, name="simulator")
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


def seen_of(known: Experience, before: Experience) -> Experience | None:
    """See what was done at another theta, and take it for what is done now; all else is of now.

    None where other transitions are stored there, or something happened that cannot happen now.
    """
    (here, begun), (now, _), (then, started) = (
        (model.transition, model.initial)
        for model in (known.world, known.law.made_in, before.law.made_in)
    )
    if not (np.array_equal(now.indptr, then.indptr) and np.array_equal(now.indices, then.indices)):
        return None
    if np.any((here.data == 0.0) & (then.data > 0.0)) or np.any((begun == 0.0) & (started > 0.0)):
        return None
    seen = replace(known.law, policy=before.law.policy, source=before.law.made_in)
    return replace(known, seen=seen)


def require_memory(memory: object, *, name: str = "memory") -> None:
    """Raise unless it can be what an earlier call left."""
    if not isinstance(memory, (dict, MappingProxyType, Mapping)):  # the rules first
        raise ValueError(f"{name} is {brief(repr(memory))}, not a mapping of names to arrays")


def calls_before(memory: Memory) -> float:
    """Read off how many calls there were; ValueError if a memory says nonsense."""
    require_memory(memory)
    k = float(finite_array("memory's iteration", memory.get(ITERATION, np.zeros(1)), (1,))[0])
    if k < 0.0:
        raise ValueError(f"memory's iteration is {k:g}, below 0")
    return k


def require_interaction(interaction: object) -> None:
    """Raise unless experience can be gathered with it."""
    if isinstance(interaction, type) or not callable(getattr(interaction, "gather", None)):
        raise ValueError(
            f"interaction is {interaction!r}, not an Interaction, which holds a sampler"
        )


def law_of(sampler: Sampler, model: Model, policy: FloatArray) -> Law:
    """Return the law of a sampler's trajectories."""
    return Law(model, policy, sampler.horizon(model), sampler.survival(model))


def _require_of_states(_: object, follower: FollowerSolver, critic: Critic) -> None:
    """Raise if a follower or a critic of this package is one of tables."""
    exact = isinstance(follower, (CompiledPolicyIteration, PolicyIteration))
    if not exact and type(follower).__module__ == CompiledPolicyIteration.__module__:
        raise TablesOnlyError(f"follower is {follower}, which answers to models of tables only")
    if not isinstance(critic, ExactCritic) and type(critic).__module__ == ExactCritic.__module__:
        raise TablesOnlyError(
            f"critic is {critic}, which has a table of values: of a linear-quadratic model take "
            "tb.ExactCritic() or tb.QuadraticCritic()"
        )


def _exactly(
    model: LinearQuadraticModel, follower: FollowerSolver, start: FloatArray | None
) -> LinearQuadraticResponse:
    """Solve as well as can be, or by a solver of this kind of model."""
    _require_of_states(model, follower, ExactCritic())
    solve = getattr(type(follower), "solve", None)  # that of an heir may be another
    exact = solve in (CompiledPolicyIteration.solve, PolicyIteration.solve)
    return solve_follower(model, solver=None if exact else follower, start=start)


def _law_of_states(
    model: LinearQuadraticModel, sampler: Sampler, policy: GaussianPolicy
) -> LawOfStates:
    known: Any = model
    if sampler.survival(known) != 1.0:
        require_tables(model)
    return LawOfStates(model, policy, sampler.horizon(known))


#: The follower's answer to a model, from a start.
answered = by_kind(lambda model, follower, start: follower.solve(model, start=start), _exactly)
_law = by_kind(lambda model, sampler, policy: law_of(sampler, model, policy), _law_of_states)

_require_fit = by_kind(lambda *_: None, _require_of_states)

# What the next call starts from.
_kept = by_kind(
    lambda _, response, values: {
        FOLLOWER_VALUE: response.value,
        LEADER_ACTION_VALUE: values.action_value,
    },
    lambda _, response, values: {FOLLOWER_VALUE: response.value},
)
