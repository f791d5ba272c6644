"""What all pages have: verdict, tables, and how to make them again; one file, no network."""

from __future__ import annotations

import platform
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.resources import files
from xml.etree.ElementTree import Element

import tabular_bilevel as tb
from tabular_bilevel._base.html import element, written

__all__ = ["Check", "Source", "checks", "document", "figure", "number", "table"]

# What numbers depend on, beside this package and Python.
LIBRARIES = "numpy", "scipy", "numba", "python-flint"

# A browser that obeys this fetches nothing, and runs nothing.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True)
class Source:
    """What a page is about, and how to make it again.

    Attributes
    ----------
    subject : str
        What was looked at.
    command : str
        At a shell.
    seeds : str
        Of all random numbers.
    """

    subject: str = ""
    command: str = ""
    seeds: str = ""


@dataclass(frozen=True)
class Check:
    """A row of a table of checks; nothing is decided of one that is neither good nor bad."""

    name: str
    found: str
    allowed: str
    result: str
    good: bool | None
    detail: str = ""
    link: str = ""


def document(
    verdict: str, good: bool | None, lead: str, body: Iterable[Element], source: Source
) -> str:
    """Write a page: what came of it, what it rests on, and how to see the same again.

    Parameters
    ----------
    verdict, lead : str
        What came of it, in a few words and in a sentence or two.
    good : bool or None
        Whether that is good; None if nothing is decided.
    body : iterable of Element
        What is between.
    source : Source
        What it is about, and how it was made.

    Returns
    -------
    str
        An HTML document.
    """
    verdict = f"{verdict[:1].upper()}{verdict[1:]}"
    title = f"{verdict}: {source.subject}" if source.subject else verdict
    style = (files("tabular_bilevel.pages") / "style.css").read_text(encoding="utf-8")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("title", title),
        element("link", rel="icon", href="data:,"),
        element("style", style),
    )
    kind = {True: "good", False: "bad", None: "open"}[good]
    banner = element(
        "header",
        element("h1", title),
        element("p", lead, class_=f"verdict {kind}"),
    )
    main = element("main", banner, *body, *_again(source))
    page = element("html", head, element("body", main), lang="en")
    return f"<!doctype html>\n{written(page)}\n"


def _again(source: Source) -> Iterator[Element]:
    yield element("h2", "To see the same again")
    if source.command:
        yield element("pre", element("code", source.command))
    if source.seeds:
        yield element("p", f"Random numbers: {source.seeds}.")
    yield table("Versions", ("what", "version"), _versions())


def _versions() -> Iterator[tuple[str, str]]:
    yield "tabular-bilevel", tb.__version__
    yield "Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    for name in LIBRARIES:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            yield name, "not installed"


def table(
    caption: str,
    heads: Sequence[str],
    rows: Iterable[Sequence[Element | str]],
    numbers: Collection[int] = (),
) -> Element:
    """Make a table, whose rows are named by their first cells.

    Parameters
    ----------
    caption : str
        What it is of.
    heads : sequence of str
        Names of the columns.
    rows : iterable of sequences of Element or str
        As many cells each; an element is a cell itself.
    numbers : collection of int
        Columns of numbers, which are set to the right.

    Returns
    -------
    xml.etree.ElementTree.Element
        The table.
    """
    look = ["number" if k in numbers else None for k in range(len(heads))]
    made = [element("tr", *(_cell(k, cell, look[k]) for k, cell in enumerate(row))) for row in rows]
    return _table(caption, heads, numbers, made)


def _table(
    caption: str, heads: Sequence[str], numbers: Collection[int], rows: Iterable[Element]
) -> Element:
    return element(
        "table",
        element("caption", caption),
        element(
            "thead",
            element(
                "tr",
                *(
                    element("th", name, scope="col", class_="number" if k in numbers else None)
                    for k, name in enumerate(heads)
                ),
            ),
        ),
        element("tbody", *rows),
    )


def _cell(k: int, cell: Element | str, look: str | None) -> Element:
    if not isinstance(cell, str):
        return cell
    return element("td", cell, class_=look) if k else element("th", cell, scope="row")


def checks(caption: str, rows: Iterable[Check]) -> Element:
    """Make a table of checks, one a row."""
    made = []
    for row in rows:
        name = element("a", row.name, href=f"#{row.link}") if row.link else row.name
        found, allowed = (element("td", x, class_="number") for x in (row.found, row.allowed))
        result = element("td", row.result if row.good else element("strong", row.result))
        if row.good is False:
            result.set("class", "bad")
        cells = element("th", name, scope="row"), found, allowed, result
        made.append(element("tr", *cells, class_="more" if row.detail else None))
        if row.detail:
            made.append(element("tr", element("td", row.detail, colspan=4)))
    return _table(caption, ("check", "found", "allowed", "result"), (1, 2), made)


def figure(picture: Element, *caption: Element | str) -> Element:
    """Put a caption below a picture."""
    return element("figure", picture, element("figcaption", *caption))


def number(value: float, digits: int = 3) -> str:
    """Write a number, or say that there is none."""
    if value != value:
        return "unknown"
    return f"{value:.{digits}g}".replace("inf", "\N{INFINITY}")
