"""Discrete toy 4: the two-player Markov game of the BC-HG paper."""

from __future__ import annotations

import numpy as np

from tabular_bilevel._base.arguments import as_finite
from tabular_bilevel.problems.markov_game import MarkovGame

__all__ = ["discrete_toy"]


def discrete_toy(reward: float = 1.0) -> MarkovGame:
    """Build discrete toy 4.

    States S, A, B (0, 1, 2), leader actions 0 and 1, follower actions s, a, b (0, 1, 2). From S, a
    leads to A and b to B. From A, after the leader's 0, s leads to S and b to B; after its 1, every
    action leads to S. From B, s leads to S. All else stays put. The follower earns 1 for a and b in
    S, `reward` for b in A after the leader's 0, and -1 in A after the leader's 1; the leader earns
    1 for a in S. Discounts 0.99, temperature 0.05; play starts in S.

    Source: Kudo et al. (ICAPS 2026, arXiv:2603.14867). The published follower backs up the
    leader-averaged Q; this one averages soft values (theory.md section 5), as its policy implies.

    Parameters
    ----------
    reward : float
        What the follower earns for b in A after the leader's 0; published are 1 and 2.

    Returns
    -------
    MarkovGame
        With 6 parameters, the logits of f(0|S), f(1|S), f(0|A), ...

    Raises
    ------
    ValueError
        If `reward` is not finite.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> round(tb.objective(tb.problems.discrete_toy(), [0.0] * 6, horizon=150), 3)
    0.481
    """
    lure = as_finite("reward", reward)
    in_s, in_a, in_b = 0, 1, 2
    to_s, to_a, to_b = 0, 1, 2
    following = np.empty((3, 2, 3), dtype=np.int64)  # state, leader's action, follower's action
    for state in (in_s, in_a, in_b):
        following[state] = state
    following[in_s, :, to_a] = in_a
    following[in_s, :, to_b] = in_b
    following[in_a, 0, to_s] = in_s
    following[in_a, 0, to_b] = in_b
    following[in_a, 1, :] = in_s
    following[in_b, :, to_s] = in_s
    follower_reward, leader_reward = np.zeros((2, 3, 2, 3))
    follower_reward[in_s, :, [to_a, to_b]] = 1.0
    follower_reward[in_a, 1, :] = -1.0
    follower_reward[in_a, 0, to_b] = lure
    leader_reward[in_s, :, to_a] = 1.0
    return MarkovGame(
        transition=np.eye(3)[following],
        follower_reward=follower_reward,
        leader_reward=leader_reward,
        initial=[1.0, 0.0, 0.0],
        follower_discount=0.99,
        leader_discount=0.99,
        temperature=0.05,
        state_names=("S", "A", "B"),
    )
