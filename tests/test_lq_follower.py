"""The follower's answer: by other programs, by brute force, and by what must not change it."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
from sizes import sizes
from systems import random_system

import tabular_bilevel as tb
from tabular_bilevel.lq.follower import bellman, closed_loop
from tabular_bilevel.lq.linear import is_stable, lyapunov, powers, spectral_radius

# scipy's solver is good to about 1e-10 of the largest entry on the worst of these.
SCIPY = 1e-8

ROUNDING = 1e-10


@sizes("seed", range(20), range(20, 200))
def test_scipy_solves_the_same_equation(seed):
    model = random_system(seed)
    root = np.sqrt(model.follower_discount)
    known = scipy.linalg.solve_discrete_are(
        root * model.dynamics, root * model.control, model.state_cost, model.control_cost
    )
    found = tb.solve_follower(model)
    size = np.abs(known).max()
    assert np.abs(found.value_matrix - known).max() < SCIPY * size
    assert found.residual < 1e-13 * (size + 1.0)
    assert is_stable(root * closed_loop(model, found.gain))


def iterated(model, sweeps):
    """Look that many steps ahead, one at a time."""
    value = np.zeros((model.n_states,) * 2)
    for _ in range(sweeps):
        value = value + bellman(model, value)[2]
    return value


def test_looking_ahead_long_enough_is_the_same():
    model = random_system(1).replace(follower_discount=0.8)
    known = tb.solve_follower(model).value_matrix
    assert np.abs(iterated(model, 200) - known).max() < 1e-12 * np.abs(known).max()
    assert np.abs(iterated(model, 3) - known).max() > 1e-6 * np.abs(known).max()


def test_the_soft_bellman_equation_holds_with_its_constant():
    """By quadrature over u, at a few states: nothing is taken from the closed form but V."""
    model = random_system(8).replace(follower_discount=0.9, temperature=0.3)
    model = model.replace(control=model.control[:, :1], control_cost=[[0.7]])
    model = model.replace(
        leader_reward=tb.QuadraticReward(state=np.zeros_like(model.dynamics), control=[[0.0]])
    )
    answer = tb.solve_follower(model)
    P, v = answer.value_matrix, answer.value_constant
    rng = np.random.default_rng(0)
    for x in rng.normal(size=(3, model.n_states)):
        spread = np.sqrt(answer.covariance[0, 0])
        u = (-answer.gain @ x)[0] + spread * np.linspace(-12.0, 12.0, 2001)
        ahead = model.dynamics @ x + u[:, None] * model.control[:, 0]
        cost = x @ model.state_cost @ x + 0.7 * u**2
        later = np.einsum("ti,ij,tj->t", ahead, P, ahead) + np.vdot(P, model.noise) + v
        action_value = -cost - 0.9 * later
        top = action_value.max()
        mass = np.exp((action_value - top) / 0.3).sum() * (u[1] - u[0])
        assert -(x @ P @ x + v) == pytest.approx(top + 0.3 * np.log(mass), rel=1e-12)


def test_nothing_counts_after_a_discount_of_0():
    model = random_system(3).replace(follower_discount=0.0)
    answer = tb.solve_follower(model)
    np.testing.assert_allclose(answer.value_matrix, model.state_cost)
    assert not answer.gain.any()
    np.testing.assert_allclose(
        answer.covariance, model.temperature / 2.0 * np.linalg.inv(model.control_cost)
    )


def test_a_start_is_taken_where_it_stabilises():
    model = random_system(0).replace(follower_discount=0.99)
    known = tb.solve_follower(model)
    near = tb.solve_follower(model, start=1.01 * known.value_matrix)
    assert near.method == "Newton's method"
    np.testing.assert_allclose(near.value_matrix, known.value_matrix, rtol=ROUNDING)
    unit = np.eye(model.n_states)
    growing = model.replace(
        dynamics=2.0 * unit,
        control=unit,
        control_cost=unit,
        leader_reward=tb.QuadraticReward(state=unit, control=unit),
    )
    far = tb.solve_follower(growing, start=0.0 * unit)
    assert far.method == "doubling and Newton's method"
    for wild in (1e300, -1e300, 1e160):  # of which products overflow
        again = tb.solve_follower(model, start=wild * unit)
        np.testing.assert_allclose(again.value_matrix, known.value_matrix, rtol=ROUNDING)
    with pytest.raises(ValueError, match="start is not symmetric"):
        tb.solve_follower(random_system(0), start=np.triu(np.ones((model.n_states,) * 2)))


def test_a_solver_of_ones_own():
    class Stopped:
        def solve(self, model, *, start=None):
            answer = tb.solve_follower(model)
            return replace(answer, gain=0.5 * answer.gain)

    model = random_system(2)
    stopped, whole = (tb.solve_follower(model, solver=each).gain for each in (Stopped(), None))
    assert (2.0 * stopped == whole).all()
    with pytest.raises(ValueError, match="which has no method solve"):
        tb.solve_follower(model, solver=3)


@pytest.mark.parametrize("seed", range(4))
def test_costs_and_temperature_scale_together(seed):
    model = random_system(seed)
    names = ("state_cost", "control_cost", "temperature")
    scaled = model.replace(**{name: 7.0 * getattr(model, name) for name in names})
    one, other = tb.solve_follower(model), tb.solve_follower(scaled)
    np.testing.assert_allclose(other.gain, one.gain, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(other.covariance, one.covariance, rtol=1e-8)


@pytest.mark.parametrize("seed", range(4))
def test_other_coordinates_are_the_same_system(seed):
    model = random_system(seed, bump=True, horizon=9)
    turn = 2.0 * np.eye(model.n_states)
    turn += np.random.default_rng(seed).normal(size=turn.shape)
    back = np.linalg.inv(turn)
    reward = model.leader_reward
    moved = model.replace(
        dynamics=turn @ model.dynamics @ back,
        control=turn @ model.control,
        state_cost=back.T @ model.state_cost @ back,
        noise=turn @ model.noise @ turn.T,
        initial_mean=turn @ model.initial_mean,
        initial_covariance=turn @ model.initial_covariance @ turn.T,
        leader_reward=replace(
            reward, centre=turn @ reward.centre, precision=back.T @ reward.precision @ back
        ),
    )
    one, other = tb.solve_follower(model), tb.solve_follower(moved)
    np.testing.assert_allclose(other.gain @ turn, one.gain, rtol=1e-6, atol=1e-9)
    known = tb.evaluate_leader(model, one).objective
    assert tb.evaluate_leader(moved, other).objective == pytest.approx(known, rel=1e-8)


def test_sums_of_powers():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(5, 5))
    matrix *= 0.99 / spectral_radius(matrix)
    source = rng.normal(size=(5, 5))
    source = source + source.T
    known = scipy.linalg.solve_discrete_lyapunov(matrix, source)
    found = lyapunov(matrix, source)
    assert np.abs(found - known).max() < 1e-11 * np.abs(known).max()
    for k, power in enumerate(powers(matrix, 11)):
        np.testing.assert_allclose(power, np.linalg.matrix_power(matrix, k), atol=1e-13)
    with pytest.raises(tb.ConvergenceError, match=r"its spectral radius is 1\.98"):
        lyapunov(2.0 * matrix, source)
    with pytest.raises(tb.ConvergenceError, match="a matrix is not finite"):
        lyapunov(np.inf * matrix, source)


def test_what_float64_cannot_solve_is_said():
    model = random_system(0).replace(
        dynamics=[[4.0, 1.0], [0.0, 3.0]],
        control=[[1e9], [1e9]],
        **dict.fromkeys(("state_cost", "noise", "initial_covariance"), np.eye(2)),
        control_cost=[[1.0]],
        initial_mean=np.zeros(2),
        follower_discount=0.99,
        leader_reward=tb.QuadraticReward(state=np.eye(2), control=[[0.0]]),
    )
    with pytest.raises(tb.ConvergenceError, match=r"not solved in float64: .*\(Singular matrix\)"):
        tb.solve_follower(model)
    assert tb.solve_follower(model.replace(control=[[1e3], [1e3]])).residual < 1e-9


@pytest.mark.parametrize("size", [0.0, 0.5, 0.999, 1.0, 1.001, 30.0])
def test_stable_is_below_1(size):
    jordan = size * np.eye(3) + np.diag([100.0, 100.0], 1)
    assert is_stable(jordan) == (size < 1.0)
