"""Compare error bounds with the truth where float64 fails: do they hold, are they of use.

Run ``python validation/bounds_fuzz.py --count 10000`` (about a minute and a half on one core) with
the package and python-flint installed. Problems of the zoo's wild family are solved in float64,
with the bounds of the default result and those of a plain one afterwards, and compared with ball
arithmetic at 400 bits (`references/ball_reference.py`), number by number. So are the gradients of
the same problems as strangers write them (`references/strangers.py`), given the derivatives that
these return. It ends with 1 if a bound is broken, or if the gradient's is within 1e-6 of the
gradient too rarely. A gradient of exactly 0 has no relative error and is counted apart.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
from references.ball_reference import Reference, broken, derivatives, off
from references.strangers import (
    Plain,
    Pushing,
    Single,
    returned_by_pullback,
    returned_by_pushforward,
)

import tabular_bilevel as tb
from tabular_bilevel.certify import bounds
from tabular_bilevel.problems import zoo

STRANGERS = {
    Plain: returned_by_pullback,
    Single: returned_by_pullback,
    Pushing: returned_by_pushforward,
}

# What the issue of certified numbers asks for.
WANTED, RADIUS = 0.88, 1e-6


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first problem")
    parser.add_argument(
        "--solver", action="store_true", help="go by a solver, where a band would do, too"
    )
    options = parser.parse_args(arguments)
    if options.solver:
        bounds.is_banded = lambda model: False
    began = time.perf_counter()
    wrong = unsolved = undiscounted = heated = promised = 0
    radii, errors, zeros = [], [], []
    for seed in range(options.first, options.first + options.count):
        problem, theta = zoo.draw("wild", seed).at
        try:
            result = tb.hypergradient(problem, theta)
            plain = tb.hypergradient(problem, theta, accuracy=tb.Estimated())
        except tb.ConvergenceError:
            unsolved += 1
            continue
        undiscounted += result.model.leader_discount == 1.0
        heated += problem.temperature.nnz > 0
        reference = Reference(result.model, result.response.value)
        gradient = reference.gradient(*derivatives(problem, result.model))
        found = result.accuracy.bounds
        violations = broken(result, found, reference, gradient)
        violations += broken(plain, bounds.error_bounds(problem, theta, plain), reference, gradient)
        for kind, returned in STRANGERS.items():
            stranger = kind(problem)
            given = tb.hypergradient(stranger, theta)
            promised += given.accuracy.proven
            truth = reference.gradient(*returned(stranger, theta, given.model))
            triples = zip(given.gradient, truth, given.accuracy.gradient, strict=True)
            for stored, ball, bound in triples:
                if not off(stored, ball) <= bound:
                    violations.append((f"gradient of {kind.__name__}", off(stored, ball), bound))
        if violations:
            wrong += 1
            print(f"seed {seed}: {result.model}")
            for what, error, bound in violations[:5]:
                print(f"    {what} is off by {error:.3g}, its bound is {bound:.3g}")
        truth = np.array([float(ball.mid()) for ball in gradient])
        size = float(np.abs(truth).max())
        radius = float(found.gradient.max())
        if size == 0.0:
            zeros.append(radius)
        else:
            radii.append(radius / size)
            errors.append(float(np.abs(result.gradient - truth).max()) / size)
    share = float(np.mean(np.array(radii) <= RADIUS))
    print(f"{options.count} problems in {time.perf_counter() - began:.0f} s, {unsolved} unsolved")
    print(f"the leader's discount is 1 in {undiscounted}, the temperature moves in {heated}")
    print(f"{promised} of {3 * options.count} gradients of strangers' problems have a bound")
    print(f"broken bounds: {wrong} problems")
    print(
        f"gradients other than 0: {len(radii)}, bound within {RADIUS:g} in {share:.1%}; quantiles "
        + ", ".join(f"{q:g}: {np.quantile(radii, q):.1e}" for q in (0.5, 0.9, 0.95, 0.99))
    )
    print(f"their true errors: within {RADIUS:g} in {np.mean(np.array(errors) <= RADIUS):.1%}")
    print(
        f"gradients of exactly 0: {len(zeros)}, bound 0 in {sum(z == 0.0 for z in zeros)}, at most "
        f"{max(zeros, default=0.0):.1e}"
    )
    return int(wrong > 0 or share < WANTED)


if __name__ == "__main__":
    sys.exit(main())
