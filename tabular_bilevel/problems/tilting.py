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


def shares_pulled_back(
    share: FloatArray,
    slopes: FloatArray,
    errors: FloatArray,
    roundings: float,
    each_fold: float = 0.0,
    factor: float = 1.0,
) -> tuple[FloatArray, FloatArray]:
    """Compute factor * p (g - mean of g under p) of each row p, and bound it as `tilt_reach`; flat.

    Shares that underflow count in the mean, too. Slopes g that are left out at the end of rows are
    0. `kernels.pull_back_shares` says what the roundings are.
    """
    pulled, bound, rows = np.empty(share.shape), np.empty(share.shape), len(share)
    kernels.pull_back_shares(
        read_only_view(share),
        read_only_view(slopes.reshape(rows, -1)),
        read_only_view(errors.reshape(rows, -1)),
        roundings,
        each_fold,
        factor,
        pulled,
        bound,
    )
    return pulled.reshape(-1), bound.reshape(-1)
