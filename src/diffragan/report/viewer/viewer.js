// The page's viewer: surfaces, atoms, bonds and a list of places to go to, drawn by 3Dmol.js.
// What it shows is written into data attributes of #viewer, for those who test it.
(function () {
"use strict";
const root = document.getElementById("viewer");
const scene = JSON.parse(document.getElementById("scene").textContent);

// Without WebGL a figure of the page stands in.
function giveUp(why) {
  root.dataset.state = "failed";
  root.querySelectorAll(".stage, .controls, .status").forEach((part) => { part.hidden = true; });
  document.querySelectorAll(".hint").forEach((part) => { part.hidden = true; });
  const instead = root.querySelector(".fallback");
  instead.hidden = false;
  instead.querySelector("span").textContent = why;
  const picture = scene.fallback && document.querySelector(`#${scene.fallback} img`);
  if (picture && !instead.querySelector("img")) instead.appendChild(picture.cloneNode());
}

async function start() {
  const holder = root.querySelector(".stage"), status = root.querySelector(".status");
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const NEAR_A = 5, SLIDER = 1000, MOVE_MS = still ? 0 : 350;

  const trial = document.createElement("canvas");
  if (!(trial.getContext("webgl2") || trial.getContext("webgl"))) {
    giveUp("This browser shows no WebGL.");
    return;
  }
  if (typeof DecompressionStream === "undefined") {
    giveUp("This browser is too old for the viewer.");
    return;
  }

  async function inflated(text) {
    const raw = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }
  for (const one of scene.surfaces) {
    const { data, size, origin_A, voxel_A, top } = one.density;
    const values = await inflated(data);
    const table = Float32Array.from({ length: 256 }, (_, b) => top * (b / 255) ** 2);
    const above = new Float64Array(257);  // voxels with at least each value
    for (const value of values) above[value]++;
    for (let b = 255; b >= 0; b--) above[b] += above[b + 1];
    one.grid = { values, table, size, origin: origin_A, step: voxel_A };
    one.enclosed = (level) => {
      const cut = table.findIndex((value) => value > level);
      return cut < 0 ? 0 : above[cut] * voxel_A ** 3;
    };
    one.level = one.start;
  }

  // The page's own colour of paper, whichever way its colours were chosen.
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const paper = () => {
    const parts = getComputedStyle(root).backgroundColor.match(/\d+/g) || [244, 246, 248];
    return "#" + parts.slice(0, 3).map((v) => Number(v).toString(16).padStart(2, "0")).join("");
  };
  let viewer;
  try {
    viewer = $3Dmol.createViewer(holder, {
      backgroundColor: paper(), antialias: true, hoverDuration: 60, minimumZoomToDistance: 7,
    });
  } catch (error) {
    giveUp(`WebGL does not start here (${error}).`);
    return;
  }
  const canvas = holder.querySelector("canvas");
  canvas.addEventListener("webglcontextlost", () => giveUp("The graphics card gave up."));

  const atoms = scene.atoms;
  const points = atoms ? triples(atoms.places) : [];
  function triples(flat) {
    const out = [];
    for (let k = 0; k < flat.length; k += 3) out.push([flat[k], flat[k + 1], flat[k + 2]]);
    return out;
  }
  // The box around all atoms, or without atoms around the first surface.
  function reach() {
    const low = [Infinity, Infinity, Infinity], high = [-Infinity, -Infinity, -Infinity];
    const take = (point) => point.forEach((value, axis) => {
      low[axis] = Math.min(low[axis], value);
      high[axis] = Math.max(high[axis], value);
    });
    points.forEach(take);
    for (const { grid, enclosed, level } of scene.surfaces.slice(0, points.length ? 0 : 1)) {
      for (let z = 0, k = 0; z < grid.size[2]; z++) {
        for (let y = 0; y < grid.size[1]; y++) {
          for (let x = 0; x < grid.size[0]; x++, k++) {
            if (grid.table[grid.values[k]] > level && enclosed(level)) {
              take([x, y, z].map((i, axis) => grid.origin[axis] + i * grid.step));
            }
          }
        }
      }
    }
    return low[0] <= high[0] ? [low, high] : [[-10, -10, -10], [10, 10, 10]];
  }
  const [low, high] = reach();

  // ---- atoms
  const ELEMENTS = { C: "#8f8f8f", N: "#3050f8", O: "#e03020", S: "#c9a800", H: "#ffffff", P: "#ff8000" };
  const SURE = "#009e73", DOUBTFUL = "#d55e00", HYDROGEN = "#e8e8e8";
  const ramp = (part) => {  // from blue, good, over white to red, bad
    const t = Math.max(0, Math.min(1, part)), c = [[0, 114, 178], [240, 240, 240], [213, 94, 0]];
    const [a, b, f] = t < 0.5 ? [c[0], c[1], 2 * t] : [c[1], c[2], 2 * t - 1];
    return "#" + a.map((v, i) => Math.round(v + f * (b[i] - v)).toString(16).padStart(2, "0")).join("");
  };
  const residueOf = new Map();
  if (atoms) atoms.residues.forEach((one) => one.atoms.forEach((k) => residueOf.set(k, one)));
  const COLOURS = {
    confirmed: (k) => (atoms.confirmed[k] ? SURE : DOUBTFUL),
    element: (k) => ELEMENTS[atoms.elements[k]] || "#e377c2",
    fit: (k) => (atoms.fit[k] === null ? "#888888" : ramp((1 - atoms.fit[k]) / 0.5)),
    b: (k) => ramp(atoms.b[k] / 20),
    confidence: (k) => {
      const one = residueOf.get(k);
      return !one || one.confidence === null ? "#888888" : ramp((1 - one.confidence) / 0.5);
    },
  };
  let model = null, riding = null;
  function drawAtoms() {
    if (!atoms) return;
    const by = COLOURS[root.querySelector("[data-colour]").value];
    const shown = root.querySelector("[data-atoms]").checked;
    const doubtful = root.querySelector("[data-doubtful]").checked;
    const carried = root.querySelector("[data-hydrogens]");
    [model, riding].forEach((old) => old && viewer.removeModel(old));
    model = riding = null;
    const visible = points.map((_, k) => shown && (doubtful || atoms.confirmed[k]));
    const bonds = points.map(() => []);
    for (let k = 0; k < atoms.bonds.length; k += 2) {
      const [a, b] = [atoms.bonds[k], atoms.bonds[k + 1]];
      if (visible[a] && visible[b]) { bonds[a].push(b); bonds[b].push(a); }
    }
    const list = [];
    points.forEach(([x, y, z], k) => {
      if (!visible[k]) return;
      const style = { stick: { radius: 0.09, color: by(k) }, sphere: { radius: 0.24, color: by(k) } };
      list.push({ elem: "C", index: list.length, serial: k, x, y, z, bonds: [], style });
    });
    const number = new Map(list.map((atom) => [atom.serial, atom.index]));
    list.forEach((atom) => { atom.bonds = bonds[atom.serial].map((k) => number.get(k)); });
    model = viewer.addModel();
    model.addAtoms(list);
    model.setClickable({}, true, (atom) => choose({ kind: "atom", k: atom.serial }));
    model.setHoverable({}, true, (atom) => tell(atom.serial), () => tell(null));
    if (carried && carried.checked && shown) {
      const small = triples(atoms.hydrogens).flatMap(([x, y, z], h) => {
        const p = atoms.parents[h];
        if (!visible[p]) return [];
        const style = { stick: { radius: 0.05, color: HYDROGEN }, sphere: { radius: 0.12, color: HYDROGEN } };
        const [px, py, pz] = points[p];
        return [{ elem: "H", index: 2 * h, x, y, z, bonds: [2 * h + 1], style },
          { elem: "X", index: 2 * h + 1, x: px, y: py, z: pz, bonds: [2 * h],
            style: { stick: { radius: 0.05, color: HYDROGEN } } }];
      });
      riding = viewer.addModel();
      riding.addAtoms(small);
    }
    root.dataset.atoms = list.length;
    root.dataset.bonds = list.reduce((sum, atom) => sum + atom.bonds.length, 0) / 2;
    viewer.render();
  }

  // ---- peaks of the difference map
  const peaks = scene.peaks;
  const spheres = [];
  function drawPeaks() {
    spheres.splice(0).forEach((old) => viewer.removeShape(old));
    const box = root.querySelector("[data-peaks]");
    if (box && box.checked) {
      peaks.forEach(({ position_A: [x, y, z], height }, k) => {
        spheres.push(viewer.addSphere({
          center: { x, y, z }, radius: 0.3, opacity: 0.8, color: height > 0 ? "#00c060" : "#e02020",
          clickable: true, callback: () => choose({ kind: "peak", k }),
        }));
      });
    }
    root.dataset.peaks = spheres.length;
    viewer.render();
  }

  // ---- surfaces
  const LOOKS = {
    surface: { opacity: 1 }, clear: { opacity: 0.45 }, mesh: { opacity: 1, wireframe: true },
  };
  let near = null;
  function drawSurface(one) {
    if (one.shape) viewer.removeShape(one.shape);
    one.shape = null;
    if (one.shown) {
      const { vertices, faces } = contour(one.grid, one.level, near);
      one.triangles = faces.length / 3;
      if (faces.length) {
        one.shape = viewer.addCustom({
          vertexArr: vertices, faceArr: faces, normalArr: [], color: one.colour, ...LOOKS[one.style],
        });
      }
    }
    const drawn = scene.surfaces.filter((other) => other.shape);
    root.dataset.surfaces = drawn.length;
    root.dataset.triangles = drawn.reduce((sum, other) => sum + other.triangles, 0);
    root.dataset.levels = scene.surfaces.map((other) => other.level.toFixed(2)).join(" ");
  }
  const drawSurfaces = () => { scene.surfaces.forEach(drawSurface); viewer.render(); };

  // Contours are drawn anew a moment after the slider's last move, or at most so often.
  let waiting = null;
  function soon(one) {
    if (waiting) waiting.add(one);
    else {
      waiting = new Set([one]);
      setTimeout(() => {
        const all = waiting;
        waiting = null;
        all.forEach(drawSurface);
        viewer.render();
      }, 30);
    }
  }
  root.querySelectorAll("[data-surface]").forEach((row) => {
    const one = scene.surfaces[Number(row.dataset.surface)];
    const part = (name) => row.querySelector(`[data-${name}]`);
    const slider = part("slider"), number = part("level"), top = one.density.top;
    slider.max = SLIDER;
    number.max = top.toFixed(2);
    function set(level, from) {
      one.level = Math.max(0.05, Math.min(top, level));
      // Low contours lie closer together on the slider, as they do in the map.
      if (from !== slider) slider.value = Math.round(SLIDER * Math.sqrt(one.level / top));
      if (from !== number) number.value = one.level.toFixed(2);
      slider.setAttribute("aria-valuetext", `${one.level.toFixed(1)} sigma`);
      const value = one.density.mean + one.level * one.density.sigma;
      const volume = `around ${Math.round(one.enclosed(one.level)).toLocaleString("en")} Å³`;
      part("encloses").textContent = (one.fixed ? "" : `= ${value.toPrecision(3)}, `) + volume;
      row.querySelectorAll("[data-preset]").forEach((button) => {
        const same = Math.abs(Number(button.dataset.preset) - one.level) < 0.005;
        button.setAttribute("aria-pressed", String(same));
      });
      soon(one);
    }
    slider.addEventListener("input", () => set(top * (slider.value / SLIDER) ** 2, slider));
    number.addEventListener("input", () => { if (number.value > 0) set(Number(number.value), number); });
    part("shown").addEventListener("change", () => { one.shown = part("shown").checked; soon(one); });
    part("style").addEventListener("change", () => { one.style = part("style").value; soon(one); });
    row.querySelectorAll("[data-preset]").forEach((button) => {
      button.addEventListener("click", () => {
        one.shown = part("shown").checked = true;
        set(Number(button.dataset.preset), null);
      });
    });
    one.reset = () => {
      one.shown = part("shown").checked = part("shown").defaultChecked;
      set(one.start, null);
    };
    set(one.start, null);
  });

  // ---- places to go to
  const words = {
    atom: (k) => {
      const one = residueOf.get(k), fit = atoms.fit[k];
      return (one ? `${one.label}, atom ${k + 1}` : `atom ${k + 1}`) +
        (atoms.elements ? ` (${atoms.elements[k]})` : "") +
        `: ${atoms.confirmed[k] ? "confirmed" : "not confirmed"}, weight ${atoms.weights[k].toFixed(2)} carbons, ` +
        `B ${atoms.b[k].toFixed(1)} Å²` + (fit === null ? "" : `, fit to the map ${fit.toFixed(2)}`);
    },
    peak: (k) => `peak of the difference map, ${peaks[k].height.toFixed(1)} sigma: ` +
      (peaks[k].height > 0 ? "the data ask for more here" : "the atoms are too much here"),
    residue: (k) => {
      const one = atoms.residues[k];
      return one.label + (one.confidence === null ? "" : `, confidence ${one.confidence.toFixed(2)}`);
    },
  };
  const tell = (k) => { status.textContent = k === null ? (chosen ? words[chosen.kind](chosen.k) : "") : words.atom(k); };
  const list = root.querySelector("[data-jump]");
  const places = [];
  function group(title, kind, numbers) {
    if (!numbers.length) return;
    const holder = document.createElement("optgroup");
    holder.label = title;
    numbers.forEach((k) => {
      const option = document.createElement("option");
      option.value = places.length;
      option.textContent = kind === "atom" ? words.atom(k).replace(/ carbons/, "") : words[kind](k);
      places.push({ kind, k });
      holder.appendChild(option);
    });
    list.appendChild(holder);
  }
  if (list) {
    const chains = new Map();
    atoms.residues.forEach((one, k) => {
      if (!chains.has(one.chain)) chains.set(one.chain, []);
      chains.get(one.chain).push(k);
    });
    chains.forEach((numbers, chain) => group(`chain ${chain}`, "residue", numbers));
    const ranked = points.map((_, k) => k).filter((k) => atoms.fit[k] !== null);
    ranked.sort((a, b) => atoms.fit[a] - atoms.fit[b]);
    group("worst fit to the map", "atom", ranked.slice(0, 12));
    group("best fit to the map", "atom", ranked.slice(-12).reverse());
    group("peaks of the difference map", "peak", peaks.map((_, k) => k));
  }
  const SELECT = {
    atom: ({ k }) => [points[k]],
    peak: ({ k }) => [peaks[k].position_A],
    residue: ({ k }) => atoms.residues[k].atoms.map((a) => points[a]),
  };
  let chosen = null, marks = [];
  function choose(place) {
    chosen = place;
    const at = SELECT[place.kind](place);
    const middle = [0, 1, 2].map((axis) => at.reduce((sum, p) => sum + p[axis], 0) / at.length);
    const spread = Math.max(0, ...at.map((p) => Math.hypot(...p.map((v, axis) => v - middle[axis]))));
    near = root.querySelector("[data-near]").checked ? { at: middle, radius: NEAR_A + spread } : null;
    marks.splice(0).forEach((old) => viewer.removeLabel(old));
    const text = words[place.kind](place.k).split(/[:,]/)[0];
    marks.push(viewer.addLabel(text, {
      position: { x: middle[0], y: middle[1], z: middle[2] }, fontSize: 13, backgroundOpacity: 0.65,
      screenOffset: { x: 14, y: -14 }, inFront: true,
    }));
    drawSurfaces();
    look(middle, spread + 3.5, near ? near.radius : null);
    const number = places.findIndex((one) => one.kind === place.kind && one.k === place.k);
    if (list) list.value = number < 0 ? "" : String(number);
    status.textContent = words[place.kind](place.k);
    root.dataset.chosen = `${place.kind} ${place.k}`;
  }
  // Looks at a place from where it is looked at now. The library's camera stands 150 Å from the
  // middle and sees 20 degrees.
  function look(middle, radius, slab) {
    const view = viewer.getView();
    const distance = radius / Math.tan(Math.PI / 180 * 10);
    const goal = [-middle[0], -middle[1], -middle[2], 150 - distance, ...view.slice(4)];
    const size = Math.hypot(...high.map((value, axis) => value - low[axis]));
    if (slab) viewer.setSlab(-slab, slab + 2);
    else viewer.setSlab(Math.min(-2 * size, -50), Math.max(2 * size, 50));
    const from = view.slice(), began = performance.now();
    (function step() {
      const part = MOVE_MS ? Math.min(1, (performance.now() - began) / MOVE_MS) : 1;
      const eased = part * part * (3 - 2 * part);
      viewer.setView(goal.map((value, i) => (i < 4 ? from[i] + eased * (value - from[i]) : value)));
      if (part < 1) requestAnimationFrame(step);
    })();
  }
  function whole() {
    const view = viewer.getView();
    viewer.setView([...view.slice(0, 4), 0, 0, 0, 1]);
    near = null;
    chosen = null;
    marks.splice(0).forEach((old) => viewer.removeLabel(old));
    delete root.dataset.chosen;
    status.textContent = "";
    if (list) list.value = "";
    const middle = high.map((value, axis) => (value + low[axis]) / 2);
    const half = Math.hypot(...high.map((value, axis) => value - low[axis])) / 2;
    const narrow = Math.min(1, holder.clientWidth / Math.max(1, holder.clientHeight));
    look(middle, (half * 0.66 + 1) / narrow, null);
  }
  function reset() {
    scene.surfaces.forEach((one) => one.reset());
    whole();
  }
  const stepTo = (by) => {
    const now = Number(list.value === "" ? (by > 0 ? -1 : 0) : list.value);
    choose(places[(now + by + places.length) % places.length]);
  };

  // ---- controls
  const on = (name, event, act) => {
    const part = root.querySelector(`[data-${name}]`);
    if (part) part.addEventListener(event, act);
  };
  on("reset", "click", reset);
  on("jump", "change", () => { if (list.value !== "") choose(places[Number(list.value)]); });
  on("before", "click", () => stepTo(-1));
  on("after", "click", () => stepTo(1));
  on("near", "change", () => {
    if (chosen) choose(chosen);
  });
  ["atoms", "doubtful", "hydrogens", "colour"].forEach((name) => on(name, "change", drawAtoms));
  on("peaks", "change", drawPeaks);
  const KEYS = {
    ArrowLeft: () => viewer.rotate(-7, "y"), ArrowRight: () => viewer.rotate(7, "y"),
    ArrowUp: () => viewer.rotate(-7, "x"), ArrowDown: () => viewer.rotate(7, "x"),
    "+": () => viewer.zoom(1.15), "=": () => viewer.zoom(1.15), "-": () => viewer.zoom(1 / 1.15),
    Home: reset,
  };
  holder.addEventListener("keydown", (event) => {
    const act = KEYS[event.key];
    if (act && !event.ctrlKey && !event.metaKey && !event.altKey) { event.preventDefault(); act(); }
  });
  const repaint = () => { viewer.setBackgroundColor(paper()); viewer.render(); };
  dark.addEventListener("change", repaint);
  addEventListener("themechange", repaint);
  new ResizeObserver(() => viewer.resize()).observe(holder);

  drawAtoms();
  drawPeaks();
  whole();
  setTimeout(() => { root.dataset.state = "ready"; }, 60);
}

start().catch((error) => {
  giveUp("The viewer failed.");
  throw error;
});
})();
