"""What a check of an estimator found, and how it is told."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from tabular_bilevel._base.arguments import as_positive
from tabular_bilevel._base.arrays import FloatArray
from tabular_bilevel._base.errors import raise_if_failed
from tabular_bilevel.certify.accuracy import Level
from tabular_bilevel.certify.result import Accuracy
from tabular_bilevel.checks.diagnosis import Diagnosis
from tabular_bilevel.checks.localising import FACTORS, RESIDUAL, SCALE, Localisation
from tabular_bilevel.checks.verdict import Verdict

# Nobody takes more replicates.
MOST_REPLICATES = 100_000

# A target whose bound is larger than this, relative to its largest entry, is not called exact:
# biases of some percent are looked for.
WELL_KNOWN = 1e-3


@dataclass(frozen=True, eq=False)
class EstimatorReport:
    """What `check_estimator` found.

    Attributes
    ----------
    verdict : Verdict
        UNBIASED means: no bias seen, and one of `smallest_visible_bias` would have been.
    statistic : float
        How far the mean is from the target, in standard errors: over all coordinates together,
        knowing how they vary together (Hotelling's T), or in the worst of many (Student's t). Of a
        deterministic function, relative to what the target's bound and rounding allow.
    critical_value : float
        What the statistic of a correct estimator exceeds with probability `false_alarm_rate` only.
    where : str
        Where it is furthest off, in standard errors there: along the target, or in a coordinate.
    bias : float
        Mean minus target along the target, relative to the target's norm.
    smallest_visible_bias : float
        Bias along the target, relative to its norm, that would not have passed with probability
        `power`: such a check would have been BIASED or INCONCLUSIVE.
    smallest_visible_gap : float
        The same in units of the gradient; of a bias in any one coordinate, where the target is 0.
    aim : float
        What `smallest_visible_bias` was to reach: as asked for, or 5 %.
    times : float or None
        Up to scale only: how many times the given target the mean is along it; `target` is that
        multiple, and the two visible numbers are of a gap across it, relative to it.
    power, false_alarm_rate : float
        Probabilities behind the two numbers above.
    n_replicates, n_tests, n_unresolved : int
        Estimates drawn; tests made; coordinates left out, because they never vary and are off.
    constant : bool
        Whether all replicates were the same.
    deterministic : bool
        Whether they had to be: the function drew from no generator, and a few calls gave the same.
    astray : bool
        Whether a coordinate, or a combination of some, is the same in all replicates, and wrong:
        INCONCLUSIVE, since what moves it may be rare, but diagnosed all the same.
    still : str
        Which one that is, how far it is off, and the largest probability that an event may have
        which would move it, and was not seen.
    suspicious : bool
        Whether the mean is off, if the noise is normal: diagnosed all the same, too.
    reason : str
        Why a check is INCONCLUSIVE, and what to do. "pullback" of one that is BROKEN because the
        problem's pullback does not fit its model.
    pullback_checked : bool
        Whether the problem's pullback was compared with differences of its model, and fits.
    mean, standard_error, target : ndarray, shape (d,)
        Mean of the estimates, its standard error, and what the mean should be.
    notes : tuple of str
        What else was noticed: a coarse dtype, a global generator.
    asked : tuple of str
        What the estimator asked its `LeaderView` for that a decentralised leader does not have;
        None of one that was given the problem.
    trouble : str
        What is wrong with an estimator that is BROKEN, and in which file and line.
    traceback : str
        Python's traceback of that, from where the estimator's own code begins.
    localisation : Localisation
        Where the mean and the exact gradient part, and by how much.
    diagnosis : Diagnosis or None
        Which mistakes explain a bias; None of a check that passed.
    seed : int or None
        What to pass as `rng` to see the same again.
    burn_in : int
        Calls that each replicate made before the one that counts.
    target_accuracy : Accuracy or None
        What is known of the default target's error; None of one that was given.
    declared : str
        What the estimator was declared to work with, to which target and mistakes are relative.
    declared_off : float
        How far what a right estimator comes to with that is from the gradient, relative to it.

    Examples
    --------
    >>> import numpy as np
    >>> import tabular_bilevel as tb
    >>> problem, theta = tb.problems.bandit(), [0.0, 0.0]
    >>> noise = 0.1 * np.random.default_rng(0).normal(size=(400, 2))
    >>> rows = tb.hypergradient(problem, theta).gradient + noise
    >>> report = tb.check_estimates(rows, problem, theta)
    >>> report.passed, report.doubtful, report.smallest_visible_bias < 0.2
    (True, False, True)
    >>> report.standard_deviation.round(1)
    array([0.1, 0.1])
    >>> report.replicates_for(0.01) > 10_000  # and fewer see a larger one
    True
    >>> report.raise_if_failed()  # in a test suite
    >>> print(report.short.strip(", "))
    but one below 8.88% would not have been seen (5% was the aim)
    >>> half = tb.check_estimates(0.5 * report.target + noise, problem, theta)
    >>> half.verdict.value, round(half.scale.value, 1), half.residual < 0.1
    ('BIASED', 0.5, True)
    >>> str(half.factors["direct"])  # this problem has no direct part
    'unknown'
    """

    level: ClassVar[Level] = Level.STATISTICAL

    verdict: Verdict
    statistic: float = 0.0
    critical_value: float = math.inf
    where: str = ""
    bias: float = 0.0
    smallest_visible_bias: float = math.inf
    smallest_visible_gap: float = math.inf
    aim: float = math.inf
    times: float | None = None
    power: float = 0.0
    false_alarm_rate: float = 0.0
    n_replicates: int = 0
    n_tests: int = 0
    n_unresolved: int = 0
    constant: bool = False
    deterministic: bool = False
    astray: bool = False
    still: str = ""
    suspicious: bool = False
    reason: str = ""
    pullback_checked: bool = False
    mean: FloatArray = field(default_factory=lambda: np.zeros(0), repr=False)
    standard_error: FloatArray = field(default_factory=lambda: np.zeros(0), repr=False)
    target: FloatArray = field(default_factory=lambda: np.zeros(0), repr=False)
    notes: tuple[str, ...] = ()
    asked: tuple[str, ...] | None = None
    trouble: str = ""
    traceback: str = field(default="", repr=False)
    localisation: Localisation = field(default_factory=Localisation, repr=False)
    diagnosis: Diagnosis | None = field(default=None, repr=False)
    seed: int | None = None
    target_accuracy: Accuracy | None = field(default=None, repr=False)
    burn_in: int = 0
    declared: str = ""
    declared_off: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether no bias was seen in a conclusive check."""
        return self.verdict is Verdict.UNBIASED

    @property
    def doubtful(self) -> bool:
        """Whether the mean is off, and it is not decided whether by chance."""
        return self.verdict is Verdict.INCONCLUSIVE and (self.astray or self.suspicious)

    @property
    def standard_deviation(self) -> FloatArray:
        """Standard deviation of an estimate, shape (d,), from those that were drawn.

        With a declared critic that learns, that of the gap to another estimator's estimate.
        """
        return np.asarray(self.standard_error * math.sqrt(self.n_replicates))

    factors, scale, residual = FACTORS, SCALE, RESIDUAL

    def replicates_for(self, bias: float) -> int:
        """Count the replicates that it takes to see a bias along the target.

        Parameters
        ----------
        bias : float
            Relative to the target's norm.

        Returns
        -------
        int
            Rather too many: it is scaled from this report's noise by the square-root law. 0 if no
            number is enough, as where the target is 0.

        Raises
        ------
        ValueError
            If the bias is not positive.
        """
        ratio = self.smallest_visible_bias / as_positive("bias", bias)
        needed = self.n_replicates * ratio * ratio
        return math.ceil(needed) if math.isfinite(needed) else 0

    raise_if_failed = raise_if_failed

    def __str__(self) -> str:
        beside = ", beside what was declared" if self.declared and not self.trouble else ""
        first = f"Estimator check: {self.verdict.value}{beside}{self.short}"
        return "\n  ".join([first, *self._lines()])

    @property
    def short(self) -> str:
        """What a pass falls short of: the bias that it would have seen, if that is not the aim."""
        if not self.passed or not self.target.any() or self.smallest_visible_bias <= self.aim:
            return ""
        return (
            f", but one below {percent(self.smallest_visible_bias)} would not have been seen "
            f"({100.0 * self.aim:g}% was the aim)"
        )

    def _lines(self) -> Iterator[str]:
        if self.trouble:
            yield self.trouble
        else:
            yield from self._found()
        if self.target_accuracy is not None:
            yield f"the target is {of_target(self.target_accuracy, self.target, self.times)}"
        if self.declared:
            yield (
                f"declared: {self.declared}; what a right estimator comes to with that is "
                f"{percent(self.declared_off)} off the gradient"
            )
        rescaled = self.times is not None and self.scale.wrong
        if self.verdict is Verdict.BIASED or self.doubtful or rescaled:
            yield from str(self.localisation).splitlines()
        if self.diagnosis is not None and self.diagnosis.guesses:
            told = str(self.diagnosis)
            sure = self.verdict is Verdict.BIASED
            yield from (told if sure else f"if it is biased: {told}").splitlines()
        yield from self.notes
        if self.asked:
            yield "asked for " + ", ".join(self.asked)
        elif self.asked is not None:
            yield "decentralised: asked for nothing of the follower's"
        if self.seed is not None:
            yield f"the same again: rng={self.seed}"

    def _found(self) -> Iterator[str]:
        """Say how far the mean is off, and what would have been seen."""
        warm = f", each after {self.burn_in} calls of burn-in" if self.burn_in else ""
        if self.deterministic:
            yield (
                f"deterministic: {self.n_replicates} calls{warm} give the same, and draw from no "
                f"generator{'' if self.passed else ' (should they?)'}"
            )
            yield (
                f"off by {self.bias:+.3g} of the target's norm along it; {self.statistic:.3g} "
                f"times what the target's bound and rounding allow (most {self.where})"
            )
        elif not self.constant:
            varies = "in what varies, " if self.still else ""
            yield (
                f"{varies}{self.statistic:.3g} standard errors from the target (most "
                f"{self.where}), critical value {self.critical_value:.3g} at false-alarm rate "
                f"{self.false_alarm_rate:g}"
            )
        elif self.bias:
            yield (
                f"all {self.n_replicates} replicates are the same, off by "
                f"{percent(self.bias, '+')} along the target"
            )
        if not self.deterministic:
            yield from self._resolution()
            left_out = f", {self.n_unresolved} coordinates unresolved" if self.n_unresolved else ""
            tests = f"{self.n_tests} tests" if self.n_tests != 1 else "one test of all coordinates"
            yield f"{self.n_replicates} replicates{warm}, {tests}{left_out}"
        if self.still and self.still != self.reason:
            yield self.still
        if self.reason:
            yield self.reason
        elif not self.deterministic:
            yield (
                "if calls are independent, and no part of the noise matters that comes less "
                f"often than about once in {max(1, self.n_replicates // 20)} calls"
            )

    def _resolution(self) -> Iterator[str]:
        """Say what would have been seen."""
        aimed = bool(self.target.any())
        if self.times is not None:
            across = percent(self.smallest_visible_bias)
            yield f"up to scale: along the target the mean is {self.times:.4g} times it" + (
                f"; a gap across of {across} of that would not have passed, with probability "
                f"{self.power:g}"
                if math.isfinite(self.smallest_visible_bias)
                else ""
            )
        elif self.constant and self.bias:
            return
        elif math.isinf(self.smallest_visible_bias if aimed else self.smallest_visible_gap):
            yield f"no bias {'along the target ' if aimed else ''}would have been seen"
        elif not aimed:
            yield (
                f"the target is 0; a bias of {self.smallest_visible_gap:.2g} in any one "
                f"coordinate would not have passed, with probability {self.power:g}"
            )
        else:
            needed = self.replicates_for(0.01)
            yield (
                f"bias along the target {percent(self.bias, '+')} of its norm; one of "
                f"{percent(self.smallest_visible_bias)} would not have passed, with "
                f"probability {self.power:g}"
                + (
                    f"; for one of 1% it takes {needed} replicates"
                    if 0 < needed <= MOST_REPLICATES
                    else ""
                )
            )


def percent(share: float, sign: str = "") -> str:
    """Write a share in percent; of the largest, which have hundreds of digits, the first."""
    return format(share, f"{sign}.2%") if abs(share) < 1e4 else f"{100.0 * share:{sign}.1e}%"


def of_target(accuracy: Accuracy, target: FloatArray, times: float | None = None) -> str:
    """Say what is known of a gradient that estimates are compared with, or so many times it."""
    if not accuracy.proven:
        return f"an ESTIMATE of the gradient, not proven to be exact: {accuracy.reason}"
    radius = float(accuracy.gradient.max(initial=0.0))
    within = f"1e{math.ceil(math.log10(radius))}" if radius > 0.0 else "0"  # same on all machines
    factor = 1.0 if times is None else abs(times)
    if factor and radius > WELL_KNOWN * np.abs(target).max() / factor:
        return f"an ESTIMATE of the gradient, {accuracy.level.name} within {within} only"
    given = f", {accuracy.given}" if accuracy.given else ""
    return f"the exact gradient, {accuracy.level.name} within {within}{given}"
