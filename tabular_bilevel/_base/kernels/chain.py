"""The chain of bounds, from a value near the follower's to the measures, in one go."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np

from tabular_bilevel._base.arrays import BoolArray, FloatArray, IntArray
from tabular_bilevel._base.jit import elements, kernel, patient_chain, patient_kernel
from tabular_bilevel._base.kernels.doubled import ROUNDOFF, two_sum
from tabular_bilevel._base.kernels.policies import move_policy, policy_errors, soft_policy
from tabular_bilevel._base.kernels.residuals import (
    advantages,
    evaluate,
    flow_residual,
    influence_sources,
    left_over,
    move_flow,
    move_gaps,
    pair_measures,
    value_gaps,
)
from tabular_bilevel._base.kernels.solve import factor_band, solve_band_transposed, solve_factors

__all__ = ["centre", "least_patience", "lost", "shown_patience"]

#: (I - gamma P_policy)^-1, approximately.
Operator: TypeAlias = Any

Entries: TypeAlias = tuple[IntArray, IntArray, FloatArray]

# What a few products of bounds lose that underflow, before they are magnified.
LOST = 2.0**-990

# A step of a value that is so small beside the temperature, or the advantages, moves what depends
# on it by what float64 knows well enough.
NEAR = 2.0**-26

# Steps of refinement at most, and what is small enough beside the temperature, or an advantage.
STEPS, ENOUGH = 8, 2.0**-80

# Expected steps beyond which the chance to end is lost: it is 1 less the sum of the other chances.
MOST_STEPS = 1.0 / ROUNDOFF


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
        if left < least or math.isnan(left):  # a NaN stays
            least = left
        most = max(most, here)
    return most / least * (1.0 + 4.0 * ROUNDOFF) if least > 0.0 else np.inf


@kernel
def lost(patience: float, size: float) -> float:
    """Bound what underflows on the way through the inverse, unless all there is to carry is 0."""
    return LOST * patience if size != 0.0 else 0.0


@patient_kernel(lambda given, *others: 4 * others[3].shape[0] * (given[1] + 4) ** 2)
def operator_of(
    given: Any,
    indptr: IntArray,
    indices: IntArray,
    data: FloatArray,
    policy: FloatArray,
    discount: float,
) -> Operator:
    """Factor I - discount P_policy within the band given."""
    place, width = given
    n_states, n_actions = policy.shape
    weights, band = np.empty(data.size), np.empty((n_states, 2 * width + 1))
    for s in range(n_states):
        for a in range(n_actions):
            row = s * n_actions + a
            for k in range(np.uint64(indptr[row]), np.uint64(indptr[row + 1])):
                weights[k] = policy[s, a] * data[k]
    factor_band(indptr, indices, weights, discount, place, band)
    return place.copy(), band, np.empty(n_states)  # no argument is returned: see `kernel`


@kernel
def put(place: IntArray, b: FloatArray, placed: FloatArray) -> None:
    """Put the states' numbers at their places in the band."""
    for s in range(b.size):
        placed[place[s]] = b[s]


@kernel
def of_states(place: IntArray, placed: FloatArray) -> FloatArray:
    """Take the states' numbers from their places."""
    x = np.empty(placed.size)
    for s in range(placed.size):
        x[s] = placed[place[s]]
    return x


@patient_kernel(lambda operator, b: 4 * operator[1].size)
def solve(operator: Operator, b: FloatArray) -> FloatArray:
    """Apply the inverse."""
    place, band, x = operator
    put(place, b, x)
    solve_factors(band, x)
    return of_states(place, x)


@patient_kernel(lambda operator, b: 4 * operator[1].size)
def solve_transposed(operator: Operator, b: FloatArray) -> FloatArray:
    """Apply the transposed inverse."""
    place, band, x = operator
    put(place, b, x)
    solve_band_transposed(band, x)
    return of_states(place, x)


@patient_kernel(elements)
def keep(numbers: FloatArray, kept: FloatArray) -> None:
    """Copy numbers; in slices it takes seconds to compile."""
    for k in range(numbers.size):
        kept[k] = numbers[k]


@patient_kernel(elements)
def averaged(policy: FloatArray, table: FloatArray) -> FloatArray:
    """Average over the actions."""
    n_states, n_actions = policy.shape
    mean = np.zeros(n_states)
    for a in range(n_actions):
        for s in range(n_states):
            mean[s] += policy[s, a] * table[s, a]
    return mean


@patient_kernel(elements)
def by_action(table: Any, turned: Any) -> None:
    """Copy a table into one that lies action by action."""
    n_states, n_actions = table.shape
    for s in range(n_states):
        for a in range(n_actions):
            turned[s, a] = table[s, a]


@patient_kernel(elements)
def largest(numbers: FloatArray, errors: FloatArray) -> tuple[float, float]:
    """Find the largest size, and the largest with its error; a NaN stays."""
    most, at_most = 0.0, 0.0
    for k in range(numbers.size):
        size = abs(numbers[k])
        most = max(most, size)
        size += errors[k]
        if size > at_most or math.isnan(size):
            at_most = size
    return most, at_most


@kernel
def is_idle(size: float, at_most: float, before: float) -> bool:
    """Say whether a step more is: its errors weigh as much as a residual, or the last one was."""
    return not (at_most < 0.5 * before and at_most < 2.0 * size)


@patient_kernel(elements)
def step_on(number: FloatArray, low: FloatArray, step: FloatArray) -> tuple[float, float]:
    """Add a step to what is the sum of two numbers; return its largest size, and their sum."""
    most, length = 0.0, 0.0
    for k in range(number.size):
        total, lost = two_sum(number[k], step[k])
        number[k], low[k] = two_sum(total, lost + low[k])
        most = max(most, abs(step[k]))
        length += abs(step[k])
    return most, length


@patient_kernel(elements)
def rounded(number: FloatArray, off: float, error: FloatArray) -> float:
    """Bound what is off by so much and has been rounded; return the largest size."""
    most = 0.0
    for k in range(number.size):
        error[k] = off + ROUNDOFF * abs(number[k])
        most = max(most, abs(number[k]))
    return most


@kernel
def carried(
    operator: Operator,
    patience: float,
    entries: Entries,
    source: FloatArray,
    arriving: FloatArray,
    flow: FloatArray,
    flow_rest: FloatArray,
    flow_error: float,
    policy: FloatArray,
    low: FloatArray,
    policy_error: FloatArray,
    discount: float,
    contraction: float,
    count: FloatArray,
    residual: FloatArray,
    rest: FloatArray,
) -> tuple[FloatArray, FloatArray, float]:
    """Find m = source + discount P^T (flow + policy m), of two numbers, and bound its error's sum.

    What flows is off by `flow_error`, all together, and what it comes to is nearly `arriving`.
    `count` pairs flow into each state; `residual` and `rest` are room.
    """
    measure, measure_low = solve_transposed(operator, arriving), np.zeros(source.size)
    before, off, error, size, length, change = np.inf, np.inf, 0.0, 0.0, np.inf, residual
    for step in range(STEPS):
        if patience * length <= NEAR * size:
            error = move_flow(
                *entries, policy, discount, contraction, change, count, residual, error
            )
        else:
            error = flow_residual(
                *entries, source, flow, flow_rest, policy, low, discount, measure, measure_low,
                count, residual, rest,
            )  # fmt: skip
        size, total, turned = left_over(residual, measure, policy_error)
        total += error
        off = (total + contraction * (turned + flow_error)) * patience
        if step == STEPS - 1 or patience * total <= ENOUGH * size or not total < 0.5 * before:
            break
        before = total
        change = solve_transposed(operator, residual)
        _, length = step_on(measure, measure_low, change)
    return measure, measure_low, off + lost(patience, off)


@patient_kernel(elements)
def count_arrivals(indices: IntArray, count: FloatArray) -> None:
    """Count the pairs that may lead to each state."""
    for s in range(count.size):
        count[s] = 0.0
    for k in range(indices.size):
        count[np.uint64(indices[k])] += 1.0


@patient_chain
def centre(
    given: Any,
    entries: Entries,
    available: BoolArray,
    follower_reward: FloatArray,
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
    states: FloatArray,
    tables: FloatArray,
    state_errors: FloatArray,
    table_errors: FloatArray,
) -> tuple[float, float, float, float, float, float]:
    """Refine the follower's value, evaluate, differentiate, and bound each number's error.

    `operator_of`, `solve` and `solve_transposed` factor I - discount P_policy in a band that is
    given, and solve. Python puts another solver in their place.

    Filled are `states`, V_F, V_L and d_L; `tables`, pi, Q_F, Q_L, mu and d_L pi; `state_errors`, of
    V_F, V_L and d_L; `table_errors`, of pi, Q_F, mu and d_L pi. On the way, tables lie action by
    action.
    Returns the largest residual, the objective and its error, the largest error of V_L but for its
    rounding, and dJ/d(temperature) and its error.
    """
    value, leader_value, occupancy = states[0], states[1], states[2]
    value_error, leader_error, occupancy_error = state_errors[0], state_errors[1], state_errors[2]
    n_states, n_actions = follower_reward.shape
    spare = np.empty((15, n_actions, n_states))
    gap, rest, gap_error, low = spare[0].T, spare[1].T, spare[2].T, spare[3].T
    log_error, floor, log_policy, log_policy_error = spare[4].T, spare[5].T, spare[6].T, spare[7].T
    advantage, advantage_rest, advantage_error = spare[8].T, spare[9].T, spare[10].T
    policy, policy_error = spare[11].T, spare[12].T
    reward, earned = spare[13].T, spare[14].T
    possible = np.empty((n_actions, n_states), np.bool_).T
    by_action(follower_reward, reward)
    by_action(leader_reward, earned)
    by_action(available, possible)
    residual, residual_error, start = np.empty(n_states), np.empty(n_states), np.empty(n_states)
    scratch, best = np.empty((10, n_states)), np.empty(n_states, np.int64)
    zero, nothing = np.zeros((n_actions, n_states)).T, np.zeros(n_states)
    value_low, leader_low = np.zeros(n_states), np.zeros(n_states)
    gaps, found = (gap, rest, gap_error), (policy, low, log_error, floor, log_policy)
    moved, change = advantage, nothing  # until then
    count = np.empty(n_states)
    count_arrivals(entries[1], count)

    # the follower
    keep(stored, value)
    patience, left, value_top, longest = least_patience(contraction), np.inf, np.inf, np.inf
    for step in range(STEPS):
        if (patience + 16.0) * longest <= NEAR * temperature:
            move_gaps(*entries, possible, discount, change, *gaps, moved)
            move_policy(
                moved, gap_error, possible, temperature, *found, log_policy_error, residual,
                residual_error, best, scratch,
            )  # fmt: skip
        else:
            value_gaps(*entries, reward, possible, discount, value, value_low, *gaps)
            soft_policy(
                *gaps, possible, temperature, *found, log_policy_error, residual, residual_error,
                best, scratch,
            )  # fmt: skip
        before = left
        size, left = largest(residual, residual_error)
        value_top = left * patience + lost(patience, left)
        enough = value_top <= ENOUGH * temperature or is_idle(size, left, before)
        if (step > 0 and enough) or step == STEPS - 1:
            break
        if step == 0:
            operator = leader = operator_of(given, *entries, policy, discount)
            if leader_discount != discount:
                leader = operator_of(given, *entries, policy, leader_discount)
        change = solve(operator, residual)
        longest, _ = step_on(value, value_low, change)
    policy_errors(
        policy,
        log_error,
        floor,
        possible,
        gap,
        gap_error,
        value,
        contraction * value_top + LOST,
        temperature,
        log_policy_error,
        policy_error,
        tables[1],
        table_errors[1],
        scratch[0],
    )
    left += 2.0 * ROUNDOFF * rounded(value, value_top, value_error)

    # the leader
    leader_patience = least_patience(leader_contraction)
    keep(solve(leader, averaged(policy, earned)), leader_value)
    if leader_discount == 1.0 and not leader_patience < np.inf:
        for s in range(n_states):
            scratch[0, s] = 1.0
            for a in range(n_actions):
                advantage[s, a] = policy_error[s, a] + abs(low[s, a])
        steps = solve(leader, scratch[0])
        for s in range(n_states):
            if not 0.0 < steps[s] < MOST_STEPS:
                leader_value[s] = np.nan  # play is to end, and in float64 does not
        leader_patience = shown_patience(*entries, policy, advantage, terms, steps)
    top, leader_top, most, longest = np.inf, np.inf, 0.0, np.inf
    for step in range(STEPS):
        if leader_patience * longest <= NEAR * most:
            move_gaps(*entries, possible, leader_discount, change, *gaps, moved)
        else:
            value_gaps(*entries, earned, possible, leader_discount, leader_value, leader_low, *gaps)
        before = top
        most = advantages(
            *gaps, policy, low, policy_error, residual, advantage, advantage_rest, advantage_error,
            residual_error, scratch,
        )  # fmt: skip
        size, top = largest(residual, residual_error)
        leader_top = top * leader_patience + lost(leader_patience, top)
        enough = leader_top <= ENOUGH * most or is_idle(size, top, before)
        if enough or step == STEPS - 1:
            break
        change = solve(leader, residual)
        longest, _ = step_on(leader_value, leader_low, change)
    objective, objective_error = evaluate(
        initial,
        gap,
        possible,
        leader_value,
        leader_low,
        leader_top,
        tables[2],
    )
    rounded(leader_value, leader_top, leader_error)
    keep(initial, start)  # not read-only: what is called is compiled once
    measure, measure_low, off = carried(
        leader,
        leader_patience,
        entries,
        start,
        start,
        zero,
        zero,
        0.0,
        policy,
        low,
        policy_error,
        leader_discount,
        leader_contraction,
        count,
        residual,
        residual_error,
    )
    keep(measure, occupancy)
    rounded(occupancy, off, occupancy_error)

    # the influence, whose sources take the place of gaps
    flow_error = influence_sources(
        policy,
        low,
        policy_error,
        measure,
        measure_low,
        off,
        advantage,
        advantage_rest,
        advantage_error,
        2.0 * leader_contraction * leader_top,
        temperature,
        possible,
        least,
        *entries,
        discount,
        *gaps,
        residual,
        best,
        scratch,
    )
    measure, measure_low, off = carried(
        operator,
        patience,
        entries,
        nothing,
        residual,
        gap,
        rest,
        flow_error,
        policy,
        low,
        policy_error,
        discount,
        contraction,
        count,
        scratch[0],
        scratch[1],
    )
    slope, slope_error = pair_measures(
        policy,
        low,
        policy_error,
        log_policy,
        log_policy_error,
        possible,
        occupancy,
        occupancy_error,
        measure,
        off,
        least,
        LOST,
        gap,
        gap_error,
        tables[0],
        table_errors[0],
        tables[4],
        table_errors[3],
        tables[3],
        table_errors[2],
    )
    return left, objective, objective_error, leader_top, slope, slope_error
