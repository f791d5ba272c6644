"""``verify``: the package checks itself."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tabular_bilevel as tb
from tabular_bilevel._base.files import write_json
from tabular_bilevel.cli._common import (
    add_report,
    plain,
    progress,
    repeated,
    require_files,
    require_report,
    say,
    write_page,
)

if TYPE_CHECKING:
    from tabular_bilevel.checks.verify import Check


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the checks here, too")
    add_report(parser)


def run(options: argparse.Namespace) -> int:
    """Run the checks and print them; 1 if one failed."""
    from tabular_bilevel.checks.verify import SEED, stages, verify_cases

    start = time.perf_counter()
    require_files(options)
    require_report(options)
    checks: list[Check] = []
    with progress(stages(verify_cases())) as plan:
        for stage in plan:
            plan.set_description(stage.name)
            for check in stage.run():
                checks.append(check)
                say(check, plan.write)
    failed = [check for check in checks if not check.passed]
    say(
        f"{len(checks) - len(failed)} of {len(checks)} checks ok, "
        f"{time.perf_counter() - start:.1f} s"
    )
    for check in failed:
        say(f"failed: {check.problem}, {check.name}")
    if options.json is not None:
        report = {
            "version": tb.__version__,
            "passed": not failed,
            "checks": [_short(check) for check in checks],
        }
        write_json(options.json, report)
    if options.report is not None:
        from tabular_bilevel.pages.document import Source
        from tabular_bilevel.pages.reports import page_of_verification

        source = Source("tabular-bilevel checks itself", repeated(options), f"seed {SEED}")
        write_page(options, page_of_verification(checks, source))
    return 1 if failed else 0


def _short(check: Check) -> dict[str, Any]:
    """Write what is printed of a check."""
    written = plain(check)
    del written["report"]
    return dict(written)
