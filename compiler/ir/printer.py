"""Equations as text of the language. What this prints parses again and means the same.

In: expressions, equations, systems. Out: text, the same on every run. Layout only; no analysis.
"""

from __future__ import annotations

import re
from itertools import groupby

from ...dsl.syntax.source import Span
from .equation import Equation, Index, System, Tensor
from .expr import Apply, Const, Expr, Idx, Read
from .functions import TABLE

# how tightly each form binds; a reduction's body is a product (6), a function call is an atom (9)
_PRECEDENCE = {
    "or": 1, "and": 2, "not": 3,
    "eq": 4, "ne": 4, "lt": 4, "le": 4, "gt": 4, "ge": 4,
    "add": 5, "sub": 5, "mul": 6, "div": 6, "floordiv": 6, "mod": 6, "neg": 7, "pow": 8,
}  # fmt: skip
_IF, _PRODUCT, _ATOM = 0, 6, 9


def number(value: float, dtype: str) -> str:
    """A constant as it is written; floats always with a point or an exponent."""
    if dtype == "bool":
        return "true" if value else "false"
    if dtype in ("f32", "f64"):
        return {"inf": "inf", "-inf": "-inf", "nan": "nan"}.get(repr(value), repr(value))
    return str(value)


def expr_text(expr: Expr, least: int = 0) -> str:
    """The expression, in parentheses if it binds less tightly than `least`."""
    text, binding = _expr(expr)
    return f"({text})" if binding < least else text


def _expr(expr: Expr) -> tuple[str, int]:
    if isinstance(expr, Const):
        text = number(expr.value, expr.dtype)
        return text, 7 if text.startswith("-") else _ATOM
    if isinstance(expr, Idx):
        return expr.name, _ATOM
    if isinstance(expr, Read):
        place = ", ".join(map(expr_text, expr.index))
        text = f"{expr.tensor}[{place}]" if expr.index else expr.tensor
        if expr.other is None:
            return text, _ATOM
        return f"({text} else {expr_text(expr.other, 1)})", _ATOM
    assert isinstance(expr, Apply)
    return _apply(expr.fn, expr.args)


def _firm(expr: Expr, least: int = 0) -> str:
    """A whole body: a constant that takes its type from nothing around it says it."""
    text = expr_text(expr, least)
    natural = expr.dtype in ("f32", "i32", "bool")
    return text if natural or not isinstance(expr, Const) else f"{expr.dtype}({text})"


def _apply(fn: str, args: tuple[Expr, ...]) -> tuple[str, int]:
    if fn == "mul" and args[0] is args[1]:
        return f"{expr_text(args[0], _PRECEDENCE['pow'] + 1)}^2", _PRECEDENCE["pow"]
    binding = _PRECEDENCE.get(fn, _ATOM)
    symbol = TABLE[fn].symbol
    if fn == "select":
        condition, yes, no = (expr_text(a, 1) for a in args)
        return f"if {condition} then {yes} else {no}", _IF
    if fn == "neg":
        return f"-{expr_text(args[0], binding)}", binding
    if fn == "not":
        return f"not {expr_text(args[0], binding)}", binding
    if fn == "pow":
        return f"{expr_text(args[0], binding + 1)}^{expr_text(args[1], binding)}", binding
    if symbol:
        # comparisons do not chain; the others associate to the left
        left, right = binding + (binding == _PRECEDENCE["eq"]), binding + 1
        return f"{expr_text(args[0], left)} {symbol} {expr_text(args[1], right)}", binding
    return f"{fn}({', '.join(map(expr_text, args))})", _ATOM


def axes_text(indices: tuple[Index, ...]) -> str:
    return ", ".join(f"{i.name} < {i.size}" for i in indices)


def equation_text(eq: Equation, shape: tuple[int, ...] = ()) -> str:
    """One line: every range explicit, the reduction (if any) over a product. `shape` is the
    target's; an accumulation says it, because its indices do not."""
    if eq.at is not None:
        ends = zip(eq.at, shape, strict=True)
        place, equals = ", ".join(f"{expr_text(e, 5)} < {n}" for e, n in ends), "+="
    else:
        place, equals = axes_text(eq.indices), "="
    target = f"{eq.target}[{place}]" if place else eq.target
    if eq.reduce:
        least = _PRODUCT
        body = f"{eq.reduce}({axes_text(eq.over)}) {_body(eq.body, least)}"
    else:
        body = _firm(eq.body)
    return f"{target} {equals} {body}"


def _body(expr: Expr, least: int) -> str:
    """A reduction's body never begins with a sign."""
    text = _firm(expr, least)
    return f"({text})" if text.startswith("-") else text


def type_text(tensor: Tensor) -> str:
    return f"{tensor.dtype}[{', '.join(map(str, tensor.shape))}]"


MARK = "# equations of "


def origin(span: Span) -> str:
    """Where a place comes from, as `file.nn:12`. In a text printed here, that is the place that
    the nearest comment above names, so that printing again prints the same."""
    lines = span.source.text[: span.start].splitlines()
    if span.source.text.startswith(MARK):
        for line in reversed(lines):
            found = re.fullmatch(r"\s*# (\S+:\d+)", line)
            if found:
                return found[1]
        return ""
    return f"{span.source.name}:{span.line}"


def system_text(system: System) -> str:
    """The whole system as a `model` whose inputs are all that it is given, and whose outputs are
    its own and the next values of params and states."""
    inputs = ", ".join(f"{t.name}: {type_text(t)}" for t in system.of_kind("input"))
    outputs = ", ".join(f"{n}: {type_text(system.tensors[n])}" for n in system.outputs)
    lines = [f"{MARK}{system.name}", "", f"model {system.name}({inputs}) -> {outputs} {{"]
    for kind in ("param", "state"):
        for tensor in system.of_kind(kind):
            lines.append(f"    {kind} {tensor.name}: {type_text(tensor)} {tensor.init}")
    previous = None
    for block, equations in groupby(system.equations, lambda eq: system.block.get(eq.target)):
        indent = "    " if block is None else "        "
        lines += [] if block is None else ["    remat {"]
        for eq in equations:
            place = origin(eq.span) if eq.span else ""
            if place and place != previous:
                lines.append(f"{indent}# {place}")
            previous = place or previous
            lines.append(f"{indent}{equation_text(eq, system.tensors[eq.target].shape)}")
        lines += [] if block is None else ["    }"]
    return "\n".join([*lines, "}", ""])
