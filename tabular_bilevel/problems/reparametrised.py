"""Problems whose theta is another problem's, transformed: a budget, say."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arguments import (
    as_finite,
    as_theta,
    positive_integer,
)
from tabular_bilevel._base.arrays import (
    UNDERFLOW,
    FloatArray,
    at_least,
    quiet,
    read_only,
    softmax,
)
from tabular_bilevel.finite.model import Model, Tangent
from tabular_bilevel.finite.sensitivities import Sensitivities
from tabular_bilevel.problem import ForwardProblem
from tabular_bilevel.problems.tilting import softmax_reach

__all__ = ["Budget", "Reparametrised", "Transform"]

# Logits further apart have shares that float64 has not.
FURTHEST_LOGITS = 800.0


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
        """Check the settings."""
        positive_integer("n_parameters", self.n_parameters)
        as_finite("total", self.total)

    @quiet
    def forward(self, theta: npt.ArrayLike) -> FloatArray:
        """Map theta, shape (d,), to shares of the total, shape (d - 1,).

        Raises
        ------
        ValueError
            If theta has the wrong length or an entry that is not finite.
        """
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

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> problem = tb.Reparametrised(tb.problems.bandit(), tb.Budget(total=6.0, n_parameters=3))
    >>> problem.n_parameters, problem.model([0.0, 0.0, 0.0]).follower_reward
    (3, array([[2., 2.]]))
    >>> tb.hypergradient(problem, [0.0, 0.0, 0.0]).gradient[:2]
    array([-0.5,  0.5])
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
        """Differentiate the tables along a direction of theta, shape (d,).

        Raises
        ------
        ValueError
            If theta has the wrong length or an entry that is not finite.
        """
        theta = as_theta(theta)
        along = self.transform.pushforward(theta, as_theta(direction, theta.size, name="direction"))
        return self.inner.pushforward(self.transform.forward(theta), along)
