/** Small builders of elements. Text always goes in as a text node: names that come from the server are nobody's HTML. */

/** An element with attributes (false, null and undefined leave one out) and children, nodes or text (null leaves one out). */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false && value != null) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child != null && child !== false));
  return node;
}

/** A name from outside, isolated so that right-to-left letters do not turn what stands around it. */
export function nameOf(text) {
  return el("bdi", { class: "name" }, String(text));
}

/** A button that does something. */
export function button(label, attributes, act) {
  const node = el("button", { type: "button", ...attributes }, label);
  node.addEventListener("click", act);
  return node;
}

/** A definition list; entries are [term, ...contents], or null for none. */
export function facts(entries) {
  const rows = entries.filter(Boolean).map(([term, ...contents]) => el("div", {}, el("dt", {}, term), el("dd", {}, ...contents)));
  return el("dl", { class: "facts" }, ...rows);
}

/** A coloured length of 0 to 1, for the eye only: the text beside it says the same. */
export function bar(share, kind = "") {
  const fill = el("span", { class: "bar-fill" });
  fill.style.setProperty("--share", String(Math.min(1, Math.max(0, share))));
  return el("span", { class: `bar ${kind}`.trim(), "aria-hidden": "true" }, fill);
}

/** A section with a heading of its own. */
export function section(title, ...children) {
  const id = `title-${title.toLowerCase().replace(/[^a-z0-9]+/g, "-")}`;
  return el("section", { class: "card", "aria-labelledby": id }, el("h2", { id }, title), ...children);
}

/** A table; columns are {title, kind, hidden}, rows are lists of cells, a cell is text, a node or a list of them. */
export function table(caption, columns, rows) {
  const head = columns.map((column) => el("th", { role: "columnheader", scope: "col", class: column.kind },
    column.hidden ? el("span", { class: "visually-hidden" }, column.title) : column.title));
  const lines = rows.map((cells) => el("tr", { role: "row" }, ...cells.map((cell, i) => cellOf(cell, columns[i], i === 0))));
  return el("table", { role: "table" }, // roles in words: the narrow layout takes them away from display: block
    el("caption", { class: "visually-hidden" }, caption),
    el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...head)),
    el("tbody", { role: "rowgroup" }, ...lines));
}

function cellOf(cell, column, first) {
  const role = first ? "rowheader" : "cell";
  const attributes = { role, scope: first && "row", class: column.kind, "data-title": column.hidden ? null : column.title };
  return el(first ? "th" : "td", attributes, ...[cell].flat());
}
