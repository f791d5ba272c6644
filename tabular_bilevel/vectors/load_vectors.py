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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["SCHEMA_VERSION", "Vector", "content_digest", "load_vector", "load_vectors"]

SCHEMA_VERSION = 1

TABLES = ("follower_reward", "leader_reward", "transition", "initial")

ANSWERS = ("objective", "gradient", "direct", "indirect")


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
        What a float64 computation may be off by without a mistake, in the order of magnitude.
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


def load_vectors(folder: str | Path) -> tuple[Vector, ...]:
    """Load a folder's vectors, and check that the files are what the manifest says.

    Parameters
    ----------
    folder : str or Path
        What ``tabular-bilevel vectors`` wrote.

    Returns
    -------
    tuple of Vector
        In the manifest's order.

    Raises
    ------
    ValueError
        If a file is damaged, or of another schema.
    OSError
        If a file is missing, or cannot be read.
    """
    path = Path(folder) / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version, entries = manifest["schema_version"], []
        if version == SCHEMA_VERSION:
            entries = [(path.with_name(e["file"]), e["sha256"]) for e in manifest["vectors"]]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error
    if version != SCHEMA_VERSION:
        raise ValueError(f"{path}: schema_version is {version!r}, not {SCHEMA_VERSION}")
    return tuple(load_vector(file, sha256=sha256) for file, sha256 in entries)


def load_vector(path: str | Path, *, sha256: str | None = None) -> Vector:
    """Load one vector from its npz or JSON file.

    Parameters
    ----------
    path : str or Path
        The file.
    sha256 : str, optional
        What its checksum has to be.

    Returns
    -------
    Vector
        The vector.

    Raises
    ------
    ValueError
        If the file is damaged, or its tables do not fit each other.
    OSError
        If it is missing, or cannot be read.
    """
    raw = Path(path).read_bytes()
    if sha256 is not None and hashlib.sha256(raw).hexdigest() != sha256:
        raise ValueError(f"{path} is damaged: its checksum is not the manifest's")
    try:
        content = _from_json(json.loads(raw)) if str(path).endswith(".json") else _from_npz(raw)
        intact = content.pop("digest") == content_digest(content)
        misfit = _misfit(content)
        vector = Vector(**{name: _plain(value) for name, value in content.items()})
    except Exception as error:  # whatever reading what was cut or overwritten leads to
        raise ValueError(f"{path} is damaged: {error!r}") from error
    if not intact:
        raise ValueError(f"{path} is damaged: its content is not what it was made with")
    if misfit:
        raise ValueError(f"{path}: {misfit}")
    return vector


def content_digest(content: dict[str, Any]) -> str:
    """Make a checksum of names and values, the same for npz and JSON.

    Parameters
    ----------
    content : dict of str to str, tuple of str or ndarray
        A vector's fields.

    Returns
    -------
    str
        sha256, hexadecimal.
    """
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
    """Say what has a wrong shape or kind of number, if anything has."""
    table, parameters = np.shape(content["follower_reward"]), np.shape(content["theta"])
    if (len(table), len(parameters)) != (2, 1):
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
    return ""


def _from_npz(raw: bytes) -> dict[str, Any]:
    if not raw.startswith(b"PK"):
        raise ValueError("it is no npz archive")
    with np.load(io.BytesIO(raw), allow_pickle=False) as file:
        content = {name: file[name] for name in file.files}
    for name in ("name", "family", "origin", "digest"):
        content[name] = str(content[name])
    content["flags"] = tuple(map(str, content["flags"]))
    return content


def _from_json(document: dict[str, Any]) -> dict[str, Any]:
    if document["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"schema_version is {document['schema_version']!r}, not {SCHEMA_VERSION}")
    words = {name: document[name] for name in ("name", "family", "origin", "digest")}
    content: dict[str, Any] = {**words, "flags": tuple(document["flags"])}
    for name in ("follower_discount", "leader_discount", "temperature", "theta", "initial",
                 "follower_reward", "leader_reward", "termination"):  # fmt: skip
        content[name] = _floats(document[name])
    content["available"] = np.array(document["available"], dtype=bool)
    kernel = document["transition"]
    content["transition_data"] = _floats(kernel["data"])
    for name in ("indices", "indptr"):
        content[f"transition_{name}"] = np.array(kernel[name], dtype=np.int64)
    tangents = document["tangents"]
    for name in TABLES:
        table = content["transition_data" if name == "transition" else name]
        change = np.zeros((len(tangents), *table.shape))
        for row, tangent in zip(change, tangents, strict=True):
            for k, number in tangent.get(name, []):
                row.flat[k] = float.fromhex(number)
        content[f"tangent_{name}"] = change
    content["tangent_temperature"] = np.array(
        [float.fromhex(tangent.get("temperature", "0x0p+0")) for tangent in tangents]
    )
    for name in ANSWERS:
        answer = document[name]
        content[f"{name}_bounds"] = _floats([answer["lower"], answer["upper"]])
    for name in ("objective", "gradient"):
        content[f"{name}_noise"] = _floats(document["noise"][name])
    return content


def _floats(words: Any) -> Any:
    """Read hexadecimal floats, however deeply nested."""
    array = np.array(words)
    return np.array([float.fromhex(x) for x in array.ravel().tolist()]).reshape(array.shape)


def _plain(value: Any) -> Any:
    """Make a float of an array without axes, and others read-only."""
    if not isinstance(value, np.ndarray):
        return value
    if value.ndim == 0:
        return float(value)
    value.setflags(write=False)
    return value


def _middle(bounds: Any) -> Any:
    return np.clip(bounds[0] / 2.0 + bounds[1] / 2.0, *bounds)
