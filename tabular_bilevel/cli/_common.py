"""What the commands share: what they print, take and load."""

from __future__ import annotations

import argparse
import importlib
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

import numpy as np

import tabular_bilevel as tb
from tabular_bilevel._base.files import LIMIT, brief, shown

__all__ = [
    "UNUSABLE",
    "add_limit",
    "add_problem",
    "here",
    "loaded",
    "plain",
    "progress",
    "say",
    "somebodys",
]

#: What input that cannot be used leads to: a line is said of it.
UNUSABLE = (ValueError, OSError, MemoryError, tb.ConvergenceError, tb.CertificationError)


def add_limit(command: argparse.ArgumentParser, what: str, default: int = LIMIT) -> None:
    """Add how large something may be."""
    command.add_argument(
        "--limit", type=int, default=default, metavar="BYTES", help=f"{what} ({default:,})"
    )


def add_problem(command: argparse._ActionsContainer, name: str = "problem") -> None:
    """Add the name of a problem."""
    command.add_argument(
        name,
        choices=sorted(tb.problems.CATALOGUE),
        type=lambda name: name.replace("_", "-"),
        metavar="PROBLEM",
        help="one of: " + ", ".join(sorted(tb.problems.CATALOGUE)),
    )


def say(line: object, write: Callable[[str], Any] = print) -> None:
    """Print a line, or some, with escapes shown: names and messages may be a stranger's.

    If whoever read our lines has seen enough, the work goes on in silence.
    """
    try:
        write("\n".join(map(shown, str(line).split("\n"))))
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def progress(items: Iterable[Any], total: int | None = None) -> Any:
    """Wrap in a bar that lines can be written above; without a terminal there is none."""
    from tqdm.auto import tqdm

    return tqdm(items, total=total, leave=False, dynamic_ncols=True, disable=None)


@contextmanager
def here() -> Iterator[None]:
    """Let modules of the working directory be found, by processes that start meanwhile, too."""
    place = os.getcwd()
    sys.path.insert(0, place)
    try:
        yield
    finally:
        sys.path.remove(place)


def loaded(what: str, name: str) -> Any:
    """Import somebody's code by MODULE:NAME, also from the working directory."""
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise ValueError(f"{what} is {name!r}, not MODULE:NAME")
    try:
        with here():
            found = importlib.import_module(module)
        loaded = getattr(found, attribute)
        return loaded() if isinstance(loaded, type) else loaded
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise _failed(name, error) from error
        raise ValueError(f"there is no module {module!r} here") from error
    except (Exception, SystemExit) as error:  # somebody's code may end with anything
        if isinstance(error, AttributeError) and not hasattr(sys.modules.get(module), attribute):
            raise ValueError(f"module {module!r} has no {attribute!r}") from error
        raise _failed(name, error) from error


@contextmanager
def somebodys(name: str | None) -> Iterator[None]:
    """Make unusable input of whatever somebody's code, if this is somebody's, ends with."""
    try:
        yield
    except UNUSABLE:
        raise
    except Exception as error:
        if name is None:
            raise
        raise _failed(name, error) from error


def _failed(name: str, error: BaseException) -> ValueError:
    where = getattr(error, "__notes__", ())
    words = ", ".join([f"{type(error).__name__}: {brief(error)}", *where])
    return ValueError(f"{name} cannot be used: {words}")


def plain(found: Any) -> Any:
    """Turn a report into what JSON can hold; what is infinite becomes None."""
    if is_dataclass(found):
        return {"passed": getattr(found, "passed", None)} | {
            f.name: plain(getattr(found, f.name)) for f in fields(found)
        }
    if isinstance(found, Mapping):
        return {key: plain(value) for key, value in found.items()}
    if isinstance(found, np.ndarray):
        return found.tolist()
    if isinstance(found, tuple):
        return [plain(item) for item in found]
    if isinstance(found, Enum):
        return found.name
    if isinstance(found, float) and not math.isfinite(found):
        return None
    return found
