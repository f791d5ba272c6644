"""Is the mean of estimates their target? From rows to a verdict (theory.md section 7)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tabular_bilevel._base.arguments import entry
from tabular_bilevel._base.arrays import FloatArray, binary_scale, quiet, read_only
from tabular_bilevel.checks.mean_test import ASTRAY, MeanTest, Noise, mean_test
from tabular_bilevel.checks.report import EstimatorReport
from tabular_bilevel.checks.verdict import Verdict

__all__ = ["ROUNDING", "judge", "judge_in_looks"]

# Estimates and target are computed in float64: gaps below this, relative to the largest entry, are
# rounding, however small the sampling error.
ROUNDING = 1e-10

# Where a bias of the target's own size is invisible, an estimator of 0 would pass as well.
LARGEST_VISIBLE_BIAS = 1.0

# The first look at the replicates, for tests to have their level; looks double from there.
FIRST_LOOK = 50

# Of the false-alarm rate, for each look but the last.
EARLY_SHARE = 0.05

# Fewer replicates than this do not show how skewed they are; at rates below the other that matters.
FEWEST, LARGE_RATE = 100, 0.05

# What to do about noise that is too large, or too skewed.
MORE = "take more replicates, or average more trajectories into one"
MILDER = f"{MORE}, or clip what is rare and large"


def judge_in_looks(
    drawn: Callable[[int], FloatArray],
    target: FloatArray,
    *,
    n_replicates: int,
    visible_bias: float,
    false_alarm_rate: float,
    power: float,
    rounding: Callable[[], float] = lambda: ROUNDING,
) -> EstimatorReport:
    """Judge after more and more replicates, until one look is sure.

    Parameters
    ----------
    drawn : callable
        Takes a number of replicates and returns that many, shape (n, d), the same ones first.
    target : ndarray, shape (d,)
        What their mean should be.
    n_replicates, visible_bias, false_alarm_rate, power
        As for `check_estimator`; the looks share the rate.
    rounding : callable
        Returns what `judge` takes as `rounding`, once replicates are drawn.

    Returns
    -------
    EstimatorReport
        The report of the last look.
    """
    looks = [n_replicates]
    while looks[0] >= 2 * FIRST_LOOK:
        looks.insert(0, (looks[0] + 1) // 2)
    early = false_alarm_rate * min(EARLY_SHARE, 0.5 / len(looks))
    left = false_alarm_rate

    def report(rate: float) -> EstimatorReport:
        return judge(estimates, target, false_alarm_rate=rate, power=power, rounding=rounding())

    for look in looks[:-1]:
        estimates = drawn(look)
        found = report(left)
        if found.verdict is Verdict.UNBIASED and found.smallest_visible_bias <= visible_bias:
            return found
        # an alarm at an early look counts at the early rate only, or looks would add up
        if found.verdict is Verdict.BIASED:
            found = report(early)
            if found.verdict is Verdict.BIASED:
                return found
        left -= early
    estimates = drawn(n_replicates)
    return report(left)


@quiet
def judge(
    estimates: FloatArray,
    target: FloatArray,
    *,
    false_alarm_rate: float,
    power: float,
    rounding: float = ROUNDING,
) -> EstimatorReport:
    """Compare estimates, one a row, with their target.

    Parameters
    ----------
    estimates : ndarray, shape (n, d)
        Independent replicates, in the order of their calls.
    target : ndarray, shape (d,)
        What their mean should be.
    false_alarm_rate, power : float
        As for `check_estimator`.
    rounding : float
        Gaps below this, relative to the largest entry, are rounding.

    Returns
    -------
    EstimatorReport
        Verdict and numbers.
    """
    for name, rate in (("false_alarm_rate", false_alarm_rate), ("power", power)):
        if not 0.0 < rate < 1.0:
            raise ValueError(f"{name} is {rate}, not in (0, 1)")
    sample = _Sample(estimates, target, rounding)
    test = sample.tested(false_alarm_rate, power)
    visible = sample.visible(test)
    few = sample.count < FEWEST and false_alarm_rate < LARGE_RATE
    reason = _doubt(test, sample, few=few)
    verdict = Verdict.BIASED if test.decisive else Verdict.UNBIASED
    return EstimatorReport(
        verdict=Verdict.INCONCLUSIVE if reason else verdict,
        statistic=test.statistic,
        critical_value=test.critical_value,
        where=sample.furthest,
        bias=sample.relative(float(sample.aims.gap[0])) if sample.aimed else 0.0,
        smallest_visible_bias=sample.relative(visible),
        smallest_visible_gap=visible * sample.unit,
        power=power,
        false_alarm_rate=false_alarm_rate,
        n_replicates=sample.count,
        n_tests=test.n_tests,
        n_unresolved=int(sample.astray.sum()),
        constant=bool(sample.constant.all()),
        astray=bool(sample.astray.any() or sample.lost or test.still_and_off),
        suspicious=test.suspicious,
        reason=reason,
        mean=read_only(sample.unit * sample.mean),
        standard_error=read_only(sample.unit * sample.noise.error),
        target=read_only(target.copy()),
    )


class _Sample:
    """Replicates beside their target, in a unit in which fourth powers of both stay finite.

    Attributes
    ----------
    unit : float
        It, in units of the gradient.
    aimed : bool
        Whether the target is not 0, so that there is a direction along it.
    mean : ndarray, shape (d,)
        Of the replicates.
    noise, aims : Noise
        Of the coordinates, and along the directions in which a bias has to be seen: the target's,
        or, where it is 0, any coordinate's.
    constant : ndarray of bool, shape (d,)
        Which coordinates never vary. If they are not right, what moves them may just be rare.
    astray : ndarray of bool, shape (d,)
        Which of those are off.
    still : ndarray of bool, shape (m,)
        Which directions never vary.
    lost : bool
        Whether one of those is off.
    """

    def __init__(self, estimates: FloatArray, target: FloatArray, rounding: float) -> None:
        self.unit, self._own = binary_scale(estimates, target), binary_scale(target)
        scaled, goal, self.aimed = estimates / self.unit, target / self.unit, bool(target.any())
        self._length = float(np.linalg.norm(target / self._own)) if self.aimed else math.inf
        self.count, self.mean = len(scaled), scaled.mean(axis=0)
        self._floor = rounding * max(
            np.abs(goal).max(), np.abs(self.mean).max(), np.finfo(float).tiny
        )
        self.noise = Noise(scaled - self.mean, self.mean - goal, np.full_like(goal, self._floor))
        self._directions = (
            (target / self._own / self._length)[None] if self.aimed else np.eye(target.size)
        )
        self.aims = self.noise.along(self._directions)
        self.constant, self.still = self.noise.constant, self.aims.constant
        self.astray = self.constant & (np.abs(self.noise.gap) > ASTRAY * self._floor)
        self.lost = bool((self.still & (np.abs(self.aims.gap) > ASTRAY * self._floor)).any())

    def tested(self, false_alarm_rate: float, power: float) -> MeanTest:
        """Test the mean of what varies."""
        if self.constant.all():
            return MeanTest()
        return mean_test(
            self.noise.of(~self.constant),
            self._directions[~self.still][:, ~self.constant],
            size=self._length * (self._own / self.unit) if self.aimed else 0.0,
            false_alarm_rate=false_alarm_rate,
            power=power,
        )

    def visible(self, test: MeanTest) -> float:
        """Size of a bias that would have been seen in any direction."""
        if self.lost:
            return math.inf
        # a bias along what never varies would not leave it right
        return max(test.visible, ASTRAY * self._floor if self.still.any() else 0.0)

    def relative(self, size: float) -> float:
        """Size of a bias relative to the target's norm; infinite of a target of 0."""
        return size / self._length * (self.unit / self._own) if self.aimed else math.inf

    @property
    def furthest(self) -> str:
        """Say where the mean is furthest off, of what varies; along the target is a place, too."""
        distance = self.noise.distance
        if self.aimed:
            distance = np.append(distance, self.aims.distance)
        worst = int(np.argmax(distance))
        along = worst >= self.noise.gap.size
        return "along the target" if along else f"in {entry('gradient', (worst,))}"


def _doubt(test: MeanTest, sample: _Sample, *, few: bool) -> str:
    """Say why nothing is decided, and what to do; nothing if there is no such reason."""
    if test.dependence.found:
        return (
            "replicates depend on those before them (correlation of neighbours "
            f"{test.dependence.correlation:+.2f}): let no call keep anything for the next"
        )
    if test.decisive:
        return (
            f"fewer than {FEWEST} replicates do not show how skewed they are: {MORE}" if few else ""
        )
    if test.suspicious and test.tail_replicates >= sample.count:
        return f"the gap is hardly larger than chance makes it: {MORE}"
    if test.suspicious:
        shown = max(1, round(test.tail_replicates))
        return f"the gap could be a tail of which about {shown} replicates were seen: {MILDER}"
    visible = sample.visible(test)
    hidden = np.abs(sample.noise.gap[sample.astray]) <= visible
    if sample.lost or test.still_and_off or not hidden.all():
        return "what never varies is off: is rng used, or is what moves it rare?"
    if math.isinf(visible):
        return f"a few extreme replicates decide the mean: {MILDER}"
    if sample.aimed and sample.relative(visible) > LARGEST_VISIBLE_BIAS:
        return f"the noise would hide a bias of the target's own size: {MORE}"
    return ""
