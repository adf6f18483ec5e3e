"""Fuzzing of interrupted runs: killed at a random moment, one of their files damaged, resumed.

`python tests/fuzzers/kills.py --kills 200 --seed 0` starts that many runs of programs that differ
in what they save. Each is ended by a signal at a random moment of its life, or by SIGKILL in the
midst of its dealings with files, perhaps once more while it goes on; then one random file of its
folder is damaged. Resumed, it must end with exit code 0, with the bits of the run that was never
disturbed (arrays, weights' bytes, metrics), and leave no unfinished file. `test_kills.py` does a
few. The same seed gives the same programs, signals and kinds of damage; where in its life a run is
hit depends on the machine, too.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
if __name__ == "__main__":
    sys.path[:0] = [str(HERE.parent)]

import numpy as np  # noqa: E402
from small_programs import DIGITS  # noqa: E402

from nnc.runtime.training.atomic_files import load_arrays  # noqa: E402

MAIN = ("-c", "from nnc.runtime.cli import main; main()")
CRASH = str(HERE.parent / "runtime" / "crash.py")
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGTERM, signal.SIGHUP)
LIMIT = 600  # seconds after which a process hangs

# The weight grows by 1 in every step and what is monitored goes up and down, so that the best
# weights are often older than the last checkpoints.
WAVES = """
optimizer plus(lr = 1) { p' = p + lr + 0*g }
model Q(x: f32[B]) -> o: f32[B] {
    param w: [] = 0
    o[b] = x[b] * w
}
train Q {
    data      = npz("q.npz")
    loss      = mean(o)^2
    metric      q = mean(o) * sin(1.7 * mean(o))
    optimizer = plus()
    monitor   = q
    batch     = 8
    epochs    = 100
}
"""
# Random numbers in every step, states of the model, a validation set, unfinished epochs.
NOISY = DIGITS.replace("|> relu |>", "|> BatchNorm |> relu |> Dropout(0.3) |>").replace(
    "epochs    = 2",
    "epochs    = 12\n    checkpoint_every = 4\n    validation = 0.1\n    keep_checkpoints = 1\n"
    "    validate_every = 5\n    log_every = 3",
)
LAST = DIGITS.replace(
    "epochs    = 2", 'epochs    = 30\n    keep = "last"\n    keep_checkpoints = 3'
)
# What tokens stand for is a file of the run.
TEXT = """
model Writer(token: i32[B, T]) -> logits: f32[B, T, 40] {
    logits = token |> Embedding(40, 8) |> GRU(8) |> Dense(40)
}
train Writer {
    data      = text("words.txt", length = 16)
    loss      = cross_entropy(logits, target)
    optimizer = adam(lr = 1e-2)
    batch     = 8
    epochs    = 12
    log_every = 2
    checkpoint_every = 7
}
"""
PROGRAMS = {"waves": WAVES, "noisy": NOISY, "last": LAST, "text": TEXT}


@dataclass(frozen=True)
class Whole:
    """A run that is never disturbed: its program, what it ends with, how many seconds it takes
    before and after there is a folder, and how many moments there are to kill it (`crash.py`)."""

    file: Path
    outcome: dict[str, Any]
    before: float
    seconds: float
    moments: int


def start(folder: Path, *arguments: object, fatal: int | None = None) -> subprocess.Popen:
    """`nnc train`; with `fatal`, it is killed at that moment."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    program = MAIN if fatal is None else (CRASH, str(fatal))
    return subprocess.Popen(
        [sys.executable, *program, "train", *map(str, arguments), "--threads", "1"],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def outcome(run: Path) -> dict[str, Any]:
    """What a run ends with; seconds left out."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = max((run / "checkpoints").iterdir())
    values = load_arrays(last)[0]
    found = {
        "weights": (run / "weights.safetensors").read_bytes(),
        "last": (last.name, {n: (a.dtype.str, a.tobytes()) for n, a in values.items()}),
        "checkpoints": sorted(p.name for p in (run / "checkpoints").iterdir()),
        "records": [{k: v for k, v in record.items() if k != "seconds"} for record in records],
        "program": (run / "model.nn").read_text(),
    }
    if (run / "vocabulary.json").exists():
        found["vocabulary"] = (run / "vocabulary.json").read_text()
    return found


def whole(folder: Path, name: str) -> Whole:
    """The undisturbed run of one of the programs, with its data beside it."""
    folder.mkdir()
    np.savez(folder / "q.npz", x=np.ones(8, np.float32))
    (folder / "words.txt").write_text("the cat sat on the mat and the dog ran to the cat\n" * 40)
    file = folder / f"{name}.nn"
    file.write_text(PROGRAMS[name])
    run = folder / "whole"
    process = start(folder, file, "--out", run, fatal=0)
    printed, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, printed
    moments = int(printed.split("moments ")[1])
    shutil.rmtree(run)
    # Again, now that nothing has to be compiled.
    began = time.monotonic()
    process = start(folder, file, "--out", run)
    appears(run, process)
    before = time.monotonic() - began
    printed, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, printed
    return Whole(file, outcome(run), before, time.monotonic() - began - before, moments)


def appears(run: Path, process: subprocess.Popen) -> None:
    """Wait until a run has a folder, or has ended."""
    while not run.exists() and process.poll() is None:
        time.sleep(0.001)


# --- damage ---------------------------------------------------------------------------------------


def _rewritten(change: Callable[[bytearray, random.Random], None]) -> Callable:
    def damage(path: Path, rng: random.Random) -> None:
        data = bytearray(path.read_bytes())
        change(data, rng)
        path.write_bytes(data)

    return damage


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _flip(data: bytearray, rng: random.Random) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _block(data: bytearray, rng: random.Random) -> None:
    first = rng.randrange(len(data) + 1)
    size = min(rng.choice((16, 512, 4096)), len(data) - first)
    data[first : first + size] = bytes(size) if rng.random() < 0.5 else rng.randbytes(size)


def _longer(data: bytearray, rng: random.Random) -> None:
    data += rng.randbytes(rng.choice((1, 8, 4096)))


DAMAGE: dict[str, Callable[[Path, random.Random], None]] = {
    "removed": lambda path, rng: path.unlink(),
    "emptied": _rewritten(lambda data, rng: data.clear()),
    "cut": _rewritten(_cut),
    "a bit flipped": _rewritten(_flip),
    "a block lost": _rewritten(_block),
    "made longer": _rewritten(_longer),
}


# --- one run --------------------------------------------------------------------------------------


def defect(seed: int, wholes: dict[str, Whole], folder: Path, told: Counter[str]) -> str:
    """What is wrong with one run that is killed, damaged and resumed; empty if nothing. `folder` is
    where its program lies. `told` counts what was hit."""
    rng = random.Random(seed)
    name = rng.choice(sorted(wholes))
    sound = wholes[name]
    run, history = sound.file.parent / f"run-{seed}", [name]

    def go_on(fatal: int | None = None) -> subprocess.Popen:
        resume = ["--resume", run] if run.exists() else [sound.file, "--out", run]
        return start(sound.file.parent, *resume, fatal=fatal)

    hits, wanted = 0, rng.choice((1, 1, 2))
    for _ in range(20):  # one that ends before it is hit is begun anew
        number = rng.choice(SIGNALS)
        if number == signal.SIGKILL and rng.random() < 0.6:
            process = go_on(fatal=rng.randint(1, sound.moments))
        else:
            process = go_on()
            early = rng.random() < 0.1
            if not early:
                appears(run, process)
            try:
                process.wait(rng.random() * (sound.before if early else sound.seconds))
            except subprocess.TimeoutExpired:
                process.send_signal(number)
        printed, _ = process.communicate(timeout=LIMIT)
        history.append(f"{signal.Signals(number).name}: {process.returncode}")
        if process.returncode not in (0, -number, 128 + number):
            return f"{history}\n{printed}"
        if "Traceback" in printed:
            return f"{history}\n{printed}"
        if process.returncode:
            hits += 1
        elif hits < wanted and rng.random() < 0.5:
            shutil.rmtree(run)
            hits = 0
        if hits >= wanted:
            break
    told["hits"] += hits
    files = sorted(p for p in run.rglob("*") if p.is_file()) if run.exists() else []
    if files:
        path, kind = rng.choice(files), rng.choice(sorted(DAMAGE))
        DAMAGE[kind](path, rng)
        shown = path.relative_to(run)
        history.append(f"{shown} {kind}")
        told[f"{shown.parts[0]} {kind}"] += 1
    else:
        told["no run yet"] += 1
    process = go_on()
    printed, _ = process.communicate(timeout=LIMIT)
    if process.returncode or "Traceback" in printed:
        return f"{history}\nresumed: {process.returncode}\n{printed}"
    found = outcome(run)
    for part in sound.outcome:
        # Which older checkpoints stay depends on which have been lost.
        if part != "checkpoints" and found.get(part) != sound.outcome[part]:
            return f"{history}\n{part} differs\n{printed}"
    left = [p.name for p in sound.file.parent.rglob("*.part")]
    if left:
        return f"{history}\nunfinished files stay: {left}"
    shutil.rmtree(run)
    return ""


def fuzz(kills: int, first: int, folder: Path) -> tuple[list[str], Counter[str]]:
    """The defects of that many runs with seeds from `first` on, and what was hit."""
    told: Counter[str] = Counter()
    seeds = range(first, first + kills)
    names = {random.Random(seed).choice(sorted(PROGRAMS)) for seed in seeds}
    every = {name: whole(folder / name, name) for name in PROGRAMS if name in names}
    wholes = {name: every.get(name, next(iter(every.values()))) for name in PROGRAMS}
    found = []
    for seed in seeds:
        if wrong := defect(seed, wholes, folder, told):
            found.append(f"seed {seed}: {wrong}")
            print(f"--- seed {seed}\n{wrong}", flush=True)
    return found, told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the first run")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="nnc-kills-"))
    os.environ["NNC_CACHE"] = str(folder / "cache")
    found, told = fuzz(arguments.kills, arguments.seed, folder)
    for what, count in sorted(told.items()):
        print(f"{count:6}  {what}")
    print(
        f"{len(found)} of {arguments.kills} runs are wrong, seeds {arguments.seed} to "
        f"{arguments.seed + arguments.kills - 1}"
    )
    if not found:
        shutil.rmtree(folder)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
