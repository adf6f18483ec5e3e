"""What a data source is: one record; and a use of it in a train block: a `Request`.

In: the settings as the user wrote them. Out: a `Request` with every setting checked and filled in.
This file reads no data; each source has a file of its own, and `sources.py` lists them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ....dsl.diagnostics.diagnostic import Report, did_you_mean, fail
from ....dsl.syntax.source import Span
from .data_paths import Search
from .dataset import Dataset, Schema

REQUIRED: Any = object()
LARGEST_SIDE = 16_384
LARGEST_COUNT = (1 << 31) - 1


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_integer(value) or (isinstance(value, float) and math.isfinite(value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and "\0" not in value


def _is_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(map(_is_text, value))


def _is_character(value: Any) -> bool:
    return _is_text(value) and len(value) == 1 and value not in '"\n\r'


def _is_size(value: Any) -> bool:
    pair = isinstance(value, list | tuple) and len(value) == 2
    return pair and all(_is_integer(side) and 0 < side <= LARGEST_SIDE for side in value)


def _is_count(value: Any) -> bool:
    return _is_integer(value) and 0 < value <= LARGEST_COUNT


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value < 1


# kind of setting → what to call it, and whether a value is one
KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "bool":      ("true or false",                   lambda v: isinstance(v, bool)),
    "seed":      ("a whole number from 0 to 2^32-1", lambda v: _is_integer(v) and 0 <= v < 1 << 32),
    "integer":   ("a whole number",                  _is_integer),
    "count":     ("a whole number from 1",           _is_count),
    "fraction":  ("a number from 0 up to 1",         _is_share),
    "positive":  ("a number above 0",                lambda v: _is_number(v) and v > 0),
    "level":     ("a number from 0",                 lambda v: _is_number(v) and v >= 0),
    "tests":     ("a share from 0 up to 1 or a condition in quotes",
                                                     lambda v: _is_share(v) or _is_text(v)),
    "text":      ("a text in quotes",                _is_text),
    "texts":     ("a list of texts",                 _is_texts),
    "names":     ("a text or a list of texts",       lambda v: _is_text(v) or _is_texts(v)),
    "character": ("one character in quotes",         _is_character),
    "size":      ("[height, width]",                 _is_size),
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """One setting of a source. `default` REQUIRED: it must be given; None: it may be left out."""

    name: str
    kind: str  # a key of KINDS
    doc: str
    default: Any = REQUIRED
    allowed: tuple[Any, ...] = ()
    positional: bool = False  # may be given without its name: csv("houses.csv")


@dataclass(frozen=True)
class Request:
    """One use of a source: checked settings, where to look, and the places to point at."""

    source: str
    settings: Mapping[str, Any]
    search: Search
    spans: Mapping[str, Span] = field(default_factory=dict)
    span: Span | None = None

    def __getitem__(self, name: str) -> Any:
        return self.settings[name]

    def span_of(self, name: str) -> Span | None:
        """The place of a setting, or else of the whole source."""
        return self.spans.get(name, self.span)


@dataclass(frozen=True)
class Source:
    """A kind of data. `others`: the kind of settings with names of the user's choosing, if any."""

    name: str
    doc: str
    settings: tuple[Setting, ...]
    describe: Callable[[Request], Schema]
    load: Callable[[Request], Dataset]
    others: str | None = None

    @property
    def names(self) -> list[str]:
        """What its own settings are called."""
        return [setting.name for setting in self.settings]

    @property
    def signature(self) -> str:
        """How it is written, defaults included: `digits(test = 0.2)`."""
        parts = [
            s.name if s.default is REQUIRED else f"{s.name} = {_shown(s.default)}"
            for s in self.settings
            if s.default is not None
        ]
        return f"{self.name}({', '.join(parts + (['NAME = …'] if self.others else []))})"


def bind(
    source: Source,
    positional: Sequence[Any],
    named: Mapping[str, Any],
    span: Span | None = None,
    names: Mapping[str, Span] | None = None,
) -> dict[str, Any]:
    """Settings by name, from arguments with and without names, which stand at `names`.

    Raises E0608 for more unnamed arguments than the source takes, one given twice, and all that
    the source does not have.
    """
    names = names or {}
    report = Report()
    for name in named:
        if source.others is None and name not in source.names:
            report.add(
                "E0608",
                f"`{source.name}` has no setting `{name}`",
                names.get(name, span),
                help=did_you_mean(name, source.names) or f"it is written `{source.signature}`",
            )
    report.check()
    places = [setting.name for setting in source.settings if setting.positional]
    if len(positional) > len(places):
        raise fail(
            "E0608",
            f"`{source.name}` takes {len(places) or 'no'} setting{'s' * (len(places) != 1)} "
            f"without a name, {len(positional)} given",
            span,
            help=f"write `{source.signature}`",
        )
    bound = dict(zip(places, positional, strict=False))
    twice = next((name for name in bound if name in named), None)
    if twice is not None:
        raise fail(
            "E0608", f"setting `{twice}` of `{source.name}` is given twice", names.get(twice, span)
        )
    return {**bound, **named}


def request_for(
    source: Source,
    settings: Mapping[str, Any],
    search: Search,
    spans: Mapping[str, Span],
    span: Span | None,
) -> Request:
    """A request with defaults filled in; E0608 for names, E0615 for values."""
    bind(source, (), settings, span)
    known = {setting.name: setting for setting in source.settings}
    for name, value in settings.items():
        if name in known:
            check_value(source, known[name], value, spans.get(name, span))
        else:
            other = Setting(name, source.others or "", "")
            check_value(source, other, value, spans.get(name, span))
    for setting in source.settings:
        if setting.default is REQUIRED and setting.name not in settings:
            raise fail(
                "E0608",
                f"`{source.name}` needs its setting `{setting.name}`: {setting.doc}",
                span,
                help=f"it is written `{source.signature}`",
            )
    filled = {s.name: s.default for s in source.settings if s.default is not REQUIRED}
    return Request(source.name, {**filled, **settings}, search, dict(spans), span)


def check_value(source: Source, setting: Setting, value: Any, span: Span | None) -> None:
    """Raise E0615 unless the value is one that the setting takes."""
    expected, fits = KINDS[setting.kind]
    if setting.default is None and value is None:
        return
    if setting.allowed:
        expected = " or ".join(_shown(one) for one in setting.allowed)
    if not fits(value) or (setting.allowed and value not in setting.allowed):
        raise fail(
            "E0615",
            f"setting `{setting.name}` of `{source.name}` must be {expected}, not {_shown(value)}",
            span,
        )


def _shown(value: Any) -> str:
    """A value as `.nn` text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_shown(one) for one in value)}]"
    return '"' + value.replace("\t", r"\t") + '"' if isinstance(value, str) else str(value)
