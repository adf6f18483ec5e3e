"""Categories, missing values, normalisation and a split by time, as `csv` reads them: against
NumPy, and the same for new tables."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime import cli, data

TABLE = """age,colour,size,date,price
20,red,small,2024-03-01,1
,blue,large,2024-01-05T10:00,2
40,,medium,2024-01-05T09:00,3
60,red,,2024-02-01,4
80,green,large,2024-04-01,5
100,blue,small,2024-05-01,6
"""
CHOICES = {
    "target": "price", "labels": False, "time": "date", "test": 0.3, "categories": ["colour"],
    "ordered": ["size: small < medium < large"],
}  # fmt: skip

PLAIN = {"categories": None, "ordered": None, "missing": "fill"}


@pytest.fixture
def search(tmp_path):
    (tmp_path / "t.csv").write_text(TABLE)
    return data.Search(None, tmp_path, offline=True, cache=tmp_path / "cache")


def read(search, **settings) -> data.Dataset:
    return data.load("csv", {"file": "t.csv", **CHOICES, **settings}, search)


def refused(call) -> str:
    with pytest.raises(UserError) as caught:
        call()
    (found,) = caught.value.diagnostics
    return f"{found.code}: {found.message} ({found.help})"


# --- values ---------------------------------------------------------------------------------------


def test_missing_values_with_indicators_and_normalized_numbers(search):
    """The last rows by their dates test; what is computed of training knows nothing of them."""
    found = read(search, missing="indicator", normalize=True)
    assert found.columns["x"] == (
        "age", "age is missing", "colour is blue", "colour is green", "colour is red",
        "colour is missing", "size", "size is missing",
    )  # fmt: skip
    assert found.train.arrays["y"].tolist() == [1, 2, 3, 4]
    assert found.test is not None and found.test.arrays["y"].tolist() == [5, 6]
    mean, deviation = 40.0, np.std([20, 40, 60])
    expected = np.array(
        [
            [(20 - mean) / deviation, 0, 0, 0, 1, 0, 0, 0],
            [0, 1, 1, 0, 0, 0, 2, 0],
            [0, 0, 0, 0, 0, 1, 1, 0],
            [(60 - mean) / deviation, 0, 0, 0, 1, 0, 0, 1],
        ]
    )
    expected[3, 6] = 0  # small, medium and large occur once each: the first of the most frequent
    np.testing.assert_allclose(found.train.arrays["x"], expected)
    np.testing.assert_allclose(found.test.arrays["x"][:, 0], (np.array([80, 100]) - 40) / deviation)
    described = data.describe("csv", {**CHOICES, "file": "t.csv", "missing": "indicator"}, search)
    assert described.field("x").shape == (8,) and described.count == 4


def test_missing_values_that_are_filled(search):
    found = read(search, missing="fill")
    assert found.columns["x"] == (
        "age",
        "colour is blue",
        "colour is green",
        "colour is red",
        "size",
    )
    rows = found.train.arrays["x"]
    assert rows[1, 0] == 40 and rows[2, 1:4].tolist() == [0, 0, 1] and rows[3, 4] == 0


def test_a_constant_column_is_0(search):
    (search.base / "t.csv").write_text("a,b,y\n" + "".join(f"7,{k},{k}\n" for k in range(6)))
    found = data.load(
        "csv", {"file": "t.csv", "target": "y", "labels": False, "normalize": True}, search
    )
    assert (found.train.arrays["x"][:, 0] == 0).all()
    np.testing.assert_allclose(found.train.arrays["x"][:, 1].mean(), 0, atol=1e-12)
    np.testing.assert_allclose(found.train.arrays["x"][:, 1].std(), 1)


def test_numbers_are_times_too_and_equal_ones_stay_together(search):
    (search.base / "t.csv").write_text("t,x,y\n3,1,1\n1,2,2\n3,3,3\n2,4,4\n")
    settings = {"file": "t.csv", "target": "y", "labels": False, "time": "t", "test": 0.25}
    found = data.load("csv", settings, search)
    assert found.test is not None and found.test.arrays["y"].tolist() == [1, 3]
    assert found.columns["x"] == ("x",)
    found = data.load("csv", {**settings, "test": 0}, search)
    assert found.test is None and len(found.train) == 4
    (search.base / "t.csv").write_text("t,x,y\n3,1,1\n3,2,2\n3,3,3\n")
    assert "no row is earlier" in refused(lambda: data.load("csv", settings, search))


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "E0616: .*line 3, column `age`: is empty"),
        ({"categories": ["age", "colour"]}, "E0616: .*line 3, column `age`: is empty"),
        ({"missing": "drop"}, "E0615: .*\"refuse\" or \"fill\" or \"indicator\""),
        ({"categories": ["color"]}, "E0614: .*no column `color` .*did you mean `colour`"),
        ({"categories": ["price"]}, "E0614: column `price` of `categories` is no input"),
        ({"categories": ["size"]}, "E0614: column `size` is in `categories` and in `ordered`"),
        ({"ordered": ["size"]}, "E0615: `size` does not order"),
        ({"ordered": ["size: small < small"]}, "E0615: .*like `size: small < medium < large`"),
        ({"ordered": ["size: small < large"], "missing": "fill"}, "E0605: .*`medium` is none of"),
        ({"time": "colour", "columns": ["age"], **PLAIN}, "E0605: .*`red` is no time"),
        ({"time": "when"}, "E0614: .*no column `when`"),
    ],
)  # fmt: skip
def test_wrong_settings(search, settings, told):
    assert re.search(told, refused(lambda: read(search, **settings)))


def test_a_column_without_values_in_training(search):
    (search.base / "t.csv").write_text("t,a,y\n1,,1\n2,,2\n3,5,3\n")
    settings = {"file": "t.csv", "target": "y", "labels": False, "time": "t", "missing": "fill"}
    assert "no value to train on" in refused(lambda: data.load("csv", settings, search))


# --- a run ----------------------------------------------------------------------------------------


PROGRAM = """
model Price(x: f32[B, n]) -> guess: f32[B] {
    h = x |> Dense(1)
    guess[b] = h[b, 0]
}

train Price {
    data      = csv("t.csv", target = "price", labels = false, test = 0.3, time = "date",
                    categories = ["colour"], ordered = ["size: small < medium < large"],
                    missing = "indicator", normalize = true)
    loss      = mse(guess, y)
    optimizer = sgd(lr = 0.01)
    epochs    = 1
}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("features")
    (folder / "t.csv").write_text(TABLE)
    (folder / "price.nn").write_text(PROGRAM)
    assert cli.run(["train", str(folder / "price.nn"), "--out", str(folder / "run")]) == 0
    return folder / "run"


def test_new_tables_are_read_as_that_of_training(run, search, tmp_path, monkeypatch, capfd):
    """The whole table through `predict`, and its rows through the source, give the same."""
    monkeypatch.chdir(tmp_path)
    found = read(search, missing="indicator", normalize=True)
    np.save("x.npy", np.concatenate([found.train.arrays["x"], found.test.arrays["x"]]).astype("f4"))
    assert cli.run(["predict", str(run), "x.npy", "--output", "a.npy"]) == 0
    assert cli.run(["predict", str(run), "t.csv", "--output", "b.npy"]) == 0
    np.testing.assert_array_equal(np.load("a.npy"), np.load("b.npy"))
    # Without target and dates, in another order, a row alone.
    Path("new.csv").write_text("size,age,colour\nlarge,,blue\n")
    capfd.readouterr()
    assert cli.run(["predict", str(run), "new.csv"]) == 0
    (row,) = map(json.loads, capfd.readouterr().out.splitlines())
    assert row["price"] == pytest.approx(float(np.load("b.npy")[1]))


@pytest.mark.parametrize(
    ("text", "code", "told"),
    [
        (
            "age,colour,size\n1,bleu,small\n",
            "E0605",
            "`bleu` is none of the categories blue, green",
        ),
        ("age,colour,size\n1,blue,big\n", "E0605", "column `size`: `big` is none of"),
        ("age,colour,size\nold,blue,small\n", "E0605", "`old` is not a number"),
        ("age,size\n1,small\n", "E0614", "has no column `colour`"),
    ],
)
def test_new_tables_that_are_wrong(run, tmp_path, monkeypatch, capfd, text, code, told):
    monkeypatch.chdir(tmp_path)
    Path("new.csv").write_text(text)
    assert cli.run(["predict", str(run), "new.csv"]) == 1
    err = capfd.readouterr().err
    assert code in err and told in err
