"""Loads and stores.

An access becomes an LLVM load (of a scalar, of neighbouring elements, masked, or gathered) from an
address of `addresses.py`.

A check that fails must not touch memory. If all lanes share it, the address is replaced by one in a
page of zeros; otherwise the lanes where it fails are masked. Tests: tests/backends/test_cpu.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ...ir.affine import Affine
from ...ir.dtypes import BYTES, HALVES, is_float
from ...ir.expr import Const, Read
from ...passes.cpu.loop_ir import Access, Accumulate, Nest
from ...targets import SHUFFLE_LANES
from .addresses import AddressWriter, Offset
from .arithmetic import LLVM, MEMORY, SUFFIX, Arithmetic, lane_vector, shuffle
from .function_writer import FunctionWriter
from .halves import narrowed, widened
from .values import Bases, Point, Value

Op = Callable[..., str]  # FunctionWriter.op or FunctionWriter.pinned


class MemoryWriter(AddressWriter):
    """Loads and stores of one nest, at the current copy of its tile (`point`)."""

    def __init__(self, e: FunctionWriter, nest: Nest, bases: Bases, point: Point):
        super().__init__(e, nest, bases, point)
        self._columns: dict[tuple[str, ...], list[str]] = {}  # of transposed blocks, by their rows

    # --- loads ---------------------------------------------------------------------------------

    def load(self, read: Read) -> Value:
        """The value that the read has at the current copy."""
        return self.load_from(self.nest.accesses[read])

    def load_from(self, access: Access) -> Value:
        """The element at the current copy, or what replaces it."""
        offset = self.offset(access.offset)
        shared, by_lane = self._conditions(access)
        if offset.in_lanes or by_lane:
            return Value(self._load_lanes(access, offset, shared, by_lane), True)
        return self._load_one(access, offset, shared)

    def _load_one(self, access: Access, offset: Offset, condition: str) -> Value:
        """One element for all lanes; its replacement where the check fails may still differ from
        lane to lane."""
        dtype = access.kind
        pointer = self.pointer(access, offset, condition)
        # If the check fails this is a 0 from the page of zeros.
        loaded = self._from_memory(self.scalar, dtype, self._scalar_load(pointer, access))
        if not condition or self._is_zero(access):
            return Value(loaded, False)
        assert access.other is not None
        other = self.point.value(access.other)
        if not other.vector:
            return Value(self.scalar.select(dtype, condition, loaded, other.name), False)
        lanes, mask = self.wide.splat(dtype, loaded), self.wide.splat("bool", condition)
        return Value(self.wide.select(dtype, mask, lanes, other.name), True)

    def _load_lanes(self, access: Access, offset: Offset, shared: str, by_lane: str) -> str:
        """Neighbouring elements, or a gather. A load leaves zeros where a condition fails."""
        condition = self._all(by_lane, self.wide.splat("bool", shared) if shared else "")
        if offset.stride == 1 and not offset.irregular:
            # From the cheapest kind of load to the dearest. A condition that all lanes share
            # replaces the address of this one; a gather masks its lanes.
            pointer = self.pointer(access, offset, shared)
            loaded = self._vector_load(pointer, access, self.mask(by_lane))
        elif access.transposed:
            loaded = self._transposed(access, offset)
        elif offset.stride == 2 and not offset.irregular and not condition:
            loaded = self._deinterleaved(access, offset)
        else:
            loaded = self._gather(access, offset, self.mask(condition))
        loaded = self._from_memory(self.wide, access.kind, loaded)
        if not condition or self._is_zero(access):
            return loaded
        assert access.other is not None
        other = self.point.vector(access.other)
        return self.wide.select(access.kind, condition, loaded, other)

    def _transposed(self, access: Access, offset: Offset) -> str:
        """One vector of a block that is loaded along memory and transposed in registers. Every copy
        of the tile asks for the whole block; value numbering writes it once."""
        # Example: x[j, i] with lanes along j and rows along i. Memory runs along i: lane k's vector
        # holds x[j + k, first …], and column r of the transposed block is what the copy of row r
        # needs.
        first, count = self.point.blocks[access.transposed]
        row = self.point.places[access.transposed].offset - first
        # A tile with fewer rows than lanes loads no more than its rows.
        mask = "" if count == self.nest.lanes else _first_lanes(count, self.nest.lanes)
        block = []
        # Back by `row` to the block's first row, so that every copy writes the same loads.
        for lane in range(self.point.valid):
            start = Offset(
                offset.terms, offset.constant - row + lane * offset.stride, offset.step, 0, ""
            )
            block.append(self._vector_load(self.pointer(access, start), access, mask))
        unused = [self.wide.constant(0, access.kind)] * (self.nest.lanes - len(block))
        rows = (*block, *unused)
        if rows not in self._columns:  # in SSA form, equal names are the same block
            self._columns[rows] = transpose(self.wide, access.kind, list(rows))
        return self._columns[rows][row]

    def square(self, access: Access) -> list[str]:
        """The vectors at the current copy and those at the elements that follow in memory, as many
        as a vector has lanes: a block that is loaded along memory and transposed in registers."""
        offset, dtype = self.offset(access.offset), access.kind
        rows = [
            self._vector_load(self.pointer(access, _of_lane(offset, lane)), access, "")
            for lane in range(self.point.valid)
        ]
        unused = [self.wide.constant(0, dtype)] * (self.nest.lanes - len(rows))
        return transpose(self.wide, dtype, [*rows, *unused])

    def _deinterleaved(self, access: Access, offset: Offset) -> str:
        """The even or the odd ones of neighbouring elements; where both are read, they are loaded
        once."""
        # x[2*i] and x[2*i + 1] are both picked from x[2*i …]: the parity of the constant tells
        # which.
        odd, lanes = offset.constant % 2, self.nest.lanes
        halves = []
        for half in (0, 1):
            start = Offset(offset.terms, offset.constant - odd + half * lanes, offset.step, 0, "")
            # Of the last vector's pairs, only those of valid lanes are touched.
            count = min(lanes, max(0, 2 * self.point.valid - half * lanes))
            mask = "" if count == lanes else _first_lanes(count, lanes)
            halves.append(self._vector_load(self.pointer(access, start), access, mask))
        pick = [odd + 2 * k for k in range(lanes)]
        return shuffle(self.e, MEMORY[access.kind], lanes, halves[0], halves[1], pick)

    def _all(self, a: str, b: str) -> str:
        """Both masks, either of which may be absent."""
        return self.wide.op("and", "bool", a, b) if a and b else a or b

    @staticmethod
    def _is_zero(access: Access) -> bool:
        return isinstance(access.other, Const) and str(float(access.other.value)) == "0.0"

    def _conditions(self, access: Access) -> tuple[str, str]:
        """The checks that all lanes share, as an i1, and those that they do not, as a mask."""
        shared, by_lane = "", ""
        for form, size in access.checks:
            offset = self.offset(form)
            a = self.wide if offset.in_lanes else self.scalar
            # 0 <= x < size in one comparison: as unsigned, a negative x is huge.
            inside = a.compare("ult", "i64", self.total(offset, a), a.constant(size, "i64"))
            if offset.in_lanes:
                by_lane = a.op("and", "bool", by_lane, inside) if by_lane else inside
            else:
                shared = a.op("and", "bool", shared, inside) if shared else inside
        return shared, by_lane

    def mask(self, also: str = "") -> str:
        """The valid lanes for which the condition holds; empty if that is all."""
        valid, lanes = self.point.valid, self.nest.lanes
        if valid == lanes:
            # Only the last vector along an index may have fewer valid lanes than the others.
            return also
        ends = _first_lanes(valid, lanes)
        return self.wide.op("and", "bool", also, ends) if also else ends

    def _scalar_load(self, pointer: str, access: Access, op: Op | None = None) -> str:
        dtype = access.dtype
        text = f"load {{T}}, ptr {{0}}, align {BYTES[dtype]}"
        loaded = (op or self.e.op)(text, pointer, type=MEMORY[dtype])
        return self._widened(self.scalar, access, loaded)

    def _widened(self, a: Arithmetic, access: Access, loaded: str) -> str:
        """What is loaded; of a format of 16 bits, in the type of its values."""
        if access.dtype not in HALVES:
            return loaded
        return widened(a, access.dtype, access.kind, loaded, self.nest.f16_instructions)

    def _vector_type(self, dtype: str) -> str:
        return f"<{self.nest.lanes} x {MEMORY[dtype]}>"

    def _suffix(self, dtype: str) -> str:
        kind = MEMORY[dtype]
        return f"v{self.nest.lanes}{kind if kind.startswith('i') else SUFFIX[dtype]}"

    def _vector_load(self, pointer: str, access: Access, mask: str, op: Op | None = None) -> str:
        """Neighbouring elements; only those in the mask, if there is one."""
        return self._widened(self.wide, access, self._loaded(pointer, access.dtype, mask, op))

    def _loaded(self, pointer: str, dtype: str, mask: str, op: Op | None) -> str:
        op, type, size = op or self.e.op, self._vector_type(dtype), BYTES[dtype]
        if not mask:
            return op(f"load {{T}}, ptr {{0}}, align {size}", pointer, type=type)
        # Lanes outside the mask are 0, and their memory is not touched.
        name, bits = f"llvm.masked.load.{self._suffix(dtype)}.p0", self.wide.type("bool")
        self.e.declare(f"declare {type} @{name}(ptr, i32, {bits}, {type})")
        text = f"call {{T}} @{name}(ptr {{0}}, i32 {size}, {bits} {{1}}, {{T}} zeroinitializer)"
        return op(text, pointer, mask, type=type)

    def _gather(self, access: Access, offset: Offset, mask: str) -> str:
        """One load per lane."""
        dtype, lanes = access.dtype, self.nest.lanes
        type, bits = self._vector_type(dtype), self.wide.type("bool")
        # Lane 0's scalar address, to which each lane adds its own distance.
        pointer = self.pointer(access, Offset(offset.terms, offset.constant, offset.step, 0, ""))
        steps = self._lanes(offset.stride, "i64")
        if offset.irregular:
            steps = self.wide.op("add", "i64", offset.irregular, steps)
        where = self.e.op(
            f"getelementptr {MEMORY[dtype]}, ptr {{0}}, <{lanes} x i64> {{1}}",
            pointer,
            steps,
            type=f"<{lanes} x ptr>",
        )
        name = f"llvm.masked.gather.{self._suffix(dtype)}.v{lanes}p0"
        self.e.declare(f"declare {type} @{name}(<{lanes} x ptr>, i32, {bits}, {type})")
        loaded = self.e.op(
            f"call {{T}} @{name}(<{lanes} x ptr> {{0}}, i32 {BYTES[dtype]}, {bits} "
            "{1}, {T} zeroinitializer)",
            where,
            mask or "splat (i1 1)",
            type=type,
        )
        return self._widened(self.wide, access, loaded)

    @staticmethod
    def _from_memory(a: Arithmetic, dtype: str, name: str) -> str:
        """A bool is a byte in memory and a bit in a register."""
        if dtype != "bool":
            return name
        kind = "i8" if a.lanes == 1 else f"<{a.lanes} x i8>"
        zero = "0" if a.lanes == 1 else "zeroinitializer"
        return a.e.op(f"icmp ne {kind} {{0}}, {zero}", name, type=a.type("bool"))

    def _to_memory(self, a: Arithmetic, dtype: str, name: str, storage: str) -> str:
        if storage:
            return narrowed(a, storage, dtype, name, self.nest.f16_instructions)
        if dtype != "bool":
            return name
        kind = "i8" if a.lanes == 1 else f"<{a.lanes} x i8>"
        return a.e.op(f"zext {a.type(dtype)} {{0}} to {{T}}", name, type=kind)

    # --- stores --------------------------------------------------------------------------------

    def store(self, tensor: str, kind: str, place: Affine, value: Value, storage: str = "") -> None:
        """Stores at the current copy: neighbouring elements of a vector, or one. `kind` is the type
        of the value."""
        offset, dtype = self.offset(place), storage or kind
        pointer = self.pointer(Access(tensor, dtype, place), offset)
        size = BYTES[dtype]
        # The offset is the same in all lanes: a total, or a nest without vectors.
        if not offset.in_lanes:
            name = self._to_memory(self.scalar, kind, value.name, storage)
            self.e.effect(f"store {MEMORY[dtype]} {{0}}, ptr {{1}}, align {size}", name, pointer)
            return
        name = self._to_memory(self.wide, kind, self.point.spread(value, kind), storage)
        type, mask, bits = self._vector_type(dtype), self.mask(), self.wide.type("bool")
        if not mask:
            self.e.effect(f"store {type} {{0}}, ptr {{1}}, align {size}", name, pointer)
            return
        function = f"llvm.masked.store.{self._suffix(dtype)}.p0"
        self.e.declare(f"declare void @{function}({type}, ptr, i32, {bits})")
        self.e.effect(
            f"call void @{function}({type} {{0}}, ptr {{1}}, i32 {size}, {bits} {{2}})",
            name,
            pointer,
            mask,
        )

    def clear(
        self, accumulate: Accumulate, parts: int = 1, first: str = "0", last: str = "1"
    ) -> None:
        """Zeros the target of an accumulation, or some of its equal parts."""
        # `parts` is the size of the target's first dimension, which divides its bytes evenly.
        a, size = self.scalar, str(accumulate.bytes // parts)
        self.e.declare("declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)")
        start, stop = (a.op("mul", "i64", part, size) for part in (first, last))
        pointer = self.e.op(
            "getelementptr i8, ptr {0}, i64 {1}",
            self._base(accumulate.access.tensor),
            start,
            type="ptr",
        )
        self.e.effect(
            "call void @llvm.memset.p0.i64(ptr {0}, i8 0, i64 {1}, i1 0)",
            pointer,
            a.op("sub", "i64", stop, start),
        )

    def prefetch(self, access: Access) -> None:
        """Prefetches the cache line of the current copy."""
        self.prefetch_line(self.pointer(access, self.offset(access.offset)))

    def prefetch_line(self, pointer: str, first: bool = True) -> None:
        """Prefetches a cache line into all caches, the `first` or not. The address may be any: a
        prefetch never faults."""
        self.e.declare("declare void @llvm.prefetch.p0(ptr, i32, i32, i32)")
        text = f"call void @llvm.prefetch.p0(ptr {{0}}, i32 0, i32 {2 + first}, i32 1)"
        self.e.effect(text, pointer)

    def accumulate(self, access: Access, added: Callable[[Value], Value]) -> None:
        """Replaces the element at the current copy, if in bounds, by `added` of it."""
        condition, by_lane = self._conditions(access)
        assert not by_lane
        # Lowering takes no vector index that a check depends on. What is out of bounds is dropped.
        if condition:
            with self.e.when(condition):
                self.store_at(access, added(self.load_now(access)))
        else:
            self.store_at(access, added(self.load_now(access)))

    def load_now(self, access: Access) -> Value:
        """The element as it is now: a load that is neither shared nor moved."""
        offset = self.offset(access.offset)
        pointer = self.pointer(access, offset)
        if offset.in_lanes:
            old = self._vector_load(pointer, access, self.mask(), self.e.pinned)
            return Value(self._from_memory(self.wide, access.dtype, old), True)
        old = self._scalar_load(pointer, access, self.e.pinned)
        return Value(self._from_memory(self.scalar, access.dtype, old), False)

    def store_at(self, access: Access, value: Value) -> None:
        self.store(access.tensor, access.dtype, access.offset, value)


def _of_lane(offset: Offset, lane: int) -> Offset:
    """The offset of one lane's element."""
    return replace(offset, constant=offset.constant + lane * offset.stride, stride=0)


def _first_lanes(count: int, lanes: int) -> str:
    """The mask of that many lanes."""
    return lane_vector([int(k < count) for k in range(lanes)], "i1")


def transpose(a: Arithmetic, dtype: str, rows: list[str]) -> list[str]:
    """The columns of a square block of vectors: a register transpose. First all squares of 4 x 4
    lanes are transposed, by shuffles of one instruction each, then the squares are exchanged."""
    # 16 lanes are 4 x 4 squares of 4 x 4 elements. Two rounds of shuffles within squares, then two
    # rounds that exchange whole squares: log2(16) = 4 rounds of 16 shuffles.
    lanes, e, kind = len(rows), a.e, LLVM[dtype]
    side = min(SHUFFLE_LANES, lanes)
    half, squares = side // 2, lanes // side
    # Lane numbers of a shuffle of two vectors: those of the second begin at `lanes` (`of`).
    # low: interleaves the lower halves of each square's rows x and y: x0 y0 x1 y1; high: the
    # upper ones.
    low = [
        start + k + of for start in range(0, lanes, side) for k in range(half) for of in (0, lanes)
    ]
    even = [start + k for start in range(0, 2 * lanes, 2 * side) for k in range(side)]
    high, odd = [k + half for k in low], [k + side for k in even]
    for _ in range(side.bit_length() - 1):
        pairs = [(rows[k], rows[k + half]) for k in range(lanes) if k % side < half]
        rows = [shuffle(e, kind, lanes, x, y, pick) for x, y in pairs for pick in (low, high)]
    if is_float(dtype):  # keeps LLVM from spending long on merging both rounds of shuffles
        rows = [a.intrinsic("arithmetic.fence", dtype, row) for row in rows]
    # The same step on squares instead of elements.
    for _ in range(squares.bit_length() - 1):
        pairs = [(rows[k], rows[k + side]) for k in range(lanes) if k // side % 2 == 0]
        rows = [shuffle(e, kind, lanes, x, y, pick) for pick in (even, odd) for x, y in pairs]
    return rows
