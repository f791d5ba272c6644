"""Is an estimator right? Compare the mean of many estimates with the exact gradient."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import pickle
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arguments import (
    as_checked_theta,
    as_generator,
    as_positive,
    entry,
    finite_array,
    positive_integer,
    require_real_dtype,
)
from tabular_bilevel._base.arrays import FloatArray, binary_scale, quiet, read_only
from tabular_bilevel._base.errors import CheckFailedError
from tabular_bilevel.certify.accuracy import Level
from tabular_bilevel.certify.result import Accuracy
from tabular_bilevel.checks.diagnosis import Diagnosis, diagnose, horizon_of, suspects
from tabular_bilevel.checks.mean_test import ASTRAY, MeanTest, Noise, mean_test
from tabular_bilevel.checks.verdict import Verdict
from tabular_bilevel.checks.view import LeaderView, Prepared, as_estimator, as_numpy, precision_of
from tabular_bilevel.exact.hypergradient import hypergradient
from tabular_bilevel.problem import BilevelProblem

__all__ = ["EstimatorReport", "Verdict", "check_estimator", "judge"]

# Estimates and target are computed in float64: gaps below this, relative to the largest entry, are
# rounding, however small the sampling error.
ROUNDING = 1e-10

# ... and estimates of a coarser dtype are sums that lose a few bits of it.
ROUNDINGS_OF_A_SUM = 64.0

# Where a bias of the target's own size is invisible, an estimator of 0 would pass as well.
LARGEST_VISIBLE_BIAS = 1.0

# So far out in the tails no law of a mean of data holds, nor can the non-central one be computed.
SMALLEST_RATE = 1e-12

# The first look at the replicates, for tests to have their level; looks double from there.
FIRST_LOOK = 50

# Of the false-alarm rate, for each look but the last.
EARLY_SHARE = 0.05

# Fewer replicates than this do not show how skewed they are; at rates below the other that matters.
FEWEST, LARGE_RATE = 100, 0.05

# Nobody takes so many replicates.
MANY = 10**9

# What to do about noise that is too large, or too skewed.
MORE = "take more replicates, or average more trajectories into one"
MILDER = f"{MORE}, or clip what is rare and large"

# ... in a call made again with the same generator, that differs by more than this share of the
# replicates' spread: less may be the order of a sum.
SAME_AGAIN = 1e-3

KEEPS_STATE = (
    "the mean is off, but the first call made again, with the same rng, gives something else: if "
    "calls share what they keep, they are off together. Let no call keep anything for the next, "
    "and draw from the given rng alone"
)

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
        knowing how they vary together (Hotelling's T), or in the worst of many (Student's t).
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
    power, false_alarm_rate : float
        Probabilities behind the two numbers above.
    n_replicates, n_tests, n_unresolved : int
        Estimates drawn; tests made; coordinates left out, because they never vary and are off.
    constant : bool
        Whether all replicates were the same.
    astray : bool
        Whether a coordinate, or a combination of some, is the same in all replicates, and wrong:
        INCONCLUSIVE, since what moves it may be rare, but diagnosed all the same.
    suspicious : bool
        Whether the mean is off, if the noise is normal: diagnosed all the same, too.
    reason : str
        Why a check is INCONCLUSIVE, and what to do.
    mean, standard_error, target : ndarray, shape (d,)
        Of the estimates; and what they should be.
    notes : tuple of str
        What else was noticed: a coarse dtype, a global generator.
    asked : tuple of str
        What the estimator asked its `LeaderView` for that a decentralised leader does not have;
        None of one that was given the problem.
    trouble : str
        What is wrong with an estimator that is BROKEN.
    diagnosis : Diagnosis or None
        Of a bias: which wrong target the mean fits.
    seed : int or None
        What to pass as `rng` to see the same again.
    target_accuracy : Accuracy or None
        What is known of the default target's error; None of one that was given.
    """

    level: ClassVar[Level] = Level.STATISTICAL

    verdict: Verdict
    statistic: float = 0.0
    critical_value: float = math.inf
    where: str = ""
    bias: float = 0.0
    smallest_visible_bias: float = math.inf
    smallest_visible_gap: float = math.inf
    power: float = 0.0
    false_alarm_rate: float = 0.0
    n_replicates: int = 0
    n_tests: int = 0
    n_unresolved: int = 0
    constant: bool = False
    astray: bool = False
    suspicious: bool = False
    reason: str = ""
    mean: FloatArray = field(default_factory=lambda: np.zeros(0), repr=False)
    standard_error: FloatArray = field(default_factory=lambda: np.zeros(0), repr=False)
    target: FloatArray = field(default_factory=lambda: np.zeros(0), repr=False)
    notes: tuple[str, ...] = ()
    asked: tuple[str, ...] | None = None
    trouble: str = ""
    diagnosis: Diagnosis | None = field(default=None, repr=False)
    seed: int | None = None
    target_accuracy: Accuracy | None = field(default=None, repr=False)

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
            By the square-root law, from this report's noise, which is rather too many; 0 if no
            number is enough, as where the target is 0, or none that float64 can hold.
        """
        ratio = self.smallest_visible_bias / as_positive("bias", bias)
        needed = self.n_replicates * ratio * ratio
        return math.ceil(needed) if math.isfinite(needed) else 0

    def raise_if_failed(self) -> None:
        """Raise `CheckFailedError` with the report as its message unless the check passed."""
        if not self.passed:
            raise CheckFailedError(str(self))

    def __str__(self) -> str:
        return "\n  ".join([f"Estimator check: {self.verdict.value}", *self._lines()])

    def _lines(self) -> Iterator[str]:
        if self.trouble:
            yield self.trouble
        else:
            yield (
                f"{self.statistic:.3g} standard errors from the target (most {self.where}), "
                f"critical value {self.critical_value:.3g} at false-alarm rate "
                f"{self.false_alarm_rate:g}"
            )
            aimed = bool(self.target.any())
            if self.constant and self.bias:
                yield (
                    f"all {self.n_replicates} replicates are the same, off by "
                    f"{percent(self.bias, '+')} along the target"
                )
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
                    + (f"; for one of 1% it takes {needed} replicates" if needed < MANY else "")
                )
            left_out = f", {self.n_unresolved} coordinates unresolved" if self.n_unresolved else ""
            tests = f"{self.n_tests} tests" if self.n_tests != 1 else "one test of all coordinates"
            yield f"{self.n_replicates} replicates, {tests}{left_out}"
            if self.reason:
                yield self.reason
            else:
                yield (
                    "if calls are independent, and no part of the noise matters that comes less "
                    f"often than about once in {max(1, self.n_replicates // 20)} calls"
                )
        if self.target_accuracy is not None:
            yield f"the target is {of_target(self.target_accuracy, self.target)}"
        if self.diagnosis is not None:
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


def check_estimator(
    estimator: Callable[..., Any],
    problem: BilevelProblem,
    theta: npt.ArrayLike,
    *,
    n_replicates: int = 400,
    visible_bias: float = 0.05,
    false_alarm_rate: float = 1e-3,
    power: float = 0.99,
    target: npt.ArrayLike | None = None,
    rng: np.random.Generator | int | None = None,
) -> EstimatorReport:
    """Test whether an estimator's mean is the exact gradient.

    The estimator is called many times, and its mean compared with the target: by Hotelling's T^2
    with its small-sample law, or where there are too few replicates for the number of directions in
    which they vary, in each coordinate and along the target by Student's t, with Bonferroni's
    correction. Looks are taken after 50, 100, 200, ... replicates, and share the false-alarm rate;
    the check ends as soon as it is sure. A pass says no more than `smallest_visible_bias`. A bias
    is diagnosed: see `Diagnosis`.

    What the false-alarm rate takes for granted: calls are independent, which is looked at (their
    order, and the first call made again before any BIASED), and no part of the noise that matters
    comes less often than about once in n_replicates / 20 calls, which nothing can show. Skewed and
    heavy-tailed noise is allowed for, by critical values that grow with the tail that could hide
    what is missing, and is INCONCLUSIVE where too few replicates make that tail; that this keeps
    the rate is simulated (``validation/checker.py``), not proven.

    Parameters
    ----------
    estimator : callable
        Called as ``estimator(problem, theta, rng=generator)``, or a function of ``(view, batch)``
        or ``(view, rng)``, see `BatchEstimator` and `SamplingEstimator`. It returns an array_like
        of shape (d,), of NumPy, JAX or PyTorch, or an object whose ``.gradient`` is one.
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
    goal, target_accuracy = target_of(problem, theta, target)
    seed = None if isinstance(rng, np.random.Generator) else rng
    if rng is None:
        rng = seed = int(np.random.SeedSequence().entropy)  # type: ignore[arg-type]
    called = as_estimator(estimator)
    view = LeaderView(problem, theta) if isinstance(called, Prepared) else None
    call = _Caller(called, problem, theta, view)
    streams = as_generator(rng).spawn(count)

    rows: list[FloatArray] = []

    def drawn(number: int) -> FloatArray:
        while len(rows) < number:
            rows.append(call(streams[len(rows)], len(rows)))
        return np.array(rows)

    try:
        found = judge_in_looks(
            drawn,
            goal,
            n_replicates=count,
            visible_bias=wanted,
            false_alarm_rate=false_alarm_rate,
            power=power,
            rounding=lambda: call.rounding,
        )
        call.require_sound()
        if found.verdict is Verdict.BIASED and not call.starts_afresh(rows):
            found = dataclasses.replace(found, verdict=Verdict.INCONCLUSIVE, reason=KEEPS_STATE)
    except BrokenEstimatorError as error:
        found = EstimatorReport(
            Verdict.BROKEN, n_replicates=len(rows), target=goal, trouble=str(error)
        )
    diagnosis = None
    doubtful = found.verdict is Verdict.INCONCLUSIVE and (found.astray or found.suspicious)
    if target is None and (found.verdict is Verdict.BIASED or doubtful):
        horizon = horizon_of(called, problem, theta)
        targets = suspects(problem, theta, horizon=horizon)

        def diagnosed() -> Diagnosis | None:
            return diagnose(
                np.array(rows), targets, exact=goal, rounding=call.rounding, horizon=horizon
            )

        diagnosis = diagnosed()
        # a gross bias shows early, which of two mistakes it is may not
        with contextlib.suppress(BrokenEstimatorError):
            while diagnosis is not None and not diagnosis.clear and len(rows) < count:
                for number in range(len(rows), min(2 * len(rows), count)):
                    rows.append(call(streams[number], number))
                diagnosis = diagnosed()
    return dataclasses.replace(
        found,
        false_alarm_rate=false_alarm_rate,
        diagnosis=diagnosis,
        notes=call.notes,
        asked=None if view is None else view.asked,
        seed=seed,
        target_accuracy=target_accuracy,
    )


def percent(share: float, sign: str = "") -> str:
    """Write a share in percent; of the largest, which have hundreds of digits, the first."""
    return format(share, f"{sign}.2%") if abs(share) < 1e4 else f"{100.0 * share:{sign}.1e}%"


def target_of(
    problem: BilevelProblem, theta: FloatArray, target: npt.ArrayLike | None
) -> tuple[FloatArray, Accuracy | None]:
    """Check a target, or take the hypergradient, and what is known of its error."""
    if target is not None:
        return finite_array("target", target, theta.shape), None
    exact = hypergradient(problem, theta)
    return exact.gradient, exact.accuracy


def of_target(accuracy: Accuracy, target: FloatArray) -> str:
    """Say what is known of a gradient that estimates are compared with."""
    if not accuracy.proven:
        return f"an ESTIMATE of the gradient, not proven to be exact: {accuracy.reason}"
    radius = float(accuracy.gradient.max(initial=0.0))
    within = f"1e{math.ceil(math.log10(radius))}" if radius > 0.0 else "0"  # same on all machines
    if radius > WELL_KNOWN * np.abs(target).max():
        return f"an ESTIMATE of the gradient, {accuracy.level.name} within {within} only"
    return f"the exact gradient, {accuracy.level.name} within {within}"


class BrokenEstimatorError(Exception):
    """An estimator does not return gradients, or not independent ones."""


class _Caller:
    """Calls an estimator, takes what it returns, and watches what it does meanwhile."""

    def __init__(
        self,
        estimator: Callable[..., Any],
        problem: BilevelProblem,
        theta: FloatArray,
        view: LeaderView | None,
    ) -> None:
        self._estimator, self._problem, self._theta = estimator, problem, theta
        self._view = view
        self._dtype, self._unit = "float64", 0.0  # the coarsest that estimates came in
        self._first: tuple[np.random.Generator, _Globals] | None = None  # of the first call
        self._drew: set[str] = set()  # global generators that were drawn from
        self._last: dict[str, int] = {}  # and where they were left
        self._reseeded: set[str] = set()

    def __call__(self, stream: np.random.Generator, number: int) -> FloatArray:
        """Return one estimate, as float64."""
        for name in self._drew:
            _draw_once(name)  # one that is seeded anew in each call would look untouched
        before = _Globals.now()
        if self._first is None:
            self._first = copy.deepcopy(stream), before
        try:
            found = self._called(stream)
            estimate = self._estimate(found)
        except Exception as error:
            raise BrokenEstimatorError(
                f"replicate {number}: {type(error).__name__}: {error}"
            ) from error
        for name, state in _Globals.now().fingerprints.items():
            if state != before.fingerprints.get(name, state):
                self._drew.add(name)
                if self._last.get(name) == state:
                    self._reseeded.add(name)
                self._last[name] = state
        name, unit = precision_of(found)
        if unit > max(self._unit, float(np.finfo(np.float64).eps)):
            self._dtype, self._unit = name, unit
        return estimate

    def _estimate(self, found: Any) -> FloatArray:
        numbers = as_numpy(found)
        require_real_dtype("estimate", numbers.dtype)
        return finite_array("estimate", numbers, self._theta.shape)

    def _called(self, stream: np.random.Generator) -> Any:
        if self._view is not None:
            found = self._estimator.on(self._view, stream)  # type: ignore[attr-defined]
        else:
            found = self._estimator(self._problem, self._theta, rng=stream)
        return getattr(found, "gradient", found)

    def starts_afresh(self, rows: list[FloatArray]) -> bool:
        """Make the first call again, all generators as they were, and compare the estimates.

        Twice, as what goes round in a circle may have come back to its start.
        """
        assert self._first is not None
        stream, then = self._first
        now = _Globals.now()
        try:
            again = []
            for _ in range(2):
                then.restore()
                again.append(self._estimate(self._called(copy.deepcopy(stream))))
        except Exception:  # whatever it is, it did not happen the first time
            return False
        finally:
            now.restore()
        return _same_again(np.array(again), np.array(rows), self.rounding)

    @property
    def rounding(self) -> float:
        """Relative size of what rounding may do."""
        return max(ROUNDING, ROUNDINGS_OF_A_SUM * self._unit)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was noticed."""
        notes = []
        if self._unit > 0.0:
            notes.append(
                f"estimates are {self._dtype}: gaps below {self.rounding:.1g} of the largest "
                "entry count as rounding"
            )
        if self._drew:
            names = " and ".join(sorted(self._drew))
            notes.append(f"draws from the global generator of {names}: seeds do not reproduce it")
        return tuple(notes)

    def require_sound(self) -> None:
        """Raise if replicates cannot be independent."""
        if self._reseeded:
            names = " and ".join(sorted(self._reseeded))
            raise BrokenEstimatorError(
                f"seeds the global generator of {names} anew in each call: replicates repeat"
            )


@quiet
def _same_again(again: FloatArray, rows: FloatArray, rounding: float) -> bool:
    """Whether some estimates are those of the first row."""
    unit = binary_scale(rows, again)
    again, rows = again / unit, rows / unit
    allowed = SAME_AGAIN * rows.std(axis=0) + rounding * np.abs(rows).max()
    return bool((np.abs(again - rows[0]) <= allowed).all())


@dataclass(frozen=True)
class _Globals:
    """States of generators that an estimator should leave alone."""

    states: dict[str, Any]

    @classmethod
    def now(cls) -> _Globals:
        states = {
            "numpy": np.random.get_state(legacy=False),  # noqa: NPY002
            "Python": random.getstate(),
        }
        torch = sys.modules.get("torch")
        if torch is not None:
            states["PyTorch"] = torch.random.get_rng_state()
        return cls(states)

    @cached_property
    def fingerprints(self) -> dict[str, int]:
        prints = {name: hash(pickle.dumps(state)) for name, state in self.states.items()}
        if "PyTorch" in prints:
            prints["PyTorch"] = hash(self.states["PyTorch"].numpy().tobytes())
        return prints

    def restore(self) -> None:
        np.random.set_state(self.states["numpy"])  # noqa: NPY002
        random.setstate(self.states["Python"])
        if "PyTorch" in self.states:
            sys.modules["torch"].random.set_rng_state(self.states["PyTorch"])


def _draw_once(name: str) -> None:
    if name == "numpy":
        np.random.random()  # noqa: NPY002
    elif name == "Python":
        random.random()
    else:
        sys.modules["torch"].rand(1)


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
        Of the last look.
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
    # fourth powers of anything finite, and of noise that is not rounding, stay finite
    unit, own = binary_scale(estimates, target), binary_scale(target)
    estimates, goal, aimed = estimates / unit, target / unit, bool(target.any())
    length = float(np.linalg.norm(target / own)) if aimed else math.inf
    count, mean = len(estimates), estimates.mean(axis=0)
    floor = rounding * max(np.abs(goal).max(), np.abs(mean).max(), np.finfo(float).tiny)
    noise = Noise(estimates - mean, mean - goal, np.full_like(goal, floor))
    # of a target of 0 there is no direction: a bias has to be seen in any coordinate
    directions = (target / own / length)[None] if aimed else np.eye(target.size)
    aims = noise.along(directions)
    # Replicates that are all the same, and not right: what moves the mean may just be rare.
    constant, still = noise.constant, aims.constant
    off, lost = np.abs(noise.gap) > ASTRAY * floor, np.abs(aims.gap) > ASTRAY * floor
    test = MeanTest()
    if not constant.all():
        test = mean_test(
            noise.of(~constant),
            directions[~still][:, ~constant],
            size=length * (own / unit) if aimed else 0.0,
            false_alarm_rate=false_alarm_rate,
            power=power,
        )
    # a bias along what never varies would not leave it right
    visible = max(test.visible, ASTRAY * floor if still.any() else 0.0)
    if (still & lost).any():
        visible = math.inf
    in_doubt = bool((constant & off & (np.abs(noise.gap) > visible)).any()) or test.still_and_off
    astray = bool((constant & off).any() or (still & lost).any() or test.still_and_off)
    relative = visible / length * (unit / own) if aimed else math.inf
    few = count < FEWEST and false_alarm_rate < LARGE_RATE
    doubted = in_doubt or bool((still & lost).any())
    reason = _doubt(test, visible, count=count, few=few, astray=doubted)
    if not reason and not test.decisive and aimed and relative > LARGEST_VISIBLE_BIAS:
        reason = f"the noise would hide a bias of the target's own size: {MORE}"
    if reason:
        verdict = Verdict.INCONCLUSIVE
    else:
        verdict = Verdict.BIASED if test.decisive else Verdict.UNBIASED
    where = _furthest(noise, aims) if aimed else _furthest(noise)
    return EstimatorReport(
        verdict=verdict,
        statistic=test.statistic,
        critical_value=test.critical_value,
        where=where,
        bias=float(aims.gap[0]) / length * (unit / own) if aimed else 0.0,
        smallest_visible_bias=relative,
        smallest_visible_gap=visible * unit,
        power=power,
        false_alarm_rate=false_alarm_rate,
        n_replicates=count,
        n_tests=test.n_tests,
        n_unresolved=int((constant & off).sum()),
        constant=bool(constant.all()),
        astray=astray,
        suspicious=test.suspicious,
        reason=reason,
        mean=read_only(unit * mean),
        standard_error=read_only(unit * noise.error),
        target=read_only(target.copy()),
    )


def _furthest(noise: Noise, aim: Noise | None = None) -> str:
    """Say where the mean is furthest off, of what varies; along the target counts as a place."""
    distance = noise.distance if aim is None else np.append(noise.distance, aim.distance)
    worst = int(np.argmax(distance))
    return f"in {entry('gradient', (worst,))}" if worst < noise.gap.size else "along the target"


def _doubt(test: MeanTest, visible: float, *, count: int, few: bool, astray: bool) -> str:
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
    if test.suspicious and test.tail_replicates >= count:
        return f"the gap is hardly larger than chance makes it: {MORE}"
    if test.suspicious:
        shown = max(1, round(test.tail_replicates))
        return f"the gap could be a tail of which about {shown} replicates were seen: {MILDER}"
    if astray:
        return "what never varies is off: is rng used, or is what moves it rare?"
    if math.isinf(visible):
        return f"a few extreme replicates decide the mean: {MILDER}"
    return ""
