"""Bounds of linear-quadratic results hold: against many digits, and wherever roads disagree."""

import mpmath
import numpy as np
import pytest
from sizes import sizes
from systems import Moved, random_system

import tabular_bilevel as tb
from tabular_bilevel.certify.linear_quadratic import Ball, Decay, _road, radii
from tabular_bilevel.lq.model import MOVED

# After so many sweeps at a discount of 0.6 no more than 1e-31 is left.
DIGITS, SWEEPS, STEP = 45, 140, mpmath.mpf(10) ** -12


def exact_objective(tables, reward, discounts, steps):
    """Compute J with many digits, by sweeps: no formula but the definitions."""
    A, B, Q, R = (tables[name] for name in MOVED[:4])
    soon, later = discounts
    P = Q
    for _ in range(SWEEPS):
        S = R + soon * B.T * P * B
        K = mpmath.inverse(S) * (soon * B.T * P * A)
        C = A - B * K
        P = Q + K.T * R * K + soon * C.T * P * C
    spread = tables["temperature"] / 2 * mpmath.inverse(S)
    noise = tables["noise"] + B * spread * B.T
    X = tables["initial_covariance"] + tables["initial_mean"] * tables["initial_mean"].T
    total, weight = mpmath.mpf(0), mpmath.mpf(1)
    M, N, H, c = (reward[name] for name in ("state", "control", "cross", "constant"))
    by_state = M - H * K - K.T * H.T + K.T * N * K
    for _ in range(steps or SWEEPS):
        earned = trace(by_state * X) + trace(N * spread) + c
        total, X, weight = total + weight * earned, C * X * C.T + noise, weight * later
    return total


def trace(matrix):
    return sum(matrix[i, i] for i in range(matrix.rows))


def in_digits(array):
    array = np.asarray(array, dtype=float)
    return mpmath.mpf(float(array)) if array.ndim == 0 else mpmath.matrix(array.tolist())


def small_problem(seed, horizon=None):
    """Few states, and discounts that need few sweeps."""
    problem = next(
        found
        for later in range(seed, 1000, 30)
        if (found := Moved.random(later, n_parameters=2)).base.n_states <= 3
    )
    base = problem.base.replace(follower_discount=0.6, leader_discount=0.6)
    base = base.replace(dynamics=0.7 * base.dynamics, leader_horizon=horizon)
    return Moved(base, problem.tangents)


def exact_at(problem, along, step):
    model, reward = problem.base, problem.base.leader_reward
    with mpmath.workdps(DIGITS):
        tables = {
            name: in_digits(getattr(model, name)) + step * in_digits(getattr(along, name))
            for name in MOVED
        }
        numbers = {
            name: in_digits(getattr(reward, name)) + step * in_digits(along.leader_reward[name])
            for name in reward.moved
        }
        discounts = map(mpmath.mpf, (model.follower_discount, model.leader_discount))
        return exact_objective(tables, numbers, tuple(discounts), model.leader_horizon)


@sizes("seed", [3], [0, *range(4, 24)])
@pytest.mark.parametrize("horizon", [None, 1, 13])
def test_many_digits_lie_within_the_bounds(seed, horizon):
    problem = small_problem(seed, horizon)
    result = tb.hypergradient(problem, np.zeros(2), accuracy=tb.Bounded())
    assert result.accuracy.given.startswith("given the derivatives as pushforward returns them")
    with mpmath.workdps(DIGITS):
        known = exact_at(problem, problem.tangents[0], 0)
        slopes = [
            (exact_at(problem, t, STEP) - exact_at(problem, t, -STEP)) / (2 * STEP)
            for t in problem.tangents
        ]
        assert abs(known - result.objective) <= result.accuracy.objective
        off = [float(abs(x - y)) for x, y in zip(slopes, result.gradient, strict=True)]
    assert np.all(off <= result.accuracy.gradient)
    assert result.accuracy.objective < 1e-8 * abs(result.objective)
    assert result.accuracy.gradient.max() < 1e-5 * np.abs(result.gradient).max()


@pytest.mark.parametrize("error", [1e-9, 1e-6])
def test_bounds_are_of_the_exact_answer_whatever_value_is_given(error):
    """From a value that is off, they are wider, and hold; of numbers that are off, they say so."""
    problem, theta = small_problem(3), np.zeros(2)
    right = tb.hypergradient(problem, theta)
    model, value = right.model, right.response.value_matrix
    exact = right.accuracy.objective, right.accuracy.gradient.max()
    off = value + error * np.ones_like(value)
    wide = radii(problem, theta, model, off, right.objective, right.gradient)
    assert wide[0] > 10.0 * exact[0]
    # what is enclosed from there holds what is right
    enclosed, slopes = _road(model, model.leader_reward, off)
    assert abs(enclosed.mid[0, 0] - right.objective) <= enclosed.rad + exact[0]
    for name in MOVED:
        found = np.reshape(getattr(right.sensitivities, name), slopes[name].mid.shape)
        gap = np.linalg.norm(found - slopes[name].mid, 2)
        assert gap <= slopes[name].rad + 1e-9 * np.linalg.norm(found)
    told = radii(problem, theta, model, value, right.objective + error, right.gradient + error)
    assert error * 0.999 < told[0]
    assert error * 0.999 < told[1].min()


@pytest.mark.parametrize("seed", range(0, 200, 10))
def test_roads_disagree_within_the_bounds(seed):
    problem, theta = Moved.random(seed), np.zeros(3)
    result = tb.hypergradient(problem, theta)
    if not result.accuracy.proven:
        pytest.skip(result.accuracy.reason)
    for road in (tb.forward_gradient, tb.complex_step_gradient):
        assert np.all(np.abs(road(problem, theta) - result.gradient) <= result.accuracy.gradient)


def test_balls_hold_what_they_are_computed_from():
    """Draw matrices from balls, compute with them, and look whether the results are inside."""
    rng = np.random.default_rng(0)

    def drawn(ball):
        move = rng.normal(size=ball.mid.shape)
        return ball.mid + ball.rad * move / np.linalg.norm(move, 2)

    def inside(matrix, ball):
        return np.linalg.norm(matrix - ball.mid, 2) <= ball.rad

    tight = 0
    for _ in range(200):
        one, other = (Ball(rng.normal(size=(3, 3)), 0.02) for _ in range(2))
        square = Ball(one.mid @ one.mid.T + 3.0 * np.eye(3), 0.05)
        x, y, s = drawn(one), drawn(other), drawn(square)
        assert inside(x + y, one + other)
        assert inside(x - y, one - other)
        assert inside(x @ y, one @ other)
        assert inside(-0.3 * x.T, one.times(-0.3).T)
        assert inside((x + x.T) / 2.0, one.symmetric())
        assert inside(np.array([[np.vdot(x, y)]]), one.dot(other))
        assert inside(np.linalg.inv(s), square.inverse())
        product = one @ other
        tight += not inside(x @ y, Ball(product.mid, 0.2 * product.rad))
    assert tight > 20  # a fifth of the radius would not do


def test_decay_is_proven_or_refused():
    rng = np.random.default_rng(1)
    F = rng.normal(size=(4, 4))
    F *= 0.9 / np.abs(np.linalg.eigvals(F)).max()
    decay = Decay(Ball(F), 0.95)
    for _ in range(20):
        source = rng.normal(size=(4, 4))
        source = source + source.T
        found = decay.solve(Ball(source))
        step = found.mid - 0.95 * F @ found.mid @ F.T
        assert np.linalg.norm(source - step, 2) * decay.longest <= 10.0 * found.rad + 1e-12
        assert np.linalg.norm(found.mid, 2) <= decay.longest * np.linalg.norm(source, 2)
    with pytest.raises(tb.CertificationError, match="no decay is seen: powers of a matrix do not"):
        Decay(Ball(F), 1.3)
    with pytest.raises(tb.CertificationError, match="too near to one that the discount does not"):
        Decay(Ball(F, 0.5), 0.95)
    with pytest.raises(tb.CertificationError, match="too near to a singular one"):
        Ball(np.eye(2), 0.6).inverse()


def test_what_takes_long_is_bounded_on_request():
    base = random_system(0)
    n = 21
    big = base.replace(
        **{name: 0.5 * np.eye(n) for name in ("dynamics", "state_cost", "noise")},
        control=np.eye(n)[:, :1],
        control_cost=[[1.0]],
        initial_mean=np.ones(n),
        initial_covariance=np.eye(n),
        leader_reward=tb.QuadraticReward(state=-np.eye(n), control=[[-1.0]]),
    )

    class Warmer:
        def model(self, theta):
            return big.replace(temperature=1.0 + theta[0])

        def pullback(self, theta, sensitivities):
            return np.array([sensitivities.temperature])

        def pushforward(self, theta, direction):
            return tb.lq.Tangent(temperature=direction[0])

    assert "more than 20 states" in tb.hypergradient(Warmer(), [0.0]).accuracy.reason
    asked = tb.hypergradient(Warmer(), [0.0], accuracy=tb.Bounded())
    assert asked.accuracy.gradient[0] < 1e-8 * abs(asked.gradient[0])
    building, theta = tb.problems.building_thermal_control(), np.zeros(8)
    assert "of a finite leader_horizon" in tb.hypergradient(building, theta).accuracy.reason
    asked = tb.hypergradient(building, theta, accuracy=tb.Bounded())
    assert asked.accuracy.gradient.max() < 0.02
    with pytest.raises(tb.CertificationError, match="Enclosures are for tables"):
        tb.hypergradient(building, theta, accuracy=tb.Enclosed())
