"""What is written appears whole or not at all, and nothing of the user's is harmed by it."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from nnc.dsl import files
from nnc.dsl.files import clean, place_folder, remove, replacing, unfinished_folder


def put(path: Path, data: bytes = b"new", **options) -> None:
    with replacing(path, **options) as file:
        file.write(data)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture(autouse=True)
def first_use(monkeypatch):
    monkeypatch.setattr(files, "_cleaned", set())


# --- what is replaced -----------------------------------------------------------------------------


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), replacing(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old" and names(tmp_path) == ["file"]
    put(path)
    assert path.read_bytes() == b"new" and names(tmp_path) == ["file"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o755])
def test_the_mode_stays(tmp_path, mode):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(mode)
    put(path)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_new_file_has_the_mode_of_any_other(tmp_path):
    put(tmp_path / "ours")
    (tmp_path / "any").touch()
    put(tmp_path / "private", private=True)
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "any").stat().st_mode
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser gives files away")
def test_the_owner_stays(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    os.chown(path, 1234, 4321)
    put(path)
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 4321)


@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="no attributes")
def test_attributes_stay(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    try:
        os.setxattr(path, "user.note", b"mine")
    except OSError:
        pytest.skip("the file system has no attributes")
    put(path)
    assert os.getxattr(path, "user.note") == b"mine"


@pytest.mark.skipif(not shutil.which("setfacl"), reason="needs setfacl")
def test_access_lists_stay_and_none_is_inherited(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o640)
    before = subprocess.run(["getfacl", "-c", path], capture_output=True, check=True).stdout
    subprocess.run(["setfacl", "-d", "-m", "u:1234:rw", tmp_path], check=True)
    put(path)
    after = subprocess.run(["getfacl", "-c", path], capture_output=True, check=True).stdout
    assert after == before
    subprocess.run(["setfacl", "-m", "u:1235:r", path], check=True)
    before = subprocess.run(["getfacl", "-c", path], capture_output=True, check=True).stdout
    put(path)
    after = subprocess.run(["getfacl", "-c", path], capture_output=True, check=True).stdout
    assert after == before


def test_a_link_stays_and_its_file_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    real, link, second = tmp_path / "there" / "file", tmp_path / "link", tmp_path / "second"
    real.write_bytes(b"old")
    real.chmod(0o600)
    link.symlink_to("there/file")
    second.symlink_to("link")
    put(second)
    assert link.is_symlink() and second.is_symlink()
    assert real.read_bytes() == b"new" and stat.S_IMODE(real.stat().st_mode) == 0o600
    nowhere = tmp_path / "nowhere"
    nowhere.symlink_to("there/fresh")
    put(nowhere)
    assert nowhere.is_symlink() and (tmp_path / "there" / "fresh").read_bytes() == b"new"


def test_a_private_file_replaces_a_link(tmp_path):
    real, link = tmp_path / "file", tmp_path / "link"
    real.write_bytes(b"old")
    link.symlink_to(real)
    put(link, private=True)
    assert not link.is_symlink() and real.read_bytes() == b"old"


def test_only_regular_files_are_replaced(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "round").symlink_to("round")
    (tmp_path / "null").symlink_to("/dev/null")
    listening = socket.socket(socket.AF_UNIX)
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    listening.bind("socket")
    writing = os.pipe()[1]
    before = {p.name: os.lstat(p) for p in tmp_path.iterdir()}
    null = os.stat("/dev/null")
    wrong = [
        ("folder", "a folder"),
        ("pipe", "a named pipe"),
        ("socket", "a socket"),
        ("null", "a device"),
        ("/dev/null", "a device"),
        ("/dev/full", "a device"),
        (f"/proc/self/fd/{writing}", "a named pipe"),
        ("round", "Too many levels"),
        ("missing/file", "No such file"),
        ("pipe/file", "Not a directory"),
        ("x" * 300, "File name too long"),
    ]
    for name, why in wrong:
        with pytest.raises(OSError, match=why):
            put(tmp_path / name)
    assert {p.name: os.lstat(p) for p in tmp_path.iterdir()} == before
    assert os.path.samestat(os.stat("/dev/null"), null)
    listening.close()


def test_a_deleted_file_that_is_still_open_is_no_target(tmp_path):
    with (tmp_path / "file").open("w") as file:
        (tmp_path / "file").unlink()
        with pytest.raises(OSError):
            put(Path(f"/proc/self/fd/{file.fileno()}"))
    assert not names(tmp_path)


def test_a_protected_file_stays(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o444)
    if os.geteuid() == 0:  # whom no mode stops
        monkeypatch.setattr(files.os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError):
        put(path)
    assert path.read_bytes() == b"old"


def test_a_name_of_any_length(tmp_path):
    put(tmp_path / ("x" * 255))
    assert names(tmp_path) == ["x" * 255]


def test_names_of_unfinished_files_are_random_and_no_link_is_followed(tmp_path, monkeypatch):
    """A file or a link that is there already under the name makes another name be drawn."""
    mine = tmp_path / "mine"
    mine.write_bytes(b"precious")
    drawn = iter([bytes(8), b"\x11" * 8, b"\x22" * 8])
    monkeypatch.setattr(files.os, "urandom", lambda count: next(drawn))
    (tmp_path / f".nnc-{'0' * 16}.part").symlink_to(mine)
    (tmp_path / f".nnc-{'1' * 16}.part").symlink_to("nowhere")
    with replacing(tmp_path / "file") as file:
        file.write(b"new")
        assert (tmp_path / f".nnc-{'2' * 16}.part").exists()
    assert mine.read_bytes() == b"precious"
    assert not (tmp_path / "nowhere").exists()


# --- what killed processes leave ------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
from nnc.dsl.files import replacing, unfinished_folder
with replacing(Path(sys.argv[1])) as file, unfinished_folder(Path(sys.argv[2])) as folder:
    file.write(b"half")
    (folder / "model.nn").write_text("half")
    print("writing", flush=True)
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_the_killed_have_left_goes_and_what_the_living_write_stays(tmp_path):
    path = os.pathsep.join(filter(None, sys.path))
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "file"), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert process.stdout.readline() == b"writing\n"
    kept = {
        ".nnc-0123456789abcdeg.part": "no name of ours",
        ".nnc-0123456789abcdef.part.txt": "no name of ours",
        ".thesis.tex.4711.part": "no name of ours",
    }
    for name, text in kept.items():
        (tmp_path / name).write_text(text)
    written = set(names(tmp_path))
    assert len(written) == len(kept) + 2
    clean(tmp_path)
    assert set(names(tmp_path)) == written
    process.stdin.close()
    assert process.wait() == -signal.SIGKILL
    put(tmp_path / "another")
    assert set(names(tmp_path)) == {*kept, "another"}


def test_abandoned_links_and_full_folders_stay(tmp_path):
    name = ".nnc-0123456789abcdef.part"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis").write_text("precious")
    (tmp_path / name).symlink_to("mine")
    clean(tmp_path)
    assert (tmp_path / name).is_symlink() and names(tmp_path / "mine") == ["thesis"]
    (tmp_path / name).unlink()
    (tmp_path / name / "below").mkdir(parents=True)
    (tmp_path / name / "below" / "file").write_text("precious")
    clean(tmp_path)
    assert (tmp_path / name / "below" / "file").exists()


def write_often(folder: Path) -> None:
    for number in range(200):
        files._cleaned.clear()
        put(folder / f"{os.getpid()}", str(number).encode(), durable=False)


@pytest.mark.slow
def test_writers_that_clean_do_not_disturb_each_other(tmp_path):
    """Also a file that has no lock yet when another process looks at it."""
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_often, args=(tmp_path,)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    found = {path.read_bytes() for path in tmp_path.iterdir()}
    assert len(names(tmp_path)) == 4 and found == {b"199"}


# --- folders and removing -------------------------------------------------------------------------


def test_a_folder_appears_whole(tmp_path):
    with unfinished_folder(tmp_path / "new") as folder:
        (folder / "file").write_text("")
        assert place_folder(folder, tmp_path / "new" / "run")
    assert names(tmp_path / "new") == ["run"] and names(tmp_path / "new" / "run") == ["file"]
    with unfinished_folder(tmp_path / "new") as folder:
        (folder / "file").write_text("")
        assert not place_folder(folder, tmp_path / "new" / "run")
        (tmp_path / "new" / "file").write_text("")
        assert not place_folder(folder, tmp_path / "new" / "file")
    assert names(tmp_path / "new") == ["file", "run"]
    (tmp_path / "empty").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("empty")
    with unfinished_folder(tmp_path) as folder:
        (folder / "file").write_text("")
        assert place_folder(folder, tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and names(tmp_path / "empty") == ["file"]
    assert stat.S_IMODE((tmp_path / "empty").stat().st_mode) == 0o700


def test_only_regular_files_are_removed(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    assert not any(remove(tmp_path / name) for name in ("folder", "link", "pipe", "missing"))
    assert remove(tmp_path / "file") and names(tmp_path) == ["folder", "link", "pipe"]


# --- where there is no home -----------------------------------------------------------------------


def test_no_home_no_cache(monkeypatch):
    monkeypatch.setattr(files.os.path, "expanduser", lambda path: path)
    for name in ("HOME", "XDG_CACHE_HOME", "NNC_CACHE"):
        monkeypatch.delenv(name, raising=False)
    assert files.user_cache() is None and files.chosen_cache() is None
    monkeypatch.setenv("NNC_CACHE", "~/cache")
    assert files.chosen_cache() is None
    monkeypatch.setenv("NNC_CACHE", "/somewhere")
    assert files.chosen_cache() == Path("/somewhere")
    monkeypatch.setenv("NNC_CACHE", "OFF")
    assert files.chosen_cache() is None
