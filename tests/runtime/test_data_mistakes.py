"""Wrong data: each mistake gives its one error, which names the file, the place and the finding.

No test reads the user's cache or the network. Right data: `test_data.py`.
"""

from __future__ import annotations

import gzip
import io
import os
import zipfile

import numpy as np
import pytest
from support import mostly_slow

from nnc.dsl.diagnostics.catalogue import catalogue
from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.dsl.syntax.source import Source, Span
from nnc.runtime import data
from nnc.runtime.data.core.dataset import validate
from nnc.runtime.data.sets import mnist

SEEN: set[str] = set()
SEQUENCE_CODES = {"E0619", "E0620", "E0621"}  # see test_sequence_data_mistakes.py


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    monkeypatch.delenv("NNC_DATA", raising=False)


@pytest.fixture
def search(tmp_path):
    (tmp_path / "here").mkdir()
    return data.Search(None, tmp_path / "here", offline=True, cache=tmp_path / "cache")


def refused(code: str, *told: str, call) -> str:
    """The text of the single error of a call, which must have that code and say all of `told`."""
    with pytest.raises(UserError) as caught:
        call()
    (found,) = caught.value.diagnostics
    text = f"{found.message} | {found.help}"
    assert found.code == code, text
    for part in told:
        assert part in text, f"{part!r} is not in {text!r}"
    SEEN.add(code)
    return text


def refused_by(search, name: str, settings: dict, code: str, *told: str) -> str:
    return refused(code, *told, call=lambda: data.load(name, settings, search))


# ── sources and settings ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "name, settings, code, told",
    [
        ("minst", {}, "E0608", ["`minst`", "`mnist`"]),
        ("zzz", {}, "E0608", ["mnist, fashion_mnist, digits"]),
        ("mnist", {"normalise": True}, "E0608", ["did you mean `normalize`?"]),
        ("mnist", {"normalize": 1}, "E0615", ["true or false, not 1"]),
        ("digits", {"test": 1.0}, "E0615", ["from 0 up to 1, not 1.0"]),
        ("digits", {"test": True}, "E0615", ["not true"]),
        ("digits", {"test": float("nan")}, "E0615", ["not nan"]),
        ("csv", {}, "E0608", ["needs its setting `file`"]),
        ("csv", {"file": "a", "delimiter": ";;"}, "E0615", ["one character", '";;"']),
        ("csv", {"file": "a", "delimiter": '"'}, "E0615", ["one character"]),
        ("csv", {"file": "a", "seed": -1}, "E0615", ["not -1"]),
        ("csv", {"file": "a", "columns": []}, "E0615", ["a list of texts, not []"]),
        ("csv", {"file": "a", "target": ["b", 3]}, "E0615", ['not ["b", 3]']),
        ("npz", {"file": ""}, "E0615", ["a text in quotes"]),
        ("npz", {"file": "a\0b"}, "E0615", ["a text in quotes"]),
        ("npy", {}, "E0608", ['npy(x = "x.npy"']),
        ("npy", {"x": 3}, "E0615", ["`x`", "not 3"]),
        ("images", {"folder": "a"}, "E0608", ["needs its setting `size`"]),
        ("images", {"folder": "a", "size": [0, 4]}, "E0615", ["[height, width], not [0, 4]"]),
        ("images", {"folder": "a", "size": [4, 4], "channels": 2}, "E0615", ["3", "1 or 3, not 2"]),
    ],
)
def test_settings(search, name, settings, code, told):
    refused(code, *told, call=lambda: data.describe(name, settings, search))
    refused_by(search, name, settings, code, *told)


def test_settings_without_a_name():
    digits, csv = data.SOURCES["digits"], data.SOURCES["csv"]
    refused("E0608", "no settings without a name", call=lambda: data.bind(digits, [0.2], {}))
    refused("E0608", "`file`", "twice", call=lambda: data.bind(csv, ["a"], {"file": "b"}))


def test_errors_point_at_the_setting(search):
    source = Source("m.nn", 'data = csv("t.csv", target = "prize")')
    whole, file, target = (Span(source, *ends) for ends in ((7, 37), (11, 18), (29, 36)))
    spans = {"file": file, "target": target}

    def span_of_error():
        with pytest.raises(UserError) as caught:
            settings = {"file": "t.csv", "target": "prize"}
            data.load("csv", settings, search, spans=spans, span=whole)
        return caught.value.diagnostics[0].span

    assert span_of_error() is file
    (search.base / "t.csv").write_text("price\n1\n")
    assert span_of_error() is target


# ── finding ──────────────────────────────────────────────────────────────────────────────────────


def test_not_found(search, tmp_path, monkeypatch):
    monkeypatch.setenv("NNC_DATA", str(tmp_path / "named"))
    (search.base / "houses.csv").write_text("a\n1\n")
    told = [str(search.base / "huoses.csv"), str(tmp_path / "named" / "huoses.csv"), "`houses.csv`"]
    refused_by(search, "csv", {"file": "huoses.csv"}, "E0601", *told)
    refused_by(search, "npz", {"file": "x.npz"}, "E0601", "--data")
    refused_by(search, "images", {"folder": "pets", "size": [2, 2]}, "E0601", "no folder `pets`")


@pytest.mark.parametrize("name, settings", [("mnist", {}), ("csv", {"file": "t.csv"})])
def test_data_flag_must_name_a_folder(search, tmp_path, name, settings):
    wrong = data.Search(tmp_path / "nowhere", search.base, True, search.cache)
    refused_by(wrong, name, settings, "E0601", "--data", "nowhere")


def test_a_folder_where_a_file_belongs_and_back(search):
    (search.base / "t.csv").mkdir()
    refused_by(search, "csv", {"file": "t.csv"}, "E0617", "is not a file")
    (search.base / "pets").write_text("")
    refused_by(search, "images", {"folder": "pets", "size": [2, 2]}, "E0617", "is not a folder")
    refused_by(search, "csv", {"file": "x" * 5000}, "E0617", "cannot look at")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_no_permission(search):
    (search.base / "t.csv").write_text("a\n1\n")
    (search.base / "t.csv").chmod(0)
    refused_by(search, "csv", {"file": "t.csv"}, "E0617", "Permission denied")


def test_no_permission_as_anybody(search, monkeypatch):
    (search.base / "t.csv").write_text("a\n1\n")

    def refuse(*_args, **_more):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UserError) as caught:
        data.load("csv", {"file": "t.csv"}, search)
    monkeypatch.undo()
    assert caught.value.diagnostics[0].code == "E0617"


# ── MNIST ────────────────────────────────────────────────────────────────────────────────────────


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return (0x0800 + array.ndim).to_bytes(4, "big") + sizes + array.astype(np.uint8).tobytes()


@pytest.fixture
def files(search):
    """Writes a small, right MNIST beside the model; gives the path of each file by its name."""
    for part in ("train", "t10k"):
        images, labels = idx(np.zeros((4, 28, 28))), idx(np.arange(4))
        (search.base / f"{part}-images-idx3-ubyte").write_bytes(images)
        (search.base / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    return {path.name: path for path in search.base.iterdir()}


def test_mnist_offline(search, files):
    files["t10k-labels-idx1-ubyte"].unlink()
    refused_by(
        search,
        "mnist",
        {},
        "E0601",
        str(search.base),
        str(search.base / "data" / "mnist"),
        str(search.cache / "mnist"),
        "has no t10k-labels-idx1-ubyte",
        "train-images-idx3-ubyte.gz",
        "--offline",
    )


def gzipped(content: bytes) -> bytes:
    """By gzip, without the time of day: a test's name, which holds it, is the same every time."""
    return gzip.compress(content, mtime=0)


@pytest.mark.parametrize(
    "content, code, told",
    [
        (b"", "E0603", "is empty"),
        (b"\0\0", "E0603", "2 bytes long"),
        (b"\0\0\x08\x03\0\0", "E0603", "6 bytes long"),
        (idx(np.arange(4)), "E0602", "begins with 0x00000801"),
        (b"<html>not found</html>", "E0602", "web page"),
        (b"version https://git-lfs", "E0602", "git lfs pull"),
        (b"\x01\x02\x03\x04" * 9, "E0602", "0x01020304"),
        (idx(np.zeros((4, 28, 28)))[:-1], "E0603", "4x28x28 = 3136 bytes"),
        (idx(np.zeros((4, 28, 28))) + b"x", "E0603", "but holds 3137"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "E0603", "4294967295x4294967295"),
        (idx(np.zeros((4, 27, 28))), "E0607", "27x28, not 28x28"),
        (idx(np.zeros((3, 28, 28))), "E0607", "`image` has 3, `label` has 4"),
        (idx(np.zeros((0, 28, 28))), "E0607", "`image` has 0"),
        (gzipped(idx(np.zeros((4, 28, 28))))[:-9], "E0603", "does not unpack"),
        (gzipped(b"x" * 99)[:12], "E0603", "shorter than any gzip"),
        (b"\x1f\x8b" + b"garbage" * 9, "E0603", "does not unpack"),
        (gzipped(idx(np.zeros((4, 28, 28))))[:-8] + b"\0" * 8, "E0603", "CRC"),
    ],
)
def test_mnist_images_that_are_wrong(search, files, content, code, told):
    path = files["train-images-idx3-ubyte"]
    path.write_bytes(content)
    refused_by(search, "mnist", {}, code, told, *([str(path)] if code != "E0607" else []))


def test_mnist_labels_that_are_wrong(search, files):
    files["t10k-labels-idx1-ubyte"].write_bytes(idx(np.array([1, 2, 10, 3])))
    told = ["label 10", "`label`", "test split, example 2", "0 to 9", "counted from 1"]
    refused_by(search, "mnist", {}, "E0606", *told)
    files["train-labels-idx1-ubyte"].write_bytes(b"\0\0\x08")
    refused("E0603", "3 bytes long", call=lambda: data.describe("mnist", {}, search))


def test_mnist_that_cannot_be_downloaded(search, tmp_path, monkeypatch):
    online = data.Search(None, search.base, cache=search.cache)
    server = tmp_path / "server"
    server.mkdir()
    monkeypatch.setattr(mnist.SET, "address", server.as_uri() + "/")
    name = "train-images-idx3-ubyte"
    refused_by(online, "mnist", {}, "E0610", f"{name}.gz", "--data")
    for content in (gzip.compress(b"other"), b"<html>", gzip.compress(b"x" * 99)[:-5]):
        (server / f"{name}.gz").write_bytes(content)
        refused_by(online, "mnist", {}, "E0610", "SHA-256", mnist.SET.checksums[name])
    assert not list((search.cache / "mnist").iterdir())  # nothing wrong is kept
    blocked = data.Search(None, search.base, cache=tmp_path / "blocked")
    blocked.cache.write_text("")
    refused_by(blocked, "mnist", {}, "E0617", "cannot write to")


def test_no_answer(search, monkeypatch):
    monkeypatch.setattr(mnist.SET, "address", "http://127.0.0.1:9/")  # nobody listens on `discard`
    online = data.Search(None, search.base, cache=search.cache)
    refused_by(online, "mnist", {}, "E0610", "cannot download http://127.0.0.1:9/")


# ── npy ──────────────────────────────────────────────────────────────────────────────────────────


def npy(array) -> bytes:
    held = io.BytesIO()
    np.save(held, array, allow_pickle=True)
    return held.getvalue()


def npy_header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


GOOD = npy(np.zeros((5, 2)))

NPY_MISTAKES = [
    (b"",                                       "E0602", "begins with b''"),
    (b"<html>",                                 "E0602", "web page"),
    (b"PK\x03\x04zipped",                       "E0602", "npz("),
    (b"\x93NUMPY",                              "E0603", "version"),
    (b"\x93NUMPY\x09\x00aaaa",                  "E0603", "version"),
    (GOOD[:20],                                 "E0603", "header"),
    (GOOD[:-1],                                 "E0603", "holds 79"),
    (GOOD + b"x",                               "E0603", "holds 81"),
    (npy_header("{"),                           "E0603", "damaged"),
    (npy_header("[1]"),                         "E0603", "damaged"),
    (npy_header("{'descr': '<f4'}"),            "E0603", "damaged"),
    (npy_header("(" * 5000),                    "E0603", "damaged"),
    (npy_header("__import__('os')"),            "E0603", "damaged"),
    (npy_header("{'descr': 'zz', 'shape': (2,), 'fortran_order': False}"), "E0603", "damaged"),
    (npy_header("{'descr': '<f4', 'shape': (-2,), 'fortran_order': False}"), "E0603", "damaged"),
    (npy_header("{'descr': '<f4', 'shape': (9999999999999999,), 'fortran_order': False}"),
     "E0603", "39999999999999996 bytes"),
    (npy(np.array([[1], [1, 2]], dtype=object)), "E0611", "never loaded"),
    (npy(np.array(["a"])),                      "E0611", "str"),
    (npy(np.array([1j])),                       "E0611", "complex128"),
    (npy(np.zeros(2, "u8")),                    "E0611", "uint64"),
    (npy(np.zeros(2, "f4,i4")),                 "E0611", "records"),
    (npy(np.float32(3)),                        "E0607", "first axis"),
    (npy(np.zeros((0, 3))),                     "E0613", "[0, 3]"),
    (npy(np.zeros((3, 0))),                     "E0613", "[3, 0]"),
]  # fmt: skip


@pytest.mark.parametrize("content, code, told", NPY_MISTAKES)
def test_npy_that_is_wrong(search, content, code, told):
    path = search.base / "x.npy"
    path.write_bytes(content)
    refused_by(search, "npy", {"x": "x.npy"}, code, told, str(path))
    refused(code, told, call=lambda: data.describe("npy", {"x": "x.npy"}, search))


@pytest.mark.parametrize(
    "arrays, code, told",
    [
        ({"x": (3, 2), "y": (4,)}, "E0607", ["`x` has 3, `y` has 4"]),
        ({"x": (3, 2), "x_test": (3, 4)}, "E0607", ["[4] in the test split, but [2]"]),
        ({"x": (3,), "y_test": (3,)}, "E0607", ["`y_test`", "no training array"]),
        ({"x": (3,), "y": (3,), "y_test": (3,)}, "E0607", ["has no `x_test`"]),
        ({"x": (3,), "x_train": (3,)}, "E0607", ["`x`", "`x_train`", "both"]),
    ],
)
@pytest.mark.parametrize("source", ["npy", "npz"])
def test_arrays_that_do_not_fit_together(search, source, arrays, code, told):
    held = {name: np.zeros(shape) for name, shape in arrays.items()}
    np.savez(search.base / "set.npz", **held)
    for name, array in held.items():
        np.save(search.base / f"{name}.npy", array)
    settings = {"file": "set.npz"} if source == "npz" else {n: f"{n}.npy" for n in arrays}
    refused_by(search, source, settings, code, *told)


def test_types_that_do_not_fit_together(search):
    np.savez(search.base / "set.npz", x=np.zeros(3), x_test=np.zeros(3, np.int32))
    refused_by(search, "npz", {"file": "set.npz"}, "E0607", "`x_test`", "i32", "f64")


# ── npz ──────────────────────────────────────────────────────────────────────────────────────────


def archive_of(members: dict[str, bytes], packed: bool) -> bytes:
    """A zip, also without the time of day."""
    held = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(held, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return held.getvalue()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("content, code, told", NPY_MISTAKES)
def test_npz_member_that_is_wrong(search, content, code, told, packed):
    path = search.base / "set.npz"
    path.write_bytes(archive_of({"x.npy": content}, packed))
    refused_by(search, "npz", {"file": "set.npz"}, code, told, f"array `x` of {path}")


@pytest.mark.parametrize(
    "content, code, told",
    [
        (b"", "E0602", "no .npz archive"),
        (GOOD, "E0602", "npy("),
        (archive_of({}, False), "E0613", "no arrays"),
        (archive_of({"readme.txt": b"x"}, False), "E0602", "`readme.txt`"),
        (archive_of({"x.npy": GOOD}, True)[:60], "E0603", "does not unpack"),
        (b"PK\x03\x04" + b"z" * 99, "E0603", "does not unpack"),
    ],
)
def test_npz_that_is_wrong(search, content, code, told):
    path = search.base / "set.npz"
    path.write_bytes(content)
    refused_by(search, "npz", {"file": "set.npz"}, code, told, str(path))


@pytest.mark.parametrize("packed", mostly_slow([False, True], [True]))
def test_npz_with_any_damaged_byte_never_ends_in_a_traceback(search, packed):
    whole = archive_of({"x.npy": npy(np.arange(6.0)), "y.npy": npy(np.arange(6))}, packed)
    for place in range(len(whole)):
        for value in (0x00, 0xFF, whole[place] ^ 1):
            damaged = whole[:place] + bytes([value]) + whole[place + 1 :]
            (search.base / "set.npz").write_bytes(damaged)
            try:
                data.load("npz", {"file": "set.npz"}, search)
            except UserError as error:
                assert error.diagnostics[0].code.startswith("E06")


# ── csv ──────────────────────────────────────────────────────────────────────────────────────────

LONG = "".join(f"{i},{i}\n" for i in range(5000))  # more than a block


@pytest.mark.parametrize(
    "text, settings, code, told",
    [
        ("", {}, "E0613", ["is empty"]),
        ("\n\n", {}, "E0613", ["is empty"]),
        ("a,b\n", {}, "E0613", ["no rows"]),
        ("a,b\n1,2\n3\n", {}, "E0604", ["line 3: 1 cell where", "2: `3`"]),
        ("a,b\n1,2\n\n3,4,5\n", {}, "E0604", ["line 4: 3 cells", "quotes"]),
        ("1,2\n3\n", {"header": False}, "E0604", ["line 2", "first row has 2"]),
        ("a,b\n" + LONG + "1\n", {}, "E0604", ["line 5002"]),
        ("a,b\n" + LONG + "1,x\n", {}, "E0605", ["line 5002, column `b`: `x`"]),
        ("a,b\n1,twelve\n", {}, "E0605", ["line 2, column `b`: `twelve` is"]),
        ("a,b\n1,1_000\n", {}, "E0605", ["`1_000` is not a number"]),
        ("a,b\n1,1e999\n", {}, "E0605", ["`1e999` is beyond"]),
        ("a,b\n1,-inf\n", {}, "E0605", ["`-inf` is beyond"]),
        ("a;b\n1;2,5\n", {"delimiter": ";"}, "E0605", ["`2,5`", "with a point"]),
        ("a,b\n1,\n", {}, "E0616", ["line 2, column `b`: is empty"]),
        ("a,b\n1,  \n", {}, "E0616", ["is empty"]),
        ("a,b\n1,NaN\n", {}, "E0616", ["`NaN`, a missing value"]),
        ("a,b\n1,NA\n", {"target": "b"}, "E0616", ["`NA`"]),
        ("a,b\n1,x\n2,\n", {"target": "b"}, "E0616", ["line 3, column `b`"]),
        ("a,b\n1,5\n2,x\n", {"target": "b"}, "E0605", ["line 3", "labels = true"]),
        ("a,b,c\n1,2,x\n", {"target": ["b", "c"]}, "E0605", ["column `c`: `x`"]),
        ("a,b\n1,2\n", {"target": ["a", "b"], "labels": True}, "E0615", ["single"]),
        ("a,b\n1,2\n1,-1\n", {"target": "b", "labels": True}, "E0606", ["line 3", "-1"]),
        ("a,b\n1,2.5\n", {"target": "b", "labels": True}, "E0606", ["2.5 is not a class"]),
        ("a,price\n1,2\n", {"target": "prize"}, "E0614", ["`prize`", "mean `price`?"]),
        ("a,price\n1,2\n", {"target": "zzz"}, "E0614", ["columns are `a`, `price`"]),
        ("a;price\n1;2\n", {"target": "price"}, "E0614", ['delimiter = ";"']),
        ("a,b\n1,2\n", {"columns": ["b", "b"]}, "E0614", ["`b` twice"]),
        ("a,b\n1,2\n", {"target": "b", "columns": ["b"]}, "E0614", ["both a target"]),
        ("a,a\n1,2\n", {}, "E0614", ["columns 1 and 2", "`a`"]),
        ("a,\n1,2\n", {}, "E0614", ["column 2 has no name"]),
        ('a,b\n1,"2\n3,4\n', {}, "E0603", ["line 3", "quote"]),
        ('a,b\n1,"2"3\n', {}, "E0603", ["line 2", "quote"]),
        ('a,b\n"1\n2",3\n5,x\n', {"columns": ["b"]}, "E0605", ["line 4, column `b`"]),
    ],
)
def test_csv_that_is_wrong(search, text, settings, code, told):
    path = search.base / "t.csv"
    path.write_text(text, encoding="utf-8")
    wrong_setting = settings.get("labels") and isinstance(settings["target"], list)
    names = [] if ("columns" in settings and code == "E0614") or wrong_setting else [str(path)]
    refused_by(search, "csv", {"file": "t.csv", **settings}, code, *told, *names)


def test_csv_that_is_not_text(search):
    path = search.base / "t.csv"
    path.write_bytes(b"a,b\n1,2\n1,caf\xe9\n")
    told = [str(path), "line 3, byte 6", r"b'\xe9'"]
    refused_by(search, "csv", {"file": "t.csv"}, "E0612", *told)
    path.write_bytes(bytes(range(256)) * 9)
    refused_by(search, "csv", {"file": "t.csv"}, "E0612")


# ── images ───────────────────────────────────────────────────────────────────────────────────────

PETS = {"folder": "pets", "size": [4, 4]}


@pytest.fixture
def pets(search):
    pytest.importorskip("PIL", reason="the image tests need Pillow (nnc-lang[images])")
    from PIL import Image

    for name in ("cat", "dog"):
        (search.base / "pets" / name).mkdir(parents=True)
        Image.new("RGB", (6, 6), (1, 2, 3)).save(search.base / "pets" / name / "1.png")
    return search.base / "pets"


def test_images_without_pillow(search, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    refused_by(search, "images", PETS, "E0609", "pip install 'nnc-lang[images]'")


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_image_that_cannot_be_decoded(search, pets, content):
    path = pets / "dog" / "1.png"
    path.write_bytes(path.read_bytes()[:-30] if content is None else content)
    refused_by(search, "images", PETS, "E0603", str(path))


def test_images_with_any_damaged_byte_never_end_in_a_traceback(search, pets):
    path = pets / "dog" / "1.png"
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            data.load("images", PETS, search)
        except UserError as error:
            assert error.diagnostics[0].code in ("E0603", "E0611")


def test_image_of_16_bits(search, pets):
    from PIL import Image

    Image.new("I;16", (4, 4), 40_000).save(pets / "dog" / "1.png")
    refused_by(search, "images", PETS, "E0611", "8 bits", str(pets / "dog" / "1.png"))


def test_folders_of_images_that_are_wrong(search, pets):
    (pets / "dog" / "notes.txt").write_text("x")
    refused_by(search, "images", PETS, "E0602", str(pets / "dog" / "notes.txt"))
    (pets / "dog" / "notes.txt").unlink()
    (pets / "dog" / "1.png").rename(pets / "extra.png")
    refused_by(search, "images", PETS, "E0618", "`extra.png` beside its class folders")
    (pets / "extra.png").unlink()
    refused_by(search, "images", PETS, "E0613", f"class folder {pets / 'dog'} holds no images")
    (pets / "dog" / "deep").mkdir()
    refused_by(search, "images", PETS, "E0618", "holds the folder `deep`")


def test_folders_without_classes(search):
    (search.base / "pets").mkdir()
    call = {"call": lambda: data.describe("images", PETS, search)}
    refused("E0613", "is empty", **call)
    (search.base / "pets" / "1.png").write_bytes(b"")
    refused("E0618", "`1.png` but no class folders", **call)


def test_splits_of_images_that_do_not_fit(search, pets):
    for name, folder in (("cat", "train/cat"), ("dog", "test/bird")):
        (pets / folder).parent.mkdir()
        (pets / name).rename(pets / folder)
    refused_by(search, "images", PETS, "E0607", "class `bird`", str(pets / "test"))
    (pets / "more").mkdir()
    refused_by(search, "images", PETS, "E0618", "`train` and also `more`")


# ── datasets ─────────────────────────────────────────────────────────────────────────────────────


def test_labels_are_checked_against_the_model(search):
    np.savez(search.base / "set.npz", y=np.array([0, 3, -1]))
    found = data.load("npz", {"file": "set.npz"}, search)
    refused("E0606", "label 3", "example 1", call=lambda: data.check_labels(found, "y", 3))
    refused("E0606", "label -1", "example 2", call=lambda: data.check_labels(found, "y", 4))


def test_an_empty_split():
    schema = data.Schema((data.Field("x", "f32", ()),), 0)
    empty = data.Dataset("set", schema, data.Split({"x": np.zeros(0)}))
    refused("E0613", "no examples in the train split", call=lambda: validate(empty))


def test_an_integer_too_large_for_its_batch():
    split = data.Split({"y": np.array([1, 5_000_000_000])})
    out = np.zeros(2, np.int32)
    told = ["5000000000", "does not fit in int32"]
    refused("E0606", *told, call=lambda: split.take("y", np.arange(2), out))


def test_codes_are_listed_once_and_explained():
    entries = [entry for code, entry in catalogue().items() if code.startswith("E06")]
    assert all(e.title and e.explanation and e.example for e in entries)


def test_every_code_has_been_provoked_above(whole_file_runs):
    assert {code for code in catalogue() if code.startswith("E06")} - SEQUENCE_CODES == SEEN
