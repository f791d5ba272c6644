"""The objective along a line and on a plane of theta, its gradients, and ascents as paths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from tabular_bilevel._base.arguments import (
    as_finite,
    as_real,
    as_theta,
    entry,
    first,
    positive_integer,
)
from tabular_bilevel._base.arrays import FloatArray, read_only, restore_read_only
from tabular_bilevel.certify.accuracy import Estimated
from tabular_bilevel.exact.hypergradient import hypergradient, objective
from tabular_bilevel.plots import style
from tabular_bilevel.plots.given import as_numbers
from tabular_bilevel.problem import AnyProblem

# What the legends call the two gradients.
TOTAL, FROZEN = "gradient", "follower held fixed"

# Marks what `line` has drawn on axes before.
CURVE = "curve"

# A direction of 0 has no length to divide by.
TINY = float(np.finfo(float).tiny)

# A side of a plane, which is divided by.
SHORTEST = 1e-100

# Directions whose angle has a smaller sine span no plane.
SMALLEST_SINE = 1e-6


def line(
    problem: AnyProblem,
    theta: npt.ArrayLike,
    direction: npt.ArrayLike,
    *,
    steps: npt.ArrayLike | None = None,
    horizon: int | None = None,
    label: str = "J",
    tangent_length: float = 0.25,
    ax: Axes | None = None,
) -> Axes:
    """Draw J along a line of theta, the best point seen, and both slopes at theta.

    The solid tangent has the slope of the exact gradient; the dashed one that of its direct part,
    with the follower's policy held fixed.

    Parameters
    ----------
    problem : BilevelProblem
        The leader's problem.
    theta, direction : array_like, shape (d,)
        J is drawn at theta + step * direction.
    steps : array_like, shape (n,), optional
        Increasing; by default 81 from -1 to 1.
    horizon : int, optional
        Count the leader's rewards of this many steps only.
    label : str
        What the legend calls the curve; of the second curve on the same axes, say.
    tangent_length : float
        Of each tangent, as a share of the line's length; 0 for no tangents.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on new axes.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.

    Raises
    ------
    ValueError
        If shapes do not fit, the direction is 0, steps do not increase, or J or its gradient cannot
        be computed on the way.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> ax = tb.plots.line(tb.problems.bandit(), [0.0, 0.0], [0.0, 1.0])
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['J', 'gradient', 'follower held fixed', 'best seen']
    """
    origin = as_theta(theta)
    along = as_theta(direction, origin.size, name="direction")
    along = as_numbers("direction", along, (origin.size,))
    if not along.any():
        raise ValueError("direction is 0, so there is no line")
    where = np.linspace(-1.0, 1.0, 81) if steps is None else as_numbers("steps", steps, (None,))
    if where.size < 2 or (np.diff(where) <= 0.0).any():
        i = int(np.argmax(np.diff(where) <= 0.0)) + 1 if where.size > 1 else 0
        raise ValueError(f"steps[{i}] is {where[i]:g}; at least two are needed, and they increase")
    length = as_real("tangent_length", tangent_length)
    if not 0.0 <= length <= 1.0:
        raise ValueError(f"tangent_length is {length}, not in [0, 1]")
    values = [objective(problem, origin + t * along, horizon=horizon) for t in where]
    heights = as_numbers("J along the line", values, where.shape)
    found = hypergradient(problem, origin, horizon=horizon, accuracy=Estimated())
    reach = length * (where[-1] - where[0]) * np.array([-0.5, 0.5])
    reach = np.clip(reach, min(where[0], 0.0), max(where[-1], 0.0))
    tangents = [
        as_numbers("J on the tangent", found.objective + float(slopes @ along) * reach, (2,))
        for slopes in (found.gradient, found.direct)
    ]
    ax = style.axes(ax)
    before = sum(drawn.get_gid() == CURVE for drawn in ax.get_lines())
    look = style.CYCLE[before % len(style.CYCLE)]
    ax.plot(where, heights, lw=1.4, label=label, gid=CURVE, **look)
    if length > 0.0:
        ax.plot(reach, tangents[0], color=style.BLUE, lw=2.2, label=TOTAL)
        ax.plot(reach, tangents[1], color=style.ORANGE, lw=2.2, ls="--", label=FROZEN)
        ax.plot([0.0], [found.objective], marker="o", ms=4, color=style.DARK, label="_theta")
    top = int(np.argmax(heights))
    ax.plot(
        [where[top]],
        [heights[top]],
        marker="*",
        ms=8,
        ls="",
        color=look["color"],
        mec=style.DARK,
        mew=0.5,
        zorder=4,
        label="best seen",
    )
    style.finish(ax, "step along the direction", "leader's objective J")
    ax.locator_params(axis="x", nbins=6)  # numbers below zero are wide
    style.legend(ax)
    return ax


@dataclass(frozen=True, eq=False)
class Plane:
    """A plane of theta: origin + x * first + y * second.

    Attributes
    ----------
    origin, first, second : array_like, shape (d,)
        A point, and two directions that are not parallel.

    Raises
    ------
    ValueError
        On construction, if a vector is not finite, lengths differ, or the directions are parallel.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> where = tb.plots.Plane([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 2.0])
    >>> where.coordinates([[1.0, 3.0, 4.0]])
    array([[3., 2.]])

    >>> through = tb.plots.Plane.through([1.0, 1.0], right=[3.0, 1.0], above=[1.0, 5.0])
    >>> through.point(1.0, 0.0), through.point(0.0, 1.0)
    (array([3., 1.]), array([1., 5.]))
    """

    origin: FloatArray
    first: FloatArray
    second: FloatArray

    __setstate__ = restore_read_only

    def __post_init__(self) -> None:
        size = as_theta(self.origin, name="origin").size
        for name in ("origin", "first", "second"):
            vector = as_numbers(name, as_theta(getattr(self, name), size, name=name), (size,))
            object.__setattr__(self, name, read_only(vector))
        sizes = np.linalg.svd(self._units(), compute_uv=False)
        if not sizes.size == 2 or not sizes[1] > SMALLEST_SINE * sizes[0]:
            raise ValueError("first and second are parallel or 0, so they span no plane")

    def _units(self) -> FloatArray:
        """Both directions, each of length 1, or 0, as columns."""
        columns = np.column_stack([self.first, self.second])
        return np.asarray(columns / np.maximum(np.linalg.norm(columns, axis=0), TINY))

    @classmethod
    def through(cls, origin: npt.ArrayLike, right: npt.ArrayLike, above: npt.ArrayLike) -> Plane:
        """Lay a plane through three points: they have the coordinates (0, 0), (1, 0), (0, 1).

        Parameters
        ----------
        origin, right, above : array_like, shape (d,)
            The points.

        Returns
        -------
        Plane
            The plane.

        Raises
        ------
        ValueError
            As of the class: if the points are on one line.
        """
        start = as_theta(origin, name="origin")
        points = (("right", right), ("above", above))
        ends = [as_theta(point, start.size, name=name) for name, point in points]
        return cls(start, ends[0] - start, ends[1] - start)

    def point(self, x: float, y: float) -> FloatArray:
        """Give theta at the coordinates (x, y).

        Parameters
        ----------
        x, y : float
            Coordinates.

        Returns
        -------
        ndarray, shape (d,)
            Theta there.

        Raises
        ------
        ValueError
            If a coordinate is no finite number.
        """
        return self.origin + as_finite("x", x) * self.first + as_finite("y", y) * self.second

    def coordinates(self, thetas: npt.ArrayLike) -> FloatArray:
        """Give the coordinates of the plane's nearest point to each theta.

        Parameters
        ----------
        thetas : array_like, shape (n, d)
            Points, on the plane or off it.

        Returns
        -------
        ndarray, shape (n, 2)
            Coordinates of the nearest points of the plane.

        Raises
        ------
        ValueError
            If thetas has the wrong shape or holds a value that is not finite.
        """
        points = as_numbers("thetas", thetas, (None, self.origin.size))
        axes = np.column_stack([self.first, self.second])
        found = np.linalg.lstsq(axes, (points - self.origin).T, rcond=None)[0]
        return np.asarray(found.T)


def plane(
    problem: AnyProblem,
    where: Plane,
    *,
    reach: float | tuple[tuple[float, float], tuple[float, float]] = 1.0,
    n_points: int = 25,
    horizon: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw J on a plane of theta as a map of heights, darker for less, and both gradients.

    Each arrow is the way of steepest ascent within the coordinates of the plane: white for the
    gradient, orange for its direct part, with the follower's policy held fixed. The longer one
    has a fifth of the plane's width.

    Parameters
    ----------
    problem : BilevelProblem
        The leader's problem.
    where : Plane
        Its origin is where the gradients are drawn.
    reach : float or ((low, high), (low, high))
        Of both coordinates, -reach to reach; or the ends of each.
    n_points : int
        Along each side: J is computed at their square; at least 2.
    horizon : int, optional
        Count the leader's rewards of this many steps only.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on new axes.

    Returns
    -------
    matplotlib.axes.Axes
        The axes; the colour bar takes its room from them.

    Raises
    ------
    ValueError
        If the plane does not fit the problem, or a reach is not positive.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> where = tb.plots.Plane([0.0, 0.0], [1.0, 0.0], [0.0, 1.0])
    >>> ax = tb.plots.plane(tb.problems.two_state(), where, n_points=5)
    >>> ax = tb.plots.path([[0.0, 0.0], [0.2, 0.3], [0.3, 0.5]], where, ax=ax)
    """
    if not isinstance(where, Plane):
        raise ValueError(f"where is {where!r}, not a Plane")
    ends = _ends(reach)
    n = positive_integer("n_points", n_points)
    if n < 2:
        raise ValueError(f"n_points is {n}; at least 2 are needed")
    xs, ys = (np.linspace(low, high, n) for low, high in ends)
    heights = as_numbers(
        "J on the plane",
        [[objective(problem, where.point(x, y), horizon=horizon) for x in xs] for y in ys],
        (n, n),
    )
    found = hypergradient(problem, where.origin, horizon=horizon, accuracy=Estimated())
    ax = style.axes(ax, 2.8)
    levels = _levels(heights)
    drawn = ax.contourf(xs, ys, heights, levels=levels, cmap="cividis")
    ax.contour(xs, ys, heights, levels=levels, colors="#FFFFFF", linewidths=0.4)
    bar = ax.figure.colorbar(drawn, ax=ax, pad=0.03)
    bar.set_label("leader's objective J", fontsize=style.FONT)
    bar.ax.tick_params(labelsize=style.FONT)
    bar.ax.yaxis.get_offset_text().set_fontsize(style.FONT)
    sides = np.array([xs[-1] - xs[0], ys[-1] - ys[0]])
    slopes = {
        name: np.array([gradient @ where.first, gradient @ where.second])
        for name, gradient in ((TOTAL, found.gradient), (FROZEN, found.direct))
    }
    longest = max(float(np.linalg.norm(slope / sides)) for slope in slopes.values())
    for name, slope in slopes.items():
        if longest > 0.0:
            _arrow(ax, 0.2 * slope / longest, name)
    ax.plot([0.0], [0.0], marker="o", ms=4, color="#FFFFFF", mec=style.DARK, label="_origin")
    style.finish(ax, "first direction", "second direction")
    style.legend(ax)
    return ax


def _ends(reach: Any) -> tuple[tuple[float, float], ...]:
    """Read the ends of both coordinates."""
    if np.ndim(reach) == 0:
        half = float(as_numbers("reach", reach, ()))
        if not half > SHORTEST:
            raise ValueError(f"reach is {half}, not above {SHORTEST:g}")
        return ((-half, half),) * 2
    ends = as_numbers("reach", reach, (2, 2))
    bad = ~(ends[:, 1] - ends[:, 0] > SHORTEST)
    if bad.any():
        index = first(bad)
        low, high = ends[index]
        raise ValueError(f"{entry('reach', index)} is ({low:g}, {high:g}), which does not increase")
    return tuple((float(low), float(high)) for low, high in ends)


def _levels(heights: FloatArray) -> FloatArray:
    low, high = float(heights.min()), float(heights.max())
    if not high > low:
        low, high = low - 1.0, high + 1.0
    return np.asarray(MaxNLocator(10).tick_values(low, high))


def _arrow(ax: Axes, tip: FloatArray, name: str) -> None:
    """Draw an arrow from the origin, and tell the legend."""
    face = {TOTAL: "#FFFFFF", FROZEN: style.ORANGE}[name]
    ax.annotate(
        "",
        tuple(tip),
        (0.0, 0.0),
        arrowprops={
            "arrowstyle": "simple,head_width=0.7,head_length=0.7,tail_width=0.22",
            "facecolor": face,
            "edgecolor": style.DARK,
            "linewidth": 0.8,
            "shrinkA": 0,
            "shrinkB": 0,
        },
    )
    ax.plot([], [], marker=">", ms=6, ls="", color=face, mec=style.DARK, label=name)


def path(
    thetas: npt.ArrayLike, where: Plane, *, label: str = "ascent", ax: Axes | None = None
) -> Axes:
    """Draw an ascent as a path on a plane of theta, from a dot to a star.

    Parameters
    ----------
    thetas : array_like, shape (n, d)
        Where it went, such as ``[step.theta for step in tb.ascend(...)]``. What is off the plane is
        drawn at the nearest point of it.
    where : Plane
        The plane.
    label : str
        What the legend calls the path.
    ax : matplotlib.axes.Axes, optional
        Where to draw, such as the axes of `plane`; by default on new axes.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.

    Raises
    ------
    ValueError
        If thetas do not fit the plane.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> climb = [[0.0, 0.0], [1.0, 0.5], [1.5, 2.0]]
    >>> ax = tb.plots.path(climb, tb.plots.Plane([0.0, 0.0], [1.0, 0.0], [0.0, 1.0]))
    >>> ax.lines[0].get_xdata(), ax.lines[0].get_ydata()
    (array([0. , 1. , 1.5]), array([0. , 0.5, 2. ]))
    """
    if not isinstance(where, Plane):
        raise ValueError(f"where is {where!r}, not a Plane")
    x, y = where.coordinates(thetas).T
    ax = style.axes(ax, 2.8)
    around = [patheffects.withStroke(linewidth=2.6, foreground="#FFFFFF")]
    ax.plot(x, y, color=style.DARK, lw=1.4, path_effects=around, zorder=5, label=label)
    ax.plot(
        x[:1], y[:1], marker="o", ms=5, color=style.DARK, mec="#FFFFFF", zorder=5, label="_start"
    )
    ax.plot(
        x[-1:], y[-1:], marker="*", ms=9, color=style.DARK, mec="#FFFFFF", zorder=5, label="_end"
    )
    style.finish(ax, "first direction", "second direction")
    style.legend(ax)
    return ax
