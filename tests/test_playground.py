"""The playground: its JavaScript against the package, under Node, and its page in a browser."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

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
# Standard errors within which a mean of many walks is.
LIMIT = 5.0


def in_node(tail, given=None, source=SOURCE):
    """Run the page's equations under Node, and give what the tail makes of ``given``."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node, which runs JavaScript")
    script = source + f"\nconst given = {json.dumps(given)};\nconsole.log(JSON.stringify({tail}));\n"
    # From standard input: a script's name would be looked for in folders of modules.
    ran = subprocess.run([node, "-"], input=script, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def problem_at(setting):
    """Build the problem of a setting, and its theta, with the package alone."""
    hall = tb.problems.grid_world(
        f"type octile\nheight {len(setting['map'])}\nwidth {len(setting['map'][0])}\nmap\n"
        + "\n".join(setting["map"]),
        **{name: tuple(setting[name]) for name in ("start", "goal", "target")},
        **{
            name: setting[name]
            for name in ("slip", "follower_discount", "leader_discount", "temperature")
        },
    )
    problem = tb.FeatureProblem(
        hall.base,
        follower_reward=hall.follower_reward,
        leader_reward=setting["price"] * hall.leader_reward,
    )
    theta = np.zeros(problem.n_parameters)
    for row, column, coin in setting["coins"]:
        theta[tb.problems.grid_map(hall).state((row, column))] = coin
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
        "temperature": 10.0 ** rng.uniform(-2.0, 0.0),
        "follower_discount": rng.uniform(0.5, 0.99),
        "leader_discount": rng.uniform(0.5, 0.99),
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
        ("* a) / temperature", "* a)"),
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
    assert tb.problems.grid_map(problem).state(hall["start"]) == busiest
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


@pytest.mark.parametrize(
    ("state", "complaint"),
    [
        ("{", "no JSON:"),
        ("[]", "no JSON object"),
        ("null", "no JSON object"),
        ('{"heat": 1}', 'a state has no "heat"'),
        ('{"temperature": 0}', "temperature is 0, not a number from 0.001 to 10"),
        ('{"temperature": "1"}', 'temperature is "1", not a number'),
        ('{"follower_discount": 1}', "follower_discount is 1, not a number from 0 to 0.999"),
        ('{"map": []}', "map is no list of equally long rows"),
        ('{"map": ["..", "."]}', "map is no list of equally long rows"),
        ('{"map": ["..x"]}', "map is no list of equally long rows"),
        (json.dumps({"map": ["." * 33]}), "at most 32 × 32"),
        ('{"start": [1, 1]}', "start is [1,1], not the [row, column] of a free cell"),
        ('{"goal": 3}', "goal is 3, not the [row, column]"),
        ('{"target": [0.5, 0]}', "target is [0.5,0], not the [row, column]"),
        ('{"coins": 1}', "coins is no list"),
        ('{"coins": [[0, 0, 1], [1, 1, 1]]}', "coins[1] is [1,1,1], not [row, column, amount]"),
        ('{"coins": [[0, 0, null]]}', "coins[0] is [0,0,null], not"),
        ('{"coins": [[0, 0, 1], [0, 0, 2]]}', "coins has two for [0,0]"),
    ],
)
def test_a_wrong_address_is_told(state, complaint):
    reading = "(() => { try { return fromHash('#state=' + encodeURIComponent(given)); }"
    assert complaint in in_node(reading + " catch (error) { return error.message; } })()", state)


@pytest.mark.parametrize("seed", range(3))
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
    assert "<link rel=\"stylesheet\"" not in page
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
