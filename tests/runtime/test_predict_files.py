"""`nnc predict` on what users have: pictures, folders, patterns, pipes, and what is no input at
all.

The files are written here by Pillow; the commands run as in a shell, a few as processes of their
own.
"""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from small_programs import DIGITS

import nnc as package
from nnc.runtime import cli

Image = pytest.importorskip("PIL.Image", reason="the pictures of these tests are made by Pillow")

COLOURS = {"cat": (200, 30, 30), "dog": (30, 30, 200), "emu": (30, 200, 30)}
PETS = """
model Pets(image: f32[B, 6, 5, 3]) -> logits: f32[B, 3] {
    logits = image |> Flatten |> Dense(3)
}

train Pets {
    data      = images("pics", size = [6, 5])
    loss      = cross_entropy(logits, label)
    optimizer = adam(lr = 2e-2)
    batch     = 6
    epochs    = 8
}
"""


def picture(colour, size=(20, 24)) -> np.ndarray:
    noise = np.random.default_rng(sum(colour)).normal(0, 20, (*size, 3))
    return np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with two runs, on pictures of pets and on digits."""
    folder = tmp_path_factory.mktemp("home")
    for name, colour in COLOURS.items():
        (folder / "pics" / name).mkdir(parents=True)
        for k in range(6):
            Image.fromarray(picture(colour, (20 + k, 24))).save(folder / f"pics/{name}/{k}.png")
    (folder / "pets.nn").write_text(PETS)
    (folder / "small.nn").write_text(DIGITS)
    for program in ("pets", "small"):
        line = ["train", str(folder / f"{program}.nn"), "--out", str(folder / f"runs/{program}")]
        assert cli.run([*line, "--offline"]) == 0
    return folder


@pytest.fixture
def nnc(home, tmp_path, monkeypatch, capfd):
    """Runs a command line in a folder with the runs and new pictures: code, output, messages."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").symlink_to(home / "runs")
    Image.fromarray(picture(COLOURS["cat"], (30, 44))).save("cat.jpg", quality=95)
    Image.fromarray(picture(COLOURS["dog"], (9, 7))).save("dog.png")
    (tmp_path / "more/below").mkdir(parents=True)
    Image.fromarray(picture(COLOURS["emu"])).save("more/below/emu.webp")
    Image.fromarray(picture(COLOURS["cat"])).save("more/b.bmp")
    Path("more/notes.txt").write_text("not a picture")
    Path("more/.hidden.png").write_bytes(b"")

    def call(*line: object) -> tuple[int, str, str]:
        code = cli.run([str(word) for word in line])
        out, err = capfd.readouterr()
        return code, out, err

    return call


def rows(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def table(name: str) -> list[dict]:
    return list(csv.DictReader(Path(name).read_text().splitlines()))


def process(*line: str, **more) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "nnc", *line]
    return subprocess.run(command, capture_output=True, timeout=60, check=False, **more)


# --- what comes out -------------------------------------------------------------------------------


def test_pictures_have_names_and_probabilities(nnc, home):
    code, out, err = nnc("predict", "runs/pets", "cat.jpg", "dog.png")
    assert code == 0 and err == ""
    first, second = rows(out)
    assert (first["input"], first["label"]) == ("cat.jpg", "cat")
    assert (second["input"], second["label"]) == ("dog.png", "dog")
    assert set(first["probabilities"]) == set(COLOURS)
    assert sum(first["probabilities"].values()) == pytest.approx(1, abs=1e-6)
    assert first["probability"] == max(first["probabilities"].values())
    # as training read them: the same pixels through the same model
    model = package.load(home / "runs/pets", threads=1)
    pixels = np.asarray(Image.open("dog.png").resize((5, 6), Image.Resampling.BILINEAR))
    logits = model.predict(pixels[None] * np.float32(1 / 255)).astype("f8")[0]
    chances = np.exp(logits - logits.max())
    expected = dict(zip(COLOURS, chances / chances.sum(), strict=True))
    assert second["probabilities"] == pytest.approx(expected, rel=1e-4)


def test_what_trained_is_read_as_it_was(nnc, home):
    """The examples of training, once by the source of the data and once as files."""
    from nnc.runtime.data import Search, load

    found = load("images", {"folder": "pics", "size": [6, 5], "test": 0}, Search(None, home))
    np.save("x.npy", found.train.arrays["image"] * np.float32(1 / 255))
    assert nnc("predict", "runs/pets", home / "pics", "--output", "files.npy")[0] == 0
    assert nnc("predict", "runs/pets", "--input", "x.npy", "--output", "arrays.npy")[0] == 0
    np.testing.assert_allclose(np.load("files.npy"), np.load("arrays.npy"), atol=1e-6)


def test_folders_and_patterns(nnc):
    code, out, err = nnc("predict", "runs/pets", "more")
    assert code == 0 and [r["input"] for r in rows(out)] == ["more/b.bmp", "more/below/emu.webp"]
    assert "left out of more: notes.txt" in err
    code, out, _ = nnc("predict", "runs/pets", "*.[jp]*g", "more/**/*.webp")
    found = [(r["input"], r["label"]) for r in rows(out)]
    assert found == [("cat.jpg", "cat"), ("dog.png", "dog"), ("more/below/emu.webp", "emu")]


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".npy", ".npz"])
def test_files_by_their_ending(nnc, ending):
    code, out, err = nnc("predict", "runs/pets", "dog.png", "cat.jpg", "--output", f"y{ending}")
    assert (code, out) == (0, "") and f"logits: float32[2, 3] in y{ending}" in err
    match ending:
        case ".csv":
            first, second = table("y.csv")
            assert list(first) == ["input", "label", "probability"] + [
                f"probability_{name}" for name in COLOURS
            ]
            assert first["label"] == "dog" and second["input"] == "cat.jpg"
            assert float(first["probability"]) == float(first["probability_dog"])
        case ".jsonl":
            assert [r["label"] for r in rows(Path("y.jsonl").read_text())] == ["dog", "cat"]
        case ".npy":
            assert np.load("y.npy").argmax(1).tolist() == [1, 0]
        case ".npz":
            found = np.load("y.npz")
            assert found["input"].tolist() == ["dog.png", "cat.jpg"]
            assert found["logits"].argmax(1).tolist() == [1, 0]


def test_misspelt_inputs(nnc):
    np.save("given.npy", np.arange(1.0))
    for line, meant in (
        (["givne.npy"], "given.npy"),
        (["--input", "givne.npy"], "given.npy"),
        (["moer/b.bmp"], "more/b.bmp"),
    ):
        code, _, err = nnc("predict", "runs/pets", *line)
        assert code == 1 and f"did you mean `{meant}`?" in err


def test_what_is_read_is_not_written_over(nnc):
    before = np.arange(1.0)
    np.save("given.npy", before)
    for line in (["given.npy"], ["./given.npy"], ["--input", "given.npy"]):
        code, _, err = nnc("predict", "runs/pets", *line, "--output", "given.npy")
        assert code == 1 and "E0709" in err and "given.npy is what is read" in err
    assert np.load("given.npy") == before
    code, _, err = nnc("compile", "runs/pets/model.nn", "--emit", "ast=runs/pets/model.nn")
    assert code == 1 and "is what is read" in err


def test_the_likeliest_and_the_numbers_themselves(nnc):
    code, out, _ = nnc("predict", "runs/pets", "cat.jpg", "--top", 2)
    assert code == 0 and len(rows(out)[0]["probabilities"]) == 2
    nnc("predict", "runs/pets", "cat.jpg", "--top", 2, "--output", "y.csv")
    (row,) = table("y.csv")
    assert list(row) == ["input", "label", "probability", "label_2", "probability_2"]
    code, out, _ = nnc("predict", "runs/pets", "cat.jpg", "--raw")
    assert list(rows(out)[0]) == ["input", "logits"] and len(rows(out)[0]["logits"]) == 3
    code, out, _ = nnc("predict", "runs/pets", "cat.jpg", "--tensor", "dense1.w")
    assert code == 1 or "dense1.w" in rows(out)[0]


@pytest.mark.parametrize("width", [80, 40])
def test_a_table_on_a_terminal(nnc, width):
    ours, theirs = pty.openpty()
    line = [sys.executable, "-m", "nnc", "predict", "runs/pets", "cat.jpg", "more", "--top", "2"]
    env = {**os.environ, "COLUMNS": str(width), "NO_COLOR": "1"}
    subprocess.run(line, stdout=theirs, stderr=subprocess.PIPE, env=env, timeout=60, check=True)
    os.close(theirs)
    written = b""
    with suppress(OSError):  # at the end
        while piece := os.read(ours, 1 << 16):
            written += piece
    text = re.sub("\x1b.*?m", "", written.decode())
    lines = [one.rstrip() for one in text.splitlines() if one.strip()]
    assert lines[0].split() == ["input", "label", "probability", "then"][: 4 if width == 80 else 3]
    assert lines[1].split()[:2] == ["cat.jpg", "cat"] and "%" in lines[1]
    assert len(lines) == 4 and all(len(one) <= width for one in lines[1:])


def test_a_picture_through_a_pipe(nnc):
    for line in (("predict", "runs/pets", "-"), ("predict", "runs/pets")):
        done = process(*line, input=Path("cat.jpg").read_bytes())
        assert done.returncode == 0, done.stderr
        (row,) = rows(done.stdout.decode())
        assert (row["input"], row["label"]) == ("standard input", "cat")
    array = io.BytesIO()
    np.save(array, np.zeros((2, 6, 5, 3), np.float32))
    done = process("predict", "runs/pets", "-", input=array.getvalue())
    assert len(rows(done.stdout.decode())) == 2


def test_names_that_are_no_text(nnc):
    """Of files and of classes: they are shown, and written, in the same form."""
    name = os.fsdecode(b"caf\xff.jpg")
    Path(name).write_bytes(Path("cat.jpg").read_bytes())
    for ending in ("jsonl", "csv"):
        assert nnc("predict", "runs/pets", name, "--output", f"y.{ending}")[0] == 0
        assert "caf\\xff.jpg" in Path(f"y.{ending}").read_text().replace("\\\\", "\\")
    Path(name).write_bytes(b"\xff\xd8\xff")
    code, _, err = nnc("predict", "runs/pets", name)
    assert code == 1 and "image caf\\xff.jpg cannot be decoded" in err


def test_arrays_of_bytes_are_taken_as_they_are(nnc):
    np.save("x.npy", np.full((1, 6, 5, 3), 200, np.uint8))
    for flags in (["x.npy"], ["--input", "x.npy"]):
        code, _, err = nnc("predict", "runs/pets", *flags)
        assert code == 0 and "the pixels of x.npy go up to 200, those of training to 1" in err
        code, _, err = nnc("predict", "runs/pets", *flags, "--invert")
        assert code == 1 and "only images are inverted, and x.npy holds arrays" in err


# --- sets with a size and a polarity of their own -------------------------------------------------


def drawn_digit(digit: int) -> np.ndarray:
    """A digit of the set in dark ink on white paper, 20 times as large."""
    with np.load(Path(package.__file__).parent / "runtime/data/sets/digits.npz") as stored:
        image = stored["image"][np.flatnonzero(stored["label"] == digit)[3]]
    return 255 - (np.kron(image, np.ones((20, 20))) * 255 / 16).astype(np.uint8)


def test_a_digit_on_paper(nnc):
    Image.fromarray(drawn_digit(4)).convert("RGB").save("four.jpg", quality=95)
    code, out, err = nnc("predict", "runs/small", "four.jpg", "--invert")
    assert code == 0 and err == "" and rows(out)[0]["label"] == "4"
    code, _, err = nnc("predict", "runs/small", "four.jpg")
    assert code == 0 and "four.jpg: dark on light" in err and "`--invert`" in err
    Image.fromarray(255 - drawn_digit(4)).save("white.png")
    code, out, err = nnc("predict", "runs/small", "white.png")
    assert code == 0 and err == "" and rows(out)[0]["label"] == "4"


# --- what is no input -----------------------------------------------------------------------------


def test_everything_that_is_wrong_is_told_at_once(nnc):
    Path("cut.png").write_bytes(Path("dog.png").read_bytes()[:60])
    Path("table.csv").write_text("a,b\n1,2\n")
    Path("none.jpg").write_bytes(b"")
    Path("hollow").mkdir()
    names = ["cut.png", "cat.jpg", "table.csv", "none.jpg", "hollow", "cat.jpeg", "a*.gif"]
    code, out, err = nnc("predict", "runs/pets", *names)
    assert (code, out) == (1, "")
    for told in (
        "image cut.png cannot be decoded",
        "table.csv (8 bytes) is a text, and runs/pets reads images, which become 6x5 pixels",
        "none.jpg is empty",
        "hollow is empty",
        "no file `cat.jpeg`",
        "did you mean `cat.jpg`?",
        "nothing fits `a*.gif`",
    ):
        assert told in err, told
    assert err.count("error[") == 6


def test_wrong_endings_and_flags_come_before_computing(nnc):
    code, _, err = nnc("predict", "runs/pets", "none.jpg", "--output", "y.xlsx")
    assert code == 1 and "E0716" in err and ".npy, .npz, .csv, .jsonl" in err
    code, _, err = nnc("predict", "runs/pets", "cat.jpg", "--top", 0)
    assert code == 2


def test_a_picture_is_no_array_and_no_pickle_is_advised(nnc, home, tmp_path):
    """Where the data were arrays, and in the place of an array."""
    np.savez("set.npz", x=np.ones((8, 2), "f4"), y=np.ones(8, "f4"))
    Path("line.nn").write_text(
        "model Line(x: f32[B, 2]) -> guess: f32[B] {\n h = x |> Dense(1)\n guess[b] = h[b, 0]\n}\n"
        'train Line {\n data = npz("set.npz")\n loss = mse(guess, y)\n'
        " optimizer = sgd\n epochs = 1\n}\n"
    )
    assert nnc("train", "line.nn", "--out", "line")[0] == 0
    for flags, told in (
        (["cat.jpg"], "E0717"),
        (["--input", "cat.jpg"], "E0602"),
        (["--invert", "set.npz"], "E0717"),
    ):
        code, _, err = nnc("predict", "line", *flags)
        assert code == 1 and told in err and "pickle" not in err
    assert (
        "without `--input`: `nnc predict line cat.jpg`"
        in nnc("predict", "line", "--input", "cat.jpg")[2]
    )
    assert "a JPEG image" in nnc("predict", "line", "cat.jpg")[2]
    code, out, _ = nnc("predict", "line", "set.npz")
    assert code == 0 and list(rows(out)[0]) == ["guess"] and len(rows(out)) == 8


def test_a_run_of_an_earlier_version(nnc, home, tmp_path):
    """It reads arrays, says what is missing, and going on with it adds that."""
    import shutil

    shutil.copytree(home / "runs/small", tmp_path / "old")
    notes = json.loads(Path("old/settings.json").read_text())
    del notes["inputs"]
    Path("old/settings.json").write_text(json.dumps(notes))
    Path("old/backup.json").unlink()
    np.save("x.npy", np.zeros((2, 8, 8, 1), np.float32))
    code, out, _ = nnc("predict", "old", "x.npy")
    assert code == 0 and rows(out)[0]["label"] in "0123456789"
    code, _, err = nnc("predict", "old", "cat.jpg")
    assert code == 1 and "earlier version" in err and "nnc train --resume old" in err
    assert nnc("train", "--resume", "old", "--offline")[0] == 0
    assert nnc("predict", "old", "cat.jpg")[0] == 0


def test_notes_that_were_made_up(nnc, home, tmp_path):
    import shutil

    shutil.copytree(home / "runs/pets", tmp_path / "odd")
    notes = json.loads(Path("odd/settings.json").read_text())
    for wrong in (
        {"height": "six"},
        {"kind": "spells"},
        {"height": 1 << 40},
        {"channels": 2},
        {"what": 1},
        {"scale": True},
    ):
        changed = {**notes["inputs"], "reader": {**notes["inputs"]["reader"], **wrong}}
        Path("odd/settings.json").write_text(json.dumps({**notes, "inputs": changed}))
        Path("odd/backup.json").unlink(missing_ok=True)
        code, _, err = nnc("predict", "odd", "cat.jpg")
        assert code == 1 and "E0706" in err, wrong


# --- from Python ----------------------------------------------------------------------------------


def test_files_in_the_place_of_arrays(nnc, home):
    """One name, several, a list, a folder: what the command says."""
    model = package.load("runs/pets", threads=1)
    assert nnc("predict", "runs/pets", "cat.jpg", "dog.png", "--output", "y.npy")[0] == 0
    for given in (["cat.jpg", "dog.png"], [["cat.jpg", Path("dog.png")]], ["[cd]*.[jp]*"]):
        np.testing.assert_array_equal(model.predict(*given), np.load("y.npy"))
    assert model.class_names == {"label": tuple(COLOURS)}
    with pytest.warns(UserWarning, match="left out of more: notes.txt"):
        found = model.predict_files("more", top=2)
    _, out, _ = nnc("predict", "runs/pets", "more", "--top", 2)
    assert found == rows(out)
    with pytest.raises(package.UserError, match=r"image cut\.png cannot be decoded") as caught:
        Path("cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        model.predict(["cut.png", "none.png", "more/notes.txt"])
    told = [d.message for d in caught.value.diagnostics]
    assert len(told) == 3 and any("and Pets reads images" in one for one in told)
    assert any('`predict("cat.jpg")`' in d.help for d in caught.value.diagnostics)


def test_a_model_that_was_trained_or_saved_in_python(nnc, home):
    """It keeps how its data were read, through `save` and back."""
    model = package.load(home / "pets.nn", threads=1)
    model.fit(epochs=4, verbose=False)
    assert [r["label"] for r in model.predict_files("cat.jpg", "dog.png")] == ["cat", "dog"]
    model.save("saved")
    assert rows(nnc("predict", "saved", "dog.png")[1])[0]["label"] == "dog"
    small = package.load(home / "small.nn", threads=1)
    small.fit(np.zeros((20, 8, 8, 1), np.float32), np.arange(20) % 10, epochs=1, verbose=False)
    with pytest.raises(package.UserError, match="Small was trained on arrays"):
        small.predict("cat.jpg")


def test_what_is_typed_without_inputs(nnc):
    code, _, err = nnc("predict", "runs/pets")
    assert code == 1 and "the command line has no `image`" in err
    assert "runs/pets reads images" in err and "`nnc predict runs/pets cat.jpg`" in err


def test_the_help_has_examples(nnc):
    code, out, _ = nnc("predict", "--help")
    assert code == 0 and "nnc predict runs/cats photo.jpg" in out and "--invert" in out
