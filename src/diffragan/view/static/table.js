// A table of many rows of which only those in sight are in the page.
import { ask, make } from "./page.js";

const BLOCK = 200, OVER = 6, TALLEST = 8e6;

export class Table {
  // chosen: told the item's row when another is chosen. sorted: told when the order changes.
  constructor(holder, { chosen, sorted, dot }) {
    this.holder = holder;
    this.told = { chosen, sorted, dot };
    this.sort = "";
    this.filter = "";
    this.total = 0;
    this.place = -1;
    this.blocks = new Map();
    this.rows = [];
    this.epoch = 0;
    this.head = make("div", { class: "row head", role: "row" });
    this.body = make("div", { role: "rowgroup" });
    this.nothing = make("p", { class: "nothing", hidden: "" }, "No item passes this filter.");
    holder.replaceChildren(this.head, this.body, this.nothing);
    holder.addEventListener("scroll", () => this.soon());
    holder.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.soon()).observe(holder);
  }

  get rowHeight() { return 32; }
  get inSight() { return Math.max(1, Math.floor((this.holder.clientHeight - this.rowHeight) / this.rowHeight)); }
  // Browsers end at some 16 million pixels; beyond, the scroll bar moves rows faster than pixels.
  get height() { return Math.min(this.total * this.rowHeight, TALLEST); }
  get stretch() {
    const room = this.holder.clientHeight - this.rowHeight, scrolls = this.height - room;
    return scrolls > 0 ? (this.total * this.rowHeight - room) / scrolls : 1;
  }

  setColumns(columns) {
    this.columns = columns;
    const widths = columns.map((one) => (one.names.length ? "minmax(8.5rem, 1.4fr)" : one.bar ? "minmax(8.5rem, 1fr)" : "minmax(5.6rem, 1fr)"));
    this.template = widths.join(" ");
    this.head.style.gridTemplateColumns = this.template;
    this.head.replaceChildren(...columns.map((one) => {
      const button = make("button", { type: "button", role: "columnheader", title: one.about || null, class: one.names.length ? "words" : null },
        one.label, one.unit ? make("span", { class: "unit" }, one.unit) : null);
      button.addEventListener("click", () => this.turn(one.name));
      return button;
    }));
    this.rows.forEach((row) => row.remove());
    this.rows = [];
    this.mark();
  }

  mark() {
    [...this.head.children].forEach((button, k) => {
      const { name } = this.columns[k], plain = this.sort.replace("-", "");
      const way = name === plain ? (this.sort.startsWith("-") ? "down" : "up") : null;
      if (way) button.dataset.sorted = way; else delete button.dataset.sorted;
      button.setAttribute("aria-sort", way === "up" ? "ascending" : way === "down" ? "descending" : "none");
    });
  }

  // A click sorts upward, another one downward, a third not at all.
  turn(name) {
    this.sort = this.sort === name ? `-${name}` : this.sort === `-${name}` ? "" : name;
    this.told.sorted();
  }

  address(more) {
    return `api/rows?${new URLSearchParams({ sort: this.sort, filter: this.filter, ...more })}`;
  }

  // Asks for the order anew. at: the item to stay at, null for the first.
  async load(at, more = {}) {
    const epoch = ++this.epoch;
    const asked = { offset: 0, limit: BLOCK, ...more };
    if (at !== null) asked.at = at;
    const told = await ask(this.address(asked));
    if (epoch !== this.epoch) return null;
    this.blocks = new Map([[0, told.rows]]);
    this.total = told.total;
    if (told.columns) this.setColumns(told.columns);
    this.mark();
    this.nothing.hidden = told.total > 0;
    this.body.style.height = `${this.height}px`;
    this.place = told.place ?? (told.total ? 0 : -1);
    this.asking = new Set();
    this.reveal(told.place === undefined || told.place === null);
    this.draw();
    return told;
  }

  row(place) { return this.blocks.get(Math.floor(place / BLOCK))?.[place % BLOCK]; }

  async block(number) {
    if (this.blocks.has(number) || this.asking.has(number)) return;
    this.asking.add(number);
    const epoch = this.epoch;
    try {
      const told = await ask(this.address({ offset: number * BLOCK, limit: BLOCK }));
      if (epoch !== this.epoch) return;
      this.blocks.set(number, told.rows);
      if (this.blocks.size > 60) this.blocks.delete(this.blocks.keys().next().value);
      this.draw();
    } finally {
      if (epoch === this.epoch) this.asking.delete(number);
    }
  }

  soon() {
    if (this.drawing) return;
    this.drawing = requestAnimationFrame(() => { this.drawing = 0; this.draw(); });
  }

  draw() {
    if (!this.columns) return;
    const top = this.holder.scrollTop, first = (top * this.stretch) / this.rowHeight;
    const from = Math.max(0, Math.floor(first) - OVER), to = Math.min(this.total, Math.ceil(first) + this.inSight + OVER);
    while (this.rows.length < to - from) this.rows.push(this.newRow());
    // A row of the page keeps its place until that leaves the sight, so a step of the wheel fills few.
    const many = this.rows.length, used = new Set();
    for (let place = from; place < to; place++) {
      used.add(place % many);
      this.fill(this.rows[place % many], place, Math.round(top + (place - first) * this.rowHeight));
    }
    this.rows.forEach((row, k) => { if (row.hidden === used.has(k)) row.hidden = !used.has(k); });
    const wanted = new Set([Math.floor(Math.max(0, from) / BLOCK), Math.floor(Math.max(0, to - 1) / BLOCK)]);
    clearTimeout(this.fetching);
    const missing = [...wanted].filter((number) => this.total && !this.blocks.has(number));
    // A scroll that flies past a place does not ask for it.
    if (missing.length) this.fetching = setTimeout(() => missing.forEach((number) => this.block(number).catch(() => null)), 40);
  }

  newRow() {
    const row = make("div", { class: "row body", role: "row" }, ...this.columns.map((one) => make("span", { role: "gridcell", class: one.names.length ? "words" : null })));
    row.style.gridTemplateColumns = this.template;
    row.addEventListener("click", () => this.choose(row.place));
    this.body.append(row);
    return row;
  }

  fill(row, place, y) {
    const data = this.row(place), chosen = place === this.place;
    if (row.y !== y) { row.y = y; row.style.transform = `translateY(${y}px)`; }
    if (row.chosen !== chosen) { row.chosen = chosen; row.setAttribute("aria-selected", String(chosen)); }
    if (row.place === place && row.data === data) return;
    if (row.place !== place) row.setAttribute("aria-rowindex", place + 1);
    row.place = place;
    row.data = data;
    row.classList.toggle("empty", !data);
    for (let k = 0; k < this.columns.length; k++) this.cell(row.children[k], this.columns[k], data ? data[k + 1] : "");
  }

  // A cell keeps its parts; only words, width and dot change.
  cell(cell, one, text) {
    if (cell.text === text) return;
    cell.text = text;
    if (one.bar) {
      if (!cell.bar) {
        cell.bar = make("b");
        cell.words = document.createTextNode("");
        cell.append(make("span", { class: "barred" }, make("i", {}, cell.bar), cell.words));
      }
      cell.bar.style.width = `${100 * Math.max(0, Math.min(1, Number(text) || 0))}%`;
      cell.words.data = text;
    } else if (one.names.length) {
      cell.replaceChildren(...((text && this.told.dot(one, text)) || []), text);
      cell.title = text;
    } else cell.textContent = text;
  }

  choose(place) {
    if (place < 0 || place >= this.total) return;
    this.place = place;
    this.reveal();
    this.draw();
    this.report();
  }

  // Tells which item is chosen, once its row is here.
  async report() {
    const place = this.place, epoch = this.epoch;
    if (place < 0) { this.told.chosen(null); return; }
    if (!this.row(place)) await this.block(Math.floor(place / BLOCK)).catch(() => null);
    if (place === this.place && epoch === this.epoch && this.row(place)) this.told.chosen(this.row(place)[0]);
  }

  reveal(toTop = false) {
    if (toTop) { this.holder.scrollTop = 0; return; }
    if (this.place < 0) return;
    const first = (this.holder.scrollTop * this.stretch) / this.rowHeight, many = this.inSight;
    let goal = first;
    if (this.place < first) goal = this.place;
    else if (this.place > first + many - 1) goal = this.place - many + 1;
    if (goal !== first) this.holder.scrollTop = (goal * this.rowHeight) / this.stretch;
  }

  key(event) {
    const by = { ArrowDown: 1, ArrowUp: -1, j: 1, k: -1, PageDown: this.inSight, PageUp: -this.inSight, Home: -Infinity, End: Infinity }[event.key];
    if (by === undefined || event.ctrlKey || event.metaKey || event.altKey) return false;
    event.preventDefault();
    event.stopPropagation();
    this.choose(Math.max(0, Math.min(this.total - 1, this.place + by)));
    return true;
  }
}
