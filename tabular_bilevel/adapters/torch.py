"""PyTorch: the objective as a function that PyTorch differentiates, and tables written in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arguments import as_theta, positive_integer
from tabular_bilevel._base.arrays import FloatArray
from tabular_bilevel._base.display import displayed
from tabular_bilevel._base.errors import needed
from tabular_bilevel.adapters._tables import (
    cotangents,
    float64_tables,
    model_of,
    named_tables,
    tangent_of,
)
from tabular_bilevel.certify.accuracy import Estimated
from tabular_bilevel.exact.hypergradient import hypergradient
from tabular_bilevel.exact.hypergradient import objective as plain_objective
from tabular_bilevel.kinds import AnyModel, AnySensitivities
from tabular_bilevel.problem import BilevelProblem

with needed("tabular_bilevel.adapters.torch", "PyTorch", extra="torch"):
    import torch

__all__ = ["TorchProblem", "objective"]


def objective(problem: BilevelProblem, theta: Any, *, horizon: int | None = None) -> torch.Tensor:
    """Compute the leader's objective J(theta), differentiable by PyTorch.

    Its derivative is the hypergradient, an ESTIMATE (exact but for rounding). Objective and
    gradient cost one solve of the follower, in float64 in numpy, whatever theta's dtype and device.

    Parameters
    ----------
    problem : BilevelProblem
        The leader's problem.
    theta : torch.Tensor, shape (d,)
        The leader's parameter.
    horizon : int, optional
        Count the leader's rewards of this many steps only.

    Returns
    -------
    torch.Tensor, shape ()
        J(theta), with theta's dtype and device.

    Raises
    ------
    ValueError
        As `tabular_bilevel.exact.hypergradient`.
    RuntimeError
        If the gradient is differentiated again.

    Examples
    --------
    >>> import torch
    >>> import tabular_bilevel as tb
    >>> from tabular_bilevel.adapters.torch import objective
    >>> theta = torch.zeros(2, requires_grad=True)
    >>> objective(tb.problems.bandit(), theta).backward()
    >>> theta.grad
    tensor([-0.2500,  0.2500])
    """
    theta = torch.as_tensor(theta)
    if theta.requires_grad and torch.is_grad_enabled():
        return _Objective.apply(theta, problem, horizon)
    value = plain_objective(problem, _as_numpy(theta), horizon=horizon)
    dtype = theta.dtype if theta.is_floating_point() else None
    return torch.tensor(value, dtype=dtype, device=theta.device)


class _Objective(torch.autograd.Function):
    """J, which keeps its gradient until it is asked for."""

    @staticmethod
    def forward(
        ctx: Any, theta: torch.Tensor, problem: BilevelProblem, horizon: int | None
    ) -> torch.Tensor:
        exact = hypergradient(problem, _as_numpy(theta), accuracy=Estimated(), horizon=horizon)
        ctx.save_for_backward(theta, torch.tensor(exact.gradient).to(theta))
        return torch.tensor(exact.objective, dtype=theta.dtype, device=theta.device)

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return slope * _Gradient.apply(*ctx.saved_tensors), None, None


class _Gradient(torch.autograd.Function):
    """The gradient, which depends on theta in a way that is not differentiated again.

    `once_differentiable` would not do: it takes the gradient of J itself for a constant.
    """

    @staticmethod
    def forward(ctx: Any, theta: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> None:
        raise RuntimeError(
            "objective has no second derivatives: the hypergradient cannot be differentiated"
        )


@displayed
@dataclass(frozen=True, eq=False)
class TorchProblem:
    """A problem whose tables are written in PyTorch, and differentiated by PyTorch.

    `tables` is called with a float64 theta on the CPU. Constants that it uses must be float64, too:
    the product of a float32 tensor and the number ``theta[0]`` is float32 in PyTorch. What is lost
    that way, `check_gradient` sees. Differentiated by `torch.func`, whose rules apply.

    Attributes
    ----------
    base : Model or LinearQuadraticModel
        What `tables` leaves out: discounts, which actions are available, and tables that do not
        depend on theta.
    tables : callable
        Called as ``tables(theta)``; returns a dictionary of any of ``transition``, shape (S, A, S),
        or (nnz,) for the entries that the base stores; ``follower_reward`` and ``leader_reward``,
        shape (S, A); ``initial``, shape (S,); ``temperature``, shape (). What they hold at
        unavailable actions is ignored.
    n_parameters : int
        Length of theta.

    Raises
    ------
    ValueError
        On construction, if `n_parameters` is not positive.

    Examples
    --------
    A leader who splits a budget over the actions of a bandit:

    >>> import torch
    >>> import tabular_bilevel as tb
    >>> from tabular_bilevel.adapters.torch import TorchProblem
    >>> def tables(theta):
    ...     return {"follower_reward": torch.softmax(theta, dim=0)[None, :]}
    >>> problem = TorchProblem(tb.problems.bandit().base, tables, 2)
    >>> print(tb.hypergradient(problem, [0.0, 0.0]).gradient.round(12))
    [-0.125  0.125]
    """

    base: AnyModel = field(repr=False)
    tables: Callable[[Any], Mapping[str, Any]]
    n_parameters: int

    def __post_init__(self) -> None:
        positive_integer("n_parameters", self.n_parameters)

    def model(self, theta: npt.ArrayLike) -> Any:
        """Build the model at theta, as of `BilevelProblem`.

        A ValueError names a table that is not float64, has the wrong shape or is refused by
        `Model.from_tables`.
        """
        tables = self._tables(torch.tensor(as_theta(theta, self.n_parameters)))
        return model_of(self.base, _arrays(tables))

    def pullback(self, theta: npt.ArrayLike, sensitivities: AnySensitivities) -> FloatArray:
        """Pull back by PyTorch's vector-Jacobian product, as of `BilevelProblem`."""
        point = torch.tensor(as_theta(theta, self.n_parameters))
        tables, pull = torch.func.vjp(self._tables, point)
        slopes = cotangents(sensitivities, tables)
        (gradient,) = pull({name: torch.tensor(slope) for name, slope in slopes.items()})
        return np.asarray(gradient.detach())

    def pushforward(self, theta: npt.ArrayLike, direction: npt.ArrayLike) -> Any:
        """Push forward by PyTorch's Jacobian-vector product, as of `ForwardProblem`."""
        point = torch.tensor(as_theta(theta, self.n_parameters))
        along = torch.tensor(as_theta(direction, self.n_parameters, name="direction"))
        _, changes = torch.func.jvp(self._tables, (point,), (along,))
        return tangent_of(self.base, _arrays(changes))

    def _tables(self, theta: torch.Tensor) -> dict[str, torch.Tensor]:
        tables = named_tables(self.base, self.tables(theta))
        tensors = {name: torch.as_tensor(table).cpu() for name, table in tables.items()}
        return float64_tables(tensors, torch.float64)


def _as_numpy(theta: torch.Tensor) -> npt.NDArray[Any]:
    theta = theta.detach().cpu()
    return np.asarray(theta.double() if theta.is_floating_point() else theta)


def _arrays(tables: Mapping[str, torch.Tensor]) -> dict[str, npt.NDArray[Any]]:
    return {name: table.detach().numpy() for name, table in tables.items()}
