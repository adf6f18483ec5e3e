"""`time_series(…)`: files .ts as arrays, in training and for predictions; what is wrong in them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime import cli, data
from nnc.runtime.data.formats import time_series

HEAD = "# a remark\n@problemName Waves\n@univariate false\n@classLabel true up down\n@data\n"
TRAIN = HEAD + "1,2,3:4,5,6:up\n\n-1,0.5:7e-1,8:down\n1,1,1:2,2,2:up\n"
TEST = HEAD + "1,2,3,4:5,6,7,8:down\n"

PROGRAM = """model M(x: f32[B, T, C], length: i32[B]) -> logits: f32[B, 2] {
    total[b, c] = sum(t) x[b, t, c] / length[b]
    logits = total |> Dense(2)
}
train M {
    data = time_series("Waves")
    loss = cross_entropy(logits, label)
    optimizer = sgd(0.1)
    epochs = 1
}
"""


def write(folder: Path, train: str = TRAIN, test: str = TEST) -> data.Search:
    (folder / "Waves_TRAIN.ts").write_text(train, "utf-8")
    (folder / "Waves_TEST.ts").write_text(test, "utf-8")
    return data.Search(None, folder, offline=True, cache=folder / "cache")


def load(search: data.Search) -> data.Dataset:
    return data.load("time_series", {"name": "Waves"}, search)


def test_series_of_several_lengths(tmp_path) -> None:
    found = load(write(tmp_path))
    assert [str(f) for f in found.schema.fields] == [
        "x: f32[3, 2]", "length: i32[]", "label: i32[]",
    ]  # fmt: skip
    assert found.class_names["label"] == ("down", "up")
    train, test = found.train.arrays, found.splits["test"].arrays
    np.testing.assert_array_equal(train["x"][0], [[1, 4], [2, 5], [3, 6]])
    np.testing.assert_array_equal(train["x"][1], np.float32([[-1, 0.7], [0.5, 8], [0, 0]]))
    np.testing.assert_array_equal(train["length"], [3, 2, 3])
    np.testing.assert_array_equal(train["label"], [1, 0, 1])
    np.testing.assert_array_equal(test["x"][0], [[1, 5], [2, 6], [3, 7]])  # truncated
    np.testing.assert_array_equal(test["length"], [3])


@pytest.mark.parametrize("folder", ["", "data", "Waves", "data/Waves"])
def test_where_they_are_found(tmp_path, folder) -> None:
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    write(tmp_path / folder)
    assert len(load(data.Search(None, tmp_path, offline=True, cache=tmp_path / "c")).train) == 3


def test_they_are_found_in_a_package(tmp_path, monkeypatch) -> None:
    search = data.Search(None, tmp_path, offline=True, cache=tmp_path / "cache")
    with pytest.raises(UserError) as caught:
        load(search)
    assert caught.value.diagnostics[0].code == "E0601"
    folder = tmp_path / "aeon" / "datasets" / "data" / "Waves"
    folder.mkdir(parents=True)
    (tmp_path / "aeon" / "__init__.py").write_text("raise SystemExit('it is not imported')")
    write(folder)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert len(load(search).train) == 3


@pytest.mark.parametrize(
    ("train", "code", "told"),
    [
        ("1,2,3\n", "E0602", "no line `@data`"),
        (HEAD, "E0613", "no series"),
        (HEAD + "1,2:3,4:up\n1,2:up\n", "E0604", ":7 has 1 channels, those before have 2"),
        (HEAD + "1,2:3:up\n", "E0604", "different numbers of steps: 2, 1"),
        (HEAD + "1,?:3,4:up\n", "E0605", ":6 has a missing value"),
        (HEAD + "1,2:3,x:up\n", "E0605", "`x`, which is no number"),
        (HEAD + "1,2:3,nan:up\n", "E0605", "nan at step 1 of channel 1"),
        (HEAD + "1,2:3,4:up\n", "E0606", "label `down`, which no series of training has"),
        (HEAD.replace("true up down", "false") + "1,2:3,4\n", "E0604", "no labels"),
    ],
)
def test_mistakes(tmp_path, train, code, told) -> None:
    with pytest.raises(UserError) as caught:
        load(write(tmp_path, train))
    assert caught.value.diagnostics[0].code == code
    assert told in caught.value.diagnostics[0].message


def test_all_mistakes_of_a_file_are_told_at_once(tmp_path) -> None:
    with pytest.raises(UserError) as caught:
        load(write(tmp_path, HEAD + "1:2:up\nx:2:up\n1:?:up\n"))
    assert [d.code for d in caught.value.diagnostics] == ["E0605", "E0605"]


def test_new_series_are_read_as_those_of_training(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    Path("m.nn").write_text(PROGRAM)
    assert cli.run(["train", "m.nn", "--out", "run", "--device", "reference"]) == 0
    Path("new.ts").write_text(HEAD.replace("true up down", "false") + "1,2,3:4,5,6\n1,1:2,2\n")
    capsys.readouterr()
    assert cli.run(["predict", "run", "new.ts", "--device", "reference"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["input"] == "new.ts:6" and second["input"] == "new.ts:7"
    assert set(first["probabilities"]) == {"down", "up"}


def test_what_is_kept_of_them() -> None:
    with pytest.raises(ValueError):
        time_series.SeriesReader(0, 2)
