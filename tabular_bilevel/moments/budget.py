"""What a budget of steps buys: errors of methods, and trajectories for an error."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arguments import as_positive, as_real, finite_array, positive_integer
from tabular_bilevel._base.arrays import FloatArray, quiet, read_only, restore_read_only
from tabular_bilevel._base.display import brief
from tabular_bilevel.estimators.bi_level_actor_critic import BiLevelActorCritic
from tabular_bilevel.estimators.boltzmann_covariance import BoltzmannCovariance
from tabular_bilevel.estimators.estimate import Estimator
from tabular_bilevel.estimators.naive import NaivePolicyGradient
from tabular_bilevel.estimators.sobirl import SoBiRL
from tabular_bilevel.estimators.zero_order import ZeroOrder
from tabular_bilevel.moments.estimator import Moments, estimator_moments
from tabular_bilevel.problem import BilevelProblem, TablesOnlyError
from tabular_bilevel.sampling.samplers import Episodes

#: Cuts that are tried by default; an infinite one is a method's own.
HORIZONS = (1, 2, 5, 10, 20, 50, 100, 200, 500, math.inf)

# Parameters up to which a zero-order mean, which takes 2 d^2 gradients, is compared by default.
FEW = 20

# Relative; how far roots are computed.
ROUNDED = 1e-9

# Standard deviations from the mean within which the saddlepoint's form is 0 / 0, and has a limit.
NEAR_THE_MEAN = 1e-4

# Logarithm of so many trajectories as count as infinite.
MOST_LOG = 512.0

# Budgets between two that are given, at which it is looked for a crossing.
BETWEEN = 50


@dataclass(frozen=True, eq=False)
class ErrorCurve:
    """Errors of methods against the budget of steps, each with the best of its cuts.

    Attributes
    ----------
    methods : tuple of str
        Names.
    budgets : ndarray, shape (n,)
        Steps in all.
    error : ndarray, shape (m, n)
        Root of the mean squared error, relative to the exact gradient's norm; infinite where the
        budget is not enough for a trajectory.
    cosine : ndarray, shape (m, n)
        Mean component of an estimate along the exact gradient, over the root of its mean square.
    horizon : ndarray, shape (m, n)
        Steps after which trajectories are cut; infinite for a method's own cut.
    moments : mapping
        From a method's name to the moments of each of its cuts.

    Examples
    --------
    >>> import numpy as np
    >>> import tabular_bilevel as tb
    >>> problem, theta = tb.problems.garnet(), np.full(6, 0.1)
    >>> methods = {"BC-HG": tb.BoltzmannCovariance(), "naive": tb.NaivePolicyGradient()}
    >>> curve = tb.error_curve(problem, theta, methods, [1e2, 1e4])
    >>> print(curve)
    error relative to the gradient (cosine; best cut), each method at each budget
                       100 steps            10,000 steps
    BC-HG  0.846 (0.55; 5 steps)  0.305 (0.95; 50 steps)
    naive     1 (-0.07; 1 steps)       1 (0.05; 5 steps)
    >>> curve.crossings(), round(curve.error_at("BC-HG", 1e6), 3)
    ([], 0.043)
    """

    methods: tuple[str, ...]
    budgets: FloatArray
    error: FloatArray
    cosine: FloatArray
    horizon: FloatArray
    moments: Mapping[str, tuple[Moments, ...]] = field(repr=False)

    __setstate__ = restore_read_only

    def error_at(self, method: str, budget: float) -> float:
        """Compute a method's error at another budget.

        Parameters
        ----------
        method : str
            Its name.
        budget : float
            Steps in all.

        Returns
        -------
        float
            As in `error`.

        Raises
        ------
        ValueError
            If there is no such method, or the budget is not positive.
        """
        if method not in self.methods:
            raise ValueError(f"method is {method!r}, not one of {', '.join(self.methods)}")
        return _best(self.moments[method], as_positive("budget", budget))[0]

    def crossings(self) -> list[tuple[str, str, float]]:
        """Find where one method overtakes another, between the smallest budget and the largest.

        Returns
        -------
        list of (str, str, float)
            Which is better from then on, than which, and the budget.
        """
        budgets = np.geomspace(self.budgets.min(), self.budgets.max(), BETWEEN * self.budgets.size)
        found = []
        for one, other in itertools.combinations(self.methods, 2):

            def lead(budget: float, one: str = one, other: str = other) -> float:
                errors = self.error_at(one, budget), self.error_at(other, budget)
                return 0.0 if errors[0] == errors[1] else errors[0] - errors[1]

            for low, high in itertools.pairwise(budgets):
                if lead(low) * lead(high) < 0.0:
                    overtakes = (one, other) if lead(high) < 0.0 else (other, one)
                    found.append((*overtakes, _root(lead, low, high)))
        return sorted(found, key=lambda crossing: crossing[2])

    def __str__(self) -> str:
        rows = [("", *(f"{budget:,.0f} steps" for budget in self.budgets))]
        rows += [(name, *row) for name, row in zip(self.methods, cells(self), strict=True)]
        title = "error relative to the gradient (cosine; best cut), each method at each budget"
        return "\n".join((title, *aligned(rows), *overtaking(self)))


def error_curve(
    problem: BilevelProblem,
    theta: npt.ArrayLike,
    methods: Mapping[str, Any] | None = None,
    budgets: Sequence[float] = (1e3, 1e4, 1e5),
    *,
    horizons: Iterable[float] = HORIZONS,
    progress: bool = False,
) -> ErrorCurve:
    """Compute the error that each method makes of a budget of steps, without sampling.

    A budget of N steps makes N over the mean number of steps of trajectories, whose gradients are
    averaged: the mean squared error is the bias squared, plus the variance of one trajectory over
    their number. Of the cuts that are tried, each budget takes the best.

    Parameters
    ----------
    problem : BilevelProblem
        The leader's problem.
    theta : array_like, shape (d,)
        The leader's parameter.
    methods : mapping of str to Estimator, optional
        Methods whose `estimator_moments` are known, by any names; by default those that the problem
        is made for.
    budgets : sequence of float
        Steps in all.
    horizons : iterable of int or math.inf
        Cuts that are tried; an infinite one is the method's own, which is what is shorter, too.
    progress : bool
        Show a bar, which counts the `estimator_moments` that it takes.

    Returns
    -------
    ErrorCurve
        Errors, cosines, best cuts, and where methods cross.

    Raises
    ------
    ValueError
        If a method draws no trajectories, or as `estimator_moments`; if methods have no names,
        budgets are not positive, horizons are no positive whole numbers, or there is no gradient to
        be relative to.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> curve = tb.error_curve(tb.problems.bandit(), [0.0, 0.3], budgets=[1e3])
    >>> curve.methods
    ('BC-HG', 'naive', 'SoBiRL', 'zero-order')
    """
    from tqdm.auto import tqdm

    sizes = finite_array("budgets", budgets, (None,))
    for budget in sizes:
        as_positive("a budget", budget)
    if not isinstance(horizons, Iterable):
        raise ValueError(f"horizons is {horizons!r}, not a sequence of whole numbers")
    cuts = [
        steps if steps == math.inf else positive_integer("a horizon", steps) for steps in horizons
    ]
    if not cuts:
        raise ValueError("horizons is empty: no cut is to be tried")
    with tqdm(unit=" moments", leave=False, disable=not progress) as bar:
        named = comparable(problem, theta, bar.update) if methods is None else methods
        if not (isinstance(named, Mapping) and named and all(isinstance(n, str) for n in named)):
            raise ValueError(f"methods is {brief(named)}, not a mapping from names to methods")
        bar.reset(total=len(named) * (1 + len(cuts)))
        moments = {
            name: tuple(_cuts(problem, theta, name, method, cuts, bar.update))
            for name, method in named.items()
        }
    found = np.array([[_best(each, budget) for budget in sizes] for each in moments.values()])
    error, cosine, horizon = np.moveaxis(found, 2, 0)
    return ErrorCurve(
        methods=tuple(moments),
        budgets=read_only(sizes),
        error=read_only(error.copy()),
        cosine=read_only(cosine.copy()),
        horizon=read_only(horizon.copy()),
        moments=moments,
    )


@quiet
def required_samples(
    problem: BilevelProblem,
    theta: npt.ArrayLike,
    method: Any,
    *,
    error: float | None = None,
    cosine: float | None = None,
    confidence: float = 0.95,
    horizon: float | None = None,
) -> float:
    """Count the trajectories that make an estimate near the exact gradient, with a probability.

    By the central limit theorem the mean of n gradients is normal. The square of its distance to
    the exact gradient, bias included, is a sum of squares of normal numbers, whose tail is computed
    by a saddlepoint (Kuonen, Biometrika 1999): to some percent of itself, however small it is.

    Parameters
    ----------
    problem : BilevelProblem
        The leader's problem.
    theta : array_like, shape (d,)
        The leader's parameter.
    method : Estimator
        A method whose `estimator_moments` are known.
    error : float, optional
        Largest distance to the exact gradient, relative to its norm.
    cosine : float, optional
        Least cosine of the angle to it, instead: any estimate with an error of at most
        sqrt(1 - cosine^2) has it, and some with a larger one.
    confidence : float
        Probability with which an estimate is as near, in (0, 1).
    horizon : int or math.inf, optional
        As of `estimator_moments`.

    Returns
    -------
    float
        A whole number; infinite if the bias alone is as large, or above 1e222.

    Raises
    ------
    ValueError
        If not exactly one of `error` and `cosine` is given, one is out of range, the gradient is 0,
        or as `estimator_moments`.

    Examples
    --------
    >>> import numpy as np
    >>> import tabular_bilevel as tb
    >>> problem, theta, method = tb.problems.garnet(), np.full(6, 0.1), tb.BoltzmannCovariance()
    >>> tb.required_samples(problem, theta, method, error=0.05)
    20583.0
    >>> tb.required_samples(problem, theta, method, cosine=0.99)
    2586.0
    >>> tb.required_samples(problem, theta, tb.NaivePolicyGradient(), error=0.05)
    inf
    """
    if (error is None) == (cosine is None):
        raise ValueError("exactly one of error and cosine is to be given")
    if cosine is not None:
        if not 0.0 < as_real("cosine", cosine) < 1.0:
            raise ValueError(f"cosine is {cosine}, not in (0, 1)")
        error = math.sqrt(1.0 - cosine**2)
    if not 0.0 < as_real("confidence", confidence) < 1.0:
        raise ValueError(f"confidence is {confidence}, not in (0, 1)")
    allowed = as_positive("error", error or 0.0)
    moments = estimator_moments(problem, theta, method, horizon=horizon)
    variance, axes = np.linalg.eigh(moments.covariance)
    largest = allowed * _norm(moments)  # its square may overflow, or vanish
    variance = np.maximum(variance, 0.0) / largest / largest
    along = (moments.bias / largest @ axes) ** 2
    square = float(along.sum())
    if not (square < 1.0 and variance.max() < math.exp(MOST_LOG)):
        return math.inf
    if square + variance.sum() <= 1.0 - confidence:  # the mean bounds the chance
        return 1.0

    def beyond(log_n: float) -> float:
        """Compare the chance of a larger error with the one that is allowed."""
        return _tail(along, variance / math.exp(log_n)) - (1.0 - confidence)

    if not variance.any() or beyond(0.0) <= 0.0:
        return 1.0
    most = 1.0
    while beyond(most) > 0.0:
        if most == MOST_LOG:
            return math.inf
        most *= 2.0
    return float(math.ceil(math.exp(_root(beyond, 0.0, most)) * (1.0 - ROUNDED)))


def comparable(
    problem: BilevelProblem, theta: npt.ArrayLike, ticked: Callable[[], Any] = lambda: None
) -> dict[str, Estimator]:
    """Make the methods whose errors can be computed on a problem, by name."""
    methods: dict[str, Estimator] = {
        "BC-HG": BoltzmannCovariance(),
        "BC-HG, own action": BoltzmannCovariance(own_action=True),
        "BC-HG, no baseline": BoltzmannCovariance(baseline=False),
        "naive": NaivePolicyGradient(),
        "SoBiRL": SoBiRL(discounted=True),
        "Bi-AC": BiLevelActorCritic(),
    }
    if np.size(theta) <= FEW:
        methods["zero-order"] = ZeroOrder(sampler=Episodes())
    defined, seen = {}, set()
    for name, method in methods.items():
        ticked()
        try:
            found = estimator_moments(problem, theta, method)
        except TablesOnlyError:
            continue
        except ValueError as error:
            if "is defined for" not in str(error):
                raise
            continue
        told = (found.total_variance, *found.mean)
        if told not in seen:  # without parameters of the kernel, forms of BC-HG are all the same
            defined[name] = method
        seen.add(told)
    return defined


def _cuts(
    problem: BilevelProblem,
    theta: npt.ArrayLike,
    name: str,
    method: Any,
    horizons: Sequence[float],
    ticked: Callable[[], Any],
) -> Iterator[Moments]:
    """Compute the moments of a method with cuts; what is not shorter than its own is its own."""
    own = estimator_moments(problem, theta, method)
    if own.n_steps == 0.0:
        raise ValueError(f"{name} draws no trajectories, so that a budget of steps says nothing")
    longest = math.inf if own.horizon is None else own.horizon
    if max(horizons) >= longest:
        yield own
    ticked()
    for steps in horizons:
        ticked()
        if steps < longest:
            yield estimator_moments(problem, theta, method, horizon=steps)


def _best(cuts: Sequence[Moments], budget: float) -> tuple[float, float, float]:
    """Find the cut with the least error at a budget: error, cosine, and steps."""
    found = [(math.inf, math.nan, math.inf)]
    for cut in cuts:
        n, norm = budget / cut.n_steps, _norm(cut)
        if n < 1.0:
            continue
        noise = cut.total_variance / n
        error = math.sqrt(float(cut.bias @ cut.bias) + noise) / norm
        length = math.sqrt(float(cut.mean @ cut.mean) + noise)
        cosine = float(cut.mean @ cut.exact) / (norm * length) if length > 0.0 else 0.0
        found.append((error, cosine, math.inf if cut.horizon is None else float(cut.horizon)))
    return min(found, key=lambda each: each[0])


def _norm(moments: Moments) -> float:
    norm = float(np.linalg.norm(moments.exact))
    if not norm > 0.0:
        raise ValueError("the exact gradient is 0, and errors are relative to it")
    return norm


def cells(curve: ErrorCurve) -> list[list[str]]:
    """Say each method's error, cosine and best cut at each budget."""
    return [
        [
            "too few" if math.isinf(error) else f"{error:.3g} ({cosine:.2f}; {_cut(steps)})"
            for error, cosine, steps in zip(*rows, strict=True)
        ]
        for rows in zip(curve.error, curve.cosine, curve.horizon, strict=True)
    ]


def overtaking(curve: ErrorCurve) -> list[str]:
    """Say where methods cross, a line each."""
    return [
        f"{one} overtakes {other} at {budget:,.0f} steps"
        for one, other, budget in curve.crossings()
    ]


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Write a table: its first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        told = (f"{cell:>{size}}" for cell, size in zip(others, widths[1:], strict=True))
        yield "  ".join((f"{first:<{widths[0]}}", *told))


def _cut(steps: float) -> str:
    return "own cut" if math.isinf(steps) else f"{steps:.0f} steps"


def _tail(along: FloatArray, variance: FloatArray) -> float:
    """Compute P(sum_i X_i^2 > 1) for independent normal X_i, by a saddlepoint.

    `along` has their means' squares, which add up to less than 1.
    """
    from scipy import special

    scale = float(variance.max())
    share = variance / scale

    def at(log_left: float) -> tuple[float, FloatArray, FloatArray, FloatArray]:
        """Make the cumulants' argument s with 1 - 2 s scale left, and what they are made of."""
        left = (1.0 - share) + share * math.exp(log_left)
        s = -math.expm1(log_left) / (2.0 * scale)
        return s, left, along / left / left, variance / left

    def mean(log_left: float) -> float:
        _, _, fixed, random = at(log_left)
        return float((fixed + random).sum()) - 1.0

    few, many = -1.0, 1.0
    while mean(few) < 0.0:
        few *= 2.0
    while mean(many) > 0.0:
        many *= 2.0
    s, left, fixed, random = at(_root(mean, few, many))
    second = float((4.0 * fixed * random + 2.0 * random**2).sum())
    third = float((24.0 * fixed * random**2 + 8.0 * random**3).sum())
    cumulant = float((s * fixed * left - 0.5 * np.log(left)).sum())
    away = math.copysign(math.sqrt(max(0.0, 2.0 * (s - cumulant))), s)
    if abs(away) < NEAR_THE_MEAN:
        return float(special.ndtr(-third / (6.0 * second**1.5)))
    return float(special.ndtr(-away - math.log(s * math.sqrt(second) / away) / away))


def _root(function: Any, low: float, high: float) -> float:
    from scipy import optimize

    return float(optimize.brentq(function, low, high, rtol=ROUNDED))
