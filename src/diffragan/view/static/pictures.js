// A picture of the server: its pixels, and over them rings, centre or scale bar.
import { ask, copyButton, make, quoted } from "./page.js";

export class Picture {
  // options: base, the command that pictures of this page begin with; extra, draws more on the overlay;
  // clicked, told x and y in pixels of the array, instead of showing the picture large.
  constructor(options = {}) {
    this.options = options;
    this.image = make("img", { alt: "", draggable: "false" });
    this.overlay = make("svg", { preserveAspectRatio: "none", "aria-hidden": "true" });
    this.frame = make("div", { class: "frame" }, this.image, this.overlay);
    this.title = make("span", { class: "title" });
    this.at = make("span", { class: "at" });
    this.save = make("a", { class: "save", title: "Save as PNG, with scale and title" }, "save");
    this.element = make("figure", { class: "picture" }, this.frame,
      make("figcaption", {}, this.title, this.at, this.save));
    this.frame.addEventListener("pointermove", (event) => this.tell(event));
    this.frame.addEventListener("pointerleave", () => { this.at.textContent = ""; });
    this.frame.addEventListener("click", (event) => this.clicked(event));
  }

  async show(name) {
    if (name === this.name) return;
    this.name = name;
    this.stopped?.abort();
    this.stopped = new AbortController();
    const late = setTimeout(() => { this.element.dataset.state = "waiting"; }, 160);
    try {
      const next = new Image();
      next.src = `picture/${name}.png`;
      const [about] = await Promise.all([ask(`picture/${name}.json`, this.stopped.signal), next.decode().catch(() => null)]);
      if (name !== this.name) return;
      if (!next.naturalWidth) throw new Error("The picture did not come; is diffragan view still running?");
      this.about = about;
      this.image.src = next.src;
      this.image.alt = about.title;
      this.frame.style.aspectRatio = `${about.width} / ${about.height}`;
      this.title.textContent = about.title;
      this.title.title = about.title;
      this.save.href = `picture/${name}.png?figure`;
      this.save.setAttribute("download", `${name.replaceAll("/", "-")}.png`);
      this.frame.querySelector(".why")?.remove();
      this.draw();
      this.element.dataset.state = "shown";
    } catch (error) {
      if (error.name === "AbortError" || name !== this.name) return;
      this.fail(error.message);
    } finally {
      clearTimeout(late);
    }
  }

  fail(why) {
    this.frame.querySelector(".why")?.remove();
    this.frame.append(make("p", { class: "why" }, why));
    this.element.dataset.state = "failed";
  }

  get command() {
    const file = `${this.name.replaceAll("/", "-")}.png`;
    return `${this.options.base} --picture ${quoted(this.name)} --out ${quoted(file)}`;
  }

  // Pixels of the array to those of the overlay, whose y points down.
  place(x, y) {
    return [x + 0.5, this.about.upward ? this.about.height - y - 0.5 : y + 0.5];
  }

  draw() {
    const { width, height, pixel, centre, rings, bar_A } = this.about, size = width / 26;
    this.overlay.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.overlay.replaceChildren();
    if (centre) {
      const [x, y] = this.place(...centre);
      let told = 0;
      for (const spacing of rings) {
        const r = 1 / spacing / pixel;
        for (const kind of ["ring-edge", "ring"]) this.overlay.append(make("circle", { cx: x, cy: y, r, class: kind }));
        if (r - told < 1.6 * size) continue;  // its words would lie on those before
        told = r;
        this.overlay.append(make("text", { x: x + 0.7071 * r, y: y - 0.7071 * r, "font-size": size, "stroke-width": size / 5, class: "ring-text" }, `${spacing} Å`));
      }
      const s = width / 40;
      this.overlay.append(make("line", { x1: x - s, x2: x + s, y1: y, y2: y, class: "cross" }),
        make("line", { x1: x, x2: x, y1: y - s, y2: y + s, class: "cross" }));
    }
    if (bar_A) {
      const long = bar_A / pixel, x = width * 0.05, y = height - width * 0.055;
      for (const kind of ["scale-edge", "scale"]) this.overlay.append(make("line", { x1: x, x2: x + long, y1: y, y2: y, class: kind }));
      this.overlay.append(make("text", { x: x + long / 2, y: y - size * 0.55, "text-anchor": "middle", "font-size": size, "stroke-width": size / 5, class: "scale-text" }, `${bar_A} Å`));
    }
    this.options.extra?.(this);
  }

  // x, y in pixels of the array under the pointer.
  under(event) {
    const box = this.frame.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * this.about.width - 0.5;
    const y = ((event.clientY - box.top) / box.height) * this.about.height - 0.5;
    return [x, this.about.upward ? this.about.height - 1 - y : y];
  }

  tell(event) {
    if (!this.about?.pixel) return;
    const [x, y] = this.under(event), { pixel, reciprocal, centre, width, height } = this.about;
    if (reciprocal) {
      const q = Math.hypot(x - centre[0], y - centre[1]) * pixel;
      this.at.textContent = q > pixel / 2 ? `${(1 / q).toFixed(2)} Å` : "beam";
    } else {
      this.at.textContent = `${((x - (width >> 1)) * pixel).toFixed(1)}, ${((y - (height >> 1)) * pixel).toFixed(1)} Å`;
    }
  }

  clicked(event) {
    if (!this.about || this.element.dataset.state === "failed") return;
    if (this.options.clicked) this.options.clicked(...this.under(event));
    else this.enlarge();
  }

  enlarge() {
    const dialog = document.getElementById("large");
    const large = new Picture({ base: this.options.base, clicked: () => dialog.close() });
    dialog.querySelector("div").replaceChildren(large.element,
      make("p", { class: "made" }, make("span", { class: "prompt" }, "$"), make("code", {}, this.command), copyButton(this.command)));
    large.show(this.name);
    dialog.showModal();
  }
}
