"""How far a number can be trusted: what a caller asks for, and what a result says of itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

from tabular_bilevel._arrays import FloatArray, quiet, restore_read_only
from tabular_bilevel._validation import as_positive, positive_integer

if TYPE_CHECKING:
    from tabular_bilevel.bounds import ErrorBounds
    from tabular_bilevel.enclosure import Enclosure

__all__ = ["Accuracy", "Bounded", "Enclosed", "Estimated", "Level"]


class Level(Enum):
    """What is known of a number's error, from most to least."""

    #: Proven, to any radius, by ball arithmetic.
    ENCLOSED = "enclosed"
    #: Proven by residuals of the float64 numbers.
    BOUNDED = "bounded"
    #: Nothing is proven, though the method is exact but for rounding.
    ESTIMATE = "estimate"
    #: A verdict on samples, with a rate of false alarms and a smallest visible bias.
    STATISTICAL = "statistical"


@dataclass(frozen=True)
class Estimated:
    """Ask for plain float64: the fastest, with no word on its error.

    For the inside of loops, such as ascents.
    """


@dataclass(frozen=True)
class Bounded:
    """Ask for float64 with proven bounds.

    Attributes
    ----------
    tolerance : float, optional
        Largest radius of the objective, relative to it, and of the gradient, relative to its
        largest entry; by default any that is finite. A number that is 0 meets it with radius 0
        only.
    """

    tolerance: float | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.tolerance is not None:
            as_positive("tolerance", self.tolerance)


@dataclass(frozen=True)
class Enclosed:
    """Ask for ball arithmetic, as `enclose` does (needs python-flint, the extra `rigor`).

    Attributes
    ----------
    tolerance : float
        Largest relative radius, as of `Bounded`; at least 1e-15.
    max_precision : int
        Bits after which to give up.
    """

    tolerance: float = 1e-12
    max_precision: int = 4096

    def __post_init__(self) -> None:
        """Check the settings."""
        as_positive("tolerance", self.tolerance)
        positive_integer("max_precision", self.max_precision)


@dataclass(frozen=True, eq=False)
class Accuracy:
    """What is known of a result's errors.

    Attributes
    ----------
    level : Level
        ENCLOSED, BOUNDED or ESTIMATE.
    objective : float
        Radius: the exact J is no further away; infinite where that is not known.
    gradient : ndarray, shape (d,)
        Radii of the gradient's entries.
    reason : str
        Of an ESTIMATE, why nothing better is known; else empty.
    bounds : ErrorBounds or None
        Of a BOUNDED result, and of an ESTIMATE some of whose numbers are bounded: those of all
        numbers on the way.
    enclosure : Enclosure or None
        Of an ENCLOSED result.
    """

    level: Level
    objective: float
    gradient: FloatArray
    reason: str = ""
    bounds: ErrorBounds | None = field(default=None, repr=False)
    enclosure: Enclosure | None = field(default=None, repr=False)

    __setstate__ = restore_read_only

    @property
    def proven(self) -> bool:
        """Whether the objective and the gradient may be called exact within their radii."""
        return self.level in (Level.ENCLOSED, Level.BOUNDED)

    @quiet
    def is_within(self, tolerance: float, objective: float, gradient: FloatArray) -> bool:
        """Say whether the radii are within a part of the objective and of the gradient's size."""
        size = float(np.abs(gradient).max(initial=0.0))
        widest = float(self.gradient.max(initial=0.0))
        return self.objective <= tolerance * abs(objective) and widest <= tolerance * size

    def __str__(self) -> str:
        if not self.proven:
            return f"{self.level.name} ({self.reason})"
        widest = float(self.gradient.max(initial=0.0))
        return f"{self.level.name}: objective +- {self.objective:.2g}, gradient +- {widest:.2g}"
