"""Parquet, Arrow, Feather and JSON Lines as tables: the same data as of text, what their types
bring along, shards and splits, and new tables for `predict` and `eval`."""

from __future__ import annotations

import contextlib
import datetime
import decimal
import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime import cli, data

pa = pytest.importorskip("pyarrow", reason="tables of Arrow need pyarrow (nnc-lang[arrow])")
from pyarrow import parquet  # noqa: E402

RNG = np.random.default_rng(0)
COUNT = 24
COLOURS = ["red", "green", "blue", "red"] * 6
ROWS = {
    "age": RNG.normal(size=COUNT).tolist(),
    "rooms": RNG.integers(1, 9, COUNT).tolist(),
    "new": (RNG.random(COUNT) < 0.5).tolist(),
    "colour": COLOURS,
    "e": RNG.normal(size=(COUNT, 3)).tolist(),
    "price": RNG.normal(size=COUNT).tolist(),
}


@pytest.fixture
def search(tmp_path):
    return data.Search(None, tmp_path, offline=True, cache=tmp_path / "cache")


def write(path: Path, **columns) -> None:
    table = columns.pop("table", None) or pa.table(columns)
    match path.suffix:
        case ".parquet":
            parquet.write_table(table, path, row_group_size=7)
        case ".arrows":
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as out:
                out.write_table(table, max_chunksize=5)
        case ".arrow" | ".feather":
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as out:
                out.write_table(table, max_chunksize=5)
        case ".jsonl":
            path.write_text("".join(f"{json.dumps(row)}\n" for row in table.to_pylist()))


def load(search, **settings) -> data.Dataset:
    """What is loaded, which is as it is described."""
    found = data.load("csv", settings, search)
    assert data.describe("csv", settings, search) == found.schema
    return found


def refused(search, **settings) -> str:
    with pytest.raises(UserError) as caught:
        data.load("csv", settings, search)
    return "\n".join(f"{d.code}: {d.message} ({d.help})" for d in caught.value.diagnostics)


# --- the same data --------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".parquet", ".arrow", ".arrows", ".feather", ".jsonl"])
def test_a_table_is_the_same_in_every_format(search, ending):
    columns = {name: values for name, values in ROWS.items() if name != "e"}
    elements = {f"e[{k}]": np.array(ROWS["e"])[:, k].tolist() for k in range(3)}
    text = {**columns, "new": [int(one) for one in ROWS["new"]], **elements}
    lines = [",".join(text), *(",".join(map(str, row)) for row in zip(*text.values(), strict=True))]
    (search.base / "t.csv").write_text("\n".join(lines) + "\n")
    write(search.base / f"t{ending}", **columns, e=ROWS["e"])
    for settings in (
        {"target": "price", "categories": ["colour"], "normalize": True},
        {"target": "colour", "columns": ["rooms", "age", "e[1]"]},
        {"target": ["price", "age"], "columns": ["rooms"]},
        {"target": "rooms", "columns": ["e[0]", "e[1]", "e[2]"], "labels": False},
    ):
        expected, found = (load(search, file=f"t{end}", **settings) for end in (".csv", ending))
        assert found.schema == expected.schema and found.columns == expected.columns
        assert found.class_names == expected.class_names
        for split in ("train", "test"):
            for name, array in expected.splits[split].arrays.items():
                np.testing.assert_array_equal(found.splits[split].arrays[name], array)


def test_sources_of_their_own(search):
    for source, ending in (("parquet", ".parquet"), ("arrow", ".feather"), ("jsonl", ".jsonl")):
        write(search.base / f"t{ending}", a=[1, 2, 3], y=[0.5, 1.5, 2.5])
        settings = {"file": f"t{ending}", "target": "y", "test": 0}
        found = data.load(source, settings, search)
        assert found.train.arrays["x"].tolist() == [[1], [2], [3]]
        assert data.describe(source, settings, search) == found.schema


def test_lists_are_vectors(search):
    kinds = [pa.list_(pa.float32()), pa.list_(pa.float64(), 3), pa.large_list(pa.int16())]
    for kind in kinds:
        whole = pa.types.is_large_list(kind)
        rows = [[int(one * 9) if whole else float(np.float32(one)) for one in r] for r in ROWS["e"]]
        write(search.base / "t.parquet", e=pa.array(rows, kind), y=ROWS["price"])
        found = load(search, file="t.parquet", target="y", columns=["e"], test=0)
        np.testing.assert_array_equal(found.train.arrays["x"], rows)
        found = load(search, file="t.parquet", target="e", columns=["y"], test=0)
        np.testing.assert_array_equal(found.train.arrays["y"], rows)


def test_records_and_what_is_missing(search):
    rows = [{"a": 1.5, "b": {"c": 2}}, {"a": None, "b": {"c": 4}}, {"a": float("nan"), "b": None}]
    for ending in (".parquet", ".jsonl"):
        write(search.base / f"t{ending}", r=rows * 2, y=[0.5, 1.5, 2.5] * 2)
        settings = {"file": f"t{ending}", "target": "y", "test": 0}
        found = load(search, **settings, missing="fill")
        assert found.columns["x"] == ("r.a", "r.b.c")
        assert found.train.arrays["x"][:3].tolist() == [[1.5, 2], [1.5, 4], [1.5, 3]]
        told = refused(search, **settings)
        word = "line" if ending == ".jsonl" else "row"
        assert "E0616" in told and f"t{ending}, {word} 2, column `r.a`: is empty" in told
    (search.base / "t.jsonl").write_text('{"y": 1.5}\n\n{"a": 2, "y": 0.5}\n{"a": "3", "y": 1}\n')
    found = load(search, file="t.jsonl", target="y", missing="fill", test=0)
    assert found.train.arrays["x"].tolist() == [[2.5], [2], [3]]
    with gzip.open(search.base / "t.jsonl.gz", "wb") as file:
        file.write((search.base / "t.jsonl").read_bytes())
    again = load(search, file="t.jsonl.gz", target="y", missing="fill", test=0)
    np.testing.assert_array_equal(again.train.arrays["x"], found.train.arrays["x"])


# --- types ----------------------------------------------------------------------------------------


def test_categoricals_are_categories(search):
    sizes = pa.DictionaryArray.from_arrays([2, 0, 1, 0], ["S", "M", "L"], ordered=True)
    colours = pa.array(["red", "blue", "red", "blue"]).dictionary_encode()
    write(search.base / "t.feather", size=sizes, colour=colours, y=[0.5] * 4)
    found = load(search, file="t.feather", target="y", test=0)
    assert found.columns["x"] == ("size", "colour is blue", "colour is red")
    assert found.train.arrays["x"].tolist() == [[2, 0, 1], [0, 1, 0], [1, 0, 1], [0, 1, 0]]
    found = load(search, file="t.feather", target="colour", columns=["y"], test=0)
    assert found.class_names == {"y": ("blue", "red")}


def test_pandas_and_polars_write_what_is_read(search):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1.5, None, 2.5], "c": pandas.Categorical(["u", "v", "u"])})
    frame["y"] = [1.5, 2.5, 3.5]
    frame.index = [4, 7, 9]
    frame.to_parquet(search.base / "t.parquet")
    found = load(search, file="t.parquet", target="y", missing="fill", test=0)
    assert found.columns["x"] == ("a", "c is u", "c is v")
    assert found.train.arrays["x"][:, 0].tolist() == [1.5, 2, 2.5]
    polars = pytest.importorskip("polars")
    polars.DataFrame({"a": [1, 2], "c": ["u", "v"], "y": [True, False]}).write_ipc(
        search.base / "t.arrow"
    )
    found = load(search, file="t.arrow", target="y", categories="c", test=0)
    assert found.train.arrays["y"].tolist() == [1, 0] and found.class_names["y"] == (
        "false",
        "true",
    )
    found = load(search, file="t.arrow", target="y", categories="c", labels=False, test=0)
    assert found.train.arrays["y"].tolist() == [1.0, 0.0] and not found.class_names


def test_times_split_and_names_of_labels_come_with_the_file(search):
    days = [datetime.datetime(2024, 1, day, tzinfo=datetime.UTC) for day in (3, 1, 4, 2)]
    features = {"y": {"names": ["cat", "dog", "owl"], "_type": "ClassLabel"}}
    note = {"huggingface": json.dumps({"info": {"features": features}})}
    for unit in ("s", "ns", None):
        kind = pa.timestamp(unit, "UTC") if unit else pa.date32()
        table = pa.table({"when": pa.array(days).cast(kind), "a": [1, 2, 3, 4], "y": [0, 1, 0, 1]})
        write(search.base / "t.parquet", table=table.replace_schema_metadata(note))
        found = load(search, file="t.parquet", target="y", time="when", test=0.5)
        assert found.train.arrays["x"].tolist() == [[2], [4]]
        assert found.class_names == {"y": ("cat", "dog", "owl")}
        assert found.schema.field("y").classes == 3


@pytest.mark.parametrize(
    ("values", "code", "told"),
    [
        (pa.array([1, 2**53 + 1]), "E0605", ["row 2, column `a`", "beyond 2^53", "categories"]),
        (pa.array([2**64 - 1, 0], pa.uint64()), "E0605", ["row 1", "`18446744073709551615`"]),
        (pa.array([decimal.Decimal("1.5")] * 2), "E0611", ["column `a`", "decimal128", "cast"]),
        (pa.array([datetime.date(2024, 1, 1)] * 2), "E0611", ["date32", "columns", 'time = "…"']),
        (pa.array([b"x", b"y"]), "E0611", ["binary", "bytes"]),
        (pa.array([["x"], ["y"]]), "E0611", ["list<", "columns = [...]"]),
        (pa.array([[], []], pa.list_(pa.int8())), "E0611", ["list<"]),
        (pa.array([[1.0, 2.0], [3.0]]), "E0604", ["row 2: column `a` has 1 numbers", "row 2"]),
        (pa.array(["1", "x"]), "E0605", ["row 2, column `a`: `x` is not a number", "categories"]),
        (pa.array([1.0, float("inf")]), "E0605", ["row 2", "not finite"]),
        (pa.nulls(2), "E0616", ["row 1", "is empty"]),
    ],
)
def test_what_is_no_exact_number_is_refused(search, values, code, told):
    write(search.base / "t.parquet", a=values, y=[0.5, 1.5])
    found = refused(search, file="t.parquet", target="y")
    assert found.startswith(code) and "t.parquet" in found
    assert all(part in found for part in told if part != "row 2" or code != "E0604"), found


def test_numbers_as_texts_and_integers_that_fit(search):
    whole = [2**53, -(2**53), 7]
    write(search.base / "t.parquet", a=pa.array(whole), b=["1.5", "-2e3", " 7 "], y=[0.5, 1.5, 2])
    found = load(search, file="t.parquet", target="y", test=0)
    assert found.train.arrays["x"].tolist() == [[2.0**53, 1.5], [-(2.0**53), -2000], [7, 7]]


def test_targets_that_f64_does_not_hold(search):
    for ending in (".parquet", ".jsonl"):
        write(search.base / f"t{ending}", a=[1.5, 2.5], y=[2**53, 2**53 + 1])
        told = refused(search, file=f"t{ending}", target="y", labels=False)
        word = "row" if ending == ".parquet" else "line"
        assert told.startswith("E0605") and f"{word} 2, column `y`: `9007199254740993`" in told


# --- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".parquet", ".feather", ".arrows"])
def test_damaged_files(search, ending):
    path = search.base / f"t{ending}"
    write(path, a=list(range(99)), y=ROWS["price"] * 4 + [0.5] * 3)
    whole = path.read_bytes()
    for kept in (12, len(whole) // 2, len(whole) - 9):
        path.write_bytes(whole[:kept])
        told = refused(search, file=path.name, target="y")
        assert told.startswith(("E0603", "E0613")) and str(path) in told, told
    generator = np.random.default_rng(1)
    for _ in range(40):  # any byte, whatever it leads to
        spoilt = bytearray(whole)
        spoilt[int(generator.integers(len(spoilt)))] ^= int(generator.integers(1, 256))
        path.write_bytes(spoilt)
        with contextlib.suppress(UserError):
            data.load("csv", {"file": path.name, "target": "y"}, search)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"a": 1, "y": 2}\n{"a": 1,\n', "E0603: PATH, line 2, column 9: this is no JSON"),
        ('[{"a": 1}, {"a": 2}]', 'E0604: PATH, line 1: `[{"a": 1}, {"a": 2}]` is no object (`jq'),
        ('{"y": 1}\n7\n', "E0604: PATH, line 2: `7` is no object"),
        ('{\n "a": 1\n}\n', "E0603: PATH, line 1, column 2: this is no JSON"),
        ("", "E0603: PATH is empty"),
        ("\n \n", "E0613: PATH holds only blank lines"),
        ('{"a": [1, 2], "y": 1}\n{"a": 5, "y": 1}\n', "E0604: PATH, line 2: column `a` has `5`"),
        ('{"a": ["x"], "y": 1}\n', "E0611: column `a` of PATH holds lists"),
        (
            '{"a": 9007199254740993, "y": 1}\n',
            "E0605: PATH, line 1, column `a`: `9007199254740993`",
        ),
        ('{"a": 1e999, "y": 1}\n', "E0605: PATH, line 1, column `a`: `inf` is not finite"),
    ],
)
def test_lines_that_are_no_table(search, text, told):
    (search.base / "t.jsonl").write_text(text)
    found = refused(search, file="t.jsonl", target="y", labels=False)
    assert found.startswith(told.replace("PATH", str(search.base / "t.jsonl"))), found


def test_other_names_of_formats(search):
    for name, right in (
        ("feather", "arrow"),
        ("json", "jsonl"),
        ("table", "csv"),
        ("hf", "parquet"),
    ):
        with pytest.raises(UserError, match="E0608") as caught:
            data.load(name, {"file": "t"}, search)
        assert f"write `{right}(" in caught.value.diagnostics[0].help
    write(search.base / "t.parquet", a=[1], y=[2])
    (search.base / "t.parquet.gz").write_bytes(
        gzip.compress((search.base / "t.parquet").read_bytes())
    )
    told = refused(search, file="t.parquet.gz", target="y")
    assert told.startswith("E0602") and "gunzip" in told


def test_without_pyarrow(search, monkeypatch):
    write(search.base / "t.parquet", a=[1], y=[2])
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    told = refused(search, file="t.parquet", target="y")
    assert told.startswith("E0609") and "pip install 'nnc-lang[arrow]'" in told
    (search.base / "t.jsonl").write_text('{"a": 1, "y": 0.5}\n')
    load(search, file="t.jsonl", target="y")


# --- several files --------------------------------------------------------------------------------


@pytest.fixture
def hub(search) -> Path:
    """A data set as Hugging Face has it: three shards that train, one that tests, one that
    validates."""
    folder = search.base / "hub" / "data"
    folder.mkdir(parents=True)
    (search.base / "hub" / "README.md").write_text("# A data set\n")
    (search.base / "hub" / ".gitattributes").write_text("*.parquet\n")
    (search.base / "hub" / "dataset_infos.json").write_text("{}\n")
    for split, count, first in (("train", 3, 0), ("test", 1, 30), ("validation", 1, 40)):
        for k in range(count):
            values = list(range(first + 4 * k, first + 4 * k + 4))
            name = f"{split}-{k:05}-of-{count:05}.parquet"
            write(folder / name, a=values, y=[v / 2 for v in values], colour=["u", "v"] * 2)
    return folder


def test_shards_and_splits(search, hub):
    settings = {"target": "y", "categories": "colour"}
    for name in ("hub", "hub/data", "hub/data/*.parquet"):
        found = load(search, file=name, **settings)
        assert {n: len(split) for n, split in found.splits.items()} == {
            "train": 12, "test": 4, "validation": 4,
        }  # fmt: skip
        assert found.train.arrays["x"][:, 0].tolist() == list(range(12))
        assert found.splits["validation"].arrays["y"].tolist() == [20, 20.5, 21, 21.5]
    found = load(search, file="hub/data/train-*", **settings, test=0.25)
    assert len(found.train) == 9 and found.test is not None and len(found.test) == 3
    found = load(search, file="hub/data/test*.parquet", **settings, test=0)
    assert found.train.arrays["y"].tolist() == [15, 15.5, 16, 16.5]
    (hub / "test-00000-of-00001.parquet").rename(hub / "val.parquet")
    (hub / "validation-00000-of-00001.parquet").unlink()
    assert set(load(search, file="hub", **settings).splits) == {"train", "validation"}


def test_splits_in_folders_and_tables_of_text(search):
    for split, rows in (("train", "1,2\n3,4\n"), ("dev", "5,6\n")):
        (search.base / "t" / split).mkdir(parents=True)
        (search.base / "t" / split / "part.csv").write_text("a,y\n" + rows)
    found = load(search, file="t", target="y", labels=False)
    assert found.train.arrays["x"].tolist() == [[1], [3]]
    assert found.splits["validation"].arrays["y"].tolist() == [6]
    (search.base / "t" / "dev" / "part.csv").write_text("y,a\n6,5\n")
    found = load(search, file="t", target="y", labels=False)
    assert found.splits["validation"].arrays["x"].tolist() == [[5]]
    for path in (search.base / "t").glob("*/*.csv"):  # packed, they are the same
        path.with_name("part.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.rename(search.base / f"{path.parent.name}.csv")
    again = load(search, file="t", target="y", labels=False)
    for split, part in found.splits.items():
        np.testing.assert_array_equal(again.splits[split].arrays["x"], part.arrays["x"])
    for path in (search.base / "t").glob("*/*.gz"):
        path.unlink()
        (search.base / f"{path.parent.name}.csv").rename(path.with_name("part.csv"))
    told = refused(search, file="t", target="y", labels=False, columns=["b"])
    assert told.startswith("E0614")
    (search.base / "t" / "dev" / "part.csv").write_text("a,y\n5,6\nx,7\n")
    told = refused(search, file="t", target="y", labels=False)
    assert "dev/part.csv, line 3, column `a`: `x` is not a number" in told


def test_files_that_are_not_one_table(search, hub):
    (hub / "train-00001-of-00003.parquet").rename(search.base / "away")
    told = refused(search, file="hub", target="y")
    assert told.startswith("E0601") and "train-00001-of-00003 is missing" in told
    write(hub / "train-00001-of-00003.parquet", a=[1], z=[2.0])
    told = refused(search, file="hub", target="y")
    assert told.startswith("E0614") and "lacks y, colour and has z" in told
    write(hub / "extra.parquet", a=[1])
    told = refused(search, file="hub", target="y")
    assert told.startswith("E0618") and "extra.parquet is of no split" in told
    (search.base / "two" / "en").mkdir(parents=True)
    (search.base / "two" / "de").mkdir()
    for language in ("en", "de"):
        write(search.base / "two" / language / "train.parquet", a=[1], y=[2])
    told = refused(search, file="two", target="y")
    assert told.startswith("E0618") and "more than one table: de, en" in told
    assert 'like `"two/de"`' in told
    (search.base / "none").mkdir()
    assert refused(search, file="none").startswith("E0617")
    assert refused(search, file="none/*.csv").startswith("E0601: no file fits `none/*.csv`")
    assert refused(search, file="../*.csv").startswith("E0617")


# --- runs -----------------------------------------------------------------------------------------

HOUSES = """
model Houses(x: f32[B, 5]) -> logits: f32[B, 2] {
    logits = x |> Dense(2)
}

train Houses {
    data      = parquet("hub", target = "kind", normalize = true)
    loss      = cross_entropy(logits, y)
    metric accuracy = mean(argmax(logits) == y)
    optimizer = adam(lr = 0.1)
    epochs    = 20
}
"""


def test_a_run_on_parquet(tmp_path, monkeypatch, capfd):
    """Training, evaluation, prediction on tables of every kind, other data on resuming."""
    monkeypatch.chdir(tmp_path)
    Path("hub").mkdir()
    size = RNG.normal(size=60)
    columns = {
        "size": size.tolist(),
        "town": pa.array(["Ulm", "Bonn"] * 30).dictionary_encode(),
        "e": [[k / 9, 1.0] for k in range(60)],
        "kind": ["large" if one > 0 else "small" for one in size],
    }
    table = pa.table(columns)
    for split, begin, end in (("train", 0, 40), ("test", 40, 50), ("validation", 50, 60)):
        write(Path(f"hub/{split}.parquet"), table=table.slice(begin, end - begin))
    Path("houses.nn").write_text(HOUSES)
    assert cli.run(["check", "houses.nn"]) == 0
    assert cli.run(["train", "houses.nn", "--out", "run"]) == 0
    notes = json.loads(Path("run/settings.json").read_text())
    assert {"train x", "test x", "validation y"} <= set(notes["data_sha256"])
    capfd.readouterr()
    assert cli.run(["eval", "run", "--json"]) == 0
    measured = json.loads(capfd.readouterr().out)
    assert measured["test_accuracy"] > 0.8
    assert measured["reports"]["validation"]["classes"] == ["large", "small"]
    new = table.slice(50).drop_columns(["kind"])
    for ending in (".parquet", ".feather", ".jsonl"):
        write(Path(f"new{ending}"), table=new)
    expected = columns["kind"][50:]
    for ending in (".parquet", ".feather", ".jsonl"):
        assert cli.run(["predict", "run", f"new{ending}"]) == 0
        rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
        assert sum(r["kind"] == e for r, e in zip(rows, expected, strict=True)) >= 8
        assert rows[3]["input"] == f"new{ending}:4"
    write(Path("hub/train.parquet"), table=table.slice(1, 40))
    assert cli.run(["train", "--resume", "run", "--epochs", "21"]) == 1
    said = capfd.readouterr().err
    assert "E0710" in said and "`x` of the" in said
