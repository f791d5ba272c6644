"""Is an estimator right? Compare the mean of many estimates with the exact gradient."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import pickle
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
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
)
from tabular_bilevel._base.arrays import FloatArray, binary_scale, quiet, read_only
from tabular_bilevel._base.errors import CheckFailedError
from tabular_bilevel._base.generators import require_whole
from tabular_bilevel.certify.accuracy import Level
from tabular_bilevel.certify.result import Accuracy
from tabular_bilevel.checks.diagnosis import (
    Candidates,
    Diagnosis,
    horizon_of,
    trajectories_of,
)
from tabular_bilevel.checks.localising import Factor, Localisation, localised, parts_of
from tabular_bilevel.checks.mean_test import ASTRAY, MeanTest, Noise, mean_test
from tabular_bilevel.checks.verdict import Verdict
from tabular_bilevel.estimators.contract import AtTheta, Taken, as_estimator
from tabular_bilevel.exact.hypergradient import hypergradient
from tabular_bilevel.problem import BilevelProblem
from tabular_bilevel.sampling.experience import NOTHING

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
    "calls share what they keep, they are off together. Let no call keep anything for the next but "
    "in a memory that it gives back, and draw from the given rng alone"
)

# Nobody has the time for a longer one.
LONGEST_BURN_IN = 2**30 - 1

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
        Mean of the estimates, its standard error, and what the mean should be.
    notes : tuple of str
        What else was noticed: a coarse dtype, a global generator.
    asked : tuple of str
        What the estimator asked its `LeaderView` for that a decentralised leader does not have;
        None of one that was given the problem.
    trouble : str
        What is wrong with an estimator that is BROKEN.
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
    localisation: Localisation = field(default_factory=Localisation, repr=False)
    diagnosis: Diagnosis | None = field(default=None, repr=False)
    seed: int | None = None
    target_accuracy: Accuracy | None = field(default=None, repr=False)
    burn_in: int = 0

    @property
    def passed(self) -> bool:
        """Whether no bias was seen in a conclusive check."""
        return self.verdict is Verdict.UNBIASED

    @property
    def doubtful(self) -> bool:
        """Whether the mean is off, and it is not decided whether by chance."""
        return self.verdict is Verdict.INCONCLUSIVE and (self.astray or self.suspicious)

    @property
    def factors(self) -> Mapping[str, Factor]:
        """By what the gradient's parts are multiplied in the mean; see `Localisation`."""
        return self.localisation.factors

    @property
    def scale(self) -> Factor:
        """By what the whole gradient is."""
        return self.localisation.scale

    @property
    def residual(self) -> float:
        """Size of what no part can make, relative to the gradient's norm."""
        return self.localisation.residual

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
            warm = f", each after {self.burn_in} calls of burn-in" if self.burn_in else ""
            yield f"{self.n_replicates} replicates{warm}, {tests}{left_out}"
            if self.reason:
                yield self.reason
            else:
                yield (
                    "if calls are independent, and no part of the noise matters that comes less "
                    f"often than about once in {max(1, self.n_replicates // 20)} calls"
                )
        if self.target_accuracy is not None:
            yield f"the target is {of_target(self.target_accuracy, self.target)}"
        if self.verdict is Verdict.BIASED or self.doubtful:
            yield from str(self.localisation).splitlines()
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
    replicates = _Replicates(taken.at(problem, theta), streams, int(burn_in))
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
    if target is None:
        found = _explained(found, replicates, taken, problem, theta)
    return dataclasses.replace(
        found,
        false_alarm_rate=false_alarm_rate,
        notes=replicates.notes,
        asked=replicates.asked,
        seed=seed,
        target_accuracy=target_accuracy,
        burn_in=int(burn_in),
    )


def _explained(
    found: EstimatorReport,
    replicates: _Replicates,
    estimator: Taken,
    problem: BilevelProblem,
    theta: FloatArray,
) -> EstimatorReport:
    """Say where the mean is off and by how much, and which mistakes would make that.

    After more and more replicates: a gross bias shows early, which one may not.
    """
    if found.verdict is Verdict.BROKEN:
        return dataclasses.replace(found, diagnosis=Diagnosis())
    diagnosis = None if found.passed else Diagnosis()
    if found.verdict is Verdict.BIASED or found.doubtful:
        parts = parts_of(problem, theta)
        candidates = Candidates(
            problem,
            theta,
            horizon=horizon_of(estimator, problem, theta),
            count=trajectories_of(estimator),
        )

        def diagnosed() -> Diagnosis:
            rows = np.array(replicates.rows)
            return candidates.diagnose(rows, parts, rounding=replicates.rounding)

        diagnosis = diagnosed()
        with contextlib.suppress(BrokenEstimatorError):
            while not diagnosis.clear and replicates.left:
                replicates.drawn(min(2 * len(replicates.rows), replicates.count))
                diagnosis = diagnosed()
    rows = np.array(replicates.rows)
    where = localised(rows, problem, theta, rounding=replicates.rounding)
    return dataclasses.replace(found, localisation=where, diagnosis=diagnosis)


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
    given = f", {accuracy.given}" if accuracy.given else ""
    return f"the exact gradient, {accuracy.level.name} within {within}{given}"


class BrokenEstimatorError(Exception):
    """An estimator does not return gradients, or not independent ones."""


class _Replicates:
    """Independent estimates, drawn as they are needed; what the estimator does meanwhile is seen.

    Attributes
    ----------
    rows : list of ndarray, shape (d,)
        Those drawn so far.
    count : int
        How many there can be.
    """

    def __init__(
        self, estimator: AtTheta, streams: Sequence[np.random.Generator], burn_in: int
    ) -> None:
        self.rows: list[FloatArray] = []
        self.count = len(streams)
        self._estimator, self._streams, self._burn_in = estimator, streams, burn_in
        self._first: tuple[np.random.Generator, _Globals] | None = None  # of the first call
        self._drew: set[str] = set()  # global generators that were drawn from
        self._last: dict[str, int] = {}  # and where they were left
        self._reseeded: set[str] = set()
        self._remembers = False

    @property
    def left(self) -> bool:
        """Whether more can be drawn."""
        return len(self.rows) < self.count

    def drawn(self, number: int) -> FloatArray:
        """Return so many of them, shape (n, d), the same ones first."""
        while len(self.rows) < number:
            self.rows.append(self._draw(self._streams[len(self.rows)]))
        return np.array(self.rows)

    def _draw(self, stream: np.random.Generator) -> FloatArray:
        for name in self._drew:
            _draw_once(name)  # one that is seeded anew in each call would look untouched
        before = _Globals.now()
        if self._first is None:
            self._first = copy.deepcopy(stream), before
        estimate = self._estimate(stream)
        for name, state in _Globals.now().fingerprints.items():
            if state != before.fingerprints.get(name, state):
                self._drew.add(name)
                if self._last.get(name) == state:
                    self._reseeded.add(name)
                self._last[name] = state
        return estimate

    def _estimate(self, stream: np.random.Generator) -> FloatArray:
        """Warm up, and make the call that counts."""
        memory, calls = NOTHING, self._burn_in + 1
        for call in range(calls):
            try:
                found = self._estimator(stream, memory)
            except Exception as error:
                which = f", call {call + 1} of {calls}" if self._burn_in else ""
                raise BrokenEstimatorError(
                    f"replicate {len(self.rows)}{which}: {type(error).__name__}: {error}"
                ) from error
            memory = found.memory
        self._remembers = self._remembers or bool(memory)
        return found.gradient

    def start_afresh(self) -> bool:
        """Draw the first again, all generators as they were, and compare.

        Twice, as what goes round in a circle may have come back to its start.
        """
        assert self._first is not None
        stream, then = self._first
        now = _Globals.now()
        try:
            again = []
            for _ in range(2):
                then.restore()
                again.append(self._estimate(copy.deepcopy(stream)))
        except BrokenEstimatorError:  # whatever it is, it did not happen the first time
            return False
        finally:
            now.restore()
        return _same_again(np.array(again), np.array(self.rows), self.rounding)

    @property
    def asked(self) -> tuple[str, ...] | None:
        """What the estimator asked of its view, if it goes by one."""
        view = self._estimator.view
        return None if view is None else view.asked

    @property
    def rounding(self) -> float:
        """Relative size of what rounding may do."""
        unit = self._estimator.precision.unit
        return ROUNDINGS_OF_A_SUM * unit if self._is_coarse else ROUNDING

    @property
    def _is_coarse(self) -> bool:
        return self._estimator.precision.unit > float(np.finfo(np.float64).eps)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was noticed."""
        notes = []
        if self._is_coarse:
            notes.append(
                f"estimates are {self._estimator.precision.dtype}: gaps below {self.rounding:.1g} "
                "of the largest entry count as rounding"
            )
        if self._drew:
            names = " and ".join(sorted(self._drew))
            notes.append(f"draws from the global generator of {names}: seeds do not reproduce it")
        if self._burn_in and self.rows and not self._remembers:
            notes.append("the burn-in changes nothing: no call gave a memory back")
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
