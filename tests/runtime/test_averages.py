"""Averages of weights: training goes on with the parameter, all else has its average, under the
parameter's name; saved, resumed and loaded as other weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import nnc
from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime import cli

RNG = np.random.default_rng(0)
DATA = {"x": RNG.normal(size=(32, 3)), "target": RNG.normal(size=(32, 2))}
PROGRAM = """model M(x: f32[B, 3]) -> y: f32[B, 2] {
    y = x |> Dense(4) |> tanh |> Dense(4) |> Dense(4) |> BatchNorm |> Dense(2)
}
train M {
    data = npz("data.npz")
    loss = mse(y, target)
    LINES
    epochs = 4
    batch = 8
    keep = "last"
    float = "f64"
}
"""
SGD = "optimizer = sgd(0.1)"
DEVICE = "reference"


@pytest.fixture
def program(tmp_path):
    np.savez(tmp_path / "data.npz", **DATA)

    def write(lines: str) -> Path:
        file = tmp_path / "m.nn"
        file.write_text(PROGRAM.replace("LINES", lines))
        return file

    return write


def weights(file: Path, steps: int) -> dict[str, np.ndarray]:
    """After so many steps on all data, those of BatchNorm's states left out."""
    model = nnc.load(file, device=DEVICE, threads=1)
    model.fit(**DATA, epochs=steps, batch=32)
    return {n: p for n, p in model.parameters.items() if "running" not in n}


@pytest.mark.parametrize(
    "lines, follow",
    [
        ("ema(0.8)", lambda a, p, t: 0.8 * a + 0.2 * p),
        ("ema_warmup(0.8)", lambda a, p, t: a + (1 - min(0.8, (1 + t) / (10 + t))) * (p - a)),
        ("mean_of_steps(3)", lambda a, p, t: p if t <= 3 else a + (p - a) / (t - 2)),
    ],
)
def test_weights_are_averages_of_those_of_training(program, lines, follow):
    """Step by step beside the same training without averages, which they do not change."""
    expected = weights(program("optimizer = sgd(0)"), 1)
    for t in range(1, 6):
        trained = weights(program(SGD), t)
        expected = {n: follow(expected[n], p, t) for n, p in trained.items()}
    found = weights(program(f"{SGD}\n    average = {lines}"), 5)
    assert found.keys() == expected.keys() and not np.allclose(
        found["dense1_w"], trained["dense1_w"]
    )
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "lines", [f"{SGD}\n    average = ema(0.7)", "optimizer = schedule_free_adamw(0.02)"]
)
def test_runs_have_the_averages(program, lines, tmp_path, capsys):
    """In the line of an epoch, evaluated again, loaded, predicted, after a resumed run and from a
    checkpoint where the weights are damaged."""
    file, run = program(f"{lines}\n    validation = 0.25"), tmp_path / "run"
    command = ["train", str(file), "--device", DEVICE, "--out"]
    assert cli.run([*command, str(run)]) == 0
    whole = (run / "weights.safetensors").read_bytes()
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    loaded = nnc.load(run, device=DEVICE)
    assert not any("average" in name for name in loaded.parameters)
    capsys.readouterr()
    assert cli.run(["eval", str(run), "--device", DEVICE]) == 0
    assert json.loads(capsys.readouterr().out)["validation_loss"] == last["validation_loss"]
    assert loaded.predict(x=DATA["x"]).shape == (32, 2)

    half = tmp_path / "half"
    assert cli.run([*command, str(half), "--set", "epochs=2"]) == 0
    assert cli.run(["train", "--resume", str(half), "--device", DEVICE, "--set", "epochs=4"]) == 0
    assert (half / "weights.safetensors").read_bytes() == whole

    (run / "weights.safetensors").write_bytes(whole[:-40])
    assert cli.run(["train", "--resume", str(run), "--device", DEVICE]) == 0
    assert (run / "weights.safetensors").read_bytes() == whole


def test_fitting_again_begins_with_the_averages(program):
    model = nnc.load(program(f"{SGD}\n    average = mean_of_steps()"), device=DEVICE)
    model.fit(**DATA)
    before = model.parameters
    model.fit(**DATA, epochs=1, batch=32)
    reference = nnc.load(program("optimizer = sgd(0)"), device=DEVICE)
    reference.fit(**DATA, epochs=1)
    moved = np.abs(model.parameters["dense1_w"] - before["dense1_w"]).max()
    assert 0 < moved < np.abs(before["dense1_w"] - reference.parameters["dense1_w"]).max()


def test_the_initial_weights_are_evaluated_before_training(program):
    plain, averaged = (
        nnc.load(program(lines), device=DEVICE).evaluate(**DATA)
        for lines in (SGD, "optimizer = schedule_free(0.1)")
    )
    assert plain == averaged


def test_frozen_parameters_have_no_average(program):
    file = program(f"{SGD}\n    freeze dense1.*\n    average = ema(0.5)")
    first = weights(program("optimizer = sgd(0)"), 1)
    assert np.array_equal(weights(file, 2)["dense1_w"], first["dense1_w"])


WRONG = [
    (f"{SGD}\n    average = 0.99", "E0203", "`average` takes a function"),
    (f"{SGD}\n    average = emma(0.9)", "E0203", "unknown layer or function `emma`"),
    (f"{SGD}\n    average = ema(1.5)", "E0320", "a decay must be at least 0"),
    ("optimizer = schedule_free()\n    average = ema()", "E0206", "averages the weights already"),
    (f"{SGD}\n    average = sum", "E0204", "`sum` does not take 3"),
    (f'{SGD}\n    average = "ema"', "", ""),
]


@pytest.mark.parametrize("lines, code, message", WRONG)
def test_wrong_averages(program, lines, code, message):
    with pytest.raises(UserError) as caught:
        nnc.load(program(lines), device=DEVICE).fit(**DATA)
    first = caught.value.diagnostics[0]
    assert code in first.code and message in first.message, first
