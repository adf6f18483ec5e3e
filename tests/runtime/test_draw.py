"""`draw = …`: how often examples are drawn, by classes and by a field of weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_programs import write

import nnc
from nnc.runtime import cli
from nnc.runtime.data import Search
from nnc.runtime.device import DEVICES
from nnc.runtime.project import load_dataset, open_project
from nnc.runtime.training.job import prepare

N = 200
PROGRAM = """
model M(x: f32[B, 3]) -> logits: f32[B, 4] { logits = x |> Dense(4) }
train M {
    data      = npz("d.npz")
    loss      = cross_entropy(logits, label)
    optimizer = sgd(lr = 0.1)
    draw      = DRAW
    batch     = 16
    epochs    = 2
    keep      = "last"
}
"""


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    label = np.repeat([0, 1, 3], [120, 60, 20]).astype(np.int32)  # class 2 never occurs
    weight = np.where(label == 3, 0.0, 1.0 + (np.arange(N) < 10)).astype(np.float32)
    np.savez(
        "d.npz",
        x=generator.normal(size=(N, 3)).astype(np.float32),
        label=label,
        weight=weight,
        wrong=np.where(np.arange(N) == 7, -1.0, 1.0).astype(np.float32),
        nothing=np.zeros(N, np.float32),
        pair=np.ones((N, 2), np.float32),
    )
    return tmp_path


def drawn(folder: Path, draw: str, epoch: int = 1) -> np.ndarray:
    """How often each example comes in an epoch."""
    write(folder, PROGRAM.replace("DRAW", draw))
    project = open_project(Path("small.nn"))
    job = prepare(project, load_dataset(project, Search(None, folder)), DEVICES["reference"](1))
    return np.bincount(job.training.order(0, epoch, True), minlength=N)


def test_classes_come_equally_often(here) -> None:
    label = np.load("d.npz")["label"]
    counts = drawn(here, "balanced(label)")
    assert counts.sum() == N
    of_class = [counts[label == k].sum() for k in (0, 1, 3)]
    assert max(of_class) - min(of_class) <= 1
    # Each example as often as its share says, rounded up or down.
    assert set(counts[label == 3]) <= {3, 4} and set(counts[label == 0]) <= {0, 1}
    assert (drawn(here, "balanced(label)", 2) != counts).any()


def test_examples_come_by_their_weights(here) -> None:
    weight = np.load("d.npz")["weight"].astype(float)
    counts = drawn(here, "weight")
    assert counts.sum() == N and not counts[weight == 0].any()
    assert (np.abs(counts - weight * N / weight.sum()) < 1).all()


def test_python_and_the_command_line_draw_alike(here) -> None:
    write(here, PROGRAM.replace("DRAW", "balanced(label)"))
    assert cli.run(["train", "small.nn", "--out", "run"]) == 0
    assert (
        json.loads(Path("run/settings.json").read_text())["settings"]["draw"] == "balanced(label)"
    )
    write(here, PROGRAM.replace("    draw      = DRAW\n", ""))
    arguments = ["train", "small.nn", "--set", "draw=balanced(label)", "--out", "set"]
    assert cli.run(arguments) == 0
    data = np.load("d.npz")
    own, plain = nnc.load("small.nn"), nnc.load("small.nn")
    own.fit(x=data["x"], label=data["label"], class_weight="balanced", verbose=False)
    plain.fit(x=data["x"], label=data["label"], verbose=False)
    run = nnc.load("run")
    for name, array in run.parameters.items():
        np.testing.assert_array_equal(array, own.parameters[name])
        np.testing.assert_array_equal(array, nnc.load("set").parameters[name])
        assert (array != plain.parameters[name]).any()


def test_a_run_goes_on_with_its_draws(here) -> None:
    write(here, PROGRAM.replace("DRAW", "weight"))
    assert cli.run(["train", "small.nn", "--out", "whole"]) == 0
    assert cli.run(["train", "small.nn", "--epochs", "1", "--out", "part"]) == 0
    assert cli.run(["train", "--resume", "part", "--epochs", "2"]) == 0
    whole, part = nnc.load("whole").parameters, nnc.load("part").parameters
    for name, array in whole.items():
        np.testing.assert_array_equal(array, part[name])


@pytest.mark.parametrize(
    ("draw", "told"),
    [
        ("balanced(lable)", "did you mean `label`?"),
        ("wieght", "did you mean `weight`?"),
        ("elsewhere", "they have `x`"),
        ("balanced(weight)", "classes are whole numbers, and `weight` is f32"),
        ("pair", "more than one number for each example"),
        ("x", "more than one number for each example"),
        ("0.5", "a field of the data, or `balanced` of one"),
        ("balanced", "the data have no `balanced`"),
        ("balance(label)", "a field of the data, or `balanced` of one"),
        ("balanced(label, 2)", "a field of the data, or `balanced` of one"),
        ('"label"', "a field of the data, or `balanced` of one"),
    ],
)
def test_mistakes_are_found_by_check(here, capfd, draw: str, told: str) -> None:
    write(here, PROGRAM.replace("DRAW", draw))
    assert cli.run(["check", "small.nn"]) == 1
    found = capfd.readouterr().err
    assert "E0703" in found and told in found and draw in found


@pytest.mark.parametrize(
    ("draw", "told"),
    [("wrong", "that of example 7 is -1.0"), ("nothing", "all of `nothing` are 0")],
)
def test_wrong_weights_are_found_in_training(here, capfd, draw: str, told: str) -> None:
    write(here, PROGRAM.replace("DRAW", draw))
    assert cli.run(["train", "small.nn", "--out", "run"]) == 1
    found = capfd.readouterr().err
    assert "E0703" in found and told in found and not Path("run").exists()


def test_private_training_draws_all_alike(here, capfd) -> None:
    text = PROGRAM.replace(
        "DRAW", "weight\n    private = dp(clip = 1.0, noise = 1.1, delta = 1e-5)"
    )
    write(here, text)
    assert cli.run(["check", "small.nn"]) == 1
    found = capfd.readouterr().err
    assert "E0703" in found and "private training draws all examples alike" in found


@pytest.mark.parametrize("word", ["class_weight", "balance", "sampler", "sample_weight"])
def test_what_others_call_it(here, capfd, word: str) -> None:
    write(here, PROGRAM.replace("draw      = DRAW", f"{word} = 1"))
    assert cli.run(["check", "small.nn"]) == 1
    found = capfd.readouterr().err
    assert "E0401" in found and "draw" in found.replace("is drawn", "")
