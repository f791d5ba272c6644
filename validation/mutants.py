"""Break the code on purpose, and see whether the tests notice: mutation testing.

Run ``python validation/mutants.py`` with the package and its extra ``test`` installed (about three
minutes on two cores). Each mutant of `mutants.txt` replaces one piece of one source file, in a copy
of the project in a temporary directory, and is killed if a test of its subset fails; `--whole` runs
the whole suite on what survives its subset. Two controls come first: the unchanged copy passes all
subsets, and a mutant that changes nothing but a comment survives.

The exit status is 1 if a mutant survives or a control fails, else 0.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = "tabular_bilevel"

# Not run on mutants: it wants the code as it is.
OWN_TEST = "tests/test_mutants.py"

# Seconds after which a run of tests counts as hanging, and the mutant as one that proves nothing.
PATIENCE = 600.0

# Status of pytest if a test failed (and of Python if the code does not run), and of us if it is not
# the copy that is tested.
FAILED, ELSEWHERE = 1, 70

RUN = f"""
import pathlib, sys
import pytest, {PACKAGE}
if not pathlib.Path({PACKAGE}.__file__).is_relative_to(pathlib.Path.cwd()):
    sys.exit({ELSEWHERE})
sys.exit(pytest.main(sys.argv[1:]))
"""


@dataclass(frozen=True)
class Mutant:
    """A mistake: in the definition of `place`, `old` becomes `new`; `tests` should see it.

    A place is a function, CLASS.METHOD or a constant, in whichever file; the text stands once in
    one of that name. A test is a file, or FILE::NAME.
    """

    name: str
    place: str
    old: str
    new: str
    tests: tuple[str, ...]


# Controls of a mutant's copy: nothing is wrong here, whatever is compiled anew.
COMMENT = Mutant(
    "nothing but a comment",
    "soft_value_iteration",
    "        sweeps += 1\n",
    "        sweeps += 1  # of the states\n",
    ("tests/test_known_answers.py", "tests/test_kernels.py::test_soft_value_iteration_is_its_twin"),
)


def listed(text: str) -> Iterator[Mutant]:
    """Read mutants, in blocks of those that the same tests should see: `mutants.txt` says how."""
    for tests, *lines in map(str.splitlines, text.split("\n\n")):
        for name, wrong, right in zip(
            *(map(str.strip, lines[k::3]) for k in range(3)), strict=True
        ):
            place, _, old = wrong.replace(r"\n", "\n").partition(": ")
            new = right.replace(r"\n", "\n").removeprefix("=>").lstrip(" ")
            yield Mutant(name, place, old, new, tuple(tests.split()))


LIST = Path(__file__).with_suffix(".txt")
MUTANTS = tuple(listed(LIST.read_text(encoding="utf-8").partition("\n\n")[2]))


def definitions(body: Sequence[ast.stmt], within: str = "") -> Iterator[tuple[str, ast.stmt]]:
    """Name what a file defines, one after the other."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield within + node.name, node
            yield from definitions(node.body, f"{within}{node.name}.")
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield within + node.targets[0].id, node


def mutated(mutant: Mutant, package: Path) -> tuple[Path, str]:
    """Find a mutant's file, and make its text; raise if the mutant is stale."""
    made, found = [], 0
    for path in sorted(package.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if mutant.old not in text or mutant.place.rpartition(".")[2] not in text:
            continue
        lines = text.splitlines(keepends=True)
        for name, node in definitions(ast.parse(text).body):
            if name != mutant.place:
                continue
            start, end = node.lineno - 1, node.end_lineno
            own = "".join(lines[start:end])
            found += own.count(mutant.old)
            new = own.replace(mutant.old, mutant.new)
            made.append((path, "".join((*lines[:start], new, *lines[end:]))))
    if found != 1:
        raise ValueError(
            f"{mutant.name!r} is stale: its text stands {found} times in {mutant.place}"
        )
    return next((path, text) for path, text in made if text != path.read_text(encoding="utf-8"))


def apply(mutant: Mutant, copy: Path) -> None:
    """Break a copy, and forget what was compiled of the file."""
    path, text = mutated(mutant, copy / PACKAGE)
    path.write_text(text, encoding="utf-8")
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
        compiled.unlink()


@dataclass(frozen=True)
class Outcome:
    """How a run of tests ended: with pytest's exit status, and the first test that failed."""

    status: int
    failed: str
    seconds: float
    output: str


def run(copy: Path, tests: Sequence[str]) -> Outcome:
    """Run tests on a copy until one fails."""
    began = time.perf_counter()
    hidden = ("NUMBA_CACHE_DIR", "PYTEST_ADDOPTS")
    environment = {name: word for name, word in os.environ.items() if name not in hidden}
    environment |= {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    options = ["-x", "-q", "-rfE", "--tb=line", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(
            [sys.executable, "-c", RUN, *options, f"--ignore={OWN_TEST}", *tests],
            cwd=copy,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Outcome(-1, "", time.perf_counter() - began, f"no end after {PATIENCE:g} s")
    failed = re.search(r"^FAILED (.+?)(?: - |$)", done.stdout, re.MULTILINE)
    return Outcome(
        done.returncode,
        failed[1] if failed else "",
        time.perf_counter() - began,
        done.stdout + done.stderr,
    )


def killed(mutant: Mutant, original: Path, *, whole: bool = False) -> Outcome:
    """Run a mutant's tests on a copy of its own; raise if they end in another way than tests do."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "project"
        shutil.copytree(original, copy)  # with what is compiled
        apply(mutant, copy)
        outcome = run(copy, mutant.tests)
        if outcome.status == 0 and whole:
            outcome = run(copy, ("tests",))
    if outcome.status != 0 and not (outcome.status == FAILED and outcome.failed):
        raise RuntimeError(f"{mutant.name!r}: pytest ended with {outcome.status}\n{outcome.output}")
    return outcome


def project(folder: Path) -> Path:
    """Copy what tests need."""
    copy = folder / "project"
    ignored = shutil.ignore_patterns("__pycache__", ".hypothesis")
    for name in (PACKAGE, "tests", "validation"):
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy2(ROOT / name, copy)
    return copy


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="TEXT", help="mutants with this in their names")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--whole", action="store_true", help="the whole suite where the subset sees nothing"
    )
    options = parser.parse_args(arguments)
    mutants = [mutant for mutant in MUTANTS if (options.only or "") in mutant.name]
    if not mutants:
        parser.error(f"no mutant has {options.only!r} in its name")
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        original = project(Path(folder))
        tests = dict.fromkeys(test for mutant in (COMMENT, *mutants) for test in mutant.tests)
        files = [test for test in tests if "::" not in test]
        control = run(original, [*files, *(t for t in tests if t.partition("::")[0] not in files)])
        say("the code as it is", "passes" if control.status == 0 else "FAILS", control)
        if control.status != 0:
            print(control.output)
            return 1
        wrong = 0
        with ThreadPoolExecutor(options.workers) as pool:
            jobs = [pool.submit(killed, COMMENT, original)]
            jobs += [
                pool.submit(killed, mutant, original, whole=options.whole) for mutant in mutants
            ]
            for mutant, job in zip((COMMENT, *mutants), jobs, strict=True):
                outcome = job.result()
                verdict = outcome.failed or "survives"
                if (outcome.status == 0) != (mutant is COMMENT):
                    wrong += 1
                    verdict += "  <-- WRONG"
                say(mutant.name, verdict, outcome)
    print(f"{len(mutants)} mutants, {wrong} lines wrong, {time.perf_counter() - began:.0f} s")
    return 1 if wrong else 0


def say(name: str, verdict: str, outcome: Outcome) -> None:
    """Print a line of the table."""
    print(f"{name:<62}{outcome.seconds:5.1f} s  {verdict}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
