"""Speed of small models: four rooms' J and its 105 derivatives, beside JAX and plain Numba.

Run ``python validation/benchmarks/hypergradients.py`` with the package installed. The peers get an
environment of their own, in the folder of ``--environment``, and a process each; all take turns, on
one thread each. JAX differentiates implicitly, by Newton's method (its strongest form) and by value
iteration; in reverse mode through all sweeps; and by central differences. Numba compiles the
formulas as one writes them, with dense matrices. All start anew but for the lines that say so.
``off`` is from the bounded gradient, relative to its largest entry. Each time is a median of the
same run; ratios are ours, bounded and not, to theirs. Who takes more than ``--patience`` seconds
has one turn.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import tabular_bilevel as tb

try:
    from benchmarks import runner
except ImportError:  # run as a script
    import runner

# Published temperatures: the lowest and the highest.
TEMPERATURES = (0.001, 0.005)

PEERS = {
    "implicit_by_newton": "JAX, implicit, Newton",
    "implicit_by_iteration": "JAX, implicit, value iteration",
    "reverse": "JAX, reverse mode",
    "differences": "JAX, differences",
    "plain_numba": "plain Numba",
}

BOUNDED, PLAIN = "bounded (default)", "not bounded"


def save(problem: tb.problems.Reparametrised, path: Path) -> None:
    """Write four rooms as tables."""
    features = problem.inner
    base = features.base
    shape = base.follower_reward.shape
    np.savez(
        path,
        kernel=base.transition.toarray().reshape(*shape, -1),
        follower_reward=base.follower_reward,
        leader_reward=base.leader_reward,
        follower_features=features.follower_reward.toarray(),
        leader_features=features.leader_reward.toarray(),
        initial=base.initial,
        total=problem.transform.total,
        discount=base.follower_discount,
        leader_discount=base.leader_discount,
        temperature=base.temperature,
        theta=np.zeros(problem.n_parameters),
    )


def ours(problem: tb.problems.Reparametrised) -> dict[str, Callable[[], np.ndarray]]:
    """List what the package offers: the default, without bounds, and from an answer nearby."""
    theta, plain = np.zeros(problem.n_parameters), tb.Estimated()
    start = tb.solve_follower(problem.model(theta)).value
    climb = tb.ascend(problem, theta, tb.ExactGradient(), tb.GradientAscent(1e-9), rng=0)
    return {
        BOUNDED: lambda: tb.hypergradient(problem, theta).gradient,
        PLAIN: lambda: tb.hypergradient(problem, theta, accuracy=plain).gradient,
        "not bounded, from an answer nearby": lambda: (
            tb.hypergradient(problem, theta, accuracy=plain, start=start).gradient
        ),
        "iteration of an ascent": lambda: next(climb).gradient,
    }


def main(arguments: list[str] | None = None) -> int:
    """Print the table in Markdown; write it as JSON, too, where asked."""
    parser = runner.parser(__doc__, runs=21, peers=PEERS)
    options = parser.parse_args(arguments)
    runner.alone()
    with runner.peers(options, ["jax", "numba", "scipy"]) as (all_of, folder):

        def rows() -> Iterator[dict[str, object]]:
            for temperature in TEMPERATURES:
                problem = tb.problems.four_rooms(temperature=temperature)
                save(problem, folder / "tables.npz")
                mine = ours(problem)
                found = {name: run() for name, run in mine.items()}
                runs = {name: runner.timed(run) for name, run in mine.items()}
                for name, peer in all_of.items():
                    if peer is None:
                        continue
                    peer.ask(prepare=str(folder / "tables.npz"))
                    path = str(folder / f"{name}.npy")
                    runs[name] = lambda peer=peer, path=path: peer.ask(answer=path)["seconds"]
                seconds = runner.medians(runs, options.runs, options.patience, runner.COLD)
                for name in runs:
                    if name in PEERS:
                        found[name] = np.load(folder / f"{name}.npy")
                    off = np.abs(found[name] - found[BOUNDED]).max()
                    yield {
                        "temperature": temperature,
                        "what": PEERS.get(name, name),
                        "ms": 1e3 * seconds[name],
                        "bounded / this": seconds[BOUNDED] / seconds[name],
                        "not bounded / this": seconds[PLAIN] / seconds[name],
                        "off": float(off / np.abs(found[BOUNDED]).max()),
                    }

        runner.table(options, rows(), all_of)
    return 0


if __name__ == "__main__":
    sys.exit(main())
