"""Sparse gradients of windows: what is zero at all places of a window but one is summed there only.

In: a system in which the gradient of a maximum over windows has the shape of what it was taken of:

    d[b, i, o] = if at[b, i//2, o] == i % 2 then g[b, i//2, o] else 0.0

Out: an equal one that works with the values picked, one for each window, p[b, i, o] = g[b, i, o],
and puts i = 2*i + at[b, i, o] where the place matters. A sum over i then has a term per window; an
adjoint that collected from d adds, window by window, to the places that the value came from:

    dk[u, q, o]  = sum(b, i) d[b, i, o] * x[b, i+u, q]
                 = sum(b, i) p[b, i, o] * x[b, 2*i + at[b, i, o] + u, q]
    dx[b, r, q]  = sum(o, u) (d[b, r-u, o] else 0) * k[u, q, o]
    dx[b, 2*i + at[b, i, o] + u, q] += sum(b, o, i, u, q) p[b, i, o] * k[u, q, o]

Only if every reader of d can do so, for then d is not needed, and only where vectors still run over
neighbours (q above). After pooling by 2 x 2 this is a quarter of the multiplications.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod

from ...ir.affine import affine, inside, simplify_index
from ...ir.build import call, literal, rewrite, substitute
from ...ir.equation import Equation, Index, System, Tensor, free_name
from ...ir.expr import Apply, Const, Expr, Idx, Read, index_names, reads, walk
from ...ir.terms import is_zero
from .simplify import remove_unused

SMALLEST = 3  # places of a window; a sum by places costs up to twice as much per term
LARGEST = 255  # places that fit in a byte
VECTOR = 16  # neighbours that are worth a vector


def sparse_pooling_gradient(system: System) -> System:
    """The system with the sparse gradients of windows summed at the places picked."""
    for eq in system.equations:
        sparse = _sparse(eq, system)
        if sparse is None:
            continue
        readers = [r for r in system.equations if eq.target in r.sources]
        found = [_Reader(r, sparse, system).rewritten() for r in readers]
        if readers and all(found):
            return sparse_pooling_gradient(
                _replaced(system, sparse, readers, [new for new in found if new])
            )
    return system


# --- what is sparse ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sparse:
    """`eq` is zero but where `at`, at the windows' indices, says so. `windows` gives, for an index
    of the equation, how long a window is along it and how many windows there are; `picked` computes
    the values, one per window, over the same index names."""

    eq: Equation
    at: Read
    windows: Mapping[str, tuple[int, int]]
    picked: Equation

    def place(self, names: Mapping[str, Expr]) -> dict[str, Expr]:
        """Where along each index the window's value came from; `names` are the windows' indices."""
        at = Read(self.at.tensor, tuple(names[i.name] for i in self.eq.indices), None, "i32")
        total = prod(size for size, _ in self.windows.values())
        code = call("mod", call("i32", call("u8", at)), total)
        places, stride = {}, total
        for name, (size, _) in self.windows.items():
            stride //= size
            digit = call("mod", call("floordiv", code, stride), size)
            places[name] = call("add", call("mul", names[name], size), digit)
        return places


def _sparse(eq: Equation, system: System) -> _Sparse | None:
    """The equation as the gradient of a maximum over windows, if it is one that nobody else needs
    as it is."""
    if eq.reduce or eq.at is not None or eq.target in system.roots:
        return None
    for condition, rest in _conditions(eq.body):
        found = _window(eq, condition, system)
        if found is None or not _vanishes(rest, found[0]):
            continue
        at, windows = found
        count = prod(size for size, _ in windows.values())
        if not SMALLEST <= count <= LARGEST:
            continue
        indices = tuple(
            replace(i, size=windows[i.name][1]) if i.name in windows else i for i in eq.indices
        )
        sparse = _Sparse(eq, at, windows, replace(eq, indices=indices))
        return replace(sparse, picked=_picked(sparse, rest, system))
    return None


def _conditions(body: Expr) -> Iterator[tuple[Apply, Expr]]:
    """Each condition without which the body is zero, with the body that is left without it."""
    if not (isinstance(body, Apply) and body.fn == "select" and is_zero(body.args[2])):
        return
    condition, value, zero = body.args
    if isinstance(condition, Apply):
        yield condition, value
    for inner, rest in _conditions(value):
        yield inner, call("select", condition, rest, zero)


def _window(
    eq: Equation, condition: Apply, system: System
) -> tuple[Read, dict[str, tuple[int, int]]] | None:
    """`at[b, i // 2, j // 2] == i % 2 * 2 + j % 2`: the read, and the windows by index."""
    if condition.fn != "eq":
        return None
    at, form = condition.args if isinstance(condition.args[0], Read) else condition.args[::-1]
    maker = system.definition.get(at.tensor) if isinstance(at, Read) else None
    if not isinstance(at, Read) or maker is None or maker.reduce not in ("argmax", "argmin"):
        return None
    shape = system.tensors[at.tensor].shape
    windows, digits, stride = {}, [], prod(i.size for i in maker.over)
    for own, place, count in zip(eq.indices, at.index, shape, strict=False):
        if place is Idx(own.name):
            continue
        if not (isinstance(place, Apply) and place.fn == "floordiv"):
            return None
        size = place.args[1]
        if place.args[0] is not Idx(own.name) or not isinstance(size, Const):
            return None
        if size.value * count > own.size:  # a window that is cut off
            return None
        length = int(size.value)
        windows[own.name] = (length, count)
        stride //= length
        digits.append((own.name, length, stride))
    complete = len(at.index) == len(eq.indices) and stride == 1
    expected: Expr = literal(0)
    for name, length, factor in digits:
        digit = call("mod", Idx(name), length)
        expected = call("add", expected, call("mul", digit, factor))
    return (at, windows) if complete and affine(expected) == affine(form) else None


def _vanishes(rest: Expr, at: Read) -> bool:
    """Whether what is left is zero wherever the window itself falls outside."""
    if at.other is None:
        return True
    if isinstance(rest, Read):
        return rest.index == at.index and rest.other is not None and is_zero(rest.other)
    if isinstance(rest, Apply) and rest.fn == "select":
        return is_zero(rest.args[2]) and _vanishes(rest.args[1], at)
    return (
        isinstance(rest, Apply)
        and rest.fn in ("mul", "neg")
        and any(_vanishes(x, at) for x in rest.args)
    )


def _picked(sparse: _Sparse, rest: Expr, system: System) -> Equation:
    """The values, one per window. What the maximum was taken of is, there, the maximum."""
    eq, sizes = sparse.picked, sparse.picked.sizes
    names: dict[str, Expr] = {i.name: Idx(i.name) for i in eq.indices}
    body = simplify_index(substitute(rest, sparse.place(names)), sizes)
    maker = system.definition[sparse.at.tensor]
    extreme = maker.reduce.removeprefix("arg")  # type: ignore[union-attr]
    maximum = next((e for e in system.equations if e.reduce == extreme and _alike(e, maker)), None)
    of = maker.body

    def change(node: Expr) -> Expr | None:
        if not isinstance(node, Read):
            return None
        own = tuple(names.values())
        if maximum is not None and isinstance(of, Read) and node.tensor == of.tensor:
            places = sparse.place(names)
            if node.index == tuple(simplify_index(places.get(n, Idx(n)), sizes) for n in names):
                return Read(maximum.target, own, None, node.dtype)
        shape = system.tensors[node.tensor].shape
        if node.other is not None and all(map(inside, node.index, shape, [sizes] * len(shape))):
            return Read(node.tensor, node.index, None, node.dtype)
        return None

    name = free_name(f"{eq.target}_picked", system.tensors)
    return replace(eq, target=name, body=rewrite(body, change))


def _alike(a: Equation, b: Equation) -> bool:
    """Whether both reduce the same values in the same order."""
    if [i.size for i in a.domain] != [i.size for i in b.domain] or a.at is not None:
        return False
    names = {x.name: Idx(y.name) for x, y in zip(a.domain, b.domain, strict=True)}
    return substitute(a.body, names) is b.body


# --- who reads it --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rewritten:
    equations: tuple[Equation, ...]
    tensors: tuple[Tensor, ...] = ()


class _Reader:
    """A sum over the places of a sparse tensor, as one over its windows."""

    def __init__(self, eq: Equation, sparse: _Sparse, system: System):
        self.eq, self.sparse, self.system = eq, sparse, system
        found = [r for r in eq.reads if r.tensor == sparse.eq.target]
        self.read = found[0] if len(found) == 1 else None

    def rewritten(self) -> _Rewritten | None:
        read, eq = self.read, self.eq
        if read is None or eq.reduce != "sum" or eq.at is not None or not _factor(eq.body, read):
            return None
        place = dict(zip((i.name for i in self.sparse.eq.indices), read.index, strict=True))
        over, own = {i.name for i in eq.over}, {i.name for i in eq.indices}
        plain = all(
            isinstance(place[i.name], Idx)
            for i in self.sparse.eq.indices
            if i.name not in self.sparse.windows
        )
        windows = [place[name] for name in self.sparse.windows]
        if not plain:
            return None
        if all(isinstance(p, Idx) and p.name in over for p in windows) and read.other is None:
            return self._summed(read, place)
        if read.other is not None and is_zero(read.other):
            return self._scattered(read, place, own)
        return None

    # dk[u, q, o] = sum(b, i) d[b, i, o] * x[b, i+u, q]

    def _summed(self, read: Read, place: Mapping[str, Expr]) -> _Rewritten | None:
        """The places were summed over: so are the windows."""
        eq, sparse = self.eq, self.sparse
        count = {
            p.name: sparse.windows[name]
            for name, p in place.items()
            if name in sparse.windows and isinstance(p, Idx)
        }
        if len(count) < len(sparse.windows) or any(
            i.size != own.size
            for i in eq.over
            if i.name in count
            for own in sparse.eq.indices
            if place[own.name] is Idx(i.name)
        ):
            return None
        over = tuple(replace(i, size=count[i.name][1]) if i.name in count else i for i in eq.over)
        moves = {place[n].name: e for n, e in sparse.place(place).items()}  # type: ignore[attr-defined]
        sizes = {i.name: i.size for i in (*eq.indices, *over)}
        value = Read(sparse.picked.target, read.index, None, read.dtype)
        body = self._body(read, value, moves, sizes)
        if reads(body) == [value]:
            return _Rewritten((replace(eq, over=over, body=body),))
        near = index_names(value)
        outputs = [i for i in eq.indices if i.name in near]
        outputs += [i for i in eq.indices if i.name not in near]
        if not self._in_vectors(body, outputs[-1], value):
            return None
        order = [i for i in over if i.name not in count]
        order += [i for i in outputs if i.name in near]
        order += [i for i in over if i.name in count]
        order += [i for i in outputs if i.name not in near]
        at = tuple(Idx(i.name) for i in outputs)
        if outputs == list(eq.indices):
            return _Rewritten((Equation(eq.target, (), body, "sum", tuple(order), at, eq.span),))
        transposed = self._transposed(eq.target, [i.size for i in outputs])
        copy = replace(
            eq, over=(), reduce=None, body=Read(transposed.name, at, None, transposed.dtype)
        )
        total = Equation(transposed.name, (), body, "sum", tuple(order), at, eq.span)
        return _Rewritten((total, copy), (transposed,))

    # dx[b, r, q] = sum(o, u) (d[b, r-u, o] else 0) * k[u, q, o]

    def _scattered(self, read: Read, place: Mapping[str, Expr], own: set[str]) -> _Rewritten | None:
        """The places were solved for: each window adds to where its value came from."""
        eq, sparse = self.eq, self.sparse
        indices = {i.name: i for i in sparse.picked.indices}
        moved: dict[str, tuple[str, Expr]] = {}  # index of d → output index, how far it is moved
        for name in sparse.windows:
            form = affine(place[name])
            unknown = [
                a.name
                for a, c in form.coefficients.items()
                if isinstance(a, Idx) and a.name in own and c == 1
            ]
            if len(unknown) != 1:
                return None
            rest = form.without(Idx(unknown[0])).scaled(-1)
            if not all(isinstance(a, Idx) for a in rest.coefficients):
                return None
            moved[name] = (unknown[0], rest.expr())
        solved = {output for output, _ in moved.values()}
        if len(solved) != len(moved) or any(
            index_names(rest) & solved for _, rest in moved.values()
        ):
            return None
        # the windows are run through under the names of the outputs that they are solved for
        names: dict[str, Expr] = {n: Idx(moved[n][0]) if n in moved else place[n] for n in indices}
        places = sparse.place(names)
        moves = {output: call("add", places[n], rest) for n, (output, rest) in moved.items()}
        windows = [Index(moved[n][0], indices[n].size) for n in moved]
        value = Read(sparse.picked.target, tuple(names.values()), None, read.dtype)
        if any(index_names(r) & solved for r in reads(eq.body) if r is not read):
            return None
        near = index_names(value) - solved
        order = [i for i in (*eq.indices, *eq.over) if i.name in near]
        order += windows
        order += [i for i in eq.over if i.name not in near]
        order += [i for i in eq.indices if i.name not in near | solved]
        sizes = {i.name: i.size for i in order}
        at = tuple(simplify_index(moves.get(i.name, Idx(i.name)), sizes) for i in eq.indices)
        shape = self.system.tensors[eq.target].shape
        last = eq.indices[-1]
        if order[-1] != last or not all(map(inside, at, shape, [sizes] * len(shape))):
            return None
        body = self._body(read, value, {}, sizes)
        body, copies, tensors = self._lying(body, value, [i.name for i in order], sizes)
        if not self._in_vectors(body, last, value):
            return None
        total = Equation(eq.target, (), body, "sum", tuple(order), at, eq.span)
        return _Rewritten((*copies, total), tuple(tensors))

    def _body(
        self, read: Read, value: Read, moves: Mapping[str, Expr], sizes: Mapping[str, int]
    ) -> Expr:
        """The body with the picked value in place of the read, and everything else moved."""
        mark = Read("", (), None, read.dtype)  # where nothing is to be substituted
        moved = simplify_index(substitute(_with(self.eq.body, read, mark), moves), sizes)
        return _with(moved, mark, value)

    def _in_vectors(self, body: Expr, last: Index, value: Read) -> bool:
        """Whether vectors can run over the index: it is long, and reads lie along it or do not
        depend on it."""
        if last.size < VECTOR or last.name in index_names(value):
            return False
        others = [r for r in reads(body) if last.name in index_names(r)]
        return bool(others) and all(
            r.index[-1] is Idx(last.name)
            and not any(last.name in index_names(e) for e in r.index[:-1])
            for r in others
        )

    def _lying(
        self, body: Expr, value: Read, order: list[str], sizes: Mapping[str, int]
    ) -> tuple[Expr, list[Equation], list[Tensor]]:
        """The other factors copied with their dimensions in the order of the loops."""
        copies, tensors = [], []
        for read in reads(body):
            names = [e.name for e in read.index if isinstance(e, Idx)]
            ordered = sorted(names, key=order.index)
            if read is value or names == ordered or len(names) != len(read.index):
                continue
            if tuple(sizes[n] for n in names) != self.system.tensors[read.tensor].shape:
                continue
            tensor = self._transposed(read.tensor, [sizes[n] for n in ordered])
            places = tuple(Idx(n) for n in ordered)
            indices = tuple(Index(n, sizes[n]) for n in ordered)
            plain = Read(read.tensor, read.index, None, read.dtype)
            copies.append(Equation(tensor.name, indices, plain, span=self.eq.span))
            tensors.append(tensor)
            transposed = Read(tensor.name, places, None, read.dtype)
            body = _with(body, read, transposed)
        return body, copies, tensors

    def _transposed(self, source: str, shape: list[int]) -> Tensor:
        name = free_name(f"{source}_transposed", self.system.tensors)
        old = self.system.tensors[source]
        return Tensor(name, tuple(shape), old.dtype, "temp", "", old.span)


def _with(expr: Expr, old: Expr, new: Expr) -> Expr:
    return rewrite(expr, lambda n: new if n is old else None)


def _factor(expr: Expr, read: Read) -> bool:
    """Whether the expression is a product with the read as a factor, which may be rounded, and has
    it nowhere else."""
    if expr is read:
        return True
    if not isinstance(expr, Apply) or expr.fn not in ("mul", "neg", "bf16"):
        return False
    holding = [x for x in expr.args if read in walk(x)]
    return len(holding) == 1 and _factor(holding[0], read)


def _replaced(
    system: System, sparse: _Sparse, readers: list[Equation], found: list[_Rewritten]
) -> System:
    """The system with the picked values, and the readers as they are now."""
    now = {r.target: new.equations for r, new in zip(readers, found, strict=True)}
    equations = [fresh for eq in system.equations for fresh in now.get(eq.target, (eq,))]
    shape = tuple(i.size for i in sparse.picked.indices)
    old = system.tensors[sparse.eq.target]
    fresh = [replace(old, name=sparse.picked.target, shape=shape)]
    fresh += [tensor for new in found for tensor in new.tensors]
    tensors = {**system.tensors, **{t.name: t for t in fresh}}
    changed = system.replace(equations=(*equations, sparse.picked), tensors=tensors)
    return remove_unused(changed.in_order())
