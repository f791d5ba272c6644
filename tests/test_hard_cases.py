"""The hard cases: every kind of instance on which software of this kind is known to go wrong.

Each row has cases of what must happen. V: the instance is valid, and every number is enclosed. E:
it is refused, in words that name what is wrong. D: a choice that is documented, as documented.
"""

import ctypes
import dataclasses
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import scipy.sparse as sp
from small import put

import tabular_bilevel as tb

flint = pytest.importorskip("flint")
arb = flint.arb

from references.ball_reference import BITS, Reference, off  # noqa: E402

from tabular_bilevel.certify import balls  # noqa: E402
from tabular_bilevel.certify.bounds import error_bounds  # noqa: E402

SMALLEST = 5e-324

# ---------------------------------------------------------------- problems

# Multiples of 1/16: exact in every float type, and so are sums.
KERNEL = np.array([[[0.75, 0.25], [0.25, 0.75]], [[0.5, 0.5], [0.125, 0.875]]])
FOLLOWER = np.array([[0.0, 0.25], [0.125, -0.1875]])
LEADER = np.array([[1.0, 0.0], [0.0, 2.0]])


def tables(**changes):
    return {
        "transition": KERNEL,
        "follower_reward": FOLLOWER,
        "leader_reward": LEADER,
        "initial": [0.5, 0.5],
        "follower_discount": 0.5,
        "leader_discount": 0.75,
        "temperature": 0.5,
        **changes,
    }


def build(**changes):
    return tb.Model.from_tables(**tables(**changes))


def one_state(reward=(0.25, 0.5, -1.0), leader=(0.5, -1.0, 2.0), **changes):
    n = len(reward)
    return build(
        **{
            "transition": np.ones((1, n, 1)),
            "follower_reward": [reward],
            "leader_reward": [leader],
            "initial": [1.0],
            **changes,
        }
    )


class Moved:
    """A model at theta = 0, that theta moves along tangents."""

    def __init__(self, model, tangents):
        self._model, self._tangents = model, tangents
        self.theta = np.zeros(len(tangents))

    def model(self, theta):
        return self._model

    def pullback(self, theta, sensitivities):
        return [sensitivities.dot(tangent) for tangent in self._tangents]

    def pushforward(self, theta, direction):
        (k,) = np.flatnonzero(direction)
        return self._tangents[k]


class PulledBack:
    """The same without a pushforward."""

    def __init__(self, moved):
        self.model, self.pullback, self.theta = moved.model, moved.pullback, moved.theta


def some_tangents(model, seed=0):
    """One parameter for each table, in eighths; what is moved has sum 0."""
    rng = np.random.default_rng(seed)

    def eighths(shape):
        return rng.integers(-8, 9, size=shape) / 8

    kernel = np.zeros(model.transition.nnz)
    for i, j in zip(model.transition.indptr, model.transition.indptr[1:], strict=False):
        if j > i + 1:
            kernel[i] = eighths(())
            kernel[i + 1] = -kernel[i]
    start = eighths(model.n_states)
    start[-1] -= start.sum()
    tables = {
        "follower_reward": np.where(model.available, eighths(model.available.shape), 0.0),
        "leader_reward": np.where(model.available, eighths(model.available.shape), 0.0),
        "transition": kernel,
        "initial": start,
    }
    zero = tb.Tangent.zero(model)
    return [dataclasses.replace(zero, **{name: table}) for name, table in tables.items()]


def moved(model):
    return Moved(model, some_tangents(model))


def change(model, **tables):
    """A tangent by its tables, and 0 elsewhere."""
    return dataclasses.replace(tb.Tangent.zero(model), **tables)


# ---------------------------------------------------------------- what a case is


@dataclasses.dataclass
class V:
    """A valid problem: proven bounds hold an independent reference's balls, and float64's errors
    are within theirs; with more to be said of the proof by `truth`."""

    problem: Callable
    truth: Callable = lambda proof: None
    bounded: bool = True
    bits: int = BITS

    def check(self):
        proof = compared(self.problem(), bounded=self.bounded, bits=self.bits)
        with flint.ctx.workprec(BITS):
            self.truth(proof)


@dataclasses.dataclass
class E:
    """What must raise, and in which words."""

    act: Callable
    message: str
    error: type[Exception] = ValueError

    def check(self):
        with pytest.raises(self.error, match=f"^{re.escape(self.message)}"):
            self.act()


@dataclasses.dataclass
class D:
    """A documented choice."""

    check: Callable


def proven(truth=lambda proof: None, *, make=build, bounded=True, bits=BITS, **changes):
    """The case of valid tables, changed a little."""
    return V(lambda: moved(make(**changes)), truth, bounded, bits)


def refused(message, **changes):
    """The case of tables, changed to what is no model."""
    return E(lambda: build(**changes), message)


def enclosed(problem):
    return tb.enclose(problem, problem.theta)


def compared(problem, **how):
    """The enclosure, once it was compared."""
    proof = enclosed(problem)
    compare(problem, bounded_result(problem), proof, **how)
    return proof


def bounded_result(problem):
    """The default's numbers, with all the bounds that there are."""
    try:
        return tb.hypergradient(problem, problem.theta, accuracy=tb.Bounded())
    except tb.CertificationError as error:
        return error.best


def compare(problem, result, proof, *, bounded=True, bits=BITS):
    """Enclosures and bounds against balls of the slow reference."""
    bounds = result.accuracy.bounds or error_bounds(problem, problem.theta, result)
    reference = Reference(result.model, result.response.value, bits=bits)

    def columns(name, n_rows):
        stacked = [np.ravel(getattr(t, name)) for t in proof.tangents]
        return np.array(stacked).reshape(len(stacked), n_rows).T

    model = result.model
    gradient = reference.gradient(
        columns("follower_reward", model.available.size),
        columns("leader_reward", model.available.size),
        columns("transition", model.transition.nnz),
        columns("initial", model.n_states),
    )
    pairs = sorted(reference.policy)

    def of_pairs(table):
        return [table[pair] for pair in pairs]

    policy, influence = (
        tb.Interval(np.array(of_pairs(x.lower)), np.array(of_pairs(x.upper)))
        for x in (proof.policy, proof.influence)
    )
    measures, errors = result.sensitivities, bounds.sensitivities
    rows = (
        (proof.objective, [reference.objective], result.objective, bounds.objective),
        (proof.gradient, gradient, result.gradient, bounds.gradient),
        (proof.value, reference.value, result.response.value, bounds.value),
        (policy, of_pairs(reference.policy), of_pairs(result.response.policy), bounds.policy),
        (
            influence,
            of_pairs(reference.influence),
            of_pairs(measures.follower_reward),
            errors.follower_reward,
        ),
        (proof.leader_value, reference.leader_value, result.evaluation.value, bounds.leader_value),
        (proof.occupancy, reference.occupancy, result.evaluation.occupancy, bounds.occupancy),
    )
    for interval, numbers, stored, bound in rows:
        if np.ndim(bound) == 2:
            bound = of_pairs(bound)
        for k, ball in enumerate(numbers):
            assert holds(interval, ball, k)
            assert off(np.ravel(stored)[k], ball) <= np.ravel(bound)[k]
            assert not bounded or np.isfinite(np.ravel(bound)[k])
    for interval in (proof.objective, proof.gradient):  # what was asked for was reached
        size = np.abs([interval.lower, interval.upper]).max(initial=0.0)
        assert np.max(interval.radius, initial=0.0) <= max(1e-12 * size, 2 * SMALLEST)


def holds(interval, ball, k=0):
    """Say whether an exact number, known within a tiny ball, may be in the interval."""
    lower, upper = (float(np.ravel(end)[k]) for end in (interval.lower, interval.upper))
    with flint.ctx.workprec(BITS):
        # a wide ball, or none, would be in any interval
        assert ball.rad() <= max(1e-20 * ball.abs_upper(), arb(1e-60))
        return bool(not ball < arb(lower) and not ball > arb(upper))


def assert_exactly(interval, number):
    np.testing.assert_array_equal(interval.lower, np.broadcast_to(number, np.shape(interval.lower)))
    np.testing.assert_array_equal(interval.upper, interval.lower)


# ---------------------------------------------------------------- discounts


def soft_maximum(reward, beta):
    return arb(beta) * sum((arb(r) / arb(beta)).exp() for r in reward).log()


def values_without_future(proof):
    for s, reward in enumerate(proof.model.follower_reward.tolist()):
        assert holds(proof.value, soft_maximum(reward, proof.model.temperature), s)


def leader_values_without_future(proof):
    earned = proof.model.leader_reward
    lower, upper = ((end * earned).sum(axis=1) for end in (proof.policy.lower, proof.policy.upper))
    rounded = 1e-14
    assert proof.leader_value.overlaps(tb.Interval(lower - rounded, upper + rounded))
    assert_exactly(proof.occupancy, [0.5, 0.5])


DISCOUNT_0 = {
    "follower": proven(values_without_future, follower_discount=0.0),
    "leader": proven(leader_values_without_future, leader_discount=0.0),
    "both": proven(
        lambda proof: (values_without_future(proof), leader_values_without_future(proof)),
        follower_discount=0.0,
        leader_discount=0.0,
    ),
}

ALMOST = 1 - 2.0**-53


def rows_that_gain_what_sums_lose():
    """Rows of sum 1 in float64, and 1 + 3 * 2^-54 in truth."""
    row = [0.5, 0.5, 1.5 * 2.0**-54, 1.5 * 2.0**-54]
    return build(
        transition=[[row]] * 4,
        follower_reward=np.zeros((4, 1)),
        leader_reward=np.zeros((4, 1)),
        initial=[1.0, 0.0, 0.0, 0.0],
        follower_discount=ALMOST,
    )


DISCOUNT_NEXT_TO_1 = {
    "0.9999": proven(follower_discount=0.9999, leader_discount=0.9999),
    "0.9999 and cold": proven(follower_discount=0.9999, leader_discount=0.9999, temperature=1e-4),
    "1 - 2^-53": proven(follower_discount=ALMOST, leader_discount=ALMOST, bounded=False, bits=1400),
    **{
        f"1 - 2^-53 and larger rows, {name}": refused(
            f"{name} times the largest row sum of transition is 1.0",
            transition=KERNEL * (1 + 1e-12),
            **{name: ALMOST},
        )
        for name in ("follower_discount", "leader_discount")
    },
    "rows that round to 1": E(
        lambda: tb.enclose(Moved(rows_that_gain_what_sums_lose(), []), []),
        "follower_discount times the largest row sum of transition, added up exactly, is not below",
    ),
}


def two_steps(**changes):
    """A state, another, and the end."""
    kernel = np.zeros((2, 2, 2))
    kernel[0, :, 1] = 1.0
    ends = [[0.0, 0.0], [1.0, 1.0]]
    return build(transition=kernel, termination=ends, initial=[1.0, 0.0], **changes)


def that_of_discount_1(proof):
    """V_F of two steps without a discount, by hand; a discount of 1 - 2^-53 is no further off."""
    beta, last, first = 0.5, FOLLOWER[1], FOLLOWER[0]
    later = beta * np.log(np.exp(last / beta).sum())
    value = beta * np.log(np.exp((first + later) / beta).sum())
    np.testing.assert_allclose(proof.value.centre, [value, later], rtol=1e-14)


# Refused, although play without loops has a value: a discount next to 1 is as good there.
FOLLOWER_DISCOUNT_1 = {
    "1": refused("follower_discount is 1.0, not in [0, 1)", follower_discount=1.0),
    "1, no loops": E(
        lambda: two_steps(follower_discount=1.0), "follower_discount is 1.0, not in [0, 1)"
    ),
    "next to 1, no loops": proven(
        that_of_discount_1, make=two_steps, follower_discount=ALMOST, bounded=False
    ),
}


def leaving(leak):
    """A state that each action leaves for good with this probability; it pays 1."""
    return one_state(
        transition=np.full((1, 3, 1), 1.0 - leak),
        termination=np.full((1, 3), leak),
        leader=(1.0, 1.0, 1.0),
        leader_discount=1.0,
    )


def as_many_steps(leak):
    """J is the expected number of steps: 1 / (1 - p) for the p that is stored."""

    def truth(proof):
        steps = 1 / (1 - flint.arb(1.0 - leak))
        assert holds(proof.objective, steps)

    return truth


LEADER_DISCOUNT_1 = {
    "ends": proven(
        transition=0.75 * KERNEL, termination=np.full((2, 2), 0.25), leader_discount=1.0
    ),
    "ends at once": proven(make=two_steps, leader_discount=1.0),
    "a leak of 1e-3": proven(as_many_steps(1e-3), make=leaving, leak=1e-3),
    "a leak of 1e-15": proven(
        as_many_steps(1e-15), make=leaving, leak=1e-15, bounded=False, bits=2 * BITS
    ),
    "never ends": refused(
        "leader_discount is 1, and from state 0 the episode never ends", leader_discount=1.0
    ),
    "one state never ends": refused(
        "leader_discount is 1, and from state 1 the episode never ends",
        transition=[KERNEL[0] * 0.5, np.eye(2)[[1, 1]]],
        termination=[[0.5, 0.5], [0.0, 0.0]],
        leader_discount=1.0,
    ),
    "a loop that gains": E(
        lambda: tb.enclose(
            moved(
                one_state(
                    (0.0,), (1.0,), transition=[[[1.0 + 2.0**-52]]], termination=[[1e-12]],
                    leader_discount=1.0,
                )
            ),
            np.zeros(4),
        ),
        "what the leader earns has no end",
    ),
}  # fmt: skip


def not_that_of_swapped_discounts(proof):
    model = proof.model
    leader, follower = model.follower_discount, model.leader_discount
    other = model.replace(follower_discount=follower, leader_discount=leader)
    swapped = enclosed(moved(other))
    assert not proof.objective.overlaps(swapped.objective)
    assert not proof.value.overlaps(swapped.value)
    assert not proof.gradient.overlaps(swapped.gradient)


DIFFERENT_DISCOUNTS = {
    f"{follower} and {leader}": proven(
        not_that_of_swapped_discounts, follower_discount=follower, leader_discount=leader
    )
    for follower, leader in ((0.0, 0.9), (0.9, 0.0), (0.5, 0.99), (0.9999, 0.3))
}

# ---------------------------------------------------------------- temperatures, rewards, actions

TEMPERATURE = {f"{beta:g}": proven(temperature=beta) for beta in (1e-6, 1e-2, 1e6, 1e150)}
TEMPERATURE["1e+300"] = proven(
    lambda proof: bandit_closed_form(proof), make=one_state, temperature=1e300, bits=1400
)
# float64's bounds are infinite here, or as good as that; the reference needs the digits
TEMPERATURE |= {
    f"{beta:g}": proven(
        lambda proof: (bandit_closed_form(proof), infinity_is_explained(proof)),
        make=one_state,
        temperature=beta,
        bounded=False,
        bits=1400,
    )
    for beta in (1e-300, 2.3e-308)
}
TEMPERATURE |= {
    f"{beta}": refused(
        f"temperature is {float(beta)}, not a positive finite number", temperature=beta
    )
    for beta in (0, -1.0, np.nan, np.inf)
}


def infinity_is_explained(proof):
    problem = moved(proof.model)
    result = tb.hypergradient(problem, problem.theta)
    bounds = error_bounds(problem, problem.theta, result)
    # what nothing depends on may be unknown
    useless = 1e100 < bounds.gradient.max() < np.inf
    assert useless or bounds.vacuous == "the residuals overflow, or are too large to say anything"


REWARDS = {
    f"{scale:g}": proven(follower_reward=FOLLOWER * scale, leader_reward=LEADER * scale)
    for scale in (1e8, -1e8, 1e-8)
}
REWARDS |= {
    "1e8, cold": proven(follower_reward=FOLLOWER * 1e8, temperature=1e-6),
    "mixed": proven(
        follower_reward=[[1e8, 1e8 + 1e-8], [-1e8, 1e-8]], leader_reward=[[1e-8, -1e8], [1e8, 0.0]]
    ),
}
REWARDS |= {
    f"{name} {bad}": refused(
        f"{name}[1, 0] is {bad}, not a finite number", **{name: [[0.0, 1.0], [bad, 0.0]]}
    )
    for name, bad in (
        ("follower_reward", np.inf),
        ("follower_reward", np.nan),
        ("leader_reward", np.inf),
        ("leader_reward", -np.inf),
        ("leader_reward", np.nan),
    )
}

FORBIDDEN = np.array([[0.0, -np.inf], [0.125, -0.1875]])


class Junk(Moved):
    """Whose pushforward holds junk at pairs that are not available."""

    def __init__(self, model, tangents, junk):
        super().__init__(model, tangents)
        stored = model.available.ravel()[model.entry_row]
        self._junk = [
            dataclasses.replace(
                t,
                follower_reward=np.where(model.available, t.follower_reward, junk),
                leader_reward=np.where(model.available, t.leader_reward, junk),
                transition=np.where(stored, t.transition, junk),
            )
            for t in tangents
        ]

    def pushforward(self, theta, direction):
        (k,) = np.flatnonzero(direction)
        return self._junk[k]


def with_junk(junk):
    """Junk in every table and derivative, at an action that is forbidden."""
    kernel, leader = KERNEL.copy(), LEADER.copy()
    kernel[0, 1] = leader[0, 1] = junk
    stored = sp.coo_array(np.ones((4, 2)))  # so that the junk is stored, and has derivatives
    stored.data[:] = kernel.ravel()
    model = build(follower_reward=FORBIDDEN, transition=stored, leader_reward=leader)
    return Junk(model, some_tangents(model), junk)


def forbidden_is_nothing(proof):
    assert proof.policy.upper[0, 1] == proof.influence.upper[0, 1] == 0.0
    assert proof.influence.lower[0, 1] == 0.0
    clean = enclosed(with_junk(1.0))
    assert proof.objective.lower == clean.objective.lower
    assert (proof.gradient.upper == clean.gradient.upper).all()
    mask = tb.enclose(Moved(build(available=np.isfinite(FORBIDDEN)), []), [])
    assert mask.objective.upper == clean.objective.upper


FORBIDDEN_ACTIONS = {
    f"{junk} there": V(lambda junk=junk: with_junk(junk), forbidden_is_nothing)
    for junk in (1.0, np.nan, np.inf, -np.inf, -3.0)
}
FORBIDDEN_ACTIONS |= {
    "all of a state": refused(
        "state 1 has no available action", follower_reward=[[0.0, 0.0], [-np.inf, -np.inf]]
    ),
    "all by mask and reward": refused(
        "state 0 has no available action",
        follower_reward=FORBIDDEN,
        available=[[False, True], [True, True]],
    ),
    "all after a leader's action": E(
        lambda: tb.MarkovGame(
            **tables(
                transition=np.ones((1, 2, 2, 1)),
                follower_reward=[[[0.0, 0.0], [-np.inf, -np.inf]]],
                leader_reward=np.zeros((1, 2, 2)),
                initial=[1.0],
            )
        ),
        "state 0 after the leader's action 1 has no available follower action",
    ),
}


def bandit_closed_form(proof):
    """S = 1: V = beta lse(r/beta)/(1-gF), pi = softmax(r/beta), and what follows."""
    model = proof.model
    beta, remaining = arb(model.temperature), 1 - arb(model.leader_discount)
    reward, leader = (x[0].tolist() for x in (model.follower_reward, model.leader_reward))
    best = max(reward)
    weights = [((arb(r) - arb(best)) / beta).exp() for r in reward]
    total = sum(weights)
    value = (arb(best) + beta * total.log()) / (1 - arb(model.follower_discount))
    policy = [w / total for w in weights]
    mean = sum(p * arb(r) for p, r in zip(policy, leader, strict=True))
    slopes = [p * (arb(r) - mean) / (beta * remaining) for p, r in zip(policy, leader, strict=True)]
    assert holds(proof.value, value)
    assert holds(proof.objective, mean / remaining)
    for b in range(len(reward)):
        assert holds(proof.policy, policy[b], b)
        assert holds(proof.influence, slopes[b], b)


alone = partial(proven, make=one_state)
ONE_STATE = {
    "three actions": alone(bandit_closed_form),
    "discounts": alone(bandit_closed_form, follower_discount=0.9999, leader_discount=0.99),
    "cold": alone(bandit_closed_form, temperature=1e-3),
    "one action": alone(reward=(3.0,), leader=(2.0,)),
    "that ends": alone(transition=np.zeros((1, 3, 1)), termination=np.ones((1, 3))),
}


def nothing_to_influence(proof):
    assert_exactly(proof.policy, 1.0)
    assert_exactly(proof.influence, 0.0)
    assert_exactly(proof.indirect, 0.0)
    assert holds(proof.objective, arb(4) / 3)  # 1 + 1/4 + 1/16 + ...


def stays_exact(proof):
    """2 / (1 - 1/2): no rounding on the way."""
    assert_exactly(proof.influence, 0.0)
    assert_exactly(proof.objective, 4.0)
    assert (proof.gradient.radius == 0.0).all()


ONE_ACTION = {
    "two states": proven(
        nothing_to_influence,
        transition=[[[0.0, 1.0]], [[1.0, 0.0]]],
        follower_reward=[[1.0], [2.0]],
        leader_reward=[[1.0], [0.0]],
        initial=[1.0, 0.0],
        leader_discount=0.5,
    ),
    "exact": alone(stays_exact, reward=(3.0,), leader=(2.0,), leader_discount=0.5),
    "the only one available": proven(
        lambda proof: assert_exactly(proof.indirect, 0.0), available=[[True, False], [False, True]]
    ),
}

# ---------------------------------------------------------------- graphs


def unreachable_changes_nothing(proof):
    assert proof.occupancy.lower[2] == proof.occupancy.upper[2] == 0.0
    assert (proof.influence.lower[2] == 0.0).all()
    assert (proof.influence.upper[2] == 0.0).all()
    few = tb.enclose(Moved(build(), []), [])
    assert proof.objective.overlaps(few.objective)


def absorbing(**changes):
    """A start, and two states that play never leaves; with rewards in them."""
    kernel = np.zeros((3, 2, 3))
    kernel[0] = [[0.0, 0.75, 0.25], [0.0, 0.25, 0.75]]
    kernel[1, :, 1] = kernel[2, :, 2] = 1.0
    return build(
        **{
            "transition": kernel,
            "follower_reward": [[0.0, 0.25], [0.5, 0.0], [0.125, 0.125]],
            "leader_reward": [[0.0, 0.0], [1.0, 0.0], [0.0, 3.0]],
            "initial": [1.0, 0.0, 0.0],
            **changes,
        }
    )


GRAPHS = {
    "unreachable": proven(
        unreachable_changes_nothing,
        transition=[
            *np.pad(KERNEL, ((0, 0), (0, 0), (0, 1))),
            [[0.25, 0.25, 0.5], [0.0, 0.0, 1.0]],
        ],
        follower_reward=[*FOLLOWER, [5.0, 6.0]],
        leader_reward=[*LEADER, [3.0, 4.0]],
        initial=[0.5, 0.5, 0.0],
    ),
    "several absorbing classes": proven(make=absorbing),
    "several absorbing classes at 0.9999": proven(
        make=absorbing, follower_discount=0.9999, leader_discount=0.9999
    ),
    "absorbing start": proven(
        lambda proof: assert_exactly(tb.Interval(*np.delete(ends(proof.occupancy), 1, 1)), 0.0),
        make=absorbing,
        initial=[0.0, 1.0, 0.0],
    ),
    "a state without start": proven(initial=[1.0, 0.0]),
}


def ends(interval):
    return np.array([interval.lower, interval.upper])


def cycle(n, discount, **changes):
    """States in a ring; the second action goes round the other way."""
    kernel = np.zeros((n, 2, n))
    for s in range(n):
        kernel[s, 0, (s + 1) % n] = kernel[s, 1, (s - 1) % n] = 1.0
    rng = np.random.default_rng(n)
    return build(
        transition=kernel,
        follower_reward=rng.integers(-8, 8, (n, 2)) / 8,
        leader_reward=rng.integers(-8, 8, (n, 2)) / 8,
        initial=np.eye(n)[0],
        follower_discount=discount,
        leader_discount=discount,
        **changes,
    )


def ring_closed_form(proof):
    """V(0) = (r0 + g r1 + g^2 r2) / (1 - g^3), with one action."""
    g = arb(proof.model.follower_discount)
    r = [arb(x) for x in proof.model.follower_reward[:, 0].tolist()]
    assert holds(proof.value, (r[0] + g * r[1] + g**2 * r[2]) / (1 - g**3))


DETERMINISTIC = {
    f"ring of {n} at {discount:g}": proven(make=cycle, n=n, discount=discount)
    for n in (2, 3, 4)
    for discount in (0.9, 0.9999)
}
DETERMINISTIC |= {
    "one way round": proven(
        ring_closed_form, make=cycle, n=3, discount=0.99, available=[[True, False]] * 3
    )
}

# ---------------------------------------------------------------- ties and relations


def slope_of_a_tie(proof):
    """pi = 1/2 whatever the temperature, and dJ/dr = 1 / (4 beta (1 - gamma_L))."""
    assert proof.policy.contains(0.5)
    assert holds(proof.influence, 1 / (2 * arb(proof.model.temperature)), 1)


TIED = {"reward": (0.25, 0.25), "leader": (0.0, 1.0), "leader_discount": 0.5}
TIES = {
    f"temperature {beta:g}": alone(
        slope_of_a_tie, **TIED, temperature=beta, bounded=beta > 1e-200, bits=1400
    )
    for beta in (1.0, 1e-3, 1e-9, 1e-15, 1e-300)
}
TIES |= {
    "two states": proven(
        transition=[[[0.5, 0.5]] * 2] * 2,
        follower_reward=[[0.5, 0.5], [0.125, 0.125]],
        temperature=1e-6,
    )
}


def base():
    return enclosed(moved(build()))


def hopeless_is_removed(proof):
    """A third action so bad is as good as none."""
    plain = base()
    for name in ("objective", "value", "leader_value", "occupancy"):
        assert getattr(proof, name).overlaps(getattr(plain, name)), name
    assert (proof.policy.upper[:, 2] == SMALLEST).all()


SCALE = 2.0**20


def scaling_scales_to_the_last_bit(proof):
    """V(c r, c beta) = c V, and so does J; what has no unit stays."""
    plain, large = (tb.hypergradient(moved(m), np.zeros(4)) for m in (build(), proof.model))
    for small, big in (
        (plain.response.value, large.response.value),
        (plain.evaluation.value, large.evaluation.value),
        (plain.objective, large.objective),
    ):
        np.testing.assert_array_equal(SCALE * np.asarray(small), big)
    np.testing.assert_array_equal(plain.response.policy, large.response.policy)
    np.testing.assert_array_equal(
        plain.sensitivities.follower_reward, large.sensitivities.follower_reward
    )
    assert tb.Interval(*(SCALE * ends(base().objective))).overlaps(proof.objective)


METAMORPHIC = {
    "an action of reward -1e8": proven(
        hopeless_is_removed,
        transition=np.concatenate((KERNEL, KERNEL[:, :1]), axis=1),
        follower_reward=np.column_stack((FOLLOWER, [-1e8, -1e8])),
        leader_reward=np.column_stack((LEADER, [1.0, 1.0])),
    ),
    "scaling by 2^20": proven(
        scaling_scales_to_the_last_bit,
        follower_reward=FOLLOWER * SCALE,
        leader_reward=LEADER * SCALE,
        temperature=SCALE / 2,
    ),
}  # many more, at random: tests/test_metamorphic.py


def rare_is_not_never(proof):
    assert (proof.policy.lower[0, 1], proof.policy.upper[0, 1]) == (0.0, SMALLEST)
    assert proof.occupancy.upper[1] == SMALLEST


UNDERFLOW = {
    "exp(-1e14)": proven(  # of an action to a state that nothing else leads to
        rare_is_not_never,
        transition=[[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]],
        follower_reward=[[0.0, -1e8], [0.0, 0.0]],
        initial=[1.0, 0.0],
        temperature=1e-6,
    ),
    "exp(-745)": proven(follower_reward=[[0.0, -745.0], [0.0, 0.0]]),
    "exp(-2000)": proven(follower_reward=FOLLOWER * 4000.0),
}

# ---------------------------------------------------------------- distributions


def slightly_larger_rows():
    stored = KERNEL * (1.0 + 1e-12)
    assert (stored.sum(axis=2) > 1.0).all()
    return stored


def stored_rows_are_certified():
    proofs = {}
    for name, kernel in (
        ("stored", slightly_larger_rows()),
        ("normalised", tb.normalised(slightly_larger_rows())),
        ("intended", KERNEL),
    ):
        proofs[name] = compared(moved(build(transition=kernel, follower_discount=0.9999)))
    assert not proofs["stored"].objective.overlaps(proofs["intended"].objective)
    assert not proofs["stored"].value.overlaps(proofs["normalised"].value)
    gap = proofs["stored"].value.centre - proofs["normalised"].value.centre
    np.testing.assert_allclose(gap, 1e-12 * proofs["stored"].value.centre / 1e-4, rtol=1e-2)
    assert proofs["normalised"].model.largest_mass == 1.0


NEARLY_1 = {
    "as stored, or normalised": D(stored_rows_are_certified),
    "beyond the tolerance": refused(
        "transition[0, 0] sums to 1.000000002, not 1", transition=KERNEL * (1 + 2e-9)
    ),
    "beyond it, to be normalised": E(
        lambda: tb.normalised(KERNEL * 0.9), "table[0, 0] sums to 0.9, not 1"
    ),
}


def leaking(amount, *, row=0, **changes):
    """A parameter that adds probability to the first entry of a row."""
    model = build(**changes)
    kernel = np.zeros(model.transition.nnz)
    kernel[model.transition.indptr[row]] = amount
    return Moved(model, [change(model, transition=kernel)])


def small_leaks_count_as_stored():
    proof = compared(leaking(1e-7))
    assert proof.leak == 1e-7
    assert proof.gradient.lower != 0.0
    assert base().leak == 0.0


def what_may_end_may_leak():
    """A parameter that moves termination as well: its row is free to lose mass."""
    ends = np.array([[0.5, 0.0], [0.0, 0.0]])
    problem = leaking(0.25, termination=ends, transition=KERNEL * (1.0 - ends)[..., None])
    assert compared(problem).leak == 0.0


def wrong_start():
    model = build()
    return Moved(model, [change(model, initial=np.array([0.25, 0.25]))])


DERIVATIVES = {
    "a small leak": D(small_leaks_count_as_stored),
    "rows that may end": D(what_may_end_may_leak),
    "enclosed": E(
        lambda: tb.enclose(leaking(0.25, row=3), [0.0]),
        "pushforward(...).transition[1, 1] sums to 0.25, not 0, as the derivative of a",
    ),
    "forward mode": E(
        lambda: tb.forward_gradient(leaking(-0.25), [0.0]),
        "pushforward(...).transition[0, 0] sums to -0.25, not 0",
    ),
    "checked": E(
        lambda: tb.check_gradient(leaking(0.25), [0.0]),
        "pushforward(...).transition[0, 0] sums to 0.25, not 0",
    ),
    "start": E(lambda: tb.enclose(wrong_start(), [0.0]), "pushforward(...).initial sums to 0.5"),
    "by pullback": E(
        lambda: tb.enclose(PulledBack(leaking(0.25, row=3)), [0.0]),
        "pullback(...) of entries of.transition[1, 1] sums to 0.25, not 0",
    ),
}

# ---------------------------------------------------------------- input


BAD_PROBABILITIES = {
    f"{bad} {form.__name__}": refused(
        f"transition[1, 0, 1] is {bad}, not a probability",
        transition=form(put(KERNEL, (1, 0, 1), bad)),
    )
    for bad in (-0.5, np.nan, np.inf, -np.inf)
    for form in (np.array, lambda kernel: sp.csr_array(kernel.reshape(4, 2)))
}
BAD_PROBABILITIES |= {
    "start": refused("initial[0] is nan, not a probability", initial=[np.nan, 1.0])
}

# Many more: tests/test_model.py.
NO_TABLES = {
    f"{name} {case}": refused(f"{name} {words}", **{name: bad})
    for name, case, bad, words in (
        ("transition", "of one action", np.full((2, 1, 2), 0.5), "has shape (2, 1, 2), not (2, 2"),
        ("transition", "0-d", 1.0, "has shape (), not (2, 2, 2)"),
        ("follower_reward", "0-d", 0.0, "has shape (), not (1+, 1+)"),
        ("leader_reward", "to broadcast", LEADER[:1], "has shape (1, 2), not (2, 2)"),
        ("follower_discount", "of states", [0.5, 0.5], "has shape (2,); one number is needed"),
    )
}


def small_floats_are_read_exactly():
    """A float32 0.1 is another number than 0.1."""
    reward = np.full((2, 2), 0.1, dtype=np.float32)
    model = build(follower_reward=reward)
    assert Fraction(model.follower_reward[0, 0]) == Fraction(13421773, 2**27)
    assert model.follower_reward[0, 0] != 0.1
    for dtype in (np.float32, np.float16):
        thirds = np.full((3, 1, 3), 1 / 3, dtype=dtype)
        small = build(
            transition=thirds,
            follower_reward=np.zeros((3, 1)),
            leader_reward=np.eye(3)[:, :1],
            initial=thirds[0, 0],
        )
        compared(moved(small))
        assert small.row_mass[0, 0] != 1.0


def whole_numbers_are_read_exactly():
    model = build(
        transition=np.eye(2, dtype=np.int8)[[[0, 1], [1, 0]]],
        follower_reward=[[1, 2], [3, 2**53]],
        leader_reward=np.array([[1, 0], [0, 2]], dtype=np.uint16),
        initial=[1, 0],
        temperature=2,
    )
    assert model.follower_reward.dtype == np.float64
    assert model.follower_reward[1, 1] == 2**53


NUMBER_TYPES = {
    "float32 and float16": D(small_floats_are_read_exactly),
    "whole numbers": D(whole_numbers_are_read_exactly),
    "whole numbers that float64 skips": refused(
        "follower_reward[1, 1] is 9007199254740993, beyond the whole numbers that float64 holds",
        follower_reward=[[1, 0], [0, 2**53 + 1]],
    ),
    "float32 rows read as float64": refused(
        "transition[0, 0] sums to",
        transition=np.float64(np.float32([[[0.1, 0.9]] * 2] * 2)) * [1, 1 + 1e-7],
    ),
}


def on_disk(array):
    """An array of a read-only file."""
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file.name, array)
        return np.load(file.name, mmap_mode="r")


def frozen(array):
    copy = np.array(array)
    copy.setflags(write=False)
    return copy


class Subclass(np.ndarray):
    """An array that is not quite one."""


LAYOUTS = {
    "not contiguous": lambda x: np.repeat(x, 2, axis=0)[::2],
    "Fortran": np.asfortranarray,
    "negative strides": lambda x: x[::-1].copy()[::-1],
    "read-only": frozen,
    "file": on_disk,
    "subclass": lambda x: x.view(Subclass),
    "matrix": lambda x: x.view(np.matrix) if x.ndim == 2 else x,
    "big-endian": lambda x: x.astype(">f8"),
    "little-endian": lambda x: x.astype("<f8"),
    "masked nowhere": np.ma.masked_array,
    "broadcast": lambda x: np.broadcast_to(x, x.shape),
}


def laid_out(layout):
    """A problem of the same numbers in another layout, which stays as it is."""
    change = LAYOUTS[layout]
    arrays = {
        name: change(np.array(table, dtype=np.float64))
        for name, table in tables(termination=np.zeros((2, 2))).items()
        if np.ndim(table)
    }
    before = {name: np.array(table) for name, table in arrays.items()}
    model = build(**arrays)
    for name, table in before.items():
        np.testing.assert_array_equal(arrays[name], table)
        assert not np.shares_memory(np.asarray(getattr(model, name, None)), arrays[name])
    return moved(model)


def same_bits(proof):
    plain = base()
    for name in ("objective", "gradient", "value", "influence"):
        np.testing.assert_array_equal(ends(getattr(proof, name)), ends(getattr(plain, name)))
    results = [tb.hypergradient(moved(m), np.zeros(4)) for m in (build(), proof.model)]
    np.testing.assert_array_equal(*[r.gradient for r in results])


ARRAY_LAYOUTS = {layout: V(lambda layout=layout: laid_out(layout), same_bits) for layout in LAYOUTS}
ARRAY_LAYOUTS["masked"] = refused(
    "leader_reward[1, 1] is masked", leader_reward=np.ma.masked_equal(LEADER, 2.0)
)


def csr(data, indices, indptr, index_type=np.int32):
    return sp.csr_array(
        (np.array(data), np.array(indices, index_type), np.array(indptr, index_type)), shape=(4, 2)
    )


def untouched(matrix):
    """A problem of a sparse kernel, which stays as it is."""
    parts = [part for part in ("data", "indices", "indptr", "row", "col") if hasattr(matrix, part)]
    before = {part: np.array(getattr(matrix, part)) for part in parts}
    model = build(transition=matrix)
    problem = moved(model)
    tb.hypergradient(problem, problem.theta)
    for part, array in before.items():
        np.testing.assert_array_equal(getattr(matrix, part), array)
    assert model.transition.has_canonical_format
    return problem


def flat():
    return KERNEL.reshape(4, 2)


# the base kernel: [1, 1] in two halves, its columns in the wrong order
HALVES = [0.75, 0.25, 0.25, 0.75, 0.5, 0.5, 0.5, 0.125, 0.375]
COLUMNS = [0, 1, 0, 1, 1, 0, 1, 0, 1]
ROW_STARTS = [0, 2, 4, 6, 9]

SPARSE = {
    "CSR": lambda: sp.csr_array(flat()),
    "duplicates, unsorted": lambda: csr(HALVES, COLUMNS, ROW_STARTS),
    "64-bit indices": lambda: csr(HALVES, COLUMNS, ROW_STARTS, np.int64),
    "explicit zeros among duplicates": lambda: csr([*HALVES, 0.0], [*COLUMNS, 0], [0, 2, 4, 6, 10]),
    "CSC": lambda: sp.csc_array(flat()),
    "COO": lambda: sp.coo_array(csr(HALVES, COLUMNS, ROW_STARTS)),
    "old matrix": lambda: sp.csr_matrix(csr(HALVES, COLUMNS, ROW_STARTS)),
}


def zeros_are_kept(proof):
    assert proof.model.transition.nnz == 8
    assert (proof.model.transition.data == 0.0).sum() == 4


SPARSE_LAYOUTS = {
    name: V(lambda make=make: untouched(make()), same_bits) for name, make in SPARSE.items()
}
NEGATIVE = csr([1.5, -1.0, 0.5, *HALVES[2:]], [0, 0, 1, *COLUMNS[2:]], [0, 3, 5, 7, 10])
SPARSE_LAYOUTS |= {
    "explicit zeros": V(
        lambda: untouched(csr([1.0, 0.0] * 4, [0, 1] * 4, [0, 2, 4, 6, 8])), zeros_are_kept
    ),
    "a negative among duplicates": refused(
        "transition[0, 0, 0] is -1.0, not a probability", transition=NEGATIVE
    ),
    "the same to be normalised": E(
        lambda: tb.normalised(NEGATIVE), "table[0, 0] is -1.0, not a probability"
    ),
}

MANY = 60_000


def triples_beyond_32_bits_keep_their_places(proof):
    """In a hidden game of 60,000 states, a ring, the last (s, a, s') has the number 3.6e9."""
    following = (np.arange(2 * MANY) // 2 + 1) % MANY
    game = tb.MarkovGame(
        **tables(
            transition=sp.csr_array(
                (np.ones(2 * MANY), following.astype(np.int32), np.arange(2 * MANY + 1)),
                shape=(2 * MANY, MANY),
            ),
            follower_reward=np.zeros((MANY, 2, 1)),
            leader_reward=np.zeros((MANY, 2, 1)),
            initial=np.eye(1, MANY)[0],
            follower_observes_leader=False,
        )
    )
    model = game.model(np.zeros(game.n_parameters))
    np.testing.assert_array_equal(model.transition.indices, (np.arange(MANY) + 1) % MANY)
    np.testing.assert_array_equal(model.entry_state, np.arange(MANY))


def with_room_for_eight(act):
    """As if 32 bits numbered eight entries only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tabular_bilevel.finite.model.MAX_ENTRIES", 8)
        patch.setattr("tabular_bilevel.problems.markov_game.MAX_ENTRIES", 8)
        act()


def astray(index):
    matrix = sp.csr_array(flat())
    matrix.indices = matrix.indices.copy()
    matrix.indices[0] = index
    return matrix


INDEX_OVERFLOW = {
    "60,000 squared": proven(triples_beyond_32_bits_keep_their_places),
    "negative": refused("transition is no sound sparse matrix: negative", transition=astray(-1)),
    "out of range": refused("transition is no sound sparse matrix: axis 1", transition=astray(2)),
    "too many entries": E(
        lambda: with_room_for_eight(lambda: absorbing(transition=np.full((3, 2, 3), 1 / 3))),
        "transition has 18 entries, more than 8",
    ),
    "too many entries of a game": E(
        lambda: with_room_for_eight(
            lambda: tb.MarkovGame(
                **tables(
                    transition=np.full((2, 2, 1, 2), 0.5),
                    follower_reward=np.zeros((2, 2, 1)),
                    leader_reward=np.zeros((2, 2, 1)),
                )
            )
        ),
        "transition has 8 entries, each of which splits over 2 leader actions; that is more than 8",
    ),
}


def is_empty(proof):
    assert proof.gradient.lower.shape == (0,)
    result = tb.hypergradient(Moved(build(), []), [])
    assert result.gradient.shape == (0,)


NO_PARAMETERS = {
    "with a pushforward": V(lambda: Moved(build(), []), is_empty),
    "without": V(lambda: PulledBack(Moved(build(), [])), is_empty),
}


def start_is_linear_as_stored():
    """J is linear in the start, which is used as stored within the tolerance."""
    start = np.array([0.5, 0.5 + 5e-10])
    proof = tb.enclose(Moved(build(initial=start), []), [])
    with flint.ctx.workprec(BITS):
        reference = Reference(proof.model, proof.value.centre)
        total = sum(arb(p) * v for p, v in zip(start.tolist(), reference.leader_value, strict=True))
        assert holds(proof.objective, total)


INITIAL = {
    "as stored": D(start_is_linear_as_stored),
    "another measure": refused("initial sums to 2, not 1", initial=[0.5, 1.5]),
    "nothing": refused("initial sums to 0, not 1", initial=[0.0, 0.0]),
    "signed": refused("initial[1] is -0.5, not a probability", initial=[1.5, -0.5]),
}

# ---------------------------------------------------------------- environments


def garnet():
    return moved(tb.problems.garnet().model(np.zeros(6)))


def elsewhere(proof):
    """Another process, with other threads and kernels of BLAS: the same certified bits."""
    code = (
        "from test_hard_cases import error_bounds, garnet, tb\n"
        "problem = garnet()\n"
        "proof, plain = (f(problem, problem.theta) for f in (tb.enclose, tb.hypergradient))\n"
        "bounds = error_bounds(problem, problem.theta, plain)\n"
        "for x in (proof.gradient.lower, plain.gradient, bounds.gradient):\n"
        "    print(*(number.hex() for number in x.tolist()))\n"
    )
    settings = {"OPENBLAS_NUM_THREADS": "2", "OPENBLAS_CORETYPE": "Prescott"}
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | settings | path,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = ran.stdout.splitlines()
    lower, plain, bounds = ([float.fromhex(x) for x in line.split()] for line in lines)
    np.testing.assert_array_equal(lower, proof.gradient.lower)
    gaps = np.abs(np.array(plain) - proof.gradient.centre)
    assert (gaps <= np.array(bounds) + proof.gradient.radius).all()


def side_by_side(proof):
    """Eight threads find the same bits."""
    problem = garnet()

    def work(_):
        return tb.enclose(problem, problem.theta), tb.hypergradient(problem, problem.theta)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(work, range(8)))
    for other, result in found:
        np.testing.assert_array_equal(ends(other.gradient), ends(proof.gradient))
        np.testing.assert_array_equal(result.gradient, found[0][1].gradient)


ROUND_DOWN, ROUND_UP, ROUND_TO_ZERO = 0x2000, 0x4000, 0x6000
FLUSH_TO_ZERO, DENORMALS_ARE_ZERO = 0x8000, 0x0040


@contextmanager
def control_word(bits):
    """Set bits of this thread's SSE control word, the last of glibc's fenv_t."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        pytest.skip("the control word is known for x86-64 Linux")
    library = ctypes.CDLL(None)
    kept, changed = (ctypes.c_uint32 * 8)(), (ctypes.c_uint32 * 8)()
    library.fegetenv(kept)
    changed[:] = kept[:]
    changed[7] |= bits
    library.fesetenv(changed)
    try:
        yield
    finally:
        library.fesetenv(kept)


def under(bits, act):
    problem = moved(build())
    result = tb.hypergradient(problem, problem.theta)
    with control_word(bits):
        act(problem, result)


def prove(problem, result):
    enclosed(problem)


def bound(problem, result):
    error_bounds(problem, problem.theta, result)


ARITHMETIC = {
    f"{name}, {act.__name__}": E(
        lambda bits=bits, act=act: under(bits, act), message, tb.CertificationError
    )
    for name, bits, message in (
        ("flush to zero", FLUSH_TO_ZERO, "float64 numbers below 2.23e-308 are taken for 0"),
        ("denormals are zero", DENORMALS_ARE_ZERO, "float64 numbers below 2.23e-308 are taken"),
        ("upward", ROUND_UP, "float64 arithmetic in this thread does not round to nearest"),
        ("downward", ROUND_DOWN, "float64 arithmetic in this thread does not round to nearest"),
        ("to zero", ROUND_TO_ZERO, "float64 arithmetic in this thread does not round to nearest"),
    )
    for act in (prove, bound)
}


def interrupted():
    """Ctrl-C during a proof: it comes through, and the next proof is as good as ever."""

    def stop(*_):
        raise KeyboardInterrupt("stopped")

    before = flint.ctx.prec
    problem = moved(build())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(balls, "travel", stop)
        try:
            enclosed(problem)
        finally:
            patch.undo()
            assert flint.ctx.prec == before
            assert base().objective.overlaps(enclosed(problem).objective)


INTERRUPT = {"during a proof": E(interrupted, "stopped", KeyboardInterrupt)}


def capped():
    problem = moved(build(temperature=1e-3, leader_discount=0.99))
    try:
        tb.enclose(problem, problem.theta, tolerance=1e-15, max_precision=55)
    except tb.CertificationError as error:
        reference = Reference(problem.model(problem.theta), [0.0, 0.0])
        if holds(error.best.objective, reference.objective):
            raise


CAP = {
    "the best is attached": E(
        capped, "the relative tolerance 1e-15 was not reached with 55 bits", tb.CertificationError
    ),
    "nothing is proven": E(
        lambda: tb.enclose(moved(build(leader_discount=ALMOST)), np.zeros(4), max_precision=20),
        "the relative tolerance 1e-12 was not reached with 20 bits: nothing was proven",
        tb.CertificationError,
    ),
}

# ---------------------------------------------------------------- the table

# The rows, each with the kinds of cases that it needs.
CASES = {
    "discount 0": ("V", DISCOUNT_0),
    "discount next to 1": ("VE", DISCOUNT_NEXT_TO_1),
    "follower's discount 1": ("VE", FOLLOWER_DISCOUNT_1),
    "leader's discount 1": ("VE", LEADER_DISCOUNT_1),
    "different discounts": ("V", DIFFERENT_DISCOUNTS),
    "temperature": ("VE", TEMPERATURE),
    "rewards of all sizes": ("VE", REWARDS),
    "forbidden actions": ("VE", FORBIDDEN_ACTIONS),
    "one state": ("V", ONE_STATE),
    "one action": ("V", ONE_ACTION),
    "absorbing and unreachable states": ("V", GRAPHS),
    "deterministic and periodic": ("V", DETERMINISTIC),
    "ties": ("V", TIES),
    "metamorphic": ("V", METAMORPHIC),
    "underflow": ("V", UNDERFLOW),
    "rows of nearly 1": ("DE", NEARLY_1),
    "derivatives of rows": ("DE", DERIVATIVES),
    "no probabilities": ("E", BAD_PROBABILITIES),
    "no tables": ("E", NO_TABLES),
    "number types": ("DE", NUMBER_TYPES),
    "array layouts": ("VE", ARRAY_LAYOUTS),
    "sparse layouts": ("VE", SPARSE_LAYOUTS),
    "index overflow": ("VE", INDEX_OVERFLOW),
    "no parameters": ("V", NO_PARAMETERS),
    "initial measure": ("DE", INITIAL),
    "threads and kernels of BLAS": ("V", {"another process": V(garnet, elsewhere)}),
    "float64 arithmetic": ("E", ARITHMETIC),
    "processes and threads": ("V", {"eight threads": V(garnet, side_by_side)}),
    "interrupt": ("E", INTERRUPT),
    "precision cap": ("E", CAP),
}

TABLE = {
    f"{row}: {name}, {type(case).__name__}": case
    for row, (_, cases) in CASES.items()
    for name, case in cases.items()
}


@pytest.mark.parametrize("case", TABLE.values(), ids=TABLE)
def test_hard_case(case):
    case.check()


def test_every_row_has_its_cases():
    for row, (kinds, cases) in CASES.items():
        assert {type(case).__name__ for case in cases.values()} == set(kinds), row


# Controls: the ways in which a case fails.


def test_a_valid_case_notices_wrong_bounds(monkeypatch):
    problem, right = moved(build()), base()
    up = tb.Interval(right.gradient.upper + 1e-9, right.gradient.upper + 1.1e-9)
    monkeypatch.setattr(tb, "enclose", lambda *_: dataclasses.replace(right, gradient=up))
    with pytest.raises(AssertionError):
        V(lambda: problem).check()


def test_a_valid_case_notices_an_error_beyond_its_bound(monkeypatch):
    problem = moved(build())
    right = bounded_result(problem)
    wrong = dataclasses.replace(right, objective=right.objective + 1e-9)
    monkeypatch.setattr(tb, "hypergradient", lambda *_, **__: wrong)
    with pytest.raises(AssertionError):
        V(lambda: problem).check()


def test_a_refusal_must_happen_and_in_the_right_words():
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        E(build, "anything").check()
    with pytest.raises(AssertionError):
        E(lambda: build(initial=[1.0, 1.0]), "follower_reward").check()
