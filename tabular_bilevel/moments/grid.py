"""What a budget of steps buys, over settings of a problem."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.display import brief
from tabular_bilevel.moments.budget import (
    HORIZONS,
    ErrorCurve,
    aligned,
    cells,
    error_curve,
    overtaking,
)
from tabular_bilevel.problem import BilevelProblem

#: The setting that is not the problem's.
HORIZON = "horizon"


@dataclass(frozen=True, eq=False)
class ErrorGrid:
    """Errors of methods against the budget of steps, in each cell of a grid of settings.

    Attributes
    ----------
    settings : tuple of mapping
        Of each cell, from a setting's name to its value.
    curves : tuple of ErrorCurve
        Of each cell.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> over = {"temperature": [0.1, 1.0], "horizon": [5, 50]}
    >>> methods = {"BC-HG": tb.BoltzmannCovariance(), "naive": tb.NaivePolicyGradient()}
    >>> grid = tb.error_grid(tb.problems.two_state, over, methods, budgets=[1e2, 1e4])
    >>> print(grid)
    error relative to the gradient (cosine; best cut), each method in each cell
    temperature  horizon   steps                    BC-HG                   naive
    0.1                5     100    0.586 (0.81; 5 steps)    0.78 (0.75; 5 steps)
    0.1                5  10,000    0.305 (0.99; 5 steps)   0.777 (0.76; 5 steps)
    0.1               50     100    1.87 (0.47; 50 steps)  0.747 (0.67; 50 steps)
    0.1               50  10,000   0.187 (0.98; 50 steps)   0.71 (0.73; 50 steps)
    1.0                5     100     0.33 (0.98; 5 steps)   0.542 (0.98; 5 steps)
    1.0                5  10,000    0.288 (1.00; 5 steps)   0.536 (1.00; 5 steps)
    1.0               50     100   0.828 (0.77; 50 steps)  0.452 (0.92; 50 steps)
    1.0               50  10,000  0.0828 (1.00; 50 steps)  0.361 (0.99; 50 steps)
    temperature 0.1, horizon 50: BC-HG overtakes naive at 684 steps
    temperature 1.0, horizon 50: BC-HG overtakes naive at 471 steps
    >>> grid.labels[-1], grid.methods, grid.curves[-1].error.shape
    ('temperature 1.0, horizon 50', ('BC-HG', 'naive'), (2, 2))
    """

    settings: tuple[Mapping[str, Any], ...]
    curves: tuple[ErrorCurve, ...] = field(repr=False)

    @property
    def labels(self) -> tuple[str, ...]:
        """Each cell's settings, such as 'temperature 0.1, horizon 50'."""
        return tuple(
            ", ".join(f"{name} {value}" for name, value in cell.items()) for cell in self.settings
        )

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods of any cell."""
        return tuple(dict.fromkeys(itertools.chain(*(curve.methods for curve in self.curves))))

    def __str__(self) -> str:
        rows, crossings = [(*self.settings[0], "steps", *self.methods)], []
        for cell, label, curve in zip(self.settings, self.labels, self.curves, strict=True):
            told = dict(zip(curve.methods, cells(curve), strict=True))
            for k, budget in enumerate(curve.budgets):
                of_methods = (told[name][k] if name in told else "-" for name in self.methods)
                rows.append((*map(str, cell.values()), f"{budget:,.0f}", *of_methods))
            crossings += [f"{label}: {line}" for line in overtaking(curve)]
        title = "error relative to the gradient (cosine; best cut), each method in each cell"
        return "\n".join((title, *aligned(rows), *crossings))


def error_grid(
    make: Callable[..., BilevelProblem],
    over: Mapping[str, Iterable[Any]],
    methods: Mapping[str, Any] | None = None,
    budgets: Sequence[float] = (1e3, 1e4, 1e5),
    *,
    theta: npt.ArrayLike | Callable[[BilevelProblem], npt.ArrayLike] | None = None,
    progress: bool = False,
) -> ErrorGrid:
    """Compute an `error_curve` in each cell of a grid: of temperatures, discounts, horizons, ...

    Parameters
    ----------
    make : callable
        Makes the problem of settings, given by their names, such as `problems.garnet`.
    over : mapping of str to iterable
        Names of settings, and their values: such as temperature, leader_discount or n_parameters,
        whatever `make` takes. With horizon trajectories are cut as it says, where otherwise each
        budget takes the best cut.
    methods : mapping of str to Estimator, optional
        As of `error_curve`.
    budgets : sequence of float
        Steps in all.
    theta : array_like, shape (d,), or callable, optional
        The leader's parameter, or what makes it of the problem; by default 0.
    progress : bool
        Show a bar for each cell.

    Returns
    -------
    ErrorGrid
        A curve for each choice of a value of each setting; the last one changes first.

    Raises
    ------
    ValueError
        If there is no setting, or one without values, or `make` does not take one; and as
        `error_curve`.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> method = {"BC-HG": tb.BoltzmannCovariance()}
    >>> over = {"n_parameters": [2, 20], "leader_discount": [0.8]}
    >>> print(tb.error_grid(tb.problems.garnet, over, method, budgets=[1e4, 1e6]))
    error relative to the gradient (cosine; best cut), each method in each cell
    n_parameters  leader_discount      steps                    BC-HG
    2                         0.8     10,000   0.171 (0.99; 10 steps)
    2                         0.8  1,000,000  0.0229 (1.00; 20 steps)
    20                        0.8     10,000   0.158 (0.99; 10 steps)
    20                        0.8  1,000,000  0.0219 (1.00; 20 steps)
    """
    if not isinstance(over, Mapping) or not over:
        raise ValueError(f"over is {brief(over)}, not a mapping from settings to their values")
    axes = {name: list(_values(name, values)) for name, values in over.items()}
    settings, curves = [], []
    for values in itertools.product(*axes.values()):
        cell = dict(zip(axes, values, strict=True))
        problem = _made(make, {name: cell[name] for name in cell if name != HORIZON})
        at = theta(problem) if callable(theta) else theta
        if at is None:
            if not hasattr(problem, "n_parameters"):
                raise ValueError("theta is None, and the problem has no n_parameters")
            at = np.zeros(problem.n_parameters)
        cuts = (cell[HORIZON],) if HORIZON in cell else HORIZONS
        settings.append(cell)
        curves.append(error_curve(problem, at, methods, budgets, horizons=cuts, progress=progress))
    return ErrorGrid(tuple(settings), tuple(curves))


def _values(name: str, values: Iterable[Any]) -> Iterable[Any]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(f"over[{name!r}] is {brief(values)}, not a sequence of values")
    found = list(values)
    if not found:
        raise ValueError(f"over[{name!r}] has no values")
    return found


def _made(make: Callable[..., BilevelProblem], settings: Mapping[str, Any]) -> BilevelProblem:
    if not callable(make):
        raise ValueError(f"make is {brief(make)}, which cannot be called with settings")
    try:
        inspect.signature(make).bind(**settings)
    except TypeError as error:
        name = getattr(make, "__name__", "make")
        raise ValueError(f"{name} is not made of these settings: {error}") from error
    return make(**settings)
