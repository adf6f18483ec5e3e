"""Every code has an entry in the catalogue, and the front end reports it for its examples."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest

from nnc.dsl.diagnostics.catalogue import Entry, catalogue

from .front import diagnose

COMPILED = [entry for entry in catalogue().values() if entry.wrong]


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


def test_entries_are_complete() -> None:
    for entry in catalogue().values():
        assert entry.title[0].islower() or entry.title[0] in "`", entry.code
        assert entry.explanation.endswith(".") and bool(entry.wrong) == bool(entry.right)
        assert bool(entry.wrong) != bool(entry.example), entry.code


def test_catalogue_is_in_order() -> None:
    assert list(catalogue()) == sorted(catalogue())


def test_every_code_that_is_raised_is_explained() -> None:
    raised = set()
    for part in ("dsl", "compiler", "runtime"):
        for path in Path(str(files("nnc"))).joinpath(part).rglob("*.py"):
            raised |= set(re.findall(r'"([EW]0\d{3})"', path.read_text("utf-8")))
    assert raised == set(catalogue())
