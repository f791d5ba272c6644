"""Where somebody's code went wrong: which file and line, and the traceback without our own part."""

from __future__ import annotations

import inspect
import os
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

HERE = str(Path(__file__).parents[1])


def raised_at(error: BaseException) -> str:
    """Name the line of somebody's code that an error comes from, nothing if there is none.

    It is the innermost one outside of this package and of libraries.
    """
    import site
    import sysconfig

    paths = sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")
    libraries = (*paths, *site.getsitepackages())
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not _is_within(frame.filename, HERE, *libraries)
        and not frame.filename.startswith("<frozen")
    ]
    return _spelled(own[-1].filename, own[-1].lineno) if own else ""


def defined_at(function: Any) -> str:
    """Name the line where somebody's function begins, nothing if it is one of this package's."""
    if not (inspect.isroutine(function) or hasattr(function, "__wrapped__")):
        function = getattr(type(function), "__call__", None)  # noqa: B004
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None or _is_within(code.co_filename, HERE):
        return ""
    return _spelled(code.co_filename, code.co_firstlineno)


def traceback_of(error: BaseException) -> str:
    """Spell an error's traceback, from where somebody's code begins."""
    begin: TracebackType | None = error.__traceback__
    while begin is not None and _is_within(begin.tb_frame.f_code.co_filename, HERE):
        begin = begin.tb_next
    return "".join(
        traceback.format_exception(type(error), error, begin or error.__traceback__)
    ).rstrip()


def _is_within(file: str, *folders: str) -> bool:
    return file.startswith(tuple(f"{folder}{os.sep}" for folder in folders))


def _spelled(file: str, line: int | None) -> str:
    here = f"{os.getcwd()}{os.sep}"
    return f"{file.removeprefix(here)}, line {line}"
