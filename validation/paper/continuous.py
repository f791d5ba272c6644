"""Look for the best theta of the two continuous tasks: many starts, each polished.

Run ``python validation/paper/continuous.py`` with the package installed: a minute. It prints where
the starts end, each height once with how many end there, and the best theta. The best are among the
known answers (tabular_bilevel/problems/known.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

import tabular_bilevel as tb
from tabular_bilevel.problem import AnyProblem


def main() -> None:
    rng = np.random.default_rng(0)
    building, game = tb.problems.building_thermal_control(), tb.problems.bilevel_lqr()
    designs = 3.0 * rng.normal(size=(50, 8))
    report("building", building, designs)
    sizes = 10.0 ** rng.uniform(-1.0, 1.5, size=200)
    report("bilevel LQR", game, sizes[:, None] * rng.normal(size=(200, 2)))


def report(name: str, problem: AnyProblem, starts: Iterable[np.ndarray]) -> None:
    found = [tb.polish(problem, start) for start in starts]
    best = max(found, key=lambda optimum: optimum.objective)
    print(f"{name}: {best.objective:.8f} at theta = {np.round(best.theta, 5).tolist()}")
    ends = Counter(round(optimum.objective, 2) for optimum in found)
    for height, count in sorted(ends.items(), reverse=True):
        print(f"  {count:4d} of {len(found)} end at {height}")


if __name__ == "__main__":
    main()
