"""Reproduce the published curves of four rooms and discrete toy 4.

Run ``python validation/paper/reproduce.py --scale small --out DIR`` with the package installed
(minutes), or ``--scale full`` (hours: all temperatures, steps, methods, rates, critic's steps and
ten seeds). Started again after an interrupt, it goes on where it stopped. It writes a curve a run
into DIR/runs, and DIR/table.md and DIR/table.csv: the published final objective, ours (the last
twentieth of the iterations, mean and standard error over seeds) at the best rate and critic's step,
and the best objective known.

``--experiment`` says what: the published curves; variants that are in the published repository
and not in its comparison; or the ablation with followers that stop thinking early. Optima are
searched for with the curves.

``--slip`` says who is right about the follower's slipping on four rooms: as published, planner and
simulator differ; or both have the planner's, or the simulator's. ``--forecast K`` makes every K-th
of the runs that are left, and says how long the others would take; the search for optima, some
minutes, comes on top.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import itertools
import os
import sys
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
from protocol import CURVE_ITERATIONS, PUBLISHED, PUBLISHED_CURVES, SCALES, Cell, Scale

import tabular_bilevel as tb
from tabular_bilevel.ascent.training import Curve, Run, train
from tabular_bilevel.optimum import Optimum, Perturbed, anneal, best_of

# Schedules of temperatures above the one that is meant, as multiples of it.
COOLING = ((10.0, 3.0), (3.0,), (20.0, 5.0, 2.0))

# Curves of each method whose ends are polished.
POLISHED = 5

# Standard deviations of the noise in exact ascent, per coordinate.
NOISE = (0.03, 0.3)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", choices=sorted(SCALES), default="small")
    parser.add_argument(
        "--slip", choices=("published", "planner", "simulator"), default="published"
    )
    parser.add_argument(
        "--experiment", choices=("curves", "variants", "ablation"), default="curves"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--forecast",
        type=int,
        metavar="K",
        help="only make every K-th run, and say how long the others would take",
    )
    options = parser.parse_args(arguments)
    scale = SCALES[options.scale]
    folder = options.out / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    plan = {
        cell: list(cell.runs(seeds_of(cell, scale), folder))
        for cell in scale.cells(options.slip, options.experiment)
    }
    try:
        if options.forecast is not None:
            forecast(plan, options.workers, max(1, options.forecast))
            return 0
        results = make(plan, options.workers)
        if not results:
            return 1
        known = optima(results, scale, options) if options.experiment == "curves" else {}
        rows = tabulate(results, known)
    except KeyboardInterrupt:
        print("interrupted: start again with the same options to go on", file=sys.stderr)
        return 130
    write(rows, results, options.out, options.experiment)
    return 0 if len(results) == len(plan) else 1


def seeds_of(cell: Cell, scale: Scale) -> int:
    """At least ten seeds where they are cheap."""
    seeds = scale.ablation_seeds if cell.stop else scale.seeds
    return max(seeds, 10) if cell.problem == "discrete toy" and seeds > 2 else seeds


def make(plan: dict[Cell, list[Run]], workers: int) -> dict[Cell, list[Curve]]:
    """Make all runs that are not there yet; a cell of which one failed is left out."""
    found = made([run for runs in plan.values() for run in runs], workers)
    return {
        cell: [found[run.label] for run in runs]
        for cell, runs in plan.items()
        if all(run.label in found for run in runs)
    }


def made(runs: list[Run], workers: int) -> dict[str, Curve]:
    """Make runs; by label, those that did not fail."""
    found: dict[str, Curve] = {}
    tasks = ((run.label, partial(train, run)) for run in runs)
    try:
        for label, curve in tb.sweep(tasks, workers=workers, progress=True):
            found[label] = curve
    except (ValueError, tb.ConvergenceError) as error:
        words = ", ".join([str(error), *error.__notes__])
        print(f"{len(runs) - len(found)} runs failed, the first: {words}", file=sys.stderr)
    return found


def forecast(plan: dict[Cell, list[Run]], workers: int, every: int) -> None:
    """Make every so-many-th of the runs that are left, and say how long the others would take."""
    left = [run for runs in plan.values() for run in runs if run.path and not run.path.exists()]
    sample = left[every // 2 :: every]
    start = time.monotonic()
    found = made(sample, workers)
    spent = time.monotonic() - start
    if found:
        others = len(left) - len(found)
        hours = spent * others / len(found) / 3600.0
        print(f"{len(found)} runs took {spent:.0f} s with {workers} workers, start-up included: "
              f"the other {others} would take {hours:.2f} hours")  # fmt: skip


def optima(
    results: dict[Cell, list[Curve]], scale: Scale, options: argparse.Namespace
) -> dict[tuple[str, float, str], float]:
    """Find the best objective known of each problem, by every way there is.

    What a way found is kept, and not searched for again.
    """
    known: dict[tuple[str, float, str], float] = {}
    tasks, asked = [], {}
    for key, cells in grouped(results).items():
        problem, horizon = cells[0].build()[0], cells[0].horizon
        ends = [curve.theta for curve in best_curves(results, cells)]
        ways = {
            "polished ends": partial(best_of, problem, ends, horizon=horizon),
            "noise in exact ascent": partial(noisy, problem, horizon, scale.noisy_steps),
            "many starts, annealed": partial(annealed, cells[0], problem, scale.starts),
        }
        for way, search in ways.items():
            name = " ".join(map(str, (*key, way)))
            tasks.append((name, search))
            asked[name] = key, problem, horizon
    folder = options.out / "optima" / options.scale
    for name, found in tb.sweep(tasks, folder=folder, workers=options.workers, progress=True):
        print(f"{name}: {found}")
        key, problem, horizon = asked[name]
        objective = tb.objective(problem, found.theta, horizon=horizon)
        known[key] = max(known.get(key, -np.inf), objective)
    return known


def grouped(cells: Iterable[Cell]) -> dict[tuple[str, float, str], list[Cell]]:
    """Gather the cells that have one problem, and so one optimum."""
    groups: dict[tuple[str, float, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.problem, cell.knob, cell.slip), []).append(cell)
    return groups


def best_curves(results: dict[Cell, list[Curve]], cells: list[Cell]) -> list[Curve]:
    """Pick curves whose ends are worth polishing: the highest of each method's best cell."""
    best: dict[str, Cell] = {}
    for cell in sorted(cells, key=lambda cell: mean_final(results[cell])):
        best[cell.method] = cell
    return [
        curve
        for cell in best.values()
        for curve in sorted(results[cell], key=lambda curve: -curve.objective[-1])[:POLISHED]
    ]


def mean_final(curves: list[Curve]) -> float:
    """Average the final objective over seeds."""
    return float(np.mean([curve.final() for curve in curves]))


def noisy(problem: tb.BilevelProblem, horizon: int | None, n_iterations: int) -> Optimum:
    """Climb the exact gradient with noise, and polish the end."""
    ends = []
    for spread in NOISE:
        method, optimiser = Perturbed(tb.ExactGradient(), spread), tb.GradientAscent(0.1, 1.0)
        theta = np.zeros(problem.n_parameters)
        for step in tb.ascend(problem, theta, method, optimiser, rng=0, n_iterations=n_iterations):
            theta = step.next_theta
        ends.append(theta)
    return best_of(problem, ends, horizon=horizon)


def annealed(cell: Cell, problem: tb.BilevelProblem, spreads: tuple[float, ...]) -> Optimum:
    """Start in many places, on four rooms with a warm follower that is cooled."""
    rng = np.random.default_rng(0)
    starts = [spread * rng.normal(size=problem.n_parameters) for spread in spreads]
    if cell.problem != "four rooms":
        return best_of(problem, starts, horizon=cell.horizon)
    found = []
    for start, factors in itertools.product(starts, COOLING):
        warmer = [dataclasses.replace(cell, knob=cell.knob * f).build()[0] for f in factors]
        found.append(anneal([*warmer, problem], start))
    return max(found, key=lambda optimum: optimum.objective)


def tabulate(
    results: dict[Cell, list[Curve]], known: dict[tuple[str, float, str], float]
) -> list[dict[str, object]]:
    """Keep of each method and setting the best rate and critic's step."""
    best: dict[tuple[object, ...], tuple[float, dict[str, object]]] = {}
    for cell, curves in results.items():
        ends = np.array([curve.final() for curve in curves])
        mean, error = ends.mean(), ends.std(ddof=1) / np.sqrt(ends.size)
        published = (
            PUBLISHED.get((cell.problem, cell.knob, cell.steps, cell.method))
            if cell.stop is None
            else None
        )
        row = {
            "problem": cell.problem,
            "temperature or reward": cell.knob,
            "steps": cell.steps,
            "method": cell.method,
            "rate": cell.rate,
            "critic step": cell.critic_step,
            "published": "" if published is None else f"{published:.3f}",
            "ours": f"{mean:.3f}",
            "standard error": f"{error:.3f}",
        }
        if cell.stop is not None:
            row |= {"follower": cell.tail.removeprefix("-").replace("-", ", stops after ")}
        elif known:
            optimum = known[cell.problem, cell.knob, cell.slip]
            row |= {"best known": f"{optimum:.3f}", "short of it": f"{optimum - mean:.3f}"}
        if cell.kind not in best or mean > best[cell.kind][0]:
            best[cell.kind] = (mean, row)
    return [row for _, row in best.values()]


def write(
    rows: list[dict[str, object]],
    results: dict[Cell, list[Curve]],
    out: Path,
    experiment: str = "curves",
) -> None:
    """Write the table, and the published curve beside ours."""
    name = "table" if experiment == "curves" else experiment
    with (out / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    lines = [line(rows[0]), line(["---"] * len(rows[0])), *(line(row.values()) for row in rows)]
    for method, published in PUBLISHED_CURVES.items():
        cells = [
            cell for cell in results if cell.kind == ("four rooms", 0.001, 100, method, None, True)
        ]
        if not cells:
            continue
        cell = max(cells, key=lambda cell: mean_final(results[cell]))
        mean = np.mean([curve.objective for curve in results[cell]], axis=0)
        at = np.interp(CURVE_ITERATIONS, results[cell][0].iteration, mean)
        lines += [
            "",
            f"{method}, four rooms, temperature 0.001, 100 steps, rate {cell.rate}:",
            "",
            line(["iteration", *CURVE_ITERATIONS]),
            line(["---"] * 6),
            line(["published", *published]),
            line(["ours", *(f"{value:.3f}" for value in at)]),
        ]
    text = "\n".join(lines) + "\n"
    (out / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)


def line(cells: Iterable[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    sys.exit(main())
