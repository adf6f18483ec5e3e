"""Pairs of texts in one vocabulary, in byte pairs, and several in one example."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime import data
from nnc.runtime.data.core.padding import pack
from nnc.runtime.data.core.vocabulary import END, START

LINES = [("ein hund", "a dog"), ("eine katze schläft", "a cat sleeps"), ("hund", "dog"),
         ("die katze und der hund schlafen", "the cat and the dog sleep"), ("katze", "cat"),
         ("a dog", "ein hund"), ("wer", "who"), ("wo", "where")]  # fmt: skip


def load(folder: Path, source: str = "pairs", **settings) -> data.Dataset:
    (folder / "p.tsv").write_text("\n".join(map("\t".join, LINES)), "utf-8")
    search = data.Search(folder, folder, offline=True, cache=folder / "cache")
    return data.load(source, {"file": "p.tsv", "test": 0, **settings}, search)


def texts(vocabulary, tokens: np.ndarray, length: int, mark: str) -> list[str]:
    """The texts of an example between the marks."""
    ids = tokens[:length].tolist()
    found: list[list[int]] = [[]]
    for token in ids:
        if token == vocabulary.special(mark):
            found.append([])
        else:
            found[-1].append(token)
    return [vocabulary.decode(one) for one in found]


@pytest.mark.parametrize("kind", ["words", "bpe"])
def test_packed_pairs_are_all_pairs(tmp_path, kind) -> None:
    sizes = {"source_length": 6, "target_length": 8} if kind == "words" else {}
    found = load(tmp_path, packed=True, vocabulary=kind, size=270, **sizes)
    arrays, known = found.train.arrays, found.vocabularies
    pairs = []
    for row in range(len(found.train)):
        x, into, out = (arrays[name][row] for name in ("source", "target_in", "target_out"))
        length = arrays["target_length"][row]
        sources = texts(known["source"], x, arrays["source_length"][row], START)
        before, *begun = texts(known["target_in"], into, length, START)
        *ended, after = texts(known["target_out"], out, length, END)
        # A mark before every target that is read, and behind every one that is written.
        assert before == after == "" and begun == ended
        assert not x[arrays["source_length"][row] :].any() and not out[length:].any()
        pairs += zip(sources, begun, strict=True)
    assert sorted(pairs) == sorted(LINES)
    assert len(found.train) < len(LINES)


def test_a_pair_alone_is_as_it_was(tmp_path) -> None:
    """With room for one pair, an example is what it is without `packed`."""
    settings = {"source_length": 6, "target_length": 7}
    one = load(tmp_path, **settings).train.arrays
    other = load(tmp_path, packed=True, **settings).train.arrays
    longest = int(np.argmax(one["source_length"]))
    for name, values in one.items():
        np.testing.assert_array_equal(other[name][0], values[longest])


def test_packing_leaves_little_room() -> None:
    random = np.random.RandomState(0)
    sizes = [(int(a), int(a) + 3) for a in random.randint(2, 60, 500)]
    groups = pack(np.array(sizes), (96, 112))
    assert sorted(k for group in groups for k in group) == list(range(500))
    for group in groups:
        assert sum(sizes[k][0] + 1 for k in group) - 1 <= 96
        assert sum(sizes[k][1] + 1 for k in group) <= 112
    least = sum(b + 1 for _, b in sizes) / 112
    assert len(groups) <= 1.1 * least
    assert pack(np.zeros((0, 2), np.int64), (96, 112)) == []


def test_a_joint_vocabulary(tmp_path) -> None:
    joint, apart = (load(tmp_path, joint=flag) for flag in (True, False))
    assert joint.vocabularies["source"] == joint.vocabularies["target_in"]
    assert {"hund", "dog"} <= {*joint.vocabularies["source"].tokens}
    # `a dog` is once a source and once a target: the same tokens.
    arrays = joint.train.arrays
    assert arrays["source"][5, :2].tolist() == arrays["target_out"][0, :2].tolist()
    assert apart.train.arrays["source"][5, :2].tolist() != arrays["source"][5, :2].tolist()


def test_only_training_pairs_make_the_joint_vocabulary(tmp_path) -> None:
    found = load(tmp_path, joint=True, test=0.5)
    known = found.vocabularies["source"]
    train = {known.decode(t) for n in ("source", "target_in") for t in found.train.arrays[n]}
    assert "<unk>" not in " ".join(train)
    assert found.test is not None and (found.test.arrays["source"] == 1).any()


def test_lines_in_byte_pairs(tmp_path) -> None:
    found = load(tmp_path, "lines", vocabulary="bpe", size=262)
    known = found.vocabularies["token"]
    assert known.kind == "bpe" and len(known) <= 262 + 2
    rows = zip(found.train.arrays["token"], found.train.arrays["length"], strict=True)
    read = {known.decode(tokens[:count]) for tokens, count in rows}
    assert read == {target for _, target in LINES}


def test_too_few_byte_pairs(tmp_path) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, vocabulary="bpe", size=256)
    (found,) = caught.value.diagnostics
    assert found.code == "E0615" and "257 or more" in found.message
