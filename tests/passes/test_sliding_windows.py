"""Windows that slide over the rows of a tile: which sums have one, and that values stay."""

from __future__ import annotations

import numpy as np
import pytest
from support import TARGET, gradients, plan, system, values

from nnc.compiler.ir.equation import System
from nnc.compiler.passes.cpu.loop_ir import Nest
from nnc.compiler.pipeline import LlvmCode
from nnc.compiler.reference.evaluator import evaluate
from nnc.compiler.targets import CPU_TARGETS
from nnc.runtime.device.cpu.program import CpuProgram

SUMS = {
    "border": "(a: f32[2, 9, 20, 8], b: f32[3, 3, 8, 16]) -> y { y[n, i < 9, j < 20, o] ="
    " sum(u, v, c) (a[n, i + u - 1, j + v - 1, c] else 0) * b[u, v, c, o] }",
    "interior": "(a: f32[3, 12, 20, 8], b: f32[3, 5, 8, 40]) -> y { y[n, i < 10, j < 16, o] ="
    " sum(u, v, c) a[n, i + u, j + v, c] * b[u, v, c, o] }",
    "depthwise": "(a: f32[2, 8, 9, 32], b: f32[3, 3, 32]) -> y { y[n, i < 8, j < 9, o] ="
    " sum(u, v) (a[n, i + u - 1, j + v - 1, o] else 0) * b[u, v, o] }",
    "difference": "(a: f32[2, 9, 20, 8], b: f32[3, 3, 8, 16]) -> y { y[n, i < 9, j < 20, o] ="
    " sum(u, v, c) (a[n, i - u + 1, j - v + 1, c] else 0) * b[u, v, c, o] }",
    "one dimension": "(a: f32[4, 60, 16], b: f32[3, 16, 32]) -> y { y[n, t < 60, o] ="
    " sum(u, c) (a[n, t + u - 2, c] else 0) * b[u, c, o] }",
    "long": "(a: f32[1, 9, 20, 300], b: f32[3, 3, 300, 16]) -> y { y[n, i < 9, j < 20, o] ="
    " sum(u, v, c) (a[n, i + u - 1, j + v - 1, c] else 0) * b[u, v, c, o] }",
    "epilogue": "(a: f32[2, 9, 20, 8], b: f32[3, 3, 8, 16], d: f32[16]) -> y { z[n, i < 9, j < 20,"
    " o] = sum(u, v, c) (a[n, i + u - 1, j + v - 1, c] else 0) * b[u, v, c, o]\n"
    " y[n, i, j, o] = max(z[n, i, j, o] + d[o], 0) }",
}  # fmt: skip


def _nests(source: System) -> list[Nest]:
    code = LlvmCode(plan(source, target=TARGET), TARGET)
    return [code.nest(kernel) for kernel in code.plan.kernels]


def _run(source: System, threads: int) -> dict[str, np.ndarray]:
    program = CpuProgram(plan(source, target=TARGET), threads, TARGET)
    for name, value in values(source).items():
        program.arrays[name][...] = value
    program.run()
    return {name: np.array(program.arrays[name]) for name in source.outputs}


def _same(source: System) -> None:
    exact = evaluate(source, values(source), wide=True)
    first, other = (_run(source, threads) for threads in (1, 2))
    for name in source.outputs:
        scale = np.abs(exact[name]).max()
        np.testing.assert_allclose(first[name], exact[name], rtol=0, atol=2e-6 * scale)
        assert first[name].tobytes() == other[name].tobytes()


@pytest.mark.parametrize("name", SUMS)
def test_values(name: str) -> None:
    source = system(f"model M{SUMS[name]}", float_type="f32")
    (found,) = (nest for nest in _nests(source) if nest.sliding)
    sliding = found.sliding
    assert sliding is not None and sliding.sign == (-1 if name == "difference" else 1)
    # The window is the innermost loop, all steps at once.
    assert found.inner[-1].index.name == sliding.window
    assert [s.tile for s in found.inner[-1].segments] == [sliding.steps]
    _same(source)


def test_gradients() -> None:
    text = """model M(x: f32[2, 8, 16, 8], w: f32[3, 3, 8, 16], v: f32[3, 3, 16, 32]) -> loss {
        z[n, i < 8, j < 16, o] = sum(u, q, c) (x[n, i+u-1, j+q-1, c] else 0) * w[u, q, c, o]
        h[n, i, j, o] = max(z[n, i, j, o], 0)
        y[n, i < 8, j < 16, o] = sum(u, q, c) (h[n, i+u-1, j+q-1, c] else 0) * v[u, q, c, o]
        loss = mean(...) y[...]^2
    }"""
    whole, _ = gradients(system(text, float_type="f32"), "loss", ["w", "v"])
    signs = {nest.sliding.sign for nest in _nests(whole) if nest.sliding}
    assert signs == {1, -1}  # forward, and towards the input
    _same(whole)


@pytest.mark.parametrize(
    "text",
    [
        # every second column: neighbours share one element of three
        "(a: f32[2, 19, 41, 8], b: f32[3, 3, 8, 16]) -> y { y[n, i < 9, j < 20, o] ="
        " sum(u, v, c) a[n, 2 * i + u, 2 * j + v, c] * b[u, v, c, o] }",
        # a window of one element, and one that is too long to be unrolled
        "(a: f32[64, 32], b: f32[32, 48]) -> y { y[i, o] = sum(c) a[i, c] * b[c, o] }",
        "(a: f32[2, 160, 4], b: f32[31, 4, 16]) -> y { y[n, t < 130, o] ="
        " sum(u, c) a[n, t + u, c] * b[u, c, o] }",
    ],
)
def test_sums_without_a_window(text: str) -> None:
    assert not any(n.sliding for n in _nests(system(f"model M{text}", float_type="f32")))


def test_what_several_steps_read_is_loaded_once() -> None:
    """A tile of 16 rows and 3 steps reads 18 elements and 3 vectors, not 48 and 3."""
    text = "(a: f32[1, 3, 64, 64], b: f32[3, 3, 64, 16]) -> y { y[n, i < 1, j < 64, o] ="
    text += " sum(u, v, c) (a[n, i + u, j + v - 1, c] else 0) * b[u, v, c, o] }"
    target = CPU_TARGETS["icelake-server"]
    source = system(f"model M{text}", float_type="f32")
    code = LlvmCode(plan(source, target=target), target)
    (kernel,) = code.plan.kernels
    nest = code.nest(kernel)
    assert nest.sliding is not None
    tiles = [s.tile for s in next(x for x in nest.outer if x.index.name == "j").segments]
    loads = code.text.count("= load float")
    assert max(tiles) >= 12 and loads == sum(rows + nest.sliding.steps - 1 for rows in tiles)
