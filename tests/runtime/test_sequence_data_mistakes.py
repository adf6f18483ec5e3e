"""Wrong text and sound: each mistake gives its one error. Right data: `test_sequence_data.py`.

No test reads the user's cache or the network.
"""

from __future__ import annotations

import builtins
import hashlib
import io
import os
import wave

import numpy as np
import pytest

from nnc.dsl.diagnostics.catalogue import catalogue
from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime import data
from nnc.runtime.data.core import download, vocabulary
from nnc.runtime.data.core.vocabulary import PAD, UNKNOWN
from nnc.runtime.data.sets import shakespeare

SEEN: set[str] = set()


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    monkeypatch.delenv("NNC_DATA", raising=False)


@pytest.fixture
def search(tmp_path):
    (tmp_path / "here").mkdir()
    return data.Search(None, tmp_path / "here", offline=True, cache=tmp_path / "cache")


def refused(code: str, *told: str, call) -> None:
    """The single error of a call must have that code and say all of `told`."""
    with pytest.raises(UserError) as caught:
        call()
    (found,) = caught.value.diagnostics
    text = f"{found.message} | {found.help}"
    assert found.code == code, text
    for part in told:
        assert part in text, f"{part!r} is not in {text!r}"
    SEEN.add(code)


def refused_by(search, name: str, settings: dict, code: str, *told: str) -> None:
    refused(code, *told, call=lambda: data.load(name, settings, search))


LINES = {"file": "t.tsv"}
WAV = {"folder": "s", "pattern": "{word}_{take}.wav", "label": "word", "test": "take < 1"}


# ── settings ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "name, settings, code, told",
    [
        ("text", {"file": "a"}, "E0608", ["needs its setting `length`"]),
        ("text", {"file": "a", "length": 0}, "E0615", ["whole number from 1, not 0"]),
        ("text", {"file": "a", "length": 1 << 31}, "E0615", ["whole number from 1"]),
        ("text", {"file": "a", "length": 8, "vocabulary": "words"}, "E0615", ['"bytes" or "bpe"']),
        ("text", {"file": "a", "length": 8, "validation": 1}, "E0615", ["from 0 up to 1"]),
        ("lines", {"file": "a", "min_count": 0}, "E0615", ["from 1, not 0"]),
        ("lines", {"file": "a", "label": "middle"}, "E0615", ['"first" or "last"']),
        ("pairs", {"file": "a", "length": 3}, "E0608", ["no setting `length`"]),
        ("wav", {"folder": "a", "label": "b"}, "E0608", ["needs its setting `pattern`"]),
        ("wav", {**WAV, "test": 1.5}, "E0615", ["or a condition in quotes"]),
        ("wav", {**WAV, "hop": 0}, "E0615", ["a number above 0, not 0"]),
        ("sine", {"noise": -1}, "E0615", ["a number from 0, not -1"]),
        ("shakespear", {}, "E0608", ["`shakespeare`"]),
        ("english_german", {"count": 2_000_000}, "E0615", ["up to 1,000,000 different"]),
        ("reversal", {"shortest": 3, "longest": 2}, "E0615", ["strings of 3 to 2 digits"]),
        ("opinions", {"count": 10**9}, "E0615", ["no 1,000,000,000 different"]),
        ("reversal", {"shortest": 1, "longest": 2}, "E0615", ["no 10000 different strings"]),
    ],
)
def test_settings(search, name, settings, code, told):
    (search.base / "s").mkdir()
    refused(code, *told, call=lambda: data.describe(name, settings, search))
    refused_by(search, name, settings, code, *told)


@pytest.mark.parametrize(
    "change, told",
    [
        ({"pattern": "a.wav"}, ["it has no `{name}`"]),
        ({"pattern": "{word}_{word}.wav"}, ["`{word}` stands in it twice"]),
        ({"pattern": "{word}_{}.wav"}, ["braces without a name"]),
        ({"pattern": "{word}_{take.wav"}, ["braces without a name"]),
        ({"label": "digit"}, ["names `digit`", "word, take"]),
        ({"test": "take"}, ["is not a condition", "take < 5"]),
        ({"test": "take < "}, ["is not a condition"]),
        ({"test": "take < 5 or take > 7"}, ["is not a condition"]),
        ({"test": "take < 5 and"}, ["is not a condition"]),
        ({"test": "take < 5 6"}, ["is not a condition"]),
        ({"test": "word < 5"}, ["`word < 5` of `a`: only numbers"]),
        ({"test": "tke < 5"}, ["no `tke`", "did you mean `take`?"]),
        ({"mels": 200}, ["does not go with a frame of 200 samples"]),
        ({"mels": 1 << 30}, ["`mels = 1073741824`"]),
        ({"frame": 1e9}, ["there may be 65536"]),
        ({"frame": 1e-9}, ["a frame of 1 samples"]),
    ],
)
def test_settings_of_sound(search, change, told):
    write_wav(search, "a_0.wav")
    write_wav(search, "a_1.wav")
    data.load("wav", WAV, search)
    refused_by(search, "wav", {**WAV, **change}, "E0615", *told)


# ── places ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "name, settings, told",
    [
        ("text", {"file": "t.txt", "length": 4}, ["no file `t.txt`"]),
        ("lines", LINES, ["no file `t.tsv`"]),
        ("pairs", LINES, ["no file `t.tsv`"]),
        ("wav", WAV, ["no folder `s`"]),
        ("shakespeare", {}, ["tinyshakespeare/input.txt", "--data", "$NNC_DATA"]),
        ("spoken_digits", {}, ["the folder `recordings` of https://", "$NNC_DATA"]),
        ("digit_strings", {}, ["the spoken digits are not on this machine"]),
        ("digit_sounds", {}, ["the spoken digits are not on this machine"]),
    ],
)
def test_data_that_is_not_there(search, name, settings, told):
    refused_by(search, name, settings, "E0601", *told)
    wrong = data.Search(search.base / "nowhere", search.base, True, search.cache)
    refused_by(wrong, name, settings, "E0601", "--data", "nowhere")


def test_only_what_is_wanted_is_proposed(search):
    """No file for a folder, no folder for a file."""
    for name in ("sounds.nn", "t.tsw"):
        (search.base / name).write_text("x")
    refused_by(search, "wav", {**WAV, "folder": "sound"}, "E0601", "put it there")
    (search.base / "sounds").mkdir()
    refused_by(search, "wav", {**WAV, "folder": "sound"}, "E0601", "did you mean `sounds`?")
    refused_by(search, "lines", LINES, "E0601", "did you mean `t.tsw`?")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_files_that_may_not_be_read(search):
    write_wav(search, "a_0.wav")
    write_wav(search, "a_1.wav")
    (search.base / "s" / "a_1.wav").chmod(0)
    refused_by(search, "wav", WAV, "E0617", "a_1.wav", "Permission denied")


def test_a_folder_in_place_of_a_file(search):
    (search.base / "t.tsv").mkdir()
    refused_by(search, "lines", LINES, "E0617", "is not a file")
    (search.base / "s" / "a_0.wav").mkdir(parents=True)
    write_wav(search, "a_1.wav")
    refused_by(search, "wav", WAV, "E0617", "a_0.wav", "it is a folder")


def test_shakespeare_is_downloaded_and_checked(search, monkeypatch):
    online = data.Search(None, search.base, False, search.cache)
    monkeypatch.setattr(download.urllib.request, "urlopen", lambda *a, **k: io.BytesIO(b"<html>"))
    refused_by(online, "shakespeare", {}, "E0610", "is not the file that was expected")
    assert not list((search.cache / "tinyshakespeare").iterdir())
    text = b"all the world's a stage\n" * 99
    monkeypatch.setattr(shakespeare, "CHECKSUM", hashlib.sha256(text).hexdigest())
    monkeypatch.setattr(download.urllib.request, "urlopen", lambda *a, **k: io.BytesIO(text))
    assert len(data.load("shakespeare", {}, online).train) == 16
    monkeypatch.setattr(download.urllib.request, "urlopen", None)
    data.load("shakespeare", {}, online)


# ── text ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "content, code, told",
    [
        (b"", "E0603", ["is empty"]),
        (b"\xef\xbb\xbf", "E0613", ["holds no text"]),
        (b"abc\nd\xe9f\n" * 9, "E0612", ["line 2, byte 2", "b'\\xe9' is not UTF-8"]),
        (b"short", "E0613", ["the training part", "has 4 tokens", "takes 17"]),
        (b"x" * 100, "E0613", ["the validation part", "10 tokens", "`validation = 0`"]),
    ],
)
def test_wrong_texts(search, content, code, told):
    (search.base / "t.txt").write_bytes(content)
    refused_by(search, "text", {"file": "t.txt", "length": 16}, code, *told)


def test_too_few_byte_pairs(search):
    (search.base / "t.txt").write_text("abc " * 99)
    settings = {"file": "t.txt", "length": 4, "vocabulary": "bpe", "size": 256}
    refused_by(search, "text", settings, "E0615", "must be 257 or more")


def test_byte_pairs_without_their_package(search, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "tokenizers":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    (search.base / "t.txt").write_text("abc " * 99)
    settings = {"file": "t.txt", "length": 4, "vocabulary": "bpe"}
    refused_by(search, "text", settings, "E0609", "pip install 'tokenizers>=0.20'")
    (search.base / "t.txt").write_text("abc " * 99)
    data.load("text", {"file": "t.txt", "length": 4}, search)


@pytest.mark.parametrize(
    "made, text, told",
    [
        (vocabulary.chars(["ab\n"]), "ab\nba\naéb", ["`é` (U+00E9) in a prompt, line 3, column 2"]),
        (vocabulary.chars(["ab"]), "a\0", ["a character (U+0000)", "line 1, column 2"]),
        (vocabulary.chars(["ab"]), "a b", ["a character (U+0020)", "2 chars", "bytes"]),
        (vocabulary.words(["hello you"]), "hello me", ["`me` in a prompt, line 1, column 7"]),
    ],
)
def test_what_is_not_in_the_vocabulary(made, text, told):
    refused("E0619", *told, call=lambda: made.encode(text, "a prompt"))
    known = data.Vocabulary(made.kind, made.tokens, (PAD, UNKNOWN))
    assert known.encode(text).tolist().count(1) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"kind": "chars"}',
        '{"kind": "morse", "specials": [], "tokens": ["a"]}',
        '{"kind": "chars", "specials": [], "tokens": ["a", "a"]}',
        '{"kind": "chars", "specials": [], "tokens": "ab"}',
        '{"kind": "chars", "specials": [1], "tokens": ["ab"]}',
        '{"kind": "chars", "specials": [], "tokens": ["ab"]}',
        '{"kind": "bpe", "specials": [], "tokens": ["a"], "merges": [["a"]]}',
        '{"kind": "bpe", "specials": [], "tokens": ["\\u4e00"], "merges": []}',
        '{"kind": "bpe", "specials": [], "tokens": ["a"], "merges": [["a", "b"]]}',
    ],
)
def test_a_damaged_vocabulary(text):
    call = {"call": lambda: data.Vocabulary.from_json(text, "vocabulary.json")}
    refused("E0603", "vocabulary.json is damaged", **call)


@pytest.mark.parametrize(
    "content, code, told",
    [
        ("\n \n", "E0613", ["only blank lines"]),
        (
            "a\tb\nabc d\n",
            "E0604",
            ["line 2: no tab between label and text: `abc d`", "the lines before it have both"],
        ),
        ("a;b\n", "E0604", ["line 1", 'write `delimiter = ";"`']),
        ("a\tb\n\n\tx\n", "E0616", ["line 3: the label is empty"]),
        ("a\t \n", "E0616", ["line 1: the text is empty"]),
    ],
)
def test_wrong_lines(search, content, code, told):
    (search.base / "t.tsv").write_text(content)
    refused_by(search, "lines", LINES, code, str(search.base / "t.tsv"), *told)


def test_labels_behind_are_told_as_such(search):
    (search.base / "t.tsv").write_text("a text\t\n")
    refused_by(search, "lines", {**LINES, "label": "last"}, "E0616", "the label is empty")


def test_no_token_is_frequent_enough(search):
    (search.base / "t.tsv").write_text("a\tx y\nb\tz\n")
    refused_by(search, "lines", {**LINES, "min_count": 5}, "E0613", "comes 5 times in training")


@pytest.mark.parametrize(
    "content, change, code, told",
    [
        ("a\n", {}, "E0604", ["no tab between source and target"]),
        ("a\tb\na\tb\tc\n", {}, "E0604", ["line 2: 3 cells", "cut -f 1,2"]),
        ("\ta\n", {}, "E0616", ["the source is empty"]),
        ("a b\tc\n", {"source_length": 1}, "E0613", ["no training pair", "1 and 2 tokens"]),
    ],
)
def test_wrong_pairs(search, content, change, code, told):
    (search.base / "t.tsv").write_text(content)
    refused_by(search, "pairs", {**LINES, **change}, code, *told)


# ── sound ────────────────────────────────────────────────────────────────────────────────────────


def wav_bytes(samples: int = 400, rate: int = 8000, channels: int = 1, width: int = 2) -> bytes:
    held = io.BytesIO()
    with wave.open(held, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(bytes(samples * channels * width))
    return held.getvalue()


def write_wav(search, name: str, content: bytes | None = None) -> None:
    (search.base / "s").mkdir(exist_ok=True)
    (search.base / "s" / name).write_bytes(wav_bytes() if content is None else content)


@pytest.mark.parametrize(
    "content, code, told",
    [
        (wav_bytes(rate=999), "E0620", ["has 999 samples per second", "between 1,000 and"]),
        (wav_bytes(samples=0), "E0613", ["holds no samples"]),
        (wav_bytes()[:-101], "E0603", ["349 samples, and its header promises 400"]),
        (wav_bytes()[:30], "E0603", ["cut off within its header"]),
        (wav_bytes()[:36], "E0603", ["damaged"]),
        (b"", "E0603", ["is empty"]),
        (b"<!doctype html>" * 9, "E0602", ["is a text and no sound"]),
        (b"RIFF\x10\0\0\0AVI LIST" * 9, "E0602", ["is no sound of a known format"]),
    ],
)
def test_wrong_sounds(search, content, code, told):
    write_wav(search, "a_0.wav")
    write_wav(search, "a_1.wav", content)
    refused_by(search, "wav", WAV, code, str(search.base / "s" / "a_1.wav"), *told)
    assert not (search.cache / "log_mel").exists()


def test_folders_of_sounds(search):
    (search.base / "s").mkdir()
    refused_by(search, "wav", WAV, "E0613", "holds no files that end in `.wav`")
    write_wav(search, "a_1.wav")
    refused_by(search, "wav", WAV, "E0613", "leaves no sounds", "for testing")
    (search.base / "s" / "a_1.wav").rename(search.base / "s" / "a_0.wav")
    refused_by(search, "wav", WAV, "E0613", "leaves no sounds", "for training")
    write_wav(search, "seven.wav")
    refused_by(search, "wav", WAV, "E0621", "`seven.wav`", "`{word}_{take}.wav`", "rename it")
    other = {**WAV, "pattern": "{word}-{take}.wav"}
    refused_by(search, "wav", other, "E0621", "no name in", "first is `a_0.wav`", "the pattern")
    (search.base / "s" / "seven.wav").rename(search.base / "s" / "a_1.WAV")
    refused_by(search, "wav", WAV, "E0621", "`a_1.WAV`")
    mp3 = {**WAV, "pattern": "{word}_{take}.mp3"}
    refused_by(search, "wav", mp3, "E0613", "end in `.mp3`", "it has `.WAV`, `.wav`")


def test_descriptions_find_mistakes_too(search):
    write_wav(search, "a_0.wav")
    write_wav(search, "a_1.wav", wav_bytes(rate=100))
    refused("E0620", "a_1.wav", call=lambda: data.describe("wav", WAV, search))
    (search.base / "t.tsv").write_text("a")
    refused("E0604", "line 1", call=lambda: data.describe("pairs", LINES, search))


def test_tokens_that_a_model_has_no_place_for(search):
    (search.base / "t.txt").write_text("abcdefgh" * 30)
    found = data.load("text", {"file": "t.txt", "length": 4, "stride": 1}, search)
    data.check_labels(found, "token", 8)
    refused(
        "E0606",
        "token 7",
        "example 4",
        "one of the 7 tokens",
        "vocabulary has 8 tokens",
        call=lambda: data.check_labels(found, "token", 7),
    )


def test_labels_that_a_model_has_no_class_for(search):
    """They are called by their names; that only the test part has one makes no difference."""
    for name in ("a_0.wav", "a_1.wav", "b_1.wav", "odd_0.wav"):
        write_wav(search, name)
    found = data.load("wav", WAV, search)
    data.check_labels(found, "label", 3)
    refused(
        "E0606",
        "label `odd` (2)",
        "(test split, example 1",
        "one of the 2 classes 0 to 1",
        "have 3 labels, a, b, odd; give the model as many",
        call=lambda: data.check_labels(found, "label", 2),
    )
    (search.base / "t.tsv").write_text("".join(f"w{n}\tx\n" for n in range(9)))
    many = data.load("lines", {**LINES, "test": 0}, search)
    refused(
        "E0606",
        "label `w1` (1)",
        "9 labels, w0, w1, w2, w3, w4, w5, …; give",
        call=lambda: data.check_labels(many, "label", 1),
    )


def test_every_code_has_been_provoked_above(whole_file_runs):
    assert {"E0619", "E0620", "E0621"} <= SEEN
    assert {code for code in catalogue() if code.startswith("E06")} >= SEEN


def test_random_bytes_never_crash_the_reader(search):
    random = np.random.RandomState(0)
    good = bytearray(wav_bytes(50))
    write_wav(search, "a_0.wav")
    for _ in range(300):
        broken = good.copy()
        for place in random.randint(60, size=random.randint(1, 4)):
            broken[place] = random.randint(256)
        write_wav(search, "a_1.wav", bytes(broken[: random.randint(1, len(broken) + 1)]))
        try:
            data.load("wav", WAV, search)
        except UserError as error:
            assert error.diagnostics[0].code in ("E0602", "E0603", "E0613", "E0620")
