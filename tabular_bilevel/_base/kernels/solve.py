"""Kernels that solve for the follower."""

from __future__ import annotations

import math

import numpy as np

from tabular_bilevel._base.arrays import BoolArray, FloatArray, IntArray
from tabular_bilevel._base.jit import elements, kernel, patient_kernel

__all__ = [
    "leader_measures", "linear_sweeps", "look_ahead", "soft_gap", "soft_policy_iteration",
    "soft_value_iteration", "sparse_product",
]  # fmt: skip


@patient_kernel(elements)
def sparse_product(
    indptr: IntArray, indices: IntArray, data: FloatArray, vector: FloatArray, total: FloatArray
) -> None:
    """Add a CSR matrix times a vector."""
    for row in range(total.size):
        product = 0.0
        for k in range(np.uint64(indptr[row]), np.uint64(indptr[row + 1])):
            product += data[k] * vector[np.uint64(indices[k])]  # no sign to look at
        total[row] += product


# States whose transitions stay at hand while they are gone through twice.
BLOCK = 64


@kernel
def linear_sweeps(
    indptr: IntArray,
    indices: IntArray,
    data: FloatArray,
    discount: float,
    stays: FloatArray,
    b: FloatArray,
    along: FloatArray,
    against: FloatArray,
    lost: FloatArray,
    tolerance: float,
    max_sweeps: int,
    x: FloatArray,
) -> float:
    """Solve x = b + discount P x state by state in place, until max |change| <= tolerance.

    Gauss and Seidel's sweeps, in each block even states first: on a map, neighbours would wait for
    each other.
    Before each sweep x gains the multiple of `along` by which `against` times the residual becomes
    0: `lost` is against - discount P^T against, and times `along` it is 1. `stays` is 1 over
    1 - discount P(s|s).
    Returns the last sweep's change; the residual is at most that, times P's largest row.
    """
    whole = 0.0
    for s in range(x.size):
        whole += against[s] * b[s]
    share = whole
    for s in range(x.size):
        share -= lost[s] * x[s]
    change = np.inf
    sweeps = 0
    while sweeps < max_sweeps and change > tolerance:
        for s in range(x.size):
            x[s] += share * along[s]
        share = whole
        change = 0.0
        for turn in range(2 * ((x.size + BLOCK - 1) // BLOCK)):
            block = turn // 2 * BLOCK
            for s in range(block + turn % 2, min(block + BLOCK, x.size), 2):
                ahead = 0.0
                for k in range(np.uint64(indptr[s]), np.uint64(indptr[s + 1])):
                    ahead += data[k] * x[np.uint64(indices[k])]
                step = (b[s] + discount * ahead - x[s]) * stays[s]
                change = max(change, abs(step))
                x[s] += step
                share -= lost[s] * x[s]
        sweeps += 1
    return change


@kernel
def soft_value_iteration(
    indptr: IntArray,
    indices: IntArray,
    data: FloatArray,
    reward: FloatArray,
    available: BoolArray,
    discount: float,
    temperature: float,
    tolerance: float,
    max_sweeps: int,
    scratch: FloatArray,
    action_value: FloatArray,
    value: FloatArray,
) -> tuple[int, float]:
    """Sweep V <- T V until max |T V - V| <= tolerance; `value` holds the last T V.

    Returns the number of sweeps and the last sweep's change. `scratch` has length S, and
    `action_value` length A.
    """
    n_states, n_actions = reward.shape
    change = np.inf
    sweeps = 0
    while sweeps < max_sweeps and change > tolerance:
        for s in range(n_states):
            scratch[s] = value[s]
        change = 0.0
        for s in range(n_states):
            best = -np.inf
            for a in range(n_actions):
                if available[s, a]:
                    row = s * n_actions + a
                    ahead = 0.0
                    for k in range(indptr[row], indptr[row + 1]):
                        ahead += data[k] * scratch[indices[k]]
                    action_value[a] = reward[s, a] + discount * ahead
                    best = max(best, action_value[a])
            total = 0.0
            for a in range(n_actions):
                if available[s, a]:
                    total += math.exp((action_value[a] - best) / temperature)
            value[s] = best + temperature * math.log(total)
            change = max(change, abs(value[s] - scratch[s]))
        sweeps += 1
    return sweeps, change


@patient_kernel(elements)
def look_ahead(
    indptr: IntArray,
    indices: IntArray,
    data: FloatArray,
    reward: FloatArray,
    available: BoolArray,
    discount: float,
    temperature: float,
    value: FloatArray,
    action_value: FloatArray,
    policy: FloatArray,
) -> None:
    """Look one step ahead: Q of V, and for the policy (Q - max Q) / temperature.

    Their exponentials are what `soft_gap` takes; numpy's are four times as fast as compiled ones.
    """
    n_states, n_actions = reward.shape
    for s in range(n_states):
        best = -np.inf
        for a in range(n_actions):
            action_value[s, a] = -np.inf
            if available[s, a]:
                row = s * n_actions + a
                ahead = 0.0
                for k in range(np.uint64(indptr[row]), np.uint64(indptr[row + 1])):
                    ahead += data[k] * value[np.uint64(indices[k])]  # no sign to look at
                action_value[s, a] = reward[s, a] + discount * ahead
                best = max(best, action_value[s, a])
        for a in range(n_actions):
            policy[s, a] = (action_value[s, a] - best) / temperature


@patient_kernel(elements)
def soft_gap(
    indptr: IntArray,
    data: FloatArray,
    reward: FloatArray,
    temperature: float,
    value: FloatArray,
    action_value: FloatArray,
    policy: FloatArray,
    weights: FloatArray,
    gap: FloatArray,
) -> tuple[float, float]:
    """Make the soft policy of what is in proportion to it, and the gap T V - V.

    `weights` are the policy's chances of each stored transition.

    Returns the largest |gap|, and the scale of the terms of the equation T V = V.
    """
    n_states, n_actions = reward.shape
    residual = 0.0
    scale = temperature
    for s in range(n_states):
        best = -np.inf
        total = 0.0
        for a in range(n_actions):
            best = max(best, action_value[s, a])
            total += policy[s, a]
        earned = 0.0
        for a in range(n_actions):
            chance = policy[s, a] / total
            policy[s, a] = chance
            earned += chance * abs(reward[s, a])
            row = s * n_actions + a
            for k in range(np.uint64(indptr[row]), np.uint64(indptr[row + 1])):
                weights[k] = chance * data[k]
        gap[s] = best + temperature * math.log(total) - value[s]
        if abs(gap[s]) > residual or math.isnan(gap[s]):  # which stays
            residual = abs(gap[s])
        scale = max(scale, abs(value[s]), earned)
    return residual, scale


@kernel
def factor_band(
    indptr: IntArray,
    indices: IntArray,
    weights: FloatArray,
    discount: float,
    place: IntArray,
    band: FloatArray,
) -> None:
    """Factor I - discount P_policy = L U, `weights` being the chances of transitions.

    `place` renumbers the states so that transitions stay within the band: `band` has a row a state
    and 2 w + 1 columns, and comes to hold the factors, L without its diagonal of 1. The matrix is
    dominant by rows: no pivots are needed.
    """
    n_states, width = band.shape[0], band.shape[1] // 2
    n_actions = (indptr.size - 1) // n_states
    # Slices of rows would be counted, which takes as long as a row. One row down in the same column
    # is `down` further; without a sign to look at, loops are vectorised.
    flat, down = band.ravel(), 2 * width
    for i in range(flat.size):
        flat[i] = 0.0
    for s in range(n_states):
        row = place[s] * down + width
        for k in range(np.uint64(indptr[s * n_actions]), np.uint64(indptr[(s + 1) * n_actions])):
            flat[np.uint64(row + place[indices[k]])] -= discount * weights[k]
        flat[row + place[s]] += 1.0
    ends = n_states - 1 if width > 0 else 0
    for i in range(0, ends, 2):  # two pivots at a time: a row is read and written once
        first = i * (down + 1) + width
        second = first + down
        factor = flat[second] / flat[first]
        flat[second] = factor
        for j in range(1, width + 1):
            flat[np.uint64(second + j)] -= factor * flat[np.uint64(first + j)]
        last = width
        while last > 1 and flat[first + last] == 0.0 and flat[second + 1 + last] == 0.0:
            last -= 1
        below = second
        for _ in range(i + 2, min(i + width + 1, n_states)):
            below += down
            factor, other = flat[np.uint64(below)], flat[np.uint64(below + 1)]
            if factor != 0.0 or other != 0.0:
                factor /= flat[first]
                other = (other - factor * flat[first + 1]) / flat[second + 1]
                flat[np.uint64(below)], flat[np.uint64(below + 1)] = factor, other
                for j in range(2, last + 1):
                    flat[np.uint64(below + j)] = (
                        flat[np.uint64(below + j)] - factor * flat[np.uint64(first + j)]
                    ) - other * flat[np.uint64(second + j)]
                flat[below + last + 1] -= other * flat[second + last + 1]
        if i + 1 + width < n_states:
            below += down + 1
            factor = flat[below] / flat[second + 1]
            flat[below] = factor
            for j in range(1, width + 1):
                flat[np.uint64(below + j)] -= factor * flat[np.uint64(second + 1 + j)]


@kernel
def solve_factors(band: FloatArray, x: FloatArray) -> None:
    """Solve L U x = b in place, of the factors of `factor_band`; what was found last comes last."""
    n, width = band.shape[0], band.shape[1] // 2
    for i in range(n):
        total = x[i]
        for j in range(max(0, width - i), width):
            total -= band[i, np.uint64(j)] * x[np.uint64(i + j - width)]
        x[i] = total
    for i in range(n - 1, -1, -1):
        total = x[i]
        for j in range(min(width, n - 1 - i), 0, -1):
            total -= band[i, np.uint64(width + j)] * x[np.uint64(i + j)]
        x[i] = total / band[i, width]


@kernel
def solve_band_transposed(band: FloatArray, x: FloatArray) -> None:
    """Solve (L U)^T x = b in place, of the factors of `factor_band`: if b >= 0, nothing cancels."""
    n, width = band.shape[0], band.shape[1] // 2
    for i in range(n):
        here = x[i] / band[i, width]
        x[i] = here
        for j in range(1, min(width, n - 1 - i) + 1):
            x[np.uint64(i + j)] -= band[i, np.uint64(width + j)] * here
    for i in range(n - 1, -1, -1):
        here = x[i]
        for j in range(max(0, width - i), width):
            x[np.uint64(i + j - width)] -= band[i, np.uint64(j)] * here


@patient_kernel(lambda *arguments: 6 * arguments[10].size * (2 * arguments[11] + 1) ** 2)
def soft_policy_iteration(
    indptr: IntArray,
    indices: IntArray,
    data: FloatArray,
    reward: FloatArray,
    available: BoolArray,
    discount: float,
    temperature: float,
    tolerance: float,
    rounding: float,
    max_iterations: int,
    place: IntArray,
    width: int,
    value: FloatArray,
    action_value: FloatArray,
    policy: FloatArray,
) -> tuple[int, float, float, bool]:
    """Take Newton steps on T V - V = 0 until max |T V - V| <= tolerance * scale of the terms.

    From there one step more leads to rounding, or two: they are left out if the residual is at most
    `rounding` times the scale, and do not count towards `max_iterations`. `place` is that of
    `factor_band`, whose band has 2 `width` + 1 columns.
    Returns the number of steps, the residual of `value`, to which the other outputs belong, the
    scale, and whether the tolerance was reached.
    """
    n_states = value.size
    band, weights = np.empty((n_states, 2 * width + 1)), np.empty(data.size)
    step, gap = np.empty(n_states), np.empty(n_states)
    iterations = 0
    last = factored = False
    while True:
        look_ahead(
            indptr,
            indices,
            data,
            reward,
            available,
            discount,
            temperature,
            value,
            action_value,
            policy,
        )
        for s in range(n_states):
            for a in range(policy.shape[1]):
                policy[s, a] = math.exp(policy[s, a]) if policy[s, a] != 0.0 else 1.0
        residual, scale = soft_gap(
            indptr, data, reward, temperature, value, action_value, policy, weights, gap
        )
        for s in range(n_states):
            step[place[s]] = gap[s]
        near = last or not residual > tolerance * scale
        if last or not residual > rounding * scale or (iterations == max_iterations and not near):
            return iterations, residual, scale, near
        if near and factored:  # the last step's factors nearly always lead to rounding, too
            factored = False
        else:
            factor_band(indptr, indices, weights, discount, place, band)
            last, factored = near, True
        solve_factors(band, step)
        for s in range(n_states):
            value[s] += step[place[s]]
        iterations += 1


@patient_kernel(lambda *arguments: 2 * arguments[9].size * (2 * arguments[10] + 1) ** 2)
def leader_measures(
    indptr: IntArray,
    indices: IntArray,
    data: FloatArray,
    leader_reward: FloatArray,
    initial: FloatArray,
    follower_discount: float,
    leader_discount: float,
    temperature: float,
    policy: FloatArray,
    place: IntArray,
    width: int,
    value: FloatArray,
    action_value: FloatArray,
    occupancy: FloatArray,
    pairs: FloatArray,
    influence: FloatArray,
) -> None:
    """Evaluate the leader and solve the adjoint equations, with one elimination or two.

    `evaluate_leader`, `direct_sensitivities` and `indirect_sensitivities` in one pass: `pairs` is
    the direct part in the leader's reward, `influence` the indirect one in the follower's reward.
    `place` is that of `factor_band`, whose band has 2 `width` + 1 columns.
    """
    n_states, n_actions = policy.shape
    band, weights = np.empty((n_states, 2 * width + 1)), np.empty(data.size)
    earned, arriving = np.empty(n_states), np.empty(n_states)
    for s in range(n_states):
        mean = 0.0
        for a in range(n_actions):
            row = s * n_actions + a
            mean += policy[s, a] * leader_reward[s, a]
            for k in range(indptr[row], indptr[row + 1]):
                weights[k] = policy[s, a] * data[k]
        earned[place[s]], arriving[place[s]] = mean, initial[s]
    factor_band(indptr, indices, weights, leader_discount, place, band)
    solve_factors(band, earned)
    solve_band_transposed(band, arriving)
    for s in range(n_states):
        value[s], occupancy[s] = earned[place[s]], arriving[place[s]]
    for s in range(n_states):
        arriving[s] = 0.0
    for s in range(n_states):
        lasting, mean, rest = occupancy[s], 0.0, 0.0
        for a in range(n_actions):
            row = s * n_actions + a
            ahead = 0.0
            for k in range(indptr[row], indptr[row + 1]):
                ahead += data[k] * value[indices[k]]
            action_value[s, a] = leader_reward[s, a] + leader_discount * ahead
            pairs[s, a] = lasting * policy[s, a]
            mean += pairs[s, a] * action_value[s, a]
        for a in range(n_actions):  # twice, as `centred` does
            influence[s, a] = lasting * action_value[s, a] - mean
            rest += policy[s, a] * influence[s, a]
        for a in range(n_actions):
            influence[s, a] = policy[s, a] * (influence[s, a] - rest) / temperature
            row = s * n_actions + a
            for k in range(indptr[row], indptr[row + 1]):
                arriving[place[indices[k]]] += follower_discount * data[k] * influence[s, a]
    if follower_discount != leader_discount:
        factor_band(indptr, indices, weights, follower_discount, place, band)
    solve_band_transposed(band, arriving)
    for s in range(n_states):
        for a in range(n_actions):
            influence[s, a] += policy[s, a] * arriving[place[s]]
