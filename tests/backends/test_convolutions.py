"""Convolutions and both their gradients: what the evaluator computes, the same bits for any number
of threads, and inner loops without the conditions of the image's border."""

from __future__ import annotations

import platform

import numpy as np
import pytest
from support import gradients, one_in, plan, system, values

from nnc.compiler.elaboration.model import forward as elaborated
from nnc.compiler.ir.equation import System
from nnc.compiler.passes.equations.simplify import simplify
from nnc.compiler.pipeline import LlvmCode
from nnc.compiler.reference.evaluator import evaluate
from nnc.compiler.targets import CPU_TARGETS, CpuTarget
from nnc.dsl.check.checker import load_source
from nnc.dsl.diagnostics.diagnostic import Report
from nnc.dsl.syntax.source import Source
from nnc.runtime.device.cpu.program import CpuProgram

from .assembly import inner_loops

# Along `i` the border is inside of a tile.
FORWARD = """model M(a: f32[N, S, S, C], b: f32[3, 3, C, O]) -> y: f32[N, S, S, O] {
    y[n, i < S, j < S, o] = sum(u, v, c) (a[n, i + u - 1, j + v - 1, c] else 0) * b[u, v, c, o]
}"""
DATA = """model M(a: f32[N, S, S, O], b: f32[3, 3, C, O]) -> y: f32[N, S, S, C] {
    y[n, i < S, j < S, c] = sum(u, v, o) (a[n, i - u + 1, j - v + 1, o] else 0) * b[u, v, c, o]
}"""
WEIGHT = """model M(a: f32[N, S, S, C], b: f32[N, S, S, O]) -> y: f32[3, 3, C, O] {
    y[u < 3, v < 3, c, o] = sum(n, i, j) (a[n, i + u - 1, j + v - 1, c] else 0) * b[n, i, j, o]
}"""


def sized(text: str, n: int, s: int, c: int, o: int) -> str:
    for name, size in (("N", n), ("S", s), ("C", c), ("O", o)):
        text = text.replace(f"[{name}", f"[{size}").replace(f", {name}", f", {size}")
        text = text.replace(f"< {name}", f"< {size}")
    return text


def of(text: str, *sizes: int) -> System:
    return system(sized(text, *sizes), float_type="f32")


@pytest.mark.parametrize("text", [FORWARD, DATA, WEIGHT], ids=["forward", "data", "weight"])
@pytest.mark.parametrize(
    "sizes", [(2, 14, 48, 32), (3, 7, 40, 24), (1, 9, 1030, 18), (1, 5, 18, 2100)], ids=str
)
def test_they_compute_what_the_evaluator_does(text: str, sizes: tuple[int, ...]) -> None:
    """Also with so many channels that a page of zeros does not reach for all of them."""
    before = of(text, *sizes)
    given = {name: value / 8 for name, value in values(before).items()}
    expected = evaluate(before, given, wide=True)["y"]
    found = []
    for threads in (1, 2, 3):
        program = CpuProgram(before, threads)
        for name, value in given.items():
            program.arrays[name][...] = value
        program.run()
        found.append(program.arrays["y"].copy())
    assert np.abs(found[0] - expected).max() <= 1e-5 * np.abs(expected).max()
    assert (found[0] == found[1]).all() and (found[0] == found[2]).all()


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="x86 only")
@pytest.mark.parametrize("text", [FORWARD, DATA], ids=["forward", "data"])
@pytest.mark.parametrize("channels", [64, 512, 1024])
def test_the_border_is_looked_for_outside_of_the_inner_loop(text: str, channels: int) -> None:
    """The rows of a tile that are outside of the image read a page of zeros, forwards and
    backwards: no address is chosen at every step."""
    made = plan(of(text, 1, 14, channels, channels))
    loops = [x for x in inner_loops(CpuProgram(made).assembly) if x.products >= 8]
    assert loops
    assert not [line for x in loops for line in x.lines if "cmov" in line or "vptest" in line]


def order(text: str, target: CpuTarget) -> list[str]:
    """The output loops around the sum, outermost first."""
    made = plan(system(text, float_type="f32"), target=target)
    code = LlvmCode(made, target)
    (nest,) = [code.nest(k) for k in made.kernels if k.anchor.target == "y"]
    return [loop.index.name for loop in nest.outer]


def test_all_that_reads_a_panel_of_a_large_kernel_runs_inside_of_the_loop_over_panels() -> None:
    """A kernel of 2.4 MB is read once, and not once for each place of the image."""
    target = CPU_TARGETS["zen5"]
    large = sized(FORWARD, 8, 14, 256, 256)
    assert order(large, target)[0] == "o"
    assert order(sized(FORWARD, 8, 14, 32, 32), target)[-1] == "o"


def test_each_matrix_of_a_batch_of_products_stays_in_cache_for_itself() -> None:
    text = """model M(a: f32[6, 100, 1000], b: f32[6, 1000, 512]) -> y: f32[6, 100, 512] {
        y[n, i, j] = sum(k) a[n, i, k] * b[n, k, j]
    }"""
    assert order(text, CPU_TARGETS["zen5"]) == ["n", "j", "i"]


# What a network of these layers computes, gradients of all its parameters included.
LAYERS = {
    "grouped": "Conv(24, 3, pad = 1, groups = 3) |> relu |> Conv(10, 3, groups = 2)",
    "grouped and strided": "Conv(32, 3, 2, pad = 1, groups = 2) |> relu |> Conv(8, 1, groups = 4)",
    "window shorter than the step": "Conv(18, 3) |> relu |> Conv(20, 1, 2)",
    "every second place": "Conv(18, 3, pad = 1) |> relu |> Conv(20, 3, 2, pad = 1)",
    "every third place": "Conv(18, 3, pad = 1) |> relu |> Conv(20, 4, 3, pad = 2)",
    "odd sizes": "Conv(7, 2) |> relu |> Conv(20, 5, 2, pad = 2) |> relu |> Conv(5, 3, 2)",
    "several of each": "DepthwiseConv(3, 2, pad = 1, multiplier = 2) |> relu |> Conv(4, 1)",
    "dilated": "Conv(6, 3, pad = 2, dilation = 2) |> relu |> Conv(5, 3, 3, dilation = 2)",
    "transposed": "Conv(6, 3) |> relu |> ConvTranspose(5, 3, 2) |> relu |> ConvTranspose(4, 2, 2)",
    "patches": "Conv(6, 1) |> relu |> Conv(40, 4, 4)",
}  # fmt: skip


@pytest.mark.parametrize("name", one_in(2, LAYERS))
def test_gradients_of_all_kinds_of_convolutions(name: str) -> None:
    text = f"""model M(x: f32[2, 15, 15, 6]) -> loss: f32[] {{
        y = x |> {LAYERS[name]}
        loss = sum(y * y)
    }}"""
    forward = loaded(text)
    params = [t.name for t in forward.of_kind("param")]
    before, names = gradients(forward, "loss", ["x", *params])
    given = {key: value / 8 for key, value in values(before).items()}
    expected = evaluate(before, given, wide=True)
    found = []
    for threads in (1, 2):
        program = CpuProgram(before, threads)
        for key, value in given.items():
            program.arrays[key][...] = value
        program.run()
        for key in names.values():
            off = np.abs(program.arrays[key] - expected[key]).max()
            assert off <= 2e-5 * max(np.abs(expected[key]).max(), 1e-3), key
        found.append([program.arrays[key].tobytes() for key in names.values()])
    assert found[0] == found[1]


def test_gradients_behind_a_step_loop_over_the_terms_that_there_are() -> None:
    """Half of the places of each dimension have no term at all, or one of three; the channels of a
    group are vectors. No element is gathered lane by lane."""
    text = """model M(x: f32[4, 16, 16, 32]) -> loss: f32[] {
        y = x |> Conv(32, KERNEL)
        loss = sum(y * y)
    }"""
    kinds = {
        "1, 2": "o < 32 where 0 <= ",
        "3, 2, pad = 1": "w < 2 where 0 <= ",
        "1, groups = 2": "",
    }
    for kernel, loops in kinds.items():
        target = CPU_TARGETS["zen5"]
        made = plan(
            gradients(loaded(text.replace("KERNEL", kernel)), "loss", ["x"])[0], target=target
        )
        code = LlvmCode(made, target)
        (nest,) = [code.nest(k) for k in made.kernels if k.anchor.target.startswith("d_x")]
        assert loops in str(nest) and "scalar" not in nest.notes[0]
        assert not any("//" in str(a.offset.expr()) for a in nest.accesses.values() if not loops)


def loaded(text: str) -> System:
    report = Report()
    checked = load_source(Source("test.nn", text), report)
    report.check()
    return simplify(elaborated(checked.definitions, "M", {}))


def test_what_is_read_after_a_sum_without_terms_keeps_its_own_check() -> None:
    """Both ask for the same place before the first one; the sum alone is skipped there."""
    before = system(
        """model M(x: f32[9, 20], w: f32[20, 32], c: f32[9, 32]) -> y: f32[9, 32] {
        z[t < 9, o] = sum(k) (x[t - 1, k] else 0) * w[k, o]
        y[t, o] = z[t, o] + (c[t - 1, o] else 2.0) * (x[t - 1, 3] else 0)
    }""",
        float_type="f32",
    )
    given = values(before)
    program = CpuProgram(before)
    for name, value in given.items():
        program.arrays[name][...] = value
    program.run()
    np.testing.assert_allclose(program.arrays["y"], evaluate(before, given)["y"], atol=1e-5)
