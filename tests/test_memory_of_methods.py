"""No method holds a table of pairs by parameters, of parameters twice, or of steps by states."""

import tracemalloc
from functools import cache
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp

import tabular_bilevel as tb
from tabular_bilevel._base import arguments, arrays
from tabular_bilevel.checks.diagnosis import _Comparison
from tabular_bilevel.checks.judging import _across
from tabular_bilevel.estimators.zero_order import cubature
from tabular_bilevel.finite.tangents import stored
from tabular_bilevel.mistakes import knowledge, measured
from tabular_bilevel.mistakes.register import RIGHT
from tabular_bilevel.mistakes.road import Road, restarted

MANY = 1_500  # parameters: a table of them twice takes 18 MB
ROWS = np.random.default_rng(0).normal(size=(40, MANY))
LONG = 500  # steps, which with 1,000 states take 4 MB

# Blocks are made smaller, so that models may be.
SMALL_BLOCK = 2**15


@cache
def graph(n_states, n_parameters):
    """Make a random graph in which each parameter pays for its own share of the pairs."""
    base = tb.problems.garnet(n_states=n_states, branching=5, n_parameters=1).model([0.0])
    pairs = np.arange(base.follower_reward.size)
    base = base.replace(
        transition=0.9 * base.transition,
        termination=np.full(base.available.shape, 0.1),
        initial=np.eye(1, n_states)[0],
    )
    owner = (np.ones(pairs.size), (pairs, pairs % n_parameters))
    features = sp.csr_array(owner, shape=(pairs.size, n_parameters))
    return tb.FeatureProblem(base, follower_reward=features)


def at(n_states, n_parameters):
    return graph(n_states, n_parameters), np.zeros(n_parameters)


def game(n_states):
    """Make a game whose states are in a row, and the follower says which way to go."""
    places = np.arange(4 * n_states)
    to = (places // 4 + np.where(places % 2, 1, -1)) % n_states
    paid = np.random.default_rng(0).normal(size=(2, n_states, 2, 2))
    return tb.MarkovGame(
        transition=sp.csr_array((np.full(places.size, 0.9), (places, to))),
        termination=np.full((n_states, 2, 2), 0.1),
        follower_reward=paid[0],
        leader_reward=paid[1],
        initial=np.eye(1, n_states)[0],
        follower_discount=0.9,
        leader_discount=0.9,
        temperature=0.3,
    )


def checked(problem, theta, target, **settings):
    return tb.check_estimates(target + ROWS, problem, theta, target=target, **settings)


def comparison(*_):
    """Compare what is known exactly with what mistakes would make."""
    candidates = SimpleNamespace(singles={"one": ROWS[1], "other": ROWS[2]}, exact=ROWS[0])
    parts = {("direct", "a"): ROWS[0] / 2.0, ("through", "b"): ROWS[0] / 2.0}
    found = _Comparison(ROWS[:1] / 3.0, candidates, parts, 1e-10)
    return found.fits(ROWS), found.log_density_of_none()


def sparse_change(problem, theta):
    model = problem.model(theta)
    return stored(model.like_transition(np.ones(model.transition.nnz)), model)


def long(critic=None):
    return tb.Interaction(tb.Episodes(steps=LONG), critic=critic or tb.ExactCritic())


def replaying(problem, theta):
    known = long().limit(problem, theta)
    return measured.one_roll_out(RIGHT.rule(known), known)


# What is called, where, and how many MB it may hold at once: the tables would be twice as large.
CALLS = {
    "AMD": (14, lambda *at: tb.AdaptiveModelDesign(1)(*at, rng=0), (500, 500)),
    "AMD's target": (7, tb.AdaptiveModelDesign(1).target, (500, 500)),
    "lower limit": (14, lambda *at: tb.lower_limit(*at, tb.Episodes(steps=100)), (500, 120)),
    "score function": (
        10,
        lambda *at: tb.estimator_moments(*at, tb.ScoreFunction(), horizon=3),
        (200, 200),
    ),
    "a target of 0": (16, lambda *at: checked(*at, np.zeros(MANY)), (50, MANY)),
    "a direction": (30, lambda *at: checked(*at, ROWS[0], up_to_scale=True), (50, MANY)),
    "what is known exactly": (8, comparison, (5, 1)),
    "forward mode": (8, tb.forward_gradient, (5, MANY)),
    "cubature": (8, lambda *_: list(islice(cubature(MANY), 9)), (5, 1)),
    "a kernel's change": (8, sparse_change, (800, 1)),
    "a mistake on the road": (8, lambda *at: restarted(Road.at(*at)), (800, 1)),
    "a horizon": (2.5, lambda *at: tb.objective(*at, horizon=LONG), (1_000, 1)),
    "a critic's limit": (6, lambda *at: long(tb.MonteCarloCritic()).limit(*at).values, (1_000, 1)),
    "one roll-out": (8, replaying, (1_000, 1)),
    "the score's target": (6, tb.ScoreFunction(long()).target, (1_000, 1)),
    "moments of a cut": (
        5,
        lambda *at: tb.estimator_moments(*at, tb.NaivePolicyGradient(), horizon=LONG),
        (400, 1),
    ),
}


def held(call, *at):
    """Most MB that it holds at once beyond what was there."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        call(*at)
        return (tracemalloc.get_traced_memory()[1] - before) / 1e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", CALLS)
def test_blocks_take_the_place_of_tables(name, monkeypatch):
    monkeypatch.setattr(arrays, "BLOCK", SMALL_BLOCK)
    most, call, size = CALLS[name]
    assert held(call, *at(*size)) < most


def test_a_mistake_in_games_makes_no_table_of_states():
    known = tb.Interaction().limit(game(700), np.zeros(1_400))
    assert held(knowledge.modal_critic_of_both, known) < 8


TWO = tb.problems.two_state(), [0.0, 0.0]

# What is dense because it was asked for, with a limit of three numbers.
TOO_LARGE = {
    "AMD": (
        lambda: tb.AdaptiveModelDesign()(*TWO, rng=0),
        r"a table of derivatives, which AMD keeps, would be of shape \(2, 2\): 4 numbers",
    ),
    "lower limit": (
        lambda: tb.lower_limit(*TWO),
        r"a table of the limit would be of shape \(2, 2\): 4 numbers, more than 3",
    ),
    "jacobian": (
        lambda: tb.LeaderView(*TWO).jacobian,
        r"jacobian.follower_reward would be of shape \(2, 2, 2\): 8 numbers, more than 3",
    ),
    "covariance": (
        lambda: tb.estimator_moments(*TWO, tb.NaivePolicyGradient()).covariance,
        r"the covariance would be of shape \(2, 2\): 4 numbers, more than 3",
    ),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_dense_table_that_is_too_large_is_refused(name, monkeypatch):
    call, message = TOO_LARGE[name]
    call()
    monkeypatch.setattr(arguments, "MOST_NUMBERS", 3)
    with pytest.raises(ValueError, match=message):
        call()


def test_balls_for_pairs_of_many_states_are_refused():
    pytest.importorskip("flint")
    with pytest.raises(ValueError, match=r"the model has 4,001 states; enclose solves with balls"):
        tb.enclose(*at(4_001, 1))


@pytest.mark.parametrize("block", [1, 40, 2**20])
@pytest.mark.parametrize("count", [1, 2, 3, 10, 101])
def test_what_goes_back_over_steps_keeps_few_of_them(block, count, monkeypatch):
    monkeypatch.setattr(arrays, "BLOCK", block)
    made = []

    def onward(step):
        made.append(step)
        return step + 1

    assert list(arrays.backwards(onward, 0, count, 2)) == list(range(count))[::-1]
    assert len(made) < 2 * count


@pytest.mark.parametrize(("count", "width"), [(7, 3), (1, 1), (0, 5), (5, 1e9), (4, 0)])
def test_blocks_are_all_rows_once(count, width, monkeypatch):
    monkeypatch.setattr(arrays, "BLOCK", 10)
    parts = list(arrays.blocks(count, width))
    assert parts
    assert [k for part in parts for k in range(count)[part]] == list(range(count))
    assert all((part.stop - part.start) * width <= max(10, width) for part in parts)


NUMBERS = {
    "AMD": lambda *at: tb.AdaptiveModelDesign(9)(*at, rng=0).gradient,
    "lower limit": lambda *at: tb.lower_limit(*at, reward_variance=0.1).policy,
    "score function": lambda *at: tb.estimator_moments(*at, tb.ScoreFunction(), horizon=9).variance,
    "BC-HG": lambda *at: tb.estimator_moments(*at, tb.BoltzmannCovariance(), horizon=9).variance,
    "horizon": lambda *at: tb.hypergradient(*at, horizon=20).gradient,
    "critic": lambda *at: long(tb.MonteCarloCritic()).limit(*at).values.action_value,
}


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("kind", ["garnet", "layered", "discrete_toy"])
def test_blocks_do_not_change_the_numbers(name, kind, monkeypatch):
    problem = getattr(tb.problems, kind)()
    theta = np.linspace(-0.2, 0.3, problem.n_parameters)
    whole = NUMBERS[name](problem, theta)
    monkeypatch.setattr(arrays, "BLOCK", 1)
    np.testing.assert_allclose(
        NUMBERS[name](problem, theta), whole, rtol=1e-12, atol=1e-13 * np.abs(whole).max()
    )


@pytest.mark.parametrize("zeros", [0, 1, 2])
def test_the_plane_across_a_vector_is_that_of_gram_and_schmidt(zeros):
    rng = np.random.default_rng(zeros)
    forth = np.append(rng.normal(size=6), np.zeros(zeros))
    forth[2] = 0.0
    forth /= np.linalg.norm(forth)
    basis = _across(np.eye(forth.size), forth)
    np.testing.assert_allclose(basis.T @ basis, np.eye(forth.size - 1), atol=1e-14)
    np.testing.assert_allclose(forth @ basis, 0.0, atol=1e-14)
    plain = np.linalg.qr(np.column_stack([forth, np.eye(forth.size)]))[0][:, 1:6]
    np.testing.assert_allclose(np.abs(basis[:, :5]), np.abs(plain), atol=1e-14)
