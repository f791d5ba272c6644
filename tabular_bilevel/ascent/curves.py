"""Curves for people: many seeds of an ascent, written as data; `plots.curves` draws them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tabular_bilevel._base.arguments import positive_integer
from tabular_bilevel._base.display import displayed
from tabular_bilevel._base.files import LIMIT, write_file, write_json
from tabular_bilevel._base.processes import sweep
from tabular_bilevel.ascent.optimisers import Optimiser
from tabular_bilevel.ascent.published import first_theta
from tabular_bilevel.ascent.training import Curve, Run, train
from tabular_bilevel.estimators.contract import as_estimator
from tabular_bilevel.problem import BilevelProblem

__all__ = ["Training"]


@displayed
@dataclass(frozen=True, eq=False)
class Training:
    """Some seeds of one method on one problem, in one folder.

    Attributes
    ----------
    problem : BilevelProblem
        The leader's problem.
    n_parameters : int
        Length of theta.
    method : str
        What the table and the plot call it.
    estimator : Estimator or callable
        Where gradients come from, in any form that `ascend` takes.
    optimiser : Optimiser
        How theta moves along its gradients.
    seeds : sequence of int
        One ascent each; at least 0 and no two alike.
    n_iterations, every : int
        Iterations, and how many lie between two looks at the objective.
    words : mapping of str to value
        The settings as JSON can hold them, without the number of steps: a curve saved with others
        is not gone on with.
    folder : Path
        Where everything is written.
    limit : int
        Bytes that a saved ascent may have when it is read; by default 256 MiB.
    """

    problem: BilevelProblem
    n_parameters: int
    method: str
    estimator: Any
    optimiser: Optimiser
    seeds: Sequence[int]
    n_iterations: int
    every: int
    words: Mapping[str, Any]
    folder: Path
    limit: int = LIMIT

    def __post_init__(self) -> None:
        """Check the estimator and the seeds."""
        as_estimator(self.estimator)
        if len(self.seeds) == 0:
            raise ValueError("seeds is empty")
        for seed in self.seeds:
            if seed < 0:
                raise ValueError(f"seed is {seed}, below 0")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds has some twice: {list(self.seeds)}")

    def curves(self, workers: int) -> Iterator[tuple[int, Curve]]:
        """Make the ascents, or what is left of them, and yield each curve when it is finished.

        Parameters
        ----------
        workers : int
            Processes.

        Yields
        ------
        seed : int
            In no certain order.
        curve : Curve
            Its curve.

        Raises
        ------
        ValueError
            If a number is not positive, the method is not defined for the problem, or the folder
            holds curves with other settings.
        """
        positive_integer("steps", self.n_iterations)
        self.folder.mkdir(parents=True, exist_ok=True)
        seeds = {f"seed {seed}": seed for seed in self.seeds}
        tasks = ((name, partial(train, self._run(seed))) for name, seed in seeds.items())
        for name, curve in sweep(tasks, workers=workers):
            yield seeds[name], curve

    def _run(self, seed: int) -> Run:
        return Run(
            label=json.dumps({**self.words, "seed": seed}, sort_keys=True),
            problem=self.problem,
            theta=first_theta(seed, self.n_parameters),
            method=self.estimator,
            optimiser=self.optimiser,
            seed=seed,
            n_iterations=self.n_iterations,
            every=self.every,
            path=self.folder / f"seed-{seed}.npz",
            limit=self.limit,
        )

    def write(self, curves: Mapping[int, Curve]) -> dict[str, Any]:
        """Write ``curves.csv`` and ``summary.json``.

        Parameters
        ----------
        curves : mapping of int to Curve
            The curves, by seed.

        Returns
        -------
        dict
            What the summary says.
        """
        table = io.StringIO()
        writer = csv.writer(table)
        writer.writerow(["method", "seed", "iteration", "objective"])
        for seed in sorted(curves):
            curve = curves[seed]
            for iteration, objective in zip(curve.iteration, curve.objective, strict=True):
                writer.writerow([self.method, seed, int(iteration), repr(float(objective))])
        write_file(self.folder / "curves.csv", table.getvalue().encode())
        finals = {seed: curves[seed].final() for seed in sorted(curves)}
        values = np.array(list(finals.values()))
        error = float(values.std(ddof=1) / np.sqrt(values.size)) if values.size > 1 else None
        summary = {
            **self.words,
            "steps": self.n_iterations,
            "final_objectives": finals,
            "mean": float(values.mean()),
            "standard_error": error,
        }
        write_json(self.folder / "summary.json", summary)
        return summary
