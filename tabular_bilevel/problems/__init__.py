"""Benchmark problems: published ones, maps, random families and closed forms.

Small ones, whose answer is known by hand:

- `fork`: one choice and one coin
- `rounds`: a dock and an aisle, round and round
- `bandit`: one state, and a payment for each action
- `bandit_closed_form`: its answer
- `two_state`: home and work, a payment and a parameter of the kernel
- `two_state_closed_form`: its answer

Published ones:

- `four_rooms`: 104 cells and a budget of charges; one goal, or several followers' goals
- `goal_position`: an open grid, on which the leader places the goal
- `tax_design`: households that work and consume, and four taxes
- `discrete_toy`: a game of three states, in which the leader's best policy is mixed
- `discrete_toys`: fourteen others of its kind, in which it is not
- `building_thermal_control`: four zones to insulate and ventilate; the state is continuous
- `bilevel_lqr`: a game with a continuous state, in which the leader lures the follower away

Maps:

- `grid_world`: a robot's way through any map, one coin a cell
- `warehouse`: one with 38,756 cells
- `grid_map`: cells and walls of such a problem
- `GridMap`: these

Random ones:

- `garnet`: random rewards and successors
- `layered`: episodes that all end after the same number of steps
- `random_game`: a game
- `layered_game`: a game whose episodes do so

Your own, and collections:

- `from_arrows`: a small problem in words
- `Arrow`: what one action does there
- `zoo`: instances for tests, ordinary and hard
- `CATALOGUE`: the problems that the command line knows, by name
- `CONTINUOUS`: those with a continuous state, by name
"""

import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tabular_bilevel._base.display import display_all
from tabular_bilevel.problems.arrows import Arrow, from_arrows
from tabular_bilevel.problems.bilevel_lqr import bilevel_lqr
from tabular_bilevel.problems.building import Building, building_thermal_control
from tabular_bilevel.problems.closed_form import (
    bandit,
    bandit_closed_form,
    two_state,
    two_state_closed_form,
)
from tabular_bilevel.problems.discrete_toy import TOYS, discrete_toy, discrete_toys
from tabular_bilevel.problems.features import FeatureProblem
from tabular_bilevel.problems.four_rooms import four_rooms
from tabular_bilevel.problems.goal_position import goal_position
from tabular_bilevel.problems.grid_map import GridMap, grid_map
from tabular_bilevel.problems.grid_world import grid_world, warehouse
from tabular_bilevel.problems.lessons import fork, rounds
from tabular_bilevel.problems.linear_quadratic_game import LinearQuadraticGame
from tabular_bilevel.problems.markov_game import MarkovGame
from tabular_bilevel.problems.random_families import garnet, layered, layered_game, random_game
from tabular_bilevel.problems.reparametrised import Reparametrised
from tabular_bilevel.problems.tax_design import tax_design

if TYPE_CHECKING:
    from tabular_bilevel.problems import zoo

__all__ = [
    "CATALOGUE", "CONTINUOUS", "Arrow", "GridMap", "bandit", "bandit_closed_form",
    "bilevel_lqr", "building_thermal_control", "discrete_toy", "discrete_toys", "fork",
    "four_rooms", "from_arrows", "garnet", "goal_position", "grid_map", "grid_world", "layered",
    "layered_game", "random_game", "rounds", "tax_design", "two_state", "two_state_closed_form",
    "warehouse", "zoo",
]  # fmt: skip

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


def _two_goals() -> Reparametrised:
    """Build four rooms with the two goals of the HPGD paper's code: one theta, two followers."""
    return four_rooms(goals=((1, 9), (11, 11)))


def _small_tax() -> Reparametrised:
    """Build tax design with two households on a coarse grid, and 32 actions of the 1250."""
    return tax_design(n_assets=21, n_hours=4, n_levels=2)


def _toy(name: str) -> Callable[[], MarkovGame]:
    def make() -> MarkovGame:
        return discrete_toys()[name]

    make.__doc__ = f"Build the published game 'discrete toy {name}'."
    return make


#: The problems the command line knows, each with its default settings.
CATALOGUE: Mapping[str, Callable[[], FeatureProblem | Reparametrised | MarkovGame]] = (
    MappingProxyType(
        {
            "four-rooms": four_rooms,
            "four-rooms-two-goals": _two_goals,
            "tax-design": _small_tax,
            "goal-position": goal_position,
            "discrete-toy": discrete_toy,
            "grid-world": _demo_grid,
            "warehouse": warehouse,
            "garnet": garnet,
            "layered": layered,
            "layered-game": layered_game,
            "random-game": random_game,
            "bandit": bandit,
            "two-state": two_state,
            "fork": fork,
            "rounds": rounds,
            **{f"toy-{name}": _toy(name) for name in TOYS},
        }
    )
)

#: Those with a continuous state, likewise.
CONTINUOUS: Mapping[str, Callable[[], Building | LinearQuadraticGame]] = MappingProxyType(
    {"building": building_thermal_control, "bilevel-lqr": bilevel_lqr}
)

display_all(globals())


def __getattr__(name: str) -> Any:
    """Import the zoo when it is asked for."""
    if name == "zoo":
        return importlib.import_module("tabular_bilevel.problems.zoo")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
