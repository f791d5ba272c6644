"""What a leader's parameter does: theta to a model, and sensitivities back to theta.

`BilevelProblem` is what a newcomer writes. `FeatureProblem` and `Reparametrised` are the ready-made
parts that the package's own problems are put together from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
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
    BoolArray,
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
from tabular_bilevel._base.files import brief
from tabular_bilevel.finite.model import Model, Tangent
from tabular_bilevel.finite.sensitivities import Sensitivities, SensitivityBounds
from tabular_bilevel.finite.tangents import MOVED, Tangents, product

__all__ = [
    "BilevelProblem",
    "Budget",
    "FeatureProblem",
    "ForwardProblem",
    "Reparametrised",
    "Transform",
    "modelled",
    "pulled_back",
    "require_problem",
    "require_reward_parameters",
    "softmax_reach",
]

# Tilted entries whose sum is smaller lose digits to underflow: they are added up by logarithms.
SMALLEST_TOTAL = 1e-290

# Logits further apart have shares that float64 has not.
FURTHEST_LOGITS = 800.0


class BilevelProblem(Protocol):
    """A leader's problem: tables that depend on theta.

    `pullback` is the vector-Jacobian product of theta -> tables, linear in the sensitivities. It is
    the only thing that both exact and sampled gradients need to know of the parametrisation.

    Bounds of a gradient need the sizes of the derivatives, too. They come from `pullback`, called
    for each table entry, or from `pushforward`, called for each parameter. Where that is too much,
    a problem may have a method ``pullback_bound(theta, sensitivities, bounds)``: it bounds by how
    much `pullback` of sensitivities is off that are off by `bounds`, rounding included, shape (d,).
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
        changes = _times(self._rewards, theta)
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
        return self._slopes.dot(self._tilted(as_theta(theta, self.n_parameters), sensitivities))

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
        theta, base = as_theta(theta, self.n_parameters), self.base
        if self._only_rewards:
            return self._slopes.reach(sensitivities, bounds)
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
        return self._slopes.reach(self._tilted(theta, sensitivities), replace(bounds, **tilted))

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
        available, moved, base = self.base.available, self._slopes.along(direction), self.base
        kernel, start = self._kernel(theta), self._start(theta)
        one_row = np.zeros(base.n_states, dtype=np.int64)
        logits = _less_likeliest(moved.transition, kernel, base.entry_row)
        slope = _less_likeliest(moved.initial, start, one_row)
        return Tangent(
            follower_reward=available * moved.follower_reward,
            leader_reward=available * moved.leader_reward,
            transition=self._centre_rows(logits, kernel),
            initial=self._centre_start(slope, start),
            temperature=moved.temperature * self._temperature(theta),
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
    def _rewards(self) -> sp.csr_array:
        """Features of both rewards, the follower's above the leader's."""
        return sp.csr_array(sp.vstack((self.follower_reward, self.leader_reward)))

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
        if self._only_rewards:
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


def tilt_reach(
    probability: FloatArray,
    size: FloatArray,
    errors: FloatArray,
    roundings: float | FloatArray,
    mean: Callable[[FloatArray], Any],
    *,
    there: BoolArray | bool = True,
) -> FloatArray:
    """Bound what p (g - mean of g under p) is off by, for g of these sizes and errors.

    It is rounded so often, relative to the size of g. A probability that underflows is not 0 if it
    is `there`.
    """
    off = errors + at_least(ROUNDOFF * roundings * size, size)
    reach = off + mean(off)
    lost = at_least(UNDERFLOW * (size + mean(size) + reach), reach)
    return np.asarray(probability * reach + np.where(there, lost, 0.0))


def softmax_reach(
    share: FloatArray, size: FloatArray, errors: FloatArray, roundings: float
) -> FloatArray:
    """Bound as `tilt_reach`, along the last axis; shares that underflow count in the mean, too."""
    total = (size + errors).sum(axis=-1, keepdims=True)
    lost = at_least(UNDERFLOW * total, total)

    def mean(x: FloatArray) -> FloatArray:
        return np.asarray((share * x).sum(axis=-1, keepdims=True) + lost)

    return tilt_reach(share, size, errors, roundings, mean, there=total > 0.0)


class Transform(Protocol):
    """A change of parameters theta -> x, with both of its derivatives.

    It gets theta as it was given, and checks it. With many parameters bounds need one more method:
    ``pullback_bound(theta, gradient, bound)`` bounds by how much `pullback` is off, shape (d,),
    where the gradient is off by at most `bound`.
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
        size, errors = np.append(np.abs(gradient), 0.0), np.append(bound, 0.0)
        reach = softmax_reach(share, size, errors, roundings)
        lost = UNDERFLOW * (size + errors).sum() * (self.total != 0.0)  # total * share underflows
        return at_least(abs(self.total) * reach + lost, reach * np.sign(self.total))

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
    def pushforward(self, theta: npt.ArrayLike, direction: npt.ArrayLike) -> Tangent:
        """Differentiate the tables along a direction of theta, shape (d,)."""
        theta = as_theta(theta)
        along = self.transform.pushforward(theta, as_theta(direction, theta.size, name="direction"))
        return self.inner.pushforward(self.transform.forward(theta), along)


def require_problem(problem: object, *, name: str = "problem") -> None:
    """Raise unless it is a leader's problem; the message says what to give instead."""
    if isinstance(problem, type):
        raise ValueError(f"{name} is the class {problem.__name__}, not an instance of it")
    missing = [m for m in ("model", "pullback") if not callable(getattr(problem, m, None))]
    if not missing:
        return
    lacks = f"{name} is {brief(repr(problem))}, which has no method {' and no '.join(missing)}"
    if callable(problem):
        lacks += ": it looks like an estimator, or like a function that makes a problem"
    raise ValueError(lacks)


def modelled(problem: BilevelProblem, theta: FloatArray, *, name: str = "problem") -> Model:
    """Build the model at theta, and check that there is a problem, and that it is a model."""
    require_problem(problem, name=name)
    found = problem.model(theta)
    if not isinstance(found, Model):
        raise ValueError(
            f"{name}.model(theta) is of type {type(found).__name__}, not a Model: make one of "
            "tables by tb.Model.from_tables"
        )
    return found


def pulled_back(
    problem: BilevelProblem, theta: FloatArray, sensitivities: Sensitivities
) -> FloatArray:
    """Pull back and check what came: a finite vector as long as theta."""
    found = problem.pullback(theta, sensitivities)
    if found is None:
        raise ValueError("pullback(...) is None: is its return statement missing?")
    return finite_array("pullback(...)", found, theta.shape)


def require_reward_parameters(
    method: str, problem: BilevelProblem, theta: FloatArray, model: Model
) -> None:
    """Raise unless theta moves rewards only, so that nothing is pulled back from the kernel."""
    probe = np.random.default_rng(0)
    measures = Sensitivities.of(
        model,
        transition=probe.standard_normal(model.transition.nnz),
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
