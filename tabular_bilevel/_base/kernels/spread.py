"""Kernels that compute variances without sampling."""

from __future__ import annotations

from tabular_bilevel._base.arrays import FloatArray, IntArray
from tabular_bilevel._base.jit import kernel

__all__ = ["local_variances"]


@kernel
def local_variances(
    state: IntArray,
    arrival: IntArray,
    row: IntArray,
    weights: FloatArray,
    slopes: FloatArray,
    given: FloatArray,
    coming: FloatArray,
    means: FloatArray,
    decays: FloatArray,
    coin: float,
    later: FloatArray,
    off: FloatArray,
    found: FloatArray,
) -> None:
    """Add up weighted squares of what outcomes are off their state's mean (theory.md section 16).

    Outcome o leads from `state` to `arrival`. Of k things it multiplies the first by a `row` of
    `slopes` and `decays` times what is `coming`; each other one so, too, and by `given` times the
    first's share of what is coming. The coming parts count `coin` times more, without their means.
    `weights` (k, k, n) are of the outcomes; `later` and `off` (k, c) are scratch.
    """
    k, width = off.shape
    for o in range(state.size):
        s, to, r = state[o], arrival[o], row[o]
        for i in range(k):
            for x in range(width):
                later[i, x] = decays[i] * coming[i, to, x]
                if i > 0:
                    later[i, x] += given[i, r] * later[0, x]
                off[i, x] = slopes[i, r, x] + later[i, x] - means[i, s, x]
        for i in range(k):
            for j in range(i + 1):
                weight = weights[i, j, o] if i == j else 2.0 * weights[i, j, o]
                for x in range(width):
                    found[x] += weight * off[i, x] * off[j, x]
                if coin > 0.0:
                    for x in range(width):
                        found[x] += coin * weight * later[i, x] * later[j, x]
