"""What the environments of both libraries share: spaces that know what is available, and draws."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from gymnasium.spaces import Discrete, MultiDiscrete

from tabular_bilevel._base.arrays import FloatArray

Mask = npt.NDArray[np.int8]


class AvailableActions(Discrete):
    """Actions by number; `sample` draws, unless it is told otherwise, one that is available now.

    Attributes
    ----------
    now : ndarray of int8, shape (n,), or None
        Mask of what is available; the environment keeps it up to date.
    first : ndarray of int8, shape (n,), or None
        Mask of what every first state has. After `seed` it is in force until the next reset or
        step: draws then depend on the seed alone, and are good before a reset, too.
    """

    now: Mask | None = None
    first: Mask | None = None

    def sample(self, mask: Mask | None = None, probability: FloatArray | None = None) -> Any:
        """Draw an action, by the mask or the probabilities if given."""
        if mask is None and probability is None:
            mask = self.now
        return super().sample(mask, probability)

    def seed(self, seed: int | None = None) -> Any:
        """Start the draws anew, and forget the state."""
        if self.first is not None:
            self.now = self.first
        return super().seed(seed)


class AvailableAnswers(MultiDiscrete):
    """An action for each action of somebody else; `sample` as in `AvailableActions`.

    Attributes
    ----------
    now : tuple of ndarray of int8, shape (n,) each, or None
        Masks of what is available as the answer to each.
    """

    now: tuple[Mask, ...] | None = None

    def sample(
        self,
        mask: tuple[Mask, ...] | None = None,
        probability: tuple[FloatArray, ...] | None = None,
    ) -> Any:
        """Draw an answer to each, by the masks or the probabilities if given."""
        if mask is None and probability is None:
            mask = self.now
        return super().sample(mask, probability)


def available_action(action: object, mask: Mask, where: str) -> int:
    """Check an action against the mask of a place."""
    try:
        number = operator.index(action)  # type: ignore[arg-type]
    except TypeError:
        number = -1
    if not 0 <= number < mask.size:
        raise ValueError(f"the action in {where} is {action!r}, not one of 0, ..., {mask.size - 1}")
    if not mask[number]:
        others = ", ".join(str(a) for a in np.flatnonzero(mask))
        raise ValueError(f"action {number} is not available in {where}; available: {others}")
    return number


def draw(rng: np.random.Generator, distribution: FloatArray) -> int:
    """Draw an index; what the sum lacks to 1 by rounding is shared out."""
    return int(rng.choice(distribution.size, p=distribution / distribution.sum()))


def draw_next_state(
    rng: np.random.Generator, transition: sp.csr_array, row: int, termination: float
) -> int | None:
    """Draw the state that a row of the kernel leads to, or None for the end."""
    stored = slice(transition.indptr[row], transition.indptr[row + 1])
    outcome = draw(rng, np.append(transition.data[stored], termination))
    following = transition.indices[stored]
    return int(following[outcome]) if outcome < following.size else None
