"""The reference: public names are grouped once, and each is explained with an example that runs.

That examples run, and print what they say, is tested by pytest's doctests.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import enum
import importlib
import inspect
import pydoc
import re
import textwrap
from functools import cached_property

import pytest

import tabular_bilevel as tb


def grouped(text):
    """Read the groups of a module's docstring: what a title and the names below it say."""
    found = {}
    for line in text.splitlines():
        name = re.fullmatch(r"    ([\w.]+) +(\S.*)", line)
        if name:
            list(found.values())[-1][name[1]] = name[2]
        elif line and not line.startswith(" "):
            found[line] = {}
    return {title: names for title, names in found.items() if names}


GROUPS = grouped(tb.__doc__)


def test_each_public_name_is_in_one_group():
    names = [name for group in GROUPS.values() for name in group]
    own = [name for name in names if "." not in name]
    assert sorted(own) == sorted(tb.__all__)
    assert len(set(names)) == len(names)
    for module in set(names) - set(own):
        assert importlib.import_module(module).__doc__


def test_names_twice_and_names_forgotten_are_seen():
    assert grouped("First line.\n\nA\n    a  one\n    b   two\n\nB\n    c one\n") == {
        "A": {"a": "one", "b": "two"},
        "B": {"c": "one"},
    }


def test_help_begins_with_the_groups():
    shown = pydoc.plain(pydoc.render_doc(tb))
    places = [shown.index(title) for title in GROUPS]
    assert places == sorted(places)
    assert places[-1] < shown.index("PACKAGE CONTENTS")


MODULES = (
    *("tabular_bilevel", "tabular_bilevel.problems", "tabular_bilevel.problems.zoo"),
    *("tabular_bilevel.plots", "tabular_bilevel.vectors", "tabular_bilevel.strategies"),
    *("tabular_bilevel.optimum", "tabular_bilevel.ascent.training"),
    *(f"tabular_bilevel.adapters.{name}" for name in ("gymnasium", "jax", "pettingzoo")),
)


def public():
    """Public classes and functions, by the name under which a reader finds them."""
    found = {}
    for name in MODULES:
        module = importlib.import_module(name)
        for key in module.__all__:
            value = getattr(module, key)
            if inspect.isclass(value) or inspect.isfunction(value):
                found.setdefault(
                    id(value), (f"{name}.{key}".removeprefix("tabular_bilevel."), value)
                )
    return dict(found.values())


PUBLIC = public()
CLASSES = {name: value for name, value in PUBLIC.items() if inspect.isclass(value)}

# Methods of a contract, shown once, with the class that has the contract's name.
CONTRACTS = {
    tb.BoltzmannCovariance: ("target", "estimate", "sampler"),
    tb.Sampler: ("sample", "horizon", "survival"),
    tb.Critic: ("values", "limit"),
    tb.FollowerSolver: ("solve",),
    tb.BilevelProblem: ("model", "pullback"),
    tb.ForwardProblem: ("pushforward",),
    tb.Transform: ("forward",),
    tb.Optimiser: ("step",),
}
SHOWN_BY_CONTRACT = {method: owner for owner, methods in CONTRACTS.items() for method in methods}

# What the package asks of problems and methods, and of its own classes; users call something else.
ASKED = {"at", "enumerable", "limit", "pullback_bound", "rule"}
OUR_OWN = {
    "Batch": {"of"},
    "Estimate": {"modelled", "traced"},
    "Experience": {"law", "model", "seeing"},
    "Model": {"band", "longest_row", "origin"},
    "Sensitivities": {"entries", "times"},
}


def members(cls):
    """Public methods and properties of a class, those that it inherits from ours excepted."""
    kinds = (property, cached_property, classmethod, staticmethod)
    return {
        key: value
        for key, value in vars(cls).items()
        if not key.startswith("_")
        and (inspect.isfunction(value) or isinstance(value, kinds))
        and key not in ASKED | OUR_OWN.get(cls.__name__, set())
    }


def examples(value):
    """The lines of code in a docstring."""
    return "\n".join(
        re.findall(r"^ *(?:>>>|\.\.\.) (.*)$", inspect.getdoc(value) or "", re.MULTILINE)
    )


def sections(value):
    """The sections of a docstring in numpydoc's form: title, and the text below it."""
    parts = re.split(r"^(\w[\w ]*)\n-{3,}\n", inspect.getdoc(value) or "", flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def names_in(section):
    """Names that a section explains: `a, b : type` counts as two."""
    heads = re.findall(r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: : .*)?$", section, re.MULTILINE)
    return [name.lstrip("*") for head in heads for name in head.split(", ")]


def parameters(function):
    taken = list(inspect.signature(function).parameters)
    return [name for name in taken if name not in ("self", "cls")]


def refers(value):
    """Whether a docstring says that something is as of another name."""
    return re.search(r"\bas(?: of|) `", inspect.getdoc(value) or "") is not None


@pytest.mark.parametrize("name", PUBLIC)
def test_it_has_an_example(name):
    assert examples(PUBLIC[name])
    assert "Examples" in sections(PUBLIC[name])


def foreign(code):
    """Names that code uses and does not make: whoever copies it lacks them."""
    used, made = set(), set(dir(builtins))
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else made).add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            made.add(node.name)
        elif isinstance(node, ast.arg):
            made.add(node.arg)
        elif isinstance(node, ast.alias):
            made.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            made.add(node.name)
    return used - made


def test_a_name_from_elsewhere_is_found():
    assert foreign("import numpy as np\nf = lambda x: np.sin(x) + tb.pi") == {"tb"}


@pytest.mark.parametrize("name", PUBLIC)
def test_examples_can_be_copied(name):
    value = PUBLIC[name]
    shown = [value, *(members(value).values() if inspect.isclass(value) else ())]
    assert {
        key: foreign(examples(each)) for key, each in enumerate(shown) if foreign(examples(each))
    } == {}


@pytest.mark.parametrize("name", CLASSES)
def test_each_method_and_property_is_in_an_example(name):
    cls = CLASSES[name]
    unseen = []
    for key, member in members(cls).items():
        shown = [cls, member, *([SHOWN_BY_CONTRACT[key]] if key in SHOWN_BY_CONTRACT else [])]
        code = "\n".join(map(examples, shown))
        if not re.search(rf"\b{key}\b", code):
            unseen.append(key)
    assert unseen == []


def explained():
    """Functions and methods with parameters, by name."""
    for name, value in PUBLIC.items():
        if inspect.isfunction(value):
            yield name, value
    for name, cls in CLASSES.items():
        for key, member in members(cls).items():
            function = getattr(member, "__func__", member)
            if inspect.isfunction(function):
                yield f"{name}.{key}", function


EXPLAINED = dict(explained())


@pytest.mark.parametrize("name", EXPLAINED)
def test_parameters_are_those_of_the_signature(name):
    function = EXPLAINED[name]
    taken, found = parameters(function), sections(function)
    method = name.rpartition(".")[0] in CLASSES
    if "Parameters" in found or (taken and not method):
        assert names_in(found["Parameters"]) == taken
    if not method and "Yields" not in found and function.__annotations__["return"] != "None":
        assert "Returns" in found


@pytest.mark.parametrize("name", CLASSES)
def test_attributes_are_the_fields(name):
    cls = CLASSES[name]
    found = sections(cls)
    if dataclasses.is_dataclass(cls):
        fields = [field.name for field in dataclasses.fields(cls) if field.name[0] != "_"]
        told = names_in(found.get("Attributes", "") or found.get("Parameters", ""))
        assert [name for name in fields if name not in told] == []
    if issubclass(cls, enum.Enum):
        assert [member.name for member in cls if f"`{member.name}`" not in cls.__doc__] == []


def checks_arguments(function):
    """Whether a function raises on its arguments: itself, or by one of our checks of arguments."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    calls = [
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    checks = vars(importlib.import_module("tabular_bilevel._base.arguments"))["__all__"]
    return any(isinstance(node, ast.Raise) and node.exc for node in ast.walk(tree)) or bool(
        {"modelled", "as_estimator", *checks} & set(calls)
    )


@pytest.mark.parametrize("name", EXPLAINED)
def test_what_is_raised_is_said(name):
    function = EXPLAINED[name]
    if checks_arguments(function):
        assert "Raises" in sections(function) or refers(function)


@pytest.mark.parametrize("name", CLASSES)
def test_what_a_class_raises_is_said(name):
    check = vars(CLASSES[name]).get("__post_init__")
    if check is not None and checks_arguments(check):
        assert "Raises" in sections(CLASSES[name])


FORMULA = r"::\n|\b(?:V_F|V_L|Q_F|Q_L|A_L|d_L|dJ/d\w+|gamma_[FL])\b.*=|=.*\bP V\b"
SOURCE = r"theory(?:\.md)?,? section|section \d+ of the theory|arXiv|\b(?:19|20)\d\d\b"


@pytest.mark.parametrize("name", PUBLIC)
def test_a_formula_has_a_source(name):
    text = inspect.getdoc(PUBLIC[name]) or ""
    if re.search(FORMULA, text):
        assert re.search(SOURCE, text, re.IGNORECASE)
