"""Grid problems seen from above: walls, numbers of cells, and the follower's moves."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from tabular_bilevel._base.arguments import as_theta
from tabular_bilevel._base.arrays import FloatArray, IntArray
from tabular_bilevel.certify.accuracy import Estimated
from tabular_bilevel.exact.hypergradient import hypergradient
from tabular_bilevel.finite.follower import solve_follower
from tabular_bilevel.plots import style
from tabular_bilevel.plots.given import as_numbers, as_policy
from tabular_bilevel.plots.style import Scale, ranged, signed
from tabular_bilevel.problem import BilevelProblem, modelled, require_tables
from tabular_bilevel.problems.grid_map import GridMap, grid_map
from tabular_bilevel.problems.grid_world import MOVES

# Points of a cell's side below which a sign, or an arrow, would be a dot.
SIGN_CELL, ARROW_CELL = 9.0, 4.0

# Points between the numbers beside an axis.
TICK = 16.0

# A mean move shorter than this is no arrow: the follower has no preference.
SHORTEST_ARROW = 0.05


def grid(
    where: BilevelProblem | GridMap,
    numbers: npt.ArrayLike | None = None,
    *,
    policy: npt.ArrayLike | None = None,
    label: str = "",
    scale: Scale | None = None,
    window: tuple[slice, slice] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a grid problem: walls, the cells' letters, and on request a number and a move each.

    Numbers around 0 are orange below and blue above, and each cell has its sign, so that the
    picture reads in grey, too, unless cells are smaller than 9 points; other numbers have one hue,
    darker for more.

    Parameters
    ----------
    where : BilevelProblem or GridMap
        A problem with a map, see `tabular_bilevel.problems.grid_map`, or the map.
    numbers : array_like, shape (S,), optional
        One a free cell, in reading order.
    policy : array_like, shape (S, 4), optional
        Probabilities of up, right, down and left; an arrow is the mean move. Cells smaller than 4
        points have none.
    label : str
        What the numbers are, with their unit; beside the colour bar.
    scale : callable, optional
        `signed`, whose colours are centred at 0, or `ranged`, of one hue; by default the first
        where a number is below 0. Or a function like them.
    window : (slice of rows, slice of columns), optional
        The part of a large map to draw; all of it by default.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on new axes.

    Returns
    -------
    matplotlib.axes.Axes
        The axes; the colour bar takes its room from them.

    Raises
    ------
    ValueError
        If there is no map, numbers or policy do not fit it, or no cell is in the window.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> rooms = tb.problems.four_rooms(temperature=0.005)
    >>> found = tb.hypergradient(rooms, [0.0] * 105)
    >>> ax = tb.plots.grid(rooms, found.evaluation.value, label="leader's value")
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('column', 'row')
    """
    board = where if isinstance(where, GridMap) else grid_map(where)
    n_states = len(board.cells)
    shown = np.zeros(n_states)
    if numbers is not None:
        shown = as_numbers("numbers", numbers, (n_states,))
    chances = None
    if policy is not None:
        chances = as_policy("policy", policy, (n_states, len(MOVES)))
    table: FloatArray = np.full(board.free.shape, np.nan)
    table[board.free] = shown
    cells, top, left = board.cells, 0, 0
    if window is not None:
        (top, bottom), (left, right) = _sides(window, board)
        seen = ((cells >= (top, left)) & (cells < (bottom, right))).all(axis=1)
        if not seen.any():
            raise ValueError(f"window {window} has no free cell of the map")
        cells, shown, table = cells[seen], shown[seen], table[top:bottom, left:right]
        chances = None if chances is None else chances[seen]
    height, width = table.shape
    beside = height >= width / 2
    ax = style.axes(ax, 2.9 if beside else 1.1 + 3.0 * height / width)
    if scale is None:
        scale = signed if (shown < 0.0).any() else ranged
    colours, norm = scale(shown)
    image = ax.imshow(
        table,
        cmap=colours.with_extremes(bad=style.WALL),
        norm=norm,
        interpolation="nearest",
        extent=(left - 0.5, left + width - 0.5, top + height - 0.5, top - 0.5),
    )
    style.finish(ax, "column", "row")
    box = ax.get_window_extent()  # before the layout takes some of it
    side = 72.0 / ax.figure.dpi * min(box.width / width, box.height / height)
    for axis, length in ((ax.xaxis, width), (ax.yaxis, height)):
        most = round(side * length / TICK)
        axis.set_major_locator(MaxNLocator(min(8, max(1, most)), integer=True))
    ax.spines[["top", "right"]].set_visible(True)
    if numbers is not None:
        bar = ax.figure.colorbar(
            image,
            ax=ax,
            orientation="vertical" if beside else "horizontal",
            fraction=0.046 if beside else 0.15,
            pad=0.03,
        )
        bar.set_label(label, fontsize=style.FONT)
        bar.ax.tick_params(labelsize=style.FONT)
        bar.locator = MaxNLocator(5)
        bar.update_ticks()
    fill = colours(norm(shown))
    if chances is not None and side >= ARROW_CELL:
        _arrows(ax, cells, chances, fill)
    signs = colours is style.DIVERGING and side >= SIGN_CELL
    _write(ax, board, cells, shown, fill, signs=signs, corner=policy is not None)
    return ax


def _sides(window: Any, board: GridMap) -> list[tuple[int, int]]:
    """Find where a window begins and ends, in rows and in columns."""
    parts = window if isinstance(window, tuple) else ()
    if len(parts) != 2 or not all(isinstance(one, slice) and one.step is None for one in parts):
        raise ValueError(f"window is {window!r}, not a slice of rows and a slice of columns")
    try:
        return [one.indices(n)[:2] for one, n in zip(parts, board.free.shape, strict=True)]
    except TypeError as error:
        raise ValueError(f"window is {window!r}: {error}") from error


def _arrows(ax: Axes, cells: IntArray, policy: FloatArray, fill: FloatArray) -> None:
    """Draw each cell's mean move."""
    move = policy @ np.array(MOVES, dtype=float)  # rows down, columns right
    seen = np.linalg.norm(move, axis=1) > SHORTEST_ARROW
    rows, columns = cells[seen].T
    ax.quiver(
        columns,
        rows,
        move[seen, 1],
        move[seen, 0],
        angles="xy",
        scale_units="xy",
        scale=1.25,
        pivot="mid",
        units="xy",
        width=0.09,
        color=[style.writing_on(colour) for colour in fill[seen]],
    )


def _write(
    ax: Axes,
    board: GridMap,
    cells: IntArray,
    numbers: FloatArray,
    fill: FloatArray,
    *,
    signs: bool,
    corner: bool,
) -> None:
    """Write letters into the cells, and signs if they are large enough for that."""
    letters: dict[tuple[int, int], str] = {}
    for letter, cell in board.letters.items():
        letters[cell] = letters.get(cell, "") + letter
    largest = float(np.abs(numbers).max(initial=0.0))
    for state, (row, column) in enumerate(cells):
        text = letters.get((int(row), int(column)), "")
        bold = bool(text)
        if signs:
            text += style.sign(float(numbers[state]), largest)
        if not text:
            continue
        ax.text(
            column - 0.2 * corner,
            row - 0.2 * corner,
            text,
            ha="center",
            va="center",
            fontsize=style.FONT,
            fontweight="bold" if bold else "normal",
            color=style.writing_on(fill[state]),
            path_effects=[patheffects.withStroke(linewidth=1.5, foreground=fill[state])],
        )


def values(problem: BilevelProblem, theta: npt.ArrayLike, *, ax: Axes | None = None) -> Axes:
    """Draw the follower's value V_F of each cell, and its moves.

    Parameters
    ----------
    problem : BilevelProblem
        A grid problem.
    theta : array_like, shape (d,)
        The leader's parameter.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on new axes.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.

    Raises
    ------
    ValueError
        If theta does not fit the problem, the problem has no map, or `ax` is no axes.

    Examples
    --------
    >>> import numpy as np
    >>> import tabular_bilevel as tb
    >>> ax = tb.plots.values(tb.problems.four_rooms(), np.zeros(105))
    >>> ax.figure.axes[1].get_ylabel(), ax.get_xlabel()
    ("follower's value", 'column')
    """
    response = solve_follower(modelled(problem, as_theta(theta)))
    return grid(
        problem,
        response.value,
        policy=response.policy,
        label="follower's value",
        scale=ranged,
        ax=ax,
    )


def occupancy(problem: BilevelProblem, theta: npt.ArrayLike, *, ax: Axes | None = None) -> Axes:
    """Draw how often the follower is in each cell, discounted, and its moves.

    Parameters
    ----------
    problem, theta, ax
        As for `values`.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.

    Raises
    ------
    ValueError
        If theta does not fit the problem, the problem has no map, or `ax` is no axes.

    Examples
    --------
    >>> import numpy as np
    >>> import tabular_bilevel as tb
    >>> ax = tb.plots.occupancy(tb.problems.four_rooms(), np.zeros(105))
    >>> ax.figure.axes[1].get_ylabel(), ax.get_xlabel()
    ('expected discounted visits', 'column')
    """
    found = hypergradient(problem, theta, accuracy=Estimated())
    require_tables(found.model)
    return grid(
        problem,
        found.visits,
        policy=found.response.policy,
        label="expected discounted visits",
        ax=ax,
    )


def influence(problem: BilevelProblem, theta: npt.ArrayLike, *, ax: Axes | None = None) -> Axes:
    """Draw how much one more unit of the follower's reward in a cell, for all moves, would earn.

    That is dJ/dr_F summed over moves, what a coin does through the follower's answer; what it costs
    the leader is not counted.

    Parameters
    ----------
    problem, theta, ax
        As for `values`.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.

    Raises
    ------
    ValueError
        If theta does not fit the problem, the problem has no map, or `ax` is no axes.

    Examples
    --------
    >>> import numpy as np
    >>> import tabular_bilevel as tb
    >>> ax = tb.plots.influence(tb.problems.four_rooms(), np.zeros(105))
    >>> ax.figure.axes[1].get_ylabel(), ax.get_xlabel()
    ('influence: return per unit of reward', 'column')
    """
    found = hypergradient(problem, theta, accuracy=Estimated())
    require_tables(found.model)
    return grid(
        problem,
        found.influence,
        label="influence: return per unit of reward",
        scale=signed,
        ax=ax,
    )


def incentives(problem: BilevelProblem, theta: npt.ArrayLike, *, ax: Axes | None = None) -> Axes:
    """Draw what theta adds to the follower's reward in each cell, on average over its moves.

    Parameters
    ----------
    problem : BilevelProblem
        A grid problem made of features, in other parameters perhaps.
    theta : array_like, shape (d,)
        The leader's parameter.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on new axes.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.

    Raises
    ------
    ValueError
        If the problem is not made of features: nobody knows its reward without incentives. Or if
        its model is not one of tables.

    Examples
    --------
    >>> import numpy as np
    >>> import tabular_bilevel as tb
    >>> ax = tb.plots.incentives(tb.problems.four_rooms(), np.zeros(105))
    >>> ax.figure.axes[1].get_ylabel(), ax.get_xlabel()
    ('incentive', 'column')
    """
    inner: Any = problem
    while hasattr(inner, "inner"):
        inner = inner.inner
    if not hasattr(inner, "base"):
        raise ValueError(f"a {type(inner).__name__} has no base, so no reward without incentives")
    model = modelled(problem, np.asarray(theta, dtype=float))
    added = model.follower_reward - inner.base.follower_reward
    return grid(problem, added.mean(axis=1), label="incentive", scale=signed, ax=ax)
