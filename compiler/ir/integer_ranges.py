"""The range of every integer in a system: interval analysis (Moore 1966), exact arithmetic.

In: a system. Out: for every integer tensor, and for every integer expression of an equation, the
least and the greatest value that it can have, before it is cut to its type. An input of which every
element is an index is known to be inside: the runtime looks at the data before they are computed
with (`input_limits`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import prod

from .affine import Interval, bounds, is_affine
from .dtypes import INTEGERS, is_float
from .equation import Equation, System, is_recurrent
from .expr import Apply, Const, Expr, Idx, Read, reads, walk

Known = Mapping[str, Interval]  # the ranges of tensors


def integer_ranges(system: System) -> Known:
    """The range of every tensor of integers."""
    known: dict[str, Interval] = {}
    for tensor in system.tensors.values():
        if tensor.kind != "temp" and not is_float(tensor.dtype):
            known[tensor.name] = INTEGERS[tensor.dtype]
    known |= {name: (0, limit - 1) for name, limit in (system.index_inputs or {}).items()}
    # Steps are counted from 1.
    scalars = {"step": (1, 2**31 - 1), "microbatches_left": (0, 2**15 - 1)}
    known |= {n: scalars[n] for n in (t.name for t in system.of_kind("input")) if n in scalars}
    for component in system.components:
        whole = [eq for eq in component if not is_float(system.tensors[eq.target].dtype)]
        # A recurrence may reach any value of its type, but where its body says otherwise.
        for eq in whole:
            known[eq.target] = INTEGERS[eq.dtype]
        if not is_recurrent(component):
            for eq in whole:
                known[eq.target] = cut(result_range(eq, known), eq.dtype)
        else:
            for eq in whole:
                if eq.reduce in ("argmax", "argmin"):
                    known[eq.target] = result_range(eq, known)
    return known


def cut(interval: Interval, dtype: str) -> Interval:
    """The range after what does not fit the type has been refused."""
    least, greatest = INTEGERS[dtype]
    return max(min(interval[0], greatest), least), min(max(interval[1], least), greatest)


def result_range(eq: Equation, known: Known) -> Interval:
    """The range of an equation's exact results."""
    count = prod(i.size for i in eq.over)
    if eq.reduce in ("argmax", "argmin"):
        return 0, count - 1
    low, high = expression_range(eq.body, eq.sizes, known)
    if eq.reduce == "sum":
        # An accumulation starts from 0, and any part of its terms may go to one place.
        ends = [low * count, high * count, *((0,) if eq.at is not None else ())]
        return min(ends), max(ends)
    if eq.reduce == "prod":
        # The extremes of a product of many: by magnitude, or small and positive.
        largest = max(abs(low), abs(high)) ** min(count, 64)
        return (min(low, -largest) if low < 0 else 0), largest
    return low, high


def expression_range(expr: Expr, sizes: Mapping[str, int], known: Known) -> Interval:
    """The range of an integer expression's exact value, where its operands are in their types."""
    return _Ranges(sizes, known)(expr)


class _Ranges:
    """The ranges of the expressions of one equation; each is computed once."""

    def __init__(self, sizes: Mapping[str, int], known: Known):
        self.sizes, self.known = sizes, known
        self.memo: dict[Expr, Interval] = {}

    def __call__(self, expr: Expr) -> Interval:
        # From the operands up, without recursion.
        if expr not in self.memo:
            for node in walk(expr):
                if node not in self.memo and not is_float(node.dtype):
                    self.memo[node] = self._of(node)
        return self.memo[expr]

    def _of(self, node: Expr) -> Interval:
        if isinstance(node, Const):
            return int(node.value), int(node.value)
        if isinstance(node, Idx):
            return 0, self.sizes[node.name] - 1
        if isinstance(node, Read):
            found = self.known.get(node.tensor, INTEGERS[node.dtype])
            return found if node.other is None else _union(found, self._operand(node.other))
        assert isinstance(node, Apply)
        found = self._applied(node)
        # Terms of one index cancel: i + 1 - i.
        if node.fn in ("add", "sub", "mul", "neg") and is_affine(node):
            exact = bounds(node, self.sizes)
            found = max(found[0], exact[0]), min(found[1], exact[1])
        return found

    def _operand(self, expr: Expr) -> Interval:
        """The range of an operand, which has been cut to its type."""
        if is_float(expr.dtype):
            return INTEGERS["i64"]
        return cut(self.memo[expr], expr.dtype)

    def _applied(self, node: Apply) -> Interval:
        if node.dtype == "bool":
            return 0, 1
        args = [self._operand(a) for a in node.args]
        if node.fn == "select":
            return _union(*args[1:])
        if node.fn in INTEGERS:
            # A float may be anything, and what does not fit is refused; so is an integer.
            return args[0] if not is_float(node.args[0].dtype) else INTEGERS[node.fn]
        rule = _RULES.get(node.fn)
        return INTEGERS[node.dtype] if rule is None else rule(*args)


def _union(a: Interval, b: Interval) -> Interval:
    return min(a[0], b[0]), max(a[1], b[1])


def _ends(operation: Callable[[int, int], int]) -> Callable[[Interval, Interval], Interval]:
    """The range of an operation that is monotonic in either operand."""

    def combined(a: Interval, b: Interval) -> Interval:
        values = [operation(x, y) for x in a for y in b]
        return min(values), max(values)

    return combined


def _floordiv(a: Interval, b: Interval) -> Interval:
    # The divisors nearest to zero and the ends; a division by 0 is refused.
    divisors = [d for d in {*b, -1, 1} if d and b[0] <= d <= b[1]] or [1]
    values = [x // d for x in a for d in divisors]
    return min(values), max(values)


def _mod(a: Interval, b: Interval) -> Interval:
    if b[0] == b[1] and b[0] > 0 and a[0] // b[0] == a[1] // b[0]:
        return a[0] % b[0], a[1] % b[0]
    return min(0, b[0] + 1), max(0, b[1] - 1)


def _pow(a: Interval, b: Interval) -> Interval:
    if b[1] > 64 or b[0] < 0:
        # Anything, unless the base cannot grow.
        return (min(a[0], 0), 1) if a[0] >= -1 and a[1] <= 1 else (-(2**64), 2**64)
    values = [x**y for x in {*a, *(n for n in (-1, 0, 1) if a[0] <= n <= a[1])} for y in b]
    # The sign changes from one power to the next.
    if a[0] < 0:
        values += [a[0] ** y for y in (b[1] - 1, b[0] + 1) if b[0] <= y <= b[1]]
    return min(values), max(values)


def _magnitude(a: Interval) -> Interval:
    return (0 if a[0] <= 0 <= a[1] else min(map(abs, a))), max(map(abs, a))


_RULES: dict[str, Callable[..., Interval]] = {
    "add": lambda a, b: (a[0] + b[0], a[1] + b[1]),
    "sub": lambda a, b: (a[0] - b[1], a[1] - b[0]),
    "mul": _ends(lambda x, y: x * y),
    "floordiv": _floordiv,
    "mod": _mod,
    "pow": _pow,
    "max": _ends(max),
    "min": _ends(min),
    "neg": lambda a: (-a[1], -a[0]),
    "abs": _magnitude,
    "sign": lambda a: ((a[0] > 0) - (a[0] < 0), (a[1] > 0) - (a[1] < 0)),
    "stop": lambda a: a,
    "after": lambda a, b: a,
}


# --- indices that are inputs ----------------------------------------------------------------------


def input_limits(system: System) -> dict[str, int]:
    """For every input of which each element is used as an index, whatever the data: the smallest
    dimension that it indexes. What the data hold is compared with it before a run."""
    limits: dict[str, int] = {}
    for _, name, size in index_uses(system):
        limits[name] = min(size, limits.get(name, size))
    return limits


def index_uses(system: System) -> Iterator[tuple[Equation, str, int]]:
    """The equations that use every element of an input as an index, with its name and the size of
    the dimension."""
    for eq in system.equations:
        if not _gathers(eq.body):
            continue
        for node in _always(eq.body):
            if not isinstance(node, Read) or node.other is not None:
                continue
            for place, size in zip(node.index, system.tensors[node.tensor].shape, strict=True):
                read = _plain_read(place, system)
                tensor = None if read is None else system.tensors[read.tensor]
                if read is None or tensor is None or tensor.kind != "input":
                    continue
                if not is_float(tensor.dtype) and _is_whole(read, tensor.shape, eq.sizes):
                    yield eq, tensor.name, size


def _gathers(body: Expr) -> bool:
    """Whether an index in an expression reads a tensor."""
    return any(reads(place) for read in reads(body) for place in read.index)


def _plain_read(place: Expr, system: System) -> Read | None:
    """The read that an index is, if it is nothing else; of what a copy copies."""
    while isinstance(place, Apply) and place.fn in ("i32", "i64", "stop"):
        place = place.args[0]
    if not isinstance(place, Read) or place.other is not None:
        return None
    eq = system.definition.get(place.tensor)
    if eq is None or eq.reduce is not None or eq.at is not None:
        return place
    own = tuple(Idx(i.name) for i in eq.indices)
    copied = _plain_read(eq.body, system)
    if copied is None or copied.index != own:
        return place
    return Read(copied.tensor, place.index, None, copied.dtype)


def _is_whole(read: Read, shape: tuple[int, ...], sizes: Mapping[str, int]) -> bool:
    """Whether an equation reads every element: at distinct indices that run over all of it."""
    names = [i.name for i in read.index if isinstance(i, Idx)]
    return len(set(names)) == len(shape) and all(
        sizes[n] == s for n, s in zip(names, shape, strict=True)
    )


def _always(body: Expr) -> list[Expr]:
    """The nodes that are evaluated at every point: none that a condition may leave out."""
    found: dict[Expr, None] = {}
    stack = [body]
    while stack:
        node = stack.pop()
        if node in found:
            continue
        found[node] = None
        if isinstance(node, Apply) and node.fn in ("select", "and", "or"):
            stack.append(node.args[0])
        elif isinstance(node, Read):
            stack += node.index
        else:
            stack += node.children
    return list(found)
