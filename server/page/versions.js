/** A task's versions: loaded a page at a time, and shown as a table. */

import { askJson } from "./api.js";
import { button, el, nameOf, section, table } from "./dom.js";
import { bytes, numberOf, percent, plural, time } from "./format.js";
import { problemBox } from "./problem.js";
import { rollbackButton } from "./rollback.js";
import { taskLink } from "./routes.js";

const PAGE = 50; // versions a request
const COLUMNS = [
  { title: "Version", kind: "task" },
  { title: "Accuracy", kind: "number" },
  { title: "Size", kind: "number" },
  { title: "Method", kind: "method" },
  { title: "Published", kind: "when" },
  { title: "By", kind: "who" },
  { title: "Roll back", kind: "act", hidden: true },
];

/** A task with its newest versions, or those before `before`; `next` is what to give as `before` for more, or null.
 *
 * `state` is the version that can be taught one photo more, or null.
 */
export async function loadTask(name, signal, before = null, limit = PAGE) {
  const query = new URLSearchParams({ limit });
  if (before !== null) query.set("before", before);
  const task = await askJson(`v1/tasks/${encodeURIComponent(name)}?${query}`, { signal });
  const versions = Array.isArray(task?.versions) ? task.versions.filter((each) => numberOf(each?.version) !== null) : [];
  return { name, channels: task?.channels ?? {}, versions, next: numberOf(task?.next), state: numberOf(task?.state) };
}

/** The version that was asked for, else the one on stable, else the newest, wherever it is; null where there is none. */
export async function chosen(task, wanted, signal) {
  const number = wanted ?? numberOf(task.channels.stable?.version) ?? task.versions[0]?.version;
  const here = task.versions.find((each) => each.version === number);
  if (here || task.next === null || !(number < task.next)) return here ?? null;
  const { versions } = await loadTask(task.name, signal, number + 1, 1);
  return versions.find((each) => each.version === number) ?? null;
}

/** The card with the table; `again` shows the task anew, with a notice. */
export function versionsCard(task, shown, signal, again) {
  const place = el("div", { class: "versions" });
  fill(place, task, shown, signal, again);
  return section("Versions", place);
}

function fill(place, task, shown, signal, again) {
  const rows = task.versions.map((each) => row(task, each, shown, again));
  place.replaceChildren(table("Versions, the newest first", COLUMNS, rows));
  if (task.next !== null) place.append(el("p", { class: "more" }, olderButton(place, task, shown, signal, again)));
}

function olderButton(place, task, shown, signal, again) {
  const older = button("Show older versions", { class: "button" }, async () => {
    older.disabled = true;
    try {
      const found = await loadTask(task.name, signal, task.next);
      const versions = [...task.versions, ...found.versions];
      fill(place, { ...task, versions, next: found.next }, shown, signal, again);
      place.querySelectorAll("tbody a")[task.versions.length]?.focus();
    } catch (problem) {
      if (!signal.aborted) older.replaceWith(problemBox("No older versions came", problem, () => fill(place, task, shown, signal, again)));
    }
  });
  return older;
}

function row(task, each, shown, again) {
  const stable = each.version === numberOf(task.channels.stable?.version);
  const current = each.version === shown.version && "true";
  return [
    [el("a", { href: taskLink(task.name, each.version), "aria-current": current }, `Version ${each.version}`),
      stable && el("span", { class: "chip accent" }, "stable")],
    percent(each.accuracy),
    bytes(each.size),
    [String(each.method ?? ""), numberOf(each.bits) === null ? "" : `, ${plural(each.bits, "bit", "bits")}`],
    time(each.published),
    each.publisher ? nameOf(each.publisher) : "",
    stable ? "" : rollbackButton(task, each.version, again),
  ];
}
