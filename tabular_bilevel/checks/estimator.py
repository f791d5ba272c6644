"""Is an estimator right? Compare the mean of many estimates with the exact gradient."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arguments import (
    as_checked_theta,
    as_generator,
    as_positive,
    finite_array,
    positive_integer,
)
from tabular_bilevel._base.arrays import FloatArray, read_only
from tabular_bilevel._base.generators import require_whole
from tabular_bilevel.certify.result import Accuracy
from tabular_bilevel.checks.diagnosis import Diagnosis, diagnose, horizon_of, suspects
from tabular_bilevel.checks.judging import judge, judge_in_looks
from tabular_bilevel.checks.replicates import BrokenEstimatorError, Replicates
from tabular_bilevel.checks.report import EstimatorReport
from tabular_bilevel.checks.verdict import Verdict
from tabular_bilevel.estimators.contract import as_estimator
from tabular_bilevel.exact.hypergradient import hypergradient
from tabular_bilevel.problem import BilevelProblem

__all__ = ["EstimatorReport", "Verdict", "check_estimator", "judge"]

# So far out in the tails no law of a mean of data holds, nor can the non-central one be computed.
SMALLEST_RATE = 1e-12

KEEPS_STATE = (
    "the mean is off, but the first call made again, with the same rng, gives something else: if "
    "calls share what they keep, they are off together. Let no call keep anything for the next but "
    "in a memory that it gives back, and draw from the given rng alone"
)

# Nobody has the time for a longer one.
LONGEST_BURN_IN = 2**30 - 1


def check_estimator(
    estimator: Any,
    problem: BilevelProblem,
    theta: npt.ArrayLike,
    *,
    n_replicates: int = 400,
    visible_bias: float = 0.05,
    false_alarm_rate: float = 1e-3,
    power: float = 0.99,
    target: npt.ArrayLike | None = None,
    burn_in: int = 0,
    rng: np.random.Generator | int | None = None,
) -> EstimatorReport:
    """Test whether an estimator's mean is the exact gradient.

    The estimator is called many times, and the mean is compared with the target by Hotelling's T^2.
    Where replicates are too few for the number of directions in which they vary, it is compared in
    each coordinate and along the target, by Student's t with Bonferroni's correction. Looks are
    taken after 50, 100, 200, ... replicates, and share the false-alarm rate. The check ends as soon
    as it is sure. A pass says no more than `smallest_visible_bias`. A bias is diagnosed: see
    `Diagnosis`.

    The false-alarm rate rests on two conditions. Calls are independent: their order is looked at,
    and the first call is made again before any BIASED. And no part of the noise that matters comes
    less often than about once in n_replicates / 20 calls, which nothing can show. Noise that is
    skewed or has heavy tails raises the critical values (theory.md section 7), and is INCONCLUSIVE
    where too few replicates make its tail. That this keeps the rate is simulated
    (``validation/checker.py``), not proven.

    Parameters
    ----------
    estimator : callable
        A method of this package, a control, or a function or object called as
        ``estimator(problem, theta, rng=generator)``, ``(view, batch)`` or ``(view, rng)``, see
        `BatchEstimator` and `SamplingEstimator`. It returns an array_like of shape (d,), of NumPy,
        JAX or PyTorch, or an object whose ``.gradient`` is one; with a parameter ``memory``, a pair
        of that and the memory for the next call.
    problem : BilevelProblem
        The leader's problem.
    theta : array_like, shape (d,)
        The leader's parameter.
    n_replicates : int
        Calls at most, each with its own generator; at least 30, for the tests to have their level.
        With fewer than 100 nothing is BIASED, unless the false-alarm rate is 0.05 or more.
    visible_bias : float
        Stop when a bias this small, along the target and relative to its norm, would be seen.
    false_alarm_rate : float
        Probability that a correct estimator is BIASED.
    power : float
        Probability with which the smallest visible bias would not have passed.
    target : array_like, shape (d,), optional
        What the estimates should have as their mean; the exact hypergradient by default, over an
        infinite horizon. For another objective pass its gradient.
    burn_in : int
        Calls that each replicate makes before the one that counts, each with the memory of the one
        before. A check takes so many times longer, and one more. By default every call starts
        without a memory, as the first of an ascent does. See the notes.
    rng : numpy.random.Generator or int, optional
        Source of randomness, or a seed. Fresh by default, so that the false-alarm rate is the rate
        at which a test of a correct estimator fails; the report has the seed.

    Returns
    -------
    EstimatorReport
        Verdict and numbers. An estimator that raises, or returns what is no gradient, is BROKEN.

    Raises
    ------
    ValueError
        If the estimator cannot be called, a setting is out of range, or theta has no entries.

    Notes
    -----
    With a burn-in of N, the mean that is tested is that of call N + 1 of an ascent that stands
    still at theta, over all that is random in it: the data of that call, and the memory that the N
    calls before, with data of their own, came to. Each replicate warms up afresh, because the test
    needs independent ones. If all started from one memory, warmed up once, they would share its
    error, which is as much chance as any other: a table that is right on average, and off by its
    noise, would be called BIASED. What N calls leave of a cold start counts as a bias, as it is one
    in an ascent: double N to see whether it fades.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> problem, theta = tb.problems.garnet(), [0.1] * 6
    >>> estimator = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(200)))
    >>> tb.check_estimator(estimator, problem, theta, rng=0).passed
    True
    >>> def half(problem, theta, rng):
    ...     return 0.5 * estimator(problem, theta, rng=rng).gradient
    >>> tb.check_estimator(half, problem, theta, rng=0).passed
    False
    """
    theta = read_only(as_checked_theta(theta))
    count = positive_integer("n_replicates", n_replicates)
    if count < 30:
        raise ValueError(f"n_replicates is {count}, fewer than 30")
    wanted = as_positive("visible_bias", visible_bias)
    if 0.0 < false_alarm_rate < SMALLEST_RATE:
        raise ValueError(f"false_alarm_rate is {false_alarm_rate}, below {SMALLEST_RATE}")
    require_whole("burn_in", burn_in, 0, LONGEST_BURN_IN)
    seed = None if isinstance(rng, np.random.Generator) else rng
    if rng is None:
        rng = seed = int(np.random.SeedSequence().entropy)  # type: ignore[arg-type]
    streams = as_generator(rng).spawn(count)
    taken = as_estimator(estimator)
    goal, target_accuracy = target_of(problem, theta, target)
    replicates = Replicates(taken.at(problem, theta), streams, int(burn_in))
    try:
        found = judge_in_looks(
            replicates.drawn,
            goal,
            n_replicates=count,
            visible_bias=wanted,
            false_alarm_rate=false_alarm_rate,
            power=power,
            rounding=lambda: replicates.rounding,
        )
        replicates.require_sound()
        if found.verdict is Verdict.BIASED and not replicates.start_afresh():
            found = dataclasses.replace(found, verdict=Verdict.INCONCLUSIVE, reason=KEEPS_STATE)
    except BrokenEstimatorError as error:
        found = EstimatorReport(
            Verdict.BROKEN, n_replicates=len(replicates.rows), target=goal, trouble=str(error)
        )
    diagnosis = None
    if target is None and (found.verdict is Verdict.BIASED or found.doubtful):
        horizon = horizon_of(taken, problem, theta)
        diagnosis = _diagnosed(replicates, problem, theta, goal, horizon)
    return dataclasses.replace(
        found,
        false_alarm_rate=false_alarm_rate,
        diagnosis=diagnosis,
        notes=replicates.notes,
        asked=replicates.asked,
        seed=seed,
        target_accuracy=target_accuracy,
        burn_in=int(burn_in),
    )


def _diagnosed(
    replicates: Replicates,
    problem: BilevelProblem,
    theta: FloatArray,
    exact: FloatArray,
    horizon: int | None,
) -> Diagnosis | None:
    """Diagnose after more and more replicates: a gross bias shows early, which one may not."""
    targets = suspects(problem, theta, horizon=horizon)

    def found() -> Diagnosis | None:
        rows = np.array(replicates.rows)
        return diagnose(rows, targets, exact=exact, rounding=replicates.rounding, horizon=horizon)

    diagnosis = found()
    with contextlib.suppress(BrokenEstimatorError):
        while diagnosis is not None and not diagnosis.clear and replicates.left:
            replicates.drawn(min(2 * len(replicates.rows), replicates.count))
            diagnosis = found()
    return diagnosis


def target_of(
    problem: BilevelProblem, theta: FloatArray, target: npt.ArrayLike | None
) -> tuple[FloatArray, Accuracy | None]:
    """Check a target, or take the hypergradient, and what is known of its error."""
    if target is not None:
        return finite_array("target", target, theta.shape), None
    exact = hypergradient(problem, theta)
    return exact.gradient, exact.accuracy
