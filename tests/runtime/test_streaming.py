"""Data larger than the memory that they may take: read batch by batch, the same bits as data in
memory, in as little memory as is allowed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from peak_memory import peak

from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime import cli, data
from nnc.runtime.data.core.fingerprint import fingerprint
from nnc.runtime.data.core.mapped_file import MappedFile
from nnc.runtime.data.core.read_ahead import DEPTH
from nnc.runtime.data.core.stored import Joined, Mapped, Stored

PROGRAM = """
model M(x: f32[B, D]) -> guess: f32[B] {
    h = x |> Dense(1)
    guess[b] = h[b, 0]
}

train M {
    data       = SOURCE
    loss       = mse(guess, y)
    optimizer  = adam(lr = 1e-2)
    batch      = 8
    epochs     = 2
    validation = 0.2
}
"""
WHOLE, PARTS = 'npy(x = "x.npy", y = "y.npy")', 'npy(x = "x-*.npy", y = "y-*.npy")'
NONE, ALL = "1 B", "1 GB"  # of the data may be in memory


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NNC_DATA", raising=False)
    return tmp_path


@pytest.fixture
def limit(monkeypatch):
    return lambda size: monkeypatch.setenv("NNC_DATA_MEMORY", size)


def write_arrays(columns: int = 3, rows: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """x and y in whole files, and in a dozen parts."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(rows, columns)), random.normal(size=rows).astype(np.float32)
    for name, array in (("x", x), ("y", y)):
        np.save(f"{name}.npy", array)
        for number, part in enumerate(np.array_split(array, 12)):
            np.save(f"{name}-{number}.npy", part)
    return x, y


def load(source: str, **settings: object) -> data.Dataset:
    return data.load(source, settings, data.Search(None, Path.cwd(), cache=Path("cache")))


def train(source: str, run: str, *flags: str) -> Path:
    """The weights of a run."""
    Path(f"{run}.nn").write_text(PROGRAM.replace("SOURCE", source))
    assert cli.run(["train", f"{run}.nn", "--out", run, *flags]) == 0
    return Path(run, "weights.safetensors")


def weights(source: str, run: str, *flags: str) -> bytes:
    return train(source, run, *flags).read_bytes()


def resumed(source: str, run: str, limit, before: str, after: str) -> bytes:
    """The weights of a run that is interrupted after its first step and goes on with another
    limit."""
    limit(before)
    found = train(source, run, "--max-time", "0.001s")
    assert not found.exists()  # in the middle of the first epoch
    limit(after)
    assert cli.run(["train", "--resume", run]) == 0
    return found.read_bytes()


def test_what_is_streamed_trains_to_the_same_bits(here, limit):
    write_arrays()
    limit(ALL)
    expected = weights(WHOLE, "whole")
    assert weights(PARTS, "parts") == expected
    limit(NONE)
    assert weights(WHOLE, "streamed") == expected
    assert weights(PARTS, "shards", "--threads", "2") == expected
    assert resumed(PARTS, "shards2", limit, NONE, ALL) == expected
    assert resumed(WHOLE, "whole2", limit, ALL, NONE) == expected
    metrics = [Path(run, "metrics.jsonl").read_text() for run in ("whole", "shards")]
    losses = [[line.split('"seconds"')[0] for line in text.splitlines()] for text in metrics]
    assert losses[0] == losses[1]


def test_parts_follow_each_other_by_number(here, limit):
    x, y = write_arrays()
    found = load("npy", x="x-*.npy", y="y-*.npy", x_test="x.npy", y_test="y.npy")
    assert isinstance(found.train.arrays["x"], Joined) and len(found.train) == 100
    assert found.schema == load("npy", x="x.npy", y="y.npy").schema
    np.testing.assert_array_equal(found.train.arrays["x"], x)
    np.testing.assert_array_equal(found.train.arrays["y"][[99, 0, 50, 50]], y[[99, 0, 50, 50]])
    assert found.train.arrays["x"][-1:].tolist() == x[-1:].tolist()
    assert (found.test.arrays["x"] == x).all()


def test_archives_in_parts(here, limit):
    x, y = write_arrays()
    np.savez("part-1.npz", x=x[:30], y=y[:30], x_test=x[:2], y_test=y[:2])
    np.savez_compressed("part-2.npz", x=x[30:], y=y[30:], x_test=x[2:5], y_test=y[2:5])
    limit(NONE)
    found = load("npz", file="part-*.npz")
    np.testing.assert_array_equal(found.train.arrays["x"], x)
    np.testing.assert_array_equal(found.test.arrays["y"], y[:5])
    np.savez("part-3.npz", x=x, y=y, x_test=x)
    with pytest.raises(UserError) as error:
        load("npz", file="part-*.npz")
    said = error.value.diagnostics[0]
    assert said.code == "E0607" and "part-3.npz has no array `y_test`" in said.message


@pytest.mark.parametrize("order", ["C", "F", ">"])
def test_rows_are_read_from_the_file_in_any_layout(here, limit, order, monkeypatch):
    x, _ = write_arrays(5)
    # the other order of bytes, or of elements
    np.save("x.npy", x.astype(">f8") if order == ">" else np.array(x, order=order))
    limit(NONE)
    mapped = load("npy", x="x.npy").train.arrays["x"]
    assert isinstance(mapped, Mapped)
    released = []
    monkeypatch.setattr(MappedFile, "release", lambda file: released.append(file))
    rows = np.random.default_rng(1).permutation(100)
    np.testing.assert_array_equal(mapped.read(rows), x[rows])
    np.testing.assert_array_equal(mapped[10:93], x[10:93])
    np.testing.assert_array_equal(mapped[x[:, 0] > 0], x[x[:, 0] > 0])
    np.testing.assert_array_equal(mapped[-1], x[-1])
    assert mapped[:0].shape == (0, 5)
    # Of a layout of columns pages are given back; else none are touched.
    assert bool(released) == (order == "F")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-1]), "has been cut short while it was in use"),
        (lambda p: Path("y.npy").replace(p), "has been replaced while it was in use"),
        (lambda p: p.unlink(), "cannot read"),
    ],
)
def test_a_file_that_changes_in_use(here, limit, change, message):
    write_arrays()
    limit(NONE)
    split = load("npy", x="x.npy").train
    change(Path("x.npy"))
    with pytest.raises(UserError) as error:
        split.take("x", np.arange(4), np.empty((4, 3)))
    assert message in error.value.diagnostics[0].message


def test_the_hash_of_data_does_not_depend_on_where_they_are(here, limit):
    write_arrays()
    Path("t.txt").write_bytes(b"some bytes of a text " * 20)
    text = {"file": "t.txt", "vocabulary": "bytes", "length": 5, "stride": 2}
    limit(ALL)
    plain, windows = fingerprint(load("npy", x="x.npy")), fingerprint(load("text", **text))
    limit(NONE)
    assert fingerprint(load("npy", x="x.npy")) == plain
    assert fingerprint(load("npy", x="x-*.npy")) == plain
    found = load("text", **text)
    assert isinstance(found.train.arrays["token"], Mapped) and fingerprint(found) == windows
    raw = np.frombuffer(Path("t.txt").read_bytes(), np.uint8)
    rows = np.array([7, 0, 3, 4])
    for field, shift in (("token", 0), ("target", 1)):
        expected = [raw[2 * row + shift : 2 * row + shift + 5] for row in rows]
        np.testing.assert_array_equal(found.train.arrays[field].read(rows), expected)


def write_table(rows: int = 300) -> None:
    """Numbers, words, missing cells, and a target of numbers."""
    random = np.random.default_rng(0)
    sizes, words = random.normal(size=(rows, 3)).round(4).astype(str), ["red", "blue", "", "green"]
    lines = ["a,b,c,colour,y"]
    for number, row in enumerate(sizes):
        row[2] = "" if number % 7 == 3 else row[2]
        lines.append(",".join([*row, words[number % 4], f"{float(row[0]) * 2:.4f}"]))
    Path("t.csv").write_text("\n".join(lines) + "\n")
    for number in range(3):
        part = lines[1 + number * 100 : 101 + number * 100]
        Path(f"part-{number}.csv").write_text("\n".join([lines[0], *part]) + "\n")


TABLES = {
    "plain": {"columns": ["a", "b"]},
    "encoded": {
        "columns": ["colour", "c", "a"],
        "categories": "colour",
        "missing": "indicator",
        "normalize": True,
    },
    "filled": {"columns": ["c", "b"], "missing": "fill", "normalize": True, "test": 0},
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_converted_to_a_file_and_found_again(here, limit, name, monkeypatch):
    """The same numbers and statistics, also if the file in the cache is damaged."""
    write_table()
    settings = {"target": "y", **TABLES[name]}
    limit(ALL)
    whole = load("csv", file="t.csv", **settings)
    assert isinstance(whole.train.arrays["x"], np.ndarray) and not Path("cache").exists()
    limit("2 kB")
    monkeypatch.setattr("nnc.runtime.data.formats.table_file.BLOCK_CELLS", 100)
    monkeypatch.setattr("nnc.runtime.data.formats.csv_features.COLUMNS_BYTES", 3000)
    monkeypatch.setattr("nnc.runtime.data.formats.csv_features.BLOCK_BYTES", 500)
    for source in ("t.csv", "part-*.csv", "t.csv", "damaged", "t.csv"):
        if source == "damaged":
            for file in Path("cache/tables").glob("*.rows"):
                file.write_bytes(file.read_bytes()[:-30] + bytes(30))
            continue
        found = load("csv", file=source, **settings)
        assert isinstance(found.train.arrays["x"], Stored)
        assert found.reader == whole.reader and found.schema == whole.schema
        for split_name, split in whole.splits.items():
            for field, array in split.arrays.items():
                np.testing.assert_array_equal(found.splits[split_name].arrays[field], array)
        assert fingerprint(found) == fingerprint(whole)


def test_a_table_trains_to_the_same_bits(here, limit):
    write_table()
    settings = 'target = "y", columns = ["a", "c"], missing = "fill", normalize = true'
    limit(ALL)
    expected = weights(f'csv("t.csv", {settings})', "whole")
    limit(NONE)
    assert weights(f'csv("t.csv", {settings})', "streamed") == expected
    assert weights(f'csv("part-*.csv", {settings})', "shards") == expected
    assert resumed(f'csv("t.csv", {settings})', "again", limit, NONE, ALL) == expected


def test_row_groups_of_parquet_are_converted_one_by_one(here, limit):
    parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet needs pyarrow")
    table = pytest.importorskip("pyarrow").table(
        {"a": np.arange(500) / 7, "b": np.arange(500), "y": np.arange(500) % 5}
    )
    parquet.write_table(table, "t.parquet", row_group_size=64)
    limit(ALL)
    whole = load("parquet", file="t.parquet", target="y", normalize=True)
    limit(NONE)
    found = load("parquet", file="t.parquet", target="y", normalize=True)
    assert isinstance(found.train.arrays["x"], Stored)
    assert fingerprint(found) == fingerprint(whole)


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ([f"{n}.5" for n in range(40)], "numbers"),
        ([*map(str, range(40)), "word"], "E0605"),
        ([*map(str, range(40)), ""], "E0616"),
        ([*map(str, range(40)), *[f"word{n % 3}" for n in range(60)]], "words"),
    ],
)
def test_targets_of_many_numbers_are_kept_as_numbers(here, cells, kind, monkeypatch):
    """What a column is depends on the whole of it, also if most of it came before."""
    lines = [f"{n},{cell}" for n, cell in enumerate(cells)]
    Path("t.csv").write_text("x,y\n" + "\n".join(lines) + "\n")
    found = []
    for many in (1 << 16, 5):
        monkeypatch.setattr("nnc.runtime.data.formats.csv_targets.MANY", many)
        monkeypatch.setattr("nnc.runtime.data.formats.table_file.BLOCK_CELLS", 8)
        try:
            loaded = load("csv", file="t.csv", target="y", test=0)
            y = loaded.train.arrays["y"].tolist()
            found.append((y, loaded.class_names, loaded.schema, "words" * bool(loaded.class_names)))
        except UserError as error:
            found.append([(d.code, d.message, d.help) for d in error.diagnostics])
    assert found[0] == found[1]
    assert kind == "numbers" or kind in str(found[0])


def write_pictures(count: int = 12) -> None:
    """Two classes of small pictures, in several formats and sizes."""
    pillow = pytest.importorskip("PIL.Image", reason="images need Pillow")
    random = np.random.default_rng(0)
    for number in range(count):
        place = Path(
            "pets", ("cat", "dog")[number % 2], f"{number}.{('png', 'jpg')[number % 3 > 0]}"
        )
        place.parent.mkdir(parents=True, exist_ok=True)
        pillow.fromarray(random.integers(0, 256, (6, 5 + number, 3), np.uint8)).save(place)


PICTURES = """
model M(image: f32[B, 4, 4, 3]) -> logits: f32[B, 2] {
    logits = image |> Flatten |> Dense(2)
}
train M {
    data      = images("pets", size = [4, 4], test = 0.25)
    loss      = cross_entropy(logits, label)
    optimizer = adam(lr = 1e-2)
    batch     = 4
    epochs    = 2
}
"""


def test_pictures_are_decoded_batch_by_batch(here, limit, capsys):
    write_pictures()
    settings = {"folder": "pets", "size": [4, 4], "test": 0.25}
    limit(ALL)
    whole = load("images", **settings)
    limit(NONE)
    found = load("images", **settings)
    assert isinstance(found.train.arrays["image"], Stored)
    for name, split in whole.splits.items():
        np.testing.assert_array_equal(found.splits[name].arrays["image"], split.arrays["image"])
    assert fingerprint(found) == fingerprint(whole)
    Path("m.nn").write_text(PICTURES)
    runs = []
    for size, flags in ((ALL, []), (NONE, []), (NONE, ["--max-time", "0.001s"])):
        limit(size)
        runs.append(Path(f"run{len(runs)}"))
        assert cli.run(["train", "m.nn", "--out", str(runs[-1]), *flags]) == 0
    assert cli.run(["train", "--resume", str(runs[-1])]) == 0
    first, *others = [(run / "weights.safetensors").read_bytes() for run in runs]
    assert [first, first] == others
    # What is damaged is found when it is read, with its name.
    Path("pets/dog/1.jpg").write_bytes(b"no picture")
    capsys.readouterr()
    assert cli.run(["train", "m.nn", "--out", "wrong"]) == 1
    said = capsys.readouterr().err
    assert "E0603" in said and "pets/dog/1.jpg cannot be decoded" in said


def test_batches_are_read_once_and_ahead(here, limit):
    write_arrays()
    limit(NONE)
    split = load("npy", x="x.npy", y="y.npy").train
    read = []
    inner = split.arrays["x"].read
    split.arrays["x"].read = lambda rows: read.append(rows.tolist()) or inner(rows)
    batches = [np.arange(n, n + 4) for n in range(0, 40, 4)]
    out = np.empty((4, 3), np.float32)
    for number, rows in enumerate(batches):
        split.expect(batches[number + 1 : number + 1 + DEPTH])
        split.take("x", rows, out)
        np.testing.assert_array_equal(out, np.load("x.npy")[rows].astype(np.float32))
    assert sorted(read) == [rows.tolist() for rows in batches]


@pytest.mark.parametrize(
    ("settings", "code", "message"),
    [
        ({"x": "z-*.npy"}, "E0601", "no file fits `z-*.npy` in"),
        ({"x": "../x-*.npy"}, "E0617", "leads out of the folders"),
        ({"x": "w-*.npy"}, "E0607", "w-2.npy has examples of float32[3], but those of"),
        ({"x": "x-*.npy", "y": "v-*.npy"}, "E0607", "v-0.npy has 10 examples, and"),
    ],
)
def test_wrong_parts(here, settings, code, message):
    x, y = write_arrays()
    np.save("w-1.npy", x)
    np.save("w-2.npy", x.astype(np.float32))
    for number, part in enumerate(np.split(y, [10, 17, *range(25, 100, 8)][:11])):
        np.save(f"v-{number}.npy", part)
    with pytest.raises(UserError) as error:
        load("npy", **settings)
    said = error.value.diagnostics[0]
    assert said.code == code and message in said.message


def test_a_name_with_a_wildcard_may_be_a_file(here):
    x, _ = write_arrays()
    np.save("x[1].npy", x)
    assert len(load("npy", x="x[1].npy").train) == 100


def test_a_limit_that_is_no_size(here, limit):
    write_arrays()
    limit("lots")
    with pytest.raises(UserError, match="E0615") as error:
        load("npy", x="x.npy")
    assert "$NNC_DATA_MEMORY is `lots`" in error.value.diagnostics[0].message
    for size in ("1e9", "-5 MB", "MB"):
        limit(size)
        with pytest.raises(UserError):
            load("npy", x="x.npy")
    limit("1.5 GiB")
    assert not isinstance(load("npy", x="x.npy").train.arrays["x"], Stored)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_training_takes_less_memory_than_its_data(here, limit):
    """240 MB of data, of which 10 may be in memory: beside what the process takes without data,
    no more than batches, and what is kept of files."""
    write_arrays(2)
    Path("small.nn").write_text(PROGRAM.replace("SOURCE", WHOLE).replace("[B, D]", "[B, 2]"))
    limit("10 MB")
    base = peak("small.nn", "--out", "small")
    x = np.lib.format.open_memmap("x.npy", "w+", np.float32, (30_000, 2_000))
    for start in range(0, len(x), 1000):
        x[start : start + 1000] = start / len(x)
    del x
    np.save("y.npy", np.zeros(30_000, np.float32))
    large = PROGRAM.replace("SOURCE", WHOLE).replace("batch      = 8", "batch      = 500")
    Path("large.nn").write_text(large.replace("epochs     = 2", "epochs     = 1"))
    assert peak("large.nn", "--out", "large") - base < 100e6
