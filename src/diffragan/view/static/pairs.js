// Pairs and results: a table, its filter, and the chosen item with its pictures.
import { ask, make } from "./page.js";
import { chart } from "./charts.js";
import { Picture } from "./pictures.js";
import { Table } from "./table.js";

const COLOURS = { molecule: "#D55E00", several: "#CC79A7", ice: "#56B4E9", carbon: "#E69F00", empty: "#767676" };

export function dot(column, name) {
  if (column.name === "verdict") return [make("span", { class: `dot ${name === "solved" ? "good" : "bad"}` })];
  if (!COLOURS[name]) return null;
  const one = make("span", { class: "dot" });
  one.style.setProperty("--dot", COLOURS[name]);
  return [one];
}

export class Pairs {
  // goTo: shows a position on the scan that the pairs come from.
  constructor(root, source, moved, goTo) {
    this.goTo = goTo;
    this.root = root;
    this.source = source;
    this.moved = moved;
    this.row = null;
    this.part = (name) => root.querySelector(name);
    this.filter = this.part("#filter");
    this.table = new Table(this.part("#table"), { chosen: (row) => this.choose(row), sorted: () => this.load(), dot });
    this.pictures = new Map();
    for (const kind of source.items.kinds) {
      const one = new Picture({ base: source.command });
      this.pictures.set(kind, one);
      this.part(".pictures").append(one.element);
    }
    const missing = this.part(".missing");
    missing.hidden = !source.items.missing;
    missing.textContent = source.items.missing;
    this.filter.addEventListener("input", () => { clearTimeout(this.typing); this.typing = setTimeout(() => this.load(), 160); });
    this.filter.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        if (this.filter.value) { this.filter.value = ""; this.load(); } else this.part("#table").focus();
      }
      if (event.key === "Enter" || event.key === "ArrowDown") { event.preventDefault(); this.part("#table").focus(); }
    });
    root.querySelectorAll("[data-step]").forEach((button) => button.addEventListener("click", () => this.table.choose(this.table.place + Number(button.dataset.step))));
  }

  async open(state) {
    this.filter.value = state.filter;
    this.table.sort = state.sort;
    await this.load(state.row ?? 0);
    this.watch();
  }

  get state() { return { row: this.row, sort: this.table.sort, filter: this.table.filter }; }

  // Columns that take long come after the others.
  watch() {
    if (!this.later?.length) return;
    setTimeout(() => this.load(this.row).then(() => this.watch()).catch(() => this.watch()), 700);
  }

  async load(at = this.row) {
    const before = this.table.filter;
    this.table.filter = this.filter.value.trim();
    const refused = this.part("#refused");
    try {
      const told = await this.table.load(at, { columns: 1, histogram: this.measure ?? "" });
      if (!told) return;
      this.later = told.later;
      this.trouble(told.warning);
      refused.hidden = true;
      this.filter.setAttribute("aria-invalid", "false");
      const all = told.n.toLocaleString("en"), shown = told.total.toLocaleString("en");
      this.part("#count").textContent = (told.total === told.n ? all : `${shown} of ${all}`) + (told.later.length ? `, reading ${told.later.join(", ")} …` : "");
      this.chips(told.columns);
      this.histogram(told);
      this.table.report();
      this.moved();
    } catch (error) {
      this.table.filter = before;
      refused.hidden = false;
      refused.textContent = error.message;
      this.filter.setAttribute("aria-invalid", "true");
    }
  }

  trouble(words) {
    const place = document.getElementById("trouble");
    if (words) { place.textContent = words; place.hidden = false; }
  }

  // To an item, whatever the filter keeps.
  async jump(row) {
    this.filter.value = "";
    await this.load(row);
  }

  setFilter(text) { this.filter.value = text.trim(); this.load(); }

  without(name) {
    return this.filter.value.replace(new RegExp(`(^|\\s)${name}\\s*(<=|>=|!=|=|<|>)\\s*("[^"]*"|[^\\s"<>=!]+)`, "gi"), " ").replace(/\s+/g, " ");
  }

  chips(columns) {
    const chips = [];
    for (const one of columns.filter(({ names }) => names.length > 1 && names.length <= 6)) {
      for (const name of one.names) {
        const term = `${one.name} = ${/[\s<>=!]/.test(name) ? `"${name}"` : name}`;
        const on = this.filter.value.includes(term);
        chips.push(make("button", { type: "button", "aria-pressed": on, onclick: () => this.setFilter(on ? this.without(one.name) : `${this.without(one.name)} ${term}`) }, ...(dot(one, name) ?? []), name));
      }
    }
    this.part("#chips").replaceChildren(...chips);
  }

  // Counts over a column of numbers: that by which the table is sorted, else R.
  histogram(told) {
    const numbers = told.columns.filter(({ names, name, varies }) => !names.length && name !== "item" && varies).map(({ name }) => name);
    const sorted = this.table.sort.replace("-", "");
    const wanted = numbers.includes(sorted) ? sorted : numbers.includes(this.measure) ? this.measure : numbers[0];
    const holder = this.part("#histogram");
    holder.hidden = !wanted;
    if (!wanted) return;
    if (wanted !== this.measure || told.histogram?.name !== wanted) {
      this.measure = wanted;
      ask(this.table.address({ limit: 0, histogram: wanted })).then((again) => { if (this.measure === wanted) this.drawHistogram(again.histogram, told.columns); }).catch(() => null);
    } else this.drawHistogram(told.histogram, told.columns);
  }

  drawHistogram({ name, low, high, all, kept }, columns) {
    const holder = this.part("#histogram"), most = Math.max(1, ...all), { label, unit } = columns.find((one) => one.name === name);
    const svg = make("svg", { viewBox: `0 0 ${all.length} 10`, preserveAspectRatio: "none", role: "img", "aria-label": `Distribution of ${label}; drag to filter` });
    const tall = (count) => (count ? 0.7 + 9.3 * Math.sqrt(count / most) : 0);
    all.forEach((count, k) => svg.append(make("rect", { x: k + 0.08, width: 0.84, y: 10 - tall(count), height: tall(count), class: "all" }),
      make("rect", { x: k + 0.08, width: 0.84, y: 10 - tall(kept[k]), height: tall(kept[k]), class: "kept" })));
    const brush = make("rect", { y: 0, height: 10, width: 0, class: "brush" });
    svg.append(brush);
    const at = (event) => { const box = svg.getBoundingClientRect(); return Math.max(0, Math.min(1, (event.clientX - box.left) / box.width)); };
    let from = null;
    svg.addEventListener("pointerdown", (event) => { from = at(event); svg.setPointerCapture(event.pointerId); });
    svg.addEventListener("pointermove", (event) => {
      if (from === null) return;
      const to = at(event);
      brush.setAttribute("x", Math.min(from, to) * all.length);
      brush.setAttribute("width", Math.abs(to - from) * all.length);
    });
    svg.addEventListener("pointerup", (event) => {
      if (from === null) return;
      const [a, b] = [from, at(event)].sort((p, q) => p - q).map((part) => low + part * (high - low));
      from = null;
      // A click without a drag takes the limits away.
      if (b - a < (high - low) / 80) this.setFilter(this.without(name));
      else this.setFilter(`${this.without(name)} ${name} >= ${Number(a.toPrecision(3))} ${name} <= ${Number(b.toPrecision(3))}`);
    });
    const text = (value) => Number(value.toPrecision(3)).toString();
    holder.replaceChildren(svg, make("p", {}, make("span", {}, text(low)), make("span", {}, `${label} ${unit}`.trim()), make("span", {}, text(high))));
  }

  choose(row) {
    this.root.querySelector("#item").hidden = row === null;
    if (row === null || row === this.row) { this.row = row; this.moved(); return; }
    this.row = row;
    this.moved();
    clearTimeout(this.choosing);
    // Keys held down run through many items; only where they rest is it fetched.
    this.choosing = setTimeout(() => this.show(row), this.shownOnce ? 50 : 0);
    this.shownOnce = true;
  }

  async show(row) {
    for (const [kind, one] of this.pictures) one.show(`pair/${row}/${kind}`);
    try {
      const told = await ask(`api/item/${row}`);
      if (row !== this.row) return;
      this.part("#item h2").textContent = told.title;
      const goes = told.position === null || told.position === undefined ? []
        : [["on the scan", make("button", { type: "button", class: "goes", onclick: () => this.goTo(told.position) }, `position ${told.position}`)]];
      this.part("#item dl").replaceChildren(...[...told.facts, ...goes].flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
      this.part("#item .trust").replaceChildren(...(told.trust ? [chart(told.trust, { width: 430, height: 220 })] : []));
    } catch (error) {
      if (row !== this.row) return;
      this.part("#item h2").textContent = `item ${row}`;
      this.part("#item dl").replaceChildren(make("dt", {}, "trouble"), make("dd", {}, error.message));
    }
  }
}
