"""Trajectories of a model under a policy, and their law: what an estimator sees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base import kernels
from tabular_bilevel._base.arguments import (
    DISTRIBUTION_TOLERANCE,
    as_array,
    as_generator,
    as_leader_discount,
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
    backwards,
    read_only,
    restore_read_only,
    unchecked,
)
from tabular_bilevel._base.display import displayed
from tabular_bilevel._base.generators import addresses
from tabular_bilevel.finite.model import Model
from tabular_bilevel.kinds import AnyModel, by_kind
from tabular_bilevel.lq import trajectories as lq
from tabular_bilevel.lq.follower import GaussianPolicy
from tabular_bilevel.lq.model import LinearQuadraticModel
from tabular_bilevel.problem import require_tables

# Probability of not having ended, below which all trajectories have.
ALL_ENDED = 1e-18

# Steps that are made, and that are gone along, between two returns of compiled code: about 0.1 s.
STEPS_BETWEEN_RETURNS = 2_500_000
STEPS_OF_A_BLOCK = 5_000_000

# Entries of the kernel, times steps, between two returns of compiled code: about 0.1 s.
STEPS_OF_ENTRIES = 20_000_000


@dataclass(frozen=True, eq=False, init=False)
class Trajectories:
    """Sampled trajectories: their steps one after another, and as tables, one trajectory a row.

    They are made of tables, or by `of_steps`.

    Parameters
    ----------
    states, actions : ndarray of int, shape (count, longest)
        s_t and a_t; what is beyond a trajectory's length is not looked at.
    next_states : ndarray of int, shape (count, longest)
        s_{t+1}; -1 where the episode ended with this step.
    lengths : ndarray of int, shape (count,)
        Number of steps of each.
    model : Model
        The model that they come from.
    complete : int, optional
        How many were not cut short by a limit on the number of steps in all; all by default.
    survival : float
        Probability with which a step was followed by another if the episode went on; what is
        summed over steps t is to be divided by survival^t.

    Attributes
    ----------
    pairs : ndarray of int, shape (n,)
        State and action of each step, as the number s * A + a.
    entries : ndarray of int, shape (n,)
        Which of the model's stored transitions each step took; -1 where the episode ended.
    lengths : ndarray of int, shape (count,)
        Number of steps of each trajectory.
    longest : int
        Columns of the tables, which are made when they are asked for.
    model : Model
        The model that they come from.
    complete : int
        How many were not cut short by a limit on the number of steps in all.
    survival : float
        As given.

    Raises
    ------
    ValueError
        If the tables' shapes differ, a length is not within them, or a step is none of the model's;
        the message names it.

    Examples
    --------
    >>> import numpy as np
    >>> import tabular_bilevel as tb
    >>> model = tb.problems.layered(depth=3, width=1).model([0.0] * 4)
    >>> sample = tb.sample_trajectories(model, np.full((3, 2), 0.5), count=2, horizon=5, rng=0)
    >>> sample.count, sample.states.tolist(), sample.terminated, sample.mask.sum(axis=1)
    (2, [[0, 1, 2], [0, 1, 2]], array([ True,  True]), array([3, 3]))
    >>> sample.next_states.tolist(), (sample.pairs - sample.actions.ravel()).tolist()
    ([[1, 2, -1], [1, 2, -1]], [0, 2, 4, 0, 2, 4])
    >>> sample.follower_reward.shape, sample.leader_reward.shape
    ((2, 3), (2, 3))
    >>> counts, weights = sample.visits(discount=0.5)
    >>> counts.sum(axis=1), weights.sum(axis=1)
    (array([2., 2., 2.]), array([2. , 1. , 0.5]))
    >>> sample.cut(2).lengths, sample.part(slice(1)).lengths, sample.ends
    (array([2, 2]), array([3]), array([3, 6]))
    >>> sample.entry_table.shape, [pairs.size for pairs, _, _ in sample.blocks()]
    ((2, 3), [6])
    >>> tables = {name: getattr(sample, name) for name in ("states", "actions", "next_states")}
    >>> again = tb.Trajectories(**tables, lengths=sample.lengths, model=model)
    >>> bool((again.entries == sample.entries).all())
    True
    >>> part = {name: getattr(sample.cut(1), name) for name in ("pairs", "entries", "lengths")}
    >>> tb.Trajectories.of_steps(**part, longest=1, model=model, complete=2).states.tolist()
    [[0], [0]]
    >>> sample.replace(survival=0.5).survival
    0.5
    """

    pairs: IntArray
    entries: IntArray
    lengths: IntArray
    longest: int
    model: Model = field(repr=False)
    complete: int
    survival: float = 1.0

    __setstate__ = restore_read_only

    def __init__(
        self,
        states: IntArray,
        actions: IntArray,
        next_states: IntArray,
        lengths: IntArray,
        model: Model,
        complete: int | None = None,
        survival: float = 1.0,
    ) -> None:
        lengths, wide = np.asarray(lengths), states.shape[1:]
        for name, table in (("actions", actions), ("next_states", next_states)):
            if table.shape != states.shape:
                raise ValueError(
                    f"{name} has shape {table.shape}, not that of states, {states.shape}"
                )
        if lengths.shape != states.shape[:1] or len(wide) != 1:
            raise ValueError(
                f"lengths has shape {lengths.shape}, and states {states.shape}, not (count,) and "
                "(count, longest)"
            )
        for i, length in enumerate(lengths.tolist()):
            if positive_integer(entry("lengths", (i,)), length) > wide[0]:
                raise ValueError(
                    f"{entry('lengths', (i,))} is {length}, not within {wide[0]} columns"
                )
        mask = _mask(lengths, *wide)
        s, a, following = (
            np.asarray(table[mask], dtype=np.int64) for table in (states, actions, next_states)
        )
        (n_states, n_actions), kernel = model.follower_reward.shape, model.transition
        known = (s >= 0) & (s < n_states) & (a >= 0) & (a < n_actions) & (following < n_states)
        pairs = np.where(known, s * n_actions + a, 0)
        stored = model.entry_row.astype(np.int64) * n_states + kernel.indices
        wanted = pairs * n_states + following
        entries = np.searchsorted(stored, wanted)
        entries[(following < 0) | (np.append(stored, -1)[entries] != wanted)] = -1
        known &= (entries >= 0) | (following == -1) & (model.termination.ravel()[pairs] > 0.0)
        if not known.all():
            row, t = (int(k) for k in np.argwhere(mask)[np.argmin(known)])
            raise ValueError(
                f"step {t} of trajectory {row}, state {states[row, t]}, action {actions[row, t]}, "
                f"next state {next_states[row, t]}, is none of the model's"
            )
        self.__dict__.update(
            pairs=read_only(pairs.astype(kernel.indices.dtype)),
            entries=read_only(entries.astype(kernel.indices.dtype)),
            lengths=read_only(np.array(lengths, dtype=np.int64)),
            longest=wide[0],
            model=model,
            complete=len(lengths) if complete is None else complete,
            survival=survival,
        )

    @classmethod
    def of_steps(
        cls,
        *,
        pairs: IntArray,
        entries: IntArray,
        lengths: IntArray,
        longest: int,
        model: Model,
        complete: int,
        survival: float = 1.0,
    ) -> Trajectories:
        """Make them of what they consist of, unchecked.

        Parameters
        ----------
        pairs, entries, lengths, longest, model, complete, survival
            The attributes.

        Returns
        -------
        Trajectories
            Those that hold these very arrays.
        """
        return unchecked(
            cls,
            pairs=pairs,
            entries=entries,
            lengths=lengths,
            longest=longest,
            model=model,
            complete=complete,
            survival=survival,
        )

    def replace(self, **changes: Any) -> Trajectories:
        """Change some attributes, unchecked.

        Parameters
        ----------
        **changes
            New values by attribute.

        Returns
        -------
        Trajectories
            The others are these.
        """
        known = {each.name: getattr(self, each.name) for each in fields(self)}
        return self.of_steps(**{**known, **changes})

    @property
    def count(self) -> int:
        """Number of trajectories."""
        return int(self.lengths.size)

    @cached_property
    def ends(self) -> IntArray:
        """How many steps there are up to the end of each, shape (count,)."""
        return np.asarray(read_only(np.cumsum(self.lengths)))

    @cached_property
    def states(self) -> IntArray:
        """State of each step, shape (count, longest); -1 beyond a trajectory's length."""
        return self._table(self.pairs // self.model.n_actions)

    @cached_property
    def actions(self) -> IntArray:
        """Action of each step, shape (count, longest); -1 beyond a trajectory's length."""
        return self._table(self.pairs % self.model.n_actions)

    @cached_property
    def next_states(self) -> IntArray:
        """State after each step, shape (count, longest); -1 after the end, and beyond."""
        after = np.append(self.model.transition.indices, np.int32(-1))
        return self._table(after[self.entries])

    @cached_property
    def entry_table(self) -> IntArray:
        """Transition that each step took, shape (count, longest); -1 at the end, and beyond."""
        return self._table(self.entries)

    @property
    def mask(self) -> BoolArray:
        """Which entries of the tables are steps, shape (count, longest)."""
        return _mask(self.lengths, self.longest)

    @property
    def terminated(self) -> BoolArray:
        """Which trajectories ended by themselves, not at the horizon, shape (count,)."""
        return np.asarray(self.entries[self.ends - 1] < 0)

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
            What a visit a step later weighs, in [0, 1].

        Returns
        -------
        counts : ndarray, shape (S, A)
            Visits.
        weights : ndarray, shape (S, A)
            Their discounted sums.

        Raises
        ------
        ValueError
            If the discount is not in [0, 1].
        """
        discount = as_leader_discount(discount, name="discount")
        shape = self.model.follower_reward.shape
        counts, weights = np.zeros(shape), np.zeros(shape)
        kernels.visits(
            self.pairs, self.lengths, discount / self.survival, counts.ravel(), weights.ravel()
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
        if steps >= self.longest:
            return self
        began = np.repeat(self.ends - self.lengths, self.lengths)
        early = np.arange(self.pairs.size) - began < steps
        return self.replace(
            pairs=read_only(self.pairs[early]),
            entries=read_only(self.entries[early]),
            lengths=read_only(np.minimum(self.lengths, steps)),
            longest=steps,
        )

    def part(self, rows: slice) -> Trajectories:
        """Take some that follow each other; their tables have as many columns as before.

        Parameters
        ----------
        rows : slice
            Which: from one to another.

        Returns
        -------
        Trajectories
            Those alone, none of which counts as cut short.
        """
        lengths, ends = self.lengths[rows], self.ends[rows]
        steps = slice(ends[0] - lengths[0], ends[-1]) if lengths.size else slice(0)
        return self.replace(
            pairs=self.pairs[steps],
            entries=self.entries[steps],
            lengths=lengths,
            complete=lengths.size,
        )

    def blocks(self) -> Iterator[tuple[IntArray, IntArray, IntArray]]:
        """Split pairs, entries and lengths so that compiled code returns about every 0.1 s."""
        if self.pairs.size <= STEPS_OF_A_BLOCK:
            return iter(((self.pairs, self.entries, self.lengths),))
        return self._blocks()

    def _blocks(self) -> Iterator[tuple[IntArray, IntArray, IntArray]]:
        first = begin = 0
        while first < self.count:
            # at least one: a trajectory stays whole
            within = np.searchsorted(self.ends, begin + STEPS_OF_A_BLOCK, side="right")
            last = max(first + 1, int(within))
            end = int(self.ends[last - 1])
            yield self.pairs[begin:end], self.entries[begin:end], self.lengths[first:last]
            first, begin = last, end

    def _table(self, flat: IntArray) -> IntArray:
        table = np.empty((self.count, self.longest), dtype=np.int32)
        kernels.pad(read_only(flat), self.lengths, table)
        return np.asarray(read_only(table))

    def _earned(self, reward: FloatArray) -> FloatArray:
        earned = np.zeros((self.count, self.longest))
        earned[self.mask] = reward.ravel()[self.pairs]
        return np.asarray(read_only(earned))

    def __str__(self) -> str:
        return (
            f"Trajectories: {self.count}, {self.pairs.size} steps, longest {self.longest}, "
            f"{int(self.terminated.sum())} ended by themselves"
        )


def _mask(lengths: IntArray, columns: int) -> BoolArray:
    return np.asarray(np.arange(columns) < lengths[:, None])


@displayed
@dataclass(frozen=True, eq=False)
class Law:
    """The law of trajectories: what infinitely many of them would show.

    They are cut at the horizon, and a step is followed by another with probability `survival` if
    the episode goes on. They are taken to be made in `model`, and made in `source` if that is
    another, whose transitions are stored alike. With `restarts` the next episode counts as the
    continuation of the one before. An estimate has `count` trajectories, where that is known.
    """

    model: Model = field(repr=False)
    policy: FloatArray = field(repr=False)
    horizon: int
    survival: float = 1.0
    source: Model | None = field(default=None, repr=False)
    restarts: bool = False
    count: int | None = None

    __setstate__ = restore_read_only

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

    def steps_back(self) -> Iterator[FloatArray]:
        """Yield the same from the last step back."""
        policy = self.policy
        count = sum(1 for _ in self.steps()) if self.made_in.termination.any() else self.horizon

        def onward(pairs: FloatArray) -> FloatArray:
            return policy * self.arrivals(pairs)[:, None]

        return backwards(onward, policy * self.made_in.initial[:, None], count, policy.size)

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
            return drawn.replace(model=self.model)
        made = [
            draw(world, policy, rows=columns, columns=columns, rng=rng, n_steps=columns)
            for _ in range(count)
        ]
        return Trajectories.of_steps(
            pairs=read_only(np.concatenate([episodes.pairs for episodes in made])),
            entries=read_only(np.concatenate([episodes.entries for episodes in made])),
            lengths=read_only(np.full(count, columns)),
            longest=columns,
            model=self.model,
            complete=count,
        )


@overload
def sample_trajectories(
    model: Model,
    policy: npt.ArrayLike,
    *,
    count: int,
    horizon: int,
    rng: np.random.Generator | int,
) -> Trajectories: ...
@overload
def sample_trajectories(
    model: LinearQuadraticModel,
    policy: GaussianPolicy,
    *,
    count: int,
    horizon: int,
    rng: np.random.Generator | int,
) -> lq.Trajectories: ...
def sample_trajectories(
    model: AnyModel,
    policy: Any,
    *,
    count: int,
    horizon: int,
    rng: np.random.Generator | int,
) -> Any:
    """Simulate a policy.

    Parameters
    ----------
    model : Model or LinearQuadraticModel
        The model to act in.
    policy : array_like, shape (S, A), or GaussianPolicy
        Probability of each action; 0 where an action is unavailable. Of a linear-quadratic model,
        gain and covariance.
    count : int
        Number of trajectories, each from a fresh start.
    horizon : int
        A trajectory is cut after this many steps if it has not ended.
    rng : numpy.random.Generator or int
        Source of randomness (it advances), or a seed.

    Returns
    -------
    Trajectories or lq.Trajectories
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
    return _sampled(model, policy, rows, columns, rng)


def _of_tables(
    model: Model, policy: npt.ArrayLike, count: int, steps: int, rng: np.random.Generator | int
) -> Trajectories:
    chances = as_policy(model, policy)
    return draw(model, chances, rows=count, columns=steps, rng=as_generator(rng))


def _of_states(
    model: LinearQuadraticModel,
    policy: GaussianPolicy,
    count: int,
    steps: int,
    rng: np.random.Generator | int,
) -> lq.Trajectories:
    known = lq.as_policy(model, policy)
    return lq.draw(model, known, count=count, steps=steps, rng=as_generator(rng))


_sampled = by_kind(_of_tables, _of_states)


def as_policy(model: Model, policy: npt.ArrayLike) -> FloatArray:
    """Copy a policy: in each state a distribution over available actions, shape (S, A)."""
    require_tables(model)
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


def as_known_policy(model: Model, policy: npt.ArrayLike) -> FloatArray:
    """Take a policy as it is if it is one, as a solver's is; `as_policy` says what is wrong."""
    known = (
        type(policy) is np.ndarray
        and policy.dtype == np.float64
        and policy.shape == model.available.shape
        and policy.flags.c_contiguous
        and kernels.is_policy(policy, model.available, DISTRIBUTION_TOLERANCE)
    )
    return policy if known else as_policy(model, policy)  # type: ignore[return-value]


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
    """Simulate a policy that is known to be one, in at most so many trajectories and steps of each.

    Stops after `n_steps` in all, and goes on after each step with probability `survival`.
    """
    kernel = model.transition
    left = rows * columns if n_steps is None else n_steps
    parts: list[IntArray] = []
    counts: list[IntArray] = []
    longest = 0
    while rows > 0 and left > 0:
        # Compiled code cannot be interrupted. Pages that are not written to cost nothing.
        size = min(left, max(columns, STEPS_BETWEEN_RETURNS))
        try:
            flat = np.empty((2, size), dtype=kernel.indices.dtype)
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
            lengths,
        )
        parts.append(flat[:, :made])
        counts.append(lengths[:filled])
        left -= made
        rows -= filled
        longest = max(longest, most)
    # one part, the rule, is not copied, unless it would hold on to much that is empty
    whole = len(parts) == 1 and 2 * made >= size
    steps = read_only(parts[0] if whole else np.concatenate(parts, axis=1))
    pairs, entries = steps[0], steps[1]  # to iterate takes longer
    lengths = read_only(counts[0] if len(counts) == 1 else np.concatenate(counts))
    cut = n_steps is not None and left <= 0 and entries[-1] >= 0 and lengths[-1] < columns
    return unchecked(
        Trajectories,
        pairs=pairs,
        entries=entries,
        lengths=lengths,
        longest=longest,
        model=model,
        complete=lengths.size - int(cut),
        survival=survival,
    )


def joined(samples: list[Trajectories]) -> Trajectories:
    """Put samples of one model in a row."""
    if len(samples) == 1:
        return samples[0]
    return samples[0].replace(
        pairs=read_only(np.concatenate([sample.pairs for sample in samples])),
        entries=read_only(np.concatenate([sample.entries for sample in samples])),
        lengths=read_only(np.concatenate([sample.lengths for sample in samples])),
        longest=max(sample.longest for sample in samples),
        complete=sum(sample.complete for sample in samples),
    )


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Split rows so that compiled code returns, and can be interrupted, about every 0.1 s."""
    size = max(1, STEPS_OF_A_BLOCK // columns)
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))
