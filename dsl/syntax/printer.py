"""Expressions and types as text on one line, with only the parentheses that they need.

In: nodes of the syntax tree. Out: text that parses to the same nodes.
"""

from __future__ import annotations

from collections.abc import Iterable

from . import ast as s

# How tightly an operator binds; parentheses go where a looser one stands in a tighter one's place.
PIPE, IF, OR, AND, NOT, COMPARE, TOTAL, PRODUCT, SIGNED, POWER, VALUE = range(11)

LEVELS = {
    "or": (OR, OR, AND),
    "and": (AND, AND, NOT),
    **dict.fromkeys(("==", "!=", "<", "<=", ">", ">="), (COMPARE, TOTAL, TOTAL)),
    **dict.fromkeys(("+", "-"), (TOTAL, TOTAL, PRODUCT)),
    **dict.fromkeys(("*", "/", "//", "%", "@"), (PRODUCT, PRODUCT, SIGNED)),
    "^": (POWER, VALUE, POWER),
}  # operator: its own level, the least level of its left and of its right side


def format_expr(node: s.Expr, level: int = PIPE, tight: bool = False) -> str:
    """An expression on one line, with only the parentheses it needs in a place of that `level`."""
    return write(node, level, tight, False)


def write(node: s.Expr | s.Axis, level: int, tight: bool, unsigned: bool) -> str:
    """`unsigned`: a sign may not stand first (it would not be read as a reduction's body)."""
    match node:
        case s.Number(text=text):
            return f"({text})" if text.startswith("-") and level > SIGNED else text
        case s.Boolean(value=value):
            return "true" if value else "false"
        case s.String(value=value):
            return quoted(value)
        case s.Name(id=name, primed=primed):
            return name + "'" * primed
        case s.Ellipsis_():
            return "..."
        case s.Axis():
            return axis_text(node)
        case s.List(items=items):
            return f"[{', '.join(format_expr(item) for item in items)}]"
        case s.Index(tensor=tensor, indices=indices):
            return f"{format_expr(tensor)}[{elements(indices)}]"
        case s.Guarded(read=read, other=other):
            return f"({format_expr(read)} else {format_expr(other)})"
        case s.Call(function=function, arguments=arguments):
            return f"{format_expr(function, VALUE)}({', '.join(map(format_argument, arguments))})"
    own, text = _operation(node, tight, unsigned)
    return f"({text})" if own < level or (unsigned and text.startswith("-")) else text


def _operation(node: s.Expr, tight: bool, unsigned: bool) -> tuple[int, str]:
    """The level and the text of an operator, without parentheses around it."""
    match node:
        case s.Pipe(value=value, stage=stage):
            return PIPE, f"{format_expr(value, PIPE)} |> {format_expr(stage, VALUE)}"
        case s.If(condition=condition, yes=yes, no=no):
            return IF, (
                f"if {format_expr(condition, OR, tight)} then {format_expr(yes, IF, tight)}"
                f" else {format_expr(no, IF, tight)}"
            )
        case s.Unary(op="-", operand=operand):
            return SIGNED, "-" + format_expr(operand, SIGNED, tight)
        case s.Unary(operand=operand):
            return NOT, f"not {format_expr(operand, NOT, tight)}"
        case s.Reduce(op=op, axes=axes, body=body):
            least = IF if isinstance(body, s.If) else PRODUCT
            return (
                SIGNED,
                f"{op}({', '.join(map(axis_text, axes))}) {write(body, least, tight, True)}",
            )
        case s.Binary(op="^", left=left, right=right):
            return POWER, f"{format_expr(left, VALUE, tight)}^{_exponent(right, tight)}"
        case s.Binary(op=op, left=left, right=right):
            own, least_left, least_right = LEVELS[op]
            if swallows(left, own):
                least_left = VALUE
            first = write(left, least_left, tight, unsigned)
            mixed = isinstance(left, s.Binary) and left.op in ("//", "%") and least_left != VALUE
            space = "" if tight and op in ("*", "/") and not mixed else " "
            return own, f"{first}{space}{op}{space}{format_expr(right, least_right, tight)}"
    raise TypeError(f"{type(node).__name__} is not an expression")


def swallows(left: s.Expr, level: int) -> bool:
    """Would a reduction at the right edge of `left` take the operator after it into its body?"""
    while True:
        match left:
            case s.Reduce(body=s.If()):
                return True
            case s.Reduce(body=body):
                if level == PRODUCT:
                    return True
                left = body
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


def axis_text(axis: s.Axis) -> str:
    if axis.bound is None:
        return axis.name
    return f"{axis.name} < {format_expr(axis.bound, TOTAL, True)}"


def elements(elements: Iterable[s.Expr | s.Axis]) -> str:
    return ", ".join(map(element_text, elements))


def element_text(element: s.Expr | s.Axis) -> str:
    """One of an index list or shape, where `*` and `/` stand close."""
    return write(element, PIPE, True, False)


def format_argument(argument: s.Argument) -> str:
    value = format_expr(argument.value)
    return value if argument.name is None else f"{argument.name} = {value}"


def quoted(text: str) -> str:
    for plain, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\t", "\\t")):
        text = text.replace(plain, escaped)
    return f'"{text}"'


def format_type(node: s.Type) -> str:
    shape = "" if node.shape is None else f"[{elements(node.shape)}]"
    return (node.dtype or "") + shape
