"""codegen/llvm/memory.py: blocks of vectors that are transposed in registers."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from nnc.compiler.codegen.llvm.arithmetic import MEMORY, Arithmetic
from nnc.compiler.codegen.llvm.function_writer import FunctionWriter
from nnc.compiler.codegen.llvm.memory import transpose
from nnc.compiler.codegen.llvm.module import ATTRIBUTES
from nnc.compiler.ir.dtypes import NUMPY
from nnc.runtime.device.cpu.jit import Machine

WIDTH = 40  # elements from one row in memory to the next


@pytest.mark.parametrize("lanes", [2, 4, 8, 16])
@pytest.mark.parametrize("dtype", ["f32", "f64", "i32", "i64"])
def test_rows_become_columns(dtype: str, lanes: int):
    declarations: dict[str, None] = {}
    e = FunctionWriter(declarations)
    a = Arithmetic(e, lanes)

    def place(start: str, row: int) -> str:
        return e.op(f"getelementptr {MEMORY[dtype]}, ptr {start}, i64 {WIDTH * row}", type="ptr")

    rows = [
        e.op("load {T}, ptr {0}, align 4", place("%a", k), type=a.type(dtype)) for k in range(lanes)
    ]
    for k, column in enumerate(transpose(a, dtype, rows)):
        e.effect(f"store {a.type(dtype)} {{0}}, ptr {{1}}, align 4", column, place("%b", k))
    text = e.function("define void @f(ptr %a, ptr %b) #0")
    machine = Machine(["\n".join([*declarations, text, ATTRIBUTES, ""])])
    block = np.arange(lanes * WIDTH).reshape(lanes, WIDTH).astype(NUMPY[dtype])
    found = np.zeros_like(block)
    machine.function("f", ctypes.c_void_p, ctypes.c_void_p)(block.ctypes.data, found.ctypes.data)
    np.testing.assert_array_equal(found[:, :lanes], block[:, :lanes].T)
    assert not found[:, lanes:].any()
