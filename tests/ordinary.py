"""Ordinary problems, each with a parameter."""

from __future__ import annotations

import tabular_bilevel as tb
from tabular_bilevel.problems import zoo


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


ORDINARY = {name: zoo.named(name).at for name in zoo.ORDINARY}
