"""The follower's answer to a linear-quadratic model: a Riccati equation (theory.md section 15)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arguments import finite_array, require_method
from tabular_bilevel._base.arrays import FloatArray, quiet, read_only, restore_read_only
from tabular_bilevel._base.errors import ConvergenceError
from tabular_bilevel.lq.arguments import as_symmetric, sizes
from tabular_bilevel.lq.linear import is_stable, lyapunov, symmetric
from tabular_bilevel.lq.model import LinearQuadraticModel

# Doublings and Newton steps converge quadratically, near the edge of what can be stabilised after
# some steps that gain a digit or so.
MOST_STEPS = 60

# A residual of so many roundings of the value gets little smaller.
SMALLEST_RESIDUAL = 4.0 * np.finfo(np.float64).eps

# ... and is called solved up to this.
RESIDUAL_TOLERANCE = 1e-9


class GaussianPolicy(NamedTuple):
    """What a follower does: u ~ N(-gain x, covariance).

    Attributes
    ----------
    gain : ndarray, shape (m, n)
        K.
    covariance : ndarray, shape (m, m)
        Of the input around -K x.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> model = tb.problems.building_thermal_control().model([0.0] * 8)
    >>> tb.solve_follower(model).policy.gain.shape
    (2, 4)
    """

    gain: FloatArray
    covariance: FloatArray


@dataclass(frozen=True, eq=False)
class Response:
    """The follower's answer: it plays u ~ N(-gain x, covariance), worth -(x' value_matrix x + c).

    Attributes
    ----------
    value_matrix : ndarray, shape (n, n)
        P, the solution of the Riccati equation.
    value_constant : float
        c, from noise, entropy and temperature.
    gain : ndarray, shape (m, n)
        K.
    covariance : ndarray, shape (m, m)
        Of the input around -K x.
    residual : float
        By how much P fails the Riccati equation, its largest entry.
    iterations : int
        Steps made.
    method : str
        How it was computed, in words.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> model = tb.problems.bilevel_lqr().model([0.0, 0.0])
    >>> answer = tb.solve_follower(model)
    >>> answer.gain.shape, answer.residual < 1e-12  # it sees the leader's action, too
    ((1, 3), True)
    >>> answer.value is answer.value_matrix, answer.policy.gain is answer.gain
    (True, True)
    """

    value_matrix: FloatArray
    value_constant: float
    gain: FloatArray
    covariance: FloatArray
    residual: float
    iterations: int
    method: str = ""

    __setstate__ = restore_read_only

    @property
    def value(self) -> FloatArray:
        """The value matrix, by the name that tables have for what a solver starts from."""
        return self.value_matrix

    @property
    def policy(self) -> GaussianPolicy:
        """What the follower does: gain and covariance."""
        return GaussianPolicy(self.gain, self.covariance)

    def __str__(self) -> str:
        m, n = self.gain.shape
        return (
            f"Response: {sizes(n, m)}, residual {self.residual:.2g}, {self.iterations} iterations"
        )


def require_answer(
    model: LinearQuadraticModel,
    answer: object,
    name: str = "response",
    kind: type | tuple[type, ...] = (Response, GaussianPolicy),
) -> None:
    """Raise ValueError unless it is an answer, or a policy, of a model of this kind and size."""
    if not isinstance(answer, kind):
        raise ValueError(
            f"{name} is of type {type(answer).__name__}, not the lq.Response of a "
            "LinearQuadraticModel"
        )
    n, m = model.n_states, model.n_controls
    shapes = {"value_matrix": (n, n), "gain": (m, n), "covariance": (m, m)}
    for table, shape in shapes.items():
        if hasattr(answer, table):
            finite_array(f"{name}.{table}", getattr(answer, table), shape)


def closed_loop(model: LinearQuadraticModel, gain: FloatArray) -> FloatArray:
    """Compute the dynamics under a gain, A - B K."""
    return model.dynamics - model.control @ gain


@quiet
def solve_follower(
    model: LinearQuadraticModel, *, solver: Any = None, start: npt.ArrayLike | None = None
) -> Response:
    """Solve the discounted Riccati equation, to rounding.

    By structure-preserving doubling (Chu, Fan, Lin and Wang, "Structure-preserving algorithms for
    periodic discrete-time algebraic Riccati equations", 2004), then by Newton's method, which is
    policy iteration (Kleinman, 1968). A start whose gain stabilises spares the doubling.
    """
    if start is not None:
        start = as_symmetric("start", start, model.n_states)
    if solver is not None:
        require_method("solver", solver, "solve")
        found: Response = solver.solve(model, start=start)
        require_answer(model, found, "solver.solve(...)", Response)
        return found
    if start is not None:
        try:
            return _solved(model, start)
        except (ConvergenceError, np.linalg.LinAlgError):
            pass  # from so far away numbers overflow
    try:
        return _solved(model, None)
    except (ConvergenceError, np.linalg.LinAlgError) as error:
        raise ConvergenceError(
            "the Riccati equation was not solved in float64: the input hardly reaches a mode that "
            f"grows, or costs and inputs are of too different sizes ({error})",
            residual=getattr(error, "residual", float("inf")),
            iterations=getattr(error, "iterations", 0),
        ) from error


def _solved(model: LinearQuadraticModel, start: FloatArray | None) -> Response:
    root = np.sqrt(model.follower_discount)
    value, how = start, "Newton's method"
    if value is None or not is_stable(root * closed_loop(model, bellman(model, value)[1])):
        value, how = _doubled(model), "doubling and Newton's method"
    reached: Response | None = None
    for step in range(MOST_STEPS):
        S, gain, gap = bellman(model, value)
        residual = float(np.abs(gap).max())
        scale = float(np.abs(value).max() + np.abs(model.state_cost).max())
        if reached is not None and not residual < reached.residual / 2.0:
            return reached
        if residual <= RESIDUAL_TOLERANCE * scale:
            reached = _response(model, value, S, gain, residual, step, how)
            if residual <= SMALLEST_RESIDUAL * scale:
                return reached
        value = value + lyapunov(root * closed_loop(model, gain).T, gap)
    raise ConvergenceError(
        f"after {MOST_STEPS} Newton steps its residual is {residual:.3g}",
        residual=residual,
        iterations=MOST_STEPS,
    )


def bellman(
    model: LinearQuadraticModel, value: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Act best for one step before a value x' P x: S, the gain, and what P lacks of T P."""
    A, B, discount = model.dynamics, model.control, model.follower_discount
    ahead = discount * B.T @ value
    S = model.control_cost + symmetric(ahead @ B)
    gain = np.linalg.solve(S, ahead @ A)
    closed = A - B @ gain
    improved = (
        model.state_cost + gain.T @ model.control_cost @ gain + discount * closed.T @ value @ closed
    )
    return S, gain, symmetric(improved) - value


def _doubled(model: LinearQuadraticModel) -> FloatArray:
    """Iterate T from 0, each time twice as often."""
    root = np.sqrt(model.follower_discount)
    A, B = root * model.dynamics, root * model.control
    G, H = symmetric(B @ np.linalg.solve(model.control_cost, B.T)), model.state_cost
    unit = np.eye(model.n_states)
    for _ in range(MOST_STEPS):
        both = np.linalg.solve(unit + G @ H, np.hstack((A, G)))
        left, right = both[:, : len(A)], both[:, len(A) :]
        rise = symmetric(A.T @ H @ left)
        A, G, H = A @ left, G + symmetric(A @ right @ A.T), H + rise
        if not np.abs(rise).max() > SMALLEST_RESIDUAL * np.abs(H).max():
            break
    return H


def _response(
    model: LinearQuadraticModel,
    value: FloatArray,
    metric: FloatArray,
    gain: FloatArray,
    residual: float,
    iterations: int,
    method: str,
) -> Response:
    discount, heat = model.follower_discount, model.temperature
    entropy = heat / 2.0 * (np.linalg.slogdet(metric)[1] - len(metric) * np.log(np.pi * heat))
    constant = (discount * np.vdot(value, model.noise) + entropy) / (1.0 - discount)
    return Response(
        value_matrix=read_only(value.copy()),
        value_constant=float(constant),
        gain=read_only(gain),
        covariance=read_only(symmetric(heat / 2.0 * np.linalg.inv(metric))),
        residual=residual,
        iterations=iterations,
        method=method,
    )
