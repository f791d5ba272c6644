"""How far a number is to be trusted: what a caller asks for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from tabular_bilevel._base.arguments import as_positive, positive_integer

__all__ = ["Bounded", "Enclosed", "Estimated", "Level"]


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
    """Ask for plain float64: the fastest, and nothing is said of its error.

    For the inside of loops, such as ascents.
    """


@dataclass(frozen=True)
class Bounded:
    """Ask for float64 with proven bounds.

    Attributes
    ----------
    tolerance : float, optional
        Largest radius allowed: of the objective relative to it, of the gradient relative to its
        largest entry. By default any finite one. A number that is 0 needs radius 0.
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
