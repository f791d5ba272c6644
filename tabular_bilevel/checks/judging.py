"""Is the mean of estimates their target? From rows to a verdict (theory.md section 7)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from tabular_bilevel._base.arguments import entry
from tabular_bilevel._base.arrays import (
    BoolArray,
    FloatArray,
    binary_scale,
    quiet,
    ratio,
    read_only,
)
from tabular_bilevel.checks.mean_test import ASTRAY, MeanTest, Noise, mean_test
from tabular_bilevel.checks.report import MOST_REPLICATES, EstimatorReport, percent
from tabular_bilevel.checks.verdict import Verdict

# Estimates and target are computed in float64: gaps below this, relative to the largest entry, are
# rounding, however small the sampling error.
ROUNDING = 1e-10

# Where nobody asks for more, a check tries to see a bias as small as the first of these, and does
# not pass unless it would have seen one of the second.
USUAL_AIM, LARGEST_VISIBLE_BIAS = 0.05, 0.25

# Where a target is not proven, plain float64 may be off by this, relative to its largest entry.
UNPROVEN = 1e-6

# A coordinate that never varies may be off by so much, relative to the target's norm: where it is
# 0, states that it belongs to may hardly ever be visited; else it may be a sum that was cut.
UNMOVED_SHARE, CUT_SHARE = 0.01, 1e-6

# Coordinates that a sentence names.
NAMED = 3

# The first look at the replicates, for tests to have their level; looks double from there.
FIRST_LOOK = 50

# Of the false-alarm rate, for each look but the last.
EARLY_SHARE = 0.05

# Fewer replicates than this do not show how skewed they are; at rates below the other that matters.
FEWEST, LARGE_RATE = 100, 0.05

# What to do about noise that is too large, or too skewed.
MORE = "take more replicates, or average more trajectories into one"
MILDER = f"{MORE}, or clip what is rare and large"
ELSEWHERE = (
    "average more trajectories into an estimate, or check on a smaller problem "
    "(standard_suite), or by enumeration"
)


def judge_in_looks(
    drawn: Callable[[int], FloatArray],
    target: FloatArray,
    *,
    n_replicates: int,
    visible_bias: float | None,
    false_alarm_rate: float,
    power: float,
    up_to_scale: bool = False,
    rounding: Callable[[], float] = lambda: ROUNDING,
) -> EstimatorReport:
    """Judge after more and more replicates, until one look is sure; return the last look's report.

    Parameters as of `judge`; `drawn` takes a number of replicates and returns that many, the same
    ones first. The looks share the rate of false alarms.
    """
    looks = [n_replicates]
    while looks[0] >= 2 * FIRST_LOOK:
        looks.insert(0, (looks[0] + 1) // 2)
    early = false_alarm_rate * min(EARLY_SHARE, 0.5 / len(looks))
    left = false_alarm_rate

    def report(rate: float) -> EstimatorReport:
        return judge(
            estimates,
            target,
            false_alarm_rate=rate,
            power=power,
            visible_bias=visible_bias,
            up_to_scale=up_to_scale,
            rounding=rounding(),
        )

    for look in looks[:-1]:
        estimates = drawn(look)
        found = report(left)
        if found.verdict is Verdict.UNBIASED and found.smallest_visible_bias <= found.aim:
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
    visible_bias: float | None = None,
    up_to_scale: bool = False,
    rounding: float = ROUNDING,
) -> EstimatorReport:
    """Compare estimates, one a row in the order of their calls, with their target.

    Parameters as of `check_estimator`; gaps below `rounding`, relative to the largest entry, are
    rounding.
    """
    for name, rate in (("false_alarm_rate", false_alarm_rate), ("power", power)):
        if not 0.0 < rate < 1.0:
            raise ValueError(f"{name} is {rate}, not in (0, 1)")
    if up_to_scale:
        return _judge_direction(
            estimates,
            target,
            false_alarm_rate=false_alarm_rate,
            power=power,
            visible_bias=visible_bias,
            rounding=rounding,
        )
    sample = _Sample(estimates, target, rounding)
    return _judged(sample, false_alarm_rate, power, visible_bias)


def _judged(
    sample: _Sample, false_alarm_rate: float, power: float, visible_bias: float | None
) -> EstimatorReport:
    test = sample.tested(false_alarm_rate, power)
    visible = sample.visible(test)
    few = sample.count < FEWEST and false_alarm_rate < LARGE_RATE
    still = _still(test, sample, power)
    reason = _doubt(test, sample, still, few=few)
    verdict = Verdict.BIASED if test.decisive else Verdict.UNBIASED
    if sample.aimed and not reason and verdict is Verdict.UNBIASED:
        reason = _too_coarse(
            sample.relative(visible),
            sample.count,
            visible_bias,
            rounded=bool(sample.constant.all()),
        )
    return EstimatorReport(
        verdict=Verdict.INCONCLUSIVE if reason else verdict,
        statistic=test.statistic,
        critical_value=test.critical_value,
        where=sample.furthest,
        bias=sample.relative(float(sample.aims.gap[0])) if sample.aimed else 0.0,
        smallest_visible_bias=sample.relative(visible),
        smallest_visible_gap=visible * sample.unit,
        aim=USUAL_AIM if visible_bias is None else visible_bias,
        power=power,
        false_alarm_rate=false_alarm_rate,
        n_replicates=sample.count,
        n_tests=test.n_tests,
        n_unresolved=int(sample.astray.sum()),
        constant=bool(sample.constant.all()),
        astray=bool(still),
        still=still,
        suspicious=test.suspicious,
        reason=reason,
        mean=read_only(sample.unit * sample.mean),
        standard_error=read_only(sample.unit * sample.noise.error),
        target=read_only(sample.target),
    )


@quiet
def judge_exactly(
    estimate: FloatArray,
    target: FloatArray,
    radius: FloatArray,
    *,
    visible_bias: float | None,
    rounding: float = ROUNDING,
) -> EstimatorReport:
    """Compare what a deterministic function returns with its target, known within a radius.

    BIASED if an entry is off by more than its radius and `rounding`, relative to the largest entry
    of both; the statistic is how many times that the worst one is off. Where the radius is
    infinite, nothing is proven, and `UNPROVEN` counts.
    """
    unit = binary_scale(estimate, target)
    gap, goal, known = estimate / unit - target / unit, target / unit, radius / unit
    largest = max(float(np.abs(goal).max()), float(np.abs(estimate / unit).max()))
    allowed = np.where(np.isfinite(known), known, UNPROVEN * largest) + rounding * largest
    off = np.divide(np.abs(gap), allowed, out=np.zeros_like(gap), where=allowed > 0.0)
    worst = int(np.argmax(off))
    size, aimed = float(np.linalg.norm(goal)), bool(target.any())
    # the gap of what was seen may be on the one side, and that of a bias on the other
    seen = 2.0 * allowed
    share = float((seen[goal != 0.0] / np.abs(goal[goal != 0.0])).min()) if aimed else math.inf
    biased = bool(off[worst] > 1.0)
    hides = aimed and share > (LARGEST_VISIBLE_BIAS if visible_bias is None else visible_bias)
    reason = ""
    if hides and not biased:
        reason = f"the target is not known well enough to show a bias of {percent(share)}"
    verdict = Verdict.BIASED if biased else Verdict.UNBIASED
    return EstimatorReport(
        verdict=Verdict.INCONCLUSIVE if reason else verdict,
        statistic=float(off[worst]),
        critical_value=1.0,
        where=f"in {entry('gradient', (worst,))}",
        bias=float(gap @ (goal / size) / size) if aimed else 0.0,
        smallest_visible_bias=share,
        smallest_visible_gap=(share * size if aimed else float(seen.max())) * unit,
        aim=USUAL_AIM if visible_bias is None else visible_bias,
        power=1.0,
        n_tests=target.size,
        constant=True,
        deterministic=True,
        reason=reason,
        mean=read_only(estimate.copy()),
        standard_error=read_only(np.zeros_like(target)),
        target=read_only(target.copy()),
    )


def _judge_direction(
    estimates: FloatArray,
    target: FloatArray,
    *,
    false_alarm_rate: float,
    power: float,
    visible_bias: float | None,
    rounding: float,
) -> EstimatorReport:
    """Compare directions: the mean across the target is 0, and along it above 0.

    Each half has half the rate. What is seen across is relative to what is along.
    """
    if not target.any():
        raise ValueError("target is 0, which has no direction to compare, up to scale")
    whole = _Sample(estimates, target, rounding)
    forth = target / np.abs(target).max()
    forth = forth / np.linalg.norm(forth)
    scaled = estimates / whole.unit
    along, size = scaled @ forth, float(np.abs(whole.mean).max())
    rate, length = false_alarm_rate / 2.0, float(along.mean())
    sign = _judged(_Sample(along[:, None], np.zeros(1), rounding, size), rate, power, None)
    known = sign.verdict is Verdict.BIASED or (sign.constant and length != 0.0)
    found = sign
    if target.size > 1:
        across = _Sample(_across(scaled, forth), np.zeros(target.size - 1), rounding, size)
        found = _judged(across, rate, power, None)
    visible = found.smallest_visible_gap / length if length > 0.0 else math.inf
    verdict, reason = found.verdict, found.reason
    if found.still and verdict is not Verdict.BIASED:
        reason = f"a direction across the target never varies, and is off: {_rare(whole, power)}"
    if target.size == 1:
        verdict, reason, visible = Verdict.UNBIASED, "", 0.0
    if known and length < 0.0:
        verdict, reason = Verdict.BIASED, ""
    elif not known and verdict is not Verdict.BIASED:
        verdict = Verdict.INCONCLUSIVE
        reason = reason or f"the mean along the target may be 0, and then has no direction: {MORE}"
    elif verdict is Verdict.UNBIASED:
        reason = _too_coarse(visible, whole.count, visible_bias)
        verdict = Verdict.INCONCLUSIVE if reason else verdict
    turned = whole.mean - length * forth
    far = ratio(np.abs(turned), whole.noise.error)
    backward = known and length < 0.0
    place = f"across the target, in {entry('gradient', (int(np.argmax(far)),))}"
    return replace(
        found,
        verdict=verdict,
        reason=reason,
        statistic=sign.statistic if backward else found.statistic,
        critical_value=sign.critical_value if backward else found.critical_value,
        where="against the target's direction" if backward else place,
        bias=0.0,
        smallest_visible_bias=visible,
        smallest_visible_gap=visible * max(length, 0.0) * whole.unit,
        aim=USUAL_AIM if visible_bias is None else visible_bias,
        false_alarm_rate=false_alarm_rate,
        still="",
        n_unresolved=0,
        times=whole.relative(length),
        mean=read_only(whole.unit * whole.mean),
        standard_error=read_only(whole.unit * whole.noise.error),
        target=read_only(whole.unit * length * forth),
    )


def _across(rows: FloatArray, forth: FloatArray) -> FloatArray:
    """Turn rows, (n, d), so that a unit vector is an axis, which is left out: (n, d - 1).

    The other axes are those of Gram and Schmidt, who begin with the vector, and go on with the
    coordinates in turn. Axis k is 0 before coordinate k and a multiple of the vector after it, so
    that sums from the end make all of them (Helmert's matrix, where the vector is constant).
    """
    last = int(np.flatnonzero(forth**2)[-1])  # what comes after it is a coordinate as it is
    head, way = rows[:, : last + 1], forth[: last + 1]
    length = np.sqrt(np.cumsum(way[::-1] ** 2)[::-1])
    along = np.cumsum((head * way)[:, :0:-1], axis=1)[:, ::-1] / length[1:]
    turned = head[:, :-1] * (length[1:] / length[:-1]) - along * (way[:-1] / length[:-1])
    return np.hstack((turned, rows[:, last + 1 :]))


class _Sample:
    """Replicates beside their target, in a unit in which fourth powers of both stay finite.

    Attributes
    ----------
    target : ndarray, shape (d,)
        What it should be, as given.
    unit : float
        The unit, in units of the gradient.
    aimed : bool
        Whether the target is not 0, so that there is a direction along it.
    size : float
        The target's norm.
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

    def __init__(
        self, estimates: FloatArray, target: FloatArray, rounding: float, size: float = 0.0
    ) -> None:
        self.target = target.copy()
        self.unit, self._own = binary_scale(estimates, target), binary_scale(target)
        scaled, goal, self.aimed = estimates / self.unit, target / self.unit, bool(target.any())
        self._length = float(np.linalg.norm(target / self._own)) if self.aimed else math.inf
        self.size = self._length * (self._own / self.unit) if self.aimed else 0.0
        self.count, self.mean = len(scaled), scaled.mean(axis=0)
        self._floor = rounding * max(
            np.abs(goal).max(), np.abs(self.mean).max(), size / self.unit, np.finfo(float).tiny
        )
        self.noise = Noise(scaled - self.mean, self.mean - goal, np.full_like(goal, self._floor))
        self._directions = (
            sp.csr_array((target / self._own / self._length)[None])
            if self.aimed
            else sp.eye_array(target.size, format="csr")
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
            size=self.size,
            false_alarm_rate=false_alarm_rate,
            power=power,
        )

    def visible(self, test: MeanTest) -> float:
        """Size of a bias that would have been seen in any direction."""
        if self.lost:
            return math.inf
        # a bias along what never varies would not leave it right
        return max(test.visible, ASTRAY * self._floor if self.still.any() else 0.0)

    def hides(self, visible: float) -> BoolArray:
        """Say which coordinates are off by too little to matter, if they never vary."""
        share = np.where(np.abs(self.mean) <= self._floor, UNMOVED_SHARE, CUT_SHARE)
        small = np.minimum(visible, share * self.size) if self.aimed else visible
        return np.asarray(np.abs(self.noise.gap) <= small)

    def relative(self, size: float) -> float:
        """Size of a bias relative to the target's norm; infinite of a target of 0."""
        return size / self._length * (self.unit / self._own) if self.aimed else math.inf

    @property
    def furthest(self) -> str:
        """Say where the mean is furthest off, of what varies; along the target is a place, too."""
        distance = self.noise.distance
        if self.aimed:
            # a coordinate says more, where they are the same but for rounding
            distance = np.append(distance, (1.0 - 1e-9) * self.aims.distance)
        worst = int(np.argmax(distance))
        along = worst >= self.noise.gap.size
        return "along the target" if along else f"in {entry('gradient', (worst,))}"


def _doubt(test: MeanTest, sample: _Sample, still: str, *, few: bool) -> str:
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
    hidden = sample.hides(visible)[sample.astray]
    if sample.lost or test.still_gap.size or not hidden.all():
        return still
    if math.isinf(visible):
        return f"a few extreme replicates decide the mean: {MILDER}"
    return ""


def _still(test: MeanTest, sample: _Sample, power: float) -> str:
    """Say what is the same in all replicates, and off: where, by how much, and how rare it is."""
    if not (sample.astray.any() or sample.lost or test.still_gap.size):
        return ""
    gap, rare = sample.noise.gap, _rare(sample, power)
    same = f"the same in all {sample.count} replicates, and off"
    if sample.astray.any():
        worst = np.flatnonzero(sample.astray)
        worst = worst[np.argsort(-np.abs(gap[worst]), kind="stable")]
        named = ", ".join(_astray(sample, int(k)) for k in worst[:NAMED])
        more = f" and {worst.size - NAMED} more" if worst.size > NAMED else ""
        verb = "is" if worst.size == 1 else "are"
        return f"{named}{more} {verb} {same}: {rare}"
    if sample.lost:
        off = percent(sample.relative(float(sample.aims.gap[0])), "+")
        return f"the mean along the target is {same} by {off}: {rare}"
    columns = np.flatnonzero(~sample.constant)
    where = entry("gradient", (int(columns[np.argmax(np.abs(test.still_gap))]),))
    size = sample.unit * float(np.linalg.norm(test.still_gap))
    return f"a combination of coordinates (most {where}) is {same} by {size:.3g}: {rare}"


def _astray(sample: _Sample, k: int) -> str:
    mean, goal = sample.unit * sample.mean[k], sample.target[k]
    share = f", {percent(float(sample.noise.gap[k] / (goal / sample.unit)), '+')}" if goal else ""
    return f"{entry('gradient', (k,))} ({mean:.6g}, not {goal:.6g}{share})"


def _rare(sample: _Sample, power: float) -> str:
    """Bound the probability of what was not seen in so many independent calls."""
    chance = -math.expm1(math.log1p(-power) / sample.count)
    return (
        f"is rng used, or is what moves it rare? An event of probability {percent(chance)} or more "
        f"would have been seen with probability {power:g}"
    )


def _too_coarse(visible: float, count: int, asked: float | None, *, rounded: bool = False) -> str:
    """Say that a bias is not seen which should be, and what to do; nothing if it is."""
    wanted = LARGEST_VISIBLE_BIAS if asked is None else asked
    if visible <= wanted:
        return ""
    size = "the target's own size" if visible > 1.0 else percent(visible)
    limit = (
        f"more than the {100.0 * wanted:g}% that may pass"
        if asked is None
        else f"and one of {100.0 * wanted:g}% was to be seen"
    )
    if rounded:
        return f"rounding would hide a bias of {size}, {limit}: return a finer dtype"
    times = visible / wanted
    factor = math.ceil(times * times) if times < MOST_REPLICATES else MOST_REPLICATES
    advice = (
        f"take about {factor} times as many replicates, or trajectories an estimate"
        if factor * count <= MOST_REPLICATES
        else ELSEWHERE
    )
    return f"the noise would hide a bias of {size}, {limit}: {advice}"
