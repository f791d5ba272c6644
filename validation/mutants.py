"""Break the code on purpose, and see whether the tests notice: mutation testing.

Run ``python validation/mutants.py`` with the package and its extra ``test`` installed (about three
minutes on two cores). Each mutant replaces one piece of one source file, in a copy of the project
in a temporary directory, and is killed if a test of its subset fails; `--whole` runs the whole
suite on what survives its subset. Two controls come first: the unchanged copy passes all subsets,
and a mutant that changes nothing but a comment survives.

The exit status is 1 if a mutant survives or a control fails, else 0.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = "tabular_bilevel"

# Not run on mutants: it wants the code as it is.
OWN_TEST = "tests/test_mutants.py"

# Seconds after which a run of tests counts as hanging, and the mutant as one that proves nothing.
PATIENCE = 600.0

# Status of pytest if a test failed (and of Python if the code does not run), and of us if it is not
# the copy that is tested.
FAILED, ELSEWHERE = 1, 70

RUN = f"""
import pathlib, sys
import pytest, {PACKAGE}
if not pathlib.Path({PACKAGE}.__file__).is_relative_to(pathlib.Path.cwd()):
    sys.exit({ELSEWHERE})
sys.exit(pytest.main(sys.argv[1:]))
"""


@dataclass(frozen=True)
class Mutant:
    """A mistake: in `file`, `old`, which stands there once, becomes `new`; `tests` should see it.

    A test is a file, or FILE::NAME.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


# Controls of a mutant's copy: nothing is wrong here, whatever is compiled anew.
COMMENT = Mutant(
    "nothing but a comment",
    "_kernels.py",
    "        sweeps += 1\n",
    "        sweeps += 1  # of the states\n",
    ("tests/test_known_answers.py", "tests/test_kernels.py::test_soft_value_iteration_is_its_twin"),
)

KNOWN = "tests/test_known_answers.py"
FOLLOWER = "tests/test_follower.py"
KERNELS = "tests/test_kernels.py"
BOUNDS = "tests/test_bounds.py"
ENCLOSURE = "tests/test_enclosure.py"
CERTIFICATE = "tests/test_certificate.py"
RIGHT = "tests/test_agreement.py::test_a_right_problem_passes"
PLAIN = "tests/test_agreement.py::test_plain_float64_agrees_with_what_is_refined_and_bounded"

MUTANTS = (
    Mutant(
        "the leader counts at the follower's discount",
        "leader.py",
        "policy, discount = response.policy, model.leader_discount",
        "policy, discount = response.policy, model.follower_discount",
        (KNOWN,),
    ),
    Mutant(
        "the influence spreads at the leader's discount",
        "sensitivities.py",
        "policy, discount = response.policy, model.follower_discount",
        "policy, discount = response.policy, model.leader_discount",
        (KNOWN,),
    ),
    Mutant(
        "influence without what led there: mu = w",
        "sensitivities.py",
        "source + policy * arrivals[:, None])",
        "source)",
        (KNOWN,),
    ),
    Mutant(
        "no dP in the direct part",
        "sensitivities.py",
        "        transition=flow,\n",
        "",
        (PLAIN,),
    ),
    Mutant(
        "no dP in the part through the follower",
        "sensitivities.py",
        "        transition=flow * response.value[model.transition.indices],\n",
        "",
        (PLAIN,),
    ),
    Mutant(
        "no drho",
        "sensitivities.py",
        "        initial=evaluation.value.copy(),\n",
        "",
        (PLAIN,),
    ),
    Mutant(
        "P of small models transposed",
        "linear.py",
        "place = model.entry_state * n_states + model.transition.indices",
        "place = model.transition.indices * n_states + model.entry_state",
        (KNOWN,),
    ),
    Mutant(
        "P of large models not transposed",
        "linear.py",
        'self._factors.solve(b, trans="T")',
        "self._factors.solve(b)",
        ("tests/test_linear.py::test_the_system_fits_the_models_shape_and_is_solved",),
    ),
    Mutant(
        "exponentials without the shift",
        "follower.py",
        "    best = action_value.max(axis=1)\n",
        "    best = np.zeros(len(action_value))\n",
        (FOLLOWER,),
    ),
    Mutant(
        "compiled exponentials without the shift",
        "_kernels.py",
        "                    action_value[a] = reward[s, a] + discount * ahead\n"
        "                    best = max(best, action_value[a])\n",
        "                    action_value[a] = reward[s, a] + discount * ahead\n"
        "                    best = 0.0\n",
        (f"{KERNELS}::test_soft_value_iteration_takes_the_maximum_at_a_tiny_temperature",),
    ),
    Mutant(
        "iterations stop early",
        "follower.py",
        "RESIDUAL_TOLERANCE = 1e-13",
        "RESIDUAL_TOLERANCE = 1e-6",
        (FOLLOWER,),
    ),
    Mutant(
        "forbidden actions are played",
        "follower.py",
        "np.where(model.available, model.follower_reward + ahead, -np.inf)",
        "model.follower_reward + ahead",
        (f"{FOLLOWER}::test_a_forbidden_action_is_never_played",),
    ),
    Mutant(
        "1 / temperature squared",
        "sensitivities.py",
        "centred(weighted, policy) / model.temperature)",
        "centred(weighted, policy) / model.temperature**2)",
        (f"{KNOWN}::test_bandit_as_by_hand",),
    ),
    Mutant(
        "action values in place of advantages",
        "sensitivities.py",
        "policy * centred(weighted, policy)",
        "policy * weighted",
        (f"{KNOWN}::test_bandit_as_by_hand",),
    ),
    Mutant(
        "a step more than the horizon",
        "leader.py",
        'positive_integer("horizon", horizon)',
        'positive_integer("horizon", horizon) + 1',
        (f"{KNOWN}::test_discrete_toy_over_150_steps",),
    ),
    Mutant(
        "a budget's pullback with a wrong sign",
        "problem.py",
        "np.full(share.size, -(share[:-1] @ gradient))",
        "np.full(share.size, share[:-1] @ gradient)",
        (f"{BOUNDS}::test_bounds_of_a_budget_hold", f"{PACKAGE}/hypergradient.py"),
    ),
    Mutant(
        "an initial distribution's mass is taken for 1",
        "problem.py",
        "start @ direction / self._start_mass",
        "start @ direction",
        ("tests/test_metamorphic.py::test_that_finding_as_it_was_found",),
    ),
    Mutant(
        "what underflows in a pullback is 0",
        "_kernels.py",
        "            bound[row] += n * UNDERFLOW\n",
        "            bound[row] += 0.0\n",
        (f"{KERNELS}::test_pulled_back_errors_are_0_only_where_nothing_is",),
    ),
    Mutant(
        "sums of coarse tables do not count for what is made of them",
        "model.py",
        "return made_of(self.origin, **{**self._fields(), **tables})",
        "return made_of(Origin(), **{**self._fields(), **tables})",
        ("tests/test_precision.py",),
    ),
    Mutant(
        "a leader's logits shift its policy",
        "markov_game.py",
        "policy * (slope - (policy * slope).sum(axis=1, keepdims=True))",
        "policy * slope",
        (RIGHT,),
    ),
    Mutant(
        "games whose start does not depend on the leader",
        "markov_game.py",
        "return slope + game.initial[:, None] * sensitivities.initial.reshape(slope.shape)",
        "return slope",
        (RIGHT,),
    ),
    Mutant(
        "hidden leaders do not pay the follower",
        "markov_game.py",
        '        slope += np.einsum("sa,sba->sb", sensitivities.follower_reward, '
        "game.follower_reward)\n",
        "",
        (RIGHT,),
    ),
    Mutant(
        "bounded: the leader counts at the follower's discount",
        "bounds.py",
        "    discount, policy = model.leader_discount, follower.policy\n",
        "    discount, policy = model.follower_discount, follower.policy\n",
        (KNOWN,),
    ),
    Mutant(
        "bounded: influence without what led there",
        "bounds.py",
        "influence = source + policy * (arrivals + step)[:, None]",
        "influence = source",
        (KNOWN,),
    ),
    Mutant(
        "bounded: dP through the follower at the leader's discount",
        "bounds.py",
        "(slopes[1], model.follower_discount, influence, influence_error, follower)",
        "(slopes[1], model.leader_discount, influence, influence_error, follower)",
        (PLAIN,),
    ),
    Mutant(
        "bounded: no drho",
        "bounds.py",
        "leader_reward=pairs, transition=slopes[0], initial=leader.value.copy()",
        "leader_reward=pairs, transition=slopes[0]",
        (RIGHT,),
    ),
    Mutant(
        "bounded: 1 / temperature squared",
        "_kernels.py",
        "w = occupancy[s] * policy[s, a] * advantage[s, a] / temperature\n",
        "w = occupancy[s] * policy[s, a] * advantage[s, a] / temperature**2\n",
        (KNOWN,),
    ),
    Mutant(
        "what has no bound is called bounded",
        "hypergradient.py",
        "Level.ESTIMATE if bounds.vacuous else Level.BOUNDED",
        "Level.BOUNDED",
        ("tests/test_accuracy.py",),
    ),
    Mutant(
        "bounds that are too wide are handed out",
        "hypergradient.py",
        "    if tolerance is None or accuracy.is_within(",
        "    if True or accuracy.is_within(",
        ("tests/test_accuracy.py",),
    ),
    Mutant(
        "samples go on after the end",
        "_kernels.py",
        "if not inside and termination[state, action] > 0.0:",
        "if False:",
        (f"{KERNELS}::test_sampled_trajectories_are_the_twins",),
    ),
    Mutant(
        "samples cut a step early",
        "_kernels.py",
        "        while t < limit and state >= 0:\n",
        "        while t < limit - 1 and state >= 0:\n",
        (f"{KERNELS}::test_sampled_trajectories_are_the_twins",),
    ),
    Mutant(
        "a discount too many in the sampled direct part",
        "_kernels.py",
        "                direct = weight * leader_worth\n",
        "                direct = weight * leader_discount * leader_worth\n",
        (f"{KERNELS}::test_eligibility_traces_are_the_discounted_sums",),
    ),
    Mutant(
        "a baseline where episodes may end",
        "_kernels.py",
        "if baseline and termination[s, a] == 0.0:",
        "if baseline:",
        (f"{KERNELS}::test_eligibility_traces_are_the_discounted_sums",),
    ),
    Mutant(
        "survivors count once",
        "_kernels.py",
        "eligibility *= trace_discount / survival",
        "eligibility *= trace_discount",
        (f"{KERNELS}::test_eligibility_traces_are_the_discounted_sums",),
    ),
    Mutant(
        "critics look beyond the end",
        "_kernels.py",
        "        if following >= 0:\n            target += discount * target_value[following]\n",
        "        target += discount * target_value[following]\n",
        (f"{KERNELS}::test_temporal_differences_are_the_twins",),
    ),
    Mutant(
        "residuals in plain float64",
        "_kernels.py",
        "            gap[s, a] = high + low\n",
        "            gap[s, a] = high\n",
        (f"{KERNELS}::test_gaps_are_within_their_error_of_the_exact_ones",),
    ),
    Mutant(
        "bounds of values without 1 / (1 - discount)",
        "bounds.py",
        "return 1.0 / (1.0 - contraction) * (1.0 + 4.0 * ROUNDOFF) if contraction < 1.0 else",
        "return 1.0 if contraction < 1.0 else",
        (f"{BOUNDS}::test_inverses_are_bounded_whatever_a_solver_says",),
    ),
    Mutant(
        "bounds that take the value for exact",
        "bounds.py",
        "policy_error = soft.error(log_ratio)",
        "policy_error = soft.error(0.0)",
        (BOUNDS,),
    ),
    Mutant(
        "bounds that take the centre for the result",
        "bounds.py",
        "gradient = _outward(np.abs(result.gradient - pulled) + reach)",
        "gradient = _outward(reach)",
        (BOUNDS,),
    ),
    Mutant(
        "balls without 1 / (1 - discount)",
        "_balls.py",
        "    radius = smallest / remaining\n",
        "    radius = smallest\n",
        (f"{ENCLOSURE}::test_a_value_far_off_has_a_radius_as_large",),
    ),
    Mutant(
        "balls of half the radius",
        "_balls.py",
        "[arb(v, radius.upper()) for v in best]",
        "[arb(v, radius.upper() / 2) for v in best]",
        (f"{ENCLOSURE}::test_a_value_far_off_has_a_radius_as_large",),
    ),
    Mutant(
        "enclosures rounded to nearest",
        "_balls.py",
        "    if not arb(lower) <= low:\n        lower = math.nextafter(lower, -math.inf)\n",
        "",
        (f"{ENCLOSURE}::test_bounds_are_rounded_outward",),
    ),
    Mutant(
        "enclosures of play that does not end",
        "_balls.py",
        "    if any(z <= 0 for z in steps):\n",
        "    if False:\n",
        (f"{ENCLOSURE}::test_without_a_discount_play_that_grows_is_refused",),
    ),
    Mutant(
        "a certificate's checker that compares nothing",
        "check_certificate.py",
        "        _compare(found, self.instance.claims, self.fixed)\n",
        "",
        (f"{CERTIFICATE}::test_forged_claims_are_refused",),
    ),
    Mutant(
        "a certificate's checker with a slack of four last places",
        "check_certificate.py",
        "    return Fraction(math.ulp(end))\n",
        "    return 4 * Fraction(math.ulp(end))\n",
        (f"{CERTIFICATE}::test_forged_claims_are_refused",),
    ),
    Mutant(
        "a certificate's checker that lets upper bounds be too low",
        "check_certificate.py",
        "            if x < low or y > high:\n",
        "            if x < low:\n",
        (f"{CERTIFICATE}::test_both_ends_have_to_be_shown",),
    ),
    Mutant(
        "a certificate's checker that believes in the follower's value",
        "check_certificate.py",
        "            if above[0] > target:\n",
        "            if False:\n",
        (f"{CERTIFICATE}::test_a_certificate_that_was_tampered_with_is_rejected",),
    ),
    Mutant(
        "a certificate's checker that believes in the leader's value",
        "check_certificate.py",
        "        return _widened(guess, worst, rest)\n",
        "        return guess\n",
        (f"{CERTIFICATE}::test_a_proof_and_a_claim_that_lie_together_are_refused",),
    ),
    Mutant(
        "a certificate's checker that believes in the occupancy",
        "check_certificate.py",
        "lasting = _widened(guess, left, rest)",
        "lasting = guess",
        (f"{CERTIFICATE}::test_a_proof_and_a_claim_that_lie_together_are_refused",),
    ),
    Mutant(
        "a certificate's checker that believes in the influence",
        "check_certificate.py",
        "self.spread(_widened(guess, left, self.instance.follower_rest), policy)",
        "self.spread(guess, policy)",
        (f"{CERTIFICATE}::test_a_proof_and_a_claim_that_lie_together_are_refused",),
    ),
    Mutant(
        "a certificate's checker with indices of any integers",
        "check_certificate.py",
        "if type(value) is not int or not 0 <= value < below:",
        "if not isinstance(value, int) or not value < below:",
        (f"{CERTIFICATE}::test_what_is_malformed_is_no_certificate",),
    ),
    Mutant(
        "a certificate's checker that waits for pipes",
        "check_certificate.py",
        "    if not stat.S_ISREG(found.st_mode):\n",
        "    if stat.S_ISDIR(found.st_mode):\n",
        (f"{CERTIFICATE}::test_places_that_are_no_files_are_refused_in_a_line",),
    ),
    Mutant(
        "a gradient check that passes always",
        "checks/gradient.py",
        "        return self.difference <= self.tolerance\n",
        "        return True\n",
        ("tests/test_check_gradient.py",),
    ),
    Mutant(
        "an estimator check that never alarms",
        "checks/mean_test.py",
        "    critical = float(raised(plain, quantile, tail))\n",
        "    critical = 1e9\n",
        ("tests/test_check_estimator.py",),
    ),
    Mutant(
        "an estimator check that takes all noise for normal",
        "checks/mean_test.py",
        "critical + edgeworth + STEEP * np.maximum(quantile * tail - EXPANDABLE, 0.0)\n",
        "critical + 0.0 * edgeworth\n",
        ("tests/test_check_estimator.py::test_importance_weights_keep_the_rate",),
    ),
    Mutant(
        "a visible bias that knows nothing of tails",
        "checks/mean_test.py",
        "    least = shift(critical(tail if worse <= HEAVY_TAIL else worse))\n",
        "    return shift(critical(0.0))\n",
        ("tests/test_check_estimator.py::test_heavy_tails_are_noticed_not_averaged_away",),
    ),
    Mutant(
        "calls that are taken for independent",
        "checks/mean_test.py",
        "    found = seen > _normal(DEPENDENCE_RATE / (LONGEST_LAG + 1))\n",
        "    found = False\n",
        (
            "tests/test_check_estimator.py"
            "::test_calls_that_depend_on_each_other_decide_nothing_and_are_noticed",
        ),
    ),
    Mutant(
        "what calls share, not looked for",
        "checks/estimator.py",
        "        if found.verdict is Verdict.BIASED and not call.starts_afresh(rows):\n",
        "        if False:\n",
        (
            "tests/test_check_estimator.py"
            "::test_what_calls_share_is_found_by_making_the_first_call_again",
        ),
    ),
    Mutant(
        "ascents that descend",
        "optimisers.py",
        "return theta + scale * gradient, NOTHING",
        "return theta - scale * gradient, NOTHING",
        ("tests/test_optimisers.py",),
    ),
    Mutant(
        "a temperature without a slope",
        "sensitivities.py",
        "        temperature=partial(temperature_slope, model, response, influence),\n",
        "",
        ("tests/test_temperature.py",),
    ),
    Mutant(
        "bounds that take the temperature's slope for exact",
        "bounds.py",
        "temperature=float(_outward(slope_error)),",
        "temperature=0.0,",
        (BOUNDS,),
    ),
    Mutant(
        "play that need not end at a leader's discount of 1",
        "model.py",
        "            _require_ends(model)\n",
        "            pass\n",
        ("tests/test_undiscounted.py",),
    ),
    Mutant(
        "expected steps of any sign",
        "linear.py",
        "endless = ~((steps > 0.0) & (steps < MOST_STEPS))",
        "endless = ~(steps < MOST_STEPS)",
        ("tests/test_undiscounted.py",),
    ),
)


def mutated(source: str, mutant: Mutant) -> str:
    """Apply a mutant to its file's text; raise if it is stale."""
    found = source.count(mutant.old)
    if found != 1:
        raise ValueError(
            f"{mutant.name!r} is stale: its text stands {found} times in {mutant.file}"
        )
    return source.replace(mutant.old, mutant.new)


def apply(mutant: Mutant, copy: Path) -> None:
    """Break a copy, and forget what was compiled of the file."""
    path = copy / PACKAGE / mutant.file
    path.write_text(mutated(path.read_text(encoding="utf-8"), mutant), encoding="utf-8")
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
        compiled.unlink()


@dataclass(frozen=True)
class Outcome:
    """How a run of tests ended: with pytest's exit status, and the first test that failed."""

    status: int
    failed: str
    seconds: float
    output: str


def run(copy: Path, tests: Sequence[str]) -> Outcome:
    """Run tests on a copy until one fails."""
    began = time.perf_counter()
    hidden = ("NUMBA_CACHE_DIR", "PYTEST_ADDOPTS")
    environment = {name: word for name, word in os.environ.items() if name not in hidden}
    environment |= {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    options = ["-x", "-q", "-rfE", "--tb=line", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(
            [sys.executable, "-c", RUN, *options, f"--ignore={OWN_TEST}", *tests],
            cwd=copy,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Outcome(-1, "", time.perf_counter() - began, f"no end after {PATIENCE:g} s")
    failed = re.search(r"^FAILED (.+?)(?: - |$)", done.stdout, re.MULTILINE)
    return Outcome(
        done.returncode,
        failed[1] if failed else "",
        time.perf_counter() - began,
        done.stdout + done.stderr,
    )


def killed(mutant: Mutant, original: Path, *, whole: bool = False) -> Outcome:
    """Run a mutant's tests on a copy of its own; raise if they end in another way than tests do."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "project"
        shutil.copytree(original, copy)  # with what is compiled
        apply(mutant, copy)
        outcome = run(copy, mutant.tests)
        if outcome.status == 0 and whole:
            outcome = run(copy, ("tests",))
    if outcome.status != 0 and not (outcome.status == FAILED and outcome.failed):
        raise RuntimeError(f"{mutant.name!r}: pytest ended with {outcome.status}\n{outcome.output}")
    return outcome


def project(folder: Path) -> Path:
    """Copy what tests need."""
    copy = folder / "project"
    ignored = shutil.ignore_patterns("__pycache__", ".hypothesis")
    for name in (PACKAGE, "tests", "validation"):
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy2(ROOT / name, copy)
    return copy


def main(arguments: list[str] | None = None) -> int:
    """Break, test, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="TEXT", help="mutants with this in their names")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--whole", action="store_true", help="the whole suite where the subset sees nothing"
    )
    options = parser.parse_args(arguments)
    mutants = [mutant for mutant in MUTANTS if (options.only or "") in mutant.name]
    if not mutants:
        parser.error(f"no mutant has {options.only!r} in its name")
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        original = project(Path(folder))
        tests = dict.fromkeys(test for mutant in (COMMENT, *mutants) for test in mutant.tests)
        files = [test for test in tests if "::" not in test]
        control = run(original, [*files, *(t for t in tests if t.partition("::")[0] not in files)])
        say("the code as it is", "passes" if control.status == 0 else "FAILS", control)
        if control.status != 0:
            print(control.output)
            return 1
        wrong = 0
        with ThreadPoolExecutor(options.workers) as pool:
            jobs = [pool.submit(killed, COMMENT, original)]
            jobs += [
                pool.submit(killed, mutant, original, whole=options.whole) for mutant in mutants
            ]
            for mutant, job in zip((COMMENT, *mutants), jobs, strict=True):
                outcome = job.result()
                verdict = outcome.failed or "survives"
                if (outcome.status == 0) != (mutant is COMMENT):
                    wrong += 1
                    verdict += "  <-- WRONG"
                say(mutant.name, verdict, outcome)
    print(f"{len(mutants)} mutants, {wrong} lines wrong, {time.perf_counter() - began:.0f} s")
    return 1 if wrong else 0


def say(name: str, verdict: str, outcome: Outcome) -> None:
    """Print a line of the table."""
    print(f"{name:<62}{outcome.seconds:5.1f} s  {verdict}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
