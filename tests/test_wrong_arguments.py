"""Whatever public takes a theta, a generator or a policy says so, by name, of one that is none."""

import dataclasses
import functools
import inspect

import numpy as np
import pytest

import tabular_bilevel as tb
from tabular_bilevel import optimum, problems
from tabular_bilevel.plots import Plane

PROBLEM = tb.problems.layered(depth=2, width=2)
GAME = tb.problems.layered_game(depth=2, width=2)
THETA = np.full(4, 0.1)
MODEL = PROBLEM.model(THETA)
FOUND = tb.hypergradient(PROBLEM, THETA)
OF_GAME = tb.hypergradient(GAME, np.zeros(GAME.n_parameters))
POLICY = FOUND.response.policy
TRAJECTORIES = tb.sample_trajectories(MODEL, POLICY, count=3, horizon=2, rng=0)
DRAWN = tb.Interaction(tb.Episodes(5))

# What each method is called on, where the class makes nothing by itself.
INSTANCES = {
    "BatchEstimator": tb.BatchEstimator(lambda view, batch: np.zeros(4), tb.Episodes(5)),
    "SamplingEstimator": tb.SamplingEstimator(lambda view, rng: np.zeros(4)),
    "BiLevelActorCritic": tb.BiLevelActorCritic(tb.Episodes(5)),
    "Box": tb.Box(-np.ones(4), np.ones(4)),
    "Budget": tb.Budget(1.0, 4),
    "Control": tb.controls(n_trajectories=5)["sign flipped"],
    "Episodes": tb.Episodes(5),
    "FeatureProblem": PROBLEM,
    "LeaderView": tb.LeaderView(PROBLEM, THETA),
    "MarkovGame": GAME,
    "Recipe": tb.Recipe(tb.ExactGradient(), tb.Adam(0.1), 2),
    "Reparametrised": tb.Reparametrised(PROBLEM, tb.Box(-np.ones(4), np.ones(4))),
    "StepBudget": tb.StepBudget(20, 2),
    "StoppedPolicyIteration": tb.StoppedPolicyIteration(steps=1),
    "StoppedValueIteration": tb.StoppedValueIteration(sweeps=1),
    "Survivors": tb.Survivors(5),
    "Trajectories": TRAJECTORIES,
    **{
        name: getattr(tb, name)(DRAWN)
        for name in ("BoltzmannCovariance", "HyperPolicyGradient", "SoBiRL", "NaivePolicyGradient")
    },
}

# Of classes that hold what the package has found: nothing is asked of who makes one.
FOUND_BY_US = {
    "Enclosure", "ErrorBounds", "EstimatorReport", "Experience", "Iteration", "Optimum",
    "Response", "SuiteCase", "Level", "Verdict", "AscentState", "LeaderValues",
}  # fmt: skip

VALUES = {
    "problem": PROBLEM,
    "theta": THETA,
    "model": MODEL,
    "policy": POLICY,
    "rng": 0,
    "seed": 0,
    "direction": THETA,
    "gradient": THETA,
    "x": 0.5,
    "y": 0.5,
    "bound": THETA,
    "sensitivities": FOUND.sensitivities,
    "bounds": FOUND.accuracy.bounds and FOUND.accuracy.bounds.sensitivities,
    "response": FOUND.response,
    "trajectories": TRAJECTORIES,
    "n_trajectories": 3,
    "sampler": tb.Episodes(3),
    "previous": None,
    "count": 3,
    "horizon": 2,
    "method": tb.ExactGradient(),
    "estimator": tb.ExactGradient(),
    "optimiser": tb.Adam(0.1),
    "n_iterations": 2,
    "rows": np.ones((30, 4)),
    "result": FOUND,
    "discount": 0.9,
    "memory": {},
    "suite": [tb.SuiteCase("one", "", PROBLEM, THETA)],
}
# What some of them need in the place of that.
NAIVE = {"methods": {"naive": tb.NaivePolicyGradient()}}
BANDIT = {"problem": tb.problems.bandit(), "theta": np.zeros(2)}
OF_GAMES = {
    "problem": GAME,
    "theta": np.zeros(GAME.n_parameters),
    "direction": np.zeros(GAME.n_parameters),
    "sensitivities": OF_GAME.sensitivities,
    "bounds": OF_GAME.accuracy.bounds.sensitivities,
}
ROOMS = tb.problems.building_thermal_control().model(np.zeros(8))
ANSWER = tb.solve_follower(ROOMS).policy
OF_STATES = tb.sample_trajectories(ROOMS, ANSWER, count=3, horizon=2, rng=0)
OWN = {
    "MarkovGame": OF_GAMES,
    "BiLevelActorCritic": OF_GAMES,
    "SoBiRL": BANDIT,
    "ValueGapPenalty": BANDIT,
    "RegularisedActorCritic": BANDIT,
    "Budget": {"gradient": THETA[:3], "bound": THETA[:3]},
    "required_samples": {"method": tb.NaivePolicyGradient(DRAWN), "error": 0.1},
    "error_curve": NAIVE,
    "error_grid": {"make": tb.problems.layered, "over": {"temperature": [0.5]}, **NAIVE},
    "check_by_enumeration": {"estimator": tb.NaivePolicyGradient()},
    "bandit_closed_form": BANDIT,
    "two_state_closed_form": BANDIT,
    "anneal": {"problems": [PROBLEM]},
    "Interaction": {"before": [THETA]},
    "QuadraticCritic": {"trajectories": OF_STATES},
}

# A policy in words, by the names of states.
ANOTHER_POLICY = "MarkovGame.logits"

FLAGS = [None, 0, 1, "yes", [], np.ones(2), object()]
NAN, BOX = np.array([0.1, np.nan, 0.1, 0.1]), np.zeros((4, 4))
WRONG = {
    "theta": [None, 0, 0.5, "theta", [], ["a"] * 4, [None] * 4, NAN, BOX, np.zeros(3), 1j * THETA,
              {}, object()],
    "up_to_scale": FLAGS,
    "rng": [-1, 1.5, np.nan, "rng", [1], [None], np.random.RandomState(0), True, object()],
    "seed": [None, -1, 1.5, np.nan, "seed", [1], True, object()],
    "policy": [None, 0, "policy", [], [[]], np.full(POLICY.shape, np.nan), POLICY[:1], -POLICY,
               POLICY * 2.0, POLICY[..., None], object()],
    "discount": [None, np.nan, np.inf, -0.5, 1.5, "discount", [0.5], object()],
}  # fmt: skip
WRONG["direction"] = WRONG["theta"]


PUBLIC = [(name, getattr(module, name)) for module in (tb, problems, optimum)
          for name in module.__all__]  # fmt: skip


def functions():
    """Yield the public functions and methods, by name."""
    for name, thing in PUBLIC:
        if getattr(thing, "_is_protocol", False) or name in FOUND_BY_US:
            continue
        if not inspect.isclass(thing):
            if callable(thing):
                yield name, thing
            continue
        if name == "LeaderView":
            yield name, thing
        for method in vars(thing):
            asked = not method.startswith("_") or method == "__call__"
            if asked and callable(getattr(thing, method)):
                owner = INSTANCES[name] if name in INSTANCES else made(thing)
                if owner is not None:
                    yield f"{name}.{method}", getattr(owner, method)
    yield "AscentState.start", tb.AscentState.start


def made(cls):
    try:
        return cls()
    except TypeError:
        return None


FUNCTIONS = dict(functions())


def arguments(name, function):
    """Fill in what has no default, and what is in question; None if that cannot be."""
    own = next((own for key, own in OWN.items() if key in name.split(".")), {})
    known, named = VALUES | own, {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.default is inspect.Parameter.empty or parameter.name in own:
            if parameter.name not in known:
                return None
            named[parameter.name] = known[parameter.name]
    return named


def run(function, named):
    """Call, and begin what is made step by step."""
    kinds = inspect.signature(function).parameters
    keyword = inspect.Parameter.KEYWORD_ONLY
    by_place = [value for key, value in named.items() if kinds[key].kind is not keyword]
    by_name = {key: value for key, value in named.items() if kinds[key].kind is keyword}
    result = function(*by_place, **by_name)
    return next(result) if inspect.isgenerator(result) else result


@functools.cache
def works(name):
    """Return arguments with which a function has been called."""
    right = arguments(name, FUNCTIONS[name])
    run(FUNCTIONS[name], right)
    return right


ASKED = {
    name: asked
    for name, function in FUNCTIONS.items()
    if (asked := inspect.signature(function).parameters.keys() & WRONG.keys())
    and name != ANOTHER_POLICY
}
CASES = [(name, parameter) for name, asked in ASKED.items() for parameter in sorted(asked)]


def test_each_is_tried():
    assert len(CASES) > 140
    some = {"Episodes.sample", "Adam.step", "check_estimator", "hypergradient", "polish"}
    assert some | {"LeaderView.draw", "Trajectories.visits", "AscentState.start"} <= ASKED.keys()
    assert [name for name in ASKED if arguments(name, FUNCTIONS[name]) is None] == []


@pytest.mark.filterwarnings("ignore")  # nothing is said of what right arguments lead to
@pytest.mark.parametrize(("name", "parameter"), CASES)
def test_what_is_none_is_named(name, parameter):
    function = FUNCTIONS[name]
    right = works(name)
    none_means = inspect.signature(function).parameters[parameter].default is None
    no_length = name in ("Shake.__call__", "AscentState.start")
    for wrong in WRONG[parameter]:
        if wrong is None and none_means:
            continue
        told = rf"\b{parameter}\b"
        if parameter == "theta" and np.ndim(wrong) == 1:
            if no_length and np.size(wrong) < 4:
                continue
            told += r"|(direction|gradient|rows) has shape"  # which does not fit this theta
        with pytest.raises(ValueError, match=told):
            run(function, right | {parameter: wrong})


def flags():
    """Yield settings of what is public that are True or False."""
    for name, thing in PUBLIC:
        if dataclasses.is_dataclass(thing) and not name.endswith("Report"):
            for field in dataclasses.fields(thing):
                flag = "bool" in field.type.split(" | ")
                if flag and field.name != "follower_observes_leader":
                    yield name, field.name


@pytest.mark.parametrize(("name", "flag"), [*flags()])
def test_a_flag_is_true_or_false(name, flag):
    instance = INSTANCES[name] if name in INSTANCES else made(getattr(tb, name))
    assert dataclasses.replace(instance, **{flag: np.bool_(True)})
    for wrong in FLAGS:
        with pytest.raises(ValueError, match=rf"^{flag} is "):
            dataclasses.replace(instance, **{flag: wrong})


@pytest.mark.parametrize("wrong", FLAGS)
def test_a_game_is_seen_or_not(wrong):
    with pytest.raises(ValueError, match=r"^follower_observes_leader is "):
        tb.problems.random_game(follower_observes_leader=wrong)


@pytest.mark.parametrize("wrong", ["x", None, np.nan, np.inf, [1.0, 2.0], 1j, object()])
@pytest.mark.parametrize("place", [0, 1])
def test_coordinates_are_numbers(wrong, place):
    plane = Plane(np.zeros(2), np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    where = [0.5, 2.0]
    np.testing.assert_array_equal(plane.point(*where), where)
    where[place] = wrong
    with pytest.raises(ValueError, match=rf"^{'xy'[place]} (is|has)"):
        plane.point(*where)
