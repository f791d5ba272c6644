"""Problems whose tables are linear or log-linear in theta."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from tabular_bilevel._base.arguments import (
    all_finite,
    as_entries,
    as_finite,
    as_names,
    as_positive,
    as_theta,
    entry,
    finite_array,
)
from tabular_bilevel._base.arrays import (
    ROUNDOFF,
    FloatArray,
    IntArray,
    at_least,
    grouped_sums,
    quiet,
    ratio,
    read_only,
    read_only_matrix,
    restore_read_only,
)
from tabular_bilevel._base.display import cut
from tabular_bilevel.finite.model import Model, Tangent
from tabular_bilevel.finite.sensitivities import Sensitivities, SensitivityBounds
from tabular_bilevel.finite.tangents import MOVED, Tangents, add_product, product
from tabular_bilevel.problems.grid_map import Cell, grid_map
from tabular_bilevel.problems.tilting import tilt_reach

# Tilted entries whose sum is smaller lose digits to underflow: they are added up by logarithms.
SMALLEST_TOTAL = 1e-290


@dataclass(frozen=True, eq=False, init=False)
class FeatureProblem:
    """Tables that are linear or log-linear in theta (theory.md section 1).

    With F_r, F_l, F_p, F_i the feature matrices, one row a table entry, one column a parameter::

        r_F = base + F_r theta                  P(s'|s,a) proportional to base * exp(F_p theta)
        r_L = base + F_l theta                  rho(s)    proportional to base * exp(F_i theta)

    and temperature = base * exp(F_t theta). A transition row keeps its mass 1 - termination. A
    feature matrix left out leaves its table as it is.

    Parameters
    ----------
    base : Model
        The model at theta = 0.
    follower_reward, leader_reward : array_like or scipy.sparse, shape (S*A, d), optional
        Features of the rewards.
    transition : array_like or scipy.sparse, shape (nnz, d), optional
        Features of the stored transition entries, in the order of ``base.transition.data``.
    initial : array_like or scipy.sparse, shape (S, d), optional
        Features of the initial distribution.
    temperature : array_like, shape (d,), optional
        Features of the temperature; (1, d) and scipy.sparse will do.
    parameter_names : sequence of str, length d, optional
        What pictures and reports call the parameters.

    Attributes
    ----------
    n_parameters : int
        Length of theta.

    Raises
    ------
    ValueError
        If no features are given, their shapes do not fit or they are not finite.

    Examples
    --------
    A leader that pays for one action, and pays what the follower gets:

    >>> import tabular_bilevel as tb
    >>> base = tb.problems.bandit(leader_reward=[0.0, 1.0]).base
    >>> problem = tb.FeatureProblem(base, follower_reward=[[0], [1]], leader_reward=[[0], [-1]])
    >>> round(tb.hypergradient(problem, [0.0]).objective, 12)
    0.5
    >>> tb.problems.four_rooms().with_coins().cells[0]
    array([1, 1])
    """

    base: Model
    n_parameters: int
    follower_reward: sp.csr_array = field(repr=False)
    leader_reward: sp.csr_array = field(repr=False)
    transition: sp.csr_array = field(repr=False)
    initial: sp.csr_array = field(repr=False)
    temperature: sp.csr_array = field(repr=False)
    parameter_names: tuple[str, ...] | None = field(default=None, repr=False)

    __setstate__ = restore_read_only

    def __init__(
        self,
        base: Model,
        *,
        follower_reward: npt.ArrayLike | sp.sparray | None = None,
        leader_reward: npt.ArrayLike | sp.sparray | None = None,
        transition: npt.ArrayLike | sp.sparray | None = None,
        initial: npt.ArrayLike | sp.sparray | None = None,
        temperature: npt.ArrayLike | sp.sparray | None = None,
        parameter_names: Sequence[str] | None = None,
    ) -> None:
        if not isinstance(base, Model):
            raise ValueError(f"base is of type {type(base).__name__}, not a Model")
        n_pairs = base.follower_reward.size
        tables = {
            "follower_reward": (follower_reward, n_pairs),
            "leader_reward": (leader_reward, n_pairs),
            "transition": (transition, base.transition.nnz),
            "initial": (initial, base.n_states),
            "temperature": (_as_row(temperature), 1),
        }
        given = {
            name: _features(name, matrix, n_rows)
            for name, (matrix, n_rows) in tables.items()
            if matrix is not None
        }
        widths = {name: matrix.shape[1] for name, matrix in given.items()}
        if not widths:
            raise ValueError("FeatureProblem needs the features of at least one table")
        if len(set(widths.values())) > 1:
            counts = ", ".join(f"{name} {width}" for name, width in widths.items())
            raise ValueError(f"features differ in their number of parameters: {counts}")
        width = next(iter(widths.values()))
        object.__setattr__(self, "base", base)
        object.__setattr__(self, "n_parameters", width)
        names = as_names("parameter_names", parameter_names, width)
        object.__setattr__(self, "parameter_names", names)
        for name, (_, n_rows) in tables.items():
            features = given[name] if name in given else sp.csr_array((n_rows, width))
            object.__setattr__(self, name, read_only_matrix(features))

    @quiet
    def model(self, theta: npt.ArrayLike) -> Model:
        """Build the model at theta, as of `BilevelProblem`.

        Raises ValueError also if theta makes the temperature 0 or infinite.
        """
        theta, base = as_theta(theta, self.n_parameters), self.base
        both = self._rewards_at(theta)
        follower_reward, leader_reward = both[0], both[1]  # to iterate takes longer
        if self._only_scalars:
            model = base._with(follower_reward=follower_reward, leader_reward=leader_reward)
            if self.moves_rewards_only:
                return model
            return model.with_temperature(self._temperature(theta))
        return base.replace(
            follower_reward=follower_reward,
            leader_reward=leader_reward,
            transition=base.like_transition(self._kernel(theta)),
            initial=self._start(theta),
            temperature=self._temperature(theta),
        )

    @quiet
    def pullback(self, theta: npt.ArrayLike, sensitivities: Sensitivities) -> FloatArray:
        """Pull sensitivities back to theta, as of `BilevelProblem`."""
        return self._slopes.dot(self._tilted(as_theta(theta, self.n_parameters), sensitivities))

    @quiet
    def pullback_bound(
        self, theta: npt.ArrayLike, sensitivities: Sensitivities, bounds: SensitivityBounds
    ) -> FloatArray:
        """Bound by how much the pullback of sensitivities is off, rounding included.

        The features are taken as stored, and so is the kernel at theta: its derivative is
        P (F - mean of F under P) with the stored P.
        """
        return self._bounded_pullback(theta, sensitivities, bounds)[1]

    def _bounded_pullback(
        self, theta: npt.ArrayLike, sensitivities: Sensitivities, bounds: SensitivityBounds
    ) -> tuple[FloatArray, FloatArray]:
        """Pull back and bound in one pass."""
        if self.moves_rewards_only:
            return self._slopes.bounded_dot(sensitivities, bounds)
        theta, base = as_theta(theta, self.n_parameters), self.base
        tilted: dict[str, Any] = {"transition_shift": np.zeros(1), "initial_shift": 0.0}
        if self.transition.nnz:
            kernel = self._kernel(theta)
            tilted["transition"] = tilt_reach(
                kernel,
                np.abs(sensitivities.transition),
                bounds.transition,
                2.0 * np.diff(base.transition.indptr)[base.entry_row] + 8.0,
                partial(_means, kernel, base.entry_row, base.row_mass.ravel()),
                there=base.transition.data > 0.0,
            )
        if self.initial.nnz:
            start = self._start(theta)
            tilted["initial"] = tilt_reach(
                start,
                np.abs(sensitivities.initial),
                bounds.initial,
                3.0 * base.n_states + 8.0,
                lambda x: start @ x / self._start_mass,
                there=base.initial > 0.0,
            )
        if self.temperature.nnz:
            temperature, slope = self._temperature(theta), abs(sensitivities.temperature)
            off = at_least(temperature * bounds.temperature, bounds.temperature + slope)
            tilted["temperature"] = float(off)
        measures = self._tilted(theta, sensitivities)
        return self._slopes.bounded_dot(measures, replace(bounds, **tilted))

    @quiet
    def pushforward(self, theta: npt.ArrayLike, direction: npt.ArrayLike) -> Tangent:
        """Differentiate the tables along a direction, as of `ForwardProblem`."""
        theta = as_theta(theta, self.n_parameters)
        direction = as_theta(direction, self.n_parameters, name="direction")
        available, moved, base = self.base.available, self._slopes.along(direction), self.base
        rewards: dict[str, Any] = {
            "follower_reward": available * moved.follower_reward,
            "leader_reward": available * moved.leader_reward,
            "temperature": moved.temperature * self._temperature(theta),
        }
        if self._only_scalars:  # the rest is 0
            return replace(moved, **rewards)
        kernel, start = self._kernel(theta), self._start(theta)
        one_row = np.zeros(base.n_states, dtype=np.int64)
        logits = _less_likeliest(moved.transition, kernel, base.entry_row)
        slope = _less_likeliest(moved.initial, start, one_row)
        return Tangent(
            **rewards,
            transition=self._centre_rows(logits, kernel),
            initial=self._centre_start(slope, start),
        )

    @property
    def cells(self) -> IntArray:
        """Row and column of each state, shape (S, 2), of a problem with a map."""
        return grid_map(self).cells

    def at(self, cell: Cell) -> int:
        """Give the state of a cell, of a problem with a map.

        Parameters
        ----------
        cell : (row, column)
            Zero-based.

        Returns
        -------
        int
            The state's number, and that of its coin.

        Raises
        ------
        ValueError
            If that is a wall or off the map, or there is no map.

        Examples
        --------
        >>> import tabular_bilevel as tb
        >>> rooms = tb.problems.four_rooms()
        >>> rooms.at((8, 4)), rooms.cells[66].tolist()
        (66, [8, 4])
        """
        return grid_map(self).state(cell)

    def with_coins(self, *, price: float = 1.0) -> FeatureProblem:
        """Make another problem of the same base: one coin a state, theta, instead of its features.

        The follower gets theta_s for each action in state s; a coin below 0 is a fee.

        Parameters
        ----------
        price : float
            What the leader pays for a coin of 1: by default 1; 0 if somebody else pays.

        Returns
        -------
        FeatureProblem
            With S parameters, on the same map if there is one.

        Raises
        ------
        ValueError
            If the price is not finite.

        Examples
        --------
        >>> import numpy as np
        >>> import tabular_bilevel as tb
        >>> rooms = tb.problems.four_rooms(temperature=0.005).with_coins(price=0.0)
        >>> coins = np.zeros(rooms.n_parameters)
        >>> coins[rooms.at((8, 4))] = 0.001
        >>> round(tb.objective(rooms, coins), 5)
        0.01967
        """
        return coins_on(self.base, price=price)

    def __str__(self) -> str:
        names = f" ({cut(', '.join(self.parameter_names), 60)})" if self.parameter_names else ""
        return f"FeatureProblem: {self.n_parameters} parameters{names}; at 0, {self.base}"

    @cached_property
    def moves_rewards_only(self) -> bool:
        """Whether theta leaves the distributions and the temperature as they are."""
        return self._only_scalars and self.temperature.nnz == 0

    @cached_property
    def _only_scalars(self) -> bool:
        """Whether theta leaves the distributions as they are."""
        return bool(self.transition.nnz == self.initial.nnz == 0)

    @cached_property
    def _rewards(self) -> sp.csr_array:
        """Features of both rewards, the follower's above the leader's; 0 where unavailable."""
        rewards = sp.csr_array(sp.vstack((self.follower_reward, self.leader_reward)))
        available = np.tile(self.base.available.ravel(), 2)
        rewards.data *= np.repeat(available, np.diff(rewards.indptr))
        return read_only_matrix(rewards)

    @cached_property
    def _base_rewards(self) -> FloatArray:
        """Both rewards at 0, in the order of `_rewards`."""
        return np.concatenate((self.base.follower_reward, self.base.leader_reward)).ravel()

    @cached_property
    def _slopes(self) -> Tangents:
        """Derivatives of the rewards, and of the logits of what is not a reward."""
        features = {name: getattr(self, name) for name in MOVED}
        return Tangents.of(self.base, self.n_parameters, **features)

    @cached_property
    def _start_mass(self) -> float:
        """Sum of the initial distribution; 1 where no more than rounding is between them."""
        mass = float(self.base.initial.sum())
        return 1.0 if abs(mass - 1.0) <= ROUNDOFF * self.base.n_states else mass

    def _rewards_at(self, theta: FloatArray) -> FloatArray:
        """Compute both rewards, shape (2, S, A)."""
        rewards = self._base_rewards.copy()
        add_product(self._rewards, theta, rewards)
        both = read_only(rewards).reshape(2, *self.base.available.shape)
        if not all_finite(rewards):
            _times(self._rewards, theta)
            self.base.with_rewards(*both)  # one of the two says which entry is not
        return both

    def _kernel(self, theta: FloatArray) -> FloatArray:
        base = self.base
        return _tilt(
            base.transition.data,
            _times(self.transition, theta),
            base.entry_row,
            base.row_mass.ravel(),
        )

    def _temperature(self, theta: FloatArray) -> float:
        base = self.base.temperature
        if not self.temperature.nnz:
            return base
        temperature = base * float(np.exp(_times(self.temperature, theta)[0]))
        return as_positive("temperature at theta", temperature)

    def _start(self, theta: FloatArray) -> FloatArray:
        base = self.base.initial
        one_row = np.zeros(base.size, dtype=np.int64)
        return _tilt(base, _times(self.initial, theta), one_row, np.array([base.sum()]))

    def _tilted(self, theta: FloatArray, measures: Sensitivities) -> Sensitivities:
        """Turn sensitivities to the tables into those to logits, where theta moves any."""
        if self.moves_rewards_only:
            return measures
        tilted: dict[str, Any] = {}
        if self.transition.nnz:
            tilted["transition"] = self._centre_rows(measures.transition, self._kernel(theta))
        if self.initial.nnz:
            tilted["initial"] = self._centre_start(measures.initial, self._start(theta))
        if self.temperature.nnz:
            tilted["_temperature"] = self._temperature(theta) * measures.temperature
        return replace(measures, **tilted)

    def _centre_rows(self, direction: FloatArray, kernel: FloatArray) -> FloatArray:
        """Jacobian of the kernel with respect to its logits; symmetric, so its own transpose."""
        mean = _means(kernel, self.base.entry_row, self.base.row_mass.ravel(), direction)
        return kernel * (direction - mean)

    def _centre_start(self, direction: FloatArray, start: FloatArray) -> FloatArray:
        """Jacobian of the initial distribution with respect to its logits."""
        return start * (direction - start @ direction / self._start_mass)


def coin_features(base: Model) -> sp.csr_array:
    """Features of a coin a state, paid for each action there, shape (S*A, S)."""
    state, action = np.nonzero(base.available)
    paid = (np.ones(state.size), (state * base.n_actions + action, state))
    return sp.csr_array(paid, shape=(base.available.size, base.n_states))


def coins_on(base: Model, *, price: float = 1.0) -> FeatureProblem:
    """Make the problem of one coin a state; see `FeatureProblem.with_coins`."""
    paid, price = coin_features(base), as_finite("price", price)
    return FeatureProblem(
        base,
        follower_reward=paid,
        leader_reward=-price * paid if price else None,
        parameter_names=base.state_names,
    )


def _less_likeliest(slopes: FloatArray, probability: FloatArray, row: IntArray) -> FloatArray:
    """Take off from each row its likeliest entry's slope: a constant, which would cost digits."""
    if not slopes.any():  # theta moves other tables
        return slopes
    return np.asarray(slopes - slopes[_likeliest(probability, row)])


def _likeliest(probability: FloatArray, row: IntArray) -> IntArray:
    """Find the likeliest entry of each entry's row."""
    order = np.lexsort((probability, row))
    likeliest = np.zeros(row.max(initial=0) + 1, dtype=np.int64)
    likeliest[row[order]] = order  # the last one stays
    return likeliest[row]


def _means(kernel: FloatArray, row: IntArray, mass: FloatArray, weights: FloatArray) -> FloatArray:
    """Average weights over each row of a kernel; the row's mean for each entry."""
    return ratio(grouped_sums(row, kernel * weights, mass.size), mass)[row]


def _as_row(features: Any) -> Any:
    """Read a vector as a matrix of one row."""
    flat = features is not None and not sp.issparse(features) and np.ndim(features) == 1
    return np.reshape(features, (1, -1)) if flat else features


def _features(table: str, matrix: Any, n_rows: int) -> sp.csr_array:
    """Check and copy a feature matrix of any width."""
    name = f"{table} features"
    if sp.issparse(matrix):
        if matrix.ndim != 2 or matrix.shape[0] != n_rows or matrix.shape[1] == 0:
            raise ValueError(f"{name} has shape {matrix.shape}, not ({n_rows}, 1+)")
        features = sp.csr_array(as_entries(name, matrix), shape=matrix.shape)
        finite_array(f"{name} (stored entries)", features.data, (features.nnz,))
    else:
        features = sp.csr_array(finite_array(name, matrix, (n_rows, None)))
    return features


def _times(features: sp.csr_array, theta: FloatArray) -> FloatArray:
    """Multiply features with theta; an overflow is theta's fault."""
    logits = product(features, theta)
    if not all_finite(logits):
        largest = int(np.argmax(np.abs(theta)))
        raise ValueError(
            f"{entry('theta', (largest,))} is {theta[largest]}: features times theta overflow"
        )
    return logits


def _tilt(base: FloatArray, logits: FloatArray, row: IntArray, mass: FloatArray) -> FloatArray:
    """Scale entries by exp(logits), then each row to its mass."""
    top = np.full(mass.size, -np.inf)
    np.maximum.at(top, row[base > 0.0], logits[base > 0.0])
    weights = np.where(base > 0.0, base * np.exp(np.minimum(logits - top[row], 0.0)), 0.0)
    total = grouped_sums(row, weights, mass.size)
    if ((total > 0.0) & (total < SMALLEST_TOTAL)).any():
        logs = np.log(base, out=np.zeros_like(base), where=base > 0.0)
        return _tilt(np.where(base > 0.0, 1.0, 0.0), logits + logs, row, mass)
    return np.asarray(weights * ratio(mass, total)[row])
