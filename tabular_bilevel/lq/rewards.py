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
from tabular_bilevel._base.arrays import ROUNDOFF, FloatArray, quiet, read_only, restore_read_only
from tabular_bilevel.lq.arguments import as_not_negative, as_symmetric
from tabular_bilevel.lq.linear import inverses, symmetric

# A bump's mean of which rounding leaves fewer digits is refused.
MOST_LOST = 1e-6

# Numbers of the covariances that are looked at together: they stay in the processor's cache.
BLOCK = 2**16


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
        precision, gap = tables["precision"], laws.means - tables["centre"]
        grown = np.eye(len(precision)) + 2.0 * laws.covariances @ precision
        sign, size = np.linalg.slogdet(grown)
        near = np.linalg.solve(grown, gap[:, :, None])[:, :, 0]
        distance = (near @ precision * gap).sum(axis=1)
        return tables["height"] * (weights @ np.exp(-distance - (size + np.log(sign)) / 2.0))

    def slopes(
        self, laws: StateLaws, weights: FloatArray, gain: FloatArray, covariance: FloatArray
    ) -> Slopes:
        """Differentiate `expected`, by the derivatives of a determinant and of an inverse."""
        gaps = laws.means - self.centre
        bump, means = np.empty_like(weights), np.empty_like(gaps)
        spread = np.empty_like(laws.covariances)
        sharper, n = np.zeros_like(self.precision), self.centre.size
        for first in range(0, len(weights), block := max(1, BLOCK // n**2)):
            now = slice(first, first + block)
            wide = Widened(self.precision, laws.covariances[now])
            bump[now], pull, near = wide.at(gaps[now])
            size = self.height * weights[now] * bump[now]
            means[now] = -2.0 * size[:, None] * pull
            np.multiply(-size[:, None, None], wide.precisions, out=spread[now])
            spread[now] -= means[now][:, :, None] * pull[:, None, :]
            sharper += wide.shrunk(size) + (size[:, None] * near).T @ near
        weighted = weights * bump
        return Slopes(
            total=float(self.height * weighted.sum()),
            means=means,
            covariances=spread,
            gain=np.zeros_like(gain),
            covariance=np.zeros_like(covariance),
            reward={
                "centre": -means.sum(axis=0),
                "precision": -symmetric(sharper),
                "height": np.asarray(weighted.sum()),
            },
        )


class Widened:
    """The mean of a bump over a Gaussian is a lower, wider one: exp(-gap' E gap) / root.

    With the precision D = F F' of the bump and covariances S, M = I + 2 F'SF has no eigenvalue
    below 1, whatever S: E = F M^-1 F', and the root is that of the determinant of M.
    """

    def __init__(self, precision: FloatArray, covariances: FloatArray) -> None:
        sizes, self._axes, least = np.diag(precision), None, 0.0
        if np.count_nonzero(precision) > np.count_nonzero(sizes):
            sizes, self._axes = np.linalg.eigh(precision)
            least = len(sizes) * ROUNDOFF * sizes[-1]
        self._kept = np.flatnonzero(sizes > least)
        self._scale = np.sqrt(sizes[self._kept])[:, None]
        self._covariances = covariances
        self._moved = self._across(covariances)  # F'S
        inner = 2.0 * self._across(self._moved.swapaxes(1, 2))
        inner[:, range(self._kept.size), range(self._kept.size)] += 1.0
        try:
            self._inverse, self._size = inverses(inner)
        except np.linalg.LinAlgError:
            lost = np.inf
        else:  # Cholesky's method loses no more, whatever the units
            wide, tight = (np.diagonal(x, axis1=1, axis2=2) for x in (inner, self._inverse))
            lost = ROUNDOFF * max(1.0, float((wide * tight).max(initial=0.0)))
        #: What rounding takes, relative to what is computed.
        self.lost = lost
        if not lost < MOST_LOST:
            raise ValueError(
                "the covariance of the state is too wide for the precision of the bump: float64 "
                "would leave fewer than six digits"
            )
        strong = wide.max(axis=0, initial=0.0)[:, None] > 2.0
        self._back = np.where(strong, 1.0 / self._scale, 0.0)

    def _across(self, rows: FloatArray) -> FloatArray:
        """Multiply by F'."""
        if self._axes is None:
            return np.asarray(self._scale * rows[..., self._kept, :])
        return np.asarray((self._axes[:, self._kept] * self._scale.T).T @ rows)

    def _out(self, rows: FloatArray, scale: FloatArray) -> FloatArray:
        """Multiply by F, or by another matrix that differs in the scale of its columns."""
        if self._axes is not None:
            return np.asarray((self._axes[:, self._kept] * scale.T) @ rows)
        found = np.zeros((*rows.shape[:-2], self._covariances.shape[1], rows.shape[-1]))
        found[..., self._kept, :] = scale * rows
        return found

    def _off(self, rows: FloatArray) -> FloatArray:
        """Leave out the axes along which the bump is narrower than the state."""
        return rows - self._out(self._across(rows), self._back)

    @property
    def precisions(self) -> FloatArray:
        """E, shape (T, n, n)."""
        half = self._out(self._inverse, self._scale)
        return self._out(half.swapaxes(1, 2), self._scale)

    @property
    def heights(self) -> FloatArray:
        """What the height is multiplied by, shape (T,)."""
        return np.exp(-self._size / 2.0)

    def at(self, gap: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Compute the mean bump, E gap and (I + 2 S D)^-1 gap; where it is too far off, 0, too."""
        columns = gap[:, :, None]
        seen = self._across(columns)
        inner = self._inverse @ seen
        whole = np.isfinite(seen).all(axis=(1, 2))
        bump = np.where(whole, np.exp(-(seen * inner).sum(axis=(1, 2)) - self._size / 2.0), 0.0)
        felt = (bump != 0.0)[:, None, None]
        columns, inner = np.where(felt, columns, 0.0), np.where(felt, inner, 0.0)
        pull = self._out(inner, self._scale)
        near = self._out(inner, self._back)
        near += self._off(columns - 2.0 * self._covariances @ pull)
        return bump, pull[:, :, 0], near[:, :, 0]

    def shrunk(self, weights: FloatArray) -> FloatArray:
        """Add up weights times (I + 2 S D)^-1 S, in parts that do not cancel, shape (n, n)."""
        narrow = self._inverse @ self._moved
        narrow *= weights[:, None, None]
        seen = self._out(narrow.sum(axis=0), self._back)
        if np.count_nonzero(self._back) == len(seen):
            return seen
        rest = np.tensordot(weights, self._covariances, axes=1)
        rest -= 2.0 * np.tensordot(self._moved, narrow, axes=((0, 1), (0, 1)))
        return seen + self._off(seen.T) + self._off(self._off(rest).T)
