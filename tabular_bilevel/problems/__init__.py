"""Benchmark problems: published ones, maps, random families and closed forms."""

import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tabular_bilevel._base.display import display_all
from tabular_bilevel.problems.closed_form import (
    bandit,
    bandit_closed_form,
    two_state,
    two_state_closed_form,
)
from tabular_bilevel.problems.discrete_toy import discrete_toy
from tabular_bilevel.problems.features import FeatureProblem
from tabular_bilevel.problems.four_rooms import four_rooms
from tabular_bilevel.problems.grid_map import GridMap, grid_map
from tabular_bilevel.problems.grid_world import grid_world
from tabular_bilevel.problems.markov_game import MarkovGame
from tabular_bilevel.problems.random_families import (
    garnet,
    layered,
    layered_game,
    random_game,
)
from tabular_bilevel.problems.reparametrised import Reparametrised

if TYPE_CHECKING:
    from tabular_bilevel.problems import zoo

__all__ = [
    "CATALOGUE",
    "GridMap",
    "bandit",
    "bandit_closed_form",
    "discrete_toy",
    "four_rooms",
    "garnet",
    "grid_map",
    "grid_world",
    "layered",
    "layered_game",
    "random_game",
    "two_state",
    "two_state_closed_form",
    "zoo",
]

_DEMO_MAP = """type octile
height 5
width 9
map
.........
.@@.@.@@.
.........
.@@.@.@@.
.........
"""


def _demo_grid() -> FeatureProblem:
    """Build a five-by-nine warehouse; every free cell has an incentive."""
    return grid_world(_DEMO_MAP)


#: The problems the command line knows, each with its default settings.
CATALOGUE: Mapping[str, Callable[[], FeatureProblem | Reparametrised | MarkovGame]] = (
    MappingProxyType(
        {
            "four-rooms": four_rooms,
            "discrete-toy": discrete_toy,
            "grid-world": _demo_grid,
            "garnet": garnet,
            "layered": layered,
            "layered-game": layered_game,
            "random-game": random_game,
            "bandit": bandit,
            "two-state": two_state,
        }
    )
)

display_all(globals())


def __getattr__(name: str) -> Any:
    """Import the zoo when it is asked for."""
    if name == "zoo":
        return importlib.import_module("tabular_bilevel.problems.zoo")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
