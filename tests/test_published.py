"""What is said of published codes: the numbers of the pages, made again at a small scale."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from published import measure
from published.measure import SURE, Number, agree

import tabular_bilevel as tb

PAGES = Path(__file__).parents[1] / "validation" / "book" / "published"

# Their scale is their length, so that nothing compares.
OF_A_LENGTH = "ascents"


@pytest.fixture(scope="module")
def small():
    return {
        key: Number(*number) for key, number in measure.measured(measure.SCALES["small"]).items()
    }


@pytest.mark.slow
def test_small_numbers_come_out_as_stored(small):
    stored = measure.stored("small")
    assert small.keys() == stored.keys()
    assert [key for key in small if not agree(small[key], stored[key])] == []


@pytest.mark.slow
def test_the_pages_numbers_agree_with_the_small_ones(small):
    stored = measure.stored("full")
    assert small.keys() == stored.keys()
    compared = [key for key in small if not key.startswith(OF_A_LENGTH)]
    assert len(compared) > 100
    assert [key for key in compared if not agree(small[key], stored[key])] == []


def test_numbers_that_differ_do_not_agree():
    assert agree(Number(1.0), Number(1.0 + 1e-6))
    assert not agree(Number(1.0), Number(1.001))
    assert agree(Number(1.0, 0.1), Number(1.4, 0.0))
    assert not agree(Number(1.0, 0.1), Number(1.6, 0.0))


@pytest.mark.parametrize(
    ("function", "kept"),
    [
        ("show", measure.stored),
        ("show_paper", lambda: measure.stored("small", measure.OF_THE_PAPER)),
    ],
)
def test_every_table_is_on_a_page_and_every_page_shows_what_there_is(function, kept):
    shown = [
        name
        for page in PAGES.glob("*.md")
        for name in re.findall(
            rf'^{function}\("(.*?)"', page.read_text(encoding="utf-8"), re.MULTILINE
        )
    ]
    assert set(shown) == {key.split(" | ")[0] for key in kept()}


def test_a_table_is_printed_with_intervals(monkeypatch, tmp_path, capsys):
    numbers = {"a | x | one": [1.0, 0.5], "a | y | one": [2.0, 0.0], "b | x | one": [9.0, 0.0]}
    monkeypatch.setattr(measure, "STORED", tmp_path / "numbers.json")
    measure.STORED.write_text(json.dumps({"full": numbers}), encoding="utf-8")
    measure.show("a", "{:.1f}")
    # 2.576 standard errors are 99 % of a normal law
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["one"], ["x", "1.0", "+-", "1.3"], ["y", "2.0"],
    ]  # fmt: skip


def test_of_the_papers_experiments_a_table_has_standard_errors_and_dashes(
    monkeypatch, tmp_path, capsys
):
    numbers = {"a | x | one": [1.0, 0.5], "a | y | two": [2.0, 0.0]}
    monkeypatch.setattr(measure, "OF_THE_PAPER", tmp_path / "numbers.json")
    measure.OF_THE_PAPER.write_text(json.dumps({"small": numbers}), encoding="utf-8")
    measure.show_paper("a", "{:.1f}")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["one", "two"], ["x", "1.0", "+-", "0.5", "-"], ["y", "-", "2.0"]]


def test_a_scale_is_written_beside_the_other(monkeypatch, tmp_path):
    monkeypatch.setattr(measure, "STORED", tmp_path / "numbers.json")
    monkeypatch.setattr(measure, "cells", lambda scale: [(("t", "r", "c"), lambda: Number(3.0))])
    words = ["--out", str(tmp_path / "kept")]
    assert measure.main([*words, "--scale", "full"]) == 0
    monkeypatch.setattr(measure, "cells", lambda scale: [(("t", "r", "c"), lambda: Number(4.0))])
    assert measure.main(["--scale", "small"]) == 0
    assert measure.stored("full") == {"t | r | c": (3.0, 0.0)}
    assert measure.stored("small") == {"t | r | c": (4.0, 0.0)}
    assert measure.main([*words, "--scale", "full"]) == 0  # what is kept is not measured again
    assert measure.stored("full") == {"t | r | c": (3.0, 0.0)}


def test_with_nothing_wrong_the_toys_sums_are_the_gradient():
    # the road of the variants, with no cause and no cut, is that of the package's exact gradient
    whole = measure.Together((), cut_short=False, steps=None)
    for mix in (0.55, 0.834):
        theta = measure.mixing(mix)
        exact = tb.hypergradient(measure.toy(), theta).gradient
        np.testing.assert_allclose(whole.target(measure.toy(), theta), exact, atol=1e-6)
        wrong = measure.Together().target(measure.toy(), theta)
        assert np.abs(wrong - exact).max() > 0.1 * np.abs(exact).max()


def test_estimates_of_the_toys_variant_have_its_target():
    theta = measure.mixing(0.8)
    variant = measure.Together(count=30, steps=40)
    rows = variant.rows(measure.toy(), theta, 200)
    np.testing.assert_array_equal(rows[0], variant(measure.toy(), theta, rng=0))
    wanted = variant.target(measure.toy(), theta)
    error = np.std(rows, axis=0, ddof=1) / np.sqrt(len(rows))
    gap = np.abs(np.mean(rows, axis=0) - wanted)
    assert (gap <= SURE * error + 1e-12).all()
    # a control: the exact gradient is seen to be another
    exact = tb.hypergradient(measure.toy(), theta).gradient
    assert (np.abs(np.mean(rows, axis=0) - exact)[2:4] > SURE * error[2:4]).all()
