"""Kernels of bounds: the follower's policy, with twice float64's digits."""

from __future__ import annotations

import math

import numpy as np

from tabular_bilevel._base.arrays import BoolArray, FloatArray, IntArray
from tabular_bilevel._base.jit import elements, kernel, patient_kernel
from tabular_bilevel._base.kernels.doubled import (
    DOUBLED,
    DOUBLED_EXP,
    FLOOR,
    LOG_FLOOR,
    NEGLIGIBLE,
    ROUNDOFF,
    UNDERFLOW,
    exponentials,
    growth,
    likeliest_actions,
    moved_probability,
    quick_sum,
    quotient,
    two_product,
    two_sum,
)

__all__ = ["move_policy", "policy_errors", "soft_policy"]


@kernel
def best_actions(
    gap: FloatArray,
    rest: FloatArray,
    error: FloatArray,
    available: BoolArray,
    best: IntArray,
    top: FloatArray,
    top_rest: FloatArray,
    top_error: FloatArray,
) -> None:
    """Find each state's action with the largest gap + rest; a NaN is that."""
    n_states, n_actions = gap.shape
    for s in range(n_states):
        best[s], top[s], top_rest[s], top_error[s] = 0, -np.inf, -np.inf, 0.0
    for a in range(n_actions):
        for s in range(n_states):
            here, more, off = gap[s, a], rest[s, a], error[s, a]
            most, most_rest, most_off = top[s], top_rest[s], top_error[s]
            better = here > most or (here == most and more > most_rest) or math.isnan(here)
            better = available[s, a] and better
            best[s] = a if better else best[s]
            top[s] = here if better else most
            top_rest[s] = more if better else most_rest
            top_error[s] = off if better else most_off


@kernel
def logits(
    gap: FloatArray,
    rest: FloatArray,
    error: FloatArray,
    available: BoolArray,
    temperature: float,
    best: IntArray,
    top: FloatArray,
    top_rest: FloatArray,
    top_error: FloatArray,
    logit: FloatArray,
    logit_rest: FloatArray,
    off: FloatArray,
) -> None:
    """Compute (gap - that of the best action) / temperature, the sum of two numbers, with errors.

    NEGLIGIBLE where an action is unavailable.
    """
    n_states, n_actions = gap.shape
    for a in range(n_actions):
        for s in range(n_states):
            here, other = gap[s, a], available[s, a] and best[s] != a
            apart, slip = two_sum(here, -top[s])
            apart, slip = quick_sum(apart, slip + (rest[s, a] - top_rest[s]))
            high = apart / temperature
            high = high if high > -1e300 else -1e300
            product, lost = two_product(high, temperature)
            more = (((apart - product) - lost) + slip) / temperature
            unsure = error[s, a] + top_error[s] + DOUBLED * (abs(here) + abs(top[s]))
            unsure = (unsure + (UNDERFLOW if apart != 0.0 else 0.0)) / temperature
            off[s, a] = unsure + DOUBLED * abs(high) + FLOOR if other else 0.0
            logit_rest[s, a] = more if other and high > NEGLIGIBLE else 0.0
            high = high if other else 0.0
            logit[s, a] = high if available[s, a] else NEGLIGIBLE


@kernel
def weights(
    available: BoolArray,
    policy: FloatArray,
    low: FloatArray,
    log_error: FloatArray,
    spare: FloatArray,
    log_policy: FloatArray,
    log_policy_error: FloatArray,
    missing: FloatArray,
) -> None:
    """Turn logits, as of `logits`, into what is in proportion to the policy, as of `soft_policy`.

    `missing` is by what all errors of a state come to more than `totals` says.
    """
    n_states, n_actions = policy.shape
    for s in range(n_states):
        missing[s] = 0.0
    odd = 0
    exponentials(log_policy, spare, policy, low)
    for a in range(n_actions):
        for s in range(n_states):
            here, off, rest = log_policy[s, a], log_error[s, a], spare[s, a]
            high, lower = policy[s, a], low[s, a]
            policy[s, a] = high if available[s, a] else 0.0
            low[s, a] = lower if available[s, a] else 0.0
            log_off = off + ROUNDOFF * abs(here) if here > -1e300 else np.inf
            log_policy_error[s, a] = log_off if available[s, a] else 0.0
            off = off + DOUBLED_EXP if off != 0.0 else 0.0  # of another one than the best
            here = here + rest if available[s, a] else 0.0
            odd += not (here - off > NEGLIGIBLE and off < 1.0)
            log_policy[s, a], log_error[s, a], spare[s, a] = here, off, 0.0
    if odd == 0:
        return
    for s in range(n_states):
        for a in range(n_actions):
            here, off = log_policy[s, a], log_error[s, a]
            if not here - off > NEGLIGIBLE:
                policy[s, a], low[s, a], log_error[s, a] = math.exp(here), 0.0, 0.0
                spare[s, a] = FLOOR if here + off < LOG_FLOOR else np.inf
            elif not off < 1.0:
                missing[s] += policy[s, a] * max(growth(off) - (off + off * off), 0.0)


@kernel
def totals(
    policy: FloatArray,
    low: FloatArray,
    log_error: FloatArray,
    spare: FloatArray,
    total: FloatArray,
    total_rest: FloatArray,
    fraction: FloatArray,
    log_total: FloatArray,
) -> None:
    """Add up weights: the sums, of two numbers each, and less their logarithms.

    A sum is off by its terms' errors, which weigh as much as they do: by `fraction` of it, which
    holds what is missing to begin with.
    """
    n_states, n_actions = policy.shape
    for s in range(n_states):
        total[s] = total_rest[s] = 0.0
    for a in range(n_actions):
        for s in range(n_states):
            total[s], lost = two_sum(total[s], policy[s, a])
            total_rest[s] += lost + low[s, a]
            off = log_error[s, a]
            fraction[s] += policy[s, a] * (off + off * off) + spare[s, a]
    rounding = (n_actions + 2.0) * (n_actions + 2.0) * DOUBLED
    for s in range(n_states):
        part = fraction[s] / total[s] + rounding
        part = part / (1.0 - part) * (1.0 + 8.0 * ROUNDOFF) if part < 0.5 else np.inf
        fraction[s] = part if fraction[s] != 0.0 else 0.0  # a single action's is 1
    for s in range(n_states):
        log_total[s] = -math.log(total[s])


@kernel
def shares(
    available: BoolArray,
    total: FloatArray,
    total_rest: FloatArray,
    fraction: FloatArray,
    log_total: FloatArray,
    policy: FloatArray,
    low: FloatArray,
    log_error: FloatArray,
    log_policy: FloatArray,
    log_policy_error: FloatArray,
) -> None:
    """Divide weights by their totals."""
    n_states, n_actions = policy.shape
    for a in range(n_actions):
        for s in range(n_states):
            policy[s, a], low[s, a] = quotient(policy[s, a], low[s, a], total[s], total_rest[s])
            several = available[s, a] and fraction[s] != 0.0
            log_error[s, a] += fraction[s] + DOUBLED if several else 0.0
            here = log_policy[s, a] - (log_total[s] if available[s, a] else 0.0)
            rounding = 2.0 * ROUNDOFF * (abs(here) + log_total[s])
            off = fraction[s] + DOUBLED_EXP + rounding
            log_policy[s, a] = here
            log_policy_error[s, a] += off if several else 0.0


@kernel
def soft_residuals(
    top: FloatArray,
    top_rest: FloatArray,
    top_error: FloatArray,
    total: FloatArray,
    total_rest: FloatArray,
    back: FloatArray,
    back_rest: FloatArray,
    fraction: FloatArray,
    temperature: float,
    log_total: FloatArray,
    residual: FloatArray,
    residual_error: FloatArray,
) -> None:
    """Compute top + temperature log(total) with twice float64's digits, then round.

    `log_total` holds less the logarithms in float64, of which `back` and its rest are the
    exponentials; it comes to hold the logarithms.
    """
    for s in range(total.size):
        # log(total) = logarithm + log(1 + more)
        logarithm = -log_total[s]
        product, slip = two_product(total[s], back[s])
        more = (product - 1.0) + (slip + (total[s] * back_rest[s] + total_rest[s] * back[s]))
        more -= 0.5 * more * more
        log_total[s] = logarithm + more
        product, slip = two_product(temperature, logarithm)
        high, lost = two_sum(top[s], product)
        high += lost + (top_rest[s] + (slip + temperature * more))
        off = temperature * (fraction[s] + 2.0 * DOUBLED_EXP + DOUBLED * logarithm)
        off += top_error[s] + DOUBLED * abs(top[s])
        residual[s] = high
        residual_error[s] = off + 2.0 * ROUNDOFF * abs(high) + UNDERFLOW


@patient_kernel(elements)
def soft_policy(
    gap: FloatArray,
    rest: FloatArray,
    error: FloatArray,
    available: BoolArray,
    temperature: float,
    policy: FloatArray,
    low: FloatArray,
    log_error: FloatArray,
    spare: FloatArray,
    log_policy: FloatArray,
    log_policy_error: FloatArray,
    residual: FloatArray,
    residual_error: FloatArray,
    best: IntArray,
    scratch: FloatArray,
) -> None:
    """Turn gaps Q(s,a) - V(s) into a policy and V's soft residual T V - V.

    The gaps, the sum of two numbers each, are off by `error`. So is the policy the sum of two, and
    `log_error` bounds what its logarithm is off by; where `spare` is not 0, that may be anything,
    and the probability is less than that. `log_policy`, which underflow leaves alone, is off by at
    most `log_policy_error`, and the residual by `residual_error`. `best` and `scratch`, of shape
    (10, S), are room.
    """
    top, top_rest, top_error = scratch[0], scratch[1], scratch[2]
    total, total_rest, fraction, log_total = scratch[3], scratch[4], scratch[5], scratch[6]
    best_actions(gap, rest, error, available, best, top, top_rest, top_error)
    logits(
        gap, rest, error, available, temperature, best, top, top_rest, top_error, log_policy, spare,
        log_error,
    )  # fmt: skip
    weights(available, policy, low, log_error, spare, log_policy, log_policy_error, fraction)
    totals(policy, low, log_error, spare, total, total_rest, fraction, log_total)
    scratch[7] = 0.0
    exponentials(scratch[6:7].T, scratch[7:8].T, scratch[8:9].T, scratch[9:].T)
    soft_residuals(
        top, top_rest, top_error, total, total_rest, scratch[8], scratch[9], fraction, temperature,
        log_total, residual, residual_error,
    )  # fmt: skip
    shares(
        available, total, total_rest, fraction, log_total, policy, low, log_error, log_policy,
        log_policy_error,
    )  # fmt: skip


@kernel
def turns(
    moved: FloatArray,
    error: FloatArray,
    available: BoolArray,
    temperature: float,
    policy: FloatArray,
    log_error: FloatArray,
    spare: FloatArray,
    best: IntArray,
    here: FloatArray,
    here_error: FloatArray,
    mean: FloatArray,
    off: FloatArray,
    most: FloatArray,
    several: FloatArray,
) -> None:
    """Compute the first two moments of how far logits turn, and what their logarithm is off by."""
    n_states, n_actions = moved.shape
    for s in range(n_states):
        here[s] = here_error[s] = mean[s] = off[s] = most[s] = several[s] = 0.0
    for a in range(n_actions):
        for s in range(n_states):
            here[s] += moved[s, a] if best[s] == a else 0.0
            here_error[s] += error[s, a] if best[s] == a else 0.0
    for a in range(n_actions):
        for s in range(n_states):
            other, chance = available[s, a] and best[s] != a, policy[s, a]
            turn = (moved[s, a] - here[s]) / temperature
            size, x = abs(turn), log_error[s, a]
            apart = (error[s, a] + here_error[s]) / temperature
            unsure = 1.0 if x >= 1.0 else chance * (x + x * x)
            unsure = chance * apart + (unsure + spare[s, a]) * size + UNDERFLOW
            mean[s] += chance * turn if other else 0.0
            off[s] += unsure if other else 0.0
            most[s] = size if other and not size <= most[s] else most[s]
            several[s] += 1.0 if other else 0.0
    scale = (n_actions + 4.0) * ROUNDOFF
    for s in range(n_states):
        off[s] += 4.0 * most[s] * (scale + most[s] * most[s])
        most[s] = 0.0  # from here on, the variance
    for a in range(n_actions):
        for s in range(n_states):
            turn = (moved[s, a] - here[s]) / temperature - mean[s]
            most[s] += policy[s, a] * turn * turn if available[s, a] else 0.0
    for s in range(n_states):
        mean[s] += 0.5 * most[s]


@kernel
def turn_logits(
    moved: FloatArray,
    error: FloatArray,
    available: BoolArray,
    temperature: float,
    best: IntArray,
    here: FloatArray,
    here_error: FloatArray,
    mean: FloatArray,
    off: FloatArray,
    several: FloatArray,
    policy: FloatArray,
    low: FloatArray,
    log_error: FloatArray,
    spare: FloatArray,
    log_policy: FloatArray,
    log_policy_error: FloatArray,
) -> None:
    """Turn the logits of states with several actions, and their policy, to second order."""
    n_states, n_actions = moved.shape
    for a in range(n_actions):
        for s in range(n_states):
            turns = available[s, a] and several[s] > 0.0
            turn = (moved[s, a] - here[s]) / temperature - mean[s]
            turn = turn if turns else 0.0
            more = policy[s, a] * (turn + 0.5 * turn * turn)
            policy[s, a], low[s, a] = two_sum(policy[s, a], low[s, a] + more)
            log_policy[s, a] += turn
            apart = (error[s, a] + here_error[s]) / temperature
            apart = apart if available[s, a] and best[s] != a else 0.0
            more = off[s] + DOUBLED if turns else 0.0
            # a spare chance has room for what is apart
            log_error[s, a] += more + (apart if spare[s, a] == 0.0 else 0.0)
            more += ROUNDOFF * abs(log_policy[s, a]) if turns else 0.0
            log_policy_error[s, a] += more + apart


@patient_kernel(elements)
def move_policy(
    moved: FloatArray,
    error: FloatArray,
    available: BoolArray,
    temperature: float,
    policy: FloatArray,
    low: FloatArray,
    log_error: FloatArray,
    spare: FloatArray,
    log_policy: FloatArray,
    log_policy_error: FloatArray,
    residual: FloatArray,
    residual_error: FloatArray,
    best: IntArray,
    scratch: FloatArray,
) -> None:
    """Let a policy and a residual, as of `soft_policy`, follow gaps as `move_gaps` moved them.

    With t = moved / temperature, less that of the likeliest action, of which 2^-20 is a lot,
    log(sum pi e^t) is the mean of t and half its variance, but for 2 max |t|^3, and e^x is
    1 + x + x^2 / 2, but for another 2 max |t|^3. `best` and `scratch`, of shape (6, S), are room.
    """
    here, here_error, mean = scratch[0], scratch[1], scratch[2]
    off, most, several = scratch[3], scratch[4], scratch[5]
    likeliest_actions(policy, best, most)
    turns(
        moved, error, available, temperature, policy, log_error, spare, best, here, here_error,
        mean, off, most, several,
    )  # fmt: skip
    turn_logits(
        moved, error, available, temperature, best, here, here_error, mean, off, several, policy,
        low, log_error, spare, log_policy, log_policy_error,
    )  # fmt: skip
    for s in range(residual.size):
        residual[s] += here[s] + temperature * mean[s]
        residual_error[s] += here_error[s] + temperature * off[s]
        residual_error[s] += ROUNDOFF * (abs(here[s]) + abs(residual[s]))


@kernel
def count_available(available: BoolArray, count: FloatArray) -> None:
    """Count each state's available actions."""
    n_states, n_actions = available.shape
    for s in range(n_states):
        count[s] = 0.0
    for a in range(n_actions):
        for s in range(n_states):
            count[s] += 1.0 if available[s, a] else 0.0


@kernel
def probability_errors(
    policy: FloatArray,
    log_error: FloatArray,
    spare: FloatArray,
    available: BoolArray,
    several: FloatArray,
    off: float,
    log_policy_error: FloatArray,
    error: FloatArray,
) -> int:
    """Bound what probabilities are off by, as `moved_probability`; count where that takes more."""
    n_states, n_actions = policy.shape
    odd = 0
    for a in range(n_actions):
        for s in range(n_states):
            choice = available[s, a] and several[s] > 1.0
            x = log_error[s, a] + off
            odd += choice and not (x < 1.0 and spare[s, a] == 0.0)
            unsure = policy[s, a] * (x + x * x)
            unsure = unsure if unsure < 1.0 else 1.0
            error[s, a] = unsure if choice else 0.0
            log_policy_error[s, a] += off if choice else 0.0
    return odd


@patient_kernel(elements)
def policy_errors(
    policy: FloatArray,
    log_error: FloatArray,
    spare: FloatArray,
    available: BoolArray,
    gap: FloatArray,
    gap_error: FloatArray,
    value: FloatArray,
    ahead_error: float,
    temperature: float,
    log_policy_error: FloatArray,
    error: FloatArray,
    action_value: FloatArray,
    action_value_error: FloatArray,
    several: FloatArray,
) -> None:
    """Bound what the policy is off by, as the value ahead is off by `ahead_error` at most.

    The error of its logarithm grows by it. The action values are those of the value; 0 where an
    action is unavailable. `several`, of length S, is room.
    """
    n_states, n_actions = policy.shape
    for s in range(n_states):
        here = value[s]
        for a in range(n_actions):
            action_value[s, a] = action_value_error[s, a] = 0.0
            if available[s, a]:
                rounding = 3.0 * ROUNDOFF * (abs(gap[s, a]) + abs(here))
                action_value[s, a] = gap[s, a] + here
                action_value_error[s, a] = gap_error[s, a] + rounding + ahead_error
    off = 2.0 * ahead_error / temperature
    count_available(available, several)
    odd = probability_errors(
        policy, log_error, spare, available, several, off, log_policy_error, error
    )
    for s in range(n_states if odd > 0 else 0):
        for a in range(n_actions):
            if available[s, a] and several[s] > 1.0:
                log_off = log_error[s, a] + off
                error[s, a] = moved_probability(policy[s, a], spare[s, a], log_off)
