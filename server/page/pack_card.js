/** What is in a pack: its prompt, codebook, histogram and where its bytes go. */

import { histogram, histogramOf, strip } from "./charts.js";
import { bar, el, facts, nameOf, section } from "./dom.js";
import { bytes, count, percent, short } from "./format.js";

const FLOAT16 = 2; // bytes a weight as CoOp stores it
const FRAME = 28; // head and checksum
const CTX = 1;
const NAMED = 16; // largest codebook whose values are all written out

/** The card of a pack from `readPack`; `shown` is the version as the server describes it. */
export function packCard(pack, shown) {
  const prompts = pack.tensors.map((tensor, i) => tensorPart(tensor, i));
  const text = pack.template === null ? null : el("p", {}, "A prompt written by hand, nothing learned: ", el("q", {}, nameOf(pack.template)));
  return section("What is in the pack", text, ...prompts, el("h3", {}, "Where the bytes go"), sizes(pack), facts([
    ["Learned from", `${pack.precision} features of backbone `, el("code", {}, pack.fingerprint)],
    pack.provenance ? ["Note", nameOf(pack.provenance)] : null,
    ["SHA-256", el("code", { class: "digest" }, String(shown.pack))],
  ]));
}

function tensorPart(tensor, i) {
  const what = tensor.role === CTX ? "prompt" : `tensor ${i}, role ${tensor.role}`;
  const scalars = tensor.shape.reduce((product, n) => product * n, 1);
  const width = tensor.codebook ? `${tensor.bits} ${tensor.bits === 1 ? "bit" : "bits"} each` : "float16, not quantized";
  const squares = strip(tensor);
  return el("div", { class: "tensor" },
    el("p", {}, `The ${what}: `, el("strong", {}, `${tensor.shape.join(" \u00d7 ")} weights, ${width}`), `, ${count(scalars)} in all.`),
    squares && el("figure", { class: "chart" }, squares, el("figcaption", {}, "Every weight, a row of squares for each token")),
    tensor.codebook && codebook(tensor),
    histogram(tensor));
}

function codebook(tensor) {
  if (tensor.codebook.length > NAMED) {
    return el("p", {}, `Codebook: ${tensor.codebook.length} values from ${short(tensor.codebook[0])} to ${short(tensor.codebook.at(-1))}.`);
  }
  const values = histogramOf(tensor).map(({ value }) => el("li", {}, el("code", {}, short(value))));
  return el("div", { class: "codebook" }, el("span", {}, "Codebook"), el("ul", {}, ...values));
}

function sizes(pack) {
  const payload = pack.tensors.reduce((sum, tensor) => sum + tensor.payload, 0);
  const records = pack.tensors.reduce((sum, tensor) => sum + tensor.size - tensor.payload, 0);
  const names = pack.sections.filter((each) => each.tag === 128).reduce((sum, each) => sum + each.size, 0);
  const others = pack.sections.reduce((sum, each) => sum + each.size, 0) - names;
  const parts = [["Prompt and codebook", payload], ["Class names", names], ["Head, records, checksum", FRAME + records], ["Other sections", others]];
  const scalars = pack.tensors.reduce((sum, tensor) => sum + tensor.shape.reduce((product, n) => product * n, 1), 0);
  const rows = parts.filter(([, size]) => size > 0).map(([what, size]) => el("li", {},
    el("span", { class: "label" }, what), el("span", { class: "percent" }, bytes(size)), bar(size / pack.size)));
  const whole = pack.tensors.some((tensor) => tensor.codebook) ? ` The same prompt as float16 takes ${bytes(FLOAT16 * scalars)}; here it takes ${percent(payload / (FLOAT16 * scalars))} of that.` : "";
  return el("div", {}, el("ul", { class: "bars plain" }, ...rows), el("p", { class: "soft" }, `${bytes(pack.size)} in all.${whole}`));
}
