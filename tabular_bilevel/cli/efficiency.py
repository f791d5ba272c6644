"""``efficiency``: what a budget of steps buys."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import tabular_bilevel as tb
from tabular_bilevel._base.files import write_json
from tabular_bilevel.cli._common import (
    add_plot,
    add_problem,
    add_theta,
    maker_of,
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
    parser.add_argument(
        "--vary",
        type=_varied,
        action="append",
        default=[],
        metavar="NAME=VALUE,...",
        help="a setting of the problem, such as temperature=0.1,1 or n_parameters=5,50, or "
        "horizon=10,100, where trajectories are cut; again for another: all are combined",
    )
    add_theta(parser)
    add_plot(parser, "draw the errors, too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there")


def run(options: argparse.Namespace) -> int:
    """Compute errors of methods, and print them."""
    require_files(options)
    found: Any
    shown = sys.stderr.isatty()
    if len(dict(options.vary)) < len(options.vary):
        raise ValueError("--vary names a setting twice: give all of its values at once")
    if options.vary:
        found = tb.error_grid(
            maker_of(options.problem),
            dict(options.vary),
            budgets=options.budget,
            theta=lambda problem: theta_of(options, problem),
            progress=shown,
        )
    else:
        problem = problem_of(options.problem)
        theta = theta_of(options, problem)
        found = tb.error_curve(problem, theta, budgets=options.budget, progress=shown)
    say(found)
    draw = "error_grid" if options.vary else "error_curves"
    write_picture(options, "the errors are", lambda plots: getattr(plots, draw)(found))
    if options.json is not None:
        of_cells = zip(found.labels, map(_rows, found.curves), strict=True) if options.vary else ()
        write_json(options.json, dict(of_cells) if options.vary else _rows(found))
    return 0


def _rows(curve: tb.ErrorCurve) -> dict[str, list[dict[str, Any]]]:
    """List what a curve has of each method at each budget."""
    return {
        name: [
            dict(zip(("steps", "error", "cosine", "horizon"), map(plain, row), strict=True))
            for row in zip(curve.budgets.tolist(), *each, strict=True)
        ]
        for name, *each in zip(
            curve.methods,
            *(table.tolist() for table in (curve.error, curve.cosine, curve.horizon)),
            strict=True,
        )
    }


def _varied(text: str) -> tuple[str, list[float]]:
    """Read a setting's name and values."""
    name, _, values = text.partition("=")
    try:
        found = [int(part) if part.isdigit() else float(part) for part in values.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE,... of numbers") from error
    return name, found


def _budgets(text: str) -> list[float]:
    """Read budgets, parted by commas."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not numbers, parted by commas") from error
    if not all(1.0 <= steps < float("inf") for steps in found):
        raise argparse.ArgumentTypeError(f"{text!r} has a budget below 1 step, or an infinite one")
    return found
