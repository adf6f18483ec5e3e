"""The instructions of a cubin, as NVIDIA's disassembler reads them; it needs no GPU.

In: machine code of NVRTC's. Out: how often each kernel has which instruction, by its full name,
such as `LDGSTS.E.BYPASS.128`. What must be among them is in `gates.py`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

INSTALL = "pip install -e '.[cuda-tests]'"

_SECTION = re.compile(r"\s*\.section\s+(?:\.text\.)?([\w.]+),")
_INSTRUCTION = re.compile(r"\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)")


@cache
def nvdisasm() -> str:
    """The program's path: of the packages of this Python, of a CUDA toolkit, or any; "" if there is
    none."""
    home = os.environ.get("CUDA_HOME") or "/usr/local/cuda"
    found = [f for p in sys.path if p for f in Path(p, "nvidia").glob("*/bin/nvdisasm")]
    toolkit = shutil.which("nvdisasm", path=f"{home}/bin{os.pathsep}{os.environ.get('PATH', '')}")
    return str(found[0]) if found else toolkit or ""


def instructions_or_skip(code: bytes) -> dict[str, Counter[str]]:
    """By kernel."""
    if not nvdisasm():
        pytest.skip(f"nvdisasm, which reads machine code, is not installed: {INSTALL}")
    with TemporaryDirectory() as folder:
        path = Path(folder, "module.cubin")
        path.write_bytes(code)
        made = subprocess.run([nvdisasm(), "-c", path], capture_output=True, text=True, check=True)
    return counted(made.stdout)


def counted(text: str) -> dict[str, Counter[str]]:
    """The instructions of every kernel in a listing."""
    found: dict[str, Counter[str]] = {}
    own: Counter[str] = Counter()
    for line in text.splitlines():
        if section := _SECTION.match(line):
            own = found.setdefault(section[1], Counter())
        elif instruction := _INSTRUCTION.match(line):
            own[instruction[1]] += 1
    return {name: counts for name, counts in found.items() if counts}
