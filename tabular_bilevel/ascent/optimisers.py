"""Optimisers: from a gradient to the next parameter; they climb."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tabular_bilevel._base.arguments import as_positive, as_real, as_theta, finite_array
from tabular_bilevel._base.arrays import FloatArray, quiet
from tabular_bilevel.sampling.experience import NOTHING


class Optimiser(Protocol):
    """Anything that moves a parameter along gradients; settings are its fields.

    Examples
    --------
    One that takes steps of the same length:

    >>> import numpy as np
    >>> import tabular_bilevel as tb
    >>> class Sign:
    ...     def step(self, theta, gradient, memory):
    ...         return theta + 0.5 * np.sign(gradient), {}
    >>> climb = tb.ascend(tb.problems.bandit(), [0.0, 0.0], tb.ExactGradient(), Sign(), rng=0)
    >>> next(climb).next_theta
    array([-0.5,  0.5])
    """

    def step(
        self, theta: FloatArray, gradient: FloatArray, memory: Mapping[str, FloatArray]
    ) -> tuple[FloatArray, Mapping[str, FloatArray]]:
        """Make a step.

        Parameters
        ----------
        theta, gradient : ndarray, shape (d,)
            Where the step starts, and the gradient there.
        memory : mapping of str to ndarray
            What the step before gave back; empty at first.

        Returns
        -------
        theta : ndarray, shape (d,)
            The next parameter.
        memory : mapping of str to ndarray
            What the next step is to be given.
        """
        ...


@dataclass(frozen=True)
class GradientAscent:
    """theta + rate * gradient, the gradient clipped to a norm.

    Attributes
    ----------
    rate : float
        Positive.
    largest_norm : float
        Longer gradients are shortened to it; infinite by default.

    Raises
    ------
    ValueError
        On construction, if a setting is out of range; the message names it.

    Examples
    --------
    >>> import numpy as np
    >>> import tabular_bilevel as tb
    >>> theta, gradient = np.zeros(2), np.array([3.0, 4.0])
    >>> tb.GradientAscent(0.1).step(theta, gradient, {})[0]
    array([0.3, 0.4])
    >>> tb.GradientAscent(0.1, largest_norm=1.0).step(theta, gradient, {})[0]
    array([0.06, 0.08])
    """

    rate: float = 0.1
    largest_norm: float = np.inf

    def __post_init__(self) -> None:
        as_positive("rate", self.rate)
        if not as_real("largest_norm", self.largest_norm) > 0.0:
            raise ValueError(f"largest_norm is {self.largest_norm}, not positive")

    @quiet
    def step(
        self, theta: FloatArray, gradient: FloatArray, memory: Mapping[str, FloatArray]
    ) -> tuple[FloatArray, Mapping[str, FloatArray]]:
        """Move."""
        theta, gradient = _vectors(theta, gradient)
        norm = math.sqrt(gradient.dot(gradient))
        scale = self.rate if norm <= self.largest_norm else self.rate * self.largest_norm / norm
        return theta + scale * gradient, NOTHING


@dataclass(frozen=True)
class Adam:
    """Adaptive moments: Kingma, Ba, "Adam", ICLR 2015, arXiv:1412.6980, climbing.

    Attributes
    ----------
    rate : float
        Positive; about the length of a step of each coordinate.
    first_decay, second_decay : float
        Decays of the running means of the gradient and of its square, in [0, 1).
    epsilon : float
        Added to the root of the second; positive.

    Raises
    ------
    ValueError
        On construction, if a setting is out of range; the message names it.

    Examples
    --------
    >>> import numpy as np
    >>> import tabular_bilevel as tb
    >>> moved, memory = tb.Adam(0.1).step(np.zeros(2), np.array([3.0, -400.0]), {})
    >>> moved.round(6), sorted(memory)  # each coordinate by about the rate
    (array([ 0.1, -0.1]), ['count', 'first', 'second'])
    """

    rate: float = 0.01
    first_decay: float = 0.9
    second_decay: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        as_positive("rate", self.rate)
        as_positive("epsilon", self.epsilon)
        for name in ("first_decay", "second_decay"):
            if not 0.0 <= as_real(name, getattr(self, name)) < 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}, not in [0, 1)")

    @quiet
    def step(
        self, theta: FloatArray, gradient: FloatArray, memory: Mapping[str, FloatArray]
    ) -> tuple[FloatArray, Mapping[str, FloatArray]]:
        """Move."""
        theta, gradient = _vectors(theta, gradient)
        count, first, second = _moments(memory, theta)
        count = count + 1.0
        first = self.first_decay * first + (1.0 - self.first_decay) * gradient
        second = self.second_decay * second + (1.0 - self.second_decay) * gradient**2
        mean = first / (1.0 - self.first_decay**count)
        spread = np.sqrt(second / (1.0 - self.second_decay**count))
        moved = theta + self.rate * mean / (spread + self.epsilon)
        return moved, {"count": count, "first": first, "second": second}


def _vectors(theta: FloatArray, gradient: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Check what a step is made of."""
    where = as_theta(theta)
    return where, as_theta(gradient, where.size, name="gradient")


def _moments(
    memory: Mapping[str, FloatArray], theta: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Take `Adam`'s memory apart, or begin one; ValueError if it is none."""
    if not memory:
        return np.zeros(1), np.zeros_like(theta), np.zeros_like(theta)
    if memory.keys() != {"count", "first", "second"}:
        raise ValueError(f"optimiser memory has {sorted(memory)}, not count, first and second")
    count, first, second = (
        finite_array(f"optimiser memory {name!r}", memory[name], shape)
        for name, shape in (("count", (1,)), ("first", theta.shape), ("second", theta.shape))
    )
    if count[0] < 1.0 or count[0] != np.floor(count[0]):
        raise ValueError(f"optimiser memory 'count' is {count[0]}, not a number of steps")
    if np.any(second < 0.0):
        raise ValueError(
            f"optimiser memory 'second' has {second.min()}, and squares are not below 0"
        )
    return count, first, second
