/** How a version was learned, from the report that its publisher sent: claims of the publisher, checked for form only. */

import { curve } from "./charts.js";
import { bar, el, facts, section } from "./dom.js";
import { count, numberOf, percent, plural } from "./format.js";

const MOST_POINTS = 1000;

/** The card, or null where the report says nothing that can be shown. */
export function learningCard(shown) {
  const report = shown.report;
  if (report === null || typeof report !== "object") return null;
  const points = lossesOf(report);
  const parts = [accuracies(report), points.length > 1 ? curve(points) : null, how(report)].filter(Boolean);
  return parts.length ? section("How it was learned", ...parts) : null;
}

/** [epoch, loss] pairs; `loss_by_epoch`, the plain list of `adapt --json`, will do as well. */
export function lossesOf(report) {
  const pairs = Array.isArray(report.losses) ? report.losses : Array.isArray(report.loss_by_epoch) ? report.loss_by_epoch : [];
  const points = pairs.map((each, i) => (Array.isArray(each) ? each : [i + 1, each]));
  return points.slice(0, MOST_POINTS).filter((point) => point.length === 2 && point.every((value) => numberOf(value) !== null));
}

/** A share of the report: a number of 0 to 1, else null. */
function share(value) {
  const number = numberOf(value);
  return number !== null && number >= 0 && number <= 1 ? number : null;
}

function accuracies(report) {
  const held = share(report.held_out_accuracy) ?? share(report.held_out?.pack);
  const train = share(report.train_accuracy) ?? share(report.train?.pack);
  const byHand = share(report.zero_shot_accuracy) ?? share(report.held_out?.zero_shot);
  const images = numberOf(report.held_out_images) ?? numberOf(report.held_out?.n);
  const rows = [
    ["This pack", held ?? train, "strong"],
    ["The prompt written by hand", byHand, ""],
    ["This pack, photos it learned from", held === null ? null : train, ""],
  ].filter(([, value]) => value !== null);
  if (!rows.length) return null;
  const photos = images ? plural(images, "photo", "photos") : "photos";
  const where = held === null ? "on the photos it learned from" : `on ${photos} it did not learn from`;
  return el("div", {}, el("p", { class: "soft" }, `Accuracy ${where}, as its publisher measured it`),
    el("ul", { class: "bars plain" }, ...rows.map(([what, value, kind]) => el("li", {},
      el("span", { class: "label" }, what), el("span", { class: "percent" }, percent(value)), bar(value, kind)))));
}

function how(report) {
  const seconds = Object.values(report.seconds ?? {}).filter((each) => numberOf(each) !== null);
  const expected = share(report.expected_accuracy);
  const entries = [
    expected !== null && ["Expected", `${percent(expected)} on new photos, by those left out in turn`],
    numberOf(report.images_used) !== null && ["Photos", count(report.images_used)],
    numberOf(report.steps) !== null && ["Steps", count(report.steps)],
    seconds.length > 0 && ["Time", `${seconds.reduce((sum, each) => sum + each, 0).toFixed(1)} seconds`],
    numberOf(report.peak_memory_mb) !== null && ["Memory", `${count(Math.round(report.peak_memory_mb))} MB`],
    numberOf(report.seed) !== null && ["Seed", String(report.seed)],
  ].filter(Boolean);
  return entries.length ? facts(entries) : null;
}
