"""``problems``: which there are."""

from __future__ import annotations

import argparse

import numpy as np

from tabular_bilevel.cli._common import NAMED, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""


def run(options: argparse.Namespace) -> int:
    """Print a line for each problem."""
    width = max(len(name) for name in NAMED) + 1
    say(f"{'name':<{width}}{'states':>7}{'actions':>9}{'parameters':>12}  what it is")
    for name, make in NAMED.items():
        problem = make()
        model = problem.model(np.zeros(problem.n_parameters))
        states, actions = model.n_states, getattr(model, "n_actions", None)
        if actions is None:  # both are continuous
            states, actions = f"R^{states}", f"R^{model.n_controls}"
        summary = (make.__doc__ or "").strip().splitlines()[0]
        say(
            f"{name:<{width}}{states:>7}{actions:>9}{problem.n_parameters:>12}  "
            f"{summary.removeprefix('Build ').removesuffix('.')}"
        )
    return 0
