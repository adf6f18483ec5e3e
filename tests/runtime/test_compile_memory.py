"""How much memory compiling takes, before a program has any for its values."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

NETWORKS = Path(__file__).parents[2] / "benchmarks"
MOST = 200e6  # bytes of the whole process, interpreter and LLVM included

CODE = """
import sys
from pathlib import Path
from nnc.runtime.device import DEVICES
from nnc.runtime.device.cpu.program import CpuProgram
from nnc.runtime.project import open_project, setup_of
from nnc.runtime.training.executor import Executor

find_code = CpuProgram._find_code

def measured(self):
    find_code(self)
    # Not `ru_maxrss`, in which a process begins with what the one that started it has.
    lines = open("/proc/self/status").read().splitlines()
    print(*[line.split()[1] for line in lines if line.startswith("VmHWM")])
    sys.exit()

CpuProgram._find_code = measured
setup = setup_of(open_project(Path(sys.argv[1])), None)
Executor(setup, DEVICES["cpu"](2), 1).training(setup.batch)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="read from /proc")
@pytest.mark.parametrize(
    "name",
    ["mlp", *(pytest.param(f"wide/{n}", marks=pytest.mark.slow) for n in ("mobile", "gpt384"))],
)
def test_compiling_takes_little_memory(name, tmp_path, monkeypatch):
    monkeypatch.setenv("NNC_CACHE", str(tmp_path))
    command = [sys.executable, "-c", CODE, str(NETWORKS / f"{name}.nn")]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 20e6 < int(ran.stdout) * 1024 < MOST
