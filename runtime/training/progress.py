"""What a person sees while training: a line per epoch on stdout, and a bar on a terminal.

In: steps and epochs as they happen. Out: text. Off a terminal there are only the lines, without
control characters; everything but the lines goes to stderr.
"""

from __future__ import annotations

import importlib
import sys
import time
from typing import Any, Protocol

from .metrics import Record, format_number

REFRESH = 0.1  # seconds between two pictures of the bar


class Listener(Protocol):
    """Is told what happens in a run."""

    def step(self, epoch: int, done: int, batches: int, loss: float) -> None: ...
    def epoch(self, record: Record) -> None: ...
    def close(self) -> None: ...


class Silent:
    """Says nothing."""

    def step(self, epoch: int, done: int, batches: int, loss: float) -> None:
        pass

    def epoch(self, record: Record) -> None:
        pass

    def close(self) -> None:
        pass


class Lines(Silent):
    """A line per epoch on stdout."""

    def __init__(self, epochs: int | None):
        self.epochs = epochs

    def epoch(self, record: Record) -> None:
        print(record.line(self.epochs), flush=True)


class Bar(Lines):
    """The same, with a bar on stderr that is gone once the epoch is over."""

    def __init__(self, epochs: int | None):
        super().__init__(epochs)
        self._next = 0.0
        self._shown: Any = None

    def step(self, epoch: int, done: int, batches: int, loss: float) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + REFRESH
        if self._shown is None:
            self._shown = _rich_progress()
            self._task = self._shown.add_task("", total=batches)
        text = f"epoch {epoch}  loss {format_number(loss)}"
        self._shown.update(self._task, description=text, completed=done, total=batches)

    def epoch(self, record: Record) -> None:
        self.close()
        super().epoch(record)

    def close(self) -> None:
        if self._shown is not None:
            self._shown.stop()
            self._shown = None


def _rich_progress() -> Any:
    """Rich takes a while to import: only where there is a terminal to show it on."""
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


def make_listener(epochs: int | None) -> Listener:
    """The one that fits where the output goes."""
    return Bar(epochs) if sys.stderr.isatty() else Lines(epochs)


def notify(text: str) -> None:
    """A remark to the person, on stderr."""
    print(text, file=sys.stderr, flush=True)
