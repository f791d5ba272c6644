"""What is wrong with a biased estimator: every control is named, and what is unknown is said so."""

import re

import numpy as np
import pytest
from sizes import sizes
from small import at, somewhere

import tabular_bilevel as tb
from tabular_bilevel.checks.diagnosis import EXACT_FIT, SAME, Candidates
from tabular_bilevel.checks.localising import TABLES, parts_of
from tabular_bilevel.mistakes.knowledge import right_limit
from tabular_bilevel.mistakes.register import FAULTS, RIGHT
from tabular_bilevel.sampling.traces import TraceRule

pytestmark = pytest.mark.usefixtures("once_a_problem")

SIZES = {"n_states": 3, "n_actions": 2, "n_parameters": 3}
SHORT = {"follower_discount": 0.5, "leader_discount": 0.8, "temperature": 0.4}
PROBLEMS = {
    "garnet": tb.problems.garnet(**SIZES, **SHORT, rng=5),
    "layered": tb.problems.layered(depth=4, width=2, rng=3),
    "game, seen": tb.problems.layered_game(depth=3, width=2, rng=4),
    "masked": tb.problems.zoo.named("masked layers").problem,
}
PLAIN = PROBLEMS["garnet"]

# Fifty replicates do not tell these apart: the first bears the name of the second.
REWARD_ALONE = "leader's reward alone for its advantage"
TAIL = "leader's value for the follower's in the kernel's tail"
NEARLY_ALIKE = {
    "garnet": {"undiscounted influence": "leader's discount for the follower's"},
    "layered": {
        "tails discounted by absolute time": REWARD_ALONE,
        "follower stopped after 1 sweeps": TAIL,
        "kernel's derivative dropped in the through-follower term": REWARD_ALONE,
        "influence one step early": REWARD_ALONE,
        "V(s) for V(s') in the kernel's tail": REWARD_ALONE,
        "leader's reward-to-go one step late": "follower reward's derivative dropped",
    },
    "game, seen": {
        TAIL: "follower's discount for the leader's",
        "advantage standardised": "through-follower term twice",
    },
}

VISIBLE = {name: Candidates(*at(problem)).singles for name, problem in PROBLEMS.items()}


def seen_in(*names):
    cases = [(name, fault) for name in names for fault in VISIBLE[name]]
    quick = cases[::24]
    return sizes(("name", "fault"), quick, [case for case in cases if case not in quick])


def named(diagnosis):
    """The best, those not told apart from it, and where none leads all that fit."""
    guesses = [diagnosis.best] if diagnosis.best else [g for g in diagnosis.guesses if g.fits]
    return {name for guess in guesses for name in (guess.name, *guess.alike)}


def trajectories(name, fault):
    """How many an estimate takes: what depends on all together comes to its target with many only.

    On the layers some pairs hardly ever come, and have a share in what is standardised: with 1,000
    trajectories means are off its target by a quarter of the gradient, with 16,000 by nothing seen.
    """
    if name == "layered" and fault.together:
        return 16_000
    return 200 if name == "garnet" else 1000


def diagnose_exactly(expectation, problem, theta, **known):
    candidates = Candidates(problem, theta, **known)
    rows, parts = expectation[None], parts_of(problem, theta)
    return candidates.diagnose(rows, parts, rounding=EXACT_FIT, exactly=True)


def adds_up(diagnosis):
    total = diagnosis.none_probability + sum(guess.probability for guess in diagnosis.guesses)
    return abs(total - 1.0) < 1e-12


def sampled(fault, problem, *, n_trajectories):
    """Do what a control does, its follower asked once."""
    wrong = fault.known(right_limit(problem, somewhere(problem)))

    def estimator(problem, theta, rng):
        return fault.estimate(wrong.seeing(wrong.law.sample(n_trajectories, rng=rng)))

    return estimator


# ---------------------------------------------------------------- controls are named


@seen_in("garnet", "layered", "game, seen")
def test_a_control_is_the_first_guess_if_its_bias_is_seen(name, fault):
    problem, target = PROBLEMS[name], VISIBLE[name][fault]
    if fault.name == "next episode counted as this one":
        return  # slow; by its expectation below
    estimator = sampled(fault, problem, n_trajectories=trajectories(name, fault))
    settings = {"n_replicates": 100, "visible_bias": 1e-6, "rng": 1}
    report = tb.check_estimator(estimator, *at(problem), **settings)
    if report.passed or not (report.verdict is tb.Verdict.BIASED or report.doubtful):
        bias, error = (np.linalg.norm(x) for x in (target - report.target, report.standard_error))
        assert bias < 2.0 * report.critical_value * error
        return
    assert adds_up(report.diagnosis)
    confused = NEARLY_ALIKE[name].get(fault.name)
    assert fault.name in named(report.diagnosis) or confused in named(report.diagnosis)
    fitting = [guess for guess in report.diagnosis.guesses if guess.fits]
    assert fault.name in {name for guess in fitting for name in (guess.name, *guess.alike)}
    if report.diagnosis.best is not None:
        assert f" to {report.diagnosis.best.instead[0]}, instead of the gradient" in str(report)


def test_a_control_as_it_is_exported_is_named():
    name = "direct term dropped"
    report = tb.check_estimator(tb.controls(n_trajectories=200)[name], *at(PLAIN), rng=0)
    assert report.diagnosis.best.name == name


@seen_in("layered", "game, seen", "masked")
def test_a_control_is_named_by_its_exact_expectation(name, fault):
    problem, control = PROBLEMS[name], tb.controls()[fault.name]
    if name == "masked" or fault.name == "next episode counted as this one":
        diagnosis = diagnose_exactly(control.target(*at(problem)), *at(problem))
    elif fault.together:
        return
    else:
        report = tb.check_by_enumeration(control, *at(problem))
        assert report.verdict is tb.Verdict.BIASED
        diagnosis = report.diagnosis
        assert "your estimator converges to" in str(report)
    assert fault.name in named(diagnosis)
    assert diagnosis.best.fits
    assert diagnosis.best.distance < 1e-12
    assert diagnosis.best.probability > 0.999
    assert str(diagnosis).splitlines()[1].endswith("of its size away")


# ---------------------------------------------------------------- what is unknown


EXACT = tb.hypergradient(PLAIN, somewhere(PLAIN)).gradient


def around(mean, *, spread=0.05):
    def estimator(problem, theta, rng):
        return mean + spread * np.abs(EXACT).max() * rng.normal(size=len(mean))

    return estimator


def relatively(mean, spread=0.3):
    return lambda problem, theta, rng: mean * (1.0 + spread * rng.normal(size=len(mean)))


UNKNOWN = {
    "permuted": EXACT[[1, 2, 0]],
    "1.1 times": 1.1 * EXACT,
    "0.0072 times": 0.0072 * EXACT,
    "a coordinate's sign": EXACT * [1.0, 1.0, -1.0],
    "shifted": EXACT + np.abs(EXACT).max(),
}


QUICK = ["0.0072 times", "a coordinate's sign"]


@sizes("name", QUICK, [name for name in UNKNOWN if name not in QUICK])
def test_an_unknown_mistake_is_said_to_be_unknown(name):
    report = tb.check_estimator(around(UNKNOWN[name], spread=0.01), PLAIN, somewhere(PLAIN), rng=0)
    assert report.verdict is tb.Verdict.BIASED
    assert report.diagnosis.best is None
    assert report.diagnosis.none_probability > 0.5
    assert re.search(r"no known mistake .* nearest is .*, .* standard errors away", str(report))
    assert "converges to" not in str(report)


def test_an_unknown_mistake_is_said_to_be_unknown_by_enumeration():
    problem, theta = at(PROBLEMS["layered"])

    def more(view, batch):
        value = view.leader_value[batch.states[:, 0]]
        return value[:, None] * view.jacobian.log_initial[batch.states[:, 0]]

    report = tb.check_by_enumeration(more, problem, theta)
    assert report.diagnosis.best is None
    assert re.search(r"no known mistake .* nearest is .*, .* of its size away", str(report))


def test_no_diagnosis_is_made_of_what_is_right_but_of_what_misses_another_target():
    theta = somewhere(PLAIN)
    assert tb.check_estimator(around(EXACT), PLAIN, theta, rng=0).diagnosis is None
    other = tb.check_estimator(around(EXACT), PLAIN, theta, target=-EXACT, rng=0)
    assert other.verdict is tb.Verdict.BIASED
    assert other.diagnosis is not None
    assert "the mean is the exact gradient, which is not the target given" in other.notes


def test_where_no_mistake_shows_there_is_no_diagnosis():
    # one action that pays the leader nothing
    problem = tb.problems.bandit(leader_reward=[0.0])
    assert Candidates(problem, np.zeros(1)).singles == {}
    report = tb.check_estimator(relatively(np.ones(1), 0.1), problem, [0.0], rng=0)
    assert report.verdict is tb.Verdict.BIASED
    assert report.diagnosis.best is None
    assert report.diagnosis.none_probability == 1.0
    assert report.diagnosis.guesses == ()
    assert diagnose_exactly(np.ones(1), problem, np.zeros(1)).none_probability == 1.0


# ---------------------------------------------------------------- likeness


def test_mistakes_with_one_target_are_named_together():
    # with discounts of 0 there is one step: 1/temperature twice, and an advantage that is doubled
    problem, theta = tb.problems.bandit(temperature=0.5), np.array([0.1, -0.2])
    controls = tb.controls(n_trajectories=200)
    harmless = controls["direct term dropped"]  # there is no direct part
    assert tb.check_estimator(harmless, problem, theta, rng=0).passed
    guess = tb.check_estimator(controls["sign flipped"], problem, theta, rng=0).diagnosis.best
    assert {"sign flipped", "through-follower term sign-flipped"} <= {guess.name, *guess.alike}
    assert guess.probability > 0.9
    names = {fault.name for fault in Candidates(problem, theta).singles}
    assert not names & {"no eligibility", "normalised occupancy"}


def test_a_likeness_is_written_down_and_what_is_not_ruled_out_as_well():
    problem, theta = tb.problems.bandit(temperature=0.5), np.array([0.1, -0.2])
    wrong = tb.controls(n_trajectories=200)["through-follower term dropped"]
    diagnosis = tb.check_by_enumeration(wrong, problem, theta, horizon=1).diagnosis
    alike = {"influence one step early", "influence one step late", "through-follower term dropped"}
    assert alike <= named(diagnosis)
    assert "(not told apart here: " in str(diagnosis)
    noisy = around(0.5 * EXACT, spread=1.0)
    loud = tb.check_estimator(noisy, *at(PLAIN), n_replicates=50, rng=0)
    assert "not ruled out: " in str(loud)
    assert adds_up(loud.diagnosis)
    weights = [guess.probability for guess in loud.diagnosis.guesses]
    assert weights == sorted(weights, reverse=True)


@pytest.mark.parametrize("name", PROBLEMS)
def test_each_suspect_is_in_one_guess(name):
    targets = VISIBLE[name]
    expectation = next(iter(targets.values()))
    diagnosis = diagnose_exactly(expectation, *at(PROBLEMS[name]))
    names = [other for guess in diagnosis.guesses for other in (guess.name, *guess.alike)]
    assert sorted(names) == sorted(fault.name for fault in targets)
    by_name = {fault.name: target for fault, target in targets.items()}
    for guess in diagnosis.guesses:
        for other in guess.alike:
            gap = np.abs(by_name[guess.name] - by_name[other]).max()
            size = max(np.abs(by_name[guess.name]).max(), np.abs(expectation).max())
            assert gap <= SAME * size


# ---------------------------------------------------------------- cuts


@sizes("steps", [3], [2, 7])
def test_an_estimator_that_cuts_is_diagnosed_with_its_own_cut(steps):
    method = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(400, steps)))
    report = tb.check_estimator(method, PLAIN, somewhere(PLAIN), rng=0, visible_bias=1e-6)
    assert report.verdict is tb.Verdict.BIASED
    assert report.diagnosis.best.name == f"cut after {steps} steps"
    assert f"converges to what trajectories of {steps} steps show" in str(report)


def test_a_cut_that_enumeration_makes_is_named_with_a_second_mistake_if_there_is_one():
    problem, theta = at(PROBLEMS["layered"])
    cut = tb.check_by_enumeration(tb.BoltzmannCovariance(), problem, theta, horizon=3)
    assert cut.diagnosis.best.name == "cut after 3 steps"
    both = tb.check_by_enumeration(tb.NaivePolicyGradient(), problem, theta, horizon=3)
    assert both.diagnosis.best.name == "through-follower term dropped"
    assert both.diagnosis.best.distance < 1e-12
    whole = Candidates(problem, theta, horizon=50).singles  # longer than any trajectory
    assert whole.keys() == VISIBLE["layered"].keys()


# ---------------------------------------------------------------- many parameters

MANY = tb.problems.garnet(n_parameters=300, follower_discount=0.7, leader_discount=0.8)
THERE = 0.02 * np.random.default_rng(1).normal(size=300)
BEST = tb.hypergradient(MANY, THERE).gradient
LARGEST = np.abs(BEST).max()


@sizes(
    ("name", "n_replicates"),
    [("no 1/temperature", 50), ("cut after 5 steps", 400)],
    [
        *(("no 1/temperature", 400), ("cut after 5 steps", 50)),
        *((name, n) for name in ("direct term dropped", "no eligibility") for n in (50, 400)),
    ],
)
def test_mistakes_are_named_with_more_parameters_than_replicates(name, n_replicates):
    control = tb.controls(n_trajectories=100)[name]
    report = tb.check_estimator(control, MANY, THERE, n_replicates=n_replicates, rng=0)
    assert report.diagnosis.best.name == name
    assert report.diagnosis.best.fits


def in_all_directions(mean, count=50, seed=0):
    noise = np.random.default_rng(seed).normal(size=(count, 300))
    return mean + 0.1 * LARGEST * noise


OF_MANY = Candidates(MANY, THERE)


def diagnosed(estimates):
    return OF_MANY.diagnose(estimates, parts_of(MANY, THERE), rounding=1e-10)


def test_noise_in_all_directions_does_not_hide_a_mistake():
    targets = Candidates(MANY, THERE).singles
    for seed, name in enumerate(("sign flipped", "no 1/temperature", "no eligibility")):
        best = diagnosed(in_all_directions(targets[FAULTS[name]], seed=seed)).best
        assert best.name == name
        assert best.fits


@pytest.mark.slow
def test_what_is_in_no_targets_direction_fits_no_mistake():
    targets = np.array(list(Candidates(MANY, THERE).singles.values()))
    sideways = np.random.default_rng(3).normal(size=300)
    sideways -= np.linalg.pinv(targets) @ (targets @ sideways)
    mean = targets[0] + 2.0 * LARGEST * sideways / np.linalg.norm(sideways)
    for count in (50, 51, 400):
        diagnosis = diagnosed(in_all_directions(mean, count=count))
        assert diagnosis.best is None
        assert diagnosis.none_probability == 1.0
    assert diagnosed(np.tile(mean, (50, 1))).best is None
    assert diagnosed(np.tile(targets[0], (50, 1))).best.fits


# ---------------------------------------------------------------- scales


@sizes("scale", [1e-150], [1e150])
def test_scales_do_not_matter(scale):
    base = PLAIN.base
    names = ("follower_reward", "leader_reward", "transition", "initial")
    features = {name: getattr(PLAIN, name) for name in names}
    features["leader_reward"] = scale * PLAIN.leader_reward
    scaled = tb.FeatureProblem(base.replace(leader_reward=scale * base.leader_reward), **features)
    reports = []
    for problem in (scaled, PLAIN):
        wrong = sampled(FAULTS["no eligibility"], problem, n_trajectories=200)
        reports.append(tb.check_estimator(wrong, *at(problem), rng=0))
    report, plain = reports
    assert "no eligibility" in named(report.diagnosis)
    assert report.statistic == pytest.approx(plain.statistic, rel=1e-6)
    assert report.smallest_visible_bias == pytest.approx(plain.smallest_visible_bias, rel=1e-6)
    np.testing.assert_allclose(report.mean, scale * plain.mean, rtol=1e-12)


def test_a_gross_bias_is_looked_at_until_one_mistake_leads():
    problem = tb.problems.garnet(n_states=3, n_parameters=2, rng=2)
    control = tb.controls(n_trajectories=20)["discounts swapped"]
    settings = {"rng": 0, "n_replicates": 400}
    report = tb.check_estimator(control, problem, [0.1, 0.2], **settings)
    assert report.n_replicates <= 100  # the verdict is there at once
    assert report.diagnosis.n_replicates > report.n_replicates
    assert "seems to" not in str(report) or not report.diagnosis.clear


# ---------------------------------------------------------------- pairs


def both(one, other, problem, theta):
    """What two mistakes at once come to, by composing them as they are."""
    known = FAULTS[other].known(FAULTS[one].known(right_limit(problem, theta)))
    rule = RIGHT.rule(known)
    for name in (one, other):
        if FAULTS[name].rule is not None:
            rule = FAULTS[name].rule(rule, known)
    measures = FAULTS[one].measures or FAULTS[other].measures or TraceRule.measures
    factors = [(rule.direct, rule.direct_tables), (rule.indirect, rule.indirect_tables)]
    made = (
        part.times({table: factor * tables.get(table, 1.0) for table in TABLES})
        for part, (factor, tables) in zip(measures(rule.plain, known), factors, strict=True)
    )
    return tb.Estimate.traced(known, *made).gradient


PAIRS = [
    ("cut after 2 steps", "through-follower term dropped"),
    ("advantage of another policy", "no 1/temperature"),
    ("simulator slips more than the planner", "no eligibility"),
    ("half", "direct term dropped"),
]


@sizes("pair", PAIRS[:1], PAIRS[1:])
def test_two_mistakes_at_once_are_named_together(pair):
    theta = somewhere(PLAIN)
    mean = both(*pair, PLAIN, theta)
    exact = diagnose_exactly(mean, PLAIN, theta)
    assert adds_up(exact)
    assert exact.best.distance < 1e-7
    names = {frozenset(name.split(" and ")) for name in (exact.best.name, *exact.best.alike)}
    assert frozenset(pair) in names or any(len(name) == 1 for name in names)
    report = tb.check_estimator(around(mean, spread=0.002), PLAIN, theta, rng=0)
    assert report.verdict is tb.Verdict.BIASED
    assert adds_up(report.diagnosis)
    assert report.diagnosis.best is None or report.diagnosis.best.fits


@sizes("name", ["garnet"], [name for name in PROBLEMS if name != "garnet"])
def test_targets_of_pairs_are_those_of_composed_mistakes(name):
    problem, theta = at(PROBLEMS[name])
    candidates = Candidates(problem, theta)
    pairs = candidates.pairs(candidates.exact, np.abs(candidates.exact) + 1.0)
    for (one, other), target in list(pairs.items())[::40]:
        wanted = both(one.name, other.name, problem, theta)
        np.testing.assert_allclose(target, wanted, rtol=1e-9, atol=1e-9 * np.abs(wanted).max())


def test_where_one_number_is_visible_no_mistake_is_named_and_other_problems_are():
    problem = tb.problems.garnet(n_states=3, n_parameters=1, rng=3)
    exact = tb.hypergradient(problem, [0.1]).gradient
    report = tb.check_estimator(relatively(0.0072 * exact), problem, [0.1], rng=0)
    assert report.diagnosis.best is None
    assert report.diagnosis.directions == 1
    assert report.scale.low <= 0.0072 <= report.scale.high
    assert "one number is visible" in str(report)
    dropped = Candidates(problem, np.array([0.1])).singles[FAULTS["through-follower term dropped"]]
    report = tb.check_estimator(relatively(dropped), problem, [0.1], rng=0)
    assert report.diagnosis.best is None
    assert "through-follower term dropped" in str(report)
