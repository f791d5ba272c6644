"""Tables in float32 and float16, whose sums are further from 1: a model of them works."""

import copy
import pickle

import numpy as np
import pytest
import scipy.sparse as sp
from sizes import pairs, sizes
from small import features

import tabular_bilevel as tb

SCALARS = {"follower_discount": 0.5, "leader_discount": 0.75, "temperature": 0.5}
COARSE = pytest.mark.parametrize("dtype", [np.float32, np.float16])


def tables(dtype, *, seed=0, n_states=5, n_actions=3):
    """Draw tables whose distributions sum to 1 in their own dtype only."""
    rng = np.random.default_rng(seed)
    ends = np.where(rng.random((n_states, n_actions)) < 0.3, 0.25, 0.0)
    kernel = rng.dirichlet(np.ones(n_states), size=(n_states, n_actions)) * (1 - ends)[..., None]
    return {
        "transition": kernel.astype(dtype),
        "termination": ends.astype(dtype),
        "follower_reward": rng.normal(size=ends.shape).astype(dtype),
        "leader_reward": rng.normal(size=ends.shape).astype(dtype),
        "initial": rng.dirichlet(np.ones(n_states)).astype(dtype),
        **SCALARS,
    }


def game_tables(dtype, *, seed=0):
    rng = np.random.default_rng(seed)
    shape = 3, 2, 2
    return {
        "transition": rng.dirichlet(np.ones(3), size=shape).astype(dtype),
        "follower_reward": rng.normal(size=shape).astype(dtype),
        "leader_reward": rng.normal(size=shape).astype(dtype),
        "initial": rng.dirichlet(np.ones(3)).astype(dtype),
        **SCALARS,
    }


def moved(model, rng):
    """Make a problem of most of its tables."""
    names = ("follower_reward", "transition", "initial")
    return tb.FeatureProblem(model, **features(model, rng, 2, *names))


@COARSE
def test_what_is_drawn_here_is_coarse(dtype):
    model = tb.Model.from_tables(**tables(dtype))
    assert np.abs(model.row_mass + model.termination - 1.0).max() > 2e-9
    assert abs(model.initial.sum() - 1.0) > 2e-9


COPIES = {
    "replace": lambda m: m.replace(temperature=0.7),
    "replace all that it has": lambda m: m.replace(
        transition=m.transition, initial=m.initial, termination=m.termination
    ),
    "dense": lambda m: m.replace(
        transition=m.transition.toarray().reshape(m.n_states, m.n_actions, m.n_states)
    ),
    "fewer actions": lambda m: m.replace(
        available=np.arange(m.n_actions) < np.full((m.n_states, 1), 2)
    ),
    "with_rewards": lambda m: m.with_rewards(m.leader_reward, m.follower_reward),
    "with_initial": lambda m: m.with_initial(m.initial[::-1]),
    "with_temperature": lambda m: m.with_temperature(0.25),
    "like_transition": lambda m: m.replace(transition=m.like_transition(m.transition.data)),
    "copy": copy.deepcopy,
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
    "moved": lambda m: moved(m, np.random.default_rng(1)).model([3.0, -2.0]),
}


@COARSE
@sizes(("first", "then"), *pairs([*COPIES], [*COPIES]))
def test_copies_of_a_coarse_model_are_as_good_as_it(dtype, first, then):
    model = COPIES[then](COPIES[first](tb.Model.from_tables(**tables(dtype))))
    problem = moved(model, np.random.default_rng(2))
    assert tb.hypergradient(problem, [0.5, -1.0]).accuracy.proven


@COARSE
def test_a_coarse_table_does_not_excuse_others(dtype):
    given = tables(np.float64)
    model = tb.Model.from_tables(**given | {"initial": tables(dtype)["initial"]})
    kernel = model.transition * (1.0 + 1e-8)
    with pytest.raises(ValueError, match=r"transition\[0, 0\] sums to 1\.00000001, not 1"):
        model.replace(transition=kernel)
    model.replace(initial=model.initial)
    model = tb.Model.from_tables(**given | {"transition": tables(dtype)["transition"]})
    with pytest.raises(ValueError, match=r"initial sums to 1\.00000001, not 1"):
        model.with_initial(model.initial * (1.0 + 1e-8))


@COARSE
def test_a_missing_successor_is_seen_in_coarse_tables_too(dtype):
    model = tb.Model.from_tables(**tables(dtype))
    kernel = model.transition.toarray()
    kernel[4] *= 0.9
    with pytest.raises(ValueError, match=r"transition\[1, 1\] sums to"):
        model.replace(transition=sp.csr_array(kernel))


@COARSE
@pytest.mark.parametrize("seen", [True, False])
def test_coarse_games_work(dtype, seen):
    game = tb.MarkovGame(**game_tables(dtype), follower_observes_leader=seen)
    theta = np.linspace(-1.0, 1.0, game.n_parameters)
    assert tb.hypergradient(game, theta).accuracy.proven
    assert tb.check_gradient(game, theta).passed
    model = game.model(theta)
    assert model.replace(temperature=0.7).temperature == 0.7
    again = pickle.loads(pickle.dumps(game))
    assert tb.objective(again, theta) == tb.objective(game, theta)


@COARSE
def test_every_route_takes_a_coarse_model(dtype):
    model = tb.Model.from_tables(**tables(dtype))
    problem = moved(model, np.random.default_rng(3))
    theta = np.array([0.3, -0.2])
    assert tb.check_gradient(problem, theta).passed
    enclosed = tb.enclose(problem, theta)
    bounded = tb.hypergradient(problem, theta)
    away = np.abs(enclosed.gradient.centre - bounded.gradient)
    assert (away <= enclosed.gradient.radius + bounded.accuracy.gradient).all()


@COARSE
def test_coarse_outcomes_of_an_environment(dtype):
    gymnasium = pytest.importorskip("tabular_bilevel.adapters.gymnasium")
    third = dtype(1.0) / dtype(3.0)
    P = {s: {a: [(third, j, 0.0, False) for j in range(3)] for a in range(2)} for s in range(3)}
    model = gymnasium.from_gymnasium(
        P, leader_reward=np.zeros((3, 2)), initial=np.full(3, third), **SCALARS
    )
    assert model.replace(temperature=2.0).row_mass.max() == 3.0 * float(third)
    env = gymnasium.to_gymnasium(tb.FeatureProblem(model, follower_reward=np.ones((6, 1))), [0.0])
    env.reset(seed=0)
    assert env.step(1)[0] in range(3)


@COARSE
def test_a_coarse_model_comes_back_from_its_environment(dtype):
    gymnasium = pytest.importorskip("tabular_bilevel.adapters.gymnasium")
    model = tb.Model.from_tables(**tables(dtype))
    problem = tb.FeatureProblem(model, follower_reward=np.ones((model.follower_reward.size, 1)))
    settings = {name: getattr(model, name) for name in ("leader_reward", *SCALARS)}
    env = gymnasium.to_gymnasium(problem, [0.0])
    back = gymnasium.from_gymnasium(env, **settings).replace(temperature=0.7)
    assert (back.transition != model.transition).nnz == 0
    assert np.array_equal(back.initial, model.initial)
    with pytest.raises(ValueError, match=r"the probabilities in P\[0\]\[0\] sum to"):
        gymnasium.from_gymnasium(env.P, initial=model.initial, **settings)


@COARSE
def test_a_coarse_policy_is_one(dtype):
    model = tb.Model.from_tables(**tables(np.float64))
    policy = np.full((5, 3), dtype(1.0) / dtype(3.0))
    assert abs(policy[0].astype(float).sum() - 1.0) > 1e-9
    assert tb.sample_trajectories(model, policy, count=3, horizon=5, rng=0).count == 3


def test_sums_at_the_edge_of_what_is_accepted_can_be_moved():
    """A base that is just accepted has models at every theta, though those round otherwise."""
    rng = np.random.default_rng(4)
    given = tables(np.float64)
    given["termination"] = np.zeros_like(given["termination"])
    kernel = rng.dirichlet(np.ones(5), size=(5, 3))
    given["transition"] = kernel * ((1.0 + 1e-9 - 2e-15) / kernel.sum(axis=2, keepdims=True))
    base = tb.Model.from_tables(**given)
    problem = moved(base, rng)
    for theta in rng.normal(size=(20, 2)):
        problem.model(theta)
