"""Reproduce the published ends of the two continuous tasks, beside the best theta that is known.

Run ``python validation/paper/continuous.py --scale small --out DIR`` with the package installed
(a quarter of an hour), or ``--scale full`` (hours: all rates, ten seeds). Started again after an
interrupt, it goes on where it stopped. It writes a curve a run into DIR/runs, and DIR/table.md: the
published end, ours (the last twentieth of the iterations, mean and standard error over seeds) at
the best rate, and the best objective that many starts find, each polished (a minute; also
tabular_bilevel/problems/known.py).

Building: 100 episodes of 100 steps an iteration, 2,000 iterations, steps clipped to length 1; the
methods "clipped" also clip scores, as the published code does. The published end of BC-HG is the
corner where all insulations and airflows are 1. Bilevel LQR: 4 episodes of 100 steps, theta from
N(0, I), Adam at rate 0.1. The methods "as published" have a network as critic, and ten updates on
the same episodes; as in the published figure, what they earn is added up without a discount. The
others' J is discounted. What explains which difference: validation/book/published/continuous.md.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

import tabular_bilevel as tb
from tabular_bilevel.ascent.published import first_theta
from tabular_bilevel.ascent.training import Curve, Run, train
from tabular_bilevel.problem import AnyProblem

sys.path.append(str(Path(__file__).resolve().parents[1] / "published"))
linear_quadratic: Any = importlib.import_module("linear_quadratic")

BUILDING, LQR = "building", "bilevel LQR"
PROBLEMS = {BUILDING: tb.problems.building_thermal_control(), LQR: tb.problems.bilevel_lqr()}
EPISODES = {BUILDING: tb.Episodes(100, 100), LQR: tb.Episodes(4, 100)}
RATES = {BUILDING: (0.1, 0.01, 0.001), LQR: (0.1,)}
ITERATIONS = {BUILDING: 2000, LQR: 500}

METHODS = {
    (BUILDING, "bchg"): tb.BoltzmannCovariance(tb.Interaction(EPISODES[BUILDING])),
    (BUILDING, "bchg clipped"): linear_quadratic.Clipped(through_follower=True),
    (BUILDING, "naive"): tb.NaivePolicyGradient(tb.Interaction(EPISODES[BUILDING])),
    (BUILDING, "naive clipped"): linear_quadratic.Clipped(through_follower=False),
    (BUILDING, "hpgd-td"): tb.HyperPolicyGradient(tb.Interaction(EPISODES[BUILDING])),
    (BUILDING, "exact"): tb.ExactGradient(),
    (LQR, "bchg"): tb.BoltzmannCovariance(tb.Interaction(EPISODES[LQR])),
    (LQR, "naive"): tb.NaivePolicyGradient(tb.Interaction(EPISODES[LQR])),
    (LQR, "exact"): tb.ExactGradient(),
}

# What is saved of a curve.
PARTS = ("iteration", "objective", "theta")

# Ascents of bilevel LQR with a network, and what of it they are.
NETWORKS = {
    "bchg as published": "BC-HG, gradients clipped to length 1 (as published)",
    "naive as published": "naive, not clipped (as published)",
}
PUBLISHED = {
    (BUILDING, "bchg"): -196.0,
    (BUILDING, "bchg clipped"): -196.0,
    (BUILDING, "naive"): -211.0,
    (BUILDING, "naive clipped"): -211.0,
    (BUILDING, "hpgd-td"): -237.0,
    (LQR, "bchg as published"): 0.147,
    (LQR, "naive as published"): 0.020,
}


@dataclass(frozen=True)
class Scale:
    """How much is run: how many of the rates, seeds, a share of the iterations, and starts."""

    rates: int
    seeds: int
    iterations: float
    starts: int


SCALES = {
    "tiny": Scale(1, 2, 0.002, 2),
    "small": Scale(1, 2, 1.0, 50),
    "full": Scale(3, 10, 1.0, 200),
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", choices=sorted(SCALES), default="small")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    scale = SCALES[options.scale]
    folder = options.out / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    runs = {run.label: run for run in planned(scale, folder)}
    try:
        curves = dict(
            tb.sweep(
                (
                    *((label, partial(train, run)) for label, run in runs.items()),
                    *with_networks(scale, folder),
                ),
                workers=options.workers,
                progress=True,
            )
        )
        best = {name: report(name, problem, scale) for name, problem in PROBLEMS.items()}
    except KeyboardInterrupt:
        print("interrupted: start again with the same options to go on", file=sys.stderr)
        return 130
    table = "\n".join(rows(scale, curves, best)) + "\n"
    (options.out / "table.md").write_text(table, encoding="utf-8")
    print(table)
    return 0


def planned(scale: Scale, folder: Path) -> Iterator[Run]:
    """Plan one run a seed, rate and method of each task."""
    for seed, (name, method) in product(range(scale.seeds), METHODS):
        problem = PROBLEMS[name]
        theta = first_theta(seed, problem.n_parameters)
        if name == LQR:
            theta = np.random.default_rng([seed, 1]).normal(size=2)
        iterations = max(1, round(scale.iterations * ITERATIONS[name]))
        for rate in RATES[name][: scale.rates]:
            label = label_of(name, method, rate, seed)
            yield Run(
                label=label,
                problem=problem,
                theta=theta,
                method=METHODS[name, method],
                optimiser=tb.Adam(rate)
                if name == LQR
                else tb.GradientAscent(rate, longest(method)),
                seed=seed,
                n_iterations=iterations,
                every=max(1, iterations // 100),
                path=folder / f"{label}.npz",
            )


def with_networks(scale: Scale, folder: Path) -> Iterator[tuple[str, Callable[[], Curve]]]:
    """Plan the ascents that a network judges."""
    iterations = max(1, round(scale.iterations * ITERATIONS[LQR]))
    for (method, name), seed in product(NETWORKS.items(), range(scale.seeds)):
        label = label_of(LQR, method, RATES[LQR][0], seed)
        settings = linear_quadratic.RUNS[name]
        yield label, partial(kept, folder / f"{label}.npz", settings, seed, iterations)


def kept(path: Path, settings: Any, seed: int, n_iterations: int) -> Curve:
    """Climb, or read the curve of before."""
    if not path.exists():
        made = linear_quadratic.climb(settings, seed, n_iterations)
        np.savez(path, **{name: getattr(made, name) for name in PARTS})
    with np.load(path) as found:
        return Curve(*(found[name] for name in PARTS))


def longest(method: str) -> float:
    """Say to what length steps are clipped; two groups of length 1 each are left as they are."""
    return np.sqrt(2.0) if "clipped" in method else 1.0


def label_of(name: str, method: str, rate: float, seed: int) -> str:
    return f"{name}-{method}-{rate}-seed-{seed}".replace(" ", "-")


def rows(scale: Scale, curves: dict[str, Curve], best: dict[str, Any]) -> Iterator[str]:
    """Write the table: of each method, the end at its best rate."""
    yield "| task | method | published | ours | standard error | rate | best known |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: |"
    for name, method in (*METHODS, *((LQR, method) for method in NETWORKS)):
        ends = {
            rate: np.array(
                [curves[label_of(name, method, rate, k)].final() for k in range(scale.seeds)]
            )
            for rate in RATES[name][: scale.rates]
        }
        rate = max(ends, key=lambda rate: float(ends[rate].mean()))
        error = ends[rate].std(ddof=1) / np.sqrt(scale.seeds)
        said, known = PUBLISHED.get((name, method)), best[name].objective
        if method in NETWORKS:
            known = tb.objective(linear_quadratic.COUNTED, best[name].theta)
        yield (
            f"| {name} | {method} | {'-' if said is None else f'{said:g}'} | "
            f"{ends[rate].mean():.4g} | {error:.2g} | {rate:g} | {known:.6g} |"
        )


def report(name: str, problem: AnyProblem, scale: Scale) -> Any:
    """Polish many starts; print where they end, each height once with how many end there."""
    found = [tb.polish(problem, start) for start in starts(name, scale.starts)]
    best = max(found, key=lambda optimum: optimum.objective)
    print(f"{name}: {best.objective:.8f} at theta = {np.round(best.theta, 5).tolist()}")
    ends = Counter(round(optimum.objective, 2) for optimum in found)
    for height, count in sorted(ends.items(), reverse=True):
        print(f"  {count:4d} of {len(found)} end at {height}")
    return best


def starts(name: str, count: int) -> Iterable[np.ndarray]:
    """Draw starts over a wide range."""
    rng = np.random.default_rng(0)
    if name == BUILDING:
        return 3.0 * rng.normal(size=(count, 8))
    return (10.0 ** rng.uniform(-1.0, 1.5, size=(count, 1))) * rng.normal(size=(count, 2))


if __name__ == "__main__":
    raise SystemExit(main())
