"""The cache of compiled code may be damaged, stale, full or nowhere: results are the same."""

import json
import os
import subprocess
import sys

import pytest
from sizes import sizes

KERNELS = """
from {module} import {decorator} as kernel

@kernel
def twice(x):
    return 2.0 * x

@kernel
def total(array):
    s = 0.0
    for x in array.ravel():
        s += twice(x)
    return s + {constant}
"""

# Loads the kernels anew as often as it is told to, each time from a cache that was damaged in
# another way, and prints what they return.
DRIVER = """
import importlib.util, json, os, pickle, random, shutil, sys
from pathlib import Path
import numpy as np
from numba.core import caching

HERE, CACHE, EVERY = Path(sys.argv[1]), Path(sys.argv[1], "cache"), int(sys.argv[2])
rng = random.Random(0)

def results(name="kernels"):
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = [module.total(np.arange(3.0)), module.total(np.ones((2, 2))), module.twice(3)]
    hits = sum(module.total.stats.cache_hits.values()) if CACHE.exists() else 0
    return found, hits

def files():
    return sorted(path for path in CACHE.rglob("kernels.*") if path.is_file())

def say(name, outcome):
    print(json.dumps([name, *outcome]), flush=True)

say("compiled", results())
say("cached", results())
shutil.copytree(CACHE, HERE / "whole")

def restore():
    shutil.rmtree(CACHE)
    shutil.copytree(HERE / "whole", CACHE)

def flip(path):
    raw = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 1, 1, 20])):
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    path.write_bytes(raw)

def directory(path):
    path.unlink()
    path.mkdir()

def another(path):
    others = [file for file in files() if file.suffix == path.suffix and file != path]
    path.write_bytes(rng.choice(others).read_bytes())

def old_version(path):
    raw = path.read_bytes()
    path.write_bytes(pickle.dumps("0.0.1") + raw)

DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "cut by a byte": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "nonsense": lambda path: path.write_bytes(b"nonsense"),
    "missing": lambda path: path.unlink(),
    "a folder": directory,
    "another pickle": lambda path: path.write_bytes(pickle.dumps((1, {}))),
    "another's": another,
    "another version's": old_version,
    **{f"flipped {k}": flip for k in range(6)},
}
pairs = [(name, k) for name in DAMAGES for k in range(len(files()))]
for name, k in pairs[::EVERY]:
    restore()
    DAMAGES[name](files()[k])
    say(name, results())

restore()
for path in files():
    path.write_bytes(b"")
results()
say("mended", results())

# a full disk while the index, or the code, is written
real = caching.IndexDataCacheFile._open_for_write
for n in range(1, 7, 1 + EVERY // 10):
    shutil.rmtree(CACHE)
    left = n

    def failing(self, path):
        global left
        left -= 1
        if left == 0:
            raise OSError(28, "No space left on device")
        return real(self, path)

    caching.IndexDataCacheFile._open_for_write = failing
    say("full", results())
    caching.IndexDataCacheFile._open_for_write = real
    say("after full", results())

# code of an older source, which a full disk left under a newer index
source = HERE / "kernels.py"
source.write_text(source.read_text().replace("+ 0.0", "+ 5.0"))
old = {path: path.read_bytes() for path in files() if path.suffix == ".nbc"}
results()
for path, raw in old.items():
    path.write_bytes(raw)
found, _ = results()
say("another source", [[x - 5.0 if k < 2 else x for k, x in enumerate(found)], 0])
"""


def run(folder, code, *arguments, **environment):
    settings = {"NUMBA_CACHE_DIR": str(folder / "cache"), **environment}
    return subprocess.run(
        [sys.executable, "-c", code, str(folder), *arguments], capture_output=True, text=True,
        check=False, env={**os.environ, **settings},
    )  # fmt: skip


def write_kernels(folder, module="tabular_bilevel._base.jit", decorator="kernel", name="kernels"):
    text = KERNELS.format(module=module, decorator=decorator, constant="0.0")
    (folder / f"{name}.py").write_text(text)


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 29])
def test_whatever_is_wrong_with_the_cache_the_results_are_the_same(every, tmp_path):
    write_kernels(tmp_path)
    done = run(tmp_path, DRIVER, str(every))
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) > 7 + 80 // every
    for name, found, _ in lines:
        assert found == [6.0, 8.0, 6.0], name
    hits = {name: count for name, _, count in lines}
    assert (hits["compiled"], hits["cached"], hits["mended"]) == (0, 2, 2)


PLAIN = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import plain
plain.total(np.arange(3.0))
"""


@pytest.mark.slow
def test_numba_s_own_cache_does_not_survive_it(tmp_path):
    """The control; when numba mends it, less will do here."""
    (tmp_path / "cached.py").write_text("import numba\nkernel = numba.njit(cache=True)\n")
    write_kernels(tmp_path, module="cached", name="plain")
    assert run(tmp_path, PLAIN).returncode == 0
    for path in (tmp_path / "cache").rglob("plain.*.nbi"):
        path.write_bytes(b"")
    assert run(tmp_path, PLAIN).returncode != 0


@sizes("disabled", ["0"], ["1"])
def test_without_any_place_for_a_cache_code_is_compiled(disabled, tmp_path):
    write_kernels(tmp_path, name="plain")
    (tmp_path / "__pycache__").write_bytes(b"")
    nowhere = dict.fromkeys(("NUMBA_CACHE_DIR", "HOME", "XDG_CACHE_HOME"), "/dev/null/x")
    code = PLAIN + "print(plain.total(np.arange(3.0)))"
    done = run(tmp_path, code, **nowhere, NUMBA_DISABLE_JIT=disabled)
    assert (done.returncode, done.stdout) == (0, "6.0\n"), done.stderr
