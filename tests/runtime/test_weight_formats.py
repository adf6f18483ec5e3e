"""Weights in other formats: the same everywhere that predicts, and what does not fit is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from exported import Library
from small_programs import DIGITS, prepared, trained, write

import nnc
from nnc.compiler.ir.functions import halves, of_halves
from nnc.compiler.programs import evaluation, prediction
from nnc.compiler.reference.evaluator import evaluate
from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime import cli
from nnc.runtime.device.cpu import elf_linker
from nnc.runtime.export.machine_choice import machine_of
from nnc.runtime.project import with_batch
from nnc.runtime.training.weight_formats import HalfFormat

here = pytest.mark.skipif(not elf_linker.supported(), reason="for x86-64 Linux")
HALVES = ("f16", "bf16")


@pytest.fixture(scope="module")
def job():
    return trained(steps="20")


@pytest.fixture(scope="module")
def model(job):
    found = nnc.loads(DIGITS)
    found.init()
    found.load_weights(job.executor.weights())
    return found


def rounded(array: np.ndarray, format: str) -> np.ndarray:
    """By NumPy's own rounding for f16, by the bits of f32 for bf16."""
    if format == "f16":
        return array.astype(np.float16).astype(np.float32)
    return of_halves(halves(array, "bf16"), "bf16")


def predicted(job, image: np.ndarray) -> np.ndarray:
    with job.executor.prediction(len(image)) as program:
        dict(program.fields)["image"][...] = image
        program.compute(np.arange(len(image)), 1)
        return program.results["logits"].copy()


@here
@pytest.mark.parametrize("format", HALVES)
def test_everywhere_the_same_bits(job, model, tmp_path, format):
    """A library, predictions in process, and f32 weights that are rounded beforehand."""
    image = np.random.default_rng(0).random((7, 8, 8, 1), np.float32)
    library = Library(model.export(tmp_path / "c", weights=format))
    assert [*library.functions] == ["small_predict", "small_evaluate"]
    about = library.about["weights"]
    assert {w["type"] for w in about.values()} == {format}
    weights = job.executor.weights()
    place, kernel = about["dense1_w"]["offset"], weights["dense1_w"]
    data = np.fromfile(tmp_path / "c" / "weights.bin", np.uint8)[place : place + 2 * kernel.size]
    assert np.array_equal(data.view(np.uint16).reshape(kernel.shape), halves(kernel, format))
    library.array("predict", "image")[:7] = image
    assert library.call("predict", library.weights, 7) == 0
    found = library.array("predict", "logits")[:7].copy()
    job.executor.predict_in(HalfFormat(format))
    assert np.array_equal(predicted(job, image), found)
    job.executor.predict_in(None)
    # the evaluator with f32 weights that are rounded already
    plain = prediction(with_batch(job.executor.setup, 7))
    own = {name: rounded(array, format) for name, array in weights.items()}
    expected = evaluate(plain, {"image": image, **own})["logits"]
    assert np.allclose(found, expected, rtol=1e-5, atol=1e-6)
    narrow = evaluate(HalfFormat(format).system(plain), {"image": image, **weights})["logits"]
    assert np.array_equal(narrow, expected)
    assert not np.array_equal(found, predicted(job, image))


@here
def test_in_half_of_the_file(model, tmp_path):
    sizes = {}
    for weights in (None, *HALVES):
        folder = model.export(tmp_path / str(weights), weights=weights, functions=("predict",))
        sizes[weights] = (folder / "weights.bin").stat().st_size
        assert [*json.loads((folder / "manifest.json").read_text())["functions"]] == [
            "small_predict"
        ]
    # but for the head, and what aligns small tensors
    assert sizes["f16"] == sizes["bf16"] < 0.55 * sizes[None]


@here
def test_processors_without_such_numbers(model, tmp_path):
    """x86-64-v2 has no instruction for f16: integer arithmetic widens it, to the same numbers."""
    image = np.random.default_rng(1).random((8, 8, 1), np.float32)
    found = []
    for target in ("host", "x86-64-v2"):
        library = Library(model.export(tmp_path / target, weights="f16", target=target, batch=1))
        library.array("predict", "image")[0] = image
        assert library.call("predict", library.weights, 1) == 0
        found.append(library.array("predict", "logits").copy())
    assert np.abs(found[0] - found[1]).max() < 2e-6
    assert not machine_of("x86-64-v2").target.f16_instructions


def test_on_the_command_line(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert cli.run(["train", str(write(tmp_path)), "--out", "run", "--steps", "9"]) == 0
    np.save("x.npy", np.random.default_rng(2).random((3, 8, 8, 1), np.float32))
    losses, logits = [], []
    for more in ([], ["--weights", "f16"], ["--weights", "bf16"]):
        capfd.readouterr()
        assert cli.run(["eval", "run", "--json", *more]) == 0
        losses.append(json.loads(capfd.readouterr().out)["test_loss"])
        path = f"y{len(losses)}.npy"
        assert cli.run(["predict", "run", "--input", "x.npy", "--output", path, *more]) == 0
        logits.append(np.load(path))
    assert len({*losses}) == 3 and max(losses) - min(losses) < 1e-2
    assert 0 < np.abs(logits[1] - logits[0]).max() < np.abs(logits[2] - logits[0]).max() < 0.1


def test_states_of_the_model_and_kinds_of_numbers():
    """Floats are stored so, whole numbers stay; what an evaluation reads of a loss, too."""
    job = prepared(DIGITS.replace("|> relu", "|> BatchNorm |> relu"))
    system = HalfFormat("bf16").system(evaluation(job.executor.setup))
    kept = [t for t in system.tensors.values() if t.kind in ("param", "state")]
    assert {t.storage for t in kept} == {"bf16"} and any(t.kind == "state" for t in kept)
    assert not any(t.storage for t in system.tensors.values() if t not in kept)


def refused(capfd, *arguments: str | Path) -> list[dict]:
    assert cli.run(["--error-format", "json", "export", *map(str, arguments)]) in (1, 2)
    return [json.loads(line) for line in capfd.readouterr().err.splitlines()]


def test_what_does_not_fit_is_named(tmp_path, capfd):
    """All at once, with the element; the largest number of f16 fits, and so does infinity."""
    weights = prepared().executor.weights()
    weights["dense1_w"][3, 5] = -70000
    weights["dense2_b"][2] = 65520
    weights["dense2_w"][0, 0] = np.inf
    weights["dense1_b"][0] = 65519.9
    with pytest.raises(UserError) as caught:
        HalfFormat("f16").values(weights)
    said = [d.message for d in caught.value.diagnostics]
    assert said == [
        "`dense1_w[3, 5]` is -70000, beyond the numbers of f16",
        "`dense2_b[2]` is 65520, beyond the numbers of f16",
    ]
    HalfFormat("bf16").values(weights)
    large = DIGITS.replace(
        "Dense(10)\n", "Dense(10)\n    param big: [10] = 1e5\n    logits = z + big\n"
    ).replace("    logits = image", "    z = image")
    path = write(tmp_path, large)
    (said,) = refused(capfd, path, "--to", tmp_path / "c", "--weights", "f16")
    assert said["code"] == "E0725" and "`big[0]` is 100000" in said["message"]
    assert "bf16" in said["help"] and not (tmp_path / "c").exists()


def test_training_is_refused(tmp_path, capfd):
    path = write(tmp_path)
    more = ["--weights", "bf16", "--functions", "predict,train_step"]
    (said,) = refused(capfd, path, "--to", tmp_path / "c", *more)
    assert said["code"] == "E0725" and "no `train_step`" in said["message"]
    untrained = write(tmp_path, DIGITS.partition("train")[0], "untrained.nn")
    said = refused(capfd, untrained, "--to", tmp_path / "c", "--functions", "evaluate,train_step")
    assert [s["code"] for s in said] == ["E0724", "E0724"]
    with pytest.raises(ValueError, match="did you mean `f16`"):
        nnc.loads(DIGITS).export(tmp_path / "c", weights="f6")
    with pytest.raises(ValueError, match="did you mean `train_step`"):
        nnc.loads(DIGITS).export(tmp_path / "c", functions=("trainstep",))
