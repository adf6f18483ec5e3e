"""From equations to code: the passes in order, one pipeline for each kind of target.

In: a `System`, a `Target`, `Options`. Out: `compile` gives the `Code`. Every use of the compiler
comes through here: train, predict, emit, verify, profile, bench. A pass is a function and a name;
what watches the passes (dumps, timing, verification) is an `Observer` and changes nothing.

    System ──system passes──▶ System ──plan passes──▶ Plan ──lower──▶ loops or grids ──emit──▶ text
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from ..dsl.diagnostics.diagnostic import Report
from .ir.equation import System
from .ir.verify import verify
from .options import DEFAULT, Options
from .passes.autodiff.clip_examples import clip_examples
from .passes.autodiff.differentiate import differentiate
from .passes.autodiff.mixed_precision import mixed_precision
from .passes.autodiff.rematerialize import rematerialize, report_useless_blocks
from .passes.cpu.amx_tiles import tile_operands
from .passes.cpu.gather_bf16_operands import gather_bf16_operands
from .passes.cpu.pack_bf16_pairs import pack_bf16_pairs
from .passes.cpu.pack_int8_quads import pack_int8_quads
from .passes.cpu.pad_rows import pad_rows
from .passes.cpu.round_bf16_operands import round_bf16_operands
from .passes.cpu.time_major import time_major
from .passes.cpu.transpose_operands import transpose_operands
from .passes.equations.common_subexpressions import common_subexpressions
from .passes.equations.fold_constants import fold_scales, hoist_constants
from .passes.equations.gather_matmul import gather_matmul
from .passes.equations.inline import inline
from .passes.equations.integer_checks import integer_checks
from .passes.equations.narrow_sums import narrow_sums
from .passes.equations.pack_constants import pack_constants
from .passes.equations.precompute_derivatives import precompute_derivatives
from .passes.equations.quantize import (
    Bounds,
    Operand,
    Quantized,
    quantize,
    with_equations_of,
    with_ranges,
)
from .passes.equations.reciprocal import reciprocal
from .passes.equations.row_blocks import row_blocks
from .passes.equations.shrink_extents import shrink_extents
from .passes.equations.simplify import remove_stops, simplify
from .passes.equations.softmax_gradient import softmax_gradient
from .passes.equations.sparse_pooling_gradient import sparse_pooling_gradient
from .passes.equations.split_reductions import split_reductions
from .passes.gpu.attention.row_sums import row_sums, row_sums_before_rounding, row_sums_of_large
from .passes.kernels.barriers import place_barriers
from .passes.kernels.dynamic_batch import dynamic_batch
from .passes.kernels.equal_kernels import SharedCode, equal_kernels
from .passes.kernels.example_blocks import example_blocks
from .passes.kernels.fuse import fuse
from .passes.kernels.kernel import Blocks, Kernel, Plan
from .passes.kernels.memory import plan_memory
from .passes.kernels.prefetch import plan_prefetch
from .passes.kernels.prologue import prologue
from .passes.kernels.skip_masked_terms import skip_masked_terms
from .passes.kernels.unread_values import unread_values
from .targets import CpuTarget, Target

if TYPE_CHECKING:
    from .codegen.llvm.debug_info import DebugInfo
    from .codegen.llvm.module import Clock
    from .passes.cpu.loop_ir import Nest


@dataclass(frozen=True)
class Pass:
    """A function from a `System` or `Plan` to another, and the name that the command line knows.

    `needs` are the further arguments that it takes, `target` and `options`. A `required` pass
    cannot be left out: what follows relies on it. `when` says for which targets it runs at all.
    """

    name: str
    function: Callable[..., Any]
    needs: tuple[str, ...] = ()
    required: bool = False
    when: Callable[[Any], bool] = lambda target: True

    def __call__(self, value: Any, target: Target | None, options: Options) -> Any:
        given = {"target": target, "options": options}
        return self.function(value, **{name: given[name] for name in self.needs})


@dataclass(frozen=True)
class Pipeline:
    """The passes of one kind of target: over equations, over the plan of kernels, and the code that
    is made from the plan."""

    system: tuple[Pass, ...]
    plan: tuple[Pass, ...]
    code: Callable[[Plan, Any], Any]

    @property
    def passes(self) -> tuple[Pass, ...]:
        return (*self.system, *self.plan)


class Observer(Protocol):
    """Called after each pass with what it was given, what it made (a `System`, or a `Plan`) and the
    seconds that it took."""

    def __call__(
        self, name: str, before: System | Plan, after: System | Plan, seconds: float
    ) -> object: ...


class LlvmCode:
    """The code of a plan for a CPU, lowered and written kernel by kernel when it is asked for."""

    def __init__(self, plan: Plan, target: CpuTarget):
        self.plan, self.target = plan, target
        self._nests: dict[Kernel, Nest] = {}

    @cached_property
    def equal_kernels(self) -> Mapping[Kernel, SharedCode]:
        """Every kernel with the first one that equals it up to names, whose code it shares."""
        return equal_kernels(self.plan)

    def nest(self, kernel: Kernel) -> Nest:
        """The loops of a kernel."""
        from .passes.cpu.lower import lower  # not needed to derive a program

        found = self._nests.get(kernel)
        if found is None:
            found = self._nests[kernel] = lower(kernel, self.plan, self.target)
        return found

    @property
    def shares_work(self) -> bool:
        """Whether several threads are of use: whether they share the loops of a kernel that every
        run has. Else each kernel takes less time than it takes to wake them."""
        items = self.plan.items[self.plan.prologue :]
        if any(isinstance(item, Blocks) for item in items):
            return True
        kernels = replace(self.plan, items=items).kernels
        models = (self.equal_kernels[kernel].representative for kernel in kernels)
        return any(x.kind == "parallel" for model in models for x in self.nest(model).loops)

    def modules(self, size: int | None = None, clock: Clock | None = None) -> Iterator[str]:
        """LLVM IR in modules of about `size` characters, each written when it is asked for, so that
        one can be compiled while the next is written; without a size one module. With a `clock`,
        the ticks of every kernel are counted."""
        from .codegen.llvm.module import modules as llvm_modules

        return llvm_modules(self.plan, self.nest, self.equal_kernels, clock, size)

    def alone(self, divided: bool) -> str:
        """The code as one module for a library, whose step one thread runs; `divided`, those of
        its caller."""
        from .codegen.llvm.module import modules as llvm_modules

        (whole,) = llvm_modules(
            self.plan, self.nest, self.equal_kernels, alone=True, divided=divided
        )
        return whole

    @cached_property
    def text(self) -> str:
        """The code as one module."""
        (whole,) = self.modules()
        return whole

    @cached_property
    def located(self) -> tuple[str, DebugInfo]:
        """The code as one module with debug information: what each instruction computes."""
        from .codegen.llvm.debug_info import DebugInfo
        from .codegen.llvm.module import modules as llvm_modules

        debug = DebugInfo()
        (whole,) = llvm_modules(self.plan, self.nest, self.equal_kernels, debug=debug)
        return whole, debug


AUTODIFF = (
    Pass("simplify", simplify),
    Pass("gather-matmul", gather_matmul),
    Pass("differentiate", differentiate, required=True),
    Pass("clip-examples", clip_examples, required=True),
    Pass("narrow-sums", narrow_sums),
    Pass("rematerialize", rematerialize),
    Pass("simplify", simplify),
    Pass("row-sums-before-rounding", row_sums_before_rounding),
    Pass("mixed-precision", mixed_precision, required=True),
)

INTEGERS = (Pass("integer-checks", integer_checks),)

# What a prediction goes through before its contractions are quantised, the same for every target.
BEFORE_QUANTIZATION = (
    Pass("simplify", simplify),
    Pass("differentiate", differentiate, required=True),
    Pass("remove-stops", remove_stops, required=True),
    Pass("simplify", simplify),
)

CANONICALIZE = (
    Pass("remove-stops", remove_stops, required=True),
    *INTEGERS,
    Pass("simplify", simplify),
    Pass("common-subexpressions", common_subexpressions, needs=("target",)),
    Pass("inline", inline, needs=("target",)),
    Pass("time-major", time_major),
    Pass("simplify", simplify),
)

CPU = Pipeline(
    system=(
        *AUTODIFF,
        *CANONICALIZE,
        Pass("softmax-gradient", softmax_gradient),
        Pass("sparse-pooling-gradient", sparse_pooling_gradient, needs=("target",)),
        Pass("shrink-extents", shrink_extents),
        Pass("precompute-derivatives", precompute_derivatives, needs=("target",)),
        Pass("reciprocal", reciprocal),
        Pass("fold-scales", fold_scales),
        Pass("hoist-constants", hoist_constants),
        Pass("gather-bf16-operands", gather_bf16_operands, needs=("target",)),
        Pass("row-sums", row_sums_of_large, needs=("target",)),
        Pass("row-blocks", row_blocks, needs=("target",)),
        Pass(
            "amx-tiles",
            tile_operands,
            needs=("target",),
            when=lambda target: target.amx_cycles > 0,
        ),
        Pass(
            "pack-bf16-pairs",
            pack_bf16_pairs,
            needs=("target",),
            when=lambda target: target.saved_by_pairs > 0,
        ),
        Pass("pack-int8-quads", pack_int8_quads, when=lambda target: target.int8_quads),
        Pass("round-bf16-operands", round_bf16_operands, needs=("target",)),
        Pass("pack-constants", pack_constants, needs=("target",)),
        Pass("split-reductions", split_reductions, needs=("target",)),
        Pass("transpose-operands", transpose_operands, needs=("target",)),
        Pass("pad-rows", pad_rows, needs=("target",)),
    ),
    plan=(
        Pass("fuse", fuse, needs=("target",), required=True),
        Pass("prologue", prologue),
        Pass("skip-masked-terms", skip_masked_terms),
        Pass("unread-values", unread_values),
        Pass("dynamic-batch", dynamic_batch),
        Pass("example-blocks", example_blocks, needs=("target",)),
        Pass("plan-memory", plan_memory, needs=("target", "options"), required=True),
        Pass("place-barriers", place_barriers, required=True),
        Pass("plan-prefetch", plan_prefetch, needs=("target",)),
    ),
    code=LlvmCode,
)


@cache
def gpu() -> Pipeline:
    """The pipeline for GPUs; what it needs besides is imported when it is first asked for."""
    from .codegen.cuda.module import emit
    from .passes.gpu.attention.flash_attention import flash_attention
    from .passes.gpu.bf16_storage import bf16_storage
    from .passes.gpu.lower import lower as lower_gpu

    return Pipeline(
        system=(
            *AUTODIFF,
            *CANONICALIZE,
            Pass("shrink-extents", shrink_extents),
            Pass("precompute-derivatives", precompute_derivatives, needs=("target",)),
            Pass("reciprocal", reciprocal),
            Pass("split-reductions", split_reductions, needs=("target",)),
            Pass("row-sums", row_sums),
        ),
        plan=(
            Pass("bf16-storage", bf16_storage, needs=("target",)),
            Pass("flash-attention", flash_attention, needs=("target",)),
            Pass("fuse", fuse, needs=("target",), required=True),
            Pass("plan-memory", plan_memory, needs=("target", "options"), required=True),
            Pass("place-barriers", place_barriers, required=True),
        ),
        code=lambda plan, target: emit(lower_gpu(plan, target)),
    )


def pipeline_for(target: Target) -> Pipeline:
    return CPU if isinstance(target, CpuTarget) else gpu()


def all_passes() -> list[Pass]:
    """The passes of both pipelines, in order, each name once."""
    return list({each.name: each for line in (CPU, gpu()) for each in line.passes}.values())


def compile(
    system: System,
    target: Target,
    options: Options = DEFAULT,
    observers: Iterable[Observer] = (),
) -> Any:
    """The code of a system, an `LlvmCode` or a CUDA `Module`, by the target. Every use of the
    compiler comes through here or through the parts of it below."""
    return generate(plan(system, target, options, observers), target)


def plan(
    system: System,
    target: Target,
    options: Options = DEFAULT,
    observers: Iterable[Observer] = (),
) -> Plan:
    """The kernels of a system, with their order and their places in memory."""
    no_kernels = Plan(optimize(system, target, options, observers))
    return _run(pipeline_for(target).plan, no_kernels, target, options, observers)


def generate(plan: Plan, target: Target) -> Any:
    """The code of a plan."""
    return pipeline_for(target).code(plan, target)


def optimize(
    system: System,
    target: Target,
    options: Options = DEFAULT,
    observers: Iterable[Observer] = (),
) -> System:
    """The system after all passes over equations."""
    return _run(pipeline_for(target).system, system, target, options, observers)


def derive(
    system: System, options: Options = DEFAULT, observers: Iterable[Observer] = ()
) -> System:
    """The program that a system with placeholders stands for: gradients are equations, contractions
    are rounded as its precision says. This is what the evaluator gives a meaning to."""
    return _run(AUTODIFF, system, None, options, observers)


def operands_of_prediction(system: System) -> tuple[System, dict[str, Operand]]:
    """What computes the ranges of the operands that quantisation needs, and their names in it."""
    return with_ranges(_before_quantization(system))


def quantized(system: System, results: Iterable[str], bounds: Bounds) -> Quantized:
    """A system with the computation of these results of a model in 8 bits, and the system that
    computes its weights, given the least and the greatest value of every operand."""
    whole = expand_gradients(system)
    outputs = tuple(name for name in results if name in whole.tensors)
    model = _before_quantization(whole.replace(outputs=outputs, updates={}))
    found = quantize(model, bounds)
    return replace(found, system=with_equations_of(whole, found.system))


def _before_quantization(system: System) -> System:
    # Operands that would be rounded to bf16 are in 8 bits instead.
    plain = system.replace(precision="f32")
    return _run(BEFORE_QUANTIZATION, plain, None, DEFAULT, ())


def expand_gradients(system: System) -> System:
    """The system with the equations of its gradients, and otherwise as it is."""
    return clip_examples(differentiate(system))


def checked(system: System) -> System:
    """The derived system with the output that says whether its integers have results."""
    return _run((*AUTODIFF, *INTEGERS), system, None, DEFAULT, ())


def check_remat(system: System, report: Report) -> None:
    """Warn (W0304) of the `remat` blocks of a system with placeholders that save nothing."""

    def observe(name: str, before: System | Plan, after: System | Plan, seconds: float) -> None:
        if name == "rematerialize" and isinstance(before, System):
            report_useless_blocks(before, report)

    if system.remat:
        derive(system, observers=[observe])


def _run(
    passes: Iterable[Pass],
    value: Any,
    target: Target | None,
    options: Options,
    observers: Iterable[Observer],
) -> Any:
    for each in passes:
        if not each.required and (each.name in options.without or not each.when(target)):
            continue
        began = perf_counter()
        made = each(value, target, options)
        seconds = perf_counter() - began
        for observe in observers:
            observe(each.name, value, made, seconds)
        value = made
    return value


def verify_each(name: str, before: System | Plan, after: System | Plan, seconds: float) -> None:
    """An observer that holds what every pass makes to the rules of the IR."""
    verify(after.system if isinstance(after, Plan) else after, name)
