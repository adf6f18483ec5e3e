"""How much memory compiling takes, before a program has any for its values."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

NETWORKS = Path(__file__).parents[2] / "benchmarks"
# Bytes of the whole process, interpreter and LLVM included, without pages of files: of LLVM's
# library of 170 MB the kernel maps 65 or 110 MB, as the file's pages lie in its cache, and can have
# them back at any time.
MOST = 120e6

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
    kilobytes = {}
    for line in open("/proc/self/status"):
        name, value = line.split(":", 1)
        if name in ("VmHWM", "RssFile"):
            kilobytes[name] = int(value.split()[0])
    print((kilobytes["VmHWM"] - kilobytes["RssFile"]) * 1024)
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
    assert 20e6 < int(ran.stdout) < MOST
