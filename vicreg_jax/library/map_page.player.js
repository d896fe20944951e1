// --- selecting and playing

const audio = $("audio");
const heard = new Set(); // tracks that have been played
function neighboursOf(i) { return Array.from(near.subarray(i * SHOWN, (i + 1) * SHOWN)).filter((j) => j >= 0); }
function piecesOf(i) {
  const found = [];
  for (let j = 0; j < count; j++) if (j !== i && tracks[j] === tracks[i]) found.push(j);
  return found;
}
function say(text) { $("live").textContent = text; }

function play(i) {
  const source = new URL(url(i), document.baseURI).href;
  state.playing = i;
  heard.add(tracks[i]);
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
// On to the nearest that has not been heard.
audio.addEventListener("ended", () => {
  if (!$("on").checked || state.playing < 0) return;
  const next = neighboursOf(state.playing).find((j) => !heard.has(tracks[j]));
  if (next !== undefined) select(next, true);
  else $("status").textContent = "All of its neighbours have been heard.";
});

function toggle() {
  if (state.playing !== state.selected && state.selected >= 0) play(state.selected);
  else if (audio.paused) audio.play().catch(() => {});
  else audio.pause();
}

function marked() {
  for (const item of document.querySelectorAll("[data-point]")) {
    item.classList.toggle("playing", Number(item.dataset.point) === state.playing);
  }
}

// Fills a list anew; the keyboard stays where it was.
function refill(list, items) {
  const at = [...list.querySelectorAll("button")].indexOf(document.activeElement);
  list.replaceChildren(...items);
  const buttons = list.querySelectorAll("button");
  if (at >= 0) (buttons[Math.min(at, buttons.length - 1)] ?? canvas).focus();
}

function entry(j, told) {
  const item = element("li", "", { className: "near" }), button = element("button", "", { title: "Play" });
  const go = element("button", "→", { title: "Go there" });
  item.dataset.point = j;
  button.append(named(j), element("span", told, { className: "dim" }));
  button.addEventListener("click", () => play(j));
  go.setAttribute("aria-label", `Go to ${title(j)}`);
  go.addEventListener("click", () => select(j, false));
  item.append(button, go);
  return item;
}

function select(i, thenPlay) {
  state.selected = i;
  $("track").hidden = false;
  $("name").replaceChildren(...titleNodes(i));
  $("folder").replaceChildren(...pathNodes(i));
  const labels = colourings.map((c) => `${c.name}: ${c.labels[c.codes[i]]}`);
  $("about").replaceChildren(...isolated(labels, " · "));
  $("link").href = hash(i);
  const others = neighboursOf(i), pieces = piecesOf(i);
  $("near").hidden = !others.length;
  refill($("neighbours"), others.map((j, k) => entry(j, (cosines[i * SHOWN + k] / 32767).toFixed(2))));
  $("own").hidden = !pieces.length;
  refill($("pieces"), pieces.slice(0, 100).map((j) => entry(j, "")));
  try { history.replaceState(null, "", hash(i)); } catch { /* some browsers, from file:// */ }
  const [w, h] = size(), [x, y] = screen(i);
  if (x < 0 || y < 0 || x > w || y > h) { state.x += w / 2 - x; state.y += h / 2 - y; }
  say(`${title(i)}, ${folder(i)}`);
  if (thenPlay) play(i);
  marked();
  draw();
}
