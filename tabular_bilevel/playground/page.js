// The page: what is shown of a setting, and what clicks, keys and sliders do to it.
"use strict";

const WALK_STEP = 120; // milliseconds of the animation
const LONGEST_WALK = 200;
const OWN_MAP = "one of your own";
const CLEAR_SIGN = 2; // standard errors from 0 at which an estimate's sign is shown

const state = {
  setting: HALL, // what is shown
  kept: HALL, // without what is being dragged
  solved: null, // of state.setting
  estimate: null, // sampled, of the gradient
  past: [], // settings before, each with its J
  show: "influence", gradient: "exact", walks: 100, tool: "coin",
  focus: HALL.start,
  walk: null,
};
const random = generator(Date.now());
const byId = (id) => document.getElementById(id);
const signed = (number) => (number > 0 ? "+" : "") + short(number);
const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

const VIEWS = {
  value: ["Value", "what the robot expects from here on", (s) => s.value],
  visits: ["Visits", "how often the robot is there; a later visit counts less", (s) => s.visits],
  influence: ["Influence", "return that a coin there brings through the robot's change of mind", (s) => s.influence],
  gradient: ["Gradient", "influence, less what the coin costs", () => gradientNow()],
};
const GRADIENTS = { exact: "exact", frozen: "frozen robot", sampled: "sampled" };
const TOOLS = { coin: "coin", fee: "fee", wall: "wall", target: "table T", start: "start S", goal: "goal G" };
const LETTERS = { start: "S", goal: "G", target: "T" };
const SLIDERS = { // name: words, least, most, and how many steps between; powers of ten if the last is true
  temperature: ["Temperature: how half asleep the robot is", 0.005, 1, 200, true],
  follower_discount: ["The robot's discount", 0.5, 0.99, 49, false],
  leader_discount: ["Your discount", 0.5, 0.99, 49, false],
  price: ["Price of a coin, to you", 0, 5, 50, false],
};
const KEYS = {
  "Arrows": "look at the next cell", "Shift + arrows": "take what is there along",
  "Enter": "use the tool", "+ and −": "a coin more, a coin less", "0 (zero)": "clear the cell",
  "V, O, I, G": "show value, visits (occupancy), influence, gradient",
  "U": "step uphill", "Z": "undo", "Space": "walk, or stop", "R": "reset", "?": "this list",
};

// A coin of a size that matters: the goal is worth 1 - discount a step to the robot.
const coinSize = () => Number((0.4 * (1 - state.setting.follower_discount)).toPrecision(1));

function gradientNow() {
  if (state.gradient === "frozen") return state.solved.direct;
  return state.gradient === "sampled" ? state.estimate.mean : state.solved.gradient;
}

// ---- Changes -----------------------------------------------------------------------------------

// Show a setting; it may be one of many while something is dragged.
function preview(setting) {
  state.setting = setting;
  refresh();
}

// Keep what is shown, so that it can be undone.
function keep() {
  compute();
  if (toHash(state.setting) === toHash(state.kept)) return;
  const before = solve(state.kept).objective;
  state.past.push({ setting: state.kept, objective: before });
  state.kept = state.setting;
  told(`J ${short(state.solved.objective)}, before ${short(before)}`);
}

function change(setting) {
  preview(setting);
  keep();
}

function undo() {
  const last = state.past.pop();
  if (!last) return;
  state.setting = state.kept = last.setting;
  compute();
  told(`undone; J ${short(last.objective)}`);
}

// After a change that stays: the address, the labels, and a word to who listens.
function told(words) {
  history.replaceState(null, "", toHash(state.kept) || location.pathname + location.search);
  say(words);
  refresh();
  labelCells();
}

function say(words) {
  byId("live").textContent = words;
}

function compute() {
  if (state.solved?.setting !== state.setting) {
    state.solved = { ...solve(state.setting, state.solved?.value), setting: state.setting };
    state.estimate = null;
  }
  if (state.gradient === "sampled" && state.estimate?.walks !== state.walks) {
    state.estimate = { ...sample(state.setting, state.solved, state.walks, random), walks: state.walks };
  }
}

function stepUphill() {
  compute();
  change(uphill(state.setting, state.solved, gradientNow()));
}

function useTool(place, opposite = false) {
  const { setting, tool } = state;
  if (tool === "wall") {
    const walled = withWall(setting, place);
    return walled === setting ? say("something stands there") : change(walled);
  }
  if (!isFree(setting, place)) return say("there is a wall");
  if (tool in LETTERS) return change({ ...setting, [tool]: place });
  return addCoin(place, (tool === "coin") === opposite ? -1 : 1);
}

function addCoin(place, times) {
  if (!isFree(state.setting, place)) return say("there is a wall");
  return change(withCoin(state.setting, place, coinAt(state.setting, place) + times * coinSize()));
}

// What can be taken from a cell: its coin, else what stands there.
function cargoAt(setting, place) {
  if (coinAt(setting, place)) return "coin";
  return Object.keys(LETTERS).find((name) => samePlace(setting[name], place));
}

function moved(setting, cargo, from, to) {
  if (!isFree(setting, to) || samePlace(from, to)) return setting;
  if (cargo !== "coin") return { ...setting, [cargo]: to };
  return withCoin(withCoin(setting, from, 0), to, coinAt(setting, to) + coinAt(setting, from));
}

function toggleWalk() {
  if (state.walk && !state.walk.over) {
    endWalk("stopped");
  } else {
    compute();
    state.walk = { path: [state.solved.start], map: state.setting.map, since: performance.now(), paid: 0 };
    while (still() && !state.walk.over) advanceWalk();
  }
  refresh();
}

function advanceWalk() {
  const { walk, solved, setting } = state, here = walk.path.at(-1);
  walk.paid += solved.coins[here];
  if (here === solved.goal) return endWalk("arrived");
  if (walk.path.length > LONGEST_WALK) return endWalk("still on its way");
  const action = draw(solved.policy[here], random);
  walk.path.push(stepFrom(solved, setting.slip, here, action, random));
}

function endWalk(how) {
  const { path, paid } = state.walk;
  const times = path.filter((s) => s === state.solved.target).length;
  state.walk.over = `The robot ${how === "stopped" ? "is stopped" : how} after ${path.length - 1} moves: ` +
    `${times} at the table, coins of ${short(paid)} in all.`;
  say(state.walk.over);
}

// ---- The picture -------------------------------------------------------------------------------

let pending = false;

// Draw soon; once, however much has changed since.
function refresh() {
  if (!pending) requestAnimationFrame(frame);
  pending = true;
}

function frame(now) {
  pending = false;
  compute();
  const { walk } = state;
  if (walk && walk.map !== state.setting.map) state.walk = null; // its cells have other numbers
  while (state.walk && !walk.over && now - walk.since >= WALK_STEP) {
    walk.since += WALK_STEP;
    advanceWalk();
  }
  paint(now);
  write();
  if (state.walk && !walk.over) refresh();
}

// A colour between white and the end of its side.
function colour(share) {
  const [r, g, b] = share < 0 ? [230, 159, 0] : [86, 180, 233];
  const mixed = [r, g, b].map((part) => Math.round(255 + (part - 255) * Math.min(1, Math.abs(share))));
  return `rgb(${mixed})`;
}

function paint(now) {
  const { setting, solved, show } = state, { map } = setting;
  const canvas = byId("picture"), width = canvas.clientWidth, size = width / map[0].length;
  const ratio = window.devicePixelRatio || 1, height = size * map.length;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  canvas.style.aspectRatio = `${map[0].length} / ${map.length}`;
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.fillStyle = "#3a3a3a"; // walls
  pen.fillRect(0, 0, width, height);

  const numbers = VIEWS[show][2](solved);
  const errors = show === "gradient" && state.gradient === "sampled" ? state.estimate.error : null;
  const hasSign = show === "influence" || show === "gradient";
  const least = hasSign ? 0 : Math.min(...numbers); // where colours begin
  const most = numbers.reduce((top, x) => Math.max(top, Math.abs(x - least)), 0) || 1;
  pen.textBaseline = "middle";
  solved.grid.cells.forEach(([i, j], s) => {
    const x = j * size, y = i * size, share = (numbers[s] - least) / most;
    const unsure = errors && Math.abs(numbers[s]) < CLEAR_SIGN * errors[s];
    pen.fillStyle = colour(unsure ? share / 2 : share);
    pen.fillRect(x + 0.5, y + 0.5, size - 1, size - 1);
    pen.fillStyle = "#000";
    if (hasSign && (unsure || Math.abs(share) > 0.02)) {
      pen.font = `bold ${size * 0.26}px sans-serif`;
      pen.textAlign = "left";
      pen.fillText(unsure ? "?" : share > 0 ? "+" : "−", x + size * 0.07, y + size * 0.17);
    }
    const letters = Object.keys(LETTERS).filter((name) => solved[name] === s).map((name) => LETTERS[name]);
    pen.font = `bold ${size * 0.28}px sans-serif`;
    pen.textAlign = "right";
    pen.fillText(letters.join(""), x + size * 0.94, y + size * 0.18);
    if (s !== solved.goal) paintMoves(pen, x + size / 2, y + size / 2, size, solved.policy[s]);
    if (solved.coins[s]) paintCoin(pen, x, y, size, solved.coins[s]);
  });
  pen.strokeStyle = "#000";
  pen.lineWidth = 3;
  pen.strokeRect(state.focus[1] * size + 2, state.focus[0] * size + 2, size - 4, size - 4);
  if (state.walk) paintWalk(pen, size, now);
}

function paintMoves(pen, x, y, size, policy) {
  MOVES.forEach(([down, right], action) => {
    const p = policy[action];
    if (p < 0.05) return;
    const length = size * (0.14 + 0.26 * p), half = size * (0.04 + 0.07 * p), head = half * 1.6;
    const stem = length - head;
    pen.lineWidth = Math.max(1, half * 0.8);
    pen.beginPath();
    pen.moveTo(x, y);
    pen.lineTo(x + right * stem, y + down * stem);
    pen.stroke();
    pen.beginPath();
    pen.moveTo(x + right * length, y + down * length);
    pen.lineTo(x + right * stem + down * half, y + down * stem + right * half);
    pen.lineTo(x + right * stem - down * half, y + down * stem - right * half);
    pen.fill();
  });
}

// A coin is round and has a plus, a fee is square and has a minus.
function paintCoin(pen, x, y, size, coin) {
  const radius = size * 0.15, cx = x + size * 0.8, cy = y + size * 0.79;
  pen.beginPath();
  if (coin > 0) pen.arc(cx, cy, radius, 0, 2 * Math.PI);
  else pen.rect(cx - radius, cy - radius, 2 * radius, 2 * radius);
  pen.fillStyle = coin > 0 ? "#0072b2" : "#8a3b00";
  pen.strokeStyle = "#fff";
  pen.lineWidth = 1.5;
  pen.fill();
  pen.stroke();
  pen.fillStyle = "#fff";
  pen.font = `bold ${size * 0.26}px sans-serif`;
  pen.textAlign = "center";
  pen.fillText(coin > 0 ? "+" : "−", cx, cy);
  if (size >= 44) {
    pen.fillStyle = "#000";
    pen.font = `${Math.max(11, size * 0.17)}px sans-serif`;
    pen.textAlign = "left";
    const amount = Math.abs(coin).toFixed(3).replace(/^0/, "");
    if (amount !== ".000") pen.fillText(amount, x + size * 0.06, y + size * 0.86);
  }
  pen.strokeStyle = pen.fillStyle = "#000";
}

function paintWalk(pen, size, now) {
  const { path, since, over } = state.walk;
  const centre = (s) => state.solved.grid.cells[s].map((k) => (k + 0.5) * size);
  pen.strokeStyle = "rgba(0, 0, 0, 0.45)";
  pen.lineWidth = Math.max(2, size * 0.06);
  pen.setLineDash([size * 0.12, size * 0.08]);
  pen.beginPath();
  for (const s of path.slice(-40)) pen.lineTo(...centre(s).reverse());
  pen.stroke();
  pen.setLineDash([]);
  const [from, to] = [centre(path.at(-2) ?? path[0]), centre(path.at(-1))];
  const part = over ? 1 : Math.min(1, Math.max(0, (now - since) / WALK_STEP));
  const [y, x] = from.map((k, axis) => k + (to[axis] - k) * part);
  pen.beginPath();
  pen.arc(x, y, size * 0.17, 0, 2 * Math.PI);
  pen.fillStyle = "#000";
  pen.strokeStyle = "#fff";
  pen.lineWidth = 2.5;
  pen.fill();
  pen.stroke();
  pen.strokeStyle = pen.fillStyle = "#000";
}

// ---- The words ---------------------------------------------------------------------------------

// Write a text, if it is a new one: a screen reader reads it again otherwise.
function put(id, text) {
  if (byId(id).textContent !== text) byId(id).textContent = text;
}

function write() {
  const { solved, setting, estimate } = state;
  const objective = byId("objective");
  objective.value = solved.objective;
  put("objective", short(solved.objective));
  const scale = Math.max(Math.abs(solved.earned), Math.abs(solved.paid)) || 1;
  byId("bar-earned").style.width = `${(100 * solved.earned) / scale}%`;
  byId("bar-paid").style.width = `${(100 * Math.abs(solved.paid)) / scale}%`;
  byId("bar-paid").classList.toggle("income", solved.paid < 0);
  put("parts", `J = ${short(solved.earned)} earned at the table ` +
    (solved.paid < 0 ? `+ ${short(-solved.paid)} from fees` : `− ${short(solved.paid)} paid in coins`) +
    `. The robot makes ${short(solved.length)} discounted steps.`);
  put("warning", state.walk?.over ?? warning(setting, solved));
  put("legend", legend());
  byId("undo").disabled = state.past.length === 0;
  put("walk", state.walk && !state.walk.over ? "Stop" : "Walk");
  byId("noise").hidden = state.gradient !== "sampled";
  if (estimate) {
    put("noise-words", `This estimate: cosine ${short(cosine(estimate.mean, solved.gradient))} ` +
      `with the exact gradient; off by ${short(distance(estimate.mean, solved.gradient))} of its length. ` +
      `In the gradient's picture, ? is a cell whose sign is not clear: within ${CLEAR_SIGN} standard errors of 0.`);
  }
  for (const [name, [, low, high, steps, powers]] of Object.entries(SLIDERS)) {
    const place = powers ? Math.log(setting[name] / low) / Math.log(high / low) : (setting[name] - low) / (high - low);
    byId(name).value = Math.round(place * steps);
    byId(name).setAttribute("aria-valuetext", setting[name]);
    put(`${name}-words`, String(setting[name]));
  }
  put("coin-size", ` of ${coinSize()}`);
  byId("ready").value = Object.keys(READY)
    .find((name) => READY[name].map.join() === setting.map.join()) ?? OWN_MAP;
  writeHistory();
  writeWhy();
}

function legend() {
  const [name, usual] = VIEWS[state.show];
  const frozen = state.show === "gradient" && state.gradient === "frozen";
  const meaning = frozen ? "only what the coin costs, as if the robot kept its plan" : usual;
  const sides = state.show === "influence" || state.show === "gradient"
    ? " Blue and +: J gains; orange and −: J loses." : " Bluer for more.";
  const how = state.show === "gradient" ? ` (${GRADIENTS[state.gradient]})` : "";
  return `${name}${how}: ${meaning}.${sides} Arrows: the robot's moves, larger for likelier. ● coin, ■ fee.`;
}

function warning(setting, solved) {
  const delay = 1 - setting.follower_discount, variety = setting.temperature * Math.log(4);
  const largest = Math.max(...solved.coins);
  if (variety > delay) {
    return `It wanders: variety earns the robot ${short(variety)} a step, which beats the ` +
      `${short(delay)} a step that the goal is worth.`;
  }
  if (largest > delay) {
    return `It loiters: a coin of ${short(largest)} a step beats the ${short(delay)} a step that ` +
      "the goal is worth.";
  }
  return "";
}

function writeHistory() {
  const all = [...state.past.map((one) => one.objective), state.solved.objective].slice(-60);
  const low = Math.min(...all), high = Math.max(...all), room = high - low || 1;
  const points = all.map((J, k) => `${(300 * k) / Math.max(1, all.length - 1)} ${55 - (50 * (J - low)) / room}`);
  if (all.length === 1) points.push("300 55");
  byId("history").innerHTML = `<path d="M${points.join("L")}"/>`;
  put("history-words", all.length === 1 ? "J, change by change: none yet"
    : `J, change by change: from ${short(all[0])} to ${short(all.at(-1))}; least ${short(low)}, most ${short(high)}`);
}

function writeWhy() {
  const { solved, setting, focus } = state, s = solved.grid.state(focus);
  byId("coin").disabled = s < 0;
  put("why-cell", describe(focus));
  const size = coinSize();
  Object.assign(byId("coin"), { min: -10 * size, max: 10 * size, step: size / 10 });
  byId("coin").value = coinAt(setting, focus);
  byId("coin").setAttribute("aria-valuetext", short(coinAt(setting, focus)));
  put("coin-words", signed(coinAt(setting, focus)));
  byId("why-table").hidden = s < 0;
  if (s < 0) return;
  const more = solve(withCoin(setting, focus, coinAt(setting, focus) + size), solved.value).objective;
  const rows = [
    ["Visits", short(solved.visits[s]), "how often the robot is here, later ones counting less"],
    ["Influence", signed(solved.influence[s]), "through the robot's change of mind"],
    ["Direct part", signed(solved.direct[s]), "− price × visits: the coin costs you"],
    ["Gradient", signed(solved.gradient[s]), "both: what J gains for each unit of coin"],
  ];
  if (state.gradient === "sampled") {
    rows.push(["Sampled", signed(state.estimate.mean[s]), `± ${short(state.estimate.error[s])}, its standard error`]);
  }
  rows.push(
    [`J, predicted`, short(solved.objective + size * solved.gradient[s]), `if the coin here grows by ${size}, by the gradient`],
    [`J, exactly`, short(more), "then; a gradient is a promise for small coins"],
  );
  fillTable(byId("why-table"), null, rows.map(([name, number, words]) => [name, { number }, words]));
}

// Fill a table with rows of texts, {number} and elements.
function fillTable(table, head, rows) {
  const cell = (tag, what) => {
    const made = document.createElement(tag);
    if (what?.number !== undefined) made.className = "number";
    made.append(what?.number ?? what);
    return made;
  };
  const row = (cells) => {
    const made = document.createElement("tr");
    made.append(...cells);
    return made;
  };
  table.replaceChildren(
    ...(head ? [row(head.map((what) => Object.assign(cell("th", what), { scope: "col" })))] : []),
    ...rows.map(([first, ...rest]) =>
      row([Object.assign(cell("th", first), { scope: "row" }), ...rest.map((what) => cell("td", what))])),
  );
}

function describe(place) {
  const { solved, setting } = state, s = solved.grid.state(place);
  const where = `Row ${place[0]}, column ${place[1]}`;
  if (s < 0) return `${where}: a wall.`;
  const stands = Object.keys(LETTERS).filter((name) => samePlace(setting[name], place)).map((name) => TOOLS[name]);
  const coin = coinAt(setting, place);
  if (coin) stands.push(`${coin > 0 ? "coin" : "fee"} of ${short(Math.abs(coin))}`);
  return `${where}: ${stands.join(", ") || "empty"}. Visits ${short(solved.visits[s])}, ` +
    `influence ${signed(solved.influence[s])}.`;
}

// ---- The parts of the page ---------------------------------------------------------------------

const cellAt = ([row, column]) => byId("cells").children[row]?.children[column];

function makeCells() {
  const { map } = state.setting;
  byId("cells").style.gridTemplate = `repeat(${map.length}, 1fr) / repeat(${map[0].length}, 1fr)`;
  byId("cells").replaceChildren(...map.map((marks, i) => {
    const row = document.createElement("div");
    row.setAttribute("role", "row");
    row.append(...[...marks].map((_, j) => {
      const cell = document.createElement("div");
      cell.setAttribute("role", "gridcell");
      cell.dataset.place = JSON.stringify([i, j]);
      return cell;
    }));
    return row;
  }));
}

function labelCells() {
  const { map } = state.setting, cells = byId("cells");
  if (cells.children.length !== map.length || cells.firstChild.children.length !== map[0].length) {
    state.focus = state.setting.start;
    makeCells();
  }
  for (const cell of cells.querySelectorAll("[role=gridcell]")) {
    const place = JSON.parse(cell.dataset.place);
    cell.tabIndex = samePlace(place, state.focus) ? 0 : -1;
    cell.ariaLabel = describe(place);
    cell.classList.toggle("held", Boolean(cargoAt(state.setting, place)));
  }
}

function lookAt(place, { focus = true } = {}) {
  if (!cellAt(place)) return;
  cellAt(state.focus).tabIndex = -1;
  state.focus = place;
  cellAt(place).tabIndex = 0;
  if (focus) cellAt(place).focus();
  refresh();
}

function makeRadios(id, names, key, then) {
  for (const [name, words] of Object.entries(names)) {
    const label = document.createElement("label");
    const input = Object.assign(document.createElement("input"), { type: "radio", name: id, value: name });
    input.checked = state[key] === name;
    input.addEventListener("change", () => { state[key] = name; then?.(name); refresh(); });
    label.append(input, words);
    byId(id).append(label);
  }
}

function pick(id, name) {
  byId(id).querySelector(`[value=${name}]`).click();
}

function makeSliders() {
  for (const [name, [words, low, high, steps, powers]] of Object.entries(SLIDERS)) {
    byId("sliders").insertAdjacentHTML("beforeend", `<label for="${name}">${words}</label>
      <div class="slider"><input type="range" id="${name}" min="0" max="${steps}"><output id="${name}-words" for="${name}"></output></div>`);
    byId(name).addEventListener("input", (event) => {
      const place = Number(event.target.value) / steps;
      const value = powers ? low * (high / low) ** place : low + (high - low) * place;
      preview({ ...state.setting, [name]: Number(value.toPrecision(3)) });
    });
    byId(name).addEventListener("change", keep);
  }
  byId("coin").addEventListener("input", (event) =>
    preview(withCoin(state.setting, state.focus, Number(event.target.value))));
  byId("coin").addEventListener("change", keep);
}

function makeExperiments() {
  EXPERIMENTS.forEach((experiment, k) => {
    const box = document.createElement("details");
    box.innerHTML = `<summary>${k + 1}. ${experiment.name}</summary><p>${experiment.question}</p>
      <fieldset><legend>You predict</legend>${experiment.answers.map((answer, a) =>
    `<label><input type="radio" name="predicted-${k}" value="${a}">${answer}</label>`).join("")}</fieldset>
      <button disabled>Show</button><div role="status"></div>`;
    const show = box.querySelector("button"), shown = box.querySelector("div");
    box.addEventListener("change", () => { show.disabled = false; });
    show.addEventListener("click", () => {
      const predicted = Number(box.querySelector(":checked").value), rows = experiment.run();
      const verdict = document.createElement("p");
      verdict.className = "told";
      verdict.textContent = `${predicted === experiment.right ? "As you predicted" : "Not as you predicted"}. ` +
        experiment.because(rows);
      const table = document.createElement("table");
      fillTable(table, ["Case", ...experiment.columns.map((number) => ({ number })), "In the hall"], rows.map((row) => {
        const look = Object.assign(document.createElement("button"), { textContent: "Look" });
        look.ariaLabel = `Look: ${row.label}`;
        look.addEventListener("click", () => {
          change(row.setting);
          byId("stage").scrollIntoView({ behavior: still() ? "auto" : "smooth" });
        });
        return [row.label, ...row.numbers.map((x) => ({ number: short(x) })), look];
      }));
      shown.replaceChildren(verdict, table);
    });
    byId("experiments").append(box);
  });
}

function showProgram() {
  compute();
  const text = asPython(state.setting, state.solved.objective), dialog = byId("program");
  const box = dialog.querySelector("textarea"), words = byId("program-words");
  box.value = text;
  words.textContent = "Copy the program from here:";
  dialog.showModal();
  box.select();
  box.scrollTop = 0;
  navigator.clipboard?.writeText(text).then(() => { words.textContent = "Copied."; }, () => {});
}

// ---- Hands -------------------------------------------------------------------------------------

function listenToPointer() {
  const cells = byId("cells");
  let drag = null, dragged = false;
  const placeOf = (event) => {
    const box = cells.getBoundingClientRect(), { map } = state.setting;
    return [Math.floor(((event.clientY - box.top) / box.height) * map.length),
      Math.floor(((event.clientX - box.left) / box.width) * map[0].length)];
  };
  cells.addEventListener("pointerdown", (event) => {
    const from = placeOf(event), cargo = cargoAt(state.setting, from);
    dragged = false;
    if (!cargo || event.button !== 0) return;
    drag = { from, cargo, setting: state.setting };
    cells.setPointerCapture(event.pointerId);
  });
  cells.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const to = placeOf(event);
    if (samePlace(to, state.focus) && dragged) return;
    if (!dragged && samePlace(to, drag.from)) return;
    dragged = true;
    if (!cellAt(to) || !isFree(drag.setting, to)) return;
    lookAt(to, { focus: false });
    preview(moved(drag.setting, drag.cargo, drag.from, to));
  });
  const drop = () => { if (drag && dragged) keep(); drag = null; };
  cells.addEventListener("pointerup", drop);
  cells.addEventListener("pointercancel", drop);
  cells.addEventListener("click", (event) => {
    if (dragged) { dragged = false; return; }
    const place = placeOf(event);
    if (!cellAt(place)) return;
    lookAt(place);
    useTool(place, event.shiftKey);
  });
}

function listenToKeys() {
  const letters = {
    "+": () => addCoin(state.focus, 1), "=": () => addCoin(state.focus, 1), "-": () => addCoin(state.focus, -1),
    0: () => change(withCoin(state.setting, state.focus, 0)),
    v: () => pick("views", "value"), o: () => pick("views", "visits"),
    i: () => pick("views", "influence"), g: () => pick("views", "gradient"),
    u: stepUphill, z: undo, r: () => change(HALL), " ": toggleWalk, "?": () => byId("keys").showModal(),
    enter: () => useTool(state.focus),
  };
  const arrows = { arrowup: MOVES[0], arrowright: MOVES[1], arrowdown: MOVES[2], arrowleft: MOVES[3] };
  byId("cells").addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key.toLowerCase();
    if (key in arrows) {
      const from = state.focus, to = from.map((k, axis) => k + arrows[key][axis]);
      const cargo = event.shiftKey && cargoAt(state.setting, from);
      if (cellAt(to) && cargo && isFree(state.setting, to)) change(moved(state.setting, cargo, from, to));
      lookAt(to);
    } else if (key in letters) {
      letters[key]();
    } else {
      return;
    }
    event.preventDefault();
  });
}

function trouble(words) {
  byId("trouble").textContent = words;
  byId("trouble").hidden = false;
}

function readAddress() {
  let setting = HALL;
  byId("trouble").hidden = true;
  try {
    setting = fromHash(location.hash);
  } catch (error) {
    trouble(`The small hall is shown, because ${error.message}.`);
  }
  state.past = [];
  state.kept = setting;
  state.focus = setting.start;
  preview(setting);
  compute();
  labelCells();
}

function begin() {
  makeRadios("tools", TOOLS, "tool");
  byId("tools").querySelector("label").insertAdjacentHTML("beforeend", "<span id=\"coin-size\"></span>");
  makeRadios("views", Object.fromEntries(Object.entries(VIEWS).map(([name, [words]]) => [name, words])), "show");
  makeRadios("gradients", GRADIENTS, "gradient", () => pick("views", "gradient"));
  makeSliders();
  makeExperiments();
  byId("ready").append(...[...Object.keys(READY), OWN_MAP].map((name) => new Option(name)));
  byId("ready").addEventListener("change", (event) => change(READY[event.target.value] ?? state.setting));
  byId("walks").addEventListener("change", (event) => { state.walks = Number(event.target.value); refresh(); });
  byId("again").addEventListener("click", () => { state.estimate = null; refresh(); });
  byId("uphill").addEventListener("click", stepUphill);
  byId("undo").addEventListener("click", undo);
  byId("walk").addEventListener("click", toggleWalk);
  byId("reset").addEventListener("click", () => change(HALL));
  byId("python").addEventListener("click", showProgram);
  byId("keys").querySelector("dl").innerHTML =
    Object.entries(KEYS).map(([key, words]) => `<dt>${key}</dt><dd>${words}</dd>`).join("");
  listenToPointer();
  listenToKeys();
  window.addEventListener("hashchange", readAddress);
  window.addEventListener("error", (event) => trouble(`Something is wrong in this page: ${event.message}`));
  window.addEventListener("resize", refresh);
  if (matchMedia("(max-width: 50rem)").matches) byId("controls").open = false;
  readAddress();
}

begin();
