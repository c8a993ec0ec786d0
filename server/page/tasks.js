/** The list of all tasks, and what to do while there is none. */

import { askJson, serverUrl } from "./api.js";
import { command, word } from "./command.js";
import { bar, button, el, nameOf, table } from "./dom.js";
import { NONE, bytes, count, numberOf, percent, time } from "./format.js";
import { problemBox } from "./problem.js";
import { taskLink } from "./routes.js";

const PAGE = 100; // tasks a request
const COLUMNS = [
  { title: "Task", kind: "task" },
  { title: "Accuracy", kind: "accuracy" },
  { title: "Classes", kind: "number" },
  { title: "Size", kind: "number" },
  { title: "Stable", kind: "version" },
  { title: "Updated", kind: "when" },
];

/** Fill the list anew. */
export async function showTasks(signal) {
  const place = document.getElementById("tasks");
  place.setAttribute("aria-busy", "true");
  try {
    const found = await load(null, signal);
    showWhole(place, found, signal);
  } catch (problem) {
    if (!signal.aborted) place.replaceChildren(problemBox("The tasks cannot be listed", problem, () => showTasks(signal)));
  } finally {
    place.setAttribute("aria-busy", "false");
  }
}

async function load(after, signal) {
  const query = new URLSearchParams({ limit: PAGE });
  if (after !== null) query.set("after", after);
  const found = await askJson(`v1/tasks?${query}`, { signal });
  return { tasks: Array.isArray(found?.tasks) ? found.tasks : [], next: found?.next ?? null };
}

function showWhole(place, { tasks, next }, signal) {
  const empty = tasks.length === 0;
  for (const id of ["photo", "tasks-title"]) document.getElementById(id).hidden = empty;
  document.getElementById("tasks-count").textContent = empty ? "" : count(tasks.length) + (next === null ? "" : "+");
  if (empty) return place.replaceChildren(emptyState());
  place.replaceChildren(table("Tasks of this server", COLUMNS, tasks.map(row)));
  if (next !== null) place.append(moreButton(place, tasks, next, signal));
}

function moreButton(place, shown, next, signal) {
  const more = button("Show more tasks", { class: "button more" }, async () => {
    more.disabled = true;
    try {
      const found = await load(next, signal);
      showWhole(place, { tasks: [...shown, ...found.tasks], next: found.next }, signal);
      place.querySelectorAll("tbody a")[shown.length]?.focus();
    } catch (problem) {
      if (!signal.aborted) more.replaceWith(problemBox("No more tasks came", problem, () => showTasks(signal)));
    }
  });
  return more;
}

function row(task) {
  const version = numberOf(task.channels?.stable?.version);
  const stable = version === null ? el("span", { class: "soft" }, "not yet") : `version ${version}`;
  return [
    el("a", { href: taskLink(task.name) }, nameOf(task.name)),
    accuracy(task.accuracy),
    count(task.classes),
    bytes(task.size),
    stable,
    time(task.updated),
  ];
}

function accuracy(share) {
  if (numberOf(share) === null) {
    return [el("span", { "aria-hidden": "true" }, NONE), el("span", { class: "visually-hidden" }, "not measured")];
  }
  return [el("span", { class: "percent" }, percent(share)), bar(share, "small")];
}

/** The way to the first task, as commands. */
function emptyState() {
  const push = `edge-qprompt push flowers.qpk --server ${word(serverUrl())} --task flowers`;
  const steps = [
    ["Learn from the photos", "edge-qprompt adapt photos/ --out flowers.qpk --json > flowers.json"],
    ["Make the key that devices will trust, once", "edge-qprompt keygen --out KEY"],
    ["On the server: a token to publish with", "edge-qprompt token create --store DIR --scope publish --scope promote"],
    ["Send it here", `${push} --token TOKEN --key KEY --report flowers.json`],
  ];
  return el("div", { class: "empty" },
    el("h1", { tabindex: "-1" }, "No task yet"),
    el("p", {}, "A task is learned where the photos are, and takes a few hundred bytes to send here. ",
      "Put some photos of each class in a folder of its own, then:"),
    el("ol", { class: "steps" }, ...steps.map(([purpose, line]) => el("li", {}, command(purpose, line)))),
    button("Look again", { class: "button" }, () => showTasks(new AbortController().signal)));
}
