"""Kernels of bounds, some with twice float64's digits."""

from __future__ import annotations

import math

import numpy as np

from tabular_bilevel._base.arrays import BoolArray, FloatArray, IntArray
from tabular_bilevel._base.jit import elements, kernel, patient_kernel

__all__ = [
    "action_reach",
    "advantages",
    "evaluate",
    "flow_residual",
    "influence_sources",
    "measure_sources",
    "moved_flow",
    "moved_gaps",
    "outward",
    "pair_measures",
    "policy_errors",
    "slope_errors",
    "soft_policy",
    "stray_residuals",
    "value_gaps",
]


# Unit roundoff of float64, and the splitter of Dekker's exact product.
ROUNDOFF, SPLITTER = 2.0**-53, 2.0**27 + 1.0


# What the exact product may lose where a partial product underflows, and more: sums with numbers
# below the normal ones take a hundred times as long.
UNDERFLOW = 2.0**-1000


# Assumed relative error of exp, expm1 and log, in roundoffs: 4 units in the last place. Measured:
# less than 1 unit.
EXP_ROUNDOFFS = 8.0


# Probabilities below exp(-650) < FLOOR are bounded absolutely: float64 may have 0 for them.
FLOOR, NEGLIGIBLE = 2.0**-900, -650.0


@kernel
def two_sum(x: float, y: float) -> tuple[float, float]:
    """Sum and its rounding error, exactly (Knuth)."""
    total = x + y
    part = total - x
    return total, (x - (total - part)) + (y - part)


@kernel
def two_product(x: float, y: float) -> tuple[float, float]:
    """Product and its rounding error, exactly (Dekker, "A floating-point technique", 1971)."""
    product = x * y
    x_high = SPLITTER * x
    x_high = x_high - (x_high - x)
    y_high = SPLITTER * y
    y_high = y_high - (y_high - y)
    x_low, y_low = x - x_high, y - y_high
    error = x_low * y_low - (((product - x_high * y_high) - x_low * y_high) - x_high * y_low)
    return product, error


@kernel
def growth(x: float) -> float:
    """Bound exp(x) - 1 of an x that is not negative."""
    return x + x * x if x < 1e-3 else math.expm1(x) if x < 700.0 else np.inf


@kernel
def moved_probability(chance: float, spare: float, log_error: float) -> float:
    """Bound by how much a probability is off whose logarithm is; see `soft_policy`."""
    if not log_error < 700.0:
        return 1.0
    off = chance * growth(log_error)
    if spare > 0.0:
        off += spare * math.exp(log_error)
    return min(off, 1.0)


@patient_kernel(elements)
def value_gaps(
    indptr: IntArray,
    indices: IntArray,
    data: FloatArray,
    reward: FloatArray,
    available: BoolArray,
    discount: float,
    value: FloatArray,
    gap: FloatArray,
    rest: FloatArray,
    error: FloatArray,
) -> None:
    """Compute r + discount P v - v(s) with twice float64's digits, as the sum of gap and rest.

    With n terms it is off by less than 4 (n + 8)^2 roundings squared, relative to the terms' sizes:
    that is `error`. 0 where an action is unavailable.
    """
    n_states, n_actions = reward.shape
    for s in range(n_states):
        here = value[s]
        for a in range(n_actions):
            gap[s, a] = rest[s, a] = error[s, a] = 0.0
            if not available[s, a]:
                continue
            row = s * n_actions + a
            first, last = np.uint64(indptr[row]), np.uint64(indptr[row + 1])
            high, low, size = 0.0, 0.0, 0.0
            something = reward[s, a] != 0.0 or here != 0.0
            for k in range(first, last):
                ahead = value[np.uint64(indices[k])]  # no sign to look at
                something = something or ahead != 0.0
                product, slip = two_product(data[k], ahead)
                high, lost = two_sum(high, product)
                low += lost + slip
                size += abs(product)
            high, slip = two_product(discount, high)
            low = discount * low + slip
            high, lost = two_sum(high, reward[s, a])
            low += lost
            high, lost = two_sum(high, -here)
            gap[s, a], rest[s, a] = two_sum(high, low + lost)
            n = last - first + 8.0
            size = discount * size + abs(reward[s, a]) + abs(here)
            error[s, a] = 4.0 * n * n * ROUNDOFF * ROUNDOFF * size
            if something:
                error[s, a] += n * UNDERFLOW


@patient_kernel(elements)
def moved_gaps(
    indptr: IntArray,
    indices: IntArray,
    data: FloatArray,
    available: BoolArray,
    discount: float,
    correction: FloatArray,
    gap: FloatArray,
    rest: FloatArray,
    error: FloatArray,
) -> None:
    """Turn the gaps of v, as `value_gaps` left them, into those of v + correction.

    `gap` is rounded, once; `error` comes to bound how far it is off.
    """
    n_states, n_actions = gap.shape
    for s in range(n_states):
        here = correction[s]
        for a in range(n_actions):
            if not available[s, a]:
                continue
            row = s * n_actions + a
            first, last = np.uint64(indptr[row]), np.uint64(indptr[row + 1])
            ahead, size = 0.0, 0.0
            something = here != 0.0
            for k in range(first, last):
                following = correction[np.uint64(indices[k])]
                something = something or following != 0.0
                ahead += data[k] * following
                size += data[k] * abs(following)
            gap[s, a] += rest[s, a] + (discount * ahead - here)
            n = last - first + 8.0
            size = discount * size + abs(here)
            error[s, a] += ROUNDOFF * (abs(gap[s, a]) + n * size)
            if something:
                error[s, a] += n * UNDERFLOW


@patient_kernel(elements)
def flow_residual(
    indptr: IntArray,
    indices: IntArray,
    data: FloatArray,
    source: FloatArray,
    flow: FloatArray,
    policy: FloatArray,
    discount: float,
    measure: FloatArray,
    residual: FloatArray,
    rest: FloatArray,
    error: FloatArray,
    count: FloatArray,
) -> None:
    """Compute source + discount P^T (flow + policy m) - m, as the sum of residual and rest.

    As `value_gaps`, with twice float64's digits, and `error` a bound; `count` of each state's terms
    has length S.
    """
    n_states, n_actions = policy.shape
    for s in range(n_states):
        residual[s] = rest[s] = error[s] = count[s] = 0.0
    for s in range(n_states):
        here = measure[s]
        for a in range(n_actions):
            chance, moved = policy[s, a], flow[s, a]
            if moved == 0.0 and (chance == 0.0 or here == 0.0):
                continue
            product, slip = two_product(chance, here)
            leaving, lost = two_sum(moved, product)
            extra = lost + slip
            weight = abs(moved) + abs(product)
            row = s * n_actions + a
            for k in range(np.uint64(indptr[row]), np.uint64(indptr[row + 1])):
                j, p = np.uint64(indices[k]), data[k]
                product, slip = two_product(p, leaving)
                residual[j], lost = two_sum(residual[j], product)
                rest[j] += lost + (slip + p * extra)
                error[j] += p * weight
                count[j] += 1.0
    for s in range(n_states):
        here, start, n = measure[s], source[s], count[s]
        high, slip = two_product(discount, residual[s])
        low = discount * rest[s] + slip
        high, slip = two_sum(high, start)
        low += slip
        high, slip = two_sum(high, -here)
        residual[s], rest[s] = two_sum(high, low + slip)
        total = discount * error[s] + abs(start) + abs(here)
        something = total > 0.0 or (discount > 0.0 and n > 0.0)
        n += 12.0
        error[s] = 4.0 * n * n * ROUNDOFF * ROUNDOFF * total
        if something:
            error[s] += n * UNDERFLOW


@patient_kernel(elements)
def moved_flow(
    indptr: IntArray,
    indices: IntArray,
    data: FloatArray,
    policy: FloatArray,
    discount: float,
    step: FloatArray,
    residual: FloatArray,
    rest: FloatArray,
    error: FloatArray,
    moved: FloatArray,
) -> None:
    """Turn the residual of m, as `flow_residual` left it, into that of m + step.

    `residual` is rounded, once; `error` comes to bound how far it is off. `moved` is scratch, of
    shape (3, S).
    """
    n_states, n_actions = policy.shape
    for s in range(n_states):
        moved[0, s] = moved[1, s] = moved[2, s] = 0.0
    for s in range(n_states):
        here = step[s]
        if here == 0.0:
            continue
        for a in range(n_actions):
            leaving = policy[s, a] * here
            row = s * n_actions + a
            if policy[s, a] != 0.0:
                for k in range(np.uint64(indptr[row]), np.uint64(indptr[row + 1])):
                    j = np.uint64(indices[k])
                    arriving = data[k] * leaving
                    moved[0, j] += arriving
                    moved[1, j] += abs(arriving)
                    moved[2, j] += 1.0
    for s in range(n_states):
        n = moved[2, s] + 12.0
        tiny = discount * moved[1, s] + abs(step[s])
        residual[s] += rest[s] + (discount * moved[0, s] - step[s])
        error[s] += ROUNDOFF * (abs(residual[s]) + n * tiny)
        if tiny > 0.0 or (discount > 0.0 and n > 12.0):
            error[s] += n * UNDERFLOW


@patient_kernel(lambda *arguments: arguments[1].size * arguments[6].size)
def action_reach(
    indptr: IntArray,
    indices: IntArray,
    data: FloatArray,
    policy: FloatArray,
    discount: float,
    inverse: FloatArray,
    scratch: FloatArray,
    reach: FloatArray,
) -> None:
    """From the inverse of I - discount P_policy, shape (S, S), as it was computed, by action.

    `reach` ((3 + A) S, S) holds four tables without signs: I less the matrix times the inverse, the
    inverse, the inverse less the means of its columns, and of each action discount P inverse, less
    its mean under the policy. `scratch` has length S.
    """
    n_states, n_actions = policy.shape
    share = 1.0 / n_states
    for i in range(n_states):
        scratch[i] = 0.0
    for s in range(n_states):
        here = inverse[s]
        for i in range(n_states):
            scratch[i] += here[i] * share
    for s in range(n_states):
        here, average = inverse[s], reach[s]
        size, spread = reach[n_states + s], reach[2 * n_states + s]
        for i in range(n_states):
            average[i] = 0.0
            size[i] = abs(here[i])
            spread[i] = abs(here[i] - scratch[i])
        for a in range(n_actions):
            row = s * n_actions + a
            ahead, chance = reach[3 * n_states + row], policy[s, a]
            end = indptr[row + 1] - 1
            for i in range(n_states):
                ahead[i] = 0.0
            for k in range(indptr[row], end + 1, 4):  # of four rows at a time
                w0 = discount * data[k]
                w1 = discount * data[k + 1] if k < end else 0.0
                w2 = discount * data[k + 2] if k + 1 < end else 0.0
                w3 = discount * data[k + 3] if k + 2 < end else 0.0
                x0, x1 = inverse[indices[k]], inverse[indices[min(k + 1, end)]]
                x2, x3 = inverse[indices[min(k + 2, end)]], inverse[indices[min(k + 3, end)]]
                for i in range(n_states):
                    more = (w0 * x0[i] + w1 * x1[i]) + (w2 * x2[i] + w3 * x3[i])
                    ahead[i] += more
                    average[i] += chance * more
        for a in range(n_actions):
            ahead = reach[3 * n_states + s * n_actions + a]
            for i in range(n_states):
                ahead[i] = abs(ahead[i] - average[i])
        average[s] += 1.0
        for i in range(n_states):
            average[i] = abs(average[i] - here[i])


@patient_kernel(elements)
def soft_policy(
    gap: FloatArray,
    error: FloatArray,
    available: BoolArray,
    temperature: float,
    policy: FloatArray,
    log_error: FloatArray,
    spare: FloatArray,
    log_policy: FloatArray,
    log_policy_error: FloatArray,
    residual: FloatArray,
    residual_error: FloatArray,
    leak: FloatArray,
) -> None:
    """Turn gaps Q(s,a) - V(s), each off by `error`, into a policy and V's soft residual T V - V.

    `log_error` bounds what the logarithm of the policy is off by, and `residual_error` the
    residual. Where `spare` is not 0, that logarithm may be anything, and the probability is less
    than that. `log_policy`, which underflow leaves alone, is off by at most `log_policy_error`.
    `leak` bounds how far the policy's sums are from 1.
    """
    n_states, n_actions = gap.shape
    for s in range(n_states):
        top = -np.inf
        for a in range(n_actions):
            if available[s, a]:
                logit = min(max(gap[s, a] / temperature, -1e300), 1e300)
                top = max(top, logit)
        total = 0.0
        choices = 0
        for a in range(n_actions):
            policy[s, a] = log_error[s, a] = spare[s, a] = 0.0
            log_policy[s, a] = log_policy_error[s, a] = 0.0
            if available[s, a]:
                logit = min(max(gap[s, a] / temperature, -1e300), 1e300)
                log_policy[s, a] = logit - top
                policy[s, a] = math.exp(logit - top)
                total += policy[s, a]
                off = error[s, a] / temperature + FLOOR
                off += ROUNDOFF * (3.0 * abs(logit) + abs(top))
                log_policy_error[s, a] = off if abs(logit) < 1e300 else np.inf
                if logit - top + off < NEGLIGIBLE:
                    spare[s, a] = FLOOR
                else:
                    log_error[s, a] = off + (EXP_ROUNDOFFS * ROUNDOFF if logit < top else 0.0)
                choices += 1
        # the sum is off by its terms' errors, which weigh as much as they do; exp(0) is 1
        fraction = (choices - 1) * ROUNDOFF
        mass = 0.0
        for a in range(n_actions):
            policy[s, a] /= total
            mass += policy[s, a]
            fraction += spare[s, a] + policy[s, a] * growth(log_error[s, a])
        leak[s] = abs(1.0 - mass) + (choices - 1) * ROUNDOFF * mass
        fraction = (
            fraction / (1.0 - fraction) * (1.0 + 8.0 * ROUNDOFF) if fraction < 0.5 else np.inf
        )
        for a in range(n_actions):
            log_error[s, a] += fraction + 2.0 * ROUNDOFF
        log_total = math.log(total)
        for a in range(n_actions):
            if choices == 1:  # log 1 is 0
                log_policy[s, a] = log_policy_error[s, a] = 0.0
            elif available[s, a]:
                log_policy[s, a] -= log_total
                log_policy_error[s, a] += fraction + ROUNDOFF * (
                    abs(log_policy[s, a]) + (EXP_ROUNDOFFS + 3.0) * log_total
                )
        residual[s] = temperature * (top + log_total)
        rounding = (EXP_ROUNDOFFS + 3.0) * log_total + 3.0 * abs(top)
        residual_error[s] = temperature * (fraction + ROUNDOFF * rounding) + UNDERFLOW


@patient_kernel(elements)
def stray_residuals(
    policy: FloatArray,
    log_error: FloatArray,
    spare: FloatArray,
    other: FloatArray,
    residual: FloatArray,
    residual_error: FloatArray,
    temperature: float,
    reach: float,
    aside: FloatArray,
    stray: FloatArray,
    bound: FloatArray,
) -> tuple[float, float]:
    """Bound the residual of a value whose error is propagated with another policy than its own.

    `reach` is how much larger than the largest residual the value ahead may be off. `aside` is how
    far the policies are apart, and `stray` what that adds to the bound. Returns the largest
    residual, and the largest bound.
    """
    n_states, n_actions = policy.shape
    largest = 0.0
    for s in range(n_states):
        bound[s] = abs(residual[s]) + residual_error[s]
        if not bound[s] <= largest:  # a NaN stays
            largest = bound[s]
    crude, top = reach * largest, 0.0
    for s in range(n_states):
        turned = 0.0
        for a in range(n_actions):
            aside[s, a] = abs(policy[s, a] - other[s, a])
            off = log_error[s, a] + 2.0 * crude / temperature
            turned += aside[s, a]
            if policy[s, a] > 0.0 or spare[s, a] > 0.0:
                turned += moved_probability(policy[s, a], spare[s, a], off)
        stray[s] = turned * crude
        bound[s] += stray[s]
        if not bound[s] <= top:
            top = bound[s]
    return largest, top


@patient_kernel(elements)
def policy_errors(
    policy: FloatArray,
    log_error: FloatArray,
    spare: FloatArray,
    leak: FloatArray,
    available: BoolArray,
    gap: FloatArray,
    gap_error: FloatArray,
    value: FloatArray,
    correction: FloatArray,
    ahead_error: float,
    advantage: FloatArray,
    stray: FloatArray,
    temperature: float,
    aside: FloatArray,
    log_policy_error: FloatArray,
    error: FloatArray,
    action_value: FloatArray,
    action_value_error: FloatArray,
) -> None:
    """Bound what the policy is off by, as advantages are off by `advantage` and `stray`.

    As its rows' sums are off by `leak` at most, one action's error makes up for the others'.
    `aside` and the error of the logarithm grow by it. The action values are those of value +
    correction, whose mean after an action is off by `ahead_error`; 0 where it is unavailable.
    """
    n_states, n_actions = policy.shape
    for s in range(n_states):
        here = value[s] + correction[s]
        size = abs(value[s]) + abs(correction[s])
        for a in range(n_actions):
            off = (advantage[s, a] + stray[s]) / temperature
            error[s, a] = action_value[s, a] = action_value_error[s, a] = 0.0
            if available[s, a]:
                log_off = log_error[s, a] + off
                error[s, a] = moved_probability(policy[s, a], spare[s, a], log_off)
                rounding = 3.0 * ROUNDOFF * (abs(gap[s, a]) + size)
                action_value[s, a] = gap[s, a] + here
                action_value_error[s, a] = gap_error[s, a] + rounding + ahead_error
            if log_policy_error[s, a] != 0.0:
                log_policy_error[s, a] += off
        tighten(error[s], leak[s])
        for a in range(n_actions):
            aside[s, a] += error[s, a]


@kernel
def tighten(error: FloatArray, leak: float) -> None:
    """Tighten errors that add up to at most `leak`: one makes up for the others."""
    largest, where = 0.0, 0
    for a in range(error.size):
        if error[a] > largest:
            largest, where = error[a], a
    others = leak
    for a in range(error.size):
        if a != where:
            others += error[a]
    error[where] = min(error[where], others)


@patient_kernel(elements)
def slope_errors(
    indptr: IntArray,
    indices: IntArray,
    data: FloatArray,
    discount: float,
    flow: FloatArray,
    flow_error: FloatArray,
    value: FloatArray,
    value_error: float,
    spread: FloatArray,
    slopes: FloatArray,
    total: FloatArray,
    errors: FloatArray,
    shift: FloatArray,
) -> None:
    """Compute discount flow(s,a) value(s'), the slopes; add them up, and what they are off by.

    The flow is off by `flow_error`, the value by `spread` and a number of at most `value_error`
    that all states share. What all entries of a row share is added to `shift`.
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
            shift[s, a] += off * abs(mean) + at_most * value_error
            for k in range(first, last):
                j = np.uint64(indices[k])
                ahead = value[j]
                slopes[k] = leaving * ahead
                total[k] += slopes[k]
                # with the slope's rounding, and that of the value where the flow is off
                rounding = ROUNDOFF * (6.0 * abs(slopes[k]) + off * abs(ahead))
                more = off * abs(ahead - mean) + at_most * spread[j]
                errors[k] += more + rounding + UNDERFLOW * (1.0 + abs(ahead))


@patient_kernel(elements)
def outward(bounds: FloatArray, factor: float, least: float) -> None:
    """Widen bounds that are not 0; what is no bound becomes infinite."""
    for k in range(bounds.size):
        wider = factor * bounds[k]
        if wider > 0.0:
            wider += least
        bounds[k] = wider if wider >= 0.0 else np.inf


@patient_kernel(elements)
def advantages(
    gap: FloatArray,
    error: FloatArray,
    policy: FloatArray,
    policy_error: FloatArray,
    aside: FloatArray,
    reach: float,
    residual: FloatArray,
    advantage: FloatArray,
    advantage_error: FloatArray,
) -> float:
    """Turn gaps Q(s,a) - V(s), each off by `error`, into advantages, and bound V's residual.

    The policy is off by `policy_error`, and by `aside` where V's error is propagated with another
    one; `reach` is how much larger than the residual the value ahead may be off. To the errors of
    the advantages, what propagates is still to be added. Returns the largest bound.
    """
    n_states, n_actions = gap.shape
    largest = 0.0
    for s in range(n_states):
        mean, mean_error, turned = 0.0, 0.0, 0.0
        for a in range(n_actions):
            if gap[s, a] != 0.0 or error[s, a] > 0.0:
                mean_error = UNDERFLOW
        for a in range(n_actions):
            size = abs(gap[s, a])
            mean += policy[s, a] * gap[s, a]
            mean_error += policy[s, a] * (error[s, a] + (n_actions + 2.0) * ROUNDOFF * size)
            turned += policy_error[s, a] * (size + error[s, a])
        for a in range(n_actions):
            size = abs(gap[s, a]) + abs(mean)
            advantage[s, a] = gap[s, a] - mean
            advantage_error[s, a] = error[s, a] + 2.0 * ROUNDOFF * size + turned + mean_error
        residual[s] = abs(mean) + mean_error + turned
        if not residual[s] <= largest:  # a NaN stays
            largest = residual[s]
    top = 0.0
    for s in range(n_states):
        stray = 0.0
        for a in range(n_actions):
            stray += aside[s, a]
        something = stray != 0.0 and reach != 0.0 and largest != 0.0
        stray *= reach * largest
        if something:
            stray += UNDERFLOW
        residual[s] += stray
        if not residual[s] <= top:
            top = residual[s]
        for a in range(n_actions):
            advantage_error[s, a] += stray
    return top


@patient_kernel(elements)
def evaluate(
    start: FloatArray,
    gap: FloatArray,
    available: BoolArray,
    stored: FloatArray,
    correction: FloatArray,
    value_error: FloatArray,
    spread: FloatArray,
    propagated: FloatArray,
    advantage_error: FloatArray,
    value: FloatArray,
    initial_error: FloatArray,
    action_value: FloatArray,
) -> tuple[float, float]:
    """Add up stored and correction, and look what the value is worth at the start.

    The errors of the advantages grow by what is `propagated`, and `initial_error` is that of the
    value but for what all states share. Returns the objective, and what it is off by.
    """
    n_states, n_actions = gap.shape
    objective, rest, error = 0.0, 0.0, 0.0
    for s in range(n_states):
        value[s] = stored[s] + correction[s]
        initial_error[s] = spread[s] + 2.0 * ROUNDOFF * abs(value[s])
        for a in range(n_actions):
            advantage_error[s, a] += propagated[s, a]
            action_value[s, a] = gap[s, a] + value[s] if available[s, a] else 0.0
        if start[s] > 0.0:
            product, slip = two_product(start[s], value[s])
            objective, lost = two_sum(objective, product)
            rest += slip + lost
            error += start[s] * (value_error[s] + 3.0 * ROUNDOFF * abs(value[s]))
        if value_error[s] != 0.0:
            error += UNDERFLOW
    return objective + rest, error


@patient_kernel(elements)
def influence_sources(
    policy: FloatArray,
    policy_error: FloatArray,
    occupancy: FloatArray,
    occupancy_error: FloatArray,
    advantage: FloatArray,
    advantage_error: FloatArray,
    temperature: float,
    available: BoolArray,
    least: float,
    indptr: IntArray,
    indices: IntArray,
    data: FloatArray,
    discount: float,
    source: FloatArray,
    source_error: FloatArray,
    leak: FloatArray,
    arrivals: FloatArray,
) -> None:
    """Compute w = d pi A / temperature, bounds of its error, and of what its rows' sums are off.

    `arrivals` is discount P^T w, unbounded.

    An error is `least` or more, for what underflows, unless the state has a single action or no
    advantage. What underflows before it is divided by the temperature is counted at that place.
    """
    n_states, n_actions = policy.shape
    for s in range(n_states):
        arrivals[s] = 0.0
    for s in range(n_states):
        lasting = abs(occupancy[s])
        total, size = 0.0, 0.0
        for a in range(n_actions):
            w = occupancy[s] * policy[s, a] * advantage[s, a] / temperature
            turned = occupancy_error[s] * (policy[s, a] + policy_error[s, a])
            turned += lasting * policy_error[s, a]
            off = turned * (abs(advantage[s, a]) + advantage_error[s, a])
            off += lasting * policy[s, a] * advantage_error[s, a]
            source[s, a] = w
            source_error[s, a] = 0.0
            better = abs(advantage[s, a]) + advantage_error[s, a]
            if available[s, a] and better != 0.0:
                lost = UNDERFLOW * (1.0 + lasting) * (1.0 + better)
                source_error[s, a] = (off + lost) / temperature + 4.0 * ROUNDOFF * abs(w) + least
            total += w
            size += abs(w)
            row = s * n_actions + a
            for k in range(np.uint64(indptr[row]), np.uint64(indptr[row + 1])):
                arrivals[np.uint64(indices[k])] += discount * data[k] * w
        leak[s] = abs(total) + n_actions * ROUNDOFF * size
        tighten(source_error[s], leak[s])


@patient_kernel(elements)
def measure_sources(
    residual: FloatArray,
    error: FloatArray,
    measure: FloatArray,
    step: FloatArray,
    flow_error: FloatArray,
    leak: FloatArray,
    policy_error: FloatArray,
    policy_leak: FloatArray,
    operator_policy: FloatArray,
    operator_leak: FloatArray,
    aside: FloatArray,
    contraction: float,
    patience: float,
    sources: FloatArray,
) -> float:
    """Bound what the error of m = source + gamma P^T (flow + policy m) is propagated from.

    m is the sum of measure and step, of which a residual is left that is off by `error`. The flow
    is off by `flow_error`, of mass zero in each state but for `leak`, as is the policy. `sources`
    (S + S A,) come to hold what starts in each state, and what moves between its actions; returns
    their sum.
    """
    n_states, n_actions = policy_error.shape
    total, moving = 0.0, 0.0
    for s in range(n_states):
        lasting = abs(measure[s]) + abs(step[s])
        total += abs(residual[s]) + error[s]
        for a in range(n_actions):
            moved = flow_error[s, a] + policy_error[s, a] * lasting
            sources[n_states + s * n_actions + a] = moved
            moving += moved
    crude = (total + contraction * moving) * patience
    total += moving
    for s in range(n_states):
        lasting = abs(measure[s]) + abs(step[s])
        # what is lost of the mass counts as a source there, and as moved between the actions of
        # the policy that errors are propagated with
        lost = leak[s] + policy_leak[s] * lasting + operator_leak[s] * crude
        sources[s] = abs(residual[s]) + error[s] + lost
        total += lost
        for a in range(n_actions):
            strayed = aside[s, a] * crude + 2.0 * operator_policy[s, a] * lost
            sources[n_states + s * n_actions + a] += strayed
            total += strayed
    return total


@patient_kernel(elements)
def pair_measures(
    policy: FloatArray,
    policy_error: FloatArray,
    log_policy: FloatArray,
    log_policy_error: FloatArray,
    available: BoolArray,
    occupancy: FloatArray,
    occupancy_error: FloatArray,
    arrivals: FloatArray,
    step: FloatArray,
    arrivals_error: FloatArray,
    least: float,
    lost: float,
    pairs: FloatArray,
    pairs_error: FloatArray,
    influence: FloatArray,
    influence_error: FloatArray,
) -> tuple[float, float]:
    """Spread measures of states over their actions: d pi, and w + pi n, n of arrivals and step.

    `influence` and its error hold w to begin with. Bounds that are not 0 for a reason of structure
    are at least `least` or `lost`. Returns - sum mu log pi, and by how much it is off.
    """
    n_states, n_actions = policy.shape
    slope, slope_error = 0.0, 0.0
    terms = n_states * n_actions + 2.0
    for s in range(n_states):
        lasting, off = abs(occupancy[s]), occupancy_error[s]
        size = abs(arrivals[s]) + abs(step[s])
        error = arrivals_error[s] + ROUNDOFF * size
        for a in range(n_actions):
            chance, turned = policy[s, a], policy_error[s, a]
            pairs[s, a] = occupancy[s] * chance
            pairs_error[s, a] = off * (chance + turned) + lasting * turned
            pairs_error[s, a] += 2.0 * ROUNDOFF * abs(pairs[s, a])
            w = influence[s, a]
            mu = w + chance * (arrivals[s] + step[s])
            mu_error = influence_error[s, a] + turned * (size + error) + chance * error
            mu_error += 3.0 * ROUNDOFF * (abs(w) + chance * size)
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
