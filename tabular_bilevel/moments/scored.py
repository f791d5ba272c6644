"""Mean and covariance of the score-function form (theory.md section 16).

Its past is a vector: z_t, the sum of dlog pi over the steps before t, which later rewards are
multiplied by. What is second moments elsewhere is a number D, a vector E and a matrix F here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import scipy.sparse as sp

from tabular_bilevel._base.arrays import FloatArray, backwards, blocks, quiet
from tabular_bilevel.derivatives import tangents_at
from tabular_bilevel.estimators.naive import direct_rule
from tabular_bilevel.estimators.score_function import ScoreRule
from tabular_bilevel.finite.follower import log_policy
from tabular_bilevel.finite.linear import LinearSystem, policy_system
from tabular_bilevel.finite.tangents import summing
from tabular_bilevel.moments.traced import Spread, TracedMoments, joined
from tabular_bilevel.sampling.experience import Experience

#: The leader's value, (S,), and what the gradient gets, (S, d), from a state on.
Coming = tuple[FloatArray, FloatArray]

#: Second moments of (z, 1) at a state: of 1, (S,), z with 1, (S, d), and z with z.
Past = tuple[FloatArray, FloatArray, FloatArray]

#: Multiplies rows, (n, d): entry by entry, or each entry with each.
Product = Callable[[FloatArray, FloatArray], FloatArray]


class FollowerSlopes:
    """Derivatives of the follower's values, for some of the parameters or states at a time.

    An action's has what the temperature adds to it: that of a policy which stays as it is.
    """

    def __init__(self, experience: Experience) -> None:
        model, response = experience.world, experience.response
        tangents = tangents_at(experience.problem, experience.theta, model)
        ahead = sp.csr_array(sp.diags_array(response.value[model.transition.indices]))
        of_rows = summing(model.entry_row, response.policy.size) @ ahead
        self._model, self._policy, self._discount = model, response.policy, model.follower_discount
        self._own = tangents.follower_reward + self._discount * (of_rows @ tangents.transition)
        self._temperature = tangents.temperature.toarray()
        heat = -log_policy(experience.planned, response.action_value)
        self._heat = heat.reshape(-1, 1)
        self._system = policy_system(model, self._policy, self._discount)

    def of_values(self, columns: slice) -> FloatArray:
        """Differentiate the states' in some parameters, shape (S, c)."""
        source = self._source(slice(None), columns)
        return self._system.solve(np.einsum("sa,sad->sd", self._policy, source))

    def of_action_values(
        self, values: FloatArray, states: slice = slice(None), columns: slice = slice(None)
    ) -> FloatArray:
        """Differentiate the actions' of some states, shape (s, A, c), given those of all states."""
        source = self._source(states, columns)
        ahead = (self._model.transition[self._rows(states)] @ values).reshape(source.shape)
        available = self._model.available[states, :, None]
        return np.where(available, source + self._discount * ahead, 0.0)

    def _source(self, states: slice, columns: slice) -> FloatArray:
        rows = self._rows(states)
        source = self._own[rows, columns].toarray()
        source += self._heat[rows] * self._temperature[:, columns]
        return np.asarray(source.reshape(-1, self._model.n_actions, source.shape[1]))

    def _rows(self, states: slice) -> slice:
        first, last, _ = states.indices(self._model.n_states)
        return slice(first * self._model.n_actions, last * self._model.n_actions)


class ScoredMoments:
    """The moments of one trajectory's gradient in the score-function form.

    Tables are dense, for some parameters at a time, but for the covariance: n d numbers, with n the
    outcomes of all pairs.

    Parameters
    ----------
    rule : ScoreRule
        What is taken off returns.
    experience : Experience
        Of the law that trajectories obey.
    horizon : int or None
        Steps after which a trajectory is cut; None for no cut.

    Raises
    ------
    ValueError
        If moments are infinite, or may be.
    """

    # tables of some parameters: of a pair, of an outcome twice, and of a state
    _scores: FloatArray
    _score: FloatArray
    _added: FloatArray
    _start: FloatArray

    @quiet
    def __init__(self, rule: ScoreRule, experience: Experience, horizon: int | None) -> None:
        direct, law = TracedMoments(direct_rule(experience), experience, horizon), experience.law
        self._direct, self._horizon, outcomes = direct, horizon, direct.outcomes
        n_states, n_actions = law.policy.shape
        which, arrival, chance = np.arange(outcomes.pair.size), outcomes.arrival, outcomes.chance
        if law.survival < 1.0:  # that chance stops a trajectory is one outcome more
            going = np.flatnonzero(arrival < n_states)
            stopped = np.full(going.size, n_states)
            which = np.concatenate((which, going))
            survive = np.where(arrival < n_states, law.survival, 1.0) * chance
            chance = np.concatenate((survive, (1.0 - law.survival) * chance[going]))
            arrival = np.concatenate((arrival, stopped))
        pair = outcomes.pair[which]
        self._state, self._arrival, self._pair_state = (
            pair // n_actions,
            arrival,
            np.repeat(np.arange(n_states), n_actions),
        )
        self._discount = law.model.leader_discount / law.survival
        self._slopes, self._temperature = FollowerSlopes(experience), experience.planned.temperature
        self._pair, self._which, self._off = pair, which, rule.off[self._state][:, None]
        self._reward = law.model.leader_reward.ravel()[pair]
        everywhere = np.arange(pair.size)
        self._over = sp.csr_array((chance, (self._state, everywhere)), (n_states, pair.size))
        self._onward = sp.csr_array((chance, (arrival, pair)), (n_states + 1, law.policy.size))[:-1]
        self._chance, self._initial = chance, law.made_in.initial
        self._survival = law.survival

    def _some(self, columns: slice) -> ScoredMoments:
        """Fill the tables of some parameters."""
        some, direct = copy.copy(self), self._direct
        value = self._slopes.of_values(columns)
        scores = self._slopes.of_action_values(value, columns=columns)
        scores -= np.where(direct.law.model.available[:, :, None], value[:, None], 0.0)
        scores /= self._temperature
        some._scores = scores.reshape(-1, value.shape[1])
        some._score = some._scores[self._pair]
        some._added = direct.slopes[1][:, columns].toarray()[direct.row][self._which]
        some._added -= self._off * some._score
        some._start = direct.start[:, columns].toarray()
        return some

    @property
    def n_steps(self) -> float:
        """Mean number of steps of a trajectory that no horizon cuts."""
        return self._direct.n_steps

    @quiet
    def variances(self) -> Spread:
        """Compute the mean and the variance of each coordinate."""
        return joined(
            self._some(block)._spread(np.multiply)
            for block in blocks(self._direct.n_parameters, self._pair.size)
        )

    @quiet
    def covariance(self) -> Spread:
        """Compute the mean and the whole covariance, which takes S A d^2 numbers."""
        return self._some(slice(None))._spread(_outer)

    def _spread(self, product: Product) -> Spread:
        if self._horizon is None:
            coming = self._stationary()
            covariance = self._local(coming, coming, self._stationary_past(product), product)
        else:
            covariance, coming = np.zeros(()), (0.0 * self._initial, 0.0 * self._start)
            for past in self._steps_back(product):
                means = self._means(coming)
                covariance, coming = covariance + self._local(coming, means, past, product), means
        from_start = self._start + coming[1]
        mean = self._initial @ from_start
        off = from_start - mean
        of_starts = np.tensordot(self._initial, product(off, off), 1)
        return Spread(mean, covariance + of_starts, of_starts)

    # ---------------------------------------------------------------- what is still to come

    def _step(self, coming: Coming) -> Coming:
        """Return, for each outcome, the return from it on, and what the gradient gets from it."""
        value, gradient = (np.concatenate((table, 0.0 * table[:1])) for table in coming)
        returned = self._reward + self._discount * value[self._arrival]
        added = self._added + self._discount * gradient[self._arrival]
        return returned, added + self._score * returned[:, None]

    def _means(self, coming: Coming) -> Coming:
        returned, added = self._step(coming)
        return self._over @ returned, self._over @ added

    def _stationary(self) -> Coming:
        system = self._direct.system(self._discount * self._survival)
        value = system.solve(self._over @ self._reward)
        _, source = self._means((value, 0.0 * self._start))
        return value, system.solve(source)

    # ---------------------------------------------------------------- second moments of the past

    def _carried(self, past: Past, product: Product) -> Past:
        """Move second moments past a step."""
        plain, linear, square = (table[self._pair_state] for table in past)
        by_score = plain[:, None] * self._scores
        square = square + product(linear, self._scores) + product(self._scores, linear)
        square = square + product(by_score, self._scores)
        return self._arriving(plain), self._arriving(linear + by_score), self._arriving(square)

    def _arriving(self, table: FloatArray) -> FloatArray:
        flat = self._discount**2 * (self._onward @ table.reshape(len(table), -1))
        return np.asarray(flat).reshape(-1, *table.shape[1:])

    def _first(self, product: Product) -> Past:
        none = np.zeros_like(self._start)
        return self._initial, none, product(none, none)

    def _steps_back(self, product: Product) -> Iterator[Past]:
        """Yield the second moments at each step, from the last one back."""
        plain, length, first = self._initial, 0, self._first(product)
        while length < (self._horizon or 0) and plain.sum() > 0.0:
            plain, length = self._arriving(plain[self._pair_state]), length + 1
        width = sum(table.size for table in first)
        return backwards(lambda past: self._carried(past, product), first, length, width)

    def _stationary_past(self, product: Product) -> Past:
        """Add the second moments up over all steps: of the constant, the vector, the matrix."""
        system = self._direct.system(self._discount**2 * self._survival)
        plain, linear, square = self._first(product)
        plain = system.solve_transposed(plain)
        linear = _solved(system, self._carried((plain, linear, square), product)[1])
        return plain, linear, _solved(system, self._carried((plain, linear, square), product)[2])

    def _local(self, coming: Coming, means: Coming, past: Past, product: Product) -> FloatArray:
        """Weigh local covariances by the second moments of the past."""
        plain, linear, square = past
        returned, added = self._step(coming)
        returned = returned - means[0][self._state]
        added = added - means[1][self._state]
        together = self._over @ (returned[:, None] * added)
        found = np.tensordot(self._over @ returned**2, square, 1)
        found = found + (product(linear, together) + product(together, linear)).sum(axis=0)
        own = (self._chance * plain[self._state])[:, None] * added
        if product is np.multiply:
            return np.asarray(found + (own * added).sum(axis=0))
        return np.asarray(found + own.T @ added)


def _outer(one: FloatArray, other: FloatArray) -> FloatArray:
    return one[:, :, None] * other[:, None, :]


def _solved(system: LinearSystem, source: FloatArray) -> FloatArray:
    flat = source.reshape(len(source), -1)
    columns = [system.solve_transposed(np.ascontiguousarray(column)) for column in flat.T]
    return np.stack(columns, axis=1).reshape(source.shape)
