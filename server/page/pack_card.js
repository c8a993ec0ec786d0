/** What is in a pack: its prompt, codebook, histogram and where its bytes go. */

import { histogram, strip } from "./charts.js";
import { bar, el, facts, nameOf, section } from "./dom.js";
import { bytes, count, percent, plural, short } from "./format.js";
import { scalarsOf } from "./pack.js";

const FLOAT16 = 2; // bytes a weight as CoOp stores it
const FRAME = 28; // head and checksum
const UNIT = "inner unit";
const LAYER = "layer";
const ROLES = {
  1: { what: "prompt", row: "token" },
  2: { what: "class residuals", row: "class" },
  3: { what: "net from a photo to its prompt, first layer", row: UNIT },
  4: { what: "net from a photo to its prompt, second layer", row: "output" },
  5: { what: "net on a photo\u2019s feature, first layer", row: UNIT },
  6: { what: "net on a photo\u2019s feature, second layer", row: "output" },
  7: { what: "prompt inside the text encoder", row: LAYER },
  8: { what: "prompt inside the image encoder", row: LAYER },
  9: { what: "text encoder\u2019s change, first factor", row: LAYER },
  10: { what: "text encoder\u2019s change, second factor", row: LAYER },
  11: { what: "image encoder\u2019s change, first factor", row: LAYER },
  12: { what: "image encoder\u2019s change, second factor", row: LAYER },
  13: { what: "discriminant", row: "class" },
  14: { what: "discriminant\u2019s scales and offsets", row: "of the two" },
  15: { what: "mean feature of the photos", row: "vector" },
};
const NAMES = 128; // tag
const NAMED = 16; // largest codebook whose values are all written out

/** The card of a pack from `readPack`; `shown` is the version as the server describes it. */
export function packCard(pack, shown) {
  const prompts = pack.tensors.map((tensor, i) => tensorPart(tensor, i));
  return section("What is in the pack",
    pack.templates && el("p", {}, `The mean of ${pack.templates.length} prompts written by hand: `, el("q", {}, nameOf(pack.templates.join("; ")))),
    pack.template !== null && el("p", {}, purpose(pack), el("q", {}, nameOf(pack.template))),
    ...prompts,
    el("h3", {}, "Where the bytes go"),
    sizes(pack),
    facts([
      ["Learned from", `${pack.precision} features of backbone `, el("code", {}, pack.fingerprint)],
      pack.decision ? ["Unknown", `photos of familiarity below ${short(pack.decision.unknown)} show none of the classes`] : null,
      pack.sharedAdapter ? ["Adapter", "in another pack, ", el("code", { class: "digest" }, pack.sharedAdapter)] : null,
      pack.provenance ? ["Note", nameOf(pack.provenance)] : null,
      ["SHA-256", el("code", { class: "digest" }, String(shown.pack))],
    ]));
}

/** What a prompt written by hand is there for. */
function purpose(pack) {
  if (pack.decision) return "Class names count by a prompt written by hand: ";
  return pack.tensors.length ? "Below it, a prompt written by hand: " : "A prompt written by hand, nothing learned: ";
}

function tensorPart(tensor, i) {
  const { what, row } = ROLES[tensor.role] ?? { what: `tensor ${i}, role ${tensor.role}`, row: "entry of the first dimension" };
  const width = tensor.codebook ? `${plural(tensor.bits, "bit", "bits")} each` : "float16, not quantized";
  const squares = strip(tensor);
  return el("div", { class: "tensor" },
    el("p", {},
      `The ${what}: `,
      el("strong", {}, `${tensor.shape.join(" \u00d7 ")} weights, ${width}`),
      `, ${count(scalarsOf(tensor))} in all.`),
    squares && el("figure", { class: "chart" }, squares, el("figcaption", {}, `Every weight, a row of squares for each ${row}`)),
    tensor.codebook && codebook(tensor),
    histogram(tensor));
}

function codebook({ codebook }) {
  if (codebook.length > NAMED) {
    return el("p", {}, `Codebook: ${codebook.length} values from ${short(codebook[0])} to ${short(codebook.at(-1))}.`);
  }
  const values = Array.from(codebook, (value) => el("li", {}, el("code", {}, short(value))));
  return el("div", { class: "codebook" }, el("span", {}, "Codebook"), el("ul", {}, ...values));
}

function sizes(pack) {
  const total = (sizes) => sizes.reduce((sum, size) => sum + size, 0);
  const payload = total(pack.tensors.map((tensor) => tensor.payload));
  const names = total(pack.sections.filter((each) => each.tag === NAMES).map((each) => each.size));
  const parts = [
    ["Weights and codebooks", payload],
    ["Class names", names],
    ["Head, records, checksum", FRAME + total(pack.tensors.map((tensor) => tensor.size)) - payload],
    ["Other sections", total(pack.sections.map((each) => each.size)) - names],
  ];
  const rows = parts.filter(([, size]) => size > 0).map(([what, size]) => el("li", {},
    el("span", { class: "label" }, what), el("span", { class: "percent" }, bytes(size)), bar(size / pack.size)));
  const float16 = FLOAT16 * total(pack.tensors.map(scalarsOf));
  const compared = ` The same weights as float16 take ${bytes(float16)}; here they take ${percent(payload / float16)} of that.`;
  const whole = `${bytes(pack.size)} in all.${pack.tensors.some((tensor) => tensor.codebook) ? compared : ""}`;
  return el("div", {}, el("ul", { class: "bars plain" }, ...rows), el("p", { class: "soft" }, whole));
}
