"""Gymnasium: models of its environments, and environments of our models."""

import copy
import pickle
import re
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.toy_text import BlackjackEnv, CliffWalkingEnv, FrozenLakeEnv, TaxiEnv
from gymnasium.utils.env_checker import check_env
from hypothesis import assume, given
from laws import FALSE_ALARM_RATE, exact_law, smallest_chance
from sizes import sizes
from small import MODELS, refusal, tables

import tabular_bilevel as tb
from tabular_bilevel import strategies
from tabular_bilevel.adapters.gymnasium import FollowerEnv, from_gymnasium, to_gymnasium

# Sums of a few products of numbers of the size of the rewards.
ROUNDING = 1e-12

# The twin's sweeps stop when nothing moves by more than this.
SWEEP_TOLERANCE = 1e-10

SCALARS = {"follower_discount": 0.9, "leader_discount": 0.95, "temperature": 0.5}

TOYS = {"lake": FrozenLakeEnv, "cliff": CliffWalkingEnv, "taxi": TaxiEnv}

each_toy = pytest.mark.parametrize("make", TOYS.values(), ids=TOYS)
each_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def problem_of(model):
    """A leader's problem whose tables do not move."""
    return SimpleNamespace(model=lambda theta: model)


def model_of(env, **changes):
    """The model of an environment whose leader earns what the follower does."""
    P = getattr(env, "unwrapped", SimpleNamespace(P=env)).P
    n_actions = len(P[0])
    arguments = {"leader_reward": np.zeros((len(P), n_actions)), **SCALARS, **changes}
    model = from_gymnasium(env, **arguments)
    return model.with_rewards(model.follower_reward, model.follower_reward)


def objective(model):
    return tb.evaluate_leader(model, tb.solve_follower(model)).objective


def same_tables(one, other):
    """Chances as they are; a reward is an average over outcomes, and so right to rounding."""
    kept, wanted = (model.transition[model.available.ravel()] for model in (one, other))
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(wanted, name))
    for name in ("initial", "termination", "available"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert np.abs(one.follower_reward - other.follower_reward).max() <= ROUNDING


# ---------------------------------------------------------------- models of environments


def soft_values(P, *, discount, temperature, heed_the_end=True):
    """Soft value iteration on P as it stands, outcome by outcome."""
    value = np.zeros(len(P))
    while True:
        swept = np.array(
            [
                temperature
                * np.logaddexp.reduce(
                    [
                        sum(
                            p * (r + discount * value[following] * (not (end and heed_the_end)))
                            for p, following, r, end in outcomes
                        )
                        / temperature
                        for outcomes in row.values()
                    ]
                )
                for row in P.values()
            ]
        )
        if np.abs(swept - value).max() <= SWEEP_TOLERANCE:
            return swept
        value = swept


def off_by(model, P, **settings):
    """Largest difference of the follower's values from those of P, where episodes begin."""
    twin = soft_values(P, discount=0.5, temperature=model.temperature, **settings)
    ours = tb.solve_follower(model.replace(follower_discount=0.5)).value
    return np.abs(twin - ours)[model.initial > 0.0].max()


@each_toy
def test_values_are_those_of_the_environments_own_table(make):
    env = make()
    assert off_by(model_of(env), env.P) <= 2 * SWEEP_TOLERANCE


@pytest.mark.parametrize("make", [FrozenLakeEnv, TaxiEnv])
def test_a_table_read_without_its_ends_has_other_values(make):
    env = make()
    endless = {
        s: {a: [(*outcome[:3], False) for outcome in outcomes] for a, outcomes in row.items()}
        for s, row in env.P.items()
    }
    model, wrong = model_of(env), model_of(endless, initial=env.initial_state_distrib)
    assert off_by(model, env.P, heed_the_end=False) > 100 * SWEEP_TOLERANCE
    assert abs(objective(model) - objective(wrong)) > 0.01


@pytest.mark.parametrize("make", [CliffWalkingEnv, TaxiEnv])
def test_what_comes_after_the_end_does_not_matter(make):
    env = make()
    P = env.P
    entered, ended = set(), set()
    for row in P.values():
        for _, following, _, end in (outcome for listed in row.values() for outcome in listed):
            (ended if end else entered).add(following)
    after = (
        ended
        - {s for s in entered if s not in ended}
        - set(np.flatnonzero(env.initial_state_distrib))
    )
    assert after
    assert not all(end for s in after for listed in P[s].values() for *_, end in listed)
    treasure = {
        s: {a: [(1.0, 0, 1000.0, False)] for a in row} if s in after else row
        for s, row in P.items()
    }
    changed = model_of(treasure, initial=env.initial_state_distrib)
    # solved to the rounding of the largest value, which is now that of the treasure
    assert objective(changed) == pytest.approx(objective(model_of(env)), rel=ROUNDING)


def test_the_cliff_walk_takes_thirteen_steps():
    # Sutton and Barto (2018), example 6.6: up, eleven to the right, down, at -1 each; a follower
    # nearly without entropy gains at most temperature * log(4) / (1 - discount)
    model = model_of(CliffWalkingEnv(), temperature=1e-3, leader_discount=0.9)
    best = -(1 - 0.9**13) / (1 - 0.9)
    assert abs(objective(model) - best) <= 1e-3 * np.log(4) / (1 - 0.9)


def test_successors_that_the_lake_repeats_are_added_up():
    # in the corner, left slips to up, left and down: up and left stay
    model = model_of(FrozenLakeEnv())
    np.testing.assert_allclose(model.transition.toarray()[0, [0, 4]], [2 / 3, 1 / 3])


def test_successors_that_are_dropped_instead_are_missed():
    env = FrozenLakeEnv()
    thinned = {
        s: {a: list({entry[1]: entry for entry in listed}.values()) for a, listed in row.items()}
        for s, row in env.P.items()
    }
    found = refusal(model_of, thinned, initial=env.initial_state_distrib)
    assert re.match(r"the probabilities in P\[0\]\[0\] sum to 0.6666.*, not 1", found)


def test_wrappers_and_bare_tables_make_the_same_model():
    env = FrozenLakeEnv()
    model = model_of(env)
    same_tables(model_of(gymnasium.make("FrozenLake-v1")), model)
    same_tables(model_of(env.P, initial=env.initial_state_distrib), model)


def test_the_start_can_be_another_one():
    start = np.eye(16)[14]
    np.testing.assert_array_equal(model_of(FrozenLakeEnv(), initial=start).initial, start)


def test_taxis_action_mask_can_be_kept_to():
    env = TaxiEnv()
    mask = np.array([env.action_mask(s) for s in range(500)], dtype=bool)
    model = model_of(env, available=mask)
    np.testing.assert_array_equal(model.available, mask)
    assert (tb.solve_follower(model).policy[~mask] == 0.0).all()


def test_a_state_lacks_the_actions_that_its_row_lacks():
    P = {0: {0: [(1.0, 1, 0.0, False)], 1: [(1.0, 0, 2.0, True)]}, 1: {1: [(1, 0, 0, False)]}}
    model = model_of(P, initial=[1.0, 0.0])
    np.testing.assert_array_equal(model.available, [[True, True], [False, True]])
    np.testing.assert_array_equal(model.termination, [[0.0, 1.0], [1.0, 0.0]])
    np.testing.assert_array_equal(model.follower_reward, [[0.0, 2.0], [0.0, 0.0]])


def test_chances_that_add_up_to_a_rounding_above_one_end_for_certain():
    P = {0: {0: [(p, 0, 1.0, True) for p in (0.7, 0.1, 0.1, 0.1 + 1e-10)]}}
    assert model_of(P, initial=[1.0]).termination[0, 0] == 1.0


def walk(env, *, episodes, steps, seed, act):
    """Frequencies in the form of Trajectories; -1 is the end, and what follows it."""
    states, actions, following = np.full((3, episodes, steps), -1)
    for i in range(episodes):
        s, info = env.reset(seed=seed if i == 0 else None)
        for t in range(steps):
            a = act(info)
            arrived, _, terminated, _, info = env.step(a)
            states[i, t], actions[i, t], following[i, t] = s, a, -1 if terminated else arrived
            s = arrived
            if terminated:
                break
    return SimpleNamespace(
        states=states, actions=actions, next_states=following, mask=states >= 0, count=episodes
    )


def uniform(model):
    return model.available / model.available.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("start", "make"), [(None, FrozenLakeEnv), (None, CliffWalkingEnv), (14, FrozenLakeEnv)]
)
def test_environments_step_as_their_models_say(start, make):
    env, rng = make(), np.random.default_rng(1)
    if start is not None:  # next to the goal and to the hole
        env.initial_state_distrib = np.eye(16)[start]
    model = model_of(env)
    walked = walk(env, episodes=5000, steps=3, seed=2, act=lambda info: int(rng.integers(4)))
    assert smallest_chance(walked, exact_law(model, uniform(model), 3)) > FALSE_ALARM_RATE


GOOD = {0: {0: [(0.5, 0, 1.0, False), (0.5, 1, 0.0, True)]}, 1: {0: [(1.0, 1, 0.0, False)]}}


def having(*outcomes):
    return {**GOOD, 0: {0: list(outcomes)}}


SUM = "the probabilities in P[0][0] sum to"
OUTCOME = "(probability, next state, reward, terminated)"
REFUSED = [
    (BlackjackEnv(), "BlackjackEnv has no dictionary P of its transitions"),
    (3, "int has no dictionary P of its transitions"),
    (SimpleNamespace(P=[*GOOD.values()]), "SimpleNamespace has no dictionary P of its transitions"),
    ({0: GOOD[0], 2: GOOD[1]}, "P has 2 states, but P[1] is no dictionary of actions"),
    ({**GOOD, 1: [[]]}, "P has 2 states, but P[1] is no dictionary of actions"),
    ({**GOOD, 1: {2: GOOD[1][0]}}, "P[1][2] is not for one of the actions 0, ..., 1"),
    ({**GOOD, 1: {"left": GOOD[1][0]}}, "P[1][left] is not for one of the actions 0, ..., 1"),
    ({**GOOD, 1: {}}, "state 1 has no available action"),
    (having(), f"{SUM} 0, not 1"),
    (having((0.5, 0, 0, False), (0.25, 1, 0, True)), f"{SUM} 0.75, not 1"),
    (having((1.0, 0, 0)), f"P[0][0] holds (1.0, 0, 0), not {OUTCOME}"),
    (having(1), f"P[0][0] holds 1, not {OUTCOME}"),
    (having((1.5, 0, 0, False), (-0.5, 1, 0, True)), "a probability in P[0][0] is -0.5"),
    (having((np.nan, 0, 0, False)), "a probability in P[0][0] is nan, not a finite number"),
    (having((1.0, 0, -np.inf, False)), "a reward in P[0][0] is -inf, not a finite number"),
    (having((1.0, 2, 0, False)), "P[0][0] leads to 2, not to one of 2 states"),
    (having((1.0, -1, 0, True)), "P[0][0] leads to -1, not to one of 2 states"),
    (having((1.0, 0.5, 0, True)), "P[0][0] leads to 0.5, not to one of 2 states"),
    (having((1.0, 0, 0, 0.5)), "P[0][0] holds terminated = 0.5, not True or False"),
]


def test_a_bad_table_is_refused_by_name_and_number():
    usual = {"leader_reward": np.zeros((2, 2)), "initial": [1.0, 0.0], **SCALARS}
    for env, message in REFUSED:
        assert refusal(from_gymnasium, env, **usual) == message
    for env, changes, message in (
        (TaxiEnv(fickle_passenger=True), {}, "TaxiEnv has a fickle passenger, whose changes of"),
        (GOOD, {"initial": None}, "nothing says where episodes start; give initial"),
        (GOOD, {"leader_reward": np.zeros((2, 3))}, "leader_reward has shape (2, 3), not (2, 1)"),
        (GOOD, {"temperature": 0.0}, "temperature is 0.0, not a positive finite number"),
    ):
        found = refusal(from_gymnasium, env, **usual | {"leader_reward": [[0.0]] * 2} | changes)
        assert found.startswith(message)


# ---------------------------------------------------------------- environments of models


def apart():
    """Possible first states without a common action."""
    return MODELS["patchy"].replace(
        available=np.arange(15).reshape(5, 3) % 3 == [[0], [1], [2], [0], [1]]
    )


@pytest.mark.parametrize("name", tb.problems.CATALOGUE)
def test_gymnasiums_checker_is_content_with_every_problem(name):
    problem = tb.problems.CATALOGUE[name]()
    env = to_gymnasium(problem, np.zeros(problem.n_parameters))
    check_env(env, skip_render_check=True)  # there is nothing to render


@given(strategies.models())
def test_gymnasiums_checker_is_content_with_actions_that_are_not_everywhere(model):
    assume(model.available[model.initial > 0.0].all(axis=0).any())
    check_env(FollowerEnv(model), skip_render_check=True)


def test_a_space_that_does_not_know_the_state_does_not_pass_it():
    only_one = np.arange(20)[None] == 7
    nothing = dict.fromkeys(("follower_reward", "leader_reward"), np.zeros((1, 20)))
    kernel = np.ones((1, 20, 1))
    env = FollowerEnv(tables(transition=kernel, initial=[1.0], available=only_one, **nothing))
    check_env(env, skip_render_check=True)
    env.action_space = gymnasium.spaces.Discrete(20)
    with pytest.raises(ValueError, match="is not available in state 0; available: 7"):
        check_env(env, skip_render_check=True)


def test_an_action_drawn_before_the_reset_may_be_missing_after_it():
    with pytest.raises(ValueError, match="is not available in state"):
        check_env(FollowerEnv(apart()), skip_render_check=True)


@given(strategies.models())
def test_there_and_back_again_the_tables_are_the_same(model):
    env = to_gymnasium(problem_of(model), [0.0], max_steps=3)
    back = from_gymnasium(
        env, **{name: getattr(model, name) for name in ("leader_reward", *SCALARS)}
    )
    same_tables(back, model)
    np.testing.assert_array_equal(back.leader_reward, model.leader_reward)


def test_the_follower_is_that_of_the_problem_at_theta():
    game = tb.problems.random_game(n_states=3, rng=4)
    theta = np.random.default_rng(1).normal(size=game.n_parameters)
    same_tables(to_gymnasium(game, theta).model, game.model(theta))
    same_tables(to_gymnasium(game, list(theta)).model, game.model(theta))


@sizes("model", [MODELS["patchy"]], [model for name, model in MODELS.items() if name != "patchy"])
def test_steps_and_draws_have_the_frequencies_of_the_tables(model):
    env = FollowerEnv(model)
    env.action_space.seed(3)
    walked = walk(env, episodes=5000, steps=3, seed=2, act=lambda info: env.action_space.sample())
    assert smallest_chance(walked, exact_law(model, uniform(model), 3)) > FALSE_ALARM_RATE


@pytest.mark.parametrize(
    "change",
    [
        lambda model: {
            "transition": 0.8 * model.transition,
            "termination": 1.0 - 0.8 * model.row_mass,
        },
        lambda model: {"initial": 0.5 * model.initial + 0.5 * np.eye(model.n_states)[0]},
    ],
    ids=["kernel", "start"],
)
def test_frequencies_of_other_tables_are_noticed(change):
    model = MODELS["patchy"]
    env = FollowerEnv(model.replace(**change(model)))
    walked = walk(env, episodes=5000, steps=3, seed=2, act=lambda info: env.action_space.sample())
    assert smallest_chance(walked, exact_law(model, uniform(model), 3)) < FALSE_ALARM_RATE


@each_model
def test_rewards_and_masks_are_those_of_the_tables(model):
    env = FollowerEnv(model)
    ends = 0
    s, info = env.reset(seed=1)
    assert set(info) == {"action_mask"}
    for _ in range(200):
        np.testing.assert_array_equal(info["action_mask"], model.available[s])
        a = env.action_space.sample(info["action_mask"])
        arrived, reward, terminated, truncated, info = env.step(a)
        assert reward == model.follower_reward[s, a]
        assert info["leader_reward"] == model.leader_reward[s, a]
        assert truncated is False
        assert env.observation_space.contains(arrived)
        if terminated:
            ends += 1
            assert arrived == s
            arrived, info = env.reset()
        s = arrived
    assert (ends > 0) == (model.termination[model.available] > 0.0).any()


def test_a_limit_truncates():
    env = to_gymnasium(tb.problems.two_state(), np.zeros(2), max_steps=3)
    env.reset(seed=1)
    assert [env.step(0)[3] for _ in range(3)] == [False, False, True]


def test_a_seed_repeats_and_the_stream_goes_on():
    def path(env, seed):
        starts = [env.reset(seed=seed)[0]]
        env.action_space.seed(seed)
        for _ in range(30):
            starts.append(env.step(env.action_space.sample())[:2])
            if starts[-1] == 0:
                break
        return starts, env.reset()[0], env.np_random.bit_generator.state

    env = FollowerEnv(MODELS["garnet"])
    assert path(env, 5) == path(env, 5) == path(FollowerEnv(MODELS["garnet"]), 5)
    assert path(env, 5) != path(env, 6)


def test_draws_after_a_seed_do_not_depend_on_the_state():
    available = np.array([[1, 1, 1], [0, 1, 1], [1, 1, 0], [0, 1, 0], [1, 1, 1]], dtype=bool)
    env = FollowerEnv(MODELS["patchy"].replace(available=available))
    drawn = set()
    for seed in range(20):
        env.reset(seed=seed)
        env.action_space.seed(1)
        drawn.add(int(env.action_space.sample()))
    assert drawn == {1}  # what every first state has


def test_copies_and_vectors_work():
    env = to_gymnasium(tb.problems.two_state(), np.zeros(2))
    env.reset(seed=1)
    for other in (copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        assert other.step(0)[:4] == copy.deepcopy(env).step(0)[:4]
    envs = gymnasium.vector.SyncVectorEnv([lambda: env, lambda: copy.deepcopy(env)])
    envs.reset(seed=1)
    assert envs.step(np.array([0, 0]))[0].shape == (2,)


def test_an_action_that_the_state_lacks_is_an_error():
    env = FollowerEnv(tb.problems.two_state().model(np.zeros(2)).with_initial([0.0, 1.0]))
    env.reset(seed=1)
    assert refusal(env.step, 1) == "action 1 is not available in state 1; available: 0"
    for action in (2, -1, 0.0, None):
        found = refusal(env.step, action)
        assert found == f"the action in state 1 is {action}, not one of 0, ..., 1"
    env.step(np.array(0))  # and the episode goes on


def test_there_is_no_step_outside_an_episode():
    env = FollowerEnv(tb.problems.layered().model(np.zeros(tb.problems.layered().n_parameters)))
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        env.step(0)
    env.reset(seed=1)
    while not env.step(0)[2]:
        pass
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        env.step(0)


def test_a_bad_theta_or_limit_is_refused():
    loop = tb.problems.two_state()
    assert refusal(to_gymnasium, loop, [0.0, np.nan]) == "theta[1] is nan, not a finite number"
    for limit in (0, -1, 2.5, True):
        found = refusal(to_gymnasium, loop, np.zeros(2), max_steps=limit)
        assert found.startswith(f"max_steps is {limit}, not a positive whole number")
