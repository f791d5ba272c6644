"""Load test vectors: one file that needs numpy alone, to be copied to where it is used.

    from load_vectors import load_vectors

    for vector in load_vectors("vectors"):
        mine = my_gradient(vector)  # from its tables and their derivatives
        assert abs(mine - vector.gradient).max() < 1e-6 * abs(vector.gradient).max()

A vector is a bilevel problem at one theta, and its answer. The follower plays the soft-optimal
policy for `follower_reward`, `follower_discount` and `temperature`, the leader's objective is
J = rho^T V_L under it, with `leader_reward` and `leader_discount`; and J's derivative is asked for
along changes of the tables, one for each parameter: that is the gradient with respect to theta,
whatever made the tables of it. In formulas, sums over what is available::

    Q_F(s,a) = r_F(s,a) + gamma_F sum_s' P(s'|s,a) V_F(s')
    V_F(s)   = temperature * log sum_a exp(Q_F(s,a) / temperature)
    pi(a|s)  = exp((Q_F(s,a) - V_F(s)) / temperature)
    V_L(s)   = sum_a pi(a|s) (r_L(s,a) + gamma_L sum_s' P(s'|s,a) V_L(s'))

Rows of P sum to 1 - termination. All numbers are float64 and exact as stored.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import stat
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "SCHEMA_VERSION",
    "Vector",
    "content_digest",
    "in_decimal",
    "load_vector",
    "load_vectors",
]

SCHEMA_VERSION = 1

TABLES = ("follower_reward", "leader_reward", "transition", "initial")

ANSWERS = ("objective", "gradient", "direct", "indirect")

# What the file's text is read as, in JSON.
WORDS = ("name", "family", "origin", "digest")
NUMBERS = ("follower_discount", "leader_discount", "temperature")
VECTORS = ("theta", "initial")
RECTANGLES = ("follower_reward", "leader_reward", "termination")

# Names; a first letter or digit, and no separator, keep a file's in its folder.
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

# As `float.hex` spells them.
HEXADECIMAL = re.compile(r"-?0x[01]\.[0-9a-f]+p[+-][0-9]+")

#: Bytes that a file, and what it unpacks to, may have unless told otherwise: 256 MiB.
LIMIT = 2**28

# JSON takes up to this many times its text in memory: a list in a list has 88 bytes for 2 of it.
JSON_GROWTH = 48

# Arrays in an archive, bytes of an array's header, characters of a line.
MOST_ARRAYS, HEADER, LONGEST = 1000, 10_000, 200


@dataclass(frozen=True, eq=False)
class Vector:
    """A problem at one theta, with its answer in proven bounds.

    S states, A actions, d parameters, nnz stored entries of the kernel, which is a CSR matrix of
    S*A rows, ``s * A + a``, and S columns.

    Attributes
    ----------
    name, family, origin : str
        Which it is.
    flags : tuple of str
        Mistakes that it aims at; the manifest's `notes` say which.
    follower_discount, leader_discount, temperature : float
        gamma_F, gamma_L and the weight of the follower's entropy.
    theta : ndarray, shape (d,)
        Where the tables were made; nothing else is needed of it.
    transition_data : ndarray, shape (nnz,)
        The kernel's entries.
    transition_indices, transition_indptr : ndarray of int, shapes (nnz,) and (S*A + 1,)
        Their columns, and where each row begins in the data.
    follower_reward, leader_reward : ndarray, shape (S, A)
        Rewards.
    initial : ndarray, shape (S,)
        rho.
    termination : ndarray, shape (S, A)
        Probability of an end after the step.
    available : ndarray of bool, shape (S, A)
        Which actions a state has; what tables hold elsewhere has no meaning.
    tangent_follower_reward, tangent_leader_reward : ndarray, shape (d, S, A)
        Derivatives of the rewards in each parameter.
    tangent_transition : ndarray, shape (d, nnz)
        Of the kernel's entries.
    tangent_initial : ndarray, shape (d, S)
        Of rho.
    tangent_temperature : ndarray, shape (d,)
        Of the temperature.
    objective_bounds : ndarray, shape (2,)
        J is between these.
    gradient_bounds, direct_bounds, indirect_bounds : ndarray, shape (2, d)
        So are dJ/dtheta and its parts: with the follower's policy held fixed, and through it.
    objective_noise, gradient_noise : float
        What a float64 computation may be off by without a mistake, in the order of magnitude:
        absolute, in the units of J and of the gradient.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from tabular_bilevel import vectors
    >>> with TemporaryDirectory() as folder:
    ...     recipes = list(vectors.write_vectors(folder, vectors.Plan(("closed-form",), count=1)))
    ...     loaded = vectors.load_vectors(folder)
    >>> vector = loaded[0]
    >>> vector.transition.shape, vector.dense_tangent_transition.shape, vector.theta.size
    ((1, 3, 1), (3, 1, 3, 1), 3)
    >>> low, high = vector.objective_bounds
    >>> bool(low <= vector.objective <= high)
    True
    >>> bool(abs(vector.direct + vector.indirect - vector.gradient).max() < 1e-12)
    True
    """

    name: str
    family: str
    origin: str
    flags: tuple[str, ...]
    follower_discount: float
    leader_discount: float
    temperature: float
    theta: Any
    transition_data: Any
    transition_indices: Any
    transition_indptr: Any
    follower_reward: Any
    leader_reward: Any
    initial: Any
    termination: Any
    available: Any
    tangent_follower_reward: Any
    tangent_leader_reward: Any
    tangent_transition: Any
    tangent_initial: Any
    tangent_temperature: Any
    objective_bounds: Any
    gradient_bounds: Any
    direct_bounds: Any
    indirect_bounds: Any
    objective_noise: float
    gradient_noise: float

    @property
    def transition(self) -> Any:
        """The kernel as a dense table, shape (S, A, S)."""
        return self._dense(self.transition_data[None])[0]

    @property
    def dense_tangent_transition(self) -> Any:
        """Its derivatives, shape (d, S, A, S)."""
        return self._dense(self.tangent_transition)

    @property
    def objective(self) -> float:
        """J, in the middle of its bounds."""
        return float(_middle(self.objective_bounds))

    @property
    def gradient(self) -> Any:
        """dJ/dtheta, in the middle of its bounds, shape (d,)."""
        return _middle(self.gradient_bounds)

    @property
    def direct(self) -> Any:
        """The part with the follower's policy held fixed, shape (d,)."""
        return _middle(self.direct_bounds)

    @property
    def indirect(self) -> Any:
        """The part through the follower's policy, shape (d,)."""
        return _middle(self.indirect_bounds)

    def _dense(self, entries: Any) -> Any:
        n_states, n_actions = self.follower_reward.shape
        dense = np.zeros((len(entries), n_states * n_actions, n_states))
        rows = np.repeat(np.arange(n_states * n_actions), np.diff(self.transition_indptr))
        dense[:, rows, self.transition_indices] = entries
        return dense.reshape(-1, n_states, n_actions, n_states)


def load_vectors(folder: str | Path, *, limit: int = LIMIT) -> tuple[Vector, ...]:
    """Load a folder's vectors, and check that the files are what the manifest says.

    Parameters
    ----------
    folder : str or Path
        What ``tabular-bilevel vectors write`` wrote.
    limit : int
        Bytes of memory that all of them together may take; by default 256 MiB.

    Returns
    -------
    tuple of Vector
        In the manifest's order.

    Raises
    ------
    ValueError
        If a file is damaged, of another schema, no regular file, or larger than the limit.
    OSError
        If a file is missing, or cannot be read.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from tabular_bilevel import vectors
    >>> with TemporaryDirectory() as folder:
    ...     recipes = list(vectors.write_vectors(folder, vectors.Plan(("closed-form",), count=2)))
    ...     loaded = vectors.load_vectors(folder)
    >>> [vector.name for vector in loaded]
    ['closed-form-00000', 'closed-form-00001']
    """
    path = Path(folder) / "manifest.json"
    try:
        manifest = _json(_bytes(path, limit // JSON_GROWTH))
        version, entries = manifest["schema_version"], []
        if _is_known(version):
            entries = [(_word("file", e["file"]), e["sha256"]) for e in manifest["vectors"]]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"{_shown(path)} is damaged: {_brief(error)}") from error
    if not _is_known(version):
        raise ValueError(
            f"{_shown(path)}: schema_version is {_brief(repr(version))}, not {SCHEMA_VERSION}"
        )
    vectors = []
    for file, sha256 in entries:
        vectors.append(load_vector(path.with_name(file), sha256=sha256, limit=limit))
        limit -= sum(np.asarray(value).nbytes for value in vars(vectors[-1]).values())
    return tuple(vectors)


def load_vector(path: str | Path, *, sha256: str | None = None, limit: int = LIMIT) -> Vector:
    """Load one vector from its npz or JSON file.

    Parameters
    ----------
    path : str or Path
        The file.
    sha256 : str, optional
        What its checksum has to be.
    limit : int
        Bytes that the file, and its tables together, may have; by default 256 MiB. JSON, which
        takes more memory than it has text, may have a 48th of it.

    Returns
    -------
    Vector
        The vector.

    Raises
    ------
    ValueError
        If the file is damaged, no regular file, or larger than the limit, or its tables do not fit
        each other.
    OSError
        If it is missing, or cannot be read.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from tabular_bilevel import vectors
    >>> with TemporaryDirectory() as folder:
    ...     recipes = list(vectors.write_vectors(folder, vectors.Plan(("tied",), count=1)))
    ...     vector = vectors.load_vector(f"{folder}/tied-00000.npz")
    >>> vector.family, "tied-actions" in vector.flags
    ('tied', True)
    """
    is_text = str(path).endswith(".json")
    raw = _bytes(path, limit // JSON_GROWTH if is_text else limit)
    if sha256 is not None and hashlib.sha256(raw).hexdigest() != sha256:
        raise ValueError(f"{_shown(path)} is damaged: its checksum is not the manifest's")
    try:
        content = (_from_json if is_text else _from_npz)(raw, limit)
        digest, misfit = content.pop("digest"), _misfit(content)
        intact = misfit or digest == content_digest(content)
        vector = Vector(**{name: _plain(value) for name, value in content.items()})
    except Exception as error:  # whatever reading what was cut or overwritten leads to
        raise ValueError(f"{_shown(path)} is damaged: {_brief(repr(error))}") from error
    if misfit:
        raise ValueError(f"{_shown(path)}: {misfit}")
    if not intact:
        raise ValueError(f"{_shown(path)} is damaged: its content is not what it was made with")
    return vector


def _bytes(path: str | Path, limit: int) -> bytes:
    """Read a regular file: a link may lead to a device that never ends, or to a pipe."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # opening some devices does things
        raise ValueError(f"{_shown(path)} is no regular file")
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(path, flags), "rb") as file:
        status = os.fstat(file.fileno())
        raw = (file.read(max(limit, 0) + 1) or b"") if stat.S_ISREG(status.st_mode) else b""
    if len(raw) > limit:
        raise ValueError(
            f"{_shown(path)} has {max(status.st_size, len(raw)):,} bytes, above the limit of "
            f"{limit:,}"
        )
    return raw


def _shown(text: object) -> str:
    """Spell what a terminal would act on, a line break too, as Python's escapes."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text)
    )


def _brief(text: object) -> str:
    """Show the beginning of what may be long."""
    return _shown(str(text)[:LONGEST])


def content_digest(content: dict[str, Any]) -> str:
    """Make a checksum (sha256) of a vector's names and values, the same for npz and JSON."""
    digest = hashlib.sha256()
    for name in sorted(content):
        value = content[name]
        if isinstance(value, str | tuple):
            value = np.array(value, dtype=np.str_)
        kind = {"U": None, "b": "|b1", "i": "<i8", "f": "<f8"}[value.dtype.kind]
        raw = "\n".join(value.ravel()).encode() if kind is None else value.astype(kind).tobytes()
        digest.update(f"{name} {kind} {value.shape}\n".encode() + raw + b"\n")
    return digest.hexdigest()


def _misfit(content: dict[str, Any]) -> str:
    """Say what has a wrong shape, kind of number or place, if anything has."""
    words, origin = content["flags"], content["origin"]
    for word in (content["name"], content["family"], *words):
        if not WORD.fullmatch(word):
            return (
                f"it has the name {_brief(repr(word))}, not one of letters, digits, '.', '_', '-'"
            )
    if len(set(words)) < len(words):
        return "flags has some twice"
    if len(origin) > LONGEST or not origin.isprintable():
        return f"origin is {_brief(repr(origin))}, not a line of at most {LONGEST} characters"
    table, parameters = np.shape(content["follower_reward"]), np.shape(content["theta"])
    if (len(table), len(parameters)) != (2, 1) or 0 in table:
        return f"follower_reward has shape {table} and theta {parameters}, not (S, A) and (d,)"
    entries = (np.size(content["transition_data"]),)
    shapes = {
        "leader_reward": table,
        "termination": table,
        "available": table,
        "initial": table[:1],
        "transition_data": entries,
        "transition_indices": entries,
        "transition_indptr": (table[0] * table[1] + 1,),
        "tangent_follower_reward": parameters + table,
        "tangent_leader_reward": parameters + table,
        "tangent_transition": parameters + entries,
        "tangent_initial": parameters + table[:1],
        "tangent_temperature": parameters,
        "objective_bounds": (2,),
        **{f"{name}_bounds": (2, *parameters) for name in ANSWERS[1:]},
    }
    kinds = {"available": "b", "transition_indices": "i", "transition_indptr": "i"}
    for name, value in content.items():
        if isinstance(value, np.ndarray):
            shape, kind = shapes.get(name, ()), kinds.get(name, "f")
            if name not in ("follower_reward", "theta") and value.shape != shape:
                return f"{name} has shape {value.shape}, not {shape}"
            if value.dtype.kind != kind:
                return f"{name} has dtype {value.dtype}, not one of kind {kind!r}"
            if kind == "f" and not np.isfinite(value).all():
                return f"{name} has {value[~np.isfinite(value)][0]}, which is no finite number"
    return _misplaced(content["transition_indices"], content["transition_indptr"], table)


def _misplaced(columns: Any, first: Any, table: tuple[int, ...]) -> str:
    """Say which entry of the kernel has no place in its matrix, or another's, if one has."""
    lengths = np.diff(first)
    if first[0] != 0 or first[-1] != columns.size or lengths.min() < 0:
        return f"transition_indptr does not rise from 0 to the {columns.size} entries"
    outside = (columns < 0) | (columns >= table[0])
    if outside.any():
        k = int(np.argmax(outside))
        return f"transition_indices[{k}] is {columns[k]}, not one of {table[0]} states"
    rows = np.repeat(np.arange(lengths.size), lengths)
    order = np.lexsort((columns, rows))  # entries of a row may come in any order
    twice = (np.diff(rows[order]) == 0) & (np.diff(columns[order]) == 0)
    if twice.any():
        k = order[int(np.argmax(twice))]
        return f"transition has column {columns[k]} of row {rows[k]} twice"
    return ""


def _from_npz(raw: bytes, limit: int) -> dict[str, Any]:
    if raw.count(b"PK\x01\x02") > MOST_ARRAYS:  # entries of the table of contents
        raise ValueError(f"it has more than {MOST_ARRAYS} arrays")
    content: dict[str, Any] = {}
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        for entry in archive.infolist():
            name = entry.filename.removesuffix(".npy")
            if name in content or entry.compress_type not in (0, zipfile.ZIP_DEFLATED):
                raise ValueError(f"its {name!r} is there twice, or compressed in an unknown way")
            with archive.open(entry) as file:
                content[name] = _array(file, limit)
            limit -= content[name].nbytes
    for name in ("name", "family", "origin", "digest"):
        content[name] = str(content[name])
    content["flags"] = tuple(map(str, content["flags"]))
    return content


def _array(file: Any, limit: int) -> Any:
    """Read an array once its header fits the limit: a small archive may unpack to gigabytes."""
    start = io.BytesIO(file.read(HEADER))
    if np.lib.format.read_magic(start) != (1, 0):
        raise ValueError("an array is of another version than 1.0")
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(start)
    if dtype.kind not in "bifU" or dtype.itemsize == 0 or any(n < 0 for n in shape):
        raise ValueError(f"an array has dtype {dtype} and shape {shape}")
    size = math.prod(shape) * dtype.itemsize
    if size > limit:
        raise ValueError(f"its arrays have {size:,} bytes or more, above the limit of {limit:,}")
    body = start.read()
    body += file.read(max(size + 1 - len(body), 0))
    if len(body) != size:
        raise ValueError(f"an array has other than the {size:,} bytes that its header says")
    array = np.ndarray(shape, dtype, body, order="F" if by_columns else "C")
    if dtype.kind == "b":
        return np.asarray(array.view(np.uint8) != 0)  # a byte of 2 would be true, and not 1
    return array.astype(dtype.newbyteorder("="))


def _json(raw: bytes) -> Any:
    """Read JSON without NaN and doubled keys."""
    return json.loads(raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_number)


def _is_known(version: Any) -> bool:
    return type(version) is int and version == SCHEMA_VERSION


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the key {name!r} is there twice")
        found[name] = value
    return found


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no number")


def _from_json(raw: bytes, limit: int) -> dict[str, Any]:
    document = _json(raw)
    if not _is_known(document["schema_version"]):
        raise ValueError(f"schema_version is {document['schema_version']!r}, not {SCHEMA_VERSION}")
    decimal = document.pop("decimal", None)  # files of before 0.2 have none
    _require_keys("the vector", document, (
        *WORDS, *NUMBERS, *VECTORS, *RECTANGLES, *ANSWERS,
        "schema_version", "flags", "available", "transition", "tangents", "noise",
    ))  # fmt: skip
    content: dict[str, Any] = {name: _string(name, document[name]) for name in WORDS}
    content["flags"] = tuple(_string("flags", flag) for flag in _list("flags", document["flags"]))
    for name in NUMBERS:
        content[name] = np.array(_number(name, document[name]))
    for name in VECTORS:
        content[name] = _numbers(name, document[name])
    for name in RECTANGLES:
        content[name] = _rectangle(name, document[name], _number, np.float64)
    content["available"] = _rectangle("available", document["available"], _truth, np.bool_)
    kernel = _require_keys("transition", document["transition"], ("data", "indices", "indptr"))
    content["transition_data"] = _numbers("transition.data", kernel["data"])
    for name in ("indices", "indptr"):
        places = [_place(name, k, 2**63) for k in _list(name, kernel[name])]
        content[f"transition_{name}"] = np.array(places, dtype=np.int64)
    content |= _changes(_list("tangents", document["tangents"]), content, limit)
    for name in ANSWERS:
        answer = _require_keys(name, document[name], ("lower", "upper"))
        read = _number if name == "objective" else _numbers
        content[f"{name}_bounds"] = np.array([read(name, answer[k]) for k in ("lower", "upper")])
    noise = _require_keys("noise", document["noise"], ANSWERS[:2])
    for name in ANSWERS[:2]:
        content[f"{name}_noise"] = np.array(_number(f"noise.{name}", noise[name]))
    if decimal is not None and decimal != in_decimal(document):
        raise ValueError("its decimal numbers are not its hexadecimal ones")
    return content


def in_decimal(document: dict[str, Any]) -> dict[str, Any]:
    """Take the fields of a JSON vector that have floats, with float64 numbers for the words.

    That is what its key ``decimal`` holds: ``{**document, **document["decimal"]}`` has no
    hexadecimal float left.
    """

    def read(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: read(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [read(inner) for inner in value]
        return float.fromhex(value) if isinstance(value, str) else value

    names = (*NUMBERS, *VECTORS, *RECTANGLES, *ANSWERS, "transition", "tangents", "noise")
    return {name: read(document[name]) for name in names}


def _changes(tangents: list[Any], content: dict[str, Any], limit: int) -> dict[str, Any]:
    """Make tables of derivatives, which say in the file only what is not 0, if they fit."""
    names = {name: "transition_data" if name == "transition" else name for name in TABLES}
    tables = {name: content[held] for name, held in names.items()}
    size = 8 * len(tangents) * (1 + sum(table.size for table in tables.values()))
    if size > limit:
        raise ValueError(f"its derivatives have {size:,} bytes, above the limit of {limit:,}")
    changes = {name: np.zeros((len(tangents), *table.shape)) for name, table in tables.items()}
    changes["temperature"] = np.zeros(len(tangents))
    for i, tangent in enumerate(tangents):
        if not isinstance(tangent, dict) or not changes.keys() >= tangent.keys():
            raise ValueError(f"tangents[{i}] is {tangent!r}, not derivatives by table")
        for name, entries in tangent.items():
            place = f"tangents[{i}].{name}"
            if name == "temperature":
                changes[name][i] = _number(place, entries)
                continue
            row, seen = changes[name][i].reshape(-1), -1
            for pair in _list(place, entries):
                if not isinstance(pair, list) or len(pair) != 2:
                    raise ValueError(f"{place} has {pair!r}, not a place and a number")
                k = _place(place, pair[0], row.size)
                if k <= seen:
                    raise ValueError(f"{place} has place {k} after place {seen}")
                row[k], seen = _number(place, pair[1]), k
    return {f"tangent_{name}": change for name, change in changes.items()}


def _require_keys(name: str, value: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != set(keys):
        raise ValueError(f"{name} has other keys than {', '.join(sorted(keys))}")
    return value


def _list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{name} is {value!r}, not a list")
    return value


def _string(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r}, not a string")
    return value


def _truth(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} has {value!r}, not true or false")
    return value


def _place(name: str, value: Any, end: int) -> int:
    if type(value) is not int or not 0 <= value < end:
        raise ValueError(f"{name} has {value!r}, not a whole number from 0 to {end - 1}")
    return value


def _number(name: str, word: Any) -> float:
    if not isinstance(word, str) or len(word) > 40 or not HEXADECIMAL.fullmatch(word):
        raise ValueError(f"{name} has {word!r}, not a hexadecimal float")
    return float.fromhex(word)


def _numbers(name: str, words: Any) -> Any:
    return np.array([_number(name, word) for word in _list(name, words)], dtype=np.float64)


def _rectangle(name: str, rows: Any, read: Any, dtype: Any) -> Any:
    table = [[read(name, entry) for entry in _list(name, row)] for row in _list(name, rows)]
    if len({len(row) for row in table}) != 1:
        raise ValueError(f"{name} has rows of different lengths, or none")
    return np.array(table, dtype=dtype)


def _word(name: str, value: Any) -> str:
    """Take the name of a file: one that leads nowhere else, and has nothing for a terminal."""
    if not isinstance(value, str) or not WORD.fullmatch(value):
        raise ValueError(f"{name} is {value!r}, not the name of a file in the folder")
    return value


def _plain(value: Any) -> Any:
    """Make a float of an array without axes, and others read-only."""
    if not isinstance(value, np.ndarray):
        return value
    if value.ndim == 0:
        return float(value)
    value.setflags(write=False)
    return value


def _middle(bounds: Any) -> Any:
    with np.errstate(all="ignore"):  # halves of the smallest numbers underflow
        return np.clip(bounds[0] / 2.0 + bounds[1] / 2.0, *bounds)
