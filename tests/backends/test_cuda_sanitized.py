"""The stand-in for the GPU under AddressSanitizer: `pytest -m slow` on this file.

What goes through the prelude's names is checked against the size of its array in every run. Here
every byte is watched that the kernels touch, by whatever name.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from gpu_simulator import available

TESTS = Path(__file__).parents[1]
SUITES = ("test_cuda.py", "test_cuda_tiles.py", "test_cuda_rounded.py", "test_cuda_recurrences.py",
          "test_cuda_attention.py", "test_cuda_attention_cores.py")  # fmt: skip

PLANTED = """
import sys
from dataclasses import replace
from gpu_simulator import library
from backends.test_cuda import _product, _ready

program = _ready(_product(40))
made = program.module
(launch,) = made.launches
name, end = {
    "shared": ("left", (launch.shared + 1024) // 1024 * 1024 // 4),
    "arena": ("t0", (len(program.arena) - launch.offsets[0]) // 4),
}[sys.argv[1]]
assert "BARRIER();" in made.kernels
text = made.kernels.replace("BARRIER();", f"BARRIER(); ((float*){name})[{end}] = 1;", 1)
program._library = library(replace(made, kernels=text))
program.run()
"""


def sanitized(*command: str) -> subprocess.CompletedProcess:
    found = subprocess.run(
        ["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not Path(found).is_file():
        pytest.skip("g++ came without AddressSanitizer")
    environment = {  # NVRTC, which is not watched, does not run so
        **os.environ,
        "LD_PRELOAD": found,
        "NNC_SIMULATOR_SANITIZE": "address",
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": str(TESTS),
        "NNC_NVRTC": "none",
    }
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=TESTS.parent,
    )


pytestmark = [pytest.mark.slow, pytest.mark.skipif(not available(), reason="needs g++")]


@pytest.mark.parametrize("suite", SUITES)
def test_no_kernel_touches_what_is_not_its_own(suite: str):
    done = sanitized("-m", "pytest", f"tests/backends/{suite}", "-q", "-p", "no:cacheprovider")
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


@pytest.mark.parametrize("memory", ["shared", "arena"])
def test_a_store_that_no_name_checks_is_caught(memory: str):
    """One element behind the end."""
    done = sanitized("-c", PLANTED, memory)
    assert done.returncode != 0 and "heap-buffer-overflow" in done.stderr, done.stderr[-2000:]
