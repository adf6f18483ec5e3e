"""Patterns of file names, and conditions on the parts that they name.

In: a pattern like `{digit}_{speaker}_{take}.wav`, a condition like `take < 5 and speaker != theo`.
Out: the named parts of a file name, and whether the condition holds for them.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ....dsl.diagnostics.diagnostic import did_you_mean, fail

COMPARE: dict[str, Callable[..., bool]] = {
    "<=": operator.le, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
    "<": operator.lt, ">": operator.gt,
}  # fmt: skip
PLACE = re.compile(r"\{([^{}]*)\}")
VALUE = r"""[\w.+-]+|"[^"]+"|'[^']+'"""
COMPARISON = re.compile(rf"\s*(\w+)\s*(<=|>=|==|!=|<|>)\s*({VALUE})\s*")


@dataclass(frozen=True)
class Pattern:
    """A pattern and the names of its parts, in order."""

    text: str
    names: tuple[str, ...]
    form: re.Pattern[str]

    def parts(self, name: str) -> dict[str, str] | None:
        """The parts of a file name by name, or None if it does not match."""
        match = self.form.fullmatch(name)
        return match.groupdict() if match else None


def read_pattern(text: str) -> Pattern:
    """Parse a pattern; E0615 if it is malformed."""
    parts = PLACE.split(text)  # text, name, text, name, …
    names = tuple(parts[1::2])
    wrong = next((name for name in names if not name.isidentifier()), None)
    twice = next((name for name in names if names.count(name) > 1), None)
    # `parts[::2]` are the texts between the names: a brace in one of them has no counterpart.
    if not names or wrong is not None or twice or any(set("{}") & set(p) for p in parts[::2]):
        why = (
            f"`{{{twice}}}` stands in it twice"
            if twice
            else "it has braces without a name"
            if names
            else "it has no `{name}`"
        )
        help = 'like `"{digit}_{speaker}_{take}.wav"`'
        raise fail("E0615", f'`pattern = "{text}"`: {why}', help=help)
    # A part is as short as the rest of the pattern permits, and never crosses a folder.
    form = "".join(
        f"(?P<{part}>[^/]+?)" if n % 2 else re.escape(part) for n, part in enumerate(parts)
    )
    return Pattern(text, names, re.compile(form))


@dataclass(frozen=True)
class Comparison:
    """`take < 5`. Two numbers are compared by value, anything else as text, which has no order."""

    name: str
    sign: str
    value: str

    def holds(self, parts: Mapping[str, str]) -> bool:
        """Whether it is true of the parts of a name; E0615 if it orders words."""
        left, right = parts[self.name], self.value
        compare = COMPARE[self.sign]
        try:
            # Numbers by value: "07" equals 7, and 10 is above 9, which as texts would not hold.
            return compare(float(left), float(right))
        except ValueError:
            if self.sign in ("==", "!="):
                return compare(left, right)
        # Reached only by an order of words, and their alphabetical order is hardly what was meant.
        message = f"`{self.name} {self.sign} {right}` of `{left}`: only numbers have an order"
        raise fail("E0615", message, help="compare words with `==` and `!=`")


def read_condition(text: str, pattern: Pattern) -> Callable[[Mapping[str, str]], bool]:
    """Parse comparisons joined by `and`; E0615 for anything else, or an unknown name."""
    comparisons = []
    # `\b`, so that an `and` within a name does not divide a comparison.
    for part in re.split(r"\band\b", text):
        match = COMPARISON.fullmatch(part)
        if match is None:
            help = 'like `"take < 5"` or `"take < 5 and speaker != theo"`'
            raise fail("E0615", f'`test = "{text}"` is not a condition', help=help)
        name, sign, value = match.groups()
        if name not in pattern.names:
            known = ", ".join(pattern.names)
            raise fail(
                "E0615",
                f'`test = "{text}"`: the pattern has no `{name}`',
                help=did_you_mean(name, pattern.names) or f"it has {known}",
            )
        comparisons.append(Comparison(name, sign, value.strip("'\"")))
    return lambda parts: all(one.holds(parts) for one in comparisons)
