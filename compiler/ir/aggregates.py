"""The loss and the metrics as functions of a set of examples, whatever batches it comes in.

    f1 = 2.0 * f32(hits) / f32(positives)            every batch: hits, positives
    hits = sum(b < 32) i32(guess[b] and label[b])  →   the set: hits and positives added up,
    positives = sum(b < 32) …                              then f1, once

A program sees one batch. What it hands over for each are *parts*, and the *last stage* computes
the loss and the metrics of the set from the parts of all batches. In the terms of data cubes, a
part is a distributive aggregate (sum, prod, max, min), and a number of distributive aggregates is
algebraic. What is neither (the area under a curve, a rank, a deviation from the mean of the set) is
holistic: its parts are rows, values for each example, at the places where the examples first meet.
Which tensors are parts is found here; `aggregate_programs.py` makes the programs for a batch and
for the last stage.

Which index counts examples is found by comparing the system for two batch sizes: it is the one
whose size differs. A constant that differs is a function of the number of examples; in the last
stage it is that of the set.

In a model, examples may meet although a value belongs to one of them: batch normalisation reads the
mean of its batch. Whatever a parameter is applied to later counts as a value of its example. So
does what is read of another example at a place that belongs to this one, `label[partner[b]]`.

Gray et al., Data Cube: A Relational Aggregation Operator, 1997. Tests:
tests/runtime/test_set_measures.py, tests/fuzzers/metrics.py.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from ...dsl.records import record
from .aggregate_terms import Part, Term, factored, named_terms, text_of
from .dtypes import is_float
from .equation import Equation, System, is_recurrent
from .expr import Apply, Const, Expr, Idx, Read, reads, walk

SIZES = 840, 1680  # batches to compare; a half, a third, … of them are whole numbers
DISTRIBUTIVE = ("sum", "prod", "max", "min")
LARGEST_GIVEN = 4096  # elements of a value without examples that the last stage reads


@record
class Aggregates:
    """The parts of loss and metrics (`measures`, names of temps, the loss first), and the temps of
    the last stage. `holistic` are the measures that need rows, `divided` those that are only known
    for batches. `given` are all tensors that are the same for any examples, `terms` the texts of
    subexpressions that are, `sums` all numbers that are sums over examples. Where the measures are
    `phased`, those of training may differ from those of evaluation."""

    measures: tuple[str, ...]
    parts: tuple[Part, ...]
    stage: frozenset[str]
    given: frozenset[str] = frozenset()
    terms: frozenset[str] = frozenset()
    sums: frozenset[str] = frozenset()
    holistic: tuple[str, ...] = ()
    divided: tuple[str, ...] = ()
    phased: bool = True

    def is_fixed(self, node: Expr) -> bool:
        return text_of(node) in self.terms

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


@record
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
                    if (place is here and own.count == count) or (
                        # of a reshaped [B*T] the example k // T
                        count % own.count == 0 and _is(place, "floordiv", here, count // own.count)
                    ):
                        children = tuple(c for c in children if c is not place)
                    elif not self._is_given_place(place):
                        return False
            elif _is(node, "mod", here, count):
                children = ()
            fine[node] = all(fine[c] for c in children)
        return fine[body]

    def _is_given_place(self, place: Expr) -> bool:
        """Whether it is what an example says of another one's place in the batch, such as the
        partner that is drawn for it. Among the rows of all batches it would be another's place."""
        return any(self.of(read.tensor).kind == "rows" for read in reads(place))

    def _is_fixed(self, node: Expr) -> bool:
        """Whether no constant in a subexpression depends on the number of examples."""
        fixed = node in self._fixed
        if fixed:
            self.terms.add(text_of(node))
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
                parts[name] = Term(Read(name, (), None, tensor.dtype)).part(name)
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
