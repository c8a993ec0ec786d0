/** "No, this is a ...": teaches a task the photo that it has just answered, as a new version. Its channel stays where it is. */

import { askJson } from "./api.js";
import { button, el, nameOf } from "./dom.js";
import { count, numberOf, percent } from "./format.js";
import { problemBox } from "./problem.js";
import { rollbackButton } from "./rollback.js";
import { taskLink } from "./routes.js";
import { askToken, keptToken } from "./token.js";
import { chosen, loadTask } from "./versions.js";

const MAX_LABEL = 100; // letters, what the server takes
let made = 0; // forms so far, for their ids

/** The button below a task's answer about a photo; what it opens takes its place. */
export function correction(task, file) {
  const place = el("div", { class: "correct" });
  const close = () => {
    place.replaceChildren(opener(task, place, file, close));
    return place.firstChild;
  };
  close();
  return place;
}

function opener(task, place, file, close) {
  const label = "No, this is a \u2026";
  const open = button(label, { class: "link", "aria-label": `${label} (${task})` }, async () => {
    open.disabled = true;
    try {
      const names = await knownNames(task);
      if (names === null) return place.replaceChildren(notTaught(task));
      place.replaceChildren(form(task, names, place, file, close));
      place.querySelector("input").focus();
    } catch (problem) {
      place.replaceChildren(problemBox(`${task} cannot be corrected`, problem, () => close().click()));
    }
  });
  return open;
}

/** Classes of the version that would be gone on from; null where the server does not know what it was learned from. */
async function knownNames(task) {
  const found = await loadTask(task, undefined, null, 1);
  if (found.state === null) return null;
  const base = await chosen(found, found.state);
  return Array.isArray(base?.class_names) ? base.class_names : [];
}

function notTaught(task) {
  return el("p", { class: "hint", role: "status" }, "This server does not know what ", nameOf(task), " was learned from. ",
    el("code", {}, "edge-qprompt push --state"), " sends it.");
}

function form(task, names, place, file, close) {
  const id = `correct-${++made}`;
  const input = el("input", {
    type: "text", id, list: `${id}-names`, required: true, maxlength: MAX_LABEL, autocomplete: "off", autocapitalize: "none",
    enterkeyhint: "done", "aria-describedby": `${id}-hint`,
  });
  const said = el("div", {});
  const controls = el("fieldset", {}, // one switch for all of it
    el("label", { for: id }, "This is a"),
    el("div", { class: "field" }, input, el("button", { type: "submit", class: "button" }, "Teach")),
    el("datalist", { id: `${id}-names` }, ...names.map((name) => el("option", { value: name }))),
    el("p", { class: "hint", id: `${id}-hint` }, "A class of ", nameOf(task),
      ", or a new one. It makes a new version, stable stays where it is. What the photo looks like is kept, the photo is not."),
    el("div", { class: "others" },
      button("It is none of these", { class: "link" }, () => send(null)),
      button("Cancel", { class: "link" }, () => close().focus())));
  const send = async (label) => {
    controls.disabled = true;
    said.replaceChildren(el("p", { class: "hint", role: "status" }, "Learning \u2026"));
    try {
      const done = await withToken(task, (token) => teach(task, label, file, token));
      if (!done) return said.replaceChildren();
      show(place, notice(task, label, done, place));
    } catch (problem) {
      said.replaceChildren(problemBox("It was not learned", problem, () => send(label)));
    } finally {
      controls.disabled = false;
    }
  };
  const node = el("form", { autocomplete: "off" }, controls, said);
  node.addEventListener("submit", (event) => {
    event.preventDefault();
    send(input.value.trim());
  });
  return node;
}

/** Do something with the token for publishing: the one that is kept, else one that is asked for; false where there is none. */
async function withToken(task, attempt) {
  const token = keptToken("publish");
  let error = null;
  if (token !== null) {
    try {
      return await attempt(token);
    } catch (problem) {
      if (!ofToken(problem)) throw problem;
      error = problem.message;
    }
  }
  const done = await askToken("publish", {
    title: `Teach ${task}?`,
    text: ["This makes a new version of it. It takes a token with the scope publish: ", "edge-qprompt token create --scope publish"],
    action: "Teach",
    error,
    attempt: (given) => attempt(given).catch((problem) => {
      if (ofToken(problem) || !problem.status) throw problem;
      return { problem }; // not the token's fault: the form says it, not the dialog
    }),
  });
  if (done.problem) throw done.problem;
  return done;
}

function ofToken(problem) {
  return problem.status === 401 || problem.status === 403;
}

function teach(task, label, file, token) {
  const body = new FormData();
  body.append("image", file, file.name);
  const query = new URLSearchParams(label === null ? { none: true } : { label });
  return askJson(`v1/tasks/${encodeURIComponent(task)}/teach?${query}`, { method: "POST", body, token });
}

function show(place, node) {
  place.replaceChildren(node);
  node.focus();
}

function notice(task, label, done, place) {
  const what = label === null ? "was taught that it is none of these" : "knows it now";
  const expected = numberOf(done.expected_accuracy);
  const margin = numberOf(done.expected_margin) ?? "";
  const notes = Array.isArray(done.notes) ? done.notes.filter((note) => typeof note === "string") : [];
  return el("div", { class: "notice", role: "status", tabindex: "-1" },
    el("p", {}, el("strong", {}, `Version ${count(done.version)} of `, nameOf(task), ` ${what}. `),
      expected !== null && `Expected on new photos: ${percent(expected)}${margin && `, \u00b1 ${percent(margin)}`}. `,
      "No channel has moved: make it stable when it is right."),
    ...notes.map((note) => el("p", { class: "hint" }, note)),
    el("div", { class: "others" },
      el("a", { href: taskLink(task, done.version) }, `Look at version ${count(done.version)}`),
      rollbackButton({ name: task }, done.version, (moved) => show(place, moved))));
}
