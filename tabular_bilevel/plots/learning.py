"""Learning curves: the objective along ascents, over seeds."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tabular_bilevel._base.files import write_file
from tabular_bilevel.ascent.training import Curve
from tabular_bilevel.plots import style
from tabular_bilevel.plots.given import as_numbers


def curves(
    curves: Mapping[str, Sequence[Curve]],
    *,
    published: Mapping[str, float] | None = None,
    best: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the mean objective over seeds, with a band of one standard error.

    Parameters
    ----------
    curves : mapping of str to sequence of Curve
        By the label that the legend shows; the curves of a label have the same iterations.
    published : mapping of str to float, optional
        Values that a paper gives: a triangle at the right edge in the colour of the curve of that
        label, or in black.
    best : float, optional
        The best objective known, a line.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on new axes.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.

    Raises
    ------
    ValueError
        If there are no curves under a label, they differ in their iterations, or a value is not
        finite.

    Examples
    --------
    >>> import numpy as np
    >>> import tabular_bilevel as tb
    >>> from tabular_bilevel.ascent.training import Curve
    >>> made = Curve(np.array([0, 10]), np.array([0.1, 0.4]), np.zeros(2))
    >>> ax = tb.plots.curves({"BC-HG": [made]}, published={"BC-HG": 0.45}, best=0.5)
    >>> ax.lines[0].get_ydata()
    array([0.1, 0.4])
    """
    for label, group in curves.items():
        if not group:
            raise ValueError(f"curves[{label!r}] is empty")
        if any(not np.array_equal(curve.iteration, group[0].iteration) for curve in group):
            raise ValueError(f"curves[{label!r}] differ in their iterations")
        for i, curve in enumerate(group):
            as_numbers(f"curves[{label!r}][{i}].objective", curve.objective, (None,))
    told = {
        label: float(as_numbers(f"published[{label!r}]", value, ()))
        for label, value in (published or {}).items()
    }
    top = None if best is None else float(as_numbers("best", best, ()))
    ax = style.axes(ax, 2.6)
    colour = {}
    for i, (label, group) in enumerate(curves.items()):
        objectives = np.array([curve.objective for curve in group])
        mean, iteration = objectives.mean(axis=0), group[0].iteration
        look = style.CYCLE[i % len(style.CYCLE)]
        ax.plot(iteration, mean, label=label, lw=1.4, **look)
        colour[label] = look["color"]
        if len(group) > 1:
            error = objectives.std(axis=0, ddof=1) / np.sqrt(len(group))
            ax.fill_between(
                iteration, mean - error, mean + error, color=look["color"], alpha=0.25, lw=0
            )
    if top is not None:
        ax.axhline(top, color=style.DARK, ls=(0, (1, 1)), lw=1.0, label="best known")
    ax.margins(x=0.01)
    for label, value in told.items():
        ax.plot(
            [1.0],
            [value],
            marker="<",
            ms=6,
            ls="",
            color=colour.get(label, style.DARK),
            mec=style.DARK,
            clip_on=False,
            transform=ax.get_yaxis_transform(),
            label="_published",
        )
    style.finish(ax, "iteration", "leader's objective J")
    if told:
        ax.plot([], [], marker="<", ls="", color="#FFFFFF", mec=style.DARK, label="published")
    style.legend(ax)
    return ax


def save_curves(
    path: Path,
    curves_by_label: Mapping[str, Sequence[Curve]],
    *,
    title: str = "",
    published: Mapping[str, float] | None = None,
    best: float | None = None,
) -> None:
    """Draw `curves` into a PNG file, written whole or not at all.

    Parameters
    ----------
    path : Path
        The file.
    curves_by_label : mapping of str to sequence of Curve
        As for `curves`.
    title : str
        Above the picture.
    published, best
        As for `curves`.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import tabular_bilevel as tb
    >>> from tabular_bilevel.ascent.training import Curve
    >>> made = Curve(np.array([0, 10]), np.array([0.1, 0.4]), np.zeros(2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tb.plots.save_curves(Path(folder) / "curves.png", {"BC-HG": [made]})
    ...     (Path(folder) / "curves.png").read_bytes()[1:4]
    b'PNG'
    """
    figure = Figure(figsize=(6.0, 3.7), layout="constrained")
    curves(curves_by_label, published=published, best=best, ax=figure.add_subplot())
    figure.suptitle(title, fontsize=style.FONT + 2.0)  # above the legend
    picture = io.BytesIO()
    figure.savefig(picture, dpi=160, format="png")
    write_file(path, picture.getvalue())
