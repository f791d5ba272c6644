"""Run what pages display: their code, what it prints, and their figures.

Run ``python validation/book/pages.py PAGE...`` with the package installed to check pages, or the
pages of folders; ``--write`` puts into them what is printed and drawn now. The continuous
integration does the same by ``tests/test_pages.py``.

The blocks of a page run in order and share their names. A block of text right behind another block
is what that one prints. Notes, each on a line of its own, may stand right above a block:

``<!-- file: NAME -->``
    The block is written to a file instead.
``<!-- command: NAME -->``
    The block is left to the continuous integration.
``<!-- needs: NAME -->``
    The block is skipped, in words, where there is no library, program or environment variable of
    this name.
``<!-- figure: NAME.svg -->``
    The block leaves a figure: pyplot's current one or, where pyplot has none, that of the name
    `ax`. It is saved as NAME.svg beside the page, which shows it below the block. Beside it
    NAME.json has what is drawn in numbers, which are compared, and the picture's checksum.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import hashlib
import importlib.util
import io
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from tabular_bilevel.cli import main as command_line

ROOT = Path(__file__).parents[2]

NOTE = re.compile(r"<!-- ([a-z]+): (.*?) -->\n")
FENCE = re.compile(rf"((?:{NOTE.pattern})*)^```(.*?)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

# Numbers of a figure agree if they are as near as this share of themselves, which no eye can tell,
# or as this share of the largest beside them, which is rounding: what is 0 in theory.
SAME_NUMBER, ROUNDING = 1e-4, 1e-7
DIGITS = 7  # that a figure's file keeps of each number

# Commands that pages may run, beside our own.
OTHERS = {"node": ["node"], "pytest": [sys.executable, "-m", "pytest"]}

# A column of 90 mm, and text of 8 points in it, for figures that a page makes without a size.
LOOKS = {
    "figure.figsize": (90.0 / 25.4, 2.4),
    "figure.constrained_layout.use": True,
    "font.size": 8.0,
    **dict.fromkeys(("axes.titlesize", "axes.labelsize", "legend.fontsize"), 8.0),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "figure.titlesize"), 8.0),
    "svg.hashsalt": "the same names in each run",
    "svg.fonttype": "path",  # looks the same wherever it is shown
}


class Block(NamedTuple):
    """A block of code or text in a page."""

    notes: dict[str, str]
    language: str
    text: str
    line: int  # of its first line of text, from 1
    span: tuple[int, int]  # of its text in the page
    follows: bool  # whether nothing but empty lines is between it and the block before


def blocks(page: str) -> list[Block]:
    """Find the blocks of a page."""
    found: list[Block] = []
    end = 0
    for match in FENCE.finditer(page):
        notes, *_, language, text = match.groups()
        start = match.start(match.lastindex or 0)
        alone = bool(page[end : match.start()].strip()) or not found
        line = page.count("\n", 0, start) + 1
        span = (start, start + len(text))
        found.append(Block(dict(NOTE.findall(notes)), language, text, line, span, not alone))
        end = match.end()
    if page.count("```") != 2 * len(found):
        raise AssertionError("a block is not seen: its fence does not begin a line, or has no end")
    return found


def run(
    page: str, folder: Path, *, write: bool = False, name: str = "page"
) -> tuple[str, set[str]]:
    """Run a page in the working folder: its text with what is printed now, and what it lacks.

    Figures are compared with, or written to, files in `folder`. AssertionError says what is wrong.
    """
    namespace: dict[str, Any] = {}
    printed: str | None = None
    lacking: set[str] = set()
    pieces, end = [], 0
    for block in blocks(page):
        where = f"{name}, line {block.line}"
        need = block.notes.get("needs", "")
        if need and not there_is(need):
            lacking.add(need)
            printed = None
        elif "file" in block.notes:
            Path(block.notes["file"]).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            code = compile("\n" * (block.line - 1) + block.text, name, "exec")
            picture = block.notes.get("figure")
            with drawing(picture, folder, namespace, write=write):
                printed = captured(exec, code, namespace)
            if picture and f"]({picture})" not in page[block.span[1] :]:
                raise AssertionError(f"{where}: the page does not show {picture} below this block")
        elif block.language == "sh" and "command" not in block.notes:
            printed = captured(run_commands, block.text)
        elif block.language == "text":
            if not block.follows:
                raise AssertionError(f"{where}: nothing prints this:\n{block.text}")
            if printed is not None:
                if not write and printed != block.text:
                    raise AssertionError(f"{where}: {difference(block.text, printed)}")
                pieces += [page[end : block.span[0]], printed]
                end = block.span[1]
        elif block.language != "bibtex" and "command" not in block.notes:
            raise AssertionError(f"{where}: nothing runs {block.language}")
    return "".join([*pieces, page[end:]]), lacking


def there_is(name: str) -> bool:
    """Whether there is a library, a program or an environment variable of this name."""
    return bool(importlib.util.find_spec(name) or shutil.which(name) or os.environ.get(name))


def difference(written: str, printed: str) -> str:
    """Say in which lines two texts differ."""
    lines = difflib.unified_diff(
        written.splitlines(), printed.splitlines(), "in the page", "printed now", lineterm="", n=1
    )
    return "it prints something else\n" + "\n".join(lines)


def captured(function: Any, *arguments: Any) -> str:
    """Call a function, and return what it prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        function(*arguments)
    return out.getvalue()


def run_commands(text: str) -> None:
    """Run commands; ``# ends with 1`` is the exit status, if it is not 0."""
    for line in text.splitlines():
        program, *arguments = shlex.split(line, comments=True)
        expected = int(line.rpartition("# ends with ")[2]) if "# ends with" in line else 0
        said = ""
        if program == "tabular-bilevel":
            status = command_line(arguments)
        elif program in OTHERS:
            command = [*OTHERS[program], *arguments]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            status, said = done.returncode, done.stdout + done.stderr
            print(done.stdout, end="")
        else:
            raise AssertionError(f"who would run this? {line}")
        if status != expected:
            raise AssertionError(f"{line}: ends with {status}\n{said}")


@contextlib.contextmanager
def elsewhere() -> Iterator[None]:
    """Work in an empty folder, in which `validation` is found, as far as a page can tell."""
    modules = set(sys.modules)
    with (
        tempfile.TemporaryDirectory() as name,
        contextlib.chdir(name),
        mock.patch.object(sys, "path", [name, *sys.path]),
        mock.patch.dict(os.environ, XDG_STATE_HOME=str(Path(name, "state"))),  # vectors' checksums
    ):
        folder = Path(name)
        (folder / "validation").symlink_to(ROOT / "validation")
        try:
            yield
        finally:  # another page may have a file of the same name
            for module in set(sys.modules) - modules:
                path = getattr(sys.modules[module], "__file__", None)
                if path and Path(path).parent == folder:
                    del sys.modules[module]


@contextlib.contextmanager
def drawing(
    picture: str | None, folder: Path, namespace: dict[str, Any], *, write: bool
) -> Iterator[None]:
    """Compare or write the figure that is left at the end, if there is to be one."""
    if picture is None:
        yield
        return
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    pyplot.close("all")
    with mpl.rc_context(LOOKS):
        yield
        left = (
            pyplot.gcf() if pyplot.get_fignums() else getattr(namespace.get("ax"), "figure", None)
        )
        if left is None:
            raise AssertionError(f"the block of {picture} leaves no figure")
        numbers = drawn(left)
        if write:
            write_figure(left, numbers, folder / picture)
        else:
            compare_figure(numbers, folder / picture)
    pyplot.close("all")


def write_figure(figure: Any, numbers: list[Any], picture: Path) -> None:
    """Write a figure as SVG, the same bytes each time, and its numbers beside it."""
    out = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(out, format="svg", metadata=nothing)
    text = "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())
    picture.write_text(text, encoding="utf-8")
    facts = {"sha256": checksum(picture), "axes": numbers}
    lines = json.dumps(facts, indent=1)
    flat = re.sub(r'\n +(?=[-\d\]n]|"[^"]*",?$)', " ", lines, flags=re.MULTILINE)  # an array a line
    picture.with_suffix(".json").write_text(flat + "\n", encoding="utf-8")


def compare_figure(numbers: list[Any], picture: Path) -> None:
    """Raise AssertionError if a figure is not the one in the files."""
    file = picture.with_suffix(".json")
    for path in (picture, file):
        if not path.exists():
            raise AssertionError(f"there is no {path.name}: pages.py --write makes it")
    facts = json.loads(file.read_text(encoding="utf-8"))
    if facts["sha256"] != checksum(picture):
        raise AssertionError(f"{picture.name} is not the picture that {file.name} belongs to")
    if found := unlike(facts["axes"], numbers, "axes"):
        raise AssertionError(f"{picture.name} shows something else than the code draws: {found}")


def checksum(picture: Path) -> str:
    """Return the SHA-256 of a picture, whatever its ends of lines."""
    return hashlib.sha256(picture.read_text(encoding="utf-8").encode()).hexdigest()


def drawn(figure: Any) -> list[Any]:
    """Put into words and numbers what is drawn, on the axes and last beside them."""
    loose = [text.get_text() for text in visible(figure.texts)]
    loose += [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return [on_axes(ax) for ax in figure.axes] + ([loose] if loose else [])


def visible(artists: Any) -> list[Any]:
    """Leave out what is hidden."""
    return [artist for artist in artists if artist.get_visible()]


def on_axes(ax: Any) -> dict[str, Any]:
    """Put into words and numbers what is drawn on axes: not how large or where on the page."""
    found: dict[str, Any] = {
        "title": ax.get_title(),
        "x": [*along(ax.xaxis), *plain(ax.get_xlim())],
        "y": [*along(ax.yaxis), *plain(ax.get_ylim())],
    }
    if ax.get_label() == "<colorbar>":  # its colours are those of what it belongs to
        return found
    legend, texts = ax.get_legend(), visible(ax.texts)
    parts = {
        "legend": [text.get_text() for text in legend.get_texts()] if legend else [],
        "texts": [[text.get_text(), *plain(text.get_position())] for text in texts],
        "notes": [plain(text.xy) for text in texts if hasattr(text, "xy")],
        "lines": [as_drawn(line, points=line.get_xydata()) for line in visible(ax.lines)],
        "images": [coloured(image) for image in visible(ax.images)],
        "patches": [as_drawn(patch, points=corners(patch)) for patch in visible(ax.patches)],
        "collections": [as_drawn(group, **gathered(group)) for group in visible(ax.collections)],
        "axes": [on_axes(child) for child in visible(ax.child_axes)],
    }
    return found | {name: part for name, part in parts.items() if part}


def along(axis: Any) -> list[str]:
    """Return what is written along an axis: its label, its scale, and ticks that are chosen."""
    from matplotlib.category import StrCategoryLocator
    from matplotlib.ticker import FixedLocator

    chosen = isinstance(axis.get_major_locator(), FixedLocator | StrCategoryLocator)
    ticks = [tick.get_text() for tick in axis.get_ticklabels()] if chosen else []
    return [axis.get_label_text(), axis.get_scale(), *ticks]


def coloured(artist: Any) -> dict[str, Any]:
    """Return numbers that are shown as colours, and the colours."""
    return {
        "numbers": plain(artist.get_array()),
        "colours": artist.get_cmap().name,
        "range": plain(artist.get_clim()),
    }


def as_drawn(artist: Any, **arrays: Any) -> dict[str, Any]:
    """Return the numbers of lines or areas, and what of their looks may tell something."""
    from matplotlib.colors import to_rgba_array

    found = {name: plain(array) for name, array in arrays.items() if array is not None}
    found["width"] = plain(artist.get_linewidth())
    if getattr(artist, "get_array", lambda: None)() is not None:
        return found | coloured(artist)
    colour = artist.get_color() if hasattr(artist, "get_color") else artist.get_facecolor()
    found["colour"] = plain(to_rgba_array(colour))
    if hasattr(artist, "get_marker"):
        found["style"] = [str(artist.get_linestyle()), str(artist.get_marker())]
    return found


def corners(patch: Any) -> Any:
    """Return the corners of a patch in the units of the axes; of an arrow, those of its path."""
    given = getattr(patch, "_path_original", None)
    if given is not None:
        return given.vertices
    if getattr(patch, "_posA_posB", None) is not None:
        return patch._posA_posB
    return patch.get_patch_transform().transform(patch.get_path().vertices)


def gathered(group: Any) -> dict[str, Any]:
    """Return where the parts of a collection are: arrows, markers, areas, or a mesh."""
    arrays = {"places": group.get_offsets()}
    if hasattr(group, "U"):
        return arrays | {"right": group.U, "up": group.V}
    if hasattr(group, "get_coordinates"):
        return arrays | {"mesh": group.get_coordinates()}
    return arrays | {"points": [path.vertices for path in group.get_paths()]}


def plain(numbers: Any) -> Any:
    """Return numbers as lists of rounded floats, with None for what is none."""
    if isinstance(numbers, np.ma.MaskedArray):
        numbers = numbers.astype(float).filled(np.nan)
    if isinstance(numbers, np.ndarray | list | tuple):
        return [plain(number) for number in numbers]
    return float(f"{numbers:.{DIGITS}g}") if math.isfinite(numbers) else None


def unlike(written: Any, now: Any, where: str) -> str | None:
    """Find the first place where two figures differ; None where they agree."""
    if isinstance(written, dict) and isinstance(now, dict):
        if written.keys() != now.keys():
            return f"{where} has {', '.join(now)}, not {', '.join(written)}"
        parts = [(written[key], now[key], f"{where}, {key}") for key in written]
    elif isinstance(written, list) and isinstance(now, list):
        if len(written) != len(now):
            return f"{where} has {len(now)} entries, not {len(written)}"
        if all(isinstance(entry, float | None) for entry in [*written, *now]):
            one, two = np.array(written, float), np.array(now, float)
            largest = float(np.abs(one[np.isfinite(one)]).max(initial=0.0))
            same = np.isclose(two, one, SAME_NUMBER, ROUNDING * largest, equal_nan=True)
            first = int(same.argmin()) if one.size else 0
            return None if same.all() else f"{where}[{first}] is {two[first]}, not {one[first]}"
        parts = [(a, b, f"{where}[{i}]") for i, (a, b) in enumerate(zip(written, now, strict=True))]
    elif isinstance(written, float) and isinstance(now, float):
        return unlike([written], [now], where)
    else:
        return None if written == now else f"{where} is {now!r}, not {written!r}"
    return next((found for part in parts if (found := unlike(*part))), None)


def pages_in(path: Path) -> list[Path]:
    """Return a page itself, or all pages in a folder and below."""
    pages = sorted(path.rglob("*.md")) if path.is_dir() else [path]
    if not pages or not all(page.suffix == ".md" and page.exists() for page in pages):
        raise SystemExit(f"{path} is no page, nor a folder of pages")
    return pages


def main(arguments: list[str] | None = None) -> int:
    """Check or write pages; the exit status is 1 if one is wrong."""
    parser = argparse.ArgumentParser(description="Run what pages display.")
    parser.add_argument("pages", nargs="+", type=Path, metavar="PAGE", help="pages or folders")
    parser.add_argument("--write", action="store_true", help="put in what is printed and drawn now")
    options = parser.parse_args(arguments)
    wrong = 0
    for page in [page.absolute() for path in options.pages for page in pages_in(path)]:
        began = time.perf_counter()
        text = page.read_text(encoding="utf-8")
        try:
            with elsewhere():
                new, lacking = run(text, page.parent, write=options.write, name=page.name)
        except Exception as error:
            wrong += 1
            print(f"{page.name}: {error}")
            if not isinstance(error, AssertionError):
                traceback.print_exc(file=sys.stdout)
            continue
        if new != text:
            page.write_text(new, encoding="utf-8")
        skipped = f", skipped what needs {', '.join(sorted(lacking))}" if lacking else ""
        print(f"{page.name}: {time.perf_counter() - began:.1f} s{skipped}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
