"""``vectors verify``: whether test vectors are right, and an implementation on them."""

from __future__ import annotations

import argparse
import importlib.util
import secrets
from pathlib import Path

from tabular_bilevel._base.arguments import as_positive
from tabular_bilevel._base.files import shown
from tabular_bilevel.cli._common import add_limit, loaded, of_option, progress, say
from tabular_bilevel.vectors import (
    Answers,
    ImplementationReport,
    check_vectors,
    load_answers,
    load_vectors,
    outcome,
)
from tabular_bilevel.vectors.verifying import MEMORY, SAMPLE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="what vectors write wrote")
    answers = parser.add_mutually_exclusive_group()
    answers.add_argument(
        "--answers",
        type=Path,
        metavar="FILE.json",
        help="answers computed in any language: by the name of the vector, objective and gradient",
    )
    answers.add_argument(
        "--with",
        dest="implementation",
        metavar="MODULE:NAME",
        help="a function of a vector that returns the gradient, or J and the gradient; in a file, "
        "FILE.py:NAME",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-6,
        help="of its gradient, relative to the largest entry (1e-6); float64's noise is on top",
    )
    how_many = parser.add_mutually_exclusive_group()
    how_many.add_argument(
        "--sample",
        type=int,
        default=SAMPLE,
        help=f"vectors of each family to prove again, drawn at random ({SAMPLE})",
    )
    how_many.add_argument("--all", action="store_true", help="prove all of them again")
    parser.add_argument("--seed", type=int, help="of the sample; fresh by default")
    add_limit(parser, "bytes of memory that a vector and its proof may take", MEMORY)


def run(options: argparse.Namespace) -> int:
    """Check the files, and the implementation if they are right; 1 if anything is wrong."""
    implementation, tolerance = None, as_positive("tolerance", options.tolerance)
    if options.implementation is not None:
        implementation = loaded("implementation", options.implementation)
        if not callable(implementation):
            raise ValueError(f"implementation is {implementation!r}, which cannot be called")
    elif options.answers is not None:
        with of_option("--answers"):
            implementation = load_answers(options.answers)
    seed = secrets.randbits(32) if options.seed is None else options.seed
    sample = None if options.all else options.sample
    checks = []
    checking = check_vectors(options.folder, sample=sample, rng=seed, limit=options.limit)
    with progress(checking) as running:
        for check in running:
            checks.append(check)
            if check.trouble:
                say(f"{shown(check.file)}: {shown(check.trouble)}", running.write)
    bad = sum(bool(check.trouble) for check in checks)
    proven = sum(check.proven_again for check in checks)
    say(
        f"{len(checks) - bad} of {len(checks)} files right: checksums, tables, bounds, noise, and "
        f"tb.hypergradient agrees"
    )
    if sample is None:
        say(f"{proven} of {len(checks)} proven again")
    else:
        say(
            f"{proven} of {len(checks)} proven again: up to {sample} of each family, seed {seed}; "
            "--all proves all"
        )
    if proven == 0 and importlib.util.find_spec("flint") is None:
        say("to prove any, python-flint is needed: pip install 'tabular-bilevel[rigor]'")
    if bad:
        return 1
    if implementation is None:
        return 0
    vectors = load_vectors(options.folder, limit=options.limit)
    if isinstance(implementation, Answers):
        with of_option("--answers"):
            implementation.require_known(vectors)
    with progress(vectors, total=len(vectors)) as running:
        report = ImplementationReport(
            tuple(outcome(vector, implementation, tolerance) for vector in running)
        )
    say(report)
    return 0 if report.passed else 1
