"""Syntax trees kept between runs: the same trees, found for the same text alone, and never in the
way."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from small_programs import DIGITS, write

from nnc.dsl.diagnostics.diagnostic import Report, UserError
from nnc.dsl.syntax.numbers import NUMBER
from nnc.dsl.syntax.parser import grammar, parse, parse_value
from nnc.dsl.syntax.source import Source
from nnc.runtime import kept_trees
from nnc.runtime.kept_trees import parse_kept
from nnc.runtime.project import open_project

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """An empty cache; its folder."""
    monkeypatch.setenv("NNC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kernels"


def forbid_parsing(monkeypatch) -> None:
    def parse(source: Source, report: Report) -> None:
        raise AssertionError("something was parsed")

    monkeypatch.setattr(kept_trees, "parse", parse)


def found(text: str) -> tuple[object, Report]:
    report = Report()
    return parse_kept(Source("x.nn", text), report), report


@pytest.mark.parametrize("name", ["char_gpt", "mlp_mnist", "vae_digits"])
def test_a_kept_tree_is_that_of_the_parser(name, monkeypatch):
    source = Source("x.nn", (EXAMPLES / f"{name}.nn").read_text())
    report = Report()
    parsed = parse(source, report)
    assert parse_kept(source, report) == parsed
    forbid_parsing(monkeypatch)
    # nodes compare by all their fields, places included
    assert parse_kept(source, report) == parsed
    assert not report.diagnostics


def test_another_text_is_another_tree(folder):
    assert found("model A(x: f32[B]) -> y {\n    y = 2 * x\n}\n")[0].declarations[0].name == "A"
    assert found("model C(x: f32[B]) -> y {\n    y = 2 * x\n}\n")[0].declarations[0].name == "C"
    assert len([*folder.glob("*.tree")]) == 2


def test_another_parser_has_other_trees(folder, monkeypatch):
    text = "model A(x: f32[B]) -> y {\n    y = 2 * x\n}\n"
    found(text)
    monkeypatch.setattr(kept_trees, "texts_digest", lambda *folders: "another parser")
    found(text)
    assert len([*folder.glob("*.tree")]) == 2


def test_mistakes_are_told_each_time(folder):
    text = 'layer Add(x: [n]) -> y {\n    y = x +\n}\n"""stray"""\n'
    first, second = (found(text)[1].diagnostics for _ in range(2))
    assert [(d.code, d.message) for d in first] == [(d.code, d.message) for d in second] != []
    assert not [*folder.glob("*.tree")] if folder.exists() else True


@pytest.mark.parametrize("damage", [b"", b"{}", b"x" * 500])
def test_a_damaged_tree_is_parsed_again(folder, damage):
    text = "model A(x: f32[B]) -> y {\n    y = 2 * x\n}\n"
    found(text)
    (entry,) = folder.glob("*.tree")
    entry.write_bytes(damage)
    tree, report = found(text)
    assert tree.declarations[0].name == "A" and not report.diagnostics


def test_without_a_cache_nothing_is_kept(folder, monkeypatch):
    monkeypatch.setenv("NNC_CACHE", "off")
    found("model A(x: f32[B]) -> y {\n    y = 2 * x\n}\n")
    assert not folder.exists()


def test_a_file_that_is_used_may_change(tmp_path):
    """As may the program itself, and a table that it names."""
    part, program = tmp_path / "part.nn", tmp_path / "program.nn"
    (tmp_path / "t.csv").write_text("0.5\n0.25\n")
    program.write_text(
        'use "part.nn"\n\n'
        'model A(x: f32[B, 2]) -> y {\n    let t = table("t.csv")\n    y = Twice(x) + t[0]\n}\n'
    )
    part.write_text("layer Twice(x: [n]) -> y {\n    y = 2 * x\n}\n")
    first = open_project(program).checked
    part.write_text("layer Twice(x: [n]) -> y {\n    y = 4 * x\n}\n")
    (tmp_path / "t.csv").write_text("0.5\n0.125\n")
    second = open_project(program).checked
    assert first.definitions["Twice"] != second.definitions["Twice"]
    assert "4 * x" in second.definitions["Twice"].span.text
    assert "0.125" in str(second.definitions["A"]) and "0.125" not in str(first.definitions["A"])
    part.write_text("layer Twice(x: [n]) -> y {\n    y = 4 *\n}\n")
    with pytest.raises(UserError):
        open_project(program)


def test_a_start_that_finds_trees_imports_no_parser(tmp_path):
    write(tmp_path, DIGITS)
    code = (
        "import sys\nfrom pathlib import Path\nfrom nnc.runtime.assignments import Assignment\n"
        "from nnc.runtime.project import open_project\n"
        "open_project(Path(sys.argv[1]), [Assignment('batch', '16'), Assignment('seed', '3')])\n"
        "print(any(name.partition('.')[0] == 'lark' for name in sys.modules))\n"
    )
    command = [sys.executable, "-c", code, str(next(tmp_path.glob("*.nn")))]
    runs = [subprocess.run(command, capture_output=True, text=True) for _ in range(2)]
    assert [run.stdout.strip() for run in runs] == ["True", "False"], runs[0].stderr


@pytest.mark.parametrize("text", ["32", "1_000", "0.0", "1e-3", "0", "7.5e+2", "9" * 19])
def test_numbers_of_flags_are_those_of_the_parser(text):
    source, report = Source("command line", f"--set x={text}"), Report()
    number = parse_value(source, 8, report)
    wrapped = parse_value(Source("command line", f"--set x=({text})"), 8, Report())
    assert (number and (repr(number.value), number.text)) == (
        wrapped and (repr(wrapped.value), wrapped.text)
    )
    assert bool(report.errors) == (text == "9" * 19)


def test_the_pattern_of_numbers_is_that_of_the_grammar():
    (pattern,) = re.findall(r"^NUMBER:\s+/(.*)/$", grammar(), re.MULTILINE)
    assert pattern == NUMBER.pattern
