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
import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
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
    """A mistake: in the definition of `place`, `old` becomes `new`; `tests` should see it.

    A place is a function, CLASS.METHOD or a constant, in whichever file; the text stands once in
    one of that name. A test is a file, or FILE::NAME.
    """

    name: str
    place: str
    old: str
    new: str
    tests: tuple[str, ...]


# Controls of a mutant's copy: nothing is wrong here, whatever is compiled anew.
COMMENT = Mutant(
    "nothing but a comment",
    "soft_value_iteration",
    "        sweeps += 1\n",
    "        sweeps += 1  # of the states\n",
    ("tests/test_known_answers.py", "tests/test_kernels.py::test_soft_value_iteration_is_its_twin"),
)

KNOWN = "tests/test_known_answers.py"
FOLLOWER = "tests/test_follower.py"
KERNELS = "tests/test_kernels.py"
ROAD = "tests/test_road.py"
BOUNDS = "tests/test_bounds.py"
SWEEP = "tests/test_sweep.py"
LINEAR_QUADRATIC = "tests/test_lq_gradient.py"
ENCLOSURE = "tests/test_enclosure.py"
RULES = "tests/test_trace_rule.py"
CERTIFICATE = "tests/test_certificate.py"
RIGHT = "tests/test_agreement.py::test_a_right_problem_passes"
PLAIN = "tests/test_agreement.py::test_plain_float64_agrees_with_what_is_refined_and_bounded"

MUTANTS = (
    Mutant(
        "the leader counts at the follower's discount",
        "evaluate_leader",
        "policy, discount = response.policy, model.leader_discount",
        "policy, discount = response.policy, model.follower_discount",
        (ROAD,),
    ),
    Mutant(
        "the influence spreads at the leader's discount",
        "indirect_sensitivities",
        "policy, discount = response.policy, model.follower_discount",
        "policy, discount = response.policy, model.leader_discount",
        (ROAD,),
    ),
    Mutant(
        "influence without what led there: mu = w",
        "indirect_sensitivities",
        "source + policy * arrivals[:, None])",
        "source)",
        (ROAD,),
    ),
    Mutant(
        "the compiled influence spreads at the leader's discount",
        "leader_measures",
        "    if follower_discount != leader_discount:\n",
        "    if False:\n",
        (ROAD,),
    ),
    Mutant(
        "the compiled influence's source is not centred",
        "leader_measures",
        "influence[s, a] = lasting * action_value[s, a] - mean",
        "influence[s, a] = lasting * action_value[s, a]",
        (ROAD,),
    ),
    Mutant(
        "no dP in the direct part",
        "direct_sensitivities",
        "        transition=flow,\n",
        "",
        (ROAD,),
    ),
    Mutant(
        "no dP in the part through the follower",
        "influence_measures",
        "        transition=flow * response.value[model.transition.indices],\n",
        "",
        (ROAD,),
    ),
    Mutant(
        "no drho",
        "direct_sensitivities",
        "        initial=evaluation.value.copy(),\n",
        "",
        (ROAD,),
    ),
    Mutant(
        "P of small models transposed",
        "_policy_matrix",
        "place = model.entry_state * n_states + model.transition.indices",
        "place = model.transition.indices * n_states + model.entry_state",
        (ROAD,),
    ),
    Mutant(
        "P of large models not transposed",
        "_Sparse.solve_transposed",
        'self._factors.solve(b, trans="T")',
        "self._factors.solve(b)",
        ("tests/test_linear.py::test_the_system_fits_the_models_shape_and_is_solved",),
    ),
    Mutant(
        "sweeps along the leading vector, not without it",
        "linear_sweeps",
        "x[s] += share * along[s]",
        "x[s] -= share * along[s]",
        (f"{KERNELS}::test_linear_sweeps_are_their_twins",),
    ),
    Mutant(
        "sweeps that forget which states stay",
        "linear_sweeps",
        "- x[s]) * stays[s]",
        "- x[s])",
        (f"{KERNELS}::test_linear_sweeps_are_their_twins",),
    ),
    Mutant(
        "threads not given back",
        "_OneThread.__exit__",
        "put(count)",
        "pass",
        ("tests/test_threads.py::test_threads_are_given_back_after_an_error",),
    ),
    Mutant(
        "wide graphs given up as soon as maps",
        "_Sweeps._iterate",
        "MOST_ITERATIONS if self._model.narrow else max(MOST_ITERATIONS, x.size)",
        "MOST_ITERATIONS",
        ("tests/test_linear.py::test_a_wide_graph_that_mixes_slowly_is_not_factored",),
    ),
    Mutant(
        "steps no more exact near the solution",
        "PolicyIteration.solve",
        "accuracy = max(min(forcing, gained**2), enough)",
        "accuracy = max(forcing, enough)",
        ("tests/test_linear.py::test_inexact_steps_are_not_many_more",),
    ),
    Mutant(
        "steps no more exact that gain nothing",
        "PolicyIteration.solve",
        "forcing /= 10.0",
        "forcing /= 1.0",
        ("tests/test_linear.py::test_inexact_steps_are_not_many_more",),
    ),
    Mutant(
        "half-solved steps cut at 0",
        "_Swept._each",
        "if exact and x.dtype",
        "if x.dtype",
        ("tests/test_linear.py::test_a_half_solved_step_is_not_cut_at_0",),
    ),
    Mutant(
        "compiled iteration ends at its tolerance",
        "soft_policy_iteration",
        "not residual > rounding * scale",
        "near",
        (FOLLOWER,),
    ),
    Mutant(
        "exponentials without the shift",
        "soft_maximum",
        "    best = action_value.max(axis=1)\n",
        "    best = np.zeros(len(action_value))\n",
        (FOLLOWER,),
    ),
    Mutant(
        "compiled exponentials without the shift",
        "soft_value_iteration",
        "                    action_value[a] = reward[s, a] + discount * ahead\n"
        "                    best = max(best, action_value[a])\n",
        "                    action_value[a] = reward[s, a] + discount * ahead\n"
        "                    best = 0.0\n",
        (f"{KERNELS}::test_soft_value_iteration_takes_the_maximum_at_a_tiny_temperature",),
    ),
    Mutant(
        "iterations stop early",
        "RESIDUAL_TOLERANCE",
        "RESIDUAL_TOLERANCE = 1e-13",
        "RESIDUAL_TOLERANCE = 1e-6",
        (FOLLOWER,),
    ),
    Mutant(
        "forbidden actions are played",
        "soft_backup",
        "np.where(model.available, model.follower_reward + ahead, -np.inf)",
        "model.follower_reward + ahead",
        (f"{FOLLOWER}::test_a_forbidden_action_is_never_played",),
    ),
    Mutant(
        "1 / temperature squared",
        "influence_source",
        "centred(weighted, policy) / model.temperature)",
        "centred(weighted, policy) / model.temperature**2)",
        (ROAD,),
    ),
    Mutant(
        "action values in place of advantages",
        "influence_source",
        "policy * centred(weighted, policy)",
        "policy * weighted",
        (ROAD,),
    ),
    Mutant(
        "a step more than the horizon",
        "evaluate_leader",
        'positive_integer("horizon", horizon)',
        'positive_integer("horizon", horizon) + 1',
        (f"{KNOWN}::test_what_is_known_at_a_theta",),
    ),
    Mutant(
        "a budget's pullback with a wrong sign",
        "Budget.pullback",
        "centred.fill(-share[:-1].dot(gradient))",
        "centred.fill(share[:-1].dot(gradient))",
        (f"{BOUNDS}::test_bounds_of_a_budget_hold", RIGHT),
    ),
    Mutant(
        "an initial distribution's mass is taken for 1",
        "FeatureProblem._centre_start",
        "start @ direction / self._start_mass",
        "start @ direction",
        ("tests/test_metamorphic.py::test_that_finding_as_it_was_found",),
    ),
    Mutant(
        "what underflows in a pullback is 0",
        "pullback_errors",
        "            bound[row] += n * UNDERFLOW\n",
        "            bound[row] += 0.0\n",
        (f"{KERNELS}::test_pulled_back_errors_are_0_only_where_nothing_is",),
    ),
    Mutant(
        "sums of coarse tables do not count for what is made of them",
        "Model.replace",
        "return made_of(self.origin, **{**self._fields(), **tables})",
        "return made_of(Origin(), **{**self._fields(), **tables})",
        ("tests/test_precision.py",),
    ),
    Mutant(
        "a leader's logits shift its policy",
        "MarkovGame.pullback",
        "policy * (slope - (policy * slope).sum(axis=1, keepdims=True))",
        "policy * slope",
        (RIGHT,),
    ),
    Mutant(
        "games whose start does not depend on the leader",
        "_Observed.slopes",
        '            "initial": sp.diags_array(start, format="csr"),\n',
        "",
        (RIGHT,),
    ),
    Mutant(
        "hidden leaders do not pay the follower",
        "_Hidden.slopes",
        'for name in ("follower_reward", "leader_reward")',
        'for name in ("leader_reward",)',
        (RIGHT,),
    ),
    Mutant(
        "bounded: the leader counts at the follower's discount",
        "_centre",
        "discounts = model.follower_discount, model.leader_discount",
        "discounts = model.follower_discount, model.follower_discount",
        (KNOWN,),
    ),
    Mutant(
        "bounded: influence without what led there",
        "pair_measures",
        "mu = w + chance * (arrivals[s] + step[s])",
        "mu = w",
        (KNOWN,),
    ),
    Mutant(
        "bounded: dP through the follower at the leader's discount",
        "_centre",
        "(discounts[0], influence, influence_error, value, value_top, spreads[0])",
        "(discounts[1], influence, influence_error, value, value_top, spreads[0])",
        (PLAIN,),
    ),
    Mutant(
        "bounded: no drho",
        "_centre",
        '{"leader_reward": visits, "initial": leader_value}',
        '{"leader_reward": visits}',
        (RIGHT,),
    ),
    Mutant(
        "bounded: 1 / temperature squared",
        "influence_sources",
        "w = occupancy[s] * policy[s, a] * advantage[s, a] / temperature\n",
        "w = occupancy[s] * policy[s, a] * advantage[s, a] / temperature**2\n",
        (KNOWN,),
    ),
    Mutant(
        "what has no bound is called bounded",
        "_bounded_tables",
        "Level.ESTIMATE if bounds.vacuous else Level.BOUNDED",
        "Level.BOUNDED",
        ("tests/test_accuracy.py",),
    ),
    Mutant(
        "bounds that are too wide are handed out",
        "_require",
        "    if tolerance is None or accuracy.is_within(",
        "    if True or accuracy.is_within(",
        ("tests/test_accuracy.py",),
    ),
    Mutant(
        "samples go on after the end",
        "sample_trajectories",
        "if not inside and termination[state, action] > 0.0:",
        "if False:",
        (f"{KERNELS}::test_sampled_trajectories_are_the_twins",),
    ),
    Mutant(
        "samples cut a step early",
        "sample_trajectories",
        "        while t < limit and state >= 0:\n",
        "        while t < limit - 1 and state >= 0:\n",
        (f"{KERNELS}::test_sampled_trajectories_are_the_twins",),
    ),
    Mutant(
        "a discount too many in the sampled direct part",
        "eligibility_traces",
        "            direct = direct_share * weight\n",
        "            direct = direct_share * weight * leader_discount\n",
        (f"{KERNELS}::test_eligibility_traces_are_the_discounted_sums",),
    ),
    Mutant(
        "a baseline where episodes may end",
        "_Kernel.lasting",
        "self.available & (self.termination == 0.0)",
        "self.available",
        ("tests/test_baselines.py::test_a_baseline_changes_no_mean",),
    ),
    Mutant(
        "survivors count once",
        "TraceRule._of_sample",
        "trace_discount / sample.survival",
        "trace_discount",
        ("tests/test_trace_rule.py::test_a_rule_makes_of_a_sample_what_its_definition_says",),
    ),
    Mutant(
        "critics look beyond the end",
        "temporal_differences",
        "        if entries[k] >= 0:\n",
        "        if True:\n",
        (f"{KERNELS}::test_temporal_differences_are_the_twins",),
    ),
    Mutant(
        "residuals in plain float64",
        "value_gaps",
        "gap[s, a], rest[s, a] = two_sum(high, low + lost)",
        "gap[s, a], rest[s, a] = high, 0.0",
        (f"{KERNELS}::test_gaps_are_within_their_error_of_the_exact_ones",),
    ),
    Mutant(
        "corrected residuals that forget their second half",
        "moved_gaps",
        "gap[s, a] += rest[s, a] + (discount * ahead - here)",
        "gap[s, a] += discount * ahead - here",
        (f"{KERNELS}::test_gaps_are_within_their_error_of_the_exact_ones",),
    ),
    Mutant(
        "residuals of measures in plain float64",
        "flow_residual",
        "residual[s], rest[s] = two_sum(high, low + slip)",
        "residual[s], rest[s] = high, 0.0",
        (f"{KERNELS}::test_flow_residuals_are_within_their_error_of_the_exact_ones",),
    ),
    Mutant(
        "corrected measures that are taken for exact",
        "moved_flow",
        "error[s] += ROUNDOFF * (abs(residual[s]) + n * tiny)",
        "error[s] += 0.0",
        (f"{KERNELS}::test_flow_residuals_are_within_their_error_of_the_exact_ones",),
    ),
    Mutant(
        "exponentials that grow as their logarithm does",
        "growth",
        "return x + x * x if",
        "return x if",
        (f"{KERNELS}::test_growth_is_bounded_from_above",),
    ),
    Mutant(
        "errors that make up for more than there is",
        "tighten",
        "    others = leak\n",
        "    others = 0.0\n",
        (f"{KERNELS}::test_stages_of_bounds_are_the_twins",),
    ),
    Mutant(
        "bounds that take the operator's policy for the follower's",
        "stray_residuals",
        "stray[s] = turned * crude",
        "stray[s] = 0.0",
        (f"{KERNELS}::test_stages_of_bounds_are_the_twins",),
    ),
    Mutant(
        "bounds that lose no mass",
        "measure_sources",
        "lost = leak[s] + policy_leak[s] * lasting + operator_leak[s] * crude",
        "lost = 0.0",
        (f"{KERNELS}::test_stages_of_bounds_are_the_twins",),
    ),
    Mutant(
        "bounds that take an inverse for exact",
        "operator_of",
        "2.0 * (exact * off + rounding * size), patience), patience",
        "0.0, patience), patience",
        (f"{BOUNDS}::test_inverses_are_bounded_whatever_a_solver_says",),
    ),
    Mutant(
        "shares whose mean is known exactly",
        "softmax_errors",
        "here, off = 0.0, mean_off + 3.0 * lost",
        "here, off = 0.0, 3.0 * lost",
        (f"{KERNELS}::test_stages_of_bounds_are_the_twins",),
    ),
    Mutant(
        "kernels that Python runs for ever",
        "_Patience.__call__",
        "            self._left -= max(self._steps(*arguments), MOST_STEPS // MOST_CALLS)\n",
        "            pass\n",
        ("tests/test_patience.py",),
    ),
    Mutant(
        "bounds of values without 1 / (1 - discount)",
        "least_patience",
        "return 1.0 / (1.0 - contraction) * (1.0 + 4.0 * ROUNDOFF) if contraction < 1.0 else",
        "return 1.0 if contraction < 1.0 else",
        (f"{BOUNDS}::test_inverses_are_bounded_whatever_a_solver_says",),
    ),
    Mutant(
        "bounds that take the value for exact",
        "policy_errors",
        "log_off = log_error[s, a] + off",
        "log_off = log_error[s, a]",
        (f"{KERNELS}::test_stages_of_bounds_are_the_twins",),
    ),
    Mutant(
        "bounds that take the centre for the result",
        "error_bounds",
        "gradient = _around(result.gradient, pulled.pulled, pulled.bound)",
        "gradient = _outward(pulled.bound)",
        (BOUNDS,),
    ),
    Mutant(
        "bounds that take a stranger's sums for exact",
        "refined",
        "bound = _around(gradient, pulled.pulled, pulled.bound)",
        "bound = _outward(pulled.bound)",
        (f"{BOUNDS}::test_bounds_hold_given_what_a_strangers_code_returns",),
    ),
    Mutant(
        "a pullback that is not linear is bounded all the same",
        "_require_linear",
        "    if bad.any():\n",
        "    if False:\n",
        (
            "tests/test_check_gradient.py::"
            "test_a_pullback_that_is_not_linear_leaves_an_estimate_and_fails_the_check",
        ),
    ),
    Mutant(
        "balls without 1 / (1 - discount)",
        "_follower",
        "    radius = smallest / remaining\n",
        "    radius = smallest\n",
        (f"{ENCLOSURE}::test_a_value_far_off_has_a_radius_as_large",),
    ),
    Mutant(
        "balls of half the radius",
        "_follower",
        "[arb(v, radius.upper()) for v in best]",
        "[arb(v, radius.upper() / 2) for v in best]",
        (f"{ENCLOSURE}::test_a_value_far_off_has_a_radius_as_large",),
    ),
    Mutant(
        "enclosures rounded to nearest",
        "_ends",
        "    if not arb(lower) <= low:\n        lower = math.nextafter(lower, -math.inf)\n",
        "",
        (f"{ENCLOSURE}::test_bounds_are_rounded_outward",),
    ),
    Mutant(
        "enclosures of play that does not end",
        "_leader_value",
        "    if any(z <= 0 for z in steps):\n",
        "    if False:\n",
        (f"{ENCLOSURE}::test_without_a_discount_play_that_grows_is_refused",),
    ),
    Mutant(
        "a certificate's checker that compares nothing",
        "_Checker.compare",
        "        _compare(found, self.instance.claims, self.fixed)\n",
        "",
        (f"{CERTIFICATE}::test_forged_claims_are_refused",),
    ),
    Mutant(
        "a certificate's checker with a slack of four last places",
        "_unit",
        "    return Fraction(math.ulp(end))\n",
        "    return 4 * Fraction(math.ulp(end))\n",
        (f"{CERTIFICATE}::test_forged_claims_are_refused",),
    ),
    Mutant(
        "a certificate's checker that lets upper bounds be too low",
        "_compare",
        "            if x < low or y > high:\n",
        "            if x < low:\n",
        (f"{CERTIFICATE}::test_both_ends_have_to_be_shown",),
    ),
    Mutant(
        "a certificate's checker that believes in the follower's value",
        "_Checker.follower_value",
        "            if above[0] > target:\n",
        "            if False:\n",
        (f"{CERTIFICATE}::test_a_certificate_that_was_tampered_with_is_rejected",),
    ),
    Mutant(
        "a certificate's checker that believes in the leader's value",
        "_Checker.leader_value",
        "        return _widened(guess, worst, rest)\n",
        "        return guess\n",
        (f"{CERTIFICATE}::test_a_proof_and_a_claim_that_lie_together_are_refused",),
    ),
    Mutant(
        "a certificate's checker that believes in the occupancy",
        "_Checker.flow",
        "lasting = _widened(guess, left, rest)",
        "lasting = guess",
        (f"{CERTIFICATE}::test_a_proof_and_a_claim_that_lie_together_are_refused",),
    ),
    Mutant(
        "a certificate's checker that believes in the influence",
        "_Checker.influence",
        "self.spread(_widened(guess, left, self.instance.follower_rest), policy)",
        "self.spread(guess, policy)",
        (f"{CERTIFICATE}::test_a_proof_and_a_claim_that_lie_together_are_refused",),
    ),
    Mutant(
        "a certificate's checker with indices of any integers",
        "_index",
        "if type(value) is not int or not 0 <= value < below:",
        "if not isinstance(value, int) or not value < below:",
        (f"{CERTIFICATE}::test_what_is_malformed_is_no_certificate",),
    ),
    Mutant(
        "a certificate's checker that waits for pipes",
        "_require_small",
        "    if not stat.S_ISREG(found.st_mode):\n",
        "    if stat.S_ISDIR(found.st_mode):\n",
        (f"{CERTIFICATE}::test_places_that_are_no_files_are_refused_in_a_line",),
    ),
    Mutant(
        "a gradient check that passes always",
        "RouteComparison.passed",
        "        return self.difference <= self.tolerance\n",
        "        return True\n",
        ("tests/test_check_gradient.py",),
    ),
    Mutant(
        "an estimator check that never alarms",
        "_hotelling",
        "    critical = float(raised(plain, quantile, tail))\n",
        "    critical = 1e9\n",
        ("tests/test_check_estimator.py",),
    ),
    Mutant(
        "an estimator check that takes all noise for normal",
        "raised",
        "critical + edgeworth + STEEP * np.maximum(quantile * tail - EXPANDABLE, 0.0)\n",
        "critical + 0.0 * edgeworth\n",
        ("tests/test_check_estimator.py::test_importance_weights_keep_the_rate",),
    ),
    Mutant(
        "a visible bias that knows nothing of tails",
        "needed_shift",
        "    least = shift(critical(tail if worse <= HEAVY_TAIL else worse))\n",
        "    return shift(critical(0.0))\n",
        ("tests/test_check_estimator.py::test_heavy_tails_are_noticed_not_averaged_away",),
    ),
    Mutant(
        "calls that are taken for independent",
        "dependence",
        "    found = seen > normal(DEPENDENCE_RATE / (LONGEST_LAG + 1))\n",
        "    found = False\n",
        (
            "tests/test_check_estimator.py"
            "::test_calls_that_depend_on_each_other_decide_nothing_and_are_noticed",
        ),
    ),
    Mutant(
        "what calls share, not looked for",
        "check_estimator",
        "        if found.verdict is Verdict.BIASED and not replicates.start_afresh():\n",
        "        if False:\n",
        (
            "tests/test_check_estimator.py"
            "::test_what_calls_share_is_found_by_making_the_first_call_again",
        ),
    ),
    Mutant(
        "a pullback that always fits",
        "check_pullback",
        "            if not abs(found - said) <= allowed:\n",
        "            if False:\n",
        ("tests/test_check_estimator.py::test_a_wrong_pullback_is_broken",),
    ),
    Mutant(
        "generators that a function holds, not looked for",
        "generators_of",
        "        if _is_generator(one):\n",
        "        if False:\n",
        (
            "tests/test_check_estimator.py"
            "::test_what_draws_from_any_generator_is_not_called_deterministic",
        ),
    ),
    Mutant(
        "a pass that hides any bias",
        "_too_coarse",
        "    if visible <= wanted:\n",
        "    if True:\n",
        ("tests/test_check_estimator.py::test_nothing_passes_that_hides_more_than_a_quarter",),
    ),
    Mutant(
        "batches that are taken for means",
        "_Run.unlike_singles",
        "            if self._differ(together, mean, np.abs(alone)):\n",
        "            if False:\n",
        (
            "tests/test_enumeration.py"
            "::test_what_is_right_on_one_trajectory_and_put_together_wrongly_is_biased",
        ),
    ),
    Mutant(
        "variances without the credits' second moments",
        "TracedMoments.carried",
        "        with_e[0] = (credit * with_e).sum(axis=0)\n",
        "",
        (f"{RULES}::test_a_rules_moments_are_those_over_all_trajectories",),
    ),
    Mutant(
        "variances without what starts are worth",
        "TracedMoments._spread",
        "covariance + of_starts, of_starts)",
        "covariance, of_starts)",
        (f"{RULES}::test_a_rules_moments_are_those_over_all_trajectories",),
    ),
    Mutant(
        "survivors whose cuts add no variance",
        "local_variances",
        "                if coin > 0.0:\n",
        "                if False:\n",
        (f"{RULES}::test_a_rules_moments_are_those_over_all_trajectories",),
    ),
    Mutant(
        "own actions whose gain does not go with what they lead to",
        "_Local._answering",
        "+ self._product(*both) + self._product(*both[::-1])",
        "",
        (f"{RULES}::test_a_rules_moments_are_those_over_all_trajectories",),
    ),
    Mutant(
        "ascents that descend",
        "GradientAscent.step",
        "return theta + scale * gradient, NOTHING",
        "return theta - scale * gradient, NOTHING",
        ("tests/test_optimisers.py",),
    ),
    Mutant(
        "a temperature without a slope",
        "influence_measures",
        "        temperature=partial(temperature_slope, model, response, influence),\n",
        "",
        (ROAD,),
    ),
    Mutant(
        "bounds that take the temperature's slope for exact",
        "_centre",
        "temperature=_widened(slope_error),",
        "temperature=0.0,",
        (BOUNDS,),
    ),
    Mutant(
        "play that need not end at a leader's discount of 1",
        "made_of",
        "            _require_ends(model)\n",
        "            pass\n",
        ("tests/test_undiscounted.py",),
    ),
    Mutant(
        "expected steps of any sign",
        "_require_steps",
        "endless = ~((steps > 0.0) & (steps < MOST_STEPS))",
        "endless = ~(steps < MOST_STEPS)",
        ("tests/test_undiscounted.py",),
    ),
    Mutant(
        "BLAS computes with as many threads as it likes",
        "_swept",
        "threadpool_limits(1),",
        "nullcontext(),",
        (f"{SWEEP}::test_rounding_does_not_depend_on_threads",),
    ),
    Mutant(
        "a task sees what another changed",
        "_Call.__call__",
        "pickle.loads(_packed(call))",
        "call",
        (f"{SWEEP}::test_a_result_depends_on_its_task_alone",),
    ),
    Mutant(
        "what is there is made again",
        "_swept",
        "if name not in there",
        "if name",
        (f"{SWEEP}::test_what_is_there_is_read_and_the_rest_made",),
    ),
    Mutant(
        "errors of tasks are forgotten",
        "_swept",
        "        raise error\n",
        "        pass\n",
        (f"{SWEEP}::test_a_task_that_fails_is_named_and_does_not_end_the_others",),
    ),
    Mutant(
        "a context's weight forgotten",
        "shares",
        "contexts.weights[k] * measures.initial[place.states]",
        "1.0 * measures.initial[place.states]",
        ("tests/test_contexts.py::test_each_answer_is_the_mean_of_the_contexts",),
    ),
    Mutant(
        "contexts do not bound their influence",
        "shares_of_bounds",
        "bounds.follower_reward[place.pairs]",
        "0.0 * bounds.follower_reward[place.pairs]",
        (
            "tests/test_contexts.py::test_errors_of_a_table_reach_as_far_as_the_contexts_derivatives",
        ),
    ),
    Mutant(
        "households move against the income tax",
        "_moves",
        "np.where(inside, -kinds[:, 0], 0.0)",
        "np.where(inside, kinds[:, 0], 0.0)",
        ("tests/test_tax_design.py::test_its_derivatives_are_right",),
    ),
    Mutant(
        "a bonus for certainty",
        "RegularisedActorCritic._moved",
        "- temperature * learner.log_policy",
        "+ temperature * learner.log_policy",
        ("tests/test_regularised_actor_critic.py::test_the_steps_are_those_of_the_docstring",),
    ),
    Mutant(
        "the linear-quadratic influence spreads at the leader's discount",
        "indirect_sensitivities",
        "A, B, discount = model.dynamics, model.control, model.follower_discount",
        "A, B, discount = model.dynamics, model.control, model.leader_discount",
        (LINEAR_QUADRATIC,),
    ),
    Mutant(
        "the influence on a gain without what led there",
        "indirect_sensitivities",
        "Z = lyapunov(np.sqrt(discount) * closed, source)",
        "Z = source",
        (LINEAR_QUADRATIC,),
    ),
    Mutant(
        "the follower's covariance does not answer to its costs",
        "indirect_sensitivities",
        "T = -inverse @ evaluation.covariance @ response.covariance - symmetric(Y @ gain.T)",
        "T = -symmetric(Y @ gain.T)",
        (LINEAR_QUADRATIC,),
    ),
    Mutant(
        "the input's spread is held to be no part of the noise",
        "direct_sensitivities",
        "control=2.0 * noise @ model.control @ response.covariance - flow @ response.gain.T",
        "control=-flow @ response.gain.T",
        (LINEAR_QUADRATIC,),
    ),
    Mutant(
        "what is carried to a state is held to vary half as much",
        "_spread",
        "4.0 * moved.T",
        "2.0 * moved.T",
        ("tests/test_lq_moments.py",),
    ),
    Mutant(
        "a square counts as once the Hermite polynomial that it is made of",
        "_Forms.of_state",
        "found[:, 0, 0] -= numbers",
        "found[:, 0, 0] -= 0.5 * numbers",
        ("tests/test_lq_moments.py",),
    ),
    Mutant(
        "a bump's mean forgets that the state is spread",
        "Widened.at",
        "- self._size / 2.0",
        "",
        (LINEAR_QUADRATIC, "tests/test_lq_leader.py"),
    ),
    Mutant(
        "a bump over a spread state is as narrow as ever",
        "Widened.__init__",
        "inner = 2.0 * self._across",
        "inner = self._across",
        ("tests/test_lq_leader.py",),
    ),
    Mutant(
        "half the temperature is taken for the whole",
        "_response",
        "read_only(symmetric(heat / 2.0 * np.linalg.inv(metric)))",
        "read_only(symmetric(heat * np.linalg.inv(metric)))",
        ("tests/test_lq_follower.py",),
    ),
    Mutant(
        "the leader's action has no spread after the first step",
        "LinearQuadraticGame.model",
        "noise=self._spread(symmetric(lift @ base.noise @ lift.T), spread),",
        "noise=symmetric(lift @ base.noise @ lift.T),",
        ("tests/test_lq_games.py",),
    ),
    Mutant(
        "a ball's product forgets the radius of the first factor",
        "Ball.__matmul__",
        "mixed += self.rad * other.reach if self.rad else 0.0",
        "mixed += 0.0",
        ("tests/test_lq_bounds.py",),
    ),
    Mutant(
        "decay is taken for proven",
        "Decay.__init__",
        "if not (lack < 0.5 and rounding < 0.25):",
        "if False:",
        ("tests/test_lq_bounds.py",),
    ),
    Mutant(
        "the residual of the Riccati equation is forgotten",
        "_policy",
        "residual = (gap.reach + S.reach * K.rad**2) * PAID",
        "residual = 1e-300",
        ("tests/test_lq_bounds.py",),
    ),
)


def definitions(body: Sequence[ast.stmt], within: str = "") -> Iterator[tuple[str, ast.stmt]]:
    """Name what a file defines, one after the other."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield within + node.name, node
            yield from definitions(node.body, f"{within}{node.name}.")
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield within + node.targets[0].id, node


def mutated(mutant: Mutant, package: Path) -> tuple[Path, str]:
    """Find a mutant's file, and make its text; raise if the mutant is stale."""
    made, found = [], 0
    for path in sorted(package.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if mutant.old not in text or mutant.place.rpartition(".")[2] not in text:
            continue
        lines = text.splitlines(keepends=True)
        for name, node in definitions(ast.parse(text).body):
            if name != mutant.place:
                continue
            start, end = node.lineno - 1, node.end_lineno
            own = "".join(lines[start:end])
            found += own.count(mutant.old)
            new = own.replace(mutant.old, mutant.new)
            made.append((path, "".join((*lines[:start], new, *lines[end:]))))
    if found != 1:
        raise ValueError(
            f"{mutant.name!r} is stale: its text stands {found} times in {mutant.place}"
        )
    return next((path, text) for path, text in made if text != path.read_text(encoding="utf-8"))


def apply(mutant: Mutant, copy: Path) -> None:
    """Break a copy, and forget what was compiled of the file."""
    path, text = mutated(mutant, copy / PACKAGE)
    path.write_text(text, encoding="utf-8")
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
