"""Predictions in 8 bits: calibrated, measured, exported, and refused where they cannot be."""

from __future__ import annotations

import json

import numpy as np
import pytest
from exported import Library
from small_programs import DIGITS, trained, write

import nnc
from nnc.compiler.codegen.llvm.library_body import CODES
from nnc.compiler.programs import evaluation, prediction
from nnc.compiler.reference.evaluator import evaluate
from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime import cli
from nnc.runtime.device.cpu import elf_linker
from nnc.runtime.inference.weight_choice import spread
from nnc.runtime.project import with_batch
from nnc.runtime.training.batch_inputs import Examples
from nnc.runtime.training.calibration import int8_format
from nnc.runtime.training.loop import measure

here = pytest.mark.skipif(not elf_linker.supported(), reason="for x86-64 Linux")


GPT = """
model Gpt(token: i32[B, 12]) -> logits: f32[B, 12, 9] {
    h = token |> Embedding(9, 16)
    a = h + (h |> LayerNorm |> Attention(2, causal = true))
    logits = a |> LayerNorm |> Dense(32) |> gelu |> Dense(9)
}

train Gpt {
    input token: i32[B, 12]
    input target: i32[B, 12]
    loss      = cross_entropy(logits, target)
    optimizer = adam(1e-3)
    batch     = 4
}
"""


@pytest.fixture(scope="module")
def job():
    return trained(epochs="8")


@pytest.fixture(scope="module")
def model(job):
    found = nnc.loads(DIGITS)
    found.init()
    found.load_weights(job.executor.weights())
    return found


@pytest.fixture(scope="module")
def format(job):
    return int8_format(job.executor, job.executor.weights(), spread({"train": job.training}, 64))


def test_what_it_reaches_is_what_f32_reaches(job, format):
    executor, held = job.executor, job.parts["test"]
    exact = measure(executor, held, 1)
    executor.predict_in(format)
    rounded = measure(executor, held, 1)
    executor.predict_in(None)
    assert exact["accuracy"] > 0.85
    assert 0 < abs(rounded["loss"] - exact["loss"]) < 0.01
    assert abs(rounded["accuracy"] - exact["accuracy"]) < 0.006


def test_an_evaluation_predicts_as_a_prediction(job, format):
    """Its results are the same bits, and it needs no other weights."""
    setup = with_batch(job.executor.setup, 5)
    weights = format.values(job.executor.weights())
    rng = np.random.default_rng(0)
    given = {
        "image": rng.random((5, 8, 8, 1), np.float32),
        "label": np.zeros(5, np.int32),
        "step": np.int32(1),
        **weights,
    }
    found = [format.system(system(setup)) for system in (prediction, evaluation)]
    arrays = [evaluate(s, {n: v for n, v in given.items() if n in s.tensors}) for s in found]
    assert np.array_equal(arrays[0]["logits"], arrays[1]["logits"])
    assert [t.name for t in found[0].of_kind("param")] == [
        t.name for t in found[1].of_kind("param")
    ]


@here
def test_a_library_gives_the_bits_of_the_evaluator_on_every_processor(job, model, format, tmp_path):
    image = np.random.default_rng(1).random((7, 8, 8, 1), np.float32)
    system = format.system(prediction(with_batch(job.executor.setup, 7)))
    values = {"image": image, **format.values(job.executor.weights())}
    logits = evaluate(system, {n: v for n, v in values.items() if n in system.tensors})["logits"]
    arrays = job.training.split.arrays["image"][spread({"train": job.training}, 64).rows]
    scale = job.training.split.scale.get("image", 1.0)
    images = (arrays * np.float32(scale)).astype(np.float32)
    sizes = []
    for target in ("host", "x86-64-v2", "x86-64-v3"):
        folder = model.export(tmp_path / target, weights="int8", target=target, calibrate=images)
        library = Library(folder)
        assert [*library.functions] == ["small_predict", "small_evaluate"]
        library.array("predict", "image")[:7] = image
        code = library.call("predict", library.weights, 7)
        if code == CODES["NO_INSTRUCTIONS"]:
            assert target == "x86-64-v3"
            continue
        assert code == 0
        assert np.array_equal(library.array("predict", "logits")[:7], logits), target
        sizes.append((folder / "weights.bin").read_bytes())
    assert len({*sizes}) == 1
    plain = model.export(tmp_path / "plain", functions=("predict",))
    assert (
        len(sizes[0]) < 0.36 * (plain / "weights.bin").stat().st_size
    )  # small tensors are aligned
    # a number that is none has no whole number
    library.array("predict", "image")[3, 0, 0, 0] = np.nan
    assert library.call("predict", library.weights, 7) == CODES["NO_RESULT"]


@pytest.mark.slow
def test_on_the_command_line(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert cli.run(["train", str(write(tmp_path)), "--out", "run", "--steps", "9"]) == 0
    rng = np.random.default_rng(2)
    np.save("x.npy", rng.random((30, 8, 8, 1), np.float32))
    np.save("zeros.npy", np.zeros((3, 8, 8, 1), np.float32))
    broken = rng.random((3, 8, 8, 1), np.float32)
    broken[1, 2, 3, 0] = np.nan
    np.save("nan.npy", broken)
    losses = []
    int8 = ["--weights", "int8"]
    for more in ([], int8, [*int8, "--calibrate", "10"], [*int8, "--calibrate", "x.npy"]):
        capfd.readouterr()
        assert cli.run(["eval", "run", "--json", *more]) == 0
        losses.append(json.loads(capfd.readouterr().out)["test_loss"])
    assert len({*losses}) == 4 and max(losses) - min(losses) < 0.02
    command = ["predict", "run", "--input", "x.npy", "--output"]
    assert cli.run([*command, "f32.npy"]) == cli.run([*command, "int8.npy", *int8]) == 0
    assert 0 < np.abs(np.load("f32.npy") - np.load("int8.npy")).max() < 0.1

    capfd.readouterr()
    assert cli.run(["compile", "run", *int8, "--emit", "equations"]) == 0
    assert "i32(relu_u8[b, i]) * i32(dense2_w_int8[i, o])" in capfd.readouterr().out
    assert cli.run(["export", "run", "--to", "library", *int8, "--functions", "predict"]) == 0
    (row,) = [r for r in capfd.readouterr().out.splitlines() if r.startswith("test_loss")]
    assert row.split()[1:] == [f"{losses[0]:.4f}", f"{losses[1]:.4f}"]

    def refused(*arguments: str) -> list[dict]:
        capfd.readouterr()
        assert cli.run(["--error-format", "json", *arguments]) in (1, 2)
        return [json.loads(line) for line in capfd.readouterr().err.splitlines()]

    found = refused("eval", "run", *int8, "--calibrate", "zeros.npy")
    assert [d["code"] for d in found] == ["E0725"] and "is 0 for the 3 examples" in found[0][
        "message"
    ]
    found = refused("export", "run", "--to", "c", *int8, "--calibrate", "nan.npy")
    assert {d["code"] for d in found} == {"E0725"} and len(found) == 2
    assert "`flatten1_merge2_y` is not finite" in found[0]["message"]
    (said,) = refused("eval", "run", *int8, "--calibrate", "none.npy")
    assert said["code"] == "E0601"
    (said,) = refused("predict", "run", "--input", "x.npy", "--calibrate", "3")
    assert "--weights int8" in said["message"]
    (said,) = refused("eval", "run", *int8, "--calibrate", "0")
    assert "1 example at least" in said["message"]
    (said,) = refused("export", "run", "--to", "c", *int8, "--functions", "train_step")
    assert said["code"] == "E0725" and "train_step" in said["message"]
    np.save("wrong.npy", np.zeros((3, 8, 9, 1), np.float32))
    (said,) = refused("eval", "run", *int8, "--calibrate", "wrong.npy")
    assert said["code"] == "E0708" and "wrong.npy" in said["message"]
    (said,) = refused("predict", "run", "--input", "nan.npy", *int8)
    assert said["code"] == "E0730"


def test_without_data_or_anything_to_quantise(tmp_path, capfd):
    text = """
model M(x: f32[B, 3]) -> y: f32[B, 2] { y = x |> Dense(2) }
train M {
    input target: f32[B, 2]
    loss      = mse(y, target)
    optimizer = sgd(0.1)
    batch     = 4
}
"""
    model = nnc.loads(text)
    model.init()
    with pytest.raises(nnc.UserError, match=r"E0725.*has no data"):
        model.export(tmp_path / "c", weights="int8")
    rng = np.random.default_rng(3)
    x = rng.random((9, 3), np.float32)
    folder = model.export(tmp_path / "c", weights="int8", calibrate={"x": x})
    assert (folder / "weights.bin").exists()
    with pytest.raises(nnc.UserError, match="E0708"):
        model.export(tmp_path / "d", weights="int8", calibrate={"z": x})
    with pytest.raises(ValueError, match="1 example at least"):
        model.export(tmp_path / "d", weights="int8", calibrate=0)
    with pytest.raises(ValueError, match="int8"):
        model.export(tmp_path / "d", calibrate=3)
    plain = nnc.loads("model M(x: f32[B, 3]) -> y: f32[B, 3] { y = softmax(x) }\n")
    plain.init()
    with pytest.raises(nnc.UserError, match=r"E0725.*nothing of `M`"):
        plain.export(tmp_path / "d", weights="int8", calibrate=x)


@here
@pytest.mark.slow
def test_texts_are_written_in_8_bits(tmp_path):
    """Token by token, the logits are those of the whole text to the bit."""
    model = nnc.loads(GPT)
    model.init()
    tokens = np.random.default_rng(0).integers(0, 9, (20, 12)).astype(np.int32)
    library = Library(model.export(tmp_path / "c", weights="int8", calibrate={"token": tokens}))
    types = {name: weight["type"] for name, weight in library.about["weights"].items()}
    assert types["embedding1_table_int8"] == types["dense1_w_int8"] == "i8"
    library.array("predict", "token")[0] = tokens[0]
    assert library.call("predict", library.weights, 1) == 0
    whole = library.array("predict", "logits")[0].copy()
    assert 0 < np.abs(whole - model.predict(tokens[:1])[0]).max() < 0.1
    arena = library.arenas["gpt_generate_next"]
    given = (arena.ctypes.data, arena.size, library.weights.ctypes.data, library.weights.size)
    assert library.raw("generate_first", *given) == 0
    for token, logits in zip(tokens[0], whole, strict=True):
        library.array("generate_next", "token")[...] = token
        assert library.raw("generate_next", *given) == 0
        assert np.array_equal(library.array("generate_next", "logits").reshape(-1), logits)


def test_broken_weights_are_named(job, format):
    weights = job.executor.weights()
    weights["dense1_w"][1, 2] = np.nan
    with pytest.raises(UserError, match=r"E0725: `dense1_w\[1, 2\]` is nan"):
        format.values(weights)


def test_examples_are_spread_over_the_validation_data(job):
    parts = {"train": job.training, "validation": Examples(job.training.split, np.arange(100, 200))}
    assert spread(parts, 3).rows.tolist() == [100, 149, 199]
    assert len(spread(parts, None)) == 100 and len(spread({"train": job.training}, None)) == 256
    assert len(spread({"train": job.training}, 1)) == 1
