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

__all__ = [
    "action_reach",
    "advantages",
    "balance",
    "eligibility_traces",
    "flow_residual",
    "influence_sources",
    "monte_carlo",
    "outward",
    "pad",
    "pullback_errors",
    "sample_trajectories",
    "sarsa",
    "slope_errors",
    "soft_policy",
    "soft_policy_iteration",
    "soft_value_iteration",
    "sparse_product",
    "temporal_differences",
    "value_gaps",
    "visits",
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
    iterations = 0
    while True:
        residual = 0.0
        scale = temperature
        for s in range(n_states):
            best = -np.inf
            for a in range(n_actions):
                if available[s, a]:
                    row = s * n_actions + a
                    ahead = 0.0
                    for k in range(indptr[row], indptr[row + 1]):
                        ahead += data[k] * value[indices[k]]
                    action_value[s, a] = reward[s, a] + discount * ahead
                    best = max(best, action_value[s, a])
                else:
                    action_value[s, a] = -np.inf
            total = 0.0
            for a in range(n_actions):
                weight = 0.0
                if available[s, a]:
                    weight = math.exp((action_value[s, a] - best) / temperature)
                policy[s, a] = weight
                total += weight
            earned = 0.0
            for a in range(n_actions):
                policy[s, a] /= total
                earned += policy[s, a] * abs(reward[s, a])
            gap = best + temperature * math.log(total) - value[s]
            step[place[s]] = gap
            if abs(gap) > residual or math.isnan(gap):  # which stays
                residual = abs(gap)
            scale = max(scale, abs(value[s]), earned)
        if not residual > tolerance * scale or iterations == max_iterations:
            return iterations, residual
        band[:] = 0.0
        for s in range(n_states):
            i = place[s]
            for a in range(n_actions):
                row = s * n_actions + a
                weight = discount * policy[s, a]
                for k in range(indptr[row], indptr[row + 1]):
                    band[i, place[indices[k]] - i + width] -= weight * data[k]
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


@kernel
def sample_trajectories(
    rng: np.random.Generator,
    indptr: IntArray,
    indices: IntArray,
    data: FloatArray,
    termination: FloatArray,
    initial: FloatArray,
    policy: FloatArray,
    horizon: int,
    budget: int,
    survival: float,
    states: IntArray,
    actions: IntArray,
    next_states: IntArray,
    lengths: IntArray,
) -> tuple[int, int, int]:
    """Fill in the steps of one trajectory after another; -1 is the state after the end.

    A trajectory is cut after `horizon` steps, and where there have been `budget` in all; after each
    step it goes on with probability `survival`. None is begun that might not find room. Returns the
    number of trajectories, of steps in all, and of steps in the longest.

    Draws by inversion, one uniform number for the start, two for each step, and one to survive it
    if that is uncertain. Where rounding leaves a gap at the top of a distribution, the last
    possible outcome is taken.
    """
    n_states, n_actions = policy.shape
    count = total = longest = 0
    while count < lengths.size and total < budget:
        limit = min(horizon, budget - total)
        if total + limit > states.size:
            break
        u = rng.random()
        state = -1
        for s in range(n_states):
            if initial[s] > 0.0:
                state = s
                if u < initial[s]:
                    break
                u -= initial[s]
        t = 0
        while t < limit and state >= 0:
            if t > 0 and survival < 1.0 and rng.random() >= survival:
                break
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
            states[total + t] = state
            actions[total + t] = action
            next_states[total + t] = following
            state = following
            t += 1
        lengths[count] = t
        count += 1
        total += t
        longest = max(longest, t)
    return count, total, longest


@kernel
def pad(steps: IntArray, lengths: IntArray, table: IntArray) -> None:
    """Lay out trajectories that follow each other one a row, with -1 beyond each one's length.

    The first axis of `steps` and `table` has what is kept of each step.
    """
    start = 0
    for i in range(lengths.size):
        for k in range(steps.shape[0]):
            for t in range(lengths[i]):
                table[k, i, t] = steps[k, start + t]
            table[k, i, lengths[i] :] = -1
        start += lengths[i]


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
    termination: FloatArray,
    follower_reward: FloatArray,
    leader_reward: FloatArray,
    follower_value: FloatArray,
    follower_action_value: FloatArray,
    leader_value: FloatArray,
    leader_action_value: FloatArray,
    follower_discount: float,
    leader_discount: float,
    trace_discount: float,
    credit_discount: float,
    survival: float,
    credit: FloatArray,
    baseline: bool,
    own_action: bool,
    direct_share: float,
    indirect_share: float,
    influence: FloatArray,
    occupancy: FloatArray,
    direct_transition: FloatArray,
    indirect_transition: FloatArray,
    direct_initial: FloatArray,
    indirect_initial: FloatArray,
) -> None:
    """Add up the sampled sensitivities of all trajectories in one pass (theory.md section 6).

    Step t has the credit credit_discount^t * credit[s, a], which follows the trajectory at
    `trace_discount`; a step that was reached with probability survival^t counts that much more.
    With `baseline` what arriving is worth has taken off what the action values say of it, unless
    the step may end the episode: elsewhere rows sum to one at every theta, so that has mean zero.
    With `own_action` the action taken on arrival counts, too: its credit, and in the direct part
    its advantage. Derivatives with respect to a probability are weights of its logarithm's, so they
    are divided by the probability. The `_share`s multiply all that is added.
    """
    n_actions = credit.shape[1]
    follower_first, leader_first = 0.0, 0.0
    if baseline:
        for s in range(initial.size):
            follower_first += initial[s] * follower_value[s]
            leader_first += initial[s] * leader_value[s]
    for i in range(states.shape[0]):
        first, action = states[i, 0], actions[i, 0]
        worth = leader_value[first] - leader_first
        if own_action:
            worth += leader_action_value[first, action] - leader_value[first]
            indirect = credit[first, action] * (follower_value[first] - follower_first)
            indirect_initial[first] += indirect_share * indirect / initial[first]
        direct_initial[first] += direct_share * worth / initial[first]
        eligibility = 0.0
        weight = 1.0
        credit_weight = 1.0
        for t in range(lengths[i]):
            s, a, following = states[i, t], actions[i, t], next_states[i, t]
            eligibility += credit_weight * credit[s, a]
            influence[s, a] += indirect_share * eligibility
            occupancy[s, a] += direct_share * weight
            if following >= 0:
                row = s * n_actions + a
                low, high = indptr[row], indptr[row + 1]
                while high - low > 1:
                    middle = (low + high) // 2
                    if indices[middle] <= following:
                        low = middle
                    else:
                        high = middle
                worth = follower_discount * follower_value[following]
                leader_worth = leader_discount * leader_value[following]
                if baseline and termination[s, a] == 0.0:
                    worth -= follower_action_value[s, a] - follower_reward[s, a]
                    leader_worth -= leader_action_value[s, a] - leader_reward[s, a]
                direct = weight * leader_worth
                indirect = eligibility * worth
                if own_action and t + 1 < lengths[i]:
                    action = actions[i, t + 1]
                    advantage = leader_action_value[following, action] - leader_value[following]
                    direct += leader_discount / survival * weight * advantage
                    if follower_discount > 0.0:
                        own = credit_discount / survival * credit_weight * credit[following, action]
                        indirect += own * worth / follower_discount
                direct_transition[low] += direct_share * direct / data[low]
                indirect_transition[low] += indirect_share * indirect / data[low]
            eligibility *= trace_discount / survival
            weight *= leader_discount / survival
            credit_weight *= credit_discount / survival


@kernel
def visits(
    states: IntArray,
    actions: IntArray,
    lengths: IntArray,
    discount: float,
    counts: FloatArray,
    weights: FloatArray,
) -> None:
    """Count the visits of each pair, and add up discount^t over them."""
    for i in range(states.shape[0]):
        weight = 1.0
        for t in range(lengths[i]):
            counts[states[i, t], actions[i, t]] += 1.0
            weights[states[i, t], actions[i, t]] += weight
            weight *= discount


@kernel
def monte_carlo(
    states: IntArray,
    actions: IntArray,
    lengths: IntArray,
    reward: FloatArray,
    discount: float,
    counts: FloatArray,
    returns: FloatArray,
) -> None:
    """Count the visits of each pair, and add up the discounted rewards from each visit on."""
    for i in range(states.shape[0]):
        tail = 0.0
        for t in range(lengths[i] - 1, -1, -1):
            s, a = states[i, t], actions[i, t]
            tail = reward[s, a] + discount * tail
            counts[s, a] += 1.0
            returns[s, a] += tail


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
    cut_is_end: bool,
    action_value: FloatArray,
) -> None:
    """Update the table once for each step named in `order` (row * columns + column).

    A step that ends the episode has its reward as target. A trajectory's last step that does not,
    has no next action: it is passed over, or with `cut_is_end` treated as an end.
    """
    horizon = states.shape[1]
    for flat in order:
        i = flat // horizon
        t = flat % horizon
        s, a, following = states[i, t], actions[i, t], next_states[i, t]
        target = reward[s, a]
        if following >= 0:
            if t + 1 < lengths[i]:
                target += discount * action_value[following, actions[i, t + 1]]
            elif not cut_is_end:
                continue
        action_value[s, a] += step_size * (target - action_value[s, a])


@kernel
def temporal_differences(
    order: IntArray,
    states: IntArray,
    actions: IntArray,
    next_states: IntArray,
    reward: FloatArray,
    discount: float,
    step_size: float,
    target_value: FloatArray,
    action_value: FloatArray,
) -> None:
    """Update the table once for each step named in `order` (row * columns + column).

    The target of a step is its reward and, unless it ends the episode, the discounted
    `target_value` (S,) of where it leads.
    """
    horizon = states.shape[1]
    for flat in order:
        i = flat // horizon
        t = flat % horizon
        s, a, following = states[i, t], actions[i, t], next_states[i, t]
        target = reward[s, a]
        if following >= 0:
            target += discount * target_value[following]
        action_value[s, a] += step_size * (target - action_value[s, a])


# Unit roundoff of float64, and the splitter of Dekker's exact product.
ROUNDOFF, SPLITTER = 2.0**-53, 2.0**27 + 1.0

# What the exact product may lose where a partial product underflows.
UNDERFLOW = 2.0**-1060

# Assumed relative error of exp, expm1 and log, in roundoffs: 4 units in the last place. Measured:
# less than 1 unit.
EXP_ROUNDOFFS = 8.0

# Probabilities below exp(-650) < FLOOR are bounded absolutely: float64 may have 0 for them.
FLOOR, NEGLIGIBLE = 2.0**-900, -650.0


@kernel
def two_sum(x: float, y: float) -> tuple[float, float]:
    """Sum and its rounding error, exactly (Knuth)."""
    total = x + y
    part = total - x
    return total, (x - (total - part)) + (y - part)


@kernel
def two_product(x: float, y: float) -> tuple[float, float]:
    """Product and its rounding error, exactly (Dekker, "A floating-point technique", 1971)."""
    product = x * y
    x_high = SPLITTER * x
    x_high = x_high - (x_high - x)
    y_high = SPLITTER * y
    y_high = y_high - (y_high - y)
    x_low, y_low = x - x_high, y - y_high
    error = x_low * y_low - (((product - x_high * y_high) - x_low * y_high) - x_high * y_low)
    return product, error


@kernel
def value_gaps(
    indptr: IntArray,
    indices: IntArray,
    data: FloatArray,
    reward: FloatArray,
    available: BoolArray,
    discount: float,
    value: FloatArray,
    correction: FloatArray,
    gap: FloatArray,
    error: FloatArray,
) -> None:
    """Compute r + discount P v - v(s) for v = value + correction, with twice float64's digits.

    `gap` is rounded once, at the end; `error` bounds how far it is off. With n terms the doubled
    sums are off by less than 4 (n + 8)^2 roundings squared, relative to the terms' sizes, and what
    is made of the correction by n + 8 roundings of that. 0 where an action is unavailable.
    """
    n_states, n_actions = reward.shape
    for s in range(n_states):
        for a in range(n_actions):
            gap[s, a] = error[s, a] = 0.0
            if not available[s, a]:
                continue
            row = s * n_actions + a
            high, low, size, small = 0.0, 0.0, 0.0, 0.0
            something = reward[s, a] != 0.0 or value[s] != 0.0 or correction[s] != 0.0
            for k in range(indptr[row], indptr[row + 1]):
                j = indices[k]
                something = something or value[j] != 0.0 or correction[j] != 0.0
                product, slip = two_product(data[k], value[j])
                high, rest = two_sum(high, product)
                low += rest + (slip + data[k] * correction[j])
                size += abs(product)
                small += data[k] * abs(correction[j])
            high, slip = two_product(discount, high)
            low = discount * low + slip
            high, rest = two_sum(high, reward[s, a])
            low += rest
            high, rest = two_sum(high, -value[s])
            low += rest - correction[s]
            gap[s, a] = high + low
            size = discount * size + abs(reward[s, a]) + abs(value[s])
            small = discount * small + abs(correction[s])
            n = indptr[row + 1] - indptr[row] + 8.0
            error[s, a] = (
                ROUNDOFF * abs(gap[s, a])
                + 4.0 * n * n * ROUNDOFF * ROUNDOFF * size
                + n * ROUNDOFF * small
                + (n * UNDERFLOW if something else 0.0)
            )


@kernel
def flow_residual(
    indptr: IntArray,
    indices: IntArray,
    data: FloatArray,
    source: FloatArray,
    flow: FloatArray,
    policy: FloatArray,
    discount: float,
    measure: FloatArray,
    correction: FloatArray,
    low: FloatArray,
    size: FloatArray,
    small: FloatArray,
    count: FloatArray,
    residual: FloatArray,
    error: FloatArray,
) -> None:
    """Compute source + discount P^T (flow + policy m) - m for m = measure + correction.

    As `value_gaps`, with twice float64's digits, rounded at the end, and `error` a bound; `low`,
    `size`, `small` and `count` are scratch of length S.
    """
    n_states, n_actions = policy.shape
    for s in range(n_states):
        residual[s] = low[s] = size[s] = small[s] = count[s] = 0.0
    for s in range(n_states):
        for a in range(n_actions):
            product, slip = two_product(policy[s, a], measure[s])
            leaving, rest = two_sum(flow[s, a], product)
            extra = rest + (slip + policy[s, a] * correction[s])
            weight = abs(flow[s, a]) + abs(product)
            tiny = policy[s, a] * abs(correction[s])
            lasting = policy[s, a] != 0.0 and (measure[s] != 0.0 or correction[s] != 0.0)
            if flow[s, a] == 0.0 and not lasting:
                continue
            row = s * n_actions + a
            for k in range(indptr[row], indptr[row + 1]):
                j = indices[k]
                product, slip = two_product(data[k], leaving)
                residual[j], rest = two_sum(residual[j], product)
                low[j] += rest + (slip + data[k] * extra)
                size[j] += data[k] * weight
                small[j] += data[k] * tiny
                count[j] += 1.0
    for s in range(n_states):
        high, slip = two_product(discount, residual[s])
        rest = discount * low[s] + slip
        high, slip = two_sum(high, source[s])
        rest += slip
        high, slip = two_sum(high, -measure[s])
        rest += slip - correction[s]
        residual[s] = high + rest
        n = count[s] + 12.0
        total = discount * size[s] + abs(source[s]) + abs(measure[s])
        tiny = discount * small[s] + abs(correction[s])
        something = total + tiny > 0.0 or (discount > 0.0 and count[s] > 0.0)
        error[s] = (
            ROUNDOFF * abs(residual[s])
            + 4.0 * n * n * ROUNDOFF * ROUNDOFF * total
            + n * ROUNDOFF * tiny
            + (n * UNDERFLOW if something else 0.0)
        )


@kernel
def action_reach(
    indptr: IntArray,
    indices: IntArray,
    data: FloatArray,
    policy: FloatArray,
    discount: float,
    reach: FloatArray,
    mean: FloatArray,
    advantage: FloatArray,
) -> None:
    """From `reach` (S, S), by state, to discount P reach, by action.

    `mean` (S, S) is its average under the policy, and `advantage` (S*A, S) the distance to that.
    """
    n_states, n_actions = policy.shape
    for s in range(n_states):
        average = mean[s]
        average[:] = 0.0
        for a in range(n_actions):
            row = s * n_actions + a
            ahead = advantage[row]
            ahead[:] = 0.0
            for k in range(indptr[row], indptr[row + 1]):
                weight = discount * data[k]
                following = reach[indices[k]]
                for i in range(n_states):
                    ahead[i] += weight * following[i]
            chance = policy[s, a]
            for i in range(n_states):
                average[i] += chance * ahead[i]
        for a in range(n_actions):
            ahead = advantage[s * n_actions + a]
            for i in range(n_states):
                ahead[i] = abs(ahead[i] - average[i])


@kernel
def soft_policy(
    gap: FloatArray,
    error: FloatArray,
    available: BoolArray,
    temperature: float,
    policy: FloatArray,
    log_error: FloatArray,
    spare: FloatArray,
    log_policy: FloatArray,
    log_policy_error: FloatArray,
    residual: FloatArray,
    residual_error: FloatArray,
) -> None:
    """Turn gaps Q(s,a) - V(s), each off by `error`, into a policy and V's soft residual T V - V.

    `log_error` bounds what the logarithm of the policy is off by, and `residual_error` the
    residual. Where `spare` is not 0, that logarithm may be anything, and the probability is less
    than that. `log_policy`, which underflow leaves alone, is off by at most `log_policy_error`.
    """
    n_states, n_actions = gap.shape
    for s in range(n_states):
        top = -np.inf
        for a in range(n_actions):
            if available[s, a]:
                logit = min(max(gap[s, a] / temperature, -1e300), 1e300)
                top = max(top, logit)
        total = 0.0
        choices = 0
        for a in range(n_actions):
            policy[s, a] = log_error[s, a] = spare[s, a] = 0.0
            log_policy[s, a] = log_policy_error[s, a] = 0.0
            if available[s, a]:
                logit = min(max(gap[s, a] / temperature, -1e300), 1e300)
                log_policy[s, a] = logit - top
                policy[s, a] = math.exp(logit - top)
                total += policy[s, a]
                off = error[s, a] / temperature + FLOOR
                off += ROUNDOFF * (3.0 * abs(logit) + abs(top))
                log_policy_error[s, a] = off if abs(logit) < 1e300 else np.inf
                if logit - top + off < NEGLIGIBLE:
                    spare[s, a] = FLOOR
                else:
                    log_error[s, a] = off + (EXP_ROUNDOFFS * ROUNDOFF if logit < top else 0.0)
                choices += 1
        # the sum is off by its terms' errors, which weigh as much as they do; exp(0) is 1
        fraction = (choices - 1) * ROUNDOFF
        for a in range(n_actions):
            policy[s, a] /= total
            fraction += spare[s, a] + policy[s, a] * math.expm1(log_error[s, a])
        fraction = 2.0 * fraction if fraction < 0.5 else np.inf
        for a in range(n_actions):
            log_error[s, a] += fraction + 2.0 * ROUNDOFF
        log_total = math.log(total)
        for a in range(n_actions):
            if choices == 1:  # log 1 is 0
                log_policy[s, a] = log_policy_error[s, a] = 0.0
            elif available[s, a]:
                log_policy[s, a] -= log_total
                log_policy_error[s, a] += fraction + ROUNDOFF * (
                    abs(log_policy[s, a]) + (EXP_ROUNDOFFS + 3.0) * log_total
                )
        residual[s] = temperature * (top + log_total)
        rounding = (EXP_ROUNDOFFS + 3.0) * log_total + 3.0 * abs(top)
        residual_error[s] = temperature * (fraction + ROUNDOFF * rounding) + UNDERFLOW


@kernel
def slope_errors(
    indptr: IntArray,
    indices: IntArray,
    data: FloatArray,
    discount: float,
    flow: FloatArray,
    flow_error: FloatArray,
    value: FloatArray,
    value_error: float,
    spread: FloatArray,
    slopes: FloatArray,
    errors: FloatArray,
    shift: FloatArray,
) -> None:
    """Add discount flow(s,a) value(s') to the slopes, and what it is off by to their errors.

    The flow is off by `flow_error`, the value by `spread` and a number of at most `value_error`
    that all states share. What all entries of a row share is added to `shift`.
    """
    n_states, n_actions = flow.shape
    for s in range(n_states):
        for a in range(n_actions):
            row = s * n_actions + a
            mean, mass = 0.0, 0.0
            for k in range(indptr[row], indptr[row + 1]):
                mean += data[k] * value[indices[k]]
                mass += data[k]
            mean = mean / mass if mass > 0.0 else 0.0
            off = discount * flow_error[s, a]
            at_most = discount * (abs(flow[s, a]) + flow_error[s, a])
            if discount > 0.0 and (flow[s, a] != 0.0 or flow_error[s, a] > 0.0):
                off += UNDERFLOW
                at_most += UNDERFLOW
            shift[s, a] += off * abs(mean) + at_most * value_error
            for k in range(indptr[row], indptr[row + 1]):
                ahead = value[indices[k]]
                slope = discount * flow[s, a] * ahead
                slopes[k] += slope
                errors[k] += off * abs(ahead - mean) + at_most * spread[indices[k]]
                # the slope's rounding, and that of the value where the flow is off
                errors[k] += ROUNDOFF * (6.0 * abs(slope) + off * abs(ahead))
                errors[k] += UNDERFLOW * abs(ahead)


@kernel
def pullback_errors(
    indptr: IntArray,
    indices: IntArray,
    data: FloatArray,
    slopes: FloatArray,
    errors: FloatArray,
    roundings: float,
    bound: FloatArray,
) -> None:
    """Add to the bound what a CSR matrix times slopes is off by, if they are off by `errors`.

    Each of a row's n terms is rounded n + `roundings` times. 0 only where all terms are.
    """
    for row in range(bound.size):
        n = indptr[row + 1] - indptr[row]
        total, size = 0.0, 0.0
        something = False
        for k in range(indptr[row], indptr[row + 1]):
            j = indices[k]
            feature = abs(data[k])
            total += feature * errors[j]
            size += feature * abs(slopes[j])
            if feature > 0.0 and (errors[j] > 0.0 or slopes[j] != 0.0):
                something = True
        bound[row] += total + (n + roundings) * ROUNDOFF * size
        if something:
            bound[row] += n * UNDERFLOW


@kernel
def outward(bounds: FloatArray, factor: float, least: float) -> None:
    """Widen bounds that are not 0; what is no bound becomes infinite."""
    for k in range(bounds.size):
        wider = factor * bounds[k]
        if wider > 0.0:
            wider += least
        bounds[k] = wider if wider >= 0.0 else np.inf


@kernel
def balance(error: FloatArray, leak: FloatArray) -> None:
    """Tighten errors that in each row add up to at most `leak`: one makes up for the others."""
    n_states, n_actions = error.shape
    tighter = np.empty(n_actions)
    for s in range(n_states):
        for a in range(n_actions):
            others = leak[s]
            for b in range(n_actions):
                if b != a:
                    others += error[s, b]
            tighter[a] = min(error[s, a], others)
        error[s] = tighter


@kernel
def advantages(
    gap: FloatArray,
    error: FloatArray,
    policy: FloatArray,
    policy_error: FloatArray,
    aside: FloatArray,
    reach: float,
    residual: FloatArray,
    advantage: FloatArray,
    advantage_error: FloatArray,
) -> None:
    """Turn gaps Q(s,a) - V(s), each off by `error`, into advantages, and bound V's residual.

    The policy is off by `policy_error`, and by `aside` where V's error is propagated with another
    one; `reach` is how much larger than the residual the value ahead may be off. To the errors of
    the advantages, what propagates is still to be added.
    """
    n_states, n_actions = gap.shape
    largest = 0.0
    for s in range(n_states):
        mean, mean_error, turned = 0.0, 0.0, 0.0
        for a in range(n_actions):
            if gap[s, a] != 0.0 or error[s, a] > 0.0:
                mean_error = UNDERFLOW
        for a in range(n_actions):
            size = abs(gap[s, a])
            mean += policy[s, a] * gap[s, a]
            mean_error += policy[s, a] * (error[s, a] + (n_actions + 2.0) * ROUNDOFF * size)
            turned += policy_error[s, a] * (size + error[s, a])
        for a in range(n_actions):
            size = abs(gap[s, a]) + abs(mean)
            advantage[s, a] = gap[s, a] - mean
            advantage_error[s, a] = error[s, a] + 2.0 * ROUNDOFF * size + turned + mean_error
        residual[s] = abs(mean) + mean_error + turned
        if not residual[s] <= largest:  # a NaN stays
            largest = residual[s]
    for s in range(n_states):
        stray = 0.0
        for a in range(n_actions):
            stray += aside[s, a]
        something = stray != 0.0 and reach != 0.0 and largest != 0.0
        stray *= reach * largest
        if something:
            stray += UNDERFLOW
        residual[s] += stray
        for a in range(n_actions):
            advantage_error[s, a] += stray


@kernel
def influence_sources(
    policy: FloatArray,
    policy_error: FloatArray,
    occupancy: FloatArray,
    occupancy_error: FloatArray,
    advantage: FloatArray,
    advantage_error: FloatArray,
    temperature: float,
    available: BoolArray,
    least: float,
    source: FloatArray,
    source_error: FloatArray,
    leak: FloatArray,
) -> None:
    """Compute w = d pi A / temperature, bounds of its error, and of what its rows' sums are off.

    An error is `least` or more, for what underflows, unless the state has a single action or no
    advantage. What underflows before it is divided by the temperature is counted at that place.
    """
    n_states, n_actions = policy.shape
    for s in range(n_states):
        lasting = abs(occupancy[s])
        total, size = 0.0, 0.0
        for a in range(n_actions):
            w = occupancy[s] * policy[s, a] * advantage[s, a] / temperature
            turned = occupancy_error[s] * (policy[s, a] + policy_error[s, a])
            turned += lasting * policy_error[s, a]
            off = turned * (abs(advantage[s, a]) + advantage_error[s, a])
            off += lasting * policy[s, a] * advantage_error[s, a]
            source[s, a] = w
            source_error[s, a] = 0.0
            better = abs(advantage[s, a]) + advantage_error[s, a]
            if available[s, a] and better != 0.0:
                lost = UNDERFLOW * (1.0 + lasting) * (1.0 + better)
                source_error[s, a] = (off + lost) / temperature + 4.0 * ROUNDOFF * abs(w) + least
            total += w
            size += abs(w)
        leak[s] = abs(total) + n_actions * ROUNDOFF * size
    balance(source_error, leak)
