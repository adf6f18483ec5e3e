"""A CuPy without a GPU: what `cuda.py` and `found.py` ask of it, on the CPU.

"Machine code" is the path of a library that g++ made of the CUDA source, and a launch runs its
fibers. A captured stream keeps what was enqueued and does it at every launch of the graph.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace

import numpy as np

from nnc.compiler.codegen.cuda.module import Module
from nnc.runtime.device.gpu import shim


class FakeError(Exception):
    pass


class Memory:
    def __init__(self, size: int):
        self._bytes = (ctypes.c_uint8 * size)()
        self.ptr = ctypes.addressof(self._bytes)

    def memset(self, value: int, size: int) -> None:
        ctypes.memset(self.ptr, value, size)


class Graph:
    def __init__(self, work: list[Callable[[], None]]):
        self.work = work

    def launch(self, stream) -> None:
        for each in self.work:
            each()


class Stream:
    """Nothing may be enqueued outside a capture: a run is one graph."""

    by_handle: dict[int, Stream] = {}  # noqa: RUF012

    def __init__(self, non_blocking: bool):
        assert non_blocking
        self.ptr = id(self)
        self.by_handle[self.ptr] = self
        self._work: list | None = None

    def begin_capture(self) -> None:
        self._work = []

    def end_capture(self) -> Graph:
        work, self._work = self._work, None
        assert work is not None
        return Graph(work)

    def enqueue(self, work: Callable[[], None]) -> None:
        assert self._work is not None, "a launch outside of the graph"
        self._work.append(work)

    def synchronize(self) -> None:
        pass


class Loaded:
    """`cupy.cuda.function.Module`."""

    def load(self, code: bytes) -> None:
        self._library = ctypes.CDLL(code.rstrip(b"\0").decode())
        self._library.nnc_error.restype = ctypes.c_char_p

    def get_function(self, name: str):
        entry = self._library[f"call_{name}"]

        def enqueue(grid, block, arguments, shared_mem, stream) -> None:
            assert grid[2] == block[1] == block[2] == 1
            words = np.array([int(a) for a in arguments], np.uint64)

            def work() -> None:
                self._library.nnc_begin(1, True)
                entry(words.ctypes.data_as(ctypes.c_void_p), grid[0], grid[1], block[0], shared_mem)
                assert not self._library.nnc_error(), self._library.nnc_error()

            stream.enqueue(work)

        return enqueue


def machine_code(made: Module, architecture: str) -> bytes:
    """In place of NVRTC: kernels that take their arguments as words."""
    lines = []
    for launch in {item.function: item for item in _flat(made.launches)}.values():
        count = len(launch.offsets)
        arguments = [f"nnc::Pointer{{(char*)w[{n}]}}" for n in range(count)]
        arguments += [f"(int)w[{count + n}]" for n in range(len(launch.fixed))]
        lines.append(
            f'extern "C" void call_{launch.function}(unsigned long long* w, int b, int l, int t, '
            f'int s) {{ nnc::launch("{launch.function}", b, l, t, s, '
            f"[&] {{ {launch.function}({', '.join(arguments)}); }}); }}"
        )
    text = Module(made.kernels + "\n".join(lines), (), made.arena_bytes, made.grids)
    return shim.library(text)._name.encode()


def _flat(launches):
    for item in launches:
        yield from _flat(item.launches) if hasattr(item, "launches") else (item,)


def install(patch, driver: int = 12090, made_for: int = 12090, devices: int = 1) -> None:
    """This module in the place of CuPy, with versions as wanted."""
    from nnc.runtime.device.gpu import cuda, found

    def copy(to: int, source: int, size: int, kind: int, stream: int) -> None:
        Stream.by_handle[stream].enqueue(lambda: ctypes.memmove(to, source, size))

    runtime = SimpleNamespace(
        CUDARuntimeError=FakeError,
        driverGetVersion=lambda: driver,
        runtimeGetVersion=lambda: made_for,
        getDeviceCount=lambda: devices,
        getDeviceProperties=lambda n: {
            "name": b"Fake", "major": 9, "minor": 0, "multiProcessorCount": 132,
            "maxThreadsPerMultiProcessor": 2048,
        },
        memcpyAsync=copy,
    )  # fmt: skip
    fake = ModuleType("cupy")
    fake.__version__ = "14.2.0"
    fake.__spec__ = SimpleNamespace(name="cupy")  # type: ignore[assignment]
    fake.cuda = SimpleNamespace(  # type: ignore[attr-defined]
        runtime=runtime, Stream=Stream, malloc_managed=Memory,
        function=SimpleNamespace(Module=Loaded),
        alloc_pinned_memory=lambda size: (ctypes.c_uint8 * size)(),
    )  # fmt: skip
    patch.setitem(sys.modules, "cupy", fake)
    patch.setattr(found, "driver_version", lambda: driver)
    patch.setattr(found, "cupy_packages", lambda: ("cupy-cuda12x",))
    patch.setattr(found, "_nvrtc", lambda: ("12.9", ""))
    patch.setattr(cuda, "machine_code", machine_code)
