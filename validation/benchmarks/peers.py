"""The peers of the benchmarks: what others offer, and what one would write plainly.

Run by `runner.Peer` with the Python of the peers' environment, one function a process, its name as
the argument. Each function takes tables and returns a call that is timed; nothing of this package
is imported. Solvers stop at a guaranteed sup error of 1e-8.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version

import numpy as np

Tables = Mapping[str, np.ndarray]
Prepared = Callable[[], np.ndarray]

SUP_ERROR = 1e-8


def with_an_end(tables: Tables) -> tuple:
    """Spell termination as one more state, which stays and pays nothing."""
    import scipy.sparse as sp

    n_states, n_actions = tables["reward"].shape
    kernel = sp.csr_matrix(
        (tables["data"], tables["indices"], tables["indptr"]), (n_states * n_actions, n_states)
    )
    states, actions = np.divmod(np.arange(n_states * n_actions), n_actions)
    reward = tables["reward"].ravel()
    ends = np.maximum(1.0 - kernel.sum(axis=1), 0.0).round(12)
    if ends.any():
        stays = sp.csr_matrix(([1.0], ([0], [n_states])), (1, n_states + 1))
        kernel = sp.vstack([sp.hstack([kernel, sp.csr_matrix(ends)]), stays]).tocsr()
        reward, actions = np.append(reward, 0.0), np.append(actions, 0)
        states = np.append(states, n_states)
    return kernel, reward, states, actions


def quantecon(tables: Tables) -> Prepared:
    """QuantEcon's modified policy iteration: a hard maximum, which is easier."""
    from quantecon.markov import DiscreteDP

    kernel, reward, states, actions = with_an_end(tables)
    problem = DiscreteDP(reward, kernel, float(tables["discount"]), states, actions)

    def solve() -> np.ndarray:
        # its value is within half of epsilon
        found = problem.solve(method="mpi", epsilon=2.0 * SUP_ERROR, max_iter=10**6)
        return found.v[: len(tables["reward"])]

    return solve


def mdpsolver(tables: Tables) -> Prepared:
    """MDPSolver's modified policy iteration in C++: a hard maximum, too."""
    import mdpsolver

    kernel, reward, states, _ = with_an_end(tables)
    rows = [kernel.indptr[k : k + 2] for k in range(kernel.shape[0])]
    counts = np.bincount(states)
    first = np.concatenate([[0], np.cumsum(counts)])

    def nested(pick: Callable[[int], object]) -> list:
        return [[pick(k) for k in range(first[s], first[s + 1])] for s in range(len(counts))]

    tables_as_lists = {
        "discount": float(tables["discount"]),
        "rewards": nested(lambda k: float(reward[k])),
        "tranMatProbs": nested(lambda k: kernel.data[slice(*rows[k])].tolist()),
        "tranMatColumns": nested(lambda k: kernel.indices[slice(*rows[k])].tolist()),
    }

    def anew() -> None:  # a model keeps its last answer, and would start from it
        nonlocal model
        model = mdpsolver.model()
        model.mdp(**tables_as_lists)

    def solve() -> np.ndarray:
        model.solve(algorithm="mpi", tolerance=SUP_ERROR, parallel=False)
        return np.array(model.getValueVector())[: len(tables["reward"])]

    model = None
    solve.anew = anew
    return solve


def soft_numba(tables: Tables) -> Prepared:
    """Soft value iteration, one loop compiled by Numba."""
    import math

    import numba

    @numba.njit
    def sweep(indptr, indices, data, reward, discount, beta, value, improved):
        change = 0.0
        scores = np.empty(reward.shape[1])
        for s in range(reward.shape[0]):
            for a in range(reward.shape[1]):
                ahead, row = 0.0, s * reward.shape[1] + a
                for k in range(indptr[row], indptr[row + 1]):
                    ahead += data[k] * value[indices[k]]
                scores[a] = reward[s, a] + discount * ahead
            best, total = scores.max(), 0.0
            for score in scores:
                total += math.exp((score - best) / beta)
            improved[s] = best + beta * math.log(total)
            change = max(change, abs(improved[s] - value[s]))
        return change

    discount, beta = float(tables["discount"]), float(tables["temperature"])
    arrays = [tables[name] for name in ("indptr", "indices", "data", "reward")]

    def solve() -> np.ndarray:
        value, improved = np.zeros((2, len(tables["reward"])))
        change = np.inf
        while change > SUP_ERROR * (1.0 - discount) / discount:
            change = sweep(*arrays, discount, beta, value, improved)
            value, improved = improved, value
        return value

    return solve


def soft_jax(tables: Tables) -> Prepared:
    """Soft value iteration, one program of JAX."""
    import jax

    jax.config.update("jax_enable_x64", True)
    jnp = jax.numpy
    reward, starts = jnp.array(tables["reward"]), tables["indptr"]
    counts = np.diff(starts)
    columns = np.arange(counts.max())
    filled = columns < counts[:, None]
    following = np.zeros(filled.shape, dtype=np.int32)
    chance = np.zeros(filled.shape)
    following[filled], chance[filled] = tables["indices"], tables["data"]
    following, chance = jnp.array(following), jnp.array(chance)
    discount, beta = float(tables["discount"]), float(tables["temperature"])

    def sweep(state: tuple) -> tuple:
        value = state[0]
        ahead = (chance * value[following]).sum(axis=1).reshape(reward.shape)
        improved = beta * jax.nn.logsumexp((reward + discount * ahead) / beta, axis=1)
        return improved, jnp.abs(improved - value).max()

    far = SUP_ERROR * (1.0 - discount) / discount
    start = (jnp.zeros(len(reward)), jnp.array(jnp.inf))
    run = jax.jit(lambda: jax.lax.while_loop(lambda state: state[1] > far, sweep, start)[0])
    return lambda: np.asarray(run())


def jax_model(tables: Tables) -> tuple:
    """Write the follower's equations for JAX, with dense tables."""
    import jax

    jax.config.update("jax_enable_x64", True)
    jnp = jax.numpy
    shape = tables["follower_reward"].shape
    table = jnp.array(tables["kernel"])
    kernel, eye = table.reshape(-1, shape[0]), jnp.eye(shape[0])
    gamma, beta = float(tables["discount"]), float(tables["temperature"])

    def scaled(reward: jax.Array, value: jax.Array) -> jax.Array:
        return (reward + gamma * (kernel @ value).reshape(shape)) / beta

    def soft(reward: jax.Array, value: jax.Array) -> jax.Array:
        return beta * jax.nn.logsumexp(scaled(reward, value), axis=1)

    def chain(reward: jax.Array, value: jax.Array) -> jax.Array:
        return jnp.einsum("sa,sat->st", jax.nn.softmax(scaled(reward, value), axis=1), table)

    def objective(theta: jax.Array, solved: Callable) -> jax.Array:
        coins = float(tables["total"]) * jax.nn.softmax(theta)[:-1]
        follower, leader = (
            jnp.array(tables[f"{who}_reward"])
            + (jnp.array(tables[f"{who}_features"]) @ coins).reshape(shape)
            for who in ("follower", "leader")
        )
        policy = jax.nn.softmax(scaled(follower, solved(follower)), axis=1)
        states = eye - float(tables["leader_discount"]) * jnp.einsum("sa,sat->st", policy, table)
        earned = (policy * leader).sum(axis=1)
        return jnp.array(tables["initial"]) @ jnp.linalg.solve(states, earned)

    return jax, scaled, soft, chain, eye, gamma, objective


def until_still(jax: object, step: Callable, start: object, far: float) -> object:
    """Iterate a map to its fixed point."""
    jnp = jax.numpy

    def turn(state: tuple) -> tuple:
        moved = step(state[0])
        return moved, jnp.abs(moved - state[0]).max()

    state = (start, jnp.array(jnp.inf))
    return jax.lax.while_loop(lambda state: state[1] > far, turn, state)[0]


def newton(tables: Tables, far: float = 1e-13) -> tuple:
    """Solve the follower by Newton's method."""
    model = jax_model(tables)
    jax, _, soft, chain, eye, gamma, _ = model

    def solve(reward: object) -> object:
        def step(value: object) -> object:
            gap = soft(reward, value) - value
            return value + jax.numpy.linalg.solve(eye - gamma * chain(reward, value), gap)

        return until_still(jax, step, jax.numpy.zeros(len(eye)), far)

    return model, solve


def implicit(tables: Tables, model: tuple, solve: Callable, transposed: Callable) -> Prepared:
    """Differentiate the follower's fixed point implicitly."""
    jax, scaled, _, chain, *_, objective = model
    solved = jax.custom_vjp(solve)

    def backward(kept: tuple, change: object) -> tuple:
        policy = jax.nn.softmax(scaled(*kept), axis=1)
        return (policy * transposed(chain(*kept), change)[:, None],)

    solved.defvjp(lambda reward: (value := solve(reward), (reward, value)), backward)
    both = jax.jit(jax.value_and_grad(lambda theta: objective(theta, solved)))
    theta = jax.numpy.array(tables["theta"])
    return lambda: np.asarray(both(theta)[1])


def implicit_by_newton(tables: Tables) -> Prepared:
    """JAX in its strongest form: Newton's method, and one transposed solve."""
    model, solve = newton(tables)
    jax, *_, eye, gamma, _ = model
    return implicit(
        tables, model, solve, lambda chain, b: jax.numpy.linalg.solve(eye - gamma * chain.T, b)
    )


def implicit_by_iteration(tables: Tables) -> Prepared:
    """JAX as it is mostly written: value iteration, and the same for the transposed system."""
    model = jax_model(tables)
    jax, _, soft, _, eye, gamma, _ = model
    far = SUP_ERROR * (1.0 - gamma) / gamma

    def solve(reward: object) -> object:
        zero = jax.numpy.zeros(len(eye))
        return until_still(jax, lambda value: soft(reward, value), zero, far)

    return implicit(
        tables, model, solve,
        lambda chain, b: until_still(jax, lambda x: b + gamma * chain.T @ x, b, far),
    )  # fmt: skip


def reverse(tables: Tables) -> Prepared:
    """JAX's reverse mode through as many sweeps as reach the error."""
    jax, _, soft, _, eye, gamma, objective = jax_model(tables)
    largest = np.abs(tables["follower_reward"]).max() / (1.0 - gamma)
    sweeps = int(np.ceil(np.log(largest / SUP_ERROR) / -np.log(gamma)))

    def solve(reward: object) -> object:
        def step(value: object, _: None) -> tuple:
            return soft(reward, value), None

        return jax.lax.scan(step, jax.numpy.zeros(len(eye)), None, length=sweeps)[0]

    both = jax.jit(jax.value_and_grad(lambda theta: objective(theta, solve)))
    theta = jax.numpy.array(tables["theta"])
    return lambda: np.asarray(both(theta)[1])


def differences(tables: Tables) -> Prepared:
    """Central differences of the objective, compiled by JAX, each by Newton's method."""
    model, solve = newton(tables)
    jax, *_, objective = model
    once = jax.jit(lambda theta: objective(theta, solve))
    theta, step = tables["theta"], 1e-5

    def gradient() -> np.ndarray:
        found = np.empty(theta.size)
        for k in range(theta.size):
            moved = step * np.eye(theta.size)[k]
            found[k] = (once(theta + moved) - once(theta - moved)) / (2.0 * step)
        return found

    return gradient


def plain_numba(tables: Tables) -> Prepared:
    """Compile the formulas as one writes them, with dense matrices, by Numba."""
    import numba

    @numba.njit
    def differentiate(kernel, follower, leader, initial, gamma, leader_gamma, beta):
        n_states = len(initial)
        flat, value, eye = kernel.reshape(-1, n_states), np.zeros(n_states), np.eye(n_states)
        policy, chain = np.empty_like(follower), np.empty_like(eye)
        while True:
            scores = follower + gamma * (flat @ value).reshape(follower.shape)
            gap = np.empty(n_states)
            for s in range(n_states):
                best = scores[s].max()
                policy[s] = np.exp((scores[s] - best) / beta)
                total = policy[s].sum()
                policy[s] /= total
                gap[s] = best + beta * np.log(total) - value[s]
                chain[s] = policy[s] @ kernel[s]
            if np.abs(gap).max() < 1e-13:
                break
            value += np.linalg.solve(eye - gamma * chain, gap)
        earned = (policy * leader).sum(axis=1)
        states = eye - leader_gamma * chain
        worth, lasting = np.linalg.solve(states, earned), np.linalg.solve(states.T, initial)
        ahead = leader + leader_gamma * (flat @ worth).reshape(leader.shape)
        source = np.empty_like(policy)
        for s in range(n_states):
            source[s] = lasting[s] * policy[s] * (ahead[s] - worth[s]) / beta
        arrivals = gamma * (flat.T @ source.reshape(-1))
        arrivals = np.linalg.solve(eye - gamma * chain.T, arrivals)
        influence, pairs = np.empty_like(policy), np.empty_like(policy)
        for s in range(n_states):
            influence[s] = source[s] + policy[s] * arrivals[s]
            pairs[s] = lasting[s] * policy[s]
        return influence, pairs

    names = ("kernel", "follower_reward", "leader_reward", "initial")
    kernel, follower, leader, initial = (np.ascontiguousarray(tables[name]) for name in names)
    features = [np.ascontiguousarray(tables[f"{who}_features"]) for who in ("follower", "leader")]
    numbers = [float(tables[n]) for n in ("discount", "leader_discount", "temperature")]
    theta, total = tables["theta"], float(tables["total"])

    def gradient() -> np.ndarray:
        share = np.exp(theta - theta.max())
        share /= share.sum()
        coins = total * share[:-1]
        paid = [
            at_0 + (matrix @ coins).reshape(at_0.shape)
            for at_0, matrix in zip((follower, leader), features, strict=True)
        ]
        parts = differentiate(kernel, *paid, initial, *numbers)
        slope = np.append(sum(f.T @ p.ravel() for f, p in zip(features, parts, strict=True)), 0.0)
        return total * share * (slope - share @ slope)

    return gradient


def linear_quadratic_reverse(tables: Tables) -> Prepared:
    """Sweep the Riccati equation, follow the state's law, and go back through all of it, in JAX."""
    import jax

    jax.config.update("jax_enable_x64", True)
    jnp = jax.numpy
    names = ("still", "slopes", "control", "state_cost", "control_cost", "noise")
    still, slopes, B, Q, R, W = (jnp.array(tables[name]) for name in names)
    reward, paid = jnp.array(tables["reward_state"]), jnp.array(tables["reward_control"])
    gamma, later = float(tables["discount"]), float(tables["leader_discount"])

    def objective(theta: jax.Array) -> jax.Array:
        design = jax.nn.sigmoid(theta)
        A = still + jnp.tensordot(design, slopes, axes=1)

        def best(value: jax.Array) -> tuple:
            S = R + gamma * B.T @ value @ B
            return S, jnp.linalg.solve(S, gamma * B.T @ value @ A)

        def sweep(value: jax.Array, _: None) -> tuple:
            K = best(value)[1]
            C = A - B @ K
            return Q + K.T @ R @ K + gamma * C.T @ value @ C, None

        S, K = best(jax.lax.scan(sweep, Q, length=int(tables["sweeps"]))[0])
        C, spread = A - B @ K, float(tables["temperature"]) / 2.0 * jnp.linalg.inv(S)
        earned, V = reward + K.T @ paid @ K, W + B @ spread @ B.T
        always = (paid * spread).sum() - float(tables["design_cost"]) * design @ design

        def step(carry: tuple, _: None) -> tuple:
            X, weight = carry
            return (C @ X @ C.T + V, later * weight), weight * ((earned * X).sum() + always)

        start = (jnp.array(tables["initial_covariance"]), 1.0)
        return jax.lax.scan(step, start, length=int(tables["steps"]))[1].sum()

    run = jax.jit(jax.value_and_grad(objective))
    theta = jnp.array(tables["theta"])
    return lambda: np.asarray(run(theta)[1])


# What a peer is called, and the package whose version counts.
PEERS = {
    quantecon: "quantecon",
    mdpsolver: "mdpsolver",
    soft_numba: "numba",
    soft_jax: "jax",
    implicit_by_newton: "jax",
    implicit_by_iteration: "jax",
    reverse: "jax",
    differences: "jax",
    plain_numba: "numba",
    linear_quadratic_reverse: "jax",
}


def main() -> None:
    """Answer: {"prepare": file} with {}, {"answer": file} with the seconds of a run."""
    make = {peer.__name__: peer for peer in PEERS}[sys.argv[1]]
    package = PEERS[make]
    print(json.dumps({package: version(package)}), flush=True)
    for line in sys.stdin:
        request, reply = json.loads(line), {}
        if "prepare" in request:
            with np.load(request["prepare"]) as file:
                run = make(dict(file))
        else:
            getattr(run, "anew", lambda: None)()
            start = time.process_time()
            answer = run()
            reply["seconds"] = time.process_time() - start
            np.save(request["answer"], answer)
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
