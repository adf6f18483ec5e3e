"""Addresses: affine forms as LLVM integers and pointers.

    128*i + j + 3   →   getelementptr of 128*i, of j, then of 3

An address is built from the terms known in outer loops to those known in inner ones, constants
last: the function writer hoists the outer part, copies of a tile share it, and the constant becomes
the displacement of the instruction's addressing mode. Tests: tests/backends/test_cpu.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...ir.affine import Affine, affine, bounds
from ...ir.dtypes import BYTES, UNSIGNED
from ...ir.expr import Apply, Const, Expr, Idx
from ...passes.cpu.loop_ir import PACKED_ROWS, PANEL, Access, Nest
from ...targets import MAX_LANES, ZERO_PAGE
from .arithmetic import MEMORY, Arithmetic, lane_vector
from .function_writer import FunctionWriter
from .instructions import SPELLING
from .values import Bases, Point

Terms = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Offset:
    """A number of elements: sum of (i64 name, factor), plus `constant`, plus what the unrolled
    vectors of a tile add; in a vector also `stride` per lane and `irregular`, an i64 vector."""

    terms: Terms
    constant: int
    step: int
    stride: int
    irregular: str

    @property
    def in_lanes(self) -> bool:
        return bool(self.stride or self.irregular)


class AddressWriter:
    """Offsets and addresses of one nest, at the current copy of its tile (`point`)."""

    def __init__(self, e: FunctionWriter, nest: Nest, bases: Bases, point: Point):
        self.e, self.nest, self.bases, self.point = e, nest, bases, point
        self.scalar = Arithmetic(e, 1, nest.doubles)
        self.wide = Arithmetic(e, nest.lanes, nest.doubles)
        self.panel = ""  # the address at which the packed panel's element 0 would be …
        self.packed_rows = ""  # … and that of what is packed of the other factor

    # --- integers ------------------------------------------------------------------------------

    def offset(self, form: Affine) -> Offset:
        """The affine form at the current copy."""
        terms: dict[str, int] = {}
        # Four parts, as each has its place in an address: constants, the copy of a vector in its
        # tile, the distance of lanes, and what has to be computed for each lane.
        fixed, step, stride, irregular = form.constant, 0, 0, ""
        for atom, factor in form.coefficients.items():
            if isinstance(atom, Idx):
                place = self.point.places[atom.name]
                # A vector's index is base + offset + lane, so the factor is the stride from lane to
                # lane.
                if place.lanes:
                    step += factor * place.offset
                    stride += factor
                else:
                    fixed += factor * place.offset
                if place.base:
                    terms[place.base] = terms.get(place.base, 0) + factor
            # A gathered index, or a quotient of the vector index: no fixed stride.
            elif self.point.in_lanes(atom):
                part = self._times(self._lane_integer(atom), factor)
                irregular = self.wide.op("add", "i64", irregular, part) if irregular else part
            else:
                name = self._integer(atom)
                terms[name] = terms.get(name, 0) + factor
        # Terms of outer loops first: their partial sums are invariant in the inner loops and leave
        # them.
        inward = sorted(terms.items(), key=lambda term: self.e.level(term[0]))
        return Offset(tuple(inward), fixed, step, stride, irregular)

    def _times(self, vector: str, factor: int) -> str:
        return self.wide.op("mul", "i64", vector, self.wide.constant(factor, "i64"))

    def _integer(self, atom: Expr) -> str:
        """A value that is the same in all lanes, as i64."""
        if self._is_quotient(atom):
            return self._quotient(atom, self.scalar)
        value = self.point.value(atom)
        return self._widen(self.scalar, atom.dtype, value.name)

    def _lane_integer(self, atom: Expr) -> str:
        if self._is_quotient(atom):
            return self._quotient(atom, self.wide)
        return self._widen(self.wide, atom.dtype, self.point.vector(atom))

    @staticmethod
    def _widen(a: Arithmetic, dtype: str, name: str) -> str:
        if dtype == "i64":
            return name
        # These two have no sign.
        return a.convert("zext" if dtype in UNSIGNED else "sext", dtype, "i64", name)

    @staticmethod
    def _is_quotient(atom: Expr) -> bool:
        return (
            isinstance(atom, Apply)
            and atom.fn == "floordiv"
            and isinstance(atom.args[1], Const)
            and atom.args[1].value > 0
        )

    def _quotient(self, atom: Expr, a: Arithmetic) -> str:
        """A floor division by a positive constant; what cannot be negative divides as unsigned."""
        top, by = atom.children
        # The operand as an address is built: what it shares with other addresses is computed once.
        numerator = self.total(self.offset(affine(top)), a)
        divisor = a.constant(by.value, "i64")  # type: ignore[attr-defined]
        if bounds(top, self.nest.sizes)[0] >= 0:
            return a.op("udiv", "i64", numerator, divisor)
        return SPELLING["floordiv"](a, ("i64", "i64"), "i64", [numerator, divisor])

    def total(self, offset: Offset, a: Arithmetic) -> str:
        """The offset as one i64, or as a vector of them."""
        total = ""
        for name, factor in offset.terms:
            term = self._scaled(name, factor)
            total = self.scalar.op("add", "i64", total, term) if total else term
        rest = offset.constant + offset.step
        # A constant alone needs no instruction.
        if not total:
            total = str(rest)
        elif rest:
            total = self.scalar.op("add", "i64", total, str(rest))
        if a.lanes == 1:
            return total
        total = a.splat("i64", total)
        if offset.stride:
            total = a.op("add", "i64", total, self._lanes(offset.stride, "i64"))
        return a.op("add", "i64", total, offset.irregular) if offset.irregular else total

    def _lanes(self, stride: int, dtype: str) -> str:
        return lane_vector([k * stride for k in range(self.nest.lanes)], dtype)

    def _scaled(self, name: str, factor: int) -> str:
        return name if factor == 1 else self.scalar.op("mul", "i64", name, str(factor))

    # --- pointers ------------------------------------------------------------------------------

    def pointer(self, access: Access, offset: Offset, only_if: str = "") -> str:
        """The address of the element (of lane 0). Where the condition `only_if` is false, it is one
        in the page of zeros: selected before the terms of deeper loops are added, as far as these
        stay within the page."""
        kind, size = MEMORY[access.dtype], BYTES[access.dtype]
        pointer = self._base(access.tensor)
        # Each partial sum is an operation of its own, so copies of a tile share all but the last
        # ones.
        before, step, room = offset.terms, offset.step, 0
        after: Terms = ()
        if only_if and (abs(step) + MAX_LANES) * size > ZERO_PAGE:
            # A vector loop of one step at a far element: a constant that is added before.
            offset, step = replace(offset, constant=offset.constant + step, step=0), 0
        if only_if:
            before, after, room = self._around_selection(offset, size, self.e.level(only_if))
        for term in before:
            pointer = self._advance(pointer, kind, self._scaled(*term))
        pointer = self._advance(pointer, kind, str(offset.constant))
        if only_if:
            zero = self.zeros()
            if room:
                zero = self._advance(zero, "i8", str(room))
            pointer = self.e.op(
                "select i1 {0}, ptr {1}, ptr {2}", only_if, pointer, zero, type="ptr"
            )
        for term in after:
            pointer = self._advance(pointer, kind, self._scaled(*term))
        return self._advance(pointer, kind, str(step))

    def _around_selection(self, offset: Offset, size: int, depth: int) -> tuple[Terms, Terms, int]:
        """The terms of an address that are added before an address in the page of zeros may take
        its place, those that are added to either, and how many bytes into the page that address is.
        The condition is known at `depth`."""
        # Terms added before the selection take it with them into their loops. Those of deeper loops
        # are added after it, from the innermost outwards, as long as they lead from zeros to other
        # zeros.
        names = {place.base: name for name, place in self.point.places.items() if place.base}
        before, after = list(offset.terms), list[tuple[str, int]]()
        # MAX_LANES for the vector that begins at the last address.
        low, high = min(0, offset.step), max(0, offset.step) + MAX_LANES
        while before and self.e.level(before[-1][0]) > depth:
            base, factor = before[-1]
            if base not in names:  # what else is in a term has no known range
                break
            # A base counts from 0 to its index's size.
            reach = factor * (self.nest.sizes[names[base]] - 1)
            low, high = low + min(0, reach), high + max(0, reach)
            if (high - low) * size > ZERO_PAGE:
                low -= min(0, reach)
                break
            after.insert(0, before.pop())
        return tuple(before), tuple(after), -low * size

    def _base(self, tensor: str) -> str:
        """Where a tensor begins."""
        if tensor == PANEL:
            return self.panel
        if tensor == PACKED_ROWS:
            return self.packed_rows
        return self.in_arena(self.bases[tensor])

    def in_arena(self, offset: int | str) -> str:
        """The address so many bytes into the arena."""
        return self.e.op(f"getelementptr i8, ptr %arena, i64 {offset}", type="ptr")

    def _advance(self, pointer: str, kind: str, by: str) -> str:
        if by == "0":
            return pointer
        return self.e.op(f"getelementptr {kind}, ptr {{0}}, i64 {{1}}", pointer, by, type="ptr")

    def zeros(self) -> str:
        """A page of zeros."""
        zeros = f"internal constant [{ZERO_PAGE} x i8] zeroinitializer, align 64"
        self.e.declare(f"@zeros = {zeros}")
        return "@zeros"
