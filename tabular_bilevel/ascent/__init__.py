"""Climbing: ascents, optimisers, training runs and their curves."""

from tabular_bilevel._base.display import display_all
from tabular_bilevel.ascent.ascent import AscentState, Iteration, ascend, resume
from tabular_bilevel.ascent.optimisers import Adam, GradientAscent, Optimiser
from tabular_bilevel.ascent.published import Recipe, published

__all__ = [
    "Adam",
    "AscentState",
    "GradientAscent",
    "Iteration",
    "Optimiser",
    "Recipe",
    "ascend",
    "published",
    "resume",
]

display_all(globals())
