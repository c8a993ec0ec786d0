/** Numbers and times as people read them, always from values that are checked first. */

const COUNT = new Intl.NumberFormat("en");
const SHARE = new Intl.NumberFormat("en", {
  minimumFractionDigits: 1,
  maximumFractionDigits: 1,
  roundingMode: "halfEven", // as Python, so that page and command line agree
});
const DAY = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short" });
const SPAN = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
// seconds of each unit, and how many of it there must be to count in it
const SPANS = [["year", 31557600, 2], ["month", 2629800, 4], ["day", 86400, 1], ["hour", 3600, 1], ["minute", 60, 1]];
const NO_BREAK = "\u00a0";
export const NONE = "\u2013"; // en dash

/** A finite number, or null for anything else. */
export function numberOf(value) {
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}

/** 0.8125 as "81.2 %", as the command line prints it. */
export function percent(share) {
  return numberOf(share) === null ? NONE : `${SHARE.format(100 * share)}${NO_BREAK}%`;
}

/** 1234 as "1,234". */
export function count(value) {
  return numberOf(value) === null ? NONE : COUNT.format(value);
}

/** 1234 as "1,234 bytes". */
export function bytes(value) {
  return numberOf(value) === null ? NONE : `${COUNT.format(value)}${NO_BREAK}${value === 1 ? "byte" : "bytes"}`;
}

/** "1 class", "3 classes". */
export function plural(value, one, many) {
  return `${count(value)} ${value === 1 ? one : many}`;
}

/** A codebook value or a loss, with three decimals or, where that shows nothing, three digits. */
export function short(value) {
  const fixed = value.toFixed(3);
  return (value !== 0 && Number(fixed) === 0 ? value.toPrecision(3) : fixed).replace("-", "\u2212");
}

/** Seconds to wait as "12 seconds" or "3 minutes". */
export function duration(seconds) {
  return seconds < 120 ? plural(Math.ceil(seconds), "second", "seconds") : `${Math.ceil(seconds / 60)} minutes`;
}

/** The moment that a text like 2026-11-21T14:00:00Z says, or null for anything else. */
export function dateOf(text) {
  const date = new Date(typeof text === "string" ? text : NaN);
  return Number.isNaN(date.getTime()) ? null : date;
}

/** A <time> element: "2 hours ago", or with `exact` the date and hour of the reader's own clock; anything else is a dash. */
export function time(text, { exact = false } = {}) {
  const date = dateOf(text);
  if (date === null) return NONE;
  const node = document.createElement("time");
  node.dateTime = date.toISOString();
  node.title = DAY.format(date);
  node.textContent = exact ? DAY.format(date) : ago(date);
  return node;
}

/** How far a date is from now: "in 89 days", "yesterday". */
export function ago(date) {
  const seconds = (date.getTime() - Date.now()) / 1000;
  const [unit, size] = SPANS.find(([, each, least]) => Math.abs(seconds) >= least * each) ?? ["second", 1];
  return unit === "second" ? "just now" : SPAN.format(Math.trunc(seconds / size), unit);
}
