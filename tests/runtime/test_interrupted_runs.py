"""`eval`, `predict`, `generate` and `nnc.load` on a run that was interrupted: they use its last
checkpoint and say so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import nnc as package
from nnc.runtime import cli
from nnc.runtime.training.atomic_files import load_arrays

PROGRAM = """
model Gpt(token: i32[B, T]) -> logits: f32[B, T, 256] {
    logits = token |> Embedding(256, 8) |> Dense(256)
}
train Gpt {
    data      = text("t.txt", vocabulary = "bytes", length = 8, stride = 1)
    loss      = cross_entropy(logits, target)
    optimizer = adam(lr = 1e-2)
    batch     = 8
    steps     = STEPS
    checkpoint_every = 5
    KEEP
}
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 20)
    return tmp_path


@pytest.fixture
def nnc(capsys):
    def call(*arguments: object):
        code = cli.run([str(a) for a in arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def interrupted(nnc) -> None:
    """The folder `run` of 12 steps that were killed in the first epoch, after the checkpoint
    of step 10."""
    Path("m.nn").write_text(PROGRAM.replace("STEPS", "12").replace("KEEP", ""))
    assert nnc("train", "m.nn", "--out", "run")[0] == 0
    last = max(Path("run/checkpoints").iterdir())
    assert last.name == "step-00000012.safetensors"
    last.unlink()
    Path("run/metrics.jsonl").unlink()
    Path("run/weights.safetensors").unlink()
    assert max(Path("run/checkpoints").iterdir()).name == "step-00000010.safetensors"


def test_all_who_use_a_run_take_its_last_checkpoint_and_say_so(nnc):
    interrupted(nnc)
    said = "run was interrupted: these are the weights of its last checkpoint, after step 10"
    code, out, err = nnc("eval", "run")
    assert code == 0 and said in err and "validation_loss" in json.loads(out)
    code, out, err = nnc("generate", "run", "--prompt", "the ", "--length", 5)
    assert code == 0 and said in err and out.startswith("the ")
    np.save("x.npy", np.zeros((2, 8), np.int32))
    code, _, err = nnc("predict", "run", "--input", "x.npy", "--output", "y.npy")
    assert code == 0 and said in err
    with pytest.warns(UserWarning, match="interrupted"):
        model = package.load("run")
    found = model.predict(np.zeros((2, 8), np.int32))
    np.testing.assert_array_equal(found, np.load("y.npy"))
    stored, _ = load_arrays(Path("run/checkpoints/step-00000010.safetensors"))
    for name, value in model.parameters.items():
        np.testing.assert_array_equal(value, stored[name])
    # The run goes on from there, and is then like any other.
    assert nnc("train", "--resume", "run")[0] == 0
    assert "interrupted" not in nnc("eval", "run")[2]


def test_the_last_weights_may_be_in_a_checkpoint(nnc):
    Path("m.nn").write_text(PROGRAM.replace("STEPS", "12").replace("KEEP", 'keep = "last"'))
    assert nnc("train", "m.nn", "--out", "run")[0] == 0
    old = Path("run/weights.safetensors").read_bytes()
    assert "interrupted" not in nnc("eval", "run")[2]
    # Killed after the checkpoint of step 15, on the way to step 20.
    assert nnc("train", "--resume", "run", "--steps", 20)[0] == 0
    max(Path("run/checkpoints").iterdir()).unlink()
    Path("run/weights.safetensors").write_bytes(old)
    code, _, err = nnc("eval", "run")
    assert code == 0 and "its last checkpoint, after step 15" in err


def test_a_run_without_a_checkpoint_has_no_weights(nnc):
    interrupted(nnc)
    for path in Path("run/checkpoints").iterdir():
        path.unlink()
    code, _, err = nnc("eval", "run")
    assert code == 1 and "error[E0706]: run has no weights" in err and "--resume run" in err


def test_lost_weights_are_not_replaced_by_others(nnc):
    """Those of the best epoch, where there was one: the last would give other results."""
    Path("m.nn").write_text(PROGRAM.replace("STEPS", "12").replace("KEEP", ""))
    assert nnc("train", "m.nn", "--out", "run")[0] == 0
    Path("run/weights.safetensors").unlink()
    code, _, err = nnc("eval", "run")
    assert code == 1 and "error[E0706]" in err and "weights.safetensors" in err
