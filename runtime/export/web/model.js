const TYPES = {
  bool: Uint8Array, u8: Uint8Array, i8: Int8Array, i32: Int32Array, i64: BigInt64Array,
  f32: Float32Array, f64: Float64Array, f16: Uint16Array, bf16: Uint16Array,
};
const INTEGERS = new Set(["bool", "u8", "i8", "i32", "i64"]);
const PAGE = 65536; // bytes by which memory grows
const ALIGNMENT = 64;
const product = (shape) => shape.reduce((a, b) => a * b, 1);

/** What a function of the module returns instead of a result: `code`, as in C, and its `reason`. */
export class ModelError extends Error {
  constructor(code, what) {
    const [reason, text] = FAILURES[code] ?? ["UNKNOWN", "no code of this library"];
    super(what === undefined ? text : `${what}: ${text}`);
    this.name = "ModelError";
    this.code = code;
    this.reason = reason;
  }
}

const failure = (reason, what) =>
  new ModelError(FAILURES.findIndex(([name]) => name === reason), what);

/** The module and weights of a model, and the memory that its functions are given. */
export class Model {
  /** `module` and `weights` are bytes, addresses or answers of `fetch`; unless given, files beside
      this one. */
  static async load({ module = `./${ABOUT.prefix}.wasm`, weights = "./weights.bin" } = {}) {
    const code = module instanceof WebAssembly.Module ? module : await compiled(await read(module));
    const image = ABOUT.embedded ? undefined : await read(weights);
    return new Model(new WebAssembly.Instance(code, { Math }), image);
  }

  constructor(instance, weights) {
    const { exports } = instance;
    this.exports = exports;
    this.batch = ABOUT.batch;
    this.seed = ABOUT.seed;
    this._free = exports.__heap_base.value;
    this._arenas = {};
    this._values = 0; // where they are, once training has begun
    this._position = 0; // in a text
    this._call("check", BigInt(ABOUT.abi));
    if (ABOUT.embedded) {
      this._weights = exports[`${ABOUT.prefix}_weights`].value;
    } else {
      const bytes = bytesOf(weights);
      if (bytes.length < ABOUT.weightsBytes) throw failure("TOO_SMALL", "weights");
      this._weights = this._allocate(ABOUT.weightsBytes);
      this._bytes(this._weights, ABOUT.weightsBytes).set(bytes.subarray(0, ABOUT.weightsBytes));
    }
  }

  /** The results of some examples, at most a batch. */
  predict(inputs) {
    return this._run("predict", inputs, this._trained());
  }

  /** The loss and the metrics of a batch. */
  evaluate(inputs) {
    return this._run("evaluate", inputs, this._trained());
  }

  /** One step of training with a batch; `turn` says which, where there are several. */
  trainStep(inputs, turn = "") {
    if (!this._values) this.init();
    const name = turn ? `train_step_${turn}` : "train_step";
    return this._run(name, inputs, [this._values, ABOUT.valuesBytes]);
  }

  /** Begin training anew, with the weights of the file and a new optimizer. */
  init() {
    if (!ABOUT.trains) throw failure("MISSING", "the model has no train block");
    this._values ||= this._allocate(ABOUT.valuesBytes);
    if (ABOUT.hasStates) {
      this._call("init", this._values, ABOUT.valuesBytes, this._weights, ABOUT.weightsBytes);
    } else {
      const weights = this._bytes(this._weights, ABOUT.weightsBytes);
      this._bytes(this._values, ABOUT.valuesBytes).set(weights);
    }
  }

  /** A copy of the weights, and of what trains them if training has begun; see `restore`. */
  save() {
    return this._bytes(...this._trained()).slice();
  }

  /** Go on from what `save` gave, or from a `weights.bin`. */
  restore(saved) {
    const bytes = bytesOf(saved);
    if (ABOUT.trains && bytes.length >= ABOUT.valuesBytes) {
      this._values ||= this._allocate(ABOUT.valuesBytes);
      this._bytes(this._values, ABOUT.valuesBytes).set(bytes.subarray(0, ABOUT.valuesBytes));
      return;
    }
    if (bytes.length !== ABOUT.weightsBytes) throw failure("TOO_SMALL", "restore");
    if (ABOUT.embedded) this._weights = this._allocate(ABOUT.weightsBytes);
    this._bytes(this._weights, ABOUT.weightsBytes).set(bytes);
    if (this._values) this.init();
  }

  /** Begin a text; `given` is what else the model reads, such as a sentence to translate. */
  generateFirst(given = {}) {
    this._run("generate_first", given, this._trained());
    this._position = 0;
  }

  /** Read a token: the logits of the next. */
  generateNext(token) {
    const { inputs: [place], outputs: [result] } = this._function("generate_next");
    const results = this._run("generate_next", { [place.name]: [token] }, this._trained());
    this._position += 1;
    return results[result.name];
  }

  /** Tokens that continue a prompt of one token at least, as `nnc generate` draws them: divided by
      `temperature` (0: always the likeliest), of the `topK` likeliest, of the fewest whose chances
      add up to `topP`; of the first `known`, until `end`. */
  *generate(prompt, options = {}) {
    const { count = 100, seed = 1, known, end, given = {} } = options;
    const past = [];
    const feed = (token) => {
      past.push(token);
      try {
        return this.generateNext(token);
      } catch (error) {
        if (error.reason !== "WINDOW_FULL") throw error;
      }
      // The window is full: begin anew with its last quarter.
      const recent = past.slice(past.length - 1 - Math.floor(this._position / 4), -1);
      this.generateFirst(given);
      for (const old of recent) this.generateNext(old);
      return this.generateNext(token);
    };
    const random = randomNumbers(seed);
    this.generateFirst(given);
    if (!prompt.length) throw failure("WRONG_EXAMPLES", "generate needs a token to begin with");
    let logits;
    for (const token of prompt) logits = feed(token);
    for (let n = 0; n < count; n += 1) {
      const token = draw(logits.subarray(0, known), options, random);
      if (token === end) return;
      yield token;
      if (n + 1 < count) logits = feed(token);
    }
  }

  /** The memory that predictions read: that of training, once it has begun. */
  _trained() {
    return this._values
      ? [this._values, ABOUT.valuesBytes] : [this._weights, ABOUT.weightsBytes];
  }

  _function(name) {
    const found = ABOUT.functions[name];
    if (!found) throw failure("MISSING", `the model has no ${name}`);
    return found;
  }

  _run(name, inputs, memory) {
    const about = this._function(name);
    // Both functions of a text have one arena.
    const key = name.startsWith("generate") ? "generate" : name;
    const arena = this._arenas[key] ??= this._allocate(about.arena);
    const count = this._write(name, about, arena, inputs ?? {});
    const more = about.counts ? [count] : [];
    this._call(name, arena, about.arena, ...memory, ...more);
    const results = {};
    for (const place of about.outputs) {
      const shape = about.counts ? [count, ...place.shape.slice(1)] : place.shape;
      const size = place.shape.length ? product(shape) : 1;
      const view = this._view(place, arena, size);
      const found = decoded(place.type, view);
      results[place.name] = place.shape.length ? found : found[0];
    }
    return results;
  }

  /** Writes the inputs into the arena: how many examples there are. */
  _write(name, about, arena, inputs) {
    const known = about.inputs.map((place) => place.name);
    const unknown = Object.keys(inputs).filter((key) => !known.includes(key));
    if (unknown.length) {
      throw failure("MISSING", `${name} has no input ${unknown.join(", ")}, but ${known.join(", ")}`);
    }
    let count;
    for (const place of about.inputs) {
      const own = { seed: ABOUT.seed, step: 1 }[place.name];
      const given = inputs[place.name] ?? own;
      if (given === undefined) throw failure("MISSING", `${name} needs ${place.name}`);
      const values = flat(given);
      const whole = product(place.shape);
      const each = about.counts && place.shape.length ? whole / about.examples : whole;
      const examples = values.length / each;
      const fits = about.counts && place.shape.length
        ? Number.isInteger(examples) && examples >= 1 && examples <= about.examples
          && (count === undefined || count === examples)
        : examples === 1;
      if (!fits) {
        const wanted = about.counts ? `${each} for an example` : `${whole}`;
        throw failure("WRONG_EXAMPLES",
          `${name}: ${place.name} has ${values.length} numbers instead of ${wanted}`);
      }
      if (about.counts && place.shape.length) count = examples;
      const view = this._view(place, arena, whole);
      view.set(encoded(place.type, values));
      // A vector may reach beyond the examples: integers there are those of the first one, whose
      // operations have results.
      if (values.length < whole && INTEGERS.has(place.type)) {
        for (let at = values.length; at < whole; at += each) view.copyWithin(at, 0, each);
      }
    }
    return count ?? 1;
  }

  _view(place, arena, count) {
    return new TYPES[place.type](this.exports.memory.buffer, arena + place.offset, count);
  }

  _bytes(address, size) {
    return new Uint8Array(this.exports.memory.buffer, address, size);
  }

  _allocate(size) {
    const address = this._free;
    this._free = Math.ceil((address + size) / ALIGNMENT) * ALIGNMENT;
    const missing = this._free - this.exports.memory.buffer.byteLength;
    if (missing > 0) this.exports.memory.grow(Math.ceil(missing / PAGE));
    return address;
  }

  _call(name, ...given) {
    const code = this.exports[`${ABOUT.prefix}_${name}`](...given);
    if (code) throw new ModelError(code, name);
  }
}

/** The model, from the files beside this one or from what is given. */
export const load = (given) => Model.load(given);

async function compiled(bytes) {
  try {
    return await WebAssembly.compile(bytes);
  } catch (error) {
    if (!WebAssembly.validate(SIMD)) throw failure("NO_INSTRUCTIONS", "load");
    throw error;
  }
}

// a module with a function of vectors, which a host without them refuses
const SIMD = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0,
  253, 15, 253, 98, 11,
]);

async function read(source) {
  if (source instanceof ArrayBuffer || ArrayBuffer.isView(source)) return source;
  if (source instanceof Response) return source.arrayBuffer();
  const address = new URL(source, import.meta.url);
  if (address.protocol === "file:" && globalThis.process?.versions?.node) {
    return (await import("node:fs/promises")).readFile(address);
  }
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${address}: ${answer.status} ${answer.statusText}`);
  return answer.arrayBuffer();
}

function bytesOf(data) {
  return ArrayBuffer.isView(data)
    ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength) : new Uint8Array(data);
}

/** Numbers one after the other, however they are nested. */
function flat(values) {
  if (ArrayBuffer.isView(values)) return values;
  if (!Array.isArray(values)) return [values];
  if (!values.some((one) => Array.isArray(one) || ArrayBuffer.isView(one))) return values;
  return values.flatMap((one) => Array.from(flat(one)));
}

/** Numbers as memory has them. */
function encoded(type, values) {
  if (type === "i64") return Array.from(values, BigInt);
  if (type === "bf16") return Array.from(values, bf16);
  if (type === "f16") return Array.from(values, f16);
  if (ArrayBuffer.isView(values) && typeof values[0] === "bigint") {
    return Array.from(values, Number);
  }
  return values;
}

function decoded(type, view) {
  if (type === "bf16") return Float32Array.from(view, (bits) => word(bits << 16));
  if (type === "f16") return Float32Array.from(view, ofF16);
  return view.slice();
}

const FLOATS = new Float32Array(1);
const WORDS = new Int32Array(FLOATS.buffer);

function word(bits) {
  WORDS[0] = bits;
  return FLOATS[0];
}

/** The nearest of two, to even where it is as far from both. */
function bf16(value) {
  FLOATS[0] = value;
  const bits = WORDS[0];
  if (Number.isNaN(value)) return (bits >>> 16) | 64;
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
}

function f16(value) {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const size = Math.abs(value);
  if (Number.isNaN(size)) return 0x7e00;
  // 10 bits after the first; below 2^-14 they have steps of 2^-24
  const exponent = Math.max(Math.floor(Math.log2(size)), -14);
  const steps = size / 2 ** (exponent - 10);
  const whole = Math.floor(steps);
  const up = steps - whole > 0.5 || (steps - whole === 0.5 && whole % 2 === 1);
  const rounded = (exponent + 14) * 1024 + whole + (up ? 1 : 0);
  return sign | (size === 0 ? 0 : Math.min(rounded, 0x7c00));
}

function ofF16(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >>> 10) & 31;
  const rest = bits & 1023;
  if (exponent === 31) return rest ? NaN : sign * Infinity;
  return sign * (exponent ? (1024 + rest) * 2 ** (exponent - 25) : rest * 2 ** -24);
}

/** Numbers from 0 to 1, the same for the same seed: mulberry32. */
function randomNumbers(seed) {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

function draw(logits, { temperature = 1, topK, topP }, random) {
  const order = Array.from(logits, (logit, token) => [Number(logit), token]);
  order.sort(([a, m], [b, n]) => b - a || m - n);
  if (temperature === 0) return order[0][1];
  let kept = order.slice(0, topK);
  const chances = kept.map(([logit]) => Math.exp((logit - order[0][0]) / temperature));
  let total = chances.reduce((a, b) => a + b, 0);
  if (topP !== undefined) {
    let sum = 0;
    const last = chances.findIndex((chance) => (sum += chance) >= topP * total);
    kept = kept.slice(0, last < 0 ? undefined : last + 1);
    total = sum;
  }
  let rest = random() * total;
  for (let n = 0; n < kept.length; n += 1) {
    rest -= chances[n];
    if (rest < 0) return kept[n][1];
  }
  return kept[kept.length - 1][1];
}
