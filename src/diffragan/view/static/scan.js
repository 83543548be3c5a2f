// A scan's place: positions over the overview, moved and zoomed, and the pattern of the one chosen.
import { ask, make } from "./page.js";
import { Picture } from "./pictures.js";

const NEAREST_PX = 24;  // how far from a position a click still means it

export class Scan {
  // goTo: shows a pair in its own view.
  constructor(root, source, moved, goTo) {
    this.root = root;
    this.source = source;
    this.moved = moved;
    this.goTo = goTo;
    this.part = (name) => root.querySelector(name);
    this.ground = this.part(".ground");
    this.canvas = this.part("canvas");
    this.pictures = [];
    this.row = null;
    this.off = new Set();
    this.look = { x: 0, y: 0, scale: 1 };
    this.layer = this.part("#layer");
    this.layer.addEventListener("change", () => this.ground_of(this.layer.value));
    root.querySelectorAll("[data-zoom]").forEach((button) => button.addEventListener("click", () => (Number(button.dataset.zoom) ? this.zoom(Number(button.dataset.zoom)) : this.whole())));
    this.ground.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(1.0015 ** -event.deltaY, event.offsetX, event.offsetY);
    }, { passive: false });
    this.ground.addEventListener("pointerdown", (event) => this.down(event));
    this.ground.addEventListener("pointermove", (event) => this.move(event));
    this.ground.addEventListener("pointerup", (event) => this.up(event));
    this.ground.addEventListener("pointercancel", () => this.fingers.clear());
    this.ground.addEventListener("pointerleave", () => { this.part(".tip").hidden = true; });
    this.fingers = new Map();
    new ResizeObserver(() => { if (this.image) this.fit(); }).observe(this.ground);
    addEventListener("themechange", () => this.soon());
  }

  get state() { return { row: this.row, layer: this.name && this.name !== this.told.layers[0].name ? this.name : "" }; }

  async open(state) {
    this.told = await ask("api/scan");
    this.layer.replaceChildren(...this.told.layers.map(({ name, label }) => make("option", { value: name }, label)));
    this.legend();
    const known = this.told.layers.some(({ name }) => name === state.layer);
    await this.ground_of(known ? state.layer : this.told.layers[0].name);
    const first = this.told.pair.indexOf(0), row = state.row ?? (first < 0 ? null : first);
    if (row !== null && row < this.told.class.length) this.choose(row);
  }

  legend() {
    const { names, colours, counts } = this.told;
    this.part("#classes").replaceChildren(...names.map((name, k) => {
      const spot = make("span", { class: "dot" }), button = make("button", { type: "button", "aria-pressed": "true", title: `Show or hide ${name}` }, spot, `${name} ${counts[k].toLocaleString("en")}`);
      spot.style.setProperty("--dot", colours[k]);
      button.addEventListener("click", () => {
        if (this.off.has(k)) this.off.delete(k); else this.off.add(k);
        button.setAttribute("aria-pressed", String(!this.off.has(k)));
        this.soon();
      });
      return button;
    }));
  }

  // Positions in pixels of the layer: those of the overview are told, the scan's own are its grid.
  place(k) {
    if (this.name === this.told.layers[0].name && this.name === "overview") return [this.told.x[k], this.told.y[k]];
    const columns = this.told.shape[1];
    return [k % columns, Math.floor(k / columns)];
  }

  // What a step is long in pixels of the layer.
  get step() { return this.name === "overview" ? this.told.step_A / (this.about.pixel || 1) : 1; }

  async ground_of(name) {
    const image = new Image();
    image.src = `picture/${name}.png`;
    try {
      const [about] = await Promise.all([ask(`picture/${name}.json`), image.decode().catch(() => null)]);
      const first = !this.image;
      Object.assign(this, { name, about, image });
      this.layer.value = name;
      const save = this.part(".under .save");
      save.href = `picture/${name}.png?figure`;
      save.setAttribute("download", `${this.source.name}-${name}.png`);
      this.part(".under .scale-word").textContent = about.pixel ? `${about.width} x ${about.height} pixels of ${Number(about.pixel.toPrecision(3))} Å` : `${about.width} x ${about.height}`;
      if (first) this.size();
      this.whole();
      this.root.dataset.layer = name;
      this.moved();
    } catch (error) {
      const note = this.part("#position .note");
      note.hidden = false;
      note.textContent = error.message;
    }
  }

  size() {
    const dots = devicePixelRatio || 1, { clientWidth, clientHeight } = this.ground;
    this.canvas.width = Math.round(clientWidth * dots);
    this.canvas.height = Math.round(clientHeight * dots);
  }

  fit() { this.size(); this.soon(); }

  whole() {
    const { clientWidth, clientHeight } = this.ground, { width, height } = this.about;
    const scale = Math.min(clientWidth / width, clientHeight / height) * 0.96;
    this.look = { scale, x: (clientWidth - width * scale) / 2, y: (clientHeight - height * scale) / 2 };
    this.soon();
  }

  zoom(by, x = this.ground.clientWidth / 2, y = this.ground.clientHeight / 2) {
    const scale = Math.max(0.02, Math.min(60, this.look.scale * by)), real = scale / this.look.scale;
    this.look = { scale, x: x - (x - this.look.x) * real, y: y - (y - this.look.y) * real };
    this.soon();
  }

  soon() {
    if (this.drawing || !this.image) return;
    this.drawing = requestAnimationFrame(() => { this.drawing = 0; this.draw(); });
  }

  draw() {
    const pen = this.canvas.getContext("2d"), dots = devicePixelRatio || 1, { scale, x, y } = this.look;
    const { clientWidth, clientHeight } = this.ground;
    pen.setTransform(dots, 0, 0, dots, 0, 0);
    pen.clearRect(0, 0, clientWidth, clientHeight);
    pen.imageSmoothingEnabled = scale < 1;
    pen.imageSmoothingQuality = "high";
    pen.drawImage(this.image, x, y, this.about.width * scale, this.about.height * scale);
    const size = Math.max(2, Math.min(9, this.step * scale * 0.3)), { names, colours } = this.told;
    names.forEach((name, c) => {
      if (this.off.has(c)) return;
      const quiet = name === "empty";
      pen.beginPath();
      this.told.class.forEach((kind, k) => {
        if (kind !== c) return;
        const [px, py] = this.place(k), sx = x + (px + 0.5) * scale, sy = y + (py + 0.5) * scale;
        if (sx < -9 || sy < -9 || sx > clientWidth + 9 || sy > clientHeight + 9) return;
        const r = quiet ? size * 0.3 : size;
        pen.moveTo(sx + r, sy);
        pen.arc(sx, sy, r, 0, 7);
      });
      if (quiet) { pen.fillStyle = colours[c]; pen.globalAlpha = 0.55; pen.fill(); pen.globalAlpha = 1; } else {
        pen.lineWidth = 3; pen.strokeStyle = "#0009"; pen.stroke();
        pen.lineWidth = 1.7; pen.strokeStyle = colours[c]; pen.stroke();
      }
    });
    this.pairs(pen, size * 0.55);
    this.scaleBar(pen, clientHeight);
    if (this.row !== null) this.mark(pen);
    this.root.dataset.drawn = this.name;
  }

  // What became a pair is a disc.
  pairs(pen, radius) {
    const { scale, x, y } = this.look;
    this.told.pair.forEach((pair, k) => {
      if (pair < 0 || this.off.has(this.told.class[k])) return;
      const [px, py] = this.place(k);
      pen.beginPath();
      pen.arc(x + (px + 0.5) * scale, y + (py + 0.5) * scale, radius, 0, 7);
      pen.fillStyle = this.told.colours[this.told.class[k]];
      pen.fill();
    });
  }

  mark(pen) {
    const [px, py] = this.place(this.row), { scale, x, y } = this.look, sx = x + (px + 0.5) * scale, sy = y + (py + 0.5) * scale;
    const beam = this.name === "overview" ? (this.told.beam_A / 2 / this.about.pixel) * scale : scale / 2;
    const r = Math.max(9, beam);
    for (const [width, colour] of [[5, "#000a"], [2, "#ffffff"]]) {
      pen.lineWidth = width;
      pen.strokeStyle = colour;
      pen.beginPath();
      pen.arc(sx, sy, r, 0, 7);
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) { pen.moveTo(sx + dx * r, sy + dy * r); pen.lineTo(sx + dx * (r + 8), sy + dy * (r + 8)); }
      pen.stroke();
    }
  }

  scaleBar(pen, height) {
    const long = this.about.pixel;
    if (!long) return;
    const step = [10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000].find((a) => (a / long) * this.look.scale > 60);
    if (!step) return;
    const w = (step / long) * this.look.scale;
    pen.fillStyle = "#000b";
    pen.beginPath();
    pen.roundRect(10, height - 44, w + 20, 34, 6);
    pen.fill();
    pen.fillStyle = "#fff";
    pen.fillRect(20, height - 20, w, 3);
    pen.font = "12px system-ui, sans-serif";
    pen.textAlign = "center";
    pen.fillText(`${step} Å`, 20 + w / 2, height - 27);
  }

  // The position under a place of the canvas, null where none is near.
  nearest(sx, sy) {
    const { scale, x, y } = this.look, px = (sx - x) / scale - 0.5, py = (sy - y) / scale - 0.5;
    let best = null, far = Math.max(NEAREST_PX / scale, this.step * 0.71);
    this.told.class.forEach((kind, k) => {
      if (this.off.has(kind)) return;
      const [qx, qy] = this.place(k), d = Math.hypot(qx - px, qy - py);
      if (d < far) { far = d; best = k; }
    });
    return best;
  }

  down(event) {
    if (event.target.closest(".tip") || !this.image) return;
    this.ground.setPointerCapture(event.pointerId);
    this.fingers.set(event.pointerId, [event.offsetX, event.offsetY]);
    this.dragged = 0;
  }

  move(event) {
    if (!this.image) return;
    const before = this.fingers.get(event.pointerId), now = [event.offsetX, event.offsetY];
    if (before) {
      this.fingers.set(event.pointerId, now);
      this.dragged += Math.hypot(now[0] - before[0], now[1] - before[1]);
      const others = [...this.fingers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
      if (others.length) this.zoom(Math.hypot(now[0] - others[0][0], now[1] - others[0][1]) / Math.max(1, Math.hypot(before[0] - others[0][0], before[1] - others[0][1])), ...others[0]);
      else if (this.dragged > 4) { this.look.x += now[0] - before[0]; this.look.y += now[1] - before[1]; this.soon(); }
      return;
    }
    const k = this.nearest(...now), tip = this.part(".tip");
    tip.hidden = k === null;
    if (k === null) return;
    const columns = this.told.shape[1];
    tip.textContent = `row ${Math.floor(k / columns)}, column ${k % columns}: ${this.told.names[this.told.class[k]]}`;
    const right = now[0] > this.ground.clientWidth - 220;
    tip.style.left = right ? "" : `${now[0] + 14}px`;
    tip.style.right = right ? `${this.ground.clientWidth - now[0] + 14}px` : "";
    tip.style.top = `${Math.max(4, now[1] - 34)}px`;
  }

  up(event) {
    const known = this.fingers.delete(event.pointerId);
    if (!known || this.dragged > 4 || this.fingers.size) return;
    const k = this.nearest(event.offsetX, event.offsetY);
    if (k !== null) this.choose(k);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.told) return;
    const by = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key], zoom = { "+": 1.4, "=": 1.4, "-": 1 / 1.4 }[event.key];
    if (!by && !zoom && event.key !== "0") return;
    event.preventDefault();
    if (zoom) { this.zoom(zoom); return; }
    if (!by) { this.whole(); return; }
    const [rows, columns] = this.told.shape, k = this.row ?? 0;
    const inside = (v, most) => Math.max(0, Math.min(most - 1, v));
    const to = this.row === null ? 0 : inside(Math.floor(k / columns) + by[0], rows) * columns + inside((k % columns) + by[1], columns);
    if (to < this.told.class.length) this.choose(to);
  }

  choose(k) {
    this.row = k;
    this.bring(k);
    this.soon();
    this.moved();
    clearTimeout(this.choosing);
    this.choosing = setTimeout(() => this.show(k), 50);
  }

  // What is chosen by a key stays in sight.
  bring(k) {
    const [px, py] = this.place(k), { scale } = this.look, { clientWidth, clientHeight } = this.ground;
    const sx = this.look.x + px * scale, sy = this.look.y + py * scale, edge = 30;
    if (sx < edge || sx > clientWidth - edge) this.look.x += clientWidth / 2 - sx;
    if (sy < edge || sy > clientHeight - edge) this.look.y += clientHeight / 2 - sy;
  }

  async show(k) {
    const note = this.part("#position .note");
    try {
      const told = await ask(`api/position/${k}`);
      if (k !== this.row) return;
      note.hidden = true;
      this.part("#position h2").textContent = told.title;
      this.part("#position .hint-text").hidden = true;
      while (this.pictures.length < told.names.length) {
        const one = new Picture({ base: this.source.command });
        this.pictures.push(one);
        this.part("#position .pictures").append(one.element);
      }
      this.pictures.forEach((one, i) => {
        one.element.hidden = i >= told.names.length;
        if (i < told.names.length) one.show(told.names[i]);
      });
      const goes = told.pair === null ? [] : [["pair", make("button", { type: "button", class: "goes", onclick: () => this.goTo(told.pair) }, `${told.pair}`)]];
      this.part("#position dl").replaceChildren(...[...told.facts, ...goes].flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
      this.root.dataset.shown = k;
    } catch (error) {
      if (k !== this.row) return;
      note.hidden = false;
      note.textContent = error.message;
    }
  }
}
