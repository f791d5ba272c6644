"""``vectors write``: test vectors with proven answers."""

from __future__ import annotations

import argparse
import os

from tabular_bilevel.cli._common import progress, say
from tabular_bilevel.vectors import FAMILIES, JSON, NPZ, Plan, write_vectors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("out", metavar="OUT", help="the folder to write, or to go on with")
    parser.add_argument(
        "--families",
        required=True,
        metavar="NAMES",
        help="'all', or some of the families, with commas: " + ", ".join(FAMILIES),
    )
    parser.add_argument("--count", type=int, required=True, help="vectors of all families")
    parser.add_argument(
        "--accuracy", choices=("enclosed",), default="enclosed", help="how answers are proven"
    )
    parser.add_argument("--max-states", type=int, default=30, help="states at most (30)")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers (0)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (all)")
    parser.add_argument(
        "--json", action="store_true", help="JSON, for other languages, instead of npz"
    )


def run(options: argparse.Namespace) -> int:
    """Write the vectors, or what is missing of them."""
    names = options.families.split(",")
    plan = Plan(
        families=tuple(FAMILIES) if names == ["all"] else tuple(names),
        count=options.count,
        max_states=options.max_states,
        seed=options.seed,
        encoding=JSON if options.json else NPZ,
    )
    written = write_vectors(options.out, plan, workers=options.workers)
    with progress(written, total=plan.count) as recipes:
        for recipe in recipes:
            recipes.set_description(recipe.family)
    say(f"{plan.count} vectors, each answer proven, in {options.out}")
    return 0
