"""What must not change an answer, or by a known amount, does not: see `metamorphic`."""

import importlib.util
from dataclasses import replace

import metamorphic_fuzz
import numpy as np
import pytest
from references import metamorphic
from references.metamorphic import CHANGES, Answers, draw_pair, examine
from sizes import pairs, sizes

import tabular_bilevel as tb

pytest.importorskip("flint")

COMPILED = "in_jax", 0  # for seconds, so once
NEEDED = {"in_jax": "jax", "from_outcomes": "gymnasium"}


def generator(name, seed):
    return np.random.default_rng([sorted(CHANGES).index(name), seed])


def seeds(first, end):
    return [(name, k) for name in CHANGES if name != "in_jax" for k in range(first, end)]


def pair_of(name, seed):
    if not importlib.util.find_spec(NEEDED.get(name, "numpy")):
        pytest.skip(f"{NEEDED[name]} is not installed")
    return draw_pair(generator(name, seed), name)


@sizes(("name", "seed"), seeds(0, 2), [COMPILED, *seeds(2, 16)])
def test_bounds_before_and_after_a_change_overlap(name, seed):
    assert examine(pair_of(name, seed)) == []


@pytest.mark.parametrize("name", ["constants", "earlier"])
def test_a_mass_that_is_not_divided_by_is_seen(name, monkeypatch):
    """The derivative of an initial distribution of mass 1 +- 2^-30 as if it were 1."""
    monkeypatch.setattr(tb.FeatureProblem, "_start_mass", 1.0)
    pairs = [draw_pair(generator(name, seed), name) for seed in range(30)]
    found = [x for pair in pairs for x in examine(pair, enclose=False)]
    assert {what for _, what, *_ in found} == {"gradient"}


def test_that_finding_as_it_was_found():
    """Constants of 2026 and 1e6 in log-features change nothing, though the mass is not 1."""
    base = tb.problems.garnet(n_states=3, rng=0).base.replace(initial=[0.2, 0.3, 0.5 + 9e-10])
    features = np.array([[1.0], [0.0], [3.0]])
    found = []
    for constant in (0.0, 2026.0, 1e6):
        problem = tb.FeatureProblem(base, initial=features + constant)
        result, proof = tb.hypergradient(problem, [0.0]), tb.enclose(problem, [0.0])
        found.append((result.gradient[0], result.accuracy.gradient[0]))
        assert abs(proof.gradient.centre[0] - found[-1][0]) <= 2.0 * found[-1][1]
    (plain, radius), *others = found
    assert radius < 1e-13
    for shifted, room in others:
        assert abs(plain - shifted) <= radius + room < 1e-7


@pytest.mark.parametrize("name", ["relabelled", "other_units", "game_split_state", "budgeted"])
def test_radii_that_are_too_small_are_seen(name, monkeypatch):
    honest = metamorphic._answers

    def boastful(result, bounds):
        return {what: (x, 1e-6 * radius) for what, (x, radius) in honest(result, bounds).items()}

    monkeypatch.setattr(metamorphic, "_answers", boastful)
    assert any(examine(draw_pair(generator(name, seed), name)) for seed in range(20))


ROUTES = {
    "forward mode": tb.forward_gradient,
    "complex step": tb.complex_step_gradient,
    "differences": lambda *at: tb.difference_gradient(*at).gradient,
    "plain": lambda *at: tb.hypergradient(*at, accuracy=tb.Estimated()).gradient,
    "BC-HG's target": tb.BoltzmannCovariance().target,
    "naive target": tb.NaivePolicyGradient().target,
    "a horizon": lambda *at: tb.hypergradient(*at, horizon=5).gradient,
}

# Of what changes no number of steps, nor the direct part's share, nor derivatives by large ones.
PLAIN_CHANGES = [
    "relabelled", "split_state", "another_state", "another_action", "other_units",
    "other_leader_units", "stored_zeros", "scattered", "game_constants", "game_relabelled",
    "game_split_state", "game_another_state", "game_units", "game_zeros", "rescaled",
]  # fmt: skip

# Differences have seven digits here, and all others twelve.
ROUTE_TOLERANCE = 1e-6


@sizes(("name", "route"), *pairs(PLAIN_CHANGES, ROUTES))
def test_every_route_goes_along_with_a_change(name, route):
    """Routes are not bounded: discounts are small here, so that they have digits to compare."""
    draw, way = CHANGES[name]
    rng = generator(name, 99)
    tables, theta = draw(rng)
    tables = replace(tables, follower_discount=0.75, leader_discount=0.5, temperature=2.0)
    pair = way(rng, tables, theta)
    before, after = (ROUTES[route](t.problem(), theta) for t, theta in (pair.before, pair.after))
    back = np.eye(before.size) if pair.parameters is None else pair.parameters
    size = np.abs(Answers(pair.before[0].problem(), pair.before[1]).result.gradient).max()
    gap = np.abs(before - pair.scale * back @ after).max()
    assert gap <= ROUTE_TOLERANCE * max(size, 1e-6)


def test_the_fuzz_runs_and_sees_what_is_wrong(monkeypatch, capsys):
    assert metamorphic_fuzz.main(["--count", "8", "--only", "earlier"]) == 0
    assert "8 instances, 0 violated" in capsys.readouterr().out
    monkeypatch.setattr(tb.FeatureProblem, "_start_mass", 1.0)
    assert metamorphic_fuzz.main(["--count", "30", "--only", "earlier"]) == 1
    assert "gradient is" in capsys.readouterr().out
