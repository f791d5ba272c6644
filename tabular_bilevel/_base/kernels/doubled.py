"""Kernels of bounds, some with twice float64's digits."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic, overload

from tabular_bilevel._base.arrays import BoolArray, FloatArray, IntArray
from tabular_bilevel._base.jit import elements, kernel, patient_kernel

__all__ = [
    "advantages", "evaluate", "exponentials", "flow_residual", "influence_sources", "move_flow",
    "move_gaps", "move_policy", "outward", "pair_measures", "policy_errors", "slope_errors",
    "soft_policy", "value_gaps",
]  # fmt: skip


# Unit roundoff of float64, and the splitter of Dekker's exact product.
ROUNDOFF, SPLITTER = 2.0**-53, 2.0**27 + 1.0


# What the exact product may lose where its error underflows, and more: sums with numbers below the
# normal ones take a hundred times as long.
UNDERFLOW = 2.0**-1000


# Assumed relative error of exp, expm1 and log, in roundoffs: 4 units in the last place. Bounds have
# room for it. Measured: less than 1 unit.
EXP_ROUNDOFFS = 8.0


# Probabilities below exp(-624) < FLOOR are bounded absolutely: below exp(-650), or nearly, float64
# may have 0 for them.
FLOOR, LOG_FLOOR, NEGLIGIBLE = 2.0**-900, -624.0, -650.0

# What an operation with twice float64's digits is off by, relative to the sizes of what it is made
# of, and more: no more than ten roundings squared. Of `exponentials`, whose series ends; measured:
# 2^-88.
DOUBLED, DOUBLED_EXP = 2.0**-100, 2.0**-86

# log 2 / 128 in three parts: multiples of the first two are exact.
PARTS = (
    float.fromhex("0x1.62e42fefa0000p-8"),
    float.fromhex("0x1.cf79abc9e0000p-47"),
    float.fromhex("0x1.d9cc01f97b57ap-86"),
)
SIXTH = 1.0 / 6.0
SIXTH_REST = float(Fraction(1, 6) - Fraction(SIXTH))


def roots_of_two() -> FloatArray:
    """Compute 2^(j/128) for j below 128, as the sum of two numbers each."""
    one = root = 2**200
    root *= 2
    for _ in range(7):
        root = math.isqrt(root * one)
    powers, power = np.empty((2, 128)), one
    for j in range(128):
        powers[0, j] = power / one
        powers[1, j] = float(Fraction(power, one) - Fraction(powers[0, j]))
        power = power * root // one
    return powers


ROOTS, ROOTS_LOW = roots_of_two()
SCALES = 2.0 ** np.arange(-1000.0, 2.0)

# Added and taken away again, it leaves an integer.
INTEGER = 1.5 * 2.0**52


@kernel
def two_sum(x: float, y: float) -> tuple[float, float]:
    """Sum and its rounding error, exactly (Knuth)."""
    total = x + y
    part = total - x
    return total, (x - (total - part)) + (y - part)


def two_product(x: float, y: float) -> tuple[float, float]:
    """Product and its rounding error, exactly; compiled code has it by `fused`."""
    product = x * y
    if x == 0.0 or y == 0.0 or not math.isfinite(product):
        return product, product - product
    if abs(x) + abs(y) > 1e150 or abs(product) < 1e-250:
        return product, float(Fraction(x) * Fraction(y) - Fraction(product))
    # as long as nothing underflows: Dekker, "A floating-point technique", 1971
    x_high, y_high = SPLITTER * x, SPLITTER * y
    x_high, y_high = x_high - (x_high - x), y_high - (y_high - y)
    x_low, y_low = x - x_high, y - y_high
    error = x_low * y_low - (((product - x_high * y_high) - x_low * y_high) - x_high * y_low)
    return product, error


@intrinsic  # type: ignore[untyped-decorator]
def fused(typing: Any, x: Any, y: Any, z: Any) -> Any:
    """Compute x y + z, rounded once: an instruction, where the processor has it."""
    number = types.float64
    return number(number, number, number), lambda _, builder, __, given: builder.fma(*given)


@overload(two_product)
def two_product_compiled(x, y):  # type: ignore[no-untyped-def]
    """Find the same pair of numbers in compiled code."""

    def by_fusion(x, y):  # type: ignore[no-untyped-def]
        product = x * y
        return product, fused(x, y, -product)

    return by_fusion


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
        here = value[s]
        for a in range(n_actions):
            gap[s, a] = rest[s, a] = error[s, a] = 0.0
            if not available[s, a]:
                continue
            row = s * n_actions + a
            first, last = np.uint64(indptr[row]), np.uint64(indptr[row + 1])
            high, more, size = 0.0, 0.0, 0.0
            something = reward[s, a] != 0.0 or here != 0.0
            for k in range(first, last):
                j = np.uint64(indices[k])  # no sign to look at
                ahead = value[j]
                something = something or ahead != 0.0
                product, slip = two_product(data[k], ahead)
                high, lost = two_sum(high, product)
                more += lost + (slip + data[k] * low[j])
                size += abs(product)
            high, slip = two_product(discount, high)
            more = discount * more + slip
            high, lost = two_sum(high, reward[s, a])
            more += lost
            high, lost = two_sum(high, -here)
            gap[s, a], rest[s, a] = two_sum(high, more + (lost - low[s]))
            n = last - first + 5.0
            size = discount * size + abs(reward[s, a]) + abs(here)
            error[s, a] = n * n * ROUNDOFF * ROUNDOFF * size
            if something:
                error[s, a] += n * UNDERFLOW


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
        here = step[s]
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
            change = discount * ahead - here
            high, lost = two_sum(gap[s, a], change)
            gap[s, a], rest[s, a] = two_sum(high, lost + rest[s, a])
            moved[s, a] = change
            n = last - first + 5.0
            off = n * ROUNDOFF * (discount * size + abs(here))
            error[s, a] = 2.0 * error[s, a] + off + n * UNDERFLOW


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
    residual: FloatArray,
    rest: FloatArray,
    error: FloatArray,
    count: FloatArray,
) -> None:
    """Compute source + discount P^T (flow + policy m) - m with twice float64's digits, then round.

    So many have flow, policy and m, the sum of measure and low. `error` bounds what the residual is
    off by; `rest` and `count`, of length S, are scratch.
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
            extra = lost + (slip + (policy_rest[s, a] * here + chance * low[s]) + flow_rest[s, a])
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
        more = discount * rest[s] + slip
        high, slip = two_sum(high, start)
        more += slip
        high, slip = two_sum(high, -here)
        residual[s] = high + (more + (slip - low[s]))
        total = discount * error[s] + abs(start) + abs(here)
        something = total > 0.0 or (discount > 0.0 and n > 0.0)
        n += 9.0
        error[s] = n * n * ROUNDOFF * ROUNDOFF * total + ROUNDOFF * abs(residual[s])
        if something:
            error[s] += n * UNDERFLOW


@patient_kernel(lambda *arguments: 20 * arguments[2].size)
def move_flow(
    indptr: IntArray,
    indices: IntArray,
    data: FloatArray,
    policy: FloatArray,
    discount: float,
    contraction: float,
    step: FloatArray,
    residual: FloatArray,
    error: FloatArray,
    count: FloatArray,
) -> None:
    """Let a residual, as of `flow_residual`, follow a measure that went a step, in plain float64.

    That is by discount P^T (policy step) - step. Of `error`, only the sum has a meaning then;
    `count`, of length S, is scratch.
    """
    n_states, n_actions = policy.shape
    size, n = 0.0, 0.0
    for s in range(n_states):
        size += (1.0 + contraction) * abs(step[s]) + abs(residual[s])
        error[s] *= 2.0
        residual[s] -= step[s]
        count[s] = 9.0
    for s in range(n_states):
        here = discount * step[s]
        for a in range(n_actions):
            leaving = policy[s, a] * here
            if leaving != 0.0:
                row = s * n_actions + a
                for k in range(np.uint64(indptr[row]), np.uint64(indptr[row + 1])):
                    j = np.uint64(indices[k])
                    residual[j] += data[k] * leaving
                    count[j] += 1.0
    for s in range(n_states):
        n = max(n, count[s])
    if size > 0.0:
        error[0] += n * (ROUNDOFF * size + n_states * n_actions * UNDERFLOW)


@patient_kernel(elements)
def exponentials(x: FloatArray, rest: FloatArray, high: FloatArray, low: FloatArray) -> None:
    """Compute exp(x + rest) with twice float64's digits, for x < 1 and a small rest.

    An x that is NEGLIGIBLE counts as that, as does one that is no number.

    x + rest = k log 2 / 128 + r, and exp r - 1 is a series (Tang, "Table-driven implementation of
    the exponential function", 1989). Without a branch or a call, the loop is vectorised: five times
    as fast.
    """
    for i in range(x.size):
        here = x[i] if x[i] > NEGLIGIBLE else NEGLIGIBLE
        k = (here * (1.0 / PARTS[0]) + INTEGER) - INTEGER
        r, lower = two_sum(here, -k * PARTS[0])
        r, lost = two_sum(r, -k * PARTS[1])
        r, lower = two_sum(r, lower + lost + (rest[i] - k * PARTS[2]))
        square, square_low = two_product(r, r)
        square_low += 2.0 * r * lower
        cube, cube_low = two_product(square, r)
        cube_low += square * lower + square_low * r
        sixth, sixth_low = two_product(cube, SIXTH)
        sixth_low += cube * SIXTH_REST + cube_low * SIXTH
        tail = 1.0 / 120.0 + r * (1.0 / 720.0 + r * (1.0 / 5040.0 + r * (1.0 / 40320.0)))
        tail = square * square * (1.0 / 24.0 + r * tail)
        more, lost = two_sum(0.5 * square, sixth)
        lower += lost + (0.5 * square_low + sixth_low + tail)
        more, lost = two_sum(r, more)
        lower += lost
        at = np.int64(k) + 128 * 1000  # not negative
        root, root_low = ROOTS[np.uint64(at & 127)], ROOTS_LOW[np.uint64(at & 127)]
        product, product_low = two_product(root, more)
        product_low += root * lower + root_low * more
        total, lost = two_sum(root, product)
        total, lower = two_sum(total, lost + (root_low + product_low))
        scale = SCALES[np.uint64(at >> 7)]
        high[i], low[i] = total * scale, lower * scale


@kernel
def quotient(x: float, rest: float, y: float, y_rest: float) -> tuple[float, float]:
    """(x + rest) / (y + y_rest) with twice float64's digits."""
    first = x / y
    product, slip = two_product(first, y)
    left = ((x - product) - slip) + (rest - first * y_rest)
    return two_sum(first, left / y)


@kernel
def product_of(x: float, rest: float, y: float, y_rest: float) -> tuple[float, float]:
    """(x + rest) (y + y_rest) with twice float64's digits."""
    product, slip = two_product(x, y)
    return two_sum(product, slip + (x * y_rest + rest * y))


@kernel
def best_of(gap: FloatArray, rest: FloatArray, available: BoolArray, s: int) -> int:
    """Find a state's action with the largest gap + rest; a NaN is that."""
    best, most, more = -1, 0.0, 0.0
    for a in range(gap.shape[1]):
        if available[s, a]:
            here = gap[s, a]
            tied = here == most and rest[s, a] > more
            if best < 0 or here > most or tied or math.isnan(here):
                best, most, more = a, here, rest[s, a]
    return best


@kernel
def likeliest(policy: FloatArray, available: BoolArray, s: int) -> tuple[int, int]:
    """Find a state's likeliest action, and count those that there are."""
    best, choices = 0, 0
    for a in range(policy.shape[1]):
        choices += available[s, a]
        if policy[s, a] > policy[s, best]:
            best = a
    return best, choices


@patient_kernel(elements)
def soft_policy(
    gap: FloatArray,
    rest: FloatArray,
    error: FloatArray,
    available: BoolArray,
    temperature: float,
    policy: FloatArray,
    low: FloatArray,
    log_error: FloatArray,
    spare: FloatArray,
    log_policy: FloatArray,
    log_policy_error: FloatArray,
    residual: FloatArray,
    residual_error: FloatArray,
    scratch: FloatArray,
) -> None:
    """Turn gaps Q(s,a) - V(s) into a policy and V's soft residual T V - V.

    The gaps, the sum of two numbers each, are off by `error`. So is the policy the sum of two, and
    `log_error` bounds what its logarithm is off by; where `spare` is not 0, that may be anything,
    and the probability is less than that. `log_policy`, which underflow leaves alone, is off by at
    most `log_policy_error`, and the residual by `residual_error`. `scratch` is of shape (5, S).
    """
    n_states, n_actions = gap.shape
    # the logits, in log_policy and spare, less those of each state's best action
    for s in range(n_states):
        best = best_of(gap, rest, available, s)
        for a in range(n_actions):
            policy[s, a] = low[s, a] = log_error[s, a] = spare[s, a] = 0.0
            log_policy[s, a] = log_policy_error[s, a] = 0.0
            if not available[s, a]:
                log_policy[s, a] = NEGLIGIBLE
            elif a != best:
                apart, slip = two_sum(gap[s, a], -gap[s, best])
                apart, slip = two_sum(apart, slip + (rest[s, a] - rest[s, best]))
                logit = max(apart / temperature, -1e300)
                off = error[s, a] + error[s, best]
                off += DOUBLED * (abs(gap[s, a]) + abs(gap[s, best]))
                off = off / temperature + DOUBLED * abs(logit) + FLOOR
                if logit > NEGLIGIBLE:
                    product, lost = two_product(logit, temperature)
                    spare[s, a] = (((apart - product) - lost) + slip) / temperature
                    if apart != 0.0:
                        off += UNDERFLOW / temperature
                log_policy[s, a], log_error[s, a] = logit, off
    exponentials(log_policy.ravel(), spare.ravel(), policy.ravel(), low.ravel())
    # their sums, and its logarithms
    log_total, log_rest, sums, sums_rest, nothing = scratch
    for s in range(n_states):
        total, total_rest, total_error, choices = 0.0, 0.0, 0.0, 0
        for a in range(n_actions):
            if not available[s, a]:
                policy[s, a] = low[s, a] = log_policy[s, a] = 0.0
                continue
            choices += 1
            logit, off = log_policy[s, a], log_error[s, a]
            log_policy[s, a] += spare[s, a]
            log_policy_error[s, a] = off + ROUNDOFF * abs(logit) if logit > -1e300 else np.inf
            spare[s, a] = 0.0
            if off > 0.0:  # of another one than the best
                log_error[s, a] += DOUBLED_EXP
            if not logit - off > NEGLIGIBLE:
                policy[s, a], low[s, a], log_error[s, a] = math.exp(logit), 0.0, 0.0
                spare[s, a] = FLOOR if logit + off < LOG_FLOOR else np.inf
            more, lost = two_sum(total, policy[s, a])
            total, total_rest = two_sum(more, lost + (total_rest + low[s, a]))
            total_error += policy[s, a] * growth(log_error[s, a]) + spare[s, a]
        # it is off by its terms' errors, which weigh as much as they do
        fraction = total_error / total + n_actions * DOUBLED
        residual_error[s] = (
            fraction / (1.0 - fraction) * (1.0 + 8.0 * ROUNDOFF) if fraction < 0.5 else np.inf
        )
        sums[s], sums_rest[s] = total, total_rest
        log_total[s] = -math.log(total)
        nothing[s] = 0.0
        if choices == 1:  # log 1 is 0
            residual_error[s] = 0.0
    exponentials(log_total, nothing, residual, log_rest)
    for s in range(n_states):
        total, total_rest, fraction = sums[s], sums_rest[s], residual_error[s]
        product, slip = two_product(total, residual[s])
        more = (product - 1.0) + (slip + (total * log_rest[s] + total_rest * residual[s]))
        more -= 0.5 * more * more  # log(1 + more)
        logarithm, best = -log_total[s], best_of(gap, rest, available, s)
        for a in range(n_actions):
            if available[s, a] and fraction > 0.0:
                policy[s, a], low[s, a] = quotient(policy[s, a], low[s, a], total, total_rest)
                log_error[s, a] += fraction + DOUBLED
                log_policy[s, a] -= logarithm + more
                log_policy_error[s, a] += fraction + DOUBLED_EXP
                log_policy_error[s, a] += 2.0 * ROUNDOFF * (abs(log_policy[s, a]) + logarithm)
        product, slip = two_product(temperature, logarithm)
        total, lost = two_sum(gap[s, best], product)
        residual[s] = total + (lost + (rest[s, best] + (slip + temperature * more)))
        off = temperature * (fraction + 2.0 * DOUBLED_EXP + DOUBLED * logarithm)
        off += error[s, best] + DOUBLED * abs(gap[s, best])
        residual_error[s] = off + 2.0 * ROUNDOFF * abs(residual[s]) + UNDERFLOW


@patient_kernel(elements)
def move_policy(
    moved: FloatArray,
    error: FloatArray,
    available: BoolArray,
    temperature: float,
    policy: FloatArray,
    low: FloatArray,
    log_error: FloatArray,
    spare: FloatArray,
    log_policy: FloatArray,
    log_policy_error: FloatArray,
    residual: FloatArray,
    residual_error: FloatArray,
) -> None:
    """Let a policy and a residual, as of `soft_policy`, follow gaps as `move_gaps` moved them.

    With t = moved / temperature, less that of the likeliest action, of which 2^-20 is a lot,
    log(sum pi e^t) is the mean of t and half its variance, but for 2 max |t|^3, and e^x is
    1 + x + x^2 / 2, but for another 2 max |t|^3.
    """
    n_states, n_actions = moved.shape
    for s in range(n_states):
        best, choices = likeliest(policy, available, s)
        here = moved[s, best]
        mean, variance, most, off = 0.0, 0.0, 0.0, 0.0
        for a in range(n_actions):
            if a != best and available[s, a]:
                turn = (moved[s, a] - here) / temperature
                size = abs(turn)
                mean += policy[s, a] * turn
                most = max(most, size)
                apart = (error[s, a] + error[s, best]) / temperature
                off += policy[s, a] * (apart + growth(log_error[s, a]) * size)
                off += spare[s, a] * size + UNDERFLOW
        for a in range(n_actions):
            turn = (moved[s, a] - here) / temperature - mean
            variance += policy[s, a] * turn * turn
        mean += 0.5 * variance
        off += 4.0 * most * ((n_actions + 4.0) * ROUNDOFF + most * most)
        for a in range(n_actions):
            if available[s, a] and choices > 1:
                turn = (moved[s, a] - here) / temperature - mean
                more = policy[s, a] * (turn + 0.5 * turn * turn)
                policy[s, a], low[s, a] = two_sum(policy[s, a], low[s, a] + more)
                log_policy[s, a] += turn
                log_error[s, a] += off + DOUBLED
                log_policy_error[s, a] += off + DOUBLED + ROUNDOFF * abs(log_policy[s, a])
                if a != best:
                    apart = (error[s, a] + error[s, best]) / temperature
                    log_policy_error[s, a] += apart
                    if spare[s, a] == 0.0:  # which has room for it
                        log_error[s, a] += apart
        residual[s] += here + temperature * mean
        residual_error[s] += error[s, best] + temperature * off
        residual_error[s] += ROUNDOFF * (abs(here) + abs(residual[s]))


@patient_kernel(elements)
def policy_errors(
    policy: FloatArray,
    log_error: FloatArray,
    spare: FloatArray,
    available: BoolArray,
    gap: FloatArray,
    gap_error: FloatArray,
    value: FloatArray,
    ahead_error: float,
    temperature: float,
    log_policy_error: FloatArray,
    error: FloatArray,
    action_value: FloatArray,
    action_value_error: FloatArray,
) -> None:
    """Bound what the policy is off by, as the value ahead is off by `ahead_error` at most.

    The error of its logarithm grows by it. The action values are those of the value; 0 where an
    action is unavailable.
    """
    n_states, n_actions = policy.shape
    off = 2.0 * ahead_error / temperature
    for s in range(n_states):
        here, choices = value[s], 0
        for a in range(n_actions):
            choices += available[s, a]
        for a in range(n_actions):
            error[s, a] = action_value[s, a] = action_value_error[s, a] = 0.0
            if available[s, a]:
                rounding = 3.0 * ROUNDOFF * (abs(gap[s, a]) + abs(here))
                action_value[s, a] = gap[s, a] + here
                action_value_error[s, a] = gap_error[s, a] + rounding + ahead_error
                if choices > 1:
                    log_off = log_error[s, a] + off
                    error[s, a] = moved_probability(policy[s, a], spare[s, a], log_off)
                    log_policy_error[s, a] += off


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


@patient_kernel(elements)
def outward(bounds: FloatArray, factor: float, least: float) -> bool:
    """Widen bounds that are not 0; what is no bound becomes infinite. Say whether none is."""
    finite = True
    for k in range(bounds.size):
        wider = factor * bounds[k]
        if wider > 0.0:
            wider += least
        bounds[k] = wider if wider >= 0.0 else np.inf
        finite = finite and bounds[k] < np.inf
    return finite


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
) -> tuple[float, float, float]:
    """Turn gaps Q(s,a) - V(s), each off by `error`, into advantages and V's residual, their mean.

    Gaps, policy and advantages are the sums of two numbers each; the policy is off by
    `policy_error`. To the errors of the advantages, what V is off by is still to be added. Returns
    the largest residual, a bound of it, and the largest advantage, times its probability.
    """
    n_states, n_actions = gap.shape
    size, largest, most = 0.0, 0.0, 0.0
    for s in range(n_states):
        mean, mean_rest, off, something = 0.0, 0.0, 0.0, False
        for a in range(n_actions):
            weight = abs(gap[s, a])
            something = something or weight > 0.0 or error[s, a] > 0.0
            part, slip = product_of(policy[s, a], low[s, a], gap[s, a], rest[s, a])
            total, lost = two_sum(mean, part)
            mean, mean_rest = two_sum(total, lost + (mean_rest + slip))
            off += policy[s, a] * (error[s, a] + (n_actions + 2.0) * DOUBLED * weight)
            off += policy_error[s, a] * (weight + error[s, a])
        if something:
            off += UNDERFLOW
        for a in range(n_actions):
            weight = abs(gap[s, a]) + abs(mean)
            total, lost = two_sum(gap[s, a], -mean)
            high, lost = two_sum(total, lost + (rest[s, a] - mean_rest))
            advantage[s, a], advantage_rest[s, a] = high, lost
            advantage_error[s, a] = error[s, a] + DOUBLED * weight + off
            most = max(most, policy[s, a] * abs(high))
        residual[s] = mean
        size = max(size, abs(mean))
        off += abs(mean)
        if off > largest or math.isnan(off):  # a NaN stays
            largest = off
    return size, largest, most


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
) -> float:
    """Compute w = d pi A / temperature, the sum of two numbers, and a bound of its error.

    In each state w adds up to 0, which the likeliest action makes up for. d is the sum of measure
    and its low part, off by `measure_error` in all, and each advantage is off by
    `ahead_error` more than it says. `arrivals` is discount P^T w, unbounded. Returns a bound of the
    sum of all errors.

    An error is `least` or more, for what underflows, unless the state has a single action or no
    advantage. What underflows before it is divided by the temperature is counted at that place.
    """
    n_states, n_actions = policy.shape
    for s in range(n_states):
        arrivals[s] = 0.0
    all_errors, worst = 0.0, 0.0
    for s in range(n_states):
        best, choices = likeliest(policy, available, s)
        for a in range(n_actions):
            source[s, a] = source_rest[s, a] = source_error[s, a] = 0.0
        if choices < 2:
            continue
        here, here_rest = measure[s], measure_low[s]
        lasting, turns = abs(here) + abs(here_rest), 0.0
        total, total_rest, total_error, all_off = 0.0, 0.0, 0.0, 0.0
        for a in range(n_actions):
            unsure = advantage_error[s, a] + ahead_error
            better = abs(advantage[s, a]) + unsure
            if a == best or not available[s, a] or better == 0.0:
                continue
            w, rest = product_of(policy[s, a], low[s, a], advantage[s, a], advantage_rest[s, a])
            w, rest = product_of(w, rest, here, here_rest)
            w, rest = quotient(w, rest, temperature, 0.0)
            likely = (policy[s, a] + policy_error[s, a]) * better
            off = lasting * (policy_error[s, a] * better + policy[s, a] * unsure)
            off += UNDERFLOW * (1.0 + lasting) * (1.0 + better)
            rounding = DOUBLED * abs(w)
            source[s, a], source_rest[s, a] = w, rest
            source_error[s, a] = (off + measure_error * likely) / temperature
            source_error[s, a] += 4.0 * rounding + least
            more, lost = two_sum(total, w)
            total, total_rest = two_sum(more, lost + (total_rest + rest))
            all_off += off
            total_error += (n_actions + 6.0) * rounding + least
            turns += likely
        # an error of its own would be one of 1, where the others' are of their probabilities
        source[s, best], source_rest[s, best] = -total, -total_rest
        total_error += all_off / temperature
        source_error[s, best] = total_error + measure_error * turns / temperature
        all_errors += 2.0 * total_error
        if 2.0 * turns > worst or math.isnan(turns):  # a NaN stays
            worst = 2.0 * turns
        for a in range(n_actions):
            row = s * n_actions + a
            for k in range(np.uint64(indptr[row]), np.uint64(indptr[row + 1])):
                arrivals[np.uint64(indices[k])] += discount * data[k] * source[s, a]
    return all_errors + measure_error * worst / temperature


@patient_kernel(elements)
def left_over(
    residual: FloatArray, error: FloatArray, measure: FloatArray, policy_error: FloatArray
) -> tuple[float, float, float]:
    """Add up a measure, its residual, off by `error`, and what a wrong policy moves, by size."""
    size, total, moved = 0.0, 0.0, 0.0
    for s in range(measure.size):
        lasting = abs(measure[s]) * (1.0 + 2.0 * ROUNDOFF)
        size += lasting
        total += abs(residual[s]) + error[s]
        for a in range(policy_error.shape[1]):
            moved += policy_error[s, a] * lasting
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
    pairs: FloatArray,
    pairs_error: FloatArray,
    influence: FloatArray,
    influence_error: FloatArray,
) -> tuple[float, float]:
    """Spread measures of states over their actions: d pi, and w + pi n.

    `influence` and its error hold w to begin with, and the policy's error comes to hold its
    rounding, too. Bounds that are not 0 for a reason of structure are at least `least` or `lost`.
    Returns - sum mu log pi, and by how much it is off.
    """
    n_states, n_actions = policy.shape
    slope, slope_error = 0.0, 0.0
    terms = n_states * n_actions + 2.0
    for s in range(n_states):
        lasting, off = abs(occupancy[s]), occupancy_error[s]
        size = abs(measure[s])
        error = measure_error + ROUNDOFF * size
        for a in range(n_actions):
            policy_error[s, a] += abs(low[s, a])
            chance, turned = policy[s, a], policy_error[s, a]
            pairs[s, a] = occupancy[s] * chance
            pairs_error[s, a] = off * (chance + turned) + lasting * turned
            pairs_error[s, a] += 2.0 * ROUNDOFF * abs(pairs[s, a])
            w = influence[s, a]
            mu = w + chance * measure[s]
            mu_error = influence_error[s, a] + turned * (size + error) + chance * error
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
