"""The main job: every route to the gradient, BC-HG and planted mistakes, on four problems."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from tabular_bilevel._base.arrays import FloatArray
from tabular_bilevel.certify.accuracy import Enclosed, Level
from tabular_bilevel.checks.gradient import check_gradient
from tabular_bilevel.checks.judging import ROUNDING as OF_ESTIMATES
from tabular_bilevel.checks.judging import judge
from tabular_bilevel.checks.localising import localise, parts_of
from tabular_bilevel.checks.report import EstimatorReport
from tabular_bilevel.checks.verdict import Verdict
from tabular_bilevel.estimators.boltzmann_covariance import BoltzmannCovariance
from tabular_bilevel.exact.hypergradient import hypergradient
from tabular_bilevel.finite.follower import PolicyIteration, ValueIteration
from tabular_bilevel.mistakes.knowledge import right_limit
from tabular_bilevel.mistakes.register import FAULTS
from tabular_bilevel.problem import BilevelProblem
from tabular_bilevel.problems import zoo
from tabular_bilevel.problems.known import KNOWN, Known
from tabular_bilevel.problems.markov_game import MarkovGame
from tabular_bilevel.sampling.experience import Interaction
from tabular_bilevel.sampling.samplers import Episodes

# Probability that a correct estimator fails on a problem. The seed is fixed, so a machine that
# passes once passes again; a changed seed fails one run in 2,500 (four problems).
FALSE_ALARM_RATE = 1e-4
POWER = 0.99

# What a mean has to show; the line says what it would have shown. The toy game's is the noisiest.
VISIBLE_BIAS = 0.3

SEED = 2026

N_REPLICATES = 200
N_FAULTY_REPLICATES = 100  # mistakes show at a glance, but not before

#: Those of all mistakes that show on problems like these.
PLANTED = (
    "no 1/temperature",
    "no eligibility",
    "follower's discount for the leader's",
    "direct term dropped",
    "cut after 10 steps",
)

# How the name of a check begins that has to find one of them.
PLANT = "must fail: "

# A published number is within half a unit of its last digit.
LAST_DIGIT = 0.5

# What float64 proves of the numbers here, relative to them; measured: 1e-12 at most.
PROVEN = 1e-9

# Of a Bellman backup, in units of the value: a sum over a few successors and a logarithm.
ROUNDING = 32.0 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Check:
    """One line of the verification.

    Attributes
    ----------
    problem, name : str
        What was checked.
    value : float
        The number found.
    bound : float
        What it is compared with.
    passed : bool
        Whether it is as it should be; for a planted mistake, whether it was found.
    detail : str
        What the number is.
    level : Level
        What is known of the error of the package's own number behind it.
    radius : float
        That error at most; infinite of an ESTIMATE. Of a STATISTICAL verdict, the smallest bias
        that would have been seen, relative to the gradient.
    report : EstimatorReport, optional
        What it is the short form of.
    """

    problem: str
    name: str
    value: float
    bound: float
    passed: bool
    detail: str
    level: Level
    radius: float
    report: EstimatorReport | None = field(default=None, repr=False)

    @property
    def planted(self) -> bool:
        """Whether it is of a mistake that was planted, and has to be found."""
        return self.name.startswith(PLANT)

    def __str__(self) -> str:
        sign = "<=" if self.value <= self.bound else "> "
        verdict = "ok  " if self.passed else "FAIL"
        return (
            f"{verdict} {self.problem:<13} {self.name:<48} {self.value:>9.3g} {sign} "
            f"{self.bound:<8.3g} {self.level.name:<11} +- {self.radius:<8.2g} {self.detail}"
        )


@dataclass(frozen=True, eq=False)
class Case:
    """A problem of the verification, and where its gradient is checked.

    A replicate of the estimator has so many trajectories; `known` is what is known from elsewhere.
    """

    name: str
    problem: BilevelProblem
    theta: FloatArray
    n_trajectories: int
    known: tuple[Known, ...] = ()


def verify_cases() -> tuple[Case, ...]:
    """Make the four problems, with the numbers known of them from independent programs."""
    return (
        _case("four rooms", 500),
        _case("discrete toy", 700),
        _case("random MDP", 500),
        _case("random game", 500),
    )


def _case(name: str, n_trajectories: int) -> Case:
    instance = zoo.named(name)
    of_problem = name.replace(" ", "-")
    known = tuple(k for k in KNOWN if k.problem == of_problem and k.at is not None)
    return Case(name, instance.problem, instance.theta, n_trajectories, known)


@dataclass(frozen=True, eq=False)
class Stage:
    """A part of the verification, by what it is about; `run` yields each check when it is done."""

    name: str
    run: Callable[[], Iterable[Check]]


def stages(cases: tuple[Case, ...]) -> list[Stage]:
    """Plan the verification of the cases, in order: four stages a case."""
    return [
        Stage(f"{case.name}: {name}", partial(run, case))
        for case in cases
        for name, run in (
            ("follower", _follower_checks),
            ("proof", _proof_checks),
            ("gradient", _gradient_checks),
            ("estimator", _estimator_checks),
        )
    ]


def _best() -> Enclosed | None:
    """Ask for an enclosure where python-flint is installed, else for the default."""
    return None if importlib.util.find_spec("flint") is None else Enclosed()


def _follower_checks(case: Case) -> Iterator[Check]:
    for known in case.known:
        steps = known.horizon
        accuracy = _best() if steps is None else None
        ours = hypergradient(known.build(), known.theta(), horizon=steps, accuracy=accuracy)
        gap, allowed = abs(ours.objective - known.value), LAST_DIGIT * known.digit
        detail = f"ours {ours.objective:.9g}, known {known.value:.9g}"
        level, radius = ours.accuracy.level, ours.accuracy.objective
        yield Check(case.name, known.what, gap, allowed, gap <= allowed, detail, level, radius)
    model = case.problem.model(case.theta)
    fast, plain = PolicyIteration().solve(model), ValueIteration().solve(model)
    gap = float(np.abs(fast.value - plain.value).max())
    rounding = ROUNDING * float(np.abs(fast.value).max()) / (1.0 - model.follower_discount)
    bound = fast.error_bound + plain.error_bound + rounding
    detail = f"{fast.iterations} steps, {plain.iterations} sweeps"
    agree = "policy iteration = value iteration"
    bounds = hypergradient(case.problem, case.theta).accuracy.bounds
    radius = math.inf if bounds is None else float(bounds.value.max())
    level = Level.BOUNDED if math.isfinite(radius) else Level.ESTIMATE
    yield Check(case.name, agree, gap, bound, gap <= bound, detail, level, radius)


def _proof_checks(case: Case) -> list[Check]:
    """Show what is proven of J and the gradient, by float64 and by ball arithmetic."""
    result = hypergradient(case.problem, case.theta)
    proof = hypergradient(case.problem, case.theta, accuracy=_best())
    checks = []
    for name in ("objective", "gradient"):
        numbers = np.atleast_1d(getattr(result, name))
        radii = np.atleast_1d(getattr(result.accuracy, name))
        share = float(radii.max() / np.abs(numbers).max())
        best = np.atleast_1d(getattr(proof.accuracy, name))
        level, radius = proof.accuracy.level, float(best.max())
        shown = f"{name} {np.abs(numbers).max():.9g}" + (" at most" if numbers.size > 1 else "")
        checks.append(
            Check(
                case.name,
                f"{name}: float64's bound, relative",
                share,
                PROVEN,
                result.accuracy.proven and share <= PROVEN,
                shown,
                result.accuracy.level,
                float(radii.max()),
            )
        )
        if level is Level.ENCLOSED:
            away = np.abs(numbers - np.atleast_1d(getattr(proof, name)))
            ratio = float((away / (radii + best)).max())
            checks.append(
                Check(
                    case.name,
                    f"{name}: distance to the enclosure, in bounds",
                    ratio,
                    1.0,
                    ratio <= 1.0,
                    shown,
                    level,
                    radius,
                )
            )
    return checks


def _gradient_checks(case: Case) -> list[Check]:
    accuracy = hypergradient(case.problem, case.theta).accuracy
    return [
        Check(
            case.name,
            f"adjoint gradient = {comparison.route}",
            comparison.difference,
            comparison.tolerance,
            comparison.passed,
            f"relative, {case.theta.size} parameters",
            accuracy.level,
            float(accuracy.gradient.max()),
        )
        for comparison in check_gradient(case.problem, case.theta).comparisons
    ]


def _estimator_checks(case: Case) -> list[Check]:
    exact = hypergradient(case.problem, case.theta)
    estimator = BoltzmannCovariance(Interaction(Episodes(case.n_trajectories)))
    right = right_limit(case.problem, case.theta)
    same = exact.model.follower_discount == exact.model.leader_discount
    wrong = {
        name: FAULTS[name].known(right)
        for name in PLANTED
        if not (same and name == "follower's discount for the leader's")
    }
    estimates: list[FloatArray] = []
    faulty: dict[str, list[FloatArray]] = {name: [] for name in wrong}
    # A mistake is compared with the right estimator on the same data.
    for k, stream in enumerate(np.random.default_rng(SEED).spawn(N_REPLICATES)):
        experience = estimator.interaction.gather(case.problem, case.theta, rng=stream)
        estimates.append(estimator.estimate(experience).gradient)
        for name, known in wrong.items():
            if k < N_FAULTY_REPLICATES and known is not None:
                seen = known.seeing(experience.trajectories)
                faulty[name].append(FAULTS[name].estimate(seen).gradient)

    def verdict(estimates: list[FloatArray]) -> EstimatorReport:
        return judge(
            np.array(estimates),
            exact.gradient,
            false_alarm_rate=FALSE_ALARM_RATE,
            power=POWER,
            visible_bias=VISIBLE_BIAS,
        )

    where = localise(
        np.array(estimates),
        parts_of(case.problem, case.theta, exact),
        exact.gradient,
        rounding=OF_ESTIMATES,
        is_game=isinstance(case.problem, MarkovGame),
    )
    report = replace(verdict(estimates), localisation=where)
    checks = [
        Check(
            case.name,
            "BC-HG mean = exact gradient",
            report.statistic,
            report.critical_value,
            report.passed,
            f"standard errors; bias {report.bias:+.2%}, one of "
            f"{report.smallest_visible_bias:.2%} would not pass; false alarms {FALSE_ALARM_RATE:g}",
            report.level,
            report.smallest_visible_bias,
            report,
        )
    ]
    for name, found in faulty.items():
        report = verdict(found)
        checks.append(
            Check(
                case.name,
                f"{PLANT}{name}",
                report.statistic,
                report.critical_value,
                report.verdict is Verdict.BIASED,
                f"standard errors; bias {report.bias:+.2%}",
                report.level,
                report.smallest_visible_bias,
            )
        )
    return checks
