"""Where the states of a grid problem are: its cells and walls."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from tabular_bilevel._base.arrays import BoolArray, IntArray, read_only, restore_read_only
from tabular_bilevel.finite.model import Model

Cell = tuple[int, int]


class NoMapError(AttributeError, ValueError):
    """A problem without a map: has no cells, for ``hasattr``, and was wrong to be given."""


# Where a model keeps its map: copies with other rewards keep it, too.
ATTRIBUTE = "_grid_map"


@dataclass(frozen=True, eq=False)
class GridMap:
    """The map of a grid problem. States are its free cells in reading order.

    Attributes
    ----------
    free : ndarray of bool, shape (height, width)
        Which cells are free.
    letters : mapping of str to (row, column)
        Cells with a name of one letter: the start S, the goal G, the target T.

    Raises
    ------
    ValueError
        On construction, if there is no free cell, or a letter is not on one.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> hall = tb.problems.GridMap([[True, False, True]], letters={"S": (0, 0)})
    >>> hall.cells, hall.state((0, 2))
    (array([[0, 0],
           [0, 2]]), 1)
    """

    free: BoolArray
    letters: Mapping[str, Cell] = field(default_factory=dict)

    __setstate__ = restore_read_only

    def __post_init__(self) -> None:
        free = np.array(self.free)
        if free.dtype != bool or free.ndim != 2 or not free.any():
            raise ValueError(
                f"free has shape {free.shape} and dtype {free.dtype}, not that of a table of bool "
                "with a free cell"
            )
        object.__setattr__(self, "free", read_only(free))
        for letter, cell in self.letters.items():
            self.state(cell, name=f"letters[{letter!r}]")

    @cached_property
    def cells(self) -> IntArray:
        """Row and column of each state, shape (S, 2)."""
        return read_only(np.argwhere(self.free))

    def state(self, cell: Cell, *, name: str = "cell") -> int:
        """Give the state of a free cell.

        Parameters
        ----------
        cell : (row, column)
            Zero-based.
        name : str
            What a message calls it.

        Returns
        -------
        int
            The state's number.

        Raises
        ------
        ValueError
            If that is no free cell of the map.
        """
        try:
            row, column = map(operator.index, cell)
            if any(isinstance(place, bool) for place in cell):
                raise TypeError
        except (TypeError, ValueError):
            raise ValueError(f"{name} is {cell!r}, not a (row, column) of whole numbers") from None
        height, width = self.free.shape
        if not (0 <= row < height and 0 <= column < width):
            why = f"it has {height} rows and {width} columns, from 0"
        elif not self.free[row, column]:
            why = "there is a wall"
        else:
            return int(self.free.ravel()[: row * width + column].sum())
        raise ValueError(f"{name} {(row, column)} is not a free cell of the map: {why}")

    def __str__(self) -> str:
        height, width = self.free.shape
        return f"GridMap: {height} x {width}, {self.free.sum()} free cells"


def grid_map(problem: Any) -> GridMap:
    """Find the map of a grid problem.

    Parameters
    ----------
    problem : BilevelProblem or Model
        Made by `grid_world`, `warehouse` or `four_rooms`, in other parameters perhaps, or of the
        same base.

    Returns
    -------
    GridMap
        Cells and walls.

    Raises
    ------
    ValueError
        If the problem has no map; it is an AttributeError, too.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> rooms = tb.problems.grid_map(tb.problems.four_rooms())
    >>> rooms.free.shape, rooms.letters["T"], rooms.state((8, 4))
    ((13, 13), (8, 4), 66)
    """
    base = problem
    while hasattr(base, "inner"):
        base = base.inner
    found = getattr(getattr(base, "base", base), ATTRIBUTE, None)
    if hasattr(base, "problems"):
        raise NoMapError("each context has a map of its own: ask for that of one of its problems")
    if not isinstance(found, GridMap):
        raise NoMapError(f"a {type(problem).__name__} that is not made of a map has no cells")
    return found


def with_map(model: Model, free: BoolArray, **states: int) -> Model:
    """Give a fresh model its map, and letters to some states."""
    cells = np.argwhere(free)
    letters = {letter: (int(cells[s, 0]), int(cells[s, 1])) for letter, s in states.items()}
    object.__setattr__(model, ATTRIBUTE, GridMap(free, letters))
    return model
