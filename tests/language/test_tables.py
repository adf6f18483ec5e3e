"""`table("priors.csv")`: lists of numbers from files beside the program."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nnc.compiler.elaboration.model import forward
from nnc.compiler.reference.evaluator import evaluate
from nnc.dsl.check.checker import load, load_source
from nnc.dsl.diagnostics.diagnostic import Report
from nnc.dsl.syntax.formatter import format as formatted
from nnc.dsl.syntax.parser import parse
from nnc.dsl.syntax.source import Source
from nnc.runtime.project import open_project, project_of_text

MATRIX = np.array([[1.5, -2, 0.1], [4, 1e-7, 3]])


def computed(folder: Path, file: str) -> np.ndarray:
    report = Report()
    text = f'model M(x: f64[2]) -> y {{\n    let w = table("{file}")\n    y = w + 0 * x[0]\n}}'
    program = load_source(Source("test.nn", text), report, folder)
    report.check()
    system = forward(program.definitions, "M", {}, float_type="f64")
    return evaluate(system, {"x": np.zeros(2)})["y"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1, 2.5\n3, -4\n", [[1, 2.5], [3, -4]]),
        ("a,b\n1,2\n3,4\n", [[1, 2], [3, 4]]),
        ("1\n2\n\n3\n", [1, 2, 3]),
        ("weight\n0.5\n", [0.5]),
        ("1;2;3\n", [1, 2, 3]),
        ("1 2\t3\n4 5 -inf\r\n", [[1, 2, 3], [4, 5, -np.inf]]),
        ("\ufeff1e3,nan\n", [1000, np.nan]),
    ],
)
def test_text(tmp_path: Path, text: str, expected: list) -> None:
    (tmp_path / "w.csv").write_text(text, "utf-8")
    np.testing.assert_array_equal(computed(tmp_path, "w.csv"), expected)


@pytest.mark.parametrize("dtype", ["f8", "f4", "i4", "i8", "u1", ">f8"])
def test_numpy(tmp_path: Path, dtype: str) -> None:
    (tmp_path / "deep").mkdir()
    array = np.asfortranarray(np.abs(MATRIX)).astype(dtype)
    np.save(tmp_path / "deep" / "w.npy", array)
    np.testing.assert_array_equal(computed(tmp_path, "deep/w.npy"), array)


@pytest.mark.parametrize(
    ("file", "content", "code", "says"),
    [
        ("none.csv", None, "E0216", "no such file"),
        ("../w.csv", b"1", "E0217", "in this folder"),
        ("/etc/hostname", None, "E0217", "in this folder"),
        ("w.csv", b"", "E0216", "no numbers"),
        ("w.csv", b"a,b\n1,x\n", "E0216", "`x` in line 2"),
        ("w.csv", b"1,2\n3\n", "E0216", "different numbers"),
        ("w.csv", b"\xff\xfe", "E0216", "decode"),
        ("w.csv", b"1\n" * 3000, "E0216", "3,000 numbers"),
        ("w.npy", b"1, 2", "E0216", "no array"),
        ("w.npy", b"\x93NUMPY\x01\x00", "E0216", "no array"),
    ],
)
def test_files_that_are_no_tables(
    tmp_path: Path, file: str, content: bytes | None, code: str, says: str
) -> None:
    folder = tmp_path / "program"
    folder.mkdir()
    if content is not None:
        (folder / file).write_bytes(content)
    report = Report()
    text = f'model M(x: f32[2]) -> y {{\n    y = x * table("{file}")\n}}'
    load_source(Source("test.nn", text), report, folder)
    (found,) = report.diagnostics
    assert found.code == code and says in f"{found.message} {found.label}"
    assert found.span is not None and found.span.text == f'"{file}"'


def test_a_link_leads_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "program").mkdir()
    (tmp_path / "secret.csv").write_text("1")
    (tmp_path / "program" / "w.csv").symlink_to(tmp_path / "secret.csv")
    report = Report()
    load_source(Source("test.nn", 'fn w() = table("w.csv")'), report, tmp_path / "program")
    assert [d.code for d in report.diagnostics] == ["E0217"]


PROGRAM = '''language 1

"""A model with tables."""

use "parts/scaled.nn"

# of the file
fn priors() = table("priors.csv")

model M(x: f32[B, 3]) -> y: f32[B, 3] {
    param w: [3] = 1
    y = scaled(x) * w + priors()
}

train M {
    input target: f32[B, 3]
    let costs = table("weights.npy")
    loss = mean((y - target)^2 * costs)
    optimizer = sgd(lr = 0.1)
}
'''


def test_a_run_keeps_the_numbers(tmp_path: Path) -> None:
    """The resolved program needs no other file, and computes the same."""
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "scaled.nn").write_text('fn scaled(x) = x * table("scale.csv")\n')
    (tmp_path / "parts" / "scale.csv").write_text("2,-0.5,1\n")
    (tmp_path / "priors.csv").write_text("0.25\n0.5\n0.25\n")
    np.save(tmp_path / "weights.npy", np.array([1.0, 2.0, 3.0], np.float32))
    (tmp_path / "program.nn").write_text(PROGRAM)
    project = open_project(tmp_path / "program.nn")
    text = project.resolved()
    assert "table(" not in text and "[2, -0.5, 1]" in text and text.count("[0.25, 0.5, 0.25]") == 1
    assert "let costs = [1.0, 2.0, 3.0]" in text and "language 1\n" in text
    again = project_of_text(text, folder=tmp_path / "elsewhere")
    given = {"x": np.ones((2, 3)), "w": np.ones(3)}
    for found in (project, again):
        system = forward(found.checked.definitions, "M", {"B": 2})
        np.testing.assert_allclose(evaluate(system, given)["y"][0], [2.25, 0, 1.25])


def test_the_layout_keeps_the_file(tmp_path: Path) -> None:
    (tmp_path / "program.nn").write_text('fn w() = table("w.csv")\n')
    (tmp_path / "w.csv").write_text("1")
    report = Report()
    found = load(tmp_path / "program.nn", report)
    assert not report.diagnostics and found.definitions["w"].value is not None
    text = formatted(parse(Source("program.nn", 'fn w() = table( "w.csv" )\n'), report))
    assert text == 'fn w() = table("w.csv")\n'


def test_a_table_of_the_programs_own(tmp_path: Path) -> None:
    report = Report()
    load_source(Source("t.nn", 'fn table(x) = x\nfn w() = table("none")'), report, tmp_path)
    assert not report.diagnostics
