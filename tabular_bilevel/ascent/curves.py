"""Curves for people: many seeds of an ascent, written as data and read; others draw them."""

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

from tabular_bilevel._base.arguments import finite_array, positive_integer
from tabular_bilevel._base.arrays import FloatArray, IntArray
from tabular_bilevel._base.display import displayed
from tabular_bilevel._base.files import (
    LIMIT,
    brief,
    read_file,
    read_json,
    shown,
    write_file,
    write_json,
)
from tabular_bilevel._base.processes import sweep
from tabular_bilevel.ascent.optimisers import Optimiser
from tabular_bilevel.ascent.published import first_theta
from tabular_bilevel.ascent.training import Curve, Run, train
from tabular_bilevel.estimators.contract import as_estimator
from tabular_bilevel.problem import BilevelProblem

# What is written, and the head of the table.
TABLE, SUMMARY = "curves.csv", "summary.json"
HEAD = ["method", "seed", "iteration", "objective"]


@displayed
@dataclass(frozen=True, eq=False)
class Training:
    """Some seeds of one method on one problem, in one folder, where everything is written.

    The method's name is what table and plot call it; the estimator is in any form that `ascend`
    takes. J is looked at `every` so many iterations, over the leader's steps up to a horizon. The
    words are the settings as JSON can hold them, without the number of steps: a curve saved with
    others is not gone on with. A saved ascent may have so many bytes when it is read.
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
    horizon: int | None = None
    limit: int = LIMIT

    def __post_init__(self) -> None:
        as_estimator(self.estimator)
        if len(self.seeds) == 0:
            raise ValueError("seeds is empty")
        for seed in self.seeds:
            if seed < 0:
                raise ValueError(f"seed is {seed}, below 0")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds has some twice: {list(self.seeds)}")

    def curves(self, workers: int) -> Iterator[tuple[int, Curve]]:
        """Make the ascents, or what is left of them; yield each seed and curve when it is finished.

        Raises ValueError if a number is not positive, the method is not defined for the problem, or
        the folder holds curves with other settings.
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
            horizon=self.horizon,
            path=self.folder / f"seed-{seed}.npz",
            limit=self.limit,
        )

    def write(self, curves: Mapping[int, Curve]) -> dict[str, Any]:
        """Write ``curves.csv`` and ``summary.json``, and return what the summary says."""
        table = io.StringIO()
        writer = csv.writer(table)
        writer.writerow(HEAD)
        for seed in sorted(curves):
            curve = curves[seed]
            for iteration, objective in zip(curve.iteration, curve.objective, strict=True):
                writer.writerow([self.method, seed, int(iteration), repr(float(objective))])
        write_file(self.folder / TABLE, table.getvalue().encode())
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
        write_json(self.folder / SUMMARY, summary)
        return summary


@displayed
@dataclass(frozen=True, eq=False)
class Trained:
    """What `Training.write` wrote into a folder: the summary, and J by seed at the same iterations.

    The `ends` are J over the last iterations.
    """

    words: Mapping[str, Any]
    iteration: IntArray  # shape (n,)
    objective: FloatArray  # shape (seeds, n)
    ends: FloatArray  # shape (seeds,)

    @property
    def settings(self) -> dict[str, Any]:
        """What it was trained with."""
        found = {"mean", "standard_error", "final_objectives"}
        return {name: value for name, value in self.words.items() if name not in found}


def load_trained(folder: Path, limit: int = LIMIT) -> Trained:
    """Read what `Training.write` wrote into a folder, in files of at most so many bytes each.

    Raises ValueError if the files are not what it writes.
    """
    words = read_json(folder / SUMMARY, limit)
    wanted = {"problem", "steps", "final_objectives"}
    if not isinstance(words, dict) or not wanted <= words.keys():
        raise ValueError(f"{shown(folder / SUMMARY)} is no summary of train's")
    try:
        iteration, objectives = _table(read_file(folder / TABLE, limit).decode())
        ends = finite_array("final_objectives", [*words["final_objectives"].values()], (None,))
        if list(objectives) != list(words["final_objectives"]):
            raise ValueError(f"it has the seeds {list(objectives)}, and the summary has others")
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{shown(folder / TABLE)} is no table of train's: {brief(error)}"
        ) from error
    table = np.array(list(objectives.values()))
    return Trained(words, np.array(iteration), table, ends)


def _table(text: str) -> tuple[list[int], dict[str, list[float]]]:
    """Read iterations, and the objectives there by seed."""
    head, *rows = csv.reader(io.StringIO(text))
    if head != HEAD or not rows:
        raise ValueError(f"it begins with {head}")
    iterations: dict[str, list[int]] = {}
    objectives: dict[str, list[float]] = {}
    for row in rows:
        _, seed, iteration, objective = row
        iterations.setdefault(seed, []).append(int(iteration))
        objectives.setdefault(seed, []).append(float(objective))
    first = next(iter(iterations.values()))
    if any(each != first for each in iterations.values()):
        raise ValueError("its seeds differ in their iterations")
    if first != sorted(set(first)) or first[0] < 0:
        raise ValueError("its iterations do not rise")
    for seed, each in objectives.items():
        finite_array(f"objective of seed {seed}", each, (None,))
    return first, objectives
