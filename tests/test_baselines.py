"""Baselines change no mean, and the best one leaves the least variance."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from small import assert_refused, at, somewhere

import tabular_bilevel as tb
from tabular_bilevel.sampling.baselines import Baseline, arrival_groups

# Relative: sums of some hundred products, and linear systems.
ROUNDING = 1e-11


def ending():
    """Make a game in which the leader's hidden action may end the episode."""
    game = tb.problems.random_game(n_states=3, follower_observes_leader=False)
    ends = np.random.default_rng(2).uniform(0.0, 0.5, size=game.follower_reward.shape)
    kernel = sp.diags_array(1.0 - ends.ravel()) @ game.transition
    return game.replace(transition=kernel, termination=ends)


PROBLEMS = {
    "pairs": tb.problems.garnet(),
    "ends": ending(),
    "seen": tb.problems.random_game(rng=3, n_states=3),
    "hidden": tb.problems.random_game(follower_observes_leader=False),
    "layered": tb.problems.layered(),
    "start": tb.problems.layered_game(),
}


def moments(problem, method):
    return tb.estimator_moments(problem, somewhere(problem), method)


def moved(problem, baseline, rng):
    """Add random numbers wherever a baseline may have any."""
    off = dict(vars(baseline))
    grouped = arrival_groups(problem, somewhere(problem))
    if grouped is None:
        for name in ("follower", "leader"):
            sure = problem.model(somewhere(problem)).termination == 0.0
            off[name] = off[name] + sure * rng.normal(size=sure.shape)
            off[f"{name}_start"] = off[f"{name}_start"] + rng.normal()
    else:
        for name in ("follower", "leader"):
            by_state = off[f"{name}_arrival"] + rng.normal(size=problem.n_states)[grouped[0]]
            off[f"{name}_arrival"] = off[f"{name}_start"] = by_state
    return Baseline(**off)


@pytest.mark.parametrize("where", PROBLEMS)
def test_a_baseline_changes_no_mean(where):
    problem, theta = at(PROBLEMS[where])
    best = tb.best_baseline(problem, theta)
    baselines = [False, True, best.baseline]
    baselines += [moved(problem, best.baseline, np.random.default_rng(k)) for k in range(3)]
    exact = tb.hypergradient(problem, theta).gradient
    for baseline in baselines:
        bias = moments(problem, tb.BoltzmannCovariance(baseline=baseline)).bias
        assert np.abs(bias).max() <= ROUNDING * max(1.0, np.abs(exact).max())


@pytest.mark.parametrize("where", PROBLEMS)
def test_no_baseline_leaves_less_variance_than_the_best(where):
    problem = PROBLEMS[where]
    best = tb.best_baseline(problem, somewhere(problem))
    least = moments(problem, best).total_variance
    usual = moments(problem, tb.BoltzmannCovariance()).total_variance
    assert least <= usual * (1.0 + ROUNDING)
    for k in range(10):
        other = moved(problem, best.baseline, np.random.default_rng(k))
        found = moments(problem, replace(best, baseline=other)).total_variance
        assert found >= least * (1.0 - ROUNDING)


@pytest.mark.parametrize("where", ["pairs", "seen"])
def test_the_best_is_where_the_variance_is_flat(where):
    """A small step away costs a square, and either way the same."""
    problem = PROBLEMS[where]
    best = tb.best_baseline(problem, somewhere(problem))
    other = moved(problem, best.baseline, np.random.default_rng(1))

    def along(step):
        pairs = vars(best.baseline).items()
        off = {name: x + step * (getattr(other, name) - x) for name, x in pairs}
        return moments(problem, replace(best, baseline=Baseline(**off))).total_variance

    down, here, up = (along(step) for step in (-1.0, 0.0, 1.0))
    assert up - here == pytest.approx(down - here, rel=1e-6)
    assert up - here > 1e-3 * here
    assert along(0.1) - here == pytest.approx(0.01 * (up - here), rel=1e-4)


def test_where_the_leader_acts_its_own_mean_is_taken_off():
    problem, theta = at(PROBLEMS["seen"])
    limit = tb.Interaction().limit(problem, theta)
    worth = tb.BoltzmannCovariance().rule(limit).worth(limit)
    group, chance = arrival_groups(problem, theta)
    for value, start in (
        (limit.response.value, worth.follower_start),
        (limit.values.value, worth.leader_start),
    ):
        np.testing.assert_allclose(start, value - np.bincount(group, chance * value)[group])
        assert np.abs(np.bincount(group, chance * start)).max() <= ROUNDING * np.abs(value).max()
    curve = tb.along(problem, theta, np.ones(theta.size))  # another vector, the same policy
    np.testing.assert_array_equal(arrival_groups(curve, np.zeros(1))[1], chance)
    for other in ("pairs", "hidden"):
        assert arrival_groups(PROBLEMS[other], somewhere(PROBLEMS[other])) is None
    heir = copy.copy(problem)  # whose theta may move other things
    object.__setattr__(heir, "__class__", type("Heir", (tb.MarkovGame,), {"model": None}))
    assert arrival_groups(heir, theta) is None


def test_the_mean_of_the_leaders_actions_beats_the_mean_of_all_that_follows():
    problem = tb.problems.random_game()
    theta = np.zeros(problem.n_parameters)
    limit = tb.Interaction().limit(problem, theta)
    by_pair = Baseline.by_pair(
        limit,
        limit.response.action_value - limit.world.follower_reward,
        limit.values.action_value - limit.world.leader_reward,
        float(limit.world.initial @ limit.response.value),
        float(limit.world.initial @ limit.values.value),
    )
    usual, before, none = (
        tb.estimator_moments(problem, theta, tb.BoltzmannCovariance(baseline=each)).total_variance
        for each in (True, by_pair, False)
    )
    assert usual < 0.95 * before < 0.1 * none


class Blind(tb.BoltzmannCovariance):
    """An heir whose rule credits other things."""

    def rule(self, experience):
        return super().rule(experience).times(indirect=0.0)


class Twice(tb.BoltzmannCovariance):
    """An heir that estimates otherwise."""

    def estimate(self, experience):
        right = super().estimate(experience)
        return replace(right, gradient=2.0 * right.gradient)


def test_a_best_baseline_of_other_methods_is_not_known():
    for method, message in (
        (Blind(), r"^method is Blind\(.*\): the best baseline is known of BC-HG"),
        (Twice(), r"^method is Twice\(.*\): the best baseline is known of BC-HG"),
        (tb.BoltzmannCovariance(own_action=True), "^method is BoltzmannCovariance.*: the best"),
        (tb.SoBiRL(), r"^method is SoBiRL\(.*\): the best baseline is known of BC-HG"),
        (tb.BoltzmannCovariance(average_tails=True), "^average_tails makes ratios"),
    ):
        assert_refused(message, tb.best_baseline, PROBLEMS["pairs"], np.zeros(6), method)


def test_a_continuous_state_has_no_best_baseline():
    room = tb.problems.bilevel_lqr()
    for of in (tb.best_baseline, tb.lower_limit):
        theta = np.zeros(room.n_parameters)
        assert_refused(f"Model: {of.__name__} is for tables only$", of, room, theta)


def test_a_baseline_of_another_problem_is_refused():
    best = tb.best_baseline(PROBLEMS["pairs"], np.zeros(6))
    message = r"^baseline is of a problem with tables of shape \(20, 4\)"
    assert_refused(message, best, PROBLEMS["layered"], np.zeros(4), rng=0)
    assert_refused(r"^baseline is 1, not True or False$", tb.BoltzmannCovariance, baseline=1)
