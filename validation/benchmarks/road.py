"""Speed of the road: solve the follower, evaluate the leader, take the gradient.

Run ``python validation/benchmarks/road.py`` with the package installed; ``--map FILE`` takes a
MovingAI map instead of the generated warehouse. Each line is the package's time, bounded, and that
of a plain NumPy and SciPy implementation of the same formulas (Newton's method with
``numpy.linalg.solve`` or SuperLU at its defaults), not bounded, in turn and on one thread; their
ratio; and by how much the gradients differ, relative to the largest entry.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg

import tabular_bilevel as tb

try:
    from benchmarks import runner
except ImportError:  # run as a script
    import runner

DENSE_STATES = 500


def plain_gradient(model: tb.Model) -> tuple[float, tb.Sensitivities]:
    """Solve and differentiate as one would from the formulas (theory.md sections 2 to 4)."""
    n_states, n_actions = model.n_states, model.n_actions
    kernel, available = model.transition, model.available

    def solve(matrix: sp.csr_array, b: np.ndarray) -> np.ndarray:
        if n_states <= DENSE_STATES:
            return np.linalg.solve(matrix.toarray(), b)
        return scipy.sparse.linalg.splu(matrix.tocsc()).solve(b)

    def chain(policy: np.ndarray) -> sp.csr_array:
        rows = np.repeat(np.arange(n_states), n_actions)
        weights = (policy.ravel(), (rows, np.arange(n_states * n_actions)))
        return sp.csr_array(weights, shape=(n_states, n_states * n_actions)) @ kernel

    identity = sp.eye_array(n_states, format="csr")
    value = np.zeros(n_states)
    while True:
        ahead = model.follower_discount * (kernel @ value).reshape(n_states, n_actions)
        action_value = np.where(available, model.follower_reward + ahead, -np.inf)
        best = action_value.max(axis=1)
        weights = np.exp((action_value - best[:, None]) / model.temperature)
        policy = weights / weights.sum(axis=1, keepdims=True)
        gap = best + model.temperature * np.log(weights.sum(axis=1)) - value
        if np.abs(gap).max() <= 1e-13 * max(1.0, np.abs(value).max()):
            break
        value = value + solve(identity - model.follower_discount * chain(policy), gap)
    states = chain(policy)
    leader = identity - model.leader_discount * states
    leader_value = solve(leader, (policy * model.leader_reward).sum(axis=1))
    occupancy = solve(sp.csr_array(leader.T), model.initial)
    ahead = model.leader_discount * (kernel @ leader_value).reshape(n_states, n_actions)
    advantage = model.leader_reward + ahead - leader_value[:, None]
    source = occupancy[:, None] * policy * advantage / model.temperature
    follower = sp.csr_array((identity - model.follower_discount * states).T)
    arrivals = solve(follower, model.follower_discount * (kernel.T @ source.ravel()))
    influence = source + policy * arrivals[:, None]
    pairs = occupancy[:, None] * policy
    row = np.repeat(np.arange(n_states * n_actions), np.diff(kernel.indptr))
    flow = (
        model.leader_discount * pairs.ravel()[row] * leader_value[kernel.indices]
        + model.follower_discount * influence.ravel()[row] * value[kernel.indices]
    )
    measures = tb.Sensitivities.of(
        model,
        follower_reward=influence,
        leader_reward=pairs,
        transition=flow,
        initial=leader_value,
    )
    return float(model.initial @ leader_value), measures


def main(arguments: list[str] | None = None) -> int:
    parser = runner.parser(__doc__)
    parser.add_argument("--map", type=Path, help="a MovingAI map for the large problem")
    options = parser.parse_args(arguments)
    runner.alone()
    settings = {"slip": 0.2, "temperature": 0.05}
    problems = {"four rooms": tb.problems.four_rooms()}
    if options.map is None:
        problems["warehouse"] = tb.problems.warehouse(**settings)
    else:
        problems[options.map.stem] = tb.problems.grid_world(options.map, **settings)

    def rows() -> Iterator[dict[str, object]]:
        for name, problem in problems.items():
            theta = np.zeros(problem.n_parameters)

            def ours(problem: tb.ForwardProblem = problem, theta: np.ndarray = theta) -> np.ndarray:
                return tb.hypergradient(problem, theta).gradient

            def plain(
                problem: tb.ForwardProblem = problem, theta: np.ndarray = theta
            ) -> np.ndarray:
                return problem.pullback(theta, plain_gradient(problem.model(theta))[1])

            differ = np.abs(ours() - plain()).max() / np.abs(ours()).max()
            runs = {"ours": runner.timed(ours), "plain": runner.timed(plain)}
            fast, slow = runner.medians(runs, options.runs, enough=runner.COLD).values()
            yield {
                "problem": name,
                "parameters": theta.size,
                "ours, ms": 1e3 * fast,
                "plain, ms": 1e3 * slow,
                "ratio": fast / slow,
                "off": float(differ),
            }

    runner.table(options, rows())
    return 0


if __name__ == "__main__":
    sys.exit(main())
