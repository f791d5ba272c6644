"""A leader's discount of 1: allowed where play ends, refused elsewhere."""

import dataclasses
import json
from functools import partial

import numpy as np
import pytest
import scipy.sparse as sp
from small import each_refused, features, tables

import tabular_bilevel as tb
from tabular_bilevel.certify import bounds as bounding
from tabular_bilevel.check_certificate import RejectedError, check_certificate
from tabular_bilevel.finite import linear

THETA = np.array([0.2, -0.4])


undiscounted = partial(tables, leader_discount=1.0)


def quits(*leaks, pay=(1.0, 0.3), **settings):
    """One state; action a ends play with probability leaks[a], and pays the leader pay[a]."""
    n_actions = len(leaks)
    usual = {
        "transition": [[[1.0 - leak] for leak in leaks]],
        "termination": [leaks],
        "follower_reward": [[0.0] * n_actions],
        "leader_reward": [pay[:n_actions]],
        "initial": [1.0],
    }
    return undiscounted(**usual | settings)


def paid(base):
    """Pay the follower for each of its actions, and move the temperature with the second."""
    n_pairs = base.follower_reward.size
    pays = np.zeros((n_pairs, 2))
    pays[0, 0] = pays[-1, 1] = 1.0
    return tb.FeatureProblem(base, follower_reward=pays, temperature=[0.0, 0.7])


def maze(*, seed=0, n_states=6, **settings):
    """Random play that a third of the pairs may end, half of them with certainty."""
    rng = np.random.default_rng(seed)
    shape = n_states, 3
    ends = rng.choice([0.0, 0.3, 1.0], p=[0.66, 0.17, 0.17], size=shape)
    ends[0, 0] = 0.5
    kernel = rng.dirichlet(np.ones(n_states), size=shape) * (1.0 - ends)[..., None]
    usual = {
        "transition": kernel,
        "termination": ends,
        "follower_reward": rng.normal(size=shape),
        "leader_reward": rng.normal(size=shape),
        "initial": rng.dirichlet(np.ones(n_states)),
        "temperature": 0.4,
    }
    base = undiscounted(**usual | settings)
    return tb.FeatureProblem(base, **features(base, rng, 2))


LAYERED = tb.FeatureProblem(
    tb.problems.layered(depth=3, width=2, rng=2).base.replace(leader_discount=1.0),
    follower_reward=np.random.default_rng(0).normal(size=(12, 2)),
    transition=np.random.default_rng(1).normal(size=(16, 2)),
    temperature=[0.5, -0.5],
)


# ---------------------------------------------------------------- closed forms


@pytest.mark.parametrize("leak", [1.0, 0.5, 1e-3, 1e-9])
def test_a_geometric_number_of_steps_has_its_mean(leak):
    problem = tb.FeatureProblem(quits(leak, pay=(2.0,)), leader_reward=[[1.0]])
    result = tb.hypergradient(problem, [0.0])
    assert result.objective == pytest.approx(2.0 / leak, rel=1e-6)
    assert result.evaluation.occupancy[0] == pytest.approx(1.0 / leak, rel=1e-6)
    assert abs(result.objective - 2.0 / leak) <= result.accuracy.objective + 1e-16 / leak**2
    assert result.gradient[0] == pytest.approx(1.0 / leak, rel=1e-6)


def test_two_ways_to_quit_have_the_derivative_of_a_ratio():
    # J = pi.r / pi.q with pi the softmax of theta / temperature, but for what the future differs
    base = quits(0.25, 0.5, follower_discount=0.0, pay=(1.0, 0.3))
    problem = tb.FeatureProblem(base, follower_reward=np.eye(2))
    result = tb.hypergradient(problem, THETA)
    weights = np.exp(THETA / 0.5)
    policy, pay, leak = weights / weights.sum(), np.array([1.0, 0.3]), np.array([0.25, 0.5])
    mean, ends = policy @ pay, policy @ leak
    assert result.objective == pytest.approx(mean / ends, rel=1e-14)
    slope = policy * ((pay - mean) * ends - mean * (leak - ends)) / ends**2 / 0.5
    np.testing.assert_allclose(result.gradient, slope, rtol=1e-12)
    assert result.accuracy.level is tb.Level.BOUNDED


def test_discounts_near_1_come_to_the_same():
    problem = maze()
    near = maze(leader_discount=1.0 - 1e-9)
    one, other = (tb.hypergradient(p, THETA) for p in (problem, near))
    assert one.objective == pytest.approx(other.objective, rel=1e-6)
    np.testing.assert_allclose(one.gradient, other.gradient, rtol=1e-5)


# ---------------------------------------------------------------- routes, bounds, enclosures


def game():
    rng = np.random.default_rng(5)
    kernel = rng.dirichlet(np.ones(3), size=(3, 2, 2)) * 0.75
    return tb.MarkovGame(
        transition=kernel,
        termination=np.full((3, 2, 2), 0.25),
        follower_reward=rng.normal(size=(3, 2, 2)),
        leader_reward=rng.normal(size=(3, 2, 2)),
        initial=[1.0, 0.0, 0.0],
        follower_discount=0.9,
        leader_discount=1.0,
        temperature=0.5,
    )


PROBLEMS = {
    "two ways to quit": paid(quits(0.3, 1e-3)),
    "maze": maze(),
    "sparse maze": maze(n_states=40, seed=4),
    "layers": LAYERED,
    "game": game(),
}


def theta_of(problem):
    return np.random.default_rng(3).normal(size=problem.n_parameters)


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_all_routes_agree(problem):
    report = tb.check_gradient(problem, theta_of(problem))
    assert report.passed, str(report)
    assert len(report.comparisons) == 3


@pytest.mark.parametrize("banded", [True, False], ids=["within a band", "by a solver"])
@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_results_are_bounded_and_enclosed(problem, banded, monkeypatch):
    pytest.importorskip("flint")
    monkeypatch.setattr(bounding, "is_banded", lambda _: banded)
    theta = theta_of(problem)
    result, proof = tb.hypergradient(problem, theta), tb.enclose(problem, theta)
    assert result.accuracy.level is tb.Level.BOUNDED
    off = np.abs(result.gradient - proof.gradient.centre)
    assert np.all(off <= result.accuracy.gradient + proof.gradient.radius)
    assert abs(result.objective - proof.objective.centre) <= (
        result.accuracy.objective + proof.objective.radius
    )
    assert result.accuracy.gradient.max() <= 1e-7 * np.abs(result.gradient).max()
    assert check_certificate(json.loads(json.dumps(proof.certificate()))) <= 1024


def test_large_models_are_solved_and_bounded():
    n = 2000
    kernel = np.zeros((n, 2, n), dtype=np.float32)
    kernel[np.arange(n), 0, np.minimum(np.arange(n) + 1, n - 1)] = 0.5
    kernel[np.arange(n), 1, np.maximum(np.arange(n) - 1, 0)] = 0.5
    base = undiscounted(
        transition=sp.csr_array(kernel.reshape(2 * n, n).astype(np.float64)),
        termination=np.full((n, 2), 0.5),
        follower_reward=np.random.default_rng(0).normal(size=(n, 2)),
        leader_reward=np.ones((n, 2)),
        initial=np.eye(n)[0],
        temperature=0.3,
    )
    problem = tb.FeatureProblem(base, leader_reward=np.ones((2 * n, 1)))
    result = tb.hypergradient(problem, [0.0])
    assert result.objective == pytest.approx(2.0, rel=1e-12)
    assert result.accuracy.level is tb.Level.BOUNDED


# ---------------------------------------------------------------- what has no end


def test_a_state_that_never_ends_is_named():
    kernel = np.zeros((5, 2, 5))
    kernel[0, :, 1] = kernel[1, :, 0] = 1.0
    kernel[2, 0, 3] = kernel[2, 1, 2] = 1.0
    kernel[3, :, 4] = kernel[4, :, 3] = 1.0  # from here there is no way out
    ends = np.zeros((5, 2))
    ends[1, 1], kernel[1, 1] = 1.0, 0.0
    rewards = dict.fromkeys(("follower_reward", "leader_reward"), np.zeros((5, 2)))
    make = partial(tables, transition=kernel, termination=ends, initial=np.eye(5)[0], **rewards)
    with pytest.raises(ValueError, match="leader_discount is 1, and from state 2 the episode nev"):
        make(leader_discount=1.0)
    assert make(leader_discount=1.0 - 2.0**-53).n_states == 5
    ends[4, 0], kernel[4, 0] = 0.5, 0.5 * kernel[4, 0]
    assert make(leader_discount=1).leader_discount == 1.0


def test_an_end_at_an_unavailable_action_or_on_a_path_of_stored_zeros_is_none():
    ends, model = "from state 0 the episode never ends", quits(0.5, 0.25)
    kernel = sp.csr_array(([1.0, 0.0], [0, 1], [0, 2, 2]), shape=(2, 2))
    rewards = dict.fromkeys(("follower_reward", "leader_reward"), np.zeros((2, 1)))
    stored = partial(undiscounted, transition=kernel, termination=[[0.0], [1.0]], **rewards)
    assert model.with_rewards(model.follower_reward, model.leader_reward).leader_discount == 1.0
    copied = partial(model.replace, termination=[[0.0, 0.0]], transition=[[[1.0], [1.0]]])
    unavailable = partial(quits, 0.0, 0.5, available=[[True, False]])
    each_refused((unavailable, ends), (stored, ends), (copied, ends))


# A loop that gains 2^-52 a step: the sum of its steps has no end, yet the equations a solution.
GAINING = {"transition": [[[1.0 + 2.0**-52]]], "termination": [[1e-12]]}

# An action that the follower takes once in exp(2000) steps: an end in truth, none in float64.
RARELY = {"follower_reward": [[1000.0, 0.0]]}


ROUTES = {
    "bounded": tb.hypergradient,
    "estimate": partial(tb.hypergradient, accuracy=tb.Estimated()),
    "objective": tb.objective,
    "forward": tb.forward_gradient,
    "complex step": tb.complex_step_gradient,
    "differences": tb.difference_gradient,
    "exact": partial(tb.ExactGradient(), rng=0),
}


@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES)
@pytest.mark.parametrize(
    "base",
    [quits(0.0, pay=(1.0,), **GAINING), quits(0.0, 0.5, **RARELY)],
    ids=["a gaining loop", "a rare end"],
)
@pytest.mark.parametrize("banded", [True, False], ids=["within a band", "by a solver"])
def test_float64_does_not_solve_what_it_cannot_see_the_end_of(base, route, banded, monkeypatch):
    monkeypatch.setattr(bounding, "is_banded", lambda _: banded)
    pays = 1e-3 * np.eye(base.follower_reward.size)[:, :1]
    problem = tb.FeatureProblem(base, follower_reward=pays)
    with pytest.raises(ValueError, match="state 0 the follower's policy ends the episode too rare"):
        route(problem, [0.0])


def test_a_gaining_loop_is_not_enclosed():
    pytest.importorskip("flint")
    problem = tb.FeatureProblem(quits(0.0, pay=(1.0,), **GAINING), leader_reward=[[1.0]])
    with pytest.raises(ValueError, match="what the leader earns has no end"):
        tb.enclose(problem, [0.0])


@pytest.mark.parametrize("leak", [1e-6, 1e-12, 1e-15])
def test_slow_ends_are_certified_and_bounded_or_said_to_be_unbounded(leak):
    pytest.importorskip("flint")
    problem = paid(quits(leak, leak / 2.0))
    proof = tb.enclose(problem, THETA)
    assert 0.3 / leak < proof.objective.lower <= proof.objective.upper < 2.0 / leak
    assert check_certificate(proof.certificate()) <= 1024
    result = tb.hypergradient(problem, THETA)
    if result.accuracy.proven:
        assert abs(result.objective - proof.objective.centre) <= (
            result.accuracy.objective + proof.objective.radius
        )
    else:
        assert leak < 1e-14
        assert "leader_discount is 1" in result.accuracy.reason


def test_a_rare_end_is_enclosed_where_its_number_fits():
    pytest.importorskip("flint")
    # once in exp(80) steps
    base = quits(0.0, 0.5, follower_reward=[[40.0, 0.0]], follower_discount=0.0)
    problem = tb.FeatureProblem(base, leader_reward=np.eye(2)[:, :1])
    proof = tb.enclose(problem, [0.0])
    assert proof.objective.lower > 1e30
    assert check_certificate(proof.certificate()) <= 1024


# ---------------------------------------------------------------- certificates


@pytest.fixture(scope="module")
def certificate():
    pytest.importorskip("flint")
    return json.dumps(tb.enclose(maze(), THETA).certificate())


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (lambda steps: ["-" + x for x in steps], "a number of steps is negative"),
        (lambda steps: ["0x0p+0"] * len(steps), "the steps do not show that play from state 0"),
        (lambda steps: [steps[0], "0x1p+20", *steps[2:]], "the steps do not show that play"),
        (lambda steps: steps[:-1], "proof.steps has 5 entries, not 6"),
    ],
    ids=["negative", "none", "too many", "too short"],
)
def test_steps_that_show_no_end_are_rejected(certificate, steps, message):
    document = json.loads(certificate)
    assert check_certificate(document) <= 512
    document["proof"]["steps"] = steps(document["proof"]["steps"])
    with pytest.raises(RejectedError, match=message):
        check_certificate(document)


def test_rougher_steps_show_an_end_as_well(certificate):
    document = json.loads(certificate)
    document["proof"]["steps"] = [
        f"{int(mantissa, 16) * 1001:#x}p{int(exponent) - 10:+d}"
        for mantissa, exponent in (x.split("p") for x in document["proof"]["steps"])
    ]
    assert check_certificate(document) <= 512


# ---------------------------------------------------------------- samples


@pytest.mark.parametrize("own_action", [False, True])
def test_bc_hg_is_unbiased_where_play_has_layers(own_action):
    method = tb.BoltzmannCovariance(own_action=own_action)
    report = tb.check_by_enumeration(method, LAYERED, THETA)
    assert report.passed, str(report)


def test_episodes_are_as_long_as_the_longest():
    assert tb.Episodes().horizon(LAYERED.model(THETA)) == 3
    assert tb.StepBudget(100).horizon(LAYERED.model(THETA)) == 3
    assert tb.Episodes(steps=7).horizon(maze().model(THETA)) == 7


def test_estimators_converge_to_the_exact_gradient_where_play_has_layers():
    exact = tb.hypergradient(LAYERED, THETA).gradient
    methods = (tb.ExactGradient(), tb.BoltzmannCovariance())
    for method in (*methods, tb.TruncatedNeumann(terms=5), tb.AdaptiveModelDesign(sweeps=20)):
        np.testing.assert_allclose(method.target(LAYERED, THETA), exact, rtol=1e-9)
    sampled = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(20_000)))(LAYERED, THETA, rng=0)
    assert np.abs(sampled.gradient - exact).max() < 0.2 * np.abs(exact).max()


def test_critics_learn_without_a_discount():
    exact = tb.hypergradient(LAYERED, THETA).gradient
    for critic in (tb.MonteCarloCritic(), tb.SarsaCritic(sweeps=1, cut_is_end=True)):
        method = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(10), critic=critic))
        np.testing.assert_allclose(method.target(LAYERED, THETA), exact, rtol=1e-9)


def test_cut_episodes_leave_a_bias_that_the_target_knows():
    problem = maze(temperature=2.0)
    exact = tb.hypergradient(problem, THETA).gradient
    errors = []
    for steps in (5, 2000):
        method = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(10, steps=steps)))
        errors.append(np.abs(method.target(problem, THETA) - exact).max())
    assert errors[1] < 1e-6 * np.abs(exact).max() < errors[0]


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (tb.Episodes(), "play may return to a state, so that episodes have no largest length"),
        (tb.StepBudget(100), "give the sampler a number of steps"),
        (tb.Survivors(), "weights that grow without bound; take Episodes"),
        (tb.Survivors(probability=0.9), "weights that grow without bound; take Episodes"),
    ],
    ids=["episodes", "steps", "survivors", "survivors, given"],
)
def test_samplers_without_a_last_step_say_so(sampler, message):
    problem = maze()
    for ask in (lambda m: m(problem, THETA, rng=0), lambda m: m.target(problem, THETA)):
        with pytest.raises(ValueError, match=f"leader_discount is 1.*{message}"):
            ask(tb.BoltzmannCovariance(tb.Interaction(sampler)))


def test_bi_ac_is_not_defined_without_a_discount():
    with pytest.raises(ValueError, match="defined for a leader's discount below 1"):
        tb.BiLevelActorCritic(tb.Episodes(10, 10))(PROBLEMS["game"], np.zeros(6), rng=0)


def test_bounds_of_a_result_whose_end_is_not_seen_are_infinite():
    problem = tb.FeatureProblem(quits(0.5, 0.25), leader_reward=np.ones((2, 1)))
    result = tb.hypergradient(problem, [0.0], accuracy=tb.Estimated())
    strange = dataclasses.replace(result, model=quits(0.0, 0.5, **RARELY))
    bounds = tb.error_bounds(problem, [0.0], strange)
    assert np.isinf(bounds.objective)
    assert np.isinf(bounds.gradient).all()
    assert bounds.vacuous.startswith("leader_discount is 1")


def test_steps_without_an_end_are_told_as_they_come_out():
    for steps, told in (([1.0, 1e300], "comes out as 1e+300$"), ([0.0], "as 0, as it cannot be$")):
        with pytest.raises(ValueError, match=told.replace("+", r"\+")):
            linear._require_steps(np.array(steps))
