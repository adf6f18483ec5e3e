"""Ctrl-C: once to save and stop, twice to quit at once, whatever the process is in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from small_programs import write

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


def test_interrupted_in_an_epoch_saves_and_says_how_to_go_on(tmp_path):
    run = tmp_path / "run"
    text = "import sys; from nnc.runtime.cli import run; sys.exit(run(sys.argv[1:]))"
    process = start(
        "-c", text, "train", str(write(tmp_path)), "--out", str(run), "--epochs", "100000"
    )
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"go on with `nnc train --resume {run}`" in err and "Traceback" not in err
    last = max((run / "checkpoints").iterdir())
    load_arrays(last)
    assert f"after step {int(last.stem.split('-')[1])};" in err
