"""Estimators that are wrong on purpose: a checker that passes one of them is no checker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tabular_bilevel._arrays import FloatArray
from tabular_bilevel.estimators.boltzmann_covariance import BoltzmannCovariance
from tabular_bilevel.estimators.estimate import Parts
from tabular_bilevel.experience import Experience
from tabular_bilevel.problem import BilevelProblem
from tabular_bilevel.samplers import Episodes
from tabular_bilevel.sensitivities import Sensitivities
from tabular_bilevel.traces import sampled_traces

__all__ = ["FAULTS", "HORIZON_FAULT", "PlantedFault", "planted_faults"]

Measures = tuple[Sensitivities, Sensitivities]


def correct(
    experience: Experience,
    *,
    temperature: float | None = None,
    trace_discount: float | None = None,
    leader_discount: float | None = None,
) -> Measures:
    """Estimate as BC-HG does, but for the numbers that a fault replaces."""
    model = experience.trajectories.model
    discount = model.leader_discount if leader_discount is None else leader_discount
    scale = model.temperature if temperature is None else temperature
    return sampled_traces(
        experience,
        credit=experience.values.advantage / scale,
        credit_discount=discount,
        trace_discount=trace_discount,
        leader_discount=leader_discount,
    )


def no_temperature(experience: Experience) -> Measures:
    """Forget the 1 / temperature of the covariance."""
    return correct(experience, temperature=1.0)


def no_eligibility(experience: Experience) -> Measures:
    """Let a step influence that step's action only, not the ones before it."""
    return correct(experience, trace_discount=0.0)


def follower_discount_for_leader(experience: Experience) -> Measures:
    """Weigh step t by the follower's discount to the t, not the leader's."""
    return correct(experience, leader_discount=experience.model.follower_discount)


def no_direct_term(experience: Experience) -> Measures:
    """Drop the part that does not go through the follower."""
    _, indirect = correct(experience)
    return Sensitivities.of(indirect.model), indirect


#: Faults in what is made of the data; the one in the data themselves is `HORIZON_FAULT`.
FAULTS: Mapping[str, Callable[[Experience], Measures]] = {
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
    fault: Callable[[Experience], Measures]

    def __call__(
        self, problem: BilevelProblem, theta: npt.ArrayLike, *, rng: np.random.Generator | int
    ) -> FloatArray:
        """Sample, and estimate wrongly, shape (d,)."""
        experience = self.estimator.interaction.gather(problem, theta, rng=rng)
        return faulty_gradient(experience, self.fault)


def faulty_gradient(experience: Experience, fault: Callable[[Experience], Measures]) -> FloatArray:
    """Pull back what a fault makes of some experience, shape (d,)."""
    return Parts(experience.problem, experience.theta, *fault(experience)).pulled_back()


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
    >>> faults = tb.planted_faults(tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(200))))
    >>> [tb.check_estimator(fault, problem, theta).passed for fault in faults.values()]
    [False, False, False, False, False]
    """
    wrong = {name: PlantedFault(estimator, fault) for name, fault in FAULTS.items()}
    return {**wrong, HORIZON_FAULT: PlantedFault(cut_short(estimator), correct)}


def cut_short(estimator: BoltzmannCovariance) -> BoltzmannCovariance:
    """Cut the estimator's trajectories after ten steps."""
    sampler = Episodes(getattr(estimator.interaction.sampler, "n_trajectories", 1000), 10)
    return replace(estimator, interaction=replace(estimator.interaction, sampler=sampler))
