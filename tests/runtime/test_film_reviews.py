"""`film_reviews()`: the same sentences from the file and from the archives that it is in, ten
parts, and what is wrong in them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime import data
from nnc.runtime.data.sets.film_reviews import INNER, OUTER, TEXT

SCORES = [(1 if n % 3 else -1) * (0.5 + n % 7 / 2) for n in range(50)]
SENTENCES = [f"Film {n} is {'good' if n % 3 else 'bad'}, no. {n}." for n in range(50)]
LINES = [f"{n}\t{m}\t{s}" for n, (m, s) in enumerate(zip(SCORES, SENTENCES, strict=True), 1)]
# One without a sign, and one that differs from the first in capitals and marks alone.
FILE = "\r\n".join([*LINES, "51\t0\tA film, “the” film.", "52\t2.5\tFILM 0 is bad: no 0"]) + "\r\n"


def archive(name: str, content: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as opened:
        for path, raw in (("a/_README_.txt", b"about"), (f"a/b/{name}", content)):
            member = tarfile.TarInfo(path)
            member.size = len(raw)
            opened.addfile(member, io.BytesIO(raw))
    return packed.getvalue()


def packed(name: str, text: str = FILE) -> bytes:
    """The text, or the archive of that name that it is in."""
    inner = archive(TEXT, text.encode())
    return {TEXT: text.encode(), INNER: inner}.get(name) or archive(INNER, inner)


def load(folder: Path, **settings) -> data.Dataset:
    search = data.Search(folder, folder, offline=True, cache=folder / "cache")
    return data.load("film_reviews", settings, search)


def test_the_file_and_both_archives_are_the_same_sentences(tmp_path) -> None:
    found = []
    for name in (TEXT, INNER, OUTER, OUTER.lower()):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_bytes(packed(name))
        found.append(load(folder, lowercase=True))
    first, *others = found
    assert {name: len(split) for name, split in first.splits.items()} == {
        "train": 40, "test": 5, "validation": 5,
    }  # fmt: skip
    for split, arrays in ((n, s.arrays) for other in others for n, s in other.splits.items()):
        for name, values in arrays.items():
            np.testing.assert_array_equal(values, first.splits[split].arrays[name])
    train, vocabulary = first.train.arrays, first.vocabularies["token"]
    for tokens, label, score in zip(train["token"], train["label"], train["score"], strict=True):
        words = vocabulary.decode(tokens).split()
        assert words[0] == "film" and words[3] == ("good" if label else "bad")
        row = SENTENCES.index(f"Film {words[1]} is {words[3]}, no. {words[1]}.")
        assert score == np.float32(SCORES[row]) and label == (SCORES[row] > 0)
    assert first.class_names["label"] == ("negative", "positive")


def test_every_sentence_tests_once_and_validates_once(tmp_path) -> None:
    (tmp_path / TEXT).write_text(FILE, "utf-8")
    seen: dict[str, list[str]] = {"test": [], "validation": [], "train": []}
    for fold in range(1, 11):
        found = load(tmp_path, fold=fold)
        vocabulary = found.vocabularies["token"]
        for name, split in found.splits.items():
            # The numbers of films in other parts are unknown, but there are always as many.
            seen[name] += [vocabulary.decode(tokens) for tokens in split.arrays["token"]]
        train = {vocabulary.decode(tokens) for tokens in found.train.arrays["token"]}
        assert len(train) == 40
    assert len(seen["test"]) == len(seen["validation"]) == 50
    counts = [seen["train"].count(text) for text in {*seen["train"]}]
    assert counts == [8] * 50  # eight parts of ten, ten times


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("3\t1.5", "not a number, a mean"),
        ("3\tgood\tA film.", "not a number, a mean"),
        ("3\t4.5\tA film.", "mean from -4 to 4"),
        ("3\tnan\tA film.", "mean from -4 to 4"),
        ("3\t1.5\t ", "and a sentence"),
        ("3\t1.5\tA film.\tagain", "divided by tabs"),
    ],
)
def test_lines_that_are_not_of_the_set(tmp_path, line, told) -> None:
    (tmp_path / INNER).write_bytes(packed(INNER, "\n".join([*LINES[:2], line, *LINES[3:]])))
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    (found,) = caught.value.diagnostics
    assert found.code == "E0602" and told in found.message and f"{INNER}:3 " in found.message


@pytest.mark.parametrize(
    ("content", "code", "told"),
    [
        (packed(OUTER)[:200], "E0603", "does not unpack"),
        (b"no archive", "E0603", "does not unpack"),
        (archive("other.txt", b"1\t1\tA film."), "E0603", f"has no file {INNER}"),
        (archive(INNER, b"no archive"), "E0603", "does not unpack"),
        (archive(INNER, archive(TEXT, b"\xff\xfe1\t1\tA")), "E0612", "UTF-16"),
        (archive(INNER, archive(TEXT, b"1\t0\tA film.\n")), "E0613", "has 0 sentences"),
    ],
)
def test_damaged_archives(tmp_path, content, code, told) -> None:
    (tmp_path / OUTER).write_bytes(content)
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    (found,) = caught.value.diagnostics
    assert found.code == code and told in found.message


def test_what_is_said_where_it_is_not(tmp_path) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    (found,) = caught.value.diagnostics
    assert found.code == "E0601" and str(tmp_path) in found.message
    assert "pip download --no-deps --no-binary :all: vaderSentiment==3.3.2" in found.help
    with pytest.raises(UserError, match="`fold` of `film_reviews`"):
        load(tmp_path, fold=11)


def test_the_real_sentences() -> None:
    # In $NNC_DATA, or in the user's cache, where continuous integration puts them.
    search = data.Search(None, Path(__file__).parent, offline=True)
    try:
        found = data.load("film_reviews", {"min_count": 2, "lowercase": True}, search)
    except UserError as error:
        assert error.diagnostics[0].code == "E0601"
        pytest.skip("the sentences of film_reviews() are not in $NNC_DATA")
    assert [len(split) for split in found.splits.values()] == [8452, 1057, 1057]
    assert len(found.vocabularies["token"]) == 8692
