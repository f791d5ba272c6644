"""Kernels of bounds, some with twice float64's digits."""

from __future__ import annotations

import math

import numpy as np

from tabular_bilevel._base.arrays import BoolArray, FloatArray, IntArray
from tabular_bilevel._base.jit import kernel

__all__ = [
    "action_reach",
    "advantages",
    "balance",
    "flow_residual",
    "influence_sources",
    "outward",
    "pullback_errors",
    "slope_errors",
    "soft_policy",
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
def value_gaps(
    indptr: IntArray,
    indices: IntArray,
    data: FloatArray,
    reward: FloatArray,
    available: BoolArray,
    discount: float,
    value: FloatArray,
    correction: FloatArray,
    gap: FloatArray,
    error: FloatArray,
) -> None:
    """Compute r + discount P v - v(s) for v = value + correction, with twice float64's digits.

    `gap` is rounded once, at the end; `error` bounds how far it is off. With n terms the doubled
    sums are off by less than 4 (n + 8)^2 roundings squared, relative to the terms' sizes, and what
    is made of the correction by n + 8 roundings of that. 0 where an action is unavailable.
    """
    n_states, n_actions = reward.shape
    for s in range(n_states):
        for a in range(n_actions):
            gap[s, a] = error[s, a] = 0.0
            if not available[s, a]:
                continue
            row = s * n_actions + a
            high, low, size, small = 0.0, 0.0, 0.0, 0.0
            something = reward[s, a] != 0.0 or value[s] != 0.0 or correction[s] != 0.0
            for k in range(indptr[row], indptr[row + 1]):
                j = indices[k]
                something = something or value[j] != 0.0 or correction[j] != 0.0
                product, slip = two_product(data[k], value[j])
                high, rest = two_sum(high, product)
                low += rest + (slip + data[k] * correction[j])
                size += abs(product)
                small += data[k] * abs(correction[j])
            high, slip = two_product(discount, high)
            low = discount * low + slip
            high, rest = two_sum(high, reward[s, a])
            low += rest
            high, rest = two_sum(high, -value[s])
            low += rest - correction[s]
            gap[s, a] = high + low
            size = discount * size + abs(reward[s, a]) + abs(value[s])
            small = discount * small + abs(correction[s])
            n = indptr[row + 1] - indptr[row] + 8.0
            error[s, a] = (
                ROUNDOFF * abs(gap[s, a])
                + 4.0 * n * n * ROUNDOFF * ROUNDOFF * size
                + n * ROUNDOFF * small
                + (n * UNDERFLOW if something else 0.0)
            )


@kernel
def flow_residual(
    indptr: IntArray,
    indices: IntArray,
    data: FloatArray,
    source: FloatArray,
    flow: FloatArray,
    policy: FloatArray,
    discount: float,
    measure: FloatArray,
    correction: FloatArray,
    low: FloatArray,
    size: FloatArray,
    small: FloatArray,
    count: FloatArray,
    residual: FloatArray,
    error: FloatArray,
) -> None:
    """Compute source + discount P^T (flow + policy m) - m for m = measure + correction.

    As `value_gaps`, with twice float64's digits, rounded at the end, and `error` a bound; `low`,
    `size`, `small` and `count` are scratch of length S.
    """
    n_states, n_actions = policy.shape
    for s in range(n_states):
        residual[s] = low[s] = size[s] = small[s] = count[s] = 0.0
    for s in range(n_states):
        here, more = measure[s], correction[s]
        for a in range(n_actions):
            chance, moved = policy[s, a], flow[s, a]
            product, slip = two_product(chance, here)
            leaving, rest = two_sum(moved, product)
            extra = rest + (slip + chance * more)
            weight = abs(moved) + abs(product)
            tiny = chance * abs(more)
            lasting = chance != 0.0 and (here != 0.0 or more != 0.0)
            if moved == 0.0 and not lasting:
                continue
            row = s * n_actions + a
            for k in range(indptr[row], indptr[row + 1]):
                j, p = indices[k], data[k]
                product, slip = two_product(p, leaving)
                residual[j], rest = two_sum(residual[j], product)
                low[j] += rest + (slip + p * extra)
                size[j] += p * weight
                small[j] += p * tiny
                count[j] += 1.0
    for s in range(n_states):
        here, more, start, n = measure[s], correction[s], source[s], count[s]
        high, slip = two_product(discount, residual[s])
        rest = discount * low[s] + slip
        high, slip = two_sum(high, start)
        rest += slip
        high, slip = two_sum(high, -here)
        rest += slip - more
        left = high + rest
        residual[s] = left
        total = discount * size[s] + abs(start) + abs(here)
        tiny = discount * small[s] + abs(more)
        something = total + tiny > 0.0 or (discount > 0.0 and n > 0.0)
        n += 12.0
        error[s] = (
            ROUNDOFF * abs(left)
            + 4.0 * n * n * ROUNDOFF * ROUNDOFF * total
            + n * ROUNDOFF * tiny
            + (n * UNDERFLOW if something else 0.0)
        )


@kernel
def action_reach(
    indptr: IntArray,
    indices: IntArray,
    data: FloatArray,
    policy: FloatArray,
    discount: float,
    inverse: FloatArray,
    rest: FloatArray,
    advantage: FloatArray,
) -> None:
    """From the inverse of I - discount P_policy, shape (S, S), as it was computed, by action.

    `advantage` (S*A, S) is discount P inverse, of an action less its mean under the policy, and
    `rest` (S, S) is I less the matrix times the inverse; both without signs.
    """
    n_states, n_actions = policy.shape
    for s in range(n_states):
        average = rest[s]
        for i in range(n_states):
            average[i] = 0.0
        for a in range(n_actions):
            row = s * n_actions + a
            ahead = advantage[row]
            for i in range(n_states):
                ahead[i] = 0.0
            for k in range(indptr[row], indptr[row + 1]):
                weight = discount * data[k]
                following = inverse[indices[k]]
                for i in range(n_states):
                    ahead[i] += weight * following[i]
            chance = policy[s, a]
            for i in range(n_states):
                average[i] += chance * ahead[i]
        for a in range(n_actions):
            ahead = advantage[s * n_actions + a]
            for i in range(n_states):
                ahead[i] = abs(ahead[i] - average[i])
        average[s] += 1.0
        for i in range(n_states):
            average[i] = abs(average[i] - inverse[s, i])


@kernel
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
            fraction += spare[s, a] + policy[s, a] * math.expm1(log_error[s, a])
        leak[s] = abs(1.0 - mass) + (choices - 1) * ROUNDOFF * mass
        fraction = 2.0 * fraction if fraction < 0.5 else np.inf
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


@kernel
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
    errors: FloatArray,
    shift: FloatArray,
) -> None:
    """Add discount flow(s,a) value(s') to the slopes, and what it is off by to their errors.

    The flow is off by `flow_error`, the value by `spread` and a number of at most `value_error`
    that all states share. What all entries of a row share is added to `shift`.
    """
    n_states, n_actions = flow.shape
    for s in range(n_states):
        for a in range(n_actions):
            row = s * n_actions + a
            mean, mass = 0.0, 0.0
            for k in range(indptr[row], indptr[row + 1]):
                mean += data[k] * value[indices[k]]
                mass += data[k]
            mean = mean / mass if mass > 0.0 else 0.0
            off = discount * flow_error[s, a]
            at_most = discount * (abs(flow[s, a]) + flow_error[s, a])
            if discount > 0.0 and (flow[s, a] != 0.0 or flow_error[s, a] > 0.0):
                off += UNDERFLOW
                at_most += UNDERFLOW
            shift[s, a] += off * abs(mean) + at_most * value_error
            for k in range(indptr[row], indptr[row + 1]):
                ahead = value[indices[k]]
                slope = discount * flow[s, a] * ahead
                slopes[k] += slope
                # with the slope's rounding, and that of the value where the flow is off
                errors[k] += (
                    off * abs(ahead - mean)
                    + at_most * spread[indices[k]]
                    + ROUNDOFF * (6.0 * abs(slope) + off * abs(ahead))
                    + UNDERFLOW * abs(ahead)
                )


@kernel
def pullback_errors(
    indptr: IntArray,
    indices: IntArray,
    data: FloatArray,
    slopes: FloatArray,
    errors: FloatArray,
    roundings: float,
    bound: FloatArray,
) -> None:
    """Add to the bound what a CSR matrix times slopes is off by, if they are off by `errors`.

    Each of a row's n terms is rounded n + `roundings` times. 0 only where all terms are.
    """
    for row in range(bound.size):
        n = indptr[row + 1] - indptr[row]
        total, size = 0.0, 0.0
        something = False
        for k in range(indptr[row], indptr[row + 1]):
            j = indices[k]
            feature = abs(data[k])
            total += feature * errors[j]
            size += feature * abs(slopes[j])
            if feature > 0.0 and (errors[j] > 0.0 or slopes[j] != 0.0):
                something = True
        bound[row] += total + (n + roundings) * ROUNDOFF * size
        if something:
            bound[row] += n * UNDERFLOW


@kernel
def outward(bounds: FloatArray, factor: float, least: float) -> None:
    """Widen bounds that are not 0; what is no bound becomes infinite."""
    for k in range(bounds.size):
        wider = factor * bounds[k]
        if wider > 0.0:
            wider += least
        bounds[k] = wider if wider >= 0.0 else np.inf


@kernel
def balance(error: FloatArray, leak: FloatArray, tighter: FloatArray) -> None:
    """Tighten errors that in each row add up to at most `leak`: one makes up for the others."""
    n_states, n_actions = error.shape
    for s in range(n_states):
        for a in range(n_actions):
            others = leak[s]
            for b in range(n_actions):
                if b != a:
                    others += error[s, b]
            tighter[s, a] = min(error[s, a], others)


@kernel
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
) -> None:
    """Turn gaps Q(s,a) - V(s), each off by `error`, into advantages, and bound V's residual.

    The policy is off by `policy_error`, and by `aside` where V's error is propagated with another
    one; `reach` is how much larger than the residual the value ahead may be off. To the errors of
    the advantages, what propagates is still to be added.
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
    for s in range(n_states):
        stray = 0.0
        for a in range(n_actions):
            stray += aside[s, a]
        something = stray != 0.0 and reach != 0.0 and largest != 0.0
        stray *= reach * largest
        if something:
            stray += UNDERFLOW
        residual[s] += stray
        for a in range(n_actions):
            advantage_error[s, a] += stray


@kernel
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
    source: FloatArray,
    source_error: FloatArray,
    leak: FloatArray,
) -> None:
    """Compute w = d pi A / temperature, bounds of its error, and of what its rows' sums are off.

    An error is `least` or more, for what underflows, unless the state has a single action or no
    advantage. What underflows before it is divided by the temperature is counted at that place.
    """
    n_states, n_actions = policy.shape
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
        leak[s] = abs(total) + n_actions * ROUNDOFF * size
