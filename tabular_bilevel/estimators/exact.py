"""The exact hypergradient as a method, to be compared with the others (theory.md section 4)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arguments import as_generator, as_theta, require_method
from tabular_bilevel._base.arrays import FloatArray, quiet, read_only
from tabular_bilevel.estimators.estimate import Estimate, Parts, bias_of
from tabular_bilevel.finite.follower import CompiledPolicyIteration, FollowerSolver
from tabular_bilevel.finite.model import Model
from tabular_bilevel.kinds import road, solve_follower
from tabular_bilevel.problem import AnyProblem
from tabular_bilevel.sampling.experience import FOLLOWER_VALUE, NOTHING, Memory, require_memory


@dataclass(frozen=True)
class ExactGradient:
    """`hypergradient` in the form of an estimator, its follower starting from its last answer.

    Assumes: the model is known. Bias: none.

    Attributes
    ----------
    follower : FollowerSolver
        How a follower of tables answers.

    Raises
    ------
    ValueError
        On construction, if a setting is out of range, or a part lacks the method that it needs.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> tb.ExactGradient()(tb.problems.bandit(), [0.0, 0.0], rng=0).gradient
    array([-0.25,  0.25])
    """

    follower: FollowerSolver = CompiledPolicyIteration()

    def __post_init__(self) -> None:
        require_method("follower", self.follower, "solve")

    @quiet
    def __call__(
        self,
        problem: AnyProblem,
        theta: npt.ArrayLike,
        *,
        rng: np.random.Generator | int,
        memory: Memory = NOTHING,
    ) -> Estimate:
        """Compute the gradient; as of `Estimator`, and no randomness."""
        as_generator(rng)  # what is none is refused all the same
        theta = read_only(as_theta(theta))
        model = problem.model(theta)
        solver = self.follower if isinstance(model, Model) else None
        require_memory(memory)
        response = solve_follower(model, solver=solver, start=memory.get(FOLLOWER_VALUE))
        _, direct, indirect = road(model, response)
        return Estimate.modelled(Parts(problem, theta, direct, indirect), model, response)

    @quiet
    def target(self, problem: AnyProblem, theta: npt.ArrayLike) -> FloatArray:
        """Compute the same without a start, shape (d,)."""
        return self(problem, theta, rng=0).gradient

    bias = bias_of
