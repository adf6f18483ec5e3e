"""Which files a program may name: those of the folders that its user has chosen, and no others.

Every source is tried with every way out of them. A message never shows what stands outside.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import numpy as np
import pytest

from nnc.dsl.check.checker import MAX_DEPTH
from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime import cli, data
from nnc.runtime.training.run_folder import RunFolder

SECRET = "root:secret:0"


@pytest.fixture
def search(tmp_path, monkeypatch):
    monkeypatch.delenv("NNC_DATA", raising=False)
    (tmp_path / "program").mkdir()
    return data.Search(None, tmp_path / "program", offline=True, cache=tmp_path / "cache")


@pytest.fixture
def outside(tmp_path) -> Path:
    """A folder beside the program's, with a file of every kind; all hold the secret."""
    folder = tmp_path / "outside"
    (folder / "pets" / "cat").mkdir(parents=True)
    for name in ("t.csv", "t.txt", "x.npy", "x.npz", "a_1.wav", "pets/cat/a.png"):
        (folder / name).write_text(f"{SECRET}\n")
    for part in ("train", "t10k"):
        (folder / f"{part}-images-idx3-ubyte").write_text(SECRET)
        (folder / f"{part}-labels-idx1-ubyte").write_text(SECRET)
    (folder / "tinyshakespeare.txt").write_text(SECRET)
    (folder / "0_jackson_0.wav").write_text(SECRET)
    return folder


SOURCES = [
    ("csv", {"file": "t.csv", "target": "a"}),
    ("lines", {"file": "t.txt"}),
    ("pairs", {"file": "t.txt"}),
    ("text", {"file": "t.txt", "length": 2}),
    ("text", {"file": "t.txt", "length": 2, "vocabulary": "bytes"}),
    ("npz", {"file": "x.npz"}),
    ("npy", {"x": "x.npy"}),
    ("images", {"folder": "pets", "size": [2, 2]}),
    ("wav", {"folder": ".", "pattern": "{a}_{b}.wav", "label": "a"}),
]


def refused(search, source: str, settings: dict) -> str:
    """The message of the refusal, by `describe` and `load` alike."""
    texts = set()
    for call in (data.describe, data.load):
        with pytest.raises(UserError) as caught:
            call(source, settings, search)
        (found,) = caught.value.diagnostics
        texts.add(f"{found.message} | {found.help}")
        assert found.code == "E0617", texts
    (text,) = texts
    assert "secret" not in text
    return text


@pytest.mark.parametrize("source, settings", SOURCES)
def test_a_program_cannot_name_a_path_elsewhere(search, outside, source, settings):
    (setting,) = {"file", "folder", "x"} & set(settings)
    name = settings[setting]
    for path in (str(outside / name), f"../outside/{name}", f"a/../../outside/{name}"):
        assert "leads out of" in refused(search, source, {**settings, setting: path})
    # `~` is no home, but a folder of that name.
    with pytest.raises(UserError) as caught:
        data.load(source, {**settings, setting: "~/t.csv"}, search)
    assert caught.value.diagnostics[0].code == "E0601"


@pytest.mark.parametrize("source, settings", SOURCES)
@pytest.mark.parametrize("place", ["", "data"])
def test_a_link_of_the_program_does_not_lead_elsewhere(search, outside, source, settings, place):
    (setting,) = {"file", "folder", "x"} & set(settings)
    name = settings[setting]
    (search.base / place).mkdir(exist_ok=True)
    (search.base / place / "link").symlink_to(outside / name)
    assert "is a link out of" in refused(search, source, {**settings, setting: "link"})
    # A folder on the way may be the link, too, and so may `data` itself.
    (search.base / place / "folder").symlink_to(outside)
    assert "is a link out of" in refused(search, source, {**settings, setting: f"folder/{name}"})


def test_the_folder_data_of_a_program_may_be_no_link_elsewhere(search, outside):
    (search.base / "data").symlink_to(outside)
    text = refused(search, "csv", {"file": "t.csv", "target": "a"})
    assert f"--data {outside}" in text


@pytest.mark.parametrize("what", ["mnist", "shakespeare", "spoken_digits"])
def test_well_known_sets_are_not_read_through_links(search, outside, what):
    for path in outside.iterdir():
        (search.base / path.name).symlink_to(path)
    refused(search, what, {})


@pytest.mark.parametrize("folder", ["pets", "pets/cat"])
def test_images_of_a_folder_are_not_links_elsewhere(search, outside, folder):
    (search.base / "pets" / "dog").mkdir(parents=True)
    (search.base / "pets" / "dog" / "b.png").write_bytes(b"")
    if folder == "pets":
        (search.base / "pets" / "cat").symlink_to(outside / "pets" / "cat")
    else:
        (search.base / folder).mkdir()
        (search.base / folder / "a.png").symlink_to(outside / "pets" / "cat" / "a.png")
    refused(search, "images", {"folder": "pets", "size": [2, 2]})


def test_sounds_of_a_folder_are_not_links_elsewhere(search, outside):
    (search.base / "a_1.wav").symlink_to(outside / "a_1.wav")
    refused(search, "wav", {"folder": ".", "pattern": "{a}_{b}.wav", "label": "a"})


def rows(search, name: str) -> int:
    return len(data.load("csv", {"file": name, "test": 0}, search).train)


def test_what_the_user_has_chosen_is_read(search, tmp_path, monkeypatch):
    (search.base / "data").mkdir()
    (search.base / "data" / "near.csv").write_text("a\n1\n")
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "far.csv").write_text("a\n1\n2\n")
    inside, outside = str(search.base / "data" / "near.csv"), str(tmp_path / "far" / "far.csv")
    (search.base / "link.csv").symlink_to(inside)
    for name in ("near.csv", "data/near.csv", inside, "link.csv", "data/../data/near.csv"):
        assert rows(search, name) == 1
    chosen = data.Search(tmp_path / "far", search.base, True, search.cache)
    assert rows(chosen, outside) == rows(chosen, "far.csv") == 2
    # A link to what is chosen leads to what is chosen, and one that is chosen is followed.
    (search.base / "out.csv").symlink_to(outside)
    (tmp_path / "way").symlink_to(tmp_path / "far")
    assert rows(chosen, "out.csv") == 2
    monkeypatch.setenv("NNC_DATA", str(tmp_path / "way"))
    assert rows(search, outside) == rows(search, "far.csv") == rows(search, "out.csv") == 2


# ── what is no file ──────────────────────────────────────────────────────────────────────────────

PROGRAM = """
model M(x: f32[B, 2]) -> y: f32[B] {
    h = x |> Dense(1)
    y[b] = h[b, 0]
}

train M {
    data      = npy(x = "x.npy", goal = "goal.npy")
    loss      = mse(y, goal)
    optimizer = sgd(lr = 0.1)
    epochs    = 1
}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NNC_DATA", raising=False)
    (tmp_path / "m.nn").write_text(PROGRAM)
    np.save(tmp_path / "x.npy", np.ones((20, 2), np.float32))
    np.save(tmp_path / "goal.npy", np.ones(20, np.float32))
    return tmp_path


def make(kind: str, path: Path) -> None:
    """Something that is no regular file, in the place of whatever is there."""
    if path.is_dir():
        for one in path.iterdir():
            one.unlink()
        path.rmdir()
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        here = Path.cwd()
        os.chdir(path.parent)  # the address of a socket may not be long
        held = socket.socket(socket.AF_UNIX)
        held.bind(path.name)
        held.close()
        os.chdir(here)
    elif kind == "circle":
        path.symlink_to(path.name)
    else:
        path.symlink_to("/dev/zero")


KINDS = ["pipe", "folder", "socket", "circle", "device"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_told_in_every_place(folder, capfd, kind):
    def told(line: str, *codes: str) -> None:
        assert cli.run(["--error-format", "json", *line.split()]) == 1, line
        said = [json.loads(t) for t in capfd.readouterr().err.splitlines() if t.startswith("{")]
        assert next(one["code"] for one in said if one["severity"] == "error") in codes, said

    assert cli.run(["train", "m.nn", "--out", "run"]) == 0
    make(kind, folder / "given.npy")
    told("predict run --input given.npy --output out.npy", "E0709", "E0617")
    make(kind, folder / "given.nn")
    for line in ("check given.nn", "train given.nn", "fmt given.nn"):
        told(line, "E0216")
    (folder / "user.nn").write_text('use "given.nn"\n' + PROGRAM)
    told("check user.nn", "E0216", "E0217")
    make(kind, folder / "x.npy")
    told("train m.nn", "E0617", "E0601")
    for name in ("weights.safetensors", "settings.json", "model.nn"):
        make(kind, folder / "run" / name)
        told("eval run", "E0706", "E0216", "E0617", "E0601")


def test_a_long_chain_of_files_is_refused_and_a_short_one_is_not(tmp_path, capfd):
    def chain(files: int) -> int:
        for n in range(files):
            use = f'use "c{n + 1}.nn"\n' if n + 1 < files else ""
            (tmp_path / f"c{n}.nn").write_text(f"{use}fn f{n}(x) = x + {n}\n")
        return cli.run(["check", str(tmp_path / "c0.nn")])

    assert chain(MAX_DEPTH) == 0
    assert chain(3000) == 1
    assert "E0217" in capfd.readouterr().err


def test_texts_of_a_run_are_its_own(folder):
    assert cli.run(["train", "m.nn", "--out", "run"]) == 0
    for name in ("model.nn", "settings.json", "vocabulary.json"):
        (folder / name).write_text(SECRET)
        (folder / "run" / name).unlink(missing_ok=True)
        (folder / "run" / name).symlink_to(folder / name)
    run = RunFolder(folder / "run")
    for ask in (lambda: run.model, lambda: run.settings, lambda: run.vocabularies):
        with pytest.raises(UserError, match="is a link out of") as caught:
            ask()
        assert "secret" not in str(caught.value)


def test_set_replaces_an_argument_that_has_no_name(folder, capfd):
    for name, rows in (("a.csv", 4), ("b.csv", 8)):
        (folder / name).write_text("p,q,goal\n" + "1,2,3.5\n" * rows)
    program = PROGRAM.replace(
        'npy(x = "x.npy", goal = "goal.npy")', 'csv("a.csv", target = "goal")'
    )
    program = program.replace("goal)", "y0)").replace("sgd(lr = 0.1)", "sgd(0.1)")
    program = program.replace("-> y: f32[B]", "-> guess: f32[B]").replace("y[b]", "guess[b]")
    (folder / "m.nn").write_text(program.replace("mse(y, y0)", "mse(guess, y)"))
    flags = ["--set", 'data.file="b.csv"', "--set", "optimizer.lr=0.25", "--set", "data.test=0.5"]
    assert cli.run(["train", "m.nn", "--out", "run", *flags]) == 0, capfd.readouterr().err
    kept = (folder / "run" / "model.nn").read_text()
    assert 'csv("b.csv", target = "goal", test = 0.5)' in kept
    assert "sgd(0.25)" in kept
    assert json.loads((folder / "run" / "settings.json").read_text())["examples"] == 4
