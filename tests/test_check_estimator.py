"""The estimator's check: its false alarms, its power, and its controls."""

import numpy as np
import pytest
from scipy import stats

import tabular_bilevel as tb
from tabular_bilevel.checks.estimator import judge

PROBLEM, THETA = tb.problems.garnet(), np.full(6, 0.1)
EXACT = tb.hypergradient(PROBLEM, THETA).gradient
NORM = np.linalg.norm(EXACT)

# Probability that a test here fails by chance; seeds are fixed, so one that passes goes on passing.
CHANCE = 1e-4


def noisy(scale=1.0, bias=0.0, noise=None):
    """Make an estimator with known mean: scale * exact + bias along it, plus noise."""

    def estimator(problem, theta, rng):
        draw = rng.normal(size=EXACT.size) if noise is None else noise(rng)
        return scale * EXACT + bias * EXACT / NORM + draw

    return estimator


def test_bchg_passes_and_its_faults_fail():
    estimator = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(200)))
    report = tb.check_estimator(estimator, PROBLEM, THETA, rng=0)
    assert report.passed
    assert report.smallest_visible_bias < 0.1
    faults = tb.controls(n_trajectories=200)
    for name in (
        "no 1/temperature",
        "no eligibility",
        "follower's discount for the leader's",
        "direct term dropped",
        "cut after 10 steps",
    ):
        report = tb.check_estimator(faults[name], PROBLEM, THETA, rng=0)
        assert report.verdict is tb.Verdict.BIASED, name
        assert report.diagnosis.best.name == name


@pytest.mark.parametrize("make", [tb.problems.layered, tb.problems.random_game])
def test_bchg_passes_where_episodes_end_and_in_games(make):
    problem = make(rng=3)
    theta = 0.1 * np.random.default_rng(0).normal(size=problem.n_parameters)
    tb.check_estimator(tb.BoltzmannCovariance(), problem, theta, rng=0).raise_if_failed()


def test_bchg_passes_in_a_game_whose_follower_does_not_see_the_leader():
    problem = tb.problems.random_game(rng=4, follower_observes_leader=False)
    theta = 0.1 * np.random.default_rng(1).normal(size=problem.n_parameters)
    tb.check_estimator(tb.BoltzmannCovariance(), problem, theta, rng=0).raise_if_failed()


def test_bchg_passes_where_some_actions_are_forbidden_and_some_steps_end():
    rng = np.random.default_rng(7)
    reward = rng.normal(size=(5, 3))
    reward[1, 2] = reward[3, 0] = -np.inf
    termination = rng.uniform(0.0, 0.3, size=(5, 3)) * (rng.random((5, 3)) < 0.5)
    base = tb.Model.from_tables(
        transition=rng.dirichlet(np.ones(5), size=(5, 3)) * (1.0 - termination)[..., None],
        follower_reward=reward,
        leader_reward=rng.normal(size=(5, 3)),
        initial=rng.dirichlet(np.ones(5)),
        follower_discount=0.8,
        leader_discount=0.9,
        temperature=0.3,
        termination=termination,
    )
    problem = tb.FeatureProblem(
        base,
        follower_reward=rng.normal(size=(15, 3)),
        leader_reward=rng.normal(size=(15, 3)),
        transition=rng.normal(size=(base.transition.nnz, 3)),
        initial=rng.normal(size=(5, 3)),
    )
    theta = np.array([0.1, -0.2, 0.3])
    assert tb.check_gradient(problem, theta).passed
    tb.check_estimator(tb.BoltzmannCovariance(), problem, theta, rng=0).raise_if_failed()


def test_a_sarsa_critic_comes_near_the_exact_gradient():
    problem = tb.problems.garnet(n_states=4, n_actions=2, n_parameters=3, temperature=0.5)
    theta = np.full(3, 0.1)
    critic = tb.SarsaCritic(step_size=0.01, sweeps=20)
    estimate = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(500), critic))(
        problem, theta, rng=0
    )
    exact = tb.hypergradient(problem, theta).gradient
    cosine = estimate.gradient @ exact
    cosine /= np.linalg.norm(estimate.gradient) * np.linalg.norm(exact)
    assert cosine > 0.95  # a learned critic is biased: near, not equal
    untrained = tb.SarsaCritic(step_size=1e-9, sweeps=1)
    poor = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(500), untrained))(
        problem, theta, rng=0
    )
    assert np.linalg.norm(poor.gradient - exact) > 2 * np.linalg.norm(estimate.gradient - exact)


def test_false_alarms_come_at_the_stated_rate():
    rng, rate, runs = np.random.default_rng(0), 0.05, 2000
    alarms = sum(
        not judge(
            EXACT + rng.normal(size=(60, EXACT.size)), EXACT, false_alarm_rate=rate, power=0.9
        ).passed
        for _ in range(runs)
    )
    # Bonferroni: at most the rate; the seven tests are nearly independent, so not far below it
    assert stats.binom.sf(alarms - 1, runs, rate) > CHANCE
    assert stats.binom.cdf(alarms, runs, rate / 2) > CHANCE


def test_the_smallest_visible_bias_is_seen_as_often_as_stated():
    rng, power, runs = np.random.default_rng(1), 0.9, 500
    settings = {"false_alarm_rate": 1e-3, "power": power}
    seen = 0
    for _ in range(runs):
        noise = rng.normal(size=(200, EXACT.size))
        visible = judge(EXACT + noise, EXACT, **settings).smallest_visible_bias
        report = judge((1.0 + visible) * EXACT + noise, EXACT, **settings)
        seen += report.verdict is tb.Verdict.BIASED
    assert stats.binom.cdf(seen, runs, power) > CHANCE
    # and half of it is not
    noise = rng.normal(size=(200, EXACT.size))
    visible = judge(EXACT + noise, EXACT, **settings).smallest_visible_bias
    assert judge((1.0 + visible / 2) * EXACT + noise * 1e-9, EXACT, **settings).passed is False


def test_bias_along_the_target_is_reported():
    report = tb.check_estimator(noisy(scale=1.5), PROBLEM, THETA)
    assert report.verdict is tb.Verdict.BIASED
    assert report.bias == pytest.approx(0.5, abs=0.1)
    with pytest.raises(tb.CheckFailedError, match="BIASED"):
        report.raise_if_failed()


def test_bias_across_the_target_is_seen_too():
    across = np.zeros(6)
    across[:2] = [-EXACT[1], EXACT[0]]
    report = judge(
        EXACT + across + np.random.default_rng(0).normal(size=(100, 6)),
        EXACT,
        false_alarm_rate=1e-3,
        power=0.99,
    )
    assert report.verdict is tb.Verdict.BIASED
    assert abs(report.bias) < 0.1


def test_a_deterministic_estimator_is_compared_to_rounding():
    def exact(problem, theta, rng):
        return EXACT

    def off(problem, theta, rng):
        return EXACT * (1.0 + 1e-6)

    assert tb.check_estimator(exact, PROBLEM, THETA).passed
    report = tb.check_estimator(off, PROBLEM, THETA)
    assert report.verdict is tb.Verdict.INCONCLUSIVE  # or is it rare that it moves?
    assert report.constant
    assert "is rng used, or what moves them rare" in str(report)


def test_what_is_nearly_always_zero_is_no_false_alarm():
    # unbiased: 100 times the gradient, once in 100 calls
    def rare(problem, theta, rng):
        return EXACT * (100.0 if rng.random() < 0.01 else 0.0)

    verdicts = [tb.check_estimator(rare, PROBLEM, THETA, rng=seed).verdict for seed in range(40)]
    assert set(verdicts) == {tb.Verdict.INCONCLUSIVE}


def test_noise_that_would_hide_everything_proves_nothing():
    loud = tb.check_estimator(noisy(noise=lambda rng: 1e3 * rng.normal(size=6)), PROBLEM, THETA)
    assert loud.verdict is tb.Verdict.INCONCLUSIVE
    assert loud.smallest_visible_bias > 1.0


def test_the_report_says_how_many_replicates_a_bias_takes():
    settings = {"false_alarm_rate": 1e-3, "power": 0.99}
    rng = np.random.default_rng(0)
    few = judge(EXACT + rng.normal(size=(100, 6)), EXACT, **settings)
    count = few.replicates_for(few.smallest_visible_bias / 3.0)
    assert count == pytest.approx(900, abs=1)
    many = judge(EXACT + rng.normal(size=(count, 6)), EXACT, **settings)
    assert many.smallest_visible_bias == pytest.approx(few.smallest_visible_bias / 3.0, rel=0.2)
    with pytest.raises(ValueError, match=r"bias is 0\.0, not a positive finite number"):
        few.replicates_for(0.0)
    assert judge(rng.normal(size=(50, 2)), np.zeros(2), **settings).replicates_for(0.1) == 0


def test_heavy_tails_are_noticed_not_averaged_away():
    report = tb.check_estimator(
        noisy(noise=lambda rng: rng.standard_cauchy() * np.ones(6)), PROBLEM, THETA
    )
    assert report.verdict is tb.Verdict.INCONCLUSIVE
    assert report.n_unresolved == 6
    assert not report.passed
    assert "6 coordinates unresolved" in str(report)


def test_a_coordinate_that_never_moves_is_left_to_the_others():
    def rare(problem, theta, rng):
        estimate = EXACT + rng.normal(size=6)
        estimate[3] = 0.0  # what moves it was not seen
        return estimate

    target = EXACT.copy()
    target[3] = 1e-3
    report = tb.check_estimator(rare, PROBLEM, THETA, target=target)
    assert report.passed
    assert report.n_unresolved == 1
    target[3] = 10 * NORM  # but not if it matters
    assert not tb.check_estimator(rare, PROBLEM, THETA, target=target).passed


def test_a_target_of_zero_is_checked_coordinate_by_coordinate():
    settings = {"false_alarm_rate": 1e-3, "power": 0.99}
    noise = np.random.default_rng(0).normal(size=(100, 4))
    report = judge(noise, np.zeros(4), **settings)
    assert report.passed
    assert report.smallest_visible_bias == np.inf
    assert judge(noise + 1.0, np.zeros(4), **settings).verdict is tb.Verdict.BIASED


def test_same_seed_same_report():
    estimator = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(20)))
    first, second, other = (
        tb.check_estimator(estimator, PROBLEM, THETA, rng=seed) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.mean, second.mean)
    assert (first.mean != other.mean).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_replicates": 29}, "n_replicates is 29, fewer than 30"),
        ({"n_replicates": 0}, "n_replicates is 0, not a positive whole number"),
        ({"false_alarm_rate": 0.0}, r"false_alarm_rate is 0.0, not in \(0, 1\)"),
        ({"power": 1.0}, r"power is 1.0, not in \(0, 1\)"),
        ({"target": np.zeros(5)}, r"target has shape \(5,\), not \(6,\)"),
        ({"rng": "seed"}, "rng is 'seed', not a numpy Generator or a seed of at least 0"),
        ({"rng": -1}, "rng is -1, not a numpy Generator or a seed of at least 0"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        tb.check_estimator(noisy(), PROBLEM, THETA, **settings)


def test_no_parameters_no_check():
    with pytest.raises(ValueError, match="theta has no entries"):
        tb.check_estimator(noisy(), PROBLEM, [])


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (np.zeros(5), "replicate 0: ValueError: estimate has shape (5,), not (6,)"),
        (np.array([0, np.nan, 0, 0, 0, 0]), "estimate[1] is nan, not a finite number"),
        (np.zeros(6, dtype=complex), "estimate has dtype complex128"),
        (None, "estimate has dtype object"),
    ],
)
def test_an_estimate_that_is_nonsense_is_broken(returned, message):
    report = tb.check_estimator(lambda problem, theta, rng: returned, PROBLEM, THETA)
    assert report.verdict is tb.Verdict.BROKEN
    assert message in str(report)
    with pytest.raises(tb.CheckFailedError, match="BROKEN"):
        report.raise_if_failed()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tb.Episodes(0), "n_trajectories is 0, not a positive whole number"),
        (lambda: tb.Episodes(1, 0), "steps is 0, not a positive whole number"),
        (lambda: tb.Interaction(critic="x"), "critic is 'x', which has no method values"),
    ],
)
def test_estimator_settings_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_estimate_names_itself():
    estimate = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(3, 4)))(PROBLEM, THETA, rng=0)
    assert str(estimate).endswith("from 3 trajectories of 12 steps in all")
    parts = estimate.parts
    np.testing.assert_allclose(estimate.gradient, parts.direct + parts.indirect, rtol=1e-14)


def test_a_fault_hidden_in_a_coordinate_that_never_moves_does_not_pass():
    # theta[1] is earned by the leader alone: without the direct term its estimate is 0, always
    base = tb.problems.bandit(leader_reward=[0.0, 1.0], leader_discount=0.5).base
    problem = tb.FeatureProblem(
        base, follower_reward=[[0, 0], [1, 0]], leader_reward=[[0, 0.1], [0, 0.1]]
    )
    estimator = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(1000)))
    fault = tb.controls()["direct term dropped"]
    assert tb.check_estimator(estimator, problem, [0.0, 0.0], rng=0).passed
    report = tb.check_estimator(fault, problem, [0.0, 0.0], rng=0)
    assert not report.passed
    assert report.n_unresolved == 1


def test_a_report_on_a_target_of_zero_says_so():
    noise = np.random.default_rng(0).normal(size=(100, 2))
    report = judge(noise, np.zeros(2), false_alarm_rate=1e-3, power=0.99)
    assert "the target is 0" in str(report)
