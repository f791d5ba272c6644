"""Four rooms: the configurable MDP of the HPGD and BC-HG papers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import scipy.sparse as sp

from tabular_bilevel._base.arguments import as_discount, as_finite
from tabular_bilevel.problems.contexts import Contexts
from tabular_bilevel.problems.features import FeatureProblem, coin_features
from tabular_bilevel.problems.grid_map import Cell, GridMap
from tabular_bilevel.problems.grid_world import grid_kernel, grid_model
from tabular_bilevel.problems.reparametrised import Budget, Reparametrised

LAYOUT = """
xxxxxxxxxxxxx
x     x     x
x     x     x
x           x
x     x     x
x     x     x
xx xxxx     x
x     xxx xxx
x     x     x
x     x     x
x           x
x     x     x
xxxxxxxxxxxxx
"""

START, GOAL, TARGET = (4, 1), (1, 9), (8, 4)
DISCOUNT = 0.99
BUDGET = -0.2

#: Of the published planner; its simulator has 0.33.
PLANNER_SLIP = 4 * 0.33 / 3


def four_rooms(
    temperature: float = 0.001,
    penalty: float = 5.0,
    *,
    slip: float = PLANNER_SLIP,
    goals: Sequence[Cell] = (GOAL,),
    discount: float = DISCOUNT,
) -> Reparametrised:
    """Build the four-rooms problem.

    The follower walks from (4, 1) to (1, 9), where acting earns 1 and ends the episode. The leader
    splits a charge of 0.2 over the 104 cells, incentives = -0.2 softmax(theta)[:104], the last of
    the 105 entries staying unspent; the goal's own share is not charged. The leader earns 1 for
    each step in (8, 4), and pays `penalty` times the sum of all charges in the goal cell. Both
    discounts are 0.99.

    With the default settings J is 0.0008 where nothing is charged, 0.667 (BC-HG) and 0.692 (HPGD)
    where the published ascents end on average, and 0.7682 at the best theta that is known, which
    `search` found.

    With several goals there are as many followers, each as likely, and one theta for all: the
    contexts of the HPGD paper, whose code has the goals (1, 9) and (11, 11).

    Source: Thoma et al. (NeurIPS 2024, arXiv:2406.01575) and Kudo et al. (ICAPS 2026,
    arXiv:2603.14867).

    Parameters
    ----------
    temperature : float
        Temperature of the follower; published are 0.001, 0.003 and 0.005.
    penalty : float
        Price of charges; published are 1, 3 and 5.
    slip : float
        Probability of a move other than the chosen one; the published planner's by default.
    goals : sequence of (row, column)
        Where followers go; by default one, to (1, 9).
    discount : float
        Of both players.

    Returns
    -------
    Reparametrised
        With 105 parameters, of a `FeatureProblem`, or of `Contexts` if there are several goals.

    Raises
    ------
    ValueError
        If a setting is out of range or not finite, or a goal is no free cell, or there is none.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> round(tb.objective(tb.problems.four_rooms(), [0.0] * 105), 8)
    -0.74064441
    >>> rooms = tb.problems.four_rooms(goals=[(1, 9), (11, 11)])
    >>> print(rooms.inner)
    Contexts: 2 followers, with weights [0.5 0.5]
    >>> round(tb.objective(rooms, [0.0] * 105), 8)
    -0.26162262
    """
    price, discount = as_finite("penalty", penalty), as_discount("discount", discount)
    free = np.array([[cell == " " for cell in row] for row in LAYOUT.split("\n")[1:-1]])
    board, (kernel, cells) = GridMap(free), grid_kernel(free, slip=slip)
    if not isinstance(goals, Iterable):
        raise ValueError(f"goals is {goals!r}, not a sequence of (row, column)")
    goals = tuple(goals)
    if not goals:
        raise ValueError("goals is empty: the follower must have one")
    each = [
        _with_goal(
            board, kernel, board.state(goal, name=f"goals[{k}]"), temperature, price, discount
        )
        for k, goal in enumerate(goals)
    ]
    names = [f"to {row}, {column}" for row, column in goals]
    return Reparametrised(
        each[0] if len(each) == 1 else Contexts(each, names=names),
        Budget(total=BUDGET, n_parameters=len(cells) + 1),
    )


def _with_goal(
    board: GridMap,
    kernel: sp.csr_array,
    goal: int,
    temperature: float,
    price: float,
    discount: float,
) -> FeatureProblem:
    """Build one follower's walk, with a charge a cell."""
    base = grid_model(
        kernel,
        board.free,
        start=board.state(START),
        goal=goal,
        target=board.state(TARGET),
        follower_discount=discount,
        leader_discount=discount,
        temperature=temperature,
    )
    n_states, n_actions = base.n_states, base.n_actions
    charged = coin_features(base).toarray()
    charged[:, goal] = 0.0
    # Charges are negative incentives: minus penalty times their sum is plus penalty times these.
    paid = np.zeros((n_states * n_actions, n_states))
    paid[goal * n_actions : (goal + 1) * n_actions] = price
    return FeatureProblem(base, follower_reward=charged, leader_reward=paid)
