"""Writing test vectors: whole files or none, gone on with after a crash, the same on each run."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from tabular_bilevel._base import __version__
from tabular_bilevel._base.arguments import positive_integer
from tabular_bilevel._base.files import (
    alone_in,
    brief,
    hexadecimal,
    placed,
    read_file,
    read_json,
    shown,
    write_file,
    write_json,
)
from tabular_bilevel._base.processes import sweep
from tabular_bilevel.certify.accuracy import Level
from tabular_bilevel.vectors.flags import NOTES
from tabular_bilevel.vectors.load_vectors import (
    ANSWERS,
    NUMBERS,
    RECTANGLES,
    SCHEMA_VERSION,
    TABLES,
    VECTORS,
    Vector,
    content_digest,
    in_decimal,
    load_vector,
)
from tabular_bilevel.vectors.making import FAMILIES, VectorRecipe, made

__all__ = ["FORMAT", "JSON", "MANIFEST", "NPZ", "Encoding", "Plan", "write_vectors"]

FORMAT, LICENCE = "tabular-bilevel test vectors", "Apache-2.0"

MANIFEST, UNFINISHED, SCHEMA = "manifest.json", "unfinished.json", "vectors-schema.json"
ANSWERS_SCHEMA, README = "answers-schema.json", "README.md"

# Of a zip archive's entries: the least that the format has.
NO_TIME = (1980, 1, 1, 0, 0, 0)

# Vectors of a family: names have five digits.
MOST = 100_000


@dataclass(frozen=True)
class Encoding:
    """How a vector's file is written.

    Attributes
    ----------
    suffix : str
        Suffix of the file's name, without a dot.
    encode : callable
        Makes bytes of a vector's content.

    Examples
    --------
    >>> from tabular_bilevel.vectors import JSON, NPZ
    >>> NPZ.suffix, JSON.suffix, JSON
    ('npz', 'json', Encoding(suffix='json'))
    """

    suffix: str
    encode: Callable[[Mapping[str, Any]], bytes] = field(repr=False)


def _npz(content: Mapping[str, Any]) -> bytes:
    """Encode as numpy's archive of arrays, without the time of day."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, value in {**content, "digest": content_digest(dict(content))}.items():
            raw = io.BytesIO()
            array = np.array(value, dtype="<U" if isinstance(value, str | tuple) else None)
            np.lib.format.write_array(raw, array, allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", NO_TIME)
            entry.compress_type, entry.create_system = zipfile.ZIP_DEFLATED, 3
            file.writestr(entry, raw.getvalue())
    return archive.getvalue()


def _json_vector(content: Mapping[str, Any]) -> bytes:
    """Encode as JSON; of derivatives only what is not 0 is kept.

    Floats are hexadecimal, and decimal once more, for languages that read no others.
    """
    tangents = []
    for i in range(content["theta"].size):
        tangent: dict[str, Any] = {}
        for name in TABLES:
            change = content[f"tangent_{name}"][i].ravel()
            if change.any():
                tangent[name] = placed(np.flatnonzero(change), change[change != 0.0])
        if content["tangent_temperature"][i]:
            tangent["temperature"] = hexadecimal(content["tangent_temperature"][i])
        tangents.append(tangent)
    document = {
        "schema_version": SCHEMA_VERSION,
        **{name: content[name] for name in ("name", "family", "origin")},
        "flags": list(content["flags"]),
        "digest": content_digest(dict(content)),
        **{name: hexadecimal(content[name]) for name in (*NUMBERS, *VECTORS, *RECTANGLES)},
        "available": content["available"].tolist(),
        "transition": {
            "data": hexadecimal(content["transition_data"]),
            "indices": content["transition_indices"].tolist(),
            "indptr": content["transition_indptr"].tolist(),
        },
        "tangents": tangents,
        **{
            name: dict(zip(("lower", "upper"), hexadecimal(content[f"{name}_bounds"]), strict=True))
            for name in ANSWERS
        },
        "noise": {
            name: hexadecimal(content[f"{name}_noise"]) for name in ("objective", "gradient")
        },
    }
    document["decimal"] = in_decimal(document)
    return (json.dumps(document, allow_nan=False) + "\n").encode()


#: Numpy's archive of arrays.
NPZ = Encoding("npz", _npz)

#: Text, with hexadecimal and decimal floats; vectors-schema.json comes with it.
JSON = Encoding("json", _json_vector)


@dataclass(frozen=True)
class Plan:
    """What a folder of vectors is made from.

    Attributes
    ----------
    families : tuple of str
        Names in `FAMILIES`, in the order of their turns.
    count : int
        Vectors of all families together.
    max_states : int
        States at most.
    seed : int
        Seed of the randomness.
    encoding : Encoding
        Encoding of the files: `NPZ`, or `JSON` for other languages.

    Raises
    ------
    ValueError
        On construction, if a setting is bad.

    Examples
    --------
    >>> from tabular_bilevel.vectors import JSON, Plan
    >>> plan = Plan(families=("garnet", "tied"), count=3, encoding=JSON)
    >>> [plan.file(recipe) for recipe in plan.recipes]
    ['garnet-00000.json', 'tied-00000.json', 'garnet-00001.json']
    >>> plan.provenance()["families"]
    ['garnet', 'tied']
    """

    families: tuple[str, ...] = tuple(FAMILIES)
    count: int = 100
    max_states: int = 30
    seed: int = 0
    encoding: Encoding = NPZ

    def __post_init__(self) -> None:
        count, most = (
            positive_integer(name, getattr(self, name)) for name in ("count", "max_states")
        )
        if not isinstance(self.seed, int | np.integer) or self.seed < 0:
            raise ValueError(f"seed is {self.seed!r}, not a whole number of at least 0")
        if not self.families:
            raise ValueError("families is empty")
        if count > MOST * len(self.families):
            raise ValueError(f"count is {count}, above {MOST:,} for each family")
        for name in self.families:
            if name not in FAMILIES:
                raise ValueError(f"families has {name!r}, not one of {', '.join(FAMILIES)}")
            if FAMILIES[name].smallest > most:
                raise ValueError(
                    f"max_states is {most}, and {name} needs {FAMILIES[name].smallest}"
                )
        if len(set(self.families)) < len(self.families):
            raise ValueError(f"families has some twice: {', '.join(self.families)}")
        if not isinstance(self.encoding, Encoding):
            raise ValueError(f"encoding is {self.encoding!r}, not NPZ or JSON")

    @property
    def recipes(self) -> tuple[VectorRecipe, ...]:
        """One for each vector; the families take turns."""
        n_families = len(self.families)
        return tuple(
            VectorRecipe(self.families[i % n_families], i // n_families, self.seed, self.max_states)
            for i in range(self.count)
        )

    def file(self, recipe: VectorRecipe) -> str:
        """Name a vector's file.

        Parameters
        ----------
        recipe : VectorRecipe
            One of `recipes`.

        Returns
        -------
        str
            The name, without a folder.
        """
        return f"{recipe.name}.{self.encoding.suffix}"

    def provenance(self) -> dict[str, Any]:
        """Say all that the files depend on.

        Raises
        ------
        ValueError
            If python-flint is missing.
        """
        try:
            flint = version("python-flint")
        except PackageNotFoundError as error:
            raise ValueError(
                "vectors need python-flint: pip install 'tabular-bilevel[rigor]'"
            ) from error
        return {
            "tabular-bilevel": __version__,
            "python-flint": flint,
            "numpy": np.__version__,
            "families": list(self.families),
            "count": int(self.count),
            "max_states": int(self.max_states),
            "seed": int(self.seed),
            "encoding": self.encoding.suffix,
            "accuracy": Level.ENCLOSED.value,
        }


def write_vectors(
    folder: str | Path, plan: Plan | None = None, *, workers: int = 1
) -> Iterator[VectorRecipe]:
    """Write a folder of vectors, or what is missing of it.

    Each file appears whole or not at all, and the manifest last: after an interrupt, a crash or a
    kill the same call goes on, and ends with the same bytes as if nothing had happened, whatever
    the number of workers. Another machine may end with others: where a BLAS rounds differently,
    instances differ in their last digits, and are proven as they are. One process at a time may
    write to a folder.

    What is in the folder is trusted only if this user's earlier calls, of which a finished one
    leaves no trace, wrote it as it is: they note checksums in ``$XDG_STATE_HOME/tabular-bilevel``
    (``~/.local/state/tabular-bilevel``). Everything else is made anew.

    Parameters
    ----------
    folder : str or Path
        Where to; made if it does not exist.
    plan : Plan, optional
        What to write; 100 vectors of all families by default.
    workers : int
        Processes; with 1 this one does the work.

    Yields
    ------
    VectorRecipe
        Recipe of each vector, when its file is there.

    Raises
    ------
    ValueError
        If the folder has vectors of another plan, or other files; if python-flint is missing.
    ChildProcessError
        If a worker process was killed.
    OSError
        If the folder cannot be written, or another process writes to it.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from tabular_bilevel.vectors import Plan, write_vectors
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     done = list(write_vectors(folder, Plan(families=("garnet", "tied"), count=4)))
    ...     print(sorted(path.name for path in Path(folder).glob("*.npz")))
    ['garnet-00000.npz', 'garnet-00001.npz', 'tied-00000.npz', 'tied-00001.npz']
    """
    plan, place = Plan() if plan is None else plan, Path(folder)
    n_workers = positive_integer("workers", workers)
    provenance = plan.provenance()
    place.mkdir(parents=True, exist_ok=True)
    with alone_in(place):
        _begin(place, provenance)
        notes = _Notebook.of(provenance)
        sums: dict[VectorRecipe, str] = {}
        for recipe in plan.recipes:
            found = _kept(place / plan.file(recipe), notes)
            if found is not None:
                sums[recipe] = found
                yield recipe
        missing = {plan.file(recipe): recipe for recipe in plan.recipes if recipe not in sums}
        tasks = (
            (file, partial(_write_one, place / file, plan.encoding, recipe))
            for file, recipe in missing.items()
        )
        with closing(sweep(tasks, workers=n_workers)) as written:
            for file, checksum in written:
                sums[missing[file]] = checksum
                notes.add(file, checksum)
                yield missing[file]
        _finish(place, plan, provenance, sums)
        notes.drop()


@dataclass(frozen=True)
class _Notebook:
    """Checksums of what this user wrote, out of reach of whoever else changes the folder.

    What is not in it is made anew: a checksum in the folder itself would prove nothing. Where it
    cannot be kept, that is everything. A line cut short by a crash is no file's checksum.
    """

    path: Path | None
    lines: frozenset[str]

    @classmethod
    def of(cls, provenance: Mapping[str, Any]) -> _Notebook:
        """Open the one of a plan."""
        home = os.environ.get("XDG_STATE_HOME", "")
        if not os.path.isabs(home):  # which the standard does not allow
            home = os.path.expanduser("~/.local/state")
        if not os.path.isabs(home):  # nobody's, and the working directory may be a stranger's
            return cls(None, frozenset())
        plan = hashlib.sha256(json.dumps(provenance, sort_keys=True).encode()).hexdigest()
        path = Path(home, "tabular-bilevel", f"vectors-{plan}.txt")
        try:
            lines = frozenset(read_file(path).decode("ascii").splitlines())
        except (OSError, ValueError):
            lines = frozenset()
        return cls(path, lines)

    def knows(self, file: str, checksum: str) -> bool:
        """Say whether this file was written."""
        return f"{file} {checksum}" in self.lines

    def add(self, file: str, checksum: str) -> None:
        """Note a file that has just been written."""
        if self.path is None:
            return
        with suppress(OSError):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(self.path, "a", encoding="ascii", opener=_open_at_once) as lines:
                lines.write(f"\n{file} {checksum}")

    def drop(self) -> None:
        """Forget it all: the folder is finished."""
        if self.path is not None:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)


def _open_at_once(name: str, flags: int) -> int:
    """Open without waiting for whoever reads a pipe."""
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0), 0o600)


def _begin(place: Path, provenance: Mapping[str, Any]) -> None:
    """Refuse another plan's folder, and note the plan in a new one."""
    for name in (MANIFEST, UNFINISHED):
        path = place / name
        if not path.exists():
            continue
        try:
            before = dict(read_json(path)["provenance"])
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(f"{shown(path)} is damaged: {brief(repr(error))}") from error
        for key, wanted in provenance.items():
            if before.get(key) != wanted:
                raise ValueError(
                    f"{shown(place)} has vectors of another call: {key} is "
                    f"{brief(before.get(key))}, not {wanted}"
                )
        return
    if any(place.iterdir()):
        raise ValueError(f"{shown(place)} has files already, and none of them is {MANIFEST}")
    write_json(place / UNFINISHED, {"provenance": provenance})


def _kept(path: Path, notes: _Notebook) -> str | None:
    """Find the checksum of a file that is there as it was written."""
    try:
        checksum = hashlib.sha256(read_file(path)).hexdigest()
    except (OSError, ValueError):
        return None
    return checksum if notes.knows(path.name, checksum) else None


def _write_one(path: Path, encoding: Encoding, recipe: VectorRecipe) -> str:
    """Make a vector and write its file; return its checksum."""
    raw = encoding.encode(made(recipe))
    write_file(path, raw)
    return hashlib.sha256(raw).hexdigest()


def entry_of(vector: Vector) -> dict[str, Any]:
    """Say what the manifest says of a vector, besides its file."""
    n_states, n_actions = vector.available.shape
    return {
        "name": vector.name,
        "family": vector.family,
        "flags": list(vector.flags),
        "n_states": n_states,
        "n_actions": n_actions,
        "n_parameters": vector.theta.size,
    }


def _finish(
    place: Path, plan: Plan, provenance: Mapping[str, Any], sums: Mapping[VectorRecipe, str]
) -> None:
    vectors = []
    for recipe in plan.recipes:
        file = plan.file(recipe)
        vector = load_vector(place / file, sha256=sums[recipe])
        place_of_it = {"name": vector.name, "file": file, "sha256": sums[recipe]}
        vectors.append(place_of_it | entry_of(vector))
    for name in (README, SCHEMA, ANSWERS_SCHEMA) if plan.encoding == JSON else (README,):
        write_file(place / name, shipped(name))
    manifest = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "licence": LICENCE,
        "provenance": provenance,
        "notes": dict(NOTES),
        "vectors": vectors,
    }
    write_json(place / MANIFEST, manifest)
    (place / UNFINISHED).unlink(missing_ok=True)


def shipped(name: str) -> bytes:
    """Read a file that comes with this module."""
    return files(__package__).joinpath(name).read_bytes()


def same_schema(path: Path) -> bool:
    """Say whether a file is the schema that is written beside JSON vectors."""
    schema = shipped(SCHEMA)
    try:
        return read_file(path, len(schema)) == schema
    except (OSError, ValueError):
        return False
