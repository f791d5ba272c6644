"""What is known of J and its gradient: results, their errors, and what proves them."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arguments import as_numbers
from tabular_bilevel._base.arrays import ROUNDOFF, FloatArray, quiet, read_only, restore_read_only
from tabular_bilevel._base.files import write_file
from tabular_bilevel._base.later import computed_later
from tabular_bilevel.certify.accuracy import Level
from tabular_bilevel.finite.model import Model
from tabular_bilevel.finite.sensitivities import SensitivityBounds
from tabular_bilevel.finite.tangents import Tangents
from tabular_bilevel.problem import require_tables


@dataclass(frozen=True, eq=False)
class ErrorBounds:
    """What the numbers of a `Hypergradient` are off by at most; infinite where that is not known.

    Attributes
    ----------
    value : ndarray, shape (S,)
        Error of V_F, compared with the optimal value.
    action_value : ndarray, shape (S, A)
        Error of Q_F; 0 where an action is unavailable.
    policy : ndarray, shape (S, A)
        Error of the follower's policy.
    objective : float
        Error of J.
    leader_value : ndarray, shape (S,)
        Error of V_L.
    occupancy : ndarray, shape (S,)
        Error of d_L.
    sensitivities : SensitivityBounds
        Errors of the derivatives with respect to the tables.
    gradient : ndarray, shape (d,)
        Error of the gradient.
    vacuous : str
        Why the objective's bound or the gradient's is infinite; empty if neither is.
    given : str
        What the gradient's bound takes for granted, in words; empty if nothing.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> bounds = tb.hypergradient(tb.problems.two_state(), [0.0, 0.0]).accuracy.bounds
    >>> bounds.policy.shape, bool(bounds.policy.max() < 1e-12), bounds.vacuous
    ((2, 2), True, '')
    """

    level: ClassVar[Level] = Level.BOUNDED

    value: FloatArray
    action_value: FloatArray
    policy: FloatArray
    objective: float
    leader_value: FloatArray
    occupancy: FloatArray
    sensitivities: SensitivityBounds
    gradient: FloatArray
    vacuous: str
    given: str = ""

    __setstate__ = restore_read_only

    def __str__(self) -> str:
        text = (
            f"ErrorBounds: value {largest(self.value):.2g}, policy {largest(self.policy):.2g}, "
            f"objective {self.objective:.2g}, gradient {largest(self.gradient):.2g}"
        )
        return text + (f" ({self.vacuous or self.given})" if self.vacuous or self.given else "")


@dataclass(frozen=True, eq=False)
class Interval:
    """Numbers that lie between bounds, ends included.

    Attributes
    ----------
    lower, upper : ndarray, or float of a single number
        Bounds of each number; infinite where nothing is known.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> unit = tb.Interval(0.0, 1.0)
    >>> unit.centre, round(unit.radius, 12), unit.contains([0.2, 1.0])
    (0.5, 0.5, True)
    >>> unit.overlaps(tb.Interval(1.0, 3.0)), unit.overlaps(tb.Interval(2.0, 3.0))
    (True, False)
    """

    lower: Any
    upper: Any

    __setstate__ = restore_read_only

    @property
    @quiet
    def centre(self) -> Any:
        """A float64 in the middle, or next to it; 0 where nothing is known."""
        finite = np.isfinite(self.lower) & np.isfinite(self.upper)
        low, high = np.where(finite, self.lower, 0.0), np.where(finite, self.upper, 0.0)
        return unwrapped(np.clip(low / 2.0 + high / 2.0, low, high))

    @property
    @quiet
    def radius(self) -> Any:
        """How far the number may be from `centre`, rounded up; 0 where it is known exactly."""
        away = np.maximum(self.upper - self.centre, self.centre - self.lower)
        return unwrapped(np.where(away > 0.0, np.nextafter(away, np.inf), 0.0))

    def contains(self, numbers: npt.ArrayLike) -> bool:
        """Say whether all of the numbers are within their bounds.

        Parameters
        ----------
        numbers : array_like
            As many as there are bounds; or one for all of them, or many for one pair.

        Returns
        -------
        bool
            Whether all are.

        Raises
        ------
        ValueError
            If they are not real, or of another shape than the bounds.
        """
        given, shape = as_numbers("numbers", numbers), np.shape(self.lower)
        if given.shape and shape and given.shape != shape:
            raise ValueError(f"numbers has shape {given.shape}, that of the bounds is {shape}")
        return bool(np.all((self.lower <= given) & (given <= self.upper)))

    def overlaps(self, other: Interval) -> bool:
        """Say whether each of the numbers may be the same as the other's.

        Parameters
        ----------
        other : Interval
            Of as many numbers.

        Returns
        -------
        bool
            Whether all may be the same.
        """
        return bool(np.all((self.lower <= other.upper) & (other.lower <= self.upper)))

    def __str__(self) -> str:
        if np.ndim(self.lower) == 0:
            return f"{self.centre:.17g} +- {self.radius:.2g}"
        widest = np.max(self.radius, initial=0.0)
        return f"numbers of shape {np.shape(self.lower)} +- {widest:.2g}"


@dataclass(frozen=True, eq=False)
class Enclosure:
    """Proven bounds of everything on the road from the tables to the gradient.

    Attributes
    ----------
    objective : Interval
        J.
    gradient, direct, indirect : Interval, shape (d,)
        dJ/dtheta and its parts, with the policy held fixed and through it.
    value : Interval, shape (S,)
        V_F.
    policy : Interval, shape (S, A)
        The follower's; exactly 0 where an action is unavailable, and elsewhere at least 0: what
        float64 cannot tell from 0 has the upper bound 2^-1074.
    leader_value, occupancy : Interval, shape (S,)
        V_L and d_L.
    influence : Interval, shape (S, A)
        mu = dJ/dr_F; exactly 0 where an action is unavailable.
    precision : int
        Bits of precision that it took.
    model, tangents
        What the bounds are about: the tables, and their derivatives in each parameter.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> proof = tb.enclose(tb.problems.bandit(), [0.0, 0.0])
    >>> proof.objective.contains(0.5), proof.gradient.contains([-0.25, 0.25]), proof.leak
    (True, True, 0.0)
    >>> sorted(proof.certificate()["claims"])
    ['direct', 'gradient', 'indirect', 'objective']
    """

    level: ClassVar[Level] = Level.ENCLOSED

    objective: Interval
    gradient: Interval
    direct: Interval
    indirect: Interval
    value: Interval
    policy: Interval
    leader_value: Interval
    occupancy: Interval
    influence: Interval
    precision: int
    model: Model = field(repr=False)
    tangents: Tangents = field(repr=False)

    @property
    def leak(self) -> float:
        """Largest sum of a derivative of a distribution, 0 but for rounding: see `Tangent.leaks`.

        The gradient counts it as stored.
        """
        sums = [np.append(*tangent.leaks(self.model)) for tangent in self.tangents]
        return float(np.max(np.abs(sums), initial=0.0))

    def certificate(self) -> dict[str, Any]:
        """Make what it takes to check the bounds of J and the gradient without this package.

        The proof is made anew, at twice the precision or more, until
        `tabular_bilevel.check_certificate` accepts it, whose means are simpler, and whose
        arithmetic is another: bounds of V_F, and approximate V_L, d_L and n. Numbers are
        hexadecimal, some longer than float64.

        Returns
        -------
        dict
            For `json.dump`.

        Raises
        ------
        ValueError
            If the bounds are infinite.
        CertificationError
            If the checker does not accept them: it has so many bits, and fewer for large models.
        """
        from tabular_bilevel.certify.certificate import certificate  # python-flint is an extra
        from tabular_bilevel.check_certificate import RejectedError

        names = ("objective", "gradient", "direct", "indirect")
        found = {name: getattr(self, name) for name in names}
        try:
            return certificate(
                self.model,
                self.tangents,
                claims={name: (claim.lower, claim.upper) for name, claim in found.items()},
                value=np.asarray(self.value.centre),
                precision=self.precision,
            )
        except RejectedError as error:
            raise CertificationError(
                f"the checker of certificates does not accept the proof: {error}", best=self
            ) from error

    def save_certificate(self, path: str | Path) -> None:
        """Write the `certificate` as JSON: ``python -m tabular_bilevel.check_certificate PATH``.

        Parameters
        ----------
        path : str or Path
            The file, written whole or not at all.

        Raises
        ------
        ValueError, CertificationError
            As `certificate`; also a ValueError if the path is no regular file's.

        Examples
        --------
        >>> import tempfile
        >>> import json
        >>> import tabular_bilevel as tb
        >>> from tabular_bilevel.check_certificate import check_certificate
        >>> proof = tb.enclose(tb.problems.bandit(), [0.0, 0.0])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     proof.save_certificate(f"{folder}/proof.json")
        ...     with open(f"{folder}/proof.json", encoding="utf-8") as file:
        ...         check_certificate(json.load(file)) > 0  # the bits that it takes
        True
        """
        write_file(path, json.dumps(self.certificate()).encode())

    def __str__(self) -> str:
        return (
            f"Enclosure: objective {self.objective}, gradient of {np.size(self.gradient.lower)} "
            f"parameters +- {np.max(self.gradient.radius, initial=0.0):.2g}, {self.precision} bits"
        )


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
        Why nothing better is known, if it is an ESTIMATE; else empty.
    bounds : ErrorBounds or None
        Of a BOUNDED result, and of an ESTIMATE some of whose numbers are bounded: bounds of all
        numbers on the way.
    enclosure : Enclosure or None
        The enclosure behind an ENCLOSED result.
    given : str
        What the proof takes for granted, in words: that the derivatives which a problem's own code
        returns are right, if there are no formulas; empty if nothing.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> result = tb.hypergradient(tb.problems.bandit(), [0.0, 0.0])
    >>> result.accuracy.proven, result.accuracy.reason
    (True, '')
    >>> result.accuracy.is_within(1e-12, result.objective, result.gradient)
    True
    """

    level: Level
    objective: float
    gradient: FloatArray
    reason: str = ""
    bounds: ErrorBounds | None = field(default=None, repr=False)
    enclosure: Enclosure | None = field(default=None, repr=False)
    given: str = ""

    __setstate__ = restore_read_only

    @property
    def proven(self) -> bool:
        """Whether the objective and the gradient may be called exact within their radii."""
        return self.level in (Level.ENCLOSED, Level.BOUNDED)

    @quiet
    def is_within(self, tolerance: float, objective: float, gradient: FloatArray) -> bool:
        """Say whether the radii are within a part of the objective and of the gradient's size.

        Parameters
        ----------
        tolerance : float
            The part.
        objective : float
            J.
        gradient : ndarray, shape (d,)
            Whose largest entry is its size.

        Returns
        -------
        bool
            Whether both are.
        """
        size = float(np.abs(gradient).max(initial=0.0))
        widest = float(self.gradient.max(initial=0.0))
        return self.objective <= tolerance * abs(objective) and widest <= tolerance * size

    def __str__(self) -> str:
        if not self.proven:
            return f"{self.level.name} ({self.reason})"
        widest = float(self.gradient.max(initial=0.0))
        radii = f"objective +- {self.objective:.2g}, gradient +- {widest:.2g}"
        return f"{self.level.name}: {radii}" + (f", {self.given}" if self.given else "")


@dataclass(frozen=True, eq=False)
@computed_later("direct", "indirect")
class Hypergradient:
    """The leader's objective and its gradient.

    Attributes
    ----------
    objective : float
        J(theta).
    gradient : ndarray, shape (d,)
        dJ/dtheta, the sum of the two parts.
    direct : ndarray, shape (d,)
        The part with the follower's policy held fixed.
    indirect : ndarray, shape (d,)
        The part through the follower's policy. Both are computed when they are asked for: a
        ValueError says so if the problem is another by then.
    accuracy : Accuracy
        What is known of the errors of the objective and the gradient. The parts have no bounds of
        their own, except in the `Enclosure` of an ENCLOSED result.
    sensitivities : Sensitivities
        dJ/d(every table entry), by the name of the table: of the rewards, ``follower_reward``
        (the influence mu of each pair) and ``leader_reward`` (its visits), both of shape (S, A).
    model, response, evaluation
        The other stations on the way. Of an ENCLOSED result all are in float64.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> result = tb.hypergradient(tb.problems.rounds(), [0.0, 0.0])
    >>> result.visits.round(6), (11 * result.influence).round(6)
    (array([2., 1.]), array([-16.,  16.]))
    >>> direct, indirect = 11 * result.direct, 11 * result.indirect
    >>> direct.round(6), indirect.round(6), (11 * result.gradient).round(6)
    (array([-22., -11.]), array([-16.,  16.]), array([-38.,   5.]))
    """

    objective: float
    gradient: FloatArray
    direct: FloatArray
    indirect: FloatArray
    accuracy: Accuracy
    model: Any = field(repr=False)  # these four are of the problem's kind
    response: Any = field(repr=False)
    evaluation: Any = field(repr=False)
    sensitivities: Any = field(repr=False)

    __setstate__ = restore_read_only

    @property
    def visits(self) -> FloatArray:
        """How often the follower is in each state, discounted as the leader does: d_L, (S,)."""
        require_tables(self.model, name="model", what="visits")
        return np.asarray(self.evaluation.occupancy)

    @property
    @quiet
    def influence(self) -> FloatArray:
        """What one more coin in each state would earn the leader, shape (S,), if others paid it.

        That is n(s), the sum of the influence mu(s,a) over the actions: how J changes through the
        follower's policy with each unit that it is paid in s, whatever it does there.

        Examples
        --------
        >>> import tabular_bilevel as tb
        >>> result = tb.hypergradient(tb.problems.rounds(), [0.0, 0.0])
        >>> result.visits.round(6), result.influence.round(6)
        (array([2., 1.]), array([-1.454545,  1.454545]))
        """
        require_tables(self.model, name="model", what="influence")
        return read_only(self.sensitivities.follower_reward.sum(axis=1))

    @quiet
    def __str__(self) -> str:
        gradient, direct, indirect = map(
            np.linalg.norm, (self.gradient, self.direct, self.indirect)
        )
        return (
            f"Hypergradient: objective {self.objective:.10g}, {self.gradient.size} parameters, "
            f"gradient norm {gradient:.6g} (direct {direct:.6g}, through the follower "
            f"{indirect:.6g}); {self.accuracy}"
        )


class CertificationError(RuntimeError):
    """The accuracy that was asked for cannot be proven.

    Attributes
    ----------
    best : Enclosure, Hypergradient or None
        What is proven, if anything; a Hypergradient says so in its `accuracy`.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> try:
    ...     tb.hypergradient(tb.problems.two_state(), [0.0, 0.0], accuracy=tb.Bounded(1e-20))
    ... except tb.CertificationError as error:
    ...     print(error.best.accuracy.level.value)
    bounded
    """

    def __init__(self, message: str, *, best: Enclosure | Hypergradient | None) -> None:
        super().__init__(message)
        self.best = best

    def __reduce__(self) -> tuple[Any, ...]:
        """Survive the way back from a worker process, with notes."""
        return RuntimeError.__new__, (type(self), *self.args), self.__dict__


def require_ieee_arithmetic() -> None:
    """Raise unless this thread rounds to nearest and keeps what is below the normal numbers.

    Libraries built with -ffast-math change the latter for the whole process when they are loaded.
    """
    small = sys.float_info.min / 2.0
    if not small > 0.0:
        raise CertificationError(
            f"float64 numbers below {sys.float_info.min:.3g} are taken for 0 in this thread (flush "
            "to zero), so no bound can be trusted",
            best=None,
        )
    unit = 1.0  # a variable: what is constant, Python adds up when it compiles
    if not unit + ROUNDOFF == unit == unit - ROUNDOFF / 2.0 or not -unit - ROUNDOFF == -unit:
        raise CertificationError(
            "float64 arithmetic in this thread does not round to nearest, so no bound can be "
            "trusted",
            best=None,
        )


def largest(array: FloatArray) -> float:
    """Largest entry, at least 0; what is no number counts as infinite."""
    largest = float(np.max(array, initial=0.0))
    return largest if largest >= 0.0 else math.inf


def unwrapped(numbers: Any) -> Any:
    """Make a float of an array without axes."""
    return float(numbers) if np.ndim(numbers) == 0 else numbers
