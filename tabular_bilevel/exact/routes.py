"""Independent routes to the same gradient: forward mode, complex step, differences.

Each takes directions, one a row, and returns the derivative of J along each; without directions, it
returns the gradient. None uses the adjoint equations or the problem's pullback. They cost a solve
or more for each direction: they check `hypergradient`, they do not replace it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arguments import as_positive, as_theta, finite_array, positive_integer
from tabular_bilevel._base.arrays import ComplexArray, FloatArray, centred, quiet
from tabular_bilevel._base.errors import ConvergenceError
from tabular_bilevel.derivatives import axes, tangents_along
from tabular_bilevel.exact.hypergradient import objective
from tabular_bilevel.finite.follower import log_policy, solve_follower
from tabular_bilevel.finite.leader import evaluate_leader
from tabular_bilevel.finite.linear import discounted_system, policy_system, policy_transition
from tabular_bilevel.finite.model import Model, Tangent
from tabular_bilevel.kinds import by_kind
from tabular_bilevel.lq import routes as lq_routes
from tabular_bilevel.problem import AnyProblem


@quiet
def forward_gradient(
    problem: AnyProblem,
    theta: npt.ArrayLike,
    *,
    directions: npt.ArrayLike | None = None,
    horizon: int | None = None,
) -> FloatArray:
    """Differentiate J in forward mode (theory.md section 4).

    For each direction: (I - gamma_F P_pi) dV_F = E_pi[dr_F + gamma_F dP.V_F], then d pi =
    pi (dQ_F - dV_F) / temperature, and the leader's evaluation differentiated along it. A change
    of the temperature adds its multiple of -log pi to dr_F.

    Parameters
    ----------
    problem : ForwardProblem or LinearQuadraticProblem
        The leader's problem, with a pushforward.
    theta : array_like, shape (d,)
        The leader's parameter.
    directions : array_like, shape (k, d), optional
        Directions; the coordinate axes by default.
    horizon : int, optional
        Count the leader's rewards of this many steps only.

    Returns
    -------
    ndarray, shape (k,)
        Derivative of J along each direction.

    Raises
    ------
    TypeError
        If the problem has no pushforward.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> problem, theta = tb.problems.discrete_toy(), [0.1, 0.0, 0.3, 0.0, 0.0, 0.2]
    >>> exact = tb.hypergradient(problem, theta).gradient
    >>> bool(abs(tb.forward_gradient(problem, theta) - exact).max() < 1e-10)
    True
    """
    theta, rows = _directions(theta, directions)
    model, tangents = tangents_along(problem, theta, rows)
    return np.asarray(_forward_slopes(model, tangents, horizon))


def _of_tables(model: Model, tangents: Iterable[Tangent], horizon: int | None) -> FloatArray:
    response = solve_follower(model)
    evaluation = evaluate_leader(model, response, horizon=horizon)
    policy, value = response.policy, response.value
    log_chances = log_policy(model, response.action_value)
    follower = policy_system(model, policy, model.follower_discount)
    leader = policy_system(model, policy, model.leader_discount)

    derivatives = []
    for tangent in tangents:
        own = tangent.follower_reward + model.follower_discount * _moved(model, tangent, value)
        own -= tangent.temperature * log_chances
        slope = follower.solve((policy * own).sum(axis=1))
        action_slope = own + model.follower_discount * model.next_value(slope)
        policy_slope = policy * centred(action_slope, policy) / model.temperature

        if horizon is None:
            ahead = tangent.leader_reward + model.leader_discount * _moved(
                model, tangent, evaluation.value
            )
            change = (policy_slope * evaluation.advantage + policy * ahead).sum(axis=1)
            leader_slope = leader.solve(change)
        else:
            leader_slope = _leader_slope(model, tangent, policy, policy_slope, horizon)
        derivatives.append(tangent.initial @ evaluation.value + model.initial @ leader_slope)
    return np.array(derivatives)


_forward_slopes = by_kind(_of_tables, lq_routes.forward_slopes)


@quiet
def complex_step_gradient(
    problem: AnyProblem,
    theta: npt.ArrayLike,
    *,
    directions: npt.ArrayLike | None = None,
    horizon: int | None = None,
) -> FloatArray:
    """Differentiate J by evaluating it at complex tables, tables + i h tangent.

    No derivative formula is used: the soft Bellman equation and the leader's evaluation are solved
    in complex arithmetic, and the derivative is Im J / h, with no subtraction and so no step to
    choose. Squire and Trapp, "Using complex variables to estimate derivatives of real functions",
    SIAM Review 40 (1998).

    Parameters
    ----------
    problem, theta, directions, horizon
        As for `forward_gradient`.

    Returns
    -------
    ndarray, shape (k,)
        Derivative of J along each direction.

    Raises
    ------
    TypeError
        If the problem has no pushforward.
    ConvergenceError
        If the complex equation is not solved.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> problem, theta = tb.problems.discrete_toy(), [0.1, 0.0, 0.3, 0.0, 0.0, 0.2]
    >>> exact = tb.hypergradient(problem, theta).gradient
    >>> bool(abs(tb.complex_step_gradient(problem, theta) - exact).max() < 1e-10)
    True
    """
    theta, rows = _directions(theta, directions)
    steps = None if horizon is None else positive_integer("horizon", horizon)
    model, tangents = tangents_along(problem, theta, rows)
    return np.asarray(_complex_slopes(model, tangents, steps))


def _of_complex_tables(model: Model, tangents: Iterable[Tangent], steps: int | None) -> FloatArray:
    response = solve_follower(model)
    start = response.value
    if steps is None and model.leader_discount == 1.0:
        policy_system(model, response.policy, 1.0)  # which looks whether play ends
    return np.array([_complex_derivative(model, t, start, steps) for t in tangents])


_complex_slopes = by_kind(_of_complex_tables, lq_routes.complex_slopes)


@dataclass(frozen=True, eq=False)
class DifferenceGradient:
    """Derivatives by differences, with what extrapolation says of their error.

    Attributes
    ----------
    gradient : ndarray, shape (k,)
        Derivative of J along each direction.
    error : ndarray, shape (k,)
        Disagreement of the best two extrapolations: an estimate, not a bound.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> found = tb.difference_gradient(tb.problems.bandit(), [0.0, 0.0])
    >>> found.gradient.round(8), bool(found.error.max() < 1e-8)
    (array([-0.25,  0.25]), True)
    """

    gradient: FloatArray
    error: FloatArray


@quiet
def difference_gradient(
    problem: AnyProblem,
    theta: npt.ArrayLike,
    *,
    directions: npt.ArrayLike | None = None,
    horizon: int | None = None,
    step: float = 0.1,
    levels: int = 10,
) -> DifferenceGradient:
    """Differentiate J by central differences with Richardson extrapolation.

    The steps are step, step / 3, step / 9, ...; of all extrapolations (Neville's scheme in the
    square of the step) the one that agrees best with its neighbours is returned (Ridders,
    "Accurate computation of F'(x) and F'(x)F''(x)", Advances in Engineering Software 4, 1982).
    Needs `problem.model` alone.

    Parameters
    ----------
    problem, theta, directions, horizon
        As for `forward_gradient`, but that no pushforward is needed.
    step : float
        Largest step along a direction; made smaller where theta +- step has no model.
    levels : int
        Number of steps.

    Returns
    -------
    DifferenceGradient
        Derivatives and the estimates of their errors.

    Raises
    ------
    ValueError
        If theta, a direction, `step` or `levels` is out of range, or no step has a model.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> problem, theta = tb.problems.discrete_toy(), [0.1, 0.0, 0.3, 0.0, 0.0, 0.2]
    >>> exact = tb.hypergradient(problem, theta).gradient
    >>> differences = tb.difference_gradient(problem, theta)
    >>> bool(abs(differences.gradient - exact).max() < 1e-6)
    True
    """
    theta, rows = _directions(theta, directions)
    count, step = positive_integer("levels", levels), as_positive("step", step)
    problem.model(theta)  # if theta itself is bad, say so

    def at(theta: FloatArray) -> float:
        # not from a start nearby: within the tolerance it would be the answer to both
        return objective(problem, theta, horizon=horizon)

    found = [extrapolated(differences(at, theta, row, step=step, levels=count)) for row in rows]
    gradient, error = np.reshape(found, (-1, 2)).T.copy()
    return DifferenceGradient(gradient=gradient, error=error)


# A step that leaves the problem's domain is made smaller, but not below rounding.
SMALLEST_STEP = 1e-9


def differences(
    function: Callable[[FloatArray], Any],
    theta: FloatArray,
    direction: FloatArray,
    *,
    step: float,
    levels: int,
) -> list[Any]:
    """Take central differences of a function along a direction, at so many steps that shrink by 3.

    The largest, first, is made smaller where the function raises ValueError. They may be arrays;
    `extrapolated` takes numbers on from here.
    """

    def difference(h: float) -> Any:
        return (function(theta + h * direction) - function(theta - h * direction)) / (2.0 * h)

    largest = step
    found: list[Any] = []
    while not found:
        try:
            found.append(difference(largest))
        except ValueError:
            largest /= 3.0
            if largest < SMALLEST_STEP * step:
                raise
    return found + [difference(largest / 3.0**j) for j in range(1, levels)]


def extrapolated(differences: Sequence[float]) -> tuple[float, float]:
    """Extrapolate by Neville's scheme for steps that shrink by 3, errors in even powers of it.

    Returns the extrapolation that agrees best with its neighbours, and by how much it does not.
    """
    best, error = differences[-1], np.inf
    previous: list[float] = []
    for difference in differences:
        row = [difference]
        for j, coarser in enumerate(previous):
            factor = 9.0 ** (j + 1)
            row.append(row[j] + (row[j] - coarser) / (factor - 1.0))
            disagreement = max(abs(row[j + 1] - row[j]), abs(row[j + 1] - coarser))
            if disagreement <= error:
                best, error = row[j + 1], disagreement
        previous = row
    return best, error


def _directions(
    theta: npt.ArrayLike, directions: npt.ArrayLike | None
) -> tuple[FloatArray, Iterable[FloatArray]]:
    theta = as_theta(theta)
    if directions is None:
        return theta, axes(theta.size)
    return theta, finite_array("directions", directions, (None, theta.size))


def _moved(model: Model, tangent: Tangent, value: FloatArray) -> FloatArray:
    """Average over the change of the kernel: sum_s' dP(s'|s,a) value(s'), shape (S, A)."""
    return np.asarray(model.like_transition(tangent.transition) @ value).reshape(
        model.n_states, model.n_actions
    )


def _leader_slope(
    model: Model, tangent: Tangent, policy: FloatArray, policy_slope: FloatArray, horizon: int
) -> FloatArray:
    """Differentiate the leader's backward steps along a tangent."""
    value, slope = np.zeros(model.n_states), np.zeros(model.n_states)
    discount = model.leader_discount
    for _ in range(horizon):
        action_value = model.leader_reward + discount * model.next_value(value)
        action_slope = tangent.leader_reward + discount * (
            _moved(model, tangent, value) + model.next_value(slope)
        )
        slope = (policy_slope * action_value + policy * action_slope).sum(axis=1)
        value = (policy * action_value).sum(axis=1)
    return slope


# Far below any rounding, far above underflow when multiplied by small numbers.
COMPLEX_STEP = 1e-100

# Newton's method is exact in the imaginary part from a solved real one; what is left is rounding,
# amplified by the solve.
COMPLEX_TOLERANCE = 1e-12


def _complex_derivative(
    model: Model, tangent: Tangent, start: FloatArray, horizon: int | None
) -> float:
    h = 1j * COMPLEX_STEP
    kernel = model.like_transition(model.transition.data + h * tangent.transition)
    follower_reward = model.follower_reward + h * tangent.follower_reward
    leader_reward = model.leader_reward + h * tangent.leader_reward
    initial = model.initial + h * tangent.initial
    temperature = model.temperature + h * tangent.temperature
    shape = follower_reward.shape

    def next_value(value: ComplexArray) -> ComplexArray:
        return np.asarray(kernel @ value).reshape(shape)

    value = start.astype(np.complex128)
    for _ in range(20):
        action_value = follower_reward + model.follower_discount * next_value(value)
        real = np.where(model.available, action_value.real, -np.inf).max(axis=1)
        exponents = np.where(model.available, (action_value - real[:, None]) / temperature, -np.inf)
        weights = np.exp(exponents)
        total = weights.sum(axis=1)
        policy = weights / total[:, None]
        # the imaginary parts add up to 0, as do changes of probabilities, and not just nearly
        policy -= 1j * policy.real * policy.imag.sum(axis=1, keepdims=True)
        gap = real + temperature * np.log(total) - value
        chain = policy_transition(kernel, policy)
        system = discounted_system(model, chain, model.follower_discount)
        step = system.solve(gap)
        value = value + step
        # a direction that changes nothing leaves rounding noise of the value itself
        size = np.abs(value.imag).max() + COMPLEX_STEP * np.abs(value.real).max()
        if np.abs(step.imag).max() * (1.0 - model.follower_discount) <= COMPLEX_TOLERANCE * size:
            break
    else:
        raise ConvergenceError(
            "the complex soft Bellman equation was not solved in 20 Newton steps",
            residual=float(np.abs(gap.imag).max() / COMPLEX_STEP),
            iterations=20,
        )
    if horizon is None:
        system = discounted_system(model, policy_transition(kernel, policy), model.leader_discount)
        leader_value = np.asarray(
            system.solve((policy * leader_reward).sum(axis=1)), dtype=np.complex128
        )
    else:
        leader_value = np.zeros(model.n_states, dtype=np.complex128)
        for _ in range(horizon):
            action_value = leader_reward + model.leader_discount * next_value(leader_value)
            leader_value = (policy * action_value).sum(axis=1)
    return float((initial @ leader_value).imag / COMPLEX_STEP)
