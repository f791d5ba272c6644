"""The README and the book: what a page displays runs, prints what it says, and has our words.

The blocks of a page run in order and share their names. A block of text right behind another block
is what that one prints. Above a block may stand ``<!-- file: NAME -->``, which writes the block to
a file instead, or ``<!-- command: NAME -->``, which leaves it to the continuous integration.
"""

import ast
import contextlib
import io
import re
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tabular_bilevel.cli import main

ROOT = Path(__file__).parents[1]
BOOK = ROOT / "validation" / "book"
PAGES = [ROOT / "README.md", *sorted(BOOK.glob("*.md"))]

FENCE = re.compile(
    r"(?:<!-- ([a-z]+): (.*?) -->\n)?^```(.*?)\n(.*?)^```$", re.DOTALL | re.MULTILINE
)


class Block(NamedTuple):
    kind: str  # of its note: file, command, or empty
    name: str
    language: str
    text: str
    follows: bool  # whether nothing but empty lines is between it and the block before


def blocks(text):
    found, end = [], 0
    for match in FENCE.finditer(text):
        between = text[end : match.start()].strip()
        found.append(Block(*(part or "" for part in match.groups()), bool(found) and not between))
        end = match.end()
    return found


def run_page(text):
    """Run the blocks of a page in the working folder; raise AssertionError where one is wrong."""
    namespace, printed = {}, None
    assert text.count("```") == 2 * len(blocks(text)), "a block is not seen"
    for block in blocks(text):
        if block.kind == "file":
            Path(block.name).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            printed = captured(exec, compile(block.text, "<page>", "exec"), namespace)
        elif block.language == "sh" and block.kind != "command":
            printed = captured(run_commands, block.text)
        elif block.language == "text":
            assert block.follows, f"nothing prints this:\n{block.text}"
            assert printed == block.text
        else:
            assert block.language == "bibtex" or block.kind == "command", block


def captured(function, *arguments):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        function(*arguments)
    return out.getvalue()


def run_commands(text):
    """Run our own command line; ``# ends with 1`` is the exit status, if it is not 0."""
    for line in text.splitlines():
        program, *arguments = shlex.split(line, comments=True)
        assert program == "tabular-bilevel", f"who would run this? {line}"
        status = int(line.rpartition("# ends with ")[2]) if "# ends with" in line else 0
        assert main(arguments) == status, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_displays_runs_and_prints_what_it_says(page, tmp_path, monkeypatch):
    (tmp_path / "validation").symlink_to(ROOT / "validation")  # a page may read what is shipped
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))  # checksums of vectors
    before = set(sys.modules)
    run_page(page.read_text(encoding="utf-8"))
    for name in set(sys.modules) - before:  # another page may have a file of the same name
        if getattr(sys.modules[name], "__file__", None) == str(tmp_path / f"{name}.py"):
            monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ("```python\nprint(1)\n```\n\n```text\n2\n```\n", "1"),
        ("```text\n2\n```\n", "nothing prints this"),
        ("```python\nprint(1)\n```\nThen\n```text\n1\n```\n", "nothing prints this"),
        ("```sh\nrm -r x\n```\n", "who would run this"),
        ("```sh\ntabular-bilevel problems # ends with 1\n```\n", "problems"),
        ("```perl\n1\n```\n", "perl"),
        ("- a list\n\n  ```python\n  1 / 0\n  ```\n", "not seen"),
    ],
)
def test_a_page_that_is_wrong_is_found(wrong, complaint):
    with pytest.raises(AssertionError, match=complaint):
        run_page(wrong)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page):
    text = page.read_text(encoding="utf-8")
    missing = [
        name
        for name in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
        if not (page.parent / name).exists()
    ] + [
        name
        for name in re.findall(r"`(?:python )?((?:tabular_bilevel|tests|validation)/[\w./]*)", text)
        if not (ROOT / name).exists()
    ]
    assert missing == []


def test_the_index_has_every_page():
    index = (BOOK / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES[1:] if f"({page.name})" not in index] == ["README.md"]


def test_the_commands_are_there_for_ci():
    commands = {b.name: b.text for b in blocks(PAGES[0].read_text()) if b.kind == "command"}
    assert "tabular-bilevel verify" in commands["verify"]
    assert "pytest -m 'not slow' -n 2" in commands["tests"]


def docstrings():
    for path in (ROOT / "tabular_bilevel").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                yield path.relative_to(ROOT), ast.get_docstring(node) or ""


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
