"""``efficiency``: what a budget of steps buys."""

from __future__ import annotations

import argparse
from pathlib import Path

import tabular_bilevel as tb
from tabular_bilevel._base.files import write_json
from tabular_bilevel.cli._common import (
    add_plot,
    add_problem,
    add_theta,
    plain,
    problem_of,
    require_files,
    say,
    theta_of,
    write_picture,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    add_problem(parser)
    parser.add_argument(
        "--budget",
        type=_budgets,
        default="1e3,1e4,1e5",
        metavar="STEPS,...",
        help="steps in all, of all trajectories together (%(default)s)",
    )
    add_theta(parser)
    add_plot(parser, "draw the errors, too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there")


def run(options: argparse.Namespace) -> int:
    """Compute errors of methods, and print them."""
    problem = problem_of(options.problem)
    require_files(options)
    curve = tb.error_curve(problem, theta_of(options, problem), budgets=options.budget)
    say(curve)
    write_picture(options, "the errors are", lambda plots: plots.error_curves(curve))
    if options.json is not None:
        rows = {
            name: [
                dict(zip(("steps", "error", "cosine"), map(plain, row), strict=True))
                for row in zip(curve.budgets.tolist(), *each, strict=True)
            ]
            for name, *each in zip(
                curve.methods, curve.error.tolist(), curve.cosine.tolist(), strict=True
            )
        }
        write_json(options.json, rows)
    return 0


def _budgets(text: str) -> list[float]:
    """Read budgets, parted by commas."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not numbers, parted by commas") from error
    if not all(1.0 <= steps < float("inf") for steps in found):
        raise argparse.ArgumentTypeError(f"{text!r} has a budget below 1 step, or an infinite one")
    return found
