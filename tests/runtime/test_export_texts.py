"""Exported models write, token for token, what `nnc generate` writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from exported import Library
from small_programs import write
from support import mostly_slow

import nnc
from nnc.compiler.codegen.llvm.library_body import CODES
from nnc.runtime.device import DEVICES
from nnc.runtime.device.cpu import elf_linker
from nnc.runtime.inference.generate import Generator, longest_window
from nnc.runtime.project import with_batch

pytestmark = pytest.mark.skipif(not elf_linker.supported(), reason="for x86-64 Linux")

WINDOW, TOKENS = 12, 7
LAYERS = {
    "a transformer": f"LearnedPositions({WINDOW}) |> TransformerBlock(2, 8, causal = true)",
    "rotary attention": "Attention(2, causal = true, turned = true)",
    "a recurrence": "LSTM(8)",
}
WRITER = """
model Writer(token: i32[B, T]) -> logits: f32[B, T, 7] {{
    logits = token |> Embedding(7, 8) |> {0} |> Dense(7)
}}

train Writer {{
    input token: i32[B, T]
    input target: i32[B, T]
    loss      = cross_entropy(logits, target)
    optimizer = sgd(lr = 0.1)
    batch     = 2
}}
"""
# What is read once is handed to every token.
TRANSLATOR = """
model Translator(source: i32[B, 5], token: i32[B, T]) -> logits: f32[B, T, 7] {
    read    = source |> Embedding(7, 8) |> Dense(8) |> tanh
    known[b, n] = mean(s) read[b, s, n]
    x = token |> Embedding(7, 8)
    y[b, t, n] = x[b, t, n] + known[b, n]
    logits = y |> LSTM(8) |> Dense(7)
}

train Translator {
    input source: i32[B, 5]
    input token: i32[B, T]
    input target: i32[B, T]
    loss      = cross_entropy(logits, target)
    optimizer = sgd(lr = 0.1)
    batch     = 2
}
"""


def made(folder: Path, text: str) -> tuple[Library, Generator]:
    """The library, and what writes here."""
    model = nnc.load(write(folder, text), settings={"T": WINDOW})
    model.init()
    rng = np.random.default_rng(0)  # first weights are small, and their logits nearly even
    weights = {name: rng.normal(0, 0.5, a.shape) for name, a in model.parameters.items()}
    model.parameters = {name: a.astype(np.float32) for name, a in weights.items()}
    library = Library(model.export(folder / "c"))
    executor = model._trained.executor
    system = longest_window(with_batch(executor.setup, 1))
    return library, Generator(system, executor.weights(), DEVICES["cpu"](1))


def read(library: Library, token: int) -> np.ndarray:
    library.array("generate_next", "token")[...] = token
    assert library.call("generate_next", library.weights) == 0
    return library.array("generate_next", "logits").reshape(-1).copy()


def share(library: Library) -> None:
    """Both functions use one arena."""
    library.arenas[library.name("generate_next")] = library.arenas[library.name("generate_first")]


@pytest.mark.parametrize("layer", mostly_slow(LAYERS, {"a transformer"}))
def test_the_same_logits_for_every_token(tmp_path, layer):
    library, generator = made(tmp_path, WRITER.format(LAYERS[layer]))
    share(library)
    for start in (3, 5):  # a second text forgets the first
        assert library.call("generate_first", library.weights) == 0
        generator.give({})
        token = start
        for _ in range(WINDOW):
            found, expected = read(library, token), generator.feed(token)
            assert np.array_equal(found, expected)
            token = int(expected.argmax())
    # a recurrence goes on for ever
    library.array("generate_next", "token")[...] = 1
    full = library.call("generate_next", library.weights)
    assert full == (0 if layer == "a recurrence" else CODES["WINDOW_FULL"])
    library.array("generate_next", "token")[...] = TOKENS
    if not full:
        assert library.call("generate_next", library.weights) == CODES["INDEX_OUTSIDE"]


@pytest.mark.slow
def test_what_is_given_is_read_once(tmp_path):
    library, generator = made(tmp_path, TRANSLATOR)
    share(library)
    for source in ([1, 2, 3, 4, 5], [6, 0, 0, 2, 1]):
        library.array("generate_first", "source")[...] = source
        assert library.call("generate_first", library.weights) == 0
        generator.give({"source": np.array([source], np.int32)})
        for token in (2, 4, 6, 0):
            assert np.array_equal(read(library, token), generator.feed(token))
    library.array("generate_first", "source")[...] = 7
    assert library.call("generate_first", library.weights) == CODES["INDEX_OUTSIDE"]


def test_a_classifier_does_not_write(tmp_path):
    text = WRITER.replace("logits: f32[B, T, 7]", "logits: f32[B, 7]").format("Flatten")
    model = nnc.load(write(tmp_path, text.replace("target: i32[B, T]", "target: i32[B]")),
                     settings={"T": 3})  # fmt: skip
    model.init()
    functions = Library(model.export(tmp_path / "c")).functions
    assert not any("generate" in name for name in functions)
