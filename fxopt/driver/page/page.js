"use strict";
// Tables sort by a click on a heading and are searched; code is copied; the graph is drawn. Without this the page is whole
// but for the graph.
const make = (tag, facts = {}, ...inside) => {
  const svg = ["svg", "g", "rect", "path", "text", "title"].includes(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(facts)) element.setAttribute(key, value);
  element.append(...inside);
  return element;
};

for (const box of document.querySelectorAll("[data-search]")) {
  const body = box.querySelector("tbody"), rows = [...body.rows];
  const field = make("input", { type: "search", placeholder: `search ${rows.length} rows`, "aria-label": "search the table" });
  box.prepend(field);
  const texts = rows.map((row) => row.textContent.toLowerCase());
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    rows.forEach((row, i) => { row.hidden = !words.every((word) => texts[i].includes(word)); });
  });
  box.querySelectorAll("th").forEach((head, column) => {
    const button = make("button", { type: "button" }, ...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      head.parentNode.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => {
        const cell = row.cells[column], value = parseFloat(cell.dataset.v);
        return cell.dataset.v === undefined ? (cell.textContent || null) : value;
      };
      const order = (a, b) => {
        const x = key(a), y = key(b);
        if (x === null || y === null) return (x === null) - (y === null);
        const sign = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
        return down ? -sign : sign;
      };
      body.append(...[...rows].sort(order));
    });
  });
}

for (const figure of document.querySelectorAll(".code")) {
  const pre = figure.querySelector("pre"), button = make("button", { type: "button" }, "copy");
  figure.querySelector("figcaption").append(" ", button);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(pre.textContent);
    } catch {
      getSelection().selectAllChildren(pre);
      document.execCommand("copy");
    }
    button.textContent = "copied";
  });
}
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((fold) => { fold.open = true; }));

const MOST = 400; // boxes that are drawn at once
const WIDE = 190, HIGH = 30, GAP = 18, DOWN = 22;

/** A side of the graph: modules that can be opened, ops in them, and what is drawn of both. */
class Side {
  constructor(name, ops) {
    this.name = name;
    this.ops = ops;
    this.at = new Map(ops.map((op, i) => [op.name, i]));
    this.open = new Set([""]);
    this.openAsFit();
  }
  parents(path) {
    const parts = path ? path.split(".") : [];
    return parts.map((_, i) => parts.slice(0, i + 1).join("."));
  }
  /** The box that stands for an op: the outermost module on its way that is not open, or itself. */
  boxOf(op) {
    for (const path of this.parents(op.module)) if (!this.open.has(path)) return `module:${path}`;
    return `op:${op.name}`;
  }
  boxes() {
    const found = new Map();
    this.ops.forEach((op, i) => {
      const key = this.boxOf(op);
      if (!found.has(key)) found.set(key, { key, path: key.startsWith("module:") ? key.slice(7) : null, ops: [], from: new Set() });
      found.get(key).ops.push(op);
      op.box = key;
    });
    for (const box of found.values()) for (const op of box.ops) for (const input of op.inputs || []) {
      const i = this.at.get(input);
      if (i !== undefined && this.ops[i].box !== box.key) box.from.add(this.ops[i].box);
    }
    return [...found.values()];
  }
  /** Open modules, level by level, as long as little enough is drawn. A module of one op is that op. */
  openAsFit(most = 40) {
    const levels = [];
    const sizes = new Map();
    for (const op of this.ops) this.parents(op.module).forEach((path, depth) => {
      (levels[depth] ||= new Set()).add(path);
      sizes.set(path, (sizes.get(path) || 0) + 1);
    });
    this.sizes = sizes;
    const small = () => sizes.forEach((size, path) => { if (size === 1) this.open.add(path); });
    small();
    for (const level of levels) {
      const before = new Set(this.open);
      level.forEach((path) => this.open.add(path));
      if (this.boxes().length > most) { this.open = before; break; }
    }
  }
  toggle(path) {
    if (this.open.has(path)) {
      for (const other of [...this.open]) if (other === path || other.startsWith(path + ".")) if (this.sizes.get(other) > 1) this.open.delete(other);
      return true;
    }
    this.open.add(path);
    if (this.boxes().length <= MOST) return true;
    this.open.delete(path);
    return false;
  }
}

/** Rows by the longest way from the inputs; in a row in the order of what they read. */
const layout = (boxes) => {
  const rank = new Map(), rows = [], order = new Map(boxes.map((box, i) => [box.key, i]));
  for (const box of boxes) {
    let row = 0;
    for (const key of box.from) if (order.get(key) < order.get(box.key)) row = Math.max(row, rank.get(key) + 1);
    rank.set(box.key, row);
    (rows[row] ||= []).push(box);
  }
  const place = new Map();
  rows.forEach((row, y) => {
    const centre = (box) => {
      const xs = [...box.from].filter((key) => place.has(key)).map((key) => place.get(key).x);
      return xs.length ? xs.reduce((a, b) => a + b) / xs.length : 0;
    };
    row.sort((a, b) => centre(a) - centre(b));
    row.forEach((box, x) => place.set(box.key, { x: x * (WIDE + GAP) + GAP, y: y * (HIGH + DOWN) + GAP }));
  });
  const widest = Math.max(...rows.map((row) => row.length));
  rows.forEach((row) => row.forEach((box) => { place.get(box.key).x += ((widest - row.length) * (WIDE + GAP)) / 2; }));
  return { place, order, width: widest * (WIDE + GAP) + GAP, height: rows.length * (HIGH + DOWN) + GAP };
};

const dark = matchMedia("(prefers-color-scheme: dark)");
const COLUMNS = {
  MACs: { key: "macs", of: "sum" }, "weight bytes": { key: "weight_bytes", of: "sum" }, "time, ms": { key: "ms", of: "sum" },
  "SQNR, dB": { key: "sqnr_db", of: "min" }, precision: { key: "precision", of: "set" },
};
const valueOf = (box, column) => {
  const values = box.ops.map((op) => op[column.key]).filter((v) => v !== undefined && v !== "");
  if (!values.length) return null;
  if (column.of === "sum") return values.reduce((a, b) => a + b, 0);
  if (column.of === "min") return Math.min(...values);
  return [...new Set(values)].sort().join(" + ");
};
const shade = (share) => `hsl(212 70% ${dark.matches ? 18 + 30 * share : 96 - 36 * share}%)`;

const drawSide = (side, column, redraw) => {
  const boxes = side.boxes(), { place, order, width, height } = layout(boxes);
  const values = new Map(boxes.map((box) => [box.key, valueOf(box, column)]));
  const numbers = [...values.values()].filter((v) => typeof v === "number");
  const low = column.of === "min" ? Math.min(...numbers) : 0, high = Math.max(...numbers);
  const kinds = [...new Set([...values.values()].filter((v) => typeof v === "string"))].sort();
  const colour = (value) => {
    if (value === null) return "var(--back)";
    if (typeof value === "string") return `hsl(${(kinds.indexOf(value) * 137 + 212) % 360} 60% ${dark.matches ? 28 : 82}%)`;
    const share = high > low ? (value - low) / (high - low) : 0;
    return shade(column.of === "min" ? 1 - share : share); // the dark ones are those to look at
  };
  const svg = make("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `${side.name}: ${boxes.length} boxes` });
  for (const box of boxes) for (const key of box.from) {
    const a = place.get(key), b = place.get(box.key), back = order.get(key) > order.get(box.key);
    const x1 = a.x + WIDE / 2, y1 = a.y + HIGH, x2 = b.x + WIDE / 2, y2 = b.y, bend = Math.max(DOWN, Math.abs(y2 - y1) / 2);
    svg.append(make("path", { d: `M${x1} ${y1}C${x1} ${y1 + bend} ${x2} ${y2 - bend} ${x2} ${y2}`, class: back ? "back" : "" }));
  }
  for (const box of boxes) {
    const { x, y } = place.get(box.key), op = box.ops[0], value = values.get(box.key);
    const name = box.path === null ? `${op.op.replace(/^(aten|quantized_decomposed)\./, "")} ${op.name}` : `${box.path} (${box.ops.length} ops)`;
    const short = name.length > 25 ? name.slice(0, 24) + "…" : name;
    const told = box.path === null
      ? [`%${op.name} = ${op.op} : ${op.type}`, op.module, op.source, `reads ${(op.inputs || []).join(", ") || "nothing"}`]
      : [box.path, `${box.ops.length} ops; click to open`];
    const shown = value === null ? "" : `${typeof value === "number" ? +value.toPrecision(4) : value}`;
    const g = make("g", { transform: `translate(${x} ${y})`, class: box.path === null ? "op" : "module" },
      make("title", {}, [...told, shown].filter(Boolean).join("\n")),
      make("rect", { width: WIDE, height: HIGH, style: `fill:${colour(value)}` }),
      make("text", { x: 8, y: 19 }, short));
    if (box.path !== null) {
      g.setAttribute("tabindex", "0");
      g.setAttribute("role", "button");
      const act = () => redraw(side, box.path);
      g.addEventListener("click", act);
      g.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); act(); } });
    }
    svg.append(g);
  }
  return svg;
};

for (const graph of document.querySelectorAll(".graph")) {
  const data = JSON.parse(graph.querySelector("script").textContent);
  const sides = Object.entries(data).map(([name, ops]) => new Side(name, ops));
  const known = Object.entries(COLUMNS).filter(([, column]) => sides.some((side) => side.ops.some((op) => op[column.key])));
  const choice = make("select", { "aria-label": "colour by" }, ...known.map(([name]) => make("option", {}, name)));
  const closed = make("select", { "aria-label": "close an open module" });
  const told = make("span", { role: "status" });
  const whole = make("button", { type: "button" }, "close all");
  const area = make("div", { class: "sides" });
  graph.append(make("div", { class: "bar" }, "colour by ", choice, closed, whole, told), area);
  const draw = () => {
    const column = COLUMNS[choice.value] || COLUMNS.MACs;
    area.replaceChildren(...sides.map((side) =>
      make("div", {}, make("h3", {}, side.name), make("div", { class: "side" }, drawSide(side, column, toggle)))));
    const open = [...new Set(sides.flatMap((side) => [...side.open].filter((path) => path && side.sizes.get(path) > 1)))].sort();
    closed.replaceChildren(make("option", { value: "" }, "close a module…"), ...open.map((path) => make("option", {}, path)));
  };
  const toggle = (from, path) => {
    const fits = sides.map((side) => !side.sizes.has(path) || side.toggle(path)); // before and after open alike
    told.textContent = fits.every(Boolean) ? "" : `${path} has more ops than are drawn at once; close others first`;
    draw();
  };
  choice.addEventListener("change", draw);
  closed.addEventListener("change", () => { if (closed.value) sides.forEach((side) => { if (side.open.has(closed.value)) side.toggle(closed.value); }); draw(); });
  whole.addEventListener("click", () => { sides.forEach((side) => { for (const path of [...side.open]) if (path && side.sizes.get(path) > 1) side.open.delete(path); }); draw(); });
  dark.addEventListener("change", draw);
  graph.hidden = false;
  draw();
}
