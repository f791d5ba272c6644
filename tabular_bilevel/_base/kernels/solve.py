"""Kernels that solve for the follower."""

from __future__ import annotations

import math

import numpy as np

from tabular_bilevel._base.arrays import BoolArray, FloatArray, IntArray
from tabular_bilevel._base.jit import elements, kernel, patient_kernel

__all__ = [
    "invert_band",
    "leader_measures",
    "soft_bellman",
    "soft_policy_iteration",
    "soft_value_iteration",
    "solve_band",
    "sparse_product",
]


@patient_kernel(elements)
def sparse_product(
    indptr: IntArray, indices: IntArray, data: FloatArray, vector: FloatArray, product: FloatArray
) -> None:
    """Multiply a CSR matrix with a vector."""
    for row in range(product.size):
        total = 0.0
        for k in range(indptr[row], indptr[row + 1]):
            total += data[k] * vector[indices[k]]
        product[row] = total


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
def soft_bellman(
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
    gap: FloatArray,
) -> tuple[float, float]:
    """Look one step ahead: Q of V, its soft policy, and the gap T V - V.

    Returns the largest |gap|, and the scale of the terms of the equation T V = V.
    """
    n_states, n_actions = reward.shape
    residual = 0.0
    scale = temperature
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
        total = 0.0
        for a in range(n_actions):
            policy[s, a] = math.exp((action_value[s, a] - best) / temperature)
            total += policy[s, a]
        earned = 0.0
        for a in range(n_actions):
            policy[s, a] /= total
            earned += policy[s, a] * abs(reward[s, a])
        gap[s] = best + temperature * math.log(total) - value[s]
        if not abs(gap[s]) <= residual:  # a NaN stays
            residual = abs(gap[s])
        scale = max(scale, abs(value[s]), earned)
    return residual, scale


@patient_kernel(lambda *arguments: arguments[6].size * arguments[6].shape[1])
def solve_band(
    indptr: IntArray,
    indices: IntArray,
    data: FloatArray,
    policy: FloatArray,
    discount: float,
    place: IntArray,
    band: FloatArray,
    x: FloatArray,
) -> None:
    """Solve (I - discount P_policy) x = b in place, the states in the order of their places.

    `place` renumbers the states so that transitions stay within the band: `band` has a row a state
    and 2 w + 1 columns, and comes to hold the factors L U, L without its diagonal of 1. The matrix
    is dominant by rows: no pivots are needed.
    """
    (n_states, n_actions), width = policy.shape, band.shape[1] // 2
    for i in range(n_states):
        for j in range(2 * width + 1):
            band[i, j] = 0.0
    for s in range(n_states):
        i = place[s]
        here = band[i]
        for a in range(n_actions):
            chance = discount * policy[s, a]
            row = s * n_actions + a
            for k in range(np.uint64(indptr[row]), np.uint64(indptr[row + 1])):
                j = place[np.uint64(indices[k])] - i + width
                here[np.uint64(j)] -= chance * data[k]  # no sign to look at
        here[width] += 1.0
    ends = n_states - 1 if width > 0 else 0
    for i in range(0, ends, 2):  # two pivots at a time: a row is read and written once
        first, second = band[i, width:], band[i + 1, width:]
        below = band[i + 1, width - 1 :]
        factor = below[0] / first[0]
        below[0] = factor
        for j in range(1, width + 1):
            below[j] -= factor * first[j]
        x[i + 1] -= factor * x[i]
        last = width
        while last > 1 and first[last] == 0.0 and second[last] == 0.0:
            last -= 1
        for k in range(i + 2, min(i + width + 1, n_states)):
            below = band[k, i - k + width :]
            if below[0] != 0.0 or below[1] != 0.0:
                factor = below[0] / first[0]
                below[0] = factor
                below[1] -= factor * first[1]
                other = below[1] / second[0]
                below[1] = other
                for j in range(2, last + 1):
                    below[j] = (below[j] - factor * first[j]) - other * second[j - 1]
                below[last + 1] -= other * second[last]
                x[k] = (x[k] - factor * x[i]) - other * x[i + 1]
        if i + 1 + width < n_states:
            below = band[i + 1 + width]
            factor = below[0] / second[0]
            below[0] = factor
            for j in range(1, width + 1):
                below[j] -= factor * second[j]
            x[i + 1 + width] -= factor * x[i + 1]
    for i in range(n_states - 1, -1, -1):
        x[i] /= band[i, width]
        for k in range(max(0, i - width), i):
            x[k] -= band[k, i - k + width] * x[i]


@patient_kernel(lambda *arguments: arguments[0].size * arguments[1].size)
def invert_band(band: FloatArray, place: IntArray, rows: FloatArray, inverse: FloatArray) -> None:
    """Invert what `solve_band` left the factors of: nothing cancels. `rows` (S, S) is scratch."""
    n, width = band.shape[0], band.shape[1] // 2
    for i in range(n):
        here = rows[i]
        for c in range(n):
            here[c] = 0.0
        here[i] = 1.0
        for j in range(max(0, i - width), i):
            factor, there = band[i, j - i + width], rows[j]
            if factor != 0.0:
                for c in range(j + 1):
                    here[c] -= factor * there[c]
    for i in range(n - 1, -1, -1):
        here = rows[i]
        for j in range(i + 1, min(i + width + 1, n)):
            factor, there = band[i, j - i + width], rows[j]
            if factor != 0.0:
                for c in range(n):
                    here[c] -= factor * there[c]
        for c in range(n):
            here[c] /= band[i, width]
    for s in range(n):
        here = rows[place[s]]
        for t in range(n):
            inverse[s, t] = here[place[t]]


@kernel
def solve_band_transposed(band: FloatArray, x: FloatArray) -> None:
    """Solve (L U)^T x = b in place, of the factors of `solve_band`: if b >= 0, nothing cancels."""
    n, width = band.shape[0], band.shape[1] // 2
    for i in range(n):
        x[i] /= band[i, width]
        for j in range(i + 1, min(i + width + 1, n)):
            x[j] -= band[i, j - i + width] * x[i]
    for i in range(n - 1, -1, -1):
        for j in range(max(0, i - width), i):
            x[j] -= band[i, j - i + width] * x[i]


@patient_kernel(lambda *arguments: 6 * arguments[10].size * arguments[10].shape[1])
def soft_policy_iteration(
    indptr: IntArray,
    indices: IntArray,
    data: FloatArray,
    reward: FloatArray,
    available: BoolArray,
    discount: float,
    temperature: float,
    tolerance: float,
    max_iterations: int,
    place: IntArray,
    band: FloatArray,
    step: FloatArray,
    gap: FloatArray,
    value: FloatArray,
    action_value: FloatArray,
    policy: FloatArray,
) -> tuple[int, float, float]:
    """Take Newton steps on T V - V = 0 until max |T V - V| <= tolerance * scale of the terms.

    `place` and `band` are those of `solve_band`, and `step` and `gap` have length S.
    Returns the number of steps, the residual of `value`, to which the other outputs belong, and the
    scale.
    """
    n_states = value.size
    iterations = 0
    while True:
        residual, scale = soft_bellman(
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
            gap,
        )
        if not residual > tolerance * scale or iterations == max_iterations:
            return iterations, residual, scale
        for s in range(n_states):
            step[place[s]] = gap[s]
        solve_band(indptr, indices, data, policy, discount, place, band, step)
        for s in range(n_states):
            value[s] += step[place[s]]
        iterations += 1


@patient_kernel(lambda *arguments: 2 * arguments[11].size * arguments[11].shape[1])
def leader_measures(
    indptr: IntArray,
    indices: IntArray,
    data: FloatArray,
    leader_reward: FloatArray,
    initial: FloatArray,
    follower_discount: float,
    leader_discount: float,
    temperature: float,
    follower_value: FloatArray,
    policy: FloatArray,
    place: IntArray,
    band: FloatArray,
    value: FloatArray,
    action_value: FloatArray,
    occupancy: FloatArray,
    continuation: FloatArray,
    pairs: FloatArray,
    direct: FloatArray,
    influence: FloatArray,
    indirect: FloatArray,
) -> None:
    """Evaluate the leader and solve the adjoint equations, with one elimination or two.

    `evaluate_leader`, `direct_sensitivities` and `indirect_sensitivities` in one pass: `pairs` and
    `direct` are the direct part in the leader's reward and the kernel, `influence` and `indirect`
    the indirect one in the follower's reward and the kernel. `place` and `band` are those of
    `solve_band`.
    """
    n_states, n_actions = policy.shape
    earned, arriving = np.empty(n_states), np.empty(n_states)
    for s in range(n_states):
        mean = 0.0
        for a in range(n_actions):
            mean += policy[s, a] * leader_reward[s, a]
        earned[place[s]], arriving[place[s]] = mean, initial[s]
    solve_band(indptr, indices, data, policy, leader_discount, place, band, earned)
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
        solve_band(indptr, indices, data, policy, follower_discount, place, band, earned)
    solve_band_transposed(band, arriving)
    for s in range(n_states):
        for a in range(n_actions):
            influence[s, a] += policy[s, a] * arriving[place[s]]
            row = s * n_actions + a
            for k in range(indptr[row], indptr[row + 1]):
                j = indices[k]
                continuation[k] = occupancy[s] * value[j]
                direct[k] = leader_discount * policy[s, a] * continuation[k]
                indirect[k] = follower_discount * influence[s, a] * follower_value[j]
