"""Exported libraries for tests: called through ctypes, or from C by a compiler of this or another
processor.

A `Library` has NumPy arrays that are views into its arenas, as C's pointers are.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from ctypes import c_char_p, c_int, c_size_t, c_uint64, c_void_p
from pathlib import Path

import numpy as np
import pytest

LINE = 64
TYPES = {"bool": np.uint8, "u8": np.uint8, "i8": np.int8, "i32": np.int32, "i64": np.int64,
         "f32": np.float32, "f64": np.float64, "f16": np.float16, "bf16": np.uint16}  # fmt: skip


def aligned(size: int) -> np.ndarray:
    """Zeros that begin at a cache line and end where nothing of NumPy's follows within it."""
    raw = np.zeros(size + 2 * LINE, np.uint8)
    start = -raw.ctypes.data % LINE
    return raw[start : start + size]


class Library:
    """A folder that was exported, loaded into this process."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.about = json.loads((folder / "manifest.json").read_text())
        self.prefix, self.functions = self.about["prefix"], self.about["functions"]
        self.library = ctypes.CDLL(str(folder / f"lib{self.prefix}.so"))
        self.arenas = {n: aligned(f["arena_bytes"]) for n, f in self.functions.items()}
        self.weights = aligned(self.about["bytes"]["weights"])
        if not self.about["embedded"]:
            self.weights[:] = np.fromfile(folder / "weights.bin", np.uint8)
        self.values = aligned(self.about["bytes"]["values"])

    def name(self, purpose: str) -> str:
        return f"{self.prefix}_{purpose}"

    def array(self, purpose: str, name: str) -> np.ndarray:
        """An input or a result of a function."""
        function = self.functions[self.name(purpose)]
        places = [*function["inputs"], *function["outputs"]]
        place = next(p for p in places if p["name"] == name)
        raw = self.arenas[self.name(purpose)][place["offset"] :][: place["bytes"]]
        return raw.view(TYPES[place["type"]]).reshape(place["shape"])

    def call(self, purpose: str, memory: np.ndarray, *more: int) -> int:
        arena = self.arenas[self.name(purpose)]
        return self.raw(
            purpose, arena.ctypes.data, arena.size, memory.ctypes.data, memory.size, *more
        )

    def raw(self, purpose: str, *given: int) -> int:
        function = self.library[self.name(purpose)]
        kinds = [c_void_p, c_size_t, c_void_p, c_size_t, c_size_t]
        function.restype, function.argtypes = c_int, kinds[: len(given)]
        return function(*given)

    def init(self) -> int:
        return self.raw(
            "init", self.values.ctypes.data, self.values.size,
            self.weights.ctypes.data, self.weights.size,
        )  # fmt: skip

    def check(self, abi: int) -> int:
        function = self.library[self.name("check")]
        function.restype, function.argtypes = c_int, [c_uint64]
        return function(abi)

    def message(self, code: int) -> str:
        function = self.library[self.name("message")]
        function.restype, function.argtypes = c_char_p, [c_int]
        return function(code).decode()

    def trained(self) -> dict[str, np.ndarray]:
        """The weights in the memory of training."""
        found = {}
        for name, place in self.about["weights"].items():
            kind, shape = TYPES[place["type"]], place["shape"]
            size = int(np.prod(shape)) * np.dtype(kind).itemsize
            found[name] = self.values[place["offset"] :][:size].view(kind).reshape(shape)
        return found


def tool(name: str) -> str:
    """The path of a program, or the test is skipped, aloud."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} here")
    return found


def run(command: Sequence[str | Path], folder: Path) -> str:
    """What a command prints; it must end well."""
    done = subprocess.run(
        [str(part) for part in command], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "LC_ALL": "C"},
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def numbers(text: str) -> list[float]:
    """All numbers that the example in C prints."""
    return [float(word) for word in text.split() if word[-1].isdigit()]
