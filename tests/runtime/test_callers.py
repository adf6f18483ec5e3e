"""The programs of examples/callers, in several languages, teach one library the same to the bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from exported import run, tool
from small_programs import write

from nnc.runtime import cli
from nnc.runtime.device.cpu import elf_linker

pytestmark = pytest.mark.skipif(not elf_linker.supported(), reason="for x86-64 Linux")

ROOT = Path(__file__).parents[2]
CALLERS = ROOT / "examples" / "callers"
FLAGS = ["-Idigits_c", "-Ldigits_c", "-ldigits"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where digits_c is, as the programs say."""
    found = tmp_path_factory.mktemp("callers")
    program = ROOT / "examples" / "cnn_digits.nn"
    assert cli.run(["export", str(program), "--to", str(found / "digits_c")]) == 0
    return found


@pytest.fixture(scope="module")
def expected(folder) -> str:
    """What the program in C prints."""
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic"]
    there = f"-Wl,-rpath,{folder}/digits_c"
    run([tool("gcc"), *flags, CALLERS / "teach.c", "-o", "teach", *FLAGS, there], folder)
    said = run(["./teach", "digits_c/weights.bin"], folder)
    assert "0 is read as 0" in said and "1 is read as 1" in said and said.count("loss") == 2
    return said


def without_nnc(folder: Path, program: str) -> str:
    """What Python prints that finds no nnc."""
    kept = {n: v for n, v in os.environ.items() if n != "PYTHONPATH"}
    hidden = "import sys, runpy; sys.modules['nnc'] = None; sys.argv = sys.argv[1:]; "
    command = [sys.executable, "-c", hidden + "runpy.run_path(sys.argv[0])"]
    done = subprocess.run(
        [*command, str(CALLERS / program), "digits_c"],
        cwd=folder, env=kept, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_ctypes(folder, expected):
    assert without_nnc(folder, "with_ctypes.py") == expected


@pytest.mark.slow
def test_cffi(folder, expected):
    pytest.importorskip("cffi")
    assert without_nnc(folder, "with_cffi.py") == expected


@pytest.mark.slow
def test_go(folder, expected):
    tool("gcc")
    there = f"{folder}/digits_c"
    flags = {
        "CGO_ENABLED": "1", "CGO_CFLAGS": f"-I{there}", "GOCACHE": f"{folder}/cache",
        "CGO_LDFLAGS": f"-L{there} -ldigits -Wl,-rpath,{there}", "GOFLAGS": "-mod=mod",
    }  # fmt: skip
    done = subprocess.run(
        [tool("go"), "run", str(CALLERS / "teach.go"), "digits_c/weights.bin"],
        cwd=folder, env={**os.environ, **flags}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == expected


@pytest.mark.slow
def test_wrong_weights_are_said(folder, expected):
    short = folder / "short.bin"
    short.write_bytes(b"nnc")
    done = subprocess.run(["./teach", "short.bin"], cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "usage: teach weights.bin\n")


@pytest.mark.slow
@pytest.mark.parametrize("level", ["x86-64-v3", "x86-64-v4"])
def test_an_older_processor_is_told_at_run_time(tmp_path, level):
    """An emulated Nehalem has SSE4.2 and no AVX: a code and its text, no illegal instruction."""
    emulator = tool("qemu-x86_64")
    command = ["export", str(write(tmp_path)), "--to", str(tmp_path / "c"), "--target", level]
    assert cli.run([*command, "--as", "o"]) == 0
    run([tool("gcc"), "main.c", "small.o", "-o", "main"], tmp_path / "c")
    done = subprocess.run(
        [emulator, "-cpu", "Nehalem", "./main"],
        cwd=tmp_path / "c", capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert "small_check: this processor lacks instructions" in done.stderr
