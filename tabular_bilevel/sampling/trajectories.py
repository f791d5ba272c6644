"""Trajectories of a model under a policy, and their law: what an estimator sees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base import kernels
from tabular_bilevel._base.arguments import (
    as_array,
    as_generator,
    distribution_tolerance,
    entry,
    finite_array,
    first,
    positive_integer,
    require_probabilities,
)
from tabular_bilevel._base.arrays import (
    BoolArray,
    FloatArray,
    IntArray,
    read_only,
    restore_read_only,
)
from tabular_bilevel._base.display import displayed
from tabular_bilevel._base.generators import addresses
from tabular_bilevel.finite.model import Model

__all__ = ["Law", "Trajectories", "as_policy", "draw", "row_blocks", "sample_trajectories"]

# Probability of not having ended, below which all trajectories have.
ALL_ENDED = 1e-18

# Entries of the kernel, times steps, between two returns of compiled code: about 0.1 s.
STEPS_OF_ENTRIES = 20_000_000


@dataclass(frozen=True, eq=False)
class Trajectories:
    """Sampled trajectories, one a row, padded to the longest.

    Attributes
    ----------
    states, actions : ndarray of int, shape (count, longest)
        s_t and a_t; -1 beyond a trajectory's length.
    next_states : ndarray of int, shape (count, longest)
        s_{t+1}; -1 where the episode ended with this step, and beyond.
    lengths : ndarray of int, shape (count,)
        Number of steps of each.
    model : Model
        The model that they come from.
    complete : int
        How many were not cut short by a limit on the number of steps in all.
    survival : float
        Probability with which a step was followed by another if the episode went on; what is
        summed over steps t is to be divided by survival^t.

    Examples
    --------
    >>> import numpy as np
    >>> import tabular_bilevel as tb
    >>> model = tb.problems.layered(depth=3, width=1).model([0.0] * 4)
    >>> sample = tb.sample_trajectories(model, np.full((3, 2), 0.5), count=2, horizon=5, rng=0)
    >>> sample.count, sample.states.tolist(), sample.terminated, sample.mask.sum(axis=1)
    (2, [[0, 1, 2], [0, 1, 2]], array([ True,  True]), array([3, 3]))
    >>> sample.follower_reward.shape, sample.leader_reward.shape
    ((2, 3), (2, 3))
    >>> counts, weights = sample.visits(discount=0.5)
    >>> counts.sum(axis=1), weights.sum(axis=1)
    (array([2., 2., 2.]), array([2. , 1. , 0.5]))
    >>> sample.cut(2).lengths
    array([2, 2])
    """

    states: IntArray
    actions: IntArray
    next_states: IntArray
    lengths: IntArray
    model: Model = field(repr=False)
    complete: int
    survival: float = 1.0

    __setstate__ = restore_read_only

    @property
    def count(self) -> int:
        """Number of trajectories."""
        return int(self.lengths.size)

    @property
    def mask(self) -> BoolArray:
        """Which entries are steps, shape (count, longest)."""
        return np.arange(self.states.shape[1]) < self.lengths[:, None]

    @property
    def terminated(self) -> BoolArray:
        """Which trajectories ended by themselves, not at the horizon, shape (count,)."""
        return np.asarray(self.next_states[np.arange(self.count), self.lengths - 1] < 0)

    @cached_property
    def follower_reward(self) -> FloatArray:
        """Follower's reward of each step, shape (count, longest); 0 beyond."""
        return self._earned(self.model.follower_reward)

    @cached_property
    def leader_reward(self) -> FloatArray:
        """Leader's reward of each step, shape (count, longest); 0 beyond."""
        return self._earned(self.model.leader_reward)

    def visits(self, discount: float) -> tuple[FloatArray, FloatArray]:
        """Count visits, and add up discount^t over them.

        Parameters
        ----------
        discount : float
            What a visit a step later weighs.

        Returns
        -------
        counts : ndarray, shape (S, A)
            Visits.
        weights : ndarray, shape (S, A)
            Their discounted sums.
        """
        counts, weights = np.zeros((2, *self.model.follower_reward.shape))
        kernels.visits(
            self.states, self.actions, self.lengths, discount / self.survival, counts, weights
        )
        return counts, weights

    def cut(self, steps: int) -> Trajectories:
        """Keep the first steps of each trajectory.

        Parameters
        ----------
        steps : int
            How many.

        Returns
        -------
        Trajectories
            The beginnings.

        Raises
        ------
        ValueError
            If `steps` is not a positive whole number.
        """
        positive_integer("steps", steps)
        if steps >= self.states.shape[1]:
            return self
        columns = (self.states, self.actions, self.next_states)
        states, actions, following = (
            read_only(np.ascontiguousarray(column[:, :steps])) for column in columns
        )
        lengths = read_only(np.minimum(self.lengths, steps))
        return replace(self, states=states, actions=actions, next_states=following, lengths=lengths)

    def _earned(self, reward: FloatArray) -> FloatArray:
        return np.asarray(read_only(np.where(self.mask, reward[self.states, self.actions], 0.0)))

    def __str__(self) -> str:
        return (
            f"Trajectories: {self.count}, {int(self.lengths.sum())} steps, longest "
            f"{self.states.shape[1]}, {int(self.terminated.sum())} ended by themselves"
        )


@displayed
@dataclass(frozen=True, eq=False)
class Law:
    """The law of trajectories: what infinitely many of them would show.

    Attributes
    ----------
    model : Model
        Where they are taken to be made.
    policy : ndarray, shape (S, A)
        Probability of each action.
    horizon : int
        Steps after which a trajectory is cut.
    survival : float
        Probability with which a step is followed by another if the episode goes on.
    source : Model, optional
        Where they are made in truth, if not in `model`; transitions are stored like the model's.
    restarts : bool
        Whether the next episode counts as the continuation of the one before.
    count : int, optional
        Trajectories of an estimate, where that is known.
    """

    model: Model = field(repr=False)
    policy: FloatArray = field(repr=False)
    horizon: int
    survival: float = 1.0
    source: Model | None = field(default=None, repr=False)
    restarts: bool = False
    count: int | None = None

    @property
    def complete(self) -> int:
        """Trajectories that its counts of visits are for: they are means."""
        return 1

    @property
    def made_in(self) -> Model:
        """The model that trajectories are made in."""
        return self.model if self.source is None else self.source

    @cached_property
    def n_steps(self) -> float:
        """Mean number of steps of a trajectory."""
        none = np.zeros(self.policy.shape)
        passed = self.sums(
            none, trace_discount=0.0, leader_discount=self.survival, credit_discount=0.0
        )
        return float(passed[1].sum())

    def steps(self) -> Iterator[FloatArray]:
        """Yield the law of a step's pair, shape (S, A), until all are cut or have ended."""
        law = self.made_in.initial
        for _ in range(self.horizon):
            if not law.sum() > ALL_ENDED:
                return
            pairs = self.policy * law[:, None]
            yield pairs
            law = self.arrivals(pairs)

    def arrivals(self, flow: FloatArray) -> FloatArray:
        """Move what is at each pair, shape (S, A), on to the next state, shape (S,)."""
        arriving = self.made_in.arrivals(flow)
        if self.restarts:
            again = np.vdot(flow, self.made_in.termination)
            arriving = arriving + self.made_in.initial * again
        return arriving

    def visits(self, discount: float) -> tuple[FloatArray, FloatArray]:
        """Compute the mean of a trajectory's `Trajectories.visits`, both (S, A)."""
        none = np.zeros(self.policy.shape)
        counts, weights = (
            self.sums(none, trace_discount=0.0, leader_discount=each, credit_discount=0.0)[1]
            for each in (self.survival, discount)
        )
        return counts, weights

    def sums(
        self,
        credit: FloatArray,
        *,
        trace_discount: float,
        leader_discount: float,
        credit_discount: float,
        late: bool = False,
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Sum up over steps what `TraceRule` explains, each of shape (S, A).

        The mean eligibility at a pair; the leader's weights; and of the steps that another follows,
        the weights that its own action has: the leader's, and the credit's.
        """
        world, policy = self.made_in, self.policy
        kernel = world.transition
        law, carried = world.initial.copy(), np.zeros(world.n_states)
        weights, scratch = np.ones(2), np.zeros((2, world.n_states))
        before, influence, occupancy, answered, credited = np.zeros((5, *policy.shape))
        block = max(1, STEPS_OF_ENTRIES // max(1, kernel.nnz))
        for start in range(0, self.horizon, block):
            ended = kernels.expected_traces(
                kernel.indptr,
                kernel.indices,
                kernel.data,
                world.initial,
                world.termination,
                policy,
                credit,
                trace_discount,
                leader_discount,
                credit_discount,
                late,
                self.restarts,
                min(block, self.horizon - start),
                ALL_ENDED,
                law,
                carried,
                weights,
                scratch,
                before,
                influence,
                occupancy,
                answered,
                credited,
            )
            if ended:
                break
        return influence, occupancy, answered, credited

    def sample(self, count: int, *, rng: np.random.Generator) -> Trajectories:
        """Draw trajectories, as if they were made in `model`."""
        world, policy, columns = self.made_in, self.policy, self.horizon
        if not self.restarts:
            drawn = draw(
                world, policy, rows=count, columns=columns, rng=rng, survival=self.survival
            )
            return replace(drawn, model=self.model)
        rows = np.full((3, count, columns), -1, dtype=np.int32)
        for k in range(count):
            episodes = draw(world, policy, rows=columns, columns=columns, rng=rng, n_steps=columns)
            steps = (episodes.states, episodes.actions, episodes.next_states)
            rows[:, k] = [column[episodes.mask] for column in steps]
        states, actions, following = read_only(rows)
        return Trajectories(
            states=states,
            actions=actions,
            next_states=following,
            lengths=read_only(np.full(count, columns)),
            model=self.model,
            complete=count,
        )


def sample_trajectories(
    model: Model,
    policy: npt.ArrayLike,
    *,
    count: int,
    horizon: int,
    rng: np.random.Generator | int,
) -> Trajectories:
    """Simulate a policy.

    Parameters
    ----------
    model : Model
        The model to act in.
    policy : array_like, shape (S, A)
        Probability of each action; 0 where an action is unavailable.
    count : int
        Number of trajectories, each from a fresh start.
    horizon : int
        A trajectory is cut after this many steps if it has not ended.
    rng : numpy.random.Generator or int
        Source of randomness (it advances), or a seed.

    Returns
    -------
    Trajectories
        The sample.

    Raises
    ------
    ValueError
        If the policy is not a distribution over available actions in each state, or a number is not
        positive.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> model = tb.problems.four_rooms().model([0.0] * 105)
    >>> policy = tb.solve_follower(model).policy
    >>> sample = tb.sample_trajectories(model, policy, count=5, horizon=200, rng=0)
    >>> bool(sample.terminated.all())
    True
    """
    rows = positive_integer("count", count)
    columns = positive_integer("horizon", horizon)
    chances = as_policy(model, policy)
    return draw(model, chances, rows=rows, columns=columns, rng=as_generator(rng))


def as_policy(model: Model, policy: npt.ArrayLike) -> FloatArray:
    """Copy a policy: in each state a distribution over available actions, shape (S, A)."""
    chances = finite_array("policy", policy, model.follower_reward.shape)
    require_probabilities("policy", chances)
    if (chances[~model.available] > 0.0).any():
        index = first(~model.available & (chances > 0.0))
        raise ValueError(f"{entry('policy', index)} is {chances[index]} for an unavailable action")
    sums = chances.sum(axis=1)
    off = np.abs(sums - 1.0) > distribution_tolerance(as_array("policy", policy).dtype)
    if off.any():
        index = first(off)
        raise ValueError(f"{entry('policy', index)} sums to {sums[index]:.12g}, not 1")
    return read_only(chances)


def draw(
    model: Model,
    policy: FloatArray,
    *,
    rows: int,
    columns: int,
    rng: np.random.Generator,
    n_steps: int | None = None,
    survival: float = 1.0,
) -> Trajectories:
    """Simulate a policy that is known to be one.

    Parameters
    ----------
    model : Model
        The model to act in.
    policy : ndarray, shape (S, A)
        Probability of each action.
    rows, columns : int
        Largest number of trajectories, and of steps of each.
    rng : numpy.random.Generator
        Source of randomness; it advances.
    n_steps : int, optional
        Stop after this many steps in all.
    survival : float
        Go on after each step with this probability.

    Returns
    -------
    Trajectories
        The sample.
    """
    kernel = model.transition
    left = rows * columns if n_steps is None else n_steps
    parts: list[IntArray] = []
    counts: list[IntArray] = []
    longest = 0
    while rows > 0 and left > 0:
        # Compiled code cannot be interrupted: it returns about every 0.1 s. Pages that are not
        # written to cost nothing.
        size = min(left, max(columns, 2_500_000))
        try:
            flat = np.empty((3, size), dtype=np.int32)
        except MemoryError as error:
            raise ValueError(
                f"a trajectory may take {columns} steps, more than memory holds, at discounts of "
                f"{model.follower_discount} and {model.leader_discount}: give the sampler a number "
                "of steps"
            ) from error
        lengths: IntArray = np.empty(min(rows, size), dtype=np.int64)
        filled, made, most = kernels.sample_trajectories(
            *addresses(rng),
            kernel.indptr,
            kernel.indices,
            kernel.data,
            model.termination,
            model.initial,
            policy,
            columns,
            left,
            survival,
            flat[0],
            flat[1],
            flat[2],
            lengths,
        )
        parts.append(flat[:, :made])
        counts.append(lengths[:filled])
        left -= made
        rows -= filled
        longest = max(longest, most)
    # one part, the rule, is not copied
    lengths = counts[0] if len(counts) == 1 else np.concatenate(counts)
    steps_made = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    del parts  # as large as the sample
    steps = np.empty((3, lengths.size, longest), dtype=np.int32)
    kernels.pad(steps_made[0], steps_made[1], steps_made[2], lengths, steps)
    states, actions, following = read_only(steps)
    last = lengths[-1]
    cut = n_steps is not None and left <= 0 and steps_made[2, -1] >= 0 and last < columns
    return Trajectories(
        states=states,
        actions=actions,
        next_states=following,
        lengths=read_only(lengths),
        model=model,
        complete=lengths.size - int(cut),
        survival=survival,
    )


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Split rows so that compiled code returns, and can be interrupted, about every 0.1 s."""
    size = max(1, 5_000_000 // columns)
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))
