/** A task's page: its channel, its versions, what one of them holds, and the commands for it. */

import { ask, serverUrl } from "./api.js";
import { channelCard } from "./channel.js";
import { command, rollbackCommand, word } from "./command.js";
import { el, nameOf, section } from "./dom.js";
import { bytes, count, numberOf, percent } from "./format.js";
import { MAX_BYTES, readPack } from "./pack.js";
import { packCard } from "./pack_card.js";
import { problemBox } from "./problem.js";
import { taskLink } from "./routes.js";
import { learningCard } from "./learning.js";
import { keptToken } from "./token.js";
import { chosen, loadTask, versionsCard } from "./versions.js";

/** Fill `page` with a task; `wanted` is a version, or null for the one on stable. `notice` is what has just been done. */
export async function showTask(page, name, wanted, signal, notice = null) {
  const heading = el("h1", { tabindex: "-1" }, nameOf(name));
  const body = el("div", { class: "task-body", "aria-busy": "true" }, el("p", { class: "soft" }, "Loading \u2026"));
  page.replaceChildren(el("a", { class: "back", href: "#/" }, "All tasks"), heading, body);
  const again = (text = null) => showTask(page, name, wanted, signal, text);
  try {
    const task = await loadTask(name, signal);
    const shown = await chosen(task, wanted, signal);
    if (shown === null) return body.replaceChildren(missing(name, wanted));
    body.replaceChildren(...cards(task, shown, signal, notice, again));
    notice?.focus();
  } catch (problem) {
    if (!signal.aborted) body.replaceChildren(problemBox("The task cannot be shown", problem, () => again()));
  } finally {
    body.setAttribute("aria-busy", "false");
  }
}

function missing(name, wanted) {
  return el("p", {}, wanted === null ? "This task has no version yet. " : `There is no version ${wanted} of this task. `,
    el("a", { href: wanted === null ? "#/" : taskLink(name) }, wanted === null ? "All tasks" : "Show the one on stable"));
}

function cards(task, shown, signal, notice, again) {
  const left = [channelCard(task, signal), learningCard(shown)];
  const right = [later((place) => showPack(place, shown, signal)), namesCard(shown)];
  const columns = [left, right].map((cards) => el("div", { class: "stack" }, ...cards));
  return [
    stats(task, shown),
    notice,
    versionsCard(task, shown, signal, again),
    el("div", { class: "columns" }, ...columns),
    commandsCard(task),
  ].filter(Boolean);
}

function stats(task, shown) {
  const stable = numberOf(task.channels?.stable?.version);
  const place = stable === shown.version ? "stable" : stable === null ? "nothing is stable yet" : `stable is ${stable}`;
  const measured = numberOf(shown.accuracy) !== null;
  const stat = (term, attributes, ...value) => el("div", {}, el("dt", {}, term), el("dd", attributes, ...value));
  return el("dl", { class: "stats" },
    stat("Version", {}, String(shown.version), el("span", { class: stable === shown.version ? "chip accent" : "chip" }, place)),
    stat("Size", {}, bytes(shown.size)),
    stat("Accuracy", { class: !measured && "none" }, measured ? percent(shown.accuracy) : "not measured"),
    stat("Classes", {}, count(shown.class_names?.length ?? 0)));
}

/** A place that is filled when what it needs has come. */
function later(fill) {
  const place = el("div", { "aria-busy": "true" });
  fill(place).finally(() => place.setAttribute("aria-busy", "false"));
  return place;
}

async function showPack(place, shown, signal) {
  try {
    if (!(shown.size <= MAX_BYTES)) throw new Error(`A pack has at most ${bytes(MAX_BYTES)}.`);
    const response = await ask(`v1/packs/${encodeURIComponent(shown.pack)}`, { signal, cache: "default" });
    place.replaceChildren(packCard(readPack(await response.arrayBuffer()), shown));
  } catch (problem) {
    if (signal.aborted) return;
    place.replaceChildren(problemBox("The pack cannot be shown", problem, () => showPack(place, shown, signal)));
  }
}

function namesCard(shown) {
  const names = Array.isArray(shown.class_names) ? shown.class_names : [];
  if (!names.length) return null;
  const list = el("ul", { class: "names" }, ...names.map((name) => el("li", {}, nameOf(name))));
  return section("Class names", list);
}

function commandsCard(task) {
  const [name, server] = [word(task.name), serverUrl()];
  const stable = numberOf(task.channels?.stable?.version);
  const older = task.versions.map((each) => each.version).filter((version) => version < (stable ?? 0));
  const before = older.length > 0 ? Math.max(...older) : null; // null: on a page that is not here; rollback finds it itself
  const known = before !== null || (stable > 1 && task.next !== null);
  const bearer = keptToken("read") ? ' -H "Authorization: Bearer $EDGE_QPROMPT_TOKEN"' : "";
  const url = `"${server}/v1/classify?task=${encodeURIComponent(task.name)}"`;
  return section("On the command line",
    command("Get it on a device", `edge-qprompt pull ${name} --server ${word(server)} --trust KEY.pub --out ${name}.qpk`),
    command("Ask it about a photo", `curl --data-binary @new.jpg${bearer} ${url}`),
    known && command("Roll every device back", rollbackCommand(task, before)),
    el("p", { class: "soft" },
      "Tokens come from the environment variable ", el("code", {}, "EDGE_QPROMPT_TOKEN"),
      " or from ", el("code", {}, "--token"), "."));
}
