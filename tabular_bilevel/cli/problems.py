"""``problems``: which there are."""

from __future__ import annotations

import argparse

import numpy as np

import tabular_bilevel as tb
from tabular_bilevel.cli._common import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""


def run(options: argparse.Namespace) -> int:
    """Print a line for each problem."""
    width = max(len(name) for name in tb.problems.CATALOGUE) + 1
    say(f"{'name':<{width}}{'states':>7}{'actions':>9}{'parameters':>12}  what it is")
    for name, make in tb.problems.CATALOGUE.items():
        problem = make()
        model = problem.model(np.zeros(problem.n_parameters))
        summary = (make.__doc__ or "").strip().splitlines()[0]
        say(
            f"{name:<{width}}{model.n_states:>7}{model.n_actions:>9}{problem.n_parameters:>12}  "
            f"{summary.removeprefix('Build ').removesuffix('.')}"
        )
    return 0
