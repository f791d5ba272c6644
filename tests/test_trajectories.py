"""Sampling: errors, conventions, frequencies against exact laws."""

import itertools
from functools import partial

import numpy as np
import pytest
from laws import FALSE_ALARM_RATE, exact_law, smallest_chance
from small import MODELS, put, refusal

import tabular_bilevel as tb
from tabular_bilevel.sampling import trajectories
from tabular_bilevel.sampling.trajectories import row_blocks

# Sums of a few products of numbers of the size of 1.
ROUNDING = 1e-12


each_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def sample(model, *, count=50, horizon=6, rng=0, policy=None):
    chosen = tb.solve_follower(model).policy if policy is None else policy
    return tb.sample_trajectories(model, chosen, count=count, horizon=horizon, rng=rng)


def same(one, other):
    names = ("states", "actions", "next_states", "follower_reward", "leader_reward", "lengths")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


# ---------------------------------------------------------------- conventions


@each_model
def test_beyond_the_end_there_is_padding(model):
    drawn = sample(model, horizon=9)
    assert drawn.count == 50
    assert drawn.states.shape == (50, drawn.lengths.max())
    np.testing.assert_array_equal(drawn.mask.sum(axis=1), drawn.lengths)
    assert drawn.mask[:, 0].all()
    for name in ("states", "actions", "next_states"):
        assert (getattr(drawn, name)[~drawn.mask] == -1).all()
    for name in ("states", "actions"):
        assert (getattr(drawn, name)[drawn.mask] >= 0).all()
    for name in ("follower_reward", "leader_reward"):
        table, earned = getattr(model, name), getattr(drawn, name)
        assert (earned[~drawn.mask] == 0.0).all()
        pairs = drawn.states[drawn.mask], drawn.actions[drawn.mask]
        np.testing.assert_array_equal(earned[drawn.mask], table[pairs])
    for name in ("states", "actions", "next_states", "follower_reward", "leader_reward", "lengths"):
        assert not getattr(drawn, name).flags.writeable
    # a step starts where the one before led, and what is not cut has ended
    later = drawn.mask[:, 1:]
    np.testing.assert_array_equal(drawn.next_states[:, :-1][later], drawn.states[:, 1:][later])
    assert (drawn.next_states[:, :-1][later] >= 0).all()
    last = drawn.next_states[np.arange(50), drawn.lengths - 1]
    np.testing.assert_array_equal(drawn.terminated, last == -1)
    assert (drawn.lengths[~drawn.terminated] == 9).all()


@each_model
def test_only_possible_steps_are_drawn(model):
    policy = tb.solve_follower(model).policy
    drawn = sample(model, count=500)
    dense = model.transition.toarray()
    for s, a, following in zip(
        *(table[drawn.mask] for table in tables_of(drawn).values()), strict=True
    ):
        assert policy[s, a] > 0.0
        row = dense[s * model.n_actions + a]
        assert (row[following] if following >= 0 else model.termination[s, a]) > 0.0


@pytest.mark.parametrize(("horizon", "longest"), [(1, 1), (3, 3), (4, 4), (1000, 4)])
def test_the_horizon_cuts_and_columns_end_with_the_longest(horizon, longest):
    drawn = sample(MODELS["layered"], horizon=horizon)  # of depth 4
    assert drawn.states.shape == (50, longest)
    assert (drawn.lengths == longest).all()
    assert (drawn.terminated == (horizon >= 4)).all()


def test_a_sample_says_its_sizes():
    for horizon, said in ((9, "12 steps, longest 4, 3 ended"), (2, "6 steps, longest 2, 0 ended")):
        drawn = sample(MODELS["layered"], count=3, horizon=horizon)
        assert str(drawn) == f"Trajectories: 3, {said} by themselves"


# ---------------------------------------------------------------- tables


@each_model
def test_tables_can_be_read_again(model):
    drawn = sample(model, horizon=9)
    again = tb.Trajectories(**tables_of(drawn), lengths=drawn.lengths, model=model)
    assert again.complete == 50
    for name in ("pairs", "entries", "lengths", "states", "actions", "next_states"):
        np.testing.assert_array_equal(getattr(again, name), getattr(drawn, name))
        assert getattr(again, name).dtype == getattr(drawn, name).dtype
        assert not getattr(again, name).flags.writeable


def tables_of(drawn):
    return {name: getattr(drawn, name).copy() for name in ("states", "actions", "next_states")}


@pytest.mark.parametrize(
    ("name", "number"),
    [("states", -1), ("states", 3), ("actions", -1), ("actions", 2), ("next_states", 2),
     ("next_states", 0), ("next_states", -1), ("next_states", -2), ("next_states", 10**6)],
)  # fmt: skip
def test_steps_that_the_model_cannot_make_are_named(name, number):
    model = tb.problems.layered(depth=3, width=1).base
    drawn = sample(model, count=3)
    tables = tables_of(drawn)
    tables[name][2, 0] = number
    step = [tables[table][2, 0] for table in tables]
    message = (
        f"step 0 of trajectory 2, state {step[0]}, action {step[1]}, next state {step[2]}, is none "
        "of the model's"
    )
    assert refusal(tb.Trajectories, **tables, lengths=drawn.lengths, model=model) == message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lengths": [3, 3, 4]}, "lengths[2] is 4, not within 3 columns"),
        ({"lengths": [3, 0, 3]}, "lengths[1] is 0, not a positive whole number"),
        ({"lengths": [3, 2.5, 3]}, "lengths[0] is 3.0, not a positive whole number"),
        ({"lengths": [3, 3]}, "lengths has shape (2,), and states (3, 3), not (count,)"),
        ({"actions": np.zeros((3, 2), int)}, "actions has shape (3, 2), not that of states, (3, "),
    ],
)
def test_tables_that_do_not_fit_are_refused(changes, message):
    model = tb.problems.layered(depth=3, width=1).base
    drawn = sample(model, count=3)
    given = tables_of(drawn) | {"lengths": drawn.lengths, "model": model} | changes
    assert refusal(tb.Trajectories, **given).startswith(message)


def test_a_model_without_transitions_has_trajectories_of_one_step():
    base = tb.problems.two_state().base
    model = base.replace(transition=0.0 * base.transition, termination=np.ones((2, 2)))
    drawn = sample(model)
    again = tb.Trajectories(**tables_of(drawn), lengths=drawn.lengths, model=model)
    np.testing.assert_array_equal(again.entries, -1)


@each_model
def test_a_part_is_the_rows_alone(model):
    drawn = sample(model, horizon=9)
    for rows in (slice(1), slice(7, 20), slice(49, 50), slice(0, 50), slice(50, 60)):
        part = drawn.part(rows)
        assert part.complete == part.count == len(range(50)[rows])
        for name in ("states", "actions", "next_states", "leader_reward"):
            np.testing.assert_array_equal(getattr(part, name), getattr(drawn, name)[rows])


@each_model
def test_blocks_of_trajectories_are_whole_and_in_order(model, monkeypatch):
    drawn = sample(model, horizon=9)
    (whole,) = drawn.blocks()
    for array, name in zip(whole, ("pairs", "entries", "lengths"), strict=True):
        np.testing.assert_array_equal(array, getattr(drawn, name))
    for most in (1, 20, 100):
        monkeypatch.setattr(trajectories, "STEPS_OF_A_BLOCK", most)
        blocks = list(drawn.blocks())
        for array, parts in zip(whole, zip(*blocks, strict=True), strict=True):
            np.testing.assert_array_equal(array, np.concatenate(parts))
        for pairs, _, lengths in blocks:
            assert pairs.size == lengths.sum()
            assert pairs.size <= most or lengths.size == 1


@each_model
def test_what_compiled_code_fills_in_parts_is_the_same(model, monkeypatch):
    whole = sample(model, horizon=9)
    monkeypatch.setattr(trajectories, "STEPS_BETWEEN_RETURNS", 20)
    assert same(whole, sample(model, horizon=9))


# ---------------------------------------------------------------- randomness


@each_model
def test_the_same_seed_gives_the_same_sample(model):
    one = sample(model, rng=7)
    assert same(one, sample(model, rng=7))
    assert same(one, sample(model, rng=np.int32(7)))
    assert same(one, sample(model, rng=np.random.default_rng(7)))
    assert not same(one, sample(model, rng=8))


@each_model
def test_a_generator_advances_by_one_number_a_start_and_two_a_step(model):
    rng, other = np.random.default_rng(7), np.random.default_rng(7)
    first, second = sample(model, rng=rng), sample(model, rng=rng)
    assert not same(first, second)
    other.random(first.count + 2 * first.lengths.sum())
    assert same(second, sample(model, rng=other))
    assert rng.bit_generator.state == other.bit_generator.state


def test_the_policy_is_not_changed_and_need_not_be_an_array_of_floats():
    model = tb.problems.two_state().base
    policy = [[0, 1], [1, 0]]
    drawn = sample(model, policy=policy, horizon=3)
    assert policy == [[0, 1], [1, 0]]
    assert (drawn.actions[:, 0] == 1).all()
    given = np.array(policy, dtype=np.float32)
    assert same(drawn, sample(model, policy=given, horizon=3))
    assert given.flags.writeable


# ---------------------------------------------------------------- frequencies


@each_model
def test_frequencies_are_those_of_the_exact_law(model):
    policy = tb.solve_follower(model).policy
    law = exact_law(model, policy, 6)
    drawn = sample(model, count=100_000)
    assert smallest_chance(drawn, law) > FALSE_ALARM_RATE


@each_model
def test_the_exact_law_has_the_evaluations_occupancy(model):
    response = tb.solve_follower(model)
    law = exact_law(model, response.policy, 6).sum(axis=(2, 3))
    discounted = model.leader_discount ** np.arange(6) @ law
    exact = tb.evaluate_leader(model, response, horizon=6).occupancy
    assert np.abs(discounted - exact).max() <= ROUNDING


SLIGHTLY_OTHER = {
    "temperature": lambda model: {"temperature": 1.1 * model.temperature},
    "kernel": lambda model: {
        "transition": 0.97 * model.transition,
        "termination": 1.0 - 0.97 * model.row_mass,
    },
    "start": lambda model: {"initial": 0.97 * model.initial + 0.03 * np.eye(model.n_states)[0]},
}


@pytest.mark.parametrize("change", SLIGHTLY_OTHER.values(), ids=SLIGHTLY_OTHER)
def test_frequencies_of_a_slightly_different_law_are_noticed(change):
    model = MODELS["patchy"]
    law = exact_law(model, tb.solve_follower(model).policy, 6)
    drawn = sample(model.replace(**change(model)), count=100_000)
    assert smallest_chance(drawn, law) < FALSE_ALARM_RATE


# ---------------------------------------------------------------- errors

HALVES = np.array([[0.5, 0.5], [1.0, 0.0]])
halves = partial(put, HALVES)


REFUSED = [
    ({"policy": halves((0, 1), 0.3)}, "policy[0] sums to 0.8, not 1"),
    ({"policy": halves((0, 1), 0.75)}, "policy[0] sums to 1.25, not 1"),
    ({"policy": halves(0, [1.5, -0.5])}, "policy[0, 1] is -0.5, not a probability"),
    ({"policy": halves((1, 0), np.nan)}, "policy[1, 0] is nan, not a finite number"),
    ({"policy": halves((1, 0), np.inf)}, "policy[1, 0] is inf, not a finite number"),
    ({"policy": halves(1, [0.75, 0.25])}, "policy[1, 1] is 0.25 for an unavailable action"),
    ({"policy": HALVES[:1]}, "policy has shape (1, 2), not (2, 2)"),
    ({"policy": HALVES[0]}, "policy has shape (2,), not (2, 2)"),
    ({"policy": HALVES + 0j}, "policy has dtype complex128; real numbers are needed"),
    ({"policy": HALVES == 1.0}, "policy has dtype bool; real numbers are needed"),
    ({"policy": [[0.5, 0.5], [1.0]]}, "policy is not a rectangular array of numbers"),
    ({"policy": None}, "policy has dtype object; real numbers are needed"),
    ({"count": 0}, "count is 0, not a positive whole number"),
    ({"count": -3}, "count is -3, not a positive whole number"),
    ({"count": 2.5}, "count is 2.5, not a positive whole number"),
    ({"count": True}, "count is True, not a positive whole number"),
    ({"count": None}, "count is None, not a positive whole number"),
    ({"count": [2]}, "count is [2], not a positive whole number"),
    ({"horizon": 0}, "horizon is 0, not a positive whole number"),
    ({"horizon": -1}, "horizon is -1, not a positive whole number"),
    ({"horizon": 3.0}, "horizon is 3.0, not a positive whole number"),
    ({"horizon": np.inf}, "horizon is inf, not a positive whole number"),
    ({"rng": -1}, "rng is -1, not a numpy Generator or a seed of at least 0"),
]


def test_bad_settings_are_refused_by_name_and_number():
    usual = {"policy": HALVES, "count": 2, "horizon": 3, "rng": 0}
    model = tb.problems.two_state().base
    for changes, message in REFUSED:
        assert refusal(tb.sample_trajectories, model, **usual | changes) == message


def test_randomness_has_no_default():
    with pytest.raises(TypeError, match="rng"):
        tb.sample_trajectories(tb.problems.two_state().base, HALVES, count=2, horizon=3)


# ---------------------------------------------------------------- parts


def test_trajectories_are_drawn_one_after_another():
    model, rng = tb.problems.garnet().model(np.zeros(6)), np.random.default_rng(3)
    whole = sample(model, count=5, horizon=7, rng=3)
    parts = [sample(model, count=n, horizon=7, rng=rng) for n in (2, 3)]
    for name in ("states", "actions", "next_states", "leader_reward"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_array_equal(getattr(whole, name), joined)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (7, 10**7), (12_000_001, 1), (1000, 20_000)])
def test_blocks_are_short_and_cover_all_rows(rows, columns):
    blocks = list(row_blocks(rows, columns))
    assert blocks[0].start == 0
    assert blocks[-1].stop >= rows
    for before, after in itertools.pairwise(blocks):
        assert before.stop == after.start
    assert all((block.stop - block.start) * columns <= max(columns, 5_000_000) for block in blocks)
