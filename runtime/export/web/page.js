const $ = (tag, properties = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key in made && typeof value !== "string") made[key] = value;
    else made.setAttribute(key === "className" ? "class" : key, value);
  }
  made.append(...children);
  return made;
};
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const short = (value) => (typeof value === "bigint" ? `${value}` : `${Number(Number(value).toPrecision(6))}`);
const notice = document.getElementById("notice");
const main = document.getElementById("main");

/** Calls, and shows what is wrong. */
function guarded(action) {
  return (...given) => {
    notice.textContent = "";
    try {
      return action(...given);
    } catch (error) {
      notice.textContent = error.message;
      return undefined;
    }
  };
}

function bytes(base64) {
  const text = atob(base64);
  const found = new Uint8Array(text.length);
  for (let n = 0; n < text.length; n += 1) found[n] = text.charCodeAt(n);
  return found;
}

// --- inputs ----------------------------------------------------------------------------------------

/** A field for an input: what it is made of, and its numbers for one example. */
function field(input, changed) {
  return { picture, choice, numbers, tokens }[input.kind](input, changed);
}

function picture(input, changed) {
  const [height, width, channels] = input.size;
  const pad = $("canvas", {
    className: "pad", tabindex: "0", role: "img", "aria-label": `${input.title}: draw here. With the keyboard: `
      + "arrows move, with Shift they draw, Delete clears.",
  });
  pad.style.setProperty("--ratio", `${width} / ${height}`);
  const seen = $("canvas", { className: "seen", width, height, role: "img", "aria-label": "what the network sees" });
  const file = $("input", { type: "file", accept: "image/*", "aria-label": "a picture from a file" });
  const clear = $("button", { type: "button", id: "clear" }, "Clear");
  let strokes = [], shown = null, cursor = [0.5, 0.5], busy = false, byKeys = true;
  let values = new Float32Array(height * width * channels);

  const scale = () => {
    const box = pad.getBoundingClientRect();
    const ratio = window.devicePixelRatio || 1;
    pad.width = Math.max(1, Math.round(box.width * ratio));
    pad.height = Math.max(1, Math.round(box.height * ratio));
    paint();
  };
  const paint = () => {
    const context = pad.getContext("2d");
    const ink = getComputedStyle(document.body).color;
    context.clearRect(0, 0, pad.width, pad.height);
    if (shown) context.drawImage(shown, 0, 0, pad.width, pad.height);
    line(context, strokes, pad.width, pad.height, 0.07 * pad.width, ink);
    if (document.activeElement === pad && byKeys) {
      context.strokeStyle = ink;
      context.strokeRect(cursor[0] * pad.width - 6, cursor[1] * pad.height - 6, 12, 12);
    }
  };
  const read = () => {
    values = shown ? sampled(shown, input.size) : drawn(strokes, input.size);
    pixels(seen, (n, c) => values[n * channels + (channels > 1 ? c : 0)]);
    paint();
    changed();
  };
  const at = (event) => {
    const box = pad.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };
  const begin = (point) => {
    shown = null;
    strokes.push([point]);
  };
  pad.addEventListener("pointerdown", (event) => {
    pad.setPointerCapture?.(event.pointerId);
    busy = true;
    begin(at(event));
    byKeys = false;
    read();
  });
  pad.addEventListener("pointermove", (event) => {
    if (!busy) return;
    const points = event.getCoalescedEvents?.() ?? [];
    strokes.at(-1).push(...(points.length ? points : [event]).map(at));
    read();
  });
  for (const name of ["pointerup", "pointercancel"]) pad.addEventListener(name, () => { busy = false; });
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  pad.addEventListener("keydown", (event) => {
    const move = moves[event.key];
    byKeys = true;
    if (event.key === "Delete" || event.key === "Backspace") clear.click();
    else if (event.key === " ") { begin([...cursor]); read(); }
    else if (move) {
      const before = [...cursor];
      cursor = cursor.map((place, k) => Math.min(1, Math.max(0, place + 0.05 * move[k])));
      if (event.shiftKey) {
        const last = strokes.at(-1)?.at(-1);
        if (!last || last[0] !== before[0] || last[1] !== before[1]) begin(before);
        strokes.at(-1).push([...cursor]);
        read();
      } else paint();
    } else return;
    event.preventDefault();
  });
  for (const name of ["focus", "blur"]) pad.addEventListener(name, paint);
  clear.addEventListener("click", () => {
    strokes = [];
    shown = null;
    file.value = "";
    read();
  });
  file.addEventListener("change", async () => {
    if (!file.files.length) return;
    try {
      shown = await createImageBitmap(file.files[0]);
    } catch {
      notice.textContent = "that file is no picture that a browser reads";
      return;
    }
    strokes = [];
    read();
  });
  window.addEventListener("resize", scale);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  return {
    element: $("div", {}, pad, $("div", { className: "row" }, clear,
      $("label", { className: "file" }, $("span", {}, "Open a picture"), file), seen,
      $("span", { className: "note" }, `seen as ${width} × ${height}`))),
    values: () => values,
    isEmpty: () => !strokes.length && !shown,
    begin: () => { scale(); read(); },
  };
}

function line(context, strokes, width, height, thickness, colour) {
  context.lineWidth = thickness;
  context.lineCap = context.lineJoin = "round";
  context.strokeStyle = colour;
  for (const stroke of strokes) {
    context.beginPath();
    stroke.forEach(([x, y], n) => context[n ? "lineTo" : "moveTo"](x * width, y * height));
    if (stroke.length === 1) context.lineTo(stroke[0][0] * width + 0.01, stroke[0][1] * height);
    context.stroke();
  }
}

/** The strokes as pictures of digits are made: fitted into the middle, light on dark, from 0 to 1.
    Larger ones have a margin and are centred by their mass, as those of MNIST are. */
function drawn(strokes, size) {
  const [height, width] = size;
  const points = strokes.flat();
  if (!points.length) return new Float32Array(size[0] * size[1] * size[2]);
  const xs = points.map(([x]) => x * width), ys = points.map(([, y]) => y * height);
  const [left, right] = [Math.min(...xs), Math.max(...xs)];
  const [top, bottom] = [Math.min(...ys), Math.max(...ys)];
  const side = Math.min(height, width), pen = Math.max(1.3, 0.085 * side);
  const room = (side >= 20 ? (20 / 28) * side : side) - pen;
  const scale = Math.min(room / Math.max(right - left, bottom - top, 1e-9), 3);
  const fitted = (dx, dy) => strokes.map((stroke) => stroke.map(([x, y]) => [
    ((x * width - (left + right) / 2) * scale + width / 2 + dx) / width,
    ((y * height - (top + bottom) / 2) * scale + height / 2 + dy) / height,
  ]));
  const draw = (dx, dy) => rendered(size, (context, w, h) => {
    line(context, fitted(dx, dy), w, h, (pen * w) / width, "#fff");
  });
  const found = draw(0, 0);
  if (side < 20) return found;
  let mass = 0, x = 0, y = 0;
  for (let n = 0; n < height * width; n += 1) {
    const ink = found[n * size[2]];
    mass += ink;
    x += ink * ((n % width) + 0.5);
    y += ink * (Math.floor(n / width) + 0.5);
  }
  return mass ? draw(width / 2 - x / mass, height / 2 - y / mass) : found;
}

const sampled = (image, size) => rendered(size, (context, w, h) => context.drawImage(image, 0, 0, w, h));

/** What is drawn on black, at the size of the network: the mean of each of its pixels. */
function rendered([height, width, channels], draw) {
  const fine = Math.max(1, Math.floor(256 / Math.max(height, width)));
  const canvas = $("canvas", { width: width * fine, height: height * fine });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#000";
  context.fillRect(0, 0, canvas.width, canvas.height);
  draw(context, canvas.width, canvas.height);
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  const found = new Float32Array(height * width * channels);
  for (let y = 0; y < canvas.height; y += 1) {
    for (let x = 0; x < canvas.width; x += 1) {
      const from = 4 * (y * canvas.width + x);
      const to = channels * (Math.floor(y / fine) * width + Math.floor(x / fine));
      const [r, g, b] = [data[from], data[from + 1], data[from + 2]];
      const colours = channels === 1 ? [0.299 * r + 0.587 * g + 0.114 * b] : [r, g, b];
      colours.forEach((colour, c) => { found[to + c] += colour / (255 * fine * fine); });
    }
  }
  return found;
}

function choice(input, changed) {
  const few = input.names.length <= 12;
  if (!few) {
    const select = $("select", { "data-name": input.name },
      ...input.names.map((name, n) => $("option", { value: `${n}` }, name)));
    select.addEventListener("change", changed);
    return { element: $("label", {}, $("span", {}, input.title), select), values: () => [Number(select.value)] };
  }
  const group = $("fieldset", { "data-name": input.name }, $("legend", {}, input.title));
  const row = $("div", { className: "choices" });
  input.names.forEach((name, n) => {
    const one = $("input", { type: "radio", name: input.name, value: `${n}`, checked: n === input.chosen });
    one.addEventListener("change", changed);
    row.append($("label", {}, one, $("span", {}, name)));
  });
  group.append(row);
  const values = () => {
    const chosen = group.querySelector(":checked");
    if (!chosen) throw new Error(`choose first: ${input.title}`);
    return [Number(chosen.value)];
  };
  return { element: group, values };
}

const MOST_FIELDS = 40;

function numbers(input, changed) {
  const whole = (text) => text.trim().split(/[\s,;]+/).filter(Boolean);
  const parsed = (texts) => texts.map((text) => {
    const found = Number(text);
    if (text.trim() === "" || Number.isNaN(found)) throw new Error(`${input.title}: ${text || "nothing"} is no number`);
    return found;
  });
  if (input.count > MOST_FIELDS) {
    const area = $("textarea", { "data-name": input.name, spellcheck: "false" });
    area.value = new Array(input.count).fill("0").join(" ");
    area.addEventListener("input", changed);
    return {
      element: $("label", {}, $("span", {}, `${input.title}: ${input.count} numbers`), area),
      values: () => parsed(whole(area.value)),
    };
  }
  const group = $("fieldset", { "data-name": input.name }, $("legend", {}, input.title));
  const fields = input.names.map((name) => {
    const one = $("input", { type: "number", step: input.isWhole ? "1" : "any", value: "0" });
    one.addEventListener("input", changed);
    return [one, $("label", {}, $("span", {}, name), one)];
  });
  group.append($("div", { className: "fields" }, ...fields.map(([, label]) => label)));
  return { element: group, values: () => parsed(fields.map(([one]) => one.value)) };
}

function tokens(input, changed) {
  const area = $("textarea", { "data-name": input.name, spellcheck: "false" });
  area.value = input.text ?? "";
  area.addEventListener("input", changed);
  return {
    element: $("label", {}, $("span", {}, input.title), area),
    values: () => {
      const found = vocabulary(input.vocabulary).encode(area.value).slice(0, input.count);
      return [...found, ...new Array(input.count - found.length).fill(0)];
    },
  };
}

// --- texts -----------------------------------------------------------------------------------------

/** Texts as tokens and back, as `nnc generate` reads and writes them. */
function vocabulary({ kind, tokens: pieces, specials, lowercase }) {
  const first = specials.length, unknown = specials.indexOf("<unk>");
  const ids = new Map(pieces.map((piece, n) => [piece, n + first]));
  const of = (piece) => {
    const found = ids.get(piece) ?? (unknown < 0 ? undefined : unknown);
    if (found === undefined) throw new Error(`“${piece}” is not in the vocabulary of ${pieces.length} ${kind}`);
    return found;
  };
  const encode = (given) => {
    const text = lowercase ? given.toLowerCase() : given;
    if (kind === "bytes") return Array.from(new TextEncoder().encode(text), (byte) => byte + first);
    if (kind === "words") return (text.match(/[\p{L}\p{N}_]+|[^\p{L}\p{N}_\s]/gu) ?? []).map(of);
    return Array.from(text, of);
  };
  const decode = (numbers) => {
    const kept = numbers.filter((number) => number >= first || number === unknown);
    if (kind === "bytes") return new TextDecoder().decode(Uint8Array.from(kept, (n) => n - first));
    return kept.map((n) => (n >= first ? pieces[n - first] : "<unk>")).join(kind === "words" ? " " : "");
  };
  return { encode, decode };
}

const numbersAsText = {
  encode: (text) => text.trim().split(/[\s,]+/).filter(Boolean).map((part) => {
    if (!/^\d+$/.test(part)) throw new Error(`${part} is no token: this model reads numbers`);
    return Number(part);
  }),
  decode: (numbers) => numbers.join(" "),
};

function writer(model, text) {
  const words = text.vocabulary ? vocabulary(text.vocabulary) : numbersAsText;
  const prompt = $("textarea", { id: "prompt", spellcheck: "false" });
  prompt.value = text.prompt;
  const number = (id, value, more) => $("input", { id, type: "number", value, ...more });
  const count = number("count", "200", { min: "1", max: "100000" });
  const heat = number("temperature", "0.8", { min: "0", step: "0.1" });
  const seed = number("seed", "1", { step: "1" });
  const out = $("p", { className: "written", id: "written", "aria-live": "polite" });
  const write = $("button", { type: "button", className: "main", id: "write" }, "Write");
  const stop = $("button", { type: "button", disabled: true }, "Stop");
  let turn = 0;
  const run = guarded(() => {
    const begin = words.encode(prompt.value);
    if (!begin.length) throw new Error("the prompt needs at least one token");
    const writing = model.generate(begin, {
      count: Number(count.value), temperature: Number(heat.value), seed: Number(seed.value), known: text.known,
    });
    const mine = turn += 1, found = [];
    stop.disabled = false;
    out.dataset.done = "no";
    const end = () => { stop.disabled = true; out.dataset.done = "yes"; };
    // A few tokens at a time, so that the page stays alive.
    const more = guarded(() => {
      const until = performance.now() + 30;
      let last = { done: false };
      while (mine === turn && performance.now() < until && !last.done) {
        last = writing.next();
        if (!last.done) found.push(last.value);
      }
      const glue = text.vocabulary && text.vocabulary.kind !== "words" ? "" : " ";
      out.replaceChildren($("b", {}, prompt.value), glue + words.decode(found));
      if (last.done || mine !== turn) end(); else setTimeout(more);
    });
    more();
  });
  write.addEventListener("click", run);
  stop.addEventListener("click", () => { turn += 1; });
  main.append(
    $("section", {}, $("h2", {}, "Begin with"), $("label", {}, $("span", {}, "prompt"), prompt),
      $("div", { className: "fields" },
        $("label", {}, $("span", {}, "tokens"), count),
        $("label", {}, $("span", {}, "temperature"), heat),
        $("label", {}, $("span", {}, "seed"), seed)),
      $("div", { className: "row" }, write, stop)),
    $("section", {}, $("h2", {}, "What it writes"), out));
}

// --- results ---------------------------------------------------------------------------------------

/** Each kind of result as its element, and what shows new values in it. */
function result(about) {
  return { classes, chance, image, values: listed }[about.kind](about);
}

const softmax = (logits) => {
  const top = Math.max(...logits);
  const parts = logits.map((logit) => Math.exp(logit - top));
  const total = parts.reduce((a, b) => a + b, 0);
  return parts.map((part) => part / total);
};

const HINT = "Draw something, with a mouse, a finger or the arrow keys.";

function classes(about) {
  const answer = $("p", { className: "answer", "aria-live": "polite" });
  const bars = $("ul", { className: "bars" });
  const show = (data) => {
    const numbers = Array.from(data, Number);
    const shares = softmax(numbers);
    const order = shares.map((_, n) => n).sort((a, b) => shares[b] - shares[a]);
    const shown = shares.length <= 12 ? shares.map((_, n) => n) : order.slice(0, 10);
    answer.replaceChildren($("b", {}, about.names[order[0]]), ` ${percent(shares[order[0]])}`);
    bars.replaceChildren(...shown.map((n) => {
      const bar = $("span", { className: "bar" });
      bar.style.width = `${100 * shares[n]}%`;
      return $("li", n === order[0] ? { className: "best" } : {},
        $("span", { className: "name", title: about.names[n] }, about.names[n]),
        $("span", { className: "track" }, bar),
        $("span", { className: "value" }, percent(shares[n])));
    }));
    return shares;
  };
  const clear = () => {
    answer.replaceChildren($("span", { className: "note" }, HINT));
    bars.replaceChildren();
  };
  return { element: $("div", { "data-name": about.name }, answer, bars), show, clear };
}

function chance(about) {
  const answer = $("p", { className: "answer", "aria-live": "polite" });
  const show = (data) => {
    const number = Number(data.length === undefined ? data : data[0]);
    const share = about.isLogit ? 1 / (1 + Math.exp(-number)) : number;
    answer.replaceChildren($("b", {}, about.names[share >= 0.5 ? 1 : 0]), ` ${percent(Math.max(share, 1 - share))}`);
    return [1 - share, share];
  };
  const clear = () => answer.replaceChildren($("span", { className: "note" }, HINT));
  return { element: $("div", { "data-name": about.name }, answer), show, clear };
}

/** A picture from 0 to 1, or from its least to its greatest number where some are beyond. */
function image(about) {
  const [height, width, channels] = about.size;
  const shown = $("canvas", {
    className: "seen image", width, height, role: "img", "aria-label": about.title, "data-name": about.name,
  });
  const show = (data) => {
    const numbers = Array.from(data, Number);
    const [least, most] = [Math.min(0, ...numbers), Math.max(1, ...numbers)];
    pixels(shown, (n, c) => (numbers[n * channels + (channels > 1 ? c : 0)] - least) / (most - least));
    return numbers;
  };
  return { element: shown, show, clear: () => pixels(shown, () => 0) };
}

function pixels(canvas, value) {
  const context = canvas.getContext("2d"), data = context.createImageData(canvas.width, canvas.height);
  for (let n = 0; n < canvas.width * canvas.height; n += 1) {
    for (let c = 0; c < 3; c += 1) data.data[4 * n + c] = 255 * value(n, c);
    data.data[4 * n + 3] = 255;
  }
  context.putImageData(data, 0, 0);
}

const MOST_ROWS = 60;

function listed(about) {
  const table = $("table", { "data-name": about.name, "aria-live": "polite" });
  const show = (data) => {
    const found = data.length === undefined ? [data] : Array.from(data);
    const rows = found.slice(0, MOST_ROWS).map((value, n) => $("tr", {},
      $("td", {}, about.names[n] ?? (found.length > 1 ? `${about.title}[${n}]` : about.title)),
      $("td", {}, short(value))));
    if (found.length > MOST_ROWS) rows.push($("tr", {}, $("td", {}, `and ${found.length - MOST_ROWS} more`)));
    table.replaceChildren(...rows);
    return found;
  };
  return { element: table, show, clear: () => table.replaceChildren() };
}

// --- the page --------------------------------------------------------------------------------------

function predictor(model, about) {
  const update = () => guarded(() => {
    if (fields.some((one) => one.isEmpty?.())) {
      results.forEach((one) => one.clear());
      return undefined;
    }
    model.inputs = given(about.inputs, fields);
    const found = model.predict(model.inputs);
    return results.map((one, n) => {
      const { name, count } = about.results[n];
      return one.show(found[name].subarray?.(0, count) ?? found[name]);
    });
  })();
  const fields = about.inputs.map((input) => field({ ...input, chosen: 0 }, () => update()));
  const results = about.results.map(result);
  const titled = (one, n) => (about.results.length > 1 && about.results[n].kind !== "values"
    ? [$("p", { className: "note" }, about.results[n].title), one.element] : [one.element]);
  main.append(
    $("section", { className: "tall" }, $("h2", {}, about.inputs[0]?.kind === "picture" ? "Draw" : "Inputs"),
      ...fields.map((one) => one.element)),
    $("section", {}, $("h2", {}, "Prediction"), ...results.flatMap(titled)));
  if (about.teaching) teacher(model, about, fields, update);
  fields.forEach((one) => one.begin?.());
  update();
}

/** The inputs of a call, by name: of one example, or of as many copies as the call needs. */
function given(inputs, fields, isAlone = false) {
  return Object.fromEntries(inputs.map((input, n) => {
    const values = Array.from(fields[n].values());
    if (values.length !== input.count) throw new Error(`${input.title}: ${values.length} numbers instead of ${input.count}`);
    return [input.name, isAlone ? values : new Array(input.copies).fill(values).flat()];
  }));
}

const MOST_STEPS = 30; // of one lesson
const SURE = 0.9;

function teacher(model, about, fields, update) {
  const { teaching } = about;
  const labels = teaching.inputs.map((input) => field({ ...input, chosen: -1 }, () => {}));
  const said = $("p", { className: "note", id: "lesson", role: "status" }, "The page has the training step, too: nothing is sent.");
  const teach = $("button", { type: "button", className: "main", id: "teach" }, "Teach me");
  const forget = $("button", { type: "button", id: "forget", disabled: true }, "Forget");
  const lessons = [];
  teach.addEventListener("click", guarded(() => {
    if (fields.some((one) => one.isEmpty?.())) throw new Error("there is nothing to learn from yet: draw something");
    const right = { ...given(about.inputs, fields, true), ...given(teaching.inputs, labels, true) };
    lessons.unshift(right);
    // A batch is made of what was taught, the newest first, again and again.
    const rows = Array.from({ length: model.batch }, (_, n) => lessons[n % lessons.length]);
    const batch = Object.fromEntries(Object.keys(right).map((name) => [name, rows.flatMap((row) => row[name])]));
    const before = model.save();
    const losses = [];
    try {
      while (losses.length < MOST_STEPS) {
        losses.push(model.trainStep(batch)[teaching.loss]);
        const shares = update();
        const wanted = teaching.result;
        if (wanted >= 0 && shares?.[wanted]?.[right[teaching.inputs[0].name][0]] >= SURE) break;
        if (wanted < 0 && losses.length >= 10) break;
      }
    } catch (error) {
      model.restore(before);
      lessons.shift();
      update();
      throw error;
    }
    forget.disabled = false;
    said.textContent = `${lessons.length} taught, ${losses.length} step${losses.length === 1 ? "" : "s"}: `
      + `loss ${short(losses[0].toPrecision(3))} → ${short(losses.at(-1).toPrecision(3))}`;
  }));
  forget.addEventListener("click", guarded(() => {
    model.init();
    lessons.length = 0;
    forget.disabled = true;
    said.textContent = "All that was taught is forgotten.";
    update();
  }));
  main.append($("section", {}, $("h2", {}, "What is right?"),
    ...labels.map((one) => one.element), $("div", { className: "row" }, teach, forget), said));
}

try {
  const model = await load({ module: bytes(MODULE), weights: WEIGHTS && bytes(WEIGHTS) });
  globalThis.model = model;
  if (PAGE_ABOUT.text) writer(model, PAGE_ABOUT.text);
  else predictor(model, PAGE_ABOUT);
} catch (error) {
  notice.textContent = error.message;
}
document.body.dataset.ready = "yes";
