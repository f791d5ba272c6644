"""``compare``: ascents that ``train`` has saved, side by side."""

from __future__ import annotations

import argparse
from pathlib import Path

from tabular_bilevel._base.files import shown
from tabular_bilevel.cli._common import (
    add_limit,
    add_report,
    repeated,
    require_report,
    say,
    write_page,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="a folder that train has written"
    )
    add_report(parser)
    add_limit(parser, "bytes that each of its files may have")


def run(options: argparse.Namespace) -> int:
    """Print a line for each run, and write the page."""
    from tabular_bilevel.ascent.curves import load_trained
    from tabular_bilevel.pages.document import Source
    from tabular_bilevel.pages.runs import Comparison

    require_report(options)
    names = [str(folder) for folder in options.runs]
    if len(set(names)) < len(names):
        raise ValueError(f"a run is named twice: {shown(', '.join(names))}")
    runs = {str(folder): load_trained(folder, options.limit) for folder in options.runs}
    found = Comparison(runs)
    say(found)
    if options.report is not None:
        write_page(options, found.page(Source(found.problem, repeated(options))))
    return 0
