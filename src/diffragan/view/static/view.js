// The page: which view is shown, its address, its command, keys and colours.
import { ask, copy, make, quoted } from "./page.js";
import { chart } from "./charts.js";
import { MapView } from "./map.js";
import { Pairs } from "./pairs.js";
import { Scan } from "./scan.js";

const LABELS = { scan: "Scan", map: "Map", pairs: "Pairs", curves: "Curves", about: "About" };
const $ = (id) => document.getElementById(id);
let source = null, current = null;
const parts = {};

// pairs/12?sort=-r&filter=… or map?volume=half1&z=40
function place() {
  const [path, asked] = decodeURI(location.hash.slice(1)).split("?");
  const [tab, row] = path.split("/");
  return { tab, row: row ? Number(row) : null, asked: new URLSearchParams(asked) };
}

function fragment() {
  const state = parts[current]?.state ?? {}, asked = new URLSearchParams();
  if (current === "map") { for (const [name, value] of Object.entries(state)) asked.set(name, value); }
  else { if (state.sort) asked.set("sort", state.sort); if (state.filter) asked.set("filter", state.filter); if (state.layer) asked.set("layer", state.layer); }
  const row = state.row === null || state.row === undefined ? "" : `/${state.row}`, text = decodeURIComponent(asked.toString().replaceAll("+", " "));
  return current + row + (text ? `?${text}` : "");
}

// The address and the command follow what is shown.
function moved() {
  if (!current) return;
  const text = fragment();
  history.replaceState(null, "", `#${encodeURI(text)}`);
  const plain = text === source.tabs[0];
  $("command").textContent = source.command + (plain ? "" : ` --open ${quoted(text)}`);
  $("command").title = $("command").textContent;
}

async function show(tab) {
  if (!source.tabs.includes(tab)) tab = source.tabs[0];
  const first = !parts[tab];
  current = tab;
  document.querySelectorAll("main > section").forEach((one) => { one.hidden = one.id !== tab; });
  document.querySelectorAll("#tabs button").forEach((one) => one.setAttribute("aria-selected", String(one.dataset.tab === tab)));
  if (first) await open(tab);
  moved();
}

async function open(tab) {
  const { tab: named, row, asked } = place(), here = named === tab ? asked : new URLSearchParams(), root = $(tab);
  if (tab === "scan") {
    parts.scan = new Scan(root, source, moved, (pair) => goTo("pairs", pair));
    await parts.scan.open({ row: named === tab ? row : null, layer: here.get("layer") ?? "" });
  } else if (tab === "pairs") {
    parts.pairs = new Pairs(root, source, moved, (position) => goTo("scan", position));
    await parts.pairs.open({ row: named === tab ? row : null, sort: here.get("sort") ?? "", filter: here.get("filter") ?? "" });
    const told = examples(parts.pairs.table.columns ?? []);
    $("examples").replaceChildren(...(told.length ? ["For example: ", ...told.flatMap((one) => [make("code", {}, one), " "])] : []));
    if (told.length) $("filter").placeholder = `Filter, as ${told.slice(0, 2).join(" ")}`;
  } else if (tab === "map") {
    parts.map = new MapView(root, source, moved);
    parts.map.open(Object.fromEntries(here));
  } else if (tab === "curves") {
    parts.curves = {};
    const all = await ask("api/charts");
    root.replaceChildren(make("div", { class: "charts" }, ...all.map((one) => chart(one))));
  } else {
    parts.about = {};
    const settings = source.settings ? make("details", {}, make("summary", {}, "Settings of the run"), make("pre", {}, source.settings)) : null;
    root.replaceChildren(make("div", {}, make("div", { class: "says" }, ...source.says.map((words) => make("p", {}, words))),
      make("dl", {}, ...[["path", source.path], ...source.numbers, ["shown by", `diffragan ${source.version}`]].flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])), settings));
  }
}

// From a position to its pair, and back.
async function goTo(tab, row) {
  await show(tab);
  if (tab === "scan") parts.scan.choose(row);
  else await parts.pairs.jump(row);
}

// Filters on columns that the table has, those that are asked most first.
const ASKED = ["r", "verdict", "trust", "class", "mass", "dose"];
function examples(columns) {
  const rank = ({ name }) => (ASKED.includes(name) ? ASKED.indexOf(name) : ASKED.length);
  return columns.filter((one) => one.name !== "item" && (one.names.length || Number(one.middle))).sort((a, b) => rank(a) - rank(b)).slice(0, 3)
    .map((one) => (one.names.length ? `${one.name} = ${/\s/.test(one.names[0]) ? `"${one.names[0]}"` : one.names[0]}` : `${one.name} ${one.bar ? ">" : "<"} ${one.bar ? 0.5 : one.middle}`));
}

const THEMES = ["auto", "light", "dark"];
function turnTheme() {
  const next = THEMES[(THEMES.indexOf($("theme").textContent) + 1) % 3];
  $("theme").textContent = next;
  if (next === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  dispatchEvent(new Event("themechange"));
}

function keys(event) {
  const typing = event.target.matches?.("input:not([type=range]):not([type=checkbox]), select, textarea, .stage");
  if (typing || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const done = () => event.preventDefault();
  if (event.key === "/" && parts.pairs && current === "pairs") { done(); $("filter").focus(); $("filter").select(); }
  else if (event.key === "?") { done(); $("help").showModal(); }
  else if (event.key === "t") turnTheme();
  else if (/^[1-9]$/.test(event.key) && source?.tabs[event.key - 1]) show(source.tabs[event.key - 1]);
  else if (event.key === "Enter" && current === "pairs" && event.target === $("table")) { done(); [...parts.pairs.pictures.values()][0]?.enlarge(); }
  else parts[current]?.table?.key(event) || parts[current]?.key?.(event);
}

async function start() {
  source = await ask("api/source");
  document.title = `${source.name}, diffragan view`;
  $("name").textContent = source.name;
  $("name").title = source.path;
  $("kind").textContent = source.kind;
  $("tabs").replaceChildren(...source.tabs.map((tab, k) => make("button", { type: "button", role: "tab", "data-tab": tab, title: `${LABELS[tab]} (${k + 1})`, onclick: () => show(tab) }, LABELS[tab])));
  $("theme").addEventListener("click", turnTheme);
  $("keys").addEventListener("click", () => $("help").showModal());
  $("copy").addEventListener("click", () => copy($("command").textContent, $("copy")));
  document.addEventListener("keydown", keys);
  document.querySelectorAll("dialog").forEach((dialog) => dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); }));
  await show(place().tab || source.tabs[0]);
  document.body.dataset.state = "ready";
}

start().catch((error) => {
  document.body.dataset.state = "failed";
  $("trouble").hidden = false;
  $("trouble").textContent = error.message;
});
