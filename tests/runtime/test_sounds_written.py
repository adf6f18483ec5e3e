"""Models of sounds as samples: the source `digit_sounds`, and results as WAV files."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest

import nnc
from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime import cli, data
from nnc.runtime.data.formats.wave_file import read_samples, wave_bytes

SPEAKERS, SIZE, RATE = ("ann", "ben"), 48, 8000
PROGRAM = """
model Louder(sound: f32[B, N], length: i32[B]) -> y: f32[B, N], peak: f32[B] {
    param gain: [] = 2
    y[b, i] = if i < length[b] then gain * sound[b, i] else 0
    peak[b] = max(i) y[b, i]
}

train Louder {
    data      = digit_sounds(length = 48)
    loss      = mse(y, sound)
    optimizer = sgd(lr = 0)
    epochs    = 1
}
"""


def recording(digit: int, speaker: int, take: int) -> np.ndarray:
    """Samples i16 of one sound, each of its own length."""
    count = 30 + 2 * digit + speaker + take
    return np.round(8000 * np.sin(0.2 * (digit + 1) * np.arange(count))).astype(np.int16)


@pytest.fixture(scope="module", autouse=True)
def no_environment():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("NNC_DATA", raising=False)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory, no_environment) -> Path:
    """Recordings of ten digits by two speakers, two of each, and a run on them."""
    found = tmp_path_factory.mktemp("sounds")
    (found / "spoken_digits").mkdir()
    for digit in range(10):
        for number, speaker in enumerate(SPEAKERS):
            for take in range(2):
                path = found / "spoken_digits" / f"{digit}_{speaker}_{5 * take}.wav"
                samples = recording(digit, number, take)
                path.write_bytes(wave_bytes(samples / 32768, RATE))
    (found / "louder.nn").write_text(PROGRAM)
    run = ["train", str(found / "louder.nn"), "--out", str(found / "run"), "--data", str(found)]
    assert cli.run(run) == 0
    return found


@pytest.fixture
def predict(folder, tmp_path, monkeypatch, capfd):
    """Runs `nnc predict` with these words in an empty folder: the exit code and standard error."""
    monkeypatch.chdir(tmp_path)
    capfd.readouterr()

    def call(*words: object) -> tuple[int, str]:
        code = cli.run(["predict", *map(str, words)])
        return code, capfd.readouterr().err

    return call


# --- digit_sounds ---------------------------------------------------------------------------------


def test_combinations_are_held_out(folder, tmp_path):
    search = data.Search(folder, folder, True, tmp_path)
    tested = []
    for fold in range(1, 6):
        settings = {"fold": fold, "length": 60}
        found = data.load("digit_sounds", settings, search)
        assert data.describe("digit_sounds", settings, search) == found.schema
        pairs = [
            {*zip(split.arrays["speaker"].tolist(), split.arrays["digit"].tolist(), strict=True)}
            for split in (found.train, found.test)
        ]
        assert not pairs[0] & pairs[1] and len(pairs[0] | pairs[1]) == 20
        # every digit and every speaker trains
        assert {s for s, _ in pairs[0]} == {0, 1} and {d for _, d in pairs[0]} == set(range(10))
        assert len(found.test) == 2 * len(pairs[1]) == 8
        tested += sorted(pairs[1])
    assert len(tested) == len(set(tested)) == 20
    assert found.class_names["speaker"] == SPEAKERS


def test_samples_are_those_of_the_files(folder, tmp_path):
    told: list[str] = []
    search = data.Search(folder, folder, True, tmp_path, notify=told.append)
    found = data.load("digit_sounds", {"length": SIZE}, search)
    for split in (found.train, found.test):
        for row in range(len(split)):
            digit, speaker = (int(split.arrays[n][row]) for n in ("digit", "speaker"))
            length = int(split.arrays["length"][row])
            takes = [recording(digit, speaker, take)[:SIZE] / 32768 for take in range(2)]
            sound = split.arrays["sound"][row]
            assert any(length == len(t) and np.array_equal(sound[:length], t) for t in takes)
            assert not sound[length:].any()
    (note,) = told
    assert note == "3 of 40 sounds of digit_sounds are cut at 48 samples"


def test_without_recordings(tmp_path):
    search = data.Search(None, tmp_path, True, tmp_path)
    known = data.describe("digit_sounds", {}, search)
    assert known.count == 2400 and known.field("sound").shape == (6592,)
    assert known.field("speaker").classes == 6
    with pytest.raises(UserError) as caught:
        data.load("digit_sounds", {}, search)
    assert caught.value.diagnostics[0].code == "E0601"
    with pytest.raises(UserError) as caught:
        data.load("digit_sounds", {"fold": 6}, search)
    assert caught.value.diagnostics[0].code == "E0615"


# --- results as sounds ----------------------------------------------------------------------------


def heard(path: str | Path) -> tuple[np.ndarray, int]:
    """The samples of a file as Python's own module reads it, in units of 16 bits."""
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
        return np.frombuffer(file.readframes(1 << 20), "<i2"), file.getframerate()


def test_one_sound(folder, predict):
    code, err = predict(folder / "run", folder / "spoken_digits/3_ben_0.wav", "--output", "y.wav")
    assert code == 0 and err.strip().endswith("y: a sound of 0.00 s in y.wav")
    samples, rate = heard("y.wav")
    assert rate == RATE
    # the zeros behind it are not there, and it begins with a zero that is
    assert np.array_equal(samples, 2 * recording(3, 1, 0).astype(int))


def test_several_sounds(folder, predict):
    code, err = predict(
        folder / "run", folder / "spoken_digits", "--output", "y.wav", "--rate", 16000
    )
    assert code == 0 and "y: 40 sounds of up to 0.00 s in y-00.wav to y-39.wav" in err
    assert not Path("y.wav").exists() and len(list(Path().glob("y-*.wav"))) == 40
    samples, rate = heard("y-01.wav")  # 0_ann_5
    assert rate == 16000 and np.array_equal(samples, 2 * recording(0, 0, 1).astype(int))


def test_loud_and_silent_sounds(folder, predict):
    np.savez("x.npz", sound=np.array([[0.9, -0.9, 0.1], [0, 0, 0]], "f4"), length=[3, 3])
    code, err = predict(folder / "run", "--input", "x.npz", "--output", "y.WAV", "--tensor", "y")
    assert code == 0 and "2 samples of `y` are beyond -1 to 1, and were cut there" in err
    assert heard("y-0.WAV")[0].tolist() == [32767, -32768, 6554]
    assert heard("y-1.WAV")[0].tolist() == [0]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--output", "y.wav", "--tensor", "peak"], "there are `peak` [1]"),
        (["--output", "y.wav", "--tensor", "y", "--tensor", "sound"], "`--tensor NAME` takes one"),
        (["--output", "y.npz", "--rate", 8000], "the result goes to y.npz"),
        (["--rate", 8000], "the result goes to standard output"),
        (["--output", "y.wav", "--rate", 10], "10 samples per second are not between"),
        (["--output", "y.wave"], "did you mean `.wav`?"),
    ],
)
def test_wrong_uses(folder, predict, flags, said):
    code, err = predict(folder / "run", folder / "spoken_digits/3_ben_0.wav", *flags)
    assert code == 1 and "E0716" in err and said in err
    assert not list(Path().iterdir())


def test_sounds_of_a_run_on_arrays(folder, predict):
    text = PROGRAM.replace("    data      = digit_sounds(length = 48)\n", "")
    model = nnc.loads(text)
    model.init(np.zeros((1, 3), np.float32), np.ones(1, np.int32))
    model.save("arrays")
    np.savez("x.npz", sound=np.array([[0.25, np.nan, 0.5]], "f4"), length=[1])
    code, err = predict("arrays", "--input", "x.npz", "--output", "y.wav")
    assert code == 1 and "nothing says how many samples of y.wav are a second" in err
    assert "add `--rate 8000`" in err
    code, err = predict("arrays", "--input", "x.npz", "--output", "y.wav", "--rate", 8000)
    assert code == 0 and heard("y.wav")[0].tolist() == [16384]
    np.savez("x.npz", sound=np.array([[0.25, np.nan, 0.5]], "f4"), length=[3])
    code, err = predict("arrays", "--input", "x.npz", "--output", "z.wav", "--rate", 8000)
    assert code == 1 and "`y` holds samples that are not finite" in err


def test_written_samples_are_read_again(tmp_path):
    samples = np.arange(-32768, 32768) / 32768
    (tmp_path / "all.wav").write_bytes(wave_bytes(samples, 44100))
    found, rate = read_samples(tmp_path / "all.wav")
    assert rate == 44100 and np.array_equal(found[:, 0], samples)
