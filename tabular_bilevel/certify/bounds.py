"""Proven bounds of what a float64 result is off by, at any size (theory.md section 12).

The bounds are a posteriori: they trust no solver. From the stored value, steps of refinement make a
*centre*: V, the policy, V_L, d_L, the influence's source and n, each the sum of two float64
numbers. Compiled loops compute its residuals with twice float64's digits, and these are so small
that the plainest inequalities do:

1. Value. The residual T V - V, divided by 1 - gamma_F.
2. Policy. Its logarithm is off by 2 gamma_F / temperature times that, and by what exp is.
3. Leader. The mean of A_L under the exact policy, divided by 1 - gamma_L.
4. Measures. What their equations lack, all states together, divided by 1 - gamma.
5. The stored numbers: their distance to the centre, rounding above all, plus the centre's bound.

Assumed are IEEE double precision with rounding to nearest, and exp and log within 4 units in the
last place. The truth is that of the tables as stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base import kernels
from tabular_bilevel._base.arguments import all_finite, as_theta, finite_array
from tabular_bilevel._base.arrays import (
    ROUNDOFF,
    FloatArray,
    quiet,
    read_only,
    read_only_view,
    unchecked,
)
from tabular_bilevel.certify.result import (
    ErrorBounds,
    Hypergradient,
    require_ieee_arithmetic,
)
from tabular_bilevel.derivatives import Reach, reach
from tabular_bilevel.finite.follower import Response, is_banded
from tabular_bilevel.finite.leader import Evaluation
from tabular_bilevel.finite.linear import LinearSystem, factored_system
from tabular_bilevel.finite.model import Model
from tabular_bilevel.finite.sensitivities import Sensitivities, SensitivityBounds
from tabular_bilevel.problem import (
    BilevelProblem,
    pulled_back,
    require_tables,
)

__all__ = ["Refined", "error_bounds", "refined"]

# Bounds are sums and products of numbers >= 0, so a rounding makes them smaller by 2^-53 of
# themselves at most, and none has 2^32 of them on its way: this factor pays for all.
OUTWARD = 1.0 + 2.0**-20

# What underflows is lost by 2^-1074, however often it is magnified: every bound that is not 0 for a
# reason of structure, such as a state with a single action, is made larger by this.
UNDERFLOW = 2.0**-960


@quiet
def error_bounds(
    problem: BilevelProblem, theta: npt.ArrayLike, result: Hypergradient
) -> ErrorBounds:
    """Bound what the numbers of a finished result are off by.

    The solver that made the result is not trusted: a wrong one makes the bounds large, not wrong.
    The cost is a factorisation for each of the two discounts, some solves and some passes.

    Parameters
    ----------
    problem : BilevelProblem
        The leader's problem.
    theta : array_like, shape (d,)
        Where the result was computed.
    result : Hypergradient
        The result.

    Returns
    -------
    ErrorBounds
        Bounds of the distance to the exact numbers of ``result.model`` as stored. The gradient's is
        the distance to the exact sensitivities, pulled back by the problem's derivatives of the
        tables. Where these are what a stranger's method returns, `given` says so: the rounding of
        that method's sums counts, that of the derivatives themselves does not.

    Raises
    ------
    CertificationError
        If float64 does not round to nearest or flushes small numbers to 0.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> problem, theta = tb.problems.four_rooms(), [0.0] * 105
    >>> bounds = tb.error_bounds(problem, theta, tb.hypergradient(problem, theta))
    >>> bool(bounds.objective < 1e-12 and bounds.gradient.max() < 1e-12)
    True
    """
    require_ieee_arithmetic()
    theta = read_only(as_theta(theta))
    model, found = require_tables(result.model), result.sensitivities
    # what overflows, or is no number, ends as an infinite bound
    centre = _centre(model, result.response, result.evaluation.horizon)
    response, evaluation, bounds = centre.response, centre.evaluation, centre.bounds
    pulled = reach(problem, theta, centre.measures, bounds["sensitivities"])
    numbers: dict[str, Any] = {
        "value": (result.response.value, response.value),
        "action_value": tuple(
            np.where(model.available, one.action_value, 0.0) for one in (result.response, response)
        ),
        "policy": (result.response.policy, response.policy),
        "leader_value": (result.evaluation.value, evaluation.value),
        "occupancy": (result.evaluation.occupancy, evaluation.occupancy),
    }
    bounds |= {
        name: _around(stored, near, bounds[name]) for name, (stored, near) in numbers.items()
    }
    away = abs(result.objective - evaluation.objective)
    bounds["objective"] = _widened(away + bounds["objective"])
    bounds["sensitivities"] = _of_stored(found, centre.measures, bounds["sensitivities"])
    return centre.error_bounds(np.abs(result.gradient - pulled.pulled) + pulled.bound, pulled)


@dataclass(frozen=True, eq=False)
class Refined:
    """The centre of the bounds as a result: a step more than the solver made."""

    response: Response
    evaluation: Evaluation
    direct: Callable[[], Sensitivities]  # few ask for the parts
    indirect: Callable[[], Sensitivities]
    measures: Sensitivities
    bounds: dict[str, Any]  # of the stations and the measures, by the names of `ErrorBounds`
    finite: bool  # whether no number overflows

    def error_bounds(self, gradient: FloatArray, pulled: Reach) -> ErrorBounds:
        """Add freshly made bounds of the gradient, and say why they are infinite, if they are."""
        reason, bounds = "", self.bounds["sensitivities"]
        if not (_widen(gradient) and math.isfinite(bounds.initial_shift)):
            reason = _reason(self.measures.model, self.evaluation.horizon, bounds, pulled)
        return unchecked(
            ErrorBounds,
            **self.bounds,
            gradient=read_only(gradient),
            vacuous=reason,
            given=pulled.given,
        )


def refined(
    problem: BilevelProblem, theta: FloatArray, model: Model, response: Response
) -> tuple[Refined, FloatArray, ErrorBounds] | None:
    """Evaluate the leader and differentiate, with bounds of all; None if numbers overflow.

    The response is refined by a Newton step. Raises CertificationError if float64 does not round to
    nearest or flushes small numbers to 0.
    """
    require_ieee_arithmetic()
    centre = _centre(model, response, None)
    if not centre.finite:
        return None
    measures = centre.measures
    pulled = reach(problem, theta, measures, centre.bounds["sensitivities"])
    if pulled.own:
        gradient, bound = finite_array("pullback(...)", pulled.pulled, theta.shape), pulled.bound
    else:
        gradient = pulled_back(problem, theta, measures)
        bound = np.abs(gradient - pulled.pulled) + pulled.bound
    return centre, read_only(gradient), centre.error_bounds(bound, pulled)


class _Endless:
    """A system that has no solution, and says so."""

    method = "none"

    def solve(self, b: FloatArray, *, accuracy: float = 0.0) -> FloatArray:
        return np.full_like(b, np.nan)

    solve_transposed = solve


def _row_terms(model: Model) -> float:
    """Count the roundings of an average over successors and actions, or more."""
    return float(model.longest_row + model.n_actions + 8)


def _contraction(model: Model, discount: float) -> float:
    """Largest row sum of discount * P, or more."""
    return discount * model.largest_mass * (1.0 + (_row_terms(model) + 2.0) * ROUNDOFF)


def _factored(model: Model, *given: Any) -> LinearSystem:
    *_, policy, discount = given
    try:
        return factored_system(model, policy, discount)
    except ValueError:  # play is to end, and in float64 does not
        return _Endless()


# What is behind the names of the functions that `kernels.centre` calls for a band.
BY_A_SOLVER = {
    "operator_of": _factored,
    "solve": lambda system, b: system.solve(b),
    "solve_transposed": lambda system, b: system.solve_transposed(b),
}


@cache
def _factored_centre() -> Callable[..., tuple[float, ...]]:
    """Go the way of `kernels.centre` with a solver in the place of a band."""
    from tabular_bilevel._base.jit import rebound  # imports numba

    return rebound(kernels.centre, BY_A_SOLVER)


def _centre(model: Model, response: Response, horizon: int | None) -> Refined:
    """Go all the way from the response's value, and bound what each number is off by."""
    kernel, (n_states, n_actions) = model.transition, model.available.shape
    entries = kernel.indptr, kernel.indices, kernel.data
    discount, leader_discount = model.follower_discount, model.leader_discount
    contraction = leader_contraction = _contraction(model, discount)
    if leader_discount != discount:
        leader_contraction = _contraction(model, leader_discount)
    way, given = (kernels.centre, model.band) if is_banded(model) else (_factored_centre(), model)
    states, tables = np.empty((3, n_states)), np.empty((5, n_states, n_actions))
    errors = np.empty((3 + 4 * n_actions, n_states))
    state_errors, table_errors = errors[:3], errors[3:].reshape(4, n_states, n_actions)
    left, objective, objective_error, leader_top, slope, slope_error = way(
        given,
        entries,
        model.available,
        model.follower_reward,
        model.leader_reward,
        model.initial,
        discount,
        leader_discount,
        contraction,
        leader_contraction,
        model.temperature,
        _row_terms(model),
        UNDERFLOW,
        read_only_view(response.value),
        states,
        tables,
        state_errors,
        table_errors,
    )
    if horizon is not None:  # the equations are those of an infinite one
        state_errors[1:] = table_errors[2:] = np.inf
        objective_error = leader_top = slope_error = math.inf
    if not model._kernel.everything_available:
        tables[1][~model.available] = -np.inf
    finite = _widen(errors)  # so are the numbers then
    finite = finite or (all_finite(states) and all_finite(tables[3:]))
    for array in (states, tables, errors, state_errors, table_errors):
        read_only(array)  # and so are their parts; to iterate over these takes longer
    rewards, reward_errors = tables[3:], table_errors[2:]
    value, leader_value, occupancy = states[0], states[1], states[2]
    policy, action_value, influence, visits = tables[0], tables[1], tables[3], tables[4]
    value_error, leader_error = state_errors[0], state_errors[1]
    influence_error, visits_error = reward_errors[0], reward_errors[1]

    known: list[tuple[FloatArray, ...]] = []

    def slopes() -> tuple[FloatArray, ...]:
        """Differentiate in the kernel, which few problems move."""
        if known:
            return known[0]
        (held, through), (total, errors) = np.empty((2, kernel.nnz)), np.zeros((2, kernel.nnz))
        shift = np.zeros(visits.shape)
        sums = total, errors, shift
        kernels.slope_errors(
            *entries, leader_discount, visits, visits_error, leader_value, leader_error, held, *sums
        )
        kernels.slope_errors(
            *entries, discount, influence, influence_error, value, value_error, through, *sums
        )
        known.append((held, through, total, _outward(errors), _outward(shift)))
        return known[0]

    measures = unchecked(
        Sensitivities,
        model=model,
        follower_reward=influence,
        leader_reward=visits,
        initial=leader_value,
        _temperature=slope,
        later_transition=lambda: slopes()[2],
        both_rewards=rewards.reshape(-1),
    )
    measure_bounds = unchecked(
        SensitivityBounds,
        follower_reward=influence_error,
        leader_reward=visits_error,
        initial=leader_error,
        initial_shift=_widened(leader_top),
        temperature=_widened(slope_error),
        later_transition=lambda: slopes()[3],
        later_transition_shift=lambda: slopes()[4],
        both_rewards=reward_errors.reshape(-1),
    )
    return unchecked(
        Refined,
        response=unchecked(
            Response,
            value=value,
            action_value=action_value,
            policy=policy,
            residual=left,
            error_bound=left * kernels.least_patience(contraction),
            iterations=response.iterations + 1,
            method=f"{response.method or 'a solver'}, and a step of refinement",
        ),
        evaluation=unchecked(
            Evaluation,
            objective=objective,
            value=leader_value,
            action_value=tables[2],
            occupancy=occupancy,
            horizon=horizon,
            later_continuation=lambda: occupancy[model.entry_state] * leader_value[kernel.indices],
        ),
        direct=lambda: Sensitivities.of(
            model, leader_reward=visits, initial=leader_value, transition=lambda: slopes()[0]
        ),
        indirect=lambda: Sensitivities.of(
            model, follower_reward=influence, temperature=slope, transition=lambda: slopes()[1]
        ),
        measures=measures,
        bounds={
            "value": value_error,
            "action_value": table_errors[1],
            "policy": table_errors[0],
            "objective": _widened(objective_error),
            "leader_value": leader_error,
            "occupancy": state_errors[2],
            "sensitivities": measure_bounds,
        },
        finite=finite,
    )


def _of_stored(
    stored: Sensitivities, centre: Sensitivities, bounds: SensitivityBounds
) -> SensitivityBounds:
    """Bound the errors of the stored sensitivities, given those of the centre's."""

    def wider(name: str) -> FloatArray:
        return _around(getattr(stored, name), getattr(centre, name), getattr(bounds, name))

    return SensitivityBounds(
        follower_reward=wider("follower_reward"),
        leader_reward=wider("leader_reward"),
        transition=wider("transition"),
        transition_shift=bounds.transition_shift,
        initial=wider("initial"),
        initial_shift=bounds.initial_shift,
        temperature=_widened(abs(stored.temperature - centre.temperature) + bounds.temperature),
    )


def _reason(model: Model, horizon: int | None, bounds: SensitivityBounds, pulled: Reach) -> str:
    """Say why the objective's bound or the gradient's is infinite."""
    if model.leader_discount == 1.0 and not np.isfinite(bounds.initial_shift):
        return "leader_discount is 1, and float64 does not show that play ends, or does so too late"
    for discount in {model.follower_discount, model.leader_discount} - {1.0}:
        if not _contraction(model, discount) < 1.0:
            return f"discount {discount!r} times the largest row sum is not provably below 1"
    if horizon is not None:
        return "a finite horizon is not covered"
    reason = pulled.why() if np.isfinite(bounds.follower_reward).all() else ""
    return reason or "the residuals overflow, or are too large to say anything"


def _around(stored: FloatArray, centre: FloatArray, bounds: FloatArray) -> FloatArray:
    """Bound what stored numbers are off by, given their distance to a centre, and its bounds."""
    return _outward(np.abs(stored - centre) + bounds)


def _outward(bounds: FloatArray) -> FloatArray:
    """Pay for the rounding of freshly made bounds, in place; what is no number bounds nothing."""
    _widen(bounds)
    return read_only(bounds)


def _widen(bounds: FloatArray) -> bool:
    """Do so, and say whether all are finite."""
    return kernels.outward(bounds.reshape(-1), OUTWARD, UNDERFLOW)


def _widened(bound: float) -> float:
    """Do the same with a single one."""
    wider = float(bound) * OUTWARD
    return wider + UNDERFLOW if wider > 0.0 else 0.0 if wider == 0.0 else math.inf
