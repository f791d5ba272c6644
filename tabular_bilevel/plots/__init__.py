"""Pictures: each function draws on the axes it is given, or on its own, and returns the axes.

Needs matplotlib, which the extra `plot` installs. Axes of its own belong to a new figure, one
column (90 mm) wide, that pyplot does not know: save it by ``ax.figure.savefig("name.svg")``, or in
a notebook, after ``%matplotlib inline``, end a cell with ``ax.figure``; to use pyplot, pass
``ax=plt.gca()``. None of matplotlib's settings is changed.

Of a grid, cell by cell:

- `occupancy`: how often the follower is where
- `influence`: what one more coin would earn where
- `values`: the follower's value, and its moves
- `incentives`: what theta adds to the follower's reward
- `grid`: any number a state
- `signed`: colours around 0, for `grid`
- `ranged`: colours of one hue, for `grid`

Of a small problem:

- `influence_graph`: policy, visits and influence as a graph
- `graph`: a model as a graph

Of J:

- `line`: along a direction, with both gradients
- `plane`: on a plane of theta
- `Plane`: such a plane
- `path`: an ascent on it

Of estimators and ascents:

- `gradient_bars`: exact against estimate, with intervals
- `bias_and_variance`: by horizon
- `error_curves`: errors of methods by the budget of steps
- `error_grid`: these over settings of a problem
- `curves`: the objective along ascents
- `save_curves`: these as a file
"""

from tabular_bilevel._base.errors import needed

with needed("tabular_bilevel.plots", "matplotlib", extra="plot"):
    import matplotlib  # noqa: F401

from tabular_bilevel._base.display import display_all
from tabular_bilevel.plots.bars import gradient_bars
from tabular_bilevel.plots.budgets import error_curves, error_grid
from tabular_bilevel.plots.graphs import graph, influence_graph
from tabular_bilevel.plots.grids import grid, incentives, influence, occupancy, values
from tabular_bilevel.plots.horizons import bias_and_variance
from tabular_bilevel.plots.landscapes import Plane, line, path, plane
from tabular_bilevel.plots.learning import curves, save_curves
from tabular_bilevel.plots.style import ranged, signed

__all__ = [
    "Plane", "bias_and_variance", "curves", "error_curves", "error_grid", "gradient_bars",
    "graph", "grid", "incentives", "influence", "influence_graph", "line", "occupancy", "path",
    "plane", "ranged", "save_curves", "signed", "values",
]  # fmt: skip

display_all(globals())
