"""The goal position problem: its best is known."""

import numpy as np
import pytest

import tabular_bilevel as tb

# At temperature 0.01 the follower hardly strays.
STRAYING = 1e-3


def goal_at(problem, cell):
    theta = np.zeros(problem.n_parameters)
    theta[problem.at(cell)] = 60.0
    return theta


@pytest.mark.parametrize("size", [4, 7, 10])
def test_the_best_is_the_goal_in_the_leaders_cell(size):
    problem, middle = tb.problems.goal_position(size), (size // 2, size // 2)
    best = 0.95 ** (2 * (size // 2)) / (1.0 - 0.95**2)
    assert tb.objective(problem, goal_at(problem, middle)) == pytest.approx(best, rel=STRAYING)
    for cell in ((0, 0), (size - 1, size - 1), (size // 2, size // 2 - 1)):
        assert tb.objective(problem, goal_at(problem, cell)) < 0.99 * best


def test_it_is_what_is_known_of_the_published_one():
    problem = tb.problems.goal_position()
    model = problem.model(np.zeros(101))
    assert (model.n_states, model.n_actions) == (100, 4)
    tangent = problem.pushforward(np.zeros(101), np.eye(101)[37])
    assert tangent.follower_reward.any()
    for table in ("transition", "leader_reward", "initial"):
        assert not getattr(tangent, table).any()


def test_its_derivatives_are_right():
    problem = tb.problems.goal_position(4, temperature=0.1)
    assert tb.check_gradient(problem, 0.3 * np.arange(17.0)).passed


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"size": 0}, "size is 0"), ({"temperature": -1.0}, "temperature is -1")],
)
def test_bad_input_is_named(setting, message):
    with pytest.raises(ValueError, match=message):
        tb.problems.goal_position(**setting)
