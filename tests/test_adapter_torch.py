"""PyTorch differentiates the objective; problems written in it: tests/test_adapter_tables.py.

The extra `test` leaves PyTorch out, for its size, and these are skipped. To run them, install the
build of PyTorch that fits the machine, of which the CPU's is enough, and then

    python -m pytest tests/test_adapter_*.py tests/test_lessons_bchg.py tabular_bilevel/adapters
"""

import numpy as np
import pytest
from references.strangers import Plain
from small import Counted, assert_refused
from written import EXACT, GARNET, THETA, in_torch

import tabular_bilevel as tb

torch = pytest.importorskip("torch")

from tabular_bilevel.adapters.torch import objective  # noqa: E402

# PyTorch's own: its forward mode compiles some decompositions in a way that it has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is:DeprecationWarning")

# Two float64 ways to the same number; float32 keeps seven digits, float16 three.
ROUNDING = 1e-12
DIGITS = {torch.float64: ROUNDING, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}

WHOLE = in_torch().whole


# --- the objective


@pytest.mark.parametrize("dtype", DIGITS)
@pytest.mark.parametrize("problem", [GARNET, WHOLE], ids=["features", "whole"])
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
    twice = Plain(GARNET, pullback=lambda *at: 2.0 * GARNET.pullback(*at))
    theta = torch.tensor(THETA, requires_grad=True)
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        torch.autograd.gradcheck(lambda theta: objective(twice, theta), theta)


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
    nan = torch.tensor([0.0, np.nan, 0.0, 0.0], requires_grad=True)
    for theta, message in (
        (nan, r"theta\[1\] is nan, not a finite number"),
        (torch.zeros(2, 4), r"theta has shape \(2, 4\), not that of a vector"),
        (torch.zeros(4, dtype=torch.complex64), "theta has dtype complex64; real numbers are need"),
    ):
        assert_refused(message, objective, GARNET, theta)


def test_an_optimiser_of_torch_climbs():
    theta = torch.nn.Parameter(torch.tensor(THETA))
    optimiser = torch.optim.Adam([theta], lr=0.1, maximize=True)
    for _ in range(5):
        optimiser.zero_grad()
        objective(GARNET, theta).backward()
        optimiser.step()
    assert objective(GARNET, theta) > EXACT.objective
