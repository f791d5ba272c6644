"""The discrete toys of the BC-HG paper's code: two-player Markov games of three states."""

from __future__ import annotations

import numpy as np

from tabular_bilevel._base.arguments import as_finite
from tabular_bilevel._base.arrays import FloatArray
from tabular_bilevel.problems.markov_game import MarkovGame

STATES, LEADER_ACTIONS, ACTIONS = "SAB", "01", "sab"
DISCOUNT, TEMPERATURE = 0.99, 0.05

# Where s, a and b lead from S, A and B; where two are given, after the leader's 0 and 1.
CROSSED, ROUND = ("SAB SBA", "SAB", "SBB"), ("SAB", "SAB", "SBB")
THERE_AND_BACK, AHEAD = ("SAB SBA", "SAA", "SBB"), ("SAS", "SAB", "SBB")

# Of toys 1_2f and 1_2g, as published: meant to leave the follower indifferent where the leader
# plays 1 half the time. As the first 8 is not discounted, that is so at 0.4654.
LURE = (
    8.0 * (1.0 + DISCOUNT**4) - 3.0 * (DISCOUNT + DISCOUNT**2 + DISCOUNT**3 + 2.0 * DISCOUNT**5)
) / (0.5 * (DISCOUNT**2 + DISCOUNT**4 - DISCOUNT**3))

# Moves, and what the follower and the leader earn: "S1a 2" is 2 in S for a after the leader's 1,
# "Sa 2" is 2 after both.
TOYS = {
    "1_1a": (THERE_AND_BACK, "As 1 Bs -1", "Sa -1 Sb 1"),
    "1_1b": (THERE_AND_BACK, "As 1 Bs -1", "Sb 1"),
    "1_2a": (CROSSED, "Sb 2 As 3 Ab 8 Bs -3", "As 1 Ab -1"),
    "1_2b": (CROSSED, "Sb 2 As 3 Ab 8 Bs -3", "As 1"),
    "1_2c": (AHEAD, "S1a 2 As 3 Bs 5", "As 1 Ab -1"),
    "1_2d": (AHEAD, "S1a 2 As 3 Ab 2 Bs 3", "As 1 Ab -1"),
    "1_2e": (ROUND, "S1a 2 As 3 Ab 8 Bs -3", "As 1 Ab -1"),
    "1_2f": (ROUND, f"S1a {LURE!r} As 3 Ab 8 Bs -3", "As 1 Ab -1"),
    "1_2g": (ROUND, f"S1a {LURE!r} As 3 Ab 8 Bs -3", "As 2 Ab 1"),
    "2_1": (CROSSED, "As 1 Ab 4 Bs -1", "Sa -1 Sb 1"),
    "2_2": (("SAS", "SAB BAS", "SBB"), "Sa -1 Bs 4", "As 1"),
    "3_1a": (CROSSED, "Ss -1 Sa -1 Sb -3 As 2 Aa -1 Ab 2 Ba -1 Bb -1", "As -1 Ab 1"),
    "3_1b": (CROSSED, "Ss -1 Sa -1 Sb -3 As 2 Aa -1 Ab 2 Ba -1 Bb -1", "Ab 1"),
    "3_2": (("SAS", "SAB SAA", "SBB"), "Sa 1 Bs 29", "As 1"),
}


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
    follower = f"Sa 1 Sb 1 A0b {lure!r} A1s -1 A1a -1 A1b -1"
    return _game(("SAB", "SAB SSS", "SBB"), follower, "Sa 1")


def discrete_toys() -> dict[str, MarkovGame]:
    """Build the other discrete toys: fourteen games of the same kind, by name.

    States, actions, discounts and temperature are those of `discrete_toy`, which is toy 4. Only one
    state's leader action matters, A's in 2_2 and 3_2, S's in the others, and there the leader's
    best is to play 1 always. Where it starts undecided, in 3_2, J is 0 and all but flat: play goes
    for the 29 in B as long as there is a hope of it.

    Source: the code of Kudo et al. (ICAPS 2026, arXiv:2603.14867), which has no configurations of
    them; discounts and temperature are those of its toy 4.

    Returns
    -------
    dict of str to MarkovGame
        "1_1a" to "3_2", each with 6 parameters.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> toys = tb.problems.discrete_toys()
    >>> len(toys), list(toys)[:3]
    (14, ['1_1a', '1_1b', '1_2a'])
    >>> undecided, always = ({"A": [0.5, 0.5]}, {"A": [1e-9, 1.0 - 1e-9]})
    >>> [round(tb.objective(toys["3_2"], toys["3_2"].logits(f)), 4) for f in (undecided, always)]
    [0.0, 49.7442]
    """
    return {name: _game(*tables) for name, tables in TOYS.items()}


def _game(moves: tuple[str, ...], follower: str, leader: str) -> MarkovGame:
    following = np.array(
        [
            [[STATES.index(place) for place in places] for places in (each.split() * 2)[:2]]
            for each in moves
        ]
    )
    return MarkovGame(
        transition=np.eye(3)[following],
        follower_reward=_payments(follower),
        leader_reward=_payments(leader),
        initial=[1.0, 0.0, 0.0],
        follower_discount=DISCOUNT,
        leader_discount=DISCOUNT,
        temperature=TEMPERATURE,
        state_names=tuple(STATES),
    )


def _payments(text: str) -> FloatArray:
    """Read payments from words, shape (S, B, A)."""
    table, words = np.zeros((3, 2, 3)), text.split()
    for place, amount in zip(words[::2], words[1::2], strict=True):
        state, action = STATES.index(place[0]), ACTIONS.index(place[-1])
        chosen = place[1:-1] or LEADER_ACTIONS
        table[state, [int(b) for b in chosen], action] = float(amount)
    return table
