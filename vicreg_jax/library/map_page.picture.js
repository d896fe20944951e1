// --- the picture: where points are on the screen, and in which colours

const dark = matchMedia("(prefers-color-scheme: dark)");
const shade = (pair) => pair[dark.matches ? 1 : 0]; // colours for white and for black
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const canvas = $("canvas"), context = canvas.getContext("2d");
const state = {
  zoom: 1, x: 0, y: 0, selected: -1, hovered: -1, playing: -1,
  colouring: 0, grey: new Set(), // labels that are greyed
  picked: -1, // a label that has been searched for
  chosen: new Set(), lasso: null, // points; a line around them while it is drawn
};
const colouring = () => colourings[state.colouring];

const grid = makeGrid(); // point numbers by cell: grid.of[grid.first[c]..grid.first[c + 1]]
function makeGrid() {
  const side = Math.max(1, Math.min(256, Math.round(Math.sqrt(count / 2))));
  const cell = (i) => Math.floor(place[2 * i] / 65536 * side) + side * Math.floor(place[2 * i + 1] / 65536 * side);
  const first = new Int32Array(side * side + 1);
  for (let i = 0; i < count; i++) first[cell(i) + 1]++;
  for (let c = 0; c < side * side; c++) first[c + 1] += first[c];
  const next = first.slice(), of = new Int32Array(count);
  for (let i = 0; i < count; i++) of[next[cell(i)]++] = i;
  return { side, first, of };
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

function colour(code) {
  const c = colouring();
  if (code >= c.coloured) return shade(code === state.picked ? data.palette[0] : data.grey);
  const palette = c.ordered ? data.ranges : data.palette;
  return shade(palette[code % palette.length]);
}
// The second eight labels are rings.
const isRing = (code) => !colouring().ordered && code < colouring().coloured && code >= data.palette.length;
const shows = (i) => !state.grey.has(colouring().codes[i]);
const isLit = (i) => shows(i) && (!state.chosen.size || state.chosen.has(i));

let order, dimmed; // points from below to above; of these, so many are greyed
function arrange() {
  const { codes, coloured } = colouring();
  const dim = [], others = [], layers = Array.from({ length: coloured }, () => []);
  for (let i = 0; i < count; i++) (!isLit(i) ? dim : layers[codes[i]] ?? others).push(i);
  if (state.picked >= 0) others.sort((i, j) => (codes[i] === state.picked) - (codes[j] === state.picked));
  order = Int32Array.from([dim, others, ...layers].flat());
  dimmed = dim.length;
  draw();
}

let waiting = 0;
function draw() { waiting ||= requestAnimationFrame(paint); }

function paint() {
  waiting = 0;
  const now = view(), [w, h] = now, ratio = devicePixelRatio || 1, r = radius();
  const across = Math.round(w * ratio), down = Math.round(h * ratio);
  if (canvas.width !== across) canvas.width = across;
  if (canvas.height !== down) canvas.height = down;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, w, h);
  if (across && down) (r <= 1.5 ? paintPixels : paintDots)(now, r, ratio);
  paintMarks(now, r);
}

// Many points: written into a bitmap, some milliseconds for 100,000.
let bitmap;
function paintPixels([w, h, s], r, ratio) {
  const { width, height } = canvas, { codes } = colouring();
  if (bitmap?.width !== width || bitmap?.height !== height) bitmap = context.createImageData(width, height);
  const pixels = new Uint32Array(bitmap.data.buffer).fill(0), side = Math.max(2, Math.round(2 * r * ratio));
  const number = (hex) => 0xff000000 + parseInt(hex.slice(5, 7) + hex.slice(3, 5) + hex.slice(1, 3), 16);
  const tones = Uint32Array.from(colouring().labels, (_, code) => number(colour(code))), faint = number(style("--faint"));
  const step = s * ratio / 65535, left = (w / 2 - s / 2 + state.x) * ratio - side / 2, top = (h / 2 + s / 2 + state.y) * ratio - side / 2;
  for (let k = 0; k < count; k++) {
    const i = order[k], x = Math.round(left + place[2 * i] * step), y = Math.round(top - place[2 * i + 1] * step);
    if (x < 0 || y < 0 || x + side > width || y + side > height) continue;
    const tone = k < dimmed ? faint : tones[codes[i]];
    for (let row = y * width + x, end = row + side * width; row < end; row += width) pixels.fill(tone, row, row + side);
  }
  context.putImageData(bitmap, 0, 0);
}

function paintDots(now, r) {
  const [w, h] = now, { codes } = colouring(), faint = style("--faint"), tones = colouring().labels.map((_, code) => colour(code));
  context.lineWidth = 1.5;
  for (let k = 0; k < count; k++) {
    const i = order[k], [x, y] = screen(i, now), tone = k < dimmed ? faint : tones[codes[i]];
    if (x < -9 || y < -9 || x > w + 9 || y > h + 9) continue;
    const ring = isRing(codes[i]) && r > 2;
    dot(x, y, r, ring ? null : tone, ring ? tone : null);
  }
}

function dot(x, y, r, fill, line) {
  context.beginPath();
  context.arc(x, y, r, 0, 7);
  if (fill) { context.fillStyle = fill; context.fill(); }
  if (line) { context.strokeStyle = line; context.stroke(); }
}

function polyline(points) {
  context.beginPath();
  for (const [x, y] of points) context.lineTo(x, y);
  context.stroke();
}

// What is selected, plays or is pointed at, and the lasso.
function paintMarks(now, r) {
  const fore = style("--fore"), mark = (i, reach, width, filled) => {
    context.lineWidth = width;
    dot(...screen(i, now), reach, filled ? colour(colouring().codes[i]) : null, fore);
  };
  context.strokeStyle = fore;
  if (state.selected >= 0) {
    context.lineWidth = 1;
    for (const j of neighboursOf(state.selected)) polyline([screen(state.selected, now), screen(j, now)]);
    for (const j of neighboursOf(state.selected)) mark(j, Math.max(4, r), 1.2, true);
    mark(state.selected, Math.max(7, r + 2), 2.5, true);
  }
  if (state.playing >= 0 && state.playing !== state.selected) mark(state.playing, Math.max(7, r + 2), 2.5);
  if (state.hovered >= 0) mark(state.hovered, Math.max(5, r + 1), 1.5);
  if (state.lasso) {
    context.lineWidth = 1.5;
    context.setLineDash([4, 3]);
    polyline([...state.lasso, state.lasso[0]]);
    context.setLineDash([]);
  }
}

function nearestTo(x, y, within) {
  const now = view(), [w, h, s] = now, { side, first, of } = grid;
  const cx = ((x - state.x - w / 2) / s + 0.5) * side, cy = (0.5 - (y - state.y - h / 2) / s) * side;
  const reach = within / s * side + 1;
  let best = -1, least = within * within;
  for (let v = Math.max(0, Math.floor(cy - reach)); v <= Math.min(side - 1, cy + reach); v++) {
    for (let u = Math.max(0, Math.floor(cx - reach)); u <= Math.min(side - 1, cx + reach); u++) {
      const c = u + side * v;
      for (let k = first[c]; k < first[c + 1]; k++) {
        const i = of[k];
        if (!shows(i)) continue;
        const [px, py] = screen(i, now), d = (px - x) ** 2 + (py - y) ** 2;
        if (d <= least) { best = i; least = d; }
      }
    }
  }
  return best;
}

// The points that a line goes around.
function within(line) {
  const inside = new Path2D(), now = view();
  for (const [x, y] of line) inside.lineTo(x, y);
  context.resetTransform();
  return [...order].filter((i) => shows(i) && context.isPointInPath(inside, ...screen(i, now), "evenodd"));
}
