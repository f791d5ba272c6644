"""The two published continuous tasks, and games in general."""

import numpy as np
import pytest
from sizes import sizes
from small import refusal
from systems import random_reward, random_system

import tabular_bilevel as tb
from tabular_bilevel.problems.known import KNOWN, best_known

BUILDING, LQR = tb.problems.building_thermal_control(), tb.problems.bilevel_lqr()


BEST_BUILDING, BEST_LQR = (best_known(name).value for name in ("building", "bilevel-lqr"))
BEST_LOGITS, BEST_GAIN = (best_known(name).theta() for name in ("building", "bilevel-lqr"))


def test_other_readings_have_other_values():
    """Rewards after the move, and an undiscounted leader."""
    known = next(k for k in KNOWN if k.problem == "bilevel-lqr").value
    assert abs(tb.objective(LQR, [0.0, 0.0]) - known) < 0.5e-8
    assert abs(tb.objective(LQR, [0.0, 0.0], horizon=101) - known) > 0.5e-8


def test_the_best_that_is_known_of_the_building():
    best = tb.hypergradient(BUILDING, BEST_LOGITS)
    assert best.objective == pytest.approx(BEST_BUILDING, abs=1e-7)
    assert abs(best.gradient[5]) < 1e-5
    # each of the others would leave its end only at a loss: logits less extreme show the way
    nearer = np.clip(BEST_LOGITS, -15.0, 15.0)
    outwards = tb.hypergradient(BUILDING, nearer).gradient * np.sign(nearer)
    assert (np.delete(outwards, 5) > 0.0).all()
    found = tb.polish(BUILDING, np.zeros(8))
    assert BEST_BUILDING - 1e-3 < found.objective < BEST_BUILDING + 1e-7


@pytest.mark.parametrize("seed", range(3))
def test_no_start_leads_higher(seed):
    rng = np.random.default_rng(seed)
    assert tb.polish(BUILDING, 3.0 * rng.normal(size=8)).objective < BEST_BUILDING + 1e-7
    assert tb.polish(LQR, 3.0 * rng.normal(size=2)).objective < BEST_LQR + 1e-7


def test_the_best_that_is_known_of_the_game():
    result = tb.hypergradient(LQR, BEST_GAIN)
    assert result.objective == pytest.approx(BEST_LQR, abs=1e-7)
    assert np.linalg.norm(result.gradient) < 1e-5
    assert tb.polish(LQR, [0.0, 0.0]).objective == pytest.approx(BEST_LQR, abs=1e-7)


def random_game(seed, **changes):
    base = random_system(seed, horizon=9)
    base = base.replace(follower_discount=0.9, leader_discount=0.9)
    rng = np.random.default_rng([seed, 2])
    acts = 0.3 * rng.normal(size=(base.n_states, 2))
    paid = np.array([[-1.0, 0.2], [0.2, -0.5]])
    settings = {
        "leader_control": acts,
        "leader_noise": [[0.2, 0.05], [0.05, 0.1]],
        "leader_action_reward": paid,
    }
    return tb.LinearQuadraticGame(base=base, **{**settings, **changes})


@sizes("seed", range(1), range(1, 6))
@pytest.mark.parametrize("observed", [True, False])
@pytest.mark.parametrize("noise", [None, [[0.2, 0.05], [0.05, 0.1]]])
def test_games_have_right_derivatives(seed, observed, noise):
    game = random_game(seed, follower_observes_leader=observed, leader_noise=noise)
    theta = 0.1 * np.random.default_rng(seed).normal(size=game.n_parameters)
    report = tb.check_gradient(game, theta)
    assert report.passed, report
    assert len(report.comparisons) == 3
    assert len(game.parameter_names) == game.n_parameters


@pytest.mark.parametrize("observed", [True, False])
def test_a_bump_in_a_game_has_right_derivatives(observed):
    base = random_system(2, horizon=9).replace(follower_discount=0.9)
    rng = np.random.default_rng(0)
    base = base.replace(leader_reward=random_reward(rng, base.n_states, base.n_controls, True))
    game = tb.LinearQuadraticGame(
        base=base,
        leader_control=0.3 * rng.normal(size=(base.n_states, 1)),
        leader_noise=None,
        follower_observes_leader=observed,
    )
    assert tb.check_gradient(game, 0.1 * rng.normal(size=game.n_parameters)).passed


@pytest.mark.parametrize("seed", range(4))
def test_a_leader_without_spread_has_nothing_to_hide(seed):
    """A follower that knows k knows b = k x, whether it sees it or not."""
    still = np.zeros((2, 2))
    seen = random_game(seed, leader_noise=still)
    hidden = seen.replace(follower_observes_leader=False)
    theta = 0.2 * np.random.default_rng(seed).normal(size=seen.n_parameters)
    one, other = tb.hypergradient(seen, theta), tb.hypergradient(hidden, theta)
    assert one.objective == pytest.approx(other.objective, rel=1e-9)
    np.testing.assert_allclose(one.gradient, other.gradient, rtol=1e-7, atol=1e-9)
    spread = seen.replace(leader_noise=np.eye(2))
    blind = spread.replace(follower_observes_leader=False)
    assert abs(tb.objective(spread, theta) - tb.objective(blind, theta)) > 1e-3


def test_a_leader_that_does_nothing_leaves_the_model():
    game = random_game(1, leader_action_reward=None, follower_observes_leader=False)
    game = game.replace(leader_control=np.zeros_like(game.leader_control))
    known = tb.evaluate_leader(game.base, tb.solve_follower(game.base)).objective
    theta = np.ones(game.n_parameters)
    assert tb.objective(game, theta) == pytest.approx(known, rel=1e-12)
    seen = game.replace(follower_observes_leader=True)
    assert tb.objective(seen, theta) == pytest.approx(known, rel=1e-9)


def test_playing_the_game_comes_to_the_same():
    """By the rules as stated: x, then b, then u, then the reward, then the move."""
    game = random_game(4)
    theta = 0.2 * np.random.default_rng(1).normal(size=game.n_parameters)
    gain, spread = game.leader_policy(theta)
    answer, base = tb.solve_follower(game.model(theta)), game.base
    rng, count = np.random.default_rng(5), 40_000
    x = rng.multivariate_normal(base.initial_mean, base.initial_covariance, count)
    returns = np.zeros(count)
    for t in range(9):
        b = x @ gain.T + rng.multivariate_normal(np.zeros(2), spread, count)
        mean = -np.hstack((x, b)) @ answer.gain.T
        u = mean + rng.multivariate_normal(np.zeros(base.n_controls), answer.covariance, count)
        reward = base.leader_reward
        earned = (x @ reward.state * x).sum(axis=1) + (u @ reward.control * u).sum(axis=1)
        earned += 2.0 * (x @ reward.cross * u).sum(axis=1) + reward.constant
        earned += (b @ game.leader_action_reward * b).sum(axis=1)
        returns += base.leader_discount**t * earned
        noise = rng.multivariate_normal(np.zeros(base.n_states), base.noise, count)
        x = x @ base.dynamics.T + u @ base.control.T + b @ game.leader_control.T + noise
    error = returns.std() / np.sqrt(count)
    assert abs(returns.mean() - tb.objective(game, theta)) < 5.0 * error


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base": 3}, "base is of type int, not a LinearQuadraticModel"),
        ({"leader_control": [[1.0]]}, r"leader_control has shape \(1, 1\), not \(\d, 1\+\)"),
        ({"leader_noise": -np.eye(2)}, "leader_noise has the eigenvalue -1, below 0"),
        ({"leader_action_reward": [[0.0, 1.0], [0.0, 0.0]]}, "leader_action_reward is not symm"),
        ({"follower_observes_leader": 1}, "follower_observes_leader is 1, not True or False"),
    ],
)
def test_bad_games_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        random_game(0).replace(**changes)


def test_a_bump_takes_no_reward_of_the_leaders_action():
    with pytest.raises(ValueError, match="is added to a QuadraticReward, not to a bump"):
        LQR.replace(leader_action_reward=[[1.0]])
    with pytest.raises(ValueError, match=r"theta has shape \(3,\), not that of a vector of length"):
        LQR.model([0.0, 0.0, 0.0])


@pytest.mark.parametrize(("problem", "d"), [(BUILDING, 8), (LQR, 2)])
def test_a_theta_of_another_length_is_refused(problem, d):
    short = np.zeros(d - 1)
    for way in (
        problem.model,
        lambda theta: problem.pullback(theta, None),
        lambda theta: problem.pushforward(theta, theta),
        lambda theta: tb.hypergradient(problem, theta),
    ):
        assert refusal(way, short).startswith(f"theta has shape ({d - 1},), not that of a vector")
    found = refusal(problem.pushforward, np.zeros(d), short)
    assert found.startswith(f"direction has shape ({d - 1},), not that of")


def test_the_building_is_as_specified():
    model = BUILDING.model(np.zeros(8))
    design = np.full(8, 0.5)
    known = np.zeros((4, 4))
    exchange = [[1, 0.05, 0, 0.05], [0.03, 1, 0.04, 0], [0, 0.04, 1, 0.06], [0.05, 0, 0.03, 1]]
    effect = (0.04, 0.03, 0.06, 0.05)
    for i in range(4):
        known[i, i] = exchange[i][i] + effect[i] * (1.0 - design[i])
        for j, airflow in (((i + 1) % 4, design[4 + i]), ((i - 1) % 4, design[4 + (i - 1) % 4])):
            known[i, j] = exchange[i][j] * airflow
            known[i, i] -= exchange[i][j] * airflow
    np.testing.assert_allclose(model.dynamics, known, rtol=1e-14)
    x = np.array([1.0, -2.0, 0.5, 3.0])
    assert x @ model.leader_reward.state @ x == pytest.approx(-np.var(x))
    assert model.leader_reward.constant == pytest.approx(-0.1 * 8 * 0.25)
    # a shared temperature is kept by what neighbours exchange
    sealed = BUILDING.model([40.0] * 4 + [0.0] * 4).dynamics
    np.testing.assert_allclose(sealed @ np.ones(4), np.ones(4), rtol=1e-14)
    assert "4 zones, 8 parameters" in str(BUILDING)
    assert "1 action of the leader, which the follower observes" in str(LQR)
