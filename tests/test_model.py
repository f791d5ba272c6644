"""What `Model.from_tables` accepts, what it makes of it, and every message of a refusal."""

import dataclasses
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import scipy.sparse as sp
from small import put, refusal

import tabular_bilevel as tb

STATES, ACTIONS = 4, 2

# Rows of the base kernel are multiples of 1/8: exact in every float type, and their sums too.
KERNEL = np.array(
    [
        [[0.5, 0.25, 0.25, 0.0], [0.0, 1.0, 0.0, 0.0]],
        [[0.125, 0.125, 0.25, 0.5], [0.0, 0.5, 0.5, 0.0]],
        [[0.0, 0.0, 0.0, 1.0], [0.25, 0.25, 0.25, 0.25]],
        [[0.5, 0.0, 0.0, 0.5], [0.0, 0.125, 0.0, 0.875]],
    ]
)
FOLLOWER = np.array([[1.0, 0.0], [0.5, -2.0], [0.0, 0.0], [3.0, 1.5]])
LEADER = np.array([[0.0, 1.0], [2.0, 0.0], [-1.0, 0.25], [0.0, 4.0]])
NO_ENDS, ALL = np.zeros((STATES, ACTIONS)), np.ones((STATES, ACTIONS), bool)


def tables(**changes):
    return {
        "transition": KERNEL.copy(),
        "follower_reward": FOLLOWER.copy(),
        "leader_reward": LEADER.copy(),
        "initial": np.array([0.5, 0.25, 0.25, 0.0]),
        "follower_discount": 0.9,
        "leader_discount": 0.8,
        "temperature": 0.5,
        **changes,
    }


def build(**changes):
    return tb.Model.from_tables(**tables(**changes))


def flat(kernel=KERNEL):
    return kernel.reshape(STATES * ACTIONS, STATES)


def arrays_of(model):
    kernel = model.transition
    return {
        "data": kernel.data,
        "indices": kernel.indices,
        "indptr": kernel.indptr,
        "follower_reward": model.follower_reward,
        "leader_reward": model.leader_reward,
        "initial": model.initial,
        "termination": model.termination,
        "available": model.available,
    }


def assert_same(model, other):
    for name, array in arrays_of(model).items():
        np.testing.assert_array_equal(array, arrays_of(other)[name], err_msg=name)
    for name in ("follower_discount", "leader_discount", "temperature"):
        assert getattr(model, name) == getattr(other, name)


# ---------------------------------------------------------------- what is accepted


def test_tables_are_kept_as_given():
    model = build()
    assert (model.n_states, model.n_actions) == (STATES, ACTIONS)
    np.testing.assert_array_equal(model.transition.toarray(), flat())
    np.testing.assert_array_equal(model.follower_reward, FOLLOWER)
    np.testing.assert_array_equal(model.leader_reward, LEADER)
    np.testing.assert_array_equal(model.initial, [0.5, 0.25, 0.25, 0.0])
    np.testing.assert_array_equal(model.termination, NO_ENDS)
    assert model.available.all()
    assert (model.follower_discount, model.leader_discount, model.temperature) == (0.9, 0.8, 0.5)
    np.testing.assert_array_equal(model.row_mass, ALL)
    value = np.arange(4.0)
    np.testing.assert_array_equal(model.next_value(value), KERNEL @ value)
    np.testing.assert_array_equal(model.arrivals(FOLLOWER), FOLLOWER.ravel() @ flat())
    np.testing.assert_array_equal(
        model.entry_row, np.repeat(np.arange(8), (flat() > 0.0).sum(axis=1))
    )


def test_a_model_says_its_sizes():
    assert str(build()) == (
        "Model: 4 states, 2 actions, 19 transitions, follower discount 0.9, leader discount 0.8, "
        "temperature 0.5"
    )


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr", "dia", "lil", "dok"])
@pytest.mark.parametrize("kind", ["array", "matrix"])
def test_sparse_and_dense_kernels_agree(form, kind):
    given = getattr(sp, f"{form}_{kind}")(flat())
    model = build(transition=given)
    np.testing.assert_array_equal(model.transition.toarray(), flat())
    assert isinstance(model.transition, sp.csr_array)
    if form not in ("bsr", "dia"):  # these store zeros of their own
        assert_same(model, build())


def test_lists_and_fortran_order_agree():
    lists = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in tables().items()}
    assert_same(tb.Model.from_tables(**lists), build())
    turned = {k: np.asfortranarray(v) for k, v in tables().items() if np.ndim(v) > 0}
    assert_same(build(**turned), build())


@pytest.mark.parametrize("dtype", ["float16", "float32", ">f8"])
def test_other_floats_become_float64(dtype):
    cast = {k: v.astype(dtype) for k, v in tables().items() if np.ndim(v) > 0}
    model = build(**cast)
    assert_same(model, build())
    assert all(
        array.dtype == np.float64
        for name, array in arrays_of(model).items()
        if name not in ("indices", "indptr", "available")
    )


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint8"])
def test_integers_become_float64(dtype):
    stay = np.repeat(np.eye(STATES)[:, None], ACTIONS, axis=1)
    reward = np.arange(8).reshape(STATES, ACTIONS)
    whole = {
        "transition": stay,
        "follower_reward": reward,
        "leader_reward": 2 * reward,
        "initial": np.eye(STATES)[1],
        "termination": NO_ENDS,
    }
    model = build(**{k: v.astype(dtype) for k, v in whole.items()})
    assert_same(model, build(**{k: v.astype(float) for k, v in whole.items()}))
    assert_same(model, build(**whole | {"transition": sp.csr_array(flat(stay).astype(dtype))}))


@pytest.mark.parametrize("number", [0, np.float32(0.5), np.array(0.5), np.int64(0)])
def test_scalars_of_any_real_kind_become_floats(number):
    model = build(follower_discount=number, leader_discount=number, temperature=number + 1)
    for value in (model.follower_discount, model.leader_discount, model.temperature - 1.0):
        assert type(value) is float
        assert value == float(number)


def test_rows_are_not_renormalised():
    # within the tolerance that nine typed digits need
    row = [0.333333333, 0.333333333, 0.333333334 - 5e-10, 0.0]
    model = build(transition=put(KERNEL, (0, 0), row))
    np.testing.assert_array_equal(model.transition.toarray()[0], row)
    assert model.row_mass[0, 0] != 1.0


def test_arrays_are_read_only():
    model = build()
    for name, array in arrays_of(model).items():
        assert not array.flags.writeable, name
    for array in (model.row_mass, model.entry_row):
        assert not array.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        model.follower_reward[0, 0] = 1.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.temperature = 1.0


@pytest.mark.parametrize("transition", [KERNEL.copy(), sp.csr_array(flat()), sp.coo_array(flat())])
def test_a_model_shares_no_memory_with_its_arguments(transition):
    given = tables(transition=transition, termination=NO_ENDS.copy(), available=ALL.copy())
    model = tb.Model.from_tables(**given)
    sources = [v for v in given.values() if isinstance(v, np.ndarray)]
    if sp.issparse(transition):
        parts = ("data", "indices", "indptr", "row", "col")
        sources += [getattr(transition, part) for part in parts if hasattr(transition, part)]
    for name, array in arrays_of(model).items():
        assert not any(np.shares_memory(array, source) for source in sources), name
    assert all(source.flags.writeable for source in sources)


def test_arguments_are_not_changed():
    given = tables(
        transition=put(KERNEL, (0, 1), np.nan),
        follower_reward=put(FOLLOWER, (1, 1), -np.inf),
        leader_reward=put(LEADER, (0, 1), np.nan),
        termination=put(NO_ENDS, (0, 1), np.nan),
        available=put(ALL, (0, 1), 0) > 0,
    )
    before = {k: np.array(v) for k, v in given.items()}
    tb.Model.from_tables(**given)
    for name, array in before.items():
        np.testing.assert_array_equal(given[name], array)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf, -3.0, 7.0])
def test_whatever_stands_at_unavailable_actions_is_ignored(junk, sparse):
    mask = ALL.copy()
    mask[0, 1] = mask[3, 0] = False
    clean = np.where(mask[:, :, None], KERNEL, 0.0)
    dirty = np.where(mask[:, :, None], KERNEL, junk)
    model = build(
        transition=sp.csr_array(flat(dirty)) if sparse else dirty,
        follower_reward=np.where(mask, FOLLOWER, junk),
        leader_reward=np.where(mask, LEADER, junk),
        termination=np.where(mask, 0.0, junk),
        available=mask,
    )
    np.testing.assert_array_equal(model.available, mask)
    np.testing.assert_array_equal(model.transition.toarray(), flat(clean))
    np.testing.assert_array_equal(model.follower_reward, np.where(mask, FOLLOWER, 0.0))
    np.testing.assert_array_equal(model.leader_reward, np.where(mask, LEADER, 0.0))
    np.testing.assert_array_equal(model.termination, np.where(mask, 0.0, 1.0))
    policy = tb.solve_follower(model).policy
    assert (policy[~mask] == 0.0).all()
    np.testing.assert_array_equal(
        policy, tb.solve_follower(build(transition=clean, available=mask)).policy
    )


def test_minus_infinity_forbids_an_action():
    mask = ALL.copy()
    mask[1, 0] = mask[2, 1] = False
    forbidden = build(follower_reward=np.where(mask, FOLLOWER, -np.inf))
    cleared = build(transition=np.where(mask[:, :, None], KERNEL, 0.0), available=mask)
    np.testing.assert_array_equal(forbidden.available, mask)
    np.testing.assert_array_equal(forbidden.transition.toarray(), cleared.transition.toarray())
    np.testing.assert_array_equal(forbidden.follower_reward, cleared.follower_reward)


def test_an_action_needs_both_the_mask_and_a_finite_reward():
    mask = put(ALL, (0, 0), 0) > 0
    model = build(follower_reward=put(FOLLOWER, (1, 1), -np.inf), available=mask)
    assert np.argwhere(~model.available).tolist() == [[0, 0], [1, 1]]


def test_rows_and_termination_add_up_to_one():
    ends = put(put(NO_ENDS, (0, 0), 0.25), 3, 1.0)
    given = KERNEL * (1.0 - ends)[:, :, None]
    model = build(transition=given, termination=ends)
    np.testing.assert_array_equal(model.termination, ends)
    np.testing.assert_array_equal(model.row_mass, 1.0 - ends)


def test_a_model_may_end_everywhere_at_once():
    model = build(transition=sp.csr_array((STATES * ACTIONS, STATES)), termination=ALL * 1.0)
    assert model.transition.nnz == 0
    response = tb.solve_follower(model)
    best = FOLLOWER.max(axis=1)
    gaps = np.exp((FOLLOWER - best[:, None]) / 0.5).sum(axis=1)
    # a logarithm and two products
    np.testing.assert_allclose(response.value, best + 0.5 * np.log(gaps), rtol=1e-14)


def test_replace_changes_what_it_is_told():
    model = build(follower_reward=put(FOLLOWER, (1, 1), -np.inf))
    assert_same(model.replace(), model)
    warmer = model.replace(temperature=2.0, initial=[0.0, 0.0, 0.0, 1.0])
    assert warmer.temperature == 2.0
    np.testing.assert_array_equal(warmer.initial, [0.0, 0.0, 0.0, 1.0])
    np.testing.assert_array_equal(warmer.available, model.available)
    assert model.temperature == 0.5


def test_replace_checks_as_from_tables_does():
    assert refusal(build().replace, initial=[1.0, 1.0, 0.0, 0.0]) == "initial sums to 2, not 1"
    with pytest.raises(TypeError, match="reward_of_nobody"):
        build().replace(reward_of_nobody=0.0)


def test_with_rewards_keeps_the_rest():
    model = build(follower_reward=put(FOLLOWER, (1, 1), -np.inf))
    given = put(LEADER, (1, 1), np.nan)
    other = model.with_rewards(given, 2.0 * given)
    assert other.transition is model.transition
    np.testing.assert_array_equal(other.available, model.available)
    np.testing.assert_array_equal(other.follower_reward, put(LEADER, (1, 1), 0.0))
    np.testing.assert_array_equal(other.leader_reward, put(2.0 * LEADER, (1, 1), 0.0))
    for array in (other.follower_reward, other.leader_reward):
        assert not array.flags.writeable
        assert not np.shares_memory(array, given)


def test_with_rewards_refuses():
    for name, table, words in (
        ("follower_reward", FOLLOWER[:1], " has shape (1, 2), not (4, 2)"),
        ("leader_reward", LEADER[0], " has shape (2,), not (4, 2)"),
        ("follower_reward", put(FOLLOWER, (2, 1), np.nan), "[2, 1] is nan, not a finite number"),
        ("follower_reward", put(FOLLOWER, (2, 1), -np.inf), "[2, 1] is -inf, not a finite number"),
        ("leader_reward", put(LEADER, (3, 0), np.inf), "[3, 0] is inf, not a finite number"),
        ("leader_reward", LEADER.astype(str), " has dtype <U32; real numbers are needed"),
    ):
        rewards = {"follower_reward": FOLLOWER, "leader_reward": LEADER, name: table}
        assert refusal(build().with_rewards, *rewards.values()) == name + words


# ---------------------------------------------------------------- what is refused


def hidden(*halves):
    """The base kernel as CSR, its entry [1, 1, 2] = 0.5 made of several stored ones."""
    whole = sp.coo_array(flat())
    (rows, columns), data = whole.coords, whole.data
    place = np.flatnonzero((rows == 3) & (columns == 2))[0]
    rows = np.concatenate([np.delete(rows, place), [3] * len(halves)])
    columns = np.concatenate([np.delete(columns, place), [2] * len(halves)])
    data = np.concatenate([np.delete(data, place), halves])
    order = np.argsort(rows, kind="stable")
    indptr = np.searchsorted(rows[order], np.arange(9))
    return sp.csr_array((data[order], columns[order], indptr), shape=flat().shape)


def test_hidden_makes_what_it_says():
    np.testing.assert_array_equal(hidden(0.25, 0.25).toarray(), flat())
    assert hidden(1.5, -1.0).nnz == hidden(0.5).nnz + 1


RAGGED = [[1.0, 0.0], [1.0]]


SHORT, NEGATIVE = put(KERNEL, (3, 1), [0.2] * 4), put(KERNEL, (0, 1), [-0.5, 1.5, 0.0, 0.0])
NO_NUMBER = put(KERNEL, (2, 1, 3), np.nan)
ROWS = "not (8, 4) (one row a state and action)"

# A table, what is wrong with it, and what the message says after its name.
BAD_TABLES = [
    ("transition", SHORT, "[3, 1] sums to 0.8, not 1"),
    ("transition", put(KERNEL, (0, 0, 3), 0.25), "[0, 0] sums to 1.25, not 1"),
    ("transition", put(KERNEL, (2, 0), 0.0), "[2, 0] sums to 0, not 1"),
    ("transition", put(KERNEL, (2, 0, 3), 1.0 + 2e-9), "[2, 0] sums to 1.000000002, not 1"),
    ("transition", put(KERNEL, (slice(1, 3), 1), 0.0), "[1, 1] sums to 0, not 1"),
    ("transition", sp.csr_array(flat(SHORT)), "[3, 1] sums to 0.8, not 1"),
    ("transition", NEGATIVE, "[0, 1, 0] is -0.5, not a probability"),
    ("transition", NO_NUMBER, "[2, 1, 3] is nan, not a probability"),
    ("transition", put(KERNEL, (2, 1, 3), np.inf), "[2, 1, 3] is inf, not a probability"),
    ("transition", sp.csr_array(flat(NEGATIVE)), "[0, 1, 0] is -0.5, not a probability"),
    ("transition", sp.csc_array(flat(NO_NUMBER)), "[2, 1, 3] is nan, not a probability"),
    ("transition", hidden(1.5, -1.0), "[1, 1, 2] is -1.0, not a probability"),
    ("transition", sp.coo_array(hidden(1.5, -1.0)), "[1, 1, 2] is -1.0, not a probability"),
    ("follower_reward", put(FOLLOWER, (3, 0), np.nan), "[3, 0] is nan, not a finite number"),
    ("follower_reward", put(FOLLOWER, (3, 0), np.inf), "[3, 0] is inf, not a finite number"),
    ("leader_reward", put(LEADER, (0, 1), np.nan), "[0, 1] is nan, not a finite number"),
    ("leader_reward", put(LEADER, (0, 1), np.inf), "[0, 1] is inf, not a finite number"),
    ("leader_reward", put(LEADER, (0, 1), -np.inf), "[0, 1] is -inf, not a finite number"),
    ("initial", [0.5, 0.4, 0.0, 0.0], " sums to 0.9, not 1"),
    ("initial", [0.5, 0.6, 0.0, 0.0], " sums to 1.1, not 1"),
    ("initial", [1.5, 0.0, -0.5, 0.0], "[2] is -0.5, not a probability"),
    ("initial", [1.0, 0.0, np.nan, 0.0], "[2] is nan, not a probability"),
    ("termination", put(NO_ENDS, (1, 0), 1.5), "[1, 0] is 1.5, larger than 1"),
    ("termination", put(NO_ENDS, (1, 0), -0.25), "[1, 0] is -0.25, not a probability"),
    ("termination", put(NO_ENDS, (1, 0), np.nan), "[1, 0] is nan, not a probability"),
    ("transition", KERNEL[:3], " has shape (3, 2, 4), not (4, 2, 4)"),
    ("transition", KERNEL[:, :, :3], " has shape (4, 2, 3), not (4, 2, 4)"),
    ("transition", flat(), " has shape (8, 4), not (4, 2, 4)"),
    ("transition", sp.csr_array(KERNEL[:, 0]), f" has shape (4, 4), {ROWS}"),
    ("transition", sp.csr_array(flat()).T, f" has shape (4, 8), {ROWS}"),
    ("transition", sp.coo_array(KERNEL), f" has shape (4, 2, 4), {ROWS}"),
    ("follower_reward", FOLLOWER[:, 0], " has shape (4,), not (1+, 1+)"),
    ("leader_reward", LEADER[:2], " has shape (2, 2), not (4, 2)"),
    ("leader_reward", LEADER[:, 0], " has shape (4,), not (4, 2)"),
    ("initial", [1.0], " has shape (1,), not (4,)"),
    ("initial", 0, " has shape (), not (4,)"),
    ("initial", [[1.0, 0.0, 0.0, 0.0]], " has shape (1, 4), not (4,)"),
    ("termination", np.zeros(4), " has shape (4,), not (4, 2)"),
    ("available", ALL[:, :1], " has shape (4, 1), not (4, 2)"),
    ("follower_reward", np.zeros((0, 2)), " has shape (0, 2), not (1+, 1+)"),
    ("follower_reward", np.zeros((4, 0)), " has shape (4, 0), not (1+, 1+)"),
    ("follower_reward", [], " has shape (0,), not (1+, 1+)"),
]

QUARTER, LARGE = put(NO_ENDS, (1, 0), 0.25), put(KERNEL, (2, 0, 3), 1.0 + 5e-10)
SUM = "times the largest row sum of transition is 1.0000000004, not below 1"

REFUSED = [
    *(({name: bad}, name + words) for name, bad, words in BAD_TABLES),
    ({"termination": QUARTER}, "transition[1, 0] sums to 1, not 1 - termination = 0.75"),
    (
        {"transition": put(KERNEL, (1, 0), [0.5, 0.0, 0.0, 0.0]), "termination": QUARTER},
        "transition[1, 0] sums to 0.5, not 1 - termination = 0.75",
    ),
    (
        {"termination": put(NO_ENDS, (3, 1), 1.0)},
        "transition[3, 1] sums to 1, not 1 - termination = 0",
    ),
    ({"transition": LARGE, "follower_discount": 1.0 - 1e-10}, f"follower_discount {SUM}"),
    ({"transition": LARGE, "leader_discount": 1.0 - 1e-10}, f"leader_discount {SUM}"),
    (
        {"termination": put(NO_ENDS, (1, 0), 1.0 + 1e-11), "transition": put(KERNEL, (1, 0), 0.0)},
        "termination[1, 0] is 1.00000000001, larger than 1",
    ),
    ({"available": ALL & (np.arange(4) != 2)[:, None]}, "state 2 has no available action"),
    ({"follower_reward": put(FOLLOWER, 1, -np.inf)}, "state 1 has no available action"),
    (
        {"follower_reward": put(FOLLOWER, (1, 0), -np.inf), "available": put(ALL, (1, 1), 0) > 0},
        "state 1 has no available action",
    ),
    ({"follower_reward": np.zeros((4, 3))}, "transition has shape (4, 2, 4), not (4, 3, 4)"),
]

TABLES = {
    "transition": KERNEL,
    "follower_reward": FOLLOWER,
    "leader_reward": LEADER,
    "initial": np.array([1.0, 0.0, 0.0, 0.0]),
    "termination": NO_ENDS,
}
REAL = "; real numbers are needed"
KINDS = [
    ({name: table.astype(dtype)}, f"{name} has dtype {spelling}{REAL}")
    for name, table in TABLES.items()
    for dtype, spelling in ((complex, "complex128"), (bool, "bool"), (str, "<U32"), ("O", "object"))
]
KINDS += [({name: RAGGED}, f"{name} is not a rectangular array of numbers") for name in TABLES]
KINDS += [({n: None}, f"{n} has dtype object{REAL}") for n in TABLES if n != "termination"]
LONG = np.dtype(np.longdouble)
if LONG.itemsize > 8:
    KINDS += [
        ({name: table.astype(LONG)}, f"{name} has dtype {LONG}, which float64 cannot hold")
        for name, table in TABLES.items()
    ]
KINDS += [
    ({name: table}, f"{name} has dtype {words} are needed")
    for name, table, words in (
        ("transition", sp.csr_array(flat().astype(complex)), "complex128; real numbers"),
        ("transition", sp.csr_array(flat() > 0.0), "bool; real numbers"),
        ("follower_reward", sp.csr_array(FOLLOWER), "object; real numbers"),
        ("available", ALL.astype(float), "float64; booleans"),
        ("available", ALL.astype(np.int64), "int64; booleans"),
        ("available", [["yes", "no"]] * 4, "<U3; booleans"),
    )
]

NO_PATH = "no path of available actions leads to one whose termination is above 0"
SCALARS = [
    ({name: value}, f"{name} {words}")
    for name, cases in {
        "follower_discount": [
            (1.0, "is 1.0, not in [0, 1)"),
            (1, "is 1.0, not in [0, 1)"),
            (-0.1, "is -0.1, not in [0, 1)"),
            (np.nan, "is nan, not in [0, 1)"),
            (np.inf, "is inf, not in [0, 1)"),
            ("0.9", f"has dtype <U3{REAL}"),
            ([0.9], "has shape (1,); one number is needed"),
            (None, f"has dtype object{REAL}"),
            (True, f"has dtype bool{REAL}"),
            (0.9j, f"has dtype complex128{REAL}"),
        ],
        "leader_discount": [
            (1.0, f"is 1, and from state 0 the episode never ends: {NO_PATH}"),
            (1.5, "is 1.5, not in [0, 1]"),
            (-0.1, "is -0.1, not in [0, 1]"),
            (np.nan, "is nan, not in [0, 1]"),
            ([0.9, 0.8], "has shape (2,); one number is needed"),
        ],
        "temperature": [
            (0, "is 0.0, not a positive finite number"),
            (-0.0, "is -0.0, not a positive finite number"),
            (-1, "is -1.0, not a positive finite number"),
            (np.inf, "is inf, not a positive finite number"),
            (np.nan, "is nan, not a positive finite number"),
            ([1.0], "has shape (1,); one number is needed"),
            ("hot", f"has dtype <U3{REAL}"),
            (None, f"has dtype object{REAL}"),
        ],
    }.items()
    for value, words in cases
]


@pytest.mark.parametrize(("changes", "message"), [*REFUSED, *KINDS, *SCALARS])
def test_bad_tables_are_refused_by_name_and_number(changes, message):
    assert refusal(build, **changes) == message


@pytest.mark.parametrize("name", ["available", "follower_discount", "temperature"])
def test_ragged_lists_are_refused_by_name(name):
    assert refusal(build, **{name: RAGGED}).startswith(f"{name} ")


def test_junk_at_available_actions_is_not_ignored():
    mask = put(ALL, (0, 1), 0) > 0
    found = refusal(build, transition=put(KERNEL, (0, 0, 2), np.nan), available=mask)
    assert found.startswith("transition[0, 0, 2] is nan")


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_rows_normalised_in_a_smaller_dtype_are_distributions(dtype):
    rng = np.random.default_rng(0)
    weights = rng.random((6, 2, 6)).astype(dtype)
    kernel = weights / weights.sum(axis=2, keepdims=True)
    start = (weights[0, 0] / weights[0, 0].sum()).astype(dtype)
    still = np.zeros((6, 2))
    make = partial(build, follower_reward=still, leader_reward=still, initial=start)
    assert abs(make(transition=kernel).row_mass - 1.0).max() > 1e-9  # stored as given
    for other in (kernel.astype(float), kernel * dtype(0.95)):
        assert "sums to" in refusal(make, transition=other)


# ---------------------------------------------------------------- normalised tables


def exact_rows(table, sums):
    """Exact P / sum P * wanted sum, as floats rounded once."""
    rows = []
    for row, wanted in zip(table, sums, strict=True):
        exact = [Fraction(p) for p in row]
        rows.append([float(p * wanted / sum(exact)) for p in exact])
    return np.array(rows)


@pytest.mark.parametrize("off", [0.0, 1e-16, 1e-12, -4e-10])
def test_normalised_tables_are_exact_quotients_rounded_once(off):
    rng = np.random.default_rng(0)
    table = rng.dirichlet(np.ones(5), size=(3, 2)) * (1.0 + off)
    scaled = tb.normalised(table)
    np.testing.assert_array_equal(scaled.reshape(6, 5), exact_rows(table.reshape(6, 5), [1] * 6))
    sums = [abs(sum(map(Fraction, row)) - 1) for row in scaled.reshape(6, 5)]
    assert max(sums) <= Fraction(5, 2**54)
    np.testing.assert_array_equal(tb.normalised(table[0, 0]), scaled[0, 0])


def test_normalised_rows_keep_what_may_end_and_drop_what_is_unavailable():
    mask, ends = ALL.copy(), np.full((STATES, ACTIONS), 0.3)
    mask[0, 1] = False
    table = np.where(mask[..., None], KERNEL * 0.7, np.nan)
    scaled = tb.normalised(table, available=mask, termination=ends)
    wanted = exact_rows(flat(KERNEL * 0.7), [1 - Fraction(0.3)] * 8)
    np.testing.assert_array_equal(flat(scaled)[mask.ravel()], wanted[mask.ravel()])
    assert (scaled[0, 1] == 0.0).all()
    model = build(transition=scaled, available=mask, termination=ends)
    assert model.available.sum() == 7


def test_normalised_sparse_tables_keep_their_zeros_and_the_argument():
    given = hidden(0.5 + 1e-12, 0.0)
    before = given.data.copy()
    scaled = tb.normalised(given)
    assert isinstance(scaled, sp.csr_array)
    assert scaled.nnz == given.nnz - 1  # the duplicate
    np.testing.assert_array_equal(given.data, before)
    assert build(transition=given).row_mass[1, 1] > 1.0
    assert build(transition=scaled).row_mass[1, 1] == 1.0


def test_normalised_refuses_what_is_wrong_and_not_just_rounded():
    for table, message in (
        (0.5, "table has shape (), not that of distributions along an axis"),
        ([0.5, 0.4], "table sums to 0.9, not 1"),
        ([[1.0, 0.0], [0.0, 0.0]], "table[1] sums to 0, not 1"),
        ([1.5, -0.5], "table[1] is -0.5, not a probability"),
        (hidden(1.5, -1.0), "table[3, 2] is -1.0, not a probability"),
        (KERNEL.astype(bool), "table has dtype bool; real numbers are needed"),
    ):
        assert refusal(tb.normalised, table) == message


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_normalised_rows_of_a_smaller_dtype_pass_for_float64(dtype):
    weights = np.random.default_rng(0).random((12, 6)).astype(dtype)
    kernel = weights / weights.sum(axis=1, keepdims=True)
    scaled = tb.normalised(kernel)
    assert scaled.dtype == np.float64
    np.testing.assert_array_equal(scaled, exact_rows(kernel.astype(float), [1] * 12))


# ---------------------------------------------------------------- what numpy and scipy let pass


@pytest.mark.parametrize("name", TABLES)
def test_masked_entries_are_refused_and_not_unmasked(name):
    table = TABLES[name]
    masked = np.ma.masked_array(table, mask=np.zeros(table.shape, bool))
    build(**{name: masked})
    masked[(0,) * table.ndim] = np.ma.masked
    place = ", ".join("0" * table.ndim)
    assert f"{name}[{place}] is masked" in refusal(build, **{name: masked})
    assert "temperature is masked" in refusal(build, temperature=np.ma.masked)


def damaged(form, part, change):
    """The base kernel with its index arrays changed behind scipy's back."""
    matrix = getattr(sp, f"{form}_array")(flat())
    array = getattr(matrix, part).copy()
    setattr(matrix, part, change(array).astype(array.dtype))
    return matrix


UNSOUND = [
    (damaged("csr", "indices", lambda x: put(x, 3, -1)), "negative axis 1 index: -1"),
    (damaged("csr", "indices", lambda x: put(x, 0, 4)), "index 4 exceeds"),
    (damaged("csc", "indices", lambda x: put(x, 0, -2)), "negative axis 0 index: -2"),
    (damaged("coo", "row", lambda x: put(x, 0, 8)), "index 8 exceeds"),
    (damaged("csr", "indptr", lambda x: put(x, 3, 0)), "indptr that does not rise"),
    (damaged("csr", "indptr", lambda x: put(x, 3, 999)), "indptr that does not"),
    (damaged("csr", "indptr", lambda x: put(x, 0, 1)), "indptr that does not"),
    (damaged("csr", "indices", lambda x: x[:-1]), "indptr that does not"),
    (damaged("csr", "indptr", lambda x: put(x, -1, 17)), "indptr that does not"),
    (damaged("csr", "data", lambda x: x[:-1]), "same length"),
]


@pytest.mark.parametrize(("matrix", "message"), UNSOUND)
def test_damaged_sparse_matrices_are_refused(matrix, message):
    with pytest.raises(ValueError, match=f"^transition .*{message}"):
        build(transition=matrix)


def test_whole_numbers_that_float64_skips_are_refused():
    largest = 2**53
    assert build(leader_reward=np.full((4, 2), largest)).leader_reward[0, 0] == largest
    for number in (largest + 1, -largest - 1):
        found = refusal(build, leader_reward=[[0, 0], [0, 0], [0, number], [0, 0]])
        assert f"leader_reward[2, 1] is {number}, beyond" in found
    unsigned = np.full((4, 2), 2**64 - 1, dtype=np.uint64)
    assert "beyond the whole numbers that float64 holds" in refusal(build, leader_reward=unsigned)
