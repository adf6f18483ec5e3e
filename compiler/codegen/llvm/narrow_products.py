"""Products of whole numbers of 8 bits by x86's multiply-add of pairs of 16 bits (PMADDWD).

    i32(a) * i32(b), a and b of i8 or u8   →   pmaddwd(a and 0xffff, b)

The instruction adds the products of the lower and of the upper halves of each 32 bits. A number of
8 bits is in the lower half; the other half of one factor is cleared. It takes one cycle where a
product of 32 bits takes two (PMULLD), and LLVM joins it with the addition that follows where the
processor has VNNI (VPDPWSSD). Tests: tests/backends/test_small_types.py.
"""

from __future__ import annotations

from ...ir.expr import Apply, Expr
from .arithmetic import Arithmetic

INSTRUCTIONS = {4: "llvm.x86.sse2.pmadd.wd", 8: "llvm.x86.avx2.pmadd.wd",
                16: "llvm.x86.avx512.pmaddw.d.512"}  # fmt: skip
LOWER_HALF = 0xFFFF


def is_narrow_product(expr: Expr) -> bool:
    """Whether both factors are converted from 8 bits."""
    return (
        isinstance(expr, Apply)
        and (expr.fn, expr.dtype) == ("mul", "i32")
        and all(
            isinstance(a, Apply) and a.fn == "i32" and a.args[0].dtype in ("i8", "u8")
            for a in expr.args
        )
    )


def narrow_product(a: Arithmetic, x: str, y: str) -> str:
    """The products of two vectors of i32 that were converted from 8 bits."""
    name, pairs = INSTRUCTIONS[a.lanes], f"<{2 * a.lanes} x i16>"
    a.e.declare(f"declare {a.type('i32')} @{name}({pairs}, {pairs})")
    cleared = a.op("and", "i32", x, a.constant(LOWER_HALF, "i32"))
    halves = [
        a.e.op(f"bitcast {a.type('i32')} {{0}} to {{T}}", n, type=pairs) for n in (cleared, y)
    ]
    text = f"call {{T}} @{name}({pairs} {{0}}, {pairs} {{1}})"
    return a.e.op(text, *halves, type=a.type("i32"))
