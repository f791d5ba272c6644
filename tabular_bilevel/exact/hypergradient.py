"""From theta to the gradient of J: the whole road in one call."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arguments import as_theta, entry, first
from tabular_bilevel._base.arrays import FloatArray, quiet, read_only, unchecked
from tabular_bilevel.certify.accuracy import Bounded, Enclosed, Estimated, Level
from tabular_bilevel.certify.bounds import refined
from tabular_bilevel.certify.enclosure import enclose
from tabular_bilevel.certify.linear_quadratic import radii
from tabular_bilevel.certify.result import Accuracy, CertificationError, Hypergradient
from tabular_bilevel.finite.follower import FollowerSolver, Response, response_at
from tabular_bilevel.finite.model import Model
from tabular_bilevel.kinds import (
    AnyEvaluation,
    AnyModel,
    AnyResponse,
    AnySensitivities,
    by_kind,
    evaluated,
    road,
    solve_follower,
)
from tabular_bilevel.lq.model import LinearQuadraticModel
from tabular_bilevel.lq.rewards import QuadraticReward
from tabular_bilevel.problem import AnyProblem, model_at, pulled_back

# States of a linear-quadratic model, up to which its bounds, some 80 spectral norms, cost little.
FEW = 20

# A gradient that is pulled back again differs by rounding, relative to its largest entry.
SAME = 1e-9


@quiet
def hypergradient(
    problem: AnyProblem,
    theta: npt.ArrayLike,
    *,
    accuracy: Enclosed | Bounded | Estimated | None = None,
    horizon: int | None = None,
    solver: FollowerSolver | None = None,
    start: npt.ArrayLike | None = None,
) -> Hypergradient:
    """Compute the leader's objective and its exact gradient (theory.md section 4).

    Implicit differentiation by the adjoint equations: one solve of the follower and two linear
    systems, whatever the number of parameters. By default the numbers come with proven bounds where
    there are any, and ``result.accuracy`` says so, or why not. They cost little where models are
    large, and a tenth of a millisecond where they are small.

    Parameters
    ----------
    problem : BilevelProblem or LinearQuadraticProblem
        The leader's problem.
    theta : array_like, shape (d,)
        The leader's parameter.
    accuracy : Enclosed, Bounded or Estimated, optional
        What the result must be, or this raises; by default BOUNDED where that takes a few thousand
        calls of the problem's methods at most, else an ESTIMATE. What a problem's own code returns
        as derivatives is taken for granted, and ``result.accuracy.given`` says so: `check_gradient`
        tests it.
    horizon : int, optional
        Count the leader's rewards of this many steps only; there are no bounds then.
    solver : FollowerSolver, optional
        How to solve the follower; see `solve_follower`. Bounds are of the distance to the numbers
        of the *optimal* follower, and its answer is refined by a Newton step; for those of the
        answer as it is, say of `StoppedValueIteration`, ask for `Estimated`. Not needed for an
        enclosure.
    start : array_like, shape (S,), optional
        A value of the follower to start from, say that of a theta nearby.

    Returns
    -------
    Hypergradient
        Objective, gradient, and its direct and indirect parts.

    Raises
    ------
    ValueError
        If theta is not a finite vector that fits the problem, or the pullback does not return one;
        if `accuracy` is none of the three; if the leader's discount is 1, and float64 does not see
        the end of play.
    ConvergenceError
        If the follower's solver does not converge.
    CertificationError
        If the accuracy that was asked for is not reached; it has what was.
    ImportError
        If an enclosure is asked for without python-flint.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> result = tb.hypergradient(tb.problems.two_state(), [0.0, 0.0])
    >>> result.accuracy.level
    <Level.BOUNDED: 'bounded'>
    >>> result.accuracy.objective < 1e-13
    True
    """
    if not (accuracy is None or isinstance(accuracy, (Enclosed, Bounded, Estimated))):
        raise ValueError(
            f"accuracy is {accuracy!r}, not an instance of Enclosed, Bounded or Estimated, such as "
            "Enclosed(1e-12)"
        )
    theta = read_only(as_theta(theta))
    model = model_at(problem, theta)
    if isinstance(accuracy, Enclosed) and isinstance(model, Model):
        return _enclosed(problem, theta, model, accuracy, horizon)
    bounded = horizon is None and not isinstance(accuracy, Estimated)
    response: Any = solve_follower(model, solver=solver, start=start)
    result: Hypergradient | None = None
    reason = "it was asked for"
    if horizon is not None:
        reason = "a finite horizon is not covered"
    elif accuracy is None and isinstance(model, LinearQuadraticModel) and _slow(model):
        reason = (
            f"bounds of more than {FEW} states, or of a finite leader_horizon, are computed if you "
            "ask for Bounded()"
        )
    elif bounded:
        reason = "numbers overflow where bounds are computed"
        try:
            result = _bounded(model, problem, theta, response)
        except CertificationError as error:  # of the machine's arithmetic
            if isinstance(accuracy, Bounded):
                raise
            reason = str(error)
    if result is None:
        result = _estimated(problem, theta, model, response, horizon, reason)
    if isinstance(accuracy, (Bounded, Enclosed)):
        _require(result, accuracy.tolerance)
    return result


def _slow(model: LinearQuadraticModel) -> bool:
    """Say whether there are bounds that take far longer than what they are of."""
    many = model.n_states > FEW or model.leader_horizon is not None
    return many and isinstance(model.leader_reward, QuadraticReward)


def _estimated(
    problem: AnyProblem,
    theta: FloatArray,
    model: AnyModel,
    response: AnyResponse,
    horizon: int | None,
    reason: str,
) -> Hypergradient:
    evaluation, direct, indirect = road(model, response, horizon=horizon)
    measures = direct + indirect
    unknown = read_only(np.full(theta.size, np.inf))
    return _put_together(
        problem,
        theta,
        read_only(pulled_back(problem, theta, measures)),
        Accuracy(Level.ESTIMATE, np.inf, unknown, reason),
        (model, response, evaluation, measures),
        lambda: direct,
        lambda: indirect,
    )


def _put_together(
    problem: AnyProblem,
    theta: FloatArray,
    gradient: FloatArray,
    accuracy: Accuracy,
    stations: tuple[AnyModel, AnyResponse, AnyEvaluation, AnySensitivities],
    direct: Callable[[], AnySensitivities],
    indirect: Callable[[], AnySensitivities],
) -> Hypergradient:
    """Make a result, whose gradient's parts are pulled back if somebody asks for them."""
    model, response, evaluation, measures = stations
    whole = gradient, accuracy.gradient, measures
    return unchecked(
        Hypergradient,
        objective=evaluation.objective,
        gradient=gradient,
        accuracy=accuracy,
        model=model,
        response=response,
        evaluation=evaluation,
        sensitivities=measures,
        later_direct=lambda: _part(problem, theta, whole, direct()),
        later_indirect=lambda: _part(problem, theta, whole, indirect()),
    )


def _part(
    problem: AnyProblem,
    theta: FloatArray,
    whole: tuple[FloatArray, FloatArray, AnySensitivities],
    measures: AnySensitivities,
) -> FloatArray:
    """Pull a part back when it is asked for; ValueError if the problem is another by then."""
    gradient, bound, all_measures = whole
    now = pulled_back(problem, theta, all_measures)
    allowed = SAME * np.abs(gradient).max(initial=0.0) + np.nan_to_num(bound, posinf=0.0)
    other = np.abs(now - gradient) > allowed
    if other.any():
        index = first(other)
        raise ValueError(
            f"the problem is another by now: {entry('gradient', index)} was {gradient[index]:.6g}, "
            f"and would be {now[index]:.6g}; parts of the gradient are computed when asked for"
        )
    return pulled_back(problem, theta, measures)


def _bounded_tables(
    model: Model, problem: Any, theta: FloatArray, response: Response
) -> Hypergradient | None:
    """Refine and bound; what has no bound is an ESTIMATE."""
    found = refined(problem, theta, model, response)
    if found is None:
        return None
    centre, gradient, bounds = found
    accuracy = unchecked(
        Accuracy,
        level=Level.ESTIMATE if bounds.vacuous else Level.BOUNDED,
        objective=bounds.objective,
        gradient=bounds.gradient,
        reason=bounds.vacuous,
        bounds=bounds,
        enclosure=None,
        given=bounds.given,
    )
    return _put_together(
        problem,
        theta,
        gradient,
        accuracy,
        (model, centre.response, centre.evaluation, centre.measures),
        centre.direct,
        centre.indirect,
    )


def _bounded_linear_quadratic(
    model: LinearQuadraticModel, problem: Any, theta: FloatArray, response: Any
) -> Hypergradient:
    """Bound what plain float64 came to; what has no bound is an ESTIMATE."""
    found = _estimated(problem, theta, model, response, None, "")
    try:
        objective, gradient, given = radii(
            problem, theta, model, response.value_matrix, found.objective, found.gradient
        )
    except CertificationError as error:
        return dataclasses.replace(
            found, accuracy=dataclasses.replace(found.accuracy, reason=str(error))
        )
    accuracy = Accuracy(Level.BOUNDED, objective, read_only(gradient), given=given)
    return dataclasses.replace(found, accuracy=accuracy)


_bounded = by_kind(_bounded_tables, _bounded_linear_quadratic)


def _enclosed(
    problem: Any,
    theta: FloatArray,
    model: Model,
    accuracy: Enclosed,
    horizon: int | None,
) -> Hypergradient:
    """Enclose, and give the stations in float64 at the proven value."""
    if horizon is not None:
        raise CertificationError("a finite horizon cannot be enclosed", best=None)
    proof = enclose(
        problem, theta, tolerance=accuracy.tolerance, max_precision=accuracy.max_precision
    )
    response = response_at(model, np.array(proof.value.centre), 0)
    rough = _estimated(problem, theta, model, response, None, "")
    return dataclasses.replace(
        rough,
        objective=proof.objective.centre,
        gradient=read_only(proof.gradient.centre),
        direct=read_only(proof.direct.centre),
        indirect=read_only(proof.indirect.centre),
        accuracy=Accuracy(
            Level.ENCLOSED,
            proof.objective.radius,
            read_only(proof.gradient.radius),
            enclosure=proof,
            given=proof.tangents.given,
        ),
    )


def _require(result: Hypergradient, tolerance: float | None) -> None:
    """Raise unless the result is bounded, and within the tolerance."""
    accuracy = result.accuracy
    if not accuracy.proven:
        raise CertificationError(f"there are no bounds: {accuracy.reason}", best=result)
    if tolerance is None or accuracy.is_within(tolerance, result.objective, result.gradient):
        return
    widest = float(accuracy.gradient.max(initial=0.0))
    tables = isinstance(result.model, Model)
    more = "Ask for an Enclosed result." if tables else "Enclosures are for tables."
    raise CertificationError(
        f"the relative tolerance {tolerance:.3g} was not reached in float64: the objective is "
        f"known within {accuracy.objective:.2g}, the gradient within {widest:.2g}. {more}",
        best=result,
    )


@quiet
def objective(problem: AnyProblem, theta: npt.ArrayLike, *, horizon: int | None = None) -> float:
    """Compute the leader's objective J(theta) alone.

    Parameters
    ----------
    problem : BilevelProblem or LinearQuadraticProblem
        The leader's problem.
    theta : array_like, shape (d,)
        The leader's parameter.
    horizon : int, optional
        Count the leader's rewards of this many steps only.

    Returns
    -------
    float
        J(theta), an ESTIMATE: exact but for rounding. `hypergradient` bounds it.

    Raises
    ------
    ValueError
        If theta is not a finite vector that fits the problem, or there is no model at it.
    ConvergenceError
        If the follower is not solved.

    Examples
    --------
    >>> import numpy as np
    >>> import tabular_bilevel as tb
    >>> round(tb.objective(tb.problems.bandit(leader_reward=[0.0, 1.0]), [0.0, np.log(3.0)]), 12)
    0.75
    """
    model = model_at(problem, read_only(as_theta(theta)))
    return float(evaluated(model, solve_follower(model), horizon=horizon).objective)
