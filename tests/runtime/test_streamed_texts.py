"""Texts, lines, pairs, sounds and unpacked arrays that are larger than the memory for data: the
same bits as in memory, from files of the cache that the next run finds."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime import cli, data
from nnc.runtime.data.core import encodings
from nnc.runtime.data.core.fingerprint import fingerprint
from nnc.runtime.data.core.kept import Kept
from nnc.runtime.data.core.padding import Padded, Sequences
from nnc.runtime.data.core.spool import Spool
from nnc.runtime.data.core.stored import Stored
from nnc.runtime.data.formats.text_file import text_blocks, text_lines

NONE, ALL = "1 B", "1 GB"  # of the data may be in memory
WORDS = ("good", "bad", "wörd", "it's", "12", "—", "a", "漢字", "fine,")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NNC_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    # Files are read and encoded in many small blocks.
    monkeypatch.setattr("nnc.runtime.data.core.decompress.CHUNK", 501)
    monkeypatch.setattr("nnc.runtime.data.core.byte_pairs.PIECE", 200)
    monkeypatch.setattr("nnc.runtime.data.formats.encoded_rows.AT_ONCE", 7)
    monkeypatch.setattr("nnc.runtime.data.formats.npz.BLOCK", 100)
    monkeypatch.setattr("nnc.runtime.data.core.stored.BLOCK", 300)
    monkeypatch.setattr("nnc.runtime.data.core.padding.PIECE", 50)
    return tmp_path


@pytest.fixture
def limit(monkeypatch):
    return lambda size: monkeypatch.setenv("NNC_DATA_MEMORY", size)


def load(source: str, **settings: object) -> data.Dataset:
    return data.load(source, settings, data.Search(None, Path.cwd(), cache=Path("cache")))


def sentence(draw: random.Random) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(draw.randint(1, 12)))


def write_texts() -> None:
    draw = random.Random(0)
    lines = [sentence(draw) for _ in range(150)]
    Path("t.txt").write_text("\r\n".join(lines) + "\n", newline="")
    Path("l.tsv").write_text("".join(f"{draw.choice(WORDS[:2])}\t{x}\n" for x in lines))
    Path("p.tsv").write_text("".join(f"{x}\t{sentence(draw)}\n" for x in lines))
    for kind in ("t.txt", "l.tsv", "p.tsv"):
        rows, name = Path(kind).read_text().splitlines(keepends=True), Path(kind).stem
        for number, start in ((2, 0), (10, 40), (11, 90)):
            part = rows[start : {0: 40, 40: 90, 90: 150}[start]]
            Path(f"{name}-{number}.tsv").write_text("".join(part))
    records = [dict(zip(("label", "text"), line.split("\t"), strict=True)) for line in
               Path("l.tsv").read_text().splitlines()]  # fmt: skip
    Path("l.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))


def write_sounds() -> None:
    noise = np.random.default_rng(0)
    for number in range(8):
        path = Path("s", f"{'no' if number % 2 else 'yes'}_{number}.wav")
        path.parent.mkdir(exist_ok=True)
        with wave.open(str(path), "wb") as file:
            file.setnchannels(2)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes(
                noise.integers(-9000, 9000, 2 * 900 + 400 * number, np.int16).tobytes()
            )


def write_arrays() -> None:
    noise = np.random.default_rng(0)
    x = noise.normal(size=(60, 3))
    y = np.asfortranarray(noise.normal(size=(60, 4)).astype(">f4"))
    np.savez_compressed("z.npz", x=x, y=y)
    for number, (begin, end) in {2: (0, 10), 10: (10, 60)}.items():
        np.savez_compressed(f"z-{number}.npz", x=x[begin:end], y=np.asfortranarray(y[begin:end]))


SOUNDS = {"folder": "s", "pattern": "{word}_{n}.wav", "label": "word", "mels": 8, "frame": 0.02}
# a source, its settings, and the pattern of the same data in several files
KINDS = {
    "chars": ("text", {"file": "t.txt", "length": 9, "stride": 4}, "t-*.tsv"),
    "bytes": ("text", {"file": "t.txt", "length": 9, "vocabulary": "bytes"}, ""),
    "byte pairs": ("text", {"file": "t.txt", "length": 9, "vocabulary": "bpe", "size": 300}, ""),
    "packed": ("text", {"file": "t.txt.gz", "length": 9, "validation": 0.3}, ""),
    "column": ("text", {"file": "l.jsonl", "length": 9}, ""),
    "lines": ("lines", {"file": "l.tsv"}, "l-*.tsv"),
    "cut": ("lines", {"file": "l.tsv", "length": 4, "vocabulary": "chars", "test": 0}, ""),
    "table": ("lines", {"file": "l.jsonl", "min_count": 3, "lowercase": True}, ""),
    "pairs": ("pairs", {"file": "p.tsv"}, "p-*.tsv"),
    "some": ("pairs", {"file": "p.tsv", "source_length": 20, "vocabulary": "bytes"}, ""),
    "sounds": ("wav", SOUNDS, ""),
    "channels": ("wav", {**SOUNDS, "channels": 2, "length": 12}, ""),
    "raw": ("wav", {**SOUNDS, "normalize": False}, ""),
    "archive": ("npz", {"file": "z.npz"}, "z-*.npz"),
}


def equal(found: data.Dataset, expected: data.Dataset) -> None:
    assert found.reader == expected.reader and found.schema == expected.schema
    assert found.vocabularies == expected.vocabularies
    assert found.class_names == expected.class_names
    assert found.splits.keys() == expected.splits.keys()
    for name, split in expected.splits.items():
        for field, array in split.arrays.items():
            other = found.splits[name].arrays[field]
            rows = np.random.default_rng(1).permutation(len(split))
            assert other.dtype == array.dtype
            np.testing.assert_array_equal(other[rows], array[rows])
            np.testing.assert_array_equal(other[:], array[:])
    for field in expected.schema.fields:
        if field.classes:
            data.check_labels(found, field.name, field.classes)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_data_in_files_and_in_memory(here, limit, kind, monkeypatch):
    if kind == "byte pairs":
        pytest.importorskip("tokenizers", reason="byte pairs need tokenizers")
    write_texts()
    write_sounds()
    write_arrays()
    Path("t.txt.gz").write_bytes(gzip.compress(Path("t.txt").read_bytes()))
    source, settings, parts = KINDS[kind]
    limit(ALL)
    whole = load(source, **settings)
    assert not any(isinstance(a, Stored) for a in whole.train.arrays.values())
    limit(NONE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data.Search, "cache_folder", Path("other"))
        for _ in range(2):
            found = load(source, **settings)
            assert any(isinstance(a, Stored) for a in found.train.arrays.values())
            equal(found, whole)
            assert fingerprint(found) == fingerprint(whole)
            assert data.describe(source, settings, data.Search(None, here)) == whole.schema
            if kind != "bytes":  # nothing is encoded a second time
                assert list(Path("other").rglob("*.rows"))
                patch.setattr(Spool, "add", None)
    for size in (NONE, ALL) if parts else ():
        limit(size)
        joined = load(source, **{**settings, "file": parts})
        equal(joined, whole)


TRAIN = """
model M(token: i32[B, T]) -> logits: f32[B, 2] {
    h = token |> Embedding(100, 4)
    total[b, c] = sum(t) h[b, t, c]
    logits = total |> Dense(2)
}
train M {
    data      = lines("NAME")
    loss      = cross_entropy(logits, label)
    optimizer = adam(lr = 1e-2)
    batch     = 8
    epochs    = 2
}
"""
WRITER = """
model M(token: i32[B, T]) -> logits: f32[B, T, 100] {
    logits = token |> Embedding(100, 4) |> Dense(100)
}
train M {
    data      = text("NAME", length = 6)
    loss      = cross_entropy(logits, target)
    optimizer = adam(lr = 1e-2)
    batch     = 8
    epochs    = 2
}
"""


SHORT = ["--max-time", "0.001s"]  # ends in the middle of an epoch
OTHERS = [(NONE, "parts", [*SHORT, "--threads", "2"]), (ALL, "whole", SHORT), (NONE, "whole", [])]


@pytest.mark.parametrize(
    ("program", "names", "others"),
    [
        (TRAIN, {"whole": "l.tsv", "parts": "l-*.tsv"}, OTHERS[:1]),
        pytest.param(
            WRITER, {"whole": "t.txt", "parts": "t-*.tsv"}, OTHERS, marks=pytest.mark.slow
        ),
    ],
)
def test_a_run_on_files_ends_with_the_same_bits(here, limit, program, names, others):
    """In any number of threads, in parts, and if it goes on with another limit."""
    write_texts()
    runs = []
    for size, name, flags in [(ALL, "whole", []), *others]:
        limit(size)
        runs.append(Path(f"run{len(runs)}"))
        Path("m.nn").write_text(program.replace("NAME", names[name]))
        assert cli.run(["train", "m.nn", "--out", str(runs[-1]), *flags]) == 0
        if flags:
            assert not (runs[-1] / "weights.safetensors").exists()
            limit(NONE if size == ALL else ALL)
            assert cli.run(["train", "--resume", str(runs[-1])]) == 0
    first, *found = [(run / "weights.safetensors").read_bytes() for run in runs]
    assert found == [first] * len(others)


# ── files of the cache ───────────────────────────────────────────────────────────────────────────


def test_a_damaged_or_changed_file_is_read_again(here, limit):
    write_texts()
    limit(ALL)
    whole = load("lines", file="l.tsv")
    limit(NONE)
    load("lines", file="l.tsv")
    (kept,) = Path("cache").rglob("*.rows")
    kept.write_bytes(bytes(len(kept.read_bytes())))
    equal(load("lines", file="l.tsv"), whole)
    # Another text under that name, as long as the first.
    Path("l.tsv").write_text(Path("l.tsv").read_text().replace("good", "gööd"[:4]))
    os.utime("l.tsv", ns=(1, 1))
    assert load("lines", file="l.tsv").class_names["label"] == ("bad", "gööd")


def test_what_is_in_use_is_not_replaced_by_another_run(here, limit):
    """Two runs that begin at once convert the same text; the one that is first keeps its file."""
    write_texts()
    search = data.Search(None, here, cache=Path("cache"))
    kept = Kept.of(search, "texts", [Path("t.txt")], [])
    with kept.spool("x", 0) as slow, kept.spool("x", 0) as fast:
        for spool in (slow, fast):
            spool.add(np.arange(5))
        first = fast.values()
        second = slow.values()
    assert isinstance(first, Stored) and isinstance(second, Stored)
    np.testing.assert_array_equal(first[:], second[:])
    assert [path.suffix for path in Path("cache", "texts").iterdir()] == [".rows"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:20]), "has been cut short while it was in use"),
        (lambda p: p.with_name("n").write_bytes(p.read_bytes()) and p.with_name("n").replace(p),
         "has been replaced while it was in use"),
        (lambda p: p.unlink(), "cannot read"),
    ],
)  # fmt: skip
def test_a_file_of_the_cache_that_changes_in_use(here, limit, change, message):
    write_texts()
    limit(NONE)
    split = load("pairs", file="p.tsv").train
    for kept in Path("cache").rglob("*.rows"):
        change(kept)
    with pytest.raises(UserError) as error:
        split.take("source", np.arange(4), np.empty((4, *split.arrays["source"].shape[1:]), "i4"))
    assert message in error.value.diagnostics[0].message


def test_a_cache_that_cannot_be_written(here, limit, monkeypatch):
    write_texts()
    limit(NONE)

    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nnc.runtime.data.core.spool.make_folder", full)
    for source, file in (("text", "t.txt"), ("lines", "l.tsv")):
        with pytest.raises(UserError, match="No space left on device") as error:
            load(source, file=file, **{"length": 9} if source == "text" else {})
        said = error.value.diagnostics[0]
        assert said.code == "E0617" and "NNC_DATA_MEMORY says what may stay" in str(said.help)
    assert not list(here.rglob("*.part"))


def test_the_cache_is_told_of_and_cleared(here, limit):
    write_texts()
    limit(NONE)
    said: list[str] = []
    search = data.Search(None, here, notify=said.append)
    for _ in range(2):  # of which the first converts the text
        data.load("text", {"file": "t.txt", "length": 9}, search)
    folder = search.cache_folder / "texts"
    assert said == [f"data that do not fit into memory go to {folder}, once"]
    assert list((here / "home").rglob("*.rows"))
    assert cli.run(["cache", "clear", "data"]) == 0
    assert not list((here / "home").rglob("*.rows"))


# ── parts ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("encoding", ["utf-8", "shift-jis", "gb18030", "utf-16-le", "cp1250"])
def test_blocks_of_a_text_are_decoded_as_the_whole(encoding):
    """Also what is wrong in it, and where: the line, and the byte in that line."""
    draw, wrong = random.Random(encoding), 0
    for size in (1, 3, 1000):
        for _ in range(60):
            text = "".join(draw.choice("ab\n\r ñ漢あ") for _ in range(draw.randint(1, 30)))
            raw = bytearray(text.encode(encoding, "ignore") or b"\n")
            if draw.random() < 0.6:
                raw[draw.randrange(len(raw))] = draw.choice([0xFF, 0x81, 0xD8, 0x80, 0xC3])
            raw = bytes(raw)
            blocks = [raw[i : i + size] for i in range(0, len(raw), size)]
            try:
                expected = raw.decode(encoding)
            except UnicodeDecodeError as error:
                expected, before = None, raw[: error.start].decode(encoding)
                begin = len(before[: before.rfind("\n") + 1].encode(encoding))
                place = f"line {before.count(chr(10)) + 1}, byte {error.start - begin + 1}: "
            try:
                parts = encodings.decoded_blocks(lambda b=blocks: iter(b), encoding, Path("x"))
                assert "".join(parts) == expected
            except UserError as error:
                said = error.diagnostics[0].message
                # that it is another encoding, or which byte is wrong
                assert "and `encoding` says" in said or (expected is None and place in said)
                wrong += 1
    assert wrong > 20


def test_ends_of_lines_are_those_of_the_whole(here):
    text = "a\r\nb\rc\n\r\n\nd\r"
    Path("t").write_bytes(text.encode())
    for size in range(1, 12):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("nnc.runtime.data.core.decompress.CHUNK", size)
            assert "".join(text_blocks(Path("t"), here)) == "a\nb\nc\n\n\nd\n"
            assert [*text_lines(Path("t"), here)] == ["a", "b", "c", "", "", "d", ""]


def test_padding_and_its_marks():
    sequences = Sequences.of([np.array(one, np.uint8) for one in ([5, 6, 7], [], [8])])
    rows = np.array([2, 0, 1, 0])
    plain, first = Padded(sequences, 2), Padded(sequences, 3, before=1)
    last = Padded(sequences, 3, after=2)
    assert plain.read(rows).tolist() == [[8, 0], [5, 6], [0, 0], [5, 6]]
    assert first.read(rows).tolist() == [[1, 8, 0], [1, 5, 6], [1, 0, 0], [1, 5, 6]]
    assert last.read(rows).tolist() == [[8, 2, 0], [5, 6, 7], [2, 0, 0], [5, 6, 7]]
    assert plain.lengths.tolist() == [2, 0, 1] and last.lengths.tolist() == [3, 1, 2]
    assert (last.bounds, plain.held(1), sequences.longest) == ((0, 8), plain, 3)
    assert plain.held(6).tolist() == [[5, 6], [0, 0], [8, 0]]


GROWTH = """
import sys
from pathlib import Path
from nnc.runtime import data
from nnc.runtime.data.core.fingerprint import fingerprint

def most():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))

source, *names = sys.argv[1:]
settings = {"length": 50, "vocabulary": "chars"}
before = []
for name in names:
    found = data.load(source, {**settings, "file": name}, data.Search(None, Path.cwd()))
    fingerprint(found)
    for field, array in found.train.arrays.items():
        array[len(array) // 2 :][:100]
    before.append(most())
print(before[1] - before[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
@pytest.mark.parametrize(("source", "name"), [("text", "t.txt"), ("lines", "l.tsv")])
def test_texts_take_less_memory_than_they_are_long(tmp_path, monkeypatch, limit, source, name):
    """20 MB of text, of which 2 may be in memory: no more than blocks of it, and where each example
    begins."""
    monkeypatch.chdir(tmp_path)
    write_texts()
    content = Path(name).read_text().replace("\n", " and so on " * 40 + "\n")
    with Path(f"big-{name}").open("w") as file:
        while file.tell() < 20e6:
            file.write(content)
    grown = []
    for size in ("2 MB", ALL):
        limit(size)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / size))
        command = [sys.executable, "-c", GROWTH, source, name, f"big-{name}"]
        ran = subprocess.run(command, capture_output=True, text=True, check=True)
        grown.append(int(ran.stdout))
    assert grown[0] < 25e6 < grown[1], grown
