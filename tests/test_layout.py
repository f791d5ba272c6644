"""Who imports whom: a test file is for nobody, and validation/ does without tests/; sizes."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "tabular_bilevel"
VALIDATION = TESTS.parent / "validation"
OF_TESTS = {path.stem for path in TESTS.rglob("*.py")}
TEST_FILES = {name for name in OF_TESTS if name.startswith("test_")}


def reached(text, modules):
    """Find which of the modules a text imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            found.update((node.module or "").split("."))
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.update(part for alias in node.names for part in alias.name.split("."))
    return found & modules


def reaching(folder, modules):
    texts = {path.name: path.read_text(encoding="utf-8") for path in folder.rglob("*.py")}
    return {name: found for name, text in texts.items() if (found := reached(text, modules))}


def test_the_package_itself_is_imported_by_its_command_line_alone():
    """Its public names are above all folders; import-linter looks at these only."""
    text = re.compile(r"^ *(?:import tabular_bilevel\b(?!\.)|from tabular_bilevel import)", re.M)
    found = {path for path in PACKAGE.rglob("*.py") if text.search(path.read_text("utf-8"))}
    above = {path for path in found if path.parent.name != "cli"}
    # the second takes modules of its folder by their names
    assert above == {PACKAGE / "__init__.py", PACKAGE / "problems" / "known.py"}


def test_few_modules_are_at_the_top_and_none_is_long():
    assert len(list(PACKAGE.glob("*.py"))) <= 8
    lengths = {path: path.read_text("utf-8").count("\n") for path in PACKAGE.rglob("*.py")}
    assert {path: length for path, length in lengths.items() if length > 900} == {}


def test_no_test_file_is_imported():
    assert reaching(TESTS, TEST_FILES) == {}


def test_validation_does_not_reach_into_the_tests():
    assert reaching(VALIDATION, OF_TESTS) == {}


@pytest.mark.parametrize(
    "text",
    [
        "import test_layout",
        "import numpy, test_layout as helpers",
        "from test_layout import reached",
        "from tests import test_layout",
        "from tests.test_layout import reached",
        "from .test_layout import reached",
        "def inside():\n    from test_layout import reached",
    ],
)
def test_each_way_to_import_is_seen(text):
    assert reached(text, TEST_FILES) == {"test_layout"}
    assert reached(text.replace("test_layout", "twins"), TEST_FILES) == set()
