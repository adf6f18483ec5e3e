"""Whole programs: `nnc train` and the same program in Keras, from the process's start to its end.

In: a folder with MNIST. Out: a table. Both train the convolutional network for one epoch and then
evaluate it. They take turns.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from contest import environment
from table import markdown

FOLDER = Path(__file__).parent
PROGRAM = FOLDER.parent / "examples" / "cnn_mnist.nn"


def whole_programs(data: Path | None, threads: int, rounds: int) -> str:
    """Seconds of each program: the median and the least of so many runs."""
    if data is None:
        sys.exit("--whole needs --data, a folder with MNIST")
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(rounds):
            for system, command in commands(data, folder / f"run{number}", threads).items():
                times.setdefault(system, []).append(seconds(command, threads, folder))
    own = median(times["nnc train"])
    rows = [
        [system, f"{median(t):.2f}", f"{min(t):.2f}", f"{median(t) / own:.2f}"]
        for system, t in times.items()
    ]
    return markdown(("one epoch, start to exit", "s", "least", "nnc = 1"), rows)


def commands(data: Path, out: Path, threads: int) -> dict[str, list[str]]:
    """What is run, by name."""
    own = [
        sys.executable,
        "-m",
        "nnc.runtime.cli",
        "train",
        str(PROGRAM),
        "--epochs",
        "1",
        "--data",
        str(data),
        "--threads",
        str(threads),
        "--out",
        str(out),
    ]
    found = {"nnc train": own}
    if find_spec("tensorflow"):
        found["Keras"] = [sys.executable, str(FOLDER / "whole_keras.py"), str(data)]
    return found


def seconds(command: list[str], threads: int, folder: Path) -> float:
    """How long it takes. The benchmark ends with what the program said if it fails."""

    def confine() -> None:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:threads]))

    begin = time.perf_counter()
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        preexec_fn=confine,
        env=environment(threads, folder),
        check=False,
    )
    if done.returncode:
        sys.exit(f"{' '.join(command[:3])} failed:\n{done.stderr[-2000:]}")
    return time.perf_counter() - begin
