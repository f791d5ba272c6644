"""Files: written whole or not at all; read only if they are regular, and no larger than allowed.

Sizes are looked at before anything is made of them: an archive of a megabyte may unpack to many
gigabytes, and a link may lead to a device that never ends. ``vectors/load_vectors.py`` has a reader
of its own, because it is copied to where this package is not.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import secrets
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import ENOENT
from os import PathLike
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

try:
    import fcntl
except ImportError:  # Windows, where nothing is kept apart
    fcntl = None  # type: ignore[assignment]

FilePath = str | PathLike[str]

#: Bytes that a file, and what it unpacks to, may have unless told otherwise: 256 MiB.
LIMIT = 2**28

# JSON takes up to this many times its text in memory: a list in a list has 88 bytes for 2 of it.
JSON_GROWTH = 48

# Arrays in an archive, and bytes of the header of one.
MOST_ARRAYS, HEADER = 1000, 10_000

# How each entry of a zip archive's table of contents begins, and what `np.savez` compresses with.
ZIP_ENTRY, COMPRESSIONS = b"PK\x01\x02", (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

# Plain numbers and strings.
KINDS = "biufcU"

#: What is being written, or was when a process was killed; nothing reads it.
DRAFTS = f".[0-9]*-{16 * '[0-9a-f]'}.part"

# Characters of what a file says that an error repeats.
LONGEST = 200

# What Python shows of an object that does not show itself.
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def shown(text: object) -> str:
    """Spell what a terminal would act on, a line break too, as Python's escapes."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text)
    )


def brief(text: object) -> str:
    """Show the beginning of what may be long, without addresses, which mean nothing to a reader."""
    line = shown(ADDRESS.sub("", str(text)[: 2 * LONGEST])[: LONGEST + 1])
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}..."


def write_file(path: FilePath, raw: bytes) -> None:
    """Write a file, whole or not at all, whatever happens to this process or the machine.

    A link is replaced itself, not what it leads to. A kill may leave a draft beside the file, see
    `DRAFTS`. Raises ValueError if there is something else than a file: a folder, or a device.
    """
    draft = _draft_beside(path)
    try:
        with open(draft, "xb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise
    _sync_folder(draft.parent)


def write_json(path: FilePath, document: Any) -> None:
    """Write a JSON file as `write_file` does; ValueError if there is NaN or infinity in it."""
    write_file(path, (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())


def hexadecimal(numbers: Any) -> Any:
    """Spell floats exactly for JSON, however deeply nested."""

    def spelled(one: Any) -> Any:
        return [spelled(inner) for inner in one] if isinstance(one, list) else one.hex()

    return spelled(np.asarray(numbers, dtype=np.float64).tolist())


def placed(places: npt.NDArray[Any], numbers: npt.NDArray[Any]) -> list[list[Any]]:
    """Pair each place with its number, spelled exactly."""
    return [[k, x] for k, x in zip(places.tolist(), hexadecimal(numbers), strict=True)]


def _draft_beside(path: FilePath) -> Path:
    """Name a new file in the same folder, if the file is one that can be replaced."""
    place = Path(path)
    if not place.parent.is_dir():  # or the draft would be what is not found
        raise FileNotFoundError(ENOENT, os.strerror(ENOENT), str(place.parent))
    if place.exists() and not place.is_file():
        raise ValueError(f"{shown(path)} is no regular file, which alone can be replaced")
    return place.with_name(f".{os.getpid()}-{secrets.token_hex(8)}.part")


def _sync_folder(folder: Path) -> None:
    """Have the disk keep a folder's names."""
    if os.name == "nt":  # which opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_writable(path: FilePath) -> None:
    """Raise what `write_file` would; better before long work than after it."""
    draft = _draft_beside(path)
    draft.touch()
    draft.unlink()


@contextmanager
def alone_in(folder: FilePath) -> Iterator[None]:
    """Keep other processes out of a folder that ask for it in this way, and clear away drafts.

    Raises OSError if another process is in it. The system ends the claim with the process, however
    that ends. Where it knows no such claims, as on some network drives, nobody is kept out.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OSError(f"{shown(folder)} is being written to by another process") from error
        except OSError:
            pass
        _clear(folder)
        try:
            yield
        finally:
            _clear(folder)
    finally:
        os.close(descriptor)


def _clear(folder: FilePath) -> None:
    """Remove the drafts of processes that were killed."""
    for draft in Path(folder).glob(DRAFTS):
        draft.unlink(missing_ok=True)


def read_file(path: FilePath, limit: int = LIMIT) -> bytes:
    """Read a regular file of at most so many bytes; ValueError if it is none, or larger."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # opening some devices does things
        raise ValueError(f"{shown(path)} is no regular file")
    # a pipe that has come meanwhile is not waited for
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(path, flags), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{shown(path)} is no regular file")
        if status.st_size <= limit:
            raw = file.read(max(limit, 0) + 1) or b""
            if len(raw) <= limit:
                return raw
    raise ValueError(
        f"{shown(path)} has {status.st_size:,} bytes or more, above the limit of {limit:,}"
    )


def read_json(path: FilePath, limit: int = LIMIT) -> Any:
    """Read a JSON file that takes at most so many bytes of memory: 48 times those of the text.

    Raises ValueError if it is no regular file, too large, no JSON, nested too deeply, or has NaN,
    or a key twice.
    """
    raw = read_file(path, limit // JSON_GROWTH)
    try:
        return json.loads(
            raw.decode("utf-8"), object_pairs_hook=_without_doubles, parse_constant=_no_number
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{shown(path)} is no sound JSON: {brief(error)}") from error


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"it has the key {name!r} twice")
        found[name] = value
    return found


def _no_number(word: str) -> Any:
    raise ValueError(f"it has {word}, which is no number")


def read_array(path: FilePath, limit: int = LIMIT) -> npt.NDArray[Any]:
    """Read an .npy file of at most so many bytes.

    Raises ValueError if it is no regular file, too large, or no array of plain numbers or strings.
    """
    raw = read_file(path, limit)
    try:
        return _array(io.BytesIO(raw), limit)
    except Exception as error:  # whatever reading what was cut or overwritten leads to
        raise ValueError(f"{shown(path)} is no .npy file of numbers: {brief(error)}") from error


def read_arrays(path: FilePath, limit: int = LIMIT) -> dict[str, npt.NDArray[Any]]:
    """Read an npz archive; it, and its arrays together, have at most so many bytes.

    Raises ValueError if it is no regular file, too large, or has more than plain numbers or
    strings.
    """
    raw = read_file(path, limit)
    try:
        return _arrays(raw, limit)
    except Exception as error:  # whatever reading what was cut or overwritten leads to
        raise ValueError(f"{shown(path)} is no npz archive of arrays: {brief(error)}") from error


def _arrays(raw: bytes, limit: int) -> dict[str, npt.NDArray[Any]]:
    if raw.count(ZIP_ENTRY) > MOST_ARRAYS:
        raise ValueError(f"it has more than {MOST_ARRAYS} entries")
    arrays: dict[str, npt.NDArray[Any]] = {}
    left = limit
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        for entry in archive.infolist():
            name = entry.filename.removesuffix(".npy")
            if name in arrays or name == entry.filename:
                raise ValueError(f"its entry {brief(entry.filename)!r} is no array, or there twice")
            if entry.compress_type not in COMPRESSIONS:
                raise ValueError(f"its entry {brief(name)!r} is compressed in an unknown way")
            with archive.open(entry) as member:
                array = arrays[name] = _array(member, left)
            left -= array.nbytes
    return arrays


def _array(file: IO[bytes], limit: int) -> npt.NDArray[Any]:
    """Read an array after its header was found to fit the limit, and nothing may follow."""
    start = io.BytesIO(file.read(HEADER))
    version = np.lib.format.read_magic(start)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    shape, by_columns, dtype = read_header(start)
    if dtype.kind not in KINDS or dtype.itemsize == 0:
        raise ValueError(f"an array has dtype {dtype}, not one of plain numbers or strings")
    if any(n < 0 for n in shape):
        raise ValueError(f"an array has shape {shape}")
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
