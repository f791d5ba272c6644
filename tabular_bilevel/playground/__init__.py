"""A playground in the browser: coins on a grid, the follower's answer, and what they are worth.

The page is the files beside this one: `page.html`, its style, and JavaScript, of which `solver.js`
has the equations. It needs no network and no server.
"""

from __future__ import annotations

import re
from importlib.resources import files

__all__ = ["page"]

# What page.html takes from the files beside it.
STYLE, SCRIPT = r'<link rel="stylesheet" href="(.+?)">', r'<script src="(.+?)"></script>'


def page() -> str:
    """Give the playground as one HTML document.

    Returns
    -------
    str
        The document, with its style and scripts within. Its address may end in ``#state=`` and a
        JSON object, percent-encoded: what of the setting differs from the small hall, by the names
        that `tabular_bilevel.problems.grid_world` has, with ``price`` and a list ``coins`` of
        ``[row, column, amount]``.

    Examples
    --------
    >>> page().count("<script>")
    1
    """
    folder = files("tabular_bilevel.playground")

    def text(name: str) -> str:
        return (folder / name).read_text(encoding="utf-8")

    html = text("page.html")
    scripts = re.findall(SCRIPT, html)
    joined = "\n".join(map(text, scripts))
    style = re.sub(STYLE, lambda found: f"<style>\n{text(found[1])}</style>", html)
    return re.sub(rf"({SCRIPT}\s*)+", lambda _: f"<script>\n{joined}</script>\n", style)
