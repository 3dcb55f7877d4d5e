"use strict";

const byId = (name) => document.getElementById(name);
const QUESTIONS = ["alignment", "fidelity"];
const KEYS = {1: "left", 2: "indifferent", 3: "right"};
const GAP = 4;        // pixels between pictures of a set, as in rating.css
const SILENT = "the server does not answer: is it still running? Nothing is lost; load the page again when it is";

let rater = null;
let shown = null;     // the pair on show, as the server told it
let before = null;    // the pair that was answered last
let answers = {};
let ready = false;    // whether both sides can be seen and nothing is on its way

async function ask(path, asked) {
  const answer = await fetch(path, {
    method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify({rater, ...asked}),
  }).catch(() => null);
  const told = answer && await answer.json().catch(() => null);
  return told ?? {problem: SILENT};
}

function tell(problem) {
  byId("problem").textContent = problem;
}

function present(part) {
  for (const name of ["start", "rating", "end"]) byId(name).hidden = name !== part;
  for (const name of ["who", "leave"]) byId(name).hidden = part === "start";
}

async function enter(name) {
  rater = name;
  const told = await ask("next", {});
  if (told.problem) {
    tell(told.problem);
    present("start");
    return;
  }
  // The server takes space around a name away too.
  localStorage.setItem("rater", rater = name.trim());
  byId("who").textContent = rater;
  before = null;
  await show(told);
}

async function show(told) {
  tell("");
  shown = told;
  answers = {};
  byId("progress").value = told.total ? told.rated / told.total : 0;
  byId("count").textContent = `${told.rated} of ${told.total} pairs rated`;
  byId("back").disabled = !before;
  byId("last").hidden = !before;
  if (!told.pair) {
    byId("total").textContent = `You have rated all ${told.total} pairs. Every answer is kept; you may close this page.`;
    present("end");
    return;
  }
  byId("caption").textContent = told.prompt;
  ready = false;
  mark();
  const pictures = ["left", "right"].flatMap((side) => lay(side, told[side]));
  present("rating");
  fit();
  // Nobody is to judge what they have not seen.
  const seen = await Promise.all(pictures.map((picture) => picture.decode())).then(() => true, () => false);
  if (shown !== told) return;
  if (!seen) {
    tell("a picture can't be shown: load the page again, or tell whoever runs it");
    return;
  }
  ready = true;
  mark();
  for (const address of told.soon ?? []) new Image().src = address;
}

// As many columns as make the pictures largest; both sides have the same room, so the same size.
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
  const pictures = addresses.map((address) => Object.assign(new Image(), {src: address, alt: `A picture on the ${side}`, draggable: false}));
  box.replaceChildren(...pictures);
  return pictures;
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
  const told = await ask("answers", {pair: answered.pair, ...answers});
  if (told.problem) {
    tell(told.problem);
    answers = {};
    ready = true;
    mark();
    return;
  }
  before = answered;
  await show(told);
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
  tell("");
  enter(byId("name").value);
});
byId("back").addEventListener("click", goBack);
byId("last").addEventListener("click", goBack);
byId("leave").addEventListener("click", () => {
  localStorage.removeItem("rater");
  shown = null;
  byId("name").value = "";
  tell("");
  present("start");
  byId("name").focus();
});
new ResizeObserver(fit).observe(byId("sides"));
const known = localStorage.getItem("rater");
if (known) enter(known);
else present("start");
