"""Test vectors: their format, how they are written, and what they say of implementations."""

import functools
import hashlib
import importlib
import io
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from sizes import sizes
from small import ENTRY, MANIFEST, contents, each_refused, refusal

import tabular_bilevel as tb
from tabular_bilevel._base import files
from tabular_bilevel.cli import main
from tabular_bilevel.mistakes.register import MISTAKES
from tabular_bilevel.vectors import (
    FAMILIES,
    JSON,
    NOTES,
    NPZ,
    Plan,
    StoredProblem,
    check_implementation,
    check_vectors,
    load_vector,
    load_vectors,
    making,
    outcome,
    reference_gradient,
    verifying,
    write_vectors,
    writing,
)
from tabular_bilevel.vectors.making import VectorRecipe, made
from tabular_bilevel.vectors.verifying import wrong_gradients

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "validation" / "vectors"
PACKAGE = ROOT / "tabular_bilevel" / "vectors"
SCHEMA = json.loads((PACKAGE / "vectors-schema.json").read_text(encoding="utf-8"))
SMALL = Plan(count=22, max_states=20)
GARNET, CLOSED = (VectorRecipe(name, 0, 0, 20) for name in ("garnet", "closed-form"))


pytestmark = pytest.mark.usefixtures("state_home")


@pytest.fixture(scope="module")
def small(tmp_path_factory, state_home):
    folder = tmp_path_factory.mktemp("small")
    assert len(list(write_vectors(folder, SMALL))) == SMALL.count
    return folder


@pytest.fixture(scope="module")
def shipped():
    return load_vectors(SHIPPED)


@pytest.fixture(scope="module")
def moderate(shipped):
    """Those that take little time."""
    return [vector for vector in shipped if vector.initial.size <= 12]


@pytest.fixture(scope="module", autouse=True)
def known_wrong_gradients():
    """Work out what mistakes come to once a vector: most tests here ask for it."""
    with pytest.MonkeyPatch.context() as patch:
        known = functools.cache(lambda vector: list(wrong_gradients(vector)))
        patch.setattr(verifying, "wrong_gradients", known)
        yield known


@pytest.fixture(scope="module")
def wrong(moderate, known_wrong_gradients):
    """What each mistake comes to, by vector and mistake."""
    return {v.name: {m.name: g for m, g in known_wrong_gradients(v)} for v in moderate}


# ---------------------------------------------------------------- the shipped set


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--sample", "1"], []])
def test_the_shipped_set_is_right_and_small(words, capsys):
    assert main(["vectors", "verify", str(SHIPPED), *words]) == 0
    assert "91 of 91 files right" in capsys.readouterr().out
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 2_000_000


def test_it_has_every_family_and_flag(shipped):
    assert {vector.family for vector in shipped} == set(FAMILIES)
    assert {flag for vector in shipped for flag in vector.flags} == set(NOTES)
    assert max(vector.initial.size for vector in shipped) == 104


def test_the_package_is_right_on_it_but_for_noise(moderate):
    report = check_implementation(moderate, reference_gradient)
    assert report.passed
    assert str(report) == f"Vectors: all right, {len(moderate)} of {len(moderate)} answers right"


def test_formulas_have_the_answers_of_closed_forms(shipped):
    """Bandit and two loops: see the docstrings of the family."""
    seen = set()
    for vector in shipped:
        if vector.family != "closed-form":
            continue
        beta, delta = vector.temperature, vector.leader_discount
        n_states = vector.initial.size
        if n_states == 1 and vector.available.size > 1:
            seen.add("bandit")
            got, pay, factor, slope = vector.follower_reward[0], vector.leader_reward[0], 1.0, 1.0
        elif "masked-actions" in vector.flags:
            seen.add("two loops")
            gamma = vector.follower_discount
            slope = gamma / (1.0 - gamma)
            got, pay, factor = vector.follower_reward[1:, 0], vector.leader_reward[1:, 0], delta
        else:
            continue
        weights = np.exp(slope * (got - got.max()) / beta)
        policy = weights / weights.sum()
        mean = policy @ pay
        scale = factor / (1.0 - delta)
        assert vector.objective == pytest.approx(scale * mean, rel=1e-8)
        gradient = scale * slope * policy * (pay - mean) / beta
        np.testing.assert_allclose(vector.gradient, gradient, rtol=1e-8)
    assert seen == {"bandit", "two loops"}


def test_each_family_holds_what_its_name_says(shipped):
    flags = {
        "tied": "tied-actions", "masks": "masked-actions", "termination": "termination",
        "game-observed": "leader-policy", "game-simultaneous": "leader-policy",
        "discrete-toy": "leader-policy", "closed-form": "closed-form",
        "four-rooms": "termination",
    }  # fmt: skip
    for vector in shipped:
        assert flags.get(vector.family, vector.flags[0]) in vector.flags


def test_another_route_agrees_on_a_tenth_of_it(monkeypatch):
    pytest.importorskip("mpmath")
    import vectors_crosscheck as crosscheck

    monkeypatch.setattr(crosscheck, "MANY", 0)  # one direction each
    shipped = sorted(load_vectors(SHIPPED), key=lambda v: v.initial.size)
    vectors = [v for v in shipped if v.initial.size <= 8][::12]
    for family in ("undiscounted", "temperature"):
        vectors.append(next(v for v in shipped if v.family == family))
    rng = random.Random(0)
    with crosscheck.mpmath.workdps(crosscheck.DIGITS):
        for vector in vectors:
            count, error, outside = crosscheck.check(vector, rng)
            assert (count, outside <= crosscheck.QUOTIENT_ERROR) == (2, True), vector.name
            assert error < 1e-11
        # the control: an answer of another vector's
        other = replace(vectors[0], gradient_bounds=vectors[0].gradient_bounds * 1.001)
        assert crosscheck.check(other, rng)[2] > 1e-6


# ---------------------------------------------------------------- mistakes


OF_EXACT_ONES = [mistake for mistake in MISTAKES.values() if mistake.road is not None]


@pytest.mark.parametrize("mistake", OF_EXACT_ONES, ids=lambda mistake: mistake.name)
def test_a_mistake_fails_and_is_named(mistake, moderate, wrong):
    report = check_implementation(
        moderate, lambda vector: wrong[vector.name].get(mistake.name, vector.gradient)
    )
    assert not report.passed
    assert report.named == (mistake.name,)
    assert f"agrees with {mistake.name!r} on " in str(report)
    flagged = [o for o in report.outcomes if set(mistake.flags) & set(o.vector.flags)]
    assert any(not o.passed for o in flagged)


def plain(vector, *, sweeps=0, swapped=False, kernel=1.0, transposed=False):
    """An implementation of somebody who has the loader and numpy; settings are mistakes."""
    P, available, beta = vector.transition, vector.available, vector.temperature
    gamma, delta = vector.follower_discount, vector.leader_discount
    if swapped:
        gamma, delta = delta, gamma
    one, value, log_policy = np.eye(len(P)), np.zeros(len(P)), np.zeros(available.shape)

    def respond():
        action_value = np.where(available, vector.follower_reward + gamma * P @ value, -np.inf)
        top = action_value.max(axis=1, keepdims=True)
        weights = np.exp((action_value - top) / beta)
        total = weights.sum(axis=1, keepdims=True)
        policy = weights / total
        log_policy[:] = np.where(available, (action_value - top) / beta - np.log(total), 0.0)
        return policy, np.einsum("sa,sat->st", policy, P), (top + beta * np.log(total))[:, 0]

    for _ in range(sweeps or 50):
        policy, chain, backup = respond()
        step = backup - value
        value = value + (step if sweeps else np.linalg.solve(one - gamma * chain, step))
    policy, chain, _ = respond()
    leader = np.linalg.solve(one - delta * chain, (policy * vector.leader_reward).sum(axis=1))
    flow = np.linalg.solve((one - delta * chain).T, vector.initial)[:, None] * policy
    action_value = vector.leader_reward + delta * P @ leader
    source = flow * (action_value - (policy * action_value).sum(axis=1, keepdims=True)) / beta
    system = one - gamma * (chain if transposed else chain.T)
    arrivals = np.linalg.solve(system, gamma * np.einsum("sa,sat->t", source, P))
    influence = source + policy * arrivals[:, None]
    dP = kernel * vector.dense_tangent_transition
    return vector.initial @ leader, (
        np.tensordot(vector.tangent_follower_reward, influence, 2)
        + np.tensordot(vector.tangent_leader_reward, flow, 2)
        + vector.tangent_initial @ leader
        - vector.tangent_temperature * (influence * log_policy).sum()
        + np.einsum("sa,isat,t->i", delta * flow, dP, leader)
        + np.einsum("sa,isat,t->i", gamma * influence, dP, value)
    )


def test_a_right_implementation_by_somebody_else_passes(moderate):
    assert check_implementation(moderate, plain).passed


@pytest.mark.parametrize(
    ("wrong", "name", "flags"),
    [
        ({"swapped": True}, "discounts swapped", ("unequal-discounts",)),
        ({"kernel": 0.0}, "kernel's derivative dropped", ("kernel-parameters",)),
        ({"transposed": True}, "kernel transposed in the influence", ()),
        ({"sweeps": 100}, "follower stopped after 100 sweeps", ()),
    ],
)
def test_a_mistake_by_somebody_else_is_named(wrong, name, flags, moderate):
    report = check_implementation(moderate, lambda vector: plain(vector, **wrong))
    swapped = "swapped" in wrong
    assert report.named == (name,)
    assert report.telling_flags == flags
    # a follower's discount of 1, as swapping may make, has no answer
    told = [o for o in report.wrong if not (swapped and o.vector.leader_discount == 1.0)]
    assert report.mistakes[name][0] == len(told)


def test_an_error_of_its_own_is_one_of_none(moderate):
    report = check_implementation(moderate, lambda v: v.gradient + 1.0 + abs(v.gradient).max())
    assert (len(report.wrong), report.named) == (len(moderate), ())
    assert "agrees with none of the mistakes considered" in str(report)


def test_objectives_are_compared_if_there_are_any(shipped, moderate):
    report = check_implementation(
        shipped[:3], lambda vector: (vector.objective + 1e6, vector.gradient)
    )
    assert all("objective off by 1e+06" in o.trouble for o in report.outcomes)
    assert check_implementation(moderate, lambda v: (v.objective, v.gradient)).passed


@pytest.mark.parametrize(
    ("returned", "trouble"),
    [
        (lambda vector: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda vector: [[0.0]], r"the gradient has shape \(1, 1\)"),
        (lambda vector: None, "ValueError: it returned None, not a gradient"),
        (lambda vector: vector.gradient + 0j, "the gradient has dtype complex128; real"),
        (lambda vector: (None, vector.gradient), "the objective has dtype object; real"),
        (lambda vector: ([1.0], vector.gradient), r"the objective has shape \(1,\); one number"),
        (lambda vector: vector.initial.sort(), "ValueError: .*read-only"),
        (lambda vector: sys.exit(0), "SystemExit: 0"),
        (lambda vector: vector.gradient * np.nan, r"gradient\[0\] is nan, not a finite number"),
        (lambda vector: vector.gradient + np.inf, r"gradient\[0\] is inf, not a finite number"),
    ],
)
def test_what_fails_or_is_no_gradient_is_wrong(returned, trouble, shipped):
    report = check_implementation(shipped[:2], returned)
    assert len(report.wrong) == 2
    assert re.search(trouble, report.wrong[0].trouble)


def test_what_an_error_says_is_cut_to_a_line(shipped):
    def fails(vector):
        raise RuntimeError(f"{'x' * 1000}\nmore")

    (wrong,) = check_implementation(shipped[:1], fails).wrong
    assert wrong.trouble == "RuntimeError: " + 186 * "x"


def test_a_mistake_that_does_not_explain_everything_is_named_with_what_is_left(moderate, wrong):
    def overflows(vector):
        found = wrong[vector.name].get("exponentials that overflow", vector.gradient)
        return found if not np.isfinite(found).all() else 3.0 * vector.gradient

    printed = str(check_implementation(moderate, overflows))
    (n_left,) = re.findall(r"'exponentials that overflow' on .*; (\d+) others are wrong", printed)
    assert int(n_left) > len(moderate) / 2
    assert "wrong more often" not in printed  # no flag is


def test_a_tolerance_has_to_be_positive(shipped):
    with pytest.raises(ValueError, match="tolerance is 0"):
        check_implementation(shipped, reference_gradient, tolerance=0)


# ---------------------------------------------------------------- the loader

ALONE = """
import sys
sys.modules["tabular_bilevel"] = sys.modules["scipy"] = sys.modules["flint"] = None
from load_vectors import load_vectors
vectors = load_vectors(sys.argv[1])
v = vectors[1]
assert v.dense_tangent_transition.shape == (v.theta.size, *v.transition.shape)
assert abs(v.transition.sum(axis=2) - 1.0 + v.termination)[v.available].max() < 1e-12
assert abs(v.direct + v.indirect - v.gradient).max() <= 1e-12 * abs(v.gradient).max()
print(len(vectors), v.name)
"""


def test_the_loader_needs_nothing_of_ours(tmp_path):
    (tmp_path / "load_vectors.py").write_bytes((PACKAGE / "load_vectors.py").read_bytes())
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(SHIPPED)], cwd=tmp_path, capture_output=True, text=True,
        check=False, env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("91 garnet-00000\n", "")


def test_a_damaged_file_is_refused(small, tmp_path):
    path = tmp_path / "garnet-00000.npz"
    raw = (small / path.name).read_bytes()
    array = io.BytesIO()
    np.save(array, np.zeros(3))
    for damaged in (
        raw[:100], raw[:-1], raw[:2000] + b"x" + raw[2001:], b"", b"PK", array.getvalue(),
    ):  # fmt: skip
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"garnet-00000.npz is damaged"):
            load_vector(path)
        with pytest.raises(ValueError, match="checksum is not the manifest's"):
            load_vector(path, sha256=hashlib.sha256(raw).hexdigest())


def test_a_changed_number_is_refused(small, tmp_path):
    with np.load(small / "garnet-00000.npz") as file:
        content = dict(file)
    content["temperature"] = np.nextafter(content["temperature"], np.inf)
    np.savez(tmp_path / "changed.npz", **content)
    with pytest.raises(ValueError, match="its content is not what it was made with"):
        load_vector(tmp_path / "changed.npz")


def test_another_schema_is_refused(small, tmp_path):
    manifest = json.loads((small / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "schema_version": 2}))
    with pytest.raises(ValueError, match=r"manifest.json: schema_version is 2, not 1"):
        load_vectors(tmp_path)
    document = json.loads(JSON.encode(made(CLOSED)))
    (tmp_path / "one.json").write_text(json.dumps({**document, "schema_version": 2}))
    with pytest.raises(ValueError, match=r"one.json is damaged: .*schema_version is 2, not 1"):
        load_vector(tmp_path / "one.json")


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", '{"schema_version": 1}', '{"schema_version": 1, "vectors": [3]}', "[" * 9999]
    + [f'{{"schema_version": 1, "vectors": [{entry}]}}' for entry in (
        "{}", '{"file": 3, "sha256": ""}', '{"file": "../a.npz", "sha256": ""}',
    )],
)  # fmt: skip
def test_the_loader_refuses_a_damaged_manifest(text, tmp_path):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"manifest.json is damaged"):
        load_vectors(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"theta": np.zeros((2, 2))}, r"follower_reward has shape .* and theta \(2, 2\), not"),
        ({"theta": np.zeros(7)}, r"tangent_temperature has shape \(1,\), not \(7,\)|tangent_"),
        ({"transition_indptr": np.zeros(2, int)}, r"transition_indptr has shape \(2,\), not"),
        ({"transition_indices": np.zeros(2, int)}, r"transition_indices has shape \(2,\), not"),
        ({"transition_indptr": np.full(1, 7)}, r"transition_indptr has shape \(1,\), not"),
        ({"transition_indptr": lambda old: old + 1}, "transition_indptr does not rise from 0 to"),
        ({"transition_indptr": lambda old: old[::-1]}, "transition_indptr does not rise from 0"),
        ({"transition_indices": lambda old: old + 99}, r"transition_indices\[0\] is .*, not one"),
        ({"transition_indices": lambda old: old - 99}, r"transition_indices\[0\] is -.*, not one"),
        ({"name": "../x"}, "it has the name '../x', not one of letters"),
        ({"family": "a\x1b[31m"}, r"it has the name 'a\\x1b\[31m', not one of letters"),
        ({"flags": ("a b",)}, "it has the name 'a b', not one"),
        ({"flags": ("a", "a")}, "flags has some twice"),
        ({"origin": "a\nb"}, r"origin is 'a\\nb', not a line of at most 200 characters"),
        ({"origin": "a" * 201}, "origin is 'aaaa.*, not a line of at most 200 characters"),
        ({"theta": np.array([np.inf])}, "theta has inf, which is no finite number"),
        ({"available": np.ones((1, 1))}, r"available has shape \(1, 1\), not"),
        ({"objective_bounds": np.zeros(3)}, r"objective_bounds has shape \(3,\), not \(2,\)"),
        ({"gradient_bounds": np.zeros((3, 1))}, r"gradient_bounds has shape \(3, 1\), not \(2, 1"),
        ({"gradient_noise": np.zeros(2)}, r"gradient_noise has shape \(2,\), not \(\)"),
        ({"temperature": np.array(1)}, "temperature has dtype int64, not one of kind 'f'"),
        ({"theta": np.array(["a"])}, "theta has dtype <U1, not one of kind 'f'"),
    ],
)
def test_tables_that_do_not_fit_are_refused(change, message, tmp_path):
    content = made(GARNET)
    change = {k: new(content[k]) if callable(new) else new for k, new in change.items()}
    (tmp_path / "x.npz").write_bytes(NPZ.encode(content | change))
    with pytest.raises(ValueError, match=rf"x.npz: {message}"):
        load_vector(tmp_path / "x.npz")


def test_a_vector_is_the_problem_it_was_made_of():
    rng = np.random.default_rng([0, *b"garnet", 0])
    instance = FAMILIES["garnet"].draw(rng, 0, 20)
    exact = tb.hypergradient(instance.problem, instance.theta)
    content = made(GARNET)
    np.testing.assert_allclose(content["gradient_bounds"][0], exact.gradient, rtol=1e-9)
    np.testing.assert_array_equal(content["theta"], instance.theta)


def shuffled(vector, rng, *, tangents=True):
    """Put each row's entries in another order."""
    order = np.concatenate([
        rng.permutation(np.arange(i, j))
        for i, j in itertools.pairwise(vector.transition_indptr.tolist())
    ])  # fmt: skip
    changed = replace(
        vector,
        transition_data=vector.transition_data[order],
        transition_indices=vector.transition_indices[order],
    )
    if tangents:
        changed = replace(changed, tangent_transition=vector.tangent_transition[:, order])
    return changed


def encoded(vector):
    """Make the content of a vector's file."""
    return {name: value if isinstance(value, str | tuple) else np.asarray(value)
            for name, value in vars(vector).items()}  # fmt: skip


@sizes("encoding", [JSON], [NPZ])
def test_entries_of_a_row_may_come_in_any_order(encoding, moderate, tmp_path):
    rng, path, n_moved = np.random.default_rng(0), tmp_path / f"x.{encoding.suffix}", 0
    for vector in moderate[::4]:
        right, wrong = shuffled(vector, rng), shuffled(vector, rng, tangents=False)
        for name, changed in (("right", right), ("wrong", wrong)):
            path.write_bytes(encoding.encode(encoded(changed)))
            read, problem = load_vector(path), StoredProblem.of(load_vector(path))
            np.testing.assert_array_equal(read.transition, vector.transition)
            alike = np.array_equal(problem.transition, StoredProblem.of(vector).transition)
            assert outcome(read, reference_gradient).passed or name == "wrong"
            if name == "right":
                assert alike
                tangent = read.dense_tangent_transition
                np.testing.assert_array_equal(tangent, vector.dense_tangent_transition)
            n_moved += not alike
    assert n_moved > 5  # the control: some were in another order


def test_a_place_that_is_there_twice_is_refused(shipped, tmp_path):
    vector = next(v for v in shipped if v.family == "garnet")
    indices = vector.transition_indices.copy()
    indices[1] = indices[0]
    doubled = replace(vector, transition_indices=indices)
    cut = replace(vector, tangent_initial=vector.tangent_initial[:, :-1])
    no_number = replace(vector, tangent_temperature=vector.theta * np.nan)
    (tmp_path / "x.npz").write_bytes(NPZ.encode(encoded(doubled)))
    twice = rf"transition has column {indices[0]} of row 0 twice"
    each_refused(
        (lambda: StoredProblem.of(doubled), twice),
        (lambda: load_vector(tmp_path / "x.npz"), twice),
        (lambda: StoredProblem.of(cut), "tangent_initial is no finite table of shape"),
        (lambda: StoredProblem.of(no_number), "tangent_temperature is no finite table of shape"),
    )


# ---------------------------------------------------------------- answers from elsewhere


def spelled(vectors, answer=lambda vector: (vector.objective, vector.gradient)):
    """Answers as another language would write them."""
    document = {}
    for vector in vectors:
        objective, gradient = answer(vector)
        document[vector.name] = {"objective": objective, "gradient": gradient.tolist()}
    return document


@pytest.fixture
def answered(tmp_path, capsys, monkeypatch):
    """Verify the shipped vectors with a file of answers; status, output and errors."""
    monkeypatch.setattr("tabular_bilevel.cli.vectors_verify.check_vectors", lambda *a, **k: ())

    def answered(document):
        path = tmp_path / "answers.json"
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        status = main(["vectors", "verify", str(SHIPPED), "--answers", str(path)])
        return status, *capsys.readouterr()

    return answered


@pytest.mark.slow
def test_answers_of_another_language_are_checked(shipped, answered):
    right = spelled(shipped)
    assert answered(right)[0] == 0
    hexadecimal = {v.name: {"gradient": [x.hex() for x in v.gradient.tolist()]} for v in shipped}
    assert answered(hexadecimal)[0] == 0
    jsonschema.validate(hexadecimal, json.loads(writing.shipped("answers-schema.json")))
    del right["garnet-00000"]
    status, said, _ = answered(right)
    assert status == 1
    assert "garnet-00000: ValueError: there is no answer to it" in said
    assert "90 of 91 answers right" in said


@pytest.mark.slow
def test_answers_that_are_no_numbers_are_wrong_and_not_named(shipped, answered):
    document = spelled(shipped)
    document["tied-00001"]["gradient"][0] = None
    document["tied-00000"]["gradient"] = ["0x1p+99999"] * len(document["tied-00000"]["gradient"])
    status, said, _ = answered(document)
    assert status == 1
    assert "tied-00001: gradient[0] is nan, not a finite number" in said
    assert "tied-00000: gradient[0] is inf, not a finite number" in said
    nothing = {v.name: {"objective": None, "gradient": [None] * v.theta.size} for v in shipped}
    status, said, _ = answered(nothing)
    assert status == 1
    assert "0 of 91 answers right" in said
    assert "agrees with none of the mistakes considered" in said


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "is no sound JSON"),
        ("[]", "it is [], not type 'object'"),
        ({}, "it is {}, not minProperties 1"),
        ({"a": 1}, "a is 1, not type 'object'"),
        ({"a": {}}, "a 'gradient' is a required property"),
        ({"a": {"gradient": "x"}}, "not type 'array'"),
        ({"a": {"gradient": ["0.5"]}}, "not pattern"),
        ({"a": {"gradient": [True]}}, "not type"),
        ({"a": {"gradient": [], "more": 1}}, "not additionalProperties False"),
        ({"a\x1b[31m": {"gradient": []}}, "there is an answer to 'a\\x1b[31m', which is no vector"),
        ('{"a": {"gradient": [NaN]}}', "it has NaN, which is no number"),
        ('{"a": {"gradient": []}, "a": {"gradient": []}}', "it has the key 'a' twice"),
        ("[" * 100_000, "is no sound JSON"),
        ('{"a": {"gradient": [' + "1," * 3_000_000 + "1]}}", "above the limit of"),
    ],
)
def test_hostile_answers_are_one_line(document, message, answered):
    status, _, error = answered(document)
    assert status == 2
    assert error.startswith("tabular-bilevel: --answers: ")
    assert message in error
    assert error.count("\n") == 1
    assert error[:-1].isprintable()


def test_answers_in_the_folder_are_no_vector_and_missing_ones_are_named(few, tmp_path, capsys):
    put_down(few, tmp_path)
    path = tmp_path / "answers.json"
    assert main(["vectors", "verify", str(tmp_path), "--answers", str(path)]) == 2
    assert "--answers: [Errno 2]" in capsys.readouterr().err
    path.write_text(json.dumps(spelled(load_vectors(tmp_path))))
    assert main(["vectors", "verify", str(tmp_path), "--sample", "1", "--answers", str(path)]) == 0


@pytest.mark.parametrize(
    ("factor", "name"),
    [
        (-1.0, "the gradient's negative"),
        (0.5, "half the gradient"),
        (2.0, "twice the gradient"),
        (0.0, "the gradient times 0"),
        (np.pi, "the gradient times 3.14159"),
    ],
)
def test_a_multiple_of_the_gradient_is_named(factor, name, moderate):
    report = check_implementation(moderate, lambda vector: factor * vector.gradient)
    assert report.named == (name,)
    assert f"  it is {name}" in str(report)


def test_multiples_that_differ_are_no_multiple(moderate):
    for factor in (lambda vector: 1.1 + len(vector.name) % 7, lambda vector: 1.0):
        report = check_implementation(moderate, lambda v, factor=factor: factor(v) * v.gradient)
        assert report.named == ()


def test_what_is_never_a_number_is_not_named(moderate, wrong):
    report = check_implementation(moderate, lambda vector: np.full(vector.theta.size, np.nan))
    assert report.named == ()
    overflow = "exponentials that overflow"
    assert overflow in report.mistakes  # the control: what is NaN only where it overflows is named
    report = check_implementation(
        moderate, lambda vector: wrong[vector.name].get(overflow, vector.gradient)
    )
    assert report.named == (overflow,)


# ---------------------------------------------------------------- JSON


def test_the_folder_has_a_readme(small):
    readme = (PACKAGE / "README.md").read_bytes()
    assert (small / "README.md").read_bytes() == readme
    assert (SHIPPED / "README.md").read_bytes() == readme
    assert "16 * noise.gradient" in readme.decode()  # which the code says, too
    assert making.NOISE_FACTOR == 16
    assert verifying.TOLERANCE == 1e-6
    assert "1e-6" in readme.decode()


@pytest.mark.slow
def test_json_says_the_same_and_fits_its_schema(small, tmp_path):
    out = str(tmp_path / "new")
    settings = ["--families", "all", "--count", "22", "--max-states", "20", "--workers", "1"]
    assert main(["vectors", "write", out, *settings, "--json"]) == 0
    assert main(["vectors", "verify", out]) == 0
    assert (tmp_path / "new" / "vectors-schema.json").read_bytes() == (
        PACKAGE / "vectors-schema.json"
    ).read_bytes()
    for one, other in zip(load_vectors(small), load_vectors(out), strict=True):
        for name in one.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for path in Path(out).glob("*-0*.json"):
        document = json.loads(path.read_text())
        jsonschema.validate(document, SCHEMA)
        assert float.fromhex(document["temperature"]) > 0.0
        decimal = {**document, **document["decimal"]}
        assert "0x" not in json.dumps({k: v for k, v in decimal.items() if k != "decimal"})
        vector = load_vector(path)
        assert decimal["follower_reward"] == vector.follower_reward.tolist()
        assert decimal["gradient"]["lower"] == vector.gradient_bounds[0].tolist()
        assert decimal["noise"]["gradient"] == vector.gradient_noise


def test_json_of_before_decimals_is_read_and_other_decimals_are_refused(tmp_path):
    document = json.loads(JSON.encode(made(CLOSED)))
    path = tmp_path / "one.json"
    before = {key: value for key, value in document.items() if key != "decimal"}
    path.write_text(json.dumps(before))
    assert load_vector(path).name == "closed-form-00000"
    for wrong in (
        {**document["decimal"], "temperature": document["decimal"]["temperature"] * (1 + 1e-15)},
        {}, [], 3, {**document["decimal"], "more": 1},
    ):  # fmt: skip
        path.write_text(json.dumps({**document, "decimal": wrong}))
        with pytest.raises(ValueError, match="decimal numbers are not its hexadecimal ones"):
            load_vector(path)


def test_the_schema_refuses_what_is_none():
    document = json.loads(JSON.encode(made(CLOSED)))
    for change in (
        {"temperature": 0.5}, {"flags": "x"}, {"more": 1}, {"schema_version": 2},
        {"theta": ["1"]}, {"transition": {}}, {"digest": "abc"}, {"tangents": [{"rho": []}]},
    ):  # fmt: skip
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**document, **change}, SCHEMA)
    del document["gradient"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, SCHEMA)


# ---------------------------------------------------------------- writing


def test_the_manifest_says_where_everything_comes_from(small):
    manifest = json.loads((small / "manifest.json").read_text())
    assert manifest["format"] == "tabular-bilevel test vectors"
    assert manifest["licence"] == "Apache-2.0"
    assert manifest["notes"] == dict(NOTES)
    assert manifest["provenance"]["tabular-bilevel"] == tb.__version__
    assert manifest["provenance"]["numpy"] == np.__version__
    assert (manifest["provenance"]["seed"], manifest["provenance"]["count"]) == (0, 22)
    for entry, vector in zip(manifest["vectors"], load_vectors(small), strict=True):
        raw = (small / entry["file"]).read_bytes()
        assert entry["sha256"] == hashlib.sha256(raw).hexdigest()
        assert (entry["name"], entry["family"]) == (vector.name, vector.family)
        assert tuple(entry["flags"]) == vector.flags


def test_files_know_no_time(small):
    with zipfile.ZipFile(small / "garnet-00000.npz") as file:
        assert {entry.date_time for entry in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.slow
def test_any_number_of_workers_writes_the_same(small, tmp_path):
    out = tmp_path / "new"
    list(write_vectors(out, SMALL, workers=2))
    assert contents(out) == contents(small)


def test_a_family_s_vectors_do_not_depend_on_the_others(small, tmp_path):
    list(write_vectors(tmp_path, replace(SMALL, families=("tied", "garnet"), count=3)))
    for name in ("tied-00000", "tied-00001", "garnet-00000"):
        assert (tmp_path / f"{name}.npz").read_bytes() == (small / f"{name}.npz").read_bytes()


FEW = replace(SMALL, families=("tied", "garnet"), count=6)


@pytest.fixture(scope="module")
def few(tmp_path_factory, state_home):
    """What uninterrupted writing comes to."""
    folder = tmp_path_factory.mktemp("few")
    list(write_vectors(folder, FEW))
    return contents(folder)


def put_down(files, folder):
    for name, raw in files.items():
        (folder / name).write_bytes(raw)


def cut_short(folder, n_written=4):
    """Write some vectors and stop."""
    writing_them = write_vectors(folder, FEW)
    for _ in range(n_written):
        next(writing_them)
    writing_them.close()


def made_names(monkeypatch):
    """Note which vectors are made."""
    names = []
    monkeypatch.setattr(writing, "made", lambda recipe: names.append(recipe.name) or made(recipe))
    return names


def launder(folder, name, **changes):
    """Change a vector, and make all checksums in the folder right again."""
    path = folder / f"{name}.npz"
    with np.load(path) as file:
        content = {key: table for key, table in file.items() if key != "digest"}
    content |= {key: str(content[key]) for key in ("name", "family", "origin")}
    content["flags"] = tuple(map(str, content["flags"]))
    content |= {key: change(content[key]) for key, change in changes.items()}
    raw = NPZ.encode(content)
    path.write_bytes(raw)
    if (folder / "manifest.json").exists():
        manifest = json.loads((folder / "manifest.json").read_text())
        (entry,) = (e for e in manifest["vectors"] if e["name"] == name)
        entry["sha256"] = hashlib.sha256(raw).hexdigest()
        (folder / "manifest.json").write_text(json.dumps(manifest))
    return raw


def test_what_was_written_is_kept_and_the_rest_made(few, tmp_path, monkeypatch):
    cut_short(tmp_path)
    (tmp_path / "tied-00001.npz").unlink()
    (tmp_path / "tied-00000.npz").write_bytes(b"PK")
    (tmp_path / ".1-0123456789abcdef.part").write_bytes(b"half")
    names = made_names(monkeypatch)
    order = [recipe.name for recipe in write_vectors(tmp_path, FEW)]
    assert names == ["tied-00000", "tied-00001", "tied-00002", "garnet-00002"]
    assert order == ["garnet-00000", "garnet-00001", *names]
    assert contents(tmp_path) == few


DOUBLED = {"gradient_bounds": lambda bounds: 2.0 * bounds}


@sizes(
    "change",
    [
        lambda folder: launder(folder, "garnet-00000", **DOUBLED),
        lambda folder: os.replace(folder / "tied-00000.npz", folder / "tied-00001.npz"),
    ],
    [
        lambda folder: launder(folder, "tied-00001", gradient_noise=lambda noise: 2.0 * noise),
        lambda folder: launder(folder, "tied-00001", flags=lambda flags: flags[1:]),
        lambda folder: launder(folder, "tied-00001", theta=lambda theta: theta + 1.0),
        lambda folder: (folder / "tied-00000.npz").rename(folder / "garnet-00000.npz"),
        lambda folder: (folder / "unfinished.json").write_bytes(
            (folder / "unfinished.json").read_bytes()[:-1] + b" "
        ),
    ],
)  # fmt: skip
def test_what_somebody_else_changed_is_made_anew(change, few, tmp_path):
    cut_short(tmp_path)  # of what is finished, all is made anew: see below
    change(tmp_path)
    list(write_vectors(tmp_path, FEW))
    assert contents(tmp_path) == few


def test_a_finished_folder_is_made_anew(few, tmp_path, monkeypatch):
    """What a finished call noted is gone: the folder may have been anywhere since."""
    list(write_vectors(tmp_path, FEW))
    names = made_names(monkeypatch)
    list(write_vectors(tmp_path, FEW))
    assert len(names) == FEW.count
    assert contents(tmp_path) == few


@sizes("notes", ["torn"], ["none", "a file"])
def test_without_notes_all_is_made_anew(notes, few, tmp_path, monkeypatch):
    home = tmp_path / "home"
    monkeypatch.setenv("XDG_STATE_HOME", str(home))
    if notes == "a file":
        home.write_bytes(b"")
    cut_short(tmp_path / "out")
    if notes != "a file":
        (noted,) = (home / "tabular-bilevel").iterdir()
        torn = noted.read_bytes()[:20]
        noted.unlink()
        if notes == "torn":
            noted.write_bytes(torn)
    names = made_names(monkeypatch)
    list(write_vectors(tmp_path / "out", FEW))
    assert len(names) == FEW.count
    assert contents(tmp_path / "out") == few


@sizes("home", ["relative"], ["nobody's"])
def test_notes_in_the_working_directory_are_a_strangers(home, few, tmp_path, monkeypatch):
    """A folder that is handed over may come with notes, where a relative path leads to them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    relative = "state" if home == "relative" else "~/.local/state"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / relative))
    cut_short(tmp_path / "out")
    assert list((tmp_path / relative / "tabular-bilevel").iterdir())
    if home == "relative":
        monkeypatch.setenv("XDG_STATE_HOME", relative)
    else:
        pwd = pytest.importorskip("pwd")
        monkeypatch.delenv("XDG_STATE_HOME")
        monkeypatch.delenv("HOME")
        monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    names = made_names(monkeypatch)
    list(write_vectors("out", FEW))
    assert len(names) == FEW.count
    assert contents(tmp_path / "out") == few


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
def test_notes_in_a_pipe_are_not_waited_for(few, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    cut_short(tmp_path / "out")
    (noted,) = (tmp_path / "home" / "tabular-bilevel").iterdir()
    noted.unlink()
    os.mkfifo(noted)
    list(write_vectors(tmp_path / "out", FEW))
    assert contents(tmp_path / "out") == few


def test_a_second_writer_is_told_that_there_is_a_first(few, tmp_path):
    first = write_vectors(tmp_path, FEW)
    next(first)
    with pytest.raises(OSError, match="is being written to by another process"):
        next(write_vectors(tmp_path, FEW))
    list(first)
    assert contents(tmp_path) == few


def test_a_draw_that_is_nothing_but_noise_is_drawn_again(monkeypatch):
    """One in 300: an answer of zeros would pass."""
    first, answers = made(GARNET), [False, True]
    monkeypatch.setattr(making, "is_telling", lambda gradient, noise: answers.pop(0))
    second = made(GARNET)
    assert answers == []
    assert second["name"] == first["name"]
    assert not np.array_equal(second["theta"], first["theta"])
    monkeypatch.setattr(making, "is_telling", lambda gradient, noise: False)
    with pytest.raises(tb.CertificationError, match="draws of garnet-00000 are nothing but noise"):
        made(VectorRecipe("garnet", 0, 0, 5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed is 0, not 1"),
        ({"count": 23}, "count is 22, not 23"),
        ({"max_states": 21}, "max_states is 20, not 21"),
        ({"encoding": JSON}, "encoding is npz, not json"),
        ({"families": ("garnet",)}, r"families is \['closed-form', .*\], not \['garnet'\]"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_another_call_s_folder_is_refused(change, message, finished, small, tmp_path):
    if finished:
        (tmp_path / "manifest.json").write_bytes((small / "manifest.json").read_bytes())
    else:
        next(write_vectors(tmp_path, SMALL))
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=f"has vectors of another call: {message}"):
        list(write_vectors(tmp_path, replace(SMALL, **change)))
    assert contents(tmp_path) == before


def test_another_version_s_folder_is_refused(small, tmp_path):
    manifest = json.loads((small / "manifest.json").read_text())
    manifest["provenance"]["python-flint"] = "0.1"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"python-flint is 0\.1, not"):
        list(write_vectors(tmp_path, SMALL))


@pytest.mark.parametrize("text", ["{", "[]", '{"provenance": 1}', "[" * 9999])
def test_a_damaged_manifest_is_refused(text, tmp_path):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"manifest.json is damaged|another call"):
        list(write_vectors(tmp_path, SMALL))
    assert main(["vectors", "verify", str(tmp_path)]) == 2


def test_a_folder_of_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="has files already"):
        list(write_vectors(tmp_path, SMALL))
    assert contents(tmp_path) == {"thesis.tex": b"years of work"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 0}, "count is 0"),
        ({"max_states": 0}, "max_states is 0"),
        ({"max_states": 5}, "max_states is 5, and four-rooms needs 20"),
        ({"seed": -1}, "seed is -1, not a whole number of at least 0"),
        ({"seed": 0.5}, "seed is 0.5, not a whole number"),
        ({"count": 10**12}, "count is 1000000000000, above 100,000 for each family"),
        ({"families": ()}, "families is empty"),
        ({"families": ("garnet", "x")}, "families has 'x', not one of closed-form, garnet"),
        ({"families": ("tied", "tied")}, "families has some twice: tied, tied"),
        ({"encoding": "json"}, "encoding is 'json', not NPZ or JSON"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_refused(change, message):
    assert message in refusal(Plan, **{"max_states": 20, **change})


def test_the_command_refuses_bad_settings_in_a_line(tmp_path, capsys):
    out = str(tmp_path / "new")
    for settings, message in (
        (["--families", "x"], "families has 'x', not one of"),
        (["--families", "all", "--max-states", "3"], "needs 20"),
        (["--families", "tied", "--workers", "0"], "workers is 0"),
        (["--families", "tied", "--seed", "-1"], "seed is -1"),
    ):
        assert main(["vectors", "write", out, "--count", "1", *settings]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
        assert not (tmp_path / "new").exists()


def test_python_flint_is_asked_for(tmp_path, monkeypatch):
    def missing(name):
        raise writing.PackageNotFoundError(name)

    monkeypatch.setattr(writing, "version", missing)
    with pytest.raises(ValueError, match=r"pip install 'tabular-bilevel\[rigor\]'"):
        list(write_vectors(tmp_path, SMALL))


class Died(BaseException):
    """What a kill leaves no time for."""


def test_a_death_before_any_file_is_there_is_gone_on_from(tmp_path, monkeypatch):
    plan, place = replace(SMALL, families=("tied", "garnet"), count=3), writing.write_file
    whole = tmp_path / "whole"
    list(write_vectors(whole, plan))
    for last in range(5):  # the plan, three vectors, the manifest
        written = []

        def dying(path, raw, written=written, last=last):
            if len(written) == last:
                path.with_name(".1-0123456789abcdef.part").write_bytes(raw[: len(raw) // 2])
                raise Died
            written.append(path.name)
            place(path, raw)

        out = tmp_path / str(last)
        for module in (writing, files):
            monkeypatch.setattr(module, "write_file", dying)
        with pytest.raises(Died):
            list(write_vectors(out, plan))
        for module in (writing, files):
            monkeypatch.setattr(module, "write_file", place)
        assert not (out / "manifest.json").exists()
        list(write_vectors(out, plan))
        assert contents(out) == contents(whole)


COMMAND = [sys.executable, "-m", "tabular_bilevel", "vectors", "write"]
SETTINGS = ["--families", "all", "--count", "110", "--max-states", "20", "--workers", "2"]


def started(out):
    return subprocess.Popen(
        [*COMMAND, str(out), *SETTINGS], start_new_session=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for_files(process, out, more):
    before, deadline = len(list(out.glob("*.npz"))), time.monotonic() + 60.0
    while len(list(out.glob("*.npz"))) < before + more and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.slow
def test_killed_and_gone_on_with_the_bytes_are_the_same(tmp_path):
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    for more in (0, 7, 30):
        with started(cut) as process:
            wait_for_files(process, cut, more)
            os.killpg(process.pid, signal.SIGKILL)
        assert not (cut / "manifest.json").exists()
    for out in (cut, whole):
        with started(out) as process:
            assert process.wait() == 0
    assert len(contents(cut)) == 112
    assert contents(cut) == contents(whole)


@pytest.mark.slow
def test_an_interrupt_leaves_whole_files_and_a_line(tmp_path):
    with started(tmp_path) as process:
        wait_for_files(process, tmp_path, 3)
        os.killpg(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (130, "tabular-bilevel: interrupted\n")
    left = sorted(tmp_path.iterdir())
    assert not any(path.name.endswith(".part") for path in left)
    for path in left:
        if path.suffix == ".npz":
            load_vector(path)


# ---------------------------------------------------------------- verifying


def forged(folder, small, **changes):
    """Change a vector's fields, and make its checksums right again."""
    content = made(GARNET) | changes
    raw = NPZ.encode(content)
    manifest = json.loads((small / "manifest.json").read_text())
    (entry,) = (e for e in manifest["vectors"] if e["name"] == "garnet-00000")
    entry["sha256"] = hashlib.sha256(raw).hexdigest()
    manifest["vectors"] = [entry]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / entry["file"]).write_bytes(raw)
    return [check.trouble for check in check_vectors(folder)]


def test_a_vector_with_wrong_numbers_is_found(small, tmp_path):
    right = made(GARNET)
    gradient = right["gradient_bounds"]
    crossed, wider = np.diag([1e-9, 1e-3])[..., None]  # of the lower, and of the upper ones alone
    direct, indirect = right["direct_bounds"], right["indirect_bounds"]
    cases = [
        ({}, ""),
        ({"gradient_bounds": gradient[::-1] + crossed}, "gradient_bounds: the lower ones are not"),
        ({"gradient_bounds": gradient * np.nan}, "gradient_bounds has nan, which is no finite"),
        ({"gradient_bounds": gradient[:, :-1]}, "gradient_bounds has shape (2, 0), not (2, 1)"),
        ({"gradient_bounds": gradient + wider}, "gradient_bounds are wider than"),
        ({"gradient_bounds": gradient + 1e-3}, "its parts do not add up"),
        ({"direct_bounds": direct + 1e-3}, "its parts do not add up"),
        ({"objective_bounds": right["objective_bounds"] + 1.0}, "tb.hypergradient disagrees"),
        ({"objective_bounds": right["objective_bounds"] + 1e-9}, "do not hold what tb.enclose"),
        ({"initial": right["initial"] * 2.0}, "initial sums to 2, not 1"),
        ({"temperature": np.float64(0.0)}, "temperature is 0.0, not a positive"),
        ({"theta": right["theta"][:-1]}, "has shape"),
        ({"tangent_initial": np.nan * right["tangent_initial"]}, "tangent_initial has nan, which"),
        ({"direct_bounds": gradient * 0.0 + [[-1e99], [1e99]]}, "direct_bounds are wider"),
        ({"direct_bounds": gradient * 0.0 + [[-np.inf], [np.inf]]}, "direct_bounds has -inf"),
        ({"gradient_noise": np.float64(np.nan)}, "gradient_noise has nan, which is no finite"),
        ({"gradient_noise": np.float64(-1.0)}, "gradient_noise is -1, not between 0 and"),
        ({"gradient_noise": np.float64(1e300)}, "gradient_noise is 1e+300, not between 0 and"),
        ({"gradient_noise": 1000.0 * right["gradient_noise"]}, "gradient_noise is "),
        ({"objective_noise": 1000.0 * right["objective_noise"]}, "objective_noise is "),
        (
            {"direct_bounds": direct + 0.5, "indirect_bounds": indirect - 0.5},
            "tb.hypergradient disagrees: direct part off by 0.5",
        ),
        ({"flags": ()}, "its flags is [], and the manifest says ["),
        ({"name": "garnet-00001"}, "its name is 'garnet-00001', and the manifest says 'garnet-0"),
        ({"family": "tied"}, "its family is 'tied', and the manifest says 'garnet'"),
        ({"follower_reward": np.zeros(right["available"].shape)}, "tb.hypergradient disagrees"),
    ]
    for changes, message in cases:
        (trouble,) = forged(tmp_path, small, **changes)
        assert message in trouble, changes
        assert bool(message) == bool(trouble)


def test_verify_finds_missing_and_damaged_files(small, tmp_path, capsys):
    put_down(contents(small), tmp_path)
    (tmp_path / "tied-00001.npz").unlink()
    (tmp_path / "masks-00000.npz").write_bytes(b"PK")
    assert main(["vectors", "verify", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "20 of 22 files right" in printed
    assert "masks-00000.npz is damaged: its checksum" in printed
    assert "tied-00001.npz" in printed


DEEP = functools.reduce(lambda inner, _: [inner], range(900), 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "x"}, "format is 'x', not 'tabular-bilevel test vectors'"),
        ({"schema_version": 7}, "schema_version is 7, not 1"),
        ({"schema_version": 1.0}, "schema_version is 1.0, not type 'integer'"),
        ({"schema_version": True}, "schema_version is True, not type 'integer'"),
        ({"licence": None}, "licence is None, not type 'string'"),
        ({"licence": DEEP}, r"licence is \[{198}.*, not type 'string'"),
        ({"notes": []}, r"notes is \[\], not type 'object'"),
        ({"notes": {"a\x1b": 1}}, r"notes\[.a\\+x1b.\] is 1, not type 'string'"),
        ({"vectors": [{}]}, r"vectors\[0\] 'name' is a required property"),
        ({"vectors": []}, r"vectors is \[\], not minItems 1"),
        ({"vectors": [ENTRY, ENTRY]}, "vectors has 'a.npz' twice"),
        ({"vectors": [ENTRY | {"file": "../a"}]}, r"vectors\[0\].file is '../a', not pattern"),
        ({"vectors": [ENTRY | {"file": "a\n"}]}, r"vectors\[0\].file is 'a\\n', not pattern"),
        ({"vectors": [ENTRY | {"n_states": "1"}]}, r"vectors\[0\].n_states is '1', not type"),
        ({"notes": {}}, ""),
    ],
)
def test_verify_looks_at_the_manifest(change, message, small, tmp_path):
    put_down(contents(small), tmp_path)
    manifest = json.loads((small / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | change))
    if message:
        with pytest.raises(ValueError, match=f"manifest.json: {message}") as caught:
            list(check_vectors(tmp_path))
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 500 + len(str(tmp_path))
    else:
        assert all("has no note" in check.trouble for check in check_vectors(tmp_path))


def test_verify_without_python_flint_proves_nothing_again(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "flint", None)
    monkeypatch.delitem(sys.modules, "tabular_bilevel.certify.balls", raising=False)
    monkeypatch.delattr(tb.certify, "balls", raising=False)
    checks = list(check_vectors(small))
    assert not any(check.trouble or check.proven_again for check in checks)


def folder_of(folder, contents):
    """Write vectors and a manifest that lists them, without making sure of anything."""
    entries = []
    for content in contents:
        raw, name = NPZ.encode(content), str(content["name"])
        (folder / f"{name}.npz").write_bytes(raw)
        n_states, n_actions = content["available"].shape
        entries.append({
            "name": name, "file": f"{name}.npz", "sha256": hashlib.sha256(raw).hexdigest(),
            "family": content["family"], "flags": list(content["flags"]), "n_states": n_states,
            "n_actions": n_actions, "n_parameters": content["theta"].size,
        })  # fmt: skip
    manifest = MANIFEST | {"notes": dict(NOTES), "vectors": entries}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def slightly_off(recipe):
    """Make a vector that is wrong in the ninth digit, which only a proof sees."""
    content = made(recipe)
    factor = 1.0 + 1e-9
    return content | {
        name: content[name] * factor
        for name in ("gradient_bounds", "direct_bounds", "indirect_bounds")
    }


@pytest.fixture(scope="module")
def honest():
    return [made(VectorRecipe("garnet", k, 0, 6)) for k in range(12)]


WRONG = slightly_off(VectorRecipe("garnet", 12, 0, 6))


@sizes(
    "forged",
    [
        lambda right: [*right, WRONG | {"family": "mine"}],
        lambda right: [WRONG | {"family": f"b{k}", "name": f"b{k}"} for k in range(3)],
    ],
    [
        lambda right: [*right, WRONG | {"family": "Garnet"}],
        lambda right: [*[v | {"family": f"a{k}"} for k, v in enumerate(right)], WRONG],
    ],
)
def test_a_family_of_its_own_does_not_hide_a_forged_file(forged, honest, tmp_path):
    folder_of(tmp_path, forged(honest))
    for seed in range(2):
        checks = list(check_vectors(tmp_path, sample=1, rng=seed))
        assert any("do not hold what tb.enclose proves" in check.trouble for check in checks)


@pytest.mark.slow
def test_the_sample_is_random_and_of_the_stated_size(honest, tmp_path):
    half = [v | {"family": "other"} if k % 2 else v for k, v in enumerate(honest)]
    folder_of(tmp_path, [*half, WRONG])
    seen, found = set(), set()
    for seed in range(8):
        checks = list(check_vectors(tmp_path, sample=3, rng=seed))
        proven = {check.file for check in checks if check.proven_again or check.trouble}
        assert len(proven) == 6
        seen |= proven
        found.add(sum(bool(check.trouble) for check in checks))
    assert list(check_vectors(tmp_path, sample=3, rng=seed)) == checks
    assert len(seen) == 13
    assert found == {0, 1}  # a sample misses some: of 7, it has 3
    for sample in (None, 7, 100):
        checks = list(check_vectors(tmp_path, sample=sample))
        assert [check.file for check in checks if check.trouble] == ["garnet-00012.npz"]
        assert sum(check.proven_again for check in checks) == 12
    with pytest.raises(ValueError, match="sample is 0, not a positive whole number"):
        list(check_vectors(tmp_path, sample=0))


def test_flags_have_to_be_those_of_the_tables(honest, tmp_path):
    changed = [v | {"flags": v["flags"][1:]} for v in honest[:1]]
    changed += [v | {"flags": (*v["flags"], "one-action")} for v in honest[1:2]]
    changed += [v | {"flags": (*v["flags"], "closed-form")} for v in honest[2:3]]
    folder_of(tmp_path, changed)
    troubles = [check.trouble for check in check_vectors(tmp_path)]
    assert all("its flags are not those of its tables" in trouble for trouble in troubles[:2])
    assert troubles[2] == ""


def test_an_answer_of_zeros_must_not_pass(honest, tmp_path, monkeypatch):
    monkeypatch.setattr(making, "NOISE_SLACK", 1e30)
    folder_of(tmp_path, [honest[0] | {"gradient_noise": np.float64(0.1)}])
    (check,) = check_vectors(tmp_path)
    assert "gradient_noise is 0.1, which hides a gradient of" in check.trouble


@pytest.mark.parametrize(
    ("reward", "trouble"),
    [(1e308, "terms of the objective are beyond float64"), (1e-310, "objective_noise is")],
)
def test_numbers_at_the_ends_of_float64_end_as_trouble_of_their_file(reward, trouble, tmp_path):
    content = made(VectorRecipe("garnet", 0, 0, 6))
    table = np.full_like(content["leader_reward"], reward)
    folder_of(tmp_path, [content | {"leader_reward": table}, WRONG])
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        first, second = check_vectors(tmp_path)
    assert trouble in first.trouble
    assert "do not hold what tb.enclose proves" in second.trouble


@pytest.mark.parametrize(("size", "more"), [(1.0, ()), (2.0**-980, ("small-rewards",))])
def test_vectors_work_whatever_numpy_raises(size, more, tmp_path):
    """An answer of tiny numbers, exactly, since the leader's unit is a power of 2."""
    content = made(VectorRecipe("garnet", 0, 0, 6))
    parts = ("objective", "gradient", "direct", "indirect")
    names = ["leader_reward", "tangent_leader_reward", "objective_noise", "gradient_noise"]
    names += [f"{part}_bounds" for part in parts]
    small = {name: size * content[name] for name in names}
    folder_of(tmp_path, [content | small | {"flags": content["flags"] + more}])
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        made(VectorRecipe("garnet", 0, 0, 6))
        (check,) = check_vectors(tmp_path)
        vectors = load_vectors(tmp_path)
        report = check_implementation(vectors, reference_gradient)
    assert check.trouble == ""
    assert check.proven_again
    assert report.passed


def test_what_takes_too_much_to_prove_is_not_begun(honest, tmp_path, monkeypatch):
    monkeypatch.setattr(verifying, "PAIR", 2**30)
    folder_of(tmp_path, honest[:1])
    (check,) = check_vectors(tmp_path)
    assert re.search(r"states and .* derivatives take .* to prove, above the limit", check.trouble)


@pytest.mark.parametrize("name", ["more.npz", "more.NPZ", "more.json", "vectors-schema.json"])
def test_files_beside_the_manifest_are_named(name, honest, tmp_path):
    folder_of(tmp_path, honest[:1])
    (tmp_path / "README.md").write_text("what this is")
    assert not any(check.trouble for check in check_vectors(tmp_path))
    (tmp_path / name).write_bytes((tmp_path / "garnet-00000.npz").read_bytes())
    *_, last = check_vectors(tmp_path)
    assert last.file == name
    assert last.trouble in ("it is not in the manifest", "it is not this version's schema")


def test_a_link_to_a_vector_is_followed_and_out_of_the_folder_is_not(honest, tmp_path):
    folder_of(tmp_path, honest[:2])
    (tmp_path / "elsewhere").mkdir()
    os.rename(tmp_path / "garnet-00000.npz", tmp_path / "elsewhere" / "a.npz")
    (tmp_path / "garnet-00000.npz").symlink_to(tmp_path / "elsewhere" / "a.npz")
    (tmp_path / "garnet-00001.npz").unlink()
    (tmp_path / "garnet-00001.npz").symlink_to("/dev/zero")
    checks = list(check_vectors(tmp_path))
    assert checks[0].proven_again
    assert "is no regular file" in checks[1].trouble


@pytest.mark.slow
def test_the_command_says_how_many_it_proved(small, capsys):
    assert main(["vectors", "verify", str(small), "--sample", "1", "--seed", "7"]) == 0
    printed = capsys.readouterr().out
    assert "13 of 22 proven again: up to 1 of each family, seed 7; --all proves all" in printed
    assert main(["vectors", "verify", str(small), "--all"]) == 0
    assert "22 of 22 proven again" in capsys.readouterr().out
    seeds = set()
    for _ in range(2):
        assert main(["vectors", "verify", str(small), "--sample", "1"]) == 0
        seeds |= set(re.findall(r"seed (\d+)", capsys.readouterr().out))
    assert len(seeds) == 2
    assert main(["vectors", "verify", str(small), "--sample", "0"]) == 2
    assert main(["vectors", "verify", str(small), "--limit", "1000"]) == 2


STRANGER = """
from dataclasses import replace
from tabular_bilevel.vectors import reference_gradient as right

def wrong(vector):
    return vector.direct
"""


def test_somebody_s_code_is_checked_by_the_command(few, tmp_path, capsys, monkeypatch):
    small = tmp_path / "vectors"
    small.mkdir()
    put_down(few, small)
    (tmp_path / "stranger.py").write_text(STRANGER)
    monkeypatch.chdir(tmp_path)
    verify = ["vectors", "verify", str(small), "--sample", "1"]
    assert main([*verify, "--with", "stranger:right"]) == 0
    assert "all right, 6 of 6 answers right" in capsys.readouterr().out
    assert main(["vectors", "verify", "--with", "stranger:wrong", str(small)]) == 1
    assert "agrees with 'through-follower term dropped' on" in capsys.readouterr().out
    assert main([*verify, "--with", "stranger"]) == 2
    assert "implementation is 'stranger', not MODULE:NAME" in capsys.readouterr().err
    assert main([*verify, "--with", "stranger:__name__"]) == 2
    assert "implementation is 'stranger', which cannot be called" in capsys.readouterr().err
    assert main([*verify, "--tolerance", "0"]) == 2
    for how, said in (
        ("1 / 0", "ZeroDivisionError: division by zero"), ("import none", "No module named 'none'"),
        ("raise SystemExit(0)", "SystemExit: 0"), ("def f(:", "SyntaxError"),
        ("class f:\n def __init__(self): raise RuntimeError('x')", "RuntimeError: x"),
    ):  # fmt: skip
        (tmp_path / "broken.py").write_text(how)
        sys.modules.pop("broken", None)
        importlib.invalidate_caches()
        assert main([*verify, "--with", "broken:f"]) == 2
        assert f"broken:f cannot be used: {said}" in capsys.readouterr().err.replace(
            "ModuleNotFoundError: ", ""
        )


def test_the_command_of_before_still_writes_and_says_what_it_is_called_now(tmp_path, capsys):
    settings, folder = ["--families", "tied", "--count", "1", "--workers", "1"], tmp_path / "a"
    assert main(["vectors", "write", str(tmp_path / "b"), *settings]) == 0
    assert capsys.readouterr().err == ""
    for old in (["vectors", str(folder), *settings], ["vectors", *settings, str(folder)]):
        assert main(old) == 0
        said = "tabular-bilevel: 'vectors OUT' is deprecated: say 'vectors write OUT'\n"
        assert capsys.readouterr().err == said
        assert contents(folder) == contents(tmp_path / "b")
