"""Every code is explained, once, and its examples keep their word through the whole front."""

from __future__ import annotations

import re
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest

from nnc.dsl.diagnostics.catalogue import CATALOGUE, Entry
from nnc.runtime.data.core.error_codes import DATA_ERRORS, SEQUENCE_ERRORS
from nnc.runtime.error_codes import RUN_ERRORS

from .front import diagnose

COMPILED = [entry for entry in CATALOGUE.values() if entry.compiled]


@pytest.mark.parametrize("entry", COMPILED, ids=lambda e: e.code)
def test_examples_of_a_code(entry: Entry, tmp_path: Path) -> None:
    assert {d.code for d in diagnose(entry.wrong, folder=tmp_path)} == {entry.code}
    assert diagnose(entry.right, folder=tmp_path) == []


def test_examples_are_marked_where_the_mistake_is(update_golden: bool, tmp_path: Path) -> None:
    """`marked.txt`: under each code, the text that is marked in its wrong example."""
    lines = []
    for entry in COMPILED:
        found = diagnose(entry.wrong, folder=tmp_path)[0]
        assert found.span is not None and not found.span.source.library
        lines.append(f"{entry.code}  {found.span.text}")
    text = "\n".join(lines) + "\n"
    golden = Path(__file__).parent / "marked.txt"
    if update_golden:
        golden.write_text(text, "utf-8")
    assert text == golden.read_text("utf-8")


def test_entries_say_something() -> None:
    for entry in CATALOGUE.values():
        assert entry.title[0].islower() or entry.title[0] in "`", entry.code
        assert entry.explanation.endswith(".") and entry.wrong and entry.right, entry.code


def test_catalogue_is_in_order() -> None:
    assert list(CATALOGUE) == sorted(CATALOGUE)


def test_every_code_has_one_explanation() -> None:
    rows = [*CATALOGUE.values(), *DATA_ERRORS, *SEQUENCE_ERRORS, *RUN_ERRORS]
    assert [code for code, n in Counter(row.code for row in rows).items() if n > 1] == []


def test_every_code_that_is_raised_is_explained() -> None:
    others = (*DATA_ERRORS, *SEQUENCE_ERRORS, *RUN_ERRORS)
    explained = {row.code for row in (*CATALOGUE.values(), *others)}
    raised = set()
    for part in ("dsl", "compiler", "runtime"):
        for path in Path(str(files("nnc"))).joinpath(part).rglob("*.py"):
            if not path.name.startswith(("catalogue", "errors", "entries")):
                raised |= set(re.findall(r'"([EW]0\d{3})"', path.read_text("utf-8")))
    assert raised - explained == set()
    assert explained - raised == set()
