// The page: panes, what is lit in them, keys, and the fragment of the address.

const DWELL = 350; // milliseconds on a line until others scroll to what it lights
const GOLDEN = 137.5; // degrees from one line's colour to the next
const LEFT_PANES = ["source", "library"];
const SHOWN = ["source", "gradients", "equations", "kernels", "asm", "cuda", "memory"];

class Links {
  constructor({ users, sets }) {
    this.sets = sets;
    this.users = users; // the line of the user's that each origin belongs to
    this.byUser = new Map();
    users.forEach((user, origin) => {
      if (!this.byUser.has(user)) this.byUser.set(user, []);
      this.byUser.get(user).push(origin);
    });
  }

  // The origins that a line lights: all of the user's lines that it comes from; a line of the
  // library those that it gives itself.
  around(set, exactly) {
    if (set < 0) return new Set();
    const own = this.sets[set];
    return new Set(exactly ? own : own.flatMap((origin) => this.byUser.get(this.users[origin])));
  }

  // Of every set whether it has one of these origins.
  touching(origins) {
    return this.sets.map((set) => set.some((origin) => origins.has(origin)));
  }

  hue(set) {
    return Math.round(this.users[this.sets[set][0]] * GOLDEN + 245) % 360;
  }
}

class Page {
  constructor(data) {
    this.profile = data.profile;
    this.file = data.file;
    this.links = new Links(data.links);
    this.syntax = new Syntax(data.rules);
    this.held = null;
    this.pointed = null;
    this.found = "";
    this.hue = 250;
    this.panes = [...data.panes.map((pane) => new Pane(this, pane)), new Memory(this, data.memory)];
    this.byName = Object.fromEntries(this.panes.map((pane) => [pane.name, pane]));
    const time = data.profile
      ? `; a step takes ${short(data.profile.step)} on ${data.profile.on}` : "";
    document.getElementById("about").textContent = data.about + time;
    this.shown = new Set(SHOWN.filter((name) => name in this.byName &&
      !(name === "equations" && "gradients" in this.byName)));
    this.buildToggles();
    this.listen();
    this.open();
  }

  // --- which panes ------------------------------------------------------------------------------

  buildToggles() {
    const toggles = document.getElementById("toggles");
    for (const pane of this.panes) {
      const button = element("button", "", toggles);
      button.type = "button";
      button.innerHTML = `<span>${pane.title}</span><span class="count"></span>`;
      button.addEventListener("click", () => this.toggle(pane));
      pane.button = button;
    }
  }

  toggle(pane) {
    if (!this.shown.delete(pane.name)) this.shown.add(pane.name);
    this.arrange();
    if (this.shown.has(pane.name)) pane.revealLit(false);
    this.writeFragment();
  }

  arrange() {
    const main = document.getElementById("panes");
    const [left, right] = [element("div", "column"), element("div", "column")];
    for (const pane of this.panes) {
      const shown = this.shown.has(pane.name);
      pane.button.setAttribute("aria-pressed", shown);
      if (shown) (LEFT_PANES.includes(pane.name) ? left : right).append(pane.root);
    }
    const count = right.children.length;
    right.style.gridTemplateColumns = `repeat(${Math.ceil(count / 2) || 1}, minmax(0, 1fr))`;
    if (count === 3) right.lastElementChild.style.gridColumn = "1 / -1";
    for (const pane of this.panes) if (count !== 3) pane.root.style.gridColumn = "";
    main.className = left.children.length && count ? "" : "alone";
    const places = this.panes.map((pane) => [pane.scroll, pane.scroll.scrollTop]);
    main.replaceChildren(...[left, right].filter((column) => column.children.length));
    // a box that is moved forgets how far it was scrolled
    for (const [scroll, top] of places) scroll.scrollTop = top;
    for (const pane of this.panes) pane.draw();
  }

  // --- what is lit ------------------------------------------------------------------------------

  point(pane, row) {
    const now = row === null || pane.setOf[row] < 0 ? null : { pane, row };
    if (now?.row === this.pointed?.row && now?.pane === this.pointed?.pane) return;
    this.pointed = now;
    clearTimeout(this.dwelling);
    if (this.held || this.found) return;
    this.light(now);
    if (now) this.dwelling = setTimeout(() => this.revealElsewhere(pane, true), DWELL);
  }

  hold(pane, row) {
    const again = this.held?.pane === pane && this.held.row === row;
    this.found = document.getElementById("query").value = "";
    pane.cursor = row;
    this.held = again || pane.setOf[row] < 0 ? null : { pane, row };
    this.light(this.held ?? this.pointed);
    if (this.held) this.revealElsewhere(pane, true);
    this.writeFragment();
  }

  letGo() {
    this.held = null;
    this.found = document.getElementById("query").value = "";
    this.light(null);
    this.writeFragment();
  }

  light(from) {
    const set = from ? from.pane.setOf[from.row] : -1;
    const origins = this.links.around(set, from?.pane.name === "library");
    const touching = this.links.touching(origins);
    if (set >= 0) this.setHue(this.links.hue(set));
    for (const pane of this.panes) pane.light((row) => pane.setOf[row] >= 0 && touching[pane.setOf[row]]);
    this.count(from ? from.pane.describe(from.row) : "");
  }

  find(text) {
    this.held = null;
    this.found = text.trim().toLowerCase();
    if (!this.found) return this.light(null);
    this.setHue(95);
    for (const pane of this.panes) {
      const texts = pane.lines ?? pane.tensors.map((tensor) => tensor.name);
      pane.light((row) => texts[row].toLowerCase().includes(this.found));
      pane.revealLit(false);
    }
    this.count(`“${text.trim()}”`);
  }

  setHue(hue) {
    this.hue = hue;
    document.documentElement.style.setProperty("--selected", hue);
  }

  count(what) {
    for (const pane of this.panes)
      pane.button.lastElementChild.textContent = pane.lit.length || "";
    const lit = this.panes.filter((pane) => pane.lit.length)
      .map((pane) => `${pane.lit.length} in ${pane.title}`);
    this.status(what ? `${what}: ${lit.join(", ") || "nothing"}` : "");
  }

  status(text) {
    document.getElementById("status").textContent = text ||
      "Point at a line: what comes from the same line of the source is lit. A click holds it.";
  }

  revealElsewhere(pane, smoothly) {
    for (const other of this.panes) if (other !== pane) other.revealLit(smoothly);
  }

  // --- keys -------------------------------------------------------------------------------------

  listen() {
    const query = document.getElementById("query"), keys = document.getElementById("keys");
    query.addEventListener("input", () => this.find(query.value));
    document.getElementById("help").addEventListener("click", () => keys.showModal());
    addEventListener("hashchange", () => this.open());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.arrange());
    addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || keys.open) return;
      if (event.key === "Escape") { this.letGo(); return query.blur(); }
      if (event.target === query) {
        if (event.key === "Enter") for (const pane of this.panes) pane.step(event.shiftKey ? -1 : 1);
        return;
      }
      if (this.key(event)) event.preventDefault();
    });
  }

  // Whether the key means something here.
  key(event) {
    const { key } = event;
    const pane = this.panes.find((each) => each.scroll === document.activeElement);
    const number = Number(key);
    if (key === "?") document.getElementById("keys").showModal();
    else if (key === "/") document.getElementById("query").focus();
    else if (number >= 1 && number <= this.panes.length) this.toggle(this.panes[number - 1]);
    else if (key === "n" || key === "p")
      for (const each of pane ? [pane] : this.panes) each.step(key === "n" ? 1 : -1);
    else if (pane) return this.keyIn(pane, key);
    else return false;
    return true;
  }

  keyIn(pane, key) {
    const whole = Math.max(1, Math.floor(pane.scroll.clientHeight / ROW) - 1);
    const by = {
      ArrowUp: -1, ArrowDown: 1, PageUp: -whole, PageDown: whole, Home: -pane.size, End: pane.size,
    }[key];
    if (by) pane.move(by);
    else if (key === "Enter" || key === " ") this.hold(pane, pane.cursor);
    else return false;
    return true;
  }

  // --- the fragment: #L12, #stdlib/layers.nn:L8, and `show=` with the names of panes ------------

  open() {
    const options = new URLSearchParams(location.hash.slice(1));
    const shown = options.get("show")?.split(",").filter((name) => name in this.byName);
    if (shown?.length) this.shown = new Set(shown);
    this.arrange();
    const place = [...options.keys()].map((key) => /^(?:(.*):)?L(\d+)$/.exec(key)).find(Boolean);
    const at = place && this.rowAt(place[1] ?? this.file, Number(place[2]));
    this.held = at && at.pane.setOf[at.row] >= 0 ? at : null;
    this.light(this.held);
    if (!at) return;
    at.pane.cursor = at.row;
    at.pane.reveal(at.row);
    this.revealElsewhere(at.pane, false);
  }

  // The pane and the row of a line of a file.
  rowAt(file, line) {
    for (const pane of LEFT_PANES.map((name) => this.byName[name])) {
      let name = this.file;
      for (let row = 0; row < pane.size; row++) {
        if (!pane.numbers[row]) name = pane.lines[row] || name;
        else if (name === file && pane.numbers[row] === line) return { pane, row };
      }
    }
    return null;
  }

  writeFragment() {
    const parts = [];
    if (this.held && LEFT_PANES.includes(this.held.pane.name)) {
      const { pane, row } = this.held;
      let first = row;
      while (first > 0 && !(pane.numbers[first] === 0 && pane.lines[first])) first--;
      const file = pane.numbers[first] === 0 ? pane.lines[first] : this.file;
      parts.push(`${file === this.file ? "" : `${file}:`}L${pane.numbers[row]}`);
    }
    parts.push(`show=${[...this.shown].join(",")}`);
    try { history.replaceState(null, "", `#${parts.join("&")}`); } catch { /* a page in a frame */ }
  }
}

window.page = new Page(JSON.parse(document.getElementById("data").textContent));
document.body.dataset.ready = "yes";
