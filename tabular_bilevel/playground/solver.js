// The follower's answer on a grid and the leader's gradient through it, without the page.
//
// A setting is plain data, with the names of Python's grid_world:
//   map: rows of "." (free) and "@" (wall); start, goal, target: [row, column]; slip;
//   temperature; follower_discount; leader_discount; price: of a coin to the leader;
//   coins: a list of [row, column, amount].
// States are the free cells in reading order, actions up, right, down, left.
"use strict";

const MOVES = [[-1, 0], [0, 1], [1, 0], [0, -1]];

// A Newton step that moves no value by more than this share of the largest was the last one.
const LAST_STEP = 1e-12;
const MOST_STEPS = 100;

// Number the free cells, and find where each move leads: a wall or the rim leaves one in place.
function gridOf(setting) {
  const width = setting.map[0].length;
  const cells = [];
  const number = setting.map.map((row, i) =>
    [...row].map((mark, j) => (mark === "." ? cells.push([i, j]) - 1 : -1)));
  const state = ([i, j]) => number[i]?.[j] ?? -1;
  const reached = cells.map((cell, s) => MOVES.map(([down, right]) => {
    const ahead = state([cell[0] + down, cell[1] + right]);
    return ahead < 0 ? s : ahead;
  }));
  return { cells, state, reached, width };
}

// What is paid in each cell, in the order of the states.
function coinsOf(setting, grid) {
  const coins = new Float64Array(grid.cells.length);
  for (const [row, column, amount] of setting.coins) coins[grid.state([row, column])] = amount;
  return coins;
}

// Probabilities of the moves that are made when these are chosen; a slip makes another one.
function made(chosen, slip) {
  return chosen.map((p) => (1 - slip) * p + (slip / 3) * (1 - p));
}

// Factor I - discount P of a walk that ends at the goal, and solve with it or its transpose.
// Rows are dominated by their diagonal, so that elimination needs no pivots; and no move leads
// further than a row of the grid, so that all but a band of that width stays zero.
function walkEquations(grid, goal, policy, slip, discount) {
  const n = grid.cells.length, band = grid.width;
  const M = new Float64Array(n * n);
  for (let s = 0; s < n; s++) {
    M[s * n + s] = 1;
    if (s === goal) continue;
    made(policy[s], slip).forEach((p, move) => {
      M[s * n + grid.reached[s][move]] -= discount * p;
    });
  }
  for (let k = 0; k < n; k++) {
    const end = Math.min(n, k + band + 1);
    for (let i = k + 1; i < end; i++) {
      const factor = (M[i * n + k] /= M[k * n + k]);
      if (factor === 0) continue;
      for (let j = k + 1; j < end; j++) M[i * n + j] -= factor * M[k * n + j];
    }
  }
  const first = (k) => Math.max(0, k - band), last = (k) => Math.min(n - 1, k + band);
  return {
    solve(right) {
      const x = Float64Array.from(right);
      for (let i = 0; i < n; i++) for (let j = first(i); j < i; j++) x[i] -= M[i * n + j] * x[j];
      for (let i = n - 1; i >= 0; i--) {
        for (let j = i + 1; j <= last(i); j++) x[i] -= M[i * n + j] * x[j];
        x[i] /= M[i * n + i];
      }
      return x;
    },
    solveTransposed(right) {
      const x = Float64Array.from(right);
      for (let i = 0; i < n; i++) {
        for (let j = first(i); j < i; j++) x[i] -= M[j * n + i] * x[j];
        x[i] /= M[i * n + i];
      }
      for (let i = n - 1; i >= 0; i--) {
        for (let j = i + 1; j <= last(i); j++) x[i] -= M[j * n + i] * x[j];
      }
      return x;
    },
  };
}

// Rewards here plus discounted values at the next state, for each state and action.
function actionValues(grid, goal, slip, reward, discount, value) {
  return grid.reached.map((ahead, s) => {
    if (s === goal) return [reward[s], reward[s], reward[s], reward[s]];
    const all = ahead.reduce((sum, t) => sum + value[t], 0);
    return ahead.map((t) =>
      reward[s] + discount * ((1 - slip) * value[t] + (slip / 3) * (all - value[t])));
  });
}

// The follower's soft choice among action values: probabilities, and the value of choosing so.
function choose(Q, temperature) {
  const top = Math.max(...Q);
  const weights = Q.map((q) => Math.exp((q - top) / temperature));
  const total = weights.reduce((sum, weight) => sum + weight);
  return { policy: weights.map((w) => w / total), value: top + temperature * Math.log(total) };
}

// The follower's best policy, by Newton's method (soft policy iteration) from a guess of values.
function follower(setting, grid, goal, reward, guess) {
  const { slip, temperature, follower_discount: discount } = setting;
  const n = grid.cells.length;
  const value = guess?.length === n ? Float64Array.from(guess) : new Float64Array(n);
  for (let step = 1; step <= MOST_STEPS; step++) {
    const choices = actionValues(grid, goal, slip, reward, discount, value)
      .map((Q) => choose(Q, temperature));
    const policy = choices.map((choice) => choice.policy);
    const equations = walkEquations(grid, goal, policy, slip, discount);
    const change = equations.solve(choices.map((choice, s) => choice.value - value[s]));
    let largest = 0, moved = 0;
    for (let s = 0; s < n; s++) {
      value[s] += change[s];
      largest = Math.max(largest, Math.abs(value[s]));
      moved = Math.max(moved, Math.abs(change[s]));
    }
    if (moved <= LAST_STEP * largest) return { value, policy, equations, steps: step };
  }
  throw new Error(`the follower's answer was not found in ${MOST_STEPS} steps`);
}

// All that the page shows: the answer, the leader's values, visits, influence and gradient.
function solve(setting, guess) {
  const { slip, temperature, price } = setting;
  const gF = setting.follower_discount, gL = setting.leader_discount;
  const grid = gridOf(setting), n = grid.cells.length;
  const [start, goal, target] = [setting.start, setting.goal, setting.target].map(grid.state);
  const coins = coinsOf(setting, grid);
  const follows = coins.map((coin, s) => coin + (s === goal ? 1 : 0));
  const leads = coins.map((coin, s) => (s === target ? 1 : 0) - price * coin);

  const { value, policy, equations, steps } = follower(setting, grid, goal, follows, guess);
  const walk = walkEquations(grid, goal, policy, slip, gL);
  const leaderValue = walk.solve(leads);
  const visits = walk.solveTransposed(coins.map((_, s) => (s === start ? 1 : 0)));

  // What a decision is worth to the leader beyond the policy's average; by differences, which are
  // small where the follower hardly ever decides otherwise.
  const advantage = actionValues(grid, goal, slip, leads, gL, leaderValue).map((Q, s) =>
    Q.map((q) => Q.reduce((sum, other, action) => sum + policy[s][action] * (q - other), 0)));
  // The wish for each decision flows to where it leads, and on: a coin there draws it. A slip
  // takes a share of it to the other moves; the wishes of a state sum to 0.
  const source = new Float64Array(n);
  advantage.forEach((A, s) => A.forEach((a, move) => {
    const wish = (visits[s] * policy[s][move] * a) / temperature;
    source[grid.reached[s][move]] += gF * (1 - slip - slip / 3) * wish;
  }));
  const influence = equations.solveTransposed(source);
  const direct = visits.map((d) => -price * d);
  const sum = (of) => visits.reduce((total, d, s) => total + d * of(s), 0);
  return {
    grid, start, goal, target, coins, policy, value, leaderValue, advantage, visits,
    influence, direct, gradient: influence.map((through, s) => through + direct[s]),
    objective: leaderValue[start],
    earned: visits[target],
    paid: price * sum((s) => coins[s]),
    length: sum(() => 1),
    steps,
  };
}

// Numbers in [0, 1) from a seed: mulberry32, by Tommy Ettinger (public domain).
function generator(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let x = Math.imul(state ^ (state >>> 15), 1 | state);
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x;
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}

// Draw an index with these probabilities.
function draw(probabilities, random) {
  let left = random(), index = 0;
  while (index < probabilities.length - 1 && (left -= probabilities[index]) >= 0) index++;
  return index;
}

// Draw the state after a decision; each of the other three moves is as likely by a slip.
function stepFrom(solved, slip, state, action, random) {
  const slipped = random() < slip;
  const move = slipped ? (action + 1 + Math.floor(3 * random())) % 4 : action;
  return solved.grid.reached[state][move];
}

// The gradient as it is estimated from walks: their mean, and its standard error, by cell.
// A walk goes on with the larger discount as its probability; what is discounted more than that is
// weighed. Each step is given credit for what the decisions before it were worth.
function sample(setting, solved, walks, random) {
  const { slip, temperature, price } = setting;
  const gF = setting.follower_discount, gL = setting.leader_discount;
  const on = Math.max(gF, gL), n = solved.coins.length;
  const sums = new Float64Array(n), squares = new Float64Array(n), one = new Float64Array(n);
  for (let walk = 0; walk < walks; walk++) {
    const seen = [];
    let state = solved.start, credit = 0, weight = 1;
    for (;;) {
      const action = draw(solved.policy[state], random);
      credit += (weight * solved.advantage[state][action]) / temperature;
      one[state] += credit - price * weight;
      seen.push(state);
      if (state === solved.goal || random() >= on) break;
      state = stepFrom(solved, slip, state, action, random);
      credit *= gF / on;
      weight *= gL / on;
    }
    for (const s of seen) { // a cell that was met again has nothing left
      sums[s] += one[s];
      squares[s] += one[s] ** 2;
      one[s] = 0;
    }
  }
  const mean = sums.map((total) => total / walks);
  const error = squares.map((square, s) =>
    Math.sqrt(Math.max(0, square / walks - mean[s] ** 2) / Math.max(1, walks - 1)));
  return { mean, error };
}

// One step uphill. Coins are counted in what a step's delay costs the robot, 1 - follower_discount:
// the gradient's largest entry moves its coin by 0.04 of that, and none goes beyond 0.8 unless it
// was there before. Raw gradient steps would blow up, and fees would never stop to pay.
function uphill(setting, solved, gradient) {
  const delay = 1 - setting.follower_discount, rate = 0.04 * delay, most = 0.8 * delay;
  const largest = gradient.reduce((top, g) => Math.max(top, Math.abs(g)), 0);
  if (largest === 0) return setting;
  const moved = solved.coins.map((coin, s) => Math.min(Math.max(most, coin),
    Math.max(Math.min(-most, coin), coin + (rate * gradient[s]) / largest)));
  return withCoins(setting, solved.grid, moved);
}

function withCoins(setting, grid, coins) {
  const list = [...coins].map((coin, s) => [...grid.cells[s], coin]);
  return { ...setting, coins: list.filter(([, , coin]) => coin !== 0) };
}
