"""Zero-order gradients by Gaussian smoothing.

Nesterov, Spokoiny, "Random Gradient-Free Minimization of Convex Functions", Foundations of
Computational Mathematics 2017; a baseline of HPGD's paper, arXiv:2406.01575; theory.md section 9.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arguments import (
    as_flag,
    as_generator,
    as_positive,
    as_theta,
    positive_integer,
    require_method,
)
from tabular_bilevel._base.arrays import FloatArray, quiet, read_only
from tabular_bilevel.certify.accuracy import Estimated
from tabular_bilevel.estimators.estimate import Estimate, bias_of
from tabular_bilevel.exact.hypergradient import hypergradient
from tabular_bilevel.finite.follower import CompiledPolicyIteration, FollowerSolver
from tabular_bilevel.finite.model import Model
from tabular_bilevel.kinds import by_kind, evaluate_leader
from tabular_bilevel.problem import BilevelProblem
from tabular_bilevel.sampling.experience import (
    FOLLOWER_VALUE,
    ITERATION,
    NOTHING,
    Memory,
    answered,
    calls_before,
)
from tabular_bilevel.sampling.samplers import Sampler
from tabular_bilevel.sampling.trajectories import Trajectories

# A follower with a residual this small, relative to its values, is taken as optimal: solvers leave
# less, whatever tolerance they are used with, and one that stops early leaves more.
OPTIMAL = 1e-6


@dataclass(frozen=True)
class ZeroOrder:
    """Differences of the leader's objective in random directions, for any problem.

    Source: Nesterov, Spokoiny (Found. Comput. Math. 2017), arXiv:2406.01575; theory.md section 9.

    With z standard normal and u the radius, the mean over directions of::

        one-sided   ( J(theta + u z) - J(theta) ) z / u
        two-sided   ( J(theta + u z) - J(theta - u z) ) z / (2 u)

    Assumes: the leader can try other parameters and the follower answers each. Bias: the mean is
    the gradient of J smoothed by a normal of width u, E_z dJ(theta + u z), so the bias is of order
    u^2; it vanishes as u does. Variance: of order d |dJ|^2, and of noise in J divided by u^2.

    Attributes
    ----------
    radius : float
        The radius u; that of the first iteration, if it decays.
    two_sided : bool
        Whether differences are two-sided.
    decaying : bool
        Whether u is `radius` / iteration; the count goes on from memory.
    n_directions : int
        Averaged over in each call.
    sampler : Sampler, optional
        Sampler of trajectories whose mean return stands for J; by default J is exact.
    follower : FollowerSolver
        How the follower answers.

    Raises
    ------
    ValueError
        On construction, if a setting is out of range, or a part lacks the method that it needs.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> problem, theta = tb.problems.bandit(), [0.0, 0.0]
    >>> tb.ZeroOrder(radius=0.01).target(problem, theta).round(4)
    array([-0.25,  0.25])
    >>> tb.ZeroOrder(radius=0.01, n_directions=10)(problem, theta, rng=0).gradient.shape
    (2,)
    """

    radius: float = 0.1
    two_sided: bool = True
    decaying: bool = False
    n_directions: int = 1
    sampler: Sampler | None = None
    follower: FollowerSolver = CompiledPolicyIteration()

    def __post_init__(self) -> None:
        as_positive("radius", self.radius)
        positive_integer("n_directions", self.n_directions)
        as_flag("two_sided", self.two_sided)
        as_flag("decaying", self.decaying)
        require_method("follower", self.follower, "solve")
        if self.sampler is not None:
            require_method("sampler", self.sampler, "sample")

    @quiet
    def __call__(
        self,
        problem: BilevelProblem,
        theta: npt.ArrayLike,
        *,
        rng: np.random.Generator | int,
        memory: Memory = NOTHING,
    ) -> Estimate:
        """Try random directions; as of `Estimator`."""
        generator, theta = as_generator(rng), read_only(as_theta(theta))
        iteration = calls_before(memory) + 1.0
        radius = self.radius / iteration if self.decaying else self.radius
        model = problem.model(theta)
        response = answered(model, self.follower, memory.get(FOLLOWER_VALUE))
        n_trajectories = n_steps = 0

        def tried(model: Any) -> float:
            nonlocal n_trajectories, n_steps
            answer = answered(model, self.follower, response.value)
            if self.sampler is None:
                return float(evaluate_leader(model, answer).objective)
            sample = self.sampler.sample(model, answer.policy, rng=generator)
            n_trajectories += sample.count
            steps, mean = _return(model, sample)
            n_steps += steps
            return float(mean)

        gradient = np.zeros(theta.size)
        here = 0.0 if self.two_sided else tried(model)
        for _ in range(self.n_directions):
            normal = generator.standard_normal(theta.size)
            step = radius * normal
            rise = tried(problem.model(theta + step))
            if self.two_sided:
                rise = (rise - tried(problem.model(theta - step))) / 2.0
            else:
                rise -= here
            gradient += rise / radius * normal
        return Estimate(
            gradient=read_only(gradient / self.n_directions),
            model=model,
            response=response,
            memory={
                FOLLOWER_VALUE: response.value,
                ITERATION: read_only(np.array([iteration])),
            },
            n_trajectories=n_trajectories,
            n_steps=n_steps,
        )

    @quiet
    def target(self, problem: BilevelProblem, theta: npt.ArrayLike) -> FloatArray:
        """Compute the gradient of the smoothed objective, E_z dJ(theta + u z), as of `Estimator`.

        By a cubature of degree 5 over exact gradients (Stroud's E_n^{r^2} 5-2, 2 d^2 + 1 of them):
        what it lacks is of order u^6, below 0.2 % at u = 0.01 on the package's problems, but much
        where J bends within u: there, average `hypergradient` at theta + u z over many z. In the
        first iteration, if u decays. With a sampler, J counts as many steps as the sampler. Raises
        ValueError if the follower is not optimal: exact gradients are for one that is.
        """
        theta = read_only(as_theta(theta))
        model = problem.model(theta)
        answer = answered(model, self.follower, None)
        size = max(float(np.abs(answer.value).max()), model.temperature)
        if not answer.residual <= OPTIMAL * size:
            raise ValueError(
                f"follower is {self.follower}, whose answer has residual {answer.residual:.3g}: "
                "the target is known for an optimal follower only"
            )
        horizon = None if self.sampler is None else self.sampler.horizon(model)
        counted = getattr(model, "leader_horizon", None)  # of a linear-quadratic model
        if horizon is not None and counted is not None:
            horizon = min(horizon, counted)
        total = np.zeros(theta.size)
        for node, weight in cubature(theta.size):
            there = theta + self.radius * node
            found = hypergradient(problem, there, accuracy=Estimated(), horizon=horizon)
            total += weight * found.gradient
        return read_only(total)

    bias = bias_of


def _of_tables(model: Model, sample: Trajectories) -> tuple[int, float]:
    _, weights = sample.visits(model.leader_discount)
    return int(sample.lengths.sum()), float((weights * model.leader_reward).sum()) / sample.count


# Number of steps, and the mean return of their trajectories.
_return = by_kind(_of_tables, lambda _, sample: (sample.n_steps, sample.mean_return()))


def cubature(d: int) -> Iterator[tuple[FloatArray, float]]:
    """Nodes and weights that integrate polynomials of degree 5 over a standard normal in R^d."""

    def node(*parts: tuple[float, int]) -> FloatArray:
        found = np.zeros(d)
        for size, k in parts:
            found[k] = size
        return found

    yield np.zeros(d), 2.0 / (d + 2.0)
    for k, sign in product(range(d), (1.0, -1.0)):
        yield node((sign * np.sqrt(d + 2.0), k)), (4.0 - d) / (2.0 * (d + 2.0) ** 2)
    size = np.sqrt(d / 2.0 + 1.0)
    for j, k in combinations(range(d), 2):
        for sign, side in product((1.0, -1.0), repeat=2):
            yield node((sign * size, j), (side * size, k)), 1.0 / (d + 2.0) ** 2
