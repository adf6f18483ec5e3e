"""What `nnc compile` prints: a program at a stage of its way to machine code.

In: a `Project`. Out: text, or its lines with the equations that each comes from, as `nnc explore`
links them. The stages are the compiler's; this file only asks for them in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from ...compiler.elaboration.train_block import Setup
from ...compiler.ir.equation import System
from ...compiler.ir.printer import Line, system_lines
from ...compiler.options import DEFAULT, Options
from ...compiler.passes.cpu.loop_ir import nest_lines
from ...compiler.passes.kernels.kernel import Kernel, Plan
from ...compiler.passes.kernels.printer import plan_lines
from ...compiler.pipeline import (
    LlvmCode,
    Observer,
    check_remat,
    compile,
    derive,
    generate,
    plan,
)
from ...compiler.programs import training_step
from ...compiler.targets import GpuTarget
from ...dsl.diagnostics.diagnostic import Report, fail
from ...dsl.syntax.formatter import format as formatted
from ..compiling import compiling
from ..device.cpu import host
from ..device.cpu.jit import assembly
from ..project import Project
from .graph import layer_graph
from .graph_drawing import dot
from .model_system import model_system
from .structure import structure

if TYPE_CHECKING:
    from ...compiler.codegen.cuda.module import Module

PTX_FOR = "sm_80"  # the oldest GPU for which assembly is printed


class Stages:
    """The stages of one program, each computed when it is first needed.

    With a `setup` (there is a train block) everything from `gradients` on is the training step;
    without one it is the model alone. With a `prediction` everything but the syntax tree is that.
    """

    def __init__(
        self,
        project: Project,
        setup: Setup | None,
        options: Options = DEFAULT,
        observers: Sequence[Observer] = (),
        prediction: System | None = None,
    ):
        self.project, self.setup, self.prediction = project, setup, prediction
        self.options, self.observers = options, observers
        self.report = Report()  # of what is doubtful in the training step, once it is made

    # a large program makes many objects, none of which can be freed meanwhile
    @compiling()
    def text(self, stage: str) -> str:
        """A stage of `ENDINGS` as text. UserError if the program is wrong."""
        return getattr(self, stage)

    @property
    def ast(self) -> str:
        return formatted(self.project.checked.file)

    @property
    def equations(self) -> str:
        return _joined(self.equation_lines)

    @property
    def gradients(self) -> str:
        return _joined(self.gradient_lines)

    @property
    def kernels(self) -> str:
        return _joined(self.kernel_lines)

    @property
    def loops(self) -> str:
        """Of every kernel in its own names, to be read."""
        return _joined(self.loop_lines)

    @property
    def llvm(self) -> str:
        return _joined(self.llvm_lines)

    @property
    def asm(self) -> str:
        return _joined(self.asm_lines)

    @property
    def cuda(self) -> str:
        return self.gpu_module.source

    @property
    def ptx(self) -> str:
        """UserError E0720 without NVRTC."""
        # only this stage needs the library
        from ..device.cuda.nvrtc import INSTALL, NvrtcNotFound, nvrtc

        try:
            return nvrtc().ptx(self.cuda, PTX_FOR)
        except NvrtcNotFound as error:
            raise fail("E0720", str(error), help=INSTALL) from None

    @property
    def dot(self) -> str:
        """The layers of the model as a graph, as `nnc graph` draws it."""
        return dot(layer_graph(self.project, structure(self.project, self.setup)))

    @cached_property
    def program(self) -> System:
        """The program before all passes, with placeholders for gradients."""
        if self.prediction is not None:
            return self.prediction
        if self.setup is None:
            return model_system(self.project)
        # warnings are collected here and shown by the command
        step, _ = training_step(self.setup, self.report)
        check_remat(step, self.report)
        return step

    @cached_property
    def system(self) -> System:
        return derive(self.program, self.options)

    @cached_property
    def code(self) -> LlvmCode:
        return compile(self.program, host.target(), self.options, self.observers)

    # --- lines and their equations --------------------------------------------------------------

    @property
    def equation_lines(self) -> Iterator[Line]:
        # gradients have a stage of their own
        if self.prediction is not None or self.setup is None:
            return system_lines(self.system)
        return system_lines(forward_part(self.system))

    @property
    def gradient_lines(self) -> Iterator[Line]:
        assert self.project.block  # UserError if there is nothing to differentiate
        return system_lines(self.system)

    @property
    def kernel_lines(self) -> Iterator[Line]:
        nests = ((kernel, self.code.nest(kernel)) for kernel in self.code.plan.kernels)
        notes = {kernel: nest.blocks.note for kernel, nest in nests if nest.blocks is not None}
        return plan_lines(self.code.plan, notes)

    @property
    def loop_lines(self) -> Iterator[Line]:
        for number, kernel in enumerate(self.code.plan.kernels):
            if number:
                yield Line("")
            of_target = {eq.target: (eq,) for eq in kernel.equations}
            for text, target in nest_lines(self.code.nest(kernel)):
                yield Line(text, of_target.get(target, kernel.equations))

    @property
    def llvm_lines(self) -> list[Line]:
        text, debug = self.code.located
        return debug.llvm_lines(text)

    @property
    def asm_lines(self) -> list[Line]:
        text, debug = self.code.located
        return debug.asm_lines(assembly(text))

    @cached_property
    def gpu_plan(self) -> Plan:
        # always for an H100: code for a GPU can be printed without one
        return plan(self.program, GpuTarget(), self.options, self.observers)

    @cached_property
    def gpu_module(self) -> Module:
        return generate(self.gpu_plan, GpuTarget())

    @property
    def gpu_kernel_lines(self) -> Iterator[Line]:
        return plan_lines(self.gpu_plan)

    @property
    def grid_lines(self) -> Iterator[Line]:
        """The grids of threads, and the recurrences that are one kernel, by their functions."""
        module = self.gpu_module
        for name, body in (*module.grids.items(), *module.loops.items()):
            yield from _function_lines(f"{body}\n", self._gpu_kernels.get(name, ()))

    @property
    def cuda_lines(self) -> Iterator[Line]:
        """Of the program's own functions; the prelude is the same in every program."""
        for name, text in self.gpu_module.definitions.items():
            yield from _function_lines(text, self._gpu_kernels.get(name, ()))

    @cached_property
    def _gpu_kernels(self) -> dict[str, tuple[Kernel, ...]]:
        """The kernels that a function computes, of all launches of it."""
        from ...compiler.passes.gpu.launch_ir import distinct_launches  # for a GPU alone

        module = self.gpu_module
        found: dict[str, dict[Kernel, None]] = {}
        for launch in distinct_launches(module.launches):
            members = module.members.get(launch.function, ())
            found.setdefault(launch.function, {}).update(dict.fromkeys(launch.kernels))
            # a grid is one kernel, a persistent loop all those of a recurrence
            one_each = len(members) == len(launch.kernels)
            for number, name in enumerate(members):
                own = launch.kernels[number : number + 1] if one_each else launch.kernels
                found.setdefault(name, {}).update(dict.fromkeys(own))
        return {name: tuple(kernels) for name, kernels in found.items()}


def _joined(lines: Iterable[Line]) -> str:
    return "".join(f"{line.text}\n" for line in lines)


def _function_lines(text: str, kernels: tuple[Kernel, ...]) -> Iterator[Line]:
    """The lines of a function of these kernels, and an empty one after it."""
    equations = tuple(eq for kernel in kernels for eq in kernel.equations)
    for line in text.splitlines():
        yield Line(line, equations if line.strip() else ())
    yield Line("")


def forward_part(step: System) -> System:
    """Of a derived training step, what computes the loss and the metrics."""
    needed = step.ancestors(step.outputs)
    equations = tuple(eq for eq in step.equations if eq.target in needed)
    # all parameters are printed, also those that only the optimizer reads
    tensors = {n: t for n, t in step.tensors.items() if n in needed or t.kind == "param"}
    return step.replace(tensors=tensors, equations=equations, updates={})
