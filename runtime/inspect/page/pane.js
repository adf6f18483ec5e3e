// A stage as a list of lines, of which only those in view are in the document: a stage may have
// tens of thousands.

const ROW = 18; // pixels, as in the style
const OVER = 12; // rows beyond what is in view
const A_QUARTER = 0.25; // of the height, above the line that is scrolled to

class Pane {
  // `page` has `syntax`, `links`, `found`, and is told `point(pane, row)`, `hold(pane, row)`.
  constructor(page, data) {
    this.page = page;
    Object.assign(this, data);
    this.lines = data.text.split("\n");
    this.setOf = new Int32Array(this.lines.length).fill(-1);
    let row = 0;
    for (const [count, set] of data.sets) { this.setOf.fill(set, row, row + count); row += count; }
    this.inDocumentation = new Set(data.documentation);
    this.longest = Math.max(0, ...Object.values(this.times).map(total));
    this.cursor = 0;
    this.lit = []; // rows, in order
    this.isLit = new Uint8Array(this.lines.length);
    this.build();
  }

  get size() { return this.lines.length; }

  build() {
    const { root, scroll } = frame(this);
    this.root = root;
    this.scroll = scroll;
    scroll.setAttribute("role", "listbox");
    const widest = this.lines.reduce((most, line) => Math.max(most, line.length), 0);
    const timed = this.longest > 0;
    this.space = element("div", "space", scroll);
    this.space.style.height = `${this.size * ROW}px`;
    this.space.style.width = `calc(${widest}ch + ${(timed ? 92 : 0) + 90}px)`;
    this.space.style.font = "12px var(--code)";
    this.space.style.setProperty("--digits", `${Math.max(2, String(this.size).length) + 1}ch`);
    this.rows = element("div", "rows", this.space);
    this.ruler = element("canvas", "ruler", scroll.parentElement);
    scroll.addEventListener("scroll", () => this.draw(), { passive: true });
    scroll.addEventListener("pointermove", (event) => this.page.point(this, rowOf(event)));
    scroll.addEventListener("pointerleave", () => this.page.point(this, null));
    scroll.addEventListener("click", (event) => {
      const row = rowOf(event);
      if (row !== null && !String(getSelection())) this.page.hold(this, row);
    });
    new ResizeObserver(() => { this.draw(); this.drawRuler(); }).observe(scroll);
  }

  // The rows in view, made anew where they are others than before.
  draw() {
    if (!this.scroll.clientHeight) return;
    const first = Math.max(0, Math.floor(this.scroll.scrollTop / ROW) - OVER);
    const count = Math.ceil(this.scroll.clientHeight / ROW) + 2 * OVER;
    const last = Math.min(this.size, first + count);
    const drawn = `${first} ${last} ${this.page.found}`;
    if (drawn !== this.drawn) {
      this.drawn = drawn;
      let html = "";
      for (let row = first; row < last; row++) html += this.rowHtml(row);
      this.rows.style.transform = `translateY(${first * ROW}px)`;
      this.rows.innerHTML = html;
    }
    this.mark();
  }

  rowHtml(row) {
    const { links, syntax, found } = this.page;
    const set = this.setOf[row];
    const number = this.numbers.length ? this.numbers[row] : row + 1;
    const classes = ["row"];
    if (set >= 0) classes.push("linked");
    if (!number) classes.push("heading");
    const code = this.inDocumentation.has(row)
      ? `<span class="t-string">${escaped(this.lines[row])}</span>`
      : syntax.html(number ? this.language : "nn", this.lines[row], found);
    const hue = set >= 0 ? ` style="--hue:${links.hue(set)}"` : "";
    return `<div class="${classes.join(" ")}" id="${this.name}-${row}" role="option" ` +
      `aria-setsize="${this.size}" aria-posinset="${row + 1}" data-row="${row}"${hue}><span class="number">${number || ""}` +
      `</span>${this.timeHtml(row)}<code>${code || " "}</code></div>`;
  }

  timeHtml(row) {
    if (!this.longest) return "";
    const times = this.times[row];
    if (!times) return '<span class="time"></span>';
    const bars = times.map((ms) => `<i style="width:${(100 * ms / this.longest).toFixed(1)}%"></i>`);
    const stages = this.page.profile.stages.map((stage, n) => `${stage} ${short(times[n])}`);
    return `<span class="time" title="${stages.join(", ")}"><span>${short(total(times))}</span>` +
      `<span class="bar">${bars.join("")}</span></span>`;
  }

  // What is lit, the cursor, and the line that is held.
  mark() {
    const { held } = this.page;
    for (const node of this.rows.children) {
      const row = Number(node.dataset.row);
      node.classList.toggle("lit", Boolean(this.isLit[row]));
      node.ariaSelected = Boolean(this.isLit[row]);
      node.classList.toggle("held", Boolean(held && held.pane === this && held.row === row));
      node.classList.toggle("cursor", row === this.cursor && document.activeElement === this.scroll);
    }
    this.scroll.setAttribute("aria-activedescendant", `${this.name}-${this.cursor}`);
  }

  // Light the rows for which `test(row)` holds.
  light(test) {
    this.lit = [];
    for (let row = 0; row < this.size; row++) {
      this.isLit[row] = test(row) ? 1 : 0;
      if (this.isLit[row]) this.lit.push(row);
    }
    this.showCount();
    this.draw();
    this.drawRuler();
  }

  showCount() {
    this.root.dataset.lit = this.lit.length;
    this.badge.textContent = this.lit.length || "";
    for (const button of this.steps) button.disabled = !this.lit.length;
  }

  // Where runs of lit rows begin.
  get runs() {
    return this.lit.filter((row, n) => !n || this.lit[n - 1] !== row - 1);
  }

  // To the next run of lit rows, or back.
  step(direction) {
    const runs = this.runs;
    if (!runs.length) return;
    const found = direction > 0
      ? runs.find((row) => row > this.cursor) ?? runs[0]
      : runs.findLast((row) => row < this.cursor) ?? runs[runs.length - 1];
    this.cursor = found;
    this.reveal(found);
    this.mark();
  }

  // Scroll to the lit rows, unless some are in view.
  revealLit(smoothly) {
    const top = this.scroll.scrollTop, bottom = top + this.scroll.clientHeight;
    if (!this.lit.length || !this.scroll.clientHeight) return;
    if (this.lit.some((row) => row * ROW >= top && (row + 1) * ROW <= bottom)) return;
    this.cursor = this.lit[0];
    this.reveal(this.lit[0], smoothly);
  }

  reveal(row, smoothly = false) {
    const top = row * ROW - this.scroll.clientHeight * A_QUARTER;
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.scroll.scrollTo({ top, behavior: smoothly && !calm ? "smooth" : "instant" });
    this.draw();
  }

  // Move the cursor, by a key.
  move(by) {
    this.cursor = Math.min(this.size - 1, Math.max(0, this.cursor + by));
    const top = this.cursor * ROW, { scrollTop, clientHeight } = this.scroll;
    if (top < scrollTop) this.scroll.scrollTop = top;
    else if (top + ROW > scrollTop + clientHeight) this.scroll.scrollTop = top + ROW - clientHeight;
    this.mark();
    this.page.point(this, this.cursor);
  }

  // All lit rows at once, beside the scroll bar.
  drawRuler() {
    if (!this.scroll.clientHeight) return;
    const { clientWidth: width, clientHeight: height } = this.ruler;
    const scale = devicePixelRatio;
    this.ruler.width = width * scale;
    this.ruler.height = height * scale;
    const context = this.ruler.getContext("2d");
    context.scale(scale, scale);
    context.fillStyle = `oklch(65% .17 ${this.page.hue})`;
    const all = Math.max(height, this.size * ROW); // a short text does not fill the pane
    const { lit } = this;
    for (let from = 0, to = 1; from < lit.length; from = to++) {
      while (to < lit.length && lit[to] === lit[to - 1] + 1) to++; // a run of rows is one mark
      const tall = Math.max(1.5, height * (to - from) * ROW / all);
      context.fillRect(0, height * lit[from] * ROW / all, width, tall);
    }
  }

  describe(row) {
    const number = this.numbers.length ? this.numbers[row] : row + 1;
    return number ? `${this.title}, line ${number}` : this.title;
  }
}

const total = (times) => times.reduce((sum, ms) => sum + ms, 0);

// A time with three digits.
function short(ms) {
  const [value, unit] = ms >= 1 ? [ms, "ms"] : ms >= 1e-3 ? [ms * 1e3, "µs"] : [ms * 1e6, "ns"];
  return `${value.toFixed(value >= 99.5 ? 0 : value >= 9.95 ? 1 : 2)} ${unit}`;
}

function element(tag, name, parent) {
  const found = document.createElement(tag);
  found.className = name;
  parent?.append(found);
  return found;
}

// The frame of any pane: its head, with a count of what is lit, and a box that scrolls.
function frame(pane) {
  const root = element("section", `pane ${pane.name}`);
  root.setAttribute("aria-label", pane.title);
  const head = element("div", "pane-head", root);
  element("h2", "", head).textContent = pane.title;
  pane.badge = element("span", "count", head);
  element("span", "note", head).textContent = pane.note;
  pane.head = head;
  const button = (text, label, action) => {
    const made = element("button", "", head);
    made.type = "button";
    made.textContent = text;
    made.title = made.ariaLabel = label;
    made.addEventListener("click", action);
    return made;
  };
  pane.steps = [
    button("↑", "Previous lit lines (p)", () => pane.step(-1)),
    button("↓", "Next lit lines (n)", () => pane.step(1)),
  ];
  button("×", `Hide ${pane.title}`, () => pane.page.toggle(pane));
  const scroll = element("div", "scroll", element("div", "body", root));
  scroll.tabIndex = 0;
  scroll.ariaLabel = pane.title;
  scroll.addEventListener("focus", () => pane.mark());
  scroll.addEventListener("blur", () => pane.mark());
  return { root, scroll };
}

function rowOf(event) {
  const row = event.target.closest?.("[data-row]");
  return row ? Number(row.dataset.row) : null;
}
