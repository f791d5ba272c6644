"""BC-HG in PyTorch, by tails: one pass backward over all trajectories at once.

Written from theory.md, sections 4 and 6, alone: nothing of the package is used. The follower's
Q_F(s_t, a_t) moves with theta by what it finds from t on; one sampled tail is an estimate of it:

    X_t = dr_F(s,a) + gamma_F V_F(s') dlog P(s'|s,a) + gamma_F X_{t+1}          E[X_t] = dQ_F(s,a)

By the Boltzmann covariance trick, dpi enters as Cov(dQ_F, Q_L) = E[ dQ_F A_L ], which needs no
estimate of dV_F. A trajectory's estimate of dJ/dtheta is

    sum_t  gamma_L^t  A_L(s,a) / temperature  X_t                               through the follower
    sum_t  gamma_L^t  [ dr_L(s,a) + gamma_L V_L(s') dlog P(s'|s,a) ]            direct
           V_L(s_0) dlog rho(s_0)                                               the start

It is the same number as by the eligibility trace of `bchg_jax.py`, summed in the other order. The
trace costs O(T d) only where the Jacobian is read, this costs it throughout.
"""

import torch


def bchg(view, batch):
    """Estimate dJ/dtheta from each trajectory; shape (n, d)."""
    follower_value, leader_value = as_tensor(view.follower_value), as_tensor(view.leader_value)
    choice = as_tensor(view.leader_advantage) / view.temperature
    d_follower = as_tensor(view.jacobian.follower_reward)
    d_leader = as_tensor(view.jacobian.leader_reward)
    dlog_transition = as_tensor(view.jacobian.log_transition)
    dlog_initial = as_tensor(view.jacobian.log_initial)
    gamma_F, gamma_L = view.follower_discount, view.leader_discount

    states, actions, next_states, entries = (
        torch.tensor(array).long()
        for array in (batch.states, batch.actions, batch.next_states, batch.entries)
    )
    n, longest = states.shape
    d = dlog_initial.shape[1]

    tail = torch.zeros(n, d, dtype=torch.float64)  # X_t, of the trajectories that have a step t
    rest = torch.zeros(n, d, dtype=torch.float64)  # the estimate from t on, over gamma_L^t
    for t in reversed(range(longest)):
        now = torch.tensor(batch.mask[:, t])
        s, a, after = states[now, t], actions[now, t], next_states[now, t]
        # No entry was taken where the episode ended: nothing to differentiate, no value after it.
        moved = entries[now, t] >= 0
        dlog = torch.zeros(len(s), d, dtype=torch.float64)
        dlog[moved] = dlog_transition[entries[now, t][moved]]

        # Trajectories that were cut by chance: who is still there stands for those who are not.
        survivors_tail, survivors_rest = tail[now] / batch.survival, rest[now] / batch.survival
        tail[now] = (
            d_follower[s, a]
            + gamma_F * follower_value[after, None] * dlog
            + gamma_F * survivors_tail
        )
        rest[now] = (
            choice[s, a, None] * tail[now]
            + d_leader[s, a]
            + gamma_L * leader_value[after, None] * dlog
            + gamma_L * survivors_rest
        )
    first = states[:, 0]
    return leader_value[first, None] * dlog_initial[first] + rest


def as_tensor(array):
    """Copy an array to double precision."""
    return torch.tensor(array, dtype=torch.float64)
