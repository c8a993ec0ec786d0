/** "Make stable": moves the channel on this server, and says what that does not do. */

import { askJson } from "./api.js";
import { command, rollbackCommand } from "./command.js";
import { button, el } from "./dom.js";
import { count } from "./format.js";
import { askToken } from "./token.js";

/** The button of one version; `done` gets the notice to show when the channel has moved. */
export function rollbackButton(task, version, done) {
  const label = `Make version ${version} stable`;
  return button("Make stable", { class: "button small", "aria-label": label }, async () => {
    const moved = await askToken("promote", {
      title: `${label}?`,
      text: [
        "This server answers with it at once. The page has no key, so the statement is unsigned: " +
          "devices stay with what they have until ",
        `edge-qprompt rollback ${task.name} --to ${version} --key KEY`,
        " signs it. This takes a token with the scope promote.",
      ],
      action: "Make stable",
      attempt: (token) => promote(task, version, token),
    });
    if (moved) done(notice(task, moved));
  });
}

function promote(task, version, token) {
  return askJson(`v1/tasks/${encodeURIComponent(task.name)}/channels/stable`, {
    method: "PUT",
    type: "application/json",
    body: JSON.stringify({ version, envelope: null }),
    token,
  });
}

function notice(task, moved) {
  return el("div", { class: "notice", role: "status", tabindex: "-1" },
    el("p", {}, el("strong", {}, `Version ${count(moved.version)} is stable on this server now. `),
      "The statement is unsigned: devices stay with what they have until this command signs it."),
    command("Tell the devices", rollbackCommand(task, moved.version)));
}
