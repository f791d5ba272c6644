"""Goal position: a leader puts a goal on an open grid, and the follower goes there."""

from __future__ import annotations

import numpy as np

from tabular_bilevel._base.arguments import positive_integer
from tabular_bilevel.finite.model import Model
from tabular_bilevel.problems.features import FeatureProblem, coin_features
from tabular_bilevel.problems.grid_map import with_map
from tabular_bilevel.problems.grid_world import MOVES, grid_kernel
from tabular_bilevel.problems.reparametrised import Budget, Reparametrised

DISCOUNT, TOTAL = 0.95, 1.0


def goal_position(size: int = 10, *, temperature: float = 0.01) -> Reparametrised:
    """Build the goal position problem: the leader says where on an open grid the goal is.

    The follower starts in the first cell and moves up, right, down or left; walls keep it where it
    is, and play never ends. The leader splits a reward of 1 over the cells, softmax(theta), the
    last entry of theta staying unspent; a follower in a cell gets that cell's share, each step. The
    leader earns 1 for each step in the middle cell (row and column size // 2, from 0). Both
    discounts are 0.95.

    The best is to put all on the middle cell, at the end of a theta that grows for ever. Going
    there straight, and then out and back for ever, earns the leader 0.95^(2 (size // 2)) divided by
    1 - 0.95^2, which is 6.141 on 10 x 10 cells. As no move stays in an inner cell, nothing earns it
    more.

    Source: the "GridWorld goal position problem" of Zeng, Bhatt, Ganesh, Koppel (AISTATS 2026,
    arXiv:2601.16399). Known of it are its 10 x 10 cells, and that theta moves the follower's reward
    only, by the goal's position. The rest is not known, and is ours: start, moves, the leader's
    cell, discounts, temperature (there it is 0), and the goal that is split.

    Parameters
    ----------
    size : int
        Rows, and columns.
    temperature : float
        Temperature of the follower; positive.

    Returns
    -------
    Reparametrised
        With size^2 + 1 parameters.

    Raises
    ------
    ValueError
        If a setting is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> import tabular_bilevel as tb
    >>> problem, theta = tb.problems.goal_position(), np.zeros(101)
    >>> nowhere = tb.objective(problem, theta)
    >>> theta[problem.at((5, 5))] = 40.0
    >>> print(round(nowhere, 3), round(tb.objective(problem, theta), 3))
    0.051 6.141
    """
    n = positive_integer("size", size)
    free = np.ones((n, n), dtype=np.bool_)
    kernel, cells = grid_kernel(free, slip=0.0)
    middle = (n // 2) * n + n // 2
    leader_reward = np.zeros((n * n, len(MOVES)))
    leader_reward[middle] = 1.0
    base = Model.from_tables(
        transition=kernel,
        follower_reward=np.zeros_like(leader_reward),
        leader_reward=leader_reward,
        initial=np.eye(1, n * n)[0],
        follower_discount=DISCOUNT,
        leader_discount=DISCOUNT,
        temperature=temperature,
        state_names=[f"{row}, {column}" for row, column in cells],
        action_names=("up", "right", "down", "left"),
    )
    coins = FeatureProblem(
        with_map(base, free, S=0, T=middle),
        follower_reward=coin_features(base),
        parameter_names=base.state_names,
    )
    return Reparametrised(coins, Budget(total=TOTAL, n_parameters=n * n + 1))
