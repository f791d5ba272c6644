"""What the commands share: what they print, take and load."""

from __future__ import annotations

import argparse
import importlib
import io
import math
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

import tabular_bilevel as tb
from tabular_bilevel._base.arguments import positive_integer
from tabular_bilevel._base.arrays import FloatArray
from tabular_bilevel._base.files import (
    LIMIT,
    brief,
    read_array,
    require_writable,
    shown,
    write_file,
)
from tabular_bilevel._base.frames import raised_at
from tabular_bilevel.problem import require_problem

#: What input that cannot be used leads to: a line is said of it.
UNUSABLE = (ValueError, OSError, MemoryError, tb.ConvergenceError, tb.CertificationError)

# Formats of a picture.
KINDS = "svg", "png", "pdf"

#: The page in a report's folder.
PAGE = "index.html"

# Names of a module that are listed where it has not the one that was asked for.
SHOWN = 8


def add_report(command: argparse.ArgumentParser, *more: str) -> None:
    """Add where a report is written."""
    names = " and ".join(
        [PAGE, *more] if len(more) < 2 else [", ".join([PAGE, *more[:-1]]), more[-1]]
    )
    command.add_argument(
        "--report",
        type=Path,
        metavar="DIR",
        help=f"write {names} there: a page for a browser, a phone and paper",
    )


def require_report(options: argparse.Namespace, *more: str) -> None:
    """Make the folder of a report, and see that it can be written: better now than after work."""
    if options.report is not None:
        with of_option("--report"):
            options.report.mkdir(parents=True, exist_ok=True)
            for name in (PAGE, *more):
                require_writable(options.report / name)


def write_page(options: argparse.Namespace, page: str) -> None:
    """Write a report's page."""
    with of_option("--report"):
        write_file(options.report / PAGE, page.encode())
    say(f"the report is at {(options.report / PAGE).resolve().as_uri()}")


def repeated(options: argparse.Namespace, **added: object) -> str:
    """Write the command that was given, for a shell, with options that chance had decided."""
    words = [f"--{name}={value}" for name, value in added.items()]
    return shlex.join(["tabular-bilevel", *options.words, *words])


#: The problems with a name, of either kind.
NAMED: Mapping[str, Callable[[], Any]] = {**tb.problems.CATALOGUE, **tb.problems.CONTINUOUS}


def add_limit(command: argparse.ArgumentParser, what: str, default: int = LIMIT) -> None:
    """Add how large something may be."""
    command.add_argument(
        "--limit", type=int, default=default, metavar="BYTES", help=f"{what} ({default:,})"
    )


def add_problem(command: argparse._ActionsContainer, name: str = "problem") -> None:
    """Add the name of a problem."""
    command.add_argument(
        name,
        type=_problem_name,
        metavar="PROBLEM",
        help="one of yours, as MODULE:NAME or FILE.py:NAME, or one of: " + ", ".join(sorted(NAMED)),
    )


def _problem_name(name: str) -> str:
    listed = name.replace("_", "-")
    if listed in NAMED:
        return listed
    if ":" in name:
        return name
    raise argparse.ArgumentTypeError(
        f"{name!r} is neither MODULE:NAME nor one of: {', '.join(sorted(NAMED))}"
    )


def problem_of(name: str) -> Any:
    """Make a problem of the catalogue, or load somebody's."""
    if name in NAMED:
        return NAMED[name]()
    found = loaded("problem", name)
    require_problem(found, name=name)
    return found


def maker_of(name: str) -> Any:
    """Find what makes a problem of the catalogue, or load somebody's function."""
    return tb.problems.CATALOGUE.get(name) or loaded("problem", name)


def size_of(name: str, problem: Any) -> int:
    """Count a problem's parameters."""
    if not hasattr(problem, "n_parameters"):
        raise ValueError(f"{name} has no n_parameters, which says how long theta is")
    return positive_integer(f"n_parameters of {name}", problem.n_parameters)


def add_theta(command: argparse.ArgumentParser) -> None:
    """Add where theta is."""
    command.add_argument(
        "--theta", type=Path, metavar="FILE.npy", help="the leader's parameter; by default 0"
    )
    add_limit(command, "bytes that theta's file may have")


def theta_of(options: argparse.Namespace, problem: Any) -> FloatArray:
    """Read theta, or take 0."""
    if options.theta is None:
        return np.zeros(size_of(options.problem, problem))
    with of_option("--theta"):
        return read_array(options.theta, options.limit)


def add_plot(command: argparse.ArgumentParser, what: str) -> None:
    """Add where to draw."""
    command.add_argument("--plot", type=Path, metavar="FILE", help=f"{what}: {', '.join(KINDS)}")


def require_files(options: argparse.Namespace) -> None:
    """See that what --plot and --json name can be written: better now than after the work."""
    for option in ("plot", "json"):
        place = getattr(options, option, None)
        if place is not None:
            with of_option(f"--{option}"):
                require_writable(place)
                if option == "plot":
                    _kind_of(place)


def write_picture(options: argparse.Namespace, what: str, draw: Callable[[Any], Any]) -> None:
    """Write the axes that `draw` makes, given our module `plots`, if a picture is wanted."""
    if options.plot is None:
        return
    with of_option("--plot"):
        try:
            plots = importlib.import_module("tabular_bilevel.plots")
        except ImportError as error:
            raise ValueError(str(error)) from error
        raw = io.BytesIO()
        draw(plots).figure.savefig(raw, format=_kind_of(options.plot), dpi=200)
        write_file(options.plot, raw.getvalue())
    say(f"{what} drawn in {options.plot}")


def _kind_of(picture: Path) -> str:
    """Say in which format a picture is wanted."""
    kind = picture.suffix[1:].lower() or KINDS[0]
    if kind not in KINDS:
        raise ValueError(f"{shown(picture)} ends in none of {', '.join(KINDS)}")
    return kind


@contextmanager
def of_option(option: str) -> Iterator[None]:
    """Say with which option a file was named that is no use."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise ValueError(f"{option}: {error}") from error


def say(line: object, write: Callable[[str], Any] = print) -> None:
    """Print a line, or some, with escapes shown: names and messages may be a stranger's.

    If whoever read our lines has seen enough, or nobody ever did, the work goes on in silence.
    """
    if sys.stdout is None:  # it was closed before we began
        return
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
def visiting() -> Iterator[None]:
    """Forget at the end what `loaded` found, and where: the next command looks anew."""
    places, names = sys.path[:], set(sys.modules)
    try:
        yield
    finally:
        added = {*sys.path} - {*places}
        sys.path[:] = places
        for name in set(sys.modules) - names:
            file = getattr(sys.modules[name], "__file__", None)
            if file is not None and os.path.dirname(file) in added:
                del sys.modules[name]


def loaded(what: str, name: str) -> Any:
    """Import somebody's code by MODULE:NAME, also from the working directory, or FILE.py:NAME.

    Its folder is looked in by processes that start later in the command, too. A class that needs no
    arguments is made.
    """
    module, colon, attribute = name.rpartition(":")
    if not (module and colon and attribute):
        if name.removesuffix(":").endswith(".py"):
            raise ValueError(f"{what} is {name!r}: say which name in it, {name.rstrip(':')}:NAME")
        raise ValueError(f"{what} is {name!r}, not MODULE:NAME or FILE.py:NAME")
    folder, file = os.path.split(os.path.abspath(module))
    is_file = file.endswith(".py")
    if is_file and not os.path.isfile(module):
        raise ValueError(f"there is no file {module!r}")
    sys.path.insert(0, folder if is_file else os.getcwd())
    importlib.invalidate_caches()  # the file may be new
    importing = file.removesuffix(".py") if is_file else module
    try:
        found = importlib.import_module(importing)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{importing}.".startswith(f"{error.name}."):
            raise _failed(name, error) from error
        raise ValueError(
            f"there is no module {module!r} here: for a file say FILE.py:NAME"
        ) from error
    except (Exception, SystemExit) as error:  # somebody's code may end with anything
        raise _failed(name, error) from error
    if is_file and not _is_of(found, folder, file):
        raise ValueError(f"{module} is called as another module that is in use: rename it")
    if not hasattr(found, attribute):
        raise ValueError(f"module {module!r} has no {attribute!r}{_instead(found)}")
    thing = getattr(found, attribute)
    if not isinstance(thing, type):
        return thing
    try:
        return thing()
    except TypeError as error:
        raise ValueError(
            f"{name} is a class that cannot be made without arguments ({brief(error)}): name an "
            "instance of it"
        ) from error
    except (Exception, SystemExit) as error:
        raise _failed(name, error) from error


def _is_of(module: Any, folder: str, file: str) -> bool:
    """Say whether a module came from this file."""
    origin = getattr(module, "__file__", None)
    return origin is not None and os.path.realpath(origin) == os.path.realpath(
        os.path.join(folder, file)
    )


def _instead(module: Any) -> str:
    """List what somebody may have meant: functions and objects that are the module's own."""
    names = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]
    return f"; it has {', '.join(names[:SHOWN])}" if names else ""


@contextmanager
def somebodys(name: str | None) -> Iterator[None]:
    """Make unusable input of whatever somebody's code, if this is somebody's, ends with.

    Otherwise an estimator that calls ``sys.exit(0)`` would look like one that passed.
    """
    try:
        yield
    except UNUSABLE:
        raise
    except (Exception, SystemExit) as error:
        if name is None:
            raise
        raise _failed(name, error) from error


def _failed(name: str, error: BaseException) -> ValueError:
    line = "" if isinstance(error, SyntaxError) else raised_at(error)  # which says it itself
    place = f" ({line})" if line else ""
    where = getattr(error, "__notes__", ())
    words = ", ".join([f"{type(error).__name__}: {brief(error)}{place}", *where])
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
    if isinstance(found, tb.Verdict):
        return found.value  # as it is printed
    if isinstance(found, Enum):
        return found.name
    if isinstance(found, float) and not math.isfinite(found):
        return None
    return found
