"use strict";

const byId = (name) => document.getElementById(name);
const QUESTIONS = ["alignment", "fidelity"];
const KEYS = {1: "left", 2: "indifferent", 3: "right"};
const GAP = 4;        // pixels between images of a set, as in rating.css
const SILENT = "the server does not respond, but no answer is lost: load the page again when the server runs";

let rater = null;
let shown = null;     // the shown pair, as the server sent it
let before = null;    // the last answered pair
let answers = {};
let ready = false;    // whether both sides are visible and no request is pending

async function send(path, fields) {
  const answer = await fetch(path, {
    method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify({rater, ...fields}),
  }).catch(() => null);
  const reply = answer && await answer.json().catch(() => null);
  return reply ?? {problem: SILENT};
}

function showProblem(problem) {
  byId("problem").textContent = problem;
}

function present(part) {
  for (const name of ["start", "rating", "end"]) byId(name).hidden = name !== part;
  for (const name of ["who", "leave"]) byId(name).hidden = part === "start";
}

async function enter(name) {
  rater = name;
  const reply = await send("next", {});
  if (reply.problem) {
    showProblem(reply.problem);
    present("start");
    return;
  }
  // The server strips whitespace around a name too.
  localStorage.setItem("rater", rater = name.trim());
  byId("who").textContent = rater;
  before = null;
  await show(reply);
}

async function show(reply) {
  showProblem("");
  shown = reply;
  answers = {};
  byId("progress").value = reply.total ? reply.rated / reply.total : 0;
  byId("count").textContent = `${reply.rated} of ${reply.total} pairs rated`;
  byId("back").disabled = !before;
  byId("last").hidden = !before;
  if (!reply.pair) {
    byId("total").textContent = `You have rated all ${reply.total} pairs. Every answer is saved; you can close this page.`;
    present("end");
    return;
  }
  byId("caption").textContent = reply.prompt;
  ready = false;
  mark();
  const images = ["left", "right"].flatMap((side) => lay(side, reply[side]));
  present("rating");
  fit();
  // Accept answers only when both sides are visible.
  const seen = await Promise.all(images.map((image) => image.decode())).then(() => true, () => false);
  if (shown !== reply) return;
  if (!seen) {
    showProblem("an image can't be shown: load the page again, or tell the person who runs this page");
    return;
  }
  ready = true;
  mark();
  for (const address of reply.soon ?? []) new Image().src = address;
}

// Use the number of columns with the max image size; both sides have the same room, so the same size.
function fit() {
  for (const box of document.querySelectorAll(".pictures")) {
    const count = box.childElementCount, {clientWidth: width, clientHeight: height} = box;
    let best = {columns: 1, tile: 0};
    for (let columns = 1; columns <= count; columns++) {
      const rows = Math.ceil(count / columns);
      const tile = Math.floor(Math.min((width - GAP * (columns - 1)) / columns, (height - GAP * (rows - 1)) / rows));
      if (tile > best.tile) best = {columns, tile};
    }
    box.style.setProperty("--columns", best.columns);
    box.style.setProperty("--tile", `${best.tile}px`);
  }
}

function lay(side, addresses) {
  const box = byId(side);
  const images = addresses.map((address) => Object.assign(new Image(), {src: address, alt: `An image on the ${side}`, draggable: false}));
  box.replaceChildren(...images);
  return images;
}

function mark() {
  const next = QUESTIONS.find((question) => !answers[question]);
  for (const question of QUESTIONS) {
    byId(question).classList.toggle("next", ready && question === next);
    for (const button of byId(question).querySelectorAll("button")) {
      button.disabled = !ready;
      button.setAttribute("aria-pressed", String(answers[question] === button.value));
    }
  }
}

async function choose(question, value) {
  if (!ready) return;
  answers[question] = value;
  ready = !QUESTIONS.every((name) => answers[name]);
  mark();
  if (ready) return;
  const answered = shown;
  const reply = await send("answers", {pair: answered.pair, ...answers});
  if (reply.problem) {
    showProblem(reply.problem);
    answers = {};
    ready = true;
    mark();
    return;
  }
  before = answered;
  await show(reply);
}

async function goBack() {
  if (!before || (byId("end").hidden && !ready)) return;
  const {rated, total} = shown;
  const again = {...before, rated, total, soon: []};
  before = null;
  await show(again);
}

for (const question of QUESTIONS) {
  for (const button of byId(question).querySelectorAll("button")) {
    button.addEventListener("click", () => choose(question, button.value));
  }
}
document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || !byId("start").hidden) return;
  if (event.key === "Backspace") goBack();
  if (KEYS[event.key] && ready && !byId("rating").hidden) {
    choose(QUESTIONS.find((question) => !answers[question]), KEYS[event.key]);
  }
});
byId("start").addEventListener("submit", (event) => {
  event.preventDefault();
  showProblem("");
  enter(byId("name").value);
});
byId("back").addEventListener("click", goBack);
byId("last").addEventListener("click", goBack);
byId("leave").addEventListener("click", () => {
  localStorage.removeItem("rater");
  shown = null;
  byId("name").value = "";
  showProblem("");
  present("start");
  byId("name").focus();
});
new ResizeObserver(fit).observe(byId("sides"));
const known = localStorage.getItem("rater");
if (known) enter(known);
else present("start");
