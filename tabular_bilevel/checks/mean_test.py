"""Tests of a mean: Hotelling's of all coordinates together, or Student's of each."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tabular_bilevel._arrays import BoolArray, FloatArray
from tabular_bilevel.trajectories import row_blocks

__all__ = ["ASTRAY", "MeanTest", "caution", "hotelling", "worst_of_many"]

# What never varies is right up to so many times the rounding.
ASTRAY = 10.0

# Correlations have rounding errors of their own: directions with less variance than this, of 1 for
# a coordinate, do not vary.
FLAT = 1e-10

# Of skewed replicates, means and variances go together, and tests alarm too often: critical values
# of squares grow by this many times Mardia's skewness over n. Fitted to ten samples of single
# trajectories: at a rate of 1 %, they then alarm at 0.5 % to 2.6 % from 100 replicates on, not at
# up to 6 %.
SKEWNESS_CORRECTION = 2.0


def caution(white: FloatArray) -> float:
    """Factor of the critical values of data, shape (n, r), with mean 0 and covariance 1.

    Mardia, "Measures of multivariate skewness and kurtosis", Biometrika 57 (1970): b is the sum of
    squares of all third moments, and r (r + 1) (r + 2) / n in the mean of normal data.
    """
    count, rank = white.shape
    total = 0.0
    if rank**2 > count:  # sum over pairs of replicates, which is the same number
        for block in row_blocks(count, count):
            total += float(((white[block] @ white.T) ** 3).sum())
    else:
        moments = np.zeros((rank, rank * rank))
        for block in row_blocks(count, rank * rank):
            rows = white[block]
            moments += rows.T @ (rows[:, :, None] * rows[:, None, :]).reshape(len(rows), -1)
        total = float((moments**2).sum())
    skewness = total / count**2 - rank * (rank + 1) * (rank + 2) / count
    return math.sqrt(1.0 + SKEWNESS_CORRECTION * max(skewness, 0.0) / count)


@dataclass(frozen=True)
class MeanTest:
    """A statistic, its critical value, and the bias along the target that it would show."""

    statistic: float
    critical_value: float
    visible: float
    n_tests: int
    in_doubt: bool = False


def worst_of_many(
    scores: FloatArray,
    tested: BoolArray,
    count: int,
    error: float,
    *,
    false_alarm_rate: float,
    power: float,
) -> MeanTest:
    """Student's t in each coordinate and along the target; Bonferroni."""
    from scipy import stats

    n_tests = int(tested.sum())
    critical = float(stats.t.isf(false_alarm_rate / (2 * max(n_tests, 1)), count - 1))
    visible = (critical + float(stats.norm.isf(1.0 - power))) * error
    return MeanTest(float(scores.max()), critical, float(visible), n_tests)


def hotelling(
    noise: FloatArray,
    gap: FloatArray,
    along: FloatArray,
    floor: FloatArray,
    *,
    false_alarm_rate: float,
    power: float,
) -> MeanTest:
    """Hotelling's T^2 of coordinates in units of their standard errors, in which they vary.

    T^2 (n - r) / (r (n - 1)) has Fisher's law with r and n - r degrees of freedom; a bias b shifts
    it by b' C^-1 b, C the covariance of the mean, whose inverse is estimated too large by
    (n - 1) / (n - r - 2).
    """
    from scipy import optimize, stats

    count = len(noise)
    covariance = noise.T @ noise / (count * (count - 1)) + np.diag(floor**2)
    variance, axes = np.linalg.eigh(covariance)
    rounding = floor**2 @ axes**2
    # as of a single coordinate: replicates spread by more than rounding
    varying = variance - rounding > FLAT + rounding / count
    shifts, targets = axes.T @ gap, axes.T @ along
    rank = int(varying.sum())
    statistic = float(np.sqrt((shifts[varying] ** 2 / variance[varying]).sum()))
    freedom = (rank, count - rank)
    white = noise @ axes[:, varying] / np.sqrt(variance[varying] * count)
    critical = float(stats.f.isf(false_alarm_rate, *freedom)) * caution(white) ** 2

    def missed(shift: float) -> float:
        return float(stats.ncf.cdf(critical, *freedom, shift)) - (1.0 - power)

    largest = 1.0
    while missed(largest) > 0.0:
        largest *= 2.0
    # 0 if a correct estimator is already failed as often as that
    needed = float(optimize.brentq(missed, 0.0, largest, xtol=1e-3)) if missed(0.0) > 0.0 else 0.0
    information = (targets[varying] ** 2 / variance[varying]).sum()
    information *= max(count - rank - 2, 1) / (count - 1)
    limit = float(np.sqrt(critical * rank * (count - 1) / (count - rank)))
    visible = math.sqrt(needed / information) if information > 0.0 else math.inf
    # a combination that never varies, and is off by more than rounding: what moves it may be rare
    still = np.sqrt(variance[~varying].clip(min=0.0)) + np.sqrt(FLAT)
    noticed = np.maximum(ASTRAY * still, limit)
    moved = np.abs(targets[~varying])
    if (moved > 0.0).any():
        visible = min(visible, float((noticed[moved > 0.0] / moved[moved > 0.0]).min()))
    return MeanTest(
        statistic=statistic,
        critical_value=limit,
        visible=visible,
        n_tests=1,
        in_doubt=bool((np.abs(shifts[~varying]) > noticed).any()),
    )
