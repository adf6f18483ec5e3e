"""Printer: expressions and types as one line of text, with only the parentheses that they need.

The text parses to the same nodes. `formatter.py` prints whole files.
"""

from __future__ import annotations

from collections.abc import Iterable

from . import ast as s

# Precedence levels, from the loosest operator to the tightest.
PIPE, IF, OR, AND, NOT, COMPARE, SUM, PRODUCT, SIGNED, POWER, VALUE = range(11)

PRECEDENCE = {
    "or": (OR, OR, AND),
    "and": (AND, AND, NOT),
    **dict.fromkeys(("==", "!=", "<", "<=", ">", ">="), (COMPARE, SUM, SUM)),
    **dict.fromkeys(("+", "-"), (SUM, SUM, PRODUCT)),
    **dict.fromkeys(("*", "/", "//", "%", "@"), (PRODUCT, PRODUCT, SIGNED)),
    "^": (POWER, VALUE, POWER),
}  # operator: its own level, the lowest levels that its left and right operands may have


def format_expr(
    node: s.Expr | s.Axis, level: int = PIPE, tight: bool = False, unsigned: bool = False
) -> str:
    """An expression, in parentheses if it binds less tightly than `level`. `tight` leaves no
    spaces around `*` and `/`. `unsigned` allows no sign at the start, as in a reduction's body."""
    match node:
        case s.Number(text=text):
            # Numbers of a tree that a program made may be negative; the grammar has unsigned ones.
            return f"({text})" if text.startswith("-") and level > SIGNED else text
        case s.Boolean(value=value):
            return "true" if value else "false"
        case s.String(value=value):
            return quoted(value)
        case s.Name(id=name, primed=primed):
            return name + "'" * primed
        case s.Ellipsis_():
            return "..."
        case s.Axis(name=name, bound=bound):
            # `i < n` is read as a comparison, whose right side is a sum at most.
            return name if bound is None else f"{name} < {format_expr(bound, SUM, True)}"
        case s.List(items=items):
            return f"[{_listed(items)}]"
        case s.Index(tensor=tensor, indices=indices):
            return f"{format_expr(tensor)}[{format_indices(indices)}]"
        case s.Guarded(read=read, other=other):
            return f"({format_expr(read)} else {format_expr(other)})"
        case s.Call(function=function, arguments=arguments):
            return f"{format_expr(function, VALUE)}({', '.join(map(_argument, arguments))})"
    # What remains are operators: parentheses where the context binds more tightly than the
    # operator.
    own, text = _operation(node, tight, unsigned)
    return f"({text})" if own < level or (unsigned and text.startswith("-")) else text


def _operation(node: s.Expr, tight: bool, unsigned: bool) -> tuple[int, str]:
    """The level and the text of an operation, without parentheses around it."""
    match node:
        case s.Pipe(value=value, stage=stage):
            return PIPE, f"{format_expr(value, PIPE)} |> {format_expr(stage, VALUE)}"
        case s.If(condition=condition, yes=yes, no=no):
            test, one, two = (
                format_expr(part, level, tight)
                for part, level in ((condition, OR), (yes, IF), (no, IF))
            )
            return IF, f"if {test} then {one} else {two}"
        case s.Unary(op="-", operand=operand):
            return SIGNED, "-" + format_expr(operand, SIGNED, tight)
        case s.Unary(operand=operand):
            return NOT, f"not {format_expr(operand, NOT, tight)}"
        case s.Reduce(op=op, axes=axes, body=body):
            # A reduction's body is a product; a sum in it needs parentheses, an `if` does not.
            level = IF if isinstance(body, s.If) else PRODUCT
            return SIGNED, f"{op}({_listed(axes)}) {format_expr(body, level, tight, True)}"
        case s.Binary(op="^", left=left, right=right):
            return POWER, f"{format_expr(left, VALUE, tight)}^{_exponent(right, tight)}"
        case s.Binary(op=op, left=left, right=right):
            own, left_level, right_level = PRECEDENCE[op]
            # `(sum(i) x[i]) * y`: without parentheses the body would be x[i] * y
            if captures(left, own):
                left_level = VALUE
            first = format_expr(left, left_level, tight, unsigned)
            # `a // b * c` stays spaced even in an index: `a // b*c` would look like a // (b * c).
            mixed = isinstance(left, s.Binary) and left.op in ("//", "%") and left_level != VALUE
            space = "" if tight and op in ("*", "/") and not mixed else " "
            return own, f"{first}{space}{op}{space}{format_expr(right, right_level, tight)}"
    raise TypeError(f"{type(node).__name__} is not an expression")


def captures(left: s.Expr, level: int) -> bool:
    """Whether a reduction at the right edge of `left` would take an operator of `level` that
    follows into its body."""
    # Down the right edge of the expression, to what stands directly before the operator.
    while True:
        match left:
            # The last branch of an `if` takes every operator that follows.
            case s.Reduce(body=s.If()):
                return True
            case s.Reduce(body=body):
                # A body takes further factors; `+` and all looser operators end it.
                if level == PRODUCT:
                    return True
                left = body
            # An exponent cannot end in a bare reduction.
            case s.Binary(op=op, right=right) if op != "^":
                left = right
            case s.Unary(operand=operand):
                left = operand
            case _:
                return False


def _exponent(node: s.Expr, tight: bool) -> str:
    if isinstance(node, s.Unary) and node.op == "-":
        return "-" + _exponent(node.operand, tight)
    return format_expr(node, POWER, tight)


def _listed(items: Iterable[s.Expr | s.Axis]) -> str:
    return ", ".join(map(format_expr, items))


def format_indices(elements: Iterable[s.Expr | s.Axis]) -> str:
    """The elements of an index list or shape."""
    return ", ".join(format_expr(element, tight=True) for element in elements)


def _argument(argument: s.Argument) -> str:
    value = format_expr(argument.value)
    return value if argument.name is None else f"{argument.name} = {value}"


def quoted(text: str) -> str:
    """A string literal with this value."""
    # The backslash first, or the escapes that follow would be escaped again.
    for plain, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\t", "\\t")):
        text = text.replace(plain, escaped)
    return f'"{text}"'


def format_type(node: s.Type) -> str:
    """A type as it is written: `f32[B, 10]`, `[..., n]`, `i32`."""
    shape = "" if node.shape is None else f"[{format_indices(node.shape)}]"
    return (node.dtype or "") + shape
