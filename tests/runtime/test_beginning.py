"""`nnc new` and `nnc examples`: what a newcomer begins with."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnc.dsl.diagnostics.diagnostic import Report
from nnc.dsl.syntax.formatter import format as formatted
from nnc.dsl.syntax.parser import parse
from nnc.dsl.syntax.source import Source
from nnc.runtime import cli
from nnc.runtime.commands.beginning import EXAMPLES, example_programs, templates

ASKED = {"cnn", "tabular", "gpt"}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def nnc(capsys):
    """Runs a command line: (exit code, stdout, stderr)."""

    def call(*arguments: object):
        code = cli.run([str(a) for a in arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


# --- new ------------------------------------------------------------------------------------------


SLOW = ("gpt", "forecast")


@pytest.mark.parametrize(
    "template",
    [pytest.param(t, marks=[pytest.mark.slow] * (t in SLOW)) for t in sorted(templates())],
)
def test_a_new_project_checks_and_trains(nnc, template):
    code, out, err = nnc("new", "deep/my-project", "--template", template)
    folder = Path("deep/my-project")
    assert code == 0 and not err
    assert "cd deep/my-project\nnnc train model.nn" in out
    files = sorted(p.name for p in folder.iterdir())
    assert all(name in out for name in files) and "model.nn" in files
    # The note says what it is about, and what the data are.
    readme = (folder / "README.md").read_text()
    assert readme.startswith("# my-project\n") and "## The data" in readme
    text = (folder / "model.nn").read_text()
    assert text.count("#") >= 3 and formatted(parse(Source("m", text), Report())) == text
    assert nnc("check", folder) == (0, "", "no mistakes in 1 file\n")
    # Two steps only: that it starts to train. The template's README says what a whole run reaches.
    code, out, err = nnc("train", folder / "model.nn", "--steps", 2, "--out", "run")
    assert code == 0 and "loss" in out and "kept in run" in err


def test_templates_are_listed(nnc):
    code, out, _ = nnc("new", "--list")
    lines = out.splitlines()
    assert code == 0 and {line.split()[0] for line in lines} == set(templates()) >= ASKED
    assert all(len(line.split()) > 4 for line in lines)
    # The help names them, too.
    assert all(name in nnc("new", "--help")[1] for name in templates())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["my model"], "a space"),
        (["digits.nn"], "`nnc new digits`"),
        (["a/b?"], "`?`"),
        ([".hidden"], "begins with `.`"),
        (["."], "a new folder"),
        (["deep/.."], "a new folder"),
        (["x" * 101], "101 characters"),
        (["a\nb"], "cannot be seen"),
        ([""], "a new folder"),
        ([], "give the NAME"),
        (["a", "--template", "cmn"], "did you mean `cnn`?"),
        (["a", "--template", "qqqqqq"], "cnn, forecast"),
    ],
)
def test_names_that_are_none(nnc, here, arguments, told):
    code, out, err = nnc("new", *arguments)
    assert code == 2 and not out and told in err and not list(here.iterdir())


def test_nothing_is_written_over(nnc, here):
    Path("file").write_text("mine")
    Path("full").mkdir()
    Path("full/model.nn").write_text("mine")
    Path("empty").mkdir()
    Path("link").symlink_to("nowhere")
    for name in ("file", "full", "link"):
        code, _, err = nnc("new", name)
        assert code == 2 and f"`{name}` exists already" in err
    assert Path("file").read_text() == Path("full/model.nn").read_text() == "mine"
    assert nnc("new", "empty")[0] == 0 and nnc("new", "empty")[0] == 2
    assert not [p for p in here.iterdir() if p.name.startswith(".nnc")]


# --- examples -------------------------------------------------------------------------------------


def test_examples_are_listed_with_a_line_each(nnc):
    code, out, _ = nnc("examples")
    lines = out.splitlines()
    assert code == 0 and [line.split()[0] for line in lines] == sorted(example_programs())
    assert all(len(line.split()) > 4 for line in lines)
    assert any(line.startswith("cnn_digits") and "convolutional" in line for line in lines)


def test_an_example_is_printed_as_it_is(nnc):
    text = (EXAMPLES / "xor.nn").read_text()
    assert nnc("examples", "xor") == nnc("examples", "xor.nn") == (0, text, "")
    code, out, err = nnc("examples", "xro")
    assert code == 2 and not out and "did you mean `xor`?" in err
    code, _, err = nnc("examples", "zzzzzz")
    assert code == 2 and "`nnc examples` lists them" in err


def test_an_example_is_copied_with_its_data(nnc):
    code, out, _ = nnc("examples", "xor", "--copy")
    assert code == 0 and out.splitlines() == ["xor.nn", "data/xor.csv"]
    assert nnc("train", "xor.nn", "--epochs", 1, "--out", "run")[0] == 0
    code, _, err = nnc("examples", "xor", "--copy")
    assert code == 2 and "`xor.nn` exists already" in err
    assert nnc("examples", "xor", "--to", "a/b")[1].splitlines() == [
        "a/b/xor.nn",
        "a/b/data/xor.csv",
    ]
    assert nnc("check", "a")[0] == 0
    assert nnc("examples", "--copy")[0] == 2
