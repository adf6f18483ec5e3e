"""What batches hand over for the measures of a set, and the subexpressions among it.

    loss = annealed * (sum(b < 32) e[b]) / 32.0   →   the part `loss_weighted1`: a sum over
                                                       examples times a value without examples

Beside whole tensors, a measure may read subexpressions that are the same for any examples, or such
a value times one sum over examples: these are named here. See `aggregates.py`. Tests:
tests/runtime/test_set_measures.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ...dsl.records import record
from .build import call, literal, rebuild
from .dtypes import is_float
from .equation import Equation, System, free_name
from .expr import Apply, Const, Expr, Read, expr_text, index_names, reads


@record
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


@record
class Term:
    """A subexpression of the last stage that every batch hands over. With a `factor` it is a sum
    over examples times that constant and values without examples, else such a value."""

    body: Expr
    factor: float | None = None

    def part(self, name: str) -> Part:
        if self.factor is not None:
            return Part(name, "sum", scaled=True)
        return Part(name, "mean" if is_float(self.body.dtype) else "last")


def text_of(expr: Expr) -> str:
    """The text of an expression, the same whatever the type that is computed in."""
    return expr_text(expr).replace("f64(", "f32(")


def named_terms(
    system: System,
    eq: Equation,
    given: frozenset[str],
    is_fixed: Callable[[Expr], bool],
    sums: frozenset[str],
) -> tuple[dict[str, Term], Equation]:
    """The largest subexpressions that are fixed and read nothing but `given` tensors, or are
    products of such and one of the `sums`, by names for them; and the equation with reads of those
    names."""
    found: dict[Expr, str] = {}
    terms: dict[str, Term] = {}

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
            terms[name] = Term(node, product[0] if product and weighted else None)
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
