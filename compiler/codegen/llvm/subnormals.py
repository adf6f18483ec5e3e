"""What becomes of subnormal numbers: two bits of the control register of x86, MXCSR.

    FTZ: a result below 2^-126 is 0 (2^-1022 in f64)    DAZ: an operand below that is 0

An operation that takes or gives a subnormal number is done by microcode on Intel's processors and
takes more than a hundred cycles (Intel, "64 and IA-32 Architectures Optimization Reference
Manual"). An optimizer's mean of gradients that have become 0, as of a unit that is never active or
a word that does not occur, shrinks to the smallest subnormal number, where rounding keeps it: every
later step would be slow. So kernels with updates flush. All others do not: there log(x) and 1/x of
a subnormal number are finite. Tests: tests/backends/test_subnormals.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .function_writer import FunctionWriter

FTZ, DAZ = 1 << 15, 1 << 6


@contextmanager
def subnormals_flushed(e: FunctionWriter) -> Iterator[None]:
    """What is written inside runs with both bits set; afterwards the register is as before."""
    for name in ("stmxcsr", "ldmxcsr"):
        e.declare(f"declare void @llvm.x86.sse.{name}(ptr)")
    before, flushing = (e.pinned("alloca i32, align 4", type="ptr") for _ in range(2))
    e.effect("call void @llvm.x86.sse.stmxcsr(ptr {0})", before)
    mode = e.pinned("load i32, ptr {0}, align 4", before, type="i32")
    mode = e.pinned(f"or i32 {{0}}, {FTZ | DAZ}", mode, type="i32")
    e.effect("store i32 {0}, ptr {1}, align 4", mode, flushing)
    e.effect("call void @llvm.x86.sse.ldmxcsr(ptr {0})", flushing)
    yield
    e.effect("call void @llvm.x86.sse.ldmxcsr(ptr {0})", before)
