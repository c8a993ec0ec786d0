/** Requests to the server this page came from; all that goes wrong becomes a Problem with a sentence for people. */

import { askToken, keptToken } from "./token.js";

const TIMEOUT_MS = 60_000;
const MAX_DETAIL = 600; // letters of an error that are shown

/** What the server refused, or why it was not reached.
 *
 * status: 0 where no answer came; retryAfter: seconds, or null.
 */
export class Problem extends Error {
  constructor(status, message, retryAfter = null) {
    super(message.slice(0, MAX_DETAIL));
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** The server's address without a slash at its end, as commands need it. */
export function serverUrl() {
  return new URL(".", document.baseURI).href.replace(/\/$/, "");
}

/** Fetch a path below this page's address.
 *
 * options: method, body, type (of the body), token, signal, cache (as fetch has it; by default every answer is checked with the
 * server).
 * A 401 asks for a token and goes on, unless `token` is given: then the caller asks.
 *
 * Returns the Response. Throws a Problem, or the AbortError of `signal`.
 */
export async function ask(path, options = {}) {
  for (;;) {
    try {
      return await once(path, options);
    } catch (problem) {
      const wantsToken = problem instanceof Problem && problem.status === 401 && !options.token;
      if (!wantsToken || !(await newToken(problem))) throw problem;
    }
  }
}

/** The same, for JSON. */
export async function askJson(path, options) {
  const response = await ask(path, options);
  try {
    return await response.json();
  } catch {
    throw new Problem(response.status, "The server's answer is not JSON. Is there a proxy between?");
  }
}

/** Ask for a token to read and classify with; false where the reader would rather not. */
export async function newToken(problem) {
  const refused = keptToken("read") !== null;
  return askToken("read", {
    title: "This server wants a token",
    text: ["Its owner makes one with ", "edge-qprompt token create --store DIR --scope read --scope classify"],
    action: "Go on",
    error: refused || problem.status === 403 ? problem.message : null,
  });
}

async function once(path, { method = "GET", body, signal, token, type, cache = "no-cache" }) {
  const headers = {};
  const bearer = token ?? keptToken("read");
  if (bearer) headers.Authorization = `Bearer ${bearer}`;
  if (type) headers["Content-Type"] = type;
  const timeout = AbortSignal.timeout(TIMEOUT_MS);
  const either = signal ? AbortSignal.any([signal, timeout]) : timeout;
  let response;
  try {
    response = await fetch(path, { method, body, headers, signal: either, cache });
  } catch (error) {
    throw signal?.aborted ? error : lost(timeout.aborted);
  }
  if (!response.ok) throw await problemOf(response);
  return response;
}

function lost(late) {
  if (late) return new Problem(0, `The server gave no answer within ${TIMEOUT_MS / 1000} seconds.`);
  if (!navigator.onLine) return new Problem(0, "This device is offline. Connect it to the network, then try again.");
  return new Problem(0, "The server cannot be reached. Check that it runs and that the network is there, then try again.");
}

async function problemOf(response) {
  let found = {};
  try {
    found = await response.json();
  } catch {
    // not from our server: a proxy's page says nothing to people
  }
  const message = [found?.detail, found?.title].find((text) => typeof text === "string" && text.trim());
  return new Problem(response.status, message ?? `The server answered ${response.status}.`, retryAfter(response));
}

/** Retry-After is seconds or a date (RFC 9110, 10.2.3). */
function retryAfter(response) {
  const given = response.headers.get("Retry-After")?.trim();
  if (!given) return null;
  if (/^\d+$/.test(given)) return Number(given);
  const at = Date.parse(given);
  return Number.isNaN(at) ? null : Math.max(0, Math.ceil((at - Date.now()) / 1000));
}
