"""`nnc predict` on texts and sounds: a line an example, with the vocabulary, the lengths and the
statistics of training."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

from nnc.runtime import cli
from nnc.runtime.data import Search, load

REVIEWS = """
model Reviews(token: i32[B, T], length: i32[B]) -> logit: f32[B] {
    words = token |> Embedding(7, 4)
    h = words |> mean_pool(length) |> Dense(1)
    logit[b] = h[b, 0]
}

train Reviews {
    data      = lines("reviews.tsv", length = 4, lowercase = true, test = 0)
    loss      = binary_cross_entropy_logits(logit, label)
    optimizer = adam(lr = 0.1)
    epochs    = 40
}
"""
CHARS = """
model Chars(token: i32[B, T]) -> logits: f32[B, T, 4] {
    h = token |> Embedding(4, 8) |> GRU(8)
    logits = h |> Dense(4)
}

train Chars {
    data      = text("abc.txt", length = 8)
    loss      = cross_entropy(logits, target)
    optimizer = adam(lr = 0.03)
    epochs    = 25
}
"""
PAIRS = """
model Copy(source: i32[B, S], source_length: i32[B], target_in: i32[B, T]) -> logits: f32[B, T, 8] {
    seen = source |> Embedding(8, 8) |> mean_pool(source_length)
    written = target_in |> Embedding(8, 8)
    h[b, t, k] = seen[b, k] + written[b, t, k]
    logits = h |> Dense(8)
}

train Copy {
    data      = pairs("pairs.tsv", test = 0)
    loss      = masked_cross_entropy(logits, target_out, target_length)
    optimizer = adam(lr = 0.03)
    epochs    = 2
}
"""
SOUNDS = """
model Sounds(frames: f32[B, T, 10], length: i32[B]) -> logits: f32[B, 2] {
    logits = frames |> mean_pool(length) |> Dense(2)
}

train Sounds {
    data      = wav("sounds", pattern = "{word}_{take}.wav", label = "word", test = 0.2, mels = 10)
    loss      = cross_entropy(logits, label)
    optimizer = adam(lr = 0.05)
    epochs    = 20
}
"""
ASKED = """
model Asked(passage: i32[B, T], question: i32[B, Q]) -> logits: f32[B, 8] {
    p = passage |> Embedding(21, 4) |> Flatten
    q = question |> Embedding(21, 4) |> Flatten
    logits = concat(p, q) |> Dense(8)
}

train Asked {
    data      = retrieval(count = 40, facts = 2)
    loss      = cross_entropy(logits, answer)
    optimizer = sgd
    epochs    = 1
}
"""


def tone(path: Path, hertz: float, rate: int = 8000, channels: int = 1, seconds: float = 0.2):
    """A tone as a WAV file of 16 bits."""
    time = np.arange(int(rate * seconds)) / rate
    samples = np.repeat(0.5 * np.sin(2 * np.pi * hertz * time), channels)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Runs on reviews, on characters, on pairs, on tones and on questions."""
    folder = tmp_path_factory.mktemp("texts")
    good = [f"good\t{a} film {b}" for a in ("lovely", "great") for b in ("yes", "")]
    bad = [f"bad\t{a} film {b}" for a in ("dull", "dull") for b in ("yes", "")]
    (folder / "reviews.tsv").write_text("\n".join(line.strip() for line in good + bad) + "\n")
    (folder / "abc.txt").write_text("abc " * 200)
    (folder / "pairs.tsv").write_text("a b\tb a\nb c d\td c b\nc\tc\n")
    (folder / "sounds").mkdir()
    for take in range(5):
        tone(folder / f"sounds/low_{take}.wav", 300 + 20 * take)
        tone(folder / f"sounds/high_{take}.wav", 1500 + 100 * take, seconds=0.15)
    programs = {
        "reviews": REVIEWS, "chars": CHARS, "pairs": PAIRS, "sounds": SOUNDS, "asked": ASKED,
    }  # fmt: skip
    for name, text in programs.items():
        (folder / f"{name}.nn").write_text(text)
        line = ["train", str(folder / f"{name}.nn"), "--out", str(folder / "runs" / name)]
        assert cli.run(line) == 0, name
    return folder


@pytest.fixture
def nnc(home, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").symlink_to(home / "runs")

    def call(*line: object) -> tuple[int, str, str]:
        code = cli.run(["predict", *map(str, line)])
        out, err = capfd.readouterr()
        return code, out, err

    return call


def rows(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


# --- a label for a text ---------------------------------------------------------------------------


def test_a_line_is_an_example(nnc):
    """In capitals, without the label, between blank lines; the classes have their names."""
    Path("new.txt").write_text("Lovely FILM\n\n  dull film yes\n")
    code, out, err = nnc("runs/reviews", "new.txt")
    assert code == 0 and err == ""
    first, second = rows(out)
    assert (first["input"], first["text"], first["label"]) == ("new.txt:1", "Lovely FILM", "good")
    assert (second["input"], second["label"]) == ("new.txt:3", "bad")
    assert sum(first["probabilities"].values()) == pytest.approx(1)
    assert list(second["probabilities"]) == ["bad", "good"]


def test_through_a_pipe(nnc):
    for line in (["predict", "runs/reviews", "-"], ["predict", "runs/reviews"]):
        done = subprocess.run(
            [sys.executable, "-m", "nnc", *line], input=b"great film\n", capture_output=True,
            timeout=60, check=True,
        )  # fmt: skip
        (row,) = rows(done.stdout.decode())
        assert (row["input"], row["label"]) == ("standard input:1", "good")


def test_labelled_lines_and_words_that_are_new(nnc, home):
    code, out, err = nnc("runs/reviews", home / "reviews.tsv")
    assert code == 0 and "the labels are not read" in err
    assert [r["label"] for r in rows(out)] == ["good"] * 4 + ["bad"] * 4
    Path("new.txt").write_text("great new film\ngreat great great great great dull\n")
    code, out, err = nnc("runs/reviews", "new.txt")
    assert code == 0 and "read as <unk>: new" in err and "cut at 4 words: new.txt:2" in err


@pytest.mark.parametrize(
    ("content", "code", "told"),
    [
        (b"", "E0613", "standard input is empty"),
        (b" \n\n", "E0613", "holds only blank lines"),
        (b"great\xff\n", "E0612", "standard input, line 1, byte 6"),
        (b"\xff\xfeg\0r\0", "E0612", "UTF-16"),
        (b"\x89PNG\r\n\x1a\n", "E0717", "is a PNG image, and runs/reviews reads texts, one a line"),
    ],
)
def test_what_is_no_text(nnc, monkeypatch, content, code, told):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    status, _, err = nnc("runs/reviews", "-")
    assert status == 1 and code in err and told in err, err


# --- the next token -------------------------------------------------------------------------------


def test_what_comes_next(nnc):
    Path("new.txt").write_text("abc a\nab\nabc abc \n")
    code, out, err = nnc("runs/chars", "new.txt", "--top", 2)
    assert code == 0 and err == ""
    assert [r["next"] for r in rows(out)] == ["b", "c", "a"]
    assert all(len(r["probabilities"]) == 2 for r in rows(out))
    assert [r["text"] for r in rows(out)] == ["abc a", "ab", "abc abc "]


def test_texts_that_a_language_model_does_not_read(nnc):
    """All lines at once, each with its place."""
    Path("new.txt").write_text("abc\nabd\nabc abc a\n?\n")
    code, out, err = nnc("runs/chars", "new.txt")
    assert (code, out) == (1, "") and err.count("error[") == 3
    assert "`d` (U+0064) in new.txt, line 2, column 3, is not in the vocabulary" in err
    assert "new.txt:3 has 9 chars, and the model reads 8" in err
    assert "`?` (U+003F) in new.txt, line 4, column 1" in err


# --- pairs, and several texts in a line -----------------------------------------------------------


def test_a_translation_is_generated_or_compared(nnc):
    Path("new.txt").write_text("a b\nc\n")
    code, _, err = nnc("runs/pairs", "new.txt")
    assert code == 1 and "the model reads `target_in`, too" in err and "nnc generate runs/p" in err
    Path("new.tsv").write_text("a b\tb a\nc\tc\n")
    code, out, err = nnc("runs/pairs", "new.tsv")
    assert code == 0 and [r["text"] for r in rows(out)] == ["a b", "c"]
    assert all(isinstance(r["target_out"], str) for r in rows(out))
    Path("new.tsv").write_text("a b c d a\tb\nc\tc\nc\ta b c d\n")
    code, out, err = nnc("runs/pairs", "new.tsv")
    assert code == 1 and "the text of new.tsv:1 has 5 tokens, more than 3" in err
    assert "the target of new.tsv:3 has 4 tokens, more than 3" in err


def test_several_texts_in_a_line(nnc):
    Path("new.tsv").write_text("ann is in attic . ben is in garden .\twhere is ben ?\n")
    code, out, _ = nnc("runs/asked", "new.tsv")
    assert code == 0 and rows(out)[0]["answer"] in rows(out)[0]["probabilities"]
    Path("new.tsv").write_text("ann is in attic .\twhere is ben ?\nann\n")
    code, out, err = nnc("runs/asked", "new.tsv")
    assert code == 1 and "new.tsv:2 has 1 texts divided by tabs, not 2" in err


# --- sounds ---------------------------------------------------------------------------------------


def test_sounds_are_read_as_those_of_training(nnc, home):
    """The same features, normalized by the statistics of the run."""
    tone(Path("one.wav"), 340)
    tone(Path("two.wav"), 1700)
    code, out, err = nnc("runs/sounds", "one.wav", "two.wav")
    assert code == 0 and err == "" and [r["label"] for r in rows(out)] == ["low", "high"]
    settings = {"folder": "sounds", "pattern": "{word}_{take}.wav", "label": "word", "mels": 10}
    found = load("wav", {**settings, "test": 0.2}, Search(None, home))
    notes = json.loads(Path("runs/sounds/settings.json").read_text())
    assert notes["inputs"]["reader"]["size"] == found.train.arrays["frames"].shape[1]
    np.savez("x.npz", frames=found.test.arrays["frames"], length=found.test.arrays["length"])
    nnc("runs/sounds", "x.npz", "--output", "arrays.npy")
    # Which files tested is known by their features alone: all of them are predicted.
    nnc("runs/sounds", home / "sounds", "--output", "files.npy")
    arrays, files = np.load("arrays.npy"), np.load("files.npy")
    assert all(np.isclose(files, one, atol=1e-6).all(axis=1).any() for one in arrays)


def test_sounds_of_another_rate_and_damaged_ones(nnc):
    """As in training, which resamples and mixes: damaged ones are refused, too long ones cut."""
    tone(Path("fast.wav"), 300, rate=16000)
    tone(Path("stereo.wav"), 300, channels=2)
    code, out, _ = nnc("runs/sounds", "fast.wav", "stereo.wav")
    assert code == 0 and [row["label"] for row in rows(out)] == ["low", "low"]
    Path("cut.wav").write_bytes(Path("stereo.wav").read_bytes()[:30])
    Path("text.wav").write_text("no sound")
    code, _, err = nnc("runs/sounds", "fast.wav", "text.wav", "cut.wav")
    assert code == 1 and err.count("error[") == 2
    assert "cut.wav is cut off" in err and "text.wav" in err
    tone(Path("long.wav"), 300, seconds=1)
    code, out, err = nnc("runs/sounds", "long.wav")
    assert code == 0 and "cut at " in err and rows(out)[0]["label"] == "low"
