"""``playground``: a page to play with, in the browser."""

from __future__ import annotations

import argparse
import webbrowser
from pathlib import Path

from tabular_bilevel._base.files import write_file
from tabular_bilevel.cli._common import say
from tabular_bilevel.playground import page


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("file", type=Path, metavar="FILE.html", help="where to write the page")
    parser.add_argument("--open", action="store_true", help="and open it in the browser")


def run(options: argparse.Namespace) -> int:
    """Write the page, and open it if that is asked for."""
    write_file(options.file, page().encode())
    address = options.file.resolve().as_uri()
    say(f"the playground is at {address}")
    if options.open and not webbrowser.open(address):
        say("no browser could be opened: open that file yourself")
        return 1
    return 0
