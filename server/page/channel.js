/** What the stable channel states, read from its DSSE envelope. The page has no key: it shows, devices verify. */

import { askJson } from "./api.js";
import { el, facts, section } from "./dom.js";
import { ago, count, dateOf, numberOf, time } from "./format.js";
import { problemBox } from "./problem.js";

/** The card; it loads the envelope itself where there is one. */
export function channelCard(task, signal) {
  const stable = task.channels?.stable;
  if (numberOf(stable?.version) === null) {
    return section("Channel stable", el("p", {}, "Nothing is on it yet, so devices get nothing and no photo is classified."));
  }
  const place = el("div", { "aria-busy": "true" });
  fill(place, task.name, stable, signal);
  return section("Channel stable", place);
}

async function fill(place, name, stable, signal) {
  try {
    const envelope = await askJson(`v1/tasks/${encodeURIComponent(name)}/channels/stable`, { signal });
    place.replaceChildren(...contents(readEnvelope(envelope), stable));
  } catch (problem) {
    if (signal.aborted) return;
    place.replaceChildren(problemBox("The channel cannot be shown", problem, () => fill(place, name, stable, signal)));
  } finally {
    place.setAttribute("aria-busy", "false");
  }
}

/** {statement, keys}: the payload, unverified, and the ids of the keys that are said to have signed it. */
export function readEnvelope(envelope) {
  try {
    const bytes = Uint8Array.from(atob(envelope.payload), (letter) => letter.charCodeAt(0));
    const statement = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
    if (statement === null || typeof statement !== "object") throw new Error("it is no object");
    return { statement, keys: envelope.signatures.map((signature) => String(signature.keyid)) };
  } catch (error) {
    throw new Error(`The channel's statement cannot be read: ${error.message}`);
  }
}

function contents({ statement, keys }, stable) {
  const expires = dateOf(statement.expires);
  const over = expires !== null && expires.getTime() < Date.now();
  const signed = keys.length > 0;
  return [
    el("p", { class: "state" }, el("span", { class: signed ? "chip accent" : "chip warn" }, signed ? "signed" : "not signed"),
      over && el("span", { class: "chip warn" }, "expired"), el("span", {}, advice(signed, over))),
    facts([
      ["Version", `version ${count(statement.version)}`],
      ["Statement", `number ${count(statement.serial)}`],
      ["Issued", time(statement.issued, { exact: true })],
      ["Expires", time(statement.expires, { exact: true }), el("span", { class: "soft" }, expires && ` ${ago(expires)}`)],
      stable.moved ? ["Moved", time(stable.moved, { exact: true })] : null,
      signed ? ["Key", ...keys.flatMap((key, i) => [i ? ", " : "", el("code", {}, key)])] : null,
    ]),
  ];
}

function advice(signed, over) {
  if (!signed) return "This server answers with it. Devices refuse it and stay with what they have.";
  if (over) return "Devices refuse a statement that has expired: push or roll back again to renew it.";
  return "Devices take it when the key is theirs. They check that themselves; this page does not.";
}
