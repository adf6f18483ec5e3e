"""Sources of sound, and synthetic tasks. Text: `test_sequence_data.py`; wrong data:
`test_sequence_data_mistakes.py`.

No test reads the user's cache or the network; the real set is read if it is on this machine.
"""

from __future__ import annotations

import os
import wave
from pathlib import Path

import numpy as np
import pytest

from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime import data
from nnc.runtime.data.core import mel
from nnc.runtime.data.core.name_pattern import read_condition, read_pattern
from nnc.runtime.data.formats import wav
from nnc.runtime.data.synthetic import english_german


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


DIGITS = real_data("spoken_digits")


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


# ── sound ────────────────────────────────────────────────────────────────────────────────────────


def write_wav(path: Path, samples, rate=8000, channels=1, width=2) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(np.asarray(samples).astype(f"<i{width}").tobytes())


def tone(hertz: float, samples: int) -> np.ndarray:
    return 8000 * np.sin(2 * np.pi * hertz / 8000 * np.arange(samples))


SOUNDS = {"pattern": "{word}_{take}.wav", "label": "word", "test": "take < 1"}


@pytest.fixture
def sounds(search):
    for number, word in enumerate(("high", "low")):
        for take in range(4):
            samples = tone(2000 - 1500 * number + 10 * take, 800 + 400 * number + 80 * take)
            write_wav(search.base / "sounds" / f"{word}_{take}.wav", samples)
    return search.base / "sounds"


def test_mel_features_are_what_their_formulas_say():
    few = mel.Mel(8000, 5, 0.002, 0.001)
    assert (few.window, few.step, few.transform) == (16, 8, 16)
    samples = np.random.RandomState(0).uniform(-1, 1, 45)
    found = mel.log_mel(samples, few, mel.bands(few))
    assert found.shape == (few.frames(45), 5) == (4, 5)
    points = np.linspace(0, 2595 * np.log10(1 + 4000 / 700), 7)
    for t in range(4):
        for m in range(5):
            energy = 0.0
            for k in range(9):
                n = np.arange(16)
                x = samples[8 * t + n] * (0.5 - 0.5 * np.cos(2 * np.pi * n / 16))
                power = abs(np.sum(x * np.exp(-2j * np.pi * k * n / 16))) ** 2
                here = 2595 * np.log10(1 + k * 500 / 700)
                rising = (here - points[m]) / (points[m + 1] - points[m])
                falling = (points[m + 2] - here) / (points[m + 2] - points[m + 1])
                energy += max(0.0, min(rising, falling)) * power
            assert found[t, m] == pytest.approx(np.log(energy + 1e-6), abs=1e-4)


def test_a_tone_sounds_in_its_band_and_silence_in_none():
    usual = mel.Mel(8000, 40, 0.025, 0.010)
    weights = mel.bands(usual)
    points = np.linspace(0, mel.mel_of(4000), 42)[1:-1]
    for hertz in (300, 1000, 3000):
        found = mel.log_mel(tone(hertz, 2000) / 32768, usual, weights)
        nearest = np.abs(points - mel.mel_of(hertz)).argmin()
        assert abs(int(found[3].argmax()) - nearest) <= 1
    silence = mel.log_mel(np.zeros(50), usual, weights)
    assert silence.shape == (1, 40)
    np.testing.assert_allclose(silence, np.log(1e-6), rtol=1e-6)
    assert mel.mel_of(1000) == pytest.approx(1000, rel=1e-3)


def test_sounds_of_a_folder(search, sounds):
    found = loaded(search, "wav", folder="sounds", **SOUNDS)
    assert found.class_names["label"] == ("high", "low")
    assert found.train.arrays["label"].tolist() == [0, 0, 0, 1, 1, 1]
    assert found.test.arrays["label"].tolist() == [0, 1]
    longest = 1 + (1440 - 200) // 80
    assert found.schema.field("frames").shape == (longest, 40)
    assert found.train.arrays["length"].tolist() == [9, 10, 11, 14, 15, 16]
    real = np.concatenate(
        [
            frames[:length]
            for frames, length in zip(
                found.train.arrays["frames"], found.train.arrays["length"], strict=True
            )
        ]
    )
    np.testing.assert_allclose(real.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(real.std(axis=0), 1, atol=1e-3)
    assert not found.train.arrays["frames"][0, 9:].any()


def test_sounds_without_normalizing_and_cut(search, sounds, said):
    settings = {**SOUNDS, "folder": "sounds", "normalize": False, "length": 10, "mels": 12}
    found = loaded(search, "wav", **settings)
    usual = mel.Mel(8000, 12, 0.025, 0.010)
    samples = np.trunc(tone(2010, 880)) / 32768
    expected = mel.log_mel(samples, usual, mel.bands(usual))
    np.testing.assert_allclose(found.train.arrays["frames"][0, :9], expected, atol=1e-4)
    assert found.train.arrays["length"].tolist() == [9, 10, 10, 10, 10, 10]
    assert said == ["5 of 8 sounds of sounds are cut at 10 frames"]


def test_a_share_of_the_sounds_tests(search, sounds):
    found = loaded(search, "wav", folder="sounds", **{**SOUNDS, "test": 0.25})
    assert found.test.arrays["label"].tolist() == [0, 1]
    assert loaded(search, "wav", folder="sounds", **{**SOUNDS, "test": 0}).test is None


def test_features_are_kept_until_a_file_changes(search, sounds, monkeypatch):
    settings = {**SOUNDS, "folder": "sounds"}
    first = data.load("wav", settings, search)
    counted = []
    original = wav.log_mel
    monkeypatch.setattr(wav, "log_mel", lambda *a: counted.append(1) or original(*a))
    again = loaded(search, "wav", **settings)
    for name, array in first.train.arrays.items():
        np.testing.assert_array_equal(array, again.train.arrays[name])
    assert not counted
    loaded(search, "wav", **{**settings, "hop": 0.020})
    assert len(counted) == 8
    write_wav(sounds / "low_3.wav", tone(300, 4000))
    changed = loaded(search, "wav", **settings)
    assert len(counted) == 16 and changed.train.arrays["length"].max() == 48


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY"])
def test_a_damaged_cache_only_costs_time(search, sounds, content):
    settings = {**SOUNDS, "folder": "sounds"}
    first = data.load("wav", settings, search)
    (kept,) = (search.cache / "log_mel").iterdir()
    kept.write_bytes(content)
    again = data.load("wav", settings, search)
    np.testing.assert_array_equal(again.train.arrays["frames"], first.train.arrays["frames"])
    assert kept.stat().st_size > 1000


def test_a_pattern_with_folders(search):
    for name in ("yes/ann/0.wav", "yes/ann/1.wav", "no/ben/0.wav", "no/ann/2.wav"):
        write_wav(search.base / "sounds" / name, tone(500, 400))
    (search.base / "sounds" / "README.md").write_text("passed over")
    settings = {"pattern": "{word}/{speaker}/{take}.wav", "label": "word", "test": "speaker==ben"}
    found = loaded(search, "wav", folder="sounds", **settings)
    assert found.class_names["label"] == ("no", "yes")
    assert (len(found.train), len(found.test)) == (3, 1)


@pytest.mark.parametrize(
    "condition, held",
    [
        ("take < 5", True),
        ("take >= 5", False),
        ("take == 4", True),
        ("take == 04", True),
        ("take != 4", False),
        ("speaker == theo", True),
        ('speaker != "theo"', False),
        ("take<5 and speaker == 'theo'", True),
        ("take < 5 and speaker == ann", False),
        ("take > 10", False),
        ("speaker == 4", False),
    ],
)
def test_conditions_on_names(condition, held):
    pattern = read_pattern("{digit}_{speaker}_{take}.wav")
    parts = pattern.parts("7_theo_4.wav")
    assert parts == {"digit": "7", "speaker": "theo", "take": "4"}
    assert read_condition(condition, pattern)(parts) is held
    assert pattern.parts("7_theo.wav") is None and pattern.parts("7_theo_4xwav") is None


@pytest.mark.slow
@pytest.mark.skipif(DIGITS is None, reason="needs spoken_digits/ in $NNC_DATA")
def test_real_spoken_digits(search):
    there = data.Search(DIGITS, search.base, True, search.cache)
    found = loaded(there, "spoken_digits")
    assert found.schema == data.describe("spoken_digits", {}, search)  # known without the files
    assert np.bincount(found.train.arrays["label"]).tolist() == [270] * 10
    assert np.bincount(found.test.arrays["label"]).tolist() == [30] * 10
    assert found.train.arrays["length"].min() > 5

    def centres(split):  # four means over time say a good deal about a digit
        return np.stack(
            [
                np.concatenate([part.mean(axis=0) for part in np.array_split(frames[:length], 4)])
                for frames, length in zip(
                    split.arrays["frames"], split.arrays["length"], strict=True
                )
            ]
        )

    train, test = centres(found.train), centres(found.test)
    nearest = [np.square(train - one).sum(axis=1).argmin() for one in test]
    right = found.train.arrays["label"][nearest] == found.test.arrays["label"]
    assert right.mean() > 0.85

    strings = loaded(there, "digit_strings", count=50, test_count=20, digits=3)
    for split, origin in ((strings.train, found.train), (strings.test, found.test)):
        known = {
            frames[:length].tobytes() + bytes([label])
            for frames, length, label in zip(
                *(origin.arrays[name] for name in ("frames", "length", "label")), strict=True
            )
        }
        single = split.arrays["label_length"] == 1
        rows = np.flatnonzero(single & (split.arrays["frames_length"] <= 100))
        assert len(rows)
        for row in rows:
            length = split.arrays["frames_length"][row]
            sound = split.arrays["frames"][row, :length].tobytes()
            assert sound + bytes([split.arrays["label"][row, 0] - 1]) in known
    sizes = strings.train.arrays["label_length"]
    assert set(sizes) == {1, 2, 3}
    row = int(np.flatnonzero(sizes == 3)[0])
    said = strings.vocabularies["label"].decode(strings.train.arrays["label"][row])
    assert said == " ".join(str(d - 1) for d in strings.train.arrays["label"][row])
    needed = strings.schema.field("frames").shape[0]
    few = {"count": 50, "test_count": 20, "digits": 3}
    longer = loaded(there, "digit_strings", length=needed + 5, **few)
    assert longer.schema == data.describe("digit_strings", {**few, "length": needed + 5}, search)
    with pytest.raises(UserError) as caught:
        data.load("digit_strings", {**few, "length": 20}, there)
    assert f"has {needed} frames, and `length` is 20" in caught.value.diagnostics[0].message
    np.testing.assert_array_equal((strings.train.arrays["label"] > 0).sum(axis=1), sizes)


# ── synthetic tasks ──────────────────────────────────────────────────────────────────────────────


def test_reversal(search):
    found = loaded(search, "reversal", count=500, shortest=2, longest=6)
    known = found.vocabularies["source"]
    seen = {}
    for name, split in found.splits.items():
        sources = [known.decode(row) for row in split.arrays["source"]]
        assert [known.decode(row) for row in split.arrays["target_out"]] == [
            source[::-1] for source in sources
        ]
        assert split.arrays["source_length"].tolist() == list(map(len, sources))
        seen[name] = set(sources)
    assert not seen["train"] & seen["test"] and len(seen["train"] | seen["test"]) == 500
    assert set(map(len, seen["train"])) == {2, 3, 4, 5, 6}


def test_english_german(search):
    found = loaded(search, "english_german", count=2000)
    reader, writer = found.vocabularies["source"], found.vocabularies["target_out"]
    said = {}
    for name, split in found.splits.items():
        english = [reader.decode(row) for row in split.arrays["source"]]
        german = [writer.decode(row) for row in split.arrays["target_out"]]
        said[name] = dict(zip(english, german, strict=True))
        assert split.arrays["source_length"].tolist() == [len(one.split()) for one in english]
    assert not said["train"].keys() & said["test"].keys()
    assert sum(map(len, said.values())) == 2000
    both = {**said["train"], **said["test"]}
    for english, german in both.items():
        words = german.split()
        assert ("not" in english.split()) == ("nicht" in words)
        if "dass" in words:  # the verb is last, and `nicht` before it
            assert words[-1][-1] in "nt" and ("nicht" not in words or words[-2] == "nicht")
    assert set(writer.tokens) >= {"den", "die", "das", "einen", "alter", "altes", "alten"}


@pytest.mark.parametrize(
    "english, german",
    [
        ("the old dog sees a small cat", "der alte Hund sieht eine kleine Katze"),
        ("now a red tree does not need the men", "jetzt braucht ein roter Baum die Männer nicht"),
        (
            "he says that two women seek the new book",
            "er sagt , dass zwei Frauen das neue Buch suchen",
        ),
        (
            "the big houses do not hear a black horse",
            "die großen Häuser hören ein schwarzes Pferd nicht",
        ),
        ("a child loves the old dog", "ein Kind liebt den alten Hund"),
    ],
)
def test_the_german_is_right(english, german):
    """Sentences written by hand, made again by drawing what they are made of."""
    random = Drawn(english)
    assert english_german.sentence(random) == (english, german)


class Drawn:
    """Gives the numbers that `sentence` draws for an English sentence."""

    def __init__(self, english: str):
        words = english.split()
        begin = next(
            (n for n, (b, _) in enumerate(english_german.BEGINNINGS) if english.startswith(b)), None
        )
        when = next((n for n, (a, _) in enumerate(english_german.ADVERBS) if words[0] == a), None)
        rest = words[3:] if begin is not None else words[1:] if when is not None else words
        forms = [f for verb in english_german.VERBS for f in verb[:2]]
        at = next(n for n, w in enumerate(rest) if w in forms)
        verb = forms.index(rest[at]) // 2
        no = "not" in rest
        subject, target = rest[: at - 2 * no], rest[at + 1 :]
        self.numbers = [*self.phrase(subject), *self.phrase(target), verb, 0 if no else 1]
        if begin is not None:
            self.numbers += [2, begin]
        elif when is not None:
            self.numbers += [1, when]
        else:
            self.numbers += [0]

    @staticmethod
    def phrase(words: list[str]) -> list[int]:
        noun = next(n for n, names in enumerate(english_german.NOUNS) if words[-1] in names[:2])
        numbers = [noun, list(english_german.DETERMINERS).index(words[0])]
        if words[0] == "the":
            numbers.append(int(words[-1] == english_german.NOUNS[noun][1]))
        adjectives = [one for one, _ in english_german.ADJECTIVES]
        has = len(words) == 3
        return [*numbers, adjectives.index(words[1]) if has else 0, 0 if has else 1]

    def randint(self, below: int) -> int:
        number = self.numbers.pop(0)
        assert number < below
        return number


def test_retrieval(search):
    found = loaded(search, "retrieval", count=300, facts=4)
    known, places = found.vocabularies["passage"], found.class_names["answer"]
    moved = 0
    for split in found.splits.values():
        for passage, question, answer in zip(*split.arrays.values(), strict=True):
            _, _, who, _ = known.decode(question).split()
            facts = [fact.split() for fact in known.decode(passage).split(" .")[:-1]]
            assert all(fact[1:3] == ["is", "in"] for fact in facts)
            stays = [fact[3] for fact in facts if fact[0] == who]
            assert places[answer] == stays[-1]
            moved += len(set(stays)) > 1
    assert moved > 30


def test_sine(search):
    settings = {"count": 200, "length": 40, "horizon": 5}
    clean = loaded(search, "sine", **settings, noise=0)
    noisy = loaded(search, "sine", **settings, noise=0.3)
    np.testing.assert_array_equal(clean.train.arrays["y"], noisy.train.arrays["y"])
    noise = noisy.train.arrays["x"] - clean.train.arrays["x"]
    assert noise.std() == pytest.approx(0.3, abs=0.01)
    series = np.concatenate([clean.train.arrays["x"], clean.train.arrays["y"]], axis=1)
    assert np.abs(np.diff(series)).max() < 2 * 2 * np.pi / 8  # smooth, into the part foretold


def test_opinions_follow_from_their_words(search):
    """The label is what the sentence says, read by a reader that shares no code with the source."""
    found = loaded(search, "opinions", count=2000)
    known = found.vocabularies["token"]
    seen = {}
    for name, split in found.splits.items():
        rows = zip(*(split.arrays[n] for n in ("token", "length", "label")), strict=True)
        sentences = [(known.decode(row[:n]), bool(label)) for row, n, label in rows]
        assert all(read_opinion(sentence) == label for sentence, label in sentences)
        seen[name] = {sentence for sentence, _ in sentences}
    assert not seen["train"] & seen["test"] and len(seen["train"] | seen["test"]) == 2000


def read_opinion(sentence: str) -> bool:
    """Whether it praises. E.g. `i doubt that the plot was not very good but the cast was dull`."""
    claim, _, rest = sentence.rpartition(" that ")
    sign = -1 if claim in ("i doubt", "nobody says", "i deny") else 1
    if rest.startswith("although "):
        worth = read_clause(rest.partition(" , ")[2])
    elif " but " in rest:
        worth = read_clause(rest.partition(" but ")[2])
    elif " although " in rest:
        worth = read_clause(rest.partition(" although ")[0])
    else:
        worth = sum(map(read_clause, rest.split(" and ")))
    assert worth
    return sign * worth > 0


def read_clause(clause: str) -> float:
    the, _, was, *words = clause.split()
    assert (the, was) == ("the", "was")
    good = {"good", "great", "lovely", "moving", "funny", "clever", "fresh", "brilliant"}
    worth = 1 if words.pop() in good else -1
    for word in words:
        worth *= {"slightly": 0.5, "very": 2}.get(word, -1)
    return worth


def test_opinions_do_not_follow_from_counts_of_words(search):
    """A linear classifier of how often each word comes is hardly better than chance."""
    found = loaded(search, "opinions")
    counts, signs = [], []
    for split in (found.train, found.test):
        token = split.arrays["token"]
        counts.append(np.stack([(token == word).sum(1) for word in range(token.max() + 1)], 1))
        signs.append(2 * split.arrays["label"] - 1)
    assert abs(np.mean(signs[0])) < 0.05 and abs(np.mean(signs[1])) < 0.05
    weights = np.linalg.lstsq(counts[0], signs[0], rcond=None)[0]
    assert np.mean((counts[1] @ weights > 0) == (signs[1] > 0)) < 0.55


@pytest.mark.parametrize(
    "name, settings",
    [
        ("reversal", {"count": 50}),
        ("retrieval", {"count": 50}),
        ("sine", {"count": 50}),
        ("opinions", {"count": 50}),
        ("babi", {"count": 5, "test": 2}),
        ("copying", {"count": 50}),
        ("adding", {"count": 50}),
    ],
)
def test_a_seed_decides_everything(search, name, settings):
    first, again, other = (
        data.load(name, {**settings, "seed": seed}, search) for seed in (1, 1, 2)
    )
    for field, array in first.train.arrays.items():
        np.testing.assert_array_equal(array, again.train.arrays[field])
    assert any(
        (array != other.train.arrays[field]).any() for field, array in first.train.arrays.items()
    )


def test_sources_are_written_as_their_signatures_say():
    signatures = {name: data.SOURCES[name].signature for name in ("text", "reversal", "wav")}
    assert signatures["text"] == (
        'text(file, vocabulary = "chars", length, validation = 0.1, size = 1000, '
        'encoding = "utf-8")'
    )
    assert signatures["reversal"].startswith("reversal(count = 10000, shortest = 4")
    assert signatures["wav"].startswith("wav(folder, pattern, label, test = 0.2, rate = 8000")
