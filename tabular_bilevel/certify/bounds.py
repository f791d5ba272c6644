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
from tabular_bilevel.certify.residuals import Flow, Gaps
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
        policy=_outward(np.abs(result.response.policy - follower.soft.policy) + follower.error),
        objective=_widened(abs(result.objective - leader.objective) + leader.objective_error),
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
    """The centre of the bounds as a result: a step more than the solver made, and bounded."""

    response: Response
    evaluation: Evaluation
    measures: Sensitivities  # of both parts
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
    """Evaluate the leader and differentiate, with bounds of all; None if numbers overflow.

    The response is refined by a Newton step. Raises CertificationError if float64 does not round to
    nearest or flushes small numbers to 0.
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
    action_value = follower.action_value
    action_value[~model.available] = -np.inf
    # of the value as rounded
    residual = follower.residual + 2.0 * ROUNDOFF * float(np.abs(follower.value).max())
    return Refined(
        response=Response(
            value=read_only(follower.value),
            action_value=read_only(action_value),
            policy=read_only(follower.soft.policy),
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
            action_value=_outward(follower.action_value_error),
            policy=_outward(follower.error),
            objective=_widened(leader.objective_error),
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
    return Evaluation(
        objective=leader.objective,
        value=value,
        action_value=read_only(leader.action_value),
        occupancy=occupancy,
        continuation=read_only(occupancy[model.entry_state] * value[model.transition.indices]),
        horizon=None,
    )


# How far the exact policy is from an operator's.
_Aside = FloatArray | float


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

    def values(self, y: FloatArray, top: float) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Bound x = inverse b for every b of at most the sizes y, the largest of which is `top`.

        Returns bounds of x (S,), of x but for a number all states share (S,), and of the actions'
        gamma (P(s,a) - P_policy(s)) x (S, A).
        """
        ...

    def measures(self, sources: FloatArray, total: float) -> FloatArray:
        """Bound the transposed inverse of b + gamma P^T f, with b and f of at most these sizes.

        The sizes of b (S,) come first, then those of the flow f (S * A,), which in each state has
        mass zero; `total` is their sum.
        """
        ...


class _Explicit:
    """The inverse as a matrix."""

    def __init__(self, model: Model, at: _SoftPolicy, discount: float, aside: _Aside) -> None:
        n_states, n_actions = at.policy.shape
        inverse = policy_inverse(model, at.policy, discount)
        ones, reach = np.ones(n_states), np.empty(((3 + n_actions) * n_states, n_states))
        kernel = model.transition
        kernels.action_reach(
            kernel.indptr,
            kernel.indices,
            kernel.data,
            at.policy,
            discount,
            inverse,
            np.empty(n_states),
            reach,
        )
        patience = _patience_of(model, at, discount, aside, lambda: inverse @ ones)
        # exact inverse - inverse = exact inverse (I - matrix inverse)
        sums, rounding = reach[: 2 * n_states] @ ones, _row_terms(model) * ROUNDOFF
        off, size = float(sums[:n_states].max()), float(sums[n_states:].max())
        off += 2.0 * rounding * (size + 1.0)
        exact = min(patience, size / (1.0 - off)) if off < 0.5 else patience
        self._off = 2.0 * (exact * off + rounding * size)
        self._inverse, self._reach, self.patience = inverse, reach[n_states:], patience

    def solve(self, b: FloatArray) -> FloatArray:
        return np.asarray(self._inverse @ b)

    def solve_transposed(self, b: FloatArray) -> FloatArray:
        return np.asarray(b @ self._inverse)

    def values(self, y: FloatArray, top: float) -> tuple[FloatArray, FloatArray, FloatArray]:
        x, n = self._reach @ y, y.size
        x += 2.0 * (self._off * top + _lost(self.patience, top))
        return x[:n], x[n : 2 * n], x[2 * n :].reshape(n, -1)

    def measures(self, sources: FloatArray, total: float) -> FloatArray:
        n = self._inverse.shape[0]
        m = sources[:n] @ self._reach[:n]
        m += sources[n:] @ self._reach[2 * n :]
        m += 2.0 * self._off * total + _lost(self.patience, total)
        return np.asarray(m)


class _Factored:
    """A solver, whose answers are made upper bounds."""

    def __init__(self, model: Model, at: _SoftPolicy, discount: float, aside: _Aside) -> None:
        self._model, self._policy, self._discount = model, at.policy, discount
        self._system = system = factored_system(model, at.policy, discount)
        self.patience = _patience_of(
            model, at, discount, aside, lambda: system.solve(np.ones(model.n_states))
        )

    def solve(self, b: FloatArray) -> FloatArray:
        return self._system.solve(b)

    def solve_transposed(self, b: FloatArray) -> FloatArray:
        return self._system.solve_transposed(b)

    def values(self, y: FloatArray, top: float) -> tuple[FloatArray, FloatArray, FloatArray]:
        x = np.abs(self._system.solve(y))
        ahead = self._discount * self._model.next_value(x)
        mean = (self._policy * ahead).sum(axis=1)
        lacking = y + mean - x + _row_terms(self._model) * ROUNDOFF * (y + mean + x)
        more = largest(lacking) * self.patience + _lost(self.patience, top)
        x += more
        return x, x, ahead + more + x[:, None]

    def measures(self, sources: FloatArray, total: float) -> FloatArray:
        model = self._model
        lost = _lost(self.patience, total)
        source = sources[: model.n_states]
        source = source + self._discount * model.arrivals(sources[model.n_states :])
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

    def values(self, y: FloatArray, top: float) -> tuple[FloatArray, FloatArray, FloatArray]:
        return self._states, self._states, self._pairs

    def measures(self, sources: FloatArray, total: float) -> FloatArray:
        return self._states


def _operator(model: Model, at: _SoftPolicy, discount: float, aside: _Aside = 0.0) -> _Operator:
    """Invert at a policy; the exact one is within `aside` of it."""
    kind = _Explicit if model.n_states <= EXPLICIT_STATES else _Factored
    try:
        return kind(model, at, discount, aside)
    except ValueError:  # play is to end, and in float64 does not
        return _Unknown(model)


def _patience_of(
    model: Model,
    at: _SoftPolicy,
    discount: float,
    aside: _Aside,
    steps: Callable[[], FloatArray],
) -> float:
    """Bound the inverse's row sums: by the contraction, or where there is none, by what is shown.

    If z >= 0 and (I - discount P_m) z >= least > 0 for all policies m in question, these are
    M-matrices, and max z / least is a bound. As z serve the expected steps.
    """
    most = 1.0 + float(at.leak.max())  # rounding may have left the policy's sum above 1
    patience = _patience(_contraction(model, discount) * most)
    if discount < 1.0 or patience < math.inf:
        return patience
    z = np.abs(steps())
    ahead = ((at.policy + aside) * model.next_value(z)).sum(axis=1)
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


def _lost(patience: float, size: float) -> float:
    """Bound what underflows on the way through the inverse, unless all there is to carry is 0."""
    return LOST * patience if size != 0.0 else 0.0


class _SoftPolicy:
    """The policy and the soft residual of a value, from its gaps Q(s,a) - V(s)."""

    def __init__(self, model: Model, gaps: Gaps) -> None:
        tables = np.empty((5, *gaps.gap.shape))
        self.policy, self.log_error, self.spare, self.log_policy, self.log_policy_error = tables
        self.residual, self.residual_error, self.leak = np.empty((3, model.n_states))
        kernels.soft_policy(
            gaps.gap,
            gaps.error,
            model.available,
            model.temperature,
            self.policy,
            self.log_error,
            self.spare,
            self.log_policy,
            self.log_policy_error,
            self.residual,
            self.residual_error,
            self.leak,
        )


@dataclass(frozen=True, eq=False)
class _Follower:
    """The centre's policy, and what it and the stored value are off by."""

    operator: _Operator
    stored: _SoftPolicy  # the operator's
    value: FloatArray
    correction: FloatArray  # the centre's value, less the stored one
    value_error: FloatArray
    value_spread: FloatArray
    action_value: FloatArray
    action_value_error: FloatArray
    residual: float
    soft: _SoftPolicy
    error: FloatArray  # of the policy
    aside: FloatArray  # the policy's distance to the operator's, with its error


def _follower(model: Model, response: Response) -> _Follower:
    discount = model.follower_discount
    contraction = _contraction(model, discount)
    gaps = Gaps(model, model.follower_reward, discount, response.value)
    stored = _SoftPolicy(model, gaps)
    operator = _operator(model, stored, discount)
    correction = operator.solve(stored.residual)
    gaps.move(correction)
    soft = _SoftPolicy(model, gaps)
    aside, error, action_value, action_value_error = np.empty((4, *gaps.gap.shape))
    stray, bound = np.empty((2, model.n_states))
    residual, top = kernels.stray_residuals(
        soft.policy,
        soft.log_error,
        soft.spare,
        stored.policy,
        soft.residual,
        soft.residual_error,
        model.temperature,
        contraction * _patience(contraction),
        aside,
        stray,
        bound,
    )
    size, spread, advantage = operator.values(bound, top)
    kernels.policy_errors(
        soft.policy,
        soft.log_error,
        soft.spare,
        soft.leak,
        model.available,
        gaps.gap,
        gaps.error,
        response.value,
        correction,
        contraction * size.max() + LOST,
        advantage,
        stray,
        model.temperature,
        aside,
        soft.log_policy_error,
        error,
        action_value,
        action_value_error,
    )
    return _Follower(
        operator=operator,
        stored=stored,
        value=response.value + correction,
        correction=correction,
        value_error=size,
        value_spread=spread,
        action_value=action_value,
        action_value_error=action_value_error,
        residual=residual,
        soft=soft,
        error=error,
        aside=aside,
    )


@dataclass(frozen=True, eq=False)
class _Leader:
    """The centre of the leader's evaluation, and what it and the stored one are off by."""

    value: FloatArray
    correction: FloatArray  # the centre's value, less the stored one
    value_error: FloatArray
    value_spread: FloatArray
    initial_error: FloatArray  # of the value, but for what all states share
    action_value: FloatArray
    objective: float
    objective_error: float
    advantage: FloatArray
    advantage_error: FloatArray
    occupancy: FloatArray
    occupancy_error: FloatArray


def _leader(model: Model, follower: _Follower, evaluation: Evaluation | None) -> _Leader:
    """Refine an evaluation, or what the operator makes of the policy."""
    discount, policy, n_states = model.leader_discount, follower.soft.policy, model.n_states
    operator = (
        follower.operator
        if discount == model.follower_discount
        else _operator(model, follower.stored, discount, follower.aside)
    )
    if evaluation is None:
        stored = operator.solve(_averaged(policy, model.leader_reward))
        visits = operator.solve_transposed(model.initial)
    else:
        stored, visits = evaluation.value, evaluation.occupancy
    gaps = Gaps(model, model.leader_reward, discount, stored)
    correction = operator.solve(_averaged(policy, gaps.gap))
    gaps.move(correction)
    residual, value, initial_error = np.empty((3, n_states))
    advantage, advantage_error, action_value = np.empty((3, *policy.shape))
    top = kernels.advantages(
        gaps.gap,
        gaps.error,
        policy,
        follower.error,
        follower.aside,
        _contraction(model, discount) * operator.patience,
        residual,
        advantage,
        advantage_error,
    )
    value_error, spread, propagated = operator.values(residual, top)
    objective, objective_error = kernels.evaluate(
        model.initial,
        gaps.gap,
        model.available,
        read_only_view(stored),
        correction,
        value_error,
        spread,
        propagated,
        advantage_error,
        value,
        initial_error,
        action_value,
    )
    nothing = np.zeros((1 + model.n_actions, n_states))  # to come, and of errors
    flow = nothing[1:].reshape(policy.shape)
    balance = Flow(model, model.initial, flow, policy, discount, visits)
    step = operator.solve_transposed(balance.residual)
    balance.move(step)
    occupancy_error = _measure_error(
        model, follower, operator, discount, balance, flow, nothing[0], visits, step
    )
    occupancy = visits + step
    occupancy_error += ROUNDOFF * np.abs(occupancy)
    # the equations are those of an infinite horizon
    if evaluation is not None and evaluation.horizon is not None:
        value_error = spread = initial_error = occupancy_error = np.full(n_states, np.inf)
        objective_error = math.inf
    return _Leader(
        value=value,
        correction=correction,
        value_error=value_error,
        value_spread=spread,
        initial_error=initial_error,
        action_value=action_value,
        objective=objective,
        objective_error=objective_error,
        advantage=advantage,
        advantage_error=advantage_error,
        occupancy=occupancy,
        occupancy_error=occupancy_error,
    )


def _averaged(policy: FloatArray, table: FloatArray) -> FloatArray:
    return np.asarray(np.einsum("sa,sa->s", policy, table))


def _measure_error(
    model: Model,
    follower: _Follower,
    operator: _Operator,
    discount: float,
    balance: Flow,
    flow_error: FloatArray,
    leak: FloatArray,
    measure: FloatArray,
    step: FloatArray,
) -> FloatArray:
    """Bound the error of measure + step, shape (S,), whose flow is off, of mass `leak` at most."""
    sources = np.empty(model.n_states + flow_error.size)
    total = kernels.measure_sources(
        balance.residual,
        balance.error,
        read_only_view(measure),
        step,
        flow_error,
        leak,
        follower.error,
        follower.soft.leak,
        follower.stored.policy,
        follower.stored.leak,
        follower.aside,
        _contraction(model, discount),
        operator.patience,
        sources,
    )
    return operator.measures(sources, total)


@dataclass(frozen=True, eq=False)
class _Pairs:
    """The measures of pairs, and what they are off by, shapes (S, A)."""

    visits: FloatArray
    visits_error: FloatArray
    influence: FloatArray
    influence_error: FloatArray
    temperature: float  # what the influence comes to: - sum mu log pi
    temperature_error: float


def _pairs(model: Model, follower: _Follower, leader: _Leader) -> _Pairs:
    """Compute the centre's measures of pairs, and bound their errors."""
    soft, discount, kernel = follower.soft, model.follower_discount, model.transition
    visits, visits_error, influence, influence_error = np.empty((4, *soft.policy.shape))
    leak, arriving = np.empty((2, model.n_states))
    nothing = np.zeros(model.n_states)
    kernels.influence_sources(
        soft.policy,
        follower.error,
        leader.occupancy,
        leader.occupancy_error,
        leader.advantage,
        leader.advantage_error,
        model.temperature,
        model.available,
        UNDERFLOW,
        kernel.indptr,
        kernel.indices,
        kernel.data,
        discount,
        influence,
        influence_error,
        leak,
        arriving,
    )
    operator = follower.operator
    arrivals = operator.solve_transposed(arriving)
    balance = Flow(model, nothing, influence, soft.policy, discount, arrivals)
    step = operator.solve_transposed(balance.residual)
    balance.move(step)
    error = _measure_error(
        model, follower, operator, discount, balance, influence_error, leak, arrivals, step
    )
    slope = kernels.pair_measures(
        soft.policy,
        follower.error,
        soft.log_policy,
        soft.log_policy_error,
        model.available,
        leader.occupancy,
        leader.occupancy_error,
        arrivals,
        step,
        error,
        UNDERFLOW,
        LOST,
        visits,
        visits_error,
        influence,
        influence_error,
    )
    return _Pairs(visits, visits_error, influence, influence_error, *slope)


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
    pairs = _pairs(model, follower, leader)
    kernel = model.transition
    direct, indirect = np.empty((2, kernel.nnz))
    (total, errors), shift = np.zeros((2, kernel.nnz)), np.zeros(pairs.visits.shape)
    for slopes, discount, flow, flow_error, player in (
        (direct, model.leader_discount, pairs.visits, pairs.visits_error, leader),
        (indirect, model.follower_discount, pairs.influence, pairs.influence_error, follower),
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
            slopes,
            total,
            errors,
            shift,
        )
    parts = (
        Sensitivities.of(
            model, leader_reward=pairs.visits, transition=direct, initial=leader.value
        ),
        Sensitivities.of(
            model,
            follower_reward=pairs.influence,
            transition=indirect,
            temperature=pairs.temperature,
        ),
    )
    measures = Sensitivities.of(
        model,
        follower_reward=pairs.influence,
        leader_reward=pairs.visits,
        transition=total,
        initial=leader.value,
        temperature=pairs.temperature,
    )
    bounds = SensitivityBounds(
        follower_reward=_outward(pairs.influence_error),
        leader_reward=_outward(pairs.visits_error),
        transition=_outward(errors),
        transition_shift=_outward(shift),
        initial=_outward(leader.initial_error),
        initial_shift=_widened(leader.value_error.max()),
        temperature=_widened(pairs.temperature_error),
    )
    return _Centre(follower, leader, parts, measures, bounds)


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
        temperature=_widened(abs(stored.temperature - centre.temperature) + bounds.temperature),
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


def _outward(bounds: FloatArray) -> FloatArray:
    """Pay for the rounding of freshly made bounds, in place; what is no number bounds nothing."""
    kernels.outward(bounds.reshape(-1), OUTWARD, UNDERFLOW)
    return read_only(bounds)


def _widened(bound: float) -> float:
    """Do the same with a single one."""
    wider = float(bound) * OUTWARD
    return wider + UNDERFLOW if wider > 0.0 else 0.0 if wider == 0.0 else math.inf
