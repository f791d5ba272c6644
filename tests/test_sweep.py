"""Sweeps: results of the task alone, whole files, gone on with whatever happened."""

import os
import pickle
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock

import joblib
import numpy as np
import pytest
from joblib.externals.loky.process_executor import _ExecutorManagerThread as Thread
from sizes import sizes
from small import contents

import tabular_bilevel as tb
from tabular_bilevel._base import files


def draw(rng, size=3):
    return rng.normal(size=size)


def sharing():
    """Tasks that were given one generator, which each of them would change for the others."""
    rng = np.random.default_rng(0)
    return [(f"draw {k}", partial(draw, rng)) for k in range(3)]


# ---------------------------------------------------------------- results


@sizes("workers", [1], [2])
def test_a_result_depends_on_its_task_alone(workers, tmp_path):
    expected = np.random.default_rng(0).normal(size=3)
    for order in (sharing(), sharing()[::-1]):
        found = dict(tb.sweep(order, workers=workers))
        assert sorted(found) == ["draw 0", "draw 1", "draw 2"]
        for drawn in found.values():
            np.testing.assert_array_equal(drawn, expected)
    with joblib.parallel_config("threading"):
        for _, drawn in tb.sweep(sharing(), workers=workers):
            np.testing.assert_array_equal(drawn, expected)


def test_what_the_caller_has_is_not_changed():
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    list(tb.sweep([("draw", partial(draw, rng))]))
    assert rng.bit_generator.state == before


def test_a_call_that_cannot_be_copied_is_made_as_it_is_or_refused_by_name():
    lock, good = Lock(), ("good", partial(abs, -3))
    assert dict(tb.sweep([("lock", lock.acquire)])) == {"lock": True}
    assert lock.locked()
    found = {}
    with pytest.raises(ValueError, match=r"its call cannot be pickled for a worker: ") as caught:
        gather(tb.sweep([("lock", lock.acquire), good], workers=2), found)
    assert found == {"good": 3}
    assert caught.value.__notes__ == ["in the task lock"]


def test_functions_of_a_script_and_of_a_function_are_taken():
    double = 2
    tasks = [("a", lambda: double * 3), ("b", lambda: double)]
    assert dict(tb.sweep(tasks, workers=2)) == {"a": 6, "b": 2}


# The same tables, solved with as many threads of BLAS as there are, by each number of workers.
THREADS = """
import sys
from functools import partial
import numpy as np
import tabular_bilevel as tb

def solved(seed):
    rng = np.random.default_rng(seed)
    return np.linalg.solve(rng.random((400, 400)) + 400.0 * np.eye(400), rng.random(400)).tobytes()

if __name__ == "__main__":
    tasks = [(str(seed), partial(solved, seed)) for seed in range(2)]
    assert dict(tb.sweep(tasks)) == dict(tb.sweep(tasks, workers=2))
"""


@pytest.mark.slow
def test_rounding_does_not_depend_on_threads(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(THREADS, encoding="utf-8")
    several = {f"{name}_NUM_THREADS": "2" for name in ("OMP", "OPENBLAS", "MKL")}
    subprocess.run([sys.executable, script], check=True, env={**os.environ, **several})


ONE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def threads():
    return {name: os.environ.get(name) for name in ONE}


def test_a_worker_computes_with_one_thread():
    found = dict(tb.sweep([("a", threads), ("b", threads)], workers=2))
    assert found == {"a": ONE, "b": ONE}


@pytest.mark.slow
def test_a_worker_computes_with_the_threads_that_joblib_is_told():
    with joblib.parallel_config("loky", inner_max_num_threads=3):
        found = dict(tb.sweep([("a", threads), ("b", threads)], workers=2))
    assert found["a"]["OMP_NUM_THREADS"] == "3"


@pytest.mark.slow
def test_the_suite_has_the_same_reports_with_two_workers():
    wrong = tb.controls(n_trajectories=50)["through-follower term sign-flipped"]
    settings = {"suite": tb.standard_suite()[:3], "n_replicates": 40, "rng": 0}
    alone, shared = (tb.check_suite(wrong, workers=n, **settings) for n in (1, 2))
    assert list(shared.reports) == list(alone.reports) == [case.name for case in settings["suite"]]
    assert str(shared) == str(alone)
    for name, report in alone.reports.items():
        np.testing.assert_array_equal(report.mean, shared.reports[name].mean)


def test_a_bar_is_shown_if_it_is_asked_for(capsys):
    tasks = [("one", partial(abs, 1)), ("two", fail)]
    with pytest.raises(KeyError):
        list(tb.sweep(tasks, progress=True))
    shown = capsys.readouterr().err
    assert "one: " in shown
    assert "2/2" in shown
    assert "failed=1" in shown
    list(tb.sweep(tasks[:1]))
    assert capsys.readouterr().err == ""


# ---------------------------------------------------------------- errors


def fail(kind=KeyError):
    raise kind("on purpose")


def gather(results, found):
    for name, made in results:
        found[name] = made


class PeculiarError(Exception):
    """One that pickle cannot make again."""

    def __init__(self, what, number):
        super().__init__(f"{what} {number}")
        self.add_note("noted")


def peculiar():
    raise PeculiarError("it is", 7)


@sizes("workers", [1], [2])
def test_a_task_that_fails_is_named_and_does_not_end_the_others(workers, tmp_path):
    tasks = [("good", partial(abs, -1)), ("bad", fail)]
    tasks += [("worse", partial(fail, ValueError)), ("better", partial(abs, -2))]
    found = {}
    with pytest.raises(KeyError, match="on purpose") as caught:
        gather(tb.sweep(tasks, folder=tmp_path, workers=workers), found)
    assert found == {"good": 1, "better": 2}
    assert caught.value.__notes__ == ["in the task bad", "1 more failed: worse"]
    assert sorted(contents(tmp_path)) == ["better.pickle", "good.pickle"]


def test_an_error_of_all_is_told_once():
    with pytest.raises(KeyError) as caught:
        list(tb.sweep([(name, fail) for name in "abc"]))
    assert caught.value.__notes__ == ["in each of 3 tasks"]


def test_an_error_of_a_worker_says_where_it_was_and_may_be_of_any_kind():
    with pytest.raises(RuntimeError, match=r"^PeculiarError: it is 7") as caught:
        list(tb.sweep([("odd", peculiar), ("good", partial(abs, 1))], workers=2))
    assert caught.value.__notes__ == ["noted", "in the task odd"]
    assert "in peculiar" in str(caught.value.__cause__)


def test_a_result_that_cannot_be_copied_is_refused_by_name(tmp_path):
    with pytest.raises(TypeError, match="cannot pickle") as caught:
        list(tb.sweep([("lock", Lock)], folder=tmp_path))
    assert caught.value.__notes__ == ["in the task lock"]
    assert contents(tmp_path) == {}


def test_a_task_that_exits_ends_its_worker_not_the_sweep():
    found = {}
    with pytest.raises(RuntimeError, match="SystemExit: 0") as caught:
        gather(tb.sweep([("exit", partial(sys.exit, 0)), ("a", dict)], workers=2), found)
    assert found == {"a": {}}
    assert caught.value.__notes__ == ["in the task exit"]
    with pytest.raises(SystemExit):  # of this process, as from a handler of a signal
        list(tb.sweep([("exit", partial(sys.exit, 0))]))


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_an_error_and_not_waited_for():
    tasks = [("dies", die), ("a", partial(time.sleep, 60)), ("b", dict)]
    with pytest.raises(ChildProcessError, match=r"a worker process died.*under way: dies, a \("):
        list(tb.sweep(tasks, workers=2))


@pytest.mark.parametrize(
    ("tasks", "settings", "message"),
    [
        ({"a": abs}, {}, r"tasks\[0\] is a, not a name and a call"),
        ([("a", 3)], {}, r"tasks\[0\] is \('a', 3\), not a name and a call"),
        ([("a", abs), (0, abs)], {}, r"tasks\[1\] is \(0, <built-in function abs>\), not a name"),
        ([("a", abs), ("a", abs)], {}, "tasks has the name 'a' twice"),
        ([("a", abs)], {"workers": 0}, "workers is 0, not a positive whole number"),
        ([("a", abs), ("A", abs)], {"folder": "x"}, "tasks has 'a' and 'A', which some systems"),
        ([("../a", abs)], {"folder": "x"}, r"the name '\.\./a', which is no file's"),
        ([("", abs)], {"folder": "x"}, "the name '', which is no file's"),
        ([(201 * "a", abs)], {"folder": "x"}, "which is no file's"),
        ([("a\nb", abs)], {"folder": "x"}, r"the name 'a\\\\nb', which is no file's"),
    ],
)
def test_bad_tasks_are_refused_at_once(tasks, settings, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        tb.sweep(tasks, **settings)
    assert contents(tmp_path) == {}


# ---------------------------------------------------------------- what is kept


def noted(k, log):
    with log.open("a") as lines:
        lines.write(f"{k}\n")
    return {"k": k, "theta": np.random.default_rng(k).normal(size=50), "label": f"task {k}"}


def test_what_is_there_is_read_and_the_rest_made(tmp_path):
    out, log = tmp_path / "new" / "out", tmp_path / "log"
    tasks = [(f"task {k}", partial(noted, k, log)) for k in range(4)]
    first = tb.sweep(tasks, folder=out)
    assert [next(first)[0], next(first)[0]] == ["task 0", "task 1"]
    first.close()
    whole = contents(out)
    assert sorted(whole) == ["task 0.pickle", "task 1.pickle"]
    (out / ".1-0123456789abcdef.part").write_bytes(b"half")  # as a kill leaves it
    found = list(tb.sweep(tasks, folder=out, workers=2))
    assert [name for name, _ in found[:2]] == ["task 0", "task 1"]
    assert sorted(log.read_text().split()) == ["0", "1", "2", "3"]
    assert sorted(contents(out)) == [f"task {k}.pickle" for k in range(4)]
    list(tb.sweep(tasks, folder=tmp_path / "alone"))
    assert contents(tmp_path / "alone") == contents(out)  # whatever the number of workers
    read = pickle.loads(contents(out)["task 3.pickle"])
    np.testing.assert_array_equal(read["theta"], dict(found)["task 3"]["theta"])


@pytest.mark.parametrize("raw", [b"", b"\x80\x05half", b"cnowhere\nnothing\n."])
def test_a_damaged_result_is_refused_by_name(raw, tmp_path):
    (tmp_path / "a.pickle").write_bytes(raw)
    with pytest.raises(ValueError, match=r"a\.pickle is no result that can be read: "):
        list(tb.sweep([("a", dict)], folder=tmp_path))


def test_a_result_that_is_too_large_to_be_read_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("tabular_bilevel._base.processes.LIMIT", 100)
    with pytest.raises(ValueError, match=r"its result has 1,\d\d\d bytes, above the limit of 100"):
        list(tb.sweep([("a", partial(bytes, 1000))], folder=tmp_path))
    assert contents(tmp_path) == {}


@pytest.mark.skipif(files.fcntl is None, reason="the system knows no claims to folders")
def test_two_sweeps_do_not_share_a_folder(tmp_path):
    first = tb.sweep([("a", dict), ("b", dict)], folder=tmp_path)
    next(first)
    with pytest.raises(OSError, match=r"is being written to by another process"):
        next(tb.sweep([("c", dict)], folder=tmp_path))
    first.close()
    assert dict(tb.sweep([("c", dict)], folder=tmp_path)) == {"c": {}}


# ---------------------------------------------------------------- interrupts and kills


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="interrupts come at once here")
def test_an_interrupt_before_joblib_has_handed_the_tasks_over_is_that_alone(monkeypatch):
    hand_over, seen = Thread.add_call_item_to_queue, []

    def late(thread):
        if thread.executor_flags.shutdown:
            hand_over(thread)  # misses the tasks, which were given up
        elif not seen:
            seen.append(os.kill(os.getpid(), signal.SIGINT))

    monkeypatch.setattr(Thread, "add_call_item_to_queue", late)
    with pytest.raises(KeyboardInterrupt):
        next(tb.sweep(sharing(), workers=2))


@dataclass
class Slow:
    """A task of a few milliseconds, with a result that takes some writing."""

    k: int

    def __call__(self):
        time.sleep(0.03)
        return {"theta": np.random.default_rng(self.k).normal(size=30_000), "of": self}


DRIVER = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import tabular_bilevel as tb
from test_sweep import slow_tasks

if __name__ == "__main__":
    list(tb.sweep(slow_tasks(), folder=sys.argv[2], workers=2))
"""


def slow_tasks():
    return [(f"task {k}", Slow(k)) for k in range(60)]


@sizes(
    "numbers",
    [],
    [[signal.SIGKILL], 3 * [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT]],
)
def test_a_sweep_that_is_killed_again_and_again_ends_with_the_same_bytes(numbers, tmp_path):
    cut, whole, rng = tmp_path / "cut", tmp_path / "whole", random.Random(0)
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER, encoding="utf-8")
    command = [sys.executable, str(driver), str(Path(__file__).parent), str(cut)]
    for number in numbers:
        before = set(cut.glob("*.pickle"))
        with subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True) as process:
            while set(cut.glob("*.pickle")) == before and process.poll() is None:
                time.sleep(0.001)
            time.sleep(rng.uniform(0.0, 0.2))
            os.killpg(process.pid, number)
            process.communicate(timeout=60)
        assert before <= set(cut.glob("*.pickle"))  # nothing is lost
    assert subprocess.run(command, check=False).returncode == 0
    assert len(list(tb.sweep(slow_tasks(), folder=whole))) == 60
    assert contents(cut) == contents(whole)


def test_when_a_sweep_is_killed_nothing_is_said_of_what_its_workers_leave(tmp_path):
    driver, out = tmp_path / "driver.py", tmp_path / "out"
    driver.write_text(DRIVER, encoding="utf-8")
    command = [sys.executable, str(driver), str(Path(__file__).parent), str(out)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        while len(set(out.glob("*.pickle"))) < 2:
            time.sleep(0.001)
        process.kill()
        _, said = process.communicate(timeout=60)  # by those that clear up after it
    assert said == b""


# ---------------------------------------------------------------- a cluster


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip(
        "distributed", reason="needs Dask: pip install 'tabular-bilevel[cluster]'"
    )
    settings = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with (
        distributed.dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        distributed.LocalCluster(**settings) as cluster,
        distributed.Client(cluster),
    ):
        yield


@pytest.fixture
def on_cluster(cluster):
    with joblib.parallel_config(backend="dask"):
        yield


@pytest.mark.slow
def test_a_dask_cluster_has_the_same_bytes(on_cluster, tmp_path):
    tasks = [(f"task {k}", partial(noted, k, tmp_path / "log")) for k in range(6)]
    first = tb.sweep(tasks, folder=tmp_path / "dask")
    next(first)
    first.close()
    assert len(dict(tb.sweep(tasks, folder=tmp_path / "dask"))) == 6
    with joblib.parallel_config("loky"):
        list(tb.sweep(tasks, folder=tmp_path / "alone"))
    assert contents(tmp_path / "alone") == contents(tmp_path / "dask")


def test_a_dask_worker_computes_with_one_thread(on_cluster):
    assert dict(tb.sweep([("threads", threads)])) == {"threads": ONE}


@pytest.mark.slow
def test_a_task_that_fails_on_dask_is_named(on_cluster):
    with pytest.raises(KeyError, match="on purpose") as caught:
        list(tb.sweep([("bad", fail), ("good", dict)]))
    assert caught.value.__notes__ == ["in the task bad"]


@pytest.mark.slow
def test_a_task_that_kills_its_worker_of_dask_is_not_waited_for(on_cluster):
    with pytest.raises(ChildProcessError, match=r"under way: dies \(Attempted to run"):
        list(tb.sweep([("dies", die)]))
    assert dict(tb.sweep([("good", dict)])) == {"good": {}}
