"""Estimators that are wrong on purpose: a checker that passes one of them is no checker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tabular_bilevel._arrays import FloatArray
from tabular_bilevel._validation import as_theta
from tabular_bilevel.estimators.boltzmann_covariance import (
    BoltzmannCovariance,
    Experience,
    sampled_sensitivities,
)
from tabular_bilevel.hypergradient import pulled_back
from tabular_bilevel.problem import BilevelProblem
from tabular_bilevel.sensitivities import Sensitivities

__all__ = ["FAULTS", "HORIZON_FAULT", "PlantedFault", "planted_faults"]


def no_temperature(experience: Experience) -> Sensitivities:
    """Forget the 1 / temperature of the covariance."""
    model = experience.model.replace(temperature=1.0)
    return correct(replace(experience, model=model))


def no_eligibility(experience: Experience) -> Sensitivities:
    """Let a step influence that step's action only, not the ones before it."""
    direct, indirect = sampled_sensitivities(experience, follower_discount=0.0)
    return direct + indirect


def follower_discount_for_leader(experience: Experience) -> Sensitivities:
    """Weigh step t by the follower's discount to the t, not the leader's."""
    discount = experience.model.follower_discount
    direct, indirect = sampled_sensitivities(experience, leader_discount=discount)
    return direct + indirect


def no_direct_term(experience: Experience) -> Sensitivities:
    """Drop the part that does not go through the follower."""
    _, indirect = sampled_sensitivities(experience)
    return indirect


def correct(experience: Experience) -> Sensitivities:
    """Estimate as BC-HG does, for comparison."""
    direct, indirect = sampled_sensitivities(experience)
    return direct + indirect


#: Faults in what is made of the data; the one in the data themselves is `HORIZON_FAULT`.
FAULTS: Mapping[str, Callable[[Experience], Sensitivities]] = {
    "no 1/temperature": no_temperature,
    "no eligibility": no_eligibility,
    "follower's discount for the leader's": follower_discount_for_leader,
    "direct term dropped": no_direct_term,
}


HORIZON_FAULT = "horizon cut to 10"


@dataclass(frozen=True)
class PlantedFault:
    """BC-HG with one thing wrong.

    Attributes
    ----------
    estimator : BoltzmannCovariance
        Where its data come from.
    fault : callable
        What it makes of them.
    """

    estimator: BoltzmannCovariance
    fault: Callable[[Experience], Sensitivities]

    def __call__(
        self, problem: BilevelProblem, theta: npt.ArrayLike, *, rng: np.random.Generator | int
    ) -> FloatArray:
        """Sample, and estimate wrongly, shape (d,)."""
        vector = as_theta(theta)
        experience = self.estimator.experience(problem, vector, rng=rng)
        return pulled_back(problem, vector, self.fault(experience))


def planted_faults(
    estimator: BoltzmannCovariance,
) -> dict[str, PlantedFault]:
    """Make five wrong estimators from a right one.

    Parameters
    ----------
    estimator : BoltzmannCovariance
        The right one.

    Returns
    -------
    dict
        From the fault's name to the wrong estimator. A fault shows only where it changes anything:
        the temperature's not at temperature 1, the discount's not where both are the same.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> problem, theta = tb.problems.garnet(), [0.1] * 6
    >>> faults = tb.planted_faults(tb.BoltzmannCovariance(n_trajectories=200))
    >>> [tb.check_estimator(fault, problem, theta).passed for fault in faults.values()]
    [False, False, False, False, False]
    """
    wrong = {name: PlantedFault(estimator, fault) for name, fault in FAULTS.items()}
    return {**wrong, HORIZON_FAULT: PlantedFault(replace(estimator, horizon=10), correct)}
