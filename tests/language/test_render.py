"""Rendered diagnostics as small golden texts."""

from __future__ import annotations

import json

from nnc.dsl.diagnostics.diagnostic import Diagnostic, Note
from nnc.dsl.diagnostics.render import render, render_all
from nnc.dsl.syntax.source import Source, Span


def spot(source: Source, text: str) -> Span:
    start = source.text.index(text)
    return Span(source, start, start + len(text))


LINE = "    y[..., o] = sum(i) x[..., i] * w[i, o] + b[o]"
DENSE = Source("mnist.nn", "\n" * 8 + LINE + "\n")
READ, WEIGHT = spot(DENSE, "x[..., i]"), spot(DENSE, "w[i, o]")
SIZES = Diagnostic(
    "E0304",
    "sizes of `i` disagree",
    Span(DENSE, 8 + 11, 8 + 12),
    notes=(
        Note(Span(DENSE, READ.start, READ.start + 6), "here `i` runs over 576"),
        Note(Span(DENSE, WEIGHT.start + 2, WEIGHT.start + 3), "here `i` runs over 512"),
    ),
    help="`w` is declared [512, units]; did you mean [n, units]?",
)


def test_two_places_on_a_line() -> None:
    assert render(SIZES) == (
        "error[E0304]: sizes of `i` disagree\n"
        "  --> mnist.nn:9:12\n"
        "   |\n"
        f" 9 | {LINE}\n"
        "   |                        ------        - here `i` runs over 512\n"
        "   |                        |\n"
        "   |                        here `i` runs over 576\n"
        "   = help: `w` is declared [512, units]; did you mean [n, units]?"
    )


def test_places_on_lines_and_in_files() -> None:
    here = Source("a.nn", "one\n\n\ttwo\n")
    there = Source("b.nn", "中 three")
    text = render(
        Diagnostic(
            "W0201",
            "look",
            spot(here, "two"),
            "this",
            (Note(spot(here, "one"), "that"), Note(spot(there, "three"), "other")),
        )
    )
    assert text == (
        "warning[W0201]: look\n"
        "  --> a.nn:3:2\n"
        "   |\n"
        " 1 | one\n"
        "   | --- that\n"
        " ...\n"
        " 3 |     two\n"
        "   |     ^^^ this\n"
        "  ::: b.nn:1:3\n"
        "   |\n"
        " 1 | 中 three\n"
        "   |    ----- other"
    )


def test_long_and_many_lines() -> None:
    source = Source("a.nn", "x" * 500 + "(here\nand\nthere)" + "y" * 500)
    text = render(Diagnostic("E0101", "m", Span(source, 500, 520), "l"), width=60)
    assert max(map(len, text.splitlines())) <= 60 + len(" l (to line 3)")
    assert "…" in text and "l (to line 3)" in text


def test_no_control_characters_off_a_terminal() -> None:
    source = Source("a\x1b.nn", "x \x1b[31m \u202e y")
    found = Diagnostic("E0104", "bad \x07", Span(source, 2, 3), "l\x1b", help="h\x00")
    for form in ("human", "short", "json"):
        text = render_all([found], form)
        assert all(c.isprintable() or c == "\n" for c in text)
    assert "\x1b[" in render(found, color=True)


def test_short_and_json() -> None:
    assert render_all([SIZES], "short") == "mnist.nn:9:12: error[E0304]: sizes of `i` disagree"
    record = json.loads(render_all([SIZES], "json"))
    assert (record["code"], record["line"], record["column"]) == ("E0304", 9, 12)
    assert len(record["notes"]) == 2


def test_without_a_place() -> None:
    assert render(Diagnostic("E0601", "no such data")) == "error[E0601]: no such data"
