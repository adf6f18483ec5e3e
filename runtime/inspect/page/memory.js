// The plan of the arena: bytes from top to bottom, the program's items from left to right; a tensor
// is a box over its place and its life.

const LEFT = 70, TOP = 6, BOTTOM = 20, RIGHT = 10; // pixels around the picture
const KINDS = ["input", "param", "state", "output", "temp"];
const LETTER = 6.4; // pixels, about

class Memory {
  constructor(page, data) {
    this.page = page;
    Object.assign(this, data, { name: "memory", title: "Memory" });
    this.setOf = Int32Array.from(data.tensors, (tensor) => tensor.set);
    const temps = data.tensors.filter((tensor) => tensor.kind === "temp");
    const apart = temps.reduce((sum, tensor) => sum + tensor.bytes, 0);
    this.note = `${bytes(data.bytes)} for ${data.tensors.length} tensors` +
      (temps.length ? `; ${temps.length} temporary ones would take ${bytes(apart)} alone` : "") +
      (data.held ? `; ${bytes(data.held)} besides for each thread` : "");
    this.cursor = 0;
    this.lit = [];
    const { root, scroll } = frame(this);
    this.root = root;
    this.scroll = scroll;
    scroll.setAttribute("role", "img");
    const legend = element("p", "legend");
    element("span", "", legend).textContent = this.note;
    for (const kind of KINDS.filter((k) => data.tensors.some((tensor) => tensor.kind === k)))
      legend.insertAdjacentHTML("beforeend", `<span><i style="background:var(--${kind})"></i>${kind}</span>`);
    this.head.after(legend);
    root.querySelector(".note").textContent = "bytes of the arena, from kernel to kernel";
    scroll.addEventListener("pointermove", (event) => this.hover(event));
    scroll.addEventListener("pointerleave", () => { this.tip(null); page.point(this, null); });
    scroll.addEventListener("click", (event) => {
      const row = rowOf(event);
      if (row !== null) page.hold(this, row);
    });
    new ResizeObserver(() => this.draw()).observe(scroll);
  }

  get size() { return this.tensors.length; }

  x(item) { return LEFT + (this.width - LEFT - RIGHT) * item / Math.max(1, this.items.length); }
  y(offset) { return TOP + (this.height - TOP - BOTTOM) * offset / Math.max(1, this.bytes); }

  draw() {
    this.width = this.scroll.clientWidth;
    this.height = this.scroll.clientHeight;
    if (!this.width || !this.height) return;
    const parts = [...this.axes()];
    this.tensors.forEach((tensor, row) => {
      const x = this.x(tensor.first), y = this.y(tensor.offset);
      const width = Math.max(1, this.x(tensor.last + 1) - x);
      const height = Math.max(1, this.y(tensor.offset + tensor.bytes) - y);
      parts.push(`<rect class="tensor ${tensor.kind}" data-row="${row}" x="${x.toFixed(1)}" ` +
        `y="${y.toFixed(1)}" width="${width.toFixed(1)}" height="${height.toFixed(1)}"></rect>`);
      if (height > 13 && tensor.name.length * LETTER < width - 6)
        parts.push(`<text class="label" data-of="${row}" x="${x + 4}" y="${y + height / 2 + 4}">${escaped(tensor.name)}</text>`);
    });
    this.scroll.innerHTML = `<svg width="${this.width}" height="${this.height}">` +
      `<rect class="now" y="${TOP}" height="${this.height - TOP - BOTTOM}" width="0"></rect>` +
      `${parts.join("")}</svg>`;
    this.mark();
  }

  * axes() {
    const bottom = this.height - BOTTOM;
    const step = round(this.bytes / Math.max(1, (bottom - TOP) / 40));
    for (let at = 0; at <= this.bytes; at += step) {
      const y = this.y(at).toFixed(1);
      yield `<line class="grid" x1="${LEFT}" x2="${this.width - RIGHT}" y1="${y}" y2="${y}"></line>` +
        `<text class="axis" x="${LEFT - 6}" y="${Number(y) + 4}" text-anchor="end">${bytes(at, 1e3)}</text>`;
    }
    const every = Math.max(1, Math.ceil(this.items.length / ((this.width - LEFT) / 60)));
    for (let item = 0; item < this.items.length; item += every)
      yield `<text class="axis" x="${(this.x(item) + this.x(item + 1)) / 2}" y="${bottom + 15}" ` +
        `text-anchor="middle">${item + 1}</text>`;
  }

  mark() {
    const svg = this.scroll.firstElementChild;
    if (!svg) return;
    this.root.classList.toggle("some", this.lit.length > 0);
    const lit = new Set(this.lit), focused = document.activeElement === this.scroll;
    for (const part of svg.querySelectorAll(".tensor, .label")) {
      const row = Number(part.dataset.row ?? part.dataset.of);
      part.classList.toggle("lit", lit.has(row));
      part.classList.toggle("cursor", focused && row === this.cursor);
    }
    this.scroll.ariaLabel = `${this.note}. ${this.describe(this.cursor)}`;
  }

  light(test) {
    this.lit = this.tensors.map((_, row) => row).filter(test);
    Pane.prototype.showCount.call(this);
    this.mark();
  }

  get runs() { return this.lit; }
  step(direction) { Pane.prototype.step.call(this, direction); this.tell(); }
  reveal() {}
  revealLit() {}

  move(by) {
    this.cursor = Math.min(this.size - 1, Math.max(0, this.cursor + Math.sign(by)));
    this.mark();
    this.tell();
    this.page.point(this, this.cursor);
  }

  tell() { this.page.status(this.describe(this.cursor)); }

  hover(event) {
    const row = rowOf(event);
    const box = this.scroll.getBoundingClientRect();
    const item = Math.floor((event.clientX - box.left - LEFT) / (this.x(1) - LEFT));
    const inside = item >= 0 && item < this.items.length;
    const now = this.scroll.querySelector(".now");
    if (now && inside) {
      now.setAttribute("x", this.x(item));
      now.setAttribute("width", Math.max(1, this.x(1) - this.x(0)));
    }
    const lines = row === null ? [] : [this.describe(row)];
    if (inside) lines.push(`item ${item + 1}: ${this.items[item]}`);
    this.tip(lines.length ? lines.join("\n") : null, event);
    this.page.point(this, row);
  }

  tip(text, event) {
    const tip = document.getElementById("tip");
    tip.hidden = !text;
    if (!text) return;
    tip.textContent = text;
    tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${Math.min(event.clientY + 16, innerHeight - tip.offsetHeight - 8)}px`;
  }

  describe(row) {
    const tensor = this.tensors[row];
    if (!tensor) return "";
    const life = tensor.first === tensor.last
      ? `item ${tensor.first + 1}` : `items ${tensor.first + 1} to ${tensor.last + 1}`;
    const whole = tensor.first === 0 && tensor.last === this.items.length - 1;
    return `${tensor.name}: ${tensor.type}, ${tensor.kind}, ${bytes(tensor.bytes)} at ` +
      `${tensor.offset.toLocaleString("en")}, ${whole ? "all the time" : life}`;
  }
}

// Below so many exactly.
function bytes(count, exactly = 1e4) {
  if (count >= 1e9) return `${+(count / 1e9).toFixed(2)} GB`;
  if (count >= 1e6) return `${+(count / 1e6).toFixed(2)} MB`;
  if (count >= exactly) return `${+(count / 1e3).toFixed(1)} kB`;
  return `${count.toLocaleString("en")} bytes`;
}

// The next of 1, 2, 5, 10, …
function round(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 2, 5, 10].find((factor) => factor * power >= value) * power;
}
