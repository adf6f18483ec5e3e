"""Docstrings: each belongs to the declaration that stands after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from ..diagnostics.diagnostic import Note, Report
from . import ast as s


class Doc(s.String):
    """A docstring that is not attached to its declaration yet."""


def attach_docs(parts: Sequence[s.Declaration | Doc], report: Report) -> list[s.Declaration]:
    """The declarations, each with the docstring that stands before it."""
    declarations = []
    # Each part with its predecessor; the None at the end lets a last docstring be reported.
    for above, part in pairwise([None, *parts, None]):
        if isinstance(above, Doc):
            if not isinstance(part, s.Definition | s.Train):
                report_stray_doc(above, report)
            # `"""above"""` and `"""inside"""`
            elif part.doc:
                name = part.name if isinstance(part, s.Definition) else f"train {part.model.id}"
                report.add(
                    "E0112",
                    f"`{name}` has two docstrings",
                    above.span,
                    notes=(Note(part.span, "the other is inside"),),
                    help="remove one of them",
                )
            else:
                part = replace(part, doc=above.value)
        if part is not None and not isinstance(part, Doc):
            declarations.append(part)
    return declarations


def report_stray_doc(doc: Doc, report: Report) -> None:
    """E0112 for a docstring without a declaration."""
    report.add(
        "E0112",
        "this docstring documents nothing",
        doc.span,
        label="no layer, fn, model, optimizer or train follows",
        help="put it before a declaration or first in its body, or write a `#` comment",
    )
