"""`nnc runs`, `nnc cache`, what settings.json says of its surroundings, and `nnc bench --json`."""

from __future__ import annotations

import json
import shutil
import subprocess
from datetime import datetime
from pathlib import Path

import pytest
from small_programs import write

from nnc.runtime import cli
from nnc.runtime.training.lock import locked
from nnc.runtime.training.run_folder import RunFolder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with two runs of `small.nn` that differ, trained once for all tests."""
    folder = tmp_path_factory.mktemp("runs")
    file = write(folder)
    for name, more in (("a", []), ("b", ["--set", "optimizer.lr=1e-3", "--batch", "50"])):
        out = folder / "runs" / name
        assert cli.run(["train", str(file), "--out", str(out), "--epochs", "2", *more]) == 0
    return folder


@pytest.fixture(autouse=True)
def here(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def nnc(capsys):
    def call(*arguments: object):
        code = cli.run([str(a) for a in arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


# --- runs -----------------------------------------------------------------------------------------


def test_a_list_of_runs(nnc):
    code, out, err = nnc("runs")
    assert code == 0 and not err
    rows = [line.split() for line in out.splitlines() if line.startswith("runs/")]
    assert [row[:3] for row in rows] == [["runs/a", "finished", "30"], ["runs/b", "finished", "58"]]
    assert all("test_loss" in row and "kB" in row for row in rows)
    assert f"{datetime.now():%Y-%m-%dT}" in out or "T" in rows[0][-3]
    # The folder may be named, and hold other things.
    assert nnc("runs", ".")[1] == out and nnc("runs", "runs/a")[1].count("runs/") == 1
    assert nnc("runs", "nowhere")[0] == 1
    Path("empty").mkdir()
    assert "no runs in empty" in nnc("runs", "empty")[1]


def test_runs_as_json_agree_with_their_files(nnc):
    code, out, err = nnc("runs", "--json")
    found = json.loads(out)
    assert code == 0 and not err and [run["path"] for run in found] == ["runs/a", "runs/b"]
    for run in found:
        folder = Path(run["path"])
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert run["best"] == min(line["test_loss"] for line in lines)
        assert lines[run["best_epoch"] - 1]["test_loss"] == run["best"]
        assert run["values"] == {k: lines[-1][k] for k in run["values"]} and run["values"]
        assert run["bytes"] == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        assert run["settings"]["batch"] in (100, 50)


def test_the_state_of_a_run(nnc):
    def status() -> str:
        return json.loads(nnc("runs", "runs/a", "--json")[1])[0]["status"]

    def say(**settings) -> None:
        plain = json.loads(Path("runs/a/settings.json").read_text())
        plain["settings"] |= settings
        Path("runs/a/settings.json").write_text(json.dumps(plain))
        Path("runs/a/backup.json").unlink(missing_ok=True)

    assert status() == "finished"
    say(epochs=9)
    assert status() == "interrupted"
    with locked(Path("runs/a")):
        assert status() == "running"
    say(until=["test_loss < 1e9"])
    assert status() == "finished"
    say(until=["test_loss < 0", "epoch > 2"])
    assert status() == "interrupted"
    say(steps=30)
    assert status() == "finished"
    say(steps=None)
    for path in Path("runs/a/checkpoints").iterdir():
        path.unlink()
    assert status() == "saved"
    Path("runs/a/weights.safetensors").unlink()
    assert status() == "no checkpoint"
    Path("runs/a/settings.json").write_text("{")
    assert status() == "damaged"


def test_runs_are_compared(nnc):
    code, out, err = nnc("runs", "compare", "runs/a", "runs/b", "runs/a")
    assert code == 0 and not err
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.split()}
    assert rows["batch"] == ["100", "50", "100"] and rows["step"] == ["30", "58", "30"]
    assert len(rows["test_loss"]) == 3 and "seed" not in rows
    plain = json.loads(nnc("runs", "compare", "runs/a", "runs/b", "--json")[1])
    assert plain["settings"] == {"batch": [100, 50]} and len(plain["runs"]) == 2
    assert set(plain["metrics"]) == {"loss", "accuracy", "test_loss", "test_accuracy"}


def test_the_difference_of_two_runs(nnc):
    code, out, _ = nnc("runs", "diff", "runs/a", "runs/b")
    assert code == 0 and "+    optimizer = adam(lr = 1e-3)" in out and "--- runs/a/model.nn" in out
    plain = json.loads(nnc("runs", "diff", "runs/a", "runs/b", "--json")[1])
    assert plain["settings"] == {"batch": [100, 50]}
    assert "+    optimizer = adam(lr = 1e-3)" in plain["program"]
    assert "The programs are the same." in nnc("runs", "diff", "runs/a", "runs/a")[1]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["diff", "runs/a"], 2, "two RUNs"),
        (["diff", "runs/a", "runs/b", "runs/a"], 2, "two RUNs"),
        (["compare", "runs/a"], 2, "two RUNs or more"),
        (["compare", "runs/a", "runs/c"], 1, "E0706"),
        (["diff", "runs/a", "small.nn"], 1, "is a model"),
    ],
)
def test_wrong_uses(nnc, words, code, told):
    found, out, err = nnc("runs", *words)
    assert found == code and not out and told in err


# --- what a run says of its surroundings ----------------------------------------------------------


def test_settings_say_when_where_and_from_which_source(nnc, here):
    def git(*arguments: str) -> str:
        names = ["-c", "user.name=n", "-c", "user.email=n@x.org"]
        done = subprocess.run(["git", *names, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    if not shutil.which("git"):
        pytest.skip("git is not installed")
    project = here / "project"
    project.mkdir()
    write(project)
    git("init", "-q", str(project))
    git("-C", str(project), "add", "small.nn")
    git("-C", str(project), "commit", "-qm", "x")
    commit = git("-C", str(project), "rev-parse", "HEAD")
    assert nnc("train", project / "small.nn", "--steps", 1, "--out", "one")[0] == 0
    notes = RunFolder(Path("one")).settings
    assert notes["git"] == {"commit": commit, "changed": False}
    assert datetime.fromisoformat(notes["date"]).tzinfo is not None
    assert set(notes["machine"]) == {"name", "system", "processor", "processors"}
    assert notes["data_sha256"]
    (project / "small.nn").write_text((project / "small.nn").read_text() + "# more\n")
    assert nnc("train", project / "small.nn", "--steps", 1, "--out", "two")[0] == 0
    assert RunFolder(Path("two")).settings["git"] == {"commit": commit, "changed": True}


def test_bench_says_what_it_has_measured(nnc):
    code, out, err = nnc("bench", "small.nn", "--steps", 2, "--batch", 7, "--threads", 1, "--json")
    found = json.loads(out)
    assert code == 0 and not err
    assert (found["model"], found["batch"], found["device"], found["threads"]) == (
        "Small",
        7,
        "cpu",
        1,
    )
    assert found["processor"] and found["target"] and found["median_ms"] > 0
    assert found["file"] == "small.nn" and found["steps"] == 2


# --- the cache ------------------------------------------------------------------------------------


@pytest.fixture
def stored(here, monkeypatch):
    """Caches of this test alone, with a file of each kind and files that are not nnc's."""
    monkeypatch.setenv("NNC_CACHE", str(here / "cache"))
    monkeypatch.setattr("nnc.runtime.commands.cache.user_cache", lambda: here / "user")
    kernels, data = here / "cache" / "kernels", here / "user" / "data" / "mnist"
    kernels.mkdir(parents=True, mode=0o700)
    data.mkdir(parents=True)
    (kernels / f"{'a' * 64}.so").write_bytes(b"x" * 1000)
    (kernels / "mine.txt").write_text("mine")
    (here / "cache" / f"grammar-{'0' * 32}.tables").write_bytes(b"y" * 2000)
    (data / "images").write_bytes(b"z" * 3000)
    return here


def test_the_cache_is_shown_and_cleared(nnc, stored):
    code, out, _ = nnc("cache", "--json")
    found = {n: (s["files"], s["bytes"]) for n, s in json.loads(out).items()}
    assert code == 0 and found == {"kernels": (1, 1000), "grammar": (1, 2000), "data": (1, 3000)}
    code, out, _ = nnc("cache")
    assert code == 0 and "1.0 kB" in out and str(stored / "cache" / "kernels") in out
    code, out, _ = nnc("cache", "clear", "kernels", "--json")
    found = {n: s["files"] for n, s in json.loads(out).items()}
    assert code == 0 and found == {"kernels": 0, "grammar": 1, "data": 1}
    assert nnc("cache", "clear")[0] == 0
    left = sorted(p.name for p in stored.joinpath("cache").rglob("*") if p.is_file())
    assert left == ["mine.txt"] and not any(p.is_file() for p in (stored / "user").rglob("*"))


def test_a_cache_that_is_off_or_does_not_exist(nnc, stored, monkeypatch):
    monkeypatch.setenv("NNC_CACHE", "off")
    assert json.loads(nnc("cache", "--json")[1])["kernels"] == {
        "folder": None,
        "files": 0,
        "bytes": 0,
    }
    assert "off" in nnc("cache")[1]
    monkeypatch.setenv("NNC_CACHE", str(stored / "none"))
    assert nnc("cache", "clear", "kernels", "grammar")[0] == 0 and not (stored / "none").exists()


def test_links_in_a_cache_are_not_followed(nnc, stored):
    (stored / "user").rename(stored / "elsewhere")
    (stored / "user").mkdir()
    (stored / "user" / "data").symlink_to(stored / "elsewhere" / "data")
    assert nnc("cache", "clear")[0] == 0 and (stored / "elsewhere/data/mnist/images").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [(["claer"], "`clear`"), (["clear", "kernel"], "`kernels`"), (["show"], "clear")],
)
def test_wrong_words_for_a_cache(nnc, stored, words, told):
    code, _, err = nnc("cache", *words)
    assert code == 2 and told in err
