"""What a model is made of: its layers with their shapes, parameters and work.

In: a `Project`, a `Setup` if it is trained, and a device. Out: a `Summary` and its text. The memory
is exact: it is what the plans for the device say, before anything runs. It need not be there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from textwrap import wrap

from ...compiler.elaboration.players import group_of, groups, is_frozen, steps_of, trains
from ...compiler.elaboration.selection import WHOLE
from ...compiler.elaboration.train_block import Setup
from ...compiler.ir.aggregate_programs import hand_over
from ...compiler.ir.dynamic_sizes import NotDynamic
from ...compiler.ir.equation import System
from ...compiler.pipeline import compile, derive, plan
from ...compiler.programs import any_sizes, evaluation, measured, prediction, training_step
from ...compiler.targets import GpuTarget
from ...dsl.check.turns import turns
from ...dsl.syntax import ast as s
from ..device.cpu import host
from ..project import Project, privacy_text
from .bench import peak_bytes
from .fitted_table import Fitting, laid_out
from .layer_work import LayerRow, layer_rows
from .structure import all_sizes, structure

UNLIMITED = 10_000  # columns: more than any table has


@dataclass(frozen=True)
class Summary:
    """All layers, and the bytes that one batch needs. `training_bytes` is None if untrained;
    `process_bytes` are those of the process that found this out, with all that it has loaded."""

    model: str
    batch: int
    rows: tuple[LayerRow, ...]
    inference_bytes: int
    training_bytes: int | None
    groups: tuple[tuple[str, int], ...] = ()  # entries of the train block, and their parameters
    lengths: str = ""  # how sizes with a maximum are predicted
    process_bytes: int | None = None
    privacy: str = ""  # what private training will spend

    def text(self, width: int | None = None) -> str:
        """A table, then totals. Where it is wider than `width`, large numbers are written as 1.23M,
        shapes are left out, and names shortened."""
        table = self._table(lambda n: f"{n:,}")
        if width is not None and max(map(len, table)) > width:
            table = self._table(short_number, width)
        # Of the numbers that are added up.
        table.insert(-1, "-" * max(map(len, table)))
        table.append("")
        wide = max((len(entry) for entry, _ in self.groups), default=0)
        table += [f"{entry.ljust(wide)}  {count:,} parameters" for entry, count in self.groups]
        table += [""] * bool(self.groups)
        memory = {
            "training memory": self.training_bytes,
            "inference memory": self.inference_bytes,
            "process itself": self.process_bytes,
        }
        for name, count in memory.items():
            if count is not None:
                line = f"{name:<16}  {size(count)}"
                # Exactly, where there is room.
                fits = width is None or len(line) <= width
                table.append(line if fits else line.partition(" (")[0])
        lines = [f"{self.model}, batch {self.batch}", "", *table]
        for text in filter(None, (self.lengths, self.privacy)):
            lines += ["", *(wrap(text, width) if width else [text])]
        return "\n".join(lines) + "\n"

    def _table(self, number: Callable[[int], str], width: int = UNLIMITED) -> list[str]:
        trained = any(row.backward is not None for row in self.rows)
        columns = [
            Fitting("layer", right=False),
            Fitting("output", right=False, needed=False),
            Fitting("parameters"),
            Fitting("forward" if trained else "operations"),
            *([Fitting("backward")] if trained else []),
        ]
        cells = []
        for top in self.rows:
            around = [""]
            for depth, row in top.walk():
                # Within a layer, without the names of those around it.
                name = row.name.removeprefix(around[depth])
                around[depth + 1 :] = [f"{row.name}_"]
                cells.append(["  " * depth + name, str(list(row.shape)), *_numbers(row, number)])
        total = LayerRow(
            "total",
            (),
            sum(r.parameters for r in self.rows),
            sum(r.flops for r in self.rows),
            sum(r.backward or 0 for r in self.rows) if trained else None,
        )
        cells.append(["total", "", *_numbers(total, number)])
        return laid_out(columns, cells, width)


def _numbers(row: LayerRow, number: Callable[[int], str]) -> list[str]:
    counts = (row.parameters, row.flops, row.backward)
    return [number(count) for count in counts if count is not None]


def short_number(count: int) -> str:
    """Three digits and a letter: `66.0k`, `1.23M`."""
    if count < 1000:
        return str(count)
    value, units = float(count), "kMGTPE"
    for unit in units:
        value /= 1000
        if value < 999.5 or unit == units[-1]:
            digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
            return f"{value:.{digits}f}{unit}"
    raise AssertionError


def size(count: int) -> str:
    """Bytes as people say them, and exactly."""
    return f"{count / 2**20:.1f} MiB ({count:,} bytes)"


def summarize(project: Project, setup: Setup | None, device: str = "cpu") -> Summary:
    """UserError if the program is wrong or a size is not known."""
    # what the plan for this device takes in memory: CPU and GPU plan differently
    needed = MEMORY_BYTES[device]
    if setup is None:
        found, step = structure(project), None
        inference, training, lengths = needed(found.system), None, ""
    else:
        found = structure(project, setup)
        inference, lengths = _predicted(project, setup, needed)
        # as a run has it compiled: with the parts of its loss and metrics among the outputs
        handed, losses = measured(setup, True), len(setup.train.losses)
        # each kind of step is a program of its own
        training = sum(
            needed(hand_over(training_step(one)[0], handed, losses).system)
            for one in steps_of(setup)
        )
        evaluation(setup)  # so that mistakes only evaluation has are found here too
        step = training_step(setup)[0]
    rows = layer_rows(found, step, derive(step) if step is not None else None)
    parts = () if setup is None else _groups(setup.train, found.system)
    batch = project.settings.batch
    taken, spent = peak_bytes(), "" if setup is None else privacy_text(project, setup)
    return Summary(project.name, batch, rows, inference, training, parts, lengths, taken, spent)


def _predicted(project: Project, setup: Setup, needed: Callable[[System], int]) -> tuple[int, str]:
    """The memory of a prediction, and how many programs there are for sizes with a maximum."""
    if not setup.limits:
        return needed(prediction(setup)), ""
    sizes = all_sizes(project, setup)
    each = ", ".join(f"{symbol} <= {most}" for symbol, most in setup.limits.items())
    trained = ", ".join(f"{symbol} = {sizes[symbol]}" for symbol in setup.limits)
    try:
        system = any_sizes(setup, WHOLE).system
    except NotDynamic as reason:
        why = f": {reason}" if reason.name else ""
        return (
            needed(prediction(setup)),
            f"{each}: trained with {trained}; predictions are compiled for each size{why}",
        )
    return needed(system), f"{each}: trained with {trained}; one program predicts any size"


def _groups(train: s.Train, system: System) -> tuple[tuple[str, int], ...]:
    """How many parameters each entry of the train block is for, if there are several; before them
    those that each of several losses trains."""
    counts: dict[str, int] = {}
    named = [loss for loss in train.losses if isinstance(loss, s.Loss)]
    cycle = turns(train)
    for loss in named:
        own = [t for t in system.of_kind("param") if trains(loss, t.name)]
        entry = f"loss {loss.name.id}"
        if cycle:
            entry += f" in {sum(loss.name.id in turn for turn in cycle)} of {len(cycle)} steps"
        counts[entry] = sum(t.size for t in own if not is_frozen(train, t.name))
    for tensor in system.of_kind("param"):
        group = group_of(train, tensor.name)
        entry = "optimizer"
        if group is not None:
            names = ", ".join(pattern.text for pattern in group.patterns)
            entry = f"freeze {names}" if group.value is None else f"optimizer {names}"
        counts[entry] = counts.get(entry, 0) + tensor.size
    return tuple(counts.items()) if named or groups(train) else ()


def _on_cpu(system: System) -> int:
    return plan(system, host.target()).arena_bytes


def _on_gpu(system: System) -> int:
    """For an H100: how sums are divided, and so what their parts take, depends on the GPU."""
    return compile(system, GpuTarget()).arena_bytes


MEMORY_BYTES = {"cpu": _on_cpu, "cuda": _on_gpu}  # bytes, by device
