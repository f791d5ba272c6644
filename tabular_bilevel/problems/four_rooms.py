"""Four rooms: the configurable MDP of the HPGD and BC-HG papers."""

from __future__ import annotations

import numpy as np

from tabular_bilevel._base.arguments import as_finite
from tabular_bilevel.problems.features import FeatureProblem, coin_features
from tabular_bilevel.problems.grid_world import grid_kernel, grid_model
from tabular_bilevel.problems.reparametrised import Budget, Reparametrised

__all__ = ["four_rooms"]

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
    temperature: float = 0.001, penalty: float = 5.0, *, slip: float = PLANNER_SLIP
) -> Reparametrised:
    """Build the four-rooms problem.

    The follower walks from (4, 1) to (1, 9), where acting earns 1 and ends the episode. The leader
    splits a charge of 0.2 over the 104 cells, incentives = -0.2 softmax(theta)[:104], the last of
    the 105 entries staying unspent; the goal's own share is not charged. The leader earns 1 for
    each step in (8, 4), and pays `penalty` times the sum of all charges in the goal cell. Both
    discounts are 0.99.

    With the default settings J is 0.0008 where nothing is charged, 0.667 (BC-HG) and 0.691 (HPGD)
    where the published ascents end on average, and 0.7682 at the best theta that is known, which
    `search` found.

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

    Returns
    -------
    Reparametrised
        With 105 parameters.

    Raises
    ------
    ValueError
        If a setting is out of range or not finite.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> round(tb.objective(tb.problems.four_rooms(), [0.0] * 105), 8)
    -0.74064441
    """
    price = as_finite("penalty", penalty)
    free = np.array([[cell == " " for cell in row] for row in LAYOUT.split("\n")[1:-1]])
    kernel, cells = grid_kernel(free, slip=slip)
    number = {(int(i), int(j)): state for state, (i, j) in enumerate(cells)}
    n_states, goal = len(cells), number[GOAL]
    base = grid_model(
        kernel,
        free,
        start=number[START],
        goal=goal,
        target=number[TARGET],
        follower_discount=DISCOUNT,
        leader_discount=DISCOUNT,
        temperature=temperature,
    )
    n_actions = base.n_actions
    charged = coin_features(base).toarray()
    charged[:, goal] = 0.0
    # Charges are negative incentives: minus penalty times their sum is plus penalty times these.
    paid = np.zeros((n_states * n_actions, n_states))
    paid[goal * n_actions : (goal + 1) * n_actions] = price
    return Reparametrised(
        FeatureProblem(base, follower_reward=charged, leader_reward=paid),
        Budget(total=BUDGET, n_parameters=n_states + 1),
    )
