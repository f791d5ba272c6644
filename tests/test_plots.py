"""Pictures show their numbers, and can be read: small, in grey, by the colour-blind."""

import importlib
import itertools
import sys
from functools import cache, partial

import matplotlib as mpl
import numpy as np
import pytest
import scipy.special
from matplotlib import pyplot
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch
from matplotlib.quiver import Quiver
from matplotlib.text import Text
from sizes import sizes
from small import each_refused, tables

import tabular_bilevel as tb
from tabular_bilevel import plots
from tabular_bilevel.ascent.training import Curve
from tabular_bilevel.plots import style
from tabular_bilevel.problems import GridMap, grid_map

MAP = "type octile\nheight 3\nwidth 4\nmap\n....\n.@@.\n....\n"
GRID = tb.problems.grid_world(
    MAP, start=(0, 0), goal=(2, 3), target=(0, 2), temperature=0.02, follower_discount=0.9
)
COINS = np.linspace(-0.02, 0.03, 10)
PAID = tb.problems.rounds()
ROUNDS = PAID.base
LOOP = tb.FeatureProblem(ROUNDS, follower_reward=PAID.follower_reward)  # others pay
FLAT = plots.Plane([0.0, 0.0], [1.0, 0.0], [0.0, 2.0])
WALK = [[0.0, 0.0], [0.2, 0.3], [0.3, 0.8]]


@cache
def errors():
    two = tb.problems.two_state()
    return tb.error_curve(two, [0.2, -0.3], budgets=[10.0, 1e4], horizons=[2, 8])


def a_curve(*heights):
    return Curve(np.arange(len(heights)) * 10, np.array(heights, dtype=float), np.zeros(1))


PICTURES = {
    "walls": lambda ax=None: plots.grid(GRID, ax=ax),
    "signed grid": lambda ax=None: plots.grid(GRID, np.linspace(-2, 3, 10), label="coins", ax=ax),
    "values": lambda ax=None: plots.values(GRID, COINS, ax=ax),
    "occupancy": lambda ax=None: plots.occupancy(GRID, COINS, ax=ax),
    "influence": lambda ax=None: plots.influence(GRID, COINS, ax=ax),
    "incentives": lambda ax=None: plots.incentives(GRID, COINS, ax=ax),
    "rooms": lambda ax=None: plots.influence(tb.problems.four_rooms(), np.zeros(105), ax=ax),
    "graph": lambda ax=None: plots.graph(ROUNDS, ax=ax),
    "influence graph": lambda ax=None: plots.influence_graph(LOOP, [0, 0], ax=ax),
    "garnet": lambda ax=None: plots.influence_graph(
        tb.problems.garnet(n_states=4, n_actions=2, branching=2), np.zeros(6), ax=ax
    ),
    "bars": lambda ax=None: plots.gradient_bars([1.0, -2.0], [1.1, -1.5], [0.1, 0.2], ax=ax),
    "budgets": lambda ax=None: plots.error_curves(errors(), ax=ax),
    "horizons": lambda ax=None: plots.bias_and_variance(
        [1, 2, 4], [1.0, 0.3, 0.0], [4.0, 9.0, 9.5], discount=0.5, ax=ax
    ),
    "curves": lambda ax=None: plots.curves(
        {"ours": [a_curve(0, 1, 2), a_curve(0, 2, 3)], "theirs": [a_curve(0, 0, 1)]},
        published={"theirs": 1.5, "somebody": 2.0},
        best=3.5,
        ax=ax,
    ),
    "line": lambda ax=None: plots.line(LOOP, [0, 0], [0, 1], ax=ax),
    "plane": lambda ax=None: plots.path(WALK, FLAT, ax=plots.plane(LOOP, FLAT, n_points=5, ax=ax)),
    "path": lambda ax=None: plots.path(WALK, FLAT, ax=ax),
}
each_picture = pytest.mark.parametrize("draw", PICTURES.values(), ids=PICTURES)


# Inches by which a line's width may be off the page.
HAIR = 0.02


def texts(figure):
    """What is written, once it is drawn."""
    FigureCanvasAgg(figure).draw()
    return [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]


# ---------------------------------------------------------------- all of them


@sizes("name", [*PICTURES][::3], [name for k, name in enumerate(PICTURES) if k % 3])
def test_a_picture_of_its_own_is_a_column_wide_and_legible_and_pyplot_does_not_know_it(name):
    with mpl.rc_context({"font.size": 4.0, "axes.titlesize": 3.0, "legend.fontsize": 3.0}):
        before, known = dict(mpl.rcParams), pyplot.get_fignums()
        ax = PICTURES[name]()
        assert dict(mpl.rcParams) == before
        written = texts(ax.figure)
    assert pyplot.get_fignums() == known
    assert not ax.axison or (ax.get_xlabel() and ax.get_ylabel())
    assert min(text.get_fontsize() for text in written) >= 8.0
    drawn, (width, height) = ax.figure.get_tightbbox(), ax.figure.get_size_inches()
    assert width == pytest.approx(90 / 25.4)
    assert min(drawn.x0, drawn.y0, width - drawn.x1, height - drawn.y1) > -HAIR
    for part in ax.figure.axes:  # numbers along an axis do not touch
        for axis in (part.xaxis, part.yaxis) if part.axison else ():
            low, high = sorted(axis.get_view_interval())
            ticks = zip(axis.get_majorticklocs(), axis.get_ticklabels(), strict=True)
            shown = [text for place, text in ticks if low <= place <= high and text.get_text()]
            gap = part.figure.dpi / 72.0  # a point on either side
            boxes = [text.get_window_extent().padded(gap) for text in shown]
            assert not any(one.overlaps(two) for one, two in itertools.pairwise(boxes))


@each_picture
def test_it_draws_where_it_is_told(draw):
    ax = Figure(layout="constrained").add_subplot()
    assert draw(ax) is ax
    part = Figure(layout="constrained").subfigures(1, 2)[0].add_subplot()
    assert draw(part) is part
    with pytest.raises(ValueError, match="ax is 3, not matplotlib axes"):
        draw(3)


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("tabular_bilevel.plots")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(tb, "plots")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = r"needs matplotlib: pip install 'tabular-bilevel\[plot\]'"
    with pytest.raises(ImportError, match=message):
        importlib.import_module("tabular_bilevel.plots")
    with pytest.raises(ImportError, match=message):
        tb.plots  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'plot'"):
        tb.plot  # noqa: B018


# ---------------------------------------------------------------- colours

# Machado, Oliveira and Fernandes (2009), severity 1: what the colour-blind see, in linear RGB.
BLINDNESS = {
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
    "none": np.eye(3),
}

# Differences of L*, or of colours in CIELAB, that are seen side by side without looking for them.
SEEN_IN_GREY, SEEN = 12.0, 20.0


def linear(colour):
    channels = np.array(to_rgb(colour))
    return np.where(channels > 0.04045, ((channels + 0.055) / 1.055) ** 2.4, channels / 12.92)


def lab(rgb):
    xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    ) @ np.clip(rgb, 0.0, 1.0)
    t = xyz / [0.9505, 1.0, 1.089]
    f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def lightness(colour):
    return lab(linear(colour))[0]


@pytest.mark.parametrize("colour", ["#000000", "#FFFFFF", style.BLUE, style.ORANGE, "#262626"])
def test_lightness_is_that_of_cielab(colour):
    assert style.lightness(colour) == pytest.approx(lightness(colour), abs=0.05)


@pytest.mark.parametrize("matrix", BLINDNESS.values(), ids=BLINDNESS)
def test_the_colour_blind_tell_colours_apart(matrix):
    def seen(colour):
        return lab(np.asarray(matrix) @ linear(colour))

    assert np.linalg.norm(seen(style.BLUE) - seen(style.ORANGE)) > SEEN
    for one, other in itertools.combinations(style.CYCLE, 2):
        alike = np.linalg.norm(seen(one["color"]) - seen(other["color"])) < SEEN
        assert not alike or one["linestyle"] != other["linestyle"]
    if matrix is not BLINDNESS["none"]:  # red and green, the control, look alike to somebody
        return
    red_green = [
        np.linalg.norm(lab(np.asarray(m) @ linear("#B04000")) - lab(m @ linear("#507000")))
        for m in map(np.asarray, BLINDNESS.values())
    ]
    assert min(red_green) < SEEN


def test_grey_tells_what_colours_do():
    assert abs(lightness(style.BLUE) - lightness(style.ORANGE)) > SEEN_IN_GREY
    for one, other in itertools.combinations(style.CYCLE, 2):
        alike = abs(lightness(one["color"]) - lightness(other["color"])) < SEEN_IN_GREY
        assert not alike or one["linestyle"] != other["linestyle"]
    steps = np.linspace(0.0, 1.0, 21)
    hue = np.array([lightness(c) for c in style.ONE_HUE(steps)])
    assert (np.diff(hue) < 0.0).all()
    around = np.array([lightness(c) for c in style.DIVERGING(steps)])
    assert around[10] == pytest.approx(100.0, abs=0.5)  # of 256 colours none is in the middle
    assert (np.diff(around[:11]) > 0.0).all()
    assert (np.diff(around[10:]) < 0.0).all()
    assert min(hue.min(), around.min()) - lightness(style.WALL) > SEEN_IN_GREY


@pytest.mark.parametrize("colour", [*style.ONE_HUE(np.linspace(0, 1, 9)), style.ORANGE, style.BLUE])
def test_writing_stands_out(colour):
    light, dark = sorted([linear(colour), linear(style.writing_on(colour))], key=lambda c: -c.sum())
    weights = np.array([0.2126, 0.7152, 0.0722])
    assert (weights @ light + 0.05) / (weights @ dark + 0.05) > 4.5  # WCAG 2, level AA


# ---------------------------------------------------------------- grids


def cells_of(ax):
    return np.ma.filled(np.ma.masked_invalid(ax.images[0].get_array()), np.nan)


def written_in(ax):
    """Texts by the cell that they are in."""
    return {
        (round(t.get_position()[1]), round(t.get_position()[0])): t.get_text() for t in ax.texts
    }


def test_a_grid_shows_numbers_where_they_are_and_walls_where_there_are_none():
    numbers = np.arange(1.0, 11.0)
    ax = plots.grid(GRID, numbers, label="how much")
    table = cells_of(ax)
    np.testing.assert_array_equal(table[grid_map(GRID).free], numbers)
    assert np.isnan(table[1, 1:3]).all()
    np.testing.assert_allclose(ax.images[0].cmap.get_bad(), [*to_rgb(style.WALL), 1.0])
    assert (ax.images[0].norm.vmin, ax.images[0].norm.vmax) == (1.0, 10.0)
    assert written_in(ax) == {(0, 0): "S", (2, 3): "G", (0, 2): "T"}
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # row 0 on top
    bar = next(other for other in ax.figure.axes if other is not ax)
    assert "how much" in (bar.get_xlabel(), bar.get_ylabel())


def test_numbers_around_zero_have_signs_and_colours_centred_there():
    numbers = np.array([-4.0, -1.0, 0.0, 0.01, 1.0, 2.0, -2.0, 0.0, 0.0, 1.0])
    ax = plots.grid(GRID, numbers)
    norm = ax.images[0].norm
    assert (norm.vmin, norm.vmax) == (-4.0, 4.0)
    found = written_in(ax)
    assert found[0, 0] == "S\u2212"
    assert found[0, 1] == "\u2212"
    assert found[0, 2] == "T"
    assert (0, 3) not in found  # 0.01 is nothing beside 4
    assert found[1, 0] == "+"
    assert found[2, 3] == "G+"


def test_the_scale_is_an_object_of_choice():
    assert plots.grid(GRID, np.ones(10), scale=plots.signed).images[0].norm.vmin == -1.0
    norm = plots.grid(GRID, np.linspace(-2, -1, 10), scale=plots.ranged).images[0].norm
    assert (norm.vmin, norm.vmax) == (-2.0, -1.0)
    assert plots.grid(GRID, np.zeros(10), scale=plots.signed).images[0].norm.vmax == 1.0
    assert plots.grid(GRID, np.zeros(10)).images[0].norm.vmax == 1.0


def test_arrows_are_mean_moves():
    policy = np.tile([0.25, 0.25, 0.25, 0.25], (10, 1))
    policy[0] = [1, 0, 0, 0]
    policy[1] = [0, 0.75, 0, 0.25]
    policy[2] = [0, 0, 0.5, 0.5]
    (arrows,) = (c for c in plots.grid(GRID, policy=policy).collections if isinstance(c, Quiver))
    np.testing.assert_array_equal(arrows.XY, [[0, 0], [1, 0], [2, 0]])
    np.testing.assert_allclose(arrows.U, [0, 0.5, -0.5])
    np.testing.assert_allclose(arrows.V, [-1, 0, 0.5])  # rows go down


def test_pictures_of_a_grid_problem_show_what_they_say():
    found = tb.hypergradient(GRID, COINS)
    free = grid_map(GRID).free
    for draw, wanted in (
        (plots.values, found.response.value),
        (plots.occupancy, found.evaluation.occupancy),
        (plots.influence, found.sensitivities.follower_reward.sum(axis=1)),
        (plots.incentives, COINS),
    ):
        np.testing.assert_allclose(cells_of(draw(GRID, COINS))[free], wanted, rtol=1e-9)
    others = GRID.with_coins(price=0.0)  # keeps the map
    shown = cells_of(plots.influence(others, COINS))[free]
    np.testing.assert_allclose(shown, tb.hypergradient(others, COINS).gradient, rtol=1e-9)
    rooms, theta = tb.problems.four_rooms(), np.linspace(0.0, 1.0, 105)
    shares = -0.2 * scipy.special.softmax(theta)[:104]
    shares[grid_map(rooms).state((1, 9))] = 0.0  # the goal's is not charged
    shown = cells_of(plots.incentives(rooms, theta))[grid_map(rooms).free]
    np.testing.assert_allclose(shown, shares, rtol=1e-9)


def test_a_large_map_has_letters_only():
    rows = "\n".join(["." * 90] * 40)
    large = tb.problems.grid_world(f"type octile\nheight 40\nwidth 90\nmap\n{rows}\n")
    uniform = np.tile([1.0, 0.0, 0.0, 0.0], (3600, 1))
    ax = plots.grid(large, np.linspace(-1, 1, 3600), policy=uniform)
    assert not ax.collections
    assert sorted(written_in(ax).values()) == ["G", "S", "T"]


def test_a_window_shows_its_part_of_the_map_in_the_same_places():
    numbers = np.arange(10.0)
    uniform = np.tile([0.0, 1.0, 0.0, 0.0], (10, 1))
    ax = plots.grid(GRID, numbers, policy=uniform, window=(slice(1, 3), slice(2, None)))
    np.testing.assert_array_equal(cells_of(ax), [[np.nan, 5.0], [8.0, 9.0]])
    assert (ax.get_xlim(), ax.get_ylim()) == ((1.5, 3.5), (2.5, 0.5))
    assert set(written_in(ax).values()) == {"G"}
    (arrows,) = (found for found in ax.collections if hasattr(found, "U"))
    assert len(arrows.U) == 3


def test_a_map_alone_will_do_and_one_cell_may_have_two_letters():
    board = GridMap(np.array([[True, False, True]]), {"S": (0, 0), "G": (0, 0)})
    assert written_in(plots.grid(board, [1.0, 2.0])) == {(0, 0): "SG"}
    # problems of the same base have the same map
    same = tb.FeatureProblem(GRID.base, follower_reward=np.ones((40, 1)))
    assert grid_map(same) is grid_map(GRID) is grid_map(GRID.model(COINS))


def test_what_cannot_be_drawn_on_a_grid_is_named():
    for name, wrong, message in (
        ("window", (slice(1, 2), slice(1, 3)), r"\(slice\(1, 2.* has no free cell of the map"),
        ("window", (1, 2), r"window is \(1, 2\), not a slice of rows"),
        ("window", [slice(2)], r"window is \[slice.*, not a slice of rows"),
        # which would be all rows
        ("window", (slice(0, 3, 2), slice(3)), r"is \(slice\(0, 3, 2\), .*, not a slice of rows"),
        ("window", (slice("a"), slice(3)), "window is .*: slice indices must be integers"),
        ("numbers", np.ones(12), r"numbers has shape \(12,\), not \(10,\)"),
        ("numbers", [np.nan] * 10, r"numbers\[0\] is nan"),
        ("policy", np.ones((10, 3)), r"policy has shape \(10, 3\)"),
        ("policy", -np.ones((10, 4)), r"policy\[0, 0\] is -1.0, not a prob"),
    ):
        each_refused((partial(plots.grid, GRID, **{name: wrong}), message))
    corner = np.array([[True, False]])
    each_refused(
        (lambda: plots.grid(LOOP), "a FeatureProblem that is not made of a map has no cells"),
        (lambda: GridMap(np.ones((2, 2))), "free has shape .* and dtype float64"),
        (lambda: GridMap(np.zeros((2, 2), dtype=bool)), "with a free cell"),
        (lambda: GridMap(corner, {"S": (0, 1)}), r"letters\['S'\] \(0, 1\) is not a free cell"),
        (lambda: grid_map(GRID).state((0.5, 0)), r"cell is \(0.5, 0\), not a \(row, column\)"),
        (lambda: plots.incentives(tb.problems.discrete_toy(), [0.0] * 6), "MarkovGame has no base"),
    )


# ---------------------------------------------------------------- graphs


def words_of(ax):
    return [text.get_text() for text in ax.texts]


def arrows_of(ax):
    return [patch for patch in ax.patches if isinstance(patch, FancyArrowPatch)]


def test_a_graph_has_the_numbers_of_the_third_lesson():
    ax = PICTURES["influence graph"]()
    words = words_of(ax)
    assert words[:3] == ["wait (\u22124.36)", "go (+2.91)", "back (+1.45)"]  # elevenths
    assert words[3:] == ["dock\n2", "aisle\n1"]
    dock, aisle = (patch for patch in ax.patches if isinstance(patch, Circle))
    assert (dock.radius / aisle.radius) ** 2 == pytest.approx(2.0)
    colours = [to_rgb(arrow.get_edgecolor()) for arrow in arrows_of(ax)]
    orange, blue = to_rgb(style.ORANGE), to_rgb(style.BLUE)
    assert colours == [orange, orange, blue, blue, blue, blue]  # a trunk and a branch each
    widths = np.array([arrow.get_linewidth() for arrow in arrows_of(ax)[::2]])
    thin, wide = 0.6, 3.6
    np.testing.assert_allclose(widths, thin + (wide - thin) * np.array([0.25, 0.75, 1.0]))


def test_a_graph_takes_the_models_names_unless_it_is_given_others():
    assert words_of(plots.graph(ROUNDS)) == ["wait", "go", "back", "dock", "aisle"]
    ax = plots.graph(ROUNDS, states=["one", "two"], actions=["a", "b"])
    assert words_of(ax) == ["a", "b", "a", "one", "two"]


def test_a_graph_writes_0_for_what_is_rounding():
    bandit = tb.problems.bandit(leader_reward=[-1.0, 0.1, 1.2])  # the mean is 0.1, but for rounding
    words = words_of(plots.influence_graph(bandit, np.zeros(3)))
    assert words[:3] == ["0 (\u22120.367)", "1 (0)", "2 (+0.367)"]


def test_arrows_to_the_end_fan_out_to_the_right_of_a_single_state():
    ax = plots.graph(tb.problems.fork().base)
    tips = [arrow._path_original.vertices[-1] for arrow in arrows_of(ax)[1::2]]
    (x, y), (right, down) = tips
    assert min(x, y) > 0.5
    assert (x, y) == pytest.approx((right, -down))


def test_arrows_lead_from_rim_to_rim():
    ax = plots.graph(ROUNDS)
    left, right = (patch for patch in ax.patches if isinstance(patch, Circle))
    trunk, branch = arrows_of(ax)[2:4]  # go, from the left one to the right one
    for curve, end, circle in ((trunk, 0, left), (branch, -1, right)):
        point = curve._path_original.vertices[end]
        gap = np.linalg.norm(point - np.array(circle.center)) - circle.radius
        assert 0.0 <= gap < 0.05


def test_an_action_splits_into_its_successors_and_the_end():
    nothing, kernel = [[0.0], [0.0]], [[[0.2, 0.5]], [[0.0, 1.0]]]
    rewards = {"follower_reward": nothing, "leader_reward": nothing}
    model = tables(transition=kernel, termination=[[0.3], [0.0]], **rewards)
    ax = plots.graph(model, policy=[[1.0], [1.0]])
    widths = [arrow.get_linewidth() for arrow in arrows_of(ax)]
    np.testing.assert_allclose(widths, 0.6 + 3.0 * np.array([1.0, 0.2, 0.5, 0.3, 1.0, 1.0]))
    (square,) = ax.get_lines()
    assert square.get_marker() == "s"


def test_names_do_not_hide_each_other():
    """Of three actions from one state to another, and back."""
    model = tb.problems.garnet(n_states=2, n_actions=3, branching=1).base
    ax = plots.graph(model, measure=np.full((2, 3), 0.123))
    texts(ax.figure)
    boxes = [text.get_window_extent() for text in ax.texts[:6]]
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)


def test_what_cannot_be_drawn_as_a_graph_is_named():
    each_refused(
        (lambda: plots.graph(GRID.base.replace()), "has 40 actions; a graph has room for 16"),
        (lambda: plots.graph(tb.problems.garnet().base), "20 states; a graph has room for 10"),
        (lambda: plots.graph(ROUNDS, policy=np.ones((2, 3))), r"policy has shape \(2, 3\)"),
        (lambda: plots.graph(ROUNDS, policy=-np.ones((2, 2))), r"policy\[0, 0\] is -1.0"),
        (lambda: plots.graph(ROUNDS, policy=[[0.5, 0.5], [0.5, 0.0]]), r"policy\[1\] sums to 0.5"),
        (lambda: plots.graph(ROUNDS, occupancy=[1.0, -2.0]), r"occupancy\[1\] is -2.0, below 0"),
        (lambda: plots.graph(ROUNDS, measure=np.full((2, 2), np.inf)), r"measure\[0, 0\] is inf"),
        (lambda: plots.graph(ROUNDS, states=["dock"]), "states has 1 names, not 2"),
        (lambda: plots.graph(ROUNDS, actions=["a", "b", "c"]), "actions has 3 names, not 2"),
        (lambda: plots.graph(ROUNDS, actions=[["a", "b"]]), "actions has 1 rows of names, not 2"),
    )


# ---------------------------------------------------------------- bars and horizons


def test_bars_and_intervals_have_the_heights_of_the_numbers():
    ax = plots.gradient_bars([1.0, -2.0], [1.1, -1.5], [0.1, 0.2], confidence=0.95)
    exact, mean = (c for c in ax.containers if hasattr(c, "patches"))
    assert [bar.get_height() for bar in exact] == [1.0, -2.0]
    assert [bar.get_height() for bar in mean] == [1.1, -1.5]
    (segments,) = (c.get_segments() for c in ax.collections)
    half = 1.959964 * np.array([0.1, 0.2])
    for segment, middle, reach in zip(segments, [1.1, -1.5], half, strict=True):
        np.testing.assert_allclose(segment[:, 1], [middle - reach, middle + reach], rtol=1e-6)
    told = [text.get_text() for text in ax.get_legend().get_texts()]
    assert told == ["exact", "mean of estimates, 95% interval"]
    named = plots.gradient_bars([1.0, 2.0], [1.0, 2.0], names=["a", "b"])
    assert [text.get_text() for text in named.get_xticklabels()] == ["a", "b"]


def test_bad_bars_are_named():
    bars = plots.gradient_bars
    each_refused(
        (lambda: bars([1.0], [1.0, 2.0]), r"mean has shape \(2,\), not \(1,\)"),
        (lambda: bars([np.inf], [1.0]), r"exact\[0\] is inf"),
        (lambda: bars([0.0, 1.0], [1e200, 1.0]), r"mean\[0\] is 1e\+200, beyond the 1e\+100 that"),
        (lambda: bars([1.0, 2.0], [1.0, 2.0], [0.1, -0.1]), r"standard_error\[1\] is -0.1, bel"),
        (lambda: bars([1.0], [1.0], confidence=1.0), "confidence is 1.0, not between 0 and 1"),
        (lambda: bars([1.0], [1.0], names=["a", "b"]), "names has 2 entries, not 1"),
        (lambda: bars(np.ones(17), np.ones(17)), "exact has 17 entries; at most 16"),
    )


def test_bias_and_spread_are_on_one_scale():
    ax = plots.bias_and_variance([1, 2, 4], [1.0, 0.3, 0.0], [4.0, 9.0, 9.5], discount=0.5)
    lines = {line.get_label(): line.get_xydata() for line in ax.get_lines()}
    np.testing.assert_array_equal(lines["bias"], [[1, 1.0], [2, 0.3]])
    spread = lines["standard deviation of one estimate"]
    np.testing.assert_allclose(spread[:, 1], np.sqrt([4.0, 9.0, 9.5]))
    np.testing.assert_allclose(lines["falls by 0.5 a step"][:, 1], [1.0, 0.5, 0.125])
    zeros = [line.get_xydata().tolist() for line in ax.get_lines() if line.get_label()[0] == "_"]
    assert [[4.0, 0.0]] in zeros  # at the foot
    assert ax.get_yscale() == "log"


def test_error_curves_are_the_errors():
    ax = plots.error_curves(errors())
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    curves = {line.get_label(): line for line in ax.get_lines()}
    for name, of_one in zip(errors().methods, errors().error, strict=True):
        x, y = curves[name].get_data()
        assert (x[0], x[-1]) == pytest.approx((10.0, 1e4))
        assert (y[0], y[-1]) == pytest.approx(tuple(of_one))
    one = tb.error_curve(tb.problems.two_state(), [0.2, -0.3], budgets=[1e3], horizons=[2])
    with pytest.raises(ValueError, match=r"^budgets are all 1000: a curve takes two$"):
        plots.error_curves(one)


def test_a_grid_has_a_panel_for_each_cell_and_a_colour_for_each_method():
    cells = tuple({"cold": i, "far": j} for i in (1, 2) for j in (1, 2))
    naive = {"naive": tb.NaivePolicyGradient()}
    two = tb.problems.two_state()
    fewer = tb.error_curve(two, [0.2, -0.3], naive, [10.0, 1e4], horizons=[2])
    grid = tb.ErrorGrid(cells, (fewer, *3 * (errors(),)))
    panels = plots.error_grid(grid).figure.axes
    assert [panel.texts[0].get_text() for panel in panels] == list(grid.labels)
    (few, many) = ({line.get_label(): line for line in panels[k].get_lines()} for k in (0, 2))
    assert "zero-order" in many.keys() - few.keys()
    assert few["naive"].get_color() == many["naive"].get_color()
    assert [panel.get_legend() is None for panel in panels] == [True, False, True, True]


def test_bad_horizons_are_named():
    draw = plots.bias_and_variance
    each_refused(
        (lambda: draw([2, 1], [1, 1], [1, 1]), r"horizons\[1\] is 1; they are positive and incr"),
        (lambda: draw([0, 1], [1, 1], [1, 1]), r"horizons\[0\] is 0; they are positive"),
        (lambda: draw([1, 2], [1, -1], [1, 1]), r"bias\[1\] is -1.0, below 0"),
        (lambda: draw([1, 2], [1, 1], [1]), r"variance has shape \(1,\), not \(2,\)"),
        (lambda: draw([1, 2], [1, 1], [1, 1], discount=1.5), "discount is 1.5"),
    )


# ---------------------------------------------------------------- learning curves


def test_curves_are_means_with_their_standard_error():
    ax = plots.curves({"a": [a_curve(0, 1), a_curve(0, 3)], "b": [a_curve(0, 1)]})
    mean, alone = ax.get_lines()
    np.testing.assert_array_equal(mean.get_xydata(), [[0, 0.0], [10, 2.0]])
    np.testing.assert_array_equal(alone.get_ydata(), [0.0, 1.0])
    (band,) = ax.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.min() == 0.0
    assert heights.max() == pytest.approx(3.0)  # 2 + sqrt(2) / sqrt(2)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]


def test_published_values_and_the_best_known_are_marked():
    ax = PICTURES["curves"]()
    lines = ax.get_lines()
    marks = {line.get_ydata()[0]: line for line in lines if line.get_label() == "_published"}
    assert set(marks) == {1.5, 2.0}
    theirs = next(line for line in lines if line.get_label() == "theirs")
    assert marks[1.5].get_color() == theirs.get_color()
    best = next(line for line in lines if line.get_label() == "best known")
    assert set(best.get_ydata()) == {3.5}


def test_curves_are_saved(tmp_path):
    plots.save_curves(tmp_path / "curves.png", {"a": [a_curve(0, 1)]}, title="two seeds")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_bad_curves_are_named():
    for curves, settings, message in (
        ([], {}, r"curves\['a'\] is empty"),
        ([a_curve(0, 1), a_curve(0, 1, 2)], {}, r"curves\['a'\] differ in their iterations"),
        ([a_curve(0, np.nan)], {}, r"curves\['a'\]\[0\].objective\[1\] is nan"),
        ([a_curve(0, 1)], {"best": np.nan}, "best is nan"),
        ([a_curve(0, 1)], {"published": {"p": np.inf}}, r"published\['p'\] is inf"),
    ):
        each_refused((partial(plots.curves, {"a": curves}, **settings), message))


# ---------------------------------------------------------------- lines, planes, paths


def slope_of(line):
    (x0, y0), (x1, y1) = line.get_xydata()
    return (y1 - y0) / (x1 - x0)


def test_a_line_has_both_slopes_and_the_best_point():
    theta, direction = np.array([0.1, -0.2]), np.array([0.5, 2.0])
    steps = np.linspace(-1.0, 2.0, 31)
    ax = plots.line(PAID, theta, direction, steps=steps, label="mine")
    lines = {line.get_label(): line for line in ax.get_lines()}
    heights = [tb.objective(PAID, theta + t * direction) for t in steps]
    np.testing.assert_array_equal(lines["mine"].get_xydata(), np.column_stack([steps, heights]))
    found = tb.hypergradient(PAID, theta)
    assert slope_of(lines["gradient"]) == pytest.approx(found.gradient @ direction)
    assert slope_of(lines["follower held fixed"]) == pytest.approx(found.direct @ direction)
    assert lines["gradient"].get_linestyle() != lines["follower held fixed"].get_linestyle()
    ((x, y),) = lines["best seen"].get_xydata()
    assert (x, y) == (steps[np.argmax(heights)], max(heights))


def test_lines_share_axes():
    ax = plots.line(LOOP, [0, 0], [0, 1], tangent_length=0, label="one")
    ax = plots.line(LOOP, [0, 0], [1, 0], tangent_length=0, label="two", horizon=3, ax=ax)
    told = [text.get_text() for text in ax.get_legend().get_texts()]
    assert told == ["one", "best seen", "two"]
    one, two = (line for line in ax.get_lines() if line.get_label() in ("one", "two"))
    assert one.get_color() != two.get_color()
    assert two.get_ydata()[40] == tb.objective(LOOP, [0, 0], horizon=3)


def test_bad_lines_are_named():
    for direction, settings, message in (
        ([0, 0], {}, "direction is 0, so there is no line"),
        ([0, 1, 2], {}, r"direction has shape \(3,\)"),
        ([0, 1], {"steps": [0, 1, 1]}, r"steps\[2\] is 1; at least two"),
        ([0, 1], {"steps": [0]}, r"steps\[0\] is 0; at least two"),
        ([0, 1], {"tangent_length": 2}, "tangent_length is 2.0, not in"),
        ([0, 1], {"horizon": 0}, "horizon is 0"),
    ):
        each_refused((partial(plots.line, LOOP, [0, 0], direction, **settings), message))


def test_a_plane_has_coordinates():
    where = plots.Plane([1.0, 2.0, 3.0], [1.0, 1.0, 0.0], [0.0, 2.0, 1.0])
    np.testing.assert_allclose(where.coordinates([where.point(0.5, -2.0)]), [[0.5, -2.0]])
    off = where.point(1.0, 1.0) + 7.0 * np.cross(where.first, where.second)
    np.testing.assert_allclose(where.coordinates([off]), [[1.0, 1.0]])  # the nearest point
    three = plots.Plane.through([1.0, 0.0], [3.0, 1.0], [0.0, 5.0])
    np.testing.assert_allclose(
        three.coordinates([[1.0, 0.0], [3.0, 1.0], [0.0, 5.0]]),
        [[0, 0], [1, 0], [0, 1]],
        atol=1e-12,
    )


def test_arrows_on_a_plane_are_both_gradients():
    ax = plots.plane(PAID, FLAT, reach=((-1.0, 1.0), (-2.0, 3.0)), n_points=3)
    found = tb.hypergradient(PAID, [0.0, 0.0])
    tips = [np.array(note.xy) for note in ax.texts]
    for tip, gradient in zip(tips, (found.gradient, found.direct), strict=True):
        slopes = np.array([gradient @ FLAT.first, gradient @ FLAT.second])
        np.testing.assert_allclose(tip / np.linalg.norm(tip), slopes / np.linalg.norm(slopes))
    assert max(np.linalg.norm(tip / [2.0, 5.0]) for tip in tips) == pytest.approx(0.2)
    assert ax.get_xlim() == (-1.0, 1.0)
    assert ax.get_ylim() == (-2.0, 3.0)


def test_a_flat_plane_can_be_drawn():
    model = ROUNDS.replace(leader_reward=np.zeros((2, 2)))
    flat = tb.FeatureProblem(model, follower_reward=LOOP.follower_reward)
    assert not plots.plane(flat, FLAT, n_points=2).texts  # no gradient, no arrow


def test_a_path_is_where_the_ascent_was():
    climb = tb.ascend(
        LOOP, [0, 0], tb.ExactGradient(), tb.GradientAscent(0.1), rng=0, n_iterations=5
    )
    thetas = [step.theta for step in climb]
    ax = plots.path(thetas, FLAT, label="exact")
    lines = {line.get_label(): line.get_xydata() for line in ax.get_lines()}
    np.testing.assert_allclose(lines["exact"], FLAT.coordinates(thetas))
    np.testing.assert_allclose(lines["_end"], FLAT.coordinates(thetas[-1:]))


def test_what_is_no_plane_is_named():
    three = plots.Plane(*np.eye(3))
    each_refused(
        (lambda: plots.Plane([0, 0], [1, 0], [2, 0]), "parallel or 0, so they span no plane"),
        (lambda: plots.Plane([0, 0], [1, 0], [0, 0]), "parallel or 0, so they span no plane"),
        (lambda: plots.Plane([0], [1], [2]), "parallel or 0, so they span no plane"),
        (lambda: plots.Plane([0, 0], [1, 0], [0, 0, 1]), r"second has shape \(3,\)"),
        (lambda: plots.plane(LOOP, 3), "where is 3, not a Plane"),
        (lambda: plots.path(WALK, 3), "where is 3, not a Plane"),
        (lambda: plots.path([[0.0]], FLAT), r"thetas has shape \(1, 1\), not \(1\+, 2\)"),
        (lambda: plots.plane(LOOP, FLAT, reach=0.0), "reach is 0.0, not above 1e-100"),
        (lambda: plots.plane(LOOP, FLAT, reach=((0, 1), (2, 1))), r"reach\[1\] is \(2, 1\)"),
        (lambda: plots.plane(LOOP, FLAT, n_points=1), "n_points is 1; at least 2"),
        (lambda: plots.plane(LOOP, three), r"theta has shape \(3,\), not that of a vector of leng"),
    )
