"""Sounds of any rate, width, number of channels and format, in training and in `predict`."""

from __future__ import annotations

import builtins
import json
import struct
from math import gcd
from pathlib import Path

import numpy as np
import pytest

from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime import cli, data
from nnc.runtime.data.core.resample import resample
from nnc.runtime.data.formats.sound_file import read_sound, sound_length
from nnc.runtime.data.recorded import from_plain, recorded

RATES = [(44100, 8000), (8000, 44100), (16000, 8000), (48000, 44100), (7919, 8000), (8000, 22050)]
# scipy.signal.resample_poly([1, 2, 4, 3, 0, -1, 2, 5], 2, 3), of SciPy 1.17
REFERENCE = [
    0.8440217566590364, 3.048105110400006, 3.2545139747819034,
    -1.3438357435285937, 2.575744274574009, 2.7627081844213794,
]  # fmt: skip


def write(path: str | Path, samples: np.ndarray, rate: int, width: int = 2) -> Path:
    """A WAV file of samples [n, channels] from -1 to 1, in whole numbers of so many bytes."""
    samples = samples.reshape(len(samples), -1)
    whole = np.round(samples * (2 ** (8 * width - 1) - 1)).astype("<i8")
    whole += 128 if width == 1 else 0
    raw = whole.reshape(-1, 1).view(np.uint8)[:, :width].tobytes()
    channels = samples.shape[1]
    frame = channels * width
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * frame, frame, 8 * width)
    inside = b"fmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(raw)) + raw
    Path(path).write_bytes(b"RIFF" + struct.pack("<I", 4 + len(inside)) + b"WAVE" + inside)
    return Path(path)


def tone(hertz: float, rate: int, seconds: float = 0.2) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NNC_DATA", raising=False)
    return tmp_path


# ── another rate ─────────────────────────────────────────────────────────────────────────────────


def test_the_formula_gives_reference_values():
    found = resample(np.array([1.0, 2, 4, 3, 0, -1, 2, 5]), 3000, 2000)
    np.testing.assert_allclose(found, REFERENCE, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("rate", "new"), RATES)
@pytest.mark.parametrize("count", [1, 3, 700])
def test_resampling_is_that_of_scipy(rate, new, count):
    signal = pytest.importorskip("scipy.signal", reason="the second opinion needs SciPy")
    samples = np.random.default_rng(count).normal(size=(count, 2))
    divisor = gcd(rate, new)
    expected = signal.resample_poly(samples, new // divisor, rate // divisor)
    found = resample(samples, rate, new)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


def test_a_tone_below_the_limit_stays_and_one_above_goes():
    low, high = (resample(tone(hertz, 44100), 44100, 8000) for hertz in (1000, 6000))
    inside = slice(200, -200)
    np.testing.assert_allclose(low[inside], tone(1000, 8000)[inside], atol=2e-3)
    assert np.abs(high[inside]).max() < 2e-3


# ── files ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("rate", [8000, 11025, 48000])
def test_wav_of_any_rate_and_width_and_channels(here, rate, width):
    left, right = tone(440, rate), tone(1000, rate)
    path = write("a.wav", np.stack([left, right], axis=1), rate, width)
    step = 1.1 / 2 ** (8 * width - 1)
    mixed = read_sound(path, 8000)
    expected = resample((left + right) / 2, rate, 8000)
    np.testing.assert_allclose(mixed[:, 0], expected, atol=3 * step)
    both = read_sound(path, 8000, 2)
    np.testing.assert_allclose(both[:, 1], resample(right, rate, 8000), atol=3 * step)
    assert len(mixed) == len(both) == sound_length(path, 8000)


@pytest.mark.parametrize(
    ("suffix", "format", "subtype", "close"),
    [
        (".flac", "FLAC", "PCM_24", 1e-6),
        (".aiff", "AIFF", "PCM_16", 1e-4),
        (".wav", "WAV", "ULAW", 0.02),
        (".ogg", "OGG", "VORBIS", 0.1),
        (".mp3", "MP3", "MPEG_LAYER_III", 0.3),
    ],
)
def test_other_formats(here, suffix, format, subtype, close):
    soundfile = pytest.importorskip("soundfile", reason="other formats need soundfile")
    if format not in soundfile.available_formats():
        pytest.skip(f"libsndfile here has no {format}")
    samples = np.stack([tone(440, 16000), tone(440, 16000)], axis=1)
    path = Path(f"a{suffix}")
    soundfile.write(path, samples, 16000, subtype, format=format)
    found = read_sound(path, 16000)
    assert len(found) == sound_length(path, 16000) >= len(samples)
    if format != "MP3":  # which has a delay
        np.testing.assert_allclose(found[: len(samples), 0], samples[:, 0], atol=close)
    assert abs(np.abs(found).max() - 0.5) < close


def test_without_the_package_its_name_is_told(here, monkeypatch):
    inner = builtins.__import__

    def without(name, *rest):
        if name == "soundfile":
            raise ImportError(name)
        return inner(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    Path("a.flac").write_bytes(b"fLaC" + bytes(60))
    write("u.wav", tone(440, 8000), 8000)
    Path("u.wav").write_bytes(
        Path("u.wav").read_bytes().replace(b"\x01\0\x01\0@", b"\x07\0\x01\0@")
    )
    for name, kind in (("a.flac", "a FLAC sound"), ("u.wav", "a WAV sound of µ-law")):
        with pytest.raises(UserError) as caught:
            read_sound(Path(name), 8000)
        (found,) = caught.value.diagnostics
        assert found.code == "E0609" and kind in found.message
        assert found.help == "install it with `pip install 'nnc-lang[audio]'`"


@pytest.mark.parametrize(
    ("content", "code", "told"),
    [
        (b"fLaC" + b"\7" * 60, "E0603", "is a FLAC sound that cannot be decoded"),
        (b"OggS" + bytes(60), "E0603", "is an Ogg sound that cannot be decoded"),
        (b"\x89PNG\r\n" + bytes(60), "E0602", "is a PNG image and no sound"),
        (b"a text", "E0602", "is a text and no sound"),
        (bytes(60), "E0602", "no sound of a known format"),
    ],
)
def test_files_that_are_no_sounds(here, content, code, told):
    pytest.importorskip("soundfile", reason="other formats need soundfile")
    Path("a.flac").write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_sound(Path("a.flac"), 8000)
    assert caught.value.diagnostics[0].code == code
    assert told in caught.value.diagnostics[0].message


# ── a model ──────────────────────────────────────────────────────────────────────────────────────

SETTINGS = 'wav("s", pattern = "{word}_{take}.wav", label = "word", test = "take < 2", mels = 8'
PROGRAM = """
model M(frames: f32[B, SHAPE]) -> logits: f32[B, 2] {
    logits = frames |> Flatten |> Dense(2)
}
train M {
    data      = SOURCE)
    loss      = cross_entropy(logits, label)
    optimizer = adam(lr = 1e-2)
    batch     = 4
    epochs    = 8
}
"""


def folder(rates: tuple[int, ...], channels: int = 1) -> None:
    Path("s").mkdir()
    for take in range(6):
        for word, hertz in (("high", 1500), ("low", 300)):
            rate = rates[take % len(rates)]
            samples = np.stack([tone(hertz * (1 + take / 90), rate, 0.1)] * channels, axis=1)
            write(f"s/{word}_{take}.wav", samples, rate, 2 + take % 2)


def load(settings: str = "", **more: object) -> data.Dataset:
    known = dict(folder="s", pattern="{word}_{take}.wav", label="word", test="take < 2", mels=8)
    return data.load("wav", {**known, **more}, data.Search(None, Path.cwd(), cache=Path("cache")))


def test_features_hardly_depend_on_the_rate_of_the_files(here):
    folder((8000, 44100, 16000))
    found = load(normalize=False)
    frames, length = found.train.arrays["frames"], found.train.arrays["length"]
    assert frames.shape == (8, 8, 8) and length.tolist() == [8] * 8
    # Takes 3 and 4, of 8,000 and 44,100 in a second, are nearly the same tone.
    louder = frames[1] > -4
    assert louder.sum() > 15 and np.abs(frames[1] - frames[2])[louder].max() < 0.3


def test_a_run_reads_new_sounds_as_it_read_those_of_training(here, capsys):
    folder((44100, 16000, 11025))
    program = PROGRAM.replace("SHAPE", "8, 8").replace("SOURCE", SETTINGS)
    Path("m.nn").write_text(program)
    assert cli.run(["train", "m.nn", "--out", "run"]) == 0
    write("new.wav", np.stack([tone(1500, 48000, 0.1)] * 2, axis=1), 48000, 3)
    write("other.wav", tone(300, 8000, 0.1), 8000)
    capsys.readouterr()
    assert cli.run(["predict", "run", "new.wav", "other.wav"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert ['"high"' in out[0], '"low"' in out[1]] == [True, True]


def test_channels_that_a_program_declares(here, capsys):
    folder((8000, 16000), channels=2)
    found = load(channels=2)
    frames = found.train.arrays["frames"]
    assert frames.shape == (8, 8, 8, 2) and found.schema.field("frames").shape == (8, 8, 2)
    np.testing.assert_array_equal(frames[..., 0], frames[..., 1])
    np.testing.assert_allclose(frames[..., 0], load().train.arrays["frames"], atol=1e-4)
    described = data.describe(
        "wav",
        dict(folder="s", pattern="{word}_{take}.wav", label="word", mels=8, channels=2),
        data.Search(None, Path.cwd(), cache=Path("cache")),
    )
    assert described.field("frames").shape == (8, 8, 2)
    plain = json.loads(json.dumps(recorded(found, "wav").plain()))
    again = from_plain(plain, {}, "notes").reader
    assert again == found.reader
    program = PROGRAM.replace("SHAPE", "8, 8, 2").replace("SOURCE", SETTINGS + ", channels = 2")
    Path("m.nn").write_text(program)
    assert cli.run(["train", "m.nn", "--out", "run"]) == 0
    write("one.wav", tone(300, 8000, 0.1), 8000)
    write("two.wav", np.stack([tone(300, 22050, 0.1)] * 2, axis=1), 22050)
    capsys.readouterr()
    assert cli.run(["predict", "run", "two.wav"]) == 0
    assert '"low"' in capsys.readouterr().out
    assert cli.run(["predict", "run", "one.wav"]) == 1
    assert "E0620" in (said := capsys.readouterr().err)
    assert "one.wav has 1 channel, and `channels` is 2" in said
