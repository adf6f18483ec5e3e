"""What `nnc compile` prints: a program at a stage of its way to machine code.

In: a `Project`. Out: text. The stages are the compiler's; this file only asks for them in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from ...compiler.elaboration.train_block import Setup
from ...compiler.ir.equation import System
from ...compiler.ir.printer import system_text
from ...compiler.options import DEFAULT, Options
from ...compiler.passes.kernels.printer import plan_text
from ...compiler.pipeline import LlvmCode, Observer, check_remat, compile, derive
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

PTX_FOR = "sm_80"  # the oldest GPU for which assembly is printed


class Stages:
    """The stages of one program, each computed when it is first needed.

    With a `setup` (there is a train block) everything from `gradients` on is the training step;
    without one it is the model alone.
    """

    def __init__(
        self,
        project: Project,
        setup: Setup | None,
        options: Options = DEFAULT,
        observers: Sequence[Observer] = (),
    ):
        self.project, self.setup = project, setup
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
        # gradients have a stage of their own
        return system_text(self.system if self.setup is None else forward_part(self.system))

    @property
    def gradients(self) -> str:
        assert self.project.block  # UserError if there is nothing to differentiate
        return system_text(self.system)

    @property
    def kernels(self) -> str:
        nests = ((kernel, self.code.nest(kernel)) for kernel in self.code.plan.kernels)
        notes = {kernel: nest.blocks.note for kernel, nest in nests if nest.blocks is not None}
        return plan_text(self.code.plan, notes)

    @property
    def loops(self) -> str:
        """Of every kernel in its own names, to be read."""
        return "\n\n".join(str(self.code.nest(k)) for k in self.code.plan.kernels) + "\n"

    @property
    def llvm(self) -> str:
        return self.code.text

    @property
    def asm(self) -> str:
        return assembly(self.llvm)

    @cached_property
    def cuda(self) -> str:
        # always for an H100: code for a GPU can be printed without one
        return compile(self.program, GpuTarget(), self.options, self.observers).source

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


def forward_part(step: System) -> System:
    """Of a derived training step, what computes the loss and the metrics."""
    needed = step.ancestors(step.outputs)
    equations = tuple(eq for eq in step.equations if eq.target in needed)
    # all parameters are printed, also those that only the optimizer reads
    tensors = {n: t for n, t in step.tensors.items() if n in needed or t.kind == "param"}
    return step.replace(tensors=tensors, equations=equations, updates={})
