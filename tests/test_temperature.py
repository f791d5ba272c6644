"""The temperature as a parameter: its derivative by every road, and what does not cover it."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from small import each_refused, features

import tabular_bilevel as tb
from tabular_bilevel.finite import adjoint
from tabular_bilevel.finite.follower import log_policy

EQUAL = {"follower_discount": 0.9, "leader_discount": 0.9}
THETA = np.array([0.3, -0.2, 0.1])


def warmed(base, **others):
    """Make three parameters of all tables and of the temperature."""
    return tb.FeatureProblem(base, **features(base, np.random.default_rng(0), 3) | others)


def rewards_only(base, *, temperature=(0.7, -0.3, 0.2)):
    rewards = features(base, np.random.default_rng(0), 3, "follower_reward", "leader_reward")
    return tb.FeatureProblem(base, **rewards, temperature=temperature)


GARNET = tb.problems.garnet(n_states=6, n_actions=3, temperature=0.4, rng=1).base
SHORT = tb.problems.layered(depth=3, width=2, temperature=0.3, rng=1).base
PROBLEM = warmed(GARNET)


@pytest.mark.parametrize("beta", [0.05, 0.5, 3.0])
def test_a_choice_between_two_actions_has_the_derivative_of_a_logistic_function(beta):
    # J = 1 / (1 + exp(-1 / beta)), by hand
    base = tb.problems.bandit(leader_reward=[1.0, 0.0]).base.replace(
        follower_reward=[[1.0, 0.0]], temperature=beta
    )
    problem = tb.FeatureProblem(base, temperature=[1.0])
    chance = 1.0 / (1.0 + np.exp(-1.0 / beta))
    result = tb.hypergradient(problem, [0.0])
    assert result.objective == pytest.approx(chance, rel=1e-13)
    slope = -chance * (1.0 - chance) / beta**2
    assert result.sensitivities.temperature == pytest.approx(slope, rel=1e-13)
    assert result.gradient[0] == pytest.approx(beta * slope, rel=1e-13)


@pytest.mark.parametrize("horizon", [None, 1, 7])
def test_all_roads_lead_to_one_derivative(horizon):
    exact = tb.hypergradient(PROBLEM, THETA, horizon=horizon).gradient
    forward = tb.forward_gradient(PROBLEM, THETA, horizon=horizon)
    stepped = tb.complex_step_gradient(PROBLEM, THETA, horizon=horizon)
    differences = tb.difference_gradient(PROBLEM, THETA, horizon=horizon).gradient
    np.testing.assert_allclose(forward, exact, rtol=1e-11)
    np.testing.assert_allclose(stepped, exact, rtol=1e-11)
    np.testing.assert_allclose(differences, exact, rtol=1e-7)


def test_the_temperatures_part_is_no_small_one():
    without = warmed(GARNET.with_temperature(PROBLEM.model(THETA).temperature), temperature=None)
    exact = tb.hypergradient(PROBLEM, THETA).gradient
    assert np.abs(tb.hypergradient(without, THETA).gradient - exact).min() > 0.01


@pytest.mark.parametrize("beta", [1e-3, 1e-6])
def test_a_policy_that_underflows_has_logarithms_all_the_same(beta):
    pytest.importorskip("flint")
    problem = rewards_only(GARNET.with_temperature(beta))
    result, proof = tb.hypergradient(problem, np.zeros(3)), tb.enclose(problem, np.zeros(3))
    assert result.response.policy.min() == 0.0
    logarithms = log_policy(result.model, result.response.action_value)
    assert np.isfinite(logarithms).all()
    assert logarithms.min() < -700.0
    off = np.abs(result.gradient - proof.gradient.centre)
    assert np.all(off <= result.accuracy.gradient + proof.gradient.radius)


def test_unavailable_actions_have_no_logarithm():
    model = GARNET.replace(follower_reward=np.where(np.eye(6, 3) > 0, -np.inf, 1.0))
    table = log_policy(model, tb.solve_follower(model).action_value)
    assert not table[~model.available].any()
    assert np.isfinite(table).all()


@pytest.mark.parametrize(
    "problem",
    [
        tb.Reparametrised(warmed(GARNET), tb.Budget(total=-0.5, n_parameters=4)),
        warmed(GARNET, transition=None, initial=None),
        warmed(GARNET, temperature=np.ones(3)),
        tb.FeatureProblem(GARNET, temperature=[1.0, 0.0, -1.0]),
    ],
    ids=["budget", "rewards and temperature", "a vector", "temperature alone"],
)
def test_problems_of_all_forms_pass_the_check(problem):
    theta = np.array([0.1, 0.2, -0.3, 0.2])[: problem.n_parameters]
    assert tb.check_gradient(problem, theta).passed
    assert tb.hypergradient(problem, theta).accuracy.level is tb.Level.BOUNDED


class Written:
    """A user's problem: the temperature is exp(theta[0])."""

    def __init__(self, *, forgets=False):
        self.forgets = forgets

    def model(self, theta):
        return GARNET.with_temperature(float(np.exp(theta[0])))

    def pullback(self, theta, sensitivities):
        slope = 0.0 if self.forgets else sensitivities.temperature
        return np.array([np.exp(theta[0]) * slope])


class Forward(Written):
    def pushforward(self, theta, direction):
        zero = tb.Tangent.zero(GARNET)
        heat = 0.0 if self.forgets else float(np.exp(theta[0]) * direction[0])
        return replace(zero, temperature=heat)


@pytest.mark.parametrize("kind", [Written, Forward])
def test_a_pullback_that_forgets_the_temperature_is_caught(kind):
    assert tb.check_gradient(kind(), [-1.0]).passed
    assert not tb.check_gradient(kind(forgets=True), [-1.0]).passed


def test_derivatives_without_a_pushforward_have_the_temperatures():
    pytest.importorskip("flint")
    proof = tb.enclose(Written(), [-1.0])
    exact = tb.hypergradient(Written(), [-1.0]).gradient
    np.testing.assert_allclose(proof.gradient.centre, exact, rtol=1e-11)
    bounded = tb.hypergradient(Forward(), [-1.0], accuracy=tb.Bounded())
    assert bounded.accuracy.level is tb.Level.BOUNDED


def test_a_pushforward_whose_temperature_is_no_number_is_refused():
    class Bad(Written):
        def pushforward(self, theta, direction):
            return replace(tb.Tangent.zero(GARNET), temperature=np.nan)

    with pytest.raises(ValueError, match=r"pushforward\(...\).temperature is nan"):
        tb.forward_gradient(Bad(), [0.0])


def test_bad_features_are_named():
    each_refused(
        (lambda: warmed(GARNET, temperature=[1.0, 2.0]), "differ in their number of parameters"),
        (lambda: warmed(GARNET, temperature=np.ones((2, 3))), r"has shape \(2, 3\), not \(1, 1\+"),
        (lambda: warmed(GARNET, temperature=[1.0, np.nan, 0.0]), "temperature features.* is nan"),
    )


@pytest.mark.parametrize(("theta", "found"), [(1e3, "inf"), (-1e3, "0.0")])
def test_a_temperature_beyond_float64_is_refused(theta, found):
    problem = tb.FeatureProblem(GARNET, temperature=[1.0])
    with pytest.raises(ValueError, match=f"temperature at theta is {found}, not a positive finite"):
        problem.model([theta])


def test_a_model_takes_another_temperature_and_refuses_none():
    assert GARNET.with_temperature(2.0).temperature == 2.0
    assert GARNET.temperature == 0.4
    with pytest.raises(ValueError, match="temperature is 0"):
        GARNET.with_temperature(0.0)


def test_sensitivities_add_up_and_go_through_pickle():
    exact = tb.hypergradient(PROBLEM, THETA, accuracy=tb.Estimated())
    whole = exact.sensitivities
    nothing = tb.Sensitivities.of(exact.model)
    assert nothing.temperature == 0.0
    assert (whole + nothing).temperature == (nothing + whole).temperature == whole.temperature
    assert (whole + whole).temperature == 2.0 * whole.temperature
    assert pickle.loads(pickle.dumps(whole)).temperature == whole.temperature
    tangent = PROBLEM.pushforward(THETA, [1.0, 0.0, 0.0])
    assert whole.dot(tangent) == pytest.approx(exact.gradient[0], rel=1e-12)


def test_an_ascent_of_rewards_takes_no_logarithms(monkeypatch):
    def refuse(*_):
        raise AssertionError("log pi was computed")

    monkeypatch.setattr(adjoint, "log_policy", refuse)
    problem = tb.problems.four_rooms()
    for method in (tb.BoltzmannCovariance(tb.Interaction(tb.StepBudget(100))), tb.ExactGradient()):
        method(problem, np.zeros(105), rng=0)
    with pytest.raises(AssertionError, match="log pi was computed"):
        tb.ExactGradient()(PROBLEM, THETA, rng=0)


# What sweeps, terms and a penalty of these sizes leave out.
MODELLED = {
    "exact": (tb.ExactGradient(), 1e-11),
    "Neumann": (tb.TruncatedNeumann(terms=400), 1e-11),
    "AMD": (tb.AdaptiveModelDesign(sweeps=600), 1e-11),
    "penalty": (tb.ValueGapPenalty(weight=1e6), 1e-4),
    "BC-HG": (tb.BoltzmannCovariance(), 1e-6),
    "zero-order": (tb.ZeroOrder(radius=0.001), 1e-3),
}


@pytest.mark.parametrize(("method", "tolerance"), MODELLED.values(), ids=MODELLED)
def test_methods_without_a_bias_converge_to_the_derivative(method, tolerance):
    problem = warmed(GARNET.replace(**EQUAL))
    exact = tb.hypergradient(problem, THETA).gradient
    off = np.abs(method.target(problem, THETA) - exact).max()
    assert off <= tolerance * np.abs(exact).max()


@pytest.mark.parametrize("how", [{}, {"baseline": False}, {"own_action": True}], ids=str)
def test_bc_hgs_expectation_is_the_gradient(how):
    report = tb.check_by_enumeration(tb.BoltzmannCovariance(**how), warmed(SHORT), THETA)
    assert report.passed, str(report)


@pytest.mark.parametrize(
    "method",
    [
        tb.HyperPolicyGradient(tb.Interaction(tb.Episodes(20_000))),
        tb.HyperPolicyGradient(tb.Interaction(tb.Episodes(2_000)), oracle=tb.Episodes(40_000)),
        tb.ValueGapPenalty(weight=10.0, sampler=tb.Episodes(40_000)),
        tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(20_000)), average_tails=True),
    ],
    ids=["HPGD", "HPGD, oracle", "penalty", "tails"],
)
def test_large_samples_come_near_their_targets(method):
    problem = rewards_only(SHORT.replace(**EQUAL))
    target = method.target(problem, THETA)
    off = np.abs(method(problem, THETA, rng=0).gradient - target).max()
    assert off < 0.1 * np.abs(target).max()


def test_the_naive_gradient_lacks_the_followers_part():
    problem = tb.FeatureProblem(GARNET, temperature=[1.0])
    assert not tb.NaivePolicyGradient().target(problem, [0.0]).any()


def test_sobirl_says_that_it_does_not_cover_the_temperature():
    problem, method = rewards_only(SHORT), tb.SoBiRL()
    words = r"rewards only, and theta moves .*the temperature"
    each_refused(
        (lambda: method(problem, THETA, rng=0), words),
        (lambda: method.target(problem, THETA), words),
    )


def bchg(view, batch):
    """BC-HG of a user, for the temperature alone."""
    rows = np.arange(batch.states.shape[1])
    s, a = np.maximum(batch.states, 0), np.maximum(batch.actions, 0)
    credit = view.leader_discount**rows * view.leader_advantage[s, a] / view.temperature
    credit = credit * batch.mask
    influence = np.zeros_like(credit)
    trace = np.zeros(len(s))
    for t in rows:
        trace = view.follower_discount * trace + credit[:, t]
        influence[:, t] = trace * batch.mask[:, t]
    chance = np.where(view.follower_policy > 0.0, view.follower_policy, 1.0)
    heat = -(influence * np.log(chance)[s, a]).sum(axis=1)
    assert view.pullback(temperature=2.0) == pytest.approx(2.0 * view.jacobian.temperature)
    return heat[:, None] * view.jacobian.temperature


def test_a_strangers_estimator_is_checked():
    problem = tb.FeatureProblem(SHORT, temperature=[0.5, 1.0])
    assert tb.check_by_enumeration(bchg, problem, [0.1, 0.0]).passed
    half = tb.check_by_enumeration(lambda view, batch: bchg(view, batch) / 2, problem, [0.1, 0.0])
    assert not half.passed


# PyTorch's own: its forward mode compiles some decompositions in a way that it has deprecated.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is:DeprecationWarning")
@pytest.mark.parametrize("library", ["jax", "torch"])
def test_tables_written_in_other_libraries_may_have_a_temperature(library):
    if library == "jax":
        jax = pytest.importorskip("jax")
        exp, kind = jax.numpy.exp, "JaxProblem"
    else:
        torch = pytest.importorskip("torch")
        exp, kind = torch.exp, "TorchProblem"
    adapter = __import__(f"tabular_bilevel.adapters.{library}", fromlist=[kind])

    def tables(theta):
        return {"temperature": 0.4 * exp(0.7 * theta[0] - 0.3 * theta[1])}

    problem = getattr(adapter, kind)(GARNET, tables, 2)
    same = tb.FeatureProblem(GARNET, temperature=[0.7, -0.3])
    theta = np.array([0.1, -0.4])
    exact = tb.hypergradient(same, theta)
    np.testing.assert_allclose(tb.hypergradient(problem, theta).gradient, exact.gradient, rtol=1e-9)
    np.testing.assert_allclose(tb.forward_gradient(problem, theta), exact.gradient, rtol=1e-9)


@pytest.mark.parametrize("temperature", [1e-300, 1e-30])
@pytest.mark.parametrize(
    "make", [tb.problems.two_state, tb.problems.garnet, tb.problems.random_game, "rewards"]
)
def test_targets_of_a_follower_that_is_certain_are_the_exact_gradient(make, temperature):
    if make == "rewards":  # Q_L - V_L is 0 for what is chosen, not 1e-16 over the temperature
        problem = rewards_only(GARNET.replace(temperature=temperature), temperature=None)
        theta, methods = THETA, [tb.SoBiRL(discounted=True)]
    else:
        problem = make(temperature=temperature)
        theta, methods = np.linspace(0.1, 0.3, problem.n_parameters), []
    exact = tb.hypergradient(problem, theta, accuracy=tb.Estimated()).gradient
    for method in (tb.BoltzmannCovariance(), tb.BoltzmannCovariance(own_action=True), *methods):
        np.testing.assert_allclose(method.target(problem, theta), exact, rtol=1e-6, atol=1e-9)
