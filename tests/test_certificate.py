"""Certificates: honest ones are accepted, and what is accepted is true, whatever was forged."""

import dataclasses
import json
import os
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

import certificate_mutants as mutants
import numpy as np
import pytest
from certificate_truth import Truths
from sizes import sizes
from small import ORDINARY, tables

import tabular_bilevel as tb
from tabular_bilevel import check_certificate as checker
from tabular_bilevel.check_certificate import (
    NoCertificateError,
    RejectedError,
    UnprovenError,
    check_certificate,
)
from tabular_bilevel.problems.zoo import draw

flint = pytest.importorskip("flint")
arb = flint.arb

SMALLEST = 5e-324


@pytest.fixture(scope="module")
def certificate():
    return json.dumps(tb.enclose(tb.problems.garnet(), np.linspace(-1, 1, 6)).certificate())


@pytest.fixture(scope="module")
def small():
    """Two states, two actions, two successors, and two parameters of everything."""
    rng = np.random.default_rng(0)
    problem = tb.FeatureProblem(
        tables(),
        follower_reward=rng.normal(size=(4, 2)),
        leader_reward=rng.normal(size=(4, 2)),
        transition=rng.normal(size=(8, 2)),
        initial=rng.normal(size=(2, 2)),
        temperature=[1.0, 2.0],
    )
    return json.dumps(tb.enclose(problem, [0.0, 0.0]).certificate())


# ---------------------------------------------------------------- honest certificates


@sizes("name", [name for name in ORDINARY if name != "four rooms"], ["four rooms"])
def test_certificates_pass_the_independent_checker(name):
    problem, theta = ORDINARY[name]
    document = tb.enclose(problem, theta).certificate()
    assert check_certificate(document) <= 512
    assert json.loads(json.dumps(document)) == document


@sizes("count", [10], [200])
def test_certificates_of_corner_cases_pass(count):
    seen = Counter()
    for seed in range(count):
        document = tb.enclose(*draw("wild", seed).at).certificate()
        seen[check_certificate(document)] += 1
    assert len(seen) >= 3


def more(text, factor=1.0001):
    return (float.fromhex(text) * factor).hex()


def tamper(place, change):
    """Make a function that changes one entry of a document."""
    return lambda document: mutants.put(document, place, change(mutants.get(document, place)))


def put(*path):
    """Make a function that puts the last argument in a place of a document."""
    *place, value = path
    return lambda document: mutants.put(document, place, value)


def longer(number, change=1):
    """Add a millionth to a long hexadecimal."""
    mantissa, exponent = checker._long(number, "it")
    assert exponent < -20
    return f"{mantissa + (change << -20 - exponent):#x}p{exponent}"


def shorter(number):
    return longer(number, -1)


TAMPERED = {
    "objective": (tamper(("claims", "objective", 1), more), r"objective\[0\]"),
    "objective's bounds": (
        tamper(("claims", "objective"), lambda x: [more(t) for t in x]),
        "not within",
    ),
    "gradient": (
        tamper(("claims", "gradient"), lambda ends: [[more(x) for x in end] for end in ends]),
        r"gradient\[0\] is not within",
    ),
    "a bound of the gradient": (tamper(("claims", "gradient", 0, 3), more), "above the upper one"),
    "direct": (tamper(("claims", "direct", 1, 2), lambda x: more(x, 0.999)), r"direct\[2\]|not"),
    "indirect": (
        tamper(("claims", "indirect"), lambda ends: [[more(x) for x in end] for end in ends]),
        r"indirect\[0\] is not within",
    ),
    "temperature": (tamper(("temperature",), more), "is no .* bound"),
    "temperature's sign": (tamper(("temperature",), lambda x: "-" + x), "not positive"),
    "follower's discount": (tamper(("follower_discount",), more), "is no .* bound"),
    "follower's discount of 1": (
        tamper(("follower_discount",), lambda _: "0x1p+0"),
        "the follower's discount times a row sum is not below 1",
    ),
    "leader's discount of 1": (
        tamper(("leader_discount",), lambda _: "0x1p+0"),
        "the steps do not show that play from state 0 ends",
    ),
    "leader's discount": (tamper(("leader_discount",), more), "not"),
    "initial": (tamper(("initial", 2), more), r"objective\[0\] is not within"),
    "follower's reward": (
        tamper(("pairs", 7, "follower_reward"), lambda x: more(x, 1.01)),
        "is no .* bound",
    ),
    "leader's reward": (tamper(("pairs", 7, "leader_reward"), lambda x: more(x, 1.1)), "not"),
    "probability": (tamper(("pairs", 3, "successors", 0, 1), lambda x: more(x, 0.9)), "not|no"),
    "probability's sign": (
        tamper(("pairs", 3, "successors", 0, 1), lambda x: "-" + x),
        "a probability is negative",
    ),
    "successor": (tamper(("pairs", 3, "successors", 0, 0), lambda x: (x + 1) % 20), "not|no"),
    "derivative": (
        tamper(("tangents", 0, "transition", 5, 1), lambda x: more(x, 2.0)),
        "not within",
    ),
    "upper bound": (tamper(("proof", "value_upper", 4), shorter), "is no upper bound"),
    "lower bound": (tamper(("proof", "value_lower", 4), longer), "is no lower bound"),
    "leader's value": (tamper(("proof", "leader_value", 4), longer), "not shown with 512 bits"),
    "occupancy": (tamper(("proof", "occupancy", 4), longer), "not shown"),
    "arrivals": (tamper(("proof", "arrivals", 4), longer), "not shown"),
}


def rejected(document, *changes, kind=RejectedError, message=None):
    """Give what is said of a document after some changes."""
    document = json.loads(document)
    for change in changes:
        change(document)
    with pytest.raises(kind, match=message) as caught:
        check_certificate(document)
    return caught.value


@pytest.mark.parametrize(("change", "message"), TAMPERED.values(), ids=TAMPERED)
def test_a_certificate_that_was_tampered_with_is_rejected(certificate, change, message):
    rejected(certificate, change, message=message)


# ---------------------------------------------------------------- forged claims


def spelled(*numbers):
    return [float(x).hex() for x in numbers]


def two_units_off(ends):
    upper = float.fromhex(ends[1])
    return spelled(*[np.nextafter(np.nextafter(upper, np.inf), np.inf)] * 2)


def anything_below(ends):
    return spelled(-sys.float_info.max, float.fromhex(ends[0]) - 1e-9)


OBJECTIVE = ("claims", "objective")
FORGED = {
    "direct widened": (
        put("claims", "direct", 1, spelled(2.0**60, 2.0**60)),
        put("claims", "gradient", [spelled(7, 7)] * 2),
    ),
    "indirect widened": (
        put("claims", "indirect", 0, spelled(-(2.0**60), -(2.0**60))),
        put("claims", "direct", [spelled(0, 0)] * 2),
    ),
    "anything above": (put(*OBJECTIVE, spelled(100, 2.0**1000)),),
    "anything below": (tamper(OBJECTIVE, anything_below),),
    "upside down": (tamper(OBJECTIVE, lambda ends: ends[::-1]),),
    "two units off": (tamper(OBJECTIVE, two_units_off),),
}


@pytest.mark.parametrize("changes", FORGED.values(), ids=FORGED)
def test_forged_claims_are_refused(small, changes):
    assert not isinstance(rejected(small, *changes), NoCertificateError)


@pytest.mark.parametrize(
    ("name", "part"),
    [("leader_value", "objective"), ("occupancy", "direct"), ("arrivals", "indirect")],
)
def test_a_proof_and_a_claim_that_lie_together_are_refused(small, name, part, monkeypatch):
    """The claim is what follows if a wrong number of the proof is believed; others are wide."""
    document = json.loads(small)
    document["proof"][name][1] = longer(document["proof"][name][1])
    wide = spelled(-1e300, 1e300)
    document["claims"] = {x: [[end] * 2 for end in wide] for x in checker.PARTS}
    document["claims"]["objective"] = wide

    def believe(found, claims, fixed):
        ends = [[(x[end] / fixed.one).hex() for x in found[part]] for end in (0, 1)]
        document["claims"][part] = [x[0] for x in ends] if part == "objective" else ends

    with monkeypatch.context() as patch:
        patch.setattr(checker, "_widened", lambda guess, residual, rest: guess)
        patch.setattr(checker, "_compare", believe)
        check_certificate(document)
    rejected(json.dumps(document))


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_both_ends_have_to_be_shown(small, sign):
    """A coarse proof leaves room for more than the truth; a claim that ends in it is not shown."""
    document = json.loads(small)
    document["proof"]["arrivals"][1] = longer(document["proof"]["arrivals"][1])
    check_certificate(json.loads(small))
    for part in ("indirect", "gradient"):
        for end, ends in enumerate(document["claims"][part]):
            away = 1.0 if (end == 0) == (sign < 0) else 1e-9
            ends[:] = [(float.fromhex(x) + sign * away).hex() for x in ends]
    rejected(json.dumps(document), kind=UnprovenError, message=r"indirect\[0\] is not shown")


def test_a_true_claim_may_be_wide(small):
    document = json.loads(small)
    put(*OBJECTIVE, spelled(-1e300, 1e300))(document)
    put("claims", "direct", 1, spelled(2.0**60, 2.0**60))(document)
    assert check_certificate(document) == 256


@pytest.mark.parametrize("scale", [2.0**60, 2.0**-60, 2.0**-900])
def test_an_honest_parameter_of_another_scale_buys_nothing(scale):
    """Features of the second parameter are larger or smaller; each claim has its own unit."""
    base = tables()
    problem = tb.FeatureProblem(base, follower_reward=np.eye(4)[:, :2] * [1.0, scale])
    document = tb.enclose(problem, [0.0, 0.0]).certificate()
    check_certificate(document)
    for place in range(2):
        places = [("claims", x, end, place) for x in ("gradient", "indirect") for end in (0, 1)]
        forge = [tamper(each, more) for each in places]
        rejected(json.dumps(document), *forge, message=rf"indirect\[{place}\] is not within")


def test_zero_is_claimed_to_one_unit_in_its_last_place():
    """Rewards 1 and -1 at a tie: J is 0 for no reason of structure."""
    base = tables(
        transition=[[[0.5, 0.5]] * 2] * 2,
        follower_reward=np.full((2, 2), 0.25),
        leader_reward=[[1.0, -1.0], [-1.0, 1.0]],
    )
    enclosure = tb.enclose(tb.FeatureProblem(base, leader_reward=np.eye(4)[:, :1]), [0.0])
    exactly = dataclasses.replace(enclosure, objective=tb.Interval(0.0, 0.0))
    document = exactly.certificate()
    assert check_certificate(document) > 1074
    for claim in (2 * SMALLEST, -2 * SMALLEST):
        rejected(json.dumps(document), put(*OBJECTIVE, spelled(claim, claim)), message="objective")


def test_bounds_that_are_wrong_get_no_certificate():
    enclosure = tb.enclose(*ORDINARY["two-state"])
    wrong = dataclasses.replace(enclosure, objective=tb.Interval(1.0, 1.5))
    with pytest.raises(tb.CertificationError, match="does not accept the proof"):
        wrong.certificate()


# ---------------------------------------------------------------- grammar


def rename(old, new):
    return lambda document: document.update({new: document.pop(old)})


def text_like(text):
    """A string that only says that it is one."""
    return type("Text", (str,), {})(text)


NUMBER = "not a float64 number"
MALFORMED = {
    "format": (put("format", "other"), "the format is 'other', not"),
    "format's type": (put("format", None), "the format is of type NoneType"),
    "no proof": (lambda document: document.pop("proof"), "the document has no proof"),
    "no steps": (lambda document: document["proof"].pop("steps"), "proof has no steps"),
    "unknown table": (put("proof", "more", []), "proof has the unknown key 'more'"),
    "unknown claim": (put("claims", "more", []), "claims has the unknown key 'more'"),
    "unknown derivative": (put("tangents", 0, "more", []), "unknown key 'more'"),
    "unknown key": (put("comment\x1b[2J", "x"), r"the unknown key 'comment\\x1b\[2J'"),
    "renamed": (rename("temperature", "Temperature"), "unknown key 'Temperature'"),
    "key of another type": (put(0, "x"), "unknown key 0"),
    "key of another kind": (rename("format", text_like("format")), "unknown key of type Text"),
    "array for object": (put("proof", []), "proof is of type list, not an object"),
    "object for array": (put("pairs", {}), "pairs is of type dict, not an array"),
    "tuple": (put("initial", ()), "initial is of type tuple, not an array"),
    "pair": (put("pairs", 1, "x"), r"pairs\[1\] is 'x', not an object"),
    "state before the first": (put("pairs", 0, "state", -1), r"state is -1, not an index below 2"),
    "state behind the last": (put("pairs", 3, "state", 2), r"state is 2, not an index below 2"),
    "huge state": (put("pairs", 0, "state", 10**5000), "state is of type int, not an index"),
    "float state": (put("pairs", 2, "state", 1.0), "state is of type float, not an index"),
    "boolean state": (put("pairs", 2, "state", True), "state is of type bool, not an index"),
    "string state": (put("pairs", 2, "state", "1"), "state is '1', not an index"),
    "numpy's state": (put("pairs", 2, "state", np.int64(1)), "of type int64, not an index"),
    "states backwards": (put("pairs", 0, "state", 1), "of state 1, after one of state -1"),
    "state twice": (put("pairs", 3, "state", 0), "of state 0, after one of state 1"),
    "state without action": (tamper(("pairs",), lambda x: x[:2]), "pairs end with state 0, not 1"),
    "no pairs": (put("pairs", []), "pairs end with state -1, not 1"),
    "no states": (put("initial", []), "index below 0"),
    "another state": (tamper(("initial",), lambda x: [*x, x[0]]), "pairs end with state 1, not 2"),
    "target": (put("pairs", 0, "successors", 0, 0, 2), r"\[0\]\[0\] is 2, not an index below 2"),
    "target twice": (
        tamper(("pairs", 0, "successors"), lambda x: [x[0], x[0]]),
        r"successors\[1\]\[0\] is 0 after 0: indices must rise",
    ),
    "targets backwards": (tamper(("pairs", 0, "successors"), lambda x: x[::-1]), "is 0 after 1"),
    "three in an entry": (put("pairs", 0, "successors", 0, [0, "0x1p+0", 0]), "3 entries, not 2"),
    "slope's place": (put("tangents", 0, "follower_reward", 0, 0, 999), "is 999, not an index"),
    "slope's string": (put("tangents", 0, "follower_reward", 0, 0, "0"), "is '0', not an index"),
    "slope twice": (
        tamper(("tangents", 0, "follower_reward"), lambda x: [x[0], x[0]]),
        "indices must rise",
    ),
    "second temperature": (
        put("tangents", 0, "temperature", [[1, "0x1p+0"]]),
        "is 1, not an index below 1",
    ),
    "initial's slope": (put("tangents", 0, "initial", [[2, "0x1p+0"]]), "not an index below 2"),
    "entry's slope": (put("tangents", 0, "transition", [[8, "0x1p+0"]]), "not an index below 8"),
    "slope of no entry": (put("tangents", 0, "transition", [[-1, "0x1p+0"]]), "is -1, not"),
    "claim left out": (tamper(("claims", "gradient", 0), lambda x: x[:-1]), "1 entries, not 2"),
    "claim too many": (tamper(("claims", "direct", 1), lambda x: [*x, x[0]]), "3 entries, not 2"),
    "claims of three": (tamper(("claims", "indirect"), lambda x: [*x, x[0]]), "3 entries, not 2"),
    "third bound": (tamper(("claims", "objective"), lambda x: [*x, x[0]]), "3 entries, not 2"),
    "tangent left out": (tamper(("tangents",), lambda x: x[:1]), "2 entries, not 1"),
    "proof too short": (tamper(("proof", "occupancy"), lambda x: x[:1]), "1 entries, not 2"),
    "proof too long": (tamper(("proof", "steps"), lambda x: [*x, "0x1p+0"]), "3 entries, not 2"),
    "word": (put("temperature", "warm"), f"temperature is 'warm', {NUMBER}"),
    "decimal": (put("temperature", "0.5"), NUMBER),
    "float": (put("temperature", 0.5), f"temperature is of type float, {NUMBER}"),
    "fraction": (put("temperature", Fraction(1, 2)), "temperature is of type Fraction"),
    "string's kind": (put("temperature", text_like("0x1p-1")), "temperature is of type Text"),
    "infinite": (put("claims", "objective", 1, "inf"), NUMBER),
    "not a number": (put("claims", "objective", 1, "nan"), NUMBER),
    "too large": (put("claims", "objective", 1, "0x1p+1024"), NUMBER),
    "between floats": (put("claims", "objective", 1, "0x1.00000000000008p+0"), NUMBER),
    "below float64": (put("temperature", "0x1p-1075"), NUMBER),
    "exponent": (put("temperature", "0x1p+99999999"), NUMBER),
    "long": (
        put("temperature", "0x1" + "0" * 10**6 + "p+0"),
        r"'0x100000000000000000\.\.\.0000p\+0'",
    ),
    "underscore": (put("temperature", "0x1.8_0p+0"), NUMBER),
    "other digits": (put("temperature", "0x1.\u0661p+0"), r"'0x1.\\u0661p\+0'"),
    "space": (put("temperature", " 0x1p+0"), NUMBER),
    "new line": (put("temperature", "0x1p+0\n"), NUMBER),
    "plus": (put("temperature", "+0x1p+0"), NUMBER),
    "capitals": (put("temperature", "0X1P+0"), NUMBER),
    "escapes": (put("temperature", "\x1b]0;x\x07"), r"'\\x1b\]0;x\\x07'"),
    "surrogate": (put("temperature", "\ud800"), r"'\\ud800'"),
    "proof's number": (put("proof", "steps", 0, "0x1.8p+0"), "not a number as '-0x1af3p-12'"),
    "proof's float": (put("proof", "steps", 0, 1.0), "of type float, not a number as"),
    "proof's digits": (put("proof", "steps", 0, f"0x{'f' * 8193}p+0"), "not a number as"),
    "proof's exponent": (put("proof", "steps", 0, "0x1p-32769"), "too large or too fine"),
    "proof's size": (put("proof", "steps", 0, "0x1p+4096"), "too large or too fine"),
    "proof's long exponent": (put("proof", "steps", 0, "0x1p+999999"), "not a number as"),
}


@pytest.mark.parametrize(("change", "message"), MALFORMED.values(), ids=MALFORMED)
def test_what_is_malformed_is_no_certificate(small, change, message):
    said = str(rejected(small, change, kind=NoCertificateError, message=message))
    assert said.isascii()
    assert said.isprintable()


@pytest.mark.parametrize("document", [None, [], "text", 1.0, True, {}, b"{}"])
def test_what_is_no_object_is_no_certificate(document):
    with pytest.raises(NoCertificateError, match="the document"):
        check_certificate(document)


def test_play_that_starts_nowhere_and_other_slopes_of_the_temperature_are_refused(small):
    for change, message in (
        (put("initial", spelled(0, 0)), "play starts in no state"),
        (put("tangents", 0, "temperature", [[0, "0x1.8p+0"]]), "is not within the bounds that are"),
        (put("tangents", 0, "temperature", []), "is not within the bounds that are claimed"),
        (put("tangents", 0, "temperature", None), "temperature is of type NoneType, not an array"),
    ):
        rejected(small, change, message=message)


# ---------------------------------------------------------------- files


def run(*names, within=()):
    """Run the checker as a program; the package is not in its reach."""
    command = [*within, sys.executable, "-I", checker.__file__, *map(os.fspath, names)]
    return subprocess.run(command, capture_output=True, check=False, timeout=60)


def test_the_checker_is_a_file_that_runs_alone(tmp_path, certificate):
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    tb.enclose(*ORDINARY["two-state"]).save_certificate(good)
    bad.write_text(certificate[:1000], encoding="utf-8")
    script = tmp_path / "alone.py"
    script.write_text(Path(checker.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    command = [sys.executable, "-I", str(script), str(good), str(bad)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert f"{good}: proven, with 256 bits" in ran.stdout
    assert f"{bad}: NO CERTIFICATE, it is not JSON" in ran.stdout
    assert checker.main([str(good)]) == 0


def test_the_worst_file_decides(tmp_path, small, capsys):
    document = json.loads(small)
    document["claims"]["objective"] = spelled(7, 7)
    files = {"good": small, "wrong": json.dumps(document), "none": "[]"}
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    for names, status in (
        (["good", "good"], 0),
        (["good", "wrong", "good"], 1),
        (["none", "wrong", "good"], 2),
        (["wrong", "none"], 2),
        ([], 2),
    ):
        assert checker.main([str(tmp_path / name) for name in names]) == status
        assert len(capsys.readouterr().out.splitlines()) == max(len(names), 1)


DUPLICATE = '{"format": "tabular-bilevel certificate 2", "format": "tabular-bilevel certificate 2"}'
CONTENT = {
    "empty": (b"", "it is not JSON"),
    "truncated": (b'{"format": ', "it is not JSON"),
    "number": (b"1", "the document is 1, not an object"),
    "key twice": (DUPLICATE.encode(), "an object has a key twice"),
    "NaN": (b"[NaN]", "'NaN' is no integer"),
    "infinity": (b"[-Infinity]", "'-Infinity' is no integer"),
    "float": (b"[1.0]", "'1.0' is no integer"),
    "exponent": (b"[1e99999]", "'1e99999' is no integer"),
    "long integer": (b"[" + b"9" * 10**6 + b"]", "an integer has more than 9 digits"),
    "brackets": (b"[" * 10**6, "it has brackets and hardly anything else"),
    "deep arrays": (b"[        " * 10**5, "it is nested too deeply"),
    "deep and closed": (b"[        " * 10**5 + b"]" * 10**5, "it is nested too deeply"),
    "deep objects": (b'{"a":        ' * 10**5, "it is nested too deeply"),
    "byte order mark": (b"\xef\xbb\xbf{}", "it is not JSON: 'ascii' codec"),
    "UTF-16": ("{}".encode("utf-16"), "it is not JSON: 'ascii' codec"),
    "Latin-1": (b'{"\xe9": 0}', "it is not JSON: 'ascii' codec"),
    "escape": (b'{"\x1b[2J": 0}', "it is not JSON: Invalid control character"),
    "escaped escape": (b'{"\\u001b[2J": 0}', r"unknown key '\x1b[2J'"),
    "surrogate": (b'{"\\ud800": 0}', r"unknown key '\ud800'"),
    "binary": (bytes(range(256)), "it is not JSON"),
    "zeros": (b"\0" * 10**6, "it is not JSON"),
    "two documents": (b"{} {}", "it is not JSON: Extra data"),
}


@pytest.mark.parametrize(("content", "message"), CONTENT.values(), ids=CONTENT)
def test_files_that_are_no_certificates_are_refused_in_a_line(tmp_path, content, message, capsys):
    path = tmp_path / "file"
    path.write_bytes(content)
    assert checker.main([str(path)]) == 2
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{path}: NO CERTIFICATE, ")
    assert message in line
    assert len(line) < 400


def test_places_that_are_no_files_are_refused_in_a_line(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "name\n\x1b[2J\u202e\x9b")
    (tmp_path / "endless").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "folder").mkdir()
    names = sorted([*tmp_path.iterdir(), tmp_path / "missing", Path("/proc/self/pagemap")])
    ran = run(*names)
    lines = ran.stdout.decode("ascii").splitlines()
    assert (ran.returncode, ran.stderr) == (2, b"")
    assert len(lines) == len(names) == 7
    assert all("NO CERTIFICATE, it" in line and line.isprintable() for line in lines)
    assert sum("it is no regular file" in line for line in lines) == 4
    assert any(r"name\n\x1b[2J\u202e\x9b: " in line for line in lines)
    assert checker.main(["\0"]) == 2
    assert checker.main(["x" * 10**5]) == 2


def test_without_files_there_is_a_line_of_usage():
    ran = run()
    assert ran.returncode == 2
    assert ran.stdout.decode().startswith("usage: ")
    assert len(ran.stdout.splitlines()) == 1


# A GiB of address space. (Not by a preexec_fn: a fork of this process would wake JAX's warning.)
LIMITED = ("sh", "-c", 'ulimit -v 1048576 && exec "$0" "$@"')


# Lists of small objects are what JSON expands most.
BULKY = ("[],", '{"":0},', "[[[]]],", '"00",', "[0,0],", '"\\u0100",', "999,", "[0,0]   ,")


@sizes("piece", BULKY[:2], BULKY[2:])
def test_memory_is_limited(tmp_path, piece):
    path = tmp_path / "file"
    n = (checker.LARGEST_FILE - 100) // len(piece)
    path.write_text(f"[{piece * n}0]", encoding="ascii")
    ran = run(path, within=LIMITED)
    assert (ran.returncode, ran.stderr) == (2, b"")
    few, many = b"the document is of type list", b"it has brackets and hardly anything else"
    assert (many if piece.count("[") + piece.count("{") > len(piece) / 8 else few) in ran.stdout


def test_large_files_are_not_read(tmp_path):
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(2**40)
    ran = run(path, within=LIMITED)
    assert ran.returncode == 2
    assert b"it has 1099511627776 bytes, more than 16777216" in ran.stdout


def test_work_is_limited(small, monkeypatch):
    monkeypatch.setattr(checker, "LARGEST_WORK", 2**18 - 1)
    rejected(small, message="nothing is shown yet, and 256 bits take too long")


# ---------------------------------------------------------------- mutants


@pytest.fixture(scope="module")
def family():
    """Small certificates of many kinds, as JSON."""
    model = tables()
    instances = [
        ORDINARY["two-state"],
        ORDINARY["one-state bandit"],
        draw("undiscounted", 0, max_states=3).at,
        draw("temperature", 1, number=1, max_states=3).at,
        draw("patchy", 1, max_states=3).at,
        (tb.FeatureProblem(model, leader_reward=np.eye(4)[:, :1]), [0.0]),
        (tb.FeatureProblem(model, follower_reward=np.eye(4)[:, :2] * [1.0, 2.0**60]), [0.0, 0.0]),
        (tb.problems.layered(depth=2), [0.3, 0.2, 0.1, 0.0]),
    ]
    return [json.dumps(tb.enclose(problem, theta).certificate()) for problem, theta in instances]


def accepted(family, count):
    """Mutate certificates at random; give those that are accepted, and count the others."""
    seen, kept = Counter(), []
    for k in range(count):
        document = mutants.mutant(np.random.default_rng([k]), family)
        try:
            check_certificate(document)
        except RejectedError as error:
            seen[type(error)] += 1
        else:
            kept.append(document)
    return kept, seen


@sizes("count", [500], [5000])
def test_mutants_that_are_accepted_are_true(family, count):
    kept, seen = accepted(family, count)
    truths = Truths()
    assert all(truths.hold(document) for document in kept)
    # of all kinds there are many, and of those accepted most have changed
    assert seen[NoCertificateError] > count / 10
    assert seen[RejectedError] > count / 5
    assert seen[UnprovenError] > count / 50
    assert sum(json.dumps(document) not in family for document in kept) > count / 10
    assert len(truths.known) > (1 + count / 5000) * len(family)


def test_a_slack_of_the_largest_claim_lets_lies_through(family, monkeypatch):
    """The control: what the checker once did, to one unit of the largest of all claims."""
    compare = checker._compare

    def slack(found, claims, fixed):
        ends = [abs(x) for name in checker.PARTS for pair in claims[name] for x in pair]
        monkeypatch.setattr(checker, "_unit", lambda _: Fraction(max(ends, default=0.0)) / 2**52)
        compare(found, claims, fixed)

    monkeypatch.setattr(checker, "_compare", slack)
    kept, _ = accepted(family, 250)
    truths = Truths()
    assert not all(truths.hold(document) for document in kept)


# ---------------------------------------------------------------- arithmetic


def test_the_checkers_exponential_holds_the_exponential():
    rng = np.random.default_rng(0)
    for bits in (64, 256, 1000):
        fixed = checker._Arithmetic(bits)
        for x in [*rng.uniform(-bits, 1, 100), *-(10.0 ** rng.uniform(-30, 0, 100)), -bits - 1.0]:
            low, high = fixed.exp(fixed.of(Fraction(x)))
            with flint.ctx.workprec(2 * bits):
                exact = arb(float(x)).exp() * fixed.one
                assert low <= exact <= high
            assert high - low <= 4 + abs(x)
    assert fixed.exp((0, 0)) == (fixed.one, fixed.one)


def test_the_checkers_products_are_rounded_outward():
    fixed, rng = checker._Arithmetic(16), np.random.default_rng(0)
    for _ in range(200):
        x, y = rng.normal(size=2).tolist()
        product, ratio = Fraction(x) * Fraction(y), Fraction(x) / abs(Fraction(y))
        for interval, exact in (
            (fixed.times(fixed.of(x), fixed.of(y)), product),
            (fixed.scaled(fixed.of(x), y), product),
            (fixed.divided(fixed.of(x), abs(y)), ratio),
        ):
            assert interval[0] <= exact * fixed.one <= interval[1]
            assert interval[1] - interval[0] <= 8 + 2 / abs(y)
