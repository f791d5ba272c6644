"""The document that `check_certificate` reads: tables, claims and a proof, in hexadecimal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tabular_bilevel._base.arrays import FloatArray
from tabular_bilevel._base.files import hexadecimal, placed
from tabular_bilevel.certify import balls
from tabular_bilevel.check_certificate import FORMAT, UnprovenError, check_certificate
from tabular_bilevel.finite.model import Model, Tangent
from tabular_bilevel.finite.tangents import Tangents


def certificate(
    model: Model,
    tangents: Tangents,
    *,
    claims: Mapping[str, tuple[Any, Any]],
    value: FloatArray,
    precision: int,
) -> dict[str, Any]:
    """Make what it takes to check claims without this package, for `json.dump`.

    A claim is a pair of bounds of each number that the checker knows by name, and took so many bits
    of `precision`. The proof starts from an approximate V_F, and is made with more bits, until the
    checker accepts it. Raises ValueError if the bounds are infinite, RejectedError if it accepts no
    proof.
    """
    for name, ends in claims.items():
        if not np.all(np.isfinite(ends)):
            raise ValueError(f"{name} has infinite bounds, which certify nothing")
    tables = balls.Tables.of(model, tangents)
    start = balls.exact(value)
    document = {
        "format": FORMAT,
        **_tables_in_hex(model),
        "tangents": [_tangent_in_hex(model, tangent) for tangent in tangents],
        "claims": {name: [hexadecimal(end) for end in ends] for name, ends in claims.items()},
    }
    # twice the precision has room for somewhat small numbers
    bits = max(2 * precision, 3 * precision // 2 + _bits_below_one(claims))
    while True:
        with balls.precision(bits):
            document["proof"] = balls.proof(tables, start)
        try:
            check_certificate(document)
        except UnprovenError:
            if 2 * bits > balls.LONGEST_PROOF:
                raise
            bits *= 2
        else:
            return document


def _bits_below_one(claims: Mapping[str, tuple[Any, Any]]) -> int:
    """Count the bits by which the smallest bound's last place is below that of 1."""
    ends = [x for pair in claims.values() for end in pair for x in np.ravel(end)]
    smallest = min((math.ulp(x) for x in ends if x != 0.0), default=1.0)
    return max(math.frexp(math.ulp(1.0))[1] - math.frexp(smallest)[1], 0)


def _tables_in_hex(model: Model) -> dict[str, Any]:
    kernel = model.transition

    def successors(row: int) -> list[list[Any]]:
        place = slice(kernel.indptr[row], kernel.indptr[row + 1])
        return placed(kernel.indices[place], kernel.data[place])

    return {
        "follower_discount": hexadecimal(model.follower_discount),
        "leader_discount": hexadecimal(model.leader_discount),
        "temperature": hexadecimal(model.temperature),
        "initial": hexadecimal(model.initial),
        "pairs": [
            {
                "state": int(s),
                "follower_reward": hexadecimal(model.follower_reward[s, a]),
                "leader_reward": hexadecimal(model.leader_reward[s, a]),
                "successors": successors(int(s) * model.n_actions + int(a)),
            }
            for s, a in np.argwhere(model.available)
        ],
    }


def _tangent_in_hex(model: Model, tangent: Tangent) -> dict[str, Any]:
    """Spell what is not 0, each with its place: pair, entry in order of pairs, state, or 0."""
    available = model.available
    tables = {
        "follower_reward": tangent.follower_reward[available],
        "leader_reward": tangent.leader_reward[available],
        "transition": tangent.transition[available.ravel()[model.entry_row]],
        "initial": tangent.initial,
        "temperature": np.array([tangent.temperature]),
    }
    return {
        name: placed(np.flatnonzero(table), table[table != 0.0]) for name, table in tables.items()
    }
