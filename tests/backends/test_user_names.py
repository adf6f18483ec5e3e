"""Machine code and CUDA code compute the same bits whatever the user calls things."""

from __future__ import annotations

import numpy as np
import pytest
from equations.test_names import DEFINITIONS, KINDS, PLAIN, given, names, renamed, setup_of
from gpu_simulator import SimulatedProgram, available

from nnc.compiler.programs import training_step
from nnc.runtime.device.cpu.program import CpuProgram

# keywords of C++, names in the CUDA code and in LLVM's text
WORDS = (
    *("int", "float", "auto", "struct", "const", "blockIdx", "threadIdx", "BLOCK", "AT", "i32"),
    *("row0", "arena", "entry", "ret", "phi", "br", "label", "add", "main", "x0", "smem", "this"),
    *("__syncthreads", "volatile", "new", "delete", "template", "typename", "operator", "extern"),
    *("static", "void", "unsigned", "warp", "lane", "asm", "goto", "register", "double", "while"),
)
CODE = {kind: word for kind, word in zip(KINDS, WORDS, strict=False) if kind not in DEFINITIONS}
CODE = {**{kind: f"{kind}_0" for kind in KINDS}, **CODE}


def results(chosen: dict[str, str], program) -> list[np.ndarray]:
    step, drawn = training_step(setup_of(renamed(chosen)))
    values, made = given(step, drawn), program(step)
    for name, value in values.items():
        if name in made.arrays:
            made.arrays[name][...] = value
    made.run()
    kept = [t.name for t in step.tensors.values() if t.kind in ("param", "state")]
    return [made.arrays[name].copy() for name in (*step.outputs, *kept)]


@pytest.mark.parametrize(
    "program",
    [
        CpuProgram,
        pytest.param(
            lambda step: SimulatedProgram(step, (0,)),
            marks=pytest.mark.skipif(not available(), reason="needs g++"),
        ),
    ],
    ids=["cpu", "cuda"],
)
def test_the_same_bits(program) -> None:
    assert len(set(CODE.values())) == len(CODE)
    expected = results(PLAIN, program)
    for chosen in (CODE, names(1)):
        for found, right in zip(results(chosen, program), expected, strict=True):
            np.testing.assert_array_equal(found, right)
