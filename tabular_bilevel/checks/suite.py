"""A suite of problems, each aimed at a mistake that estimators make."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from tabular_bilevel._base.arguments import as_generator
from tabular_bilevel._base.arrays import FloatArray, read_only
from tabular_bilevel._base.errors import CheckFailedError
from tabular_bilevel.certify.accuracy import Level
from tabular_bilevel.checks.estimator import EstimatorReport, check_estimator, percent
from tabular_bilevel.finite.model import Model
from tabular_bilevel.problem import BilevelProblem, FeatureProblem
from tabular_bilevel.problems import bandit, garnet, grid_world, layered, random_game

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
            for name in (guess.name, *guess.likeness)
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
    estimator: Callable[..., Any],
    *,
    suite: Sequence[SuiteCase] | None = None,
    n_replicates: int = 400,
    visible_bias: float = 0.05,
    false_alarm_rate: float = 1e-3,
    power: float = 0.99,
    rng: np.random.Generator | int | None = None,
) -> SuiteReport:
    """Run `check_estimator` on a suite of problems, at one false-alarm rate for all.

    Parameters
    ----------
    estimator : callable
        As for `check_estimator`.
    suite : sequence of SuiteCase, optional
        `standard_suite` by default.
    n_replicates, visible_bias, false_alarm_rate, power, rng
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
        rng=rng,
    )
    return SuiteReport(MappingProxyType(dict(reports)), false_alarm_rate)


def suite_reports(
    estimator: Callable[..., Any],
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
    return tuple(
        SuiteCase(name, aim, *make(np.random.default_rng(seed))) for name, aim, seed, make in _PLAN
    )


_Made = tuple[BilevelProblem, FloatArray]


def _at(problem: Any, rng: np.random.Generator, *, spread: float = 0.3) -> _Made:
    return problem, read_only(spread * rng.normal(size=problem.n_parameters))


def _garnet(rng: np.random.Generator, **settings: Any) -> _Made:
    usual = {
        "n_states": 5,
        "n_actions": 3,
        "n_parameters": 3,
        "follower_discount": 0.7,
        "leader_discount": 0.8,
        "temperature": 0.5,
    }
    return _at(garnet(**{**usual, **settings}, rng=rng), rng)


def _tables(
    rng: np.random.Generator, n_states: int = 5, n_actions: int = 3, **tables: Any
) -> Model:
    """Make a dense random model, but for the tables that are given."""
    usual = {
        "transition": rng.dirichlet(np.ones(n_states), size=(n_states, n_actions)),
        "follower_reward": rng.normal(size=(n_states, n_actions)),
        "leader_reward": rng.normal(size=(n_states, n_actions)),
        "initial": rng.dirichlet(np.ones(n_states)),
        "follower_discount": 0.7,
        "leader_discount": 0.8,
        "temperature": 0.5,
    }
    return Model.from_tables(**{**usual, **tables})


def _features(rng: np.random.Generator, base: Model, *tables: str, width: int = 3) -> _Made:
    """Let theta move some tables, by random features; all four unless named."""
    sizes = {
        "follower_reward": base.follower_reward.size,
        "leader_reward": base.leader_reward.size,
        "transition": base.transition.nnz,
        "initial": base.n_states,
    }
    chosen = {name: rng.normal(size=(sizes[name], width)) for name in tables or sizes}
    return _at(FeatureProblem(base, **chosen), rng)


def _unreachable(rng: np.random.Generator) -> _Made:
    kernel = rng.dirichlet(np.ones(4), size=(5, 3))
    kernel = np.concatenate([kernel, np.zeros((5, 3, 1))], axis=2)  # nothing leads to state 4
    initial = np.append(rng.dirichlet(np.ones(4)), 0.0)
    return _features(rng, _tables(rng, transition=kernel, initial=initial))


def _forbidden(rng: np.random.Generator) -> _Made:
    reward = rng.normal(size=(5, 3))
    reward[[0, 2, 2, 4], [1, 0, 2, 2]] = -np.inf
    return _features(rng, _tables(rng, follower_reward=reward))


def _ties(rng: np.random.Generator) -> _Made:
    # all actions alike, so that each is as good as the others at theta = 0
    kernel = np.repeat(rng.dirichlet(np.ones(5), size=(5, 1)), 3, axis=1)
    reward = np.repeat(rng.normal(size=(5, 1)), 3, axis=1)
    base = _tables(rng, transition=kernel, follower_reward=reward, temperature=0.1)
    problem, theta = _features(rng, base, "follower_reward", "leader_reward")
    return problem, read_only(np.zeros_like(theta))


def _deterministic(rng: np.random.Generator) -> _Made:
    kernel = np.zeros((5, 3, 5))
    following = rng.integers(5, size=(5, 3))
    np.put_along_axis(kernel, following[:, :, None], 1.0, axis=2)
    kernel[:, 0] = np.eye(5)[[1, 2, 3, 4, 0]]  # all states can be reached
    return _features(rng, _tables(rng, transition=kernel), "follower_reward", "leader_reward")


def _corridor(rng: np.random.Generator) -> _Made:
    """Walk on or turn back for twenty cells; what waits at the end decides at the start."""
    length = 20
    kernel = np.zeros((length, 2, length))
    for cell in range(length):
        kernel[cell, 0, max(cell - 1, 0)] = kernel[cell, 1, min(cell + 1, length - 1)] = 1.0
    follower, leader, ends = np.zeros((3, length, 2))
    ends[-1, 1] = leader[-1, 1] = 1.0
    ends[0, 0], leader[0, 0] = 1.0, -1.0
    kernel[-1, 1] = kernel[0, 0] = 0.0
    base = _tables(
        rng, length, 2, transition=kernel, follower_reward=follower, leader_reward=leader,
        termination=ends, initial=np.eye(length)[length // 2], follower_discount=0.99,
        leader_discount=0.97, temperature=1.0,
    )  # fmt: skip
    pay = np.zeros((length * 2, 2))
    pay[1, 0] = pay[-1, 1] = 1.0  # for turning at the one end, for leaving at the other
    problem = FeatureProblem(base, follower_reward=pay, leader_reward=-pay)
    return problem, read_only(np.array([0.1, 0.2]))


def _episodic(rng: np.random.Generator) -> _Made:
    ends = rng.uniform(0.0, 0.5, size=(5, 3)) * (rng.random((5, 3)) < 0.6)
    kernel = rng.dirichlet(np.ones(5), size=(5, 3)) * (1.0 - ends)[:, :, None]
    return _features(rng, _tables(rng, transition=kernel, termination=ends))


def _bandit(rng: np.random.Generator) -> _Made:
    problem = bandit(leader_reward=[0.0, 1.0, 0.3], temperature=0.5, leader_discount=0.5)
    return _at(problem, rng)


def _slippery(rng: np.random.Generator) -> _Made:
    problem = grid_world(
        "type octile\nheight 3\nwidth 3\nmap\n...\n...\n...\n",
        follower_discount=0.9,
        leader_discount=0.8,
        temperature=0.3,
        slip=0.4,
    )
    return _at(problem, rng)


def _game(rng: np.random.Generator, *, seen: bool) -> _Made:
    game = random_game(
        n_states=3,
        n_actions=2,
        follower_discount=0.7,
        leader_discount=0.8,
        temperature=0.3,
        follower_observes_leader=seen,
        rng=rng,
    )
    return _at(game, rng)


# Name, aim, seed and maker; with these seeds both parts of the gradient matter, if both are there.
_PLAN: tuple[tuple[str, str, int, Callable[[np.random.Generator], _Made]], ...] = (
    ("plain", "everything at once", 17, _garnet),
    (
        "small temperature",
        "1/temperature missing or twice",
        13,
        lambda rng: _garnet(rng, temperature=0.05),
    ),
    (
        "discount near 1",
        "trajectories cut too early",
        40,
        lambda rng: _garnet(rng, follower_discount=0.96, leader_discount=0.98),
    ),
    (
        "unequal discounts",
        "one discount in the place of the other",
        42,
        lambda rng: _garnet(rng, follower_discount=0.3, leader_discount=0.9),
    ),
    ("unreachable state", "division by visits that never come", 34, _unreachable),
    ("forbidden action", "minus infinity times zero, averages over all actions", 35, _forbidden),
    (
        "kernel parameters only",
        "the follower's value of where it arrives, forgotten",
        25,
        lambda rng: _features(rng, _tables(rng), "transition"),
    ),
    (
        "initial distribution only",
        "the score of the first state, forgotten",
        57,
        lambda rng: _features(rng, _tables(rng), "initial"),
    ),
    (
        "through the policy only",
        "the direct term alone",
        59,
        lambda rng: _features(rng, _tables(rng), "follower_reward"),
    ),
    ("ties", "a hard maximum in the place of the soft one", 34, _ties),
    ("deterministic kernel", "division by what never varies", 30, _deterministic),
    ("long horizon", "influence that fades too early", 0, _corridor),
    ("episodic", "an episode's end that is not one", 0, _episodic),
    ("layered", "a step too many or too few", 4, lambda rng: _at(layered(rng=rng), rng)),
    ("one-state bandit", "the textbook case", 59, _bandit),
    ("one parameter", "shapes of length 1", 2, lambda rng: _garnet(rng, n_parameters=1)),
    (
        "a thousand parameters",
        "tests that need more replicates than parameters",
        2,
        lambda rng: (
            garnet(
                n_states=20, n_parameters=1000, follower_discount=0.7, leader_discount=0.8,
                temperature=5.0, rng=rng,
            ),
            read_only(0.01 * rng.normal(size=1000)),
        ),
    ),
    ("slippery grid", "a simulator that slips otherwise than the planner", 10, _slippery),
    ("game", "the leader's own policy", 93, lambda rng: _game(rng, seen=True)),
    ("game, leader unseen", "moves at the same time", 59, lambda rng: _game(rng, seen=False)),
)  # fmt: skip


def _told(report: EstimatorReport) -> str:
    """Say the main thing in one line."""
    if report.trouble:
        return report.trouble
    best = None if report.diagnosis is None else report.diagnosis.best
    if best is not None and best.fits:
        return f"{best.name}? {report.reason}" if report.reason else best.name
    if report.reason:
        return report.reason
    if np.isinf(report.smallest_visible_bias):
        return f"{report.n_replicates} replicates"
    return (
        f"bias {percent(report.bias, '+')}, one of {percent(report.smallest_visible_bias)} would "
        f"not pass; {report.n_replicates} replicates"
    )
