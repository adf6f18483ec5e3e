"""What later kernels read from memory is prefetched while a product is computed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support import system, values

from nnc.compiler.passes.kernels.printer import plan_text
from nnc.compiler.reference.evaluator import evaluate
from nnc.compiler.targets import CpuTarget
from nnc.runtime.device.cpu import host
from nnc.runtime.device.cpu.program import CpuProgram

CHAIN = """model M(x: f32[96, 64], v: f32[64, 64], w: f32[64, 64]) -> r: f32[96, 64] {
    y[i, j] = sum(k) x[i, k]*v[k, j]
    z[i, j] = sum(k) y[i, k]*v[k, j]
    r[i, j] = sum(k) z[i, k]*w[k, j]
}"""


def small(**more: int) -> CpuTarget:
    """A computer with almost no cache."""
    limits = replace(host.target().prefetch, near_bytes=60 << 10, min_bytes=1 << 10, **more)
    return replace(host.target(), prefetch=limits)


def prefetched(program: CpuProgram) -> dict[str, list[str]]:
    return {kernel.name: list(names) for kernel, names in program.plan.prefetch.items()}


def test_what_is_in_a_cache_is_not_prefetched() -> None:
    assert prefetched(CpuProgram(system(CHAIN, float_type="f32"))) == {}


def test_a_product_prefetches_what_the_next_one_reads_from_memory() -> None:
    # v was read just before z; for y, the kernels of the next step are those of this one
    program = CpuProgram(system(CHAIN, float_type="f32"), target=small())
    assert prefetched(program) == {"z": ["w"], "r": ["x", "v"]}
    assert plan_text(program.plan).count("# prefetches for later kernels: x, v\n") == 1


def test_a_kernel_prefetches_no_more_than_a_share_of_the_cache() -> None:
    # v has 16 KB, x has 24
    program = CpuProgram(system(CHAIN, float_type="f32"), target=small(max_bytes=20 << 10))
    assert prefetched(program) == {"z": ["w"], "r": ["v"]}


def test_a_map_prefetches_nothing() -> None:
    text = (
        CHAIN.replace("sum(k) y[i, k]*v[k, j]", "y[i, j]*2.0")
        .replace("r[", "q[")
        .replace("\n}", "\n    r[i, j] = tanh(q[i, j])*x[i, j]\n}")
    )
    found = prefetched(CpuProgram(system(text, float_type="f32"), target=small()))
    assert found and not found.keys() - {"y", "q"}


@pytest.mark.parametrize("rows", [96, 97, 131])
def test_prefetching_changes_no_value(rows: int) -> None:
    whole = system(CHAIN.replace("96", str(rows)), float_type="f32")
    given = values(whole)
    expected, results = evaluate(whole, given)["r"], []
    for threads in (1, 2, 3):
        program = CpuProgram(whole, threads=threads, target=small())
        assert "llvm.prefetch" in program.llvm
        for name, value in given.items():
            program.arrays[name][...] = value
        program.run()
        results.append(program.arrays["r"].tobytes())
        np.testing.assert_allclose(program.arrays["r"], expected, rtol=1e-3, atol=1e-3)
    assert len(set(results)) == 1
