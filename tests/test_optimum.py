"""Better optima: polishing, many starts, annealing, noise."""

import numpy as np
import pytest

import tabular_bilevel as tb
from tabular_bilevel.optimum import Perturbed, anneal, best_of, polish

# theta on the discrete toy whose f(0|A) is above one half: the upper basin
START = [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]

# Two solves of the follower, from elsewhere, agree to rounding, amplified by cold policies.
ROUNDING = 1e-9

# Between the best of 101 points of f(0|A) and the maximum: the return is flat there.
GRID = 1e-3


def test_polishing_finds_the_mixed_optimum_of_the_toy():
    toy = tb.problems.discrete_toy()
    shares = np.linspace(0.8, 0.9, 101)
    logits = np.log(shares / (1.0 - shares))
    returns = [tb.objective(toy, [0, 0, logit, 0, 0, 0], horizon=150) for logit in logits]
    found = polish(toy, START, horizon=150)
    assert max(returns) - ROUNDING <= found.objective <= max(returns) + GRID
    assert found.objective == pytest.approx(
        tb.objective(toy, found.theta, horizon=150), rel=ROUNDING
    )
    assert found.gradient_norm < 1e-4
    assert not found.theta.flags.writeable
    assert str(found).startswith("Optimum: objective 27.31")


def test_polishing_never_ends_below_its_start():
    problem, rng = tb.problems.garnet(), np.random.default_rng(0)
    for _ in range(5):
        theta = rng.normal(size=6)
        assert polish(problem, theta, max_iterations=3).objective >= tb.objective(problem, theta)


def test_polishing_gives_up_where_the_objective_is_unbounded():
    base = tb.problems.garnet().base
    linear = tb.FeatureProblem(base, leader_reward=np.ones((base.follower_reward.size, 1)))
    found = polish(linear, [0.0])
    assert found.message == "theta is longer than 1e+08: J seems unbounded"
    assert found.evaluations < 200


def test_the_best_of_many_starts_is_at_least_each():
    problem, rng = tb.problems.four_rooms(), np.random.default_rng(0)
    starts = [np.zeros(105), *(6.0 * rng.normal(size=105) for _ in range(3))]
    each = [polish(problem, start).objective for start in starts]
    assert best_of(problem, starts).objective == max(each)
    assert max(each) > min(each) + 0.1  # starts matter here


def test_annealing_leaves_the_plateau_of_four_rooms():
    # 0.0008: where plain ascent from 0 ends, with no incentive spent
    cold = tb.problems.four_rooms()
    plain = polish(cold, np.zeros(105))
    cooled = anneal([tb.problems.four_rooms(t) for t in (0.01, 0.003, 0.001)], np.zeros(105))
    assert plain.objective == pytest.approx(0.0008, abs=1e-4)
    assert cooled.objective == pytest.approx(tb.objective(cold, cooled.theta), rel=ROUNDING)
    assert cooled.objective > 0.5


def test_noise_has_its_spread_and_mean_zero():
    problem, theta, spread = tb.problems.two_state(), [0.2, -0.1], 0.3
    method = Perturbed(tb.ExactGradient(), spread)
    exact = tb.ExactGradient()(problem, theta, rng=0).gradient
    rng = np.random.default_rng(1)
    noise = np.array([method(problem, theta, rng=rng).gradient - exact for _ in range(500)])
    # five standard errors of a mean, and of a standard deviation, of 500 normal numbers
    assert np.abs(noise.mean(axis=0)).max() < 5.0 * spread / np.sqrt(500)
    assert np.abs(noise.std(axis=0) - spread).max() < 5.0 * spread / np.sqrt(1000)
    np.testing.assert_array_equal(method.target(problem, theta), exact)


def test_noise_goes_on_from_memory():
    problem, theta = tb.problems.garnet(), np.full(6, 0.1)
    first = Perturbed(tb.ExactGradient(), 0.1)(problem, theta, rng=0)
    again = Perturbed(tb.ExactGradient(), 0.1)(problem, theta, rng=0, memory=first.memory)
    assert again.response.iterations == 0 < first.response.iterations


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: best_of(tb.problems.garnet(), []), "starts is empty"),
        (lambda: anneal([], [0.0]), "problems is empty"),
        (lambda: Perturbed(tb.ExactGradient(), -1.0), "spread is -1.0, below 0"),
        (lambda: Perturbed(tb.ExactGradient, 1.0), "method is the class ExactGradient, not an"),
        (
            lambda: polish(tb.problems.garnet(), np.zeros(6), max_iterations=0),
            "max_iterations is 0, not a positive whole number",
        ),
        (lambda: polish(tb.problems.garnet(), np.zeros(5)), r"theta has shape \(5,\)"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
