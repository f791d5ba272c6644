"""Many tasks at once, in processes that joblib starts; and signals meanwhile."""

from __future__ import annotations

import os
import pickle
import re
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tabular_bilevel._base.arguments import positive_integer
from tabular_bilevel._base.files import (
    LIMIT,
    FilePath,
    alone_in,
    brief,
    read_file,
    shown,
    write_file,
)

Made = TypeVar("Made")

# Seconds between two looks of a worker at whether its parent lives.
LOOK_EVERY = 0.5

# Names of files on every system, with room for an ending.
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.,=+()-]{0,199}")


def sweep(
    tasks: Iterable[tuple[str, Callable[[], Made]]],
    *,
    folder: FilePath | None = None,
    workers: int = 1,
    progress: bool = False,
) -> Generator[tuple[str, Made]]:
    """Do many tasks, some at a time, and give each result when it is there.

    A result depends on its task alone, not on how many workers there are, on the order, or on what
    other tasks did: each call is made on a copy of what it was given, and BLAS computes with one
    thread. What a task draws at random has to come from a seed of its own.

    joblib starts the processes, or hands the tasks to what a surrounding ``joblib.parallel_config``
    names, such as a Dask cluster. Closing the generator ends them at once.

    Parameters
    ----------
    tasks : iterable of (str, callable)
        A name, no two alike, and a call without arguments, mostly a `functools.partial`. Call and
        result have to be such that pickle can copy them; with one worker a call may be of any kind.
    folder : str or path, optional
        Where results are kept, each in a file NAME.pickle that appears whole when the task ends.
        After an interrupt or a kill the same sweep goes on: it reads what is there, whatever the
        settings then were, and does the rest. So names say all that differs. Reading a pickle runs
        what it says: go on from folders of your own. Workers on other machines have to see it.
    workers : int
        Tasks at a time; with 1 this process does the work. A Dask cluster does as many as it can.
    progress : bool
        Whether to show a bar of the tasks.

    Yields
    ------
    name : str
        Of each task when it has ended; first those whose results were there, then in no certain
        order.
    result : object
        What its call returned.

    Raises
    ------
    ValueError
        If a task is no pair of a name and a call, a name is there twice or cannot be a file's, or a
        kept result cannot be read.
    ChildProcessError
        If a worker process was killed, or does not find this package; what was finished is kept.
    OSError
        If the folder cannot be written, or another process writes to it.
    Exception
        When all others are done, what the first task that failed ended with; notes name it, and
        those that failed, too.

    Examples
    --------
    >>> import tempfile
    >>> from functools import partial
    >>> import tabular_bilevel as tb
    >>> theta = [0.3, -0.2]
    >>> tasks = [
    ...     (f"temperature {t}", partial(tb.objective, tb.problems.two_state(temperature=t), theta))
    ...     for t in (0.1, 1.0)
    ... ]
    >>> for name, J in tb.sweep(tasks):
    ...     print(f"{name}: J = {J:.4f}")
    temperature 0.1: J = 1.2807
    temperature 1.0: J = 0.9538
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     made = dict(tb.sweep(tasks, folder=folder))
    ...     print(dict(tb.sweep(tasks, folder=folder)) == made)  # read, not made again
    True
    """
    calls: dict[str, Callable[[], Made]] = {}
    for k, task in enumerate(tasks):
        match task:
            case (str(name), call) if callable(call):
                if name in calls:
                    raise ValueError(f"tasks has the name {shown(name)!r} twice")
                calls[name] = call
            case _:
                raise ValueError(f"tasks[{k}] is {brief(task)}, not a name and a call")
    place = None if folder is None else Path(folder)
    if place is not None:
        _require_file_names(calls)
    return _swept(calls, place, positive_integer("workers", workers), progress)


def _require_file_names(names: Iterable[str]) -> None:
    """Refuse names that no file can have on some system, or two files cannot have on one."""
    found: dict[str, str] = {}
    for name in names:
        if not FILE_NAME.fullmatch(name):
            raise ValueError(
                f"tasks has the name {brief(name)!r}, which is no file's: a name begins with a "
                "letter or digit and has at most 200 of them and of ' _-.,=+()'"
            )
        other = found.setdefault(name.lower(), name)
        if other != name:
            raise ValueError(f"tasks has {other!r} and {name!r}, which some systems take for one")


def _swept(
    calls: Mapping[str, Callable[[], Made]], folder: Path | None, workers: int, progress: bool
) -> Generator[tuple[str, Made]]:
    from threadpoolctl import threadpool_limits
    from tqdm.auto import tqdm

    paths: dict[str, Path] = {}
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        paths = {name: folder / f"{name}.pickle" for name in calls}
    errors: dict[str, Exception] = {}
    with (
        nullcontext() if folder is None else alone_in(folder),
        threadpool_limits(1),  # rounding depends on how many there are
        tqdm(total=len(calls), unit=" tasks", leave=False, disable=not progress) as bar,
    ):
        there = {name: path for name, path in paths.items() if path.exists()}
        left = {name: call for name, call in calls.items() if name not in there}
        for name, path in there.items():
            made = _kept(path)
            bar.update()
            yield name, made
        waiting = dict.fromkeys(left)
        bar.set_description(next(iter(waiting), ""))
        with closing(_outcomes(left, paths, min(workers, max(len(left), 1)))) as ended:
            for name, outcome in ended:
                del waiting[name]
                bar.set_description(next(iter(waiting), name))
                bar.update()
                if isinstance(outcome, Exception):
                    errors[name] = outcome
                    bar.set_postfix(failed=len(errors))
                else:
                    yield name, pickle.loads(outcome)
    failed = [name for name in calls if name in errors]
    if failed:
        error = errors[failed[0]]
        if len(calls) == len(failed) > 1 and len(set(map(str, errors.values()))) == 1:
            error.add_note(f"in each of {len(failed)} tasks")
        else:
            error.add_note(f"in the task {shown(failed[0])}")
            if failed[1:]:
                error.add_note(f"{len(failed[1:])} more failed: {brief(', '.join(failed[1:]))}")
        raise error


def _kept(path: Path) -> Any:
    """Read a result."""
    raw = read_file(path)
    try:
        return pickle.loads(raw)
    except Exception as error:  # whatever reading what was cut or overwritten leads to
        raise ValueError(
            f"{shown(path)} is no result that can be read: {brief(error)}; without it, it is made "
            "again"
        ) from error


def _outcomes(
    calls: Mapping[str, Callable[[], Any]], paths: Mapping[str, Path], workers: int
) -> Generator[tuple[str, bytes | Exception]]:
    """Give each name with the pickled result, or the exception that this ended with, as it comes.

    joblib has processes of its own do the work, or this one with 1 worker; in a context of
    ``joblib.parallel_config`` whatever that names. Closing the generator kills those processes.
    """
    import joblib

    work = [
        joblib.delayed(_attempt)(name, _Call(call), paths.get(name)) for name, call in calls.items()
    ]
    left, at_once, results = dict.fromkeys(calls), joblib.effective_n_jobs(workers), None
    with _failures_told(), _ends_silently():
        try:
            with _own_processes():
                results = joblib.Parallel(
                    workers, return_as="generator_unordered", batch_size=1, max_nbytes=None
                )(work)
            for name, outcome, trace in results:
                if isinstance(outcome, Exception) and outcome.__traceback__ is None:
                    outcome.__cause__ = ChildProcessError(trace)  # it has travelled
                del left[name]
                yield name, outcome
        except Exception as error:  # of joblib or a cluster: what a task raises is an outcome
            if results is None:
                raise
            begun = ", ".join(list(left)[:at_once])  # they begin in order
            raise ChildProcessError(
                f"a worker process died, or cannot work; under way: {brief(begun)} ({brief(error)})"
            ) from error
        finally:
            if results is not None:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of joblib, that work is given up
                    results.close()


@contextmanager
def _ends_silently() -> Iterator[None]:
    """Let no thread of joblib say that it misses tasks, if these were given up as it took them."""
    before = threading.excepthook

    def told(ended: threading.ExceptHookArgs) -> None:
        if not getattr(getattr(ended.thread, "executor_flags", None), "shutdown", False):
            before(ended)

    threading.excepthook = told
    try:
        yield
    finally:
        threading.excepthook = before


@contextmanager
def _failures_told() -> Iterator[None]:
    """Have joblib hear of work that a Dask cluster gives up: it would wait for that for ever."""
    from joblib.parallel import BACKENDS, get_active_backend

    backend, _ = get_active_backend()
    if not isinstance(backend, BACKENDS.get("dask", ())):
        yield
        return
    submit, retrieve = backend.submit, backend.retrieve_result_callback

    def told(work: Any, callback: Callable[[Any], None]) -> Any:
        future = submit(work, callback)
        future.add_done_callback(lambda done: callback(done) if done.exception() else None)
        return future

    def retrieved(out: Any) -> Any:
        return retrieve(out.result() if hasattr(out, "add_done_callback") else out)

    backend.submit, backend.retrieve_result_callback = told, retrieved
    try:
        yield
    finally:
        del backend.submit, backend.retrieve_result_callback


class _Call:
    """A call that is made on a copy of what it was given, here or in another process."""

    def __init__(self, call: Callable[[], Any] | None, packed: bytes = b"") -> None:
        """Take a call that is here, or one that was packed elsewhere."""
        self.call, self.packed = call, packed

    def __reduce__(self) -> tuple[Any, ...]:
        try:
            packed = self.packed or _packed(self.call)  # it may travel in stages
        except Exception as error:  # raised where the task is made, and so with its name
            packed = pickle.dumps(partial(_not_packed, brief(error)))
        return _Call, (None, packed)

    def __call__(self) -> Any:
        """Make the call; one that is here and cannot be copied, as it is."""
        call = self.call
        if self.packed:
            call = pickle.loads(self.packed)
        else:
            with suppress(Exception):
                call = pickle.loads(_packed(call))
        return call()  # type: ignore[misc]


def _packed(thing: Any) -> bytes:
    """Pickle, functions and classes of somebody's script or notebook too."""
    import cloudpickle

    return bytes(cloudpickle.dumps(thing))


def _not_packed(why: str) -> None:
    raise ValueError(f"its call cannot be pickled for a worker: {why}")


def _attempt(
    name: str, call: _Call, path: Path | None
) -> tuple[str, bytes | Exception, str | None]:
    """Make a task's call and keep what it returns, or find what it ends with, and where."""
    try:
        made = _packed(call())
        pickle.loads(made)  # or it would be kept, and never read
        if path is not None:
            if len(made) > LIMIT:
                raise ValueError(
                    f"its result has {len(made):,} bytes, above the limit of {LIMIT:,}"
                )
            write_file(path, made)
    except (Exception, SystemExit) as error:  # somebody's code may end with anything
        if isinstance(error, SystemExit) and not call.packed:
            raise  # of this process
        return name, _portable(error), traceback.format_exc()
    return name, made, None


def _portable(error: Exception | SystemExit) -> Exception:
    """Find an exception that can be sent: one of somebody's own may not come out as it went in."""
    try:
        if isinstance(pickle.loads(pickle.dumps(error)), Exception):
            return error  # type: ignore[return-value]
    except Exception:
        pass
    plain = RuntimeError(f"{type(error).__name__}: {error}")
    for note in getattr(error, "__notes__", ()):
        plain.add_note(note)
    return plain


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
    _start_tracker()  # before anybody else does
    with nullcontext() if chosen else parallel_config("loky", **settings), _interrupts_later():
        yield


def _start_tracker() -> None:
    """Start the process that clears up after joblib's, and has no news where these are ended."""
    from joblib.externals.loky.backend.resource_tracker import ensure_running

    sys.warnoptions.append("ignore:resource_tracker")  # it gets the options of this one
    try:
        ensure_running()
    finally:
        sys.warnoptions.pop()


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
    """Handle a signal in this way meanwhile; threads other than the main one cannot.

    Nor is what was not Python's changed: it could not be put back.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(number) is None:
        yield
        return
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@contextmanager
def interrupts_after() -> Iterator[None]:
    """Have an interrupt that comes meanwhile come at the end."""
    came = []
    try:
        with handling(signal.SIGINT, lambda number, _: came.append(number)):
            yield
    finally:
        if came:
            signal.raise_signal(signal.SIGINT)
