"""Squares: tensors that have an element for every query and every key, and what reads them.

In: a system. Out: its `Family`s. A family begins at a softmax, the maximum over keys of a score
that is computed from a product of queries and keys. Everything computed element by element from
the product belongs to it, the gradients' other product, too; what sums its rows or columns are its
`Use`s, written over the products alone. Names, orders of indices, conditions, and what else a score
depends on do not matter. A family is whole or it is none: if anything else reads one of the
squares, they must be stored, and there is nothing to gain. It decides nothing about kernels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ....ir.build import cast, rewrite, substitute
from ....ir.equation import Equation, Index, System, free_name
from ....ir.expr import Expr, Idx, Read, index_names, reads
from ....ir.terms import factors, product, simplify_read_indices, unify_indices
from ...kernels.kernel import Product

Place = tuple[int, int]  # the positions of query and key in a square's index


class NotStreamed(Exception):
    """Why a family is none."""


@dataclass(frozen=True)
class Use:
    """An equation that reduces squares over `other`, for each `own`: rows where that is the query,
    columns where it is the key. What is reduced is the product of `weight`, which depends on
    squares, `factor`, which has the indices `wide` and not `own`, and `outer`, which stays the same
    while `other` and `extra` run."""

    equation: Equation
    own: Index
    other: Index
    extra: tuple[Index, ...]
    batch: tuple[Index, ...]
    wide: tuple[Index, ...]
    products: tuple[Product, ...]
    weight: tuple[Expr, ...]
    factor: tuple[Expr, ...]
    outer: tuple[Expr, ...]


@dataclass
class Family:
    """Squares and their uses; `whole` are the sums over queries and keys, each with the name of
    its key. `problem` says why it is none, if it is none."""

    softmax: Equation
    squares: dict[str, Place] = field(default_factory=dict)
    maps: set[str] = field(default_factory=set)
    uses: list[Use] = field(default_factory=list)
    whole: list[tuple[Equation, str]] = field(default_factory=list)
    problem: str = ""


def families(system: System) -> list[Family]:
    """Every family of the system in the order of the softmaxes, those that are none included."""
    finder = _Finder(system)
    found: list[Family] = []
    for equation in system.equations:
        known = any(use.equation is equation for family in found for use in family.uses)
        if equation.reduce != "max" or known:
            continue
        family = finder.family(equation)
        if family is not None:
            found.append(family)
    return found


class _Finder:
    def __init__(self, system: System):
        self.system = system
        self.definition = system.definition
        self.readers: dict[str, list[Equation]] = {}
        for eq in system.equations:
            for source in eq.sources:
                self.readers.setdefault(source, []).append(eq)
        self.recurrent = system.recurrent

    def family(self, softmax: Equation) -> Family | None:
        """The family of a maximum, or None if it is not the maximum of products' rows."""
        if len(softmax.over) != 1 or softmax.target in self.recurrent:
            return None
        seed = self._seed(softmax.body, softmax, set())
        if seed is None:
            return None
        family = Family(softmax, dict([seed]))
        try:
            for eq in self._grow(family):
                query, key = self._place(eq, family)
                if eq.reduce == "sum" and {query, key} <= {i.name for i in eq.over}:
                    family.whole.append((eq, key))
                else:
                    family.uses.append(self._use(eq, query, key, family))
        except NotStreamed as problem:
            family.problem = str(problem)
        return family

    # --- which tensors are squares -------------------------------------------------------------

    def _seed(self, expr: Expr, softmax: Equation, met: set[Read]) -> tuple[str, Place] | None:
        """The product that a score is made of, and where it has its query and its key."""
        key = softmax.over[0].name
        for read in reads(expr):
            eq = self._own(read.tensor)
            if eq is None or key not in index_names(read) or read.other is not None or read in met:
                continue
            met.add(read)
            if eq.reduce is None:
                found = self._seed(_inside(eq, read), softmax, met)
                if found is not None:
                    return found
            keys = [n for n, e in enumerate(read.index) if e is Idx(key)]
            if len(keys) != 1 or not self._is_product(eq):
                continue
            _, theirs = _sides(eq, eq.indices[keys[0]].name)
            seen = frozenset().union(*map(index_names, theirs))
            rows = {i.name for i in softmax.indices}
            queries = [
                n
                for n, e in enumerate(read.index)
                if isinstance(e, Idx) and e.name in rows and eq.indices[n].name not in seen
            ]
            if queries:  # any would do; a tile should be full
                largest = max(queries, key=lambda n: (eq.indices[n].size, n))
                if _splits(eq, (largest, keys[0])):
                    return eq.target, (largest, keys[0])
        return None

    def _own(self, name: str) -> Equation | None:
        """The equation of a tensor that could be computed again anywhere."""
        eq = self.definition.get(name)
        return None if eq is None or eq.at is not None or name in self.recurrent else eq

    def _is_product(self, eq: Equation) -> bool:
        return eq.reduce == "sum" and self.system.tensors[eq.target].dtype == "f32"

    def _grow(self, family: Family) -> list[Equation]:
        """Finds the squares that are computed from squares; the equations that reduce them."""
        consumers: dict[str, Equation] = {}
        waiting = list(family.squares)
        while waiting:
            name = waiting.pop(0)
            if name in self.system.roots:
                raise NotStreamed(f"`{name}` is wanted outside")
            for eq in self.readers.get(name, ()):
                query, key = self._place(eq, family)
                waiting += self._beside(eq.body, query, key, family, set())
                if eq.reduce is not None:
                    consumers[eq.target] = eq
                elif eq.target not in family.squares:
                    names = [i.name for i in eq.indices]
                    family.squares[eq.target] = names.index(query), names.index(key)
                    family.maps.add(eq.target)
                    waiting.append(eq.target)
        order = {eq.target: n for n, eq in enumerate(self.system.equations)}
        return sorted(consumers.values(), key=lambda eq: order[eq.target])

    def _place(self, eq: Equation, family: Family) -> tuple[str, str]:
        """The names of query and key in an equation that reads squares."""
        if eq.at is not None or eq.target in self.recurrent:
            raise NotStreamed(f"`{eq.target}` accumulates, or is a recurrence")
        found = set()
        for read in eq.reads:
            if read.tensor not in family.squares:
                continue
            row, column = (read.index[n] for n in family.squares[read.tensor])
            if not (isinstance(row, Idx) and isinstance(column, Idx)) or read.other is not None:
                raise NotStreamed(f"`{eq.target}` reads `{read.tensor}` elsewhere")
            found.add((row.name, column.name))
        if len(found) != 1:
            raise NotStreamed(f"`{eq.target}` reads squares in several ways")
        ((query, key),) = found
        if query == key:
            raise NotStreamed(f"`{eq.target}` reads one diagonal")
        return query, key

    def _beside(
        self, expr: Expr, query: str, key: str, family: Family, met: set[Read]
    ) -> Iterator[str]:
        """Products over the same queries and keys that are read beside squares: squares, too."""
        for read in reads(expr):
            eq = self._own(read.tensor)
            if eq is None or not {query, key} <= index_names(read) or read.other is not None:
                continue
            if eq.target in family.squares or read in met:
                continue
            met.add(read)
            if eq.reduce is None:
                yield from self._beside(_inside(eq, read), query, key, family, met)
                continue
            places = [
                [n for n, e in enumerate(read.index) if e is Idx(name)] for name in (query, key)
            ]
            if all(len(p) == 1 for p in places) and self._is_product(eq):
                place = places[0][0], places[1][0]
                if _splits(eq, place):
                    family.squares[eq.target] = place
                    yield eq.target

    # --- what reads them -----------------------------------------------------------------------

    def _use(self, eq: Equation, query: str, key: str, family: Family) -> Use:
        over = {i.name: i for i in eq.over}
        kept = {i.name: i for i in eq.indices}
        if key in over and query in kept:
            own, other = kept[query], over[key]
        elif query in over and key in kept:
            own, other = kept[key], over[query]
        else:
            raise NotStreamed(f"`{eq.target}` reduces neither queries nor keys alone")
        if eq.reduce not in ("sum", "max") or self.system.tensors[eq.target].dtype != "f32":
            raise NotStreamed(f"`{eq.target}` is no sum of f32 numbers")
        body = simplify_read_indices(self._expanded(eq.body, family), eq.sizes)
        products = tuple(
            self._product(r, eq, query, own, other, family)
            for r in reads(body)
            if r.tensor in family.squares
        )
        extra = tuple(i for i in eq.over if i != other)
        pieces = factors(body) if eq.reduce == "sum" else [body]
        return self._divided(eq, own, other, extra, products, pieces)

    def _divided(
        self,
        eq: Equation,
        own: Index,
        other: Index,
        extra: tuple[Index, ...],
        products: tuple[Product, ...],
        pieces: list[Expr],
    ) -> Use:
        """The factors by what they depend on."""
        made = {p.read for p in products}
        moving = {other.name, *(i.name for i in extra)}
        weight = [
            f for f in pieces if made & set(reads(f)) or {own.name, other.name} <= index_names(f)
        ]
        shared = frozenset().union(
            *map(index_names, weight),
            *(index_names(p.mine) | index_names(p.theirs) for p in products),
        )
        deep = {i.name for p in products for i in p.deep}
        wide = tuple(i for i in eq.indices if i != own and i.name not in shared - deep)
        names = {i.name for i in wide}
        factor, outer = [], []
        for piece in (f for f in pieces if f not in weight):
            used = index_names(piece)
            if not used & moving:
                outer.append(piece)
            elif used & names and own.name not in used:
                factor.append(piece)
            elif not used & names:
                weight.append(piece)
            else:
                raise NotStreamed(f"`{eq.target}` is no sum of products")
        if names & frozenset().union(*map(index_names, weight)) or bool(wide) != bool(factor):
            raise NotStreamed(f"`{eq.target}` is no sum of products")
        batch = tuple(i for i in eq.indices if i != own and i not in wide)
        return Use(
            eq, own, other, extra, batch, wide, products, tuple(weight), tuple(factor), tuple(outer)
        )

    def _expanded(self, expr: Expr, family: Family) -> Expr:
        """The expression with squares that are maps replaced by what they are."""

        def change(node: Expr) -> Expr | None:
            if not isinstance(node, Read) or node.tensor not in family.maps:
                return None
            return self._expanded(_inside(self.definition[node.tensor], node), family)

        return rewrite(expr, change)

    def _product(
        self, read: Read, eq: Equation, query: str, own: Index, other: Index, family: Family
    ) -> Product:
        """The product with the sides of an equation that reads it; `deep` has names of its own."""
        source = self.definition[read.tensor]
        place = family.squares[read.tensor]
        if not _splits(source, place):
            raise NotStreamed(f"`{source.target}` is no product of queries and keys")
        left, right = map(product, _sides(source, source.indices[place[1]].name))
        mine, theirs = (left, right) if own.name == query else (right, left)
        deep = tuple(Index(free_name(i.name, eq.sizes), i.size) for i in source.over)
        names: dict[str, Expr] = {
            i.name: e for i, e in zip(source.indices, read.index, strict=True)
        }
        names |= {i.name: Idx(d.name) for i, d in zip(source.over, deep, strict=True)}
        sizes = eq.sizes | {i.name: i.size for i in deep}
        mine, theirs = (
            simplify_read_indices(substitute(side, names), sizes) for side in (mine, theirs)
        )
        return Product(read, mine, theirs, deep)


# --- equations of products ------------------------------------------------------------------------


def _inside(eq: Equation, read: Read) -> Expr:
    """What the read element is computed from."""
    names = {i.name: e for i, e in zip(eq.indices, read.index, strict=True)}
    return cast(substitute(eq.body, names), read.dtype)


def _sides(eq: Equation, key: str) -> tuple[list[Expr], list[Expr]]:
    """The factors of a product without the key and with it."""
    found = factors(eq.body)
    return (
        [f for f in found if key not in index_names(f)],
        [f for f in found if key in index_names(f)],
    )


def _splits(eq: Equation, place: Place) -> bool:
    """Whether every factor of a product has the query or the key, and none has both."""
    query, key = (eq.indices[n].name for n in place)
    left, right = _sides(eq, key)
    return (
        any(query in index_names(f) for f in left)
        and bool(right)
        and not any(query in index_names(f) for f in right)
    )


def same_square(one: Use, two: Use) -> dict[str, str] | None:
    """The names of the second use for those of the first, if they reduce the same square the same
    way: over the same ranges, with the same other indices beside them."""
    if (one.own.size, one.other.size) != (two.own.size, two.other.size):
        return None
    for a in one.products:
        for b in two.products:
            names = unify_indices(
                a.read, b.read, {one.own.name: two.own.name, one.other.name: two.other.name}
            )
            if names is not None and _fits(one, two, names):
                return names
    return None


def _fits(one: Use, two: Use, names: Mapping[str, str]) -> bool:
    return all(
        {names.get(i.name): i.size for i in mine} == {i.name: i.size for i in theirs}
        for mine, theirs in ((one.batch, two.batch), (one.extra, two.extra))
    )


def result_of(eq: Equation, names: Mapping[str, str] | None = None) -> Read:
    """The equation's element at its own place, in other names perhaps."""
    names = names or {}
    return Read(eq.target, tuple(Idx(names.get(i.name, i.name)) for i in eq.indices), None, "f32")
