"""A suite of problems, each aimed at a mistake that estimators make."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from tabular_bilevel._base.arguments import as_generator
from tabular_bilevel._base.arrays import FloatArray
from tabular_bilevel._base.errors import CheckFailedError
from tabular_bilevel.certify.accuracy import Level
from tabular_bilevel.checks.estimator import EstimatorReport, check_estimator, percent
from tabular_bilevel.problem import BilevelProblem
from tabular_bilevel.problems import zoo

__all__ = ["SuiteCase", "SuiteReport", "check_suite", "standard_suite", "suite_reports"]


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
    """

    level: ClassVar[Level] = Level.STATISTICAL

    reports: Mapping[str, EstimatorReport]
    false_alarm_rate: float

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

    def raise_if_failed(self) -> None:
        """Raise `CheckFailedError` with the report as its message unless the check passed."""
        if not self.passed:
            raise CheckFailedError(str(self))

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        passed = sum(report.passed for report in self.reports.values())
        yield (
            f"Suite check {'passed' if self.passed else 'FAILED'}: no bias seen on {passed} of "
            f"{len(self.reports)} problems, at false-alarm rate {self.false_alarm_rate:g} in all"
        )
        for name, report in self.reports.items():
            yield f"  {name:<26} {report.verdict.value:<13} {_told(report)}"
        diagnosed = sum(report.diagnosis is not None for report in self.reports.values())
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
    visible_bias: float = 0.05,
    false_alarm_rate: float = 1e-3,
    power: float = 0.99,
    burn_in: int = 0,
    rng: np.random.Generator | int | None = None,
) -> SuiteReport:
    """Run `check_estimator` on a suite of problems, at one false-alarm rate for all.

    Parameters
    ----------
    estimator : callable
        As for `check_estimator`.
    suite : sequence of SuiteCase, optional
        `standard_suite` by default.
    n_replicates, visible_bias, false_alarm_rate, power, burn_in, rng
        As for `check_estimator`; the false-alarm rate is for all problems together.

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
        burn_in=burn_in,
        rng=rng,
    )
    return SuiteReport(MappingProxyType(dict(reports)), false_alarm_rate)


def suite_reports(
    estimator: Any,
    suite: Sequence[SuiteCase],
    *,
    false_alarm_rate: float,
    rng: np.random.Generator | int | None = None,
    **settings: Any,
) -> Iterator[tuple[str, EstimatorReport]]:
    """Check on one problem after the other; arguments as of `check_suite`."""
    seeds: list[int | None] = [None] * len(suite)
    if rng is not None:
        seeds = [int(s.integers(2**63)) for s in as_generator(rng).spawn(len(suite))]
    for case, seed in zip(suite, seeds, strict=True):
        yield (
            case.name,
            check_estimator(
                estimator,
                case.problem,
                case.theta,
                false_alarm_rate=false_alarm_rate / len(suite),
                rng=seed,
                **settings,
            ),
        )


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
    >>> for case in standard_suite()[:3]:
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


def _told(report: EstimatorReport) -> str:
    """Say the main thing in one line."""
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
