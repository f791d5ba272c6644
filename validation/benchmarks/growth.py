"""How time and memory grow: with states, actions, successors, parameters, discount, temperature.

Run ``python validation/benchmarks/growth.py`` with the package installed. One number at a time
grows from a random graph of 3,000 states with 4 actions, 5 successors and 100 parameters, at
discount 0.99 and temperature 0.1; and the side of a square without walls. Each line is a
hypergradient: milliseconds of the default, and without bounds, both medians, and the largest memory
that the default held beyond the model's own. The last lines are the powers by which each grows,
fitted over all values: 0 means not at all, 1 in proportion. ``--plot FILE`` draws it, with
matplotlib.
"""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import scipy.sparse as sp

import tabular_bilevel as tb

try:
    from benchmarks import runner
    from benchmarks.solvers import garnet, open_grid
except ImportError:  # run as a script
    import runner
    from solvers import garnet, open_grid

STATES, MEASURES = 3_000, ("bounded, ms", "not bounded, ms", "MB")

GROWING: dict[str, tuple[float, ...]] = {
    "states": (1_000, 3_000, 10_000, 30_000),
    "actions": (2, 4, 8, 16, 32),
    "successors": (2, 5, 10, 20, 40),
    "parameters": (1, 10, 100, 1_000, 10_000),
    "1 / (1 - discount)": (10, 100, 1_000, 10_000),
    "1 / temperature": (1, 10, 100, 1_000),
    "cells of a square": (32**2, 64**2, 128**2),
}


def problem_with(what: str, x: float, n_states: int) -> tb.ForwardProblem:
    """Make the problem in which this number is x."""
    if what == "cells of a square":
        return open_grid(round(x**0.5))
    graph = garnet(
        n_states=int(x) if what == "states" else n_states,
        discount=1.0 - 1.0 / x if what.startswith("1 / (1") else 0.99,
        n_actions=int(x) if what == "actions" else 4,
        branching=int(x) if what == "successors" else 5,
    )
    if what == "1 / temperature":
        graph = graph.replace(temperature=1.0 / x)
    n_pairs, n_parameters = graph.follower_reward.size, int(x) if what == "parameters" else 100
    pairs = np.arange(n_pairs)
    owner = (np.ones(n_pairs), (pairs, pairs % n_parameters))  # each pays for its own share
    features = sp.csr_array(owner, shape=(n_pairs, n_parameters))
    return tb.FeatureProblem(graph, follower_reward=features)


def memory(problem: tb.ForwardProblem, theta: np.ndarray) -> float:
    """Find the most memory that is held beyond what is there, in MB."""
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    tb.hypergradient(problem, theta)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (most - before) / 1e6


def powers(found: list[dict[str, object]]) -> Iterator[dict[str, object]]:
    """Fit them."""
    for what in dict.fromkeys(row["growing"] for row in found):
        rows = [row for row in found if row["growing"] == what]
        x = np.log([row["to"] for row in rows])
        fitted = {
            name: float(np.polyfit(x, np.log([r[name] for r in rows]), 1)[0]) for name in MEASURES
        }
        yield {"growing": what, "to": "power"} | fitted


def draw(found: list[dict[str, object]], path: Path) -> None:
    """Draw a panel for each number."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row["growing"] for row in found))
    figure = Figure(figsize=(3.2 * len(names), 3.0), layout="constrained")
    for axes, what in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        rows = [row for row in found if row["growing"] == what]
        for name in MEASURES:
            axes.loglog([r["to"] for r in rows], [r[name] for r in rows], ".-", label=name)
        axes.set_xlabel(what)
    axes.legend()
    figure.savefig(path)


def main(arguments: list[str] | None = None) -> int:
    """Print the table in Markdown; write it as JSON, too, where asked."""
    parser = runner.parser(__doc__)
    parser.add_argument("--growing", nargs="*", default=[*GROWING], choices=[*GROWING])
    parser.add_argument("--states", type=int, default=STATES, help=f"of the graph ({STATES:,})")
    parser.add_argument("--values", type=int, default=9, help="at most so many of each")
    parser.add_argument("--plot", type=Path, help="draw it into this file")
    options = parser.parse_args(arguments)
    runner.alone()
    if options.plot is not None:
        import matplotlib.figure  # noqa: F401  (what is missing is told before the measuring)

    def rows() -> Iterator[dict[str, object]]:
        found: list[dict[str, object]] = []
        for what in options.growing:
            for x in GROWING[what][: options.values]:
                problem = problem_with(what, x, options.states)
                theta = np.zeros(problem.n_parameters)
                runs = {
                    level: runner.timed(partial(tb.hypergradient, problem, theta, accuracy=level))
                    for level in (tb.Bounded(), tb.Estimated())
                }
                bounded, plain = runner.medians(runs, options.runs).values()
                found.append({
                    "growing": what, "to": x, "bounded, ms": 1e3 * bounded,
                    "not bounded, ms": 1e3 * plain, "MB": memory(problem, theta),
                })  # fmt: skip
                yield found[-1]
        yield from powers(found)
        if options.plot is not None:
            draw(found, options.plot)

    runner.table(options, rows())
    return 0


if __name__ == "__main__":
    sys.exit(main())
