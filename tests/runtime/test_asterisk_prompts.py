"""The source `asterisk_prompts`: texts as they are said, which prompts are read, and which test."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime import data
from nnc.runtime.data.formats.wave_file import wave_bytes
from nnc.runtime.data.sets import asterisk_prompts
from nnc.runtime.data.sets.asterisk_prompts import SOUNDS, spoken

LIST = """; Core Asterisk Sounds in English

hello-world: Hello world.
vm/press: Press 1.
vm/hello: Press 1... hello?
one: one
star: one press *
two: world [w]
hello: hello (note: twice)
long: Hello world, press 1.
missing: hello
beep: [this is a simple beep tone]
"""
SECONDS = {"long": 3.0}


@pytest.fixture(autouse=True)
def nowhere(monkeypatch):
    """No prompts of this machine, and no variables of the user's."""
    monkeypatch.delenv("NNC_DATA", raising=False)
    monkeypatch.setattr(asterisk_prompts, "SOUNDS", ())
    monkeypatch.setattr(asterisk_prompts, "TEXTS", Path("/nowhere"))


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder as the archive has it."""
    found = tmp_path / "prompts"
    rng = np.random.default_rng(0)
    for line in LIST.splitlines()[2:]:
        name = line.partition(":")[0]
        if name != "missing":
            path = found / f"{name}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            count = round(8000 * SECONDS.get(name, 0.3 + 0.1 * len(name)))
            path.write_bytes(wave_bytes(0.1 * rng.normal(size=count), 8000))
    (found / "core-sounds-en.txt").write_text(LIST)
    return found


def search(folder: Path | None, tmp_path: Path) -> data.Search:
    return data.Search(folder, tmp_path, True, tmp_path / "cache")


def loaded(folder: Path, tmp_path: Path, **settings) -> data.Dataset:
    here = search(folder, tmp_path)
    found = data.load("asterisk_prompts", settings, here)
    assert data.describe("asterisk_prompts", settings, here) == found.schema
    return found


def texts(found: data.Dataset, part: str) -> list[str]:
    split = found.splits[part]
    labels = zip(split.arrays["label"], split.arrays["label_length"], strict=True)
    return sorted(found.vocabularies["label"].decode(label[:n]) for label, n in labels)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Press 1 for more.", "press one for more"),
        ("press * or #", "press star or pound"),
        ("A.M.", "a m"),
        ("I'm sorry, that's invalid...", "im sorry thats invalid"),
        ("H.323", "h three two three"),
        ("3D audio", "three d audio"),
        ("at [@]", "at"),
        ('IAX (note: does not say "2")', "iax"),
        ("<beep ascending>", ""),
        ("Inter-Asterisk", "inter asterisk"),
    ],
)
def test_texts_as_they_are_said(text, said):
    assert spoken(text) == said


def test_prompts_and_their_words(folder, tmp_path):
    found = loaded(folder, tmp_path, seconds=2, least=1, test=0.5)
    every = sorted([*texts(found, "train"), *texts(found, "test")])
    # neither what says nothing, nor what is not there, nor what is too long
    assert every == sorted(
        ["hello world", "press one", "press one hello", "one", "one press star", "world", "hello"]
    )
    vocabulary = found.vocabularies["label"]
    assert vocabulary.names[:2] == ("<blank>", "<unk>") and "one" in vocabulary.names
    frames, length = (found.train.arrays[n] for n in ("frames", "frames_length"))
    assert frames.shape[1:] == (
        int(max(length.max(), found.test.arrays["frames_length"].max())),
        40,
    )
    for sound, count in zip(frames, length, strict=True):
        assert sound[:count].any() and not sound[count:].any()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("least", [1, 2])
def test_what_tests_consists_of_words_that_train_and_is_new(seed, least, folder, tmp_path):
    again = folder / "again.wav"
    again.write_bytes((folder / "vm/press.wav").read_bytes())
    listed = folder / "core-sounds-en.txt"
    listed.write_text(f"{listed.read_text()}again: Press one!\n")
    found = loaded(folder, tmp_path, seconds=2, least=least, test=0.4, seed=seed)
    train, test = texts(found, "train"), texts(found, "test")
    assert len(train) + len(test) == 8 and 1 <= len(test) <= 0.4 * 8
    # both recordings of a text are on the same side
    assert not set(train) & set(test)
    # what only one prompt says trains, for nothing could be learnt of it otherwise
    assert "one press star" in train
    for word in " ".join(test).split():
        assert sum(word in text.split() for text in train) >= least


def test_characters(folder, tmp_path):
    found = loaded(folder, tmp_path, units="chars", least=1, seconds=2, length=300)
    assert found.train.arrays["frames"].shape[1:] == (300, 40)
    assert all(len(name) == 1 for name in found.vocabularies["label"].names[2:])
    assert "press one" in {*texts(found, "train"), *texts(found, "test")}


def test_words_and_their_characters(folder, tmp_path):
    plain = loaded(folder, tmp_path, least=1, seconds=2)
    found = loaded(folder, tmp_path, least=1, seconds=2, spelled=True)
    assert [field.name for field in found.schema.fields] == [
        *("frames", "frames_length", "label", "label_length", "letters", "letters_length")
    ]
    assert texts(found, "train") == texts(plain, "train")
    arrays, spelling = found.train.arrays, found.vocabularies["letters"]
    lengths = arrays["letters_length"]
    spelled = [spelling.decode(row[:n]) for row, n in zip(arrays["letters"], lengths, strict=True)]
    assert sorted(spelled) == texts(found, "train")


def test_a_folder_of_that_name_and_a_packed_list(folder, tmp_path):
    folder = folder.rename(tmp_path / "asterisk_prompts")
    with gzip.open(folder / "core-sounds-en.txt.gz", "wt") as file:
        file.write((folder / "core-sounds-en.txt").read_text())
    (folder / "core-sounds-en.txt").unlink()
    assert len(data.load("asterisk_prompts", {"least": 1}, search(None, tmp_path)).train) > 4


def test_installed_packages(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(asterisk_prompts, "SOUNDS", (tmp_path / "none", folder))
    monkeypatch.setattr(asterisk_prompts, "TEXTS", tmp_path)
    (folder / "core-sounds-en.txt").rename(tmp_path / "core-sounds-en.txt")
    assert len(data.load("asterisk_prompts", {"least": 1}, search(None, tmp_path)).train) > 4


def test_what_is_missing(folder, tmp_path):
    def refused(**settings) -> str:
        with pytest.raises(UserError) as caught:
            data.load("asterisk_prompts", settings, search(folder, tmp_path))
        (one,) = caught.value.diagnostics
        return f"{one.code} {one.message} {one.help}"

    assert "E0613 of 7 prompts none has only words that are in 9 others" in refused(
        least=9, seconds=2
    )
    told = refused(least=1, seconds=2, length=5)
    assert "E0615" in told and "frames, and `length` is 5" in told
    (folder / "core-sounds-en.txt").unlink()
    told = refused()
    assert "E0601" in told and f"the texts of {folder} are not on this machine" in told
    (folder / "hello-world.wav").unlink()
    told = refused()
    assert "E0601" in told and "the prompts of Asterisk are" in told and "Debian packages" in told


@pytest.mark.slow
@pytest.mark.skipif(not SOUNDS[0].is_dir(), reason="asterisk-core-sounds-en-wav is not installed")
def test_the_package_of_debian(tmp_path, monkeypatch):
    monkeypatch.undo()
    found = data.load("asterisk_prompts", {"seconds": 4}, search(None, tmp_path))
    assert (len(found.train), len(found.test)) == (410, 72)
    assert len(found.vocabularies["label"]) == 504
    # every word that tests was heard in training
    assert not (found.test.arrays["label"] == 1).any()
    assert "press one to call this number" in texts(found, "test")
