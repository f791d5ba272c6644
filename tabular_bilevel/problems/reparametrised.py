"""Problems whose theta is another problem's, transformed: a budget, bounds, a line."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arguments import (
    as_array,
    as_finite,
    as_theta,
    entry,
    first,
    positive_integer,
    real_array,
    require_method,
)
from tabular_bilevel._base.arrays import (
    ROUNDOFF,
    FloatArray,
    IntArray,
    at_least,
    quiet,
    read_only,
    restore_read_only,
    softmax,
)
from tabular_bilevel._base.display import displayed
from tabular_bilevel.finite.model import Model, Tangent
from tabular_bilevel.finite.sensitivities import Sensitivities
from tabular_bilevel.problem import ForwardProblem, require_problem
from tabular_bilevel.problems.features import FeatureProblem
from tabular_bilevel.problems.grid_map import Cell, grid_map
from tabular_bilevel.problems.tilting import shares_pulled_back


class Transform(Protocol):
    """A change of parameters theta -> x, with both of its derivatives.

    It gets theta as it was given, and checks it. With many parameters bounds need one more method:
    ``pullback_bound(theta, gradient, bound)`` bounds by how much `pullback` is off, shape (d,),
    where the gradient is off by at most `bound`.

    Examples
    --------
    Incentives that are never negative:

    >>> import numpy as np
    >>> import tabular_bilevel as tb
    >>> class Exponential:
    ...     n_parameters = 2
    ...     def forward(self, theta):
    ...         return np.exp(theta)
    ...     def pullback(self, theta, gradient):
    ...         return np.exp(theta) * gradient
    ...     def pushforward(self, theta, direction):
    ...         return np.exp(theta) * direction
    >>> problem = tb.Reparametrised(tb.problems.bandit(), Exponential())
    >>> tb.check_gradient(problem, [0.0, 0.5]).passed
    True
    """

    @property
    def n_parameters(self) -> int:
        """Length of theta."""
        ...

    def forward(self, theta: npt.ArrayLike) -> FloatArray:
        """Map theta to x.

        Parameters
        ----------
        theta : array_like, shape (d,)
            The parameter.

        Returns
        -------
        ndarray, shape (k,)
            The parameter of the problem within.
        """
        ...

    def pullback(self, theta: npt.ArrayLike, gradient: FloatArray) -> FloatArray:
        """Turn a gradient with respect to x into one with respect to theta.

        Parameters
        ----------
        theta : array_like, shape (d,)
            The parameter.
        gradient : ndarray, shape (k,)
            A gradient in x.

        Returns
        -------
        ndarray, shape (d,)
            The gradient in theta.
        """
        ...

    def pushforward(self, theta: npt.ArrayLike, direction: FloatArray) -> FloatArray:
        """Turn a direction of theta into one of x.

        Parameters
        ----------
        theta : array_like, shape (d,)
            The parameter.
        direction : ndarray, shape (d,)
            A direction of theta.

        Returns
        -------
        ndarray, shape (k,)
            The direction of x.
        """
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

    Raises
    ------
    ValueError
        On construction, if a setting is out of range; the message names it.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> tb.Budget(total=6.0, n_parameters=3).forward([0.0, 0.0, 0.0])  # a third stays unspent
    array([2., 2.])
    """

    total: float
    n_parameters: int

    def __post_init__(self) -> None:
        positive_integer("n_parameters", self.n_parameters)
        as_finite("total", self.total)

    @quiet
    def forward(self, theta: npt.ArrayLike) -> FloatArray:
        """Map theta, shape (d,), to shares of the total, shape (d - 1,), as of `Transform`."""
        return _shares_of(self._logits(theta), self.total)[1][:-1]

    @quiet
    def pullback(self, theta: npt.ArrayLike, gradient: FloatArray) -> FloatArray:
        """Turn a gradient with respect to the shares into one with respect to theta."""
        share, paid = _shares_of(self._logits(theta), self.total)
        centred = np.empty(share.size)
        centred.fill(-share[:-1].dot(gradient))
        centred[:-1] += gradient
        return paid * centred

    @quiet
    def pullback_bound(
        self, theta: npt.ArrayLike, gradient: FloatArray, bound: FloatArray
    ) -> FloatArray:
        """Bound by how much `pullback` is off if the gradient is off by `bound`.

        The shares' own rounding, and that of the sum over them, counts; an exponential is within
        4 units in the last place.
        """
        slopes = real_array("gradient", gradient, (self.n_parameters - 1,))
        errors = real_array("bound", bound, slopes.shape)
        return self._bounded_pullback(theta, slopes, errors)[1]

    def _bounded_pullback(
        self, theta: npt.ArrayLike, gradient: FloatArray, bound: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Pull back and bound in one pass; no logits are further apart than shares have folds."""
        share = _shares_of(self._logits(theta), self.total)[0]
        roundings = 4.0 * share.size + 64.0
        return shares_pulled_back(share[None], gradient, bound, roundings, 4.0, self.total)

    @quiet
    def pushforward(self, theta: npt.ArrayLike, direction: FloatArray) -> FloatArray:
        """Turn a direction of theta into one of the shares, as of `Transform`."""
        share, paid = _shares_of(self._logits(theta), self.total)
        way = as_theta(direction, self.n_parameters, name="direction")
        return (paid * (way - share @ way))[:-1]

    def _logits(self, theta: npt.ArrayLike) -> bytes:
        """Read theta; `_shares_of` asks whether it is finite."""
        given: Any = theta
        fits = type(given) is np.ndarray and given.dtype == np.float64
        if not (fits and given.shape == (self.n_parameters,)):
            given = as_theta(theta, self.n_parameters)
        return bytes(given.tobytes())


@lru_cache(maxsize=1)
def _shares_of(logits: bytes, total: float) -> tuple[FloatArray, FloatArray]:
    """Split the total, and remember it: models and pullbacks at one theta follow each other."""
    share = read_only(softmax(as_theta(np.frombuffer(logits))))
    return share, read_only(total * share)


@dataclass(frozen=True, eq=False)
class Box:
    """Keep each parameter between two bounds: x = low + (high - low) * sigmoid(theta).

    Where the leader's reward is linear in x, as with fees, bounds make the best x finite. A bound
    itself is approached, but never reached.

    Attributes
    ----------
    low, high : array_like, shape (d,)
        The bounds; a single number is that of all. Two numbers make a box of one parameter.

    Raises
    ------
    ValueError
        If the lengths differ, or an entry of `low` is not below that of `high`.

    Examples
    --------
    Of `two_state`, what is paid for staying at home, and a logit of the kernel:

    >>> import tabular_bilevel as tb
    >>> box = tb.Box([-0.5, -1.0], [0.5, 1.0])
    >>> problem = tb.Reparametrised(tb.problems.two_state(), box)
    >>> start = box.logits([0.0, 0.0])
    >>> box.n_parameters
    2
    >>> box.forward(tb.polish(problem, start).theta).round(3)
    array([-0.5, -1. ])
    """

    low: FloatArray
    high: FloatArray

    __setstate__ = restore_read_only

    def __post_init__(self) -> None:
        sides = {
            name: np.atleast_1d(as_array(name, getattr(self, name))) for name in ("low", "high")
        }
        size = max(side.size for side in sides.values())
        for name, side in sides.items():
            wide = np.broadcast_to(side, (size,)) if side.shape == (1,) else side
            object.__setattr__(self, name, read_only(as_theta(wide, size, name=name)))
        with np.errstate(over="ignore"):
            bad = ~((self.high > self.low) & np.isfinite(self.high - self.low))
        if bad.any():
            index = first(bad)
            raise ValueError(
                f"{entry('low', index)} is {self.low[index]:g}, not below "
                f"{entry('high', index)}, {self.high[index]:g}, by a finite number"
            )

    @property
    def n_parameters(self) -> int:
        """Length of theta, and of x."""
        return self.low.size

    @quiet
    def logits(self, x: npt.ArrayLike) -> FloatArray:
        """Find theta at which the parameters are x.

        Parameters
        ----------
        x : array_like, shape (d,)
            Each entry between its bounds.

        Returns
        -------
        ndarray, shape (d,)
            The theta whose `forward` is x.

        Raises
        ------
        ValueError
            If an entry of x is not between its bounds.
        """
        inside = as_theta(x, self.n_parameters, name="x")
        theta = np.log(inside - self.low) - np.log(self.high - inside)
        bad = ~np.isfinite(theta)
        if bad.any():
            index = first(bad)
            raise ValueError(
                f"{entry('x', index)} is {inside[index]:g}, not between the bounds "
                f"{self.low[index]:g} and {self.high[index]:g}"
            )
        return theta

    @quiet
    def forward(self, theta: npt.ArrayLike) -> FloatArray:
        """Map theta, shape (d,), to x, shape (d,), as of `Transform`."""
        logits = as_theta(theta, self.n_parameters)
        far = np.exp(-np.abs(logits))
        off = (self.high - self.low) * far / (1.0 + far)  # from the nearer bound
        return np.asarray(np.where(logits < 0.0, self.low + off, self.high - off))

    @quiet
    def pullback(self, theta: npt.ArrayLike, gradient: FloatArray) -> FloatArray:
        """Turn a gradient with respect to x into one with respect to theta."""
        return np.asarray(self._slope(theta) * gradient)

    @quiet
    def pullback_bound(
        self, theta: npt.ArrayLike, gradient: FloatArray, bound: FloatArray
    ) -> FloatArray:
        """Bound by how much `pullback` is off if the gradient is off by `bound`.

        The slope has an exponential within 4 units in the last place, and six more operations.
        """
        slope, size = self._slope(theta), np.abs(gradient) + bound
        off = slope * (bound + 32.0 * ROUNDOFF * size)
        return at_least(off, (self.high - self.low) * size)

    @quiet
    def pushforward(self, theta: npt.ArrayLike, direction: FloatArray) -> FloatArray:
        """Turn a direction of theta into one of x, as of `Transform`."""
        slope = self._slope(theta)
        return np.asarray(slope * as_theta(direction, self.n_parameters, name="direction"))

    def _slope(self, theta: npt.ArrayLike) -> FloatArray:
        """Differentiate x, entry by entry."""
        far = np.exp(-np.abs(as_theta(theta, self.n_parameters)))
        return np.asarray((self.high - self.low) * (far / (1.0 + far) ** 2))


@displayed
@dataclass(frozen=True, eq=False)
class Line:
    """A line of parameters, x = origin + theta[0] * direction: one number says where.

    Attributes
    ----------
    origin, direction : ndarray, shape (d,)
        A point, and the way from there.
    """

    origin: FloatArray
    direction: FloatArray
    n_parameters: int = field(default=1, init=False)

    __setstate__ = restore_read_only

    def __post_init__(self) -> None:
        origin = as_theta(self.origin)
        way = as_theta(self.direction, origin.size, name="direction")
        if not way.any():
            raise ValueError("direction is 0, so there is no line")
        object.__setattr__(self, "origin", read_only(origin))
        object.__setattr__(self, "direction", read_only(way))

    @quiet
    def forward(self, theta: npt.ArrayLike) -> FloatArray:
        """Map theta, one number, to x, shape (d,)."""
        return np.asarray(self.origin + as_theta(theta, 1) * self.direction)

    @quiet
    def pullback(self, theta: npt.ArrayLike, gradient: FloatArray) -> FloatArray:
        """Multiply a gradient with respect to x by the direction, shape (1,)."""
        return np.array([self.direction @ gradient])

    @quiet
    def pullback_bound(
        self, theta: npt.ArrayLike, gradient: FloatArray, bound: FloatArray
    ) -> FloatArray:
        """Bound by how much `pullback` is off if the gradient is off by `bound`."""
        roundings = ROUNDOFF * (self.direction.size + 4.0)
        size, errors = np.abs(self.direction), bound + roundings * (np.abs(gradient) + bound)
        return at_least([size @ errors * (1.0 + roundings)], (size @ errors) * np.ones(1))

    @quiet
    def pushforward(self, theta: npt.ArrayLike, direction: FloatArray) -> FloatArray:
        """Turn one number into a direction of x."""
        return np.asarray(direction * self.direction)


@dataclass(frozen=True, eq=False)
class Reparametrised:
    """A problem in other parameters: the inner problem at x = transform(theta).

    Attributes
    ----------
    inner : ForwardProblem
        The problem in x.
    transform : Transform
        The change of parameters.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> problem = tb.Reparametrised(tb.problems.bandit(), tb.Budget(total=6.0, n_parameters=3))
    >>> problem.n_parameters, problem.model([0.0, 0.0, 0.0]).follower_reward
    (3, array([[2., 2.]]))
    >>> tb.hypergradient(problem, [0.0, 0.0, 0.0]).gradient[:2]
    array([-0.5,  0.5])
    >>> rooms = tb.problems.four_rooms()
    >>> rooms.cells.shape, rooms.n_parameters, rooms.with_coins().n_parameters
    ((104, 2), 105, 104)
    """

    inner: ForwardProblem
    transform: Transform

    @property
    def n_parameters(self) -> int:
        """Length of theta."""
        return self.transform.n_parameters

    def model(self, theta: npt.ArrayLike) -> Model:
        """Build the model at theta, shape (d,)."""
        return self.inner.model(self.transform.forward(theta))

    def pullback(self, theta: npt.ArrayLike, sensitivities: Sensitivities) -> FloatArray:
        """Pull sensitivities back through both maps, shape (d,)."""
        x = self.transform.forward(theta)
        return self.transform.pullback(theta, self.inner.pullback(x, sensitivities))

    @quiet
    def pushforward(self, theta: npt.ArrayLike, direction: npt.ArrayLike) -> Tangent:
        """Differentiate along a direction of theta, as of `ForwardProblem`."""
        theta = as_theta(theta)
        along = self.transform.pushforward(theta, as_theta(direction, theta.size, name="direction"))
        return self.inner.pushforward(self.transform.forward(theta), along)

    @property
    def cells(self) -> IntArray:
        """Row and column of each state, shape (S, 2), of a problem with a map."""
        return grid_map(self).cells

    def at(self, cell: Cell) -> int:
        """Give the state of a cell; see `FeatureProblem.at`."""
        return grid_map(self).state(cell)

    def with_coins(self, *, price: float = 1.0) -> FeatureProblem:
        """Make another problem, with one coin a state, as `FeatureProblem.with_coins` does."""
        inner: Any = self.inner
        require_method("the inner problem", inner, "with_coins")
        coined: FeatureProblem = inner.with_coins(price=price)
        return coined


def along(
    problem: ForwardProblem, theta: npt.ArrayLike, direction: npt.ArrayLike
) -> Reparametrised:
    """Make a problem of one parameter t out of a line: the problem at theta + t * direction.

    Its hypergradient is the slope of J along the direction. `check_gradient`, `check_estimator`,
    ascents and `plots.line` take it like any problem.

    Parameters
    ----------
    problem : ForwardProblem
        The problem.
    theta, direction : array_like, shape (d,)
        Where t is 0, and which way it grows.

    Returns
    -------
    Reparametrised
        With one parameter.

    Raises
    ------
    ValueError
        If that is no problem, the two vectors differ in length, or the direction is 0.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> problem, theta, direction = tb.problems.two_state(), [0.2, -0.3], [1.0, 2.0]
    >>> curve = tb.along(problem, theta, direction)
    >>> slope = tb.hypergradient(curve, [0.0]).gradient
    >>> print(slope.round(6), round(tb.hypergradient(problem, theta).gradient @ direction, 6))
    [-5.687607] -5.687607
    """
    require_problem(problem)
    return Reparametrised(problem, Line(as_theta(theta), as_theta(direction, name="direction")))
