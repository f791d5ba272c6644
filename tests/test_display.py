"""Every public object shows itself in a line, and in a notebook as a small table."""

import contextlib
import copy
import dataclasses
import enum
from collections.abc import Mapping
from html.parser import HTMLParser

import numpy as np
import pytest
import scipy.sparse as sp
from gymnasium.spaces import Space

import tabular_bilevel as tb
from tabular_bilevel import plots, problems, vectors
from tabular_bilevel._base.display import displayed
from tabular_bilevel.adapters.gymnasium import FollowerEnv
from tabular_bilevel.adapters.pettingzoo import GameEnv
from tabular_bilevel.ascent.training import Curve, Run, Setting
from tabular_bilevel.checks.diagnosis import Guess
from tabular_bilevel.checks.gradient import RouteComparison
from tabular_bilevel.checks.localising import Factor, Localisation
from tabular_bilevel.estimators.contract import as_estimator
from tabular_bilevel.estimators.estimate import Parts
from tabular_bilevel.finite.model import Origin
from tabular_bilevel.finite.sensitivities import SensitivityBounds
from tabular_bilevel.finite.tangents import Tangents
from tabular_bilevel.mistakes.register import Mistake
from tabular_bilevel.optimum import Optimum
from tabular_bilevel.sampling.traces import TraceRule
from tabular_bilevel.sampling.trajectories import Law
from tabular_bilevel.sampling.view import Jacobian

LONGEST = 200

PUBLIC = {
    name: getattr(module, name)
    for module in (tb, problems, plots, vectors)
    for name in module.__all__
    if isinstance(getattr(module, name), type)
}
CLASSES = {name: cls for name, cls in PUBLIC.items() if not getattr(cls, "_is_protocol", False)} | {
    cls.__name__: cls
    for cls in (
        *(Factor, Guess, Jacobian, Law, Localisation, Mistake, Origin, Parts, RouteComparison),
        *(SensitivityBounds, Tangents, TraceRule),
        *(Curve, Optimum, Run, Setting),
    )
}
DATA = {name: cls for name, cls in CLASSES.items() if dataclasses.is_dataclass(cls)}


def filled(cls, value):
    """An object of a data class whose every field is the value, checked by nobody."""
    made = object.__new__(cls)
    for field in dataclasses.fields(cls):
        object.__setattr__(made, field.name, value)
    return made


class Reader(HTMLParser):
    """Read tags, which must close each other, and the text between them."""

    def __init__(self, text):
        super().__init__()
        self.seen, self.open, self.cells = set(), [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        assert {name for name, _ in attributes} <= {"style"}
        self.seen.add(tag)
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.cells.append(data)


TAGS = {"div", "table", "caption", "tr", "th", "td"}


def check(made):
    """A short line without arrays, and a table without anything that runs."""
    line, read = repr(made), Reader(made._repr_html_())
    assert len(line) < LONGEST
    assert "\n" not in line
    assert "array(" not in line
    assert read.seen <= TAGS
    assert all(len(cell) <= LONGEST for cell in read.cells)
    return read


MODEL = tb.problems.garnet().base
VALUES = {
    "arrays": np.linspace(0.0, 1.0, 4000).reshape(1000, 4),
    "sparse": sp.csr_array(np.eye(300)),
    "not finite": np.full((3, 2), np.nan),
    "empty": np.zeros((0, 3)),
    "numbers": 1.0 / 3.0,
    "numpy's numbers": np.float64(1.0) / 3.0,
    "words": "<script>alert('&')</script>" * 50,
    "lines": "a line\n" * 50,
    "models": MODEL,
    "lists": [np.zeros(1000)] * 3,
    "long lists": list(range(1000)),
    "mappings": {"a": np.zeros(1000), "<b>": {"c": np.zeros(1000)}},
    "verdicts": tb.Verdict.UNBIASED,
    "functions": check,
    "nothing": None,
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_any_data_class_is_short_whatever_its_fields_hold(value):
    for name, cls in DATA.items():
        made = filled(cls, value)
        assert repr(made).startswith(f"{name}(")
        assert len(repr(made)) < LONGEST
        if not {"__str__", "passed"} & set(vars(cls)):  # which take fields for what they should be
            check(made)


def failing(view, batch):
    raise RuntimeError("a long story " * 1000)


GARNET, THETA = tb.problems.garnet(), np.linspace(-1.0, 1.0, 6)
SMALL = (tb.problems.layered(depth=2, width=2), np.full(4, 0.1))
DIRECT = tb.NaivePolicyGradient()
ROOMS = tb.problems.four_rooms()
FOUND = tb.hypergradient(ROOMS, np.zeros(105))
LEARNED = tb.Interaction(
    tb.StepBudget(100, 200), tb.SarsaCritic(step_size=0.5), tb.CompiledPolicyIteration()
)
STEP = next(tb.ascend(GARNET, THETA, tb.ExactGradient(), tb.Adam(0.1), rng=0))
REAL = {
    "hypergradient": FOUND,
    "accuracy": FOUND.accuracy,
    "bounds": FOUND.accuracy.bounds,
    "model": FOUND.model,
    "response": FOUND.response,
    "evaluation": FOUND.evaluation,
    "sensitivities": FOUND.sensitivities,
    "four rooms": ROOMS,
    "features": ROOMS.inner,
    "game": tb.problems.random_game(),
    "map": tb.problems.grid_map(ROOMS),
    "tangent": GARNET.pushforward(THETA, THETA),
    "method": tb.BoltzmannCovariance(LEARNED),
    "gradient report": tb.check_gradient(GARNET, THETA),
    "enumeration": tb.check_by_enumeration(DIRECT, *SMALL),
    "broken": tb.check_estimator(failing, *SMALL, rng=0),
    "suite": tb.check_suite(failing, suite=tb.standard_suite()[:2], rng=0),
    "distinction": tb.tell_apart(*SMALL),
    "experience": DIRECT.interaction.gather(*SMALL, rng=0),
    "limit": DIRECT.interaction.limit(*SMALL),
    "ready": DIRECT.enumerable(*SMALL),
    "at theta": as_estimator(failing).at(*SMALL),
    "environment": FollowerEnv(GARNET.model(THETA)),
    "environment of a game": GameEnv(tb.problems.random_game(), None),
    "recipe": tb.published("bchg"),
    "line": tb.along(GARNET, THETA, THETA),
    "view": tb.LeaderView(GARNET, THETA),
    "jacobian": tb.LeaderView(GARNET, THETA).jacobian,
    "iteration": STEP,
    "state": STEP.state,
    "estimate": STEP.estimate,
    "differences": tb.difference_gradient(GARNET, THETA),
    "interval": tb.Interval(np.zeros(1000), np.ones(1000)),
    "control": next(iter(tb.controls().values())),
    "error": tb.ConvergenceError("<b>" + "so " * 200, residual=1.0, iterations=3),
    "failed": tb.CheckFailedError("a report\nof lines"),
    "level": tb.Level.BOUNDED,
    "verdict": tb.Verdict.BIASED,
}


def reachable(made, depth=3):
    """Yield an object of ours, and those that its public attributes lead to."""
    if type(made).__module__.startswith("tabular_bilevel") and not isinstance(made, enum.Enum):
        yield made
        names = [name for name, value in vars(type(made)).items() if hasattr(value, "__get__")]
        names += getattr(made, "__dict__", {})
        for name in set(names) if depth else ():
            if not name.startswith("_"):
                with contextlib.suppress(ValueError):  # a law where there is a sample
                    yield from reachable(getattr(made, name, None), depth - 1)
    elif isinstance(made, (tuple, list)):
        for part in made:
            yield from reachable(part, depth)
    elif isinstance(made, Mapping):
        yield from reachable(list(made.values()), depth)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # old names are asked, too
@pytest.mark.parametrize("made", REAL.values(), ids=REAL)
def test_real_objects_are_short_and_so_is_what_they_lead_to(made):
    read = check(made)
    assert type(made).__name__ in (repr(made) + "".join(read.cells))
    for part in reachable(made):
        if not (hasattr(part, "__name__") or isinstance(part, Space)):  # gymnasium shows its own
            check(part)


def test_copies_show_themselves_alike():
    assert repr(copy.deepcopy(FOUND)) == repr(FOUND)
    assert copy.deepcopy(FOUND)._repr_html_() == FOUND._repr_html_()


@dataclasses.dataclass(frozen=True)
class Undisplayed:
    table: object = dataclasses.field(default_factory=lambda: np.linspace(0.0, 1.0, 500))


def test_a_class_that_nobody_treated_fails_the_check():
    with pytest.raises(AttributeError):
        check(Undisplayed())
    assert len(repr(Undisplayed())) > LONGEST
    displayed(Undisplayed)
    assert repr(Undisplayed()) == "Undisplayed(table=<500>)"
    check(Undisplayed())


def test_settings_that_are_numbers_are_written_in_full():
    gathering = tb.Interaction(tb.Episodes(20), tb.ExactCritic())
    for made in (tb.Adam(0.1), tb.Episodes(20, 9), tb.PolicyIteration(), gathering):
        assert all(f"{field.name}=" in repr(made) for field in dataclasses.fields(made))
        assert eval(repr(made), vars(tb)) == made


def test_numbers_stay_when_there_is_no_room_for_arrays():
    line = repr(FOUND.accuracy.bounds)
    assert f"objective={FOUND.accuracy.bounds.objective}" in line
    wide = filled(tb.Model, VALUES["arrays"])
    for name in ("follower_discount", "leader_discount", "temperature"):
        object.__setattr__(wide, name, 0.123456789012345)
    assert repr(wide).count("0.123456789012345") == 3
    assert repr(wide).endswith(", ...)")


def test_what_is_left_out_is_said():
    report = filled(tb.EstimatorReport, 1.0 / 3.0)
    assert repr(report).endswith(", ...)")
    begin = "BoltzmannCovariance(interaction=Interaction(...), baseline=True"
    assert repr(tb.BoltzmannCovariance(LEARNED)).startswith(begin)


def test_a_table_gives_shapes_and_ranges():
    cells = Reader(FOUND.model._repr_html_()).cells
    told = dict(zip(cells[1::2], cells[2::2], strict=True))
    kernel = FOUND.model.transition
    least, most = kernel.data.min(), kernel.data.max()
    assert cells[0] == str(FOUND.model)
    stored = f"416 x 104, {kernel.nnz} stored, from {least:.6g} to {most:.6g}"
    assert told["transition"] == stored
    assert told["available"] == "104 x 4, 416 true"
    assert told["temperature"] == "0.001"
    assert "_kernel" not in told


@pytest.mark.parametrize(
    ("name", "key"), [("enumeration", "verdict"), ("gradient report", "passed")]
)
def test_a_report_shows_its_verdict_first(name, key):
    report = REAL[name]
    caption, first, said, *_ = Reader(report._repr_html_()).cells
    assert first == key
    assert said == {"verdict": "BIASED", "passed": "True"}[key]
    assert caption == str(report).splitlines()[0]


@displayed
@dataclasses.dataclass(frozen=True)
class Late:
    statistic: float
    verdict: tb.Verdict


def test_a_verdict_comes_first_wherever_its_field_is():
    cells = Reader(Late(2.5, tb.Verdict.BIASED)._repr_html_()).cells
    assert cells == ["Late", "verdict", "BIASED", "statistic", "2.5"]


def test_words_are_escaped():
    error = tb.ConvergenceError("<script>x</script>", residual=0.0, iterations=1)
    assert "<script" not in error._repr_html_()
    assert "&lt;script&gt;" in error._repr_html_()


def test_enumerations_keep_their_line():
    assert repr(tb.Level.BOUNDED) == enum.Enum.__repr__(tb.Level.BOUNDED)


def test_looking_at_a_view_asks_it_for_nothing():
    view = tb.LeaderView(GARNET, THETA)
    check(view)
    assert view.asked == ()


def test_a_ring_of_objects_ends():
    ring = filled(tb.Accuracy, None)
    object.__setattr__(ring, "level", ring)
    assert len(repr(ring)) < LONGEST


def test_protocols_are_left_alone():
    assert "_repr_html_" not in vars(tb.ForwardProblem)
    assert isinstance(GARNET, tb.ForwardProblem)
