"use strict";

const byId = (name) => document.getElementById(name);
const SHEET = 256;

let facts = null;
let edited = null;       // the picture to begin with, as an Image
let painted = false;     // whether anything of the mask is
let stroke = null;       // where the brush was last
let shown = null;        // the address of the finished picture on show

async function begin() {
  facts = await (await fetch("stages")).json();
  byId("cascade").textContent = facts.stages
    .map((stage) => (stage.low_resolution ? `${stage.low_resolution} → ${stage.resolution}` : `${stage.resolution}`) + " px").join(", then ");
  byId("stages").replaceChildren(...facts.stages.map(makeSettings));
  await showHistory();
}

function makeSettings(stage, number) {
  const box = document.createElement("fieldset");
  box.innerHTML = `<legend></legend><div class="settings"></div>`;
  box.firstChild.textContent = stage.low_resolution ? `To ${stage.resolution} px` : `Base, ${stage.resolution} px`;
  const fields = [
    numberField("guidance", "Guidance", stage.guidance, -100, 100, "any"),
    numberField("steps", "Steps", stage.steps, 1, facts.largest_steps, 1),
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

function numberField(name, title, value, least, most, step) {
  const input = Object.assign(document.createElement("input"), {name, type: "number", min: least, max: most, step, value, required: true});
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
    // A base has no augmentation level, and all stages are asked for the same settings.
    settings.augmentation_level ??= 0;
    return settings;
  });
}

async function order(event) {
  event.preventDefault();
  byId("problem").textContent = "";
  const asked = {
    prompt: byId("prompt").value,
    negative_prompt: byId("negative").value,
    seed: Number(byId("seed").value),
    stages: readStages(),
  };
  if (edited) {
    asked.image = byId("picture").toDataURL("image/png");
    asked.strength = painted ? 1 : Number(byId("strength").value);
    if (painted) {
      asked.mask = maskInBlackAndWhite();
      asked.returns = Number(byId("returns").value);
    }
  }
  const answer = await fetch("orders", {
    method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(asked),
  }).catch(() => null);
  const told = answer ? await answer.json() : {problem: "the server does not answer: is it still running?"};
  if (told.problem) {
    byId("problem").textContent = told.problem;
    return;
  }
  follow(told.id);
}

function follow(id) {
  const events = new EventSource(`jobs/${id}`);
  byId("draw").disabled = true;
  byId("after").hidden = true;
  byId("progress").hidden = false;
  byId("progress").removeAttribute("value");
  const end = () => {
    events.close();
    byId("draw").disabled = false;
    byId("progress").hidden = true;
  };
  events.onmessage = ({data}) => {
    const job = JSON.parse(data);
    if (job.preview) show(job.preview);
    if (job.state === "waiting") byId("status").textContent = `Waiting: ${job.before} before this one.`;
    if (job.state === "drawing") {
      byId("status").textContent = job.step ? `Step ${job.step} of ${job.steps}` : "Getting ready: new settings are compiled once.";
      if (job.step) byId("progress").value = job.step / job.steps;
    }
    if (job.state === "done") {
      end();
      present(job, `Drawn in ${job.seconds} s, seed ${job.settings.seed}.`);
      showHistory();
    }
    if (job.state === "failed" || job.state === "cancelled") {
      end();
      byId("status").textContent = "";
      byId("problem").textContent = job.problem || "Taken out of the queue.";
    }
  };
  events.onerror = () => {
    end();
    byId("problem").textContent = "the server does not answer: is it still running?";
  };
}

function show(address) {
  byId("result").src = address;
  byId("result").hidden = false;
  byId("blank").hidden = true;
}

function present(job, words) {
  shown = job.picture;
  show(shown);
  byId("result").alt = job.settings.prompt;
  byId("status").textContent = words;
  byId("save").href = shown;
  byId("after").hidden = false;
}

async function showHistory() {
  const drawn = await (await fetch("history")).json();
  byId("history").replaceChildren(...drawn.map((job) => {
    const item = document.createElement("li");
    const button = Object.assign(document.createElement("button"), {type: "button", title: "Take these settings again"});
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
  if (job.settings.edited) parts.push(job.settings.edited === "mask" ? "painted into" : `strength ${job.settings.strength}`);
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
  present(job, describe(job));
}

// The picture to begin with: its centre square, and a mask painted over it.

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

function load(address, isOurs) {
  const image = new Image();
  image.onload = () => beginEdit(image);
  image.onerror = () => { byId("problem").textContent = "this file is no picture that a browser can show"; };
  image.src = address;
  if (!isOurs) image.addEventListener("load", () => URL.revokeObjectURL(address), {once: true});
}

function wipe() {
  const mask = byId("mask");
  mask.getContext("2d").clearRect(0, 0, mask.width, mask.height);
  painted = false;
}

function paint(event) {
  if (!(event.buttons & 1)) return;
  // A quick hand is seen at a few places only: lines join them.
  const mask = byId("mask"), place = mask.getBoundingClientRect(), scale = mask.width / place.width;
  const brush = mask.getContext("2d");
  const at = {x: (event.clientX - place.left) * scale, y: (event.clientY - place.top) * scale};
  const from = event.type === "pointerdown" || !stroke ? at : stroke;
  Object.assign(brush, {strokeStyle: "#e23b2e", lineCap: "round", lineWidth: 2 * Number(byId("brush").value) * mask.width / SHEET});
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
byId("drop").addEventListener("click", () => { edited = null; byId("drawing").hidden = true; byId("file").value = ""; });
byId("again").addEventListener("click", () => load(shown, true));
byId("strength").addEventListener("input", ({target}) => { target.nextElementSibling.textContent = target.value; });
for (const kind of ["pointerdown", "pointermove"]) byId("mask").addEventListener(kind, paint);
byId("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); byId("order").requestSubmit(); }
});
begin().catch(() => { byId("problem").textContent = "the server does not answer: is it still running?"; });
