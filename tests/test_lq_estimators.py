"""Sampling and estimators of linear-quadratic models, and the checker on them."""

import dataclasses
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from sizes import pairs, sizes
from small import each_refused
from systems import Room, random_system

import tabular_bilevel as tb
from tabular_bilevel.estimators.register import METHODS
from tabular_bilevel.lq.adjoint import direct_sensitivities, indirect_sensitivities
from tabular_bilevel.lq.model import MOVED
from tabular_bilevel.lq.traces import TraceRule
from tabular_bilevel.lq.trajectories import Law
from tabular_bilevel.lq.values import exact_values

BUILDING, LQR = tb.problems.building_thermal_control(), tb.problems.bilevel_lqr()

# Sums of a few hundred steps' roundings, relative to the largest entry.
ROUNDING = 1e-10

# What trajectories of the default length leave out.
CUT = 1e-6


ROOM, THETA = Room(), np.array([0.1, 0.3])
EPISODES = tb.Interaction(tb.Episodes(200))
BCHG = tb.BoltzmannCovariance(EPISODES)


def rule_of(model, **changes):
    return TraceRule(
        credit=1.0 / model.temperature,
        credit_discount=model.leader_discount,
        trace_discount=model.follower_discount,
        leader_discount=model.leader_discount,
        **changes,
    )


def known(model, steps):
    response = tb.solve_follower(model)
    return SimpleNamespace(
        seen=Law(model, response.policy, steps),
        planned=model,
        response=response,
        values=exact_values(model, response.policy),
    )


def gap(found, wanted):
    pairs = [(getattr(found, name), getattr(wanted, name)) for name in MOVED]
    pairs += [(found.leader_reward[name], x) for name, x in wanted.leader_reward.items()]
    size = max(float(np.abs(x).max()) for _, x in pairs)
    return max(float(np.abs(x - y).max()) for x, y in pairs) / (size or 1.0)


@sizes(("seed", "horizon"), *pairs(range(6), [None, 7]))
def test_the_mean_of_traces_is_the_gradient_of_every_table(seed, horizon):
    model = random_system(seed, bump=seed % 2 == 1, horizon=horizon)
    response = tb.solve_follower(model)
    evaluation = tb.evaluate_leader(model, response)
    steps = tb.Episodes().horizon(model)
    direct, indirect = rule_of(model).measures(known(model, steps))
    assert gap(direct, direct_sensitivities(model, response, evaluation)) < CUT
    assert gap(indirect, indirect_sensitivities(model, response, evaluation)) < CUT
    # and a cut is seen
    cut, _ = rule_of(model).measures(known(model, 2))
    assert gap(cut, direct_sensitivities(model, response, evaluation)) > 100.0 * CUT


@pytest.mark.parametrize(("problem", "theta"), [(BUILDING, [0.0] * 8), (LQR, [-0.8, 0.1])])
def test_targets_on_the_published_tasks(problem, theta):
    exact = tb.hypergradient(problem, theta)
    size = np.abs(exact.gradient).max()
    for method in (BCHG, tb.HyperPolicyGradient(EPISODES)):
        assert np.abs(method.bias(problem, theta)).max() <= ROUNDING * size
    naive = tb.NaivePolicyGradient(EPISODES).target(problem, theta)
    stations = exact.model, exact.response, exact.evaluation
    direct = problem.pullback(theta, direct_sensitivities(*stations))
    assert np.abs(naive - direct).max() <= ROUNDING * size
    # the published 100 steps cut the tails of what the follower thinks
    short = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(4, 100)))
    assert 0.0 < np.abs(short.bias(problem, theta)).max() < 2e-6 * size


@pytest.mark.parametrize("changes", [{}, {"late": True}, {"baseline": False}])
@pytest.mark.parametrize("steps", [1, 3])
def test_the_law_is_the_mean_of_samples(changes, steps):
    """Cut and changed likewise; within four standard errors, all tables together."""
    model = ROOM.model(THETA).replace(leader_horizon=2)
    law = known(model, steps)
    wanted = rule_of(model, **changes).measures(law)
    found = []
    for seed in range(60):
        sample = tb.sample_trajectories(
            model, law.response.policy, count=2000, horizon=steps, rng=seed
        )
        seen = SimpleNamespace(**{**vars(law), "seen": sample})
        found.append([flat(one) for one in rule_of(model, **changes).measures(seen)])
    rows = np.array(found)
    error = rows.std(axis=0) / np.sqrt(len(rows) - 1)
    gaps = np.abs(rows.mean(axis=0) - np.array([flat(one) for one in wanted]))
    assert (gaps <= 4.0 * error + 1e-9).all()


def flat(measures):
    tables = [np.ravel(getattr(measures, name)) for name in MOVED]
    return np.concatenate([*tables, *map(np.ravel, measures.leader_reward.values())])


def test_a_sample_and_its_mean_return():
    model = BUILDING.model(np.zeros(8)).replace(initial_covariance=np.eye(4))
    policy = tb.solve_follower(model).policy
    sample = tb.sample_trajectories(model, policy, count=4000, horizon=100, rng=0)
    values = exact_values(model, policy).smoothed(model.initial_covariance)
    exact = values.at(model.initial_mean[None, None])[0, 0]
    assert exact == pytest.approx(tb.evaluate_leader(model, tb.solve_follower(model)).objective)
    assert sample.mean_return() == pytest.approx(exact, rel=0.1)
    again = tb.sample_trajectories(model, policy, count=4000, horizon=100, rng=0)
    assert (again.states == sample.states).all()
    moved = sample.states[:, :-1] @ model.dynamics.T + sample.controls @ model.control.T
    assert np.std(sample.states[:, 1:] - moved) == pytest.approx(0.02, rel=0.01)


CHECK = partial(tb.check_estimator, problem=ROOM, theta=THETA, rng=0, n_replicates=100)


@sizes("method", [BCHG], [tb.HyperPolicyGradient(EPISODES)])
def test_the_checker_passes_what_is_right(method):
    assert CHECK(method).passed


def test_the_checker_names_what_is_dropped():
    naive = CHECK(tb.NaivePolicyGradient(EPISODES))
    assert naive.verdict is tb.Verdict.BIASED
    assert naive.diagnosis.best.name == "through-follower term dropped"
    assert abs(naive.localisation.factors["through_follower"].value) < 0.05
    assert naive.localisation.factors["direct"].value == pytest.approx(1.0, abs=0.1)


@pytest.mark.slow
def test_the_checker_names_a_flipped_sign():
    def flipped(problem, theta, rng):
        parts = BCHG(problem, theta, rng=rng).parts
        return parts.direct - parts.indirect

    report = CHECK(flipped)
    assert report.verdict is tb.Verdict.BIASED
    assert report.diagnosis.best.name == "through-follower term sign-flipped"


@sizes("name", [], ["no 1/temperature", "influence one step late", "half"])
def test_controls_are_named(name):
    class Hot(Room):
        def model(self, theta):
            return super().model(theta).replace(temperature=0.5)

    report = tb.check_estimator(tb.controls(n_trajectories=200)[name], Hot(), THETA, rng=0)
    assert report.verdict is tb.Verdict.BIASED
    fitting = [guess for guess in report.diagnosis.guesses if guess.fits]
    assert name in {each for guess in fitting for each in (guess.name, *guess.alike)}


def test_controls_of_tables_alone_are_refused():
    with pytest.raises(ValueError, match="is not defined for this problem"):
        tb.controls()["advantage clipped to 1"](ROOM, THETA, rng=0)


@pytest.mark.slow
def test_the_checker_on_the_building():
    report = tb.check_estimator(tb.NaivePolicyGradient(EPISODES), BUILDING, np.zeros(8), rng=0)
    assert report.verdict is tb.Verdict.BIASED
    assert report.diagnosis.best.name == "through-follower term dropped"


def test_a_wrong_pullback_is_broken():
    class Wrong(Room):
        def pullback(self, theta, sensitivities):
            return 2.0 * super().pullback(theta, sensitivities)

    report = tb.check_estimator(BCHG, Wrong(), THETA, rng=0)
    assert report.verdict is tb.Verdict.BROKEN
    assert report.reason == "pullback"


def test_zero_order():
    exact = tb.hypergradient(ROOM, THETA).gradient
    method = tb.ZeroOrder(radius=1e-3, n_directions=200)
    off = method(ROOM, THETA, rng=0).gradient - exact
    assert np.linalg.norm(off) < 0.45 * np.linalg.norm(exact)  # four standard errors
    assert method.target(ROOM, THETA) == pytest.approx(exact, rel=1e-4)
    # more steps than the leader counts change nothing
    alone, long = (
        tb.ZeroOrder(radius=1e-3, sampler=sampler).target(BUILDING, np.zeros(8))
        for sampler in (None, tb.Episodes(1, 300))
    )
    assert (alone == long).all()
    sampled = tb.ZeroOrder(radius=0.1, sampler=tb.Episodes(5, 20))(ROOM, THETA, rng=0)
    assert (sampled.n_trajectories, sampled.n_steps) == (10, 200)


def test_ascent():
    climb = tb.ascend(ROOM, THETA, BCHG, tb.GradientAscent(0.002), rng=0, n_iterations=20)
    *_, last = climb
    assert last.objective > tb.objective(ROOM, THETA) + 0.1
    assert last.estimate.n_trajectories == 200


def test_what_cannot_be_sampled_is_said():
    class Still(Room):
        def model(self, theta):
            return super().model(theta).replace(noise=[[0.0]])

    other = type("Other", (tb.PolicyIteration,), {"solve": lambda self, model, *, start=None: None})
    of_tables = tb.best_baseline(tb.problems.random_game(), [0.1] * 12)
    survivors = tb.BoltzmannCovariance(tb.Interaction(tb.Survivors(10)))
    model = ROOM.model(THETA)
    policy = tb.solve_follower(model).policy

    def drawn(method):
        return lambda: method(ROOM, THETA, rng=0)

    def by(**how):
        return drawn(tb.BoltzmannCovariance(tb.Interaction(**how)))

    def sampled(policy, count=1):
        return lambda: tb.sample_trajectories(model, policy, count=count, horizon=9, rng=0)

    each_refused(
        (lambda: BCHG(Still(), THETA, rng=0), "in a direction in which there is no noise"),
        (drawn(dataclasses.replace(BCHG, own_action=True)), "is for models of tables"),
        (drawn(dataclasses.replace(BCHG, average_tails=True)), "is for models of tables"),
        (drawn(tb.HyperPolicyGradient(EPISODES, oracle=tb.Episodes(2))), "this is for tables only"),
        (by(sampler=tb.StepBudget(10, 5)), "this is for tables only"),
        (lambda: survivors.target(ROOM, THETA), "this is for tables only"),
        (by(follower=tb.StoppedValueIteration(sweeps=3)), "which answers to models of tables only"),
        (by(follower=tb.StoppedPolicyIteration(steps=2)), "which answers to models of tables only"),
        (by(follower=other()), "solver is a Other of the other kind of model"),
        (drawn(of_tables), "baseline is a table of numbers"),
        (sampled([[1.0]]), "policy is not a pair"),
        (sampled(([[1.0, 1.0]], [[1.0]])), r"policy.gain has shape \(1, 2\)"),
        (sampled(policy, count=10**9), "more than"),
    )


FEW = tb.Setting(sampler=tb.Episodes(4, 5))


@pytest.mark.parametrize("name", METHODS)
def test_each_method_works_or_says_that_it_does_not(name):
    """So does the checker: what is for tables is no fault of an estimator's."""
    method = METHODS[name](FEW)
    entries = (
        lambda: method(ROOM, THETA, rng=0),
        lambda: method.target(ROOM, THETA),
        lambda: tb.estimator_moments(ROOM, THETA, method),
        lambda: tb.check_by_enumeration(method, ROOM, THETA),
    )
    said = [plainly(entry) for entry in entries]
    assert (said[0] == "") == (name in {"exact", "zero-order", "bchg-exact-critic"})
    if "tables only" in said[0]:
        with pytest.raises(ValueError, match="tables only"):
            tb.check_estimator(method, ROOM, THETA, rng=0)


def plainly(entry):
    """Do it; or return the words that it is refused with."""
    try:
        entry()
    except ValueError as error:
        words = str(error)
    else:
        words = ""
    assert "attribute" not in words
    return words


CRITICS = (
    tb.GivenCritic([[0.0]]), tb.MonteCarloCritic(), tb.SarsaCritic(), tb.TemporalDifferenceCritic()
)  # fmt: skip


@pytest.mark.parametrize("critic", CRITICS, ids=lambda critic: type(critic).__name__)
def test_critics_of_tables_say_so(critic):
    method = tb.NaivePolicyGradient(tb.Interaction(tb.Episodes(4, 5), critic))
    words = "which has a table of values: of a linear-quadratic"
    each_refused(
        (lambda: method(ROOM, THETA, rng=0), words), (lambda: method.target(ROOM, THETA), words)
    )


@pytest.mark.parametrize("method", [tb.SoBiRL(), tb.ScoreFunction()], ids=repr)
def test_methods_of_tables_say_so(method):
    words = f"{type(method).__name__} is for tables only"
    each_refused(
        (lambda: method.target(ROOM, THETA), words),
        (lambda: tb.check_estimator(method, ROOM, THETA, rng=0), words),
    )


@pytest.mark.slow
def test_a_critic_that_learns_quadratics():
    model = ROOM.model(THETA)
    policy = tb.solve_follower(model).policy
    sample = tb.sample_trajectories(model, policy, count=2000, horizon=40, rng=0)
    critic = tb.QuadraticCritic()
    learned = critic.values(None, sample, rng=np.random.default_rng(0))
    exact = critic.limit(model, policy, None)
    assert learned.matrices[0] == pytest.approx(exact.matrices[0], rel=0.02)
    assert learned.constants == pytest.approx(exact.constants, rel=0.02)
    method = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(200), critic))
    assert method.target(ROOM, THETA) == pytest.approx(tb.hypergradient(ROOM, THETA).gradient)
    report = tb.check_estimator(method, ROOM, THETA, critic=critic, n_replicates=100, rng=0)
    assert report.verdict is not tb.Verdict.BIASED
    with pytest.raises(ValueError, match="of quadratic rewards only"):
        tb.BoltzmannCovariance(tb.Interaction(critic=critic)).target(LQR, [0.0, 0.0])
    with pytest.raises(ValueError, match="not for tables"):
        tb.BoltzmannCovariance(tb.Interaction(critic=critic))(tb.problems.bandit(), [0, 0], rng=0)
