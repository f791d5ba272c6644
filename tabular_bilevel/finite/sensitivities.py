"""The derivative of J with respect to the model's tables: measures (theory.md section 4).

Both the exact gradient and every sampled one are these measures, pulled back by the problem.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp

from tabular_bilevel._base.arrays import FloatArray, quiet, read_only, restore_read_only, unchecked
from tabular_bilevel._base.display import displayed
from tabular_bilevel._base.later import computed_later
from tabular_bilevel.finite.model import Model, Tangent


@dataclass(frozen=True, eq=False)
@computed_later("transition", "initial")
class Sensitivities:
    """Derivatives of the leader's objective in each table entry (theory.md section 4).

    Attributes
    ----------
    model : Model
        Whose tables they belong to.
    follower_reward : ndarray, shape (S, A)
        dJ/dr_F = mu, the influence measure.
    leader_reward : ndarray, shape (S, A)
        dJ/dr_L, the leader-discounted occupancy of pairs.
    transition : ndarray, shape (nnz,)
        dJ/dP(s'|s,a), in the order of ``model.transition.data``; `transition_matrix` has the same
        as a matrix.
    initial : ndarray, shape (S,)
        dJ/drho = V_L.
    temperature : float
        dJ/d(temperature).

    Examples
    --------
    >>> import numpy as np
    >>> import tabular_bilevel as tb
    >>> problem, theta = tb.problems.two_state(), [0.0, 0.0]
    >>> result = tb.hypergradient(problem, theta)
    >>> measures = result.sensitivities
    >>> along = problem.pushforward(theta, [1.0, 0.0])
    >>> bool(abs(measures.dot(along) - result.gradient[0]) < 1e-12)
    True
    >>> measures.transition_matrix.shape, round(measures.temperature, 4)
    ((4, 2), -0.9021)
    >>> alone = tb.Sensitivities.of(measures.model, follower_reward=np.eye(2))
    >>> problem.pullback(theta, alone)  # the follower's pay for staying home is theta[0]
    array([1., 0.])
    """

    model: Model = field(repr=False)
    follower_reward: FloatArray
    leader_reward: FloatArray
    transition: FloatArray
    initial: FloatArray
    _temperature: float | Callable[[], float] = field(default=0.0, repr=False)

    __setstate__ = restore_read_only

    def __getstate__(self) -> dict[str, Any]:
        """Copy numbers, not what computes them."""
        numbers = self.transition, self.initial, self.temperature
        return vars(self) | {"_temperature": numbers[-1]}

    @classmethod
    def of(
        cls,
        model: Model,
        *,
        follower_reward: FloatArray | None = None,
        leader_reward: FloatArray | None = None,
        transition: FloatArray | Callable[[], FloatArray] | None = None,
        initial: FloatArray | Callable[[], FloatArray] | None = None,
        temperature: float | Callable[[], float] = 0.0,
        entries: FloatArray | None = None,
    ) -> Sensitivities:
        """Make sensitivities of arrays that this object may own: they become read-only.

        Parameters
        ----------
        model : Model
            Whose tables they belong to.
        follower_reward, leader_reward : ndarray, shape (S, A), optional
            0 if left out.
        transition : ndarray, shape (nnz,), optional
            In the order of ``model.transition.data``; 0 if left out.
        initial : ndarray, shape (S,), optional
            0 if left out.
        temperature : float
            0 if left out. In its place, or in that of the two arrays before, there may be a
            function without arguments that computes it, called if and when a pullback asks for
            it: few problems do.
        entries : ndarray, optional
            Deprecated name of `transition`.

        Returns
        -------
        Sensitivities
            Of those arrays.
        """
        if entries is not None:
            _warn_of_old_name()
            transition = entries

        nothing = model._nothing
        made: dict[str, Any] = {
            "model": model,
            "follower_reward": nothing if follower_reward is None else read_only(follower_reward),
            "leader_reward": nothing if leader_reward is None else read_only(leader_reward),
            "_temperature": temperature,
        }
        if callable(transition):
            made["later_transition"] = transition
        else:
            made["transition"] = _owned(transition, model.transition.data)
        if callable(initial):
            made["later_initial"] = initial
        else:
            made["initial"] = _owned(initial, model.initial)
        return unchecked(cls, **made)

    @cached_property
    def temperature(self) -> float:
        """dJ/d(temperature)."""
        slope = self._temperature
        return slope() if callable(slope) else slope

    @cached_property
    def transition_matrix(self) -> sp.csr_array:
        """dJ/dP as a matrix like ``model.transition``, shape (S*A, S)."""
        return self.model.like_transition(self.transition)

    @property
    def entries(self) -> FloatArray:
        """Deprecated name of `transition`."""
        _warn_of_old_name()
        return self.transition

    @quiet
    def __add__(self, other: Sensitivities) -> Sensitivities:
        """Add two measures on the same model."""
        rewards = np.empty((2, *self.follower_reward.shape))
        np.add(self.follower_reward, other.follower_reward, rewards[0])
        np.add(self.leader_reward, other.leader_reward, rewards[1])
        read_only(rewards)
        return unchecked(
            Sensitivities,
            model=self.model,
            follower_reward=rewards[0],
            leader_reward=rewards[1],
            both_rewards=rewards.reshape(-1),
            _temperature=lambda: self.temperature + other.temperature,
            later_transition=lambda: self.transition + other.transition,
            later_initial=lambda: self.initial + other.initial,
        )

    def times(self, factors: Mapping[str, float]) -> Sensitivities:
        """Multiply the measures of some tables, by their names; by 0 whatever they are."""
        return self._times(factors) if factors else self

    @quiet
    def _times(self, factors: Mapping[str, float]) -> Sensitivities:
        def multiplied(name: str) -> FloatArray:
            array, factor = getattr(self, name), factors[name]
            return np.asarray(read_only(factor * array if factor else np.zeros_like(array)))

        slope: float | Callable[[], float] = self._temperature
        factor = factors.get("temperature", 1.0)
        if factor == 0.0:
            slope = 0.0
        elif factor != 1.0:
            slope = factor * self.temperature
        tables: dict[str, Any] = {
            name: multiplied(name) for name in factors if name != "temperature"
        }
        return replace(self, _temperature=slope, **tables)

    @quiet
    def dot(self, tangent: Tangent) -> float:
        """Differentiate J along a change of the tables.

        Parameters
        ----------
        tangent : Tangent
            The change.

        Returns
        -------
        float
            The derivative of J along it.
        """
        return float(
            np.vdot(self.follower_reward, tangent.follower_reward)
            + np.vdot(self.leader_reward, tangent.leader_reward)
            + np.vdot(self.transition, tangent.transition)
            + np.vdot(self.initial, tangent.initial)
            + (self.temperature * tangent.temperature if tangent.temperature else 0.0)
        )

    @quiet
    def __str__(self) -> str:
        mass = np.abs(self.follower_reward).sum()
        return (
            f"Sensitivities: {self.initial.size} states, influence of mass {mass:.4g}, "
            f"occupancy of mass {self.leader_reward.sum():.4g}"
        )


@displayed
@dataclass(frozen=True, eq=False)
@computed_later("transition", "transition_shift")
class SensitivityBounds:
    """Bounds of what sensitivities may be off by, entry by entry; infinite where nothing is known.

    A row of the kernel keeps its mass when theta moves, and so does the initial distribution: what
    they have in common drops out of a gradient, and has a bound of its own.

    Attributes
    ----------
    follower_reward, leader_reward : ndarray, shape (S, A)
        Errors of the influence measure, and of the occupancy of pairs.
    transition : ndarray, shape (nnz,)
        Error of dJ/dP, but for a number that all entries of a row share.
    transition_shift : ndarray, shape (S, A)
        Largest size of that number.
    initial : ndarray, shape (S,)
        Error of dJ/drho, but for a number that all states share.
    initial_shift : float
        Largest size of that number.
    temperature : float
        Error of dJ/d(temperature).
    """

    follower_reward: FloatArray
    leader_reward: FloatArray
    transition: FloatArray
    transition_shift: FloatArray
    initial: FloatArray
    initial_shift: float
    temperature: float

    __setstate__ = restore_read_only


def both_rewards(tables: Sensitivities | SensitivityBounds) -> FloatArray:
    """Put the follower's and the leader's rewards one behind the other, flat.

    Where they are parts of one array, it may be an attribute.
    """
    found: FloatArray | None = vars(tables).get("both_rewards")
    if found is None:
        found = np.concatenate((tables.follower_reward, tables.leader_reward)).reshape(-1)
    return found


def _owned(array: Any, table: FloatArray) -> FloatArray:
    return read_only(np.zeros(table.shape) if array is None else array)


def _warn_of_old_name() -> None:
    warnings.warn(
        "entries of sensitivities are called transition now", DeprecationWarning, stacklevel=3
    )
