"""The accuracy of a result: what was asked for, what was reached, and what is said of it."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest
from references.strangers import Plain, Pushing
from small import assert_refused

import tabular_bilevel as tb
from tabular_bilevel.checks.report import of_target
from tabular_bilevel.finite.follower import soft_backup
from tabular_bilevel.problems import zoo

THETA = np.array([0.2, -0.3])


def two_state(accuracy=None, **options):
    return tb.hypergradient(tb.problems.two_state(), THETA, accuracy=accuracy, **options)


def test_the_default_is_bounded_and_says_so():
    result = two_state()
    accuracy = result.accuracy
    assert accuracy.level is tb.Level.BOUNDED
    assert accuracy.proven
    assert accuracy.reason == ""
    objective, gradient = tb.problems.two_state_closed_form(THETA)
    rounding = 1e-13  # of the closed form itself
    assert abs(result.objective - objective) <= accuracy.objective + rounding
    assert np.all(np.abs(result.gradient - gradient) <= accuracy.gradient + rounding)
    assert accuracy.gradient.max() < 1e-12
    assert "; BOUNDED: objective +- " in str(result)


def test_an_estimate_is_given_when_asked_for_by_name():
    result = two_state(tb.Estimated())
    assert result.accuracy.level is tb.Level.ESTIMATE
    assert not result.accuracy.proven
    assert np.isinf([result.accuracy.objective, *result.accuracy.gradient]).all()
    assert str(result).endswith("; ESTIMATE (it was asked for)")


def test_an_enclosure_is_of_the_radius_asked_for():
    pytest.importorskip("flint")
    result = two_state(tb.Enclosed(tolerance=1e-14))
    accuracy = result.accuracy
    assert accuracy.level is tb.Level.ENCLOSED
    assert accuracy.is_within(1e-14, result.objective, result.gradient)
    assert accuracy.enclosure.objective.contains(result.objective)
    np.testing.assert_allclose(result.direct + result.indirect, result.gradient, rtol=1e-15)
    assert "ENCLOSED: objective +- " in str(result)
    # the float64 result is within its bounds of it
    bounded = two_state()
    assert np.all(
        np.abs(bounded.gradient - result.gradient) <= bounded.accuracy.gradient + accuracy.gradient
    )


def test_the_levels_agree_but_for_rounding():
    estimate, bounded = two_state(tb.Estimated()), two_state()
    for name in ("objective", "gradient", "direct", "indirect"):
        np.testing.assert_allclose(getattr(estimate, name), getattr(bounded, name), rtol=1e-13)
    for station in ("response", "evaluation", "sensitivities"):
        one, other = getattr(estimate, station), getattr(bounded, station)
        unlike = {"model", "iterations", "residual", "error_bound", "horizon", "method"}
        for name in {each.name for each in dataclasses.fields(one)} - unlike - {"_temperature"}:
            ours, theirs = getattr(one, name), getattr(other, name)
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, err_msg=name)
    assert bounded.response.residual <= 1e-14


def test_a_bound_that_is_not_reached_raises_with_the_best():
    message = "tolerance 1e-18 was not reached in float64"
    with pytest.raises(tb.CertificationError, match=message) as caught:
        two_state(tb.Bounded(tolerance=1e-18))
    assert caught.value.best.accuracy.level is tb.Level.BOUNDED
    assert two_state(tb.Bounded(tolerance=1e-10)).accuracy.level is tb.Level.BOUNDED
    assert pickle.loads(pickle.dumps(caught.value)).best.objective == caught.value.best.objective


def test_an_enclosure_that_is_not_reached_raises_with_the_best():
    pytest.importorskip("flint")
    with pytest.raises(tb.CertificationError, match="was not reached with 40 bits") as caught:
        two_state(tb.Enclosed(tolerance=1e-15, max_precision=40))
    assert caught.value.best.level is tb.Level.ENCLOSED


def test_without_bounds_of_the_pullback_a_result_is_not_called_exact():
    problem = Plain(tb.problems.two_state(), pullback_bound=lambda *_: [np.inf, np.inf])
    result = tb.hypergradient(problem, THETA)
    assert result.accuracy.level is tb.Level.ESTIMATE
    assert result.accuracy.reason == "the pullback_bound of Plain is infinite"
    # what is known all the same
    assert result.accuracy.objective < 1e-13
    assert result.accuracy.bounds.value.max() < 1e-13
    assert "exact" not in str(result)
    with pytest.raises(tb.CertificationError, match="there are no bounds: the pullback_bound"):
        tb.hypergradient(problem, THETA, accuracy=tb.Bounded())


def test_a_pullback_that_is_not_the_pushforwards_has_a_bound_that_says_so():
    exact, problem = two_state(), tb.problems.two_state()
    wrong = Pushing(problem, pullback=lambda *at: 1.001 * problem.pullback(*at))
    result = tb.hypergradient(wrong, THETA, accuracy=tb.Bounded())
    error = np.abs(result.gradient - exact.gradient)
    assert np.all((error > 1e-4) & (error <= result.accuracy.gradient + exact.accuracy.gradient))
    with pytest.raises(tb.CertificationError, match="was not reached in float64"):
        tb.hypergradient(wrong, THETA, accuracy=tb.Bounded(tolerance=1e-6))


@pytest.mark.parametrize(
    ("bound", "message"),
    [
        ([1e-9], r"pullback_bound\(...\) has shape \(1,\), not \(2,\)"),
        (1e-9, r"pullback_bound\(...\) has shape \(\), not \(2,\)"),
        (["a", "b"], r"pullback_bound\(...\) has dtype <U1; real numbers are needed"),
        ([1e-9, -1.0], r"pullback_bound\(...\)\[1\] is -1.0, below 0"),
    ],
)
def test_what_is_no_bound_of_a_pullback_is_refused(bound, message):
    problem = Plain(tb.problems.two_state(), pullback_bound=lambda *_: bound)
    assert_refused(message, tb.hypergradient, problem, THETA)


@pytest.mark.parametrize(("kind", "method"), [(Plain, "pullback"), (Pushing, "pushforward")])
def test_a_strangers_derivatives_bound_a_gradient_and_are_said_to_be_taken_for_granted(
    kind, method
):
    problem = kind(tb.problems.garnet())
    result = tb.hypergradient(problem, np.zeros(6), accuracy=tb.Bounded(1e-9))
    assert result.accuracy.level is tb.Level.BOUNDED
    given = f"given the derivatives as {method} returns them, which check_gradient tests"
    assert given == result.accuracy.given == result.accuracy.bounds.given
    assert given in str(result)
    assert given in str(result.accuracy.bounds)


def test_a_suboptimal_answer_is_refined_to_the_optimal_one():
    exact, stopped = two_state(), tb.StoppedValueIteration(sweeps=3)
    result = two_state(solver=stopped)
    assert abs(result.objective - exact.objective) <= 2.0 * result.accuracy.objective < 1e-15
    assert np.all(np.abs(result.gradient - exact.gradient) <= 2.0 * result.accuracy.gradient)
    # as it is
    estimate = two_state(tb.Estimated(), solver=stopped)
    answer = stopped.solve(estimate.model)
    read = tb.evaluate_leader(estimate.model, answer).objective
    assert estimate.objective == pytest.approx(read, rel=1e-14)
    assert abs(estimate.objective - exact.objective) > 1e-6


def test_the_stations_of_an_enclosure_are_the_optimal_followers_whatever_the_solver():
    pytest.importorskip("flint")
    result = two_state(tb.Enclosed(), solver=tb.StoppedValueIteration(sweeps=1))
    assert result.response.residual < 1e-14
    assert abs(result.evaluation.objective - result.objective) < 1e-13


def test_the_residual_of_a_refined_value_is_that_of_its_rounding_too():
    result = tb.hypergradient(tb.problems.four_rooms(), np.zeros(105))
    response = result.response
    rounding = np.finfo(float).eps * np.abs(response.value).max()
    residual = np.abs(soft_backup(result.model, response.value)[1] - response.value).max()
    assert rounding <= response.residual <= residual + 4.0 * rounding
    assert residual <= response.residual + 2.0 * rounding


def test_a_gradient_that_nothing_can_move_is_exactly_0():
    base = tb.problems.two_state().base
    idle = tb.FeatureProblem(
        base.replace(leader_reward=np.zeros((2, 2))), follower_reward=np.eye(4)
    )
    result = tb.hypergradient(idle, np.zeros(4), accuracy=tb.Bounded(tolerance=1e-12))
    assert result.accuracy.objective == result.accuracy.gradient.max() == 0.0


def test_a_finite_horizon_is_an_estimate():
    result = two_state(horizon=5)
    assert result.accuracy.level is tb.Level.ESTIMATE
    assert result.accuracy.reason == "a finite horizon is not covered"
    with pytest.raises(tb.CertificationError, match="a finite horizon is not covered"):
        two_state(tb.Bounded(), horizon=5)
    with pytest.raises(tb.CertificationError, match="a finite horizon cannot be enclosed"):
        two_state(tb.Enclosed(), horizon=5)


def test_numbers_that_overflow_are_an_estimate():
    problem, theta = zoo.draw("extreme", np.random.default_rng([3, 939])).at
    result = tb.hypergradient(problem, theta)
    assert result.accuracy.level is tb.Level.ESTIMATE
    assert result.accuracy.reason == "numbers overflow where bounds are computed"
    assert "ESTIMATE" in str(result)


def test_settings_are_checked():
    for kind, name, value, wanted in (
        (tb.Bounded, "tolerance", 0.0, "finite"),
        (tb.Enclosed, "tolerance", -1.0, "finite"),
        (tb.Enclosed, "max_precision", 0, "whole"),
    ):
        assert_refused(f"{name} is {value}, not a positive {wanted} number", kind, **{name: value})


@pytest.mark.parametrize(
    "accuracy", [tb.Enclosed, tb.Level.ENCLOSED, "enclosed", 1e-9], ids=lambda x: str(x)
)
def test_an_accuracy_that_is_none_of_the_three_is_refused(accuracy):
    assert_refused(r"^accuracy is .*, not an instance of Enclosed, Bounded", two_state, accuracy)


class Solver:
    """A solver whose value is wrong in shape or number."""

    def __init__(self, value):
        self._value = np.array(value)

    def solve(self, model, *, start=None):
        return dataclasses.replace(tb.PolicyIteration().solve(model), value=self._value)


def test_what_is_no_solver_is_refused():
    for solver, message in (
        (tb.PolicyIteration, "solver is the class PolicyIteration, not an instance of it"),
        ("newton", "solver is 'newton', which has no method solve"),
        (Solver([0.0, np.nan]), r"value of the solver's response\[1\] is nan, not a finite number"),
        (Solver([0.0]), r"value of the solver's response has shape \(1,\), not \(2,\)"),
    ):
        assert_refused(message, two_state, solver=solver)


def test_a_target_that_is_hardly_known_is_not_called_exact():
    known, hardly = two_state(), two_state(solver=tb.StoppedValueIteration(sweeps=1))
    wide = dataclasses.replace(hardly.accuracy, gradient=np.full(2, 30.0))
    said = of_target(known.accuracy, known.gradient), of_target(wide, hardly.gradient)
    assert said[0].startswith("the exact gradient, BOUNDED within")
    assert said[1] == "an ESTIMATE of the gradient, BOUNDED within 1e2 only"


@pytest.mark.slow
def test_reports_say_what_their_target_is():
    estimator = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(50)))
    problem = tb.problems.two_state()

    def report(problem, **options):
        return tb.check_estimator(estimator, problem, THETA, rng=0, n_replicates=30, **options)

    assert "the target is the exact gradient, BOUNDED within" in str(report(problem))
    given = ", given the derivatives as pullback returns them, which check_gradient tests"
    text = str(report(Plain(problem)))
    assert "the target is the exact gradient, BOUNDED within" in text
    assert given in text
    assert given not in str(report(problem))
    text = str(report(Plain(problem, pullback_bound=lambda *_: [np.inf, np.inf])))
    assert "the target is an ESTIMATE of the gradient, not proven to be exact: the pullback" in text
    assert "the target is" not in str(report(problem, target=[1.0, 0.0]))
    assert report(problem).level is tb.Level.STATISTICAL
    assert tb.SuiteReport({}, 0.001).level is tb.Level.STATISTICAL
    assert tb.check_gradient(problem, THETA).level is tb.Level.ESTIMATE


def test_an_enumeration_says_what_its_target_is():
    problem = tb.problems.layered(depth=2, rng=0)
    theta = np.zeros(problem.n_parameters)
    estimator = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(1)))
    report = tb.check_by_enumeration(estimator, problem, theta)
    assert "the target is the exact gradient, BOUNDED within" in str(report)
    other = tb.check_by_enumeration(estimator, problem, theta, target=theta)
    assert other.target_accuracy is None
    assert "the target is" not in str(other)


def test_accuracy_is_read_only_and_survives_copies():
    accuracy = two_state().accuracy
    for copied in (accuracy, copy.deepcopy(accuracy), pickle.loads(pickle.dumps(accuracy))):
        with pytest.raises(ValueError, match="read-only"):
            copied.gradient[0] = 1.0
        assert str(copied) == str(accuracy)
