"""Pages of what checks found: sound HTML whatever a report holds, and what they show."""

import dataclasses
import functools
import json
import re
import shlex
from importlib.resources import files
from xml.etree.ElementTree import tostring

import numpy as np
import pytest
from pages import CONTRAST, FAINT, Page, require_fit, shown
from sizes import pairs, sizes

import tabular_bilevel as tb
from tabular_bilevel.checks import verify
from tabular_bilevel.checks.diagnosis import Diagnosis, Guess
from tabular_bilevel.checks.localising import Factor, Localisation
from tabular_bilevel.cli import main
from tabular_bilevel.cli.check import STATUS
from tabular_bilevel.pages.document import Row, Source, table
from tabular_bilevel.pages.reports import page_of, page_of_verification


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("</main>", ""),
        (' lang="en"', ""),
        ('<th scope="col"', "<th"),
        ("aria-label=", "data-label="),
        ('aria-label="', 'aria-label="" title="'),
        ("<h2>", "<h4>"),
        ("<body>", "<body><script>alert(1)</script>"),
        ("<body>", '<body onload="alert(1)">'),
        ("<main>", '<main id="a"><a id="a"></a>'),
        ("<main>", '<main><a href="https://example.org"></a>'),
        ("<main>", '<main><a href="#nowhere"></a>'),
    ],
)
def test_what_is_wrong_with_a_page_is_seen(right, wrong):
    page = page_of(made("wrong"), Source())
    Page(page)
    assert right in page
    with pytest.raises((AssertionError, KeyError)):
        Page(page.replace(right, wrong).replace("</h2>", "</h4>" if "h4" in wrong else "</h2>"))


PROBLEM, THETA = tb.problems.garnet(), np.full(6, 0.1)
SMALL = (tb.problems.layered(depth=2, width=2), np.full(4, 0.1))
EXACT = tb.hypergradient(PROBLEM, THETA).gradient
MESSAGE = "<script>alert('&')</script> \u202e \x00 \x1b[31m \ud800 " + "so " * 300 + "x" * 3000


def noise(seed):
    return np.random.default_rng(seed).normal(size=(200, 6))


def around(mean, spread=0.1):
    return tb.check_estimates(mean + spread * np.abs(EXACT).max() * noise(0), PROBLEM, THETA)


def raising(problem, theta, rng):
    raise RuntimeError(MESSAGE)


def determined(problem, theta, rng):
    return 2.0 * EXACT


class Unfit:
    """A problem whose pullback does not fit its model."""

    n_parameters = 6
    model = staticmethod(PROBLEM.model)

    def pullback(self, theta, sensitivities):
        return 2.0 * PROBLEM.pullback(theta, sensitivities)


NAIVE, WALKS = tb.NaivePolicyGradient(), tb.Episodes(20, 5)
checked = functools.partial(tb.check_estimator, problem=PROBLEM, theta=THETA, rng=0)

REPORTS = {
    "right": lambda: around(EXACT),
    "wrong": lambda: around(0.5 * EXACT),
    "noise": lambda: around(EXACT, 1e6),
    "unknown": lambda: around(EXACT[::-1]),
    "raises": lambda: checked(raising),
    "determined": lambda: checked(determined),
    "exact": lambda: checked(tb.ExactGradient()),
    "unfit": lambda: checked(determined, problem=Unfit()),
    "up to scale": lambda: tb.check_estimates(
        around(EXACT).mean + noise(1), PROBLEM, THETA, up_to_scale=True
    ),
    "declared": lambda: checked(tb.BoltzmannCovariance(tb.Interaction(WALKS)), sampler=WALKS),
    "target 0": lambda: tb.check_estimates(noise(0), PROBLEM, THETA, target=np.zeros(6)),
    "enumerated": lambda: tb.check_by_enumeration(NAIVE, *SMALL),
    "enumerated, right": lambda: tb.check_by_enumeration(tb.BoltzmannCovariance(), *SMALL),
    "gradient": lambda: tb.check_gradient(PROBLEM, THETA),
    "gradient, wrong": lambda: tb.check_gradient(Unfit(), THETA),
    "suite": lambda: tb.check_suite(raising, suite=tb.standard_suite()[:2], rng=0),
    "suite, wrong": lambda: tb.check_suite(
        tb.controls(n_trajectories=50)["sign flipped"], suite=tb.standard_suite()[:2], rng=0
    ),
}


@functools.cache
def made(name):
    return REPORTS[name]()


LONG = {"right", "unknown", "declared", "determined", "suite", "noise", "exact"}


@sizes("name", [name for name in REPORTS if name not in LONG], sorted(LONG))
def test_a_page_has_the_verdict_first_and_is_sound(name):
    report = made(name)
    page = page_of(report, Source("mine <b>", "tabular-bilevel check a&b", "seed 1"))
    read = Page(page)
    verdict = getattr(report, "verdict", tb.Verdict.UNBIASED).value
    if isinstance(report, tb.GradientReport):
        verdict = "passed" if report.passed else "FAILED"
    first = f"{verdict[0].upper()}{verdict[1:]}: mine <b>"
    assert read.text.strip().startswith(first)  # the title
    assert f"{first}</h1>".replace("mine <b>", "mine &lt;b&gt;") in page
    assert "tabular-bilevel check a&b" in read.text
    assert "Random numbers: seed 1." in read.text
    assert tb.__version__ in read.text
    assert ("verdict good" in page) == report.passed


def test_numbers_of_the_report_are_on_the_page():
    report = made("wrong")
    read = Page(page_of(report, Source()))
    assert len(read.pictures) == 2
    assert "Not 1: the whole gradient, direct part" in read.pictures[0]
    for factor in (report.scale, *report.factors.values()):
        assert not factor.known or f"{factor.value:.3g}" in read.text
    for number in (*report.target, *report.mean):
        assert f"{number:.5g}" in read.text
    for line in str(report).splitlines():
        assert line in read.text
    assert report.diagnosis.guesses[0].name in read.text


def test_of_many_parameters_the_largest_are_shown():
    target = np.arange(300.0)
    error = np.ones(300)
    report = tb.EstimatorReport(
        tb.Verdict.BIASED, mean=target, standard_error=error, target=target, n_replicates=9
    )
    read = Page(page_of(report, Source()))
    assert "The 16 largest of 300 entries." in read.text
    assert "gradient[299]" in read.text
    assert "gradient[283]" not in read.text


# ---------------------------------------------------------------- whatever a report holds

NUMBERS = [np.nan, np.inf, -np.inf, 1e308, -1e308, 5e-324, 0.0, -0.0, 1.0]


@sizes(("one", "other"), *pairs(NUMBERS, NUMBERS))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # texts of a report multiply what it holds
def test_no_number_spoils_a_page(one, other):
    factor = Factor(one, min(one, other), max(one, other))
    vector = np.array([one, other, 1.0])
    report = tb.EstimatorReport(
        tb.Verdict.BIASED,
        statistic=one,
        critical_value=other,
        where="gradient[0]",
        bias=one,
        smallest_visible_bias=other,
        aim=0.05,
        n_replicates=100,
        mean=vector,
        standard_error=vector[::-1],
        target=np.array([other, one, 0.0]),
        localisation=Localisation({"direct": factor, "initial": factor}, factor, one, 2),
        diagnosis=Diagnosis((Guess(("a",), ("b",), (), one, other, True),), other),
    )
    Page(page_of(dataclasses.replace(report, verdict=tb.Verdict.UNBIASED), Source()))
    Page(page_of(report, Source()))
    level = tb.Level.STATISTICAL
    checks = [verify.Check("toy", name, one, other, True, "", level, one) for name in "ab"]
    Page(page_of_verification(checks, Source()))


@pytest.mark.parametrize("verdict", tb.Verdict)
def test_no_word_spoils_a_page(verdict):
    guess = Guess((MESSAGE,), (MESSAGE,), (MESSAGE, MESSAGE), 0.9, 1.0, True)
    report = tb.EstimatorReport(
        verdict,
        where=MESSAGE,
        still=MESSAGE,
        reason=MESSAGE,
        trouble=MESSAGE if verdict is tb.Verdict.BROKEN else "",
        traceback=f"{MESSAGE}\n{MESSAGE}",
        notes=(MESSAGE,),
        asked=(MESSAGE,),
        declared=MESSAGE,
        diagnosis=Diagnosis((guess,), 0.1, n_replicates=100, directions=3),
    )
    suite = tb.SuiteReport({MESSAGE: report, "other": report}, 0.1)
    for each in (report, suite):
        page = page_of(each, Source(MESSAGE, MESSAGE, MESSAGE))
        read = Page(page)
        assert "alert('&')" in read.text
        assert "<script>" in read.text
        assert "\u202e" not in page
        page.encode()


def test_nothing_else_is_taken_for_a_report(tmp_path):
    with pytest.raises(ValueError, match=r"report is a dict, not a EstimatorReport|an Estim"):
        tb.save_report(tmp_path / "report.html", {})
    assert list(tmp_path.iterdir()) == []


def test_a_page_is_whole_or_not_there(tmp_path, monkeypatch):
    def full(source, target):
        raise OSError("the disk is full")

    path = tmp_path / "report.html"
    tb.save_report(path, made("gradient"), subject="first")
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="the disk is full"):
        tb.save_report(path, made("gradient"), subject="second")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# ---------------------------------------------------------------- colours and paper

STYLE = (files("tabular_bilevel.pages") / "style.css").read_text(encoding="utf-8")


def luminance(colour):
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    channels = np.array([int(digits[k : k + 2], 16) for k in (0, 2, 4)]) / 255.0
    linear = np.where(channels > 0.04045, ((channels + 0.055) / 1.055) ** 2.4, channels / 12.92)
    return linear @ [0.2126, 0.7152, 0.0722]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_every_text_stands_out_from_every_background():
    assert contrast("#000", "#ffffff") == pytest.approx(21.0)
    rules = re.sub(r"i\.\w+ \{[^}]*\}", "", STYLE)  # samples of colours, without text
    inks = re.findall(r"(?:[ {;]color|--ink): (#\w+)", rules)
    papers = re.findall(r"(?:background|--pale): (#\w+)", rules)
    assert len(inks) >= 3
    assert len(papers) >= 3
    assert min(contrast(ink, paper) for ink in inks for paper in papers) >= CONTRAST


def test_there_is_a_style_for_paper():
    assert "@media print" in STYLE
    assert "print-color-adjust: exact" in STYLE


# ---------------------------------------------------------------- the command line

MINE = """
from pathlib import Path

import numpy as np
import tabular_bilevel as tb

right = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(50)))


def half(problem, theta, rng):
    return 0.5 * tb.hypergradient(problem, theta).gradient * rng.uniform(0.9, 1.1)


def noise(problem, theta, rng):
    return 1e6 * rng.normal(size=theta.size)


def raises(problem, theta, rng):
    raise RuntimeError("<script>on purpose</script>")


def touches(problem, theta, rng):
    Path("touched").touch()
    return half(problem, theta, rng)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@sizes(
    ("name", "verdict"),
    [("right", tb.Verdict.UNBIASED), ("raises", tb.Verdict.BROKEN)],
    [("half", tb.Verdict.BIASED), ("noise", tb.Verdict.INCONCLUSIVE)],
)
def test_the_command_writes_a_page_that_says_how_to_see_the_same(name, verdict, folder, capsys):
    words = ["check", f"mine.py:{name}", "--problem", "two-state"]
    assert main([*words, "--report", "out"]) == STATUS[verdict]
    page = (folder / "out" / "index.html").read_text(encoding="utf-8")
    read = Page(page)
    title = f"{verdict.value[0].upper()}{verdict.value[1:]}: mine.py:{name} on two-state"
    assert title in read.text
    assert capsys.readouterr().out.endswith("out/index.html\n")
    command = re.search(r"<code>(.*)</code>", page)[1]
    first = json.loads((folder / "out" / "report.json").read_text())
    program, *again = shlex.split(command)
    assert program == "tabular-bilevel"
    assert main(again) == STATUS[verdict]
    assert json.loads((folder / "out" / "report.json").read_text()) == first
    assert main([*words, "--seed", str(first["seed"])]) == STATUS[verdict]


def test_a_seed_that_was_given_is_not_given_twice(folder):
    words = ["check", "mine.py:half", "--problem", "two-state", "--seed", "3", "--report", "a b"]
    assert main(words) == 1
    page = (folder / "a b" / "index.html").read_text(encoding="utf-8")
    assert f"<code>{shlex.join(['tabular-bilevel', *words])}</code>" in page


def test_enumerations_and_rows_have_pages_too(folder):
    assert main(["check", "mine.py:right", "--problem", "layered", "--enumerate",
                 "--report", "one"]) == 0  # fmt: skip
    np.save("rows.npy", 0.5 * EXACT + noise(0))
    np.save("theta.npy", THETA)
    assert main(["check", "--rows", "rows.npy", "--problem", "garnet", "--theta", "theta.npy",
                 "--report", "two"]) == 1  # fmt: skip
    for name in ("one", "two"):
        page = (folder / name / "index.html").read_text(encoding="utf-8")
        Page(page)
        assert "--seed" not in page


def test_a_suite_has_a_row_a_problem(folder, monkeypatch):
    suite = tb.standard_suite()[:2]
    monkeypatch.setattr(tb, "standard_suite", lambda: suite)
    assert main(["check", "mine.py:raises", "--suite", "standard", "--report", "out"]) == 4
    read = Page((folder / "out" / "index.html").read_text(encoding="utf-8"))
    assert "Broken: mine.py:raises" not in read.text
    assert "BROKEN: mine.py:raises" in read.text
    assert read.ids == ["problem-0", "problem-1"]


SPOILT = {
    "a file in the way": lambda folder: (folder / "out").write_text(""),
    "the page is a folder": lambda folder: (folder / "out" / "index.html").mkdir(parents=True),
    "nothing can be made": lambda folder: (folder / "out").symlink_to("/proc/nowhere"),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
@pytest.mark.parametrize(
    "words", [["check", "mine.py:touches", "--problem", "two-state"], ["verify"]]
)
def test_a_folder_that_cannot_be_written_is_told_before_the_work(
    words, spoil, folder, capsys, monkeypatch
):
    monkeypatch.setattr(verify, "stages", pytest.fail)
    spoil(folder)
    assert main([*words, "--report", "out"]) == 2
    printed, error = capsys.readouterr()
    assert printed == ""
    assert error.startswith("tabular-bilevel: --report: ")
    assert error.count("\n") == 1
    assert not (folder / "touched").exists()


@pytest.mark.parametrize("passes", [True, False])
def test_verify_has_a_row_a_check(passes, folder, monkeypatch):
    level = tb.Level.STATISTICAL
    found = [
        verify.Check("toy", "sign", 0.0, 1.0, True, "", tb.Level.BOUNDED, 1e-9),
        verify.Check("toy", "BC-HG", 2.0, 5.0, True, "", level, 0.1, made("right")),
        verify.Check("toy", "must fail: this", 9.0, 5.0, True, "", level, 0.1),
        verify.Check("other", "sum", 2.0, 1.0, passes, "<b>why</b>", tb.Level.ESTIMATE, np.inf),
    ]
    monkeypatch.setattr(verify, "stages", lambda cases: [verify.Stage("toy", lambda: found)])
    assert main(["verify", "--report", "out"]) == (0 if passes else 1)
    read = Page((folder / "out" / "index.html").read_text(encoding="utf-8"))
    assert ("Passed" if passes else "FAILED: ") in read.text
    assert ("Failed: other, sum." in read.text) == (not passes)
    assert "Beyond the critical value: must fail: this." in read.pictures[0]
    assert "Factors with their intervals at 99%" in read.pictures[1]
    assert "Pairs of bars: target and mean." in read.pictures[2]
    assert "\N{LESS-THAN OR EQUAL TO}1" in read.text
    assert ">5" in read.text
    assert "\\x" not in read.text
    for check in found:
        assert check.name in read.text
    assert "tabular-bilevel verify --report out" in read.text
    assert "seed 2026" in read.text


# ---------------------------------------------------------------- in a browser


@pytest.fixture
def written(tmp_path):
    def write(name):
        path = tmp_path / "report.html"
        tb.save_report(path, made(name), subject="mine.py:a_rather_long_name on two-state")
        return path

    return write


@sizes("name", ["wrong"], ["suite, wrong", "right", "noise", "raises"])
def test_a_page_fits_a_phone_a_desk_and_paper(name, written, chromium):
    require_fit(chromium, written(name))


def test_no_number_is_broken_on_a_phone(written, chromium):
    """A browser would break 1.2e-05 after the hyphen."""
    broken = """return [...document.querySelectorAll("td.number")].flatMap((cell) => {
        const text = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT), found = [];
        while (text.nextNode()) {
            const range = document.createRange();
            range.selectNodeContents(text.currentNode);
            if (/e-/.test(range.toString()) && range.getClientRects().length > 1)
                found.push(range.toString());
        }
        return found;
    })"""
    file = written("wrong")
    page = file.read_text(encoding="utf-8")
    made = table("", ("part", "interval"), [Row(("all", "-1.23e-05 to -4.56e-05"))], numbers=(1,))
    made.set("style", "width: 8rem")
    whole = tostring(made, encoding="unicode")
    for text, n_broken in ((whole, 0), (whole.replace("span>", "b>"), 2)):
        file.write_text(page.replace("<main>", f"<main>{text}"), encoding="utf-8")
        assert len(shown(chromium, file, 390).execute_script(broken)) == n_broken


def test_faint_text_is_seen(written, chromium):
    file = written("gradient")
    file.write_text(file.read_text(encoding="utf-8").replace("--ink: #111", "--ink: #999"))
    assert shown(chromium, file, 390).execute_script(FAINT)
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
