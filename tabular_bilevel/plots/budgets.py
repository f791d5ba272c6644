"""What a budget of steps buys."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tabular_bilevel.moments.budget import ErrorCurve
from tabular_bilevel.moments.grid import ErrorGrid
from tabular_bilevel.plots import style

# Points of a curve between the smallest budget and the largest.
POINTS = 100


def error_curves(curve: ErrorCurve, *, ax: Axes | None = None) -> Axes:
    """Draw the errors of methods against the budget of steps, both on logarithmic axes.

    Each budget has the best of a method's cuts, so that curves have corners where that changes. A
    line at 1 is the error of a gradient of 0.

    Parameters
    ----------
    curve : ErrorCurve
        What `tabular_bilevel.error_curve` found; two budgets at least.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on new axes.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.

    Raises
    ------
    ValueError
        If there is one budget only.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> curve = tb.error_curve(tb.problems.bandit(), [0.0, 0.3], budgets=[1e2, 1e4])
    >>> ax = tb.plots.error_curves(curve)
    >>> ax.get_xlabel(), len(ax.get_lines()) - 1 == len(curve.methods)
    ('steps in all', True)
    """
    ax = _drawn(style.axes(ax), curve, curve.methods)
    style.finish(ax, "steps in all", "error, relative to the gradient")
    style.legend(ax)
    return ax


def _drawn(ax: Axes, curve: ErrorCurve, methods: Sequence[str]) -> Axes:
    """Draw a curve, its methods in the colours that they have among others."""
    low, high = curve.budgets.min(), curve.budgets.max()
    if not high > low:
        raise ValueError(f"budgets are all {low:g}: a curve takes two")
    ax.set_xscale("log")
    ax.set_yscale("log")
    budgets = np.geomspace(low, high, POINTS)
    for name, look in zip(methods, itertools.cycle(style.CYCLE), strict=False):
        if name in curve.methods:
            errors = np.array([curve.error_at(name, budget) for budget in budgets])
            seen = np.isfinite(errors)
            ax.plot(budgets[seen], errors[seen], lw=1.2, label=name, **look)
    ax.axhline(1.0, color=style.WALL, lw=0.5)
    return ax


def error_grid(grid: ErrorGrid) -> Axes:
    """Draw the `error_curves` of each cell, all on one scale: rows are of the first setting.

    Parameters
    ----------
    grid : ErrorGrid
        What `tabular_bilevel.error_grid` found; two budgets at least.

    Returns
    -------
    matplotlib.axes.Axes
        Of the first cell, in a new figure that has all.

    Raises
    ------
    ValueError
        If there is one budget only.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> over = {"temperature": [0.2, 1.0], "leader_discount": [0.8, 0.9]}
    >>> method = {"BC-HG": tb.BoltzmannCovariance()}
    >>> grid = tb.error_grid(tb.problems.two_state, over, method, budgets=[1e2, 1e4])
    >>> len(tb.plots.error_grid(grid).figure.axes)
    4
    """
    first = next(iter(grid.settings[0]))
    n_rows = len({cell[first] for cell in grid.settings}) if len(grid.settings[0]) > 1 else 1
    n_columns, methods = len(grid.curves) // n_rows, grid.methods
    size = max(style.COLUMN, 0.8 * n_columns * style.COLUMN), 2.4 * n_rows
    axes = Figure(figsize=size, layout="compressed").subplots(
        n_rows, n_columns, sharex=True, sharey=True, squeeze=False
    )
    for ax, label, curve in zip(axes.flat, grid.labels, grid.curves, strict=True):
        style.finish(_drawn(ax, curve, methods), "steps in all", "relative error")
        ax.text(0.03, 0.03, label, transform=ax.transAxes, fontsize=style.FONT)
        ax.label_outer()
    style.legend(max(axes.flat, key=lambda ax: len(ax.get_lines())))  # where all are
    found: Axes = axes[0, 0]
    return found
