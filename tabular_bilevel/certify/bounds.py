"""Proven bounds of what a float64 result is off by, at any size (theory.md section 12).

The bounds are a posteriori: they trust no solver. From the stored numbers one step of refinement
makes a *centre*, whose residuals compiled loops compute anew with twice float64's digits, and a
chain of inequalities leads from the residuals to the gradient:

1. Value. T V - V is the centre's residual. By the mean value theorem V* - V = (I - gamma_F P_m)^-1
   (T V - V), for a policy m between that of V and the optimal one.
2. Policy. log pi*(a|s) - log pi(a|s) = gamma_F (P(s,a) - P_m(s)) (V* - V) / temperature: what all
   actions of a state share drops out.
3. Leader. The error of V_L solves (I - gamma_L P_pi*) e = sum_a pi* A_L, with the centre's A_L.
   Those of d_L and n solve transposed equations, whose sources have mass zero in each state, so
   that here, too, only differences between actions count; what rounding leaves of the mass is
   counted apart.
4. The stored numbers: their distance to the centre, plus the centre's bound.

The inverses are those of M-matrices: not negative, so sizes bound sizes. A small model's is formed
and verified. On a large model a solver proposes an x >= 0 with (I - gamma P) x >= b, and a product
shows what it lacks.

Assumed are IEEE double precision with rounding to nearest, and exp and log within 4 units in the
last place. The truth is that of the tables as stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base import kernels
from tabular_bilevel._base.arguments import all_finite, as_theta
from tabular_bilevel._base.arrays import ROUNDOFF, FloatArray, quiet, read_only, read_only_view
from tabular_bilevel.certify.result import (
    ErrorBounds,
    Hypergradient,
    largest,
    require_ieee_arithmetic,
)
from tabular_bilevel.derivatives import Reach, reach
from tabular_bilevel.finite.follower import Response
from tabular_bilevel.finite.leader import Evaluation
from tabular_bilevel.finite.linear import factored_system, policy_inverse
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

# What a few products of bounds lose that underflow, before they are magnified.
LOST = 2.0**-990

# Up to so many states the inverse is formed. It shows the difference between actions, which is what
# makes bounds tight near discount 1; four rooms' 104 states take 0.3 ms.
EXPLICIT_STATES = 200


@quiet
def error_bounds(
    problem: BilevelProblem, theta: npt.ArrayLike, result: Hypergradient
) -> ErrorBounds:
    """Bound what the numbers of a finished result are off by.

    The solver that made the result is not trusted: a wrong one makes the bounds large, not wrong.
    The cost is a factorisation for each of the two discounts, some solves and some products.

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
    model = require_tables(result.model)
    evaluation, found = result.evaluation, result.sensitivities
    # what overflows, or is no number, ends as an infinite bound
    centre = _centre(model, result.response, evaluation)
    follower, leader, bounds = centre.follower, centre.leader, centre.bounds
    pulled = reach(problem, theta, centre.measures, bounds)
    gradient = _outward(np.abs(result.gradient - pulled.pulled) + pulled.bound)
    rounding = np.abs(result.response.action_value - follower.action_value)
    action_value = np.where(model.available, rounding + follower.action_value_error, 0.0)
    return ErrorBounds(
        value=_outward(np.abs(follower.correction) + follower.value_error),
        action_value=_outward(action_value),
        policy=_outward(np.abs(result.response.policy - follower.policy) + follower.error),
        objective=float(
            _outward(abs(result.objective - leader.objective) + leader.objective_error)
        ),
        leader_value=_outward(np.abs(leader.correction) + leader.value_error),
        occupancy=_outward(
            np.abs(evaluation.occupancy - leader.occupancy) + leader.occupancy_error
        ),
        sensitivities=_around(found, centre.measures, bounds),
        gradient=gradient,
        vacuous=_reason(model, evaluation.horizon, bounds, gradient, pulled),
        given=pulled.given,
    )


@dataclass(frozen=True, eq=False)
class Refined:
    """The centre of the bounds as a result: a step more than the solver made, and bounded.

    Attributes
    ----------
    response, evaluation
        The stations on the way.
    measures : Sensitivities
        All of the sensitivities.
    direct, indirect : ndarray, shape (d,)
        The parts of the gradient.
    bounds : ErrorBounds
        Bounds of all this.
    """

    response: Response
    evaluation: Evaluation
    measures: Sensitivities
    direct: FloatArray
    indirect: FloatArray
    bounds: ErrorBounds


@quiet
def refined(
    problem: BilevelProblem,
    theta: FloatArray,
    model: Model,
    response: Response,
) -> Refined | None:
    """Evaluate the leader and differentiate, with a bound for each number.

    Parameters
    ----------
    problem : BilevelProblem
        The leader's problem.
    theta : ndarray, shape (d,)
        The leader's parameter.
    model : Model
        The model there.
    response : Response
        The follower's response, which is refined by a Newton step.

    Returns
    -------
    Refined or None
        The result; None if numbers overflow on the way.

    Raises
    ------
    CertificationError
        If float64 does not round to nearest or flushes small numbers to 0.
    """
    require_ieee_arithmetic()
    centre = _centre(model, response, None)
    follower, leader, bounds = centre.follower, centre.leader, centre.bounds
    measures = centre.measures
    tables = (follower.value, measures.follower_reward, measures.leader_reward, leader.value)
    if not all(map(all_finite, tables)):
        return None
    direct, indirect = (pulled_back(problem, theta, part) for part in centre.parts)
    pulled = reach(problem, theta, measures, bounds)
    gradient = _outward(np.abs(direct + indirect - pulled.pulled) + pulled.bound)
    action_value = np.where(model.available, follower.action_value, -np.inf)
    # of the value as rounded
    residual = follower.residual + 2.0 * ROUNDOFF * float(np.abs(follower.value).max())
    return Refined(
        response=Response(
            value=read_only(follower.value),
            action_value=read_only(action_value),
            policy=read_only(follower.policy),
            residual=residual,
            error_bound=residual * _patience(_contraction(model, model.follower_discount)),
            iterations=response.iterations + 1,
            method=f"{response.method or 'a solver'}, and a step of refinement",
        ),
        evaluation=_evaluation(model, leader),
        measures=measures,
        direct=read_only(direct),
        indirect=read_only(indirect),
        bounds=ErrorBounds(
            value=_outward(follower.value_error + ROUNDOFF * np.abs(follower.value)),
            action_value=_outward(np.where(model.available, follower.action_value_error, 0.0)),
            policy=_outward(follower.error),
            objective=float(_outward(leader.objective_error)),
            leader_value=_outward(leader.value_error + ROUNDOFF * np.abs(leader.value)),
            occupancy=_outward(leader.occupancy_error),
            sensitivities=bounds,
            gradient=gradient,
            vacuous=_reason(model, None, bounds, gradient, pulled),
            given=pulled.given,
        ),
    )


def _evaluation(model: Model, leader: _Leader) -> Evaluation:
    value, occupancy = read_only(leader.value), read_only(leader.occupancy)
    ahead = model.leader_discount * model.next_value(value)
    return Evaluation(
        objective=leader.objective,
        value=value,
        action_value=read_only(model.leader_reward + ahead),
        occupancy=occupancy,
        continuation=read_only(occupancy[model.entry_state] * value[model.transition.indices]),
        horizon=None,
    )


class _Operator(Protocol):
    """(I - gamma P_policy)^-1, known approximately; its bounds hold for the exact inverse.

    `patience` bounds its row sums, and those of the exact policy's.
    """

    patience: float

    def solve(self, b: FloatArray) -> FloatArray:
        """Apply it, approximately."""
        ...

    def solve_transposed(self, b: FloatArray) -> FloatArray:
        """Apply its transpose, approximately."""
        ...

    def values(self, y: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Bound x = inverse b for every b of at most the sizes y.

        Returns bounds of x (S,), of x but for a number all states share (S,), and of the actions'
        gamma (P(s,a) - P_policy(s)) x (S, A).
        """
        ...

    def measures(self, source: FloatArray, flow: FloatArray) -> FloatArray:
        """Bound the transposed inverse of b + gamma P^T f, with b and f of at most these sizes.

        In each state the flow f, shape (S, A), has mass zero.
        """
        ...


class _Explicit:
    """The inverse as a matrix."""

    def __init__(
        self, model: Model, policy: FloatArray, discount: float, aside: FloatArray | float
    ) -> None:
        n_states, n_actions = policy.shape
        inverse = policy_inverse(model, policy, discount)
        patience = _patience_of(model, policy, discount, aside, lambda: inverse.sum(axis=1))
        rest = np.empty((n_states, n_states))
        self._advantage = np.empty((n_states * n_actions, n_states))
        kernel = model.transition
        kernels.action_reach(
            kernel.indptr,
            kernel.indices,
            kernel.data,
            policy,
            discount,
            inverse,
            rest,
            self._advantage,
        )
        # exact inverse - inverse = exact inverse (I - matrix inverse)
        self._sizes = np.abs(inverse)
        self._spread = np.abs(inverse - inverse.mean(axis=0))
        size = float(self._sizes.sum(axis=1).max())
        rounding = _row_terms(model) * ROUNDOFF
        off = float(rest.sum(axis=1).max()) + 2.0 * rounding * (size + 1.0)
        exact = min(patience, size / (1.0 - off)) if off < 0.5 else patience
        self._off = 2.0 * (exact * off + rounding * size)
        self._inverse, self.patience = inverse, patience

    def solve(self, b: FloatArray) -> FloatArray:
        return np.asarray(self._inverse @ b)

    def solve_transposed(self, b: FloatArray) -> FloatArray:
        return np.asarray(b @ self._inverse)

    def values(self, y: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        off = self._off * y.max() + _lost(self.patience, y)
        advantage = (self._advantage @ y).reshape(y.size, -1)
        return self._sizes @ y + off, self._spread @ y + 2.0 * off, advantage + 2.0 * off

    def measures(self, source: FloatArray, flow: FloatArray) -> FloatArray:
        off = self._off * (source.sum() + 2.0 * flow.sum()) + _lost(self.patience, source, flow)
        return np.asarray(source @ self._sizes + flow.ravel() @ self._advantage + off)


class _Factored:
    """A solver, whose answers are made upper bounds."""

    def __init__(
        self, model: Model, policy: FloatArray, discount: float, aside: FloatArray | float
    ) -> None:
        self._model, self._policy, self._discount = model, policy, discount
        self._system = system = factored_system(model, policy, discount)
        self.patience = _patience_of(
            model, policy, discount, aside, lambda: system.solve(np.ones(model.n_states))
        )

    def solve(self, b: FloatArray) -> FloatArray:
        return self._system.solve(b)

    def solve_transposed(self, b: FloatArray) -> FloatArray:
        return self._system.solve_transposed(b)

    def values(self, y: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        x = np.abs(self._system.solve(y))
        ahead = self._discount * self._model.next_value(x)
        mean = (self._policy * ahead).sum(axis=1)
        lacking = y + mean - x + _row_terms(self._model) * ROUNDOFF * (y + mean + x)
        more = largest(lacking) * self.patience + _lost(self.patience, y)
        x += more
        return x, x, ahead + more + x[:, None]

    def measures(self, source: FloatArray, flow: FloatArray) -> FloatArray:
        model = self._model
        lost = _lost(self.patience, source, flow)
        source = source + self._discount * model.arrivals(flow)
        x = np.abs(self._system.solve_transposed(source))
        arriving = self._discount * model.arrivals(self._policy * x[:, None])
        terms = np.bincount(model.transition.indices, minlength=model.n_states) + 8.0
        lacking = source + arriving - x + terms * ROUNDOFF * (source + arriving + x)
        return np.asarray(x + np.maximum(lacking, 0.0).sum() * self.patience + lost)


class _Unknown:
    """Nothing is known."""

    def __init__(self, model: Model) -> None:
        self.patience = math.inf
        self._states = np.full(model.n_states, np.nan)
        self._pairs = np.full((model.n_states, model.n_actions), np.nan)

    def solve(self, b: FloatArray) -> FloatArray:
        return self._states

    def solve_transposed(self, b: FloatArray) -> FloatArray:
        return self._states

    def values(self, y: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        return self._states, self._states, self._pairs

    def measures(self, source: FloatArray, flow: FloatArray) -> FloatArray:
        return self._states


def _operator(
    model: Model, policy: FloatArray, discount: float, aside: FloatArray | float = 0.0
) -> _Operator:
    """Invert; the exact policy is within `aside` of this one."""
    kind = _Explicit if model.n_states <= EXPLICIT_STATES else _Factored
    try:
        return kind(model, policy, discount, aside)
    except ValueError:  # play is to end, and in float64 does not
        return _Unknown(model)


def _patience_of(
    model: Model,
    policy: FloatArray,
    discount: float,
    aside: FloatArray | float,
    steps: Callable[[], FloatArray],
) -> float:
    """Bound the inverse's row sums: by the contraction, or where there is none, by what is shown.

    If z >= 0 and (I - discount P_m) z >= least > 0 for all policies m in question, these are
    M-matrices, and max z / least is a bound. As z serve the expected steps.
    """
    # rounding may have left the policy's sum above 1
    most = float(policy.sum(axis=1).max()) * (1.0 + model.n_actions * ROUNDOFF)
    patience = _patience(_contraction(model, discount) * most)
    if discount < 1.0 or patience < math.inf:
        return patience
    z = np.abs(steps())
    ahead = ((policy + aside) * model.next_value(z)).sum(axis=1)
    left = z - ahead - 2.0 * _row_terms(model) * ROUNDOFF * (z + ahead)
    least = float(left.min())
    return float(z.max()) / least * (1.0 + 4.0 * ROUNDOFF) if least > 0.0 else math.inf


def _row_terms(model: Model) -> float:
    """Count the roundings of an average over successors and actions, or more."""
    return float(model.longest_row + model.n_actions + 8)


def _contraction(model: Model, discount: float) -> float:
    """Largest row sum of discount * P, or more."""
    return discount * model.largest_mass * (1.0 + (_row_terms(model) + 2.0) * ROUNDOFF)


def _patience(contraction: float) -> float:
    """1 / (1 - contraction), or more."""
    return 1.0 / (1.0 - contraction) * (1.0 + 4.0 * ROUNDOFF) if contraction < 1.0 else math.inf


def _lost(patience: float, *bounds: FloatArray) -> float:
    """Bound what underflows on the way through the inverse, unless all there is to carry is 0."""
    return LOST * patience if any(bound.any() for bound in bounds) else 0.0


class _SoftPolicy:
    """The policy and the soft residual of a value, from its gaps Q(s,a) - V(s)."""

    def __init__(self, model: Model, gap: FloatArray, error: FloatArray) -> None:
        tables = np.empty((5, *gap.shape))
        self.policy, self._log_error, self._spare, self.log_policy, self.log_policy_error = tables
        self.residual, self.residual_error, self.leak = np.empty((3, model.n_states))
        self._available = model.available
        kernels.soft_policy(
            gap,
            error,
            model.available,
            model.temperature,
            self.policy,
            self._log_error,
            self._spare,
            self.log_policy,
            self.log_policy_error,
            self.residual,
            self.residual_error,
            self.leak,
        )

    def error(self, log_ratio: FloatArray | float) -> FloatArray:
        """Bound the distance to a policy whose logarithms are as near to the exact ones as this."""
        log_error = log_ratio + self._log_error
        off = self.policy * np.expm1(log_error)
        if self._spare.any():
            off += self._spare * np.exp(log_error)
        return np.where(self._available, np.fmin(off, 1.0), 0.0)


@dataclass(frozen=True, eq=False)
class _Follower:
    """The centre's policy, and what it and the stored value are off by."""

    operator: _Operator
    value: FloatArray
    correction: FloatArray  # the centre's value, less the stored one
    value_error: FloatArray
    value_spread: FloatArray
    action_value: FloatArray
    action_value_error: FloatArray
    residual: float
    policy: FloatArray
    error: FloatArray
    log_policy: FloatArray
    log_policy_error: FloatArray
    leak: FloatArray  # how far its sum is from 1
    aside: FloatArray  # its distance to the operator's policy, with its error
    operator_policy: FloatArray
    operator_leak: FloatArray


def _follower(model: Model, response: Response) -> _Follower:
    value, beta = response.value, model.temperature
    discount = model.follower_discount
    contraction = _contraction(model, discount)
    gap, error = _gaps(model, model.follower_reward, discount, value, np.zeros(model.n_states))
    stored = _SoftPolicy(model, gap, error)
    operator = _operator(model, stored.policy, discount)
    correction = operator.solve(stored.residual)
    gap, error = _gaps(model, model.follower_reward, discount, value, correction)
    soft = _SoftPolicy(model, gap, error)
    aside = np.abs(soft.policy - stored.policy)

    residual = np.abs(soft.residual) + soft.residual_error
    crude = contraction * residual.max() * _patience(contraction)  # of the value ahead
    stray = (aside + soft.error(2.0 * crude / beta)).sum(axis=1) * crude
    size, spread, advantage = operator.values(residual + stray)
    log_ratio = (advantage + stray[:, None]) / beta
    policy_error = _balanced(soft.error(log_ratio), soft.leak)
    log_policy_error = soft.log_policy_error + np.where(
        soft.log_policy_error == 0.0, 0.0, log_ratio
    )
    value = value + correction
    terms = np.abs(gap) + (np.abs(response.value) + np.abs(correction))[:, None]
    rounding = error + 3.0 * ROUNDOFF * terms
    return _Follower(
        operator=operator,
        value=value,
        correction=correction,
        value_error=size,
        value_spread=spread,
        action_value=gap + value[:, None],
        action_value_error=rounding + contraction * size.max() + LOST,
        residual=float(residual.max()),
        policy=soft.policy,
        error=policy_error,
        log_policy=soft.log_policy,
        log_policy_error=log_policy_error,
        leak=soft.leak,
        aside=aside + policy_error,
        operator_policy=stored.policy,
        operator_leak=stored.leak,
    )


@dataclass(frozen=True, eq=False)
class _Leader:
    """The centre of the leader's evaluation, and what it and the stored one are off by."""

    value: FloatArray
    correction: FloatArray  # the centre's value, less the stored one
    value_error: FloatArray
    value_spread: FloatArray
    objective: float
    objective_error: float
    advantage: FloatArray
    advantage_error: FloatArray
    occupancy: FloatArray
    occupancy_error: FloatArray


def _leader(model: Model, follower: _Follower, evaluation: Evaluation | None) -> _Leader:
    """Refine an evaluation, or what the operator makes of the policy."""
    discount, policy = model.leader_discount, follower.policy
    contraction = _contraction(model, discount)
    operator = (
        follower.operator
        if discount == model.follower_discount
        else _operator(model, follower.operator_policy, discount, follower.aside)
    )
    nothing, start = np.zeros(model.n_states), model.initial
    if evaluation is None:
        stored = operator.solve((policy * model.leader_reward).sum(axis=1))
        occupancy = operator.solve_transposed(start)
    else:
        stored, occupancy = evaluation.value, evaluation.occupancy
    gap, _ = _gaps(model, model.leader_reward, discount, stored, nothing)
    correction = operator.solve((policy * gap).sum(axis=1))
    gap, error = _gaps(model, model.leader_reward, discount, stored, correction)
    residual = np.empty(model.n_states)
    advantage, advantage_error = np.empty((2, *gap.shape))
    kernels.advantages(
        gap,
        error,
        policy,
        follower.error,
        follower.aside,
        contraction * operator.patience,
        residual,
        advantage,
        advantage_error,
    )
    value_error, spread, propagated = operator.values(residual)
    advantage_error += propagated
    value = stored + correction
    objective = math.fsum((start * value)[start > 0.0])
    objective_error = float(start @ (value_error + 3.0 * ROUNDOFF * np.abs(value)))
    objective_error += LOST * value_error.any()

    flow = np.zeros_like(policy)
    residual, _ = _flow(model, start, flow, policy, discount, occupancy, nothing)
    step = operator.solve_transposed(residual)
    residual, error = _flow(model, start, flow, policy, discount, occupancy, step)
    lasting = np.abs(occupancy) + np.abs(step)
    occupancy_error = _measure_error(
        model, follower, operator, discount, np.abs(residual) + error, flow, nothing, lasting
    )
    refined = occupancy + step
    # the equations are those of an infinite horizon
    if evaluation is not None and evaluation.horizon is not None:
        value_error = spread = occupancy_error = np.full(model.n_states, np.inf)
        objective_error = math.inf
    return _Leader(
        value=value,
        correction=correction,
        value_error=value_error,
        value_spread=spread,
        objective=objective,
        objective_error=objective_error,
        advantage=advantage,
        advantage_error=advantage_error,
        occupancy=refined,
        occupancy_error=occupancy_error + ROUNDOFF * np.abs(refined),
    )


def _influence(model: Model, follower: _Follower, leader: _Leader) -> tuple[FloatArray, FloatArray]:
    """Compute the centre's influence measure, and bound its error, shapes (S, A)."""
    policy, discount = follower.policy, model.follower_discount
    source, source_error = np.empty((2, *policy.shape))
    leak = np.empty(model.n_states)
    kernels.influence_sources(
        policy,
        follower.error,
        leader.occupancy,
        leader.occupancy_error,
        leader.advantage,
        leader.advantage_error,
        model.temperature,
        model.available,
        UNDERFLOW,
        source,
        source_error,
        leak,
    )
    source_error = _balanced(source_error, leak)
    nothing = np.zeros(model.n_states)
    operator = follower.operator
    residual, _ = _flow(model, nothing, source, policy, discount, nothing, nothing)
    arrivals = operator.solve_transposed(residual)
    residual, _ = _flow(model, nothing, source, policy, discount, arrivals, nothing)
    step = operator.solve_transposed(residual)
    residual, error = _flow(model, nothing, source, policy, discount, arrivals, step)
    size = np.abs(arrivals) + np.abs(step)
    error = _measure_error(
        model, follower, operator, discount, np.abs(residual) + error, source_error, leak, size
    )
    error = (error + ROUNDOFF * size)[:, None]
    size = size[:, None]
    influence = source + policy * (arrivals + step)[:, None]
    rounding = 3.0 * ROUNDOFF * (np.abs(source) + policy * size)
    rounding += LOST * (model.available & (error > 0.0))
    return influence, source_error + follower.error * (size + error) + policy * error + rounding


def _temperature_slope(
    follower: _Follower, influence: FloatArray, influence_error: FloatArray
) -> tuple[float, float]:
    """Compute - sum mu log pi, and bound its error."""
    size = np.abs(follower.log_policy)
    rounding = ROUNDOFF * (influence.size + 2.0) * size
    matters = (influence_error > 0.0) & (follower.log_policy_error > 0.0)
    return -float(np.vdot(influence, follower.log_policy)), float(
        np.vdot(influence_error, size + follower.log_policy_error)
        + np.vdot(np.abs(influence), follower.log_policy_error + rounding)
        + LOST * matters.any()
    )


def _measure_error(
    model: Model,
    follower: _Follower,
    operator: _Operator,
    discount: float,
    residual: FloatArray,
    flow_error: FloatArray,
    leak: FloatArray,
    measure: FloatArray,
) -> FloatArray:
    """Bound the error of m = source + gamma P^T (flow + policy m), shape (S,).

    `flow_error` has mass zero in each state but for `leak`, as what the policy is off by; m has
    these sizes.
    """
    contraction = _contraction(model, discount)
    moved = flow_error + follower.error * measure[:, None]
    crude = (residual.sum() + contraction * moved.sum()) * operator.patience
    lost = leak + follower.leak * measure + follower.operator_leak * crude
    # what is lost of the mass counts as a source there, and as moved between the actions of the
    # policy that the operator propagates with
    share = follower.operator_policy * lost[:, None]
    return operator.measures(residual + lost, moved + follower.aside * crude + 2.0 * share)


@dataclass(frozen=True, eq=False)
class _Centre:
    """All stations, with the parts of the sensitivities and the bounds of their sum."""

    follower: _Follower
    leader: _Leader
    parts: tuple[Sensitivities, Sensitivities]
    measures: Sensitivities
    bounds: SensitivityBounds


def _centre(model: Model, response: Response, evaluation: Evaluation | None) -> _Centre:
    follower = _follower(model, response)
    leader = _leader(model, follower, evaluation)
    influence, influence_error = _influence(model, follower, leader)
    occupancy = leader.occupancy[:, None]
    pairs = occupancy * follower.policy
    pairs_error = (
        leader.occupancy_error[:, None] * (follower.policy + follower.error)
        + np.abs(occupancy) * follower.error
        + 2.0 * ROUNDOFF * np.abs(pairs)
        + UNDERFLOW * model.available
    )
    kernel = model.transition
    slopes = np.zeros((2, kernel.nnz))
    errors = np.zeros(kernel.nnz)
    shift = np.zeros(pairs.shape)
    for entries, discount, flow, flow_error, player in (
        (slopes[0], model.leader_discount, pairs, pairs_error, leader),
        (slopes[1], model.follower_discount, influence, influence_error, follower),
    ):
        kernels.slope_errors(
            kernel.indptr,
            kernel.indices,
            kernel.data,
            discount,
            flow,
            flow_error,
            player.value,
            player.value_error.max(),
            player.value_spread,
            entries,
            errors,
            shift,
        )
    direct = Sensitivities.of(
        model, leader_reward=pairs, transition=slopes[0], initial=leader.value.copy()
    )
    slope, slope_error = _temperature_slope(follower, influence, influence_error)
    indirect = Sensitivities.of(
        model, follower_reward=influence, transition=slopes[1], temperature=slope
    )
    bounds = SensitivityBounds(
        follower_reward=_outward(influence_error),
        leader_reward=_outward(pairs_error),
        transition=_outward(errors + UNDERFLOW),
        transition_shift=_outward(shift),
        initial=_outward(leader.value_spread + 2.0 * ROUNDOFF * np.abs(leader.value)),
        initial_shift=float(_outward(leader.value_error.max())),
        temperature=float(_outward(slope_error)),
    )
    return _Centre(follower, leader, (direct, indirect), direct + indirect, bounds)


def _around(
    stored: Sensitivities, centre: Sensitivities, bounds: SensitivityBounds
) -> SensitivityBounds:
    """Bound the errors of the stored sensitivities, given those of the centre's."""

    def wider(name: str) -> FloatArray:
        return _outward(
            np.abs(getattr(stored, name) - getattr(centre, name)) + getattr(bounds, name)
        )

    return SensitivityBounds(
        follower_reward=wider("follower_reward"),
        leader_reward=wider("leader_reward"),
        transition=wider("transition"),
        transition_shift=bounds.transition_shift,
        initial=wider("initial"),
        initial_shift=bounds.initial_shift,
        temperature=float(wider("temperature")),
    )


def _reason(
    model: Model,
    horizon: int | None,
    bounds: SensitivityBounds,
    gradient: FloatArray,
    pulled: Reach,
) -> str:
    """Say why the objective's bound or the gradient's is infinite."""
    if np.isfinite(gradient).all() and np.isfinite(bounds.initial_shift):
        return ""
    if model.leader_discount == 1.0 and not np.isfinite(bounds.initial_shift):
        return "leader_discount is 1, and float64 does not show that play ends, or does so too late"
    for discount in {model.follower_discount, model.leader_discount} - {1.0}:
        if not _contraction(model, discount) < 1.0:
            return f"discount {discount!r} times the largest row sum is not provably below 1"
    if horizon is not None:
        return "a finite horizon is not covered"
    if pulled.reason and np.isfinite(bounds.follower_reward).all():
        return pulled.reason
    return "the residuals leave nothing to say"


def _gaps(
    model: Model, reward: FloatArray, discount: float, value: FloatArray, correction: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Compute r + discount P v - v(s) for v = value + correction, and what that is off by."""
    kernel = model.transition
    gap, error = np.empty((2, *reward.shape))
    kernels.value_gaps(
        kernel.indptr,
        kernel.indices,
        kernel.data,
        reward,
        model.available,
        discount,
        read_only_view(value),
        correction,
        gap,
        error,
    )
    return gap, error


def _flow(
    model: Model,
    source: FloatArray,
    flow: FloatArray,
    policy: FloatArray,
    discount: float,
    measure: FloatArray,
    correction: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """Compute source + discount P^T (flow + policy m) - m for m = measure + correction."""
    kernel = model.transition
    low, size, small, count, residual, error = np.empty((6, model.n_states))
    kernels.flow_residual(
        kernel.indptr,
        kernel.indices,
        kernel.data,
        read_only_view(source),
        flow,
        policy,
        discount,
        read_only_view(measure),
        correction,
        low,
        size,
        small,
        count,
        residual,
        error,
    )
    return residual, error


def _balanced(error: FloatArray, leak: FloatArray) -> FloatArray:
    """Tighten errors that in each row add up to at most `leak`."""
    tighter = np.empty_like(error)
    kernels.balance(error, leak, tighter)
    return tighter


def _outward(bound: npt.ArrayLike) -> FloatArray:
    """Pay for the rounding of bounds; what is no number bounds nothing."""
    wider = np.array(bound, dtype=np.float64, order="C")
    kernels.outward(wider.reshape(-1), OUTWARD, UNDERFLOW)
    return read_only(wider)
