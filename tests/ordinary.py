"""Ordinary problems, each with a parameter."""

from __future__ import annotations

import numpy as np

import tabular_bilevel as tb


def tables(**changes):
    """Two states, two actions."""
    return tb.Model.from_tables(
        **{
            "transition": [[[0.75, 0.25], [0.25, 0.75]], [[0.5, 0.5], [0.125, 0.875]]],
            "follower_reward": [[0.0, 0.3], [0.1, -0.2]],
            "leader_reward": [[1.0, 0.0], [0.0, 2.0]],
            "initial": [0.5, 0.5],
            "follower_discount": 0.9,
            "leader_discount": 0.8,
            "temperature": 0.5,
            **changes,
        }
    )


ORDINARY = {
    "bandit": (tb.problems.bandit(leader_discount=0.5), [0.1, 0.3]),
    "two-state": (tb.problems.two_state(), [0.1, 0.2]),
    "garnet": (tb.problems.garnet(), np.linspace(-1, 1, 6)),
    "dense garnet": (tb.problems.garnet(n_states=6, branching=6), np.linspace(-1, 1, 6)),
    "layered": (tb.problems.layered(), [0.3, 0.2, 0.1, 0.0]),
    "layered game": (tb.problems.layered_game(depth=3), np.linspace(-1, 1, 18)),
    "game": (tb.problems.random_game(), np.linspace(-1, 1, 12)),
    "hidden game": (
        tb.problems.random_game(follower_observes_leader=False),
        np.linspace(-1, 1, 12),
    ),
    "discrete toy": (tb.problems.discrete_toy(), [0.1, 0.0, 0.3, 0.0, 0.0, 0.2]),
    "four rooms": (tb.problems.four_rooms(), np.linspace(-1, 1, 105)),
}
