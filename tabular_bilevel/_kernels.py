"""All compiled code: plain arrays in, outputs filled, no checks.

Everything a kernel needs is an argument or in this file, so that numba's cache, which looks at this
file alone, is never stale. Each has a slow, readable twin in tests/twins.py. Kernels of a model
take its transitions as ``indptr, indices, data`` of a CSR matrix with row s * A + a.
"""

from __future__ import annotations

import math

import numpy as np

from tabular_bilevel._arrays import BoolArray, FloatArray, IntArray
from tabular_bilevel._jit import kernel

__all__ = ["eligibility_traces", "sample_trajectories", "sarsa", "soft_value_iteration"]


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
    value: FloatArray,
) -> tuple[int, float]:
    """Sweep V <- T V until max |T V - V| <= tolerance; `value` holds the last T V.

    Returns the number of sweeps and the last sweep's change.
    """
    n_states, n_actions = reward.shape
    action_value = np.empty(n_actions)
    change = np.inf
    sweeps = 0
    while sweeps < max_sweeps and change > tolerance:
        scratch[:] = value
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
def sample_trajectories(
    rng: np.random.Generator,
    indptr: IntArray,
    indices: IntArray,
    data: FloatArray,
    termination: FloatArray,
    initial: FloatArray,
    policy: FloatArray,
    states: IntArray,
    actions: IntArray,
    next_states: IntArray,
    lengths: IntArray,
) -> None:
    """Fill one row a trajectory, until it ends or the columns do; -1 is the state after the end.

    Draws by inversion, one uniform number for the start and two for each step. Where rounding
    leaves a gap at the top of a distribution, the last possible outcome is taken.
    """
    n_states, n_actions = policy.shape
    count, horizon = states.shape
    for i in range(count):
        u = rng.random()
        state = -1
        for s in range(n_states):
            if initial[s] > 0.0:
                state = s
                if u < initial[s]:
                    break
                u -= initial[s]
        t = 0
        while t < horizon and state >= 0:
            u = rng.random()
            action = -1
            for a in range(n_actions):
                if policy[state, a] > 0.0:
                    action = a
                    if u < policy[state, a]:
                        break
                    u -= policy[state, a]
            row = state * n_actions + action
            u = rng.random()
            following = -1
            inside = False
            for k in range(indptr[row], indptr[row + 1]):
                if data[k] > 0.0:
                    following = indices[k]
                    if u < data[k]:
                        inside = True
                        break
                    u -= data[k]
            if not inside and termination[state, action] > 0.0:
                following = -1
            states[i, t] = state
            actions[i, t] = action
            next_states[i, t] = following
            state = following
            t += 1
        lengths[i] = t


@kernel
def eligibility_traces(
    states: IntArray,
    actions: IntArray,
    next_states: IntArray,
    lengths: IntArray,
    indptr: IntArray,
    indices: IntArray,
    data: FloatArray,
    initial: FloatArray,
    follower_discount: float,
    leader_discount: float,
    scaled_advantage: FloatArray,
    follower_next: FloatArray,
    leader_next: FloatArray,
    follower_ahead: FloatArray,
    leader_ahead: FloatArray,
    first_value: FloatArray,
    influence: FloatArray,
    occupancy: FloatArray,
    direct_transition: FloatArray,
    indirect_transition: FloatArray,
    direct_initial: FloatArray,
) -> None:
    """Add up the sampled sensitivities of all trajectories in one pass (theory.md section 6).

    `scaled_advantage` is A_L / temperature, the `_next` arrays (S,) are what arriving is worth,
    the `_ahead` arrays (S, A) baselines of it, `first_value` (S,) what starting is worth.
    Derivatives with respect to a probability are weights of its logarithm's, so they are divided by
    the probability.
    """
    n_actions = scaled_advantage.shape[1]
    for i in range(states.shape[0]):
        first = states[i, 0]
        direct_initial[first] += first_value[first] / initial[first]
        eligibility = 0.0
        weight = 1.0
        for t in range(lengths[i]):
            s, a, following = states[i, t], actions[i, t], next_states[i, t]
            eligibility = follower_discount * eligibility + weight * scaled_advantage[s, a]
            influence[s, a] += eligibility
            occupancy[s, a] += weight
            if following >= 0:
                row = s * n_actions + a
                low, high = indptr[row], indptr[row + 1]
                while high - low > 1:
                    middle = (low + high) // 2
                    if indices[middle] <= following:
                        low = middle
                    else:
                        high = middle
                direct = weight * (leader_next[following] - leader_ahead[s, a])
                indirect = eligibility * (follower_next[following] - follower_ahead[s, a])
                direct_transition[low] += direct / data[low]
                indirect_transition[low] += indirect / data[low]
            weight *= leader_discount


@kernel
def sarsa(
    order: IntArray,
    states: IntArray,
    actions: IntArray,
    next_states: IntArray,
    lengths: IntArray,
    reward: FloatArray,
    discount: float,
    step_size: float,
    action_value: FloatArray,
) -> None:
    """Update the table once for each step named in `order` (row * columns + column).

    A step that ends the episode has its reward as target; a trajectory's last step that does not,
    has no next action and is passed over.
    """
    horizon = states.shape[1]
    for flat in order:
        i = flat // horizon
        t = flat % horizon
        s, a, following = states[i, t], actions[i, t], next_states[i, t]
        target = reward[s, a]
        if following >= 0:
            if t + 1 >= lengths[i]:
                continue
            target += discount * action_value[following, actions[i, t + 1]]
        action_value[s, a] += step_size * (target - action_value[s, a])
