"""Finds attention: matrices with an element for every query and key, and what reduces them.

    score[t, s] = sum(a) q[t, a] * k[s, a]                  a product of queries and keys
    p[t, s]     = exp(score[t, s] - max(s) score[t, s])     elementwise
    y[t, c]     = sum(s) p[t, s] * v[s, c]                  reduces the columns: a row's result
    d_k[s, a]   = sum(t) d_score[t, s] * q[t, a]            reduces the rows, in the gradient

The search starts from a softmax, the maximum over keys of a score that contains such a product.
What is computed from it element by element is an attention matrix, too, and so are the products
that are read beside it (the gradient of the weights). Equations that sum or maximise the matrices
along one axis are their reductions, rewritten so that they read the products alone. Names, the
order of indices, masks and whatever else a score depends on play no part.

Either all readers of the matrices are reductions, or the matrices must be stored and nothing is
gained; then `problem` says which reader it is. What kernels are made of it is decided elsewhere
(`flash_attention.py`, `row_sums.py`). Tests: tests/passes/test_attention.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ....ir.build import cast, rewrite, substitute
from ....ir.equation import Equation, Index, System, free_name
from ....ir.expr import Expr, Idx, Read, index_names, reads
from ....ir.terms import factors, product, simplify_read_indices, unify_indices
from .attention_kernel import MatrixProduct

Axes = tuple[int, int]  # the positions of query and key among a matrix's indices


class NotAttention(Exception):
    """Why matrices of scores must be stored."""


@dataclass(frozen=True)
class MatrixReduction:
    """An equation that reduces attention matrices over `column`, for each `row`: of these two axes
    one is the query and one the key. `extra` are further indices that are reduced.

    What is reduced is the product of `weight`, which depends on matrices, `factor`, which has the
    result's indices `features` and not `row`, and `outer`, which is the same for all columns."""

    equation: Equation
    row: Index
    column: Index
    extra: tuple[Index, ...]
    batch: tuple[Index, ...]
    features: tuple[Index, ...]
    products: tuple[MatrixProduct, ...]
    weight: tuple[Expr, ...]
    factor: tuple[Expr, ...]
    outer: tuple[Expr, ...]


@dataclass
class Attention:
    """The matrices of one softmax, `elementwise` those that are no products, and their reductions.
    `full_sums` are over queries and keys, each with the name of its key. With a `problem` the
    matrices must be stored."""

    softmax: Equation
    matrices: dict[str, Axes] = field(default_factory=dict)
    elementwise: set[str] = field(default_factory=set)
    reductions: list[MatrixReduction] = field(default_factory=list)
    full_sums: list[tuple[Equation, str]] = field(default_factory=list)
    problem: str = ""


def find_attention(system: System) -> list[Attention]:
    """Every softmax over a product of queries and keys, in the order of the equations."""
    finder = _Finder(system)
    found: list[Attention] = []
    for equation in system.equations:
        known = any(r.equation is equation for each in found for r in each.reductions)
        if equation.reduce != "max" or known:
            continue
        attention = finder.attention(equation)
        if attention is not None:
            found.append(attention)
    return found


class _Finder:
    def __init__(self, system: System):
        self.system = system
        self.definition = system.definition

    def attention(self, softmax: Equation) -> Attention | None:
        """The attention of a maximum, or None if it is not over a product of queries and keys."""
        if len(softmax.over) != 1 or softmax.target in self.system.recurrent:
            return None
        first = self._score_product(softmax.body, softmax, set())
        if first is None:
            return None
        found = Attention(softmax, dict([first]))
        try:
            for eq in self._grow(found):
                query, key = self._axes(eq, found)
                if eq.reduce == "sum" and {query, key} <= {i.name for i in eq.over}:
                    found.full_sums.append((eq, key))
                else:
                    found.reductions.append(self._reduction(eq, query, key, found))
        except NotAttention as problem:
            found.problem = str(problem)
        return found

    # --- which tensors are attention matrices --------------------------------------------------

    def _score_product(
        self, expr: Expr, softmax: Equation, visited: set[Read]
    ) -> tuple[str, Axes] | None:
        """The product that a score is computed from, and its axes."""
        key = softmax.over[0].name
        for read in reads(expr):
            eq = self._recomputable(read.tensor)
            if eq is None or key not in index_names(read) or read.other is not None:
                continue
            if read in visited:
                continue
            visited.add(read)
            if eq.reduce is None:
                found = self._score_product(_inlined(eq, read), softmax, visited)
                if found is not None:
                    return found
            keys = [n for n, e in enumerate(read.index) if e is Idx(key)]
            if len(keys) != 1 or not self._is_product(eq):
                continue
            _, key_factors = _operands(eq, eq.indices[keys[0]].name)
            of_keys = frozenset().union(*map(index_names, key_factors))
            rows = {i.name for i in softmax.indices}
            queries = [
                n
                for n, e in enumerate(read.index)
                if isinstance(e, Idx) and e.name in rows and eq.indices[n].name not in of_keys
            ]
            if queries:  # any of them can be the query; the largest fills tiles best
                query = max(queries, key=lambda n: (eq.indices[n].size, n))
                if _is_separable(eq, (query, keys[0])):
                    return eq.target, (query, keys[0])
        return None

    def _recomputable(self, name: str) -> Equation | None:
        """The equation of a temp of which any element can be computed at any place."""
        eq = self.definition.get(name)
        return None if eq is None or eq.at is not None or name in self.system.recurrent else eq

    def _is_product(self, eq: Equation) -> bool:
        return eq.reduce == "sum" and self.system.tensors[eq.target].dtype == "f32"

    def _grow(self, found: Attention) -> list[Equation]:
        """Adds the matrices that are computed from matrices; the equations that reduce them."""
        consumers: dict[str, Equation] = {}
        waiting = list(found.matrices)
        while waiting:
            name = waiting.pop(0)
            if name in self.system.roots:
                raise NotAttention(f"`{name}` is an output")
            for eq in self.system.readers.get(name, ()):
                query, key = self._axes(eq, found)
                waiting += self._products_beside(eq.body, query, key, found, set())
                if eq.reduce is not None:
                    consumers[eq.target] = eq
                elif eq.target not in found.matrices:
                    names = [i.name for i in eq.indices]
                    found.matrices[eq.target] = names.index(query), names.index(key)
                    found.elementwise.add(eq.target)
                    waiting.append(eq.target)
        order = {eq.target: n for n, eq in enumerate(self.system.equations)}
        return sorted(consumers.values(), key=lambda eq: order[eq.target])

    def _axes(self, eq: Equation, found: Attention) -> tuple[str, str]:
        """The names of query and key in an equation that reads matrices."""
        if eq.at is not None or eq.target in self.system.recurrent:
            raise NotAttention(f"`{eq.target}` accumulates, or is a recurrence")
        names = set()
        for read in eq.reads:
            if read.tensor not in found.matrices:
                continue
            query, key = (read.index[n] for n in found.matrices[read.tensor])
            if not (isinstance(query, Idx) and isinstance(key, Idx)) or read.other is not None:
                raise NotAttention(f"`{eq.target}` reads `{read.tensor}` at a computed element")
            names.add((query.name, key.name))
        if len(names) != 1:
            raise NotAttention(f"`{eq.target}` reads attention matrices in several ways")
        ((query_name, key_name),) = names
        if query_name == key_name:
            raise NotAttention(f"`{eq.target}` reads a diagonal")
        return query_name, key_name

    def _products_beside(
        self, expr: Expr, query: str, key: str, found: Attention, visited: set[Read]
    ) -> Iterator[str]:
        """Products over the same queries and keys that are read beside matrices."""
        for read in reads(expr):
            eq = self._recomputable(read.tensor)
            if eq is None or not {query, key} <= index_names(read) or read.other is not None:
                continue
            if eq.target in found.matrices or read in visited:
                continue
            visited.add(read)
            if eq.reduce is None:
                yield from self._products_beside(_inlined(eq, read), query, key, found, visited)
                continue
            positions = [
                [n for n, e in enumerate(read.index) if e is Idx(name)] for name in (query, key)
            ]
            if all(len(p) == 1 for p in positions) and self._is_product(eq):
                axes = positions[0][0], positions[1][0]
                if _is_separable(eq, axes):
                    found.matrices[eq.target] = axes
                    yield eq.target

    # --- what reduces them ---------------------------------------------------------------------

    def _reduction(self, eq: Equation, query: str, key: str, found: Attention) -> MatrixReduction:
        over = {i.name: i for i in eq.over}
        results = {i.name: i for i in eq.indices}
        if key in over and query in results:
            row, column = results[query], over[key]
        elif query in over and key in results:
            row, column = results[key], over[query]
        else:
            raise NotAttention(f"`{eq.target}` reduces neither queries nor keys alone")
        if eq.reduce not in ("sum", "max") or self.system.tensors[eq.target].dtype != "f32":
            raise NotAttention(f"`{eq.target}` is no sum of f32 numbers")
        body = simplify_read_indices(self._over_products(eq.body, found), eq.sizes)
        products = tuple(
            self._product(r, eq, query, row, found)
            for r in reads(body)
            if r.tensor in found.matrices
        )
        pieces = factors(body) if eq.reduce == "sum" else [body]
        return _grouped(eq, row, column, products, pieces)

    def _over_products(self, expr: Expr, found: Attention) -> Expr:
        """The expression with elementwise matrices replaced by what they are computed from."""

        def change(node: Expr) -> Expr | None:
            if not isinstance(node, Read) or node.tensor not in found.elementwise:
                return None
            return self._over_products(_inlined(self.definition[node.tensor], node), found)

        return rewrite(expr, change)

    def _product(
        self, read: Read, eq: Equation, query: str, row: Index, found: Attention
    ) -> MatrixProduct:
        """The operands of a product in the names of an equation that reads it."""
        source = self.definition[read.tensor]
        axes = found.matrices[read.tensor]
        if not _is_separable(source, axes):
            raise NotAttention(f"`{source.target}` is no product of queries and keys")
        of_query, of_key = map(product, _operands(source, source.indices[axes[1]].name))
        of_row, of_column = (of_query, of_key) if row.name == query else (of_key, of_query)
        inner = tuple(Index(free_name(i.name, eq.sizes), i.size) for i in source.over)
        names: dict[str, Expr] = {
            i.name: e for i, e in zip(source.indices, read.index, strict=True)
        }
        names |= {i.name: Idx(d.name) for i, d in zip(source.over, inner, strict=True)}
        sizes = eq.sizes | {i.name: i.size for i in inner}
        of_row, of_column = (
            simplify_read_indices(substitute(e, names), sizes) for e in (of_row, of_column)
        )
        return MatrixProduct(read, of_row, of_column, inner)


def _grouped(
    eq: Equation,
    row: Index,
    column: Index,
    products: tuple[MatrixProduct, ...],
    pieces: list[Expr],
) -> MatrixReduction:
    """The reduction with its factors grouped by what they depend on."""
    extra = tuple(i for i in eq.over if i != column)
    reads_of_products = {p.read for p in products}
    reduced = {column.name, *(i.name for i in extra)}
    weight = [
        f
        for f in pieces
        if reads_of_products & set(reads(f)) or {row.name, column.name} <= index_names(f)
    ]
    of_weights = frozenset().union(
        *map(index_names, weight),
        *(index_names(p.row_operand) | index_names(p.column_operand) for p in products),
    )
    inner = {i.name for p in products for i in p.inner}
    features = tuple(i for i in eq.indices if i != row and i.name not in of_weights - inner)
    names = {i.name for i in features}
    factor, outer = [], []
    for piece in (f for f in pieces if f not in weight):
        used = index_names(piece)
        if not used & reduced:
            outer.append(piece)
        elif used & names and row.name not in used:
            factor.append(piece)
        elif not used & names:
            weight.append(piece)
        else:
            raise NotAttention(f"`{eq.target}` is no sum of products")
    weights_have_features = names & frozenset().union(*map(index_names, weight))
    if weights_have_features or bool(features) != bool(factor):
        raise NotAttention(f"`{eq.target}` is no sum of products")
    batch = tuple(i for i in eq.indices if i != row and i not in features)
    parts = (tuple(part) for part in (weight, factor, outer))
    return MatrixReduction(eq, row, column, extra, batch, features, products, *parts)


def _inlined(eq: Equation, read: Read) -> Expr:
    """What the element that is read is computed from."""
    names = {i.name: e for i, e in zip(eq.indices, read.index, strict=True)}
    return cast(substitute(eq.body, names), read.dtype)


def _operands(eq: Equation, key: str) -> tuple[list[Expr], list[Expr]]:
    """The factors of a product without the key and with it."""
    found = factors(eq.body)
    return (
        [f for f in found if key not in index_names(f)],
        [f for f in found if key in index_names(f)],
    )


def _is_separable(eq: Equation, axes: Axes) -> bool:
    """Whether every factor of a product has the query or the key, and none has both."""
    query, key = (eq.indices[n].name for n in axes)
    of_query, of_key = _operands(eq, key)
    return (
        any(query in index_names(f) for f in of_query)
        and bool(of_key)
        and not any(query in index_names(f) for f in of_key)
    )


# --- two reductions of one matrix -----------------------------------------------------------------


def renaming(one: MatrixReduction, two: MatrixReduction) -> dict[str, str] | None:
    """The names of the second reduction's indices for those of the first, if both reduce the same
    matrix along the same axis, over the same ranges."""
    if (one.row.size, one.column.size) != (two.row.size, two.column.size):
        return None
    axes = {one.row.name: two.row.name, one.column.name: two.column.name}
    for a in one.products:
        for b in two.products:
            names = unify_indices(a.read, b.read, axes)
            if names is not None and _same_ranges(one, two, names):
                return names
    return None


def _same_ranges(one: MatrixReduction, two: MatrixReduction, names: Mapping[str, str]) -> bool:
    return all(
        {names.get(i.name): i.size for i in a} == {i.name: i.size for i in b}
        for a, b in ((one.batch, two.batch), (one.extra, two.extra))
    )


def result_of(eq: Equation, names: Mapping[str, str] | None = None) -> Read:
    """The equation's element at its own indices, in other names perhaps."""
    names = names or {}
    return Read(eq.target, tuple(Idx(names.get(i.name, i.name)) for i in eq.indices), None, "f32")
