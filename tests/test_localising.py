"""Where a mean is off, and by how much: factors of the gradient's parts, with intervals."""

import math

import numpy as np
import pytest
from sizes import sizes
from small import somewhere

import tabular_bilevel as tb
from tabular_bilevel.checks.localising import localise, parts_of
from tabular_bilevel.mistakes.knowledge import right_limit
from tabular_bilevel.mistakes.register import FAULTS

MANY = tb.problems.zoo.named("a thousand parameters")
WIDE = tb.problems.garnet(n_parameters=8, follower_discount=0.6, leader_discount=0.8, rng=2)
GAME = tb.problems.random_game(n_states=3, follower_discount=0.6, leader_discount=0.7, rng=3)

# Of 80 intervals at 99 %: fewer right ones have a probability of 1e-9.
RUNS, FEWEST = 80, 73


def at(problem):
    theta = somewhere(problem)
    exact = tb.hypergradient(problem, theta)
    return parts_of(problem, theta), exact


def rows(mean, *, count=200, spread=0.3, rng):
    """Noise that is skewed, and goes together in some directions."""
    width = len(mean)
    mix = np.random.default_rng(1).normal(size=(width, width)) / math.sqrt(width)
    noise = rng.gamma(2.0, size=(count, width)) / 2.0 - 1.0
    return mean + spread * np.abs(mean).max() * noise @ mix


def by_definition(rows, columns):
    """Generalised least squares with the noise's covariance estimated, in plain sums."""
    count = len(rows)
    mean = rows.mean(axis=0)
    covariance = (rows - mean).T @ (rows - mean) / (count - 1)
    weight = np.linalg.inv(covariance)
    return np.linalg.solve(columns.T @ weight @ columns, columns.T @ weight @ mean)


# ---------------------------------------------------------------- against the slow reference


def test_factors_are_those_of_generalised_least_squares():
    parts, exact = at(WIDE)
    sample = rows(0.5 * exact.direct + 2.0 * exact.indirect, rng=np.random.default_rng(0))
    found = localise(sample, parts, exact.gradient, rounding=1e-10)
    wanted = by_definition(sample, np.array([exact.direct, exact.indirect]).T)
    values = [found.factors[name].value for name in ("direct", "through_follower")]
    np.testing.assert_allclose(values, wanted, rtol=1e-9)


def test_parts_add_up_to_the_gradient_by_part_and_table():
    for problem in (WIDE, GAME):
        parts, exact = at(problem)
        for part, whole in (("direct", exact.direct), ("through_follower", exact.indirect)):
            total = sum(share for (name, _), share in parts.items() if name == part)
            np.testing.assert_allclose(total, whole, atol=1e-9 * np.abs(whole).max())


# ---------------------------------------------------------------- coverage


@sizes("factors", [(0.76, 2.14)], [(1.0, 1.0), (1.0, 0.0)])
def test_intervals_have_the_true_factor_as_often_as_they_say(factors):
    parts, exact = at(WIDE)
    mean = factors[0] * exact.direct + factors[1] * exact.indirect
    hits = {"direct": 0, "through_follower": 0}
    for rng in np.random.default_rng(2).spawn(RUNS):
        sample = rows(mean, count=100, rng=rng)
        found = localise(sample, parts, exact.gradient, rounding=1e-10).factors
        for name, true in zip(hits, factors, strict=True):
            hits[name] += found[name].low <= true <= found[name].high
    assert min(hits.values()) >= FEWEST


def test_with_more_parameters_than_replicates_factors_of_tables_are_told():
    theta = MANY.theta
    exact = tb.hypergradient(MANY.problem, theta)
    parts = parts_of(MANY.problem, theta, exact)
    wrong = exact.gradient - parts["through_follower", "follower_reward"]
    noise = 0.2 * np.abs(exact.gradient).max()
    rng = np.random.default_rng(0)
    sample = wrong + noise * rng.normal(size=(100, theta.size))
    found = localise(sample, parts, exact.gradient, rounding=1e-10)
    assert found.factors["follower_reward"].low <= 0.0 <= found.factors["follower_reward"].high
    assert found.factors["leader_reward"].low <= 1.0 <= found.factors["leader_reward"].high
    assert found.factors["follower_reward"].high < 0.5
    assert found.residual < 0.2
    off = wrong + np.linalg.norm(exact.gradient) * rng.normal(size=theta.size) / 20.0
    far = localise(off + sample - wrong, parts, exact.gradient, rounding=1e-10)
    assert not far.summed
    share = np.linalg.norm(off - wrong) / np.linalg.norm(exact.gradient)
    assert far.residual == pytest.approx(share, rel=0.1)


# ---------------------------------------------------------------- what cannot be told


def test_one_parameter_tells_the_scale_alone():
    problem = tb.problems.garnet(n_states=3, n_parameters=1, rng=3)
    exact = tb.hypergradient(problem, [0.1]).gradient
    report = tb.check_estimator(
        lambda problem, theta, rng: exact * (0.5 + 0.1 * rng.normal(size=1)), problem, [0.1], rng=0
    )
    for name in ("direct", "through_follower"):
        assert (report.factors[name].low, report.factors[name].high) == (-math.inf, math.inf)
        assert not report.factors[name].known
    assert report.scale.low <= 0.5 <= report.scale.high
    assert report.scale.high - report.scale.low < 0.2
    assert report.residual == 0.0


def test_a_report_that_passed_has_factors_of_one_and_no_diagnosis():
    theta = somewhere(WIDE)
    report = tb.check_estimator(
        tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(300))), WIDE, theta, rng=0
    )
    assert report.passed
    assert report.diagnosis is None
    for factor in (report.scale, *report.factors.values()):
        assert not factor.known or not factor.wrong
    assert report.residual < 0.2
    enumerated = tb.check_by_enumeration(
        tb.BoltzmannCovariance(), tb.problems.layered(depth=3, width=2, rng=1), np.full(4, 0.1)
    )
    assert enumerated.passed
    assert enumerated.factors["direct"].value == pytest.approx(1.0, abs=1e-6)
    assert enumerated.scale.high - enumerated.scale.low < 1e-5
    assert enumerated.residual == 0.0


def test_the_naive_gradient_is_localised_by_sampling_and_exactly():
    problem = tb.problems.layered(depth=3, width=2, rng=1)
    theta = np.full(4, 0.1)
    sampled = tb.check_estimator(
        tb.NaivePolicyGradient(tb.Interaction(tb.Episodes(500))), problem, theta, rng=0
    )
    exact = tb.check_by_enumeration(tb.NaivePolicyGradient(), problem, theta)
    for report in (sampled, exact):
        direct, through = report.factors["direct"], report.factors["through_follower"]
        assert direct.low <= 1.0 <= direct.high
        assert through.low <= 0.0 <= through.high
        assert "part through the follower times" in str(report)
    assert exact.factors["through_follower"].value == pytest.approx(0.0, abs=1e-7)


def test_what_no_part_can_make_is_the_residual():
    parts, exact = at(WIDE)
    span = np.array(list(parts.values()))
    sideways = np.random.default_rng(4).normal(size=8)
    sideways -= np.linalg.pinv(span) @ (span @ sideways)
    sideways *= 0.5 * np.linalg.norm(exact.gradient) / np.linalg.norm(sideways)
    sample = rows(exact.gradient + sideways, rng=np.random.default_rng(0), spread=0.1)
    found = localise(sample, parts, exact.gradient, rounding=1e-10)
    assert found.residual == pytest.approx(0.5, abs=0.05)
    assert not found.summed
    assert "outside what the parts can make" in str(found)
    still = localise(sample.mean(axis=0)[None], parts, exact.gradient, rounding=1e-10)
    assert still.residual == pytest.approx(0.5, abs=0.05)


def test_a_game_has_the_factor_of_the_leaders_policy():
    theta = somewhere(GAME)
    exact = tb.hypergradient(GAME, theta).gradient
    report = tb.check_estimator(
        lambda problem, theta, rng: 3.0 * exact + 0.1 * rng.normal(size=exact.size) * exact,
        GAME,
        theta,
        rng=0,
    )
    factor = report.factors["leader_policy"]
    assert factor.low <= 3.0 <= factor.high
    assert f"the gradient times {report.scale}" in str(report)


def test_a_deterministic_estimator_has_the_factor_of_its_table():
    theta = somewhere(WIDE)
    wrong = FAULTS["no follower_discount in the kernel's tail"].target(right_limit(WIDE, theta))
    parts, exact = at(WIDE)
    found = localise(np.tile(wrong, (50, 1)), parts, exact.gradient, rounding=1e-7)
    factor = found.factors["through_follower_transition"]
    assert factor.value == pytest.approx(1.0 / 0.6, abs=1e-4)
    assert factor.low <= 1.0 / 0.6 <= factor.high


def test_a_broken_report_knows_nothing():
    def broken(problem, theta, rng):
        raise RuntimeError("no")

    report = tb.check_estimator(broken, WIDE, somewhere(WIDE), rng=0)
    assert report.verdict is tb.Verdict.BROKEN
    assert math.isinf(report.residual)
    assert str(report.scale) == str(report.factors["direct"]) == "unknown"
    assert report.diagnosis.best is None
    assert report.diagnosis.none_probability == 1.0


def test_tables_that_are_not_told_are_listed():
    problem = tb.problems.garnet(n_parameters=3)
    report = tb.check_estimator(
        tb.NaivePolicyGradient(tb.Interaction(tb.Episodes(200))), problem, np.full(3, 0.1), rng=0
    )
    untold = report.localisation.untold
    assert untold == ("follower_reward", "leader_reward", "transition", "initial")
    for name in untold:
        assert not report.factors[name].known
    assert (
        "by what these are multiplied cannot be told on this problem: follower's reward, "
        "leader's reward, kernel, initial distribution"
    ) in str(report)
