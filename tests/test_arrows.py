"""Problems in words, and what lessons 1 to 3 of the book compute on them by hand."""

import copy
import pickle
from fractions import Fraction
from math import inf, log, nan, sqrt

import numpy as np
import pytest
from references.strangers import Plain
from small import assert_refused, refusal

import tabular_bilevel as tb
from tabular_bilevel.problem import with_names
from tabular_bilevel.problems import Arrow, fork, from_arrows, rounds, zoo

# Fractions against float64, all of moderate size and well conditioned.
ROUNDING = 1e-13

# The same tables in another order: sums over hundreds of discounted steps are added up otherwise.
SUMS = 1e-9

SCALARS = {"follower_discount": 0.5, "leader_discount": 2 / 3, "temperature": 0.5}


def close(ours, fractions):
    np.testing.assert_allclose(ours, np.array(fractions, dtype=float), rtol=0, atol=ROUNDING)


# ---------------------------------------------------------------- lessons 1 and 2


def test_the_first_coin_at_the_fork():
    e = tb.hypergradient(fork(), [0.0])
    close(e.response.policy, [[Fraction(3, 4), Fraction(1, 4)]])
    close(e.objective, Fraction(3, 4))
    close(e.direct, [-Fraction(1, 4)])
    close(e.indirect, [Fraction(9, 16)])
    close(e.gradient, [Fraction(5, 16)])


def test_coins_that_equal_the_cost():
    e = tb.hypergradient(fork(), [log(3)])
    close(e.response.policy, [[0.5, 0.5]])
    close(e.objective, (3 - log(3)) / 2)
    close(e.gradient, [-1 / 2 + (3 - log(3)) / 4])


def test_the_prize_at_which_the_first_coin_is_worth_nothing():
    close(tb.hypergradient(fork(prize=4 / 3), [0.0]).gradient, [0])


def test_the_best_coin_at_the_fork():
    from scipy.special import lambertw

    odds = lambertw(np.exp(2) / 3).real  # those of the quiet aisle, at the best coin
    e = tb.hypergradient(fork(), [2 - odds])
    close(e.gradient, [0])
    close(e.objective, odds)


def test_a_second_aisle_as_costly_as_the_quiet_one():
    dear = Arrow(None, follower_reward=-log(3))
    quiet = Arrow(None, follower_reward=-log(3), leader_reward=3.0)
    problem = from_arrows(
        {"fork": {"noisy": None, "dear": dear, "quiet": quiet}},
        coins=[("fork", "quiet")],
        follower_discount=0,
        leader_discount=0,
        temperature=1,
    )
    e = tb.hypergradient(problem, [0.0])
    close(e.response.policy[0, 2], Fraction(1, 5))
    close(e.objective, Fraction(3, 5))
    close(e.gradient, [Fraction(7, 25)])


@pytest.mark.parametrize(
    ("temperature", "value", "quiet", "slope"),
    [
        (1.0, log(4 / 3), 1 / 4, 5 / 16),
        (0.5, log(10 / 9) / 2, 1 / 10, 11 / 25),
        (2.0, 2 * log(1 + 1 / sqrt(3)), 1 / (1 + sqrt(3)), None),
    ],
)
def test_temperatures_at_the_fork(temperature, value, quiet, slope):
    e = tb.hypergradient(fork(temperature=temperature), [0.0])
    close(e.response.value, [value])
    close(e.response.policy[0, 1], quiet)
    if slope is not None:
        close(e.gradient, [slope])


def test_coins_of_temperature_times_log_2_act_like_a_second_aisle():
    close(tb.solve_follower(fork().model([log(2)])).policy[0, 1], Fraction(2, 5))
    close(tb.solve_follower(fork(temperature=0.5).model([log(2) / 2])).policy[0, 1], 2 / 11)


# ---------------------------------------------------------------- lesson 3


def test_rounds_in_elevenths():
    e = tb.hypergradient(rounds(), [0.0, 0.0])
    close(e.response.value, [log(4), log(12)])
    close(e.response.policy, [[Fraction(1, 4), Fraction(3, 4)], [1, 0]])
    close(e.objective, 12)
    close(e.evaluation.value, [12, 20])
    close(e.evaluation.advantage[0], [-4, Fraction(4, 3)])
    close(e.visits, [2, 1])
    close(11 * e.sensitivities.follower_reward, [[-48, 32], [16, 0]])
    close(11 * e.influence, [-16, 16])
    close(11 * e.direct, [-22, -11])
    close(11 * e.gradient, [-38, 5])
    close(e.sensitivities.temperature, -Fraction(32, 11) * Fraction(log(6)))
    assert e.accuracy.level is tb.Level.BOUNDED


def test_a_coin_on_going_at_rounds():
    e = tb.hypergradient(rounds(coins=[("dock", "go"), "aisle"]), [0.0, 0.0])
    close(e.gradient, [Fraction(31, 22), Fraction(5, 11)])


def test_the_prize_at_which_the_coin_in_the_aisle_is_worth_nothing():
    close(tb.hypergradient(rounds(prize=33 / 4), [0.0, 0.0]).gradient, [-3, 0])


def test_a_fee_of_one_everywhere_moves_no_policy():
    e = tb.hypergradient(rounds(), [-1.0, -1.0])
    close(e.objective, 15)
    close(e.gradient.sum(), -3)


def test_the_routes_agree():
    for problem, theta in ((fork(), [0.3]), (rounds(), [0.3, -0.2])):
        assert tb.check_gradient(problem, theta).passed


@pytest.mark.parametrize(
    "settings", [{}, {"horizon": 3}, {"accuracy": tb.Enclosed(1e-12)}, {"accuracy": tb.Estimated()}]
)
def test_influence_and_visits_belong_to_every_result(settings):
    e = tb.hypergradient(rounds(), [0.1, 0.2], **settings)
    assert e.visits is e.evaluation.occupancy
    np.testing.assert_array_equal(e.influence, e.sensitivities.follower_reward.sum(axis=1))
    for other in (copy.deepcopy(e), pickle.loads(pickle.dumps(e))):
        np.testing.assert_array_equal(other.influence, e.influence)
        assert not other.influence.flags.writeable
        assert not other.visits.flags.writeable


def test_influence_is_what_a_coin_on_others_bill_earns():
    paid = rounds()
    problem = tb.FeatureProblem(paid.base, follower_reward=paid.follower_reward)
    close(tb.hypergradient(problem, [0.0, 0.0]).gradient, [-Fraction(16, 11), Fraction(16, 11)])


# ---------------------------------------------------------------- arrows


def test_arrows_are_the_tables_that_they_say():
    problem = from_arrows(
        {
            "a": {"stay": "a", "try": Arrow({"b": 0.5, "a": 0.2, None: 0.3}, leader_reward=2)},
            "b": {"end": None},
        },
        coins=["a", ("b", "end")],
        initial={"a": 0.25, "b": 0.75},
        **SCALARS,
    )
    model = problem.model([0.5, -2.0])
    np.testing.assert_array_equal(
        model.transition.toarray(), [[1.0, 0.0], [0.2, 0.5], [0.0, 0.0], [0.0, 0.0]]
    )
    np.testing.assert_array_equal(model.termination, [[0.0, 0.3], [1.0, 1.0]])
    np.testing.assert_array_equal(model.available, [[True, True], [True, False]])
    np.testing.assert_array_equal(model.follower_reward, [[0.5, 0.5], [-2.0, 0.0]])
    np.testing.assert_array_equal(model.leader_reward, [[-0.5, 1.5], [2.0, 0.0]])
    np.testing.assert_array_equal(model.initial, [0.25, 0.75])
    assert tb.check_gradient(problem, [0.5, -2.0]).passed


def test_names_stay_with_the_problem_and_its_models():
    problem = rounds(coins=[("dock", "go"), "aisle"])
    assert problem.parameter_names == ("dock/go", "aisle")
    assert str(problem).startswith("FeatureProblem: 2 parameters (dock/go, aisle); at 0, Model: ")
    copied = pickle.loads(pickle.dumps(problem))
    for model in (problem.base, problem.model([0.1, 0.2]), copied.base):
        assert model.state_names == ("dock", "aisle")
        assert model.action_names == (("wait", "go"), ("back", ""))
        assert model.replace(leader_discount=0.5).state_names == ("dock", "aisle")


def in_words(model):
    """Write a model as arrows: states and actions are called by their numbers."""
    arrows = {}
    kernel = model.transition.toarray().reshape(*model.available.shape, -1)
    for s, a in np.argwhere(model.available):
        law = {str(to): kernel[s, a, to] for to in np.flatnonzero(kernel[s, a])}
        arrows.setdefault(str(s), {})[str(a)] = Arrow(
            law | {None: model.termination[s, a]},
            follower_reward=model.follower_reward[s, a],
            leader_reward=model.leader_reward[s, a],
        )
    return arrows


@pytest.mark.parametrize("name", ["forbidden and ending", "masked layers", "long horizon", "ties"])
@pytest.mark.parametrize("order", [1, -1])
def test_a_model_in_words_is_the_same_model(name, order):
    model = zoo.named(name).problem.base
    arrows = dict(list(in_words(model).items())[::order])
    problem = from_arrows(
        arrows,
        coins=list(arrows),
        initial={str(s): p for s, p in enumerate(model.initial)},
        follower_discount=model.follower_discount,
        leader_discount=model.leader_discount,
        temperature=model.temperature,
    )
    coins = np.repeat(np.eye(model.n_states), model.n_actions, axis=0)
    tables = tb.FeatureProblem(model, follower_reward=coins, leader_reward=-coins)
    theta = np.linspace(-0.2, 0.3, model.n_states)
    ours, known = tb.hypergradient(problem, theta[::order]), tb.hypergradient(tables, theta)
    scale = np.abs(known.gradient).max()
    np.testing.assert_allclose(ours.objective, known.objective, rtol=SUMS)
    np.testing.assert_allclose(ours.gradient[::order], known.gradient, rtol=0, atol=SUMS * scale)
    np.testing.assert_allclose(ours.visits[::order], known.visits, rtol=SUMS)
    np.testing.assert_allclose(ours.influence[::order], known.influence, rtol=0, atol=SUMS * scale)


GOOD = {"dock": {"wait": "dock", "go": "aisle"}, "aisle": {"back": "dock"}}

BAD_ARROWS = {
    "arrows is 3, not a mapping from names": 3,
    "arrows is empty": {},
    "arrows has the name 3, not a word": {3: {"go": None}},
    "arrows has the name '', not a word": {"": {"go": None}},
    "state 'dock' of arrows is empty": {"dock": {}},
    "state 'dock' of arrows is None, not a mapping from names": {"dock": None},
    "state 'dock' of arrows has the name None, not a word": {"dock": {None: "dock"}},
    "arrow 'go' of state 'dock' leads to 3: give a state's name, None for the end, or a "
    "probability for each of several": {"dock": {"go": 3}},
    "arrow 'go' of state 'dock' leads to 'isle', which is no state; there are 'dock', 'aisle'": (
        GOOD | {"dock": {"go": "isle"}}
    ),
    "probabilities of arrow 'go' of state 'dock' sum to 0.8, not 1": {
        "dock": {"go": {"dock": 0.8}}
    },
    "probabilities of arrow 'go' of state 'dock' sum to 0, not 1": {"dock": {"go": {}}},
    "arrow 'go' of state 'dock' leads to None with -0.5, not a probability": {
        "dock": {"go": {"dock": 1.5 - 0.5, None: -0.5}}
    },
    "arrow 'go' of state 'dock' leads to 'dock' with nan, not a probability": {
        "dock": {"go": {"dock": nan}}
    },
    "probability of 'dock' in arrow 'go' of state 'dock' has dtype <U3; real numbers are needed": {
        "dock": {"go": {"dock": "1.0"}}
    },
    "follower_reward of arrow 'go' of state 'dock' is nan, not a finite number": {
        "dock": {"go": Arrow("dock", follower_reward=nan)}
    },
    "leader_reward of arrow 'go' of state 'dock' is inf, not a finite number": {
        "dock": {"go": Arrow("dock", leader_reward=inf)}
    },
    "leader_reward of arrow 'go' of state 'dock' has shape (2,); one number is needed": {
        "dock": {"go": Arrow("dock", leader_reward=[1.0, 2.0])}
    },
}


@pytest.mark.parametrize("message", BAD_ARROWS)
def test_bad_arrows_are_named(message):
    assert refusal(from_arrows, BAD_ARROWS[message], coins=["dock"], **SCALARS) == message


def test_bad_settings_are_named():
    for settings, message in (
        ({"coins": "dock"}, "coins is 'dock', not a list of places"),
        ({"coins": 3}, "coins is 3, not a list of places"),
        (
            {"coins": [3]},
            "coins[0] is 3, neither a state nor a pair of a state and its action; there ",
        ),
        ({"coins": ["dock", "isle"]}, "coins[1] is 'isle', neither a state nor a pair"),
        ({"coins": [("dock", "go", "aisle")]}, "coins[0] is ('dock', 'go', 'aisle'), neither"),
        ({"coins": [("dock", "back")]}, "coins[0] is ('dock', 'back'), neither a state"),
        ({"coins": [("dock", ["go"])]}, "coins[0] is ('dock', ['go']), neither a state"),
        ({"coins": [("dock", None)]}, "coins[0] is ('dock', None), neither a state"),
        ({"coins": ["dock", "dock"]}, "coins[1] is 'dock', where one is already"),
        ({"coins": []}, "coins is empty"),
        ({"initial": "isle"}, "initial leads to 'isle', which is no state"),
        ({"initial": ["dock"]}, "initial is ['dock']: give a state's name, or a probability for"),
        ({"initial": {"dock": 0.5}}, "probabilities of initial sum to 0.5, not 1"),
        ({"initial": {"dock": 0.5, None: 0.5}}, "initial leads to None, which is no state"),
        (
            {"leader_discount": 1.0},
            "leader_discount is 1, and from state 'dock' the episode never ends",
        ),
        ({"temperature": 0.0}, "temperature is 0.0, not a positive finite number"),
    ):
        found = refusal(from_arrows, GOOD, **{"coins": ["dock"], **SCALARS, **settings})
        assert found.startswith(message)


def test_an_arrow_does_not_change_with_what_it_was_made_of():
    probabilities = {"gate": 1.0}
    arrow = Arrow(probabilities)
    probabilities["gate"] = 0.5
    assert arrow.probabilities == {"gate": 1.0}


def test_bad_prizes_and_costs_are_named():
    for make, message in (
        (lambda: fork(cost="log 3"), "cost has dtype <U5; real numbers are needed"),
        (lambda: fork(prize=np.nan), "prize is nan, not a finite number"),
        (lambda: rounds(prize=np.inf), "prize is inf, not a finite number"),
    ):
        assert_refused(f"^{message}$", make)


def test_names_that_do_not_fit_are_refused():
    for names, message in (
        ({"state_names": "ab"}, "state_names is 'ab', not a sequence of names"),
        ({"state_names": 3}, "state_names is 3, not a sequence of names"),
        ({"action_names": 3}, "action_names is 3, not a sequence of names"),
        ({"action_names": []}, "action_names has 0 names, not 2"),
        ({"state_names": ["a"]}, "state_names has 1 names, not 2"),
        ({"state_names": ["a", 2]}, "state_names[1] is 2, not a string"),
        ({"action_names": "ab"}, "action_names is 'ab', not a sequence of names"),
        ({"action_names": ["a"]}, "action_names has 1 names, not 2"),
        ({"action_names": [["a", "b"]]}, "action_names has 1 rows of names, not 2"),
        ({"action_names": [["a", "b"], ["a"]]}, "action_names[1] has 1 names, not 2"),
        ({"action_names": [["a", "b"], "ab"]}, "action_names[1] is 'ab', not a sequence of names"),
    ):
        assert refusal(rounds().base.replace, **names) == message
    two = {"follower_reward": np.eye(4)[:, :2]}
    found = refusal(tb.FeatureProblem, rounds().base, **two, parameter_names=["dock"])
    assert found == "parameter_names has 1 names, not 2"


def test_names_may_be_the_same_for_all_states():
    assert rounds().base.replace(action_names=["one", "two"]).action_names == (("one", "two"),) * 2


# ---------------------------------------------------------------- names in reports


def off(problem, theta, rng):
    """Be wrong, and noisy, in the aisle."""
    return tb.hypergradient(problem, theta).gradient + np.array([0.0, 1.0 + 0.1 * rng.normal()])


def constantly_off(problem, theta, rng):
    """Be wrong by the same in the aisle, and noisy at the dock."""
    return tb.hypergradient(problem, theta).gradient + np.array([rng.normal(), 0.01])


def test_reports_say_where_in_words():
    problem, theta = rounds(), [0.0, 0.0]
    report = tb.check_estimator(off, problem, theta, n_replicates=100, rng=0)
    assert report.where == "in gradient[1] (aisle)"
    report = tb.check_estimator(constantly_off, problem, theta, n_replicates=100, rng=0)
    assert "gradient[1] (aisle) (0.464545, not 0.454545" in report.still
    rows = tb.hypergradient(problem, theta).gradient + np.outer(np.arange(1, 101), [0, 0.01])
    assert tb.check_estimates(rows, problem, theta).where == "in gradient[1] (aisle)"
    method = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(1, 3)))  # which cuts
    report = tb.check_by_enumeration(method, problem, theta, horizon=3)
    assert report.where == "gradient[0] (dock)"


def test_a_gradient_report_says_where_in_words():
    inner, up, names = rounds(), np.array([0.0, 1.0]), {"parameter_names": ("dock", "aisle")}
    wrong = Plain(inner, pullback=lambda *at: inner.pullback(*at) + up, **names)
    report = tb.check_gradient(wrong, [0.0, 0.0])
    assert report.comparisons[0].worst == "theta[1] (aisle)"


@pytest.mark.parametrize("names", [None, (), ["dock"], lambda self: ["dock"], "ab", 3])
def test_names_that_are_none_do_not_stop_a_report(names):
    problem = type("Named", (), {"parameter_names": names})()
    assert with_names(problem, "most in gradient[1], at 3") == "most in gradient[1], at 3"


def test_without_names_reports_give_numbers():
    report = tb.check_gradient(tb.problems.two_state(), [0.0, 0.0])
    assert "(" not in report.comparisons[0].worst
