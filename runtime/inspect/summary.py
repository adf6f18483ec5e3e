"""What a model is made of: its layers with their shapes, parameters and work.

In: a `Project`, a `Setup` if it is trained, and a device. Out: a `Summary` and its text. The memory
is exact: it is what the plans for the device say, before anything runs. It need not be there.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass

from ...compiler.elaboration.players import group_of, groups, is_frozen, steps_of, trains
from ...compiler.elaboration.selection import WHOLE
from ...compiler.elaboration.train_block import Setup
from ...compiler.ir.aggregate_programs import hand_over
from ...compiler.ir.dynamic_sizes import NotDynamic
from ...compiler.ir.equation import System
from ...compiler.ir.work import flops
from ...compiler.pipeline import compile, plan
from ...compiler.programs import any_sizes, evaluation, measured, prediction, training_step
from ...compiler.targets import GpuTarget
from ...dsl.check.turns import turns
from ...dsl.syntax import ast as s
from ..device.cpu import host
from ..project import Project
from .structure import Structure, all_sizes, structure


@dataclass(frozen=True)
class LayerRow:
    """One layer instance: the shape of its result, its parameters (numbers learnt), and the
    operations of its sums of products for one batch."""

    name: str
    shape: tuple[int, ...]
    parameters: int = 0
    flops: int = 0


@dataclass(frozen=True)
class Summary:
    """All layers, and the bytes that one batch needs. `training_bytes` is None if untrained."""

    model: str
    batch: int
    rows: tuple[LayerRow, ...]
    inference_bytes: int
    training_bytes: int | None
    groups: tuple[tuple[str, int], ...] = ()  # entries of the train block, and their parameters
    lengths: str = ""  # how sizes with a maximum are predicted

    def text(self) -> str:
        """A table, then totals."""
        head = ("layer", "output", "parameters", "operations")
        lines = [
            (r.name, str(list(r.shape)), f"{r.parameters:,}", f"{r.flops:,}") for r in self.rows
        ]
        total = (
            "total",
            "",
            f"{sum(r.parameters for r in self.rows):,}",
            f"{sum(r.flops for r in self.rows):,}",
        )
        # as wide as the widest cell of each column
        widths = [max(map(len, column)) for column in zip(head, *lines, total, strict=True)]
        table = [_line(cells, widths) for cells in (head, *lines)]
        table += ["-" * len(table[0]), _line(total, widths), ""]
        wide = max((len(entry) for entry, _ in self.groups), default=0)
        table += [f"{entry.ljust(wide)}  {count:,} parameters" for entry, count in self.groups]
        table += [""] * bool(self.groups)
        if self.training_bytes is not None:
            table.append(f"training memory   {size(self.training_bytes)}")
        table.append(f"inference memory  {size(self.inference_bytes)}")
        table += ["", self.lengths] if self.lengths else []
        return "\n".join([f"{self.model}, batch {self.batch}", "", *table]) + "\n"


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    name, shape, *numbers = (
        cell.ljust(width) if n < 2 else cell.rjust(width)
        for n, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join([name, shape, *numbers])


def size(count: int) -> str:
    """Bytes as people say them, and exactly."""
    return f"{count / 2**20:.1f} MiB ({count:,} bytes)"


def summarize(project: Project, setup: Setup | None, device: str = "cpu") -> Summary:
    """UserError if the program is wrong or a size is not known."""
    # what the plan for this device takes in memory: CPU and GPU plan differently
    needed = MEMORY_BYTES[device]
    if setup is None:
        found = structure(project)
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
    rows = layer_rows(found)
    parts = () if setup is None else _groups(setup.train, found.system)
    batch = project.settings.batch
    return Summary(project.name, batch, rows, inference, training, parts, lengths)


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


def layer_rows(found: Structure) -> tuple[LayerRow, ...]:
    """A row for each layer that the model applies itself, in order, and one for what it computes
    without a layer, if that is any work."""
    system = found.system
    tensors: dict[str, set[str]] = {}
    for name in system.tensors:
        tensors.setdefault(next(iter(found.place(name)), ""), set()).add(name)
    rows = [_row(b.name, b.shapes[0], tensors.get(b.name, set()), system) for b in found.blocks]
    shape = system.tensors[system.outputs[0]].shape
    # what is computed without a layer comes last
    own = _row(system.name, shape, tensors.get("", set()), system)
    return (*rows, own) if own.flops or own.parameters else tuple(rows)


def _row(name: str, shape: tuple[int, ...], tensors: Set[str], system: System) -> LayerRow:
    """What some tensors are and take: operations of what a layer computes inside count for it."""
    learnt = sum(system.tensors[n].size for n in tensors if system.tensors[n].kind == "param")
    work = sum(flops(eq, system) for eq in system.equations if eq.target in tensors)
    return LayerRow(name, shape, learnt, work)
