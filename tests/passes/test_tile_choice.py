"""Which register tile is chosen, where a run may have few examples and where rows lie far apart."""

from __future__ import annotations

import pytest

from nnc.compiler.elaboration.model import forward
from nnc.compiler.ir.equation import System
from nnc.compiler.passes.cpu.loop_ir import Nest
from nnc.compiler.pipeline import LlvmCode, compile, derive
from nnc.compiler.targets import CPU_TARGETS
from nnc.dsl.check.checker import load_source
from nnc.dsl.diagnostics.diagnostic import Report
from nnc.dsl.syntax.source import Source

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
