"""Numpy's error state and Python's warnings have no say in what a function returns, or raises."""

import warnings

import numpy as np
import pytest
from references.strangers import Plain
from sizes import pairs, sizes

import tabular_bilevel as tb
from tabular_bilevel.certify.result import CertificationError
from tabular_bilevel.optimum import Perturbed, polish
from tabular_bilevel.problems import zoo

pytest.importorskip("flint")


def tied(discount):
    """Two actions that are worth the same, at a discount that float64 cannot tell from 1."""
    return tb.problems.bandit(follower_discount=discount, leader_discount=discount)


NEARLY_ONE = 1.0 - 2.0**-53
THETA = np.array([0.1, -0.2])

INSTANCES = {
    "two states": (tb.problems.two_state(), THETA),
    "garnet": (tb.problems.garnet(n_states=4, n_parameters=2, rng=1), THETA),
    "layers": (tb.problems.layered(depth=2, width=2, rng=0), None),
    "game": (tb.problems.random_game(n_states=2, rng=1), None),
    "hidden game": (
        tb.problems.random_game(n_states=2, follower_observes_leader=False, rng=1), None,
    ),
    "leader's rewards of 1e300": (tb.problems.bandit(leader_reward=[0.0, 1e300]), THETA),
    "rewards of 1e300": (tb.problems.bandit(), np.array([1e300, -1e300])),
    "rewards of 1e-310": (tb.problems.bandit(leader_reward=[0.0, 1e-310]), THETA),
    "ties at discount 1 - 2^-53": (tied(NEARLY_ONE), np.zeros(2)),
    "no ties at discount 1 - 2^-53": (tied(NEARLY_ONE), THETA),
    "temperature of 1e-300": (tb.problems.bandit(temperature=1e-300), THETA),
    **{f"extreme {seed}": zoo.draw("extreme", seed).at for seed in range(6)},
    **{
        f"extreme game {seed}": zoo.draw("extreme-game", seed, max_states=9).at
        for seed in range(4)
    },
    **{
        f"extreme budget {seed}": zoo.budgeted(zoo.draw("extreme", seed), seed).at
        for seed in range(3)
    },
    **{f"wild {seed}": zoo.draw("wild", seed).at for seed in range(6)},
}  # fmt: skip


def solved(problem, theta, **settings):
    return tb.solve_follower(problem.model(theta), **settings)


def measured(problem, theta):
    model = problem.model(theta)
    response = tb.solve_follower(model)
    measures = tb.sensitivities(model, response, tb.evaluate_leader(model, response))
    return measures.follower_reward, measures.transition, measures.temperature, str(measures)


def bounded(problem, theta):
    plain = tb.hypergradient(problem, theta, accuracy=tb.Estimated())
    return tb.error_bounds(problem, theta, plain)


def sampled(problem, theta):
    model = problem.model(theta)
    policy = tb.solve_follower(model).policy
    return tb.sample_trajectories(model, policy, count=3, horizon=5, rng=0).states


def enclosed(problem, theta):
    found = tb.enclose(problem, theta, max_precision=512)
    return found, found.gradient.radius, str(found)


def climbed(problem, theta):
    steps = tb.ascend(problem, theta, tb.ExactGradient(), tb.Adam(), rng=0, n_iterations=2)
    return [(step.theta, step.cosine) for step in steps]


FUNCTIONS = {
    "hypergradient": tb.hypergradient,
    "bounded": lambda *at: tb.hypergradient(*at, accuracy=tb.Bounded()),
    "plain": lambda *at: tb.hypergradient(*at, accuracy=tb.Estimated()),
    "horizon": lambda *at: tb.hypergradient(*at, horizon=3),
    "printed": lambda *at: str(tb.hypergradient(*at)),
    "error_bounds": bounded,
    "objective": tb.objective,
    "forward_gradient": tb.forward_gradient,
    "complex_step_gradient": tb.complex_step_gradient,
    "difference_gradient": tb.difference_gradient,
    "check_gradient": lambda *at: str(tb.check_gradient(*at)),
    "enclose": enclosed,
    "value iteration": lambda *at: solved(*at, solver=tb.ValueIteration(max_iterations=500)),
    "compiled policy iteration": lambda *at: solved(*at, solver=tb.CompiledPolicyIteration()),
    "stopped value iteration": lambda *at: solved(*at, solver=tb.StoppedValueIteration(sweeps=3)),
    "sensitivities": measured,
    "normalised": lambda problem, theta: tb.normalised(problem.model(theta).initial),
    "ascend": climbed,
    "polish": lambda *at: polish(*at, max_iterations=2),
}


# These sample until a discount has made the rest small.
METHODS = {
    "sample_trajectories": sampled,
    "BC-HG": lambda *at: tb.BoltzmannCovariance()(*at, rng=0).gradient,
    "naive": lambda *at: tb.NaivePolicyGradient()(*at, rng=0).gradient,
    "HPGD": lambda *at: tb.HyperPolicyGradient()(*at, rng=0).gradient,
    "Neumann": lambda *at: tb.TruncatedNeumann()(*at, rng=0).gradient,
    "penalty": lambda *at: tb.ValueGapPenalty()(*at, rng=0).gradient,
    "AMD": lambda *at: tb.AdaptiveModelDesign()(*at, rng=0).gradient,
    "zero order": lambda *at: tb.ZeroOrder()(*at, rng=0).gradient,
    "perturbed": lambda *at: Perturbed(tb.ExactGradient(), 1e-310)(*at, rng=0).gradient,
    "target of BC-HG": lambda *at: tb.BoltzmannCovariance().target(*at),
}
SHORT = ("two states", "layers", "game", "hidden game", "rewards of 1e-310", "tiny")
COLD = INSTANCES["garnet"][0].base.replace(temperature=1e-3, follower_discount=0.5)
FEATURES = 1e-300 * np.eye(COLD.follower_reward.size, 2)
LAYERS = tb.problems.layered(depth=2, width=2, leader_discount=1e-200, rng=0)
INSTANCES["tiny"] = tb.FeatureProblem(COLD, follower_reward=FEATURES), THETA
INSTANCES["tiny layers"] = LAYERS, None


def answer(function, problem, theta):
    """Call, and make of what comes something that can be compared."""
    try:
        return plain(function(problem, theta))
    except (ValueError, CertificationError, tb.ConvergenceError, ImportError) as error:
        return type(error).__name__, str(error)


def plain(found):
    if isinstance(found, np.ndarray):
        return found.tobytes()
    if isinstance(found, (list, tuple)):
        return [plain(x) for x in found]
    if hasattr(found, "__dict__"):
        return {
            name: plain(x)
            for name, x in vars(found).items()
            if isinstance(x, (np.ndarray, float, str, list, tuple))
        }
    return repr(found)


@sizes(("instance", "function"), *pairs(INSTANCES, FUNCTIONS))
def test_answers_are_the_same_whatever_numpy_raises(instance, function):
    compare(FUNCTIONS[function], instance)


@sizes(("instance", "function"), *pairs(SHORT, METHODS))
def test_estimates_are_the_same_whatever_numpy_raises(instance, function):
    compare(METHODS[function], instance)


def at(instance):
    problem, theta = INSTANCES[instance]
    return problem, np.zeros(problem.n_parameters) if theta is None else theta


def compare(function, instance):
    problem, theta = at(instance)
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        loud = answer(function, problem, theta)
        assert np.geterr()["under"] == "raise"  # and it is left as it was
    with np.errstate(all="ignore"):
        assert answer(function, problem, theta) == loud


@pytest.mark.parametrize("check", [tb.check_estimator, tb.check_by_enumeration])
def test_checks_of_estimators_are_the_same_whatever_numpy_raises(check):
    seed = {"rng": 0} if check is tb.check_estimator else {}
    compare(lambda *at: str(check(tb.NaivePolicyGradient(), *at, **seed)), "tiny layers")


def test_trajectories_are_counted_whatever_numpy_raises():
    # whose policy times the kernel underflows
    problem, theta = zoo.draw("extreme", np.random.default_rng([3, 7])).at
    for state in ("raise", "ignore"):
        with np.errstate(all=state):
            assert tb.count_trajectories(problem.model(theta), horizon=2) == 97


def test_the_control_is_seen():
    """A function that lets an underflow through."""
    with pytest.raises(FloatingPointError), np.errstate(all="raise"):
        answer(lambda problem, theta: np.exp(np.float64(-800.0)), None, None)


def test_what_is_called_from_a_strangers_problem_is_as_quiet_as_before():
    """A budget underflows that has logits thousands apart."""
    problem = tb.Reparametrised(tb.problems.bandit(), tb.Budget(total=1.0, n_parameters=3))
    theta = np.array([0.0, 1e4, -1e4])
    strict = Plain(problem, model=np.errstate(all="raise")(problem.model))
    assert tb.objective(strict, theta) == tb.objective(problem, theta)


class Vague:
    """A change of parameters whose bound is infinite."""

    n_parameters = 2

    def forward(self, theta):
        return np.asarray(theta)

    def pullback(self, theta, gradient):
        return gradient

    def pullback_bound(self, theta, gradient, bound):
        return np.full(2, np.inf)


class Mute:
    """A change of parameters without a bound, or a pushforward."""

    n_parameters = 2
    forward, pullback = Vague.forward, Vague.pullback


INNER = tb.problems.two_state()
TORN = Plain(INNER, pullback=lambda *at: np.clip(INNER.pullback(*at), -1, 1))


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (tb.Reparametrised(INNER, Vague()), "the pullback_bound of Vague is infinite"),
        (
            tb.Reparametrised(tb.Reparametrised(INNER, Mute()), Vague()),
            "the pullback_bound of Vague is infinite",
        ),
        (tb.Reparametrised(TORN, Vague()), "pullback is not linear in the sensitivities: "),
        (TORN, "pullback is not linear in the sensitivities: pullback(...)[0] is "),
    ],
)
def test_what_has_no_bound_is_named(problem, reason):
    result = tb.hypergradient(problem, THETA)
    assert result.accuracy.level is tb.Level.ESTIMATE
    assert reason in result.accuracy.reason


class Everywhere:
    """Moves what is stored at an action that nobody can take, too."""

    n_parameters = 1

    def model(self, theta):
        rows = np.full((2, 2, 2), [np.exp(-theta[0]), 1.0 - np.exp(-theta[0])])
        return INNER.base.replace(transition=rows)

    def pullback(self, theta, measures):
        return [np.exp(-theta[0]) * (measures.transition @ ([-1.0, 1.0] * 4))]


@pytest.mark.parametrize(
    "problem",
    [
        Plain(INNER),
        Everywhere(),
        tb.Reparametrised(INNER, Mute()),
        tb.Reparametrised(Plain(INNER), Mute()),
        tb.Reparametrised(Plain(INNER), tb.Budget(total=-0.5, n_parameters=3)),
    ],
)
def test_what_cannot_be_pushed_forward_is_pulled_back_entry_by_entry(problem):
    theta = np.array([0.1, -0.2, 0.3])[: problem.n_parameters]
    accuracy = tb.hypergradient(problem, theta).accuracy
    assert accuracy.level is tb.Level.BOUNDED
    assert accuracy.given == (
        "given the derivatives as pullback returns them, which check_gradient tests"
    )
    assert str(accuracy).endswith(f", {accuracy.given}")
    assert tb.check_gradient(problem, theta).passed


@pytest.mark.parametrize("instance", INSTANCES)
def test_an_infinite_bound_has_a_reason(instance):
    try:
        accuracy = tb.hypergradient(*at(instance)).accuracy
    except (ValueError, tb.ConvergenceError):
        return  # which says why
    known = np.isfinite(accuracy.objective) and np.isfinite(accuracy.gradient).all()
    assert known == accuracy.proven == (accuracy.reason == "")
    assert "pullback_bound" not in accuracy.reason
