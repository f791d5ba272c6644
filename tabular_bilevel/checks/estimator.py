"""Is an estimator right? Compare the mean of many estimates with the exact gradient."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tabular_bilevel._arrays import FloatArray, read_only
from tabular_bilevel._validation import (
    as_checked_theta,
    as_generator,
    as_positive,
    entry,
    finite_array,
    positive_integer,
)
from tabular_bilevel.errors import CheckFailedError
from tabular_bilevel.hypergradient import hypergradient
from tabular_bilevel.problem import BilevelProblem

__all__ = ["EstimatorReport", "Verdict", "as_gradient", "check_estimator", "judge"]

# Estimates and target are computed in float64: gaps below this, relative to the largest entry, are
# rounding, however small the sampling error.
ROUNDING = 1e-10

# The t-test is trusted for means of data whose kurtosis is at most this (3 for normal data); above
# it, a few replicates decide the mean, and its standard error says little.
LARGEST_KURTOSIS = 15.0

# Where a bias of the target's own size is invisible, an estimator of 0 would pass as well.
LARGEST_VISIBLE_BIAS = 1.0


class Verdict(enum.Enum):
    """What a check of an estimator concludes.

    - UNBIASED: no test failed, and the smallest visible bias is below the target itself.
    - BIASED: a test failed that a correct estimator fails with the false-alarm rate only.
    - INCONCLUSIVE: no test failed, but they prove nothing: the noise would have hidden a bias of
      the target's size, a few extreme replicates decide the mean, or replicates are all the same.
    """

    UNBIASED = "no bias seen"
    BIASED = "BIASED"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True, eq=False)
class EstimatorReport:
    """What `check_estimator` found.

    Attributes
    ----------
    verdict : Verdict
        UNBIASED means: no bias seen, and one of `smallest_visible_bias` would have been.
    statistic : float
        Largest |mean - target| in standard errors, over all tests.
    critical_value : float
        What the statistic of a correct estimator exceeds with probability `false_alarm_rate` only.
    where : str
        The test that gave the statistic.
    bias : float
        Mean minus target along the target, relative to the target's norm.
    smallest_visible_bias : float
        Bias along the target, relative to its norm, that would have been seen with probability
        `power`.
    power, false_alarm_rate : float
        Probabilities behind the two numbers above.
    n_replicates, n_tests, n_unresolved : int
        Estimates drawn; tests made; coordinates left out, because nearly all replicates were the
        same there or a few extreme ones decide the mean.
    constant : bool
        Whether all replicates were the same; one that is wrong is INCONCLUSIVE, since what moves
        the mean may be rare: compare a deterministic estimator with `target` directly.
    mean, standard_error, target : ndarray, shape (d,)
        Of the estimates; and what they should be.
    """

    verdict: Verdict
    statistic: float
    critical_value: float
    where: str
    bias: float
    smallest_visible_bias: float
    power: float
    false_alarm_rate: float
    n_replicates: int
    n_tests: int
    n_unresolved: int
    constant: bool
    mean: FloatArray = field(repr=False)
    standard_error: FloatArray = field(repr=False)
    target: FloatArray = field(repr=False)

    @property
    def passed(self) -> bool:
        """Whether no bias was seen in a conclusive check."""
        return self.verdict is Verdict.UNBIASED

    def replicates_for(self, bias: float) -> int:
        """Count the replicates that it takes to see a bias along the target.

        Parameters
        ----------
        bias : float
            Relative to the target's norm.

        Returns
        -------
        int
            By the square-root law, from this report's noise; 0 if the target is 0.
        """
        ratio = self.smallest_visible_bias / as_positive("bias", bias)
        return math.ceil(self.n_replicates * ratio**2) if math.isfinite(ratio) else 0

    def raise_if_failed(self) -> None:
        """Raise `CheckFailedError` with the report as its message unless the check passed."""
        if not self.passed:
            raise CheckFailedError(str(self))

    def __str__(self) -> str:
        left_out = f", {self.n_unresolved} coordinates unresolved" if self.n_unresolved else ""
        if np.isinf(self.smallest_visible_bias):
            along = "the target is 0, so there is no bias along it"
        else:
            along = (
                f"bias along the target {self.bias:+.2%} of its norm; one of "
                f"{self.smallest_visible_bias:.2%} would have been seen with probability "
                f"{self.power:g}; for one of 1% it takes {self.replicates_for(0.01)} replicates"
            )
        same = "; all the same: is rng used, or what moves them rare?" if self.constant else ""
        return (
            f"Estimator check: {self.verdict.value}\n"
            f"  largest deviation {self.statistic:.3g} standard errors ({self.where}), critical "
            f"value {self.critical_value:.3g} at false-alarm rate {self.false_alarm_rate:g}\n"
            f"  {along}\n"
            f"  {self.n_replicates} replicates, {self.n_tests} tests{left_out}{same}"
        )


def check_estimator(
    estimator: Callable[..., Any],
    problem: BilevelProblem,
    theta: npt.ArrayLike,
    *,
    n_replicates: int = 100,
    false_alarm_rate: float = 1e-3,
    power: float = 0.99,
    target: npt.ArrayLike | None = None,
    rng: np.random.Generator | int = 0,
) -> EstimatorReport:
    """Test whether an estimator's mean is the exact gradient.

    The estimator is called `n_replicates` times. For each coordinate, and along the target, the
    mean's deviation is compared with its standard error by Student's t, at a family-wise
    false-alarm rate (Bonferroni). A pass says no more than `smallest_visible_bias`.

    Parameters
    ----------
    estimator : callable
        Called as ``estimator(problem, theta, rng=generator)``, returning an array_like of shape
        (d,) or an object whose ``.gradient`` is one.
    problem : BilevelProblem
        The leader's problem.
    theta : array_like, shape (d,)
        The leader's parameter.
    n_replicates : int
        Calls, each with its own generator; at least 30, for the tests to have their level.
    false_alarm_rate : float
        Probability that a correct estimator fails.
    power : float
        Probability with which the smallest visible bias would have been seen.
    target : array_like, shape (d,), optional
        What the estimates should have as their mean; the exact hypergradient by default, over an
        infinite horizon. For another objective pass its gradient.
    rng : numpy.random.Generator or int
        Source of randomness, or a seed.

    Returns
    -------
    EstimatorReport
        Verdict and numbers.

    Raises
    ------
    ValueError
        If an estimate has the wrong shape or is not finite, a setting is out of range, or theta has
        no entries.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> problem, theta = tb.problems.garnet(), [0.1] * 6
    >>> estimator = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(200)))
    >>> tb.check_estimator(estimator, problem, theta).passed
    True
    >>> def half(problem, theta, rng):
    ...     return 0.5 * estimator(problem, theta, rng=rng).gradient
    >>> tb.check_estimator(half, problem, theta).passed
    False
    """
    theta = read_only(as_checked_theta(theta))
    count = positive_integer("n_replicates", n_replicates)
    if count < 30:
        raise ValueError(f"n_replicates is {count}, fewer than 30")
    if target is None:
        target = hypergradient(problem, theta).gradient
    wanted = finite_array("target", target, theta.shape)
    estimates = np.array(
        [
            as_gradient(estimator(problem, theta, rng=stream), theta.shape)
            for stream in as_generator(rng).spawn(count)
        ]
    )
    return judge(estimates, wanted, false_alarm_rate=false_alarm_rate, power=power)


def as_gradient(estimate: Any, shape: tuple[int, ...]) -> FloatArray:
    """Take what an estimator returned as a finite gradient of the given shape."""
    return finite_array("estimate", getattr(estimate, "gradient", estimate), shape)


def judge(
    estimates: FloatArray, target: FloatArray, *, false_alarm_rate: float, power: float
) -> EstimatorReport:
    """Compare estimates, one a row, with their target.

    Parameters
    ----------
    estimates : ndarray, shape (n, d)
        Independent replicates.
    target : ndarray, shape (d,)
        What their mean should be.
    false_alarm_rate, power : float
        As for `check_estimator`.

    Returns
    -------
    EstimatorReport
        Verdict and numbers.
    """
    from scipy import stats

    for name, rate in (("false_alarm_rate", false_alarm_rate), ("power", power)):
        if not 0.0 < rate < 1.0:
            raise ValueError(f"{name} is {rate}, not in (0, 1)")
    count, norm = len(estimates), float(np.linalg.norm(target))
    # the last column is the component along the target
    along = target / norm if norm > 0.0 else np.zeros_like(target)
    samples = np.column_stack([estimates, estimates @ along])
    goals = np.append(target, norm)
    means = samples.mean(axis=0)
    centred = samples - means
    spread = np.sqrt((centred**2).sum(axis=0) / (count - 1))
    rounding = ROUNDING * max(np.abs(goals).max(), np.abs(means).max(), np.finfo(float).tiny)
    gaps, errors = np.abs(means - goals), np.hypot(spread / np.sqrt(count), rounding)

    constant = spread <= rounding
    with np.errstate(invalid="ignore", divide="ignore"):
        kurtosis = count * (centred**4).sum(axis=0) / (centred**2).sum(axis=0) ** 2
    heavy = ~constant & ~(kurtosis <= LARGEST_KURTOSIS)
    # Replicates that are all the same, and not right: what moves the mean may just be rare.
    astray = constant & (gaps > 10.0 * rounding)
    tested = ~(heavy | astray)
    if norm == 0.0:
        tested[-1] = False

    n_tests = int(tested.sum())
    critical = float(stats.t.isf(false_alarm_rate / (2 * max(n_tests, 1)), count - 1))
    scores = np.where(tested, gaps / errors, 0.0)
    worst = int(np.argmax(scores))
    bias, visible = means[-1] - goals[-1], (critical + stats.norm.isf(1.0 - power)) * errors[-1]
    # What was left out of the tests proves nothing, but must not look like a visible bias either.
    in_doubt = (~tested & (gaps > critical * errors) & (gaps > visible)).any()
    if norm > 0.0:
        conclusive = tested[-1] and not in_doubt and visible <= LARGEST_VISIBLE_BIAS * norm
    else:
        conclusive = tested[:-1].all()
    if scores[worst] > critical:
        verdict = Verdict.BIASED
    elif conclusive:
        verdict = Verdict.UNBIASED
    else:
        verdict = Verdict.INCONCLUSIVE
    return EstimatorReport(
        verdict=verdict,
        statistic=float(scores[worst]),
        critical_value=critical,
        where="along the target" if worst == target.size else entry("gradient", (worst,)),
        bias=float(bias / norm) if norm > 0.0 else 0.0,
        smallest_visible_bias=float(visible / norm) if norm > 0.0 else float("inf"),
        power=power,
        false_alarm_rate=false_alarm_rate,
        n_replicates=count,
        n_tests=n_tests,
        n_unresolved=int((~tested[:-1]).sum()),
        constant=bool(constant.all()),
        mean=read_only(means[:-1]),
        standard_error=read_only(errors[:-1]),
        target=read_only(goals[:-1]),
    )
