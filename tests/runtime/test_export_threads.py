"""Calls of a library that are divided among the caller's threads: the same bits for any number of
them, in any order; what is wrong is a code."""

from __future__ import annotations

import ctypes
from ctypes import CFUNCTYPE, Structure, byref, c_int, c_size_t, c_void_p
from pathlib import Path

import numpy as np
import pytest
from exported import Library, run, tool
from small_programs import DIGITS, write
from support import mostly_slow

import nnc
from nnc.compiler.codegen.llvm.library_body import CODES
from nnc.runtime import cli
from nnc.runtime.device.cpu import elf_linker

pytestmark = pytest.mark.skipif(not elf_linker.supported(), reason="for x86-64 Linux")

ROOT = Path(__file__).parents[2]
PART = CFUNCTYPE(None, c_void_p, c_int)
RUN = CFUNCTYPE(None, c_void_p, c_int, c_void_p, c_void_p)
READER = """
model Reader(token: i32[B, {length}]) -> logits: f32[B, {length}, 11] {{
    logits = token |> Embedding(11, 32) |> {layer} |> Dense(11)
}}

train Reader {{
    input token: i32[B, {length}]
    input target: i32[B, {length}]
    loss      = cross_entropy(logits, target)
    optimizer = adam(lr = 0.01)
    batch     = 4
}}
"""
LAYERS = """
model Layers(image: f32[B, 32, 32, 16]) -> logits: f32[B, 5] {
    logits = image |> DepthwiseConv(3, pad = 1) |> relu |> Conv(16, 1) |> GlobalAvgPool |> Dense(5)
}

train Layers {
    input image: f32[B, 32, 32, 16]
    input label: i32[B]
    loss      = cross_entropy(logits, label)
    optimizer = adam(lr = 0.01)
    batch     = 16
}
"""
PROGRAMS = {
    "dense": DIGITS,
    "attention": READER.format(layer="Attention(2, causal = true)", length=256),
    "recurrence": READER.format(layer="LSTM(48)", length=9),
}


class Threads(Structure):
    _fields_ = (("run", RUN), ("context", c_void_p), ("parts", c_int))


class Hook:
    """Runs the parts of a call one after the other, the last one first."""

    def __init__(self, parts: int):
        self.calls: list[int] = []
        self.threads = Threads(RUN(self.run), None, parts)

    def run(self, context: object, parts: int, part: int, data: int) -> None:
        self.calls.append(parts)
        for number in reversed(range(parts)):
            PART(part)(data, number)


def call(library: Library, purpose: str, memory: np.ndarray, threads, *more: int) -> int:
    arena = library.arenas[library.name(purpose)]
    function = library.library[library.name(purpose)]
    function.restype = c_int
    sizes = (c_size_t(n) for n in more)
    return function(
        c_void_p(arena.ctypes.data), c_size_t(arena.size), c_void_p(memory.ctypes.data),
        c_size_t(memory.size), *sizes, None if threads is None else byref(threads),
    )  # fmt: skip


def filled(library: Library, purpose: str, rng: np.random.Generator) -> None:
    for place in library.functions[library.name(purpose)]["inputs"]:
        array = library.array(purpose, place["name"])
        whole = rng.integers(0, 10, array.shape)
        array[...] = whole if array.dtype.kind == "i" else rng.random(array.shape)


def trained(folder: Path, hook: Hook | None) -> np.ndarray:
    """All values after three steps, and the loss of an evaluation."""
    library, rng = Library(folder), np.random.default_rng(0)
    threads = None if hook is None else hook.threads
    assert library.init() == 0
    for _ in range(3):
        filled(library, "train_step", rng)
        assert call(library, "train_step", library.values, threads) == 0
    filled(library, "evaluate", rng)
    assert call(library, "evaluate", library.values, threads) == 0
    return np.append(library.values, library.array("evaluate", "loss").reshape(1).view(np.uint8))


@pytest.mark.parametrize("name", mostly_slow(PROGRAMS, {"dense"}))
def test_any_number_of_parts_in_any_order_gives_the_same_bits(tmp_path, name):
    path = write(tmp_path, PROGRAMS[name])
    for folder, more in (("c", ["--threads", "5"]), ("one", [])):
        assert cli.run(["export", str(path), "--to", str(tmp_path / folder), *more]) == 0
    expected = trained(tmp_path / "c", None)
    for parts in (1, 2, 3, 5):
        hook = Hook(parts)
        assert np.array_equal(trained(tmp_path / "c", hook), expected), parts
        assert {*hook.calls} == ({parts} if parts > 1 else set())
    # A library without threads takes none, and computes the same.
    library, rng = Library(tmp_path / "one"), np.random.default_rng(0)
    assert library.init() == 0
    for _ in range(3):
        filled(library, "train_step", rng)
        assert library.call("train_step", library.values) == 0
    assert np.array_equal(library.values, expected[: library.values.size])


def test_threads_share_the_examples_of_a_prediction(tmp_path):
    """Where each computes several layers of one example before the next."""
    model = nnc.loads(LAYERS)
    model.init()
    library = Library(model.export(tmp_path / "c", threads=5, functions=("predict",)))
    image = library.array("predict", "image")
    # the layer between stays in memory for one example of each thread
    assert library.arenas[library.name("predict")].size < 1.75 * image.nbytes
    image[...] = np.random.default_rng(0).random(image.shape)
    expected = model.predict(image=image)
    for hook in (None, Hook(2), Hook(5)):
        threads = None if hook is None else hook.threads
        for count in (16, 3):
            logits = library.array("predict", "logits")
            logits[...] = 7
            assert call(library, "predict", library.weights, threads, count) == 0
            np.testing.assert_allclose(logits[:count], expected[:count], rtol=0, atol=1e-6)


def test_wrong_threads_are_refused(tmp_path):
    model = nnc.loads(DIGITS)
    model.init()
    folder = model.export(tmp_path / "c", threads=2, functions=("predict",))
    library, hook = Library(folder), Hook(2)
    wrong = CODES["WRONG_PARTS"]
    for parts, code in ((0, wrong), (3, wrong), (-1, wrong), (2, 0), (1, 0)):
        hook.threads.parts = parts
        assert call(library, "predict", library.weights, hook.threads, 1) == code
    nothing = Threads(ctypes.cast(None, RUN), None, 2)
    assert call(library, "predict", library.weights, nothing, 1) == wrong
    with pytest.raises(ValueError, match="1 to 64"):
        model.export(tmp_path / "d", threads=0)
    with pytest.raises(nnc.UserError, match="E0724"):
        model.export(tmp_path / "d", threads=2, target="wasm32")


@pytest.mark.slow
def test_the_example_with_threads_of_posix(tmp_path):
    program = ROOT / "examples" / "cnn_digits.nn"
    command = ["export", str(program), "--to", str(tmp_path / "digits_c"), "--threads", "4"]
    assert cli.run(command) == 0
    there = f"-Wl,-rpath,{tmp_path}/digits_c"
    flags = ["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread", "-Idigits_c"]
    source = ROOT / "examples" / "callers" / "threads.c"
    linked = ["-Ldigits_c", "-ldigits", there]
    run([tool("gcc"), *flags, source, "-o", "threads", *linked], tmp_path)
    said = {run(["./threads", "digits_c/weights.bin", str(n)], tmp_path) for n in (1, 2, 3, 4)}
    assert len(said) == 1 and "loss" in said.pop()
