"""The acceptance number: independent routes to the gradient agree on hundreds of random problems.

Discounts up to 0.99 and temperatures down to 0.01: far harder than what is published.
"""

import dataclasses

import numpy as np
import pytest
from references.strangers import Pushing
from sizes import pairs, sizes

import tabular_bilevel as tb

COUNT, QUICK_COUNT = 240, 9
DISCOUNTS = (0.0, 0.5, 0.9, 0.95, 0.99)

# What is promised of routes that differ by rounding alone: the median problem, and the worst.
MEDIAN, WORST = 1e-12, 1e-9

# Differences cancel digits, and cold followers turn within a step.
DIFFERENCE_MEDIAN, DIFFERENCE_WORST = 1e-7, 1e-6

# Differences are taken along this many coordinates, those of the largest derivatives.
N_DIFFERENCES = 3

# An error of a part in 10^5 is one that a check must see.
SMALL_ERROR = 1e-5


def random_case(number):
    """A problem and a theta: in turn an MDP, a game seen and a game unseen by the follower."""
    rng = np.random.default_rng([2603, 14867, number])
    n_states = int(rng.integers(2, 31))
    settings = {
        "n_states": n_states,
        "n_actions": int(rng.integers(1, 5)),
        "branching": int(rng.integers(1, min(n_states, 4) + 1)),
        "follower_discount": float(rng.choice(DISCOUNTS)),
        "leader_discount": float(rng.choice(DISCOUNTS)),
        "temperature": float(10.0 ** rng.uniform(-2.0, 1.0)),
        "rng": rng,
    }
    if number % 3 == 0:
        problem = tb.problems.garnet(**settings)
    else:
        # one leader action would leave no choice, and a gradient of exactly 0
        problem = tb.problems.random_game(
            **settings,
            n_leader_actions=int(rng.integers(2, 5)),
            follower_observes_leader=number % 3 == 1,
        )
    return problem, 0.3 * rng.normal(size=problem.n_parameters)


ROUTES = ("forward", "complex step", "differences")


def disagreements(count):
    """Return the largest difference of a derivative over the largest derivative, by route."""
    found = []
    for number in range(count):
        problem, theta = random_case(number)
        exact = tb.hypergradient(problem, theta).gradient
        size = np.abs(exact).max()
        assert size > 0.0
        largest = np.argsort(-np.abs(exact))[:N_DIFFERENCES]
        differences = tb.difference_gradient(
            problem, theta, directions=np.eye(theta.size)[largest]
        ).gradient
        gaps = (
            tb.forward_gradient(problem, theta) - exact,
            tb.complex_step_gradient(problem, theta) - exact,
            differences - exact[largest],
        )
        found.append([np.abs(gap).max() / size for gap in gaps])
    for route, gaps in zip(ROUTES, np.array(found).T, strict=True):
        print(f"{route}: median {np.median(gaps):.1e}, worst {gaps.max():.1e}")
    return np.array(found)


@sizes("count", [QUICK_COUNT], [COUNT])
def test_routes_agree_with_the_adjoint(count):
    found = disagreements(count)  # forward mode, the complex step, differences
    medians, worst = (MEDIAN, MEDIAN, DIFFERENCE_MEDIAN), (WORST, WORST, DIFFERENCE_WORST)
    assert (np.median(found, axis=0) <= medians).all()
    assert (found.max(axis=0) <= worst).all()


@pytest.mark.parametrize("number", range(12))
def test_plain_float64_agrees_with_what_is_refined_and_bounded(number):
    problem, theta = random_case(number)
    plain, refined = (
        tb.hypergradient(problem, theta, accuracy=accuracy)
        for accuracy in (tb.Estimated(), tb.Bounded())
    )
    for part in ("gradient", "direct", "indirect"):
        one, other = getattr(plain, part), getattr(refined, part)
        assert np.abs(one - other).max() <= WORST * np.abs(refined.gradient).max()


@pytest.mark.slow
def test_the_cases_cover_what_they_should():
    cases = [random_case(number) for number in range(COUNT)]
    models = [problem.model(theta) for problem, theta in cases]
    games = [problem for problem, _ in cases if isinstance(problem, tb.MarkovGame)]
    assert COUNT >= 200
    assert {game.follower_observes_leader for game in games} == {True, False}
    assert len(games) == 2 * COUNT // 3
    assert {model.n_actions for model in models} == {1, 2, 3, 4}
    pairs = {(model.follower_discount, model.leader_discount) for model in models}
    assert pairs == {(follower, leader) for follower in DISCOUNTS for leader in DISCOUNTS}
    temperatures = [model.temperature for model in models]
    assert min(temperatures) < 0.02
    assert max(temperatures) > 5.0


@sizes("number", [0, 1], range(2, 6))
def test_finite_horizons_agree_too(number):
    """They take other code in each of the routes."""
    problem, theta = random_case(number)
    for horizon in (1, 10):
        exact = tb.hypergradient(problem, theta, horizon=horizon).gradient
        for route in (tb.forward_gradient, tb.complex_step_gradient):
            gap = route(problem, theta, horizon=horizon) - exact
            assert np.abs(gap).max() <= WORST * np.abs(exact).max()


# --- controls: what is wrong by little is seen ----------------------------------------------------


def unchanged(thing):
    return thing


def wrong(problem, pulled=unchanged, pushed=unchanged):
    """A problem whose derivatives are changed after they were computed."""
    return Pushing(
        problem,
        pullback=lambda *at: pulled(problem.pullback(*at)),
        pushforward=lambda *at: pushed(problem.pushforward(*at)),
    )


def off_by_a_little(array):
    return (1.0 + SMALL_ERROR) * array


def one_entry_off(gradient):
    """Only the largest entry is wrong."""
    wrong = gradient.copy()
    wrong[np.argmax(np.abs(wrong))] *= 1.0 + SMALL_ERROR
    return wrong


SPREAD, UNSEEN = np.linspace(-0.5, 0.5, 12), {"follower_observes_leader": False}
WELL_BEHAVED = {
    "MDP": lambda: (tb.problems.garnet(), np.full(6, 0.1)),
    "game": lambda: (tb.problems.random_game(), SPREAD),
    "game unseen": lambda: (tb.problems.random_game(**UNSEEN), SPREAD),
}


@pytest.mark.parametrize("name", WELL_BEHAVED)
def test_a_right_problem_passes(name):
    problem, theta = WELL_BEHAVED[name]()
    assert tb.check_gradient(wrong(problem), theta).passed


@sizes(("name", "change"), *pairs([*WELL_BEHAVED], [off_by_a_little, one_entry_off]))
def test_a_pullback_wrong_by_a_part_in_1e5_fails_by_every_route(name, change):
    problem, theta = WELL_BEHAVED[name]()
    report = tb.check_gradient(wrong(problem, pulled=change), theta)
    assert not report.passed
    assert not any(comparison.passed for comparison in report.comparisons)
    with pytest.raises(tb.CheckFailedError, match="differences: DIFFERS"):
        report.raise_if_failed()


MOVED = {
    "MDP": ("follower_reward", "leader_reward", "transition", "initial"),
    "game": ("transition", "initial"),
    "game unseen": ("follower_reward", "leader_reward", "transition"),
}


@pytest.mark.parametrize(("name", "table"), [(name, x) for name in MOVED for x in MOVED[name]])
def test_a_pushforward_wrong_by_a_part_in_1e5_fails_by_the_routes_that_use_it(name, table):
    problem, theta = WELL_BEHAVED[name]()

    def pushed(tangent):
        return dataclasses.replace(tangent, **{table: off_by_a_little(getattr(tangent, table))})

    report = tb.check_gradient(wrong(problem, pushed=pushed), theta)
    verdicts = {comparison.route: comparison.passed for comparison in report.comparisons}
    assert verdicts == {"forward mode": False, "complex step": False, "differences": True}
