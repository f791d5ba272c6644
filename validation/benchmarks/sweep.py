"""Speed of a sweep: two workers, beside one.

Run ``python validation/benchmarks/sweep.py`` with the package installed, on a machine with two
cores that have nothing else to do (some minutes). The tasks are ascents of BC-HG on four rooms, as
long as the published ones. In turn with them a plain loop counts, in one process and shared by two
new ones: the ratio of these is what two workers could gain at best here and now. Each time is the
median of several. Starting two workers, which import the package and load compiled code for a
second or two, is part of the first line, and not of the second. No numbers are asserted: times are
the machine's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from joblib.externals.loky import get_reusable_executor

import tabular_bilevel as tb
from tabular_bilevel.ascent.training import Run, train


def count(n: int) -> None:
    """Do plain work."""
    while n:
        n -= 1


def counted(processes: int, n: int) -> None:
    """Share plain work between new processes."""
    context = get_context("spawn")
    started = [context.Process(target=count, args=(n // processes,)) for _ in range(processes)]
    for process in started:
        process.start()
    for process in started:
        process.join()


def swept(workers: int, runs: list[Run], fresh: bool) -> None:
    """Make the ascents."""
    if fresh:
        get_reusable_executor().shutdown()
    for _ in tb.sweep([(run.label, partial(train, run)) for run in runs], workers=workers):
        pass


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="of each measurement (5)")
    parser.add_argument("--tasks", type=int, default=10, help="ascents (10)")
    parser.add_argument("--iterations", type=int, default=10_000, help="of each (10,000)")
    parser.add_argument("--json", type=Path, help="write the table to this file, too")
    options = parser.parse_args(arguments)
    problem = tb.problems.four_rooms()
    method = tb.BoltzmannCovariance(tb.Interaction(tb.StepBudget(100, 200)))
    runs = [
        Run(f"seed {k}", problem, np.zeros(problem.n_parameters), method, tb.Adam(0.1), k,
            options.iterations, options.iterations)
        for k in range(options.tasks)
    ]  # fmt: skip
    # compiles
    train(replace(runs[0], n_iterations=2, every=2))
    numbers = 100 * options.tasks * options.iterations
    works: dict[str, Callable[[], None]] = {
        "one worker": partial(swept, 1, runs, fresh=False),
        "two workers, started": partial(swept, 2, runs, fresh=True),
        "two workers, there": partial(swept, 2, runs, fresh=False),
        "one counts": partial(counted, 1, numbers),
        "two count": partial(counted, 2, numbers),
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(options.repeats):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - start)
    median = {name: statistics.median(spent) for name, spent in times.items()}
    one = {name: "one counts" if "count" in name else "one worker" for name in works}
    rows = [
        {"what": name, "s": median[name], "gain": median[one[name]] / median[name]}
        for name in works
    ]
    print("| what | s | gain |\n| --- | --- | --- |")
    for row in rows:
        print(f"| {row['what']} | {row['s']:.2f} | {row['gain']:.2f} |")
    if options.json is not None:
        versions = {name: version(name) for name in ("tabular-bilevel", "numpy", "joblib")}
        table = json.dumps({"versions": versions, "rows": rows}, indent=1)
        options.json.write_text(table + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
