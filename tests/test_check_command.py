"""``check`` as somebody sees it at a terminal: statuses, lines, and what to do about a mistake."""

import contextlib
import json
import os
import re
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sizes import sizes
from small import assert_refused

import tabular_bilevel as tb
from tabular_bilevel.checks.suite import defined_on, line_of, smallest_case
from tabular_bilevel.cli import check, main
from tabular_bilevel.cli.check import STATUS

THETA = np.full(6, 0.1)
PROBLEM = tb.problems.garnet()
METHOD = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(50)))
SUITE = tb.standard_suite()

MINE = """
import numpy as np
import tabular_bilevel as tb

PROBLEM = tb.problems.garnet()
THETA = np.full(6, 0.1)


def make():
    return PROBLEM


def exact(problem, theta, rng):
    return tb.hypergradient(problem, theta).gradient


def half(problem, theta, rng):
    return 0.5 * exact(problem, theta, rng) * rng.uniform(0.9, 1.1)


def noise(problem, theta, rng):
    return 1e6 * rng.normal(size=theta.size)


def none(problem, theta, rng):
    exact(problem, theta, rng)


def leaves(problem, theta, rng):
    raise SystemExit(0)


def raises(problem, theta, rng):
    if True:
        raise RuntimeError("on purpose")


def turned(theta, problem, rng):
    return theta


class Sized:
    def __init__(self, size):
        self.size = size


class Dictionary:
    n_parameters = 6

    def model(self, theta):
        return {"transition": [[1.0]]}

    def pullback(self, theta, sensitivities):
        return theta


class WithoutPullback:
    n_parameters = 6

    def model(self, theta):
        return PROBLEM.model(theta)


class WithoutSize:
    def model(self, theta):
        return PROBLEM.model(theta)

    def pullback(self, theta, sensitivities):
        return PROBLEM.pullback(theta, sensitivities)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A stranger's folder, with code and a theta in it, that is worked in."""
    (tmp_path / "mine.py").write_text(MINE)
    np.save(tmp_path / "theta.npy", THETA)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def said(capsys):
    """Run ``check``; return status, output and errors."""

    def said(*arguments):
        try:
            status = main(["check", *arguments])
        except SystemExit as stop:  # argparse's
            status = stop.code
        return status, *capsys.readouterr()

    return said


def line(error):
    assert error.startswith("tabular-bilevel: ")
    assert error.count("\n") == 1
    return error


# ---------------------------------------------------------------- statuses


@pytest.mark.parametrize(
    ("name", "word", "number"),
    [("exact", "UNBIASED", 0), ("half", "BIASED", 1), ("noise", "INCONCLUSIVE", 3),
     ("raises", "BROKEN", 4)],
)  # fmt: skip
def test_each_verdict_has_its_status_and_its_word(name, word, number, said, folder):
    at, verdict = ["--problem", "garnet", "--seed", "0", "--report", "out"], tb.Verdict[word]
    status, printed, _ = said(f"mine:{name}", *at)
    assert status == number == STATUS[verdict]
    assert printed.startswith(f"Estimator check: {verdict.value}")
    written = json.loads((folder / "out" / "report.json").read_text())
    assert written["verdict"] == printed.splitlines()[0].removeprefix("Estimator check: ")


def test_help_and_the_book_say_the_statuses(capsys):
    with pytest.raises(SystemExit):
        main(["check", "--help"])
    printed = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert check.EPILOG in printed
    book = Path(__file__).parents[1] / "validation" / "book" / "reference" / "command-line.md"
    for verdict, status in STATUS.items():
        assert re.search(rf"\| {status} \|.*{verdict.name}", book.read_text())


@pytest.mark.parametrize(
    ("verdicts", "worst"),
    [
        (["UNBIASED"], "UNBIASED"),
        (["UNBIASED", "INCONCLUSIVE"], "INCONCLUSIVE"),
        (["INCONCLUSIVE", "BIASED", "UNBIASED"], "BIASED"),
        (["BIASED", "BROKEN", "INCONCLUSIVE"], "BROKEN"),
    ],
)
def test_a_suite_ends_with_its_worst(verdicts, worst, said, monkeypatch):
    reports = [tb.EstimatorReport(tb.Verdict[name]) for name in verdicts]
    cases = [SimpleNamespace(name=str(k)) for k in range(len(reports))]
    monkeypatch.setattr(tb, "standard_suite", lambda: cases)
    monkeypatch.setattr(
        "tabular_bilevel.checks.suite.suite_reports",
        lambda estimator, suite, **settings: zip("0123", reports, strict=False),
    )
    status, printed, _ = said("mine:exact")
    assert status == STATUS[tb.Verdict[worst]]
    lines = [line_of(str(k), report) for k, report in enumerate(reports)]
    assert printed.splitlines()[1 : 1 + len(lines)] == lines


def test_an_enumeration_has_the_same_statuses(said):
    assert said("mine:METHOD", "--problem", "layered", "--enumerate")[0] == 2
    Path("other.py").write_text(
        "import tabular_bilevel as tb\nright, wrong = tb.BoltzmannCovariance(), "
        "tb.controls()['no 1/temperature']\n"
    )
    assert said("other:right", "--problem", "layered", "--enumerate")[0] == 0
    assert said("other:wrong", "--problem", "layered", "--enumerate")[0] == 1


# ---------------------------------------------------------------- broken ones


def test_what_is_broken_says_where_and_the_report_has_the_traceback(said, folder):
    status, printed, _ = said("mine.py:raises", "--problem", "garnet", "--report", "out")
    row = 1 + MINE.splitlines().index('        raise RuntimeError("on purpose")')
    assert status == 4
    assert f"replicate 0: RuntimeError: on purpose (mine.py, line {row})" in printed
    trace = json.loads((folder / "out" / "report.json").read_text())["traceback"]
    assert trace.startswith("Traceback (most recent call last):")
    assert 'raise RuntimeError("on purpose")' in trace
    assert "checks/estimator.py" not in trace  # our own frames tell nobody anything
    assert trace in printed
    assert "Traceback" not in (folder / "out" / "report.txt").read_text()


def test_what_returns_none_is_told_so_with_the_line_where_it_begins(said):
    status, printed, _ = said("mine:none", "--problem", "garnet")
    row = 1 + MINE.splitlines().index("def none(problem, theta, rng):")
    assert status == 4
    begin = "replicate 0: ValueError: it returned None, not a gradient: is its return statement "
    assert f"{begin}missing? (mine.py, line {row})\n" in printed


@pytest.mark.parametrize("where", [["--problem", "garnet"], ["--suite", "standard"]])
def test_what_leaves_the_program_has_not_passed(where, said):
    status, _, error = said("mine:leaves", *where)
    row = 1 + MINE.splitlines().index("    raise SystemExit(0)")
    assert status == 2
    assert f"mine:leaves cannot be used: SystemExit: 0 (mine.py, line {row})" in line(error)


def test_a_method_of_the_package_has_no_line_of_a_stranger():
    report = tb.check_estimator(tb.SoBiRL(), SUITE[0].problem, SUITE[0].theta, rng=0)
    assert report.verdict is tb.Verdict.BROKEN
    assert "line" not in report.trouble
    assert report.traceback.startswith("Traceback")


def test_where_an_estimator_is_defined_is_said_if_it_is_not_everywhere():
    def narrow(problem, theta, rng):
        if theta.size != 105:
            raise ValueError("four rooms only")
        return np.zeros(105)

    report = tb.check_suite(narrow, suite=SUITE[:2], n_replicates=30, rng=0)
    assert report.verdict is tb.Verdict.BROKEN
    assert "  BROKEN on all of them; no failure on: four rooms" in str(report)
    games = tb.check_suite(
        tb.BiLevelActorCritic(), suite=(SUITE[0], SUITE[18]), n_replicates=30, rng=0
    )
    assert "  BROKEN on 1; no failure on: game" in str(games)


def test_the_smallest_problem_is_found(said):
    assert smallest_case(METHOD).name == "one parameter"
    assert [case.name for case in defined_on(tb.BiLevelActorCritic(), SUITE[-2:])] == ["game"]
    with pytest.raises(ValueError, match=r"estimator fails on all \d+ problems that there are"):
        smallest_case(lambda problem, theta, rng: 1 / 0)
    status, printed, _ = said("mine:exact", "--smallest")
    assert status == 0
    assert printed.startswith("on 'one parameter', the smallest on which it does not fail\n")


# ---------------------------------------------------------------- code by file, problems by name


def test_estimators_and_problems_are_named_by_file_or_module(said, folder):
    (folder / "code").mkdir()
    (folder / "code" / "deeper.py").write_text("from beside import PROBLEM\n" + MINE)
    (folder / "code" / "beside.py").write_text("PROBLEM = 3\n")
    more = ["--theta", "theta.npy", "--replicates", "50"]
    for estimator in ("mine:exact", "mine.py:exact", "code/deeper.py:exact"):
        for problem in ("mine:PROBLEM", "mine.py:PROBLEM", "garnet"):
            status, printed, error = said(estimator, "--problem", problem, *more)
            assert (status, error) == (0, "")
            assert "no bias seen" in printed
    assert str(folder) not in sys.path
    assert "mine" not in sys.modules


def test_each_command_looks_at_the_code_as_it_is_now(said, folder):
    for k in (1.0, 2.0):
        (folder / "new.py").write_text(
            f"import numpy as np\ndef f(problem, theta, rng):\n    return np.full({10**k:g}, 0.0)\n"
        )
        os.utime(folder / "new.py", (k, k))
        printed = said("new.py:f", "--problem", "garnet")[1]
        assert f"estimate has shape ({10**k:g},), not (6,)" in printed


def test_a_problem_without_a_size_needs_a_theta(said):
    status, _, error = said("mine:exact", "--problem", "mine:WithoutSize")
    assert status == 2
    assert "mine:WithoutSize has no n_parameters, which says how long theta is" in line(error)
    assert said("mine:exact", "--problem", "mine:WithoutSize", "--theta", "theta.npy")[0] == 0


@sizes("workers", ["1"], ["2"])
def test_gradient_and_train_take_somebodys_problem_too(workers, capsys, folder):
    assert main(["gradient", "mine.py:PROBLEM", "--theta", "theta.npy"]) == 0
    np.testing.assert_array_equal(
        np.load(folder / "theta-gradient.npy"), tb.hypergradient(PROBLEM, THETA).gradient
    )
    settings = ["--steps", "2", "--seeds", "2", "--workers", workers, "--out", "out"]
    assert main(["train", "mine.py:PROBLEM", "--estimator", "mine.py:exact", *settings]) == 0
    assert "mean of 2: J = " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("mine", "estimator is 'mine', not MODULE:NAME or FILE.py:NAME"),
        ("mine:", "estimator is 'mine:', not MODULE:NAME or FILE.py:NAME"),
        ("mine:thing", "module 'mine' has no 'thing'; it has make, exact, half, "),
        ("mine:THETA --problem garnet", "which cannot be called"),
        ("mine:exact --enumerate", "--enumerate needs a --problem"),
        ("mine:exact --theta x.npy", "--theta needs a --problem"),
        ("mine:exact --problem garnet --replicates 5", "fewer than 30"),
        ("mine.py", "estimator is 'mine.py': say which name in it, mine.py:NAME"),
        ("mine.py:", "estimator is 'mine.py:': say which name in it, mine.py:NAME"),
        ("none.py:exact", "there is no file 'none.py'"),
        ("none:exact", "there is no module 'none' here: for a file say FILE.py:NAME"),
        ("json.py:exact", "json.py is called as another module that is in use: rename it"),
        ("mine:Sized", "mine:Sized is a class that cannot be made without arguments"),
        ("mine:PROBLEM --problem garnet", "which is a problem"),
        (
            "mine:turned --problem garnet",
            "has the parameters (theta, problem, rng), not (problem, theta, rng)",
        ),
        ("mine:exact --problem mine:half", "it looks like an estimator"),
        ("mine:exact --problem mine:make", "or like a function that makes a problem"),
        ("mine:exact --problem mine:THETA", "has no method model and no pullback"),
        (
            "mine:exact --problem mine:Dictionary",
            "problem.model(theta) is of type dict, not a Model",
        ),
        ("mine:exact --problem mine:WithoutPullback", "which has no method pullback"),
        ("mine:exact --problem mine:nothing", "module 'mine' has no 'nothing'"),
        ("mine:exact --problem garnet --theta no.npy", "--theta: [Errno 2]"),
        ("mine:exact --problem garnet --theta mine.py", "--theta: mine.py is no"),
        ("mine:exact --report mine.py", "--report: [Errno 17]"),
        ("bad.py:f", "bad.py:f cannot be used: SyntaxError: invalid syntax (bad.py, line 2)"),
        ("lacks:f", "No module named 'numpyy' (lacks.py, line 3)"),
        ("through:f", "No module named 'numpyy' (lacks.py, line 3)"),
        ("stops:f", "stops:f cannot be used: SystemExit: 3 (stops.py, line 1)"),
        ("", "give an estimator, MODULE:NAME, or estimates, --rows FILE.npy"),
        ("mine:exact --simulator mine:PROBLEM", "--simulator needs a --problem"),
        (
            "mine:exact --problem garnet --enumerate --critic mine:exact",
            "--critic is not for --enumerate, which needs no sampling",
        ),
        ("mine:exact --problem garnet --follower mine:PROBLEM", "which has no method solve"),
        ("mine:exact --sampler mine:nothing", "module 'mine' has no 'nothing'"),
        ("--rows rows.npy", "--rows needs the --problem and the --theta"),
        ("--rows rows.npy --problem garnet", "--rows needs the --problem and the --theta"),
        ("mine:exact --rows rows.npy", "--rows has the estimates: what is 'mine:exact'"),
        ("--rows no.npy --problem garnet --theta theta.npy", "--rows: [Errno 2]"),
    ],
)
def test_a_mistake_in_calling_is_a_line_that_says_what_to_do(words, message, said, folder):
    (folder / "bad.py").write_text("x = 1\ndef f(:\n")
    (folder / "json.py").write_text(MINE)
    (folder / "lacks.py").write_text("\n\nimport numpyy\n")
    (folder / "through.py").write_text("from lacks import f\n")
    (folder / "stops.py").write_text("raise SystemExit(3)\n")
    status, _, error = said(*words.split())
    assert status == 2
    assert message in line(error)


def test_a_problem_that_is_none_is_refused_by_the_parser(said):
    status, _, error = said("mine:exact", "--problem", "no-such")
    assert status == 2
    assert "'no-such' is neither MODULE:NAME nor one of: bandit" in error


SWAPPED = "theta is a problem: the problem comes first, and then theta"
NONE = "has no method model and no pullback"


@pytest.mark.parametrize(
    ("call", "given", "message"),
    [
        (tb.check_estimator, (PROBLEM, METHOD, THETA), "estimator is Feature.*, which is a probl"),
        (tb.check_estimator, (METHOD, THETA, PROBLEM), SWAPPED),
        (tb.hypergradient, (THETA, PROBLEM), SWAPPED),
        (tb.check_estimator, (METHOD, type(PROBLEM), THETA), "problem is the class FeatureProblem"),
        (tb.check_estimator, (METHOD, tb.problems.garnet, THETA), "<function garnet>.*that makes"),
        (tb.check_by_enumeration, (METHOD, PROBLEM.model(THETA), THETA), NONE),
        (tb.check_gradient, (THETA, THETA), f"problem is array.*, which {NONE}"),
    ],
)
def test_swapped_arguments_are_named(call, given, message):
    assert_refused(message, call, *given)


# ---------------------------------------------------------------- estimates from elsewhere


def test_rows_reach_the_check_with_what_was_asked_for(said, folder, monkeypatch):
    seen = {}

    def stand_in(rows, problem, theta, **settings):
        seen.update(rows=rows, problem=problem, theta=theta, settings=settings)
        return tb.EstimatorReport(tb.Verdict.BIASED)

    monkeypatch.setattr(tb, "check_estimates", stand_in, raising=False)
    rows = np.random.default_rng(0).normal(size=(100, 6))
    np.save(folder / "rows.npy", rows)
    at = ["--rows", "rows.npy", "--problem", "mine:PROBLEM", "--theta", "theta.npy"]
    assert said(*at, "--report", "out")[0] == 1
    np.testing.assert_array_equal(seen["rows"], rows)
    np.testing.assert_array_equal(seen["theta"], THETA)
    usual = {"up_to_scale": False, "false_alarm_rate": 1e-3, "visible_bias": None}
    assert seen["settings"] == usual
    assert json.loads((folder / "out" / "report.json").read_text())["estimator"] == "rows.npy"
    np.save(folder / "target.npy", 2.0 * THETA)
    said(*at, "--up-to-scale", "--visible-bias", "0.2", "--target", "target.npy")
    np.testing.assert_array_equal(seen["settings"].pop("target"), 2.0 * THETA)
    assert seen["settings"] == {**usual, "up_to_scale": True, "visible_bias": 0.2}


def test_rows_are_checked_against_what_was_declared(said, folder):
    """A simulator that is not the planner's: biased, but right for what was declared."""
    simulator = tb.problems.garnet(rng=1)
    method = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(200), simulator=simulator))
    rng = np.random.default_rng(0)
    np.save(folder / "rows.npy", [method(PROBLEM, THETA, rng=rng).gradient for _ in range(100)])
    np.save(folder / "target.npy", method.target(PROBLEM, THETA))
    at = ["--rows", "rows.npy", "--problem", "mine.py:PROBLEM", "--theta", "theta.npy"]
    assert said(*at)[0] == 1
    status, printed, _ = said(*at, "--target", "target.npy")
    assert status == 0
    assert "no bias seen" in printed


class Published:
    """Stands in for the published script, and takes the calls that it takes.

    Its critic starts at what it is given, and halves what is left of that in each step; the
    gradient is its sum, and 1, 2 and 3. It is clipped, and an optimiser moves theta by it.
    """

    def environment_setup(self, key, config):
        env = SimpleNamespace(coords=[(0, 0), (0, 1)])
        return env, "params", self.state(np.array([0.1, 0.2, 0.3])), {}

    def state(self, weights):
        return SimpleNamespace(params={"params": {"weights": weights}})

    def create_update_step(self, env, config):
        upper = config["upper_optimisation"]

        def update_step(carry, temperature):
            key, params, state, critic = carry
            gradient = np.array([1.0, 2.0, 3.0]) + critic.sum()
            gradient *= min(1.0, upper["max_grad_norm"] / np.linalg.norm(gradient))
            moved = state.params["params"]["weights"] + upper["learning_rate"] * gradient
            return (key, params, self.state(moved), critic / 2.0), {}

        return update_step


def test_the_lines_between_a_published_script_and_a_report(folder, monkeypatch):
    book = Path(__file__).parents[1] / "validation" / "book" / "how-to" / "rows-from-elsewhere.md"
    (lines,) = re.findall(r"<!-- file: .*? -->\n```python\n(.*?)```", book.read_text(), re.DOTALL)
    assert len([row for row in lines.splitlines() if row.strip()]) <= 25
    place = folder / "data" / "experiment_reg_lambda_0_001_total_steps_1000" / "config.yaml"
    place.parent.mkdir(parents=True)
    place.write_text(
        '{"upper_optimisation": {"learning_rate": [0.5], "max_grad_norm": 1.0, "sarsa_alpha": 1}}'
    )
    random = SimpleNamespace(
        PRNGKey=np.random.default_rng,
        split=lambda rng: rng.spawn(2),
        normal=lambda rng, shape: rng.normal(size=shape),
    )
    monkeypatch.setitem(sys.modules, "jax", SimpleNamespace(random=random, jit=lambda f: f))
    monkeypatch.setitem(sys.modules, "yaml", SimpleNamespace(safe_load=json.load))
    monkeypatch.setitem(sys.modules, "train_four_rooms_bchg", Published())
    exec(compile(lines, "<page>", "exec"), {})
    rows, theta = np.load("rows.npy"), np.load("theta.npy")
    np.testing.assert_array_equal(theta, [0.1, 0.2, 0.3])
    assert rows.shape == (250, 3)
    left = rows - [1.0, 2.0, 3.0]  # of a critic that started at eight random numbers
    np.testing.assert_allclose(left.mean(axis=0), 0.0, atol=3 * 8**0.5 / 2**9 / 250**0.5)
    assert left.std() == pytest.approx(8**0.5 / 2**9, rel=0.2)
    assert len(np.unique(rows[:, 0])) == 250


# ---------------------------------------------------------------- at a terminal


def test_there_is_a_bar_if_it_is_asked_for(capsys):
    tb.check_estimator(METHOD, PROBLEM, THETA, n_replicates=30, progress=True, rng=0)
    assert "/30 [" in capsys.readouterr().err
    tb.check_suite(METHOD, suite=SUITE[:1], n_replicates=30, progress=True, rng=0)
    error = capsys.readouterr().err
    assert "plain: " in error
    assert "/30 [" not in error  # one bar is enough
    tb.check_suite(METHOD, suite=SUITE[:1], n_replicates=30, rng=0)
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(sys.platform == "win32", reason="has no pseudo-terminals")
def test_each_problem_is_a_line_as_it_ends_above_a_bar(said, folder, monkeypatch):
    import fcntl
    import pty
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    (folder / "until_a_thousand.py").write_text(
        "def f(problem, theta, rng):\n    if theta.size == 1000: raise KeyboardInterrupt\n"
        "    raise ValueError('not defined')\n"
    )
    with open(theirs, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        status, printed, _ = said("until_a_thousand.py:f")
    bar = b""
    with contextlib.suppress(OSError):  # nobody is at the other end any more
        while more := os.read(ours, 2**16):
            bar += more
    os.close(ours)
    assert status == 130
    begun, *lines = printed.splitlines()
    assert begun == "20 problems, up to 400 calls on each"
    assert [row.split("BROKEN")[0].strip() for row in lines] == [
        case.name for case in SUITE[: [c.theta.size for c in SUITE].index(1000)]
    ]
    assert b"a thousand parameters:" in bar


def test_what_an_estimator_works_with_is_declared_by_name(said, folder):
    (folder / "declares.py").write_text(
        "import tabular_bilevel as tb\n"
        "stops, few = tb.StoppedValueIteration(sweeps=3), tb.Episodes(100)\n"
        "learns = tb.MonteCarloCritic()\n"
        "mine = tb.BoltzmannCovariance(tb.Interaction(few, learns, stops))\n"
    )
    at = ["declares.py:mine", "--problem", "garnet", "--seed", "0"]
    assert said(*at)[0] == 1
    known = ["--follower", "declares:stops", "--critic", "declares:learns", "--sampler"]
    status, printed, _ = said(*at, *known, "declares:few", "--report", "out")
    assert status == 0
    assert printed.startswith("Estimator check: no bias seen, beside what was declared\n")
    written = json.loads((folder / "out" / "report.json").read_text())
    assert "follower=StoppedValueIteration(sweeps=3, warm_start=True)" in written["declared"]
    assert written["verdict"] == "no bias seen"
    more = ["--follower", "declares:stops", "--replicates", "30"]
    status, printed, _ = said(*at, "--simulator", "mine:PROBLEM", *more)
    assert "simulator=FeatureProblem" in printed


def test_directions_are_compared_in_every_form(said, folder):
    at = ["--problem", "garnet", "--seed", "0"]
    assert said("mine:half", *at, "--up-to-scale")[0] == 0
    (folder / "halves.py").write_text("import tabular_bilevel as tb\nf = tb.controls()['half']\n")
    layered = ["halves:f", "--problem", "layered", "--enumerate"]
    assert said(*layered)[0] == 1
    assert said(*layered, "--up-to-scale")[0] == 0


@pytest.mark.slow
def test_directions_are_compared_on_the_smallest_problem(said):
    assert said("mine:half", "--smallest", "--seed", "0", "--up-to-scale")[0] == 0
