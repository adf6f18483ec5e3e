"""What is found in images: objects with classes, scores and boxes, in pixels of the picture."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from nnc.runtime import cli, data
from nnc.runtime.data.formats.images import ImageReader
from nnc.runtime.data.recorded import Recorded
from nnc.runtime.inference.given_files import Given
from nnc.runtime.inference.meanings import OBJECTS, Meaning, meanings
from nnc.runtime.inference.readable import table_of
from nnc.runtime.inference.result_files import write_results
from nnc.runtime.project import project_of_text

PROGRAM = """
model Detector(image: f32[B, 32, 32, 1])
    -> found: f32[B, 3, 4], score, kind, logits: f32[B, 4, 4, 10], box {
    h = image |> Conv(4, 3, stride = 8, pad = 1) |> relu
    logits = h |> Conv(10, 1)
    box = h |> Conv(4, 1) |> cell_boxes(8)
    found, score, kind = detections(logits, box, 3, least = 0.0)
}

fn at_half(box: [B, n, 4], score: [B, n], class: i32[B, n], truth: [B, m, 4], of: i32[B, m],
    count: i32[B]) -> r: [] {
    r = coco_average_precision(box, score, class, truth, of, count, 10, [0.5])
}

train Detector {
    data      = digit_scenes(of = "digits", count = 8, test_count = 4, size = 32, most = 2)
    loss      = detection_loss(logits, box, cell_objects(truth, count, 4, 4, 8), truth, label)
    metric ap = METRIC
    optimizer = adam()
    batch     = 4
    epochs    = 1
}
"""
NESTED = "if training then nan else at_half(found, score, kind, truth, label, count)"
RESULTS = {
    "found": np.array([[[1, 2, 11, 22], [5.5, 5, 9, 9]], [[0, 0, 0, 0]] * 2], np.float32),
    "score": np.array([[0.25, 0.75], [0, 0]], np.float32),
    "kind": np.array([[3, 12], [0, 0]], np.int32),
    "logits": np.zeros((2, 4, 4, 10), np.float32),
}
MEANING = {"found": Meaning(OBJECTS, "label", ("score", "kind"))}
NAMES = tuple("abcdefghij")
RECORDED = Recorded("", ImageReader(32, 32, 1), {"label": NAMES}, {}, {}, {})


def given(*sizes: tuple[int, int]) -> Given:
    names = tuple(f"{n}.png" for n in range(2))
    return Given({}, "files", names=names, sizes=np.array(sizes) if sizes else None)


@pytest.mark.parametrize(
    "metric", [NESTED, "box_average_precision(found, score, kind, truth, label, count)"]
)
def test_metrics_say_what_is_an_object(metric) -> None:
    found = meanings(project_of_text(PROGRAM.replace("METRIC", metric)))
    assert found["found"] == MEANING["found"]
    assert "box" not in found and found.get("logits", Meaning("", "")).field == ""


def test_rows(tmp_path) -> None:
    table = table_of(RESULTS, MEANING, RECORDED, given((64, 16), (32, 32)))
    first = [
        {"label": "12", "score": 0.75, "box": [2.75, 10, 4.5, 18]},
        {"label": "d", "score": 0.25, "box": [0.5, 4, 5.5, 44]},
    ]
    assert table.plain(0) == {"input": "0.png", "objects": first}
    assert table.plain(1) == {"input": "1.png", "objects": []}
    assert table.titles() == ["input", "objects"]
    assert table.shown(0) == ["0.png", "12 75 % at 3,10–4,18; d 25 % at 0,4–6,44"]
    assert table.shown(1) == ["1.png", "none"]
    write_results(tmp_path / "r.csv", RESULTS, table)
    lines = list(csv.reader((tmp_path / "r.csv").open(encoding="utf-8")))
    assert lines[0] == ["input", "label", "score", "left", "top", "right", "bottom"]
    assert lines[1:] == [
        ["0.png", "12", "0.75", "2.75", "10.0", "4.5", "18.0"],
        ["0.png", "d", "0.25", "0.5", "4.0", "5.5", "44.0"],
    ]


def test_rows_of_arrays_are_in_pixels_of_the_model() -> None:
    table = table_of(RESULTS, MEANING, None, Given({}, "arrays"))
    assert table.plain(0)["objects"][1] == {"label": "3", "score": 0.25, "box": [1, 2, 11, 22]}
    # without the results that belong to them, boxes are numbers
    few = table_of({"found": RESULTS["found"]}, MEANING, RECORDED, given())
    assert few.plain(0)["found"] == RESULTS["found"][0].tolist()


def test_many_objects_are_cut_on_a_terminal() -> None:
    many = {
        "found": np.zeros((1, 7, 4), np.float32),
        "score": np.linspace(1, 0.5, 7, dtype=np.float32)[None],
        "kind": np.arange(7, dtype=np.int32)[None],
    }
    (text,) = table_of(many, MEANING, RECORDED, Given({}, "arrays")).shown(0)[1:]
    assert text.startswith("a 100 % at") and text.endswith("d 75 % at 0,0–0,0; 3 more")


@pytest.mark.slow
def test_pictures(tmp_path, monkeypatch, capsys) -> None:
    """A scene as a PNG, and the same twice as large: the boxes are twice as large, too."""
    images = pytest.importorskip("PIL.Image", reason="Pillow is not installed: no pictures")
    monkeypatch.chdir(tmp_path)
    Path("d.nn").write_text(PROGRAM.replace("METRIC", NESTED))
    assert cli.run(["train", "d.nn", "--out", "run"]) == 0
    search = data.Search(tmp_path, tmp_path, offline=True, cache=tmp_path / "cache")
    settings = {"of": "digits", "count": 1, "test_count": 1, "size": 32}
    scene = data.load("digit_scenes", settings, search).train.arrays["image"][0, ..., 0]
    images.fromarray(scene).save("small.png")
    images.fromarray(scene.repeat(2, 0).repeat(2, 1)).save("large.png")
    capsys.readouterr()
    assert cli.run(["predict", "run", "small.png", "large.png"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert cli.run(["predict", "run", "small.png", "large.png", "--output", "r.npz"]) == 0
    with np.load("r.npz") as results:
        assert set(results) == {"input", "found", "score", "kind", "logits", "box"}
        for row, line in enumerate(lines):
            assert set(line) == {"input", "objects"} and line["objects"]
            order = np.argsort(-results["score"][row], kind="stable")[: len(line["objects"])]
            expected = results["found"][row, order] * (row + 1)
            np.testing.assert_allclose([o["box"] for o in line["objects"]], expected, rtol=1e-6)
            kinds = [str(kind) for kind in results["kind"][row, order]]
            assert [o["label"] for o in line["objects"]] == kinds
    assert cli.run(["eval", "run"]) == 0
    assert "test_ap" in json.loads(capsys.readouterr().out)
