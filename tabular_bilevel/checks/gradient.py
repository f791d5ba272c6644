"""Is the gradient right? Compare it with every independent route that applies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arguments import as_checked_theta, as_generator, entry
from tabular_bilevel._base.arrays import FloatArray, quiet
from tabular_bilevel._base.display import displayed
from tabular_bilevel._base.errors import ConvergenceError, raise_if_failed
from tabular_bilevel.certify.accuracy import Level
from tabular_bilevel.certify.result import Hypergradient
from tabular_bilevel.checks.pullback import check_pullback
from tabular_bilevel.derivatives import has_pushforward
from tabular_bilevel.exact.hypergradient import hypergradient
from tabular_bilevel.exact.routes import (
    complex_step_gradient,
    difference_gradient,
    forward_gradient,
)
from tabular_bilevel.finite.linear import policy_system
from tabular_bilevel.finite.model import Model
from tabular_bilevel.finite.sensitivities import Sensitivities
from tabular_bilevel.kinds import by_kind
from tabular_bilevel.problem import AnyProblem, with_names

# Routes that differ by rounding alone: the worst over hard random problems (discount 0.99,
# temperature 0.01) was 1e-10, and a wrong formula is off by far more than 1e-8.
ROUNDING_TOLERANCE = 1e-8

# ... unless the discount is so near 1 that solves amplify rounding further: measured on two-state
# problems, routes differ by up to 1 rounding / (1 - discount).
CONDITIONING = 100.0

# Differences: their own error estimate, which can be too small by chance, and at least this.
DIFFERENCE_TOLERANCE = 1e-6
DIFFERENCE_FACTOR = 100.0

# Differences less accurate than this, by their own estimate, would pass wrong gradients too.
LARGEST_DIFFERENCE_ERROR = 1e-4

# Up to this many parameters each coordinate is checked, beyond it random directions.
ALL_COORDINATES = 200
RANDOM_DIRECTIONS = 10


@displayed
@dataclass(frozen=True)
class RouteComparison:
    """One route against the adjoint gradient.

    Attributes
    ----------
    route : str
        Name of the route.
    difference : float
        Largest difference of a derivative, relative to the largest derivative.
    tolerance : float
        Largest difference allowed.
    worst : str
        Where the difference is largest.
    adjoint, other : float
        The two derivatives there.
    n_differing, n_derivatives : int
        How many of the compared derivatives differ by more than was allowed.
    """

    route: str
    difference: float
    tolerance: float
    worst: str
    adjoint: float
    other: float
    n_differing: int
    n_derivatives: int

    @property
    def passed(self) -> bool:
        """Whether the routes agree."""
        return self.difference <= self.tolerance

    def __str__(self) -> str:
        verdict = "agrees" if self.passed else "DIFFERS"
        line = (
            f"{self.route}: {verdict}, relative difference {self.difference:.2g} (allowed "
            f"{self.tolerance:.2g}), largest at {self.worst}"
        )
        if self.passed:
            return line
        return (
            f"{line}: the gradient says {self.adjoint:.8g}, {self.route} {self.other:.8g}; "
            f"{self.n_differing} of {self.n_derivatives} differ"
        )


@dataclass(frozen=True)
class GradientReport:
    """What `check_gradient` found.

    Attributes
    ----------
    comparisons : tuple of RouteComparison
        One for each route that applies.
    skipped : tuple of str
        Routes that do not, with the reason.
    n_derivatives : int
        How many directional derivatives were compared.
    trouble : str
        How the problem's pullback of random weights does not fit its model, where the gradients
        agree all the same: they may vanish, or not depend on a table.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> report = tb.check_gradient(tb.problems.bandit(), [0.0, 0.0])
    >>> report.passed, report.n_derivatives, [c.route for c in report.comparisons]
    (True, 2, ['forward mode', 'complex step', 'differences'])
    >>> report.raise_if_failed()  # in a test suite
    """

    level: ClassVar[Level] = Level.ESTIMATE  # agreement of independent routes is no proof

    comparisons: tuple[RouteComparison, ...]
    skipped: tuple[str, ...]
    n_derivatives: int
    trouble: str = ""

    @property
    def passed(self) -> bool:
        """Whether there was anything to compare, and all of it agrees."""
        return _agree(self.comparisons) and not self.trouble

    raise_if_failed = raise_if_failed

    def __str__(self) -> str:
        verdict = "passed" if self.passed else "FAILED"
        head = f"Gradient check {verdict}: {self.n_derivatives} derivatives"
        lines = [head, *map(str, self.comparisons), *self.skipped]
        if self.trouble:
            return "\n  ".join([*lines, self.trouble])
        return "\n  ".join(lines if self.passed else [*lines, self._diagnosis()])

    def _diagnosis(self) -> str:
        """Say which of the problem's methods the pattern of failures points to."""
        failed = {comparison.route for comparison in self.comparisons if not comparison.passed}
        agree = {comparison.route for comparison in self.comparisons if comparison.passed}
        if "differences" in agree:
            return "pullback fits model(theta), pushforward does not"
        if "differences" in failed and not agree:
            return "pullback does not fit model(theta)"
        if failed:
            return "pullback and pushforward fit each other, but not model(theta)"
        return "nothing could be compared"


@quiet
def check_gradient(
    problem: AnyProblem,
    theta: npt.ArrayLike,
    *,
    horizon: int | None = None,
    step: float = 0.1,
    rng: np.random.Generator | int = 0,
) -> GradientReport:
    """Compare the adjoint gradient with every independent route that applies.

    Differences apply to every problem; forward mode and the complex step to those with a
    `pushforward`. With up to 200 parameters each coordinate is compared, beyond that the gradient's
    own direction and ten random ones. Where all agree, `pullback` of randomly weighted tables is
    compared with their differences, too: a gradient that vanishes shows nothing of it.

    Parameters
    ----------
    problem : BilevelProblem or LinearQuadraticProblem
        The leader's problem.
    theta : array_like, shape (d,)
        The leader's parameter.
    horizon : int, optional
        Count the leader's rewards of this many steps only.
    step : float
        Largest step of the differences.
    rng : numpy.random.Generator or int
        Chooses the random directions.

    Returns
    -------
    GradientReport
        Verdict, and one line a route.

    Raises
    ------
    ValueError
        As `hypergradient`; if theta has no entries.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> report = tb.check_gradient(tb.problems.two_state(), [0.2, -0.3])
    >>> report.passed
    True
    >>> [comparison.route for comparison in report.comparisons]
    ['forward mode', 'complex step', 'differences']
    """
    theta = as_checked_theta(theta)
    exact = hypergradient(problem, theta, horizon=horizon)
    directions = _directions(exact.gradient, as_generator(rng))
    derivatives = exact.gradient if directions is None else directions @ exact.gradient
    # A derivative may vanish because its terms cancel; their rounding is then all that is left.
    rounding = 1e3 * np.finfo(np.float64).eps * _terms(exact.model, exact.sensitivities)
    scale = max(np.abs(derivatives).max(), rounding / ROUNDING_TOLERANCE, np.finfo(float).tiny)

    rounding_tolerance = max(
        ROUNDING_TOLERANCE, CONDITIONING * float(np.finfo(np.float64).eps) * _steps(exact)
    )

    def compare(route: str, others: FloatArray, allowed: float) -> RouteComparison:
        gaps = np.abs(others - derivatives) / scale
        worst = int(np.argmax(gaps))
        where = entry("theta", (worst,)) if directions is None else f"direction {worst}"
        return RouteComparison(
            route=route,
            difference=float(gaps[worst]),
            tolerance=allowed,
            worst=with_names(problem, where),
            adjoint=float(derivatives[worst]),
            other=float(others[worst]),
            n_differing=int((gaps > allowed).sum()),
            n_derivatives=derivatives.size,
        )

    comparisons, skipped = [], []
    if has_pushforward(problem):
        for route, method in (
            ("forward mode", forward_gradient),
            ("complex step", complex_step_gradient),
        ):
            try:
                others = method(problem, theta, directions=directions, horizon=horizon)
            except (ConvergenceError, NotImplementedError) as error:
                skipped.append(f"{route}: {error}")
            else:
                comparisons.append(compare(route, others, rounding_tolerance))
    else:
        skipped.append("forward mode, complex step: the problem has no pushforward")
    differences = difference_gradient(
        problem, theta, directions=directions, horizon=horizon, step=step
    )
    inaccuracy = float(differences.error.max() / scale)
    if inaccuracy <= LARGEST_DIFFERENCE_ERROR:
        allowed = max(DIFFERENCE_TOLERANCE, DIFFERENCE_FACTOR * inaccuracy)
        comparisons.append(compare("differences", differences.gradient, allowed))
    else:
        skipped.append(
            f"differences: too inaccurate to tell, estimated error {inaccuracy:.2g}; try another "
            "step"
        )
    trouble = ""
    if _agree(comparisons):
        pullback = check_pullback(problem, theta)
        trouble = pullback.trouble
        if pullback.skipped:
            skipped.append(f"pullback of random weights: {pullback.skipped}")
    return GradientReport(tuple(comparisons), tuple(skipped), derivatives.size, trouble)


def _agree(comparisons: Sequence[RouteComparison]) -> bool:
    return bool(comparisons) and all(comparison.passed for comparison in comparisons)


def _size_of_tables(_: Model, measures: Sensitivities) -> float:
    return float(np.abs(measures.follower_reward).sum() + np.abs(measures.leader_reward).sum())


# Sizes of the terms that a derivative adds up.
_terms = by_kind(_size_of_tables, lambda _, measures: measures.size)


def _steps(exact: Hypergradient) -> float:
    """Bound the discounted steps that are expected, by which rounding is amplified."""
    model = exact.model
    if model.leader_discount < 1.0:
        discount: float = max(model.follower_discount, model.leader_discount)
        return 1.0 / (1.0 - discount)
    steps = policy_system(model, exact.response.policy, 1.0).solve(np.ones(model.n_states))
    return float(max(steps.max(), 1.0 / (1.0 - model.follower_discount)))


def _directions(gradient: FloatArray, rng: np.random.Generator) -> FloatArray | None:
    """Choose what to compare: the coordinates (None), or unit vectors, one a row."""
    if gradient.size <= ALL_COORDINATES:
        return None
    rows = np.vstack([gradient, rng.normal(size=(RANDOM_DIRECTIONS, gradient.size))])
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0.0, norms, 1.0)
