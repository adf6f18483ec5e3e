"""Formatter: a syntax tree as text in the one canonical layout (`nnc fmt`, `--emit ast`).

The text parses to the same tree, with every comment beside what it stood beside. The spans of the
tree tell where blank lines, comments and breaks in pipelines were.

Layout: four spaces; a docstring stands above what it documents; `+ -` and comparisons are spaced,
`^` is tight, `* /` are tight in an index and spaced elsewhere; `~` and `=` are aligned in a run of
`param`s, as is `=` in a train block; a pipeline keeps its line breaks. Tests:
tests/language/test_formatter.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from . import ast as s
from .line_breaking import Fragment, LineBreaker
from .printer import IF, format_expr, format_indices, format_type, quoted

WIDTH = 100
_INDENT = "    "
# A coarse cut keeps operands whole; a finer one is taken only where lines would be too long.
_FRAGMENT_LIMITS = (84, 56, 28)  # tried in turn until all lines fit


def format(file: s.File) -> str:
    """The whole file in canonical layout, ending in one line end."""
    return _Formatter(file).file()


class _Formatter:
    """Writes a file from top to bottom."""

    def __init__(self, file: s.File):
        self.tree = file
        self.text = file.source.text
        self.lines: list[str] = []
        self.pending = list(file.comments)  # not yet written
        self.last: s.Comment | None = None  # the last comment on lines of its own
        self.commented = 0  # the number of lines when the last one got a trailing comment

    def file(self) -> str:
        declarations, language = self.tree.declarations, self.tree.language
        if language is not None:
            self._comments_before(language.span.start, "")
            self.lines.append(f"language {language.version.text}")
            self._trailing(language, declarations[:1])
            self.lines.append("")
        if self.tree.doc:
            self._doc(self.tree.doc, "")
            self.lines.append("")
        end = 0  # of the declaration before, if it has one line
        for k, declaration in enumerate(declarations):
            start = len(self.lines)
            # Comments above a declaration move with it; `start` is where they begin.
            self._comments_before(declaration.span.start, "")
            commented = len(self.lines) > start
            # A comment with a blank line below it is not about the declaration and stays apart.
            if commented and self.last and self._blank_after(self.last.span.end):
                self.lines.append("")
            first = len(self.lines)
            self._declaration(declaration)
            one_line = len(self.lines) == first + 1
            # The next declaration tells which comments are behind it rather than behind this one.
            self._trailing(declaration, declarations[k + 1 : k + 2])
            # One-line declarations may stay next to each other.
            adjacent = self.text.count("\n", end, declaration.span.start) < 2
            if k and not (end and one_line and not commented and adjacent):
                self._insert_blank(start)
            end = declaration.span.end if one_line else 0
        # Comments after the last declaration; one beside its end was written by `_trailing`.
        start = len(self.lines)
        self._comments_before(len(self.text) + 1, "")
        if declarations and len(self.lines) > start and self.lines[start]:
            self._insert_blank(start)
        return "\n".join(self.lines).strip("\n") + "\n" if self.lines else ""

    def _insert_blank(self, at: int) -> None:
        # no blank line at the top, and never two
        if at > 0 and self.lines[at - 1] and (at == len(self.lines) or self.lines[at]):
            self.lines.insert(at, "")

    # comments

    def _has_comment_before(self, offset: int) -> bool:
        return bool(self.pending) and self.pending[0].span.start < offset

    def _comments_before(self, offset: int, indent: str) -> None:
        while self._has_comment_before(offset):
            self.last = comment = self.pending.pop(0)
            # Blank lines between comments are kept, several as one.
            if comment.own_line and self._blank_before(comment.span.start):
                self._separate()
            self.lines.append(indent + _comment(comment))

    def _separate(self) -> None:
        """A blank line, unless there is one or a block has just begun."""
        if self.lines and self.lines[-1] and not self.lines[-1].endswith("{"):
            self.lines.append("")

    def _blank_before(self, offset: int) -> bool:
        start = offset
        # Two line ends among the blanks before the offset are a blank line.
        while start > 0 and self.text[start - 1].isspace():
            start -= 1
        return self.text.count("\n", start, offset) > 1

    def _blank_after(self, offset: int) -> bool:
        rest = self.text[offset:]
        return rest.count("\n", 0, len(rest) - len(rest.lstrip())) > 1

    def _trailing(self, node: s.Node, following: Sequence[s.Node]) -> None:
        """The comment behind the end of what was just written, or within that end. Others wait
        for what follows."""
        # A line has room for one comment: `commented` is the number of lines when one was put
        # there.
        if not self.pending or self.pending[0].own_line or self.commented == len(self.lines):
            return
        start = self.pending[0].span.start
        # `a = 1; b = 2  # about b`
        if any(start > later.span.start for later in following):
            return
        # on the same line as the node's end
        if "\n" not in self.text[node.span.end : start]:
            self._append_comments(start + 1, "")

    def _append_comments(self, offset: int, indent: str) -> bool:
        """Write the comments before an offset: the first behind the last line if that is where it
        stood, the others on lines of their own. Returns whether there were any."""
        found = False
        while self._has_comment_before(offset):
            comment = self.pending.pop(0)
            # A second comment cannot stand behind the same line.
            if comment.own_line or found or self.commented == len(self.lines):
                self.lines.append(indent + _comment(comment))
            else:
                self.lines[-1] += f"  {_comment(comment)}"
            found = True
        if found:
            self.commented = len(self.lines)
        return found

    # declarations

    def _declaration(self, node: s.Declaration) -> None:
        match node:
            case s.Use(path=path):
                self.lines.append(f"use {quoted(path.value)}")
            case s.Train(model=model, body=body):
                doc = self._doc_above(node)
                heads = _aligned(entry for entry in body if isinstance(entry, s.Field))
                self._block(f"train {model.id} {{", node, body, doc, heads)
            case s.Definition():
                self._definition(node)

    def _definition(self, node: s.Definition) -> None:
        groups = _groups(node)
        results = ", ".join(map(_parameter, node.results))
        arrow = f" -> {results}" if results else ""
        header = f"{node.kind} {node.name}" + "".join(
            f"({', '.join(map(_parameter, group))})" for group in groups
        )
        # This header stays on one line: comments inside it go above.
        if node.value is not None:
            self._comments_before(node.value.span.start, "")
            if node.doc:
                self._doc(node.doc, "")
            self._assignment(f"{header} = ", node.value, "")
            return
        doc = self._doc_above(node)
        if not doc and self._one_line(f"{header}{arrow}", node):
            return
        # A comment between parameters forces one parameter a line, as does a header that is too
        # long.
        last = max((p.span.start for group in groups for p in group), default=0)
        commented = self._has_comment_before(last) and node.span.start < self.pending[0].span.start
        if commented or len(f"{header}{arrow} {{") > WIDTH:
            if commented or len(header) > WIDTH:
                header = self._broken_header(node, groups)
            # Still too long: the results go on a line of their own.
            if len(f"{header}{arrow} {{") > WIDTH and arrow:
                self.lines.append(header)
                header, arrow = _INDENT + arrow.strip(), ""
        self._block(f"{header}{arrow} {{", node, node.body, doc, _aligned_params(node.body))

    def _one_line(self, header: str, node: s.Definition) -> bool:
        """`optimizer sgd(lr = 0.01) { p' = p - lr * g }` stays on one line."""
        commented = self._has_comment_before(node.span.end)
        # Only what the user wrote on one line stays on one.
        if len(node.body) != 1 or commented or "\n" in node.span.text.strip():
            return False
        if isinstance(node.body[0], s.Repeat | s.Remat):
            return False
        # Written on trial, then taken back: whether it fits is known only afterwards.
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
        """Write a header with one parameter a line, all but its last line, which is returned."""
        line = f"{node.kind} {node.name}"
        for group in groups:
            self.lines.append(line + "(")
            for parameter in group:
                self._append_comments(parameter.span.start, _INDENT)
                self.lines.append(f"{_INDENT}{_parameter(parameter)},")
            line = ")"
        return line

    def _doc(self, doc: str, indent: str) -> None:
        lines = [f"{indent}{line}".rstrip() for line in doc.split("\n")]
        lines[0] = f'{indent}"""{doc.split(chr(10))[0]}'.rstrip()
        # `…""""` would end the docstring too early, and a backslash looks like an escape.
        if doc.endswith(('"', "\\")):
            lines.append(f'{indent}"""')
        else:
            lines[-1] += '"""'
        self.lines += lines

    def _doc_above(self, node: s.Definition | s.Train) -> str:
        """Write the docstring; or return it, to stand inside, if above it would be the file's."""
        if not node.doc or (not self.tree.doc and node is self.tree.declarations[0]):
            return node.doc
        self._doc(node.doc, "")
        return ""

    # bodies

    def _block(
        self,
        opening: str,
        node: s.Node,
        body: Sequence[s.Node],
        doc: str,
        heads: dict[int, str],
        indent: str = "",
    ) -> None:
        inner = indent + _INDENT
        if not doc and not body and not self._has_comment_before(node.span.end):
            self.lines.append(f"{indent}{opening} }}")
            return
        self.lines.append(f"{indent}{opening}")
        first = body[0].span.start if body else node.span.end
        # a comment behind the opening brace stays there
        if self._has_comment_before(first) and not self.pending[0].own_line:
            self.lines[-1] += f"  {_comment(self.pending.pop(0))}"
        if doc:
            self._doc(doc, inner)
        for k, statement in enumerate(body):
            self._comments_before(statement.span.start, inner)
            if k and self._blank_before(statement.span.start):
                self._separate()
            if isinstance(statement, s.Repeat | s.Remat):
                opening = "remat {"
                if isinstance(statement, s.Repeat):
                    opening = f"repeat {format_expr(statement.count, IF)} {{"
                own = _aligned_params(statement.body)
                self._block(opening, statement, statement.body, "", own, inner)
            else:
                self._statement(statement, inner, heads)
            self._trailing(statement, body[k + 1 : k + 2])
        # Comments before the closing brace belong to the block.
        self._comments_before(node.span.end, inner)
        self.lines.append(f"{indent}}}")

    def _statement(self, node: s.Node, indent: str, heads: dict[int, str]) -> None:
        # A head that was padded for alignment, else the plain one.
        head = heads.get(id(node)) or _head(node)
        match node:
            case s.Input() | s.ParamGroup(value=None):
                self.lines.append(indent + head)
            case s.ParamGroup(value=s.Node() as value):
                self._assignment(f"{head} = ", value, indent)
            case s.Until(condition=condition):
                self._assignment("until ", condition, indent)
            case s.Limit(op=sign, value=value):
                self._assignment(f"{head} {sign} ", value, indent)
            case s.Param(value=value, drawn=True):
                self._assignment(f"{head} ~ ", value, indent)
            case s.Equation(value=value, accumulate=sign) if sign:
                self._assignment(f"{head} {sign} ", value, indent)
            case s.Let() | s.Param() | s.State() | s.Equation() | s.Field() | s.Loss() | s.Metric():
                self._assignment(f"{head} = ", node.value, indent)

    def _assignment(self, prefix: str, node: s.Expr, indent: str) -> None:
        """`prefix` and an expression, on several lines if it is too long for one, has a comment
        within it, or is a pipeline that was written so."""
        # Greedy filling: a fragment joins the line above if it fits.
        first, *rest = self._fragments(prefix, node, indent)
        self._comments_before(first.start, indent)
        self.lines.append(f"{indent}{prefix}{first.text}")
        for fragment in rest:
            inner = indent + _INDENT * (fragment.depth + 1)
            commented = self._append_comments(fragment.start, inner)
            joined = f"{self.lines[-1]} {fragment.text}"
            if commented or fragment.breaks or len(joined) > WIDTH:
                self.lines.append(inner + fragment.text)
            else:
                self.lines[-1] = joined

    def _fragments(self, prefix: str, node: s.Expr, indent: str) -> list[Fragment]:
        """Cut as finely as it takes for every line to fit."""
        comments = [c.span.start for c in self.pending]
        # If even the finest cut does not fit (a very long name), it is taken as it is.
        for limit in _FRAGMENT_LIMITS:
            fragments = LineBreaker(comments, limit).fragments(node)
            widths = [len(f.text) + len(_INDENT) * (f.depth + 1) for f in fragments]
            if max(len(prefix) + len(fragments[0].text), *widths) + len(indent) <= WIDTH:
                break
        return fragments


def _comment(comment: s.Comment) -> str:
    text = comment.text.rstrip()
    # `#!` and `##` stay as they are
    return f"# {text}" if text and not text.startswith((" ", "!", "#")) else f"#{text}"


def _groups(node: s.Definition) -> list[tuple[s.Parameter, ...]]:
    """The parenthesised parameter lists of a header."""
    settings = [node.settings] if node.settings else []
    return settings if node.kind == "optimizer" else [*settings, node.inputs]


def _parameter(node: s.Parameter) -> str:
    dtype = f": {format_type(node.type)}" if node.type is not None else ""
    default = f" = {format_expr(node.default)}" if node.default is not None else ""
    return f"{node.name}{dtype}{default}"


def _head(node: s.Node) -> str:
    """A statement up to its sign."""
    match node:
        case s.Let(name=name):
            return f"let {name.id}"
        # the sign, `~` or `=`, comes after the padding
        case s.Param(names=names, type=dtype):
            return f"param {', '.join(map(format_expr, names))}: {format_type(dtype)}"
        case s.State(name=name, type=dtype):
            return f"state {name.id}" + (f": {format_type(dtype)}" if dtype else "")
        case s.Equation(targets=targets, indices=indices):
            left = ", ".join(map(format_expr, targets))
            return left if indices is None else f"{left}[{format_indices(indices)}]"
        case s.Field(name=name) | s.Limit(name=name):
            return name.id
        case s.Metric(name=name):
            return f"metric {name.id}"
        case s.Loss(name=name, patterns=patterns):
            return f"loss {name.id} for {', '.join(p.text for p in patterns)}"
        case s.Input(name=name, type=dtype):
            return f"input {name.id}: {format_type(dtype)}"
        case s.ParamGroup(patterns=patterns, value=value):
            word = "freeze" if value is None else "optimizer"
            return f"{word} {', '.join(p.text for p in patterns)}"
    return ""


def _aligned_params(body: Sequence[s.Node]) -> dict[int, str]:
    """The heads of the parameters, each run of neighbours padded to the width of its longest."""
    heads: dict[int, str] = {}
    for is_param, run in groupby(body, lambda node: isinstance(node, s.Param)):
        if is_param:
            heads |= _aligned(run)
    return heads


def _aligned(nodes: Iterable[s.Node]) -> dict[int, str]:
    # By identity: equal statements may occur twice.
    heads = {id(node): _head(node) for node in nodes}
    width = max(map(len, heads.values()), default=0)
    return {key: head.ljust(width) for key, head in heads.items()}
