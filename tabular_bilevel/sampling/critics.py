"""Critics: where an estimator's leader values come from (theory.md section 10)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from tabular_bilevel._base import kernels
from tabular_bilevel._base.arguments import (
    as_flag,
    as_generator,
    as_nonnegative,
    as_real,
    finite_array,
    positive_integer,
)
from tabular_bilevel._base.arrays import (
    FloatArray,
    IntArray,
    backwards,
    quiet,
    ratio,
    read_only,
    restore_read_only,
    unchecked,
)
from tabular_bilevel.finite.follower import Response
from tabular_bilevel.finite.leader import evaluate_leader
from tabular_bilevel.finite.linear import policy_system
from tabular_bilevel.finite.model import Model
from tabular_bilevel.kinds import by_kind
from tabular_bilevel.lq.values import exact_values as exact_values_of_states
from tabular_bilevel.sampling.samplers import Sampler
from tabular_bilevel.sampling.trajectories import STEPS_OF_A_BLOCK, Trajectories, row_blocks

# A step in random order takes as long as so many in a row: 0.2 us.
SCATTERED = 10


@dataclass(frozen=True, eq=False)
class LeaderValues:
    """What a critic knows of the leader's return.

    Attributes
    ----------
    action_value : ndarray, shape (S, A)
        Q_L.
    value : ndarray, shape (S,)
        V_L.

    Examples
    --------
    >>> import numpy as np
    >>> import tabular_bilevel as tb
    >>> values = tb.LeaderValues.under(np.array([[0.25, 0.75]]), np.array([[0.0, 4.0]]))
    >>> values.value, values.advantage
    (array([3.]), array([[-3.,  1.]]))
    """

    action_value: FloatArray
    value: FloatArray

    __setstate__ = restore_read_only

    @classmethod
    def under(cls, policy: FloatArray, action_value: FloatArray) -> LeaderValues:
        """Average action values under a policy.

        Parameters
        ----------
        policy : ndarray, shape (S, A)
            The follower's.
        action_value : ndarray, shape (S, A)
            Q_L.

        Returns
        -------
        LeaderValues
            These, and V_L.
        """
        value = read_only(np.vecdot(policy, action_value))
        return unchecked(cls, action_value=read_only(action_value), value=value)

    @property
    def advantage(self) -> FloatArray:
        """A_L = Q_L - V_L, shape (S, A)."""
        return read_only(self.action_value - self.value[:, None])


class Critic(Protocol):
    """Anything that gives the leader's values.

    Where these do not depend on the sample, an attribute ``given = True`` says so.

    Examples
    --------
    One that is off by a constant; no constant changes an advantage:

    >>> import tabular_bilevel as tb
    >>> class Shifted:
    ...     def values(self, response, trajectories, *, rng, previous=None):
    ...         found = tb.ExactCritic().values(response, trajectories, rng=rng)
    ...         return tb.LeaderValues(found.action_value + 1.0, found.value + 1.0)
    ...     def limit(self, model, response, sampler):
    ...         found = tb.ExactCritic().limit(model, response, sampler)
    ...         return tb.LeaderValues(found.action_value + 1.0, found.value + 1.0)
    >>> method = tb.BoltzmannCovariance(tb.Interaction(critic=Shifted()))
    >>> method.target(tb.problems.bandit(), [0.0, 0.0]).round(6)
    array([-0.25,  0.25])
    """

    def values(
        self,
        response: Response,
        trajectories: Trajectories,
        *,
        rng: np.random.Generator,
        previous: FloatArray | None = None,
    ) -> LeaderValues:
        """Compute or estimate Q_L and V_L under the follower's policy.

        The trajectories know the model they come from. A critic that learns goes on from its
        `previous` action values, shape (S, A), if there are any.

        Parameters
        ----------
        response : Response
            The follower's.
        trajectories : Trajectories
            What was seen of it.
        rng : numpy.random.Generator
            Source of randomness; it advances.
        previous : ndarray, shape (S, A), optional
            Action values that an earlier call ended with.

        Returns
        -------
        LeaderValues
            Q_L and V_L.
        """
        ...

    def limit(self, model: Model, response: Response, sampler: Sampler) -> LeaderValues:
        """Compute what the values come to with infinitely many of a sampler's trajectories.

        Parameters
        ----------
        model : Model
            Where trajectories come from.
        response : Response
            The follower's.
        sampler : Sampler
            Whose trajectories.

        Returns
        -------
        LeaderValues
            Q_L and V_L.
        """
        ...


@dataclass(frozen=True)
class ExactCritic:
    """The true Q_L and V_L, from the model.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> interaction = tb.Interaction(tb.Episodes(1), tb.ExactCritic())
    >>> experience = interaction.gather(tb.problems.bandit(leader_discount=0.5), [0.0, 0.0], rng=0)
    >>> experience.values.value  # 1/2 a step, and steps weigh 2 in all
    array([1.])
    """

    #: Its values do not depend on the sample.
    given: ClassVar[bool] = True

    @quiet
    def values(
        self,
        response: Response,
        trajectories: Trajectories,
        *,
        rng: np.random.Generator,
        previous: FloatArray | None = None,
    ) -> LeaderValues:
        """Evaluate the leader exactly, as of `Critic`; only the trajectories' model is used."""
        as_generator(rng)  # what is none is refused all the same
        return exact_values(trajectories.model, response)

    @quiet
    def limit(self, model: Model, response: Response, sampler: Sampler) -> LeaderValues:
        """Evaluate the leader exactly."""
        return exact_values(model, response)


@dataclass(frozen=True, eq=False)
class GivenCritic:
    """Action values that are given, right or wrong, whatever the sample shows.

    `estimator_moments` says how an error in them enters a method's bias and variance.

    Attributes
    ----------
    action_value : array_like, shape (S, A)
        Q_L; V_L is its mean under the follower's policy.

    Raises
    ------
    ValueError
        On construction, if that is no table of finite numbers.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> problem, theta = tb.problems.bandit(), [0.0, 0.0]  # where Q_L is 0 and 1
    >>> method = tb.BoltzmannCovariance(tb.Interaction(critic=tb.GivenCritic([[0.0, 1.5]])))
    >>> method.target(problem, theta), tb.hypergradient(problem, theta).gradient
    (array([-0.375,  0.375]), array([-0.25,  0.25]))
    """

    action_value: FloatArray

    given: ClassVar[bool] = True

    __setstate__ = restore_read_only

    def __post_init__(self) -> None:
        table = finite_array("action_value", self.action_value, (None, None))
        object.__setattr__(self, "action_value", read_only(table))

    @quiet
    def values(
        self,
        response: Response,
        trajectories: Trajectories,
        *,
        rng: np.random.Generator,
        previous: FloatArray | None = None,
    ) -> LeaderValues:
        """Return them."""
        return self._under(response)

    @quiet
    def limit(self, model: Model, response: Response, sampler: Sampler) -> LeaderValues:
        """Return them."""
        return self._under(response)

    def _under(self, response: Response) -> LeaderValues:
        shape = response.policy.shape
        if self.action_value.shape != shape:
            raise ValueError(f"action_value has shape {self.action_value.shape}, not {shape}")
        return LeaderValues.under(response.policy, self.action_value)


@dataclass(frozen=True)
class MonteCarloCritic:
    """Q_L and V_L as averages of discounted returns, over all visits to a pair or a state.

    What is cut from a trajectory is missing in its returns. Pairs that were not visited have Q_L
    0, and states V_L 0: nothing is known of them.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> interaction = tb.Interaction(tb.Episodes(1000, steps=1), tb.MonteCarloCritic())
    >>> experience = interaction.gather(tb.problems.bandit(), [0.0, 0.0], rng=0)
    >>> experience.values.action_value, bool(abs(experience.values.value[0] - 0.5) < 0.05)
    (array([[0., 1.]]), True)
    """

    @quiet
    def values(
        self,
        response: Response,
        trajectories: Trajectories,
        *,
        rng: np.random.Generator,
        previous: FloatArray | None = None,
    ) -> LeaderValues:
        """Average the returns, as of `Critic`."""
        as_generator(rng)  # what is none is refused all the same
        model = trajectories.model
        counts, returns = np.zeros((2, *model.leader_reward.shape))
        kernels.monte_carlo(
            trajectories.pairs,
            trajectories.lengths,
            model.leader_reward.ravel(),
            model.leader_discount / trajectories.survival,
            counts.ravel(),
            returns.ravel(),
        )
        return visited_mean(counts, returns)

    @quiet
    def limit(self, model: Model, response: Response, sampler: Sampler) -> LeaderValues:
        """Average the exact values of the steps left over the expected visits."""
        policy, discount = response.policy, model.leader_discount
        horizon, survival = sampler.horizon(model), sampler.survival(model)
        counts, returns = np.zeros((2, *policy.shape))
        law = model.initial

        def longer(left: FloatArray) -> FloatArray:
            value = (policy * left).sum(axis=1)
            return np.asarray(model.leader_reward + discount * model.next_value(value))

        for left in backwards(longer, model.leader_reward, horizon, policy.size):
            pairs = policy * law[:, None]
            counts += pairs
            returns += pairs * left
            law = survival * model.arrivals(pairs)
        return visited_mean(counts, returns)


@dataclass(frozen=True, kw_only=True)
class SarsaCritic:
    """Q_L by SARSA on the estimator's own trajectories; the table may survive outer iterations.

    Each sweep updates once for every step, in random order; an episode's last step has no
    bootstrap. Its limit is that of small steps: the true Q_L, unless a cut is an end.

    Attributes
    ----------
    step_size : float
        In (0, 1].
    sweeps : int
        Passes over the data.
    initial_spread : float
        Standard deviation of the first table's normal entries; 0 for a table of zeros.
    cut_is_end : bool
        Whether the last step of a trajectory that was cut is treated as an episode's end, as the
        published code does, which makes values too small, or passed over.
    warm_start : bool
        Whether a table goes on from the one before, or starts anew at each call, as the published
        code for games can: with infinite data that is no matter, with n visits to a pair a share of
        (1 - step_size)^n of its first value is left.

    Raises
    ------
    ValueError
        On construction, if a setting is out of range; the message names it.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> critic = tb.SarsaCritic(step_size=0.5, sweeps=5)
    >>> interaction = tb.Interaction(tb.Episodes(20, steps=4), critic)
    >>> experience = interaction.gather(tb.problems.bandit(), [0.0, 0.0], rng=0)
    >>> experience.values.action_value.round(3)  # 0 and 1 in truth
    array([[0., 1.]])
    """

    step_size: float = 0.1
    sweeps: int = 10
    initial_spread: float = 0.0
    cut_is_end: bool = False
    warm_start: bool = True

    def __post_init__(self) -> None:
        positive_integer("sweeps", self.sweeps)
        require_step_size(self.step_size)
        as_nonnegative("initial_spread", self.initial_spread)
        as_flag("cut_is_end", self.cut_is_end)
        as_flag("warm_start", self.warm_start)

    @quiet
    def values(
        self,
        response: Response,
        trajectories: Trajectories,
        *,
        rng: np.random.Generator,
        previous: FloatArray | None = None,
    ) -> LeaderValues:
        """Learn Q_L from the trajectories, as of `Critic`."""
        model, rng = trajectories.model, as_generator(rng)
        previous = previous if self.warm_start else None
        table = first_table(model, previous)
        if previous is None and self.initial_spread > 0.0:
            table += self.initial_spread * rng.standard_normal(table.shape)
        followed = np.empty(trajectories.pairs.size, dtype=bool)
        kernels.mark_followed(trajectories.lengths, followed)
        for _ in range(self.sweeps):
            order = rng.permutation(followed.size)
            for steps in _blocks(order):
                kernels.sarsa(
                    steps,
                    trajectories.pairs,
                    trajectories.entries,
                    followed,
                    model.leader_reward.ravel(),
                    model.leader_discount,
                    self.step_size,
                    self.cut_is_end,
                    table.ravel(),
                )
        return LeaderValues.under(response.policy, table)

    @quiet
    def limit(self, model: Model, response: Response, sampler: Sampler) -> LeaderValues:
        """Compute what a table comes to with small steps.

        That is the truth, or with `cut_is_end` the solution of Q = r_L + gamma_L f P V, V = E_pi Q,
        where f(s, a) is the share of the visits to a pair that a cut does not follow.
        """
        if not self.cut_is_end:
            return exact_values(model, response)
        policy, discount = response.policy, model.leader_discount
        law, survival = model.initial, sampler.survival(model)
        followed = np.zeros(model.n_states)
        for _ in range(sampler.horizon(model) - 1):
            if not law.any():
                break
            followed += law
            law = survival * model.arrivals(policy * law[:, None])
        kept = survival * ratio(followed, followed + law)[:, None]  # alike for all actions
        reward = (policy * model.leader_reward).sum(axis=1)
        value = policy_system(model, kept * policy, discount).solve(reward)
        ahead = model.next_value(value)
        return LeaderValues.under(policy, model.leader_reward + discount * kept * ahead)


@dataclass(frozen=True, kw_only=True)
class TemporalDifferenceCritic:
    """Q_L by temporal differences with a target table, which may survive outer iterations.

    A step's target is r_L + gamma_L sum_a' pi(a'|s') Q'(s', a'), where Q' is the table as it was
    when the sweep began. Its limit is that of small steps: the true Q_L.

    Attributes
    ----------
    step_size : float
        In (0, 1].
    sweeps : int
        Passes over the data; the target is renewed before each.
    warm_start : bool
        As of `SarsaCritic`.

    Raises
    ------
    ValueError
        On construction, if a setting is out of range; the message names it.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> critic = tb.TemporalDifferenceCritic(step_size=0.5, sweeps=5)
    >>> interaction = tb.Interaction(tb.Episodes(20, steps=4), critic)
    >>> experience = interaction.gather(tb.problems.bandit(), [0.0, 0.0], rng=0)
    >>> experience.values.action_value.round(3)  # 0 and 1 in truth
    array([[0., 1.]])
    """

    step_size: float = 0.1
    sweeps: int = 10
    warm_start: bool = True

    def __post_init__(self) -> None:
        positive_integer("sweeps", self.sweeps)
        require_step_size(self.step_size)
        as_flag("warm_start", self.warm_start)

    @quiet
    def values(
        self,
        response: Response,
        trajectories: Trajectories,
        *,
        rng: np.random.Generator,
        previous: FloatArray | None = None,
    ) -> LeaderValues:
        """Learn Q_L from the trajectories, as of `Critic`."""
        return learn_differences(
            response,
            trajectories,
            lambda table: (response.policy * table).sum(axis=1),
            step_size=self.step_size,
            sweeps=self.sweeps,
            rng=rng,
            previous=previous if self.warm_start else None,
        )

    @quiet
    def limit(self, model: Model, response: Response, sampler: Sampler) -> LeaderValues:
        """Evaluate the leader exactly."""
        return exact_values(model, response)


def exact_values(model: Any, response: Any) -> LeaderValues:
    """Evaluate the leader by its Bellman equation; of states that are vectors, by functions."""
    found: LeaderValues = _exact_values(model, response)
    return found


def _of_tables(model: Model, response: Response) -> LeaderValues:
    """Average Q_L anew: what is certain then has no advantage, that a small temperature divides."""
    return LeaderValues.under(response.policy, evaluate_leader(model, response).action_value)


_exact_values = by_kind(_of_tables, exact_values_of_states)


def visited_mean(counts: FloatArray, sums: FloatArray) -> LeaderValues:
    """Divide sums over visits, shape (S, A), by their numbers: for each pair, and each state."""
    per_state = ratio(sums.sum(axis=1), counts.sum(axis=1))
    return LeaderValues(read_only(ratio(sums, counts)), read_only(per_state))


def learn_differences(
    response: Response,
    trajectories: Trajectories,
    target_value: Callable[[FloatArray], FloatArray],
    *,
    step_size: float,
    sweeps: int,
    rng: np.random.Generator,
    previous: FloatArray | None,
) -> LeaderValues:
    """Learn Q_L by temporal differences; `target_value` makes V of the table before each sweep."""
    model, rng = trajectories.model, as_generator(rng)
    table = first_table(model, previous)
    for _ in range(sweeps):
        order, target = rng.permutation(trajectories.pairs.size), target_value(table)
        for steps in _blocks(order):
            kernels.temporal_differences(
                steps,
                trajectories.pairs,
                trajectories.entries,
                model.transition.indices,
                model.leader_reward.ravel(),
                model.leader_discount,
                step_size,
                target,
                table.ravel(),
            )
    return LeaderValues.under(response.policy, table)


def _blocks(order: IntArray) -> Iterable[IntArray]:
    """Split an order as `row_blocks` does."""
    if order.size * SCATTERED <= STEPS_OF_A_BLOCK:
        return (order,)
    return (order[block] for block in row_blocks(order.size, SCATTERED))


def require_step_size(step_size: float) -> None:
    """Raise unless a step size is in (0, 1]."""
    if not 0.0 < as_real("step_size", step_size) <= 1.0:
        raise ValueError(f"step_size is {step_size}, not in (0, 1]")


def first_table(model: Model, previous: FloatArray | None) -> FloatArray:
    """Copy the previous table, or start one of zeros, shape (S, A)."""
    shape = model.leader_reward.shape
    return np.zeros(shape) if previous is None else finite_array("previous", previous, shape)
