"""Kernels of bounds, some with twice float64's digits.

Loops over tables take one action after the other: where a table lies in that order in memory, as
those of `chain` do, eight states are computed at once. They are right for any other.
"""

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


@kernel
def quick_sum(x: float, y: float) -> tuple[float, float]:
    """Sum and its rounding error, exactly if x is the larger one (Dekker).

    Else the error is off by a rounding of y, which is no matter where y is one of x.
    """
    total = x + y
    return total, y - (total - x)


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
    return x + x * x if x < 1.0 else math.expm1(x) if x < 700.0 else np.inf


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
            high, more = quick_sum(high, more + (lost - low[s]))
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
    most: float,
    residual: FloatArray,
    rest: FloatArray,
) -> float:
    """Compute source + discount P^T (flow + policy m) - m with twice float64's digits, then round.

    So many have flow, policy and m, the sum of measure and low. At most `most` pairs flow into one
    state. `rest`, of length S, is room. Returns what all residuals together are off by.
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
            row, mass = s * n_actions + a, 0.0
            first, last = np.uint64(indptr[row]), np.uint64(indptr[row + 1])
            for k in range(first, last):
                j, p = np.uint64(indices[k]), data[k]
                product, slip = two_product(p, leaving)
                residual[j], lost = two_sum(residual[j], product)
                rest[j] += lost + (slip + p * extra)
                mass += p
            size += mass * (abs(moved) + abs(chance * here))
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
        size += abs(start) + abs(here)
        left += abs(residual[s])
    n = most + 9.0
    error = n * n * (ROUNDOFF * ROUNDOFF) * size + ROUNDOFF * left
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
    most: float,
    residual: FloatArray,
    error: float,
) -> float:
    """Let a residual, as of `flow_residual`, follow a measure that went a step, in plain float64.

    That is by discount P^T (policy step) - step. Returns what all residuals are off by then.
    """
    n_states, n_actions = policy.shape
    size = 0.0
    for s in range(n_states):
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
def exponentials(x: FloatArray, rest: FloatArray, high: FloatArray, low: FloatArray) -> None:
    """Compute exp(x + rest) with twice float64's digits, for x < 1 and a small rest; of tables.

    An x that is NEGLIGIBLE counts as that, as does one that is no number.

    x + rest = k log 2 / 128 + r, and exp r - 1 is a series (Tang, "Table-driven implementation of
    the exponential function", 1989).
    """
    n_states, n_actions = x.shape
    for a in range(n_actions):
        for s in range(n_states):
            here = x[s, a] if x[s, a] > NEGLIGIBLE else NEGLIGIBLE
            k = (here * (1.0 / PARTS[0]) + INTEGER) - INTEGER
            r, lower = two_sum(here, -k * PARTS[0])
            r, lost = two_sum(r, -k * PARTS[1])
            r, lower = two_sum(r, lower + lost + (rest[s, a] - k * PARTS[2]))
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
            high[s, a], low[s, a] = total * scale, lower * scale


@kernel
def quotient(x: float, rest: float, y: float, y_rest: float) -> tuple[float, float]:
    """(x + rest) / (y + y_rest) with twice float64's digits."""
    first = x / y
    product, slip = two_product(first, y)
    left = ((x - product) - slip) + (rest - first * y_rest)
    return quick_sum(first, left / y)


@kernel
def product_of(x: float, rest: float, y: float, y_rest: float) -> tuple[float, float]:
    """(x + rest) (y + y_rest) with twice float64's digits."""
    product, slip = two_product(x, y)
    return quick_sum(product, slip + (x * y_rest + rest * y))


@kernel
def best_actions(
    gap: FloatArray,
    rest: FloatArray,
    error: FloatArray,
    available: BoolArray,
    best: IntArray,
    top: FloatArray,
    top_rest: FloatArray,
    top_error: FloatArray,
) -> None:
    """Find each state's action with the largest gap + rest; a NaN is that."""
    n_states, n_actions = gap.shape
    for s in range(n_states):
        best[s], top[s], top_rest[s], top_error[s] = 0, -np.inf, -np.inf, 0.0
    for a in range(n_actions):
        for s in range(n_states):
            here, more, off = gap[s, a], rest[s, a], error[s, a]
            most, most_rest, most_off = top[s], top_rest[s], top_error[s]
            better = here > most or (here == most and more > most_rest) or math.isnan(here)
            better = available[s, a] and better
            best[s] = a if better else best[s]
            top[s] = here if better else most
            top_rest[s] = more if better else most_rest
            top_error[s] = off if better else most_off


@kernel
def likeliest_actions(policy: FloatArray, best: IntArray, most: FloatArray) -> None:
    """Find each state's likeliest action, the first of several."""
    n_states, n_actions = policy.shape
    for s in range(n_states):
        best[s], most[s] = 0, policy[s, 0]
    for a in range(1, n_actions):
        for s in range(n_states):
            better = policy[s, a] > most[s]
            best[s] = a if better else best[s]
            most[s] = policy[s, a] if better else most[s]


@kernel
def logits(
    gap: FloatArray,
    rest: FloatArray,
    error: FloatArray,
    available: BoolArray,
    temperature: float,
    best: IntArray,
    top: FloatArray,
    top_rest: FloatArray,
    top_error: FloatArray,
    logit: FloatArray,
    logit_rest: FloatArray,
    off: FloatArray,
) -> None:
    """Compute (gap - that of the best action) / temperature, the sum of two numbers, with errors.

    NEGLIGIBLE where an action is unavailable.
    """
    n_states, n_actions = gap.shape
    for a in range(n_actions):
        for s in range(n_states):
            here, other = gap[s, a], available[s, a] and best[s] != a
            apart, slip = two_sum(here, -top[s])
            apart, slip = quick_sum(apart, slip + (rest[s, a] - top_rest[s]))
            high = apart / temperature
            high = high if high > -1e300 else -1e300
            product, lost = two_product(high, temperature)
            more = (((apart - product) - lost) + slip) / temperature
            unsure = error[s, a] + top_error[s] + DOUBLED * (abs(here) + abs(top[s]))
            unsure = (unsure + (UNDERFLOW if apart != 0.0 else 0.0)) / temperature
            off[s, a] = unsure + DOUBLED * abs(high) + FLOOR if other else 0.0
            logit_rest[s, a] = more if other and high > NEGLIGIBLE else 0.0
            high = high if other else 0.0
            logit[s, a] = high if available[s, a] else NEGLIGIBLE


@kernel
def weights(
    available: BoolArray,
    policy: FloatArray,
    low: FloatArray,
    log_error: FloatArray,
    spare: FloatArray,
    log_policy: FloatArray,
    log_policy_error: FloatArray,
    missing: FloatArray,
) -> None:
    """Turn logits, as of `logits`, into what is in proportion to the policy, as of `soft_policy`.

    `missing` is by what all errors of a state come to more than `totals` says.
    """
    n_states, n_actions = policy.shape
    for s in range(n_states):
        missing[s] = 0.0
    odd = 0
    exponentials(log_policy, spare, policy, low)
    for a in range(n_actions):
        for s in range(n_states):
            here, off, rest = log_policy[s, a], log_error[s, a], spare[s, a]
            high, lower = policy[s, a], low[s, a]
            policy[s, a] = high if available[s, a] else 0.0
            low[s, a] = lower if available[s, a] else 0.0
            log_off = off + ROUNDOFF * abs(here) if here > -1e300 else np.inf
            log_policy_error[s, a] = log_off if available[s, a] else 0.0
            off = off + DOUBLED_EXP if off != 0.0 else 0.0  # of another one than the best
            here = here + rest if available[s, a] else 0.0
            odd += not (here - off > NEGLIGIBLE and off < 1.0)
            log_policy[s, a], log_error[s, a], spare[s, a] = here, off, 0.0
    if odd == 0:
        return
    for s in range(n_states):
        for a in range(n_actions):
            here, off = log_policy[s, a], log_error[s, a]
            if not here - off > NEGLIGIBLE:
                policy[s, a], low[s, a], log_error[s, a] = math.exp(here), 0.0, 0.0
                spare[s, a] = FLOOR if here + off < LOG_FLOOR else np.inf
            elif not off < 1.0:
                missing[s] += policy[s, a] * growth(off)


@kernel
def totals(
    policy: FloatArray,
    low: FloatArray,
    log_error: FloatArray,
    spare: FloatArray,
    total: FloatArray,
    total_rest: FloatArray,
    fraction: FloatArray,
    log_total: FloatArray,
) -> None:
    """Add up weights: the sums, of two numbers each, and less their logarithms.

    A sum is off by its terms' errors, which weigh as much as they do: by `fraction` of it, which
    holds what is missing to begin with.
    """
    n_states, n_actions = policy.shape
    for s in range(n_states):
        total[s] = total_rest[s] = 0.0
    for a in range(n_actions):
        for s in range(n_states):
            total[s], lost = two_sum(total[s], policy[s, a])
            total_rest[s] += lost + low[s, a]
            off = log_error[s, a]
            fraction[s] += policy[s, a] * (off + off * off) + spare[s, a]
    rounding = (n_actions + 2.0) * (n_actions + 2.0) * DOUBLED
    for s in range(n_states):
        part = fraction[s] / total[s] + rounding
        part = part / (1.0 - part) * (1.0 + 8.0 * ROUNDOFF) if part < 0.5 else np.inf
        fraction[s] = part if fraction[s] != 0.0 else 0.0  # a single action's is 1
    for s in range(n_states):
        log_total[s] = -math.log(total[s])


@kernel
def shares(
    available: BoolArray,
    total: FloatArray,
    total_rest: FloatArray,
    fraction: FloatArray,
    log_total: FloatArray,
    policy: FloatArray,
    low: FloatArray,
    log_error: FloatArray,
    log_policy: FloatArray,
    log_policy_error: FloatArray,
) -> None:
    """Divide weights by their totals."""
    n_states, n_actions = policy.shape
    for a in range(n_actions):
        for s in range(n_states):
            policy[s, a], low[s, a] = quotient(policy[s, a], low[s, a], total[s], total_rest[s])
            several = available[s, a] and fraction[s] != 0.0
            log_error[s, a] += fraction[s] + DOUBLED if several else 0.0
            here = log_policy[s, a] - (log_total[s] if available[s, a] else 0.0)
            rounding = 2.0 * ROUNDOFF * (abs(here) + log_total[s])
            off = fraction[s] + DOUBLED_EXP + rounding
            log_policy[s, a] = here
            log_policy_error[s, a] += off if several else 0.0


@kernel
def soft_residuals(
    top: FloatArray,
    top_rest: FloatArray,
    top_error: FloatArray,
    total: FloatArray,
    total_rest: FloatArray,
    back: FloatArray,
    back_rest: FloatArray,
    fraction: FloatArray,
    temperature: float,
    log_total: FloatArray,
    residual: FloatArray,
    residual_error: FloatArray,
) -> None:
    """Compute top + temperature log(total) with twice float64's digits, then round.

    `log_total` holds less the logarithms in float64, of which `back` and its rest are the
    exponentials; it comes to hold the logarithms.
    """
    for s in range(total.size):
        # log(total) = logarithm + log(1 + more)
        logarithm = -log_total[s]
        product, slip = two_product(total[s], back[s])
        more = (product - 1.0) + (slip + (total[s] * back_rest[s] + total_rest[s] * back[s]))
        more -= 0.5 * more * more
        log_total[s] = logarithm + more
        product, slip = two_product(temperature, logarithm)
        high, lost = two_sum(top[s], product)
        high += lost + (top_rest[s] + (slip + temperature * more))
        off = temperature * (fraction[s] + 2.0 * DOUBLED_EXP + DOUBLED * logarithm)
        off += top_error[s] + DOUBLED * abs(top[s])
        residual[s] = high
        residual_error[s] = off + 2.0 * ROUNDOFF * abs(high) + UNDERFLOW


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
    best: IntArray,
    scratch: FloatArray,
) -> None:
    """Turn gaps Q(s,a) - V(s) into a policy and V's soft residual T V - V.

    The gaps, the sum of two numbers each, are off by `error`. So is the policy the sum of two, and
    `log_error` bounds what its logarithm is off by; where `spare` is not 0, that may be anything,
    and the probability is less than that. `log_policy`, which underflow leaves alone, is off by at
    most `log_policy_error`, and the residual by `residual_error`. `best` and `scratch`, of shape
    (10, S), are room.
    """
    top, top_rest, top_error = scratch[0], scratch[1], scratch[2]
    total, total_rest, fraction, log_total = scratch[3], scratch[4], scratch[5], scratch[6]
    best_actions(gap, rest, error, available, best, top, top_rest, top_error)
    logits(
        gap, rest, error, available, temperature, best, top, top_rest, top_error, log_policy, spare,
        log_error,
    )  # fmt: skip
    weights(available, policy, low, log_error, spare, log_policy, log_policy_error, fraction)
    totals(policy, low, log_error, spare, total, total_rest, fraction, log_total)
    scratch[7] = 0.0
    exponentials(scratch[6:7].T, scratch[7:8].T, scratch[8:9].T, scratch[9:].T)
    soft_residuals(
        top, top_rest, top_error, total, total_rest, scratch[8], scratch[9], fraction, temperature,
        log_total, residual, residual_error,
    )  # fmt: skip
    shares(
        available, total, total_rest, fraction, log_total, policy, low, log_error, log_policy,
        log_policy_error,
    )  # fmt: skip


@kernel
def turns(
    moved: FloatArray,
    error: FloatArray,
    available: BoolArray,
    temperature: float,
    policy: FloatArray,
    log_error: FloatArray,
    spare: FloatArray,
    best: IntArray,
    here: FloatArray,
    here_error: FloatArray,
    mean: FloatArray,
    off: FloatArray,
    most: FloatArray,
    several: FloatArray,
) -> None:
    """Compute the first two moments of how far logits turn, and what their logarithm is off by."""
    n_states, n_actions = moved.shape
    for s in range(n_states):
        here[s] = here_error[s] = mean[s] = off[s] = most[s] = several[s] = 0.0
    for a in range(n_actions):
        for s in range(n_states):
            here[s] += moved[s, a] if best[s] == a else 0.0
            here_error[s] += error[s, a] if best[s] == a else 0.0
    for a in range(n_actions):
        for s in range(n_states):
            other, chance = available[s, a] and best[s] != a, policy[s, a]
            turn = (moved[s, a] - here[s]) / temperature
            size, x = abs(turn), log_error[s, a]
            apart = (error[s, a] + here_error[s]) / temperature
            unsure = 1.0 if x >= 1.0 else chance * (x + x * x)
            unsure = chance * apart + (unsure + spare[s, a]) * size + UNDERFLOW
            mean[s] += chance * turn if other else 0.0
            off[s] += unsure if other else 0.0
            most[s] = size if other and not size <= most[s] else most[s]
            several[s] += 1.0 if other else 0.0
    scale = (n_actions + 4.0) * ROUNDOFF
    for s in range(n_states):
        off[s] += 4.0 * most[s] * (scale + most[s] * most[s])
        most[s] = 0.0  # from here on, the variance
    for a in range(n_actions):
        for s in range(n_states):
            turn = (moved[s, a] - here[s]) / temperature - mean[s]
            most[s] += policy[s, a] * turn * turn if available[s, a] else 0.0
    for s in range(n_states):
        mean[s] += 0.5 * most[s]


@kernel
def turn_logits(
    moved: FloatArray,
    error: FloatArray,
    available: BoolArray,
    temperature: float,
    best: IntArray,
    here: FloatArray,
    here_error: FloatArray,
    mean: FloatArray,
    off: FloatArray,
    several: FloatArray,
    policy: FloatArray,
    low: FloatArray,
    log_error: FloatArray,
    spare: FloatArray,
    log_policy: FloatArray,
    log_policy_error: FloatArray,
) -> None:
    """Turn the logits of states with several actions, and their policy, to second order."""
    n_states, n_actions = moved.shape
    for a in range(n_actions):
        for s in range(n_states):
            turns = available[s, a] and several[s] > 0.0
            turn = (moved[s, a] - here[s]) / temperature - mean[s]
            turn = turn if turns else 0.0
            more = policy[s, a] * (turn + 0.5 * turn * turn)
            policy[s, a], low[s, a] = two_sum(policy[s, a], low[s, a] + more)
            log_policy[s, a] += turn
            apart = (error[s, a] + here_error[s]) / temperature
            apart = apart if available[s, a] and best[s] != a else 0.0
            more = off[s] + DOUBLED if turns else 0.0
            # a spare chance has room for what is apart
            log_error[s, a] += more + (apart if spare[s, a] == 0.0 else 0.0)
            more += ROUNDOFF * abs(log_policy[s, a]) if turns else 0.0
            log_policy_error[s, a] += more + apart


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
    best: IntArray,
    scratch: FloatArray,
) -> None:
    """Let a policy and a residual, as of `soft_policy`, follow gaps as `move_gaps` moved them.

    With t = moved / temperature, less that of the likeliest action, of which 2^-20 is a lot,
    log(sum pi e^t) is the mean of t and half its variance, but for 2 max |t|^3, and e^x is
    1 + x + x^2 / 2, but for another 2 max |t|^3. `best` and `scratch`, of shape (6, S), are room.
    """
    here, here_error, mean = scratch[0], scratch[1], scratch[2]
    off, most, several = scratch[3], scratch[4], scratch[5]
    likeliest_actions(policy, best, most)
    turns(
        moved, error, available, temperature, policy, log_error, spare, best, here, here_error,
        mean, off, most, several,
    )  # fmt: skip
    turn_logits(
        moved, error, available, temperature, best, here, here_error, mean, off, several, policy,
        low, log_error, spare, log_policy, log_policy_error,
    )  # fmt: skip
    for s in range(residual.size):
        residual[s] += here[s] + temperature * mean[s]
        residual_error[s] += here_error[s] + temperature * off[s]
        residual_error[s] += ROUNDOFF * (abs(here[s]) + abs(residual[s]))


@kernel
def count_available(available: BoolArray, count: FloatArray) -> None:
    """Count each state's available actions."""
    n_states, n_actions = available.shape
    for s in range(n_states):
        count[s] = 0.0
    for a in range(n_actions):
        for s in range(n_states):
            count[s] += 1.0 if available[s, a] else 0.0


@kernel
def probability_errors(
    policy: FloatArray,
    log_error: FloatArray,
    spare: FloatArray,
    available: BoolArray,
    several: FloatArray,
    off: float,
    log_policy_error: FloatArray,
    error: FloatArray,
) -> int:
    """Bound what probabilities are off by, as `moved_probability`; count where that takes more."""
    n_states, n_actions = policy.shape
    odd = 0
    for a in range(n_actions):
        for s in range(n_states):
            choice = available[s, a] and several[s] > 1.0
            x = log_error[s, a] + off
            odd += choice and not (x < 1.0 and spare[s, a] == 0.0)
            unsure = policy[s, a] * (x + x * x)
            unsure = unsure if unsure < 1.0 else 1.0
            error[s, a] = unsure if choice else 0.0
            log_policy_error[s, a] += off if choice else 0.0
    return odd


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
    several: FloatArray,
) -> None:
    """Bound what the policy is off by, as the value ahead is off by `ahead_error` at most.

    The error of its logarithm grows by it. The action values are those of the value; 0 where an
    action is unavailable. `several`, of length S, is room.
    """
    n_states, n_actions = policy.shape
    for s in range(n_states):
        here = value[s]
        for a in range(n_actions):
            action_value[s, a] = action_value_error[s, a] = 0.0
            if available[s, a]:
                rounding = 3.0 * ROUNDOFF * (abs(gap[s, a]) + abs(here))
                action_value[s, a] = gap[s, a] + here
                action_value_error[s, a] = gap_error[s, a] + rounding + ahead_error
    off = 2.0 * ahead_error / temperature
    count_available(available, several)
    odd = probability_errors(
        policy, log_error, spare, available, several, off, log_policy_error, error
    )
    for s in range(n_states if odd > 0 else 0):
        for a in range(n_actions):
            if available[s, a] and several[s] > 1.0:
                log_off = log_error[s, a] + off
                error[s, a] = moved_probability(policy[s, a], spare[s, a], log_off)


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
        wider = wider + least if wider > 0.0 else wider if wider == 0.0 else np.inf
        bounds[k] = wider
        finite &= wider < np.inf
    return finite


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
