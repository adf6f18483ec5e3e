"""`language 1`, the first line of a file, and `nnc fix`, which writes it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from nnc.dsl.check.checker import load_source
from nnc.dsl.diagnostics.diagnostic import Report
from nnc.dsl.syntax.formatter import format as formatted
from nnc.dsl.syntax.parser import parse
from nnc.dsl.syntax.source import Source
from nnc.runtime.command_line.files import fix

HALF = "fn half(x) = x / 2\n"


def codes(text: str) -> list[str]:
    report = Report()
    load_source(Source("test.nn", text), report)
    return [d.code for d in report.diagnostics]


@pytest.mark.parametrize(
    "head",
    [
        "language 1\n",
        "# about it\n\nlanguage 1  # the first\n",
        "language 1; ",
        "\nlanguage   1\r\n",
    ],
)
def test_the_current_version(head: str) -> None:
    assert not codes(head + HALF)


@pytest.mark.parametrize("version", ["2", "1.5", "0", "one", "99999999999999999999", "-1"])
def test_another_version_is_one_mistake(version: str) -> None:
    """Whatever the rest of the file may mean there."""
    assert codes(f"# new\nlanguage {version}\nfn half(x) = x ?? 2 ;;; }}{{") == ["E0113"]


@pytest.mark.parametrize(
    "text", [f"{HALF}language 1\n", "language\n" + HALF, "language 1 2\n" + HALF]
)
def test_the_version_stands_first_and_alone(text: str) -> None:
    assert codes(text) == ["E0101"]


def test_language_is_a_name_elsewhere() -> None:
    assert not codes("fn language(language) = language + 1\n")


def test_a_used_file_has_a_version_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "new.nn").write_text("language 3\nfn third(x) = x / 3\n")
    report = Report()
    text = 'language 1\nuse "new.nn"\nfn ninth(x) = x / 9\n'
    load_source(Source("test.nn", text), report, tmp_path)
    (found,) = report.diagnostics
    assert found.code == "E0113" and "version 3" in found.message and "nnc-lang" in found.help


@pytest.mark.parametrize(
    ("text", "laid_out"),
    [
        ("language   1\n" + HALF, "language 1\n\n" + HALF),
        ("# a\nlanguage 1 # b\n\n\n# c\n" + HALF, "# a\nlanguage 1  # b\n\n# c\n" + HALF),
        ('language 1\n"""Doc."""\n' + HALF, 'language 1\n\n"""Doc."""\n\n' + HALF),
        ("language 1", "language 1\n"),
    ],
)
def test_layout(text: str, laid_out: str) -> None:
    report = Report()
    found = formatted(parse(Source("test.nn", text), report))
    assert not report.diagnostics and found == laid_out
    assert formatted(parse(Source("test.nn", found), report)) == found


def test_fix_states_the_version(tmp_path: Path) -> None:
    run = CliRunner().invoke
    file = tmp_path / "half.nn"
    file.write_text("\n# one\n" + HALF)
    assert run(fix, ["--check", str(file)]).exit_code == 1
    assert "+language 1" in run(fix, ["--diff", str(file)]).output
    assert run(fix, [str(file)]).exit_code == 0
    assert file.read_text() == "language 1\n\n# one\n" + HALF
    # and once only
    assert run(fix, ["--check", str(file)]).exit_code == 0
