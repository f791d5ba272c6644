"""Kernels that sample trajectories, and go along them."""

from __future__ import annotations

import ctypes
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, overload

from tabular_bilevel._base.arrays import FloatArray, IntArray
from tabular_bilevel._base.jit import kernel

__all__ = [
    "eligibility_traces",
    "expected_traces",
    "monte_carlo",
    "pad",
    "sample_trajectories",
    "sarsa",
    "temporal_differences",
    "visits",
]


def uniform(function: int, state: int) -> float:
    """Draw from [0, 1) by a bit generator's C function, given its address and its state's.

    Kernels that take a `Generator` spend as much on opening it as on a hundred steps.
    """
    return float(ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_void_p)(function)(state))


@intrinsic  # type: ignore[untyped-decorator]
def _call(typing: Any, function: Any, state: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.DoubleType(), [pointer]).as_pointer()
        address, argument = arguments
        function = builder.inttoptr(address, kind)
        return builder.call(function, [builder.inttoptr(argument, pointer)])

    return types.float64(types.int64, types.int64), emit


@overload(uniform)  # type: ignore[untyped-decorator]
def _compiled(function: Any, state: Any) -> Any:
    def compiled(function: Any, state: Any) -> Any:
        return _call(function, state)

    return compiled


@kernel
def sample_trajectories(
    function: int,
    generator: int,
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

    Draws by inversion, one `uniform` number for the start, two for each step, and one to survive it
    if that is uncertain. Where rounding leaves a gap at the top of a distribution, the last
    possible outcome is taken.
    """
    n_states, n_actions = policy.shape
    count = total = longest = 0
    while count < lengths.size and total < budget:
        limit = min(horizon, budget - total)
        if total + limit > states.size:
            break
        u = uniform(function, generator)
        state = -1
        for s in range(n_states):
            if initial[s] > 0.0:
                state = s
                if u < initial[s]:
                    break
                u -= initial[s]
        t = 0
        while t < limit and state >= 0:
            if t > 0 and survival < 1.0 and uniform(function, generator) >= survival:
                break
            u = uniform(function, generator)
            action = -1
            for a in range(n_actions):
                if policy[state, a] > 0.0:
                    action = a
                    if u < policy[state, a]:
                        break
                    u -= policy[state, a]
            row = state * n_actions + action
            u = uniform(function, generator)
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
def pad(
    states: IntArray,
    actions: IntArray,
    next_states: IntArray,
    lengths: IntArray,
    table: IntArray,
) -> None:
    """Lay out trajectories that follow each other one a row, with -1 beyond each one's length.

    The first axis of `table` has the three of a step.
    """
    start = 0
    for i in range(lengths.size):
        for t in range(lengths[i]):
            table[0, i, t] = states[start + t]
            table[1, i, t] = actions[start + t]
            table[2, i, t] = next_states[start + t]
        for t in range(lengths[i], table.shape[2]):
            table[0, i, t] = table[1, i, t] = table[2, i, t] = -1
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
    follower_worth: FloatArray,
    leader_worth: FloatArray,
    follower_off: FloatArray,
    leader_off: FloatArray,
    follower_start: FloatArray,
    leader_start: FloatArray,
    advantage: FloatArray,
    follower_discount: float,
    leader_discount: float,
    trace_discount: float,
    credit_discount: float,
    survival: float,
    credit: FloatArray,
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
    Arriving has a `_worth` by state, less what is taken off by the pair that is left; starting has
    one, too. With `own_action` the action taken on arrival counts: its credit, and in the direct
    part its advantage. Derivatives with respect to a probability are weights of its logarithm's, so
    they are divided by the probability. The `_share`s multiply all that is added.
    """
    n_actions = credit.shape[1]
    for i in range(states.shape[0]):
        first, action = states[i, 0], actions[i, 0]
        worth = leader_start[first]
        if own_action:
            worth += advantage[first, action]
            indirect = credit[first, action] * follower_start[first]
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
                worth = follower_worth[following] - follower_off[s, a]
                direct = weight * (leader_worth[following] - leader_off[s, a])
                indirect = eligibility * worth
                if own_action and t + 1 < lengths[i]:
                    action = actions[i, t + 1]
                    direct += leader_discount / survival * weight * advantage[following, action]
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


@kernel
def expected_traces(
    indptr: IntArray,
    indices: IntArray,
    data: FloatArray,
    initial: FloatArray,
    termination: FloatArray,
    policy: FloatArray,
    credit: FloatArray,
    trace_discount: float,
    leader_discount: float,
    credit_discount: float,
    late: bool,
    restarts: bool,
    steps: int,
    all_ended: float,
    law: FloatArray,
    carried: FloatArray,
    weights: FloatArray,
    scratch: FloatArray,
    before: FloatArray,
    influence: FloatArray,
    occupancy: FloatArray,
    answered: FloatArray,
    credited: FloatArray,
) -> bool:
    """Go some steps on with the law of trajectories, and add up what is in them on average.

    `law`, `carried` (the eligibility that arrives with it), `before` (the last step's pairs) and
    `weights` (leader's and credit's) say where the steps before left off. Returns whether less is
    left than `all_ended`. `scratch` has the shape (2, S).
    """
    n_states, n_actions = policy.shape
    for _ in range(steps):
        if not law.sum() > all_ended:
            return True
        scratch[:] = 0.0
        again = 0.0
        again_carried = 0.0
        for s in range(n_states):
            for a in range(n_actions):
                pair = policy[s, a] * law[s]
                brought = policy[s, a] * carried[s]
                trace = brought + weights[1] * pair * credit[s, a]
                influence[s, a] += brought if late else trace
                occupancy[s, a] += weights[0] * pair
                answered[s, a] += weights[0] * before[s, a]
                credited[s, a] += weights[1] * before[s, a]
                before[s, a] = pair
                if pair == 0.0 and trace == 0.0:
                    continue
                row = s * n_actions + a
                for k in range(indptr[row], indptr[row + 1]):
                    scratch[0, indices[k]] += data[k] * pair
                    scratch[1, indices[k]] += data[k] * trace
                again += termination[s, a] * pair
                again_carried += termination[s, a] * trace
        for s in range(n_states):
            law[s] = scratch[0, s]
            carried[s] = scratch[1, s]
            if restarts:
                law[s] += initial[s] * again
                carried[s] += initial[s] * again_carried
            carried[s] *= trace_discount
        weights[0] *= leader_discount
        weights[1] *= credit_discount
    return False
