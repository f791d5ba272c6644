"""Small pictures as SVG, within a page: as wide as a phone, where their text has its full size.

Each says in its label what it shows; a table beside it has the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from tabular_bilevel._base.arrays import FloatArray, IntArray
from tabular_bilevel._base.colours import BLUE, CURVES, ORANGE
from tabular_bilevel._base.display import cut
from tabular_bilevel._base.html import element

# Units are those of the screen; a line of text, and the room beside what is drawn.
WIDTH, FONT, LINE, EDGE = 340, 13, 19, 8

# Numbers beyond it are not drawn, nor told apart nearer to each other than a share of their size.
LARGEST, NEAREST = 1e100, 1e-9

# Characters of a name that a line has room for; ticks of an axis at most.
NAME, TICKS = 42, 5

INK, GREY = "#111111", "#767676"


@dataclass(frozen=True)
class Span:
    """A named number and the interval that it is known within."""

    name: str
    value: float
    low: float
    high: float
    off: bool


@dataclass(frozen=True)
class Pair:
    """A named number, a mean that should be it, and half of the mean's interval."""

    name: str
    exact: float
    mean: float
    half: float


@dataclass(frozen=True, eq=False)
class Line:
    """A named curve, its standard error, and a number to compare its end with."""

    name: str
    x: IntArray
    y: FloatArray
    error: FloatArray
    mark: float | None = None


@dataclass(frozen=True)
class _Axis:
    """Numbers from low to high, between two places."""

    low: float
    high: float
    first: float
    last: float
    least: float = 0.0  # between two ticks

    @classmethod
    def of(cls, numbers: Iterable[float], first: float, last: float, least: float = 0.0) -> _Axis:
        """Span some numbers, with a little room."""
        all_of_them = list(numbers)
        low, high = min(all_of_them), max(all_of_them)
        size = max(abs(low), abs(high))
        room = 0.04 * (high - low) if high - low > NEAREST * size else 0.5 * size or 1.0
        return cls(low - room, high + room, first, last, least)

    def __call__(self, number: float) -> float:
        share = (number - self.low) / (self.high - self.low)
        return round(self.first + share * (self.last - self.first), 2)

    @property
    def ticks(self) -> list[float]:
        """Round numbers within."""
        rough = max((self.high - self.low) / TICKS, self.least)
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * k for k in (1.0, 2.0, 5.0, 10.0) if power * k >= rough)
        return [
            step * k for k in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)
        ]


def drawable(*numbers: float) -> bool:
    """Whether all are finite and of a size that can be drawn."""
    return all(abs(number) <= LARGEST for number in numbers)


def spans(
    rows: Sequence[Span],
    told: str,
    *,
    mark: float,
    powers: bool = False,
) -> Element:
    """Draw a dot and an interval for each row, and a line at the number `mark`, which is right.

    What the picture says is `told`, for those who do not see it. A dot that is `off` is hollow.
    With `powers` numbers are powers of ten, as which they are written.
    """
    ends = (x for row in rows for x in (row.low, row.value, row.high))
    axis = _Axis.of((mark, *ends), EDGE, WIDTH - EDGE, least=float(powers))
    ticked = (lambda power: f"{10.0**power:,.7g}") if powers else "{:g}".format
    bottom = 2 * LINE * len(rows) + 4
    right = _line(axis(mark), 0, axis(mark), bottom, stroke=GREY, stroke_dasharray="4 3")
    drawn = [right, *_axis_below(axis, bottom, ticked)]
    for i, row in enumerate(rows):
        middle = 2 * LINE * i + 1.45 * LINE
        drawn += [
            _text(EDGE, 2 * LINE * i + 0.75 * LINE, cut(row.name, NAME)),
            _line(axis(row.low), middle, axis(row.high), middle, stroke=INK, stroke_width=3),
            *(_line(axis(x), middle - 4, axis(x), middle + 4) for x in (row.low, row.high)),
            element(
                "circle",
                cx=axis(row.value),
                cy=middle,
                r=5,
                fill="#FFFFFF" if row.off else BLUE,
                stroke=ORANGE if row.off else INK,
                stroke_width=3 if row.off else 1,
            ),
        ]
    return _picture(bottom + 1.4 * LINE, told, drawn)


def bars(rows: Sequence[Pair], told: str) -> Element:
    """Draw two bars for each row: what is exact, and a mean with its interval."""
    ends = (x for row in rows for x in (row.exact, row.mean - row.half, row.mean + row.half))
    axis = _Axis.of((0.0, *ends), EDGE, WIDTH - EDGE)
    height, thick = 2.6 * LINE, 0.65 * LINE
    bottom = height * len(rows) + 4
    nothing = _line(axis(0.0), 0, axis(0.0), bottom)
    drawn = [nothing, *_axis_below(axis, bottom, "{:g}".format)]
    for i, row in enumerate(rows):
        top = height * i
        drawn.append(_text(EDGE, top + 0.75 * LINE, cut(row.name, NAME)))
        upper, lower = top + LINE, top + LINE + thick
        for y, number, colour in ((upper, row.exact, BLUE), (lower, row.mean, ORANGE)):
            left, right = sorted((axis(0.0), axis(number)))
            size = {"width": max(right - left, 1), "height": thick}
            drawn.append(element("rect", x=left, y=y, **size, fill=colour, stroke=INK))
        middle = lower + 0.5 * thick
        low, high = axis(row.mean - row.half), axis(row.mean + row.half)
        drawn += [
            _line(low, middle, high, middle, stroke_width=1.5),
            *(_line(x, middle - 4, x, middle + 4, stroke_width=1.5) for x in (low, high)),
        ]
    return _picture(bottom + 1.4 * LINE, told, drawn)


def curves(lines: Sequence[Line], told: str, *, best: float | None = None) -> Element:
    """Draw curves with bands of a standard error, their marks, and a line at what is best."""
    marks = [line.mark for line in lines if line.mark is not None]
    others = [*marks, *([] if best is None else [best])]
    ends = (x for line in lines for e in (line.error, -line.error) for x in (line.y + e).tolist())
    top = LINE * (len(lines) + bool(marks) + (best is not None)) + 8
    left, right, bottom = 52, WIDTH - 12, top + 220
    high = _Axis.of((*others, *ends), bottom, top)
    along = _Axis(0.0, max(max(float(line.x[-1]) for line in lines), 1.0), left, right)
    drawn = [*_axis_below(along, bottom, "{:,.0f}".format), *_axis_beside(high, left, right)]
    for i, line in enumerate(lines):
        colour, dashes = CURVES[i % len(CURVES)]
        dashed = " ".join(f"{2.0 * dash:g}" for dash in dashes) or None
        look = {"stroke": colour, "stroke_width": 2, "stroke_dasharray": dashed, "fill": "none"}
        x = [along(place) for place in line.x.tolist()]
        upper, lower = ([high(y) for y in (line.y + e).tolist()] for e in (line.error, -line.error))
        if line.error.any():
            band = _points([*x, *x[::-1]], [*upper, *lower[::-1]])
            drawn.append(element("polygon", points=band, fill=colour, fill_opacity=0.2))
        drawn += [
            element("polyline", points=_points(x, [high(y) for y in line.y.tolist()]), **look),
            _line(EDGE, LINE * i + 0.5 * LINE, 44, LINE * i + 0.5 * LINE, **look),
            _text(52, LINE * i + 0.75 * LINE, cut(line.name, NAME - 6)),
        ]
        if line.mark is not None:
            drawn.append(_triangle(right, high(line.mark), colour))
    row = len(lines)
    if marks:
        drawn += [
            _triangle(24, LINE * row + 0.5 * LINE, "#FFFFFF"),
            _text(52, LINE * row + 0.75 * LINE, "published end of that curve"),
        ]
        row += 1
    if best is not None:
        dotted = {"stroke": INK, "stroke_dasharray": "2 3", "stroke_width": 1.5}
        drawn += [
            _line(left, high(best), right, high(best), **dotted),
            _line(EDGE, LINE * row + 0.5 * LINE, 44, LINE * row + 0.5 * LINE, **dotted),
            _text(52, LINE * row + 0.75 * LINE, f"best known, {best:.6g}"),
        ]
    drawn.append(_text((left + right) / 2, bottom + 2.3 * LINE, "iteration", text_anchor="middle"))
    return _picture(bottom + 2.6 * LINE, told, drawn)


def _axis_below(axis: _Axis, bottom: float, ticked: Callable[[float], str]) -> Iterator[Element]:
    yield _line(axis.first, bottom, axis.last, bottom)
    for tick in axis.ticks:
        where = axis(tick)
        yield _line(where, bottom, where, bottom + 4)
        written = ticked(tick)
        half = 0.3 * FONT * len(written)  # so that no number leaves the picture
        inside = min(max(where, half), WIDTH - half)
        yield _text(inside, bottom + LINE, written, text_anchor="middle")


def _axis_beside(axis: _Axis, left: float, right: float) -> Iterator[Element]:
    yield _line(left, axis.first, left, axis.last)
    for tick in axis.ticks:
        yield _line(left, axis(tick), right, axis(tick), stroke="#DDDDDD")
        yield _text(left - 6, axis(tick) + 0.35 * FONT, f"{tick:g}", text_anchor="end")


def _picture(height: float, told: str, drawn: Iterable[Element]) -> Element:
    box = f"0 0 {WIDTH} {height:g}"
    return element("svg", *drawn, viewBox=box, role="img", aria_label=told)


def _line(x: float, y: float, x2: float, y2: float, **look: object) -> Element:
    return element("line", x1=x, y1=y, x2=x2, y2=y2, **({"stroke": INK} | look))


def _text(x: float, y: float, text: str, **look: object) -> Element:
    return element("text", text, x=x, y=y, font_size=FONT, fill=INK, **look)


def _triangle(x: float, y: float, colour: str) -> Element:
    corners = f"{x - 5:g},{y:g} {x + 5:g},{y - 6:g} {x + 5:g},{y + 6:g}"
    return element("polygon", points=corners, fill=colour, stroke=INK)


def _points(x: Sequence[float], y: Sequence[float]) -> str:
    return " ".join(f"{one:g},{other:g}" for one, other in zip(x, y, strict=True))
