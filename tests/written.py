"""One problem, with features, and the same written in JAX and in PyTorch."""

from functools import cache
from types import SimpleNamespace

import numpy as np
from small import FORBIDDEN

import tabular_bilevel as tb

GARNET = tb.problems.garnet(n_states=6, n_actions=3, n_parameters=4, rng=2)
THETA = np.array([0.3, -0.2, 0.1, 0.4])
EXACT = tb.hypergradient(GARNET, THETA)

TABLES = ("transition", "follower_reward", "leader_reward", "initial")
FEATURES = {name: getattr(GARNET, name).toarray() for name in TABLES}

# An action that is forbidden, and an entry that is 0 at theta[0] = 0.
KERNEL = np.array([[[1.0, 0.0], [0.5, 0.5]], [[0.3, 0.7], [np.nan, np.nan]]])
MOVES = np.array([[[-1.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
REWARD = np.array([[0.0, 0.2], [1.0, -np.inf]])
PAID = np.array([[1.0, 0.0], [0.0, 2.0]])


@cache
def in_jax():
    """What tests of problems in JAX need: its tables whole or entry by entry, and wrong ones."""
    import jax
    import jax.numpy as jnp

    from tabular_bilevel.adapters.jax import JaxProblem

    base, kernel, row = GARNET.base, GARNET.base.transition, GARNET.base.entry_row
    shape = base.follower_reward.shape
    dense = np.zeros((*kernel.shape, 4))
    dense[row, kernel.indices] = FEATURES["transition"]
    same_row = (row[:, None] == row).astype(float)

    def tables(theta, whole):
        if whole:
            weights = kernel.toarray() * jnp.exp(dense @ theta)
            transition = weights / weights.sum(axis=1, keepdims=True)
            transition = transition.reshape(*shape, kernel.shape[1])
        else:
            weights = kernel.data * jnp.exp(FEATURES["transition"] @ theta)
            transition = weights / (same_row @ weights)
        rewards = {
            name: getattr(base, name) + (FEATURES[name] @ theta).reshape(shape)
            for name in ("follower_reward", "leader_reward")
        }
        initial = jax.nn.softmax(jnp.log(base.initial) + FEATURES["initial"] @ theta)
        return {"transition": transition, "initial": initial, **rewards}

    def bent(table, factors):
        @jax.custom_vjp
        def identity(table):
            return table

        identity.defvjp(lambda table: (table, None), lambda _, slopes: (slopes * factors,))
        return identity(table)

    def forbidden_and_zero(theta):
        return {
            "transition": jnp.array(KERNEL) + jnp.array(MOVES) * theta[0],
            "follower_reward": jnp.array(REWARD) + theta[1] * jnp.array(PAID),
        }

    return SimpleNamespace(
        Problem=JaxProblem,
        whole=JaxProblem(base, lambda theta: tables(theta, True), 4),
        entries=JaxProblem(base, lambda theta: tables(theta, False), 4),
        stopped=jax.lax.stop_gradient,
        bent=bent,
        forbidden_and_zero=JaxProblem(FORBIDDEN, forbidden_and_zero, 2),
        coarse=lambda theta: theta.astype(jnp.float32),
        float32="float32",
    )


@cache
def in_torch():
    """Make the same in PyTorch."""
    import torch

    from tabular_bilevel.adapters.torch import TorchProblem

    base = GARNET.base
    shape, (n_pairs, n_states) = base.follower_reward.shape, base.transition.shape
    row, column = (torch.tensor(a).long() for a in (base.entry_row, base.transition.indices))
    kernel, initial = torch.tensor(base.transition.data), torch.tensor(base.initial)
    rewards = {
        name: torch.tensor(getattr(base, name)) for name in ("follower_reward", "leader_reward")
    }
    F = {name: torch.tensor(table) for name, table in FEATURES.items()}

    def tables(theta, whole):
        weights = kernel * torch.exp(F["transition"] @ theta)
        sums = torch.zeros(n_pairs, dtype=torch.float64).index_add(0, row, weights)
        transition = weights / sums[row]
        if whole:
            empty = torch.zeros(n_pairs, n_states, dtype=torch.float64)
            transition = empty.index_put((row, column), transition).reshape(*shape, n_states)
        return {
            "transition": transition,
            **{name: table + (F[name] @ theta).reshape(shape) for name, table in rewards.items()},
            "initial": torch.softmax(torch.log(initial) + F["initial"] @ theta, dim=0),
        }

    class Bent(torch.autograd.Function):
        @staticmethod
        def forward(table, factors):
            return table.clone()

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(inputs[1])

        @staticmethod
        def backward(ctx, slopes):
            return slopes * ctx.saved_tensors[0], None

    def forbidden_and_zero(dtype):
        def tables(theta):
            return {
                "transition": torch.tensor(KERNEL) + torch.tensor(MOVES, dtype=dtype) * theta[0],
                "follower_reward": torch.tensor(REWARD) + torch.tensor(PAID) * theta[1],
            }

        return TorchProblem(FORBIDDEN, tables, 2)

    return SimpleNamespace(
        Problem=TorchProblem,
        whole=TorchProblem(base, lambda theta: tables(theta, True), 4),
        entries=TorchProblem(base, lambda theta: tables(theta, False), 4),
        stopped=lambda table: table.detach(),
        bent=lambda table, factors: Bent.apply(table, torch.as_tensor(factors)),
        forbidden_and_zero=forbidden_and_zero(torch.float64),
        in_single_precision=forbidden_and_zero(torch.float32),
        coarse=lambda theta: theta.float(),
        float32="torch.float32",
    )
