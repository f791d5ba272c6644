"""Cost and size of error bounds, beside results without them.

Run ``python validation/benchmarks/bounds.py`` with the package installed; ``--map FILE`` adds a
MovingAI map. Plain and bounded results alternate in one process; times are medians, and the
machine's. The radii are relative: to J, and to the gradient's largest entry.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import numpy as np

import tabular_bilevel as tb

try:
    from benchmarks import runner
except ImportError:  # run as a script
    import runner


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--map", type=Path, help="a MovingAI map for a large problem")
    options = parser.parse_args(arguments)
    cases = [("four rooms", tb.problems.four_rooms(), 21)]
    if options.map is not None:
        cases.append((options.map.stem, tb.problems.grid_world(options.map, temperature=0.05), 5))
    print(
        f"{'problem':<32}{'states':>7}{'plain':>12}{'bounded':>12}{'ratio':>7}{'J':>10}"
        f"{'radius':>9}{'of grad':>9}"
    )
    for name, problem, repeats in cases:
        theta = np.zeros(problem.n_parameters)
        result = tb.hypergradient(problem, theta)
        runs = {
            level: runner.timed(partial(tb.hypergradient, problem, theta, accuracy=level))
            for level in (tb.Estimated(), tb.Bounded())
        }
        plain, bounded = runner.medians(runs, repeats, enough=runner.COLD).values()
        radius = result.accuracy.objective / abs(result.objective)
        slope = result.accuracy.gradient.max() / np.abs(result.gradient).max()
        print(
            f"{name:<32}{result.model.n_states:>7}{plain * 1e3:>9.2f} ms{bounded * 1e3:>9.2f} ms"
            f"{bounded / plain:>7.2f}{result.objective:>10.2g}{radius:>9.1e}{slope:>9.1e}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
