// Curves in the page's colours, with their values under the pointer.
import { make } from "./page.js";

const TICKS_A = [10, 5, 4, 3, 2.5, 2, 1.7, 1.5, 1.25, 1.1, 1, 0.9, 0.8];

function nice(low, high, count) {
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((k) => k * power).find((s) => s >= raw * 0.999);
  const ticks = [];
  for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + 1e-9; v += step) ticks.push(Number(v.toPrecision(10)));
  return ticks;
}

export function chart(one, { width = 640, height = 300 } = {}) {
  const left = 58, right = 12, top = 12, bottom = 40;
  const values = one.lines.flatMap((line) => line.y.filter((v) => v !== null));
  const xs = one.lines.flatMap((line) => line.x);
  if (!values.length) return make("div", { class: "chart" }, make("h3", {}, one.title), make("p", { class: "foot" }, "Nothing is known here."));
  const resolution = one.by_resolution;
  let low = Math.min(...values), high = Math.max(...values);
  if (resolution) { low = Math.min(0, Math.max(low, -0.2)); high = 1.02; } else { const pad = (high - low) * 0.08 || 0.1; low -= pad; high += pad; }
  const x0 = resolution ? 0 : Math.min(...xs), x1 = Math.max(...xs) * (resolution ? 1.01 : 1);
  const X = (v) => left + ((v - x0) / (x1 - x0 || 1)) * (width - left - right);
  const Y = (v) => height - bottom - ((v - low) / (high - low)) * (height - top - bottom);
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${one.title}. ${one.about}` });
  for (const v of nice(low, high, 5)) {
    svg.append(make("line", { x1: left, x2: width - right, y1: Y(v), y2: Y(v), class: "grid" }), make("text", { x: left - 7, y: Y(v) + 4, "text-anchor": "end" }, String(Number(v.toFixed(4)))));
  }
  let last = -99;
  const ticks = resolution ? TICKS_A.filter((d) => 1 / d <= x1).map((d) => [1 / d, `${d}`]) : nice(x0, x1, 6).map((v) => [v, `${v}`]);
  for (const [v, text] of ticks) {
    if (X(v) - last < 26) continue;
    last = X(v);
    svg.append(make("line", { x1: X(v), x2: X(v), y1: height - bottom, y2: height - bottom + 4, class: "axis" }), make("text", { x: X(v), y: height - bottom + 17, "text-anchor": "middle" }, text));
  }
  svg.append(make("text", { x: (left + width - right) / 2, y: height - 5, "text-anchor": "middle" }, resolution ? "resolution, Å" : one.x_label));
  svg.append(make("text", { transform: `translate(11 ${(height - bottom + top) / 2}) rotate(-90)`, "text-anchor": "middle" }, one.y_label));
  for (const v of one.thresholds) svg.append(make("line", { x1: left, x2: width - right, y1: Y(v), y2: Y(v), class: "threshold" }));
  const legend = make("p", { class: "legend" });
  const spots = one.lines.map((line) => {
    let path = "", open = false;
    line.x.forEach((x, k) => {
      if (line.y[k] === null) { open = false; return; }
      path += `${open ? "L" : "M"}${X(x).toFixed(1)} ${Y(Math.max(low, Math.min(high, line.y[k]))).toFixed(1)}`;
      open = true;
    });
    svg.append(make("path", { d: path, stroke: line.colour, "stroke-dasharray": line.dashed ? "5 4" : null }));
    const value = make("b"), key = make("i");
    key.style.borderColor = line.colour;
    legend.append(make("span", { class: line.dashed ? "dashed" : "" }, key, line.label, value));
    const spot = make("circle", { r: 3.5, fill: line.colour, visibility: "hidden" });
    svg.append(spot);
    return { line, value, spot };
  });
  const rule = make("line", { y1: top, y2: height - bottom, class: "axis", visibility: "hidden" });
  const told = make("text", { y: top + 2, visibility: "hidden" });
  svg.prepend(rule);
  svg.append(told);
  const off = () => { [rule, told, ...spots.map((s) => s.spot)].forEach((part) => part.setAttribute("visibility", "hidden")); spots.forEach((s) => { s.value.textContent = ""; }); };
  svg.addEventListener("pointerleave", off);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const at = x0 + ((((event.clientX - box.left) / box.width) * width - left) / (width - left - right)) * (x1 - x0);
    const near = xs.reduce((best, x) => (Math.abs(x - at) < Math.abs(best - at) ? x : best));
    const side = X(near) > width * 0.8;
    rule.setAttribute("x1", X(near)); rule.setAttribute("x2", X(near)); rule.setAttribute("visibility", "visible");
    told.setAttribute("x", X(near) + (side ? -6 : 6)); told.setAttribute("text-anchor", side ? "end" : "start");
    told.textContent = resolution ? `${(1 / near).toFixed(2)} Å` : `${near}`;
    told.setAttribute("visibility", "visible");
    for (const { line, value, spot } of spots) {
      const k = line.x.findIndex((x) => Math.abs(x - near) < 1e-9), v = k < 0 ? null : line.y[k];
      value.textContent = v === null ? "" : v.toFixed(3);
      spot.setAttribute("visibility", v === null ? "hidden" : "visible");
      if (v !== null) { spot.setAttribute("cx", X(near)); spot.setAttribute("cy", Y(Math.max(low, Math.min(high, v)))); }
    }
  });
  const save = make("a", { class: "save", href: `picture/${one.name}.png?figure`, download: `${one.name.replaceAll("/", "-")}.png` }, "save");
  return make("div", { class: "chart", "data-chart": one.name }, make("h3", {}, one.title), svg, legend, make("p", { class: "foot" }, make("span", {}, one.about), save));
}
