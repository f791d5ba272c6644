"""What can be wrong, each with what it comes to."""

from tabular_bilevel._base.display import display_all
from tabular_bilevel.mistakes.controls import Control, controls

__all__ = ["Control", "controls"]

display_all(globals())
