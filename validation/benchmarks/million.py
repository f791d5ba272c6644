"""A million cells: a square without walls, 1000 x 1000, solved and differentiated.

Run ``python validation/benchmarks/million.py`` with the package installed (minutes, and up to 4
GB; ``--side`` takes less). Prints the seconds of each step, without bounds, and the most memory
that the process held. No numbers are asserted: times are the machine's.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import numpy as np

import tabular_bilevel as tb

try:
    from benchmarks import runner
    from benchmarks.solvers import open_grid
except ImportError:  # run as a script
    import runner
    from solvers import open_grid


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=1000)
    options = parser.parse_args(arguments)
    runner.alone()
    start = time.perf_counter()

    def passed(what: str) -> None:
        nonlocal start
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{what:<32}{time.perf_counter() - start:8.1f} s{most:8.2f} GiB", flush=True)
        start = time.perf_counter()

    problem = open_grid(options.side)
    theta = np.zeros(problem.n_parameters)
    model = problem.model(theta)
    passed(f"{model.n_states:,} states made")
    response = tb.solve_follower(model)
    passed(response.method)
    result = tb.hypergradient(problem, theta, accuracy=tb.Estimated())
    passed(f"J and {result.gradient.size:,} derivatives")
    print(f"J is {result.objective:.10g}; the value is within {response.error_bound:.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
