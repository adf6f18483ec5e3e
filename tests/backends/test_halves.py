"""f16 and bf16: every number of them in memory and out of it, and every rounding to them, on the
evaluator, on CPUs with instructions for them and without, and on the simulated GPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pytest
from gpu_simulator import SimulatedProgram
from llvmlite import binding as llvm
from support import system as elaborate

from nnc.compiler.ir.build import call
from nnc.compiler.ir.dtypes import HALVES, NUMPY
from nnc.compiler.ir.equation import Equation, Index, System, Tensor
from nnc.compiler.ir.expr import Idx, Read
from nnc.compiler.ir.functions import halves, of_halves
from nnc.compiler.ir.verify import verify
from nnc.compiler.reference.evaluator import evaluate
from nnc.compiler.targets import CPU_TARGETS
from nnc.runtime.device.cpu.program import CpuProgram

pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
PATTERNS = np.arange(2**16, dtype=np.uint16)
# with AVX-512, with F16C alone, and without instructions for f16
TARGETS = ("generic-avx512", "generic-avx2", "generic-sse")


MIXED = """
model M(x: f16[64, 64], w: bf16[64, 64],
        v: f32[64]) -> y: f16[64, 64], z: bf16[64, 64], h: f16[64, 64] {
    y[n, o] = sum(i) x[n, i] * w[i, o] + v[o]
    z[n, o] = y[n, o] - f16(v[o])
    h[n, o] = 0.9 * (h[n, o - 1] else 0) + x[n, o]
}
"""


def everywhere(system: System, given: dict[str, np.ndarray]) -> Iterator[Mapping[str, np.ndarray]]:
    yield evaluate(system, given)
    programs = [CpuProgram(system, target=CPU_TARGETS[name]) for name in TARGETS]
    for program in (*programs, SimulatedProgram(system)):
        for name, value in given.items():
            program.arrays[name][...] = value
        program.run()
        yield program.arrays


def converted(source: Tensor, target: Tensor, rounded: str = "") -> System:
    """The elements of one tensor in another: rounded if that is stored in 16 bits, or is told."""
    body = call(target.dtype, Read("x", (Idx("i"),), None, source.dtype))
    rounded = target.storage or rounded
    body = call(rounded, body) if rounded else body
    equation = Equation("y", (Index("i", source.size),), body)
    return verify(System("casts", {"x": source, "y": target}, (equation,), ("y",)), "the test")


def same(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal numbers with equal signs; every NaN is one."""
    found = np.asarray(found, np.float64)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(
        np.signbit(found),
        np.signbit(expected) & ~np.isnan(expected) | np.signbit(found) & np.isnan(expected),
    )


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("storage", HALVES)
def test_every_number_is_loaded_and_stored_as_it_is(storage: str, dtype: str) -> None:
    values = of_halves(PATTERNS, storage).astype(NUMPY[dtype])
    half = Tensor("x", values.shape, dtype, "input", storage=storage)
    wide = Tensor("y", values.shape, dtype)
    for found in everywhere(converted(half, wide), {"x": values}):
        same(found["y"], values)
    again = Tensor("y", values.shape, dtype, storage=storage)
    for found in everywhere(converted(half, again), {"x": values}):
        same(found["y"], values)
    if storage == "f16":  # NumPy has the same numbers
        same(PATTERNS.view(np.float16), values)


def between(storage: str, dtype: str) -> np.ndarray:
    """The ties between neighbours, what is next to these on either side, and what is beyond."""
    numbers = of_halves(PATTERNS, storage).astype(np.float64)
    numbers = np.sort(numbers[np.isfinite(numbers)])
    ties = ((numbers[1:] + numbers[:-1]) / 2).astype(NUMPY[dtype])
    largest = {"f16": 65504.0, "bf16": 2.0**128 - 2.0**120}[storage]
    unit = {"f16": 32.0, "bf16": 2.0**120}[storage]
    ends = np.array([largest, largest + unit / 2, np.inf, 1e-40, 0.0], NUMPY[dtype])
    ends = np.concatenate([ends, np.nextafter(ends, 0), -ends, [np.nan]])
    near = [np.nextafter(ties, way, dtype=NUMPY[dtype]) for way in (-np.inf, np.inf)]
    return np.concatenate([ties, *near, ends]).astype(NUMPY[dtype])


def nearest(values: np.ndarray, storage: str) -> np.ndarray:
    """The nearest numbers of the format, by a search among all of them."""
    bits = PATTERNS[: 0x7C00 if storage == "f16" else 0x7F80]
    numbers = of_halves(bits, storage).astype(np.float64)
    numbers = np.append(numbers, 2 * numbers[-1] - numbers[-2])  # what rounds to infinity
    size = np.abs(values.astype(np.float64))
    above = np.clip(np.searchsorted(numbers, size), 1, len(numbers) - 1)
    low, high = numbers[above - 1], numbers[above]
    up = (size - low > high - size) | ((size - low == high - size) & (above % 2 == 0))
    found = np.where(up, high, low)
    found = np.where(found == numbers[-1], np.inf, found)
    return np.copysign(np.where(np.isnan(size), np.nan, found), values)


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("storage", HALVES)
def test_every_tie_and_what_is_next_to_it_is_rounded_to_nearest(storage: str, dtype: str) -> None:
    values = between(storage, dtype)
    expected = nearest(values, storage)
    given = Tensor("x", values.shape, dtype, "input")
    for own in ("", storage):
        system = converted(given, Tensor("y", values.shape, dtype, storage=own), storage)
        for found in everywhere(system, {"x": values}):
            same(found["y"], expected)


@pytest.mark.parametrize("storage", HALVES)
def test_pytorch_rounds_so_too(storage: str) -> None:
    torch = pytest.importorskip("torch")
    values = between(storage, "f32")
    theirs = torch.from_numpy(values).to({"f16": torch.float16, "bf16": torch.bfloat16}[storage])
    same(of_halves(halves(values, storage), storage), theirs.to(torch.float64).numpy())


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize(
    ("target", "processor", "converts"),
    [("generic-avx512", "x86-64-v4", True), ("generic-avx2", "x86-64-v3", True),
     ("generic-sse", "x86-64-v2", False)],
)  # fmt: skip
def test_no_library_converts(target: str, processor: str, converts: bool, dtype: str) -> None:
    """What a processor has no instruction for is computed in place."""
    system = elaborate(MIXED, "M", dtype)
    text = CpuProgram(system, target=CPU_TARGETS[target]).llvm
    machine = llvm.Target.from_triple("x86_64-unknown-linux-gnu").create_target_machine(
        cpu=processor, opt=3, reloc="pic"
    )
    assembly = machine.emit_assembly(llvm.parse_assembly(text))
    assert "__trunc" not in assembly and "__extend" not in assembly
    assert ("vcvtph2ps" in assembly) == converts
    assert ("vcvtps2ph" in assembly) == (converts and dtype == "f32")
