"""`nnc predict` on tables: columns by their names, wherever they stand, and by their places."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from nnc.runtime import cli

RNG = np.random.default_rng(0)
SIZES = RNG.normal(size=(60, 2)).round(3)
KINDS = np.where(SIZES[:, 0] > 0, "setosa", "virginica")
FLOWERS = """
model Flowers(x: f32[B, 2]) -> logits: f32[B, 2] {
    logits = x |> Dense(2)
}

train Flowers {
    data      = csv("flowers.csv", target = "species", columns = ["petal length", "petal width"])
    loss      = own(logits, y)
    optimizer = adam(lr = 0.1)
    epochs    = 6
}

fn own(z: [n, k], t: i32[n]) -> loss: [] {
    loss = cross_entropy(z, t)
}
"""
HOUSES = """
model Houses(x: f32[B, 2]) -> guess: f32[B] {
    h = x |> Dense(1)
    guess[b] = h[b, 0]
}

train Houses {
    data      = csv("houses.csv", target = "price", header = HEADER, labels = false)
    loss      = mse(guess, y)
    optimizer = sgd(lr = 0.1)
    epochs    = 20
}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Runs on a table of flowers, on one of houses, and on one of houses without a header."""
    folder = tmp_path_factory.mktemp("tables")
    rows = [
        f"{k},{a},{kind},{b}" for k, ((a, b), kind) in enumerate(zip(SIZES, KINDS, strict=True))
    ]
    head = "id,petal length,species,petal width"
    (folder / "flowers.csv").write_text("\n".join([head, *rows]) + "\n")
    (folder / "flowers.nn").write_text(FLOWERS)
    prices = SIZES @ [3, -2] + 1
    rows = [f"{a},{p:.4f},{b}" for (a, b), p in zip(SIZES, prices, strict=True)]
    (folder / "houses.csv").write_text("\n".join(["area,price,age", *rows]) + "\n")
    (folder / "houses.nn").write_text(HOUSES.replace("HEADER", "true"))
    (folder / "bare").mkdir()
    (folder / "bare/houses.csv").write_text("\n".join(rows) + "\n")
    (folder / "bare/houses.nn").write_text(HOUSES.replace("HEADER", "false").replace("price", "2"))
    for name in ("flowers", "houses", "bare/houses"):
        line = ["train", str(folder / f"{name}.nn"), "--out", str(folder / "runs" / name)]
        assert cli.run(line) == 0
    return folder


@pytest.fixture
def nnc(home, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").symlink_to(home / "runs")

    def call(*line: object) -> tuple[int, str, str]:
        code = cli.run(["predict", *map(str, line)])
        out, err = capfd.readouterr()
        return code, out, err

    return call


def rows(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_columns_are_found_by_their_names(nnc):
    """In another order, without the target and the columns that were not read, quoted, with a byte
    order mark and with empty lines."""
    Path("new.csv").write_text('\ufeff"petal width",petal length\n0.5,2.0\n\n-1,"-2"\n', "utf-8")
    code, out, err = nnc("runs/flowers", "new.csv")
    assert code == 0 and err == ""
    first, second = rows(out)
    assert (first["input"], first["species"]) == ("new.csv:2", "setosa")
    assert (second["input"], second["species"]) == ("new.csv:4", "virginica")
    assert set(first["probabilities"]) == {"setosa", "virginica"}


def test_the_rows_that_trained_and_their_target(nnc, home):
    code, out, err = nnc("runs/flowers", home / "flowers.csv")
    right = [r["species"] == kind for r, kind in zip(rows(out), KINDS, strict=True)]
    assert code == 0 and err == "" and np.mean(right) > 0.9
    nnc("runs/flowers", home / "flowers.csv", "--output", "y.csv")
    found = list(csv.DictReader(Path("y.csv").read_text().splitlines()))
    assert list(found[0]) == [
        "input", "species", "probability", "probability_setosa", "probability_virginica",
    ]  # fmt: skip
    assert found[3]["input"].endswith("flowers.csv:5")


def test_numbers_are_called_as_their_column(nnc):
    Path("new.csv").write_text("age,area,colour\n1,2,3\n0,0,0\n")
    code, out, err = nnc("runs/houses", "new.csv")
    assert code == 0 and "not read of new.csv: colour" in err
    first, second = rows(out)
    assert first["price"] == pytest.approx(5, abs=0.2) and list(first) == ["input", "price"]
    assert second["price"] == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("text", ["2,9,1\n0,9,0\n", "2,1\n0,0\n"])
def test_without_a_header_columns_have_places(nnc, text):
    """With the target's column, and without it."""
    Path("new.csv").write_text(text)
    code, out, _ = nnc("runs/bare/houses", "new.csv")
    assert code == 0 and [r["input"] for r in rows(out)] == ["new.csv:1", "new.csv:2"]
    assert [r["2"] for r in rows(out)] == pytest.approx([5, 1], abs=0.2)


@pytest.mark.parametrize(
    ("name", "text", "code", "told"),
    [
        ("flowers", "petal length\n1\n", "E0614", "has no column `petal width`"),
        ("flowers", "id\n1\n", "E0614", "no columns `petal length`, `petal width`"),
        (
            "flowers",
            "Petal Length,petal width\n1,2\n",
            "E0614",
            "`Petal Length` may be `petal leng",
        ),
        ("flowers", "petal length,petal_width\n1,2\n", "E0614", "`petal_width` may be `petal wid"),
        ("flowers", "petal length;petal width\n1;2\n", "E0614", "separated by `,`"),
        ("flowers", "1,2\n3,4\n", "E0614", "the first line names the columns: `petal length,"),
        ("flowers", "petal length,petal width\n1,wide\n", "E0605", "line 2, column `petal width`"),
        ("flowers", "petal length,petal width\n1,2\n3,\n", "E0616", "line 3, column `petal width`"),
        ("flowers", "petal length,petal width\n1,2\n3\n", "E0604", "line 3: 1 cell where the head"),
        ("flowers", "petal length,petal width\n", "E0613", "a header but no rows"),
        ("bare/houses", "1,2,3,4\n", "E0604", "has 4 columns, and the run reads 2, or 3 with"),
    ],
)
def test_what_is_wrong_with_a_table(nnc, name, text, code, told):
    Path("new.csv").write_text(text)
    status, out, err = nnc(f"runs/{name}", "new.csv")
    assert (status, out) == (1, "") and code in err and told in err, err


def test_other_kinds_of_files(nnc):
    """Each is named with its size and what the run reads instead."""
    Path("cat.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(1996))
    Path("a.wav").write_bytes(b"RIFF\0\0\0\0WAVEfmt " + bytes(100))
    Path("bad.csv").write_text("petal length,petal width\n1,x\n")
    code, _, err = nnc("runs/flowers", "cat.jpg", "a.wav", "bad.csv")
    assert code == 1 and err.count("error[") == 3
    assert (
        "cat.jpg (2.0 kB) is a JPEG image, and runs/flowers reads tables with the 2 columns" in err
    )
    assert "`petal length`, `petal width`" in err and "a.wav (116 bytes) is a WAV sound" in err
    assert "`nnc predict runs/flowers new.csv`" in err


@pytest.mark.parametrize(
    ("row", "advice"),
    [
        ("1,wide", "in training this column held numbers: write one"),
        ("1,2024-01-31", "in training this column held numbers: write it as there"),
        ("1,", "in training no cell of an input was missing: fill it or leave the row out"),
        ("1,0,5", "needs quotes"),
        ("1,2%", "write the number alone"),
    ],
)
def test_advice_is_what_can_be_done_about_a_new_table(home, tmp_path, capsys, row, advice):
    """And not what the program could have said of the columns before training."""
    (tmp_path / "new.csv").write_text(f"petal length,petal width\n{row}\n")
    assert cli.run(["predict", str(home / "runs/flowers"), str(tmp_path / "new.csv")]) == 1
    said = capsys.readouterr().err
    assert advice in said and "columns =" not in said and "missing =" not in said
