"""How all pictures look: sizes, colours that the colour-blind and a grey printer tell apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize, to_rgb
from matplotlib.figure import Figure

from tabular_bilevel._base.arrays import FloatArray
from tabular_bilevel._base.colours import BLUE, CURVES, ORANGE

__all__ = [
    "BLUE", "COLUMN", "CYCLE", "DARK", "DIVERGING", "FONT", "ORANGE", "WALL", "Scale", "axes",
    "finish", "legend", "lightness", "ranged", "sign", "signed", "writing_on",
]  # fmt: skip

# A column's width in inches (90 mm), and the size of all text in points.
COLUMN, FONT = 90.0 / 25.4, 8.0

DARK, WALL = "#000000", "#262626"

CYCLE: tuple[dict[str, Any], ...] = tuple(
    {"color": colour, "linestyle": (0, dashes) if dashes else "-"} for colour, dashes in CURVES
)

DIVERGING = LinearSegmentedColormap.from_list("below_and_above", [ORANGE, "#FFFFFF", BLUE])
ONE_HUE = LinearSegmentedColormap.from_list("more", ["#FFFFFF", "#56B4E9", BLUE])

#: Numbers to the colours that they span, and how these lie on them.
Scale = Callable[[FloatArray], tuple[Colormap, Normalize]]

# A number below this share of the largest is drawn without a sign.
TINY = 0.02


def axes(ax: Axes | None, height: float = 2.4) -> Axes:
    """Take the axes that are given, or make some in a new figure of this height in inches."""
    if ax is None:
        figure = Figure(figsize=(COLUMN, height), layout="compressed")
        ax = figure.add_subplot()
    if not isinstance(ax, Axes):
        raise ValueError(f"ax is {ax!r}, not matplotlib axes")
    return ax


def finish(ax: Axes, x: str, y: str) -> Axes:
    """Label the axes, in the size of all text."""
    ax.set_xlabel(x, fontsize=FONT)
    ax.set_ylabel(y, fontsize=FONT)
    ax.tick_params(labelsize=FONT, which="both")
    for axis in (ax.xaxis, ax.yaxis):
        axis.get_offset_text().set_fontsize(FONT)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def legend(ax: Axes, columns: int = 2) -> None:
    """Put a legend above the axes, where it hides nothing; what is there twice is told once."""
    told = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    ax.legend(
        told.values(),
        told.keys(),
        frameon=False,
        fontsize=FONT,
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=columns,
        borderaxespad=0.2,
        handletextpad=0.5,
        columnspacing=1.2,
    )


def signed(numbers: FloatArray) -> tuple[Colormap, Normalize]:
    """Colours around 0: orange below, white at 0, blue above.

    Parameters
    ----------
    numbers : ndarray
        Numbers that are drawn; the largest of their sizes has the full colour.

    Returns
    -------
    colours : matplotlib.colors.Colormap
        The colours.
    places : matplotlib.colors.Normalize
        Where each number is on them.

    Examples
    --------
    >>> import numpy as np
    >>> import tabular_bilevel as tb
    >>> colours, places = tb.plots.signed(np.array([-1.0, 0.0, 4.0]))
    >>> [float(places(number)) for number in (-4.0, 0.0, 4.0)]
    [0.0, 0.5, 1.0]
    """
    largest = float(np.abs(numbers).max(initial=0.0)) or 1.0
    return DIVERGING, Normalize(-largest, largest)


def ranged(numbers: FloatArray) -> tuple[Colormap, Normalize]:
    """Colours of one hue, from white for the least number to blue for the largest.

    Parameters
    ----------
    numbers : ndarray
        Numbers that are drawn; at least one.

    Returns
    -------
    colours : matplotlib.colors.Colormap
        The colours.
    places : matplotlib.colors.Normalize
        Where each number is on them.

    Examples
    --------
    >>> import numpy as np
    >>> import tabular_bilevel as tb
    >>> colours, places = tb.plots.ranged(np.array([3.0, 5.0]))
    >>> [float(places(number)) for number in (3.0, 4.0, 5.0)]
    [0.0, 0.5, 1.0]
    """
    low, high = float(numbers.min()), float(numbers.max())
    return ONE_HUE, Normalize(low, high if high > low else low + 1.0)


def sign(number: float, largest: float) -> str:
    """Write the sign of a number, unless it is tiny beside the largest: colours, for grey."""
    if abs(number) <= TINY * largest:
        return ""
    return "+" if number > 0.0 else "\u2212"


def lightness(colour: Any) -> float:
    """CIE lightness L* of a colour, from 0 (black) to 100 (white)."""
    channels = np.array(to_rgb(colour))
    linear = np.where(channels > 0.04045, ((channels + 0.055) / 1.055) ** 2.4, channels / 12.92)
    luminance = float(np.array([0.2126, 0.7152, 0.0722]) @ linear)
    return 116.0 * luminance ** (1 / 3) - 16.0 if luminance > 0.008856 else 903.3 * luminance


def writing_on(colour: Any) -> str:
    """Black or white, whichever reads better on a colour."""
    return "#000000" if lightness(colour) > 50.0 else "#FFFFFF"
