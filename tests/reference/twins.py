"""Slow, readable twins of the compiled kernels, from theory.md sections 2, 4 and 6."""

import itertools
from fractions import Fraction

import mpmath
import numpy as np


def successors(model):
    """List the possible outcomes of each pair as {(s, a): [(next state, probability), ...]}.

    Next states come in ascending order; None, the end of the episode, comes last.
    """
    kernel = model.transition.toarray()
    outcomes = {}
    for s in range(model.n_states):
        for a in range(model.n_actions):
            if model.available[s, a]:
                row = kernel[s * model.n_actions + a]
                outcomes[s, a] = [(following, p) for following, p in enumerate(row) if p > 0.0]
                if model.termination[s, a] > 0.0:
                    outcomes[s, a].append((None, model.termination[s, a]))
    return outcomes


def soft_value_iteration(model, *, tolerance, max_sweeps):
    """V <- beta log sum_a exp(Q / beta), Q = r + gamma P V; returns V, sweeps and last change."""
    beta, gamma = model.temperature, model.follower_discount
    outcomes = successors(model)
    value = dict.fromkeys(range(model.n_states), 0.0)
    sweeps, change = 0, np.inf
    while sweeps < max_sweeps and change > tolerance:
        action_value = {}
        for (s, a), laws in outcomes.items():
            ahead = sum(p * value[following] for following, p in laws if following is not None)
            action_value[s, a] = model.follower_reward[s, a] + gamma * ahead
        improved = {}
        for s in value:
            scaled = [q / beta for (state, _), q in action_value.items() if state == s]
            improved[s] = beta * np.logaddexp.reduce(scaled)
        change = max(abs(improved[s] - value[s]) for s in value)
        value = improved
        sweeps += 1
    return value, sweeps, change


def draw(rng, outcomes):
    """Draw from [(outcome, probability), ...] by inversion of the cumulative probability."""
    u = rng.random()
    cumulative = 0.0
    for outcome, p in outcomes:
        cumulative += p
        if u < cumulative:
            return outcome
    return outcomes[-1][0]  # rounding left the sum below u


def look_ahead(model, value):
    """Q = r + gamma P V, and (Q - max Q) / beta."""
    action_value = np.full((model.n_states, model.n_actions), -np.inf)
    for (s, a), laws in successors(model).items():
        ahead = sum(p * value[following] for following, p in laws if following is not None)
        action_value[s, a] = model.follower_reward[s, a] + model.follower_discount * ahead
    return action_value, (action_value - action_value.max(axis=1)[:, None]) / model.temperature


def soft_gap(model, value, action_value):
    """pi = softmax(Q / beta), pi P, T V - V, its size, and the terms' scale."""
    beta = model.temperature
    improved = beta * np.logaddexp.reduce(action_value / beta, axis=1)
    policy = np.exp((action_value - improved[:, None]) / beta)
    kernel = model.transition.tocoo()
    weights = [policy.ravel()[row] * p for row, p in zip(kernel.row, kernel.data, strict=True)]
    earned = (policy * np.abs(model.follower_reward)).sum(axis=1)
    scale = max(beta, np.abs(value).max(), earned.max())
    gap = improved - value
    return policy, np.array(weights), gap, np.abs(gap).max(), scale


def soft_policy_iteration(model, value, *, tolerance, rounding, max_iterations):
    """V <- V + (I - gamma P_pi)^-1 (T V - V); returns V, Q, pi, steps, residual and scale."""
    outcomes, n_states = successors(model), model.n_states
    value = np.array(value)
    iterations, spare = 0, None  # what comes after the tolerance does not count
    while True:
        action_value, _ = look_ahead(model, value)
        policy, _, gap, residual, scale = soft_gap(model, value, action_value)
        if residual <= tolerance * scale:
            if spare is None:
                spare = 2 if iterations else 1  # one with the factors of the step before
            if residual <= rounding * scale or not spare:
                return value, action_value, policy, iterations, residual, scale
            spare -= 1
        elif iterations == max_iterations:
            return value, action_value, policy, iterations, residual, scale
        chain = np.zeros((n_states, n_states))
        for (s, a), laws in outcomes.items():
            for following, p in laws:
                if following is not None:
                    chain[s, following] += policy[s, a] * p
        value = value + np.linalg.solve(np.eye(n_states) - model.follower_discount * chain, gap)
        iterations += 1


def linear_sweeps(kernel, discount, b, along, against, *, tolerance, max_sweeps):
    """Gauss-Seidel, of 64 states even ones first; before each sweep, against.residual made 0."""
    matrix = np.eye(len(b)) - discount * kernel
    x, sweeps, change = np.zeros_like(b), 0, np.inf
    while sweeps < max_sweeps and change > tolerance:
        x = x + along * (against @ (b - matrix @ x)) / (against @ matrix @ along)
        before = x.copy()
        for s in sorted(range(len(b)), key=lambda s: (s // 64, s % 2)):
            x[s] = (b[s] - matrix[s] @ x + matrix[s, s] * x[s]) / matrix[s, s]
        sweeps, change = sweeps + 1, np.abs(x - before).max()
    return x, change


def leader_measures(model, policy):
    """V_L, Q_L, d_L, and dJ in r_L with pi held fixed and in r_F through pi."""
    beta, gamma, gamma_l = model.temperature, model.follower_discount, model.leader_discount
    kernel = model.transition.toarray().reshape(*policy.shape, model.n_states)
    chain = np.einsum("sa,sat->st", policy, kernel)
    eye = np.eye(model.n_states)
    value = np.linalg.solve(eye - gamma_l * chain, (policy * model.leader_reward).sum(axis=1))
    occupancy = np.linalg.solve(eye - gamma_l * chain.T, model.initial)
    action_value = model.leader_reward + gamma_l * kernel @ value
    pairs = occupancy[:, None] * policy
    advantage = action_value - (policy * action_value).sum(axis=1, keepdims=True)
    advantage -= (policy * advantage).sum(axis=1, keepdims=True)  # what rounding left
    source = pairs * advantage / beta
    arrivals = np.einsum("sa,sat->t", gamma * source, kernel)
    influence = source + policy * np.linalg.solve(eye - gamma * chain.T, arrivals)[:, None]
    return {
        "value": value,
        "action_value": action_value,
        "occupancy": occupancy,
        "pairs": pairs,
        "influence": influence,
    }


def sample_trajectories(rng, model, policy, *, count, horizon, budget=np.inf, survival=1.0):
    """Play `count` episodes; each is a list of (s, a, s'), with s' = None at the end."""
    outcomes = successors(model)
    starts = [(s, p) for s, p in enumerate(model.initial) if p > 0.0]
    trajectories = []
    while len(trajectories) < count and budget > 0:
        state, steps = draw(rng, starts), []
        while state is not None and len(steps) < min(horizon, budget):
            if steps and survival < 1.0 and rng.random() >= survival:
                break
            action = draw(rng, [(a, p) for a, p in enumerate(policy[state]) if p > 0.0])
            following = draw(rng, outcomes[state, action])
            steps.append((state, action, following))
            state = following
        trajectories.append(steps)
        budget -= len(steps)
    return trajectories


def sparse_product(matrix, vector):
    """Average the vector's entries with each row's weights."""
    return [sum(m * v for m, v in zip(row, vector, strict=True)) for row in matrix]


def pad(flat, lengths, *, longest):
    """Lay out one trajectory a row, with -1 where there is no step."""
    ends = np.cumsum(lengths)
    rows = [[*flat[end - n : end]] for n, end in zip(lengths, ends, strict=True)]
    return [row + [-1] * (longest - len(row)) for row in rows]


def eligibility_traces(
    trajectories,
    *,
    credit,
    leader_discount,
    trace_discount,
    credit_discount,
    direct_share,
    indirect_share,
):
    """Add up what is seen with which weight and which credit, from the definition.

    Returns dictionaries: occupancy of (s, a), weights of (s, a, s') and of first states; influence
    of (s, a), and credit carried through (s, a, s').
    """
    occupancy, gone, starts, influence, carried = {}, {}, {}, {}, {}
    for steps in trajectories:
        add(starts, steps[0][0], direct_share)
        for t, (s, a, following) in enumerate(steps):
            # what is credited to step k counts at every later step t >= k
            eligibility = sum(
                trace_discount ** (t - k) * credit_discount**k * credit[s_k, a_k]
                for k, (s_k, a_k, _) in enumerate(steps[: t + 1])
            )
            add(occupancy, (s, a), direct_share * leader_discount**t)
            add(influence, (s, a), indirect_share * eligibility)
            if following is not None:
                add(gone, (s, a, following), direct_share * leader_discount**t)
                add(carried, (s, a, following), indirect_share * eligibility)
    return occupancy, gone, starts, influence, carried


def answers(trajectories, *, worth, discount, share):
    """Add up over (s, a, s') what the actions after them are worth, as a dictionary."""
    answered = {}
    for steps in trajectories:
        for t, ((s, a, following), (then, action, _)) in enumerate(itertools.pairwise(steps)):
            assert following == then
            add(answered, (s, a, then), share * discount ** (t + 1) * worth[then, action])
    return answered


def weigh_arrivals(model, *, worth, off, start, entries, starts):
    """Multiply sums of (s, a, s') and of s by what arriving is worth to a player: dictionaries."""
    kernel = model.transition.toarray().reshape(model.n_states, model.n_actions, -1)
    begun = {s: number * start[s] / model.initial[s] for s, number in starts.items()}
    arrived = {
        (s, a, following): number * (worth[following] - off[s, a]) / kernel[s, a, following]
        for (s, a, following), number in entries.items()
    }
    return arrived, begun


def is_policy(policy, available, tolerance):
    """Say whether each row is a distribution over what is available."""
    rows = zip(policy.tolist(), available.tolist(), strict=True)
    return all(
        all(p >= 0.0 and (there or p == 0.0) for p, there in zip(row, actions, strict=True))
        and abs(sum(row) - 1.0) <= tolerance
        for row, actions in rows
    )


def mark_followed(lengths):
    """List of each step whether its trajectory has a next one."""
    return [t + 1 < n for n in lengths for t in range(n)]


def sampled_measures(
    trajectories,
    model,
    *,
    worth,
    advantage,
    leader_discount,
    trace_discount,
    credit_discount,
    survival,
    credit,
    own_action,
    direct_share,
    indirect_share,
):
    """Sum the sampled sensitivities of all trajectories from their definition, without a trace.

    Returns dictionaries: influence and occupancy of (s, a), the direct and the indirect part of
    P(s'|s, a) for (s, a, s'), and the initial distribution's direct and indirect part of s.
    """
    probability = model.transition.toarray().reshape(
        model.n_states, model.n_actions, model.n_states
    )
    influence, occupancy, direct, indirect, start, own_start = {}, {}, {}, {}, {}, {}
    for steps in trajectories:
        first, action, _ = steps[0]
        begun, own = worth.leader_start[first], 0.0
        if own_action:
            begun += advantage[first, action]
            own = credit[first, action] * worth.follower_start[first]
        add(start, first, direct_share * begun / model.initial[first])
        add(own_start, first, indirect_share * own / model.initial[first])
        for t, (s, a, following) in enumerate(steps):
            # what is credited to step k counts at every later step t >= k
            eligibility = sum(
                trace_discount ** (t - k) * credit_discount**k * credit[s_k, a_k] / survival**t
                for k, (s_k, a_k, _) in enumerate(steps[: t + 1])
            )
            add(influence, (s, a), indirect_share * eligibility)
            add(occupancy, (s, a), direct_share * leader_discount**t / survival**t)
            if following is not None:
                arriving = worth.follower[following] - worth.follower_off[s, a]
                leaders = worth.leader[following] - worth.leader_off[s, a]
                gain = leader_discount**t / survival**t * leaders
                push = eligibility * arriving
                if own_action and t + 1 < len(steps):
                    action = steps[t + 1][1]
                    weight = (leader_discount / survival) ** (t + 1)
                    gain += weight * advantage[following, action]
                    if model.follower_discount > 0.0:
                        own = (credit_discount / survival) ** (t + 1) * credit[following, action]
                        push += own * arriving / model.follower_discount
                # grad log P = grad P / P
                p = probability[s, a, following]
                add(direct, (s, a, following), direct_share * gain / p)
                add(indirect, (s, a, following), indirect_share * push / p)
    return influence, occupancy, direct, indirect, start, own_start


def expected_traces(
    model,
    policy,
    credit,
    *,
    steps,
    trace_discount,
    leader_discount,
    credit_discount,
    late,
    restarts,
):
    """Sum the mean eligibilities of pairs over steps from their definition, without a trace.

    What is credited to step k counts at every step t >= k that play comes to from there. Returns
    dictionaries of (s, a): influence, occupancy, and the leader's and the credit's weights of steps
    that another follows.
    """
    kernel = model.transition.toarray().reshape(model.n_states, model.n_actions, model.n_states)
    chain = kernel + restarts * model.termination[:, :, None] * model.initial
    influence, occupancy, answered, credited = {}, {}, {}, {}
    pairs = [(s, a) for s in range(model.n_states) for a in range(model.n_actions)]
    laws = [model.initial]
    for _ in range(steps - 1):
        laws.append(sum(laws[-1][s] * policy[s, a] * chain[s, a] for s, a in pairs))
    for k, law in enumerate(laws):
        for s, a in pairs:
            chance = law[s] * policy[s, a]
            add(occupancy, (s, a), leader_discount**k * chance)
            if k + 1 < steps and laws[k + 1].sum() > 0.0:
                add(answered, (s, a), leader_discount ** (k + 1) * chance)
                add(credited, (s, a), credit_discount ** (k + 1) * chance)
        own = {(s, a): credit_discount**k * law[s] * policy[s, a] * credit[s, a] for s, a in pairs}
        for t in range(k, steps):
            if t > k or not late:
                for pair, number in own.items():
                    add(influence, pair, trace_discount ** (t - k) * number)
            reached = sum(number * chain[pair] for pair, number in own.items())
            own = {(s, a): reached[s] * policy[s, a] for s, a in pairs}
    return influence, occupancy, answered, credited


def visits(trajectories, *, discount):
    """Count the visits of each pair, and add up discount^t over them, as dictionaries."""
    counts, weights = {}, {}
    for steps in trajectories:
        for t, (s, a, _) in enumerate(steps):
            add(counts, (s, a), 1.0)
            add(weights, (s, a), discount**t)
    return counts, weights


def monte_carlo(trajectories, *, reward, discount):
    """Count the visits of each pair, and add up the returns from there, as dictionaries."""
    counts, returns = {}, {}
    for steps in trajectories:
        for t, (s, a, _) in enumerate(steps):
            rest = enumerate(steps[t:])
            add(counts, (s, a), 1.0)
            add(returns, (s, a), sum(discount**k * reward[s_k, a_k] for k, (s_k, a_k, _) in rest))
    return counts, returns


def temporal_differences(order, trajectories, *, reward, discount, step_size, target_value, table):
    """Update {(s, a): Q} in place towards r + discount * target_value(s')."""
    for i, t in order:
        s, a, following = trajectories[i][t]
        target = reward[s, a]
        if following is not None:
            target += discount * target_value[following]
        table[s, a] = (1.0 - step_size) * table[s, a] + step_size * target


def sarsa(order, trajectories, *, reward, discount, step_size, cut_is_end, table):
    """Update {(s, a): Q} in place, once for each (trajectory, t) of `order`."""
    for i, t in order:
        s, a, following = trajectories[i][t]
        if following is None or (cut_is_end and t + 1 == len(trajectories[i])):
            target = reward[s, a]
        elif t + 1 < len(trajectories[i]):
            next_action = trajectories[i][t + 1][1]
            target = reward[s, a] + discount * table[following, next_action]
        else:
            continue  # cut here: the next action is not known
        table[s, a] = (1.0 - step_size) * table[s, a] + step_size * target


def exact(*parts):
    """Add up numbers, or arrays of them, without rounding."""
    return sum(np.vectorize(Fraction, otypes=[object])(part) for part in parts)


def real(x):
    """Make a number of mpmath of a Fraction."""
    return mpmath.mpf(x.numerator) / x.denominator


def rational(x):
    """Make a Fraction of a number of mpmath; of what is less than 2^-9999, 0."""
    return Fraction(*mpmath.libmp.to_rational(x._mpf_)) if mpmath.mag(x) > -9999 else Fraction(0)


def exponential(x, rest=0):
    """exp(x + rest), to 60 digits."""
    with mpmath.workdps(60):
        return rational(mpmath.exp(real(exact(x, rest))))


def exponentials(x, rest):
    """exp(x + rest), to 60 digits each."""
    return np.array([exponential(*at) for at in zip(x, rest, strict=True)])


def logarithm(x):
    """log x, to 60 digits."""
    with mpmath.workdps(60):
        return rational(mpmath.log(real(x)))


def solution(matrix, b):
    """Solve matrix x = b, to 60 digits."""
    with mpmath.workdps(60):
        both = [
            mpmath.matrix(np.vectorize(real, otypes=[object])(array).tolist())
            for array in (matrix, b)
        ]
        return np.array([rational(x) for x in mpmath.lu_solve(*both)])


def value_gaps(model, reward, discount, value):
    """r + discount P v - v(s), exactly; 0 where an action is unavailable."""
    ahead = discount * (exact(model.transition.toarray()) @ value).reshape(reward.shape)
    return np.where(model.available, exact(reward) + ahead - value[:, None], Fraction(0))


def flow_residual(model, source, flow, policy, discount, measure):
    """Compute source + discount P^T (flow + policy m) - m, exactly."""
    leaving = flow + policy * measure[:, None]
    return source + discount * exact(model.transition.toarray()).T @ leaving.ravel() - measure


def move_gaps(model, discount, gap, step):
    """Gaps, and by how much they move, once the value went a step."""
    moved = value_gaps(model, 0.0 * model.follower_reward, discount, step)
    return gap + moved, moved


def move_flow(model, policy, discount, step, residual):
    """The residual of a measure that went a step."""
    nothing = exact(0.0 * policy.astype(float))
    return residual + flow_residual(model, 0, nothing, policy, discount, step)


def move_policy(policy, log_policy, moved, residual, available, temperature):
    """Policy, its logarithm and temperature * log sum pi exp(...), once gaps have moved."""
    for s, here in enumerate(available):
        weights = policy[s, here] * [exponential(t) for t in moved[s, here] / temperature]
        log_total = logarithm(sum(weights))
        policy[s, here] = weights / sum(weights)
        log_policy[s, here] += moved[s, here] / temperature - log_total
        residual[s] += temperature * log_total
    return policy, log_policy, residual


def soft_policy(gap, available, temperature):
    """pi = softmax(gap / temperature), its logarithm, and temperature * log sum exp(...)."""
    policy, log_policy = np.full((2, *gap.shape), Fraction(0))
    residual = []
    for s, here in enumerate(available):
        logits = gap[s, here] / temperature
        top = max(logits)
        weights = np.array([exponential(logit - top) for logit in logits])
        log_total = logarithm(sum(weights))
        policy[s, here], log_policy[s, here] = weights / sum(weights), logits - top - log_total
        residual.append(temperature * (top + log_total))
    return policy, log_policy, np.array(residual)


def policy_errors(
    policy,
    log_error,
    spare,
    available,
    gap,
    gap_error,
    value,
    ahead_error,
    temperature,
    log_policy_error,
):
    """Bound the policy's error, and Q's, whose rounding is below the test's."""
    chosen = available & (available.sum(axis=1, keepdims=True) > 1)
    off = np.where(chosen, 2.0 * ahead_error / temperature, 0.0)
    moved = moved_probability(policy, spare, log_error + off)
    return {
        "log_policy_error": log_policy_error + off,
        "error": np.where(chosen, moved, 0.0),
        "action_value": np.where(available, gap + value[:, None], 0.0),
        "action_value_error": np.where(available, gap_error + ahead_error, 0.0),
        "several": available.sum(axis=1),
        "numbers": (),
    }


def advantages(gap, policy):
    """Gap - mean gap, and the mean gap."""
    mean = (policy * gap).sum(axis=1)
    return gap - mean[:, None], mean


def evaluate(start, value):
    """J, the start's mean of V."""
    return start @ value


def influence_sources(policy, measure, advantage, temperature):
    """w = d pi A / temperature."""
    return measure[:, None] * policy * advantage / temperature


def pair_measures(policy, log_policy, occupancy, measure, source):
    """Make d pi, mu = w + pi n, and - sum mu log pi."""
    influence = source + policy * measure[:, None]
    return policy * occupancy[:, None], influence, -(influence * log_policy).sum()


def least_patience(contraction):
    """1 / (1 - contraction)."""
    return {"numbers": 1.0 / (1.0 - contraction)}


def lost(patience, size):
    """2^-990 times the patience, but for nothing."""
    return {"numbers": 2.0**-990 * patience if size else 0.0}


def shown_patience(indptr, indices, data, policy, aside, terms, steps):
    """max |z| / min (z - P_m z), m being the policy with all that it may have more."""
    n_states = len(policy)
    kernel = np.zeros((policy.size, n_states))
    np.add.at(kernel, (np.repeat(np.arange(policy.size), np.diff(indptr)), indices), data)
    z = abs(steps)
    ahead = ((policy + aside) * (kernel @ z).reshape(policy.shape)).sum(axis=1)
    return {"numbers": z.max() / (z - ahead).min()}


def slope_errors(model, discount, flow, flow_error, value, spread):
    """Compute discount flow(s,a) value(s') and two bounds of its error, as dictionaries.

    The first is that of {(s, a, s'): ...} but for what the row shares, the second that.
    """
    slopes, errors, shift = {}, {}, {}
    for pair, laws in successors(model).items():
        ahead = [(following, p) for following, p in laws if following is not None]
        mass = sum(p for _, p in ahead)
        mean = sum(p * value[following] for following, p in ahead) / mass if mass > 0.0 else 0.0
        most = abs(flow[pair]) + flow_error[pair]
        shift[pair] = discount * flow_error[pair] * abs(mean)
        for following, _ in ahead:
            slopes[*pair, following] = discount * flow[pair] * value[following]
            errors[*pair, following] = discount * (
                flow_error[pair] * abs(value[following] - mean) + most * spread[following]
            )
    return slopes, errors, shift


def pull_back(matrix, slopes, errors, roundings):
    """Multiply, and bound what that is off by, if slopes are off by `errors`, row by row."""
    off = (np.diff(matrix.indptr) + roundings) * 2.0**-53 * (abs(matrix) @ abs(slopes))
    return {"pulled": matrix @ slopes, "bound": abs(matrix) @ errors + off}


def outward(bounds, factor, least):
    """Widen bounds that are not 0; what is negative or NaN bounds nothing."""
    return [b * factor + least * (b > 0.0) if b >= 0.0 else np.inf for b in bounds]


def moved_probability(policy, spare, log_error):
    """Bound what probabilities are off by, whose logarithms are off by this: e^x - 1 < x + x^2."""
    growth = np.where(log_error < 1.0, log_error + log_error**2, np.expm1(log_error))
    return np.minimum(policy * growth + spare * np.exp(log_error), 1.0)


def pull_back_shares(share, slopes, errors, roundings, each_fold, factor):
    """Compute factor * p (g - mean of g) by rows, and its error; left out at the end, g is 0."""
    missing = ((0, 0), (0, share.shape[1] - slopes.shape[1]))
    slopes, errors = np.pad(slopes, missing), np.pad(errors, missing)
    with np.errstate(divide="ignore"):
        folds = np.minimum(-np.log(share.min(axis=1, keepdims=True)), 800.0)
    off = errors + 2.0**-53 * (roundings + each_fold * folds) * abs(slopes)
    mean, mean_off = ((share * x).sum(axis=1, keepdims=True) for x in (slopes, off))
    return {
        "pulled": factor * share * (slopes - mean),
        "bound": abs(factor) * share * (off + mean_off),
        "numbers": (),
    }


def local_variances(state, arrival, row, weights, slopes, given, coming, means, decays, coin):
    """Sum over outcomes of weights times products of what is off the mean, for each column."""
    k, width = len(decays), means.shape[2]
    found = [0.0] * width
    for o, (s, to, r) in enumerate(zip(state, arrival, row, strict=True)):
        for x in range(width):
            later = [decays[i] * coming[i, to, x] for i in range(k)]
            later = [part + (given[i, r] * later[0] if i else 0.0) for i, part in enumerate(later)]
            off = [slopes[i, r, x] + later[i] - means[i, s, x] for i in range(k)]
            for i in range(k):
                for j in range(k):
                    found[x] += weights[i, j, o] * (off[i] * off[j] + coin * later[i] * later[j])
    return np.array(found)


def add(totals, key, amount):
    """Add to an entry of a dictionary that starts at 0."""
    totals[key] = totals.get(key, 0.0) + amount
