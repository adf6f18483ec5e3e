"""Building scalar expressions: typing, constant folding, identities, rewriting.

`call` promotes the types of its arguments, folds constants and applies the identities that change
no value; every expression goes through it, so bodies are simplified as they are built.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType

from .dtypes import HALVES, INTEGERS, NUMPY, fits, is_float
from .expr import Apply, Const, Expr, Idx, Read, index_names, reads, walk
from .forms import form_of, set_form
from .functions import CASTS, TABLE, promote
from .lazy_numpy import np

REMEMBERED = 2**14  # results of a function of expressions: more than a network has different ones
_COMPARISONS = frozenset({"eq", "ne", "lt", "le", "gt", "ge"})
_LOGIC = frozenset({"and", "or", "not"})
# Defined bit by bit in 32 bits, while folding works in float64.
_UNFOLDED = ("random", "bf16_pair", "bf16_dot", "int8_quad", "int8_dot")
INT8 = ("u8", "i8")


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
    # A format of memory: the value is rounded and keeps its type. A constant is folded later, by
    # `call`, once it is known what the result is stored as.
    if dtype in HALVES:
        constant = isinstance(expr, Const) and is_float(expr.dtype)
        return Apply(dtype, (expr,), expr.dtype) if constant else call(dtype, expr)
    # A float constant is not cut to an integer silently; that takes an explicit cast node.
    if isinstance(expr, Const) and not (isinstance(expr.value, float) and not is_float(dtype)):
        return literal(expr.value, dtype)
    return Apply(dtype, (expr,), dtype)


def _meet(args: tuple[Expr, ...]) -> tuple[Expr, ...]:
    """The arguments in one common type. A constant adapts to what it meets: `x * 2.5` keeps x's
    float type, and an integer constant never widens anything."""
    # `firm` types decide; `loose` ones adapt, except that a float constant makes integers floats.
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
    if fn == "int8_dot":
        return tuple(cast(a, "i32") for a in args), "i32"
    if fn == "int8_quad":  # a number that is wider keeps its low bits
        return tuple(a if a.dtype in INT8 else cast(cast(a, "i32"), "u8") for a in args), "i32"
    if fn in ("is_finite", "stop", "after"):
        return args, TABLE[fn].type(*(a.dtype for a in args))
    met = _meet(args)
    dtype = TABLE[fn].type(*(a.dtype for a in met))
    return tuple(cast(a, dtype) for a in met), dtype


def call(fn: str, *args: Expr | float) -> Expr:
    """The function applied, in its simplest form that computes the same values."""
    return _applied(fn, tuple(a if isinstance(a, Expr) else literal(a) for a in args))


# Passes apply the same function to the same nodes again and again, kernel by kernel. Nodes compare
# by identity, so that 0.0 is not taken for -0.0.
@lru_cache(REMEMBERED)
def _applied(fn: str, args: tuple[Expr, ...]) -> Expr:
    typed, dtype = _typed(fn, args)
    if all(isinstance(a, Const) for a in typed) and fn not in _UNFOLDED:
        folded = _fold(fn, typed, dtype)
        if folded is not None:
            return folded
    simple = _stabilized(fn, typed) or _simplify(fn, typed, dtype)
    return simple if simple is not None else Apply(fn, typed, dtype)


def _fold(fn: str, args: tuple[Expr, ...], dtype: str) -> Const | None:
    """The constant that the function gives; in float64 for floats, so nothing is lost early."""
    # What has no value among the integers, or none that fits, stays: a run says where it occurs.
    if fn in _EXACT and not is_float(dtype):
        whole = _EXACT[fn](*(int(a.value) for a in args))  # type: ignore[attr-defined]
        return literal(whole, dtype) if whole is not None and fits(whole, dtype) else None
    if fn in INTEGERS and fn != "bool":
        value = args[0].value  # type: ignore[attr-defined]
        if not math.isfinite(value) or not fits(math.trunc(value), fn):
            return None
    if fn == "sqrt" and (value := float(args[0].value)) >= 0:  # type: ignore[attr-defined]
        return literal(math.sqrt(value), dtype)  # as NumPy's, rounded correctly
    wide = {"f32": np.float64, "f64": np.float64}
    values = [np.asarray(a.value, wide.get(a.dtype, NUMPY[a.dtype])) for a in args]  # type: ignore
    with np.errstate(all="ignore"):
        result = TABLE[fn].numpy(*values)
    return literal(result.item(), dtype)


def _stabilized(fn: str, x: tuple[Expr, ...]) -> Expr | None:
    """The function that computes the same without cancellation or overflow, as Theano's
    stabilization rewrites do:

    log(1 + a) → log1p(a)      exp(a) - 1 → expm1(a)      1 / (1 + exp(-a)) → sigmoid(a)
    """
    match fn, x:
        case "log", (Apply(fn="add" | "sub") as total,):
            a, b = total.args
            if _is(a, 1):
                return call("log1p", b if total.fn == "add" else -b)
            if _is(b, 1) and total.fn == "add":
                return call("log1p", a)
        case "sub", (Apply(fn="exp") as power, one) if _is(one, 1):
            return call("expm1", power.args[0])
        case "sub", (one, Apply(fn="exp") as power) if _is(one, 1):
            return -call("expm1", power.args[0])
        case "div", (one, Apply(fn="add") as total) if _is(one, 1):
            for a, b in (total.args, total.args[::-1]):
                if _is(a, 1) and isinstance(b, Apply) and b.fn == "exp":
                    return call("sigmoid", -b.args[0])
    return None


def _power(base: int, power: int) -> int | None:
    # Beyond 64 bits nothing fits, and the number itself would take forever.
    if power < 0 or (power > 64 and abs(base) > 1):
        return None
    return base**power


# Arithmetic on integers of any size; None where there is no result.
_EXACT: dict[str, Callable[..., int | None]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b,
    "floordiv": lambda a, b: a // b if b else None, "mod": lambda a, b: a % b if b else None,
    "pow": _power, "neg": lambda a: -a, "abs": lambda a: abs(a), "max": max, "min": min,
}  # fmt: skip


def _is(expr: Expr, value: float) -> bool:
    return isinstance(expr, Const) and expr.value == value


def _scaled(expr: Expr, by: int, dtype: str) -> Const | None:
    """A constant times a power of two and a sign, if the type has it."""
    if isinstance(expr, Const) and fits(by * expr.value, dtype):
        return literal(by * expr.value, dtype)
    return None


def _simplify(fn: str, x: tuple[Expr, ...], dtype: str) -> Expr | None:
    """Identities. `0 * x` is 0: equations say what is computed, not how often NaN is passed on."""
    match fn:
        case "add":
            if _is(x[0], 0):
                return x[1]
            if _is(x[1], 0):
                return x[0]
            # Integers only, where no rounding or signed zero can tell `x + -3` from `x - 3`.
            opposite = None if is_float(dtype) else _scaled(x[1], -1, dtype)
            if opposite is not None and opposite.value > 0:
                return x[0] - opposite
            if isinstance(x[1], Apply) and x[1].fn == "neg":
                return x[0] - x[1].args[0]
            # Exact in binary floating point; a product can take part in further folding.
            if x[0] is x[1] and is_float(dtype):
                return 2.0 * x[0]
            return _collect(fn, x, dtype)
        case "sub":
            if _is(x[1], 0):
                return x[0]
            if _is(x[0], 0):
                return -x[1]
            # Floats are left out: inf - inf is NaN, while for integers x - x is 0.
            if x[0] is x[1] and not is_float(dtype):
                return literal(0, dtype)
            opposite = None if is_float(dtype) else _scaled(x[1], -1, dtype)
            if opposite is not None and opposite.value > 0:
                return x[0] + opposite
            if isinstance(x[1], Apply) and x[1].fn == "neg":
                return x[0] + x[1].args[0]
            return _collect(fn, x, dtype)
        case "mul":
            return _simplify_product(x, dtype)
        case "div":
            if _is(x[1], 1):
                return x[0]
            if _is(x[0], 0):
                return literal(0, dtype)
            if isinstance(x[1], Const) and x[1].value and math.frexp(x[1].value)[0] in (0.5, -0.5):
                return x[0] * literal(1 / x[1].value, dtype)  # exact: a power of two
        case "floordiv":
            if _is(x[1], 1):
                return call("floor", x[0]) if is_float(dtype) else x[0]
        case "mod":
            if _is(x[1], 1) and not is_float(dtype):
                return literal(0, dtype)
        case "pow":
            return _simplify_power(x, dtype)
        case "neg":
            if isinstance(x[0], Apply) and x[0].fn == "neg":
                return x[0].args[0]
            # -(a - b) is b - a, but for the sign of a zero.
            if isinstance(x[0], Apply) and x[0].fn == "sub":
                return x[0].args[1] - x[0].args[0]
        case "select":
            if isinstance(x[0], Const):
                return x[1] if x[0].value else x[2]
            if x[1] is x[2]:
                return x[1]
        case "and" | "or":
            # `or` with true is true and with false the other; `and` the other way round.
            absorbing = fn == "or"
            for a, b in (x, x[::-1]):
                if isinstance(a, Const):
                    return a if a.value == absorbing else b
            if x[0] is x[1]:
                return x[0]
        case "eq" | "le" | "ge":
            # For floats NaN == NaN is false, so only integers compare equal to themselves.
            if x[0] is x[1] and not is_float(x[0].dtype):
                return literal(True)
        case "lt" | "gt" | "ne":
            if x[0] is x[1] and not is_float(x[0].dtype):
                return literal(False)
        case "max" | "min":
            if x[0] is x[1]:
                return x[0]
        case "f16" | "bf16" if isinstance(x[0], Apply) and x[0].fn == fn:
            return x[0]
        case _ if fn in CASTS:
            return x[0] if x[0].dtype == fn else None
    return None


def _collect(fn: str, x: tuple[Expr, ...], dtype: str) -> Expr | None:
    """(a ± c) ± d → a ± (c ± d) for integer constants c, d: index arithmetic stays short."""
    a, d = x
    inner = a.fn if isinstance(a, Apply) else ""
    # Floats are left out: another order of additions rounds differently.
    if is_float(dtype) or inner not in ("add", "sub") or not isinstance(d, Const):
        return None
    base, c = a.args  # type: ignore[attr-defined]
    if not isinstance(c, Const):
        return None
    total = (c.value if inner == "add" else -c.value) + (d.value if fn == "add" else -d.value)
    return base + literal(total, dtype) if fits(total, dtype) else None


def _simplify_product(x: tuple[Expr, ...], dtype: str) -> Expr | None:
    # Each rule in both orders, as a product is commutative.
    for a, b in (x, x[::-1]):
        if _is(a, 0):
            return literal(0, dtype)
        if _is(a, 1):
            return b
        if _is(a, -1):
            return -b
        if isinstance(b, Apply) and b.fn == "neg":
            opposite = _scaled(a, -1, dtype)
            if opposite is not None:
                return opposite * b.args[0]
        if _is(a, 2) and isinstance(b, Apply) and b.fn == "mul":
            twice = _scaled(b.args[0], 2, dtype)  # exact
            if twice is not None:
                return twice * b.args[1]
        # a select of 1 and 0 (a derivative's bracket) times b is a select of b and 0
        if isinstance(a, Apply) and a.fn == "select":
            yes, no = a.args[1:]
            if _is(yes, 1) and _is(no, 0):
                return call("select", a.args[0], b, literal(0, dtype))
            if _is(yes, 0) and _is(no, 1):
                return call("select", a.args[0], literal(0, dtype), b)
    # Signs move outwards: -a * -b loses both, and sums turn `x + -y` into `x - y`.
    for a, b in (x, x[::-1]):
        if isinstance(b, Apply) and b.fn == "neg":
            return -(a * b.args[0] if a is x[0] else b.args[0] * a)
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
        # Small powers by multiplication; `mul` of a node by itself prints as ^2.
        case 2:
            return base * base
        case 3:
            return base * base * base
        case 4:
            return call("pow", base * base, 2)
        case 0.5 if is_float(dtype):
            return call("sqrt", base)
        case -1 if is_float(dtype):
            return 1.0 / base
        case -0.5 if is_float(dtype):
            return 1.0 / call("sqrt", base)
    return None


def rebuild(node: Expr, children: tuple[Expr, ...]) -> Expr:
    """The same node over other children, folded and typed again."""
    # Interned children: unchanged ones are the same objects.
    if children == node.children:
        return node
    if isinstance(node, Apply):
        return call(node.fn, *children)
    assert isinstance(node, Read)
    if node.other is None:
        return Read(node.tensor, children, None, node.dtype)
    return Read(node.tensor, children[:-1], cast(children[-1], node.dtype), node.dtype)


# --- rewriting ---------------------------------------------------------------------------------


Change = Callable[[Expr], Expr | None]


def rewrite(expr: Expr, change: Change) -> Expr:
    """The expression with every node for which `change` (given the node with its children already
    rewritten) returns something replaced by that. A node that folds into something of another kind
    when its children change is not offered again: what it became has been rewritten already."""
    done: dict[Expr, Expr] = {}  # what has become something else
    # Bottom-up over distinct nodes: a subexpression that occurs twice is rewritten once.
    for node in walk(expr):
        fresh = node
        if done and not done.keys().isdisjoint(node.children):
            fresh = rebuild(node, tuple(done.get(c, c) for c in node.children))
        # For example `select(c, x, y)` that has become x: x has been rewritten already.
        changed = change(fresh) if fresh is node or _kind(fresh) == _kind(node) else None
        result = fresh if changed is None else changed
        if result is not node:
            done[node] = result
    return done.get(expr, expr)


def _kind(expr: Expr) -> tuple:
    if isinstance(expr, Apply):
        return Apply, expr.fn
    return type(expr), expr.tensor if isinstance(expr, Read) else ""


def substitute(expr: Expr, values: Mapping[str, Expr]) -> Expr:
    """The expression with indices replaced by expressions."""
    # Identities, i → i, would rebuild the whole expression for nothing.
    moved = {n: e for n, e in values.items() if not (isinstance(e, Idx) and e.name == n)}
    own = index_names(expr)
    if not moved or own.isdisjoint(moved):
        return expr
    names = {n: e.name for n, e in moved.items() if isinstance(e, Idx) and n in own}
    # A renaming that is injective, also against the indices that stay, cannot make terms equal or
    # cancel; it needs no folding. Anything else goes through `rewrite`, which folds.
    if len(names) == len(own & moved.keys()) == len(set(names.values()) - (own - moved.keys())):
        return renamed(expr, {}, names)
    return rewrite(expr, lambda n: moved.get(n.name) if isinstance(n, Idx) else None)


def renamed(
    expr: Expr, tensors: Mapping[str, str], indices: Mapping[str, str] = MappingProxyType({})
) -> Expr:
    """The expression with other names of tensors and of indices, no two of them the same. Nothing
    can fold that has not folded already."""
    done: dict[Expr, Expr] = {}

    # Without `call`: types and forms stay as they are.
    def change(node: Expr) -> Expr:
        found = done.get(node)
        if found is not None:
            return found
        found = node
        unchanged = index_names(node).isdisjoint(indices)
        if unchanged and not any(read.tensor in tensors for read in reads(node)):
            pass
        elif isinstance(node, Apply):
            found = Apply(node.fn, tuple([change(a) for a in node.args]), node.dtype)
        elif isinstance(node, Read):
            index = tuple([change(e) for e in node.index])
            other = None if node.other is None else change(node.other)
            found = Read(tensors.get(node.tensor, node.tensor), index, other, node.dtype)
        elif isinstance(node, Idx):
            found = Idx(indices[node.name])
        done[node] = found
        return found

    made = change(expr)
    # The form stays where indices keep their names and no two tensors get one name.
    if made is not expr and index_names(expr).isdisjoint(indices):
        form, names = form_of(expr)
        others = tuple([tensors.get(name, name) for name in names])
        if len(set(others)) == len(names):
            set_form(made, (form, others))
    return made


Expr.call = staticmethod(call)  # type: ignore[assignment]
