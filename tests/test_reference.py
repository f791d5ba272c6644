"""The reference: public names are grouped once, and each is explained with an example that runs."""

from __future__ import annotations

import importlib
import pydoc
import re

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
