"""Line breaking: an expression cut into fragments that may each begin a line.

A fragment begins with an operator, `then` or `else`, or stands within parentheses, so that it
continues the statement of the line above. Where the cuts are depends only on the tree, its width
and the order of fragments and comments: formatting a formatted text changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from . import ast as s
from .printer import (
    COMPARE,
    IF,
    OR,
    PIPE,
    PRECEDENCE,
    PRODUCT,
    SIGNED,
    VALUE,
    captures,
    format_expr,
)


@dataclass(frozen=True)
class Fragment:
    """`start` is the source offset of the fragment's first node; `depth` the number of broken
    expressions around it; `breaks` whether the user began a line with it that is to stay."""

    text: str
    start: int
    depth: int = 0
    breaks: bool = False


class LineBreaker:
    """Cuts expressions. `comments` are the source offsets of the comments; a fragment longer than
    `limit` is cut again."""

    def __init__(self, comments: Sequence[int], limit: int):
        self.comments, self.limit = comments, limit

    def fragments(self, node: s.Expr) -> list[Fragment]:
        """A whole expression, cut at its outermost operators and deeper where it is too long."""
        parts = self._whole(node)
        return [replace(parts[0], start=node.span.start), *parts[1:]]

    def _whole(self, node: s.Expr) -> list[Fragment]:
        return self._split(node, False) or [Fragment(format_expr(node), node.span.start)]

    def _operand(self, node: s.Expr, level: int = PIPE, unsigned: bool = False) -> list[Fragment]:
        """An operand that must bind as tightly as `level`: one fragment, if it is short and no
        comment stands between its parts."""
        # `level` decides on parentheses; they belong to the operand and are kept around its
        # fragments.
        flat = format_expr(node, level, False, unsigned)
        whole = [Fragment(flat, node.span.start)]
        short = len(flat) <= self.limit
        if short and not self._has_comment(node.span.start, node.span.end):
            return whole
        # `(a + b)` has parentheses around the whole operand, `(a + b) * c` only begins with one.
        enclosed = flat.startswith("(") and format_expr(node) == flat[1:-1]
        parts = self._split(node, unsigned and not enclosed)
        # It cannot be cut, or it is short and its comment lies outside the cuts.
        if len(parts) < 2 or (short and not self._has_comment(parts[0].start, parts[-1].start)):
            return whole
        # Continuation lines are indented one step more for each broken expression around them.
        parts = [parts[0], *(replace(part, depth=part.depth + 1) for part in parts[1:])]
        return _enclose(parts, "(", ")") if enclosed else parts

    def _has_comment(self, start: int, end: int) -> bool:
        return any(start < place < end for place in self.comments)

    def _split(self, node: s.Expr, unsigned: bool) -> list[Fragment]:
        """The fragments of an expression without parentheses around it; none if it has no parts."""
        match node:
            case s.Pipe():
                return self._pipeline(node)
            case s.If(condition=condition, yes=yes, no=no):
                return [
                    *_enclose(self._operand(condition, OR), "if "),
                    *_enclose(self._operand(yes, IF), "then "),
                    *_enclose(self._operand(no, IF), "else "),
                ]
            case s.Reduce(op=op, axes=axes, body=body):
                # The body's operators may begin lines: `sum(i) x[i]` / `* w[i]` parses as one body.
                head = f"{op}({', '.join(map(format_expr, axes))}) "
                if isinstance(body, s.Binary) and PRECEDENCE[body.op][0] == PRODUCT:
                    return _enclose(self._chain(body, True), head)
                # As in the grammar: a body is a product, or an `if` without parentheses.
                level = IF if isinstance(body, s.If) else PRODUCT
                return _enclose(self._operand(body, level, True), head)
            case s.Unary(op="-", operand=operand):
                return _enclose(self._operand(operand, SIGNED), "-")
            case s.Binary(op=op) if op != "^":
                return self._chain(node, unsigned)
            # A single argument is cut directly, without a step of indentation for the list.
            case s.Call(function=function, arguments=(s.Argument(name=None, value=value),)):
                parts = self._split(value, False) or self._operand(value)
                return _enclose(parts, f"{format_expr(function, VALUE)}(", ")")
            case s.Call(function=function, arguments=arguments) if arguments:
                named = [(f"{a.name} = " if a.name else "", a.value) for a in arguments]
                return _enclose(self._list(named), f"{format_expr(function, VALUE)}(", ")")
            case s.Index(tensor=tensor, indices=indices) if indices:
                last = len(indices) - 1
                # In brackets line ends are free: the cuts are after the commas.
                parts = [
                    Fragment(format_expr(e, tight=True) + "," * (k < last), e.span.start)
                    for k, e in enumerate(indices)
                ]
                return _enclose(parts, f"{format_expr(tensor)}[", "]")
            case s.Guarded(read=read, other=other):
                default = _enclose(self._operand(other), "else ", ")")
                return [*_enclose(self._whole(read), "("), *default]
            case s.List(items=items) if items:
                return _enclose(self._list([("", item) for item in items]), "[", "]")
        return []

    def _list(self, items: list[tuple[str, s.Expr]]) -> list[Fragment]:
        parts: list[Fragment] = []
        for k, (prefix, value) in enumerate(items):
            parts += _enclose(self._operand(value), prefix, "," * (k < len(items) - 1))
        return parts

    def _pipeline(self, node: s.Pipe) -> list[Fragment]:
        """A pipeline, which keeps the line breaks that it was written with."""
        # x |> f |> g is Pipe(Pipe(x, f), g): unwound from the last stage to the first
        pipes, first = [node], node.value
        while isinstance(first, s.Pipe):
            pipes, first = [first, *pipes], first.value
        parts = self._operand(first, PIPE)
        end = first.span.end
        for pipe in pipes:
            stage = _enclose(self._operand(pipe.stage, VALUE), "|> ")
            broken = "\n" in pipe.span.source.text[end : pipe.stage.span.start]
            parts += [replace(stage[0], breaks=broken), *stage[1:]]
            end = pipe.stage.span.end
        return parts

    def _chain(self, node: s.Binary, unsigned: bool) -> list[Fragment]:
        """`a + b - c` as `a`, `+ b`, `- c`: left-associative operators of one level."""
        # own: the level that all operators of the chain share
        own, left_level, right_level = PRECEDENCE[node.op]
        tails: list[Fragment] = []
        left: s.Expr = node
        # From the right end to the left, as a + b - c is (a + b) - c.
        while isinstance(left, s.Binary) and PRECEDENCE[left.op][0] == own:
            # Comparisons do not chain, and a reduction at the right edge would swallow what
            # follows: such a left operand needs parentheses and is no part of the chain.
            if left is not node and (own == COMPARE or captures(left, own)):
                break
            tails = [*_enclose(self._operand(left.right, right_level), f"{left.op} "), *tails]
            left = left.left
        if captures(left, own):
            left_level = VALUE
        return [*self._operand(left, left_level, unsigned), *tails]


def _enclose(parts: list[Fragment], before: str, after: str = "") -> list[Fragment]:
    """The fragments with a text before the first and after the last."""
    parts = [replace(parts[0], text=before + parts[0].text), *parts[1:]]
    return [*parts[:-1], replace(parts[-1], text=parts[-1].text + after)]
