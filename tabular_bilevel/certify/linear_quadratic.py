"""Proven bounds of a linear-quadratic J and its gradient (theory.md section 15).

Every matrix on the road is known up to a radius in the spectral norm, rounding included. The
formulas are those of `lq`, once more, with such balls in the place of matrices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tabular_bilevel._base.arrays import ROUNDOFF, UNDERFLOW, FloatArray
from tabular_bilevel._base.errors import ConvergenceError
from tabular_bilevel.certify.result import CertificationError, require_ieee_arithmetic
from tabular_bilevel.derivatives import has_pushforward, tangents_along
from tabular_bilevel.lq.leader import summed
from tabular_bilevel.lq.linear import lyapunov, symmetric
from tabular_bilevel.lq.model import MOVED, LinearQuadraticModel
from tabular_bilevel.lq.rewards import QuadraticReward
from tabular_bilevel.problem import AnyProblem

# Pays for the roundings of bounds themselves.
PAID = 1.0 + 2.0**-20

# Of a discounted sum's inverse of 1 - discount, and of a product with it.
SCALE_ROUNDINGS = 8.0

# The first guess of how far a solution may be, over what the residual says, and how often to
# guess wider by the same factor.
GUESS, GUESSES = 2.0, 4


# Before the names of the numbers of the leader's reward.
OF_REWARD = "leader_reward."


@dataclass(frozen=True, eq=False)
class Ball:
    """All matrices that are no further from a midpoint than a radius, in the spectral norm."""

    mid: FloatArray
    rad: float = 0.0

    @cached_property
    def stretches(self) -> FloatArray:
        """Singular values of the midpoint."""
        return np.asarray(np.linalg.svd(self.mid, compute_uv=False))

    @property
    def size(self) -> float:
        """Bound the norm of the midpoint."""
        return float(self.stretches[0]) * PAID

    @cached_property
    def entries(self) -> float:
        """Bound the norm of the midpoint's absolute values: roundings are entry by entry."""
        return math.sqrt(np.vdot(self.mid, self.mid)) * PAID

    @property
    def T(self) -> Ball:  # noqa: N802
        """The transposed."""
        return Ball(self.mid.T, self.rad)

    @property
    def reach(self) -> float:
        """Bound the norm of all of them."""
        return (self.size + self.rad) * PAID

    # numbers leave products with it to it
    __array_ufunc__ = None

    def __add__(self, other: Ball) -> Ball:
        both = Ball(self.mid + other.mid)
        rad = self.rad + other.rad + 2.0 * ROUNDOFF * both.entries
        return Ball(both.mid, rad * PAID + UNDERFLOW)

    def __neg__(self) -> Ball:
        return Ball(-self.mid, self.rad)

    def __sub__(self, other: Ball) -> Ball:
        return self + -other

    def __matmul__(self, other: Ball) -> Ball:
        rounding = (self.mid.shape[1] + 2.0) * ROUNDOFF * self.entries * other.entries
        mixed = self.size * other.rad if other.rad else 0.0
        mixed += self.rad * other.reach if self.rad else 0.0
        rad = mixed + rounding
        return Ball(self.mid @ other.mid, rad * PAID + UNDERFLOW)

    def __radd__(self, number: float) -> Ball:
        return self + Ball(np.array([[number]]))

    def __rmul__(self, number: float) -> Ball:
        return self.times(number)

    def __mul__(self, other: Ball) -> Ball:
        """Multiply by a matrix of one entry, which this is."""
        found = other.times(float(self.mid[0, 0]))
        return Ball(found.mid, (found.rad + self.rad * other.reach) * PAID)

    def times(self, factor: float) -> Ball:
        """Multiply by a number that is itself rounded a few times."""
        rounding = SCALE_ROUNDINGS * ROUNDOFF * self.entries
        return Ball(factor * self.mid, abs(factor) * (self.rad + rounding) * PAID + UNDERFLOW)

    def symmetric(self) -> Ball:
        """Average with the transposed, which is nearer to symmetric matrices than they were."""
        return (self + self.T).times(0.5)

    def dot(self, other: Ball) -> Ball:
        """Add up the products of entries, as a matrix of one."""
        mine = float(self.stretches.sum()) if other.rad else 0.0
        others = float(other.stretches.sum()) if self.rad else 0.0
        spread = min(self.mid.shape) * self.rad * other.rad
        rounding = (self.mid.size + 2.0) * ROUNDOFF * self.entries * other.entries
        rad = mine * other.rad + self.rad * others + spread + rounding
        return Ball(np.array([[np.vdot(self.mid, other.mid)]]), rad * PAID + UNDERFLOW)

    def inverse(self) -> Ball:
        """Invert: X with |1 - X S| < 1 is near the inverse of S."""
        found = Ball(np.asarray(np.linalg.inv(self.mid), dtype=np.float64))
        lack = (Ball(np.eye(len(self.mid))) - found @ self).reach
        if not lack < 0.5:
            raise CertificationError("a matrix is too near to a singular one", best=None)
        return Ball(found.mid, lack / (1.0 - lack) * found.size * PAID)


class Decay:
    """X -> X - discount F X F', which is inverted: F's powers, discounted, are proven to fall.

    H - discount F H F' >= 1 - lack for some H > 0 shows it (Lyapunov), and that the inverse of the
    unit matrix is at most H / (1 - lack). As the inverse keeps what is positive positive, the
    inverse of whatever is no larger than the unit matrix lies between - and + that.
    """

    def __init__(self, moved: Ball, discount: float) -> None:
        self.moved, self.discount = moved, discount
        unit: FloatArray = np.eye(len(moved.mid), dtype=np.float64)
        try:
            guess: FloatArray = lyapunov(np.sqrt(discount) * moved.mid, unit)
            # that the factors of what is smaller by more than their rounding exist, proves H > 0
            np.linalg.cholesky(guess - 0.5 * unit)
        except (ConvergenceError, np.linalg.LinAlgError) as error:
            raise CertificationError(f"no decay is seen: {error}", best=None) from error
        lack = (Ball(unit) - self.lacking(guess)).reach
        rounding = 4.0 * len(unit) ** 2 * ROUNDOFF * Ball(guess).entries
        if not (lack < 0.5 and rounding < 0.25):
            raise CertificationError(
                "the closed loop is too near to one that the discount does not outweigh", best=None
            )
        #: Bounds the inverse of symmetric matrices, in the spectral norm.
        self.longest = Ball(guess).size / (1.0 - lack) * PAID

    def lacking(self, found: FloatArray) -> Ball:
        """Apply it to a matrix."""
        there = self.moved @ Ball(found) @ self.moved.T
        return Ball(found) - there.times(self.discount)

    def solve(self, source: Ball) -> Ball:
        """Solve, and bound the error by the residual."""
        root = np.sqrt(self.discount)
        found = np.asarray(lyapunov(root * self.moved.mid, symmetric(source.mid)))
        gap = source - self.lacking(found)
        return Ball(found, self.longest * gap.reach * PAID)


def radii(
    problem: AnyProblem,
    theta: FloatArray,
    model: LinearQuadraticModel,
    value: FloatArray,
    objective: float,
    gradient: FloatArray,
) -> tuple[float, FloatArray, str]:
    """Bound how far J and its gradient are from the exact ones, given an approximate value matrix.

    Returns both bounds, and what they take for granted. Raises `CertificationError` where there are
    none.
    """
    require_ieee_arithmetic()
    if not isinstance(model.leader_reward, QuadraticReward):
        raise CertificationError("a bump is not covered", best=None)
    if not has_pushforward(problem):
        raise CertificationError("the problem has no pushforward, to say what moves", best=None)
    exact, slopes = _road(model, model.leader_reward, value)
    bounds = []
    _, tangents = tangents_along(problem, theta, np.eye(theta.size))
    for tangent, found in zip(tangents, gradient, strict=True):
        changes: dict[str, Any] = {name: getattr(tangent, name) for name in MOVED}
        changes |= {OF_REWARD + name: change for name, change in tangent.leader_reward.items()}
        pairs = [
            slope.dot(Ball(np.reshape(changes[name], slope.mid.shape)))
            for name, slope in slopes.items()
            if np.any(changes[name])
        ]
        total = Ball(np.array([[-found]]))
        for pair in pairs:
            total = total + pair
        bounds.append(total.reach)
    off = (exact - Ball(np.array([[objective]]))).reach
    given = "given the derivatives as pushforward returns them, which check_gradient tests"
    if not np.isfinite([off, *bounds]).all():
        raise CertificationError("numbers overflow where bounds are computed", best=None)
    return off, np.array(bounds), given


def _road(
    model: LinearQuadraticModel, reward: QuadraticReward, value: FloatArray
) -> tuple[Ball, dict[str, Ball]]:
    """Enclose J and its sensitivities."""
    A, B, W = map(Ball, (model.dynamics, model.control, model.noise))
    soon, later, heat = model.follower_discount, model.leader_discount, model.temperature
    P, inverse, K, C = _policy(model, value)
    covariance = inverse.times(heat / 2.0)
    V = W + B @ covariance @ B.T
    mean = Ball(model.initial_mean[:, None])
    start = Ball(model.initial_covariance) + mean @ mean.T
    M, N, H = map(Ball, (reward.state, reward.control, np.asarray(reward.cross)))
    mixed = H @ K
    by_state = M - mixed - mixed.T + K.T @ N @ K
    always = N.dot(covariance) + Ball(np.array([[reward.constant]]))
    if model.leader_horizon is None:
        all_of_them = 1.0 / (1.0 - later)
        total = Ball(np.array([[all_of_them]]), SCALE_ROUNDINGS * ROUNDOFF * all_of_them)
        moment = Decay(C, later).solve(start + (later * total) * V)
        L = Decay(C.T, later).solve(by_state)
        flow, spreading = (L @ C @ moment).times(2.0 * later), (later * total) * L
    else:
        decay, root = (Ball(np.array([[x]]), ROUNDOFF * x) for x in (later, math.sqrt(later)))
        given = C, V, by_state, start, decay, model.leader_horizon, root
        moment, total, L, flow, spreading = summed(*given)
    objective = by_state.dot(moment) + total * always

    of_gain = ((N @ K - H.T) @ moment).times(2.0) - B.T @ flow
    of_covariance = total * N + B.T @ spreading @ B
    Y = inverse @ of_gain
    U = -(inverse @ of_covariance @ covariance) - (Y @ K.T).symmetric()
    source = (B @ Y @ A.T).symmetric() + B @ U.symmetric() @ B.T
    Z = Decay(C, soon).solve(source.times(soon))
    through = P @ C @ Z
    onward = P @ B @ U.symmetric() - through @ K.T
    return objective, {
        "dynamics": flow + (P @ B @ Y + through.times(2.0)).times(soon),
        "control": (spreading @ B @ covariance).times(2.0)
        - flow @ K.T
        + (P @ A @ Y.T + onward.times(2.0)).times(soon),
        "state_cost": Z,
        "control_cost": U.symmetric() + K @ Z @ K.T,
        "noise": spreading,
        "initial_mean": (L @ mean).times(2.0),
        "initial_covariance": L,
        "temperature": of_covariance.dot(inverse).times(0.5),
        OF_REWARD + "state": moment,
        OF_REWARD + "control": K @ moment @ K.T + total * covariance,
        OF_REWARD + "constant": total,
        OF_REWARD + "cross": (moment @ K.T).times(-2.0),
    }


def _policy(model: LinearQuadraticModel, value: FloatArray) -> tuple[Ball, Ball, Ball, Ball]:
    """Enclose the value matrix, the inverse of S, the gain and the closed loop.

    The given value solves the Riccati equation of another cost, Q less the residual. On the way
    from that cost to Q the solution moves by the inverse of X - discount C'XC, along the residual,
    as long as that inverse exists. So it stays in any ball on all of which the inverse is bounded,
    if that bound times the residual does not lead out of it.
    """
    A, B, Q, R = map(Ball, (model.dynamics, model.control, model.state_cost, model.control_cost))
    discount = model.follower_discount

    def best(value: Ball) -> tuple[Ball, Ball, Ball]:
        ahead = B.T @ value
        inverse = (R + (ahead @ B).times(discount)).inverse()
        K = inverse @ (ahead @ A).times(discount)
        return inverse, K, A - B @ K

    P = Ball(symmetric(value))
    _, K, C = best(P)
    # a gain that is off costs the square of by how much
    point = Ball(K.mid)
    closed = A - B @ point
    gap = Q + point.T @ R @ point + (closed.T @ P @ closed).times(discount) - P
    S = R + (B.T @ P @ B).times(discount)
    residual = (gap.reach + S.reach * K.rad**2) * PAID
    widest = GUESS * Decay(C.T, discount).longest * residual
    for _ in range(GUESSES):
        P = Ball(P.mid, widest)
        inverse, K, C = best(P)
        if Decay(C.T, discount).longest * residual * PAID <= widest:
            return P, inverse, K, C
        widest *= GUESS
    raise CertificationError("the Riccati equation's solution is not enclosed", best=None)
