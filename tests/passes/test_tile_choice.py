"""Which register tile is chosen, where a run may have few examples and where rows lie far apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support import values

from nnc.compiler.elaboration.model import forward
from nnc.compiler.ir.equation import System
from nnc.compiler.passes.cpu.loop_ir import Nest
from nnc.compiler.pipeline import LlvmCode, compile, derive
from nnc.compiler.reference.evaluator import evaluate
from nnc.compiler.targets import CPU_TARGETS, Cache
from nnc.dsl.check.checker import load_source
from nnc.dsl.diagnostics.diagnostic import Report
from nnc.dsl.syntax.source import Source
from nnc.runtime.device.cpu.program import CpuProgram

BATCH = 32


def prediction(text: str) -> System:
    """The prediction of `M` for `BATCH` examples or fewer."""
    report = Report()
    found = load_source(Source("test.nn", text), report)
    report.check()
    made = forward(found.definitions, "M", {"B": BATCH}, training=False)
    return derive(made).replace(updates={}, batch=BATCH)


def product(system: System, target: str = "icelake-server") -> Nest:
    """The loops of its one sum of products."""
    code: LlvmCode = compile(system, CPU_TARGETS[target])
    (found,) = (k for k in code.plan.kernels if k.anchor.reduce == "sum")
    return code.nest(found)


def tile(nest: Nest) -> dict[str, int]:
    """The largest tile along each output index, in elements or vectors."""
    return {loop.index.name: max(s.tile for s in loop.segments) for loop in nest.outer}


@pytest.mark.parametrize("width", [24, 40, 96])
def test_examples_of_many_rows_leave_few_over(width: int) -> None:
    """A run of one example has 64 rows: tiles are those of a run of all, or leave none over."""
    text = (
        f"model M(x: f32[B, 8, 8, 160]) -> y: f32[B, 8, 8, {width}] {{ y = Conv({width}, 1)(x) }}"
    )
    system = prediction(text)
    found = tile(product(system))
    assert found == tile(product(system.replace(batch=0))) or 64 % found["b_i_j"] == 0
    assert found["b_i_j"] >= 8


def test_examples_of_one_row_may_be_left_over() -> None:
    text = "model M(x: f32[B, 160]) -> y: f32[B, 32] { y = Dense(32)(x) }"
    system = prediction(text)
    few, all_examples = (
        tile(product(each, "generic-avx512")) for each in (system, system.replace(batch=0))
    )
    assert few["b"] < all_examples["b"]


@pytest.mark.parametrize(("size", "channels"), [(64, 16), (32, 32), (16, 64)])
def test_rows_of_a_tile_are_columns_of_an_image(size: int, channels: int) -> None:
    """They lie side by side, and not in a page each."""
    text = f"""
        model M(x: f32[B, {size}, {size}, {channels}]) -> y: f32[B, {size}, {size}, {channels}] {{
            y = Conv({channels}, 3, pad = 1)(x)
        }}"""
    found = tile(product(prediction(text)))
    assert found["i"] == 1 and found["j"] >= 4


@pytest.mark.parametrize(("terms", "rows"), [(64, 4), (384, 6)])
def test_tiles_of_panels_from_the_second_level_cache_are_higher(terms: int, rows: int) -> None:
    """A row more is a multiply-add more for each line that is loaded."""
    text = f"model M(x: f32[B, 128, {terms}]) -> y: f32[B, 128, 256] {{ y = Dense(256)(x) }}"
    assert tile(product(prediction(text)))["b_j"] == rows


@pytest.mark.parametrize(("rows", "apart"), [(80, True), (64, False)])
def test_an_example_of_many_rows_reads_all_of_a_large_weight_by_itself(
    rows: int, apart: bool
) -> None:
    """Its rows stay in the cache; else those of all examples would be read again for each panel."""
    target = replace(CPU_TARGETS["icelake-server"], l2=Cache(32 << 10, 8))
    system = prediction(
        f"model M(x: f32[B, {rows}, 40]) -> y: f32[B, {rows}, 320] {{ y = Dense(320)(x) }}"
    )
    code: LlvmCode = compile(system, target)
    (found,) = (k for k in code.plan.kernels if k.anchor.reduce == "sum")
    outermost, *inside = code.nest(found).outer
    assert (outermost.index.name == "b") == apart
    if apart:  # threads share the panels, for all examples
        assert outermost.kind == "serial" and outermost.per_example == 1
        assert [loop.kind for loop in inside].count("parallel") == 1
    given, bits = values(system), set()
    expected = evaluate(system, given)["y"]
    for threads, examples in ((1, BATCH), (2, BATCH), (3, BATCH), (2, 5)):
        program = CpuProgram(system, threads, target)
        for name, value in given.items():
            program.arrays[name][...] = value
        program.shorten(examples)
        program.run()
        result = program.arrays["y"][:examples]
        np.testing.assert_allclose(result, expected[:examples], rtol=1e-4, atol=1e-4)
        bits.add(result[:5].tobytes())
    assert len(bits) == 1
