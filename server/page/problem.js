/** How an error looks: what failed, the server's sentence, when to try again, and the button that does. */

import { newToken } from "./api.js";
import { button, el } from "./dom.js";
import { duration } from "./format.js";

/** A box that a screen reader announces.
 *
 * what: what failed, in a few words. retry: what to do again.
 */
export function problemBox(what, problem, retry) {
  const wantsToken = problem.status === 401 || problem.status === 403;
  const act = wantsToken ? async () => { if (await newToken(problem)) retry(); } : retry;
  const wait = problem.retryAfter == null ? null : el("p", { class: "wait" }, `Try again in ${duration(problem.retryAfter)}.`);
  return el("div", { class: "problem", role: "alert" },
    el("p", { class: "problem-title" }, what),
    el("p", {}, problem.message),
    wait,
    button(wantsToken ? "Enter a token" : "Try again", { class: "button" }, act));
}
