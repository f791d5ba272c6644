"""Random problems biased to where float64 fails: discounts near 1, ties, tiny temperatures."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

import tabular_bilevel as tb

DISCOUNTS = (0.0, 0.3, 0.9, 0.99, 0.999, 0.9999)


def corner_problem(seed):
    """Draw a problem of 1 to 8 states and 1 to 4 actions, and 3 parameters of all tables."""
    rng = np.random.default_rng(seed)
    n_states, n_actions = int(rng.integers(1, 9)), int(rng.integers(1, 5))
    shape = n_states, n_actions
    beta = 10.0 ** rng.uniform(-6, 6)
    kernel = np.zeros((*shape, n_states))
    style = rng.choice(["dense", "sparse", "deterministic", "absorbing"])
    for s in range(n_states):
        for a in range(n_actions):
            if style == "dense":
                kernel[s, a] = rng.dirichlet(np.ones(n_states))
            elif style == "absorbing" and rng.random() < 0.5:
                kernel[s, a, s] = 1.0
            elif style == "deterministic":
                kernel[s, a, rng.integers(n_states)] = 1.0
            else:
                k = int(rng.integers(1, min(3, n_states) + 1))
                kernel[s, a, rng.choice(n_states, k, replace=False)] = rng.dirichlet(np.ones(k))
    if n_states > 1 and rng.random() < 0.3:  # a state that nothing leads to
        kernel[..., 0] += kernel[..., -1]
        kernel[..., -1] = 0.0
    termination = np.zeros(shape)
    if rng.random() < 0.3:
        termination = rng.choice([0.0, 0.5, 1.0], p=[0.6, 0.2, 0.2], size=shape)
        kernel *= (1.0 - termination)[..., None]
    rewards = []
    for _ in range(2):
        table = rng.normal(size=shape) * 10.0 ** rng.uniform(-8, 8)
        kind = rng.choice(["free", "tied", "near", "negative", "zero"], p=[0.4, 0.2, 0.2, 0.1, 0.1])
        if kind == "tied":
            table[:] = table[:, :1]
        elif kind == "near":
            table = rng.normal(size=(n_states, 1)) + beta * rng.normal(size=shape)
        elif kind == "negative":
            table = -np.abs(table)
        elif kind == "zero":
            table = np.zeros(shape)
        rewards.append(table)
    available = np.ones(shape, dtype=bool)
    if rng.random() < 0.3:
        available = rng.random(shape) < 0.7
        available[np.arange(n_states), rng.integers(n_actions, size=n_states)] = True
    initial = rng.dirichlet(np.ones(n_states))
    if rng.random() < 0.4:
        initial = np.eye(n_states)[rng.integers(n_states)]
    flat = kernel.reshape(n_states * n_actions, n_states)
    base = tb.Model.from_tables(
        transition=sp.csr_array(flat),
        follower_reward=np.where(available, rewards[0], -np.inf),
        leader_reward=rewards[1],
        initial=initial,
        termination=termination,
        available=available,
        follower_discount=float(rng.choice(DISCOUNTS)),
        leader_discount=float(rng.choice(DISCOUNTS)),
        temperature=beta,
    )
    moves = rng.choice(["rewards", "all"])
    if rng.random() < 0.3:
        base = undiscounted(rng, base)
    return tb.FeatureProblem(
        base,
        follower_reward=rng.normal(size=(n_states * n_actions, 3)),
        leader_reward=rng.normal(size=(n_states * n_actions, 3)) * (moves == "all"),
        transition=rng.normal(size=(base.transition.nnz, 3)) if moves == "all" else None,
        initial=rng.normal(size=(n_states, 3)) if moves == "all" else None,
        temperature=rng.normal(size=3) if rng.random() < 0.5 else None,
    )


def undiscounted(rng, base):
    """Make the leader's discount 1, with an end that every state leads to, sooner or later."""
    ends = base.termination.copy()
    rows = np.arange(base.n_states)[rng.random(base.n_states) < rng.choice([0.3, 1.0])]
    may = base.available[rows]  # an action's end, or everyone's
    may &= (np.arange(base.n_actions) == may.argmax(axis=1)[:, None]) | (rng.random() < 0.5)
    leak = 10.0 ** -rng.uniform(0, 6, (rows.size, 1))
    ends[rows] = np.where(may, np.maximum(ends[rows], leak), ends[rows])
    scale = np.divide(1.0 - ends, base.row_mass, out=np.zeros_like(ends), where=base.row_mass > 0.0)
    kernel = base.like_transition(base.transition.data * scale.ravel()[base.entry_row])
    try:
        model = base.replace(transition=kernel, termination=ends, leader_discount=1.0)
        lasting = tb.evaluate_leader(model, tb.solve_follower(model)).occupancy.sum()
    except (ValueError, tb.ConvergenceError):  # play stays away from all ends, or all but always
        return base
    return model if lasting < 1e14 else base
