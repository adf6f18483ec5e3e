"""How commands are called: help, what was meant, the form of messages, colours, completion."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_programs import write

from nnc import UserError, load
from nnc.dsl.diagnostics.catalogue import GROUPS, catalogue
from nnc.runtime import cli

HEAVY = (
    "numpy",
    "lark",
    "llvmlite",
    "rich",
    "safetensors",
    "nnc.compiler",
    "nnc.dsl.syntax.parser",
)
MAIN = "import sys; sys.argv[0] = 'nnc'; from nnc.runtime.cli import main; main()"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def nnc(capfd):
    """Runs a command line: (exit code, stdout, stderr)."""

    def call(*arguments: object):
        code = cli.run([str(a) for a in arguments])
        printed = capfd.readouterr()
        return code, printed.out, printed.err

    return call


def process(*arguments: str, text: str = MAIN, **environment: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join(filter(None, sys.path))
    return subprocess.run(
        [sys.executable, "-c", text, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )


# --- help -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_help_has_an_example_and_the_form_of_messages(nnc, name):
    code, out, _ = nnc(name, "--help")
    assert code == 0 and f"nnc {name}" in out.partition("Example")[2] and "--error-format" in out
    assert out == nnc(name, "-h")[1]


def test_help_explain_and_completion_import_nothing_heavy():
    # One process for all of them: what one imports is seen after the last.
    lines = [[name, "--help"] for name in cli.COMMANDS]
    lines += [["--help"], ["explain"], ["explain", "E0304"], ["completion", "zsh"]]
    text = f"""
import sys
from nnc.runtime import cli
assert not any([cli.run(line) for line in {lines!r}])
found = [n for n in {HEAVY!r} if any(m == n or m.startswith(n + ".") for m in sys.modules)]
print(*found, file=sys.stderr)
"""
    found = process(text=text)
    assert (found.returncode, found.stderr.strip()) == (0, "")


def test_explain_without_a_code_lists_all_by_group(nnc):
    code, out, _ = nnc("explain")
    assert code == 0
    for entry in catalogue().values():
        assert f"  {entry.code}  {entry.title}\n" in out
    assert {code[:3] for code in catalogue()} == set(GROUPS)
    lines = out.splitlines()
    assert all(title in lines for title in GROUPS.values())
    code, _, err = nnc("explain", "E9999")
    assert code == 2 and "`nnc explain` lists all" in err


# --- what was meant -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "code", "told"),
    [
        ("digits.nn", 2, "did you mean `nnc train digits.nn`?"),
        ("missing.nn", 2, "did you mean `nnc train missing.nn`?"),
        ("run", 2, "did you mean `nnc eval run`, or `nnc train --resume run`?"),
        (".", 2, "did you mean `nnc check .`?"),
        ("trian digits.nn", 2, "did you mean `train`?"),
        ("chekc digits.nn", 2, "did you mean `check`?"),
        ("train digist.nn", 1, "did you mean `digits.nn`?"),
        ("train digits", 1, "did you mean `digits.nn`?"),
        ("check digist", 1, "did you mean `digits.nn`?"),
        ("summary digits.NN", 1, "did you mean `digits.nn`?"),
        ("check ../{here}/digist.nn", 1, "did you mean `../{here}/digits.nn`?"),
        ("train elsewhere.nn", 1, "no such file"),
        ("train none/digits.nn", 1, "no such file"),
        ("eval rnu", 1, "did you mean `run`?"),
        ("check ../{here}s/digist.nn", 1, "did you mean `../{here}/digits.nn`?"),
        ("eval ../{here}s/run", 1, "did you mean `../{here}/run`?"),
        ("runs rum", 1, "did you mean `run`?"),
        ("graph rum", 1, "did you mean `run`?"),
        ("debug rum", 1, "did you mean `run`?"),
        ("graph digits.nn --output rum/x.svg", 1, "no folder rum; did you mean `run`?"),
        ("check digits.nn --data rum", 1, "did you mean `run`?"),
        ("train digits.nn --init rum", 2, "did you mean `run`?"),
        ("train digits.nn --epoch 3", 2, "--epochs"),
    ],
)
def test_what_was_meant(nnc, here, line, code, told):
    write(here).rename("digits.nn")
    Path("run").mkdir()
    Path("run/settings.json").write_text("{}")
    found, out, err = nnc(*line.format(here=here.name).split())
    assert (found, out) == (code, "") and told.format(here=here.name) in err


def test_what_was_meant_in_python(here):
    write(here).rename("digits.nn")
    Path("run").mkdir()
    Path("run/settings.json").write_text("{}")
    for name, meant in (
        ("digist.nn", "digits.nn"),
        ("digist", "digits.nn"),
        ("rum", "run"),
        (f"../{here.name}s/rnu", f"../{here.name}/run"),
    ):
        with pytest.raises(UserError) as raised:
            load(name)
        assert f"did you mean `{meant}`?" in str(raised.value)
    with pytest.raises(UserError, match="no such file"):
        load("elsewhere")


# --- the form of messages -------------------------------------------------------------------------

JSON_LINES = [
    "check wrong.nn",
    "check missing.nn digits.nn",
    "fmt --check wide.nn",
    "trian digits.nn",
    "train digits.nn --epohcs 3",
    "train digits.nn --epochs 0",
    "train",
    "eval nowhere",
    "explain E9999",
    "check digits.nn --set bacth=3",
]


@pytest.mark.parametrize("line", JSON_LINES)
def test_json_is_nothing_but_json(nnc, here, line):
    write(here).rename("digits.nn")
    Path("wrong.nn").write_text("model M(x: [B, 3]) -> y { y = Dense(3)(z) + q }\n")
    Path("wide.nn").write_text("fn half(x)  =  x / 2\n")
    name, *rest = line.split()
    for arguments in (
        ["--error-format", "json", name, *rest],
        [name, *rest, "--error-format", "json"],
        [name, "--error-format=json", *rest],
    ):
        code, out, err = nnc(*arguments)
        records = [json.loads(line) for line in err.splitlines()]
        assert code in (1, 2) and not out and records
        assert all({"code", "severity", "message", "help"} <= set(r) for r in records)


def test_training_tells_json_too(nnc, here):
    write(here)
    name = next(here.glob("*.nn"))
    code, out, err = nnc("train", name, "--epochs", 1, "--error-format", "json")
    assert code == 0 and out.startswith("epoch 1/1")
    assert [json.loads(line)["severity"] for line in err.splitlines()][-1:] == ["note"]


def test_the_form_of_one_call_is_not_that_of_the_next(nnc):
    assert nnc("check", "a.nn", "--error-format", "json")[2].startswith("{")
    assert nnc("check", "a.nn", "--error-format", "short")[2].startswith("error[E0216]")
    assert "= help" not in nnc("check", "a.nn")[2] and nnc("check", "a.nn")[2].startswith("error[")
    code, _, err = nnc("check", "a.nn", "--error-format", "xml")
    assert code == 2 and "'json'" in err


# --- colours --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "colored"),
    [
        ({}, False),
        ({"FORCE_COLOR": "1"}, True),
        ({"FORCE_COLOR": "1", "TERM": "dumb"}, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        ({"FORCE_COLOR": ""}, False),
    ],
)
def test_colors_in_a_pipe(monkeypatch, nnc, environment, colored):
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    _, out, err = nnc("check", "missing.nn")
    assert ("\x1b[" in err) is colored and not out


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no pseudo-terminals")
@pytest.mark.parametrize(
    ("environment", "colored"),
    [({"TERM": "xterm"}, True), ({"TERM": "dumb"}, False), ({"TERM": "xterm", "NO_COLOR": "1"}, 0)],
)
def test_colors_on_a_terminal(environment, colored):
    clean = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    master, slave = os.openpty()
    path = os.pathsep.join(filter(None, sys.path))
    subprocess.run(
        [sys.executable, "-c", MAIN, "check", "missing.nn"],
        stdout=slave,
        stderr=slave,
        env={**clean, "PYTHONPATH": path, **environment},
    )
    os.close(slave)
    assert (b"\x1b[" in os.read(master, 10**5)) == bool(colored)


# --- completion -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("nnc tr", {"train"}),
        ("nnc ", set(cli.COMMANDS)),
        ("nnc train --re", {"--resume"}),
        ("nnc train --device ", {"cpu", "reference", "cuda"}),
        ("nnc check --error-f", {"--error-format"}),
        ("nnc explain e060", {c for c in catalogue() if c.startswith("E060")}),
        ("nnc frobnicate --de", set()),
    ],
)
def test_completion_answers(words, wanted):
    place = str(words.count(" "))
    found = process(COMP_WORDS=words, COMP_CWORD=place, _NNC_COMPLETE="bash_complete")
    answers = {line.partition(",")[2] for line in found.stdout.splitlines()}
    assert found.stderr == "" and wanted <= answers
    assert not wanted or all(a in wanted for a in answers if words != "nnc ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_of_the_shell(nnc, here, shell):
    code, out, _ = nnc("completion", shell)
    assert code == 0 and "_NNC_COMPLETE" in out and "nnc" in out
    if shutil.which(shell):
        Path("script").write_text(out)
        assert subprocess.run([shell, "-n", "script"]).returncode == 0


def test_completion_of_an_unknown_shell(nnc):
    assert nnc("completion", "tcsh")[0] == 2
