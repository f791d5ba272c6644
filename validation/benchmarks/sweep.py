"""Speed of a sweep: two workers, beside one.

Run ``python validation/benchmarks/sweep.py`` with the package installed, on a machine with two
cores that have nothing else to do (some minutes). The tasks are ascents of BC-HG on four rooms. In
turn with them two plain processes count, and one: the ratio of these is what two workers could gain
at best here and now. Each time is the median of several; starting the workers is part of it in
the first line, and not in the second. No numbers are asserted: times are the machine's.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context

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


def ratio(work: Callable[[int], None], repeats: int) -> tuple[float, float]:
    """Take medians of the seconds of one and of two, in turn."""
    times: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(repeats):
        for workers, spent in times.items():
            start = time.perf_counter()
            work(workers)
            spent.append(time.perf_counter() - start)
    return statistics.median(times[1]), statistics.median(times[2])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7, help="of each measurement (7)")
    parser.add_argument("--tasks", type=int, default=8, help="ascents (8)")
    parser.add_argument("--iterations", type=int, default=3000, help="of each ascent (3,000)")
    options = parser.parse_args(arguments)
    problem = tb.problems.four_rooms()
    method = tb.BoltzmannCovariance(tb.Interaction(tb.StepBudget(100, 200)))
    runs = [
        Run(f"seed {k}", problem, np.zeros(problem.n_parameters), method, tb.Adam(0.1), k,
            options.iterations, options.iterations)
        for k in range(options.tasks)
    ]  # fmt: skip
    train(runs[0])  # compiles
    lines: dict[str, Callable[[int], None]] = {
        "a sweep, workers started": partial(swept, runs=runs, fresh=True),
        "a sweep, workers there": partial(swept, runs=runs, fresh=False),
        "plain processes": partial(counted, n=20_000 * options.iterations),
    }
    print(f"{'':<26}{'one, s':>9}{'two, s':>9}{'ratio':>7}")
    for name, work in lines.items():
        one, two = ratio(work, options.repeats)
        print(f"{name:<26}{one:>9.2f}{two:>9.2f}{one / two:>7.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
