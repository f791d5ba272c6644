"""A million cells: a square without walls, 1000 x 1000, solved and differentiated.

Run ``python validation/benchmarks/million.py`` with the package installed (minutes, and up to 4
GB; ``--side`` takes less). Each line is a step: its seconds, without bounds, and the most memory
that the process has held so far. The last step solves for the follower anew.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator

import numpy as np

import tabular_bilevel as tb

try:
    from benchmarks import runner
    from benchmarks.solvers import open_grid
except ImportError:  # run as a script
    import runner
    from solvers import open_grid


def main(arguments: list[str] | None = None) -> int:
    parser = runner.parser(__doc__, runs=None)
    parser.add_argument("--side", type=int, default=1000)
    options = parser.parse_args(arguments)
    runner.alone()

    def rows() -> Iterator[dict[str, object]]:
        start = time.perf_counter()

        def passed(what: str, **more: object) -> dict[str, object]:
            nonlocal start
            seconds = time.perf_counter() - start
            most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            row = {"what": what, "s": seconds, "GiB": most, "J": "", "sup error": ""} | more
            start = time.perf_counter()
            return row

        problem = open_grid(options.side)
        theta = np.zeros(problem.n_parameters)
        model = problem.model(theta)
        yield passed(f"{model.n_states:,} states made")
        response = tb.solve_follower(model)
        yield passed(response.method, **{"sup error": response.error_bound})
        result = tb.hypergradient(problem, theta, accuracy=tb.Estimated())
        yield passed(f"J and {result.gradient.size:,} derivatives", J=result.objective)

    runner.table(options, rows(), clock="the clock")
    return 0


if __name__ == "__main__":
    sys.exit(main())
