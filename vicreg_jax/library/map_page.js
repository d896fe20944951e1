"use strict";
// A map of music. Names only ever become text: see `element`.
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
const count = data.names.length, SHOWN = data.shown;
const place = new Uint16Array(bytes(data.places)); // x, y, x, y, ...
const starts = new Float32Array(bytes(data.starts));
const near = new Int32Array(bytes(data.neighbours));
const colourings = data.colourings.map((c) => ({ ...c, codes: new Uint8Array(bytes(c.codes)) }));
const lower = data.names.map((name) => name.toLowerCase());
const dark = matchMedia("(prefers-color-scheme: dark)");
// Colours for white and for black.
const COLOURS = data.palette, RANGES = data.ranges;

const canvas = $("canvas"), context = canvas.getContext("2d");
const audio = $("audio");
const state = { zoom: 1, x: 0, y: 0, selected: -1, hovered: -1, playing: -1, colouring: 0, hidden: new Set() };

function element(tag, text, more = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  return Object.assign(made, more);
}

// --- what a point is called, and where its sound lies

const at = (i) => Math.max(0, starts[i]);
const clock = (s) => `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}`;
const title = (i) => data.names[i] + (data.passages ? ` at ${clock(at(i))}` : "");
const folder = (i) => data.names[i].slice(0, data.names[i].lastIndexOf("/") + 1);
const short = (i) => title(i).slice(folder(i).length);
const hash = (i) => "#" + encodeURIComponent(data.names[i]) + (data.passages ? `@${at(i)}` : "");

function url(i) {
  if (data.served) return `audio/${i}`;
  if (i in data.links) return data.links[i];
  return data.root + data.names[i].split("/").map(encodeURIComponent).join("/");
}

function ofHash() {
  const [name, second] = location.hash.slice(1).split("@");
  let wanted;
  try { wanted = decodeURIComponent(name); } catch { return -1; }
  const named = data.names.flatMap((n, i) => (n === wanted ? [i] : []));
  return named.find((i) => second === undefined || at(i) === Number(second)) ?? -1;
}

// The name of a point, its folder below it.
function named(i) {
  const made = element("span", short(i));
  if (folder(i)) made.append(element("small", folder(i), { className: "dim" }));
  return made;
}

// --- the picture

let order = []; // point numbers by label
let grid, SIDE; // point numbers by cell: grid.of[grid.first[c]..grid.first[c + 1]]

function makeGrid() {
  SIDE = Math.max(1, Math.min(256, Math.round(Math.sqrt(count / 2))));
  const cell = (i) => {
    const x = Math.min(SIDE - 1, Math.floor(place[2 * i] / 65536 * SIDE));
    return x + SIDE * Math.min(SIDE - 1, Math.floor(place[2 * i + 1] / 65536 * SIDE));
  };
  const first = new Int32Array(SIDE * SIDE + 1);
  for (let i = 0; i < count; i++) first[cell(i) + 1]++;
  for (let c = 0; c < SIDE * SIDE; c++) first[c + 1] += first[c];
  const next = first.slice(), of = new Int32Array(count);
  for (let i = 0; i < count; i++) of[next[cell(i)]++] = i;
  grid = { first, of };
}

function size() { return [canvas.clientWidth, canvas.clientHeight]; }
// The map is a square of which places fill a part, in its middle.
const extent = [0, 1].map((axis) => {
  let least = 65535, most = 0;
  for (let i = axis; i < 2 * count; i += 2) { least = Math.min(least, place[i]); most = Math.max(most, place[i]); }
  return Math.max(0.05, (most - least) / 65535);
});
// The canvas and the square's side in pixels; asking the page is slow, so once for many points.
function view() {
  const [w, h] = size();
  return [w, h, state.zoom * Math.min((w - 40) / extent[0], (h - 40) / extent[1])];
}
function screen(i, [w, h, s] = view()) {
  return [w / 2 + (place[2 * i] / 65535 - 0.5) * s + state.x, h / 2 - (place[2 * i + 1] / 65535 - 0.5) * s + state.y];
}
function radius() {
  return Math.max(0.75, Math.min(7, 70 / Math.sqrt(count) * Math.pow(state.zoom, 0.45)));
}

function isGrey(code) {
  const label = colourings[state.colouring].labels[code];
  return label === data.others || label === data.unknown;
}
function colour(code) {
  const c = colourings[state.colouring];
  if (isGrey(code)) return getComputedStyle(document.documentElement).getPropertyValue("--other");
  if (c.ordered) {
    return RANGES[code % RANGES.length][dark.matches ? 1 : 0];
  }
  return COLOURS[code % COLOURS.length][dark.matches ? 1 : 0];
}
// The second eight labels are rings.
const isRing = (code) => !colourings[state.colouring].ordered && code >= COLOURS.length;
const shows = (i) => !state.hidden.has(colourings[state.colouring].codes[i]);

let waiting = 0;
function draw() { waiting ||= requestAnimationFrame(paint); }

function dot(i, r, fill, line) {
  const [x, y] = screen(i);
  context.beginPath();
  context.arc(x, y, r, 0, 7);
  if (fill) { context.fillStyle = fill; context.fill(); }
  if (line) { context.strokeStyle = line; context.stroke(); }
}

function paint() {
  waiting = 0;
  const now = view(), [w, h] = now, ratio = devicePixelRatio || 1, r = radius();
  const across = Math.round(w * ratio), down = Math.round(h * ratio);
  if (canvas.width !== across) canvas.width = across;
  if (canvas.height !== down) canvas.height = down;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, w, h);
  const fore = getComputedStyle(document.documentElement).getPropertyValue("--fore");
  // What is grey lies below.
  const codes = [...order.keys()].sort((a, b) => isGrey(b) - isGrey(a));
  for (const code of codes) {
    if (state.hidden.has(code)) continue;
    const tone = colour(code), ring = isRing(code) && r > 2;
    context.fillStyle = context.strokeStyle = tone;
    context.lineWidth = 1.5;
    context.globalAlpha = count > 5000 ? 0.7 : 0.9;
    for (const i of order[code]) {
      const [x, y] = screen(i, now);
      if (x < -9 || y < -9 || x > w + 9 || y > h + 9) continue;
      if (r <= 1.5) { context.fillRect(x - r, y - r, 2 * r, 2 * r); continue; }
      context.beginPath();
      context.arc(x, y, r, 0, 7);
      if (ring) context.stroke(); else context.fill();
    }
  }
  context.globalAlpha = 1;
  if (state.selected >= 0) {
    const [x, y] = screen(state.selected);
    context.lineWidth = 1.2;
    for (const j of neighboursOf(state.selected)) {
      context.strokeStyle = fore;
      context.beginPath();
      context.moveTo(x, y);
      context.lineTo(...screen(j));
      context.globalAlpha = 0.6;
      context.stroke();
      context.globalAlpha = 1;
      dot(j, Math.max(4, r), colour(colourings[state.colouring].codes[j]), fore);
    }
    context.lineWidth = 2.5;
    dot(state.selected, Math.max(7, r + 2), colour(colourings[state.colouring].codes[state.selected]), fore);
  }
  if (state.playing >= 0 && state.playing !== state.selected) { context.lineWidth = 2.5; dot(state.playing, Math.max(7, r + 2), null, fore); }
  if (state.hovered >= 0) { context.lineWidth = 1.5; dot(state.hovered, Math.max(5, r + 1), null, fore); }
}

function nearestTo(x, y, within) {
  const now = view(), [w, h, s] = now;
  const cx = ((x - state.x - w / 2) / s + 0.5) * SIDE, cy = (0.5 - (y - state.y - h / 2) / s) * SIDE;
  const reach = within / s * SIDE + 1;
  let best = -1, least = within * within;
  for (let v = Math.max(0, Math.floor(cy - reach)); v <= Math.min(SIDE - 1, cy + reach); v++) {
    for (let u = Math.max(0, Math.floor(cx - reach)); u <= Math.min(SIDE - 1, cx + reach); u++) {
      const c = u + SIDE * v;
      for (let k = grid.first[c]; k < grid.first[c + 1]; k++) {
        const i = grid.of[k];
        if (!shows(i)) continue;
        const [px, py] = screen(i, now), d = (px - x) ** 2 + (py - y) ** 2;
        if (d <= least) { best = i; least = d; }
      }
    }
  }
  return best;
}

// --- selecting and playing

function neighboursOf(i) { return Array.from(near.subarray(i * SHOWN, (i + 1) * SHOWN)).filter((j) => j >= 0); }

function play(i) {
  const source = new URL(url(i), document.baseURI).href;
  state.playing = i;
  $("status").textContent = "";
  const begin = () => { audio.currentTime = at(i); audio.play().catch(() => {}); };
  if (audio.src === source && audio.readyState > 0) {
    begin();
  } else {
    audio.src = source;
    audio.addEventListener("loadedmetadata", begin, { once: true });
    audio.load();
  }
  marked();
  draw();
}

audio.addEventListener("error", () => {
  if (state.playing >= 0) $("status").textContent = `Cannot be played: ${data.names[state.playing]}`;
});

function toggle() {
  if (state.playing !== state.selected && state.selected >= 0) play(state.selected);
  else if (audio.paused) audio.play().catch(() => {});
  else audio.pause();
}

function marked() {
  for (const item of $("neighbours").children) item.classList.toggle("playing", Number(item.dataset.point) === state.playing);
}

function select(i, thenPlay) {
  state.selected = i;
  $("track").hidden = $("near").hidden = false;
  $("name").textContent = short(i);
  $("folder").textContent = folder(i);
  const labels = colourings.map((c) => `${c.name}: ${c.labels[c.codes[i]]}`);
  $("about").textContent = labels.join(" · ");
  $("link").href = hash(i);
  $("neighbours").replaceChildren(...neighboursOf(i).map((j) => {
    const item = element("li", "", { className: "near" });
    item.dataset.point = j;
    const button = element("button", "", { title: "Play" });
    button.append(named(j));
    button.addEventListener("click", () => play(j));
    const go = element("button", "→", { title: "Go there" });
    go.setAttribute("aria-label", `Go to ${title(j)}`);
    go.addEventListener("click", () => { select(j, false); });
    item.append(button, go);
    return item;
  }));
  try { history.replaceState(null, "", hash(i)); } catch { /* some browsers, from file:// */ }
  const [w, h] = size(), [x, y] = screen(i);
  if (x < 0 || y < 0 || x > w || y > h) { state.x += w / 2 - x; state.y += h / 2 - y; }
  if (thenPlay) play(i);
  marked();
  draw();
}

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
});
canvas.addEventListener("pointermove", (e) => {
  const before = fingers.get(e.pointerId);
  if (before) {
    const dx = e.offsetX - before[0], dy = e.offsetY - before[1];
    if (!dragged && Math.hypot(dx, dy) < 4) return;
    dragged = true;
    fingers.set(e.pointerId, [e.offsetX, e.offsetY]);
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
    tip.textContent = title(i);
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
  else if (e.key === "/") { e.preventDefault(); $("search").focus(); }
});

// --- search, and the legend

const search = $("search"), found = $("found");
let active = -1;

function suggest() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const hits = [];
  for (let i = 0; words.length && i < count && hits.length < 20; i++) {
    if (words.every((word) => lower[i].includes(word))) hits.push(i);
  }
  found.replaceChildren(...hits.map((i) => {
    const item = element("li", "");
    item.setAttribute("role", "option");
    const button = element("button", "");
    button.append(named(i));
    button.addEventListener("click", () => choose(i));
    item.append(button);
    return item;
  }));
  if (words.length && !hits.length) found.append(element("li", "Nothing of that name", { className: "dim" }));
  found.hidden = !words.length;
  search.setAttribute("aria-expanded", String(!found.hidden));
  active = -1;
}
function choose(i) { found.hidden = true; search.setAttribute("aria-expanded", "false"); select(i, true); canvas.focus(); }
search.addEventListener("input", suggest);
search.addEventListener("keydown", (e) => {
  const buttons = [...found.querySelectorAll("button")];
  if (e.key === "Escape") { found.hidden = true; canvas.focus(); return; }
  if (e.key === "Enter" && buttons.length) { buttons[Math.max(0, active)].click(); return; }
  if (e.key !== "ArrowDown" && e.key !== "ArrowUp") return;
  e.preventDefault();
  active = Math.max(0, Math.min(buttons.length - 1, active + (e.key === "ArrowDown" ? 1 : -1)));
  buttons.forEach((b, k) => b.classList.toggle("active", k === active));
  buttons[active]?.scrollIntoView({ block: "nearest" });
});

function legend() {
  const c = colourings[state.colouring], counts = new Array(c.labels.length).fill(0);
  for (const code of c.codes) counts[code]++;
  $("legend").replaceChildren(...c.labels.map((label, code) => {
    const item = element("li", ""), button = element("button", "", { title: "Hide or show; with shift: this alone" });
    const mark = element("i", "", { className: "dot" });
    mark.style.border = `2px solid ${colour(code)}`;
    if (!isRing(code)) mark.style.background = colour(code);
    button.append(mark, element("span", label), element("span", counts[code].toLocaleString("en"), { className: "dim" }));
    button.setAttribute("aria-pressed", String(!state.hidden.has(code)));
    button.addEventListener("click", (e) => {
      if (e.shiftKey) {
        const alone = state.hidden.size === c.labels.length - 1 && !state.hidden.has(code);
        state.hidden = new Set(alone ? [] : c.labels.keys());
        state.hidden.delete(code);
      } else if (!state.hidden.delete(code)) state.hidden.add(code);
      legend();
      draw();
    });
    item.append(button);
    return item;
  }));
}

function recolour() {
  const c = colourings[state.colouring];
  state.hidden = new Set();
  order = c.labels.map(() => []);
  for (let i = 0; i < count; i++) order[c.codes[i]].push(i);
  legend();
  draw();
}

// --- start

colourings.forEach((c, k) => $("colouring").append(element("option", c.name, { value: k })));
state.colouring = Math.max(0, colourings.findIndex((c) => c.name === data.colouring));
$("colouring").value = state.colouring;
$("colouring").addEventListener("change", (e) => { state.colouring = Number(e.target.value); recolour(); });
dark.addEventListener("change", () => { legend(); draw(); });
new ResizeObserver(draw).observe(canvas);
addEventListener("hashchange", () => { const i = ofHash(); if (i >= 0 && i !== state.selected) select(i, false); });
$("note").textContent = data.note;
makeGrid();
recolour();
if (ofHash() >= 0) select(ofHash(), false);
