"""Are test vectors right? By a route that shares no code with what made them.

Run ``python validation/vectors_crosscheck.py [FOLDER]`` with mpmath and numpy installed: the
package is not needed, and of its code only the loader is used. On the shipped folder it takes about
ten minutes on one core; ``--share 0.1`` looks at every tenth vector. It ends with 1 if a number is
off.

Vectors are made by ball arithmetic and the adjoint equations. Here J is computed from the stored
tables at 100 digits, by Newton's method on the soft Bellman equation and elimination; and the
gradient by central differences: J at the tables plus and minus a tiny multiple of their
derivatives in a parameter, or in a random direction where parameters are many.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import sys
import time
from pathlib import Path

import mpmath
from mpmath import mpf

HERE = Path(__file__).resolve().parent
LOADER = HERE.parent / "tabular_bilevel" / "vectors" / "load_vectors.py"

DIGITS = 100

# A difference moves the tables by this, relative to what changes J a lot: its error is the square.
STEP = mpf(10) ** -25

# Of the difference quotient, relative to the largest entry; bounds are 1e-12 wide.
QUOTIENT_ERROR = mpf(10) ** -20

# Newton stops when the residual is below this, relative to the values.
SETTLED = mpf(10) ** -90

# States cubed times parameters above which one random direction is all that is looked at.
MANY = 20_000


def loader():
    spec = importlib.util.spec_from_file_location("load_vectors", LOADER)
    module = importlib.util.module_from_spec(spec)
    sys.modules["load_vectors"] = module
    spec.loader.exec_module(module)
    return module


class Tables:
    """A vector's tables in mpmath's numbers, moved by a multiple of a derivative."""

    def __init__(self, vector, weights=None, step=0):
        d = vector.theta.size
        moves = [0] * d if weights is None else weights

        def moved(table, change):
            flat, slopes = table.ravel().tolist(), change.reshape(d, -1).tolist()
            return [
                mpf(x)
                + step * sum(w * mpf(row[k]) for w, row in zip(moves, slopes, strict=True) if w)
                for k, x in enumerate(flat)
            ]

        S, A = vector.available.shape
        r_F = moved(vector.follower_reward, vector.tangent_follower_reward)
        r_L = moved(vector.leader_reward, vector.tangent_leader_reward)
        data = moved(vector.transition_data, vector.tangent_transition)
        self.rho = moved(vector.initial, vector.tangent_initial)
        self.beta = mpf(vector.temperature) + step * sum(
            w * mpf(x) for w, x in zip(moves, vector.tangent_temperature.tolist(), strict=True)
        )
        self.gamma_F, self.gamma_L = mpf(vector.follower_discount), mpf(vector.leader_discount)
        columns, first = vector.transition_indices.tolist(), vector.transition_indptr.tolist()
        self.states = []
        for s in range(S):
            actions = []
            for a in range(A):
                if vector.available[s, a]:
                    k = s * A + a
                    entries = range(first[k], first[k + 1])
                    row = [(columns[e], data[e]) for e in entries if data[e] != 0]
                    actions.append((r_F[k], r_L[k], row))
            self.states.append(actions)
        mass = max(sum(p for _, p in row) for actions in self.states for _, _, row in actions)
        # how fast the future fades, for the size of steps
        self.rest = max(1 - max(self.gamma_F, self.gamma_L) * mass, mpf("1e-6"))

    def backup(self, value):
        """T V and the policy."""
        improved, policy = [], []
        for actions in self.states:
            Q = [r + self.gamma_F * sum(p * value[j] for j, p in row) for r, _, row in actions]
            top = max(Q)
            weights = [mpmath.exp((q - top) / self.beta) for q in Q]
            total = sum(weights)
            improved.append(top + self.beta * mpmath.log(total) if len(Q) > 1 else top)
            policy.append([w / total for w in weights])
        return improved, policy

    def solve(self, discount, policy, right):
        """(I - discount P_pi) x = right, by elimination; the matrix is diagonally dominant."""
        n = len(right)
        rows = [[mpf(int(i == j)) for j in range(n)] for i in range(n)]
        for s, actions in enumerate(self.states):
            for chance, (_, _, row) in zip(policy[s], actions, strict=True):
                for j, p in row:
                    rows[s][j] -= discount * chance * p
        x = list(right)
        for i in range(n):
            pivot = rows[i]
            used = [j for j in range(i + 1, n) if pivot[j]]
            for k in range(i + 1, n):
                if rows[k][i]:
                    factor = rows[k][i] / pivot[i]
                    for j in used:
                        rows[k][j] -= factor * pivot[j]
                    x[k] -= factor * x[i]
        for i in reversed(range(n)):
            known = sum(rows[i][j] * x[j] for j in range(i + 1, n) if rows[i][j])
            x[i] = (x[i] - known) / rows[i][i]
        return x

    def follower(self, value):
        """Newton's method from a value."""
        while True:
            improved, policy = self.backup(value)
            gap = [new - old for new, old in zip(improved, value, strict=True)]
            size = max(map(abs, improved)) + self.beta
            if max(map(abs, gap)) <= SETTLED * size:
                return value, policy
            step = self.solve(self.gamma_F, policy, gap)
            value = [v + x for v, x in zip(value, step, strict=True)]

    def objective(self, value):
        """J, and V_F to start from next time."""
        value, policy = self.follower(value)
        reward = [
            sum(c * r for c, (_, r, _) in zip(chances, actions, strict=True))
            for chances, actions in zip(policy, self.states, strict=True)
        ]
        leader = self.solve(self.gamma_L, policy, reward)
        return sum(x * v for x, v in zip(self.rho, leader, strict=True)), value


def directions(vector, rng):
    """Axes, or one random direction where that is too much."""
    d = vector.theta.size
    if vector.initial.size**3 * d <= MANY:
        return [[int(i == j) for j in range(d)] for i in range(d)]
    return [[rng.choice([-2, -1, 1, 2]) for _ in range(d)]]


def largest_change(vector, weights):
    tables = ("follower_reward", "leader_reward", "transition", "initial", "temperature")
    total = mpf(1)
    for name in tables:
        change = abs(getattr(vector, f"tangent_{name}")).reshape(vector.theta.size, -1)
        if change.size:
            total = max(total, mpf(float(change.max())) * sum(map(abs, weights)))
    return total


def check(vector, rng):
    """Return how many numbers were compared, the worst error, and the worst distance outside."""
    exact = Tables(vector)
    J, V = exact.objective([mpf(0)] * len(exact.rho))
    low, high = map(mpf, vector.objective_bounds.tolist())
    size = max(abs(low), abs(high), mpf("5e-324"))
    errors, outside = [abs(J - (low + high) / 2) / size], [max(low - J, J - high, mpf(0)) / size]
    gradient = [list(map(mpf, row)) for row in vector.gradient_bounds.tolist()]
    size = max([abs(x) for row in gradient for x in row] + [mpf("5e-324")])
    values = max([abs(v) for v in V] + [mpf(1)])
    for weights in directions(vector, rng):
        # what makes a difference to the policy, or to J directly
        sharpest = largest_change(vector, weights) * values / min(exact.beta, mpf(1))
        step = STEP * exact.rest / sharpest
        ends = [Tables(vector, weights, sign * step).objective(V)[0] for sign in (1, -1)]
        slope = (ends[0] - ends[1]) / (2 * step)
        low, high = (
            sum(w * gradient[(w < 0) ^ upper][i] for i, w in enumerate(weights) if w)
            for upper in (False, True)
        )
        scale = size * sum(map(abs, weights))
        errors.append(abs(slope - (low + high) / 2) / scale)
        outside.append(max(low - slope, slope - high, mpf(0)) / scale)
    return len(errors), max(errors), max(outside)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=HERE / "vectors")
    parser.add_argument("--share", type=float, default=1.0, help="of the vectors to look at (all)")
    parser.add_argument("--seed", type=int, default=0, help="of the random directions")
    options = parser.parse_args(arguments)
    if not 0.0 < options.share <= 1.0:
        parser.error(f"--share is {options.share}, not in (0, 1]")
    rng, before = random.Random(options.seed), time.monotonic()
    vectors = loader().load_vectors(options.folder)[:: max(1, round(1.0 / options.share))]
    total, worst, bad = 0, mpf(0), 0
    with mpmath.workdps(DIGITS):
        for vector in vectors:
            count, error, outside = check(vector, rng)
            total, worst = total + count, max(worst, error)
            if not outside <= QUOTIENT_ERROR:
                bad += 1
                print(f"{vector.name}: OUTSIDE by {mpmath.nstr(outside, 3)}, relative", flush=True)
    print(
        f"{len(vectors)} vectors, {total} numbers compared, {bad} vectors wrong; centres off by at "
        f"most {mpmath.nstr(worst, 3)}, relative; {time.monotonic() - before:.0f} s"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
