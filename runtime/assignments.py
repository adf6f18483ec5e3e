"""`--set key=value`: what is written over a train block from outside of its file.

In: a checked `syntax.Train` and assignments. Out: the train block with the assignments in it, and
the sizes among them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property

from ..dsl.check.renamed import FORMER, with_current_names
from ..dsl.diagnostics.diagnostic import Report, did_you_mean, fail
from ..dsl.records import record
from ..dsl.syntax import ast as s
from ..dsl.syntax.parser import parse_value
from ..dsl.syntax.source import COMMAND_LINE, Source, Span
from .settings import FIELDS, is_size, size_of

_TIMES = ("checkpoint_every",)  # the fields that may be times
_TIME_LIKE = re.compile(r"[\d.,:]+\s*[A-Za-z]|[\d]+:")


@record
class Assignment:
    """`key = text` from outside the file. `before` is what the user wrote before the text, such as
    `--set lr=` or `--epochs `, and `place` what messages call where that was."""

    key: str
    text: str
    before: str = ""
    place: str = COMMAND_LINE

    @cached_property
    def source(self) -> Source:
        """All of it as the user wrote it, to be shown in messages."""
        return Source(self.place, (self.before or f"{self.key}=") + self.text, outside=True)

    @property
    def start(self) -> int:
        """Where the value begins."""
        return len(self.source.text) - len(self.text)

    def span(self, part: str) -> Span:
        """The place of the key, or of its last part."""
        # The last occurrence before the value, for `--set set=1` has the key's letters twice.
        text = self.source.text
        # the flag of `log_every` is `--log-every`
        begin = max(text.rfind(p, 0, self.start) for p in (part, part.replace("_", "-")))
        return Span(self.source, begin, begin + len(part))

    @cached_property
    def value(self) -> s.Expr:
        """UserError E0704 or a syntax error if the text is no expression."""
        # `10 min`, whose quotes a shell takes away
        if self.key in _TIMES and _TIME_LIKE.match(self.text):
            return s.String(Span(self.source, self.start, len(self.source.text)), self.text)
        report = Report()
        found = parse_value(self.source, self.start, report)
        report.check()
        if found is None:
            raise fail(
                "E0704",
                f"`{self.text}` is not one value",
                Span(self.source, self.start, len(self.source.text)),
            )
        return found


# The names of a call's arguments in the order in which they may be given without one, from the
# field that it stands in and its own name: ("data", "csv") → ["file"].
Order = Callable[[str, str], Sequence[str]]


def assign(
    train: s.Train,
    assignments: Sequence[Assignment],
    symbols: Sequence[str],
    order: Order = lambda field, call: (),
) -> tuple[s.Train, dict[str, int]]:
    """The train block with the assignments in it, and the sizes among them.

    `symbols` are the symbolic sizes of the model's inputs, the batch first: setting that one sets
    `batch`. UserError E0704 for an unknown key, E0101 and others for a value that does not parse.
    """
    train = with_current_names(train)
    sizes: dict[str, int] = {}
    for one in assignments:
        # Fields first, as a size may be called `steps`. `--set B=64` for a model of x: [B, 784]
        # means `batch`, whatever the symbol is called.
        own = one.key in FIELDS
        key = "batch" if symbols and one.key == symbols[0] and not own else one.key
        head, _, argument = key.partition(".")
        if key in symbols and not own:
            sizes[key] = size_of(key, one.value, {})
        # `optimizer.lr`: the argument of a call. A size never has a dot.
        elif argument:
            train = _with_argument(train, head, argument, one, order)
        else:
            train = _with_value(train, key, one, symbols)
    return train, sizes


def _with_value(train: s.Train, key: str, one: Assignment, symbols: Sequence[str]) -> s.Train:
    lets = [i.name.id for i in train.body if isinstance(i, s.Let)]
    # A `let` keeps its place, and what depends on it follows.
    if key in lets:
        body = [
            replace(i, value=one.value) if isinstance(i, s.Let) and i.name.id == key else i
            for i in train.body
        ]
        return replace(train, body=tuple(body))
    if key not in FIELDS:
        known = (*FIELDS, *symbols, *lets)
        # The likeliest explanation first: a typing error, then `lr` for `optimizer.lr`.
        raise fail(
            "E0704",
            f"there is no `{key}` to set",
            one.span(key),
            help=(f"it is `{FORMER[key]}` now" if key in FORMER else "")
            or did_you_mean(key, known)
            or _argument_of(train, key)
            or f"there are {', '.join(known)}",
        )
    span = one.span(one.key)
    # The field's place in the sources is on the command line, so messages point there.
    item = s.Field(span.to(one.value.span), s.Name(span, key), one.value)
    # In the place of the old one, or at the end; the resolved program then reads like the file.
    # `B = 32` is the batch, too.
    names = (key, *(n for n in symbols[:1] if key == "batch" and is_size(n, symbols)))
    places = [n for n, i in enumerate(train.body) if isinstance(i, s.Field) and i.name.id in names]
    body = [i for n, i in enumerate(train.body) if n not in places]
    body.insert(places[0] if places else len(body), item)
    return replace(train, body=tuple(body))


def _argument_of(train: s.Train, key: str) -> str:
    """`lr` for `optimizer.lr`."""
    calls = [
        (i.name.id, a.name)
        for i in train.body
        if isinstance(i, s.Field) and isinstance(i.value, s.Call)
        for a in i.value.arguments
    ]
    return next((f"did you mean `{field}.{key}`?" for field, name in calls if name == key), "")


def _with_argument(
    train: s.Train, head: str, argument: str, one: Assignment, order: Order
) -> s.Train:
    """`optimizer.lr = 0.01`: the argument of the call in a field."""
    for n, found in enumerate(train.body):
        if not isinstance(found, s.Field) or found.name.id != head:
            continue
        call = found.value
        # `optimizer = sgd` is a call without arguments.
        if isinstance(call, s.Name):
            call = s.Call(call.span, call, ())
        if not isinstance(call, s.Call):
            raise fail(
                "E0704", f"`{head}` is not a call: it has no `{argument}`", one.span(argument)
            )
        span = one.span(argument).to(one.value.span)
        new = s.Argument(span, argument, one.value)
        # Named arguments may stand in any order; of those without a name the place says which it
        # is, and the new value takes it: `csv("a.csv")` becomes `csv("b.csv")`.
        others = [a for a in call.arguments if a.name != argument]
        places = [place for place, a in enumerate(others) if a.name is None]
        callee = call.function.id if isinstance(call.function, s.Name) else ""
        names = order(head, callee)[: len(places)]
        if argument in names:
            others[places[names.index(argument)]] = replace(new, name=None)
        else:
            others.append(new)
        changed = replace(found, value=replace(call, arguments=tuple(others)))
        return replace(train, body=(*train.body[:n], changed, *train.body[n + 1 :]))
    fields = [i.name.id for i in train.body if isinstance(i, s.Field)]
    raise fail(
        "E0704",
        f"the train block has no `{head}` whose `{argument}` could be set",
        one.span(head),
        help=did_you_mean(head, fields),
    )
