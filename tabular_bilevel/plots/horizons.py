"""What it costs to look no further than some steps ahead."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from tabular_bilevel._base.arguments import as_discount
from tabular_bilevel.plots import style
from tabular_bilevel.plots.given import as_numbers, as_sizes


def bias_and_variance(
    horizons: npt.ArrayLike,
    bias: npt.ArrayLike,
    variance: npt.ArrayLike,
    *,
    discount: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw an estimator's bias and the standard deviation of one estimate by its horizon.

    Both are lengths in units of the gradient: the norm of the bias, and the square root of the
    variance. The axis is logarithmic; a bias of 0 is not on it, and is marked at its foot.

    Parameters
    ----------
    horizons : array_like, shape (n,)
        Steps after which trajectories are cut; positive and increasing.
    bias : array_like, shape (n,)
        Norm of the expectation minus the exact gradient.
    variance : array_like, shape (n,)
        Of one estimate, summed over parameters: the trace of its covariance.
    discount : float, optional
        Draw a line that falls by this factor a step, from the first bias.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on new axes.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.

    Raises
    ------
    ValueError
        If lengths differ, a number is negative or not finite, or horizons do not increase.

    Examples
    --------
    >>> import numpy as np
    >>> import tabular_bilevel as tb
    >>> problem, theta = tb.problems.two_state(), [0.0, 0.0]
    >>> exact = tb.hypergradient(problem, theta).gradient
    >>> horizons, bias, variance = [1, 2, 4, 6], [], []
    >>> for steps in horizons:
    ...     method = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(1, steps)))
    ...     report = tb.check_by_enumeration(method, problem, theta, horizon=steps)
    ...     bias.append(np.linalg.norm(report.expectation - exact))
    ...     variance.append(report.covariance.trace())
    >>> ax = tb.plots.bias_and_variance(horizons, bias, variance)
    >>> ax.get_xlabel()
    'horizon in steps'
    """
    steps = as_numbers("horizons", horizons, (None,))
    if steps[0] <= 0.0 or (np.diff(steps) <= 0.0).any():
        i = 0 if steps[0] <= 0.0 else int(np.argmax(np.diff(steps) <= 0.0)) + 1
        raise ValueError(f"horizons[{i}] is {steps[i]:g}; they are positive and increase")
    off, spread = (
        as_sizes(name, numbers, (steps.size,))
        for name, numbers in (("bias", bias), ("variance", variance))
    )
    factor = None if discount is None else as_discount("discount", discount)
    ax = style.axes(ax)
    ax.set_yscale("log")
    for numbers, marker, colour, label in (
        (off, "o", style.DARK, "bias"),
        (np.sqrt(spread), "s", style.ORANGE, "standard deviation of one estimate"),
    ):
        seen = numbers > 0.0
        ax.plot(steps[seen], numbers[seen], color=colour, marker=marker, ms=4, lw=1.2, label=label)
        if not seen.all():
            ax.plot(  # in the axes' own units: at the foot
                steps[~seen],
                np.zeros((~seen).sum()),
                color=colour,
                marker=marker,
                mfc="none",
                ls="",
                clip_on=False,
                transform=ax.get_xaxis_transform(),
                label="_exactly 0",
            )
    if factor and off[0] > 0.0:
        ax.plot(
            steps,
            off[0] * factor ** (steps - steps[0]),
            color=style.BLUE,
            ls="--",
            lw=1.2,
            label=f"falls by {factor:.3g} a step",
        )
    style.finish(ax, "horizon in steps", "in units of the gradient")
    style.legend(ax, 1)
    return ax
