// Settings: the ready ones, as part of the page's address, and as Python.
"use strict";

const HALL = {
  map: [".......", ".@@.@@.", ".......", ".@@.@@.", "......."],
  start: [2, 0], goal: [2, 6], target: [4, 3],
  slip: 0.1, temperature: 0.02, follower_discount: 0.95, leader_discount: 0.95,
  price: 1, coins: [],
};

const READY = {
  "small hall, 5 × 7": HALL,
  "four rooms, 13 × 13": {
    ...HALL,
    map: [
      "@@@@@@@@@@@@@", "@.....@.....@", "@.....@.....@", "@...........@", "@.....@.....@",
      "@.....@.....@", "@@.@@@@.....@", "@.....@@@.@@@", "@.....@.....@", "@.....@.....@",
      "@...........@", "@.....@.....@", "@@@@@@@@@@@@@",
    ],
    start: [4, 1], goal: [1, 9], target: [8, 4],
    slip: 0.44, temperature: 0.005, follower_discount: 0.99, leader_discount: 0.99,
  },
  "open floor, 13 × 13": {
    ...HALL,
    map: Array(13).fill(".".repeat(13)),
    start: [6, 0], goal: [6, 12], target: [9, 6],
    temperature: 0.005, follower_discount: 0.98, leader_discount: 0.98,
  },
};

// What a setting's numbers may be, and the longest side of a map.
const RANGES = {
  slip: [0, 1], temperature: [0.001, 10], follower_discount: [0, 0.999],
  leader_discount: [0, 0.999], price: [-100, 100],
};
const LONGEST = 32;

const samePlace = (one, other) => one[0] === other[0] && one[1] === other[1];
const isFree = (setting, [i, j]) => setting.map[i]?.[j] === ".";

function coinAt(setting, place) {
  return setting.coins.find((coin) => samePlace(coin, place))?.[2] ?? 0;
}

function withCoin(setting, place, amount) {
  const others = setting.coins.filter((coin) => !samePlace(coin, place));
  const rounded = Math.round(amount * 1e6) / 1e6; // 0.1 + 0.2 is 0.3 here
  return { ...setting, coins: rounded ? [...others, [...place, rounded]] : others };
}

// Make a wall, or take it away; where something stands there can be none.
function withWall(setting, place) {
  const stands = [setting.start, setting.goal, setting.target].some((at) => samePlace(at, place));
  if (stands) return setting;
  const mark = isFree(setting, place) ? "@" : ".";
  const map = setting.map.map((row, i) =>
    (i === place[0] ? row.slice(0, place[1]) + mark + row.slice(place[1] + 1) : row));
  return withCoin({ ...setting, map }, place, 0);
}

// The address's part that holds what differs from the small hall.
function toHash(setting) {
  const changed = Object.entries(setting)
    .filter(([name, value]) => JSON.stringify(value) !== JSON.stringify(HALL[name]));
  return changed.length ? `#state=${encodeURIComponent(JSON.stringify(Object.fromEntries(changed)))}` : "";
}

// Read that part; an Error says what is wrong with it.
function fromHash(hash) {
  if (!hash.startsWith("#state=")) return HALL;
  let read;
  try {
    read = JSON.parse(decodeURIComponent(hash.slice("#state=".length)));
  } catch (error) {
    throw new Error(`the state in the address is no JSON: ${error.message}`);
  }
  if (read === null || typeof read !== "object" || Array.isArray(read)) {
    throw new Error("the state in the address is no JSON object");
  }
  return checked({ ...HALL, ...read });
}

function checked(setting) {
  const fail = (words) => { throw new Error(words); };
  for (const name of Object.keys(setting)) if (!(name in HALL)) fail(`a state has no "${name}"`);
  for (const [name, [low, high]] of Object.entries(RANGES)) {
    const value = setting[name];
    if (typeof value !== "number" || !(low <= value && value <= high)) {
      fail(`${name} is ${JSON.stringify(value)}, not a number from ${low} to ${high}`);
    }
  }
  const { map, coins } = setting;
  const isMap = Array.isArray(map) && map.length >= 1 && map.length <= LONGEST &&
    map.every((row) => typeof row === "string" && row.length === map[0].length && /^[.@]+$/.test(row));
  if (!isMap || map[0].length > LONGEST) {
    fail(`map is no list of equally long rows of "." and "@", at most ${LONGEST} × ${LONGEST}`);
  }
  for (const name of ["start", "goal", "target"]) {
    const place = setting[name];
    if (!Array.isArray(place) || place.length !== 2 || !isFree(setting, place)) {
      fail(`${name} is ${JSON.stringify(place)}, not the [row, column] of a free cell`);
    }
  }
  if (!Array.isArray(coins)) fail("coins is no list");
  coins.forEach((coin, k) => {
    if (!Array.isArray(coin) || coin.length !== 3 || !isFree(setting, coin) ||
        typeof coin[2] !== "number" || !(Math.abs(coin[2]) <= 1000)) {
      fail(`coins[${k}] is ${JSON.stringify(coin)}, not [row, column, amount] on a free cell, at most 1000`);
    }
    if (coins.find((other) => samePlace(other, coin)) !== coin) {
      fail(`coins has two for ${JSON.stringify(coin.slice(0, 2))}`);
    }
  });
  return setting;
}

// A program that computes what the page shows.
function asPython(setting, objective) {
  const at = (place) => `(${place.join(", ")})`;
  const { map, coins } = setting;
  return `import numpy as np

import tabular_bilevel as tb

MAP = """type octile
height ${map.length}
width ${map[0].length}
map
${map.join("\n")}
"""
problem = tb.problems.grid_world(
    MAP,
    start=${at(setting.start)},
    goal=${at(setting.goal)},
    target=${at(setting.target)},
    slip=${setting.slip},
    follower_discount=${setting.follower_discount},
    leader_discount=${setting.leader_discount},
    temperature=${setting.temperature},
).with_coins(price=${setting.price})
theta = np.zeros(problem.n_parameters)
for row, column, coin in [${coins.map(at).join(", ")}]:
    theta[problem.at((row, column))] = coin
found = tb.hypergradient(problem, theta)
print("J", found.objective)  # the page says ${objective}
print("gradient", found.gradient)
`;
}
