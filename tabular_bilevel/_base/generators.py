"""States of numpy's generators: noted, checked, and gone on from.

A state that was changed may make numpy read outside of its memory: each entry is looked at.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any

import numpy as np

from tabular_bilevel._base.files import brief

SEEDS = "seed_sequence"

# Words of a seed sequence's pool, and bits of its entropy: anything more is a mistake.
LARGEST_POOL, LARGEST_ENTROPY = 2**10, 2**13


def addresses(generator: np.random.Generator) -> tuple[int, int]:
    """Find the C function that draws uniform numbers for a generator, and the state it takes."""
    return _addresses(generator.bit_generator)


@lru_cache(maxsize=1)
def _addresses(bits: np.random.BitGenerator) -> tuple[int, int]:
    function = ctypes.c_void_p.from_buffer(bits.ctypes.next_double).value
    return int(function or 0), int(bits.ctypes.state_address)


def state_of(generator: np.random.Generator) -> dict[str, Any]:
    """Note a generator's state, and that of its seed sequence, which `spawn` draws from."""
    bits = generator.bit_generator
    state = dict(bits.state)
    if isinstance(bits.seed_seq, np.random.SeedSequence):
        state[SEEDS] = bits.seed_seq.state
    return state


def generator_at(state: Mapping[str, Any]) -> np.random.Generator:
    """Make a generator in the given state, which is sound."""
    bits = dict(state)
    seeds = bits.pop(SEEDS, None)
    kind = getattr(np.random, bits["bit_generator"])
    generator = np.random.Generator(kind(seeds and np.random.SeedSequence(**seeds)))
    generator.bit_generator.state = bits
    return generator


def require_whole(name: str, value: Any, least: int, most: int) -> None:
    """Raise unless the value is a whole number in this range."""
    kind = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not kind or not least <= value <= most:
        bound = str(most) if most < 2**16 else f"2**{most.bit_length()} - 1"
        raise ValueError(f"{name} is {_spelled(value)}, not a whole number from {least} to {bound}")


def _spelled(value: Any) -> str:
    """Show the beginning of anything; Python spells no integer of thousands of digits."""
    try:
        return brief(repr(value))
    except ValueError:
        return "a number of thousands of digits"


def _words(name: str, value: Any, count: int | None, bits: int) -> None:
    """Raise unless the value is a list of whole numbers of so many bits."""
    numbers = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(numbers, list | tuple) or count not in (None, len(numbers)):
        raise ValueError(f"{name} is {_spelled(value)}, not a list of {count or 'any'} numbers")
    for k, number in enumerate(numbers):
        require_whole(f"{name}[{k}]", number, 0, 2**bits - 1)


def _number(bits: int) -> Callable[[str, Any], None]:
    return partial(require_whole, least=0, most=2**bits - 1)


def _list(count: int, bits: int) -> Callable[[str, Any], None]:
    return partial(_words, count=count, bits=bits)


# What is left of a number of 64 bits, where half was used.
HALF = {"has_uint32": _number(1), "uinteger": _number(32)}

PERMUTED = {"state": {"state": _number(128), "inc": _number(128)}, **HALF}

#: The states of numpy's bit generators: a check of each entry.
BIT_GENERATORS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "PCG64": PERMUTED,
        "PCG64DXSM": PERMUTED,
        "MT19937": {
            "state": {"key": _list(624, 32), "pos": partial(require_whole, least=0, most=624)}
        },
        "Philox": {
            "state": {"counter": _list(4, 64), "key": _list(2, 64)},
            "buffer": _list(4, 64),
            "buffer_pos": partial(require_whole, least=0, most=4),
            **HALF,
        },
        "SFC64": {"state": {"state": _list(4, 64)}, **HALF},
    }
)


def _entropy(name: str, value: Any) -> None:
    """Raise unless a number, or a list of some, can be the start of a seed sequence."""
    if isinstance(value, list | tuple | np.ndarray):
        _words(name, value, None, LARGEST_ENTROPY)
    else:
        require_whole(name, value, 0, 2**LARGEST_ENTROPY - 1)


SEED_SEQUENCE = {
    "entropy": _entropy,
    "spawn_key": partial(_words, count=None, bits=64),
    "pool_size": partial(require_whole, least=4, most=LARGEST_POOL),
    "n_children_spawned": _number(32),
}


def require_generator_state(state: Any) -> None:
    """Raise unless this is what `state_of` a generator of numpy's returns."""
    name = state.get("bit_generator") if isinstance(state, Mapping) else None
    if not isinstance(name, str) or name not in BIT_GENERATORS:
        raise ValueError(
            f"rng is the state of {_spelled(name)}, not one of {', '.join(BIT_GENERATORS)}"
        )
    rest = {key: value for key, value in state.items() if key not in ("bit_generator", SEEDS)}
    _require_entries("rng", rest, BIT_GENERATORS[name])
    if SEEDS in state:
        _require_entries(f"rng.{SEEDS}", state[SEEDS], SEED_SEQUENCE)


def _require_entries(name: str, value: Any, checks: Mapping[str, Any]) -> None:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} is {_spelled(value)}, not {', '.join(checks)} by name")
    if value.keys() != checks.keys():
        raise ValueError(f"{name} has {_spelled(sorted(map(str, value)))}, not {', '.join(checks)}")
    for key, check in checks.items():
        if isinstance(check, Mapping):
            _require_entries(f"{name}.{key}", value[key], check)
        else:
            check(f"{name}.{key}", value[key])


def plain(value: Any) -> Any:
    """Turn a bit generator's state into what JSON can hold."""
    if isinstance(value, Mapping):
        return {name: plain(part) for name, part in value.items()}
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
