"""What is wrong with a biased estimator: compare its mean with many wrong targets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tabular_bilevel._arrays import FloatArray, softmax
from tabular_bilevel.checks.controls import FAULTS, Ingredients
from tabular_bilevel.problem import BilevelProblem

__all__ = ["Diagnosis", "Guess", "diagnose", "diagnose_exactly", "suspects"]

# Targets nearer to each other than this, relative to their size, are the same: nothing tells such
# mistakes apart on this problem.
SAME = 1e-6

# A mistake fits if its target is no further from the mean than this quantile of chance allows.
MISFIT_RATE = 1e-4

# Directions in which means are compared, for each of so many replicates.
REPLICATES_A_DIRECTION = 5

# An exact expectation fits a target up to this, relative to the target.
EXACT_FIT = 1e-8


@dataclass(frozen=True)
class Guess:
    """A mistake, and how well it explains the estimates.

    Attributes
    ----------
    name, mistake, instead : str
        As of `Fault`.
    likeness : tuple of str
        Other mistakes with the same target here.
    distance : float
        Of its target from the estimates' mean, in standard errors over all directions together; by
        enumeration, relative to the target.
    weight : float
        Its likelihood, as a share of that of all mistakes considered.
    fits : bool
        Whether chance explains the distance.
    """

    name: str
    mistake: str
    instead: str
    likeness: tuple[str, ...]
    distance: float
    weight: float
    fits: bool


@dataclass(frozen=True)
class Diagnosis:
    """Mistakes that would explain a bias, the likeliest first.

    Attributes
    ----------
    guesses : tuple of Guess
        All that were considered.
    unit : str
        Of their distances.
    """

    guesses: tuple[Guess, ...]
    unit: str = "standard errors"

    @property
    def best(self) -> Guess:
        """The likeliest."""
        return self.guesses[0]

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        best = self.best
        if not best.fits:
            yield (
                f"no known mistake fits; nearest is {best.name!r}, {best.distance:.3g} "
                f"{self.unit} away"
            )
            return
        yield f"your estimator converges to {best.instead}, instead of the gradient"
        same = f" (the same here: {', '.join(best.likeness)})" if best.likeness else ""
        yield (
            f"diagnosis: {best.name}{same}, likelihood {best.weight:.3g} of all "
            f"{len(self.guesses)} mistakes considered, {best.distance:.3g} {self.unit} away"
        )
        others = [guess for guess in self.guesses[1:] if guess.fits]
        if others:
            names = ", ".join(f"{guess.name} ({guess.weight:.2g})" for guess in others[:3])
            more = f" and {len(others) - 3} more" if len(others) > 3 else ""
            yield f"not ruled out: {names}{more}"


def suspects(
    problem: BilevelProblem, theta: FloatArray, *, horizon: int | None = None
) -> dict[str, FloatArray]:
    """Compute the targets of all mistakes that can be seen at theta.

    Parameters
    ----------
    problem : BilevelProblem
        The leader's problem.
    theta : ndarray, shape (d,)
        The leader's parameter.
    horizon : int, optional
        Steps after which trajectories are cut.

    Returns
    -------
    dict of str to ndarray, shape (d,)
        By the fault's name.
    """
    right = Ingredients.of(problem, theta, horizon=horizon)
    exact = right.expected()
    found = {}
    for name, fault in FAULTS.items():
        target = fault.target(right)
        if target is not None and not _same(target, exact):
            found[name] = target
    return found


def diagnose(
    estimates: FloatArray,
    estimator: Any,
    problem: BilevelProblem,
    theta: FloatArray,
    *,
    rounding: float,
) -> Diagnosis | None:
    """Compare the mean of estimates with the targets of all mistakes.

    The likelihood of a target is that of the mean under Hotelling's law, (1 + T^2 / (n - 1))^(-n/2)
    up to a constant. With too few replicates for all coordinates, only directions in which the
    mistakes differ are looked at.

    Parameters
    ----------
    estimates : ndarray, shape (n, d)
        Independent replicates.
    estimator : callable
        Where they come from; looked at for where it cuts trajectories.
    problem : BilevelProblem
        The leader's problem.
    theta : ndarray, shape (d,)
        The leader's parameter.
    rounding : float
        Gaps below this, relative to the largest entry, are rounding.

    Returns
    -------
    Diagnosis or None
        None if no mistake can be seen at theta.
    """
    from scipy import stats

    targets = suspects(problem, theta, horizon=_horizon(estimator, problem, theta))
    if not targets:
        return None
    table = np.array(list(targets.values()))
    count, mean = len(estimates), estimates.mean(axis=0)
    most = max(1, count // REPLICATES_A_DIRECTION)
    if theta.size > most:
        # directions in which targets differ, and the mean differs from them
        _, size, axes = np.linalg.svd(table - mean, full_matrices=False)
        axes = axes[size > 1e-12 * size[0]][:most]
    else:
        axes = np.eye(theta.size)
    noise = (estimates - mean) @ axes.T
    gaps = (table - mean) @ axes.T
    floor = rounding * max(float(np.abs(mean).max()), float(np.abs(table).max()))
    error = np.hypot(np.sqrt((noise**2).sum(axis=0) / (count * (count - 1))), floor)
    noise, gaps = noise / error, gaps / error
    covariance = noise.T @ noise / (count * (count - 1)) + np.diag((floor / error) ** 2)
    variance, turned = np.linalg.eigh(covariance)
    # what does not vary is still compared, to rounding
    variance = np.maximum(variance, 1e-10)
    squares = ((gaps @ turned) ** 2 / variance).sum(axis=1)
    rank = int((variance > 2e-10).sum())
    scale = rank * (count - 1) / max(count - rank, 1)
    allowed = float(stats.f.isf(MISFIT_RATE, rank, max(count - rank, 1)) * scale)
    likelihoods = -count / 2.0 * np.log1p(squares / (count - 1))
    return _ranked(targets, np.sqrt(squares), likelihoods, np.sqrt(allowed))


def diagnose_exactly(
    expectation: FloatArray,
    problem: BilevelProblem,
    theta: FloatArray,
    *,
    horizon: int | None = None,
    tolerance: float = EXACT_FIT,
) -> Diagnosis | None:
    """Compare an expectation that is known exactly with the targets of all mistakes.

    Parameters
    ----------
    expectation : ndarray, shape (d,)
        What the estimator comes to.
    problem : BilevelProblem
        The leader's problem.
    theta : ndarray, shape (d,)
        The leader's parameter.
    horizon : int, optional
        Steps after which trajectories are cut.
    tolerance : float
        How far from its target, relative to the larger, a mistake's expectation may be.

    Returns
    -------
    Diagnosis or None
        None if no mistake can be seen at theta.
    """
    targets = suspects(problem, theta, horizon=horizon)
    if not targets:
        return None
    distance = np.array([_distance(target, expectation) for target in targets.values()])
    found = _ranked(targets, distance, -np.log(distance + 1e-16), tolerance)
    return replace(found, unit="of its size")


def _ranked(
    targets: dict[str, FloatArray],
    distance: FloatArray,
    likelihoods: FloatArray,
    allowed: float,
) -> Diagnosis:
    """Put the mistakes in order, those with one target together."""
    names = list(targets)
    weights = softmax(likelihoods)
    guesses: list[Guess] = []
    taken: set[str] = set()
    for k in np.argsort(-likelihoods, kind="stable"):
        name = names[k]
        if name in taken:
            continue
        alike = [
            other
            for other in names
            if other not in taken and other != name and _same(targets[other], targets[name])
        ]
        taken.update((name, *alike))
        fault = FAULTS[name]
        guesses.append(
            Guess(
                name=name,
                mistake=fault.mistake,
                instead=fault.instead,
                likeness=tuple(alike),
                distance=float(distance[k]),
                weight=float(weights[k] * (1 + len(alike))),
                fits=bool(distance[k] <= allowed),
            )
        )
    return Diagnosis(tuple(guesses))


def _horizon(estimator: Any, problem: BilevelProblem, theta: FloatArray) -> int | None:
    sampler = getattr(estimator, "sampler", None)
    if sampler is None:
        sampler = getattr(getattr(estimator, "interaction", None), "sampler", None)
    return None if sampler is None else int(sampler.horizon(problem.model(theta)))


def _distance(one: FloatArray, other: FloatArray) -> float:
    size = max(float(np.abs(one).max()), float(np.abs(other).max()))
    return float(np.abs(one - other).max()) / size if size > 0.0 else 0.0


def _same(one: FloatArray, other: FloatArray) -> bool:
    return _distance(one, other) <= SAME
