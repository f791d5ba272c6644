"""Exact moments of gradients of linear-quadratic problems: by quadrature, and by playing."""

import numpy as np
import pytest
from systems import Moved, Room, of_one_state

import tabular_bilevel as tb
from tabular_bilevel.lq.traces import TraceRule
from tabular_bilevel.lq.values import exact_values
from tabular_bilevel.moments import gaussian
from tabular_bilevel.moments.gaussian import GaussianMoments, returns

ROUNDING = 1e-13


SMALL = of_one_state(
    dynamics=1.0,
    control_cost=0.4,
    temperature=0.5,
    leader_reward=tb.QuadraticReward(state=[[-1.0]], control=[[-1.7]], constant=-0.1),
    leader_horizon=2,
)
LEAK, THETA = Room(SMALL, rent=0.0), [0.1, 0.0]


def by_quadrature(steps, *, baseline, credited):
    """Make the gradient of each trajectory of a grid, in plain numbers, and average."""
    model = LEAK.model(THETA)
    response = tb.solve_follower(model)
    values = exact_values(model, response)
    V, at = values.matrices[:, 0, 0], values.constants
    a, b, W = model.dynamics[0, 0], model.control[0, 0], model.noise[0, 0]
    g, later, N = model.follower_discount, model.leader_discount, -1.7
    K, S, P = response.gain[0, 0], response.covariance[0, 0], response.value_matrix[0, 0]
    nodes, weights = np.polynomial.hermite_e.hermegauss(7)  # exact to degree 13
    n = 2 * steps + 1
    z = np.array(np.meshgrid(*[nodes] * n, indexing="ij")).reshape(n, -1)
    mass = np.array(np.meshgrid(*[weights / weights.sum()] * n, indexing="ij")).reshape(n, -1)
    mass = mass.prod(axis=0)
    x, e, found = 0.5 + np.sqrt(0.1) * z[0], 0.0, np.zeros((2, mass.size))
    for t in range(steps):
        on, k = t < 2, min(t + 1, 2)
        spread = np.sqrt(S) * z[2 * t + 1]
        u = -K * x + spread
        ahead, mean = a * x + b * u, (a - b * K) * x
        advantage = later * V[k] * (ahead**2 - mean**2 - b**2 * S)
        advantage += on * N * (u**2 - (K * x) ** 2 - S)
        e = g * e + credited * later**t * advantage / model.temperature
        after = ahead + np.sqrt(W) * z[2 * t + 2]
        follower, leader = -P * after**2 - response.value_constant, V[k] * after**2 + at[k]
        if baseline:
            follower += P * (ahead**2 + W) + response.value_constant
            leader -= V[k] * (ahead**2 + W) + at[k]
        score = (after - ahead) / W * x
        found[0] -= (g * e * follower + later ** (t + 1) * leader) * score
        found[1] += on * later**t * u**2 - e * u**2
        x = after
    mean = found @ mass
    return mean, (mass * found) @ found.T - np.outer(mean, mean)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize(
    ("method", "how"),
    [
        (tb.NaivePolicyGradient(), {"baseline": True, "credited": 0.0}),
        (tb.BoltzmannCovariance(), {"baseline": True, "credited": 1.0}),
        (tb.BoltzmannCovariance(baseline=False), {"baseline": False, "credited": 1.0}),
    ],
)
def test_by_quadrature_over_all_noise(steps, method, how):
    moments = tb.estimator_moments(LEAK, THETA, method, horizon=steps)
    mean, covariance = by_quadrature(steps, **how)
    np.testing.assert_allclose(moments.mean, mean, rtol=ROUNDING)
    np.testing.assert_allclose(
        moments.covariance, covariance, rtol=ROUNDING, atol=ROUNDING * covariance.max()
    )
    np.testing.assert_array_equal(moments.variance, np.diag(moments.covariance))
    assert (moments.n_steps, moments.horizon) == (steps, steps)
    assert 0.0 < moments.start_variance < moments.total_variance
    # and a step more, or less, is seen
    other = tb.estimator_moments(LEAK, THETA, method, horizon=3 - steps)
    assert abs(other.total_variance / moments.total_variance - 1.0) > 1e-3


def limit_of(problem, steps):
    theta = np.zeros(len(problem.tangents))
    return tb.Interaction(tb.Episodes(1, steps)).limit(problem, theta)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param({"late": True, "baseline": False}, marks=pytest.mark.slow),
        pytest.param(
            {"credit_discount": 0.5, "trace_discount": 0.9, "direct": 2.0}, marks=pytest.mark.slow
        ),
        {"direct_tables": {"transition": -1.0}, "indirect_tables": {"temperature": 0.5}},
    ],
)
@pytest.mark.parametrize("seed", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_any_rule_in_several_dimensions(seed, changes):
    """The mean is that of the law; variances are those of means of fifty, played many times."""
    problem, steps, count, times = Moved.random(seed), 3, 50, 200
    limit = limit_of(problem, steps)
    model = limit.planned
    settings = {
        "credit": 1.0 / model.temperature,
        "credit_discount": model.leader_discount,
        "trace_discount": model.follower_discount,
        "leader_discount": model.leader_discount,
    }
    rule = TraceRule(**{**settings, **changes})
    found = GaussianMoments(rule, limit).covariance()
    mean = sum(problem.pullback(limit.theta, part) for part in rule.measures(limit))
    np.testing.assert_allclose(found.mean, mean, rtol=1e-10, atol=1e-10 * abs(mean).max())

    rng = np.random.default_rng(seed)
    rows = [
        sum(problem.pullback(limit.theta, part) for part in rule.measures(sampled))
        for sampled in (limit.seeing(limit.law.sample(count, rng=rng)) for _ in range(times))
    ]
    off = (np.array(rows) - mean) * np.sqrt(count)
    for k, variance in enumerate(np.diag(found.covariance)):
        squares = off[:, k] ** 2
        assert abs(squares.mean() - variance) < 5.0 * squares.std() / np.sqrt(times)
    product, wanted = off[:, 0] * off[:, 1], found.covariance[0, 1]
    assert abs(product.mean() - wanted) < 5.0 * product.std() / np.sqrt(times)


def test_returns_have_the_variance_of_those_played():
    problem = Moved.random(3)
    limit = limit_of(problem, 6)
    seen = limit.law.sample(20_000, rng=np.random.default_rng(0))
    model = limit.planned
    earned = model.leader_reward.at(seen.states[:, :6], seen.controls)
    played = earned @ model.leader_discount ** np.arange(6)
    mean, variance, _ = returns(limit)
    off = (played - mean[0]) ** 2
    assert abs(off.mean() - variance[0]) < 5.0 * off.std() / np.sqrt(off.size)
    assert abs(played.mean() - mean[0]) < 5.0 * played.std() / np.sqrt(off.size)
    sampled = tb.ZeroOrder(radius=0.5, sampler=tb.Episodes(1, 6))
    found = tb.estimator_moments(problem, limit.theta, sampled)
    plain = float(found.mean @ found.mean)
    assert found.total_variance == pytest.approx(4.0 * plain + 3.0 * variance[0] / (2.0 * 0.5**2))
    assert found.n_steps == 12.0


@pytest.mark.slow
def test_what_a_budget_buys():
    curve = tb.error_curve(LEAK, THETA, budgets=[1e4], horizons=[3])
    assert curve.methods[:3] == ("BC-HG", "BC-HG, no baseline", "naive")
    assert curve.error[0, 0] < 0.5
    needed = tb.required_samples(LEAK, THETA, tb.BoltzmannCovariance(), error=0.1)
    moments = tb.estimator_moments(LEAK, THETA, tb.BoltzmannCovariance())
    norm = moments.total_variance / (0.1 * np.linalg.norm(moments.exact)) ** 2
    assert norm < needed < 10.0 * norm


class Cold:
    building = tb.problems.building_thermal_control()
    pullback = building.pullback

    def model(self, theta):
        return self.building.model(theta).replace(temperature=1e-300)


def test_what_is_not_known_is_said(monkeypatch):
    method = tb.BoltzmannCovariance()
    with pytest.raises(ValueError, match="trajectories of a linear-quadratic model do not end"):
        tb.estimator_moments(LEAK, THETA, method, horizon=np.inf)
    with pytest.raises(ValueError, match="leader_reward is a GaussianBump"):
        tb.estimator_moments(tb.problems.bilevel_lqr(), [0.0, 0.0], method)
    with pytest.raises(ValueError, match=r"^the moments overflow float64$"):
        tb.estimator_moments(Cold(), np.zeros(8), method, horizon=4)
    monkeypatch.setattr(gaussian, "MOST_NUMBERS", 100)
    with pytest.raises(ValueError, match="1 state, 1 input and 2 parameters take 2,688 numbers"):
        tb.estimator_moments(LEAK, THETA, method)
