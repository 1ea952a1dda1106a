// An answer as things to look at.

import { bytes, milliseconds, percent, seconds } from "./words.js";

const FEW_CLASSES = 5;
const STAGES = [
  ["receive", "Upload"],
  ["decode", "Decoding"],
  ["queue", "Queue"],
  ["infer", "Network"],
];

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/** The classes as bars; all but the first few wait behind `more`. */
export function drawClasses(list, more, probabilities) {
  // JavaScript puts names that are whole numbers first, whatever order they came in.
  const ranked = Object.entries(probabilities).sort(([, one], [, other]) => other - one);
  const rows = ranked.map(([label, probability], rank) => {
    const bar = element("span", { className: "bar" });
    bar.style.setProperty("--share", Math.min(probability, 1));
    return element(
      "li",
      { hidden: rank >= FEW_CLASSES },
      element("span", { className: "name", textContent: label }),
      bar,
      element("span", { className: "number", textContent: percent(probability) }),
    );
  });
  list.replaceChildren(...rows);
  more.hidden = rows.length <= FEW_CLASSES;
  more.textContent = `All ${rows.length} classes`;
  more.onclick = () => {
    for (const row of rows) row.hidden = false;
    more.hidden = true;
  };
}

/**
 * The film: one button for each frame, with its time.
 *
 * @param sheet the answer's `frames`: a PNG of them one below another; without it, times alone
 * @param onChoose called with the time of a frame that was chosen
 */
export async function drawFilm(list, timestamps, sheet, onChoose) {
  const pixels = sheet ? await readSheet(sheet) : null;
  const items = timestamps.map((time, index) => {
    const button = element("button", { type: "button", onclick: () => onChoose(time) });
    button.setAttribute("aria-label", `Frame ${index + 1}, at ${seconds(time)}`);
    if (pixels) button.append(cutFrame(pixels, sheet, index));
    button.append(element("time", { textContent: seconds(time) }));
    return element("li", {}, button);
  });
  list.replaceChildren(...items);
  pixels?.close();
}

function readSheet(sheet) {
  const data = Uint8Array.from(atob(sheet.data), (character) => character.charCodeAt(0));
  const blob = new Blob([data], { type: sheet.media_type });
  // As they are: a colour profile would show other pixels than the network's.
  return createImageBitmap(blob, { colorSpaceConversion: "none" });
}

function cutFrame(pixels, { width, height }, index) {
  const canvas = element("canvas", { width, height });
  canvas
    .getContext("2d")
    .drawImage(pixels, 0, index * height, width, height, 0, 0, width, height);
  return canvas;
}

/** Mark the frame that a video at `time` shows, as far as it was sampled. */
export function markFrame(list, timestamps, time) {
  const current = timestamps.findLastIndex((start) => start <= time + 0.001);
  for (const [index, item] of [...list.children].entries()) {
    const button = item.firstElementChild;
    if (index === current) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }
}

/** The stages as one bar and as a list; what belongs to none of them is "other". */
export function drawStages(bar, list, timings) {
  const known = STAGES.map(([stage, words]) => [stage, words, timings[stage]]);
  const rest = timings.total - known.reduce((sum, [, , value]) => sum + value, 0);
  const parts = [...known, ["other", "Other", Math.max(rest, 0)]];
  bar.replaceChildren(
    ...parts.map(([stage, , value]) => {
      const part = element("span", { className: stage });
      part.style.setProperty("flex-grow", value);
      return part;
    }),
  );
  const rows = parts.map(([stage, words, value]) => [words, milliseconds(value), stage]);
  drawPairs(list, [...rows, ["Together", milliseconds(timings.total), "total"]]);
}

/** What the service found in the file. */
export function drawFacts(list, { model, version, clip }, file) {
  drawPairs(list, [
    ["File", `${clip.container}, ${clip.codec}, ${bytes(file.size)}`],
    ["Picture", `${clip.width} × ${clip.height}`],
    ["Length", `${seconds(clip.duration_s)}, ${clip.frames_found} frames`],
    ["Model", `${model} ${version}`],
  ]);
}

function drawPairs(list, pairs) {
  list.replaceChildren(
    ...pairs.map(([term, value, className = ""]) =>
      element(
        "div",
        { className },
        element("dt", { textContent: term }),
        element("dd", { textContent: value }),
      ),
    ),
  );
}
