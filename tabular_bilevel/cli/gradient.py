"""``gradient``: an exact hypergradient."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np

import tabular_bilevel as tb
from tabular_bilevel._base.files import require_writable, write_file
from tabular_bilevel.cli._common import add_limit, add_problem, problem_of, say, theta_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    add_problem(parser)
    parser.add_argument(
        "--theta", type=Path, required=True, metavar="FILE.npy", help="the leader's parameter"
    )
    parser.add_argument("--horizon", type=int, help="count this many of the leader's steps only")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.npy",
        help="where to write the gradient; by default beside theta, as FILE-gradient.npy",
    )
    add_limit(parser, "bytes that theta's file may have")


def run(options: argparse.Namespace) -> int:
    """Compute the gradient at a theta from a file, and write it to another."""
    problem = problem_of(options.problem)
    theta = theta_of(options, problem)
    out = options.out or options.theta.with_name(f"{options.theta.stem}-gradient.npy")
    require_writable(out)  # better now than after the work
    result = tb.hypergradient(problem, theta, horizon=options.horizon)
    raw = io.BytesIO()
    np.save(raw, result.gradient)
    write_file(out, raw.getvalue())
    say(f"J = {result.objective:.12g}")
    say(result.accuracy)
    say(
        f"gradient: {result.gradient.size} numbers, norm {np.linalg.norm(result.gradient):.6g}, "
        f"written to {out}"
    )
    return 0
