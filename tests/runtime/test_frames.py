"""Tables in memory: frames of pandas, Polars and Arrow in the place of files, and their columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import nnc
from nnc.runtime import cli

pa = pytest.importorskip("pyarrow", reason="frames need pyarrow (nnc-lang[arrow])")
from pyarrow import parquet  # noqa: E402

RNG = np.random.default_rng(0)
COUNT = 40
SIZES = RNG.normal(size=COUNT)
COLUMNS = {
    "size": SIZES.tolist(),
    "town": ["Ulm", "Bonn"] * (COUNT // 2),
    "e": RNG.normal(size=(COUNT, 2)).tolist(),
    "kind": ["large" if one > 0 else "small" for one in SIZES],
}
HOUSES = """
model Houses(x: f32[B, 5]) -> logits: f32[B, 2] {
    logits = x |> Dense(2)
}

train Houses {
    data      = parquet("houses.parquet", target = "kind", categories = ["town"], normalize = true)
    loss      = cross_entropy(logits, y)
    metric accuracy = mean(argmax(logits) == y)
    optimizer = adam(lr = 0.1)
    epochs    = 5
}
"""
VECTORS = """
model Vectors(x: f32[B, 3]) -> y: f32[B, 2] {
    y = x |> Dense(2)
}

train Vectors {
    loss      = mse(y, z)
    optimizer = sgd(lr = 0.1)
    epochs    = 2
}
"""


class Exchanged:
    """A frame of a library that has nothing but the exchange protocol."""

    def __init__(self, table):
        self._table = table

    def __dataframe__(self, nan_as_null=False, allow_copy=True):
        return self._table.__dataframe__(nan_as_null, allow_copy)


def frame(library: str, table):
    """The table as a frame of a library."""
    if library == "exchanged":  # lists are no part of the protocol
        return Exchanged(table)
    if library == "pyarrow":
        return table
    module = pytest.importorskip(library)
    columns = table.to_pydict()
    return module.DataFrame(columns)


LIBRARIES = ["pyarrow", "pandas", "polars", "exchanged"]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("houses")
    parquet.write_table(pa.table(COLUMNS), folder / "houses.parquet")
    (folder / "houses.nn").write_text(HOUSES)
    assert cli.run(["train", str(folder / "houses.nn"), "--out", str(folder / "run")]) == 0
    return folder


def plain(table, library: str):
    """Without lists, which the exchange protocol has not."""
    if library != "exchanged":
        return table
    columns = table.to_pydict()
    elements = {f"e[{k}]": [row[k] for row in columns["e"]] for k in range(2)}
    return pa.table({n: v for n, v in columns.items() if n != "e"} | elements)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_frame_is_read_as_the_table_that_trained(home, library):
    table = plain(pa.table(COLUMNS), library)
    model = nnc.load(home / "run", threads=1)
    expected = model.predict(str(home / "houses.parquet"))
    shuffled = table.select(table.column_names[::-1])
    np.testing.assert_array_equal(model.predict(frame(library, shuffled)), expected)
    without = frame(library, table.drop_columns(["kind"]))
    np.testing.assert_array_equal(model.predict(without), expected)
    labels = np.array([["large", "small"].index(one) for one in COLUMNS["kind"]])
    measured = model.evaluate(frame(library, table))
    assert measured["accuracy"] == pytest.approx((expected.argmax(axis=1) == labels).mean())


@pytest.mark.parametrize("library", LIBRARIES[:3])
def test_fitting_a_frame_is_fitting_the_file(home, library):
    models = [nnc.load(home / "houses.nn", threads=1) for _ in range(2)]
    models[0].fit()
    models[1].fit(frame(library, pa.table(COLUMNS)))
    for name, value in models[0].parameters.items():
        np.testing.assert_array_equal(models[1].parameters[name], value)
    new = frame(library, pa.table(COLUMNS).slice(3, 5))
    np.testing.assert_array_equal(models[0].predict(new), models[1].predict(new))
    (row,) = models[1].predict_files(str(home / "houses.parquet"))[:1]
    assert row["kind"] in ("large", "small")


def test_frames_that_do_not_fit(home):
    model = nnc.load(home / "run", threads=1)
    table = pa.table(COLUMNS)
    with pytest.raises(nnc.UserError, match=r"E0614\]: the table has no column `town`"):
        model.predict(table.drop_columns(["town"]))
    missing = table.set_column(0, "size", pa.array([None, *COLUMNS["size"][1:]]))
    with pytest.raises(nnc.UserError, match="the table, row 1, column `size`: is empty"):
        model.predict(missing)
    strange = table.set_column(3, "kind", pa.array(["huge", *COLUMNS["kind"][1:]]))
    with pytest.raises(nnc.UserError, match=r"E0606\]: label `huge` of the table, row 1"):
        model.evaluate(strange)
    towns = table.set_column(1, "town", pa.array(["Trier", *COLUMNS["town"][1:]]))
    with pytest.raises(nnc.UserError, match="`Trier` is none of the categories"):
        model.predict(towns)


@pytest.mark.parametrize("library", LIBRARIES[:3])
def test_columns_are_fields_and_lists_are_vectors(library):
    x, z = RNG.normal(size=(8, 3)).astype("f4"), RNG.normal(size=(8, 2)).astype("f4")
    given = pa.table({"z": z.tolist(), "x": x.tolist(), "other": ["a"] * 8})
    models = [nnc.loads(VECTORS, threads=1) for _ in range(3)]
    models[0].fit(x, z)
    whole = frame(library, given)
    models[1].fit(whole)
    models[2].fit(whole["x"], whole["z"])
    for model in models[1:]:
        for name, value in models[0].parameters.items():
            np.testing.assert_array_equal(model.parameters[name], value)
    ragged = frame(library, pa.table({"z": z.tolist(), "x": [[1.0, 2.0], *x.tolist()[1:]]}))
    with pytest.raises(nnc.UserError, match="different lengths"):
        models[0].fit(ragged)


@pytest.mark.parametrize("ending", [".parquet", ".feather"])
def test_results_as_a_table(home, tmp_path, monkeypatch, capfd, ending):
    monkeypatch.chdir(tmp_path)
    line = ["predict", str(home / "run"), str(home / "houses.parquet"), "--output"]
    for name in ("y.csv", f"y{ending}"):
        assert cli.run([*line, name]) == 0
    found = (
        parquet.read_table("y.parquet")
        if ending == ".parquet"
        else pa.ipc.open_file(f"y{ending}").read_all()
    )
    rows = [row.split(",") for row in Path("y.csv").read_text().splitlines()]
    assert found.column_names == rows[0] and found.num_rows == COUNT
    assert [str(one) for one in found.column("probability").to_pylist()] == [r[2] for r in rows[1:]]
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    assert cli.run([*line, f"z{ending}"]) == 1
    assert "pip install 'nnc-lang[arrow]'" in capfd.readouterr().err
