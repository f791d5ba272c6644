"""Ascents side by side, with the values that are known."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from pages import Page, require_fit

from tabular_bilevel.ascent.curves import load_trained
from tabular_bilevel.cli import main
from tabular_bilevel.pages import runs as module
from tabular_bilevel.pages.document import Source
from tabular_bilevel.pages.runs import Comparison

HEAD = "method,seed,iteration,objective\n"


def save(folder, curves, **words):
    """Write what train does; curves by seed, of J at iterations 0, 1, ..."""
    folder.mkdir(parents=True)
    rows = [f"bchg,{s},{k},{y!r}\n" for s, curve in curves.items() for k, y in enumerate(curve)]
    (folder / "curves.csv").write_text(HEAD + "".join(rows))
    ends = {str(seed): curve[-1] for seed, curve in curves.items()}
    summary = {"problem": "four-rooms", "method": "bchg", "batch": 100, "steps": 2, **words}
    (folder / "summary.json").write_text(json.dumps({**summary, "final_objectives": ends}))


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a <b>", {0: [-0.7, 0.1, 0.4], 1: [-0.7, 0.3, 0.6]}, rate=0.1)
    save(tmp_path / "c", {0: [-0.7, 0.0, 0.1]}, rate=0.5, batch=200)
    return ["a <b>", "c"]


def test_runs_are_printed_and_drawn_with_what_is_known(runs, tmp_path, capsys):
    assert main(["compare", *runs, "--report", "out"]) == 0
    first, second, known, told = capsys.readouterr().out.splitlines()
    assert re.split(r"\s{2,}", first) == ["a <b>", "J = 0.5 ± 0.1, published 0.667"]
    assert re.split(r"\s{2,}", second) == ["c", "J = 0.1"]
    assert known == "best known: J = 0.7682"
    assert told.endswith("/out/index.html")
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    read = Page(page)
    assert "The highest end: a <b>, J = 0.5 ± 0.1. The best known is 0.7682." in read.text
    assert "2 seeds, 0.4 to 0.6; batch 100; rate 0.1" in read.text
    assert "1 seed; batch 200; rate 0.5" in read.text
    (picture,) = read.pictures
    assert "a <b> ends at 0.5 ± 0.1; c ends at 0.1" in picture
    assert "arXiv:2603.14867" in read.text
    # one mark and its legend: more data an iteration has no published end
    assert page.count("<polygon") == 3
    assert page.count("<polyline") == 2
    assert "compare 'a &lt;b&gt;' c --report out" in page


def test_what_nobody_has_published_has_no_column(runs, monkeypatch, tmp_path):
    def page():
        assert main(["compare", *runs, "--report", "out"]) == 0
        return (tmp_path / "out" / "index.html").read_text(encoding="utf-8")

    column = '<th scope="col" class="number">published</th>'
    assert column in page()
    monkeypatch.setattr(module, "published_end", lambda settings: None)
    assert column not in page()


def test_curves_and_settings_are_read(runs):
    made = load_trained(Path(runs[0]))
    np.testing.assert_array_equal(made.objective, [[-0.7, 0.1, 0.4], [-0.7, 0.3, 0.6]])
    assert made.settings == {
        "problem": "four-rooms", "method": "bchg", "batch": 100, "steps": 2, "rate": 0.1,
    }  # fmt: skip


@pytest.mark.parametrize(("key", "value"), [("problem", "two-state"), ("horizon", 9)])
def test_other_problems_and_horizons_are_not_compared(key, value, runs, tmp_path, capsys):
    save(tmp_path / "other", {0: [0.0, 0.0, 0.0]}, **{key: value})
    assert main(["compare", "c", "other"]) == 2
    error = capsys.readouterr().err
    assert f"the runs differ in their {key}, so that J does: " in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("file", "text", "complaint"),
    [
        ("summary.json", "[]", "is no summary of train's"),
        ("summary.json", '{"problem": "a"}', "is no summary of train's"),
        ("summary.json", "{", "is no sound JSON"),
        ("summary.json", '{"problem": "a", "steps": 1, "final_objectives": 3}', "no table of"),
        ("summary.json", '{"problem": "a", "steps": 1, "final_objectives": {}}', "no table of"),
        ("summary.json", '{"problem": "a", "steps": 1, "final_objectives": {"1": 1}}', "others"),
        ("curves.csv", "", "is no table of train's"),
        ("curves.csv", "a,b\n1,2\n", "it begins with ['a', 'b']"),
        ("curves.csv", HEAD, "is no table of train's"),
        ("curves.csv", HEAD + "bchg,0,0\n", "is no table of train's"),
        ("curves.csv", HEAD + "bchg,0,x,1.0\n", "is no table of train's"),
        ("curves.csv", HEAD + "bchg,0,0,nan\n", "is no table of train's"),
        ("curves.csv", HEAD + "bchg,0,1,1.0\nbchg,0,1,2.0\n", "its iterations do not rise"),
        ("curves.csv", HEAD + "bchg,0,-1,1.0\n", "its iterations do not rise"),
        ("curves.csv", HEAD + "bchg,0,1,1.0\nbchg,1,2,2.0\n", "its seeds differ in their iter"),
        ("curves.csv", b"\xff\xfe", "is no table of train's"),
        ("curves.csv", None, "No such file"),
        ("summary.json", None, "No such file"),
    ],
)  # fmt: skip
def test_what_train_did_not_write_is_told(file, text, complaint, runs, tmp_path, capsys):
    path = tmp_path / "c" / file
    if text is None:
        path.unlink()
    else:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert main(["compare", *runs, "--report", "out"]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out" / "index.html").exists()


def test_a_run_is_named_once_and_files_have_a_limit(runs, capsys):
    assert main(["compare", "c", "c"]) == 2
    assert "a run is named twice: c, c" in capsys.readouterr().err
    assert main(["compare", "c", "--limit", "10"]) == 2
    assert "above the limit" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["compare"])


@pytest.mark.parametrize("number", [1e308, -1e308, 5e-324, 0.0])
def test_no_number_spoils_a_page(number, tmp_path):
    save(tmp_path / "a", {0: [number, 0.0, number], 1: [0.0, number, -number]})
    save(tmp_path / "b", {0: [number]})
    with np.errstate(all="ignore"):
        found = Comparison({name: load_trained(tmp_path / name) for name in "ab"})
        Page(found.page(Source("x" * 1000, "y" * 1000)))
        assert str(found)


def test_ten_runs_have_ten_looks(tmp_path):
    for k in range(10):
        save(tmp_path / f"run {k}", {0: [0.1 * k, 0.2 * k]}, problem="two-state")
    found = Comparison({f"run {k}": load_trained(tmp_path / f"run {k}") for k in range(10)})
    page = found.page(Source())
    assert page.count("<polyline") == 10
    assert found.best is None
    assert "best known" not in page
    assert "published end" not in page


def test_what_train_writes_is_read(tmp_path, capsys):
    out = tmp_path / "curves"
    words = ["train", "two-state", "--method", "exact", "--seeds", "2", "--workers", "1"]
    assert main([*words, "--steps", "30", "--out", str(out)]) == 0
    summary = json.loads((out / "summary.json").read_text())
    made = load_trained(out)
    assert made.objective.shape == (2, 31)
    assert made.ends.tolist() == list(summary["final_objectives"].values())
    capsys.readouterr()
    assert main(["compare", str(out)]) == 0
    told = f"J = {summary['mean']:.4g} ± {summary['standard_error']:.2g}\n"
    assert told in capsys.readouterr().out


# ---------------------------------------------------------------- train's own picture


@pytest.mark.parametrize(
    ("words", "published", "best"),
    [
        (["four-rooms", "--method", "bchg"], {"bchg": 0.667}, 0.7682),
        (["four-rooms", "--method", "bchg", "--batch", "50"], None, 0.7682),
        (["four-rooms", "--method", "exact"], None, 0.7682),
        (["discrete-toy", "--method", "bchg-game", "--batch", "450", "--horizon", "150"],
         {"bchg-game": 27.1}, 27.316),
        (["discrete-toy", "--method", "naive"], None, None),
        (["two-state", "--method", "bchg"], None, None),
    ],
)  # fmt: skip
def test_train_marks_what_is_known(words, published, best, tmp_path, monkeypatch, capsys):
    drawn, place = {}, "tabular_bilevel.plots.save_curves"
    monkeypatch.setattr(place, lambda *_, **named: drawn.update(named))
    settings = ["--seeds", "1", "--steps", "2", "--workers", "1", "--out", str(tmp_path)]
    assert main(["train", *words, *settings]) == 0
    assert (drawn["published"], drawn["best"]) == (published, best)
    printed = capsys.readouterr().out
    assert ("best known: J = " in printed) == (best is not None)
    assert ("published ascents" in printed) == (published is not None)


def test_a_horizon_is_a_setting(tmp_path, capsys):
    words = ["train", "two-state", "--method", "exact", "--seeds", "1", "--steps", "2"]
    words += ["--workers", "1", "--out", str(tmp_path)]
    assert main([*words, "--horizon", "1"]) == 0
    short = json.loads((tmp_path / "summary.json").read_text())
    assert short["horizon"] == 1
    assert main(words) == 2
    assert "was saved by another run" in capsys.readouterr().err
    assert main([*words, "--horizon", "0"]) == 2
    assert "horizon is 0, not a positive whole number" in capsys.readouterr().err
    assert main([*words[:-1], str(tmp_path / "whole")]) == 0
    whole = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert "horizon" not in whole
    assert whole["mean"] != short["mean"]


# ---------------------------------------------------------------- in a browser


def test_the_page_fits_a_phone_a_desk_and_paper(runs, tmp_path, chromium):
    long = "a_long_name_of_a_folder_in_another_folder"
    save(tmp_path / long, {0: [0.1, 0.2, 0.3]}, version="1")
    assert main(["compare", *runs, long, "--report", "out"]) == 0
    require_fit(chromium, tmp_path / "out" / "index.html")
