"""Two problems to be solved with a pencil: the lessons of the book are about them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tabular_bilevel._base.arguments import as_finite
from tabular_bilevel.problems.arrows import Arrow, Place, from_arrows
from tabular_bilevel.problems.features import FeatureProblem


def fork(
    *, prize: float = 3.0, cost: float = math.log(3.0), temperature: float = 1.0
) -> FeatureProblem:
    """Build a fork: the follower goes past once, by the noisy aisle or by the quiet one.

    The quiet aisle costs the follower something and earns the leader a prize. Theta is the number
    of coins there, which the leader pays. The follower is indifferent where they equal its cost.

    Parameters
    ----------
    prize : float
        What the leader earns when the follower takes the quiet aisle.
    cost : float
        What the quiet aisle costs the follower; by default the odds without coins are 1 to 3.
    temperature : float
        Temperature of the follower; positive.

    Returns
    -------
    FeatureProblem
        With one state, two actions and one parameter.

    Raises
    ------
    ValueError
        If a number is not finite, or the temperature not positive.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> tb.hypergradient(tb.problems.fork(), [0.0]).gradient.round(12)  # -1/4 + 9/16
    array([0.3125])
    """
    quiet = Arrow(None, -as_finite("cost", cost), as_finite("prize", prize))
    return from_arrows(
        {"fork": {"noisy": None, "quiet": quiet}},
        coins=[("fork", "quiet")],
        follower_discount=0.0,
        leader_discount=0.0,
        temperature=temperature,
    )


def rounds(
    *, coins: Sequence[Place] = ("dock", "aisle"), prize: float = 12.0, temperature: float = 0.5
) -> FeatureProblem:
    """Build a dock and an aisle: the follower waits at the dock, or goes round through the aisle.

    At the dock it waits or goes. From the aisle there is only the way back, for which it gets ln 6
    and the leader the prize. Play starts at the dock and never ends; the follower's discount is
    1/2, the leader's 2/3.

    Parameters
    ----------
    coins : sequence of str or (str, str)
        Where the leader may put coins, as in `from_arrows`.
    prize : float
        What the leader earns for each way back.
    temperature : float
        Temperature of the follower; positive.

    Returns
    -------
    FeatureProblem
        With one parameter a coin.

    Raises
    ------
    ValueError
        As `fork`; if a coin is where nothing is.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> result = tb.hypergradient(tb.problems.rounds(), [0.0, 0.0])
    >>> (11 * result.gradient).round(9), (11 * result.influence).round(9)
    (array([-38.,   5.]), array([-16.,  16.]))
    """
    back = Arrow("dock", follower_reward=math.log(6.0), leader_reward=as_finite("prize", prize))
    return from_arrows(
        {"dock": {"wait": "dock", "go": "aisle"}, "aisle": {"back": back}},
        coins=coins,
        follower_discount=1.0 / 2.0,
        leader_discount=2.0 / 3.0,
        temperature=temperature,
    )
