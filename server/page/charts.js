/** Pictures of a pack and of its learning. Every one has its content in words or numbers beside it. */

import { el, table } from "./dom.js";
import { count, percent, plural, short } from "./format.js";
import { scalarsOf } from "./pack.js";

const SVG = "http://www.w3.org/2000/svg";
const BINS = 32; // of a raw tensor's histogram
const NAMED = 4; // most bars that carry their numbers
const STRIP = 16384; // most weights that are drawn one by one
const ACROSS = 32; // least squares in the width of a strip, so that few are not huge
const LEVELS = 16; // shades of a raw tensor
const CURVE = { width: 600, height: 200 };

function svg(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** How many weights have which value: [{value, count}], by codebook entry, or in BINS equal bins of a raw tensor. */
export function histogramOf(tensor) {
  if (tensor.indexes) {
    const counts = new Array(tensor.codebook.length).fill(0);
    for (const index of tensor.indexes) counts[index]++;
    return counts.map((n, k) => ({ value: tensor.codebook[k], count: n }));
  }
  const low = tensor.values.reduce((least, value) => Math.min(least, value), Infinity);
  const high = tensor.values.reduce((most, value) => Math.max(most, value), -Infinity);
  const width = (high - low) / BINS || 1;
  const counts = new Array(BINS).fill(0);
  for (const value of tensor.values) counts[Math.min(BINS - 1, Math.floor((value - low) / width))]++;
  return counts.map((n, k) => ({ value: low + (k + 0.5) * width, count: n }));
}

/** Bars of how many weights have each value, and the numbers as a table. */
export function histogram(tensor) {
  const found = histogramOf(tensor);
  const all = found.reduce((sum, each) => sum + each.count, 0);
  const most = Math.max(...found.map((each) => each.count));
  const named = found.length <= NAMED;
  const bars = found.map((each) => {
    const fill = el("span", { class: "column-fill" });
    fill.style.setProperty("--share", String(each.count / most));
    return el("div", { class: "column" },
      el("div", { class: "column-space" }, named && el("span", { class: "column-count" }, percent(each.count / all)), fill),
      named && el("span", { class: "column-value" }, short(each.value)));
  });
  const ends = [short(found[0].value), short(found.at(-1).value)];
  const what = tensor.indexes ? "codebook value" : "value";
  const caption = `How many weights have ${tensor.indexes ? "each codebook value" : `which value, in ${BINS} steps`}`;
  const text = `Histogram: ${plural(all, "weight", "weights")} over ${found.length} ${what}s from ${ends[0]} to ${ends[1]}`;
  const picture = el("div", { class: "histogram", role: "img", "aria-label": text }, ...bars);
  picture.style.setProperty("--columns", String(bars.length));
  return el("figure", { class: "chart" },
    picture,
    !named && axis(...ends),
    el("figcaption", {}, caption),
    el("details", {}, el("summary", {}, "As a table"), histogramTable(found, all, what, caption)));
}

function histogramTable(found, all, what, caption) {
  const titles = [what[0].toUpperCase() + what.slice(1), "Weights", "Share"];
  const columns = titles.map((title) => ({ title, kind: "number" }));
  return el("div", { class: "numbers" }, table(caption, columns,
    found.map((each) => [short(each.value), count(each.count), percent(each.count / all)])));
}

function axis(left, right, kind = "") {
  return el("div", { class: `axis ${kind}`.trim(), "aria-hidden": "true" }, el("span", {}, left), el("span", {}, right));
}

/** Every weight of a tensor as a small square, the darker the higher its value; null for one too large to draw. */
export function strip(tensor) {
  const scalars = scalarsOf(tensor);
  if (scalars > STRIP) return null;
  const tokens = tensor.shape.length > 1 ? tensor.shape[0] : 1;
  const width = scalars / tokens;
  const columns = Math.min(width, width > 256 ? 128 : 64);
  const lines = Math.ceil(width / columns);
  const levels = levelsOf(tensor);
  const rows = Array.from({ length: tokens }, (_, i) => svg("rect", { x: 0, y: i * (lines + 1), width: columns, height: lines }));
  const paths = new Map();
  levels.forEach((level, i) => {
    const [token, place] = [Math.floor(i / width), i % width];
    const y = token * (lines + 1) + Math.floor(place / columns);
    paths.set(level, `${paths.get(level) ?? ""}M${place % columns} ${y}h1v1h-1z`);
  });
  paths.delete(0);
  const drawn = [...paths].map(([level, d]) => svg("path", { d, "fill-opacity": level.toFixed(3) }));
  const height = tokens * (lines + 1) - 1;
  const text = `All ${count(scalars)} weights as squares: ${plural(tokens, "row", "rows")} of ${width}`;
  return svg("svg", { class: "strip", viewBox: `0 0 ${Math.max(columns, ACROSS)} ${height}`, role: "img", "aria-label": text }, ...rows, ...drawn);
}

/** Each weight as a shade of 0 to 1. */
function levelsOf(tensor) {
  if (tensor.indexes) return Array.from(tensor.indexes, (index) => index / (tensor.codebook.length - 1));
  const low = tensor.values.reduce((least, value) => Math.min(least, value), Infinity);
  const high = tensor.values.reduce((most, value) => Math.max(most, value), -Infinity);
  return Array.from(tensor.values, (value) => Math.round(((value - low) / (high - low || 1)) * (LEVELS - 1)) / (LEVELS - 1));
}

/** A falling line; points are [epoch, loss], at least two. */
export function curve(points) {
  const losses = points.map(([, loss]) => loss);
  const [top, bottom] = [Math.max(...losses), Math.min(...losses)];
  const [first, last] = [points[0][0], points.at(-1)[0]];
  const x = (epoch) => (((epoch - first) / (last - first || 1)) * CURVE.width).toFixed(1);
  const y = (loss) => (((top - loss) / (top - bottom || 1)) * CURVE.height).toFixed(1);
  const line = points.map(([epoch, loss]) => `${x(epoch)},${y(loss)}`);
  const area = `0,${CURVE.height} ${line.join(" ")} ${CURVE.width},${CURVE.height}`;
  const grid = [0.25, 0.5, 0.75].map((part) => part * CURVE.height);
  const text = `Loss while learning: ${short(losses[0])} after epoch ${first}, ${short(losses.at(-1))} after epoch ${last}`;
  const viewBox = `0 0 ${CURVE.width} ${CURVE.height}`;
  const picture = svg("svg", { class: "curve", viewBox, preserveAspectRatio: "none", role: "img", "aria-label": text },
    ...grid.map((at) => svg("line", { x1: 0, x2: CURVE.width, y1: at, y2: at, class: "curve-grid" })),
    svg("polygon", { points: area, class: "curve-area" }),
    svg("polyline", { points: line.join(" "), class: "curve-line" }));
  return el("figure", { class: "chart" },
    el("div", { class: "curve-frame" },
      el("div", { class: "curve-axis", "aria-hidden": "true" }, el("span", {}, short(top)), el("span", {}, short(bottom))),
      picture),
    axis(`epoch ${first}`, `epoch ${last}`, "curve-epochs"),
    el("figcaption", {}, `Loss while learning: ${short(losses[0])} at first, ${short(losses.at(-1))} at the end`));
}
