"""Run the core of the tests with the oldest libraries that pyproject.toml allows.

``python validation/oldest.py`` makes a virtual environment in a temporary directory, installs the
package and what the core of the tests needs, each at its floor, and runs those tests (about two
minutes, and a download of 150 MB). The exit status is pytest's. Other floors, of adapters, are
those libraries' first with the interface that is used.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]

NEEDED = ("pytest", "pytest-xdist", "hypothesis", "python-flint")

CORE = (
    "accuracy",
    "agreement",
    "bounds",
    "check_gradient",
    "enclosure",
    "environment",
    "follower",
    "hard_cases",
    "kernels",
    "known_answers",
    "linear",
    "model",
    "samplers",
    "trajectories",
)


def floors(project: dict[str, object]) -> list[str]:
    """Turn every ``name>=version`` of a pyproject.toml into ``name==version``."""
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    found = {line.replace(">=", "==") for lines in lists for line in lines if ">=" in line}
    return sorted(found)


def main() -> int:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    environment = {name: word for name, word in os.environ.items() if name != "PYTHONPATH"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        venv.create(folder / "venv", with_pip=True)
        python = str(folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python")
        constraints = folder / "floors.txt"
        constraints.write_text("\n".join(floors(project)) + "\n", encoding="utf-8")
        print(" ".join(floors(project)), flush=True)
        install = [python, "-m", "pip", "install", "--quiet", "--constraint", str(constraints)]
        subprocess.run([*install, str(ROOT), *NEEDED], env=environment, check=True)
        tests = [str(ROOT / "tests" / f"test_{part}.py") for part in CORE]
        command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
        return subprocess.run(command, cwd=folder, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
