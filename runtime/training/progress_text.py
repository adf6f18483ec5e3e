"""What the progress of a run looks like, as lines of a given width.

In: records, the plan of the run, the columns of the terminal. Out: the line of a record, and the
parts of the bar. Nothing here writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite, isnan

from ...dsl.check.train_block import SPLITS
from ...dsl.records import record
from .metrics import EPOCH, Record, format_number


@record
class Plan:
    """How long a run may be: None where nothing says so. `losses` are their names, `monitor` is
    that of the value by which epochs are compared. `most` steps are as many as privacy allows."""

    epochs: int | None
    steps: int | None
    steps_per_epoch: int
    losses: tuple[str, ...] = ("loss",)
    monitor: str = "loss"
    most: int | None = None

    @property
    def total(self) -> int | None:
        """Steps in all."""
        by_epochs = None if self.epochs is None else self.epochs * self.steps_per_epoch
        known = (self.steps, by_epochs, self.most)
        return min((n for n in known if n is not None), default=None)

    def progress(self, step: int) -> tuple[int, int]:
        """The steps done and those in all: of the run, or of the epoch if nothing ends the run."""
        if self.total is not None:
            return step, self.total
        return (step - 1) % self.steps_per_epoch + 1, self.steps_per_epoch

    def epoch(self, number: int) -> str:
        """`epoch  3/20`."""
        of = f"/{self.epochs}" if self.epochs else ""
        return f"epoch {number:>{len(str(self.epochs or 0))}}{of}"

    def step(self, number: int) -> str:
        """`step  300/5000`, of the run."""
        of = f"/{self.total}" if self.total else ""
        return f"step {number:>{len(str(self.total or 0))}}{of}"


def duration(seconds: float) -> str:
    """`0:07`, `12:34`, `1:02:03`, `2 d 03:04`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours:02}:{minutes:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


# --- the line of a record -------------------------------------------------------------------------

_BLOCKS = "▁▂▃▄▅▆▇█"
_SPARKS = (4, 8)  # characters of a sparkline: at least, at most
_SHORT = {"validation": "val"}  # where there is little room
_BRIEF = 3  # of the forms of a line: the last ones, without much of what was measured


def record_line(
    record: Record,
    plan: Plan,
    columns: int | None = None,
    history: Sequence[float] = (),
) -> str:
    """The line of a record: all that was measured, by name. In so many `columns` it is one row,
    with a sparkline of the last of a `history` of its first value where there is room, and with
    shorter names or fewer values where there is not. A metric of training that is no number is
    left out: a program says so of what it measures in evaluation alone."""
    head = plan.epoch(record.epoch)
    measured = {n: v for n, v in record.values.items() if not isnan(v) or _is_told(n, plan)}
    if record.kind != EPOCH or plan.steps is not None:
        # a run by steps goes by steps
        head = plan.step(record.step) if plan.steps is not None else f"{head}  step {record.step}"
    time = f"{record.seconds:.1f} s"
    if columns is None:
        return "  ".join([head, *_named(measured), time])
    least, most = _SPARKS
    forms = [*_forms(measured, plan)]
    for values in forms[:-_BRIEF] if history else ():
        room = min(most, columns - len("  ".join([head, *values, time])) - 1)
        if values and room >= least:
            values[0] += f" {sparkline(history[-room:])}"
            return "  ".join([head, *values, time])
    for values in forms:
        for parts in ([head, *values, time], [head, *values]):
            if len(line := "  ".join(parts)) <= columns:
                return line
    return head[:columns]


def _is_told(name: str, plan: Plan) -> bool:
    return name in plan.losses or name.startswith(tuple(f"{split}_" for split in SPLITS))


def _forms(values: Mapping[str, float], plan: Plan) -> Iterator[list[str]]:
    """The values as texts, ever fewer and shorter."""
    yield _named(values)
    train = {n: v for n, v in values.items() if not n.startswith(tuple(f"{s}_" for s in SPLITS))}
    losses = {n: v for n, v in train.items() if n in plan.losses}
    for measured in (train, losses):
        for names in ({}, _SHORT):
            yield [*_named(measured), *_grouped(values, names)]
    watched = {plan.monitor: values[plan.monitor]} if plan.monitor in values else {}
    shown = [*_grouped(watched, _SHORT)] or _named(watched)
    loss = [text for text in _named(losses)[:1] if text not in shown]
    yield [*loss, *shown]
    yield shown or loss
    yield []


def _named(values: Mapping[str, float]) -> list[str]:
    return [f"{name} {format_number(value)}" for name, value in values.items()]


def _grouped(values: Mapping[str, float], names: Mapping[str, str]) -> Iterator[str]:
    """What was measured on each set that was held out, in order: `validation 0.3124 0.9102`."""
    for split in SPLITS:
        found = [v for name, v in values.items() if name.startswith(f"{split}_")]
        if found:
            yield " ".join([names.get(split, split), *map(format_number, found)])


def sparkline(values: Sequence[float]) -> str:
    """A character for each value, from the least of them to the largest; a space for one that is
    not finite."""
    finite = [v for v in values if isfinite(v)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((v - low) * scale)] if isfinite(v) else " " for v in values)


# --- the bar --------------------------------------------------------------------------------------

_BAR = (8, 40)  # columns of a bar: with less, there is less beside it; at most


@record
class BarTexts:
    """What stands before, in and after a bar of so many columns; 0: there is no room for one."""

    before: str
    width: int
    after: str


def bar_texts(columns: int, before: Sequence[str], after: Sequence[str]) -> BarTexts:
    """As much of the texts before a bar as leave room for it in one row, the first ones first; of
    the texts after it, the last ones go first."""
    least, most = _BAR
    for kept in range(len(after), -1, -1):
        end = "  ".join(after[:kept])
        for number in range(len(before), 0, -1):
            begin = "  ".join(before[:number])
            room = columns - len(begin) - len(end) - 2
            if room >= least:
                return BarTexts(begin, min(room, most), end)
    return BarTexts("  ".join([*before[:1], *after[:1]])[:columns], 0, "")
