"""BC-HG in JAX, by the eligibility trace: one pass forward over each trajectory.

Written from theory.md, section 6, alone: nothing of the package is used. With s, a, s' the step at
t and theta the leader's parameter, a trajectory's estimate of dJ/dtheta is

    sum_t  e_t          [ dr_F(s,a) + gamma_F V_F(s') dlog P(s'|s,a) ]      through the follower
    sum_t  gamma_L^t    [ dr_L(s,a) + gamma_L V_L(s') dlog P(s'|s,a) ]      direct
           V_L(s_0) dlog rho(s_0)                                           the start

    e_t = gamma_F e_{t-1} + gamma_L^t A_L(s,a) / temperature,   e_{-1} = 0

The trace e_t gathers how much the leader would have liked each of the follower's choices so far,
since each of them looked ahead to what the follower finds at t.
"""

import jax
import jax.numpy as jnp
import numpy as np


def bchg(view, batch):
    """Estimate dJ/dtheta from each trajectory; shape (n, d)."""
    with double_precision():
        critics = {
            "follower_value": view.follower_value,
            "leader_value": view.leader_value,
            "leader_advantage": view.leader_advantage,
        }
        jacobian = {
            "follower_reward": view.jacobian.follower_reward,
            "leader_reward": view.jacobian.leader_reward,
            # a step that ended the episode took entry -1: the last row, made of zeros
            "log_transition": np.pad(view.jacobian.log_transition, ((0, 1), (0, 0))),
            "log_initial": view.jacobian.log_initial,
        }
        settings = {
            "follower_discount": view.follower_discount,
            "leader_discount": view.leader_discount,
            "temperature": view.temperature,
            "survival": batch.survival,
        }
        steps = (batch.states, batch.actions, batch.next_states, batch.entries, batch.mask)
        return of_all(critics, jacobian, settings, steps)


def of_one(critics, jacobian, settings, steps):
    """Estimate dJ/dtheta from one trajectory, its steps in arrays of shape (T,)."""
    gamma_F, gamma_L = settings["follower_discount"], settings["leader_discount"]
    # A step that is reached with probability survival^t counts for 1 / survival^t.
    survival = settings["survival"]

    def step(carry, now):
        trace, discount, gradient = carry  # e_{t-1} / survival^(t-1), (gamma_L / survival)^t
        state, action, next_state, entry, is_step = now
        trace = (
            gamma_F / survival * trace
            + discount * critics["leader_advantage"][state, action] / settings["temperature"]
        )
        dlog_transition = jacobian["log_transition"][entry]
        through_follower = (
            jacobian["follower_reward"][state, action]
            + gamma_F * critics["follower_value"][next_state] * dlog_transition
        )
        direct = (
            jacobian["leader_reward"][state, action]
            + gamma_L * critics["leader_value"][next_state] * dlog_transition
        )
        change = trace * through_follower + discount * direct
        gradient = gradient + jnp.where(is_step, change, 0.0)
        return (trace, gamma_L / survival * discount, gradient), None

    first = steps[0][0]
    start = critics["leader_value"][first] * jacobian["log_initial"][first]
    (_, _, gradient), _ = jax.lax.scan(step, (0.0, 1.0, start), steps)
    return gradient


of_all = jax.jit(jax.vmap(of_one, in_axes=(None, None, None, 0)))


def double_precision():
    """Give JAX 64 bits for a while; older versions have the switch in jax.experimental."""
    return jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64()
