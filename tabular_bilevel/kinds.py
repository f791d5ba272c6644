"""The kinds of model, and what is done with either: this is where the kind is asked for.

A model is made of tables (`finite`) or linear-quadratic (`lq`); neither knows the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, overload

import numpy.typing as npt

from tabular_bilevel.finite import adjoint, follower, leader
from tabular_bilevel.finite.follower import (
    CompiledPolicyIteration,
    FollowerSolver,
    PolicyIteration,
    Response,
    StoppedPolicyIteration,
    StoppedValueIteration,
    ValueIteration,
)
from tabular_bilevel.finite.leader import Evaluation
from tabular_bilevel.finite.model import Model
from tabular_bilevel.finite.sensitivities import Sensitivities
from tabular_bilevel.lq import adjoint as lq_adjoint
from tabular_bilevel.lq import follower as lq_follower
from tabular_bilevel.lq import leader as lq_leader
from tabular_bilevel.lq.follower import Response as LinearQuadraticResponse
from tabular_bilevel.lq.leader import Evaluation as LinearQuadraticEvaluation
from tabular_bilevel.lq.model import LinearQuadraticModel
from tabular_bilevel.lq.sensitivities import Sensitivities as LinearQuadraticSensitivities

AnyModel: TypeAlias = Model | LinearQuadraticModel
AnyResponse: TypeAlias = Response | LinearQuadraticResponse
AnyEvaluation: TypeAlias = Evaluation | LinearQuadraticEvaluation
AnySensitivities: TypeAlias = Sensitivities | LinearQuadraticSensitivities


def by_kind(tables: Callable[..., Any], linear_quadratic: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function that does the one or the other, by the kind of model that comes first."""

    def chosen(model: Any, *arguments: Any, **settings: Any) -> Any:
        if isinstance(model, Model):
            return tables(model, *arguments, **settings)
        if isinstance(model, LinearQuadraticModel):
            return linear_quadratic(model, *arguments, **settings)
        raise ValueError(
            f"model is of type {type(model).__name__}, not a Model or a LinearQuadraticModel"
        )

    return chosen


# What belongs to the other kind of model: solvers, too, for tables alone.
_FOREIGN = {
    Model: (LinearQuadraticResponse, LinearQuadraticEvaluation),
    LinearQuadraticModel: (
        CompiledPolicyIteration,
        PolicyIteration,
        StoppedPolicyIteration,
        StoppedValueIteration,
        ValueIteration,
        Response,
        Evaluation,
    ),
}


def _require_kind(model: object, given: object, name: str) -> None:
    """Raise where a model of the one kind comes with what belongs to the other."""
    if given is None:
        return
    for kind, foreign in _FOREIGN.items():
        if isinstance(model, kind) and isinstance(given, foreign):
            raise ValueError(
                f"{name} is a {type(given).__name__} of the other kind of model, and model is a "
                f"{kind.__name__}"
            )


_solve_follower = by_kind(follower.solve_follower, lq_follower.solve_follower)
_evaluate_leader = by_kind(leader.evaluate_leader, lq_leader.evaluate_leader)
_sensitivities = by_kind(adjoint.sensitivities, lq_adjoint.sensitivities)

#: Evaluate and differentiate: the evaluation, the direct part, and that through the follower.
road = by_kind(adjoint.road, lq_adjoint.road)

#: The two parts of `road`, of an evaluation that is there already.
direct_sensitivities = by_kind(adjoint.direct_sensitivities, lq_adjoint.direct_sensitivities)
indirect_sensitivities = by_kind(adjoint.indirect_sensitivities, lq_adjoint.indirect_sensitivities)

#: Evaluate with the very numbers of `road`.
evaluated = by_kind(adjoint.evaluated, lq_leader.evaluate_leader)


@overload
def solve_follower(
    model: Model, *, solver: FollowerSolver | None = ..., start: npt.ArrayLike | None = ...
) -> Response: ...
@overload
def solve_follower(
    model: LinearQuadraticModel, *, solver: Any = ..., start: npt.ArrayLike | None = ...
) -> LinearQuadraticResponse: ...
def solve_follower(
    model: AnyModel, *, solver: Any = None, start: npt.ArrayLike | None = None
) -> AnyResponse:
    """Solve for the follower's soft-optimal response.

    Parameters
    ----------
    model : Model or LinearQuadraticModel
        The follower's decision process.
    solver : FollowerSolver, optional
        For tables `CompiledPolicyIteration` by default, which for wide or large models is
        `PolicyIteration`: few steps whatever the discount (4 to 31 were seen; more on long rings,
        where news goes a few cells a step), with the linear algebra that fits the model's size and
        shape. The response's `method` says which. For a linear-quadratic model a doubling method
        and Newton's.
    start : array_like, shape (S,) or (n, n), optional
        A value to start from, say of a model nearby: for a linear-quadratic model its
        `value_matrix`. Otherwise 0.

    Returns
    -------
    Response or lq.Response
        Value, action value, policy, and the residual they have; of a linear-quadratic model the
        matrix of the value, and gain and covariance of the policy.

    Raises
    ------
    ValueError
        If the start or what the solver returns as value is not finite or has the wrong shape, or
        `solver` is not a solver for this kind of model.
    ConvergenceError
        If the solver's tolerance is not reached.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> problem = tb.problems.four_rooms()
    >>> response = tb.solve_follower(problem.model([0.0] * 105))
    >>> response.policy.shape
    (104, 4)
    >>> rooms = tb.problems.building_thermal_control()
    >>> tb.solve_follower(rooms.model([0.0] * 8)).gain.shape  # of u ~ N(-gain x, covariance)
    (2, 4)
    """
    _require_kind(model, solver, "solver")
    answer: AnyResponse = _solve_follower(model, solver=solver, start=start)
    return answer


@overload
def evaluate_leader(
    model: Model, response: Response, *, horizon: int | None = ...
) -> Evaluation: ...
@overload
def evaluate_leader(
    model: LinearQuadraticModel, response: LinearQuadraticResponse, *, horizon: int | None = ...
) -> LinearQuadraticEvaluation: ...
def evaluate_leader(
    model: AnyModel, response: AnyResponse, *, horizon: int | None = None
) -> AnyEvaluation:
    """Evaluate the leader's return J under the follower's policy.

    Parameters
    ----------
    model : Model or LinearQuadraticModel
        The model.
    response : Response or lq.Response
        The follower's response to it.
    horizon : int, optional
        Count the leader's rewards of this many steps only; the follower's horizon stays infinite.
        Of a linear-quadratic model, by default its own.

    Returns
    -------
    Evaluation or lq.Evaluation
        Objective, values and occupancy; of a linear-quadratic model the objective, and its
        derivatives with the policy held fixed.

    Raises
    ------
    ValueError
        If `horizon` is not a positive whole number, or if all steps count and the sum over them
        diverges: the leader's discount is 1, and in float64 the policy does not end the episode;
        or a linear system's closed loop grows faster than the discount falls. Or if the response
        is one of the other kind.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> model = tb.problems.four_rooms(penalty=1.0).model([0.0] * 105)
    >>> round(tb.evaluate_leader(model, tb.solve_follower(model)).objective, 8)
    -0.14746077
    """
    _require_kind(model, response, "response")
    evaluation: AnyEvaluation = _evaluate_leader(model, response, horizon=horizon)
    return evaluation


@overload
def sensitivities(model: Model, response: Response, evaluation: Evaluation) -> Sensitivities: ...
@overload
def sensitivities(
    model: LinearQuadraticModel,
    response: LinearQuadraticResponse,
    evaluation: LinearQuadraticEvaluation,
) -> LinearQuadraticSensitivities: ...
def sensitivities(
    model: AnyModel, response: AnyResponse, evaluation: AnyEvaluation
) -> AnySensitivities:
    """Differentiate J with respect to the tables by the adjoint equations (theory.md section 4).

    One linear solve, whatever the number of parameters. With w(s,a) = d_L(s) pi(a|s) A_L(s,a) /
    temperature and gamma_F, gamma_L the discounts::

        n = gamma_F P^T mu,   mu = w + pi n,   (I - gamma_F P_pi^T) n = gamma_F P^T w
        dJ/dr_F = mu                       dJ/dr_L = d_L pi                     dJ/drho = V_L
        dJ/dP(s'|s,a) = gamma_L d_L(s) pi(a|s) V_L(s') + gamma_F mu(s,a) V_F(s')
        dJ/d(temperature) = - sum_{s,a} mu(s,a) log pi(a|s)

    For a linear-quadratic model it is a Lyapunov equation (theory.md section 15).

    Parameters
    ----------
    model : Model or LinearQuadraticModel
        The model.
    response : Response or lq.Response
        The follower's response to it.
    evaluation : Evaluation or lq.Evaluation
        The leader's evaluation of that response; its horizon is respected.

    Returns
    -------
    Sensitivities or lq.Sensitivities
        The sum of the direct part and that through the follower.

    Raises
    ------
    ValueError
        If the response or the evaluation is one of the other kind.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> model = tb.problems.four_rooms().model([0.0] * 105)
    >>> response = tb.solve_follower(model)
    >>> measures = tb.sensitivities(model, response, tb.evaluate_leader(model, response))
    >>> measures.follower_reward.shape
    (104, 4)
    """
    _require_kind(model, response, "response")
    _require_kind(model, evaluation, "evaluation")
    measures: AnySensitivities = _sensitivities(model, response, evaluation)
    return measures
