"""Squares: tensors that have an element for every query and every key, and what reads them.

In: a system. Out: its `Family`s. A family begins at a softmax, the maximum over keys of a score
that is computed from a product of queries and keys. Everything computed element by element from
the product belongs to it, the gradients' other product, too; what sums its rows or columns are its
`Use`s, written over the products alone. Names, orders of indices, conditions, and what else a score
depends on do not matter. A family is whole or it is none: if anything else reads one of the
squares, they must be stored, and there is nothing to gain. It decides nothing about kernels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..affine import simplify_index
from ..ir import (
    Apply,
    Const,
    Equation,
    Expr,
    Idx,
    Index,
    Read,
    System,
    components,
    index_names,
    is_recurrent,
    reads,
    rewrite,
    substitute,
)
from ..kernels import Product
from ..scalar import call, cast, literal

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
    """Squares and their uses. `problem` says why it is none, if it is none."""

    softmax: Equation
    squares: dict[str, Place] = field(default_factory=dict)
    maps: set[str] = field(default_factory=set)
    uses: list[Use] = field(default_factory=list)
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
        self.recurrent = {eq.target for part in components(system.equations)
                          if is_recurrent(part) for eq in part}  # fmt: skip

    def family(self, softmax: Equation) -> Family | None:
        """The family of a maximum, or None if it is not the maximum of products' rows."""
        if len(softmax.over) != 1 or softmax.target in self.recurrent:
            return None
        seed = self._seed(softmax.body, softmax, set())
        if seed is None:
            return None
        family = Family(softmax, dict([seed]))
        try:
            consumers = self._grow(family)
            family.uses = [self._use(eq, family) for eq in consumers]
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
            queries = [n for n, e in enumerate(read.index)
                       if isinstance(e, Idx) and e.name in rows
                       and eq.indices[n].name not in seen]  # fmt: skip
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

    def _beside(self, expr: Expr, query: str, key: str, family: Family, met: set[Read]
                ) -> Iterator[str]:  # fmt: skip
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
            places = [[n for n, e in enumerate(read.index) if e is Idx(name)]
                      for name in (query, key)]  # fmt: skip
            if all(len(p) == 1 for p in places) and self._is_product(eq):
                place = places[0][0], places[1][0]
                if _splits(eq, place):
                    family.squares[eq.target] = place
                    yield eq.target

    # --- what reads them -----------------------------------------------------------------------

    def _use(self, eq: Equation, family: Family) -> Use:
        query, key = self._place(eq, family)
        over = {i.name: i for i in eq.over}
        kept = {i.name: i for i in eq.indices}
        if key in over and query in kept:
            own, other = kept[query], over[key]
        elif query in over and key in kept:
            own, other = kept[key], over[query]
        else:
            raise NotStreamed(f"`{eq.target}` sums over queries and keys")
        if eq.reduce not in ("sum", "max") or self.system.tensors[eq.target].dtype != "f32":
            raise NotStreamed(f"`{eq.target}` is no sum of f32 numbers")
        body = _plain(self._expanded(eq.body, family), eq.sizes)
        products = tuple(self._product(r, eq, query, own, other, family)
                         for r in reads(body) if r.tensor in family.squares)  # fmt: skip
        extra = tuple(i for i in eq.over if i != other)
        pieces = factors(body) if eq.reduce == "sum" else [body]
        return self._divided(eq, own, other, extra, products, pieces)

    def _divided(self, eq: Equation, own: Index, other: Index, extra: tuple[Index, ...],
                 products: tuple[Product, ...], pieces: list[Expr]) -> Use:  # fmt: skip
        """The factors by what they depend on."""
        made = {p.read for p in products}
        moving = {other.name, *(i.name for i in extra)}
        weight = [f for f in pieces if made & set(reads(f)) or {own.name, other.name}
                  <= index_names(f)]  # fmt: skip
        shared = frozenset().union(*map(index_names, weight), *(
            index_names(p.mine) | index_names(p.theirs) for p in products))  # fmt: skip
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
        return Use(eq, own, other, extra, batch, wide, products, tuple(weight), tuple(factor),
                   tuple(outer))  # fmt: skip

    def _expanded(self, expr: Expr, family: Family) -> Expr:
        """The expression with squares that are maps replaced by what they are."""

        def change(node: Expr) -> Expr | None:
            if not isinstance(node, Read) or node.tensor not in family.maps:
                return None
            return self._expanded(_inside(self.definition[node.tensor], node), family)

        return rewrite(expr, change)

    def _product(self, read: Read, eq: Equation, query: str, own: Index, other: Index,
                 family: Family) -> Product:  # fmt: skip
        """The product with the sides of an equation that reads it; `deep` has names of its own."""
        source = self.definition[read.tensor]
        place = family.squares[read.tensor]
        if not _splits(source, place):
            raise NotStreamed(f"`{source.target}` is no product of queries and keys")
        left, right = map(product, _sides(source, source.indices[place[1]].name))
        mine, theirs = (left, right) if own.name == query else (right, left)
        deep = tuple(Index(fresh(i.name, eq.sizes), i.size) for i in source.over)
        names: dict[str, Expr] = {i.name: e for i, e in
                                  zip(source.indices, read.index, strict=True)}  # fmt: skip
        names |= {i.name: Idx(d.name) for i, d in zip(source.over, deep, strict=True)}
        sizes = eq.sizes | {i.name: i.size for i in deep}
        mine, theirs = (_plain(substitute(side, names), sizes) for side in (mine, theirs))
        return Product(read, mine, theirs, deep)


# --- parts of expressions -------------------------------------------------------------------------


def fresh(name: str, taken: Iterable[str]) -> str:
    """A name like this one that is not taken."""
    names = set(taken)
    while name in names:
        name += "_"
    return name


def unified(one: Expr, two: Expr, names: Mapping[str, str]) -> dict[str, str] | None:
    """The names of indices extended so that they make the first expression the second."""
    if isinstance(one, Idx) and isinstance(two, Idx):
        known = names.get(one.name)
        if known is None and two.name not in names.values():
            return {**names, one.name: two.name}
        return dict(names) if known == two.name else None
    if _kind(one) != _kind(two) or len(one.children) != len(two.children):
        return None
    found: dict[str, str] | None = dict(names)
    for a, b in zip(one.children, two.children, strict=True):
        found = None if found is None else unified(a, b, found)
    return found


def _kind(expr: Expr) -> tuple:
    """What a node is, without what stands below it."""
    match expr:
        case Const(value=value, dtype=dtype):
            return "const", repr(value), dtype
        case Read(tensor=tensor, other=other):
            return "read", tensor, other is None
        case Apply(fn=fn, dtype=dtype):
            return "apply", fn, dtype
    return ("index",)


def _inside(eq: Equation, read: Read) -> Expr:
    """What the read element is computed from."""
    names = {i.name: e for i, e in zip(eq.indices, read.index, strict=True)}
    return cast(substitute(eq.body, names), read.dtype)


def _plain(expr: Expr, sizes: Mapping[str, int]) -> Expr:
    """The expression with what is divided in its reads' indices resolved: (3*p + u) // 3 is p."""

    def change(node: Expr) -> Expr | None:
        if not isinstance(node, Read):
            return None
        index = tuple(simplify_index(e, sizes) for e in node.index)
        return Read(node.tensor, index, node.other, node.dtype)

    return rewrite(expr, change)


def _sides(eq: Equation, key: str) -> tuple[list[Expr], list[Expr]]:
    """The factors of a product without the key and with it."""
    found = factors(eq.body)
    return ([f for f in found if key not in index_names(f)],
            [f for f in found if key in index_names(f)])  # fmt: skip


def _splits(eq: Equation, place: Place) -> bool:
    """Whether every factor of a product has the query or the key, and none has both."""
    query, key = (eq.indices[n].name for n in place)
    left, right = _sides(eq, key)
    return (any(query in index_names(f) for f in left) and bool(right)
            and not any(query in index_names(f) for f in right))  # fmt: skip


def product(parts: Sequence[Expr]) -> Expr:
    """The product of all, from left to right, conditions last: where they fail it is 0, even if a
    factor is infinite or no number. 1 if there is none."""
    total: Expr = literal(1.0)
    for part in sorted(parts, key=_is_condition):
        total = call("mul", total, part)
    return total


def factors(expr: Expr) -> list[Expr]:
    """The factors of a product or quotient. A sign is a factor, and so is a condition under which
    the product is not 0: as 1 or 0, after what it holds for."""
    if isinstance(expr, Apply):
        match expr.fn:
            case "mul":
                return factors(expr.args[0]) + factors(expr.args[1])
            case "neg":
                return [literal(-1.0, expr.dtype), *factors(expr.args[0])]
            case "div" if expr.dtype == "f32" and not _is(expr.args[0], 1):
                return [*factors(expr.args[0]), call("div", literal(1.0), expr.args[1])]
            case "select" if expr.dtype == "f32":
                condition, yes, no = expr.args
                if _is(no, 0) and not _is(yes, 1):
                    return [*factors(yes), call("select", condition, literal(1.0), no)]
                if _is(yes, 0) and not _is(no, 1):
                    return [*factors(no), call("select", condition, yes, literal(1.0))]
    return [expr]


def _is(expr: Expr, value: float) -> bool:
    return isinstance(expr, Const) and expr.value == value


def _is_condition(expr: Expr) -> bool:
    return isinstance(expr, Apply) and expr.fn == "select" and all(
        isinstance(a, Const) for a in expr.args[1:])  # fmt: skip
