"""Runs that an earlier version trained still evaluate, predict, generate, resume and load.

`old_runs/` holds four run folders of version 0.1.0 as it was at first: `digits` was killed at step
110 of 123; `chars` and `reverse` ended; `diverging` stopped with a snapshot. The expected numbers
are those that version printed; other processors round otherwise, so they are compared loosely.
A change of a file format needs a version number, a migration, and this test as it is."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import nnc
from nnc.runtime import cli
from nnc.runtime.data import SOURCES, Search
from nnc.runtime.data import load as load_data

OLD = Path(__file__).with_name("old_runs")
LOGITS = [  # of the first test digits, which show 1, 4 and 8
    [-3.4292, 1.3147, -2.0767, -2.7397, -1.4498, -1.5629, -1.7940, -2.0601, -0.5178, -2.0325],
    [-0.8887, -1.9818, -3.0833, -4.0987, 1.2754, -3.0148, -0.6220, -1.5469, -1.7492, -1.8222],
    [-2.1970, -1.9062, -1.8030, -1.5656, -2.5662, -2.4717, -3.2642, -1.1190, 0.4491, -2.2803],
]
SIGNATURES = {
    "mnist": "mnist(normalize = true)",
    "digits": "digits(test = 0.2)",
    "csv": 'csv(file, delimiter = ",", header = true, missing = "refuse", normalize = false, '
    "test = 0.2, seed = 0)",
    "npz": "npz(file)",
    "npy": "npy(NAME = …)",
    "images": "images(folder, size, channels = 3, test = 0.2, seed = 0)",
    "text": 'text(file, vocabulary = "chars", length, validation = 0.1, size = 1000)',
    "shakespeare": 'shakespeare(vocabulary = "chars", length = 128, validation = 0.1, size = 1000)',
    "lines": 'lines(file, vocabulary = "words", min_count = 1, lowercase = false, '
    'label = "first", delimiter = "\\t", test = 0.2, seed = 0)',
    "pairs": 'pairs(file, vocabulary = "words", min_count = 1, lowercase = false, '
    'delimiter = "\\t", test = 0.2, seed = 0)',
    "wav": "wav(folder, pattern, label, test = 0.2, rate = 8000, mels = 40, frame = 0.025, "
    "hop = 0.01, normalize = true, seed = 0)",
    "spoken_digits": "spoken_digits(length = 100, mels = 40, frame = 0.025, hop = 0.01, "
    "normalize = true)",
    "digit_strings": "digit_strings(count = 2000, test_count = 300, digits = 4, mels = 40, "
    "frame = 0.025, hop = 0.01, normalize = true, seed = 0)",
    "english_german": "english_german(count = 12000, test = 0.1, seed = 0)",
    "reversal": "reversal(count = 10000, shortest = 4, longest = 10, test = 0.1, seed = 0)",
    "retrieval": "retrieval(count = 10000, facts = 6, test = 0.1, seed = 0)",
    "sine": "sine(count = 5000, length = 64, horizon = 16, noise = 0.1, test = 0.1, seed = 0)",
    "opinions": "opinions(count = 10000, test = 0.2, seed = 0)",
}


@pytest.fixture
def old(tmp_path) -> Path:
    """A copy of the old runs, to be written to."""
    return Path(shutil.copytree(OLD, tmp_path / "old"))


def run(capsys, *arguments: object) -> str:
    """What a command prints; it must succeed."""
    code = cli.run([str(a) for a in arguments])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return printed.out


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def near(found: dict, **wanted: float) -> None:
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=1e-2)


def first_digits() -> np.ndarray:
    split = load_data("digits", {}, Search(None, Path())).test
    assert split is not None
    images = np.zeros((len(LOGITS), 8, 8, 1), np.float32)
    split.take("image", np.arange(len(LOGITS)), images)
    return images


def test_evaluate(old, capsys):
    found = json.loads(run(capsys, "eval", old / "digits"))
    near(found, validation_loss=0.99496, test_loss=0.98100, test_accuracy=0.82730)
    near(json.loads(run(capsys, "eval", old / "chars", "--data", old)), validation_loss=1.04412)
    assert json.loads(run(capsys, "eval", old / "reverse"))["test_right"] == 1


def test_predict_and_load(old, capsys):
    np.save(old / "x.npy", first_digits())
    run(capsys, "predict", old / "digits", "--input", old / "x.npy", "--output", old / "y.npy")
    assert np.load(old / "y.npy") == pytest.approx(np.array(LOGITS), abs=1e-3)
    model = nnc.load(old / "digits")
    assert model.predict(first_digits()) == pytest.approx(np.array(LOGITS), abs=1e-3)
    assert set(model.parameters) == {"conv1_k", "conv1_b", "dense1_w", "dense1_b"}


def test_generate(old, capsys):
    printed = run(
        capsys, "generate", old / "chars", "--prompt", "the cat ", "--temperature", 0, "--length", 9
    )
    assert printed == "the cat tre.\nthe \n"
    assert run(capsys, "generate", old / "reverse", "--prompt", "7421") == "1247\n"


def test_resume(old, capsys):
    """Both ended as the version that began them would have ended them."""
    run(capsys, "train", "--resume", old / "digits")
    *_, last = records(old / "digits")
    assert last["step"] == 123
    near(last, loss=0.74880, validation_loss=0.62691, test_loss=0.58876, test_accuracy=0.85515)
    run(capsys, "train", "--resume", old / "chars", "--steps", 130, "--data", old)
    near(records(old / "chars")[-1], step=130, loss=0.89514, validation_loss=0.97342)


def test_debug(old, capsys):
    printed = run(capsys, "debug", old / "diverging")
    assert "step 1 of epoch 1, 32 examples (numbers 1167, 1306, 852, 652, 12, 742, …" in printed
    assert "loss_mean is nan: log(-0.553803)" in printed


def test_data_sources():
    """A program that named its data then names the same data now: settings may have been added."""
    for name, signature in SIGNATURES.items():
        then, now = settings(signature), settings(SOURCES[name].signature)
        assert [setting for setting in now if setting in then] == then, name


def settings(signature: str) -> list[str]:
    """`csv(file, header = true)` as ["file", "header = true"]."""
    return re.split(r", (?=\w+(?: =|,|$))", signature[signature.index("(") + 1 : -1])
