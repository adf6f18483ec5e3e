"""Syntax tree to text in the one canonical layout: `nnc fmt` and `--emit ast`.

In: a `syntax.File` (its spans say where blank lines, comments and pipeline breaks were). Out: text
that parses to the same tree, with every comment beside what it stood beside. It never looks at
meaning.

Layout: four spaces; a docstring stands above what it is about; `+ -` and comparisons spaced, `^`
tight, `* /` tight between brackets of an index and spaced elsewhere; a run of `param`s has its `~`
and `=` in one column, so have the fields of a train block; a pipeline keeps the line breaks it was
written with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

from . import ast as s
from .line_breaking import LONG, Cutter, Piece
from .printer import IF, elements, format_expr, format_type, quoted

WIDTH = 100
_INDENT = "    "


def format(file: s.File) -> str:
    """The whole file in canonical layout, ending in one line end."""
    return _Writer(file).file()


@dataclass
class _Writer:
    """Writes a file top to bottom; `waiting` are the comments not yet written, in order."""

    source_file: s.File
    lines: list[str] = field(default_factory=list)
    waiting: list[s.Comment] = field(default_factory=list)
    last: s.Comment | None = None  # of those written
    commented: int = 0  # the number of lines when the last of them got a comment

    def file(self) -> str:
        self.waiting = list(self.source_file.comments)
        declarations = self.source_file.declarations
        if self.source_file.doc:
            self._doc(self.source_file.doc, "")
            self.lines.append("")
        end = 0  # of the declaration before, if it has one line
        for k, declaration in enumerate(declarations):
            start = len(self.lines)
            self._comments_before(declaration.span.start, "")
            remarks = len(self.lines) > start
            if remarks and self.last and self._blank_after(self.last.span.end):
                self.lines.append("")
            first = len(self.lines)
            self._declaration(declaration)
            one_line = len(self.lines) == first + 1
            following = declarations[k + 1] if k + 1 < len(declarations) else None
            self._trailing(declaration.span.end, following)
            close = end and one_line and not remarks and self._close(end, declaration.span.start)
            if k and not close:
                self._blank(start)
            end = declaration.span.end if one_line else 0
        start = len(self.lines)
        self._comments_before(len(self.source_file.source.text) + 1, "")
        if declarations and len(self.lines) > start and self.lines[start]:
            self._blank(start)
        return "\n".join(self.lines).strip("\n") + "\n" if self.lines else ""

    def _close(self, end: int, start: int) -> bool:
        """Declarations of one line may stand close together if they were written so."""
        return self.source_file.source.text.count("\n", end, start) < 2

    def _blank(self, at: int) -> None:
        if at > 0 and self.lines[at - 1] and (at == len(self.lines) or self.lines[at]):
            self.lines.insert(at, "")

    # comments

    def _comments_before(self, offset: int, indent: str) -> None:
        while self.waiting and self.waiting[0].span.start < offset:
            self.last = comment = self.waiting.pop(0)
            if comment.own_line and self._blank_before(comment.span.start):
                self._separate()
            self.lines.append(f"{indent}#{_comment(comment)}")

    def _separate(self) -> None:
        """A blank line, unless there is one or a block has just begun."""
        if self.lines and self.lines[-1] and not self.lines[-1].endswith("{"):
            self.lines.append("")

    def _blank_before(self, offset: int) -> bool:
        text = self.source_file.source.text
        start = offset
        while start > 0 and text[start - 1].isspace():
            start -= 1
        return text.count("\n", start, offset) > 1

    def _blank_after(self, offset: int) -> bool:
        rest = self.source_file.source.text[offset:]
        return rest[: len(rest) - len(rest.lstrip())].count("\n") > 1

    def _trailing(self, end: int, following: s.Node | None) -> None:
        """A comment that stands behind or within the end of what was just written. Others wait
        for what follows."""
        if not self.waiting or self.waiting[0].own_line or self.commented == len(self.lines):
            return
        start = self.waiting[0].span.start
        if following is not None and start > following.span.start:
            return
        if "\n" not in self.source_file.source.text[end:start]:
            self._behind(start + 1, "")

    def _behind(self, offset: int, indent: str) -> bool:
        """Write the comments before a place: the first behind the last line if that is where it
        stood, the others on lines of their own. Whether there were any."""
        found = False
        while self.waiting and self.waiting[0].span.start < offset:
            comment = self.waiting.pop(0)
            text = f"#{_comment(comment)}"
            if comment.own_line or found or self.commented == len(self.lines):
                self.lines.append(indent + text)
            else:
                self.lines[-1] += f"  {text}"
            found = True
        if found:
            self.commented = len(self.lines)
        return found

    # declarations

    def _declaration(self, node: s.Use | s.Definition | s.Train) -> None:
        match node:
            case s.Use(path=path):
                self.lines.append(f"use {quoted(path.value)}")
            case s.Train(model=model, body=body):
                doc = self._doc_above(node)
                self._block(f"train {model.id} {{", node, body, doc, _padded_fields(body))
            case s.Definition():
                self._definition(node)

    def _definition(self, node: s.Definition) -> None:
        groups = _groups(node)
        results = ", ".join(map(_parameter, node.results))
        arrow = f" -> {results}" if results else ""
        header = f"{node.kind} {node.name}" + "".join(
            f"({', '.join(map(_parameter, group))})" for group in groups
        )
        if node.value is not None:
            self._comments_before(node.value.span.start, "")
            if node.doc:
                self._doc(node.doc, "")
            self._equated(f"{header} = ", node.value, "")
            return
        doc = self._doc_above(node)
        if not doc and self._one_line(f"{header}{arrow}", node):
            return
        last = max((p.span.start for group in groups for p in group), default=0)
        remarks = bool(self.waiting) and node.span.start < self.waiting[0].span.start < last
        if remarks or len(f"{header}{arrow} {{") > WIDTH:
            if remarks or len(header) > WIDTH:
                header = self._broken_header(node, groups)
            if len(f"{header}{arrow} {{") > WIDTH and arrow:
                self.lines.append(header)
                header, arrow = _INDENT + arrow.strip(), ""
        self._block(f"{header}{arrow} {{", node, node.body, doc, _padded_params(node.body))

    def _one_line(self, header: str, node: s.Definition) -> bool:
        """`optimizer sgd(lr = 0.01) { p' = p - lr * g }` stays as it was written."""
        inside = self.waiting and self.waiting[0].span.start < node.span.end
        if len(node.body) != 1 or inside or "\n" in node.span.text.strip():
            return False
        if isinstance(node.body[0], s.Repeat | s.Remat):
            return False
        before = len(self.lines)
        self._statement(node.body[0], "", {})
        lines = self.lines[before:]
        del self.lines[before:]
        text = f"{header} {{ {lines[0]} }}"
        if len(lines) > 1 or len(text) > WIDTH:
            return False
        self.lines.append(text)
        return True

    def _broken_header(self, node: s.Definition, groups: Sequence[tuple[s.Parameter, ...]]) -> str:
        """A header with a line for each parameter; all but its last line are written."""
        line = f"{node.kind} {node.name}"
        for group in groups:
            self.lines.append(line + "(")
            for parameter in group:
                self._behind(parameter.span.start, _INDENT)
                self.lines.append(f"{_INDENT}{_parameter(parameter)},")
            line = ")"
        return line

    def _doc(self, doc: str, indent: str) -> None:
        lines = [f"{indent}{line}".rstrip() for line in doc.split("\n")]
        lines[0] = f'{indent}"""{doc.split(chr(10))[0]}'.rstrip()
        if doc.endswith(('"', "\\")):
            lines.append(f'{indent}"""')
        else:
            lines[-1] += '"""'
        self.lines += lines

    def _doc_above(self, node: s.Definition | s.Train) -> str:
        """Write the docstring; or give it back, to stand inside, if here it would be the file's."""
        if not node.doc or (not self.source_file.doc and node is self.source_file.declarations[0]):
            return node.doc
        self._doc(node.doc, "")
        return ""

    # bodies

    def _block(
        self,
        opening: str,
        node: s.Node,
        body: tuple[s.Node, ...],
        doc: str,
        heads: dict[int, str],
        indent: str = "",
    ) -> None:
        inner = indent + _INDENT
        first = body[0].span.start if body else node.span.end
        quiet = not doc and not body
        if quiet and not (self.waiting and self.waiting[0].span.start < node.span.end):
            self.lines.append(f"{indent}{opening} }}")
            return
        self.lines.append(f"{indent}{opening}")
        if self.waiting and not self.waiting[0].own_line and self.waiting[0].span.start < first:
            self.lines[-1] += f"  #{_comment(self.waiting.pop(0))}"
        if doc:
            self._doc(doc, inner)
        for k, statement in enumerate(body):
            self._comments_before(statement.span.start, inner)
            if k and self._blank_before(statement.span.start):
                self._separate()
            if isinstance(statement, s.Repeat):
                count = format_expr(statement.count, IF)
                own = _padded_params(statement.body)
                self._block(f"repeat {count} {{", statement, statement.body, "", own, inner)
            elif isinstance(statement, s.Remat):
                own = _padded_params(statement.body)
                self._block("remat {", statement, statement.body, "", own, inner)
            else:
                self._statement(statement, inner, heads)
            self._trailing(statement.span.end, body[k + 1] if k + 1 < len(body) else None)
        self._comments_before(node.span.end, inner)
        self.lines.append(f"{indent}}}")

    def _statement(self, node: s.Node, indent: str, heads: dict[int, str]) -> None:
        head = heads.get(id(node)) or _head(node)
        match node:
            case s.Until(condition=condition):
                self._equated("until ", condition, indent)
            case s.Input():
                self.lines.append(indent + head)
            case s.Param(value=value, drawn=drawn):
                self._equated(f"{head} {'~' if drawn else '='} ", value, indent)
            case s.Equation(value=value, accumulate=accumulate):
                self._equated(f"{head} {'+=' if accumulate else '='} ", value, indent)
            case (
                s.Let(value=value)
                | s.State(value=value)
                | s.Field(value=value)
                | s.Metric(value=value)
            ):
                self._equated(f"{head} = ", value, indent)

    def _equated(self, prefix: str, node: s.Expr, indent: str) -> None:
        """`prefix` and an expression, over several lines if it is too long for one, or a comment
        stands within it, or it is a pipeline that was written so."""
        first, *rest = self._pieces(prefix, node, indent)
        self._comments_before(first.start, indent)
        self.lines.append(f"{indent}{prefix}{first.text}")
        for piece in rest:
            inner = indent + _INDENT * (piece.depth + 1)
            commented = self._behind(piece.start, inner)
            joined = f"{self.lines[-1]} {piece.text}"
            if commented or piece.breaks or len(joined) > WIDTH:
                self.lines.append(inner + piece.text)
            else:
                self.lines[-1] = joined

    def _pieces(self, prefix: str, node: s.Expr, indent: str) -> list[Piece]:
        """Cut as finely as it takes for every line to fit."""
        comments = [c.span.start for c in self.waiting]
        for long in LONG:
            pieces = Cutter(comments, long).pieces(node)
            widths = [len(p.text) + len(_INDENT) * (p.depth + 1) for p in pieces]
            if max(len(prefix) + len(pieces[0].text), *widths) + len(indent) <= WIDTH:
                break
        return pieces


def _comment(comment: s.Comment) -> str:
    text = comment.text.rstrip()
    return f" {text}" if text and not text.startswith((" ", "!", "#")) else text


def _groups(node: s.Definition) -> list[tuple[s.Parameter, ...]]:
    if node.kind == "layer":
        return [node.settings, node.inputs] if node.settings else [node.inputs]
    if node.kind == "optimizer":
        return [node.settings] if node.settings else []
    return [node.inputs]


def _parameter(node: s.Parameter) -> str:
    written = f": {format_type(node.type)}" if node.type is not None else ""
    default = f" = {format_expr(node.default)}" if node.default is not None else ""
    return f"{node.name}{written}{default}"


def _head(node: s.Node) -> str:
    """A statement up to its sign."""
    match node:
        case s.Let(name=name):
            return f"let {name.id}"
        case s.Param(names=names, type=written):
            return f"param {', '.join(map(format_expr, names))}: {format_type(written)}"
        case s.State(name=name, type=written):
            return f"state {name.id}" + (f": {format_type(written)}" if written else "")
        case s.Equation(targets=targets, indices=indices):
            shown = ", ".join(map(format_expr, targets))
            return shown if indices is None else f"{shown}[{elements(indices)}]"
        case s.Field(name=name):
            return name.id
        case s.Metric(name=name):
            return f"metric {name.id}"
        case s.Input(name=name, type=written):
            return f"input {name.id}: {format_type(written)}"
    return ""


def _padded_fields(body: tuple[s.Node, ...]) -> dict[int, str]:
    """The fields of a train block, as wide as the widest."""
    return _padded([node for node in body if isinstance(node, s.Field)])


def _padded_params(body: tuple[s.Node, ...]) -> dict[int, str]:
    """Neighbouring parameters, as wide as the widest of the run."""
    heads: dict[int, str] = {}
    for declares, run in groupby(body, lambda node: isinstance(node, s.Param)):
        if declares:
            heads |= _padded(list(run))
    return heads


def _padded(nodes: list[s.Node]) -> dict[int, str]:
    widest = max((len(_head(node)) for node in nodes), default=0)
    return {id(node): _head(node).ljust(widest) for node in nodes}
