"""How far errors reach through probabilities that theta tilts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tabular_bilevel._base import kernels
from tabular_bilevel._base.arrays import (
    ROUNDOFF,
    UNDERFLOW,
    BoolArray,
    FloatArray,
    at_least,
    read_only_view,
)

__all__ = ["softmax_reach", "tilt_reach"]


def tilt_reach(
    probability: FloatArray,
    size: FloatArray,
    errors: FloatArray,
    roundings: float | FloatArray,
    mean: Callable[[FloatArray], Any],
    *,
    there: BoolArray | bool = True,
) -> FloatArray:
    """Bound what p (g - mean of g under p) is off by, for g of these sizes and errors.

    It is rounded so often, relative to the size of g. A probability that underflows is not 0 if it
    is `there`.
    """
    off = errors + at_least(ROUNDOFF * roundings * size, size)
    reach = off + mean(off)
    lost = at_least(UNDERFLOW * (size + mean(size) + reach), reach)
    return np.asarray(probability * reach + np.where(there, lost, 0.0))


def softmax_reach(
    share: FloatArray, size: FloatArray, errors: FloatArray, roundings: float
) -> FloatArray:
    """Bound as `tilt_reach`, along the last axis; shares that underflow count in the mean, too.

    Sizes and errors that are left out at the end of an axis are 0.
    """
    reach = np.empty(share.shape)
    at, of, off, bound = (
        table.reshape(-1, table.shape[-1]) for table in (share, size, errors, reach)
    )
    kernels.softmax_errors(read_only_view(at), of, off, roundings, bound)
    return reach
