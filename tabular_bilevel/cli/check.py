"""``check``: an estimator of yours, and what is wrong with it."""

from __future__ import annotations

import argparse
import secrets
import sys
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

import tabular_bilevel as tb
from tabular_bilevel._base.files import read_array, write_file, write_json
from tabular_bilevel.cli._common import (
    add_limit,
    add_problem,
    add_report,
    loaded,
    of_option,
    plain,
    problem_of,
    repeated,
    require_report,
    say,
    size_of,
    somebodys,
    theta_of,
    write_page,
)

#: Exit status of each verdict; of a suite, of the worst.
STATUS = MappingProxyType(
    {
        tb.Verdict.UNBIASED: 0,
        tb.Verdict.BIASED: 1,
        tb.Verdict.INCONCLUSIVE: 3,
        tb.Verdict.BROKEN: 4,
    }
)

EPILOG = (
    "exit status: 0 no bias seen, 1 BIASED, 2 the input cannot be used, 3 INCONCLUSIVE, 4 BROKEN; "
    "of a suite the worst: BROKEN before BIASED before INCONCLUSIVE"
)

#: What can be declared of an estimator.
DECLARED = MappingProxyType(
    {
        "simulator": "where trajectories come from, with --problem: another problem",
        "sampler": "how many trajectories it draws, and where it cuts them",
        "follower": "how the follower answers",
        "critic": "where the leader's values come from",
    }
)

#: What is written beside a report's page.
FILES = "report.txt", "report.json"

Report = tb.EnumerationReport | tb.EstimatorReport | tb.SuiteReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.epilog = EPILOG
    parser.add_argument(
        "estimator",
        nargs="?",
        metavar="MODULE:NAME",
        help="a function (view, batch), (view, rng) or (problem, theta, rng), or an estimator; in "
        "a file, FILE.py:NAME",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--suite", choices=("standard",), help="a suite of problems (standard)")
    where.add_argument(
        "--smallest",
        action="store_true",
        help="the smallest of the problems with a name on which the estimator does not fail",
    )
    add_problem(where, "--problem")
    parser.add_argument(
        "--rows",
        type=Path,
        metavar="FILE.npy",
        help="with --problem and --theta: estimates made elsewhere, one a row, in the place of an "
        "estimator",
    )
    parser.add_argument(
        "--up-to-scale",
        action="store_true",
        help="look at the direction of the mean only, for code that clips or rescales",
    )
    for name, what in DECLARED.items():
        parser.add_argument(f"--{name}", metavar="MODULE:NAME", help=f"declare {what}")
    parser.add_argument(
        "--theta",
        type=Path,
        metavar="FILE.npy",
        help="with --problem: the leader's parameter; by default small random numbers",
    )
    parser.add_argument(
        "--target",
        type=Path,
        metavar="FILE.npy",
        help="with --problem: what the mean should be, if not the gradient",
    )
    parser.add_argument(
        "--enumerate",
        action="store_true",
        help="with --problem: go through all trajectories, if they are finite in number",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=1,
        help="with --enumerate: trajectories an estimate; by default 1, and how 2 and 3 are "
        "combined is looked at",
    )
    parser.add_argument(
        "--horizon", type=int, help="with --enumerate: steps after which trajectories are cut"
    )
    parser.add_argument("--replicates", type=int, default=400, help="calls at most (400)")
    parser.add_argument(
        "--visible-bias",
        type=float,
        help="bias, relative to the gradient, that has to be seen; by default 0.05 is aimed at",
    )
    parser.add_argument(
        "--false-alarm-rate",
        type=float,
        default=1e-3,
        help="how often a right estimator may fail, on all problems together (0.001)",
    )
    parser.add_argument(
        "--burn-in",
        type=int,
        default=0,
        help="calls that warm an estimator's memory up before each one that counts (0)",
    )
    parser.add_argument("--seed", type=int, help="of the random numbers; fresh by default")
    add_report(parser, *FILES)
    add_limit(parser, "bytes that FILE.npy may have")


def run(options: argparse.Namespace) -> int:
    """Check an estimator and print the report; the exit status is the verdict's."""
    _require_fitting(options)
    require_report(options, *FILES)
    fresh = {}
    if options.seed is None and options.rows is None and not options.enumerate:
        options.seed = fresh["seed"] = secrets.randbits(32)
    if options.rows is not None:
        report: Report = _of_rows(options)
    else:
        estimator = loaded("estimator", options.estimator)
        if options.smallest or options.problem is not None:
            report = _on_one(options, estimator)
        else:
            report = _on_suite(options, estimator)
    if options.report is not None:
        _write(options, report, fresh)
    return STATUS[report.verdict]


def _write(options: argparse.Namespace, report: Report, fresh: dict[str, int]) -> None:
    """Write a report as text, as JSON and as a page."""
    from tabular_bilevel.pages.document import Source
    from tabular_bilevel.pages.reports import page_of

    name = options.estimator or str(options.rows)
    where = f" on {options.problem}" if options.problem else ""
    seeds = "" if options.seed is None else f"seed {options.seed}"
    words = {
        "version": tb.__version__,
        "estimator": name,
        "verdict": report.verdict.value,
        **plain(report),
    }
    with of_option("--report"):
        write_file(options.report / "report.txt", f"{report}\n".encode())
        write_json(options.report / "report.json", words)
    write_page(
        options, page_of(report, Source(f"{name}{where}", repeated(options, **fresh), seeds))
    )


def _require_fitting(options: argparse.Namespace) -> None:
    """Refuse options that do not go together."""
    if options.problem is None:
        for option in ("theta", "target", "enumerate", "simulator"):
            if getattr(options, option):
                raise ValueError(f"--{option} needs a --problem")
    if not options.enumerate and (options.horizon is not None or options.batch_size != 1):
        raise ValueError("--horizon and --batch-size need --enumerate")
    if options.enumerate:
        for option in (name for name in DECLARED if getattr(options, name)):
            raise ValueError(f"--{option} is not for --enumerate, which needs no sampling")
    if options.rows is None:
        if options.estimator is None:
            raise ValueError("give an estimator, MODULE:NAME, or estimates, --rows FILE.npy")
        return
    if options.estimator is not None:
        raise ValueError(f"--rows has the estimates: what is {options.estimator!r} for?")
    if options.problem is None or options.theta is None:
        raise ValueError("--rows needs the --problem and the --theta that they were made at")


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """Gather what all kinds of check take that draw a sample."""
    declared = {
        name: loaded(f"--{name}", getattr(options, name))
        for name in DECLARED
        if getattr(options, name) is not None
    }
    return {
        "visible_bias": options.visible_bias,
        "false_alarm_rate": options.false_alarm_rate,
        "up_to_scale": options.up_to_scale,
        **declared,
    }


def _target(options: argparse.Namespace) -> dict[str, Any]:
    """Read a target, if there is one."""
    if options.target is None:
        return {}
    with of_option("--target"):
        return {"target": read_array(options.target, options.limit)}


def _of_calls(options: argparse.Namespace) -> dict[str, Any]:
    """Gather what checks take that call an estimator."""
    return {
        "n_replicates": options.replicates,
        "burn_in": options.burn_in,
        "rng": options.seed,
        "progress": sys.stderr.isatty(),
        **_settings(options),
    }


def _theta(options: argparse.Namespace, problem: Any) -> Any:
    if options.theta is None:
        size = size_of(options.problem, problem)
        return 0.1 * np.random.default_rng(0).normal(size=size)
    return theta_of(options, problem)


def _of_rows(options: argparse.Namespace) -> tb.EstimatorReport:
    """Check estimates from a file."""
    problem = problem_of(options.problem)
    theta = _theta(options, problem)
    with of_option("--rows"):
        rows = read_array(options.rows, options.limit)
    with somebodys(options.problem if ":" in options.problem else None):
        report: tb.EstimatorReport = tb.check_estimates(
            rows,
            problem,
            theta,
            **_target(options),
            **_settings(options),
        )
    say(report)
    return report


def _on_one(
    options: argparse.Namespace, estimator: Any
) -> tb.EnumerationReport | tb.EstimatorReport:
    """Check on one problem: one that was named, or the smallest."""
    if options.smallest:
        from tabular_bilevel.checks.suite import smallest_case

        with somebodys(options.estimator):
            case = smallest_case(estimator)
        say(f"on {case.name!r}, the smallest on which it does not fail")
        problem, theta = case.problem, case.theta
    else:
        problem = problem_of(options.problem)
        theta = _theta(options, problem)
    with somebodys(options.estimator):
        if options.enumerate:
            count = tb.count_trajectories(problem.model(theta), horizon=options.horizon)
            say(f"{count:,} trajectories")
            enumerated = tb.check_by_enumeration(
                estimator,
                problem,
                theta,
                horizon=options.horizon,
                batch_size=options.batch_size,
                up_to_scale=options.up_to_scale,
                **_target(options),
            )
            say(enumerated)
            return enumerated
        report = tb.check_estimator(
            estimator, problem, theta, **_target(options), **_of_calls(options)
        )
    say(report)
    if report.traceback:
        say(report.traceback)
    return report


def _on_suite(options: argparse.Namespace, estimator: Any) -> tb.SuiteReport:
    """Check on one problem after the other, with a line for each as it ends."""
    from tqdm.auto import tqdm

    from tabular_bilevel.checks.suite import line_of, suite_reports

    suite, reports = tb.standard_suite(), {}
    say(f"{len(suite)} problems, up to {options.replicates} calls on each")
    with somebodys(options.estimator):
        for name, one in suite_reports(estimator, suite, **_of_calls(options)):
            reports[name] = one
            say(line_of(name, one), tqdm.write)
        report = tb.SuiteReport.of(estimator, reports, options.false_alarm_rate)
    say(report.summary)
    first = next((one.traceback for one in reports.values() if one.traceback), "")
    if first:
        say(first)
    return report
