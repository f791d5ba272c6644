"""JAX differentiates the objective; problems written in it: tests/test_adapter_tables.py."""

import itertools

import numpy as np
import pytest
from sizes import sizes
from small import Counted, assert_refused, refusal
from written import EXACT, GARNET, THETA, in_jax

import tabular_bilevel as tb

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402

from tabular_bilevel.adapters.jax import JaxProblem, objective  # noqa: E402

# Two float64 ways to the same number; float32 keeps seven digits.
ROUNDING = 1e-12
SINGLE = 1e-5


@pytest.fixture
def double():
    """Switch JAX to double precision, in all of its threads."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


PROBLEMS = {name: getattr(in_jax(), name) for name in ("whole", "entries")}


def test_double_precision_stays_inside():
    tb.hypergradient(PROBLEMS["whole"], THETA)
    assert jnp.zeros(1).dtype == jnp.float32


def test_bad_tables_are_named():
    for name, table, words in (
        ("transition", lambda: jnp.full((6, 3, 6), 0.2), "[0, 0] sums to 1.2, not 1"),
        ("follower_reward", lambda: jnp.full((6, 3), -jnp.inf), "[0, 0] is -inf, not a finite"),
        ("initial", lambda: jnp.ones(6), " sums to 6, not 1"),
    ):
        problem = JaxProblem(GARNET.base, lambda theta, n=name, t=table: {n: t()}, 4)
        assert name + words in refusal(problem.model, THETA)


# --- the objective


def both(problem, horizon=None):
    return jax.value_and_grad(lambda theta: objective(problem, theta, horizon=horizon))


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_its_derivative_is_the_hypergradient(transform):
    value, gradient = transform(both(GARNET))(jnp.array(THETA))
    assert value.dtype == gradient.dtype == jnp.float32
    np.testing.assert_allclose(value, EXACT.objective, rtol=SINGLE)
    np.testing.assert_allclose(gradient, EXACT.gradient, rtol=SINGLE)


@pytest.mark.usefixtures("double")
@sizes(
    ("name", "transform"),
    [("whole", jax.jit)],
    [("whole", lambda f: f), *itertools.product(["features", "entries"], [lambda f: f, jax.jit])],
)
def test_its_derivative_in_double_precision(name, transform):
    problem = PROBLEMS.get(name, GARNET)
    differentiate = transform(both(problem))
    value, gradient = differentiate(jnp.array(THETA))
    assert value.dtype == gradient.dtype == jnp.float64
    np.testing.assert_allclose(value, EXACT.objective, rtol=ROUNDING)
    np.testing.assert_allclose(gradient, EXACT.gradient, rtol=ROUNDING)
    value, gradient = differentiate(jnp.array(THETA, dtype=jnp.float32))
    assert value.dtype == gradient.dtype == jnp.float32
    np.testing.assert_allclose(gradient, EXACT.gradient, rtol=SINGLE)


@pytest.mark.usefixtures("double")
@sizes("name", ["features"], ["whole"])
def test_many_thetas_at_once(name):
    thetas = np.stack([THETA, -THETA, 0 * THETA])
    values, gradients = jax.jit(jax.vmap(both(PROBLEMS.get(name, GARNET))))(thetas)
    for k, theta in enumerate(thetas):
        exact = tb.hypergradient(GARNET, theta)
        np.testing.assert_allclose(values[k], exact.objective, rtol=ROUNDING)
        np.testing.assert_allclose(gradients[k], exact.gradient, rtol=ROUNDING)


@pytest.mark.usefixtures("double")
@sizes("name", ["features"], ["whole"])
def test_forward_mode_and_the_chain_rule(name):
    direction = np.array([1.0, 2.0, 0.0, -1.0])

    def along(t):
        return 3.0 * objective(PROBLEMS.get(name, GARNET), t * direction + THETA) ** 2

    _, slope = jax.jvp(along, (0.0,), (1.0,))
    wanted = 6.0 * EXACT.objective * (EXACT.gradient @ direction)
    np.testing.assert_allclose(slope, wanted, rtol=ROUNDING)
    np.testing.assert_allclose(jax.grad(along)(0.0), wanted, rtol=ROUNDING)


@pytest.mark.usefixtures("double")
@sizes("name", ["features"], ["whole"])
def test_a_finite_horizon_of_the_objective(name):
    value, gradient = both(PROBLEMS.get(name, GARNET), horizon=3)(jnp.array(THETA))
    exact = tb.hypergradient(GARNET, THETA, horizon=3)
    np.testing.assert_allclose(value, exact.objective, rtol=ROUNDING)
    np.testing.assert_allclose(gradient, exact.gradient, rtol=ROUNDING)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_value_and_gradient_cost_one_solve(transform):
    problem = Counted(GARNET)
    jax.block_until_ready(transform(both(problem))(jnp.array(THETA)))
    assert problem.models == 1


def test_integers_and_short_floats_are_taken_as_numbers():
    assert objective(GARNET, [0, 0, 0, 0]).dtype == jnp.float32
    value, gradient = both(GARNET)(jnp.array(THETA, dtype=jnp.bfloat16))
    assert value.dtype == gradient.dtype == jnp.bfloat16


@pytest.mark.usefixtures("double")
@sizes(
    ("name", "twice"),
    [("features", jax.hessian)],
    [("whole", jax.hessian), ("features", lambda f: jax.jacrev(jax.grad(f)))],
)
def test_there_is_no_second_derivative(name, twice):
    with pytest.raises(NotImplementedError, match="objective has no second derivatives"):
        twice(lambda theta: objective(PROBLEMS.get(name, GARNET), theta))(jnp.array(THETA))


@pytest.mark.usefixtures("double")
def test_a_theta_that_does_not_fit_is_refused():
    whole = PROBLEMS["whole"]
    assert_refused(r"shape \(2, 4\), not that of a vector", objective, GARNET, jnp.zeros((2, 4)))
    assert_refused(r"shape \(3,\), not that of .* length 4", objective, whole, jnp.zeros(3))


def test_the_horizon_and_the_precision_are_checked_at_the_door():
    message = "horizon is 0, not a positive whole number"
    assert_refused(message, objective, GARNET, jnp.zeros(4), horizon=0)
    message = "the objective of a JaxProblem needs double precision"
    assert_refused(message, objective, PROBLEMS["whole"], jnp.zeros(4))


def test_errors_of_the_package_come_through():
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"ValueError: theta\[1\] is nan, not a"):
        objective(GARNET, jnp.array([0.0, jnp.nan, 0.0, 0.0])).block_until_ready()


def test_an_ascent_in_jax():
    step = jax.jit(lambda theta: theta + 0.1 * jax.grad(objective, argnums=1)(GARNET, theta))
    theta = jnp.array(THETA)
    for _ in range(5):
        theta = step(theta)
    assert objective(GARNET, theta) > EXACT.objective
