"""Ctrl-C and the other signals that end a process: once to save and stop, twice to quit at once,
whatever the process is in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from small_programs import write
from support import mostly_slow

from nnc.runtime.training.atomic_files import load_arrays
from nnc.runtime.training.interrupt import never, watch_interrupt

LONG = """
import hashlib
from nnc.runtime.training.interrupt import watch_interrupt
with watch_interrupt(quits=True) as interrupted:
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # minutes in which Python runs no handler
print(interrupted())
"""


def start(*arguments: str, **more) -> subprocess.Popen:
    path = os.pathsep.join(filter(None, sys.path))
    return subprocess.Popen(
        [sys.executable, *arguments],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        **more,
    )


@pytest.fixture(autouse=True)
def in_the_foreground():
    """A shell lets its background jobs ignore Ctrl-C, tests included."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_is_noted():
    before = signal.getsignal(signal.SIGINT)
    with watch_interrupt() as interrupted:
        assert not interrupted()
        signal.raise_signal(signal.SIGINT)
        end = time.monotonic() + 10
        while not interrupted() and time.monotonic() < end:
            time.sleep(0.01)
        assert interrupted()
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_the_second_is_an_exception_in_the_users_own_process():
    with pytest.raises(KeyboardInterrupt), watch_interrupt() as interrupted:
        signal.raise_signal(signal.SIGINT)
        end = time.monotonic() + 10
        while not interrupted() and time.monotonic() < end:
            time.sleep(0.01)
        assert interrupted()
        signal.raise_signal(signal.SIGINT)


def test_other_threads_are_not_interrupted():
    found = []

    def work():
        with watch_interrupt() as interrupted:
            found.append(interrupted)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [never]


def test_the_second_quits_in_the_midst_of_native_code():
    process = start("-c", LONG)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert "once more to quit" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130


MAIN = "from nnc.runtime.cli import main; main()"
TRAIN = ("--epochs", "100000")


def last_step(run) -> int:
    last = max((run / "checkpoints").iterdir())
    load_arrays(last)
    return int(last.stem.split("-")[1])


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGPIPE"])
def test_a_signal_in_training_saves_and_says_how_to_go_on(tmp_path, name):
    run, number = tmp_path / "run", getattr(signal, name)
    process = start("-c", MAIN, "train", str(write(tmp_path)), "--out", str(run), *TRAIN)
    process.stdout.readline()
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"go on with `nnc train --resume {run}`" in err and "Traceback" not in err
    assert f"interrupted after step {last_step(run)};" in err


def test_a_pipe_whose_reader_has_enough_saves_and_says_how_to_go_on(tmp_path):
    """As with `nnc train … | head -1`."""
    run = tmp_path / "run"
    process = start("-c", MAIN, "train", str(write(tmp_path)), "--out", str(run), *TRAIN)
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(timeout=60) == 128 + signal.SIGPIPE
    assert f"go on with `nnc train --resume {run}`" in err and "Traceback" not in err
    assert f"after step {last_step(run)}; go on" in err


@pytest.mark.slow
def test_nohup_is_respected(tmp_path):
    """A signal that the process was told to ignore is ignored, and the next one is the first."""
    run = tmp_path / "run"
    process = start(
        "-c",
        MAIN,
        "train",
        str(write(tmp_path)),
        "--out",
        str(run),
        *TRAIN,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    process.stdout.readline()
    process.send_signal(signal.SIGHUP)
    process.stdout.readline()
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM


# A moment in the life of a command, at which it says so and waits to be ended.
MOMENTS = {
    "reading data": ("nnc.runtime.commands.train", "load_dataset"),
    "compiling": ("nnc.runtime.commands.train", "prepare"),
    "making the run": ("nnc.runtime.training.run_folder", "place_folder"),
}
AT = """
import importlib, sys
module = importlib.import_module({module!r})
def wait(*arguments, **named):
    print("there", flush=True)
    sys.stdin.read()
setattr(module, {name!r}, wait)
from nnc.runtime.cli import main
main()
"""


@pytest.mark.parametrize("moment", list(MOMENTS))
@pytest.mark.parametrize(
    "number", mostly_slow([signal.SIGINT, signal.SIGTERM, signal.SIGHUP], [signal.SIGTERM])
)
def test_a_signal_before_training_leaves_nothing(tmp_path, moment, number):
    module, name = MOMENTS[moment]
    run = tmp_path / "run"
    text = AT.format(module=module, name=name)
    file = str(write(tmp_path))
    process = start("-c", text, "train", file, "--out", str(run), stdin=subprocess.PIPE)
    assert process.stdout.readline() == "there\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number and err == "interrupted\n"
    assert [p.name for p in tmp_path.iterdir()] == ["small.nn"]


IN_A_WRITE = """
import os, sys
from nnc.runtime.training.checkpoints import Checkpoints
from nnc.dsl import files
original, write = os.fsync, Checkpoints.write
def fsync(handle):
    print("there", flush=True)
    sys.stdin.readline()
    original(handle)
def slow(self, *arguments):
    if self.steps():
        os.fsync = fsync
    write(self, *arguments)
Checkpoints.write = slow
from nnc.runtime.cli import main
main()
"""


def stopped_in_a_write(folder: Path, run: Path) -> subprocess.Popen:
    """A training process that has got SIGTERM while it writes a checkpoint, and has said so."""
    process = start(
        "-c",
        IN_A_WRITE,
        "train",
        str(write(folder)),
        "--out",
        str(run),
        *TRAIN,
        stdin=subprocess.PIPE,
    )
    while process.stdout.readline() != "there\n":
        pass
    process.send_signal(signal.SIGTERM)
    assert "once more to quit" in process.stderr.readline()
    return process


def test_a_signal_in_the_midst_of_a_checkpoint_waits_for_it(tmp_path):
    run = tmp_path / "run"
    process = stopped_in_a_write(tmp_path, run)
    process.stdin.write("\n")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert f"interrupted after step {last_step(run)};" in err
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.slow
def test_a_second_signal_in_the_midst_of_a_checkpoint_leaves_the_one_before(tmp_path):
    run = tmp_path / "run"
    process = stopped_in_a_write(tmp_path, run)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert last_step(run) == 15 and len(list(tmp_path.rglob("*.part"))) == 1
    process.communicate()
    process = start("-c", MAIN, "train", "--resume", str(run), "--epochs", "3")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert last_step(run) == 45 and not list(tmp_path.rglob("*.part"))
