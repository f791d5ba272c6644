"""Grid maps, and a problem on any of them."""

from __future__ import annotations

from os import PathLike

import numpy as np
import scipy.sparse as sp

from tabular_bilevel._base.arguments import as_real
from tabular_bilevel._base.arrays import BoolArray, IntArray
from tabular_bilevel._base.files import read_file, shown
from tabular_bilevel._base.renamed import keywords_renamed
from tabular_bilevel.finite.model import Model
from tabular_bilevel.problems.features import FeatureProblem, coins_on
from tabular_bilevel.problems.grid_map import Cell, GridMap, with_map

FREE, BLOCKED = ".G", "@OT"

# Bytes of a map's file, and digits of its height or width.
LARGEST_MAP, LONGEST_NUMBER = 2**21, 9

#: Up, right, down, left, as (row, column) steps.
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))


@keywords_renamed(path_or_text="layout")
def grid_world(
    layout: str | PathLike[str] | GridMap,
    *,
    start: Cell | None = None,
    goal: Cell | None = None,
    target: Cell | None = None,
    slip: float = 0.2,
    follower_discount: float = 0.99,
    leader_discount: float = 0.99,
    temperature: float = 0.002,
    limit: int = LARGEST_MAP,
) -> FeatureProblem:
    r"""Build a robot's way through a map, with one incentive a free cell.

    The follower walks from the start to the goal, earns 1 for acting there, which ends the episode,
    and in each cell that cell's incentive theta. The leader pays what the follower gets (a negative
    theta is a charge) and earns 1 for each step the follower takes in the target cell.

    Parameters
    ----------
    layout : str, path or GridMap
        A map in the MovingAI format (a text if it has line breaks, else a file): the lines
        ``type octile``, ``height H``, ``width W``, ``map``, and H rows; '.' and 'G' are free, '@',
        'O' and 'T' blocked. Or the cells and walls themselves.
    start, goal, target : (row, column), optional
        Free cells, zero-based; by default the first, the last and the middle one in reading order.
    slip : float
        Probability that a move other than the chosen one is made, each of the three as likely.
    follower_discount, leader_discount : float
        In [0, 1).
    temperature : float
        Temperature of the follower; positive. Its entropy is worth up to temperature * log(4) a
        step, so never arriving is worth temperature * log(4) / (1 - follower_discount) to it, 0.28
        by default. Where the goal, follower_discount ** steps, is worth less, it wanders instead:
        at discount 0.99, everywhere above the temperature 0.0072, and here beyond 128 steps.
    limit : int
        Bytes that a file may have; by default 2 MiB.

    Returns
    -------
    FeatureProblem
        With one parameter a free cell, in reading order.

    Raises
    ------
    ValueError
        If the map cannot be read or a cell is not free.

    Examples
    --------
    >>> text = "type octile\nheight 2\nwidth 3\nmap\n...\n.@.\n"
    >>> import tabular_bilevel as tb
    >>> print(tb.problems.grid_world(text).n_parameters)
    5
    """
    board = layout if isinstance(layout, GridMap) else GridMap(parse_map(layout, limit=limit))
    kernel, cells = grid_kernel(board.free, slip=slip)
    n_states = len(cells)
    places = [
        default if cell is None else board.state(cell, name=name)
        for name, cell, default in (
            ("start", start, 0),
            ("goal", goal, n_states - 1),
            ("target", target, n_states // 2),
        )
    ]
    base = grid_model(
        kernel,
        board.free,
        start=places[0],
        goal=places[1],
        target=places[2],
        follower_discount=follower_discount,
        leader_discount=leader_discount,
        temperature=temperature,
    )
    return coins_on(base)


def warehouse(
    *,
    slip: float = 0.1,
    follower_discount: float = 0.99,
    leader_discount: float = 0.99,
    temperature: float = 0.002,
) -> FeatureProblem:
    """Build a large `grid_world`: a hall of 164 x 340 cells, with blocks of shelves and a border.

    38,756 cells are free, and each has a coin. The robot walks along the hall's middle, from
    (82, 2) to (82, 100); the leader's table is on its way, at (82, 50), beside a second lane.

    Source: cell for cell the map warehouse-20-40-10-2-2 of the MovingAI benchmarks (Stern et al.,
    SoCS 2019, arXiv:1906.08291).

    Parameters
    ----------
    slip, follower_discount, leader_discount, temperature : float
        As for `grid_world`.

    Returns
    -------
    FeatureProblem
        With 38,756 parameters. A hypergradient takes seconds.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> hall = tb.problems.warehouse()
    >>> hall.n_parameters, hall.at((82, 50))
    (38756, 19427)
    """
    row, column = np.indices((164, 340))
    border = (row == 0) | (row == 163) | (column == 0) | (column == 339)
    block = (row >= 3) & (row <= 160) & (column >= 51) & (column <= 288)
    shelf = block & ((row - 3) % 4 < 2) & ((column - 51) % 12 < 10)
    return grid_world(
        GridMap(~(border | shelf)),
        start=(82, 2),
        goal=(82, 100),
        target=(82, 50),
        slip=slip,
        follower_discount=follower_discount,
        leader_discount=leader_discount,
        temperature=temperature,
    )


def grid_model(
    kernel: sp.csr_array,
    free: BoolArray,
    *,
    start: int,
    goal: int,
    target: int,
    follower_discount: float,
    leader_discount: float,
    temperature: float,
) -> Model:
    """Build the model of a walk from start to goal without incentives; states are cell numbers."""
    n_states, n_actions = kernel.shape[1], len(MOVES)
    termination, follower_reward, leader_reward = np.zeros((3, n_states, n_actions))
    termination[goal] = follower_reward[goal] = 1.0
    leader_reward[target] = 1.0
    moves = sp.diags_array((1.0 - termination).ravel()) @ kernel
    moves.eliminate_zeros()
    model = Model.from_tables(
        transition=moves,
        follower_reward=follower_reward,
        leader_reward=leader_reward,
        initial=np.where(np.arange(n_states) == start, 1.0, 0.0),
        follower_discount=follower_discount,
        leader_discount=leader_discount,
        temperature=temperature,
        termination=termination,
        state_names=[f"{row}, {column}" for row, column in np.argwhere(free)],
        action_names=("up", "right", "down", "left"),
    )
    return with_map(model, free, S=start, G=goal, T=target)


def parse_map(path_or_text: str | PathLike[str], *, limit: int = LARGEST_MAP) -> BoolArray:
    """Read a MovingAI map.

    Parameters
    ----------
    path_or_text : str or path
        A text if it has line breaks, else a file.
    limit : int
        Bytes that the file may have; by default 2 MiB, enough for 1,024 cells squared.

    Returns
    -------
    ndarray of bool, shape (height, width)
        Which cells are free.

    Raises
    ------
    ValueError
        If the file or the map cannot be read; the message names the line.
    """
    if not isinstance(path_or_text, (str, PathLike)):
        raise ValueError(f"map is {path_or_text!r}, neither a path nor a text")
    text = str(path_or_text)
    name = "map"
    if "\n" not in text:
        name = f"map {shown(text)}"
        try:
            text = read_file(path_or_text, limit).decode("ascii")
        except (OSError, ValueError) as error:
            raise ValueError(f"{name} cannot be read: {error}") from error
    lines = text.splitlines()
    sizes = {}
    for number, word in enumerate(("type", "height", "width", "map")):
        parts = lines[number].split() if number < len(lines) else []
        if not parts or parts[0] != word:
            raise ValueError(f"{name}, line {number + 1}: '{word}' is missing")
        if word in ("height", "width"):
            if (
                len(parts) != 2
                or not (parts[1].isascii() and parts[1].isdecimal())
                or not 1 <= len(parts[1]) <= LONGEST_NUMBER
                or int(parts[1]) < 1
            ):
                raise ValueError(f"{name}, line {number + 1}: {word} is no positive integer")
            sizes[word] = int(parts[1])
    rows = [line.rstrip() for line in lines[4:]]
    while rows and not rows[-1]:
        rows.pop()
    if len(rows) != sizes["height"]:
        raise ValueError(f"{name} has {len(rows)} rows, not height {sizes['height']}")
    for i, row in enumerate(rows):
        if len(row) != sizes["width"]:
            raise ValueError(f"{name}, line {i + 5}: {len(row)} cells, not width {sizes['width']}")
        for j, character in enumerate(row):
            if character not in FREE + BLOCKED:
                raise ValueError(
                    f"{name}, line {i + 5}: cell {j + 1} is {character!r}; known are "
                    f"{', '.join(FREE)} (free) and {', '.join(BLOCKED)} (blocked)"
                )
    free = np.array([[character in FREE for character in row] for row in rows])
    if not free.any():
        raise ValueError(f"{name} has no free cell")
    return free


def grid_kernel(free: BoolArray, *, slip: float) -> tuple[sp.csr_array, IntArray]:
    """Let a walker move on the free cells; a move into a wall or off the map stays put.

    Each move other than the chosen one has a third of the probability `slip`. Returns the kernel,
    shape (S*4, S), whose states are the free cells in reading order, and row and column of each
    state. Raises ValueError if slip is not in [0, 1].
    """
    slip = as_real("slip", slip)
    if not 0.0 <= slip <= 1.0:
        raise ValueError(f"slip is {slip}, not in [0, 1]")
    cells = np.argwhere(free)
    n_states, n_moves = len(cells), len(MOVES)
    number = np.full((free.shape[0] + 2, free.shape[1] + 2), -1)  # with a rim of walls
    number[1:-1, 1:-1][free] = np.arange(n_states)
    reached = np.empty((n_states, n_moves), dtype=np.int64)
    for move, (down, right) in enumerate(MOVES):
        ahead = number[cells[:, 0] + 1 + down, cells[:, 1] + 1 + right]
        reached[:, move] = np.where(ahead >= 0, ahead, np.arange(n_states))
    chance = np.full((n_moves, n_moves), slip / (n_moves - 1))
    np.fill_diagonal(chance, 1.0 - slip)
    rows = np.arange(n_states * n_moves).repeat(n_moves)
    columns = np.broadcast_to(reached[:, None], (n_states, n_moves, n_moves)).ravel()
    data = np.broadcast_to(chance, (n_states, n_moves, n_moves)).ravel()
    kernel = sp.csr_array((data, (rows, columns)), shape=(n_states * n_moves, n_states))
    kernel.eliminate_zeros()
    return kernel, cells
