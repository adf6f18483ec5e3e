"""What people type by habit from other frameworks: `habits.toml` has each program beside its right
spelling, `habits.txt` what is marked in it and advised.

After a change of messages run `pytest --update-golden` and read the difference.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from nnc.dsl.check.library import standard_library
from nnc.dsl.check.names import BUILTINS, CONSTANTS, Scope
from nnc.dsl.diagnostics.diagnostic import Diagnostic, Report
from nnc.dsl.diagnostics.foreign_terms import foreign_terms
from nnc.dsl.syntax.ast import REDUCTIONS
from nnc.dsl.syntax.parser import parse
from nnc.dsl.syntax.source import Source

from . import front

HERE = Path(__file__).parent
HABITS = tomllib.loads((HERE / "habits.toml").read_text("utf-8"))


diagnose = cache(front.diagnose)


def in_frame(frame: str, text: str) -> str:
    return HABITS[frame]["text"].replace("%", text, 1)


def line(found: Diagnostic) -> str:
    marked = found.span.text.split("\n")[0] if found.span else ""
    return f"    {found.code} {marked or 'the end of the line'}  {found.message}: {found.help}"


@pytest.mark.parametrize("frame", HABITS)
def test_a_habit_is_marked_and_its_right_spelling_compiles(frame: str) -> None:
    for wrong, right in HABITS[frame]["programs"]:
        found = diagnose(in_frame(frame, wrong))
        assert found and all(f.span is not None and f.help for f in found if f.is_error), wrong
        assert diagnose(in_frame(frame, right)) == [], right


def test_messages(update_golden: bool) -> None:
    text = ""
    for frame, habits in HABITS.items():
        for wrong, _ in habits["programs"]:
            lines = [wrong, *map(line, diagnose(in_frame(frame, wrong)))]
            text += "\n".join(lines) + "\n"
    golden = HERE / "habits.txt"
    if update_golden:
        golden.write_text(text, "utf-8")
    assert text == golden.read_text("utf-8")


# --- what is advised is right -------------------------------------------------------------------


def advised() -> Iterator[tuple[str, str]]:
    """Every piece of the language in the table of foreign terms, with the term."""
    terms = foreign_terms()
    for kind in ("values", "settings", "fields", "dtypes"):
        for term, text in terms[kind]["idioms"].items():
            yield from ((term, piece) for piece in re.findall("`([^`]+)`", text))
    for kind in ("methods", "keywords", "characters"):
        for term, text in terms[kind].items():
            yield from ((term, piece) for piece in re.findall("`([^`]+)`", text))
    for term, name in terms["values"]["names"].items():
        yield term, name


FORMS = (
    "fn f(x) = {}",
    "layer L(x: [B, n]) -> y: [B, n] {{ {} }}",
    "model M({}) -> y: f32 {{ y = 0.0 }}",
    "train M {{ {} }}",
    "fn f(x) = (0) {} (0)",
    "{}",
)


def parses(text: str) -> bool:
    for form in FORMS:
        report = Report()
        parse(Source("advice", form.format(text) + "\n"), report)
        if not report.errors:
            return True
    return False


# a flag, a command, a file's ending, operators and marks alone
NO_CODE = re.compile(r"nnc .*|--.*|[-+*/^=!<>|_#.~]+\d?|.*\{ … \}|.*\[[tb]\] = ….*|[a-z]+")


def test_advice_parses() -> None:
    wrong = [
        (term, piece)
        for term, piece in advised()
        if not NO_CODE.fullmatch(piece)
        and not parses(piece.replace("…", "x").replace("{x}", "x").replace("{callee}", "f"))
    ]
    assert wrong == []


def test_advised_names_exist() -> None:
    scope = Scope({}, {}, standard_library())
    known = {*scope.names(), *CONSTANTS, *BUILTINS}
    for term, name in foreign_terms()["values"]["names"].items():
        used = {name} if name.isidentifier() else set(re.findall(r"[A-Za-z_]\w*(?=\()", name))
        used -= {"x", "true", "false", *REDUCTIONS}
        assert used <= known, (term, name)
