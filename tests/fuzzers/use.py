"""Fuzzing of use: random sequences of commands and of calls from Python, with faults in between.

    python tests/fuzzers/use.py --sequences 2000 --seed 0 [--log FILE]

A sequence happens in a folder of its own, with a program, its data and files of the user's. Its
steps train, go on, evaluate, predict, look at programs, load runs and call models from several
threads. Any step may be killed or stopped by a signal, find the disk full, its streams closed or
broken, or another process at the same run; between steps files of the run and of the caches are
damaged. What always holds:

- no command ends with 101, with a traceback, or by a signal that nobody sent; none hangs;
- a message says why a command did not succeed, unless there is no stderr;
- numbers are those of a run that nobody disturbed, to the bit, or there are none;
- nothing of the user's is changed;
- a run goes on to the same bits after any faults, if no more than one of its files was damaged.

Who changes a text of a run on purpose removes `backup.json`. So a run in which that file and a text
are damaged, and which nobody has read in between, is another run from then on, and may end with
other numbers.

Steps run in forked children of one process that has loaded everything, which is why a hundred
sequences take a minute or two. Every tenth command is a process of its own. The same seed gives the
same steps; where in its life a command is hit depends on the machine, too. `--log` appends a line,
so that runs add up. `--plant` breaks nnc on purpose, to see that it is found. The short form is
tests/fuzzers/test_use.py.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import io
import json
import os
import pkgutil
import random
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

HERE = Path(__file__).parent
if __name__ == "__main__":
    sys.path[:0] = [str(HERE.parent)]

import numpy as np  # noqa: E402

import nnc  # noqa: E402
from fuzzers.kills import DAMAGE, outcome  # noqa: E402
from nnc.dsl.diagnostics.diagnostic import UserError  # noqa: E402
from nnc.runtime import cli  # noqa: E402
from nnc.runtime.device.cpu.program import CpuProgram  # noqa: E402
from nnc.runtime.training.executor import Executor  # noqa: E402
from nnc.runtime.training.run_folder import BACKUP, TEXTS  # noqa: E402

LIMIT = 120  # seconds after which a command hangs
WRONG = 77  # a child's exit code where an answer is wrong
STOPS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)

TRAIN = """
train M {
    data      = npz("data.npz")
    loss      = mse(out, y)
    metric      near = mean(if abs(out - y) < 0.5 then 1.0 else 0.0)
    optimizer = adam(lr = 1e-2)
    batch     = 8
    epochs    = 5
    MORE
}
"""
PLAIN = """
model M(x: f32[B, 6]) -> out: f32[B] {
    h = x |> Dense(5) |> tanh |> Dense(1)
    out[b] = h[b, 0]
}
"""
# Random numbers in every step, states of the model, a validation set, unfinished epochs.
NOISY = """
model M(x: f32[B, 6]) -> out: f32[B] {
    h = x |> Dense(5) |> BatchNorm |> relu |> Dropout(0.3) |> Dense(1)
    out[b] = h[b, 0]
}
"""
MEMORY = """
model M(x: f32[B, 6]) -> out: f32[B] {
    rows[b, t < 3, i < 2] = x[b, 2*t + i]
    h = rows |> GRU(4)
    out[b] = sum(j) h[b, 2, j]
}
"""
PROGRAMS = {
    "plain": PLAIN + TRAIN.replace("MORE", "keep_checkpoints = 2"),
    "noisy": NOISY
    + TRAIN.replace(
        "MORE", "validation = 0.25\n    checkpoint_every = 2\n    keep_checkpoints = 1"
    ),
    "memory": MEMORY
    + TRAIN.replace("MORE", 'keep = "last"\n    keep_checkpoints = 3\n    clip = clip_norm(1.0)'),
}


WRONG_USE = (
    ("train", "none.nn"),
    ("train", "notes.txt"),
    ("train", "m.nn", "--out", "notes.txt"),
    ("train", "m.nn", "--out", "runs"),
    ("train", "m.nn", "--epochs", "1", "--set", "q=1"),
    ("train", "--resume", "runs"),
    ("eval", "notes.txt"),
    ("check", ".hidden"),
    ("predict", "runs", "--input", "m.nn", "--output", "p.npy"),
)


# --- one process for everything -------------------------------------------------------------------


@dataclass
class Faults:
    """What happens to one command."""

    signal: int = 0  # that it gets
    after: float = 0.0  # seconds
    moment: int = 0  # of its dealings with files, at which it is killed
    full: int = 0  # the moment from which on the disk is full
    largest: int = 0  # bytes of a file that the system allows
    closed: tuple[int, ...] = ()  # streams
    broken: str = ""  # stdout: "full" or "pipe"

    def __str__(self) -> str:
        return ", ".join(f"{k}={v}" for k, v in vars(self).items() if v) or "no faults"


@dataclass
class Ended:
    code: int
    out: str
    err: str
    hung: bool = False


def _moments(faults: Faults) -> None:
    """Let files be dealt with in countable moments, in this process."""
    count = 0

    def wrap(function: Callable) -> Callable:
        def wrapped(*given: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            if count == faults.moment:
                os.kill(os.getpid(), signal.SIGKILL)
            if faults.full and count >= faults.full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return function(*given, **named)

        return wrapped

    for name in ("fsync", "replace", "rename", "unlink", "fdopen", "mkdir", "link"):
        setattr(os, name, wrap(getattr(os, name)))


def _streams(faults: Faults, out: Path, err: Path) -> None:
    """The three standard streams of a new process."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if faults.broken == "full":
        target = os.open("/dev/full", os.O_WRONLY)
    elif faults.broken == "pipe":
        reader, target = os.pipe()
        os.close(reader)
    else:
        target = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(target, 1)
    os.dup2(os.open(err, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 2)
    os.closerange(3, 64)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        raw = io.FileIO(number, "rw"[number > 0], closefd=False)
        setattr(sys, name, None if number in faults.closed else _text(raw))
    for number in faults.closed:
        os.close(number)


def _text(raw: io.FileIO) -> io.TextIOWrapper:
    buffer = io.BufferedWriter(raw) if raw.writable() else io.BufferedReader(raw)
    return io.TextIOWrapper(buffer, "utf-8")


def _child(call: Callable[[], object], folder: Path, faults: Faults, out: Path, err: Path) -> int:
    """Fork a child that makes a call with these faults; its number."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        os.chdir(folder)
        _streams(faults, out, err)
        if faults.largest:
            resource.setrlimit(resource.RLIMIT_FSIZE, (faults.largest, faults.largest))
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        if faults.moment or faults.full:
            _moments(faults)
        call()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except KeyboardInterrupt:
        code = 130
    except UserError as error:
        print("error:", error, file=sys.stderr)
        code = 1
    except BaseException:
        traceback.print_exc()
        code = 101
    finally:
        try:
            sys.stderr.flush()
        finally:
            os._exit(code)


def _wait(child: int, faults: Faults) -> tuple[int, bool]:
    """The exit code of a child, and whether it had to be ended."""
    began, sent = time.monotonic(), False
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status), False
        passed = time.monotonic() - began
        if faults.signal and not sent and passed >= faults.after:
            os.kill(child, faults.signal)
            sent = True
        if passed > LIMIT:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return -9, True
        time.sleep(0.002)


# --- what is right --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Right:
    """What an undisturbed run of a program ends with, and says."""

    text: str
    outcome: dict[str, Any]
    evaluation: str
    arrays: dict[str, np.ndarray]  # data, and what is predicted for them
    history: list[dict[str, float]]  # of a `fit` from Python
    fitted: np.ndarray  # what that predicts
    seconds: float
    moments: int


def _data(folder: Path) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (40, 6)).astype(np.float32)
    y = (x[:, 0] * x[:, 1] + x[:, 2]).astype(np.float32)
    np.savez(folder / "data.npz", x=x, y=y)
    np.save(folder / "some.npy", x[:11])
    return {"x": x, "y": y}


def right(name: str, folder: Path) -> Right:
    """Measured in an own folder."""
    folder.mkdir()
    data = _data(folder)
    (folder / "m.nn").write_text(PROGRAMS[name])
    nowhere = Faults()

    def command(*arguments: str) -> Ended:
        out, err = folder / "out", folder / "err"
        child = _child(_command(arguments), folder, nowhere, out, err)
        code, hung = _wait(child, nowhere)
        assert code == 0 and not hung, err.read_text()
        return Ended(code, out.read_text(), err.read_text())

    command("train", "m.nn", "--out", "warm", "--threads", "1")
    began = time.monotonic()
    command("train", "m.nn", "--out", "run", "--threads", "1")
    seconds = time.monotonic() - began
    evaluation = command("eval", "run", "--threads", "1").out
    command("predict", "run", "--input", "some.npy", "--output", "p.npy", "--threads", "1")

    def fit() -> None:
        model = nnc.load("m.nn", threads=1)
        history = model.fit(data["x"], data["y"], epochs=2, seed=3)
        Path("fit.json").write_text(json.dumps([_plain(r) for r in history]))
        np.save("fitted.npy", model.predict(data["x"][:11]))
        trained = nnc.load("run", threads=1)
        np.save("answers.npy", [trained.predict(question) for question in _questions(data["x"])])

    code, _ = _wait(_child(fit, folder, nowhere, folder / "o", folder / "e"), nowhere)
    assert code == 0, (folder / "e").read_text()
    arrays = {**data, "some": np.load(folder / "some.npy"), "p": np.load(folder / "p.npy")}
    arrays["answers"] = np.load(folder / "answers.npy")
    history = json.loads((folder / "fit.json").read_text())
    fitted = np.load(folder / "fitted.npy")
    return Right(
        PROGRAMS[name], outcome(folder / "run"), evaluation, arrays, history, fitted, seconds, 120
    )


def _questions(x: np.ndarray) -> list[np.ndarray]:
    """What each of several callers asks."""
    return [x[first : first + 11] for first in (0, 11, 22, 29)]


def _plain(record: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in record.items() if name != "seconds"}


def _command(arguments: tuple[str, ...]) -> Callable[[], object]:
    def call() -> None:
        sys.argv = ["nnc", *arguments]
        cli.main()

    return call


# --- a sequence -----------------------------------------------------------------------------------


@dataclass
class Run:
    """A folder that training has begun, and how many of its files were damaged since it was sound;
    `texts` are those that have copies, and the copies. A run that has ended once is `complete`."""

    path: Path
    damaged: int = 0
    complete: bool = False
    texts: set[str] = field(default_factory=set)
    another: bool = False  # its texts are not those that it wrote, and it cannot know

    def hit(self, name: str) -> None:
        self.damaged += 1
        if name in (*TEXTS, BACKUP):
            self.texts.add(name)
        if BACKUP in self.texts and len(self.texts) > 1:
            self.another, self.complete = True, False

    def was_read(self) -> None:
        """By a command that nothing disturbed: copies that were lost are there again."""
        self.texts.discard(BACKUP)


class Defect(Exception):
    """Something that must not be."""


@dataclass
class Sequence:
    seed: int
    wanted: Right
    folder: Path
    cache: Path
    told: Counter[str]
    history: list[str] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    theirs: dict[Path, tuple] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.place, self.outside = self.folder / "place", self.folder / "outside"
        for each in (self.place, self.outside, self.folder / "tmp"):
            each.mkdir(parents=True)
        np.savez(self.place / "data.npz", x=self.wanted.arrays["x"], y=self.wanted.arrays["y"])
        np.save(self.place / "some.npy", self.wanted.arrays["some"])
        (self.place / "m.nn").write_text(self.wanted.text)
        (self.outside / "thesis.txt").write_text("years of work")
        (self.place / "notes.txt").write_text("notes")
        (self.place / "notes.txt").chmod(0o600)
        (self.place / ".hidden").write_text("hidden")
        (self.place / "link").symlink_to(self.outside / "thesis.txt")
        (self.place / "runs").mkdir()
        (self.place / "runs" / "list.md").write_text("my runs")
        self.note(*self.place.rglob("*"), *self.outside.rglob("*"))

    def note(self, *paths: Path) -> None:
        for path in paths:
            self.theirs[path] = _looks(path)

    def check_theirs(self) -> None:
        for path, before in self.theirs.items():
            if (now := _looks(path)) != before:
                raise Defect(f"{path} of the user's is changed: {before} is now {now}")

    # --- commands

    def faults(self, heavy: bool) -> Faults:
        """Most commands are left in peace."""
        rng, found = self.rng, Faults()
        if not heavy or rng.random() < 0.4:
            return found
        seconds = self.wanted.seconds
        match rng.randrange(7):
            case 0:
                found.signal, found.after = signal.SIGKILL, rng.random() * seconds
            case 1:
                found.signal, found.after = rng.choice(STOPS), rng.random() * seconds
            case 2:
                found.moment = rng.randint(1, self.wanted.moments)
            case 3:
                found.full = rng.randint(1, self.wanted.moments)
            case 4:
                found.largest = rng.choice((1, 100, 1000, 4000, 20000))
            case 5:
                found.closed = tuple(n for n in range(3) if rng.random() < 0.5)
            case 6:
                found.broken = rng.choice(("full", "pipe"))
        return found

    def command(self, *arguments: object, faults: Faults | None = None) -> Ended:
        """Run one; what must hold for every command is looked at here."""
        faults = faults or Faults()
        given = tuple(map(str, arguments))
        self.history.append(f"nnc {' '.join(given)}  [{faults}]")
        out, err = self.folder / "out", self.folder / "err"
        for path in (out, err):
            path.write_text("")
        apart = vars(faults) == vars(Faults()) and self.rng.random() < 0.1
        if apart:
            ended = self._apart(given)
        else:
            child = _child(_command(given), self.place, faults, out, err)
            code, hung = _wait(child, faults)
            ended = Ended(code, out.read_text(), err.read_text(errors="replace"), hung)
        self.told[f"{given[0]} {ended.code}"] += 1
        self._judge(ended, faults)
        if ended.code == 2 and given not in WRONG_USE:
            raise Defect(f"right use is refused: {ended.err}")
        return ended

    def _apart(self, given: tuple[str, ...]) -> Ended:
        """In a process of its own, as users do."""
        path = os.pathsep.join(filter(None, sys.path))
        try:
            done = subprocess.run(
                [sys.executable, "-c", "from nnc.runtime.cli import main; main()", *given],
                cwd=self.place,
                env={**os.environ, "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=LIMIT,
            )
        except subprocess.TimeoutExpired:
            return Ended(-9, "", "", True)
        return Ended(done.returncode, done.stdout, done.stderr)

    def _judge(self, ended: Ended, faults: Faults) -> None:
        self.history.append(f"  → {ended.code}  {ended.err.strip()[:300]}")
        if ended.hung:
            raise Defect("it hangs")
        allowed = {0, 1, 2, -faults.signal if faults.signal else 0}
        if faults.signal:
            allowed.add(128 + faults.signal)
        if faults.moment:
            allowed.add(-signal.SIGKILL)
        if faults.broken == "pipe":
            allowed.add(128 + signal.SIGPIPE)
        if ended.code not in allowed:
            raise Defect(f"exit code {ended.code}: {ended.err}")
        if "Traceback" in ended.err + ended.out or list((self.folder / "tmp").glob("nnc-bug*")):
            raise Defect(f"a bug is reported: {ended.err}")
        if ended.code in (1, 2) and 2 not in faults.closed and not ended.err.strip():
            raise Defect("it fails without a word")
        self.check_theirs()

    # --- steps

    def train(self) -> None:
        run = Run(self.place / "runs" / f"r{len(self.runs)}")
        self._go_on(run, self.faults(heavy=True))
        if run.path.exists():
            self.runs.append(run)

    def resume(self) -> None:
        self._go_on(self.any_run(), self.faults(heavy=True))

    def _go_on(self, run: Run, faults: Faults) -> None:
        threads = self.rng.choice(("1", "1", "2", "17"))
        begun = run.path.exists()
        how = ["--resume", run.path] if begun else ["m.nn", "--out", run.path]
        ended = self.command("train", *how, "--threads", threads, faults=faults)
        if ended.code == 0:
            self._is_right(run)
        elif ended.code == 1 and vars(faults) == vars(Faults()) and run.damaged < 2:
            raise Defect(f"a run with {run.damaged} damaged files does not go on: {ended.err}")

    def _is_right(self, run: Run) -> None:
        if run.another:
            return
        found = outcome(run.path)
        for part, wanted in self.wanted.outcome.items():
            if part != "checkpoints" and found.get(part) != wanted:
                raise Defect(f"{part} of {run.path.name} differs from that of an undisturbed run")
        run.damaged, run.complete, run.texts = 0, True, set()

    def any_run(self) -> Run:
        if not self.runs:
            self.runs.append(Run(self.place / "runs" / "r0"))
        return self.rng.choice(self.runs)

    def evaluate(self) -> None:
        run = self.any_run()
        faults = self.faults(self.rng.random() < 0.4)
        ended = self.command("eval", run.path, faults=faults)
        if ended.code == 0 and ended.out and run.complete and ended.out != self.wanted.evaluation:
            raise Defect(f"evaluated: {ended.out}, right is {self.wanted.evaluation}")
        self._needs(run, ended, faults)

    def predict(self) -> None:
        run, out = self.any_run(), self.place / "p.npy"
        out.unlink(missing_ok=True)
        faults = self.faults(self.rng.random() < 0.4)
        ended = self.command(
            "predict", run.path, "--input", "some.npy", "--output", out, faults=faults
        )
        if out.exists() and run.complete and not _same(np.load(out), self.wanted.arrays["p"]):
            raise Defect("predictions are wrong")
        if ended.code == 0 and not out.exists():
            raise Defect("there are no predictions")
        self._needs(run, ended, faults)

    def _needs(self, run: Run, ended: Ended, faults: Faults) -> None:
        """A complete run that nobody damaged can be used."""
        undisturbed = vars(faults) == vars(Faults())
        if undisturbed and ended.code == 0:
            run.was_read()
        if undisturbed and ended.code == 1 and run.complete and not run.damaged:
            raise Defect(f"a sound run is refused: {ended.err}")

    def look(self) -> None:
        given = self.rng.choice(
            (("check", "m.nn"), ("fmt", "--check", "m.nn"), ("summary", "m.nn"), ("check",),
             ("compile", "m.nn", "--emit", self.rng.choice(("ast", "equations", "gradients"))),
             ("explain", "E0701"), ("bench", "m.nn", "--steps", "2"),
             ("verify", "m.nn", "--samples", "1"))
        )  # fmt: skip
        if given != ("check",):
            self.command(*given, faults=self.faults(self.rng.random() < 0.3))

    def wrong(self) -> None:
        """What cannot be done is refused, and changes nothing."""
        given = self.rng.choice(WRONG_USE)
        ended = self.command(*given)
        if ended.code == 0:
            raise Defect("that cannot be right")

    def two_processes(self) -> None:
        """At one run, at the same time."""
        run = Run(self.place / "runs" / f"r{len(self.runs)}")
        if self.runs and self.rng.random() < 0.7:
            run = self.any_run()
        begun = run.path.exists()
        how = ["--resume", str(run.path)] if begun else ["m.nn", "--out", str(run.path)]
        given = ("train", *how, "--threads", "1")
        self.history.append(f"twice at once: nnc {' '.join(given)}")
        faults = [Faults(), self.faults(heavy=True)]
        files = [(self.folder / f"out{n}", self.folder / f"err{n}") for n in range(2)]
        children = [
            _child(_command(given), self.place, fault, *own)
            for fault, own in zip(faults, files, strict=True)
        ]
        ended = []
        for child, fault, (out, err) in zip(children, faults, files, strict=True):
            code, hung = _wait(child, fault)
            text = out.read_text() if out.exists() else ""
            ended.append(Ended(code, text, err.read_text(errors="replace"), hung))
        for each, fault in zip(ended, faults, strict=True):
            self._judge(each, fault)
        self.told["two processes"] += 1
        if run.path.exists():
            if run not in self.runs:
                self.runs.append(run)
            if 0 in [each.code for each in ended]:
                self._is_right(run)

    def damage(self) -> None:
        run = self.any_run()
        files = [p for p in sorted(run.path.rglob("*")) if p.is_file() and p not in self.theirs]
        if not files:
            return
        path, kind = self.rng.choice(files), self.rng.choice(sorted(DAMAGE))
        DAMAGE[kind](path, self.rng)
        run.hit(path.name)
        self.history.append(f"damage: {path.relative_to(self.place)} {kind}")
        self.told["damage"] += 1

    def damage_cache(self) -> None:
        files = [p for p in sorted(self.cache.rglob("*")) if p.is_file() and p not in self.theirs]
        if files:
            path, kind = self.rng.choice(files), self.rng.choice(sorted(DAMAGE))
            # A library that this process has mapped must not change under it: as nnc itself does,
            # another file takes its place.
            other = path.with_name("damaged")
            shutil.copy2(path, other)
            DAMAGE[kind](other, self.rng)
            if other.exists():
                other.replace(path)
            else:
                path.unlink()
            self.history.append(f"damage: {path.name} in the cache {kind}")
            self.told["damage of the cache"] += 1

    def keep_something(self) -> None:
        """The user keeps a file where nnc keeps its own."""
        run = self.any_run()
        places = [p for p in (run.path, run.path / "checkpoints", self.place / "runs", self.cache)
                  if p.is_dir()]  # fmt: skip
        name = self.rng.choice(("ideas.txt", "mine.old", "a.part", "step-.bak"))
        path = self.rng.choice(places) / name
        if not path.exists():
            path.write_text(f"mine, {self.seed}")
            self.note(path)
            self.history.append(f"kept: {path}")

    # --- from Python

    def python(self) -> None:
        """A run is loaded, and called from several threads at once."""
        run, threads = self.any_run(), self.rng.choice((1, 1, 2))
        callers, turns = self.rng.choice((2, 4)), self.rng.choice((5, 20))
        wanted = self.wanted
        fork = self.rng.random() < 0.3
        self.history.append(f"load {run.path.name}: {callers} callers, threads={threads}, {fork=}")

        def call() -> None:
            _noise()
            model = nnc.load(run.path, threads=threads)
            told: list[str] = []

            questions, answers = _questions(wanted.arrays["x"]), wanted.arrays["answers"]

            def ask(number: int) -> None:
                for _ in range(turns):
                    found = model.predict(questions[number])
                    if run.complete and not _same(found, answers[number]):
                        told.append("predict")
                    if number % 2:
                        model.evaluate(wanted.arrays["x"], wanted.arrays["y"])

            together(*(lambda n=n: ask(n) for n in range(callers)))
            if fork:
                child = os.fork()
                if not child:
                    ask(0)
                    os._exit(WRONG if told else 0)
                if os.waitpid(child, 0)[1]:
                    told.append("predict in a child")
            if told:
                print(f"wrong: {told}", file=sys.stderr)
                sys.exit(WRONG)

        self._call(call, run)

    def fit(self) -> None:
        """A model is trained in some threads and asked in others."""
        threads, wanted = self.rng.choice((1, 1, 2)), self.wanted
        self.history.append(f"fit, threads={threads}")

        def call() -> None:
            _noise()
            x, y = wanted.arrays["x"], wanted.arrays["y"]
            told: list[str] = []
            shared = nnc.load("m.nn", threads=threads)
            shared.fit(x, y, epochs=1)
            begun = shared.predict(x)

            def own() -> None:
                model = nnc.load("m.nn", threads=threads)
                history = model.fit(x, y, epochs=2, seed=3)
                if [_plain(r) for r in history] != wanted.history:
                    told.append(f"history {history}")
                if not _same(model.predict(x[:11]), wanted.fitted):
                    told.append("predict after fit")

            def ask() -> None:
                for _ in range(10):
                    if not _same(shared.predict(x), begun):
                        told.append("predict meanwhile")
                    try:
                        shared.predict(x[:, :3])
                    except UserError:
                        continue
                    told.append("a wrong shape is taken")

            together(own, ask, own)
            if told:
                print(f"wrong: {told}", file=sys.stderr)
                sys.exit(WRONG)

        self._call(call, None)

    def _call(self, call: Callable[[], None], run: Run | None) -> None:
        out, err = self.folder / "out", self.folder / "err"
        code, hung = _wait(_child(call, self.place, Faults(), out, err), Faults())
        ended = Ended(code, out.read_text(), err.read_text(errors="replace"), hung)
        self.told[f"python {code}"] += 1
        self._judge(ended, Faults())
        if code == 0 and run is not None:
            run.was_read()
        if code == 1 and (run is None or (run.complete and not run.damaged)):
            raise Defect(f"refused: {ended.err}")

    # --- all of it

    STEPS: ClassVar[dict[Callable[[Sequence], None], int]] = {
        train: 4, resume: 4, evaluate: 2, predict: 2, look: 2, wrong: 1, two_processes: 1,
        damage: 3, damage_cache: 1, keep_something: 1, python: 3, fit: 1,
    }  # fmt: skip

    def defect(self) -> str:
        """What goes wrong in the sequence; empty if nothing."""
        try:
            self.train()
            for _ in range(self.rng.randint(2, 7)):
                (step,) = self.rng.choices([*self.STEPS], [*self.STEPS.values()])
                step(self)
            # At the end every run goes on to its end.
            for run in self.runs:
                self._go_on(run, Faults())
                left = [p for p in run.path.rglob("*.part") if p not in self.theirs]
                if run.complete and left:
                    raise Defect(f"unfinished files stay: {left}")
        except Defect as found:
            return "\n".join([*self.history, f"DEFECT: {found}"])
        return ""


def together(*calls: Callable[[], object]) -> None:
    """In threads that begin at the same moment."""
    barrier, told = threading.Barrier(len(calls)), []

    def begin(call: Callable[[], object]) -> None:
        barrier.wait()
        try:
            call()
        except BaseException as error:
            told.append(error)

    threads = [threading.Thread(target=begin, args=(call,)) for call in calls]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    if told:
        raise told[0]


def _noise() -> None:
    """Let threads change places around every run, which they rarely do by themselves in programs as
    small as these (noise injection; Edelstein et al., "Multithreaded Java program test generation",
    2002)."""
    sys.setswitchinterval(1e-6)
    run = CpuProgram.run

    def noisy(self: CpuProgram) -> None:
        time.sleep(0)
        run(self)
        time.sleep(0)

    CpuProgram.run = noisy  # type: ignore[method-assign]


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _looks(path: Path) -> tuple:
    try:
        found = path.lstat()
    except OSError:
        return ("gone",)
    kind = stat.S_IFMT(found.st_mode)
    if stat.S_ISLNK(found.st_mode):
        return (kind, os.readlink(path))
    if stat.S_ISREG(found.st_mode):
        return (found.st_mode, found.st_uid, path.read_bytes())
    return (found.st_mode, found.st_uid)


# --- faults in nnc itself, which must be found ----------------------------------------------------


def _plant(name: str) -> None:
    run = cli.run

    def untidy(arguments: Any) -> int:
        if os.path.exists("notes.txt"):
            Path("notes.txt").chmod(0o644)
        return run(arguments)

    match name:
        case "arena":  # all callers have one memory
            CpuProgram.twin = lambda self: self  # type: ignore[method-assign]
        case "bug":  # an exception that nobody expects
            cli.run = lambda arguments: 1 // 0  # type: ignore[assignment]
        case "untidy":  # a file of the user's gets another mode
            cli.run = untidy
        case "resume":  # a run goes on from its first weights
            Executor.restore = lambda self, values: None  # type: ignore[method-assign]
        case _:
            raise SystemExit(f"no fault `{name}`")


def _load_everything() -> None:
    """So that no child has to, and files of nnc that change meanwhile change nothing."""
    for each in pkgutil.walk_packages(nnc.__path__, "nnc."):
        if not each.name.startswith(("nnc.tests", "nnc.tools", "nnc.benchmarks", "nnc.__main__")):
            with contextlib.suppress(ImportError):  # of what is not installed
                importlib.import_module(each.name)


def fuzz(
    sequences: int, first: int, folder: Path, plant: str | None = None
) -> tuple[list[str], Counter[str]]:
    """The defects of that many sequences with seeds from `first` on, and what happened in them."""
    _load_everything()
    told: Counter[str] = Counter()
    cache = folder / "cache"
    os.environ["NNC_CACHE"] = str(cache)
    seeds = range(first, first + sequences)
    names = {seed: random.Random(f"{seed} program").choice(sorted(PROGRAMS)) for seed in seeds}
    rights = {name: right(name, folder / name) for name in sorted({*names.values()})}
    if plant:
        _plant(plant)
    found = []
    for seed, name in names.items():
        place = folder / f"s{seed}"
        sequence = Sequence(seed, rights[name], place, cache, told)
        os.environ["TMPDIR"] = tempfile.tempdir = str(place / "tmp")
        if wrong := sequence.defect():
            found.append(f"seed {seed}: {name}\n{wrong}")
            print(f"--- seed {seed}: {name}\n{wrong}", flush=True)
        else:
            shutil.rmtree(place)
        for path in [p for p in sequence.theirs if cache in p.parents]:
            path.unlink()
    return found, told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the first sequence")
    parser.add_argument("--log", type=Path, help="a line is appended")
    parser.add_argument("--plant", choices=("arena", "bug", "untidy", "resume"))
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="nnc-use-"))
    began = time.monotonic()
    found, told = fuzz(given.sequences, given.seed, folder, given.plant)
    for what, count in sorted(told.items()):
        print(f"{count:6}  {what}")
    last = given.seed + given.sequences - 1
    line = (
        f"seeds {given.seed} to {last}: {given.sequences} sequences, {sum(told.values())} steps, "
        f"{len(found)} wrong, {time.monotonic() - began:.0f} s"
    )
    print(line)
    if given.log:
        with given.log.open("a") as log:
            log.write(line + "\n")
    if not found:
        shutil.rmtree(folder)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
