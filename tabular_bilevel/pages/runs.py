"""A page that compares ascents: their curves beside what is known, their ends, their settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from tabular_bilevel._base.display import cut
from tabular_bilevel._base.html import element
from tabular_bilevel.ascent.curves import Trained
from tabular_bilevel.pages.document import Row, Source, document, figure, number, table
from tabular_bilevel.pages.figures import Line, curves, drawable
from tabular_bilevel.problems.known import Known, best_known, published_end

# Points of a curve that are drawn: a picture has no room for more.
POINTS = 200

# Characters of a setting's value.
VALUE = 60


@dataclass(frozen=True, eq=False)
class Comparison:
    """Trainings of one problem, by name, at least one.

    Raises ValueError if they are of several problems, or count different steps of J.
    """

    runs: Mapping[str, Trained]

    def __post_init__(self) -> None:
        """Refuse what cannot be compared."""
        for name in ("problem", "horizon"):
            found = {run: trained.words.get(name) for run, trained in self.runs.items()}
            if len({repr(value) for value in found.values()}) > 1:
                told = ", ".join(f"{value} in {run}" for run, value in found.items())
                raise ValueError(f"the runs differ in their {name}, so that J does: {told}")

    @property
    def problem(self) -> str:
        """Its name."""
        return str(next(iter(self.runs.values())).words["problem"])

    @cached_property
    def best(self) -> Known | None:
        """The best J that is known, if there is one."""
        return best_known(self.problem, next(iter(self.runs.values())).words.get("horizon"))

    @cached_property
    def published(self) -> dict[str, Known]:
        """Where published ascents with the settings of a run end, by run."""
        found = {name: published_end(run.settings) for name, run in self.runs.items()}
        return {name: known for name, known in found.items() if known is not None}

    @cached_property
    def settings(self) -> dict[str, list[Any]]:
        """Each setting of the runs, in their order."""
        names = dict.fromkeys(name for run in self.runs.values() for name in run.settings)
        return {name: [run.settings.get(name) for run in self.runs.values()] for name in names}

    @property
    def differing(self) -> dict[str, dict[str, Any]]:
        """What differs, by run."""
        unlike = {k: v for k, v in self.settings.items() if len(set(map(repr, v))) > 1}
        return {
            name: {setting: values[i] for setting, values in unlike.items()}
            for i, name in enumerate(self.runs)
        }

    def __str__(self) -> str:
        width = max(map(len, self.runs))
        lines = [
            f"{name:<{width}}  J = {_end(run)}{f', published {known.value:g}' if known else ''}"
            for name, run in self.runs.items()
            for known in [self.published.get(name)]
        ]
        known = [f"best known: J = {self.best.value:g}"] if self.best else []
        return "\n".join([*lines, *known])

    def page(self, source: Source) -> str:
        """Write the page."""
        best = max(self.runs, key=lambda name: self.runs[name].ends.mean())
        lead = f"The highest end: {best}, J = {_end(self.runs[best])}."
        if self.best is not None:
            lead += f" The best known is {self.best.value:g}."
        return document("Ascents", None, lead, self._body(), source)

    def _body(self) -> Iterator[Element]:
        yield element("h2", "J along the ascents")
        lines = [_line(name, run, self.published.get(name)) for name, run in self.runs.items()]
        top = None if self.best is None else self.best.value
        if drawable(*(x for line in lines for x in (*line.y, *line.error))):
            ends = "; ".join(f"{name} ends at {_end(run)}" for name, run in self.runs.items())
            yield figure(
                curves(lines, f"J against iterations: {ends}.", best=top),
                "Means over seeds; bands are one standard error to each side.",
            )
        else:
            yield element("p", "There are numbers that cannot be drawn.")
        yield element("h2", "Where they end")
        yield table(
            "J over the last twentieth of the iterations: mean and standard error over seeds",
            ("run", "J", *(["published"] if self.published else [])),
            (
                Row((name, _end(run), *self._published(name)), self._beside(name, run))
                for name, run in self.runs.items()
            ),
            numbers=(1, 2),
        )
        yield element("h2", "Settings that all share")
        yield table(
            "The settings",
            ("setting", "value"),
            (
                Row((name, cut(str(values[0]), VALUE)))
                for name, values in self.settings.items()
                if len(set(map(repr, values))) == 1
            ),
        )
        known = {each.what: each for each in (*self.published.values(), self.best) if each}
        if known:
            yield element("h2", "Where the marks are from")
            items = [f"{each.what}, J = {each.value:g}: {each.source}" for each in known.values()]
            yield element("ul", *(element("li", item) for item in items))

    def _published(self, name: str) -> list[str]:
        """Say where a run's published ascents end, in a cell if there are any of some run."""
        known = self.published.get(name)
        return [f"{known.value:g}" if known else ""] if self.published else []

    def _beside(self, name: str, run: Trained) -> str:
        """Say what a run has of its own."""
        n_seeds, low, high = len(run.ends), number(run.ends.min()), number(run.ends.max())
        words = [f"{n_seeds} seeds, {low} to {high}" if n_seeds > 1 else "1 seed"]
        words += [f"{key} {cut(str(v), VALUE)}" for key, v in self.differing[name].items()]
        return "; ".join(words)


def _line(name: str, run: Trained, known: Known | None) -> Line:
    keep = np.unique(np.linspace(0, run.iteration.size - 1, POINTS).astype(int))
    table = run.objective[:, keep]
    error = np.zeros(keep.size)
    if len(table) > 1:
        error = table.std(axis=0, ddof=1) / np.sqrt(len(table))
    mark = None if known is None else known.value
    return Line(name, run.iteration[keep], table.mean(axis=0), error, mark)


def _end(run: Trained) -> str:
    mean = number(float(run.ends.mean()), 4)
    if run.ends.size < 2:
        return mean
    error = float(run.ends.std(ddof=1) / np.sqrt(run.ends.size))
    return f"{mean} \N{PLUS-MINUS SIGN} {number(error, 2)}"
