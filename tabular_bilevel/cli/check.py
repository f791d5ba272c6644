"""``check``: an estimator of yours, and what is wrong with it."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import tabular_bilevel as tb
from tabular_bilevel._base.files import read_array, write_file, write_json
from tabular_bilevel.cli._common import (
    add_limit,
    add_problem,
    loaded,
    plain,
    progress,
    say,
    somebodys,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument(
        "estimator",
        metavar="MODULE:NAME",
        help="a function (view, batch), (view, rng) or (problem, theta, rng), or an estimator",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--suite", choices=("standard",), help="a suite of problems (standard)")
    add_problem(where, "--problem")
    parser.add_argument(
        "--theta",
        type=Path,
        metavar="FILE.npy",
        help="with --problem: the leader's parameter; by default small random numbers",
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
    parser.add_argument(
        "--report", type=Path, metavar="DIR", help="write report.txt and report.json there"
    )
    add_limit(parser, "bytes that FILE.npy may have")


def run(options: argparse.Namespace) -> int:
    """Check an estimator and print the report; 1 if it failed."""
    from tabular_bilevel.checks.suite import suite_reports

    estimator = loaded("estimator", options.estimator)
    if options.problem is None and (options.theta is not None or options.enumerate):
        raise ValueError("--theta and --enumerate need a --problem")
    if not options.enumerate and (options.horizon is not None or options.batch_size != 1):
        raise ValueError("--horizon and --batch-size need --enumerate")
    if options.report is not None:
        options.report.mkdir(parents=True, exist_ok=True)  # better now than after the work
    settings = {
        "n_replicates": options.replicates,
        "visible_bias": options.visible_bias,
        "false_alarm_rate": options.false_alarm_rate,
        "burn_in": options.burn_in,
        "rng": options.seed,
    }
    report: tb.EnumerationReport | tb.EstimatorReport | tb.SuiteReport
    if options.problem is None:
        suite, reports = tb.standard_suite(), {}
        with progress(suite_reports(estimator, suite, **settings), len(suite)) as running:
            for name, one in running:
                reports[name] = one
                running.set_description(name)
        report = tb.SuiteReport(reports, options.false_alarm_rate)
    else:
        problem = tb.problems.CATALOGUE[options.problem]()
        if options.theta is None:
            theta = 0.1 * np.random.default_rng(0).normal(size=problem.n_parameters)
        else:
            theta = read_array(options.theta, options.limit)
        if options.enumerate:
            count = tb.count_trajectories(problem.model(theta), horizon=options.horizon)
            say(f"{count:,} trajectories")
            with somebodys(options.estimator):
                report = tb.check_by_enumeration(
                    estimator,
                    problem,
                    theta,
                    horizon=options.horizon,
                    batch_size=options.batch_size,
                )
        else:
            report = tb.check_estimator(estimator, problem, theta, **settings)
    say(report)
    if options.report is not None:
        write_file(options.report / "report.txt", f"{report}\n".encode())
        words = {"version": tb.__version__, "estimator": options.estimator, **plain(report)}
        write_json(options.report / "report.json", words)
    return 0 if report.passed else 1
