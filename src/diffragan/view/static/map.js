// A map: the viewer that turns it, and three sections that move each other.
import { ask, make } from "./page.js";
import { Picture } from "./pictures.js";

const AXES = { z: ["x", "y"], y: ["x", "z"], x: ["y", "z"] };  // across, and what goes right and up

export class MapView {
  constructor(root, source, moved) {
    this.root = root;
    this.moved = moved;
    this.source = source;
    const { n, volumes } = source.map;
    this.at = { x: n >> 1, y: n >> 1, z: n >> 1 };
    this.volume = root.querySelector("#volume");
    this.volume.replaceChildren(...volumes.map(({ name, label }) => make("option", { value: name }, label)));
    this.volume.addEventListener("change", () => { this.draw(); this.moved(); });
    this.sections = {};
    for (const axis of Object.keys(AXES)) {
      const picture = new Picture({ base: source.command, extra: (one) => this.cuts(one, axis), clicked: (x, y) => this.move(axis, x, y) });
      const slider = make("input", { type: "range", min: 0, max: n - 1, value: this.at[axis], "aria-label": `section across ${axis}` });
      slider.addEventListener("input", () => { this.at[axis] = Number(slider.value); this.draw(); this.moved(); });
      this.sections[axis] = { picture, slider };
      root.querySelector(".sections").append(make("div", {}, picture.element, slider));
    }
  }

  // What differs from what the view opens with.
  get state() {
    const { n, volumes } = this.source.map, state = {};
    if (this.volume.value !== volumes[0].name) state.volume = this.volume.value;
    for (const axis of "xyz") if (this.at[axis] !== n >> 1) state[axis] = this.at[axis];
    return state;
  }

  async open(state) {
    if (state.volume) this.volume.value = state.volume;
    for (const axis of "xyz") if (state[axis] !== undefined) this.at[axis] = Math.max(0, Math.min(this.source.map.n - 1, Number(state[axis])));
    this.draw();
    if (!this.begun) { this.begun = true; await this.turn(); }
  }

  draw() {
    clearTimeout(this.drawing);
    this.drawing = setTimeout(() => {
      for (const [axis, { picture, slider }] of Object.entries(this.sections)) {
        slider.value = this.at[axis];
        picture.show(`${this.volume.value}/${axis}/${this.at[axis]}`);
        if (picture.about) picture.draw();
      }
      const { n, voxel_A } = this.source.map;
      this.root.querySelector("#at").replaceChildren(...[..."xyz"].flatMap((axis) => [make("dt", {}, axis), make("dd", {}, `${((this.at[axis] - (n >> 1)) * voxel_A).toFixed(1)} Å`)]));
    }, 20);
  }

  cuts(picture, axis) {
    const [right, up] = AXES[axis], { width, height } = picture.about;
    const [x, y] = picture.place(this.at[right], this.at[up]);
    picture.overlay.append(make("line", { x1: x, x2: x, y1: 0, y2: height, class: "cut" }), make("line", { x1: 0, x2: width, y1: y, y2: y, class: "cut" }));
  }

  move(axis, x, y) {
    const [right, up] = AXES[axis], inside = (v) => Math.max(0, Math.min(this.source.map.n - 1, Math.round(v)));
    this.at[right] = inside(x);
    this.at[up] = inside(y);
    this.draw();
    this.moved();
  }

  // The pages' own viewer, which reads its scene from the page.
  async turn() {
    const holder = this.root.querySelector(".turning");
    try {
      const [stage, scene] = await Promise.all([ask("api/stage"), fetch("api/scene").then((answer) => answer.text())]);
      if (!JSON.parse(scene).surfaces.length) { holder.replaceChildren(make("p", { class: "waiting" }, "The map is flat, so there is no surface to turn.")); return; }
      holder.innerHTML = stage;
      const text = make("script", { type: "application/json", id: "scene" });
      text.textContent = scene;
      holder.append(text);
      for (const name of ["3Dmol-min.js", "contour.js", "viewer.js"]) await script(name);
      const save = make("a", { class: "save", href: "#" }, "save picture");
      save.addEventListener("click", (event) => {
        event.preventDefault();
        const link = make("a", { href: holder.querySelector(".stage canvas").toDataURL("image/png"), download: `${this.source.name}-map.png` });
        link.click();
      });
      holder.append(make("p", { class: "turn-foot" }, save));
    } catch (error) {
      holder.replaceChildren(make("p", { class: "waiting" }, error.message));
    }
  }
}

function script(name) {
  return new Promise((done, failed) => {
    document.head.append(make("script", { src: `static/${name}`, onload: done, onerror: () => failed(new Error(`${name} did not come.`)) }));
  });
}
