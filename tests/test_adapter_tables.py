"""Problems written in JAX and in PyTorch are differentiated by them.

PyTorch is no part of the extra `test`, for its size; without it, its half is skipped.
"""

import re

import numpy as np
import pytest
import written as both
from references.strangers import returned_by_pushforward
from sizes import sizes
from small import refusal
from written import EXACT, GARNET, THETA

import tabular_bilevel as tb

# PyTorch's own: its forward mode compiles some decompositions in a way that it has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is:DeprecationWarning")

# Two float64 ways to the same number.
ROUNDING = 1e-12


@pytest.fixture(params=["jax", "torch"])
def written(request):
    pytest.importorskip(request.param)
    return getattr(both, f"in_{request.param}")()


@sizes("form", ["whole"], ["entries"])
def test_a_problem_is_the_one_in_features(written, form):
    problem = getattr(written, form)
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


@sizes("table", ["transition"], ["initial", "follower_reward", "leader_reward"])
def test_a_derivative_that_is_stopped_on_the_way_fails_the_check(written, table):
    def tables(theta):
        found = written.whole.tables(theta)
        return {**found, table: written.stopped(found[table])}

    report = tb.check_gradient(written.Problem(GARNET.base, tables, 4), THETA)
    assert not report.passed
    assert "differences: DIFFERS" in str(report)


def test_ascent_and_estimators_take_it(written):
    problem = written.whole
    estimator = tb.BoltzmannCovariance(tb.Interaction(tb.Survivors(100)))
    assert tb.check_estimator(estimator, problem, THETA, n_replicates=100, rng=0).passed
    *_, last = tb.ascend(problem, THETA, tb.ExactGradient(), tb.Adam(0.1), rng=0, n_iterations=3)
    assert last.objective > EXACT.objective


def test_a_zero_that_moves_has_a_derivative_and_a_forbidden_action_none(written):
    problem = written.forbidden_and_zero
    at_zero = tb.hypergradient(problem, [0.0, 0.1]).gradient
    nearby = tb.hypergradient(problem, [1e-9, 0.1]).gradient
    assert abs(at_zero[0]) > 0.01
    np.testing.assert_allclose(at_zero, nearby, rtol=1e-6)
    assert tb.check_gradient(problem, [0.2, 0.1]).passed
    if hasattr(written, "in_single_precision"):
        assert not tb.check_gradient(written.in_single_precision, [0.2, 0.1]).passed


def test_bad_tables_and_thetas_are_named(written):
    bad = [
        (lambda theta: {}, r"tables\(theta\) has no tables"),
        (lambda theta: [theta], r"tables\(theta\) is a list, not a dictionary"),
        (lambda theta: {"termination": theta}, "has termination; theta can move transition"),
        (
            lambda theta: {"follower_reward": written.coarse(theta)},
            rf"tables\(theta\)\['follower_reward'\] has dtype {written.float32}, not float64",
        ),
        (lambda theta: {"leader_reward": theta}, r"leader_reward has shape \(4,\), not \(6, 3\)"),
        (
            lambda theta: {"transition": theta},
            r"transition has shape \(4,\), neither \(6, 3, 6\) nor that of the 54 entries",
        ),
        (lambda theta: {"initial": 1 + 0 * theta}, r"initial has shape \(4,\), not \(6,\)"),
    ]
    for tables, message in bad:
        assert re.search(message, refusal(written.Problem(GARNET.base, tables, 4).model, THETA))
    problem = written.whole
    assert "not that of a vector of length 4" in refusal(tb.hypergradient, problem, [0.0] * 5)
    assert "direction has shape" in refusal(problem.pushforward, THETA, [0.0] * 5)
    found = refusal(written.Problem, GARNET.base, problem.tables, 0)
    assert "n_parameters is 0, not a positive whole number" in found


@sizes(("form", "scale"), [("whole", 1.0), ("entries", 30.0)], [("entries", 1.0), ("whole", 30.0)])
def test_bounds_hold_given_what_is_returned(written, form, scale):
    pytest.importorskip("flint")
    from references import ball_reference as reference

    problem = getattr(written, form)
    for theta in scale * np.random.default_rng(0).normal(size=(2, 4)):
        result = tb.hypergradient(problem, theta, accuracy=tb.Bounded(1e-7))
        assert result.accuracy.given.startswith("given the derivatives as pushforward returns them")
        exact = reference.Reference(result.model, result.response.value)
        truth = exact.gradient(*returned_by_pushforward(problem, theta, result.model))
        for stored, ball, bound in zip(
            result.gradient, truth, result.accuracy.gradient, strict=True
        ):
            assert reference.off(stored, ball) <= bound


INFLUENCE = np.abs(EXACT.sensitivities.follower_reward)
ONE_ENTRY = np.where(INFLUENCE.max() == INFLUENCE, 2.0, 1.0)


@sizes(
    ("table", "factors"),
    [("follower_reward", ONE_ENTRY)],
    [("transition", 0.0), ("follower_reward", 2.0), ("leader_reward", -1.0)],
)
def test_a_derivative_that_is_told_wrongly_is_taken_for_granted_and_found(written, table, factors):
    def tables(theta, factors=factors):
        found = written.entries.tables(theta)
        return {**found, table: written.bent(found[table], factors)}

    right = written.Problem(GARNET.base, lambda theta: tables(theta, 1.0), 4)
    assert tb.check_gradient(right, THETA).passed
    problem = written.Problem(GARNET.base, tables, 4)
    accuracy = tb.hypergradient(problem, THETA).accuracy
    assert accuracy.given == (
        "given the derivatives as pullback returns them, which check_gradient tests"
    )
    assert accuracy.gradient.max() < 1e-9
    report = tb.check_gradient(problem, THETA)
    assert not report.passed
    assert report.skipped[0].startswith("forward mode: ")
    assert "pullback does not fit model(theta)" in str(report)
