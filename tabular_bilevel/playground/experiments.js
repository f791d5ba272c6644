// The guided experiments: a question, what may be answered, and what then is computed.
"use strict";

const SEED = 1;
const TABLE = HALL.target;

// Write a number with three digits.
function short(number) {
  if (number === 0) return "0";
  const plain = Math.abs(number) >= 1e-4 && Math.abs(number) < 1e4;
  return (plain ? number.toPrecision(3) : number.toExponential(1)).replace("-", "−");
}

function outcome(label, setting) {
  const { objective, paid, length } = solve(setting);
  return { label, setting, numbers: [objective, length, paid], objective };
}

// Climb from the empty hall, with a gradient for each setting.
function climbed(gradientOf, steps = 20) {
  let setting = HALL, solved;
  for (let step = 0; step < steps; step++) {
    solved = solve(setting, solved?.value);
    setting = uphill(setting, solved, gradientOf(setting, solved));
  }
  return setting;
}

const norm = (vector) => Math.hypot(...vector);

function cosine(one, other) {
  return one.reduce((sum, x, s) => sum + x * other[s], 0) / (norm(one) * norm(other));
}

// How far an estimate is from the exact gradient, as a share of that one's length.
function distance(estimate, exact) {
  return norm(estimate.map((x, s) => x - exact[s])) / norm(exact);
}

function noiseRow(walks, draws = 100) {
  const solved = solve(HALL), random = generator(SEED);
  const estimates = Array.from({ length: draws }, () => sample(HALL, solved, walks, random).mean);
  const cosines = estimates.map((e) => cosine(e, solved.gradient)).sort((a, b) => a - b);
  const squares = estimates.map((e) => distance(e, solved.gradient) ** 2);
  const noise = Math.sqrt(squares.reduce((sum, x) => sum + x) / draws);
  return { label: `${walks} walks`, setting: HALL, numbers: [cosines[draws / 2], noise], noise };
}

function climbedBySamples(walks, runs = 10) {
  const random = generator(SEED);
  const ends = Array.from({ length: runs }, () => outcome(`${walks} walks`,
    climbed((setting, solved) => sample(setting, solved, walks, random).mean)));
  const mean = (k) => ends.reduce((sum, end) => sum + end.numbers[k], 0) / runs;
  return { ...ends[0], numbers: [mean(0), mean(1), mean(2)], objective: mean(0) };
}

const OUTCOME = ["J", "steps", "paid"];

const EXPERIMENTS = [
  {
    name: "Half asleep",
    question: "Temperature is how much the robot likes variety. You warm it from 0.01 to 0.05, and " +
      "place no coin. What becomes of J, your visits at the table?",
    answers: ["J falls: a distracted robot misses the table", "J hardly changes",
      "J grows more than a hundredfold"],
    right: 2,
    columns: OUTCOME,
    run: () => [0.01, 0.02, 0.03, 0.05].map((temperature) =>
      outcome(`temperature ${temperature}`, { ...HALL, temperature })),
    because: ([cold, , , warm]) => `J goes from ${short(cold.objective)} to ` +
      `${short(warm.objective)}. Staying undecided among four moves earns temperature × ln 4 a step, ` +
      "for ever; the goal earns 1 once. Above (1 − 0.95) / ln 4 = 0.0361 the robot would rather " +
      "wander than arrive, and a wanderer passes your table.",
  },
  {
    name: "Traffic is not influence",
    question: "You have one coin of 0.02. The start is the busiest cell. The table is hardly ever " +
      "visited. Where does the coin raise J most?",
    answers: ["On the start, where the robot is most", "On the table", "Nowhere: it costs more than it brings"],
    right: 1,
    columns: OUTCOME,
    run: () => [
      outcome("no coin", HALL),
      outcome("coin 0.02, start", withCoin(HALL, HALL.start, 0.02)),
      outcome("coin 0.02, table", withCoin(HALL, TABLE, 0.02)),
      outcome("fee 0.1, at (2, 4)", withCoin(HALL, [2, 4], -0.1)),
    ],
    because: ([none, start, table, fee]) => `On the start J falls from ${short(none.objective)} to ` +
      `${short(start.objective)}, on the table it rises to ${short(table.objective)}. Influence is ` +
      "traffic that could still go elsewhere, times what you gain if it does. A fee can do more than " +
      `a coin: one on the corridor sends the robot round by your table, and J is ${short(fee.objective)}.`,
  },
  {
    name: "The loiterer",
    question: "Now the coin on the table grows: 0.05, 0.1, 0.2. Which one gives the largest J?",
    answers: ["0.05", "0.1", "0.2"],
    right: 1,
    columns: OUTCOME,
    run: () => [0.05, 0.1, 0.2].map((coin) =>
      outcome(`coin ${coin}, table`, withCoin(HALL, TABLE, coin))),
    because: ([small, middle, large]) => "Putting off the goal by a step costs the robot 1 − 0.95 = 0.05 " +
      `of it. At a coin of 0.05 it is in two minds, and J is ${short(small.objective)}. At 0.1 it stays, for ` +
      `${short(middle.numbers[1])} of at most 20 discounted steps, and J is ${short(middle.objective)}. A larger ` +
      `coin buys little more and costs twice as much: ${short(large.objective)}.`,
  },
  {
    name: "Twenty steps uphill",
    question: "A step uphill moves each coin in proportion to its gradient, the largest by 0.002. " +
      "You climb twenty steps with different gradients: the exact one, one that takes the " +
      "robot as frozen, and ones sampled from 10, 100 or 1000 walks a step (the mean of ten climbs; " +
      "Look shows one of them). Which one raises J least?",
    answers: ["The frozen robot's", "The one from 10 walks", "All get about as far"],
    right: 0,
    columns: OUTCOME,
    run: () => [
      outcome("exact", climbed((setting, solved) => solved.gradient)),
      outcome("frozen robot", climbed((setting, solved) => solved.direct)),
      ...[10, 100, 1000].map((walks) => climbedBySamples(walks)),
    ],
    because: ([exact, frozen, few]) => `The exact gradient reaches ${short(exact.objective)}. The ` +
      `frozen robot's reaches ${short(frozen.objective)}: it only sees what coins cost, and so it only ` +
      `charges fees. Even ten walks a step do better, ${short(few.objective)}: noise averages out along ` +
      "the way, a forgotten half of the gradient does not.",
  },
  {
    name: "Noise",
    question: "One estimate from 10 walks is off by some share of the gradient's length, its noise. With a " +
      "hundred times as many walks, by how much does that share shrink?",
    answers: ["To about a tenth", "To about a hundredth", "Not at all"],
    right: 0,
    columns: ["cosine (median)", "noise"],
    run: () => [10, 100, 1000].map((walks) => noiseRow(walks)),
    because: ([few, , many]) => `From ${short(few.noise)} to ${short(many.noise)} of the length: a ` +
      "hundred times the walks, a tenth of the noise, as for any mean. The noise of ten walks is mostly that " +
      "a few estimates are far too long. Their direction is good early: half of them have a cosine above " +
      `${short(few.numbers[0])} with the exact gradient.`,
  },
];
