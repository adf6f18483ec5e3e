"""Progress of training: a line per record on stdout, and a progress bar on a terminal's stderr.

Without a terminal there are only the lines, without control characters.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..messages import notify as notify  # for those who tell of training
from ..streams import OutputError, discard_output
from .metrics import Record, format_number

REFRESH = 0.1  # seconds between two updates of the bar


class Listener(Protocol):
    """Receives the events of a run."""

    def step(self, epoch: int, step: int, losses: Sequence[float]) -> None: ...
    def record(self, record: Record) -> None: ...
    def close(self) -> None: ...


class Silent:
    """Prints nothing."""

    def step(self, epoch: int, step: int, losses: Sequence[float]) -> None:
        pass

    def record(self, record: Record) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Plan:
    """How long a run may be; None where nothing says so."""

    epochs: int | None
    steps: int | None
    steps_per_epoch: int

    @property
    def total(self) -> int | None:
        """Steps in all."""
        by_epochs = None if self.epochs is None else self.epochs * self.steps_per_epoch
        return min((n for n in (self.steps, by_epochs) if n is not None), default=None)

    def progress(self, step: int) -> tuple[int, int]:
        """The steps done and those in all: of the run, or of the epoch if nothing ends the run."""
        if self.total is not None:
            return step, self.total
        return (step - 1) % self.steps_per_epoch + 1, self.steps_per_epoch


class Lines(Silent):
    """A line per record on stdout."""

    def __init__(self, plan: Plan):
        self.plan = plan

    def record(self, record: Record) -> None:
        try:
            print(record.line(self.plan.epochs), flush=True)
        except OutputError as error:
            # Who starts training without standard output wants the run and no lines.
            if not error.closed:
                raise
            discard_output()


class Bar(Lines):
    """As `Lines`, with a bar on stderr that disappears at the end of the epoch."""

    def __init__(self, plan: Plan, losses: Sequence[str]):
        super().__init__(plan)
        self._losses = losses
        self._next = 0.0
        self._shown: Any = None

    def step(self, epoch: int, step: int, losses: Sequence[float]) -> None:
        now = time.monotonic()
        # drawing costs as much as many small steps: at most ten times a second
        if now < self._next:
            return
        self._next = now + REFRESH
        if self._shown is None:
            self._shown = _rich_progress()
            self._task = self._shown.add_task("", total=None)
        named = zip(self._losses, losses, strict=True)
        numbers = [f"{name} {format_number(loss)}" for name, loss in named]
        text = "  ".join([f"epoch {epoch}", *numbers])
        done, total = self.plan.progress(step)
        self._shown.update(self._task, description=text, completed=done, total=total)

    # the bar goes before the line is printed, or the two would mix on the terminal
    def record(self, record: Record) -> None:
        self.close()
        super().record(record)

    def close(self) -> None:
        if self._shown is not None:
            self._shown.stop()
            self._shown = None


def _rich_progress() -> Any:
    """Rich is slow to import, so it is imported only where there is a terminal."""
    console, progress = map(importlib.import_module, ("rich.console", "rich.progress"))
    bar = progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
        console=console.Console(stderr=True),
        transient=True,
    )
    bar.start()
    return bar


def make_listener(plan: Plan, losses: Sequence[str]) -> Listener:
    """A bar on a terminal, which shows the losses by these names, else lines."""
    return Bar(plan, losses) if sys.stderr.isatty() else Lines(plan)
