"""Run the tests that are too slow for every change, and say how long they took.

Run ``python validation/slow.py`` with the package and its extra ``test`` installed (on two idle
cores within a quarter of an hour): what is marked ``slow``, and everything that hypothesis draws
examples for, with many more of them. Arguments go to pytest. The exit status is pytest's.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]

OPTIONS = (
    "-m", "slow or hypothesis", "--hypothesis-profile=thorough",
    "-n", "2", "--dist", "worksteal", "-q",
)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    began = time.perf_counter()
    more = sys.argv[1:] if arguments is None else arguments
    command = [sys.executable, "-m", "pytest", *OPTIONS, *more]
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    print(f"{(time.perf_counter() - began) / 60.0:.1f} minutes")
    return status


if __name__ == "__main__":
    sys.exit(main())
