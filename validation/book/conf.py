"""How Sphinx makes a site of the book: the README has the command.

The pages are those that a code host shows. The reference of all public names is written anew at
each build into reference/names/, in the groups of ``help(tabular_bilevel)``.
"""

import html
import importlib
import importlib.metadata
import pkgutil
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import latex2mathml.converter
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.ext.autodoc.mock import mock
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

import tabular_bilevel

project = "tabular-bilevel"
author = "The tabular-bilevel developers"
release = importlib.metadata.version(project)

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["README.md"]  # with which index.rst begins

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

html_math_renderer = "mathml"  # which browsers show without a library, and without a network

autodoc_mock_imports = ["gymnasium", "hypothesis", "jax", "pettingzoo", "torch"]
autodoc_typehints = "none"  # docstrings say it in words
autodoc_member_order = "bysource"
napoleon_custom_sections = [("Attributes", "params_style")]  # no objects of their own
napoleon_use_rtype = False
default_role = "py:obj"

html_theme = "furo"
html_title = project
html_show_copyright = False
html_static_path = html_css_files = ["site.css"]

PACKAGE = tabular_bilevel.__name__
GROUP = re.compile(r"^(\S.*)\n((?: {4}\w.*\n?)+)", re.MULTILINE)
NAME = re.compile(r"tb\.(\w+(?:\.\w+)*)(?:\(.*\))?")
THEORY = re.compile(r"theory\.md sections? \d+(?:(?:, | and | to )\d+)*")

# Before a number they are signs, behind one they add.
SIGNS = {"+", "\N{MINUS SIGN}", "\N{PLUS-MINUS SIGN}", "\N{MINUS-OR-PLUS SIGN}"}


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


def link_names(app: Sphinx, doctree: nodes.document) -> None:
    """Make `tb.NAME` in a text a link to where the name is documented, if it is."""
    for literal in [*doctree.findall(nodes.literal)]:
        name = NAME.fullmatch(literal.astext())
        if name and not isinstance(literal.parent, addnodes.pending_xref | nodes.reference):
            link = addnodes.pending_xref("", refdomain="py", reftype="obj", refdoc=app.env.docname)
            link["reftarget"] = f"{PACKAGE}.{name[1]}"
            literal.replace_self(link)
            link += literal


def as_mathml(translator: HTML5Translator, node: nodes.math | nodes.math_block) -> None:
    """Write a formula, which browsers set; a wide one scrolls by itself."""
    block = isinstance(node, nodes.math_block)
    formula = latex2mathml.converter.convert_to_element(
        node.astext(), display="block" if block else "inline"
    )
    spaced(formula)
    text = ElementTree.tostring(formula, encoding="unicode").replace("&amp;#", "&#")
    if "\\" in text or "&amp;" in text:
        logging.getLogger(__name__).warning("no MathML for: %s", node.astext(), location=node)
    translator.body.append(f'<div class="formula">{text}</div>' if block else text)
    raise nodes.SkipNode


def spaced(formula: Element) -> None:
    """Tell signs from sums, and set functions apart, as TeX does."""
    for row in formula.iter():
        parts = [part for part in row if part.tag != "mspace"]
        for before, part, after in zip([None, *parts], parts, [*parts[1:], None], strict=False):
            word = html.unescape(part.text or "")
            if part.tag == "mo" and word in SIGNS and (before is None or opens(before)):
                part.set("form", "prefix")
            if part.tag == "mo" and word == "/":
                part.attrib |= {"lspace": "0", "rspace": "0"}
            if part.tag == "mi" and len(word) > 1:
                part.tag = "mo"
                follows = after is not None and after.tag != "mo"
                part.attrib |= {"lspace": "0.17em", "rspace": "0.17em" if follows else "0"}


def opens(part: Element) -> bool:
    """Whether what follows begins anew: after = and ( but not after )."""
    return part.tag == "mo" and html.unescape(part.text or "") not in {*")]}|!", "\N{PRIME}"}


def setup(app: Sphinx) -> None:
    """Have the pages of names written before Sphinx looks for pages."""
    app.add_html_math_renderer("mathml", (as_mathml, None), (as_mathml, None))
    app.connect("builder-inited", write_names)
    app.connect("autodoc-process-docstring", as_markup)
    app.connect("doctree-read", link_names)
