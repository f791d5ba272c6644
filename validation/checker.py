"""Is the checker right? Its false alarms, its power, and whether it names what is wrong.

Run ``python validation/checker.py`` with the package installed (about twenty minutes on one core),
or one part: ``--part alarms`` (``power``, ``names``). It ends with 1 if a number is off.

- alarms: 2,000 checks of right estimators on random problems, at a false-alarm rate of 1 %; the
  observed rate has to be inside the binomial 99.9 % interval.
- power: the smallest visible bias that a report prints is planted, and has to be seen as often as
  the report says.
- names: each control on each problem of the standard suite where its bias is large enough to be
  seen. None may pass (a control whose replicates are all the same is INCONCLUSIVE, which does not
  pass and is diagnosed, too), and 90 % have to be named right at the first guess. Every confusion
  is printed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
from scipy import stats

import tabular_bilevel as tb
from tabular_bilevel.checks import estimator as checking
from tabular_bilevel.checks.controls import FAULTS, Ingredients
from tabular_bilevel.checks.suite import SuiteCase, standard_suite

ALARM_RATE, LEVEL = 0.01, 0.999

# Standard errors of 400 replicates that a control has to be off by, to be expected to be caught:
# twice what a check of 1,000 coordinates at a false-alarm rate of 0.001 takes.
CLEAR = 10.0

# Of the controls that are caught, those that have to be named right.
NAMED = 0.9


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=sorted(PARTS), help="this part only")
    parser.add_argument("--runs", type=int, default=2000, help="checks of right estimators")
    parser.add_argument("--plantings", type=int, default=400, help="checks of planted biases")
    parser.add_argument("--cases", type=int, help="problems of the suite to name faults on (all)")
    parser.add_argument("--seed", type=int, help="repeat a run")
    options = parser.parse_args(arguments)
    seed = options.seed
    if seed is None:
        seed = int(np.random.SeedSequence().generate_state(1)[0])
    print(f"seed {seed}")
    parts = PARTS if options.part is None else {options.part: PARTS[options.part]}
    good = True
    for name, part in parts.items():
        before = time.monotonic()
        right = part(options, np.random.default_rng(seed))
        print(f"{name}: {'ok' if right else 'OFF'}, {time.monotonic() - before:.0f} s", flush=True)
        good = good and right
    return 0 if good else 1


def random_problem(rng: np.random.Generator) -> tuple[tb.BilevelProblem, np.ndarray]:
    """Draw a small problem of any family, and a theta."""
    settings = {
        "follower_discount": rng.uniform(0.3, 0.9),
        "leader_discount": rng.uniform(0.3, 0.9),
        "temperature": float(np.exp(rng.uniform(np.log(0.1), np.log(2.0)))),
        "rng": rng.spawn(1)[0],
    }
    makers: list[Callable[[], object]] = [
        lambda: tb.problems.garnet(
            n_states=int(rng.integers(2, 8)),
            n_actions=int(rng.integers(2, 4)),
            n_parameters=int(rng.integers(1, 6)),
            **settings,
        ),
        lambda: tb.problems.layered(depth=3, width=2, **settings),
        lambda: tb.problems.random_game(
            n_states=3, n_actions=2, follower_observes_leader=bool(rng.integers(2)), **settings
        ),
    ]
    problem = makers[rng.integers(len(makers))]()
    return problem, 0.3 * rng.normal(size=problem.n_parameters)


def alarms(options: argparse.Namespace, rng: np.random.Generator) -> bool:
    """Count how often right estimators fail."""
    verdicts: Counter[str] = Counter()
    diagnose, checking.diagnose = checking.diagnose, lambda *given, **more: None
    try:
        for _ in range(options.runs):
            problem, theta = random_problem(rng)
            sampler = (tb.Episodes, tb.Survivors)[rng.integers(2)](30)
            method = tb.BoltzmannCovariance(tb.Interaction(sampler))
            report = tb.check_estimator(
                method,
                problem,
                theta,
                n_replicates=100,
                false_alarm_rate=ALARM_RATE,
                rng=rng.spawn(1)[0],
            )
            verdicts[report.verdict.name] += 1
    finally:
        checking.diagnose = diagnose
    count = verdicts["BIASED"]
    low, high = stats.binom.interval(LEVEL, options.runs, ALARM_RATE)
    print(
        f"{dict(verdicts)}: {count} false alarms in {options.runs} checks at {ALARM_RATE:g}, "
        f"between {low:.0f} and {high:.0f} allowed"
    )
    return bool(low <= count <= high)


def power(options: argparse.Namespace, rng: np.random.Generator) -> bool:
    """Plant the smallest visible bias, and count how often it is seen."""
    good = True
    for _ in range(3):
        problem, theta = random_problem(rng)
        exact = tb.hypergradient(problem, theta).gradient
        method = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(30)))
        settings = {"n_replicates": 100, "false_alarm_rate": 1e-3, "visible_bias": 1e-9}
        plain = [
            tb.check_estimator(method, problem, theta, rng=stream, **settings)
            for stream in rng.spawn(10)
        ]
        bias = float(np.median([report.smallest_visible_bias for report in plain]))
        wanted, seen = plain[0].power, 0
        runs = options.plantings // 3
        for stream in rng.spawn(runs):
            estimates = np.array(
                [method(problem, theta, rng=one).gradient for one in stream.spawn(100)]
            )
            report = checking.judge(
                estimates + bias * exact, exact, false_alarm_rate=1e-3, power=wanted
            )
            seen += report.verdict is tb.Verdict.BIASED
        least = stats.binom.ppf(1.0 - LEVEL, runs, wanted)
        print(
            f"bias of {bias:.2%} planted: seen {seen} of {runs} times, at least {least:.0f} wanted"
        )
        good = good and seen >= least
    return good


def names(options: argparse.Namespace, rng: np.random.Generator) -> bool:
    """Let the checker name all controls on the suite."""
    caught, missed, right = 0, 0, 0
    ever: Counter[str] = Counter()
    confused: list[str] = []
    for case in standard_suite()[: options.cases]:
        for name, control in clear_controls(case, rng):
            report = tb.check_estimator(
                control, case.problem, case.theta, visible_bias=0.01, rng=rng.spawn(1)[0]
            )
            if report.passed or report.diagnosis is None:
                missed += 1
                confused.append(f"{case.name}: {name} is not caught: {report}")
                continue
            caught += 1
            ever[name] += 1
            best = report.diagnosis.best
            alike = (best.name, *best.likeness)
            if FAULTS[name].mistake in {FAULTS[other].mistake for other in alike}:
                right += 1
            else:
                confused.append(f"{case.name}: {name} {explained(name, report.diagnosis)}")
        print(f"{case.name}: {right} of {caught} named right so far, {missed} missed", flush=True)
    print("\n".join(confused))
    never = [name for name in FAULTS if not ever[name]]
    print(f"{caught} caught, {missed} missed, {right} named right ({right / max(caught, 1):.1%})")
    if never:
        print("clear on no problem of the suite: " + ", ".join(never))
    return missed == 0 and right >= NAMED * caught and (not never or options.cases is not None)


def explained(name: str, diagnosis: tb.Diagnosis) -> str:
    """Say why the first guess is another: as a rule, because the two have nearly one target."""
    best = diagnosis.best
    told = f"is called {best.name} (likelihood {best.weight:.2g})"
    for guess in diagnosis.guesses:
        if name in (guess.name, *guess.likeness):
            fits = "fits as well, nothing tells them apart" if guess.fits else "does not fit"
            return f"{told}; it {fits} (likelihood {guess.weight:.2g})"
    return f"{told}; it was not considered"


def clear_controls(case: SuiteCase, rng: np.random.Generator) -> Iterator[tuple[str, tb.Control]]:
    """List the controls whose bias a check of 400 replicates is sure to see."""
    exact = tb.hypergradient(case.problem, case.theta).gradient
    right = Ingredients.of(case.problem, case.theta)
    made = tb.controls(n_trajectories=200)
    for name, fault in FAULTS.items():
        target = fault.target(right)
        if target is None:
            continue
        control = made[name]
        estimates = np.array(
            [control(case.problem, case.theta, rng=stream) for stream in rng.spawn(50)]
        )
        # what Student's t would see in a coordinate, of 400 replicates
        error = estimates.std(axis=0, ddof=1) / np.sqrt(400.0)
        floor = 1e-9 * np.abs(exact).max()
        if (np.abs(target - exact) / np.hypot(error, floor)).max() > CLEAR:
            yield name, control


PARTS = {"alarms": alarms, "power": power, "names": names}

if __name__ == "__main__":
    sys.exit(main())
