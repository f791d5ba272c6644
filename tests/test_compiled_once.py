"""A kernel is compiled for one type of each argument: each further type slows a first call."""

import json
import subprocess
import sys

# What is read-only in one place and is not in another, 64 bits or 32, a view or whole. In a process
# of its own: tests call kernels as they like.
DRIVER = """
import json
import tabular_bilevel as tb
from tabular_bilevel._base import jit
jit.MOST_STEPS = 0  # nothing is left to Python
from tabular_bilevel._base import kernels
from tabular_bilevel.problems import zoo

for name in ("four rooms", "discrete toy", "random MDP", "random game", "game, leader unseen"):
    problem, theta = zoo.named(name).problem, zoo.named(name).theta
    for level in (tb.Bounded(), tb.Estimated()):
        result = tb.hypergradient(problem, theta, accuracy=level)
        tb.error_bounds(problem, theta, result)
    model, response = result.model, result.response
    for solver in (tb.PolicyIteration(), tb.ValueIteration(), tb.CompiledPolicyIteration()):
        for start in (None, response.value):
            tb.solve_follower(model, solver=solver, start=start)
    sample = tb.sample_trajectories(model, response.policy.copy(), count=5, horizon=10, rng=0)
    sample.cut(3).visits(0.9)
    sample.states, sample.next_states, sample.entry_table, sample.cut(2).states
    for critic in (tb.MonteCarloCritic(), tb.SarsaCritic(), tb.TemporalDifferenceCritic()):
        for sampler in (tb.StepBudget(20, 10), tb.Episodes(3, 10), tb.Survivors(3)):
            estimator = tb.BoltzmannCovariance(tb.Interaction(sampler, critic))
            first = estimator(problem, theta, rng=0)
            estimator(problem, theta, rng=0, memory=first.memory)
            tb.BoltzmannCovariance(estimator.interaction, own_action=True)(problem, theta, rng=0)
    estimator.target(problem, theta)
    for horizon in (None, 3):
        tb.estimator_moments(problem, theta, tb.BoltzmannCovariance(), horizon=horizon)

wide = tb.problems.garnet(n_states=600, leader_discount=0.5)
tb.hypergradient(wide, [0.0] * 6)

print(json.dumps({name: len(getattr(kernels, name).signatures) for name in kernels.__all__}))
"""


def test_a_kernel_is_compiled_once():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DRIVER], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert len(counts) > 20
    inside = {"exponentials", "lost", "shown_patience"}  # the chain's machine code, which is cached
    assert counts == {name: counts[name] if name in inside else 1 for name in counts}
    assert max(counts.values()) == 1
