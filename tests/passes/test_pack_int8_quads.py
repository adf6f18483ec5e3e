"""Quads of 8 bits: the same sums, by every way in which processors compute them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nnc.compiler import pipeline
from nnc.compiler.ir.build import call, cast, literal
from nnc.compiler.ir.equation import Equation, Index, System, Tensor
from nnc.compiler.ir.expr import Idx, Read
from nnc.compiler.ir.verify import verify
from nnc.compiler.options import Options
from nnc.compiler.passes.cpu.pack_int8_quads import pack_int8_quads
from nnc.compiler.passes.equations.views import views
from nnc.compiler.reference.evaluator import evaluate
from nnc.compiler.targets import CPU_TARGETS
from nnc.runtime.device.cpu import features, host
from nnc.runtime.device.cpu.program import CpuProgram


def dense(rows: int, terms: int, columns: int, zero: int | None = None) -> System:
    """y[b, o] = sum(i) u8(x[b, i + shift]) * w[i, o], beyond the end `zero`."""
    tensors = {
        "x": Tensor("x", (rows, terms), "f32", "input"),
        "w": Tensor("w", (terms, columns), "i8", "param", "= 0"),
        "q": Tensor("q", (rows, terms), "u8"),
        "y": Tensor("y", (rows, columns), "i32"),
    }
    b, i, o = (Index(n, s) for n, s in (("b", rows), ("i", terms), ("o", columns)))
    given = Read("x", (Idx("b"), Idx("i")), None, "f32")
    codes = Equation("q", (b, i), cast(call("max", call("min", given, 255.0), 0.0), "u8"))
    row = Idx("b") if zero is None else call("add", Idx("b"), -1)
    other = None if zero is None else literal(zero, "u8")
    x, w = Read("q", (row, Idx("i")), other, "u8"), Read("w", (Idx("i"), Idx("o")), None, "i8")
    total = Equation("y", (b, o), call("mul", x, w), "sum", (i,))
    return verify(System("dense", tensors, (codes, total), ("y",)), "the test")


def values(system: System, extreme: bool = False) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    x, w = (system.tensors[n].shape for n in "xw")
    if extreme:  # where sums of two products are beyond 16 bits
        return {"x": np.full(x, 255, np.float32), "w": np.full(w, -128, np.int8)}
    return {
        "x": rng.integers(0, 256, x).astype(np.float32),
        "w": rng.integers(-128, 128, w).astype(np.int8),
    }


def ran(system: System, given: dict[str, np.ndarray]) -> np.ndarray:
    program = CpuProgram(system, 1)
    for name, value in given.items():
        program.arrays[name][...] = value
    program.run()
    return program.arrays["y"].copy()


def test_the_rewrite():
    system = dense(5, 24, 17, zero=7)
    packed = verify(pack_int8_quads(system), "pack-int8-quads")
    total = packed.definition["y"]
    assert total.body.fn == "int8_dot" and [i.size for i in total.over] == [6]
    # four zero points beside each other
    assert total.body.args[0].other.value == 0x07070707
    assert views(packed) == {"q_quads": "q"}
    for extreme in (False, True):
        given = values(system, extreme)
        assert np.array_equal(evaluate(packed, given)["y"], evaluate(system, given)["y"])
    expected = np.pad(given["x"], ((1, 0), (0, 0)), constant_values=7)[:5] @ given["w"].astype(
        float
    )
    assert np.array_equal(evaluate(packed, given)["y"], expected)


def test_what_is_not_packed():
    for system in (dense(5, 22, 17), _signed(dense(5, 24, 17)), _changing(dense(5, 24, 17))):
        assert pack_int8_quads(system) is system


def _signed(system: System) -> System:
    """With activations of the other sign."""
    codes, total = system.equations
    body = cast(codes.body.args[0], "i8")
    x = Read("q", (Idx("b"), Idx("i")), None, "i8")
    product = call("mul", x, Read("w", (Idx("i"), Idx("o")), None, "i8"))
    tensors = {**system.tensors, "q": replace(system.tensors["q"], dtype="i8")}
    return system.replace(
        tensors=tensors, equations=(codes.with_body(body), total.with_body(product))
    )


def _changing(system: System) -> System:
    """With weights that are given at every run."""
    return system.replace(
        tensors={**system.tensors, "w": replace(system.tensors["w"], kind="input")}
    )


@pytest.mark.parametrize("target", ["generic-avx512", "generic-avx2", "generic-sse", ""])
def test_every_processor_gives_the_same(target, monkeypatch):
    if target:
        if CPU_TARGETS[target].lanes > features.vectors()[0]:
            pytest.skip(f"this processor is no {target}")
        monkeypatch.setenv("NNC_TARGET", target)
    for shape in ((1, 16, 40), (7, 36, 17), (3, 260, 5)):
        system = dense(*shape)
        for extreme in (False, True):
            given = values(system, extreme)
            assert np.array_equal(ran(system, given), evaluate(system, given)["y"])


def test_the_instruction_is_used_where_there_is_one():
    system = dense(8, 64, 64)

    def text(**changes) -> str:
        target = replace(CPU_TARGETS["icelake-server"], **changes)
        return pipeline.compile(system, target, Options()).text

    assert "vpdpbusd.512" in text() and "pmaddw" not in text()
    assert "pmaddw.d.512" in text(vnni=False) and "vpdpbusd" not in text(vnni=False)
    neon = pipeline.compile(system, CPU_TARGETS["generic-neon"], Options()).text
    assert "int8" not in neon and "vpdpbusd" not in neon
    assert host.target().vnni == features.vnni()
