"""Colours of all pictures: the colour-blind tell them apart, and most of them in grey, too.

Okabe and Ito, Color Universal Design (2008).
"""

__all__ = ["BLUE", "CURVES", "ORANGE"]

#: In a picture of signs, blue is above 0 and orange below.
BLUE, ORANGE = "#0072B2", "#E69F00"

#: Curves that share axes differ in lightness or in dashes: lengths of these and of what is between.
CURVES: tuple[tuple[str, tuple[float, ...]], ...] = (
    ("#000000", ()),
    (ORANGE, ()),
    (BLUE, (3.7, 1.6)),
    ("#CC79A7", (6.4, 1.6, 1.0, 1.6)),
    ("#009E73", (1.0, 1.65)),
    ("#56B4E9", (5.0, 1.0)),
    ("#D55E00", (3.0, 1.0, 1.0, 1.0)),
)
