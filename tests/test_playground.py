"""The playground: its JavaScript against the package, under Node, and its page in a browser."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from sizes import sizes

import tabular_bilevel as tb
from tabular_bilevel import playground
from tabular_bilevel.cli import main

FOLDER = Path(playground.__file__).parent
SOURCE = "".join(
    (FOLDER / name).read_text(encoding="utf-8")
    for name in ("solver.js", "settings.js", "experiments.js")
)

# Of each array's largest entry. Both solve to rounding; low temperatures and long walks enlarge it.
CLOSE = 1e-9
N_VECTORS = 40
SCALARS = ("follower_discount", "leader_discount", "temperature")
MINUS = "\N{MINUS SIGN}"
# Standard errors within which a mean of many walks is.
LIMIT = 5.0


def in_node(tail, given=None, source=SOURCE):
    """Run the page's equations under Node, and give what the tail makes of ``given``."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node, which runs JavaScript")
    script = (
        source + f"\nconst given = {json.dumps(given)};\nconsole.log(JSON.stringify({tail}));\n"
    )
    # From standard input: a script's name would be looked for in folders of modules.
    ran = subprocess.run([node, "-"], input=script, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def problem_at(setting):
    """Build the problem of a setting, and its theta, with the package alone."""
    problem = tb.problems.grid_world(
        f"type octile\nheight {len(setting['map'])}\nwidth {len(setting['map'][0])}\nmap\n"
        + "\n".join(setting["map"]),
        **{name: tuple(setting[name]) for name in ("start", "goal", "target")},
        **{name: setting[name] for name in ("slip", *SCALARS)},
    ).with_coins(price=setting["price"])
    theta = np.zeros(problem.n_parameters)
    for row, column, coin in setting["coins"]:
        theta[problem.at((row, column))] = coin
    return problem, theta


def answer(setting):
    """Compute what the page shows of a setting."""
    problem, theta = problem_at(setting)
    found = tb.hypergradient(problem, theta)
    visits = found.evaluation.occupancy
    return {
        "objective": found.objective,
        "value": found.response.value,
        "policy": found.response.policy,
        "leaderValue": found.evaluation.value,
        "visits": visits,
        "influence": found.indirect,
        "direct": found.direct,
        "gradient": found.gradient,
        "paid": setting["price"] * (visits @ theta),
        "length": visits.sum(),
    }


def random_setting(rng):
    height, width = rng.integers(2, 7, size=2)
    blocked = rng.random((height, width)) < 0.2
    blocked[0, 0] = False
    free = np.argwhere(~blocked)
    start, goal, target = (free[rng.integers(len(free))].tolist() for _ in range(3))
    return {
        "map": ["".join(".@"[int(b)] for b in row) for row in blocked],
        "start": start,
        "goal": goal,
        "target": target,
        "slip": rng.uniform(0.0, 0.5),
        "temperature": 10.0 ** rng.uniform(-2.5, 0.0),
        "follower_discount": rng.uniform(0.5, 0.995),
        "leader_discount": rng.uniform(0.5, 0.995),
        "price": rng.uniform(0.0, 5.0),
        "coins": [[*cell, 0.1 * rng.normal()] for cell in free.tolist() if rng.random() < 0.5],
    }


@pytest.fixture(scope="module")
def vectors():
    """Settings with the package's answers: all experiments, ready maps, and random grids."""
    rng = np.random.default_rng(0)
    shown = in_node("EXPERIMENTS.flatMap((e) => e.run()).map((row) => row.setting)")
    named = {json.dumps(s): s for s in [*shown, *in_node("Object.values(READY)")]}
    settings = [*named.values(), *(random_setting(rng) for _ in range(N_VECTORS - len(named)))]
    assert len(settings) - len(named) >= 20
    return [(setting, answer(setting)) for setting in settings]


def worst(vectors, source=SOURCE):
    """Find how far the page's numbers are from the package's, beside each array's largest."""
    found = in_node(
        "given.map((setting) => {"
        " const s = solve(setting);"
        " for (const name in s) if (s[name] instanceof Float64Array) s[name] = [...s[name]];"
        " return s; })",
        [setting for setting, _ in vectors],
        source,
    )
    gaps = [
        np.abs(np.subtract(one[name], right)).max() / (np.abs(right).max() or 1.0)
        for one, (_, expected) in zip(found, vectors, strict=True)
        for name, right in expected.items()
    ]
    return float(np.max(gaps))


def test_the_page_computes_what_the_package_does(vectors):
    assert len(vectors) == N_VECTORS
    assert worst(vectors) < CLOSE


def mutant(right, wrong):
    assert SOURCE.count(right) == 1, right
    return SOURCE.replace(right, wrong)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("through + direct[s]", "through - direct[s]"),
        ("(s === target ? 1 : 0) - price", "(s === target ? 1 : 0) + price"),
        ("source[grid.reached[s][move]] += gF", "source[grid.reached[s][move]] -= gF"),
        ("source[grid.reached[s][move]] += gF", "source[grid.reached[s][move]] += gL"),
        ("policy[s][move] * a) / temperature", "policy[s][move] * a)"),
        ("walk.solveTransposed(", "walk.solve("),
        ("equations.solveTransposed(", "walk.solveTransposed("),
        ("slip, leads, gL, leaderValue", "slip, leads, gF, leaderValue"),
        ("const follows = coins.map((coin, s) => coin +", "const follows = coins.map((coin, s) =>"),
    ],
)
def test_a_mistake_in_the_page_is_seen(vectors, right, wrong):
    assert worst(vectors, mutant(right, wrong)) > 100.0 * CLOSE


def standard_errors_off(source=SOURCE):
    """How far the mean of 20,000 walks is from the gradient, in the worst cell."""
    setting = {
        **in_node("HALL"),
        "temperature": 0.1,  # warm: it comes everywhere
        "follower_discount": 0.8,
        "leader_discount": 0.9,
        "price": 2.0,
        "coins": [[0, 3, 0.1], [4, 3, -0.2]],
    }
    found = in_node(
        "(() => { const s = sample(given, solve(given), 20000, generator(1));"
        " return [[...s.mean], [...s.error]]; })()",
        setting,
        source,
    )
    mean, error = np.array(found)
    problem, theta = problem_at(setting)
    off = np.abs(mean - tb.hypergradient(problem, theta).gradient)
    return (off / np.maximum(error, 1e-300)).max()  # a cell where no walk came has no error


def test_the_mean_of_many_walks_is_the_gradient():
    assert standard_errors_off() < LIMIT


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("credit *= gF / on", "credit *= 1"),
        ("weight *= gL / on", "weight *= gL"),
        ("credit - price * weight", "credit + price * weight"),
        ("(weight * solved.advantage[state][action]) / temperature", "0"),
        ("random() >= on", "random() >= 0.5"),
    ],
)
def test_a_mistake_in_the_walks_is_seen(right, wrong):
    assert standard_errors_off(mutant(right, wrong)) > LIMIT


def climbed(setting, part):
    """Twenty steps uphill, by the package."""
    delay = 1.0 - setting["follower_discount"]
    problem, theta = problem_at(setting)
    for _ in range(20):
        gradient = getattr(tb.hypergradient(problem, theta), part)
        step = 0.04 * delay * gradient / np.abs(gradient).max()
        theta = np.clip(theta + step, -0.8 * delay, 0.8 * delay)
    return tb.objective(problem, theta)


@pytest.mark.slow
def test_the_experiments_say_what_is_so():
    hall = in_node("HALL")
    rows = in_node("EXPERIMENTS.map((e) => e.run())")
    objectives = [[row.get("objective") for row in found] for found in rows]
    for found in rows[:3]:
        for row in found:
            problem, theta = problem_at(row["setting"])
            assert row["objective"] == pytest.approx(tb.objective(problem, theta), rel=CLOSE)
    asleep, traffic, loiterer, climbs, _ = objectives
    assert asleep == sorted(asleep)
    assert asleep[-1] > 100 * asleep[0]
    none, start, table, fee = traffic
    assert start < none < table < fee
    busiest = np.argmax(answer(hall)["visits"])
    assert problem.at(hall["start"]) == busiest
    assert np.argmax(loiterer) == 1
    exact, frozen, *sampled = climbs
    assert exact == pytest.approx(climbed(hall, "gradient"), rel=1e-6)  # twenty steps enlarge gaps
    assert frozen == pytest.approx(climbed(hall, "direct"), rel=1e-6)
    assert frozen < min(sampled)
    assert sampled == sorted(sampled)
    few, _, many = (row["noise"] for row in rows[4])
    assert 7.0 < few / many < 14.0  # a tenth, but for the noise of the noise
    rights = in_node("EXPERIMENTS.map((e) => [e.right, e.answers.length])")
    assert all(0 <= right < n for right, n in rights)


def test_a_setting_goes_through_the_address():
    hall = in_node("HALL")
    setting = random_setting(np.random.default_rng(5))
    assert in_node("fromHash(toHash(given))", setting) == setting
    assert in_node("toHash(HALL)") == ""
    assert in_node("fromHash('')") == hall
    part = in_node("fromHash('#state=' + encodeURIComponent('{\"temperature\": 0.5}'))")
    assert part == {**hall, "temperature": 0.5}


def test_a_wrong_address_is_told():
    complaints = {
        "{": "no JSON:",
        "[]": "no JSON object",
        "null": "no JSON object",
        '{"heat": 1}': 'a state has no "heat"',
        '{"temperature": 0}': "temperature is 0, not a number from 0.001 to 10",
        '{"temperature": "1"}': 'temperature is "1", not a number',
        '{"follower_discount": 1}': "follower_discount is 1, not a number from 0 to 0.999",
        '{"map": []}': "map is no list of equally long rows",
        '{"map": ["..", "."]}': "map is no list of equally long rows",
        '{"map": ["..x"]}': "map is no list of equally long rows",
        json.dumps({"map": ["." * 33]}): "at most 32 \N{MULTIPLICATION SIGN} 32",
        '{"start": [1, 1]}': "start is [1,1], not the [row, column] of a free cell",
        '{"goal": 3}': "goal is 3, not the [row, column]",
        '{"target": [0.5, 0]}': "target is [0.5,0], not the [row, column]",
        '{"coins": 1}': "coins is no list",
        '{"coins": [[0, 0, 1], [1, 1, 1]]}': "coins[1] is [1,1,1], not [row, column, amount]",
        '{"coins": [[0, 0, null]]}': "coins[0] is [0,0,null], not",
        '{"coins": [[0, 0, 1], [0, 0, 2]]}': "coins has two for [0,0]",
    }
    told = in_node(
        "given.map((state) => { try { return fromHash('#state=' + encodeURIComponent(state)); }"
        " catch (error) { return error.message; } })",
        list(complaints),
    )
    for said, complaint in zip(told, complaints.values(), strict=True):
        assert complaint in said


@sizes("seed", [0], [1, 2])
def test_copied_python_computes_the_same(seed, capsys):
    setting = random_setting(np.random.default_rng(seed))
    program = in_node("asPython(given, solve(given).objective)", setting)
    namespace = {}
    exec(program, namespace)
    expected = answer(setting)
    assert namespace["found"].objective == pytest.approx(expected["objective"], rel=1e-12)
    shown = re.search(r"# the page says (.*)", program)[1]
    assert float(shown) == pytest.approx(expected["objective"], rel=CLOSE)
    assert f"J {namespace['found'].objective}" in capsys.readouterr().out


def test_the_page_needs_nothing_else():
    page = playground.page()
    assert '<link rel="stylesheet"' not in page
    assert re.findall(r"\b(?:src|href)=\"(?!data:)", page) == []
    assert "http" not in page.replace("http-equiv", "")
    assert "default-src 'none'" in page  # and the browser would refuse
    for name in ("solver.js", "settings.js", "experiments.js", "page.js", "style.css"):
        assert (FOLDER / name).read_text(encoding="utf-8") in page


def test_the_command_writes_the_page_and_opens_it(tmp_path, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    file = tmp_path / "play me.html"
    assert main(["playground", str(file)]) == 0
    assert file.read_text(encoding="utf-8") == playground.page()
    assert opened == []
    assert main(["playground", str(file), "--open"]) == 0
    assert opened == [file.as_uri()]
    assert file.as_uri() in capsys.readouterr().out


def test_no_browser_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("webbrowser.open", lambda address: False)
    assert main(["playground", str(tmp_path / "page.html"), "--open"]) == 1
    assert "no browser could be opened" in capsys.readouterr().out


# ---- The page, in a browser ---------------------------------------------------------------------


def keys(*names):
    """What is typed; letters are their own names."""
    from selenium.webdriver.common.keys import Keys

    return [getattr(Keys, name, name) for name in names]


class Page:
    """The playground in a browser, and what it shows."""

    def __init__(self, driver, file):
        self.driver, self.address = driver, file.as_uri()

    def load(self, state=""):
        self.driver.get("about:blank")
        self.driver.get(self.address + state)
        return self

    def find(self, selector):
        return self.driver.find_element("css selector", selector)

    def text(self, selector):
        self.drawn()
        return self.find(selector).text

    def cell(self, row, column):
        return self.find(f"[data-place='[{row},{column}]']")

    @property
    def focused(self):
        return self.driver.switch_to.active_element

    def press(self, *names):
        for key in keys(*names):
            self.focused.send_keys(key)

    def drawn(self):
        self.driver.execute_async_script(
            "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))"
        )

    @property
    def setting(self):
        return self.driver.execute_script("return fromHash(location.hash)")

    @property
    def objective(self):
        self.drawn()
        return float(self.find("#objective").get_attribute("value"))

    def agrees(self):
        """Say whether J is what the package computes of the setting in the address."""
        return self.objective == pytest.approx(answer(self.setting)["objective"], rel=CLOSE)


@pytest.fixture
def page(chromium, tmp_path):
    file = tmp_path / "page.html"
    file.write_text(playground.page(), encoding="utf-8")
    chromium.get_log("browser")
    yield Page(chromium, file).load()
    assert chromium.get_log("browser") == []


def test_a_click_places_a_coin(page):
    before = page.objective
    assert page.agrees()
    page.cell(4, 3).click()
    assert page.setting["coins"] == [[4, 3, 0.02]]
    assert page.objective != before
    assert page.agrees()
    assert "coin of 0.0200" in page.cell(4, 3).get_attribute("aria-label")
    assert page.text("#live").startswith("J 0.0646, before 0.0210")


@pytest.mark.slow
def test_a_click_places_what_was_chosen(page):
    page.cell(4, 3).click()
    page.find("#tools [value=fee]").click()
    page.cell(2, 4).click()
    page.find("#tools [value=wall]").click()
    page.cell(0, 3).click()
    page.cell(2, 0).click()  # where the start is
    page.find("#tools [value=target]").click()
    page.cell(4, 2).click()
    assert page.setting["coins"] == [[4, 3, 0.02], [2, 4, -0.02]]
    assert page.setting["map"][0] == "...@..."
    assert page.setting["map"][2] == "......."
    assert page.setting["target"] == [4, 2]
    assert page.agrees()
    assert page.find("#ready").get_attribute("value") == "one of your own"


def test_a_wrong_sign_in_the_page_is_seen(chromium, tmp_path):
    file = tmp_path / "wrong.html"
    right = "(s === target ? 1 : 0) - price"
    assert right in playground.page()
    file.write_text(playground.page().replace(right, right.replace("-", "+")), encoding="utf-8")
    wrong = Page(chromium, file).load()
    assert wrong.agrees()  # there is no coin yet
    wrong.cell(4, 3).click()
    assert not wrong.agrees()


@pytest.mark.slow
def test_steps_uphill_and_back(page):
    start = page.objective
    for _ in range(3):
        before = page.objective
        page.find("#uphill").click()
        assert page.objective > before
        assert page.agrees()
    assert "change by change: from 0.0210" in page.text("#history-words")
    for _ in range(3):
        page.find("#undo").click()
    assert page.objective == pytest.approx(start, rel=CLOSE)
    assert page.setting["coins"] == []
    assert not page.find("#undo").is_enabled()
    page.find("#uphill").click()
    page.find("#reset").click()
    assert page.setting["coins"] == []
    page.find("#undo").click()  # of the reset
    assert len(page.setting["coins"]) == 27


def test_a_step_by_keyboard(page):
    page.press("TAB")
    assert "start S" in page.focused.get_attribute("aria-label")
    page.press("ARROW_DOWN", "+")
    assert page.setting["coins"] == [[3, 0, 0.02]]
    page.press("z", "u")
    assert len(page.setting["coins"]) == 27
    assert page.agrees()


@pytest.mark.slow
def test_all_of_it_by_keyboard(page):
    page.press("TAB", "ARROW_DOWN", "ARROW_DOWN", "+", "+", "-")
    assert page.setting["coins"] == [[4, 0, 0.02]]
    page.focused.send_keys(*keys("SHIFT", "ARROW_RIGHT"))  # takes it along
    assert page.setting["coins"] == [[4, 1, 0.02]]
    assert page.focused == page.cell(4, 1)
    page.press("ARROW_RIGHT", "ENTER")
    assert page.setting["coins"] == [[4, 1, 0.02], [4, 2, 0.02]]
    page.press("0", "ARROW_LEFT", "0")
    assert page.setting["coins"] == []
    for key, view in (("v", "Value"), ("o", "Visits"), ("g", "Gradient"), ("i", "Influence")):
        page.press(key)
        assert page.text("#legend").startswith(view)
    page.press("u")
    assert len(page.setting["coins"]) == 27
    assert page.agrees()
    page.press("z")
    assert page.setting["coins"] == []
    page.press("u", "r")
    assert page.setting["coins"] == []
    page.press("?")
    assert page.find("#keys").is_displayed()
    page.press("ESCAPE")
    assert not page.find("#keys").is_displayed()


def test_a_coin_and_the_table_are_dragged(page):
    from selenium.webdriver import ActionChains

    def drag(start, *way):
        chain = ActionChains(page.driver, duration=20).click_and_hold(page.cell(*start))
        for place in way:
            chain = chain.move_to_element(page.cell(*place))
        chain.release().perform()

    page.cell(0, 3).click()
    drag((0, 3), (1, 3), (2, 3), (3, 3))
    assert page.setting["coins"] == [[3, 3, 0.02]]
    drag((4, 3), (4, 4), (4, 5))
    assert page.setting["target"] == [4, 5]
    drag((3, 3), (3, 2))  # a wall
    assert page.setting["coins"] == [[3, 3, 0.02]]
    assert page.agrees()
    for _ in range(3):
        page.find("#undo").click()
    assert page.setting == in_page(page, "HALL")


def in_page(page, expression):
    return page.driver.execute_script(f"return {expression}")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["temperature", "follower_discount", "leader_discount", "price"])
def test_a_slider_moves_what_it_says(page, name):
    page.cell(4, 3).click()
    before = page.setting
    page.find(f"#{name}").send_keys(*keys("ARROW_LEFT"))
    assert {key for key in before if before[key] != page.setting[key]} == {name}
    assert page.setting[name] < before[name]
    assert page.text(f"#{name}-words") == str(page.setting[name])
    assert page.agrees()
    page.find("#undo").click()
    assert page.setting == before


@pytest.mark.slow
def test_the_cell_says_why(page):
    page.cell(4, 3).click()
    page.find("#undo").click()
    told = page.text("#why-table").splitlines()
    expected = answer(page.setting)
    state = problem_at(page.setting)[0].at((4, 3))
    for line, name in zip(told, ("visits", "influence", "direct", "gradient"), strict=False):
        number = re.search(f"[+{MINUS}]?\\d\\S*", line)[0].replace(MINUS, "-")
        assert float(number) == pytest.approx(expected[name][state], rel=5e-3)  # three digits
    assert told[4].startswith("J, predicted 0.0386")
    assert told[5].startswith("J, exactly 0.0646")
    page.find("#coin").send_keys(*keys("ARROW_RIGHT"))
    assert page.setting["coins"] == [[4, 3, 0.002]]
    assert page.agrees()


@pytest.mark.slow
def test_the_picture_has_the_colours_of_the_signs(page):
    page.drawn()
    pixels = page.driver.execute_script(
        "const canvas = document.getElementById('picture'), { width, height } = canvas;"
        "const all = canvas.getContext('2d').getImageData(0, 0, width, height).data;"
        "return [[4, 3], [2, 1], [1, 1]].map(([i, j]) => {"
        " const at = 4 * (Math.floor((i + 0.8) * height / 5) * width"
        "  + Math.floor((j + 0.3) * width / 7));"
        " return [...all.slice(at, at + 3)]; })"
    )
    (above, below, wall) = ((p[0], p[2]) for p in pixels)  # red and blue
    assert above[1] > above[0] + 50
    assert below[0] > below[1] + 50
    assert wall[0] == wall[1] < 100


@pytest.mark.slow
def test_a_walk_is_animated(page):
    page.load("#state=" + quote('{"coins": [[4, 3, 0.2]]}'))  # it stays, for half a minute
    page.press("TAB", " ")
    assert page.text("#walk") == "Stop"
    length = in_page(page, "state.walk.path.length")
    for _ in range(100):
        page.drawn()
        if in_page(page, "state.walk.path.length") > length:
            break
    else:
        pytest.fail("the robot does not move")
    page.press(" ")
    assert page.text("#walk") == "Walk"
    assert page.text("#warning").startswith("The robot is stopped after")


@pytest.mark.slow
def test_a_walk_does_not_move_for_those_who_want_no_motion(page):
    wish = {"features": [{"name": "prefers-reduced-motion", "value": "reduce"}]}
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", wish)
    page.load("#state=" + quote('{"temperature": 0.005}'))
    page.find("#walk").click()
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert "arrived after" in page.text("#warning")
    assert page.text("#walk") == "Walk"


@pytest.mark.slow
def test_sampled_and_frozen_gradients(page):
    page.find("#gradients [value=sampled]").click()
    assert "This estimate: cosine" in page.text("#noise-words")
    first = page.text("#noise-words")
    page.find("#again").click()
    assert page.text("#noise-words") != first
    page.find("#gradients [value=frozen]").click()
    assert not page.find("#noise").is_displayed()
    assert "influence" not in page.text("#legend")
    page.find("#uphill").click()
    assert all(coin < 0 for _, _, coin in page.setting["coins"])
    assert page.agrees()


@pytest.mark.slow
def test_copied_python_gives_what_the_page_shows(page, capsys):
    page.cell(4, 3).click()
    page.find("#uphill").click()
    page.find("#python").click()
    namespace = {}
    exec(page.find("#program textarea").get_attribute("value"), namespace)
    assert page.objective == pytest.approx(namespace["found"].objective, rel=CLOSE)
    capsys.readouterr()


@pytest.mark.slow
def test_an_experiment_asks_first(page):
    for experiment in page.driver.find_elements("css selector", "#experiments details"):
        experiment.find_element("css selector", "summary").click()
        show = experiment.find_element("css selector", "button")
        assert not show.is_enabled()
        experiment.find_elements("css selector", "input")[1].click()
        show.click()
        assert "s you predicted." in experiment.find_element("css selector", ".told").text
        _, first, *_ = experiment.find_elements("css selector", "tr")
        number, *_, look = first.find_elements("css selector", "td")
        look.find_element("css selector", "button").click()
        assert page.agrees()
        if "cosine" not in experiment.text:  # the table is of J
            assert float(number.text) == pytest.approx(page.objective, rel=5e-3)  # three digits


def test_a_link_carries_a_state(page):
    setting = random_setting(np.random.default_rng(8))
    page.load("#state=" + quote(json.dumps(setting)))
    assert page.setting == setting
    assert page.agrees()
    assert not page.find("#trouble").is_displayed()
    page.load("#state=" + quote('{"slip": 2}'))
    assert page.find("#trouble").text.endswith("slip is 2, not a number from 0 to 1.")
    assert page.objective == pytest.approx(answer(in_page(page, "HALL"))["objective"], rel=CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("ready", [0, 1, 2])
def test_the_ready_maps(page, ready):
    name = in_page(page, f"Object.keys(READY)[{ready}]")
    page.find("#ready").send_keys(name)
    assert page.setting == in_page(page, f"READY[{name!r}]")
    assert page.find("#ready").get_attribute("value") == name
    assert page.agrees()
    side = page.cell(0, 0).size
    assert side["width"] == pytest.approx(side["height"], abs=1.5)


@sizes("width", [360], [390])
def test_it_fits_a_phone(page, width):
    phone = {"width": width, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        page.load()
        page.driver.execute_script(
            "for (const box of document.querySelectorAll('details')) box.open = true"
        )
        assert in_page(page, "document.documentElement.scrollWidth") <= width
        assert page.cell(0, 0).size["width"] >= 44
        small = [
            one.get_attribute("outerHTML")
            for one in page.driver.find_elements("css selector", "button, select, fieldset label")
            if one.is_displayed() and one.size["height"] < 44
        ]
        assert small == []
        for name in ("#objective", "#uphill", "#undo", "#walk"):
            where = in_page(page, f"document.querySelector('{name}').getBoundingClientRect()")
            assert 0 <= where["left"] < where["right"] <= width
            assert 600 < where["top"] < where["bottom"] <= 740
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
