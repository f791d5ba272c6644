"""What an estimator can get wrong when it adds up what its rule says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from tabular_bilevel._base.arrays import FloatArray, backwards, ratio, read_only
from tabular_bilevel.finite.adjoint import temperature_slope
from tabular_bilevel.finite.sensitivities import Sensitivities
from tabular_bilevel.sampling.experience import Experience
from tabular_bilevel.sampling.traces import TraceRule
from tabular_bilevel.sampling.trajectories import Law

#: What a rule without factors makes of experience: direct measures, and those through the follower.
Measures = Callable[[TraceRule, Experience], tuple[Sensitivities, Sensitivities]]

# Of a mean influence at a visit and the shares of the visits, both (S, A), another mean influence.
Change = Callable[[FloatArray, FloatArray], FloatArray]


def per_visit(change: Change) -> Measures:
    """Change the mean influence at a visit to each pair."""

    def measures(rule: TraceRule, known: Experience) -> tuple[Sensitivities, Sensitivities]:
        direct, indirect = rule.measures(known)
        visits = known.seen.visits(1.0)[0] / max(1, known.seen.complete)
        mean = ratio(indirect.follower_reward, visits)
        influence = visits * change(mean, visits / (visits.sum() or 1.0))
        return direct, _of_influence(known, influence)

    return measures


def clipped(mean: FloatArray, share: FloatArray) -> FloatArray:
    """Clip to [-1, 1]."""
    return np.clip(mean, -1.0, 1.0)


def standardised(mean: FloatArray, share: FloatArray) -> FloatArray:
    """Take the mean over all steps off, and divide by the standard deviation."""
    centred = mean - np.vdot(share, mean)
    return np.asarray(centred / (np.sqrt(np.vdot(share, centred**2)) or 1.0))


def averaged_tails(rule: TraceRule, known: Experience) -> tuple[Sensitivities, Sensitivities]:
    """Divide what follows a step by the sum of its weights, over the steps that are left."""
    direct, _ = rule.measures(known)
    seen = known.seen
    columns = seen.horizon if isinstance(seen, Law) else seen.states.shape[1]
    # discount^0 + ... + discount^(left - 1), by the number of steps left
    weights = np.cumsum(rule.trace_discount ** np.arange(columns))
    influence = np.zeros(rule.credit.shape)
    if isinstance(seen, Law):
        carried, discount = np.zeros(seen.model.n_states), 1.0
        for t, pairs in enumerate(seen.steps()):
            own = discount / weights[columns - 1 - t] * pairs * rule.credit
            own += seen.policy * carried[:, None]
            influence += own
            carried = rule.trace_discount * seen.arrivals(own)
            discount *= rule.credit_discount
    else:
        carried = np.zeros(seen.count)
        for t in range(columns):
            on = t < seen.lengths
            pair = seen.states[on, t], seen.actions[on, t]
            credit = rule.credit_discount**t * rule.credit[pair]
            own = credit / weights[seen.lengths[on] - 1 - t]
            carried[on] = rule.trace_discount * carried[on] + own
            np.add.at(influence, pair, carried[on])
        influence /= max(1, seen.complete)
    return direct, _of_influence(known, influence)


def reward_without_action(
    rule: TraceRule, known: Experience
) -> tuple[Sensitivities, Sensitivities]:
    """Take the mean of the follower's reward's derivative over a state's actions."""
    direct, indirect = rule.measures(known)
    available = known.planned.available
    even = available / available.sum(axis=1, keepdims=True)
    spread = even * indirect.follower_reward.sum(axis=1, keepdims=True)
    return direct, replace(indirect, follower_reward=read_only(spread))


def value_of_the_state(rule: TraceRule, known: Experience) -> tuple[Sensitivities, Sensitivities]:
    """Value a transition, for the follower, by the state that it leaves."""
    direct, indirect = rule.measures(known)
    world = known.world
    flow = world.follower_discount * indirect.follower_reward * known.response.value[:, None]
    return direct, replace(indirect, transition=read_only(flow.ravel()[world.entry_row]))


def one_roll_out(rule: TraceRule, known: Experience) -> tuple[Sensitivities, Sensitivities]:
    """Credit a step with what one trajectory pays, which is followed down the very same one.

    What the leader earns later depends, like the steps to come, on where it goes; the
    product's mean has their covariance, too.
    """
    direct, _ = rule.measures(known)
    add_up = _expected_roll_outs if isinstance(known.seen, Law) else _sampled_roll_outs
    influence, arriving = add_up(rule, known)
    world, temperature = known.world, known.planned.temperature
    ahead = world.follower_discount * known.response.value[world.transition.indices]
    return direct, _of_influence(known, influence / temperature, arriving * ahead / temperature)


def _expected_roll_outs(rule: TraceRule, known: Experience) -> tuple[FloatArray, FloatArray]:
    """Compute the mean credit that comes along at each pair, and with each transition.

    `spent` is the reward of the steps so far, less the values where credit began, and `weight` what
    the reward of later steps counts: both over all steps where credit began.
    """
    law, policy, reward = known.law, known.response.policy, known.world.leader_reward
    made_in, row = law.made_in, known.world.entry_row
    onward = known.world.transition.indices

    def pairs_left(value: FloatArray) -> FloatArray:
        ahead = made_in.next_value(value)
        if law.restarts:
            ahead = ahead + made_in.termination * (made_in.initial @ value)
        return np.asarray(reward + rule.leader_discount * ahead)

    def longer(left: tuple[FloatArray, FloatArray]) -> tuple[FloatArray, FloatArray]:
        value = np.vecdot(policy, left[1])
        return value, pairs_left(value)

    # the leader's values, of states and pairs, when no step is left, one, ...
    nothing = np.zeros(made_in.n_states)
    first = nothing, pairs_left(nothing)
    left = backwards(longer, first, law.horizon, nothing.size + policy.size)
    influence, arriving = np.zeros(policy.shape), np.zeros(made_in.transition.nnz)
    spent, discount, weight = np.zeros(made_in.n_states), 1.0, 1.0
    for pairs, (value, paid) in zip(law.steps(), left, strict=False):
        before = policy * (spent - discount * pairs.sum(axis=1) * known.values.value)[:, None]
        influence += before + weight * pairs * paid
        earned = before + weight * pairs * reward
        later = rule.leader_discount * value[onward]
        arriving += earned.ravel()[row] + weight * pairs.ravel()[row] * later
        spent = rule.trace_discount * law.arrivals(earned)
        discount *= rule.credit_discount
        weight = discount + rule.trace_discount * rule.leader_discount * weight
    likelier = ratio(made_in.transition.data, known.world.transition.data)
    return influence, arriving * likelier


def _sampled_roll_outs(rule: TraceRule, known: Experience) -> tuple[FloatArray, FloatArray]:
    sample, world = known.trajectories, known.world
    influence, arriving = np.zeros(world.leader_reward.shape), np.zeros(world.transition.nnz)
    paid, columns = np.zeros_like(sample.leader_reward), sample.longest
    later = np.zeros(sample.count)
    for t in range(columns - 1, -1, -1):
        later = paid[:, t] = sample.leader_reward[:, t] + rule.leader_discount * later
    trace, entries = np.zeros(sample.count), sample.entry_table
    for t in range(columns):
        on = sample.mask[:, t]
        s, a = sample.states[on, t], sample.actions[on, t]
        credit = rule.credit_discount**t * (paid[on, t] - known.values.value[s])
        trace[on] = rule.trace_discount * trace[on] + credit
        np.add.at(influence, (s, a), trace[on])
        moved = entries[:, t] >= 0
        taken = entries[moved, t]
        np.add.at(arriving, taken, trace[moved] / world.transition.data[taken])
    complete = max(1, sample.complete)
    return influence / complete, arriving / complete


def _of_influence(
    known: Experience, influence: FloatArray, transition: FloatArray | None = None
) -> Sensitivities:
    """Make all that goes through the follower of an influence."""
    world, response = known.world, known.response
    if transition is None:
        flow = world.follower_discount * influence.ravel()[world.entry_row]
        transition = flow * response.value[world.transition.indices]
    return Sensitivities.of(
        world,
        follower_reward=influence,
        transition=transition,
        temperature=partial(temperature_slope, known.planned, response, influence),
    )
