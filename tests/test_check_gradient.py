"""The gradient's check: what passes, what fails, and what it says."""

import dataclasses

import numpy as np
import pytest
from references.strangers import MISTAKES, Plain, Pushing, Single, Wrong
from small import assert_refused, refusal, tables

import tabular_bilevel as tb

PROBLEM, THETA = tb.problems.garnet(rng=5), np.full(6, 0.1)


def pulled(factor, problem=PROBLEM):
    """A problem with no pushforward, its pullback off by a factor."""
    return Plain(problem, pullback=lambda *at: factor * problem.pullback(*at))


def test_differences_are_enough():
    report = tb.check_gradient(Plain(PROBLEM), THETA)
    report.raise_if_failed()
    assert [comparison.route for comparison in report.comparisons] == ["differences"]
    assert "the problem has no pushforward" in str(report)


@pytest.mark.parametrize("factor", [-1.0, 0.0, 0.5, 1.00001])
def test_a_wrong_pullback_fails(factor):
    report = tb.check_gradient(pulled(factor), THETA)
    assert not report.passed
    with pytest.raises(tb.CheckFailedError, match="FAILED"):
        report.raise_if_failed()
    assert "differences: DIFFERS" in str(report)
    assert "the gradient says" in str(report)
    assert "of 6 differ" in str(report)
    assert str(report).endswith("pullback does not fit model(theta)")


def test_a_wrong_pushforward_is_told_from_a_wrong_gradient():
    wrong = Pushing(PROBLEM, pushforward=lambda at, way: PROBLEM.pushforward(at, 1.0001 * way))
    report = tb.check_gradient(wrong, THETA)
    assert not report.passed
    verdicts = {comparison.route: comparison.passed for comparison in report.comparisons}
    assert verdicts == {"forward mode": False, "complex step": False, "differences": True}
    assert str(report).endswith("pullback fits model(theta), pushforward does not")


def test_derivatives_of_a_model_that_moves_more_are_named():
    def stretched(method):
        return lambda theta, *more: method(1.5 * theta, *more)

    names = ("model", "pullback", "pushforward")
    other = Pushing(PROBLEM, **{name: stretched(getattr(PROBLEM, name)) for name in names})
    report = tb.check_gradient(other, THETA)
    assert not report.passed
    assert str(report).endswith("pullback and pushforward fit each other, but not model(theta)")


def test_a_pushforward_may_give_the_whole_kernel():
    def whole(theta, direction):
        tangent = PROBLEM.pushforward(theta, direction)
        matrix = PROBLEM.base.like_transition(tangent.transition)
        kernel = matrix if direction[0] else matrix.toarray().reshape(20, 4, 20)
        return dataclasses.replace(tangent, transition=kernel)

    assert tb.check_gradient(Pushing(PROBLEM, pushforward=whole), THETA).passed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"follower_reward": np.zeros(80)}, r"follower_reward has shape \(80,\), not \(20, 4\)"),
        ({"leader_reward": None}, r"leader_reward has dtype object"),
        ({"transition": np.zeros(7)}, r"transition has shape \(7,\), not \(240,\)"),
        ({"initial": np.full(20, np.nan)}, r"initial\[0\] is nan, not a finite number"),
    ],
)
def test_a_pushforward_that_returns_nonsense_is_named(change, message):
    def pushforward(*at):
        return dataclasses.replace(PROBLEM.pushforward(*at), **change)

    nonsense = Pushing(PROBLEM, pushforward=pushforward)
    for route in (tb.forward_gradient, tb.complex_step_gradient):
        assert_refused(rf"pushforward\(\.\.\.\)\.{message}", route, nonsense, THETA)


def test_a_finite_horizon_is_another_gradient():
    short = tb.hypergradient(PROBLEM, THETA, horizon=5).gradient
    assert np.abs(short - tb.hypergradient(PROBLEM, THETA).gradient).max() > 1e-2
    assert tb.check_gradient(PROBLEM, THETA, horizon=5).passed


def test_many_parameters_are_checked_along_directions():
    base = PROBLEM.base
    features = np.random.default_rng(0).normal(size=(base.follower_reward.size, 300))
    problem = tb.FeatureProblem(base, follower_reward=features)
    report = tb.check_gradient(problem, np.zeros(300))
    assert report.passed
    assert report.n_derivatives == 11
    assert not tb.check_gradient(pulled(1.001, problem), np.zeros(300)).passed


def test_a_gradient_that_vanishes_passes():
    # a constant added to the follower's reward everywhere moves nothing
    base = PROBLEM.base
    problem = tb.FeatureProblem(base, follower_reward=np.ones((base.follower_reward.size, 1)))
    assert np.abs(tb.hypergradient(problem, [0.3]).gradient).max() < 1e-10
    assert tb.check_gradient(problem, [0.3]).passed
    # nor does twice its pullback, which is wrong all the same
    report = tb.check_gradient(pulled(2.0, problem), [0.3])
    assert not report.passed
    assert all(comparison.passed for comparison in report.comparisons)
    assert "the problem's pullback does not fit its model: along a random" in str(report)


def test_routes_need_a_pushforward():
    for route in (tb.forward_gradient, tb.complex_step_gradient):
        with pytest.raises(TypeError, match="Plain has no pushforward"):
            route(Plain(PROBLEM), THETA)


def test_difference_settings_are_checked():
    for name, value, wanted in (("step", 0.0, "finite"), ("levels", 0, "whole")):
        found = refusal(tb.difference_gradient, PROBLEM, THETA, **{name: value})
        assert found == f"{name} is {value}, not a positive {wanted} number"


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (np.zeros(5), r"pullback\(\.\.\.\) has shape \(5,\), not \(6,\)"),
        ([0, 0, np.nan, 0, 0, 0], r"pullback\(\.\.\.\)\[2\] is nan, not a finite number"),
    ],
)
def test_a_pullback_that_returns_nonsense_is_named(returned, message):
    problem = Plain(PROBLEM, pullback=lambda theta, sensitivities: returned)
    assert_refused(message, tb.hypergradient, problem, THETA)


def test_differences_that_cannot_tell_do_not_pass():
    report = tb.check_gradient(pulled(1.1), THETA, step=1e-13)
    assert not report.passed
    assert report.comparisons == ()
    assert "too inaccurate to tell" in str(report)
    assert str(report).endswith("nothing could be compared")


def test_no_parameters_no_check():
    assert_refused("theta has no entries", tb.check_gradient, Plain(PROBLEM), [])


class OnlyBetweenZeroAndOne:
    """A problem whose theta is a probability."""

    def model(self, theta):
        return tables(transition=[[[1 - theta[0], theta[0]], [0.5, 0.5]], [[0.3, 0.7], [0.8, 0.2]]])

    def pullback(self, theta, sensitivities):
        change = sensitivities.transition_matrix.toarray()[0]
        return [change[1] - change[0]]


@pytest.mark.parametrize("chance", [0.5, 0.95, 0.999])
def test_steps_stay_in_the_problems_domain(chance):
    assert tb.check_gradient(OnlyBetweenZeroAndOne(), [chance]).passed


def test_a_bad_theta_is_no_matter_of_steps():
    for theta, words in ((1.125, r"transition\[0, 0, 0\] is -0\.1"), (1.0 - 1e-16, "not a prob")):
        assert_refused(words, tb.difference_gradient, OnlyBetweenZeroAndOne(), [theta])


def test_a_route_that_does_not_converge_is_left_out_by_name(monkeypatch):
    def fails(*arguments, **settings):
        raise tb.ConvergenceError("stuck", residual=1.0, iterations=3)

    monkeypatch.setattr(tb.checks.gradient, "complex_step_gradient", fails)
    report = tb.check_gradient(PROBLEM, THETA)
    assert report.passed
    assert report.skipped == ("complex step: stuck",)


@pytest.mark.parametrize(
    "route", [tb.forward_gradient, tb.complex_step_gradient, tb.difference_gradient]
)
def test_every_route_wants_directions_that_fit_and_a_whole_number_of_steps(route):
    found = refusal(route, PROBLEM, THETA, directions=np.ones((1, 5)))
    assert found == "directions has shape (1, 5), not (1+, 6)"
    for horizon in (0, -1, 2.5, True):
        found = refusal(route, PROBLEM, THETA, horizon=horizon)
        assert found == f"horizon is {horizon}, not a positive whole number"


def test_gradients_stay_right_near_discount_one():
    # eight digits are left of sixteen at 1 - 1e-8; before means were taken off twice, two were
    discounts = {"follower_discount": 1 - 1e-8, "leader_discount": 1 - 1e-8}
    problem, theta = tb.problems.two_state(**discounts), [0.2, -0.3]
    _, exact = tb.problems.two_state_closed_form(theta, **discounts)
    for gradient in (
        tb.hypergradient(problem, theta).gradient,
        tb.forward_gradient(problem, theta),
        tb.complex_step_gradient(problem, theta),
    ):
        np.testing.assert_allclose(gradient, exact, rtol=1e-6)


@pytest.mark.parametrize("gap", [1e-4, 1e-6, 1e-8])
def test_discounts_near_one_raise_no_false_alarm(gap):
    discounts = {"follower_discount": 1 - gap, "leader_discount": 1 - gap}
    report = tb.check_gradient(tb.problems.two_state(**discounts), [0.2, -0.3])
    assert report.passed, str(report)


def test_entries_are_the_old_name_of_transition():
    model = tb.problems.two_state().model([0.0, 0.0])
    slopes = np.arange(float(model.transition.nnz))
    with pytest.warns(DeprecationWarning, match="are called transition now"):
        measures = tb.Sensitivities.of(model, entries=slopes)
    with pytest.warns(DeprecationWarning, match="are called transition now"):
        assert measures.entries is measures.transition is slopes


MOVING = tb.problems.garnet(n_states=4, n_actions=2, n_parameters=3, rng=1)
AT = np.array([0.3, -0.2, 0.1])


each_way = pytest.mark.parametrize("pushes", [False, True], ids=["two methods", "pushforward"])


@each_way
def test_what_is_wrong_below_is_right_without_its_mistake(pushes):
    assert tb.check_gradient(Wrong(MOVING, lambda measures: measures, pushes), AT).passed


@each_way
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_pullback_is_found_whatever_its_bound_takes_for_granted(mistake, pushes):
    wrong = Wrong(MOVING, MISTAKES[mistake], pushes)
    accuracy = tb.hypergradient(wrong, AT).accuracy
    assert accuracy.proven
    assert "which check_gradient tests" in accuracy.given
    report = tb.check_gradient(wrong, AT)
    assert not report.passed
    assert "pullback" in str(report)


@pytest.mark.parametrize(
    ("bend", "said"),
    [
        (lambda gradient: np.clip(gradient, -0.1, 0.1), "those of single table entries add up to"),
        (lambda gradient: gradient + 0.5, "those of single table entries add up to"),
        (np.abs, "those of single table entries add up to"),
        (lambda gradient: gradient / np.linalg.norm(gradient), "is nan, not a finite number"),
    ],
    ids=["clipped", "a constant", "absolute", "normalised"],
)
def test_a_pullback_that_is_not_linear_leaves_an_estimate_and_fails_the_check(bend, said):
    problem = Plain(MOVING, pullback=lambda *at: bend(MOVING.pullback(*at)))
    accuracy = tb.hypergradient(problem, AT).accuracy
    assert accuracy.level is tb.Level.ESTIMATE
    assert said in accuracy.reason
    assert not tb.check_gradient(problem, AT).passed


def test_a_pullback_in_float32_has_a_bound_as_large():
    exact, single = tb.hypergradient(MOVING, AT), tb.hypergradient(Single(MOVING), AT)
    size = np.abs(exact.gradient).max()
    assert single.accuracy.proven
    assert 1e-9 * size < single.accuracy.gradient.max() < 1e-5 * size
