"""The baseline that leaves the least variance, solved for (theory.md section 16)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from tabular_bilevel._base.arguments import as_checked_theta
from tabular_bilevel._base.arrays import FloatArray, IntArray, grouped_sums, quiet, ratio, read_only
from tabular_bilevel.derivatives import tangents_at
from tabular_bilevel.estimators.boltzmann_covariance import BoltzmannCovariance
from tabular_bilevel.finite.tangents import summing
from tabular_bilevel.moments.estimator import is_plain
from tabular_bilevel.moments.traced import TracedMoments
from tabular_bilevel.problem import BilevelProblem, require_tables
from tabular_bilevel.sampling.baselines import Baseline, arrival_groups


@quiet
def best_baseline(
    problem: BilevelProblem,
    theta: npt.ArrayLike,
    method: BoltzmannCovariance | None = None,
) -> BoltzmannCovariance:
    """Make BC-HG with the baseline that leaves the least total variance, at one theta.

    It is a baseline of each pair or, where theta moves the leader's policy alone, of each state
    that is arrived at. To know it takes the model, so it is a limit rather than a method: what
    `estimator_moments` says of it is the least variance that any baseline of this kind leaves to
    trajectories that are not cut.

    Source: theory.md section 16.

    Parameters
    ----------
    problem : BilevelProblem
        The leader's problem.
    theta : array_like, shape (d,)
        The leader's parameter.
    method : BoltzmannCovariance, optional
        Whose baseline is replaced; by default one with its default settings.

    Returns
    -------
    BoltzmannCovariance
        The same with the best baseline. Where theta moves rewards only, there is nothing to take a
        baseline off.

    Raises
    ------
    ValueError
        If the method counts the action on arrival, or its moments are not known; if theta does not
        fit the problem.

    Examples
    --------
    >>> import numpy as np
    >>> import tabular_bilevel as tb
    >>> game = tb.problems.random_game()
    >>> theta, usual = np.zeros(game.n_parameters), tb.BoltzmannCovariance()
    >>> for method in (
    ...     tb.BoltzmannCovariance(baseline=False), usual, tb.best_baseline(game, theta, usual)
    ... ):
    ...     print(round(tb.estimator_moments(game, theta, method).total_variance, 1))
    10605.1
    460.2
    459.5
    """
    method = BoltzmannCovariance() if method is None else method
    if not is_plain(method, BoltzmannCovariance, "rule", "rule_at") or method.own_action:
        raise ValueError(
            f"method is {method}: the best baseline is known of BC-HG that does not count the "
            "action on arrival"
        )
    theta = read_only(as_checked_theta(theta))
    rule, limit = method.rule_at(problem, theta)
    model = require_tables(limit.world, what="best_baseline")
    moments = TracedMoments(rule, limit, None)
    tangents = tangents_at(limit.problem, theta, model)
    states, arrival = np.arange(model.n_states), model.transition.indices
    grouped = arrival_groups(limit.problem, theta)
    if grouped is not None:  # a score belongs to the arrival, from wherever
        group, chance = grouped
        arriving = summing(arrival, model.n_states)
        moved = sp.csr_array(arriving @ tangents.transition + tangents.initial)
        scores = _Scores(moments, moved, arriving @ model.transition.data + model.initial, states)
        by_state = (best[group] for best in scores.best(chance, group, group[-1] + 1))
        return replace(method, baseline=Baseline.by_arrival(limit, *by_state))
    scores = _Scores(moments, tangents.transition, model.transition.data, arrival)
    follower, leader = (
        best.reshape(model.available.shape)
        for best in scores.best(model.transition.data, model.entry_row, model.available.size)
    )
    starts = _Scores(moments, tangents.initial, model.initial, states)
    first = (float(best[0]) for best in starts.best(model.initial, 0 * states, 1))
    baseline = Baseline.by_pair(
        limit, model.follower_discount * follower, model.leader_discount * leader, *first
    )
    return replace(method, baseline=baseline)


class _Scores:
    """Scores g of arrivals: |g|^2, and g times what is still to come there."""

    def __init__(
        self, moments: TracedMoments, moved: sp.csr_array, chance: FloatArray, arrival: IntArray
    ) -> None:
        likelihood = np.where(chance > 0.0, chance, 1.0)
        scores = sp.csc_array(sp.diags_array(1.0 / likelihood) @ moved)
        self._arrival, size = arrival, arrival.size
        self._values = [moments.experience.response.value, moments.experience.values.value]
        self._squares = scores.power(2).sum(axis=1)
        self._ahead = np.zeros((2, size))
        for columns, coming in moments.coming():
            block = scores[:, columns].tocoo()
            for ahead, table in zip(self._ahead, coming, strict=True):
                led_to = table[arrival[block.row], block.col]
                ahead += grouped_sums(block.row, block.data * led_to, size)

    def best(self, chance: FloatArray, group: IntArray, n_groups: int) -> list[FloatArray]:
        """Solve for the follower's and the leader's number in each group of arrivals."""
        weights = chance * self._squares
        return [
            ratio(
                grouped_sums(group, weights * value[self._arrival] + chance * ahead, n_groups),
                grouped_sums(group, weights, n_groups),
            )
            for value, ahead in zip(self._values, self._ahead, strict=True)
        ]
