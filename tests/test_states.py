"""Saved ascents that were changed: refused with a reason, or gone on from soundly."""

import io
import json
import random
import zipfile
from contextlib import suppress

import numpy as np
import pytest
from sizes import sizes

import tabular_bilevel as tb
from tabular_bilevel._base.generators import generator_at, require_generator_state, state_of
from tabular_bilevel.ascent.ascent import AscentState
from tabular_bilevel.ascent.training import Run, train
from tabular_bilevel.estimators.register import METHODS, Setting

PROBLEM = tb.problems.two_state()

SETTING = Setting(tb.StepBudget(10, 5), step_size=0.3)

GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")

NASTY = [
    None, True, False, -1, 0, 1, 3, 5, 625, 2**32, 2**64, 2**128, 2**200, -9, 2.7, 1e308, "x", "",
    [], [1], [[1]], {}, {"a": 1}, [0] * 700, "PCG64", "Generator", "RandomState",
]  # fmt: skip

NASTY_ARRAYS = [
    np.array(-9), np.array(2.7), np.array(2**60), np.array(np.nan), np.array("x"), np.zeros(0),
    np.zeros((2, 2)), np.zeros((1, 0, 3)), np.full(2, np.nan), np.full(2, np.inf),
    np.full(2, 1e308), np.array([1, 2]), np.array([True, False]), np.array([1j, 0]),
    np.float32([1.0, 2.0]),
    np.array(["a", "b"]), -np.ones(2), np.zeros(1), np.ones(3),
]  # fmt: skip


def save(path, method, kind):
    """Make two steps and save."""
    rng = np.random.Generator(getattr(np.random, kind)(3))
    rng.standard_normal(dtype=np.float32)  # half a word is left
    climb = tb.ascend(PROBLEM, [0.3, -0.2], METHODS[method](SETTING), tb.Adam(0.05), rng=rng)
    next(climb)
    next(climb).state.save(path, label="x", iterations=[0, 1], objectives=[0.5, 0.6])


def mutate_node(value, rng):
    """Change something, at any depth, of what JSON holds."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(sorted(value))
        if rng.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if rng.random() < 0.1:
            return value | {"more": rng.choice(NASTY)}
        return value | {key: mutate_node(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        k = rng.randrange(len(value))
        return [*value[:k], mutate_node(value[k], rng), *value[k + rng.randrange(2):]]  # fmt: skip
    return rng.choice(NASTY)


def mutant(raw, rng):
    """Change a saved state: its arrays, its generator's state, or its bytes."""
    kind = rng.random()
    if kind < 0.25:
        changed = bytearray(raw)
        for _ in range(rng.randrange(1, 4)):
            changed[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        return bytes(changed[: rng.randrange(len(raw))]) if rng.random() < 0.2 else bytes(changed)
    with np.load(io.BytesIO(raw)) as archive:
        tables = dict(archive)
    if kind < 0.6:
        tables["rng"] = np.array(json.dumps(mutate_node(json.loads(str(tables["rng"])), rng)))
    else:
        name = rng.choice(sorted(tables))
        how = rng.random()
        if how < 0.1:
            del tables[name]
        elif how < 0.2:
            tables[rng.choice(["more", "method.x", "optimiser.x", "more.x"])] = tables[name]
        elif how < 0.5 and tables[name].dtype.kind == "f" and tables[name].size:
            tables[name] = tables[name].copy()
            tables[name].flat[rng.randrange(tables[name].size)] = rng.choice(
                [np.nan, np.inf, -1.0, 1e308, -1e308, 5e-324, 0.5]
            )
        else:
            tables[name] = rng.choice(NASTY_ARRAYS)
    changed = io.BytesIO()
    np.savez(changed, **tables)
    return changed.getvalue()


@sizes("n_mutants", [25], [200])
@pytest.mark.parametrize("kind", GENERATORS)
@pytest.mark.parametrize("method", ["bchg", "hpgd-oracle", "exact"])
def test_a_changed_state_is_refused_or_gone_on_from(method, kind, n_mutants, tmp_path):
    path, rng = tmp_path / "state", random.Random(f"{method} {kind}")
    save(path, method, kind)
    raw, n_refused, n_sound = path.read_bytes(), 0, 0
    for _ in range(n_mutants):
        path.write_bytes(mutant(raw, rng))
        n_refused += 1
        # a sound theta of 1e308 may be one where the follower cannot be solved
        with suppress(ValueError, tb.ConvergenceError), np.errstate(all="ignore"):
            state, _ = AscentState.load(path)
            step = next(tb.resume(PROBLEM, state, METHODS[method](SETTING), tb.Adam(0.05)))
            n_refused, n_sound = n_refused - 1, n_sound + 1
            assert np.isfinite(step.next_theta).all()
            assert step.iteration == state.iteration >= 0
    assert n_refused > n_mutants / 3
    assert n_sound > 0  # some changes leave a state: another theta, another seed


@pytest.mark.parametrize("kind", GENERATORS)
def test_a_right_state_is_taken(kind, tmp_path):
    save(tmp_path / "state", "bchg", kind)
    state, more = AscentState.load(tmp_path / "state")
    assert state.iteration == 2
    assert str(more["label"]) == "x"
    rng = np.random.Generator(getattr(np.random, kind)([1, 2**70]))
    for seeded in (rng, np.random.default_rng([5, 6]).spawn(3)[2]):
        draws = generator_at(state_of(seeded)).standard_normal(5)
        np.testing.assert_array_equal(draws, seeded.standard_normal(5))


def changed_file(path, **changes):
    """Save a state with some arrays in the place of others."""
    save(path, "bchg", "MT19937")
    with np.load(path) as archive:
        tables = dict(archive)
    for name, change in changes.items():
        name = name.replace("__", ".")
        tables[name] = change(tables[name]) if callable(change) else np.asarray(change)
    with path.open("wb") as file:
        np.savez(file, **tables)


def with_rng(*place, value):
    def change(words):
        state = json.loads(str(words))
        inner = state
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = value
        return np.array(json.dumps(state))

    return change


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"iteration": -9}, "iteration is -9, not a whole number from 0 to"),
        ({"iteration": 2.7}, "iteration is no whole number"),
        ({"iteration": [1]}, "iteration is no whole number"),
        ({"iteration": True}, "iteration is no whole number"),
        ({"iteration": np.uint64(2**63)}, "iteration is 9223372036854775808, not a whole number"),
        ({"theta": [1, 2]}, "theta is no array of float64"),
        ({"theta": [[1.0]]}, r"theta has shape \(1, 1\), not that of a vector"),
        ({"theta": [0.0, np.nan]}, r"theta\[1\] is nan, not a finite number"),
        ({"rng": 3}, "rng is no string"),
        ({"rng": "{"}, "holds no state of an ascent"),
        ({"rng": "[" * 100_000}, "holds no state of an ascent: maximum recursion"),
        ({"rng": "[]"}, "rng is the state of None, not one of PCG64"),
        ({"rng": with_rng("bit_generator", value="Generator")}, "rng is the state of 'Generator'"),
        ({"rng": with_rng("state", "pos", value=625)}, r"rng.state.pos is 625, not .* 0 to 624"),
        ({"rng": with_rng("state", "pos", value=-1)}, r"rng.state.pos is -1, not"),
        ({"rng": with_rng("state", "pos", value=True)}, r"rng.state.pos is True, not"),
        ({"rng": with_rng("state", "key", value=[1])}, r"state.key is \[1\], not a list of 624"),
        ({"rng": with_rng("state", "key", 3, value=2**32)}, r"state.key\[3\] is 4294967296, not"),
        ({"rng": with_rng("state", value=3)}, "rng.state is 3, not key, pos by name"),
        ({"rng": with_rng("more", value=3)}, r"rng has \['more', 'state'\], not state"),
        ({"rng": with_rng("seed_sequence", value=0)}, "rng.seed_sequence is 0, not entropy, spawn"),
        (
            {"rng": with_rng("seed_sequence", "pool_size", value=10**12)},
            "rng.seed_sequence.pool_size is 1000000000000, not a whole number from 4 to 1024",
        ),
        ({"rng": with_rng("seed_sequence", "entropy", value=None)}, "entropy is None, not a whole"),
        ({"rng": with_rng("seed_sequence", "entropy", value=[1.5])}, r"entropy\[0\] is 1.5, not"),
        ({"method__x": ["a"]}, "method.x is no array of real numbers"),
        ({"method__x": [[1.0, np.inf]]}, r"method.x\[0, 1\] is inf, not a finite number"),
        ({"optimiser__first": [np.nan, 0.0]}, r"optimiser.first\[0\] is nan, not a finite number"),
        ({"x": 3}, "it has iteration, rng, theta, x, not iteration, theta, rng"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_state_is_named(changes, message, tmp_path):
    changed_file(tmp_path / "state", **changes)
    with pytest.raises(ValueError, match=message):
        AscentState.load(tmp_path / "state")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimiser__count": [0.5]}, "'count' is 0.5, not a number of steps"),
        ({"optimiser__count": [0.0]}, "'count' is 0.0, not a number of steps"),
        ({"optimiser__second": [-1.0, 0.0]}, "'second' has -1.0, and squares are not below 0"),
        ({"optimiser__first": [1.0]}, r"'first' has shape \(1,\), not \(2,\)"),
        ({"optimiser__more": [1.0]}, r"has \['count', 'first', 'more', 'second'\], not count"),
    ],
)
def test_what_is_wrong_with_an_optimiser_s_memory_is_named(changes, message, tmp_path):
    changed_file(tmp_path / "state", **changes)
    state, _ = AscentState.load(tmp_path / "state")
    with pytest.raises(ValueError, match=message):
        next(tb.resume(PROBLEM, state, METHODS["bchg"](SETTING), tb.Adam(0.05)))


def test_a_state_that_could_not_be_loaded_is_not_saved():
    state = AscentState.start([0.0], rng=0)
    for changes in ({"iteration": -1}, {"theta": np.array([np.nan])}, {"rng": {}},
                    {"memory": {"a": ["b"]}}):  # fmt: skip
        with pytest.raises(ValueError, match="is"):
            AscentState(**{**vars(state), **changes})
    huge = {**state.rng, "uinteger": 10**5000}
    with pytest.raises(ValueError, match=r"rng.uinteger is a number of thousands of digits, not"):
        require_generator_state(huge)


def a_run(path, **changes):
    settings = {"seed": 1, "n_iterations": 12, "every": 3, "path": path} | changes
    return Run("a", PROBLEM, np.zeros(2), METHODS["bchg"](SETTING), tb.Adam(0.05), **settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"more__iterations": []}, r"holds iterations that are no whole numbers"),
        ({"more__iterations": [0, 3, 6, 9, 99]}, "holds iterations .*, not each 3th"),
        ({"more__iterations": [0, 6, 3, 9, 12]}, "holds iterations .*, not each 3th"),
        ({"more__iterations": [0.0, 3.0, 6.0, 9.0, 12.0]}, "iterations that are no whole numbers"),
        ({"more__iterations": -9}, "holds iterations -9, not each 3th"),
        ({"more__objectives": [1.0]}, r"objectives has shape \(1,\), not \(5,\)"),
        ({"more__objectives": [0.0, 1.0, 2.0, np.nan, 4.0]}, r"objectives\[3\] is nan"),
        ({"more__objectives": ["a"] * 5}, "objectives has dtype <U1; real numbers"),
        ({"more__x": 1}, r"has \['iterations', 'label', 'objectives', 'x'\], not label"),
        ({"more__label": "\x1b[31m"}, r"saved by another run: \\x1b\[31m, not a"),
        ({"more__label": ["a"]}, r"saved by another run: \['a'\], not a"),
        ({"iteration": 13}, "holds 13 steps, and n_iterations is 12"),
        ({"iteration": 11}, "holds iterations .*, not each 3th up to 11"),
        ({"theta": [0.0]}, r"holds a theta of shape \(1,\), not \(2,\)"),
    ],
)
def test_what_is_wrong_with_a_saved_curve_is_named(changes, message, tmp_path):
    path = tmp_path / "seed.npz"
    train(a_run(path))
    with np.load(path) as archive:
        tables = dict(archive)
    tables |= {name.replace("__", "."): np.asarray(change) for name, change in changes.items()}
    np.savez(path, **tables)
    with pytest.raises(ValueError, match=rf"seed\.npz .*{message}"):
        train(a_run(path))


def test_a_saved_curve_has_a_limit(tmp_path):
    path = tmp_path / "seed.npz"
    train(a_run(path))
    with pytest.raises(ValueError, match="above the limit of 100"):
        train(a_run(path, limit=100))
    assert zipfile.is_zipfile(path)
