// A map's isosurfaces, to turn with mouse, finger or arrow keys. Plain WebGL 1, no library.
(function () {
  "use strict";
  const root = document.getElementById("viewer");
  const surfaces = JSON.parse(document.getElementById("surfaces").textContent);
  const canvas = root.querySelector("canvas");
  const buttons = Array.from(root.querySelectorAll("button[data-surface]"));
  const about = document.getElementById("surface-about");

  function giveUp() {
    const parts = "#viewer canvas, #viewer .bar, .hint";
    document.querySelectorAll(parts).forEach((part) => { part.hidden = true; });
    const said = root.querySelector(".fallback");
    said.hidden = false;
    const picture = document.querySelector("#sections img");
    if (picture && !said.querySelector("img")) said.appendChild(picture.cloneNode());
  }

  const gl = canvas.getContext("webgl", { antialias: true, preserveDrawingBuffer: true });
  if (!gl) { giveUp(); return; }
  canvas.addEventListener("webglcontextlost", giveUp);

  const VERTEX = `
    attribute vec3 place; attribute vec3 normal;
    uniform mat3 turn; uniform vec2 zoom; uniform float size;
    varying vec3 facing; varying float depth;
    void main() {
      vec3 at = turn * place * size;
      facing = turn * normal;
      depth = at.z;
      float far = 3.4 - at.z;
      gl_Position = vec4(at.xy * zoom * 3.4, (far - 3.4) / 2.0 * far, far);
    }`;
  const FRAGMENT = `
    precision mediump float;
    uniform vec3 colour; uniform vec3 paper;
    varying vec3 facing; varying float depth;
    void main() {
      vec3 n = normalize(facing);
      if (n.z < 0.0) n = -n;
      float key = max(dot(n, normalize(vec3(-0.45, 0.6, 0.75))), 0.0);
      float fill = max(dot(n, normalize(vec3(0.7, -0.2, 0.5))), 0.0);
      float gleam = pow(max(dot(n, normalize(vec3(-0.25, 0.35, 0.95))), 0.0), 32.0);
      vec3 lit = colour * (0.22 + 0.7 * key + 0.22 * fill) + 0.16 * gleam;
      float haze = clamp(0.32 - 0.5 * depth, 0.0, 0.8);
      gl_FragColor = vec4(mix(lit, paper, haze), 1.0);
    }`;

  function shader(kind, text) {
    const made = gl.createShader(kind);
    gl.shaderSource(made, text);
    gl.compileShader(made);
    return made;
  }
  const program = gl.createProgram();
  gl.attachShader(program, shader(gl.VERTEX_SHADER, VERTEX));
  gl.attachShader(program, shader(gl.FRAGMENT_SHADER, FRAGMENT));
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) { giveUp(); return; }
  gl.useProgram(program);
  gl.enable(gl.DEPTH_TEST);
  const at = {};
  ["turn", "zoom", "size", "colour", "paper"].forEach((name) => {
    at[name] = gl.getUniformLocation(program, name);
  });
  const place = gl.getAttribLocation(program, "place");
  const normal = gl.getAttribLocation(program, "normal");

  function bytes(text) {
    const raw = atob(text), out = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
    return out;
  }
  function buffer(target, text) {
    const made = gl.createBuffer();
    gl.bindBuffer(target, made);
    gl.bufferData(target, bytes(text), gl.STATIC_DRAW);
    return made;
  }
  // Normals take 3 bytes each, vertices 6; both are read as parts of their largest value.
  function load(one) {
    if (!one.buffers) {
      one.buffers = {
        vertex: buffer(gl.ARRAY_BUFFER, one.vertex),
        normal: buffer(gl.ARRAY_BUFFER, one.normal),
        index: buffer(gl.ELEMENT_ARRAY_BUFFER, one.index),
      };
    }
    gl.bindBuffer(gl.ARRAY_BUFFER, one.buffers.vertex);
    gl.enableVertexAttribArray(place);
    gl.vertexAttribPointer(place, 3, gl.SHORT, true, 0, 0);
    gl.bindBuffer(gl.ARRAY_BUFFER, one.buffers.normal);
    gl.enableVertexAttribArray(normal);
    gl.vertexAttribPointer(normal, 3, gl.BYTE, true, 0, 0);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, one.buffers.index);
  }

  // One scale for all surfaces, so that changing the level doesn't change the size.
  const reach = Math.max(...surfaces.map((one) => one.reach_A));
  const START = [1, 0, 0, 0, 1, 0, 0, 0, 1];
  let turn = START.slice(), zoom = 1, shown = surfaces[0], asked = false;

  // Matrices are stored by columns, as WebGL takes them.
  function times(a, b) {
    const out = [];
    for (let c = 0; c < 3; c++) {
      for (let r = 0; r < 3; r++) {
        out.push(a[r] * b[3 * c] + a[3 + r] * b[3 * c + 1] + a[6 + r] * b[3 * c + 2]);
      }
    }
    return out;
  }
  function rotate(right, down) {
    const c = Math.cos(right), s = Math.sin(right), d = Math.cos(down), t = Math.sin(down);
    turn = times([1, 0, 0, 0, d, t, 0, -t, d], times([c, 0, -s, 0, 1, 0, s, 0, c], turn));
    ask();
  }
  function scale(by) { zoom = Math.min(12, Math.max(0.4, zoom * by)); ask(); }
  function reset() { turn = START.slice(); zoom = 1; ask(); }

  const dark = matchMedia("(prefers-color-scheme: dark)");
  function colours() {
    return dark.matches
      ? { paper: [0.133, 0.149, 0.165], colour: [0.42, 0.73, 0.93] }
      : { paper: [0.957, 0.965, 0.973], colour: [0.2, 0.56, 0.82] };
  }
  function draw() {
    asked = false;
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    const width = Math.max(1, Math.round(canvas.clientWidth * ratio));
    const height = Math.max(1, Math.round(canvas.clientHeight * ratio));
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    gl.viewport(0, 0, width, height);
    const { paper, colour } = colours();
    gl.clearColor(paper[0], paper[1], paper[2], 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    const side = Math.min(width, height), fill = 0.95 * zoom;
    gl.uniformMatrix3fv(at.turn, false, turn);
    gl.uniform2f(at.zoom, fill * side / width, fill * side / height);
    gl.uniform1f(at.size, shown.reach_A / reach);
    gl.uniform3fv(at.colour, colour);
    gl.uniform3fv(at.paper, paper);
    load(shown);
    gl.drawElements(gl.TRIANGLES, 3 * shown.triangles, gl.UNSIGNED_SHORT, 0);
  }
  function ask() {
    if (!asked) { asked = true; requestAnimationFrame(draw); }
  }
  function choose(number) {
    shown = surfaces[number];
    buttons.forEach((button, k) => button.setAttribute("aria-pressed", String(k === number)));
    about.textContent = buttons[number].dataset.about;
    ask();
  }

  const fingers = new Map();
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, [event.clientX, event.clientY]);
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const now = [event.clientX, event.clientY];
    if (fingers.size === 2) {
      const other = Array.from(fingers.entries()).find(([id]) => id !== event.pointerId)[1];
      const gap = (a) => Math.max(10, Math.hypot(a[0] - other[0], a[1] - other[1]));
      scale(gap(now) / gap(before));
    } else {
      rotate((now[0] - before[0]) * 0.009, (now[1] - before[1]) * 0.009);
    }
    fingers.set(event.pointerId, now);
  });
  ["pointerup", "pointercancel", "lostpointercapture"].forEach((name) => {
    canvas.addEventListener(name, (event) => fingers.delete(event.pointerId));
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    scale(Math.exp(-Math.max(-60, Math.min(60, event.deltaY)) * 0.003));
  }, { passive: false });
  const KEYS = {
    ArrowLeft: () => rotate(-0.12, 0), ArrowRight: () => rotate(0.12, 0),
    ArrowUp: () => rotate(0, -0.12), ArrowDown: () => rotate(0, 0.12),
    "+": () => scale(1.15), "=": () => scale(1.15), "-": () => scale(1 / 1.15), Home: reset,
  };
  canvas.addEventListener("keydown", (event) => {
    const act = KEYS[event.key];
    if (act && !event.ctrlKey && !event.metaKey && !event.altKey) { event.preventDefault(); act(); }
  });
  buttons.forEach((button, k) => button.addEventListener("click", () => choose(k)));
  root.querySelector("button[data-reset]").addEventListener("click", reset);
  dark.addEventListener("change", ask);
  new ResizeObserver(ask).observe(canvas);
  choose(Math.max(0, surfaces.findIndex((one) => one.default)));
})();
