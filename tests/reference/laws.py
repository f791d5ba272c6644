"""The law of trajectories, step by step, and whether what was drawn has it."""

import numpy as np
from scipy import stats


def exact_law(model, policy, horizon):
    """P(s_t, a_t, s_{t+1}) for each t; the last column is the end."""
    kernel = model.transition.toarray().reshape(model.n_states, model.n_actions, -1)
    steps = np.concatenate([kernel, model.termination[:, :, None]], axis=2)
    state, law = model.initial, []
    for _ in range(horizon):
        law.append(state[:, None, None] * policy[:, :, None] * steps)
        state = law[-1].sum(axis=(0, 1))[:-1]
    return np.array(law)


# What is right fails a test of frequencies with at most this probability over all cells: exact
# binomial tails and a union bound. Seeds are fixed, so it fails always or never.
FALSE_ALARM_RATE = 1e-6


def smallest_chance(drawn, law):
    """Probability of the least likely count, times the number of cells."""
    counts = np.zeros(law.shape, int)
    steps = np.broadcast_to(np.arange(drawn.states.shape[1]), drawn.states.shape)
    columns = (drawn.states, drawn.actions, drawn.next_states)  # -1 is the last column, the end
    np.add.at(counts, tuple(c[drawn.mask] for c in (steps, *columns)), 1)
    law = np.minimum(law, 1.0)
    tail = np.minimum(
        stats.binom.cdf(counts, drawn.count, law), stats.binom.sf(counts - 1, drawn.count, law)
    )
    return float(2.0 * tail.min() * tail.size)
