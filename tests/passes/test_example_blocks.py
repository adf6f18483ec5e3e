"""Example blocks: which kernels run example by example, and that this changes no bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support import plan, values

from nnc.compiler.elaboration.model import forward
from nnc.compiler.ir.equation import System
from nnc.compiler.passes.kernels.kernel import Blocks, Kernel, Plan
from nnc.compiler.passes.kernels.printer import plan_text
from nnc.compiler.pipeline import derive
from nnc.compiler.reference.evaluator import evaluate
from nnc.compiler.reference.pass_checker import PassCheck
from nnc.compiler.targets import CpuTarget, ExampleBlockLimits
from nnc.dsl.check.checker import load_source
from nnc.dsl.diagnostics.diagnostic import Report
from nnc.dsl.syntax.source import Source
from nnc.runtime.device.cpu import host
from nnc.runtime.device.cpu.program import CpuProgram

BATCH = 13

MODELS = {
    "residual": """
        model M(x: f32[B, 8, 8, 3]) -> y: f32[B, 5] {
            a = x |> Conv(8, 3, pad = "same") |> BatchNorm |> relu
            b = a |> DepthwiseConv(3, pad = 1) |> relu |> Conv(8, 1) |> BatchNorm
            y = (a + b) |> MaxPool(2) |> Flatten |> Dense(5)
        }""",
    "attention": """
        model M(x: f32[B, 24, 16]) -> y: f32[B, 24, 16] {
            h = x |> LayerNorm |> Attention(2, causal = true)
            y = x + h |> Dense(40) |> gelu |> Dense(16)
        }""",
    "result inside": """
        model M(x: f32[B, 400]) -> h: f32[B, 400], y: f32[B], place: i32[B] {
            h[b, i < 400] = sum(j < 3) sin(x[b, (i + j) % 400])
            g[b, i < 400] = sum(j < 5) cos(h[b, (i + 7 * j) % 400])
            y[b] = max(i) g[b, i]
            place[b] = argmax(i) g[b, i]
        }""",
    "recurrence between": """
        model M(x: f32[B, 6, 64]) -> y: f32[B, 6, 4] {
            y = x |> Dense(96) |> tanh |> Dense(20) |> LSTM(8) |> Dense(96) |> tanh |> Dense(4)
        }""",
}


def prediction(text: str, batch: int = BATCH, precision: str = "f32") -> System:
    report = Report()
    found = load_source(Source("test.nn", text), report)
    report.check()
    made = forward(found.definitions, "M", {"B": batch}, training=False)
    made = derive(made.replace(precision=precision))
    return made.replace(updates={}, batch=batch, index_inputs={})


def near(share: float, least: int = 2) -> CpuTarget:
    """This computer's target, of whose second-level cache another share stays."""
    return replace(host.target(), example_blocks=ExampleBlockLimits(share, least))


def blocks_of(made: Plan) -> list[Blocks]:
    return [item for item in made.items if isinstance(item, Blocks)]


def given(system: System) -> dict[str, np.ndarray]:
    """Weights of a usual size. Every state, a variance among them, is one that a model may have."""
    found = values(system)
    found |= {t.name: found[t.name] / 4 for t in system.of_kind("param")}
    return found | {t.name: np.abs(found[t.name]) for t in system.of_kind("state")}


def results(made: Plan, threads: int, data: dict[str, np.ndarray], target: CpuTarget):
    """The program after a run, in which what threads hold was not a number."""
    program = CpuProgram(made, threads, target)
    for name, value in data.items():
        program.arrays[name][...] = value
    program.arena[made.arena_bytes :] = 255
    program.run()
    return program


@pytest.mark.parametrize("name", MODELS)
def test_beside_the_evaluator(name: str) -> None:
    system, target = prediction(MODELS[name]), near(0.01)
    data = given(system)
    made = plan(system, check=PassCheck(system, data), target=target)
    plain = plan(system, target=target, without=["example-blocks"])
    assert blocks_of(made) and not blocks_of(plain)
    meant = evaluate(system, data)
    whole = results(made, 1, data, target)
    for output in system.outputs:
        full = whole.arrays[output].copy()
        size = max(1.0, np.abs(meant[output]).max())
        np.testing.assert_allclose(full, meant[output], rtol=0, atol=3e-6 * size)
        for threads in (2, 3, 17):
            again = results(made, threads, data, target)
            assert again.arrays[output].tobytes() == full.tobytes()
        again.shorten(4)
        again.arrays[output][...] = 77
        again.run()
        assert np.array_equal(again.arrays[output][:4], full[:4])


def test_rounded_operands() -> None:
    system, target = prediction(MODELS["attention"], precision="bf16"), near(0.01)
    data = given(system)
    made = plan(system, verified=True, target=target)
    assert blocks_of(made)
    found = results(made, 3, data, target).arrays["y"]
    np.testing.assert_allclose(found, evaluate(system, data)["y"], rtol=0, atol=0.02)


LAYER = "model M(x: f32[B, {n}, {n}, 16]) -> y: f32[B, {n}, {n}, 16] {{ y = x {layers} }}"


def kernels_in_blocks(size: int, layers: str, batch: int) -> list[int]:
    made = plan(prediction(LAYER.format(n=size, layers=layers), batch), target=near(0.75, 8))
    return [len(item.kernels) for item in blocks_of(made)]


def test_layers_stay_together_while_that_moves_fewer_bytes() -> None:
    layer = "|> Conv(16, 3, pad = 1) |> relu"
    assert kernels_in_blocks(32, layer * 4, 64) == [4]
    # in the caches as it is; nothing to share out; an example alone is too large
    assert kernels_in_blocks(2, layer * 4, 64) == []
    assert kernels_in_blocks(32, layer * 4, 4) == []
    assert kernels_in_blocks(256, layer * 2, 8) == []
    # its weights would be read 64 times
    text = """
        model M(x: f32[B, 4096]) -> y: f32[B, 4096] {
            y = x |> Dense(4096) |> relu |> Dense(4096)
        }"""
    assert not blocks_of(plan(prediction(text, 64), target=near(0.75, 8)))


def test_a_training_step_has_none() -> None:
    system = prediction(MODELS["residual"])
    assert not blocks_of(plan(system.replace(batch=0), target=near(0.01)))


def test_what_is_shown() -> None:
    made = plan(prediction(MODELS["residual"]), target=near(0.01))
    (item,) = blocks_of(made)
    text = plan_text(made)
    assert f"blocks {item.fixed[0].name} < 13    # an example at a time" in text
    assert "bytes of a thread's own" in text
    program = CpuProgram(made)
    for kernel in item.kernels:
        nest = program.source.nest(kernel)
        assert all(loop.kind != "parallel" and not loop.per_example for loop in nest.loops)
    before = [k for k in made.items[: made.prologue] if isinstance(k, Kernel)]
    assert all(kernel.examples not in kernel.fixed for kernel in before)
