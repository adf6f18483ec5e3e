"""Division of floats with remainder as LLVM IR: floor(x / y) and x - y floor(x / y).

The remainder has the sign of y, as in Python."""

from __future__ import annotations

from .arithmetic import Arithmetic
from .function_text import FunctionText
from .vector import Vector


def quotient(a: Arithmetic, dtype: str, x: str, y: str) -> str:
    """The greatest whole number n with n y <= x (for y > 0), of floats.

    floor(x / y) is one more if rounding lifts the quotient to a whole number; then x - n y, exact
    under fma, has the wrong sign. Beyond 2^24 (f64: 2^53) n is rounded."""
    v = Vector(a, dtype)
    n = v.whole("floor", v.div(x, y))
    r = v.fma(v.op("fneg", n), y, x)
    return v.select(_has_other_sign(v, r, y), v.sub(n, 1.0), n)


def remainder(a: Arithmetic, dtype: str, x: str, y: str) -> str:
    """x - n y for that quotient n, exact for every quotient: a function of the module.

    Up to a quotient of 2^22 by `quotient`; one lane beyond, or infinite or NaN, and all lanes are
    left to C's fmod, which takes quotients of any size apart bit by bit."""
    vector, flags = a.type(dtype), a.type("bool")
    name = f"@nnc.mod.{vector.strip('<>').replace(' x ', '.')}"
    body = FunctionText(name)
    inner = Vector(Arithmetic(body, a.lanes, a.doubles), dtype)
    q = inner.div("%x", "%y")
    r = inner.fma(inner.op("fneg", inner.whole("floor", q)), "%y", "%x")
    near = inner.compare("olt", inner.intrinsic("fabs", q), 2.0**22)
    near = inner.of("bool").op("and", near, inner.compare("ord", r, r))
    if a.lanes > 1:
        body.declare(f"declare i1 @llvm.vector.reduce.and.v{a.lanes}i1({flags})")
        text = f"call {{T}} @llvm.vector.reduce.and.v{a.lanes}i1({flags} {{0}})"
        near = body.op(text, near, type="i1")
    body.lines += [f"  br i1 {near}, label %done, label %far", "far:"]
    far = inner.op("frem", "%x", "%y")
    body.lines += ["  br label %done", "done:"]
    r = body.op("phi {T} [ {0}, %entry ], [ {1}, %far ]", r, far, type=vector)
    # A remainder of 0 has the sign of y, as in Python and NumPy.
    zero = inner.intrinsic("copysign", 0.0, "%y")
    result = inner.select(_has_other_sign(inner, r, "%y"), inner.add(r, "%y"), r)
    result = inner.select(inner.compare("oeq", r, 0.0), zero, result)
    head = f"define internal {vector} {name}({vector} %x, {vector} %y) #0 {{"
    for line in body.declared:
        a.e.declare(line)
    a.e.declare("\n".join([head, "entry:", *body.lines, f"  ret {vector} {result}", "}"]))
    return a.e.op(f"call {{T}} {name}({{T}} {{0}}, {{T}} {{1}})", x, y, type=vector)


def _has_other_sign(v: Vector, r: str, y: str) -> str:
    """Whether both are numbers, r is not 0, and one of them is negative."""
    negative = v.of("bool").op("xor", v.compare("olt", r, 0.0), v.compare("olt", y, 0.0))
    return v.of("bool").op("and", v.compare("one", r, 0.0), negative)
