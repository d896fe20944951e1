"use strict";
// A map of music. Names only ever become text: see `element`.
// This part: what points are called, where their sound lies, and lists of them.
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
const count = data.names.length, SHOWN = data.shown;
const place = new Uint16Array(bytes(data.places)); // x, y, x, y, ...
const starts = new Float32Array(bytes(data.starts));
const tracks = new Int32Array(bytes(data.tracks)); // pieces of one track have one number
const near = new Int32Array(bytes(data.neighbours));
const cosines = new Int16Array(bytes(data.cosines));
const colourings = data.colourings.map((c) => ({ ...c, codes: new Uint16Array(bytes(c.codes)) }));

function element(tag, text, more = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  return Object.assign(made, more);
}

const tag = (name, i) => data.tags[name]?.[i] ?? "";
const at = (i) => Math.max(0, starts[i]);
const clock = (s) => `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}`;
const when = (i) => (data.passages ? ` at ${clock(at(i))}` : "");
const folder = (i) => data.names[i].slice(0, data.names[i].lastIndexOf("/") + 1);
const short = (i) => data.names[i].slice(folder(i).length);
const hash = (i) => "#" + encodeURIComponent(data.names[i]) + (data.passages ? `@${at(i)}` : "");
// Artist and title, or the name of the file.
const parts = (i) => (tag("title", i) ? [tag("artist", i), tag("title", i)].filter(Boolean) : [short(i)]);
const title = (i) => parts(i).join(" – ") + when(i);

// Names from right to left stay apart from what stands beside them.
function isolated(texts, between) {
  return texts.flatMap((text, k) => [...(k ? [between] : []), element("bdi", text)]);
}
const titleNodes = (i) => [...isolated(parts(i), " – "), when(i)];
const pathNodes = (i) => isolated((tag("title", i) ? data.names[i] : folder(i)).split("/"), "/");

// The name of a point, where it lies below.
function named(i) {
  const made = element("span", ""), below = element("small", "", { className: "dim" });
  below.append(...pathNodes(i));
  made.append(...titleNodes(i));
  if (below.textContent) made.append(below);
  return made;
}

// The file, as a URL.
function link(i) {
  const name = data.links[i] ?? data.root + data.names[i].split("/").map(encodeURIComponent).join("/");
  return new URL(name, data.served || document.baseURI).href;
}
const url = (i) => (data.served ? `audio/${i}` : link(i));

function ofHash() {
  const [name, second] = location.hash.slice(1).split("@");
  let wanted;
  try { wanted = decodeURIComponent(name); } catch { return -1; }
  const named = data.names.flatMap((n, i) => (n === wanted ? [i] : []));
  return named.find((i) => second === undefined || at(i) === Number(second)) ?? -1;
}

// --- what is searched: letters without accents, however these were typed

const LETTERS = { ß: "ss", æ: "ae", œ: "oe", ø: "o", ł: "l", đ: "d", ð: "d", þ: "th", ı: "i" };
function folded(text) {
  return text.toLowerCase().normalize("NFKD").replace(/\p{M}/gu, "").replace(/[ßæœøłđðþı]/g, (c) => LETTERS[c]);
}
let texts; // of points, made when they are first asked for
function text(i) {
  texts ||= data.names.map((name, k) => folded([name, tag("artist", k), tag("title", k), tag("album", k)].join("\n")));
  return texts[i];
}

// --- lists, for players and for programs

// The path of a file of this machine; its URL if it has no other name.
function path(i) {
  const from = link(i);
  if (!from.startsWith("file:///")) return from;
  try {
    const name = decodeURIComponent(from.slice("file://".length));
    if (/[\0-\x1f\x7f]/.test(name)) return from;
    return /^\/[A-Za-z]:\//.test(name) ? name.slice(1) : name;
  } catch { return from; } // bytes that are no UTF-8
}

function m3u(points) {
  const lines = new Map(); // each file once
  for (const i of points) {
    const shown = parts(i).join(" - ").replace(/[\0-\x1f\x7f\u2028\u2029]+/g, " ");
    lines.set(path(i), `#EXTINF:-1,${shown}\n${path(i)}\n`);
  }
  return "#EXTM3U\n" + [...lines.values()].join("");
}

function csv(points) {
  const names = Object.keys(data.tags), others = colourings.filter((c) => !names.includes(c.name));
  const header = ["path", ...(data.passages ? ["start"] : []), ...names, ...others.map((c) => c.name)];
  const rows = points.map((i) => [
    path(i), ...(data.passages ? [at(i)] : []), ...names.map((name) => tag(name, i)), ...others.map((c) => c.labels[c.codes[i]]),
  ]);
  const quoted = (value) => (/[",\r\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value);
  return [header, ...rows].map((row) => row.map(quoted).join(",") + "\r\n").join("");
}

function save(name, content, kind) {
  const made = element("a", "", { href: URL.createObjectURL(new Blob([content], { type: kind })), download: name });
  made.click();
  setTimeout(() => URL.revokeObjectURL(made.href), 60000);
}
