"""Speed of linear-quadratic models: J and its 8 derivatives, beside JAX.

Run ``python validation/benchmarks/linear_quadratic.py`` with the package installed. The building
has 4 states; a street of them, all alike, has 4 each, and is solved as one system. JAX sweeps the
Riccati equation as often as it takes to come to rounding, follows the laws of all steps, and is
differentiated in reverse mode through all of it, compiled. It has an environment of its own, in the
folder of ``--environment``; both take turns, on one thread each. Ratios are ours to JAX's; ``off``
is from our gradient, relative to its largest entry.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

import tabular_bilevel as tb
from tabular_bilevel.lq.follower import bellman
from tabular_bilevel.problems.building import DESIGN_COST, SLOPES

try:
    from benchmarks import runner
except ImportError:  # run as a script
    import runner

BUILDINGS = (1, 25)
PEER = "linear_quadratic_reverse"
OURS = "not bounded (default)"
ROUNDING = 1e-14


class Street:
    """Buildings of one design side by side, as one system."""

    n_parameters = 8

    def __init__(self, count: int) -> None:
        self.count, self.one = count, tb.problems.building_thermal_control()

    def model(self, theta: np.ndarray) -> tb.LinearQuadraticModel:
        """Put the buildings' tables side by side."""
        one, unit = self.one.model(theta), np.eye(self.count)
        names = ("dynamics", "control", "state_cost", "control_cost", "noise", "initial_covariance")
        reward = tb.QuadraticReward(
            state=np.kron(unit, one.leader_reward.state),
            control=np.kron(unit, one.leader_reward.control),
            constant=self.count * one.leader_reward.constant,
        )
        return one.replace(
            **{name: np.kron(unit, getattr(one, name)) for name in names},
            initial_mean=np.tile(one.initial_mean, self.count),
            leader_reward=reward,
        )

    def pullback(self, theta: np.ndarray, sensitivities: tb.lq.Sensitivities) -> np.ndarray:
        """Add up what the buildings pull back."""
        each = sensitivities.dynamics.reshape(self.count, 4, self.count, 4)
        constant = self.count * sensitivities.leader_reward["constant"]
        added = tb.lq.Sensitivities.of(
            self.one.base,
            dynamics=np.einsum("kikj->ij", each),
            leader_reward={"constant": constant},
        )
        return self.one.pullback(theta, added)


def sweeps(model: tb.LinearQuadraticModel) -> int:
    """Count the sweeps of the Riccati equation from its cost until they change nothing."""
    value, count, gap = model.state_cost, 0, np.inf
    while np.abs(gap).max() > ROUNDING * np.abs(value).max():
        gap = bellman(model, value)[2]
        value, count = value + gap, count + 1
    return count


def save(problem: Street, theta: np.ndarray, path: Path) -> None:
    """Write the tables: what theta does not move, and how it moves the rest."""
    model, unit = problem.model(theta), np.eye(problem.count)
    design = problem.one.design(theta)
    slopes = np.array([np.kron(unit, slope) for slope in SLOPES])
    np.savez(
        path,
        still=model.dynamics - np.tensordot(design, slopes, axes=1),
        slopes=slopes,
        **{name: getattr(model, name) for name in ("control", "state_cost", "control_cost")},
        **{name: getattr(model, name) for name in ("noise", "initial_covariance", "temperature")},
        discount=model.follower_discount,
        leader_discount=model.leader_discount,
        reward_state=model.leader_reward.state,
        reward_control=model.leader_reward.control,
        design_cost=problem.count * DESIGN_COST,
        steps=model.leader_horizon,
        sweeps=sweeps(model),
        theta=theta,
    )


def main(arguments: list[str] | None = None) -> int:
    """Print the table in Markdown; write it as JSON, too, where asked."""
    parser = runner.parser(__doc__, runs=21, peers=[PEER])
    parser.add_argument("--buildings", type=int, nargs="*", default=[*BUILDINGS])
    options = parser.parse_args(arguments)
    runner.alone()
    with runner.peers(options, ["jax"]) as (all_of, folder):

        def rows() -> Iterator[dict[str, object]]:
            for count in options.buildings:
                problem, theta = Street(count), np.zeros(8)
                ours = problem if count > 1 else problem.one
                run = partial(tb.hypergradient, ours, theta)
                runs = {OURS: runner.timed(run)}
                found = {OURS: run().gradient}
                peer = all_of.get(PEER)
                if peer is not None:
                    save(problem, theta, folder / "tables.npz")
                    peer.ask(prepare=str(folder / "tables.npz"))
                    path = str(folder / "answer.npy")
                    runs[PEER] = lambda peer=peer, path=path: peer.ask(answer=path)["seconds"]
                seconds = runner.medians(runs, options.runs, options.patience)
                for name in runs:
                    if name == PEER:
                        found[name] = np.load(folder / "answer.npy")
                    off = np.abs(found[name] - found[OURS]).max() / np.abs(found[OURS]).max()
                    yield {
                        "states": 4 * count,
                        "what": "JAX, reverse mode" if name == PEER else name,
                        "ms": 1e3 * seconds[name],
                        "ours / this": seconds[OURS] / seconds[name],
                        "off": float(off),
                    }

        runner.table(options, rows(), all_of)
    return 0


if __name__ == "__main__":
    sys.exit(main())
