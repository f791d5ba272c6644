"""Arithmetic with twice float64's digits, and what bounds have in common.

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

from tabular_bilevel._base.arrays import FloatArray, IntArray
from tabular_bilevel._base.jit import elements, kernel, patient_kernel

__all__ = ["exponentials", "outward"]


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
