"""What the benchmarks share: peers in an environment of their own, turns, and tables.

No benchmark asserts a time: times are the machine's. They are the processor's, of all threads: what
else runs on a machine lengthens them through its caches alone. Ratios are of medians of one run, in
which all take turns on one thread each; the first turns of each compile, and do not count.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

# Turns that do not count, and the seconds that they may take together.
WARM, ENOUGH = 60, 5.0

# Seconds in which all loops of a bounded gradient are compiled, where none is on disk.
COLD = 60.0

# Seconds of a turn, if a call takes less.
TURN = 0.1

PEERS = Path(__file__).with_name("peers.py")

ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")} | {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
}


class Peer:
    """One function of `peers.py`, in a process of its own."""

    def __init__(self, python: Path, name: str) -> None:
        self._process = subprocess.Popen(
            [python, PEERS, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, **ONE_THREAD},
        )  # fmt: skip
        self.versions = self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the peer has ended; what it said is above")
        return json.loads(line)

    def ask(self, **request: str) -> dict[str, Any]:
        """Hand over a file to prepare, or one for the answer of a timed run."""
        assert self._process.stdin is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._read()

    def close(self) -> None:
        """Let the process end."""
        self._process.communicate()


def environment(folder: Path, packages: Iterable[str]) -> Path:
    """Make an environment, if there is none; packages that cannot be installed are told.

    One that is there may be another table's, or half of one.
    """
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    for package in packages:
        command = [python, "-m", "pip", "install", "--quiet", package]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            print(f"{package} cannot be installed here: {done.stderr[-2000:]}", file=sys.stderr)
    return python


@contextmanager
def peers(options: argparse.Namespace, packages: Iterable[str]) -> Iterator:
    """Start peers, in turn, as far as they can be; those that cannot are None."""
    started: dict[str, Peer | None] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not options.no_peers:
            python = environment(options.environment or folder / "peers", packages)
            for peer in options.peers:
                try:
                    started[peer] = Peer(python, peer)
                except RuntimeError:
                    started[peer] = None
        yield started, folder
        for peer in started.values():
            if peer is not None:
                peer.close()


def processor() -> float:
    """Return the processor's seconds of this process and of those that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def timed(run: Callable[[], object], clock: Callable[[], float] = processor) -> Callable[[], float]:
    """Make what runs and returns its seconds, by default the processor's."""

    def call() -> float:
        start = clock()
        run()
        return clock() - start

    return call


def turn(run: Callable[[], float]) -> float:
    """Take a call's seconds, the mean of a turn, after as long a time that does not count.

    Who has waited for others finds the caches, and the processor's clock, as they left them.
    """
    taken = [run()]
    for _ in range(2 if taken[0] < TURN else 0):
        taken = [run()]
        while sum(taken) < TURN:
            taken.append(run())
    return statistics.fmean(taken)


def medians(
    runs: Mapping[str, Callable[[], float]],
    repeats: int,
    patience: float = float("inf"),
    enough: float = ENOUGH,
) -> dict[str, float]:
    """Let all take turns, and take medians of a call's seconds; who takes long has one turn.

    In an order of its own each time: nobody always comes after the same one.
    """
    for run in runs.values():
        spent = run()
        for _ in range(WARM if repeats > 1 else 0):  # the package's loops compile by and by
            if spent < enough:
                spent += run()
    times = {name: [turn(run) if repeats > 1 else run()] for name, run in runs.items()}
    order = random.Random(0)
    for _ in range(1, repeats):
        for name in order.sample([*runs], len(runs)):
            if times[name][0] <= patience:
                times[name].append(turn(runs[name]))
    return {name: statistics.median(taken) for name, taken in times.items()}


def parser(
    doc: str, *, runs: int | None = 7, peers: Collection[str] = ()
) -> argparse.ArgumentParser:
    """Make the options that every table has, those of turns unless None, and those of peers."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if runs is not None:
        made.add_argument("--runs", type=int, default=runs, help=f"turns of each ({runs})")
    made.add_argument("--json", type=Path, help="write the table to this file, too")
    if peers:
        made.add_argument("--environment", type=Path, help="where the peers are, or are put")
        made.add_argument("--no-peers", action="store_true", help="measure ours alone")
        made.add_argument("--peers", nargs="*", default=[*peers], choices=[*peers])
        made.add_argument("--patience", type=float, default=5.0, help="seconds (5)")
    return made


def alone() -> None:
    """Let the libraries of this process use one thread."""
    threadpool_limits(1)
    os.environ.update(ONE_THREAD)


def print_row(row: Mapping[str, object], *, heading: bool) -> None:
    """Print a line of a table in Markdown."""
    if heading:
        print("| " + " | ".join(row) + " |")
        print("| " + " | ".join("---" for _ in row) + " |")
    numbers = (f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values())
    print("| " + " | ".join(numbers) + " |", flush=True)


def table(
    options: argparse.Namespace,
    rows: Iterable[Mapping[str, object]],
    started: Mapping[str, Peer | None] | None = None,
    *,
    clock: str = "the processor",
) -> None:
    """Print the rows as they come, and what they were measured with; write them to a file."""
    versions = {"python": platform.python_version(), "processor": platform.machine()}
    versions |= {name: version(name) for name in ("tabular-bilevel", "numpy", "scipy", "numba")}
    for name, peer in (started or {}).items():
        versions |= {f"{name}: no": "not to be had here"} if peer is None else peer.versions
    found = []
    for row in rows:
        print_row(row, heading=not found)
        found.append(dict(row))
    turns = f"medians of {options.runs} runs in turn" if "runs" in options else "one run"
    if "patience" in options:
        turns += f", one of who takes more than {options.patience:g} s"
    print(f"\n{turns}, by {clock}; {versions}")
    if options.json is not None:
        written = {"measured": f"{turns}, by {clock}", "versions": versions, "rows": found}
        text = json.dumps(written, indent=1)
        options.json.write_text(text + "\n", encoding="utf-8")
