"""Data sources: what they give, and what `Split.take` writes. Wrong data: `test_data_mistakes.py`.

No test reads the user's cache or the network; the real MNIST is read if it is on this machine.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime import data
from nnc.runtime.data.core import splitting
from nnc.runtime.data.formats import images
from nnc.runtime.data.sets import fashion_mnist, mnist


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    monkeypatch.delenv("NNC_DATA", raising=False)


@pytest.fixture
def search(tmp_path):
    (tmp_path / "here").mkdir()
    return data.Search(None, tmp_path / "here", offline=True, cache=tmp_path / "cache")


def real_data() -> Path | None:
    """The folder of real data sets, if this machine has one."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    named = os.environ.get("NNC_DATA")
    places = (Path(named) if named else beside, beside)
    return next((path for path in places if path.is_dir()), None)


REAL = real_data()


def idx(array: np.ndarray) -> bytes:
    """The IDX file of a u8 array."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return (0x0800 + array.ndim).to_bytes(4, "big") + sizes + array.astype(np.uint8).tobytes()


def small_mnist(train: int = 20, test: int = 10) -> dict[str, bytes]:
    """Plain IDX files by canonical name, with pixels that name their example."""
    files = {}
    for part, count in (("train", train), ("t10k", test)):
        images = np.arange(count)[:, None, None] * np.ones((28, 28), np.int64)
        files[f"{part}-images-idx3-ubyte"] = idx(images)
        files[f"{part}-labels-idx1-ubyte"] = idx(np.arange(count) % 10)
    return files


def write(folder: Path, files: dict[str, bytes], suffix: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        packed = gzip.compress(content, 1) if suffix else content
        (folder / (name + suffix)).write_bytes(packed)
    return folder


def taken(split: data.Split, name: str, rows, dtype=np.float32) -> np.ndarray:
    rows = np.asarray(rows, np.int64)
    out = np.full((len(rows), *split.arrays[name].shape[1:]), 99, dtype)
    split.take(name, rows, out)
    return out


# ── Split.take ───────────────────────────────────────────────────────────────────────────────────


def test_take_scales_bytes_in_pieces():
    stored = np.random.default_rng(0).integers(0, 256, (3000, 20, 20), np.uint8)
    split = data.Split({"image": stored}, {"image": 1 / 255})
    rows = np.random.default_rng(1).permutation(3000)  # 1.2 MB: several pieces of scratch
    found = taken(split, "image", rows)
    np.testing.assert_array_equal(found, stored[rows] * np.float32(1 / 255))
    assert found.max() == 1.0 and found.min() == 0.0


@pytest.mark.parametrize("stored", ["u1", "i1", "<i8", ">i4", "<f8", ">f4", "<f2", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_take_converts_every_stored_type(stored, order):
    array = np.asarray(np.arange(60).reshape(10, 3, 2) % 7, dtype=stored, order=order)
    rows = [9, 0, 3, 3]
    found = taken(data.Split({"x": array}), "x", rows)
    np.testing.assert_array_equal(found, array[rows].astype(np.float32))


def test_take_reads_unaligned_values():
    raw = np.frombuffer(b"\0" + np.arange(12, dtype="<f4").tobytes(), np.uint8)
    array = raw[1:].view("<f4").reshape(4, 3)
    np.testing.assert_array_equal(taken(data.Split({"x": array}), "x", [3, 1]), array[[3, 1]])


def test_take_of_no_rows():
    assert taken(data.Split({"x": np.ones((4, 2))}), "x", []).shape == (0, 2)


def test_take_refuses_a_callers_mistake():
    split = data.Split({"x": np.ones((4, 2)), "u": np.ones(4, np.uint8)}, {"u": 0.5})
    for rows in ([4], [-1]):
        with pytest.raises(IndexError):
            taken(split, "x", rows)
    with pytest.raises(ValueError, match="shape"):
        split.take("x", np.array([1]), np.empty((1, 3), np.float32))
    with pytest.raises(TypeError):
        taken(split, "x", [1], np.int32)
    with pytest.raises(TypeError):
        taken(split, "u", [1], np.int32)


# ── known sets ───────────────────────────────────────────────────────────────────────────────────


def test_digits(search):
    schema = data.describe("digits", {}, search)
    assert [str(field) for field in schema.fields] == ["image: f32[8, 8, 1]", "label: i32[]"]
    found = data.load("digits", {}, search)
    assert schema == found.schema and schema.field("label").classes == 10
    assert (len(found.train), len(found.test), schema.count) == (1438, 359, 1438)
    pixels = taken(found.train, "image", range(1438))
    assert pixels.min() == 0 and pixels.max() == 1
    shares = np.bincount(found.test.arrays["label"]) / np.bincount(
        np.concatenate([found.train.arrays["label"], found.test.arrays["label"]])
    )
    assert np.abs(shares - 0.2).max() < 0.01  # stratified


def test_digits_split_is_the_same_everywhere(search):
    found = data.load("digits", {}, search)
    assert found.train.arrays["label"][:12].tolist() == [0, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]
    assert found.test.arrays["label"][:12].tolist() == [1, 4, 8, 0, 5, 5, 0, 4, 7, 0, 2, 2]


def test_digits_without_a_test_split(search):
    found = data.load("digits", {"test": 0}, search)
    assert len(found.train) == found.schema.count == 1797 and found.test is None


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("folder", ["", "mnist", "data", "data/mnist"])
def test_mnist_is_found_beside_the_file(search, folder, suffix):
    write(search.base / folder, small_mnist(), suffix)
    found = data.load("mnist", {}, search)
    assert (len(found.train), len(found.test), found.schema.count) == (20, 10, 20)
    assert data.describe("mnist", {}, search) == found.schema
    image = taken(found.train, "image", [7])
    assert image.shape == (1, 28, 28, 1) and np.all(image == np.float32(7) * np.float32(1 / 255))
    assert taken(found.test, "label", range(10), np.int32).tolist() == list(range(10))


def test_mnist_is_found_by_flag_environment_and_cache_in_that_order(search, tmp_path, monkeypatch):
    write(search.cache / "mnist", small_mnist(train=11))
    assert len(data.load("mnist", {}, search).train) == 11
    monkeypatch.setenv("NNC_DATA", str(write(tmp_path / "named", small_mnist(train=12))))
    assert len(data.load("mnist", {}, search).train) == 12
    explicit = data.Search(tmp_path / "flag", search.base, True, search.cache)
    write(tmp_path / "flag" / "mnist", small_mnist(train=13))
    assert len(data.load("mnist", {}, explicit).train) == 13


def test_mnist_spelt_with_a_dot_and_without_scaling(search):
    files = {name.replace("-idx", ".idx"): content for name, content in small_mnist().items()}
    write(search.base, files)
    found = data.load("mnist", {"normalize": False}, search)
    assert np.all(taken(found.train, "image", [7]) == 7)


def test_mnist_unpacks_once_and_notices_a_change(search):
    write(search.base, small_mnist(train=20), ".gz")
    data.load("mnist", {}, search)
    kept = sorted((search.cache / "unpacked").iterdir())
    stamps = [path.stat().st_mtime_ns for path in kept]
    assert len(kept) == 4
    data.load("mnist", {}, search)
    assert [path.stat().st_mtime_ns for path in kept] == stamps
    kept[0].write_bytes(b"cut")  # a damaged copy is made anew
    data.load("mnist", {}, search)
    write(search.base, small_mnist(train=30), ".gz")
    assert len(data.load("mnist", {}, search).train) == 30


def test_fashion_mnist_is_no_mnist_that_lies_in_the_same_folder(search, tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist.SET, "installed", tmp_path / "installed")
    write(search.base, small_mnist(train=7))
    with pytest.raises(UserError) as caught:
        data.load("fashion_mnist", {}, search)
    assert caught.value.diagnostics[0].code == "E0601"
    assert "Fashion-MNIST" in caught.value.diagnostics[0].message
    write(tmp_path / "installed", small_mnist(train=8), ".gz")
    found = data.load("fashion_mnist", {}, search)
    assert len(found.train) == 8 and found.class_names["label"][9] == "Ankle boot"
    write(search.base / "fashion_mnist", small_mnist(train=9))
    assert len(data.load("fashion_mnist", {}, search).train) == 9


def test_mnist_without_a_cache_that_can_be_written(search):
    write(search.base, small_mnist(), ".gz")
    search.cache.write_text("a file where the folder should be")
    assert len(data.load("mnist", {}, search).train) == 20


def test_mnist_is_downloaded_into_the_cache(search, tmp_path, monkeypatch):
    files = small_mnist()
    server = write(tmp_path / "server", files, ".gz")
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(mnist.SET, "address", server.as_uri() + "/")
    monkeypatch.setattr(mnist.SET, "checksums", sums)
    said: list[str] = []
    online = data.Search(None, search.base, cache=search.cache, notify=said.append)
    assert data.describe("mnist", {}, online).count == 60_000  # describing downloads nothing
    assert not search.cache.exists()
    assert len(data.load("mnist", {}, online).train) == 20
    assert len(said) == 4 and "train-images" in said[0]
    assert sorted(path.name for path in (search.cache / "mnist").iterdir()) == sorted(
        f"{name}.gz" for name in files
    )
    assert len(data.load("mnist", {}, search).train) == 20  # and now offline


@pytest.mark.skipif(
    REAL is None or not (REAL / "mnist").is_dir(),
    reason="the real MNIST is not here: name its folder's parent with NNC_DATA",
)
def test_the_real_mnist(search):
    found = data.load("mnist", {}, data.Search(REAL, search.base, True, search.cache))
    assert (len(found.train), len(found.test)) == (60_000, 10_000)
    assert found.train.arrays["label"][:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert round(float(taken(found.train, "image", range(60_000)).mean(dtype="f8")), 4) == 0.1307


# ── npy and npz ──────────────────────────────────────────────────────────────────────────────────


def is_mapped(array: np.ndarray) -> bool:
    while array is not None and not isinstance(array, np.memmap):
        array = getattr(array, "base", None)
    return array is not None


def test_npy(search):
    x, y = np.arange(12.0).reshape(6, 2), np.arange(6)
    for name, array in {"x": x, "y": y, "xt": x[:2], "yt": y[:2]}.items():
        np.save(search.base / f"{name}.npy", array)
    files = {"x": "x.npy", "y": "y.npy", "x_test": "xt.npy", "y_test": "yt.npy"}
    found = data.load("npy", files, search)
    assert found.schema == data.describe("npy", files, search)
    assert [str(field) for field in found.schema.fields] == ["x: f64[2]", "y: i64[]"]
    assert (len(found.train), len(found.test), found.validation) == (6, 2, None)
    assert all(is_mapped(split.arrays["x"]) for split in found.splits.values())
    np.testing.assert_array_equal(taken(found.train, "x", [5, 0]), x[[5, 0]])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(search, save):
    x = np.asarray(np.arange(24, dtype=np.float32).reshape(6, 2, 2), order="F")
    y = np.arange(6, dtype=np.int16)
    save(
        search.base / "set.npz",
        x_train=x,
        y_train=y,
        x_test=x[:3],
        y_test=y[:3],
        x_validation=x[:1],
        y_validation=y[:1],
    )
    found = data.load("npz", {"file": "set.npz"}, search)
    assert found.schema == data.describe("npz", {"file": "set.npz"}, search)
    assert [str(field) for field in found.schema.fields] == ["x: f32[2, 2]", "y: i32[]"]
    assert {name: len(split) for name, split in found.splits.items()} == {
        "train": 6,
        "test": 3,
        "validation": 1,
    }
    assert is_mapped(found.train.arrays["x"]) == (save is np.savez)
    np.testing.assert_array_equal(taken(found.train, "x", [5, 0]), x[[5, 0]])
    assert taken(found.train, "y", [5, 0], np.int32).tolist() == [5, 0]


@pytest.mark.parametrize(
    "stored, expected",
    [
        ("?", "bool"),
        ("u1", "u8"),
        ("i1", "i8"),
        ("u2", "i32"),
        ("u4", "i64"),
        (">i8", "i64"),
        ("f2", "f32"),
        (">f4", "f32"),
        ("f8", "f64"),
    ],
)
def test_npy_types(search, stored, expected):
    np.save(search.base / "x.npy", np.ones((2, 3), stored))
    assert data.describe("npy", {"x": "x.npy"}, search).fields[0].dtype == expected


def test_npy_of_every_format_version(search):
    for version in ((1, 0), (2, 0), (3, 0)):
        with open(search.base / "x.npy", "wb") as file:
            np.lib.format.write_array(file, np.arange(3.0), version)
        assert data.load("npy", {"x": "x.npy"}, search).train.arrays["x"].tolist() == [0, 1, 2]


def test_files_are_searched_for_beside_the_model_then_where_named(search, tmp_path, monkeypatch):
    def count() -> int:
        return len(data.load("npy", {"x": "x.npy"}, search).train)

    monkeypatch.setenv("NNC_DATA", str(tmp_path))
    np.save(tmp_path / "x.npy", np.ones(1))
    assert count() == 1
    np.save(search.base / "x.npy", np.ones(2))
    assert count() == 2
    absolute = {"x": str(tmp_path / "x.npy")}
    assert len(data.load("npy", absolute, search).train) == 1


# ── csv ──────────────────────────────────────────────────────────────────────────────────────────


def table(search, text: str, **settings) -> data.Dataset:
    (search.base / "t.csv").write_text(text, encoding="utf-8")
    settings = {"file": "t.csv", "test": 0, **settings}
    found = data.load("csv", settings, search)
    assert data.describe("csv", settings, search) == found.schema
    return found


def test_csv_of_numbers(search):
    found = table(search, "a,price,b\n1,2.5,3\n-4e1, 5 ,6\n", target="price")
    assert [str(field) for field in found.schema.fields] == ["x: f64[2]", "y: f64[]"]
    assert found.train.arrays["x"].tolist() == [[1, 3], [-40, 6]]
    assert found.train.arrays["y"].tolist() == [2.5, 5.0]
    assert found.train.arrays["x"].dtype == np.float64


def test_csv_of_words(search):
    found = table(search, "kind,a\nrose,1\niris,2\nrose,3\n7,4\n", target="kind")
    assert found.class_names == {"y": ("7", "iris", "rose")}
    assert found.train.arrays["y"].tolist() == [2, 1, 2, 0]
    assert found.schema.field("y") == data.Field("y", "i32", (), 3)


@pytest.mark.parametrize(
    "cells, labels, dtype, classes",
    [
        ("0 2 1", None, "i32", 3),
        ("1 2 3", None, "i32", 4),
        ("0 255", None, "i32", 256),
        ("0 256", None, "f64", None),
        ("-1 1", None, "f64", None),
        ("0.0 1.0", None, "f64", None),
        ("0.0 1.0", True, "i32", 2),
        ("0 999", True, "i32", 1000),
        ("0 2 1", False, "f64", None),
    ],
)
def test_csv_labels(search, cells, labels, dtype, classes):
    text = "a,y\n" + "".join(f"0,{cell}\n" for cell in cells.split())
    field = table(search, text, target="y", labels=labels).schema.field("y")
    assert (field.dtype, field.classes) == (dtype, classes)


def test_csv_as_spreadsheets_write_it(search):
    text = '\ufeff"first; one";"second"\r\n"1";"a ""b"""\r\n\r\n2;"c\r\nd"\r\n3;x'
    found = table(search, text, target="second", delimiter=";")
    assert found.train.arrays["x"].tolist() == [[1], [2], [3]]
    assert found.class_names["y"] == ('a "b"', "c\r\nd", "x")


def test_csv_choice_of_columns(search):
    text = "name,a,b,c,d\nx,1,2,3,4\ny,5,6,7,8\n"
    found = table(search, text, target=["d", "b"], columns=["c", "a"])
    assert found.train.arrays["x"].tolist() == [[3, 1], [7, 5]]
    assert found.train.arrays["y"].tolist() == [[4, 2], [8, 6]]
    only = table(search, "a,b\n1,2\n")
    assert [field.name for field in only.schema.fields] == ["x"]


def test_csv_without_a_header_and_with_other_delimiters(search):
    for delimiter in "\t |":
        text = "1,2,0\n4,5,1\n".replace(",", delimiter)
        found = table(search, text, target="3", header=False, delimiter=delimiter)
        assert found.train.arrays["x"].tolist() == [[1, 2], [4, 5]]


def test_csv_split_is_seeded_and_keeps_rows_whole(search):
    text = "a,y\n" + "".join(f"{i},{i}.5\n" for i in range(10_000))  # several blocks
    found = table(search, text, target="y", test=0.25)
    assert (len(found.train), len(found.test)) == (7500, 2500)
    for split in found.splits.values():
        np.testing.assert_array_equal(split.arrays["x"][:, 0] + 0.5, split.arrays["y"])
    again, other = (table(search, text, target="y", test=0.25, seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(found.test.arrays["x"], again.test.arrays["x"])
    assert not np.array_equal(found.test.arrays["x"], other.test.arrays["x"])


def test_split_rows_are_a_partition():
    for count, share in ((1, 0.5), (2, 0.01), (2, 0.99), (7, 0.2), (100, 0.999), (5, 0)):
        labels = np.arange(count) % 3
        for given in (None, labels):
            train, test = splitting.split_rows(count, share, 3, given)
            assert sorted([*train, *test]) == list(range(count))
            assert len(test) == splitting.split_size(count, share) and len(train)


# ── images ───────────────────────────────────────────────────────────────────────────────────────


def picture(path: Path, colour, size=(6, 4), mode="RGB") -> None:
    Image = pytest.importorskip(
        "PIL.Image", reason="the image tests need Pillow (nnc-lang[images])"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


def test_images(search):
    for number in range(10):
        picture(search.base / "pets" / "cat" / f"{number}.png", (number, 0, 255))
        picture(search.base / "pets" / "dog" / f"{number}.JPG", number, mode="L")
    (search.base / "pets" / "cat" / ".DS_Store").write_bytes(b"")
    settings = {"folder": "pets", "size": [4, 6]}
    found = data.load("images", settings, search)
    assert data.describe("images", settings, search) == found.schema
    assert [str(field) for field in found.schema.fields] == ["image: f32[4, 6, 3]", "label: i32[]"]
    assert found.class_names == {"label": ("cat", "dog")}
    assert np.bincount(found.test.arrays["label"]).tolist() == [2, 2]
    assert len(found.train) == 16
    first = taken(found.train, "image", [0])
    assert np.all(first[..., 2] == 1) and np.all(first[..., 0] < 0.05)


def test_images_with_their_own_test_folder(search):
    picture(search.base / "pets/train/cat/1.png", 10, mode="L")
    picture(search.base / "pets/train/dog/1.gif", 200, mode="P")
    picture(search.base / "pets/test/dog/1.bmp", (30, 30, 30))
    picture(search.base / "pets/validation/cat/1.png", (60, 60, 60, 0), mode="RGBA")
    found = data.load("images", {"folder": "pets", "size": [2, 3], "channels": 1}, search)
    assert {name: len(split) for name, split in found.splits.items()} == {
        "train": 2,
        "test": 1,
        "validation": 1,
    }
    assert found.test.arrays["label"].tolist() == [1]
    assert np.all(found.test.arrays["image"] == 30)
    assert found.train.arrays["image"].shape == (2, 2, 3, 1)


def test_images_too_large_for_memory_are_mapped(search, monkeypatch):
    monkeypatch.setattr(images, "IN_MEMORY", 10)
    for number in range(3):
        picture(search.base / "pets" / "cat" / f"{number}.png", (number, 0, 9))
    found = data.load("images", {"folder": "pets", "size": [2, 2], "test": 0}, search)
    assert is_mapped(found.train.arrays["image"])
    assert found.train.arrays["image"][:, 0, 0].tolist() == [[0, 0, 9], [1, 0, 9], [2, 0, 9]]


# ── settings ─────────────────────────────────────────────────────────────────────────────────────


def test_bind_places_unnamed_settings():
    source = data.SOURCES["csv"]
    assert data.bind(source, ["t.csv"], {"target": "y"}) == {"file": "t.csv", "target": "y"}


def test_signatures_say_how_sources_are_written():
    shown = {name: source.signature for name, source in data.SOURCES.items()}
    assert shown["mnist"] == "mnist(normalize = true)"
    assert shown["digits"] == "digits(test = 0.2)"
    assert shown["npy"] == "npy(NAME = …)"
    assert shown["images"] == "images(folder, size, channels = 3, test = 0.2, seed = 0)"


def test_every_source_and_setting_is_documented():
    for name, source in data.SOURCES.items():
        assert source.name == name and source.doc
        assert all(setting.doc for setting in source.settings)


def test_the_package_imports_nothing_heavy():
    heavy = "{'PIL', 'urllib.request', 'ssl', 'http.client', 'sklearn'}"
    code = f"import nnc.runtime.data, sys; print(sorted({heavy} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_npz_members_are_read_at_their_own_offset(search):
    """A member with an extra field begins later than its name suggests."""
    array = np.arange(5, dtype=np.float64)
    np.save(search.base / "x.npy", array)
    with zipfile.ZipFile(search.base / "set.npz", "w") as archive:
        member = zipfile.ZipInfo("x.npy")
        member.extra = b"\x99\x99\x03\x00abc"
        archive.writestr(member, (search.base / "x.npy").read_bytes())
    found = data.load("npz", {"file": "set.npz"}, search)
    assert is_mapped(found.train.arrays["x"])
    assert taken(found.train, "x", [4, 2]).tolist() == [4, 2]
