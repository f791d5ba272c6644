"""The README and the book: what a page displays runs, prints what it says, and has our words.

`validation/book/pages.py` runs them; what a page may hold is written there.
"""

import ast
import re
import shutil
from functools import cache
from pathlib import Path

import pytest
from book import pages
from book.pages import blocks
from sizes import sizes

ROOT = Path(__file__).parents[1]
BOOK = ROOT / "validation" / "book"
PAGES = [ROOT / "README.md", *sorted(BOOK.rglob("*.md"))]


def of_page(page):
    """Make a parameter of a page; those that take seconds have a step of their own in CI."""
    long = (
        page.parent.name in ("lessons", "how-to", "published", "reference")
        or page.stem == "efficiency"
    )
    marks = [pytest.mark.slow] if long else []
    return pytest.param(page, id=str(page.relative_to(ROOT)), marks=marks)


def run(text, folder, write=False):
    with pages.elsewhere():
        return pages.run(text, folder, write=write)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # PyTorch's own
@pytest.mark.parametrize("page", [of_page(page) for page in PAGES])
def test_what_a_page_displays_runs_and_prints_what_it_says(page):
    _, lacking = run(page.read_text(encoding="utf-8"), page.parent)
    if lacking:  # the rest is right
        pytest.skip(f"what needs {', '.join(sorted(lacking))} was not run")


@sizes(
    ("wrong", "complaint"),
    [
        ("```python\nprint(1)\n```\n\n```text\n2\n```\n", r"line 6.*\n.*\n.*\n.*\n-2\n\+1"),
        ("```text\n2\n```\n", "nothing prints this"),
        ("```python\nprint(1)\n```\nThen\n```text\n1\n```\n", "nothing prints this"),
        ("```sh\nrm -r x\n```\n", "who would run this"),
        ("```sh\ntabular-bilevel problems # ends with 1\n```\n", "ends with 0"),
        ("```perl\n1\n```\n", "perl"),
        ("- a list\n\n  ```python\n  1 / 0\n  ```\n", "not seen"),
    ],
    [("<!-- file: test_x.py -->\n```python\n1 / 0\n```\n```sh\npytest test_x.py\n```", "with 2")],
)
def test_a_page_that_is_wrong_is_found(wrong, complaint, tmp_path):
    with pytest.raises(AssertionError, match=complaint):
        run(wrong, tmp_path)


def test_what_needs_something_else_is_skipped_in_words(tmp_path, capsys):
    text = "```python\nprint(1)\n```\n```text\n1\n```\n"
    nothing = "<!-- needs: no_such_library -->\n```python\n1 / 0\n```\n```text\n2\n```\n"
    assert run(text + nothing, tmp_path) == (text + nothing, {"no_such_library"})
    with pytest.raises(ZeroDivisionError):
        run(nothing.replace("no_such_library", "numpy"), tmp_path)
    page = tmp_path / "page.md"
    page.write_text(nothing)
    assert pages.main([str(page)]) == 0
    assert "skipped what needs no_such_library" in capsys.readouterr().out


def test_what_is_printed_is_put_into_the_page(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("One:\n\n```python\nprint(1)\n```\n\n```text\n```\n\nEnd.\n")
    assert pages.main([str(tmp_path)]) == 1
    assert "+1" in capsys.readouterr().out
    assert pages.main([str(tmp_path), "--write"]) == 0
    assert page.read_text() == "One:\n\n```python\nprint(1)\n```\n\n```text\n1\n```\n\nEnd.\n"
    assert pages.main([str(page)]) == 0


@pytest.mark.parametrize("name", ["gone.md", "picture.svg", "empty"])
def test_what_is_no_page_is_refused(name, tmp_path):
    (tmp_path / "picture.svg").write_text("<svg/>")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match=f"{name} is no page"):
        pages.main([str(tmp_path / name)])


DRAWS = """<!-- figure: heights.svg -->
```python
import matplotlib.pyplot as plt

fig, (left, right) = plt.subplots(1, 2)
left.plot([1, 2, 3], [0.1, 0.2, 4.0], label="J")
left.bar([1], [2.5])
left.annotate("top", (3, 4.0), xytext=(1, 3.0), arrowprops={"arrowstyle": "->"})
left.legend()
right.imshow([[1, 2], [3, 4]])
right.quiver([0, 1], [0, 1], [1, 1], [0, 1])
right.scatter([0.5], [0.5])
```

![heights](heights.svg)
"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    run(DRAWS, folder, write=True)
    return folder


@pytest.fixture
def figure(drawn, tmp_path):
    shutil.copytree(drawn, tmp_path, dirs_exist_ok=True)
    return tmp_path / "heights.svg"


def test_a_figure_is_the_same_each_time(figure):
    before = figure.read_bytes()
    run(DRAWS, figure.parent)
    run(DRAWS, figure.parent, write=True)
    assert figure.read_bytes() == before
    assert len(before) < 40_000


@sizes(
    ("old", "new"),
    [
        ("4.0], label", "4.001], label"),
        ("right.scatter", "# right.scatter"),
        ("(heights.svg)", "(other.svg)"),
        ("fig, (left, right) = plt.subplots(1, 2)", "left = right = plt.Figure().add_subplot()"),
    ],
    [
        ('"J"', '"K"'),
        ('label="J"', 'label="J", color="red"'),
        ('label="J"', 'label="J", linestyle="--"'),
        ('label="J"', 'label="J", visible=False'),
        ("4]])", '4]], cmap="magma")'),
        ("4]])", "4]], vmax=9)"),
        ("left.legend()", "left.set_xticks([1], ['one'])\nleft.legend()"),
        ("left.legend()", "fig.suptitle('heights')\nleft.legend()"),
        ("left.legend()", "left.set_yscale('log')\nleft.legend()"),
        ("[2.5]", "[2.6]"),
        ('"top"', '"peak"'),
        ("(3, 4.0), x", "(3, 4.1), x"),
        ("[3, 4]", "[3, 5]"),
        ("[1, 1], [0, 1])", "[1, 1], [0, 2])"),
        ("[0.5], [0.5]", "[0.5], [0.6]"),
        ("1, 2)\n", "1, 2, sharex=True)\n"),
    ],
)
def test_a_figure_that_the_code_does_not_draw_is_found(figure, old, new):
    assert old in DRAWS
    with pytest.raises(AssertionError, match=r"shows something else|leaves no|does not show"):
        run(DRAWS.replace(old, new), figure.parent)


def test_rounding_is_no_other_figure(figure):
    run(DRAWS.replace("4.0], label", "4.00000001], label"), figure.parent)


def test_files_that_are_changed_are_found(figure):
    numbers = figure.with_suffix(".json")
    right = numbers.read_text()
    numbers.write_text(right.replace("0.2 ", "0.21 ", 1))
    assert numbers.read_text() != right
    with pytest.raises(AssertionError, match=r"is 0\.2, not 0\.21"):
        run(DRAWS, figure.parent)
    numbers.write_text(right)
    run(DRAWS, figure.parent)
    figure.write_text(figure.read_text().replace("#1f77b4", "#ff0000", 1))
    with pytest.raises(AssertionError, match=r"is not the picture"):
        run(DRAWS, figure.parent)
    figure.unlink()
    with pytest.raises(AssertionError, match=r"there is no heights\.svg"):
        run(DRAWS, figure.parent)


def test_a_figure_of_axes_that_pyplot_does_not_know_is_taken(tmp_path):
    text = """<!-- figure: line.svg -->
```python
import tabular_bilevel as tb

ax = tb.plots.influence(tb.problems.four_rooms(), [0.0] * 105)
```

![line](line.svg)
"""
    run(text, tmp_path, write=True)
    run(text, tmp_path)


def missing(text, folder):
    """Find the files that a page in a folder names, and that do not exist."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    linked = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", re.sub(r"`[^`]*`", "", prose))
    named = re.findall(r"`(?:python )?((?:tabular_bilevel|tests|validation)/[\w./]*)", text)
    return [name for name in linked if not (folder / name).exists()] + [
        name for name in named if not (ROOT / name).exists()
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page):
    assert missing(page.read_text(encoding="utf-8"), page.parent) == []


def test_files_that_do_not_exist_are_found(tmp_path):
    text = "[a](gone.md#b) [b](https://x) `tests/gone.py` `c[0](d)`\n```python\nc[0](d)\n```\n"
    assert missing(text, tmp_path) == ["gone.md", "tests/gone.py"]


def test_the_index_has_every_page():
    index = (BOOK / "README.md").read_text(encoding="utf-8")
    assert [
        str(page.relative_to(BOOK))
        for page in PAGES[1:]
        if f"({page.relative_to(BOOK).as_posix()})" not in index
    ] == ["README.md"]


def test_the_index_says_how_long_lessons_take():
    index = (BOOK / "README.md").read_text(encoding="utf-8")
    for page in sorted(BOOK.glob("lessons/[0-9]*.md")):
        (minutes,) = re.findall(r"^\*(\d+) minutes", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert re.search(rf"\({page.parent.name}/{page.name}\) \| .* \| {minutes} min \|", index)


def test_the_commands_are_there_for_ci():
    commands = {
        b.notes["command"]: b.text for b in blocks(PAGES[0].read_text()) if "command" in b.notes
    }
    assert "tabular-bilevel verify" in commands["verify"]
    assert "pytest -m 'not slow' -n 2" in commands["tests"]
    assert "sphinx-build -W" in commands["book"]
    assert "tb.plots.line(tb.problems.fork()" in commands["picture"]


def docstrings():
    for path in (ROOT / "tabular_bilevel").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                yield path.relative_to(ROOT), ast.get_docstring(node) or ""


@cache
def words_not_to_use():
    table = (BOOK / "glossary.md").read_text(encoding="utf-8").partition("| not | but |")[2]
    rows = re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE)
    return [word for row in rows[1:] for word in row.split(", ")]


def found_in(text):
    """Find words that are not to be used; titles in quotes may have them."""
    plain = re.sub(r'"[^"]*"', "", text.replace("\n", " ")).lower()
    return [word for word in words_not_to_use() if re.search(rf"\b{word}", plain)]


def test_docstrings_keep_to_the_glossary():
    assert len(words_not_to_use()) > 10
    wrong = [
        (str(path), found_in(text))
        for path, text in docstrings()
        if "adapters" not in path.parts and found_in(text)
    ]
    assert wrong == []
    assert found_in("The direct\nterm alone.") == ["direct term"]
