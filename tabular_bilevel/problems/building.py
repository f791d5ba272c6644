"""Building thermal control: the continuous environment design of the BC-HG paper."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arguments import as_theta
from tabular_bilevel._base.arrays import FloatArray, quiet
from tabular_bilevel.lq.model import LinearQuadraticModel, Tangent
from tabular_bilevel.lq.rewards import QuadraticReward
from tabular_bilevel.lq.sensitivities import Sensitivities
from tabular_bilevel.problems.reparametrised import Box

# Heat that a zone keeps or gains a step, and what its neighbours give it, with all airways open.
EXCHANGE = np.array(
    [
        [1.0, 0.05, 0.0, 0.05],
        [0.03, 1.0, 0.04, 0.0],
        [0.0, 0.04, 1.0, 0.06],
        [0.05, 0.0, 0.03, 1.0],
    ]
)

# How much of a zone's deviation grows a step for lack of insulation.
LEAKING = np.array([0.04, 0.03, 0.06, 0.05])

# Insulations and airflows lie between 0 and 1.
DESIGNS = Box(np.zeros(8), np.ones(8))

# What the leader pays a step for u'u, and for insulations and airflows squared.
INPUT_COST, DESIGN_COST = 0.5, 0.1


@dataclass(frozen=True, eq=False)
class Building:
    """Zones in a ring, with insulations and airflows between 0 and 1; theta are their logits.

    Attributes
    ----------
    base : LinearQuadraticModel
        The follower's decision process but for what theta moves.
    parameter_names : tuple of str
        What the entries of theta are called.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> building = tb.problems.building_thermal_control()
    >>> building.design([0.0] * 8)
    array([0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5])
    >>> tb.check_gradient(building, [0.0] * 8).passed
    True
    """

    base: LinearQuadraticModel = field(repr=False)
    parameter_names: tuple[str, ...]

    @property
    def n_parameters(self) -> int:
        """Length of theta: an insulation and an airflow a zone."""
        return 2 * self.base.n_states

    def design(self, theta: npt.ArrayLike) -> FloatArray:
        """Turn theta into what it means.

        Parameters
        ----------
        theta : array_like, shape (8,)
            The leader's parameter.

        Returns
        -------
        ndarray, shape (8,)
            Four insulations, and the airflows between zones 0 and 1, 1 and 2, 2 and 3, 3 and 0.

        Raises
        ------
        ValueError
            If theta has the wrong length or an entry that is not finite.
        """
        return DESIGNS.forward(theta)

    @quiet
    def model(self, theta: npt.ArrayLike) -> LinearQuadraticModel:
        """Build the follower's model at theta."""
        design = self.design(theta)
        reward: Any = self.base.leader_reward
        return self.base.replace(
            dynamics=EXCHANGE * np.eye(4) + np.diag(LEAKING) + np.tensordot(design, SLOPES, axes=1),
            leader_reward=replace(reward, constant=-DESIGN_COST * design @ design),
        )

    @quiet
    def pullback(self, theta: npt.ArrayLike, sensitivities: Sensitivities) -> FloatArray:
        """Pull sensitivities back to theta."""
        paid = -2.0 * DESIGN_COST * self.design(theta) * sensitivities.leader_reward["constant"]
        return DESIGNS.pullback(theta, np.tensordot(SLOPES, sensitivities.dynamics, 2) + paid)

    @quiet
    def pushforward(self, theta: npt.ArrayLike, direction: npt.ArrayLike) -> Tangent:
        """Differentiate the tables along a direction of theta."""
        d = self.n_parameters
        at = as_theta(theta, d)
        moved = DESIGNS.pushforward(at, as_theta(direction, d, name="direction"))
        return Tangent(
            dynamics=np.tensordot(moved, SLOPES, axes=1),
            leader_reward={"constant": -2.0 * DESIGN_COST * moved @ self.design(theta)},
        )

    def __str__(self) -> str:
        return f"Building: {self.base.n_states} zones, {self.n_parameters} parameters"


def _slopes() -> FloatArray:
    """Differentiate the dynamics in each insulation and airflow, shape (8, 4, 4).

    Insulation keeps a zone's own leak from growing; an airflow lets two neighbours exchange heat,
    which leaves the one as it enters the other.
    """
    slopes = np.zeros((8, 4, 4))
    for i in range(4):
        slopes[i, i, i] = -LEAKING[i]
        j = (i + 1) % 4
        for zone, neighbour in ((i, j), (j, i)):
            slopes[4 + i, zone, neighbour] = EXCHANGE[zone, neighbour]
            slopes[4 + i, zone, zone] = -EXCHANGE[zone, neighbour]
    return slopes


SLOPES = _slopes()


def building_thermal_control() -> Building:
    """Build the building whose owner insulates and ventilates, and whose tenant heats and cools.

    Four zones in a ring, two units for heating and cooling. The state is each zone's deviation from
    the wanted temperature, which grows for lack of insulation. The tenant pays x' diag(8, 1, 5, 6)
    x + 0.01 u'u a step; discount 0.9, temperature 0.1. The owner loses the variance of x over the
    zones, 0.5 u'u, and 0.1 for each insulation and airflow squared, over 100 steps; discount 0.9.
    The first state is N(0, 25 I), the noise N(0, 0.02^2 I).

    Source: Kudo et al. (ICAPS 2026, arXiv:2603.14867).

    Returns
    -------
    Building
        With 8 parameters, the logits of 4 insulations and of 4 airflows.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> round(tb.objective(tb.problems.building_thermal_control(), [0.0] * 8), 6)
    -261.963014
    """
    deviation = np.eye(4) - 0.25
    base = LinearQuadraticModel(
        dynamics=EXCHANGE,
        control=np.array([[0.1, 0.0], [0.6, 0.0], [0.0, 0.55], [0.0, 0.3]]),
        state_cost=np.diag([8.0, 1.0, 5.0, 6.0]),
        control_cost=0.01 * np.eye(2),
        noise=0.02**2 * np.eye(4),
        initial_mean=np.zeros(4),
        initial_covariance=25.0 * np.eye(4),
        follower_discount=0.9,
        leader_discount=0.9,
        temperature=0.1,
        leader_reward=QuadraticReward(
            state=-deviation @ deviation / 4.0, control=-INPUT_COST * np.eye(2)
        ),
        leader_horizon=100,
    )
    zones = range(4)
    names = [f"insulation {i}" for i in zones] + [f"airflow {i}-{(i + 1) % 4}" for i in zones]
    return Building(base, tuple(names))
