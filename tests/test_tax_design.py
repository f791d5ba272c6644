"""Tax design: the grid's chances are right, and what it changes falls with its step squared."""

import importlib
import math

import numpy as np
import pytest
from sizes import pairs, sizes
from small import refusal

import tabular_bilevel as tb

# In the package the function has this name.
module = importlib.import_module("tabular_bilevel.problems.tax_design")

# Rectangles of 400,000 points: the step squared, relative.
QUADRATURE = 1e-8

# Central differences with steps of 1e-5.
DIFFERENCES = 1e-9

SMALL = tb.problems.tax_design(n_assets=21, n_hours=4, n_levels=2)
START = SMALL.transform.logits([0.3] * 4)


@sizes(
    ("mean", "size"), *pairs([-100.0, -93.2, 0.0, 1.3, 99.9, 100.0], [(41, 18), (81, 34), (5, 5)])
)
def test_chances_are_averages_of_hats(mean, size):
    n_points, width = size
    first, chance, _ = module._hats(np.array([mean]), 5.0, n_points, width)
    x, grid = np.linspace(-100.0, 100.0, 400_001), np.linspace(-100.0, 100.0, n_points)
    law = np.exp(-0.5 * ((x - mean) / 5.0) ** 2)
    law[[0, -1]] *= 0.5
    seen = grid[first[0] : first[0] + width]
    hats = np.maximum(1.0 - np.abs(x - seen[:, None]) / (grid[1] - grid[0]), 0.0)
    assert np.abs(chance[0] - hats @ law / law.sum()).max() < QUADRATURE
    assert chance.min() >= 0.0
    assert abs(chance.sum() - 1.0) < 1e-14


@pytest.mark.parametrize("mean", [-93.2, 1.3, 99.9])
def test_slopes_are_those_of_the_chances(mean):
    (_, up, _), (_, down, _) = (
        module._hats(np.array([mean + step]), 5.0, 41, 18) for step in (1e-5, -1e-5)
    )
    slope = module._hats(np.array([mean]), 5.0, 41, 18)[2]
    assert np.abs(slope - (up - down) / 2e-5).max() < DIFFERENCES


def debts_of_idlers():
    """What the leader loses where nobody works or consumes: assets are a sum of normal steps.

    At t their variance is 2 + 25 t, and the mean of min(x, 0) is minus the deviation over sqrt(2
    pi). Assets beyond 100 are left out of account, which changes 0.02.
    """
    return -sum(0.9**t * math.sqrt((2.0 + 25.0 * t) / (2.0 * math.pi)) for t in range(400))


def test_what_the_grid_changes_falls_with_the_step_squared():
    found = [
        tb.objective(tb.problems.tax_design(n_assets=n, n_hours=1, n_levels=1), [0.0] * 4)
        for n in (41, 81, 161, 321)
    ]
    gaps = np.diff(found)
    assert (np.abs(gaps[:-1] / gaps[1:] - 4.0) < 0.3).all()
    limit = found[-1] + gaps[-1] / 3.0  # of order 2
    assert abs(limit - debts_of_idlers()) < 0.02
    assert abs(found[0] - debts_of_idlers()) > 1.0


def test_its_derivatives_are_right():
    assert tb.check_gradient(SMALL, START).passed
    assert tb.hypergradient(SMALL, START).accuracy.level is tb.Level.BOUNDED


@pytest.mark.parametrize("factor", [0.0, 2.0])
def test_a_wrong_slope_of_the_kernel_is_seen(factor, monkeypatch):
    honest = module._hats

    def wrong(*args):
        first, chance, slope = honest(*args)
        return first, chance, factor * slope

    monkeypatch.setattr(module, "_hats", wrong)
    module._moves.cache_clear()
    assert not tb.check_gradient(SMALL, START).passed
    module._moves.cache_clear()


def test_rewards_of_one_household_by_hand():
    alone = tb.problems.tax_design(n_assets=3, n_hours=2, n_levels=2, preferences=[(0.5, 0.2, 0.3)])
    model = alone.model(alone.transform.logits([0.25, 0.6, 1.0, 0.5]))
    busy = 15  # works 8.01 hours, and consumes 5 of each: the last action
    utility = (5 / 1.25) ** 0.5 * (5 / 1.6) ** 0.2 * (5 / 2.0) ** 0.3 - 0.1 * 8.01**2
    saved = [-100.0, 0.0, math.log(1.0 + 100.0 / 20.0)]
    assert np.allclose(model.follower_reward[:, busy], utility + np.array(saved), atol=1e-12)
    goods = 5 / 1.25 + 5 / 1.6 + 5 / 2.0
    taxes = 1.0 + 0.25 * 5 / 1.25 + 0.6 * 5 / 1.6 + 5 / 2.0 + 0.5 * 8.01
    welfare = 15.0 * goods / 3.0 / 5.0 + 5.0 * math.log(taxes)
    assert np.allclose(model.leader_reward[:, busy], welfare + np.array([-100, 0, 0]), atol=1e-12)
    kernel = model.transition.toarray().reshape(3, 16, 3)
    towards = kernel[1, busy] @ [-100.0, 0.0, 100.0]  # interpolation keeps means
    assert abs(towards - (0.5 * 8.01 - 15.0)) < 1e-9
    assert model.state_names == ("-100", "0", "100")


def test_the_published_size():
    model = tb.problems.tax_design().model(np.zeros(4))
    assert (model.n_states, model.n_actions) == (82, 1250)
    assert model.state_names[41] == "household 1: -100"


@pytest.mark.slow
def test_the_best_known_rates():
    problem = tb.problems.tax_design()
    theta = [-60.0, -60.0, -60.0, *problem.transform.logits([0.618] * 4)[:1]]
    assert abs(tb.objective(problem, theta) - 37.990) < 0.5e-3
    assert tb.polish(problem, START, max_iterations=30).objective < 37.9905


def test_nobody_works_for_nothing():
    taken = SMALL.transform.logits([0.3, 0.3, 0.3, 1.5])
    policy = tb.solve_follower(SMALL.model(taken)).policy
    assert policy.reshape(42, 4, 8)[:, 1:].sum(axis=(1, 2)).max() < 0.01
    slopes = [tb.hypergradient(SMALL, theta).gradient for theta in (START, taken)]
    assert abs(slopes[1][3]) < 0.01 * abs(slopes[0][3])


def test_samples_come_to_the_exact_gradient():
    exact = tb.hypergradient(SMALL, START).gradient
    method = tb.BoltzmannCovariance(tb.Interaction(tb.Survivors(100)))
    assert np.linalg.norm(method.target(SMALL, START) - exact) < 1e-9 * np.linalg.norm(exact)
    naive = tb.NaivePolicyGradient(tb.Interaction(tb.Survivors(100)))
    assert np.linalg.norm(naive.target(SMALL, START) - exact) > 0.1 * np.linalg.norm(exact)


@pytest.mark.slow
def test_what_the_docstring_says_of_finer_grids():
    for n_assets, known in ((41, 29.154), (81, 28.846)):
        problem = tb.problems.tax_design(n_assets=n_assets)
        assert abs(tb.objective(problem, START) - known) < 0.5e-3


def test_bad_input_is_named():
    for setting, message in (
        ({"n_assets": 4}, "n_assets is 4, not an odd number of at least 3"),
        ({"n_assets": 1}, "n_assets is 1, not an odd"),
        ({"n_hours": 0}, "n_hours is 0"),
        ({"n_levels": 2.5}, "n_levels is 2.5"),
        ({"temperature": 0.0}, "temperature is 0"),
        ({"preferences": [(0.1, 0.2)]}, "preferences has shape"),
        ({"preferences": [(0.1, 0.2, 0.0)]}, "not all above 0"),
    ):
        assert message in refusal(tb.problems.tax_design, **setting)
