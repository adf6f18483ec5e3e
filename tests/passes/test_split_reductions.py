"""Long sums of few results in parts."""

from __future__ import annotations

import numpy as np
import pytest
from support import TARGET, plan, system, values

from nnc.compiler.ir.verify import verify
from nnc.compiler.passes.cpu.lower import lower
from nnc.compiler.passes.equations.pack_constants import pack_constants
from nnc.compiler.passes.equations.split_reductions import split_reductions
from nnc.compiler.reference.evaluator import evaluate
from nnc.compiler.targets import CPU_TARGETS
from nnc.runtime.device.cpu.program import CpuProgram

LONG = """model M(x: f32[{B}, 700, 16], y: f32[{B}, 700, 3]) -> k: f32[16, 3], b: f32[16] {{
    k[i, o] = sum(n, t) x[n, t, i]*y[n, t, o]
    b[i] = sum(n, t) x[n, t, i]
}}"""


@pytest.mark.parametrize(("batch", "parts"), [(24, 8), (35, 7), (26, 13), (23, 0)])
def test_a_long_sum_is_done_in_equal_parts(batch: int, parts: int) -> None:
    whole = system(LONG.format(B=batch))
    done = verify(split_reductions(whole, TARGET), "split-reductions")
    if not parts:  # a prime number of rows: whole, or each for itself
        assert "b_parts" not in done.tensors
        assert done.tensors["k_parts"].shape == (batch, 16, 3)
        return
    assert done.tensors["k_parts"].shape == (parts, 16, 3)
    given = values(whole)
    expected, found = evaluate(whole, given), evaluate(done, given)
    for name in whole.outputs:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-11, atol=1e-9)


def test_short_sums_and_those_of_many_results_stay_whole() -> None:
    text = """model M(x: f32[64, 8], w: f32[64, 4096]) -> a: f32[8], b: f32[8, 4096] {
        a[i] = sum(n) x[n, i]
        b[i, j] = sum(n) x[n, i]*w[n, j]
    }"""
    whole = system(text)
    assert split_reductions(whole, TARGET) is whole


def test_parts_give_the_same_bits_on_any_number_of_threads() -> None:
    whole = system(LONG.format(B=24), float_type="f32")
    given, results = values(whole), []
    for threads in (1, 2, 3, 4):
        program = CpuProgram(plan(whole), threads=threads)
        for name, value in given.items():
            program.arrays[name][...] = value
        program.run()
        results.append([program.arrays[name].tobytes() for name in whole.outputs])
    assert all(r == results[0] for r in results)


@pytest.mark.parametrize("width", [512, 256])
def test_sums_over_panels_stay_whole_where_threads_have_enough_of_them(width: int) -> None:
    text = f"""model M(x: f32[1, 1024]) -> y: f32[1, {width}] {{
        param w: [1024, {width}] = 1
        y[b, o] = sum(i) x[b, i]*w[i, o]
    }}"""
    whole = system(text, float_type="f32")
    before = pack_constants(whole, TARGET)
    after = verify(split_reductions(before, TARGET), "split-reductions")
    assert ("y_parts" in split_reductions(whole, TARGET).tensors) and "w_packed" in before.tensors
    assert ("y_parts" in after.tensors) == (width == 256)
    given = {name: value / 8 for name, value in values(whole).items()}
    expected, found = evaluate(whole, given)["y"], []
    for threads in (1, 2, 3):
        program = CpuProgram(plan(after), threads=threads)
        for name, value in given.items():
            program.arrays[name][...] = value
        program.run()
        np.testing.assert_allclose(program.arrays["y"], expected, rtol=1e-5, atol=1e-5)
        found.append(program.arrays["y"].tobytes())
    assert all(f == found[0] for f in found)


ROWS = """model M(x: f32[12, 60, 60, 5], y: f32[12, 60, 60, 40], w: f32[43200, 6]) -> k, z {
    k[u < 3, v < 3, q, o] = sum(n, i, j) (x[n, i + u - 1, j + v - 1, q] else 0) * y[n, i, j, o]
    z[o, q] = sum(p) y[p // 3600, p // 60 % 60, p % 60, o] * w[p, q]
}"""


def test_rows_of_two_tables_are_summed_in_parts_that_stay_in_the_cache() -> None:
    """Whole indices first, then equal parts of one; the results of any number of threads agree."""
    whole = system(ROWS, float_type="f32")
    target = CPU_TARGETS["generic-avx512"]
    done = verify(split_reductions(whole, target), "split-reductions")
    assert done.tensors["k_parts"].shape == (12, 2, 3, 3, 5, 40)
    (parts,) = (eq for eq in done.equations if eq.target == "k_parts")
    assert [i.size for i in parts.over] == [30, 60]
    given = {name: value / 8 for name, value in values(whole).items()}
    expected, found = evaluate(whole, given, wide=True), []
    for threads in (1, 2, 3):
        program = CpuProgram(plan(whole, target=target), threads=threads)
        for name, value in given.items():
            program.arrays[name][...] = value
        program.run()
        off = np.abs(program.arrays["k"] - expected["k"]).max()
        assert off <= 1e-5 * np.abs(expected["k"]).max()
        found.append(program.arrays["k"].tobytes())
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(("columns", "parts"), [(48, 3), (64, 0)])
def test_a_sum_that_cache_blocks_divide_is_not_done_in_parts(columns: int, parts: int) -> None:
    """Of a result as wide as a tile's vectors, whatever the number of threads."""
    whole = system(
        f"""model M(x: f32[60, 70, 64], y: f32[60, 70, {columns}]) -> k {{
            k[q, o] = sum(n, i) x[n, i, q] * y[n, i, o]
        }}""",
        float_type="f32",
    )
    target = CPU_TARGETS["generic-avx512"]
    done = split_reductions(whole, target)
    assert (done.tensors["k_parts"].shape[0] if parts else "k_parts" in done.tensors) == parts
    given = {name: value / 8 for name, value in values(whole).items()}
    expected, found = evaluate(whole, given, wide=True)["k"], []
    planned = plan(whole, target=target)
    if not parts:
        (kernel,) = planned.kernels
        nest = lower(kernel, planned, target)
        assert nest.blocks is not None and nest.blocks.partial == "f64"
    for threads in (1, 2, 3):
        program = CpuProgram(planned, threads=threads)
        for name, value in given.items():
            program.arrays[name][...] = value
        program.run()
        assert np.abs(program.arrays["k"] - expected).max() <= 1e-5 * np.abs(expected).max()
        found.append(program.arrays["k"].tobytes())
    assert found[0] == found[1] == found[2]


def test_a_product_along_its_rows_stays_whole() -> None:
    """Its results are many beside its factors: the parts would be."""
    text = """model M(x: f32[64, 20000], w: f32[20000, 64], v: f32[5000, 700]) -> y, z {
        y[i, j] = sum(k) x[i, k]*w[k, j]
        z[i, j] = sum(k) v[k, i]*v[k, j]
    }"""
    whole = system(text, float_type="f32")
    done = split_reductions(whole, CPU_TARGETS["generic-avx512"])
    assert "y_parts" not in done.tensors and "z_parts" not in done.tensors
