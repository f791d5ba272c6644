"""Whatever the machine does: bounds overlap, and proven bounds are the same floats everywhere."""

import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from stored import Stored, numbers

import tabular_bilevel as tb

flint = pytest.importorskip("flint")

try:
    from numpy._core._multiarray_umath import __cpu_dispatch__ as dispatched
    from numpy._core._multiarray_umath import __cpu_features__ as has
except ImportError:  # no part of numpy's interface
    dispatched, has = [], {}

SCRIPT = Path(__file__).with_name("stored.py")

# What disables all instructions that numpy chooses at run time, and kernels of OpenBLAS with what
# they need (their names are Intel's).
SIMPLE = " ".join(name for name in dispatched if has.get(name))
CORES = {"Prescott": ("SSE3", "X86_V2"), "Haswell": ("AVX2",), "SkylakeX": ("AVX512_SKX", "X86_V4")}

ENVIRONMENTS = {
    "one BLAS thread": {"OPENBLAS_NUM_THREADS": "1"},
    "two BLAS threads": {"OPENBLAS_NUM_THREADS": "2"},
    "one numba thread": {"NUMBA_NUM_THREADS": "1"},
    "numba for any processor": {"NUMBA_CPU_NAME": "generic"},
}
if SIMPLE:
    ENVIRONMENTS["simple numpy"] = {"NPY_DISABLE_CPU_FEATURES": SIMPLE}
for core, needed in CORES.items():
    if any(has.get(feature) for feature in needed):
        ENVIRONMENTS[f"BLAS for {core}"] = {"OPENBLAS_CORETYPE": core}


def garnet(**settings):
    return tb.problems.garnet(rng=5, **settings), np.full(6, 0.1)


@pytest.fixture(scope="module")
def problems():
    """Four rooms; a small problem; one at discount 0.9999 whose numbers float64 hardly has."""
    hard = garnet(follower_discount=0.9999, leader_discount=0.999, temperature=1e-3)
    cases = {"four rooms": (tb.problems.four_rooms(), np.zeros(105)), "garnet": garnet()}
    return {name: Stored.of(*case) for name, case in {**cases, "hard": hard}.items()}


@pytest.fixture(scope="module")
def here(problems):
    return {name: numbers(stored) for name, stored in problems.items()}


@pytest.fixture(scope="module")
def elsewhere(problems, tmp_path_factory):
    """Computes the numbers in a process with other settings."""
    folder = tmp_path_factory.mktemp("environment")
    path = folder / "problems.pickle"
    path.write_bytes(pickle.dumps(problems))

    def run(*options, **settings):
        plain = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
        cache = {"NUMBA_CACHE_DIR": str(folder)} if "NUMBA_CPU_NAME" in settings else {}
        done = subprocess.run(
            [sys.executable, str(SCRIPT), str(path), *options],
            env={**plain, **cache, **settings}, stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        return json.loads(done.stdout)

    return run


def read(spelled):
    return np.array([float.fromhex(x) for x in spelled])


def computed(found):
    """The interval that error bounds leave."""
    centre, bound = read(found["float64"]), read(found["bound"])
    return tb.Interval(np.nextafter(centre - bound, -np.inf), np.nextafter(centre + bound, np.inf))


def proven(found):
    return tb.Interval(read(found["lower"]), read(found["upper"]))


# Each in a process of its own, of which one compiles everything again.
@pytest.mark.slow
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_bounds_overlap_and_proven_ones_are_the_same(environment, here, elsewhere):
    there = elsewhere(**ENVIRONMENTS[environment])
    for problem, ours in here.items():
        for name, mine in ours.items():
            other = there[problem][name]
            assert computed(other).overlaps(computed(mine))
            assert computed(other).overlaps(proven(mine))
            assert (other["lower"], other["upper"]) == (mine["lower"], mine["upper"])


def test_a_number_off_by_ten_bounds_does_not_overlap(here):
    for ours in here.values():
        found = ours["gradient"]
        moved = read(found["float64"]) + 10.0 * read(found["bound"])
        wrong = {**found, "float64": [x.hex() for x in moved.tolist()]}
        assert not computed(wrong).overlaps(computed(found))
        assert not computed(wrong).overlaps(proven(found))


@pytest.mark.slow
def test_threads_and_processes_side_by_side_have_the_same_numbers(elsewhere):
    alone, together = elsewhere(), elsewhere("--side-by-side")
    for name, several in together.items():
        assert len(several) == 8 + 2 + 2
        assert all(one == alone[name] for one in several)


FORK = """
import os, signal, sys, threading, time
import flint
from tabular_bilevel.certify import balls

inside = threading.Event()

def prove():
    with balls.precision(300):
        inside.set()
        time.sleep(0.2)

threading.Thread(target=prove).start()
inside.wait()
child = os.fork()
if child == 0:
    signal.alarm(20)  # ends it if it waits for ever
    before = flint.ctx.prec
    with balls.precision(64):
        os._exit(0 if before == 53 else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_a_child_of_a_process_that_is_proving_something_can_prove_as_well():
    """It has neither the other thread's precision nor a lock that nobody opens."""
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_precision_is_restored_after_success_and_failure_in_any_thread():
    before = flint.ctx.prec
    problem, theta = garnet()

    def work(k):
        if k % 2:
            with pytest.raises(tb.CertificationError):
                tb.enclose(problem, theta, max_precision=60)
            return None
        return tb.enclose(problem, theta, tolerance=10.0**-k).gradient.centre

    with ThreadPoolExecutor(8) as pool:
        found = [centre for centre in pool.map(work, range(14)) if centre is not None]
    exact = tb.enclose(problem, theta, tolerance=1e-15).gradient.centre
    size = np.abs(exact).max()
    for k, centre in zip(range(0, 14, 2), found, strict=True):
        assert np.abs(centre - exact).max() <= 10.0**-k * size
    assert flint.ctx.prec == before
