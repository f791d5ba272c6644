"""Curves for people: many seeds of an ascent, written as data and drawn."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tabular_bilevel._base.arguments import positive_integer
from tabular_bilevel._base.files import LIMIT, write_file, write_json
from tabular_bilevel.ascent.optimisers import Optimiser
from tabular_bilevel.ascent.training import Curve, Run, first_theta, train_all
from tabular_bilevel.estimators.contract import as_estimator
from tabular_bilevel.problem import BilevelProblem

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Training", "plot_curves"]


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
    n_steps, every : int
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
    n_steps: int
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
        positive_integer("steps", self.n_steps)
        self.folder.mkdir(parents=True, exist_ok=True)
        runs = {self._run(seed): seed for seed in self.seeds}
        for run, curve in train_all(list(runs), workers=min(workers, len(runs))):
            yield runs[run], curve

    def _run(self, seed: int) -> Run:
        return Run(
            label=json.dumps({**self.words, "seed": seed}, sort_keys=True),
            problem=self.problem,
            theta=first_theta(seed, self.n_parameters),
            method=self.estimator,
            optimiser=self.optimiser,
            seed=seed,
            n_steps=self.n_steps,
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
            "steps": self.n_steps,
            "final_objectives": finals,
            "mean": float(values.mean()),
            "standard_error": error,
        }
        write_json(self.folder / "summary.json", summary)
        return summary

    def draw(self, curves: Mapping[int, Curve]) -> Path:
        """Draw ``curves.png``.

        Parameters
        ----------
        curves : mapping of int to Curve
            The curves, by seed.

        Returns
        -------
        Path
            The picture's path.

        Raises
        ------
        ImportError
            If matplotlib, which the extra `plot` installs, is missing.
        """
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.0, 3.7), layout="constrained")
        FigureCanvasAgg(figure)
        axes = plot_curves({self.method: list(curves.values())}, figure.add_subplot())
        axes.set_title(f"{self.words.get('problem', 'ascent')}, {len(curves)} seeds", fontsize=10)
        place, picture = self.folder / "curves.png", io.BytesIO()
        figure.savefig(picture, dpi=160)
        write_file(place, picture.getvalue())
        return place


def plot_curves(curves: Mapping[str, Sequence[Curve]], ax: Axes | None = None) -> Axes:
    """Plot the mean objective over seeds, with a band of one standard error.

    Parameters
    ----------
    curves : mapping of str to sequence of Curve
        By the label that the legend shows; the curves of a label have the same iterations.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on new axes.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.

    Raises
    ------
    ImportError
        If matplotlib, which the extra `plot` installs, is missing.
    ValueError
        If there are no curves under a label, or they differ in their iterations.
    """
    for label, group in curves.items():
        if not group:
            raise ValueError(f"curves[{label!r}] is empty")
        if any(not np.array_equal(curve.iteration, group[0].iteration) for curve in group):
            raise ValueError(f"curves[{label!r}] differ in their iterations")
    if ax is None:
        from matplotlib import pyplot

        _, ax = pyplot.subplots(figsize=(6.0, 3.7), layout="constrained")
    for label, group in curves.items():
        objectives = np.array([curve.objective for curve in group])
        mean, iteration = objectives.mean(axis=0), group[0].iteration
        (line,) = ax.plot(iteration, mean, label=label, linewidth=1.5)
        if len(group) > 1:
            error = objectives.std(axis=0, ddof=1) / np.sqrt(len(group))
            ax.fill_between(
                iteration, mean - error, mean + error, color=line.get_color(), alpha=0.25, lw=0
            )
    ax.set_xlabel("iteration")
    ax.set_ylabel("leader's objective J")
    ax.spines[["top", "right"]].set_visible(False)
    ax.margins(x=0.01)
    ax.legend(frameon=False)
    return ax
