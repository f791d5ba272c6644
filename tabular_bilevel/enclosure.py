"""Rigorous enclosures: every number with proven bounds, by ball arithmetic (theory.md section 13).

What float64 computes, `enclose` proves: python-flint (the extra ``rigor``) carries every rounding
error along, and the precision is doubled until the radius that was asked for is reached.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from tabular_bilevel._arrays import FloatArray, IntArray, quiet, read_only, restore_read_only
from tabular_bilevel._files import write_file
from tabular_bilevel._validation import (
    as_positive,
    as_theta,
    positive_integer,
    require_ieee_arithmetic,
)
from tabular_bilevel.accuracy import Level
from tabular_bilevel.errors import CertificationError, ConvergenceError
from tabular_bilevel.follower import solve_follower
from tabular_bilevel.model import Model, Tangent
from tabular_bilevel.problem import BilevelProblem
from tabular_bilevel.routes import all_tangents

__all__ = ["Enclosure", "Interval", "enclose"]

# Enough for 1e-12 on 99 % of problems; tied actions at discount 0.9999, temperature 1e-4 take 256.
FIRST_PRECISION = 128

# Bounds are float64 numbers: one rounding outward is 2.2e-16 of a number.
SMALLEST_TOLERANCE = 1e-15


@dataclass(frozen=True, eq=False)
class Interval:
    """Numbers that lie between bounds, ends included.

    Attributes
    ----------
    lower, upper : ndarray, or float of a single number
        Bounds of each number; infinite where nothing is known.
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
        return _unwrapped(np.clip(low / 2.0 + high / 2.0, low, high))

    @property
    @quiet
    def radius(self) -> Any:
        """How far the number may be from `centre`, rounded up; 0 where it is known exactly."""
        away = np.maximum(self.upper - self.centre, self.centre - self.lower)
        return _unwrapped(np.where(away > 0.0, np.nextafter(away, np.inf), 0.0))

    def contains(self, numbers: npt.ArrayLike) -> bool:
        """Say whether all of the numbers are within their bounds."""
        given = np.asarray(numbers)
        return bool(np.all((self.lower <= given) & (given <= self.upper)))

    def overlaps(self, other: Interval) -> bool:
        """Say whether each of the numbers may be the same as the other's."""
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
        Bits that it took.
    model, tangents
        What the bounds are about: the tables, and their derivatives in each parameter.
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
    tangents: tuple[Tangent, ...] = field(repr=False)

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
        from tabular_bilevel import _balls
        from tabular_bilevel.check_certificate import (
            FORMAT,
            RejectedError,
            UnprovenError,
            check_certificate,
        )

        names = ("objective", "gradient", "direct", "indirect")
        claims = {name: getattr(self, name) for name in names}
        for name, claim in claims.items():
            if not np.all(np.isfinite(claim.radius)):
                raise ValueError(f"{name} has infinite bounds, which certify nothing")
        tables = _balls.Tables.of(self.model, self.tangents)
        start = _balls.exact(np.asarray(self.value.centre))
        document = {
            "format": FORMAT,
            **_tables_in_hex(self.model),
            "tangents": [_tangent_in_hex(self.model, tangent) for tangent in self.tangents],
            "claims": {
                name: [_hexadecimal(claim.lower), _hexadecimal(claim.upper)]
                for name, claim in claims.items()
            },
        }
        # twice the precision has room for somewhat small numbers
        bits = max(2 * self.precision, 3 * self.precision // 2 + _bits_below_one(claims.values()))
        while True:
            with _balls.precision(bits):
                document["proof"] = _balls.proof(tables, start)
            try:
                check_certificate(document)
            except RejectedError as error:
                if not isinstance(error, UnprovenError) or 2 * bits > _balls.LONGEST_PROOF:
                    raise CertificationError(
                        f"the checker of certificates does not accept the proof: {error}", best=self
                    ) from error
                bits *= 2
            else:
                return document

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
        """
        write_file(path, json.dumps(self.certificate()).encode())

    def __str__(self) -> str:
        return (
            f"Enclosure: objective {self.objective}, gradient of {np.size(self.gradient.lower)} "
            f"parameters +- {np.max(self.gradient.radius, initial=0.0):.2g}, {self.precision} bits"
        )


@quiet
def enclose(
    problem: BilevelProblem,
    theta: npt.ArrayLike,
    *,
    tolerance: float = 1e-12,
    max_precision: int = 4096,
) -> Enclosure:
    """Compute the objective, its gradient and all on the way to them with proven bounds.

    **What is proven** is about the instance as stored: the float64 numbers of ``problem.model``'s
    tables, and those of their derivatives in each parameter, are read as exact. A row of
    `transition` that sums to 1 - 1e-17 does so; `termination` is not looked at, nor is anything at
    an unavailable action. Derivatives come from ``problem.pushforward``, or, where there is none,
    from `pullback` of one table entry at a time; `Enclosure.leak` says by how much they create or
    destroy probability, and far more than rounding is refused. What is not covered: how
    ``problem.model`` and these derivatives were rounded when they were computed from theta. Another
    machine may round them otherwise, which makes another instance; of the same tables it proves the
    same, to the last bit unless a bound is next to a float64 number.

    The proof: T is a contraction, so that a residual bounds the error of V_F; the linear systems
    are solved by elimination with balls (theory.md section 13). It relies on FLINT and the
    hardware. Precision is doubled until the radii are met. FLINT's precision belongs to the
    process: calls from several threads wait for each other, and a thread that uses python-flint
    otherwise sees the precision change meanwhile. An interrupt waits for FLINT's linear solve under
    way, up to a second at 600 states.

    Parameters
    ----------
    problem : BilevelProblem
        The leader's problem.
    theta : array_like, shape (d,)
        The leader's parameter.
    tolerance : float
        Largest radius of the objective, relative to it, and of the gradient, relative to its
        largest entry; at least 1e-15. Numbers that are 0 for no visible reason need a radius of
        2^-1074, the smallest float64.
    max_precision : int
        Bits after which to give up.

    Returns
    -------
    Enclosure
        The bounds.

    Raises
    ------
    ImportError
        Without python-flint.
    ValueError
        If theta, a derivative or a setting is bad, the follower's discount times a row sum of
        `transition` is not below 1, or what the leader earns has no end.
    CertificationError
        If `max_precision` is too small; it has the best bounds. Also, without any, if float64 does
        not round to nearest or flushes small numbers to 0.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> print(enclose(tb.problems.two_state(), [0.1, 0.2]))
    Enclosure: objective 1.7541503336511441 +- 2.2e-16, gradient of 2 parameters +- 4.4e-16, 128 \
bits
    """
    from tabular_bilevel import _balls

    require_ieee_arithmetic()
    most = positive_integer("max_precision", max_precision)
    if as_positive("tolerance", tolerance) < SMALLEST_TOLERANCE:
        raise ValueError(
            f"tolerance is {tolerance}, below {SMALLEST_TOLERANCE}: bounds are float64 numbers"
        )
    theta = read_only(as_theta(theta))
    model = problem.model(theta)
    tangents = tuple(all_tangents(problem, theta, model))
    tables = _balls.Tables.of(model, tangents)
    middle = _balls.exact(_guess(model))
    best: Enclosure | None = None
    precision = min(FIRST_PRECISION, most)
    while True:
        with _balls.precision(precision):
            try:
                road = _balls.travel(tables, middle)
            except (_balls.UndecidedError, ZeroDivisionError):
                pass
            else:
                middle, best = road.middle, _enclosure(road, model, tangents, precision)
                if _balls.is_within([road.objective], tolerance) and _balls.is_within(
                    road.gradient, tolerance
                ):
                    return best
        if precision == most:
            raise CertificationError(_shortfall(tolerance, precision, best), best=best)
        precision = min(2 * precision, most)


def _guess(model: Model) -> FloatArray:
    """Solve for V_F in float64; 0 where that fails."""
    try:
        value = solve_follower(model).value
    except ConvergenceError:
        value = np.zeros(model.n_states)
    return value


def _enclosure(road: Any, model: Model, tangents: tuple[Tangent, ...], precision: int) -> Enclosure:
    available = model.available

    def pairs(balls: Any, least: float, most: float) -> Interval:
        bounds = _interval(balls, least, most)
        tables = np.zeros((2, *available.shape))
        tables[0, available], tables[1, available] = bounds.lower, bounds.upper
        return Interval(read_only(tables[0]), read_only(tables[1]))

    objective = _interval([road.objective])
    return Enclosure(
        objective=Interval(_unwrapped(objective.lower[0]), _unwrapped(objective.upper[0])),
        gradient=_interval(road.gradient),
        direct=_interval(road.direct),
        indirect=_interval(road.indirect),
        value=_interval(road.value),
        policy=pairs(road.policy, 0.0, 1.0),
        leader_value=_interval(road.leader_value),
        occupancy=_interval(road.occupancy, 0.0),
        influence=pairs(road.influence, -np.inf, np.inf),
        precision=precision,
        model=model,
        tangents=tangents,
    )


def _interval(balls: Any, least: float = -np.inf, most: float = np.inf) -> Interval:
    from tabular_bilevel import _balls

    lower, upper = _balls.outward(balls)
    return Interval(
        read_only(np.clip(lower, least, most) + 0.0),  # no -0.0
        read_only(np.clip(upper, least, most) + 0.0),
    )


def _unwrapped(numbers: Any) -> Any:
    """Make a float of an array without axes."""
    return float(numbers) if np.ndim(numbers) == 0 else numbers


def _shortfall(tolerance: float, precision: int, best: Enclosure | None) -> str:
    if best is None:
        found = "nothing was proven"
    else:
        radius = np.max(best.gradient.radius, initial=0.0)
        found = (
            f"the objective is known within {best.objective.radius:.2g}, the gradient within "
            f"{radius:.2g}"
        )
    return (
        f"the relative tolerance {tolerance:.3g} was not reached with {precision} bits: {found}. "
        "Allow a larger max_precision."
    )


def _bits_below_one(claims: Iterable[Interval]) -> int:
    """Count the bits by which the smallest bound's last place is below that of 1."""
    ends = [x for claim in claims for x in (*np.ravel(claim.lower), *np.ravel(claim.upper))]
    smallest = min((math.ulp(x) for x in ends if x != 0.0), default=1.0)
    return max(math.frexp(math.ulp(1.0))[1] - math.frexp(smallest)[1], 0)


def _hexadecimal(numbers: Any) -> Any:
    """Spell floats exactly."""
    if np.ndim(numbers) == 0:
        return float(numbers).hex()
    return [x.hex() for x in np.asarray(numbers).tolist()]


def _tables_in_hex(model: Model) -> dict[str, Any]:
    kernel = model.transition

    def successors(row: int) -> list[list[Any]]:
        place = slice(kernel.indptr[row], kernel.indptr[row + 1])
        return _placed(kernel.indices[place], kernel.data[place])

    return {
        "follower_discount": _hexadecimal(model.follower_discount),
        "leader_discount": _hexadecimal(model.leader_discount),
        "temperature": _hexadecimal(model.temperature),
        "initial": _hexadecimal(model.initial),
        "pairs": [
            {
                "state": int(s),
                "follower_reward": _hexadecimal(model.follower_reward[s, a]),
                "leader_reward": _hexadecimal(model.leader_reward[s, a]),
                "successors": successors(int(s) * model.n_actions + int(a)),
            }
            for s, a in np.argwhere(model.available)
        ],
    }


def _tangent_in_hex(model: Model, tangent: Tangent) -> dict[str, Any]:
    """Spell what is not 0, each with its place: pair, entry in order of pairs, state, or 0."""
    available = model.available
    tables = {
        "follower_reward": tangent.follower_reward[available],
        "leader_reward": tangent.leader_reward[available],
        "transition": tangent.transition[available.ravel()[model.entry_row]],
        "initial": tangent.initial,
        "temperature": np.array([tangent.temperature]),
    }
    return {
        name: _placed(np.flatnonzero(table), table[table != 0.0]) for name, table in tables.items()
    }


def _placed(places: IntArray, numbers: FloatArray) -> list[list[Any]]:
    return [[k, x.hex()] for k, x in zip(places.tolist(), numbers.tolist(), strict=True)]
