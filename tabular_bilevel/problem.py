"""What a leader's parameter does: theta to a model, and sensitivities back to theta.

`BilevelProblem` is what a newcomer writes. `FeatureProblem` and `Reparametrised` are the ready-made
parts that the package's own problems are put together from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from tabular_bilevel._base.arguments import (
    all_finite,
    as_entries,
    as_finite,
    as_positive,
    as_theta,
    entry,
    finite_array,
    positive_integer,
)
from tabular_bilevel._base.arrays import (
    ROUNDOFF,
    UNDERFLOW,
    FloatArray,
    IntArray,
    at_least,
    grouped_sums,
    quiet,
    ratio,
    read_only,
    read_only_matrix,
    restore_read_only,
    softmax,
)
from tabular_bilevel.finite.model import Model, Tangent
from tabular_bilevel.finite.sensitivities import Sensitivities, SensitivityBounds

__all__ = [
    "BilevelProblem",
    "BoundedProblem",
    "Budget",
    "FeatureProblem",
    "ForwardProblem",
    "Reparametrised",
    "Transform",
    "pulled_back",
    "require_reward_parameters",
]

# Roundings of a pulled back number but for those of its sum: two of centring, three of the parts'.
PULLBACK_ROUNDINGS = 8.0

# Tilted entries whose sum is smaller lose digits to underflow: they are added up by logarithms.
SMALLEST_TOTAL = 1e-290

# Logits further apart have shares that float64 has not.
FURTHEST_LOGITS = 800.0


class BilevelProblem(Protocol):
    """A leader's problem: tables that depend on theta.

    `pullback` is the vector-Jacobian product of theta -> tables, linear in the sensitivities. It is
    the only thing that both exact and sampled gradients need to know of the parametrisation.
    """

    def model(self, theta: FloatArray) -> Model:
        """Build the follower's model at theta, shape (d,)."""
        ...

    def pullback(self, theta: FloatArray, sensitivities: Sensitivities) -> FloatArray:
        """Sum over the tables of sensitivity times d(entry)/d(theta), shape (d,)."""
        ...


@runtime_checkable
class ForwardProblem(BilevelProblem, Protocol):
    """A problem that can also move its tables along a direction of theta.

    `pushforward` is the Jacobian-vector product of theta -> tables. It is needed only by the
    independent routes that `check_gradient` compares: forward mode and the complex step.
    """

    def pushforward(self, theta: FloatArray, direction: FloatArray) -> Tangent:
        """Differentiate the tables along a direction, shape (d,); `Tangent` says in what form."""
        ...


@runtime_checkable
class BoundedProblem(BilevelProblem, Protocol):
    """A problem that can say how far errors of the sensitivities reach.

    `error_bounds` makes do with pushforwards without it, for a few parameters.
    """

    def pullback_bound(
        self, theta: FloatArray, sensitivities: Sensitivities, bounds: SensitivityBounds
    ) -> FloatArray:
        """Bound, for each parameter, by how much `pullback` of the sensitivities is off, (d,).

        That is their errors within the bounds, pulled back with the absolute values of the
        derivatives, and the rounding of `pullback` itself.
        """
        ...


@dataclass(frozen=True, eq=False, init=False)
class FeatureProblem:
    """Tables that are linear or log-linear in theta.

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

    Raises
    ------
    ValueError
        If no features are given, their shapes do not fit or they are not finite.

    Examples
    --------
    A leader that pays for one action, and pays what the follower gets:

    >>> import tabular_bilevel as tb
    >>> base = tb.problems.bandit(leader_reward=[0.0, 1.0]).base
    >>> problem = FeatureProblem(base, follower_reward=[[0], [1]], leader_reward=[[0], [-1]])
    >>> round(tb.hypergradient(problem, [0.0]).objective, 12)
    0.5
    """

    base: Model
    n_parameters: int
    follower_reward: sp.csr_array = field(repr=False)
    leader_reward: sp.csr_array = field(repr=False)
    transition: sp.csr_array = field(repr=False)
    initial: sp.csr_array = field(repr=False)
    temperature: sp.csr_array = field(repr=False)

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
    ) -> None:
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
        for name, (_, n_rows) in tables.items():
            features = given[name] if name in given else sp.csr_array((n_rows, width))
            object.__setattr__(self, name, read_only_matrix(features))

    @quiet
    def model(self, theta: npt.ArrayLike) -> Model:
        """Build the model at theta.

        Parameters
        ----------
        theta : array_like, shape (d,)
            The leader's parameter.

        Returns
        -------
        Model
            The follower's model.

        Raises
        ------
        ValueError
            If theta has the wrong length or an entry that is not finite, or makes the temperature
            0 or infinite.
        """
        theta, base = as_theta(theta, self.n_parameters), self.base
        shape = base.follower_reward.shape
        changes = _times(self._rewards[0], theta)
        changes += self._base_rewards
        follower_reward, leader_reward = changes.reshape(2, *shape)
        if self._only_scalars:
            model = base.with_own_rewards(follower_reward, leader_reward)
            if self._only_rewards:
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
        """Pull sensitivities back to theta.

        Parameters
        ----------
        theta : array_like, shape (d,)
            The leader's parameter.
        sensitivities : Sensitivities
            Of the model at theta.

        Returns
        -------
        ndarray, shape (d,)
            The derivative with respect to theta.
        """
        theta = as_theta(theta, self.n_parameters)
        slopes = np.concatenate((sensitivities.follower_reward, sensitivities.leader_reward))
        gradient = _product(self._rewards[1], slopes.ravel())
        if self._only_rewards:
            return gradient
        if self.transition.nnz:
            centred = self._centre_rows(sensitivities.entries, self._kernel(theta))
            gradient = gradient + self.transition.T @ centred
        if self.initial.nnz:
            gradient = gradient + self.initial.T @ self._centre_start(
                sensitivities.initial, self._start(theta)
            )
        if self.temperature.nnz:
            slope = self._temperature(theta) * sensitivities.temperature
            gradient = gradient + self.temperature.T @ np.array([slope])
        return gradient

    @quiet
    def pullback_bound(
        self, theta: npt.ArrayLike, sensitivities: Sensitivities, bounds: SensitivityBounds
    ) -> FloatArray:
        """Bound by how much the pullback of sensitivities is off.

        The features are taken as stored, and so is the kernel at theta: its derivative is
        P (F - mean of F under P) with the stored P.

        Parameters
        ----------
        theta : array_like, shape (d,)
            The leader's parameter.
        sensitivities : Sensitivities
            Of the model at theta.
        bounds : SensitivityBounds
            How far they may be off.

        Returns
        -------
        ndarray, shape (d,)
            The bound, rounding included.
        """
        theta = as_theta(theta, self.n_parameters)
        slopes = np.concatenate((sensitivities.follower_reward, sensitivities.leader_reward))
        errors = np.concatenate((bounds.follower_reward, bounds.leader_reward))
        bound = np.zeros(self.n_parameters)
        _add_errors(self._rewards[1], slopes.ravel(), errors.ravel(), bound)
        if self._only_rewards:
            return bound
        base = self.base
        if self.transition.nnz:
            sums = np.diff(base.transition.indptr)[base.entry_row]
            slopes, terms = sensitivities.entries, 2.0 * sums + 8.0
            off = bounds.entries + at_least(ROUNDOFF * terms * np.abs(slopes), slopes)
            kernel = self._kernel(theta)
            mean = partial(_means, kernel, base.entry_row, base.row_mass.ravel())
            reach = _tilt_errors(base.transition.data, kernel, slopes, off, mean)
            _add_errors(self._transposed["transition"], *reach, bound)
        if self.initial.nnz:
            slopes, terms = sensitivities.initial, 3.0 * base.n_states + 8.0
            off = bounds.initial + at_least(ROUNDOFF * terms * np.abs(slopes), slopes)
            start = self._start(theta)
            reach = _tilt_errors(
                base.initial, start, slopes, off, lambda x: start @ x / self._start_mass
            )
            _add_errors(self._transposed["initial"], *reach, bound)
        if self.temperature.nnz:
            temperature, slope = self._temperature(theta), np.array([sensitivities.temperature])
            off = at_least(temperature * bounds.temperature, bounds.temperature + np.abs(slope))
            _add_errors(self._transposed["temperature"], temperature * slope, off, bound)
        return bound

    @quiet
    def pushforward(self, theta: npt.ArrayLike, direction: npt.ArrayLike) -> Tangent:
        """Differentiate the tables along a direction.

        Parameters
        ----------
        theta, direction : array_like, shape (d,)
            Where, and which way.

        Returns
        -------
        Tangent
            Change of the tables.
        """
        theta = as_theta(theta, self.n_parameters)
        direction = as_theta(direction, self.n_parameters, name="direction")
        available, base = self.base.available, self.base
        kernel, start = self._kernel(theta), self._start(theta)
        one_row = np.zeros(base.n_states, dtype=np.int64)
        logits = _less_likeliest(self.transition @ direction, kernel, base.entry_row)
        slope = _less_likeliest(self.initial @ direction, start, one_row)
        return Tangent(
            follower_reward=available * (self.follower_reward @ direction).reshape(available.shape),
            leader_reward=available * (self.leader_reward @ direction).reshape(available.shape),
            transition=self._centre_rows(logits, kernel),
            initial=self._centre_start(slope, start),
            temperature=float((self.temperature @ direction)[0] * self._temperature(theta)),
        )

    def __str__(self) -> str:
        return f"FeatureProblem: {self.n_parameters} parameters; at 0, {self.base}"

    @cached_property
    def _only_rewards(self) -> bool:
        return self._only_scalars and self.temperature.nnz == 0

    @cached_property
    def _only_scalars(self) -> bool:
        """Whether theta leaves the distributions as they are."""
        return bool(self.transition.nnz == self.initial.nnz == 0)

    @cached_property
    def _rewards(self) -> tuple[sp.csr_array, sp.csr_array]:
        """Features of both rewards, the follower's above the leader's, and their transpose."""
        both = sp.csr_array(sp.vstack((self.follower_reward, self.leader_reward)))
        return both, sp.csr_array(both.T)

    @cached_property
    def _base_rewards(self) -> FloatArray:
        """Both rewards at 0, in the order of `_rewards`."""
        return np.concatenate((self.base.follower_reward, self.base.leader_reward)).ravel()

    @cached_property
    def _transposed(self) -> dict[str, sp.csr_array]:
        """Features, one row a parameter, of what is not a reward."""
        names = ("transition", "initial", "temperature")
        return {name: sp.csr_array(getattr(self, name).T) for name in names}

    @cached_property
    def _start_mass(self) -> float:
        """Sum of the initial distribution; 1 where no more than rounding is between them."""
        mass = float(self.base.initial.sum())
        return 1.0 if abs(mass - 1.0) <= ROUNDOFF * self.base.n_states else mass

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

    def _centre_rows(self, direction: FloatArray, kernel: FloatArray) -> FloatArray:
        """Jacobian of the kernel with respect to its logits; symmetric, so its own transpose."""
        mean = _means(kernel, self.base.entry_row, self.base.row_mass.ravel(), direction)
        return kernel * (direction - mean)

    def _centre_start(self, direction: FloatArray, start: FloatArray) -> FloatArray:
        """Jacobian of the initial distribution with respect to its logits."""
        return start * (direction - start @ direction / self._start_mass)


def _less_likeliest(slopes: FloatArray, probability: FloatArray, row: IntArray) -> FloatArray:
    """Take off from each row its likeliest entry's slope: a constant, which would cost digits."""
    if not slopes.any():  # theta moves other tables
        return slopes
    order = np.lexsort((probability, row))
    likeliest = np.zeros(row.max(initial=0) + 1, dtype=np.int64)
    likeliest[row[order]] = order  # the last one stays
    return np.asarray(slopes - slopes[likeliest[row]])


def _means(kernel: FloatArray, row: IntArray, mass: FloatArray, weights: FloatArray) -> FloatArray:
    """Average weights over each row of a kernel; the row's mean for each entry."""
    return ratio(grouped_sums(row, kernel * weights, mass.size), mass)[row]


def _tilt_errors(
    base: FloatArray,
    probability: FloatArray,
    slopes: FloatArray,
    errors: FloatArray,
    mean: Callable[[FloatArray], Any],
) -> tuple[FloatArray, FloatArray]:
    """Compute sizes and errors of probability (slopes - mean) where slopes are off by `errors`.

    A probability that underflows is none that the base has as 0.
    """
    size = np.abs(slopes)
    lost = at_least(UNDERFLOW * (size + mean(size)), errors + mean(errors))
    reach = probability * (errors + mean(errors)) + np.where(base > 0.0, lost, 0.0)
    return probability * np.abs(slopes - mean(slopes)), reach


def _add_errors(
    transposed: sp.csr_array, slopes: FloatArray, errors: FloatArray, bound: FloatArray
) -> None:
    """Add the errors of pulled back slopes to a bound; the parts' sum is rounded, too."""
    from tabular_bilevel._base import kernels

    matrix = transposed
    kernels.pullback_errors(
        matrix.indptr, matrix.indices, matrix.data, slopes, errors, PULLBACK_ROUNDINGS, bound
    )


class Transform(Protocol):
    """A change of parameters theta -> x, with both of its derivatives.

    It gets theta as it was given, and checks it.
    """

    @property
    def n_parameters(self) -> int:
        """Length of theta."""
        ...

    def forward(self, theta: npt.ArrayLike) -> FloatArray:
        """Map theta to x."""
        ...

    def pullback(self, theta: npt.ArrayLike, gradient: FloatArray) -> FloatArray:
        """Turn a gradient with respect to x into one with respect to theta."""
        ...

    def pushforward(self, theta: npt.ArrayLike, direction: FloatArray) -> FloatArray:
        """Turn a direction of theta into one of x."""
        ...


@runtime_checkable
class BoundedTransform(Transform, Protocol):
    """A change of parameters that can say how far errors of a gradient reach."""

    def pullback_bound(
        self, theta: npt.ArrayLike, gradient: FloatArray, bound: FloatArray
    ) -> FloatArray:
        """Bound by how much `pullback` of a gradient that is off by at most `bound` is off."""
        ...


@dataclass(frozen=True)
class Budget:
    """Split a total over items by a softmax; the last entry of theta is what stays unspent.

    x = total * softmax(theta)[:-1], so theta has one entry more than there are items.

    Attributes
    ----------
    total : float
        What is split; negative for a charge.
    n_parameters : int
        Length of theta, one more than the number of items.
    """

    total: float
    n_parameters: int

    def __post_init__(self) -> None:
        """Check the settings."""
        positive_integer("n_parameters", self.n_parameters)
        as_finite("total", self.total)

    @quiet
    def forward(self, theta: npt.ArrayLike) -> FloatArray:
        """Map theta, shape (d,), to shares of the total, shape (d - 1,)."""
        return _shares_of(self.total, as_theta(theta, self.n_parameters).tobytes())

    @quiet
    def pullback(self, theta: npt.ArrayLike, gradient: FloatArray) -> FloatArray:
        """Turn a gradient with respect to the shares into one with respect to theta."""
        share = self._softmax(theta)
        centred = np.full(share.size, -(share[:-1] @ gradient))
        centred[:-1] += gradient
        return np.asarray(self.total * share * centred)

    @quiet
    def pullback_bound(
        self, theta: npt.ArrayLike, gradient: FloatArray, bound: FloatArray
    ) -> FloatArray:
        """Bound by how much `pullback` is off if the gradient is off by `bound`.

        The shares' own rounding, and that of the sum over them, counts; an exponential is within
        4 units in the last place.
        """
        share, logits = self._softmax(theta), np.asarray(theta)
        apart = min(float(logits.max() - logits.min()), FURTHEST_LOGITS)
        roundings = 4.0 * (share.size + apart) + 64.0
        size = np.abs(gradient)
        lost = UNDERFLOW * size.sum()  # shares that underflow are not 0

        def centred(x: FloatArray) -> FloatArray:
            both = np.full(share.size, at_least(share[:-1] @ x, x.any()) + lost)
            both[:-1] += x
            return both

        reach = centred(bound + at_least(ROUNDOFF * roundings * size, size))
        total = abs(self.total)
        tiny = UNDERFLOW * (1.0 + total) * (reach + centred(size))
        return at_least(total * (share * reach) + tiny, (reach > 0.0) * np.sign(total))

    @quiet
    def pushforward(self, theta: npt.ArrayLike, direction: FloatArray) -> FloatArray:
        """Turn a direction of theta into one of the shares."""
        share = self._softmax(theta)
        return (self.total * share * (direction - share @ direction))[:-1]

    def _softmax(self, theta: npt.ArrayLike) -> FloatArray:
        return _softmax_of(as_theta(theta, self.n_parameters).tobytes())


@lru_cache(maxsize=1)
def _shares_of(total: float, logits: bytes) -> FloatArray:
    return read_only(total * _softmax_of(logits)[:-1])


@lru_cache(maxsize=1)
def _softmax_of(logits: bytes) -> FloatArray:
    """Remember the last one: models and pullbacks at one theta follow each other."""
    return read_only(softmax(np.frombuffer(logits)))


@dataclass(frozen=True, eq=False)
class Reparametrised:
    """A problem in other parameters: the inner problem at x = transform(theta).

    Attributes
    ----------
    inner : ForwardProblem
        The problem in x.
    transform : Transform
        The change of parameters.
    """

    inner: ForwardProblem
    transform: Transform

    @property
    def n_parameters(self) -> int:
        """Length of theta."""
        return self.transform.n_parameters

    @quiet
    def model(self, theta: npt.ArrayLike) -> Model:
        """Build the model at theta, shape (d,)."""
        return self.inner.model(self.transform.forward(theta))

    @quiet
    def pullback(self, theta: npt.ArrayLike, sensitivities: Sensitivities) -> FloatArray:
        """Pull sensitivities back through both maps, shape (d,)."""
        x = self.transform.forward(theta)
        return self.transform.pullback(theta, self.inner.pullback(x, sensitivities))

    @quiet
    def pullback_bound(
        self, theta: npt.ArrayLike, sensitivities: Sensitivities, bounds: SensitivityBounds
    ) -> FloatArray:
        """Bound by how much the pullback is off, shape (d,); infinite if a part cannot tell."""
        if not (
            hasattr(self.inner, "pullback_bound") and hasattr(self.transform, "pullback_bound")
        ):
            return np.full(self.n_parameters, np.inf)
        x = self.transform.forward(theta)
        gradient = self.inner.pullback(x, sensitivities)
        bound = self.inner.pullback_bound(x, sensitivities, bounds)
        return np.asarray(self.transform.pullback_bound(theta, gradient, bound))

    @quiet
    def pushforward(self, theta: npt.ArrayLike, direction: npt.ArrayLike) -> Tangent:
        """Differentiate the tables along a direction of theta, shape (d,)."""
        theta = as_theta(theta)
        along = self.transform.pushforward(theta, as_theta(direction, theta.size, name="direction"))
        return self.inner.pushforward(self.transform.forward(theta), along)


def pulled_back(
    problem: BilevelProblem, theta: FloatArray, sensitivities: Sensitivities
) -> FloatArray:
    """Pull back and check what came: a finite vector as long as theta."""
    return finite_array("pullback(...)", problem.pullback(theta, sensitivities), theta.shape)


def require_reward_parameters(
    method: str, problem: BilevelProblem, theta: FloatArray, model: Model
) -> None:
    """Raise unless theta moves rewards only, so that nothing is pulled back from the kernel."""
    probe = np.random.default_rng(0)
    measures = Sensitivities.of(
        model,
        entries=probe.standard_normal(model.transition.nnz),
        initial=probe.standard_normal(model.n_states),
        temperature=1.0,
    )
    if np.any(problem.pullback(theta, measures)):
        raise ValueError(
            f"{method} is defined for parameters of rewards only, and theta moves transitions, "
            "the initial distribution or the temperature"
        )


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


def _product(matrix: sp.csr_array, vector: FloatArray) -> FloatArray:
    """Multiply, at a third of what scipy's operator costs with a small matrix."""
    from tabular_bilevel._base import kernels

    product = np.empty(matrix.shape[0])
    kernels.sparse_product(matrix.indptr, matrix.indices, matrix.data, vector, product)
    return product


def _times(features: sp.csr_array, theta: FloatArray) -> FloatArray:
    """Multiply features with theta; an overflow is theta's fault."""
    product = _product(features, theta)
    if not all_finite(product):
        largest = int(np.argmax(np.abs(theta)))
        raise ValueError(
            f"{entry('theta', (largest,))} is {theta[largest]}: features times theta overflow"
        )
    return product


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
