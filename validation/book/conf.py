"""How Sphinx makes a site of the book: the README has the command.

The pages are those that a code host shows. The reference of all public names is written anew at
each build into reference/names/, in the groups of ``help(tabular_bilevel)``.
"""

import importlib
import importlib.metadata
import importlib.util
import pkgutil
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.ext.autodoc.mock import mock

import tabular_bilevel

project = "tabular-bilevel"
author = "The tabular-bilevel developers"
release = importlib.metadata.version(project)

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["README.md"]  # which index.rst begins with

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_mock_imports = ["gymnasium", "hypothesis", "jax", "pettingzoo", "torch"]
autodoc_typehints = "none"  # docstrings say it in words
autodoc_member_order = "bysource"
autosummary_generate = False
napoleon_custom_sections = [("Attributes", "params_style")]  # no objects of their own
napoleon_use_rtype = False
default_role = "py:obj"

html_theme = "furo"
html_title = project
html_show_copyright = False

PACKAGE = tabular_bilevel.__name__
GROUP = re.compile(r"^(\S.*)\n((?: {4}\w.*\n?)+)", re.MULTILINE)


def write_names(app: Sphinx) -> None:
    """Write a page for each group of public names, and one for each module that has some."""
    folder = Path(app.srcdir, "reference", "names")
    folder.mkdir(exist_ok=True)
    for number, (title, lines) in enumerate(GROUP.findall(tabular_bilevel.__doc__ or "")):
        page, below = [f".. currentmodule:: {PACKAGE}", "", ".. autosummary::", ""], []
        for name in (line.split()[0].removeprefix(f"{PACKAGE}.") for line in lines.splitlines()):
            page.append(f"   {name}")
            path = f"{PACKAGE}.{name}"
            if importlib.util.find_spec(path) and not callable(getattr(tabular_bilevel, name, None)):
                write(folder / f"{name}.rst", path, *documented_modules(path))
            elif isinstance(getattr(tabular_bilevel, name), type):
                below.append(f".. autoclass:: {name}\n   :members:\n")
            else:
                below.append(f".. autofunction:: {name}\n")
        write(folder / f"{number:02}.rst", title, *page, "", *below)


def documented_modules(path: str) -> list[str]:
    """Have a module documented or, if it exports nothing, the modules in it."""
    with mock(autodoc_mock_imports):
        module = importlib.import_module(path)
    inside = [] if hasattr(module, "__all__") else list(pkgutil.iter_modules(module.__path__))
    paths = [f"{path}.{found.name}" for found in inside if not found.name.startswith("_")]
    options = "" if paths else "\n   :members:"
    return [f".. automodule:: {name}{options}\n" for name in [path, *paths]]


def write(page: Path, title: str, *lines: str) -> None:
    """Write a page, unless it is there already: then Sphinx need not read it again."""
    text = "\n".join([title, "=" * len(title), "", *lines, ""])
    if not page.exists() or page.read_text(encoding="utf-8") != text:
        page.write_text(text, encoding="utf-8")


def plain_bars(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Leave the bars of |V| and f(b|s) alone, outside of examples; else they are substitutions."""
    example = False
    for i, line in enumerate(lines):
        example = bool(line) and (example or line.lstrip().startswith(">>>"))
        lines[i] = line if example else line.replace("|", "\\|")


def setup(app: Sphinx) -> None:
    """Have the pages of names written before Sphinx looks for pages."""
    app.connect("builder-inited", write_names)
    app.connect("autodoc-process-docstring", plain_bars)
