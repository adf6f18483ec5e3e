"""Scalar expressions as C++ text, at one point of a kernel.

In: an expression, and the C++ name of every index. Out: an operand, and lines before it that
compute it. A value is computed once in the block where it is first needed; moving what does not
change out of loops is left to the compiler of the text. Offsets and checks are in 32 bits where the
ranges of the indices prove that they fit, else in 64.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ...ir.affine import Affine, bounds, is_static
from ...ir.dtypes import HALVES
from ...ir.equation import Index
from ...ir.expr import Apply, Const, Expr, Idx, Read
from ...passes.lowering.access import Access, Statement
from .instructions import HIGHEST, SPELLING, cast, constant


class Writer:
    """The lines of one function. `extents` has the number of elements of every tensor, `types` the
    type that they have in memory."""

    def __init__(
        self,
        accesses: Mapping[Read, Access],
        sizes: Mapping[str, int],
        pointers: Mapping[str, str],
        extents: Mapping[str, int],
        types: Mapping[str, str],
    ):
        self.accesses, self.sizes, self.types = accesses, sizes, types
        # copied: shared memory adds names of its own
        self.pointers, self.extents = dict(pointers), dict(extents)
        self.lines: list[str] = []
        self.places: dict[str, str] = {}  # index → its C++ name
        # one dictionary for each open block: expression → the variable that holds it
        self._scopes: list[dict[Expr, str]] = [{}]
        self._depth = 1
        self._names = 0

    # --- text ----------------------------------------------------------------------------------

    def line(self, text: str) -> None:
        self.lines.append("  " * self._depth + text)

    @contextmanager
    def block(self, head: str = "", end: str = "}") -> Iterator[None]:
        """A block in braces; what is computed in it is known in it alone."""
        self.line(f"{head} {{".lstrip())
        self._depth += 1
        with self.aside():
            yield
        self._depth -= 1
        self.line(end)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is computed in it stays, and is not taken for known afterwards: indices may get
        other values."""
        # later equal values are computed anew
        self._scopes.append({})
        yield
        self._scopes.pop()

    def fresh(self, hint: str = "v") -> str:
        self._names += 1
        return f"{hint}{self._names}"

    def let(self, dtype: str, text: str, hint: str = "v") -> str:
        """A new constant."""
        name = self.fresh(hint)
        self.line(f"const {dtype} {name} = {text};")
        return name

    def unflatten(self, number: str, indices: tuple[Index, ...], kind: str = "i32") -> None:
        """The indices whose number, the last one fastest, is given."""
        # from the last index, which is the fastest
        stride = 1
        for position in range(len(indices) - 1, -1, -1):
            index = indices[position]
            text = number if stride == 1 else f"{number} / {stride}"
            # the first index needs no remainder: the number is below the product of all sizes
            if position:
                text = f"{text} % {index.size}"
            # an index with a single value; the compiler of the text folds it
            if index.size == 1:
                text = "0"
            self.place(index.name, f"(i32)({text})" if kind != "i32" else text)
            stride *= index.size

    def place(self, index: str, text: str) -> None:
        """Gives an index its value, here and inside."""
        # index names may have primes and spaces
        safe = "".join(c if c.isascii() and c.isalnum() else "_" for c in index)
        self.places[index] = self.let("i32", text, f"{safe}_")

    # --- values --------------------------------------------------------------------------------

    def value(self, expr: Expr) -> str:
        if isinstance(expr, Const):
            return constant(expr.value, expr.dtype)
        if isinstance(expr, Idx):
            return self.places[expr.name]
        # from the outermost block in: a variable found there is visible here
        for scope in self._scopes:
            if expr in scope:
                return scope[expr]
        name = self.let(expr.dtype, self._text(expr))
        self._scopes[-1][expr] = name
        return name

    def known(self, expr: Expr, name: str) -> None:
        """What the expression is here."""
        self._scopes[-1][expr] = name

    def _text(self, expr: Expr) -> str:
        if isinstance(expr, Read):
            return self._load(self.accesses[expr])
        assert isinstance(expr, Apply)
        args = [self.value(a) for a in expr.args]
        quotient = self._plain_quotient(expr, args)
        return quotient or SPELLING[expr.fn](tuple(a.dtype for a in expr.args), expr.dtype, args)

    def _plain_quotient(self, expr: Apply, args: list[str]) -> str:
        """A quotient or remainder of what is never negative by a positive constant."""
        # C++ truncates towards zero; for numbers that are not negative that is floor as well
        if expr.fn not in ("floordiv", "mod") or expr.dtype != "i32":
            return ""
        top, by = expr.args
        # what is data may be negative
        if not isinstance(by, Const) or by.value <= 0 or not is_static(top):
            return ""
        low, high = bounds(top, self.sizes)
        # nor may it overflow
        if low < 0 or high > HIGHEST["i32"]:
            return ""
        return f"{args[0]} {'/' if expr.fn == 'floordiv' else '%'} {args[1]}"

    # --- memory --------------------------------------------------------------------------------

    def form(self, form: Affine) -> tuple[str, str]:
        """The form's value, and whether that is an i32 or an i64."""
        # the largest absolute value that the sum, in any order, can reach
        reach = abs(form.constant) + sum(
            abs(c) * max(map(abs, bounds(a, self.sizes))) for a, c in form.coefficients.items()
        )
        kind = "i32" if reach <= HIGHEST["i32"] else "i64"
        parts = []
        for atom, factor in form.coefficients.items():
            # widened before multiplying, or the product would overflow first
            name = self.value(atom) if kind == "i32" else f"(i64){self.value(atom)}"
            parts.append(name if factor == 1 else f"{name} * {factor}")
        if form.constant or not parts:
            parts.append(str(form.constant))
        return " + ".join(parts).replace("+ -", "- "), kind

    def condition(self, checks: tuple[tuple[Affine, int], ...]) -> str:
        """Whether every form is inside its size."""
        # as unsigned numbers: a negative one becomes huge, so one comparison checks both ends
        tests = []
        for form, size in checks:
            text, kind = self.form(form)
            unsigned = "u32" if kind == "i32" else "u64"
            tests.append(f"({unsigned})({text}) < {size}u")
        return " && ".join(tests)

    def _load(self, access: Access) -> str:
        element = f"AT({self.element(access.tensor, access.offset)})"
        # in memory it is a byte
        if access.dtype == "bool":
            element = f"({element} != 0)"
        # arithmetic is in f32 or f64, memory may have 16 bits
        if access.dtype in HALVES:
            element = f"nn::wide_{access.dtype}({element})"
        # certainly inside
        if not access.checks:
            return element
        assert access.other is not None
        # a conditional expression: outside of the tensor memory is not read
        other = self.value(access.other)
        return f"({self.condition(access.checks)}) ? {element} : {other}"

    def element(self, tensor: str, offset: Affine) -> str:
        """An element of memory: the array, the place and the array's size."""
        place, _ = self.form(offset)
        return f"{self.pointers[tensor]}, {place}, {self.extents[tensor]}"

    def finish(self, statements: tuple[Statement, ...], results: list[tuple[str, str]]) -> None:
        """The statements on one element and their stores. The values of the first are `results`,
        each with its type."""
        for number, statement in enumerate(statements):
            if number < len(results):
                result, kind = results[number]
            else:
                result, kind = self.value(statement.value), statement.value.dtype
            text = cast(kind, statement.dtype, result)
            # a variable needs no second name
            name = text if text.isidentifier() else self.let(statement.dtype, text)
            # later statements of the kernel take the value from here and not from memory
            self.known(statement.element, name)
            # fused values that only later statements read are not stored
            if statement.offset is not None:
                memory = self.types.get(statement.target)
                stored = f"nn::narrow_{memory}({name})" if memory in HALVES else name
                self.line(f"AT({self.element(statement.target, statement.offset)}) = {stored};")
