"""Bilevel LQR: the continuous two-player game of the BC-HG paper."""

from __future__ import annotations

import numpy as np

from tabular_bilevel.lq.model import LinearQuadraticModel
from tabular_bilevel.lq.rewards import GaussianBump
from tabular_bilevel.problems.linear_quadratic_game import LinearQuadraticGame


def bilevel_lqr() -> LinearQuadraticGame:
    """Build the game in which a leader lures a follower away from 0.

    The state moves to (x_1, x_2) = (x_2 + 0.1 b, 0.1 u). The follower sees b, and pays x'x + u^2;
    discount 0.95, temperature 0.1. The leader plays b ~ N(k x, 1e-6), and earns up to 1 a step
    while x is near (-0.8, 0), within 0.2 and 0.01; discount 0.99, 100 steps. Play starts in (1, 0).

    Source: Kudo et al. (ICAPS 2026, arXiv:2603.14867).

    Returns
    -------
    LinearQuadraticGame
        With 2 parameters, k.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> round(tb.objective(tb.problems.bilevel_lqr(), [0.0, 0.0]), 8)
    0.00941722
    """
    base = LinearQuadraticModel(
        dynamics=np.array([[0.0, 1.0], [0.0, 0.0]]),
        control=np.array([[0.0], [0.1]]),
        state_cost=np.eye(2),
        control_cost=np.eye(1),
        noise=np.zeros((2, 2)),
        initial_mean=np.array([1.0, 0.0]),
        initial_covariance=np.zeros((2, 2)),
        follower_discount=0.95,
        leader_discount=0.99,
        temperature=0.1,
        leader_reward=GaussianBump(
            centre=np.array([-0.8, 0.0]), precision=np.diag([0.5 / 0.2**2, 0.5 / 0.01**2])
        ),
        leader_horizon=100,
    )
    return LinearQuadraticGame(
        base=base, leader_control=np.array([[0.1], [0.0]]), leader_noise=np.array([[1e-6]])
    )
