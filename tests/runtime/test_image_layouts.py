"""Images as data sets of Hugging Face lay them out: beside a table of metadata, and in Parquet."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime import cli, data

Image = pytest.importorskip("PIL.Image", reason="images need Pillow (nnc-lang[images])")

NAMES = ("cat", "dog")
SIZE = [4, 4]


@pytest.fixture
def search(tmp_path):
    return data.Search(None, tmp_path, offline=True, cache=tmp_path / "cache")


def picture(number: int) -> bytes:
    """A picture that tells its number: cats are dark and dogs are light."""
    file, shade = io.BytesIO(), number * 4 + (number % 2) * 150
    Image.new("RGB", (6, 5), (shade, shade, number)).save(file, "PNG")
    return file.getvalue()


def class_folders(root: Path, numbers: range) -> None:
    for number in numbers:
        folder = root / NAMES[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:03}.png").write_bytes(picture(number))


def load(search, folder: str, **settings) -> data.Dataset:
    settings = {"folder": folder, "size": SIZE, **settings}
    found = data.load("images", settings, search)
    assert data.describe("images", settings, search) == found.schema
    return found


def refused(search, folder: str, **settings) -> str:
    with pytest.raises(UserError) as caught:
        data.load("images", {"folder": folder, "size": SIZE, **settings}, search)
    return "\n".join(f"{d.code}: {d.message} ({d.help})" for d in caught.value.diagnostics)


def content(dataset: data.Dataset) -> dict:
    """Which pictures, by the blue that is their number, and with which class, each split has."""
    names = dataset.class_names["label"]
    return {
        split: sorted(
            (int(image[0, 0, 2]), names[label])
            for image, label in zip(part.arrays["image"], part.arrays["label"], strict=True)
        )
        for split, part in dataset.splits.items()
    }


EXPECTED = {
    "train": [(n, NAMES[n % 2]) for n in range(8)],
    "test": [(n, NAMES[n % 2]) for n in range(8, 12)],
}


# --- class folders --------------------------------------------------------------------------------


def test_class_folders_of_splits(search):
    """Under the names that splits have, and in `data/`; what tells of the data is no class."""
    for split, numbers in (("train", range(8)), ("val", range(8, 12))):
        class_folders(search.base / "pets" / "data" / split, numbers)
    (search.base / "pets" / "README.md").write_text("# Pets\n")
    (search.base / "pets" / "data" / "LICENSE.txt").write_text("MIT\n")
    wanted = {"train": EXPECTED["train"], "validation": EXPECTED["test"]}
    assert content(load(search, "pets")) == wanted
    class_folders(search.base / "pets" / "data" / "valid", range(2))
    told = refused(search, "pets")
    assert told.startswith("E0618") and "`val` and `valid`, which are one split" in told


# --- metadata -------------------------------------------------------------------------------------


def rows(numbers: range, before: str = "") -> list[dict]:
    return [{"file_name": f"{before}{n:03}.png", "label": NAMES[n % 2], "note": n} for n in numbers]


def metadata(path: Path, found: list[dict]) -> None:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in found))
    else:
        lines = [",".join(map(str, row.values())) for row in found]
        path.write_text("\n".join([",".join(found[0]), *lines]) + "\n")


def loose(folder: Path, numbers: range) -> None:
    folder.mkdir(parents=True)
    for number in numbers:
        (folder / f"{number:03}.png").write_bytes(picture(number))


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_metadata_beside_the_images(search, ending):
    """In each split, or one for all; labels and splits are those of class folders."""
    for split, numbers in (("train", range(8)), ("test", range(8, 12))):
        class_folders(search.base / "classes" / split, numbers)
        loose(search.base / "each" / split, numbers)
        metadata(search.base / "each" / split / f"metadata{ending}", rows(numbers))
        loose(search.base / "one" / split, numbers)
    both = rows(range(8), "train/") + rows(range(8, 12), "test/")
    metadata(search.base / "one" / f"metadata{ending}", both)
    expected = load(search, "classes")
    assert content(expected) == EXPECTED
    for layout in ("each", "one"):
        found = load(search, layout)
        assert content(found) == EXPECTED
        assert found.schema == expected.schema and found.class_names == expected.class_names
    loose(search.base / "flat", range(12))
    metadata(search.base / "flat" / f"metadata{ending}", rows(range(12)))
    found = load(search, "flat", test=0.25)
    assert {n: len(s) for n, s in found.splits.items()} == {"train": 9, "test": 3}
    found = load(search, "flat", label="note", test=0)
    assert found.class_names["label"] == tuple(map(str, range(12)))


def test_metadata_that_is_wrong(search):
    loose(search.base / "a", range(4))
    path = search.base / "a" / "metadata.csv"
    metadata(path, [*rows(range(4)), {"file_name": "03.png", "label": "cat", "note": 1}])
    told = refused(search, "a")
    assert told.startswith("E0601") and f"{path}, line 6: there is no file `03.png`" in told
    metadata(path, rows(range(3)))
    told = refused(search, "a")
    assert told.startswith("E0618") and "does not name 003.png" in told
    metadata(path, rows(range(4)))
    assert "has no column `kind` (the columns are" in refused(search, "a", label="kind")
    path.write_text("file_name,label\n000.png,\n")
    assert refused(search, "a").startswith("E0616")
    path.write_text("file_name,label\n../../secret.png,cat\n")
    assert refused(search, "a").startswith("E0601")
    class_folders(search.base / "classes", range(4))
    told = refused(search, "classes", label="kind")
    assert told.startswith("E0614") and "`label` names a column, and classes has no table" in told


# --- Parquet --------------------------------------------------------------------------------------


def table(numbers: range, name: str = "image", classes: bool = True):
    pa = pytest.importorskip("pyarrow", reason="needs pyarrow (nnc-lang[arrow])")
    images = [{"bytes": picture(n), "path": f"{n:03}.png"} for n in numbers]
    found = pa.table({name: images, "label": [n % 2 for n in numbers]})
    features = {"label": {"names": list(NAMES), "_type": "ClassLabel"}}
    note = {"huggingface": json.dumps({"info": {"features": features}})}
    return found.replace_schema_metadata(note) if classes else found


def shards(root: Path, name: str = "image", classes: bool = True) -> Path:
    from pyarrow import parquet

    folder = root / "data"
    folder.mkdir(parents=True)
    (root / "README.md").write_text("# Pets\n")
    for k in range(2):
        part = table(range(4 * k, 4 * k + 4), name, classes)
        parquet.write_table(part, folder / f"train-{k:05}-of-00002.parquet")
    parquet.write_table(table(range(8, 12), name, classes), folder / "test-00000-of-00001.parquet")
    return folder


def test_images_in_parquet(search):
    pytest.importorskip("pyarrow", reason="needs pyarrow (nnc-lang[arrow])")
    folder = shards(search.base / "pets")
    for split, numbers in (("train", range(8)), ("test", range(8, 12))):
        class_folders(search.base / "classes" / split, numbers)
    expected = load(search, "classes")
    for name in ("pets", "pets/data", "pets/data/*.parquet"):
        found = load(search, name)
        assert content(found) == EXPECTED and found.schema == expected.schema
    found = load(search, "pets/data/test-00000-of-00001.parquet", test=0)
    assert content(found) == {"train": EXPECTED["test"]}
    shards(search.base / "named", "img", classes=False)
    found = load(search, "named", channels=1)
    assert found.class_names == {"label": ("0", "1")}
    assert found.schema.field("image").shape == (4, 4, 1)
    (folder / "train-00000-of-00002.parquet").unlink()
    assert refused(search, "pets").startswith("E0601")


def test_images_in_streams_of_arrow_and_beside_tables(search):
    """As `datasets` saves them; a path without bytes is a file beside the table."""
    pa = pytest.importorskip("pyarrow", reason="needs pyarrow (nnc-lang[arrow])")
    for split, numbers in (("train", range(8)), ("test", range(8, 12))):
        (search.base / "saved" / split).mkdir(parents=True)
        (search.base / "saved" / split / "state.json").write_text("{}")
        found = table(numbers)
        path = search.base / "saved" / split / "data-00000-of-00001.arrow"
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, found.schema) as out:
            out.write_table(found)
    assert content(load(search, "saved")) == EXPECTED
    loose(search.base / "beside", range(4))
    from pyarrow import parquet

    images = [{"bytes": None, "path": f"{n:03}.png"} for n in range(4)]
    parquet.write_table(
        pa.table({"image": images, "label": ["cat", "dog"] * 2}), search.base / "beside/t.parquet"
    )
    assert content(load(search, "beside/t.parquet", test=0)) == {"train": EXPECTED["train"][:4]}


def test_parquet_that_is_wrong(search):
    pa = pytest.importorskip("pyarrow", reason="needs pyarrow (nnc-lang[arrow])")
    from pyarrow import parquet

    def written(**columns) -> None:
        parquet.write_table(pa.table(columns), search.base / "t.parquet")

    good = [{"bytes": picture(1), "path": None}]
    for columns, settings, told in (
        ({"image": good, "kind": [1]}, {}, "E0614: PATH has no column `label`"),
        ({"image": good, "label": [1]}, {"image": "imge"}, "did you mean `image`?"),
        ({"image": ["x"], "label": [1]}, {}, "E0611: PATH, row 1, `image`: holds `x` and no image"),
        ({"image": [{"bytes": b"no", "path": "a.png"}], "label": [1]}, {},
         "E0603: image PATH, row 1 (a.png) cannot be decoded"),
        ({"image": [{"bytes": None, "path": None}, *good], "label": [1, 0]}, {},
         "E0616: PATH, row 1"),
        ({"image": good, "label": [None]}, {}, "E0616: PATH, row 1, column `label`: is empty"),
    ):  # fmt: skip
        written(**columns)
        found = refused(search, "t.parquet", test=0, **settings)
        assert told.replace("PATH", str(search.base / "t.parquet")) in found, found


PETS = """
model Pets(image: f32[B, 4, 4, 3]) -> logits: f32[B, 2] {
    logits = image |> Flatten |> Dense(2)
}

train Pets {
    data      = images("pets", size = [4, 4])
    loss      = cross_entropy(logits, label)
    optimizer = adam(lr = 0.1)
    epochs    = 20
}
"""


def test_a_run_on_images_in_parquet(tmp_path, monkeypatch, capfd):
    pytest.importorskip("pyarrow", reason="needs pyarrow (nnc-lang[arrow])")
    monkeypatch.chdir(tmp_path)
    shards(Path("pets"))
    Path("pets.nn").write_text(PETS)
    assert cli.run(["train", "pets.nn", "--out", "run"]) == 0
    Path("dog.png").write_bytes(picture(9))
    capfd.readouterr()
    assert cli.run(["predict", "run", "dog.png"]) == 0
    assert json.loads(capfd.readouterr().out)["label"] in NAMES
    notes = json.loads(Path("run/settings.json").read_text())
    assert notes["inputs"]["class_names"] == {"label": list(NAMES)}
    assert np.all([len(one) == 64 for one in notes["data_sha256"].values()])
