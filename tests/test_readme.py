"""The README's examples run, and print what it says."""

import contextlib
import io
import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def block(marker, language):
    text = README.read_text(encoding="utf-8")
    found = re.search(rf"<!-- {marker} -->\n```{language}\n(.*?)```", text, re.DOTALL)
    assert found, f"README.md has no block '{marker}'"
    return found.group(1)


@pytest.mark.parametrize(
    ("example", "output"),
    [
        (f"example{name}", f"output{name}")
        for name in ("", " check", " methods", " gymnasium", " rigor", " vectors")
    ],
)
def test_an_example_prints_what_it_says(example, output, monkeypatch):
    monkeypatch.chdir(README.parent)  # an example may read what is shipped
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(block(example, "python"), {})
    assert printed.getvalue() == block(output, "text")


def test_every_example_is_run():
    text = README.read_text(encoding="utf-8")
    assert text.count("```python\n") == text.count("<!-- example")


def test_the_commands_are_there_for_ci():
    assert "tabular-bilevel verify" in block("command: verify", "sh")
    assert "pytest -m 'not slow' -n 2" in block("command: tests", "sh")
