"""What all pages have: verdict, tables, and how to make them again; one file, no network."""

from __future__ import annotations

import platform
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.resources import files
from xml.etree.ElementTree import Element

from tabular_bilevel._base import __version__
from tabular_bilevel._base.html import element, written

# What numbers depend on, beside this package and Python.
LIBRARIES = "numpy", "scipy", "numba", "python-flint"

# A browser that obeys this fetches nothing, and runs nothing.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True)
class Source:
    """What a page is about, and how to make it again: a command at a shell, and random seeds."""

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
    """Write a page in HTML: what came of it, what it rests on, and how to see the same again.

    The verdict is a few words, the lead a sentence or two; `good` is None if nothing is decided.
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
    yield table("Versions", ("what", "version"), map(Row, _versions()))


def _versions() -> Iterator[tuple[str, str]]:
    yield "tabular-bilevel", __version__
    yield "Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    for name in LIBRARIES:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            yield name, "not installed"


@dataclass(frozen=True)
class Row:
    """Cells of a table, the first of which names them, and what is said below; wide on a phone."""

    cells: Sequence[Element | str]
    detail: str = ""


def table(
    caption: str, heads: Sequence[str], rows: Iterable[Row], numbers: Collection[int] = ()
) -> Element:
    """Make a table; the columns whose `numbers` are given are set to the right."""

    def cell(k: int, content: Element | str) -> Element:
        number = "number" if k in numbers else None
        if k == 0:
            return element("th", content, scope="row")
        if number and isinstance(content, str):  # a line breaks between numbers only
            words = [part for word in content.split(" ") for part in (" ", element("span", word))]
            return element("td", *words[1:], class_=number)
        return element("td", content, class_=number)

    made = []
    for row in rows:
        cells = [cell(k, content) for k, content in enumerate(row.cells)]
        made.append(element("tr", *cells, class_="more" if row.detail else None))
        if row.detail:
            made.append(element("tr", element("td", row.detail, colspan=len(heads))))
    named = [
        element("th", name, scope="col", class_="number" if k in numbers else None)
        for k, name in enumerate(heads)
    ]
    return element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *named)),
        element("tbody", *made),
    )


def checks(caption: str, rows: Iterable[Check]) -> Element:
    """Make a table of checks, one a row."""

    def row(check: Check) -> Row:
        link = element("a", check.name, href=f"#{check.link}") if check.link else check.name
        bad = "bad" if check.good is False else None
        result = check.result if check.good else element("strong", check.result, class_=bad)
        return Row((link, check.found, check.allowed, result), check.detail)

    return table(caption, ("check", "found", "allowed", "result"), map(row, rows), numbers=(1, 2))


def figure(picture: Element, *caption: Element | str) -> Element:
    """Put a caption below a picture."""
    return element("figure", picture, element("figcaption", *caption))


def number(value: float, digits: int = 3) -> str:
    """Write a number, or say that there is none."""
    if value != value:
        return "unknown"
    return f"{value:.{digits}g}".replace("inf", "\N{INFINITY}")
