"""Rigorous enclosures: every number with proven bounds, by ball arithmetic (theory.md section 13).

What float64 computes, `enclose` proves: python-flint (the extra ``rigor``) carries every rounding
error along, and the precision is doubled until the radius that was asked for is reached.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arguments import as_positive, as_theta, positive_integer
from tabular_bilevel._base.arrays import FloatArray, quiet, read_only
from tabular_bilevel._base.errors import ConvergenceError
from tabular_bilevel.certify.result import (
    CertificationError,
    Enclosure,
    Interval,
    require_ieee_arithmetic,
    unwrapped,
)
from tabular_bilevel.derivatives import tangents_at
from tabular_bilevel.finite.follower import solve_follower
from tabular_bilevel.finite.model import Model
from tabular_bilevel.finite.tangents import Tangents
from tabular_bilevel.problem import BilevelProblem, modelled

# Enough for 1e-12 on 99 % of problems; tied actions at discount 0.9999, temperature 1e-4 take 256.
FIRST_PRECISION = 128

# Elimination keeps S^2 balls: 2.5 GB of them, and an hour.
MOST_STATES = 4_000

# Bounds are float64 numbers: one rounding outward is 2.2e-16 of a number.
SMALLEST_TOLERANCE = 1e-15


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
    way, up to a second at 600 states. It takes time in proportion to S^3, and memory to S^2: it is
    for some hundred states, and more than 4,000 are refused.

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
        If theta, a derivative or a setting is bad, there are more than 4,000 states, the follower's
        discount times a row sum of `transition` is not below 1, or what the leader earns has no
        end.
    CertificationError
        If `max_precision` is too small; it has the best bounds. Also, without any, if float64 does
        not round to nearest or flushes small numbers to 0.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> proof = tb.enclose(tb.problems.two_state(), [0.1, 0.2])
    >>> print(proof.objective, "with", proof.precision, "bits")
    1.7541503336511441 +- 2.2e-16 with 128 bits
    """
    from tabular_bilevel.certify import balls

    require_ieee_arithmetic()
    most = positive_integer("max_precision", max_precision)
    if as_positive("tolerance", tolerance) < SMALLEST_TOLERANCE:
        raise ValueError(
            f"tolerance is {tolerance}, below {SMALLEST_TOLERANCE}: bounds are float64 numbers"
        )
    theta = read_only(as_theta(theta))
    model = modelled(problem, theta)
    if model.n_states > MOST_STATES:
        raise ValueError(
            f"the model has {model.n_states:,} states; enclose solves with balls for all pairs of "
            f"states, and is for {MOST_STATES:,} at most"
        )
    tangents = tangents_at(problem, theta, model)
    tables = balls.Tables.of(model, tangents)
    middle = balls.exact(_guess(model))
    best: Enclosure | None = None
    precision = min(FIRST_PRECISION, most)
    while True:
        with balls.precision(precision):
            try:
                road = balls.travel(tables, middle)
            except (balls.UndecidedError, ZeroDivisionError):
                pass
            else:
                middle, best = road.middle, _enclosure(road, model, tangents, precision)
                if balls.is_within([road.objective], tolerance) and balls.is_within(
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


def _enclosure(road: Any, model: Model, tangents: Tangents, precision: int) -> Enclosure:
    available = model.available

    def pairs(numbers: Any, least: float, most: float) -> Interval:
        bounds = _interval(numbers, least, most)
        tables = np.zeros((2, *available.shape))
        tables[0, available], tables[1, available] = bounds.lower, bounds.upper
        return Interval(read_only(tables[0]), read_only(tables[1]))

    objective = _interval([road.objective])
    return Enclosure(
        objective=Interval(unwrapped(objective.lower[0]), unwrapped(objective.upper[0])),
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


def _interval(numbers: Any, least: float = -np.inf, most: float = np.inf) -> Interval:
    from tabular_bilevel.certify import balls

    lower, upper = balls.outward(numbers)
    return Interval(
        read_only(np.clip(lower, least, most) + 0.0),  # no -0.0
        read_only(np.clip(upper, least, most) + 0.0),
    )


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
