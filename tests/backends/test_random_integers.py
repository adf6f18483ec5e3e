"""Random systems over integers: the evaluator, LLVM code and CUDA code give the same bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pytest
from gpu_simulator import SimulatedProgram
from support import TARGET

from nnc.compiler.ir.build import call, literal
from nnc.compiler.ir.dtypes import is_float
from nnc.compiler.ir.equation import Equation, Index, System, Tensor
from nnc.compiler.ir.expr import Apply, Expr, Idx, Read
from nnc.compiler.ir.verify import InternalError, verify
from nnc.compiler.pipeline import optimize
from nnc.compiler.reference.evaluator import evaluate
from nnc.compiler.targets import GPU_TARGETS
from nnc.runtime.device.cpu.program import CpuProgram

from .integer_systems import IntegerSystems, integers

FEW, MANY = range(12), range(1000, 1300)
EQUATIONS = 8


def drawn(seed: int) -> tuple[System, dict[str, np.ndarray]]:
    system = verify(IntegerSystems(seed).system(EQUATIONS), "the test")
    return system, integers(system, seed)


def compare(system: System, given: dict, found, how: str) -> None:
    expected = evaluate(system, given)
    for name in system.outputs:
        got, want = np.asarray(found[name]), expected[name]
        equal = got == want
        if is_float(system.tensors[name].dtype):
            equal |= np.isnan(got) & np.isnan(want)
        assert got.dtype == want.dtype and equal.all(), (how, system.definition[name], got, want)


def machine_code_agrees(seed: int) -> None:
    system, given = drawn(seed)
    program = CpuProgram(system)
    for name, value in given.items():
        program.arrays[name][...] = value
    program.run()
    compare(system, given, program.arrays, "cpu")


def passes_agree(seed: int) -> None:
    system, given = drawn(seed)
    for target in (TARGET, GPU_TARGETS["h100"]):
        compare(system, given, evaluate(optimize(system, target), given), target.name)


def cuda_agrees(seed: int) -> None:
    system, given = drawn(seed)
    program = SimulatedProgram(system)
    for name, value in given.items():
        program.arrays[name][...] = value
    program.run()
    compare(system, given, program.arrays, "cuda")


@pytest.mark.parametrize("seed", FEW)
def test_machine_code(seed: int) -> None:
    machine_code_agrees(seed)


@pytest.mark.parametrize("seed", FEW)
def test_passes(seed: int) -> None:
    passes_agree(seed)


@pytest.mark.parametrize("seed", FEW[:4])
def test_cuda(seed: int) -> None:
    cuda_agrees(seed)


@pytest.mark.night
@pytest.mark.parametrize("seed", MANY)
def test_three_hundred(seed: int) -> None:
    machine_code_agrees(seed)
    passes_agree(seed)
    cuda_agrees(seed)


# --- what each operation means, value by value ---------------------------------------------------

LOWEST, GREATEST = -(2**31), 2**31 - 1
BY_HAND = {
    "floordiv": [(7, 2, 3), (-7, 2, -4), (7, -2, -4), (5, 0, 0), (LOWEST, -1, LOWEST)],
    "mod": [(7, 3, 1), (-7, 3, 2), (7, -3, -2), (5, 0, 0), (LOWEST, -1, 0)],
    "pow": [(2, 3, 8), (0, 0, 1), (2, -1, 0), (-2, -3, 0), (0, -1, 0), (1, -5, 1), (-1, -5, -1),
            (-1, LOWEST, 1), (3, 21, 1870418611), (2, 31, LOWEST), (2, 32, 0)],
    "add": [(GREATEST, 1, LOWEST)], "sub": [(LOWEST, 1, GREATEST)], "mul": [(65536, 65536, 0)],
}  # fmt: skip
FLOATS = [
    0.9,
    -0.9,
    255.9,
    256.0,
    -1.0,
    2.0**31,
    -(2.0**31),
    3e9,
    -3e9,
    1e30,
    -np.inf,
    np.inf,
    np.nan,
]
CUT = {
    "u8": [0, 0, 255, 255, 0, 255, 0, 255, 0, 255, 0, 255, 0],
    "i32": [0, 0, 255, 256, -1, GREATEST, LOWEST, GREATEST, LOWEST, GREATEST, LOWEST, GREATEST, 0],
    "i64": [0, 0, 255, 256, -1, 2**31, LOWEST, 3 * 10**9, -3 * 10**9, 2**63 - 1, -(2**63),
            2**63 - 1, 0],
}  # fmt: skip


def elementwise(target: str, size: int, body: Expr) -> tuple[Equation, Tensor]:
    return Equation(target, (Index("i", size),), body), Tensor(target, (size,), body.dtype)


def everywhere(system: System, given: dict[str, np.ndarray]) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays that the evaluator, machine code and the simulated GPU give."""
    yield evaluate(system, given)
    for program in (CpuProgram(system), SimulatedProgram(system)):
        for name, value in given.items():
            program.arrays[name][...] = value
        program.run()
        yield program.arrays


def test_operations() -> None:
    """With both operands as data, and with a constant divisor or power."""
    tensors, equations, given, expected = {}, [], {}, {}
    for fn, rows in BY_HAND.items():
        a, b, results = (list(column) for column in zip(*rows, strict=True))
        x, y = (Read(f"{fn}_{n}", (Idx("i"),), None, "i32") for n in "xy")
        for read, values in ((x, a), (y, b)):
            tensors[read.tensor] = Tensor(read.tensor, (len(rows),), "i32", "input")
            given[read.tensor] = np.array(values, np.int32)
        made = {f"{fn}_all": (call(fn, x, y), results)}
        for n, (value, result) in enumerate(zip(b, results, strict=True)):
            point = Read(x.tensor, (literal(n),), None, "i32")
            made[f"{fn}_{n}"] = (call(fn, point, value), [result])
        for target, (body, values) in made.items():
            equation, tensor = elementwise(target, len(values), body)
            equations.append(equation)
            tensors[target] = tensor
            expected[target] = values
    system = verify(System("operations", tensors, tuple(equations), tuple(expected)), "the test")
    for found in everywhere(system, given):
        for target, values in expected.items():
            assert found[target].tolist() == values, target


@pytest.mark.parametrize("real", ["f32", "f64"])
def test_floats_to_integers_saturate(real: str) -> None:
    values = np.array(FLOATS, real.replace("f", "float"))
    tensors = {"x": Tensor("x", values.shape, real, "input")}
    equations = []
    for kind in CUT:
        equation, tensors[kind] = elementwise(
            kind, len(values), call(kind, Read("x", (Idx("i"),), None, real))
        )
        equations.append(equation)
    system = verify(System("casts", tensors, tuple(equations), tuple(CUT)), "the test")
    for found in everywhere(system, {"x": values}):
        for kind, cut in CUT.items():
            assert found[kind].tolist() == cut, kind


def test_the_quotient_of_infinity() -> None:
    values = np.array([np.inf, -np.inf, 1, -7.5], np.float32)
    x = Read("x", (Idx("i"),), None, "f32")
    tensors = {"x": Tensor("x", (4,), "f32", "input")}
    equation, tensors["y"] = elementwise("y", 4, call("floordiv", x, 2))
    for found in everywhere(System("inf", tensors, (equation,), ("y",)), {"x": values}):
        assert found["y"].tolist() == [np.inf, -np.inf, 0, -4]


def test_an_index_is_exact() -> None:
    """Where i32 would wrap to an index inside."""
    k = Read("k", (Idx("i"),), None, "i32")
    tensors = {"k": Tensor("k", (3,), "i32", "input"), "x": Tensor("x", (8,), "i32", "input")}
    body = Read("x", (k * 4,), literal(-1), "i32")
    equation, tensors["y"] = elementwise("y", 3, body)
    given = {"k": np.array([1, 2**30, -(2**30)], np.int32), "x": np.arange(8, dtype=np.int32)}
    for found in everywhere(System("exact", tensors, (equation,), ("y",)), given):
        assert found["y"].tolist() == [4, -1, -1]


@pytest.mark.parametrize(
    ("fn", "args"),
    [("pow", (2, -1)), ("pow", (7, 10**9)), ("floordiv", (1, 0)), ("mod", (1, 0)),
     ("mul", (65536, 65536)), ("neg", (LOWEST,)), ("add", (GREATEST, 1)), ("u8", (300,)),
     ("i8", (300,)), ("i8", (-129,)),
     ("i32", (3e9,)), ("i32", (float("nan"),))],
)  # fmt: skip
def test_what_has_no_integer_result_is_not_folded(fn: str, args: tuple) -> None:
    assert isinstance(call(fn, *args), Apply)


def test_a_constant_index_outside_is_no_rule_of_the_ir() -> None:
    tensors = {"x": Tensor("x", (3,), "f32", "input")}
    equation, tensors["y"] = elementwise("y", 1, Read("x", (literal(3),), None, "f32"))
    with pytest.raises(InternalError, match="stays inside"):
        verify(System("outside", tensors, (equation,), ("y",)), "the test")
