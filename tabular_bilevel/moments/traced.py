"""Mean and covariance of what a rule makes of one trajectory (theory.md section 16).

A trajectory's gradient is affine in its past: with the eligibility e that a step is reached with,
and weights v_1, v_2 that decay step by step, a step adds e x + v_1 y_1 + v_2 y_2, where x and y
depend on the step alone. So the mean of what is still to come obeys a linear equation in the state,
and its changes from step to step are uncorrelated: the covariance is a sum of local ones, weighted
by the second moments of (e, v_1, v_2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from tabular_bilevel._base import kernels
from tabular_bilevel._base.arrays import (
    FloatArray,
    IntArray,
    backwards,
    blocks,
    grouped_sums,
    quiet,
)
from tabular_bilevel.derivatives import tangents_at
from tabular_bilevel.finite.follower import log_policy
from tabular_bilevel.finite.linear import LinearSystem, factored_system
from tabular_bilevel.finite.tangents import MOVED, Tangents
from tabular_bilevel.sampling.experience import Experience
from tabular_bilevel.sampling.traces import TraceRule
from tabular_bilevel.sampling.trajectories import ALL_ENDED, Law

#: Multiplies tables of shape (n, c): either entry by entry, or each column with each; adds up rows.
Product = Callable[[FloatArray, FloatArray], FloatArray]


def _squares(one: FloatArray, other: FloatArray) -> FloatArray:
    return np.asarray(np.einsum("oc,oc->c", one, other))


def _products(one: FloatArray, other: FloatArray) -> FloatArray:
    return np.asarray(one.T @ other)


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What a step can be: a pair, and the next state or the end; one entry each.

    Attributes
    ----------
    pair, arrival, entry : ndarray of int, shape (n,)
        Row s * A + a; next state, S for the end; place among the stored transitions, if any.
    chance : ndarray, shape (n,)
        Probability, given the state.
    shape : (int, int)
        S and A.
    """

    pair: IntArray
    arrival: IntArray
    entry: IntArray
    chance: FloatArray
    shape: tuple[int, int]

    @classmethod
    def of(cls, law: Law) -> Outcomes:
        """List the outcomes of positive probability."""
        world, policy = law.made_in, law.policy.ravel()
        kernel, ends = world.transition, world.termination.ravel() * policy
        moves = policy[world.entry_row] * kernel.data
        goes, stops = np.flatnonzero(moves > 0.0), np.flatnonzero(ends > 0.0)
        return cls(
            pair=np.concatenate((world.entry_row[goes], stops)),
            arrival=np.concatenate((kernel.indices[goes], np.full(stops.size, world.n_states))),
            entry=goes,
            chance=np.concatenate((moves[goes], ends[stops])),
            shape=law.policy.shape,
        )

    @cached_property
    def state(self) -> IntArray:
        """Where the step is made, shape (n,)."""
        return self.pair // self.shape[1]

    def averages(self, weights: FloatArray, place: IntArray, n_places: int) -> sp.csr_array:
        """Make the matrix of a state's weighted averages over places, shape (S, n_places)."""
        parts = (self.chance * weights, (self.state, place))
        return sp.csr_array(parts, shape=(self.shape[0], n_places))

    def arriving(self, flow: FloatArray) -> FloatArray:
        """Add up what goes along with the outcomes, shape (n,), by where it arrives, (S,)."""
        moved = self.chance * flow
        return grouped_sums(self.arrival, moved, self.shape[0] + 1)[:-1]

    def of_transitions(self, table: sp.csr_array) -> sp.csr_array:
        """Read rows of stored transitions, (nnz, d), for outcomes, (n, d); 0 for the end."""
        picked = (np.ones(self.entry.size), (np.arange(self.entry.size), self.entry))
        shape = (self.chance.size, table.shape[0])
        return sp.csr_array(picked, shape=shape) @ table


def _summing(group: IntArray, weights: FloatArray, n_groups: int) -> sp.csr_array:
    """Make the matrix that adds up each group's rows with weights; one group more is left out."""
    kept = np.flatnonzero(group < n_groups)
    return sp.csr_array((weights[kept], (group[kept], kept)), shape=(n_groups, group.size))


@dataclass(frozen=True, eq=False)
class Answer:
    """What an arrival adds by the action taken there: v_j at that step times worth and slopes.

    Attributes
    ----------
    weight : int
        The j of v_j.
    worth : ndarray, shape (S, A)
        Of the action.
    mean : ndarray, shape (S + 1,)
        The policy's mean of it; 0 at the end.
    slopes, start : scipy.sparse.csc_array, shapes (n, d) and (S, d)
        Of the arrival, and of a start.
    """

    weight: int
    worth: FloatArray
    mean: FloatArray
    slopes: sp.csc_array
    start: sp.csc_array


class Spread(NamedTuple):
    """Mean and covariance of some coordinates.

    Attributes
    ----------
    mean : ndarray, shape (c,)
        Mean.
    covariance : ndarray, shape (c,) or (c, c)
        Variance of each, or covariance.
    of_starts : ndarray, likewise
        The part of it that is due to where trajectories start.
    """

    mean: FloatArray
    covariance: FloatArray
    of_starts: FloatArray


def joined(parts: Iterable[Spread]) -> Spread:
    """Put those of some coordinates side by side."""
    return Spread(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


class TracedMoments:
    """The moments of one trajectory's gradient, for a rule that does not depend on the sample.

    Trajectories are cut at a horizon, if any. Raises ValueError if moments are infinite, or may be.
    """

    # of the eligibility, then of the weights v_1, v_2: by how much each decays in a step, what it
    # adds to the eligibility, and what it is multiplied by, in the row that an outcome names
    decays: FloatArray
    credits: FloatArray
    slopes: list[sp.csc_array]
    row: IntArray

    @quiet
    def __init__(self, rule: TraceRule, experience: Experience, horizon: int | None) -> None:
        self.rule, self.experience, self.horizon = rule, experience, horizon
        self.law = experience.law
        self.outcomes = Outcomes.of(self.law)
        self._systems: dict[float, LinearSystem] = {}
        tangents = tangents_at(experience.problem, experience.theta, experience.world)
        self.n_parameters = len(tangents)
        self._differentiate(experience, tangents)
        if horizon is None:
            self._past = self._stationary()

    def _differentiate(self, experience: Experience, tangents: Tangents) -> None:
        """Find what the past is multiplied by."""
        rule, outcomes, model = self.rule, self.outcomes, experience.world
        worth = rule.worth(experience)
        arriving = worth.of_transitions(model)
        direct = {name: rule.direct * rule.direct_tables.get(name, 1.0) for name in MOVED}
        indirect = {name: rule.indirect * rule.indirect_tables.get(name, 1.0) for name in MOVED}
        likelihood = np.where(model.transition.data > 0.0, model.transition.data, 1.0)
        first = np.where(model.initial > 0.0, model.initial, 1.0)

        def moved(factor: float, value: FloatArray) -> sp.csr_array:
            scores = sp.diags_array(factor * value / likelihood) @ tangents.transition
            return outcomes.of_transitions(scores)

        def started(factor: float, value: FloatArray) -> sp.csc_array:
            return sp.csc_array(sp.diags_array(factor * value / first) @ tangents.initial)

        paid = direct["leader_reward"] * tangents.leader_reward
        through = indirect["follower_reward"] * tangents.follower_reward
        if rule.centred:
            state = np.repeat(np.arange(model.n_states), model.n_actions)
            mean = _summing(state, experience.response.policy.ravel(), model.n_states) @ through
            through = sp.csr_array(through - mean[state])
        elif tangents.temperature.nnz:
            heat = -log_policy(experience.planned, experience.response.action_value).reshape(-1, 1)
            heat = sp.csr_array(indirect["temperature"] * heat)
            through = sp.csr_array(through + heat @ tangents.temperature)
        credit, self.row, self.n_rows = rule.credit.ravel(), outcomes.pair, rule.credit.size
        if tangents.transition.nnz:
            paid = paid[outcomes.pair] + moved(direct["transition"], arriving[0])
            through = through[outcomes.pair]
            if not rule.centred:
                through = through + moved(indirect["transition"], arriving[1])
            credit, self.n_rows = credit[outcomes.pair], outcomes.pair.size
            self.row = np.arange(self.n_rows)
        through.eliminate_zeros()
        at_once = (0.0 if rule.late else 1.0) * sp.diags_array(credit) @ through
        if rule.credit_discount == rule.leader_discount or not through.nnz:
            weights = [(rule.leader_discount, credit, paid + at_once)]
        else:
            weights = [
                (rule.leader_discount, np.zeros_like(credit), paid),
                (rule.credit_discount, credit, at_once),
            ]
        past = [(rule.trace_discount, np.ones_like(credit), through), *weights]
        self.decays = np.array([decay for decay, _, _ in past])
        self.credits = np.array([credit for _, credit, _ in past])
        self.slopes = [sp.csc_array(slopes) for _, _, slopes in past]
        self.start = started(direct["initial"], worth.leader_start)
        self.answers: list[Answer] = []
        if not (rule.own_action and tangents.transition.nnz + tangents.initial.nnz):
            return  # no score to multiply

        def answer(
            weight: int, table: FloatArray, slopes: sp.csr_array, start: sp.csc_array
        ) -> None:
            mean = np.append(np.vecdot(self.law.policy, table), 0.0)
            self.answers.append(Answer(weight, table, mean, sp.csc_array(slopes), start))

        gain = np.where(model.available, experience.values.advantage, 0.0)
        answer(
            1,
            gain,
            moved(direct["transition"], np.ones_like(likelihood)),
            started(direct["initial"], np.ones_like(first)),
        )
        if not (rule.late or rule.centred):
            ahead = arriving[1] / (model.follower_discount or math.inf)
            answer(
                len(weights),
                rule.credit,
                moved(indirect["transition"], ahead),
                started(indirect["initial"], worth.follower_start),
            )

    @property
    def n_steps(self) -> float:
        """Mean number of steps of a trajectory that no horizon cuts."""
        try:
            steps = self.system(self.law.survival).solve(np.ones(self.outcomes.shape[0]))
        except ValueError:  # play need not end
            return math.inf
        return float(self.law.made_in.initial @ steps)

    # ---------------------------------------------------------------- second moments of the past

    def first(self) -> FloatArray:
        """Second moments of (e, v_1, ...) at the start, by state, shape (k, k, S)."""
        k, initial = self.decays.size, self.law.made_in.initial
        past = np.zeros((k, k, initial.size))
        past[1:, 1:] = initial
        return past

    def carried(self, past: FloatArray) -> FloatArray:
        """Move second moments past a step, without the outcomes' chances, shape (k, k, n)."""
        now, credit = past[:, :, self.outcomes.state], self.credits[:, self.row]
        with_e = np.einsum("io,ijo->jo", credit, now)  # the next eligibility's, with each
        with_e[0] = (credit * with_e).sum(axis=0)
        now[0] = now[:, 0] = with_e
        return now * np.multiply.outer(self.decays, self.decays)[:, :, None] / self.law.survival

    @cached_property
    def _length(self) -> int:
        """Steps until all trajectories are cut or have ended."""
        outcomes, alive, length = self.outcomes, self.law.made_in.initial, 0
        while length < (self.horizon or 0) and alive.sum() > ALL_ENDED:
            alive, length = outcomes.arriving(alive[outcomes.state]), length + 1
        return length

    def _steps_back(self) -> Iterator[tuple[FloatArray | None, FloatArray]]:
        """Yield the second moments a step before and at each step, from the last one back."""

        def onward(
            both: tuple[FloatArray | None, FloatArray],
        ) -> tuple[FloatArray | None, FloatArray]:
            past = both[1]
            flows = self.carried(past)
            return past, np.array([[self.outcomes.arriving(flow) for flow in row] for row in flows])

        first = self.first()
        return backwards(onward, (None, first), self._length, first.size)

    def _stationary(self) -> FloatArray:
        """Add the second moments up over all steps; each depends on those of later weights only."""
        past, outcomes, last = self.first(), self.outcomes, self.decays.size - 1
        for i in range(last, -1 if self.slopes[0].nnz else 0, -1):
            for j in range(last, i - 1, -1):
                decay = self.decays[i] * self.decays[j] / self.law.survival
                own = decay * past[i, j][outcomes.state]
                source = past[i, j] + outcomes.arriving(self.carried(past)[i, j] - own)
                past[i, j] = past[j, i] = self.system(decay).solve_transposed(source)
        return past

    def system(self, discount: float) -> LinearSystem:
        """Prepare the equations of what is added up over steps, at a discount.

        Raises ValueError if the sum is infinite, or may be.
        """
        if discount not in self._systems:
            try:
                if discount > 1.0:
                    raise ValueError
                law = self.law
                self._systems[discount] = factored_system(law.made_in, law.policy, discount)
            except ValueError as error:
                raise ValueError(
                    f"what a step adds to the moments decays by {discount:.6g} from step to step, "
                    "and play need not end: without a horizon they may be infinite; give one"
                ) from error
        return self._systems[discount]

    # ---------------------------------------------------------------- what is still to come

    def _blocks(self) -> Iterator[slice]:
        return blocks(self.n_parameters, self.outcomes.pair.size)

    def coming(self) -> Iterator[tuple[slice, FloatArray]]:
        """Yield what is still to come without a cut, shape (k, S + 1, c), by blocks of columns."""
        for block in self._blocks():
            yield block, _Local(self, block, _squares).stationary()

    @quiet
    def variances(self) -> Spread:
        """Compute the mean and the variance of each coordinate."""
        return joined(self._spread(block, _squares) for block in self._blocks())

    @quiet
    def covariance(self) -> Spread:
        """Compute the mean and the whole covariance."""
        return self._spread(slice(None), _products)

    def _spread(self, columns: slice, product: Product) -> Spread:
        local, covariance = _Local(self, columns, product), np.zeros(())
        if self.horizon is None:
            coming = local.stationary()
            covariance = local.covariance(coming, coming, self._past, [None, self._past])
        else:
            coming, last = local.nothing(), True
            for before, past in self._steps_back():
                means = local.means(coming, last=last)
                step = local.covariance(coming, means, past, [before], last=last)
                covariance, coming, last = covariance + step, means, False
        initial = self.law.made_in.initial
        from_start = self.start[:, columns].toarray() + coming[1:, :-1].sum(axis=0)
        for answer in self.answers:
            from_start += answer.mean[:-1, None] * answer.start[:, columns].toarray()
        mean = initial @ from_start
        off = from_start - mean
        of_starts = product(initial[:, None] * off, off)
        return Spread(mean, covariance + of_starts, of_starts)


class _Local:
    """What is still to come, and local covariances, for a block of columns.

    What is still to come is a table of shape (k, S + 1, c): what the eligibility and each of the
    weights is multiplied by from a state on, on average; 0 at the end.
    """

    def __init__(self, moments: TracedMoments, columns: slice, product: Product) -> None:
        self._moments, self._product = moments, product
        outcomes, arrival = moments.outcomes, moments.outcomes.arrival
        self._slopes = np.array([slopes[:, columns].toarray() for slopes in moments.slopes])
        self._answers = [
            (answer, answer.slopes[:, columns].toarray(), answer.start[:, columns].toarray())
            for answer in moments.answers
        ]
        n_states, everywhere = outcomes.shape[0], np.arange(arrival.size)
        by_row = outcomes.averages(np.ones(arrival.size), moments.row, moments.n_rows)
        self._at_once = [by_row @ slopes for slopes in self._slopes]
        self._credited = [
            outcomes.averages(credit[moments.row], arrival, n_states + 1)
            for credit in moments.credits
        ]
        self._moves = outcomes.averages(np.ones(arrival.size), arrival, n_states + 1)
        self._answered = [
            outcomes.averages(answer.mean[arrival], everywhere, arrival.size) @ slopes
            for answer, slopes, _ in self._answers
        ]

    def nothing(self) -> FloatArray:
        """Have nothing still to come."""
        k, _, width = self._slopes.shape
        return np.zeros((k, self._moments.outcomes.shape[0] + 1, width))

    def stationary(self) -> FloatArray:
        """Solve for what is still to come without a cut: of the eligibility first."""
        coming = self.nothing()
        for i, decay in enumerate(self._moments.decays):
            source = self._mean(i, coming, last=False)
            if source.any():
                coming[i, :-1] = self._moments.system(decay).solve(source)
        return coming

    def means(self, coming: FloatArray, *, last: bool) -> FloatArray:
        """Average over a step what it adds, and what is still to come after it."""
        means = np.zeros_like(coming)
        for i in range(len(means)):
            means[i, :-1] = self._mean(i, coming, last=last)
        return means

    def _mean(self, i: int, coming: FloatArray, *, last: bool) -> FloatArray:
        decays = self._moments.decays
        mean: FloatArray = self._at_once[i] + decays[i] * (self._moves @ coming[i])
        if i > 0:
            mean += decays[0] * (self._credited[i] @ coming[0])
        if not last:
            for (answer, _, _), answered in zip(self._answers, self._answered, strict=True):
                if answer.weight == i:
                    mean += decays[i] * answered
        return mean

    def covariance(
        self,
        coming: FloatArray,
        means: FloatArray,
        past: FloatArray,
        before: list[FloatArray | None],
        *,
        last: bool = False,
    ) -> FloatArray:
        """Weigh local covariances by the second moments of the past, shape (k, k, S).

        `before` has those of a step before, None for the start: their arrivals are answered now.
        """
        moments, outcomes = self._moments, self._moments.outcomes
        arrival, survival = outcomes.arrival, moments.law.survival
        weights, coin = outcomes.chance * past[:, :, outcomes.state], (1.0 - survival) / survival
        if self._product is _squares and not self._answers:
            found = np.zeros(means.shape[2])
            kernels.local_variances(
                outcomes.state,
                arrival,
                moments.row,
                weights,
                self._slopes,
                moments.credits,
                coming,
                means,
                moments.decays,
                coin,
                np.empty((len(means), found.size)),
                np.empty((len(means), found.size)),
                found,
            )
            return found
        later = moments.decays[:, None, None] * coming[:, arrival]
        for answer, slopes, _ in () if last else self._answers:
            given = moments.decays[answer.weight] * answer.mean[arrival, None]
            later[answer.weight] += given * slopes
        later[1:] += moments.credits[1:, moments.row, None] * later[0]
        off = self._slopes[:, moments.row] + later - means[:, outcomes.state]
        found = self._weighted(off, weights)
        if coin > 0.0:  # whether anything comes later
            found = found + coin * self._weighted(later, weights)
        for each in before if self._answers else ():
            found = found + self._answering(off, each)
        return found

    def _weighted(self, parts: FloatArray, weights: FloatArray) -> FloatArray:
        sides = np.einsum("ijo,joc->ioc", weights, parts)
        found = [self._product(*both) for both in zip(sides, parts, strict=True)]
        return np.asarray(np.sum(found, axis=0))

    def _answering(self, off: FloatArray, before: FloatArray | None) -> FloatArray:
        """Add up what the actions on arrival bring, and their covariance with what they lead to."""
        moments, found = self._moments, np.zeros(())
        outcomes, n_states = moments.outcomes, moments.outcomes.shape[0]
        place: IntArray = np.arange(n_states)
        weights = moments.first()
        if before is not None:
            place, weights = outcomes.arrival, outcomes.chance * moments.carried(before)
        shown = [
            (answer, answer.worth - answer.mean[:-1, None], start if before is None else slopes)
            for answer, slopes, start in self._answers
        ]
        for answer, gain, slopes in shown:
            gains = gain.ravel()[outcomes.pair]
            led_to = outcomes.averages(gains, np.arange(gains.size), gains.size)
            for weight, part in zip(weights[answer.weight], off, strict=True):
                both = _summing(place, weight, n_states) @ slopes, led_to @ part
                found = found + self._product(*both) + self._product(*both[::-1])
            for other, other_gain, other_slopes in shown:
                together = np.append(np.vecdot(moments.law.policy, gain * other_gain), 0.0)
                weight = weights[answer.weight, other.weight] * together[place]
                found = found + self._product(weight[:, None] * slopes, other_slopes)
        return found
