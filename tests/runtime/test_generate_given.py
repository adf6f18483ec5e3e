"""Writing with a trained model: the likeliest tokens are those of the whole, line by line."""

from __future__ import annotations

import io
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from nnc.compiler.pipeline import derive
from nnc.compiler.programs import prediction
from nnc.compiler.reference.evaluator import evaluate
from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime import cli
from nnc.runtime.data import Search
from nnc.runtime.device import DEVICES
from nnc.runtime.inference.beam_search import log_softmax, penalized
from nnc.runtime.inference.generate import Generator, longest_window, text_roles
from nnc.runtime.inference.text_inputs import ContextText
from nnc.runtime.project import open_project, planned_setup, setup_of, with_batch
from nnc.runtime.training.executor import Executor
from nnc.runtime.training.run_folder import RunFolder

REVERSE = """model Reverse(source: i32[B, S], source_length: i32[B], target_in: i32[B, T])
    -> logits: f32[B, T, 14] {
    m = source |> Embedding(14, 16) |> SinusoidalPositions |> EncoderBlock(2, 32)(source_length)
    h = target_in |> Embedding(14, 16) |> SinusoidalPositions
    logits = h |> DecoderBlock(2, 32)(m, source_length) |> Dense(14)
}

train Reverse {
    data      = reversal(count = 2000, shortest = 2, longest = 4)
    loss      = masked_cross_entropy(logits, target_out, target_length)
    metric right = sequence_accuracy(logits, target_out, target_length)
    optimizer = adam(lr = 5e-3)
    epochs    = 6
    keep      = "last"
}
"""


def train(place: Path, *options: str) -> RunFolder:
    (place / "reverse.nn").write_text(REVERSE)
    assert cli.run(["train", str(place / "reverse.nn"), "--out", str(place / "run"), *options]) == 0
    return RunFolder(place / "run")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFolder:
    return train(tmp_path_factory.mktemp("reverse"), "--steps", "20")


@pytest.fixture(scope="module")
def good_run(tmp_path_factory) -> RunFolder:
    return train(tmp_path_factory.mktemp("good"))


@pytest.fixture
def generate(run, capsys, monkeypatch):
    """Runs `nnc generate`: (exit code, stdout, stderr)."""

    def call(prompt: str, lines: str = "", *options: str, of: RunFolder = run):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
        code = cli.run(["generate", str(of.path), "--prompt", prompt, *options])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


@pytest.mark.slow
def test_greedy_writing_is_as_good_as_the_metric(good_run, generate) -> None:
    """Given the right beginning or its own, the likeliest tokens are all right equally often."""
    lines = ["12", "304", "5555", "9876", "10", "246", "013", "8899"]
    run = good_run
    told = generate("-", "\n".join(lines) + "\n\n", of=run)[1].splitlines()
    project = open_project(run.model)
    setup = with_batch(setup_of(project, run.fields, 1800), 1)
    executor = Executor(setup, DEVICES["cpu"](2), 0)
    weights = run.read_weights(executor.weights())
    system, known = derive(prediction(setup)), run.vocabulary("source")
    source = ContextText.of(
        [t for t in system.of_kind("input") if t.name != "target_in"], run.vocabularies
    )
    for line, written in zip(lines, told, strict=True):
        ids = [known.special("<start>"), *map(int, known.encode(written))]
        tokens = np.zeros((1, 5), np.int32)
        tokens[0, : len(ids)] = ids[:5]
        given = {**weights, **source.inputs(line), "target_in": tokens}
        best = evaluate(system, given)["logits"][0].argmax(-1)
        assert known.decode(best[: len(ids)]) == written
    assert sum(line[::-1] == written for line, written in zip(lines, told, strict=True)) >= 6


@pytest.mark.slow
def test_the_encoder_runs_once_for_a_line(run) -> None:
    setup = with_batch(setup_of(open_project(run.model), run.fields, 1800), 1)
    executor = Executor(setup, DEVICES["cpu"](2), 0)
    generator = Generator(prediction(setup), run.read_weights(executor.weights()), executor.device)
    assert [t.name for t in generator.roles.given] == ["source", "source_length"]
    assert generator.first is not None and "encoderblock1_dense1_w" in generator.first.arrays
    of_encoder = [
        name
        for name in generator.program.arrays
        if name.startswith("encoderblock") and name not in generator.handed
    ]
    assert not of_encoder


def test_wrong_lines(generate) -> None:
    code, _, told = generate("12345")
    assert code == 1
    assert "`12345` has 5 tokens, and `source` has room for 4" in told
    assert generate("-", "\n\n")[0] == 2
    code, _, told = generate("  \n ")
    assert code == 2 and "a line with at least one word" in told
    code, _, told = generate("1x2")
    assert code == 0 and "unknown, and read as <unk>: x" in told


def test_inputs_that_a_text_says_nothing_of(run) -> None:
    system = prediction(with_batch(setup_of(open_project(run.model), run.fields, 1800), 1))
    known = run.vocabulary("source")
    with pytest.raises(UserError) as caught:
        ContextText.of(system.of_kind("input"), {"source": known})
    assert "nothing of the input `target_in`" in caught.value.diagnostics[0].message
    with pytest.raises(UserError) as caught:
        ContextText.of(system.of_kind("input"), {"source": known, "target_in": known})
    assert "reads 2 texts" in caught.value.diagnostics[0].message


def test_beam_search_writes_a_line_for_each(run, generate) -> None:
    """The text that it finds is at least as likely as the greedy one."""
    lines = ["12", "304", "5555", "9876"]
    found = {}
    for options in ((), ("--beams", "3")):
        code, out, _ = generate("-", "\n".join(lines), *options)
        assert code == 0
        found[options] = out.splitlines()
    setup = with_batch(setup_of(open_project(run.model), run.fields, 1800), 1)
    executor = Executor(setup, DEVICES["cpu"](1), 0)
    generator = Generator(prediction(setup), run.read_weights(executor.weights()), executor.device)
    known = run.vocabulary("target_in")
    source = ContextText.of(generator.roles.given, run.vocabularies)

    def score(line: str, text: str) -> float:
        generator.give(source.inputs(line))
        ids = [known.special("<start>"), *known.encode(text), known.special("<end>")]
        steps = pairwise(ids)
        logarithms = [log_softmax(generator.feed(int(a)))[b] for a, b in steps]
        return penalized(sum(logarithms), len(logarithms))

    for line, greedy, best in zip(lines, *found.values(), strict=True):
        assert score(line, best) >= score(line, greedy) - 1e-9


@pytest.mark.parametrize("option", ["--temperature", "--top-k", "--top-p"])
def test_beam_search_draws_nothing(generate, option) -> None:
    code, _, told = generate("12", "", "--beams", "2", option, "1")
    assert code == 2 and f"leave out {option}" in told


def test_the_source_is_as_long_as_its_maximum(tmp_path) -> None:
    (tmp_path / "longer.nn").write_text(REVERSE.rpartition("}")[0] + "    S <= 9\n    T <= 11\n}\n")
    project = open_project(tmp_path / "longer.nn")
    setup = with_batch(planned_setup(project, Search(None, tmp_path, offline=True)), 1)
    (roles,) = text_roles(longest_window(setup))
    assert roles.window == 11
    assert [t.shape for t in roles.given] == [(1, 9), (1,)]
