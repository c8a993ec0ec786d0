/** Reads a pack as docs/pack-format.md says, in the order of "Reading what nobody vouches for".
 *
 * Any bytes at all give a pack or a PackError.
 * Symbols: N scalars in a tensor, b bits, K = 2^b values in a codebook.
 */

export const MAX_BYTES = 33554432;
const MAX_SCALARS = 16777216;
const MAX_SECTIONS = 255;
const MAX_NAMES = 65535;
const HEAD = 24;
const CRC = 4;
const SECTION = 5;
const RAW_BITS = 16;
const MAGIC = 0x89_51_50_4b; // read big-endian
const ESSENTIAL_BELOW = 128;
const MAX_TEMPLATES = 128;
const TAGS = { 1: "template", 2: "residualBias", 3: "templates", 4: "sharedAdapter", 5: "decision", 128: "classNames", 129: "namesDigest", 130: "provenance" };
const DECISION = ["spread", "distance", "unknown", "text", "seenText", "seen"];
const METHODS = ["zero-shot", "coop", "qcoop", "kgcoop", "prograd", "ptq-coop", "noise-coop", "qres", "qcoop+qres",
  "cocoop", "clip-adapter", "clip-lora", "maple", "qmaple", "learned-qres",
  "p4q", "qp4q", "p4q-prompt", "p4q-adapter", "qkgcoop", "qkgcoop+qres", "qgda"];
const PRECISIONS = ["fp32", "int8", "w4a8", "w4a4"];
const UNPRINTABLE = /[\u0000-\u001f\u007f-\u009f\u2028\u2029]/;

/** Whatever is wrong with the bytes. */
export class PackError extends Error {}

/** Decode an ArrayBuffer.
 *
 * Returns {size, method, precision, fingerprint, tensors, sections, classNames, template, templates, residualBias,
 * sharedAdapter, decision, namesDigest, provenance}, the adapter's digest in hex; a decision has DECISION's numbers, a tensor has
 * {role, bits, shape, codebook, indexes, values, size, payload}: codebook and indexes are null in a raw one, values is null in a
 * quantized one.
 */
export function readPack(buffer) {
  const view = new DataView(buffer);
  const head = readHead(view);
  const reader = { view, at: HEAD, end: buffer.byteLength - CRC };
  const spans = readSpans(reader, head.tensorCount);
  const total = reader.at + head.extension + CRC;
  check(total === buffer.byteLength, `the pack is ${buffer.byteLength} bytes, its head says ${total}`);
  check(crc32(new Uint8Array(buffer, 0, reader.end)) === view.getUint32(reader.end, true), "the checksum does not match");
  const tensors = spans.map((span) => readTensor(view, span));
  return { size: buffer.byteLength, ...head, tensors, ...readSections(reader) };
}

/** N of a tensor. */
export function scalarsOf({ shape }) {
  return shape.reduce((product, n) => product * n, 1);
}

function check(holds, otherwise) {
  if (!holds) throw new PackError(otherwise);
}

function readHead(view) {
  check(view.byteLength <= MAX_BYTES, `larger than ${MAX_BYTES} bytes`);
  check(view.byteLength >= 4 && view.getUint32(0) === MAGIC, "not a pack");
  check(view.byteLength >= HEAD + CRC, `${view.byteLength} bytes are less than the smallest pack has`);
  check(view.getUint8(4) === 1, `pack format version ${view.getUint8(4)}, this page reads 1`);
  check(view.getUint32(20) === 0, "reserved bytes of the head are not zero");
  return {
    precision: PRECISIONS[view.getUint8(5)] ?? `precision ${view.getUint8(5)}`,
    tensorCount: view.getUint8(6),
    method: METHODS[view.getUint8(7)] ?? `method ${view.getUint8(7)}`,
    extension: view.getUint32(8, true),
    fingerprint: hex(new Uint8Array(view.buffer, 12, 8)),
  };
}

function hex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The offset of the next `count` bytes, which are stepped over. */
function skip(reader, count, what) {
  const left = reader.end - reader.at;
  check(count <= left, `${what} needs ${count} bytes at offset ${reader.at}, ${left} are left`);
  reader.at += count;
  return reader.at - count;
}

/** Where the tensors lie: nothing but records and shapes is read. */
function readSpans(reader, count) {
  const spans = [];
  let room = MAX_SCALARS;
  for (let i = 0; i < count; i++) {
    const span = readSpan(reader, room, `tensor ${i}`);
    room -= span.count;
    spans.push(span);
  }
  return spans;
}

function readSpan(reader, room, name) {
  const { view } = reader;
  const start = skip(reader, 4, `the record of ${name}`);
  const [role, bits, dims, reserved] = new Uint8Array(view.buffer, start, 4);
  check((bits >= 1 && bits <= 8) || bits === RAW_BITS, `${name} has ${bits} bits: 1 to 8 or 16 exist`);
  check(dims >= 1 && dims <= 4, `${name} has ${dims} dimensions: 1 to 4 are possible`);
  check(reserved === 0, `the reserved byte of ${name} is not zero`);
  const shapeAt = skip(reader, 2 * dims, `the shape of ${name}`);
  const shape = Array.from({ length: dims }, (_, i) => view.getUint16(shapeAt + 2 * i, true));
  check(!shape.includes(0), `${name} has an empty dimension`);
  const scalars = scalarsOf({ shape }); // below 2^64: inexact there, yet far above the limit
  check(scalars <= room, `${name} has more values than all tensors together can have`);
  const codebookAt = skip(reader, bits === RAW_BITS ? 0 : 2 * 2 ** bits, `the codebook of ${name}`);
  const dataAt = skip(reader, Math.ceil((bits * scalars) / 8), `the data of ${name}`);
  return { name, role, bits, shape, count: scalars, codebookAt, dataAt, start, end: reader.at };
}

function readTensor(view, span) {
  const { name, role, bits, shape, count } = span;
  const tensor = { role, bits, shape, size: span.end - span.start, payload: span.end - span.codebookAt };
  if (bits === RAW_BITS) {
    return { ...tensor, codebook: null, indexes: null, values: readHalves(view, span.dataAt, count, name) };
  }
  const codebook = readHalves(view, span.codebookAt, 2 ** bits, name);
  check(codebook.every((value, k) => k === 0 || codebook[k - 1] <= value), `the codebook of ${name} does not rise`);
  const used = (count * bits) % 8; // bits of the last byte; 0 means all
  check(!used || view.getUint8(span.end - 1) >> used === 0, `the padding of ${name} is not zero`);
  return { ...tensor, codebook, indexes: readIndexes(new Uint8Array(view.buffer, span.dataAt), count, bits), values: null };
}

function readHalves(view, at, count, name) {
  const values = Float32Array.from({ length: count }, (_, i) => half(view.getUint16(at + 2 * i, true)));
  check(values.every(Number.isFinite), `a value of ${name} is not finite`);
  return values;
}

/** IEEE 754 binary16. */
function half(word) {
  const sign = word & 0x8000 ? -1 : 1;
  const exponent = (word >> 10) & 0x1f;
  const fraction = word & 0x3ff;
  if (exponent === 0x1f) return fraction ? NaN : sign * Infinity;
  return exponent ? sign * 2 ** (exponent - 25) * (1024 + fraction) : sign * 2 ** -24 * fraction;
}

/** Index i is bits i b to i b + b - 1 of the stream, the least significant first. */
function readIndexes(stream, count, bits) {
  const indexes = new Uint8Array(count);
  for (let i = 0, bit = 0; i < count; i++, bit += bits) {
    const two = stream[bit >> 3] | ((stream[(bit >> 3) + 1] ?? 0) << 8); // b <= 8: an index lies across two bytes at most
    indexes[i] = (two >> (bit & 7)) & ((1 << bits) - 1);
  }
  return indexes;
}

function readSections(reader) {
  const found = { classNames: null, template: null, templates: null, residualBias: null, sharedAdapter: null,
    decision: null, namesDigest: null, provenance: null };
  const sections = [];
  while (reader.at < reader.end) {
    check(sections.length < MAX_SECTIONS, `more than ${MAX_SECTIONS} sections`);
    const start = skip(reader, SECTION, "the head of a section");
    const tag = reader.view.getUint8(start);
    const length = reader.view.getUint32(start + 1, true);
    const data = new Uint8Array(reader.view.buffer, skip(reader, length, "a section"), length);
    const name = TAGS[tag];
    check(name || tag >= ESSENTIAL_BELOW, `the pack needs feature ${tag}, which this page does not know`);
    check(!name || found[name] === null, `section ${name} comes twice`);
    if (name) found[name] = readKnown(name, data);
    sections.push({ tag, size: SECTION + length });
  }
  return { sections, ...found };
}

function readKnown(name, data) {
  if (name === "namesDigest" || name === "sharedAdapter") {
    check(data.length === 32, `section ${name} is not 32 bytes, as a SHA-256 is`);
    return name === "sharedAdapter" ? hex(data) : data;
  }
  if (name === "residualBias") {
    const value = data.length === 4 ? new DataView(data.buffer, data.byteOffset).getFloat32(0, true) : NaN;
    check(Number.isFinite(value), "the residual bias is not one finite number");
    return value;
  }
  if (name === "decision") return readDecision(data);
  const text = decodeText(data);
  if (name === "classNames") return readNames(text);
  if (name === "templates") return readTemplates(text);
  check(!UNPRINTABLE.test(text), `section ${name} holds a control character`);
  check(name !== "template" || text.split("{}").length === 2, "the template must hold {} once");
  return text;
}

function readDecision(data) {
  check(data.length === 2 * DECISION.length, `section decision is not ${DECISION.length} numbers of two bytes`);
  const values = readHalves(new DataView(data.buffer, data.byteOffset), 0, DECISION.length, "section decision");
  const decision = Object.fromEntries(DECISION.map((name, i) => [name, values[i]]));
  check(decision.spread > 0 && decision.distance > 0, "spread or distance of a decision is not above 0");
  return decision;
}

function readTemplates(text) {
  const templates = text.split("\n", MAX_TEMPLATES + 1);
  check(templates.length >= 2 && templates.length <= MAX_TEMPLATES, `there are not 2 to ${MAX_TEMPLATES} templates`);
  for (const template of templates) {
    check(!UNPRINTABLE.test(template), "a template holds a control character");
    check(template.split("{}").length === 2, "a template must hold {} once");
  }
  return templates;
}

function decodeText(data) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(data);
  } catch {
    throw new PackError("a text is not UTF-8");
  }
}

function readNames(text) {
  const names = text.split("\n", MAX_NAMES + 1);
  check(names.length <= MAX_NAMES, `more than ${MAX_NAMES} class names`);
  for (const name of names) {
    check(/[^\p{Zs}]/u.test(name), "a class name is blank"); // \p{Zs} is the format's list of white space
    check(!UNPRINTABLE.test(name), "a class name holds a control character");
  }
  return names;
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? (byte >>> 1) ^ 0xedb88320 : byte >>> 1;
  return byte;
});

function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = (crc >>> 8) ^ CRC_TABLE[(crc ^ byte) & 0xff];
  return (crc ^ 0xffffffff) >>> 0;
}
