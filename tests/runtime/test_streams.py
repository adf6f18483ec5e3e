"""Commands with streams that are closed, full, broken or of a poor encoding, without a home or with
little memory: an answer and its exit code, or one clear message, and never a traceback."""

from __future__ import annotations

import itertools
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_programs import write
from support import mostly_slow

from nnc.runtime import cli
from nnc.runtime.training.atomic_files import load_arrays

WRONG = "model M(x: f32[B]) -> größe: f32[B] { y = z }\n"
MAIN = "from nnc.runtime.cli import main; main()"

# command → whether its answer goes to stdout, and its exit code
COMMANDS = {
    "eval run": (True, 0),
    "predict run --input x.npy --output y.npy": (False, 0),
    "generate run --prompt -": (True, 2),
    "compile small.nn --emit ast": (True, 0),
    "compile small.nn --emit ast=out.nn": (False, 0),
    "check small.nn": (False, 0),
    "check wrong.nn": (False, 1),
    "fmt --check small.nn": (False, 1),
    "summary small.nn": (True, 0),
    "explain E0304": (True, 0),
    "doctor": (True, 0),
    "--help": (True, 0),
    "--version": (True, 0),
    "nothing": (False, 2),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Programs, inputs, and a run."""
    path = tmp_path_factory.mktemp("streams")
    write(path)
    (path / "wrong.nn").write_text(WRONG)
    np.save(path / "x.npy", np.zeros((3, 8, 8, 1)))
    arguments = ["train", str(path / "small.nn"), "--out", str(path / "run"), "--epochs", "1"]
    assert cli.run(arguments) == 0
    return path


def call(folder: Path, line: str, text: str = MAIN, **more) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment |= more.pop("env", {})
    for name in more.pop("without", ()):
        environment.pop(name, None)
    found = subprocess.run(
        [sys.executable, "-c", text, *line.split()],
        cwd=folder,
        env=environment,
        timeout=120,
        check=False,
        **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        | more,
    )
    told = (found.stderr or b"") + (found.stdout or b"")
    assert found.returncode != 101 and b"Traceback" not in told and b"ignored" not in told, told
    return found


def closing(streams: tuple[int, ...]):
    def close() -> None:
        for number in streams:
            os.close(number)

    return close


CLOSED = [c for n in (1, 2, 3) for c in itertools.combinations(range(3), n)]


# Commands that differ in what they read and write; all others are for `-m slow`.
QUICK = ("check wrong.nn",)


@pytest.mark.parametrize("line", mostly_slow(COMMANDS, QUICK))
def test_closed_streams(folder, line):
    """What needs no closed stream is done, what needs one is refused."""
    answers, code = COMMANDS[line]
    for closed in CLOSED:
        found = call(folder, line, preexec_fn=closing(closed))
        wanted = code
        if line.startswith("generate") and 0 in closed:
            wanted = 1
        elif answers and 1 in closed and code == 0:
            wanted = 1
            if 2 not in closed:
                assert b"the output cannot be written: it is closed" in found.stderr, closed
        assert found.returncode == wanted, (closed, found)
        if 1 in closed:
            assert not found.stdout
        elif answers and code == 0:
            assert found.stdout
        if 2 in closed:
            assert not found.stderr
        elif code:
            assert found.stderr


@pytest.mark.parametrize("closed", mostly_slow(CLOSED, [(1,), (0, 1, 2)]))
def test_training_with_closed_streams(folder, tmp_path, closed):
    """The run is what training is for, not its lines; and no file takes a stream's number."""
    line = f"train small.nn --epochs 1 --out {tmp_path}/run"
    found = call(folder, line, preexec_fn=closing(closed))
    assert found.returncode == 0
    assert (b"epoch 1/1" in found.stdout) == (1 not in closed)
    assert (b"kept in" in found.stderr) == (2 not in closed)
    one, two = (r / "weights.safetensors" for r in (folder / "run", tmp_path / "run"))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("line", mostly_slow(COMMANDS, QUICK))
def test_full_devices(folder, line):
    answers, code = COMMANDS[line]
    with open("/dev/full", "wb") as full:
        found = call(folder, line, stdout=full)
        assert found.returncode == (1 if answers and code == 0 else code)
        if answers and code == 0:
            assert b"the output cannot be written: No space left on device" in found.stderr
        assert call(folder, line, stderr=full).returncode == code


@pytest.mark.parametrize("line", [line for line, (answers, code) in COMMANDS.items() if answers])
def test_a_pipe_that_is_closed_early(folder, line):
    if COMMANDS[line][1]:
        return
    reading, writing = os.pipe()
    os.close(reading)
    found = call(folder, line, stdout=writing)
    os.close(writing)
    assert found.returncode == 128 + signal.SIGPIPE
    assert b"output" not in found.stderr


@pytest.mark.slow
def test_training_into_a_full_device(folder, tmp_path):
    """It stops as if interrupted, and what is saved goes on to the same bits."""
    run = tmp_path / "run"
    with open("/dev/full", "wb") as full:
        found = call(folder, f"train small.nn --epochs 2 --out {run}", stdout=full)
    assert found.returncode == 1
    assert b"No space left on device; saved after step 15; go on with `nnc train" in found.stderr
    assert found.stderr.count(b"cannot be written") == 1
    assert call(folder, f"train --resume {run}").returncode == 0
    assert call(folder, f"train small.nn --epochs 2 --out {tmp_path}/two").returncode == 0
    one, two = (tmp_path / name / "weights.safetensors" for name in ("run", "two"))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.slow
def test_a_pipe_that_does_not_block(folder):
    """Its writer is told to try again, which is no error."""
    text = f"""
import os, threading, time
reading, writing = os.pipe()
os.set_blocking(writing, False)
os.dup2(writing, 1)
os.close(writing)
def read():
    total = 0
    while piece := os.read(reading, 100):
        total += len(piece)
    os.write(2, str(total).encode())
thread = threading.Thread(target=read)
try:
    thread.start()
    {MAIN}
finally:
    os.close(1)
    thread.join()
"""
    found = call(folder, "compile small.nn --emit llvm", text)
    whole = call(folder, "compile small.nn --emit llvm").stdout
    assert found.returncode == 0 and len(whole) > 1 << 17
    assert found.stderr == str(len(whole)).encode()


@pytest.mark.slow
@pytest.mark.parametrize("encoding", mostly_slow(["ascii", "latin-1", "utf-8"], ["ascii"]))
def test_encodings(folder, encoding):
    environment = {"PYTHONIOENCODING": encoding, "LC_ALL": "C"}
    found = call(folder, "check wrong.nn", env=environment)
    assert found.returncode == 1 and b"error[E" in found.stderr
    assert call(folder, "summary small.nn", env=environment).returncode == 0
    (folder / "größe").mkdir(exist_ok=True)
    name = write(folder / "größe")
    found = call(folder, f"compile {name} --emit equations", env=environment)
    assert found.returncode == 0
    odd = os.fsdecode(b"\xff.nn")
    write(folder, name=odd)
    for command in ("check", "summary", "bench --steps 1", "compile --emit equations"):
        assert call(folder, f"{command} {odd}", env=environment).returncode == 0


@pytest.mark.parametrize("commands", ["train small.nn --epochs 1 --out home", "eval run"])
def test_without_a_home(folder, tmp_path, commands):
    """Nor an entry among the passwords: nothing is cached, and no folder is called `~`."""
    text = f"import pwd\ndef getpwuid(_): raise KeyError\npwd.getpwuid = getpwuid\n{MAIN}"
    before = set(folder.iterdir())
    gone = ("HOME", "NNC_CACHE", "XDG_CACHE_HOME")
    found = call(folder, commands.replace("home", str(tmp_path / "run")), text, without=gone)
    assert found.returncode == 0 and set(folder.iterdir()) == before


@pytest.mark.slow
def test_a_folder_that_is_gone(folder, tmp_path):
    text = f"import os, sys\nos.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')\n{MAIN}"
    found = call(tmp_path, f"train {folder}/small.nn --epochs 1", text)
    assert found.returncode == 1 and b"folder does not exist any more" in found.stderr
    assert call(tmp_path, f"check {folder}/small.nn", text).returncode == 0


@pytest.mark.parametrize(
    "megabytes", mostly_slow([40, 60, 100, 150, 200, 250, 300, 350, 400], [60, 200])
)
def test_little_memory(folder, tmp_path, megabytes):
    """Under `ulimit -v` a command does its work or says that memory is short."""
    limit = megabytes * 10**6

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    train = f"train small.nn --epochs 1 --out {tmp_path}/run"
    for line, environment in ((train, {"NNC_CACHE": "off"}), ("eval run", {}), ("--version", {})):
        found = call(folder, line, preexec_fn=limited, env=environment)
        assert found.returncode in (0, 1)
        # Python itself, or the library below NumPy, may have said it.
        assert found.returncode == 0 or b"emory" in found.stderr


def test_shortages_that_python_reports_as_other_errors():
    """Its parser says "expected ':'" where it cannot allocate; without a limit that is a bug."""
    text = """
import resource
from nnc.runtime.memory import is_shortage
errors = [SyntaxError("expected ':'"), SystemError("NULL"), ImportError("cannot map")]
assert not any(map(is_shortage, errors)) and not is_shortage(KeyError("y"))
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
assert all(map(is_shortage, errors)) and not is_shortage(KeyError("y"))
"""
    assert call(Path(), "", text).returncode == 0


def test_native_messages_do_not_meet_files(tmp_path):
    """The next file to be opened would have the number of a closed stream."""
    text = """
import os, sys
from nnc.runtime.streams import open_streams
open_streams()
with open("file", "wb") as file:
    number = file.fileno()
    os.write(2, b"a message of native code")
    file.write(b"content")
assert number > 2
"""
    call(tmp_path, "", text, preexec_fn=closing((0, 1, 2)))
    assert (tmp_path / "file").read_bytes() == b"content"


@pytest.mark.slow
def test_arrays_of_a_run_with_closed_streams_are_right(folder):
    assert json.loads(call(folder, "eval run", preexec_fn=closing((0, 2))).stdout)
    load_arrays(folder / "run" / "weights.safetensors")
