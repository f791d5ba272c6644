"""Bars of a gradient: exact against estimated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy.special
from matplotlib.axes import Axes

from tabular_bilevel._base.arguments import as_real
from tabular_bilevel.plots import style
from tabular_bilevel.plots.given import as_numbers, as_sizes

# More bars than this are no longer told apart in a column.
MOST_BARS = 16


def gradient_bars(
    exact: npt.ArrayLike,
    mean: npt.ArrayLike,
    standard_error: npt.ArrayLike | None = None,
    *,
    confidence: float = 0.99,
    names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw bars of the exact gradient, and beside each an estimator's mean with its interval.

    Parameters
    ----------
    exact, mean : array_like, shape (d,)
        The exact gradient, and the mean of estimates: `target` and `mean` of an `EstimatorReport`.
    standard_error : array_like, shape (d,), optional
        Of the mean; the intervals are so many of them wide that each coordinate's has the stated
        confidence for normal noise.
    confidence : float
        Of each interval alone, in (0, 1).
    names : sequence of str, length d, optional
        Of the parameters; their numbers by default.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on new axes.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.

    Raises
    ------
    ValueError
        If shapes differ, a number is not finite, a standard error is below 0, or there are more
        than 16 parameters: pick some.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> problem = tb.problems.two_state()
    >>> method = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(50)))
    >>> report = tb.check_estimator(method, problem, [0.0, 0.0], rng=0)
    >>> ax = tb.plots.gradient_bars(report.target, report.mean, report.standard_error)
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['exact', 'mean of estimates, 99% interval']
    """
    truth = as_numbers("exact", exact, (None,))
    n = truth.size
    if n > MOST_BARS:
        raise ValueError(f"exact has {n} entries; at most {MOST_BARS} are told apart: pick some")
    found = as_numbers("mean", mean, (n,))
    level = as_real("confidence", confidence)
    if not 0.0 < level < 1.0:
        raise ValueError(f"confidence is {level}, not between 0 and 1")
    half, label = None, "mean of estimates"
    if standard_error is not None:
        error = as_sizes("standard_error", standard_error, (n,))
        half = scipy.special.ndtri((1.0 + level) / 2.0) * error
        label += f", {100.0 * level:g}% interval"
    if names is not None and len(names) != n:
        raise ValueError(f"names has {len(names)} entries, not {n}")
    ax = style.axes(ax)
    place = np.arange(n)
    ax.bar(place - 0.2, truth, 0.38, color=style.BLUE, edgecolor=style.DARK, lw=0.6, label="exact")
    ax.bar(
        place + 0.2,
        found,
        0.38,
        yerr=half,
        color=style.ORANGE,
        edgecolor=style.DARK,
        lw=0.6,
        capsize=2.5,
        error_kw={"elinewidth": 1.0, "ecolor": style.DARK},
        label=label,
    )
    ax.axhline(0.0, color=style.DARK, lw=0.6)
    ax.set_xticks(place, [str(i) for i in place] if names is None else names)
    style.finish(ax, "parameter", "derivative of J")
    style.legend(ax, 1)
    return ax
