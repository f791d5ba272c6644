"""Speed of the default solver, beside QuantEcon's modified policy iteration.

Run ``python validation/benchmarks/solvers.py`` with the package installed. QuantEcon gets an
environment of its own, in the folder of ``--environment``, and a process of its own; the two solve
the same tables in turn, on one thread each. It solves an easier problem: a hard maximum, whose
policy has one action a state. We solve to our own accuracy, which the table says; QuantEcon to a
sup error of 1e-8. Each time is a median, each ratio one of medians of the same run.
No numbers are asserted: times are the machine's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

import tabular_bilevel as tb

SUP_ERROR = 1e-8

PEER = """
import sys, time
from importlib.metadata import version
import numpy as np, scipy.sparse as sp
from quantecon.markov import DiscreteDP
print(version("quantecon"), flush=True)
for line in sys.stdin:
    tables = np.load(line.strip())
    n_states, n_actions = tables["reward"].shape
    kernel = sp.csr_matrix(
        (tables["data"], tables["indices"], tables["indptr"]), (n_states * n_actions, n_states)
    )
    states, actions = np.divmod(np.arange(n_states * n_actions), n_actions)
    reward = tables["reward"].ravel()
    ends = np.maximum(1.0 - kernel.sum(axis=1), 0.0).round(12)
    if ends.any():  # into one more state, which stays and pays nothing
        stays = sp.csr_matrix(([1.0], ([0], [n_states])), (1, n_states + 1))
        kernel = sp.vstack([sp.hstack([kernel, sp.csr_matrix(ends)]), stays]).tocsr()
        reward, actions = np.append(reward, 0.0), np.append(actions, 0)
        states = np.append(states, n_states)
    problem = DiscreteDP(reward, kernel, float(tables["discount"]), states, actions)
    start = time.perf_counter()
    problem.solve(method="mpi", epsilon=float(tables["epsilon"]), max_iter=10**6)
    print(time.perf_counter() - start, flush=True)
"""


class Case(NamedTuple):
    """A model to be solved, and what it is called."""

    name: str
    model: tb.Model


def garnet(n_states: int, discount: float, n_actions: int = 4, branching: int = 5) -> tb.Model:
    """Build a random graph, fast enough for a hundred thousand states."""
    rng, n_rows = np.random.default_rng(0), n_states * n_actions
    kernel = sp.csr_array(
        (
            rng.dirichlet(np.ones(branching), n_rows).ravel(),
            rng.integers(0, n_states, n_rows * branching),
            np.arange(0, n_rows * branching + 1, branching),
        ),
        shape=(n_rows, n_states),
    )
    kernel.sum_duplicates()
    return tb.Model.from_tables(
        transition=kernel,
        follower_reward=rng.random((n_states, n_actions)),
        leader_reward=rng.random((n_states, n_actions)),
        initial=np.full(n_states, 1.0 / n_states),
        follower_discount=discount,
        leader_discount=discount,
        temperature=0.1,
    )


def cases(sizes: list[int], sides: list[int], *, warehouse: bool) -> Iterator[Case]:
    """Make the models, one at a time."""
    for n_states in sizes:
        for discount in (0.95, 0.99, 0.999):
            yield Case(f"Garnet {n_states}, discount {discount}", garnet(n_states, discount))
    grid = {"slip": 0.2, "follower_discount": 0.99, "leader_discount": 0.99, "temperature": 0.05}
    for side in sides:
        rows = "\n".join(["." * side] * side)
        text = f"type octile\nheight {side}\nwidth {side}\nmap\n{rows}\n"
        problem = tb.problems.grid_world(text, **grid)
        yield Case(f"open {side} x {side}", problem.model(np.zeros(problem.n_parameters)))
    if warehouse:
        problem = tb.problems.warehouse(**grid)
        yield Case("warehouse", problem.model(np.zeros(problem.n_parameters)))


def peer_in(folder: Path) -> subprocess.Popen[str]:
    """Start QuantEcon in an environment in this folder, made if it is not there."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "quantecon"], check=True)
    return subprocess.Popen(
        [python, "-c", PEER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def ask(peer: subprocess.Popen[str], path: Path) -> float:
    """Have the peer solve the tables once; return its seconds."""
    assert peer.stdin is not None
    assert peer.stdout is not None
    print(path, file=peer.stdin, flush=True)
    return float(peer.stdout.readline())


def measure(case: Case, peer: subprocess.Popen[str] | None, runs: int, folder: Path) -> dict:
    """Solve in turn; the first run of each compiles, and does not count."""
    model, path = case.model, folder / "tables.npz"
    discount = model.follower_discount
    np.savez(
        path,
        data=model.transition.data,
        indices=model.transition.indices,
        indptr=model.transition.indptr,
        reward=np.where(model.available, model.follower_reward, -np.inf),
        discount=discount,
        epsilon=2.0 * SUP_ERROR,  # QuantEcon's value is within half of it
    )
    ours, theirs = [], []
    for _ in range(runs + 1):
        start = time.perf_counter()
        response = tb.solve_follower(model)
        ours.append(time.perf_counter() - start)
        if peer is not None:
            theirs.append(ask(peer, path))
    found = {
        "problem": case.name,
        "states": model.n_states,
        "method": response.method,
        "sup error": response.error_bound,
        "ms": 1e3 * statistics.median(ours[1:]),
    }
    if peer is not None:
        found["QuantEcon ms"] = 1e3 * statistics.median(theirs[1:])
        found["ratio"] = found["ms"] / found["QuantEcon ms"]
    return found


def main(arguments: list[str] | None = None) -> int:
    """Print the table in Markdown; write it as JSON, too, where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--states", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--sides", type=int, nargs="*", default=[32, 200])
    parser.add_argument("--no-warehouse", action="store_true")
    parser.add_argument("--environment", type=Path, help="where QuantEcon is, or is put")
    parser.add_argument("--no-peer", action="store_true", help="measure ours alone")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the table to this file, too")
    options = parser.parse_args(arguments)
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", NUMBA_NUM_THREADS="1")
    rows, versions = [], {"python": platform.python_version()}
    versions |= {name: version(name) for name in ("tabular-bilevel", "numpy", "scipy", "numba")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        peer = None if options.no_peer else peer_in(options.environment or folder / "peer")
        if peer is not None:
            assert peer.stdout is not None
            versions["quantecon"] = peer.stdout.readline().strip()
        for case in cases(options.states, options.sides, warehouse=not options.no_warehouse):
            row = measure(case, peer, options.runs, folder)
            if not rows:
                print("| " + " | ".join(row) + " |")
                print("| " + " | ".join("---" for _ in row) + " |")
            numbers = (f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values())
            print("| " + " | ".join(numbers) + " |", flush=True)
            rows.append(row)
        if peer is not None:
            peer.communicate()
    print(f"medians of {options.runs} runs in turn; {versions}")
    if options.json is not None:
        options.json.write_text(json.dumps({"versions": versions, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
