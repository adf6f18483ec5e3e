"""The table of scalar functions, and `call`, the only way expressions are built.

One record per function: its arity, its type rule, its meaning in NumPy and its derivative as an
expression. Spellings in LLVM and CUDA are tables with the same keys in `codegen/`; a test walks all
of them. `call` promotes types, folds constants and applies the identities that lose nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from .dtypes import DTYPES, is_float
from .expr import Apply, Const, Expr, Read
from .random import threefry_numpy

NUMPY = {"bool": np.bool_, "u8": np.uint8, "i32": np.int32, "i64": np.int64,
         "f32": np.float32, "f64": np.float64}  # fmt: skip


# --- type rules --------------------------------------------------------------------------------


@cache
def promote(*dtypes: str) -> str:
    """The type in which values of these types meet; arithmetic on small integers is in i32."""
    best = max(dtypes, key=DTYPES.index)
    return best if DTYPES.index(best) >= DTYPES.index("i32") else "i32"


def _arithmetic(*dtypes: str) -> str:
    return promote(*dtypes)


def _floating(*dtypes: str) -> str:
    best = promote(*dtypes)
    return best if is_float(best) else "f32"


def _truth(*dtypes: str) -> str:
    return "bool"


def _choice(condition: str, yes: str, no: str) -> str:
    return yes if yes == no else promote(yes, no)


# --- derivatives: (arguments, the expression itself) → one factor per argument, None for zero ----


def _two(a: Expr, b: Expr) -> Callable:
    return lambda args, self: (a, b)


def _d_mul(x, self):
    return x[1], x[0]


def _d_div(x, self):
    return call("div", one(self), x[1]), call("neg", call("div", self, x[1]))


def _d_pow(x, self):
    base, power = x
    slope = call("mul", power, call("pow", base, call("sub", power, 1)))
    if isinstance(power, Const):
        return slope, None
    positive = call("gt", base, 0)
    return slope, call("select", positive, call("mul", self, call("log", base)), 0.0)


def _branches(condition: Expr, like: Expr) -> tuple[Expr, Expr]:
    """1 and 0 where the condition holds, 0 and 1 where not."""
    yes, no = one(like), Const(0.0, like.dtype)
    return call("select", condition, yes, no), call("select", condition, no, yes)


def _d_max(x, self):
    # against a constant, the result tells as much as the argument, and it is stored
    return _branches(call("gt", self if isinstance(x[1], Const) else x[0], x[1]), self)


def _d_min(x, self):
    return _branches(call("lt", self if isinstance(x[1], Const) else x[0], x[1]), self)


def _d_select(x, self):
    return None, *_branches(x[0], self)


def _d_erf(x, self):
    gauss = call("exp", call("neg", call("mul", x[0], x[0])))
    return (call("mul", 2 / math.sqrt(math.pi), gauss),)


def _each(derivative: Callable[[Expr, Expr], Expr]) -> Callable:
    return lambda args, self: (derivative(args[0], self),)


def one(like: Expr) -> Const:
    return Const(1.0, like.dtype)


# --- the table ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scalar:
    """A scalar function. `derivative` is None where it is zero everywhere (or undefined: ints)."""

    name: str
    arity: int
    type: Callable[..., str]
    numpy: Callable
    derivative: Callable[[tuple[Expr, ...], Expr], tuple[Expr | None, ...]] | None = None
    symbol: str = ""  # how it is written between its operands, if it is


def _erf(x):
    return np.vectorize(math.erf, otypes=[np.asarray(x).dtype])(x)


def _round(x):
    return np.rint(x)


def _bf16(x):
    """The nearest number of 8 significant bits, ties to even: what a `bfloat16` holds. NaN and
    infinity stay, and what is beyond the largest such number becomes infinite."""
    x = np.asarray(x)
    whole, low = (np.uint32, 16) if x.dtype == np.float32 else (np.uint64, 45)
    bits = x.view(whole)
    odd = (bits >> whole(low)) & whole(1)
    bits = (bits + odd + whole(2 ** (low - 1) - 1)) >> whole(low) << whole(low)
    return np.where(np.isfinite(x), bits.view(x.dtype), x)


def _bf16_pair(x, y):
    """Rounded from the type that they are in: a number in f64 is not rounded twice."""
    both = np.broadcast_arrays(x, y)
    low, high = (_bf16(n).astype(np.float32).view(np.uint32) for n in both)
    return (low >> np.uint32(16) | high & np.uint32(0xFFFF0000)).view(np.int32)


def bf16_halves(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both numbers of every pair, in f32."""
    bits = np.ascontiguousarray(pairs, np.int32).view(np.uint32)
    return (bits << np.uint32(16)).view(np.float32), (bits & np.uint32(0xFFFF0000)).view(np.float32)


def _bf16_dot(p, q):
    (a, b), (c, d) = bf16_halves(p), bf16_halves(q)
    return a.astype(np.float64) * c + b.astype(np.float64) * d


_ROWS = [
    #      name       arity type        numpy               derivative                     symbol
    Scalar("add",      2, _arithmetic, np.add,              lambda x, s: (one(s), one(s)), "+"),
    Scalar("sub",      2, _arithmetic, np.subtract,
           lambda x, s: (one(s), Const(-1.0, s.dtype)), "-"),
    Scalar("mul",      2, _arithmetic, np.multiply,         _d_mul,                        "*"),
    Scalar("div",      2, _floating,   np.divide,           _d_div,                        "/"),
    Scalar("floordiv", 2, _arithmetic, np.floor_divide,     None,                          "//"),
    Scalar("mod",      2, _arithmetic, np.mod,              None,                          "%"),
    Scalar("pow",      2, _arithmetic, np.power,            _d_pow,                        "^"),
    Scalar("neg",      1, _arithmetic, np.negative,         lambda x, s: (Const(-1.0, s.dtype),)),
    Scalar("max",      2, _arithmetic, np.maximum,          _d_max),
    Scalar("min",      2, _arithmetic, np.minimum,          _d_min),
    Scalar("abs",      1, _arithmetic, np.abs,              _each(lambda x, s: call("sign", x))),
    Scalar("sign",     1, _arithmetic, np.sign),
    Scalar("exp",      1, _floating,   np.exp,              _each(lambda x, s: s)),
    Scalar("log",      1, _floating,   np.log,
           _each(lambda x, s: call("div", 1.0, x))),
    Scalar("expm1",    1, _floating,   np.expm1,            _each(lambda x, s: call("exp", x))),
    Scalar("log1p",    1, _floating,   np.log1p,
           _each(lambda x, s: call("div", 1.0, call("add", 1.0, x)))),
    Scalar("sqrt",     1, _floating,   np.sqrt,
           _each(lambda x, s: call("div", 0.5, s))),
    Scalar("tanh",     1, _floating,   np.tanh,
           _each(lambda x, s: call("sub", 1.0, call("mul", s, s)))),
    Scalar("sin",      1, _floating,   np.sin,              _each(lambda x, s: call("cos", x))),
    Scalar("cos",      1, _floating,   np.cos,
           _each(lambda x, s: call("neg", call("sin", x)))),
    Scalar("erf",      1, _floating,   _erf,                _d_erf),
    Scalar("floor",    1, _floating,   np.floor),
    Scalar("ceil",     1, _floating,   np.ceil),
    Scalar("round",    1, _floating,   _round),
    Scalar("is_finite", 1, _truth,     np.isfinite),
    Scalar("eq",       2, _truth,      np.equal,            None,                          "=="),
    Scalar("ne",       2, _truth,      np.not_equal,        None,                          "!="),
    Scalar("lt",       2, _truth,      np.less,             None,                          "<"),
    Scalar("le",       2, _truth,      np.less_equal,       None,                          "<="),
    Scalar("gt",       2, _truth,      np.greater,          None,                          ">"),
    Scalar("ge",       2, _truth,      np.greater_equal,    None,                          ">="),
    Scalar("and",      2, _truth,      np.logical_and,      None,                          "and"),
    Scalar("or",       2, _truth,      np.logical_or,       None,                          "or"),
    Scalar("not",      1, _truth,      np.logical_not),
    Scalar("select",   3, _choice,     np.where,            _d_select),
    Scalar("bool",     1, lambda x: "bool", np.bool_),
    Scalar("u8",       1, lambda x: "u8",  np.uint8),
    Scalar("i32",      1, lambda x: "i32", np.int32),
    Scalar("i64",      1, lambda x: "i64", np.int64),
    Scalar("f32",      1, lambda x: "f32", np.float32,      lambda x, s: (one(s),)),
    Scalar("f64",      1, lambda x: "f64", np.float64,      lambda x, s: (one(s),)),
    # bf16(x): x rounded; its slope is taken to be 1 ("straight through", Bengio et al. 2013)
    Scalar("bf16",     1, _floating,   _bf16,               lambda x, s: (one(s),)),
    # two numbers so rounded in 32 bits, the first in the lower half, and their products' sum
    Scalar("bf16_pair", 2, lambda *x: "i32", _bf16_pair),
    Scalar("bf16_dot", 2, lambda *x: "f32", _bf16_dot),
    # stop(x): x, but a constant to differentiation
    Scalar("stop",     1, lambda x: x,     np.positive),
    # after(x, y): x, once y is there; what is computed from it is computed then, and not before
    Scalar("after",    2, lambda x, y: x,  lambda x, y: np.broadcast_arrays(x, y)[0],
           lambda x, s: (one(s), None)),
    # random(seed, step, stream, index): uniform in [0, 1), the same bits on every backend
    Scalar("random",   4, lambda *x: "f32", threefry_numpy),
]  # fmt: skip

TABLE = {row.name: row for row in _ROWS}
CASTS = frozenset(DTYPES)
_COMPARISONS = frozenset({"eq", "ne", "lt", "le", "gt", "ge"})
_LOGIC = frozenset({"and", "or", "not"})
_UNFOLDED = ("random", "bf16_pair", "bf16_dot")


# --- building ----------------------------------------------------------------------------------


def literal(value: float, dtype: str | None = None) -> Const:
    """A constant of the given type, or of the natural one (f32 for a float, i32 for an int)."""
    if dtype is None:
        dtype = "bool" if isinstance(value, bool) else "i32" if isinstance(value, int) else "f32"
    kind = float if is_float(dtype) else bool if dtype == "bool" else int
    return Const(kind(value), dtype)


def cast(expr: Expr, dtype: str) -> Expr:
    """The expression as a value of another type; constants are retyped."""
    if expr.dtype == dtype:
        return expr
    if isinstance(expr, Const) and not (isinstance(expr.value, float) and not is_float(dtype)):
        return literal(expr.value, dtype)
    return Apply(dtype, (expr,), dtype)


def _meet(args: tuple[Expr, ...]) -> tuple[Expr, ...]:
    """The arguments in one common type. A constant adapts to what it meets: `x * 2.5` keeps x's
    float type, and an integer constant never widens anything."""
    firm = [a.dtype for a in args if not isinstance(a, Const)]
    loose = [a.dtype for a in args if isinstance(a, Const)]
    if firm:
        best = promote(*firm)
        if not is_float(best):
            best = promote(best, *(d for d in loose if is_float(d)))
    else:
        best = promote(*loose)
    return tuple(cast(a, best) for a in args)


def _typed(fn: str, args: tuple[Expr, ...]) -> tuple[tuple[Expr, ...], str]:
    """The arguments converted to what the function takes, and the type of its result."""
    if fn in CASTS:
        return args, fn
    if fn in _LOGIC:
        return tuple(a if a.dtype == "bool" else call("ne", a, 0) for a in args), "bool"
    if fn in _COMPARISONS:
        return _meet(args), "bool"
    if fn == "select":
        condition = args[0] if args[0].dtype == "bool" else call("ne", args[0], 0)
        yes_no = args[1:] if args[1].dtype == args[2].dtype else _meet(args[1:])
        return (condition, *yes_no), yes_no[0].dtype
    if fn == "random":
        return tuple(cast(a, "i32") for a in args), "f32"
    if fn in ("bf16_pair", "bf16_dot"):
        own = "f32" if fn == "bf16_pair" else "i32"
        return tuple(cast(a, own) for a in args), TABLE[fn].type()
    if fn in ("is_finite", "stop", "after"):
        return args, TABLE[fn].type(*(a.dtype for a in args))
    met = _meet(args)
    dtype = TABLE[fn].type(*(a.dtype for a in met))
    return tuple(cast(a, dtype) for a in met), dtype


def call(fn: str, *args: Expr | float) -> Expr:
    """The function applied, in its simplest form that computes the same values."""
    exprs = tuple(a if isinstance(a, Expr) else literal(a) for a in args)
    typed, dtype = _typed(fn, exprs)
    if all(isinstance(a, Const) for a in typed) and fn not in _UNFOLDED:
        folded = _fold(fn, typed, dtype)
        if folded is not None:
            return folded
    simple = _simplify(fn, typed, dtype)
    return simple if simple is not None else Apply(fn, typed, dtype)


def _fold(fn: str, args: tuple[Expr, ...], dtype: str) -> Const | None:
    """The constant that the function gives; in float64 for floats, so nothing is lost early."""
    wide = {"f32": np.float64, "f64": np.float64}
    values = [np.asarray(a.value, wide.get(a.dtype, NUMPY[a.dtype])) for a in args]  # type: ignore
    if fn in ("floordiv", "mod") and not is_float(dtype) and values[1] == 0:
        return None
    with np.errstate(all="ignore"):
        result = TABLE[fn].numpy(*values)
    if fn == "pow" and not is_float(dtype) and args[1].value < 0:  # type: ignore[attr-defined]
        return None
    return literal(result.item(), dtype)


def _is(expr: Expr, value: float) -> bool:
    return isinstance(expr, Const) and expr.value == value


def _simplify(fn: str, x: tuple[Expr, ...], dtype: str) -> Expr | None:
    """Identities. `0 * x` is 0: equations say what is computed, not how often NaN is passed on."""
    match fn:
        case "add":
            if _is(x[0], 0):
                return x[1]
            if _is(x[1], 0):
                return x[0]
            if isinstance(x[1], Const) and x[1].value < 0 and not is_float(dtype):
                return call("sub", x[0], literal(-x[1].value, dtype))
            if isinstance(x[1], Apply) and x[1].fn == "neg":
                return call("sub", x[0], x[1].args[0])
            if x[0] is x[1] and is_float(dtype):
                return call("mul", literal(2.0, dtype), x[0])
            return _collect(fn, x, dtype)
        case "sub":
            if _is(x[1], 0):
                return x[0]
            if _is(x[0], 0):
                return call("neg", x[1])
            if x[0] is x[1] and not is_float(dtype):
                return literal(0, dtype)
            if isinstance(x[1], Const) and x[1].value < 0 and not is_float(dtype):
                return call("add", x[0], literal(-x[1].value, dtype))
            if isinstance(x[1], Apply) and x[1].fn == "neg":
                return call("add", x[0], x[1].args[0])
            return _collect(fn, x, dtype)
        case "mul":
            return _simplify_product(x, dtype)
        case "div":
            if _is(x[1], 1):
                return x[0]
            if _is(x[0], 0):
                return literal(0, dtype)
            if isinstance(x[1], Const) and x[1].value and math.frexp(x[1].value)[0] in (0.5, -0.5):
                return call("mul", x[0], literal(1 / x[1].value, dtype))  # exact: a power of two
        case "floordiv":
            if _is(x[1], 1):
                return x[0]
        case "mod":
            if _is(x[1], 1) and not is_float(dtype):
                return literal(0, dtype)
        case "pow":
            return _simplify_power(x, dtype)
        case "neg":
            if isinstance(x[0], Apply) and x[0].fn == "neg":
                return x[0].args[0]
            if isinstance(x[0], Apply) and x[0].fn == "sub":
                return call("sub", x[0].args[1], x[0].args[0])
        case "select":
            if isinstance(x[0], Const):
                return x[1] if x[0].value else x[2]
            if x[1] is x[2]:
                return x[1]
        case "and" | "or":
            absorbing = fn == "or"
            for a, b in (x, x[::-1]):
                if isinstance(a, Const):
                    return a if a.value == absorbing else b
            if x[0] is x[1]:
                return x[0]
        case "eq" | "le" | "ge":
            if x[0] is x[1] and not is_float(x[0].dtype):
                return literal(True)
        case "lt" | "gt" | "ne":
            if x[0] is x[1] and not is_float(x[0].dtype):
                return literal(False)
        case "max" | "min":
            if x[0] is x[1]:
                return x[0]
        case "bf16" if isinstance(x[0], Apply) and x[0].fn == "bf16":
            return x[0]
        case _ if fn in CASTS:
            return cast(x[0], fn) if isinstance(x[0], Const) or x[0].dtype == fn else None
    return None


def _collect(fn: str, x: tuple[Expr, ...], dtype: str) -> Expr | None:
    """(a ± c) ± d → a ± (c ± d) for integer constants c, d: index arithmetic stays short."""
    a, d = x
    inner = a.fn if isinstance(a, Apply) else ""
    if is_float(dtype) or inner not in ("add", "sub") or not isinstance(d, Const):
        return None
    base, c = a.args  # type: ignore[attr-defined]
    if not isinstance(c, Const):
        return None
    total = (c.value if inner == "add" else -c.value) + (d.value if fn == "add" else -d.value)
    return call("add", base, literal(total, dtype))


def _simplify_product(x: tuple[Expr, ...], dtype: str) -> Expr | None:
    for a, b in (x, x[::-1]):
        if _is(a, 0):
            return literal(0, dtype)
        if _is(a, 1):
            return b
        if _is(a, -1):
            return call("neg", b)
        if isinstance(a, Const) and isinstance(b, Apply) and b.fn == "neg":
            return call("mul", literal(-a.value, dtype), b.args[0])
        if _is(a, 2) and isinstance(b, Apply) and b.fn == "mul" and isinstance(b.args[0], Const):
            return call("mul", literal(2 * b.args[0].value, dtype), b.args[1])  # exact
        # a select of 1 and 0 (a derivative's bracket) times b is a select of b and 0
        if isinstance(a, Apply) and a.fn == "select":
            yes, no = a.args[1:]
            if _is(yes, 1) and _is(no, 0):
                return call("select", a.args[0], b, literal(0, dtype))
            if _is(yes, 0) and _is(no, 1):
                return call("select", a.args[0], literal(0, dtype), b)
    for a, b in (x, x[::-1]):
        if isinstance(b, Apply) and b.fn == "neg":
            return call("neg", call("mul", *((a, b.args[0]) if a is x[0] else (b.args[0], a))))
    return None


def _simplify_power(x: tuple[Expr, ...], dtype: str) -> Expr | None:
    base, power = x
    if not isinstance(power, Const):
        return None
    match power.value:
        case 0:
            return literal(1, dtype)
        case 1:
            return base
        case 2:
            return call("mul", base, base)
        case 3:
            return call("mul", call("mul", base, base), base)
        case 4:
            return call("pow", call("mul", base, base), 2)
        case 0.5 if is_float(dtype):
            return call("sqrt", base)
        case -1 if is_float(dtype):
            return call("div", 1.0, base)
        case -0.5 if is_float(dtype):
            return call("div", 1.0, call("sqrt", base))
    return None


def rebuild(node: Expr, children: tuple[Expr, ...]) -> Expr:
    """The same node over other children, folded and typed again."""
    if children == node.children:
        return node
    if isinstance(node, Apply):
        return call(node.fn, *children)
    assert isinstance(node, Read)
    if node.other is None:
        return Read(node.tensor, children, None, node.dtype)
    return Read(node.tensor, children[:-1], cast(children[-1], node.dtype), node.dtype)
