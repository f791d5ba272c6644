"""The estimator's check: its false alarms, its power, and its controls."""

import functools
import itertools
import random
from pathlib import Path

import numpy as np
import pytest
from references.strangers import Plain
from scipy import stats
from sizes import sizes
from small import assert_refused

import tabular_bilevel as tb
from tabular_bilevel.checks import mean_test, pullback
from tabular_bilevel.checks.judging import judge
from tabular_bilevel.checks.mean_test import caution

PROBLEM, THETA = tb.problems.garnet(), np.full(6, 0.1)
EXACT = tb.hypergradient(PROBLEM, THETA).gradient
NORM = np.linalg.norm(EXACT)
ACROSS = np.array([-EXACT[1], EXACT[0], 0.0, 0.0, 0.0, 0.0])
BIASED, INCONCLUSIVE = tb.Verdict.BIASED, tb.Verdict.INCONCLUSIVE

TARGET = np.array([1.0, -2.0, 0.5])

pytestmark = pytest.mark.usefixtures("once_a_problem")

# Probability that a test here fails by chance; seeds are fixed, so one that passes goes on passing.
CHANCE = 1e-4


judged = functools.partial(judge, false_alarm_rate=1e-3, power=0.99)


def checked(estimator, **settings):
    return tb.check_estimator(estimator, PROBLEM, THETA, **{"rng": 0, **settings})


def rows_checked(rows, **settings):
    return tb.check_estimates(rows, PROBLEM, THETA, **settings)


def noisy(scale=1.0, bias=0.0, noise=None):
    """Make an estimator with known mean: scale * exact + bias along it, plus noise."""

    def estimator(problem, theta, rng):
        draw = rng.normal(size=EXACT.size) if noise is None else noise(rng)
        return scale * EXACT + bias * EXACT / NORM + draw

    return estimator


@sizes(
    "name",
    ["cut after 10 steps"],
    [
        "no eligibility",
        "no 1/temperature",
        "follower's discount for the leader's",
        "direct term dropped",
    ],
)
def test_faults_of_bchg_fail_and_are_named(name):
    fault = tb.controls(n_trajectories=200)[name]
    report = checked(fault)
    assert report.verdict is BIASED
    assert report.diagnosis.best.name == name


@sizes(
    "problem",
    [PROBLEM, tb.problems.zoo.draw("patchy", 7).problem],  # forbidden actions; steps that end
    [
        tb.problems.random_game(rng=4, follower_observes_leader=False),
        tb.problems.layered(rng=3),
        tb.problems.random_game(rng=3),
    ],
)
def test_bchg_passes_also_where_episodes_end_and_in_games(problem):
    theta = 0.1 * np.random.default_rng(0).normal(size=problem.n_parameters)
    report = tb.check_estimator(tb.BoltzmannCovariance(), problem, theta, rng=0)
    report.raise_if_failed()
    assert report.smallest_visible_bias < 0.1 or problem is not PROBLEM


def test_a_sarsa_critic_comes_near_the_exact_gradient():
    problem = tb.problems.garnet(n_states=4, n_actions=2, n_parameters=3, temperature=0.5)
    theta = np.full(3, 0.1)
    exact = tb.hypergradient(problem, theta).gradient
    off = []
    for step_size, sweeps in ((0.01, 20), (1e-9, 1)):
        critic = tb.SarsaCritic(step_size=step_size, sweeps=sweeps)
        method = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(500), critic))
        off.append(np.linalg.norm(method(problem, theta, rng=0).gradient - exact))
    # a learned critic is biased: near, not equal
    assert 2.0 * off[0] < min(off[1], 0.6 * np.linalg.norm(exact))


def test_bias_along_the_target_is_reported():
    report = checked(noisy(scale=1.5))
    assert report.verdict is BIASED
    assert report.bias == pytest.approx(0.5, abs=0.1)
    with pytest.raises(tb.CheckFailedError, match="BIASED"):
        report.raise_if_failed()


def test_bias_across_the_target_is_seen_too():
    report = judged(EXACT + ACROSS + np.random.default_rng(0).normal(size=(100, 6)), EXACT)
    assert report.verdict is BIASED
    assert abs(report.bias) < 0.1


@sizes("runs", [3], [40])
def test_what_is_nearly_always_zero_is_no_false_alarm(runs):
    # unbiased: 100 times the gradient, once in 100 calls
    def rare(problem, theta, rng):
        return EXACT * (100.0 if rng.random() < 0.01 else 0.0)

    assert {checked(rare, target=EXACT, rng=seed).verdict for seed in range(runs)} == {INCONCLUSIVE}


@pytest.mark.parametrize("target", [[0.0], [1.0]])
def test_that_nothing_would_have_been_seen_is_said(target):
    noise = np.random.default_rng(0).standard_cauchy(size=(400, 1))
    told = str(judged(np.array(target) + noise, np.array(target)))
    assert f"no bias {'along the target ' * any(target)}would have been seen" in told


def test_a_gap_of_no_tail_is_not_put_down_to_one():
    for rng in np.random.default_rng(0).spawn(1000):
        report = judged(rng.normal(size=(100, 2)), np.zeros(2), false_alarm_rate=0.5)
        if report.suspicious and report.verdict is INCONCLUSIVE and "tail" not in report.reason:
            break
    assert report.reason.startswith("the gap is hardly larger than chance makes it: take more")


def test_the_report_says_how_many_replicates_a_bias_takes():
    rng = np.random.default_rng(0)
    few = judged(EXACT + rng.normal(size=(100, 6)), EXACT)
    count = few.replicates_for(few.smallest_visible_bias / 3.0)
    assert count == pytest.approx(900, abs=1)
    many = judged(EXACT + rng.normal(size=(count, 6)), EXACT)
    # of few replicates, less is known of their tails: they ask for rather too many
    ratio = many.smallest_visible_bias / (few.smallest_visible_bias / 3.0)
    assert 0.6 < ratio < 1.05
    assert_refused(r"bias is 0\.0, not a positive finite number", few.replicates_for, 0.0)
    assert judged(rng.normal(size=(50, 2)), np.zeros(2)).replicates_for(0.1) == 0


def test_heavy_tails_are_noticed_not_averaged_away():
    report = checked(noisy(noise=lambda rng: rng.standard_cauchy() * np.ones(6)))
    assert report.verdict is INCONCLUSIVE
    assert not report.passed
    assert report.smallest_visible_bias == np.inf
    advice = "a few extreme replicates decide the mean: take more replicates, or average"
    assert advice in str(report)


def test_a_coordinate_that_never_moves_is_left_to_the_others():
    def rare(problem, theta, rng):
        estimate = EXACT + rng.normal(size=6)
        estimate[3] = 0.0  # what moves it was not seen
        return estimate

    target = EXACT.copy()
    target[3] = 1e-3
    report = checked(rare, target=target)
    assert report.passed
    assert report.n_unresolved == 1
    target[3] = 10 * NORM  # but not if it matters
    assert not checked(rare, target=target).passed


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_replicates": 29}, "n_replicates is 29, fewer than 30"),
        ({"n_replicates": 0}, "n_replicates is 0, not a positive whole number"),
        ({"false_alarm_rate": 0.0}, r"false_alarm_rate is 0.0, not in \(0, 1\)"),
        ({"false_alarm_rate": 1e-30}, "false_alarm_rate is 1e-30, below 1e-12"),
        ({"power": 1.0}, r"power is 1.0, not in \(0, 1\)"),
        ({"target": np.zeros(5)}, r"target has shape \(5,\), not \(6,\)"),
        ({"rng": "seed"}, "rng is 'seed', not a numpy Generator or a seed of at least 0"),
        ({"rng": -1}, "rng is -1, not a numpy Generator or a seed of at least 0"),
    ],
)
def test_settings_are_checked(settings, message):
    assert_refused(message, checked, noisy(), **settings)
    assert_refused("theta has no entries", tb.check_estimator, noisy(), PROBLEM, [])


def test_an_estimate_names_itself():
    estimate = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(3, 4)))(PROBLEM, THETA, rng=0)
    assert str(estimate).endswith("from 3 trajectories of 12 steps in all")


def test_a_fault_hidden_in_a_coordinate_that_never_moves_does_not_pass():
    # theta[1] is earned by the leader alone: without the direct term its estimate is 0, always
    base = tb.problems.bandit(leader_reward=[0.0, 1.0], leader_discount=0.5).base
    problem = tb.FeatureProblem(
        base, follower_reward=[[0, 0], [1, 0]], leader_reward=[[0, 0.1], [0, 0.1]]
    )
    estimator = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(200)))
    fault = tb.controls()["direct term dropped"]
    assert tb.check_estimator(estimator, problem, [0.0, 0.0], rng=0).passed
    report = tb.check_estimator(fault, problem, [0.0, 0.0], rng=0)
    assert not report.passed
    assert report.n_unresolved == 1


# ---------------------------------------------------------------- looks and seeds


def counted(estimator):
    """Count calls."""

    def called(problem, theta, rng):
        called.calls += 1
        return estimator(problem, theta, rng)

    called.calls = 0
    return called


@pytest.mark.parametrize(
    ("estimator", "verdict"),
    [
        (noisy(scale=-1.0), BIASED),  # grossly wrong
        (noisy(noise=lambda rng: 1e-3 * rng.normal(size=6)), tb.Verdict.UNBIASED),  # precise
    ],
)
def test_a_check_ends_when_it_is_sure(estimator, verdict):
    estimator = counted(estimator)
    report = checked(estimator, n_replicates=5000)
    assert report.verdict is verdict
    # looks after 79, 157, ..., 5000; nothing is BIASED before 100, nor without the first call again
    biased = verdict is BIASED
    assert report.n_replicates == (157 if biased else 79)
    assert estimator.calls == report.n_replicates + 2 * biased


def test_a_check_that_is_not_sure_takes_all_replicates():
    estimator = counted(noisy(noise=lambda rng: 30.0 * rng.normal(size=6)))
    assert checked(estimator, n_replicates=230).n_replicates == estimator.calls == 230


@sizes("runs", [10], [100])
def test_looks_share_the_false_alarm_rate(runs):
    # precise, but inconclusive: what moves the first coordinate is rare
    def estimator(problem, theta, rng):
        return [500.0 if rng.random() < 0.002 else 0.0, 1.0 + 0.03 * rng.normal()]

    settings = {"n_replicates": 200, "target": [1.0, 1.0], "false_alarm_rate": 0.2}
    reports = (
        tb.check_estimator(estimator, PROBLEM, [0.0, 0.0], rng=seed, **settings)
        for seed in range(runs)
    )
    failed = sum(report.verdict is BIASED for report in reports)
    assert stats.binom.sf(failed - 1, runs, settings["false_alarm_rate"]) > CHANCE


def test_without_a_seed_the_report_has_a_fresh_one_that_gives_the_same_again():
    first, other = (tb.check_estimator(noisy(), PROBLEM, THETA) for _ in range(2))
    assert first.seed != other.seed
    assert f"the same again: rng={first.seed}" in str(first)
    again = tb.check_estimator(noisy(), PROBLEM, THETA, rng=first.seed)
    assert str(again) == str(first)
    np.testing.assert_array_equal(again.mean, first.mean)
    given = tb.check_estimator(noisy(), PROBLEM, THETA, rng=np.random.default_rng(1))
    assert given.seed is None
    assert "the same again" not in str(given)


# ---------------------------------------------------------------- broken estimators


def test_an_estimator_that_raises_is_broken():
    estimator = counted(noisy())

    def fails(problem, theta, rng):
        if estimator.calls == 7:
            raise KeyError("no such state")
        return estimator(problem, theta, rng)

    report = checked(fails)
    assert report.verdict is tb.Verdict.BROKEN
    assert report.n_replicates == 7
    assert report.trouble.startswith("replicate 7: KeyError: 'no such state' (")
    assert Path(__file__).name in report.trouble
    assert str(report).startswith("Estimator check: BROKEN\n  replicate 7: KeyError")
    assert "if it is biased" not in str(report)
    assert report.replicates_for(0.01) == 0
    assert not report.passed


def from_numpy(seed):
    if seed:
        np.random.seed(0)  # noqa: NPY002
    return np.random.normal(size=6)  # noqa: NPY002


def from_python(seed):
    if seed:
        random.seed(0)
    return np.array([random.gauss(0, 1) for _ in range(6)])


def from_torch(seed):
    import torch

    if seed:
        torch.manual_seed(0)
    return torch.randn(6).numpy().astype(float)


@pytest.mark.parametrize(
    ("draw", "name"), [(from_numpy, "numpy"), (from_python, "Python"), (from_torch, "PyTorch")]
)
def test_global_generators_are_noticed_and_seeding_them_is_broken(draw, name):
    if name == "PyTorch":
        pytest.importorskip("torch")
    draws = checked(lambda problem, theta, rng: EXACT + draw(False))
    note = f"draws from the global generator of {name}: seeds do not reproduce it"
    assert draws.notes == (note,)
    assert note in str(draws)
    assert draws.verdict is not tb.Verdict.BROKEN
    own = 1e-3 * EXACT
    seeds = checked(lambda problem, theta, rng: EXACT + draw(True) + own * rng.normal())
    assert seeds.verdict is tb.Verdict.BROKEN
    assert f"seeds the global generator of {name} anew in each call" in str(seeds)


def test_a_generator_that_is_drawn_from_once_is_not_seeded():
    kept = []

    def prepares_itself(problem, theta, rng):
        if not kept:
            kept.append(np.random.normal(size=6))  # noqa: NPY002
        return EXACT + rng.normal(size=6)

    assert checked(prepares_itself).verdict is not tb.Verdict.BROKEN
    assert checked(noisy()).notes == ()


# ---------------------------------------------------------------- coarse dtypes


def rounded(dtype, *, scale=1.0, spread=1e-3):
    def estimator(problem, theta, rng):
        return (scale * EXACT * (1.0 + spread * rng.normal(size=6))).astype(dtype)

    return estimator


@pytest.mark.parametrize(("dtype", "digits"), [("float32", "8e-06"), ("float16", "0.06")])
def test_a_coarse_dtype_is_noted_and_judged_by_its_rounding(dtype, digits):
    report = checked(rounded(dtype))
    assert report.notes == (
        f"estimates are {dtype}: gaps below {digits} of the largest entry count as rounding",
    )
    # what float16 would hide, 35 % here, is more than may pass
    assert report.passed is (dtype == "float32")
    assert "rounding would hide a bias of" in report.reason or report.passed
    assert report.smallest_visible_bias > 64 * np.finfo(dtype).eps
    assert checked(rounded(dtype, scale=2.0)).verdict is not tb.Verdict.UNBIASED


@sizes("spread", [1e-5], [3e-5, 1e-4, 1e-3, 1e-2])
def test_float32_does_not_hide_a_bias_however_small_the_noise(spread):
    assert checked(rounded("float32", spread=spread)).passed
    wrong = checked(rounded("float32", spread=spread, scale=1.01), visible_bias=1e-5)
    assert wrong.verdict is BIASED


def test_a_systematic_error_of_the_size_of_float32s_rounding_is_none():
    off = 1.0 + 8 * np.finfo(np.float32).eps
    assert checked(rounded("float32", scale=off, spread=1e-7)).passed
    assert not checked(rounded("float64", scale=off, spread=1e-9)).passed


# ---------------------------------------------------------------- Hotelling's test

MIX = np.array([[1.0, 0.0, 0.0], [0.99, 0.1, 0.0], [-0.5, 0.3, 0.8]])


def alarms(draw, target, *, rate, runs, seed=0):
    rng = np.random.default_rng(seed)
    return sum(
        judged(target + draw(rng), target, false_alarm_rate=rate, power=0.9).verdict is BIASED
        for _ in range(runs)
    )


@sizes("runs", [100], [1000])
@sizes(
    ("draw", "at_most", "at_least"),
    [
        # chance makes normal samples look skewed at times, which raises the critical value a little
        (lambda rng: rng.normal(size=(30, 3)) @ MIX.T, 1.0, 0.7),
        (lambda rng: rng.exponential(size=(100, 3)) - 1.0, 2.0, 0.5),
    ],
    [
        # independent coordinates: Bonferroni would be not far below the rate
        (lambda rng: rng.normal(size=(60, 6)), 1.0, 0.5),
        (lambda rng: rng.normal(size=(100, 3)) @ MIX.T, 1.0, 0.7),
        (lambda rng: rng.exponential(size=(100, 1)) - 1.0, 2.0, 0.5),
    ],
)
def test_false_alarms_come_at_the_stated_rate(draw, at_most, at_least, runs):
    rate, target = 0.05, np.resize(TARGET, draw(np.random.default_rng(0)).shape[1])
    found = alarms(draw, target, rate=rate, runs=runs)
    assert stats.binom.sf(found - 1, runs, at_most * rate) > CHANCE
    assert stats.binom.cdf(found, runs, at_least * rate) > CHANCE


@sizes("runs", [80], [400])
@pytest.mark.parametrize("rate", [0.05, 0.01])
def test_importance_weights_keep_the_rate(rate, runs):
    found = alarms(skewed(1.5), TARGET[:2], rate=rate, runs=runs)
    assert stats.binom.sf(found - 1, runs, rate) > CHANCE


def test_a_bias_where_there_is_little_noise_is_seen_though_no_coordinate_shows_it():
    rng = np.random.default_rng(0)
    common = rng.normal(size=(400, 1))
    noise = common * [1.0, 1.0] + 0.01 * rng.normal(size=(400, 2))
    bias = np.array([0.05, -0.05])  # a standard error in each coordinate
    report = judged(TARGET[:2] + noise + bias, TARGET[:2])
    assert (np.abs(report.mean - report.target) < 3.0 * report.standard_error).all()
    assert report.verdict is BIASED
    assert report.n_tests == 1
    spread = noise.std(axis=0, ddof=1)
    np.testing.assert_allclose(report.standard_deviation, spread, rtol=1e-6)
    assert judged(TARGET[:2] + noise, TARGET[:2]).verdict is not BIASED


@sizes("runs", [100], [500])
@pytest.mark.parametrize("total", [0.0, 5.0])
def test_coordinates_whose_sum_never_varies_are_tested_in_the_directions_that_do(total, runs):
    target = TARGET + (total - TARGET.sum()) / 3.0

    def draw(rng):
        noise = rng.normal(size=(100, 3))
        return noise - noise.mean(axis=1, keepdims=True)

    rate = 0.05
    found = alarms(draw, target, rate=rate, runs=runs)
    assert stats.binom.sf(found - 1, runs, rate) > CHANCE
    assert stats.binom.cdf(found, runs, 0.7 * rate) > CHANCE
    noise = draw(np.random.default_rng(1))
    assert judged(target + noise + [1.0, -1.0, 0.0], target).verdict is BIASED
    # a sum that is off, always by as much: is what moves it rare?
    assert judged(target + noise + 1.0, target).verdict is INCONCLUSIVE


@sizes("runs", [40], [500])
@pytest.mark.parametrize(
    ("target", "spread", "count"), [(TARGET, 0.3 * MIX.T, 100), (EXACT, np.eye(6), 200)]
)
def test_the_smallest_visible_bias_is_seen_as_often_as_stated(target, spread, count, runs):
    rng, power, seen = np.random.default_rng(1), 0.9, 0
    for _ in range(runs):
        noise, fresh = (rng.normal(size=(count, len(target))) @ spread for _ in range(2))
        visible = judged(target + noise, target, power=power).smallest_visible_bias
        report = judged((1.0 + visible) * target + fresh, target, power=power)
        seen += report.verdict is BIASED
    assert stats.binom.cdf(seen, runs, power) > CHANCE
    assert stats.binom.sf(seen - 1, runs, 0.95) > CHANCE  # and not much oftener


# ---------------------------------------------------------------- odd samples


@pytest.mark.parametrize("scale", [5e-324, 1e-300, 1e-150, 1e-80, 1e80, 1e150, 1e300])
@pytest.mark.parametrize("dimensions", [1, 3])
def test_huge_and_tiny_numbers_are_judged_like_others(scale, dimensions):
    noise = np.round(64 * np.random.default_rng(0).normal(size=(100, dimensions)))
    target = np.round(64 * TARGET[:dimensions])
    for bias in (0.0, 3.0):
        plain = judged((1.0 + bias) * target + noise, target)
        report = judged(scale * ((1.0 + bias) * target + noise), scale * target)
        assert report.verdict is plain.verdict
        assert report.statistic == pytest.approx(plain.statistic, rel=1e-9)
        assert report.smallest_visible_bias == pytest.approx(plain.smallest_visible_bias, rel=1e-9)
        np.testing.assert_array_equal(report.target, scale * target)


def test_one_coordinate_that_is_always_right_leaves_the_test_to_the_others():
    noise = np.random.default_rng(0).normal(size=(100, 3)) * [0.1, 0.0, 0.1]
    report = judged(TARGET + noise, TARGET)
    assert report.passed
    assert report.n_unresolved == 0
    assert judged(TARGET + noise + [1.0, 0.0, 0.0], TARGET).verdict is BIASED
    off = judged(TARGET + noise + [0.0, 1.0, 0.0], TARGET)
    assert off.verdict is INCONCLUSIVE
    assert off.n_unresolved == 1


def test_a_target_that_never_varies_passes_beside_noise():
    estimates = np.column_stack([np.ones(100), np.random.default_rng(0).normal(size=100)])
    report = judged(estimates, np.array([1.0, 0.0]))
    assert report.passed
    assert report.smallest_visible_bias < 1e-8
    off = judged(estimates, np.array([1.1, 0.0]))
    assert off.verdict is INCONCLUSIVE
    assert "no bias along the target would have been seen" in str(off)


@pytest.mark.parametrize("dimensions", [1, 3, 4, 40, 400])
def test_a_hundred_replicates_are_enough_for_any_number_of_coordinates(dimensions):
    rng, target = np.random.default_rng(0), np.ones(dimensions)
    noise = 0.1 * rng.normal(size=(100, dimensions))
    assert judged(target + noise, target).passed
    assert judged(2.0 * target + noise, target).verdict is BIASED


def test_fewer_than_a_hundred_replicates_show_no_bias_at_a_small_rate():
    noise = np.random.default_rng(0).normal(size=(99, 3))
    few = judged(TARGET + noise + 5.0, TARGET)
    assert few.verdict is INCONCLUSIVE
    assert few.suspicious
    assert few.reason.startswith("fewer than 100 replicates do not show how skewed they are: take")
    assert judged(TARGET + noise + 5.0, TARGET, false_alarm_rate=0.05, power=0.99).verdict is BIASED


def test_a_power_below_the_false_alarm_rate_needs_no_bias():
    noise = np.random.default_rng(0).normal(size=(100, 3))
    report = judged(TARGET + noise, TARGET, false_alarm_rate=0.5, power=0.3)
    assert report.smallest_visible_bias == 0.0


# ---------------------------------------------------------------- what was asked for


def test_the_report_says_what_was_asked_for():
    def alone(view, rng):
        view.sample(1, steps=2, rng=rng)
        return EXACT + rng.normal(size=6)

    def curious(view, rng):
        asked = view.leader_value[0] + view.follower_policy[0, 0]
        return EXACT + rng.normal(size=6) + 0.0 * asked

    decentralised = checked(alone)
    assert decentralised.asked == ()
    assert "decentralised: asked for nothing of the follower's" in str(decentralised)
    report = checked(curious)
    assert report.asked == ("follower_policy", "leader_value")
    assert "asked for follower_policy, leader_value" in str(report)
    whole = checked(noisy())
    assert whole.asked is None
    assert "asked" not in str(whole)


def test_skewness_is_the_same_by_moments_and_by_pairs():
    skewed = np.random.default_rng(0).exponential(size=(200, 3)) - 1.0
    skewness = ((skewed @ skewed.T) ** 3).sum() / 200**2 - 3 * 4 * 5 / 200
    assert caution(skewed) == pytest.approx(np.sqrt(1.0 + skewness / 200))
    wide = np.random.default_rng(1).exponential(size=(50, 8)) - 1.0  # 8**2 > 50: by pairs
    moments = np.einsum("na,nb,nc->abc", wide, wide, wide) / 50
    skewness = (moments**2).sum() - 8 * 9 * 10 / 50
    assert caution(wide) == pytest.approx(np.sqrt(1.0 + max(skewness, 0.0) / 50))


def test_another_kind_of_global_generator_is_no_trouble():
    before = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(0))
    try:
        assert checked(noisy()).passed
    finally:
        np.random.set_bit_generator(before)


# ---------------------------------------------------------------- skewed, heavy and rare


def skewed(sigma):
    """Importance weights of a normal policy, less their mean."""
    return lambda rng: np.exp(sigma * rng.normal(size=(400, 2)) - sigma**2 / 2) - 1.0


@sizes("runs", [120], [400])
def test_a_test_that_takes_weights_for_normal_does_not_keep_it(runs, monkeypatch):
    monkeypatch.setattr(mean_test, "EDGEWORTH", 0.0)
    monkeypatch.setattr(mean_test, "STEEP", 0.0)
    monkeypatch.setattr(mean_test, "GROSSLY", 1.0)
    found = alarms(skewed(1.5), TARGET[:2], rate=0.01, runs=runs)
    assert stats.binom.sf(found - 1, runs, 0.01) < CHANCE


def test_a_gap_that_a_tail_would_explain_is_inconclusive_and_diagnosed():
    def weighted(problem, theta, rng):
        # a mean of few: what is seen is mostly below the expectation
        return EXACT * np.exp(2.5 * rng.normal() - 2.5**2 / 2)

    reports = [checked(weighted, rng=seed, false_alarm_rate=0.05) for seed in range(6)]
    assert {report.verdict for report in reports} == {INCONCLUSIVE}
    tails = [report for report in reports if report.suspicious]
    assert tails
    assert all("the gap could be a tail of which about" in report.reason for report in tails)
    assert all("or clip what is rare and large" in str(report) for report in tails)
    assert all(report.diagnosis is not None for report in tails)
    assert all("if it is biased: " in str(report) for report in tails)


@sizes("runs", [20], [100])
@pytest.mark.parametrize(
    ("draw", "share"),
    [
        (lambda rng: rng.normal(size=(400, 3)), 0.95),
        (lambda rng: rng.normal(size=(400, 2)) @ MIX[:2], 0.95),
        (lambda rng: rng.standard_t(5, size=(400, 1)), 0.85),
        (lambda rng: rng.exponential(size=(400, 1)) - 1.0, 0.85),
    ],
)
def test_correct_estimators_with_tame_noise_stay_conclusive(draw, share, runs):
    rng, passed = np.random.default_rng(0), 0
    for _ in range(runs):
        noise = draw(rng)
        target = 4.0 * TARGET[: noise.shape[1]]
        passed += judged(target + noise, target).passed
    assert stats.binom.cdf(passed, runs, share) > CHANCE


def passes_with_what_is_claimed(draw, mean, target, *, runs, plant, claim="bias", **settings):
    """Plant a bias of the size that is claimed to be visible; count passes, and claims."""
    rng, passed, claims = np.random.default_rng(0), 0, 0
    for run in range(runs):
        report = judged(mean + draw(rng), target, **settings)
        visible = getattr(report, f"smallest_visible_{claim}")
        if np.isfinite(visible):
            claims += 1
            rows = mean + plant(visible, run) + draw(rng)
            passed += judged(rows, target, **settings).passed
    assert stats.binom.sf(passed - 1, claims, 0.01) > CHANCE
    return claims


@sizes("runs", [20], [100])
@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: rng.normal(size=(400, 2)) @ MIX[:2],  # of rank 2, the target is not in range
        lambda rng: rng.normal(size=(400, 1)) * [1.0, -1.0, 0.0],
        # which combinations vary by more than rounding differs from sample to sample
        lambda rng: rng.normal(size=(400, 1)) + 1e-5 * rng.normal(size=(400, 3)),
        lambda rng: rng.standard_t(4, size=(400, 3)),
        lambda rng: rng.exponential(size=(400, 3)) - 1.0,
    ],
)
def test_a_bias_of_the_size_that_is_claimed_to_be_visible_does_not_pass(draw, runs):
    claims = passes_with_what_is_claimed(
        draw, TARGET, TARGET, runs=runs, plant=lambda visible, run: visible * TARGET
    )
    assert claims > 0.5 * runs


@pytest.mark.parametrize("scale", [1e3, 1e20, 1e170, 1e300])
def test_noise_far_above_the_target_never_passes_and_is_told_of_in_few_digits(scale):
    target = np.array([3.0, -2.0])
    report = judged(scale * np.random.default_rng(0).normal(size=(400, 2)), target)
    assert report.verdict is INCONCLUSIVE
    assert report.smallest_visible_bias > 1.0
    assert report.reason.startswith("the noise would hide a bias of the target's own size")
    assert max(len(line) for line in str(report).splitlines()) < 200
    few, count = scale < 1e100, report.replicates_for(0.01)
    assert count > 10**9 if few else count == 0  # float64 does not hold their number
    assert "for one of 1% it takes" not in str(report)


def test_where_the_target_is_zero_the_visible_bias_is_in_units_of_the_gradient():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(400, 3)) * [1.0, 10.0, 0.0]
    report = judged(noise, np.zeros(3))
    assert report.passed
    assert np.isinf(report.smallest_visible_bias)
    # of the noisiest coordinate: some 5 of its standard errors, 10 / 20
    assert 2.0 < report.smallest_visible_gap < 4.0
    assert "coordinate would not have passed" in str(report)
    planted = np.array([0.0, report.smallest_visible_gap, 0.0])
    fresh = [rng.normal(size=(400, 3)) * [1.0, 10.0, 0.0] for _ in range(50)]
    assert sum(judged(planted + new, np.zeros(3)).passed for new in fresh) <= 3
    assert "the target is 0" in str(report)
    assert judged(noise + 10.0, np.zeros(3)).verdict is BIASED
    heavy = judged(rng.standard_cauchy(size=(400, 3)), np.zeros(3))
    assert heavy.verdict is INCONCLUSIVE
    assert np.isinf(heavy.smallest_visible_gap)


@sizes("runs", [15], [60])
@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: rng.normal(size=(100, 1)) * [1.0, 1e-3, 1e3],
        lambda rng: rng.normal(size=(100, 1)) + 1e-6 * rng.normal(size=(100, 3)),
        lambda rng: rng.normal(size=(100, 1)) + 1e-5 * rng.normal(size=(100, 3)),
        lambda rng: rng.standard_t(4, size=(100, 2)) @ MIX[:2],
    ],
)
def test_a_gap_of_the_size_that_is_claimed_does_not_pass_where_combinations_never_vary(draw, runs):
    claims = passes_with_what_is_claimed(
        draw,
        np.zeros(3),
        np.zeros(3),
        runs=runs,
        claim="gap",
        plant=lambda visible, run: visible * np.eye(3)[run % 3],
    )
    assert claims > 0.5 * runs


def test_dependence_is_looked_for_where_a_bias_is_the_hardest_to_see():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(400, 2))
    noise[:, 1] = 10.0 * np.repeat(noise[:200, 1], 2)
    report = judged(noise, np.zeros(2))
    assert report.reason.startswith("replicates depend on those before them")


def test_visible_bias_and_gap_are_the_same_in_two_units():
    noise = np.random.default_rng(0).normal(size=(400, 3))
    report = judged(TARGET + noise, TARGET)
    relative = report.smallest_visible_gap / np.linalg.norm(TARGET)
    assert relative == pytest.approx(report.smallest_visible_bias, rel=1e-12)


# ---------------------------------------------------------------- calls that are not independent


def autoregressive(memory):
    """Keep some of the last call's noise."""
    last = [np.zeros(6)]

    def estimator(problem, theta, rng):
        last[0] = memory * last[0] + rng.normal(size=6)
        return EXACT + last[0]

    return estimator


def repeated(calls):
    """Give the same estimate in so many calls."""
    kept = {"calls": 0}

    def estimator(problem, theta, rng):
        if kept["calls"] % calls == 0:
            kept["estimate"] = EXACT + rng.normal(size=6)
        kept["calls"] += 1
        return kept["estimate"]

    return estimator


def averaged():
    """Give the mean of all calls so far."""
    seen = []

    def estimator(problem, theta, rng):
        seen.append(EXACT + rng.normal(size=6))
        return np.mean(seen, axis=0)

    return estimator


def warming(problem, theta, rng, *, calls=[0]):  # noqa: B006
    calls[0] += 1
    return EXACT * (1.0 - np.exp(-calls[0] / 30.0)) + rng.normal(size=6)


def fitted_once():
    """Share what was fitted in the first call, a critic say."""
    kept = []

    def estimator(problem, theta, rng):
        if not kept:
            kept.append(rng.normal(size=6))
        return EXACT + kept[0] + 0.1 * rng.normal(size=6)

    return estimator


@sizes("runs", [1], [10])
@sizes(
    "make",
    [lambda: repeated(2)],
    [lambda: autoregressive(0.5), lambda: autoregressive(0.9), lambda: repeated(10), averaged],
)
def test_calls_that_depend_on_each_other_decide_nothing_and_are_noticed(make, runs):
    reports = [checked(make(), target=EXACT, rng=seed) for seed in range(runs)]
    assert {report.verdict for report in reports} == {INCONCLUSIVE}
    noticed = [report for report in reports if "depend on those before them" in report.reason]
    assert len(noticed) >= 0.9 * runs


def test_an_estimator_that_warms_up_is_not_called_biased():
    assert checked(warming).verdict is INCONCLUSIVE


def test_what_calls_share_is_found_by_making_the_first_call_again():
    report = checked(fitted_once())
    assert report.verdict is INCONCLUSIVE
    assert report.suspicious
    assert "the first call made again, with the same rng, gives something else" in report.reason


@sizes("then", [[]], [[np.full(6, np.nan)], [np.zeros(5)], [None]])
def test_an_estimator_that_cannot_be_called_again_keeps_something(then):
    draws = iter([*np.random.default_rng(0).normal(size=(100, 6)), *then])
    report = checked(
        lambda problem, theta, rng: 0.1 * np.asarray(next(draws), dtype=float) + 1.0,
        n_replicates=100,
    )
    assert report.verdict is INCONCLUSIVE
    assert "keep" in report.reason


def test_what_goes_round_in_a_circle_is_found_though_it_is_back_at_its_start():
    pool = itertools.cycle(2.0 * EXACT + 0.1 * np.random.default_rng(0).normal(size=(50, 6)))
    report = checked(lambda problem, theta, rng: next(pool), n_replicates=100)
    assert report.verdict is INCONCLUSIVE
    assert "keep" in report.reason


@sizes("scale", [1e-300], [1e-200, 1e200, 1e300])
def test_any_scale_is_checked_whatever_numpys_error_state(scale):
    own, problem = np.random.default_rng(0), tb.problems.garnet(n_states=3)
    target = scale * EXACT

    def off(problem, theta, rng):
        return scale * (2.0 * EXACT + 0.1 * rng.normal(size=6))

    with np.errstate(all="raise"):
        biased = checked(off, target=target)
        ignoring = checked(lambda problem, theta, rng: off(problem, theta, own), target=target)
        diagnosed = tb.check_estimator(off, problem, THETA, rng=0)
    assert biased.verdict is BIASED
    assert ignoring.verdict is INCONCLUSIVE
    assert diagnosed.diagnosis is not None


def test_another_global_generator_in_the_first_call_again_is_no_traceback():
    kind = np.random.get_bit_generator()

    def changes_it(problem, theta, rng):
        np.random.set_bit_generator(np.random.PCG64(rng))
        return 2.0 * EXACT + 0.1 * np.random.normal(size=6)  # noqa: NPY002

    try:
        report = checked(changes_it)
    finally:
        np.random.set_bit_generator(kind)
    assert report.verdict is not tb.Verdict.UNBIASED


def first(draw):
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    return draw(False)


@pytest.mark.parametrize("draw", [from_numpy, from_python])
def test_global_generators_are_set_back_for_the_first_call_and_after_it(draw):
    start, again = first(draw), draw(False)
    first(draw)  # puts the generators where they were
    assert checked(lambda problem, theta, rng: 2.0 * EXACT + 0.1 * draw(False)).verdict is BIASED
    # and they are not left where the first call began or ended
    then = draw(False)
    assert (then != start).any()
    assert (then != again).any()


@sizes("runs", [200], [2000])
def test_independent_replicates_are_rarely_called_dependent(runs):
    rng = np.random.default_rng(0)
    draws = [lambda: rng.normal(size=100), lambda: 1.0 * (rng.random(100) < 0.1)]
    for draw in draws:
        found = 0
        for _ in range(runs):
            scores = draw()
            if scores.any():
                scores = scores - scores.mean()
                found += mean_test.dependence(scores / scores.std()).found
        assert stats.binom.sf(found - 1, runs, mean_test.DEPENDENCE_RATE) > CHANCE


def test_neighbours_that_are_alike_stretch_the_standard_error():
    rng = np.random.default_rng(0)
    scores = np.repeat(rng.normal(size=1000), 2)
    found = mean_test.dependence((scores - scores.mean()) / scores.std())
    assert found.found
    assert found.correlation == pytest.approx(0.5, abs=0.05)
    assert found.stretch == pytest.approx(np.sqrt(3.0), rel=0.1)
    other = rng.normal(size=1000)
    assert mean_test.dependence((other - other.mean()) / other.std()).stretch < 1.05


# ---------------------------------------------------------------- deterministic functions


def rarely(number, chance=0.02):
    """Something other than 0 where a number is small."""
    return EXACT * (50.0 if number < chance else 0.0)


class Plugged:
    """Draw from a generator of its own."""

    def __init__(self, rng):
        self.rng = rng

    def __call__(self, problem, theta, rng):
        return rarely(self.rng.random())


POOL = np.random.default_rng(5)


def in_a_closure(make):
    own = make(3)
    return lambda problem, theta, rng: rarely(own.random())


@pytest.mark.parametrize(
    "estimator",
    [
        Plugged(np.random.default_rng(3)),
        Plugged(random.Random(3)),
        Plugged(np.random.default_rng(3)).__call__,
        functools.partial(Plugged(np.random.default_rng(3))),
        in_a_closure(np.random.default_rng),
        pytest.param(in_a_closure(np.random.RandomState), marks=pytest.mark.slow),
        pytest.param(in_a_closure(random.Random), marks=pytest.mark.slow),
        lambda problem, theta, rng: rarely(POOL.random()),
        lambda problem, theta, rng: rarely(rng.spawn(1)[0].random()),
        lambda problem, theta, rng: rarely(rng.random()),
        lambda problem, theta, rng: rarely(random.random()),
        lambda problem, theta, rng: rarely(np.random.random()),  # noqa: NPY002
    ],
)
def test_what_draws_from_any_generator_is_not_called_deterministic(estimator):
    report = checked(estimator, n_replicates=50)
    assert not report.deterministic
    assert report.verdict is INCONCLUSIVE


@pytest.mark.slow
def test_keys_of_jax_that_a_function_splits_are_noticed():
    jax = pytest.importorskip("jax")
    kept = [jax.random.PRNGKey(1)]

    def rare(problem, theta, rng):
        kept[0], key = jax.random.split(kept[0])
        return rarely(jax.random.uniform(key), 1e-6)

    report = checked(rare, n_replicates=30)
    assert not report.deterministic
    assert report.verdict is INCONCLUSIVE


def test_generators_of_pytorch_that_a_function_holds_are_noticed():
    torch = pytest.importorskip("torch")
    own = torch.Generator().manual_seed(1)
    rare = lambda problem, theta, rng: rarely(torch.rand(1, generator=own).item(), 1e-6)  # noqa: E731
    assert not checked(rare, n_replicates=30).deterministic


@sizes(
    ("off", "passes"),
    [(1e-12, True), (1e-9, False)],
    [(0.0, True), (-2.0, False), (np.eye(6)[3] * 1e-3, False)],
)
def test_a_deterministic_function_is_right_to_the_bound_or_biased(off, passes):
    estimator = counted(lambda problem, theta, rng: EXACT * (1.0 + off))
    report = checked(estimator)
    assert report.verdict is (tb.Verdict.UNBIASED if passes else BIASED)
    assert estimator.calls == report.n_replicates == 5
    assert report.deterministic
    assert "deterministic: 5 calls give the same, and draw from no generator" in str(report)
    assert report.smallest_visible_bias < 1e-8
    assert report.passed or report.statistic > report.critical_value == 1.0
    assert np.ndim(off) or report.bias == pytest.approx(off, rel=1e-3, abs=1e-10)


def test_a_deterministic_float32_is_right_to_its_rounding():
    coarse = EXACT.astype("float32")
    assert checked(lambda problem, theta, rng: coarse).passed
    off = (1.001 * EXACT).astype("float32")
    assert checked(lambda problem, theta, rng: off).verdict is BIASED


@sizes("scale", [1e-300], [1e300])
def test_deterministic_functions_of_any_scale_are_judged(scale):
    settings = {"target": scale * EXACT}
    assert checked(lambda problem, theta, rng: scale * EXACT, **settings).passed
    assert checked(lambda problem, theta, rng: 1.1 * scale * EXACT, **settings).verdict is BIASED
    assert checked(lambda problem, theta, rng: 0.0 * EXACT, target=np.zeros(6)).passed


# ---------------------------------------------------------------- what never varies


@sizes("factor", [1.001], [0.0, -1.0, 1.2])
def test_a_constant_coordinate_that_is_off_is_named_with_its_gap_and_the_rarity(factor):
    def stuck(problem, theta, rng):
        estimate = EXACT * (1.0 + 0.3 * rng.normal(size=6))
        estimate[2] = factor * EXACT[2]
        return estimate

    report = checked(stuck)
    assert report.verdict is INCONCLUSIVE
    assert report.reason == report.still
    assert report.reason.startswith(f"gradient[2] ({factor * EXACT[2]:.6g}, not {EXACT[2]:.6g}, ")
    assert f"{factor - 1.0:+.2%}" in report.reason
    assert "An event of probability 1.14% or more would have been seen" in report.reason
    assert "in what varies, " in str(report)


def test_several_are_named_the_worst_first():
    rows = np.tile(np.arange(1.0, 7.0), (100, 1))
    rows[:, 5] += np.random.default_rng(0).normal(size=100)
    report = judged(rows, np.array([1.1, 2.5, 3.2, 4.7, 5.0, 6.0]))
    order = [report.reason.index(f"gradient[{k}]") for k in (3, 1, 2)]
    assert order == sorted(order)
    assert "and 1 more are the same in all 100 replicates" in report.reason


def test_a_combination_that_is_off_is_placed():
    noise = np.random.default_rng(0).normal(size=(100, 3))
    noise -= noise.mean(axis=1, keepdims=True)
    report = judged(TARGET + noise + 1.0, TARGET)
    assert report.verdict is INCONCLUSIVE
    assert report.reason.startswith("a combination of coordinates (most gradient[")
    assert "is the same in all 100 replicates, and off by 1.73" in report.reason


def test_the_rarity_is_that_of_an_event_which_is_seen_with_the_stated_probability():
    rows = np.column_stack([np.zeros(200), np.random.default_rng(0).normal(size=200)])
    reason = judged(rows, np.array([1.0, 0.0]), false_alarm_rate=1e-3, power=0.9).reason
    chance = float(reason.split("An event of probability ")[1].split("%")[0]) / 100.0
    assert 1.0 - (1.0 - chance) ** 200 == pytest.approx(0.9, abs=0.01)


# ---------------------------------------------------------------- resolution


def hiding(visible):
    """Make rows in which about so large a bias is visible."""
    noise = np.random.default_rng(1).normal(size=(400, 1))
    unit = judged(1.0 + 0.1 * noise, np.ones(1)).smallest_visible_bias
    return 1.0 + (noise - noise.mean()) * (0.1 * visible / unit)


def test_what_was_asked_for_and_is_not_reached_is_inconclusive():
    rows, target = hiding(0.1), np.ones(1)
    assert judged(rows, target, visible_bias=0.11).passed
    report = judged(rows, target, visible_bias=0.09)
    assert report.verdict is INCONCLUSIVE
    assert report.reason == (
        "the noise would hide a bias of 10.00%, and one of 9% was to be seen: take about 2 times "
        "as many replicates, or trajectories an estimate"
    )
    assert checked(noisy(), visible_bias=1e-3).verdict is INCONCLUSIVE


def test_a_default_that_is_not_reached_is_said_on_the_verdict_line():
    report = judged(hiding(0.18), np.ones(1))
    assert report.passed
    assert str(report).splitlines()[0] == (
        "Estimator check: no bias seen, but one below 18.00% would not have been seen (5% was the "
        "aim)"
    )
    assert str(judged(hiding(0.04), np.ones(1))).startswith("Estimator check: no bias seen\n")


def test_nothing_passes_that_hides_more_than_a_quarter():
    report = judged(hiding(0.26), np.ones(1))
    assert report.verdict is INCONCLUSIVE
    assert "would hide a bias of 26.00%, more than the 25% that may pass" in report.reason
    assert judged(hiding(0.24), np.ones(1)).passed
    assert judged(hiding(0.5), np.ones(1), visible_bias=0.6).passed  # as asked for


def test_advice_that_nobody_can_follow_is_not_given():
    report = judged(hiding(300.0), np.ones(1))
    assert "standard_suite" in report.reason
    assert "enumeration" in report.reason
    assert "it takes" not in str(report)


# ---------------------------------------------------------------- a wrong pullback


def only(name, factor):
    """Change the pullback of one table."""

    def change(pulled, measures):
        part = tb.Sensitivities.of(measures.model, **{name: np.array(getattr(measures, name))})
        return pulled + (factor - 1.0) * PROBLEM.pullback(THETA, part)

    return change


WRONG = {
    "nothing": (lambda pulled, measures: pulled, False),
    "sign": (lambda pulled, measures: -pulled, True),
    "twice": (lambda pulled, measures: 2.0 * pulled, True),
    "a part in a thousand": (lambda pulled, measures: 1.001 * pulled, True),
    "one coordinate": (lambda pulled, measures: pulled * [1, 1, 1, 0.9, 1, 1], True),
    "two swapped": (lambda pulled, measures: pulled[[1, 0, 2, 3, 4, 5]], True),
    "zero": (lambda pulled, measures: 0.0 * pulled, True),
    "kernel": (only("transition", 0.0), True),
    "leader's reward": (only("leader_reward", 1.1), True),
    "follower's reward": (only("follower_reward", -1.0), True),
    "initial": (only("initial", 0.5), True),
    "an offset": (lambda pulled, measures: pulled + 1e-2, True),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_pullback_is_broken(name):
    change, wrong = WRONG[name]
    problem = Plain(PROBLEM, pullback=lambda *at: change(PROBLEM.pullback(*at), at[1]))
    estimator = counted(lambda problem, theta, rng: EXACT)
    report = tb.check_estimator(estimator, problem, THETA, target=EXACT, rng=0)
    assert report.pullback_checked is not wrong
    assert report.passed is not wrong
    if wrong:
        assert report.verdict is tb.Verdict.BROKEN
        assert report.reason == "pullback"
        assert estimator.calls == 0
        assert "the problem's pullback does not fit its model" in str(report)
    rows = EXACT + np.random.default_rng(0).normal(size=(99, 6))
    assert (tb.check_estimates(rows, problem, THETA, target=EXACT).reason == "pullback") is wrong


@pytest.mark.parametrize("case", tb.standard_suite(), ids=lambda case: case.name)
def test_the_suites_pullbacks_are_checked_and_fit(case):
    found = pullback.check_pullback(case.problem, case.theta)
    assert found == pullback.PullbackTest(checked=True)


def test_a_problem_that_is_too_large_is_not_checked_and_the_report_says_so(monkeypatch):
    monkeypatch.setattr(pullback, "MOST_ENTRIES", 100)
    report = tb.check_estimator(noisy(), tb.problems.garnet(), THETA, rng=0)
    assert not report.pullback_checked
    assert "pullback was not checked: " in str(report)
    assert "table entries are more than 100" in str(report)


def test_a_model_that_jitters_tells_nothing_of_its_pullback():
    rough = Plain(PROBLEM, model=lambda theta: PROBLEM.model(theta + 1e-3 * np.sin(1e6 * theta)))
    found = pullback.check_pullback(rough, THETA)
    assert not found.checked
    assert "too inaccurate to tell" in found.skipped


# ---------------------------------------------------------------- estimates from elsewhere


ROWS = EXACT * (1.0 + 0.3 * np.random.default_rng(0).normal(size=(400, 6)))


def test_rows_are_judged_as_calls_are():
    own = iter(ROWS)
    calls = checked(lambda problem, theta, rng: next(own) + 0.0 * rng.random(), visible_bias=1e-9)
    rows = rows_checked(ROWS)
    assert rows.passed
    np.testing.assert_array_equal(rows.mean, calls.mean)
    assert rows.n_replicates == 400
    assert rows.seed is None
    assert rows.pullback_checked


@sizes("factor", [-1.0], [1.2])
def test_rows_that_are_off_are_biased_and_diagnosed(factor):
    report = rows_checked(factor * ROWS)
    assert report.verdict is BIASED
    assert report.diagnosis is not None


def test_a_target_does_not_switch_the_diagnosis_off():
    for report in (
        rows_checked(-ROWS, target=0.9 * EXACT),
        checked(noisy(scale=-1.0), target=0.9 * EXACT),
    ):
        assert report.verdict is BIASED
        assert report.diagnosis is not None
    wrong = rows_checked(ROWS, target=2.0 * EXACT)
    assert "the mean is the exact gradient, which is not the target given" in wrong.notes


@pytest.mark.parametrize("target", [EXACT, 0.0 * EXACT])
def test_rows_that_are_all_the_same_are_right_or_prove_nothing(target):
    right = rows_checked(np.tile(target, (30, 1)), target=target)
    assert right.passed
    assert right.constant
    assert rows_checked(np.tile(target + EXACT, (30, 1)), target=target).verdict is INCONCLUSIVE


def test_rows_of_float32_are_judged_by_its_rounding():
    report = rows_checked(ROWS.astype("float32"))
    assert report.passed
    assert report.notes[-1].startswith("estimates are float32")


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        (ROWS[:29], {}, "rows are 29 estimates, fewer than 30"),
        (ROWS[:, :5], {}, r"rows has shape \(400, 5\), not"),
        (ROWS[0], {}, r"rows has shape \(6,\), not"),
        (np.where(np.arange(6) == 2, np.nan, ROWS), {}, r"rows\[0, 2\] is nan"),
        (ROWS, {"visible_bias": 0.0}, "visible_bias is 0.0, not a positive finite number"),
        (ROWS, {"target": np.zeros(6), "up_to_scale": True}, "target is 0, which has no direction"),
        (ROWS, {"horizon": 0}, "horizon is 0, not a positive whole number"),
    ],
)
def test_rows_and_settings_are_checked(rows, settings, message):
    assert_refused(message, rows_checked, rows, **settings)


# ---------------------------------------------------------------- up to scale


@sizes("scale", [1e-200], [0.01, 1.0, 50.0, 1e200])
def test_any_positive_multiple_passes_up_to_scale(scale):
    report = rows_checked(scale * ROWS, up_to_scale=True)
    assert report.passed
    assert report.times == pytest.approx(scale, rel=0.1)
    assert 0.01 < report.smallest_visible_bias < 0.25
    assert not rows_checked(scale * ROWS @ np.roll(np.eye(6), 1, axis=0), up_to_scale=True).passed


def test_minus_the_gradient_is_not_it_up_to_scale():
    report = rows_checked(-ROWS, up_to_scale=True)
    assert report.verdict is BIASED
    assert "against the target's direction" in str(report)


def test_a_mean_that_may_be_0_has_no_direction():
    noise = np.random.default_rng(0).normal(size=(400, 6))
    assert rows_checked(noise, up_to_scale=True).verdict is INCONCLUSIVE


@sizes("runs", [50], [1000])
def test_false_alarms_up_to_scale_come_at_the_stated_rate_at_most(runs):
    rng, rate, found = np.random.default_rng(0), 0.05, 0
    for _ in range(runs):
        rows = 3.0 * EXACT + NORM * rng.normal(size=(100, 6))
        report = judged(rows, EXACT, false_alarm_rate=rate, power=0.9, up_to_scale=True)
        found += report.verdict is BIASED
    assert stats.binom.sf(found - 1, runs, rate) > CHANCE


@sizes("runs", [15], [50])
def test_a_gap_across_of_the_size_that_is_claimed_does_not_pass_up_to_scale(runs):
    across = ACROSS * NORM / np.linalg.norm(ACROSS)
    claims = passes_with_what_is_claimed(
        lambda rng: 0.3 * NORM * rng.normal(size=(200, 6)),
        3.0 * EXACT,
        EXACT,
        runs=runs,
        plant=lambda visible, run: 3.0 * visible * across,
        up_to_scale=True,
    )
    assert claims > 0.8 * runs


@pytest.mark.parametrize(("factor", "verdict"), [(2.0, "no bias seen"), (-2.0, "BIASED")])
def test_deterministic_functions_are_compared_up_to_scale_too(factor, verdict):
    report = checked(lambda problem, theta, rng: factor * EXACT, up_to_scale=True)
    assert report.verdict.value == verdict
    assert report.deterministic


def test_mistakes_are_named_up_to_scale_and_a_scale_alone_is_told_on_a_pass():
    naive = tb.NaivePolicyGradient(tb.Interaction(tb.Episodes(200)))

    def clipped(problem, theta, rng):
        estimate = naive(problem, theta, rng=rng).gradient
        return 1e-3 * estimate / np.linalg.norm(estimate)

    report = checked(clipped, up_to_scale=True)
    assert report.verdict is BIASED
    assert report.diagnosis.best.name == "through-follower term dropped"
    assert rows_checked(-1e200 * ROWS, up_to_scale=True).diagnosis.best.name == "sign flipped"
    other = ROWS @ np.roll(np.eye(6), 1, axis=0)
    assert rows_checked(other, up_to_scale=True).diagnosis.best is None
    passed = rows_checked(0.1 * ROWS, up_to_scale=True)
    assert passed.passed
    assert f"the gradient times {passed.scale}" in str(passed)
    assert passed.scale.low <= 0.1 <= passed.scale.high


def test_what_is_always_0_has_no_direction():
    report = checked(lambda problem, theta, rng: np.zeros(6), up_to_scale=True)
    assert report.verdict is BIASED
    assert report.diagnosis.guesses == ()


# ---------------------------------------------------------------- what is declared


STOPPED, LEARNT = tb.StoppedValueIteration(sweeps=3), tb.MonteCarloCritic()
ELSEWHERE = tb.problems.garnet(rng=5)
OF = {
    "follower": (STOPPED, {}),
    "critic": (LEARNT, {"sampler": tb.Episodes(200, 10)}),
    "simulator": (ELSEWHERE, {}),
    "sampler": (tb.Episodes(200, 5), {}),
}


@sizes("name", ["sampler"], [name for name in OF if name != "sampler"])
def test_what_is_declared_is_what_the_target_is_made_with(name):
    thing, more = OF[name]
    known = {name: thing, **more}
    method = tb.BoltzmannCovariance(tb.Interaction(**{"sampler": tb.Episodes(200), **known}))
    settings = {"rng": 1, "visible_bias": 0.2}
    assert checked(method, **settings).verdict is BIASED
    report = checked(method, **settings, **known)
    assert report.passed
    assert str(report).startswith("Estimator check: no bias seen, beside what was declared")
    assert f"{name}={thing!r}" in report.declared
    assert report.declared_off > 0.1
    wrong = tb.NaivePolicyGradient(method.interaction)
    found = checked(wrong, **settings, **known)
    assert found.verdict is BIASED
    best, factor = found.diagnosis.best, found.factors["through_follower"]
    assert "through-follower term dropped" in {best.name, *best.alike}
    assert factor.low <= 0.0 <= factor.high
    rows = [method(PROBLEM, THETA, rng=seed).gradient for seed in range(200)]
    assert rows_checked(rows, visible_bias=0.2, **known).passed


def test_what_is_declared_and_not_so_is_told():
    report = rows_checked(ROWS, follower=STOPPED)
    assert report.verdict is BIASED
    assert "the mean is the exact gradient, which is not the target given" in report.notes


def test_a_given_target_goes_before_what_is_declared_and_mistakes_do_not():
    method = tb.NaivePolicyGradient(tb.Interaction(tb.Episodes(200), follower=STOPPED))
    report = checked(method, follower=STOPPED, target=EXACT, n_replicates=100)
    assert report.verdict is BIASED
    assert report.diagnosis.best.name == "through-follower term dropped"


@pytest.mark.slow
def test_a_follower_that_goes_on_is_where_the_burn_in_left_it():
    method = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(200), follower=STOPPED))
    settings = {"rng": 0, "burn_in": 10, "follower": STOPPED}
    report = checked(method, **settings)
    assert report.passed
    assert report.declared_off < 1e-3
    exactly = checked(lambda problem, theta, rng: method.target(problem, theta), follower=STOPPED)
    assert exactly.passed
    assert exactly.deterministic


def test_a_critic_that_learns_says_what_finite_data_leave():
    known = {"critic": LEARNT, "sampler": tb.Episodes(50, 10)}
    method = tb.BoltzmannCovariance(tb.Interaction(**known))
    settings = {"rng": 0, "visible_bias": 0.5, "n_replicates": 100}
    for more, note in (
        ({}, "is taken off: BC-HG was sampled as often"),
        ({"up_to_scale": True}, "not taken off up to scale"),
    ):
        report = checked(method, **known, **settings, **more)
        assert any(note in each for each in report.notes)
    report = rows_checked(ROWS, critic=LEARNT)
    assert any("to be known by its sampler" in each for each in report.notes)
