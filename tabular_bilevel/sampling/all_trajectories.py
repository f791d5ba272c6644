"""All trajectories of a model under a policy: counted, and each made from its number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import scipy.sparse.csgraph

from tabular_bilevel._base.arguments import positive_integer
from tabular_bilevel._base.arrays import FloatArray, IntArray, quiet, read_only
from tabular_bilevel.finite.follower import solve_follower
from tabular_bilevel.finite.model import Model
from tabular_bilevel.problem import require_tables
from tabular_bilevel.sampling.trajectories import Trajectories, as_policy


def count_trajectories(
    model: Model, *, policy: npt.ArrayLike | None = None, horizon: int | None = None
) -> int:
    """Count the trajectories of positive probability, without listing them.

    Parameters
    ----------
    model : Model
        The model to act in.
    policy : array_like, shape (S, A), optional
        Probability of each action; the follower's response by default.
    horizon : int, optional
        Cut trajectories after this many steps.

    Returns
    -------
    int
        Exact, however large.

    Raises
    ------
    ValueError
        If a state can be visited twice and there is no horizon, so that there is no longest
        trajectory; the message names the state. Or if the model is not one of tables.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> tb.count_trajectories(tb.problems.layered(depth=20).model([0.0] * 4))
    1649267441664
    """
    require_tables(model, name="model")
    chances = solve_follower(model).policy if policy is None else as_policy(model, policy)
    return AllTrajectories(model, chances, horizon=horizon).count


class AllTrajectories:
    """The trajectories of a model under a policy, numbered in the order of their steps.

    At each step, the outcomes that can be taken there (a state, an action, and a next state or the
    end) are listed with the number of trajectories that go through each. A trajectory's number is
    its place in the first list; what is left of it is its place in the next. With a horizon
    trajectories are cut. Raises ValueError as `count_trajectories`.
    """

    @quiet
    def __init__(self, model: Model, policy: FloatArray, *, horizon: int | None = None) -> None:
        self._model = require_tables(model, what="enumeration")
        self._outcomes = _Outcomes.of(model, policy)
        limit = None if horizon is None else positive_integer("horizon", horizon)
        self._states: list[IntArray] = []  # that can be visited at each step
        states: IntArray = np.flatnonzero(model.initial > 0.0)
        if limit is None:
            _require_no_return(self._outcomes, states, model.n_states)
        while states.size and len(self._states) != limit:
            self._states.append(states)
            following = self._outcomes.following[self._outcomes.leaving(states)]
            states = np.unique(following[following >= 0])

    @property
    def longest(self) -> int:
        """Number of steps of the longest."""
        return len(self._states)

    @cached_property
    def count(self) -> int:
        """How many there are."""
        *_, (_, counts) = self._backward()
        return int(counts.sum())

    @cached_property
    @quiet
    def probability(self) -> float:
        """Sum of their probabilities: 1, up to the digits of the model's tables."""
        sums = np.ones(self._model.n_states + 1)  # as `ways` in `_backward`
        for states in reversed(self._states):
            outcomes = self._outcomes.leaving(states)
            parts = self._outcomes.probability[outcomes] * sums[self._outcomes.following[outcomes]]
            sums[states] = np.add.reduceat(parts, self._outcomes.starts(states))
        return float(self._model.initial @ sums[:-1])

    @quiet
    def take(self, numbers: IntArray) -> tuple[Trajectories, FloatArray]:
        """Make trajectories from their numbers, a row each, and return their probabilities, too."""
        shape = (numbers.size, self.longest)
        pairs, entries = np.full((2, *shape), -1, dtype=np.int32)
        lengths = np.zeros(numbers.size, dtype=np.int64)
        probabilities = np.ones(numbers.size)
        rows, places = np.arange(numbers.size), numbers
        for t, step in enumerate(self._steps):
            if rows.size == 0:
                break
            taken = np.searchsorted(step.before, places, side="right") - 1
            outcome = step.outcomes[taken]
            pairs[rows, t] = self._outcomes.pair[outcome]
            entries[rows, t] = self._outcomes.transition[outcome]
            probabilities[rows] *= self._outcomes.probability[outcome]
            lengths[rows] += 1
            places = places - step.before[taken] + step.entry[taken]
            goes = entries[rows, t] >= 0
            rows, places = rows[goes], places[goes]
        probabilities *= self._model.initial[pairs[:, 0] // self._model.n_actions]
        made = pairs >= 0
        sample = Trajectories.of_steps(
            pairs=read_only(pairs[made]),
            entries=read_only(entries[made]),
            lengths=read_only(lengths),
            longest=self.longest,
            model=self._model,
            complete=numbers.size,
        )
        return sample, read_only(probabilities)

    @cached_property
    def _steps(self) -> list[_Step]:
        steps: list[_Step] = []
        entry = np.zeros(self._model.n_states + 1, dtype=np.int64)  # of each state, a step later
        for states, (outcomes, counts) in zip(
            reversed(self._states), self._backward(), strict=True
        ):
            before = np.cumsum(counts.astype(np.int64)) - counts.astype(np.int64)
            steps.append(_Step(outcomes, before, entry[self._outcomes.following[outcomes]]))
            entry[states] = before[self._outcomes.starts(states)]
        return steps[::-1]

    def _backward(self) -> Iterator[tuple[IntArray, npt.NDArray[np.object_]]]:
        """List the outcomes of a step and the trajectories through each, the last step first."""
        # of each state, how many trajectories go on from it; the last entry is for the end (-1)
        ways = np.ones(self._model.n_states + 1, dtype=object)
        for states in reversed(self._states):
            outcomes = self._outcomes.leaving(states)
            counts = ways[self._outcomes.following[outcomes]]
            yield outcomes, counts
            ways[states] = np.add.reduceat(counts, self._outcomes.starts(states))


@dataclass(frozen=True, eq=False)
class _Step:
    """What can happen at a step, and where its trajectories stand in this list and the next."""

    outcomes: IntArray
    before: IntArray  # trajectories through the outcomes further up
    entry: IntArray  # place, in the next step's list, of the first that goes on from here


@dataclass(frozen=True, eq=False)
class _Outcomes:
    """What a step can be, sorted by state, action and next state (-1, the end, comes first)."""

    state: IntArray
    pair: IntArray
    transition: IntArray  # which is stored; -1 for the end
    following: IntArray
    probability: FloatArray
    first: IntArray  # of each state

    @classmethod
    def of(cls, model: Model, policy: FloatArray) -> _Outcomes:
        chances, kernel = policy.ravel(), model.transition
        goes = np.flatnonzero((chances[model.entry_row] > 0.0) & (kernel.data > 0.0))
        ends = np.flatnonzero((chances > 0.0) & (model.termination.ravel() > 0.0))
        pair = np.concatenate([ends, model.entry_row[goes]])
        following = np.concatenate([np.full(ends.size, -1), kernel.indices[goes]])
        transition = np.concatenate([np.full(ends.size, -1), goes])
        chance = np.concatenate([model.termination.ravel()[ends], kernel.data[goes]])
        order = np.lexsort((following, pair))
        state = pair[order] // model.n_actions
        return cls(
            state=state,
            pair=pair[order],
            transition=transition[order],
            following=following[order],
            probability=chances[pair[order]] * chance[order],
            first=np.searchsorted(state, np.arange(model.n_states + 1)),
        )

    def leaving(self, states: IntArray) -> IntArray:
        """List the outcomes of some states, state by state."""
        sizes = self.first[states + 1] - self.first[states]
        shift = np.repeat(self.first[states] - self.starts(states), sizes)
        return np.arange(sizes.sum()) + shift

    def starts(self, states: IntArray) -> IntArray:
        """Find where each state's outcomes begin in that list."""
        sizes = self.first[states + 1] - self.first[states]
        return np.asarray(np.cumsum(sizes) - sizes)


def _require_no_return(outcomes: _Outcomes, initial: IntArray, n_states: int) -> None:
    """Raise if a state can be visited twice."""
    goes = outcomes.following >= 0
    # a further state leads to all where trajectories start
    source = np.concatenate([np.full(initial.size, n_states), outcomes.state[goes]])
    target = np.concatenate([initial, outcomes.following[goes]])
    links = sp.csr_array((np.ones(source.size), (source, target)), shape=(n_states + 1,) * 2)
    reached = np.sort(
        scipy.sparse.csgraph.breadth_first_order(links, n_states, return_predecessors=False)
    )
    inside = links[reached][:, reached]
    _, group = scipy.sparse.csgraph.connected_components(inside, connection="strong")
    again = (np.bincount(group)[group] > 1) | (inside.diagonal() > 0.0)
    if again.any():
        raise ValueError(
            f"state {reached[np.argmax(again)]} can be visited twice, so no trajectory is the "
            "longest: cut them by a horizon, or take a problem in layers, such as "
            "tb.problems.layered and layered_game"
        )
