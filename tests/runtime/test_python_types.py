"""The interface is typed: a user's program passes `mypy --strict`, and wrong ones do not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import nnc

PROGRAM = """
from pathlib import Path

import numpy as np

import nnc
from nnc.sklearn import Classifier


class Watch(nnc.Callback):
    def on_step(self, training: nnc.Training) -> None:
        loss: float = training.loss
        print(training.epoch, training.step, loss)


def enough(training: nnc.Training) -> bool:
    return training.values["loss"] < 0.1


def main(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    model: nnc.Model = nnc.load(path, threads=1, settings={"batch": 4})
    x = np.ones((8, 3), np.float32)
    history = model.fit(
        x, {"z": [[0.0, 1.0]] * 8}, epochs=3, validation=(x, x[:, :2]), callbacks=[Watch(), enough]
    )
    best: float = min(record["loss"] for record in history)
    model.parameters["dense1.w"] = np.zeros((3, 2))
    w: np.ndarray = model.parameters["dense1_w"]
    saved: Path = model.save("folder")
    text: str = model.compile(emit="gradients") + model.summary()
    try:
        nnc.loads("model")
    except nnc.UserError as error:
        print(error.diagnostics[0].code)
    labels: np.ndarray = Classifier(path, epochs=3).fit(x, [0] * 8).predict(x)
    print(labels, best, w, saved, text, model.evaluate(x=x, z=x[:, :2])["loss"])
    model.fit(x, x, callbacks=nnc.TensorBoard("board"), class_weight="balanced")
    return model.predict(x, tensor=["y"])
"""
WRONG = """
import nnc

model = nnc.load("a.nn", batch_size=3)
model = nnc.load(3)
model.fit([1.0], epochs="3")
model.fit([1.0], callbacks=3)
model.compile(3)
model.fitt()
count: int = model.summary()
"""


@pytest.mark.slow
def test_a_program_is_strictly_typed_and_mistakes_are_found(tmp_path):
    pytest.importorskip("mypy", reason="types are checked by mypy")
    (tmp_path / "right.py").write_text(PROGRAM)
    (tmp_path / "wrong.py").write_text(WRONG)
    # The package as its user has it, from wherever this process has it.
    (tmp_path / "nnc").symlink_to(Path(nnc.__file__).parent)
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nstrict = True\n[mypy-nnc.*]\nfollow_imports=silent\n"
    )
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "right.py", "wrong.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    said = [line for line in found.stdout.splitlines() if "error:" in line]
    assert not [line for line in said if not line.startswith("wrong.py")], found.stdout
    lines = {int(re.match(r"wrong\.py:(\d+)", line)[1]) for line in said}
    assert lines == set(range(4, 11)), found.stdout
