"""Mistakes as exceptions of Python, whose text is that of the command line: place, caret, fix.

In: the `UserError` that any part of nnc raises. Out: the public `nnc.UserError`, raised at the
boundary of the interface, so that a traceback has the user's lines and one of nnc's.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable
from functools import wraps
from inspect import Parameter, signature
from typing import Any, ParamSpec, TypeVar

from ...dsl.diagnostics import diagnostic
from ...dsl.diagnostics.render import render_all
from .keywords import unknown_argument

P = ParamSpec("P")
R = TypeVar("R")


class UserError(diagnostic.UserError):
    """The program, the data or the arguments of a call are wrong. Its text shows every mistake with
    its place in the file and the likely fix; `diagnostics` has them as data."""

    def __str__(self) -> str:
        return render_all(self.diagnostics)

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions come back from worker processes pickled.
        return type(self), (self.diagnostics,)

    def _render_traceback_(self) -> list[str]:
        """IPython and Jupyter show this in place of a traceback."""
        text = render_all(self.diagnostics, color=not os.environ.get("NO_COLOR"))
        return text.split("\n")


class ArgumentError(UserError, TypeError):
    """A call has an argument that does not exist."""


class ProgramWarning(UserWarning):
    """What is odd but not wrong in a program or its data, as the command line shows it."""


UserError.__module__ = ArgumentError.__module__ = ProgramWarning.__module__ = "nnc"


def warn(found: Iterable[diagnostic.Diagnostic | str]) -> None:
    """Warn at the line of the user's that has called nnc."""
    for one in found:
        text = one if isinstance(one, str) else render_all([one])
        warnings.warn(text, ProgramWarning, stacklevel=_depth())


def _depth() -> int:
    """How many calls the innermost line outside of this package is above `warn`."""
    frame, depth = sys._getframe(2), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("nnc."):
        frame, depth = frame.f_back, depth + 1
    return depth


def boundary(function: Callable[P, R]) -> Callable[P, R]:
    """A function that users call: mistakes leave it as `nnc.UserError`; an argument that it does
    not have is an ArgumentError with the likely one."""
    parameters = signature(function).parameters
    known = frozenset(parameters)
    takes_any = any(p.kind is Parameter.VAR_KEYWORD for p in parameters.values())

    @wraps(function)
    def call(*arguments: P.args, **named: P.kwargs) -> R:
        try:
            if not takes_any and not named.keys() <= known:
                wrong = [n for n in named if n not in known]
                raise ArgumentError(unknown_argument(function.__name__, n, known) for n in wrong)
            return function(*arguments, **named)
        except diagnostic.UserError as error:
            found = error if isinstance(error, UserError) else UserError(error.diagnostics)
            raise found.with_traceback(None) from None

    return call
