"""Systems take turns at one workload, so that what disturbs the machine disturbs all of them.

In: a workload, systems, threads. Out: an `Outcome` of each system. Every system has a process of
its own, which stays; only one of them computes at a time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from select import select
from statistics import median

from foreign import QUIET, Watch, await_quiet
from workloads import Workload

FOLDER = Path(__file__).parent
LIMIT = 240.0  # seconds that a system may take for its first step
CHECKED = 3  # steps whose losses must agree
WAIT = 2.0  # seconds before a turn for others to become quiet
PATIENCE = 3  # times as many rounds as asked for, if others disturb them


@dataclass(frozen=True)
class Turn:
    """Milliseconds of the median and the fastest step, and how many cores others took meanwhile."""

    median: float
    least: float
    foreign: float


@dataclass
class Outcome:
    """What was measured of one system."""

    system: str
    turns: list[Turn] = field(default_factory=list)
    first_step_s: float = 0.0
    cold_s: float = 0.0
    peak_mb: float = 0.0
    losses: list[float] = field(default_factory=list)
    gflop: float = 0.0
    gbyte: float = 0.0
    arena: int = 0
    failure: str = ""

    @property
    def quiet(self) -> list[Turn]:
        """The turns that nobody disturbed."""
        return [t for t in self.turns if t.foreign < QUIET]

    @property
    def best(self) -> list[Turn]:
        """The turns that count: the quiet ones, or all if these are too few."""
        return self.quiet if len(self.quiet) >= 3 else self.turns

    @property
    def median(self) -> float:
        return median(t.median for t in self.best) if self.turns else float("nan")

    @property
    def least(self) -> float:
        return min((t.least for t in self.turns), default=float("nan"))


class Worker:
    """A process with one system in it. Raises `Failed` if it ends or takes too long."""

    def __init__(self, system: str, workload: Workload, threads: int, data: Path, log: Path):
        task = {
            "system": system,
            "workload": workload.plain(),
            "threads": threads,
            "data": str(data),
            "started": time.time(),
        }
        self.log = log
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, str(FOLDER / "worker.py"), json.dumps(task)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment(threads, data.parent),
            )
        self.ready = self.read(LIMIT)

    def read(self, limit: float) -> dict:
        if not select([self.process.stdout], [], [], limit)[0]:
            self.process.kill()
            raise Failed(f"no answer in {limit:.0f} s")
        line = self.process.stdout.readline()
        if not line:
            lines = self.log.read_text().strip().splitlines()
            raise Failed(lines[-1][:200] if lines else "it ended without a word")
        return json.loads(line)

    def ask(self, **command: object) -> dict:
        try:
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Failed("it ended between turns") from None
        return self.read(LIMIT)

    def end(self) -> None:
        self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


class Failed(Exception):
    """A system could not take part; the text says why."""


def environment(threads: int, folder: Path) -> dict[str, str]:
    """Equal threads for all, and caches of their own, so that a first start is a first start.
    Bytecode is kept, as for every installed package: the peers' came with their installation."""
    count = str(threads)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    own = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {
        **own,
        **dict.fromkeys(names, count),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "JAX_PLATFORMS": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "XDG_CACHE_HOME": str(folder / "cache"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "torch"),
    }


def contest(
    workload: Workload,
    systems: list[str],
    threads: int,
    rounds: int,
    steps: int | None,
    seconds: float,
) -> list[Outcome]:
    """Measure all systems; nnc comes first, because it draws the weights."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        outcomes = [Outcome(s) for s in systems]
        workers = started(outcomes, workload, threads, folder)
        if workload.dropout:
            compare_without_dropout(outcomes, workload, threads, folder)
        try:
            for _ in range(PATIENCE * rounds):
                turn(workers, steps, seconds)
                if all(len(o.quiet) >= rounds or o.failure for o in outcomes):
                    break
            for outcome, worker in workers:
                outcome.peak_mb = worker.ask(do="end")["peak_mb"]
        finally:
            for _, worker in workers:
                worker.end()
    agree(outcomes)
    return outcomes


def started(
    outcomes: list[Outcome], workload: Workload, threads: int, folder: Path
) -> list[tuple[Outcome, Worker]]:
    """Workers that have done a first step; nnc is started twice, with an empty cache and with what
    that left in it."""
    data, workers = folder / "data.npz", []
    for number, outcome in enumerate(outcomes):
        try:
            log = folder / f"log{number}"
            worker = Worker(outcome.system, workload, threads, data, log)
            outcome.cold_s = worker.ready["first_step_s"]
            if outcome.system == "nnc":
                worker.ask(do="export", path=str(data))
                worker.end()
                worker = Worker(outcome.system, workload, threads, data, log)
            outcome.first_step_s = worker.ready["first_step_s"]
            outcome.gflop = worker.ready.get("gflop", 0.0)
            outcome.gbyte = worker.ready.get("gbyte", 0.0)
            outcome.arena = worker.ready.get("arena", 0)
            outcome.losses = worker.ask(do="losses", steps=CHECKED)["losses"]
            workers.append((outcome, worker))
        except Failed as failure:
            outcome.failure = str(failure)
            if outcome.system == "nnc":
                break  # the others have nothing to begin with
    return workers


def compare_without_dropout(
    outcomes: list[Outcome], workload: Workload, threads: int, folder: Path
) -> None:
    """The losses that are compared are those without chance: every system draws its own numbers."""
    apart = folder / "without"
    apart.mkdir()
    calm = [Outcome(o.system) for o in outcomes if not o.failure]
    for _, worker in started(calm, workload.without_dropout(), threads, apart):
        worker.end()
    found = {o.system: o for o in calm}
    for outcome in outcomes:
        if outcome.system in found:
            outcome.losses = found[outcome.system].losses
            outcome.failure = found[outcome.system].failure


def turn(workers: list[tuple[Outcome, Worker]], steps: int | None, seconds: float) -> None:
    """One round: each system runs for a while."""
    for outcome, worker in workers:
        if outcome.failure:
            continue
        await_quiet(worker.process.pid, WAIT)  # and for the threads of the one before to sleep
        watch = Watch(worker.process.pid)
        try:
            times = worker.ask(do="run", steps=steps, seconds=seconds)["times"]
        except Failed as failure:
            outcome.failure = str(failure)
            continue
        outcome.turns.append(Turn(median(times), min(times), watch.foreign()))


def agree(outcomes: list[Outcome]) -> None:
    """A system whose losses are not nnc's computes something else, and is left out."""
    own = next((o.losses for o in outcomes if o.system == "nnc"), [])
    for outcome in outcomes:
        if outcome.failure or not own:
            continue
        # the first by the same weights, the others after the gradients and Adam have had a say
        for step, (a, b) in enumerate(zip(own, outcome.losses, strict=True)):
            tolerance = (1e-4 if step == 0 else 1e-3) * max(abs(a), 1e-2)
            if not abs(a - b) <= tolerance:
                outcome.failure = f"loss {b:.6f} in step {step + 1}, nnc's is {a:.6f}"
                break
