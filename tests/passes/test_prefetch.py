"""What the next kernels read from far is asked for while a product is computed."""

from __future__ import annotations

import numpy as np
import pytest
from support import system, values

from nnc.compiler.passes.kernels import prefetch as pass_
from nnc.compiler.passes.kernels.printer import plan_text
from nnc.compiler.reference.evaluator import evaluate
from nnc.runtime.device.cpu.program import CpuProgram

CHAIN = """model M(x: f32[96, 64], v: f32[64, 64], w: f32[64, 64]) -> r: f32[96, 64] {
    y[i, j] = sum(k) x[i, k]*v[k, j]
    z[i, j] = sum(k) y[i, k]*v[k, j]
    r[i, j] = sum(k) z[i, k]*w[k, j]
}"""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A computer with almost no cache."""
    monkeypatch.setattr(pass_, "NEAR", 60 << 10)
    monkeypatch.setattr(pass_, "LEAST", 1 << 10)


def asked(program: CpuProgram) -> dict[str, list[str]]:
    return {kernel.name: list(names) for kernel, names in program.plan.prefetch.items()}


def test_what_is_in_a_cache_is_not_asked_for() -> None:
    assert asked(CpuProgram(system(CHAIN, float_type="f32"))) == {}


@pytest.mark.usefixtures("small")
def test_a_product_asks_for_what_the_next_one_reads_from_far() -> None:
    # v was read just before z; for y, the kernels of the next step are those of this one
    program = CpuProgram(system(CHAIN, float_type="f32"))
    assert asked(program) == {"z": ["w"], "r": ["x", "v"]}
    assert plan_text(program.plan).count("# meanwhile asks for what comes next: x, v\n") == 1


@pytest.mark.usefixtures("small")
def test_a_kernel_asks_for_no_more_than_a_share_of_the_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pass_, "MOST", 20 << 10)  # v has 16 KB, x has 24
    program = CpuProgram(system(CHAIN, float_type="f32"))
    assert asked(program) == {"z": ["w"], "r": ["v"]}


@pytest.mark.usefixtures("small")
def test_a_map_asks_for_nothing() -> None:
    text = (
        CHAIN.replace("sum(k) y[i, k]*v[k, j]", "y[i, j]*2.0")
        .replace("r[", "q[")
        .replace("\n}", "\n    r[i, j] = tanh(q[i, j])*x[i, j]\n}")
    )
    found = asked(CpuProgram(system(text, float_type="f32")))
    assert found and not found.keys() - {"y", "q"}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("rows", [96, 97, 131])
def test_asking_changes_no_value(rows: int) -> None:
    whole = system(CHAIN.replace("96", str(rows)), float_type="f32")
    given = values(whole)
    expected, results = evaluate(whole, given)["r"], []
    for threads in (1, 2, 3):
        program = CpuProgram(whole, threads=threads)
        assert "llvm.prefetch" in program.llvm
        for name, value in given.items():
            program.arrays[name][...] = value
        program.run()
        results.append(program.arrays["r"].tobytes())
        np.testing.assert_allclose(program.arrays["r"], expected, rtol=1e-3, atol=1e-3)
    assert len(set(results)) == 1
