"""Speed of the default solver, beside solvers with a hard maximum and plain soft ones.

Run ``python validation/benchmarks/solvers.py`` with the package installed. The peers get an
environment of their own, in the folder of ``--environment``, and a process each; all solve the same
tables in turn, on one thread each. QuantEcon and MDPSolver solve an easier problem: a hard maximum,
whose policy has one action a state. Soft value iteration is in JAX, jitted, and in Numba. We solve
to our own accuracy, which the table says; peers to a sup error of 1e-8: ``off`` is how far the
worst soft one was from us. Each time is a median, each ratio ours to theirs of the same run. Peers
that take more than ``--patience`` seconds have one turn, after one that does not count; of soft
peers ``--soft`` says up to how many states they are asked. Theirs is most of the time: with
``--runs 1`` a soft peer takes about 80 seconds at 10,000 states, all discounts together, and a
quarter of an hour at 100,000.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

import tabular_bilevel as tb

try:
    from benchmarks import runner
except ImportError:  # run as a script
    import runner

HARD = {"quantecon": "QuantEcon", "mdpsolver": "MDPSolver"}
SOFT = {"soft_jax": "soft JAX", "soft_numba": "soft Numba"}


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


def open_grid(side: int, **settings: float) -> tb.ForwardProblem:
    """Build a square without walls."""
    rows = "\n".join(["." * side] * side)
    grid = {"slip": 0.2, "follower_discount": 0.99, "leader_discount": 0.99, "temperature": 0.05}
    text = f"type octile\nheight {side}\nwidth {side}\nmap\n{rows}\n"
    return tb.problems.grid_world(text, **grid | settings)


def cases(sizes: list[int], sides: list[int], *, warehouse: bool) -> Iterator[Case]:
    """Make the models, one at a time."""
    for n_states in sizes:
        for discount in (0.95, 0.99, 0.999):
            yield Case(f"Garnet {n_states}, discount {discount}", garnet(n_states, discount))
    for side in sides:
        problem = open_grid(side)
        yield Case(f"open {side} x {side}", problem.model(np.zeros(problem.n_parameters)))
    if warehouse:
        grid = {"slip": 0.2, "follower_discount": 0.99, "leader_discount": 0.99}
        problem = tb.problems.warehouse(**grid, temperature=0.05)
        yield Case("warehouse", problem.model(np.zeros(problem.n_parameters)))


def save(model: tb.Model, path: Path) -> None:
    """Write what a peer's solver takes."""
    np.savez(
        path,
        data=model.transition.data,
        indices=model.transition.indices,
        indptr=model.transition.indptr,
        reward=np.where(model.available, model.follower_reward, -np.inf),
        discount=model.follower_discount,
        temperature=model.temperature,
    )


def measure(
    case: Case, peers: Mapping[str, runner.Peer], options: argparse.Namespace, folder: Path
) -> dict[str, object]:
    """Solve in turn."""
    model, path = case.model, folder / "tables.npz"
    save(model, path)
    asked = {
        name: peer for name, peer in peers.items() if name in HARD or model.n_states <= options.soft
    }
    runs: dict[str, Callable[[], float]] = {"": runner.timed(lambda: tb.solve_follower(model))}
    for name, peer in asked.items():
        peer.ask(prepare=str(path))
        answer = str(folder / f"{name}.npy")
        runs[name] = lambda peer=peer, answer=answer: peer.ask(answer=answer)["seconds"]
    seconds = runner.medians(runs, options.runs, options.patience)
    response = tb.solve_follower(model)
    row: dict[str, object] = {
        "problem": case.name,
        "method": response.method,
        "sup error": response.error_bound,
        "ms": 1e3 * seconds[""],
    }
    off = []
    for name in peers:
        title = {**HARD, **SOFT}[name]
        row[f"{title}, ms"] = 1e3 * seconds[name] if name in asked else "-"
        row[f"ratio to {title}"] = seconds[""] / seconds[name] if name in asked else "-"
        if name in asked and name in SOFT:
            off.append(float(np.abs(np.load(folder / f"{name}.npy") - response.value).max()))
    if set(peers) & set(SOFT):
        row["off"] = max(off, default="-")
    return row


def main(arguments: list[str] | None = None) -> int:
    """Print the table in Markdown; write it as JSON, too, where asked."""
    parser = runner.parser(__doc__, peers=[*HARD, *SOFT])
    parser.add_argument("--states", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--sides", type=int, nargs="*", default=[32, 200])
    parser.add_argument("--no-warehouse", action="store_true")
    parser.add_argument("--soft", type=int, default=10_000, help="largest for soft peers (10,000)")
    options = parser.parse_args(arguments)
    runner.alone()
    with runner.peers(options, ["quantecon", "mdpsolver", "jax"]) as (all_of, folder):
        there = {name: peer for name, peer in all_of.items() if peer is not None}
        models = cases(options.states, options.sides, warehouse=not options.no_warehouse)
        runner.table(options, (measure(case, there, options, folder) for case in models), all_of)
    return 0


if __name__ == "__main__":
    sys.exit(main())
