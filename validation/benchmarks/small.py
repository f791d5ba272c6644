"""Speed of small models: four rooms' J and its 105 derivatives, beside jitted JAX.

Run ``python validation/benchmarks/small.py`` with the package installed; without JAX its line is
left out. JAX differentiates implicitly, in its strongest form: one jitted program, Newton's method
on dense matrices, one transposed solve for the follower's part. All lines alternate in one process
with one thread each, and each is the median of its calls. Ratios are to JAX; `differ` is from the
bounded gradient, relative to its largest entry. No numbers are asserted: times are the machine's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)

import numpy as np  # noqa: E402

import tabular_bilevel as tb  # noqa: E402

# Published temperatures: the lowest and the highest.
TEMPERATURES = (0.001, 0.005)

# Calls before those that are measured: by then all loops are compiled.
WARM = 60

Gradient = Callable[[], np.ndarray]


def jitted(problem: tb.problems.Reparametrised) -> Gradient | None:
    """Compile value and gradient of four rooms by implicit differentiation, if JAX is there."""
    try:
        import jax
    except ImportError:
        return None
    jax.config.update("jax_enable_x64", True)
    jnp, features = jax.numpy, problem.inner
    base = features.base
    shape = base.follower_reward.shape
    kernel = jnp.array(base.transition.toarray())
    table, eye = kernel.reshape(*shape, -1), jnp.eye(shape[0])
    gamma, temperature = base.follower_discount, base.temperature
    paid = [
        (jnp.array(rewards), jnp.array(matrix.toarray()))
        for rewards, matrix in (
            (base.follower_reward, features.follower_reward),
            (base.leader_reward, features.leader_reward),
        )
    ]

    def action_value(reward: jax.Array, value: jax.Array) -> jax.Array:
        return reward + gamma * (kernel @ value).reshape(shape)

    def matrix(policy: jax.Array, discount: float) -> jax.Array:
        return eye - discount * jnp.einsum("sa,sat->st", policy, table)

    def newton(reward: jax.Array) -> jax.Array:
        def step(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            scaled = action_value(reward, state[0]) / temperature
            gap = temperature * jax.nn.logsumexp(scaled, axis=1) - state[0]
            move = jnp.linalg.solve(matrix(jax.nn.softmax(scaled, axis=1), gamma), gap)
            return state[0] + move, jnp.abs(gap).max()

        start = (jnp.zeros(shape[0]), jnp.array(jnp.inf))
        return jax.lax.while_loop(lambda state: state[1] > 1e-13, step, start)[0]

    def backward(kept: tuple[jax.Array, jax.Array], change: jax.Array) -> tuple[jax.Array]:
        policy = jax.nn.softmax(action_value(*kept) / temperature, axis=1)
        return (policy * jnp.linalg.solve(matrix(policy, gamma).T, change)[:, None],)

    solved = jax.custom_vjp(newton)
    solved.defvjp(lambda reward: (value := newton(reward), (reward, value)), backward)

    def objective(theta: jax.Array) -> jax.Array:
        coins = problem.transform.total * jax.nn.softmax(theta)[:-1]
        follower, leader = (at_0 + (matrix @ coins).reshape(shape) for at_0, matrix in paid)
        policy = jax.nn.softmax(action_value(follower, solved(follower)) / temperature, axis=1)
        chain = matrix(policy, base.leader_discount)
        return base.initial @ jnp.linalg.solve(chain, (policy * leader).sum(axis=1))

    both = jax.jit(jax.value_and_grad(objective))
    theta = np.zeros(problem.n_parameters)
    return lambda: np.asarray(both(theta)[1])


def ours(problem: tb.problems.Reparametrised) -> dict[str, Gradient]:
    """List what the package offers: the default, without bounds, and from an answer nearby."""
    theta, plain = np.zeros(problem.n_parameters), tb.Estimated()
    start = tb.solve_follower(problem.model(theta)).value
    climb = tb.ascend(problem, theta, tb.ExactGradient(), tb.GradientAscent(1e-9), rng=0)
    return {
        "bounded (default)": lambda: tb.hypergradient(problem, theta).gradient,
        "not bounded": lambda: tb.hypergradient(problem, theta, accuracy=plain).gradient,
        "not bounded, warm": lambda: (
            tb.hypergradient(problem, theta, accuracy=plain, start=start).gradient
        ),
        "iteration of an ascent": lambda: next(climb).gradient,
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=301)
    options = parser.parse_args(arguments)
    print(f"{'temperature':<13}{'what':<24}{'median':>10}{'least':>11}{'ratio':>8}{'differ':>10}")
    for temperature in TEMPERATURES:
        problem = tb.problems.four_rooms(temperature=temperature)
        runs, peer = ours(problem), jitted(problem)
        if peer is not None:
            runs["JAX, implicit, Newton"] = peer
        found = {name: run() for name, run in runs.items()}
        for run in WARM * list(runs.values()):
            run()
        exact = found["bounded (default)"]
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(options.repeats):
            for name, run in runs.items():
                before = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - before)
        median = {name: statistics.median(taken) for name, taken in times.items()}
        for name, taken in times.items():
            unit = median["JAX, implicit, Newton"] if peer is not None else np.nan
            off = np.abs(found[name] - exact).max() / np.abs(exact).max()
            print(
                f"{temperature:<13}{name:<24}{median[name] * 1e3:>7.3f} ms"
                f"{min(taken) * 1e3:>8.3f} ms{median[name] / unit:>8.2f}{off:>10.1e}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
