"""The reference: public names are grouped once, and each is explained with an example that runs.

That examples run, and print what they say, is tested by pytest's doctests.
"""

import ast
import builtins
import dataclasses
import enum
import importlib
import importlib.util
import inspect
import pydoc
import re
import textwrap
from functools import cached_property

import pytest

import tabular_bilevel as tb
from tabular_bilevel import vectors
from tabular_bilevel._base import arguments


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


@pytest.mark.parametrize("module", [tb.problems, tb.plots, tb.lq, vectors])
def test_a_module_lists_its_names(module):
    listed = re.findall(r"^- `(\w+)`: \S", module.__doc__, re.MULTILINE)
    assert sorted(listed) == sorted(module.__all__)


MODULES = (
    *("tabular_bilevel", "tabular_bilevel.problems", "tabular_bilevel.problems.zoo"),
    *("tabular_bilevel.plots", "tabular_bilevel.vectors", "tabular_bilevel.strategies"),
    "tabular_bilevel.lq",
    *("tabular_bilevel.optimum", "tabular_bilevel.ascent.training"),
    "tabular_bilevel.check_certificate",
    *(f"tabular_bilevel.adapters.{name}" for name in ("gymnasium", "jax", "pettingzoo")),
    *(["tabular_bilevel.adapters.torch"] if importlib.util.find_spec("torch") else ()),
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
ASKED = {"at", "enumerable", "limit", "pullback_bound", "rule", "rule_at"}
OUR_OWN = {
    "Batch": {"of"},
    "Estimate": {"modelled", "traced"},
    "Experience": {"law", "model", "seeing"},
    "FeatureProblem": {"moves_rewards_only"},
    "Interaction": {"given"},
    "GaussianBump": {"expected", "require_shape", "slopes"},
    "Model": {"band", "lasting", "least_band", "longest_row", "origin"},
    "QuadraticReward": {"expected", "require_shape", "slopes"},
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
    return [key for key in inspect.signature(function).parameters if key not in ("self", "cls")]


def written(cls, name):
    """A class's own method, unless Python made it."""
    found = vars(cls).get(name)
    ours = found is not None and found.__code__.co_filename == inspect.getfile(cls)
    return found if ours else None


def explained():
    """Public functions, classes, and the methods of these, by name."""
    for name, value in PUBLIC.items():
        yield name, value
        if not inspect.isclass(value):
            continue
        called = written(value, "__call__")
        for key, member in (members(value) | ({"__call__": called} if called else {})).items():
            function = getattr(member, "__func__", member)
            if inspect.isfunction(function):
                yield f"{name}.{key}", function


EXPLAINED = dict(explained())


def lacks_an_example(value):
    return "Examples" not in sections(value) or not examples(value)


def shows_not_all_of_its_methods(cls):
    unseen = []
    for key, member in members(cls).items():
        shown = [cls, member, *([SHOWN_BY_CONTRACT[key]] if key in SHOWN_BY_CONTRACT else [])]
        is_old = "is its name now" in (inspect.getdoc(member) or "")
        if not (is_old or re.search(rf"\b{key}\b", "\n".join(map(examples, shown)))):
            unseen.append(key)
    return unseen


def has_an_example_that_cannot_be_copied(value):
    """Names that code uses and does not make: whoever copies it lacks them."""
    used, made = set(), set(dir(builtins))
    for node in ast.walk(ast.parse(examples(value))):
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


def refers(value):
    """Whether a docstring says that something is as of another name."""
    return re.search(r"\b[Aa]s(?: of|) `", inspect.getdoc(value) or "")


def implements(function):
    """Whether it is a method of a contract, which a protocol explains, or a method before it."""
    owner, _, name = function.__qualname__.rpartition(".")
    stated = {cls.__name__ for cls in CLASSES.values() if getattr(cls, "_is_protocol", False)}
    return bool(owner) and name in SHOWN_BY_CONTRACT and owner not in stated


def explains_other_parameters(function):
    told, taken = names_in(sections(function).get("Parameters", "")), parameters(function)
    unexplained = not told and (implements(function) or refers(function))
    return told != taken and not unexplained and (told, taken)


def does_not_say_what_it_returns(function):
    nothing = function.__annotations__.get("return") in ("None", None)
    return not nothing and not {"Returns", "Yields"} & set(sections(function))


def explains_not_all_attributes(cls):
    found = sections(cls)
    told = names_in(found.get("Attributes", "") + found.get("Parameters", ""))
    if issubclass(cls, enum.Enum):
        return [member.name for member in cls if f"- `{member.name}`: " not in cls.__doc__]
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    taken = written(cls, "__init__")
    needed = [field.name for field in fields if field.name[0] != "_"]
    needed += [] if taken is None else parameters(taken)
    return set(needed) - {*told, "message"}


CHECKS = {"modelled", "as_estimator", *dict(inspect.getmembers(arguments, inspect.isfunction))}


def checks_arguments(function):
    """Whether a function raises on its arguments: itself, or by one of our checks of arguments."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    nodes = list(ast.walk(tree))
    calls = {n.func.id for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    return bool(calls & CHECKS) or any(isinstance(n, ast.Raise) and n.exc for n in nodes)


def does_not_say_what_it_raises(value):
    made = [value]
    if inspect.isclass(value):
        made = [written(value, name) for name in ("__init__", "__post_init__")]
    if "Raises" in sections(value) or refers(value):
        return False
    return any(checks_arguments(each) for each in made if each is not None)


FORMULA = r"::\n|\b(?:V_F|V_L|Q_F|Q_L|A_L|d_L|dJ/d\w+|gamma_[FL])\b.*=|=.*\bP V\b"
SOURCE = r"theory(?:\.md)?,? section|arXiv|\b(?:19|20)\d\d\b"


def has_a_formula_without_a_source(value):
    text = (inspect.getdoc(value) or "").partition("Examples\n---")[0]
    return re.search(FORMULA, text) and not re.search(SOURCE, text)


def is_indented_as_python_does_not_show_it(value):
    """As where a backslash joins lines: Python then takes no indentation off the others."""
    return re.search(r"^ +-{4,}$", inspect.getdoc(value) or "", re.MULTILINE)


# Each rule with whom it is for, and with what breaks it.
RULES = {
    lacks_an_example: (PUBLIC, "Add.\n\nExamples\n--------\nNone."),
    has_an_example_that_cannot_be_copied: (EXPLAINED, ">>> wrong(y, x := 1)"),
    explains_other_parameters: (EXPLAINED, "Add.\n\nParameters\n----------\ny, x : int\n"),
    does_not_say_what_it_returns: (PUBLIC, "Add."),
    does_not_say_what_it_raises: (EXPLAINED, "Add."),
    has_a_formula_without_a_source: (PUBLIC, "Add V_F = r_F + gamma_F P V_F."),
    is_indented_as_python_does_not_show_it: (EXPLAINED, "Add.\n\n    Raises\n    ------\nso"),
    shows_not_all_of_its_methods: (CLASSES, ">>> Wrong().other()"),
    explains_not_all_attributes: (CLASSES, "Attributes\n----------\nother : int\n"),
}


def wrong(x: int, y: int) -> int:
    if x < y:
        raise ValueError("x is below y")
    return x + y


@dataclasses.dataclass
class Wrong:
    size: int = 1

    def method(self):
        return self.size


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_nothing_public(rule):
    values, breaking = RULES[rule]
    kinds = {"function": inspect.isfunction, "cls": inspect.isclass, "value": lambda value: True}
    concerned = kinds[next(iter(inspect.signature(rule).parameters))]
    found = {name: rule(value) for name, value in values.items() if concerned(value)}
    assert len(found) > 50
    assert {name: trouble for name, trouble in found.items() if trouble} == {}
    made = Wrong if values is CLASSES else wrong
    made.__doc__ = breaking
    assert rule(made)
