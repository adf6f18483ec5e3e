"""A persistent loop as one CUDA C++ function: a recurrence whose blocks go through all steps.

In: a `PersistentLoop`, in which every decision stands. Out: the text of its function. A thread
works on *items*: an item is one element of the step for `rows_at_once` rows. Items are the elements
for the first of these rows, then those for the next.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...ir.expr import Read, index_names, reads
from ...passes.gpu.grid_ir import ThreadPerElement, TreeReduction
from ...passes.gpu.launch_ir import Function
from ...passes.gpu.persistent_loop import PersistentLoop, StepKernel, StepLoop
from ...passes.gpu.shared_state import ROW
from ...targets import COUNTER_STRIDE, WARP
from .accumulators import accumulator, alone, results, start, take
from .expressions import Writer
from .instructions import MEMORY
from .kernel import function_writer


def loop_function(function: Function, loop: PersistentLoop) -> str:
    """The function of a persistent loop, a function of the number of its block."""
    w, parameters = function_writer(function, {}, {})
    # a group of one block waits for nobody and needs no number of its own
    if loop.group_blocks > 1:
        w.line(f"const i32 member = block % {loop.group_blocks};")
        w.line(f"u32* const counter = counters + block / {loop.group_blocks} * {COUNTER_STRIDE};")
    # the first row of the group
    if loop.groups > 1:
        group = "block" if loop.group_blocks == 1 else f"block / {loop.group_blocks}"
        w.line(f"const i32 row0 = {group}{f' * {loop.rows}' if loop.rows > 1 else ''};")
    _declare_shared(w, loop)
    _steps(w, loop, loop.steps)
    # why the loop is as it is stands above its code as well
    about = [f"// {line}" for line in (*loop.why, f"{loop.blocks} blocks")]
    head = f"DEVICE void {function.name}({', '.join(['const i32 block', *parameters])}) {{"
    return "\n".join([*about, head, *w.lines, "}", ""])


def _steps(w: Writer, loop: PersistentLoop, steps: StepLoop) -> None:
    index = steps.index
    # a fresh name: a loop within a loop may be over an index of the same name
    name = w.fresh("step")
    head = f"for (i32 {name} = 0; {name} < {index.size}; ++{name})"
    if steps.reverse:
        head = f"for (i32 {name} = {index.size - 1}; {name} >= 0; --{name})"
    with w.block(head):
        # inside, the index is the loop's variable
        w.places[index.name] = name
        for item in steps.body:
            if isinstance(item, StepLoop):
                _steps(w, loop, item)
                continue
            # within one block __syncthreads is enough; several blocks count arrivals in memory
            if item.barrier and loop.group_blocks == 1:
                w.line("BARRIER();")
            elif item.barrier:
                w.line(f"GROUP_BARRIER(counter, {loop.group_blocks}, member == 0);")
            for line in filter(None, (item.grid.source, *item.grid.why, str(item))):
                w.line(f"// {line}")
            _KernelWriter(w, loop, item).write()


# --- shared memory --------------------------------------------------------------------------------


def _declare_shared(w: Writer, loop: PersistentLoop) -> None:
    """The tensors and the weights in shared memory, and the loads of the weights."""
    # joining comes first in shared memory, then state, then the weights
    offset = loop.reduction_bytes
    for number, tensor in enumerate(loop.shared_tensors):
        # from here on reads of the tensor go to shared memory
        w.pointers[tensor.name], w.extents[tensor.name] = f"state{number}", tensor.count
        w.line(
            f"SHARED({MEMORY[tensor.dtype]}, state{number}, {offset}, {tensor.count});"
            f"  // of {tensor.tensor}"
        )
        offset += tensor.bytes
    # before the loop over steps: weights are loaded once
    for kernel in loop.steps.kernels:
        if kernel.weights:
            writer = _KernelWriter(w, loop, kernel)
            count = kernel.weight_count
            w.line(f"SHARED({kernel.grid.dtype}, {writer.weights}, {offset}, {count});")
            writer.load_weights()
            offset += kernel.weight_bytes


class _KernelWriter:
    """Writes one kernel of the step."""

    def __init__(self, w: Writer, loop: PersistentLoop, kernel: StepKernel):
        self.w, self.loop, self.kernel, self.grid = w, loop, kernel, kernel.grid
        self.rows_at_once = kernel.rows_at_once
        # an item is an element for `rows_at_once` rows: [batches of rows, elements]
        self.items = self.grid.elements * (loop.rows // self.rows_at_once)
        # weights of each kernel have a name of their own
        number = next(n for n, other in enumerate(loop.steps.kernels) if other is kernel)
        self.weights = f"weights{number}"
        # the same writer goes on with the next kernel, so what it knows of reads is this kernel's
        w.accesses, w.sizes = self.grid.accesses, self.grid.sizes

    def write(self) -> None:
        match self.grid.how:
            case ThreadPerElement():
                self._one_thread_per_element()
            case TreeReduction(along="reduction"):
                self._by_warps()
            case TreeReduction(lanes=lanes):
                self._by_lanes(lanes)

    # --- indices -------------------------------------------------------------------------------

    def _loop_over(self, name: str, first: str, count: int, end: int) -> str:
        """The head of a loop over what the blocks of the group divide: each takes `count` of them
        at a time, its threads from `first` on."""
        # blocks take turns: member m begins m * count items further
        parts = [first] if first else []
        if self.loop.group_blocks > 1:
            parts.append(f"member * {count}" if count > 1 else "member")
        return (
            f"for (i32 {name} = {' + '.join(parts) or '0'}; {name} < {end}; "
            f"{name} += {self.loop.group_blocks * count})"
        )

    def _element(self, item: str) -> None:
        """The indices of an item's element."""
        w, outputs = self.w, self.grid.outputs
        # all rows at once: the item is the element itself
        if self.rows_at_once == self.loop.rows:
            w.unflatten(item, outputs)
        elif outputs:
            w.unflatten(w.let("i32", f"{item} % {self.grid.elements}", "element"), outputs)

    def _row(self, item: str, number: str) -> None:
        """The indices of the `number`-th of the rows of an item."""
        w, loop, at_once = self.w, self.loop, self.rows_at_once
        parts = []
        # which batch of rows the item belongs to, then the row within it
        if at_once < loop.rows:
            batch = item if self.grid.elements == 1 else f"{item} / {self.grid.elements}"
            parts.append(f"{batch} * {at_once}" if at_once > 1 else batch)
        if at_once > 1:
            parts.append(number)
        own = " + ".join(parts)
        if loop.rows > 1:
            # the row within the group, by which shared state is addressed
            w.place(ROW, own)
            own = w.places[ROW]
        # the row among all groups, which gives the tensors' row indices
        text = " + ".join(["row0"] * (loop.groups > 1) + [own] * (loop.rows > 1)) or "0"
        w.unflatten(text if text.isidentifier() else w.let("i32", text, "row"), self.kernel.rows)

    # --- one thread per element ----------------------------------------------------------------

    def _one_thread_per_element(self) -> None:
        w = self.w
        with w.block(self._loop_over("item", "THREAD", self.loop.threads, self.items)):
            self._row("item", "")
            self._element("item")
            alone(w, self.grid)

    # --- several threads per element -----------------------------------------------------------

    def _by_warps(self) -> None:
        """The lanes of a warp divide the points of an element and join by shuffles; lane n finishes
        the n-th of the rows."""
        w, grid, rows = self.w, self.grid, self.rows_at_once
        warps = self.loop.threads // WARP
        with w.block(self._loop_over("item", "THREAD / 32", warps, self.items)):
            w.line("const i32 lane = THREAD % 32;")
            # asked for before the sum begins, so that memory answers meanwhile
            early = self._load_epilogue("item")
            start(w, grid, rows)
            self._element("item")
            self._reduce_points(WARP)
            for n, _ in enumerate(grid.bodies):
                # `warp_reduce` gives the sum to all lanes, by a butterfly of shuffles
                mine = f"sum{n}{'[r]' if rows > 1 else ''}"
                self._for_rows(f"{mine} = nn::warp_reduce({mine});")
            # an array indexed by a lane would lie in memory: choosing by comparisons keeps it in
            # registers
            if rows > 1:
                for n, _ in enumerate(grid.bodies):
                    w.line(f"{accumulator(grid)} own{n} = sum{n}[0];")
                    self._for_rows(f"if (r == lane) own{n} = sum{n}[r];")
            with w.block(f"if (lane < {rows})"):
                self._row("item", "lane")
                self._finish(early, "own" if rows > 1 else "sum")

    def _by_lanes(self, lanes: int) -> None:
        """Adjacent threads take adjacent elements. The lanes of an element join in their order
        through shared memory; lane n finishes the n-th of the rows."""
        w, grid, rows, items = self.w, self.grid, self.rows_at_once, self.items
        # [lanes, rows, bodies, width]: what neighbours write lies side by side
        width, bodies = self.kernel.elements_at_once, len(grid.bodies)
        sums = rows * bodies * width
        # More than one round is made only with one lane for each element, where a thread reads
        # nothing but what it has written; so no barrier is needed between rounds.
        with w.block(self._loop_over("begin", "", width, items)):
            if not self.kernel.barrier:
                w.line("BARRIER();")  # what another kernel has joined has been read
            w.line(f"SHARED({accumulator(grid)}, partial, 0, {lanes * sums});")
            w.line(
                f"const i32 own = THREAD % {width}, lane = THREAD / {width}, item = begin + own;"
            )
            early = {}
            # with more rows than lanes a lane finishes several, and cannot load them all in advance
            if rows <= lanes:
                # beyond the last item any other will do: the load must only be valid
                inside = f"item < {items} ? item : {items - 1}"
                early = self._load_epilogue(w.let("i32", inside) if items % width else "item")
            start(w, grid, rows)
            # threads beyond the last item still take part in the barriers below
            with w.block(f"if (item < {items})"):
                self._element("item")
                self._reduce_points(lanes)
            for n in range(bodies):
                row, mine = ("r", f"sum{n}[r]") if rows > 1 else ("0", f"sum{n}")
                place = f"lane * {sums} + ({row} * {bodies} + {n}) * {width} + own"
                self._for_rows(f"AT(partial, {place}, {lanes * sums}) = {mine};")
            if lanes > 1:  # else a thread reads what it has written
                w.line("BARRIER();")
                # every sum is joined by one thread, in the order of lanes: the same bits in every
                # run
                with w.block(f"for (i32 e = THREAD; e < {sums}; e += {self.loop.threads})"):
                    other = f"AT(partial, other * {sums} + e, {lanes * sums})"
                    w.line(
                        f"for (i32 other = 1; other < {lanes}; ++other) "
                        f"AT(partial, e, {lanes * sums}).join({other});"
                    )
                if bodies > 1:  # else a thread finishes what it has joined
                    w.line("BARRIER();")
            # lane n finishes row n, n + lanes, …
            with w.block(f"for (i32 r = lane; r < {rows} && item < {items}; r += {lanes})"):
                for n in range(bodies):
                    place = f"(r * {bodies} + {n}) * {width} + own"
                    w.line(f"{accumulator(grid)} sum{n} = AT(partial, {place}, {lanes * sums});")
                self._row("item", "r")
                self._element("item")
                self._finish(early, "sum")

    def _load_epilogue(self, item: str) -> dict[Read, str]:
        """Loads what finishing an element will read, so that memory answers while the sum is
        computed. No statement reads what this step of its kernel stores."""
        w, grid, rows = self.w, self.grid, self.rows_at_once
        # these lines stay outside of a block: the values are used after the sum
        with w.aside():
            lane = "lane" if rows == 1 else w.let("i32", f"lane < {rows} ? lane : {rows - 1}")
            self._row(item, lane)
            self._element(item)
            # the first statements take the sums; what the others read can be loaded
            values = (s.value for s in grid.statements[len(grid.bodies) :])
            return {r: w.value(r) for value in values for r in reads(value) if r in grid.accesses}

    def _finish(self, early: Mapping[Read, str], sums: str) -> None:
        # what was loaded early is not loaded again
        for read, value in early.items():
            self.w.known(read, value)
        self.w.finish(self.grid.statements, results(self.grid, sums))

    def _reduce_points(self, lanes: int) -> None:
        """Every `lanes`-th point, for all rows; what the rows have in common is loaded once."""
        w, grid, kernel, rows = self.w, self.grid, self.kernel, self.rows_at_once
        with w.block(f"for (i32 p = lane; p < {grid.points}; p += {lanes})"):
            w.unflatten("p", grid.over)
            # weights were loaded before the first step
            for number, read in enumerate(kernel.weights):
                w.known(read, w.let(grid.dtype, self._weight(number)))
            if rows == 1:
                self._row("item", "")
                take(w, grid)
                return
            row_indices = {i.name for i in kernel.rows}
            for body in grid.bodies:
                # what does not depend on the row is loaded before the loop over rows, once
                for read in reads(body):
                    if not index_names(read) & row_indices:
                        w.value(read)
            w.line("#pragma unroll")
            with w.block(f"for (i32 r = 0; r < {rows}; ++r)"):
                self._row("item", "r")
                take(w, grid, "[r]")

    def _for_rows(self, text: str) -> None:
        """A line for each of the rows, `r`."""
        if self.rows_at_once > 1:
            self.w.line("#pragma unroll")
            text = f"for (i32 r = 0; r < {self.rows_at_once}; ++r) {text}"
        self.w.line(text)

    # --- weights -------------------------------------------------------------------------------

    def load_weights(self) -> None:
        """Every thread loads the weights of its elements."""
        w, grid, how, width = self.w, self.grid, self.grid.how, self.kernel.elements_at_once
        assert isinstance(how, TreeReduction)
        # as `_by_warps` or `_by_lanes` will ask for them: each thread loads its own
        first, lane = "THREAD / 32", "THREAD % 32"
        if how.along == "outputs":
            first, lane = f"THREAD % {width}", f"THREAD / {width}"
        with w.block(self._loop_over("item", first, width, self.items)):
            self._element("item")
            with w.block(f"for (i32 p = {lane}; p < {grid.points}; p += {how.lanes})"):
                w.unflatten("p", grid.over)
                for number, read in enumerate(self.kernel.weights):
                    w.line(f"{self._weight(number)} = {w.value(read)};")

    def _weight(self, number: int) -> str:
        """A weight of the item at the point p: no other thread reads it."""
        kernel, loop = self.kernel, self.loop
        # which of its lane's points it is
        point = f"p / {kernel.lanes}"
        if kernel.elements_per_thread > 1:
            items = loop.group_blocks * kernel.elements_at_once
            point = f"(item / {items} * {kernel.points_per_lane} + {point})"
        # [points, weights, threads]: neighbours lie side by side, in different banks
        place = f"({point} * {len(kernel.weights)} + {number}) * {loop.threads} + THREAD"
        return f"AT({self.weights}, {place}, {kernel.weight_count})"
