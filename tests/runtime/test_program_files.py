"""`nnc check`, `fmt` and `fix` on files, on folders and on standard input."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from nnc.runtime import cli
from nnc.runtime.data import Search
from nnc.runtime.data.sources import describe, load

RIGHT = "fn half(x) = x / 2\n"
WIDE = "fn half(x)  =  x/2\n"
WRONG = "model M(x: [B, 3]) -> y { y = Dense(3)(z) |> nothing }\n"
SIZES = "model M(x: [B, 3]) -> y { y[b] = sum(i) x[b, i] * w[i]; param w: [4] = 0 }\n"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def nnc(capsys, monkeypatch):
    """Runs a command line on a standard input: (exit code, stdout, stderr)."""

    def call(*arguments: object, given: bytes = b""):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        code = cli.run([str(a) for a in arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def tree(**texts: str) -> None:
    """Files below the current folder; `__` in a name stands for `/`."""
    for name, text in texts.items():
        path = Path(*name.split("__")).with_suffix(".nn")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


# --- folders --------------------------------------------------------------------------------------


def test_check_of_a_folder_finds_all_mistakes_of_all_files(nnc):
    tree(a=RIGHT, b=WRONG, deep__down__c=SIZES, deep__d=RIGHT)
    code, out, err = nnc("check", ".")
    assert code == 1 and not out
    assert err.count("error[") == 3 and "deep/down/c.nn:1:" in err
    assert err.rstrip().endswith("3 mistakes in 2 of 4 files")
    code, _, err = nnc("check", "deep", "a.nn", "a.nn", "./deep/../a.nn")
    assert code == 1 and err.rstrip().endswith("1 mistake in 1 of 3 files")
    Path("b.nn").unlink()
    Path("deep/down/c.nn").unlink()
    assert nnc("check", ".") == (0, "", "no mistakes in 2 files\n")
    assert nnc("check", "a.nn") == (0, "", "")


def test_a_folder_reports_json(nnc):
    tree(b=WRONG, c=RIGHT)
    code, out, err = nnc("check", ".", "--error-format", "json")
    records = [json.loads(line) for line in err.splitlines()]
    assert code == 1 and not out
    assert [r["severity"] for r in records] == ["error", "error", "note"]
    assert {r.get("file") for r in records} == {"b.nn", None}


def test_runs_hidden_folders_and_environments_are_no_sources(nnc):
    tree(a=RIGHT, runs__one__model=WIDE, venv__lib__x=WIDE, **{".git__y": WIDE})
    Path("runs/one/settings.json").write_text("{}")
    Path("venv/pyvenv.cfg").write_text("")
    assert nnc("fmt", "--check", ".") == (0, "", "0 of 1 file not laid out canonically\n")
    assert nnc("check", ".")[2] == "no mistakes in 1 file\n"
    # What is named itself is read.
    assert nnc("fmt", "--check", "runs/one")[0] == 1


@pytest.mark.parametrize("command", ["check", "fmt", "fix"])
def test_a_folder_without_programs(nnc, command):
    Path("empty").mkdir()
    code, out, err = nnc(command, "empty")
    assert code == 1 and not out and "error[E0216]: there is no `.nn` file in `empty`" in err


def test_fmt_of_a_folder(nnc):
    tree(a=RIGHT, deep__b=WIDE, deep__c="model {")
    code, _, err = nnc("fmt", "--check", ".")
    assert code == 1 and "deep/b.nn is not laid out canonically" in err
    assert "1 of 3 files" in err and Path("deep/b.nn").read_text() == WIDE
    code, out, _ = nnc("fmt", "--diff", ".")
    assert code == 1 and "-fn half(x)  =  x/2\n+fn half(x) = x / 2\n" in out
    code, out, err = nnc("fmt", ".")
    # A mistake in one file does not keep the others from being changed.
    assert code == 1 and not out and "deep/b.nn is laid out anew" in err and "error[E01" in err
    assert Path("deep/b.nn").read_text() == RIGHT and Path("deep/c.nn").read_text() == "model {"


def test_fix_of_a_folder(nnc):
    tree(a=RIGHT, deep__b="language 1\n\n" + RIGHT)
    assert nnc("fix", "--check", ".")[0] == 1
    code, _, err = nnc("fix", ".")
    assert code == 0 and "1 of 2 files" in err
    assert Path("a.nn").read_text().startswith("language 1\n")
    assert nnc("fix", "--check", ".")[0] == 0


@pytest.mark.parametrize("command", ["train", "summary", "bench"])
def test_where_one_program_is_meant_a_folder_says_so(nnc, command):
    Path("folder").mkdir()
    code, _, err = nnc(command, "folder")
    assert code == 1 and "folder" in err


# --- standard input -------------------------------------------------------------------------------


def test_check_of_standard_input(nnc):
    assert nnc("check", "-", given=RIGHT.encode()) == (0, "", "")
    code, out, err = nnc("check", "-", given=WRONG.encode())
    assert code == 1 and not out and "--> <stdin>:1:" in err
    assert err.rstrip().endswith("2 mistakes")
    code, _, err = nnc("check", "-", given=b"fn f(x) = \xff")
    assert code == 1 and "error[E0109]" in err
    # Used files and data are those of the current folder.
    tree(parts=RIGHT)
    assert nnc("check", "-", given=b'use "parts.nn"\nfn quarter(x) = half(half(x))\n')[0] == 0
    assert nnc("check", "-", given=b'use "none.nn"\n')[0] == 1


def test_fmt_of_standard_input(nnc):
    assert nnc("fmt", "-", given=WIDE.encode()) == (0, RIGHT, "")
    assert nnc("fmt", "-", given=RIGHT.encode()) == (0, RIGHT, "")
    assert nnc("fmt", "-", given=b"") == (0, "", "")
    code, out, err = nnc("fmt", "-", given=b"model {")
    assert code == 1 and not out and "<stdin>" in err
    assert nnc("fmt", "--check", "-", given=WIDE.encode())[:2] == (1, "")
    assert nnc("fmt", "--check", "-", given=RIGHT.encode())[:2] == (0, "")
    assert "--- <stdin>\n" in nnc("fmt", "--diff", "-", given=WIDE.encode())[1]
    assert nnc("fix", "-", given=RIGHT.encode())[1] == f"language 1\n\n{RIGHT}"


@pytest.mark.parametrize("command", ["check", "fmt", "fix"])
def test_standard_input_stands_alone(nnc, command):
    assert nnc(command, "-", "a.nn")[0] == 2


# --- what is read of the data ---------------------------------------------------------------------


def test_check_reads_the_headers_of_arrays_alone(nnc, here):
    """Values that training refuses: no number, no label."""
    np.savez("d.npz", x=np.full((6, 3), np.nan, np.float32), label=np.full(6, 9, np.int64))
    text = """model M(x: [B, 3]) -> logits { logits = Dense(2)(x) }
train M {
    data = npz("d.npz"); loss = cross_entropy(logits, label)
    optimizer = sgd(lr = 0.1); batch = 3; epochs = 1
}
"""
    Path("m.nn").write_text(text)
    assert nnc("check", "m.nn") == (0, "", "")
    assert nnc("train", "m.nn", "--out", "run")[0] == 1
    # Shapes and types are known all the same.
    Path("m.nn").write_text(text.replace("[B, 3]", "[B, 4]"))
    code, _, err = nnc("check", "m.nn")
    assert code == 1 and "3" in err and "4" in err


@pytest.mark.parametrize("kind", ["chars", "bytes"])
@pytest.mark.parametrize(("length", "stride"), [(3, None), (3, 1), (5, 2), (9, 40)])
def test_a_text_is_described_as_it_is_loaded(here, kind, length, stride):
    Path("t.txt").write_text("The quick brown fox jumps over the lazy dög.\n" * 3)
    settings = {"file": "t.txt", "vocabulary": kind, "length": length}
    settings |= {"stride": stride} if stride else {}
    search = Search(None, here)
    assert describe("text", settings, search) == load("text", settings, search).schema
