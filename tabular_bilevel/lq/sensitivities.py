"""The derivative of J with respect to the tables of a linear-quadratic model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from tabular_bilevel._base.arrays import FloatArray, quiet, read_only, restore_read_only
from tabular_bilevel.lq.model import MOVED, LinearQuadraticModel, Tangent


@dataclass(frozen=True, eq=False)
class Sensitivities:
    """Derivatives of the leader's objective in each table entry (theory.md section 15).

    Those of symmetric tables are symmetric, and paired with symmetric changes by the trace.

    Attributes
    ----------
    model : LinearQuadraticModel
        Whose tables they belong to.
    dynamics, control, state_cost, control_cost, noise, initial_mean, initial_covariance : ndarray
        dJ/d(that table), of its shape. That in `state_cost` is what the influence is for tables.
    temperature : float
        dJ/d(temperature).
    leader_reward : mapping of str to ndarray
        dJ/d(each number of the leader's reward), by its name.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> problem, theta = tb.problems.building_thermal_control(), [0.0] * 8
    >>> result = tb.hypergradient(problem, theta)
    >>> measures = result.sensitivities
    >>> along = problem.pushforward(theta, [1.0] + [0.0] * 7)
    >>> bool(abs(measures.dot(along) - result.gradient[0]) < 1e-10)
    True
    >>> measures.size > 0.0  # of all entries together
    True
    >>> alone = tb.lq.Sensitivities.of(measures.model, leader_reward={"constant": 1.0})
    >>> alone.temperature, (alone + alone).leader_reward["constant"]
    (0.0, array(2.))
    """

    model: LinearQuadraticModel = field(repr=False)
    dynamics: FloatArray
    control: FloatArray
    state_cost: FloatArray
    control_cost: FloatArray
    noise: FloatArray
    initial_mean: FloatArray
    initial_covariance: FloatArray
    temperature: float
    leader_reward: Mapping[str, FloatArray]

    groups: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType(
        {
            "follower_reward": ("state_cost", "control_cost"),
            "leader_reward": ("leader_reward",),
            "transition": ("dynamics", "control", "noise"),
            "initial": ("initial_mean", "initial_covariance"),
            "temperature": ("temperature",),
        }
    )

    __setstate__ = restore_read_only

    @classmethod
    def of(
        cls,
        model: LinearQuadraticModel,
        *,
        leader_reward: Mapping[str, Any] | None = None,
        **tables: Any,
    ) -> Sensitivities:
        """Make sensitivities of arrays by the tables' names, as of `Sensitivities` of tables.

        Those of the leader's reward, too, are by name; what is left out is 0.
        """

        def owned(array: Any, table: Any) -> FloatArray:
            shape = np.shape(table)
            return read_only(np.zeros(shape) if array is None else np.array(array).reshape(shape))

        reward, slopes = model.leader_reward, leader_reward or {}
        return cls(
            model=model,
            temperature=float(tables.pop("temperature", 0.0)),
            **{name: owned(tables.get(name), getattr(model, name)) for name in MOVED[:-1]},
            leader_reward={
                name: owned(slopes.get(name), getattr(reward, name)) for name in reward.moved
            },
        )

    @quiet
    def __add__(self, other: Sensitivities) -> Sensitivities:
        """Add two on the same model."""
        return Sensitivities.of(
            self.model,
            leader_reward={
                name: slope + other.leader_reward[name]
                for name, slope in self.leader_reward.items()
            },
            **{name: getattr(self, name) + getattr(other, name) for name in MOVED},
        )

    @quiet
    def times(self, factors: Mapping[str, float]) -> Sensitivities:
        """Multiply the measures of some tables.

        Parameters
        ----------
        factors : mapping of str to float
            By the names that such tables have in a model of tables: "follower_reward" stands for
            both costs, "transition" for dynamics, control and noise, "initial" for mean and
            covariance of the first state.

        Returns
        -------
        Sensitivities
            The product.
        """
        tables = {
            name: factors.get(group, 1.0) * getattr(self, name)
            for group, names in self.groups.items()
            for name in names
            if name != "leader_reward"
        }
        paid = factors.get("leader_reward", 1.0)
        rewards = {name: paid * slope for name, slope in self.leader_reward.items()}
        return Sensitivities.of(self.model, leader_reward=rewards, **tables)

    @quiet
    def dot(self, tangent: Tangent) -> float:
        """Differentiate J along a change of the tables, as of `Sensitivities` of tables."""
        pairs = [(getattr(self, name), getattr(tangent, name)) for name in MOVED]
        pairs += [(self.leader_reward[name], x) for name, x in tangent.leader_reward.items()]
        return float(sum(np.vdot(slope, x) for slope, x in pairs if x is not None))

    @property
    def size(self) -> float:
        """Sum of the sizes of all entries."""
        arrays = [getattr(self, name) for name in MOVED] + list(self.leader_reward.values())
        return float(sum(np.abs(array).sum() for array in arrays))

    def __str__(self) -> str:
        sizes = ", ".join(f"{name} {np.linalg.norm(getattr(self, name)):.4g}" for name in MOVED)
        return f"Sensitivities: norms {sizes}"
