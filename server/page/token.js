/** The dialog that asks for a token, and where tokens are kept: in this tab only, gone when it is closed.
 *
 * One token for reading and classifying, one for publishing, one for promoting: a stronger one is sent only where it is needed.
 */

import { el } from "./dom.js";

const KEY = "edge-qprompt.token.";
const PRINTABLE = /^[\x21-\x7e]+$/; // what a header can carry
const SCOPES = ["read", "publish", "promote"];
const PARTS = ["token-dialog", "token", "token-submit", "token-cancel", "token-error"];
const memory = new Map(); // where the browser gives no sessionStorage
let asking = null;

/** The token kept for a scope, or null. */
export function keptToken(scope) {
  try {
    return sessionStorage.getItem(KEY + scope);
  } catch {
    return memory.get(scope) ?? null;
  }
}

function keep(scope, token) {
  try {
    sessionStorage.setItem(KEY + scope, token);
  } catch {
    memory.set(scope, token);
  }
  showForget();
}

/** Forget every token. */
export function forgetTokens() {
  for (const scope of SCOPES) {
    memory.delete(scope);
    try {
      sessionStorage.removeItem(KEY + scope);
    } catch {
      // nothing was kept there
    }
  }
  showForget();
}

/** The button is there only while there is something to forget. */
export function showForget() {
  document.getElementById("forget").hidden = SCOPES.every((scope) => keptToken(scope) === null);
}

/** Ask for a token of `scope`; several askers share one dialog.
 *
 * text: parts of the explanation, every second one is code. attempt: what to do with the token while the dialog is open; when it
 * throws, the dialog says why and stays.
 *
 * Returns false where the reader cancels, else what `attempt` returned, or true.
 */
export function askToken(scope, options) {
  asking ??= open(scope, options).finally(() => { asking = null; });
  return asking;
}

function open(scope, { title, text, action, error = null, attempt = async () => true }) {
  const [dialog, field, submit, cancel, alert] = PARTS.map((id) => document.getElementById(id));
  document.getElementById("token-title").textContent = title;
  document.getElementById("token-text").replaceChildren(...text.map((part, i) => (i % 2 ? el("code", {}, part) : part)));
  submit.textContent = action;
  field.value = keptToken(scope) ?? "";
  const say = (message) => {
    alert.textContent = message ?? "";
    alert.hidden = !message;
    field.setAttribute("aria-invalid", String(Boolean(message)));
  };
  say(error);
  return new Promise((resolve) => {
    const done = new AbortController();
    let result = false;
    const busy = (on) => { submit.disabled = on; cancel.disabled = on; };
    const onSubmit = async (event) => {
      event.preventDefault();
      const token = field.value.trim();
      if (!PRINTABLE.test(token)) return say("Paste the token here: one word that starts with eqp_.");
      busy(true);
      try {
        result = await attempt(token);
        keep(scope, token);
        dialog.close();
      } catch (problem) {
        say(problem.message);
        field.focus();
      } finally {
        busy(false);
      }
    };
    const once = { signal: done.signal };
    dialog.querySelector("form").addEventListener("submit", onSubmit, once);
    cancel.addEventListener("click", () => dialog.close(), once);
    dialog.addEventListener("cancel", (event) => { if (submit.disabled) event.preventDefault(); }, once); // Escape
    dialog.addEventListener("close", () => { field.value = ""; done.abort(); resolve(result); }, once);
    dialog.showModal();
  });
}
