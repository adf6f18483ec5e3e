"""One sweep as one CUDA C++ function: a recurrence whose blocks go through all steps.

In: a `Sweep`, and which tensors its arguments are. Out: the text of the function. Who computes
what, and where blocks or threads wait, stands in the sweep; `kernels.py` spells single kernels.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...ir.expr import Read, index_names, reads
from ...passes.gpu.grid_ir import Each, Together
from ...passes.gpu.launch_ir import COUNTER_STRIDE, Function
from ...passes.gpu.persistent_loop import Share, Steps, Sweep
from ...passes.gpu.shared_state import ROW
from .accumulators import accumulator, alone, results, start, take
from .expressions import Writer
from .instructions import MEMORY
from .kernel import function_writer


def loop_function(function: Function, loop: Sweep) -> str:
    """The function of a persistent loop, a function of the number of its block."""
    w, parameters = function_writer(function, {}, {})
    if loop.members > 1:
        w.line(f"const i32 member = block % {loop.members};")
        w.line(f"u32* const counter = counters + block / {loop.members} * {COUNTER_STRIDE};")
    if loop.groups > 1:
        group = "block" if loop.members == 1 else f"block / {loop.members}"
        w.line(f"const i32 row0 = {group}{f' * {loop.rows}' if loop.rows > 1 else ''};")
    _keep(w, loop)
    _steps(w, loop, loop.steps)
    about = [f"// {line}" for line in (*loop.why, f"{loop.blocks} blocks")]
    head = f"DEVICE void {function.name}({', '.join(['const i32 block', *parameters])}) {{"
    return "\n".join([*about, head, *w.lines, "}", ""])


def _keep(w: Writer, sweep: Sweep) -> None:
    """The places of what is kept, and the weights in theirs."""
    offset = sweep.joined_bytes
    for number, kept in enumerate(sweep.kept):
        w.pointers[kept.name], w.extents[kept.name] = f"kept{number}", kept.count
        w.line(
            f"SHARED({MEMORY[kept.dtype]}, kept{number}, {offset}, {kept.count});"
            f"  // of {kept.tensor}"
        )
        offset += kept.bytes
    for share in sweep.steps.shares:
        if share.weights:
            name, grid = _weights(sweep, share), share.grid
            w.line(f"SHARED({grid.dtype}, {name}, {offset}, {share.kept_weights});")
            _fill(w, sweep, share)
            offset += share.weight_bytes


def _weights(sweep: Sweep, share: Share) -> str:
    """The name of the share's weights."""
    number = next(n for n, other in enumerate(sweep.steps.shares) if other is share)
    return f"weights{number}"


def _weight(sweep: Sweep, share: Share, number: int) -> str:
    """A weight of the item at the point p: no other thread reads it."""
    point = f"p / {share.lanes}"
    if share.turns > 1:
        point = f"(item / {sweep.members * share.width} * {share.lane_points} + {point})"
    place = f"({point} * {len(share.weights)} + {number}) * {sweep.threads} + THREAD"
    return f"AT({_weights(sweep, share)}, {place}, {share.kept_weights})"


def _fill(w: Writer, sweep: Sweep, share: Share) -> None:
    """Every thread reads the weights of its element."""
    grid, how = share.grid, share.grid.how
    assert isinstance(how, Together)
    w.accesses, w.sizes = grid.accesses, grid.sizes
    first, lane = "THREAD / 32", "THREAD % 32"
    if how.along == "outputs":
        first, lane = f"THREAD % {share.width}", f"THREAD / {share.width}"
    items = grid.elements * (sweep.rows // share.held)
    with w.block(_divided(sweep, "item", first, share.width, items)):
        _element(w, sweep, share, "item")
        with w.block(f"for (i32 p = {lane}; p < {grid.points}; p += {how.lanes})"):
            w.unflatten("p", grid.over)
            for number, read in enumerate(share.weights):
                w.line(f"{_weight(sweep, share, number)} = {w.value(read)};")


def _steps(w: Writer, sweep: Sweep, steps: Steps) -> None:
    index = steps.index
    name = w.fresh("step")
    head = f"for (i32 {name} = 0; {name} < {index.size}; ++{name})"
    if steps.reverse:
        head = f"for (i32 {name} = {index.size - 1}; {name} >= 0; --{name})"
    with w.block(head):
        w.places[index.name] = name
        for part in steps.parts:
            if isinstance(part, Steps):
                _steps(w, sweep, part)
                continue
            if part.waits and sweep.members == 1:
                w.line("BARRIER();")
            elif part.waits:
                w.line(f"MEET(counter, {sweep.members}, member == 0);")
            about = (part.grid.source, *part.grid.why, str(part))
            for line in filter(None, about):
                w.line(f"// {line}")
            _share(w, sweep, part)


def _share(w: Writer, sweep: Sweep, share: Share) -> None:
    grid = share.grid
    w.accesses, w.sizes = grid.accesses, grid.sizes
    match grid.how:
        case Each():
            _each(w, sweep, share)
        case Together(along="over"):
            _by_warps(w, sweep, share)
        case Together(lanes=lanes):
            _by_lanes(w, sweep, share, lanes)


# --- what is divided ------------------------------------------------------------------------------


def _divided(sweep: Sweep, name: str, first: str, own: int, end: int) -> str:
    """The head of a loop over what the members of a group divide: each takes `own` at a time."""
    parts = [first] if first else []
    if sweep.members > 1:
        parts.append(f"member * {own}" if own > 1 else "member")
    return (
        f"for (i32 {name} = {' + '.join(parts) or '0'}; {name} < {end}; "
        f"{name} += {sweep.members * own})"
    )


def _row(w: Writer, sweep: Sweep, share: Share, number: str) -> None:
    """The indices of the group's row of this number, and the number."""
    if sweep.rows > 1:
        w.place(ROW, number)
        number = w.places[ROW]
    parts = ["row0"] * (sweep.groups > 1) + [number] * (sweep.rows > 1)
    text = " + ".join(parts) or "0"
    w.unflatten(text if text.isidentifier() else w.let("i32", text, "row"), share.rows)


def _element(w: Writer, sweep: Sweep, share: Share, item: str) -> None:
    """The indices of an item's element: items are the elements for the first `held` rows, then
    those for the next."""
    if share.held == sweep.rows:
        w.unflatten(item, share.grid.outputs)
    elif share.grid.outputs:
        w.unflatten(w.let("i32", f"{item} % {share.grid.elements}", "element"), share.grid.outputs)


def _held_row(w: Writer, sweep: Sweep, share: Share, item: str, own: str) -> None:
    """The indices of the `own`-th of the rows that an item stands for."""
    parts = []
    if share.held < sweep.rows:
        batch = item if share.grid.elements == 1 else f"{item} / {share.grid.elements}"
        parts.append(f"{batch} * {share.held}" if share.held > 1 else batch)
    if share.held > 1:
        parts.append(own)
    _row(w, sweep, share, " + ".join(parts))


# --- one thread per element -----------------------------------------------------------------------


def _each(w: Writer, sweep: Sweep, share: Share) -> None:
    grid = share.grid
    head = _divided(sweep, "item", "THREAD", sweep.threads, sweep.rows * grid.elements)
    with w.block(head):
        _held_row(w, sweep, share, "item", "")
        _element(w, sweep, share, "item")
        alone(w, grid)


# --- several threads per element ------------------------------------------------------------------


def _by_warps(w: Writer, sweep: Sweep, share: Share) -> None:
    """The lanes of a warp divide the points of an element and join; the n-th of the rows that they
    hold is finished by lane n."""
    grid, held = share.grid, share.held
    items = grid.elements * (sweep.rows // held)
    head = _divided(sweep, "item", "THREAD / 32", sweep.threads // 32, items)
    with w.block(head):
        w.line("const i32 lane = THREAD % 32;")
        ready = _ahead(w, sweep, share, "item")
        start(w, grid, held)
        _element(w, sweep, share, "item")
        _take_points(w, sweep, share, 32)
        for n, _ in enumerate(grid.bodies):
            mine = f"sum{n}{'[r]' if held > 1 else ''}"
            _for_held(w, held, f"{mine} = nn::across_warp({mine});")
        if held > 1:
            for n, _ in enumerate(grid.bodies):
                w.line(f"{accumulator(grid)} own{n} = sum{n}[0];")
                _for_held(w, held, f"if (r == lane) own{n} = sum{n}[r];")
        with w.block(f"if (lane < {held})"):
            _held_row(w, sweep, share, "item", "lane")
            _finish(w, share, ready, "own" if held > 1 else "sum")


def _by_lanes(w: Writer, sweep: Sweep, share: Share, lanes: int) -> None:
    """Neighbouring threads take neighbouring elements. The lanes of an element join in their order
    through shared memory; the n-th of the rows that they hold is finished by lane n."""
    grid, held, width = share.grid, share.held, share.width
    items, bodies = grid.elements * (sweep.rows // held), len(grid.bodies)
    sums = held * bodies * width
    head = _divided(sweep, "begin", "", width, items)
    with w.block(head):
        if not share.waits:
            w.line("BARRIER();")  # what another share has joined has been read
        w.line(f"SHARED({accumulator(grid)}, joined, 0, {lanes * sums});")
        w.line(f"const i32 own = THREAD % {width}, lane = THREAD / {width}, item = begin + own;")
        ready = {}
        if held <= lanes:
            inside = f"item < {items} ? item : {items - 1}"
            ready = _ahead(w, sweep, share, w.let("i32", inside) if items % width else "item")
        start(w, grid, held)
        with w.block(f"if (item < {items})"):
            _element(w, sweep, share, "item")
            _take_points(w, sweep, share, lanes)
        for n in range(bodies):
            row, mine = ("r", f"sum{n}[r]") if held > 1 else ("0", f"sum{n}")
            place = f"lane * {sums} + ({row} * {bodies} + {n}) * {width} + own"
            _for_held(w, held, f"AT(joined, {place}, {lanes * sums}) = {mine};")
        if lanes > 1:  # else a thread reads what it has written
            w.line("BARRIER();")
            with w.block(f"for (i32 e = THREAD; e < {sums}; e += {sweep.threads})"):
                other = f"AT(joined, other * {sums} + e, {lanes * sums})"
                w.line(
                    f"for (i32 other = 1; other < {lanes}; ++other) "
                    f"AT(joined, e, {lanes * sums}).join({other});"
                )
            if bodies > 1:  # else a thread finishes what it has joined
                w.line("BARRIER();")
        with w.block(f"for (i32 r = lane; r < {held} && item < {items}; r += {lanes})"):
            for n in range(bodies):
                place = f"(r * {bodies} + {n}) * {width} + own"
                w.line(f"{accumulator(grid)} sum{n} = AT(joined, {place}, {lanes * sums});")
            _held_row(w, sweep, share, "item", "r")
            _element(w, sweep, share, "item")
            _finish(w, share, ready, "sum")


def _ahead(w: Writer, sweep: Sweep, share: Share, item: str) -> dict[Read, str]:
    """What will be read to finish the row that a lane finishes, read now: memory answers while the
    sum is computed. No statement reads what this step of its kernel stores."""
    grid, held = share.grid, share.held
    with w.aside():
        lane = "lane" if held == 1 else w.let("i32", f"lane < {held} ? lane : {held - 1}")
        _held_row(w, sweep, share, item, lane)
        _element(w, sweep, share, item)
        values = (s.value for s in grid.statements[len(grid.bodies) :])
        return {r: w.value(r) for value in values for r in reads(value) if r in grid.accesses}


def _finish(w: Writer, share: Share, ready: Mapping[Read, str], name: str) -> None:
    for read, value in ready.items():
        w.known(read, value)
    w.finish(share.grid.statements, results(share.grid, name))


def _take_points(w: Writer, sweep: Sweep, share: Share, lanes: int) -> None:
    """Every `lanes`-th point, for all rows that are held; what they have in common is read once."""
    grid, held = share.grid, share.held
    with w.block(f"for (i32 p = lane; p < {grid.points}; p += {lanes})"):
        w.unflatten("p", grid.over)
        for number, read in enumerate(share.weights):
            w.known(read, w.let(grid.dtype, _weight(sweep, share, number)))
        if held == 1:
            _held_row(w, sweep, share, "item", "")
            take(w, grid)
            return
        rows = {i.name for i in share.rows}
        for body in grid.bodies:
            for read in reads(body):
                if not index_names(read) & rows:
                    w.value(read)
        w.line("#pragma unroll")
        with w.block(f"for (i32 r = 0; r < {held}; ++r)"):
            _held_row(w, sweep, share, "item", "r")
            take(w, grid, "[r]")


def _for_held(w: Writer, held: int, text: str) -> None:
    """A line for each of the rows that are held, `r`."""
    if held == 1:
        w.line(text)
        return
    w.line("#pragma unroll")
    w.line(f"for (i32 r = 0; r < {held}; ++r) {text}")
