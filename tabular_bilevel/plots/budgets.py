"""What a budget of steps buys."""

from __future__ import annotations

import itertools

import numpy as np
from matplotlib.axes import Axes

from tabular_bilevel.moments.budget import ErrorCurve
from tabular_bilevel.plots import style

__all__ = ["error_curves"]

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
    >>> curve = tb.error_curve(tb.problems.two_state(), [0.2, -0.3], budgets=[1e2, 1e4])
    >>> ax = tb.plots.error_curves(curve)
    >>> ax.get_xlabel(), len(ax.get_lines()) - 1 == len(curve.methods)
    ('steps in all', True)
    """
    low, high = curve.budgets.min(), curve.budgets.max()
    if not high > low:
        raise ValueError(f"budgets are all {low:g}: a curve takes two")
    ax = style.axes(ax)
    ax.set_xscale("log")
    ax.set_yscale("log")
    budgets = np.geomspace(low, high, POINTS)
    for name, look in zip(curve.methods, itertools.cycle(style.CYCLE), strict=False):
        errors = np.array([curve.error_at(name, budget) for budget in budgets])
        seen = np.isfinite(errors)
        ax.plot(budgets[seen], errors[seen], lw=1.2, label=name, **look)
    ax.axhline(1.0, color=style.WALL, lw=0.5)
    style.finish(ax, "steps in all", "error, relative to the gradient")
    style.legend(ax)
    return ax
