"""Facts that stand in file names, and conditions on them.

In: a pattern like `{digit}_{speaker}_{take}.wav`, a condition like `take < 5 and speaker != theo`.
Out: the facts of a name, and whether the condition holds of them. This file opens no files.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ....dsl.diagnostics.diagnostic import UserError, did_you_mean, fail
from ....dsl.syntax.source import Span

COMPARE: dict[str, Callable[..., bool]] = {
    "<=": operator.le, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
    "<": operator.lt, ">": operator.gt,
}  # fmt: skip
PLACE = re.compile(r"\{([^{}]*)\}")
VALUE = r"""[\w.+-]+|"[^"]+"|'[^']+'"""
COMPARISON = re.compile(rf"\s*(\w+)\s*(<=|>=|==|!=|<|>)\s*({VALUE})\s*")


@dataclass(frozen=True)
class Pattern:
    """How names are built. `names` are the facts in their order."""

    text: str
    names: tuple[str, ...]
    form: re.Pattern[str]

    def facts(self, name: str) -> dict[str, str] | None:
        """What stands in a name, or None if it does not follow the pattern."""
        match = self.form.fullmatch(name)
        return match.groupdict() if match else None


def read_pattern(text: str, span: Span | None = None) -> Pattern:
    """The pattern that a setting gives; E0615 if it is none."""
    parts = PLACE.split(text)  # text, name, text, name, …
    names = tuple(parts[1::2])
    wrong = next((name for name in names if not name.isidentifier()), None)
    twice = next((name for name in names if names.count(name) > 1), None)
    if not names or wrong is not None or twice or any(set("{}") & set(p) for p in parts[::2]):
        why = (
            f"`{{{twice}}}` stands in it twice"
            if twice
            else "it has braces without a name"
            if names
            else "it has no `{name}`"
        )
        raise fail(
            "E0615",
            f'`pattern = "{text}"`: {why}',
            span,
            help='like `"{digit}_{speaker}_{take}.wav"`',
        )
    form = "".join(
        f"(?P<{part}>[^/]+?)" if place % 2 else re.escape(part) for place, part in enumerate(parts)
    )
    return Pattern(text, names, re.compile(form))


@dataclass(frozen=True)
class Comparison:
    """`take < 5`. Two numbers are equal by value, all else as text; only numbers have an order."""

    name: str
    sign: str
    value: str
    span: Span | None = None

    def holds(self, facts: Mapping[str, str]) -> bool:
        """Whether it is true of a name's facts; E0615 if it puts words in an order."""
        left, right = facts[self.name], self.value
        compare = COMPARE[self.sign]
        try:
            return compare(float(left), float(right))
        except ValueError:
            if self.sign in ("==", "!="):
                return compare(left, right)
        message = f"`{self.name} {self.sign} {right}` of `{left}`: only numbers have an order"
        raise fail("E0615", message, self.span, help="compare words with `==` and `!=`")


def read_condition(
    text: str, pattern: Pattern, span: Span | None = None
) -> Callable[[Mapping[str, str]], bool]:
    """Comparisons joined by `and`; E0615 for anything else, or a fact that there is not."""
    comparisons = []
    for part in re.split(r"\band\b", text):
        match = COMPARISON.fullmatch(part)
        if match is None:
            raise _no_condition(text, span)
        name, sign, value = match.groups()
        if name not in pattern.names:
            known = ", ".join(pattern.names)
            raise fail(
                "E0615",
                f'`test = "{text}"`: the pattern has no `{name}`',
                span,
                help=did_you_mean(name, pattern.names) or f"it has {known}",
            )
        comparisons.append(Comparison(name, sign, value.strip("'\""), span))
    return lambda facts: all(one.holds(facts) for one in comparisons)


def _no_condition(text: str, span: Span | None) -> UserError:
    return fail(
        "E0615",
        f'`test = "{text}"` is not a condition',
        span,
        help='like `"take < 5"` or `"take < 5 and speaker != theo"`',
    )
