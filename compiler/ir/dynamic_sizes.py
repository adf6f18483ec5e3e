"""Dynamic sizes: one system for any value of a size up to a greatest one.

    m[b, j] = sum(t < 40) x[b, t, j] / 40.0      T = 40
    m[b, j] = sum(t < 60) x[b, t, j] / 60.0      T = 60
    →   m[b, j] = sum(t < 512) (if t < T! then x[b, t, j] else 0.0) / f32(T!)

Elaboration knows sizes as numbers. The systems for a few values of a size differ in numbers only,
and each of these is an affine function of the size (least general generalization, or
anti-unification: Plotkin 1970). In the system for any value such a number is computed from an input
`T!`, arrays have the greatest size, reductions leave out terms beyond, and what is read with `else`
is outside beyond. Results beyond mean nothing, and nothing else reads them. `matches` tells for one
value of the size whether this system is the one that is elaborated for it. Known as symbolic or
dynamic shapes in inference engines. Tests: tests/passes/test_dynamic_sizes.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from ...dsl.records import record
from .affine import Affine, Interval, affine
from .build import call, cast, literal, rebuild
from .dtypes import neutral
from .equation import Equation, Index, System, Tensor
from .expr import Apply, Const, Expr, Idx, Read, reads
from .integer_ranges import expression_range

Sizes = Mapping[str, int]
Sample = tuple[Sizes, System]  # the system that is elaborated for these sizes


class NotDynamic(Exception):
    """The systems for different sizes differ in more than numbers that follow from the sizes, first
    in the tensor `name`; empty if not in a single one."""

    def __init__(self, name: str = ""):
        super().__init__(f"`{name}` depends on a size in another way")
        self.name = name


def size_input(symbol: str) -> str:
    """The name of the input that holds a size; no name of a program has a `!`."""
    return f"{symbol}!"


def _size(symbol: str) -> Expr:
    return Read(size_input(symbol), (), None, "i32")


def size_value(form: Affine, sizes: Sizes) -> int:
    """The number that a form of sizes is."""
    inputs = {size_input(symbol): size for symbol, size in sizes.items()}
    terms = form.coefficients.items()
    return form.constant + sum(c * inputs[a.tensor] for a, c in terms if isinstance(a, Read))


@record
class DynamicSystem:
    """A system for any values of some sizes. In `general`, numbers are computed from sizes, but
    arrays and ranges are those of the `greatest` ones; `system` can be run. `shapes` are the sizes
    of dimensions that depend on them, by tensor and dimension."""

    general: System
    greatest: Sizes
    ranges: Mapping[tuple[str, str], Affine]  # by target and index
    shapes: Mapping[str, Mapping[int, Affine]]
    system: System

    def matches(self, exact: System, sizes: Sizes) -> bool:
        """Whether `exact` is the general system for these sizes."""
        if any(not 0 < sizes[symbol] <= most for symbol, most in self.greatest.items()):
            return False
        values = {size_input(symbol): literal(size) for symbol, size in sizes.items()}

        def known(node: Expr) -> Expr | None:
            return values.get(node.tensor) if isinstance(node, Read) else None

        def sized(index: Index, target: str) -> Index:
            form = self.ranges.get((target, index.name))
            return index if form is None else Index(index.name, size_value(form, sizes))

        if len(exact.equations) != len(self.general.equations):
            return False
        return all(
            own
            == replace(
                eq.rewrite(known),
                indices=tuple(sized(i, eq.target) for i in eq.indices),
                over=tuple(sized(i, eq.target) for i in eq.over),
            )
            for eq, own in zip(self.general.equations, exact.equations, strict=True)
        )


def sample_sizes(greatest: Sizes) -> Iterator[dict[str, int]]:
    """The sizes for which to elaborate: some, then each one of them a little less, then both."""
    # No power of two, by which a division is a product, and no two of them equal.
    sizes = {s: _usual(most - n, most) for n, (s, most) in enumerate(greatest.items())}
    less = {s: _usual(size - len(sizes), greatest[s]) for s, size in sizes.items()}
    yield sizes
    for symbol in sizes:
        yield {**sizes, symbol: less[symbol]}
    yield {s: _usual(size - len(sizes), greatest[s]) for s, size in less.items()}


def _usual(size: int, most: int) -> int:
    """The greatest size up to this one, or else the least up to `most`, that is no power of two."""
    down = (n for n in range(min(size, most), 2, -1) if n & (n - 1))
    return next(down, max(1, min(most, 3)))


def dynamic_system(samples: Sequence[Sample], greatest: Sizes) -> DynamicSystem:
    """The system for any sizes up to the greatest, from those for `sample_sizes`. NotDynamic if
    there is none."""
    merge = _Generalization(samples, greatest)
    _, first = samples[0]
    others = [system for _, system in samples[1:]]
    if any([*s.tensors] != [*first.tensors] or s.outputs != first.outputs for s in others):
        raise NotDynamic
    if first.gradients or any(len(s.equations) != len(first.equations) for s in others):
        raise NotDynamic
    tensors = {n: merge.tensor([s.tensors[n] for _, s in samples]) for n in first.tensors}
    equations = [
        merge.equation(eqs) for eqs in zip(*(s.equations for _, s in samples), strict=True)
    ]
    for symbol in greatest:
        tensors[size_input(symbol)] = Tensor(size_input(symbol), (), "i32", "input")
    general = first.replace(tensors=tensors, equations=tuple(equations))
    found = DynamicSystem(general, greatest, merge.ranges, merge.shapes, general)
    masked = tuple(_Masked(eq, found).equation() for eq in equations)
    seen = {t.name for t in first.of_kind("input")} | {*first.outputs}
    sized = {name: forms for name, forms in merge.shapes.items() if name in seen}
    return replace(found, system=general.replace(equations=masked, sized=sized))


class _Generalization:
    """What several systems have in common, with forms of sizes for the numbers that differ."""

    def __init__(self, samples: Sequence[Sample], greatest: Sizes):
        self.sizes, self.greatest = [sizes for sizes, _ in samples], greatest
        self.ranges: dict[tuple[str, str], Affine] = {}
        self.shapes: dict[str, dict[int, Affine]] = {}
        self.name = ""  # of what is compared
        self.done: dict[tuple[Expr, ...], Expr] = {}

    def form(self, numbers: Sequence[float]) -> Affine:
        """The affine form of sizes that takes these values at the samples."""
        if any(number != int(number) for number in numbers):
            raise NotDynamic(self.name)
        first, *others = map(int, numbers)
        found = Affine({}, first)
        for symbol, other, sizes in zip(self.greatest, others, self.sizes[1:], strict=False):
            step = self.sizes[0][symbol] - sizes[symbol]
            factor, rest = divmod(first - other, step) if step else (0, first - other)
            if rest:
                raise NotDynamic(self.name)
            found += Affine({_size(symbol): factor} if factor else {}, 0)
            found += Affine({}, -factor * self.sizes[0][symbol])
        if any(size_value(found, s) != n for s, n in zip(self.sizes, numbers, strict=True)):
            raise NotDynamic(self.name)
        return found

    def tensor(self, tensors: Sequence[Tensor]) -> Tensor:
        first = tensors[0]
        self.name = first.name
        if len({(t.dtype, t.kind, len(t.shape)) for t in tensors}) > 1:
            raise NotDynamic(self.name)
        shape = list(first.shape)
        for axis, numbers in enumerate(zip(*(t.shape for t in tensors), strict=True)):
            if len(set(numbers)) > 1:
                if first.kind in ("param", "state"):  # weights have one size
                    raise NotDynamic(self.name)
                form = self.form(numbers)
                self.shapes.setdefault(first.name, {})[axis] = form
                shape[axis] = self._most(form)
        return replace(first, shape=tuple(shape))

    def _most(self, form: Affine) -> int:
        # Of falling sizes the greatest would be those of the least.
        if any(factor < 0 for factor in form.coefficients.values()):
            raise NotDynamic(self.name)
        return size_value(form, self.greatest)

    def equation(self, equations: Sequence[Equation]) -> Equation:
        first = equations[0]
        self.name = first.target
        kind = {(e.target, e.reduce, len(e.indices), e.at is None) for e in equations}
        if len(kind) > 1 or len({tuple(i.name for i in e.domain) for e in equations}) > 1:
            raise NotDynamic(self.name)
        domain = []
        for own in zip(*(e.domain for e in equations), strict=True):
            sizes = [i.size for i in own]
            if len(set(sizes)) > 1:
                self.ranges[first.target, own[0].name] = form = self.form(sizes)
                domain.append(Index(own[0].name, self._most(form)))
            else:
                domain.append(own[0])
        count = len(first.indices)
        at = None
        if first.at is not None:
            places = zip(*(e.at or () for e in equations), strict=True)
            at = tuple(self.expr(place) for place in places)
        body = self.expr(tuple(e.body for e in equations))
        indices, over = tuple(domain[:count]), tuple(domain[count:])
        return replace(first, indices=indices, over=over, body=body, at=at)

    def expr(self, nodes: tuple[Expr, ...]) -> Expr:
        """What the expressions have in common."""
        if len(set(nodes)) == 1:
            return nodes[0]
        if nodes not in self.done:
            self.done[nodes] = self._differing(nodes)
        return self.done[nodes]

    def _differing(self, nodes: tuple[Expr, ...]) -> Expr:
        first = nodes[0]
        if len({(type(n), n.dtype, len(n.children)) for n in nodes}) > 1:
            raise NotDynamic(self.name)
        if isinstance(first, Const) and first.dtype != "bool":
            form = self.form([n.value for n in nodes if isinstance(n, Const)])
            return cast(form.expr(), first.dtype)
        same = {n.fn if isinstance(n, Apply) else _tensor(n) for n in nodes}
        if len(same) > 1 or not first.children:
            raise NotDynamic(self.name)
        children = zip(*(n.children for n in nodes), strict=True)
        return rebuild(first, tuple(self.expr(c) for c in children))


def _tensor(node: Expr) -> tuple[str, bool] | None:
    return (node.tensor, node.other is None) if isinstance(node, Read) else None


class _Masked:
    """An equation of a general system, with conditions where the greatest sizes are too large."""

    def __init__(self, eq: Equation, found: DynamicSystem):
        self.eq, self.found = eq, found
        self.tensors, self.greatest = found.general.tensors, found.greatest
        # of each index, how many values it has
        self.counts = {
            i.name: found.ranges.get((eq.target, i.name), Affine({}, i.size)) for i in eq.domain
        }
        self.known: dict[str, Interval] = {
            size_input(symbol): (1, most) for symbol, most in found.greatest.items()
        }

    def equation(self) -> Equation:
        eq = self.eq.rewrite(self._read)
        beyond = [i.name for i in eq.over if self.counts[i.name].coefficients]
        if not beyond:
            return eq
        # The number of a point of several indices counts points beyond as well.
        if eq.reduce in ("argmax", "argmin") and beyond != [eq.over[0].name]:
            raise NotDynamic(eq.target)
        assert eq.reduce is not None
        zero = literal(neutral(eq.reduce, eq.body.dtype), eq.body.dtype)
        return eq.with_body(call("select", self.inside(beyond), eq.body, zero))

    def inside(self, names: Iterable[str]) -> Expr:
        """Where the indices have values that they have for the sizes of a run."""
        condition: Expr = literal(True)
        for name in names:
            own = call("lt", Idx(name), self.counts[name].expr())
            condition = call("and", condition, own)
        return condition

    def _read(self, node: Expr) -> Expr | None:
        if not isinstance(node, Read):
            return None
        forms = self.found.shapes.get(node.tensor, {})
        shape = self.tensors[node.tensor].shape
        if node.other is None:
            places = [
                self._place(place, forms.get(axis), shape[axis])
                for axis, place in enumerate(node.index)
            ]
            return Read(node.tensor, tuple(places), None, node.dtype)
        condition: Expr = literal(True)
        for axis, form in forms.items():
            place = node.index[axis]
            if not self._is_below(place, form):
                condition = call("and", condition, call("lt", place, form.expr()))
        return call("select", condition, node, node.other)

    def _is_below(self, place: Expr, form: Affine) -> bool:
        """Whether a place is less than a size wherever the indices are inside."""
        room = form + Affine({}, -1)
        for atom, factor in affine(place).coefficients.items():
            if isinstance(atom, Idx):
                most = self.counts[atom.name] + Affine({}, -1)
                room -= most.scaled(max(factor, 0))
            elif isinstance(atom, Read) and atom.tensor in self.known:
                room -= Affine({atom: factor}, 0)
            else:
                return False
        room -= Affine({}, affine(place).constant)
        # Sizes are 1 at least.
        least = {symbol: 1 for symbol in self.greatest}
        return size_value(room, least) >= 0 and all(c >= 0 for c in room.coefficients.values())

    def _place(self, place: Expr, form: Affine | None, size: int) -> Expr:
        """A place that is read without `else`."""
        found = reads(place)
        if all(read.tensor in self.known for read in found):
            if not found:
                return place
            # Of sizes and indices alone: inside, wherever the indices are.
            low, high = expression_range(place, self.eq.sizes, self.known)
            place = call("max", place, 0) if low < 0 else place
            return call("min", place, size - 1) if high >= size else place
        if form is None:
            return place
        # Of data: outside, which a run refuses, from the size on.
        return call("select", call("lt", place, form.expr()), place, literal(size, place.dtype))


def counted(found: DynamicSystem, targets: Iterable[str]) -> System:
    """The system in which these equations compute 0 beyond the sizes: what an operation on integers
    has no result for there is none of the program's."""
    chosen = {*targets}

    def inside(eq: Equation) -> Equation:
        masked = _Masked(eq, found)
        names = [i.name for i in eq.indices if masked.counts[i.name].coefficients]
        if eq.target not in chosen or not names:
            return eq
        zero = literal(0, eq.body.dtype)
        return eq.with_body(call("select", masked.inside(names), eq.body, zero))

    return found.system.replace(equations=tuple(map(inside, found.system.equations)))
