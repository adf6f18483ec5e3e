"""A data source is one record, `DataSource`; one use of it in a train block is a `Request`.

In: the settings as the user wrote them. Out: a `Request` with every setting checked and defaults
filled in. This file reads no data; each source has a file of its own, and `sources.py` lists them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field, replace
from pathlib import Path
from typing import Any

from ....dsl.diagnostics.diagnostic import Report, UserError, did_you_mean, fail
from ....dsl.records import record
from ....dsl.syntax.source import Span
from .data_paths import Search
from .dataset import Dataset, Schema
from .encodings import is_encoding

# A marker, since None is itself a default: "may be left out".
REQUIRED: Any = object()
# At most 2^28 pixels: their number fits into 32 bits, with channels too.
MAX_SIDE = 16_384
MAX_COUNT = (1 << 31) - 1


def _is_integer(value: Any) -> bool:
    # `True` is an int in Python, but `true` is no number in the language.
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    # NaN compares false with everything, and infinity is `> 0`: neither is a setting.
    return _is_integer(value) or (isinstance(value, float) and math.isfinite(value))


def _is_text(value: Any) -> bool:
    # A NUL would end the name early in a call of the operating system.
    return isinstance(value, str) and bool(value) and "\0" not in value


def _is_text_list(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(map(_is_text, value))


def _is_character(value: Any) -> bool:
    return _is_text(value) and len(value) == 1 and value not in '"\n\r'


def _is_size(value: Any) -> bool:
    pair = isinstance(value, list | tuple) and len(value) == 2
    return pair and all(_is_integer(side) and 0 < side <= MAX_SIDE for side in value)


def _is_count(value: Any) -> bool:
    return _is_integer(value) and 0 < value <= MAX_COUNT


def _is_amount(value: Any) -> bool:
    return _is_integer(value) and 0 <= value <= MAX_COUNT


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value < 1


# kind of setting → what to call it, and whether a value is one
KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "bool":      ("true or false",                   lambda v: isinstance(v, bool)),
    "seed":      ("a whole number from 0 to 2^32-1", lambda v: _is_integer(v) and 0 <= v < 1 << 32),
    "integer":   ("a whole number",                  _is_integer),
    "count":     ("a whole number from 1",           _is_count),
    "amount":    ("a whole number from 0",           _is_amount),
    "fraction":  ("a number from 0 up to 1",         _is_share),
    "positive":  ("a number above 0",                lambda v: _is_number(v) and v > 0),
    "level":     ("a number from 0",                 lambda v: _is_number(v) and v >= 0),
    "tests":     ("a share from 0 up to 1 or a condition in quotes",
                                                     lambda v: _is_share(v) or _is_text(v)),
    "text":      ("a text in quotes",                _is_text),
    "texts":     ("a list of texts",                 _is_text_list),
    "names":     ("a text or a list of texts",       lambda v: _is_text(v) or _is_text_list(v)),
    "character": ("one character in quotes",         _is_character),
    "encoding":  ('the name of an encoding, as "latin-1"',
                                                     is_encoding),
    "size":      ("[height, width]",                 _is_size),
}  # fmt: skip


@record
class Setting:
    """One setting of a source. `default` REQUIRED: it must be given; None: it may be left out."""

    name: str
    kind: str  # a key of KINDS
    doc: str
    default: Any = REQUIRED
    allowed: tuple[Any, ...] = ()
    positional: bool = False  # may be given without its name: csv("houses.csv")
    ending: str = ""  # of files that may be named besides what is `allowed`


@record
class Request:
    """One use of a source: checked settings, where to search, and the spans for diagnostics."""

    source: str
    settings: Mapping[str, Any]
    search: Search
    spans: Mapping[str, Span] = field(default_factory=dict)
    span: Span | None = None

    def __getitem__(self, name: str) -> Any:
        return self.settings[name]

    def span_of(self, name: str) -> Span | None:
        """The span of a setting, or else of the whole source."""
        return self.spans.get(name, self.span)

    def file(self, setting: str = "file") -> Path:
        """The file that a setting names; E0601 or E0617."""
        with errors_at(self.span_of(setting)):
            return self.search.find_file(self[setting])

    def files(self, setting: str = "file") -> tuple[Path, ...]:
        """The files that a setting names, by its name or by a pattern like `part-*.npy`; E0601 or
        E0617."""
        with errors_at(self.span_of(setting)):
            return self.search.find_files(self[setting])

    def folder(self, setting: str = "folder") -> Path:
        """The folder that a setting names; E0601 or E0617."""
        with errors_at(self.span_of(setting)):
            return self.search.find_folder(self[setting])


@contextmanager
def errors_at(span: Span | None) -> Iterator[None]:
    """Give the diagnostics raised within that have no span this one. Readers of files need not know
    where the user named the file."""
    try:
        yield
    except UserError as error:
        # An inner span wins: it marks the setting, while the outer one marks the whole source.
        located = [replace(d, span=d.span or span) for d in error.diagnostics]
        raise UserError(located) from error


@record
class DataSource:
    """A kind of data. `others` is the kind of settings whose names the user chooses, if any."""

    name: str
    doc: str
    settings: tuple[Setting, ...]
    describe: Callable[[Request], Schema]
    load: Callable[[Request], Dataset]
    others: str | None = None

    @property
    def names(self) -> list[str]:
        """The names of its own settings."""
        return [setting.name for setting in self.settings]

    @property
    def signature(self) -> str:
        """How a program writes it, with defaults: `digits(test = 0.2)`."""
        parts = [
            s.name if s.default is REQUIRED else f"{s.name} = {_literal(s.default)}"
            for s in self.settings
            if s.default is not None
        ]
        return f"{self.name}({', '.join(parts + (['NAME = …'] if self.others else []))})"


def bind(
    source: DataSource,
    positional: Sequence[Any],
    named: Mapping[str, Any],
    span: Span | None = None,
    names: Mapping[str, Span] | None = None,
) -> dict[str, Any]:
    """Settings by name, from positional and named arguments; `names` are the spans of the names.

    E0608 for too many positional arguments, a setting given twice, and unknown settings.
    """
    names = names or {}
    # Unknown names are collected, as several may be misspelt; all are reported at once.
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
    # Only these may stand without a name, in the order in which the record lists them.
    positions = [setting.name for setting in source.settings if setting.positional]
    if len(positional) > len(positions):
        raise fail(
            "E0608",
            f"`{source.name}` takes {len(positions) or 'no'} setting{'s' * (len(positions) != 1)} "
            f"without a name, {len(positional)} given",
            span,
            help=f"write `{source.signature}`",
        )
    bound = dict(zip(positions, positional, strict=False))
    twice = next((name for name in bound if name in named), None)
    if twice is not None:
        message = f"setting `{twice}` of `{source.name}` is given twice"
        raise fail("E0608", message, names.get(twice, span))
    return {**bound, **named}


def request_for(
    source: DataSource,
    settings: Mapping[str, Any],
    search: Search,
    spans: Mapping[str, Span],
    span: Span | None,
) -> Request:
    """A request with defaults filled in; E0608 for names, E0615 for values."""
    bind(source, (), settings, span)
    known = {setting.name: setting for setting in source.settings}
    # Values before absence: a misspelt setting is explained better than a missing one.
    for name, value in settings.items():
        # Sources like `npy(x = …, y = …)` let the user choose names; these share one kind.
        setting = known.get(name) or Setting(name, source.others or "", "")
        check_value(source, setting, value, spans.get(name, span))
    for setting in source.settings:
        if setting.default is REQUIRED and setting.name not in settings:
            raise fail(
                "E0608",
                f"`{source.name}` needs its setting `{setting.name}`: {setting.doc}",
                span,
                help=f"it is written `{source.signature}`",
            )
    # An explicit value wins over its default.
    filled = {s.name: s.default for s in source.settings if s.default is not REQUIRED}
    return Request(source.name, {**filled, **settings}, search, dict(spans), span)


def check_value(source: DataSource, setting: Setting, value: Any, span: Span | None) -> None:
    """Raise E0615 unless the setting takes the value."""
    expected, fits = KINDS[setting.kind]
    # None is the default "left out", so it need not be of the setting's kind.
    if setting.default is None and value is None:
        return
    if setting.allowed:
        expected = _listed(setting.allowed)
        expected += f" or the name of a file that ends in {setting.ending}" * bool(setting.ending)
    is_file = setting.ending and isinstance(value, str) and value.lower().endswith(setting.ending)
    if not fits(value) or (setting.allowed and value not in setting.allowed and not is_file):
        title = f"setting `{setting.name}` of `{source.name}`"
        raise fail("E0615", f"{title} must be {expected}, not {_literal(value)}", span)


def _listed(allowed: tuple[Any, ...]) -> str:
    """What a setting may be; many whole numbers in a row by their ends."""
    if len(allowed) > 4 and allowed == tuple(range(allowed[0], allowed[-1] + 1)):
        return f"a whole number from {allowed[0]} to {allowed[-1]}"
    return " or ".join(_literal(one) for one in allowed)


def _literal(value: Any) -> str:
    """A value as `.nn` text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_literal(one) for one in value)}]"
    return '"' + value.replace("\t", r"\t") + '"' if isinstance(value, str) else str(value)
