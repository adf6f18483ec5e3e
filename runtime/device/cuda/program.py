"""A system on an NVIDIA GPU: one arena, and one CUDA graph that holds a whole run.

In: a `System`. Out: a `CudaProgram`. The kernels are compiled by NVRTC and kept by content; CuPy
loads and launches them. Inputs and outputs go through memory that the GPU copies itself, within the
graph. Params and states live in memory that CPU and GPU share: it stays on the GPU as long as only
kernels touch it, and moves when somebody reads or writes `arrays`. Nothing is allocated and no
Python runs between kernels. `batched_launches.py` runs batches of examples that the GPU holds.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from time import perf_counter
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from ....compiler.codegen.cuda.module import Module
from ....compiler.ir.equation import System
from ....compiler.passes.gpu.launch_ir import Launch, unrolled_launches
from ....compiler.passes.kernels.kernel import Plan
from ....compiler.pipeline import generate, plan
from ....compiler.targets import GpuTarget
from ....dsl.diagnostics.diagnostic import fail
from ... import cache
from ..bf16_arrays import Bf16Arrays, is_converted, memory_array, readable
from . import nvrtc as compiler
from .batched_launches import BatchedRuns, estimate, rule
from .discovery import Found, look
from .resident_data import NotResident, columns

if TYPE_CHECKING:
    from ...data import Split

STATIC = 48 << 10  # bytes of shared memory that a block may have without asking
MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, to ask with
TO_DEVICE, TO_HOST = 1, 2  # cudaMemcpyKind
ALIGNMENT = 64  # bytes
SHARED = 97  # cudaDevAttrMaxSharedMemoryPerBlockOptin


class CudaProgram:
    """A compiled system with its memory on the GPU."""

    def __init__(self, source: System | Plan):
        self.found = ready()
        import cupy  # only where it is used, and `ready` has seen that it works

        self.cupy = cupy
        # this GPU's own numbers: how many blocks fit decides about split-K and tiles
        properties = cupy.cuda.runtime.getDeviceProperties(0)
        target = GpuTarget(
            self.found.architecture,
            properties["multiProcessorCount"],
            properties["maxThreadsPerMultiProcessor"],
            cupy.cuda.runtime.deviceGetAttribute(SHARED, 0),
        )
        self.plan = source if isinstance(source, Plan) else plan(source, target)
        self.system = self.plan.system
        self.module = generate(self.plan, target)
        # NVRTC alone, or reading what it made before; the passes are not counted
        began = perf_counter()
        self._code = self.load(self.module)
        self.compile_seconds = perf_counter() - began
        # does not wait for the default stream, which other libraries may use
        self.stream = cupy.cuda.Stream(non_blocking=True)
        # CUDA does not allocate 0 bytes
        size = max(self.module.arena_bytes, 1)
        # managed memory has one address for CPU and GPU; its pages move to who touches them
        self._arena = cupy.cuda.malloc_managed(size)
        self._arena.memset(0, size)
        # a NumPy array over the same bytes
        self._shared = _bytes_at(self._arena.ptr, size)
        # Inputs and outputs have pinned memory of their own instead, which the GPU copies itself:
        # they are touched by the CPU at every step, and pages would move each time.
        self._copied, size = self._mirror_places()
        self._pinned = cupy.cuda.alloc_pinned_memory(max(size, 1))
        self._mirror = np.frombuffer(self._pinned, np.uint8, size)
        self._mirror[:] = 0
        # an output that is a param or a state as well is overwritten here by its place in the arena
        self.arrays = {name: self._in(self._mirror, name, o) for name, o in self._copied.items()}
        self.arrays |= {
            t.name: self._in(self._shared, t.name, self.plan.offsets[t.name])
            for t in self.system.tensors.values()
            if t.kind in ("param", "state")
        }
        # numbers of bf16, which NumPy has not, have arrays of their own
        tensors = self.system.tensors
        bf16 = {n: a for n, a in self.arrays.items() if is_converted(tensors[n])}
        self._bf16 = Bf16Arrays(self.system, bf16)
        self.arrays |= self._bf16.arrays
        self._functions: dict[str, Any] = {}
        # weak: what the GPU holds for a split goes with the split
        self._rounds: WeakKeyDictionary[Split, BatchedRuns | None] = WeakKeyDictionary()
        self._held: BatchedRuns | None = None
        self.not_held = ""  # why the examples of the last `hold` are not on the GPU

    @property
    def arena_bytes(self) -> int:
        return self.module.arena_bytes

    @property
    def launches(self) -> int:
        """How many kernels a run launches."""
        return sum(1 for _ in unrolled_launches(self.module.launches))

    def load(self, made: Module) -> Any:
        """The module's machine code on the GPU."""
        code = self.cupy.cuda.function.Module()
        code.load(machine_code(made, self.found.architecture))
        return code

    # --- memory --------------------------------------------------------------------------------

    def _mirror_places(self) -> tuple[dict[str, int], int]:
        """Where inputs and outputs, which are copied, have their arrays; and bytes in all."""
        places, size = {}, 0
        for tensor in self.system.tensors.values():
            if tensor.kind == "input" or tensor.name in self.system.outputs:
                places[tensor.name] = size
                # rounded up to lines of memory
                size += -(-tensor.bytes // ALIGNMENT) * ALIGNMENT
        return places, size

    def view(self, name: str) -> np.ndarray:
        """The tensor's place in the arena as an array, between runs."""
        found = self._in(self._shared, name, self.plan.offsets[name])
        return readable(found, self.system.tensors[name])

    def _in(self, memory: np.ndarray, name: str, start: int) -> np.ndarray:
        tensor = self.system.tensors[name]
        return memory_array(memory[start : start + tensor.bytes], tensor)

    # --- running -------------------------------------------------------------------------------

    def run(self) -> None:
        """Computes everything from the current inputs, params and states, and waits for it."""
        self._bf16.store()
        self._graph.launch(self.stream)
        self.stream.synchronize()
        self._bf16.load()

    @cached_property
    def _graph(self) -> Any:
        """A run as one graph: inputs in, every kernel, outputs out."""
        # captured at the first run, then launched as a whole: no Python between kernels
        self.stream.begin_capture()
        self._enqueue()
        return self.stream.end_capture()

    def _enqueue(self) -> None:
        self.enqueue_inputs()
        self.enqueue_kernels()
        # and back only what was computed
        for name in self._copied:
            if self.system.tensors[name].kind != "input":
                self.copy(name, TO_HOST)

    def enqueue_inputs(self) -> None:
        for name in self._copied:
            if self.system.tensors[name].kind == "input":
                self.copy(name, TO_DEVICE)

    def enqueue_kernels(self) -> None:
        """All kernels of a run, on what lies in the arena."""
        for launch, arguments in self.calls():
            self.enqueue(launch, arguments)

    def calls(self) -> Iterator[tuple[Launch, tuple]]:
        """Every launch of a run in order with its arguments."""
        # loops over launches are unrolled: a graph has no loops
        for launch, fixed in unrolled_launches(self.module.launches):
            yield (
                launch,
                (
                    # addresses of the tensors first, then the values of loop indices
                    *map(np.uint64, map(self._arena.ptr.__add__, launch.offsets)),
                    *map(np.int32, fixed),
                ),
            )

    def enqueue(self, launch: Launch, arguments: tuple) -> None:
        self.function(launch)(
            # parts of split-K are the second dimension of the grid
            (launch.blocks, launch.layers, 1),
            (launch.threads, 1, 1),
            arguments,
            launch.shared,
            self.stream,
        )

    def function(self, launch: Launch) -> Any:
        """The kernel, allowed as much shared memory as it needs."""
        function = self._functions.get(launch.function)
        # looked up once: a recurrence launches the same function many times
        if function is None:
            function = self._functions[launch.function] = self._looked_up(launch)
        return function

    def _looked_up(self, launch: Launch) -> Any:
        function = self._code.get_function(launch.function)
        # beyond 48 KB a kernel must ask, or its launch fails
        if launch.shared > STATIC:
            self.cupy.cuda.driver.funcSetAttribute(function.ptr, MAX_DYNAMIC_SHARED, launch.shared)
        return function

    def copy(self, name: str, kind: int) -> None:
        """Enqueue the copy of an input or output between its array and the arena."""
        here, there = self._mirror.ctypes.data + self._copied[name], self.address(name)
        size = self.system.tensors[name].bytes
        # an empty tensor has no bytes to copy
        if not size:
            return
        # direction as CUDA counts it: to the device from here, or the other way round
        to, source = (there, here) if kind == TO_DEVICE else (here, there)
        self.cupy.cuda.runtime.memcpyAsync(to, source, size, kind, self.stream.ptr)

    def address(self, name: str) -> int:
        """Where a tensor is on the GPU."""
        return self._arena.ptr + self.plan.offsets[name]

    # --- on examples that the GPU holds ---------------------------------------------------------

    @cached_property
    def estimate(self) -> float:
        """Microseconds of a run, roughly."""
        return estimate(self.launches, self.system)

    @property
    def together(self) -> int:
        """How many runs are one launch."""
        return rule(self.estimate)

    @property
    def rule(self) -> str:
        """Why so many."""
        return f"a step is estimated at {self.estimate:.0f} µs, and a launch is to take 1000"

    def hold(self, split: Split) -> int:
        """`Batched.hold`."""
        # what cannot be held is remembered as well, or every step would try again
        if split not in self._rounds:
            try:
                self._rounds[split] = BatchedRuns(self, columns(self.cupy, split, self.system))
            except NotResident as reason:
                self._rounds[split], self.not_held = None, str(reason)
        self._held = self._rounds[split]
        return self.together if self._held else 0

    def run_many(self, rows: np.ndarray, numbers: Sequence[int]) -> Mapping[str, np.ndarray]:
        """`Batched.run_many`."""
        assert self._held is not None
        self._bf16.store()
        found = self._held.run(rows, numbers)
        self._bf16.load()
        return found


def ready() -> Found:
    """What was found, if a GPU can be used. UserError E0720 otherwise."""
    found = look()
    if found.problem:
        raise fail("E0720", f"the device `cuda` cannot run: {found.problem}", help=found.remedy)
    return found


def machine_code(made: Module, architecture: str) -> bytes:
    """The cubin of a module: kept from an earlier run, or compiled now."""
    library = compiler.nvrtc()
    # All that decides on the machine code: source, GPU, compiler, flags.
    parts = (made.source, architecture, *map(str, library.version), *compiler.FLAGS)
    digest = hashlib.sha256()
    for part in parts:
        # with its length, so that no two lists of parts give the same text
        digest.update(f"{len(part)}\n{part}\n".encode())
    name = f"{digest.hexdigest()}.cubin"
    # `kernel_cache` is None where nothing may be kept
    kept = cache.kernel_cache()
    found = kept.read(name) if kept else None
    if found is not None:
        return found
    code = library.cubin(made.source, architecture).code
    if kept:
        kept.write(name, code)
    return code


def _bytes_at(address: int, size: int) -> np.ndarray:
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
