/** Commands to copy: what the page cannot do itself, ready for a terminal. */

import { serverUrl } from "./api.js";
import { button, el } from "./dom.js";

const SHOWN_MS = 2000;
const PLAIN = /^[A-Za-z0-9_./:@%+,=-]+$/;

/** One word of a shell command, quoted where it needs to be. */
export function word(text) {
  return PLAIN.test(text) ? text : `'${String(text).replaceAll("'", "'\\''")}'`;
}

/** The signed roll back of a task, which the page cannot do: it has no key. Without a version to the one before stable. */
export function rollbackCommand(task, version = null) {
  const to = version === null ? "" : `--to ${version} `;
  return `edge-qprompt rollback ${word(task.name)} ${to}--server ${word(serverUrl())} --key KEY`;
}

/** A command with its copy button; `purpose` says what it does, also to a screen reader. */
export function command(purpose, line) {
  const words = line.split(" ").map((each) => el("span", { class: "word" }, each));
  const code = el("code", {}, ...words.flatMap((each, i) => (i ? [" ", each] : [each])));
  const said = el("span", { class: "visually-hidden", role: "status" });
  const copy = button("Copy", { class: "copy", "aria-label": `Copy the command: ${purpose}` }, async () => {
    const done = await copyText(line, code);
    copy.textContent = done ? "Copied" : "Selected";
    said.textContent = done ? "Copied" : "Selected: copy it with Control and C";
    setTimeout(() => { copy.textContent = "Copy"; said.textContent = ""; }, SHOWN_MS);
  });
  return el("div", { class: "command" },
    el("p", { class: "purpose" }, purpose),
    el("div", { class: "line" }, el("pre", {}, code), copy),
    said);
}

/** The clipboard where the browser gives it (https and localhost), else the old way; false leaves the text selected. */
async function copyText(text, node) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const range = document.createRange();
    range.selectNodeContents(node);
    const selection = getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
    return document.execCommand("copy");
  }
}
