"""Read the published curves out of the published figures, which are vector graphics.

Run ``python validation/paper/figures.py CLONE`` with a clone of akimotolab/BC-HG (read at commit
9c9d42c). It writes ``figures.json`` beside this file: of each curve its end (the mean of the last
twentieth of its iterations, and of the band's half width there) and its height at some iterations.
The band is one standard error of ten seeds on four rooms, and one standard deviation on the toy; it
is written as a standard error. What a sweep alone shows, sixteen curves without a band, is there
with its best end.
"""

from __future__ import annotations

import json
import re
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

STORED = Path(__file__).with_name("figures.json")

#: Iterations at which a curve of 10,000 is kept.
ITERATIONS = (0, 500, 1000, 2000, 5000)

SEEDS = 10

# Corners that no frame and no legend has.
LONG = 100

# Colours of lines, to two digits, and how they are dashed where two have one colour.
PURPLE, ORANGE, GREEN, YELLOW, BROWN = ".46 .44", ".85 .37", ".11 .62", ".90 .67", ".65 .46"
ROOMS = {
    (PURPLE, ""): "bchg",
    (ORANGE, "9.25 4"): "hpgd-mc",
    (ORANGE, "16 4 2.5 4"): "hpgd-sarsa",
    (GREEN, "2.5 4.125"): "hpgd-oracle",
    (YELLOW, "5 10 5 10"): "sobirl",
    (BROWN, "2.5 7.5"): "naive",
}
TOY = {(PURPLE, ""): "bchg-game", (ORANGE, ""): "bi-ac, replayed", (GREEN, ""): "naive"}
SWEPT = {(".91 .16", ""): "bi-ac", (".40 .65", ""): "naive, replayed"}


class Figure(NamedTuple):
    """A figure: its setting, file and curves, and what its lowest and second tick say."""

    setting: str
    path: str
    methods: dict[tuple[str, str], str]
    ticks: tuple[float, float]
    is_deviation: bool


FIGURES = [
    Figure(
        f"four rooms | {temperature} | {steps}",
        f"four_rooms/experiment_reg_lambda_{temperature.replace('.', '_')}_total_steps_{steps}"
        "/UL_rewards_grid_search_reg_lambda_5.0.pdf",
        ROOMS,
        (-1.0, -0.5),
        is_deviation=False,
    )
    for temperature in ("0.001", "0.003", "0.005")
    for steps in (100, 200, 400, 1000)
] + [
    Figure(
        "discrete toy | 1.0 | 450",
        f"discrete_toy/DiscreteToy4_R1-v0/Evaluation_AverageDiscountedTargetReturn_AveStd{which}.pdf",
        methods,
        ticks,
        is_deviation=True,
    )
    for which, methods, ticks in (("", TOY, (0.0, 10.0)), ("_all", SWEPT, (0.0, 5.0)))
]


def page(path: Path) -> str:
    """Decompress a figure's drawing, the longest of its streams."""
    data, streams = path.read_bytes(), [b""]
    for start in re.finditer(rb"(?<!end)stream\r?\n", data):
        try:
            streams.append(zlib.decompressobj().decompress(data[start.end() :]))
        except zlib.error:
            continue
    return max(streams, key=len).decode("latin-1")


def paths(drawing: str) -> Iterator[tuple[str, tuple[str, str], np.ndarray]]:
    """List what is drawn: how it is painted, with which pen, and its corners."""
    colour, dashes, corners = "", "", []
    for numbers, dashed, operator in re.findall(
        r"((?:[-+\d.]+\s+)*)(?:\[([^\]]*)\]\s*[-+\d.]*\s*)?([A-Za-z]\w*)\b", drawing
    ):
        values = [float(number) for number in numbers.split()]
        if operator in "ml" and len(values) == 2:
            corners.append(values)
        elif operator == "RG":
            colour = " ".join(f"{value:.2f}".lstrip("0") for value in values[:2])
        elif operator == "d":
            dashes = " ".join(dashed.split())
        elif operator in "SB":
            yield operator, (colour, dashes), np.array(corners)
        elif operator == "Q":
            colour, dashes = "", ""
        if operator in "SBfn":
            corners = []


def curves(figure: Figure, drawing: str) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """List the curves: method, heights by iteration, and half widths of their bands."""
    drawn = list(paths(drawing))
    ticks = [corners[0] for painted, _, corners in drawn if (painted, len(corners)) == ("B", 2)]
    low, second = sorted({y for x, y in ticks if x == min(x for x, _ in ticks)})[1:3]
    scale = (figure.ticks[1] - figure.ticks[0]) / (second - low)
    pen = ("", "")
    for painted, (colour, dashes), corners in drawn:
        if painted == "S":
            pen = (colour, dashes)
        elif len(corners) > LONG:  # a band: one edge there, the other back
            n = len(corners) // 2 - 1
            edges = corners[1 : n + 1, 1], corners[n + 2 : 2 * n + 2, 1][::-1]
            one, other = (figure.ticks[0] + scale * (edge - low) for edge in edges)
            method = figure.methods.get((colour, pen[1] if pen[0] == colour else ""))
            if method is not None:
                yield method, (one + other) / 2.0, abs(one - other) / 2.0


def main(arguments: list[str]) -> int:
    """Read all figures of a clone, and write what they show."""
    found: dict[str, Any] = {}
    gaps = [0.0]
    for figure in FIGURES:
        drawn = list(curves(figure, page(Path(arguments[0]) / "figures" / figure.path)))
        means = {method: mean for method, mean, _ in drawn}
        if "sobirl" in means:
            gaps.append(abs(means["sobirl"] - means["naive"]).max())
        for method, mean, width in drawn:
            late = slice(-(len(mean) // 20), None)
            error = width[late].mean() / (np.sqrt(SEEDS) if figure.is_deviation else 1.0)
            at = mean[list(ITERATIONS)] if len(mean) > max(ITERATIONS) else []
            kept = [round(float(value), 4) + 0.0 for value in (mean[late].mean(), error, *at)]
            key = f"{figure.setting} | {method}"
            found[key] = max(found.get(key, kept), kept)
    found["sobirl and naive, largest gap at any iteration"] = float(f"{max(gaps):.1g}")
    lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in found.items())
    STORED.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
