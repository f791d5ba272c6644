"""Files: written whole or not at all; strangers' are read within limits, and shown with escapes."""

import io
import json
import os
import stat
import struct
import subprocess
import sys
import threading
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from small import ENTRY, MANIFEST, each_refused

import tabular_bilevel as tb
from tabular_bilevel._base import files
from tabular_bilevel._base.files import (
    alone_in,
    brief,
    read_array,
    read_arrays,
    read_file,
    read_json,
    require_writable,
    shown,
    write_file,
)
from tabular_bilevel.cli import main
from tabular_bilevel.problems.grid_world import parse_map
from tabular_bilevel.vectors import JSON, Plan, load_vector, load_vectors, write_vectors
from tabular_bilevel.vectors.making import VectorRecipe, made

ESCAPE = "\x1b]0;owned\x07\x1b[31m"


# ---------------------------------------------------------------- writing


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "file"
    for raw in (b"old", b"", b"new" * 100_000):
        write_file(path, raw)
        assert path.read_bytes() == raw
    assert list(tmp_path.iterdir()) == [path]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_a_link_is_replaced_and_not_what_it_leads_to(tmp_path):
    (tmp_path / "thesis").write_bytes(b"years of work")
    (tmp_path / "link").symlink_to(tmp_path / "thesis")
    write_file(tmp_path / "link", b"new")
    assert (tmp_path / "thesis").read_bytes() == b"years of work"
    assert not (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("place", ["/dev/null", ".", "a device behind a link"])
def test_what_is_no_file_is_not_replaced(place, tmp_path):
    if " " in place:
        place = tmp_path / place
        place.symlink_to("/dev/null")
    for write in (require_writable, lambda path: write_file(path, b"x")):
        with pytest.raises(ValueError, match="is no regular file, which alone can be replaced"):
            write(place)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_folder_that_is_missing_is_an_error_before_the_work(tmp_path):
    for write in (require_writable, lambda path: write_file(path, b"x")):
        with pytest.raises(FileNotFoundError, match=r"none'$"):  # and not a draft in it
            write(tmp_path / "none" / "file")
    require_writable(tmp_path / "file")
    assert not list(tmp_path.iterdir())


def test_one_is_alone_in_a_folder_and_clears_what_was_left(tmp_path):
    (tmp_path / ".1-0123456789abcdef.part").write_bytes(b"half")
    code = (
        "import sys; from tabular_bilevel._base.files import alone_in\n"
        "with alone_in(sys.argv[1]): pass"
    )
    (tmp_path / ".thesis.part").write_bytes(b"somebody else's")
    with alone_in(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [".thesis.part"]
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
        )
        assert "is being written to by another process" in done.stderr
    with alone_in(tmp_path), pytest.raises(OSError, match="another process"), alone_in(tmp_path):
        pass


# ---------------------------------------------------------------- showing


def test_nothing_that_is_shown_acts_on_a_terminal():
    text = "a\x1b[31m\r\n\x00\x7f\x9b\u202e\udcff é"
    assert shown(text) == r"a\x1b[31m\r\n\x00\x7f\x9b\u202e\udcff é"
    assert brief("x" * 10**6) == "x" * 200 + "..."
    assert brief("x" * 200) == "x" * 200


def archive(**members):
    """Make a zip archive of raw members."""
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return raw.getvalue()


def npy(array, **header):
    """Encode an array, or say something else in the header."""
    raw = io.BytesIO()
    says = np.lib.format.header_data_from_array_1_0(array) | header
    np.lib.format.write_array_header_1_0(raw, says)
    return raw.getvalue() + array.tobytes()


def test_no_message_has_an_escape(tmp_path, capsys, monkeypatch):
    folder = tmp_path / f"dir{ESCAPE}"
    folder.mkdir()
    manifest = MANIFEST | {"licence": ESCAPE}
    entry = ENTRY | dict.fromkeys(("sha256", "family", "name"), ESCAPE) | {"flags": [ESCAPE]}
    (folder / "a.npz").write_bytes(archive(**{ESCAPE: npy(np.zeros(2))[:-1]}))
    (folder / f"b{ESCAPE}.npz").write_bytes(b"")
    for changes in (
        {"schema_version": ESCAPE}, {"vectors": [entry]}, {"vectors": [entry | {"sha256": "\n"}]},
        {"vectors": [entry | {"file": f"x{ESCAPE}"}]}, {"vectors": [{ESCAPE: 1}]},
        {"format": ESCAPE}, {"vectors": [entry, entry]}, {},
    ):  # fmt: skip
        (folder / "manifest.json").write_text(json.dumps(manifest | changes))
        assert main(["vectors", "verify", str(folder)]) in (1, 2)
        assert main(["vectors", "write", str(folder), "--families", "tied", "--count", "1"]) == 2
        if "format" not in changes and changes:
            with pytest.raises(ValueError, match="dir") as caught:
                load_vectors(folder)
            assert str(caught.value).isprintable()
    assert main(["gradient", "bandit", "--theta", str(folder / "a.npz")]) == 2
    assert main(["check", f"x{ESCAPE}:y", "--problem", "bandit"]) == 2
    (tmp_path / "module.py").write_text(f"raise RuntimeError({ESCAPE!r})")
    monkeypatch.chdir(tmp_path)
    assert main(["check", "module:x", "--problem", "bandit"]) == 2
    with pytest.raises(SystemExit):
        main(["gradient", "bandit", "--theta", "x", f"--{ESCAPE}"])
    printed = "".join(capsys.readouterr())
    assert r"\x1b" in printed
    assert not any(not c.isprintable() and c != "\n" for c in printed)
    for read in (load_vector, read_arrays, read_array, read_json, parse_map, tb.AscentState.load):
        for file in (folder / "a.npz", folder / f"b{ESCAPE}.npz"):
            with pytest.raises(ValueError, match="dir") as caught:
                read(file)
            assert str(caught.value).isprintable()


# ---------------------------------------------------------------- what is no file


READERS = {
    "file": read_file,
    "JSON": read_json,
    "array": read_array,
    "arrays": read_arrays,
    "vector": load_vector,
    "map": parse_map,
    "state": lambda path: tb.AscentState.load(path),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", ["pipe", "device", "link", "folder"])
def test_what_is_no_regular_file_is_refused_at_once(name, kind, tmp_path):
    path = tmp_path / "thing.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("/dev/zero")
    else:
        path = Path("/dev/zero")
    failed = []

    def read():
        try:
            READERS[name](path)
        except ValueError as error:
            failed.append(str(error))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(timeout=30.0)
    assert "is no regular file" in failed[0]


def test_a_folder_of_vectors_with_a_pipe_is_refused_by_the_command(tmp_path, capsys):
    os.mkfifo(tmp_path / "manifest.json")
    assert main(["vectors", "verify", str(tmp_path)]) == 2
    assert "manifest.json is no regular file" in capsys.readouterr().err


def test_a_pipe_that_takes_the_file_s_place_is_not_waited_for(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"")
    earlier = os.stat(tmp_path / "file")
    monkeypatch.setattr(files.os, "stat", lambda path: earlier)
    with pytest.raises(ValueError, match="is no regular file"):
        read_file(tmp_path / "pipe")


# ---------------------------------------------------------------- limits


@pytest.mark.parametrize("name", [*READERS, "vectors"])
def test_a_file_above_the_limit_is_refused(name, tmp_path):
    path = tmp_path / "manifest.json"
    path.write_bytes(b" " * 1001)
    read = {**READERS, "state": tb.AscentState.load, "vectors": lambda path, limit: load_vectors(
        path.parent, limit=limit)}[name]  # fmt: skip
    limit = files.JSON_GROWTH * 1000 if name in ("JSON", "vector", "vectors") else 1000
    with pytest.raises(ValueError, match=r"1,001 bytes.*, above the limit of 1,000"):
        read(path, limit=limit)
    for bad in (-1, -2, -100):
        with pytest.raises(ValueError, match="above the limit"):
            read(path, limit=bad)


LARGE = 10**9

HOSTILE = {
    "a header that says much": npy(np.zeros(3), shape=(LARGE,)),
    "more dimensions than any": npy(np.zeros(3), shape=(10**6,) * 30),
    "a negative length": npy(np.zeros(3), shape=(-3,)),
    "lengths that multiply to little": npy(np.zeros(1), shape=(-1, -1)),
    "objects": npy(np.zeros(3), descr="|O"),
    "a record": npy(np.zeros(3), descr=[("a", "<f8")]),
    "raw bytes": npy(np.zeros(3), descr="|V8"),
    "strings of no length": npy(np.zeros(0), descr="<U0", shape=(LARGE,)),
    "less than it says": npy(np.zeros(3))[:-1],
    "more than it says": npy(np.zeros(3)) + b"x",
    "a deep header": b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000,
    "a long header": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b" " * 20_000,
    "no header": b"\x93NUMPY\x01",
    "another version": b"\x93NUMPY\x03\x00" + npy(np.zeros(3))[8:],
    "nothing": b"",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_arrays_are_refused(name, tmp_path):
    (tmp_path / "a.npy").write_bytes(HOSTILE[name])
    (tmp_path / "a.npz").write_bytes(archive(theta=HOSTILE[name]))
    each_refused(
        (lambda: read_array(tmp_path / "a.npy"), r"a\.npy is no \.npy file of numbers"),
        (lambda: read_arrays(tmp_path / "a.npz"), r"a\.npz is no npz archive of arrays"),
        (lambda: load_vector(tmp_path / "a.npz"), r"a\.npz is damaged"),
    )


WHOLE = archive(a=npy(np.zeros(3)))


def in_directory(place, byte):
    """Change a byte of what the archive lists."""
    k = WHOLE.index(b"PK\x01\x02") + place
    return WHOLE[:k] + bytes([byte]) + WHOLE[k + 1 :]


def doubled():
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as file:
        file.writestr("a.npy", npy(np.zeros(3)))
        with pytest.warns(UserWarning, match="Duplicate name"):
            file.writestr("a.npy", npy(np.zeros(3)))
    return raw.getvalue()


@pytest.mark.parametrize(
    "raw",
    [
        in_directory(8, 1), in_directory(10, 12), WHOLE[:-1],  # numpy writes no bzip2
        archive(**{f"a{k}": b"" for k in range(1001)}), archive() + b"x" * 70_000,
        archive(a=npy(np.zeros(8000)), b=npy(np.zeros(8000))), None,
    ],
    ids=["encrypted", "bzip2", "cut", "many", "after", "together", "twice"],
)  # fmt: skip
def test_hostile_archives_are_refused(raw, tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(doubled() if raw is None else raw)
    each_refused(
        (lambda: read_arrays(path, 10**5), r"a\.npz is no npz archive of arrays"),
        (lambda: load_vector(path, limit=10**5), r"a\.npz is damaged"),
    )


def test_arrays_are_read_as_they_were_written(tmp_path):
    arrays = {
        "empty": np.zeros((0, 3)), "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "word": np.array("x"), "words": np.array(["a", "bc"]), "flag": np.array([True, False]),
        "one": np.array(3), "big": np.arange(3, dtype=">i4"), "none": np.array((), dtype="<U"),
    }  # fmt: skip
    np.savez(tmp_path / "a.npz", **arrays)
    for name, array in read_arrays(tmp_path / "a.npz").items():
        np.testing.assert_array_equal(array, arrays[name])
        assert array.dtype == arrays[name].dtype.newbyteorder("=")
    truth = npy(np.array([2, 0], dtype=np.uint8), descr="|b1")
    (tmp_path / "b.npy").write_bytes(truth)
    assert read_array(tmp_path / "b.npy").tobytes() == b"\x01\x00"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "recursion"), ('{"a": 1, "a": 2}', "key 'a' twice"),
        ("[NaN]", "NaN, which is no number"), ("[-Infinity]", "no number"), ("{", "no sound JSON"),
        ("\ufeff{}", "no sound JSON"), ("9" * 5000, "limit"), ("", "no sound JSON"),
    ],
)  # fmt: skip
def test_hostile_json_is_refused(text, message, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_json(tmp_path / "a.json")
    with pytest.raises(ValueError, match=r"a\.json is damaged"):
        load_vector(tmp_path / "a.json")


@pytest.mark.parametrize(
    "piece", ["[],", "[[]],", "[" * 100 + "]" * 100 + ",", '{"":0},', '{"":{"":[]}},', '"\u20ac",']
)
def test_json_takes_no_more_memory_than_it_may(piece, tmp_path):
    limit = 2**22
    n = limit // files.JSON_GROWTH // len(piece.encode()) - 1
    (tmp_path / "file.json").write_text(f"[{n * piece}0]", encoding="utf-8")
    tracemalloc.start()
    try:
        assert len(read_json(tmp_path / "file.json", limit)) == n + 1
        assert tracemalloc.get_traced_memory()[1] <= limit
    finally:
        tracemalloc.stop()


def test_a_map_has_a_limit_and_sizes_in_digits(tmp_path):
    (tmp_path / "a.map").write_bytes(b"." * (2**21 + 1))
    with pytest.raises(ValueError, match=r"a\.map has 2,097,153 bytes or more, above the limit"):
        parse_map(tmp_path / "a.map")
    for digits in ("9" * 5000, "9" * 10, "٣", "-1"):
        with pytest.raises(ValueError, match="height is no positive integer"):
            parse_map(f"type octile\nheight {digits}\nwidth 1\nmap\n.\n")


# ---------------------------------------------------------------- memory

# Of address space that a reader may take on top of what is there when it starts. The smallest
# bomb is larger.
ROOM = 600 * 2**20

DRIVER = """
import json, resource, sys
import numpy as np
import tabular_bilevel as tb
from tabular_bilevel.cli import main
from tabular_bilevel.problems.grid_world import parse_map
from tabular_bilevel.vectors import check_vectors, load_vector, load_vectors
from tabular_bilevel._base.files import read_array, read_arrays, read_json

tb.hypergradient(tb.problems.bandit(), [0.0, 0.0])  # threads and compilers are there
main(["vectors", "verify", sys.argv[3]])
pages = int(open("/proc/self/statm").read().split()[0])
room = pages * resource.getpagesize() + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (room, room))
READERS = {
    "load_vector": load_vector, "state": tb.AscentState.load, "read_array": read_array,
    "read_arrays": read_arrays, "read_json": read_json, "parse_map": parse_map,
    "load_vectors": load_vectors,
    "check_vectors": lambda path: [check.trouble for check in check_vectors(path)],
    "gradient": lambda path: main(["gradient", "bandit", "--theta", path]),
    "verify": lambda path: main(["vectors", "verify", path]),
    "naive": lambda path: [table for table in np.load(path).values()],
    "naive JSON": lambda path: json.load(open(path)),
}
for name, path in json.loads(sys.argv[1]):
    try:
        result = READERS[name](path)
        print(json.dumps([name, "returned", str(result)]))
    except BaseException as error:
        print(json.dumps([name, type(error).__name__, str(error)[:100]]))
"""


def zeros_npz(path, names, size):
    """Write an archive of arrays of zeros, which compress to a thousandth."""
    chunk = b"\0" * 2**20
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for name in names:
            with file.open(f"{name}.npy", "w", force_zip64=True) as member:
                member.write(npy(np.zeros(0), shape=(size // 8,)))
                for _ in range(size // len(chunk)):
                    member.write(chunk)


def vector_json(**more):
    return json.dumps(json.loads(JSON.encode(made(VectorRecipe("closed-form", 0, 0, 20)))) | more)


@pytest.fixture(scope="module")
def bombs(tmp_path_factory):
    """Files that take gigabytes if they are just read; each is small."""
    folder = tmp_path_factory.mktemp("bombs")
    zero, table = "0x0.0p+0", [["0x0.0p+0"] * 1000]
    long = "0x0.0p+0" + "0" * 400_000
    texts = {
        # a thousand parameters' tables of a thousand entries, none of which is said
        "tangents": vector_json(
            tangents=[{}] * 150_000, theta=[zero] * 150_000, follower_reward=table,
            leader_reward=table, termination=table, available=[[True] * 1000],
        ),
        # numpy makes strings as long as the longest
        "floats": vector_json(theta=[long, *[zero] * 10_000]),
        "flags": vector_json(flags=["a" * 400_000, *["a"] * 100_000]),
        "places": vector_json(transition={"data": [], "indices": [], "indptr": [10**18]}),
        "available": vector_json(available=[[[[]] * 300_000]]),
        "rows": vector_json(follower_reward=[[]] * 400_000),
    }  # fmt: skip
    for name, text in texts.items():
        (folder / f"{name}.json").write_text(text)
    (folder / "lists.json").write_text("[" + "[]," * 10_000_000 + "0]")  # 64 bytes for 3
    zeros_npz(folder / "one.npz", ["theta"], 5 * 2**27)
    zeros_npz(folder / "many.npz", [f"a{k}" for k in range(5)], 2**27)
    stored = zlib.compress(npy(np.zeros(0), shape=(2**27,)))
    (folder / "header.npy").write_bytes(npy(np.zeros(0), shape=(2**40,)))
    (folder / "sparse.npy").write_bytes(npy(np.zeros(0), shape=(2**40 // 8,)))
    os.truncate(folder / "sparse.npy", 2**40)  # takes no space on disk
    (folder / "sparse.map").write_bytes(stored)
    os.truncate(folder / "sparse.map", 2**33)
    list(write_vectors(folder / "right", Plan(("tied",), 1)))
    for name in ("manifest", "entries"):
        (folder / name).mkdir()
    os.link(folder / "lists.json", folder / "manifest" / "manifest.json")
    listed = {"vectors": [ENTRY | {"file": "one.npz", "sha256": "0" * 64}]}
    (folder / "entries" / "manifest.json").write_text(json.dumps(MANIFEST | listed))
    os.link(folder / "sparse.npy", folder / "entries" / "one.npz")
    assert all(path.stat().st_blocks * 512 < 40e6 for path in folder.iterdir() if path.is_file())
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits and /proc as of Linux")
def test_small_files_take_little_memory(bombs):
    """The control: what reads naively runs out of it."""
    vectors = [(reader, f"{name}.json") for reader in ("load_vector",) for name in (
        "tangents", "floats", "flags", "places", "available", "rows", "lists",
    )]  # fmt: skip
    archives = [
        (reader, f"{name}.npz")
        for reader in ("load_vector", "state", "read_arrays", "gradient")
        for name in ("one", "many")
    ]
    rest = [
        ("read_array", "header.npy"), ("read_array", "sparse.npy"), ("gradient", "sparse.npy"),
        ("state", "sparse.npy"), ("parse_map", "sparse.map"), ("read_json", "lists.json"),
        ("load_vectors", "manifest"), ("check_vectors", "manifest"), ("verify", "manifest"),
        ("load_vectors", "entries"), ("check_vectors", "entries"), ("verify", "entries"),
    ]  # fmt: skip
    controls = [("naive", "one.npz"), ("naive JSON", "lists.json")]
    cases = [(reader, str(bombs / name)) for reader, name in vectors + archives + rest + controls]
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(cases), str(ROOM), str(bombs / "right")],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(found) == len(cases), done.stderr
    for (reader, path), (_, ended, said) in zip(cases, found, strict=True):
        case = f"{reader} of {Path(path).name}: {ended} {said}"
        if reader.startswith("naive"):
            assert ended == "MemoryError", case
        elif reader in ("gradient", "verify"):
            assert (ended, said) in (("returned", "2"), ("returned", "1")), case
        elif reader == "check_vectors" and "entries" in path:
            assert "above the limit" in said, case
        else:
            assert ended == "ValueError", case
