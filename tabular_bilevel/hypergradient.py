"""From theta to the gradient of J: the whole road in one call."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tabular_bilevel._arrays import FloatArray, read_only, restore_read_only
from tabular_bilevel._validation import as_theta, finite_array
from tabular_bilevel.follower import FollowerSolver, Response, solve_follower
from tabular_bilevel.leader import Evaluation, evaluate_leader
from tabular_bilevel.model import Model
from tabular_bilevel.problem import BilevelProblem
from tabular_bilevel.sensitivities import (
    Sensitivities,
    direct_sensitivities,
    indirect_sensitivities,
)

__all__ = ["Hypergradient", "hypergradient", "objective", "pulled_back"]


@dataclass(frozen=True, eq=False)
class Hypergradient:
    """The leader's objective and its gradient.

    Attributes
    ----------
    objective : float
        J(theta).
    gradient : ndarray, shape (d,)
        dJ/dtheta, the sum of the two parts.
    direct : ndarray, shape (d,)
        The part with the follower's policy held fixed.
    indirect : ndarray, shape (d,)
        The part through the follower's policy.
    model, response, evaluation, sensitivities
        The stations on the way.
    """

    objective: float
    gradient: FloatArray
    direct: FloatArray
    indirect: FloatArray
    model: Model = field(repr=False)
    response: Response = field(repr=False)
    evaluation: Evaluation = field(repr=False)
    sensitivities: Sensitivities = field(repr=False)

    __setstate__ = restore_read_only

    def __str__(self) -> str:
        return (
            f"Hypergradient: objective {self.objective:.10g}, {self.gradient.size} parameters, "
            f"gradient norm {np.linalg.norm(self.gradient):.6g} (direct "
            f"{np.linalg.norm(self.direct):.6g}, through the follower "
            f"{np.linalg.norm(self.indirect):.6g})"
        )


def hypergradient(
    problem: BilevelProblem,
    theta: npt.ArrayLike,
    *,
    horizon: int | None = None,
    solver: FollowerSolver | None = None,
    start: npt.ArrayLike | None = None,
) -> Hypergradient:
    """Compute the leader's objective and its exact gradient (theory.md section 4).

    Implicit differentiation by the adjoint equations: one solve of the follower and two linear
    systems, whatever the number of parameters.

    Parameters
    ----------
    problem : BilevelProblem
        The leader's problem.
    theta : array_like, shape (d,)
        The leader's parameter.
    horizon : int, optional
        Count the leader's rewards of this many steps only.
    solver : FollowerSolver, optional
        How to solve the follower; see `solve_follower`.
    start : array_like, shape (S,), optional
        A value of the follower to start from, say that of a theta nearby.

    Returns
    -------
    Hypergradient
        Objective, gradient, and its direct and indirect parts.

    Raises
    ------
    ValueError
        If theta is not a finite vector that fits the problem, or the pullback does not return one.
    ConvergenceError
        If the follower's solver does not converge.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> print(tb.hypergradient(tb.problems.four_rooms(), [0.0] * 105))
    Hypergradient: objective -0.7406444131, 105 parameters, gradient norm 0.00713847 (direct \
0.00709558, through the follower 0.000741768)
    """
    theta = read_only(as_theta(theta))
    model = problem.model(theta)
    response = solve_follower(model, solver=solver, start=start)
    evaluation = evaluate_leader(model, response, horizon=horizon)
    direct = direct_sensitivities(model, response, evaluation)
    indirect = indirect_sensitivities(model, response, evaluation)
    direct_gradient = pulled_back(problem, theta, direct)
    indirect_gradient = pulled_back(problem, theta, indirect)
    return Hypergradient(
        objective=evaluation.objective,
        gradient=read_only(direct_gradient + indirect_gradient),
        direct=read_only(direct_gradient),
        indirect=read_only(indirect_gradient),
        model=model,
        response=response,
        evaluation=evaluation,
        sensitivities=direct + indirect,
    )


def objective(
    problem: BilevelProblem, theta: npt.ArrayLike, *, horizon: int | None = None
) -> float:
    """Compute the leader's objective J(theta) alone.

    Parameters
    ----------
    problem : BilevelProblem
        The leader's problem.
    theta : array_like, shape (d,)
        The leader's parameter.
    horizon : int, optional
        Count the leader's rewards of this many steps only.

    Returns
    -------
    float
        J(theta).
    """
    model = problem.model(read_only(as_theta(theta)))
    return evaluate_leader(model, solve_follower(model), horizon=horizon).objective


def pulled_back(
    problem: BilevelProblem, theta: FloatArray, sensitivities: Sensitivities
) -> FloatArray:
    """Pull back and check what came: a finite vector as long as theta."""
    return finite_array("pullback(...)", problem.pullback(theta, sensitivities), theta.shape)
