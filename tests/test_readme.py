"""The README's example runs, and prints what it says."""

import contextlib
import io
import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def block(marker, language):
    text = README.read_text(encoding="utf-8")
    found = re.search(rf"<!-- {marker} -->\n```{language}\n(.*?)```", text, re.DOTALL)
    assert found, f"README.md has no block '{marker}'"
    return found.group(1)


def test_the_example_prints_what_it_says():
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(block("example", "python"), {})
    assert printed.getvalue() == block("output", "text")


def test_the_commands_are_there_for_ci():
    assert "tabular-bilevel verify" in block("command: verify", "sh")
    assert "pytest" in block("command: tests", "sh")
