"""Exact moments of the methods against samples, on random problems.

Run ``python validation/moments.py`` with the package installed; with the default of 1,000 batches
of 1,000 trajectories for each method on 54 problems it takes some five minutes on one core.
``--problems N``, ``--first K``, ``--batches N`` and ``--trajectories N`` set the sizes. With
``--results FILE`` each problem's lines are kept in the file, and problems that it has are not run
again: a run goes on where one stopped, and several can share the problems out.

Each line is a method on a problem. The mean over all trajectories is compared with the exact one,
coordinate by coordinate, in units of its exact standard error; the sum of the batches' variances
with the exact total variance, in units of its standard error for normal noise, which means of so
many are. All intervals together hold with probability 99.9 % (Bonferroni). The exit status is 1 if
one is left, or if a control is not: a variance that is a quarter off must be seen.

Problems with rare actions are drawn again: of those samples tell little, however exact the moments.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtri

import tabular_bilevel as tb
from tabular_bilevel.problems import zoo

CONFIDENCE = 0.999

# Families of the zoo that trajectories of some dozen steps tell all about.
FAMILIES = ("garnet", "masks", "termination", "game-observed", "game-simultaneous", "temperature")
STATES = 6

# Probability of an action. What is rarer may bring most of the variance, and a million trajectories
# may not see it; a batch of a thousand sees this about ten times, and its mean is about normal.
RARE = 1e-2

# Steps after which trajectories are cut, where a method is to be cut.
STEPS = 12


def drawn(k: int) -> tuple[str, Any, np.ndarray]:
    """Draw the k-th problem, again while an action is rare; families take turns."""
    family = FAMILIES[k % len(FAMILIES)]
    for rng in itertools.count(k, 1000):
        instance = zoo.draw(family, rng=rng, max_states=STATES)
        model = instance.problem.model(instance.theta)
        if tb.solve_follower(model).policy[model.available].min() >= RARE:
            break
    return f"{family} {rng}", instance.problem, np.asarray(instance.theta)


def methods(problem: Any, theta: np.ndarray, n: int, seed: int) -> Iterator[tuple[str, Any]]:
    """List methods on n trajectories."""
    cut = tb.Interaction(tb.Episodes(n, STEPS))
    usual, model = tb.BoltzmannCovariance(cut), problem.model(theta)
    lasting = tb.Survivors(n, max(0.9, model.follower_discount, model.leader_discount))
    exact = tb.Interaction().limit(problem, theta).values.action_value
    error = np.random.default_rng(seed).normal(size=exact.shape)
    wrong = np.where(np.isfinite(exact), exact, 0.0) + error
    given = tb.Interaction(tb.Episodes(n, STEPS), tb.GivenCritic(wrong))
    yield "BC-HG", usual
    yield "no baseline", replace(usual, baseline=False)
    yield "own action", replace(usual, own_action=True)
    yield "given critic", tb.BoltzmannCovariance(given)
    yield "best baseline", tb.best_baseline(problem, theta, usual)
    yield "survivors", tb.BoltzmannCovariance(tb.Interaction(lasting))
    yield "score function", tb.ScoreFunction(cut, baseline=bool(seed % 2))
    yield "naive", tb.NaivePolicyGradient(cut)
    yield "SoBiRL", tb.SoBiRL(cut)
    yield "Bi-AC", tb.BiLevelActorCritic(tb.Episodes(n, STEPS))
    names = sorted(tb.controls())
    name = names[seed % len(names)]
    yield f"control: {name}", tb.controls(n_trajectories=n)[name]


def deviations(
    problem: Any, theta: np.ndarray, method: Any, n_batches: int, n: int, seed: int
) -> tuple[float, float, float]:
    """Compare the mean's worst coordinate, the total variance, and one a quarter too large."""
    steps = None  # methods say it themselves, controls but for what they cut
    if isinstance(method, tb.Control):
        steps = min(STEPS, method.limit(problem, theta).law.horizon)
    moments = tb.estimator_moments(problem, theta, method, horizon=steps)
    ready, rng = method.enumerable(problem, theta), np.random.default_rng(seed)
    law = replace(ready.limit.law, horizon=moments.horizon or ready.limit.law.horizon)
    rows = np.array([ready.estimate(law.sample(n, rng=rng)) for _ in range(n_batches)])
    error = np.sqrt(moments.variance / (n * n_batches))
    size = 1e-9 * np.abs(moments.mean).max() + 1e-300  # of what does not vary
    off = np.abs(rows.mean(axis=0) - moments.mean) / np.maximum(error, size)
    found = rows.var(axis=0, ddof=1).sum() * n
    spread = np.sqrt(2.0 * (moments.covariance**2).sum() / (n_batches - 1))
    units = [(found - factor * moments.total_variance) / (spread or 1.0) for factor in (1.0, 1.25)]
    return float(off.max()), float(units[0]), float(units[1])


def compared(k: int, n_batches: int, n: int) -> Iterator[tuple[Any, ...]]:
    """Compare each method that the k-th problem has moments of, and print."""
    name, problem, theta = drawn(k)
    for what, method in methods(problem, theta, n, k):
        try:
            found = deviations(problem, theta, method, n_batches, n, k)
        except ValueError as error:  # a problem that the method is not made for, or no rule
            if not any(word in str(error) for word in (" defined for ", "take sampling")):
                raise
            continue
        print(f"{name:<24}{what:<54}{found[0]:>7.2f}{found[1]:>8.2f}{found[2]:>9.2f}", flush=True)
        yield name, what, theta.size, *found


def main(arguments: list[str] | None = None) -> int:
    """Compare, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, number in (("problems", 54), ("first", 0), ("batches", 1000), ("trajectories", 1000)):
        parser.add_argument(f"--{name}", type=int, default=number, metavar="N")
    parser.add_argument("--results", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    sizes, known = [options.batches, options.trajectories], {}
    if options.results and options.results.exists():
        rows = map(json.loads, options.results.read_text().splitlines())
        known = {row["problem"]: row["lines"] for row in rows if row["sizes"] == sizes}
    for k in range(options.first, options.first + options.problems):
        if k not in known:
            known[k] = list(compared(k, *sizes))
            if options.results:
                with options.results.open("a") as file:
                    print(json.dumps({"problem": k, "sizes": sizes, "lines": known[k]}), file=file)
    lines = [line for of_problem in known.values() for line in of_problem]
    n_tests = sum(line[2] + 1 for line in lines)
    limit = float(-ndtri((1.0 - CONFIDENCE) / (2.0 * n_tests)))
    wrong = [line for line in lines if max(line[3], abs(line[4])) > limit]
    seen = sum(abs(line[5]) > limit for line in lines)
    for line in wrong:
        print("outside:", *line[:2])
    print(
        f"{len(lines)} methods on {len(known)} problems, {n_tests} intervals of "
        f"{limit:.2f} standard errors, {len(wrong)} left; a quarter more is seen in {seen}"
    )
    return 1 if wrong or not seen else 0


if __name__ == "__main__":
    sys.exit(main())
