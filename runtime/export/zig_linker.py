"""Shared libraries for Windows and macOS, linked by LLVM's linkers as the package `ziglang` has
them (extra `link`).

In: an object, and what of it C calls. Out: a .dll with its import library, or a .dylib, signed ad
hoc as macOS wants it on ARM. Tests: tests/runtime/test_export_elsewhere.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from ...dsl.diagnostics.diagnostic import fail
from ...dsl.files import scratch_folder
from ..training.atomic_files import write_bytes

PACKAGE = "ziglang"
OLDEST_MACOS = "11.0"  # the first on ARM
LONGEST = 600  # seconds


def dll(
    object: bytes, exports: Sequence[str], data: Sequence[str], prefix: str
) -> tuple[bytes, bytes]:
    """The library, and that with which programs are linked. UserError E0724 without the package."""
    _find()
    with scratch_folder() as folder:
        write_bytes(folder / "in.obj", object)
        library, imported = f"{prefix}.dll", f"{prefix}.lib"
        listed = [f"/export:{n}{',DATA' if n in data else ''}" for n in exports]
        # /Brepro: no time in the file
        flags = ["/dll", "/noentry", "/machine:x64", "/Brepro", *listed]
        _run(["lld-link", *flags, f"/out:{library}", f"/implib:{imported}", "in.obj"], folder)
        return (folder / library).read_bytes(), (folder / imported).read_bytes()


def dylib(object: bytes, prefix: str) -> bytes:
    """The library. UserError E0724 without the package."""
    _find()
    with scratch_folder() as folder:
        write_bytes(folder / "in.o", object)
        target = f"aarch64-macos.{OLDEST_MACOS}"
        flags = ["-dynamic", "-fno-compiler-rt", "-fstrip", "-target", target, "--name", prefix]
        _run(["build-lib", *flags, "in.o"], folder)
        return (folder / f"lib{prefix}.dylib").read_bytes()


def _find() -> None:
    """UserError E0724 if the package is not installed."""
    if find_spec(PACKAGE) is None:
        raise fail(
            "E0724",
            f"the libraries of Windows and macOS are linked by the package {PACKAGE}",
            help="install it with `pip install 'nnc-lang[link]'`, or take `--as o` and link there",
        )


def _run(command: Sequence[str], folder: Path) -> None:
    """UserError E0724 if the linker fails."""
    caches = {n: str(folder / "cache") for n in ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR")}
    done = subprocess.run(
        [sys.executable, "-m", PACKAGE, *command],
        cwd=folder, env={**os.environ, **caches}, capture_output=True, text=True, timeout=LONGEST,
    )  # fmt: skip
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise fail("E0724", f"the linker of {PACKAGE} says: {lines[0]}")
