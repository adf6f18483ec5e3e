"""Many runs in one launch, on examples that the GPU holds.

In: a program and the columns of its inputs. Out: for batches of row numbers, what every run
measures. A launch is one graph:

    row numbers in; then for every run: `feed`, the kernels; measured numbers out

`feed` gathers a batch from the columns, writes the number of the step, and saves what the run
before it measured. The kernels and their order are those of a single run, and so are the bits. How
many runs are one launch is fixed by `rule`, which looks at no clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol
from weakref import proxy

import numpy as np

from ....compiler.codegen.cuda.instructions import MEMORY
from ....compiler.codegen.cuda.module import Module
from ....compiler.ir.equation import System, Tensor
from ....compiler.ir.functions import of_halves
from ....compiler.ir.work import flops
from ....compiler.passes.gpu.launch_ir import Launch
from ..bf16_arrays import is_converted
from .resident_data import Column

LAUNCH_US = 3.0  # what a kernel takes at least, with what the next one waits for
GFLOP_US = 50.0  # 10^9 operations of products at 20 TFLOP/s
WANTED_US = 1000.0  # of one launch: enough for Python's part of it to be little
MOST = 64
WORD = 8  # bytes of a row number, and of the place of a measured number
BLOCK = 256
TO_DEVICE, TO_HOST, ON_DEVICE = 1, 2, 3  # cudaMemcpyKind


def estimate(launches: int, system: System) -> float:
    """Microseconds of a run, roughly."""
    # products alone: other operations take little beside them, or beside their launch
    gflop = sum(flops(eq, system) for eq in system.equations) / 1e9
    return LAUNCH_US * launches + GFLOP_US * gflop


def rule(microseconds: float) -> int:
    """How many runs are one launch: as many as are estimated to take a millisecond."""
    # by the estimate alone: a clock would make it depend on how busy the computer is
    return int(min(max(WANTED_US // microseconds, 1), MOST))


class LaunchedProgram(Protocol):
    """What batched runs need of a program on the GPU (`program.py` has the one there is)."""

    system: System
    stream: Any
    cupy: Any

    @property
    def together(self) -> int: ...

    def load(self, module: Module) -> Any: ...

    def copy(self, name: str, kind: int) -> None: ...

    def address(self, name: str) -> int: ...

    def enqueue_kernels(self) -> None: ...


class BatchedRuns:
    """A program's runs on the examples of one split."""

    def __init__(self, program: LaunchedProgram, columns: Sequence[Column]):
        self.program, self.columns = proxy(program), columns  # it is the program that holds this
        tensors = program.system.tensors
        # scalars only: the loss and the metrics
        self.kept = [n for n in program.system.outputs if not tensors[n].shape]
        # all fields have the batch as their first dimension
        self.batch = tensors[columns[0].name].shape[0]
        most, cuda = program.together, program.cupy.cuda
        self._sent_bytes = WORD * (1 + self.batch)  # of one run: the number of its step, its rows
        self._came_bytes = WORD * len(self.kept)
        # Rows of all runs, then a ring of measured numbers. It has one slot more than there are
        # runs: the feed of run n stores what run n - 1 measured into slot n, and slot 0 is never
        # read.
        self._device = cuda.Memory(most * self._sent_bytes + (most + 1) * self._came_bytes)
        self._ring = self._device.ptr + most * self._sent_bytes
        sizes = most * self._sent_bytes, most * self._came_bytes
        # pinned: the graph copies from and to it without the CPU
        self._pinned = [cuda.alloc_pinned_memory(max(size, 1)) for size in sizes]
        sent, came = (
            np.frombuffer(memory, np.uint8, size)
            for memory, size in zip(self._pinned, sizes, strict=True)
        )
        # [runs, 1 + batch]: the number of the step, then the rows
        self._sent = sent.view(np.int64).reshape(most, 1 + self.batch)
        self._came = came.reshape(most, self._came_bytes)
        self._code = program.load(feed(columns, self.batch, program.system, self.kept))
        self._feed = self._code.get_function("feed")
        # by the number of runs in a graph: as many as fit, or one
        self._graphs: dict[int, Any] = {}

    def run(self, rows: np.ndarray, numbers: Sequence[int]) -> Mapping[str, np.ndarray]:
        """`Batched.run_many`: full launches as one graph, fewer runs one by one."""
        # a rest runs one by one: a graph of its own for every length would rarely be used twice
        count = len(self._sent) if len(rows) == len(self._sent) else 1
        parts = [
            self._launch(rows[at : at + count], numbers[at : at + count])
            for at in range(0, len(rows), count)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in self.kept}

    def _launch(self, rows: np.ndarray, numbers: Sequence[int]) -> dict[str, np.ndarray]:
        count = len(rows)
        # written before the launch: the graph copies from here
        self._sent[:count, 0], self._sent[:count, 1:] = numbers, rows
        graph = self._graphs.get(count)
        if graph is None:
            graph = self._graphs[count] = self._captured(count)
        graph.launch(self.program.stream)
        self.program.stream.synchronize()
        tensors, came = self.program.system.tensors, self._came[:count]
        # every number has a word of 8 bytes, of which its type may need the first 4 alone
        words = {
            name: came[:, WORD * n : WORD * (n + 1)].copy() for n, name in enumerate(self.kept)
        }
        return {n: _numbers(word, tensors[n]) for n, word in words.items()}

    def _captured(self, count: int) -> Any:
        stream = self.program.stream
        stream.begin_capture()
        self._enqueue(count)
        return stream.end_capture()

    def _enqueue(self, count: int) -> None:
        program = self.program
        device = self._device.ptr
        # the same for all runs; it lies in the program's own array, not among the rows
        if "seed" in program.system.tensors:
            program.copy("seed", TO_DEVICE)
        self._copy(device, self._sent.ctypes.data, count * self._sent_bytes, TO_DEVICE)
        for number in range(count):
            self._enqueue_feed(
                device + number * self._sent_bytes, self._ring + number * self._came_bytes
            )
            program.enqueue_kernels()
        # nobody feeds after the last run, so what it measured is copied here
        last = self._ring + count * self._came_bytes
        for n, name in enumerate(self.kept):
            size = program.system.tensors[name].bytes
            self._copy(last + WORD * n, program.address(name), size, ON_DEVICE)
        # without slot 0, which belongs to no run
        self._copy(
            self._came.ctypes.data, self._ring + self._came_bytes, count * self._came_bytes, TO_HOST
        )

    def _enqueue_feed(self, sent: int, before: int) -> None:
        """`before` is where the run before this one leaves what it measured; before the first it is
        a place that nobody reads."""
        program = self.program
        # in the order of `feed`'s parameters
        words = [sent]
        if "step" in program.system.tensors:
            words.append(program.address("step"))
        for column in self.columns:
            words += [column.address, program.address(column.name)]
        for n, name in enumerate(self.kept):
            words += [program.address(name), before + WORD * n]
        self._feed(
            (feed_blocks(self.columns, self.batch), 1, 1),
            (BLOCK, 1, 1),
            tuple(map(np.uint64, words)),
            0,
            program.stream,
        )

    def _copy(self, to: int, source: int, size: int, kind: int) -> None:
        if size:
            runtime = self.program.cupy.cuda.runtime
            runtime.memcpyAsync(to, source, size, kind, self.program.stream.ptr)


def _numbers(words: np.ndarray, tensor: Tensor) -> np.ndarray:
    """The first element of the type in each word."""
    if is_converted(tensor):
        return of_halves(words.view(np.uint16)[:, 0], tensor.storage)
    return words.view(tensor.array_type)[:, 0]


# --- the kernel -----------------------------------------------------------------------------------


def feed(columns: Sequence[Column], batch: int, system: System, kept: Sequence[str]) -> Module:
    """The kernel `feed` for these inputs and measured numbers."""
    # one thread for each element of the batch's widest field; narrower ones stop earlier
    parameters, lines, sent = ["const i64* sent"], [], 1 + batch
    if "step" in system.tensors:
        parameters.append("i32* step")
        lines.append(f"  if (at == 0) AT(step, 0, 1) = (i32)AT(sent, 0, {sent});")
    for n, column in enumerate(columns):
        size, width, step, count = batch * column.width, column.width, column.step, column.count
        kind = MEMORY[column.dtype]
        parameters += [f"const {kind}* data{n}", f"{kind}* field{n}"]
        # the row of the thread's example, where that begins in memory, and the element within
        place = f"AT(sent, 1 + at / {width}, {sent}) * {step} + at % {width}"
        lines += [
            f"  if (at < {size})",
            f"    AT(field{n}, at, {size}) = AT(data{n}, {place}, {count}LL);",
        ]
    # before this run's kernels overwrite what the last run measured
    for n, name in enumerate(kept):
        dtype = MEMORY[system.tensors[name].storage_dtype]
        parameters += [f"const {dtype}* measured{n}", f"{dtype}* before{n}"]
        lines.append(f"  if (at == 0) AT(before{n}, 0, 1) = AT(measured{n}, 0, 1);")
    text = "\n".join(
        [
            f"KERNEL({BLOCK}, 1) feed({', '.join(parameters)}) {{",
            f"  const i64 at = (i64)BLOCK * {BLOCK} + THREAD;",
            *lines,
            "}",
            "",
        ]
    )
    blocks = feed_blocks(columns, batch)
    launch = Launch("feed", blocks, 1, BLOCK, 0, (0,) * len(parameters))
    return Module(text, (launch,), 0)


def feed_blocks(columns: Sequence[Column], batch: int) -> int:
    return -(-batch * max(column.width for column in columns) // BLOCK)
