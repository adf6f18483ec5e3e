"""A run that is killed, wherever, and resumed ends with the bits of the run that never was."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from small_programs import DIGITS, write
from support import mostly_slow

from nnc.runtime.training.atomic_files import load_arrays

SETS = ["--set", "validation=0.1", "--epochs", "3", "--checkpoint-every", "4"]
SETS += ["--validate-every", "5", "--log-every", "3"]
CRASH = str(Path(__file__).with_name("crash.py"))


def start(fatal: int, *arguments: str) -> subprocess.Popen:
    path = os.pathsep.join(filter(None, sys.path))
    return subprocess.Popen(
        [sys.executable, CRASH, str(fatal), *arguments],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": path},
    )


def outcome(run: Path) -> dict:
    """All that a run is for: weights, the last values, what was measured."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"]
    last = max((run / "checkpoints").iterdir())
    arrays = {
        "weights": load_arrays(run / "weights.safetensors")[0],
        last.name: load_arrays(last)[0],
    }
    bits = {
        (file, name): (array.dtype.str, array.shape, array.tobytes())
        for file, found in arrays.items()
        for name, array in found.items()
    }
    return {"metrics": lines, "bits": bits}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that is never killed: its folder's parent, outcome, moments and seconds."""
    folder = tmp_path_factory.mktemp("whole")
    file = write(folder)
    begin = time.monotonic()
    process = start(0, "train", str(file), "--out", str(folder / "run"), *SETS)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0, printed
    moments = int(printed.split("moments ")[1])
    assert moments > 100
    return file, outcome(folder / "run"), moments, time.monotonic() - begin


def survives(whole, folder: Path, kills: random.Random) -> None:
    """Start, kill at random moments, go on until it ends, and compare. A run that ended before it
    could be killed is begun anew: at least one kill has hit."""
    file, wanted, moments, seconds = whole
    run, hits = folder / "run", 0

    def go_on(fatal: int = 0) -> subprocess.Popen:
        resume = ["--resume", str(run)] if run.exists() else [str(file), "--out", str(run), *SETS]
        return start(fatal, "train", *resume)

    wanted_hits = kills.choice([1, 1, 2])
    while hits < wanted_hits:
        if kills.random() < 0.5:
            process = go_on(kills.randint(1, moments))
        else:
            process = go_on()
            time.sleep(kills.uniform(0.2, 0.9) * seconds)
            process.kill()
        printed, _ = process.communicate(timeout=120)
        assert process.returncode in (0, -9), printed
        hits += process.returncode == -9
        if process.returncode == 0:
            shutil.rmtree(run)
            hits = 0
    process = go_on()
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0, printed
    assert outcome(run) == wanted


@pytest.mark.parametrize("seed", mostly_slow(range(4), [0]))
def test_a_few_kills(whole, tmp_path, seed):
    survives(whole, tmp_path, random.Random(seed))


@pytest.mark.night
@pytest.mark.parametrize("seed", range(100, 200))
def test_a_hundred_kills(whole, tmp_path, seed):
    survives(whole, tmp_path, random.Random(seed))


@pytest.mark.slow
def test_the_number_of_threads_changes_no_bit(whole, tmp_path):
    file, wanted, _, _ = whole
    for threads in (1, 2, 3, 4):
        run = tmp_path / str(threads)
        process = start(0, "train", str(file), "--out", str(run), *SETS, "--threads", str(threads))
        printed, _ = process.communicate(timeout=120)
        assert process.returncode == 0, printed
        assert outcome(run) == wanted


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [("2", "1"), ("1", "4"), ("4", "3")])
def test_resuming_with_another_number_of_threads(whole, tmp_path, before, after):
    file, wanted, moments, _ = whole
    run = tmp_path / "run"
    process = start(moments // 2, "train", str(file), "--out", str(run), *SETS, "--threads", before)
    process.communicate(timeout=120)
    assert process.returncode == -9
    process = start(0, "train", "--resume", str(run), "--threads", after)
    assert process.communicate(timeout=120) and process.returncode == 0
    assert outcome(run) == wanted


@pytest.mark.slow
def test_the_last_and_the_best_checkpoints_stay(tmp_path):
    file = write(tmp_path, DIGITS.replace("epochs    = 2", "epochs = 5\n    monitor = -accuracy"))
    for keep in (1, 3):
        run = tmp_path / f"run{keep}"
        process = start(
            0, "train", str(file), "--out", str(run), "--set", f"keep_checkpoints={keep}"
        )
        process.communicate(timeout=120)
        steps = [int(p.stem.split("-")[1]) for p in sorted((run / "checkpoints").iterdir())]
        last = [15 * epoch for epoch in range(1, 6)][-keep:]
        assert steps == [15, *last]  # the first is the best: accuracy rises
        weights, notes = load_arrays(run / "weights.safetensors")
        best, _ = load_arrays(run / "checkpoints" / "step-00000015.safetensors")
        assert notes["step"] == "15"
        assert all(np.array_equal(best[name], array) for name, array in weights.items())


@pytest.mark.slow
def test_runs_that_start_in_the_same_second(tmp_path, monkeypatch):
    """As many processes as a sweep has, in one folder: each gets a folder of its own."""
    file, count = write(tmp_path), 16
    text = (
        "import sys, time; time.strftime = lambda _: 'now'\n"
        "from nnc.runtime.training.run_folder import create_run\n"
        "sys.stdin.readline()\n"
        "for _ in range(4): print(create_run(None, 'small', sys.argv[1], {}).path)"
    )
    path = os.pathsep.join(filter(None, sys.path))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", text, str(number)],
            cwd=tmp_path,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        for number in range(count)
    ]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    found = {}
    for number, process in enumerate(processes):
        printed, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        found |= dict.fromkeys(printed.split(), str(number))
    assert len(found) == 4 * count
    for run, number in found.items():
        assert (tmp_path / run / "model.nn").read_text() == number
    assert {p.name for p in (tmp_path / "runs").iterdir()} == {Path(run).name for run in found}
    assert file.exists()
