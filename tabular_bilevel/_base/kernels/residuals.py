"""Kernels of bounds: residuals and sources of the equations, with twice float64's digits."""

from __future__ import annotations

import math

import numpy as np

from tabular_bilevel._base.arrays import BoolArray, FloatArray, IntArray
from tabular_bilevel._base.jit import elements, kernel, patient_kernel
from tabular_bilevel._base.kernels.doubled import (
    DOUBLED,
    ROUNDOFF,
    UNDERFLOW,
    likeliest_actions,
    product_of,
    quick_sum,
    quotient,
    two_product,
    two_sum,
)

__all__ = [
    "advantages", "evaluate", "flow_residual", "influence_sources", "move_flow", "move_gaps",
    "pair_measures", "slope_errors", "value_gaps",
]  # fmt: skip


@patient_kernel(lambda *arguments: 40 * arguments[2].size)
def value_gaps(
    indptr: IntArray,
    indices: IntArray,
    data: FloatArray,
    reward: FloatArray,
    available: BoolArray,
    discount: float,
    value: FloatArray,
    low: FloatArray,
    gap: FloatArray,
    rest: FloatArray,
    error: FloatArray,
) -> None:
    """Compute r + discount P v - v(s) with twice float64's digits, as the sum of gap and rest.

    v is the sum of value and low, a rounding of it. With n terms the gaps are off by less than
    (n + 5)^2 roundings squared, relative to the terms' sizes: that is `error`. 0 where an action is
    unavailable.
    """
    n_states, n_actions = reward.shape
    for s in range(n_states):
        for a in range(n_actions):
            gap[s, a] = rest[s, a] = error[s, a] = 0.0
            if not available[s, a]:
                continue
            row = s * n_actions + a
            first, last = np.uint64(indptr[row]), np.uint64(indptr[row + 1])
            high, more, size, around = 0.0, 0.0, 0.0, 0.0
            for k in range(first, last):
                j = np.uint64(indices[k])  # no sign to look at
                ahead = value[j]
                around += abs(ahead)
                product, slip = two_product(data[k], ahead)
                high, lost = two_sum(high, product)
                more += lost + (slip + data[k] * low[j])
                size += abs(product)
            n, here = last - first + 5.0, abs(reward[s, a]) + abs(value[s])
            gap[s, a], rest[s, a] = high, more
            error[s, a] = n * n * (ROUNDOFF * ROUNDOFF) * (discount * size + here)
            if around + here > 0.0:
                error[s, a] += n * UNDERFLOW
    for a in range(n_actions):
        for s in range(n_states):
            high, slip = two_product(discount, gap[s, a])
            more = discount * rest[s, a] + slip
            high, lost = two_sum(high, reward[s, a])
            more += lost
            high, lost = two_sum(high, -value[s])
            high, more = two_sum(high, more + (lost - low[s]))  # best_actions compares both
            gap[s, a] = high if available[s, a] else 0.0
            rest[s, a] = more if available[s, a] else 0.0


@patient_kernel(lambda *arguments: 20 * arguments[2].size)
def move_gaps(
    indptr: IntArray,
    indices: IntArray,
    data: FloatArray,
    available: BoolArray,
    discount: float,
    step: FloatArray,
    gap: FloatArray,
    rest: FloatArray,
    error: FloatArray,
    moved: FloatArray,
) -> None:
    """Let gaps, as of `value_gaps`, follow a value that went a step: by discount P step - step(s).

    `moved` is that in plain float64, which is enough where steps are small. What `step_on` rounds
    is less than the gaps' error was.
    """
    n_states, n_actions = gap.shape
    for s in range(n_states):
        here = abs(step[s])
        for a in range(n_actions):
            moved[s, a] = 0.0
            if not available[s, a]:
                continue
            row = s * n_actions + a
            first, last = np.uint64(indptr[row]), np.uint64(indptr[row + 1])
            ahead, size = 0.0, 0.0
            for k in range(first, last):
                part = data[k] * step[np.uint64(indices[k])]
                ahead += part
                size += abs(part)
            moved[s, a] = ahead
            n = last - first + 5.0
            off = n * ROUNDOFF * (discount * size + here)
            error[s, a] = 2.0 * error[s, a] + off + n * UNDERFLOW
    for a in range(n_actions):
        for s in range(n_states):
            change = discount * moved[s, a] - step[s] if available[s, a] else 0.0
            high, lost = two_sum(gap[s, a], change)
            gap[s, a], rest[s, a] = quick_sum(high, lost + rest[s, a])
            moved[s, a] = change


@patient_kernel(lambda *arguments: 40 * arguments[2].size)
def flow_residual(
    indptr: IntArray,
    indices: IntArray,
    data: FloatArray,
    source: FloatArray,
    flow: FloatArray,
    flow_rest: FloatArray,
    policy: FloatArray,
    policy_rest: FloatArray,
    discount: float,
    measure: FloatArray,
    low: FloatArray,
    count: FloatArray,
    residual: FloatArray,
    rest: FloatArray,
) -> float:
    """Compute source + discount P^T (flow + policy m) - m with twice float64's digits, then round.

    So many have flow, policy and m, the sum of measure and low. `count` pairs flow into each state.
    `rest`, of length S, is room. Returns what all residuals together are off by.
    """
    n_states, n_actions = policy.shape
    for s in range(n_states):
        residual[s] = rest[s] = 0.0
    size, terms = 0.0, 0.0
    for s in range(n_states):
        here = measure[s]
        for a in range(n_actions):
            chance, moved = policy[s, a], flow[s, a]
            if moved == 0.0 and (chance == 0.0 or here == 0.0):
                continue
            product, slip = two_product(chance, here)
            leaving, lost = two_sum(moved, product)
            extra = lost + (slip + (policy_rest[s, a] * here + chance * low[s]) + flow_rest[s, a])
            row, weight = s * n_actions + a, 0.0  # as many squared roundings as arrive
            first, last = np.uint64(indptr[row]), np.uint64(indptr[row + 1])
            for k in range(first, last):
                j, p = np.uint64(indices[k]), data[k]
                product, slip = two_product(p, leaving)
                residual[j], lost = two_sum(residual[j], product)
                rest[j] += lost + (slip + p * extra)
                weight += p * (count[j] + 9.0) * (count[j] + 9.0)
            size += weight * (abs(moved) + abs(chance * here))
            terms += last - first
    size *= discount
    left = 0.0
    for s in range(n_states):
        here, start = measure[s], source[s]
        high, slip = two_product(discount, residual[s])
        more = discount * rest[s] + slip
        high, slip = two_sum(high, start)
        more += slip
        high, slip = two_sum(high, -here)
        residual[s] = high + (more + (slip - low[s]))
        size += (abs(start) + abs(here)) * (count[s] + 9.0) * (count[s] + 9.0)
        left += abs(residual[s])
    error = ROUNDOFF * ROUNDOFF * size + ROUNDOFF * left
    if size > 0.0 or (discount > 0.0 and terms > 0.0):
        error += (terms + 9.0 * n_states) * UNDERFLOW
    return error


@patient_kernel(lambda *arguments: 20 * arguments[2].size)
def move_flow(
    indptr: IntArray,
    indices: IntArray,
    data: FloatArray,
    policy: FloatArray,
    discount: float,
    contraction: float,
    step: FloatArray,
    count: FloatArray,
    residual: FloatArray,
    error: float,
) -> float:
    """Let a residual, as of `flow_residual`, follow a measure that went a step, in plain float64.

    That is by discount P^T (policy step) - step. Returns what all residuals are off by then.
    """
    n_states, n_actions = policy.shape
    size, most = 0.0, 0.0
    for s in range(n_states):
        most = max(most, count[s])
        size += (1.0 + contraction) * abs(step[s]) + abs(residual[s])
        residual[s] -= step[s]
    for s in range(n_states):
        here = discount * step[s]
        for a in range(n_actions):
            leaving = policy[s, a] * here
            if leaving != 0.0:
                row = s * n_actions + a
                for k in range(np.uint64(indptr[row]), np.uint64(indptr[row + 1])):
                    residual[np.uint64(indices[k])] += data[k] * leaving
    rounding = ROUNDOFF * size + n_states * n_actions * UNDERFLOW
    return 2.0 * error + (most + 9.0) * rounding if size > 0.0 else 2.0 * error


@patient_kernel(elements)
def slope_errors(
    indptr: IntArray,
    indices: IntArray,
    data: FloatArray,
    discount: float,
    flow: FloatArray,
    flow_error: FloatArray,
    value: FloatArray,
    spread: FloatArray,
    slopes: FloatArray,
    total: FloatArray,
    errors: FloatArray,
    shift: FloatArray,
) -> None:
    """Compute discount flow(s,a) value(s'), the slopes; add them up, and what they are off by.

    The flow is off by `flow_error`, the value by `spread`. What all entries of a row share is added
    to `shift`.
    """
    n_states, n_actions = flow.shape
    for s in range(n_states):
        for a in range(n_actions):
            row = s * n_actions + a
            first, last = np.uint64(indptr[row]), np.uint64(indptr[row + 1])
            mean, mass = 0.0, 0.0
            for k in range(first, last):
                mean += data[k] * value[np.uint64(indices[k])]
                mass += data[k]
            mean = mean / mass if mass > 0.0 else 0.0
            leaving = discount * flow[s, a]
            off = discount * flow_error[s, a]
            at_most = abs(leaving) * (1.0 + 4.0 * ROUNDOFF) + off
            if discount > 0.0 and (flow[s, a] != 0.0 or flow_error[s, a] > 0.0):
                off += UNDERFLOW
                at_most += UNDERFLOW
            shift[s, a] += off * abs(mean)
            for k in range(first, last):
                j = np.uint64(indices[k])
                ahead = value[j]
                slopes[k] = leaving * ahead
                total[k] += slopes[k]
                # with the slope's rounding, and that of the value where the flow is off
                rounding = ROUNDOFF * (6.0 * abs(slopes[k]) + off * abs(ahead))
                more = off * abs(ahead - mean) + at_most * spread[j]
                errors[k] += more + rounding + UNDERFLOW * (1.0 + abs(ahead))


@kernel
def mean_gaps(
    gap: FloatArray,
    rest: FloatArray,
    error: FloatArray,
    policy: FloatArray,
    low: FloatArray,
    policy_error: FloatArray,
    rounding: float,
    mean: FloatArray,
    mean_rest: FloatArray,
    off: FloatArray,
    around: FloatArray,
) -> None:
    """Average gaps over the actions, with errors; `around` is 0 where there is nothing."""
    n_states, n_actions = gap.shape
    for s in range(n_states):
        mean[s] = mean_rest[s] = off[s] = around[s] = 0.0
    for a in range(n_actions):
        for s in range(n_states):
            here, chance, unsure = gap[s, a], policy[s, a], error[s, a]
            part, slip = two_product(chance, here)
            mean[s], lost = two_sum(mean[s], part)
            mean_rest[s] += lost + (slip + (chance * rest[s, a] + low[s, a] * here))
            off[s] += chance * (unsure + rounding * abs(here))
            off[s] += policy_error[s, a] * (abs(here) + unsure)
            around[s] += abs(here) + unsure


@kernel
def less_mean(
    gap: FloatArray,
    rest: FloatArray,
    error: FloatArray,
    policy: FloatArray,
    mean: FloatArray,
    mean_rest: FloatArray,
    off: FloatArray,
    advantage: FloatArray,
    advantage_rest: FloatArray,
    advantage_error: FloatArray,
    most: FloatArray,
) -> None:
    """Take the mean off gaps; `most` is a state's largest advantage, times its probability."""
    n_states, n_actions = gap.shape
    for s in range(n_states):
        most[s] = 0.0
    for a in range(n_actions):
        for s in range(n_states):
            high, lost = two_sum(gap[s, a], -mean[s])
            high, lost = quick_sum(high, lost + (rest[s, a] - mean_rest[s]))
            weight, size = abs(gap[s, a]) + abs(mean[s]), policy[s, a] * abs(high)
            advantage[s, a], advantage_rest[s, a] = high, lost
            advantage_error[s, a] = error[s, a] + DOUBLED * weight + off[s]
            most[s] = size if size > most[s] else most[s]


@patient_kernel(elements)
def advantages(
    gap: FloatArray,
    rest: FloatArray,
    error: FloatArray,
    policy: FloatArray,
    low: FloatArray,
    policy_error: FloatArray,
    residual: FloatArray,
    advantage: FloatArray,
    advantage_rest: FloatArray,
    advantage_error: FloatArray,
    residual_error: FloatArray,
    scratch: FloatArray,
) -> float:
    """Turn gaps Q(s,a) - V(s), each off by `error`, into advantages and V's residual, their mean.

    Gaps, policy and advantages are the sums of two numbers each; the policy is off by
    `policy_error`. To the errors of the advantages, what V is off by is still to be added.
    `scratch`, of shape (4, S), is room. Returns the largest advantage, times its probability.
    """
    n_states, n_actions = gap.shape
    mean_rest, off, around, most = scratch[0], scratch[1], scratch[2], scratch[3]
    rounding = (n_actions + 2.0) * (n_actions + 2.0) * DOUBLED
    mean_gaps(
        gap, rest, error, policy, low, policy_error, rounding, residual, mean_rest, off, around
    )
    for s in range(n_states):
        off[s] += UNDERFLOW if around[s] > 0.0 else 0.0
        residual[s], mean_rest[s] = quick_sum(residual[s], mean_rest[s])
        residual_error[s] = off[s] + ROUNDOFF * abs(residual[s])
    less_mean(
        gap, rest, error, policy, residual, mean_rest, off, advantage, advantage_rest,
        advantage_error, most,
    )  # fmt: skip
    largest = 0.0
    for s in range(n_states):
        largest = max(largest, most[s])
    return largest


@patient_kernel(elements)
def evaluate(
    start: FloatArray,
    gap: FloatArray,
    available: BoolArray,
    value: FloatArray,
    low: FloatArray,
    value_error: float,
    action_value: FloatArray,
) -> tuple[float, float]:
    """Weigh a value, the sum of two numbers and off by `value_error`, at the start.

    Returns the objective, and what it is off by.
    """
    n_states, n_actions = gap.shape
    objective, rest, error = 0.0, 0.0, 0.0
    for s in range(n_states):
        for a in range(n_actions):
            action_value[s, a] = gap[s, a] + value[s] if available[s, a] else 0.0
        if start[s] > 0.0:
            product, slip = two_product(start[s], value[s])
            total, lost = two_sum(objective, product)
            objective, rest = two_sum(total, rest + (slip + (lost + start[s] * low[s])))
            error += start[s] * (value_error + n_states * DOUBLED * abs(value[s]))
            if value[s] != 0.0 or value_error != 0.0:
                error += UNDERFLOW
    objective += rest
    return objective, error + ROUNDOFF * abs(objective)


@kernel
def sources(
    policy: FloatArray,
    low: FloatArray,
    policy_error: FloatArray,
    measure: FloatArray,
    measure_low: FloatArray,
    measure_error: float,
    advantage: FloatArray,
    advantage_rest: FloatArray,
    advantage_error: FloatArray,
    ahead_error: float,
    temperature: float,
    available: BoolArray,
    best: IntArray,
    least: float,
    source: FloatArray,
    source_rest: FloatArray,
    source_error: FloatArray,
    total: FloatArray,
    total_rest: FloatArray,
    total_error: FloatArray,
    all_off: FloatArray,
    turned: FloatArray,
) -> None:
    """Compute w of all but the likeliest actions, and the sums of them and of their errors."""
    n_states, n_actions = policy.shape
    for s in range(n_states):
        total[s] = total_rest[s] = total_error[s] = all_off[s] = turned[s] = 0.0
    each = (n_actions + 6.0) * (n_actions + 6.0)
    for a in range(n_actions):
        for s in range(n_states):
            chance, off, here = policy[s, a], policy_error[s, a], measure[s]
            lasting = abs(here) + abs(measure_low[s])
            unsure = advantage_error[s, a] + ahead_error
            better = abs(advantage[s, a]) + unsure
            other = available[s, a] and best[s] != a and better != 0.0
            w, rest = product_of(chance, low[s, a], advantage[s, a], advantage_rest[s, a])
            w, rest = product_of(w, rest, here, measure_low[s])
            w, rest = quotient(w, rest, temperature, 0.0)
            likely = (chance + off) * better if other else 0.0
            off = lasting * (off * better + chance * unsure)
            off += UNDERFLOW * (1.0 + lasting) * (1.0 + better)
            off = off if other else 0.0
            w, rest = w if other else 0.0, rest if other else 0.0
            rounding, floor = DOUBLED * abs(w), least if other else 0.0
            source[s, a], source_rest[s, a] = w, rest
            source_error[s, a] = (off + measure_error * likely) / temperature
            source_error[s, a] += 4.0 * rounding + floor
            total[s], lost = two_sum(total[s], w)
            total_rest[s] += lost + rest
            total_error[s] += each * rounding + floor
            all_off[s] += off
            turned[s] += likely


@patient_kernel(elements)
def influence_sources(
    policy: FloatArray,
    low: FloatArray,
    policy_error: FloatArray,
    measure: FloatArray,
    measure_low: FloatArray,
    measure_error: float,
    advantage: FloatArray,
    advantage_rest: FloatArray,
    advantage_error: FloatArray,
    ahead_error: float,
    temperature: float,
    available: BoolArray,
    least: float,
    indptr: IntArray,
    indices: IntArray,
    data: FloatArray,
    discount: float,
    source: FloatArray,
    source_rest: FloatArray,
    source_error: FloatArray,
    arrivals: FloatArray,
    best: IntArray,
    scratch: FloatArray,
) -> float:
    """Compute w = d pi A / temperature, the sum of two numbers, and a bound of its error.

    In each state w adds up to 0, which the likeliest action makes up for. d is the sum of measure
    and its low part, off by `measure_error` in all, and each advantage is off by
    `ahead_error` more than it says. `arrivals` is discount P^T w, unbounded; `best` and
    `scratch`, of shape (5, S), are room. Returns a bound of the sum of all errors.

    An error is `least` or more, for what underflows, unless the state has a single action or no
    advantage. What underflows before it is divided by the temperature is counted at that place.
    """
    n_states, n_actions = policy.shape
    total, total_rest, total_error = scratch[0], scratch[1], scratch[2]
    all_off, turned = scratch[3], scratch[4]
    likeliest_actions(policy, best, total)
    sources(
        policy, low, policy_error, measure, measure_low, measure_error, advantage, advantage_rest,
        advantage_error, ahead_error, temperature, available, best, least, source, source_rest,
        source_error, total, total_rest, total_error, all_off, turned,
    )  # fmt: skip
    all_errors, worst = 0.0, 0.0
    for s in range(n_states):
        a = best[s]
        high, rest = quick_sum(total[s], total_rest[s])
        source[s, a], source_rest[s, a] = -high, -rest
        # an error of its own would be one of 1, where the others' are of their probabilities
        off = total_error[s] + all_off[s] / temperature
        source_error[s, a] = off + measure_error * turned[s] / temperature
        all_errors += 2.0 * off
        if 2.0 * turned[s] > worst or math.isnan(turned[s]):  # a NaN stays
            worst = 2.0 * turned[s]
    for s in range(n_states):
        arrivals[s] = 0.0
    for s in range(n_states):
        for a in range(n_actions):
            row, leaving = s * n_actions + a, discount * source[s, a]
            for k in range(np.uint64(indptr[row]), np.uint64(indptr[row + 1])):
                arrivals[np.uint64(indices[k])] += data[k] * leaving
    return all_errors + measure_error * worst / temperature


@patient_kernel(elements)
def left_over(
    residual: FloatArray, measure: FloatArray, policy_error: FloatArray
) -> tuple[float, float, float]:
    """Add up a measure, its residual, and what a wrong policy moves, by size."""
    n_states, n_actions = policy_error.shape
    size, total, moved = 0.0, 0.0, 0.0
    for s in range(n_states):
        lasting = abs(measure[s]) * (1.0 + 2.0 * ROUNDOFF)
        size += lasting
        total += abs(residual[s])
        turned = 0.0
        for a in range(n_actions):
            turned += policy_error[s, a]
        moved += turned * lasting
    return size, total, moved


@patient_kernel(elements)
def pair_measures(
    policy: FloatArray,
    low: FloatArray,
    policy_error: FloatArray,
    log_policy: FloatArray,
    log_policy_error: FloatArray,
    available: BoolArray,
    occupancy: FloatArray,
    occupancy_error: FloatArray,
    measure: FloatArray,
    measure_error: float,
    least: float,
    lost: float,
    source: FloatArray,
    source_error: FloatArray,
    chances: FloatArray,
    chances_error: FloatArray,
    pairs: FloatArray,
    pairs_error: FloatArray,
    influence: FloatArray,
    influence_error: FloatArray,
) -> tuple[float, float]:
    """Spread measures of states over their actions: pi itself, d pi, and w + pi n.

    w is `source`. The errors have room for what is rounded away. Bounds that are not 0 for a reason
    of structure are at least `least` or `lost`. Returns - sum mu log pi, and by how much it is off.
    """
    n_states, n_actions = policy.shape
    slope, slope_error = 0.0, 0.0
    terms = n_states * n_actions + 2.0
    for s in range(n_states):
        lasting, off = abs(occupancy[s]), occupancy_error[s]
        size = abs(measure[s])
        error = measure_error + ROUNDOFF * size
        for a in range(n_actions):
            chance, turned = policy[s, a], policy_error[s, a] + abs(low[s, a])
            chances[s, a], chances_error[s, a] = chance, turned
            pairs[s, a] = occupancy[s] * chance
            pairs_error[s, a] = off * (chance + turned) + lasting * turned
            pairs_error[s, a] += 2.0 * ROUNDOFF * abs(pairs[s, a])
            w = source[s, a]
            mu = w + chance * measure[s]
            mu_error = source_error[s, a] + turned * (size + error) + chance * error
            mu_error += ROUNDOFF * (4.0 * abs(w) + 3.0 * chance * size)
            if available[s, a]:
                pairs_error[s, a] += least
                if error > 0.0:
                    mu_error += lost
            influence[s, a], influence_error[s, a] = mu, mu_error
            log_off, log_size = log_policy_error[s, a], abs(log_policy[s, a])
            slope -= mu * log_policy[s, a]
            slope_error += mu_error * (log_size + log_off)
            slope_error += abs(mu) * (log_off + terms * ROUNDOFF * log_size)
            if mu_error > 0.0 and log_off > 0.0:
                slope_error += lost
    return slope, slope_error
