"""Sweeps of the command line, trackers, and searches through the Python interface."""

from __future__ import annotations

import json
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from line_program import PROGRAM, X, Z, same

import nnc
from nnc.runtime import cli
from nnc.runtime.commands.sweep import grid, listed_values
from nnc.runtime.training.interrupt import Stopped

FILE = PROGRAM.replace("loss ", 'data      = npz("set.npz")\n    loss ').replace("0.1", "1e-1")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("set.npz", x=X, z=Z)
    Path("line.nn").write_text(FILE)
    return tmp_path


@pytest.fixture
def train(folder, capfd):
    """Runs `nnc train line.nn …`: its exit code, what it prints, what it remarks."""

    def call(*arguments):
        code = cli.run(["train", "line.nn", *arguments])
        said = capfd.readouterr()
        return code, said.out, said.err

    return call


# --- sweeps ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1", ["1"]),
        ("1e-3, 1e-4", ["1e-3", "1e-4"]),
        ("adam(1, 2),sgd()", ["adam(1, 2)", "sgd()"]),
        ('"a,b","c"', ['"a,b"', '"c"']),
        ("[1, [2, 3]]", ["[1, [2, 3]]"]),
        ("1,", ["1", ""]),
    ],
)
def test_commas_outside_of_brackets_and_quotes_separate_values(text, values):
    assert listed_values(text) == values


def test_the_grid_is_in_order_and_its_folders_differ():
    points = grid(["a=1,2", "b=x", "c=p/q,p_q,p_q"])
    assert [p.title for p in points] == ["a=1, c=p/q", "a=1, c=p_q", "a=2, c=p/q", "a=2, c=p_q"]
    assert points[0].sets == ("a=1", "b=x", "c=p/q")
    assert len({p.folder for p in points}) == 4
    assert all(re.fullmatch(r"[\w.,=+-]{1,120}", p.folder) for p in points)
    assert grid(["a=1"])[0].varied == grid([])[0].varied == {}


SWEEP = ("--set", "optimizer.lr=0.1,0.01", "--set", "batch=5,10", "--out", "sweep")


def test_a_sweep_runs_the_grid_and_is_skipped_where_it_is_done(train):
    code, printed, said = train(*SWEEP)
    assert code == 0, said
    lines = [line.split() for line in printed.splitlines() if not line.startswith("epoch")]
    head, *rows = [line for line in lines if line]
    assert head == ["optimizer.lr", "batch", "epoch", "loss", "far"]
    assert [row[:2] for row in rows] == [["0.1", "5"], ["0.1", "10"], ["0.01", "5"], ["0.01", "10"]]
    # The table has what the runs measured; the best is that of the least loss.
    losses = []
    for row in rows:
        path = Path("sweep") / f"optimizer.lr={row[0]},batch={row[1]}"
        last = json.loads((path / "metrics.jsonl").read_text().splitlines()[-1])
        assert row[2] == str(last["epoch"]) and float(row[3]) == pytest.approx(
            last["loss"], abs=1e-4
        )
        losses.append(last["loss"])
        assert nnc.load(path).predict(X).shape == (10, 2)
    assert [row[-1] == "best" for row in rows] == [loss == min(losses) for loss in losses]
    assert printed.count("epoch 1/2") == 4
    code, again, said = train(*SWEEP)
    assert code == 0 and again.count("epoch 1/2") == 0
    assert [line for line in again.splitlines() if line] == printed.splitlines()[8:-1]
    assert said.count("is done") == 4
    # More points are added to what is there.
    more = ("--set", "optimizer.lr=0.1,0.01,0.2", *SWEEP[2:])
    code, again, said = train(*more)
    assert code == 0 and again.count("epoch 1/2") == 2 and said.count("is done") == 4


def test_a_sweep_that_is_interrupted_goes_on_to_the_same_bits(train, monkeypatch):
    assert train(*SWEEP)[0] == 0
    from nnc.runtime.training import loop

    steps, before = [], loop._Run._take_steps

    def interrupted(run):
        before(run)
        steps.append(1)
        if len(steps) == 6:  # in the second run
            raise Stopped(2)

    other = ("--set", "optimizer.lr=0.1,0.01", "--set", "batch=5,10", "--out", "other")
    with monkeypatch.context() as patch:
        patch.setattr(loop._Run, "_take_steps", interrupted)
        code, printed, said = train(*other)
    assert code == 130 and "the same command goes on with the sweep" in said
    assert "best" not in printed
    code, printed, said = train(*other)
    assert code == 0 and said.count("is done") == 1 and "best" in printed
    for path in Path("sweep").glob("*=*"):
        found = nnc.load(Path("other") / path.name).parameters
        assert same(found, nnc.load(path).parameters)


def test_a_point_that_diverges_does_not_end_a_sweep(train):
    code, printed, said = train("--set", "optimizer.lr=1e30,0.1", "--out", "s", "--epochs", "9")
    assert code == 0 and "E0701" in said
    rows = [line.split() for line in printed.splitlines() if not line.startswith("epoch")]
    assert [row[1] for row in rows if row][1:] == ["E0701", "9"]
    assert (
        train("--set", "optimizer.lr=1e30,0.1", "--out", "s", "--epochs", "9")[2].count("done") == 2
    )


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("--set", "optimizer.lr=0.1,"), 2, "NAME=VALUE"),
        (("--set", "optimizer.rl=1,2"), 2, "did you mean `lr`"),
        (("--set", "epochs=1,(2"), 2, "E0704"),
        (("--resume", "used", "--set", "batch=1,2"), 2, "give a FILE, or --resume"),
        (("--set", "batch=1,0"), 2, "E0703"),
        (("--set", "batch=1,2", "--out", "used"), 1, "holds no sweep"),
    ],
)
def test_what_is_wrong_with_a_sweep_is_told_before_it_starts(train, arguments, code, text):
    Path("used").mkdir()
    Path("used/file").write_text("")
    found, printed, said = train(*arguments)
    assert found == code and text in said and printed == "", said
    assert not Path("runs").exists()


def test_a_sweep_does_not_take_the_runs_of_another_program(train):
    assert train("--set", "batch=5,10", "--out", "s")[0] == 0
    Path("line.nn").write_text(FILE.replace("mse", "mae"))
    code, _, said = train("--set", "batch=5,10", "--out", "s")
    assert code == 1 and "E0705" in said and "another program" in said


# --- trackers -------------------------------------------------------------------------------------


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What a folder holds for TensorBoard: (step, value) by name."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2", reason="needs tensorboardX")
    (path,) = folder.glob("events.out.*")
    content, at = path.read_bytes(), 0
    found: dict[str, list[tuple[int, float]]] = {}
    while at < len(content):
        size = int.from_bytes(content[at : at + 8], "little")
        event = event_pb2.Event.FromString(content[at + 12 : at + 12 + size])
        at += size + 16  # with the length, and two checksums
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_tensorboard(train, tmp_path):
    pytest.importorskip("tensorboardX", reason="the tracker needs tensorboardX")
    assert train("--out", "run", "--tensorboard", "board", "--log-every", "1")[0] == 0
    records = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert len(records) > 2  # those within an epoch, too
    found = scalars(Path("board"))
    assert set(found) == {"loss", "far"}
    for name, values in found.items():
        assert [s for s, _ in values] == [r["step"] for r in records]
        np.testing.assert_allclose([v for _, v in values], [r[name] for r in records], rtol=1e-6)
    # the same through Python, and a folder for each run of a sweep
    model = nnc.loads(PROGRAM, threads=1)
    history = model.fit(X, Z, validation=0.2, callbacks=nnc.TensorBoard(tmp_path / "python"))
    found = scalars(tmp_path / "python")
    assert found["validation_loss"][-1] == (4, pytest.approx(history[-1]["validation_loss"]))
    assert train("--set", "batch=5,10", "--tensorboard", "boards", "--out", "s")[0] == 0
    assert {p.name for p in Path("boards").iterdir()} == {"batch=5", "batch=10"}


def test_trackio(train, monkeypatch):
    calls = []

    class Run:
        def log(self, values, step):
            calls.append(("log", values, step))

        def finish(self):
            calls.append("finish")

    def init(project, name=None, config=None, **more):
        calls.append((project, name, config["batch"], more))
        return Run()

    monkeypatch.setitem(sys.modules, "trackio", types.SimpleNamespace(init=init))
    history = nnc.loads(PROGRAM, threads=1).fit(
        X, Z, callbacks=nnc.Trackio("lines", "a", group="g")
    )
    logs = [("log", {"loss": r["loss"], "far": r["far"]}, r["step"]) for r in history]
    assert calls == [("lines", "a", 4, {"group": "g"}), *logs, "finish"]
    calls.clear()
    assert train("--set", "batch=5,10", "--track", "lines", "--out", "s")[0] == 0
    begun = [c[:3] for c in calls if c != "finish" and c[0] != "log"]
    assert begun == [("lines", "batch=5", 5), ("lines", "batch=10", 10)]


def test_the_real_trackio(monkeypatch, tmp_path):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    pytest.importorskip("trackio", reason="the tracker needs trackio")
    nnc.loads(PROGRAM, threads=1).fit(X, Z, callbacks=nnc.Trackio("lines", "a", embed=False))
    assert list(tmp_path.glob("lines*"))


def test_a_tracker_that_is_not_installed_says_what_to_install(train, monkeypatch):
    for module, flag, extra in (
        ("tensorboardX", "--tensorboard", "tensorboard"),
        ("trackio", "--track", "trackio"),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        code, _, said = train(flag, "x", "--out", extra)
        assert code == 1 and "E0741" in said and f"pip install 'nnc-lang[{extra}]'" in said


# --- searches -------------------------------------------------------------------------------------


def test_optuna_through_the_interface():
    """The example of docs/python.md."""
    optuna = pytest.importorskip("optuna", reason="the example needs optuna")
    page = (Path(__file__).parents[2] / "docs" / "python.md").read_text("utf-8")
    (example,) = re.findall(r"```python\n(import optuna\n.*?)```", page, re.DOTALL)
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    class Line:
        load = staticmethod(lambda path: nnc.loads(PROGRAM, threads=1))

    names = {"nnc": Line, "x": X, "y": Z, "xv": X, "yv": Z}
    exec(example.replace("n_trials=50", "n_trials=6"), names)
    study = names["study"]
    assert len(study.trials) == 6 and study.best_value < 2 and "lr" in study.best_params
