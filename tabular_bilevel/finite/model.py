"""The follower's MDP at a fixed theta: what the leader's parameter becomes first."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import scipy.sparse.csgraph

from tabular_bilevel._base.arguments import (
    as_action_names,
    as_array,
    as_discount,
    as_distribution,
    as_entries,
    as_leader_discount,
    as_names,
    as_positive,
    distribution_tolerance,
    entry,
    finite_array,
    first,
    real_array,
    require_probabilities,
)
from tabular_bilevel._base.arrays import (
    BoolArray,
    FloatArray,
    IntArray,
    changed,
    grouped_sums,
    narrowing,
    quiet,
    read_only,
    read_only_matrix,
    restore_read_only,
)
from tabular_bilevel._base.display import displayed
from tabular_bilevel._base.renamed import method_renamed

# Compiled loops index entries with 32 bits.
MAX_ENTRIES = 2**31 - 1

# Mean distance from the diagonal, in roots of the number of states, up to which factors stay
# sparse. Grids of 40,000 cells have 1.1, lattices in space 2.5 and more, random graphs 50 and more.
NARROW = 1.5

# States that are looked at to tell whether actions lead to the same places.
SOME_STATES = 100

# Steps after which all of a random graph has been reached; each costs a product.
STEPS_FROM_A_STATE = 6


@dataclass(frozen=True, eq=False)
class Model:
    """A follower's MDP with both players' rewards; frozen, its arrays read-only.

    Make one with `Model.from_tables`, which checks its input; theory.md section 1 has the symbols.
    Entries cannot be assigned to; the attributes of `transition`, which scipy leaves open, should
    not be either.

    Attributes
    ----------
    transition : scipy.sparse.csr_array, shape (S*A, S)
        Row ``s * A + a`` is the law of the next state; it sums to ``1 - termination[s, a]``.
    follower_reward, leader_reward : ndarray, shape (S, A)
        Reward per step; 0 where an action is unavailable.
    initial : ndarray, shape (S,)
        Distribution of the first state.
    termination : ndarray, shape (S, A)
        Probability that the episode ends after this step; 1 where an action is unavailable.
    available : ndarray of bool, shape (S, A)
        Which actions a state has.
    follower_discount, leader_discount : float
        Discounts per step, in [0, 1); the leader's is 1 only if play ends from every state.
    temperature : float
        Weight of the follower's entropy bonus, in units of its reward.
    state_names : tuple of str, length S, or None
        What pictures and reports call the states; None for their numbers.
    action_names : tuple of S tuples of str, each of length A, or None
        What they call each state's actions.

    Examples
    --------
    >>> import numpy as np
    >>> import tabular_bilevel as tb
    >>> model = tb.problems.two_state().model([0.0, 0.0])
    >>> model.n_states, model.n_actions, model.temperature
    (2, 2, 0.5)
    >>> model.with_temperature(1.0).temperature, model.replace(leader_discount=0.5).leader_discount
    (1.0, 0.5)
    >>> model.with_initial([0.0, 1.0]).initial
    array([0., 1.])
    >>> model.row_mass, model.largest_mass  # at work there is no second action
    (array([[1., 1.],
           [1., 0.]]), 1.0)
    >>> model.next_value([1.0, 3.0])[0], model.arrivals(np.array([[2.0, 5.0], [0.0, 0.0]]))
    (array([1., 3.]), array([2., 5.]))
    >>> model.entry_row, model.entry_state  # of the stored transitions
    (array([0, 1, 2, 2]), array([0, 0, 1, 1]))
    >>> model.band, model.least_band, model.narrow, model.overlapping
    ((array([1, 0]), 1), 1, True, False)
    >>> bool((model.like_transition(model.transition.data) != model.transition).nnz)
    False
    """

    transition: sp.csr_array
    follower_reward: FloatArray
    leader_reward: FloatArray
    initial: FloatArray
    termination: FloatArray
    available: BoolArray
    follower_discount: float
    leader_discount: float
    temperature: float
    state_names: tuple[str, ...] | None = field(default=None, repr=False)
    action_names: tuple[tuple[str, ...], ...] | None = field(default=None, repr=False)

    @classmethod
    def from_tables(
        cls,
        *,
        transition: npt.ArrayLike | sp.sparray | sp.spmatrix,
        follower_reward: npt.ArrayLike,
        leader_reward: npt.ArrayLike,
        initial: npt.ArrayLike,
        follower_discount: float,
        leader_discount: float,
        temperature: float,
        available: npt.ArrayLike | None = None,
        termination: npt.ArrayLike | None = None,
        state_names: Sequence[str] | None = None,
        action_names: Sequence[str] | Sequence[Sequence[str]] | None = None,
    ) -> Model:
        """Check the tables and copy them into a model.

        Parameters
        ----------
        transition : array_like, shape (S, A, S), or scipy.sparse, shape (S*A, S)
            Law of the next state; each row sums to ``1 - termination``. A dense table keeps its
            non-zero entries, a sparse one its stored ones, duplicates added up; there are
            derivatives with respect to kept entries only, so if theta can make a probability
            exactly 0, give a sparse table that stores it.
        follower_reward : array_like, shape (S, A)
            ``-inf`` forbids the action, as `available` does.
        leader_reward : array_like, shape (S, A)
            What the leader earns when the follower acts.
        initial : array_like, shape (S,)
            Distribution of the first state.
        follower_discount : float
            In [0, 1).
        leader_discount : float
            In [0, 1], and 1 only if the episode ends with certainty from every state, whatever the
            follower does: as it takes each available action with some probability, one path to a
            pair whose `termination` is above 0 is enough.
        temperature : float
            Positive. It may depend on theta, as any table.
        available : array_like of bool, shape (S, A), optional
            Which actions a state has; all by default. Whatever the other tables hold at an
            unavailable action is ignored.
        termination : array_like, shape (S, A), optional
            Probability that the episode ends after the step; 0 by default.
        state_names : sequence of str, length S, optional
            What pictures and reports call the states.
        action_names : sequence of str, length A, or one such sequence a state, optional
            What they call the actions.

        Returns
        -------
        Model
            The validated model; it shares no memory with the arguments, which are not changed.

        Raises
        ------
        ValueError
            If a table has the wrong shape or dtype, holds NaN, a masked entry or a negative
            probability (before duplicates are added up), a row does not sum to ``1 - termination``,
            a state has no action, or a scalar is out of range. The message names the entry and the
            number.

        Notes
        -----
        Numbers are read exactly: a float32 0.1 is 0.100000001490116, and what float64 cannot hold,
        such as whole numbers beyond 2^53 or a longdouble, is refused.

        Distributions are kept *as stored*. Sums may be off by 1e-9 (1.9e-6 in float32, 0.016 in
        float16); a row that sums to 1 + 1e-12 then does so in all that follows, as if the discount
        were a little larger, and what is computed and certified is the value of that model.
        `normalised` makes tables of sum 1.

        Examples
        --------
        >>> import tabular_bilevel as tb
        >>> model = tb.Model.from_tables(
        ...     transition=[[[0.9, 0.1], [0.2, 0.8]], [[0.5, 0.5], [0.0, 1.0]]],
        ...     follower_reward=[[1.0, 0.0], [0.0, 2.0]],
        ...     leader_reward=[[0.0, 1.0], [0.0, 0.0]],
        ...     initial=[1.0, 0.0],
        ...     follower_discount=0.9,
        ...     leader_discount=0.95,
        ...     temperature=0.1,
        ... )
        >>> str(model).split(", follower")[0]
        'Model: 2 states, 2 actions, 7 transitions'
        """
        return made_of(
            Origin(),
            transition=transition,
            follower_reward=follower_reward,
            leader_reward=leader_reward,
            initial=initial,
            follower_discount=follower_discount,
            leader_discount=leader_discount,
            temperature=temperature,
            available=available,
            termination=termination,
            state_names=state_names,
            action_names=action_names,
        )

    def replace(self, **tables: Any) -> Model:
        """Copy the model with some tables changed; the new ones are checked as in `from_tables`.

        Parameters
        ----------
        **tables
            Any argument of `from_tables`. With `available`, an action that becomes available has
            reward 0 and ends the episode, unless its tables are given, too.

        Returns
        -------
        Model
            A new model.

        Raises
        ------
        ValueError
            As `from_tables`.
        TypeError
            If a name is not an argument of `from_tables`.
        """
        known = tables.keys() <= CHECKED_ALONE.keys()
        if known and "follower_reward" in tables:  # -inf forbids an action
            reward = real_array("follower_reward", tables["follower_reward"], self.available.shape)
            known = not (np.isneginf(reward) & self.available).any()
        if not known:
            return made_of(self.origin, **{**self._fields(), **tables})
        checked = {name: CHECKED_ALONE[name](self, table) for name, table in tables.items()}
        return self._with(**checked)

    def with_rewards(self, follower_reward: npt.ArrayLike, leader_reward: npt.ArrayLike) -> Model:
        """Copy the model with other rewards, which forbid no action.

        Parameters
        ----------
        follower_reward, leader_reward : array_like, shape (S, A)
            Finite wherever the action is available.

        Returns
        -------
        Model
            A new model.

        Raises
        ------
        ValueError
            If a table has the wrong shape or an available entry is not finite.

        Examples
        --------
        >>> import tabular_bilevel as tb
        >>> model = tb.problems.bandit().model([0.0, 0.0])
        >>> paid = model.with_rewards(follower_reward=[[0.0, 1.0]], leader_reward=[[0.0, 2.0]])
        >>> paid.follower_reward, model.follower_reward
        (array([[0., 1.]]), array([[0., 0.]]))
        """
        return self._with(
            follower_reward=_reward("follower_reward", self, follower_reward),
            leader_reward=_reward("leader_reward", self, leader_reward),
        )

    with_own_rewards = method_renamed("with_own_rewards", "with_rewards")

    def with_initial(self, initial: npt.ArrayLike) -> Model:
        """Copy the model with another initial distribution, shape (S,), as `replace` does."""
        return self.replace(initial=initial)

    def with_temperature(self, temperature: npt.ArrayLike) -> Model:
        """Copy the model with another temperature, as `replace` does."""
        return self.replace(temperature=temperature)

    def _with(self, **checked: FloatArray | float) -> Model:
        """Change checked tables, and keep what follows from the kernel."""
        return changed(self, _kernel=self._kernel, **checked)

    __setstate__ = restore_read_only

    @cached_property
    def origin(self) -> Origin:
        """How far the model's sums are from 1, and sums of what is made of it may be."""
        return Origin.of(self.transition, self.initial, self.termination)

    def _fields(self) -> Mapping[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @cached_property
    def n_states(self) -> int:
        """Number of states, S."""
        return int(self.follower_reward.shape[0])

    @cached_property
    def n_actions(self) -> int:
        """Number of columns of the tables, A: the largest number of actions of a state."""
        return int(self.follower_reward.shape[1])

    @cached_property
    def _kernel(self) -> _Kernel:
        return _Kernel(self.transition, self.termination, self.available)

    @property
    def _nothing(self) -> FloatArray:
        """A table of zeros, shape (S, A), for all that have nothing to say of pairs."""
        return self._kernel.nothing

    @property
    def row_mass(self) -> FloatArray:
        """Sums of the transition rows, shape (S, A)."""
        return self._kernel.row_mass

    @property
    def largest_mass(self) -> float:
        """Largest sum of a transition row: 1 unless every step may end the episode."""
        return self._kernel.largest_mass

    @property
    def lasting(self) -> BoolArray:
        """Which pairs are available and cannot end the episode, shape (S, A)."""
        return self._kernel.lasting

    @property
    def longest_row(self) -> int:
        """Largest number of stored entries of a transition row."""
        return self._kernel.longest_row

    @property
    def entry_row(self) -> IntArray:
        """Row ``s * A + a`` of each stored transition entry, shape (nnz,)."""
        return self._kernel.entry_row

    @property
    def entry_state(self) -> IntArray:
        """State s of each stored transition entry, shape (nnz,)."""
        return self._kernel.entry_state

    @property
    def least_band(self) -> int:
        """What any numbering's transitions lead apart at least, as far as a quick look can tell."""
        return self._kernel.least_band

    @property
    def narrow(self) -> bool:
        """Whether some numbering leaves transitions near the diagonal: factors stay sparse then."""
        return self._kernel.narrow

    @property
    def overlapping(self) -> bool:
        """Whether a state's actions lead to the same places: on average more than two to each."""
        return self._kernel.overlapping

    @property
    def band(self) -> tuple[IntArray, int]:
        """A numbering of the states, shape (S,), and how far apart its transitions lead at most."""
        return self._kernel.band

    @quiet
    def next_value(self, value: FloatArray) -> FloatArray:
        """Average over the next state: sum_s' P(s'|s,a) value(s').

        Parameters
        ----------
        value : ndarray, shape (S,)
            A number for each state.

        Returns
        -------
        ndarray, shape (S, A)
            Its mean after each pair; an end counts as 0.
        """
        return np.asarray(self.transition @ value).reshape(self.n_states, self.n_actions)

    @quiet
    def arrivals(self, flow: FloatArray) -> FloatArray:
        """Push a measure on pairs one step on: sum_{s,a} flow(s,a) P(s'|s,a).

        Parameters
        ----------
        flow : ndarray, shape (S, A)
            The measure.

        Returns
        -------
        ndarray, shape (S,)
            Where it arrives.
        """
        return np.asarray(self._kernel.transposed @ flow.ravel())

    def like_transition(self, data: FloatArray) -> sp.csr_array:
        """Make a matrix with the transitions' sparsity and the given entries.

        Parameters
        ----------
        data : ndarray, shape (nnz,)
            One number for each stored entry.

        Returns
        -------
        scipy.sparse.csr_array, shape (S*A, S)
            The matrix.
        """
        kernel = self.transition
        return sp.csr_array((data, kernel.indices, kernel.indptr), shape=kernel.shape)

    def __str__(self) -> str:
        return (
            f"Model: {self.n_states} states, {self.n_actions} actions, {self.transition.nnz} "
            f"transitions, follower discount {self.follower_discount:g}, leader discount "
            f"{self.leader_discount:g}, temperature {self.temperature:g}"
        )


@displayed
@dataclass(frozen=True)
class Origin:
    """How far the row sums of the tables that a model is made of are from 1.

    Coarse tables, of float32, may be off by more than float64 ones. What is made of them may be off
    by as much.
    """

    transition: float = 0.0
    initial: float = 0.0

    @classmethod
    def of(cls, transition: sp.csr_array, initial: FloatArray, termination: FloatArray) -> Origin:
        """Measure."""
        sums = np.asarray(transition @ np.ones(transition.shape[1]))
        off = np.where(sums > 0.0, np.abs(sums - (1.0 - termination.ravel())), 0.0)
        return cls(float(off.max()), float(abs(initial.sum() - 1.0)))


@quiet
def made_of(
    origin: Origin,
    /,
    *,
    transition: npt.ArrayLike | sp.sparray | sp.spmatrix,
    follower_reward: npt.ArrayLike,
    leader_reward: npt.ArrayLike,
    initial: npt.ArrayLike,
    follower_discount: float,
    leader_discount: float,
    temperature: float,
    available: npt.ArrayLike | None = None,
    termination: npt.ArrayLike | None = None,
    state_names: Sequence[str] | None = None,
    action_names: Sequence[str] | Sequence[Sequence[str]] | None = None,
) -> Model:
    """Make a model as `Model.from_tables` does, of tables that were computed from others."""
    follower = real_array("follower_reward", follower_reward, (None, None))
    n_states, n_actions = follower.shape
    mask = _availability(available, follower)
    follower = finite_array("follower_reward", follower, follower.shape, where=mask)
    ends = as_termination(termination, mask)
    matrix = as_transition(
        "transition", transition, (n_states, n_actions), n_states, ends, mask, origin=origin
    )
    start = as_distribution("initial", initial, n_states, origin=origin.initial)
    model = Model(
        transition=matrix,
        follower_reward=read_only(follower),
        leader_reward=read_only(
            finite_array("leader_reward", leader_reward, follower.shape, where=mask)
        ),
        initial=read_only(start),
        termination=read_only(ends),
        available=read_only(mask),
        follower_discount=as_discount("follower_discount", follower_discount),
        leader_discount=as_leader_discount(leader_discount),
        temperature=as_positive("temperature", temperature),
        state_names=as_names("state_names", state_names, n_states),
        action_names=as_action_names("action_names", action_names, mask.shape),
    )
    largest = model.largest_mass
    for name, discount in (
        ("follower_discount", model.follower_discount),
        ("leader_discount", model.leader_discount),
    ):
        if discount == 1.0:  # the leader's alone may be
            _require_ends(model)
        elif discount * largest >= 1.0:
            raise ValueError(
                f"{name} times the largest row sum of transition is {discount * largest}, "
                "not below 1"
            )
    return model


def _reward(name: str, model: Model, table: npt.ArrayLike) -> FloatArray:
    where = None if model._kernel.everything_available else model.available
    return read_only(finite_array(name, table, model.available.shape, where=where))


def _initial(model: Model, table: npt.ArrayLike) -> FloatArray:
    origin = model.origin.initial
    return read_only(as_distribution("initial", table, model.n_states, origin=origin))


# How `Model.replace` checks tables that are not the kernel's, each without a look at the others.
CHECKED_ALONE: Mapping[str, Callable[[Model, Any], Any]] = {
    "follower_reward": lambda model, table: _reward("follower_reward", model, table),
    "leader_reward": lambda model, table: _reward("leader_reward", model, table),
    "initial": _initial,
    "temperature": lambda model, number: as_positive("temperature", number),
}


@dataclass(frozen=True, eq=False)
class _Kernel:
    """What follows from a model's kernel alone, each worked out when first asked for."""

    transition: sp.csr_array
    termination: FloatArray
    available: BoolArray

    @cached_property
    def everything_available(self) -> bool:
        return bool(self.available.all())

    @cached_property
    def nothing(self) -> FloatArray:
        return read_only(np.zeros(self.available.shape))

    @cached_property
    def transposed(self) -> sp.csc_array:  # costs more to make than to multiply with
        return self.transition.T

    @cached_property
    def longest_row(self) -> int:
        return int(np.diff(self.transition.indptr).max())

    @cached_property
    def row_mass(self) -> FloatArray:
        sums = self.transition @ np.ones(self.transition.shape[1])
        return read_only(np.asarray(sums).reshape(self.termination.shape))

    @cached_property
    def largest_mass(self) -> float:
        return float(self.row_mass.max())

    @cached_property
    def lasting(self) -> BoolArray:
        return read_only(self.available & (self.termination == 0.0))

    @cached_property
    def entry_row(self) -> IntArray:
        rows = np.arange(self.termination.size)
        return read_only(np.repeat(rows, np.diff(self.transition.indptr)))

    @cached_property
    def entry_state(self) -> IntArray:
        return read_only(self.entry_row // self.termination.shape[1])

    @cached_property
    def least_band(self) -> int:
        """Bound the band's half width from below, whatever the numbering, at little cost.

        Within k steps of a state there are at most 2 k w others if no step leads further than w.
        """
        n_states, n_actions = self.termination.shape
        reached = np.zeros(n_states)
        reached[0] = 1.0
        least = 0
        for steps in range(1, STEPS_FROM_A_STATE + 1):
            reached = np.sign(reached + self.transposed @ np.repeat(reached, n_actions))
            least = max(least, math.ceil((np.count_nonzero(reached) - 1) / (2 * steps)))
        return least

    @cached_property
    def _apart(self) -> tuple[IntArray, IntArray]:
        n_states = self.termination.shape[0]
        source, target = self.entry_state, self.transition.indices
        links = sp.csr_array((np.ones(target.size), (source, target)), shape=(n_states, n_states))
        place = narrowing(links)
        return read_only(place), np.abs(place[source] - place[target])

    @cached_property
    def band(self) -> tuple[IntArray, int]:
        place, apart = self._apart
        return place, int(apart.max(initial=0))

    @cached_property
    def narrow(self) -> bool:
        narrow = NARROW * math.sqrt(self.termination.shape[0])
        if self.least_band > 4.0 * narrow:  # as in a random graph
            return False
        apart = self._apart[1]
        return bool(apart.sum() <= narrow * apart.size)

    @cached_property
    def overlapping(self) -> bool:
        source, target = self.entry_state, self.transition.indices
        some = source < SOME_STATES
        links = source[some].astype(np.int64) * self.termination.shape[0] + target[some]
        return 2 * len(np.unique(links)) < len(links)


@dataclass(frozen=True, eq=False)
class Tangent:
    """Derivative of a model's tables in one direction of theta.

    What it holds at unavailable actions is ignored. It is used as stored: where the sums of `leaks`
    are not 0, the model's rows would leave the distributions if theta moved on.

    Attributes
    ----------
    follower_reward, leader_reward : ndarray, shape (S, A)
        Change of the rewards.
    transition : ndarray, shape (nnz,)
        Change of the stored transition entries, in the order of ``model.transition.data``. A
        problem's `pushforward` may also give the whole table, (S, A, S) or sparse (S*A, S).
    initial : ndarray, shape (S,)
        Change of the initial distribution.
    temperature : float
        Change of the temperature.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> problem, theta = tb.problems.two_state(), [0.0, 0.0]
    >>> tangent = problem.pushforward(theta, [0.0, 1.0])  # workers are sent home more often
    >>> tangent.transition, tb.Tangent.zero(problem.model(theta)).transition
    (array([ 0.  ,  0.  ,  0.25, -0.25]), array([0., 0., 0., 0.]))
    >>> tangent.leaks(problem.model(theta))  # what home gains, work loses
    (array([[0., 0.],
           [0., 0.]]), 0.0)
    """

    follower_reward: FloatArray
    leader_reward: FloatArray
    transition: FloatArray
    initial: FloatArray
    temperature: float = 0.0

    @classmethod
    def zero(cls, model: Model) -> Tangent:
        """Return the tangent of tables that do not move.

        Parameters
        ----------
        model : Model
            Whose tables.

        Returns
        -------
        Tangent
            Zeros.
        """
        shape = model.follower_reward.shape
        return cls(
            np.zeros(shape),
            np.zeros(shape),
            np.zeros(model.transition.nnz),
            np.zeros(model.n_states),
        )

    @quiet
    def leaks(self, model: Model) -> tuple[FloatArray, float]:
        """Add up what must have the sum 0.

        Parameters
        ----------
        model : Model
            The model that it is a derivative of.

        Returns
        -------
        ndarray, shape (S, A)
            Sums of the rows of `transition`; 0 where an action is unavailable or may end the
            episode, since theta may then move `termination`.
        float
            Sum of `initial`.
        """
        sums = grouped_sums(model.entry_row, self.transition, model.termination.size)
        return np.where(model.lasting, sums.reshape(model.lasting.shape), 0.0), float(
            self.initial.sum()
        )


@quiet
def normalised(
    table: npt.ArrayLike | sp.sparray | sp.spmatrix,
    *,
    available: npt.ArrayLike | None = None,
    termination: npt.ArrayLike | None = None,
) -> FloatArray | sp.csr_array:
    """Scale distributions whose sums are off by rounding.

    Each entry p becomes ``p * (1 - termination) / sum``, computed exactly and rounded once. The
    sums of the result are then 1 but for these roundings, half a unit in the last place an entry;
    no float64 numbers come nearer in general.

    Parameters
    ----------
    table : array_like, shape (..., S), or scipy.sparse, shape (n, S)
        Distributions along the last axis, say `transition` or `initial` of `Model.from_tables` or
        `MarkovGame`.
    available, termination : array_like, shape (...), or (n,), optional
        As for `Model.from_tables`. Where nothing is available the result is 0.

    Returns
    -------
    ndarray or scipy.sparse.csr_array, shape as given
        The scaled distributions.

    Raises
    ------
    ValueError
        If an entry is no probability, or a sum is not off by rounding but wrong: by more than a
        model accepts.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> thirds = [0.333333333, 0.333333333, 0.333333334]
    >>> sum(thirds) == 1.0, tb.normalised([0.2, 0.8 + 1e-12]).tolist()
    (True, [0.1999999999998, 0.8000000000002])
    """
    given: Any = table
    shape = given.shape if sp.issparse(given) else as_array("table", given).shape
    if not shape:
        raise ValueError("table has shape (), not that of distributions along an axis")
    leading = shape[:-1]
    mask = np.ones(leading, dtype=np.bool_)
    if available is not None:
        mask &= _flags(available, leading)
    ends = as_termination(termination, mask)
    csr = as_transition("table", table, leading, shape[-1], ends, mask, origin=Origin())
    scaled = np.empty(csr.nnz)
    for row, end in enumerate(ends.ravel().tolist()):
        place = slice(csr.indptr[row], csr.indptr[row + 1])
        scaled[place] = _scaled(csr.data[place].tolist(), end)
    matrix = sp.csr_array((scaled, csr.indices, csr.indptr), shape=csr.shape)
    return matrix if sp.issparse(table) else matrix.toarray().reshape(shape)


def _scaled(row: list[float], end: float) -> list[float]:
    """Scale to the sum 1 - end: quotients of integers, which Python rounds once."""
    fractions = [x.as_integer_ratio() for x in [*row, end]]
    scale = max(denominator for _, denominator in fractions)  # powers of 2
    *numerators, ended = (n * (scale // denominator) for n, denominator in fractions)
    total = sum(numerators)
    return [n * (scale - ended) / (total * scale) if n else 0.0 for n in numerators]


def not_forbidden(follower_reward: FloatArray) -> BoolArray:
    """Find the actions that no ``-inf`` forbids; NaN is left to the check of the rewards."""
    return np.asarray((follower_reward > -np.inf) | np.isnan(follower_reward))


def _require_ends(model: Model) -> None:
    """Raise unless some path of available actions leads from every state to an end."""
    n_states, kernel = model.n_states, model.transition
    rows = model.available.ravel()[model.entry_row] & (kernel.data > 0.0)
    ending = np.flatnonzero((model.available & (model.termination > 0.0)).any(axis=1))
    # backward, from a node that stands for the end
    source = np.concatenate((kernel.indices[rows], np.full(ending.size, n_states)))
    target = np.concatenate((model.entry_state[rows], ending))
    links = sp.csr_array(
        (np.ones(source.size), (source, target)), shape=(n_states + 1, n_states + 1)
    )
    reached = scipy.sparse.csgraph.breadth_first_order(links, n_states, return_predecessors=False)
    endless = np.setdiff1d(np.arange(n_states), reached)
    if endless.size:
        state = int(endless[0])
        name = repr(model.state_names[state]) if model.state_names else state
        raise ValueError(
            f"leader_discount is 1, and from state {name} the episode never ends: no path of "
            "available actions leads to one whose termination is above 0"
        )


def _availability(available: npt.ArrayLike | None, follower_reward: FloatArray) -> BoolArray:
    mask = not_forbidden(follower_reward)
    if available is not None:
        mask = mask & _flags(available, mask.shape)
    idle = ~mask.any(axis=1)
    if idle.any():
        raise ValueError(f"state {int(np.argmax(idle))} has no available action")
    return mask


def _flags(available: npt.ArrayLike, shape: tuple[int, ...]) -> BoolArray:
    given = as_array("available", available)
    if given.dtype.kind != "b":
        raise ValueError(f"available has dtype {given.dtype}; booleans are needed")
    if given.shape != shape:
        raise ValueError(f"available has shape {given.shape}, not {shape}")
    return given


def as_termination(termination: npt.ArrayLike | None, mask: BoolArray) -> FloatArray:
    """Copy probabilities of ending, 0 by default; 1 where an action is unavailable."""
    if termination is None:
        return np.where(mask, 0.0, 1.0)
    ends = real_array("termination", termination, mask.shape)
    ends[~mask] = 1.0
    require_probabilities("termination", ends)
    if (ends > 1.0).any():
        index = first(ends > 1.0)
        raise ValueError(f"{entry('termination', index)} is {ends[index]}, larger than 1")
    return ends


def as_transition(
    name: str,
    transition: Any,
    leading: tuple[int, ...],
    n_states: int,
    termination: FloatArray,
    mask: BoolArray,
    *,
    origin: Origin,
) -> sp.csr_array:
    """Check a kernel with the given leading axes and copy it to a canonical, read-only CSR array.

    Signs are checked before duplicates are added up: 0.5 = 1.5 + (-1.0) would hide one.
    """
    n_rows = int(np.prod(leading))
    used = mask.ravel()
    if sp.issparse(transition):
        if transition.shape != (n_rows, n_states):
            raise ValueError(
                f"{name} has shape {transition.shape}, not {(n_rows, n_states)} "
                "(one row a state and action)"
            )
        dtype = transition.dtype
        data, (rows, columns) = as_entries(name, transition)
    else:
        dtype = as_array(name, transition).dtype
        dense = real_array(name, transition, (*leading, n_states)).reshape(n_rows, n_states)
        rows, columns = np.nonzero(dense)
        data = dense[rows, columns]
    data = np.where(used[rows], data, 0.0)
    bad = ~(np.isfinite(data) & (data >= 0.0))
    if bad.any():
        k = int(np.argmax(bad))
        index = (*np.unravel_index(rows[k], leading), columns[k])
        raise ValueError(f"{entry(name, index)} is {data[k]}, not a probability")
    csr = sp.csr_array((data, (rows, columns)), shape=(n_rows, n_states))
    sums = np.asarray(csr @ np.ones(n_states))
    wanted = 1.0 - termination.ravel()
    off = used & (np.abs(sums - wanted) > distribution_tolerance(dtype, origin.transition))
    if off.any():
        k = int(np.argmax(off))
        ends = termination.ravel()[k]
        goal = "1" if ends == 0.0 else f"1 - termination = {wanted[k]:.12g}"
        row = entry(name, np.unravel_index(k, leading))
        raise ValueError(f"{row} sums to {sums[k]:.12g}, not {goal}")
    if csr.nnz > MAX_ENTRIES:
        raise ValueError(f"{name} has {csr.nnz} entries, more than {MAX_ENTRIES}")
    return read_only_matrix(csr)
