"""Slow, readable twins of the compiled kernels, from theory.md sections 2 and 6."""

from __future__ import annotations

import numpy as np


def successors(model):
    """List the possible outcomes of each pair as {(s, a): [(next state, probability), ...]}.

    Next states come in ascending order; None, the end of the episode, comes last.
    """
    kernel = model.transition.toarray()
    outcomes = {}
    for s in range(model.n_states):
        for a in range(model.n_actions):
            if model.available[s, a]:
                row = kernel[s * model.n_actions + a]
                outcomes[s, a] = [(following, p) for following, p in enumerate(row) if p > 0.0]
                if model.termination[s, a] > 0.0:
                    outcomes[s, a].append((None, model.termination[s, a]))
    return outcomes


def soft_value_iteration(model, *, tolerance, max_sweeps):
    """V <- beta log sum_a exp(Q / beta), Q = r + gamma P V; returns V, sweeps and last change."""
    beta, gamma = model.temperature, model.follower_discount
    outcomes = successors(model)
    value = dict.fromkeys(range(model.n_states), 0.0)
    sweeps, change = 0, np.inf
    while sweeps < max_sweeps and change > tolerance:
        action_value = {}
        for (s, a), laws in outcomes.items():
            ahead = sum(p * value[following] for following, p in laws if following is not None)
            action_value[s, a] = model.follower_reward[s, a] + gamma * ahead
        improved = {}
        for s in value:
            scaled = [q / beta for (state, _), q in action_value.items() if state == s]
            improved[s] = beta * np.logaddexp.reduce(scaled)
        change = max(abs(improved[s] - value[s]) for s in value)
        value = improved
        sweeps += 1
    return value, sweeps, change


def draw(rng, outcomes):
    """Draw from [(outcome, probability), ...] by inversion of the cumulative probability."""
    u = rng.random()
    cumulative = 0.0
    for outcome, p in outcomes:
        cumulative += p
        if u < cumulative:
            return outcome
    return outcomes[-1][0]  # rounding left the sum below u


def sample_trajectories(rng, model, policy, *, count, horizon):
    """Play `count` episodes; each is a list of (s, a, s'), with s' = None at the end."""
    outcomes = successors(model)
    starts = [(s, p) for s, p in enumerate(model.initial) if p > 0.0]
    trajectories = []
    for _ in range(count):
        state, steps = draw(rng, starts), []
        while state is not None and len(steps) < horizon:
            action = draw(rng, [(a, p) for a, p in enumerate(policy[state]) if p > 0.0])
            following = draw(rng, outcomes[state, action])
            steps.append((state, action, following))
            state = following
        trajectories.append(steps)
    return trajectories


def eligibility_traces(
    trajectories,
    *,
    probability,
    initial,
    follower_discount,
    leader_discount,
    scaled_advantage,
    follower_next,
    leader_next,
    follower_ahead,
    leader_ahead,
    first_value,
):
    """Sum the sampled sensitivities of all trajectories from their definition, without a trace.

    Returns dictionaries: influence and occupancy of (s, a), the direct and the indirect part of
    P(s'|s, a) for (s, a, s'), and the initial distribution's of s.
    """
    influence, occupancy, direct, indirect, start = {}, {}, {}, {}, {}
    for steps in trajectories:
        first = steps[0][0]
        add(start, first, first_value[first] / initial[first])
        for t, (s, a, following) in enumerate(steps):
            # what the leader gains from step k on is credited to every later step t >= k
            eligibility = sum(
                follower_discount ** (t - k) * leader_discount**k * scaled_advantage[s_k, a_k]
                for k, (s_k, a_k, _) in enumerate(steps[: t + 1])
            )
            add(influence, (s, a), eligibility)
            add(occupancy, (s, a), leader_discount**t)
            if following is not None:
                # grad log P = grad P / P
                p = probability[s, a, following]
                worth = leader_next[following] - leader_ahead[s, a]
                add(direct, (s, a, following), leader_discount**t * worth / p)
                worth = follower_next[following] - follower_ahead[s, a]
                add(indirect, (s, a, following), eligibility * worth / p)
    return influence, occupancy, direct, indirect, start


def sarsa(order, trajectories, *, reward, discount, step_size, table):
    """Update {(s, a): Q} in place, once for each (trajectory, t) of `order`."""
    for i, t in order:
        s, a, following = trajectories[i][t]
        if following is None:
            target = reward[s, a]
        elif t + 1 < len(trajectories[i]):
            next_action = trajectories[i][t + 1][1]
            target = reward[s, a] + discount * table[following, next_action]
        else:
            continue  # cut here: the next action is not known
        table[s, a] = (1.0 - step_size) * table[s, a] + step_size * target


def add(totals, key, amount):
    """Add to an entry of a dictionary that starts at 0."""
    totals[key] = totals.get(key, 0.0) + amount
