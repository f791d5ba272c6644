"""What rules of both kinds of model have in common: factors of the parts of their estimates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypeVar

Rule = TypeVar("Rule", bound=Any)

NOTHING_ELSE: Mapping[str, float] = MappingProxyType({})


def times(
    rule: Rule,
    *,
    direct: float = 1.0,
    indirect: float = 1.0,
    direct_tables: Mapping[str, float] = NOTHING_ELSE,
    indirect_tables: Mapping[str, float] = NOTHING_ELSE,
) -> Rule:
    """Multiply factors of the parts, and of tables within them, by others."""

    def both(own: Mapping[str, float], other: Mapping[str, float]) -> Mapping[str, float]:
        names = own.keys() | other.keys()
        return {name: own.get(name, 1.0) * other.get(name, 1.0) for name in names}

    changed: Rule = replace(
        rule,
        direct=rule.direct * direct,
        indirect=rule.indirect * indirect,
        direct_tables=both(rule.direct_tables, direct_tables),
        indirect_tables=both(rule.indirect_tables, indirect_tables),
    )
    return changed


def plain(rule: Rule) -> Rule:
    """Leave out all factors."""
    bare: Rule = replace(rule, direct=1.0, indirect=1.0, direct_tables={}, indirect_tables={})
    return bare
