"""Speed of an ascent: BC-HG on four rooms, one outer iteration of the published protocol.

Run ``python validation/benchmarks/ascent.py`` with the package installed. An iteration solves the
follower from its last answer, simulates 100 steps, sweeps the SARSA critic once, takes the gradient
and updates theta. In turn with the package runs a plain prototype of the same protocol for this one
problem: NumPy, with loops over steps compiled by Numba. Each line is the median of several blocks
of iterations; the last says how long a curve of 10,000 iterations and 10 seeds takes by that.
No numbers are asserted: times are the machine's.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable

import numba
import numpy as np

import tabular_bilevel as tb
from tabular_bilevel.estimators.register import METHODS, Setting

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


def package() -> Callable[[], None]:
    """Make a function that does one iteration with the package."""
    problem = tb.problems.four_rooms()
    method = METHODS["bchg"](Setting(tb.StepBudget(N_STEPS, TIME_LIMIT), CRITIC_STEP))
    theta = np.random.default_rng(0).normal(0.0, 0.01, problem.n_parameters)
    climb = tb.ascend(problem, theta, method, tb.GradientAscent(RATE, 1.0), rng=0)
    return lambda: next(climb) and None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=20)
    parser.add_argument("--iterations", type=int, default=500, help="of each block")
    options = parser.parse_args(arguments)
    makers = {"package": package(), "plain": prototype()}
    times: dict[str, list[float]] = {name: [] for name in makers}
    for iterate in makers.values():  # compile, and leave the flat start
        for _ in range(options.iterations):
            iterate()
    for _, (name, iterate) in itertools.product(range(options.blocks), makers.items()):
        before = time.perf_counter()
        for _ in range(options.iterations):
            iterate()
        times[name].append((time.perf_counter() - before) / options.iterations)
    median = {name: statistics.median(values) for name, values in times.items()}
    for name, values in times.items():
        print(
            f"{name:<8} {median[name] * 1e3:.3f} ms an iteration "
            f"({min(values) * 1e3:.3f} to {max(values) * 1e3:.3f})"
        )
    print(f"ratio    {median['package'] / median['plain']:.2f}")
    print(f"a curve  {median['package'] * 10_000 * 10 / 2:.1f} s with two workers")
    return 0


if __name__ == "__main__":
    sys.exit(main())
