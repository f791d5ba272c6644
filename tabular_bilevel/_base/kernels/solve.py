"""Kernels that solve for the follower."""

from __future__ import annotations

import math

import numpy as np

from tabular_bilevel._base.arrays import BoolArray, FloatArray, IntArray
from tabular_bilevel._base.jit import kernel

__all__ = [
    "soft_bellman",
    "soft_policy_iteration",
    "soft_value_iteration",
    "sparse_product",
]


@kernel
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


@kernel
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
    weights: FloatArray,
    gap: FloatArray,
) -> tuple[float, float]:
    """Look one step ahead: Q of V, its soft policy, and the gap T V - V.

    `weights` are the policy's chances of each stored transition.

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
    value: FloatArray,
    action_value: FloatArray,
    policy: FloatArray,
) -> tuple[int, float]:
    """Take Newton steps on T V - V = 0 until max |T V - V| <= tolerance * scale of the terms.

    `place` renumbers the states so that transitions stay within the band: `band` has a row a state
    and 2 w + 1 columns. The matrix I - discount P_policy is dominant by rows: no pivots are needed.
    Returns the number of steps and the residual of `value`, to which the other outputs belong.
    """
    n_states, n_actions = reward.shape
    width = band.shape[1] // 2
    weights = np.empty(data.size)
    gap = np.empty(n_states)
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
            weights,
            gap,
        )
        for s in range(n_states):
            step[place[s]] = gap[s]
        if not residual > tolerance * scale or iterations == max_iterations:
            return iterations, residual
        band[:] = 0.0
        for s in range(n_states):
            i = place[s]
            for a in range(n_actions):
                row = s * n_actions + a
                for k in range(indptr[row], indptr[row + 1]):
                    band[i, place[indices[k]] - i + width] -= discount * weights[k]
            band[i, width] += 1.0
        for i in range(n_states):
            for below in range(i + 1, min(i + width + 1, n_states)):
                left = i - below + width
                factor = band[below, left] / band[i, width]
                if factor != 0.0:
                    pivot = band[i, width + 1 :]
                    target = band[below, left + 1 :]
                    for j in range(width):
                        target[j] -= factor * pivot[j]
                    step[below] -= factor * step[i]
        for i in range(n_states - 1, -1, -1):
            total = step[i]
            for j in range(1, min(width, n_states - 1 - i) + 1):
                total -= band[i, width + j] * step[i + j]
            step[i] = total / band[i, width]
        for s in range(n_states):
            value[s] += step[place[s]]
        iterations += 1
