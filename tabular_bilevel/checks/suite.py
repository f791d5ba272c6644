"""A suite of problems, each aimed at a mistake that estimators make."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from tabular_bilevel._base.arguments import as_generator
from tabular_bilevel._base.arrays import FloatArray
from tabular_bilevel._base.errors import raise_if_failed
from tabular_bilevel._base.processes import sweep
from tabular_bilevel.certify.accuracy import Level
from tabular_bilevel.checks.estimator import check_estimator
from tabular_bilevel.checks.report import EstimatorReport, percent
from tabular_bilevel.checks.verdict import Verdict
from tabular_bilevel.estimators.contract import as_estimator
from tabular_bilevel.finite.follower import FollowerSolver
from tabular_bilevel.problem import BilevelProblem
from tabular_bilevel.problems import zoo
from tabular_bilevel.sampling.critics import Critic
from tabular_bilevel.sampling.samplers import Sampler


@dataclass(frozen=True, eq=False)
class SuiteCase:
    """A problem, and the mistake that it is aimed at.

    Attributes
    ----------
    name : str
        What is special about it.
    aim : str
        The mistake that it finds.
    problem : BilevelProblem
        The leader's problem.
    theta : ndarray, shape (d,)
        Where estimators are checked.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> case = tb.SuiteCase("mine", "the direct part alone", tb.problems.bandit(), [0.0, 0.0])
    >>> tb.check_suite(tb.ExactGradient(), suite=[case]).passed
    True
    """

    name: str
    aim: str
    problem: BilevelProblem
    theta: FloatArray = field(repr=False)


@dataclass(frozen=True, eq=False)
class SuiteReport:
    """What `check_suite` found.

    Attributes
    ----------
    reports : mapping of str to EstimatorReport
        One report a problem, by its name.
    false_alarm_rate : float
        Probability that a correct estimator fails on any of them.
    elsewhere : tuple of str
        Of an estimator that is BROKEN on all of them: what named instances there are on which a
        call returns a gradient, the smallest first.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> case = tb.SuiteCase("mine", "the direct part alone", tb.problems.bandit(), [0.0, 0.0])
    >>> naive = tb.NaivePolicyGradient(tb.Interaction(tb.Episodes(10)))
    >>> report = tb.check_suite(naive, suite=[case], rng=0)
    >>> report.passed, report.verdict.value, list(report.mistakes)[:1]
    (False, 'INCONCLUSIVE', ['through-follower term dropped'])
    >>> print(report.summary.splitlines()[0])
    Suite check FAILED: no bias seen on 0 of 1 problems, at false-alarm rate 0.001 in all
    >>> tb.SuiteReport.of(naive, report.reports, 0.01).passed
    False
    >>> try:
    ...     report.raise_if_failed()
    ... except tb.CheckFailedError:
    ...     print("failed")
    failed
    """

    level: ClassVar[Level] = Level.STATISTICAL

    reports: Mapping[str, EstimatorReport]
    false_alarm_rate: float
    elsewhere: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, estimator: Any, reports: Mapping[str, EstimatorReport], false_alarm_rate: float
    ) -> SuiteReport:
        """Gather reports by the problem's name; arguments as of `check_suite`.

        If the estimator is BROKEN in all, look where else it is defined.
        """
        elsewhere: tuple[str, ...] = ()
        if all(report.verdict is Verdict.BROKEN for report in reports.values()):
            elsewhere = tuple(case.name for case in defined_on(estimator, _by_size(_others())))
        return cls(MappingProxyType(dict(reports)), false_alarm_rate, elsewhere)

    @property
    def passed(self) -> bool:
        """Whether no bias was seen on any problem, and each check was conclusive."""
        return all(report.passed for report in self.reports.values())

    @property
    def mistakes(self) -> dict[str, int]:
        """Count the problems that each mistake explains, of those diagnosed; the most first."""
        fitting = Counter(
            name
            for report in self.reports.values()
            if report.diagnosis is not None
            for guess in report.diagnosis.guesses
            if guess.fits
            for name in (guess.name, *guess.alike)
        )
        return dict(fitting.most_common())

    raise_if_failed = raise_if_failed

    @property
    def verdict(self) -> Verdict:
        """The worst of all: BROKEN, else BIASED, else INCONCLUSIVE, else UNBIASED."""
        found = {report.verdict for report in self.reports.values()}
        worst = (Verdict.BROKEN, Verdict.BIASED, Verdict.INCONCLUSIVE)
        return next((verdict for verdict in worst if verdict in found), Verdict.UNBIASED)

    def __str__(self) -> str:
        first, *others = self.summary.split("\n")
        return "\n".join([first, *(line_of(*item) for item in self.reports.items()), *others])

    @property
    def summary(self) -> str:
        """What all problems come to, without a line for each."""
        return "\n".join(self._summary())

    def _summary(self) -> Iterator[str]:
        passed = sum(report.passed for report in self.reports.values())
        yield (
            f"Suite check {'passed' if self.passed else 'FAILED'}: no bias seen on {passed} of "
            f"{len(self.reports)} problems, at false-alarm rate {self.false_alarm_rate:g} in all"
        )
        broken = [name for name, r in self.reports.items() if r.verdict is Verdict.BROKEN]
        if 0 < len(broken) < len(self.reports):
            works = [name for name in self.reports if name not in broken]
            yield f"  BROKEN on {len(broken)}; no failure on: {', '.join(works)}"
        elif broken and self.elsewhere:
            yield f"  BROKEN on all of them; no failure on: {', '.join(self.elsewhere)}"
        told = (report.diagnosis for report in self.reports.values())
        diagnosed = sum(found is not None and bool(found.guesses) for found in told)
        for mistake, count in list(self.mistakes.items())[:3]:
            yield f"  explains {count} of {diagnosed} biases: {mistake}"
        asked = {name for report in self.reports.values() for name in report.asked or ()}
        if asked:
            yield f"  asked for {', '.join(sorted(asked))}"


def check_suite(
    estimator: Any,
    *,
    suite: Sequence[SuiteCase] | None = None,
    n_replicates: int = 400,
    visible_bias: float | None = None,
    false_alarm_rate: float = 1e-3,
    power: float = 0.99,
    sampler: Sampler | None = None,
    follower: FollowerSolver | None = None,
    critic: Critic | None = None,
    up_to_scale: bool = False,
    burn_in: int = 0,
    rng: np.random.Generator | int | None = None,
    workers: int = 1,
    progress: bool = False,
) -> SuiteReport:
    """Run `check_estimator` on a suite of problems, at one false-alarm rate for all.

    Parameters
    ----------
    estimator : callable
        As for `check_estimator`.
    suite : sequence of SuiteCase, optional
        `standard_suite` by default.
    n_replicates, visible_bias, false_alarm_rate, power
        As for `check_estimator`; the false-alarm rate is for all problems together.
    sampler, follower, critic, up_to_scale, burn_in, rng
        As for `check_estimator`.
    workers : int
        Problems at a time, as for `sweep`; the report does not depend on it.
    progress : bool
        Whether to show a bar of the problems and, with one worker, one of the calls on each.

    Returns
    -------
    SuiteReport
        One report a problem.

    Raises
    ------
    ValueError
        As `check_estimator`; if the suite is empty.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> wrong = tb.controls(n_trajectories=200)["through-follower term sign-flipped"]
    >>> print(tb.check_suite(wrong, suite=tb.standard_suite()[:2], rng=0))
    Suite check FAILED: no bias seen on 0 of 2 problems, at false-alarm rate 0.001 in all
      plain                      BIASED        through-follower term sign-flipped
      small temperature          BIASED        through-follower term sign-flipped
      explains 2 of 2 biases: through-follower term sign-flipped
    """
    cases = standard_suite() if suite is None else tuple(suite)
    if not cases:
        raise ValueError("suite has no problems")
    reports = suite_reports(
        estimator,
        cases,
        n_replicates=n_replicates,
        visible_bias=visible_bias,
        false_alarm_rate=false_alarm_rate,
        power=power,
        sampler=sampler,
        follower=follower,
        critic=critic,
        up_to_scale=up_to_scale,
        burn_in=burn_in,
        rng=rng,
        workers=workers,
        progress=progress,
    )
    found = dict(reports)
    in_order = {case.name: found[case.name] for case in cases}
    return SuiteReport.of(estimator, in_order, false_alarm_rate)


def suite_reports(
    estimator: Any,
    suite: Sequence[SuiteCase],
    *,
    false_alarm_rate: float,
    rng: np.random.Generator | int | None = None,
    workers: int = 1,
    progress: bool = False,
    **settings: Any,
) -> Iterator[tuple[str, EstimatorReport]]:
    """Check on each problem, give reports as they come; arguments as of `check_suite`."""
    seeds: list[int | None] = [None] * len(suite)
    if rng is not None:
        seeds = [int(s.integers(2**63)) for s in as_generator(rng).spawn(len(suite))]
    check = partial(
        check_estimator,
        estimator,
        false_alarm_rate=false_alarm_rate / len(suite),
        **settings,
    )
    tasks = (
        (case.name, partial(check, case.problem, case.theta, rng=seed))
        for case, seed in zip(suite, seeds, strict=True)
    )
    return sweep(tasks, workers=workers, progress=progress)


def defined_on(estimator: Any, cases: Sequence[SuiteCase]) -> Iterator[SuiteCase]:
    """Find on which problems, in their order, a call of an estimator returns a gradient."""
    taken = as_estimator(estimator)
    for case in cases:
        try:
            taken.at(case.problem, case.theta)(np.random.default_rng(0))
        except (Exception, SystemExit):  # somebody's code may end with anything
            continue
        yield case


def smallest_case(estimator: Any) -> SuiteCase:
    """Find the smallest problem that an estimator is defined on.

    Parameters
    ----------
    estimator : callable
        As for `check_estimator`.

    Returns
    -------
    SuiteCase
        Of the standard suite, or else of the other instances that have a name, with the fewest
        parameters, and of those with the smallest tables.

    Raises
    ------
    ValueError
        If a call fails on every one of them.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> smallest_case(tb.BiLevelActorCritic()).name
    'game'
    """
    for cases in (standard_suite(), _others()):
        for case in defined_on(estimator, _by_size(cases)):
            return case
    raise ValueError(
        f"estimator fails on all {len(zoo.NAMES)} problems that there are; check it on one of yours"
    )


def _others() -> tuple[SuiteCase, ...]:
    """Make the named instances that are not in the suite."""
    return tuple(_case(zoo.named(name), "") for name in zoo.NAMES if name not in _AIMS)


def _by_size(cases: Sequence[SuiteCase]) -> list[SuiteCase]:
    def size(case: SuiteCase) -> tuple[int, int]:
        return case.theta.size, case.problem.model(case.theta).transition.nnz

    return sorted(cases, key=size)


def standard_suite() -> tuple[SuiteCase, ...]:
    """Make the problems that every estimator should be tried on.

    They are small and quickly mixing, so that noise hides little, and fixed: a failure can be
    looked at again.

    Returns
    -------
    tuple of SuiteCase
        Problems whose parameters move all tables unless said otherwise, and two games.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> for case in tb.standard_suite()[:3]:
    ...     print(f"{case.name}: {case.aim}")
    plain: everything at once
    small temperature: 1/temperature missing or twice
    discount near 1: trajectories cut too early
    """
    return tuple(_case(zoo.named(name), aim) for name, aim in _AIMS.items())


def _case(instance: zoo.Instance, aim: str) -> SuiteCase:
    return SuiteCase(instance.name, aim, instance.problem, instance.theta)


# By name in the zoo.
_AIMS = {
    "plain": "everything at once",
    "small temperature": "1/temperature missing or twice",
    "discount near 1": "trajectories cut too early",
    "unequal discounts": "one discount in the place of the other",
    "unreachable state": "division by visits that never come",
    "forbidden action": "minus infinity times zero, averages over all actions",
    "kernel parameters only": "the follower's value of where it arrives, forgotten",
    "initial distribution only": "the score of the first state, forgotten",
    "through the policy only": "the direct term alone",
    "ties": "a hard maximum in the place of the soft one",
    "deterministic kernel": "division by what never varies",
    "long horizon": "influence that fades too early",
    "episodic": "an episode's end that is not one",
    "layered": "a step too many or too few",
    "one-state bandit": "the textbook case",
    "one parameter": "shapes of length 1",
    "a thousand parameters": "tests that need more replicates than parameters",
    "slippery grid": "a simulator that slips otherwise than the planner",
    "game": "the leader's own policy",
    "game, leader unseen": "moves at the same time",
}


def line_of(name: str, report: EstimatorReport) -> str:
    """Tell a problem's report in one line."""
    return f"  {name:<26} {report.verdict.value:<13} {told(report)}"


def told(report: EstimatorReport) -> str:
    """Say the main thing in a few words."""
    if report.trouble:
        return report.trouble
    best = None if report.diagnosis is None else report.diagnosis.best
    if best is not None:
        return f"{best.name}? {report.reason}" if report.reason else best.name
    if report.reason:
        return report.reason
    if np.isinf(report.smallest_visible_bias):
        return f"{report.n_replicates} replicates"
    return (
        f"bias {percent(report.bias, '+')}, one of {percent(report.smallest_visible_bias)} would "
        f"not pass; {report.n_replicates} replicates"
    )
