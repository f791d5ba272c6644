"""Kernels that pull measures back, and bound how far their errors reach."""

from __future__ import annotations

import math

import numpy as np

from tabular_bilevel._base.arrays import FloatArray, IntArray
from tabular_bilevel._base.jit import elements, patient_kernel

__all__ = ["pull_back", "pull_back_shares"]

# As in `arrays`.
ROUNDOFF, UNDERFLOW = 2.0**-53, 2.0**-1000

# A share that is exp(-800) of another is none in float64.
MOST_FOLDS = 800.0


@patient_kernel(elements)
def pull_back(
    indptr: IntArray,
    indices: IntArray,
    data: FloatArray,
    slopes: FloatArray,
    errors: FloatArray,
    roundings: float,
    pulled: FloatArray,
    bound: FloatArray,
) -> None:
    """Add a CSR matrix times slopes, and a bound of what it is off by if they are by `errors`.

    Each of a row's n terms is rounded n + `roundings` times. 0 only where all terms are.
    """
    for row in range(bound.size):
        n = indptr[row + 1] - indptr[row]
        product, total, size = 0.0, 0.0, 0.0
        something = False
        for k in range(np.uint64(indptr[row]), np.uint64(indptr[row + 1])):
            j = np.uint64(indices[k])  # no sign to look at
            product += data[k] * slopes[j]
            feature = abs(data[k])
            total += feature * errors[j]
            size += feature * abs(slopes[j])
            if feature > 0.0 and (errors[j] > 0.0 or slopes[j] != 0.0):
                something = True
        pulled[row] += product
        bound[row] += total + (n + roundings) * ROUNDOFF * size
        if something:
            bound[row] += n * UNDERFLOW


@patient_kernel(elements)
def pull_back_shares(
    share: FloatArray,
    slopes: FloatArray,
    errors: FloatArray,
    roundings: float,
    each_fold: float,
    factor: float,
    pulled: FloatArray,
    bound: FloatArray,
) -> None:
    """Compute factor * p (g - mean of g under p) row by row, and bound what it is off by.

    The slopes g are off by `errors`; all is rounded `roundings` times, relative to the size of g,
    and `each_fold` times more for each factor of e that the smallest share is below 1. Where
    columns of slopes are left out, g is 0.
    """
    n_rows, n = share.shape
    scale = abs(factor)
    for row in range(n_rows):
        smallest = 1.0
        for k in range(n):
            smallest = min(smallest, share[row, k])
        folds = -math.log(smallest) if smallest > 0.0 else MOST_FOLDS
        off_by = ROUNDOFF * (roundings + each_fold * folds)
        mean, total, mean_off, mean_size = 0.0, 0.0, 0.0, 0.0
        for k in range(slopes.shape[1]):
            size = abs(slopes[row, k])
            mean += share[row, k] * slopes[row, k]
            total += size + errors[row, k]
            mean_off += share[row, k] * (errors[row, k] + off_by * size)
            mean_size += share[row, k] * size
        least = UNDERFLOW if total > 0.0 and scale > 0.0 else 0.0
        lost = least * (1.0 + total)  # also where a share underflows, whose weight is lost
        for k in range(n):
            slope, size, off = 0.0, 0.0, mean_off + 3.0 * lost
            if k < slopes.shape[1]:
                slope = slopes[row, k]
                size = abs(slope)
                off += errors[row, k] + off_by * size
            pulled[row, k] = factor * share[row, k] * (slope - mean)
            bound[row, k] = share[row, k] * off
            bound[row, k] += least * (1.0 + size + mean_size + lost + off)
            bound[row, k] = scale * bound[row, k] + lost  # the factor's product underflows, too
