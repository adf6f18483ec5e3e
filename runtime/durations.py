"""Times as texts: "30 s", "10 min", "2 h", "1.5 d".

In: a text of the user's. Out: seconds, or the right spelling of what was meant.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from math import inf, isfinite

from ..dsl.diagnostics.diagnostic import UserError, fail
from ..dsl.syntax.source import COMMAND_LINE, Source, Span

UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
_TIME = re.compile(r"(\d+(?:\.\d+)?) ?([a-z]+)")

# what others write for a unit → its seconds
_OTHER_UNITS = {
    1: ("s", "sec", "secs", "second", "seconds"),
    60: ("m", "mn", "min", "mins", "minute", "minutes"),
    3600: ("h", "hr", "hrs", "hour", "hours"),
    86400: ("d", "day", "days"),
    7 * 86400: ("w", "week", "weeks"),
    1e-3: ("ms", "millisecond", "milliseconds"),
}
_SECONDS = {word: seconds for seconds, words in _OTHER_UNITS.items() for word in words}
_PART = re.compile(r"(\d+(?:[.,]\d+)?)\s*([a-z]+)")
_CLOCK = re.compile(r"(\d+):(\d\d):(\d\d)")

EXAMPLES = '"30 s", "10 min" or "2 h"'


def seconds_of(text: str) -> float | None:
    """The seconds of a time, above 0; None if the text is none."""
    found = _TIME.fullmatch(text.strip())
    if found is None or found[2] not in UNITS:
        return None
    seconds = float(found[1]) * UNITS[found[2]]
    return seconds if seconds > 0 and isfinite(seconds) else None


def right_spelling(text: str) -> str:
    """How a time is written that the text seems to mean; empty if it means none."""
    plain = text.strip().lower()
    if clock := _CLOCK.fullmatch(plain):
        return _written(sum(int(n) * u for n, u in zip(clock.groups(), (3600, 60, 1), strict=True)))
    parts = _PART.findall(plain)
    # nothing else may stand there but what joins the parts: "1 h and 30 min"
    rest = _PART.sub("", plain).replace("and", "").strip(" ,")
    if not parts or rest or any(unit not in _SECONDS for _, unit in parts):
        return ""
    return _written(sum(float(n.replace(",", ".")) * _SECONDS[unit] for n, unit in parts))


def wrong_time(flag: str, text: str) -> UserError:
    """E0703 for the text of a flag that is no time."""
    source = Source(COMMAND_LINE, f"{flag} {text}", outside=True)
    right = right_spelling(text)
    return fail(
        "E0703",
        f"`{flag}` takes a time: {EXAMPLES}",
        Span(source, len(flag) + 1, len(source.text)),
        label="this is none",
        help=f"write `{right.replace(' ', '')}`" if right else "",
    )


def _written(seconds: float) -> str:
    """In the largest unit of which it is a whole number, else in seconds; empty for no time."""
    if not seconds > 0 or not isfinite(seconds):
        return ""
    for unit, of in reversed(UNITS.items()):
        if seconds % of == 0:
            return f"{int(seconds // of)} {unit}"
    return f"{seconds:g} s"


class TimeLimit:
    """Whether a command has taken as long as `--max-time` says, from when it `started` on; never
    without one. UserError E0703 if the text is no time."""

    def __init__(
        self,
        text: str | None,
        started: float | None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.text, self.clock = text, clock
        self.end = inf
        if text is None:
            return
        seconds = seconds_of(text)
        if seconds is None:
            raise wrong_time("--max-time", text)
        self.end = (clock() if started is None else started) + seconds

    def __call__(self) -> bool:
        return self.clock() >= self.end
