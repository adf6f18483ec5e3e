"""Progress of training: a line per record on stdout, and a bar on a terminal's stderr.

Without a terminal there are only lines, without control characters: those of records, and others so
often that one who looks at the log sees that the run is alive.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import Protocol

from ..messages import JSON, form
from ..messages import notify as notify  # for those who tell of training
from ..streams import OutputError, discard_output
from .metrics import Record, format_number
from .progress_text import Plan, bar_texts, duration, record_line

REFRESH = 0.1  # seconds between two updates of the bar
LONGEST_WAIT = 30.0  # seconds between two lines without a bar
FIRST_WAIT, LONG = 0.2, 60.0  # before the first, in a run that will take that long

Clock = Callable[[], float]


class Listener(Protocol):
    """Receives the events of a run."""

    def step(self, epoch: int, step: int, losses: Sequence[float]) -> None: ...
    def measuring(self, split: str, done: int, examples: int) -> None: ...
    def record(self, record: Record) -> None: ...
    def close(self) -> None: ...


class Silent:
    """Prints nothing."""

    def step(self, epoch: int, step: int, losses: Sequence[float]) -> None:
        pass

    def measuring(self, split: str, done: int, examples: int) -> None:
        pass

    def record(self, record: Record) -> None:
        pass

    def close(self) -> None:
        pass


class Lines(Silent):
    """A line per record on stdout and, if `between`, one at least every half minute. `history` are
    records before the first; a `remark` on what came before is told with the next one."""

    def __init__(
        self,
        plan: Plan,
        history: Sequence[Record] = (),
        clock: Clock = time.monotonic,
        between: bool = True,
        remark: str = "",
    ):
        self._remark = remark
        self.plan, self.clock, self.between = plan, clock, between
        self._history = [_loss(record, plan) for record in history]
        self._due = clock() + LONGEST_WAIT
        self._said = False
        self._first: tuple[float, int] | None = None  # when, and after which step

    def step(self, epoch: int, step: int, losses: Sequence[float]) -> None:
        now = self.clock()
        if self._first is None:
            self._first = now, step
        if self.between and (now >= self._due or self._begins_long(step, now)):
            head = [] if self.plan.steps is not None else [self.plan.epoch(epoch)]
            texts = [*head, self.plan.step(step), *self._numbers(losses), *self._left(step, now)]
            self._say("  ".join(texts))

    def measuring(self, split: str, done: int, examples: int) -> None:
        if self.between and self.clock() >= self._due:
            self._say(f"{split} {done}/{examples}")

    def record(self, record: Record) -> None:
        columns = None
        if sys.stdout is not None and sys.stdout.isatty():
            columns = shutil.get_terminal_size().columns
        self._history.append(_loss(record, self.plan))
        history = self._history if _takes_blocks() else ()
        line = record_line(record, self.plan, columns, history)
        remarked = f"{line}  ({self._remark})"
        if self._remark and (columns is None or len(remarked) <= columns):
            line = remarked
        self._remark = ""
        self._say(line)

    def _say(self, line: str) -> None:
        self._said, self._due = True, self.clock() + LONGEST_WAIT
        say(line)

    def _begins_long(self, step: int, now: float) -> bool:
        """Whether nothing was said yet in a run that will take long: one sees that it works."""
        if self._said or self._first is None or now - self._first[0] < FIRST_WAIT:
            return False
        left = self._seconds_left(step, now)
        return left is not None and left >= LONG

    def _numbers(self, losses: Sequence[float]) -> list[str]:
        named = zip(self.plan.losses, losses, strict=False)
        return [f"{name} {format_number(loss)}" for name, loss in named]

    def _seconds_left(self, step: int, now: float) -> float | None:
        """The time that is left, if the steps so far tell."""
        if self._first is None or step <= self._first[1]:
            return None
        done, total = self.plan.progress(step)
        return (now - self._first[0]) / (step - self._first[1]) * (total - done)

    def _left(self, step: int, now: float) -> list[str]:
        left = self._seconds_left(step, now)
        return [] if left is None else [f"eta {duration(left)}"]


class Bar(Lines):
    """As `Lines`, with a bar on stderr that disappears before a line."""

    def __init__(
        self,
        plan: Plan,
        history: Sequence[Record] = (),
        clock: Clock = time.monotonic,
        between: bool = False,
        remark: str = "",
    ):
        super().__init__(plan, history, clock, between, remark)
        self._next = 0.0
        self._shown: _Shown | None = None

    def step(self, epoch: int, step: int, losses: Sequence[float]) -> None:
        super().step(epoch, step, losses)
        # drawing costs as much as many small steps: at most ten times a second
        if (now := self.clock()) >= self._next:
            done, total = self.plan.progress(step)
            after = [f"{done}/{total}", *self._left(step, now)]
            self._show([self.plan.epoch(epoch), *self._numbers(losses)], done, total, after)

    def measuring(self, split: str, done: int, examples: int) -> None:
        super().measuring(split, done, examples)
        if self.clock() >= self._next:
            self._show([split], done, examples, [f"{done}/{examples}"])

    def _show(self, before: Sequence[str], done: int, total: int, after: Sequence[str]) -> None:
        if self._shown is None:
            self._shown = _Shown()
        self._shown.show(before, done, total, after)
        self._next = self.clock() + REFRESH

    # the bar goes before a line is made: it has replaced the streams, and the two would mix
    def record(self, record: Record) -> None:
        self.close()
        if self._remark:
            notify(self._remark)
            self._remark = ""
        super().record(record)

    def _say(self, line: str) -> None:
        self.close()
        super()._say(line)

    def close(self) -> None:
        if self._shown is not None:
            self._shown.close()
            self._shown = None


class _Shown:
    """A bar on the terminal, in one row. Rich is slow to import, so it is imported only here."""

    def __init__(self) -> None:
        console, progress, table = map(
            importlib.import_module, ("rich.console", "rich.progress", "rich.table")
        )
        text = {"markup": False, "table_column": table.Column(no_wrap=True)}
        self._bar = progress.BarColumn()
        self._progress = progress.Progress(
            progress.TextColumn("{task.description}", **text),
            self._bar,
            progress.TextColumn("{task.fields[after]}", **text),
            console=console.Console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task("", total=None, after="")

    def show(
        self, before: Sequence[str], done: int, total: int | None, after: Sequence[str]
    ) -> None:
        """What stands before and after the bar; it has no end where `total` is None."""
        # Each time, as the terminal may change; some break a row that is full.
        texts = bar_texts(self._progress.console.width - 1, before, after)
        self._bar.bar_width = texts.width
        self._progress.update(
            self._task, description=texts.before, completed=done, total=total, after=texts.after
        )
        self._progress.start()  # at first; then it does nothing

    def close(self) -> None:
        self._progress.stop()


class Stages:
    """What a run does before its first step, one stage after the other: a bar without an end on a
    terminal; elsewhere a remark on what takes long."""

    def __init__(self, clock: Clock = time.monotonic, first: float = 5.0):
        """The `first` remark comes after so many seconds."""
        self.clock, self.first = clock, first
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, text: str) -> Iterator[None]:
        """Do something as the stage `text`, which may come several times."""
        began = self.clock()
        try:
            with _pulsing(text) if has_bar() else self._told(text):
                yield
        finally:
            self.seconds[text] = self.seconds.get(text, 0.0) + self.clock() - began

    @contextmanager
    def _told(self, text: str) -> Iterator[None]:
        ended = Event()

        def tell() -> None:
            wait, passed = self.first, 0.0
            while not ended.wait(wait):
                wait, passed = LONGEST_WAIT, passed + wait
                notify(f"{text}, for {passed:.0f} s so far")

        thread = Thread(target=tell, daemon=True)
        # Without memory for one more thread nothing is told.
        with suppress(RuntimeError):
            thread.start()
        try:
            yield
        finally:
            ended.set()

    def took(self, text: str) -> str:
        """How long a stage has taken: `1.2 s`."""
        return f"{self.seconds[text]:.1f} s"


@contextmanager
def _pulsing(text: str) -> Iterator[None]:
    shown = _Shown()
    shown.show([text], 0, None, [])
    try:
        yield
    finally:
        shown.close()


def say(line: str) -> None:
    """Print a line on stdout at once. OutputError if it cannot be written."""
    try:
        print(line, flush=True)
    except OutputError as error:
        # Who starts training without standard output wants the run and no lines.
        if not error.closed:
            raise
        discard_output()


def make_listener(plan: Plan, history: Sequence[Record] = (), remark: str = "") -> Listener:
    """A bar on a terminal, else lines."""
    if not has_bar():
        return Lines(plan, history, remark=remark)
    # where the lines go elsewhere, nobody sees the bar there
    between = sys.stdout is not None and not sys.stdout.isatty()
    return Bar(plan, history, between=between, remark=remark)


def has_bar() -> bool:
    """Whether stderr is a terminal that can redraw a row, and no program reads it."""
    able = os.environ.get("TERM", "") not in ("dumb", "unknown") and form() != JSON
    return able and sys.stderr is not None and sys.stderr.isatty()


def _takes_blocks() -> bool:
    """Whether stdout is a terminal that shows a sparkline."""
    if sys.stdout is None or not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        return False
    return (getattr(sys.stdout, "encoding", "") or "").lower().replace("-", "") == "utf8"


def _loss(record: Record, plan: Plan) -> float:
    return record.values.get(plan.losses[0], float("nan"))
