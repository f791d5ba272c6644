"""Replay: steps of earlier calls are seen again, and the mean is what is said of it."""

from functools import partial
from itertools import islice

import numpy as np
import pytest
from small import each_refused

import tabular_bilevel as tb
from tabular_bilevel.estimators.register import METHODS, Setting
from tabular_bilevel.sampling.replay import STEPS, TRAJECTORIES

# Of a t law of 24 degrees of freedom: once in 20,000 times.
SURE = 5.0

GAME = tb.problems.layered_game(depth=2, width=1)
NOW, THEN, EARLIER = np.random.default_rng(0).normal(size=(3, GAME.n_parameters)) * 2.0


def tables(seen):
    return [getattr(seen, name).tolist() for name in ("states", "actions", "next_states")]


@pytest.mark.parametrize("made", [tb.NaivePolicyGradient, tb.BiLevelActorCritic])
def test_the_mean_is_that_of_the_laws_that_are_seen(made):
    walks = tb.Interaction(tb.Episodes(400), replay=1)
    naive = made is tb.NaivePolicyGradient
    method = made(walks) if naive else made(walks.sampler, replay=1)
    found = []
    for rng in np.random.default_rng(1).spawn(25):
        memory = {}
        for theta in (EARLIER, THEN, NOW):
            estimate = method(GAME, theta, rng=rng, memory=memory)
            memory = estimate.memory
        found.append(estimate.gradient)
    assert estimate.n_trajectories == 800
    seen = (walks if naive else method.interaction_for(GAME)).replayed(GAME, NOW, [EARLIER, THEN])
    wanted = np.mean([method.estimate(law).gradient for law in seen], axis=0)
    error = np.std(found, axis=0, ddof=1) / np.sqrt(len(found))
    gap = np.abs(np.mean(found, axis=0) - wanted)
    assert (gap <= SURE * error + 1e-12).all()
    # controls: neither the target without replay, nor that of the other call, is the mean
    others = method.target(GAME, NOW), method.estimate(seen[1]).gradient
    for other in others:
        assert (np.abs(np.mean(found, axis=0) - other) > SURE * error + 1e-12).any()


def test_what_is_seen_is_what_the_last_calls_drew():
    walks, memory, drawn = tb.Interaction(tb.StepBudget(7, 3), replay=2), {}, []
    for rng in range(5):
        alone = tb.Interaction(walks.sampler).gather(GAME, NOW, rng=rng)
        drawn.append(alone.trajectories)
        experience = walks.gather(GAME, NOW, rng=rng, memory=memory)
        memory, expected = experience.memory, drawn[::-1][:3]
        for k, column in enumerate(tables(experience.trajectories)):
            assert column == [row for each in expected for row in tables(each)[k]]
        assert experience.seen.complete == sum(each.complete for each in expected)
    assert memory[TRAJECTORIES][:, 2].max() == 1  # two calls go on
    assert len(memory[STEPS]) == 14


def test_an_ascent_goes_on_from_a_file(tmp_path):
    method = METHODS["bi-ac"](Setting(tb.Episodes(2), replay=2))
    climb = {"method": method, "optimiser": tb.GradientAscent(0.1), "rng": 0}
    whole = list(islice(tb.ascend(GAME, NOW, **climb), 6))
    whole[3].state.save(tmp_path / "state.npz")
    state, _ = tb.AscentState.load(tmp_path / "state.npz")
    rest = tb.resume(GAME, state, climb["method"], climb["optimiser"])
    np.testing.assert_array_equal(next(rest).theta, whole[4].theta)
    np.testing.assert_array_equal(next(rest).theta, whole[5].theta)
    alone = METHODS["bi-ac"](Setting(tb.Episodes(2)))
    other = list(islice(tb.ascend(GAME, NOW, **{**climb, "method": alone}), 6))
    assert np.abs(other[5].theta - whole[5].theta).max() > 0.0


def test_steps_that_are_no_longer_there_are_named():
    walks = tb.Interaction(tb.Episodes(1), replay=1)
    memory = dict(walks.gather(GAME, NOW, rng=0).memory)
    memory[STEPS] = memory[STEPS] + np.array([0, 1, 0])
    with pytest.raises(ValueError, match=r"step 0 of what is replayed, from .* its transitions"):
        walks.gather(GAME, NOW, rng=0, memory=memory)
    kept = dict(walks.gather(GAME, NOW, rng=0).memory)
    for name, change, message in (
        (TRAJECTORIES, lambda x: (), r"^memory.replayed_trajectories has shape \(0,\)"),
        (TRAJECTORIES, lambda x: x - 1, "lengths that do not add up"),
        (STEPS, lambda x: x[1:], "lengths that do not add up"),
        (STEPS, lambda x: x.ravel(), r"^memory.replayed_steps has shape"),
        (STEPS, lambda x: x * np.inf, r"^memory.replayed_steps\[0, 0\] is (nan|inf)"),
        (STEPS, lambda x: x + 0.5, r"^memory.replayed_steps\[0, 0\] is .*5, no whole number"),
        (STEPS, lambda x: x + 10**6, "its transitions"),
        (STEPS, lambda x: 0 * x - 1, "its transitions"),
    ):
        changed = {**kept, name: change(kept[name])}
        each_refused((partial(walks.gather, GAME, NOW, rng=0, memory=changed), message))
    two = tb.problems.two_state(), tb.problems.bandit()
    seen = iter(two)

    class Moving:
        def model(self, theta):
            return next(seen).model(theta)

        def pullback(self, theta, sensitivities):
            raise NotImplementedError

    game, none = tb.problems.bilevel_lqr(), [0.0, 0.0]
    of_game = tb.Interaction(tb.Episodes(1, 5), replay=1)
    each_refused(
        (lambda: walks.replayed(Moving(), none, [[1.0, 1.0]]), "no step is replayed"),
        (lambda: walks.replayed(GAME, NOW, None), "before is None, not a sequence"),
        (lambda: walks.replayed(game, none, [none]), "is a Linear.*: this is for tables only"),
        (lambda: tb.Interaction(replay=0), "replay is 0, not a positive whole number"),
        (lambda: tb.BiLevelActorCritic(replay=-1), "replay is -1"),
        (lambda: of_game.gather(game, none, rng=0), "tables"),
    )
