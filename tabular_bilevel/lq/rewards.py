"""What the leader earns a step: a quadratic, or a Gaussian bump (theory.md section 15).

The state is Gaussian at each step, so that the mean of either is a closed form; here are these
means, added up over steps, and their derivatives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tabular_bilevel._base.arguments import as_finite, finite_array
from tabular_bilevel._base.arrays import FloatArray, quiet, read_only, restore_read_only
from tabular_bilevel.lq.arguments import as_not_negative, as_symmetric
from tabular_bilevel.lq.linear import symmetric

__all__ = ["GaussianBump", "QuadraticReward", "Slopes", "StateLaws", "by_state"]


@dataclass(frozen=True, eq=False)
class StateLaws:
    """Gaussian laws of the state, step by step.

    Attributes
    ----------
    means : ndarray, shape (T, n)
        Its mean at each step, the first one first.
    covariances : ndarray, shape (T, n, n)
        Its covariance.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> model = tb.problems.building_thermal_control().model([0.0] * 8)
    >>> laws = tb.lq.state_laws(model, tb.solve_follower(model), 3)
    >>> laws.means.shape, laws.moments.shape
    ((3, 4), (3, 4, 4))
    """

    means: FloatArray
    covariances: FloatArray

    __setstate__ = restore_read_only

    @property
    def moments(self) -> FloatArray:
        """The mean of x x' at each step, shape (T, n, n)."""
        return self.covariances + self.means[:, :, None] * self.means[:, None, :]


@dataclass(frozen=True, eq=False)
class Slopes:
    """Weighted mean rewards, added up over the steps, and their derivatives.

    Attributes
    ----------
    total : float
        The sum.
    means : ndarray, shape (T, n)
        In the mean of the state at each step.
    covariances : ndarray, shape (T, n, n)
        In its covariance.
    gain, covariance : ndarray, shape (m, n) and (m, m)
        In the follower's policy, u ~ N(-gain x, covariance), the laws of the state held fixed.
    reward : mapping of str to ndarray
        In the reward's own numbers.
    """

    total: float
    means: FloatArray
    covariances: FloatArray
    gain: FloatArray
    covariance: FloatArray
    reward: Mapping[str, FloatArray]


@dataclass(frozen=True, eq=False, kw_only=True)
class QuadraticReward:
    """A leader's reward x' state x + 2 x' cross u + u' control u + constant, each step.

    Attributes
    ----------
    state : ndarray, shape (n, n)
        M, symmetric; of either sign, as the others.
    control : ndarray, shape (m, m)
        N, symmetric.
    constant : float
        c.
    cross : ndarray, shape (n, m)
        H; 0 by default.

    Raises
    ------
    ValueError
        On construction, if a matrix is not finite or not symmetric, or shapes do not fit.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> saving = tb.QuadraticReward(state=[[0.0]], control=[[-0.5]], constant=1.0)
    >>> saving.cross
    array([[0.]])
    """

    moved: ClassVar[tuple[str, ...]] = ("state", "control", "constant", "cross")
    symmetric: ClassVar[frozenset[str]] = frozenset({"state", "control"})

    state: FloatArray
    control: FloatArray
    constant: float = 0.0
    cross: Any = None

    __setstate__ = restore_read_only

    @quiet
    def __post_init__(self) -> None:
        """Check the numbers, and copy them."""
        state = as_symmetric("leader_reward.state", self.state)
        control = as_symmetric("leader_reward.control", self.control)
        shape = (len(state), len(control))
        cross = np.zeros(shape) if self.cross is None else self.cross
        object.__setattr__(self, "state", state)
        object.__setattr__(self, "control", control)
        object.__setattr__(self, "constant", as_finite("leader_reward.constant", self.constant))
        object.__setattr__(
            self, "cross", read_only(finite_array("leader_reward.cross", cross, shape))
        )

    def require_shape(self, n_states: int, n_controls: int) -> None:
        """Raise ValueError unless it is a reward of so many states and inputs."""
        for name, size in (("state", n_states), ("control", n_controls)):
            shape = getattr(self, name).shape
            if shape != (size, size):
                raise ValueError(f"leader_reward.{name} has shape {shape}, not ({size}, {size})")

    def at(self, states: FloatArray, controls: FloatArray) -> FloatArray:
        """Compute what steps earn; states have the shape (count, steps, n)."""
        paid = states @ self.state + 2.0 * controls @ np.transpose(self.cross)
        of_controls = ((controls @ self.control) * controls).sum(axis=-1)
        return np.asarray((paid * states).sum(axis=-1) + of_controls + self.constant)

    @staticmethod
    def expected(
        tables: Mapping[str, Any], laws: StateLaws, weights: FloatArray, gain: Any, covariance: Any
    ) -> Any:
        """Add up weighted means of the reward over the laws; complex numbers are welcome."""
        state = by_state(tables, gain)
        moment = np.tensordot(weights, laws.moments, axes=1)
        noise = np.trace(tables["control"] @ covariance) + tables["constant"]
        return np.vdot(state.conj(), moment) + weights.sum() * noise

    def slopes(
        self, laws: StateLaws, weights: FloatArray, gain: FloatArray, covariance: FloatArray
    ) -> Slopes:
        """Differentiate `expected`."""
        state = by_state(vars(self), gain)
        moment = np.tensordot(weights, laws.moments, axes=1)
        total = weights.sum()
        return Slopes(
            total=float(self.expected(vars(self), laws, weights, gain, covariance)),
            means=2.0 * weights[:, None] * (laws.means @ state),
            covariances=weights[:, None, None] * state,
            gain=2.0 * (self.control @ gain - np.transpose(self.cross)) @ moment,
            covariance=total * self.control,
            reward={
                "state": moment,
                "control": symmetric(gain @ moment @ gain.T) + total * covariance,
                "constant": np.asarray(total),
                "cross": -2.0 * moment @ gain.T,
            },
        )


def by_state(tables: Mapping[str, Any], gain: Any) -> Any:
    """Put u = -gain x into the quadratic."""
    mixed = tables["cross"] @ gain
    return tables["state"] - mixed - mixed.T + gain.T @ tables["control"] @ gain


@dataclass(frozen=True, eq=False, kw_only=True)
class GaussianBump:
    """A leader's reward height exp(-(x - centre)' precision (x - centre)), each step.

    Attributes
    ----------
    centre : ndarray, shape (n,)
        Where it is largest.
    precision : ndarray, shape (n, n)
        Symmetric, no eigenvalue below 0; along a direction of eigenvalue 0 the reward is constant.
    height : float
        Its largest value.

    Raises
    ------
    ValueError
        On construction, if a number is not finite, or the precision not symmetric or negative.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> target = tb.GaussianBump(centre=[1.0, 0.0], precision=[[50.0, 0.0], [0.0, 0.0]])
    >>> target.height
    1.0
    """

    moved: ClassVar[tuple[str, ...]] = ("centre", "precision", "height")
    symmetric: ClassVar[frozenset[str]] = frozenset({"precision"})

    centre: FloatArray
    precision: FloatArray
    height: float = 1.0

    __setstate__ = restore_read_only

    @quiet
    def __post_init__(self) -> None:
        """Check the numbers, and copy them."""
        centre = read_only(finite_array("leader_reward.centre", self.centre, (None,)))
        precision = as_not_negative("leader_reward.precision", self.precision, centre.size)
        object.__setattr__(self, "centre", centre)
        object.__setattr__(self, "precision", precision)
        object.__setattr__(self, "height", as_finite("leader_reward.height", self.height))

    def require_shape(self, n_states: int, n_controls: int) -> None:
        """Raise unless it is a reward of so many states."""
        if self.centre.size != n_states:
            raise ValueError(
                f"leader_reward.centre has shape {self.centre.shape}, not ({n_states},)"
            )

    def at(self, states: FloatArray, controls: FloatArray) -> FloatArray:
        """Compute what steps earn; states have the shape (count, steps, n)."""
        gap = states - self.centre
        return np.asarray(self.height * np.exp(-((gap @ self.precision) * gap).sum(axis=-1)))

    @staticmethod
    def expected(
        tables: Mapping[str, Any], laws: StateLaws, weights: FloatArray, gain: Any, covariance: Any
    ) -> Any:
        """Add up weighted means of the reward over the laws; complex numbers are welcome."""
        widened = _Widened(tables["centre"], tables["precision"], laws)
        return tables["height"] * (weights @ widened.bump)

    def slopes(
        self, laws: StateLaws, weights: FloatArray, gain: FloatArray, covariance: FloatArray
    ) -> Slopes:
        """Differentiate `expected`, by the derivatives of a determinant and of an inverse."""
        widened = _Widened(self.centre, self.precision, laws)
        weighted = weights * widened.bump
        size = self.height * weighted
        pull = widened.pull  # of the mean towards the centre
        means = -2.0 * size[:, None] * pull
        spread = 2.0 * pull[:, :, None] * pull[:, None, :] - widened.precision
        near = (widened.shrunk @ (widened.gap * (size != 0.0)[:, None])[:, :, None])[:, :, 0]
        sharper = symmetric(widened.shrunk @ laws.covariances) + near[:, :, None] * near[:, None, :]
        return Slopes(
            total=float(size.sum()),
            means=means,
            covariances=size[:, None, None] * spread,
            gain=np.zeros_like(gain),
            covariance=np.zeros_like(covariance),
            reward={
                "centre": -means.sum(axis=0),
                "precision": -np.tensordot(size, sharper, axes=1),
                "height": np.asarray(weighted.sum()),
            },
        )


class _Widened:
    """The mean of a bump over a Gaussian is a lower, wider one: exp(-gap' precision gap) / root.

    With S the covariance and P the precision, shrunk = (I + 2 S P)^-1, the wider one's precision
    is P shrunk, and the root is that of the determinant of I + 2 S P.
    """

    def __init__(self, centre: Any, precision: Any, laws: StateLaws) -> None:
        grown = np.eye(len(centre)) + 2.0 * laws.covariances @ precision
        sign, size = np.linalg.slogdet(grown)
        try:
            self.shrunk = np.linalg.inv(grown)
        except np.linalg.LinAlgError as error:
            raise ValueError(
                "the covariance of the state is too wide for the precision of the bump, in float64"
            ) from error
        self.precision = symmetric(precision @ self.shrunk)
        self.gap = laws.means - centre
        self.pull = (self.precision @ self.gap[:, :, None])[:, :, 0]
        distance = (self.gap * self.pull).sum(axis=1)
        self.bump = np.exp(-distance - (size + np.log(sign)) / 2.0)
        self.pull[self.bump == 0.0] = 0.0  # too far off: 0 is the derivative, too
