"""Reproduce the published curves of four rooms and discrete toy 4.

Run ``python validation/paper/reproduce.py --scale small --out DIR`` with the package installed
(minutes), or ``--scale full`` (hours: all temperatures, steps, methods, rates, critic's steps and
ten seeds). Started again after an interrupt, it goes on where it stopped. It writes a curve a run
into DIR/runs, and DIR/table.md and DIR/table.csv: the published final objective, ours (the last
twentieth of the iterations, each with its standard error over seeds) at the best rate and critic's
step, and the best objective known.

``--experiment`` says what: the published curves; variants that are in the published repository
and not in its comparison; or the ablation with followers that stop thinking early. Optima are
searched for with the curves.

``--slip`` says who is right about the follower's slipping on four rooms: as published, planner and
simulator differ; or both have the planner's, or the simulator's. ``--forecast K`` makes every K-th
of the runs that are left, and says how long the others would take; the search for optima, some
minutes, comes on top. ``--keep`` makes no run: it writes the table of those that are there, says
how many are not, and keeps the numbers in ``numbers.json`` beside this file, for the book.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import itertools
import json
import os
import sys
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
from protocol import CURVE_ITERATIONS, PUBLISHED, PUBLISHED_CURVES, SCALES, Cell, Scale

import tabular_bilevel as tb
from tabular_bilevel.ascent.ascent import AscentState
from tabular_bilevel.ascent.training import Curve, Run, train
from tabular_bilevel.optimum import Optimum, Perturbed, anneal, best_of

# Schedules of temperatures above the one that is meant, as multiples of it.
COOLING = ((10.0, 3.0), (3.0,), (20.0, 5.0, 2.0))

# Curves of each method whose ends are polished.
POLISHED = 5

# Standard deviations of the noise in exact ascent, per coordinate.
NOISE = (0.03, 0.3)

# The numbers that the book shows; what it calls the methods.
KEPT = Path(__file__).with_name("numbers.json")
NAMES = {
    "bchg": "BC-HG", "bchg-game": "BC-HG", "hpgd-oracle": "HPGD (oracle)", "hpgd-mc": "HPGD (MC)",
    "hpgd-sarsa": "HPGD (SARSA)", "sobirl": "SoBiRL", "naive": "naive", "bi-ac": "Bi-AC",
    "naive, replayed": "naive, replayed", "bi-ac, replayed": "Bi-AC, replayed",
    "sobirl-modified": "SoBiRL, modified", "hpgd-uniform": "HPGD (uniform)",
}  # fmt: skip


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
    parser.add_argument("--keep", action="store_true", help="keep the numbers of what is there")
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
        results = there(plan) if options.keep else make(plan, options.workers)
        if not results:
            return 1
        searched = options.experiment == "curves" and not options.keep
        known = optima(results, scale, options) if searched else {}
        ends = best_ends(results)
        rows = tabulate(ends, known)
    except KeyboardInterrupt:
        print("interrupted: start again with the same options to go on", file=sys.stderr)
        return 130
    write(rows, results, ends, options.out, options.experiment)
    if options.keep:
        keep(ends, options)
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


def there(plan: dict[Cell, list[Run]]) -> dict[Cell, list[Curve]]:
    """Read the runs that are made, of cells that have two of them; say how many are not."""
    found = {cell: [train(run) for run in runs if is_made(run)] for cell, runs in plan.items()}
    n_made, n_runs = (sum(map(len, each.values())) for each in (found, plan))
    print(f"{n_runs - n_made} of {n_runs} runs are not there")
    return {cell: curves for cell, curves in found.items() if len(curves) > 1}


def is_made(run: Run) -> bool:
    """Whether a run's file has all of its iterations."""
    if run.path is None or not run.path.exists():
        return False
    return AscentState.load(run.path)[0].iteration == run.n_iterations


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


def best_ends(results: dict[Cell, list[Curve]]) -> dict[Cell, tuple[float, float]]:
    """Find the best rate and critic's step of each method and setting: mean end and its error."""
    best: dict[tuple[object, ...], tuple[Cell, tuple[float, float]]] = {}
    for cell, curves in results.items():
        ends = np.array([curve.final() for curve in curves])
        end = float(ends.mean()), float(ends.std(ddof=1) / np.sqrt(ends.size))
        if cell.kind not in best or end > best[cell.kind][1]:
            best[cell.kind] = (cell, end)
    return dict(best.values())


def tabulate(
    ends: dict[Cell, tuple[float, float]], known: dict[tuple[str, float, str], float]
) -> list[dict[str, object]]:
    """Make the rows of the table."""
    rows = []
    for cell, (mean, error) in ends.items():
        published = PUBLISHED.get(cell.figure) if cell.stop is None else None
        row: dict[str, object] = {
            "problem": cell.problem,
            "temperature or reward": cell.knob,
            "steps": cell.steps,
            "method": cell.method,
            "rate": cell.rate,
            "critic step": cell.critic_step,
            "published": f"{published[0]:.3f}" if published else "",
            "its error": f"{published[1]:.3f}" if published else "",
            "ours": f"{mean:.3f}",
            "our error": f"{error:.3f}",
        }
        if cell.stop is not None:
            row |= {"follower": cell.tail.removeprefix("-").replace("-", ", stops after ")}
        elif known:
            optimum = known[cell.problem, cell.knob, cell.slip]
            row |= {"best known": f"{optimum:.3f}", "short of it": f"{optimum - mean:.3f}"}
        rows.append(row)
    return rows


def keep(ends: dict[Cell, tuple[float, float]], options: argparse.Namespace) -> None:
    """Keep the numbers of an experiment for the book: "table | row | column", and the error."""
    kept = {}
    for cell, end in ends.items():
        table, toy = f"{options.experiment}, {cell.problem}", cell.problem == "discrete toy"
        if cell.stop is not None:
            columns = {f"{'carried' if cell.carried else 'new'}, {cell.stop}": end}
            if cell.figure in PUBLISHED:  # of a follower that answers as well as it can
                columns = {"best answer, published": PUBLISHED[cell.figure], **columns}
        else:
            table += "" if toy else f", temperature {cell.knob:g}"
            data = f"R = {cell.knob:g}" if toy else f"{cell.steps} steps"
            published = {"published": PUBLISHED[cell.figure]} if cell.figure in PUBLISHED else {}
            columns = {f"{data}, {who}": pair for who, pair in {**published, "ours": end}.items()}
        for column, pair in columns.items():
            kept[f"{table} | {NAMES[cell.method]} | {column}"] = pair
    numbers = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    others = {
        key: number
        for key, number in numbers.get(options.scale, {}).items()
        if not key.startswith(f"{options.experiment}, ")
    }
    text = json.dumps({**numbers, options.scale: {**others, **kept}}, indent=1)
    KEPT.write_text(text + "\n", encoding="utf-8")


def write(
    rows: list[dict[str, object]],
    results: dict[Cell, list[Curve]],
    ends: Iterable[Cell],
    out: Path,
    experiment: str,
) -> None:
    """Write the table, and the published curves beside those of ours that end best."""
    name = "table" if experiment == "curves" else experiment
    with (out / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    lines = [line(rows[0]), line(["---"] * len(rows[0])), *(line(row.values()) for row in rows)]
    for cell in ends if experiment == "curves" else ():
        if cell.figure not in PUBLISHED_CURVES:
            continue
        mean = np.mean([curve.objective for curve in results[cell]], axis=0)
        at = np.interp(CURVE_ITERATIONS, results[cell][0].iteration, mean)
        lines += [
            "",
            f"{cell.method}, four rooms, temperature {cell.knob}, {cell.steps} steps, "
            f"rate {cell.rate}:",
            "",
            line(["iteration", *CURVE_ITERATIONS]),
            line(["---"] * 6),
            line(["published", *(f"{value:.3f}" for value in PUBLISHED_CURVES[cell.figure])]),
            line(["ours", *(f"{value:.3f}" for value in at)]),
        ]
    text = "\n".join(lines) + "\n"
    (out / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)


def line(cells: Iterable[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    sys.exit(main())
