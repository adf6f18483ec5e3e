"""`weights = …` in a train block: the trained weights that a run begins with.

    weights = "runs/digits"                                       all of them, and no others
    weights = partial("runs/digits")                              those that fit
    weights = partial("runs/digits", from = "encoder", to = "trunk")

In: an expression. Out: a `WeightsChoice`; `training/initial_weights.py` reads the file.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..dsl.diagnostics.diagnostic import did_you_mean, fail
from ..dsl.records import record
from ..dsl.syntax import ast as s
from ..dsl.syntax.source import Span
from .constants import constant

PARTIAL = "partial"
ARGUMENTS = ("run", "from", "to")  # of `partial`, in the order in which they may be given


@record
class WeightsChoice:
    """A run folder or a file of weights. `partial`: those that fit are taken, else all must be
    there, and no others. A name that begins with the layers `old` begins with `new` here; dots and
    underscores are one. `span` is None where no program names it."""

    path: str
    partial: bool = False
    old: str = ""
    new: str = ""
    span: Span | None = None

    @staticmethod
    def read(value: s.Expr, lets: Mapping[str, s.Expr]) -> WeightsChoice:
        """UserError E0703 if the expression is neither a text nor `partial(…)`."""
        if not isinstance(value, s.Call):
            return WeightsChoice(_text(value, lets), span=value.span)
        name = value.function.id if isinstance(value.function, s.Name) else value.function.span.text
        if name != PARTIAL:
            raise fail(
                "E0703",
                f"`weights` is the folder of a run or a file, and not `{name}(…)`",
                value.function.span,
                help='like `weights = "runs/first"`, or `partial("runs/first")` for those that fit',
            )
        given: dict[str, str] = {}
        for number, argument in enumerate(value.arguments):
            key = argument.name or (ARGUMENTS[number] if number < len(ARGUMENTS) else "")
            if key not in ARGUMENTS or key in given:
                raise fail(
                    "E0703",
                    f"`partial` has no `{key}`"
                    if key not in given and key
                    else "one text too many",
                    argument.span,
                    help=did_you_mean(key, ARGUMENTS)
                    or 'like `partial("runs/first", from = "encoder", to = "trunk")`',
                )
            given[key] = _text(argument.value, lets)
        if "run" not in given:
            raise fail(
                "E0703",
                "`partial` names no run",
                value.span,
                help='like `weights = partial("runs/first")`',
            )
        return WeightsChoice(
            given["run"], True, given.get("from", ""), given.get("to", ""), value.span
        )

    def renamed(self, name: str) -> str:
        """The name here of a tensor that has a name there; itself if the prefix is not its own."""
        old, new = (part.replace(".", "_").rstrip("_") for part in (self.old, self.new))
        rest = name if not old else name.removeprefix(f"{old}_")
        if old == new or (old and rest == name):
            return name
        return f"{new}_{rest}" if new else rest


def _text(value: s.Expr, lets: Mapping[str, s.Expr]) -> str:
    found = constant(value, lets)
    if not isinstance(found, str) or not found.strip():
        raise fail(
            "E0703",
            "`weights` is a text",
            value.span,
            help='the folder of a run, like `weights = "runs/first"`',
        )
    return found
