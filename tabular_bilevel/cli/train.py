"""``train``: ascents of a leader's objective, from several starts."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tabular_bilevel as tb
from tabular_bilevel._base.arguments import positive_integer
from tabular_bilevel.ascent.published import published
from tabular_bilevel.cli._common import (
    add_limit,
    add_problem,
    loaded,
    problem_of,
    progress,
    say,
    size_of,
    somebodys,
)
from tabular_bilevel.estimators.register import METHODS, Setting
from tabular_bilevel.problems.known import best_known, published_end

# What the package's methods are made with; an estimator of one's own has its own.
OF_METHODS = {"batch": 100, "time_limit": 200, "critic_step": 0.5, "simulator_slip": None}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    add_problem(parser)
    climbed = parser.add_mutually_exclusive_group(required=True)
    climbed.add_argument("--method", help="one of: " + ", ".join(METHODS))
    climbed.add_argument(
        "--estimator", metavar="MODULE:NAME", help="one of yours, in any form that check takes"
    )
    parser.add_argument("--seeds", type=int, default=10, help="ascents to make (10)")
    parser.add_argument(
        "--steps",
        type=int,
        default=10_000,
        help="iterations of each (10,000); what was saved with fewer is gone on with",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="where to write; the table, summary and plot have the seeds of this call alone",
    )
    parser.add_argument("--batch", type=int, help="a method's steps of data an iteration (100)")
    parser.add_argument("--time-limit", type=int, help="a method's longest episode (200)")
    parser.add_argument("--rate", type=float, default=0.1, help="of the ascent (0.1)")
    parser.add_argument(
        "--optimiser",
        choices=("sgd", "adam"),
        default="sgd",
        help="sgd, with the gradient clipped to norm 1, or adam (sgd)",
    )
    parser.add_argument(
        "--critic-step", type=float, help="step size of a method's learned critic (0.5)"
    )
    parser.add_argument(
        "--every",
        type=int,
        help="iterations between two looks at J (a 200th of all, at most 50)",
    )
    parser.add_argument(
        "--horizon", type=int, help="the leader's steps that J counts in the curves; all by default"
    )
    parser.add_argument(
        "--simulator-slip",
        type=float,
        metavar="SLIP",
        help="of the simulator of four-rooms; published is 0.33, by default the planner's 0.44",
    )
    parser.add_argument("--seed", type=int, default=0, help="the first seed (0)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (all)")
    add_limit(parser, "bytes that a saved ascent may have")


def run(options: argparse.Namespace) -> int:
    """Make the ascents, or go on with them, and write curves, summary and plot."""
    from tabular_bilevel.ascent.curves import Training

    n_seeds = positive_integer("seeds", options.seeds)
    if options.horizon is not None:
        positive_integer("horizon", options.horizon)
    workers = positive_integer("workers", options.workers)
    problem = problem_of(options.problem)
    words = vars(options).copy()
    for name in ("command", "words", "seeds", "seed", "steps", "workers", "out", "limit"):
        del words[name]
    if options.horizon is None:
        del words["horizon"]  # so that what was saved before there was one is gone on with
    if options.estimator is None:
        del words["estimator"]
        words |= {name: default for name, default in OF_METHODS.items() if words[name] is None}
        estimator = _method(words)
    else:
        estimator = loaded("estimator", options.estimator)
        for name in ("method", *OF_METHODS):
            if words.pop(name) is not None:
                raise ValueError(f"{name.replace('_', '-')} is for --method, not for --estimator")
    every = min(max(1, options.steps // 200), 50) if options.every is None else options.every
    clipped = tb.GradientAscent(options.rate, 1.0)
    training = Training(
        problem=problem,
        n_parameters=size_of(options.problem, problem),
        method=options.method or options.estimator,
        estimator=estimator,
        optimiser=clipped if options.optimiser == "sgd" else tb.Adam(options.rate),
        seeds=range(options.seed, options.seed + n_seeds),
        n_iterations=options.steps,
        every=every,
        words={**words, "every": every, "version": tb.__version__},
        folder=options.out,
        horizon=options.horizon,
        limit=options.limit,
    )
    curves = {}
    with (
        somebodys(options.estimator),
        progress(training.curves(workers), total=n_seeds) as finished,
    ):
        for seed, curve in finished:
            curves[seed] = curve
            say(f"seed {seed}: J = {curve.final():.6g} over the last iterations", finished.write)
    summary = training.write(curves)
    error = summary["standard_error"]
    spread = "" if error is None else f", standard error {error:.3g}"
    say(f"mean of {n_seeds}: J = {summary['mean']:.6g}{spread}; written to {options.out}")
    best, end = best_known(options.problem, options.horizon), published_end(summary)
    for known in filter(None, (end, best)):
        say(f"{known.what}: J = {known.value:g} ({known.source})")
    labelled = {training.method: [*curves.values()]}
    try:
        from tabular_bilevel.plots import save_curves

        save_curves(
            options.out / "curves.png",
            labelled,
            title=f"{options.problem}, {n_seeds} seeds",
            published={training.method: end.value} if end else None,
            best=best.value if best else None,
        )
    except ImportError:
        say("no plot: it needs matplotlib, which the extra 'plot' installs")
    return 0


def _method(words: Mapping[str, Any]) -> Any:
    """Make one of the package's methods, with these settings."""
    name, slip, simulator = words["method"], words["simulator_slip"], None
    if slip is not None:
        if words["problem"] != "four-rooms":
            raise ValueError(f"simulator-slip is for four-rooms, not for {words['problem']}")
        simulator = tb.problems.four_rooms(slip=slip)
    longest, batch = words["time_limit"], positive_integer("batch", words["batch"])
    sampler: Any = tb.StepBudget(batch, longest)
    if words["problem"] in tb.problems.CONTINUOUS:  # where no episode ends
        sampler = tb.Episodes(max(1, batch // longest), min(batch, longest))
    setting = Setting(
        sampler=sampler,
        step_size=words["critic_step"],
        oracle=tb.StepBudget(5_000, longest),
        simulator=simulator,
    )
    method = published(name, setting).method
    if simulator is not None and not hasattr(method, "interaction"):
        raise ValueError(f"simulator-slip has no use: {name} samples nothing from it")
    return method
