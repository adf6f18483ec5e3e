"""Sources of text. Sound and synthetic tasks: `test_sequence_data_sound.py`; wrong data:
`test_sequence_data_mistakes.py`.

No test reads the user's cache or the network; the real sets are read if they are on this machine.
"""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nnc.runtime import data
from nnc.runtime.data.core import byte_pairs, vocabulary
from nnc.runtime.data.core.vocabulary import END, PAD, START, UNKNOWN

TEXT = "".join(f"line {n} of a text, with wörds and numbers {n * n}.\n" for n in range(200))


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    monkeypatch.delenv("NNC_DATA", raising=False)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def search(tmp_path, said):
    (tmp_path / "here").mkdir()
    cache = tmp_path / "cache"
    return data.Search(None, tmp_path / "here", offline=True, cache=cache, notify=said.append)


def real_data(name: str) -> Path | None:
    """The folder of real data sets, if this machine has one with that set in it."""
    named = os.environ.get("NNC_DATA")
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    places = ([Path(named)] if named else []) + [beside]
    return next((path for path in places if (path / name).is_dir()), None)


SHAKESPEARE = real_data("tinyshakespeare")


def taken(split: data.Split, name: str, rows, dtype=np.int32) -> np.ndarray:
    rows = np.asarray(rows, np.int64)
    out = np.full((len(rows), *split.arrays[name].shape[1:]), 99, dtype)
    split.take(name, rows, out)
    return out


def whole(split: data.Split, name: str) -> np.ndarray:
    return taken(split, name, np.arange(len(split)))


def loaded(search, name: str, **settings) -> data.Dataset:
    """The dataset, after a look at whether its description is right."""
    described = data.describe(name, settings, search)
    found = data.load(name, settings, search)
    assert described == found.schema
    assert described.count == len(found.train)
    for split in found.splits.values():
        for field in described.fields:
            assert split.arrays[field.name].shape == (len(split), *field.shape)
            if field.classes is not None:
                data.check_labels(found, field.name, field.classes)
    return found


def written(search, name: str, text: str) -> None:
    (search.base / name).write_bytes(text.encode())


# ── vocabularies ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "made",
    [
        vocabulary.chars([TEXT, "é\N{GRINNING FACE}"]),
        vocabulary.all_bytes(),
        vocabulary.all_bytes((PAD, UNKNOWN, START, END)),
        vocabulary.chars([TEXT, "é\N{GRINNING FACE}"], (PAD, UNKNOWN)),
    ],
    ids=["chars", "bytes", "bytes-specials", "chars-specials"],
)
def test_what_is_encoded_decodes(made):
    text = "a wörd é\n\N{GRINNING FACE} 12"
    ids = made.encode(text)
    assert ids.dtype == made.dtype and ids.max() < len(made)
    assert made.decode(ids) == text
    assert data.Vocabulary.from_json(made.to_json()) == made
    assert len(made.encode("")) == 0 and made.decode([]) == ""


def test_words_are_numbered_by_frequency():
    made = vocabulary.words(["b a, b", "c b a d"], (PAD, UNKNOWN), min_count=2)
    assert made.tokens == ("b", "a")
    assert made.encode("a b, c").tolist() == [3, 2, 1, 1]
    assert made.decode([2, 1, 3, 0, 0]) == "b <unk> a"
    assert data.Vocabulary.from_json(made.to_json()) == made


def test_ids_end_at_the_end_mark():
    made = vocabulary.chars(["abc"], (PAD, UNKNOWN, START, END))
    assert made.decode([2, 4, 5, 3, 6, 0]) == "ab"
    assert (made.special(START), made.special(END)) == (2, 3)
    for wrong in (7, -1):
        with pytest.raises(IndexError):
            made.decode([wrong])


@pytest.mark.parametrize("size, dtype", [(256, np.uint8), (257, np.uint16), (65537, np.int32)])
def test_ids_take_the_smallest_type(size, dtype):
    tokens = tuple(map(chr, range(0x20000, 0x20000 + size)))
    made = data.Vocabulary("chars", tokens)
    assert made.encode(tokens[-1] + tokens[0]).tolist() == [size - 1, 0]
    assert made.encode(tokens[-1]).dtype == dtype


def test_long_texts_are_looked_up_in_blocks(monkeypatch):
    made = vocabulary.chars([TEXT])
    once = made.encode(TEXT)
    monkeypatch.setattr(vocabulary, "BLOCK", 7)
    np.testing.assert_array_equal(made.encode(TEXT), once)


# ── byte pairs ───────────────────────────────────────────────────────────────────────────────────


def test_the_spelling_of_bytes():
    every = bytes(range(256))
    token = byte_pairs.token_of_bytes(every)
    assert byte_pairs.bytes_of_token(token) == every
    assert byte_pairs.token_of_bytes(b" \nA") == "ĠĊA"
    assert token.isprintable() and len(set(token)) == 256


def test_byte_pairs_read_everything():
    pytest.importorskip("tokenizers")
    made = vocabulary.learn_byte_pairs([TEXT], 300)
    assert len(made) == 300 and len(made.merges) == 44
    text = "line 7 of é \N{GRINNING FACE}\r\n\t x"
    ids = made.encode(text)
    assert made.decode(ids) == text and ids.dtype == np.uint16
    assert len(made.encode(TEXT)) < len(TEXT.encode()) / 2
    again = data.Vocabulary.from_json(made.to_json())
    assert again == made
    np.testing.assert_array_equal(again.encode(text), ids)


def test_byte_pairs_are_the_same_in_pieces(monkeypatch):
    pytest.importorskip("tokenizers")
    made = vocabulary.learn_byte_pairs([TEXT], 300)
    text = TEXT + "\n\n  two  spaces , a — dash's 'quote' " * 9
    once = made.encode(text)
    monkeypatch.setattr(byte_pairs, "PIECE", 3)
    assert len(list(byte_pairs.pieces([text]))) > 500
    np.testing.assert_array_equal(made.encode(text), once)
    assert vocabulary.learn_byte_pairs([TEXT], 300) == made


def test_byte_pairs_depend_on_the_text_alone():
    pytest.importorskip("tokenizers")
    program = (
        "import sys; from nnc.runtime.data.core.vocabulary import learn_byte_pairs as p; "
        "print(p([sys.stdin.read()], 350).to_json())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            input=TEXT,
            encoding="utf-8",
            check=True,
            capture_output=True,
            env={
                **os.environ,
                "PYTHONHASHSEED": seed,
                "PYTHONPATH": os.pathsep.join(sys.path),
                "PYTHONUTF8": "1",
                "RAYON_NUM_THREADS": seed,
            },
        ).stdout
        for seed in "123"
    }
    assert len(found) == 1


# ── text ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["chars", "bytes", "bpe"])
@pytest.mark.parametrize("stride", [None, 3, 20])
def test_windows_of_a_text(search, kind, stride):
    if kind == "bpe":
        pytest.importorskip("tokenizers")
    written(search, "t.txt", TEXT)
    settings = {"file": "t.txt", "length": 16, "vocabulary": kind, "size": 300, "stride": stride}
    found = loaded(search, "text", **settings)
    known = found.vocabularies["token"]
    cut = int(len(TEXT) * 0.9)
    if kind == "bytes":
        ids = np.frombuffer(TEXT.encode(), np.uint8)
        cut = int(len(ids) * 0.9)
        parts = ids[:cut], ids[cut:]
    else:
        parts = known.encode(TEXT[:cut]), known.encode(TEXT[cut:])
    for split, ids, step in zip(
        (found.train, found.validation), parts, (stride or 16, 16), strict=True
    ):
        starts = range(0, len(ids) - 16, step)
        assert len(split) == len(starts)
        np.testing.assert_array_equal(whole(split, "token"), [ids[s : s + 16] for s in starts])
        np.testing.assert_array_equal(whole(split, "target"), [ids[s + 1 : s + 17] for s in starts])
    assert found.test is None


def test_windows_share_their_tokens(search):
    written(search, "t.txt", TEXT)
    found = loaded(search, "text", file="t.txt", length=100, stride=1)
    token, target = found.train.arrays["token"], found.train.arrays["target"]
    assert token.dtype == np.uint8 and token.strides == (1, 1)
    assert np.shares_memory(token[0, 1:2], target[0, :1])


def test_the_last_share_validates_and_no_share_does_not(search):
    written(search, "t.txt", TEXT)
    found = loaded(search, "text", file="t.txt", length=8, validation=0.5)
    known = found.vocabularies["token"]
    half = len(TEXT) // 2
    assert known.decode(whole(found.validation, "token")[0]) == TEXT[half : half + 8]
    assert known.decode(whole(found.train, "target")[-1]) in TEXT[: len(TEXT) - half]
    assert loaded(search, "text", file="t.txt", length=8, validation=0).validation is None


def test_the_form_of_a_text_file_does_not_matter(search):
    written(search, "t.txt", TEXT)
    (search.base / "dos.txt").write_bytes(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode())
    (search.base / "t.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
    found = [
        loaded(search, "text", file=name, length=9) for name in ("t.txt", "dos.txt", "t.txt.gz")
    ]
    for other in found[1:]:
        assert other.vocabularies == found[0].vocabularies
        np.testing.assert_array_equal(whole(other.train, "token"), whole(found[0].train, "token"))


def test_byte_pairs_are_learnt_once_and_from_training_alone(search, monkeypatch):
    pytest.importorskip("tokenizers")
    written(search, "t.txt", TEXT + "zqzq " * 400)
    settings = {"file": "t.txt", "length": 9, "vocabulary": "bpe", "size": 400, "validation": 0.5}
    first = data.load("text", settings, search)
    assert not any("zq" in token for token in first.vocabularies["token"].tokens)
    monkeypatch.setattr(byte_pairs, "learn", None)  # must not be called again
    again = loaded(search, "text", **settings)
    assert again.vocabularies == first.vocabularies
    np.testing.assert_array_equal(whole(again.train, "target"), whole(first.train, "target"))


def test_a_text_in_the_place_of_shakespeare(search):
    described = data.describe("shakespeare", {}, search)
    assert described.count == (1_003_854 - 129) // 128 + 1
    assert described.field("token").classes == 65
    (search.base / "tinyshakespeare").mkdir()
    written(search, "tinyshakespeare/input.txt", TEXT)
    found = loaded(search, "shakespeare", length=32)
    assert found.train.arrays["token"].shape[1] == 32


@pytest.mark.skipif(SHAKESPEARE is None, reason="needs tinyshakespeare/ in $NNC_DATA")
def test_real_shakespeare(search):
    there = data.Search(SHAKESPEARE, search.base, True, search.cache)
    found = loaded(there, "shakespeare", length=256, stride=1)
    assert found.schema == data.describe("shakespeare", {"length": 256, "stride": 1}, search)
    known = found.vocabularies["token"]
    assert len(known) == 65
    assert known.decode(taken(found.train, "token", [0])[0]).startswith("First Citizen:\nBefore")
    assert known.decode(whole(found.validation, "token")[0]).startswith("?\n\nGREMIO:")
    kept = {path.stat().st_size for path in search.cache.rglob("*")} if search.cache.exists() else 0
    assert not kept


# ── lines and pairs ──────────────────────────────────────────────────────────────────────────────

REVIEWS = "good\tA fine film , fine\nbad\tdull\n\ngood\tfine\nbad\ta dull , dull film\n" * 5


def test_lines_with_a_label(search, said):
    written(search, "r.tsv", REVIEWS)
    found = loaded(search, "lines", file="r.tsv", test=0.25)
    assert found.class_names["label"] == ("bad", "good")
    assert (len(found.train), len(found.test)) == (15, 5)
    known = found.vocabularies["token"]
    assert known.specials == (PAD, UNKNOWN)
    lines = [line.split("\t") for line in REVIEWS.split("\n") if line]
    for split in found.splits.values():
        for token, length, label in zip(
            *(split.arrays[name] for name in found.train.arrays), strict=True
        ):
            assert [found.class_names["label"][label], known.decode(token)] in lines
            assert (token[:length] > 0).all() and not token[length:].any()
    assert found.train.arrays["token"].shape[1] == 5 and not said


def test_lines_are_cut_at_the_given_length_and_that_is_said(search, said):
    written(search, "r.tsv", REVIEWS)
    found = loaded(search, "lines", file="r.tsv", test=0, length=2, lowercase=True)
    assert found.test is None
    assert found.vocabularies["token"].decode(found.train.arrays["token"][0]) == "a fine"
    assert set(found.train.arrays["length"]) == {1, 2}
    (message,) = said
    assert "10 of 20 texts" in message and "cut at 2 tokens" in message


@pytest.mark.parametrize("kind, size", [("words", 6), ("chars", 12), ("bytes", 258)])
def test_lines_in_every_vocabulary(search, kind, size):
    written(search, "r.tsv", "".join(f"{n % 3}; {n}\n" for n in range(20, 30)) + "10; xy xy")
    settings = {"file": "r.tsv", "delimiter": ";", "vocabulary": kind, "test": 0.5, "seed": 3}
    found = loaded(search, "lines", **settings)
    assert found.class_names["label"] == ("0", "1", "2", "10")
    if kind == "bytes":
        assert len(found.vocabularies["token"]) == size
        token = found.train.arrays["token"]
        assert token.dtype == np.uint16 and token.max() < size
    else:  # what only tests is not in the vocabulary
        training = {found.vocabularies["token"].decode(t) for t in found.train.arrays["token"]}
        assert UNKNOWN not in "".join(training)
        assert (found.test.arrays["token"] == 1).any()


def test_rare_tokens_are_unknown(search):
    written(search, "r.tsv", "a\tx y\na\tx z\nb\tx\n")
    found = loaded(search, "lines", file="r.tsv", test=0, min_count=2)
    assert found.vocabularies["token"].tokens == ("x",)
    assert found.train.arrays["token"].tolist() == [[2, 1], [2, 1], [2, 0]]


def test_the_label_may_stand_last(search):
    written(search, "r.tsv", "x, y, good\nz, bad\n")
    found = loaded(search, "lines", file="r.tsv", test=0, label="last", delimiter=",")
    assert found.train.arrays["label"].tolist() == [1, 0]
    assert found.train.arrays["length"].tolist() == [3, 1]


def test_pairs_are_shifted_by_one(search, said):
    written(search, "p.tsv", "ein hund\ta dog\neine katze\ta cat sleeps\n")
    found = loaded(search, "pairs", file="p.tsv", test=0)
    reader, writer = found.vocabularies["source"], found.vocabularies["target_in"]
    assert found.vocabularies["target_out"] == writer
    arrays = found.train.arrays
    assert [reader.decode(row) for row in arrays["source"]] == ["ein hund", "eine katze"]
    assert arrays["source_length"].tolist() == [2, 2]
    assert arrays["target_length"].tolist() == [3, 4]
    assert [writer.decode(row) for row in arrays["target_out"]] == ["a dog", "a cat sleeps"]
    assert (arrays["target_in"][:, 0] == writer.special(START)).all()
    for before, after, size in zip(
        arrays["target_in"], arrays["target_out"], arrays["target_length"], strict=True
    ):
        assert after[size - 1] == writer.special(END) and not after[size:].any()
        np.testing.assert_array_equal(before[1:size], after[: size - 1])
    assert not said


def test_pairs_that_do_not_fit_are_left_out_whole(search, said):
    written(search, "p.tsv", "a b c\tx\na\tx y z\na\tx y\nb\ty\n")
    found = loaded(search, "pairs", file="p.tsv", test=0, source_length=2, target_length=3)
    assert found.train.arrays["source_length"].tolist() == [1, 1]
    assert found.train.arrays["target_length"].tolist() == [3, 2]
    (message,) = said
    assert "2 of 4 pairs" in message
