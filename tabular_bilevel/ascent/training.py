"""Training: whole curves of ascents, saved as they grow.

What an interrupt or a crash leaves is gone on with; the curve is the same as without it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tabular_bilevel._base.arguments import finite_array, positive_integer
from tabular_bilevel._base.arrays import FloatArray, IntArray, read_only
from tabular_bilevel._base.display import displayed
from tabular_bilevel._base.files import LIMIT, brief, shown
from tabular_bilevel.ascent.ascent import AscentState, Iteration, resume
from tabular_bilevel.ascent.optimisers import Optimiser
from tabular_bilevel.estimators.register import METHODS, Setting
from tabular_bilevel.problem import BilevelProblem

__all__ = ["METHODS", "Curve", "Run", "Setting", "train"]

# Seconds between two saves of a growing curve: what a crash may cost, and far above a save's time.
SAVE_EVERY = 5.0


@displayed
@dataclass(frozen=True, eq=False)
class Curve:
    """The exact objective along an ascent.

    Attributes
    ----------
    iteration : ndarray of int, shape (n,)
        Iterations at which J was computed; the last is the number of steps made.
    objective : ndarray, shape (n,)
        J there.
    theta : ndarray, shape (d,)
        Where the ascent ended.

    Examples
    --------
    >>> import numpy as np
    >>> import tabular_bilevel as tb
    >>> from tabular_bilevel.ascent.training import Run, train
    >>> problem, start = tb.problems.two_state(), np.zeros(2)
    >>> run = Run("two-state", problem, start, tb.ExactGradient(), tb.Adam(0.1), 0, 20, every=10)
    >>> curve = train(run)
    >>> curve.iteration, round(curve.final() - curve.objective[-1], 12)
    (array([ 0, 10, 20]), np.float64(0.0))
    """

    iteration: IntArray
    objective: FloatArray
    theta: FloatArray = field(repr=False)

    def final(self, share: float = 0.05) -> float:
        """Average the objective over the last iterations, by default a twentieth of them.

        Parameters
        ----------
        share : float
            The part of the iterations that are late.

        Returns
        -------
        float
            The mean objective of these.
        """
        late = self.iteration >= (1.0 - share) * self.iteration[-1]
        return float(self.objective[late].mean())


@displayed
@dataclass(frozen=True, eq=False)
class Run:
    """One ascent to be made.

    Attributes
    ----------
    label : str
        All its settings in words: a file that was saved under another label is not gone on with.
    problem : BilevelProblem
        The leader's problem.
    theta : ndarray, shape (d,)
        Where to start.
    method : Estimator or callable
        Where gradients come from, in any form that `ascend` takes.
    optimiser : Optimiser
        How theta moves along them.
    seed : int
        Seed of its randomness.
    n_iterations : int
        Iterations.
    every : int
        Iterations between two looks at the objective.
    horizon : int, optional
        The leader's steps that the recorded objective counts; all by default.
    path : Path, optional
        Where the curve is saved as it grows.
    limit : int
        Bytes that this file may have when it is read; by default 256 MiB.

    Examples
    --------
    >>> import numpy as np
    >>> import tabular_bilevel as tb
    >>> from tabular_bilevel.ascent.training import Run, train
    >>> problem, start = tb.problems.two_state(), np.zeros(2)
    >>> run = Run("two-state", problem, start, tb.ExactGradient(), tb.Adam(0.1), 0, n_iterations=5)
    >>> train(run).objective.shape  # before each of the steps, and after the last
    (6,)
    """

    label: str
    problem: BilevelProblem
    theta: FloatArray
    method: Any
    optimiser: Optimiser
    seed: int
    n_iterations: int
    every: int = 1
    horizon: int | None = None
    path: Path | None = None
    limit: int = LIMIT


def train(run: Run) -> Curve:
    """Make an ascent, or the rest of it.

    Parameters
    ----------
    run : Run
        What is to be done.

    Returns
    -------
    Curve
        The curve of the whole ascent.

    Raises
    ------
    ValueError
        If the file holds another run, more of it than is asked for, or no such run's state. Numbers
        that fit are believed: go on from files of your own.

    Examples
    --------
    >>> import numpy as np
    >>> import tabular_bilevel as tb
    >>> from tabular_bilevel.ascent.training import Run, train
    >>> problem = tb.problems.two_state()
    >>> run = Run("two-state", problem, np.zeros(2), tb.ExactGradient(), tb.Adam(0.1), 0, 50, 10)
    >>> train(run).iteration
    array([ 0, 10, 20, 30, 40, 50])
    """
    every = positive_integer("every", run.every)
    n_iterations = positive_integer("n_iterations", run.n_iterations)
    state, iterations, objectives = _begun(run)
    if iterations[-1:] == [n_iterations]:
        return finished(state.theta, iterations, objectives)
    # an interrupt may have come between a look at the objective and the step
    seen = sum(k < state.iteration for k in iterations)
    del iterations[seen:], objectives[seen:]
    steps = resume(run.problem, state, run.method, run.optimiser)

    def save(state: AscentState) -> None:
        if run.path is not None:
            state.save(run.path, label=run.label, iterations=iterations, objectives=objectives)

    saved_at = time.monotonic()
    last: Iteration | None = None
    try:
        for step in steps:
            if step.iteration % every == 0 or step.iteration == n_iterations:
                # an iteration is noted when its objective is there: an interrupt may come between
                objectives.append(step.objective_over(run.horizon))
                iterations.append(step.iteration)
            if step.iteration == n_iterations:
                break
            last = step
            if time.monotonic() - saved_at > SAVE_EVERY:
                save(step.state)
                saved_at = time.monotonic()
    except (KeyboardInterrupt, SystemExit):
        if last is not None:
            save(last.state)
        raise
    if last is not None:
        state = last.state
    save(state)
    return finished(state.theta, iterations, objectives)


def _begun(run: Run) -> tuple[AscentState, list[int], list[float]]:
    """Find how far a run is: its state, and what was noted; ValueError if the file is another's."""
    if run.path is None or not run.path.exists():
        return AscentState.start(run.theta, rng=run.seed), [], []
    state, saved = AscentState.load(run.path, limit=run.limit)
    try:
        return state, *_noted(saved, run, state)
    except ValueError as error:
        raise ValueError(f"{shown(run.path)} {error}") from error


def _noted(
    saved: Mapping[str, FloatArray], run: Run, state: AscentState
) -> tuple[list[int], list[float]]:
    """Read what `train` keeps beside a state; ValueError if this run cannot go on from it."""
    if saved.keys() != {"label", "iterations", "objectives"}:
        raise ValueError(f"has {brief(sorted(saved))}, not label, iterations and objectives")
    label = str(saved["label"])
    if label != run.label:
        raise ValueError(f"was saved by another run: {brief(label)}, not {run.label}")
    if state.iteration > run.n_iterations:
        raise ValueError(f"holds {state.iteration} steps, and n_iterations is {run.n_iterations}")
    if state.theta.shape != np.shape(run.theta):
        raise ValueError(f"holds a theta of shape {state.theta.shape}, not {np.shape(run.theta)}")
    if saved["iterations"].dtype.kind != "i":
        raise ValueError("holds iterations that are no whole numbers")
    iterations, objectives = saved["iterations"].tolist(), saved["objectives"].tolist()
    looks = list(range(0, state.iteration, run.every))
    if iterations not in (looks, [*looks, state.iteration]):
        raise ValueError(
            f"holds iterations {brief(iterations)}, not each {run.every}th up to {state.iteration}"
        )
    finite_array("objectives", saved["objectives"], (len(iterations),))
    return iterations, objectives


def finished(theta: FloatArray, iterations: list[int], objectives: list[float]) -> Curve:
    """Freeze a curve."""
    return Curve(read_only(np.array(iterations)), read_only(np.array(objectives)), theta)
