"""Implicit differentiation by a truncated Neumann series.

The usual substitute for the inverse in implicit differentiation, e.g. Lorraine, Vicol, Duvenaud,
"Optimizing Millions of Hyperparameters by Implicit Differentiation", AISTATS 2020,
arXiv:1911.02590; the papers on bilevel RL cite it as a rival. Here for the equation of n in
theory.md section 4; theory.md section 9 has the series.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arguments import as_generator, as_theta, positive_integer, require_method
from tabular_bilevel._base.arrays import FloatArray, quiet, read_only
from tabular_bilevel.estimators.estimate import Estimate, Parts, bias_of
from tabular_bilevel.finite.adjoint import (
    direct_sensitivities,
    influence_measures,
    influence_source,
)
from tabular_bilevel.finite.follower import CompiledPolicyIteration, FollowerSolver
from tabular_bilevel.finite.leader import evaluate_leader
from tabular_bilevel.problem import BilevelProblem, modelled
from tabular_bilevel.sampling.experience import FOLLOWER_VALUE, NOTHING, Memory, require_memory


@dataclass(frozen=True)
class TruncatedNeumann:
    """The exact gradient, but for the inverse in the influence measure.

    Source: Lorraine, Vicol, Duvenaud (AISTATS 2020, arXiv:1911.02590); theory.md section 9.

    In (I - gamma_F P_pi^T) n = gamma_F P^T w the inverse is replaced by its series' first terms::

        n = sum_{k < terms} (gamma_F P_pi^T)^k gamma_F P^T w,   mu = w + pi n

    Assumes: the model is known. Bias: of the part through the follower, the influence of a step on
    actions more than `terms` steps before it, of order gamma_F^terms; it vanishes where episodes
    are no longer than `terms` steps.

    Attributes
    ----------
    terms : int
        Number of terms of the series.
    follower : FollowerSolver
        How the follower answers.

    Raises
    ------
    ValueError
        On construction, if a setting is out of range, or a part lacks the method that it needs.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> problem, theta = tb.problems.two_state(), [0.0, 0.0]
    >>> exact = tb.hypergradient(problem, theta).gradient
    >>> few, many = (tb.TruncatedNeumann(terms=k).target(problem, theta) for k in (1, 200))
    >>> bool(abs(few - exact).max() > 0.01), bool(abs(many - exact).max() < 1e-6)
    (True, True)
    """

    terms: int = 10
    follower: FollowerSolver = CompiledPolicyIteration()

    def __post_init__(self) -> None:
        positive_integer("terms", self.terms)
        require_method("follower", self.follower, "solve")

    @quiet
    def __call__(
        self,
        problem: BilevelProblem,
        theta: npt.ArrayLike,
        *,
        rng: np.random.Generator | int,
        memory: Memory = NOTHING,
    ) -> Estimate:
        """Compute the gradient; as of `Estimator`, and no randomness."""
        as_generator(rng)  # what is none is refused all the same
        theta = read_only(as_theta(theta))
        model = modelled(problem, theta)
        require_memory(memory)
        response = self.follower.solve(model, start=memory.get(FOLLOWER_VALUE))
        evaluation = evaluate_leader(model, response)
        policy, discount = response.policy, model.follower_discount
        source = influence_source(model, response, evaluation)
        term = discount * model.arrivals(source)
        arrivals = term
        for _ in range(self.terms - 1):
            term = discount * model.arrivals(policy * term[:, None])
            arrivals = arrivals + term
        parts = Parts(
            problem,
            theta,
            direct_sensitivities(model, response, evaluation),
            influence_measures(model, response, source + policy * arrivals[:, None]),
        )
        return Estimate.modelled(parts, model, response)

    @quiet
    def target(self, problem: BilevelProblem, theta: npt.ArrayLike) -> FloatArray:
        """Compute the same without a start, shape (d,): there is no data."""
        return self(problem, theta, rng=0).gradient

    bias = bias_of
