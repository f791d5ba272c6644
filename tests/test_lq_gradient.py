"""Four roads to the derivative of a linear-quadratic J: they share as little as can be."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from sizes import sizes
from systems import Moved, random_system

import tabular_bilevel as tb
from tabular_bilevel.lq import adjoint
from tabular_bilevel.problems.bilevel_lqr import bilevel_lqr

# Relative to the largest derivative: the worst of 200 systems was 3e-12, of those whose closed
# loop is near the edge of what the discounts allow.
ROUNDING = 1e-10

# Central differences, extrapolated.
DIFFERENCES = 1e-7

KINDS = [(False, None), (False, 11), (True, None), (True, 11)]


def largest_difference(one, other):
    return np.abs(one - other).max() / np.abs(one).max()


def drawn(seed):
    bump, horizon = KINDS[seed % 4]
    return Moved.random(seed, bump=bump, horizon=horizon)


@sizes("seed", range(8), range(8, 200))
def test_the_roads_agree(seed):
    problem, theta = drawn(seed), np.zeros(3)
    exact = tb.hypergradient(problem, theta).gradient
    assert largest_difference(exact, tb.forward_gradient(problem, theta)) < ROUNDING
    assert largest_difference(exact, tb.complex_step_gradient(problem, theta)) < ROUNDING
    differences = tb.difference_gradient(problem, theta, step=0.03, levels=6)
    assert largest_difference(exact, differences.gradient) < DIFFERENCES


@pytest.mark.parametrize("seed", range(4))
def test_each_part_is_needed(seed):
    problem, theta = drawn(seed), np.zeros(3)
    result = tb.hypergradient(problem, theta)
    forward = tb.forward_gradient(problem, theta)
    np.testing.assert_allclose(result.direct + result.indirect, result.gradient)
    assert largest_difference(forward, result.direct) > 1e-3
    assert largest_difference(forward, result.indirect) > 1e-3


@pytest.mark.parametrize("seed", range(8))
def test_the_direct_part_is_that_of_a_fixed_policy(seed):
    """A follower that answers to another model than the one that moves changes nothing."""
    problem = drawn(seed)
    kept = tb.solve_follower(problem.base)

    def value(x):
        return tb.evaluate_leader(problem.model([x, 0.0, 0.0]), kept).objective

    h = 1e-4
    direct = tb.hypergradient(problem, np.zeros(3)).direct
    found = (8.0 * (value(h) - value(-h)) - (value(2 * h) - value(-2 * h))) / (12.0 * h)
    assert abs(found - direct[0]) < 1e-7 * max(1.0, abs(value(0.0)))


def test_the_policys_derivatives_are_those_of_the_gain_and_the_covariance():
    model = random_system(5)
    response = tb.solve_follower(model)
    evaluation = tb.evaluate_leader(model, response)
    rng = np.random.default_rng(0)
    turn = rng.normal(size=response.gain.shape)
    wider = rng.normal(size=response.covariance.shape)
    wider = wider + wider.T

    def value(x, y):
        moved = replace(
            response, gain=response.gain + x * turn, covariance=response.covariance + y * wider
        )
        return tb.evaluate_leader(model, moved).objective

    h, size = 1e-5, abs(evaluation.objective)
    by_gain = (value(h, 0.0) - value(-h, 0.0)) / (2.0 * h)
    by_covariance = (value(0.0, h) - value(0.0, -h)) / (2.0 * h)
    assert abs(by_gain - np.vdot(evaluation.gain, turn)) < 1e-6 * size
    assert abs(by_covariance - np.vdot(evaluation.covariance, wider)) < 1e-6 * size


def backward(problem):
    return SimpleNamespace(model=problem.model, pullback=problem.pullback)


def test_check_gradient_finds_a_wrong_pullback():
    class Wrong(Moved):
        def pullback(self, theta, sensitivities):
            return 1.001 * super().pullback(theta, sensitivities)

    right = Moved.random(3)
    assert tb.check_gradient(right, np.zeros(3)).passed
    report = tb.check_gradient(Wrong(right.base, right.tangents), np.zeros(3))
    assert not report.passed
    assert "pullback does not fit model(theta)" in str(report)


def test_a_problem_without_a_pushforward_is_compared_with_differences():
    report = tb.check_gradient(backward(Moved.random(3)), np.zeros(3))
    assert [comparison.route for comparison in report.comparisons] == ["differences"]
    assert report.passed


def test_a_horizon_counts_so_many_steps():
    problem, theta = bilevel_lqr(), [-0.5, 0.3]
    whole = tb.hypergradient(problem, theta)
    again = tb.hypergradient(problem, theta, horizon=100)
    first = tb.hypergradient(problem, theta, horizon=1)
    assert whole.objective == again.objective
    np.testing.assert_array_equal(whole.gradient, again.gradient)
    assert first.objective == pytest.approx(np.exp(-0.5 * (1.8 / 0.2) ** 2), rel=1e-12)
    assert tb.check_gradient(problem, theta, horizon=7).passed
    with pytest.raises(ValueError, match="horizon is 0, not a positive whole number"):
        tb.hypergradient(problem, theta, horizon=0)


def test_what_has_no_bounds_says_why():
    result = tb.hypergradient(bilevel_lqr(), [0.0, 0.0])
    assert result.accuracy.level is tb.Level.ESTIMATE
    assert "a bump is not covered" in str(result)
    for accuracy in (tb.Bounded(), tb.Enclosed()):
        with pytest.raises(tb.CertificationError, match="no bounds: a bump") as caught:
            tb.hypergradient(bilevel_lqr(), [0.0, 0.0], accuracy=accuracy)
        assert caught.value.best.objective == result.objective
    bump = tb.hypergradient(Moved.random(2, bump=True), np.zeros(3))
    assert bump.accuracy.reason == "a bump is not covered"
    problem = Moved.random(3)
    result = tb.hypergradient(backward(problem), np.zeros(3))
    assert "has no pushforward" in result.accuracy.reason
    assert tb.hypergradient(problem, np.zeros(3)).accuracy.proven


def test_sensitivities_are_those_of_the_public_stations():
    model = random_system(2)
    response = tb.solve_follower(model)
    evaluation = tb.evaluate_leader(model, response)
    whole = tb.sensitivities(model, response, evaluation)
    _, direct, indirect = adjoint.road(model, response)
    np.testing.assert_array_equal(whole.dynamics, (direct + indirect).dynamics)
    assert not direct.state_cost.any()
    assert not indirect.noise.any()
    assert not indirect.leader_reward["constant"]


def test_an_ascent_climbs_and_goes_on():
    problem, start, method = bilevel_lqr(), [0.0, 0.0], tb.ExactGradient()
    *_, last = tb.ascend(problem, start, method, tb.Adam(0.1), rng=0, n_iterations=20)
    *_, half = tb.ascend(problem, start, method, tb.Adam(0.1), rng=0, n_iterations=10)
    *_, rest = tb.resume(problem, half.state, method, tb.Adam(0.1), n_iterations=20)
    assert last.objective > 1.3 * tb.objective(problem, start)
    assert last.cosine == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_array_equal(rest.next_theta, last.next_theta)
    assert last.objective_over(1) < last.objective


def test_a_temperature_at_the_edge_of_float64_leaves_derivatives():
    """Half of the least number is 0: nothing is divided by it."""
    model = random_system(1)
    slopes = []
    for temperature in (5e-324, 1e-30):
        cold = model.replace(temperature=temperature)
        response = tb.solve_follower(cold)
        slopes.append(tb.sensitivities(cold, response, tb.evaluate_leader(cold, response)))
    np.testing.assert_allclose(slopes[0].dynamics, slopes[1].dynamics, rtol=1e-12)
    assert slopes[0].temperature == pytest.approx(slopes[1].temperature, rel=1e-12)
