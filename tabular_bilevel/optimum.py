"""Better optima: how far an ascent ended from the best objective that is known.

J is not concave: a plain ascent along the exact gradient ends on the nearest plateau. Ways out, to
be combined: many starts, a follower that is warm first and cooled step by step, an ascent with
noisy gradients, and shaking what was found. `polish`, a quasi-Newton method with exact gradients,
ends each. `search` is what did best on four rooms: noise, polish, shake and polish again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arguments import (
    as_checked_theta,
    as_generator,
    as_nonnegative,
    as_positive,
    as_real,
    as_theta,
    finite_array,
    positive_integer,
)
from tabular_bilevel._base.arrays import UNDERFLOW, FloatArray, quiet, read_only
from tabular_bilevel._base.display import displayed
from tabular_bilevel._base.errors import ConvergenceError
from tabular_bilevel._base.files import brief
from tabular_bilevel.ascent.published import Recipe
from tabular_bilevel.certify.accuracy import Estimated
from tabular_bilevel.estimators.contract import as_estimator
from tabular_bilevel.estimators.estimate import Estimate, bias_of
from tabular_bilevel.exact.hypergradient import hypergradient
from tabular_bilevel.problem import AnyProblem
from tabular_bilevel.sampling.experience import NOTHING, Memory

__all__ = ["Optimum", "Perturbed", "Shake", "anneal", "best_of", "polish", "search"]

# Norm of theta from which on a search is given up: what saturates has done so long before.
LONGEST = 1e8

# What is raised where there is no model, or none that can be solved.
OUTSIDE = (ValueError, ConvergenceError)


@displayed
@dataclass(frozen=True, eq=False)
class Optimum:
    """A local maximum of J, as far as it was followed.

    Attributes
    ----------
    objective : float
        J: an ESTIMATE, exact but for rounding; `hypergradient` at theta bounds it.
    theta : ndarray, shape (d,)
        Where the maximum is.
    gradient_norm : float
        Norm of the gradient there, an ESTIMATE, too.
    evaluations : int
        How often J and its gradient were computed.
    message : str
        Why the search stopped.
    history : tuple of float
        The best objective after each of the times that `search` polished; empty of other ways.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> from tabular_bilevel.optimum import polish
    >>> found = polish(tb.problems.discrete_toy(), [0.0, 0.0, 1.0, 0.0, 0.0, 0.0], horizon=150)
    >>> found.gradient_norm < 0.01, found.theta.shape
    (True, (6,))
    """

    objective: float
    theta: FloatArray = field(repr=False)
    gradient_norm: float
    evaluations: int
    message: str
    history: tuple[float, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        return (
            f"Optimum: objective {self.objective:.6g}, gradient norm {self.gradient_norm:.2g}, "
            f"{self.evaluations} evaluations ({self.message})"
        )


@quiet
def polish(
    problem: AnyProblem,
    theta: npt.ArrayLike,
    *,
    horizon: int | None = None,
    max_iterations: int = 1000,
) -> Optimum:
    """Climb J by L-BFGS with exact gradients.

    J may be unbounded, where the leader's own reward is linear in theta: the search stops at a
    theta longer than 1e8, and its message says so. A step to where there is no model, or none that
    can be solved, is made shorter; the message says that, too.

    Parameters
    ----------
    problem : BilevelProblem
        The leader's problem.
    theta : array_like, shape (d,)
        Where to start.
    horizon : int, optional
        Count the leader's rewards of this many steps only.
    max_iterations : int
        Largest number of L-BFGS iterations.

    Returns
    -------
    Optimum
        The best point seen; at least as good as the start.

    Raises
    ------
    ValueError
        If theta does not fit the problem, or `max_iterations` is not positive.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> found = tb.polish(tb.problems.discrete_toy(), [0.0, 0.0, 1.0, 0.0, 0.0, 0.0], horizon=150)
    >>> round(found.objective, 2)
    27.32
    """
    import scipy.optimize

    positive_integer("max_iterations", max_iterations)
    start = as_checked_theta(theta)
    outside: list[str] = []
    best: tuple[float, FloatArray, float] | None = None
    value: FloatArray | None = None
    evaluations = 0

    def fall(point: FloatArray) -> tuple[float, FloatArray]:
        nonlocal best, value, evaluations
        evaluations += 1
        try:
            result = hypergradient(
                problem, point, accuracy=Estimated(), horizon=horizon, start=value
            )
        except OUTSIDE as error:
            if best is None:
                raise
            outside.append(brief(error))
            return _wall(*best[:2], point)
        value = result.response.value
        if best is None or result.objective > best[0]:
            norm = float(np.linalg.norm(result.gradient))
            best = (result.objective, np.array(point), norm)
        return -result.objective, -result.gradient

    def too_far(point: FloatArray) -> None:
        if np.linalg.norm(point) > LONGEST:
            raise StopIteration

    stopped = scipy.optimize.minimize(
        fall,
        start,
        jac=True,
        method="L-BFGS-B",
        callback=too_far,
        options={"maxiter": max_iterations, "maxfun": 20 * max_iterations},
    )
    assert best is not None
    objective, point, norm = best
    far = np.linalg.norm(stopped.x) > LONGEST
    message = f"theta is longer than {LONGEST:g}: J seems unbounded" if far else stopped.message
    if outside:
        message = f"{message}; {len(outside)} steps led outside, the first: {outside[0]}"
    return Optimum(objective, read_only(point), norm, evaluations, str(message))


def _wall(objective: float, inside: FloatArray, point: FloatArray) -> tuple[float, FloatArray]:
    """Make a height above the best point, and the slope from there, that turn a search back."""
    height, way = 1.0 + abs(objective), point - inside
    return height - objective, way * (height / max(float(way @ way), UNDERFLOW))


def best_of(
    problem: AnyProblem, starts: Iterable[npt.ArrayLike], *, horizon: int | None = None
) -> Optimum:
    """Polish from many starts and keep the best.

    Its message says at which starts there is no model, or none that can be solved.

    Parameters
    ----------
    problem : BilevelProblem
        The leader's problem.
    starts : iterable of array_like, shape (d,)
        At least one.
    horizon : int, optional
        Count the leader's rewards of this many steps only.

    Returns
    -------
    Optimum
        The best.

    Raises
    ------
    ValueError
        If there are no starts, or no model at any of them.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> from tabular_bilevel.optimum import best_of
    >>> game = tb.problems.discrete_toy()
    >>> starts = [[0.0] * 6, [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]]
    >>> round(best_of(game, starts, horizon=150).objective, 2)
    27.32
    """
    found: list[Optimum] = []
    failed: Exception = ValueError("starts is empty")
    outside = []
    for k, start in enumerate(starts):
        try:
            found.append(polish(problem, start, horizon=horizon))
        except OUTSIDE as error:
            outside.append(f"start {k} lies outside: {brief(error)}")
            failed = error
    if not found:
        raise failed
    return _told(max(found, key=lambda optimum: optimum.objective), outside)


def _told(best: Optimum, outside: list[str]) -> Optimum:
    return replace(best, message="; ".join([best.message, *outside]))


def anneal(
    problems: Sequence[AnyProblem], theta: npt.ArrayLike, *, horizon: int | None = None
) -> Optimum:
    """Polish through a sequence of problems, each from where the one before ended.

    Parameters
    ----------
    problems : sequence of BilevelProblem
        The same problem at falling temperatures, the last one that which is meant.
    theta : array_like, shape (d,)
        Where to start.
    horizon : int, optional
        Count the leader's rewards of this many steps only.

    Returns
    -------
    Optimum
        The maximum that was found for the last problem.

    Raises
    ------
    ValueError
        If there are no problems.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> from tabular_bilevel.optimum import anneal
    >>> cooled = [tb.problems.four_rooms(temperature) for temperature in (0.01, 0.003, 0.001)]
    >>> anneal(cooled, [0.0] * 105).objective > 0.3
    True
    """
    if not problems:
        raise ValueError("problems is empty")
    for problem in problems:
        found = polish(problem, theta, horizon=horizon)
        theta = found.theta
    return found


@displayed
@dataclass(frozen=True)
class Shake:
    """Move theta at random, out of the basin that it is in.

    A softmax gives nothing to an entry far below the largest one, and no gradient leads back from
    there: such entries are lifted first.

    Attributes
    ----------
    spread : float
        Standard deviation of the normal number that is added to each entry; positive.
    reach : float
        Entries further below the largest one are lifted to this distance; infinite for parameters
        that are no logits.

    Raises
    ------
    ValueError
        On construction, if a setting is out of range; the message names it.

    Examples
    --------
    >>> import numpy as np
    >>> import tabular_bilevel as tb
    >>> theta = np.array([0.0, -50.0])  # the second share of a budget is dead
    >>> tb.Shake(spread=1.0, reach=6.0)(theta, np.random.default_rng(0)).round(2)
    array([ 0.13, -6.13])
    """

    spread: float = 1.0
    reach: float = 6.0

    def __post_init__(self) -> None:
        as_positive("spread", self.spread)
        if not as_real("reach", self.reach) >= 0.0:
            raise ValueError(f"reach is {self.reach}, not at least 0")

    def __call__(self, theta: npt.ArrayLike, rng: np.random.Generator | int) -> FloatArray:
        """Lift and move, shape (d,).

        Parameters
        ----------
        theta : array_like, shape (d,)
            Where it was.
        rng : numpy.random.Generator or int
            Source of randomness (it advances), or a seed.

        Returns
        -------
        ndarray, shape (d,)
            Where to go on from.

        Raises
        ------
        ValueError
            If theta is not a finite vector, or `rng` is neither a generator nor a seed.
        """
        before = as_theta(theta)
        lifted = np.maximum(before, before.max(initial=-np.inf) - self.reach)
        return np.asarray(lifted + self.spread * as_generator(rng).standard_normal(before.size))


def search(
    problem: AnyProblem,
    theta: npt.ArrayLike,
    *,
    rng: np.random.Generator | int,
    recipe: Recipe | None = None,
    shakes: int = 14,
    shake: Callable[[FloatArray, np.random.Generator], npt.ArrayLike] = Shake(),
    horizon: int | None = None,
) -> Optimum:
    """Look for the best theta: climb with noise, polish, then shake and polish again and again.

    What a shake leads to is kept where it is better. Nothing says that it is the best there is. If
    the ascent or a shake ends where there is no model, or none that can be solved, the search goes
    on from what was found before, and its message says which it was.

    Parameters
    ----------
    problem : BilevelProblem
        The leader's problem.
    theta : array_like, shape (d,)
        Where to start.
    rng : numpy.random.Generator or int
        Source of randomness, or a seed.
    recipe : Recipe, optional
        The ascent that comes first, such as ``tb.published("bchg")``; none by default.
    shakes : int
        How often what was found is shaken.
    shake : callable
        A `Shake`, or a function of theta and a generator that returns where to polish next.
    horizon : int, optional
        Count the leader's rewards of this many steps only.

    Returns
    -------
    Optimum
        The best that was found, the first polish and each shake in its `history`.

    Raises
    ------
    ValueError
        If a setting is bad, or a shake returns no finite vector as long as theta.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> found = tb.search(tb.problems.garnet(), [0.0] * 6, rng=0, shakes=3)
    >>> len(found.history)
    4
    """
    positive_integer("shakes", shakes)
    if recipe is not None and not isinstance(recipe, Recipe):
        raise ValueError(f"recipe is {brief(repr(recipe))}, not a Recipe")
    if not callable(shake):
        raise ValueError(f"shake is {brief(repr(shake))}, not a function of theta and a generator")
    climbing, shaking = as_generator(rng).spawn(2)
    start, before, outside = as_checked_theta(theta), None, []
    try:
        for step in () if recipe is None else recipe.climb(problem, start, rng=climbing):
            before, start = step.theta, step.next_theta
        best = polish(problem, start, horizon=horizon)
    except OUTSIDE as error:
        if before is None:  # not one step was made
            raise
        outside.append(f"the ascent led outside: {brief(error)}")
        best = polish(problem, before, horizon=horizon)
    history, evaluations = [best.objective], best.evaluations
    for count in range(1, shakes + 1):
        moved = finite_array("shake(...)", shake(best.theta, shaking), best.theta.shape)
        try:
            found = polish(problem, moved, horizon=horizon)
        except OUTSIDE as error:
            outside.append(f"shake {count} led outside: {brief(error)}")
        else:
            evaluations += found.evaluations
            best = max(best, found, key=lambda optimum: optimum.objective)
        history.append(best.objective)
    return replace(_told(best, outside), evaluations=evaluations, history=tuple(history))


@displayed
@dataclass(frozen=True)
class Perturbed:
    """A method with normal noise added to its gradient, to leave plateaus with.

    The noise has mean zero, so that assumptions and bias are the method's.

    Attributes
    ----------
    method : Estimator or callable
        Where gradients come from, in any form that `ascend` takes.
    spread : float
        Standard deviation of the noise in each coordinate.

    Raises
    ------
    ValueError
        On construction, if the method cannot be called, or `spread` is below 0.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> from tabular_bilevel.optimum import Perturbed
    >>> problem, theta = tb.problems.bandit(), [0.0, 0.0]
    >>> shaken = Perturbed(tb.ExactGradient(), spread=0.1)
    >>> shaken(problem, theta, rng=0).gradient.round(3), shaken.target(problem, theta)
    (array([-0.237,  0.237]), array([-0.25,  0.25]))
    """

    method: Any
    spread: float

    def __post_init__(self) -> None:
        as_estimator(self.method, name="method")
        as_nonnegative("spread", self.spread)

    def __call__(
        self,
        problem: AnyProblem,
        theta: npt.ArrayLike,
        *,
        rng: np.random.Generator | int,
        memory: Memory = NOTHING,
    ) -> Estimate:
        """Estimate and perturb; as of `Estimator`."""
        generator = as_generator(rng)
        estimate = as_estimator(self.method).at(problem, theta)(generator, memory)
        normal = generator.standard_normal(estimate.gradient.size)
        with np.errstate(all="ignore"):
            gradient = estimate.gradient + self.spread * normal
        return replace(estimate, gradient=read_only(gradient), parts=None)

    def target(self, problem: AnyProblem, theta: npt.ArrayLike) -> FloatArray:
        """Compute the method's target, shape (d,)."""
        target: FloatArray = self.method.target(problem, theta)
        return target

    bias = bias_of
