"""Sparse pooling gradient: the gradient of a maximum over windows is summed where it is not 0.

    d[b, i, o]    = if at[b, i//2, o] == i % 2 then g[b, i//2, o] else 0.0
    dk[u, q, o]   = sum(b, i) d[b, i, o] * x[b, i+u, q]
    dx[b, r, q]   = sum(o, u) (d[b, r-u, o] else 0) * k[u, q, o]
  →
    p[b, i, o]    = g[b, i, o]
    dk[u, q, o]  += sum(b, i) p[b, i, o] * x[b, w(b, i, o) + u, q]
    dx[b, w(b, i, o) + u, q] += sum(b, o, i, u) p[b, i, o] * k[u, q, o]
                                where w(b, i, o) = 2*i + at[b, i, o]

d has the shape of what the maximum was taken of and is 0 at all elements of a window but the one
that was selected. The result works with one element per window: a sum over i has a term per window,
and an adjoint that gathered from d is scattered from the selected elements. After pooling by 2 x 2
this is a quarter of the multiplications. Applies if every reader of d can be rewritten, as d is not
needed then, and if vectors still run over neighbours (q above).
Tests: tests/passes/test_sparse_pooling_gradient.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from ...ir.affine import Affine, affine, inside, simplify_index
from ...ir.build import call, literal, rewrite, substitute
from ...ir.edit import SystemEdit
from ...ir.equation import Equation, Index, System
from ...ir.expr import Apply, Const, Expr, Idx, Read, index_names, reads, walk
from ...ir.sparsity_analysis import required_conditions, vanishes
from ...ir.terms import is_zero
from ...targets import EquationCosts, Target
from .simplify import remove_unused

MAX_WINDOW = int(np.iinfo(np.uint8).max)  # elements: the number of one passes through u8


def sparse_pooling_gradient(system: System, target: Target) -> System:
    """The system with sums over sparse gradients of windows as sums over the windows."""
    # One tensor at a time, then again on the rewritten system: a rewrite may make others possible.
    for eq in system.equations:
        sparse = _sparse(eq, system, target.equations)
        readers = system.readers.get(eq.target)
        if sparse is None or not readers:
            continue
        edit = SystemEdit(system)
        # All readers or none: with one left that reads d, d would be stored all the same.
        if all(_over_windows(r, sparse, edit, target.equations) for r in readers):
            return sparse_pooling_gradient(remove_unused(edit.result()), target)
    return system


# --- sparse tensors ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sparse:
    """`eq` is 0 but for one element of each window, whose number in the window `at` reads.
    `windows` gives, for an index of the equation, the length of a window along it and the number of
    windows; `value` is the body where it is not 0."""

    eq: Equation
    at: Read
    windows: Mapping[str, tuple[int, int]]
    value: Expr

    def selected(self, window: Mapping[str, Expr]) -> dict[str, Expr]:
        """The indices of the selected element of a window, from the window's indices."""
        at = Read(self.at.tensor, tuple(window[i.name] for i in self.eq.indices), None, "i32")
        stride = prod(length for length, _ in self.windows.values())
        number = call("i32", call("u8", at)) % stride
        # The digits of the row-major number: in a 2 x 2 window, row = number // 2, column = number
        # % 2.
        found = {}
        for name, (length, _) in self.windows.items():
            stride //= length
            found[name] = window[name] * length + number // stride % length
        return found

    def values(self, system: System) -> Equation:
        """The equation of the selected elements, over the windows."""
        indices = tuple(
            replace(i, size=self.windows[i.name][1]) if i.name in self.windows else i
            for i in self.eq.indices
        )
        eq = replace(self.eq, target=f"{self.eq.target}_picked", indices=indices)
        # The body holds at the selected element, where the condition of the select is true.
        places = {i.name: Idx(i.name) for i in indices} | self.selected(
            {i.name: Idx(i.name) for i in indices}
        )
        body = simplify_index(substitute(self.value, places), eq.sizes)
        # If the maximum itself is stored too, the pooled tensor at the selected element is that
        # maximum: the reads of it need no gather.
        argmax = system.definition[self.at.tensor]
        maximum = replace(argmax, reduce=argmax.reduce.removeprefix("arg"))  # type: ignore
        stored = next((e for e in system.equations if e.canonical == maximum.canonical), None)
        selected = tuple(simplify_index(places[i.name], eq.sizes) for i in indices)

        def change(node: Expr) -> Expr | None:
            if not isinstance(node, Read):
                return None
            pooled = isinstance(argmax.body, Read) and node.tensor == argmax.body.tensor
            if stored and pooled and node.index == selected:  # where the maximum was found
                return Read(stored.target, eq.place, None, node.dtype)
            # Guards that windows cut off at the edge of d needed are not needed over whole windows.
            bounds = zip(node.index, system.tensors[node.tensor].shape, strict=True)
            if node.other is not None and all(inside(e, n, eq.sizes) for e, n in bounds):
                return Read(node.tensor, node.index, None, node.dtype)
            return None

        return eq.with_body(rewrite(body, change))


def _sparse(eq: Equation, system: System, costs: EquationCosts) -> _Sparse | None:
    """The equation as the gradient of a maximum over windows, if it is one that is no output."""
    if eq.reduce or eq.at is not None or eq.target in system.roots:
        return None
    # Any of the conditions may be the comparison with the argmax: a relu before the pooling adds
    # one of its own.
    for condition, value in required_conditions(eq.body):
        found = _windows(eq, condition, system)
        if found is None:
            continue
        at, windows = found
        elements = prod(length for length, _ in windows.values())

        def is_outside(node: Expr, at: Read = at) -> bool:
            if not isinstance(node, Read) or node.other is None or not is_zero(node.other):
                return False
            return node.index == at.index

        # `at` reads outside for elements that belong to no window (the fifth of 5 by 2). These must
        # be 0, as they are if the value reads outside with them.
        complete = at.other is None or vanishes(value, is_outside)
        if complete and costs.min_pooling_window <= elements <= MAX_WINDOW:
            return _Sparse(eq, at, windows, value)
    return None


def _windows(
    eq: Equation, condition: Expr, system: System
) -> tuple[Read, dict[str, tuple[int, int]]] | None:
    """`at[b, i // 2, j // 2] == i % 2 * 2 + j % 2`: the read, and the windows by index."""
    if not isinstance(condition, Apply) or condition.fn != "eq":
        return None
    at, number = condition.args if isinstance(condition.args[0], Read) else condition.args[::-1]
    # argmin comes from a pooling by minimum; both store the position in the window.
    argmax = system.definition.get(at.tensor) if isinstance(at, Read) else None
    if not isinstance(at, Read) or argmax is None or argmax.reduce not in ("argmax", "argmin"):
        return None
    windows: dict[str, tuple[int, int]] = {}
    stride, expected = prod(i.size for i in argmax.over), Affine({}, 0)
    for own, place, count in zip(
        eq.indices, at.index, system.tensors[at.tensor].shape, strict=False
    ):
        index = Idx(own.name)
        if place is index:
            # b, o: an index that the maximum keeps.
            continue
        if not (isinstance(place, Apply) and place.fn == "floordiv" and place.args[0] is index):
            return None
        length = place.args[1].value if isinstance(place.args[1], Const) else own.size + 1
        if length * count > own.size:  # unknown, or the last window is cut off
            return None
        windows[own.name] = (int(length), count)
        stride //= int(length)
        expected += Affine({index % int(length): stride}, 0)
    # Each index of the window has been found, so that the strides end at 1, and the other side of
    # the comparison is exactly the row-major number in the window.
    complete = len(at.index) == len(eq.indices) and stride == 1
    return (at, windows) if complete and expected == affine(number) else None


# --- readers -------------------------------------------------------------------------------------


def _over_windows(eq: Equation, sparse: _Sparse, edit: SystemEdit, costs: EquationCosts) -> bool:
    """Whether a reader of the sparse tensor could be replaced by a sum over its windows."""
    found = [r for r in eq.reads if r.tensor == sparse.eq.target]
    # With two reads of d, or in a scatter, there is no one window per term.
    if len(found) != 1 or eq.reduce != "sum" or eq.at is not None:
        return False
    (read,) = found
    solved = _solved(eq, read, sparse) if _is_factor(eq.body, read) else None
    if solved is None:
        return False
    # k = n + rest for an index k of the reader: in the read of d, k now walks over the windows, and
    # everywhere else the selected element plus rest takes its place.
    values = sparse.values(edit.system)
    place = dict(zip(sparse.eq.sizes, read.index, strict=True))
    window = {n: Idx(solved[n][0]) if n in solved else place[n] for n in place}
    selected = sparse.selected(window)
    moves = {index: selected[n] + rest for n, (index, rest) in solved.items()}
    value = Read(edit.add(values), tuple(window.values()), None, read.dtype)

    # outermost what both factors depend on, then the windows, then what the others depend on
    domain = {i.name: i for i in (*eq.indices, *eq.over)}
    shared = [domain[e.name] for n, e in window.items() if n not in solved]  # type: ignore
    windows = [Index(index, sparse.windows[n][1]) for n, (index, _) in solved.items()]
    used = {i.name for i in (*shared, *windows)}
    own_over = [i for i in eq.over if i.name not in used]
    order = (*shared, *windows, *own_over, *(i for i in eq.indices if i.name not in used))
    sizes = {i.name: i.size for i in order}

    mark = Read("", (), None, read.dtype)  # nothing is to be substituted in the sparse factor
    body = simplify_index(substitute(_with(eq.body, read, mark), moves), sizes)
    body = _with(body, mark, value)
    # Only the sparse factor is left, as in the gradient of a bias: an ordinary sum over windows.
    if reads(body) == [value] and read.other is None:
        over = tuple(i for i in order if i not in eq.indices)
        edit.replace(replace(eq, over=over, body=body))
        return True
    # The gradient of a weight: its dimensions follow the loops, and a copy puts them back (below).
    # The adjoint of a convolution keeps its dimensions; its factors are copied instead.
    if read.other is None:
        outputs = tuple(i for i in order if i in eq.indices)
    else:
        outputs = eq.indices
        body = _with_loops_in_order(body, value, sizes, edit)
    at = tuple(simplify_index(moves.get(i.name, Idx(i.name)), sizes) for i in outputs)
    # The innermost loop must run over neighbours in memory, or the scatter costs more than the
    # zeros do.
    if not outputs or order[-1] != outputs[-1] or not _is_vector(body, order[-1], value, costs):
        return False
    # Proven inside, so that the scatter needs no bounds tests.
    if not all(inside(e, i.size, sizes) for e, i in zip(at, outputs, strict=True)):
        return False
    accumulated = Equation(eq.target, (), body, "sum", order, at, eq.span)
    if outputs == eq.indices:
        edit.replace(accumulated)
    else:
        # The accumulation's order of dimensions follows the loops; a copy puts it back.
        shape = tuple(i.size for i in outputs)
        name = edit.add(replace(accumulated, target=f"{eq.target}_transposed"), shape)
        edit.replace(replace(eq, over=(), reduce=None, body=Read(name, at, None, eq.dtype)))
    return True


def _solved(eq: Equation, read: Read, sparse: _Sparse) -> dict[str, tuple[str, Expr]] | None:
    """For each windowed index n of the sparse tensor an index k of the reader and an expression
    with k = n + expression. k is summed over, or an output where the read may fall outside."""
    place = dict(zip(sparse.eq.sizes, read.index, strict=True))
    # Dimensions without windows must be addressed by plain indices.
    if not all(isinstance(e, Idx) for n, e in place.items() if n not in sparse.windows):
        return None
    if read.other is not None and not is_zero(read.other):
        return None
    # k = n + rest is solved for a summed index where d is read whole (a weight's gradient), for an
    # output where the read is guarded (the adjoint of a convolution).
    candidates = {i.name for i in (eq.over if read.other is None else eq.indices)}
    found: dict[str, tuple[str, Expr]] = {}
    for name in sparse.windows:
        form = affine(place[name])
        unknown = [
            atom.name
            for atom, factor in form.coefficients.items()
            if isinstance(atom, Idx) and atom.name in candidates and factor == 1
        ]
        if len(unknown) != 1:
            return None
        rest = form.without(Idx(unknown[0])).scaled(-1)
        whole = rest.expr() is literal(0) and eq.sizes[unknown[0]] == sparse.eq.sizes[name]
        # Without `else`, k must run over exactly the elements of d: k = n.
        if not (
            whole if read.other is None else all(isinstance(a, Idx) for a in rest.coefficients)
        ):
            return None
        found[name] = unknown[0], rest.expr()
    indices = {index for index, _ in found.values()}
    used = [rest for _, rest in found.values()]
    if read.other is not None:
        used += [r for r in reads(eq.body) if r is not read]
    # Solving for one k must not bring in another; where the read is guarded, k is an output that
    # moves, so no other factor may depend on it.
    independent = all(indices.isdisjoint(index_names(e)) for e in used)
    return found if len(indices) == len(found) and independent else None


def _with(expr: Expr, old: Expr, new: Expr) -> Expr:
    return rewrite(expr, lambda node: new if node is old else None)


def _is_factor(expr: Expr, read: Read) -> bool:
    """Whether the expression is a product with the read, possibly rounded, as a factor, and has it
    nowhere else."""
    if expr is read:
        return True
    if not isinstance(expr, Apply) or expr.fn not in ("mul", "neg", "bf16"):
        return False
    holding = [x for x in expr.args if read in walk(x)]
    return len(holding) == 1 and _is_factor(holding[0], read)


def _is_vector(body: Expr, last: Index, value: Read, costs: EquationCosts) -> bool:
    """Whether vectors can run over the index: it is long, and reads lie along it or do not depend
    on it."""
    if last.size < costs.vector_extent or last.name in index_names(value):
        return False
    along = [r for r in reads(body) if last.name in index_names(r)]
    return bool(along) and all(
        r.index[-1] is Idx(last.name) and not any(last.name in index_names(e) for e in r.index[:-1])
        for r in along
    )


def _with_loops_in_order(
    body: Expr, value: Read, sizes: Mapping[str, int], edit: SystemEdit
) -> Expr:
    """The body with the factors that are read whole copied into the order of the loops."""
    order = list(sizes)
    # Only factors whose dimensions are not in the order of the loops: one pass to copy, instead of
    # strided reads for every window.
    for read in reads(body):
        names = [e.name for e in read.index if isinstance(e, Idx)]
        ordered = sorted(names, key=order.index)
        shape = tuple(sizes[n] for n in names)
        if read is value or names == ordered or len(names) != len(read.index):
            continue
        if shape != edit.system.tensors[read.tensor].shape:
            continue
        indices = tuple(Index(n, sizes[n]) for n in ordered)
        plain = Read(read.tensor, read.index, None, read.dtype)
        copy = Equation(f"{read.tensor}_transposed", indices, plain)
        body = _with(body, read, Read(edit.add(copy), copy.place, None, read.dtype))
    return body
