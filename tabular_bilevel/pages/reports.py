"""Pages of what checks found: the verdict, a row a check, and where an estimator is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import singledispatch
from itertools import groupby
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from tabular_bilevel._base.html import element
from tabular_bilevel.certify.accuracy import Level
from tabular_bilevel.checks import verify
from tabular_bilevel.checks.diagnosis import Diagnosis
from tabular_bilevel.checks.enumeration import EnumerationReport
from tabular_bilevel.checks.gradient import GradientReport
from tabular_bilevel.checks.localising import SPOKEN, Localisation
from tabular_bilevel.checks.quantiles import student
from tabular_bilevel.checks.report import EstimatorReport, of_target, percent
from tabular_bilevel.checks.suite import SuiteReport, told
from tabular_bilevel.checks.verdict import Verdict
from tabular_bilevel.pages.document import (
    Check,
    Row,
    Source,
    checks,
    document,
    figure,
    number,
    table,
)
from tabular_bilevel.pages.figures import Pair, Span, bars, drawable, spans

# Parameters and mistakes that are shown of many.
SHOWN, GUESSES = 16, 5

# Probabilities below it are said to be.
RARE = 1e-3

# Of the intervals of a mean.
CONFIDENCE = 0.99

GOOD = {Verdict.UNBIASED: True, Verdict.BIASED: False, Verdict.BROKEN: False}

# In one word with its number, which a phone would part.
AT_MOST = "\N{LESS-THAN OR EQUAL TO}"

# Critical values that a statistic is drawn at, at least and at most.
DRAWN = 1e-3, 1e9


def page_of(report: Any, source: Source) -> str:
    """Write the page of a report; `save_report` says of which."""
    verdict, good, lead = _verdict(report)
    return document(verdict, good, lead, _body(report), source)


@singledispatch
def _verdict(report: Any) -> tuple[str, bool | None, str]:
    """Say what came of a check: in short, whether that is good, and in a sentence or two."""
    kinds = "EstimatorReport, EnumerationReport, GradientReport or SuiteReport"
    raise ValueError(f"report is a {type(report).__name__}, not a {kinds}")


@singledispatch
def _body(report: Any) -> Iterator[Element]:
    """Say what that rests on."""
    raise NotImplementedError


# ---------------------------------------------------------------- one estimator


@_verdict.register
def _(report: EstimatorReport) -> tuple[str, bool | None, str]:
    return report.verdict.value, GOOD.get(report.verdict), _lead(report)


@_body.register
def _(report: EstimatorReport) -> Iterator[Element]:
    yield element("h2", "What was checked")
    yield checks("One row a check", _of_estimator(report))
    yield from _found(report)
    yield from _in_full(report)


def _lead(report: EstimatorReport | EnumerationReport) -> str:
    if report.verdict is Verdict.BIASED:
        found = report.diagnosis or Diagnosis()
        verb = "comes" if found.clear else "seems to come"
        instead = f": it {verb} to {'; to '.join(found.best.instead)}" if found.best else ""
        return f"The mean of the estimates is off its target{instead}."
    if report.verdict is Verdict.BROKEN:
        trouble = report.trouble if isinstance(report, EstimatorReport) else report.reason
        return f"It could not be checked: {trouble}."
    if report.verdict is Verdict.INCONCLUSIVE:
        return f"Nothing is decided: {report.reason}."
    if isinstance(report, EnumerationReport):
        return "The expectation, over all trajectories, is its target."
    seen = report.smallest_visible_bias
    also = (
        f"; one of {percent(seen)} would hardly have passed" if seen <= report.aim else report.short
    )
    return f"No bias was seen in the mean of the estimates{also}."


def _of_estimator(report: EstimatorReport) -> Iterator[Check]:
    if report.trouble and report.reason != "pullback":
        yield Check("the estimator returns a gradient", "", "", "BROKEN", False)
    if not report.trouble:
        off = report.statistic > report.critical_value or report.verdict is Verdict.BIASED
        settled = None if report.verdict is Verdict.INCONCLUSIVE else not off
        unit = "times what bound and rounding allow" if report.deterministic else "standard errors"
        yield Check(
            "mean of the estimates = target",
            number(report.statistic),
            number(report.critical_value),
            "off" if off else "open" if settled is None else "ok",
            settled,
            f"{unit}; most {report.where}; {report.n_replicates} calls" if report.where else unit,
        )
        seen, aim = report.smallest_visible_bias, report.aim
        yield Check(
            "a bias that would have been seen",
            _percent(seen),
            _percent(aim),
            "ok" if seen <= aim else "coarse",
            True if seen <= aim else None,
            f"of the target's norm, with probability {report.power:g}",
        )
    yield _of_pullback(report.pullback_checked, report.reason == "pullback")
    if report.target_accuracy is not None:
        yield _of_accuracy(report)
    if report.declared:
        off_by = _percent(report.declared_off)
        yield Check("declared", off_by, "", "noted", True, f"{report.declared}; off the gradient")


@_verdict.register
def _(report: EnumerationReport) -> tuple[str, bool | None, str]:
    return report.verdict.value, GOOD.get(report.verdict), _lead(report)


@_body.register
def _(report: EnumerationReport) -> Iterator[Element]:
    fits = report.difference <= report.tolerance
    rows = [
        Check(
            "expectation = target",
            number(report.difference),
            number(report.tolerance),
            "ok" if fits else "off",
            fits,
            f"of the target, most {report.where}; {report.n_trajectories:,} trajectories",
        )
    ]
    if report.combination:
        good = True if report.passed else None
        rows.append(Check("batches", "", "", "ok" if good else "noted", good, report.combination))
    rows.append(_of_pullback(report.pullback_checked, report.verdict is Verdict.BROKEN))
    if report.target_accuracy is not None:
        rows.append(_of_accuracy(report))
    yield element("h2", "What was checked")
    yield checks("One row a check", rows)
    yield from _found(report)
    yield from _in_full(report)


def _of_pullback(checked: bool, wrong: bool) -> Check:
    name = "the problem's pullback = differences of its model"
    if wrong:
        return Check(name, "", "", "DIFFERS", False)
    return Check(name, "", "", "ok" if checked else "not checked", True if checked else None)


def _of_accuracy(report: EstimatorReport | EnumerationReport) -> Check:
    accuracy = report.target_accuracy
    assert accuracy is not None
    detail = of_target(accuracy, report.target, report.times)
    return Check("the target", "", "", accuracy.level.name, accuracy.proven or None, detail)


def _found(report: EstimatorReport | EnumerationReport, level: str = "h2") -> Iterator[Element]:
    """Show where a mean is off, and which mistakes explain that."""
    yield from _factors(report.localisation, level)
    yield from _gradients(report, level)
    if report.diagnosis is not None and report.diagnosis.guesses:
        yield from _guesses(report.diagnosis, level)


def _factors(found: Localisation, level: str) -> Iterator[Element]:
    each = {"the whole gradient": found.scale}
    each |= {SPOKEN.get(name, name): factor for name, factor in found.factors.items()}
    known = {name: f for name, f in each.items() if f.known}
    if not known:
        return
    yield element(level, "By what the gradient and its parts are multiplied")
    rows = [Span(name, f.value, f.low, f.high, f.wrong) for name, f in known.items()]
    wrong = ", ".join(name for name, f in known.items() if f.wrong) or "none of them"
    if drawable(*(x for row in rows for x in (row.low, row.high))):
        words = f"Factors with their intervals at 99%, beside a line at 1. Not 1: {wrong}."
        yield figure(
            spans(rows, words, mark=1.0),
            "The dashed line is at 1, where a part is right. A hollow dot is one whose interval, "
            "at 99%, does not hold 1.",
        )
    else:
        yield element("p", "The factors are too large to draw.")
    yield table(
        "Factors, with intervals at 99%",
        ("part", "factor", "interval", "is 1"),
        (
            Row(
                (
                    name,
                    number(f.value),
                    f"{number(f.low)} to {number(f.high)}",
                    "no" if f.wrong else "maybe",
                )
            )
            for name, f in known.items()
        ),
        numbers=(1, 2),
    )
    for line in str(found).splitlines():
        if " times " not in line:
            yield element("p", f"{line[:1].upper()}{line[1:]}.")


def _gradients(report: EstimatorReport | EnumerationReport, level: str) -> Iterator[Element]:
    if isinstance(report, EstimatorReport):
        mean, error = report.mean, report.standard_error
        freedom = max(1, report.n_replicates - 1)
        half = student(0.5 * (1.0 - CONFIDENCE), freedom) * error if error.any() else 0.0 * error
        what = "mean"
    else:
        mean, what = report.expectation, "expectation"
        half = np.full_like(mean, report.tolerance * np.abs(report.target).max(initial=0.0))
    target = report.target
    if not mean.shape == half.shape == target.shape or not mean.size:
        return
    yield element(level, "The gradient, entry by entry")
    size = np.maximum(np.abs(target), np.abs(mean))
    places = np.sort(np.argsort(-np.nan_to_num(size, nan=np.inf), kind="stable")[:SHOWN])
    few = "" if len(places) == mean.size else f"The {len(places)} largest of {mean.size} entries. "
    rows = [Pair(f"gradient[{k}]", target[k], mean[k], half[k]) for k in places]
    if drawable(*(x for row in rows for x in (row.exact, row.mean, row.half))):
        off = [row.name for row in rows if abs(row.mean - row.exact) > row.half]
        words = f"Pairs of bars: target and {what}."
        if half.any():
            words += f" Target outside of the interval: {', '.join(off) or 'none'}."
        yield figure(
            bars(rows, words),
            f"{few}",
            element("i", class_="exact"),
            " target, ",
            element("i", class_="mean"),
            f" {what}" + (", with its interval at 99%" if what == "mean" and half.any() else ""),
        )
    else:
        yield element("p", f"{few}There are numbers that cannot be drawn.")
    yield table(
        f"Target and {what}",
        ("entry", "target", what, "\N{PLUS-MINUS SIGN}"),
        (
            Row((row.name, number(row.exact, 5), number(row.mean, 5), number(row.half, 2)))
            for row in rows
        ),
        numbers=(1, 2, 3),
    )


def _guesses(diagnosis: Diagnosis, level: str) -> Iterator[Element]:
    yield element(level, "Which known mistakes would explain it")
    best, unit = diagnosis.best, diagnosis.unit
    unit = unit if unit.startswith("of") else f"in {unit}"
    first = "No known mistake is singled out." if best is None else f"The likeliest: {best.name}."
    yield element("p", first)
    yield table(
        f"The likeliest mistakes, and how far the mean is from what they make, {unit}",
        ("mistake", "probability", "distance", "fits"),
        (
            *(
                Row(
                    (
                        guess.name,
                        _probability(guess.probability),
                        number(guess.distance),
                        "yes" if guess.fits else "no",
                    ),
                    f"not told apart here: {', '.join(guess.alike)}" if guess.alike else "",
                )
                for guess in diagnosis.guesses[:GUESSES]
            ),
            Row(("none that is known", _probability(diagnosis.none_probability), "", "")),
        ),
        numbers=(1, 2),
    )


def _in_full(report: EstimatorReport | EnumerationReport, level: str = "h2") -> Iterator[Element]:
    yield element(level, "The report in words")
    yield element("pre", str(report))
    traceback = getattr(report, "traceback", "")
    if traceback:
        yield element("pre", traceback)


def _probability(chance: float) -> str:
    return f"< {RARE:g}" if chance < RARE else number(chance)


def _percent(share: float) -> str:
    return percent(share) if np.isfinite(share) else number(share)


# ---------------------------------------------------------------- a suite


@_verdict.register
def _(report: SuiteReport) -> tuple[str, bool | None, str]:
    good = True if report.passed else GOOD.get(report.verdict)
    passed = sum(one.passed for one in report.reports.values())
    mistake = next(iter(report.mistakes), "")
    most = f" Most often this explains a bias: {mistake}." if mistake else ""
    lead = f"No bias was seen on {passed} of {len(report.reports)} problems.{most}"
    return report.verdict.value, good, lead


@_body.register
def _(report: SuiteReport) -> Iterator[Element]:
    yield element("h2", "What was checked")
    links = {name: f"problem-{k}" for k, name in enumerate(report.reports)}
    yield checks(
        "One row a problem: how far the mean is off, in standard errors",
        (
            Check(
                name,
                number(one.statistic),
                number(one.critical_value),
                one.verdict.value,
                GOOD.get(one.verdict),
                told(one),
                "" if one.passed else links[name],
            )
            for name, one in report.reports.items()
        ),
    )
    for line in report.summary.splitlines()[1:]:
        yield element("p", f"{line.strip()}.")
    for name, one in report.reports.items():
        if not one.passed:
            yield element("h2", f"{name}: {one.verdict.value}", id=links[name])
            yield from _found(one, "h3")
            yield from _in_full(one, "h3")


# ---------------------------------------------------------------- gradients, verification


@_verdict.register
def _(report: GradientReport) -> tuple[str, bool | None, str]:
    agree = sum(each.passed for each in report.comparisons)
    lead = f"{agree} of {len(report.comparisons)} other routes agree with the adjoint gradient."
    return ("passed" if report.passed else "FAILED"), report.passed, lead


@_body.register
def _(report: GradientReport) -> Iterator[Element]:
    yield element("h2", "What was checked")
    yield checks(
        f"One row a route: the largest relative difference of {report.n_derivatives} derivatives",
        (
            Check(
                each.route,
                number(each.difference),
                number(each.tolerance),
                "ok" if each.passed else "DIFFERS",
                each.passed,
                f"largest at {each.worst}: {number(each.adjoint, 8)} and {number(each.other, 8)}",
            )
            for each in report.comparisons
        ),
    )
    yield element("h2", "The report in words")
    yield element("pre", str(report))


def page_of_verification(found: Sequence[verify.Check], source: Source) -> str:
    """Write the page of a verification."""
    failed = [check for check in found if not check.passed]
    ok = len(found) - len(failed)
    verdict = "FAILED" if failed else "passed"
    names = "; ".join(f"{check.problem}, {check.name}" for check in failed)
    lead = f"{ok} of {len(found)} checks ok." + (f" Failed: {names}." if failed else "")
    return document(verdict, not failed, lead, _verified(found), source)


def _verified(found: Sequence[verify.Check]) -> Iterator[Element]:
    yield element(
        "p",
        "What is planted must fail: a checker that passes it is none. In small letters stands what "
        "is known of the error of the package's own number.",
    )
    for problem, each in groupby(found, lambda check: check.problem):
        of_problem = list(each)
        yield element("h2", f"On {problem}")
        yield checks(
            "One row a check",
            (
                Check(
                    check.name,
                    number(check.value),
                    f"{'>' if check.planted else AT_MOST}{number(check.bound)}",
                    "ok" if check.passed else "FAIL",
                    check.passed,
                    "; ".join(filter(None, (check.detail, _known(check)))),
                )
                for check in of_problem
            ),
        )
        yield from _means([check for check in of_problem if check.level is Level.STATISTICAL])
        for check in of_problem:
            if check.report is not None:
                yield from _found(check.report, "h3")


def _known(check: verify.Check) -> str:
    if check.level is Level.STATISTICAL:
        return ""  # as the detail says
    within = f" within {number(check.radius, 2)}" if np.isfinite(check.radius) else ""
    return f"{check.level.name}{within}"


def _means(found: Sequence[verify.Check]) -> Iterator[Element]:
    """Draw how far means are from the gradient, on a logarithmic scale."""

    def share(check: verify.Check) -> float:
        return float(np.log10(np.clip(check.value / check.bound, *DRAWN)))

    drawn = [check for check in found if check.bound > 0.0 and drawable(check.value, check.bound)]
    if not drawn:
        return
    rows = [Span(c.name, share(c), share(c), share(c), c.planted) for c in drawn]
    beyond = ", ".join(check.name for check in drawn if check.value > check.bound) or "none"
    yield figure(
        spans(
            rows,
            f"Distances of means from the gradient. Beyond the critical value: {beyond}.",
            mark=0.0,
            powers=True,
        ),
        "How far means are from the exact gradient, in critical values: the dashed line is at one. "
        "The full dot is BC-HG's; hollow ones are planted mistakes, which have to be to the right.",
    )
