// --- pointer and keys

const fingers = new Map();
let dragged = false, spread = 0;

function zoomAt(x, y, factor) {
  const [w, h] = size(), zoom = Math.max(0.5, Math.min(200, state.zoom * factor)), f = zoom / state.zoom;
  state.x = (x - w / 2) * (1 - f) + state.x * f;
  state.y = (y - h / 2) * (1 - f) + state.y * f;
  state.zoom = zoom;
  draw();
}

canvas.addEventListener("wheel", (e) => { e.preventDefault(); zoomAt(e.offsetX, e.offsetY, Math.exp(-e.deltaY / 400)); }, { passive: false });
canvas.addEventListener("pointerdown", (e) => {
  canvas.setPointerCapture(e.pointerId);
  fingers.set(e.pointerId, [e.offsetX, e.offsetY]);
  dragged = fingers.size > 1;
  spread = 0;
  const around = e.shiftKey || $("lasso").ariaPressed === "true";
  state.lasso = around && fingers.size === 1 ? [[e.offsetX, e.offsetY]] : null;
});
canvas.addEventListener("pointermove", (e) => {
  const before = fingers.get(e.pointerId);
  if (before) {
    const dx = e.offsetX - before[0], dy = e.offsetY - before[1];
    if (!dragged && Math.hypot(dx, dy) < 4) return;
    dragged = true;
    fingers.set(e.pointerId, [e.offsetX, e.offsetY]);
    if (state.lasso) { state.lasso.push([e.offsetX, e.offsetY]); draw(); return; }
    state.x += dx / fingers.size;
    state.y += dy / fingers.size;
    if (fingers.size === 2) {
      const [a, b] = [...fingers.values()], now = Math.hypot(a[0] - b[0], a[1] - b[1]);
      if (spread) zoomAt((a[0] + b[0]) / 2, (a[1] + b[1]) / 2, now / spread);
      spread = now;
    }
    draw();
    return;
  }
  hover(nearestTo(e.offsetX, e.offsetY, Math.max(8, radius() + 2)), e.offsetX, e.offsetY);
});
function lifted(e) {
  fingers.delete(e.pointerId);
  spread = 0;
  const line = state.lasso;
  state.lasso = null;
  if (line && dragged) return choose(within(line));
  if (e.type !== "pointerup" || dragged) return;
  const i = nearestTo(e.offsetX, e.offsetY, Math.max(14, radius() + 2));
  if (i >= 0) select(i, true);
}
canvas.addEventListener("pointerup", lifted);
canvas.addEventListener("pointercancel", lifted);
canvas.addEventListener("pointerleave", () => hover(-1));

function hover(i, x, y) {
  const tip = $("tip");
  tip.hidden = i < 0;
  if (i >= 0) {
    tip.replaceChildren(named(i));
    const [w, h] = size();
    tip.style.left = `${Math.max(0, Math.min(x + 14, w - tip.offsetWidth - 4))}px`;
    tip.style.top = `${Math.max(0, Math.min(y + 14, h - tip.offsetHeight - 4))}px`;
  }
  if (i !== state.hovered) { state.hovered = i; draw(); }
}

function showAll() { Object.assign(state, { zoom: 1, x: 0, y: 0 }); draw(); }

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
function step([dx, dy]) {
  const from = state.selected;
  if (from < 0) return select(Math.max(0, nearestTo(...size().map((s) => s / 2), 1e5)), true);
  const now = view(), [x, y] = screen(from, now);
  let best = -1, least = Infinity;
  for (let i = 0; i < count; i++) {
    if (i === from || !shows(i)) continue;
    const [px, py] = screen(i, now), along = (px - x) * dx + (py - y) * dy, off = Math.abs((px - x) * dy - (py - y) * dx);
    if (along <= 0 || off > along) continue;
    if (along + 2 * off < least) { best = i; least = along + 2 * off; }
  }
  if (best >= 0) select(best, true);
}

addEventListener("keydown", (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey) return;
  const tag = e.target.tagName;
  if (e.target.matches?.("input, select, audio")) return;
  if (e.key === " " && tag !== "BUTTON") { e.preventDefault(); toggle(); }
  else if (e.key in ARROWS) { e.preventDefault(); step(ARROWS[e.key]); }
  else if (e.key === "0") showAll();
  else if (e.key === "Escape") choose([]);
  else if (e.key === "/") { e.preventDefault(); $("search").focus(); }
});

// --- points that are chosen, and lists of them

function choose(points) {
  state.chosen = new Set(points);
  const files = new Set(points.map((i) => data.names[i])).size;
  $("chosen").textContent = points.length ? `${points.length.toLocaleString("en")} points, ${files.toLocaleString("en")} files` : "None";
  for (const id of ["clear", "m3u", "csv"]) $(id).disabled = !points.length;
  arrange();
}
const byName = () => [...state.chosen].sort((i, j) => i - j);
$("lasso").addEventListener("click", (e) => { e.target.ariaPressed = String(e.target.ariaPressed !== "true"); });
$("all").addEventListener("click", () => choose([...order].filter(shows)));
$("clear").addEventListener("click", () => { choose([]); $("all").focus(); });
$("m3u").addEventListener("click", () => save("map.m3u8", m3u(byName()), "audio/x-mpegurl"));
$("csv").addEventListener("click", () => save("map.csv", csv(byName()), "text/csv"));

// --- search: labels of the colouring, and points

const search = $("search"), found = $("found");
let options = [], active = -1; // what each does when it is taken

function suggest() {
  const words = folded(search.value).split(/\s+/).filter(Boolean), c = colouring();
  const fits = (text) => words.length && words.every((word) => text.includes(word));
  const labels = [...c.labels.keys()].filter((code) => fits(folded(c.labels[code]))).slice(0, 5);
  const points = [...data.names.keys()].filter((i) => fits(text(i)));
  options = [...labels.map((code) => () => alone(code)), ...points.slice(0, 20).map((i) => () => select(i, true))];
  const shown = labels.map((code) => {
    const made = element("span", `${c.name}: `);
    made.append(element("bdi", c.labels[code]));
    return made;
  });
  shown.push(...points.slice(0, 20).map(named));
  found.replaceChildren(...shown.map((node, k) => {
    const item = element("li", "", { id: `option${k}`, role: "option", ariaSelected: "false" });
    item.append(node);
    item.addEventListener("click", () => take(k));
    return item;
  }));
  const told = points.length > 20 ? `20 of ${points.length.toLocaleString("en")}` : `${points.length}`;
  $("hits").textContent = words.length ? `${told} found` : "";
  close(!options.length);
}
function close(closed = true) {
  found.hidden = closed;
  search.ariaExpanded = String(!closed);
  point(-1);
}
function point(k) {
  active = k;
  [...found.children].forEach((item, j) => { item.ariaSelected = String(j === k); });
  if (k < 0) return search.removeAttribute("aria-activedescendant");
  search.setAttribute("aria-activedescendant", `option${k}`);
  found.children[k].scrollIntoView({ block: "nearest" });
}
function take(k) { close(); options[k](); canvas.focus(); }
search.addEventListener("input", suggest);
search.addEventListener("keydown", (e) => {
  if (e.isComposing) return; // Enter ends a word of Japanese
  if (e.key === "Escape") {
    e.preventDefault();
    if (found.hidden) canvas.focus();
    close();
  } else if (e.key === "Enter" && options.length) take(Math.max(0, active));
  else if (e.key === "ArrowDown" || e.key === "ArrowUp") {
    e.preventDefault();
    if (found.hidden) suggest();
    const k = active + (e.key === "ArrowDown" ? 1 : -1);
    if (options.length) point(Math.max(0, Math.min(options.length - 1, k)));
  }
});

// --- the legend

// All labels but one are greyed; none is, if they were.
function alone(code) {
  const c = colouring(), was = state.grey.size === c.labels.length - 1 && !state.grey.has(code);
  state.grey = new Set(was ? [] : c.labels.keys());
  state.grey.delete(code);
  state.picked = was || code < c.coloured ? -1 : code;
  legend();
}

// Labels with a colour or that have been searched for, and all others as one.
function legend() {
  const c = colouring(), counts = new Array(c.labels.length).fill(0);
  for (const code of c.codes) counts[code]++;
  const rows = [...c.labels.keys()].slice(0, c.coloured).map((code) => [code]);
  if (state.picked >= 0) rows.unshift([state.picked]);
  const rest = [...c.labels.keys()].slice(c.coloured).filter((code) => code !== state.picked);
  if (rest.length) rows.push(rest);
  refill($("legend"), rows.map((codes) => {
    const [code] = codes, item = element("li", ""), mark = element("i", "", { className: "dot" });
    const button = element("button", "", { title: "Grey or not; with shift: all others" });
    const sum = codes.reduce((total, each) => total + counts[each], 0), lit = codes.some((each) => !state.grey.has(each));
    mark.style.border = `2px solid ${lit ? colour(code) : "var(--faint)"}`;
    if (!isRing(code)) mark.style.background = lit ? colour(code) : "var(--faint)";
    const label = element("bdi", codes.length > 1 ? `${codes.length.toLocaleString("en")} others` : c.labels[code]);
    button.append(mark, label, element("span", sum.toLocaleString("en"), { className: "dim" }));
    button.ariaPressed = String(lit);
    button.addEventListener("click", (e) => {
      if (e.shiftKey && codes.length === 1) return alone(code);
      for (const each of codes) if (lit) state.grey.add(each); else state.grey.delete(each);
      legend();
    });
    item.append(button);
    return item;
  }));
  arrange();
}

function recolour() {
  state.grey = new Set();
  state.picked = -1;
  legend();
}

// --- start

colourings.forEach((c, k) => $("colouring").append(element("option", c.name, { value: k })));
state.colouring = Math.max(0, colourings.findIndex((c) => c.name === data.colouring));
$("colouring").value = state.colouring;
$("colouring").addEventListener("change", (e) => { state.colouring = Number(e.target.value); recolour(); });
dark.addEventListener("change", legend);
new ResizeObserver(draw).observe(canvas);
addEventListener("hashchange", () => { const i = ofHash(); if (i >= 0 && i !== state.selected) select(i, false); });
recolour();
choose([]);
$("note").textContent = data.note;
if (ofHash() >= 0) select(ofHash(), false);
