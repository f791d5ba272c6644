"""The published discrete toys: returns that their authors state, and what is best in them."""

import numpy as np
import pytest
from sizes import sizes

import tabular_bilevel as tb
from tabular_bilevel.problems.known import best_known

TOYS = tb.problems.discrete_toys()

# Whose leader's action matters; elsewhere in S alone.
KEY = dict.fromkeys(("2_2", "3_2"), "A")

# The follower's and the leader's returns without discount, over 150 steps or 100, where the leader
# plays 0 always, and 1 always; from the docstrings of Kudo et al.'s code (commit 9c9d42c), where
# those of 1_2f and 1_2g are rounded. (It has two more for 1_2f and 1_2g, "infinite horizon", which
# its games do not have: the leader's is positive though it loses 1 a round.)
STATED = {
    "1_1a": ((50, -50), (50, 50)),
    "1_1b": ((50, 0), (50, 50)),
    "1_2a": ((250, -50), (375, 75)),
    "1_2b": ((250, 0), (375, 75)),
    "1_2c": ((250, -50), (375, 75)),
    "1_2d": ((250, -50), (375, 75)),
    "1_2e": ((250, -50), (375, 75)),
    "1_2f": ((250, -50), (404, 75)),
    "1_2g": ((250, 50), (404, 150)),
    "2_1": ((150, -50), (150, 50)),
    "2_2": ((150, 0), (150, 50)),
    "3_1a": ((75, -75), (-50, 50)),
    "3_1b": ((75, 0), (-50, 50)),
    "3_2": ((1500, 0), (75, 75)),
}

# Logits so far apart that the other action is never played.
NEVER = 60.0


def always(action):
    theta = np.zeros((3, 2))
    theta[:, action] = NEVER
    return theta.ravel()


def hard_returns(game, action, steps):
    """Returns of both players where the follower plays the mode of a cold answer."""
    cold = game.replace(temperature=1e-3)
    answer = tb.solve_follower(cold.model(always(action))).policy.reshape(3, 2, 3)[:, action]
    moves = game.transition.toarray().reshape(3, 2, 3, 3)[:, action].argmax(axis=2)
    state, follower, leader = 0, 0.0, 0.0
    for _ in range(steps):
        chosen = answer[state].argmax()
        follower += game.follower_reward[state, action, chosen]
        leader += game.leader_reward[state, action, chosen]
        state = moves[state, chosen]
    return round(follower), round(leader)


def stated(name, game):
    steps = 100 if name.startswith("1_1") else 150
    return tuple(hard_returns(game, action, steps) for action in (0, 1))


def test_names():
    assert set(TOYS) == set(STATED)
    assert tuple(TOYS["2_1"].parameter_names[:2]) == ("f(0|S)", "f(1|S)")


@pytest.mark.parametrize("name", STATED)
def test_returns_are_those_stated(name):
    game = TOYS[name]
    assert stated(name, game) == STATED[name]
    assert stated(name, game.replace(follower_reward=-game.follower_reward)) != STATED[name]


@pytest.mark.parametrize("name", ["1_2f", "1_2g"])
def test_the_follower_of_the_lure_changes_its_mind_before_one_half(name):
    """Six rounds of S-A-B and of S-A are worth the same to it at f(1|S) = 0.4654."""
    cold, g = TOYS[name].replace(temperature=1e-3), 0.99
    lure = cold.follower_reward[0, 1, 1]
    by_b = 8.0 * (g + g**4) - 3.0 * (g**2 + g**5)
    by_s = 3.0 * (g + g**3 + g**5)
    even = (by_b - by_s) / (lure * (g**2 + g**4 - g**3))
    assert abs(even - 0.4654) < 0.5e-4
    for chance, comes_back in ((even - 0.005, False), (even + 0.005, True)):
        theta = cold.logits({"S": [1.0 - chance, chance]})
        at_a = tb.solve_follower(cold.model(theta)).policy.reshape(3, 2, 3)[1, 0]
        assert "sab"[at_a.argmax()] == ("s" if comes_back else "b")


# Of the discounted objective, what is registered as the best known.
BEST = {name: best_known(f"toy-{name}").value for name in TOYS}

FOUR_DIGITS = 0.5e-3


@sizes(("name", "n_starts"), [("1_2a", 3), ("3_1a", 3)], [(name, 40) for name in BEST])
def test_the_best_is_to_play_1_always(name, n_starts):
    game, rng = TOYS[name], np.random.default_rng(5)
    best = tb.objective(game, always(1))
    assert abs(best - BEST[name]) < FOUR_DIGITS
    found = [tb.polish(game, 3.0 * rng.normal(size=6)).objective for _ in range(n_starts)]
    assert max(found) < best + FOUR_DIGITS
    assert max(found) > best - 0.01


def test_all_mixtures_are_worse():
    for name, game in TOYS.items():
        state = "SAB".index(KEY.get(name, "S"))
        for chance in (0.01, 0.3, 0.6, 0.9, 0.99):
            theta = np.zeros((3, 2))
            theta[state] = np.log([1.0 - chance, chance])
            assert tb.objective(game, theta.ravel()) < BEST[name]


def test_only_one_states_action_matters():
    for name, game in TOYS.items():
        gradient = tb.hypergradient(game, np.zeros(6)).gradient.reshape(3, 2)
        others = np.delete(gradient, "SAB".index(KEY.get(name, "S")), axis=0)
        assert np.abs(others).max() < 1e-12


def test_the_start_of_3_2_is_flat():
    start = tb.hypergradient(TOYS["3_2"], np.zeros(6))
    assert abs(start.objective) < 1e-9
    assert np.abs(start.gradient).max() < 1e-8


def test_derivatives_are_right():
    for name, game in TOYS.items():
        assert tb.check_gradient(game, 0.1 * np.arange(6.0)).passed, name
