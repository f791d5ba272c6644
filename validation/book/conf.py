"""How Sphinx makes a site of the book: the README has the command.

The pages are those that a code host shows. The reference of all public names is written anew at
each build into reference/names/, in the groups of ``help(tabular_bilevel)``.
"""

import importlib
import importlib.metadata
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
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["README.md"]  # with which index.rst begins

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_mock_imports = ["gymnasium", "hypothesis", "jax", "pettingzoo", "torch"]
autodoc_typehints = "none"  # docstrings say it in words
autodoc_member_order = "bysource"
napoleon_custom_sections = [("Attributes", "params_style")]  # no objects of their own
napoleon_use_rtype = False
default_role = "py:obj"

html_theme = "furo"
html_title = project
html_show_copyright = False

PACKAGE = tabular_bilevel.__name__
GROUP = re.compile(r"^(\S.*)\n((?: {4}\w.*\n?)+)", re.MULTILINE)
THEORY = re.compile(r"theory\.md sections? \d+(?:(?:, | and | to )\d+)*")


def write_names(app: Sphinx) -> None:
    """Write a page for each group of public names, one for each module, and one that lists them."""
    folder = Path(app.srcdir, "reference", "names")
    folder.mkdir(exist_ok=True)
    listed: list[str] = []
    groups: list[str] = []
    modules: list[str] = []
    for title, lines in GROUP.findall(tabular_bilevel.__doc__ or ""):
        listed += [title, "-" * len(title), ""]
        page = []
        for line in lines.splitlines():
            name, words = line.split(maxsplit=1)
            path = f"{PACKAGE}.{name.removeprefix(f'{PACKAGE}.')}"
            thing = getattr(tabular_bilevel, name, None)
            if isinstance(thing, type):
                page.append(f".. autoclass:: {path}\n   :members:\n")
            elif callable(thing):
                page.append(f".. autofunction:: {path}\n")
            else:
                modules.append(path)
                write(folder / f"{path}.rst", path, *documented_modules(path))
            role = "doc" if path in modules else "py:obj"
            listed.append(f":{role}:`{name} <{path}>`\n   {words}\n")
        if page:
            groups.append(re.sub(r"\W+", "-", re.split("[:,]", title)[0].lower()))
            write(folder / f"{groups[-1]}.rst", title, *page)
    toctree = [".. toctree::", "   :hidden:", "", *(f"   {page}" for page in [*groups, *modules])]
    write(folder / "index.rst", "Public names", *listed, *toctree)
    for page in {*folder.iterdir()} - {
        folder / f"{name}.rst" for name in ["index", *groups, *modules]
    }:
        page.unlink()  # of a group that has another name now


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


def as_markup(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """Leave the bars of |V| and f(b|s) alone, and link to the theory; examples are as they are."""
    example = False
    for i, line in enumerate(lines):
        example = bool(line) and (example or line.lstrip().startswith(">>>"))
        if not example:
            lines[i] = THEORY.sub(r":doc:`\g<0> </theory>`", line.replace("|", "\\|"))


def setup(app: Sphinx) -> None:
    """Have the pages of names written before Sphinx looks for pages."""
    app.connect("builder-inited", write_names)
    app.connect("autodoc-process-docstring", as_markup)
