"""What `MarkovGame` accepts and every message of a refusal."""

import numpy as np
import pytest
import scipy.sparse as sp
from small import put, refusal

import tabular_bilevel as tb

STATES, LEADER_ACTIONS, ACTIONS = 2, 3, 2
SHAPE = (STATES, LEADER_ACTIONS, ACTIONS)

# Multiples of 1/8: sums are exact.
KERNEL = np.stack(
    [np.arange(12).reshape(SHAPE) % 9 / 8, 1 - np.arange(12).reshape(SHAPE) % 9 / 8], -1
)
FOLLOWER = np.arange(12.0).reshape(SHAPE)
LEADER = 1.0 - FOLLOWER / 4
NO_ENDS = np.zeros(SHAPE)

both_sights = pytest.mark.parametrize("observes", [True, False], ids=["seen", "hidden"])


def tables(**changes):
    return {
        "transition": KERNEL.copy(),
        "follower_reward": FOLLOWER.copy(),
        "leader_reward": LEADER.copy(),
        "initial": np.array([0.25, 0.75]),
        "follower_discount": 0.9,
        "leader_discount": 0.8,
        "temperature": 0.5,
        **changes,
    }


def game(**changes):
    return tb.MarkovGame(**tables(**changes))


def flat(kernel=KERNEL):
    return kernel.reshape(-1, STATES)


def assert_same_model(model, other):
    np.testing.assert_array_equal(model.transition.toarray(), other.transition.toarray())
    for name in ("follower_reward", "leader_reward", "initial", "termination", "available"):
        np.testing.assert_array_equal(getattr(model, name), getattr(other, name), err_msg=name)


THETA = np.array([0.5, -1.0, 0.0, 2.0, 0.25, 0.0])

# ---------------------------------------------------------------- what is accepted


def test_a_game_says_its_sizes_and_who_sees_whom():
    assert str(game()) == (
        "MarkovGame: 2 states, 3 leader actions, 2 follower actions; the follower observes the "
        "leader"
    )
    assert str(game(follower_observes_leader=False)).endswith("does not observe the leader")
    assert game().n_parameters == 6


def test_tables_are_kept_as_given():
    played = game()
    np.testing.assert_array_equal(played.transition.toarray(), flat())
    np.testing.assert_array_equal(played.follower_reward, FOLLOWER)
    np.testing.assert_array_equal(played.leader_reward, LEADER)
    np.testing.assert_array_equal(played.initial, [0.25, 0.75])
    np.testing.assert_array_equal(played.termination, NO_ENDS)
    assert played.available.all()
    for name in ("follower_reward", "leader_reward", "initial", "termination", "available"):
        assert not getattr(played, name).flags.writeable
    assert not played.transition.data.flags.writeable


@both_sights
@pytest.mark.parametrize("form", ["csr", "csc", "coo", "lil"])
def test_sparse_and_dense_kernels_agree(form, observes):
    given = getattr(sp, f"{form}_array")(flat())
    sparse = game(transition=given, follower_observes_leader=observes)
    dense = game(follower_observes_leader=observes)
    assert_same_model(sparse.model(THETA), dense.model(THETA))


@both_sights
def test_lists_and_float32_agree(observes):
    wanted = game(follower_observes_leader=observes).model(THETA)
    arrays = {k: v for k, v in tables().items() if np.ndim(v) > 0}
    for given in (
        {k: v.tolist() for k, v in arrays.items()},
        {k: v.astype(np.float32) for k, v in arrays.items()},
        {k: np.asfortranarray(v) for k, v in arrays.items()},
    ):
        assert_same_model(game(**given, follower_observes_leader=observes).model(THETA), wanted)


def test_the_arguments_are_neither_changed_nor_shared():
    given = tables(
        follower_reward=put(FOLLOWER, (0, slice(None), 1), -np.inf),
        leader_reward=put(LEADER, (0, 0, 1), np.nan),
        transition=put(KERNEL, (0, 0, 1), np.nan),
        termination=put(NO_ENDS, (0, 0, 1), np.nan),
    )
    before = {k: np.array(v) for k, v in given.items()}
    played = tb.MarkovGame(**given)
    for name, array in before.items():
        np.testing.assert_array_equal(given[name], array)
        if array.ndim > 0 and name != "transition":
            assert not np.shares_memory(given[name], getattr(played, name))
            assert given[name].flags.writeable


@both_sights
@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf, -3.0, 7.0])
def test_whatever_stands_at_forbidden_actions_is_ignored(junk, observes):
    mask = np.ones(SHAPE, bool)
    mask[1, :, 0] = False
    played, clean = (
        game(
            transition=np.where(mask[..., None], KERNEL, there),
            follower_reward=np.where(mask, FOLLOWER, -np.inf),
            leader_reward=np.where(mask, LEADER, there),
            termination=np.where(mask, 0.0, there),
            follower_observes_leader=observes,
        )
        for there in (junk, 0.0)
    )
    np.testing.assert_array_equal(played.available, mask)
    assert_same_model(played.model(THETA), clean.model(THETA))


def test_a_follower_that_sees_the_leader_may_be_forbidden_actions_by_it():
    played = game(follower_reward=put(FOLLOWER, (0, 1, 0), -np.inf))
    available = played.model(THETA).available
    assert np.argwhere(~available).tolist() == [[1, 0]]  # state (0, 1), action 0


@both_sights
def test_games_may_end(observes):
    ends = NO_ENDS.copy()
    ends[0, 1], ends[1, :, 1] = 0.5, 1.0
    played = game(
        transition=KERNEL * (1.0 - ends)[..., None],
        termination=ends,
        follower_observes_leader=observes,
    )
    f = played.leader_policy(THETA)
    wanted = ends.reshape(6, 2) if observes else np.einsum("sb,sba->sa", f, ends)
    # a mean over three leader actions
    np.testing.assert_allclose(played.model(THETA).termination, wanted, rtol=1e-15, atol=1e-16)


# ---------------------------------------------------------------- refused tables

# Tables are refused alike whether or not the follower sees the leader.
# A table, what is wrong with it, and what the message says after its name.
SHORT = put(KERNEL, (1, 2, 1), [0.5, 0.3])
BAD_TABLES = [
    ("transition", SHORT, "[1, 2, 1] sums to 0.8, not 1"),
    ("transition", sp.csr_array(flat(SHORT)), "[1, 2, 1] sums to 0.8, not 1"),
    ("transition", put(KERNEL, (0, 2, 0), [1.5, -0.5]), "[0, 2, 0, 1] is -0.5, not a probability"),
    ("transition", put(KERNEL, (1, 1, 1, 0), np.nan), "[1, 1, 1, 0] is nan, not a probability"),
    (
        "transition",
        sp.coo_array(
            (
                [*flat().ravel(), -0.5, 0.5],
                ([*np.repeat(np.arange(12), 2), 5, 5], [*np.tile([0, 1], 12), 0, 0]),
            )
        ),
        "[0, 2, 1, 0] is -0.5, not a probability",
    ),
    ("follower_reward", put(FOLLOWER, (0, 1, 1), np.nan), "[0, 1, 1] is nan, not a finite number"),
    ("follower_reward", put(FOLLOWER, (0, 1, 1), np.inf), "[0, 1, 1] is inf, not a finite number"),
    ("leader_reward", put(LEADER, (1, 2, 0), np.nan), "[1, 2, 0] is nan, not a finite number"),
    ("leader_reward", put(LEADER, (1, 2, 0), -np.inf), "[1, 2, 0] is -inf, not a finite number"),
    ("termination", put(NO_ENDS, (0, 0, 1), -0.5), "[0, 0, 1] is -0.5, not a probability"),
    ("termination", put(NO_ENDS, (0, 0, 1), np.nan), "[0, 0, 1] is nan, not a probability"),
    ("termination", put(NO_ENDS, (0, 0, 1), 1.5), "[0, 0, 1] is 1.5, larger than 1"),
    ("initial", [0.5, 0.4], " sums to 0.9, not 1"),
    ("initial", [1.5, -0.5], "[1] is -0.5, not a probability"),
    ("initial", [np.nan, 1.0], "[0] is nan, not a probability"),
    ("initial", np.full(6, 1 / 6), " has shape (6,), not (2,)"),
    ("follower_reward", FOLLOWER[:, 0], " has shape (2, 2), not (1+, 1+, 1+)"),
    ("leader_reward", LEADER[:, :2], " has shape (2, 2, 2), not (2, 3, 2)"),
    ("transition", KERNEL[:, :2], " has shape (2, 2, 2, 2), not (2, 3, 2, 2)"),
    ("transition", flat(), " has shape (12, 2), not (2, 3, 2, 2)"),
    ("termination", np.zeros((2, 2)), " has shape (2, 2), not (2, 3, 2)"),
    ("follower_reward", np.zeros((0, 3, 2)), " has shape (0, 3, 2), not (1+, 1+, 1+)"),
    ("follower_reward", np.zeros((2, 0, 2)), " has shape (2, 0, 2), not (1+, 1+, 1+)"),
    ("follower_reward", np.zeros((2, 3, 0)), " has shape (2, 3, 0), not (1+, 1+, 1+)"),
    ("transition", KERNEL + 0j, " has dtype complex128; real numbers are needed"),
    ("follower_reward", FOLLOWER > 0, " has dtype bool; real numbers are needed"),
    ("leader_reward", LEADER.astype(str), " has dtype <U32; real numbers are needed"),
    ("initial", [None, 1.0], " has dtype object; real numbers are needed"),
    ("termination", NO_ENDS + 0j, " has dtype complex128; real numbers are needed"),
    ("follower_reward", [[[0.0], [0.0, 1.0]]], " is not a rectangular array of numbers"),
    ("initial", [[0.5], 0.5], " is not a rectangular array of numbers"),
    ("follower_discount", 1.0, " is 1.0, not in [0, 1)"),
    ("leader_discount", -0.1, " is -0.1, not in [0, 1]"),
    ("leader_discount", np.nan, " is nan, not in [0, 1]"),
    ("temperature", 0.0, " is 0.0, not a positive finite number"),
    ("temperature", -1.0, " is -1.0, not a positive finite number"),
    ("temperature", np.inf, " is inf, not a positive finite number"),
    ("temperature", np.nan, " is nan, not a positive finite number"),
    ("temperature", [1.0], " has shape (1,); one number is needed"),
]

REFUSED = [
    (
        {"transition": sp.csr_array(flat()[:6])},
        "transition has shape (6, 2), not (12, 2) (one row a state and action)",
    ),
    *(({name: bad}, name + words) for name, bad, words in BAD_TABLES),
    (
        {"termination": put(NO_ENDS, (1, 0, 1), 0.25)},
        "transition[1, 0, 1] sums to 1, not 1 - termination = 0.75",
    ),
    (
        {"follower_reward": put(FOLLOWER, (1, 2), -np.inf)},
        "state 1 after the leader's action 2 has no available follower action",
    ),
    (
        {
            "termination": put(NO_ENDS, (0, 1, 1), 1.0 + 1e-11),
            "transition": put(KERNEL, (0, 1, 1), 0.0),
        },
        "termination[0, 1, 1] is 1.00000000001, larger than 1",
    ),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_bad_tables_are_refused_by_name_and_number(changes, message):
    for observes in (True, False):
        assert refusal(game, **changes, follower_observes_leader=observes) == message


@pytest.mark.parametrize(("forbidden", "other"), [((0, 2, 1), 2), ((0, 0, 1), 1)])
def test_a_follower_that_cannot_see_the_leader_cannot_be_forbidden_actions_by_it(forbidden, other):
    message = (
        f"action 1 of state 0 is available after one of the leader's actions 0 and {other} only, "
        "which a follower that does not observe the leader cannot know"
    )
    reward = put(FOLLOWER, forbidden, -np.inf)
    assert refusal(game, follower_reward=reward, follower_observes_leader=False) == message


@pytest.mark.parametrize("sight", ["no", None, 0.5, [True]])
def test_sight_is_a_yes_or_a_no(sight):
    found = refusal(game, follower_observes_leader=sight)
    assert found.startswith("follower_observes_leader ")


# ---------------------------------------------------------------- changed games


@both_sights
def test_a_changed_game_is_the_one_made_anew(observes):
    reward = put(FOLLOWER, (1, slice(None), 0), -np.inf)
    settings = {"follower_reward": reward, "follower_observes_leader": observes}
    settings["state_names"] = ["in", "out"]
    before = game(**settings)
    changes = {"temperature": 0.1, "leader_discount": 0.5, "leader_reward": -LEADER}
    after, anew = before.replace(**changes), game(**{**settings, **changes})
    assert (after.temperature, after.leader_discount) == (0.1, 0.5)
    assert after.state_names == ("in", "out")
    assert_same_model(after.model(THETA), anew.model(THETA))
    assert before.temperature == 0.5
    everything = before.replace(follower_reward=FOLLOWER)
    assert everything.available.all()
    assert not after.available.all()


def test_a_game_of_float32_may_be_changed():
    kernel = np.array([1.0 / 3.0, 2.0 / 3.0 + 1e-6], np.float32)
    coarse = game(transition=np.broadcast_to(kernel, (*SHAPE, 2)))
    assert coarse.replace(temperature=2.0).temperature == 2.0


def test_bad_changes_are_refused():
    with pytest.raises(TypeError, match=r"^MarkovGame has no argument 'temprature'$"):
        game().replace(temprature=1.0)
    found = refusal(game().replace, temperature=-1.0)
    assert found == "temperature is -1.0, not a positive finite number"
    assert refusal(game().replace, initial=[0.4, 0.5]) == "initial sums to 0.9, not 1"


# ---------------------------------------------------------------- policies by name


def test_logits_are_those_of_the_policy():
    played = game(state_names=["in", "out"])
    policy = [[0.2, 0.3, 0.5], [1 / 3, 1 / 3, 1 / 3]]
    theta = played.logits({"in": policy[0]})
    np.testing.assert_allclose(played.leader_policy(theta), policy, rtol=1e-14)
    np.testing.assert_array_equal(theta, game().logits({0: policy[0]}))
    assert played.parameter_names[:4] == ("f(0|in)", "f(1|in)", "f(2|in)", "f(0|out)")
    assert game().parameter_names is None


def test_the_followers_model_has_the_games_names():
    names = ["in", "out"]
    seen, hidden = (game(state_names=names, follower_observes_leader=o) for o in (True, False))
    assert seen.model(THETA).state_names == ("in/0", "in/1", "in/2", "out/0", "out/1", "out/2")
    assert hidden.model(THETA).state_names == ("in", "out")
    assert game().model(THETA).state_names is None


def test_bad_policies_are_refused():
    for policy, message in (
        ({"in": [0.2, 0.3, 0.4]}, "f(.|in) sums to 0.9, not 1"),
        ({"in": [0.5, 0.5]}, "f(.|in) has shape (2,), not (3,)"),
        ({"in": [0.5, 0.6, -0.1]}, "f(.|in)[2] is -0.1, not a probability"),
        ({"in": [0.5, np.nan, 0.5]}, "f(.|in)[1] is nan, not a probability"),
        ({"out": [0.5, 0.0, 0.5]}, "f(1|out) is 0, which no finite logit gives"),
        ({"on": [0.5, 0.0, 0.5]}, "no state is called 'on'; there are in, out"),
        ({0: [0.5, 0.0, 0.5]}, "no state is called 0; there are in, out"),
        ({"in": "abc"}, "f(.|in) has dtype <U3; real numbers are needed"),
        ([0.5, 0.5], "policy is [0.5, 0.5], not a mapping from states to probabilities"),
    ):
        assert refusal(game(state_names=["in", "out"]).logits, policy) == message


def test_bad_names_are_refused():
    for names, message in (
        (["in"], "state_names has 1 names, not 2"),
        (["in", "in"], "state_names[1] is 'in', and so is state_names[0]"),
        ("io", "state_names is 'io', not a sequence of names"),
        (["in", 1], "state_names[1] is 1, not a string"),
    ):
        assert refusal(game, state_names=names) == message


# ---------------------------------------------------------------- theta


@both_sights
@pytest.mark.parametrize("size", [800.0, 1.5e308])
def test_extreme_logits_are_pure_policies(size, observes):
    theta = np.array([size, -size, 0.0, -size, size, size])
    played = game(follower_observes_leader=observes)
    # size / 2 apart, exp underflows
    np.testing.assert_array_equal(played.leader_policy(theta), [[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]])
    assert np.isfinite(tb.hypergradient(played, theta).gradient).all()
