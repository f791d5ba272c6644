"""Upper quantiles: scipy takes half a millisecond for one, and a check needs the same few again."""

from __future__ import annotations

from functools import lru_cache

__all__ = ["chi_squared", "fisher", "normal", "student"]


@lru_cache
def normal(rate: float) -> float:
    """Compute what a normal variable exceeds at this rate."""
    from scipy import stats

    return float(stats.norm.isf(rate))


@lru_cache
def student(rate: float, freedom: int) -> float:
    """Compute what Student's t exceeds at this rate."""
    from scipy import stats

    return float(stats.t.isf(rate, freedom))


@lru_cache
def fisher(rate: float, above: int, below: int) -> float:
    """Compute what Fisher's F exceeds at this rate."""
    from scipy import stats

    return float(stats.f.isf(rate, above, below))


@lru_cache
def chi_squared(rate: float, freedom: int) -> float:
    """Compute what a sum of squares of normal variables exceeds at this rate."""
    from scipy import stats

    return float(stats.chi2.isf(rate, freedom))
