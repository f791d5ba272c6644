"""The command line: ``tabular-bilevel verify | check | problems | gradient | train | vectors``."""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import math
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn, Self

import numpy as np

import tabular_bilevel as tb
from tabular_bilevel._base.arguments import as_positive, positive_integer
from tabular_bilevel._base.files import (
    LIMIT,
    brief,
    read_array,
    require_writable,
    shown,
    write_file,
)
from tabular_bilevel._base.processes import handling
from tabular_bilevel.ascent.training import METHODS, Setting

__all__ = ["main"]

VERIFY_VECTORS = ["vectors", "verify"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Without the program's name; the process's own by default.

    Returns
    -------
    int
        Exit status: 0 if all is well, 1 if a check failed, 2 for unusable input.
    """
    parser = _parser()
    options = parser.parse_args(_joined(sys.argv[1:] if arguments is None else arguments))
    try:
        command: Callable[[argparse.Namespace], int] = options.command
        with handling(signal.SIGTERM, signal.default_int_handler):  # as an interrupt
            return command(options)
    except (
        ValueError, OSError, MemoryError, tb.ConvergenceError, tb.CertificationError,
    ) as error:  # fmt: skip
        what = "there is not enough memory" if isinstance(error, MemoryError) else str(error)
        words = ", ".join([what, *getattr(error, "__notes__", ())])
        print(f"tabular-bilevel: {shown(words)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("tabular-bilevel: interrupted", file=sys.stderr)
        return 130


def _joined(arguments: Sequence[str]) -> list[str]:
    """Make one word of a command of two: argparse has none that takes a folder or a command."""
    first, rest = arguments[:2], arguments[2:]
    return [" ".join(first), *rest] if list(first) == VERIFY_VECTORS else list(arguments)


def _say(line: object, write: Callable[[str], Any] = print) -> None:
    """Print a line, or some, with escapes shown: names and messages may be a stranger's.

    If whoever read our lines has seen enough, the work goes on in silence.
    """
    try:
        write("\n".join(map(shown, str(line).split("\n"))))
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Parser(argparse.ArgumentParser):
    """One that shows escapes in what it repeats: the shell may have put a file's name there."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and exit."""
        super().error(shown(message))


def _parser() -> argparse.ArgumentParser:
    from tabular_bilevel.vectors import FAMILIES
    from tabular_bilevel.vectors.verifying import MEMORY, SAMPLE

    parser = _Parser(
        prog="tabular-bilevel", description="Ground truth for bilevel reinforcement learning."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {tb.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    verify = commands.add_parser(
        "verify", help="check exact and sampled gradients on four problems against each other"
    )
    verify.add_argument("--json", type=Path, metavar="FILE", help="write the checks here, too")
    verify.set_defaults(command=_verify)

    check = commands.add_parser(
        "check", help="check an estimator of yours, and say what is wrong with it"
    )
    check.add_argument(
        "estimator",
        metavar="MODULE:NAME",
        help="a function (view, batch), (view, rng) or (problem, theta, rng), or an estimator",
    )
    where = check.add_mutually_exclusive_group()
    where.add_argument("--suite", choices=("standard",), help="a suite of problems (standard)")
    _add_problem(where, "--problem")
    check.add_argument(
        "--theta",
        type=Path,
        metavar="FILE.npy",
        help="with --problem: the leader's parameter; by default small random numbers",
    )
    check.add_argument(
        "--enumerate",
        action="store_true",
        help="with --problem: go through all trajectories, if they are finite in number",
    )
    check.add_argument("--replicates", type=int, default=400, help="calls at most (400)")
    check.add_argument(
        "--visible-bias",
        type=float,
        default=0.05,
        help="stop when a bias this large, relative to the gradient, would be seen (0.05)",
    )
    check.add_argument(
        "--false-alarm-rate",
        type=float,
        default=1e-3,
        help="how often a right estimator may fail, on all problems together (0.001)",
    )
    check.add_argument("--seed", type=int, help="of the random numbers; fresh by default")
    check.add_argument(
        "--report", type=Path, metavar="DIR", help="write report.txt and report.json there"
    )
    _add_limit(check, "bytes that FILE.npy may have")
    check.set_defaults(command=_check)

    listing = commands.add_parser("problems", help="list the problems there are")
    listing.set_defaults(command=_problems)

    gradient = commands.add_parser("gradient", help="compute an exact hypergradient")
    _add_problem(gradient)
    gradient.add_argument(
        "--theta", type=Path, required=True, metavar="FILE.npy", help="the leader's parameter"
    )
    gradient.add_argument("--horizon", type=int, help="count this many of the leader's steps only")
    gradient.add_argument(
        "--out",
        type=Path,
        metavar="FILE.npy",
        help="where to write the gradient; by default beside theta, as FILE-gradient.npy",
    )
    _add_limit(gradient, "bytes that theta's file may have")
    gradient.set_defaults(command=_gradient)

    train = commands.add_parser(
        "train", help="climb a leader's objective with a method's gradients, from several starts"
    )
    _add_problem(train)
    train.add_argument("--method", required=True, help="one of: " + ", ".join(METHODS))
    train.add_argument("--seeds", type=int, default=10, help="ascents to make (10)")
    train.add_argument(
        "--steps",
        type=int,
        default=10_000,
        help="iterations of each (10,000); what was saved with fewer is gone on with",
    )
    train.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="where to write; the table, summary and plot have the seeds of this call alone",
    )
    train.add_argument("--batch", type=int, default=100, help="steps of data an iteration (100)")
    train.add_argument("--time-limit", type=int, default=200, help="longest episode (200)")
    train.add_argument("--rate", type=float, default=0.1, help="of the ascent (0.1)")
    train.add_argument(
        "--optimiser",
        choices=("sgd", "adam"),
        default="sgd",
        help="sgd, with the gradient clipped to norm 1, or adam (sgd)",
    )
    train.add_argument(
        "--critic-step", type=float, default=0.5, help="step size of a learned critic (0.5)"
    )
    train.add_argument(
        "--every",
        type=int,
        help="iterations between two looks at J (a 200th of all, at most 50)",
    )
    train.add_argument(
        "--simulator-slip",
        type=float,
        metavar="SLIP",
        help="of the simulator of four-rooms; published is 0.33, by default the planner's 0.44",
    )
    train.add_argument("--seed", type=int, default=0, help="the first seed (0)")
    train.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (all)")
    _add_limit(train, "bytes that a saved ascent may have")
    train.set_defaults(command=_train)

    vectors = commands.add_parser(
        "vectors", help="write test vectors with proven answers, for other implementations"
    )
    vectors.add_argument(
        "out",
        metavar="OUT",
        help="the folder to write, or to go on with (one called verify is ./verify)",
    )
    vectors.add_argument(
        "--families",
        required=True,
        metavar="NAMES",
        help="'all', or some of the families, with commas: " + ", ".join(FAMILIES),
    )
    vectors.add_argument("--count", type=int, required=True, help="vectors of all families")
    vectors.add_argument(
        "--accuracy", choices=("enclosed",), default="enclosed", help="how answers are proven"
    )
    vectors.add_argument("--max-states", type=int, default=30, help="states at most (30)")
    vectors.add_argument("--seed", type=int, default=0, help="of the random numbers (0)")
    vectors.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (all)")
    vectors.add_argument(
        "--json", action="store_true", help="JSON, for other languages, instead of npz"
    )
    vectors.set_defaults(command=_vectors)

    verify_vectors = commands.add_parser(
        " ".join(VERIFY_VECTORS), help="check test vectors, or an implementation on them"
    )
    verify_vectors.add_argument("folder", type=Path, metavar="DIR", help="what vectors wrote")
    verify_vectors.add_argument(
        "--with",
        dest="implementation",
        metavar="MODULE:NAME",
        help="a function of a vector that returns the gradient, or J and the gradient",
    )
    verify_vectors.add_argument(
        "--tolerance",
        type=float,
        default=1e-6,
        help="of its gradient, relative to the largest entry (1e-6); float64's noise is on top",
    )
    how_many = verify_vectors.add_mutually_exclusive_group()
    how_many.add_argument(
        "--sample",
        type=int,
        default=SAMPLE,
        help=f"vectors of each family to prove again, drawn at random ({SAMPLE})",
    )
    how_many.add_argument("--all", action="store_true", help="prove all of them again")
    verify_vectors.add_argument("--seed", type=int, help="of the sample; fresh by default")
    _add_limit(verify_vectors, "bytes of memory that a vector and its proof may take", MEMORY)
    verify_vectors.set_defaults(command=_verify_vectors)
    return parser


def _add_limit(command: argparse.ArgumentParser, what: str, default: int = LIMIT) -> None:
    command.add_argument(
        "--limit", type=int, default=default, metavar="BYTES", help=f"{what} ({default:,})"
    )


def _add_problem(command: argparse._ActionsContainer, name: str = "problem") -> None:
    command.add_argument(
        name,
        choices=sorted(tb.problems.CATALOGUE),
        type=lambda name: name.replace("_", "-"),
        metavar="PROBLEM",
        help="one of: " + ", ".join(sorted(tb.problems.CATALOGUE)),
    )


def _verify(options: argparse.Namespace) -> int:
    from tabular_bilevel.checks.verify import Check, stages, verify_cases

    start = time.perf_counter()
    if options.json is not None:
        require_writable(options.json)  # better now than after the work
    checks: list[Check] = []
    with _progress(stages(verify_cases())) as plan:
        for stage in plan:
            plan.set_description(stage.name)
            for check in stage.run():
                checks.append(check)
                _say(check, plan.write)
    failed = [check for check in checks if not check.passed]
    _say(
        f"{len(checks) - len(failed)} of {len(checks)} checks ok, "
        f"{time.perf_counter() - start:.1f} s"
    )
    for check in failed:
        _say(f"failed: {check.problem}, {check.name}")
    if options.json is not None:
        report = {
            "version": tb.__version__,
            "passed": not failed,
            "checks": [_plain(check) for check in checks],
        }
        write_file(options.json, _json(report))
    return 1 if failed else 0


def _progress(items: Iterable[Any], total: int | None = None) -> Any:
    """Wrap in a bar that lines can be written above; just the lines where tqdm is missing."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return _Lines(items)
    return tqdm(items, total=total, leave=False, dynamic_ncols=True, disable=None)


class _Lines:
    """The part of tqdm that is used here, without the bar (tqdm is in the extra `progress`)."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = items

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    def set_description(self, name: str) -> None:
        return None

    def write(self, line: str) -> None:
        print(line)


def _problems(options: argparse.Namespace) -> int:
    _say(f"{'name':<14}{'states':>7}{'actions':>9}{'parameters':>12}  what it is")
    for name, make in tb.problems.CATALOGUE.items():
        problem = make()
        model = problem.model(np.zeros(problem.n_parameters))
        summary = (make.__doc__ or "").strip().splitlines()[0]
        _say(
            f"{name:<14}{model.n_states:>7}{model.n_actions:>9}{problem.n_parameters:>12}  "
            f"{summary.removeprefix('Build ').removesuffix('.')}"
        )
    return 0


def _check(options: argparse.Namespace) -> int:
    from tabular_bilevel.checks.suite import suite_reports

    estimator = _loaded("estimator", options.estimator)
    if options.problem is None and (options.theta is not None or options.enumerate):
        raise ValueError("--theta and --enumerate need a --problem")
    if options.report is not None:
        options.report.mkdir(parents=True, exist_ok=True)  # better now than after the work
    settings = {
        "n_replicates": options.replicates,
        "visible_bias": options.visible_bias,
        "false_alarm_rate": options.false_alarm_rate,
        "rng": options.seed,
    }
    report: tb.EnumerationReport | tb.EstimatorReport | tb.SuiteReport
    if options.problem is None:
        suite, reports = tb.standard_suite(), {}
        with _progress(suite_reports(estimator, suite, **settings), len(suite)) as running:
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
            count = tb.count_trajectories(problem.model(theta))
            _say(f"{count:,} trajectories")
            report = tb.check_by_enumeration(estimator, problem, theta)
        else:
            report = tb.check_estimator(estimator, problem, theta, **settings)
    _say(report)
    if options.report is not None:
        write_file(options.report / "report.txt", f"{report}\n".encode())
        words = {"version": tb.__version__, "estimator": options.estimator, **_plain(report)}
        write_file(options.report / "report.json", _json(words))
    return 0 if report.passed else 1


def _loaded(what: str, name: str) -> Any:
    """Import somebody's code by MODULE:NAME, also from the working directory."""
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise ValueError(f"{what} is {name!r}, not MODULE:NAME")
    sys.path.insert(0, "")
    try:
        found = importlib.import_module(module)
        loaded = getattr(found, attribute)
        return loaded() if isinstance(loaded, type) else loaded
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise _failed(name, error) from error
        raise ValueError(f"there is no module {module!r} here") from error
    except (Exception, SystemExit) as error:  # somebody's code may end with anything
        if isinstance(error, AttributeError) and not hasattr(sys.modules.get(module), attribute):
            raise ValueError(f"module {module!r} has no {attribute!r}") from error
        raise _failed(name, error) from error
    finally:
        sys.path.remove("")


def _failed(name: str, error: BaseException) -> ValueError:
    return ValueError(f"{name} cannot be used: {type(error).__name__}: {brief(error)}")


def _plain(found: Any) -> Any:
    """Turn a report into what JSON can hold; what is infinite becomes None."""
    if is_dataclass(found):
        return {"passed": getattr(found, "passed", None)} | {
            f.name: _plain(getattr(found, f.name)) for f in fields(found)
        }
    if isinstance(found, Mapping):
        return {key: _plain(value) for key, value in found.items()}
    if isinstance(found, np.ndarray):
        return found.tolist()
    if isinstance(found, tuple):
        return [_plain(item) for item in found]
    if isinstance(found, Enum):
        return found.name
    if isinstance(found, float) and not math.isfinite(found):
        return None
    return found


def _json(report: Any) -> bytes:
    return (json.dumps(report, indent=1, allow_nan=False) + "\n").encode()


def _gradient(options: argparse.Namespace) -> int:
    problem = tb.problems.CATALOGUE[options.problem]()
    theta = read_array(options.theta, options.limit)
    result = tb.hypergradient(problem, theta, horizon=options.horizon)
    out = options.out or options.theta.with_name(f"{options.theta.stem}-gradient.npy")
    raw = io.BytesIO()
    np.save(raw, result.gradient)
    write_file(out, raw.getvalue())
    _say(f"J = {result.objective:.12g}")
    _say(result.accuracy)
    _say(
        f"gradient: {result.gradient.size} numbers, norm {np.linalg.norm(result.gradient):.6g}, "
        f"written to {out}"
    )
    return 0


def _train(options: argparse.Namespace) -> int:
    from tabular_bilevel.ascent.curves import Training

    n_seeds = positive_integer("seeds", options.seeds)
    workers = positive_integer("workers", options.workers)
    batch = positive_integer("batch", options.batch)
    problem, simulator = tb.problems.CATALOGUE[options.problem](), None
    if options.simulator_slip is not None:
        if options.problem != "four-rooms":
            raise ValueError(f"simulator-slip is for four-rooms, not for {options.problem}")
        simulator = tb.problems.four_rooms(slip=options.simulator_slip)
    clipped = tb.GradientAscent(options.rate, 1.0)
    every = min(max(1, options.steps // 200), 50) if options.every is None else options.every
    words = vars(options).copy()
    for name in ("command", "seeds", "seed", "steps", "workers", "out", "limit"):
        del words[name]
    training = Training(
        problem=problem,
        n_parameters=problem.n_parameters,
        method=options.method,
        setting=Setting(
            sampler=tb.Steps(batch, options.time_limit),
            step_size=options.critic_step,
            oracle=tb.Steps(5_000, options.time_limit),
            simulator=simulator,
        ),
        optimiser=clipped if options.optimiser == "sgd" else tb.Adam(options.rate),
        seeds=range(options.seed, options.seed + n_seeds),
        n_steps=options.steps,
        every=every,
        words={**words, "every": every, "version": tb.__version__},
        folder=options.out,
        limit=options.limit,
    )
    if simulator is not None and not hasattr(
        METHODS[options.method](training.setting), "interaction"
    ):
        raise ValueError(f"simulator-slip has no use: {options.method} samples nothing from it")
    curves = {}
    with _progress(training.curves(workers), total=n_seeds) as finished:
        for seed, curve in finished:
            curves[seed] = curve
            _say(f"seed {seed}: J = {curve.final():.6g} over the last iterations", finished.write)
    summary = training.write(curves)
    error = summary["standard_error"]
    spread = "" if error is None else f", standard error {error:.3g}"
    _say(f"mean of {n_seeds}: J = {summary['mean']:.6g}{spread}; written to {options.out}")
    try:
        from tabular_bilevel.plots import save_curves
    except ImportError:
        _say("no plot: it needs matplotlib, which the extra 'plot' installs")
        return 0
    title = f"{options.problem}, {n_seeds} seeds"
    save_curves(options.out / "curves.png", {options.method: list(curves.values())}, title=title)
    return 0


def _vectors(options: argparse.Namespace) -> int:
    from tabular_bilevel.vectors import FAMILIES, JSON, NPZ, Plan, write_vectors

    if options.out == VERIFY_VECTORS[1]:
        raise ValueError("OUT is 'verify': write ./verify for a folder of that name")
    names = options.families.split(",")
    plan = Plan(
        families=tuple(FAMILIES) if names == ["all"] else tuple(names),
        count=options.count,
        max_states=options.max_states,
        seed=options.seed,
        encoding=JSON if options.json else NPZ,
    )
    written = write_vectors(options.out, plan, workers=options.workers)
    with _progress(written, total=plan.count) as recipes:
        for recipe in recipes:
            recipes.set_description(recipe.family)
    _say(f"{plan.count} vectors, each answer proven, in {options.out}")
    return 0


def _verify_vectors(options: argparse.Namespace) -> int:
    from tabular_bilevel.vectors import (
        ImplementationReport,
        check_vectors,
        load_vectors,
        outcome,
    )

    implementation, tolerance = None, as_positive("tolerance", options.tolerance)
    if options.implementation is not None:
        implementation = _loaded("implementation", options.implementation)
        if not callable(implementation):
            raise ValueError(f"implementation is {implementation!r}, which cannot be called")
    seed = secrets.randbits(32) if options.seed is None else options.seed
    sample = None if options.all else options.sample
    checks = []
    checking = check_vectors(options.folder, sample=sample, rng=seed, limit=options.limit)
    with _progress(checking) as running:
        for check in running:
            checks.append(check)
            if check.trouble:
                _say(f"{shown(check.file)}: {shown(check.trouble)}", running.write)
    bad = sum(bool(check.trouble) for check in checks)
    proven = sum(check.proven_again for check in checks)
    _say(
        f"{len(checks) - bad} of {len(checks)} files right: checksums, tables, bounds, noise, and "
        f"tb.hypergradient agrees"
    )
    if sample is None:
        _say(f"{proven} of {len(checks)} proven again")
    else:
        _say(
            f"{proven} of {len(checks)} proven again: up to {sample} of each family, seed {seed}; "
            "--all proves all"
        )
    if proven == 0 and importlib.util.find_spec("flint") is None:
        _say("to prove any, python-flint is needed: pip install 'tabular-bilevel[rigor]'")
    if bad:
        return 1
    if implementation is None:
        return 0
    vectors = load_vectors(options.folder, limit=options.limit)
    with _progress(vectors, total=len(vectors)) as running:
        report = ImplementationReport(
            tuple(outcome(vector, implementation, tolerance) for vector in running)
        )
    _say(report)
    return 0 if report.passed else 1
