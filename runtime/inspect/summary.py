"""What a model is made of: its layers with their shapes, parameters and work.

In: a `Project`, a `Setup` if it is trained, and a device. Out: a `Summary` and its text. The memory
is exact: it is what the plans for the device say, before anything runs. It need not be there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

from ...compiler.elaboration.train_block import Setup
from ...compiler.ir.equation import System
from ...compiler.ir.work import flops
from ...compiler.pipeline import compile, plan
from ...compiler.programs import evaluation, prediction, training_step
from ...compiler.targets import GpuTarget
from ...dsl.syntax import ast as s
from ..device.cpu import host
from ..project import Project
from .emit import model_system


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
        if self.training_bytes is not None:
            table.append(f"training memory   {size(self.training_bytes)}")
        table.append(f"inference memory  {size(self.inference_bytes)}")
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
        whole = model_system(project)
        inference, training = needed(whole), None
    else:
        # the data bind sizes (`T` of a text) that a model alone leaves open
        sizes = _all_sizes(project, setup)
        wide = replace(project, settings=replace(project.settings, sizes=sizes))
        whole = model_system(wide)
        inference = needed(prediction(setup))
        training = needed(training_step(setup)[0])
        evaluation(setup)  # so that mistakes only evaluation has are found here too
    rows = layers(whole, project.checked.definitions)
    return Summary(project.name, project.settings.batch, rows, inference, training)


def _on_cpu(system: System) -> int:
    return plan(system, host.target()).arena_bytes


def _on_gpu(system: System) -> int:
    """For an H100: how sums are divided, and so what their parts take, depends on the GPU."""
    return compile(system, GpuTarget()).arena_bytes


MEMORY_BYTES = {"cpu": _on_cpu, "cuda": _on_gpu}  # bytes, by device


def _all_sizes(project: Project, setup: Setup) -> dict[str, int]:
    """The model's symbolic sizes as the data bind them: read off the inputs of a plan for it."""
    tensors = prediction(setup).tensors
    # sizes that the program itself fixes come first; the data say the rest
    sizes = dict(setup.sizes)
    for parameter in project.model.inputs:
        # an input without a declared shape binds nothing
        pattern = (parameter.type and parameter.type.shape) or ()
        # a prediction may not read every input
        shape = tensors[parameter.name].shape if parameter.name in tensors else ()
        for item, extent in zip(pattern, shape, strict=False):
            if isinstance(item, s.Name):
                sizes.setdefault(item.id, extent)
    return sizes


def layers(system: System, definitions: Mapping[str, s.Definition]) -> tuple[LayerRow, ...]:
    """A row for each layer that the model applies itself, in order, and one for what it computes
    without a layer, if that is any work."""
    # layers are instances: `conv1` is the first Conv
    known = {d.name.lower(): d for d in definitions.values() if d.kind in ("layer", "model")}
    rows: dict[str, LayerRow] = {}
    # in the order in which data flow through the model, not that of declarations
    order = {name: n for n, name in enumerate(_seen(system))}
    for name in order:
        instance, definition = _instance(name, known)
        row = rows.setdefault(instance, LayerRow(instance or system.name, ()))
        tensor, equation = system.tensors[name], system.definition.get(name)
        if tensor.kind == "param":
            row = replace(row, parameters=row.parameters + prod(tensor.shape))
        if equation is not None:
            # operations of what a layer computes inside count for it
            row = replace(row, flops=row.flops + flops(equation, system))
            # The shape of a row is that of the layer's result. An instance may give its result
            # another name, as where it is the model's own: then the last one computed stands for
            # it.
            result = definition and f"{instance}_{definition.results[0].name}"
            if result not in system.tensors or name == result:
                row = replace(row, shape=tensor.shape)
        rows[instance] = row
    # what is computed without a layer comes last
    own = rows.pop("", None)
    if own and (own.flops or own.parameters):
        rows[""] = own
    return tuple(rows.values())


def _seen(system: System) -> list[str]:
    """Every tensor in the order in which equations mention it."""
    names: dict[str, None] = {}
    for eq in system.equations:
        # a tensor is listed at its first use, before what is computed from it
        names |= dict.fromkeys([*(s for s in eq.sources), eq.target])
    return [n for n in names if system.tensors[n].kind in ("param", "temp")]


def _instance(name: str, known: Mapping[str, s.Definition]) -> tuple[str, s.Definition | None]:
    """`conv1_k` → `conv1` and the definition of Conv; an empty name for the model's own."""
    # `conv1_pool2_k` splits at `1_` first: the outermost layer counts
    for end in re.finditer(r"\d_", name):
        head = name[: end.start() + 1]
        definition = known.get(head.rstrip("0123456789"))
        if definition is not None and definition.results:
            return head, definition
    return "", None
