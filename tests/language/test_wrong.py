"""Typical mistakes: `wrong/NAME.nn`, and the rendered diagnostics in `wrong/NAME.txt`.

After a change of messages run `pytest --update-golden` and read the difference.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nnc.dsl.diagnostics.diagnostic import Diagnostic, Note
from nnc.dsl.diagnostics.render import render_all
from nnc.dsl.syntax.source import Source, Span

from .front import diagnose

FOLDER = Path(__file__).parent / "wrong"
PROGRAMS = sorted(path.stem for path in FOLDER.glob("*.nn"))


def without_lines(found: Diagnostic) -> Diagnostic:
    """Spans in the library as if each were in a file of one line, as the library's lines move."""

    def alone(note: Note) -> Note:
        source = note.span.source
        if not source.library:
            return note
        start = source.line_starts[note.span.line - 1]
        own = Source(source.name, source.line(note.span.line), True)
        return Note(Span(own, note.span.start - start, note.span.end - start), note.text)

    return replace(found, notes=tuple(map(alone, found.notes)))


@pytest.mark.parametrize("name", PROGRAMS)
def test_rendered_diagnostics(name: str, update_golden: bool) -> None:
    text = (FOLDER / f"{name}.nn").read_text("utf-8")
    found = diagnose(text, f"{name}.nn")
    assert found
    for diagnostic in found:  # in the user's file, never in the library
        assert diagnostic.span is not None and diagnostic.span.source.name == f"{name}.nn"
    rendered = render_all(map(without_lines, found)) + "\n"
    golden = FOLDER / f"{name}.txt"
    if update_golden:
        golden.write_text(rendered, "utf-8")
    assert rendered == golden.read_text("utf-8")


def test_no_text_without_its_program() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.txt")) == PROGRAMS
