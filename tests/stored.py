"""Numbers of a stored problem, for comparison across processes: python stored.py FILE.

Prints them as JSON, floats as hexadecimals. What is stored are tables, not what computes them from
theta: that is rounded otherwise elsewhere, and tables that differ in a bit are another problem.
"""

import json
import multiprocessing
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

import tabular_bilevel as tb
from tabular_bilevel.certify.bounds import error_bounds


@dataclass(frozen=True)
class Stored:
    """Tables at one theta, and their derivatives."""

    tables: tb.Model
    tangents: tuple[tb.Tangent, ...]

    @classmethod
    def of(cls, problem, theta):
        rows = np.eye(len(theta))
        return cls(problem.model(theta), tuple(problem.pushforward(theta, row) for row in rows))

    @property
    def theta(self):
        return np.zeros(len(self.tangents))

    def model(self, theta):
        return self.tables

    def pullback(self, theta, sensitivities):
        return [sensitivities.dot(tangent) for tangent in self.tangents]

    def pushforward(self, theta, direction):
        total = astuple(tb.Tangent.zero(self.tables))
        for k in np.flatnonzero(direction):
            moved = zip(total, astuple(self.tangents[k]), strict=True)
            total = [x + direction[k] * y for x, y in moved]
        return tb.Tangent(*total)


def spelled(numbers):
    return [x.hex() for x in np.ravel(numbers).tolist()]


def numbers(stored):
    """Objective, gradient and follower's value: as computed, their bounds, and enclosed."""
    result = tb.hypergradient(stored, stored.theta)
    bounds = error_bounds(stored, stored.theta, result)
    enclosure = tb.enclose(stored, stored.theta)
    road = {"objective": result.objective, "gradient": result.gradient}
    road["value"] = result.response.value
    return {
        name: {
            "float64": spelled(computed),
            "bound": spelled(getattr(bounds, name)),
            "lower": spelled(getattr(enclosure, name).lower),
            "upper": spelled(getattr(enclosure, name).upper),
        }
        for name, computed in road.items()
    }


def side_by_side(stored):
    """The same numbers from 8 threads at once, and from two processes of either kind."""
    with ThreadPoolExecutor(8) as pool:
        yield from pool.map(numbers, [stored] * 8)
    for kind in ("fork", "spawn"):
        with multiprocessing.get_context(kind).Pool(2) as pool:
            yield from pool.map(numbers, [stored] * 2)


if __name__ == "__main__":
    problems = pickle.loads(Path(sys.argv[1]).read_bytes())
    if "--side-by-side" in sys.argv:
        json.dump({name: [*side_by_side(stored)] for name, stored in problems.items()}, sys.stdout)
    else:
        json.dump({name: numbers(stored) for name, stored in problems.items()}, sys.stdout)
