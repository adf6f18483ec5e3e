"""The loss and the metrics as functions of a set of examples, whatever batches it comes in.

    f1 = 2.0 * f32(hits) / f32(positives)            every batch: hits, positives
    hits = sum(b < 32) i32(guess[b] and label[b])  →   the set: hits and positives added up,
    positives = sum(b < 32) …                              then f1, once

A program sees one batch. What it hands over for each are *parts*, and the *last stage* computes
the loss and the metrics of the set from the parts of all batches. In the terms of data cubes, a
part is a distributive aggregate (sum, prod, max, min), and a number of distributive aggregates is
algebraic. What is neither (the area under a curve, a rank, a deviation from the mean of the set) is
holistic: its parts are rows, values for each example, at the places where the examples first meet.

Which index counts examples is found by comparing the system for two batch sizes: it is the one
whose size differs. A constant that differs is a function of the number of examples; in the last
stage it is that of the set.

In a model, examples may meet although a value belongs to one of them: batch normalisation reads the
mean of its batch. Whatever a parameter is applied to later counts as a value of its example.

Gray et al., Data Cube: A Relational Aggregation Operator, 1997. Tests:
tests/runtime/test_set_measures.py, tests/fuzzers/metrics.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from .build import call, cast, literal, rebuild
from .dtypes import is_float
from .edit import SystemEdit
from .equation import Equation, System, Tensor, copy_equation, free_name, is_recurrent, reachable
from .expr import Apply, Const, Expr, Idx, Read, expr_text, index_names, reads, walk

SIZES = 840, 1680  # batches to compare; a half, a third, … of them are whole numbers
DISTRIBUTIVE = ("sum", "prod", "max", "min")
LAST_I32 = 2**31 - 1
LARGEST_GIVEN = 4096  # elements of a value without examples that the last stage reads


@dataclass(frozen=True)
class Part:
    """A temp that is handed over for every batch, and how it becomes one of the set:

    sum, prod, max, min   added up, multiplied, …
    mean                  a value without examples, such as a penalty: the mean over the steps,
                          each weighted by its examples; `last` the one of the last step
    rows                  put one after the other along the dimension `axis`

    A sum that is `scaled` has a constant factor that depends on the batch size. A product of a sum
    and values without examples (an annealed term of a loss) is added up as a whole.
    """

    name: str
    kind: str
    axis: int = 0
    scaled: bool = False


@dataclass(frozen=True)
class Aggregates:
    """The parts of loss and metrics (`measures`, names of temps, the loss first), and the temps of
    the last stage. `holistic` are the measures that need rows, `divided` those that are only known
    for batches. `given` are all tensors that are the same for any examples, `terms` the texts of
    subexpressions that are, `sums` all numbers that are sums over examples."""

    measures: tuple[str, ...]
    parts: tuple[Part, ...]
    stage: frozenset[str]
    given: frozenset[str] = frozenset()
    terms: frozenset[str] = frozenset()
    sums: frozenset[str] = frozenset()
    holistic: tuple[str, ...] = ()
    divided: tuple[str, ...] = ()

    def is_fixed(self, node: Expr) -> bool:
        return _text(node) in self.terms

    @property
    def handed(self) -> tuple[Part, ...]:
        """What a batch hands over: the parts, and in case their rows are too many, the holistic
        measures of the batch."""
        known = {p.name for p in self.parts}
        return (*self.parts, *(Part(m, "mean") for m in self.holistic if m not in known))

    def without(self, measures: Collection[str]) -> Aggregates:
        """The same with some measures as the means of what they are for the batches."""
        means = tuple(Part(measure, "mean") for measure in measures)
        holistic = tuple(m for m in self.holistic if m not in measures)
        parts = (p for p in self.parts if p.name not in measures and (holistic or p.kind != "rows"))
        stage = self.stage.difference(measures)
        return replace(self, parts=(*parts, *means), stage=stage, holistic=holistic)


@dataclass(frozen=True)
class _Class:
    """What a tensor is to the examples: `given` (the same for any), `rows` (a value for each, along
    `axis`, or `count` of them), one of `DISTRIBUTIVE`, or `met` (all else)."""

    kind: str
    axis: int = 0
    count: int = 1
    scaled: bool = False


_GIVEN, _MET = _Class("given"), _Class("met")


def aggregates(one: System, two: System) -> Aggregates:
    """The parts of a system's outputs, which are numbers. `one` and `two` are the system for the
    batches of `SIZES`, with every input but `step` and `seed` a field of the data."""
    found = _Analysis(one, two)
    parts: dict[str, Part] = {}
    stage: set[str] = set()
    holistic, divided = [], []
    for output in one.outputs:
        needed = found.last_stage(output)
        if needed is None:  # cannot be computed from values that are handed over
            parts[output] = Part(output, "mean")
            divided.append(output)
            continue
        own, equations = needed
        if any(part.kind == "rows" for part in own.values()):
            holistic.append(output)
        parts |= own
        stage |= equations
    # a measure that reads one which is only known for batches, such as a metric that names the loss
    stage -= parts.keys()
    return Aggregates(
        one.outputs,
        tuple(parts.values()),
        frozenset(stage),
        found.given,
        frozenset(found.terms),
        found.sums,
        tuple(holistic),
        tuple(divided),
    )


def one_by_one(system: System) -> Aggregates:
    """Every output as the mean of what the batches give."""
    parts = tuple(Part(output, "mean") for output in system.outputs)
    return Aggregates(system.outputs, parts, frozenset(), divided=system.outputs)


class _Analysis:
    """Classes of all tensors of a system."""

    def __init__(self, one: System, two: System):
        self.system, self.twin = one, two.definition
        self.classes: dict[str, _Class] = {}
        self.inner = self._inner()
        for t in one.tensors.values():
            if t.kind == "input" and t.shape and two.tensors[t.name].shape != t.shape:
                self.classes[t.name] = _Class("rows")
            elif t.kind != "temp":
                self.classes[t.name] = _GIVEN
        for component in one.components:
            self._classify(component)
        self.given = frozenset(n for n in one.tensors if self.of(n).kind == "given")
        met = (eq for eq in two.equations if self.of(eq.target).kind == "met")
        self._fixed = {node for eq in met for node in walk(eq.body)}
        self.terms: set[str] = set()
        self.sums = frozenset(
            n for n, t in one.tensors.items() if not t.shape and self.of(n).kind == "sum"
        )

    def of(self, name: str) -> _Class:
        return self.classes.get(name, _MET)  # a placeholder of a gradient has no equation

    def _multiples(self, eq: Equation) -> dict[str, int]:
        """How often each index that counts examples counts each of them: 1, or T for an index of
        B*T steps; 0 where that is no whole number."""
        twin = self.twin.get(eq.target)
        if twin is None or len(twin.domain) != len(eq.domain):
            return {}
        found = {}
        for a, b in zip(eq.domain, twin.domain, strict=True):
            if a.size != b.size:
                whole = a.size % SIZES[0] == 0 and a.size // SIZES[0] == b.size / SIZES[1]
                found[a.name] = a.size // SIZES[0] if whole else 0
        return found

    def _inner(self) -> set[str]:
        """The values of examples that a parameter is applied to later, and random ones: what is
        mixed with another example of the batch, drawn at random, is a value of one example."""
        kept = {t.name for t in self.system.tensors.values() if t.kind in ("param", "state")}
        kept |= self._drawn()
        starts = []
        for eq in self.system.equations:
            own = self._multiples(eq).keys() & {i.name for i in eq.indices}
            if own and any(s in kept for s in eq.sources):
                starts.append(eq.target)
        return self.system.ancestors(starts)

    def _drawn(self) -> set[str]:
        """The seed, and what is computed from it and constants alone."""
        drawn = {"seed"}
        for eq in self.system.equations:
            sources = {*eq.sources} - {"step"}
            if sources and sources <= drawn:
                drawn.add(eq.target)
        return drawn

    def _classify(self, component: list[Equation]) -> None:
        # A recurrence reads itself: its classes are assumed first, then confirmed.
        guesses = {eq.target: self._guess(eq) for eq in component}
        if is_recurrent(component):
            self.classes |= guesses
        right = all(self._holds(eq, guesses[eq.target]) for eq in component)
        for eq in component:
            guess = guesses[eq.target]
            fiat = eq.target in self.inner and guess.kind == "rows" and guess.count
            self.classes[eq.target] = guess if right or fiat else _MET

    def _guess(self, eq: Equation) -> _Class:
        """The class of an equation if its examples do not meet elsewhere."""
        multiples = self._multiples(eq)
        twin = self.twin.get(eq.target)
        if twin is None or eq.at is not None or len(multiples) > 1:
            return _MET
        if not multiples:
            return _GIVEN
        ((name, count),) = multiples.items()
        for axis, index in enumerate(eq.indices):
            if index.name == name:
                return _Class("rows", axis, count)
        if eq.reduce not in DISTRIBUTIVE:
            return _MET
        return _Class(eq.reduce, count=count, scaled=twin.body is not eq.body)

    def _holds(self, eq: Equation, guess: _Class) -> bool:
        twin = self.twin.get(eq.target)
        if guess is _MET or twin is None or twin.reduce != eq.reduce or not guess.count:
            return False
        if guess.kind == "sum" and guess.scaled:
            same = is_float(eq.body.dtype) and factored(eq.body)[1] is factored(twin.body)[1]
        else:
            same = eq.body is twin.body
        if guess is _GIVEN:
            return same and all(self.of(s).kind == "given" for s in eq.sources)
        (name,) = self._multiples(eq)
        return same and self._apart(eq.body, name, guess.count)

    def _apart(self, body: Expr, name: str, count: int) -> bool:
        """Whether every example's values are read at its own place alone, and nothing depends on
        which place that is."""
        fine: dict[Expr, bool] = {}
        here = Idx(name)
        for node in walk(body):
            children = node.children
            if node is here:
                fine[node] = False
                continue
            if isinstance(node, Read):
                own = self.of(node.tensor)
                if own.kind not in ("given", "rows"):
                    return False
                if own.kind == "rows":
                    place = node.index[own.axis]
                    if not (place is here and own.count == count) and not (
                        # of a reshaped [B*T] the example k // T
                        count % own.count == 0 and _is(place, "floordiv", here, count // own.count)
                    ):
                        return False
                    children = tuple(c for c in children if c is not place)
            elif _is(node, "mod", here, count):
                children = ()
            fine[node] = all(fine[c] for c in children)
        return fine[body]

    def _is_fixed(self, node: Expr) -> bool:
        """Whether no constant in a subexpression depends on the number of examples."""
        fixed = node in self._fixed
        if fixed:
            self.terms.add(_text(node))
        return fixed

    # --- the last stage -------------------------------------------------------------------------

    def last_stage(self, output: str) -> tuple[dict[str, Part], set[str]] | None:
        """The parts from which a measure is computed, and the temps to compute from them; None if
        that cannot be done."""
        parts: dict[str, Part] = {}
        stage: set[str] = set()
        stack = [output]
        while stack:
            name = stack.pop()
            if name in parts or name in stage:
                continue
            own, tensor = self.of(name), self.system.tensors[name]
            # steps of examples that a reshape has put in one dimension: from the value before it
            flat = own.kind == "rows" and own.count != 1 and name not in self.inner
            if own.kind == "met" or flat:
                eq = self.system.definition.get(name)
                if eq is None or "seed" in eq.sources:
                    return None
                stage.add(name)
                terms, eq = named_terms(self.system, eq, self.given, self._is_fixed, self.sums)
                parts |= {n: term.part(n) for n, term in terms.items()}
                stack += [s for s in eq.sources if s not in terms]
            elif own.kind == "given":
                if tensor.size > LARGEST_GIVEN:
                    return None
                parts[name] = _Term(Read(name, (), None, tensor.dtype)).part(name)
            elif own.kind == "rows":
                if own.count != 1:
                    return None
                parts[name] = Part(name, "rows", own.axis)
            else:
                parts[name] = Part(name, own.kind, scaled=own.scaled)
        return parts, stage


def _is(expr: Expr, fn: str, first: Expr, second: int) -> bool:
    return (
        isinstance(expr, Apply)
        and expr.fn == fn
        and expr.args[0] is first
        and isinstance(expr.args[1], Const)
        and expr.args[1].value == second
    )


@dataclass(frozen=True)
class _Term:
    """A subexpression of the last stage that every batch hands over. With a `factor` it is a sum
    over examples times that constant and values without examples, else such a value."""

    body: Expr
    factor: float | None = None

    def part(self, name: str) -> Part:
        if self.factor is not None:
            return Part(name, "sum", scaled=True)
        return Part(name, "mean" if is_float(self.body.dtype) else "last")


def _text(expr: Expr) -> str:
    """The text of an expression, the same whatever the type that is computed in."""
    return expr_text(expr).replace("f64(", "f32(")


def named_terms(
    system: System,
    eq: Equation,
    given: frozenset[str],
    is_fixed: Callable[[Expr], bool],
    sums: frozenset[str],
) -> tuple[dict[str, _Term], Equation]:
    """The largest subexpressions that are fixed and read nothing but `given` tensors, or are
    products of such and one of the `sums`, by names for them; and the equation with reads of those
    names."""
    found: dict[Expr, str] = {}
    terms: dict[str, _Term] = {}

    def is_given(node: Expr) -> bool:
        own = reads(node)
        if not own or index_names(node) or not all(r.tensor in given for r in own):
            return False
        return isinstance(node, Read) or is_fixed(node)

    def chain(node: Expr) -> tuple[float, bool] | None:
        """The constant factor of a product with one sum, and whether a given value is in it."""
        if isinstance(node, Read):
            source = system.definition.get(node.tensor)
            if source is None or node.index or source.at is not None:
                return None
            if node.tensor in sums:
                return factored(source.body)[0], False
            return None if source.reduce or node.tensor in given else chain(source.body)
        if not isinstance(node, Apply) or node.fn not in ("neg", "mul", "div"):
            return None
        if node.fn == "neg":
            inner = chain(node.args[0])
            return inner and (-inner[0], inner[1])
        first, second = node.args
        if node.fn == "mul" and (is_given(first) or isinstance(first, Const)):
            first, second = second, first
        inner = chain(first)
        if inner is None or not (is_given(second) or isinstance(second, Const)):
            return None
        if not isinstance(second, Const):
            return inner[0], True
        if not second.value:
            return None
        return inner[0] * second.value ** (1 if node.fn == "mul" else -1), inner[1]

    def visit(node: Expr) -> None:
        if node in found:
            return
        product = chain(node) if is_float(node.dtype) else None
        weighted = product is not None and product[1] and product[0] != 0
        if is_given(node) or weighted:
            kind = "weighted" if weighted else "given"
            name = free_name(f"{eq.target}_{kind}{len(found) + 1}", system.tensors)
            found[node] = name
            terms[name] = _Term(node, product[0] if product and weighted else None)
            return
        for child in node.children:
            visit(child)

    visit(eq.body)
    body = _replaced(eq.body, {e: Read(name, (), None, e.dtype) for e, name in found.items()})
    return terms, eq.with_body(body)


def _replaced(expr: Expr, values: Mapping[Expr, Expr]) -> Expr:
    found = values.get(expr)
    if found is not None:
        return found
    children = tuple(_replaced(c, values) for c in expr.children)
    return rebuild(expr, children)


def factored(expr: Expr) -> tuple[float, Expr]:
    """The constant factor of an expression, and the rest: 2*x/3 is 2/3 times x."""
    if isinstance(expr, Const) and is_float(expr.dtype):
        return float(expr.value), literal(1.0, expr.dtype)
    if isinstance(expr, Apply) and is_float(expr.dtype):
        if expr.fn == "neg":
            factor, rest = factored(expr.args[0])
            return -factor, rest
        if expr.fn in ("mul", "div"):
            (a, first), (b, second) = map(factored, expr.args)
            if expr.fn == "div" and b == 0:
                return 1.0, expr
            return (a * b if expr.fn == "mul" else a / b), call(expr.fn, first, second)
    return 1.0, expr


# --- what is made of them -------------------------------------------------------------------------


@dataclass(frozen=True)
class HandedOver:
    """A program's system with the parts among its outputs: of each part in turn the output, and
    what to divide it by."""

    system: System
    outputs: tuple[str, ...]
    divisors: tuple[float, ...]


def hand_over(system: System, found: Aggregates, losses: int = 1) -> HandedOver:
    """The system of a program with the parts as outputs, after so many `losses`, its first ones."""
    edit = SystemEdit(system)
    outputs = {}
    terms: dict[str, tuple[_Term, Equation]] = {}
    for name in found.stage:
        eq = system.definition[name]
        named, _ = named_terms(system, eq, found.given, found.is_fixed, found.sums)
        terms |= {n: (term, eq) for n, term in named.items()}
    for part in found.handed:
        tensor = system.tensors.get(part.name)
        if tensor is None:
            term, eq = terms[part.name]
            outputs[part.name] = edit.add(Equation(part.name, (), term.body, span=eq.span))
        elif tensor.kind == "temp":
            outputs[part.name] = part.name
        else:
            copy = copy_equation(tensor, part.name, f"{part.name}_seen")
            outputs[part.name] = edit.add(copy)
    each = dict.fromkeys((*system.outputs[:losses], *outputs.values()))
    made = edit.result().replace(outputs=tuple(each))
    divisors = [1.0] * len(outputs)
    for place, part in enumerate(found.handed):
        if part.scaled:
            own = terms[part.name][0].factor if part.name in terms else None
            divisors[place] = own or factored(system.definition[part.name].body)[0]
    return HandedOver(made, tuple(outputs.values()), tuple(divisors))


def last_stage(system: System, found: Aggregates) -> System:
    """The measures as the outputs of a system whose inputs are the parts of a set. `system` is the
    one for a batch of all its examples. Whole numbers are added up in i64."""
    tensors: dict[str, Tensor] = {}
    factors: dict[str, float] = {}
    for part in found.parts:
        tensor = system.tensors.get(part.name)
        if tensor is None:  # a term: it is declared where it occurs
            continue
        dtype = "i64" if part.kind in ("sum", "prod") and tensor.dtype == "i32" else tensor.dtype
        tensors[part.name] = Tensor(part.name, tensor.shape, dtype, "input", span=tensor.span)
        if part.scaled:
            factors[part.name] = factored(system.definition[part.name].body)[0]
    ends = {p.name for p in found.parts}
    needed = reachable(
        found.measures,
        lambda name: system.definition[name].sources if name in found.stage - ends else (),
    )
    equations = []
    for component in system.components:
        for eq in component:
            if eq.target in ends or eq.target not in found.stage & needed:
                continue
            terms, eq = named_terms(system, eq, found.given, found.is_fixed, found.sums)
            tensors |= {n: Tensor(n, (), t.body.dtype, "input") for n, t in terms.items()}
            factors |= {n: t.factor for n, t in terms.items() if t.factor is not None}
            own = system.tensors[eq.target]
            if not is_recurrent(component):
                eq = _retyped(eq, tensors, factors)
                own = replace(own, dtype=eq.dtype)
            tensors[eq.target] = own
            equations.append(eq)
    return System(system.name, tensors, tuple(equations), found.measures).in_order()


def _retyped(eq: Equation, tensors: Mapping[str, Tensor], factors: Mapping[str, float]) -> Equation:
    """The equation with its reads in the types that the tensors have now, and with the factors of
    scaled sums."""

    def change(node: Expr) -> Expr | None:
        # the number of all examples may be too large for the type that it is for a batch
        if isinstance(node, Const) and node.dtype == "i32" and abs(node.value) > LAST_I32:
            return literal(node.value, "i64")
        if not isinstance(node, Read):
            return None
        read = Read(node.tensor, node.index, node.other, tensors[node.tensor].dtype)
        factor = factors.get(node.tensor)
        return read if factor is None else factor * read

    eq = eq.rewrite(change)
    if eq.reduce in ("sum", "prod") and eq.body.dtype == "i32":
        eq = eq.with_body(cast(eq.body, "i64"))
    return eq
