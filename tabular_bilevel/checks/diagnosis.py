"""What is wrong with a biased estimator: compare its mean with the targets of many mistakes.

Theory.md section 11 has the likelihood.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tabular_bilevel._base.arrays import FloatArray, binary_scale, quiet, softmax
from tabular_bilevel.mistakes.knowledge import cut, right_limit
from tabular_bilevel.mistakes.register import FAULTS, RIGHT, Mistake, cut_after
from tabular_bilevel.problem import BilevelProblem

__all__ = ["Diagnosis", "Guess", "diagnose", "diagnose_exactly", "horizon_of", "suspects"]

# Targets nearer to each other than this, relative to their size or the gradient's, are the same:
# nothing tells such mistakes apart on this problem.
SAME = 1e-6

# A mistake fits if its target is no further from the mean than this quantile of chance allows.
MISFIT_RATE = 1e-4

# Directions in which means are compared, for each of so many replicates.
REPLICATES_A_DIRECTION = 5

# Likelihood, as a share of that of all mistakes, from which one is said to be it.
CLEAR = 0.9

# An exact expectation fits a target up to this, relative to the target.
EXACT_FIT = 1e-8


@dataclass(frozen=True)
class Guess:
    """A mistake, and how well it explains the estimates.

    Attributes
    ----------
    name, mistake, instead : str
        As of `Mistake`; the kind, or without one the name.
    likeness : tuple of str
        Other mistakes with the same target here.
    distance : float
        Distance of its target from the estimates' mean, in standard errors over all directions
        together; by enumeration, relative to the target.
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
        All mistakes that were considered.
    unit : str
        Unit of the distances.
    n_replicates : int
        Number of estimates behind it; 0 for an exact expectation.
    """

    guesses: tuple[Guess, ...]
    unit: str = "standard errors"
    n_replicates: int = 0

    @property
    def best(self) -> Guess:
        """The likeliest."""
        return self.guesses[0]

    @property
    def clear(self) -> bool:
        """Whether more replicates would change little: one mistake leads, or none fits."""
        return not self.best.fits or self.best.weight >= CLEAR

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
        verb = "converges" if self.clear else "seems to converge"
        yield f"your estimator {verb} to {best.instead}, instead of the gradient"
        after = f", after {self.n_replicates} replicates" if self.n_replicates else ""
        same = f" (the same here: {', '.join(best.likeness)})" if best.likeness else ""
        yield (
            f"diagnosis: {best.name}{same}, likelihood {best.weight:.3g} of all "
            f"{len(self.guesses)} mistakes considered, {best.distance:.3g} {self.unit} away{after}"
        )
        others = [guess for guess in self.guesses[1:] if guess.fits]
        if others:
            names = ", ".join(f"{guess.name} ({guess.weight:.2g})" for guess in others[:3])
            more = f" and {len(others) - 3} more" if len(others) > 3 else ""
            yield f"not ruled out: {names}{more}"


def suspects(
    problem: BilevelProblem, theta: FloatArray, *, horizon: int | None = None
) -> dict[Mistake, FloatArray]:
    """Compute the targets of all mistakes that can be seen at theta.

    With a horizon the cut is a mistake itself, and the other mistakes are made with it.

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
    dict of Mistake to ndarray, shape (d,)
        What an estimator with the mistake converges to.
    """
    right = uncut = right_limit(problem, theta)
    if horizon is not None:
        right = cut(uncut, min(horizon, uncut.law.horizon))
    exact, at_best = (RIGHT.estimate(known).gradient for known in (uncut, right))
    size, found = _size(exact), {}
    if not _same(at_best, exact, size):
        found[cut_after(right.law.horizon)] = at_best
    for fault in FAULTS.values():
        target = fault.target(right)
        if target is not None and not _same(target, at_best, size):
            found[fault] = target
    return found


@quiet
def diagnose(
    estimates: FloatArray,
    targets: dict[Mistake, FloatArray],
    *,
    exact: FloatArray,
    rounding: float,
    horizon: int | None = None,
) -> Diagnosis | None:
    """Compare the mean of estimates with the targets of all mistakes.

    The likelihood of a target is that of the mean under Hotelling's law, (1 + T^2 / (n - 1))^(-n/2)
    up to a constant. With too few replicates for all coordinates, only the directions that the
    targets span are compared, and no mistake fits if the mean lies outside of them.

    Parameters
    ----------
    estimates : ndarray, shape (n, d)
        Independent replicates.
    targets : dict of Mistake to ndarray, shape (d,)
        As `suspects` computes them.
    exact : ndarray, shape (d,)
        The gradient.
    rounding : float
        Gaps below this, relative to the largest entry, are rounding.
    horizon : int, optional
        Steps after which trajectories are known to be cut.

    Returns
    -------
    Diagnosis or None
        None if no mistake can be seen.
    """
    from scipy import stats

    if not targets:
        return None
    table = np.array(list(targets.values()))
    unit = binary_scale(estimates, table)
    estimates, table = estimates / unit, table / unit
    count, mean = len(estimates), estimates.mean(axis=0)
    floor = rounding * max(float(np.abs(mean).max()), float(np.abs(table).max()))
    most, elsewhere = max(1, count // REPLICATES_A_DIRECTION), 0.0
    if exact.size > most:
        # directions that do not depend on the noise, or it would be largest along them
        _, size, axes = np.linalg.svd(np.vstack([table, exact / unit]), full_matrices=False)
        axes = axes[size > 1e-12 * size[0]]
        elsewhere = _far_off(estimates - estimates @ axes.T @ axes, floor)
        axes = axes[:most]
    else:
        axes = np.eye(exact.size)
    noise = (estimates - mean) @ axes.T
    gaps = (table - mean) @ axes.T
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
    if elsewhere > stats.t.isf(MISFIT_RATE, count // 2 - 1):
        squares, allowed = squares + elsewhere**2, 0.0
    if horizon is not None:
        # the cut is known to be there: it is as likely as all that would be a second mistake
        known = [fault.name == cut_after(horizon).name for fault in targets]
        likelihoods[known] += np.log(max(len(targets) - 1, 1))
    found = _ranked(targets, np.sqrt(squares), likelihoods, np.sqrt(allowed), _size(exact))
    return replace(found, n_replicates=count)


def diagnose_exactly(
    expectation: FloatArray,
    problem: BilevelProblem,
    theta: FloatArray,
    *,
    exact: FloatArray,
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
    exact : ndarray, shape (d,)
        The gradient.
    horizon : int, optional
        Steps after which trajectories are cut.
    tolerance : float
        How far from its target, relative to the largest of both and the gradient, a mistake's
        expectation may be.

    Returns
    -------
    Diagnosis or None
        None if no mistake can be seen at theta.
    """
    targets = suspects(problem, theta, horizon=horizon)
    if not targets:
        return None
    size = _size(exact)
    distance = np.array([_distance(target, expectation, size) for target in targets.values()])
    found = _ranked(targets, distance, -np.log(distance + 1e-16), tolerance, size)
    return replace(found, unit="of its size")


def _ranked(
    targets: dict[Mistake, FloatArray],
    distance: FloatArray,
    likelihoods: FloatArray,
    allowed: float,
    size: float,
) -> Diagnosis:
    """Put the mistakes in order, those with one target together."""
    faults = list(targets)
    weights = softmax(likelihoods)
    guesses: list[Guess] = []
    taken: set[Mistake] = set()
    for k in np.argsort(-likelihoods, kind="stable"):
        fault = faults[k]
        if fault in taken:
            continue
        alike = [
            other
            for other in faults
            if other not in taken and other != fault and _same(targets[other], targets[fault], size)
        ]
        taken.update((fault, *alike))
        guesses.append(
            Guess(
                name=fault.name,
                mistake=fault.kind or fault.name,
                instead=fault.instead,
                likeness=tuple(other.name for other in alike),
                distance=float(distance[k]),
                weight=float(weights[k] * (1 + len(alike))),
                fits=bool(distance[k] <= allowed),
            )
        )
    return Diagnosis(tuple(guesses))


def _far_off(rest: FloatArray, floor: float) -> float:
    """How far the mean of replicates is from 0, in the direction in which it is by every other one.

    Student's t of the others, since that direction knows nothing of their noise.
    """
    direction = rest[::2].mean(axis=0)
    along = rest[1::2] @ direction
    error = np.hypot(along.std(ddof=1) / np.sqrt(along.size), floor * np.abs(direction).sum())
    return float(along.mean() / error) if error > 0.0 else 0.0


def horizon_of(estimator: Any, problem: BilevelProblem, theta: FloatArray) -> int | None:
    """Look up after how many steps an estimator cuts trajectories, if it has a sampler."""
    sampler = getattr(estimator, "sampler", None)
    return None if sampler is None else int(sampler.horizon(problem.model(theta)))


def _size(vector: FloatArray) -> float:
    return float(np.abs(vector).max())


def _distance(one: FloatArray, other: FloatArray, least: float) -> float:
    """Compare relative to the larger, or the gradient's size: what is 0 has rounding, too."""
    size = max(_size(one), _size(other), least)
    return _size(one - other) / size if size > 0.0 else 0.0


def _same(one: FloatArray, other: FloatArray, least: float) -> bool:
    return _distance(one, other, least) <= SAME
