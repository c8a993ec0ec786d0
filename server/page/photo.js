/** Drop, choose, paste or take a photo; every task's answer as bars. */

import { Problem, askJson } from "./api.js";
import { correction } from "./correct.js";
import { bar, el, nameOf } from "./dom.js";
import { count, numberOf, percent, plural } from "./format.js";
import { problemBox } from "./problem.js";
import { taskLink } from "./routes.js";

const TOP = 5; // labels of each task
const LOW = 0.6; // part of the window below which answers are out of view
const NONE_OF_THESE = "None of these";
const SPOKEN = 5; // tasks read aloud; the bars have them all

/** Wire the panel of the first page; everything it holds is in index.html. */
export function photoPanel() {
  const parts = {};
  for (const id of ["drop", "preview", "drop-hint", "choose", "camera", "labels", "labels-form", "answers", "status", "busy"]) {
    parts[id] = document.getElementById(id);
  }
  const panel = new PhotoPanel(parts);
  for (const input of [parts.choose, parts.camera]) {
    input.addEventListener("change", () => { panel.take(input.files); input.value = ""; });
    input.addEventListener("keydown", (event) => { // it looks like a button, and not every browser opens it with Enter
      if (event.key === "Enter") { event.preventDefault(); input.click(); }
    });
  }
  parts["labels-form"].addEventListener("submit", (event) => { event.preventDefault(); panel.classify(); });
  acceptDrops(panel, parts.drop);
  document.addEventListener("paste", (event) => {
    const pasting = event.clipboardData?.files;
    if (pasting?.length && onFirstPage()) { event.preventDefault(); panel.take(pasting); }
  });
  return panel;
}

function onFirstPage() {
  return !document.getElementById("home").hidden && !document.querySelector("dialog[open]");
}

/** A photo may fall anywhere: a browser would leave the page for it. */
function acceptDrops(panel, zone) {
  let depth = 0; // dragenter and dragleave come for each element in between
  const mark = (by) => { depth = by === 0 ? 0 : Math.max(0, depth + by); zone.classList.toggle("over", depth > 0); };
  document.addEventListener("dragenter", () => mark(1));
  document.addEventListener("dragleave", () => mark(-1));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    mark(0);
    if (event.dataTransfer?.files.length && onFirstPage()) panel.take(event.dataTransfer.files);
  });
}

class PhotoPanel {
  constructor(parts) {
    this.parts = parts;
    this.file = null;
    this.request = null;
  }

  /** The first of some files; says when there were more. */
  take(files) {
    if (!files.length) return;
    this.file = files[0];
    this.note = files.length > 1 ? `One photo at a time: the first of ${files.length} was taken. ` : "";
    this.#preview();
    this.classify();
  }

  /** Ask every task about the photo; a request that still runs is dropped. */
  async classify() {
    if (!this.file) return this.parts.choose.focus();
    const labels = this.parts.labels.value.split(",").map((name) => name.trim()).filter(Boolean);
    this.request?.abort();
    const request = new AbortController();
    this.request = request;
    this.#busy(true);
    try {
      const started = performance.now();
      const answer = await this.#send(labels, request.signal);
      if (this.request === request) this.#show(answer, labels, performance.now() - started);
    } catch (problem) {
      if (this.request === request) this.#fail(problem);
    } finally {
      if (this.request === request) this.#settle();
    }
  }

  async #send(labels, signal) {
    const file = this.file;
    try {
      await file.slice(0, 1).arrayBuffer();
    } catch {
      throw new Problem(0, `${file.name} cannot be read. Is it a folder, or was it moved? Choose the photo again.`);
    }
    const form = new FormData(); // not the bare bytes: so an error can name the file
    form.append("image", file, file.name);
    const query = new URLSearchParams({ top: TOP });
    if (labels.length) query.set("labels", labels.join(","));
    return askJson(`v1/classify?${query}`, { method: "POST", body: form, signal });
  }

  #preview() {
    const { preview, drop } = this.parts;
    if (preview.src) URL.revokeObjectURL(preview.src);
    preview.onload = () => drop.classList.add("with-photo");
    preview.onerror = () => drop.classList.remove("with-photo");
    preview.alt = `The photo ${this.file.name}`;
    preview.src = URL.createObjectURL(this.file);
    this.parts["drop-hint"].textContent = this.file.name;
  }

  #busy(on) {
    this.parts.busy.hidden = !on;
    this.parts.answers.setAttribute("aria-busy", String(on));
    this.parts.drop.classList.toggle("waiting", on);
    if (on) this.parts.status.replaceChildren(el("span", {}, "Asking every task \u2026"));
  }

  /** Bring the answers into view: on a phone they are below the photo. */
  #settle() {
    this.#busy(false);
    const results = this.parts.answers.parentElement;
    const { top } = results.getBoundingClientRect();
    if (top < 0 || top > LOW * innerHeight) results.scrollIntoView({ block: "start" });
  }

  #show(answer, labels, milliseconds) {
    const tasks = Object.entries(answer?.images?.[0]?.tasks ?? {});
    const model = [answer?.backbone, answer?.precision].filter((text) => typeof text === "string").join(", ");
    const seen = tasks.length
      ? `${plural(tasks.length, "task", "tasks")} answered in ${count(Math.round(milliseconds))} ms${model && ` by ${model}`}`
      : "No task answered: none has a version on its stable channel.";
    this.parts.status.replaceChildren(el("span", {}, this.note, seen), el("span", { class: "visually-hidden" }, spoken(tasks)));
    this.parts.answers.replaceChildren(...tasks.map(([name, found]) => card(name, found, labels, this.file)));
  }

  #fail(problem) {
    if (!(problem instanceof Problem)) throw problem;
    this.parts.status.replaceChildren();
    this.parts.answers.replaceChildren(problemBox("The photo was not classified", problem, () => this.classify()));
  }
}

/** The labels of one task, the most probable first; what is no label is left out. */
function labelsOf(found) {
  const labels = Array.isArray(found?.labels) ? found.labels : [];
  return labels.filter((each) => typeof each?.label === "string" && numberOf(each.probability) !== null);
}

/** Whether a photo shows none of a task's classes; a task that cannot tell says null. */
function isUnknown(found) {
  return found?.unknown === true;
}

function spoken(tasks) {
  const best = tasks.slice(0, SPOKEN).map(([name, found]) => [name, found, labelsOf(found)[0]]).filter(([, , label]) => label);
  return best.map(([name, found, { label, probability }]) => (
    `. ${name}: ${isUnknown(found) ? `${NONE_OF_THESE}; nearest: ` : ""}${label}, ${percent(probability)}`)).join("");
}

function card(name, found, added, file) {
  const rows = labelsOf(found).map(({ label, probability }) => el("li", {},
    el("span", { class: "label" }, nameOf(label), added.includes(label) && el("span", { class: "chip" }, "added")),
    el("span", { class: "percent" }, percent(probability)),
    bar(probability)));
  const none = isUnknown(found);
  return el("article", { class: "answer" },
    el("h3", {}, el("a", { href: taskLink(name) }, nameOf(name)), el("small", {}, `version ${count(found?.version)}`)),
    none && el("p", { class: "unknown" }, el("strong", {}, NONE_OF_THESE), "; nearest:"),
    el("ol", { class: none ? "bars plain" : "bars", "aria-label": none && "Nearest classes" }, ...rows),
    correction(name, file));
}
