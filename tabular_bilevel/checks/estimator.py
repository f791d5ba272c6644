"""Is an estimator right? Compare the mean of many estimates with the exact gradient."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arguments import (
    as_checked_theta,
    as_flag,
    as_generator,
    as_positive,
    finite_array,
    positive_integer,
)
from tabular_bilevel._base.arrays import FloatArray, binary_scale, norm, quiet, read_only
from tabular_bilevel._base.generators import require_whole
from tabular_bilevel.certify.result import Accuracy, Hypergradient
from tabular_bilevel.checks.declaring import Declared
from tabular_bilevel.checks.diagnosis import (
    EXACT_FIT,
    Candidates,
    Diagnosis,
    horizon_of,
    trajectories_of,
)
from tabular_bilevel.checks.judging import judge, judge_exactly, judge_in_looks
from tabular_bilevel.checks.localising import LEFT_OUT, localise, parts_from, parts_of
from tabular_bilevel.checks.pullback import PullbackTest, check_pullback
from tabular_bilevel.checks.replicates import BrokenEstimatorError, Replicates, rounding_of
from tabular_bilevel.checks.report import EstimatorReport, percent
from tabular_bilevel.checks.verdict import Verdict
from tabular_bilevel.estimators.boltzmann_covariance import BoltzmannCovariance
from tabular_bilevel.estimators.contract import as_estimator
from tabular_bilevel.exact.hypergradient import hypergradient
from tabular_bilevel.finite.follower import FollowerSolver
from tabular_bilevel.mistakes.register import RIGHT
from tabular_bilevel.moments.budget import required_samples
from tabular_bilevel.problem import BilevelProblem, with_names
from tabular_bilevel.problems.markov_game import MarkovGame
from tabular_bilevel.sampling.critics import Critic
from tabular_bilevel.sampling.experience import Experience
from tabular_bilevel.sampling.samplers import Sampler
from tabular_bilevel.sampling.view import Precision, as_numpy

# So far out in the tails no law of a mean of data holds, nor can the non-central one be computed.
SMALLEST_RATE = 1e-12

KEEPS_STATE = (
    "the mean is off, but the first call made again, with the same rng, gives something else: if "
    "calls share what they keep, they are off together. Let no call keep anything for the next but "
    "in a memory that it gives back, and draw from the given rng alone"
)

# For tests to have their level.
FEWEST_REPLICATES = 30

# Parameters up to which a method's exact covariance takes no time beside the check.
MANY = 200

# Nobody has the time for a longer one.
LONGEST_BURN_IN = 2**30 - 1


def check_estimator(
    estimator: Any,
    problem: BilevelProblem,
    theta: npt.ArrayLike,
    *,
    n_replicates: int = 400,
    visible_bias: float | None = None,
    false_alarm_rate: float = 1e-3,
    power: float = 0.99,
    target: npt.ArrayLike | None = None,
    simulator: BilevelProblem | None = None,
    sampler: Sampler | None = None,
    follower: FollowerSolver | None = None,
    critic: Critic | None = None,
    up_to_scale: bool = False,
    burn_in: int = 0,
    rng: np.random.Generator | int | None = None,
    progress: bool = False,
) -> EstimatorReport:
    """Test whether an estimator's mean is the exact gradient.

    The estimator is called many times, and the mean is compared with the target by Hotelling's T^2.
    Where replicates are too few for the number of directions in which they vary, it is compared in
    each coordinate and along the target, by Student's t with Bonferroni's correction. Looks are
    taken after 50, 100, 200, ... replicates, and share the false-alarm rate. The check ends as soon
    as it is sure. A pass says no more than `smallest_visible_bias`. A bias is diagnosed: see
    `Diagnosis`.

    A function that draws from no generator (not from its own, a global one, or one that it holds),
    and gives the same in five calls, is deterministic. What it gives is compared with the target to
    the target's proven bound and 1e-10 of the largest entry (64 units of a coarser dtype), and is
    BIASED if it is further off. Where a coordinate of other estimators is the same in all
    replicates, and off, nothing is decided: what moves it may be rare. `still` says how rare.

    Before all, the problem's pullback, which both target and estimators rest on, is compared with
    differences of the problem's tables along three random directions. If it does not fit, the
    report is BROKEN, for the reason "pullback". Of problems with more than 200,000 table entries it
    is not looked at, and the report says so.

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
    visible_bias : float, optional
        Stop when a bias this small, along the target and relative to its norm, would be seen; if
        all replicates do not show it, the check is INCONCLUSIVE. By default 5 % is aimed at: a pass
        that falls short of it says so, and one above 25 % is none, but INCONCLUSIVE. A target of 0
        has no norm to be relative to: there it is not asked for.
    false_alarm_rate : float
        Probability that a correct estimator is BIASED.
    power : float
        Probability with which the smallest visible bias would not have passed.
    target : array_like, shape (d,), optional
        What the estimates should have as their mean; the exact hypergradient by default, over an
        infinite horizon. For another objective pass its gradient. A bias is diagnosed all the same.
    simulator, sampler, follower, critic : optional
        What the estimator is known to work with, as of `Interaction`: a follower that stops early,
        values that are learnt, trajectories that are cut or come from another model. The target is
        then what a right estimator comes to with that and infinite data, and mistakes are those
        beside it; the report says how far that target is from the gradient. A critic that learns
        leaves a bias with finite data, too: BC-HG with it is sampled as often, with the declared
        sampler or as many trajectories as the estimator says, and its gaps are taken off.
    up_to_scale : bool
        Whether to compare directions only, for code that clips or normalises: the mean has to be
        the target times any positive number. Visible biases are then gaps across the target, in any
        one of the directions there, relative to the mean along it.
    burn_in : int
        Calls that each replicate makes before the one that counts, each with the memory of the one
        before. A check takes so many times longer, and one more. By default every call starts
        without a memory, as the first of an ascent does. See the notes.
    rng : numpy.random.Generator or int, optional
        Source of randomness, or a seed. Fresh by default, so that the false-alarm rate is the rate
        at which a test of a correct estimator fails; the report has the seed.
    progress : bool
        Whether to show a bar of the calls.

    Returns
    -------
    EstimatorReport
        Verdict and numbers. An estimator that raises, or returns what is no gradient, is BROKEN;
        so is a problem whose pullback does not fit its model.

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
    from tqdm.auto import tqdm

    theta = read_only(as_checked_theta(theta))
    count = positive_integer("n_replicates", n_replicates)
    if count < FEWEST_REPLICATES:
        raise ValueError(f"n_replicates is {count}, fewer than {FEWEST_REPLICATES}")
    wanted, free = _checked(visible_bias, false_alarm_rate), as_flag("up_to_scale", up_to_scale)
    require_whole("burn_in", burn_in, 0, LONGEST_BURN_IN)
    seed = None if isinstance(rng, np.random.Generator) else rng
    if rng is None:
        rng = seed = int(np.random.SeedSequence().entropy)  # type: ignore[arg-type]
    generator = as_generator(rng)
    streams = generator.spawn(count)
    taken = as_estimator(estimator)
    declared = Declared(simulator, sampler, follower, critic)
    right = declared.limit(problem, theta, int(burn_in)) if declared else None
    goal, exact = target_of(problem, theta, target, right)
    accuracy = None if exact is None else exact.accuracy
    pullback = check_pullback(problem, theta)
    learning = _learning(declared, trajectories_of(taken), free)
    bar = tqdm(total=count, unit=" calls", leave=False, disable=not progress)
    replicates = Replicates(taken.at(problem, theta), streams, int(burn_in), bar.update)
    seen = learning.beside(replicates, problem, theta, right, generator.spawn(count), int(burn_in))
    try:
        if pullback.trouble:
            found = _broken(pullback.trouble, goal, reason="pullback")
        elif replicates.are_determined(estimator):
            row = replicates.rows[0]
            times = times_of(row, goal) if free else 1.0
            found = judge_exactly(
                row,
                times * goal,
                times * _radius(goal, accuracy, right),
                visible_bias=wanted,
                rounding=replicates.rounding,
            )
            found = dataclasses.replace(
                found, n_replicates=len(replicates.rows), times=times if free else None
            )
            if times == 0.0:
                found = dataclasses.replace(found, verdict=Verdict.BIASED, reason="")
        else:
            found = judge_in_looks(
                seen.drawn,
                goal,
                n_replicates=count,
                visible_bias=wanted,
                false_alarm_rate=false_alarm_rate,
                power=power,
                up_to_scale=free,
                rounding=lambda: replicates.rounding,
            )
            replicates.require_sound()
            if found.verdict is Verdict.BIASED and not replicates.start_afresh():
                found = dataclasses.replace(found, verdict=Verdict.INCONCLUSIVE, reason=KEEPS_STATE)
    except BrokenEstimatorError as error:
        found = _broken(
            str(error), goal, n_replicates=len(replicates.rows), traceback=error.traceback
        )
    found = dataclasses.replace(
        found,
        false_alarm_rate=false_alarm_rate,
        notes=(
            *_noted(pullback),
            *replicates.notes,
            *learning.notes,
            *(() if exact is None or up_to_scale else _advice(found, estimator, problem, theta)),
        ),
        asked=replicates.asked,
        seed=seed,
        target_accuracy=accuracy,
        burn_in=int(burn_in),
        pullback_checked=pullback.checked,
        declared=str(declared),
    )
    found = _explained(
        found,
        replicates if found.deterministic else seen,
        problem,
        theta,
        exact,
        right,
        horizon=None if declared.sampler else horizon_of(taken, problem, theta),
        count=trajectories_of(taken),
    )
    bar.close()
    return found


def check_estimates(
    rows: npt.ArrayLike,
    problem: BilevelProblem,
    theta: npt.ArrayLike,
    *,
    visible_bias: float | None = None,
    false_alarm_rate: float = 1e-3,
    power: float = 0.99,
    target: npt.ArrayLike | None = None,
    simulator: BilevelProblem | None = None,
    sampler: Sampler | None = None,
    follower: FollowerSolver | None = None,
    critic: Critic | None = None,
    up_to_scale: bool = False,
    horizon: int | None = None,
) -> EstimatorReport:
    """Test whether the mean of estimates that were computed elsewhere is the exact gradient.

    For code that cannot be called from here, such as that of another environment or language. It is
    the test of `check_estimator`, of all rows at once. What takes calls is not done: whether the
    first estimate can be made again is not looked at, nor whether the code is deterministic, so
    that rows which are all the same and off are INCONCLUSIVE.

    Parameters
    ----------
    rows : array_like, shape (n, d)
        One estimate a row, n of at least 30, each independent of all others (from a seed of its
        own, and nothing kept from one to the next), in the order in which they were made.
    problem : BilevelProblem
        The leader's problem that they were made on.
    theta : array_like, shape (d,)
        Where.
    visible_bias, false_alarm_rate, power, target, simulator, sampler, follower, critic, up_to_scale
        As for `check_estimator`.
    horizon : int, optional
        Steps after which the code cuts trajectories, if it does: the diagnosis goes by it.

    Returns
    -------
    EstimatorReport
        Verdict and numbers, as of `check_estimator`; `asked` is None.

    Raises
    ------
    ValueError
        If rows have another shape, are fewer than 30 or not finite, or as `check_estimator`.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> problem, theta = tb.problems.garnet(), [0.1] * 6
    >>> estimator = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(200)))
    >>> rows = [estimator(problem, theta, rng=seed).gradient for seed in range(100)]
    >>> tb.check_estimates(rows, problem, theta).passed
    True
    >>> tb.check_estimates([0.5 * row for row in rows], problem, theta).passed
    False
    >>> tb.check_estimates([0.5 * row for row in rows], problem, theta, up_to_scale=True).passed
    True
    """
    theta = read_only(as_checked_theta(theta))
    wanted, precision = _checked(visible_bias, false_alarm_rate), Precision()
    free = as_flag("up_to_scale", up_to_scale)
    steps = None if horizon is None else positive_integer("horizon", horizon)
    estimates = finite_array("rows", as_numpy(rows), (None, theta.size))
    precision.note(rows if hasattr(rows, "dtype") else estimates)
    if len(estimates) < FEWEST_REPLICATES:
        raise ValueError(f"rows are {len(estimates)} estimates, fewer than {FEWEST_REPLICATES}")
    declared = Declared(simulator, sampler, follower, critic)
    right = declared.limit(problem, theta) if declared else None
    goal, exact = target_of(problem, theta, target, right)
    pullback = check_pullback(problem, theta)
    rounding, coarse = rounding_of(precision)
    learning = _learning(declared, None, free)
    streams = np.random.default_rng(0).spawn(len(estimates))  # the same rows, the same report
    rows_given = _Given(list(estimates), rounding)
    given = learning.beside(rows_given, problem, theta, right, streams)
    if pullback.trouble:
        found = _broken(pullback.trouble, goal, reason="pullback")
    else:
        found = judge(
            given.drawn(len(estimates)),
            goal,
            false_alarm_rate=false_alarm_rate,
            power=power,
            visible_bias=wanted,
            up_to_scale=free,
            rounding=rounding,
        )
    found = dataclasses.replace(
        found,
        false_alarm_rate=false_alarm_rate,
        notes=(*_noted(pullback), *coarse, *learning.notes),
        target_accuracy=None if exact is None else exact.accuracy,
        pullback_checked=pullback.checked,
        declared=str(declared),
    )
    return _explained(found, given, problem, theta, exact, right, horizon=steps)


@dataclasses.dataclass(frozen=True)
class _Given:
    """Rows that are all there are."""

    rows: Sequence[FloatArray]
    rounding: float
    left: ClassVar[bool] = False
    count: ClassVar[int] = 0

    def drawn(self, number: int) -> FloatArray:
        return np.array(self.rows)


@dataclasses.dataclass(frozen=True)
class _Beside:
    """Replicates, less the gaps between a right estimator's and what they come to."""

    replicates: Replicates | _Given
    right: Replicates
    limit: FloatArray

    @property
    def rows(self) -> Sequence[FloatArray]:
        return list(self.drawn(len(self.replicates.rows)))

    @property
    def rounding(self) -> float:
        """What a wrong estimator may be off by besides: nothing says that it has the same gaps."""
        gap = np.mean(self.right.rows, axis=0) - self.limit
        return max(self.replicates.rounding, norm(gap) / (norm(self.limit) or 1.0))

    @property
    def left(self) -> bool:
        return self.replicates.left

    @property
    def count(self) -> int:
        return self.replicates.count

    def drawn(self, number: int) -> FloatArray:
        return self.replicates.drawn(number) - self.right.drawn(number) + self.limit


@dataclasses.dataclass(frozen=True)
class _Learning:
    """A right estimator with the declared critic, if that learns, and what is said of it."""

    method: BoltzmannCovariance | None = None
    notes: tuple[str, ...] = ()

    def beside(
        self,
        given: Replicates | _Given,
        problem: BilevelProblem,
        theta: FloatArray,
        right: Experience | None,
        streams: Sequence[np.random.Generator],
        burn_in: int = 0,
    ) -> Replicates | _Given | _Beside:
        """Take what finite data leave off, if it is known."""
        if self.method is None or right is None:
            return given
        own = Replicates(as_estimator(self.method).at(problem, theta), streams, burn_in)
        return _Beside(given, own, Declared.target(right))


def _learning(declared: Declared, count: int | None, up_to_scale: bool) -> _Learning:
    if not declared.learns:
        return _Learning()
    method = None if up_to_scale else declared.method(count)
    note = "what finite data leave with that critic is taken off: BC-HG was sampled as often"
    if method is None:
        what = "that is not taken off up to scale" if up_to_scale else "to be known by its sampler"
        note = f"with finite data, a critic that learns leaves a bias, {what}"
    return _Learning(method, (note,))


def _explained(
    found: EstimatorReport,
    replicates: Replicates | _Given | _Beside,
    problem: BilevelProblem,
    theta: FloatArray,
    target: Hypergradient | None,
    right: Experience | None,
    *,
    horizon: int | None,
    count: int | None = None,
) -> EstimatorReport:
    """Say where the mean is off and by how much, and which mistakes would make that.

    After more and more replicates: a gross bias shows early, which one may not. The mistakes are
    those of estimators of the gradient, whatever target was given: None if it is not `target`. What
    is `right` is the estimator's own, if that was declared.
    """
    if found.verdict is Verdict.BROKEN:
        return dataclasses.replace(found, diagnosis=Diagnosis())
    found = dataclasses.replace(
        found,
        where=with_names(problem, found.where),
        still=with_names(problem, found.still),
        reason=with_names(problem, found.reason),
    )
    exactly, rounding = found.deterministic, replicates.rounding
    if exactly:
        rounding = max(EXACT_FIT, rounding)

    def seen() -> FloatArray:
        return found.mean[None] if exactly else np.array(replicates.rows)

    try:
        exact = hypergradient(problem, theta) if target is None else target
        parts, whole = parts_of(problem, theta, exact), exact.gradient
        if right is not None:
            parts = parts_from(right.problem, theta, *RIGHT.rule(right).measures(right))
            whole = Declared.target(right)
            off = norm(whole - exact.gradient) / (norm(exact.gradient) or 1.0)
            found = dataclasses.replace(found, declared_off=off)
    except ValueError as error:
        note = f"not diagnosed, as the problem has no gradient at theta: {error}"
        return dataclasses.replace(found, notes=(*found.notes, note))
    diagnosis, notes = None if found.passed else Diagnosis(), found.notes
    if found.verdict is Verdict.BIASED or found.doubtful:
        candidates = Candidates(problem, theta, horizon=horizon, count=count, right=right)
        free = found.times is not None
        diagnosis = candidates.diagnose(
            seen(), parts, rounding=rounding, exactly=exactly, up_to_scale=free
        )
        with contextlib.suppress(BrokenEstimatorError):
            while not diagnosis.clear and replicates.left and not exactly:
                replicates.drawn(min(2 * len(replicates.rows), replicates.count))
                diagnosis = candidates.diagnose(seen(), parts, rounding=rounding, up_to_scale=free)
        if target is None and not exactly:
            rate, power = found.false_alarm_rate, found.power
            own = judge(
                seen(), exact.gradient, false_alarm_rate=rate, power=power, rounding=rounding
            )
            if own.passed:
                notes = (*notes, "the mean is the exact gradient, which is not the target given")
    where = localise(
        seen(), parts, whole, rounding=rounding, is_game=isinstance(problem, MarkovGame)
    )
    return dataclasses.replace(found, localisation=where, diagnosis=diagnosis, notes=notes)


@quiet
def times_of(mean: FloatArray, target: FloatArray) -> float:
    """Find the multiple of a target that is nearest to a mean, without turning round."""
    unit = binary_scale(target)
    square = float((target / unit) @ (target / unit))
    return max(float((mean / unit) @ (target / unit)), 0.0) / square if square > 0.0 else 1.0


def _checked(visible_bias: float | None, false_alarm_rate: float) -> float | None:
    """Check what a check asks for."""
    if 0.0 < false_alarm_rate < SMALLEST_RATE:
        raise ValueError(f"false_alarm_rate is {false_alarm_rate}, below {SMALLEST_RATE}")
    return None if visible_bias is None else as_positive("visible_bias", visible_bias)


def _broken(
    trouble: str,
    goal: FloatArray,
    *,
    n_replicates: int = 0,
    reason: str = "",
    traceback: str = "",
) -> EstimatorReport:
    return EstimatorReport(
        Verdict.BROKEN,
        n_replicates=n_replicates,
        target=goal,
        trouble=trouble,
        reason=reason,
        traceback=traceback,
    )


def _noted(pullback: PullbackTest) -> tuple[str, ...]:
    skipped = pullback.skipped
    return (f"the problem's pullback was not checked: {skipped}",) if skipped else ()


def _advice(
    found: EstimatorReport, method: Any, problem: BilevelProblem, theta: FloatArray
) -> Iterator[str]:
    """Say what it takes, where the noise hides too much and the method's moments are known."""
    hidden = found.verdict is Verdict.INCONCLUSIVE or found.short
    if not hidden or not hasattr(method, "rule_at") or theta.size > MANY or found.aim > 1.0:
        return
    with contextlib.suppress(ValueError):
        needed = required_samples(problem, theta, method, error=found.aim, confidence=found.power)
        if math.isfinite(needed):
            yield (
                f"by its exact variance, the mean of {needed:,.0f} of its trajectories is within "
                f"{percent(found.aim)} of the gradient with probability {found.power:g}"
            )


def _radius(goal: FloatArray, accuracy: Accuracy | None, right: Experience | None) -> FloatArray:
    """Say how far a target may be from the exact one."""
    if accuracy is not None:
        return accuracy.gradient
    return np.full_like(goal, 0.0 if right is None else LEFT_OUT * np.abs(goal).max())


def target_of(
    problem: BilevelProblem,
    theta: FloatArray,
    target: npt.ArrayLike | None,
    right: Experience | None = None,
) -> tuple[FloatArray, Hypergradient | None]:
    """Check a target; or take what was declared's; or the gradient, and what is known of it."""
    if target is not None:
        return finite_array("target", target, theta.shape), None
    if right is not None:
        return Declared.target(right), None
    exact = hypergradient(problem, theta)
    return exact.gradient, exact
