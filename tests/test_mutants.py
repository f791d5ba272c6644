"""Mutants still fit the code, and the script that counts the dead tells them from the living."""

import dataclasses
from pathlib import Path

import mutants
import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tabular_bilevel"


EVERY = (mutants.COMMENT, *mutants.MUTANTS)


@pytest.mark.parametrize("mutant", EVERY, ids=lambda mutant: mutant.name)
def test_every_mutant_fits_the_code_and_its_tests_exist(mutant):
    path, text = mutants.mutated(mutant, PACKAGE)
    compile(text, str(path), "exec")
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert f"def {name}" in (ROOT / file).read_text(encoding="utf-8")


def test_mutants_have_names_of_their_own():
    assert len({mutant.name for mutant in EVERY}) == len(EVERY) >= 20


@pytest.mark.parametrize("old", ["no such text", "gradient"])
def test_a_mutant_that_does_not_fit_is_stale(old):
    stale = dataclasses.replace(DESCENT, old=old)
    with pytest.raises(ValueError, match=r"^'ascents that descend' is stale: .* stands \d+ times"):
        mutants.mutated(stale, PACKAGE)


# A quick one, and one that changes nothing.
DESCENT = next(mutant for mutant in mutants.MUTANTS if mutant.name == "ascents that descend")
HARMLESS = dataclasses.replace(
    DESCENT, name="nothing but a comment", new=f"{DESCENT.old}  # up the hill"
)


@pytest.mark.slow
def test_a_mutant_dies_and_a_comment_does_not(monkeypatch, capsys):
    monkeypatch.setattr(mutants, "COMMENT", HARMLESS)
    assert mutants.main(["--only", DESCENT.name, "--workers", "1"]) == 0
    original, comment, mutant, last = capsys.readouterr().out.splitlines()
    assert original.endswith("passes")
    assert comment.endswith("survives")
    assert "tests/test_optimisers.py::" in mutant
    assert last.startswith("1 mutants, 0 lines wrong")


@pytest.mark.slow
def test_a_survivor_is_an_error(monkeypatch, capsys):
    survivor = dataclasses.replace(HARMLESS, name="a survivor")
    monkeypatch.setattr(mutants, "COMMENT", HARMLESS)
    monkeypatch.setattr(mutants, "MUTANTS", (survivor,))
    assert mutants.main(["--workers", "1"]) == 1
    assert "survives  <-- WRONG" in capsys.readouterr().out


@pytest.mark.slow
def test_code_that_does_not_run_is_no_kill(tmp_path):
    broken = dataclasses.replace(DESCENT, name="a syntax error", new="return (")
    with pytest.raises(RuntimeError, match="'a syntax error': pytest ended with"):
        mutants.killed(broken, mutants.project(tmp_path))


def test_no_mutant_of_that_name():
    with pytest.raises(SystemExit):
        mutants.main(["--only", "no such name"])
