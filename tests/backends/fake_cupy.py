"""A CuPy without a GPU: what `program.py` and `discovery.py` call, on the CPU.

"Machine code" is the path of a library that g++ made of the CUDA source, and a launch runs its
fibers. A captured stream keeps what was enqueued and does it at every launch of the graph.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import gpu_simulator
import numpy as np

from nnc.compiler.codegen.cuda.module import Module


class FakeError(Exception):
    pass


class Memory:
    def __init__(self, size: int):
        self._bytes = (ctypes.c_uint8 * size)()
        self.ptr = ctypes.addressof(self._bytes)

    def memset(self, value: int, size: int) -> None:
        ctypes.memset(self.ptr, value, size)


class Graph:
    launches = 0  # of all graphs

    def __init__(self, work: list[Callable[[], None]]):
        self.work = work

    def launch(self, stream) -> None:
        Graph.launches += 1
        for each in self.work:
            each()


class Event:
    """Each is recorded a millisecond after the one before. Who has events measures, and may launch
    one by one."""

    clock = 0

    def __init__(self):
        Stream.one_by_one = True

    def record(self, stream: Stream) -> None:
        Event.clock += 1
        self.at = Event.clock


class Stream:
    """A run is one graph: nothing may be enqueued outside of it, unless it is to be measured."""

    one_by_one = False
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
        if self._work is not None:
            self._work.append(work)
            return
        assert Stream.one_by_one, "a launch outside of the graph"
        work()

    def synchronize(self) -> None:
        pass


class Function:
    """`cupy.cuda.function.Function`: a launch is enqueued. It may have 48 KB of shared memory for a
    block, or as much as was asked for."""

    by_handle: dict[int, Function] = {}  # noqa: RUF012

    def __init__(self, launch: Callable[..., None]):
        self._launch, self.most = launch, 48 << 10
        self.ptr = id(self)
        self.by_handle[self.ptr] = self

    def __call__(self, grid, block, arguments, shared_mem, stream) -> None:
        assert shared_mem <= self.most, "more shared memory than was asked for"
        self._launch(grid, block, arguments, shared_mem, stream)


def set_attribute(function: int, attribute: int, value: int) -> None:
    assert attribute == 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    Function.by_handle[function].most = value


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

        return Function(enqueue)


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
    text = replace(made, kernels=made.kernels + "\n".join(lines), launches=())
    return gpu_simulator.library(text)._name.encode()


def _flat(launches):
    for item in launches:
        yield from _flat(item.launches) if hasattr(item, "launches") else (item,)


def install(
    patch, driver: int = 12090, made_for: int = 12090, devices: int = 1, free: int = 1 << 36
) -> None:
    """This module in the place of CuPy, with versions and free memory as wanted."""
    from nnc.runtime.device.cuda import discovery as found
    from nnc.runtime.device.cuda import program as cuda

    def copy(to: int, source: int, size: int, kind: int, stream: int) -> None:
        Stream.by_handle[stream].enqueue(lambda: ctypes.memmove(to, source, size))

    def copy_now(to: int, source: int, size: int, kind: int) -> None:
        ctypes.memmove(to, source, size)

    Stream.one_by_one = False
    functions = SimpleNamespace(
        funcSetAttribute=set_attribute,
        funcGetAttribute=lambda kind, function: {1: 0, 3: 0, 4: 40}[kind],
        occupancyMaxActiveBlocksPerMultiprocessor=lambda function, threads, shared: 4,
    )
    runtime = SimpleNamespace(
        deviceGetAttribute=lambda kind, device: {
            13: 1_980_000,
            36: 2_619_000,
            37: 5120,
            97: 227 << 10,
        }[kind],
        CUDARuntimeError=FakeError,
        driverGetVersion=lambda: driver,
        runtimeGetVersion=lambda: made_for,
        getDeviceCount=lambda: devices,
        getDeviceProperties=lambda n: {
            "name": b"Fake",
            "major": 9,
            "minor": 0,
            "multiProcessorCount": 132,
            "maxThreadsPerMultiProcessor": 2048,
        },
        memcpyAsync=copy,
        memcpy=copy_now,
        memGetInfo=lambda: (free, free),
    )
    fake = ModuleType("cupy")
    fake.__version__ = "14.2.0"
    fake.__spec__ = SimpleNamespace(name="cupy")  # type: ignore[assignment]
    fake.cuda = SimpleNamespace(  # type: ignore[attr-defined]
        runtime=runtime,
        driver=functions,
        Stream=Stream,
        malloc_managed=Memory,
        Memory=Memory,
        Event=Event,
        get_elapsed_time=lambda begin, end: float(end.at - begin.at),
        function=SimpleNamespace(Module=Loaded),
        alloc_pinned_memory=lambda size: (ctypes.c_uint8 * size)(),
    )
    patch.setitem(sys.modules, "cupy", fake)
    patch.setattr(found, "driver_version", lambda: driver)
    patch.setattr(found, "cupy_packages", lambda: ("cupy-cuda12x",))
    patch.setattr(found, "_nvrtc", lambda: ("12.9", ""))
    patch.setattr(cuda, "machine_code", machine_code)
