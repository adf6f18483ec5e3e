"""How much a step slows down beside another program that keeps one core busy.

In: workloads. Out: a table. Turns with and without the other program alternate; of each turn the
median step counts, so that what a short turn needs to notice the other is in the figure.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, median

from contest import Worker
from table import markdown, number
from workloads import Workload

SPIN = "while True: pass"


def beside(workloads: list[Workload], threads: int, rounds: int, seconds: float) -> str:
    """Milliseconds of nnc's step alone and beside the other program, and their ratios."""
    rows = []
    for workload in workloads:
        alone, busy, means = [], [], []
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            worker = Worker("nnc", workload, threads, folder / "data.npz", folder / "log")
            try:
                for _ in range(rounds):
                    quiet = worker.ask(do="run", steps=None, seconds=seconds)["times"]
                    with spinning(threads):
                        loud = worker.ask(do="run", steps=None, seconds=seconds)["times"]
                    alone.append(median(quiet))
                    busy.append(median(loud))
                    means.append(mean(loud) / mean(quiet))
            finally:
                worker.end()
        ratio = median(b / a for a, b in zip(alone, busy, strict=True))
        rows.append(
            [
                workload.name,
                number(median(alone)),
                number(median(busy)),
                f"{ratio:.2f}",
                f"{median(means):.2f}",
            ]
        )
    head = ("workload", "alone ms", "beside a busy process", "ratio", "ratio of means")
    return markdown(head, rows)


@contextmanager
def spinning(threads: int) -> Iterator[None]:
    """A program that does nothing, as fast as it can, on the last of the cores that are used."""

    def confine() -> None:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[:threads][-1]})

    with subprocess.Popen([sys.executable, "-c", SPIN], preexec_fn=confine) as process:
        try:
            yield
        finally:
            process.kill()
