"""Types that are narrower than what is computed with: every value of them on the evaluator, the CPU
and the simulated GPU, and a dense layer of whole numbers beside NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from support import system as elaborate

from nnc.compiler.ir.build import call
from nnc.compiler.ir.dtypes import NUMPY
from nnc.compiler.ir.equation import System, Tensor
from nnc.compiler.ir.expr import Idx, Read
from nnc.compiler.ir.verify import verify
from nnc.compiler.targets import CPU_TARGETS
from nnc.runtime.device.cpu.program import CpuProgram

from .test_random_integers import elementwise, everywhere


def conversions(values: np.ndarray, source: str, kinds: tuple[str, ...]) -> System:
    """The values, given as the tensor `x`, in each of some types."""
    tensors = {"x": Tensor("x", values.shape, source, "input")}
    equations = []
    for kind in kinds:
        body = call(kind, Read("x", (Idx("i"),), None, source))
        equation, tensors[kind] = elementwise(kind, len(values), body)
        equations.append(equation)
    return verify(System("casts", tensors, tuple(equations), kinds), "the test")


def test_every_i8_is_itself_in_wider_types_and_keeps_its_bits_in_u8() -> None:
    values = np.arange(-128, 128).astype(np.int8)
    kinds = ("bool", "u8", "i32", "i64", "f32", "f64")
    system = conversions(values, "i8", kinds)
    for found in everywhere(system, {"x": values}):
        for kind in kinds:
            np.testing.assert_array_equal(found[kind], values.astype(NUMPY[kind]), err_msg=kind)


@pytest.mark.parametrize("source", ["i32", "i64", "u8"])
def test_the_low_bits_of_a_whole_number_are_an_i8(source: str) -> None:
    values = np.arange(-400, 400).astype(NUMPY[source])
    for found in everywhere(conversions(values, source, ("i8",)), {"x": values}):
        np.testing.assert_array_equal(found["i8"], values.astype(np.int8))


@pytest.mark.parametrize("source", ["f32", "f64"])
def test_real_numbers_are_cut_to_i8_and_saturate(source: str) -> None:
    beyond = [np.inf, -np.inf, np.nan, 3e9, -3e9, 127.99, -128.99, -0.0]
    values = np.array([*np.arange(-130, 130, 0.25), *beyond], NUMPY[source])
    expected = np.trunc(np.clip(np.nan_to_num(values, nan=0), -128, 127)).astype(np.int8)
    for found in everywhere(conversions(values, source, ("i8",)), {"x": values}):
        np.testing.assert_array_equal(found["i8"], expected)


@pytest.mark.parametrize("target", ["generic-avx512", "generic-avx2", "generic-sse"])
@pytest.mark.parametrize("kinds", [("i8", "i8"), ("u8", "i8"), ("u8", "u8")])
def test_every_product_of_8_bits(kinds: tuple[str, str], target: str) -> None:
    a, b = (np.arange(*((-128, 128) if kind == "i8" else (0, 256))) for kind in kinds)
    text = f"""model M(a: {kinds[0]}[256], b: {kinds[1]}[256]) -> p: i32[256, 256], s: i32[256] {{
        p[i, j] = a[i] * b[j]
        s[j] = sum(i) a[i] * b[j]
    }}"""
    program = CpuProgram(elaborate(text, "M", "f32"), target=CPU_TARGETS[target])
    program.arrays["a"][...], program.arrays["b"][...] = a, b
    program.run()
    np.testing.assert_array_equal(program.arrays["p"], np.outer(a, b))
    np.testing.assert_array_equal(program.arrays["s"], a.sum() * b)
    assert "pmadd" in program.llvm


QUANTISED = """
fn quantised(x, scale) = i8(round(min(max(x / scale, -127), 127)))

model Q(x: f32[7, 50], w: i8[50, 19], s: f32[19])
        -> q: i8[7, 50], sums: i32[7, 19], y: f32[7, 19], least: i8[7], at: i32[7], n: i32[256] {
    q = quantised(x, 0.0625)
    sums[b, o] = sum(i) q[b, i] * w[i, o]
    y[b, o] = 0.0625 * f32(sums[b, o]) * s[o]
    least[b] = min(i) q[b, i]
    at[b] = argmax(i) q[b, i]
    n[q[b, i] + 128 < 256] += 1
}
"""


def test_a_quantised_dense_layer_is_numpys() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 4, (7, 50)).astype(np.float32)
    w = rng.integers(-128, 128, (50, 19)).astype(np.int8)
    s = rng.uniform(0.01, 1, 19).astype(np.float32)
    q = np.rint(np.clip(x / np.float32(0.0625), -127, 127)).astype(np.int8)
    sums = q.astype(np.int32) @ w.astype(np.int32)
    counts = np.bincount(q.ravel().astype(int) + 128, minlength=256)
    expected = {
        "q": q, "sums": sums, "y": np.float32(0.0625) * sums.astype(np.float32) * s,
        "least": q.min(1), "at": q.argmax(1), "n": counts,
    }  # fmt: skip
    system = verify(elaborate(QUANTISED, "Q", "f32"), "elaborate")
    for found in everywhere(system, {"x": x, "w": w, "s": s}):
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)
        assert found["q"].dtype == np.int8
