"""PettingZoo: games as parallel environments."""

from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from laws import FALSE_ALARM_RATE, exact_law, smallest_chance
from pettingzoo.test import parallel_api_test, parallel_seed_test
from small import refusal

import tabular_bilevel as tb
from tabular_bilevel import strategies
from tabular_bilevel.adapters.pettingzoo import to_pettingzoo


def patchy_game(*, observes):
    """Games that end, and whose follower lacks actions."""
    rng = np.random.default_rng(3)
    available = np.array([[[1, 1, 0], [0, 1, 1]], [[1, 1, 1], [0, 0, 1]], [[0, 1, 0], [1, 1, 0]]])
    if not observes:
        available[:, 1] = available[:, 0]
    termination = rng.uniform(0.0, 0.2, (3, 2, 3))
    kernel = rng.dirichlet(np.ones(3), (3, 2, 3)) * (1.0 - termination)[..., None]
    return tb.MarkovGame(
        transition=kernel,
        follower_reward=np.where(available, rng.normal(size=(3, 2, 3)), -np.inf),
        leader_reward=rng.normal(size=(3, 2, 3)),
        initial=[0.2, 0.3, 0.5],
        follower_discount=0.9,
        leader_discount=0.95,
        temperature=0.2,
        follower_observes_leader=observes,
        termination=termination,
    )


GAMES = {
    "toy": tb.problems.discrete_toy(),
    "random": tb.problems.random_game(n_states=3),
    "patchy, seen": patchy_game(observes=True),
    "patchy, unseen": patchy_game(observes=False),
}

each_game = pytest.mark.parametrize("game", GAMES.values(), ids=GAMES)


@each_game
@pytest.mark.parametrize("max_steps", [None, 1, 7])
def test_pettingzoos_own_tests_pass(game, max_steps):
    parallel_api_test(to_pettingzoo(game, max_steps=max_steps), num_cycles=100)
    parallel_seed_test(lambda: to_pettingzoo(game, max_steps=max_steps), num_cycles=100)


@given(strategies.games())
def test_pettingzoos_own_tests_pass_for_games_of_all_kinds(game):
    parallel_api_test(to_pettingzoo(game), num_cycles=20)
    parallel_seed_test(lambda: to_pettingzoo(game), num_cycles=20)


@each_game
def test_the_same_seed_gives_the_same_play(game):
    # pettingzoo's own test looks at the first step only
    def play(seed):
        env = to_pettingzoo(game, max_steps=20)
        seen = [env.reset(seed=seed)[0]["leader"]]
        for agent in env.agents:
            env.action_space(agent).seed(1)
        for _ in range(3):
            while env.agents:
                actions = {agent: env.action_space(agent).sample() for agent in env.agents}
                observations, rewards, *_ = env.step(actions)
                seen += [observations["follower"], rewards["leader"]]
            seen.append(env.reset()[0]["leader"])
        return seen

    assert play(5) == play(5)
    assert (play(5) == play(6)) == (game is GAMES["toy"])  # whose moves are certain


@each_game
def test_rewards_masks_and_what_was_played_are_those_of_the_tables(game):
    env = to_pettingzoo(game, max_steps=9)
    observations, infos = env.reset(seed=1)
    observes = game.follower_observes_leader
    for _ in range(200):
        s = observations["leader"]
        assert observations == {"leader": s, "follower": s}
        masks = infos["follower"]["action_mask"]
        wanted = game.available[s] if observes else game.available[s, 0]
        np.testing.assert_array_equal(masks, wanted)
        b = int(env.action_space("leader").sample())
        answer = env.action_space("follower").sample(masks)
        a = int(answer[b] if observes else answer)
        observations, rewards, ended, cut, infos = env.step({"leader": b, "follower": answer})
        assert rewards["leader"] == game.leader_reward[s, b, a]
        assert rewards["follower"] == game.follower_reward[s, b, a]
        for agent in ("leader", "follower"):
            assert infos[agent]["leader_action"] == b
            assert infos[agent]["follower_action"] == a
            if ended[agent] or cut[agent]:
                assert env.agents == []
        if ended["leader"]:
            assert observations["leader"] == s
        if not env.agents:
            observations, infos = env.reset()


def joint(game):
    """The game as one player's: a move is b * A + a. And the moves' chances if all are drawn."""
    n_moves = game.n_leader_actions * game.n_actions
    weights = game.available / game.available.sum(axis=2, keepdims=True) / game.n_leader_actions
    model = SimpleNamespace(
        n_states=game.n_states,
        n_actions=n_moves,
        transition=game.transition,
        termination=game.termination.reshape(-1, n_moves),
        initial=game.initial,
    )
    return model, weights.reshape(-1, n_moves)


def walk(env, *, episodes, steps, seed):
    """Frequencies in the form of Trajectories; -1 is the end, and what follows it."""
    states, moves, following = np.full((3, episodes, steps), -1)
    env.reset(seed=seed)
    for agent in env.agents:
        env.action_space(agent).seed(seed)
    for i in range(episodes):
        observations, _ = env.reset()
        for t in range(steps):
            actions = {agent: env.action_space(agent).sample() for agent in env.agents}
            states[i, t] = observations["leader"]
            observations, _, ended, _, infos = env.step(actions)
            played = infos["leader"]
            moves[i, t] = played["leader_action"] * env.game.n_actions + played["follower_action"]
            following[i, t] = -1 if ended["leader"] else observations["follower"]
            if ended["leader"]:
                break
    return SimpleNamespace(
        states=states, actions=moves, next_states=following, mask=states >= 0, count=episodes
    )


@each_game
def test_steps_and_draws_have_the_frequencies_of_the_tables(game):
    walked = walk(to_pettingzoo(game), episodes=1000, steps=3, seed=1)
    assert smallest_chance(walked, exact_law(*joint(game), 3)) > FALSE_ALARM_RATE


@pytest.mark.parametrize("table", ["transition", "initial"])
def test_frequencies_of_other_tables_are_noticed(table):
    game = GAMES["patchy, seen"]
    model, chances = joint(game)
    if table == "initial":
        model.initial = model.initial[::-1]
    else:  # one that does not end
        mass = 1.0 - model.termination.ravel()
        model.transition = model.transition.multiply(1.0 / np.maximum(mass, 0.5)[:, None])
        model.termination = np.zeros(model.termination.shape)
    walked = walk(to_pettingzoo(game), episodes=1000, steps=3, seed=1)
    assert smallest_chance(walked, exact_law(model, chances, 3)) < FALSE_ALARM_RATE


def test_a_limit_cuts_and_an_end_ends():
    env = to_pettingzoo(tb.problems.discrete_toy(), max_steps=2)
    env.reset(seed=1)
    moves = {"leader": 0, "follower": [0, 0]}
    *_, ended, cut, _ = env.step(moves)
    assert not any((*ended.values(), *cut.values()))
    *_, ended, cut, _ = env.step(moves)
    assert not any(ended.values())
    assert all(cut.values())


def of(leader, follower):
    return {"leader": leader, "follower": follower}


@pytest.mark.parametrize(
    ("observes", "actions", "message"),
    [
        (True, {"leader": 0}, "actions has no entry 'follower'"),
        (True, {"follower": [1, 1]}, "actions has no entry 'leader'"),
        (True, of(2, [1, 1]), "the action in state 0 for the leader is 2, not one of 0, ..., 1"),
        (
            True,
            of(0, 1),
            "the follower's answer has shape (), not (2,): it observes the leader, and answers "
            "each of its actions",
        ),
        (
            True,
            of(0, [0, 0]),  # not played, and still an error
            "action 0 is not available in state 0 after the leader's 1; available: 1, 2",
        ),
        (
            True,
            of(0, [3, 1]),
            "the action in state 0 after the leader's 0 is 3, not one of 0, ..., 2",
        ),
        (False, of(1, 2), "action 2 is not available in state 0 for the follower; available: 0, 1"),
        (
            False,
            of(1, [0, 1]),
            "the action in state 0 for the follower is [0, 1], not one of 0, ..., 2",
        ),
    ],
)
def test_a_wrong_action_is_refused_by_name_and_number(observes, actions, message):
    env = to_pettingzoo(patchy_game(observes=observes))
    seed = next(k for k in range(100) if env.reset(seed=k)[0]["leader"] == 0)
    env.reset(seed=seed)
    assert refusal(env.step, actions) == message


def test_there_is_no_step_outside_an_episode():
    env = to_pettingzoo(tb.problems.discrete_toy(), max_steps=1)
    moves = {"leader": 0, "follower": [0, 0]}
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        env.step(moves)
    env.reset(seed=1)
    env.step(moves)
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        env.step(moves)


def test_what_is_no_game_and_a_bad_limit_are_refused():
    found = refusal(to_pettingzoo, tb.problems.two_state())
    assert found == "game is a FeatureProblem, not a MarkovGame"
    for limit in (0, -1, 2.5, True):
        found = refusal(to_pettingzoo, tb.problems.discrete_toy(), max_steps=limit)
        assert found.startswith(f"max_steps is {limit}, not a positive whole number")
