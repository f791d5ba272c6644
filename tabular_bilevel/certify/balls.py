"""The road from tables to gradient in ball arithmetic (theory.md section 13).

All is computed at the precision that is set when a function is called. A ball is a midpoint and a
radius; what is computed of balls encloses whatever could have been computed of their points. The
tables are exact. Stations in order, all for pairs (s, a) that exist:

- V_F: Newton's method on exact midpoints; then one evaluation of T in balls. T is a contraction
  with kappa = discount * largest row sum, so V* is within max |T V - V| / (1 - kappa) of V.
- the policy, softmax of Q_F by state; V_L, d_L and the flow n of influence: systems with a matrix
  of balls, solved by elimination, which proves that each matrix in the ball is regular.
- I - gamma_L P_pi has a solution z > 0 for the right-hand side 1: as an M-matrix, then, its inverse
  is the sum of the powers of gamma_L P_pi. Regular is not enough: a loop that is left with
  probability -2^-52 has a finite solution, too, of the wrong sign.
"""

from __future__ import annotations

import math
import operator
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse as sp

from tabular_bilevel._base.arrays import FloatArray
from tabular_bilevel._base.errors import needed
from tabular_bilevel.finite.model import Model
from tabular_bilevel.finite.tangents import Tangents

with needed("tb.enclose", "python-flint", extra="rigor"):
    from flint import arb, arb_mat, ctx

# python-flint has no type hints.
Ball = Any
Balls = list[Any]

ZERO, ONE = arb(0), arb(1)

# Newton steps end at a residual of 2^8 roundings of the largest value: sums over a few hundred
# successors may be that far off. The bound is made of the residual, whatever it is.
SETTLED_BITS = 8

# Steps without a residual half as large as the best before, after which the best is taken. Policy
# iteration far from the solution may need some 20.
PATIENCE = 30

# float64's smallest and largest numbers: bounds of what is beyond them are no use.
SMALLEST, LARGEST = arb(5e-324), arb(float(np.finfo(np.float64).max))

# The checker of certificates reads 2^15 bits of a number, here of twice the proof's precision, and
# no finer ones: what is smaller, such as probabilities of 2^-1e14, is cut off. It computes with
# 2^13 bits, and a little room is larger than its last ones.
LONGEST_PROOF, SMALLEST_EXPONENT, ROOM_BITS = 2**14, -(2**15), 8100

# FLINT's precision belongs to the process. A fork waits until no other thread has changed it: the
# child would find the lock taken for good.
_LOCK = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release
    )


@contextmanager
def precision(bits: int) -> Iterator[None]:
    """Compute with so many bits, one thread at a time."""
    with _LOCK, ctx.workprec(bits):
        yield


class UndecidedError(ArithmeticError):
    """Nothing is decided at this precision; more bits may tell."""


@dataclass(frozen=True)
class Column:
    """The derivative of some list of table entries in one parameter: places and slopes."""

    places: list[int]
    slopes: Balls

    @classmethod
    def each(cls, *tables: Any) -> list[Column]:
        """Take the columns of sparse tables that stand one below the other; keep what is not 0."""
        columns = sp.csr_array(sp.vstack(tables).T)
        columns.eliminate_zeros()
        columns.sort_indices()
        return [
            cls(columns.indices[i:j].tolist(), exact(columns.data[i:j]))
            for i, j in pairwise(columns.indptr.tolist())
        ]

    def dot(self, measure: Balls) -> Ball:
        """Pull a measure back."""
        return dot(self.slopes, [measure[k] for k in self.places])


@dataclass(frozen=True)
class Tables:
    """A model's tables and their derivatives, read as exact numbers.

    Pairs are those that are available, state by state: state s has first[s], ..., first[s + 1] - 1.
    """

    first: list[int]
    targets: list[list[int]]  # next states of each pair
    kernel: list[Balls]
    follower_reward: Balls
    leader_reward: Balls
    initial: Balls
    follower_discount: Ball
    leader_discount: Ball
    temperature: Ball
    direct: list[Column]  # of the leader's rewards, the kernel and the initial distribution
    indirect: list[Column]  # of the follower's rewards, the kernel and the temperature

    @classmethod
    def of(cls, model: Model, tangents: Tangents) -> Tables:
        """Convert; nothing is rounded."""
        available = model.available.ravel()
        pairs, stored = np.flatnonzero(available), available[model.entry_row]
        ends = np.cumsum(np.diff(model.transition.indptr)[pairs]).tolist()
        starts = [0, *ends[:-1]]
        targets = model.transition.indices[stored].tolist()
        kernel, kernel_slope = exact(model.transition.data[stored]), tangents.transition[stored]
        return cls(
            first=[0, *np.cumsum(model.available.sum(axis=1)).tolist()],
            targets=[targets[i:j] for i, j in zip(starts, ends, strict=True)],
            kernel=[kernel[i:j] for i, j in zip(starts, ends, strict=True)],
            follower_reward=exact(model.follower_reward.ravel()[pairs]),
            leader_reward=exact(model.leader_reward.ravel()[pairs]),
            initial=exact(model.initial),
            follower_discount=arb(model.follower_discount),
            leader_discount=arb(model.leader_discount),
            temperature=arb(model.temperature),
            direct=Column.each(tangents.leader_reward[pairs], kernel_slope, tangents.initial),
            indirect=Column.each(
                tangents.follower_reward[pairs], kernel_slope, tangents.temperature
            ),
        )

    @property
    def n_states(self) -> int:
        """S."""
        return len(self.first) - 1

    def ahead(self, value: Balls) -> Balls:
        """Average over the next state, for each pair."""
        return [
            dot(row, [value[j] for j in targets])
            for row, targets in zip(self.kernel, self.targets, strict=True)
        ]

    def means(self, policy: Balls, table: Balls) -> Balls:
        """Average over the policy, for each state."""
        return [dot(policy[i:j], table[i:j]) for i, j in pairwise(self.first)]


@dataclass(frozen=True)
class Road:
    """Enclosures of everything on the road, in balls."""

    middle: Balls  # exact midpoints of the follower's values, to start from next time
    value: Balls
    policy: Balls
    leader_value: Balls
    steps: Balls  # expected numbers, discounted as the leader discounts
    occupancy: Balls
    influence: Balls
    arrivals: Balls
    objective: Ball
    direct: Balls
    indirect: Balls
    gradient: Balls


def exact(numbers: FloatArray) -> Balls:
    """Convert floats; nothing is rounded."""
    return list(map(arb, numbers.tolist()))


def dot(x: Balls, y: Balls) -> Ball:
    """Multiply and add up."""
    return sum(map(operator.mul, x, y), ZERO)


def travel(tables: Tables, start: Balls) -> Road:
    """Enclose everything, from an exact guess of the follower's values.

    Raises `UndecidedError` or `ZeroDivisionError` if it takes more precision, and ValueError if it
    is proven that no precision would help.
    """
    middle, value = _follower(tables, start)
    _, _, policy, log_policy = _soft_backup(tables, value)
    follower_discount, leader_discount = tables.follower_discount, tables.leader_discount

    system = _system(tables, policy, leader_discount)
    leader_value, steps = _leader_value(tables, policy, system)
    leader_system_transposed = system.transpose()
    occupancy = _solved(leader_system_transposed, tables.initial)

    flow, source = _influence_source(tables, policy, leader_value, occupancy)
    pushed = _arrivals(tables, source)
    if leader_discount != follower_discount:
        system = _system(tables, policy, follower_discount)
    arrivals = _solved(system.transpose(), [follower_discount * x for x in pushed])
    influence = []
    for s, (i, j) in enumerate(pairwise(tables.first)):
        influence += [source[k] + policy[k] * arrivals[s] for k in range(i, j)]

    direct_measure = flow + _entries(tables, leader_discount, flow, leader_value) + leader_value
    indirect_measure = influence + _entries(tables, follower_discount, influence, value)
    indirect_measure.append(-dot(influence, log_policy))
    direct = [column.dot(direct_measure) for column in tables.direct]
    indirect = [column.dot(indirect_measure) for column in tables.indirect]
    return Road(
        middle=middle,
        value=value,
        policy=policy,
        leader_value=leader_value,
        steps=steps,
        occupancy=occupancy,
        influence=influence,
        arrivals=arrivals,
        objective=dot(tables.initial, leader_value),
        direct=direct,
        indirect=indirect,
        gradient=list(map(operator.add, direct, indirect)),
    )


def _follower(tables: Tables, start: Balls) -> tuple[Balls, Balls]:
    """Solve for V_F: exact midpoints, and balls around them that hold it."""
    remaining = _remaining(tables)
    value, best, smallest, stalled = start, start, arb.pos_inf(), 0
    while stalled < PATIENCE:
        action_value, improved, policy, _ = _soft_backup(tables, value)
        gap = list(map(operator.sub, improved, value))
        residual = _largest(gap)
        if residual < smallest / 2:
            best, smallest, stalled = value, residual, 0
        else:
            stalled += 1
        rounding = _largest(action_value) * arb(2) ** (SETTLED_BITS - ctx.prec)
        if residual <= rounding or not residual.is_finite():
            break
        system = _system(tables, policy, tables.follower_discount)
        step = _solved(system, gap, algorithm="approx")
        value = [(v + change).mid() for v, change in zip(value, step, strict=True)]
    radius = smallest / remaining
    return best, [arb(v, radius.upper()) for v in best]


def _remaining(tables: Tables) -> Ball:
    """Bound 1 - kappa from below; raise if the follower's problem has no solution."""
    masses = [sum(row, ZERO) for row in tables.kernel]
    largest = max(mass.upper() for mass in masses)
    if (1 - tables.follower_discount * largest).lower() > 0:
        return 1 - tables.follower_discount * largest
    if any(tables.follower_discount * mass >= 1 for mass in masses):
        raise ValueError(
            "follower_discount times the largest row sum of transition, added up exactly, is not "
            "below 1"
        )
    raise UndecidedError


def _soft_backup(tables: Tables, value: Balls) -> tuple[Balls, Balls, Balls, Balls]:
    """Apply T: action values, improved values, policy and its logarithm."""
    ahead, discount, beta = tables.ahead(value), tables.follower_discount, tables.temperature
    action_value = [r + discount * v for r, v in zip(tables.follower_reward, ahead, strict=True)]
    improved: Balls = []
    policy: Balls = []
    log_policy: Balls = []
    for i, j in pairwise(tables.first):
        if j == i + 1:
            improved.append(action_value[i])
            policy.append(ONE)
            log_policy.append(ZERO)
            continue
        best = max(q.mid() for q in action_value[i:j])
        logits = [(q - best) / beta for q in action_value[i:j]]
        weights = [logit.exp() for logit in logits]
        total = sum(weights, ZERO)
        log_total = total.log()
        improved.append(best + beta * log_total)
        policy += [weight / total for weight in weights]
        log_policy += [logit - log_total for logit in logits]
    return action_value, improved, policy, log_policy


def _system(tables: Tables, policy: Balls, discount: Ball) -> Any:
    """Make I - discount * P_policy."""
    n_states = tables.n_states
    rows = []
    for s, (i, j) in enumerate(pairwise(tables.first)):
        row = [ZERO] * n_states
        row[s] = ONE
        for k in range(i, j):
            weight = discount * policy[k]
            for target, p in zip(tables.targets[k], tables.kernel[k], strict=True):
                row[target] -= weight * p
        rows += row
    return arb_mat(n_states, n_states, rows)


def _solved(system: Any, *columns: Balls, algorithm: str = "lu") -> Balls:
    """Solve for columns, one after the other. Elimination suits M-matrices, at half the time."""
    right = arb_mat([list(row) for row in zip(*columns, strict=True)])
    solution = system.solve(right, algorithm=algorithm).entries()
    return [x for k in range(len(columns)) for x in solution[k :: len(columns)]]


def _leader_value(tables: Tables, policy: Balls, system: Any) -> tuple[Balls, Balls]:
    """Solve for V_L, and for the expected steps, which prove that V_L is the leader's."""
    n_states = tables.n_states
    reward = tables.means(policy, tables.leader_reward)
    solution = _solved(system, reward, [ONE] * n_states)
    steps = solution[n_states:]
    if any(z <= 0 for z in steps):
        raise ValueError(
            "what the leader earns has no end: with leader_discount and the follower's policy the "
            "expected number of steps is not finite"
        )
    if not all(z > 0 for z in steps):
        raise UndecidedError
    return solution[:n_states], steps


def _influence_source(
    tables: Tables, policy: Balls, leader_value: Balls, occupancy: Balls
) -> tuple[Balls, Balls]:
    """Compute d_L pi and w = d_L pi A_L / temperature, for each pair."""
    ahead, discount = tables.ahead(leader_value), tables.leader_discount
    action_value = [r + discount * v for r, v in zip(tables.leader_reward, ahead, strict=True)]
    flow: Balls = []
    source: Balls = []
    for s, (i, j) in enumerate(pairwise(tables.first)):
        for k in range(i, j):
            # differences, so that an action that is nearly certain has an advantage of nearly 0
            better = [
                policy[other] * (action_value[k] - action_value[other])
                for other in range(i, j)
                if other != k
            ]
            flow.append(occupancy[s] * policy[k])
            source.append(flow[-1] * sum(better, ZERO) / tables.temperature)
    return flow, source


def _arrivals(tables: Tables, flow: Balls) -> Balls:
    """Push a measure on pairs one step on."""
    arrivals = [ZERO] * tables.n_states
    for weight, targets, row in zip(flow, tables.targets, tables.kernel, strict=True):
        for target, p in zip(targets, row, strict=True):
            arrivals[target] += weight * p
    return arrivals


def _entries(tables: Tables, discount: Ball, flow: Balls, value: Balls) -> Balls:
    """Differentiate in the kernel's entries: discount * flow(s,a) * value(s')."""
    entries = []
    for weight, targets in zip(flow, tables.targets, strict=True):
        discounted = discount * weight
        entries += [discounted * value[target] for target in targets]
    return entries


def _largest(numbers: Balls) -> Ball:
    """Bound the absolute values."""
    bounds = [x.abs_upper() for x in numbers]
    return max(bounds) if all(b.is_finite() for b in bounds) else arb.pos_inf()


def is_within(numbers: Balls, tolerance: float) -> bool:
    """Say whether the radii are small against the largest number, or too small for float64.

    Half the tolerance, for the other half may go on rounding to float64.
    """
    if not numbers:
        return True
    size = max(x.abs_lower() for x in numbers)
    allowed = max(size * tolerance / 2, SMALLEST / 2)
    return all(x.rad() <= allowed and x.abs_upper() <= LARGEST for x in numbers)


def outward(numbers: Balls) -> tuple[FloatArray, FloatArray]:
    """Round to float64, ends outward."""
    ends = [_ends(x) for x in numbers]
    lower, upper = np.array(ends, dtype=np.float64).reshape(-1, 2).T.copy()
    return lower, upper


def _ends(ball: Ball) -> tuple[float, float]:
    if not ball.is_finite():
        return -math.inf, math.inf
    low, high = ball.lower(), ball.upper()
    lower, upper = float(low), float(high)
    # to nearest: may lie inside
    if not arb(lower) <= low:
        lower = math.nextafter(lower, -math.inf)
    if not arb(upper) >= high:
        upper = math.nextafter(upper, math.inf)
    return lower, upper


def proof(tables: Tables, start: Balls) -> dict[str, list[str]]:
    """Make what a certificate rests on, in exact hexadecimals.

    Bounds of V_F, with room for a checker's own rounding, and midpoints of V_L, the leader's
    expected steps, d_L and n.
    """
    road = travel(tables, start)
    size = _largest(road.value + _soft_backup(tables, road.value)[0])
    room = 2 * _largest([v.rad() for v in road.value]) + size * arb(2) ** -min(ctx.prec, ROOM_BITS)
    with ctx.workprec(2 * ctx.prec):  # rounding must not use the room up
        lower = [hexadecimal((v - room).mid()) for v in road.middle]
        upper = [hexadecimal((v + room).mid()) for v in road.middle]
    return {
        "value_lower": lower,
        "value_upper": upper,
        **{
            name: [hexadecimal(x.mid()) for x in getattr(road, name)]
            for name in ("leader_value", "steps", "occupancy", "arrivals")
        },
    }


def hexadecimal(number: Ball) -> str:
    """Spell an exact number, as ``-0x1af3p-12``; digits far below products of floats are cut."""
    mantissa, exponent = map(int, number.man_exp())
    if exponent < SMALLEST_EXPONENT:
        mantissa, exponent = mantissa >> SMALLEST_EXPONENT - exponent, SMALLEST_EXPONENT
    return f"{mantissa:#x}p{exponent:+d}"
