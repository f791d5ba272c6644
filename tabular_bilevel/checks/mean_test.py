"""Tests of a mean that keep their level on skewed data: theory.md, section 7.

Hotelling's test of all coordinates together, or where replicates are few for that Student's of
each. Both take the noise for nearly normal, and on skewed data they alarm too often: a rare large
value that was not drawn leaves a mean that is off and a spread that is too small to show it. So the
critical value grows with how much a tail on the unseen side could explain the gap, by the third
moment there, and doubles where only a few replicates make that tail.

No test of a finite sample keeps its level over all laws of finite variance and has power (Bahadur
and Savage, "The nonexistence of certain statistical procedures in nonparametric problems", Annals
of Mathematical Statistics 27, 1956): what happens once in N replicates is not seen in fewer. The
constants below were chosen by simulation, which ``validation/checker.py`` repeats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import scipy.sparse as sp

from tabular_bilevel._base.arrays import BoolArray, FloatArray, blocks, ratio
from tabular_bilevel.checks.quantiles import fisher, normal, student
from tabular_bilevel.sampling.trajectories import row_blocks

# What never varies is right up to so many times the rounding.
ASTRAY = 10.0

# Correlations have rounding errors of their own: directions with less variance than this, of 1 for
# a coordinate, do not vary.
FLAT = 1e-10

# Directions with so many times that variance, or more, vary in other samples, too.
STEADY = 4.0

# Replicates for each direction from which Hotelling's test is used, which knows how coordinates
# vary together; with fewer its small-sample law has little power.
REPLICATES_A_DIRECTION = 10

# Third moments of a tail, of data with variance 1: up to this one side is no more than normal
# (0.8), plus its sampling error.
USUAL_TAIL = 1.2

# Critical values grow by so many times the first term of Edgeworth's expansion, (2 c^2 + 1) / 6
# times skewness / sqrt(n), ...
EDGEWORTH = 3.0

# ... and by so much for all that the quantile times skewness / sqrt(n) exceeds the second, where
# the expansion ends to hold.
STEEP, EXPANDABLE = 60.0, 0.5

# Beyond this skewness / sqrt(n), about 11 replicates make the tail and these sums hold no longer:
# critical values are that many times as large.
HEAVY_TAIL, GROSSLY = 0.3, 2.0

# The sampling variance of third and fourth moments is estimated too low where tails are heavy, as
# these estimates lack the same unseen values: what exceeds that of normal data counts so often.
UNSEEN_SIXTH, UNSEEN_FOURTH = 8.0, 3.0

# A target that leaves the directions in which replicates vary is seen that much worse in them.
OUT_OF_RANGE = 1.15

# Where replicates never vary the mean may be off by this share of the target: what moves it may be
# rare. A bias is noticed there if it is larger by some rounding.
STILL_SHARE, CLEARLY = 0.05, 1.01

# What is less of a direction of length 1 is rounding.
IN_RANGE = 1e-9

# Probability that independent replicates are called dependent.
DEPENDENCE_RATE = 1e-3

# Dependence is looked for at lags up to this, and in the means of so many batches.
LONGEST_LAG, BATCHES = 10, 10

# Random orders that have to be further from it than what is called dependent.
ORDERS = 999


@dataclass(frozen=True, eq=False)
class Noise:
    """Replicates without their mean, and how large the rounding is.

    The rows are centred, in the columns that vary; the gap is their mean less its target, and the
    floor what rounding may do to the mean.
    """

    centred: FloatArray  # shape (n, k)
    gap: FloatArray  # shape (k,), as the floor
    floor: FloatArray

    @property
    def count(self) -> int:
        """Number of replicates."""
        return len(self.centred)

    @property
    def error(self) -> FloatArray:
        """Standard error of the mean in each column, shape (k,)."""
        squares = (self.centred**2).sum(axis=0)
        return np.asarray(np.hypot(np.sqrt(squares / (self.count * (self.count - 1))), self.floor))

    @property
    def distance(self) -> FloatArray:
        """Gap in standard errors, shape (k,); 0 in columns that do not vary."""
        return ratio(np.abs(self.gap), np.where(self.constant, 0.0, self.error))

    @property
    def constant(self) -> BoolArray:
        """Whether replicates vary by no more than rounding in a column, shape (k,)."""
        spread = np.sqrt((self.centred**2).sum(axis=0) / (self.count - 1))
        return np.asarray(spread <= self.floor)

    def of(self, columns: BoolArray) -> Noise:
        """Keep some columns."""
        return Noise(self.centred[:, columns], self.gap[columns], self.floor[columns])

    def along(self, directions: sp.csr_array) -> Noise:
        """Project on the rows of a matrix of shape (m, k)."""
        return Noise(
            self.centred @ directions.T,
            directions @ self.gap,
            np.sqrt(directions**2 @ self.floor**2),
        )


@dataclass(frozen=True)
class Dependence:
    """How replicates depend on those before them, by the correlation of neighbours.

    It is found if independent ones come in such an order with probability `DEPENDENCE_RATE` only,
    and makes the standard error of their mean larger by the factor `stretch`, at least 1.
    """

    found: bool = False
    correlation: float = 0.0
    stretch: float = 1.0


@dataclass(frozen=True, eq=False)
class MeanTest:
    """What a test of a mean found.

    Attributes
    ----------
    statistic : float
        How far the mean is from its target, in standard errors.
    critical_value : float
        What the statistic of a correct estimator exceeds with the false-alarm rate only.
    decisive : bool
        Whether the mean is off by more than a tail that was not seen would explain.
    suspicious : bool
        Whether it would be off if the noise were normal.
    tail_replicates : float
        About how many replicates show the tail that decides.
    visible : float
        Smallest bias that would have been suspicious, in the hardest of the directions asked about.
    n_tests : int
        Tests that share the rate.
    still_gap : ndarray, shape (k,)
        The gap's part in combinations that never vary, where those are off; else empty.
    dependence : Dependence
        Dependence of replicates, in the direction of the gap or in that of the bias that is hardest
        to see, whichever is larger; the numbers above count it.
    """

    statistic: float = 0.0
    critical_value: float = math.inf
    decisive: bool = False
    suspicious: bool = False
    tail_replicates: float = math.inf
    visible: float = 0.0
    n_tests: int = 0
    still_gap: FloatArray = field(default_factory=lambda: np.zeros(0))
    dependence: Dependence = Dependence()

    def stretched(self, toward: FloatArray, aim: FloatArray) -> MeanTest:
        """Count dependence of the replicates in the direction of the gap, and of a bias."""
        gap, bias = dependence(toward), dependence(aim)
        critical = self.critical_value * gap.stretch
        return replace(
            self,
            critical_value=critical,
            decisive=self.decisive and self.statistic > critical,
            visible=self.visible * bias.stretch,
            dependence=max(gap, bias, key=lambda found: (found.found, found.stretch)),
        )


# ------------------------------------------------------------------------- tails


def unseen_tail(scores: FloatArray) -> FloatArray:
    """How much a tail that was not seen could explain of a gap, in k directions.

    The scores, shape (n, k), are replicates with mean 0 and variance 1, the gap on the positive
    side. Returns skewness over sqrt(n), roughly: its inverse square is about the number of
    replicates that the tail rests on. The negative side explains the gap: what was not seen lies
    there.
    """
    cubes = scores * scores * scores  # a power takes ten times as long
    against = np.maximum(-cubes, 0.0).mean(axis=0)
    along = np.maximum(cubes, 0.0).mean(axis=0)
    weight = np.maximum(against - along, 0.0) + np.maximum(along - USUAL_TAIL, 0.0)
    return np.asarray(weight / math.sqrt(len(scores)))


def raised(critical: float, quantile: float, tail: FloatArray | float) -> FloatArray:
    """Raise a critical value by what an unseen tail could explain."""
    tail = np.asarray(tail)
    edgeworth = EDGEWORTH * (2.0 * critical**2 + 1.0) / 6.0 * tail
    found = critical + edgeworth + STEEP * np.maximum(quantile * tail - EXPANDABLE, 0.0)
    return np.where(tail > HEAVY_TAIL, GROSSLY * found, found)


def caution(white: FloatArray) -> float:
    """Factor of Hotelling's critical value for data, shape (n, r), with mean 0 and covariance 1.

    Mardia, "Measures of multivariate skewness and kurtosis", Biometrika 57 (1970): b is the sum of
    squares of all third moments, and r (r + 1) (r + 2) / n in the mean of normal data.
    """
    count, rank = white.shape
    total = 0.0
    if rank**2 > count:  # sum over pairs of replicates, which is the same number
        for block in row_blocks(count, count):
            products = white[block] @ white.T
            total += float((products * products * products).sum())
    else:
        moments = np.zeros((rank, rank * rank))
        for block in row_blocks(count, rank * rank):
            rows = white[block]
            moments += rows.T @ (rows[:, :, None] * rows[:, None, :]).reshape(len(rows), -1)
        total = float((moments**2).sum())
    skewness = total / count**2 - rank * (rank + 1) * (rank + 2) / count
    return math.sqrt(1.0 + max(skewness, 0.0) / count)


def needed_shift(
    scores: FloatArray,
    plain: float,
    quantile: float,
    shift: Callable[[float], float],
    spare: float,
) -> float:
    """Bias, in standard errors, that would have been suspicious with the power that is asked for.

    The scores have mean 0 and variance 1; `plain` is the critical value for normal data, `quantile`
    what `raised` takes, `shift` the bias that normal data need to exceed a critical value, `spare`
    the normal quantile of the power. Infinite if few replicates make a tail that would hide any
    bias.
    """

    def critical(tail: float) -> float:
        return float(raised(plain, quantile, tail))

    count = len(scores)
    tail = float(unseen_tail(np.column_stack([scores, -scores])).max())
    skewness, kurtosis = float((scores**3).mean()), float((scores**4).mean())
    influence = scores**3 - skewness - 3.0 * scores - 1.5 * skewness * (scores**2 - 1.0)
    sixth = 6.0 + UNSEEN_SIXTH * max(float((influence**2).mean()) - 6.0, 0.0)
    fourth = 3.0 + UNSEEN_FOURTH * max(kurtosis - 3.0, 0.0)
    worse = tail + spare * math.sqrt(sixth) / count
    least = shift(critical(tail if worse <= HEAVY_TAIL else worse))
    if least == 0.0:
        return 0.0
    rise = 0.0
    if spare > 0.0 and worse <= HEAVY_TAIL:
        rise = (critical(worse) - critical(tail)) / spare
    slope = (fourth - 1.0) / (2.0 * count)
    if spare**2 * slope >= 1.0:
        return math.inf
    found = least
    for _ in range(200):
        before = found
        spread = 1.0 + found**2 * slope + rise**2 + abs(skewness) * found / math.sqrt(count)
        found = least + spare * (math.sqrt(spread) - 1.0)
        if found - before <= 1e-6 * found:
            return found
    return math.inf


# ------------------------------------------------------------------------- tests


def mean_test(
    noise: Noise,
    directions: sp.csr_array,
    *,
    size: float,
    false_alarm_rate: float,
    power: float,
) -> MeanTest:
    """Test whether the mean of replicates is their target.

    By Hotelling's test, or Student's of each column and direction with Bonferroni's correction
    where replicates are few for the number of directions in which they vary. The directions, one a
    row, are biases of size 1; `size` is the norm of the target.
    """
    error = noise.error
    scaled = Noise(noise.centred / error, noise.gap / error, noise.floor / error)
    variance, axes = _principal(scaled)
    rounding = axes**2 @ scaled.floor**2
    # as of a single column: replicates spread by more than rounding
    varying = variance > FLAT + rounding / noise.count
    if 0 < REPLICATES_A_DIRECTION * int(varying.sum()) <= noise.count:
        steady = variance > STEADY * (FLAT + rounding / noise.count)
        test = _hotelling(
            scaled,
            axes[varying],
            (variance + rounding)[varying],
            directions @ sp.diags_array(1.0 / error),
            steady[varying],
            _Still(noise, axes[steady], size).noticed(directions),
            false_alarm_rate=false_alarm_rate,
            power=power,
        )
        return replace(test, still_gap=_Still(noise, axes[varying], size).gap)
    return _worst_of_many(noise, directions, false_alarm_rate=false_alarm_rate, power=power)


def _principal(noise: Noise) -> tuple[FloatArray, FloatArray]:
    """Find the mean's variances, shape (m,), along orthogonal axes, shape (m, k), m <= n."""
    count, width = noise.centred.shape
    scaled = noise.centred / math.sqrt(count * (count - 1))
    if width <= count:
        variance, axes = np.linalg.eigh(scaled.T @ scaled)
        return variance, axes.T
    variance, weights = np.linalg.eigh(scaled @ scaled.T)
    kept = variance > FLAT
    axes = weights[:, kept].T @ scaled
    return variance[kept], axes / np.sqrt(variance[kept, None])


def _hotelling(
    noise: Noise,
    axes: FloatArray,
    variance: FloatArray,
    directions: sp.csr_array,
    steady: BoolArray,
    noticed: float,
    *,
    false_alarm_rate: float,
    power: float,
) -> MeanTest:
    """Hotelling's T^2 of columns in units of their standard errors, along axes in which they vary.

    T^2 (n - r) / (r (n - 1)) has Fisher's law with r and n - r degrees of freedom; a bias b shifts
    it by b' C^-1 b, C the covariance of the mean, whose inverse is estimated too large by
    (n - 1) / (n - r - 2). What is said to be visible is so along steady axes, or noticed elsewhere.
    """
    from scipy import optimize, special

    count, rank = noise.count, len(axes)
    deviation = np.sqrt(variance)
    white = noise.centred @ axes.T / (deviation * math.sqrt(count))
    shift = axes @ noise.gap / deviation
    statistic = float(np.linalg.norm(shift))
    unit = rank * (count - 1) / (count - rank)
    plain = math.sqrt(unit * fisher(false_alarm_rate, rank, count - rank)) * caution(white)
    quantile, spare = normal(false_alarm_rate / 2.0), max(0.0, normal(1.0 - power))
    toward = _standardised(white @ shift)
    tail = float(unseen_tail(toward[:, None])[0])
    critical = float(raised(plain, quantile, tail))

    def needed(value: float) -> float:
        """Shift with which the statistic exceeds a value as often as asked for."""

        def missed(square: float) -> float:
            below = special.ncfdtr(rank, count - rank, square, value**2 / unit)
            return float(below) - (1.0 - power)

        if missed(0.0) <= 0.0:
            return 0.0  # a correct estimator is already failed as often as that
        largest = 1.0
        while missed(largest) > 0.0:
            largest *= 2.0
        return math.sqrt(float(optimize.brentq(missed, 0.0, largest, xtol=1e-3)))

    axes = axes * steady[:, None]
    reached = directions @ axes.T / deviation  # the directions, in units of standard errors
    information = (reached**2).sum(axis=1) * max(count - rank - 2, 1) / (count - 1)
    along = [_standardised(white @ row) for row in reached]
    out_of_range = []
    for rows in _dense(directions):
        lost = np.abs(rows - rows @ axes.T @ axes).max(axis=1, initial=0.0)
        out_of_range += (lost > 1e-6 * np.abs(rows).max(axis=1)).tolist()
    visible = []
    for scores, known, out in zip(along, information, out_of_range, strict=True):
        shifted = needed_shift(scores, plain, quantile, needed, spare)
        if math.isfinite(shifted):  # else a few replicates decide, whatever is still
            worse = OUT_OF_RANGE if out else 1.0
            shifted = min(shifted * worse / math.sqrt(known) if known > 0.0 else math.inf, noticed)
        visible.append(shifted)
    hardest = along[int(np.argmax(visible))] if visible else toward
    return MeanTest(
        statistic=statistic,
        critical_value=critical,
        decisive=statistic > critical,
        suspicious=statistic > plain,
        tail_replicates=1.0 / max(tail, 1e-9) ** 2,
        visible=max(visible, default=0.0),
        n_tests=1,
    ).stretched(toward, hardest)


class _Still:
    """Combinations of columns that never vary, which a bias moves, and chance does not."""

    def __init__(self, noise: Noise, axes: FloatArray, size: float) -> None:
        error = noise.error
        self._basis, _ = np.linalg.qr((axes * error).T)  # the same plane whatever the sample
        self._rounding = ASTRAY * float(
            np.linalg.norm(np.hypot(noise.floor, math.sqrt(FLAT) * error))
        )
        self._allowed = STILL_SHARE * size + self._rounding
        self._gap = self._left(noise.gap)
        self._off = float(np.linalg.norm(self._gap))

    def _left(self, gaps: FloatArray) -> FloatArray:
        """Take what the directions that vary leave of gaps."""
        return np.asarray(gaps - gaps @ self._basis @ self._basis.T)

    @property
    def gap(self) -> FloatArray:
        """By how much they are off, if they are."""
        return self._gap if self._off > self._allowed else np.zeros(0)

    def noticed(self, directions: sp.csr_array) -> float:
        """How large a bias is sure to be noticed there."""
        left = [np.linalg.norm(self._left(rows), axis=-1) for rows in _dense(directions)]
        least = float(np.concatenate(left).min(initial=math.inf))
        # errors, which set the rounding, differ from sample to sample: twice as much covers that
        sure = CLEARLY * (self._allowed + self._rounding + self._off)
        return sure / least if least > IN_RANGE else math.inf


def _dense(directions: sp.csr_array) -> Iterator[FloatArray]:
    """Write rows out, some at a time: together they may be all coordinates by all coordinates."""
    return (directions[rows].toarray() for rows in blocks(*directions.shape))


def _worst_of_many(
    noise: Noise, directions: sp.csr_array, *, false_alarm_rate: float, power: float
) -> MeanTest:
    """Student's t in each column and direction; Bonferroni."""
    aimed = noise.along(directions)
    moving = np.diff(directions.indptr) > 1  # others are columns already
    tests = Noise(
        np.column_stack([noise.centred, aimed.centred[:, moving]]),
        np.append(noise.gap, aimed.gap[moving]),
        np.append(noise.floor, aimed.floor[moving]),
    )
    count, n_tests, error = tests.count, tests.gap.size, tests.error
    share = false_alarm_rate / (2 * n_tests)
    plain = student(share, count - 1)
    quantile, spare = normal(share), max(0.0, normal(1.0 - power))
    scores = _standardised(tests.centred)
    tails = unseen_tail(np.where(tests.gap < 0.0, -1.0, 1.0) * scores)
    critical = raised(plain, quantile, tails)
    distance = np.abs(tests.gap) / error
    decisive = distance > critical
    # what decides comes first, then what is nearest to it
    worst = int(np.argmax(distance / critical + 1e6 * decisive))
    along, length = _standardised(aimed.centred), (directions**2).sum(axis=1)
    visible = [
        needed_shift(column, plain, quantile, lambda c: c + spare, spare) * own / known
        if known > 0.0
        else math.inf
        for column, own, known in zip(along.T, aimed.error, length, strict=True)
    ]
    hardest = along[:, int(np.argmax(visible))] if visible else scores[:, worst]
    return MeanTest(
        statistic=float(distance[worst]),
        critical_value=float(critical[worst]),
        decisive=bool(decisive.any()),
        suspicious=bool((distance > plain).any()),
        tail_replicates=1.0 / max(float(tails[worst]), 1e-9) ** 2,
        visible=max(visible, default=0.0),
        n_tests=n_tests,
    ).stretched(scores[:, worst], hardest)


def _standardised(columns: FloatArray) -> FloatArray:
    """Scale columns of mean 0 to variance 1; what is 0 stays so."""
    size = np.sqrt((columns**2).mean(axis=0))
    return np.asarray(columns / np.where(size > 0.0, size, 1.0))


# ------------------------------------------------------------------------- dependence


def dependence(scores: FloatArray) -> Dependence:
    """Look for dependence of replicates on their neighbours, and for a drift, in one direction.

    The scores have mean 0 and variance 1, in the order of their calls. By ranks, so that heavy
    tails do not matter: autocorrelations at lags up to `LONGEST_LAG`, and the means of `BATCHES`
    batches (Kruskal and Wallis, "Use of ranks in one-criterion variance analysis", Journal of the
    American Statistical Association 47, 1952).
    """
    count = len(scores)
    _, place, ties = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(ties) - (ties - 1) / 2.0
    ranks = _standardised(mean_rank[place] - (count + 1) / 2.0)
    seen = float(_order(ranks[None])[0])
    found = seen > normal(DEPENDENCE_RATE / (LONGEST_LAG + 1))
    if found:  # the normal law is too narrow where many are the same: ask the orders themselves
        orders = np.random.default_rng(0).permuted(np.tile(ranks, (ORDERS, 1)), axis=1)
        found = bool((_order(orders) < seen).all())
    correlation = float(np.clip(scores[1:] @ scores[:-1] / count, -0.99, 0.99))
    likely = max(correlation, 0.0)
    return Dependence(found, correlation, math.sqrt((1.0 + likely) / (1.0 - likely)))


def _order(ranks: FloatArray) -> FloatArray:
    """How far the order of each row is from chance, in normal quantiles: the worst of some."""
    count = ranks.shape[1]
    found = []
    for lag in range(1, min(LONGEST_LAG, count // 3) + 1):
        total = (ranks[:, lag:] * ranks[:, :-lag]).sum(axis=1)
        # of a random order: mean -(n - k) / (n - 1), variance about n - k
        left = count - lag
        found.append((total + left / (count - 1)) / math.sqrt(left))
    drift = np.zeros(len(ranks))
    for batch in np.array_split(ranks, BATCHES, axis=1):
        drift += batch.sum(axis=1) ** 2 / batch.shape[1]
    # nearly chi-square, whose cube root is nearly normal (Wilson and Hilferty, 1931)
    spare = 2.0 / (9.0 * (BATCHES - 1))
    cube = np.cbrt(drift * (count - 1) / count / (BATCHES - 1))
    found.append((cube - (1.0 - spare)) / math.sqrt(spare))
    return np.asarray(np.max(found, axis=0))
