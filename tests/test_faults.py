"""A disk that fills up, and kills, at every write, sync and rename: what is left is whole."""

import errno
import io
import json
import os
import subprocess
import sys
from contextlib import contextmanager, suppress
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from sizes import sizes
from small import contents

import tabular_bilevel as tb
from tabular_bilevel._base import files
from tabular_bilevel.ascent import training
from tabular_bilevel.ascent.curves import Training
from tabular_bilevel.ascent.training import Run, train
from tabular_bilevel.cli import main
from tabular_bilevel.estimators.register import METHODS, Setting
from tabular_bilevel.plots import save_curves
from tabular_bilevel.vectors import Plan, write_vectors

PLAN = Plan(families=("tied", "garnet"), count=3, max_states=5)

PROBLEM = tb.problems.two_state()

pytestmark = pytest.mark.usefixtures("state_home")


class Disk:
    """What `_files` writes with, of which the n-th write, sync or rename fails."""

    def __init__(self, n, fail):
        self.left, self.fail = n, fail

    def __getattr__(self, name):
        return getattr(os, name)

    def count(self):
        self.left -= 1
        return self.left == 0

    def fsync(self, descriptor):
        if self.count():
            self.fail()
        os.fsync(descriptor)

    def replace(self, draft, place):
        if self.count():
            self.fail()
        os.replace(draft, place)

    @contextmanager
    def open_file(self, path, mode):
        def write(raw):
            if self.count():
                file.write(raw[: len(raw) // 2])
                file.flush()
                self.fail()
            return file.write(raw)

        with open(path, mode) as file:
            yield SimpleNamespace(read=file.read, write=write, flush=file.flush, fileno=file.fileno)


class FullError(OSError):
    """What the system says."""


def full():
    raise FullError(errno.ENOSPC, "No space left on device")


def killed():
    os._exit(9)


def failing(patch, n, fail=full):
    disk = Disk(n, fail)
    patch.setattr(files, "os", disk)
    patch.setattr(files, "open", disk.open_file, raising=False)
    return disk


def at_every_operation(work):
    """Do the work with a disk that fails at its first operation, its second, and so on."""
    for n in range(1, 1000):
        with pytest.MonkeyPatch.context() as patch:
            disk = failing(patch, n)
            with suppress(FullError):
                work()
            if disk.left > 0:
                return
        yield n


def one_of(path, *contents):
    """A file is what it was or what it is to be; with None, it may be missing."""
    return (path.read_bytes() if path.exists() else None) in contents


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vectors")
    list(write_vectors(folder, PLAN))
    return contents(folder)


def a_run(path):
    method = METHODS["bchg"](Setting(tb.StepBudget(20, 10), step_size=0.3))
    return Run("a", PROBLEM, np.array([0.3, -0.2]), method, tb.Adam(0.05), 1, 6, 2, path=path)


@pytest.fixture(scope="module")
def curve(tmp_path_factory):
    path = tmp_path_factory.mktemp("curve") / "seed.npz"
    train(a_run(path))
    return path.read_bytes()


@pytest.mark.slow
def test_vectors_survive_a_full_disk(vectors, tmp_path):
    n_faults = 0
    for n in at_every_operation(lambda: list(write_vectors(tmp_path / "new", PLAN))):
        out = tmp_path / "new"
        for name, raw in contents(out).items():
            assert name == "unfinished.json" or raw == vectors[name]
            if name == "unfinished.json":
                json.loads(raw)
        assert ("manifest.json" in contents(out)) <= (contents(out).keys() >= vectors.keys())
        assert not [*out.glob(files.DRAFTS)]
        list(write_vectors(out, PLAN))
        assert contents(out) == vectors
        out.rename(tmp_path / str(n))
        n_faults = n
    assert n_faults == 6 * 4  # the plan, three vectors, README, manifest: write, sync, rename, sync


def test_a_growing_curve_survives_a_full_disk(curve, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SAVE_EVERY", 0.0)
    folder, n_faults = tmp_path / "new", 0
    folder.mkdir()
    path = folder / "seed.npz"
    for n in at_every_operation(lambda: train(a_run(path))):
        assert [file for file in folder.iterdir() if file != path] == []
        if path.exists():
            assert 1 <= tb.AscentState.load(path)[0].iteration <= 6
        train(a_run(path))
        assert path.read_bytes() == curve
        path.unlink()
        n_faults = n
    assert n_faults >= 5 * 4


def a_training(folder):
    method, words = tb.ExactGradient(), {"problem": "two"}
    return Training(PROBLEM, 2, "exact", method, tb.Adam(0.1), range(2), 4, 2, words, folder)


@pytest.mark.slow
def test_tables_summaries_and_plots_survive_a_full_disk(tmp_path):
    training_ = a_training(tmp_path)
    curves = dict(training_.curves(1))
    draw = partial(save_curves, tmp_path / "curves.png")
    labelled = {"exact": list(curves.values())}
    training_.write(curves)
    draw(labelled)
    names = ("curves.csv", "summary.json", "curves.png")
    new = {name: (tmp_path / name).read_bytes() for name in names}
    n_faults = 0

    def work():
        training_.write(curves)
        draw(labelled)

    for name in names:
        (tmp_path / name).write_bytes(b"old")
    for n in at_every_operation(work):
        for name in names:
            assert one_of(tmp_path / name, b"old", new[name])
            (tmp_path / name).write_bytes(b"old")
        assert not [*tmp_path.glob(files.DRAFTS)]
        n_faults = n
    assert n_faults == 3 * 4


def test_certificates_and_states_survive_a_full_disk(tmp_path):
    path = tmp_path / "file"
    proof = tb.enclose(PROBLEM, [0.1, 0.2])
    step = next(tb.ascend(PROBLEM, [0.0, 0.0], tb.ExactGradient(), tb.Adam(), rng=0))
    for save in (proof.save_certificate, step.state.save):
        save(path)
        new = path.read_bytes()
        for old in (b"old", None):
            n_faults = 0
            path.unlink()
            if old is not None:
                path.write_bytes(old)
            for n in at_every_operation(lambda save=save: save(path)):
                assert one_of(path, old, new)
                assert [file for file in tmp_path.iterdir() if file != path] == []
                if old is not None:
                    path.write_bytes(old)
                else:
                    path.unlink(missing_ok=True)
                n_faults = n
            assert n_faults == 4


SOUND = {
    ".npy": lambda raw: np.load(io.BytesIO(raw)).shape == (2,),
    ".txt": lambda raw: raw.endswith(b"\n"),
    ".html": lambda raw: raw.endswith(b"</html>\n"),
    ".json": lambda raw: json.loads(raw)["version"] == tb.__version__,
}


def test_a_plain_write_would_be_seen(tmp_path):
    """The control."""
    path, torn = tmp_path / "file", False

    def plain():
        with files.open(path, "wb") as file:
            file.write(b"new and long")

    for _ in at_every_operation(plain):
        torn = torn or not one_of(path, None, b"new and long")
    assert torn


@pytest.mark.slow
def test_the_command_says_that_the_disk_is_full(tmp_path, monkeypatch, capsys):
    np.save(tmp_path / "theta.npy", np.zeros(2))
    out = tmp_path / "theta-gradient.npy"
    out.write_bytes(b"old")
    estimator = tmp_path / "stranger.py"
    estimator.write_text("def wrong(problem, theta, rng):\n    return theta + rng.normal()\n")
    monkeypatch.chdir(tmp_path)
    commands = {
        ("gradient", "two-state", "--theta", "theta.npy"): [out],
        ("check", "stranger:wrong", "--problem", "two-state", "--replicates", "30", "--seed", "0",
         "--report", "."): [tmp_path / n for n in ("report.txt", "report.json", "index.html")],
    }  # fmt: skip
    for command, outputs in commands.items():
        for n in range(1, 4 * len(outputs) + 1):
            for file in outputs:
                file.write_bytes(b"old")
            with monkeypatch.context() as patch:
                failing(patch, n)
                assert main([*command]) == 2
            assert "No space left on device" in capsys.readouterr().err
            for file in outputs:
                raw = file.read_bytes()
                assert raw == b"old" or SOUND[file.suffix](raw)
            assert not [*tmp_path.glob(files.DRAFTS)]


# ---------------------------------------------------------------- kills

DRIVER = """
import sys
sys.path.insert(0, sys.argv[1])
import test_faults
from test_faults import *
n, out = int(sys.argv[3]), Path(sys.argv[4])
training.SAVE_EVERY = 0.0
enclosed = tb.enclose(PROBLEM, [0.1, 0.2])
failing(pytest.MonkeyPatch(), n, killed)
if sys.argv[2] == "vectors":
    list(write_vectors(out, PLAN))
elif sys.argv[2] == "curve":
    train(a_run(out / "seed.npz"))
else:
    enclosed.save_certificate(out / "certificate.json")
"""


def killed_at(what, n, out):
    out.mkdir(exist_ok=True)
    code = "from pathlib import Path\n" + DRIVER
    here = os.path.dirname(__file__)
    done = subprocess.run(
        [sys.executable, "-c", code, here, what, str(n), str(out)], capture_output=True, check=False
    )
    assert done.returncode == 9, done.stderr.decode()


@sizes("n", [], [1, 6, 11, 17])  # each kind of operation, on one file after another
def test_vectors_survive_a_kill(n, vectors, tmp_path):
    out = tmp_path / "out"
    killed_at("vectors", n, out)
    for name, raw in contents(out).items():
        assert name.endswith(".part") or name == "unfinished.json" or raw == vectors[name]
    list(write_vectors(out, PLAN))
    assert contents(out) == vectors


@sizes("n", [5], [10])
def test_a_growing_curve_survives_a_kill(n, curve, tmp_path):
    killed_at("curve", n, tmp_path / "out")
    path = tmp_path / "out" / "seed.npz"
    assert tb.AscentState.load(path)[0].iteration >= 1
    train(a_run(path))
    assert path.read_bytes() == curve


@pytest.mark.slow
@sizes("n", [1], [4])
def test_a_certificate_survives_a_kill(n, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    path = out / "certificate.json"
    path.write_bytes(b"old")
    killed_at("certificate", n, out)
    proof = tb.enclose(PROBLEM, [0.1, 0.2])
    new = json.dumps(proof.certificate()).encode()
    assert path.read_bytes() == (b"old" if n < 4 else new)
