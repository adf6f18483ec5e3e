"""`nnc debug`: a step that failed, taken again, from the origin of a value to what it reaches."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_programs import DIGITS, write

from nnc.runtime import cli
from nnc.runtime.inspect.debugging import replay
from nnc.runtime.training.atomic_files import load_arrays, save_arrays
from nnc.runtime.training.run_folder import RunFolder
from nnc.runtime.training.snapshot import SNAPSHOT_NAME

EDGE = (
    DIGITS.replace("|> relu |>", "|> bent |>").replace("adam(lr = 1e-2)", "sgd(lr = 5)")
    + """
fn bent(x) = log(x + 3)
"""
)


@pytest.fixture
def nnc(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object):
        code = cli.run([str(a) for a in arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


@pytest.fixture
def stopped(nnc, tmp_path):
    """A run that stopped, and the message that it stopped with."""
    write(tmp_path, EDGE)
    code, _, err = nnc("train", "small.nn", "--out", "run", "--threads", 1)
    assert code == 1 and "E0701" in err and "nnc debug run" in err
    return err


def test_the_way_of_the_bad_value(nnc, stopped):
    code, out, err = nnc("debug", "run")
    assert code == 0 and not err
    story = replay(RunFolder(Path("run")))
    origin, *rest = story.chain
    assert str(origin) in out and f"`{origin}`" in stopped  # the same as the message
    assert origin.how.startswith("log(") and origin.how in out
    assert [str(bad) for bad in rest][-1] == "loss"
    (given,) = story.operands
    assert given.value <= -3 and f"{given.value:.9g}" in out
    assert str(origin.equation.body).startswith("log(dense1_y[")
    assert f"step {story.snapshot.step} of epoch" in out


def test_what_it_reaches_and_hits(stopped):
    story = replay(RunFolder(Path("run")))
    targets = [tensor.tensor for tensor in story.reached]
    assert targets[0] == story.chain[0].tensor and "loss" in targets and "d_dense1_w" in targets
    assert all(0 < t.count <= t.size and not np.isfinite(t.value) for t in story.reached)
    assert {hit.name for hit in story.hit} == {"dense1_w", "dense1_b", "dense2_w", "dense2_b"}
    assert not story.safe and not np.isfinite(story.losses["loss"])


def test_a_bad_number_among_the_given(nnc, stopped):
    """A NaN in the data: nothing computed it, and that is said."""
    change_snapshot(
        {
            "input.image": lambda a: np.where(
                np.arange(a.size).reshape(a.shape) == 70, np.nan, np.abs(a)
            ).astype(a.dtype),
            "value.dense1_w": lambda a: a * 0,
        }
    )
    code, out, _ = nnc("debug", "run")
    assert code == 0 and "image[1, 0, 6, 0] is nan: an input of the step" in out
    assert "before the step" in out


def test_numbers_that_stay_finite(nnc, stopped):
    """A snapshot whose step is finite by the evaluator: the largest numbers are shown."""
    change_snapshot({"value.dense1_w": lambda a: a * 0})
    code, out, _ = nnc("debug", "run")
    assert code == 0 and "stay finite" in out and out.count(" = ") == 5


def change_snapshot(changes) -> None:
    path = Path("run") / SNAPSHOT_NAME
    arrays, notes = load_arrays(path)
    for name, change in changes.items():
        arrays[name] = change(arrays[name])
    save_arrays(path, arrays, notes)


def test_wrong_uses(nnc, stopped, tmp_path):
    assert nnc("debug")[0] == 2
    code, _, err = nnc("debug", "nowhere")
    assert code == 1 and "E0706" in err
    Path("empty").mkdir()
    code, _, err = nnc("debug", "empty")
    assert code == 1 and "E0706" in err and "has no snapshot.safetensors" in err
    code, _, err = nnc("debug", "small.nn")
    assert code == 1 and "E0706" in err
    shutil.copytree("run", "cut")
    cut = Path("cut") / SNAPSHOT_NAME
    cut.write_bytes(cut.read_bytes()[:-10])
    code, _, err = nnc("debug", "cut")
    assert code == 1 and "E0706" in err


def test_a_snapshot_of_another_program(nnc, stopped):
    path = Path("run") / "model.nn"
    path.write_text(path.read_text().replace("Dense(12)", "Dense(13)"))
    (Path("run") / "backup.json").unlink()
    code, _, err = nnc("debug", "run")
    assert code == 1 and "E0706" in err and "has shape [64, 12], and in the program [64, 13]" in err
    arrays, notes = load_arrays(Path("run") / SNAPSHOT_NAME)
    del arrays["value.dense1_b"]
    assert json.loads(notes["snapshot"])
    save_arrays(Path("run") / SNAPSHOT_NAME, arrays, notes)
    code, _, err = nnc("debug", "run")
    assert code == 1 and "E0706" in err and "dense1_b" in err
