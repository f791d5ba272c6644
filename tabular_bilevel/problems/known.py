"""Values of J that are known from elsewhere, each with its source; checks and curves refer to them.

Published ends of ascents are those of the published figures (validation/paper/figures.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from tabular_bilevel import problems
from tabular_bilevel._base.arrays import FloatArray

PAPER = (
    "Kudo, Tanabe, Wachi, Akimoto, ICAPS 2026, arXiv:2603.14867; four rooms after Thoma et al., "
    "NeurIPS 2024, arXiv:2406.01575"
)
PROGRAM = "an independent program, from the published specification"
STARTS = "tb.polish from hundreds of starts: all come to a leader that plays 1 always"
PARITY = "by hand: no move stays in an inner cell, so every second step there is the most"
TAXES = "tb.polish from fifteen starts"
SEARCH = "tb.search, from where ascents end, with hundreds of shakes"
PROTOTYPE = "an independent prototype of the published description"
CONTINUOUS = "tb.polish from many starts (validation/paper/continuous.py)"
POLISH = "tb.polish over 150 steps, at f(0|A) = 0.834 (lesson 6 of the book)"


@dataclass(frozen=True)
class Known:
    """A value of J that is known.

    Attributes
    ----------
    problem : str
        Its name for the command line.
    what : str
        What of it is known.
    value : float
        J.
    digit : float
        What its last digit is worth: the value is within half of it.
    source : str
        Where it is from.
    settings : mapping of str to float
        Of the problem, where they are not the default ones.
    at : mapping of int to float, or None
        Theta: entries that are not 0. None if it is not known.
    horizon : int or None
        The leader's steps that count; all by default.
    method, batch : str and int
        Of an end of ascents: the method, and the steps of data that an iteration had.
    best : bool
        Whether nothing better is known.
    """

    problem: str
    what: str
    value: float
    digit: float
    source: str
    settings: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    at: Mapping[int, float] | None = None
    horizon: int | None = None
    method: str = ""
    batch: int = 0
    best: bool = False

    def build(self) -> Any:
        """Make the problem."""
        make: Any = {**problems.CATALOGUE, **problems.CONTINUOUS}[self.problem]
        return make(**self.settings)

    def theta(self) -> FloatArray:
        """Make theta, shape (d,); ValueError if it is not known."""
        if self.at is None:
            raise ValueError(f"theta of J = {self.value} is not known")
        made = np.zeros(self.build().n_parameters)
        made[list(self.at)] = list(self.at.values())
        return made


def _rooms(value: float, temperature: float, penalty: float) -> Known:
    what = f"J(0), temperature {temperature:g}, penalty {penalty:g}"
    settings = {"temperature": temperature, "penalty": penalty}
    return Known("four-rooms", what, value, 1e-8, PROGRAM, settings, at={})


def _toy(value: float, chance: float, at: Mapping[int, float]) -> Known:
    what = f"150-step return at f(0|A) = {chance:g}"
    return Known("discrete-toy", what, value, 1e-3, PAPER, at=at, horizon=150)


def _end(problem: str, method: str, value: float, digit: float, batch: int) -> Known:
    horizon, iterations = (150, 500) if problem == "discrete-toy" else (None, 10_000)
    what = f"mean end of {method}'s published ascents, after {iterations:,} iterations"
    return Known(problem, what, value, digit, PAPER, horizon=horizon, method=method, batch=batch)


def _best(problem: str, value: float, digit: float, source: str, **more: Any) -> Known:
    return Known(problem, "best known", value, digit, source, best=True, **more)


def _constant(toy: str, value: float, place: int = 1) -> Known:
    return Known(f"toy-{toy}", "best known", value, 1e-4, STARTS, at={place: 60.0}, best=True)


#: Logits of no tax on two goods, 0.2118 on the third, and 0.6306 on income.
BEST_TAXES = MappingProxyType({0: -60.0, 1: -60.0, 2: -2.1333, 3: -0.7753})

#: Three zones insulated, no air between zones 0 and 1, some between 1 and 2 (0.7784578), and all
#: that is possible between the others: logits of 40 are the ends of what is allowed, in float64.
BEST_BUILDING = MappingProxyType(
    {0: 40.0, 1: -40.0, 2: 40.0, 3: 40.0, 4: -40.0, 5: 1.2567017, 6: 40.0, 7: 40.0}
)

ALL_OPEN = MappingProxyType(dict.fromkeys(range(8), 40.0))

#: All of them. On four rooms the published ends are at temperature 0.001 and penalty 5, the
#: defaults; on the toy they are at reward 1, the default.
KNOWN = (
    _rooms(-0.14746077, 0.001, 1.0),
    _rooms(-0.74064441, 0.001, 5.0),
    _rooms(-0.66741326, 0.005, 5.0),
    _best("four-rooms", 0.7682, 1e-4, SEARCH),
    _end("four-rooms", "bchg", 0.667, 1e-3, 100),
    _end("four-rooms", "hpgd-oracle", 0.692, 1e-3, 100),
    _end("four-rooms", "hpgd-mc", 0.007, 1e-3, 100),
    _end("four-rooms", "hpgd-sarsa", 0.018, 1e-3, 100),
    _end("four-rooms", "sobirl", 0.001, 1e-3, 100),
    _end("four-rooms", "naive", 0.001, 1e-3, 100),
    _toy(0.481, 0.5, {}),
    _toy(26.217, 1.0, {2: 800.0}),
    _best("discrete-toy", 27.316, 1e-3, POLISH, horizon=150),
    _end("discrete-toy", "bchg-game", 27.1, 0.1, 450),
    _end("discrete-toy", "naive", 11.5, 0.1, 450),
    _end("discrete-toy", "bi-ac", 11.7, 0.1, 450),
    _constant("1_1a", 50.2479),
    _constant("1_1b", 50.2479),
    _constant("1_2a", 49.7310),
    _constant("1_2b", 49.7381),
    _constant("1_2c", 49.7452),
    _constant("1_2d", 49.7434),
    _constant("1_2e", 49.7310),
    _constant("1_2f", 49.7484),
    _constant("1_2g", 99.4972),
    _constant("2_1", 33.6689),
    _constant("2_2", 33.3322, place=3),
    _constant("3_1a", 33.2305),
    _constant("3_1b", 33.2676),
    _constant("3_2", 49.7442, place=3),
    Known("tax-design", "best known", 35.6692, 1e-4, TAXES, at=BEST_TAXES, best=True),
    Known("building", "J(0)", -261.963014, 1e-6, PROTOTYPE, at={}),
    Known("building", "J, all insulated and open", -197.248384, 1e-6, PROTOTYPE, at=ALL_OPEN),
    _best("building", -162.50325475, 1e-8, CONTINUOUS, at=BEST_BUILDING),
    Known("bilevel-lqr", "J(0)", 0.00941722, 1e-8, PROTOTYPE, at={}),
    _best("bilevel-lqr", 11.30904674, 1e-8, CONTINUOUS, at={0: -9.96146526, 1: -10.0}),
    Known("goal-position", "best known", 6.141, 1e-3, PARITY, at={55: 60.0}, best=True),
)


def best_known(problem: str, horizon: int | None = None) -> Known | None:
    """Look up the best J known of a problem, by its name, with its default settings."""
    found = (k for k in KNOWN if k.best and (k.problem, k.horizon) == (problem, horizon))
    return next(found, None)


def published_end(settings: Mapping[str, Any]) -> Known | None:
    """Look up where published ascents end on average, with these settings of a training."""
    asked = [settings.get(name) for name in ("problem", "method", "batch", "horizon")]
    found = (k for k in KNOWN if k.method and [k.problem, k.method, k.batch, k.horizon] == asked)
    return next(found, None)
