"""Errors against budgets, and the trajectories that an error takes."""

import math

import numpy as np
import pytest
from scipy.stats import chi2, ncx2
from sizes import sizes
from small import assert_refused, refusal, somewhere

import tabular_bilevel as tb
from tabular_bilevel.moments.budget import _tail, comparable

PROBLEM, THETA = tb.problems.garnet(), np.full(6, 0.1)
EXACT = tb.hypergradient(PROBLEM, THETA).gradient
METHODS = {"BC-HG": tb.BoltzmannCovariance(), "naive": tb.NaivePolicyGradient()}


@pytest.fixture(scope="module")
def curve():
    return tb.error_curve(PROBLEM, THETA, METHODS, [1.0, 100.0, 1e4, 1e6])


def sampled(n, steps, n_replicates=300):
    """Errors and cosines of estimates."""
    method = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(n, steps)))
    streams = np.random.default_rng(4).spawn(n_replicates)
    rows = np.array([method(PROBLEM, THETA, rng=stream).gradient for stream in streams])
    norm = np.linalg.norm(EXACT)
    cosines = rows @ EXACT / (norm * np.linalg.norm(rows, axis=1))
    return np.linalg.norm(rows - EXACT, axis=1) / norm, cosines


def test_an_error_is_that_of_samples():
    n, steps = 200, 50
    bchg = {"BC-HG": tb.BoltzmannCovariance()}
    curve = tb.error_curve(PROBLEM, THETA, bchg, [n * steps], horizons=[steps])
    errors, cosines = sampled(n, steps)
    # of 300 replicates, the mean square has a standard error of about 5 %
    assert curve.horizon[0, 0] == steps
    assert np.mean(errors**2) == pytest.approx(curve.error[0, 0] ** 2, rel=0.2)
    assert np.mean(cosines) == pytest.approx(curve.cosine[0, 0], abs=0.01)


def test_a_budget_takes_the_best_cut_that_it_is_enough_for(curve):
    for name, errors in zip(curve.methods, curve.error, strict=True):
        cuts = curve.moments[name]
        for budget, error in zip(curve.budgets, errors, strict=True):
            squares = [
                cut.bias @ cut.bias + cut.total_variance * cut.n_steps / budget
                for cut in cuts
                if cut.n_steps <= budget * (1.0 + 1e-12)
            ]
            assert error == pytest.approx(math.sqrt(min(squares)) / np.linalg.norm(EXACT))
            assert curve.error_at(name, budget) == error
    assert (np.diff(curve.error) <= 0.0).all()
    assert curve.error[0, -1] < 0.05 < 0.9 < curve.error[1, -1]
    assert (curve.horizon[:, 0] == 1.0).all()
    assert curve.horizon[0, -1] >= 50.0
    long = tb.error_curve(PROBLEM, THETA, METHODS, [1.0], horizons=[math.inf])
    assert np.isinf(long.error).all()
    assert "too few" in str(long)


def test_methods_cross_where_their_errors_are_the_same():
    rooms, theta = tb.problems.four_rooms(), np.zeros(105)
    methods = {"naive": tb.NaivePolicyGradient(), "BC-HG": tb.BoltzmannCovariance()}
    curve = tb.error_curve(rooms, theta, methods, [1e3, 1e6], horizons=[50])
    ((better, worse, budget),) = curve.crossings()
    assert (better, worse) == ("BC-HG", "naive")
    assert curve.error_at(better, budget) == pytest.approx(curve.error_at(worse, budget), rel=1e-4)
    assert curve.error_at(better, 2.0 * budget) < curve.error_at(worse, 2.0 * budget)
    assert f"BC-HG overtakes naive at {budget:,.0f} steps" in str(curve)


def test_methods_that_are_compared_by_default_are_those_of_the_problem():
    forms = ["BC-HG", "BC-HG, own action", "BC-HG, no baseline", "naive"]
    assert list(comparable(tb.problems.two_state(), [0.2, -0.3])) == [*forms, "zero-order"]
    game = tb.problems.random_game(n_states=3)
    assert list(comparable(game, np.zeros(game.n_parameters)))[4:] == ["Bi-AC", "zero-order"]
    bandit = tb.problems.bandit()  # rewards only: all forms of BC-HG are one
    assert list(comparable(bandit, [0.0, 0.1])) == ["BC-HG", "naive", "SoBiRL", "zero-order"]


def test_a_curve_of_nothing_is_refused():
    for methods, budgets, message in (
        ({"exact": tb.ExactGradient()}, [1e3], "^exact draws no trajectories, so that a budget"),
        (METHODS, [0.0], "^a budget is 0.0"),
        (METHODS, [[1.0]], r"^budgets has shape \(1, 1\)"),
        ([tb.BoltzmannCovariance()], [1e3], r"^methods is .*, not a mapping"),
        ({}, [1e3], r"^methods is .*, not a mapping"),
        ({3: tb.BoltzmannCovariance()}, [1e3], r"^methods is .*, not a mapping"),
        ({"HPGD": tb.HyperPolicyGradient()}, [1e3], "^method is HyperPolicyGradient, which aver"),
    ):
        assert_refused(message, tb.error_curve, PROBLEM, THETA, methods, budgets)


def test_a_bad_cut_is_refused():
    for horizons in (5, [0], [True], "ab", []):
        found = refusal(tb.error_curve, PROBLEM, THETA, METHODS, [1e3], horizons=horizons)
        assert found.startswith(("a horizon is ", "horizons is "))


def test_an_error_of_nothing_is_refused(curve):
    for name, budget, message in (
        ("HPGD", 1e3, "^method is 'HPGD', not one of BC-HG, naive$"),
        ("naive", -1.0, "^budget is -1.0"),
        ("naive", "all", "^budget has dtype"),
    ):
        assert_refused(message, curve.error_at, name, budget)


def test_there_is_nothing_to_be_relative_to_where_the_gradient_is_0():
    idle = tb.problems.bandit(leader_reward=[1.0, 1.0])
    message = "^the exact gradient is 0, and errors are relative"
    assert_refused(message, tb.error_curve, idle, [0.0, 0.0], METHODS, [1e3])


@sizes("confidence", [0.5], [0.95])
def test_so_many_samples_are_as_near_as_often(confidence):
    method = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(1, 50)))
    n = tb.required_samples(PROBLEM, THETA, method, error=0.4, confidence=confidence)
    errors, cosines = sampled(int(n), 50)
    # a normal approximation, and 300 replicates: their share has a standard error of 3 %
    assert np.mean(errors <= 0.4) == pytest.approx(confidence, abs=0.1)
    assert (cosines[errors <= 0.4] >= math.sqrt(1.0 - 0.4**2) - 1e-12).all()
    angle = {"cosine": math.sqrt(1.0 - 0.4**2)}
    assert tb.required_samples(PROBLEM, THETA, method, **angle, confidence=confidence) == n


def test_the_chance_that_is_promised_is_that_of_normal_means():
    """With its tail: mistakes of a chi-square with the same two moments double this chance."""
    moments = tb.estimator_moments(PROBLEM, THETA, tb.BoltzmannCovariance())
    n = tb.required_samples(PROBLEM, THETA, tb.BoltzmannCovariance(), error=0.1, confidence=0.999)
    drawn = np.random.default_rng(0).normal(size=(400_000, 6))
    means = drawn @ np.linalg.cholesky(moments.covariance / n).T
    beyond = np.mean(np.linalg.norm(means, axis=1) > 0.1 * np.linalg.norm(EXACT))
    # a standard error of 5 %, and some percent of the saddlepoint
    assert beyond == pytest.approx(1e-3, rel=0.2)


@pytest.mark.parametrize("chance", [0.9, 0.3, 1e-2, 1e-9])
@pytest.mark.parametrize("freedom", [1, 2, 20])
def test_a_tail_is_that_of_a_chi_square(freedom, chance):
    none, ones = np.zeros(freedom), np.ones(freedom)
    few_percent = {"rel": 0.11}  # in one dimension, far out
    beyond = chi2.isf(chance, freedom)
    assert _tail(none, ones / beyond) == pytest.approx(chance, **few_percent)
    away = np.append(2.0, none[1:])
    beyond = ncx2.isf(chance, freedom, 2.0)
    assert _tail(away / beyond, ones / beyond) == pytest.approx(chance, **few_percent)


def test_at_the_mean_a_tail_has_no_gap():
    """There it is 0 / 0."""
    weights, away = np.array([3.0, 1.0, 0.0]), np.array([0.1, 0.0, 0.5])
    mean = weights.sum() + away.sum()
    ends = mean * (1.0 + np.array([-1e-3, -1e-12, 0.0, 1e-3]))
    tails = [_tail(away / end, weights / end) for end in ends]
    assert tails == sorted(tails, reverse=True)
    assert tails[0] - tails[-1] < 2e-3


def test_samples_go_with_the_square_of_the_error_until_the_bias_is_all():
    usual = tb.BoltzmannCovariance()
    few, many = (tb.required_samples(PROBLEM, THETA, usual, error=error) for error in (0.1, 0.01))
    assert many / few == pytest.approx(100.0, rel=1e-3)
    surer = tb.required_samples(PROBLEM, THETA, usual, error=0.1, confidence=0.99)
    assert surer > few
    short = {"method": usual, "horizon": 20}
    bias = tb.estimator_moments(PROBLEM, THETA, **short).bias
    off = np.linalg.norm(bias) / np.linalg.norm(EXACT)
    assert tb.required_samples(PROBLEM, THETA, **short, error=0.99 * off) == math.inf
    assert tb.required_samples(PROBLEM, THETA, **short, error=1.1 * off) < math.inf
    assert tb.required_samples(PROBLEM, THETA, tb.ExactGradient(), error=0.1) == 1.0


@pytest.mark.parametrize(
    ("error", "count"), [(1e-300, math.inf), (1e-112, math.inf), (1e-108, 4.07e216), (1e300, 1.0)]
)
def test_the_smallest_and_largest_errors_have_a_count(error, count):
    bandit, unbiased = tb.problems.bandit(), tb.BoltzmannCovariance()
    found = tb.required_samples(bandit, [0.0, 0.3], unbiased, error=error)
    assert found == pytest.approx(count, rel=0.01)


def test_bad_demands_are_named():
    for settings, message in (
        ({}, "^exactly one of error and cosine is to be given$"),
        ({"error": 0.1, "cosine": 0.9}, "^exactly one of error and cosine is to be given$"),
        ({"error": 0.0}, "^error is 0.0"),
        ({"cosine": 1.0}, r"^cosine is 1.0, not in \(0, 1\)$"),
        ({"error": 0.1, "confidence": 1.0}, r"^confidence is 1.0, not in \(0, 1\)$"),
    ):
        method = tb.BoltzmannCovariance()
        assert_refused(message, tb.required_samples, PROBLEM, THETA, method, **settings)


def test_a_check_that_shows_too_little_says_what_it_takes():
    method = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(2)))
    report = tb.check_estimator(method, PROBLEM, THETA, rng=0, n_replicates=100)
    needed = tb.required_samples(PROBLEM, THETA, method, error=0.05, confidence=0.99)
    note = f"the mean of {needed:,.0f} of its trajectories is within 5.00% of the gradient"
    assert any(note in each for each in report.notes)

    def own(problem, theta, rng):
        return method(problem, theta, rng=rng).gradient

    plain = tb.check_estimator(own, PROBLEM, THETA, rng=0, n_replicates=100)
    assert not any("trajectories" in each for each in plain.notes)  # moments are not known


@pytest.mark.slow
def test_a_check_that_shows_enough_says_nothing():
    enough = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(1000)))
    assert not tb.check_estimator(enough, PROBLEM, THETA, rng=0, n_replicates=100).notes


def test_a_grid_has_a_curve_in_each_cell(curve):
    over = {"temperature": [0.2, 1.0], "horizon": [5, 50], "leader_discount": [0.5, 0.9]}
    found = tb.error_grid(tb.problems.two_state, over, METHODS, [1e3], theta=[0.2, -0.3])
    assert found.settings[1] == {"temperature": 0.2, "horizon": 5, "leader_discount": 0.9}
    assert len(found.settings) == len(found.curves) == 8
    problem = tb.problems.two_state(temperature=0.2, leader_discount=0.9)
    alone = tb.error_curve(problem, [0.2, -0.3], METHODS, [1e3], horizons=[5])
    np.testing.assert_array_equal(found.curves[1].error, alone.error)
    assert (alone.horizon == 5.0).all()  # and no other
    over, naive = {"n_parameters": [1, 30]}, {"naive": METHODS["naive"]}
    of_sizes = tb.error_grid(tb.problems.garnet, over, naive, [1e3], theta=somewhere)
    assert [curve.moments["naive"][0].mean.size for curve in of_sizes.curves] == [1, 30]
    unlike = tb.ErrorGrid(({"n": 1}, {"n": 2}), (curve, of_sizes.curves[0]))
    assert unlike.methods == ("BC-HG", "naive")
    assert ["2", "1,000", "-"] in [line.split()[:3] for line in str(unlike).splitlines()]


def test_a_grid_of_nothing_is_refused():
    garnet = tb.problems.garnet
    for make, over, message in (
        (garnet, {}, r"^over is .*, not a mapping from settings"),
        (garnet, ["temperature"], r"^over is .*, not a mapping from settings"),
        (garnet, {"temperature": 0.1}, r"^over\['temperature'\] is 0.1, not a seq"),
        (garnet, {"temperature": []}, r"^over\['temperature'\] has no values$"),
        (garnet, {"horizon": [0.5]}, "^a horizon is 0.5"),
        (garnet, {"heat": [1.0]}, "^garnet is not made of these settings: got an unexp"),
        (lambda x: x, {"x": [1]}, "^theta is None, and the problem has no n_parameters$"),
        (PROBLEM, {"temperature": [0.1]}, "^make is FeatureProblem.*, which cannot be called"),
    ):
        assert_refused(message, tb.error_grid, make, over, METHODS)
