"use strict";
// The page of attention maps: `nnc attribute --method attention --to DIR`.
//
// data.maps: {name, heads, queries, keys, queryTexts, keyTexts, gap, weights}; the weights of all
// heads are bytes in base64, [heads, queries, keys], of 255 the largest weight of the map, `most`.

const data = JSON.parse(document.getElementById("data").textContent);
const element = (id) => document.getElementById(id);
const canvas = element("map");
let chosen = null; // {map, head, button}
let query = Infinity; // the last one at first

for (const map of data.maps) {
  map.bytes = Uint8Array.from(atob(map.weights), (c) => c.charCodeAt(0));
}

const byteOf = (map, head, t, s) => map.bytes[(head * map.queries + t) * map.keys + s];
const weightOf = (map, head, t, s) => (byteOf(map, head, t, s) / 255) * map.most;
// Weights of long texts are small throughout: the root lets them be seen.
const shade = (byte) => Math.sqrt(byte / 255);

function draw(target, map, head, row) {
  target.width = map.keys;
  target.height = map.queries;
  const context = target.getContext("2d");
  const image = context.createImageData(map.keys, map.queries);
  const mark = getComputedStyle(document.documentElement).getPropertyValue("--mark").split(",").map(Number);
  for (let t = 0; t < map.queries; t++) {
    for (let s = 0; s < map.keys; s++) {
      const at = 4 * (t * map.keys + s);
      const own = shade(byteOf(map, head, t, s));
      image.data.set(mark, at);
      image.data[at + 3] = 255 * (row === t ? Math.max(own, 0.12) : own * (row < 0 ? 1 : 0.6));
    }
  }
  context.putImageData(image, 0, 0);
}

const nameOf = (texts, n) => (texts ? `“${texts[n]}” (${n})` : `position ${n}`);

function show() {
  const { map, head } = chosen;
  draw(canvas, map, head, query);
  canvas.style.aspectRatio = `${map.keys} / ${map.queries}`;
  const keys = Array.from({ length: map.keys }, (_, s) => s)
    .sort((a, b) => byteOf(map, head, query, b) - byteOf(map, head, query, a))
    .slice(0, 3)
    .filter((s) => byteOf(map, head, query, s) > 0)
    .map((s) => `${nameOf(map.keyTexts, s)} ${weightOf(map, head, query, s).toFixed(2)}`);
  element("status").textContent = `${nameOf(map.queryTexts, query)} attends to ${keys.join(", ") || "nothing"}`;
  for (const span of element("texts").querySelectorAll("span[data-key]")) {
    const byte = byteOf(map, head, query, Number(span.dataset.key));
    span.style.background = `rgba(var(--mark), ${(0.8 * shade(byte)).toFixed(3)})`;
    span.title = weightOf(map, head, query, Number(span.dataset.key)).toFixed(3);
  }
  for (const span of element("texts").querySelectorAll("span[data-query]")) {
    span.classList.toggle("here", Number(span.dataset.query) === query);
  }
}

function paragraph(title, texts, gap, kinds) {
  const heading = document.createElement("h2");
  heading.textContent = title;
  const text = document.createElement("p");
  texts.forEach((token, n) => {
    const span = document.createElement("span");
    span.textContent = token;
    for (const kind of kinds) span.dataset[kind] = n;
    text.append(...(n && gap ? [gap] : []), span);
  });
  element("texts").append(heading, text);
}

function choose(map, head, button) {
  chosen?.button.setAttribute("aria-pressed", "false");
  button.setAttribute("aria-pressed", "true");
  const another = chosen?.map !== map;
  chosen = { map, head, button };
  element("name").textContent = `${map.name}${map.heads > 1 ? `, head ${head + 1}` : ""}`;
  if (another) {
    query = Math.min(query, map.queries - 1);
    element("texts").replaceChildren();
    if (map.same) {
      paragraph("The text", map.queryTexts, map.gap, ["query", "key"]);
    } else {
      if (map.queryTexts) paragraph("What attends", map.queryTexts, map.gap, ["query"]);
      if (map.keyTexts) paragraph("What is attended to", map.keyTexts, map.gap, ["key"]);
    }
  }
  show();
}

function move(to) {
  query = Math.max(0, Math.min(chosen.map.queries - 1, to));
  show();
}

for (const map of data.maps) {
  const row = document.createElement("div");
  const name = document.createElement("b");
  name.textContent = map.name;
  row.append(name);
  for (let head = 0; head < map.heads; head++) {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-label", `${map.name}, head ${head + 1}`);
    button.setAttribute("aria-pressed", "false");
    const small = document.createElement("canvas");
    draw(small, map, head, -1);
    button.append(small);
    button.addEventListener("click", () => choose(map, head, button));
    row.append(button);
    if (!chosen) choose(map, head, button);
  }
  element("maps").append(row);
}

canvas.addEventListener("pointermove", (event) => {
  const box = canvas.getBoundingClientRect();
  move(Math.floor(((event.clientY - box.top) / box.height) * chosen.map.queries));
});
element("texts").addEventListener("pointerover", (event) => {
  const at = event.target.dataset?.query;
  if (at !== undefined) move(Number(at));
});
document.addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
  if (step === undefined) return;
  event.preventDefault();
  move(query + step);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  show();
  const small = element("maps").querySelectorAll("canvas");
  let n = 0;
  for (const map of data.maps) {
    for (let head = 0; head < map.heads; head++) draw(small[n++], map, head, -1);
  }
});
document.body.dataset.ready = "yes";
