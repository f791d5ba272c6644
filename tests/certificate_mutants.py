"""Certificates changed at random: numbers, types, keys, structure, claims, the proof."""

import json
import math
from contextlib import suppress

# What stands in the place of a number, or of anything.
HEXADECIMALS = (
    "0x0.0p+0", "-0x0.0p+0", "0x1.0000000000000p+0", "0x0.0000000000001p-1022",
    "0x1.fffffffffffffp+1023", "0x1p+60", "-0x1p-60", "0x7p+0", "0x1p-1074", "0x1p-2000",
    "0x1_0p+0", "0x\u0661p+0", "inf", "nan", "1.5", " 0x1p+0", "0x1p+0\n", "",
)  # fmt: skip
THINGS = (None, True, False, 0, 1, -1, 2, 999, 0.0, 1.0, "0", [], {}, [0, "0x1p+0"], math.nan)


def mutant(rng, texts):
    """Change one of some certificates, which are given as JSON."""
    document = json.loads(texts[rng.integers(len(texts))])
    some_change(rng)(rng, document, texts)
    if rng.random() < 0.3:
        with suppress(LookupError, TypeError, ValueError, AttributeError, OverflowError):
            some_change(rng)(rng, document, texts)  # if it fits what is left
    return document


def places(node, wanted, path=()):
    """List the paths to what is wanted."""
    found = [path] if path and wanted(node) else []
    steps = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node if isinstance(node, list) else ())
    )
    for key, child in steps:
        found += places(child, wanted, (*path, key))
    return found


def get(node, path):
    for key in path:
        node = node[key]
    return node


def put(node, path, value):
    get(node, path[:-1])[path[-1]] = value


def some(rng, node, wanted):
    """Choose one of the places, or none if there is none; the parts of a document count alike."""
    found = places(node, wanted)
    if not found:
        return None
    parts = sorted({path[0] for path in found}, key=str)
    part = parts[rng.integers(len(parts))]
    found = [path for path in found if path[0] == part]
    return found[rng.integers(len(found))]


def is_number(node):
    return isinstance(node, str) and node.lstrip("-").startswith("0x")


def changed_number(rng, text):
    """Change a hexadecimal, by much or little."""
    kind = rng.integers(6)
    if kind == 0:
        return HEXADECIMALS[rng.integers(len(HEXADECIMALS))]
    if kind == 1:
        return text[1:] if text.startswith("-") else f"-{text}"
    if kind == 2:  # a digit
        digits = [i for i, x in enumerate(text.split("p")[0]) if i > 2 and x in "0123456789abcdef"]
        i = digits[rng.integers(len(digits))] if digits else 0
        return text[:i] + "0123456789abcdef"[rng.integers(16)] + text[i + 1 :]
    if kind == 3:  # the exponent
        mantissa, _, exponent = text.partition("p")
        return f"{mantissa}p{int(exponent) + int(rng.choice([-60, -3, -1, 1, 3, 60])):+d}"
    mantissa, _, exponent = text.partition("p")
    if "." not in text:  # of the proof: a change in some digit behind the first
        shift = int(rng.integers(0, 400))
        number = (int(mantissa, 16) << 64) + (int(rng.choice([-1, 1])) << max(500 - shift, 0))
        return f"{number:#x}p{int(exponent) - 64:+d}"
    value = float.fromhex(text)
    if kind == 4:
        return (value * (1.0 + float(rng.normal()) * 2.0 ** -float(rng.integers(1, 50)))).hex()
    return math.nextafter(value, float(rng.choice([-math.inf, math.inf]))).hex()


def number(rng, document, texts):
    path = some(rng, document, is_number)
    put(document, path, changed_number(rng, get(document, path)))


def index(rng, document, texts):
    path = some(rng, document, lambda node: type(node) is int)
    old = get(document, path)
    new = [old + 1, old - 1, -old, 999, float(old), bool(old), str(old), old + 2**40]
    put(document, path, new[rng.integers(len(new))])


def thing(rng, document, texts):
    path = some(rng, document, lambda node: True)
    put(document, path, THINGS[rng.integers(len(THINGS))])


def key(rng, document, texts):
    path = some(rng, [document], lambda node: isinstance(node, dict))
    node = get([document], path)
    keys = list(node)
    name = keys[rng.integers(len(keys))]
    kind = rng.integers(4)
    if kind == 0:
        del node[name]
    elif kind == 1:
        node[name + " "] = node.pop(name)
    elif kind == 2:
        node["more"] = node[name]
    else:
        other = keys[rng.integers(len(keys))]
        node[name], node[other] = node[other], node[name]


def items(rng, document, texts):
    path = some(rng, document, lambda node: isinstance(node, list) and len(node) > 0)
    node = get(document, path)
    i, j = rng.integers(len(node), size=2)
    kind = rng.integers(3)
    if kind == 0:
        del node[i]
    elif kind == 1:
        node.insert(i, json.loads(json.dumps(node[j])))
    else:
        node[i], node[j] = node[j], node[i]


def subtree(rng, document, texts):
    """Take a subtree from another place, or from the same one of another certificate."""
    other = json.loads(texts[rng.integers(len(texts))])
    path = some(rng, document, lambda node: isinstance(node, (list, dict)))
    theirs = places(other, lambda node: True)
    if rng.random() < 0.5 and path in theirs:
        put(document, path, get(other, path))
    else:
        put(document, path, get(other, theirs[rng.integers(len(theirs))]))


def ends(document):
    return places(document["claims"], is_number)


def widened(rng, document, texts):
    """Make some claims wider, and shift another by about as much."""
    claims = document["claims"]
    paths = [path for path in ends(document) if rng.random() < 0.5]
    size = 2.0 ** float(rng.choice([-52, -20, 0, 10, 60, 900]))
    for path in paths:
        upper = path[1] == 1
        put(claims, path, (float.fromhex(get(claims, path)) + (size if upper else -size)).hex())
    if rng.random() < 0.7:
        shifted(rng, document, texts, size)


def shifted(rng, document, texts, size=None):
    """Move both ends of one claim."""
    claims = document["claims"]
    everything = ends(document)
    path = everything[rng.integers(len(everything))]
    mirror = (path[0], 1 - path[1], *path[2:])
    value = float.fromhex(get(claims, path))
    away = [math.ulp(value), 2 * math.ulp(value), 1e-9 * abs(value), 1.0, 7.0]
    away += [] if size is None else [size / 2, size / 2.0**20, size / 2.0**50]
    step = float(rng.choice(away)) * float(rng.choice([-1.0, 1.0]))
    for end in (path, mirror):
        put(claims, end, (float.fromhex(get(claims, end)) + step).hex())


def proof(rng, document, texts):
    """Change a number of the proof."""
    path = ("proof", *some(rng, document["proof"], is_number))
    put(document, path, changed_number(rng, get(document, path)))


def claim(rng, document, texts):
    """Move one end of one claim."""
    paths = ends(document)
    path = ("claims", *paths[rng.integers(len(paths))])
    put(document, path, changed_number(rng, get(document, path)))


CHANGES = (
    number, index, thing, key, items, subtree, widened, widened, shifted, proof, proof, claim,
)  # fmt: skip


def some_change(rng):
    return CHANGES[rng.integers(len(CHANGES))]
