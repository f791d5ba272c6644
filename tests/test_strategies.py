"""What the strategies promise: sizes and ranges are kept, and the hard cases do occur."""

import numpy as np
import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample
from small import each_refused

import tabular_bilevel as tb
from tabular_bilevel import strategies

searching = settings(phases=[Phase.generate])
TABLES = ("follower_reward", "leader_reward", "transition", "initial")

shrinking = settings(max_examples=60, phases=[Phase.generate, Phase.shrink])


def unseen(strategy, conditions, *, most=150):
    """Name the conditions that hold for none of so many draws."""
    left = dict(conditions)

    @settings(searching, max_examples=most)
    @given(strategy)
    def drawn(value):
        for name in [name for name, holds in left.items() if holds(value)]:
            del left[name]

    drawn()
    return [*left]


def occurs(strategy, condition, *, most=500):
    try:
        find(strategy, condition, settings=settings(searching, max_examples=most))
    except NoSuchExample:
        return False
    return True


def reachable(model):
    """States with a positive probability of being visited, by the supports alone."""
    step = np.zeros((model.n_states, model.n_states), dtype=bool)
    rows, columns = model.transition.toarray().nonzero()
    step[rows // model.n_actions, columns] = True
    seen = model.initial > 0.0
    for _ in range(model.n_states):
        seen = seen | (seen @ step)
    return seen


def is_multiple(table, step):
    return np.array_equal(table, np.round(table / step) * step)


# --- models ---------------------------------------------------------------------------------------


@given(strategies.models(
    min_states=2, max_states=3, min_actions=2, max_actions=4, min_discount=0.25, max_discount=0.8,
    min_temperature=0.3, max_temperature=0.7, max_reward=1.0,
))  # fmt: skip
def test_models_keep_to_their_ranges(model):
    assert 2 <= model.n_states <= 3
    assert 2 <= model.n_actions <= 4
    assert 0.25 <= model.follower_discount <= 0.8
    assert 0.25 <= model.leader_discount <= 0.8
    assert 0.3 <= model.temperature <= 0.7
    for reward in (model.follower_reward, model.leader_reward):
        assert np.abs(reward).max() <= 1.0
        assert is_multiple(reward, 1 / 8)


@given(strategies.models())
def test_models_have_small_whole_weights(model):
    """Every row is whole numbers over their sum, at most 6 outcomes of weight up to 5."""
    table = np.column_stack([model.transition.toarray(), model.termination.ravel()])
    for row in table[model.available.ravel()]:
        assert any(np.allclose(row * total, np.round(row * total)) for total in range(1, 31))


@given(strategies.models(allow_unavailable=False, allow_termination=False))
def test_what_is_not_allowed_does_not_occur(model):
    assert model.available.all()
    assert not model.termination.any()


def test_models_of_every_kind_occur():
    conditions = {
        "one state": lambda m: m.n_states == 1,
        "five states": lambda m: m.n_states == 5,
        "one action": lambda m: m.n_actions == 1,
        "three actions": lambda m: m.n_actions == 3,
        "an unavailable action": lambda m: not m.available.all(),
        "all actions available": lambda m: m.available.all(),
        "certain end": lambda m: (m.termination[m.available] == 1.0).any(),
        "chance of an end": lambda m: ((m.termination > 0.0) & (m.termination < 1.0)).any(),
        "no end": lambda m: not m.termination[m.available].any(),
        "sure step": lambda m: m.n_states > 1 and (m.transition.data == 1.0).any(),
        "unreachable state": lambda m: not reachable(m).all(),
        "state without initial mass": lambda m: (m.initial == 0.0).any(),
        "dense kernel": lambda m: m.n_states > 2 and (m.transition.toarray() > 0.0).all(),
        "sparse kernel": lambda m: m.n_states > 2 and m.transition.nnz <= m.transition.shape[0],
        "stored zero": lambda m: (m.transition.data[m.available.ravel()[m.entry_row]] == 0.0).any(),
        "myopic follower": lambda m: m.follower_discount == 0.0,
        "far-sighted leader": lambda m: m.leader_discount == 0.99,
        "patient follower": lambda m: m.follower_discount > m.leader_discount,
        "cold": lambda m: m.temperature < 0.1,
        "hot": lambda m: m.temperature > 3.0,
    }
    assert unseen(strategies.models(), conditions) == []


def test_a_search_for_what_never_occurs_fails():
    assert not occurs(strategies.models(max_states=2), lambda model: model.n_states > 2, most=50)


def test_models_shrink_to_the_plainest():
    model = find(strategies.models(), lambda model: True, settings=shrinking)
    assert (model.n_states, model.n_actions) == (1, 1)
    assert not model.follower_reward.any()
    assert not model.leader_reward.any()
    assert not model.termination.any()
    assert (model.follower_discount, model.leader_discount, model.temperature) == (0.0, 0.0, 1.0)


@pytest.mark.slow
def test_models_shrink_to_what_matters():
    model = find(
        strategies.models(), lambda model: (model.follower_reward >= 1.0).any(), settings=shrinking
    )
    assert model.follower_reward.tolist() == [[1.0]]
    assert model.transition.toarray().tolist() == [[1.0]]


@given(strategies.models(min_discount=0.9, max_discount=0.9, min_temperature=3, max_temperature=3))
def test_a_range_of_one_number_is_that_number(model):
    assert (model.follower_discount, model.leader_discount, model.temperature) == (0.9, 0.9, 3.0)


# --- problems -------------------------------------------------------------------------------------


@given(
    strategies.problems(bases=strategies.models(max_states=2), min_parameters=2, max_parameters=4)
)
def test_problems_keep_to_their_ranges(problem):
    assert problem.base.n_states <= 2
    assert 2 <= problem.n_parameters <= 4
    for table in TABLES:
        assert np.isin(getattr(problem, table).data, [-2.0, -1.0, 1.0, 2.0]).all()


@given(strategies.problems(allow_transition=False, allow_initial=False))
def test_a_table_that_may_not_move_has_no_features(problem):
    assert problem.transition.nnz == problem.initial.nnz == 0


@pytest.mark.parametrize("table", TABLES)
def test_each_table_moves_in_some_problems_and_not_in_others(table):
    assert occurs(strategies.problems(), lambda problem: getattr(problem, table).nnz > 0)
    assert occurs(strategies.problems(), lambda problem: getattr(problem, table).nnz == 0)


# --- games ----------------------------------------------------------------------------------------


@given(strategies.games(
    min_states=2, max_states=2, min_leader_actions=2, max_leader_actions=3, min_actions=1,
    max_actions=2, min_discount=0.5, max_discount=0.9, min_temperature=1.0, max_temperature=2.0,
    max_reward=0.5,
))  # fmt: skip
def test_games_keep_to_their_ranges(game):
    assert game.n_states == 2
    assert 2 <= game.n_leader_actions <= 3
    assert 1 <= game.n_actions <= 2
    assert 0.5 <= game.follower_discount <= 0.9
    assert 0.5 <= game.leader_discount <= 0.9
    assert 1.0 <= game.temperature <= 2.0
    assert np.abs(game.leader_reward).max() <= 0.5


def test_games_of_every_kind_occur():
    conditions = {
        "observed": lambda g: g.follower_observes_leader,
        "hidden": lambda g: not g.follower_observes_leader,
        "one leader action": lambda g: g.n_leader_actions == 1,
        "two leader actions": lambda g: g.n_leader_actions == 2,
        "a leader that forbids": lambda g: (
            g.follower_observes_leader and (g.available != g.available[:, :1]).any()
        ),
        "hidden, with an unavailable action": lambda g: (
            not g.follower_observes_leader and not g.available.all()
        ),
        "an end": lambda g: (g.termination[g.available] > 0.0).any(),
    }
    assert unseen(strategies.games(), conditions) == []


@given(strategies.games(allow_observed=False, allow_unavailable=False, allow_termination=False))
def test_games_of_a_kind_not_allowed_do_not_occur(game):
    assert not game.follower_observes_leader
    assert game.available.all()
    assert not game.termination.any()


# --- parameters and policies ----------------------------------------------------------------------


@given(strategies.thetas(tb.problems.discrete_toy(), max_size=1.5))
def test_thetas_are_multiples_of_a_quarter(theta):
    assert theta.shape == (6,)
    assert theta.dtype == np.float64
    assert np.abs(theta).max() <= 1.5
    assert is_multiple(theta, 1 / 4)


@given(strategies.models().flatmap(lambda m: st.tuples(st.just(m), strategies.policies(m))))
def test_policies_are_distributions_over_available_actions(drawn):
    model, policy = drawn
    assert policy.shape == model.available.shape
    assert (policy >= 0.0).all()
    assert not policy[~model.available].any()
    np.testing.assert_allclose(policy.sum(axis=1), 1.0, rtol=1e-15)


def test_policies_may_be_mixed_or_pure():
    model = tb.problems.garnet(n_states=2, n_actions=2, branching=2).base
    assert occurs(strategies.policies(model), lambda policy: (policy == 1.0).any())
    assert occurs(strategies.policies(model), lambda policy: (policy > 0.0).all())


# --- instances of the zoo -------------------------------------------------------------------------


@given(strategies.instances(families=["tied", "game-observed"], max_states=5))
def test_instances_are_of_their_families_and_sizes(instance):
    assert instance.name in ("tied", "game-observed")
    assert instance.problem.model(instance.theta).n_states <= 5


def test_instances_of_every_family_occur():
    for name in ("masks", "wild"):
        found = strategies.instances(families=["masks", "wild"])
        assert occurs(found, lambda instance, name=name: instance.name == name)


# --- arguments ------------------------------------------------------------------------------------


def test_a_wrong_argument_is_named_at_once():
    tables = dict.fromkeys(("allow_rewards", "allow_transition", "allow_initial"), False)
    each_refused(
        (lambda: strategies.models(min_states=4, max_states=3), "min_states is 4, larger than"),
        (lambda: strategies.models(min_actions=0), "min_actions is 0"),
        (lambda: strategies.models(max_discount=1.0), "max_discount is 1.0"),
        (lambda: strategies.models(min_discount=0.5, max_discount=0.25), "min_discount is 0.5"),
        (lambda: strategies.models(min_temperature=0.0), "min_temperature is 0.0"),
        (lambda: strategies.models(max_reward=-1.0), "max_reward is -1.0"),
        (lambda: strategies.games(min_leader_actions=3), "min_leader_actions is 3"),
        (lambda: strategies.games(allow_observed=False, allow_hidden=False), "no kind of game"),
        (lambda: strategies.problems(max_parameters=0), "max_parameters is 0"),
        (lambda: strategies.problems(**tables), "no table may depend"),
        (lambda: strategies.instances(families=["tie"]), "no family is called 'tie'"),
        (lambda: strategies.instances(families=[]), "families is empty"),
        (lambda: strategies.instances(max_states=0), "max_states is 0"),
        (lambda: strategies.thetas(tb.problems.bandit(), max_size=np.inf), "max_size is inf"),
    )
