"""A run goes on with the data that it was begun with: a change of any number is noticed, whatever
the source, the size and the time of the file; a file that was only copied is the same."""

from __future__ import annotations

import os
import wave
from pathlib import Path

import numpy as np
import pytest

from nnc.runtime import cli, data
from nnc.runtime.data.core import fingerprint as prints
from nnc.runtime.data.core.fingerprint import fingerprint

PROGRAM = """
model M(x: f32[B, 2]) -> guess: f32[B] {
    h = x |> Dense(1)
    guess[b] = h[b, 0]
}

train M {
    data      = SOURCE
    loss      = mse(guess, y)
    optimizer = sgd(lr = 1e-6)
    epochs    = 1
}
"""
X = np.arange(80, dtype=np.float64).reshape(40, 2)
Y = np.arange(40, dtype=np.float32) / 2


def write(folder: Path, source: str, place: int | None = None) -> None:
    """The data of a source, with one number changed at a row if it is given."""
    x = X.copy()
    if place is not None:
        x[place, 1] += 1
    if source == "npz":
        np.savez(folder / "set.npz", x=x, y=Y)
    elif source == "npz packed":
        np.savez_compressed(folder / "set.npz", x=x, y=Y, x_test=x, y_test=Y)
    elif source == "npy":
        np.save(folder / "x.npy", x)
        np.save(folder / "y.npy", Y)
    else:
        rows = [f"{a:05},{b:05},{y:05}\n" for (a, b), y in zip(x, Y, strict=True)]
        (folder / "set.csv").write_text("a,b,y\n" + "".join(rows))
    for path in folder.iterdir():
        os.utime(path, (1, 1))


SOURCES = {
    "npz": 'npz("set.npz")',
    "npz packed": 'npz("set.npz")',
    "npy": 'npy(x = "x.npy", y = "y.npy")',
    "csv": 'csv("set.csv", target = "y")',
}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NNC_DATA", raising=False)
    return tmp_path


@pytest.mark.parametrize("source", SOURCES)
def test_a_run_does_not_go_on_with_other_data(folder, capfd, source):
    write(folder, source)
    (folder / "m.nn").write_text(PROGRAM.replace("SOURCE", SOURCES[source]))
    assert cli.run(["train", "m.nn", "--out", "run"]) == 0
    for place in (0, 17, 39):
        write(folder, source, place)
        assert cli.run(["train", "--resume", "run", "--epochs", "2"]) == 1
        said = capfd.readouterr().err
        assert "E0710" in said
        assert "`x` of the" in said
    # The same numbers in a new file, with another time, are the same data.
    write(folder, source)
    for path in folder.glob("*.*"):
        os.utime(path)
    assert cli.run(["train", "--resume", "run", "--epochs", "2"]) == 0


def test_other_data_may_be_set_on_purpose_and_count_from_then_on(folder, capfd):
    write(folder, "npz")
    (folder / "m.nn").write_text(PROGRAM.replace("SOURCE", 'npz("set.npz")'))
    assert cli.run(["train", "m.nn", "--out", "run"]) == 0
    np.savez(folder / "new.npz", x=X + 1, y=Y)
    flags = ["--set", 'data.file="new.npz"']
    assert cli.run(["train", "--resume", "run", "--epochs", "2", *flags]) == 0
    assert cli.run(["train", "--resume", "run", "--epochs", "3"]) == 0
    np.savez(folder / "new.npz", x=X + 2, y=Y)
    assert cli.run(["train", "--resume", "run", "--epochs", "4"]) == 1
    assert "E0710" in capfd.readouterr().err


def test_a_run_of_an_earlier_version_goes_on(folder):
    write(folder, "npz")
    (folder / "m.nn").write_text(PROGRAM.replace("SOURCE", 'npz("set.npz")'))
    assert cli.run(["train", "m.nn", "--out", "run"]) == 0
    settings = folder / "run" / "settings.json"
    text = settings.read_text()
    cut = text.index(',\n  "data_sha256"')
    settings.write_text(text[:cut] + "\n}\n")
    (folder / "run" / "backup.json").unlink()
    assert cli.run(["train", "--resume", "run", "--epochs", "2"]) == 0


# ── fingerprints ─────────────────────────────────────────────────────────────────────────────────


def printed(folder: Path, name: str, settings: dict) -> dict[str, str]:
    return fingerprint(data.load(name, settings, data.Search(None, folder, True, folder / "cache")))


TEXT = "the quick brown fox jumps over the lazy dog\n" * 40


@pytest.mark.parametrize("vocabulary", ["chars", "bytes"])
@pytest.mark.parametrize("stride", [None, 1, 7])
def test_windows_of_a_text_are_hashed_once(folder, monkeypatch, vocabulary, stride):
    settings = {"file": "t.txt", "length": 8, "stride": stride, "vocabulary": vocabulary}
    (folder / "t.txt").write_text(TEXT)
    before = printed(folder, "text", settings)
    assert printed(folder, "text", settings) == before
    for place in (0, 700, len(TEXT) - 30):
        (folder / "t.txt").write_text(TEXT[:place] + "z" + TEXT[place + 1 :])
        assert prints.changed(before, printed(folder, "text", settings))
    # Windows that begin elsewhere are other examples of the same text.
    (folder / "t.txt").write_text(TEXT)
    assert prints.changed(before, printed(folder, "text", {**settings, "stride": 3}))


def test_what_numbers_stand_for_counts(folder):
    settings = {"file": "t.csv", "target": "k", "test": 0}
    seen = []
    for words in ("cat dog", "cat eel", "dog cat"):
        rows = zip(words.split() * 3, range(6), strict=True)
        (folder / "t.csv").write_text("k,a\n" + "".join(f"{w},{n}\n" for w, n in rows))
        seen.append(printed(folder, "csv", settings)["train y"])
    assert len(set(seen)) == 3


def test_sounds_and_their_features(folder):
    settings = {"folder": ".", "pattern": "{word}_{take}.wav", "label": "word", "test": 0}
    seen = []
    for change in (0, 900):
        for take in range(2):
            with wave.open(str(folder / f"a_{take}.wav"), "wb") as file:
                file.setparams((1, 2, 8000, 0, "NONE", ""))
                samples = np.arange(900, dtype="<i2")
                samples[400] += change * take
                file.writeframes(samples.tobytes())
        seen.append(printed(folder, "wav", settings))
        # The cache of features goes by times; here both are of one moment.
        for path in (folder / "cache").rglob("*.npz"):
            path.unlink()
    assert prints.changed(seen[0], seen[1])[0] == "train frames"


def test_of_a_large_array_blocks_all_over_it_are_hashed(folder, monkeypatch):
    monkeypatch.setattr(prints, "MOST", 1 << 16)
    monkeypatch.setattr(prints, "BLOCK", 1 << 12)
    array = np.zeros((1 << 15, 16), np.float32)  # 2 MiB
    settings = {"x": "x.npy"}
    np.save(folder / "x.npy", array)
    before = printed(folder, "npy", settings)
    noticed = 0
    for part in range(16):
        other = array.copy()
        other[part * 2048 : (part + 1) * 2048] = 1
        np.save(folder / "x.npy", other)
        noticed += bool(prints.changed(before, printed(folder, "npy", settings)))
    assert noticed == 16


def test_layout_does_not_count_and_shape_does(folder):
    def of(array) -> dict[str, str]:
        np.save(folder / "x.npy", array)
        return printed(folder, "npy", {"x": "x.npy"})

    array = np.arange(24.0).reshape(6, 4)
    assert of(array) == of(np.asfortranarray(array))
    assert len({of(one)["train x"] for one in (array, array.reshape(6, 2, 2), array.T)}) == 3
