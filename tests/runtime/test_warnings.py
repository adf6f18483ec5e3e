"""What is odd but not wrong: a warning of `train`, `check` and `compile` that stops none."""

from __future__ import annotations

import numpy as np
import pytest
from small_programs import DIGITS, write

from nnc.runtime import cli
from nnc.runtime.data import Dataset, Field, Schema, Split
from nnc.runtime.device import DEVICES
from nnc.runtime.project import project_of_text
from nnc.runtime.training.job import prepare

STOPPED = DIGITS.replace("|> relu |>", "|> relu |> stop |>")
NONE = DIGITS.replace("cross_entropy(logits, label)", "cross_entropy(stop(logits), label)")
UNREAD = DIGITS.replace(
    "logits = image", "param unread: [3] = 0\n    spare = 2 * image\n    logits = image"
)


@pytest.mark.parametrize(
    ("text", "codes", "told"),
    [
        (DIGITS, [], ""),
        (STOPPED, ["W0301"], "no gradient reaches `dense1_w`"),
        (NONE, ["W0302"], "the loss depends on no parameter"),
        (UNREAD, ["W0201", "W0204"], "`unread`"),
    ],
)
@pytest.mark.parametrize("command", ["check", "compile", "train"])
def test_commands_show_warnings(tmp_path, monkeypatch, capsys, text, codes, told, command):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, text)
    more = {"compile": ["--emit", "gradients"], "train": ["--epochs", "1"], "check": []}[command]
    assert cli.run([command, "small.nn", *more]) == 0
    err = capsys.readouterr().err
    assert sorted({w[:5] for w in err.split("warning[")[1:]}) == codes
    assert told in err


def test_a_label_that_looks_one_hot():
    text = """
model M(x: f32[B, 3]) -> logits: f32[B, 3] { logits = x |> Dense(3) }
fn chosen(logits: [b, n], label: i32[b, k]) -> y: [] {
    z = log_softmax(logits)
    picked[b, k] = z[b, label[b, k]]
    y = -mean(picked)
}
train M {
    loss = chosen(logits, label)
    optimizer = sgd()
    batch = 4
}
"""
    x = np.ones((12, 3), np.float32)
    schema = Schema((Field("x", "f32", (3,)), Field("label", "i32", (3,))), None)
    one_hot = np.eye(3, dtype=np.int32)[np.arange(12) % 3]
    for label, codes in ((one_hot, ["W0303"]), (one_hot * 2, []), (one_hot + one_hot[::-1], [])):
        dataset = Dataset("rows", schema, Split({"x": x, "label": label}))
        job = prepare(project_of_text(text), dataset, DEVICES["reference"](1))
        assert [d.code for d in job.warnings] == codes
