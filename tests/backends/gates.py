"""What NVRTC must say of every kernel: nothing spilled, few registers."""

from __future__ import annotations

import re

import pytest

from nnc.compiler.codegen.cuda.module import Module
from nnc.compiler.grids import BLOCK, RESIDENT
from nnc.runtime.device.gpu.nvrtc import NoNvrtc, Nvrtc, nvrtc

REGISTERS, MOST = 1 << 16, 255  # of a processor, and of a thread


def nvrtc_or_skip() -> Nvrtc:
    try:
        return nvrtc()
    except NoNvrtc as error:
        pytest.skip(str(error))


def has_sine(source: str, kernel: str) -> bool:
    """Whether a kernel, or a function that it calls, takes a sine or cosine."""
    texts = {}
    for text in re.split(r"\n(?=KERNEL|DEVICE void)", source):
        if found := re.match(r"(?:KERNEL\([\d, ]+\)|DEVICE void) (\w+)\(", text):
            texts[found[1]] = text.partition("\n}")[0]
    own = texts[kernel]
    called = [text for name, text in texts.items() if f" {name}(" in own]
    return any(re.search(r"\b(sin|cos)f?\(", text) for text in called)


def check_usage(made: Module, architecture: str) -> None:
    usage = nvrtc_or_skip().cubin(made.source, architecture).usage
    assert set(usage) == made.entries
    for name, used in usage.items():
        assert used.spilled == 0, (name, used)
        # sines of large numbers multiply by many digits of 2/pi, which CUDA keeps in an array
        assert used.stack <= 32 * has_sine(made.source, name), (name, used)
        grid = made.grids.get(name)
        threads = grid.threads * grid.resident if grid else BLOCK * RESIDENT
        assert used.registers <= min(REGISTERS // threads, MOST), (name, used)
