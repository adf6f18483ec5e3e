"""This computer, as far as machine code is concerned, found out without LLVM.

In: nothing. Out: `description`, which differs where machine code may differ, and `flags`, what the
operating system says that the processor can do.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from functools import cache
from pathlib import Path

# the lines of /proc/cpuinfo that say what the processor is; others change from core to core
TELLING = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags", "Features",
           "CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision",
           "isa", "cpu", "machine", "features", "processor type")  # fmt: skip


@cache
def description() -> str:
    """Operating system and processor with all its abilities."""
    lines = [sys.platform, platform.machine(), str(sys.maxsize)]
    if sys.platform == "darwin":
        return "\n".join([*lines, platform.release(), _apple("machdep.cpu.brand_string")])
    found = [f"{name}: {value}" for name, value in _first_core().items() if name in TELLING]
    return "\n".join([*lines, *(found or [platform.processor()])])


def flags() -> frozenset[str]:
    """The processor's abilities in Linux's spelling; empty where they are not listed."""
    return frozenset(_first_core().get("flags", "").split())


@cache
def _first_core() -> dict[str, str]:
    """What /proc/cpuinfo says of the first core; nothing where there is no such file."""
    found = {}
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
            for line in file:
                name, colon, value = line.partition(":")
                if not colon:
                    break
                found[name.strip()] = value.strip()
    except OSError:
        return {}
    return found


def _apple(name: str) -> str:
    """A setting of macOS's kernel, as text."""
    size = ctypes.c_size_t(256)
    text = ctypes.create_string_buffer(size.value)
    library = ctypes.CDLL(None)
    failed = library.sysctlbyname(name.encode(), text, ctypes.byref(size), None, ctypes.c_size_t(0))
    return "" if failed else text.value.decode(errors="replace")
