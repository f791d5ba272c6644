"""Speed of training on four rooms: sampling, traces, iterations of BC-HG and AMD; and of imports.

Run ``python validation/benchmarks/training.py`` with the package installed. In turn with each line
runs what it is compared with:

- sampling: numpy drawing the two uniform numbers that a step takes, and nothing else;
- traces: sampling the same trajectories;
- an iteration of BC-HG, by the published protocol (the follower answers from its last answer, 100
  steps, one sweep of the SARSA critic, the gradient, a step): a plain prototype of the same for
  this one problem, NumPy with loops over steps compiled by Numba;
- the import: numpy and scipy alone, in processes of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numba
import numpy as np

import tabular_bilevel as tb
from tabular_bilevel.estimators.register import METHODS, Setting

try:
    from benchmarks import runner
except ImportError:  # run as a script
    import runner

IMPORTS = "import numpy, scipy.linalg, scipy.sparse.csgraph, scipy.sparse.linalg"

N_STEPS, TIME_LIMIT, RATE, CRITIC_STEP = 100, 200, 0.1, 0.5


@numba.njit
def rollout(rng, kernel, ends, policy, start, states, actions, following, new):
    """Walk, starting anew at the end of an episode; `new` marks first steps."""
    s, first, age = start, True, 0
    for t in range(states.size):
        u, a = rng.random(), 0
        while a < 3 and u >= policy[s, a]:
            u -= policy[s, a]
            a += 1
        states[t], actions[t], new[t] = s, a, first
        age += 1
        if ends[s, a]:
            following[t], s, first, age = -1, start, True, 0
            continue
        u, k = rng.random(), 0
        while k < kernel.shape[2] - 1 and u >= kernel[s, a, k]:
            u -= kernel[s, a, k]
            k += 1
        following[t], s, first = k, k, False
        if age == TIME_LIMIT:
            s, first, age = start, True, 0


@numba.njit
def learn(order, states, actions, following, new, reward, discount, step, table):
    """Sweep SARSA once."""
    last = states.size - 1
    for t in order:
        target = reward[states[t], actions[t]]
        if following[t] >= 0 and t < last and not new[t + 1]:
            target += discount * table[states[t + 1], actions[t + 1]]
        table[states[t], actions[t]] += step * (target - table[states[t], actions[t]])


@numba.njit
def influence_of(states, actions, new, credit, discount, leader_discount, influence, occupancy):
    """Average tails over visits, and follow them."""
    counts, weights = np.zeros(credit.shape), np.zeros(credit.shape)
    weight = 1.0
    for t in range(states.size):
        weight = 1.0 if new[t] else weight * leader_discount
        counts[states[t], actions[t]] += 1.0
        weights[states[t], actions[t]] += weight
        occupancy[states[t], actions[t]] += weight
    trace = 0.0
    for t in range(states.size):
        s, a = states[t], actions[t]
        trace = (0.0 if new[t] else discount * trace) + credit[s, a] * weights[s, a] / counts[s, a]
        influence[s, a] += trace


def prototype() -> Callable[[], None]:
    """Make a function that does one iteration, plainly."""
    base = tb.problems.four_rooms().inner.base
    n_states, n_actions = base.follower_reward.shape
    kernel = base.transition.toarray().reshape(n_states, n_actions, n_states)
    ends = base.termination > 0.5
    start, goal = int(np.argmax(base.initial)), int(np.argmax(ends[:, 0]))
    gamma, beta, penalty = 0.99, 0.001, 5.0
    rng = np.random.default_rng(0)
    theta, value = rng.normal(0.0, 0.01, n_states + 1), np.zeros(n_states)
    table = rng.normal(size=(n_states, n_actions))
    target_reward = base.leader_reward
    states, actions, following = np.zeros((3, N_STEPS), dtype=np.int64)
    new = np.zeros(N_STEPS, dtype=np.bool_)

    def iterate() -> None:
        nonlocal theta, value
        share = np.exp(theta - theta.max())
        share /= share.sum()
        charge = -0.2 * share[:-1]
        charge[goal] = 0.0
        reward = base.follower_reward + charge[:, None]
        leader = target_reward.copy()
        leader[goal] += penalty * (-0.2 * share[:-1]).sum()
        while True:
            q = reward + gamma * (kernel.reshape(-1, n_states) @ value).reshape(reward.shape)
            top = q.max(axis=1)
            policy = np.exp((q - top[:, None]) / beta)
            total = policy.sum(axis=1)
            policy /= total[:, None]
            gap = top + beta * np.log(total) - value
            if np.abs(gap).max() < 1e-8:
                break
            chain = np.einsum("sa,sat->st", policy, kernel)
            value = value + np.linalg.solve(np.eye(n_states) - gamma * chain, gap)
        rollout(rng, kernel, ends, policy, start, states, actions, following, new)
        order = rng.permutation(N_STEPS)
        learn(order, states, actions, following, new, leader, gamma, CRITIC_STEP, table)
        credit = (table - (policy * table).sum(axis=1, keepdims=True)) / beta
        influence, occupancy = np.zeros((2, n_states, n_actions))
        influence_of(states, actions, new, credit, gamma, gamma, influence, occupancy)
        finished = max(1, int((following < 0).sum()))
        by_cell = influence.sum(axis=1) / finished
        by_cell[goal] = 0.0
        by_cell += penalty * occupancy[goal].sum() / new.sum()
        padded = -0.2 * np.append(by_cell, 0.0)
        gradient = share * (padded - share @ padded)
        norm = np.sqrt(gradient @ gradient)
        theta = theta + RATE * gradient / max(1.0, norm)

    return iterate


class Line(NamedTuple):
    """What is measured, and what it is compared with, if with anything."""

    what: str
    run: Callable[[], object]
    beside: str
    peer: Callable[[], object] | None
    runs: int = 1  # of each, for one time


def lines(count: int) -> list[Line]:
    """List what is measured, on so many trajectories."""
    problem = tb.problems.four_rooms()
    theta = np.zeros(problem.n_parameters)
    method = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(count)))
    rng = np.random.default_rng(0)
    seen = method.interaction.gather(problem, theta, rng=rng)
    model, policy = seen.world, seen.response.policy
    n_steps = seen.trajectories.pairs.size

    def sampled(generator: np.random.Generator) -> Callable[[], object]:
        return lambda: method.sampler.sample(model, policy, rng=generator)

    def drawn(generator: np.random.Generator) -> Callable[[], object]:
        return lambda: generator.random(2 * n_steps)

    def climbing(method: tb.Estimator) -> Callable[[], object]:
        start = 0.01 * np.random.default_rng(0).normal(size=theta.size)
        climb = tb.ascend(problem, start, method, tb.GradientAscent(RATE, 1.0), rng=0)
        return lambda: next(climb)

    def process(code: str) -> Callable[[], object]:
        """Run in a process that may keep what it compiles to byte code: others do not."""
        place = {name: at for name, at in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        return lambda: subprocess.run([sys.executable, "-c", code], check=True, env=place)

    published = METHODS["bchg"](Setting(tb.StepBudget(N_STEPS, TIME_LIMIT), CRITIC_STEP))
    quick = np.random.Generator(np.random.SFC64(0))
    return [
        Line(f"{n_steps} steps, PCG64", sampled(rng), "their uniform numbers", drawn(rng)),
        Line(f"{n_steps} steps, SFC64", sampled(quick), "their uniform numbers", drawn(quick)),
        Line("traces of BC-HG", lambda: method.estimate(seen), "sampling", sampled(rng)),
        Line("iteration of BC-HG", climbing(published), "plain prototype", prototype(), 200),
        Line("iteration of AMD", climbing(tb.AdaptiveModelDesign()), "", None),
        Line("check_gradient", lambda: tb.check_gradient(problem, theta), "", None),
        Line("import", process("import tabular_bilevel"), "numpy and scipy", process(IMPORTS)),
    ]


def repeated(run: Callable[[], object], runs: int) -> Callable[[], object]:
    """Make what runs so often, and keeps nothing."""

    def run_all() -> None:
        for _ in range(runs):
            run()

    return run_all


def main(arguments: list[str] | None = None) -> int:
    parser = runner.parser(__doc__)
    parser.add_argument("--trajectories", type=int, default=60_000, help="30 steps each (60,000)")
    options = parser.parse_args(arguments)
    runner.alone()

    def rows() -> Iterator[dict[str, object]]:
        for line in lines(options.trajectories):
            both = {line.what: line.run} | ({line.beside: line.peer} if line.peer else {})
            runs = {name: runner.timed(repeated(run, line.runs)) for name, run in both.items()}
            ours, *peers = runner.medians(runs, options.runs).values()
            yield {
                "what": line.what,
                "ms": ours / line.runs * 1e3,
                "beside": line.beside,
                "its ms": peers[0] / line.runs * 1e3 if peers else "",
                "ratio": ours / peers[0] if peers else "",
            }

    runner.table(options, rows())
    return 0


if __name__ == "__main__":
    sys.exit(main())
