"""Kernels that sample trajectories, and go along them."""

from __future__ import annotations

import ctypes
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, overload

from tabular_bilevel._base.arrays import BoolArray, FloatArray, IntArray
from tabular_bilevel._base.jit import kernel

__all__ = [
    "answers", "eligibility_traces", "expected_traces", "is_policy", "mark_followed",
    "monte_carlo", "pad", "sample_trajectories", "sarsa", "temporal_differences", "visits",
    "weigh_arrivals",
]  # fmt: skip


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
    pairs: IntArray,
    entries: IntArray,
    lengths: IntArray,
) -> tuple[int, int, int]:
    """Fill in the steps of one trajectory after another: pair, and entry of the kernel or -1.

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
        if total + limit > pairs.size:
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
            taken = -1
            inside = False
            for k in range(indptr[row], indptr[row + 1]):
                if data[k] > 0.0:
                    taken = k
                    if u < data[k]:
                        inside = True
                        break
                    u -= data[k]
            if not inside and termination[state, action] > 0.0:
                taken = -1
            pairs[total + t] = row
            entries[total + t] = taken
            state = indices[taken] if taken >= 0 else -1
            t += 1
        lengths[count] = t
        count += 1
        total += t
        longest = max(longest, t)
    return count, total, longest


@kernel
def pad(flat: IntArray, lengths: IntArray, table: IntArray) -> None:
    """Lay out what steps have one trajectory a row, with -1 beyond each one's length."""
    k = 0
    for i in range(lengths.size):
        for t in range(table.shape[1]):
            if t < lengths[i]:
                table[i, t] = flat[k + t]
            else:
                table[i, t] = -1
        k += lengths[i]


@kernel
def eligibility_traces(
    pairs: IntArray,
    entries: IntArray,
    lengths: IntArray,
    n_actions: int,
    credit: FloatArray,
    leader_discount: float,
    trace_discount: float,
    credit_discount: float,
    direct_share: float,
    indirect_share: float,
    occupancy: FloatArray,
    gone: FloatArray,
    starts: FloatArray,
    influence: FloatArray,
    carried: FloatArray,
) -> None:
    """Add up along trajectories how pairs, entries and starts are seen (theory.md section 6).

    Step t weighs leader_discount^t: `occupancy` of its pair, `gone` through the entry that it took.
    Its credit, credit_discount^t * credit[pair], follows the trajectory at `trace_discount`:
    `influence` of pairs, `carried` through entries. The `_share`s multiply all that is added.
    """
    k = 0
    for i in range(lengths.size):
        starts[pairs[k] // n_actions] += direct_share
        eligibility = 0.0
        weight = 1.0
        credit_weight = 1.0
        for _ in range(lengths[i]):
            pair, entry = pairs[k], entries[k]
            eligibility += credit_weight * credit[pair]
            direct = direct_share * weight
            indirect = indirect_share * eligibility
            occupancy[pair] += direct
            influence[pair] += indirect
            if entry >= 0:
                gone[entry] += direct
                carried[entry] += indirect
            weight *= leader_discount
            eligibility *= trace_discount
            credit_weight *= credit_discount
            k += 1


@kernel
def answers(
    pairs: IntArray,
    entries: IntArray,
    lengths: IntArray,
    worth: FloatArray,
    discount: float,
    share: float,
    answered: FloatArray,
) -> None:
    """Add up, for each entry that steps took, what the actions that followed are worth.

    The action of step t + 1 is worth discount^(t + 1) * worth[pair] * share to the entry of step t.
    """
    k = 0
    for i in range(lengths.size):
        weight = share
        for t in range(lengths[i]):
            weight *= discount
            if t + 1 < lengths[i] and entries[k] >= 0:
                answered[entries[k]] += weight * worth[pairs[k + 1]]
            k += 1


@kernel
def weigh_arrivals(
    indptr: IntArray,
    indices: IntArray,
    data: FloatArray,
    initial: FloatArray,
    leader_worth: FloatArray,
    leader_off: FloatArray,
    leader_start: FloatArray,
    follower_worth: FloatArray,
    follower_off: FloatArray,
    follower_start: FloatArray,
    gone: FloatArray,
    starts: FloatArray,
    carried: FloatArray,
    credited_starts: FloatArray,
) -> None:
    """Multiply sums over entries and starts by what arriving there is worth to each player.

    That is the `_worth` of the state, less what is taken `_off` by the pair that is left, or the
    worth of a `_start`. Derivatives with respect to a probability are weights of its logarithm's,
    so they are divided by the probability.
    """
    for s in range(initial.size):
        if starts[s] != 0.0:
            starts[s] *= leader_start[s] / initial[s]
        if credited_starts[s] != 0.0:
            credited_starts[s] *= follower_start[s] / initial[s]
    for row in range(leader_off.size):
        for k in range(indptr[row], indptr[row + 1]):
            if gone[k] != 0.0:
                gone[k] *= (leader_worth[indices[k]] - leader_off[row]) / data[k]
            if carried[k] != 0.0:
                carried[k] *= (follower_worth[indices[k]] - follower_off[row]) / data[k]


@kernel
def is_policy(policy: FloatArray, available: BoolArray, tolerance: float) -> bool:
    """Say whether each row is a distribution over what is available, to a tolerance of its sum."""
    for s in range(policy.shape[0]):
        total = 0.0
        for a in range(policy.shape[1]):
            if not policy[s, a] >= 0.0 or (policy[s, a] > 0.0 and not available[s, a]):
                return False
            total += policy[s, a]
        if not abs(total - 1.0) <= tolerance:
            return False
    return True


@kernel
def mark_followed(lengths: IntArray, followed: BoolArray) -> None:
    """Say of each step whether its trajectory has a next one."""
    k = 0
    for i in range(lengths.size):
        for t in range(lengths[i]):
            followed[k] = t + 1 < lengths[i]
            k += 1


@kernel
def visits(
    pairs: IntArray,
    lengths: IntArray,
    discount: float,
    counts: FloatArray,
    weights: FloatArray,
) -> None:
    """Count the visits of each pair, and add up discount^t over them."""
    k = 0
    for i in range(lengths.size):
        weight = 1.0
        for _ in range(lengths[i]):
            counts[pairs[k]] += 1.0
            weights[pairs[k]] += weight
            weight *= discount
            k += 1


@kernel
def monte_carlo(
    pairs: IntArray,
    lengths: IntArray,
    reward: FloatArray,
    discount: float,
    counts: FloatArray,
    returns: FloatArray,
) -> None:
    """Count the visits of each pair, and add up the discounted rewards from each visit on."""
    end = 0
    for i in range(lengths.size):
        tail = 0.0
        for back in range(lengths[i]):
            pair = pairs[end + lengths[i] - 1 - back]
            tail = reward[pair] + discount * tail
            counts[pair] += 1.0
            returns[pair] += tail
        end += lengths[i]


@kernel
def sarsa(
    order: IntArray,
    pairs: IntArray,
    entries: IntArray,
    followed: BoolArray,
    reward: FloatArray,
    discount: float,
    step_size: float,
    cut_is_end: bool,
    action_value: FloatArray,
) -> None:
    """Update the table once for each step named in `order`.

    A step that ends the episode has its reward as target. One that does not, and that no other
    followed, has no next action: it is passed over, or with `cut_is_end` treated as an end.
    """
    for k in order:
        target = reward[pairs[k]]
        if entries[k] >= 0:
            if followed[k]:
                target += discount * action_value[pairs[k + 1]]
            elif not cut_is_end:
                continue
        action_value[pairs[k]] += step_size * (target - action_value[pairs[k]])


@kernel
def temporal_differences(
    order: IntArray,
    pairs: IntArray,
    entries: IntArray,
    indices: IntArray,
    reward: FloatArray,
    discount: float,
    step_size: float,
    target_value: FloatArray,
    action_value: FloatArray,
) -> None:
    """Update the table once for each step named in `order`.

    The target of a step is its reward and, unless it ends the episode, the discounted
    `target_value` (S,) of where it leads.
    """
    for k in order:
        target = reward[pairs[k]]
        if entries[k] >= 0:
            target += discount * target_value[indices[entries[k]]]
        action_value[pairs[k]] += step_size * (target - action_value[pairs[k]])


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
