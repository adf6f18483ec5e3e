"""A run survives the loss of any one file: it goes on, says so, and ends with the same bits."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from support import mostly_slow

from nnc.runtime import cli
from nnc.runtime.training.atomic_files import load_arrays

# The weight grows by 1 in every step, and what is monitored goes up and down: the best of five
# epochs are the second and the last.
PROGRAM = """
optimizer plus(lr = 1) { p' = p + lr + 0*g }
model Q(x: f32[B]) -> o: f32[B] {
    param w: [] = 0
    o[b] = x[b] * w
}
train Q {
    data      = npz("q.npz")
    loss      = mean(o)^2
    metric      q = mean(o) * sin(1.7 * mean(o))
    optimizer = plus()
    monitor   = q
    batch     = 8
    epochs    = EPOCHS
    keep_checkpoints = KEEP
}
"""
LONG, SHORT = 7, 5


def resume_or_train(*arguments: object) -> int:
    return cli.run(["train", *map(str, arguments)])


def outcome(run: Path) -> dict[str, object]:
    """What a run ends with; times of day left out."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = max((run / "checkpoints").glob("*.safetensors"))
    values = load_arrays(last)[0]
    return {
        "weights": (run / "weights.safetensors").read_bytes(),
        "last": (last.name, {name: array.tobytes() for name, array in values.items()}),
        "records": [{k: v for k, v in r.items() if k != "seconds"} for r in records],
        "program": (run / "model.nn").read_text(),
    }


@pytest.fixture(scope="module", params=[1, 2, 3])
def runs(request, tmp_path_factory):
    """A folder with the runs `short`, to go on with, and `long`, and the outcome of the latter."""
    folder = tmp_path_factory.mktemp("runs")
    np.savez(folder / "q.npz", x=np.ones(8, np.float32))
    text = PROGRAM.replace("KEEP", str(request.param))
    for name, epochs in (("short", SHORT), ("long", LONG)):
        (folder / f"{name}.nn").write_text(text.replace("EPOCHS", str(epochs)))
        assert resume_or_train(folder / f"{name}.nn", "--out", folder / name) == 0
    assert resume_or_train("--resume", folder / "short", "--epochs", SHORT) == 0
    return folder, outcome(folder / "long")


def gone(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) * 2 // 3] ^= 4
    path.write_bytes(data)


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def a_folder(path: Path) -> None:
    path.unlink()
    (path / "thesis").mkdir(parents=True)


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_circle(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


FILES = ("model.nn", "settings.json", "backup.json", "metrics.jsonl", "weights.safetensors")


@pytest.mark.parametrize(
    "damage",
    mostly_slow(
        [gone, empty, cut, flipped, zeros, a_folder, a_pipe, a_circle], [empty, flipped, a_folder]
    ),
)
def test_any_file(runs, damage, tmp_path, capsys):
    folder, wanted = runs
    checkpoints = sorted(p.name for p in (folder / "short" / "checkpoints").iterdir())
    for name in (*FILES, *(f"checkpoints/{name}" for name in checkpoints)):
        run = folder / f"{tmp_path.name}-{damage.__name__}"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(folder / "short", run)
        damage(run / name)
        capsys.readouterr()
        code = resume_or_train("--resume", run, "--epochs", LONG)
        told = capsys.readouterr().err
        assert code == 0, (name, told)
        assert outcome(run) == wanted, name
        if name == f"checkpoints/{checkpoints[-1]}" and damage is gone:
            assert "are missing: metrics.jsonl tells of 5 epochs" in told
        # An older checkpoint is looked at only where the last one fails.
        elif name == f"checkpoints/{checkpoints[-1]}" or not name.startswith("checkpoints"):
            assert "W0701" in told and name in told, (name, told)
        assert resume_or_train("--resume", run) == 0
        assert "W0701" not in capsys.readouterr().err, name
        # What is not nnc's stays, wherever it was.
        assert damage is not a_folder or len(list(run.rglob("thesis"))) == 1


def test_a_folder_without_checkpoints(runs, tmp_path, capsys):
    folder, wanted = runs
    run = folder / tmp_path.name
    shutil.copytree(folder / "short", run)
    shutil.rmtree(run / "checkpoints")
    assert resume_or_train("--resume", run, "--epochs", LONG) == 0
    assert "are missing: metrics.jsonl tells of 5 epochs" in capsys.readouterr().err
    assert outcome(run) == wanted


def test_the_best_weights_of_the_one_before_the_last_stay(runs):
    """The last is the best; with the one before, the best are those of the second epoch."""
    folder, _ = runs
    kept = [int(p.stem[5:]) for p in sorted((folder / "short" / "checkpoints").iterdir())]
    assert kept in ([5], [2, 4, 5], [2, 3, 4, 5])
    assert f"keep_checkpoints = {max(1, len(kept) - 1)}" in (folder / "short.nn").read_text()


def test_damage_before_the_first_checkpoint(runs, tmp_path):
    """A killed run has its texts and their copy only."""
    folder, wanted = runs
    for name in ("model.nn", "settings.json", "backup.json"):
        for damage in (gone, empty, cut, flipped):
            run = folder / f"{tmp_path.name}-young"
            shutil.rmtree(run, ignore_errors=True)
            shutil.copytree(folder / "long", run)
            for other in ("metrics.jsonl", "weights.safetensors"):
                os.unlink(run / other)
            shutil.rmtree(run / "checkpoints")
            damage(run / name)
            assert resume_or_train("--resume", run) == 0
            assert outcome(run) == wanted
