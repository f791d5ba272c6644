"""Exact moments of methods; a rule's against enumeration stand in test_trace_rule.py."""

import dataclasses
import math
import pickle

import numpy as np
import pytest
from sizes import pairs, sizes
from small import somewhere

import tabular_bilevel as tb
from tabular_bilevel.problems import zoo

# Relative; what an exact gradient and a mean may differ by, each by its own linear systems.
UNBIASED = 1e-10

# Sums of some hundred products.
ROUNDING = 1e-12

PROBLEMS = {
    "garnet": tb.problems.garnet(),
    "rewards": tb.problems.two_state(),
    "layered": tb.problems.layered(),
    "seen": tb.problems.random_game(),
    "hidden": tb.problems.random_game(follower_observes_leader=False),
    "masked": tb.problems.zoo.named("masked layers").problem,
}


def largest(vector):
    return np.abs(vector).max()


UNBIASED_METHODS = {
    "BC-HG": tb.BoltzmannCovariance(),
    "no baseline": tb.BoltzmannCovariance(baseline=False),
    "own action": tb.BoltzmannCovariance(own_action=True),
    "survivors": tb.BoltzmannCovariance(tb.Interaction(tb.Survivors())),
    "score function": tb.ScoreFunction(),
    "score function, survivors": tb.ScoreFunction(tb.Interaction(tb.Survivors()), baseline=True),
    "exact": tb.ExactGradient(),
}


@pytest.mark.parametrize("where", PROBLEMS)
@pytest.mark.parametrize("name", UNBIASED_METHODS)
def test_unbiased_methods_have_the_gradient_as_their_mean(name, where):
    problem = PROBLEMS[where]
    theta = somewhere(problem)
    moments = tb.estimator_moments(problem, theta, UNBIASED_METHODS[name])
    assert moments.horizon is None
    assert largest(moments.bias) <= UNBIASED * largest(moments.exact)
    covariance = moments.covariance
    size = max(1e-300, largest(covariance))
    np.testing.assert_allclose(covariance.diagonal(), moments.variance, atol=ROUNDING * size)
    assert np.linalg.eigvalsh(covariance).min() >= -ROUNDING * size
    assert 0.0 <= moments.start_variance <= (1.0 + ROUNDING) * moments.total_variance


@pytest.mark.parametrize("name", zoo.ORDINARY)
def test_bchg_has_no_bias_anywhere_in_the_zoo(name):
    case = zoo.named(name)
    moments = tb.estimator_moments(case.problem, case.theta, tb.BoltzmannCovariance())
    assert largest(moments.bias) <= UNBIASED * max(largest(moments.exact), 1e-3)
    assert np.isfinite(moments.variance).all()


METHODS = {
    "BC-HG": tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(10, 4))),
    "SoBiRL": tb.SoBiRL(tb.Interaction(tb.Episodes(10, 4))),
    "discounted": tb.SoBiRL(discounted=True),
    "naive": tb.NaivePolicyGradient(tb.Interaction(tb.StepBudget(10, 5))),
    "Bi-AC": tb.BiLevelActorCritic(tb.Episodes(10, 3)),
    "Neumann": tb.TruncatedNeumann(3),
    "penalty": tb.ValueGapPenalty(),
    "AMD": tb.AdaptiveModelDesign(30),
    "zero-order": tb.ZeroOrder(),
    "score function": tb.ScoreFunction(tb.Interaction(tb.Episodes(10, 4)), baseline=True),
}


@pytest.mark.parametrize("name", METHODS)
def test_means_are_targets(name):
    method = METHODS[name]
    problem = {"Bi-AC": PROBLEMS["seen"], "penalty": tb.problems.four_rooms()}.get(
        name, tb.problems.two_state()
    )
    if "SoBiRL" in type(method).__name__:
        problem = tb.problems.bandit(leader_discount=0.5)
    theta = somewhere(problem)
    moments = tb.estimator_moments(problem, theta, method)
    target = method.target(problem, theta)
    assert largest(moments.mean - target) <= 1e-7 * largest(target)  # a cut that is none
    np.testing.assert_allclose(moments.bias, moments.mean - moments.exact)


@sizes(("name", "where"), *pairs([*tb.controls()], ["garnet", "seen"]))
def test_controls_have_the_moments_of_what_they_converge_to(name, where):
    control, problem = tb.controls()[name], PROBLEMS[where]
    theta = somewhere(problem)
    try:
        control.limit(problem, theta)
    except ValueError:
        with pytest.raises(ValueError, match="is not defined for this problem"):
            tb.estimator_moments(problem, theta, control)
        return
    if control.fault.together or control.fault.measures or "next episode" in name:
        with pytest.raises(ValueError, match=r"is wrong in more than how the steps of a traj"):
            tb.estimator_moments(problem, theta, control)
        return
    moments = tb.estimator_moments(problem, theta, control)
    target = control.target(problem, theta)
    assert largest(moments.mean - target) <= 1e-7 * largest(target)


def test_a_horizon_cuts_or_lifts_a_cut():
    problem, method = PROBLEMS["garnet"], METHODS["BC-HG"]
    theta = somewhere(problem)
    own = tb.estimator_moments(problem, theta, method)
    cut = tb.estimator_moments(problem, theta, tb.BoltzmannCovariance(), horizon=4)
    uncut = tb.estimator_moments(problem, theta, method, horizon=math.inf)
    assert (own.horizon, cut.horizon, uncut.horizon) == (4, 4, None)
    np.testing.assert_array_equal(own.variance, cut.variance)
    assert own.n_steps == cut.n_steps == pytest.approx(4.0)
    assert uncut.n_steps == math.inf
    assert largest(uncut.bias) <= UNBIASED * largest(uncut.exact)
    layered = PROBLEMS["layered"]
    ended = tb.estimator_moments(layered, somewhere(layered), method, horizon=math.inf)
    assert ended.n_steps == pytest.approx(layered.base.n_states / 3)
    assert str(cut).splitlines()[0].endswith("of 4 steps on average")


def test_far_cuts_come_to_what_is_solved_for():
    """Solves and sums step by step are two roads."""
    for where, method in (
        ("garnet", tb.BoltzmannCovariance(own_action=True)),
        ("hidden", tb.NaivePolicyGradient()),
    ):
        problem = PROBLEMS[where]
        theta = somewhere(problem)
        uncut = tb.estimator_moments(problem, theta, method)
        cut = tb.estimator_moments(problem, theta, method, horizon=400)
        np.testing.assert_allclose(cut.variance, uncut.variance, rtol=1e-9)
        np.testing.assert_allclose(cut.covariance, uncut.covariance, atol=1e-9)


def test_survivors_pay_with_variance_for_shorter_trajectories():
    problem = PROBLEMS["garnet"]
    theta = somewhere(problem)
    plain = tb.estimator_moments(problem, theta, tb.BoltzmannCovariance())
    short = tb.estimator_moments(problem, theta, UNBIASED_METHODS["survivors"])
    assert short.n_steps == pytest.approx(20.0, rel=1e-9)  # 1 / (1 - 0.95)
    assert short.total_variance > plain.total_variance


def test_a_given_error_of_the_critic_enters_bias_and_variance():
    """The bias is linear in the credit, the variance quadratic (theory.md section 16)."""
    problem = PROBLEMS["garnet"]
    theta = somewhere(problem)
    exact = tb.Interaction().limit(problem, theta)
    policy, model = exact.response.policy, exact.world
    error = np.random.default_rng(2).normal(size=policy.shape)

    def given(times):
        critic = tb.GivenCritic(exact.values.action_value + times * error)
        return tb.estimator_moments(problem, theta, told(critic))

    found = [given(times) for times in (-1.0, 0.0, 1.0, 2.0)]
    bias = [moments.bias for moments in found]
    np.testing.assert_allclose(bias[3], 2.0 * bias[2], rtol=1e-7)
    np.testing.assert_allclose(bias[0], -bias[2], rtol=1e-7)
    variance = np.array([moments.total_variance for moments in found])
    assert variance @ [-1.0, 3.0, -3.0, 1.0] == pytest.approx(0.0, abs=1e-9 * variance.max())
    assert largest(bias[2]) > 1e-2 * largest(found[0].exact)
    assert model.available.all()


class Twice(tb.BoltzmannCovariance):
    """An heir that estimates otherwise, which its rule does not know of."""

    def estimate(self, experience):
        right = super().estimate(experience)
        return dataclasses.replace(right, gradient=2.0 * right.gradient)


class TwiceZero(tb.ZeroOrder):
    def __call__(self, problem, theta, **settings):
        right = super().__call__(problem, theta, **settings)
        return dataclasses.replace(right, gradient=2.0 * right.gradient)


class Learning(tb.ExactCritic):
    def values(self, response, trajectories, *, rng, previous=None):
        return tb.MonteCarloCritic().values(response, trajectories, rng=rng)


class Noisy(tb.ExactGradient):
    def __call__(self, problem, theta, *, rng, **settings):
        right = super().__call__(problem, theta, rng=rng, **settings)
        return dataclasses.replace(right, gradient=right.gradient + rng.normal())


def told(critic):
    return tb.BoltzmannCovariance(tb.Interaction(critic=critic))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (tb.SoBiRL, "^method is the class SoBiRL, not an instance of it$"),
        (tb.HyperPolicyGradient(), r"^method is HyperPolicyGradient, which averages over visits"),
        (lambda view, batch: np.zeros(6), r"^method is function, which averages over visits"),
        (tb.BoltzmannCovariance(average_tails=True), "^average_tails makes ratios of what"),
        (told(tb.MonteCarloCritic()), r"^critic is MonteCarloCritic\(\), which learns from the sa"),
        (told(Learning()), r"^critic is Learning\(\), which learns from the sample"),
        (tb.ValueGapPenalty(sampler=tb.Episodes(3)), "^method is ValueGapPenalty, which averages"),
        (tb.SoBiRL(), "^SoBiRL is defined for parameters of rewards only"),
        (Twice(), "^method is Twice, which averages over visits"),
        (TwiceZero(), "^method is TwiceZero, which averages over visits"),
        (Noisy(), "^method is Noisy, which averages over visits"),
    ],
)
def test_other_methods_are_refused_in_words(method, message):
    with pytest.raises(ValueError, match=message):
        tb.estimator_moments(PROBLEMS["garnet"], np.zeros(6), method)


@pytest.mark.parametrize(
    "horizon", [0, 2.5, True, "long", -math.inf, math.nan, [3, 4], np.array([3, 4])]
)
def test_a_bad_horizon_is_named(horizon):
    with pytest.raises(ValueError, match=r"^horizon is "):
        tb.estimator_moments(PROBLEMS["garnet"], np.zeros(6), METHODS["BC-HG"], horizon=horizon)


def test_infinite_moments_are_not_numbers():
    problem = tb.problems.bandit(leader_discount=0.5)
    with pytest.raises(ValueError, match=r"decays by 1 from step to step, and play need not end"):
        tb.estimator_moments(problem, [0.0, 0.0], tb.SoBiRL(), horizon=math.inf)
    assert tb.estimator_moments(problem, [0.0, 0.0], tb.SoBiRL(), horizon=9).horizon == 9


def test_a_given_critic_fits_its_problem():
    method = told(tb.GivenCritic(np.zeros((2, 2))))
    with pytest.raises(ValueError, match=r"^action_value has shape \(2, 2\), not \(20, 4\)$"):
        method(PROBLEMS["garnet"], np.zeros(6), rng=0)
    with pytest.raises(ValueError, match=r"^action_value\[0, 1\] is nan"):
        tb.GivenCritic([[0.0, math.nan]])


def test_given_values_are_enumerated_like_exact_ones():
    problem = PROBLEMS["layered"]
    theta = somewhere(problem)
    table = np.random.default_rng(1).normal(size=problem.base.available.shape)
    method = told(tb.GivenCritic(table))
    moments = tb.estimator_moments(problem, theta, method)
    every = tb.check_by_enumeration(method, problem, theta)
    np.testing.assert_allclose(moments.mean, every.expectation, rtol=ROUNDING)
    np.testing.assert_allclose(
        moments.covariance, every.covariance, atol=ROUNDING * largest(every.covariance)
    )


@sizes("n", [50], [800])
def test_zero_order_moments_are_those_of_random_directions(n):
    problem = tb.problems.two_state()
    theta = somewhere(problem)
    for method in (
        tb.ZeroOrder(radius=1e-3),
        tb.ZeroOrder(radius=0.1, sampler=tb.Episodes(1, 3)),
        tb.ZeroOrder(radius=0.1, two_sided=False, sampler=tb.Episodes(1, 3)),
    ):
        rng = np.random.default_rng(8)
        rows = np.array([method(problem, theta, rng=rng).gradient for _ in range(n)])
        moments = tb.estimator_moments(problem, theta, method)
        off = 4.0 / math.sqrt(n)
        assert rows.var(axis=0).sum() == pytest.approx(moments.total_variance, rel=off)
        assert moments.covariance.diagonal() == pytest.approx(moments.variance)
        assert moments.n_steps == (0.0 if method.sampler is None else 6.0)


def test_moments_come_back_from_a_pickle():
    problem = PROBLEMS["garnet"]
    moments = tb.estimator_moments(problem, np.zeros(6), tb.BoltzmannCovariance())
    copy = pickle.loads(pickle.dumps(moments))
    np.testing.assert_array_equal(copy.covariance, moments.covariance)
    for array in (copy.mean, copy.variance, copy.covariance, moments.mean, moments.covariance):
        assert not array.flags.writeable


def test_followers_of_several_contexts_have_moments_together():
    problems = [tb.problems.garnet(rng=1), tb.problems.garnet(rng=3)]
    both = tb.Contexts(problems, [0.25, 0.75])
    theta = np.full(6, 0.1)
    alone = [tb.estimator_moments(each, theta, tb.BoltzmannCovariance()) for each in problems]
    found = tb.estimator_moments(both, theta, tb.BoltzmannCovariance(baseline=False))
    assert largest(found.bias) <= UNBIASED * largest(found.exact)
    np.testing.assert_allclose(found.mean, 0.25 * alone[0].mean + 0.75 * alone[1].mean, rtol=1e-9)
    assert found.start_variance > 0.0  # which context it is is part of the start


def test_a_simulator_is_where_trajectories_come_from():
    problem, world = tb.problems.four_rooms(), tb.problems.four_rooms(slip=0.33)
    method = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(1, 30), simulator=world))
    theta = np.zeros(105)
    moments = tb.estimator_moments(problem, theta, method)
    assert largest(moments.mean - method.target(problem, theta)) <= ROUNDING
    assert largest(moments.bias) > 1e-2 * largest(moments.exact)


def test_what_the_simulator_pays_the_follower_is_nobodys_noise():
    """The follower expects of an arrival what it plans with, and that is what is taken off."""
    problem = PROBLEMS["garnet"]
    base = problem.base
    paid = tb.FeatureProblem(
        base.replace(follower_reward=base.follower_reward + 10.0),
        **{name: getattr(problem, name) for name in ("follower_reward", "transition", "initial")},
        leader_reward=problem.leader_reward,
    )
    theta = somewhere(problem)
    method = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(1, 30), simulator=paid))
    usual = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(1, 30)))
    found, plain = (tb.estimator_moments(problem, theta, each) for each in (method, usual))
    assert found.total_variance == pytest.approx(plain.total_variance, rel=1e-9)
