"""Is an estimator right? Its exact expectation, from all trajectories (theory.md section 8)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from textwrap import indent
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arguments import (
    as_array,
    as_checked_theta,
    as_flag,
    as_positive,
    entry,
    first,
    positive_integer,
    require_real_dtype,
)
from tabular_bilevel._base.arrays import FloatArray, IntArray, read_only
from tabular_bilevel._base.errors import raise_if_failed
from tabular_bilevel.certify.accuracy import Level
from tabular_bilevel.certify.result import Accuracy
from tabular_bilevel.checks.diagnosis import EXACT_FIT, Candidates, Diagnosis
from tabular_bilevel.checks.estimator import target_of, times_of
from tabular_bilevel.checks.localising import (
    FACTORS,
    RESIDUAL,
    SCALE,
    Localisation,
    localise,
    parts_of,
)
from tabular_bilevel.checks.pullback import check_pullback
from tabular_bilevel.checks.report import of_target
from tabular_bilevel.checks.verdict import Verdict
from tabular_bilevel.estimators.contract import Enumerable, as_enumerable
from tabular_bilevel.exact.hypergradient import hypergradient
from tabular_bilevel.problem import BilevelProblem, with_names
from tabular_bilevel.problems.markov_game import MarkovGame
from tabular_bilevel.sampling.all_trajectories import AllTrajectories
from tabular_bilevel.sampling.trajectories import Trajectories
from tabular_bilevel.sampling.view import Precision, as_numpy, unit_of

# Rounding of an estimate, in units of its dtype's last digit at the size of a typical estimate:
# room for tables given in that dtype, and for sums of some dozen steps.
ROUNDING_UNITS = 64.0

# Estimates of one trajectory, made alone and in a batch, may differ by the order of their sums.
SAME = 1e3

# Numbers in an array of shape (n, steps, d), of which an estimator given n trajectories at once may
# make several; and estimates made one by one between two moves of the bar.
CHUNK = 2_000_000
ONE_BY_ONE = 1_000

# How trajectories are combined is tried on so many batches of each size, made of trajectories from
# a pool of so many.
TRIED, POOL, SIZES = 60, 24, (2, 3)


@dataclass(frozen=True, eq=False)
class EnumerationReport:
    """What `check_by_enumeration` found; nothing in it is random.

    Attributes
    ----------
    verdict : Verdict
        UNBIASED or BIASED; INCONCLUSIVE where single trajectories have the right mean, and batches
        are not the mean of them, and too many to go through; BROKEN where the problem's pullback
        does not fit its model.
    difference : float
        Largest |expectation - target|, relative to the target's largest entry (where the target is
        0, to the largest mean of |estimate|).
    where : str
        The entry with the largest difference.
    tolerance : float
        What the difference may be: as asked for, and `dtype`'s rounding.
    dtype : str
        Coarsest dtype of the estimates.
    n_trajectories : int
        Trajectories of positive probability.
    batch_size : int
        Trajectories an estimate.
    total_probability : float
        Sum of all probabilities; 1 shows that nothing was lost.
    combination : str
        What was found of batches of two and three, if single trajectories were asked about.
    reason : str
        Why the verdict is INCONCLUSIVE or BROKEN.
    pullback_checked : bool
        Whether the problem's pullback was compared with differences of its model, and fits.
    asked : tuple of str, or None
        What the estimator asked its view for; None if it has no view.
    expectation : ndarray, shape (d,)
        Mean of an estimate.
    covariance : ndarray, shape (d, d)
        Covariance of an estimate.
    target : ndarray, shape (d,)
        What the expectation should be.
    localisation : Localisation
        Where the expectation and the exact gradient part, and by how much.
    diagnosis : Diagnosis or None
        Which mistakes explain a bias.
    target_accuracy : Accuracy or None
        What is known of the default target's error; None of one that was given.
    times : float or None
        Up to scale only: how many times the given target the expectation is; `target` is that
        multiple.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> problem, theta = tb.problems.layered(depth=2, width=2), [0.1] * 4
    >>> report = tb.check_by_enumeration(tb.NaivePolicyGradient(), problem, theta)
    >>> report.passed, report.n_trajectories, report.standard_deviation.shape
    (False, 16, (4,))
    >>> print(report.factors["direct"], abs(report.factors["through_follower"].value) < 1e-9)
    1 [1, 1] True
    >>> report.scale.wrong, report.residual < 1e-6
    (True, True)
    >>> try:
    ...     report.raise_if_failed()
    ... except tb.CheckFailedError as error:
    ...     print(str(error).splitlines()[0])
    Enumeration check: BIASED
    """

    level: ClassVar[Level] = Level.ESTIMATE  # sums of float64, compared to a tolerance

    verdict: Verdict
    difference: float
    where: str
    tolerance: float
    dtype: str
    n_trajectories: int
    batch_size: int
    total_probability: float
    asked: tuple[str, ...] | None
    expectation: FloatArray = field(repr=False)
    covariance: FloatArray = field(repr=False)
    target: FloatArray = field(repr=False)
    combination: str = ""
    reason: str = ""
    pullback_checked: bool = False
    localisation: Localisation = field(default_factory=Localisation, repr=False)
    diagnosis: Diagnosis | None = field(default=None, repr=False)
    target_accuracy: Accuracy | None = field(default=None, repr=False)
    times: float | None = None

    @property
    def passed(self) -> bool:
        """Whether the expectation is the target."""
        return self.verdict is Verdict.UNBIASED

    @property
    def standard_deviation(self) -> FloatArray:
        """Standard deviation of an estimate, shape (d,)."""
        return np.sqrt(self.covariance.diagonal())

    factors, scale, residual = FACTORS, SCALE, RESIDUAL

    raise_if_failed = raise_if_failed

    def __str__(self) -> str:
        batches = f" in batches of {self.batch_size}" if self.batch_size > 1 else ""
        norm, spread = np.linalg.norm(self.target), math.sqrt(self.covariance.trace())
        size = f"{spread / norm:.3g} times the target's norm" if norm > 0.0 else f"{spread:.3g}"
        asked = (
            ""
            if self.asked is None
            else "; asked for "
            + (", ".join(self.asked) or "nothing that a decentralised leader lacks")
        )
        scaled = "" if self.times is None else f"up to scale: {self.times:.6g} times the target"
        return (
            f"Enumeration check: {self.verdict.value}\n"
            f"  expectation off by {self.difference:.2g} of the target ({self.where}), tolerance "
            f"{self.tolerance:.2g} for {self.dtype}\n"
            f"  all {self.n_trajectories:,} trajectories{batches}, of probability 1 "
            f"{self.total_probability - 1.0:+.1g}\n"
            f"  standard deviation of an estimate {size}{asked}"
            + "".join(f"\n  {line}" for line in (scaled, self.combination, self.reason) if line)
            + (
                ""
                if self.target_accuracy is None
                else f"\n  the target is {of_target(self.target_accuracy, self.target, self.times)}"
            )
            + (
                ""
                if self.diagnosis is None
                else "".join(
                    f"\n{indent(told, '  ')}"
                    for told in (str(self.localisation), str(self.diagnosis))
                    if told
                )
            )
        )


def check_by_enumeration(
    estimator: Any,
    problem: BilevelProblem,
    theta: npt.ArrayLike,
    *,
    target: npt.ArrayLike | None = None,
    up_to_scale: bool = False,
    horizon: int | None = None,
    batch_size: int = 1,
    limit: int = 1_000_000,
    tolerance: float = 1e-10,
    progress: bool = False,
) -> EnumerationReport:
    """Compute an estimator's exact expectation and covariance, and compare with the target.

    The estimator is run on every trajectory that the follower can make, and the results are added
    up with their probabilities: no statistics.

    Single trajectories do not show how several are put together: a sum in the place of a mean, and
    a median, are right on one. So batches of two and three are looked at, 60 of each. Where they
    are the mean of what the estimator makes of their trajectories alone, the expectation is the
    same for them, and the report says so. Else the exact expectation over all batches of two and of
    three decides, as for baselines and ratios across trajectories. If those are more than `limit`,
    the check is INCONCLUSIVE. Nothing is said of larger batches.

    Parameters
    ----------
    estimator : callable
        A function ``(view, batch)``, or a `BatchEstimator` (whose sampler is not used), which
        returns one gradient a trajectory, shape (n, d), and is given many at once; or d numbers,
        and is given one at a time; a parameter ``memory`` is empty, as in a first call. Or a method
        of this package, a control, or an object with an `interaction` and a method
        ``estimate(experience)`` (whose samplers are not used either).
    problem : BilevelProblem
        The leader's problem.
    theta : array_like, shape (d,)
        The leader's parameter.
    target : array_like, shape (d,), optional
        What the expectation should be; the exact hypergradient by default.
    up_to_scale : bool
        Whether to compare directions only, as of `check_estimator`.
    horizon : int, optional
        Cut trajectories after this many steps, which leaves a bias: ``estimator.target`` of the
        built-in methods knows it. Needed where a state can be visited twice.
    batch_size : int
        Trajectories an estimate. Above 1, the estimator is called with all batches of this size (up
        to order, unless that is seen to matter), the mean of what it returns is its estimate, and
        no other size is looked at: for estimators that need more than one trajectory.
    limit : int
        Largest number of trajectories, or batches, to go through.
    tolerance : float
        Largest difference, relative to the target's largest entry. The rounding of the estimates'
        dtype is allowed on top.
    progress : bool
        Whether to show a bar, which says the number in all before anything is run.

    Returns
    -------
    EnumerationReport
        Verdict and numbers.

    Raises
    ------
    ValueError
        If there is no longest trajectory, or there are more than `limit`; if the estimator draws
        its own data or random numbers, or what it returns has the wrong shape, or is not finite.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> problem, theta = tb.problems.layered(), [0.1] * 4
    >>> print(tb.check_by_enumeration(tb.NaivePolicyGradient(), problem, theta).verdict.value)
    BIASED
    >>> report = tb.check_by_enumeration(tb.BoltzmannCovariance(), problem, theta)
    >>> report.passed, report.n_trajectories, report.covariance.shape
    (True, 384, (4, 4))
    """
    from tqdm.auto import tqdm

    theta, free = read_only(as_checked_theta(theta)), as_flag("up_to_scale", up_to_scale)
    as_positive("tolerance", tolerance)
    size, most = positive_integer("batch_size", batch_size), positive_integer("limit", limit)
    subject = as_enumerable(estimator, problem, theta)
    every = AllTrajectories(subject.model, subject.policy, horizon=horizon)
    _require_within(every.count, size, most)
    if abs(every.probability - 1.0) > tolerance:
        raise ValueError(
            f"trajectories have the probability {every.probability:.12g} in all, not 1 to the "
            f"tolerance of {tolerance:g}: rows of transition, with termination, or initial do not "
            "sum to 1 to as many digits"
        )
    goal, exact = target_of(problem, theta, target)
    pullback = check_pullback(problem, theta)
    if free and not goal.any():
        raise ValueError("target is 0, which has no direction to compare, up to scale")

    def expected(run: _Run) -> EnumerationReport:
        """Add up over all batches of one size."""
        sums = _Sums(goal)
        with tqdm(total=run.n_batches, unit=" estimates", disable=not progress) as bar:
            for probabilities, estimates in run.through(most):
                sums.add(probabilities, estimates)
                bar.update(len(estimates))
        return sums.report(run, tolerance, up_to_scale=free)

    report = expected(_Run(subject, every, size, theta.size))
    if size == 1 and report.passed:
        runs = [_Run(subject, every, size, theta.size) for size in SIZES]
        report = _combined(report, runs, expected, most)
    skipped = f"the problem's pullback was not checked: {pullback.skipped}"
    report = replace(
        report,
        where=with_names(problem, report.where),
        target_accuracy=None if exact is None else exact.accuracy,
        pullback_checked=pullback.checked,
        reason=report.reason or (skipped if pullback.skipped else ""),
    )
    if pullback.trouble:
        return replace(report, verdict=Verdict.BROKEN, reason=f"pullback: {pullback.trouble}")
    fit, rows = max(EXACT_FIT, ROUNDING_UNITS * unit_of(report.dtype)), report.expectation[None]
    if exact is None:
        exact = hypergradient(problem, theta)
    parts, is_game = parts_of(problem, theta, exact), isinstance(problem, MarkovGame)
    where = localise(rows, parts, exact.gradient, rounding=fit, is_game=is_game)
    report = replace(report, localisation=where)
    if report.verdict is not Verdict.BIASED:
        return report
    candidates = Candidates(
        problem,
        theta,
        horizon=horizon,
        count=report.batch_size,
        together=report.batch_size > size,
    )
    diagnosis = candidates.diagnose(rows, parts, rounding=fit, exactly=True, up_to_scale=free)
    return replace(report, diagnosis=diagnosis)


def _combined(
    single: EnumerationReport,
    runs: Sequence[_Run],
    expected: Callable[[_Run], EnumerationReport],
    limit: int,
) -> EnumerationReport:
    """Look at how trajectories are put together, where single ones have the right mean."""
    other = next(filter(None, (run.unlike_singles() for run in runs)), "")
    if not other:
        told = (
            f"batches of 2 and 3 are the mean of single trajectories, in all {TRIED} tried of each"
        )
        return replace(single, combination=told)
    for run in runs:
        if run.n_batches > limit:
            reason = (
                f"{_spelled(run.n_batches)} batches of {run.size} are more than the limit of "
                f"{limit:,}: right on single trajectories proves nothing of them; raise the limit, "
                "or take a smaller problem"
            )
            return replace(single, verdict=Verdict.INCONCLUSIVE, combination=other, reason=reason)
        found = expected(run)
        if not found.passed:
            told = f"{other}; single trajectories have the right mean, batches of {run.size} do not"
            return replace(found, combination=told)
    counts = " and ".join(f"{run.n_batches:,} batches of {run.size}" for run in runs)
    return replace(single, combination=f"{other}, but all {counts} have the right mean, too")


def _n_batches(count: int, size: int, *, ordered: bool) -> int:
    return count**size if ordered else math.comb(count + size - 1, size)


def _require_within(count: int, size: int, limit: int, *, ordered: bool = False) -> None:
    """Raise if there are too many batches."""
    n_batches = _n_batches(count, size, ordered=ordered)
    if n_batches > limit:
        kept = " in order" if ordered else ""
        made = f", {_spelled(n_batches)} batches of {size}{kept}" if size > 1 else ""
        raise ValueError(
            f"there are {_spelled(count)} trajectories{made}, more than the limit of {limit:,}"
        )


def _spelled(count: int) -> str:
    """Spell a count; of a long one, the power of ten (Python refuses to print very long ones)."""
    return f"{count:,}" if count < 10**15 else f"about 10^{math.log10(count):.0f}"


class _Run:
    """An estimator on its way through all batches of trajectories."""

    def __init__(
        self, subject: Enumerable, every: AllTrajectories, size: int, n_parameters: int
    ) -> None:
        self.subject, self.every, self.size = subject, every, size
        self.precision = Precision()
        self._n_parameters = n_parameters
        self._rows = max(1, CHUNK // (every.longest * n_parameters))

    def through(self, limit: int) -> Iterator[tuple[FloatArray, FloatArray]]:
        """Yield probabilities, shape (n,), and estimates, shape (n, d)."""
        if self._is_per_trajectory():
            return self._at_once()
        _require_within(self.every.count, self.size, limit, ordered=self.ordered)
        return self._one_by_one()

    @property
    def n_batches(self) -> int:
        return _n_batches(self.every.count, self.size, ordered=self.ordered)

    @cached_property
    def ordered(self) -> bool:
        """Whether the order of trajectories matters, in a batch that was tried."""
        return any(
            self._differ(self._batch(batch), self._batch(batch[::-1]), np.abs(self._batch(batch)))
            for batch in (self._tried() if self.size > 1 else ())
        )

    def unlike_singles(self) -> str:
        """Look for a batch that is not the mean of its trajectories alone, and describe it."""
        singles: dict[int, FloatArray] = {}
        for batch in self._tried():
            for number in set(batch.tolist()) - singles.keys():
                singles[number] = self._batch(np.array([number]))
            alone = np.array([singles[number] for number in batch.tolist()])
            together, mean = self._batch(batch), alone.mean(axis=0)
            if self._differ(together, mean, np.abs(alone)):
                gap = float(np.abs(together - mean).max())
                numbers = ", ".join(map(str, batch))
                return (
                    f"a batch is not the mean of single trajectories: the one of {numbers} is off "
                    f"by {gap:.3g}"
                )
        return ""

    def _tried(self) -> IntArray:
        """Choose batches, some with a trajectory twice, shape (`TRIED`, size)."""
        rng, count = np.random.default_rng(0), self.every.count
        pool = rng.integers(count, size=POOL) if count > POOL else np.arange(count)
        return np.asarray(rng.choice(pool, size=(TRIED, self.size)))

    def _batch(self, numbers: IntArray) -> FloatArray:
        """Estimate from some trajectories, in this order; shape (d,)."""
        sample, _ = self.every.take(numbers)
        return np.asarray(self._estimates(sample, numbers).mean(axis=0))

    def _differ(self, one: FloatArray, other: FloatArray, sizes: FloatArray) -> bool:
        """Say whether estimates differ by more than the order of sums."""
        return bool(np.abs(one - other).max() > SAME * self.precision.unit * sizes.max())

    def _at_once(self) -> Iterator[tuple[FloatArray, FloatArray]]:
        for start in range(0, self.every.count, self._rows):
            numbers = np.arange(start, min(start + self._rows, self.every.count))
            sample, probabilities = self.every.take(numbers)
            yield probabilities, self._estimates(sample, numbers)

    def _one_by_one(self) -> Iterator[tuple[FloatArray, FloatArray]]:
        size = self.size
        count = range(self.every.count)
        batches: Iterator[tuple[int, ...]] = (
            itertools.product(count, repeat=size)
            if self.ordered
            else itertools.combinations_with_replacement(count, size)
        )
        while chosen := list(itertools.islice(batches, ONE_BY_ONE)):
            numbers = np.array(chosen)
            sample, probabilities = self.every.take(numbers.ravel())
            estimates = [
                self._estimates(sample.part(slice(k * size, (k + 1) * size)), batch).mean(axis=0)
                for k, batch in enumerate(numbers)
            ]
            weights = probabilities.reshape(-1, size).prod(axis=1)
            yield weights * (1.0 if self.ordered else _arrangements(numbers)), np.array(estimates)

    def _is_per_trajectory(self) -> bool:
        """Try it out: what form it returns, and whether that is a function of the trajectory."""
        numbers = np.linspace(0, self.every.count - 1, max(2, self.size)).astype(np.int64)
        sample, _ = self.every.take(numbers)
        rows = self._estimates(sample, numbers)
        if (self._estimates(sample, numbers) != rows).any():
            raise ValueError(
                "estimates of the same trajectories differ from call to call: enumeration does not "
                "go through an estimator's own randomness"
            )
        if self.size > 1 or len(rows) < numbers.size:
            return False
        alone = self._estimates(sample.part(slice(1)), numbers[:1])
        return not self._differ(alone, rows[:1], np.abs(rows))

    def _estimates(self, sample: Trajectories, numbers: IntArray) -> FloatArray:
        """Call it; one row for all trajectories, or one for each."""
        try:
            found = self.subject.estimate(sample)
        except Exception as error:
            error.add_note(f"in {_source(sample, numbers)}")
            raise
        rows, d = as_array("estimate", as_numpy(found)), self._n_parameters
        require_real_dtype("estimate", rows.dtype)
        self.precision.note(found)
        if rows.shape != (d,) and rows.shape != (numbers.size, d):
            raise ValueError(
                f"estimate has shape {rows.shape}, neither ({numbers.size}, {d}), a gradient for "
                f"each trajectory, nor ({d},), one for all"
            )
        rows = np.atleast_2d(rows).astype(np.float64)
        if not np.isfinite(rows).all():
            row, column = first(~np.isfinite(rows))
            which = slice(row, row + 1) if len(rows) == numbers.size else slice(None)
            raise ValueError(
                f"{entry('estimate', (column,))} is {rows[row, column]}, not a finite number, from "
                f"{_described(sample.part(which), numbers[which])}"
                + (
                    "; where one trajectory is too few, enumerate batches, by batch_size=2"
                    if numbers.size == 1
                    else ""
                )
            )
        return rows


class _Sums:
    """Sums of estimates over trajectories: pairwise in a chunk, exact over the chunks."""

    def __init__(self, target: FloatArray) -> None:
        self._target = target
        self._probabilities: list[float] = []
        self._gaps: list[FloatArray] = []  # of estimate - target, which keeps its digits
        self._sizes: list[FloatArray] = []
        self._squares = np.zeros((target.size, target.size))

    def add(self, probabilities: FloatArray, estimates: FloatArray) -> None:
        """Add some, shapes (n,) and (n, d)."""
        gaps = estimates - self._target
        weighted = np.ascontiguousarray((probabilities[:, None] * gaps).T)
        self._probabilities.append(math.fsum(probabilities))
        self._gaps.append(weighted.sum(axis=1))
        self._sizes.append(probabilities @ np.abs(estimates))
        self._squares += weighted @ gaps

    def report(self, run: _Run, tolerance: float, *, up_to_scale: bool) -> EnumerationReport:
        target, total = self._target, math.fsum(self._probabilities)
        mean_gap = np.array([math.fsum(column) for column in zip(*self._gaps, strict=True)])
        expectation = total * target + mean_gap
        times = times_of(expectation, target) if up_to_scale else 1.0
        target = times * target
        typical = float(np.sum(self._sizes, axis=0).max())  # the largest mean of |estimate|
        scale = float(np.abs(target).max()) or typical or 1.0
        gaps = np.abs(expectation - target)
        worst = int(np.argmax(gaps))
        allowed = tolerance + ROUNDING_UNITS * run.precision.unit * typical / scale
        difference = float(gaps[worst] / scale)
        covariance = self._squares - np.outer(mean_gap, mean_gap)
        return EnumerationReport(
            verdict=Verdict.UNBIASED if difference <= allowed and times > 0.0 else Verdict.BIASED,
            difference=difference,
            where=entry("gradient", (worst,)),
            tolerance=allowed,
            dtype=run.precision.dtype,
            n_trajectories=run.every.count,
            batch_size=run.size,
            total_probability=total,
            asked=run.subject.asked,
            expectation=read_only(expectation),
            covariance=read_only((covariance + covariance.T) / 2.0),
            target=read_only(target.copy()),
            times=times if up_to_scale else None,
        )


def _arrangements(numbers: IntArray) -> FloatArray:
    """Count the orders of each sorted row, shape (n, k): k! / (its repetitions' factorials)."""
    n, k = numbers.shape
    orders, repeats = np.full(n, float(math.factorial(k))), np.ones(n)
    for j in range(1, k):
        repeats = np.where(numbers[:, j] == numbers[:, j - 1], repeats + 1.0, 1.0)
        orders /= repeats
    return orders


def _source(sample: Trajectories, numbers: IntArray) -> str:
    return f"an estimate from {_described(sample, numbers)}"


def _described(sample: Trajectories, numbers: IntArray) -> str:
    """Name trajectories by their numbers, and the first by what happens in it."""
    which = (
        f"trajectory {numbers[0]}"
        if numbers.size == 1
        else f"trajectories {', '.join(map(str, numbers))}"
        if numbers.size < 4
        else f"{numbers.size} trajectories from number {numbers[0]}"
    )
    steps = slice(int(sample.lengths[0]))
    head = "" if numbers.size == 1 else f", {numbers[0]} with"
    return (
        f"{which}{head}: states {sample.states[0, steps].tolist()}, "
        f"actions {sample.actions[0, steps].tolist()}"
    )
