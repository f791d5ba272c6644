"""What the ready-made problems refuse: maps, cells, features, budgets, sizes and thetas."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
from small import put, refusal

import tabular_bilevel as tb
from tabular_bilevel.problems.grid_world import grid_kernel, parse_map

HEAD = "type octile\nheight 2\nwidth 3\nmap\n"
MAP = HEAD + "..G\n.@.\n"


# ---------------------------------------------------------------- maps

FREE = np.array([[True, True, True], [True, False, True]])


@pytest.mark.parametrize(
    ("old", "new"),
    [("", ""), ("\n", "\r\n"), (".\n", ".\n\n\n"), (".\n", "."), ("..G", "..G  "), ("@", "O"),
     ("@", "T"), ("height 2", "height  2 ")],
)  # fmt: skip
def test_maps_are_read(old, new):
    np.testing.assert_array_equal(parse_map(MAP.replace(old, new)), FREE)


def test_maps_are_read_from_files(tmp_path):
    path = tmp_path / "small.map"
    path.write_text(MAP, encoding="ascii")
    np.testing.assert_array_equal(parse_map(path), FREE)
    np.testing.assert_array_equal(parse_map(str(path)), FREE)
    assert tb.problems.grid_world(path).n_parameters == 5


KNOWN = "known are ., G (free) and @, O, T (blocked)"
BAD_MAPS = [
    ("height 2\nwidth 3\nmap\n...\n...\n", "map, line 1: 'type' is missing"),
    ("\n", "map, line 1: 'type' is missing"),
    ("type octile\nwidth 3\nmap\n...\n...\n", "map, line 2: 'height' is missing"),
    ("type octile\nheight 2\nmap\n...\n...\n", "map, line 3: 'width' is missing"),
    ("type octile\nheight 2\nwidth 3\n...\n...\n", "map, line 4: 'map' is missing"),
    ("type octile\nheight 2\n", "map, line 3: 'width' is missing"),
    ("type octile\nhieght 2\nwidth 3\nmap\n", "map, line 2: 'height' is missing"),
    (MAP.replace("height 2", "height 0"), "map, line 2: height is no positive integer"),
    (MAP.replace("height 2", "height -2"), "map, line 2: height is no positive integer"),
    (MAP.replace("height 2", "height"), "map, line 2: height is no positive integer"),
    (MAP.replace("width 3", "width three"), "map, line 3: width is no positive integer"),
    (MAP.replace("width 3", "width 3.0"), "map, line 3: width is no positive integer"),
    (MAP.replace("width 3", "width 3 3"), "map, line 3: width is no positive integer"),
    (MAP.replace("width 3", "width ³"), "map, line 3: width is no positive integer"),
    (HEAD + "...\n", "map has 1 rows, not height 2"),
    (HEAD, "map has 0 rows, not height 2"),
    (HEAD + "...\n" * 3, "map has 3 rows, not height 2"),
    (HEAD + "...\n\n...\n", "map has 3 rows, not height 2"),
    (HEAD + "...\n....\n", "map, line 6: 4 cells, not width 3"),
    (HEAD + "..\n...\n", "map, line 5: 2 cells, not width 3"),
    (HEAD + "\n...\n", "map, line 5: 0 cells, not width 3"),
    (HEAD + "...\n.S.\n", f"map, line 6: cell 2 is 'S'; {KNOWN}"),
    (HEAD + ".\t.\n...\n", f"map, line 5: cell 2 is '\\t'; {KNOWN}"),
    (HEAD + "@OT\n@@@\n", "map has no free cell"),
]


def test_bad_maps_are_refused_by_line():
    for text, message in BAD_MAPS:
        assert refusal(parse_map, text) == message


def test_bad_map_files_are_refused_by_name_and_line(tmp_path):
    path = tmp_path / "bad.map"
    for text, message in BAD_MAPS:
        path.write_text(text, encoding="utf-8")
        if text.isascii():
            assert refusal(parse_map, path) == message.replace("map", f"map {path}", 1)
        else:
            assert refusal(parse_map, path).startswith(f"map {path} cannot be read: ")


def test_files_that_cannot_be_read_are_named(tmp_path):
    missing, folder, binary = tmp_path / "missing.map", tmp_path, tmp_path / "binary.map"
    binary.write_bytes(b"type octile\xff\n")
    for path in (missing, folder, binary, "type octile"):  # a line is taken for a file
        assert refusal(parse_map, path).startswith(f"map {path} cannot be read: ")


# ---------------------------------------------------------------- grid worlds

WALL = " is not a free cell of the map: there is a wall"
OUTSIDE = " is not a free cell of the map: it has 2 rows and 3 columns, from 0"

BAD_GRIDS = [
    ({"start": (1, 1)}, "start (1, 1)" + WALL),
    ({"goal": (1, 1)}, "goal (1, 1)" + WALL),
    ({"target": (1, 1)}, "target (1, 1)" + WALL),
    ({"start": (-1, 0)}, "start (-1, 0)" + OUTSIDE),
    ({"goal": (2, 0)}, "goal (2, 0)" + OUTSIDE),
    ({"target": (0, -1)}, "target (0, -1)" + OUTSIDE),
    ({"target": (0, 3)}, "target (0, 3)" + OUTSIDE),
    ({"slip": -0.1}, "slip is -0.1, not in [0, 1]"),
    ({"slip": 1.5}, "slip is 1.5, not in [0, 1]"),
    ({"slip": np.nan}, "slip is nan, not in [0, 1]"),
    ({"slip": "0.2"}, "slip has dtype <U3; real numbers are needed"),
    ({"slip": [0.2]}, "slip has shape (1,); one number is needed"),
    ({"follower_discount": 1.0}, "follower_discount is 1.0, not in [0, 1)"),
    ({"leader_discount": -0.5}, "leader_discount is -0.5, not in [0, 1]"),
    ({"temperature": 0.0}, "temperature is 0.0, not a positive finite number"),
]


def test_bad_grid_worlds_are_refused():
    for settings, message in BAD_GRIDS:
        assert refusal(tb.problems.grid_world, MAP, **settings) == message
    for name in ("start", "goal", "target"):
        for cell in ((0,), (0, 1, 0), 3, (0.5, 1), ("0", "1")):
            assert refusal(tb.problems.grid_world, MAP, **{name: cell}).startswith(f"{name} ")


@pytest.mark.parametrize("cell", [(0, 2), [0, 2], np.array([0, 2]), (np.int32(0), np.uint8(2))])
def test_cells_are_pairs_of_whole_numbers_of_any_kind(cell):
    initial = tb.problems.grid_world(MAP, start=cell).base.initial
    np.testing.assert_array_equal(initial, [0.0, 0.0, 1.0, 0.0, 0.0])


WITH_MAPS = {
    "features": tb.problems.grid_world(MAP),
    "coins": tb.problems.grid_world(MAP).with_coins(price=0.0),
    "budget": tb.Reparametrised(tb.problems.grid_world(MAP), tb.Budget(total=1.0, n_parameters=6)),
}


@pytest.mark.parametrize("problem", WITH_MAPS.values(), ids=WITH_MAPS)
def test_cells_and_states_of_a_grid_are_each_others_inverse(problem):
    np.testing.assert_array_equal(problem.cells, [[0, 0], [0, 1], [0, 2], [1, 0], [1, 2]])
    assert [problem.at(cell) for cell in problem.cells] == [0, 1, 2, 3, 4]
    assert refusal(problem.at, (1, 1)) == "cell (1, 1)" + WALL
    assert refusal(problem.at, (0, 3)) == "cell (0, 3)" + OUTSIDE


def test_what_has_no_map_has_no_cells():
    loop = tb.problems.two_state()
    assert not hasattr(loop, "cells")
    found = refusal(loop.at, (0, 0))
    assert found == "a FeatureProblem that is not made of a map has no cells"


@pytest.mark.parametrize("problem", WITH_MAPS.values(), ids=WITH_MAPS)
@pytest.mark.parametrize("price", [0.0, 1.0, 2.5])
def test_coins_pay_the_follower_and_cost_the_leader_their_price(problem, price):
    coins, theta = problem.with_coins(price=price), np.arange(5.0)
    without, with_them = coins.model(np.zeros(5)), coins.model(theta)
    gained = with_them.follower_reward - without.follower_reward
    np.testing.assert_allclose(gained, np.tile(theta[:, None], 4), rtol=1e-15)
    spent = without.leader_reward - with_them.leader_reward
    np.testing.assert_allclose(spent, price * gained, rtol=1e-15)
    assert coins.model(theta)._grid_map is problem.with_coins().base._grid_map
    assert coins.parameter_names == ("0, 0", "0, 1", "0, 2", "1, 0", "1, 2")  # cells


def test_a_coin_is_not_paid_for_an_action_that_is_not_there():
    workplace = tb.problems.two_state().with_coins(price=2.0)  # at work there is one action only
    paid = workplace.follower_reward.toarray().tolist()
    assert paid == [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    gradient = tb.hypergradient(workplace, [0.1, 0.2]).gradient
    route = tb.forward_gradient(workplace, [0.1, 0.2])
    np.testing.assert_allclose(gradient, route, rtol=1e-12)


def test_coins_need_a_price_and_features():
    found = refusal(tb.problems.two_state().with_coins, price=np.nan)
    assert found == "price is nan, not a finite number"
    strange = tb.Reparametrised(tb.problems.discrete_toy(), tb.Budget(total=1.0, n_parameters=7))
    with pytest.raises(ValueError, match=r"inner problem .* has no method with_coins"):
        strange.with_coins()


def test_the_warehouse_is_the_published_map_cell_for_cell(maps):
    published = tb.problems.grid_world(maps / "warehouse-20-40-10-2-2.map")
    np.testing.assert_array_equal(tb.problems.warehouse().cells, published.cells)


def test_a_map_is_as_good_as_its_text():
    text = tb.problems.grid_world(MAP, start=(0, 1))
    board = tb.problems.grid_world(tb.problems.GridMap(FREE), start=(0, 1))
    np.testing.assert_array_equal(board.base.transition.toarray(), text.base.transition.toarray())
    np.testing.assert_array_equal(board.base.initial, text.base.initial)


@pytest.mark.parametrize(("temperature", "arrives"), [(0.002, True), (0.05, False)])
def test_the_robot_seeks_its_goal_by_default_and_wanders_when_hotter(temperature, arrives):
    text = "type octile\nheight 1\nwidth 9\nmap\n.........\n"
    model = tb.problems.grid_world(text, temperature=temperature).model(np.zeros(9))
    response = tb.solve_follower(model)
    steps = tb.evaluate_leader(model, response).occupancy.sum()  # discounted; 100 is for ever
    assert (steps < 20.0) if arrives else (steps > 60.0)
    default = tb.solve_follower(tb.problems.grid_world(text).model(np.zeros(9)))
    assert arrives == np.array_equal(response.policy, default.policy)


@pytest.mark.parametrize("slip", [0, 1, 1.0])
def test_slips_from_0_to_1_are_accepted(slip):
    kernel, cells = grid_kernel(FREE, slip=slip)
    assert kernel.shape == (4 * len(cells), len(cells))
    # four chances, of which three are slip / 3
    np.testing.assert_allclose(np.asarray(kernel.sum(axis=1)).ravel(), 1.0, rtol=1e-15)


def test_a_single_cell_is_a_grid_world():
    problem = tb.problems.grid_world("type octile\nheight 1\nwidth 1\nmap\n.\n")
    assert tb.objective(problem, [0.0]) == 1.0


# ---------------------------------------------------------------- features

BASE = tb.problems.two_state().base  # two states, two actions, four stored transitions

ROWS = {"follower_reward": 4, "leader_reward": 4, "transition": 4, "initial": 2}


def no_number(n):
    return put(np.eye(n), (-1, -1), np.nan)


BAD_FEATURES = [
    (lambda n: np.zeros(n), "has shape ({n},), not ({n}, 1+)"),
    (lambda n: np.zeros((n, 1, 1)), "has shape ({n}, 1, 1), not ({n}, 1+)"),
    (lambda n: 1.0, "has shape (), not ({n}, 1+)"),
    (lambda n: np.zeros((n + 1, 2)), "has shape ({more}, 2), not ({n}, 1+)"),
    (lambda n: np.zeros((1, n)), "has shape (1, {n}), not ({n}, 1+)"),
    (lambda n: np.zeros((n, 0)), "has shape ({n}, 0), not ({n}, 1+)"),
    (lambda n: no_number(n), "[{last}, {last}] is nan, not a finite number"),
    (lambda n: np.full((n, 2), -np.inf), "[0, 0] is -inf, not a finite number"),
    (lambda n: np.zeros((n, 2), complex), "has dtype complex128; real numbers are needed"),
    (lambda n: np.eye(n) > 0, "has dtype bool; real numbers are needed"),
    (lambda n: [["a"]] * n, "has dtype <U1; real numbers are needed"),
    (lambda n: [[0.0]] * (n - 1) + [[1.0, 2.0]], "is not a rectangular array of numbers"),
    (lambda n: sp.csr_array((n + 1, 2)), "has shape ({more}, 2), not ({n}, 1+)"),
    (lambda n: sp.csr_array((n, 0)), "has shape ({n}, 0), not ({n}, 1+)"),
    (lambda n: sp.coo_array(np.ones(n)), "has shape ({n},), not ({n}, 1+)"),
    (lambda n: sp.csr_array(no_number(n)), "(stored entries)[{last}] is nan, not a finite number"),
    (lambda n: sp.csr_array(np.eye(n) + 0j), "has dtype complex128; real numbers are needed"),
    (lambda n: sp.csr_array(np.eye(n) > 0), "has dtype bool; real numbers are needed"),
]


@pytest.mark.parametrize("table", ROWS)
def test_bad_features_are_refused_by_table(table):
    n = ROWS[table]
    for matrix, message in BAD_FEATURES:
        spelt = message.format(n=n, more=n + 1, last=n - 1)
        glue = "" if spelt.startswith("[") else " "
        found = refusal(tb.FeatureProblem, BASE, **{table: matrix(n)})
        assert found == f"{table} features{glue}{spelt}"


def test_a_feature_problem_without_features_is_refused():
    found = refusal(tb.FeatureProblem, BASE)
    assert found == "FeatureProblem needs the features of at least one table"


def test_features_of_different_widths_are_refused():
    widths = {"follower_reward": (4, 1), "transition": (4, 2), "initial": (2, 1)}
    found = refusal(tb.FeatureProblem, BASE, **{n: np.zeros(shape) for n, shape in widths.items()})
    told = "follower_reward 1, transition 2, initial 1"
    assert found == f"features differ in their number of parameters: {told}"


@pytest.mark.parametrize("form", [np.array, sp.csr_array, sp.csc_array, sp.coo_array])
def test_features_are_copied(form):
    given = form(np.arange(8.0).reshape(4, 2))
    problem = tb.FeatureProblem(BASE, follower_reward=given)
    np.testing.assert_array_equal(problem.follower_reward.toarray(), np.arange(8.0).reshape(4, 2))
    source = given if isinstance(given, np.ndarray) else given.data
    assert not np.shares_memory(problem.follower_reward.data, source)
    assert source.flags.writeable
    assert not problem.follower_reward.data.flags.writeable


# ---------------------------------------------------------------- budgets


def test_bad_budgets_are_refused():
    for settings, message in (
        ({"n_parameters": 0}, "n_parameters is 0, not a positive whole number"),
        ({"n_parameters": -2}, "n_parameters is -2, not a positive whole number"),
        ({"n_parameters": 2.5}, "n_parameters is 2.5, not a positive whole number"),
        ({"n_parameters": True}, "n_parameters is True, not a positive whole number"),
        ({"n_parameters": None}, "n_parameters is None, not a positive whole number"),
        ({"total": np.nan}, "total is nan, not a finite number"),
        ({"total": -np.inf}, "total is -inf, not a finite number"),
        ({"total": "all"}, "total has dtype <U3; real numbers are needed"),
        ({"total": 1j}, "total has dtype complex128; real numbers are needed"),
        ({"total": None}, "total has dtype object; real numbers are needed"),
        ({"total": [1.0, 2.0]}, "total has shape (2,); one number is needed"),
    ):
        assert refusal(tb.Budget, **{"total": 1.0, "n_parameters": 3, **settings}) == message


@pytest.mark.parametrize("size", [800.0, 1.5e308])
def test_a_budget_of_extreme_logits_goes_to_one_item(size):
    budget = tb.Budget(total=2.0, n_parameters=3)
    np.testing.assert_array_equal(budget.forward([size, -size, -size]), [2.0, 0.0])


def test_a_budget_that_does_not_fit_its_problem_is_refused():
    problem = tb.Reparametrised(tb.problems.bandit(), tb.Budget(total=1.0, n_parameters=5))
    found = refusal(problem.model, np.zeros(5))
    assert found == "theta has shape (4,), not that of a vector of length 2"


# ---------------------------------------------------------------- bounds, and lines


def test_a_box_maps_into_its_bounds_and_back():
    box = tb.Box([-1.0, 0.0, 2.0], [1.0, 0.5, 3.0])
    inside = np.array([-0.9, 0.25, 2.999])
    np.testing.assert_allclose(box.forward(box.logits(inside)), inside, rtol=1e-13)
    np.testing.assert_array_equal(box.forward([-900.0, 0.0, 900.0]), [-1.0, 0.25, 3.0])


FINITE = ", by a finite number"


def test_bad_boxes_are_refused():
    for bounds, message in (
        (([0.0, 1.0], [1.0, 1.0]), f"low[1] is 1, not below high[1], 1{FINITE}"),
        (([0.0], -0.5), f"low[0] is 0, not below high[0], -0.5{FINITE}"),
        ((-1.5e308, 1.5e308), f"low[0] is -1.5e+308, not below high[0], 1.5e+308{FINITE}"),
        ((-np.inf, 0.0), "low[0] is -inf, not a finite number"),
        (([0.0, 0.0], [np.nan, 1.0]), "high[0] is nan, not a finite number"),
        (([0.0, 0.0], [1.0, 1.0, 1.0]), "low has shape (2,), not that of a vector of length 3"),
        (([[0.0]], 1.0), "low has shape (1, 1), not that of a vector of length 1"),
        (("a", 1.0), "low has dtype <U1; real numbers are needed"),
        (([], 1.0), "low has shape (0,), not that of a vector of length 1"),
        (([[1.0], [2.0, 3.0]], 5.0), "low is not a rectangular array of numbers"),
    ):
        assert refusal(tb.Box, *bounds) == message


@pytest.mark.parametrize("bad", [0.0, 1.0, 1.5, -0.1])
def test_a_box_has_no_logits_of_what_is_not_inside(bad):
    found = refusal(tb.Box([0.0, 0.0], 1.0).logits, [0.5, bad])
    assert found == f"x[1] is {bad:g}, not between the bounds 0 and 1"


def test_a_line_is_the_problem_along_a_direction():
    problem, theta = tb.problems.garnet(), np.full(6, 0.1)
    direction = np.arange(6.0)
    curve = tb.along(problem, theta, direction)
    there = tb.hypergradient(problem, theta + 0.3 * direction)
    slope = tb.hypergradient(curve, [0.3])
    assert slope.objective == there.objective
    assert slope.gradient == pytest.approx([there.gradient @ direction], rel=1e-13)
    assert tb.check_gradient(curve, [0.3]).passed
    found = refusal(curve.model, [0.0, 0.0])
    assert found == "theta has shape (2,), not that of a vector of length 1"


def test_bad_lines_are_refused():
    for theta, direction, message in (
        ([0.0, 0.0], [0.0, 0.0], "direction is 0, so there is no line"),
        ([[0.0], [0.0, 1.0]], [1.0, 1.0], "theta is not a rectangular array of numbers"),
        ([0.0, 0.0], [1.0], "direction has shape (1,), not that of a vector of length 2"),
        ([0.0, np.inf], [1.0, 0.0], "theta[1] is inf, not a finite number"),
    ):
        assert refusal(tb.along, tb.problems.two_state(), theta, direction) == message
    for wrong in ([0.0, 0.0], tb.FeatureProblem):
        assert refusal(tb.along, wrong, [0.0, 0.0], [1.0, 0.0]).startswith("problem is ")


# ---------------------------------------------------------------- theta of every problem

MADE = {name: make() for name, make in tb.problems.CATALOGUE.items()}

each_problem = pytest.mark.parametrize("problem", MADE.values(), ids=MADE)

WAYS = {
    "model": lambda problem, theta: problem.model(theta),
    "pullback": lambda problem, theta: problem.pullback(theta, None),
    "pushforward": lambda problem, theta: problem.pushforward(theta, np.zeros(np.size(theta))),
    "hypergradient": tb.hypergradient,
    "objective": tb.objective,
}


@each_problem
def test_a_bad_theta_is_refused_whatever_is_asked_for(problem):
    d = problem.n_parameters
    no_vector, no_numbers = f"not that of a vector of length {d}", "; real numbers are needed"
    bad = {
        f"theta has shape ({d - 1},), {no_vector}": np.zeros(d - 1),
        f"theta has shape ({d + 1},), {no_vector}": np.zeros(d + 1),
        f"theta has shape (1, {d}), not that of a vector of ": np.zeros((1, d)),
        f"theta has dtype <U1{no_numbers}": ["0"] * d,
        f"theta has dtype complex128{no_numbers}": np.zeros(d, complex),
    }
    for number in (np.nan, np.inf, -np.inf):
        bad[f"theta[{d - 1}] is {number}, not a finite number"] = put(np.zeros(d), -1, number)
    for (message, theta), (name, way) in itertools.product(bad.items(), WAYS.items()):
        assert refusal(way, problem, theta).startswith(message), name


@each_problem
def test_an_integer_theta_is_as_good_as_a_float_and_neither_is_changed(problem):
    theta = np.arange(problem.n_parameters) % 3
    real = theta.astype(float)
    one, other = problem.model(theta), problem.model(real)
    np.testing.assert_array_equal(one.follower_reward, other.follower_reward)
    np.testing.assert_array_equal(one.transition.data, other.transition.data)
    tb.hypergradient(problem, real)
    np.testing.assert_array_equal(theta, real)
    assert real.flags.writeable


# ---------------------------------------------------------------- settings of the others

FAMILIES = {
    "garnet": ("n_states", "n_actions", "branching", "n_parameters"),
    "layered": ("depth", "width", "n_actions", "branching", "n_parameters"),
    "layered_game": ("depth", "width", "n_leader_actions", "n_actions", "branching"),
    "random_game": ("n_states", "n_leader_actions", "n_actions", "branching"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_are_positive_whole_numbers(family):
    make = getattr(tb.problems, family)
    for size, value in itertools.product(FAMILIES[family], (0, -1, 1.5, True)):
        message = f"{size} is {value}, not a positive whole number"
        assert refusal(make, **{size: value}) == message


def test_branching_is_at_most_the_number_of_successors():
    for family, settings, available in (
        ("garnet", {"branching": 21}, 20),
        ("garnet", {"branching": 3, "n_states": 2}, 2),
        ("layered", {"branching": 4}, 3),
        ("layered", {"branching": 2, "width": 1}, 1),
        ("layered", {"branching": 4, "depth": 1}, 3),
        ("layered_game", {"branching": 4}, 3),
        ("layered_game", {"branching": 2, "width": 1}, 1),
        ("random_game", {"branching": 7}, 6),
    ):
        told = f"branching is {settings['branching']}, more than the {available} states there are"
        assert refusal(getattr(tb.problems, family), **settings) == told


@pytest.mark.parametrize("family", FAMILIES)
def test_bad_settings_of_random_families_are_refused(family):
    make = getattr(tb.problems, family)
    for rng in (None, -1, True):
        words = "not a numpy Generator or a seed of at least 0"
        assert refusal(make, rng=rng) == f"rng is {rng}, {words}"
    for settings, message in (
        ({"temperature": 0.0}, "temperature is 0.0, not a positive finite number"),
        ({"follower_discount": 1.0}, "follower_discount is 1.0, not in [0, 1)"),
        ({"leader_discount": np.nan}, "leader_discount is nan, not in [0, 1]"),
    ):
        assert refusal(make, **settings) == message


@pytest.mark.parametrize("family", FAMILIES)
def test_random_families_depend_on_the_seed_alone(family):
    one, same, other = (
        getattr(tb.problems, family)(rng=rng) for rng in (3, np.random.default_rng(3), 4)
    )
    theta = np.zeros(one.n_parameters)
    rewards, again, others = (p.model(theta).follower_reward for p in (one, same, other))
    np.testing.assert_array_equal(rewards, again)
    assert (rewards != others).any()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_smallest_sizes_are_accepted(family):
    sizes = dict.fromkeys(FAMILIES[family], 1)
    problem = getattr(tb.problems, family)(**sizes)
    gradient = tb.hypergradient(problem, [0.5]).gradient
    assert gradient.shape == (1,)


def test_bad_settings_of_named_problems_are_refused_by_name():
    for name, setting, value, words in (
        ("four_rooms", "slip", 2.0, " is 2.0, not in [0, 1]"),
        ("four_rooms", "temperature", 0.0, " is 0.0, not a positive finite number"),
        ("four_rooms", "penalty", np.nan, " is nan, not a finite number"),
        ("four_rooms", "penalty", np.inf, " is inf, not a finite number"),
        ("four_rooms", "penalty", "high", " has dtype <U4; real numbers are needed"),
        ("discrete_toy", "reward", np.nan, " is nan, not a finite number"),
        ("discrete_toy", "reward", -np.inf, " is -inf, not a finite number"),
        ("discrete_toy", "reward", "1", " has dtype <U1; real numbers are needed"),
        ("discrete_toy", "reward", [1.0], " has shape (1,); one number is needed"),
        ("bandit", "leader_reward", [], " has shape (0,), not (1+,)"),
        ("bandit", "leader_reward", [[0.0, 1.0]], " has shape (1, 2), not (1+,)"),
        ("bandit", "leader_reward", [0.0, np.nan], "[1] is nan, not a finite number"),
        ("bandit", "temperature", -1.0, " is -1.0, not a positive finite number"),
        ("two_state", "wage", np.nan, " is nan, not a finite number"),
        ("two_state", "wage", -np.inf, " is -inf, not a finite number"),
        ("two_state", "wage", "1", " has dtype <U1; real numbers are needed"),
    ):
        assert refusal(getattr(tb.problems, name), **{setting: value}) == setting + words
    found = refusal(tb.problems.two_state, leader_discount=1.0)
    assert found.startswith("leader_discount is 1, and from state 0 the episode never ends: no pa")


def test_small_random_problems_branch_as_far_as_they_can():
    assert tb.problems.garnet(n_states=2).base.transition.nnz == 2 * 4 * 2
    assert tb.problems.layered(depth=2, width=1).base.transition.nnz == 2
    assert tb.problems.random_game(n_states=1).transition.nnz == 6


@pytest.mark.parametrize("given", [None, b"type octile", 3])
def test_a_map_is_a_path_or_a_text(given):
    found = refusal(tb.problems.grid_world, given)
    assert found == f"map is {given!r}, neither a path nor a text"


def test_a_problem_names_itself():
    assert str(tb.problems.bandit()).startswith("FeatureProblem: 2 parameters; at 0, Model: 1 stat")


@pytest.mark.parametrize("wrong", [object(), lambda theta: theta, tb.problems.rounds])
def test_messages_say_what_was_given_without_its_address(wrong):
    for given in (
        lambda: tb.hypergradient(wrong, [0.0]),
        lambda: tb.solve_follower(tb.problems.bandit().base, solver=wrong),
    ):
        with pytest.raises(ValueError, match=r"^\w+ is <.*>, which has no method") as caught:
            given()
        assert "0x" not in str(caught.value)
