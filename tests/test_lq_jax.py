"""Linear-quadratic models and JAX: tables written in it, and all of it written in it."""

import numpy as np
import pytest

import tabular_bilevel as tb

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402

from tabular_bilevel.adapters.jax import JaxProblem, objective  # noqa: E402
from tabular_bilevel.problems.building import DESIGN_COST, SLOPES  # noqa: E402

BUILDING = tb.problems.building_thermal_control()
THETA = np.random.default_rng(0).normal(size=8)
EXACT = tb.hypergradient(BUILDING, THETA)
CLOSED = BUILDING.model(np.full(8, -800.0)).dynamics  # nothing insulated, no air passes

# Two float64 ways to the same number; 300 sweeps of the Riccati equation end at rounding.
ROUNDING, SWEEPS = 1e-9, 300


@pytest.fixture(autouse=True)
def _double():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def tables(theta):
    design = jax.nn.sigmoid(theta)
    return {
        "dynamics": CLOSED + jnp.tensordot(design, SLOPES, axes=1),
        "leader_reward.constant": -DESIGN_COST * design @ design,
    }


@pytest.mark.slow
def test_tables_may_be_written_in_jax():
    problem = JaxProblem(BUILDING.base, tables, 8)
    mine = tb.hypergradient(problem, THETA)
    assert mine.objective == pytest.approx(EXACT.objective, rel=1e-12)
    np.testing.assert_allclose(mine.gradient, EXACT.gradient, rtol=1e-9, atol=1e-9)
    assert tb.check_gradient(problem, THETA).passed
    for function in (lambda x: objective(problem, x), lambda x: objective(BUILDING, x)):
        value, gradient = jax.value_and_grad(function)(jnp.asarray(THETA))
        assert float(value) == pytest.approx(EXACT.objective, rel=1e-12)
        np.testing.assert_allclose(gradient, EXACT.gradient, rtol=1e-9, atol=1e-9)


def test_what_theta_cannot_move_is_said():
    problem = JaxProblem(BUILDING.base, lambda theta: {"transition": theta}, 8)
    with pytest.raises(ValueError, match=r"has transition; theta can move dynamics, .*constant"):
        problem.model(THETA)


def written_in_jax(theta):
    """Compute J by sweeps of the Riccati equation and the laws of 100 steps."""
    base, moved = BUILDING.base, tables(theta)
    A, B, R = moved["dynamics"], base.control, base.control_cost
    discount, reward = base.follower_discount, base.leader_reward

    def best(P):
        S = R + discount * B.T @ P @ B
        return S, jnp.linalg.solve(S, discount * B.T @ P @ A)

    def sweep(P, _):
        _, K = best(P)
        C = A - B @ K
        return base.state_cost + K.T @ R @ K + discount * C.T @ P @ C, None

    P, _ = jax.lax.scan(sweep, jnp.asarray(base.state_cost), length=SWEEPS)
    S, K = best(P)
    C, spread = A - B @ K, base.temperature / 2.0 * jnp.linalg.inv(S)
    by_state = reward.state + K.T @ reward.control @ K
    always = jnp.trace(reward.control @ spread) + moved["leader_reward.constant"]

    def step(carry, _):
        X, weight = carry
        earned = weight * (jnp.trace(by_state @ X) + always)
        moved_on = C @ X @ C.T + base.noise + B @ spread @ B.T
        return (moved_on, base.leader_discount * weight), earned

    _, earned = jax.lax.scan(step, (jnp.asarray(base.initial_covariance), 1.0), length=100)
    return earned.sum()


@pytest.mark.slow  # the benchmark of such models compares with JAX too
def test_jax_alone_comes_to_the_same():
    value, gradient = jax.jit(jax.value_and_grad(written_in_jax))(jnp.asarray(THETA))
    assert float(value) == pytest.approx(EXACT.objective, rel=ROUNDING)
    size = np.abs(EXACT.gradient).max()
    assert np.abs(gradient - EXACT.gradient).max() < ROUNDING * size
    assert np.abs(gradient - EXACT.direct).max() > 1e-2 * size
