"""Syntax tree to text in the one canonical layout: `nnc fmt` and `--emit ast`.

In: a `syntax.File` (its spans say where blank lines, comments and pipeline breaks were), or any
expression. Out: text that parses to the same tree. It never looks at meaning.

Layout: four spaces; `+ -` and comparisons spaced, `^` tight, `* /` tight between brackets of an
index and spaced elsewhere; a run of `param`s has its `~` and `=` in one column, so have the fields
of a train block; a pipeline keeps the line breaks it was written with.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby, pairwise

from . import syntax as s

WIDTH = 100
_INDENT = "    "

# --- expressions ----------------------------------------------------------------------------------

# How tightly an operator binds; parentheses go where a looser one stands in a tighter one's place.
_PIPE, _IF, _OR, _AND, _NOT, _COMPARE, _TOTAL, _PRODUCT, _SIGNED, _POWER, _VALUE = range(11)

_LEVELS = {
    "or": (_OR, _OR, _AND),
    "and": (_AND, _AND, _NOT),
    **dict.fromkeys(("==", "!=", "<", "<=", ">", ">="), (_COMPARE, _TOTAL, _TOTAL)),
    **dict.fromkeys(("+", "-"), (_TOTAL, _TOTAL, _PRODUCT)),
    **dict.fromkeys(("*", "/", "//", "%", "@"), (_PRODUCT, _PRODUCT, _SIGNED)),
    "^": (_POWER, _VALUE, _POWER),
}  # operator: its own level, the least level of its left and of its right side


def format_expr(node: s.Expr, level: int = _PIPE, tight: bool = False) -> str:
    """An expression on one line, with only the parentheses it needs in a place of that `level`."""
    return _write(node, level, tight, False)


def _write(node: s.Expr | s.Axis, level: int, tight: bool, unsigned: bool) -> str:
    """`unsigned`: a sign may not stand first (it would not be read as a reduction's body)."""
    match node:
        case s.Number(text=text):
            return f"({text})" if text.startswith("-") and level > _SIGNED else text
        case s.Boolean(value=value):
            return "true" if value else "false"
        case s.String(value=value):
            return _quoted(value)
        case s.Name(id=name, primed=primed):
            return name + "'" * primed
        case s.Ellipsis_():
            return "..."
        case s.Axis():
            return _axis(node)
        case s.List(items=items):
            return f"[{', '.join(format_expr(item) for item in items)}]"
        case s.Index(tensor=tensor, indices=indices):
            return f"{format_expr(tensor)}[{_elements(indices)}]"
        case s.Guarded(read=read, other=other):
            return f"({format_expr(read)} else {format_expr(other)})"
        case s.Call(function=function, arguments=arguments):
            return f"{format_expr(function, _VALUE)}({', '.join(map(format_argument, arguments))})"
    own, text = _operation(node, tight, unsigned)
    return f"({text})" if own < level or (unsigned and text.startswith("-")) else text


def _operation(node: s.Expr, tight: bool, unsigned: bool) -> tuple[int, str]:
    """The level and the text of an operator, without parentheses around it."""
    match node:
        case s.Pipe(value=value, stage=stage):
            return _PIPE, f"{format_expr(value, _PIPE)} |> {format_expr(stage, _VALUE)}"
        case s.If(condition=condition, yes=yes, no=no):
            return _IF, (
                f"if {format_expr(condition, _OR, tight)} then {format_expr(yes, _IF, tight)}"
                f" else {format_expr(no, _IF, tight)}"
            )
        case s.Unary(op="-", operand=operand):
            return _SIGNED, "-" + format_expr(operand, _SIGNED, tight)
        case s.Unary(operand=operand):
            return _NOT, f"not {format_expr(operand, _NOT, tight)}"
        case s.Reduce(op=op, axes=axes, body=body):
            least = _IF if isinstance(body, s.If) else _PRODUCT
            return (
                _SIGNED,
                f"{op}({', '.join(map(_axis, axes))}) {_write(body, least, tight, True)}",
            )
        case s.Binary(op="^", left=left, right=right):
            return _POWER, f"{format_expr(left, _VALUE, tight)}^{_exponent(right, tight)}"
        case s.Binary(op=op, left=left, right=right):
            own, least_left, least_right = _LEVELS[op]
            if _swallows(left, own):
                least_left = _VALUE
            first = _write(left, least_left, tight, unsigned)
            space = "" if tight and op in ("*", "/") else " "
            return own, f"{first}{space}{op}{space}{format_expr(right, least_right, tight)}"
    raise TypeError(f"{type(node).__name__} is not an expression")


def _swallows(left: s.Expr, level: int) -> bool:
    """Would a reduction at the right edge of `left` take the operator after it into its body?"""
    while True:
        match left:
            case s.Reduce(body=s.If()):
                return True
            case s.Reduce(body=body):
                if level == _PRODUCT:
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
    return format_expr(node, _POWER, tight)


def _axis(axis: s.Axis) -> str:
    if axis.bound is None:
        return axis.name
    return f"{axis.name} < {format_expr(axis.bound, _TOTAL, True)}"


def _elements(elements: Iterable[s.Expr | s.Axis]) -> str:
    return ", ".join(_write(element, _PIPE, True, False) for element in elements)


def format_argument(argument: s.Argument) -> str:
    value = format_expr(argument.value)
    return value if argument.name is None else f"{argument.name} = {value}"


def _quoted(text: str) -> str:
    for plain, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\t", "\\t")):
        text = text.replace(plain, escaped)
    return f'"{text}"'


def format_type(node: s.Type) -> str:
    shape = "" if node.shape is None else f"[{_elements(node.shape)}]"
    return (node.dtype or "") + shape


# --- long expressions -----------------------------------------------------------------------------


def _laid_out(prefix: str, node: s.Expr, indent: str, end: str = "") -> list[str]:
    """`prefix` and an expression, over several lines if it is too long for one."""
    flat = f"{indent}{prefix}{format_expr(node)}{end}"
    if len(flat) <= WIDTH:
        return [flat]
    head, tails = _pieces(node)
    if not tails:
        return [flat]
    lines = [f"{indent}{prefix}{head}"]
    inner = indent + _INDENT
    for tail in tails:
        joined = f"{lines[-1]} {tail}" if not tail.startswith(")") else lines[-1] + tail
        lines = [*lines[:-1], joined] if len(joined) <= WIDTH else [*lines, inner + tail]
    lines[-1] += end
    return lines


def _pieces(node: s.Expr) -> tuple[str, list[str]]:
    """The start of an expression, and the rest cut where a line may begin."""
    match node:
        case s.Pipe():
            first, stages = _stages(node)
            return format_expr(first), [f"|> {format_expr(p.stage, _VALUE)}" for p in stages]
        case s.If(condition=condition, yes=yes, no=no):
            return f"if {format_expr(condition, _OR)}", [
                f"then {format_expr(yes, _IF)}",
                f"else {format_expr(no, _IF)}",
            ]
        case s.Reduce(op=op, axes=axes, body=s.Binary() as body):
            if _LEVELS[body.op][0] == _PRODUCT:
                head, tails = _chain(body, True)
                return f"{op}({', '.join(map(_axis, axes))}) {head}", tails
        case s.Binary(op=op) if op != "^":
            return _chain(node, False)
        case s.Call(function=function, arguments=(s.Argument(name=None, value=value),)):
            head, tails = _pieces(value)
            texts = [head, *tails]
            texts[-1] += ")"
            return f"{format_expr(function, _VALUE)}({texts[0]}", texts[1:]
        case s.Call(function=function, arguments=arguments) if arguments:
            *most, last = [format_argument(argument) for argument in arguments]
            texts = [*(f"{text}," for text in most), f"{last})"]
            return f"{format_expr(function, _VALUE)}({texts[0]}", texts[1:]
    return format_expr(node), []


def _chain(node: s.Binary, unsigned: bool) -> tuple[str, list[str]]:
    """`a + b - c` as `a`, `+ b`, `- c`: operators of one level, which group to the left."""
    own, least_left, least_right = _LEVELS[node.op]
    tails: list[str] = []
    left: s.Expr = node
    while isinstance(left, s.Binary) and _LEVELS[left.op][0] == own and own != _COMPARE:
        if left is not node and _swallows(left, own):
            break
        tails.insert(0, f"{left.op} {format_expr(left.right, least_right)}")
        left = left.left
    if not tails:
        tails, left = [f"{node.op} {format_expr(node.right, least_right)}"], node.left
    if _swallows(left, own):
        least_left = _VALUE
    head = _write(left, least_left, False, unsigned)
    if len(head) > WIDTH * 4 // 5 and head == format_expr(left):
        head, more = _pieces(left)
        tails = more + tails
    return head, tails


def _stages(node: s.Expr) -> tuple[s.Expr, list[s.Pipe]]:
    stages: list[s.Pipe] = []
    while isinstance(node, s.Pipe):
        stages.insert(0, node)
        node = node.value
    return node, stages


# --- files ----------------------------------------------------------------------------------------


def format(file: s.File) -> str:
    """The whole file in canonical layout, ending in one line end."""
    return _Writer(file).file()


@dataclass
class _Writer:
    """Writes a file top to bottom; `waiting` are the comments not yet written, in order."""

    source_file: s.File
    lines: list[str] = field(default_factory=list)
    waiting: list[s.Comment] = field(default_factory=list)

    def file(self) -> str:
        self.waiting = list(self.source_file.comments)
        declarations = self.source_file.declarations
        if self.source_file.doc:
            self._doc(self.source_file.doc, "")
            self.lines.append("")
        previous: s.Node | None = None
        for k, declaration in enumerate(declarations):
            start = len(self.lines)
            self._comments_before(declaration.span.start, "")
            if previous is not None and self._apart(previous, declaration):
                self._blank(start)
            self._declaration(declaration)
            following = declarations[k + 1].span.start if k + 1 < len(declarations) else None
            self._trailing(declaration.span.end, following)
            previous = declaration
        start = len(self.lines)
        self._comments_before(len(self.source_file.source.text) + 1, "")
        if declarations and len(self.lines) > start and self.lines[start]:
            self._blank(start)
        return "\n".join(self.lines).strip("\n") + "\n" if self.lines else ""

    def _apart(self, previous: s.Node, declaration: s.Node) -> bool:
        """Declarations of one line may stand close together if they were written so."""
        between = self.source_file.source.text[previous.span.end : declaration.span.start]
        short = all("\n" not in node.span.text for node in (previous, declaration))
        return not short or between.count("\n") > 1

    def _blank(self, at: int) -> None:
        if at > 0 and self.lines[at - 1] and (at == len(self.lines) or self.lines[at]):
            self.lines.insert(at, "")

    # comments

    def _comments_before(self, offset: int, indent: str) -> None:
        while self.waiting and self.waiting[0].span.start < offset:
            comment = self.waiting.pop(0)
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

    def _trailing(self, end: int, limit: int | None) -> None:
        """A comment that stands behind what was just written."""
        text = self.source_file.source.text
        while self.waiting and not self.waiting[0].own_line:
            comment = self.waiting[0]
            start = comment.span.start
            if start < end or "\n" in text[end:start] or (limit is not None and start > limit):
                return
            self.lines[-1] += f"  #{_comment(comment)}"
            self.waiting.pop(0)

    # declarations

    def _declaration(self, node: s.Use | s.Definition | s.Train) -> None:
        match node:
            case s.Use(path=path):
                self.lines.append(f"use {_quoted(path.value)}")
            case s.Train(model=model, body=body, doc=doc):
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
            if node.doc:
                self._doc(node.doc, "")
            self._inner_comments(node.value, "")
            self.lines += self._expression(f"{header} = ", node.value, "")
            return
        if self._one_line(f"{header}{arrow}", node):
            return
        if len(f"{header}{arrow} {{") > WIDTH:
            *above, header = _broken_header(node, groups) if len(header) > WIDTH else [header]
            self.lines += above
            if len(f"{header}{arrow} {{") > WIDTH and arrow:
                self.lines.append(header)
                header, arrow = _INDENT + arrow.strip(), ""
        self._block(f"{header}{arrow} {{", node, node.body, node.doc, _padded_params(node.body))

    def _one_line(self, header: str, node: s.Definition) -> bool:
        """`optimizer sgd(lr = 0.01) { p' = p - lr * g }` stays as it was written."""
        inside = self.waiting and self.waiting[0].span.start < node.span.end
        if len(node.body) != 1 or node.doc or inside or "\n" in node.span.text.strip():
            return False
        if isinstance(node.body[0], s.Repeat):
            return False
        lines = self._statement(node.body[0], "", {})
        text = f"{header} {{ {lines[0]} }}"
        if len(lines) > 1 or len(text) > WIDTH:
            return False
        self.lines.append(text)
        return True

    def _doc(self, doc: str, indent: str) -> None:
        lines = doc.split("\n")
        if len(lines) == 1 and not doc.endswith(('"', "\\")):
            self.lines.append(f'{indent}"""{doc}"""')
            return
        self.lines.append(f'{indent}"""{lines[0]}')
        self.lines += [f"{indent}{line}".rstrip() for line in lines[1:]]
        self.lines.append(f'{indent}"""')

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
                count = format_expr(statement.count, _IF)
                heads_inside = _padded_params(statement.body)
                self._block(
                    f"repeat {count} {{", statement, statement.body, "", heads_inside, inner
                )
            else:
                lines = self._statement(statement, inner, heads)
                self._comments_before(statement.span.end, inner)
                self.lines += lines
            following = body[k + 1].span.start if k + 1 < len(body) else None
            self._trailing(statement.span.end, following)
        self._comments_before(node.span.end, inner)
        self.lines.append(f"{indent}}}")

    def _statement(self, node: s.Node, indent: str, heads: dict[int, str]) -> list[str]:
        head = heads.get(id(node)) or _head(node)
        match node:
            case s.Until(condition=condition):
                return self._expression("until ", condition, indent)
            case s.Input():
                return [indent + head]
            case s.Param(value=value, drawn=drawn):
                return self._expression(f"{head} {'~' if drawn else '='} ", value, indent)
            case s.Equation(value=value, accumulate=accumulate):
                return self._expression(f"{head} {'+=' if accumulate else '='} ", value, indent)
            case (
                s.Let(value=value)
                | s.State(value=value)
                | s.Field(value=value)
                | s.Metric(value=value)
            ):
                return self._expression(f"{head} = ", value, indent)
        raise TypeError(f"{type(node).__name__} is not a statement")

    def _expression(self, prefix: str, node: s.Expr, indent: str) -> list[str]:
        """As `_laid_out`, but a pipeline keeps its own line breaks and the comments at them."""
        first, stages = _stages(node)
        text = self.source_file.source.text
        breaks = [
            "\n" in text[a.span.end : b.stage.span.start]
            for a, b in pairwise([_End(first), *map(_stage_end, stages)])
        ]
        fits = len(f"{indent}{prefix}{format_expr(node)}") <= WIDTH
        if not stages or (fits and not any(breaks)):
            return _laid_out(prefix, node, indent)
        lines = _laid_out(prefix, first, indent)
        for stage, broken in zip(stages, breaks, strict=True):
            written = f"|> {format_expr(stage.stage, _VALUE)}"
            if broken or len(f"{lines[-1]} {written}") > WIDTH:
                self._comment_on(lines, stage.stage.span.start)
                lines.append(f"{indent}{_INDENT}{written}")
            else:
                lines[-1] += f" {written}"
        return lines

    def _comment_on(self, lines: list[str], offset: int) -> None:
        """Comments before a stage stand behind the line that ends before it."""
        while self.waiting and self.waiting[0].span.start < offset:
            lines[-1] += f"  #{_comment(self.waiting.pop(0))}"

    def _inner_comments(self, node: s.Node, indent: str) -> None:
        self._comments_before(node.span.start, indent)


@dataclass(frozen=True)
class _End:
    """A node with `stage` for its own place, so that pairs of neighbours read alike."""

    stage: s.Node

    @property
    def span(self):  # type: ignore[no-untyped-def]
        return self.stage.span


def _stage_end(pipe: s.Pipe) -> _End:
    return _End(pipe.stage)


def _comment(comment: s.Comment) -> str:
    text = comment.text.rstrip()
    return f" {text}" if text and not text.startswith((" ", "!", "#")) else text


def _groups(node: s.Definition) -> list[tuple[s.Parameter, ...]]:
    if node.kind == "layer":
        return [node.settings, node.inputs] if node.settings else [node.inputs]
    if node.kind == "optimizer":
        return [node.settings] if node.settings else []
    return [node.inputs]


def _broken_header(node: s.Definition, groups: list[tuple[s.Parameter, ...]]) -> list[str]:
    """A header too long for a line: one parameter a line."""
    lines = [f"{node.kind} {node.name}"]
    for group in groups:
        lines[-1] += "("
        lines += [f"{_INDENT}{_parameter(parameter)}," for parameter in group]
        lines.append(")")
    return lines


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
            return shown if indices is None else f"{shown}[{_elements(indices)}]"
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
