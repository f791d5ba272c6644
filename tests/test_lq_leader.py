"""The leader's objective: by recursion, by quadrature, and by playing."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from systems import random_system

import tabular_bilevel as tb
from tabular_bilevel._base.arrays import ROUNDOFF
from tabular_bilevel.lq.follower import closed_loop
from tabular_bilevel.lq.leader import _back, moved_noise, rounding_horizon, step_weights
from tabular_bilevel.lq.rewards import Widened

ROUNDING = 1e-11


def step_by_step(model, response, n_steps):
    """Follow mean and covariance, and add up what `mean_reward` says."""
    C, V = closed_loop(model, response.gain), moved_noise(model, response.covariance)
    mean, spread = model.initial_mean, model.initial_covariance
    total = 0.0
    for t in range(n_steps):
        total += model.leader_discount**t * mean_reward(model, response, mean, spread)
        mean, spread = C @ mean, C @ spread @ C.T + V
    return total


def mean_reward(model, response, mean, spread):
    """By quadrature over the state, in one or two dimensions; of a quadratic by its moments."""
    reward = model.leader_reward
    if isinstance(reward, tb.QuadraticReward):
        moment = spread + np.outer(mean, mean)
        K, cov = response.gain, response.covariance
        return (
            np.trace(reward.state @ moment)
            - 2.0 * np.trace(reward.cross @ K @ moment)
            + np.trace(reward.control @ (K @ moment @ K.T + cov))
            + reward.constant
        )
    points, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    values, vectors = np.linalg.eigh(spread)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    grids = np.meshgrid(*[points] * len(mean), indexing="ij")
    mass = np.ones(grids[0].shape)
    for w in np.meshgrid(*[weights] * len(mean), indexing="ij"):
        mass = mass * w
    x = mean + np.stack([g.ravel() for g in grids], axis=1) @ root.T - reward.centre
    bump = np.exp(-np.einsum("ti,ij,tj->t", x, reward.precision, x))
    return reward.height * mass.ravel() @ bump


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("horizon", [1, 2, 30])
def test_a_quadratic_is_added_up_step_by_step(seed, horizon):
    model = random_system(seed, horizon=horizon)
    response = tb.solve_follower(model)
    known = step_by_step(model, response, horizon)
    found = tb.evaluate_leader(model, response).objective
    assert abs(found - known) < ROUNDING * (abs(known) + 1.0)


def small_bump(seed):
    """A bump in one or two dimensions, wide enough for quadrature."""
    for later in range(seed, 1000, 20):
        model = random_system(later, bump=True, horizon=12)
        if model.n_states <= 2:
            return model.replace(
                leader_reward=replace(
                    model.leader_reward, precision=0.2 * model.leader_reward.precision
                )
            )
    raise AssertionError("no small system")


@pytest.mark.parametrize("seed", range(6))
def test_a_bump_is_its_mean_by_quadrature(seed):
    model = small_bump(seed)
    response = tb.solve_follower(model)
    laws = tb.lq.state_laws(model, response, 12)
    wide = np.linalg.eigvalsh(laws.covariances @ model.leader_reward.precision).max()
    known = step_by_step(model, response, 12)
    found = tb.evaluate_leader(model, response).objective
    assert found == pytest.approx(known, rel=1e-9 if wide < 1.0 else 1e-3)


@pytest.mark.parametrize("bump", [False, True])
def test_all_steps_are_very_many(bump):
    model = random_system(7, bump=bump).replace(leader_discount=0.7)
    response = tb.solve_follower(model)
    found = tb.evaluate_leader(model, response)
    known = tb.evaluate_leader(model, response, horizon=300)
    short = tb.evaluate_leader(model, response, horizon=5)
    assert found.horizon is None
    assert found.objective == pytest.approx(known.objective, rel=1e-11)
    np.testing.assert_allclose(found.closed_loop, known.closed_loop, rtol=1e-8, atol=1e-11)
    np.testing.assert_allclose(found.noise, known.noise, rtol=1e-8, atol=1e-11)
    assert abs(short.objective - known.objective) > 1e-4


def test_how_many_steps_are_all():
    assert rounding_horizon(0.0) == 1
    for discount in (0.1, 0.9, 0.999):
        steps = rounding_horizon(discount)
        assert discount**steps / (1.0 - discount) <= 1.1e-20
        assert discount ** (steps - 1) / (1.0 - discount) > 1e-20


@pytest.mark.parametrize("bump", [False, True])
def test_playing_comes_to_the_same(bump):
    """A Monte Carlo mean, within five standard errors."""
    model = random_system(11, bump=bump, horizon=10).replace(leader_discount=0.9)
    response = tb.solve_follower(model)
    rng, count = np.random.default_rng(3), 40_000
    x = rng.multivariate_normal(model.initial_mean, model.initial_covariance, count)
    returns = np.zeros(count)
    reward = model.leader_reward
    for t in range(10):
        spread = rng.multivariate_normal(np.zeros(model.n_controls), response.covariance, count)
        u = -x @ response.gain.T + spread
        if bump:
            away = x - reward.centre
            earned = reward.height * np.exp(-(away @ reward.precision * away).sum(axis=1))
        else:
            earned = (x @ reward.state * x).sum(axis=1) + (u @ reward.control * u).sum(axis=1)
            earned += 2.0 * (x @ reward.cross * u).sum(axis=1) + reward.constant
        returns += 0.9**t * earned
        noise = rng.multivariate_normal(np.zeros(model.n_states), model.noise, count)
        x = x @ model.dynamics.T + u @ model.control.T + noise
    known = tb.evaluate_leader(model, response).objective
    error = returns.std() / np.sqrt(count)
    assert abs(returns.mean() - known) < 5.0 * error
    assert error < 0.1 * abs(known)  # so that this can fail


def test_a_flat_bump_earns_its_height():
    model = random_system(0, bump=True, horizon=None)
    n = model.n_states
    flat = tb.GaussianBump(centre=np.zeros(n), precision=np.zeros((n, n)), height=3.0)
    model = model.replace(leader_reward=flat, leader_discount=0.8)
    evaluation = tb.evaluate_leader(model, tb.solve_follower(model))
    assert evaluation.objective == pytest.approx(15.0, rel=1e-14)
    assert not evaluation.closed_loop.any()


def test_laws_are_followed_step_by_step():
    model = random_system(4, horizon=5)
    response = tb.solve_follower(model)
    laws = tb.lq.state_laws(model, response, 5)
    C, V = closed_loop(model, response.gain), moved_noise(model, response.covariance)
    for t in range(4):
        np.testing.assert_allclose(laws.means[t + 1], C @ laws.means[t], rtol=1e-10, atol=1e-13)
        known = C @ laws.covariances[t] @ C.T + V
        np.testing.assert_allclose(laws.covariances[t + 1], known, rtol=1e-10, atol=1e-13)
    with pytest.raises(ValueError, match="n_steps is 0, not a positive whole number"):
        tb.lq.state_laws(model, response, 0)


@pytest.mark.parametrize("steps", [1, 2, 3, 37, 100])
@pytest.mark.parametrize("seed", range(3))
def test_doubling_adds_up_what_single_steps_do(seed, steps):
    """A quadratic over some steps is doubled; here its laws and their derivatives go one by one."""
    model = random_system(seed, horizon=steps)
    response, reward = tb.solve_follower(model), model.leader_reward
    found = tb.evaluate_leader(model, response)
    laws = tb.lq.state_laws(model, response, steps)
    weights = model.leader_discount ** np.arange(steps)
    slopes = reward.slopes(laws, weights, response.gain, response.covariance)
    closed = closed_loop(model, response.gain)
    known = _back(closed, laws, slopes.means, slopes.covariances)
    names = ("closed_loop", "noise", "initial_mean", "initial_covariance")
    for name, array in zip(names, known, strict=True):
        assert np.abs(getattr(found, name) - array).max() <= 1e-10 * max(1.0, np.abs(array).max())
    for name, array in slopes.reward.items():
        assert np.abs(found.leader_reward[name] - array).max() <= 1e-10 * np.abs(array).max()


def test_a_horizon_of_any_length_is_summed_at_once():
    """Far beyond what can be gone through step by step, and then all steps are alike."""
    quadratic = random_system(7)
    for model in (quadratic, random_system(7, bump=True), random_system(3, bump=True)):
        response = tb.solve_follower(model)
        whole = tb.evaluate_leader(model, response)
        found = tb.evaluate_leader(model, response, horizon=10**15)
        assert found.horizon == 10**15
        assert found.objective == pytest.approx(whole.objective, rel=1e-12)
        for name in ("closed_loop", "noise", "gain", "covariance", "initial_mean"):
            one, other = getattr(found, name), getattr(whole, name)
            assert np.abs(one - other).max() <= 1e-11 * max(1.0, np.abs(other).max())


@pytest.mark.parametrize("steps", [300, 3000])
def test_laws_that_are_alike_are_weighed_at_once(steps):
    """Against a sum over every step, at a discount that forgets nothing within them."""
    model = random_system(7, bump=True).replace(leader_discount=1.0 - 1e-7)
    response = tb.solve_follower(model)
    closed = closed_loop(model, response.gain)
    weights = step_weights(closed, model.leader_discount, steps)
    assert len(weights) < steps  # so that something is weighed at once
    assert weights.sum() == pytest.approx((model.leader_discount ** np.arange(steps)).sum())
    laws = tb.lq.state_laws(model, response, steps)
    each = model.leader_discount ** np.arange(steps)
    slopes = model.leader_reward.slopes(laws, each, response.gain, response.covariance)
    flow, spreading, *_ = _back(closed, laws, slopes.means, slopes.covariances)
    found = tb.evaluate_leader(model, response, horizon=steps)
    np.testing.assert_allclose(found.closed_loop, flow, rtol=1e-9, atol=1e-9 * abs(flow).max())
    np.testing.assert_allclose(found.noise, spreading, rtol=1e-9, atol=1e-9 * abs(spreading).max())


@pytest.mark.parametrize(
    ("centre", "precision"), [(1e160, 1.0), (1e300, 1e300), (60.0, 1e10), (0.0, 1e300)]
)
def test_a_bump_too_far_off_to_be_felt_has_no_slope(centre, precision):
    """Its height underflows to 0 where squares of the distance overflow: no NaN comes of it."""
    base, one, nothing = random_system(0), np.eye(2), np.zeros((2, 2))
    model = base.replace(
        dynamics=0.9 * one,
        **dict.fromkeys(("control", "state_cost", "control_cost"), one),
        **dict.fromkeys(("noise", "initial_covariance"), nothing),
        initial_mean=[1.0, 1.0],
        leader_reward=tb.GaussianBump(centre=[centre, 0.0], precision=precision * one),
        leader_horizon=1,
    )
    response = tb.solve_follower(model)
    evaluation = tb.evaluate_leader(model, response)
    assert evaluation.objective == 0.0
    assert tb.sensitivities(model, response, evaluation).size == 0.0


def in_fractions(precision, covariance, gap):
    """Compute E, (I + 2 S D)^-1 S, its product with a gap, and the determinant, for two states."""
    D, S, g = (np.vectorize(Fraction)(array) for array in (precision, covariance, gap))
    grown = 2 * S @ D + np.array([[Fraction(1), Fraction(0)], [Fraction(0), Fraction(1)]])
    (a, b), (c, d) = grown
    size = a * d - b * c
    shrunk = np.array([[d, -b], [-c, a]]) / size
    return [np.array(x, dtype=float) for x in (D @ shrunk, shrunk @ S, shrunk @ g, size)]


@pytest.mark.parametrize("ratio", [1.0, 1e4, 1e8])
@pytest.mark.parametrize("wide", [1.0, 1e-4, 1e-8])
@pytest.mark.parametrize("straight", [False, True])
def test_a_wide_bump_over_a_nearly_singular_state(ratio, wide, straight):
    """No more is lost than by the last digits of precision and covariance, in fractions."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        F = np.diag([1.0, wide]) if straight else rng.normal(size=(2, 2)) * [1.0, wide]
        G = rng.normal(size=(2, 2)) * np.sqrt([ratio, 1e-6])
        precision, covariance, gap = F @ F.T, (G @ G.T)[None], rng.normal(size=2)
        known = in_fractions(precision, covariance[0], gap)
        found = Widened(precision, covariance)
        _, pull, near = found.at(gap[None])
        spread = 1.0 + 2.0 * np.linalg.norm(precision) * np.linalg.norm(covariance)
        for x, y in zip(
            (found.precisions[0], found.shrunk(np.ones(1)), near[0]), known, strict=False
        ):
            assert np.abs(x - y).max() <= 10.0 * ROUNDOFF * spread * np.abs(y).max()
        np.testing.assert_allclose(pull[0], found.precisions[0] @ gap, rtol=1e-6)
        assert abs(found.heights[0] ** -2.0 / known[3] - 1.0) <= 100.0 * found.lost


def test_factors_of_large_and_of_small_matrices_agree():
    rng = np.random.default_rng(0)
    for n, seen in ((30, 30), (30, 3), (4, 2), (4, 0)):
        F = rng.normal(size=(n, seen)) / n
        root = rng.normal(size=(3, n, n))
        covariances, gap, weights = root @ root.swapaxes(1, 2), rng.normal(size=(3, n)), np.ones(3)
        for precision in (F @ F.T, np.diag(np.diag(F @ F.T) * (np.arange(n) < seen))):
            shrunk = np.linalg.inv(np.eye(n) + 2.0 * covariances @ precision)
            found = Widened(precision, covariances)
            _, pull, near = found.at(gap)
            for x, y in (
                (found.precisions, precision @ shrunk),
                (found.shrunk(weights), np.tensordot(weights, shrunk @ covariances, axes=1)),
                (near, np.matvec(shrunk, gap)),
                (pull, np.matvec(precision @ shrunk, gap)),
                (found.heights, np.linalg.det(shrunk) ** 0.5),
            ):
                np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-9 * np.abs(y).max())
