"""JAX differentiates the objective, and problems written in JAX are differentiated by it."""

import numpy as np
import pytest
from references.strangers import returned_by_pushforward
from sizes import pairs, sizes
from small import FORBIDDEN, Counted

import tabular_bilevel as tb

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402

from tabular_bilevel.adapters.jax import JaxProblem, objective  # noqa: E402

# Two float64 ways to the same number; float32 keeps seven digits.
ROUNDING = 1e-12
SINGLE = 1e-5

GARNET = tb.problems.garnet(n_states=6, n_actions=3, n_parameters=4, rng=2)
THETA = np.array([0.3, -0.2, 0.1, 0.4])
EXACT = tb.hypergradient(GARNET, THETA)


@pytest.fixture
def double():
    """Switch JAX to double precision, in all of its threads."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def features_in_jax(whole):
    """Write the garnet's tables in JAX, its kernel whole or entry by entry."""
    base, kernel, row = GARNET.base, GARNET.base.transition, GARNET.base.entry_row
    shape = base.follower_reward.shape
    F = {
        name: getattr(GARNET, name).toarray()
        for name in ("transition", "follower_reward", "leader_reward", "initial")
    }
    dense = np.zeros((*kernel.shape, F["transition"].shape[1]))
    dense[row, kernel.indices] = F["transition"]
    same_row = (row[:, None] == row).astype(float)

    def tables(theta):
        if whole:
            weights = kernel.toarray() * jnp.exp(dense @ theta)
            transition = weights / weights.sum(axis=1, keepdims=True)
            transition = transition.reshape(*shape, kernel.shape[1])
        else:
            weights = kernel.data * jnp.exp(F["transition"] @ theta)
            transition = weights / (same_row @ weights)
        return {
            "transition": transition,
            "follower_reward": base.follower_reward + (F["follower_reward"] @ theta).reshape(shape),
            "leader_reward": base.leader_reward + (F["leader_reward"] @ theta).reshape(shape),
            "initial": jax.nn.softmax(jnp.log(base.initial) + F["initial"] @ theta),
        }

    return tables


PROBLEMS = {
    "whole": JaxProblem(GARNET.base, features_in_jax(True), 4),
    "entries": JaxProblem(GARNET.base, features_in_jax(False), 4),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_problem_in_jax_is_the_one_in_features(name):
    problem = PROBLEMS[name]
    mine, model = problem.model(THETA), GARNET.model(THETA)
    tables = [
        (mine.transition.toarray(), model.transition.toarray()),
        (mine.follower_reward, model.follower_reward),
        (mine.leader_reward, model.leader_reward),
        (mine.initial, model.initial),
        (tb.hypergradient(problem, THETA).gradient, EXACT.gradient),
    ]
    for ours, theirs in tables:
        np.testing.assert_allclose(ours, theirs, rtol=ROUNDING, atol=ROUNDING)
    report = tb.check_gradient(problem, THETA)
    assert report.passed, str(report)
    assert len(report.comparisons) == 3


def test_double_precision_stays_inside():
    tb.hypergradient(PROBLEMS["whole"], THETA)
    assert jnp.zeros(1).dtype == jnp.float32


@sizes("stopped", ["transition", "initial"], ["follower_reward", "leader_reward"])
def test_a_gradient_that_is_stopped_on_the_way_fails_the_check(stopped):
    def tables(theta):
        found = PROBLEMS["whole"].tables(theta)
        return {**found, stopped: jax.lax.stop_gradient(found[stopped])}

    report = tb.check_gradient(JaxProblem(GARNET.base, tables, 4), THETA)
    assert not report.passed
    assert "differences: DIFFERS" in str(report)


def test_ascent_and_estimators_take_it():
    problem = PROBLEMS["whole"]
    estimator = tb.BoltzmannCovariance(tb.Interaction(tb.Survivors(100)))
    assert tb.check_estimator(estimator, problem, THETA, n_replicates=100, rng=0).passed
    *_, last = tb.ascend(problem, THETA, tb.ExactGradient(), tb.Adam(0.1), rng=0, n_iterations=3)
    assert last.objective > EXACT.objective


def forbidden_and_zero(theta):
    """A kernel with an entry that is 0 at theta[0] = 0, and a forbidden action."""
    moving = jnp.zeros((2, 2, 2)).at[0, 0].set(jnp.array([-1.0, 1.0]) * theta[0])
    fixed = jnp.array([[[1.0, 0.0], [0.5, 0.5]], [[0.3, 0.7], [jnp.nan, jnp.nan]]])
    reward = jnp.array([[0.0, 0.2], [1.0, -jnp.inf]])
    return {
        "transition": fixed + moving,
        "follower_reward": reward + theta[1] * jnp.array([[1.0, 0.0], [0.0, 2.0]]),
    }


def test_a_zero_that_moves_has_a_derivative_and_a_forbidden_action_none():
    problem = JaxProblem(FORBIDDEN, forbidden_and_zero, 2)
    at_zero = tb.hypergradient(problem, [0.0, 0.1]).gradient
    nearby = tb.hypergradient(problem, [1e-9, 0.1]).gradient
    assert abs(at_zero[0]) > 0.01
    np.testing.assert_allclose(at_zero, nearby, rtol=1e-6)
    assert tb.check_gradient(problem, [0.2, 0.1]).passed


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (lambda theta: {}, r"tables\(theta\) has no tables"),
        (lambda theta: [theta], r"tables\(theta\) is a list, not a dictionary"),
        (lambda theta: {"termination": theta}, "has termination; theta can move transition"),
        (
            lambda theta: {"follower_reward": theta.astype(jnp.float32)},
            r"tables\(theta\)\['follower_reward'\] has dtype float32, not float64",
        ),
        (lambda theta: {"leader_reward": theta}, r"leader_reward has shape \(4,\), not \(6, 3\)"),
        (
            lambda theta: {"transition": theta},
            r"transition has shape \(4,\), neither \(6, 3, 6\) nor that of the 54 entries",
        ),
        (
            lambda theta: {"transition": jnp.full((6, 3, 6), 0.2)},
            r"transition\[0, 0\] sums to 1\.2, not 1",
        ),
        (
            lambda theta: {"follower_reward": jnp.full((6, 3), -jnp.inf)},
            r"follower_reward\[0, 0\] is -inf, not a finite number",
        ),
        (lambda theta: {"initial": jnp.ones(6)}, "initial sums to 6, not 1"),
    ],
)
def test_bad_tables_are_named(tables, message):
    with pytest.raises(ValueError, match=message):
        JaxProblem(GARNET.base, tables, 4).model(THETA)


def test_theta_must_fit():
    problem = PROBLEMS["whole"]
    with pytest.raises(ValueError, match="not that of a vector of length 4"):
        tb.hypergradient(problem, [0.0] * 5)
    with pytest.raises(ValueError, match="direction has shape"):
        problem.pushforward(THETA, [0.0] * 5)
    with pytest.raises(ValueError, match="n_parameters is 0, not a positive whole number"):
        JaxProblem(GARNET.base, problem.tables, 0)


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
@sizes(("name", "transform"), *pairs(["features", *PROBLEMS], [lambda f: f, jax.jit]))
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
@pytest.mark.parametrize("name", ["features", "whole"])
def test_many_thetas_at_once(name):
    thetas = np.stack([THETA, -THETA, 0 * THETA])
    values, gradients = jax.jit(jax.vmap(both(PROBLEMS.get(name, GARNET))))(thetas)
    for k, theta in enumerate(thetas):
        exact = tb.hypergradient(GARNET, theta)
        np.testing.assert_allclose(values[k], exact.objective, rtol=ROUNDING)
        np.testing.assert_allclose(gradients[k], exact.gradient, rtol=ROUNDING)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", ["features", "whole"])
def test_forward_mode_and_the_chain_rule(name):
    direction = np.array([1.0, 2.0, 0.0, -1.0])

    def along(t):
        return 3.0 * objective(PROBLEMS.get(name, GARNET), t * direction + THETA) ** 2

    _, slope = jax.jvp(along, (0.0,), (1.0,))
    wanted = 6.0 * EXACT.objective * (EXACT.gradient @ direction)
    np.testing.assert_allclose(slope, wanted, rtol=ROUNDING)
    np.testing.assert_allclose(jax.grad(along)(0.0), wanted, rtol=ROUNDING)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", ["features", "whole"])
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
@pytest.mark.parametrize("twice", [jax.hessian, lambda f: jax.jacrev(jax.grad(f))])
@pytest.mark.parametrize("name", ["features", "whole"])
def test_there_is_no_second_derivative(name, twice):
    with pytest.raises(NotImplementedError, match="objective has no second derivatives"):
        twice(lambda theta: objective(PROBLEMS.get(name, GARNET), theta))(jnp.array(THETA))


@pytest.mark.usefixtures("double")
def test_a_theta_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"theta has shape \(2, 4\), not that of a vector"):
        objective(GARNET, jnp.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"shape \(3,\), not that of .* length 4"):
        objective(PROBLEMS["whole"], jnp.zeros(3))


def test_the_horizon_is_checked_at_the_door():
    with pytest.raises(ValueError, match="horizon is 0, not a positive whole number"):
        objective(GARNET, jnp.zeros(4), horizon=0)


def test_a_problem_in_jax_wants_double_precision():
    with pytest.raises(ValueError, match="the objective of a JaxProblem needs double precision"):
        objective(PROBLEMS["whole"], jnp.zeros(4))


def test_errors_of_the_package_come_through():
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"ValueError: theta\[1\] is nan, not a"):
        objective(GARNET, jnp.array([0.0, jnp.nan, 0.0, 0.0])).block_until_ready()


def test_an_ascent_in_jax():
    step = jax.jit(lambda theta: theta + 0.1 * jax.grad(objective, argnums=1)(GARNET, theta))
    theta = jnp.array(THETA)
    for _ in range(5):
        theta = step(theta)
    assert objective(GARNET, theta) > EXACT.objective


@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("name", PROBLEMS)
def test_bounds_hold_given_what_jax_returns(name, scale):
    reference = pytest.importorskip("ball_reference")
    problem = PROBLEMS[name]
    for theta in scale * np.random.default_rng(0).normal(size=(5, 4)):
        result = tb.hypergradient(problem, theta, accuracy=tb.Bounded(1e-7))
        assert result.accuracy.given.startswith("given the derivatives as pushforward returns them")
        exact = reference.Reference(result.model, result.response.value)
        truth = exact.gradient(*returned_by_pushforward(problem, theta, result.model))
        for stored, ball, bound in zip(
            result.gradient, truth, result.accuracy.gradient, strict=True
        ):
            assert reference.off(stored, ball) <= bound


def bent(scale, where=slice(None)):
    """An identity whose derivative JAX is told to multiply, in some places."""

    @jax.custom_vjp
    def identity(table):
        return table

    def backward(_, slopes):
        return (slopes.at[where].multiply(scale),)

    identity.defvjp(lambda table: (table, None), backward)
    return identity


INFLUENCE = np.abs(EXACT.sensitivities.follower_reward)
BUSIEST = np.unravel_index(INFLUENCE.argmax(), INFLUENCE.shape)


BENT = {
    "factor 2": ("follower_reward", bent(2.0)),
    "sign": ("leader_reward", bent(-1.0)),
    "no transition": ("transition", bent(0.0)),
    "one entry": ("follower_reward", bent(2.0, BUSIEST)),
}


@sizes("name", ["no transition", "one entry"], ["factor 2", "sign"])
def test_a_derivative_that_jax_is_told_wrongly_is_taken_for_granted_and_found(name):
    table, wrong = BENT[name]

    def tables(theta, bend=wrong):
        found = PROBLEMS["entries"].tables(theta)
        return {**found, table: bend(found[table])}

    right = JaxProblem(GARNET.base, lambda theta: tables(theta, bent(1.0)), 4)
    assert tb.check_gradient(right, THETA).passed
    problem = JaxProblem(GARNET.base, tables, 4)
    accuracy = tb.hypergradient(problem, THETA).accuracy
    assert accuracy.given == (
        "given the derivatives as pullback returns them, which check_gradient tests"
    )
    assert accuracy.gradient.max() < 1e-9
    report = tb.check_gradient(problem, THETA)
    assert not report.passed
    assert report.skipped[0] == "forward mode: tables(theta) has a derivative backward only"
    assert "pullback does not fit model(theta)" in str(report)
