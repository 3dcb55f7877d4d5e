"use strict";

const byId = (name) => document.getElementById(name);
const SHEET = 256;
const SILENT = "The server does not respond: check that it is still running.";

let facts = null;
let edited = null;       // the image to start from, as an Image
let painted = false;     // whether the mask has any paint
let stroke = null;       // the last position of the brush
let shown = null;        // the address of the finished image that is shown
let isBusy = false;      // whether an order is sent or followed; only one at a time
let followed = null;     // the id of the followed order
let ordered = null;      // the id of an order that may not be over yet
const startedFrom = new Map();  // the image and mask of each edit, by the id of its order
const MAX_STARTED_FROM = 20;

// What the history says of an edit, by what the server calls it.
const HOW_EDITED = {
  mask: () => "edited with a mask",
  image: ({strength}) => `strength ${strength}`,
  variation: () => "a variation",
  text_difference: ({share}) => `moved by ${share}`,
};

async function begin() {
  facts = await (await fetch("stages")).json();
  byId("ways").hidden = !facts.can_manipulate;
  if (facts.stages.some((stage) => stage.is_prior)) {
    // A cascade with a prior has no noise of an image to sample again from.
    byId("how").options[0].remove();
    showWay();
  }
  byId("cascade").textContent = facts.stages
    .filter((stage) => !stage.is_prior)
    .map((stage) => (stage.low_resolution ? `${stage.low_resolution} → ${stage.resolution}` : `${stage.resolution}`) + " px").join(", then ");
  byId("attribution").textContent = facts.attribution && `The images are made from drawings: ${facts.attribution}`;
  byId("stages").replaceChildren(...facts.stages.map(makeSettings));
  await showHistory();
}

function makeSettings(stage, number) {
  const box = document.createElement("fieldset");
  box.innerHTML = `<legend></legend><div class="settings"></div>`;
  box.firstChild.textContent = stage.is_prior ? "Prior" : stage.low_resolution ? `To ${stage.resolution} px` : `Base, ${stage.resolution} px`;
  const fields = [
    numberField("guidance", "Guidance", stage.guidance, -100, 100, "any"),
    numberField("steps", "Steps", stage.steps, 1, facts.max_steps, 1),
    choiceField("sampler", "Sampler", stage.sampler, facts.samplers),
    choiceField("spacing", "Spacing", stage.spacing, facts.spacings),
    choiceField("thresholding", "Thresholding", stage.thresholding, ["none", "static", "dynamic"]),
  ];
  if (stage.low_resolution) fields.push(numberField("augmentation_level", "Augmentation", stage.augmentation_level, 0, 1, "any"));
  for (const field of fields) {
    field.lastChild.id = `${field.lastChild.name}-${number}`;
    box.lastChild.append(field);
  }
  return box;
}

function numberField(name, title, value, min, max, step) {
  const input = Object.assign(document.createElement("input"), {name, type: "number", min, max, step, value, required: true});
  return labelled(title, input);
}

function choiceField(name, title, value, choices) {
  const select = Object.assign(document.createElement("select"), {name});
  select.append(...choices.map((choice) => new Option(choice.replaceAll("_", " "), choice, false, choice === value)));
  return labelled(title, select);
}

function labelled(title, input) {
  const label = document.createElement("label");
  label.append(title, input);
  return label;
}

function readStages() {
  return [...byId("stages").children].map((box) => {
    const settings = {};
    for (const input of box.querySelectorAll("input, select")) {
      settings[input.name] = input.type === "number" ? Number(input.value) : input.value;
    }
    // A base has no augmentation level, but an order has the same settings for all stages.
    settings.augmentation_level ??= 0;
    return settings;
  });
}

async function order(event) {
  event.preventDefault();
  // Enter submits too, even while the button is disabled.
  if (isBusy) return;
  setBusy(true);
  byId("problem").textContent = "";
  const request = {
    prompt: byId("prompt").value,
    negative_prompt: byId("negative").value,
    seed: Number(byId("seed").value),
    stages: readStages(),
  };
  let start = null;
  if (edited) {
    const how = byId("how").value, isPainted = painted && !how;
    start = {image: byId("picture").toDataURL("image/png"), mask: isPainted ? byId("mask").toDataURL("image/png") : null};
    request.image = start.image;
    if (how) request.how = how;
    else request.strength = painted ? 1 : Number(byId("strength").value);
    if (how === "text_difference") {
      request.from_text = byId("from_text").value;
      request.share = Number(byId("share").value);
    }
    if (isPainted) {
      request.mask = maskInBlackAndWhite();
      request.resample = Number(byId("resample").value);
    }
  }
  const answer = await fetch("orders", {
    method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(request),
  }).catch(() => null);
  const reply = answer ? await answer.json().catch(() => ({problem: "the server does not accept this order"})) : {problem: SILENT};
  if (reply.problem) {
    setBusy(false);
    byId("problem").textContent = reply.problem;
    return;
  }
  if (start) startedFrom.set(reply.id, start);
  if (startedFrom.size > MAX_STARTED_FROM) startedFrom.delete(startedFrom.keys().next().value);
  follow(reply.id);
}

function setBusy(busy, id = null) {
  isBusy = busy;
  followed = id;
  byId("draw").disabled = busy;
  byId("cancel").hidden = byId("cancel").disabled = !id;
  byId("progress").hidden = !id;
}

function follow(id) {
  const events = new EventSource(`jobs/${id}`);
  ordered = id;
  setBusy(true, id);
  byId("after").hidden = true;
  byId("warning").textContent = "";
  byId("progress").removeAttribute("value");
  const end = (problem = "") => {
    events.close();
    setBusy(false);
    byId("problem").textContent = problem;
    if (problem) showLast();
  };
  events.onmessage = ({data}) => {
    const job = JSON.parse(data);
    if (["done", "failed", "cancelled"].includes(job.state)) ordered = null;
    if (job.preview) show(job.preview);
    warn(job);
    if (job.state === "waiting") byId("status").textContent = `Waiting: ${job.before} before this one.`;
    if (job.state === "drawing") {
      const steps = job.step ? `Step ${job.step} of ${job.steps}` : "";
      byId("status").textContent = steps && !job.compiling ? steps
        : `Preparing: each stage is compiled once for new settings. ${steps}`;
      if (job.step) byId("progress").value = job.step / job.steps;
    }
    if (job.state === "done") {
      end();
      present(job, `Sampled in ${job.seconds} s, seed ${job.settings.seed}.`);
      showHistory();
    }
    if (job.state === "failed" || job.state === "cancelled") end(job.problem || "Cancelled.");
  };
  events.onerror = () => {
    // A browser tries again by itself, unless the server responds that there is no such order.
    if (events.readyState === EventSource.CLOSED) end("The server no longer keeps this order: sample it again.");
    else byId("status").textContent = "The server does not respond: trying again.";
  };
}

async function cancel() {
  if (!followed) return;
  byId("cancel").disabled = true;
  byId("status").textContent = "Cancelling.";
  const answer = await fetch(`jobs/${followed}`, {method: "DELETE"}).catch(() => null);
  if (!answer) byId("problem").textContent = SILENT;
  if (!answer && followed) byId("cancel").disabled = false;
}

function warn(job) {
  byId("warning").textContent = job.warning ? `Warning: ${job.warning}.` : "";
}

function show(address) {
  byId("result").src = address;
  byId("result").hidden = false;
  byId("blank").hidden = true;
}

// Shows the last finished image again, after an order that failed or was cancelled.
function showLast() {
  byId("status").textContent = byId("warning").textContent = "";
  byId("result").hidden = byId("after").hidden = !shown;
  byId("blank").hidden = Boolean(shown);
  if (shown) show(shown);
}

function present(job, words) {
  shown = job.picture;
  show(shown);
  byId("result").alt = job.settings.prompt;
  byId("status").textContent = words;
  warn(job);
  byId("save").href = shown;
  byId("after").hidden = false;
}

async function showHistory() {
  const jobs = await (await fetch("history")).json();
  byId("history").replaceChildren(...jobs.map((job) => {
    const item = document.createElement("li");
    const button = Object.assign(document.createElement("button"), {type: "button", title: "Use these settings again"});
    const image = Object.assign(document.createElement("img"), {src: job.picture, alt: ""});
    const words = document.createElement("span");
    const [prompt, rest] = [document.createElement("b"), document.createElement("small")];
    prompt.textContent = job.settings.prompt || "(no prompt)";
    rest.textContent = describe(job);
    words.append(prompt, rest);
    button.append(image, words);
    button.onclick = () => takeAgain(job);
    item.append(button);
    return item;
  }));
}

function describe(job) {
  const of = (name) => job.settings.stages.map((stage) => stage[name]).join("/");
  const parts = [`seed ${job.settings.seed}`];
  if (job.settings.stages.length) parts.push(`${of("steps")} steps of ${of("sampler")}`, `guidance ${of("guidance")}`);
  if (job.settings.edited) parts.push(HOW_EDITED[job.settings.edited](job.settings));
  return `${parts.join(", ")}; ${job.seconds} s`;
}

function takeAgain(job) {
  const {prompt, negative_prompt, seed, stages} = job.settings;
  byId("prompt").value = prompt;
  byId("negative").value = negative_prompt;
  byId("seed").value = seed;
  stages.forEach((settings, number) => {
    for (const [name, value] of Object.entries(settings)) {
      const input = byId(`${name}-${number}`);
      if (input) input.value = value;
    }
  });
  takeEditAgain(job);
  // Keep showing the image that is being sampled.
  if (!isBusy) present(job, describe(job));
}

function takeEditAgain(job) {
  const start = startedFrom.get(job.id);
  dropEdit();
  byId("problem").textContent = "";
  if (!job.settings.edited) return;
  byId("how").value = ["variation", "text_difference"].includes(job.settings.edited) ? job.settings.edited : "";
  for (const name of ["strength", "share"]) {
    byId(name).value = job.settings[name] && job.settings.edited !== "mask" ? job.settings[name] : byId(name).value;
    byId(name).nextElementSibling.textContent = byId(name).value;
  }
  byId("from_text").value = job.settings.from_text || "";
  showWay();
  if (job.settings.edited === "mask") byId("resample").value = job.settings.resample;
  if (start) load(start.image, true, start.mask);
  else byId("problem").textContent = "This page no longer has the image of this edit: choose it again.";
}

// The image to start from: its centre square, and a mask painted over it.

function beginEdit(image) {
  edited = image;
  const side = Math.min(image.naturalWidth, image.naturalHeight);
  const size = Math.max(SHEET, Math.min(side, 1024));
  for (const name of ["picture", "mask"]) Object.assign(byId(name), {width: size, height: size});
  const paper = byId("picture").getContext("2d");
  paper.imageSmoothingEnabled = side > size;
  paper.fillStyle = "white";
  paper.fillRect(0, 0, size, size);
  paper.drawImage(image, (image.naturalWidth - side) / 2, (image.naturalHeight - side) / 2, side, side, 0, 0, size, size);
  wipe();
  byId("drawing").hidden = false;
}

// Shows what belongs to the chosen way of using the image.
function showWay() {
  const how = byId("how").value;
  byId("painting").hidden = byId("mask").hidden = Boolean(how);
  byId("take_away").hidden = !how;
  byId("difference").hidden = how !== "text_difference";
}

function dropEdit() {
  edited = null;
  painted = false;
  byId("drawing").hidden = true;
  byId("file").value = "";
}

function load(address, isOurs, mask = null) {
  const image = new Image();
  image.onload = () => {
    beginEdit(image);
    if (!mask) return;
    const strokes = new Image();
    strokes.onload = () => {
      byId("mask").getContext("2d").drawImage(strokes, 0, 0);
      painted = true;
    };
    strokes.src = mask;
  };
  image.onerror = () => { byId("problem").textContent = "the browser can't show this file: choose a PNG, JPEG or WebP image"; };
  image.src = address;
  if (!isOurs) image.addEventListener("load", () => URL.revokeObjectURL(address), {once: true});
}

function wipe() {
  const mask = byId("mask");
  mask.getContext("2d").clearRect(0, 0, mask.width, mask.height);
  painted = false;
}

// Black and white squares are visible on an image of any colour.
function makeChecks(brush) {
  const side = 5 * brush.canvas.width / SHEET, tile = document.createElement("canvas");
  Object.assign(tile, {width: 2 * side, height: 2 * side});
  const paper = tile.getContext("2d");
  paper.fillStyle = "white";
  paper.fillRect(0, 0, 2 * side, 2 * side);
  paper.fillStyle = "black";
  paper.fillRect(0, 0, side, side);
  paper.fillRect(side, side, side, side);
  return brush.createPattern(tile, "repeat");
}

function paint(event) {
  if (!(event.buttons & 1)) return;
  // A quick stroke gives few events, so lines connect their positions.
  const mask = byId("mask"), box = mask.getBoundingClientRect(), scale = mask.width / box.width;
  const brush = mask.getContext("2d");
  const at = {x: (event.clientX - box.left) * scale, y: (event.clientY - box.top) * scale};
  const from = event.type === "pointerdown" || !stroke ? at : stroke;
  Object.assign(brush, {strokeStyle: makeChecks(brush), lineCap: "round", lineWidth: 2 * Number(byId("brush").value) * mask.width / SHEET});
  brush.beginPath();
  brush.moveTo(from.x, from.y);
  brush.lineTo(at.x + 0.01, at.y);
  brush.stroke();
  stroke = at;
  painted = true;
}

function maskInBlackAndWhite() {
  const mask = byId("mask"), copy = document.createElement("canvas");
  Object.assign(copy, {width: mask.width, height: mask.height});
  const paper = copy.getContext("2d");
  const pixels = mask.getContext("2d").getImageData(0, 0, mask.width, mask.height);
  for (let at = 0; at < pixels.data.length; at += 4) {
    pixels.data.fill(pixels.data[at + 3] > 127 ? 255 : 0, at, at + 3);
    pixels.data[at + 3] = 255;
  }
  paper.putImageData(pixels, 0, 0);
  return copy.toDataURL("image/png");
}

byId("order").addEventListener("submit", order);
byId("dice").addEventListener("click", () => { byId("seed").value = Math.floor(Math.random() * 2 ** 32); });
byId("file").addEventListener("change", ({target}) => { if (target.files[0]) load(URL.createObjectURL(target.files[0]), false); });
byId("wipe").addEventListener("click", wipe);
for (const name of ["drop", "take_away"]) byId(name).addEventListener("click", dropEdit);
byId("how").addEventListener("change", showWay);
byId("cancel").addEventListener("click", cancel);
// Cancel the order when its user leaves the page.
addEventListener("pagehide", () => { if (ordered) fetch(`jobs/${ordered}`, {method: "DELETE", keepalive: true}); });
byId("again").addEventListener("click", () => load(shown, true));
for (const name of ["strength", "share"]) {
  byId(name).addEventListener("input", ({target}) => { target.nextElementSibling.textContent = target.value; });
}
for (const kind of ["pointerdown", "pointermove"]) byId("mask").addEventListener(kind, paint);
byId("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); byId("order").requestSubmit(); }
});
begin().catch(() => { byId("problem").textContent = SILENT; });
