"""Arrays by hand: what `nnc predict` reads, and what of it is refused before it costs anything.

Here are the cases with a right answer; that damage of any kind ends well is for the fuzzer.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import resource
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from support import mostly_slow

from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime import cli, data
from nnc.runtime.data.core import decompress
from nnc.runtime.data.formats.array_file import read_arrays

PROGRAM = """
model M(x: f32[B, 4], id: i32[B]) -> y: f32[B, 4] {
    param table: [3, 4] ~ normal(0, 1)
    y[b, j] = x[b, j] + table[id[b], j]
}

train M {
    data      = npz("set.npz")
    loss      = mse(y, x)
    optimizer = sgd(lr = 0)
    epochs    = 1
}
"""


def npy(array: np.ndarray) -> bytes:
    held = io.BytesIO()
    np.save(held, array, allow_pickle=True)
    return held.getvalue()


def npy_of_header(text: str, values: bytes = b"") -> bytes:
    head = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + values


def archive(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", method) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return held.getvalue()


X, ID = np.arange(24, dtype=np.float32).reshape(6, 4), np.array([0, 1, 2, 0, 1, 2], np.int32)
HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': SHAPE, }"
BOMB = npy_of_header(HEADER.replace("SHAPE", "(400000000, 4)")) + bytes(1 << 20)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained run in a folder of its own."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "m.nn").write_text(PROGRAM)
    np.savez(folder / "set.npz", x=X, id=ID)
    assert cli.run(["train", str(folder / "m.nn"), "--out", str(folder / "run")]) == 0
    return folder / "run"


def predicted(run, tmp_path, content: bytes, name: str = "given.npz") -> np.ndarray:
    (tmp_path / name).write_bytes(content)
    output = tmp_path / "out.npy"
    arguments = ["predict", str(run), "--input", str(tmp_path / name), "--output", str(output)]
    assert cli.run(arguments) == 0
    return np.load(output)


KINDS = ["<f4", ">f4", "<f2", "<f8", ">f8", "|u1", "|b1", "<i8", ">i2"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_type_and_layout_of_numbers_predicts_the_same(run, tmp_path, kind, order):
    bits = np.array([[0, 1, 1, 0]] * 6)
    right = predicted(run, tmp_path, archive({"x.npy": npy(bits.astype("<f4")), "id.npy": npy(ID)}))
    stored = np.asarray(bits.astype(kind), order=order)
    for labels in (ID, ID.astype(">i8"), ID.astype(np.uint8), ID[::-1][::-1]):
        content = archive({"x.npy": npy(stored), "id.npy": npy(labels)}, zipfile.ZIP_STORED)
        np.testing.assert_array_equal(predicted(run, tmp_path, content), right)


WRONG = [
    (b"", "E0602"),
    (b"abc", "E0602"),
    (b"\x93NUMPY", "E0603"),
    (b"PK\x03\x04", "E0603"),
    (archive({"x.npy": npy(X), "id.npy": npy(ID)})[:-40], "E0603"),
    (archive({"x": npy(X)}), "E0602"),
    (archive({}), "E0708"),
    (archive({"x.npy": npy(X)}), "E0708"),
    (archive({"x.npy": npy(X), "id.npy": npy(ID.astype(np.uint64))}), "E0611"),
    (archive({"x.npy": npy(X), "id.npy": npy(ID.astype(np.int64) + (1 << 32))}), "E0606"),
    (archive({"x.npy": npy(X), "id.npy": npy(ID.astype(np.int64) - (1 << 32))}), "E0606"),
    (archive({"x.npy": npy(X), "id.npy": npy(np.array([{}] * 6))}), "E0611"),
    (archive({"x.npy": npy(X[:0]), "id.npy": npy(ID[:0])}), "E0613"),
    (archive({"x.npy": npy(np.array(1.0)), "id.npy": npy(ID)}), "E0607"),
    (archive({"x.npy": npy(X.astype("c8")), "id.npy": npy(ID)}), "E0611"),
    (archive({"x.npy": npy(X.view("f4,f4")), "id.npy": npy(ID)}), "E0611"),
    (archive({"x.npy": npy(X[:, 0].astype("M8[s]")), "id.npy": npy(ID)}), "E0611"),
    *[
        (archive({"x.npy": npy_of_header(HEADER.replace("SHAPE", shape), X.tobytes())}), "E0603")
        for shape in (
            "(True, 4)",
            "(-1, 4)",
            "(6, 4.0)",
            "(1e9, 4)",
            "(1000000000000, 4)",
            "(" + "9" * 60 + ", 4)",
            "(" + "9" * 5000 + ",)",
            "[6, 4]",
            "6",
            "__import__('os').system('x')",
            "(" * 900 + ")" * 900,
            "(6,) * 10",
        )
    ],
    (archive({"x.npy": npy_of_header("{" * 60000)}), "E0603"),
    (archive({"x.npy": npy_of_header("{'descr': [('a', '<f4')] * 3}")}), "E0603"),
    (archive({"x.npy": BOMB}, zipfile.ZIP_STORED), "E0603"),
]


def test_what_is_wrong_is_one_message(run, tmp_path, capfd):
    for content, code in WRONG:
        (tmp_path / "given.npz").write_bytes(content)
        arguments = ["predict", str(run), "--input", str(tmp_path / "given.npz")]
        status = cli.run(["--error-format", "json", *arguments, "--output", str(tmp_path / "y")])
        said = capfd.readouterr().err
        assert status == 1, (content[:200], said)
        assert [json.loads(line)["code"] for line in said.splitlines()] == [code], said
        # NumPy's own words are about pickles, which are never loaded here.
        assert "allow_pickle" not in said
        assert "unsafe" not in said
    assert not (tmp_path / "y").exists()


def test_an_encrypted_archive_is_told_as_such(tmp_path):
    content = bytearray(archive({"x.npy": npy(X)}))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"E0603.*is encrypted"):
        read_arrays(tmp_path / "a.npz")


METHODS = {
    zipfile.ZIP_DEFLATED: "times as much",
    zipfile.ZIP_BZIP2: "a method that",
    zipfile.ZIP_LZMA: "a method that",
}


@pytest.mark.parametrize("method", mostly_slow(METHODS, [zipfile.ZIP_DEFLATED]))
def test_a_bomb_is_refused_before_it_unpacks(tmp_path, method):
    # 300 MB of zeros, honestly described, in an archive of less than one
    zeros = io.BytesIO()
    with zipfile.ZipFile(zeros, "w", method) as file, file.open("x.npy", "w") as member:
        member.write(npy_of_header(HEADER.replace("SHAPE", "(75000000,)")))
        for _ in range(300):
            member.write(bytes(1_000_000))
    (tmp_path / "bomb.npz").write_bytes(zeros.getvalue())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=f"E0603.*{METHODS[method]}"):
        read_arrays(tmp_path / "bomb.npz")
    # in KiB; a tenth of the array, as other threads of this process may need some, too
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000


def test_numbers_that_are_not_finite_are_null_in_the_json_of_eval(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.nn").write_text(
        PROGRAM.replace(
            "loss ", "metric far = mean(-log(0*y))\n    metric no = mean(0 * log(0*y))\n    loss "
        )
    )
    np.savez(tmp_path / "set.npz", x=X + 1, id=ID)
    assert cli.run(["train", "m.nn", "--out", "run"]) == 0
    capfd.readouterr()
    assert cli.run(["eval", "run"]) == 0
    found = json.loads(capfd.readouterr().out, parse_constant=lambda name: pytest.fail(name))
    assert found["no"] is None
    assert found["far"] is None
    assert found["loss"] > 0


# ── mapped files that change while they are read ─────────────────────────────────────────────────


def test_a_file_that_is_cut_short_while_it_is_used_is_an_error(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.ones((4096, 8), np.float32))
    search = data.Search(None, tmp_path, True, tmp_path / "cache")
    split = data.load("npy", {"x": "x.npy"}, search).train
    rows, out = np.arange(4000, 4096), np.empty((96, 8), np.float32)
    split.take("x", rows, out)
    os.truncate(path, 8192)
    with pytest.raises(UserError, match=r"E0603.*x.npy has been cut short"):
        split.take("x", rows, out)
    # a file in its place that was renamed to it leaves the mapped one whole
    np.save(path, np.ones((4096, 8), np.float32))
    split = data.load("npy", {"x": "x.npy"}, search).train
    np.save(tmp_path / "new.npy", np.zeros((2, 8), np.float32))
    os.replace(tmp_path / "new.npy", path)
    split.take("x", rows, out)
    assert out.min() == 1


TRUNCATING = """
import os, sys
from nnc.runtime import cli
from nnc.runtime.training import loop

before = loop.evaluate
def evaluate(*given):
    os.truncate("set.npy", 4096)
    return before(*given)
loop.evaluate = evaluate
sys.exit(cli.run(["train", "m.nn", "--out", "run"]))
"""


@pytest.mark.slow
def test_training_on_a_file_that_is_cut_short_ends_with_a_message(tmp_path):
    program = PROGRAM.replace('npz("set.npz")', 'npy(x = "set.npy", id = "id.npy")')
    (tmp_path / "m.nn").write_text(
        program.replace("epochs    = 1", "validation = 0.5\n    epochs = 9")
    )
    np.save(tmp_path / "set.npy", np.ones((20_000, 4), np.float32))
    np.save(tmp_path / "id.npy", np.zeros(20_000, np.int32))
    ended = subprocess.run(
        [sys.executable, "-c", TRUNCATING],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 1, ended.stderr
    assert "E0603" in ended.stderr
    assert "set.npy has been cut short" in ended.stderr


def test_a_packed_text_that_is_far_longer_than_any_text_is_refused(tmp_path):
    search = data.Search(None, tmp_path, True, tmp_path / "cache")
    (tmp_path / "t.txt").write_bytes(gzip.compress(b"a\tword word\n" * 2_000_000, mtime=0))
    whole = {"file": "t.txt", "length": 8, "vocabulary": "bytes"}
    assert len(data.load("text", whole, search).train) > 1_000_000
    for name, settings in (("text", {"length": 8}), ("lines", {}), ("pairs", {})):
        with pytest.raises(UserError, match=r"E0603: .*more than 16,777,216 bytes"):
            data.load(name, {"file": "t.txt", **settings}, search)


def test_several_gzip_files_in_one_are_unpacked_once(tmp_path, monkeypatch):
    text = "".join(f"line {n}\n" for n in range(400))
    parts = [gzip.compress(part.encode(), mtime=0) for part in (text[:999], "", text[999:])]
    (tmp_path / "t.txt").write_bytes(b"".join(parts))
    search = data.Search(None, tmp_path, True, tmp_path / "cache")
    calls = []
    before = decompress._unpack
    monkeypatch.setattr(decompress, "_unpack", lambda *of: (calls.append(1), before(*of)))
    for _ in range(3):
        found = data.load("text", {"file": "t.txt", "length": 8, "vocabulary": "bytes"}, search)
        tokens = found.train.arrays["token"].copy()
        assert bytes(tokens[:40].ravel().tolist()).decode() == text[:320]
    assert len(calls) == 1
    # A flipped bit, a cut and a copy of an earlier version are noticed and unpacked again.
    (copy,) = (tmp_path / "cache" / "unpacked").iterdir()
    whole = copy.read_bytes()
    for content in (whole[:9] + b"?" + whole[10:], whole[:-1], whole[:-12], b""):
        copy.write_bytes(content)
        again = data.load("text", {"file": "t.txt", "length": 8, "vocabulary": "bytes"}, search)
        np.testing.assert_array_equal(again.train.arrays["token"], tokens)
    assert len(calls) == 5
