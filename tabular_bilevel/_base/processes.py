"""Many pieces of work, one process each at a time, that end when they are told to."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from multiprocessing.synchronize import Event
from typing import Any, TypeVar

__all__ = ["handling", "outcomes", "told_to_stop"]

Item = TypeVar("Item")
Made = TypeVar("Made")


class Worker:
    """What a worker process knows of its duties.

    Attributes
    ----------
    stop : Event
        Set by the parent when the work is to stop.
    busy : bool
        Whether something is being made.
    leaving : bool
        Whether the process was told to end, by a signal or by its parent's death.
    """

    def __init__(self, stop: Event) -> None:
        self.stop, self.busy, self.leaving = stop, False, False

    def leave(self, *_: object) -> None:
        """End: at once if idle, else when what was made is saved."""
        self.leaving = True
        if not self.busy:
            os._exit(1)

    def follow(self) -> None:
        """Wait for the parent's death, which no queue tells of, and end."""
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        self.leave()


# In a worker process, its own.
WORKER: Worker | None = None


def outcomes(
    make: Callable[[Item], Made], items: Iterable[Item], workers: int
) -> Generator[tuple[Item, Callable[[], Made]]]:
    """Give each item with a function that returns what is made of it, or raises what ended it.

    With several processes they come as they are finished; with 1 this one does the work.
    """
    if workers == 1:
        yield from ((item, partial(make, item)) for item in items)
        return
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(workers, context, initializer=listen, initargs=(stop,))
    try:
        # processes start as they get work; an interrupt meanwhile would meet them half made
        with one_thread_each(), handling(signal.SIGINT, signal.SIG_IGN):
            pending = {pool.submit(work, make, item): item for item in items}
        for future in as_completed(pending):
            yield pending[future], future.result
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def work(make: Callable[[Item], Made], item: Item) -> Made:
    """Make something of an item in a worker process."""
    assert WORKER is not None
    WORKER.busy = True
    try:
        return make(item)
    finally:
        WORKER.busy = False
        if WORKER.leaving:
            os._exit(1)


def told_to_stop() -> bool:
    """Say whether this is a worker process that is to save and stop."""
    return WORKER is not None and (WORKER.leaving or WORKER.stop.is_set())


def listen(stop: Event) -> None:
    """Leave interrupts to the parent, which tells its workers, and end when it does."""
    global WORKER
    WORKER = Worker(stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, WORKER.leave)
    threading.Thread(target=WORKER.follow, daemon=True).start()


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


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Let processes started meanwhile use one thread each for linear algebra."""
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
