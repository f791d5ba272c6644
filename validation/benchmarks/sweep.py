"""Speed of a sweep: two workers, beside one.

Run ``python validation/benchmarks/sweep.py`` with the package installed, on a machine with two
cores that have nothing else to do (ten minutes). The tasks are ascents of BC-HG on four rooms, as
long as the published ones. In turn with them a plain loop counts, in one process and shared by two
new ones: what they gain is what two workers could at best, here and now. Workers that are started
import the package and load compiled code for a second or two; those that are there do not. Times
are the clock's: the processors' would not tell that two share the work.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from multiprocessing import get_context

import numpy as np
from joblib.externals.loky import get_reusable_executor

import tabular_bilevel as tb
from tabular_bilevel.ascent.training import Run, train

try:
    from benchmarks import runner
except ImportError:  # run as a script
    import runner


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
    parser = runner.parser(__doc__)
    parser.add_argument("--tasks", type=int, default=10, help="ascents (10)")
    parser.add_argument("--iterations", type=int, default=10_000, help="of each (10,000)")
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
    numbers = 5_000 * options.tasks * options.iterations  # as long as the ascents, or so
    works: dict[str, Callable[[], None]] = {
        "one worker": partial(swept, 1, runs, fresh=False),
        "two workers, started": partial(swept, 2, runs, fresh=True),
        "two workers, there": partial(swept, 2, runs, fresh=False),
        "one counts": partial(counted, 1, numbers),
        "two count": partial(counted, 2, numbers),
    }
    times = {name: runner.timed(work, time.perf_counter) for name, work in works.items()}
    median = runner.medians(times, options.runs)
    one = {name: "one counts" if "count" in name else "one worker" for name in works}
    rows = ({"what": name, "s": s, "gain": median[one[name]] / s} for name, s in median.items())
    runner.table(options, rows, clock="the clock")
    return 0


if __name__ == "__main__":
    sys.exit(main())
