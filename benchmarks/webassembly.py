"""Exported models in WebAssembly beside the same models for x86-64-v2: µs of a call, on one thread.

    python benchmarks/webassembly.py [EXAMPLE …]

Each model is exported twice; rounds of node and of ctypes take turns, and the least time of each
counts. The aim is 2.5 times the time for a prediction and 4 times for a training step. Training
begins anew every 4 steps, before anything becomes a denormal number. A call through ctypes takes
about 1 µs, which is in the figures for x86-64-v2. Needs node.
"""

from __future__ import annotations

import ctypes
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
EXAMPLES = ("mlp_digits", "cnn_digits", "resnet_digits", "char_lstm")
ROUNDS, SECONDS = 3, 0.4  # of each side
LINE = 64
AIMS = {"predict": 2.5, "train_step": 4.0}
NODE = """
import { readFileSync } from "node:fs";
import { load } from "./PREFIX.mjs";
const [purpose, examples, seconds] = process.argv.slice(2);
const model = await load();
const about = JSON.parse(readFileSync("manifest.json")).functions[`PREFIX_${purpose}`];
const inputs = Object.fromEntries(about.inputs.map(({ name, type, shape }) => {
  const size = shape.reduce((a, b) => a * b, 1);
  return [name, Array.from({ length: size }, (_, n) => type[0] === "f" ? Math.sin(n) : 0)];
}));
const method = purpose === "train_step" ? "trainStep" : purpose;
model[method](inputs);
const call = model.exports[`PREFIX_${purpose}`];
const given = [model._arenas[purpose], about.arena_bytes, ...model._trained()];
if (Number(examples)) given.push(Number(examples));
let least = Infinity;
for (const end = performance.now() + 1000 * seconds; performance.now() < end;) {
  if (purpose === "train_step") model.init();
  const begin = performance.now();
  for (let n = 0; n < 4; n += 1) if (call(...given)) throw new Error("it failed");
  least = Math.min(least, (performance.now() - begin) / 4);
}
console.log(1000 * least);
"""


def export(path: Path, to: Path, target: str) -> None:
    command = "from nnc.runtime.cli import main; main()"
    arguments = ["export", str(path), "--to", str(to), "--target", target]
    subprocess.run([sys.executable, "-c", command, *arguments], check=True, capture_output=True)


def in_node(folder: Path, prefix: str, purpose: str, examples: int) -> float:
    """µs."""
    (folder / "bench.mjs").write_text(NODE.replace("PREFIX", prefix))
    arguments = [purpose, str(examples), str(SECONDS)]
    done = subprocess.run(
        ["node", "bench.mjs", *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return float(done.stdout)


class Native:
    """A library for x86-64-v2, called in this process. Optimizers whose states begin with zeros
    need no `init`."""

    def __init__(self, folder: Path):
        self.about = json.loads((folder / "manifest.json").read_text())
        self.prefix = self.about["prefix"]
        self.library = ctypes.CDLL(str(folder / f"lib{self.prefix}.so"))
        weights = np.fromfile(folder / "weights.bin", np.uint8)
        self.values = _aligned(self.about["bytes"]["values"])
        self.values[: len(weights)] = weights
        self.begun = self.values.copy()

    def time(self, purpose: str, examples: int) -> float:
        """µs."""
        about = self.about["functions"][f"{self.prefix}_{purpose}"]
        arena = _aligned(about["arena_bytes"])
        for place in about["inputs"]:
            if place["type"] == "f32":
                raw = arena[place["offset"] :][: place["bytes"]].view(np.float32)
                raw[:] = np.sin(np.arange(raw.size))
        function = self.library[f"{self.prefix}_{purpose}"]
        kinds = [ctypes.c_void_p, ctypes.c_size_t] * 2 + [ctypes.c_size_t]
        given = [arena.ctypes.data, arena.size, self.values.ctypes.data, self.values.size]
        given += [examples] * bool(examples)
        function.argtypes = kinds[: len(given)]
        least, end = np.inf, time.perf_counter() + SECONDS
        while time.perf_counter() < end:
            self.values[:] = self.begun
            begin = time.perf_counter()
            for _ in range(4):
                if function(*given):
                    raise RuntimeError("it failed")
            least = min(least, (time.perf_counter() - begin) / 4)
        return 1e6 * least


def _aligned(size: int) -> np.ndarray:
    raw = np.zeros(size + LINE, np.uint8)
    return raw[-raw.ctypes.data % LINE :][:size]


def measure(name: str, folder: Path) -> None:
    """Prints a row for each function."""
    path = folder / f"{name}.nn"
    text = (ROOT / "examples" / f"{name}.nn").read_text("utf-8")
    path.write_text(re.sub(r"(?m)^ *weights *= .*\n", "", text), "utf-8")
    export(path, folder / "wasm", "wasm32")
    export(path, folder / "x86", "x86-64-v2")
    native = Native(folder / "x86")
    batch = native.about["functions"][f"{native.prefix}_predict"]["examples"]
    counts = "size_t examples" in (folder / "x86" / f"{native.prefix}.h").read_text()
    rows = [("predict", 1), ("predict", batch)] if counts else [("predict", 0)]
    for purpose, examples in (*rows, ("train_step", 0)):
        here, there = np.inf, np.inf
        for _ in range(ROUNDS):
            here = min(here, native.time(purpose, examples))
            there = min(there, in_node(folder / "wasm", native.prefix, purpose, examples))
        what = f"{purpose} of {examples or native.about['batch']}"
        ratio = there / here
        verdict = "" if ratio <= AIMS[purpose] else f"  more than {AIMS[purpose]}"
        print(f"{name:16} {what:18} {here:10.1f} {there:10.1f} {ratio:6.2f}{verdict}", flush=True)


def main() -> None:
    print(f"{'model':16} {'call':18} {'x86-64-v2':>10} {'wasm32':>10}  ratio")
    for name in sys.argv[1:] or EXAMPLES:
        with tempfile.TemporaryDirectory() as folder:
            measure(name, Path(folder))


if __name__ == "__main__":
    main()
