"""HTML as elements, so that nothing that somebody says is left unescaped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tabular_bilevel._base.files import shown

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element


def element(tag: str, *children: Element | str | None, **attributes: object) -> Element:
    """Make an element of texts and elements in order; what is None is left out.

    Of the attributes ``class_`` is class, and ``aria_label`` is aria-label.
    """
    from xml.etree.ElementTree import Element  # which takes a while

    made = Element(tag)
    for name, value in attributes.items():
        if value is not None:
            made.set(name.rstrip("_").replace("_", "-"), lines_shown(value))
    for child in children:
        if isinstance(child, str):
            text = lines_shown(child)
            if len(made):
                made[-1].tail = (made[-1].tail or "") + text
            else:
                made.text = (made.text or "") + text
        elif child is not None:
            made.append(child)
    return made


def lines_shown(text: object) -> str:
    """Spell what is not to be printed as Python's escapes, but for the ends of lines."""
    return "\n".join(map(shown, str(text).split("\n")))


def written(made: Element) -> str:
    """Write an element as HTML."""
    from xml.etree.ElementTree import tostring

    return tostring(made, encoding="unicode", method="html")
