"""What is called something else now is found by its old name, with a warning."""

import numpy as np
import pytest

import tabular_bilevel as tb

PROBLEM = tb.problems.two_state()


@pytest.mark.parametrize(("old", "new"), [("Step", tb.Iteration), ("Steps", tb.StepBudget)])
def test_old_names_of_classes(old, new):
    with pytest.warns(DeprecationWarning, match=f"^{old} of tabular_bilevel is called "):
        assert getattr(tb, old) is new
    assert old not in tb.__all__


def test_the_old_name_of_the_number_of_iterations():
    climb = (PROBLEM, np.zeros(2), tb.ExactGradient(), tb.Adam())
    with pytest.warns(DeprecationWarning, match=r"^n_steps of ascend\(\) is called n_iterations"):
        first = list(tb.ascend(*climb, rng=0, n_steps=3))
    assert len(first) == 3
    state = first[-1].state
    with pytest.warns(DeprecationWarning, match=r"^n_steps of resume\(\) is called n_iterations"):
        assert len(list(tb.resume(PROBLEM, state, *climb[2:], n_steps=5))) == 2
    with pytest.raises(TypeError, match=r"^ascend\(\) got both 'n_steps' and 'n_iterations'"):
        tb.ascend(*climb, rng=0, n_steps=3, n_iterations=3)


def test_the_old_name_of_a_map():
    told = r"^path_or_text of grid_world\(\) is called layout"
    with pytest.warns(DeprecationWarning, match=told):
        problem = tb.problems.grid_world(path_or_text="type octile\nheight 1\nwidth 2\nmap\n..\n")
    assert problem.n_parameters == 2


def test_old_names_of_methods():
    model = PROBLEM.model(np.zeros(2))
    rewards = model.follower_reward, 2.0 * model.leader_reward
    with pytest.warns(DeprecationWarning, match="^with_own_rewards is called with_rewards now"):
        found = model.with_own_rewards(*rewards)
    np.testing.assert_array_equal(found.leader_reward, rewards[1])
    with (
        pytest.warns(DeprecationWarning, match="^sampled is called traced now"),
        pytest.raises(TypeError, match=r"traced\(\) missing"),
    ):
        tb.Estimate.sampled()


def test_other_names_are_unknown():
    with pytest.raises(AttributeError, match=r"^module 'tabular_bilevel' has no attribute 'Stepp'"):
        _ = tb.Stepp


def test_a_setting_without_use_is_taken_with_a_warning():
    told = r"^to_rounding of PolicyIteration\(\) has no use any more"
    with pytest.warns(DeprecationWarning, match=told):
        assert tb.PolicyIteration(tolerance=1e-6, to_rounding=False) == tb.PolicyIteration(
            tolerance=1e-6
        )
    with pytest.raises(TypeError, match="unexpected keyword argument 'to_roundin'"):
        tb.PolicyIteration(to_roundin=True)
    assert "to_rounding" not in repr(tb.PolicyIteration())
