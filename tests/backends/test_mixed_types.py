"""Random programs that mix all element types: the evaluator, machine code with instructions for f16
and without, and CUDA code give the same bits. All numbers are whole and small enough for f32, so
that nothing but the conversions rounds."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from gpu_simulator import SimulatedProgram
from support import system as elaborated

from nnc.compiler.ir.dtypes import NUMPY
from nnc.compiler.ir.equation import System
from nnc.compiler.ir.printer import system_text
from nnc.compiler.reference.evaluator import evaluate
from nnc.compiler.targets import CPU_TARGETS
from nnc.runtime.device.cpu.program import CpuProgram

FEW, MANY = range(10), range(100, 400)
INPUTS = {"h": "f16", "g": "bf16", "q": "i8", "p": "u8", "k": "i32", "x": "f32"}
LIMIT = {"q": 128, "p": 256}  # the others are below 300 in size
RESULTS = ("f16", "bf16", "f32", "f64", "i32")


class Programs:
    """Draws the text of programs."""

    def __init__(self, seed: int):
        self.random = Random(seed)

    def text(self) -> str:
        n, m = self.random.choice((1, 3, 8, 17)), self.random.choice((2, 5, 33))
        given = ", ".join(f"{name}: {kind}[{n}, {m}]" for name, kind in INPUTS.items())
        lines, results = [], []
        for number in range(4):
            name, reduced = f"y{number}", self.random.random() < 0.4
            kind = self.random.choice(RESULTS)
            body = self.term(2)
            if reduced:
                op = self.random.choice(("sum", "max", "min"))
                body = f"{op}(j < {m}) {body}"
            if kind == "i32":
                body = f"i32({self.clamped(self.term(1))})"
                body = f"max(j < {m}) {body}" if reduced else body
            place = f"i < {n}" if reduced else f"i < {n}, j < {m}"
            lines.append(f"    {name}[{place}] = {body}")
            results.append(f"{name}: {kind}[{n}{'' if reduced else f', {m}'}]")
        return f"model M({given}) -> {', '.join(results)} {{\n" + "\n".join(lines) + "\n}\n"

    def leaf(self) -> str:
        name = self.random.choice(list(INPUTS))
        place = self.random.choice(("[i, j]", "[i, j]", "[i, 0]"))
        read = f"{name}{place}"
        if self.random.random() < 0.2:
            return f"({name}[i, j + 1] else {self.random.choice((0, 7))})"
        return read

    def clamped(self, text: str) -> str:
        return f"min(max({text}, -127), 127)"

    def term(self, depth: int) -> str:
        way = self.random.randrange(8 if depth else 1)
        half = self.random.choice(("f16", "bf16"))
        a, b = self.leaf(), self.leaf()
        match way:
            case 1 | 2:
                return f"{half}(f32({a}) * {b})"
            case 3:
                return f"{half}({self.term(depth - 1)} + {a})"
            case 4:
                return f"i8({self.clamped(a)})"
            case 5:
                return f"max({self.term(depth - 1)}, {b})"
            case 6:
                return f"(if {a} > {b} then {self.term(depth - 1)} else {half}({b}))"
            case 7:
                return f"f32({self.term(depth - 1)})"
        return a


def given(system: System, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    found = {}
    for tensor in system.of_kind("input"):
        limit = LIMIT.get(tensor.name, 300)
        low = 0 if tensor.name == "p" else -limit
        found[tensor.name] = random.integers(low, limit, tensor.shape).astype(NUMPY[tensor.dtype])
    return found


def agrees(seed: int, simulated: bool) -> None:
    text = Programs(seed).text()
    system = elaborated(text, "M", "f32")
    again = elaborated(system_text(system), "M", "f32")
    assert {n: t.storage for n, t in again.tensors.items()} == {
        n: t.storage for n, t in system.tensors.items()
    }
    values = given(system, seed)
    expected = evaluate(system, values)
    programs = [CpuProgram(system), CpuProgram(system, target=CPU_TARGETS["generic-sse"])]
    programs += [SimulatedProgram(system)] if simulated else []
    for program in programs:
        for name, value in values.items():
            program.arrays[name][...] = value
        program.run()
        for name in system.outputs:
            found = np.asarray(program.arrays[name], NUMPY[system.tensors[name].dtype])
            np.testing.assert_array_equal(found, expected[name], err_msg=f"{name}\n{text}")


@pytest.mark.parametrize("seed", FEW)
def test_programs_of_all_types_agree(seed: int) -> None:
    agrees(seed, simulated=seed < 3)


@pytest.mark.slow
@pytest.mark.parametrize("seed", MANY)
def test_three_hundred_agree(seed: int) -> None:
    agrees(seed, simulated=seed % 10 == 0)
