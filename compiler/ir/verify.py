"""The rules of a system, which hold after every pass.

In: a system and the name of the pass that made it. Out: nothing, or an `InternalError` that names
the pass, the equation and the rule.
"""

from __future__ import annotations

from ...dsl.syntax.source import Span
from .affine import inside, is_static
from .build import call
from .dtypes import is_float
from .equation import Equation, Gradient, System, is_recurrent
from .expr import Apply, Const, Expr, Idx, Read, walk
from .printer import equation_text, gradient_text
from .recurrence import NoOrder, plan_recurrence


class InternalError(Exception):
    """The compiler broke one of its own rules; never the user's fault. `span` is the place in the
    source, where that is known; `dump` what is worth keeping for who mends it."""

    span: Span | None = None
    dump: str = ""

    def __init__(self, after: str, rule: str, subject: str):
        self.after, self.rule, self.subject = after, rule, subject
        super().__init__(f"after pass `{after}`: {rule}: {subject}")


def verify(system: System, after: str) -> System:
    """The system itself, if it keeps all rules. Raises InternalError otherwise."""
    check = _Check(system, after)
    check.tensors()
    for eq in system.equations:
        check.equation(eq)
    for gradient in system.gradients:
        check.gradient(gradient)
    check.order()
    return system


class _Check:
    def __init__(self, system: System, after: str):
        self.system, self.after = system, after

    def require(self, holds: bool, rule: str, subject: object) -> None:
        if not holds:
            raise InternalError(self.after, rule, str(subject))

    def tensors(self) -> None:
        # Single assignment: passes look up the one equation of a temp by its name.
        targets = [eq.target for eq in self.system.equations]
        targets += [gradient.target for gradient in self.system.gradients]
        self.require(len(set(targets)) == len(targets), "a tensor is computed once", targets)
        for name, tensor in self.system.tensors.items():
            self.require(name == tensor.name, "a tensor is listed under its name", name)
            computed = name in targets
            self.require(
                computed == (tensor.kind == "temp"), "temps, and only they, are computed", name
            )
        for name in self.system.roots:
            self.require(name in self.system.tensors, "an output is a tensor", name)
        for kept, following in self.system.updates.items():
            # The next value replaces the old one after a step.
            a, b = self.system.tensors[kept], self.system.tensors[following]
            same = (a.shape, a.dtype, a.storage) == (b.shape, b.dtype, b.storage)
            self.require(same, "an update fits", kept)

    def equation(self, eq: Equation) -> None:
        tensors = self.system.tensors
        self.require(eq.target in tensors, "a target is declared", eq.target)
        target = tensors[eq.target]
        text = equation_text(eq, target.shape)
        names = [i.name for i in eq.domain]
        self.require(len(set(names)) == len(names), "indices have different names", text)
        # Holds for a reduction over no index, too: elaboration writes those, `simplify` removes
        # them.
        self.require(
            (eq.reduce is None) == (not eq.over) or eq.reduce is not None,
            "what is reduced over needs a reduction",
            text,
        )
        if eq.at is None:
            shape = tuple(i.size for i in eq.indices)
            self.require(shape == target.shape, "the indices are the target's dimensions", text)
        else:
            # An accumulation is the adjoint of a gather, and adjoints are added.
            self.require(not eq.indices and eq.reduce == "sum", "an accumulation is a sum", text)
            self.require(len(eq.at) == len(target.shape), "a place has all dimensions", text)
        dtype = "i32" if eq.reduce in ("argmax", "argmin") else eq.body.dtype
        self.require(dtype == target.dtype, f"a body has its target's type ({dtype})", text)
        for expr in (eq.body, *(eq.at or ())):
            self.expression(expr, eq, text)
        if target.storage:
            exact = eq.reduce in (None, "max", "min") and eq.at is None
            exact &= self.is_rounded(eq.body, target.storage)
            self.require(exact, f"what is stored as {target.storage} is rounded to it", text)

    def is_rounded(self, expr: Expr, storage: str) -> bool:
        """Whether every value of the expression is one of the format."""
        if isinstance(expr, Const):
            return call(storage, expr) is expr or expr.value != expr.value
        if isinstance(expr, Read):
            other = expr.other is None or self.is_rounded(expr.other, storage)
            return other and self.system.tensors[expr.tensor].storage == storage
        if not isinstance(expr, Apply):
            return False
        if expr.fn in ("neg", "abs", "stop", "after", "select", "max", "min"):
            args = {"after": expr.args[:1], "select": expr.args[1:]}.get(expr.fn, expr.args)
            return all(self.is_rounded(a, storage) for a in args)
        return expr.fn == storage

    def expression(self, expr: Expr, eq: Equation, text: str) -> None:
        for node in walk(expr):
            if isinstance(node, Idx):
                self.require(node.name in eq.sizes, f"`{node.name}` is an index here", text)
            if not isinstance(node, Read):
                continue
            source = self.system.tensors.get(node.tensor)
            self.require(source is not None, f"`{node.tensor}` is declared", text)
            assert source is not None
            # Nodes carry their type, so a pass that retypes a tensor must rewrite its readers.
            self.require(source.dtype == node.dtype, f"`{node.tensor}` is {source.dtype}", text)
            self.require(
                len(node.index) == len(source.shape),
                f"`{node.tensor}` is read at all its dimensions",
                text,
            )
            for place, size in zip(node.index, source.shape, strict=True):
                # u8, i8, i32 or i64; a cast is needed from anything else.
                whole = not is_float(place.dtype) and place.dtype != "bool"
                self.require(whole, "an index is a whole number", text)
                # What depends on data cannot be proven; reads outside give NaN at run time.
                safe = node.other is not None or not is_static(place)
                self.require(
                    safe or inside(place, size, eq.sizes),
                    f"`{node}` stays inside {list(source.shape)}",
                    text,
                )

    def gradient(self, gradient: Gradient) -> None:
        text = gradient_text(gradient)
        for name in (gradient.target, gradient.of, gradient.wrt):
            self.require(name in self.system.tensors, f"`{name}` is declared", text)
        target, of, wrt = (
            self.system.tensors[n] for n in (gradient.target, gradient.of, gradient.wrt)
        )
        self.require(not of.shape and is_float(of.dtype), "a real number is differentiated", text)
        self.require(is_float(wrt.dtype), "a gradient is with respect to real numbers", text)
        same = (target.shape, target.dtype) == (wrt.shape, wrt.dtype)
        self.require(same, "a gradient has the shape and type of its `wrt`", text)
        own = gradient.target in self.system.ancestors([gradient.of, gradient.wrt])
        self.require(not own, "a gradient is not computed from itself", text)

    def order(self) -> None:
        # Inputs, params and states are there from the start; placeholders get equations later.
        done = {n for n, t in self.system.tensors.items() if t.kind != "temp"}
        done |= self.system.placeholder.keys()
        for component in self.system.components:
            targets = {eq.target for eq in component}
            for eq in component:
                # Within a recurrence, equations may read each other; `plan_recurrence` orders
                # those.
                late = set(eq.sources) - done - targets
                self.require(not late, "what is read is computed before", f"{eq.target}: {late}")
            if is_recurrent(component):
                try:
                    plan_recurrence(component)
                except NoOrder as error:
                    raise InternalError(
                        self.after, "a recurrence has an order", str(error)
                    ) from None
            done |= targets
