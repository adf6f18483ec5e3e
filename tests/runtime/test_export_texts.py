"""Exported models write, token for token, what `nnc generate` writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from exported import Library, run, tool
from small_programs import write
from support import mostly_slow

import nnc
from nnc.compiler.codegen.llvm.library_body import CODES
from nnc.runtime import cli
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


# Writes as many tokens as it is told after a prompt, always the likeliest. When the window is full,
# its last quarter is read anew, as `nnc generate` does.
WRITES = """
#include "char_gpt.h"
#include <stdio.h>
#include <stdlib.h>

static _Alignas(CHAR_GPT_ALIGNMENT) unsigned char weights[CHAR_GPT_WEIGHTS_BYTES];
static _Alignas(CHAR_GPT_ALIGNMENT) unsigned char arena[CHAR_GPT_GENERATE_NEXT_ARENA_BYTES];
static int text[4096], length;

static int read(int token) {
    *char_gpt_generate_next_token(arena) = token;
    return char_gpt_generate_next(arena, sizeof arena, weights, sizeof weights);
}

static void begin(int from) {
    if (char_gpt_generate_first(arena, sizeof arena, weights, sizeof weights)) exit(2);
    for (int n = from; n < length; n++)
        if (read(text[n])) exit(3);
}

int main(int count, char **given) {
    FILE *file = fopen("weights.bin", "rb");
    if (!file || fread(weights, 1, sizeof weights, file) != sizeof weights) return 1;
    for (int n = 2; n < count; n++) text[length++] = atoi(given[n]);
    begin(0);
    for (int n = 0; n < atoi(given[1]); n++) {
        const float *logits = char_gpt_generate_next_logits(arena);
        int best = 0;
        for (int k = 1; k < 65; k++) if (logits[k] > logits[best]) best = k;
        printf("%d ", best);
        text[length++] = best;
        int code = read(best);
        if (code == CHAR_GPT_WINDOW_FULL) begin(length - 64 / 4 - 1);
        else if (code) return code;
    }
    return 0;
}
"""


@pytest.mark.slow
def test_char_gpt_writes_token_for_token_what_generate_writes(tmp_path, monkeypatch, capfd):
    """In C, and beyond its window of 64: on a text of 65 characters, after eight steps."""
    monkeypatch.chdir(tmp_path)
    characters = "".join(chr(48 + n) for n in range(65))
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list(characters), 5)) for _ in range(40)]
    Path("play.txt").write_text(characters + "".join(rng.choice(words, 900)), "utf-8")
    example = Path(__file__).parents[2] / "examples" / "char_gpt.nn"
    program = example.read_text("utf-8").replace("shakespeare(", 'text("play.txt", ')
    Path("char_gpt.nn").write_text(program, "utf-8")
    assert cli.run(["train", "char_gpt.nn", "--steps", "8", "--out", "run"]) == 0
    assert cli.run(["export", "run", "--to", "c", "--as", "o"]) == 0
    (tmp_path / "c" / "writes.c").write_text(WRITES)
    run([tool("gcc"), "-O1", "writes.c", "char_gpt.o", "-o", "writes"], tmp_path / "c")
    tokens = json.loads(Path("run/vocabulary.json").read_text("utf-8"))["token"]["tokens"]
    capfd.readouterr()
    prompt, length = words[3] + words[5], 150
    command = ["generate", "run", "--prompt", prompt, "--length", str(length)]
    assert cli.run([*command, "--temperature", "0"]) == 0
    written = capfd.readouterr().out.removesuffix("\n")
    numbers = [tokens.index(c) for c in prompt]
    found = run(["./writes", str(length), *map(str, numbers)], tmp_path / "c").split()
    assert prompt + "".join(tokens[int(n)] for n in found) == written
