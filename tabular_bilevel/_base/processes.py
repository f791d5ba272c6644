"""Many pieces of work at once, in processes that joblib starts, and signals meanwhile."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

__all__ = ["handling", "outcomes"]

Item = TypeVar("Item")
Made = TypeVar("Made")

# Seconds between two looks of a worker at whether its parent lives.
LOOK_EVERY = 0.5


def outcomes(
    make: Callable[[Item], Made], items: Sequence[Item], workers: int
) -> Generator[tuple[Item, Made | Exception]]:
    """Give each item with what is made of it, or the exception that this ended with, as it comes.

    joblib has processes of its own do the work, or this one with 1 worker; in a context of
    ``joblib.parallel_config`` whatever that names. Closing the generator kills those processes.
    """
    import joblib

    work = [joblib.delayed(_attempt)(make, k, item) for k, item in enumerate(items)]
    results: Any = None
    try:
        with _own_processes():
            results = joblib.Parallel(
                workers, return_as="generator_unordered", batch_size=1, max_nbytes=None
            )(work)
        for k, made, trace in results:
            if isinstance(made, Exception) and made.__traceback__ is None:  # it has travelled
                made.__cause__ = ChildProcessError(trace)
            yield items[k], made
    except BrokenProcessPool as error:
        raise ChildProcessError("a worker process died; start again to go on") from error
    finally:
        if results is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of joblib, that work is given up
                results.close()


def _attempt(
    make: Callable[[Item], Made], k: int, item: Item
) -> tuple[int, Made | Exception, str | None]:
    """Make something of an item, or find what it ends with, and where."""
    try:
        return k, make(item), None
    except Exception as error:
        return k, _portable(error), traceback.format_exc()


def _portable(error: Exception) -> Exception:
    """Find an exception that can be sent: one of somebody's own may not come out as it went in."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        plain = RuntimeError(f"{type(error).__name__}: {error}")
        for note in getattr(error, "__notes__", ()):
            plain.add_note(note)
        return plain
    return error


@contextmanager
def _own_processes() -> Iterator[None]:
    """Have joblib's own processes compute with one thread each, and end with this one.

    What the caller configured takes precedence: another backend, or a number of threads.
    """
    from joblib import parallel_config
    from joblib.parallel import BACKENDS, get_active_backend

    backend, _ = get_active_backend()
    if not isinstance(backend, BACKENDS["loky"]):
        yield
        return
    settings = {
        "inner_max_num_threads": 1,
        "initializer": _begin,
        "initargs": (os.getpid(), tuple(sys.path)),  # where somebody's code may be found
    }
    chosen = backend.inner_max_num_threads is not None
    with nullcontext() if chosen else parallel_config("loky", **settings), _interrupts_later():
        yield


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """Keep interrupts until the end, and for ever from processes started meanwhile.

    Whoever interrupts all processes, as a terminal does, has the others ended by this one alone.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    from multiprocessing import resource_tracker as python

    from joblib.externals.loky.backend import resource_tracker as loky

    for tracker in (python, loky):
        tracker.ensure_running()  # starting it later would let interrupts through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(parent: int, places: tuple[str, ...]) -> None:
    """Look for modules where the parent does, and end soon after it: no queue tells of its death.

    Processes that are left from before are used again only where both are the same.
    """
    sys.path[:] = places

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_EVERY)
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


@contextmanager
def handling(number: signal.Signals, handler: Any) -> Iterator[None]:
    """Handle a signal in this way meanwhile; threads other than the main one cannot."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)
