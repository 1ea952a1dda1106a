// The page: which part of it is to be seen when, and what its buttons do.

import { listModels, predict, Problem } from "./api.js";
import {
  closeCamera,
  findCameraObstacle,
  MAX_RECORDING_S,
  openCamera,
  startRecording,
} from "./camera.js";
import { drawClasses, drawFacts, drawFilm, drawStages, markFrame } from "./draw.js";
import { bytes, list, percent, seconds } from "./words.js";

const $ = (id) => document.getElementById(id);

const MAX_NAMED = 12; // classes, before there is a video
const maxUploadBytes = Number(document.querySelector("meta[name=max-upload-bytes]").content);

const PARTS = {
  start: ["start"],
  camera: ["camera"],
  working: ["clip", "outcome", "work"],
  problem: ["clip", "outcome", "problem"],
  answer: ["clip", "outcome", "answer", "film", "details"],
  cancelled: ["clip"],
};
const ALL_PARTS = new Set(Object.values(PARTS).flat());

let state = "start";
let models = [];
let key = "";
let file = null;
let timestamps = [];
let working = null;
let stream = null;
let recording = null;

function show(next) {
  state = next;
  document.body.dataset.state = next;
  for (const id of ALL_PARTS) $(id).hidden = !PARTS[next].includes(id);
  $("again").hidden = next === "working";
  $("another").hidden = next === "working";
  $("model").disabled = next === "working" || !models.length;
}

function announce(words) {
  $("announcement").textContent = words;
}

// --- models and keys ---

async function loadModels() {
  try {
    models = await listModels(key);
  } catch (problem) {
    await explainNoModels(problem);
    return;
  }
  $("key-form").hidden = true;
  const before = $("model").value;
  $("model").replaceChildren(
    ...models.map(({ name, version }) => new Option(`${name} ${version}`, name)),
  );
  const kept = models.find(({ name }) => name === before);
  const shown = kept ?? models.find((model) => model.default) ?? models[0];
  $("model").value = shown.name;
  if (before && !kept) $("again").textContent = `Run with ${shown.name}`;
  $("model").disabled = state === "working";
  $("choose").disabled = false;
  $("open-camera").disabled = findCameraObstacle() !== "";
  $("start-words").textContent = [`Up to ${bytes(maxUploadBytes)}.`, findCameraObstacle()]
    .join(" ")
    .trim();
  describeModel();
}

async function explainNoModels(problem) {
  if (problem.status === 401) {
    if (key) $("key-words").textContent = "The service does not accept that key.";
    $("key-form").hidden = false;
    $("key").focus();
    return;
  }
  $("start-words").textContent =
    problem.code === "not_ready" ? "The service is loading its models." : problem.title;
  await new Promise((resolve) => setTimeout(resolve, Math.max(problem.retryAfter, 1) * 1000));
  await loadModels();
}

function chosenModel() {
  return models.find(({ name }) => name === $("model").value);
}

function describeModel() {
  const { classes, clip_spec: spec } = chosenModel();
  $("model-facts").textContent =
    `${classes.length} classes, ${spec.frames} frames of ${spec.width} × ${spec.height}`;
  // There is no class for anything else: better told before than wondered at after.
  $("known-classes").textContent = `The answer is always one of ${list(classes, MAX_NAMED)}.`;
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = $("key").value.trim();
  loadModels();
});

$("model").addEventListener("change", () => {
  describeModel();
  $("again").textContent = `Run with ${chosenModel().name}`;
});

// --- a video ---

function take(chosen) {
  file = chosen;
  const preview = $("preview");
  if (preview.src) URL.revokeObjectURL(preview.src);
  preview.hidden = false;
  $("no-preview").hidden = true;
  preview.src = URL.createObjectURL(file);
  $("clip-name").textContent = `${file.name} · ${bytes(file.size)}`;
  classify();
}

async function classify() {
  const controller = new AbortController();
  const model = chosenModel();
  working = controller;
  show("working");
  drawProgress(0);
  $("cancel").focus();
  try {
    if (file.size > maxUploadBytes) {
      const detail = `It has ${bytes(file.size)}; this service takes up to ${bytes(maxUploadBytes)}.`;
      throw new Problem({ title: "The video is too large", detail });
    }
    const answer = await predict(file, {
      model: model.name,
      key,
      withFrames: model.shows_frames,
      onSent: drawProgress,
      signal: controller.signal,
    });
    await drawAnswer(answer);
  } catch (error) {
    if (error.name === "AbortError") {
      show("cancelled");
      announce("Cancelled.");
      $("again").focus();
    } else {
      drawProblem(error, model);
    }
  }
  $("again").textContent = "Run again";
}

function drawProgress(share) {
  if (share < 1) {
    $("sent").value = share;
    $("work-words").textContent = `Uploading, ${Math.floor(share * 100)} % of ${bytes(file.size)}`;
  } else {
    $("sent").removeAttribute("value");
    $("work-words").textContent = "Decoding and looking";
  }
}

async function drawAnswer(answer) {
  const { label, probability, probabilities, clip, frames } = answer;
  timestamps = clip.timestamps_s;
  $("label").textContent = label;
  $("probability").textContent = percent(probability);
  drawClasses($("classes"), $("more-classes"), probabilities);
  $("film-title").textContent = `The ${timestamps.length} frames that the network saw`;
  await drawFilm($("frames"), timestamps, frames, seek);
  enableFilm();
  drawStages($("stages-bar"), $("stages"), answer.timings_ms);
  drawFacts($("facts"), answer, file);
  show("answer");
  markFrame($("frames"), timestamps, $("preview").currentTime);
  announce(`${label}, ${percent(probability)}`);
  $("another").focus({ preventScroll: true });
}

function adviseOn(error, model) {
  if (error.code === "unknown_model") return `${model.name} is no longer served: choose another.`;
  return error.retryAfter ? `Try again in ${error.retryAfter} s.` : "";
}

function drawProblem(error, model) {
  const known = error instanceof Problem;
  if (!known) console.error(error);
  $("problem-title").textContent = known ? error.title : "The page made a mistake";
  $("problem-detail").textContent = known ? error.detail : String(error);
  $("problem-advice").textContent = adviseOn(error, model);
  $("problem-request").hidden = !error.requestId;
  $("request-id").textContent = error.requestId ?? "";
  show("problem");
  $("again").focus({ preventScroll: true });
  if (error.status === 401) explainNoModels(error);
  // The service has reloaded its models since they were listed here.
  if (error.code === "unknown_model") loadModels();
}

function startOver() {
  $("preview").pause();
  show("start");
  $("choose").focus();
}

$("choose").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => {
  const [chosen] = $("file").files;
  if (chosen) take(chosen);
  $("file").value = ""; // the same file may be chosen again
});
$("again").addEventListener("click", classify);
$("another").addEventListener("click", startOver);
$("cancel").addEventListener("click", () => working.abort());

// --- the film and the preview ---

function seek(time) {
  const preview = $("preview");
  preview.pause();
  preview.currentTime = time;
  markFrame($("frames"), timestamps, time);
}

function enableFilm() {
  const playable = !$("preview").hidden;
  for (const button of $("frames").querySelectorAll("button")) button.disabled = !playable;
  $("film-words").textContent = playable ? "Choose one to see it in the video." : "";
}

$("preview").addEventListener("timeupdate", () => {
  markFrame($("frames"), timestamps, $("preview").currentTime);
});
$("preview").addEventListener("error", () => {
  $("preview").hidden = true;
  $("no-preview").hidden = false;
  enableFilm();
});

// --- the camera ---

$("open-camera").addEventListener("click", async () => {
  let opened;
  $("open-camera").disabled = true; // a second click would open it twice
  try {
    opened = await openCamera();
  } catch (error) {
    $("start-words").textContent =
      error.name === "NotAllowedError"
        ? "The camera may not be used: this page was not given leave."
        : "The camera cannot be opened.";
    return;
  } finally {
    $("open-camera").disabled = false;
  }
  if (state !== "start") {
    // A video was dropped while the browser asked for leave.
    closeCamera(opened);
    return;
  }
  stream = opened;
  $("viewfinder").srcObject = stream;
  $("viewfinder")
    .play()
    .catch((error) => {
      // Closed before its first picture.
      if (error.name !== "AbortError") throw error;
    });
  $("record").textContent = "Record";
  $("recorded").hidden = true;
  $("camera-words").textContent = `At most ${MAX_RECORDING_S} seconds, without sound.`;
  show("camera");
  $("record").focus();
});

$("record").addEventListener("click", async () => {
  if (recording) {
    recording.stop();
    return;
  }
  const mine = startRecording(stream, (elapsed) => {
    $("recorded").value = elapsed / MAX_RECORDING_S;
    $("camera-words").textContent = `${seconds(elapsed)} of ${MAX_RECORDING_S} s`;
  });
  recording = mine;
  $("recorded").hidden = false;
  $("record").textContent = "Stop and classify";
  announce("Recording.");
  const recorded = await mine.file.catch(() => null);
  // Closing the camera in the meantime means: not this one.
  const wanted = recording === mine;
  recording = null;
  if (!wanted) return;
  leaveCamera();
  if (recorded) take(recorded);
  else startOver();
});

function leaveCamera() {
  const current = recording;
  recording = null;
  current?.stop();
  closeCamera(stream);
  stream = null;
  $("viewfinder").srcObject = null;
}

$("close-camera").addEventListener("click", () => {
  leaveCamera();
  startOver();
});

// --- the whole window ---

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (state === "working") working.abort();
  if (state === "camera") $("close-camera").click();
});

function takesDrops() {
  return models.length > 0 && state !== "working" && state !== "camera";
}

document.addEventListener("dragover", (event) => {
  event.preventDefault(); // or the browser would open the file in place of the page
  event.dataTransfer.dropEffect = takesDrops() ? "copy" : "none";
  document.body.classList.toggle("dragging", takesDrops());
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragging");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  const [dropped] = event.dataTransfer.files;
  if (dropped && takesDrops()) take(dropped);
});

show("start");
loadModels();
