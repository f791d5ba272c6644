"""How far a number is to be trusted: what a caller asks for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from tabular_bilevel._base.arguments import as_positive, positive_integer


class Level(Enum):
    """What is known of a number's error, from most to least.

    - `ENCLOSED`: proven, to any radius, by ball arithmetic.
    - `BOUNDED`: proven by residuals of the float64 numbers.
    - `ESTIMATE`: nothing is proven, though the method is exact but for rounding.
    - `STATISTICAL`: a verdict on samples, with a rate of false alarms and a smallest visible bias.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> tb.hypergradient(tb.problems.bandit(), [0.0, 0.0]).accuracy.level is tb.Level.BOUNDED
    True
    >>> tb.EstimatorReport.level.value
    'statistical'
    """

    ENCLOSED = "enclosed"
    BOUNDED = "bounded"
    ESTIMATE = "estimate"
    STATISTICAL = "statistical"


@dataclass(frozen=True)
class Estimated:
    """Ask for plain float64: the fastest, and nothing is said of its error.

    For the inside of loops, such as ascents.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> quick = tb.hypergradient(tb.problems.bandit(), [0.0, 0.0], accuracy=tb.Estimated())
    >>> quick.objective, quick.accuracy.proven
    (0.5, False)
    """


@dataclass(frozen=True)
class Bounded:
    """Ask for float64 with proven bounds.

    Attributes
    ----------
    tolerance : float, optional
        Largest radius allowed: of the objective relative to it, of the gradient relative to its
        largest entry. By default any finite one. A number that is 0 needs radius 0.

    Raises
    ------
    ValueError
        On construction, if a setting is out of range; the message names it.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> result = tb.hypergradient(tb.problems.bandit(), [0.0, 0.0], accuracy=tb.Bounded(1e-12))
    >>> bool(result.accuracy.gradient.max() < 1e-12)
    True
    """

    tolerance: float | None = None

    def __post_init__(self) -> None:
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

    Raises
    ------
    ValueError
        On construction, if a setting is out of range; the message names it.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> result = tb.hypergradient(tb.problems.bandit(), [0.0, 0.0], accuracy=tb.Enclosed(1e-15))
    >>> result.objective, result.accuracy.level.value
    (0.5, 'enclosed')
    """

    tolerance: float = 1e-12
    max_precision: int = 4096

    def __post_init__(self) -> None:
        as_positive("tolerance", self.tolerance)
        positive_integer("max_precision", self.max_precision)
