"""Cost and size of error bounds, beside results without them.

Run ``python validation/benchmarks/bounds.py`` with the package installed; ``--map FILE`` adds a
MovingAI map. Plain and bounded results alternate in one process; times are medians. How far J and
the gradient may be off is relative: to J, and to the gradient's largest entry.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

import tabular_bilevel as tb

try:
    from benchmarks import runner
except ImportError:  # run as a script
    import runner


def main(arguments: list[str] | None = None) -> int:
    parser = runner.parser(__doc__)
    parser.add_argument("--map", type=Path, help="a MovingAI map for a large problem")
    options = parser.parse_args(arguments)
    runner.alone()
    problems = {"four rooms": tb.problems.four_rooms()}
    if options.map is not None:
        problems[options.map.stem] = tb.problems.grid_world(options.map, temperature=0.05)

    def rows() -> Iterator[dict[str, object]]:
        for name, problem in problems.items():
            theta = np.zeros(problem.n_parameters)
            result = tb.hypergradient(problem, theta)
            runs = {
                level: runner.timed(partial(tb.hypergradient, problem, theta, accuracy=level))
                for level in (tb.Estimated(), tb.Bounded())
            }
            plain, bounded = runner.medians(runs, options.runs, enough=runner.COLD).values()
            yield {
                "problem": name,
                "states": result.model.n_states,
                "not bounded, ms": 1e3 * plain,
                "bounded, ms": 1e3 * bounded,
                "bounded / not": bounded / plain,
                "J": result.objective,
                "J off": result.accuracy.objective / abs(result.objective),
                "gradient off": float(
                    result.accuracy.gradient.max() / np.abs(result.gradient).max()
                ),
            }

    runner.table(options, rows())
    return 0


if __name__ == "__main__":
    sys.exit(main())
