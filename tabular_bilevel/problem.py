"""What a leader's parameter does: theta to a model, and sensitivities back to theta.

`BilevelProblem` is what a newcomer writes: two methods. The folder `problems` has some.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from tabular_bilevel._base.arguments import finite_array
from tabular_bilevel._base.arrays import FloatArray
from tabular_bilevel.finite.model import Model, Tangent
from tabular_bilevel.finite.sensitivities import Sensitivities

__all__ = ["BilevelProblem", "ForwardProblem", "pulled_back", "require_reward_parameters"]


class BilevelProblem(Protocol):
    """A leader's problem: tables that depend on theta.

    `pullback` is the vector-Jacobian product of theta -> tables, linear in the sensitivities. It is
    the only thing that both exact and sampled gradients need to know of the parametrisation.

    Bounds of a gradient need the sizes of the derivatives, too. They come from `pullback`, called
    for each table entry, or from `pushforward`, called for each parameter. Where that is too much,
    a problem may have a method ``pullback_bound(theta, sensitivities, bounds)``: it bounds by how
    much `pullback` of sensitivities is off that are off by `bounds`, rounding included, shape (d,).
    """

    def model(self, theta: FloatArray) -> Model:
        """Build the follower's model at theta, shape (d,)."""
        ...

    def pullback(self, theta: FloatArray, sensitivities: Sensitivities) -> FloatArray:
        """Sum over the tables of sensitivity times d(entry)/d(theta), shape (d,)."""
        ...


@runtime_checkable
class ForwardProblem(BilevelProblem, Protocol):
    """A problem that can also move its tables along a direction of theta.

    `pushforward` is the Jacobian-vector product of theta -> tables. It is needed only by the
    independent routes that `check_gradient` compares: forward mode and the complex step.
    """

    def pushforward(self, theta: FloatArray, direction: FloatArray) -> Tangent:
        """Differentiate the tables along a direction, shape (d,); `Tangent` says in what form."""
        ...


def pulled_back(
    problem: BilevelProblem, theta: FloatArray, sensitivities: Sensitivities
) -> FloatArray:
    """Pull back and check what came: a finite vector as long as theta."""
    return finite_array("pullback(...)", problem.pullback(theta, sensitivities), theta.shape)


def require_reward_parameters(
    method: str, problem: BilevelProblem, theta: FloatArray, model: Model
) -> None:
    """Raise unless theta moves rewards only, so that nothing is pulled back from the kernel."""
    probe = np.random.default_rng(0)
    measures = Sensitivities.of(
        model,
        transition=probe.standard_normal(model.transition.nnz),
        initial=probe.standard_normal(model.n_states),
        temperature=1.0,
    )
    if np.any(problem.pullback(theta, measures)):
        raise ValueError(
            f"{method} is defined for parameters of rewards only, and theta moves transitions, "
            "the initial distribution or the temperature"
        )
