"""The command line: ``tabular-bilevel`` and ``python -m tabular_bilevel``; a file a command."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, NoReturn

import tabular_bilevel as tb
from tabular_bilevel._base.files import shown
from tabular_bilevel._base.processes import handling
from tabular_bilevel.cli._common import UNUSABLE, visiting

__all__ = ["main"]

COMMANDS = {
    "verify": "check exact and sampled gradients on four problems against each other",
    "check": "check an estimator of yours, and say what is wrong with it",
    "problems": "list the problems there are",
    "gradient": "compute an exact hypergradient",
    "explain": "say what an exact hypergradient is made of, in words",
    "efficiency": "compute the errors that methods make of a budget of steps",
    "train": "climb a leader's objective with a method's gradients, from several starts",
    "compare": "compare ascents that train has saved, on a page",
    "playground": "write a page for the browser: coins on a grid, and what they are worth",
    "vectors": "test vectors, for other implementations",
}

VECTORS = {
    "write": "write test vectors with proven answers",
    "verify": "check test vectors, or an implementation on them",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line with these words, by default the process's own; return its exit status.

    That is 0 if all is well, 1 if a check failed, 2 for unusable input; of ``check`` also 3 if
    nothing is decided, and 4 if the estimator is broken.
    """
    words = _renamed(sys.argv[1:] if arguments is None else arguments)
    options = _parser(words).parse_args(words)
    try:
        command: Callable[[argparse.Namespace], int] = options.command
        with visiting(), handling(signal.SIGTERM, signal.default_int_handler):  # as an interrupt
            return command(options)
    except UNUSABLE as error:
        what = "there is not enough memory" if isinstance(error, MemoryError) else str(error)
        line = ", ".join([what, *getattr(error, "__notes__", ())])
        print(f"tabular-bilevel: {shown(line)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("tabular-bilevel: interrupted", file=sys.stderr)
        return 130


class _Parser(argparse.ArgumentParser):
    """One that shows escapes in what it repeats: the shell may have put a file's name there."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and exit."""
        super().error(shown(message))


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """Make a parser of these words: it knows all commands, and what those take that are named."""
    parser = _Parser(
        prog="tabular-bilevel", description="Ground truth for bilevel reinforcement learning."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {tb.__version__}")
    commands = _add(parser, COMMANDS)
    for prefix, group in (("", commands), ("vectors_", _add(commands["vectors"], VECTORS))):
        for name, command in group.items():
            if name in words and command is not commands["vectors"]:
                module = import_module(f"tabular_bilevel.cli.{prefix}{name}")
                module.add_arguments(command)
                command.set_defaults(command=module.run, words=words)
    return parser


def _add(parser: argparse.ArgumentParser, purposes: Mapping[str, str]) -> dict[str, Any]:
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    return {name: commands.add_parser(name, help=purpose) for name, purpose in purposes.items()}


def _renamed(arguments: Sequence[str]) -> Sequence[str]:
    """Understand ``vectors OUT``, deprecated for ``vectors write OUT``."""
    first, *rest = arguments or [""]
    if first != "vectors" or not rest or rest[0] in (*VECTORS, "-h", "--help"):
        return arguments
    print("tabular-bilevel: 'vectors OUT' is deprecated: say 'vectors write OUT'", file=sys.stderr)
    return [first, "write", *rest]
