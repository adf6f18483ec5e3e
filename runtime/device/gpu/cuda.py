"""A system on an NVIDIA GPU: one arena, and one CUDA graph that holds a whole run.

In: a `System`. Out: a `CudaProgram`. The kernels are compiled by NVRTC and kept by content; CuPy
loads and launches them. Inputs and outputs go through memory that the GPU copies itself, within the
graph. Params and states live in memory that CPU and GPU share: it stays on the GPU as long as only
kernels touch it, and moves when somebody reads or writes `arrays`. Nothing is allocated and no
Python runs between kernels.
"""

from __future__ import annotations

import ctypes
import hashlib
from functools import cached_property
from typing import Any

import numpy as np

from ....compiler.codegen.cuda.module import CPU_PASSES, Launch, Module, flat, module
from ....compiler.grids import GpuTarget
from ....compiler.ir import System
from ....compiler.kernels import Plan
from ....compiler.pipeline import plan
from ....compiler.scalar import NUMPY
from ....dsl.diagnostics import fail
from ... import cache
from . import nvrtc as compiler
from .found import Found, look

STATIC = 48 << 10  # bytes of shared memory that a block may have without asking
TO_DEVICE, TO_HOST = 1, 2  # cudaMemcpyKind
SHARED = 97  # cudaDevAttrMaxSharedMemoryPerBlockOptin


class CudaProgram:
    """A compiled system with its memory on the GPU."""

    def __init__(self, source: System | Plan):
        self.found = ready()
        import cupy  # only where it is used, and `ready` has seen that it works

        self._cupy = cupy
        self.plan = source if isinstance(source, Plan) else plan(source, without=CPU_PASSES)
        self.system = self.plan.system
        properties = cupy.cuda.runtime.getDeviceProperties(0)
        target = GpuTarget(properties["multiProcessorCount"],
                           properties["maxThreadsPerMultiProcessor"],
                           cupy.cuda.runtime.deviceGetAttribute(SHARED, 0))  # fmt: skip
        self.module = module(self.plan, target)
        self._code = cupy.cuda.function.Module()
        self._code.load(machine_code(self.module, self.found.architecture))
        self._stream = cupy.cuda.Stream(non_blocking=True)
        size = max(self.module.arena_bytes, 1)
        self._arena = cupy.cuda.malloc_managed(size)
        self._arena.memset(0, size)
        self._shared = _bytes_at(self._arena.ptr, size)
        self._copied = self._places(copied=True)
        self._pinned = cupy.cuda.alloc_pinned_memory(max(self._mirror_bytes, 1))
        self._mirror = np.frombuffer(self._pinned, np.uint8, self._mirror_bytes)
        self._mirror[:] = 0
        self.arrays = {name: self._view(name) for name in
                       (*self._copied, *self._places(copied=False))}  # fmt: skip

    @property
    def arena_bytes(self) -> int:
        return self.module.arena_bytes

    # --- memory --------------------------------------------------------------------------------

    def _places(self, copied: bool) -> dict[str, int]:
        """Inputs and outputs, which are copied, or params and states; with their offsets."""
        kinds = ("input",) if copied else ("param", "state")
        outputs = self.system.outputs if copied else ()
        return {t.name: self.plan.offsets[t.name] for t in self.system.tensors.values()
                if t.kind in kinds or t.name in outputs}  # fmt: skip

    @property
    def _mirror_bytes(self) -> int:
        return max((o + self._bytes(n) for n, o in self._copied.items()), default=0)

    def _bytes(self, name: str) -> int:
        return self.system.tensors[name].bytes

    def _view(self, name: str) -> np.ndarray:
        """Copied tensors stand in the mirror where they stand in the arena."""
        tensor, start = self.system.tensors[name], self.plan.offsets[name]
        memory = self._mirror if name in self._copied else self._shared
        raw = memory[start : start + tensor.bytes]
        return raw.view(NUMPY[tensor.dtype]).reshape(tensor.shape)

    # --- running -------------------------------------------------------------------------------

    def run(self) -> None:
        """Computes everything from the current inputs, params and states, and waits for it."""
        self._graph.launch(self._stream)
        self._stream.synchronize()

    @cached_property
    def _graph(self) -> Any:
        """A run as one graph: inputs in, every kernel, outputs out."""
        self._stream.begin_capture()
        self._enqueue()
        return self._stream.end_capture()

    def _enqueue(self) -> None:
        inputs = [n for n in self._copied if self.system.tensors[n].kind == "input"]
        outputs = [n for n in self._copied if self.system.tensors[n].kind != "input"]
        for name in inputs:
            self._copy(name, TO_DEVICE)
        functions: dict[str, Any] = {}
        for launch, fixed in flat(self.module.launches):
            arguments = (*(np.uint64(self._arena.ptr + o) for o in launch.offsets),
                         *map(np.int32, fixed))  # fmt: skip
            function = functions.get(launch.function)
            if function is None:
                function = functions[launch.function] = self._function(launch)
            function((launch.blocks, launch.layers, 1), (launch.threads, 1, 1), arguments,
                     launch.shared, self._stream)  # fmt: skip
        for name in outputs:
            self._copy(name, TO_HOST)

    def _function(self, launch: Launch) -> Any:
        function = self._code.get_function(launch.function)
        if launch.shared > STATIC:
            driver = self._cupy.cuda.driver
            driver.funcSetAttribute(
                function.ptr, driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                launch.shared,
            )
        return function

    def _copy(self, name: str, kind: int) -> None:
        offset, size = self._copied[name], self._bytes(name)
        if not size:
            return
        here, there = self._mirror.ctypes.data + offset, self._arena.ptr + offset
        to, source = (there, here) if kind == TO_DEVICE else (here, there)
        self._cupy.cuda.runtime.memcpyAsync(to, source, size, kind, self._stream.ptr)


def ready() -> Found:
    """What was found, if a GPU can be used. UserError E0720 otherwise."""
    found = look()
    if found.problem:
        raise fail("E0720", f"the device `cuda` cannot run: {found.problem}", help=found.remedy)
    return found


def machine_code(made: Module, architecture: str) -> bytes:
    """The cubin of a module: kept from an earlier run, or compiled now."""
    library = compiler.nvrtc()
    parts = (made.source, architecture, *map(str, library.version), *compiler.FLAGS)
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}\n{part}\n".encode())
    name = f"{digest.hexdigest()}.cubin"
    kept = cache.kernels()
    found = kept.read(name) if kept else None
    if found is not None:
        return found
    code = library.cubin(made.source, architecture).code
    if kept:
        kept.write(name, code)
    return code


def _bytes_at(address: int, size: int) -> np.ndarray:
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
