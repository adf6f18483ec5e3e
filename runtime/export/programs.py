"""The programs of an exported model: the systems that nnc itself runs, for another machine.

In: an executor, which knows the model, and a machine. Out: for each function of the library its
LLVM text, the memory that it takes, and where in it its inputs and results are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ...compiler.codegen.llvm.library import Entry, IndexInput, program_module
from ...compiler.codegen.llvm.thread_pool import ARENA_BYTES
from ...compiler.elaboration.selection import WHOLE
from ...compiler.ir.aggregate_programs import hand_over
from ...compiler.ir.dtypes import BYTES, LINE, is_float
from ...compiler.ir.equation import CHECK, System, Tensor
from ...compiler.machines import Machine
from ...compiler.options import Options
from ...compiler.passes.kernels.memory import aligned
from ...compiler.pipeline import LlvmCode, compile
from ...compiler.programs import dynamic, evaluation, selected, training_step
from ...dsl.check.turns import Turn
from ..device.data_inputs import SCALARS
from ..training.executor import Executor, value_tensors
from ..training.weight_formats import WeightFormat
from .layout import Layout, layout_of

PURPOSES = ("predict", "evaluate", "train_step")


@dataclass(frozen=True)
class Place:
    """An input or a result of a program: so many bytes into the arena that the caller gives."""

    name: str
    type: str  # of memory: f32, i32, … f16, bf16
    shape: tuple[int, ...]
    offset: int
    is_input: bool


@dataclass(frozen=True)
class Program:
    """A function of the library. `examples` is how many a run may be of at most, 0 where it is of
    the whole batch always."""

    purpose: str
    name: str  # in C
    text: str
    arena_bytes: int
    places: tuple[Place, ...]
    examples: int = 0
    turn: Turn = ()


@dataclass(frozen=True)
class Systems:
    """What a model is exported as, before it is compiled for a machine: the systems by purpose, and
    where params and states stand. `averages` are the states in place of params in evaluations."""

    prediction: System
    examples: int
    evaluation: System | None = None
    steps: Mapping[Turn, System] = field(default_factory=dict)
    losses: int = 0
    averages: Mapping[str, str] = field(default_factory=dict)

    @property
    def layout(self) -> Layout:
        weights = {t.name: t for t in value_tensors(self.prediction)}
        if self.evaluation is not None:
            weights |= {t.name: t for t in value_tensors(self.evaluation)}
        training = {t.name: t for step in self.steps.values() for t in value_tensors(step)}
        return layout_of([*weights.values()], [*training.values()], self.averages)


def systems_of(
    executor: Executor, turns: Sequence[Turn], trains: bool, format: WeightFormat | None = None
) -> Systems:
    """The systems that the executor itself runs, for its batch: what training, evaluating and
    predicting here compute to the bit. `turns` are those of the steps, none if there are none."""
    setup = executor.setup
    whole = selected(setup, WHOLE).system
    by_number = dynamic(setup, whole)
    found = Systems(by_number or whole, setup.batch if by_number is not None else 0)
    if format is not None:
        found = replace(found, prediction=format.system(found.prediction))
    if not trains:
        return found
    measured = evaluation(setup)
    found = replace(found, evaluation=measured if format is None else format.system(measured))
    if not turns:
        return found
    losses = len(setup.train.losses)
    handed = executor.measures["train"].aggregates
    steps = {}
    for turn in dict.fromkeys(turns):
        step = training_step(replace(setup, turn=turn))[0] if turn else executor.system
        steps[turn] = hand_over(step, handed, losses).system
    averages = executor.system.averages
    return replace(found, steps=steps, losses=losses, averages=averages)


def programs_of(systems: Systems, layout: Layout, prefix: str, machine: Machine) -> list[Program]:
    """The programs for a machine."""

    def made(purpose: str, system: System, turn: Turn = ()) -> Program:
        name = "_".join([prefix, purpose, *(loss for loss in turn if len(systems.steps) > 1)])
        return _program(systems, layout, prefix, machine, purpose, name, system, turn)

    found = [made("predict", systems.prediction)]
    if systems.evaluation is not None:
        found.append(made("evaluate", systems.evaluation))
    return [*found, *(made("train_step", step, turn) for turn, step in systems.steps.items())]


def _program(
    systems: Systems,
    layout: Layout,
    prefix: str,
    machine: Machine,
    purpose: str,
    name: str,
    system: System,
    turn: Turn,
) -> Program:
    trains, predicts = purpose == "train_step", purpose == "predict"
    code = compiled(system, layout.places if trains else layout.weights, machine)
    offsets, known = code.plan.offsets, system.tensors
    # A prediction draws from the seed that it is given; else step and seed are in the values.
    own = () if predicts else ("step", "seed")
    inputs = [t for t in system.of_kind("input") if t.name not in own]
    results = system.outputs if not trains else system.outputs[: systems.losses]
    outputs = [system.tensors[n] for n in dict.fromkeys(results)]

    def scalar(wanted: str) -> int | None:
        return offsets[wanted] if wanted in known and not predicts else None

    entry = Entry(
        name,
        arena_bytes=arena_bytes(code, machine),
        values_bytes=layout.bytes if trains else layout.weights_bytes,
        trains=trains,
        examples=systems.examples if predicts else 0,
        counted=scalar("step"),
        seeded=scalar("seed"),
        left=scalar("microbatches_left"),
        check=offsets.get(CHECK),
        losses=tuple(
            (offsets[n], known[n].dtype)
            for n in (system.outputs[: systems.losses] if trains else ())
            if known[n].storage_dtype in ("f32", "f64")
        ),
        indices=tuple(indices_of(system, offsets, system.index_inputs or {})),
        number=PURPOSES.index(purpose) + 1 if code.plan.prologue else 0,
    )
    text = program_module(code.alone(machine.threads > 1), code.plan.system, prefix, entry, machine)
    places = (*places_of(inputs, offsets, True), *places_of(outputs, offsets, False))
    return Program(purpose, name, text, entry.arena_bytes, places, entry.examples, turn)


def compiled(system: System, places: Mapping[str, int], machine: Machine) -> LlvmCode:
    """The code of a system for a machine, whose params and states that have such places are in the
    values."""
    own = tuple((name, place) for name, place in places.items() if name in system.tensors)
    code: LlvmCode = compile(system, machine.target, Options(values=own, without=machine.without))
    return code


def arena_bytes(code: LlvmCode, machine: Machine) -> int:
    """What the caller gives: the cells in front, the tensors, and what threads have for
    themselves."""
    held = code.plan.held_bytes * machine.threads
    return aligned(code.plan.arena_bytes) + held + ARENA_BYTES + LINE


def indices_of(
    system: System, offsets: Mapping[str, int], limits: Mapping[str, int]
) -> list[IndexInput]:
    """What is looked at of the inputs that are indices, before a run."""
    found = []
    for name, limit in limits.items():
        tensor = system.tensors[name]
        if name not in SCALARS and name in offsets and not is_float(tensor.dtype):
            size = BYTES[tensor.storage_dtype]
            found.append(IndexInput(offsets[name], tensor.bytes // size, size, limit))
    return found


def places_of(
    tensors: Sequence[Tensor], offsets: Mapping[str, int], is_input: bool, base: int = 0
) -> list[Place]:
    """Inputs or results, in an arena that begins `base` bytes into the caller's."""
    found = []
    for tensor in tensors:
        # What the caller writes and reads has no gaps.
        assert not tensor.pad_after, tensor.name
        offset = base + ARENA_BYTES + offsets[tensor.name]
        found.append(Place(tensor.name, tensor.storage_dtype, tensor.shape, offset, is_input))
    return found
