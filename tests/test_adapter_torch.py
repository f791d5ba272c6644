"""PyTorch differentiates the objective, and problems written in PyTorch are differentiated by it.

The extra `test` leaves PyTorch out, for its size, and these are skipped. To run them, install the
build of PyTorch that fits the machine, of which the CPU's is enough, and then

    python -m pytest tests/test_adapter_torch.py tests/test_lessons_bchg.py tabular_bilevel/adapters
"""

import numpy as np
import pytest
from references.strangers import returned_by_pushforward
from small import FORBIDDEN, Counted

import tabular_bilevel as tb

torch = pytest.importorskip("torch")

from tabular_bilevel.adapters.torch import TorchProblem, objective  # noqa: E402

# PyTorch's own: its forward mode compiles some decompositions in a way that it has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is:DeprecationWarning")

# Two float64 ways to the same number; float32 keeps seven digits, float16 three.
ROUNDING = 1e-12
DIGITS = {torch.float64: ROUNDING, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}

GARNET = tb.problems.garnet(n_states=6, n_actions=3, n_parameters=4, rng=2)
THETA = np.array([0.3, -0.2, 0.1, 0.4])
EXACT = tb.hypergradient(GARNET, THETA)


def features_in_torch(whole):
    """Write the garnet's tables in PyTorch, its kernel whole or entry by entry."""
    base = GARNET.base
    shape, (n_pairs, n_states) = base.follower_reward.shape, base.transition.shape
    row, column = (torch.tensor(a).long() for a in (base.entry_row, base.transition.indices))
    kernel, initial = torch.tensor(base.transition.data), torch.tensor(base.initial)
    rewards = {
        name: torch.tensor(getattr(base, name)) for name in ("follower_reward", "leader_reward")
    }
    F = {
        name: torch.tensor(getattr(GARNET, name).toarray())
        for name in ("transition", "follower_reward", "leader_reward", "initial")
    }

    def tables(theta):
        weights = kernel * torch.exp(F["transition"] @ theta)
        sums = torch.zeros(n_pairs, dtype=torch.float64).index_add(0, row, weights)
        transition = weights / sums[row]
        if whole:
            empty = torch.zeros(n_pairs, n_states, dtype=torch.float64)
            transition = empty.index_put((row, column), transition).reshape(*shape, n_states)
        return {
            "transition": transition,
            **{name: table + (F[name] @ theta).reshape(shape) for name, table in rewards.items()},
            "initial": torch.softmax(torch.log(initial) + F["initial"] @ theta, dim=0),
        }

    return tables


PROBLEMS = {
    "whole": TorchProblem(GARNET.base, features_in_torch(True), 4),
    "entries": TorchProblem(GARNET.base, features_in_torch(False), 4),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_problem_in_torch_is_the_one_in_features(name):
    problem = PROBLEMS[name]
    mine, model = problem.model(THETA), GARNET.model(THETA)
    tables = [
        (mine.transition.toarray(), model.transition.toarray()),
        (mine.follower_reward, model.follower_reward),
        (mine.leader_reward, model.leader_reward),
        (mine.initial, model.initial),
        (tb.hypergradient(problem, THETA).gradient, EXACT.gradient),
    ]
    for ours, theirs in tables:
        np.testing.assert_allclose(ours, theirs, rtol=ROUNDING, atol=ROUNDING)
    report = tb.check_gradient(problem, THETA)
    assert report.passed, str(report)
    assert len(report.comparisons) == 3


@pytest.mark.parametrize("detached", ["transition", "follower_reward", "leader_reward", "initial"])
def test_a_table_that_is_detached_fails_the_check(detached):
    def tables(theta):
        found = PROBLEMS["whole"].tables(theta)
        return {**found, detached: found[detached].detach()}

    report = tb.check_gradient(TorchProblem(GARNET.base, tables, 4), THETA)
    assert not report.passed
    assert "differences: DIFFERS" in str(report)


def test_ascent_and_estimators_take_it():
    problem = PROBLEMS["whole"]
    estimator = tb.BoltzmannCovariance(tb.Interaction(tb.Survivors(100)))
    assert tb.check_estimator(estimator, problem, THETA, n_replicates=100, rng=0).passed
    *_, last = tb.ascend(problem, THETA, tb.ExactGradient(), tb.Adam(0.1), rng=0, n_iterations=3)
    assert last.objective > EXACT.objective


def forbidden_and_zero(dtype):
    """A kernel with an entry that is 0 at theta[0] = 0, and a forbidden action."""
    kernel = [[[1.0, 0.0], [0.5, 0.5]], [[0.3, 0.7], [np.nan, np.nan]]]
    moves = [[[-1.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]

    def table(numbers, dtype=torch.float64):
        return torch.tensor(numbers, dtype=dtype)

    def tables(theta):
        reward = table([[0.0, 0.2], [1.0, -np.inf]])
        return {
            "transition": table(kernel) + table(moves, dtype) * theta[0],
            "follower_reward": reward + table([[1.0, 0.0], [0.0, 2.0]]) * theta[1],
        }

    return TorchProblem(FORBIDDEN, tables, 2)


def test_a_zero_that_moves_has_a_derivative_and_a_forbidden_action_none():
    problem = forbidden_and_zero(torch.float64)
    at_zero = tb.hypergradient(problem, [0.0, 0.1]).gradient
    nearby = tb.hypergradient(problem, [1e-9, 0.1]).gradient
    assert abs(at_zero[0]) > 0.01
    np.testing.assert_allclose(at_zero, nearby, rtol=1e-6)
    assert tb.check_gradient(problem, [0.2, 0.1]).passed


def test_single_precision_on_the_way_fails_the_check():
    assert not tb.check_gradient(forbidden_and_zero(torch.float32), [0.2, 0.1]).passed


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (lambda theta: {}, r"tables\(theta\) has no tables"),
        (lambda theta: [theta], r"tables\(theta\) is a list, not a dictionary"),
        (lambda theta: {"termination": theta}, "has termination; theta can move transition"),
        (
            lambda theta: {"follower_reward": theta.float()},
            r"tables\(theta\)\['follower_reward'\] has dtype torch\.float32, not float64",
        ),
        (lambda theta: {"leader_reward": theta}, r"leader_reward has shape \(4,\), not \(6, 3\)"),
        (lambda theta: {"transition": theta}, r"transition has shape \(4,\), neither \(6, 3, 6\)"),
        (lambda theta: {"initial": 1 + 0 * theta}, r"initial has shape \(4,\), not \(6,\)"),
    ],
)
def test_bad_tables_are_named(tables, message):
    with pytest.raises(ValueError, match=message):
        TorchProblem(GARNET.base, tables, 4).model(THETA)


def test_theta_must_fit():
    problem = PROBLEMS["whole"]
    with pytest.raises(ValueError, match="not that of a vector of length 4"):
        tb.hypergradient(problem, [0.0] * 5)
    with pytest.raises(ValueError, match="direction has shape"):
        problem.pushforward(THETA, [0.0] * 5)
    with pytest.raises(ValueError, match="n_parameters is 0, not a positive whole number"):
        TorchProblem(GARNET.base, problem.tables, 0)


# --- the objective


@pytest.mark.parametrize("dtype", DIGITS)
@pytest.mark.parametrize("problem", [GARNET, PROBLEMS["whole"]], ids=["features", "whole"])
def test_its_derivative_is_the_hypergradient_in_thetas_dtype(problem, dtype):
    theta = torch.tensor(THETA, dtype=dtype, requires_grad=True)
    value = objective(problem, theta)
    value.backward()
    assert value.dtype == theta.grad.dtype == dtype
    assert value.shape == ()
    np.testing.assert_allclose(value.item(), EXACT.objective, rtol=DIGITS[dtype])
    error = np.abs(theta.grad.double().numpy() - EXACT.gradient).max()
    assert error < DIGITS[dtype] * np.abs(EXACT.gradient).max()


@pytest.mark.parametrize("horizon", [None, 3])
def test_gradcheck_passes(horizon):
    theta = torch.tensor(THETA, requires_grad=True)
    assert torch.autograd.gradcheck(lambda theta: objective(GARNET, theta, horizon=horizon), theta)


def test_gradcheck_sees_a_wrong_pullback():
    class Twice:
        model = staticmethod(GARNET.model)

        def pullback(self, theta, sensitivities):
            return 2.0 * GARNET.pullback(theta, sensitivities)

    theta = torch.tensor(THETA, requires_grad=True)
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        torch.autograd.gradcheck(lambda theta: objective(Twice(), theta), theta)


def test_value_and_gradient_cost_one_solve():
    problem, theta = Counted(GARNET), torch.tensor(THETA, requires_grad=True)
    objective(problem, theta).backward()
    assert problem.models == 1
    with torch.no_grad():
        assert not objective(problem, theta).requires_grad
    assert problem.models == 2


def test_the_chain_rule_and_integers():
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    (3.0 * objective(GARNET, torch.tensor(THETA) * scale) ** 2).backward()
    exact = tb.hypergradient(GARNET, 2.0 * THETA)
    wanted = 6.0 * exact.objective * (exact.gradient @ THETA)
    np.testing.assert_allclose(scale.grad, wanted, rtol=ROUNDING)
    assert objective(GARNET, torch.zeros(4, dtype=torch.int64)).dtype == torch.float32
    assert objective(GARNET, [0.0] * 4).dtype == torch.float32


@pytest.mark.parametrize("outer", [lambda value: value, lambda value: value**2])
def test_there_is_no_second_derivative(outer):
    theta = torch.tensor(THETA, requires_grad=True)
    (gradient,) = torch.autograd.grad(outer(objective(GARNET, theta)), theta, create_graph=True)
    with pytest.raises(RuntimeError, match="objective has no second derivatives"):
        (gradient.sum() + theta.sum()).backward()


def test_errors_of_the_package_come_through():
    with pytest.raises(ValueError, match=r"theta\[1\] is nan, not a finite number"):
        objective(GARNET, torch.tensor([0.0, np.nan, 0.0, 0.0], requires_grad=True))
    with pytest.raises(ValueError, match=r"theta has shape \(2, 4\), not that of a vector"):
        objective(GARNET, torch.zeros(2, 4))
    with pytest.raises(ValueError, match="theta has dtype complex64; real numbers are needed"):
        objective(GARNET, torch.zeros(4, dtype=torch.complex64))


def test_an_optimiser_of_torch_climbs():
    theta = torch.nn.Parameter(torch.tensor(THETA))
    optimiser = torch.optim.Adam([theta], lr=0.1, maximize=True)
    for _ in range(5):
        optimiser.zero_grad()
        objective(GARNET, theta).backward()
        optimiser.step()
    assert objective(GARNET, theta) > EXACT.objective


@pytest.mark.parametrize("name", PROBLEMS)
def test_bounds_hold_given_what_torch_returns(name):
    reference = pytest.importorskip("ball_reference")
    problem = PROBLEMS[name]
    for theta in np.random.default_rng(0).normal(size=(3, 4)):
        result = tb.hypergradient(problem, theta, accuracy=tb.Bounded(1e-7))
        assert result.accuracy.given.startswith("given the derivatives as pushforward returns them")
        exact = reference.Reference(result.model, result.response.value)
        truth = exact.gradient(*returned_by_pushforward(problem, theta, result.model))
        for stored, ball, bound in zip(
            result.gradient, truth, result.accuracy.gradient, strict=True
        ):
            assert reference.off(stored, ball) <= bound


class Bent(torch.autograd.Function):
    """An identity whose derivative PyTorch is told to multiply."""

    @staticmethod
    def forward(table, factors):
        return table.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx, slopes):
        return slopes * ctx.saved_tensors[0], None


INFLUENCE = np.abs(EXACT.sensitivities.follower_reward)
ONE_ENTRY = np.where(INFLUENCE.max() == INFLUENCE, 2.0, 1.0)


@pytest.mark.parametrize(
    ("table", "factors"),
    [
        ("follower_reward", 2.0),
        ("leader_reward", -1.0),
        ("transition", 0.0),
        ("follower_reward", ONE_ENTRY),
    ],
    ids=["factor 2", "sign", "no transition", "one entry"],
)
def test_a_derivative_that_torch_is_told_wrongly_is_taken_for_granted_and_found(table, factors):
    def tables(theta, factors=factors):
        found = PROBLEMS["entries"].tables(theta)
        return {**found, table: Bent.apply(found[table], torch.as_tensor(factors))}

    right = TorchProblem(GARNET.base, lambda theta: tables(theta, 1.0), 4)
    assert tb.check_gradient(right, THETA).passed
    problem = TorchProblem(GARNET.base, tables, 4)
    accuracy = tb.hypergradient(problem, THETA).accuracy
    assert accuracy.given == (
        "given the derivatives as pullback returns them, which check_gradient tests"
    )
    assert accuracy.gradient.max() < 1e-9
    report = tb.check_gradient(problem, THETA)
    assert not report.passed
    assert report.skipped[0].startswith("forward mode: ")
    assert "pullback does not fit model(theta)" in str(report)
