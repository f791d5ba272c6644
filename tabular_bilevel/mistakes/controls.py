"""Estimators that are wrong on purpose, each with the number that it is wrong by.

A checker that passes one of them is no checker. Each is BC-HG with one mistake, and the same
mistake in what infinite data show is what it converges to: so a stranger's biased estimator can be
compared with all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arguments import as_generator, positive_integer
from tabular_bilevel._base.arrays import FloatArray
from tabular_bilevel.estimators.estimate import Estimate, bias_of
from tabular_bilevel.estimators.given_trajectories import GivenTrajectories
from tabular_bilevel.mistakes.knowledge import right_limit
from tabular_bilevel.mistakes.register import FAULTS, Mistake
from tabular_bilevel.problem import BilevelProblem
from tabular_bilevel.sampling.experience import NOTHING, Experience, Memory
from tabular_bilevel.sampling.traces import TraceRule


@dataclass(frozen=True)
class Control:
    """BC-HG with one thing wrong.

    Attributes
    ----------
    fault : Mistake
        What.
    n_trajectories : int
        Trajectories of each estimate.

    Raises
    ------
    ValueError
        On construction, if a setting is out of range; the message names it.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> problem, theta = tb.problems.bandit(temperature=0.5), [0.0, 0.0]
    >>> wrong = tb.controls()["no 1/temperature"]
    >>> wrong.target(problem, theta), tb.hypergradient(problem, theta).gradient
    (array([-0.25,  0.25]), array([-0.5,  0.5]))
    """

    fault: Mistake
    n_trajectories: int = 1000

    def __post_init__(self) -> None:
        positive_integer("n_trajectories", self.n_trajectories)

    def __call__(
        self,
        problem: BilevelProblem,
        theta: npt.ArrayLike,
        *,
        rng: np.random.Generator | int,
        memory: Memory = NOTHING,
    ) -> Estimate:
        """Sample, and estimate wrongly; as of `Estimator`, no memory used."""
        limit = self.limit(problem, theta)
        sample = limit.law.sample(self.n_trajectories, rng=as_generator(rng))
        return self.fault.estimate(limit.seeing(sample))

    def target(self, problem: BilevelProblem, theta: npt.ArrayLike) -> FloatArray:
        """Compute what the estimates' mean comes to, shape (d,)."""
        return self.fault.estimate(self.limit(problem, theta)).gradient

    bias = bias_of

    def rule_at(
        self, problem: BilevelProblem, theta: npt.ArrayLike
    ) -> tuple[TraceRule, Experience]:
        """Return its rule, and what it knows, where each trajectory is wrong by itself.

        Raises ValueError if it depends on all trajectories together, on episodes in a row, or on
        more than how steps are credited; or the fault is not defined for the problem.
        """
        limit = self.limit(problem, theta)
        if self.fault.together or self.fault.measures is not None or limit.law.restarts:
            raise ValueError(
                f"{self.fault.name!r} is wrong in more than how the steps of a trajectory are "
                "credited: its moments take sampling"
            )
        return self.fault.credited(limit), limit

    def enumerable(self, problem: BilevelProblem, theta: npt.ArrayLike) -> GivenTrajectories:
        """Make it ready to be given trajectories at one theta, which are cut if too long.

        Raises ValueError if it needs episodes in a row, or many trajectories together, or the fault
        is not defined for the problem.
        """
        limit = self.limit(problem, theta)
        if self.fault.together:
            raise ValueError(
                f"{self.fault.name!r} depends on all trajectories of an estimate together, which "
                "enumeration makes one by one"
            )
        if limit.law.restarts:
            raise ValueError(
                f"{self.fault.name!r} needs episodes in a row, which enumeration does not make"
            )
        return GivenTrajectories(limit, lambda sample: self.fault.estimate(limit.seeing(sample)))

    def limit(self, problem: BilevelProblem, theta: npt.ArrayLike) -> Experience:
        """Compute what it knows with infinite data; ValueError where the fault is not defined."""
        known = self.fault.known(right_limit(problem, theta, count=self.n_trajectories))
        if known is None:
            raise ValueError(f"{self.fault.name!r} is not defined for this problem")
        return known


def controls(*, n_trajectories: int = 1000) -> dict[str, Control]:
    """Make an estimator of each fault.

    Parameters
    ----------
    n_trajectories : int
        Trajectories of each estimate.

    Returns
    -------
    dict
        From the fault's name to the wrong estimator. A fault shows only where it changes anything:
        the temperature's not at temperature 1, the discounts' not where both are the same; an
        estimator raises ValueError where its fault is not defined.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> problem, theta = tb.problems.garnet(), [0.1] * 6
    >>> wrong = tb.controls(n_trajectories=200)["no 1/temperature"]
    >>> report = tb.check_estimator(wrong, problem, theta, rng=0)
    >>> report.passed, report.diagnosis.best.name
    (False, 'no 1/temperature')
    """
    return {name: Control(fault, n_trajectories) for name, fault in FAULTS.items()}
