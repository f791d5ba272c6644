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
small = {"code-font-size": "75%"}  # a hundred characters in a line
html_theme_options = {"light_css_variables": small, "dark_css_variables": small}

PACKAGE = tabular_bilevel.__name__
GROUP = re.compile(r"^(\S.*)\n((?: {4}\w.*\n?)+)", re.MULTILINE)
THEORY = re.compile(r"theory\.md sections? \d+(?:(?:, | and | to )\d+)*")


def write_names(app: Sphinx) -> None:
    """Write a page for each group of public names, one for each module, and one that lists them."""
    listed: list[str] = []
    groups: dict[str, list[str]] = {}
    modules: dict[str, list[str]] = {}
    for title, lines in GROUP.findall(tabular_bilevel.__doc__ or ""):
        listed += heading(title, "-")
        page = heading(title, "=")
        for line in lines.splitlines():
            name, words = line.split(maxsplit=1)
            path = f"{PACKAGE}.{name.removeprefix(f'{PACKAGE}.')}"
            thing, role = getattr(tabular_bilevel, name, None), "py:obj"
            if isinstance(thing, type):
                page.append(f".. autoclass:: {path}\n   :members:\n")
            elif callable(thing):
                page.append(f".. autofunction:: {path}\n")
            else:
                role, modules[path] = "doc", heading(path, "=") + documented_modules(path)
            listed.append(f"- :{role}:`{name} <{path}>`: {words}")
        listed.append("")
        if len(page) > 3:  # more than its heading
            groups[re.sub(r"\W+", "-", re.split("[:,]", title)[0].lower())] = page
    toctree = [".. toctree::\n   :hidden:\n", *(f"   {page}" for page in [*groups, *modules])]
    index = {"index": heading("Public names", "=") + listed + toctree}
    write(Path(app.srcdir, "reference", "names"), groups | modules | index)


def heading(title: str, line: str) -> list[str]:
    """Underline a title."""
    return [title, line * len(title), ""]


def documented_modules(path: str) -> list[str]:
    """Have a module documented or, if it exports nothing, the modules in it."""
    with mock(autodoc_mock_imports):
        module = importlib.import_module(path)
    inside = [] if hasattr(module, "__all__") else list(pkgutil.iter_modules(module.__path__))
    paths = [f"{path}.{found.name}" for found in inside if not found.name.startswith("_")]
    options = "" if paths else "\n   :members:"
    return [f".. automodule:: {name}{options}\n" for name in [path, *paths]]


def write(folder: Path, pages: dict[str, list[str]]) -> None:
    """Write pages into a folder of their own; what is there already Sphinx need not read again."""
    folder.mkdir(exist_ok=True)
    for page in folder.iterdir():
        if page.stem not in pages:
            page.unlink()
    for name, lines in pages.items():
        page, text = folder / f"{name}.rst", "\n".join([*lines, ""])
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
