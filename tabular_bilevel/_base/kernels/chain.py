"""The chain of bounds, from a policy near the follower's to the measures: `doubled`, in one go."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from tabular_bilevel._base.arrays import BoolArray, FloatArray, IntArray
from tabular_bilevel._base.jit import elements, kernel, patient_chain, patient_kernel
from tabular_bilevel._base.kernels.doubled import (
    ROUNDOFF,
    action_reach,
    advantages,
    evaluate,
    flow_residual,
    influence_sources,
    measure_sources,
    moved_flow,
    moved_gaps,
    pair_measures,
    policy_errors,
    soft_policy,
    stray_residuals,
    value_gaps,
)

__all__ = ["centre", "least_patience", "lost", "shown_patience"]

#: (I - gamma P_policy)^-1, known approximately, and what its bounds are made of.
Operator: TypeAlias = Any

Entries: TypeAlias = tuple[IntArray, IntArray, FloatArray]
Policies: TypeAlias = tuple[FloatArray, ...]

# What a few products of bounds lose that underflow, before they are magnified.
LOST = 2.0**-990


@patient_kernel(elements)
def least_patience(contraction: float) -> float:
    """1 / (1 - contraction), or more."""
    return 1.0 / (1.0 - contraction) * (1.0 + 4.0 * ROUNDOFF) if contraction < 1.0 else np.inf


@patient_kernel(elements)
def shown_patience(
    indptr: IntArray,
    indices: IntArray,
    data: FloatArray,
    policy: FloatArray,
    aside: FloatArray,
    terms: float,
    steps: FloatArray,
) -> float:
    """Bound the row sums of (I - P_m)^-1 for all policies m within `aside` of this one.

    If z >= 0 and (I - P_m) z >= least > 0, these are M-matrices, and max z / least is a bound. As z
    serve the expected steps. An average over successors and actions has `terms` roundings.
    """
    n_states, n_actions = policy.shape
    least, most = np.inf, 0.0
    for s in range(n_states):
        ahead = 0.0
        for a in range(n_actions):
            row, after = s * n_actions + a, 0.0
            for k in range(indptr[row], indptr[row + 1]):
                after += data[k] * abs(steps[indices[k]])
            ahead += (policy[s, a] + aside[s, a]) * after
        here = abs(steps[s])
        left = here - ahead - 2.0 * terms * ROUNDOFF * (here + ahead)
        if not left >= least:  # a NaN stays
            least = left
        most = max(most, here)
    return most / least * (1.0 + 4.0 * ROUNDOFF) if least > 0.0 else np.inf


@kernel
def lost(patience: float, size: float) -> float:
    """Bound what underflows on the way through the inverse, unless all there is to carry is 0."""
    return LOST * patience if size != 0.0 else 0.0


# Literal numbers would be a type of their own, for which kernels are compiled anew.
@patient_kernel(lambda *arguments: arguments[2].size * arguments[3].size)
def times(table: FloatArray, start: Any, x: FloatArray, product: FloatArray) -> None:
    """Multiply rows of a table, from one on, with a vector, eight at a time: each sum waits."""
    n = x.size
    for first in range(start, start + product.size, 8):
        last = start + product.size - 1
        r0, r1 = table[first], table[min(first + 1, last)]
        r2, r3 = table[min(first + 2, last)], table[min(first + 3, last)]
        r4, r5 = table[min(first + 4, last)], table[min(first + 5, last)]
        r6, r7 = table[min(first + 6, last)], table[min(first + 7, last)]
        s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = 0.0
        for i in range(n):
            s0 += r0[i] * x[i]
            s1 += r1[i] * x[i]
            s2 += r2[i] * x[i]
            s3 += r3[i] * x[i]
            s4 += r4[i] * x[i]
            s5 += r5[i] * x[i]
            s6 += r6[i] * x[i]
            s7 += r7[i] * x[i]
        sums = (s0, s1, s2, s3, s4, s5, s6, s7)
        for k in range(min(8, last + 1 - first)):
            product[first - start + k] = sums[k]


@patient_kernel(lambda *arguments: arguments[5].size * (arguments[4] - arguments[3]))
def add_rows(
    table: FloatArray, start: Any, weights: FloatArray, begin: Any, end: int, total: FloatArray
) -> None:
    """Add up rows of a table, from one on, by the weights from `begin` to `end`, four at a time."""
    for k in range(begin, end, 4):
        here, last = start + k - begin, start + end - begin - 1
        w0, w1 = weights[k], weights[k + 1] if k + 1 < end else 0.0
        w2, w3 = weights[k + 2] if k + 2 < end else 0.0, weights[k + 3] if k + 3 < end else 0.0
        x0, x1 = table[here], table[min(here + 1, last)]
        x2, x3 = table[min(here + 2, last)], table[min(here + 3, last)]
        for i in range(total.size):
            total[i] += (w0 * x0[i] + w1 * x1[i]) + (w2 * x2[i] + w3 * x3[i])


@kernel
def operator_of(
    inverse: FloatArray,
    indptr: IntArray,
    indices: IntArray,
    data: FloatArray,
    policy: FloatArray,
    leak: FloatArray,
    aside: FloatArray,
    discount: float,
    contraction: float,
    terms: float,
) -> tuple[Operator, float]:
    """Verify an inverse: exact inverse - inverse = exact inverse (I - matrix inverse)."""
    n_states, n_actions = policy.shape
    sums, ones = np.empty(n_states), np.empty(n_states)
    reach = np.empty(((3 + n_actions) * n_states, n_states))
    action_reach(indptr, indices, data, policy, discount, inverse, sums, reach)
    most = 0.0
    for s in range(n_states):
        ones[s] = 1.0
        if not leak[s] <= most:  # rounding may have left the policy's sum above 1
            most = leak[s]
    patience = least_patience(contraction * (1.0 + most))
    if discount == 1.0 and not patience < np.inf:
        times(inverse, np.int64(0), ones, sums)
        patience = shown_patience(indptr, indices, data, policy, aside, terms, sums)
    times(reach, np.int64(0), ones, sums)
    off, rounding = largest(sums), terms * ROUNDOFF
    times(reach, n_states, ones, sums)
    size = largest(sums)
    off += 2.0 * rounding * (size + 1.0)
    exact = min(patience, size / (1.0 - off)) if off < 0.5 else patience
    return (inverse, reach, 2.0 * (exact * off + rounding * size), patience), patience


@kernel
def solve(operator: Operator, b: FloatArray) -> FloatArray:
    """Apply the inverse."""
    x = np.empty(b.size)
    times(operator[0], np.int64(0), b, x)
    return x


@kernel
def solve_transposed(operator: Operator, b: FloatArray) -> FloatArray:
    """Apply the transposed inverse."""
    x = np.empty(b.size)
    for s in range(b.size):
        x[s] = 0.0
    add_rows(operator[0], np.int64(0), b, np.int64(0), b.size, x)
    return x


@kernel
def values_of(
    operator: Operator,
    y: FloatArray,
    top: float,
    x: FloatArray,
    spread: FloatArray,
    ahead: FloatArray,
) -> None:
    """Bound as `_Factored.values` does, in certify/bounds.py."""
    _, reach, off, patience = operator
    n, n_actions = ahead.shape
    times(reach, n, y, x)
    times(reach, 2 * n, y, spread)
    times(reach, 3 * n, y, ahead.reshape(-1))
    more = 2.0 * (off * top + lost(patience, top))
    for s in range(n):
        x[s] += more
        spread[s] += more
        for a in range(n_actions):
            ahead[s, a] += more


@kernel
def measures_of(operator: Operator, sources: FloatArray, total: float, x: FloatArray) -> None:
    """Bound as `_Factored.measures` does, in certify/bounds.py."""
    _, reach, off, patience = operator
    n = x.size
    for s in range(n):
        x[s] = 2.0 * off * total + lost(patience, total)
    add_rows(reach, n, sources, np.int64(0), n, x)
    add_rows(reach, 3 * n, sources, n, sources.size, x)


@patient_kernel(elements)
def averaged(policy: FloatArray, table: FloatArray) -> FloatArray:
    """Average over the actions."""
    n_states, n_actions = policy.shape
    mean = np.empty(n_states)
    for s in range(n_states):
        mean[s] = 0.0
        for a in range(n_actions):
            mean[s] += policy[s, a] * table[s, a]
    return mean


@patient_kernel(elements)
def largest(numbers: FloatArray) -> float:
    """Largest of some numbers that are at least 0; a NaN stays."""
    most = 0.0
    for k in range(numbers.size):
        if not numbers[k] <= most:
            most = numbers[k]
    return most


@patient_kernel(elements)
def moved(x: FloatArray, step: FloatArray, error: FloatArray, total: FloatArray) -> float:
    """Add a step, and to what the sum is off by its rounding; return the sum's largest size."""
    most = 0.0
    for k in range(x.size):
        total[k] = x[k] + step[k]
        error[k] += ROUNDOFF * abs(total[k])
        most = max(most, abs(total[k]))
    return most


@kernel
def carried(
    operator: Operator,
    patience: float,
    entries: Entries,
    source: FloatArray,
    flow: FloatArray,
    flow_error: FloatArray,
    flow_leak: FloatArray,
    policies: Policies,
    discount: float,
    contraction: float,
    measure: FloatArray,
    measure_error: FloatArray,
) -> FloatArray:
    """Find a step that makes a measure better, and bound what their sum is off by.

    What flows is off by `flow_error`, of mass `flow_leak` at most.
    """
    policy, policy_error, leak, stored_policy, stored_leak, aside = policies
    n_states = measure.size
    residual, rest, error = np.empty(n_states), np.empty(n_states), np.empty(n_states)
    sources, scratch = np.empty(n_states + policy.size), np.empty((3, n_states))
    left = (residual, rest, error)
    flow_residual(*entries, source, flow, policy, discount, measure, *left, measure_error)
    step = solve_transposed(operator, residual)
    moved_flow(*entries, policy, discount, step, *left, scratch)
    total = measure_sources(
        residual,
        error,
        measure,
        step,
        flow_error,
        flow_leak,
        policy_error,
        leak,
        stored_policy,
        stored_leak,
        aside,
        contraction,
        patience,
        sources,
    )
    measures_of(operator, sources, total, measure_error)
    return step


@patient_chain
def centre(
    given: Any,
    leader_given: Any,
    entries: Entries,
    available: BoolArray,
    leader_reward: FloatArray,
    initial: FloatArray,
    discount: float,
    leader_discount: float,
    contraction: float,
    leader_contraction: float,
    temperature: float,
    terms: float,
    least: float,
    stored: FloatArray,
    gaps: tuple[FloatArray, FloatArray, FloatArray],
    stored_soft: tuple[FloatArray, FloatArray, FloatArray],
    rows: tuple[FloatArray, ...],
    spare: tuple[FloatArray, ...],
    states: tuple[FloatArray, ...],
    tables: tuple[FloatArray, ...],
    state_errors: tuple[FloatArray, ...],
    table_errors: tuple[FloatArray, ...],
) -> tuple[float, float, float, float, float, float, float]:
    """Refine the follower's value, evaluate, differentiate, and bound each number's error.

    `operator_of`, `solve`, `solve_transposed`, `values_of` and `measures_of` make the inverse of
    I - discount P_policy of what is `given`, apply it, and bound what errors come to in it. Here it
    is given as a matrix; Python puts a solver in their place. The gaps are those of `value_gaps` of
    the stored value; the policy, its residual and its leak are `soft_policy`'s of them.

    Filled are `states`, V_F, V_L and d_L; `tables`, pi, Q_F, Q_L, d_L pi and mu; `state_errors`, of
    V_F, V_L, d_L and the derivative in the initial distribution, and of V_F and V_L but for what
    all states share; `table_errors`, of pi, Q_F, d_L pi and mu. `rows` and `spare` are 0.
    Returns the largest residual, the largest error of V_F, the objective and its error, the largest
    error of V_L, and dJ/d(temperature) and its error.
    """
    gap, _, gap_error = gaps
    stored_policy, stored_residual, stored_leak = stored_soft
    value, leader_value, occupancy = states
    policy, action_value, leader_action_value, visits, influence = tables
    value_error, leader_error, occupancy_error, initial_error, value_spread, spread = state_errors
    policy_error, action_value_error, visits_error, influence_error = table_errors
    residual, residual_error, leak, stray, bound, arriving, arriving_error, nothing = rows
    (
        log_error,
        floor,
        log_policy,
        log_policy_error,
        aside,
        advantage,
        advantage_error,
        ahead,
        no_flow,
    ) = spare

    # the follower
    operator, patience = operator_of(
        given, *entries, stored_policy, stored_leak, aside, discount, contraction, terms
    )
    correction = solve(operator, stored_residual)
    moved_gaps(*entries, available, discount, correction, *gaps)
    soft_policy(
        gap,
        gap_error,
        available,
        temperature,
        policy,
        log_error,
        floor,
        log_policy,
        log_policy_error,
        residual,
        residual_error,
        leak,
    )
    left, top = stray_residuals(
        policy,
        log_error,
        floor,
        stored_policy,
        residual,
        residual_error,
        temperature,
        contraction * least_patience(contraction),
        aside,
        stray,
        bound,
    )
    values_of(operator, bound, top, value_error, value_spread, ahead)
    value_top = largest(value_error)
    policy_errors(
        policy,
        log_error,
        floor,
        leak,
        available,
        gap,
        gap_error,
        stored,
        correction,
        contraction * value_top + LOST,
        ahead,
        stray,
        temperature,
        aside,
        log_policy_error,
        policy_error,
        action_value,
        action_value_error,
    )
    left += 2.0 * ROUNDOFF * moved(stored, correction, value_error, value)  # as it is rounded
    policies = (policy, policy_error, leak, stored_policy, stored_leak, aside)

    # the leader
    leader, leader_patience = operator, patience
    if leader_discount != discount:
        leader, leader_patience = operator_of(
            leader_given,
            *entries,
            stored_policy,
            stored_leak,
            aside,
            leader_discount,
            leader_contraction,
            terms,
        )
    rough = solve(leader, averaged(policy, leader_reward))
    value_gaps(*entries, leader_reward, available, leader_discount, rough, *gaps)
    correction = solve(leader, averaged(policy, gap))
    moved_gaps(*entries, available, leader_discount, correction, *gaps)
    top = advantages(
        gap,
        gap_error,
        policy,
        policy_error,
        aside,
        leader_contraction * leader_patience,
        residual,
        advantage,
        advantage_error,
    )
    values_of(leader, residual, top, leader_error, spread, ahead)
    leader_top = largest(leader_error)
    objective, objective_error = evaluate(
        initial,
        gap,
        available,
        rough,
        correction,
        leader_error,
        spread,
        ahead,
        advantage_error,
        leader_value,
        initial_error,
        leader_action_value,
    )
    moved(rough, correction, leader_error, leader_value)
    measure = solve_transposed(leader, initial)
    step = carried(
        leader,
        leader_patience,
        entries,
        initial,
        no_flow,
        no_flow,
        nothing,
        policies,
        leader_discount,
        leader_contraction,
        measure,
        occupancy_error,
    )
    moved(measure, step, occupancy_error, occupancy)

    # the influence
    influence_sources(
        policy,
        policy_error,
        occupancy,
        occupancy_error,
        advantage,
        advantage_error,
        temperature,
        available,
        least,
        *entries,
        discount,
        influence,
        influence_error,
        arriving_error,
        arriving,
    )
    measure = solve_transposed(operator, arriving)
    step = carried(
        operator,
        patience,
        entries,
        nothing,
        influence,
        influence_error,
        arriving_error,
        policies,
        discount,
        contraction,
        measure,
        bound,
    )
    slope, slope_error = pair_measures(
        policy,
        policy_error,
        log_policy,
        log_policy_error,
        available,
        occupancy,
        occupancy_error,
        measure,
        step,
        bound,
        least,
        LOST,
        visits,
        visits_error,
        influence,
        influence_error,
    )
    return left, value_top, objective, objective_error, leader_top, slope, slope_error
