"""Exported WebAssembly modules for tests: called in node, with arrays of NumPy in and out."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from exported import TYPES, tool

# Reads calls, [method, inputs, more], from a file, and prints the results of each, and the values.
DRIVER = """
import { readFileSync } from "node:fs";
import { load } from "./%s.mjs";
const model = await load();
const shown = (data) => data?.buffer
  ? { [data.constructor.name]: Buffer.from(data.buffer, data.byteOffset, data.byteLength)
      .toString("base64") }
  : typeof data === "bigint" ? Number(data) : data;
const KINDS = { bool: Uint8Array, u8: Uint8Array, i8: Int8Array, i32: Int32Array,
                i64: BigInt64Array, f32: Float32Array, f64: Float64Array };
const array = ([kind, text]) => {
  const bytes = Uint8Array.from(Buffer.from(text, "base64"));
  return new KINDS[kind](bytes.buffer);
};
const results = [];
for (const [method, inputs, more] of JSON.parse(readFileSync("calls.json"))) {
  const given = inputs && Object.fromEntries(
    Object.entries(inputs).map(([name, data]) => [name, array(data)]));
  try {
    const found = model[method](...(given ? [given] : []), ...more);
    if (typeof found?.next === "function") { results.push([...found]); continue; }
    const parts = found === undefined || found.buffer ? { "": found } : found;
    results.push(Object.fromEntries(
      Object.entries(parts).map(([name, data]) => [name, shown(data)])));
  } catch (error) {
    if (error.code === undefined) throw error;
    results.push({ code: error.code, reason: error.reason, message: error.message });
  }
}
console.log(JSON.stringify(results, (_, v) => typeof v === "number" && !isFinite(v) ? `${v}` : v));
"""
ARRAYS = {
    "Uint8Array": np.uint8, "Int8Array": np.int8, "Int32Array": np.int32,
    "BigInt64Array": np.int64, "Float32Array": np.float32, "Float64Array": np.float64,
}  # fmt: skip
Call = tuple[str, Mapping[str, np.ndarray] | None, Sequence[Any]]


def node(folder: Path, script: str) -> str:
    """What a module of JavaScript prints, which stands in that folder; it must end well."""
    (folder / "test.mjs").write_text(script)
    done = subprocess.run(
        [tool("node"), "test.mjs"], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def call(folder: Path, calls: Sequence[Call]) -> list[Any]:
    """The results of calls of the model's methods, one after the other: arrays by name, or the
    code and reason of an error."""
    about = json.loads((folder / "manifest.json").read_text())
    places = {
        (name.removeprefix(about["prefix"] + "_"), place["name"]): place["type"]
        for name, function in about["functions"].items()
        for place in function["inputs"]
    }
    said = []
    for method, inputs, more in calls:
        purpose = "_".join(["train_step", *more]) if method == "trainStep" else method
        rows = inputs and {
            name: _plain(array, places[purpose, name]) for name, array in inputs.items()
        }
        said.append([method, rows, list(more)])
    (folder / "calls.json").write_text(json.dumps(said))
    return [_arrays(row) for row in json.loads(node(folder, DRIVER % about["prefix"]))]


def _plain(array: np.ndarray, kind: str) -> tuple[str, str]:
    kind = {"f16": "f32", "bf16": "f32"}.get(kind, kind)
    made = np.ascontiguousarray(array, TYPES[kind])
    return kind, base64.b64encode(made.tobytes()).decode()


def _arrays(row: Any) -> Any:
    if not isinstance(row, dict):
        return row
    found = {}
    for name, data in row.items():
        found[name] = data
        if isinstance(data, dict):
            ((kind, text),) = data.items()
            found[name] = np.frombuffer(base64.b64decode(text), ARRAYS[kind])
    return found
