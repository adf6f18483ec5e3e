"""What is told to the user on standard error: remarks as text, or as JSON lines beside mistakes.

`--error-format json` promises a program that every line of standard error is one JSON object.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from typing import Any, TextIO

HUMAN, SHORT, JSON = "human", "short", "json"
FORMS = (HUMAN, SHORT, JSON)

_form = HUMAN


def use_form(form: str) -> None:
    """How messages are shown from now on in this process: one of `FORMS`."""
    global _form
    _form = form


def form() -> str:
    return _form


def notify(text: str, severity: str = "note") -> None:
    """Print a remark to stderr, if there is one; as JSON with the keys of a diagnostic."""
    if sys.stderr is not None:
        # What is a mistake with a code begins with it (`render.py`); a remark has none.
        record = {"severity": severity, "message": text, "code": "", "label": "", "notes": []}
        line = json.dumps({**record, "help": ""}) if _form == JSON else text
        with suppress(OSError, ValueError):
            print(line, file=sys.stderr, flush=True)


def uses_color(stream: TextIO | Any) -> bool:
    """Whether a stream is to be written in colours: on a terminal that has some. NO_COLOR
    (no-color.org) forbids them, FORCE_COLOR (force-color.org) asks for them elsewhere, too."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return bool(stream.isatty()) and os.environ.get("TERM") != "dumb"
