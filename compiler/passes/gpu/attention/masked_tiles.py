"""Which tiles of a square count for nothing: those that a condition hides.

In: a `Streamed` kernel. Out: affine forms; where one of them is positive, no sum of the kernel gets
anything. A causal mask gives `key - query`. A form comes from a comparison of integers in a
condition, if with its truth every weight is 0, or every score -inf. As everywhere in the compiler,
0 times anything is 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isinf

from ....ir.affine import Affine, is_integer_order, positive_form
from ....ir.expr import Apply, Const, Expr, Idx, Read, index_names, reads, walk
from ...kernels.kernel import Streamed


def masked_tiles(kernel: Streamed) -> tuple[Affine, ...]:
    """The forms, each once."""
    weights = [t.weight for t in kernel.totals]
    if kernel.highest is not None:
        weights = [*weights, kernel.highest.score]
    found: list[Affine] = []
    for node in dict.fromkeys(n for w in weights for n in _comparisons(w)):
        for truth in (True, False):
            form = _form(node, truth, kernel)
            if form is not None and form not in found and _Known(node, truth, form, kernel).all():
                found.append(form)
    return tuple(found)


def _comparisons(expr: Expr) -> Iterator[Apply]:
    for node in walk(expr):
        if is_integer_order(node):
            yield node


def _form(node: Apply, truth: bool, kernel: Streamed) -> Affine | None:
    """What is positive exactly if the comparison has this truth; its parts but `own` and `other`
    must not change within a tile."""
    form = positive_form(node, truth)
    moving = {kernel.own.name, kernel.other.name}
    rest = [a for a in form.coefficients if not (isinstance(a, Idx) and a.name in moving)]
    mentioned = len(rest) < len(form.coefficients)
    return None if not mentioned or any(index_names(a) & moving for a in rest) else form


@dataclass(frozen=True)
class _Known:
    """What follows from the truth of one comparison."""

    node: Apply
    truth: bool
    form: Affine
    kernel: Streamed

    def all(self) -> bool:
        """Whether every sum gets nothing."""
        highest = self.kernel.highest
        if highest is not None and not self.lowest(highest.score):
            return False
        return all(map(self.zero, (t.weight for t in self.kernel.totals)))

    def is_true(self, condition: Expr) -> bool | None:
        if condition is self.node:
            return self.truth
        if not isinstance(condition, Apply):
            return None
        parts = [self.is_true(a) for a in condition.args]
        match condition.fn:
            case "not":
                return None if parts[0] is None else not parts[0]
            case "and":
                return False if False in parts else None if None in parts else True
            case "or":
                return True if True in parts else None if None in parts else False
        return None

    def _branches(self, node: Apply) -> tuple[Expr, ...]:
        condition = self.is_true(node.args[0])
        return node.args[1:] if condition is None else (node.args[1 if condition else 2],)

    def zero(self, expr: Expr) -> bool:
        highest = self.kernel.highest
        if isinstance(expr, Const):
            return expr.value == 0
        if highest is not None and expr is highest.weight:
            return self.lowest(highest.score)
        if not isinstance(expr, Apply):
            return False
        match expr.fn:
            case "mul":
                return any(map(self.zero, expr.args))
            case "div" | "neg" | "bf16":
                return self.zero(expr.args[0])
            case "add" | "sub":
                return all(map(self.zero, expr.args))
            case "select":
                return all(map(self.zero, self._branches(expr)))
            case "exp":
                return self._far_below(expr.args[0])
        return False

    def lowest(self, expr: Expr) -> bool:
        """Whether it is -inf, if what it is computed from is finite."""
        if isinstance(expr, Const):
            return isinf(expr.value) and expr.value < 0
        if not isinstance(expr, Apply):
            return False
        match expr.fn:
            case "add":
                return any(map(self.lowest, expr.args))
            case "sub" | "bf16":
                return self.lowest(expr.args[0])
            case "mul" | "div":
                by = expr.args[1]
                return isinstance(by, Const) and by.value > 0 and self.lowest(expr.args[0])
            case "select":
                return all(map(self.lowest, self._branches(expr)))
        return False

    def _far_below(self, expr: Expr) -> bool:
        """Whether a score is -inf and what is subtracted is not: a row's maximum that is no less
        than a constant, or that of a row of which something is always seen."""
        if not (isinstance(expr, Apply) and expr.fn == "sub" and self.lowest(expr.args[0])):
            return False
        score, top = expr.args
        if isinstance(top, Apply) and top.fn == "max":
            return any(isinstance(a, Const) and not isinf(a.value) for a in top.args)
        return isinstance(top, Read) and self._seen(score, top)

    def _seen(self, score: Expr, top: Read) -> bool:
        """Whether something of every row is seen: one condition makes the score -inf, its
        comparisons say for each row which columns are too far down or up, and some are left."""
        own, other = self.kernel.own, self.kernel.other
        row, column = (own, other) if own.name in index_names(top) else (other, own)
        products = {p.read for p in self.kernel.products}
        lows = [
            n
            for n in walk(score)
            if isinstance(n, Apply)
            and n.fn == "select"
            and any(isinstance(a, Const) and isinf(a.value) for a in n.args)
        ]
        forms = [f for n in lows for f in _hiding(n, self.kernel)]
        if len(lows) != 1 or not forms or not set(reads(score)) <= products:
            return False
        lower, upper = [(0, 0)], [(column.size - 1, column.size - 1)]
        for form in forms:
            by = 0 if form is None else form.coefficients.get(Idx(column.name), 0)
            if form is None or by not in (-1, 1):
                return False
            rest = form.without(Idx(column.name))
            if not all(isinstance(a, Idx) and a.name == row.name for a in rest.coefficients):
                return False
            slope = rest.coefficients.get(Idx(row.name), 0)
            ends = rest.constant, rest.constant + slope * (row.size - 1)
            if by > 0:
                upper.append((-ends[0], -ends[1]))
            else:
                lower.append(ends)
        # straight lines: what holds for the first and the last row holds for all
        return all(x[0] <= y[0] and x[1] <= y[1] for x in lower for y in upper)


def _hiding(node: Apply, kernel: Streamed) -> list[Affine | None]:
    """Forms of which one is positive where a choice is -inf; None for what is no such form."""

    def forms(condition: Expr, truth: bool) -> list[Affine | None]:
        if isinstance(condition, Apply):
            if condition.fn == "not":
                return forms(condition.args[0], not truth)
            if condition.fn == ("or" if truth else "and"):
                return [f for a in condition.args for f in forms(a, truth)]
            if is_integer_order(condition):
                return [_form(condition, truth, kernel)]
        return [None]

    condition, yes, _ = node.args
    return forms(condition, isinstance(yes, Const) and isinf(yes.value))
