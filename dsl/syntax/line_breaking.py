"""Long expressions cut into the pieces that may each begin a line.

In: an expression, and where comments stand. Out: `Piece`s. A piece begins with an operator, `then`
or `else`, or stands within parentheses, so that it goes on with the statement of the line above.
Where the pieces are cut depends on the tree, its width and which pieces the comments stand between
alone: a text that has been laid out is cut as it was before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from . import ast as s
from .printer import (
    COMPARE,
    IF,
    LEVELS,
    OR,
    PIPE,
    PRODUCT,
    SIGNED,
    VALUE,
    axis_text,
    element_text,
    format_expr,
    swallows,
    write,
)

_PRIME = "'"
LONG = (84, 56, 28)  # a piece longer than this is cut itself: the first with which all lines fit


@dataclass(frozen=True)
class Piece:
    """`start` is the place in the source of the first thing in it; `depth` counts the expressions
    that are cut around it; `breaks` if the user began a line with it that is to stay."""

    text: str
    start: int
    depth: int = 0
    breaks: bool = False


class Cutter:
    """Cuts expressions. `comments` are the places of the comments in the source; a piece longer
    than `long` is cut itself."""

    def __init__(self, comments: Sequence[int], long: int):
        self.comments, self.long = comments, long

    def pieces(self, node: s.Expr) -> list[Piece]:
        """A whole expression, cut at its outermost operators and deeper where that is needed."""
        parts = self._whole(node)
        return [replace(parts[0], start=node.span.start), *parts[1:]]

    def _whole(self, node: s.Expr) -> list[Piece]:
        return self._split(node, False) or [Piece(format_expr(node), node.span.start)]

    def _operand(self, node: s.Expr, level: int = PIPE, unsigned: bool = False) -> list[Piece]:
        """An operand in a place of that `level`: one piece, if it is short and no comment stands
        between its parts."""
        flat = write(node, level, False, unsigned)
        whole = [Piece(flat, node.span.start)]
        if len(flat) <= self.long and not self._has_comment(node.span.start, node.span.end):
            return whole
        enclosed = flat.startswith("(") and write(node, PIPE, False, False) == flat[1:-1]
        parts = self._split(node, unsigned and not enclosed)
        if len(parts) < 2:
            return whole
        if len(flat) <= self.long and not self._has_comment(parts[0].start, parts[-1].start):
            return whole
        parts = [parts[0], *(replace(part, depth=part.depth + 1) for part in parts[1:])]
        return _within(parts, "(", ")") if enclosed else parts

    def _has_comment(self, start: int, end: int) -> bool:
        return any(start < place < end for place in self.comments)

    def _split(self, node: s.Expr, unsigned: bool) -> list[Piece]:
        """The pieces of an expression without parentheses around it; none if it has no parts."""
        match node:
            case s.Pipe():
                return self._pipeline(node)
            case s.If(condition=condition, yes=yes, no=no):
                return [
                    *_within(self._operand(condition, OR), "if "),
                    *_within(self._operand(yes, IF), "then "),
                    *_within(self._operand(no, IF), "else "),
                ]
            case s.Reduce(op=op, axes=axes, body=body):
                head = f"{op}({', '.join(map(axis_text, axes))}) "
                if isinstance(body, s.Binary) and LEVELS[body.op][0] == PRODUCT:
                    return _within(self._chain(body, True), head)
                least = IF if isinstance(body, s.If) else PRODUCT
                return _within(self._operand(body, least, True), head)
            case s.Unary(op="-", operand=operand):
                return _within(self._operand(operand, SIGNED), "-")
            case s.Binary(op=op) if op != "^":
                return self._chain(node, unsigned)
            case s.Call(function=function, arguments=(s.Argument(name=None, value=value),)):
                parts = self._split(value, False) or self._operand(value)
                return _within(parts, f"{format_expr(function, VALUE)}(", ")")
            case s.Call(function=function, arguments=arguments) if arguments:
                parts = self._listed(
                    [(f"{a.name} = " if a.name else "", a.value) for a in arguments]
                )
                return _within(parts, f"{format_expr(function, VALUE)}(", ")")
            case s.Index(tensor=tensor, indices=indices) if indices:
                last = len(indices) - 1
                parts = [
                    Piece(element_text(index) + "," * (k < last), index.span.start)
                    for k, index in enumerate(indices)
                ]
                return _within(parts, f"{tensor.id}{_PRIME * tensor.primed}[", "]")
            case s.Guarded(read=read, other=other):
                stood = _within(self._operand(other), "else ", ")")
                return [*_within(self._whole(read), "("), *stood]
            case s.List(items=items) if items:
                return _within(self._listed([("", item) for item in items]), "[", "]")
        return []

    def _listed(self, items: list[tuple[str, s.Expr]]) -> list[Piece]:
        parts: list[Piece] = []
        for k, (name, value) in enumerate(items):
            parts += _within(self._operand(value), name, "," * (k < len(items) - 1))
        return parts

    def _pipeline(self, node: s.Pipe) -> list[Piece]:
        """A pipeline keeps the line breaks that it was written with."""
        first, stages = _stages(node)
        parts = self._operand(first, PIPE)
        end = first.span.end
        for pipe in stages:
            stage = _within(self._operand(pipe.stage, VALUE), "|> ")
            broken = "\n" in pipe.span.source.text[end : pipe.stage.span.start]
            parts += [replace(stage[0], breaks=broken), *stage[1:]]
            end = pipe.stage.span.end
        return parts

    def _chain(self, node: s.Binary, unsigned: bool) -> list[Piece]:
        """`a + b - c` as `a`, `+ b`, `- c`: operators of one level, which group to the left."""
        own, least_left, least_right = LEVELS[node.op]
        tails: list[Piece] = []
        left: s.Expr = node
        while isinstance(left, s.Binary) and LEVELS[left.op][0] == own:
            if left is not node and (own == COMPARE or swallows(left, own)):
                break
            tails = [*_within(self._operand(left.right, least_right), f"{left.op} "), *tails]
            left = left.left
        if swallows(left, own):
            least_left = VALUE
        return [*self._operand(left, least_left, unsigned), *tails]


def _within(parts: list[Piece], before: str, after: str = "") -> list[Piece]:
    """The pieces with a text before the first and after the last."""
    first = replace(parts[0], text=before + parts[0].text)
    parts = [first, *parts[1:]]
    return [*parts[:-1], replace(parts[-1], text=parts[-1].text + after)]


def _stages(node: s.Expr) -> tuple[s.Expr, list[s.Pipe]]:
    stages: list[s.Pipe] = []
    while isinstance(node, s.Pipe):
        stages.insert(0, node)
        node = node.value
    return node, stages
