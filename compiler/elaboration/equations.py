"""Equations: `y = …`, `y[i, j] = …`, next values `m' = …` and accumulations `y[…] += …`.

In: one equation of a body. Out: equations of the system, and a value for each name on the left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...dsl.syntax import ast as s
from ..ir.build import cast
from ..ir.equation import Equation, Index, Tensor
from .builder import Abort, Scope
from .recurrences import Recurrences
from .values import Array, Poison, Value, is_static, lift, of_tensor


class Equations(Recurrences):
    """Adds equations to recurrences."""

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.repeats = 0  # how many `repeat` blocks are open: they give names their next values

    def equation(self, node: s.Equation, scope: Scope, declared: Mapping[str, s.Type]) -> None:
        names = [t.id + "'" * t.primed for t in node.targets]
        for name, target in zip(names, node.targets, strict=True):
            known = scope.names.get(name)
            if target.primed:
                self.next_of(target, scope)
            elif (
                isinstance(known, Array)
                and known.tensor
                and known.tensor.kind != "foreseen"
                and known.tensor.name == name
                and not (scope.prefix or self.repeats)
            ):
                raise self.error(
                    "E0206",
                    f"`{name}` is given a value twice",
                    target.span,
                    help="give the new value a name of its own",
                )
        if node.indices is None and len(names) > 1:
            results = self.values(node.value, scope)
            if len(results) != len(names):
                raise self.error(
                    "E0317",
                    f"{len(results)} result{'s' * (len(results) != 1)} for {len(names)} names",
                    node.value.span,
                    label=f"this gives {len(results)}",
                )
            scope.names.update(zip(names, results, strict=True))
            return
        name, target = names[0], node.targets[0]
        if node.indices is None and not isinstance(node.value, s.Reduce):
            scope.names[name] = self.assignment(name, target, node, scope, declared)
        else:
            scope.names[name] = self.indexed(name, target, node, scope, declared)
        if target.primed:
            self.finish_next(target, scope)

    def assignment(
        self,
        name: str,
        target: s.Name,
        node: s.Equation,
        scope: Scope,
        declared: Mapping[str, s.Type],
    ) -> Value:
        """`y = …`, all elements at once. A tensor that has a name keeps it."""
        before = scope.target
        scope.target = target.id
        try:
            value = self.value(node.value, scope)
        finally:
            scope.target = before
        if is_static(value) and name not in declared and not target.primed:
            return value
        if isinstance(value, str):
            raise self.no_number(value, node.value)
        array = lift(value, self.float_type)
        type = declared.get(name)
        if type is not None and type.dtype is not None:
            array = self.as_declared(array, self.float_for(type.dtype), node.value.span)
        must_own = target.primed or not scope.prefix
        if array.tensor is not None and not must_own:
            return array
        if target.primed:
            state = scope.names[target.id]
            assert isinstance(state, Array) and state.tensor
            kept = state.tensor.dtype
            array = self.as_declared(array, kept, node.value.span, f"`{target.id}`")
            array = self.broadcast_to(array, state, node.span)
        return self.materialise(self.full_name(target, scope), array, node.span, None)

    def indexed(
        self,
        name: str,
        target: s.Name,
        node: s.Equation,
        scope: Scope,
        declared: Mapping[str, s.Type],
    ) -> Value:
        """`y[i, j] = …`, the value at one point."""
        indices, ellipsis = self.left_side(node, scope, declared)
        inner = replace(
            scope,
            indices={i.name: i.size for i in indices},
            ellipsis=ellipsis,
            target=target.id,
            span=node.span,
        )
        if node.indices is not None:
            self.foresee(name, node, scope, declared, indices)
        reduce: str | None = None
        over: tuple[Index, ...] = ()
        if isinstance(node.value, s.Reduce) and node.value.op != "mean":
            reduce, over, body = self.reduced(node.value, inner)
        else:
            body = self.scalar(node.value, inner)
        foreseen = scope.names.get(name)
        if isinstance(foreseen, Array) and foreseen.tensor and foreseen.tensor.kind == "foreseen":
            tensor = foreseen.tensor
            position = reduce in ("argmax", "argmin")
            if position and tensor.dtype != "i32":
                raise self.error(
                    "E0502",
                    f"`{name}` reads itself through `{reduce}`",
                    node.value.span,
                    label=f"`{reduce}` gives whole numbers, and `{name}` is {tensor.dtype}",
                    help="declare it i32, or is a `max` or `min` meant?",
                )
            self.tensors[tensor.name] = Tensor(
                tensor.name, tensor.shape, tensor.dtype, "temp", "", self.used(node.span)
            )
            body = body if position else cast(body, tensor.dtype)
            self.limit(body, node.span)
            self.equations.append(
                Equation(tensor.name, indices, body, reduce, over, None, self.used(node.span))
            )
            return of_tensor(self.tensors[tensor.name], self.axes[tensor.name])
        type = declared.get(name)
        if type is not None and type.dtype is not None and reduce not in ("argmax", "argmin"):
            self.keeps_values(body.dtype, self.float_for(type.dtype), node.value.span)
            body = cast(body, self.float_for(type.dtype))
        if target.primed:
            state = scope.names[target.id]
            kept = state.tensor.dtype  # type: ignore[union-attr]
            self.keeps_values(body.dtype, kept, node.value.span, f"`{target.id}`")
            body = cast(body, state.tensor.dtype)  # type: ignore[union-attr]
        array = self.add(self.full_name(target, scope), indices, body, node.span, reduce, over)
        if target.primed and array.shape != state.shape:  # type: ignore[union-attr]
            raise self.misfit(array.shape, state, node.span)  # type: ignore[arg-type]
        return array

    # --- next values ---------------------------------------------------------------------------

    def next_of(self, target: s.Name, scope: Scope) -> None:
        state = scope.names.get(target.id)
        if isinstance(state, Poison):
            raise Abort()
        kept = isinstance(state, Array) and state.tensor is not None
        if not kept or state.tensor.kind not in ("state", "param"):  # type: ignore[union-attr]
            raise self.error(
                "E0212",
                f"`{target.id}'` is the next value of nothing",
                target.span,
                label=f"`{target.id}` is not a state",
                help=f"declare it: `state {target.id}: […] = 0`",
            )

    def finish_next(self, target: s.Name, scope: Scope) -> None:
        state, following = scope.names[target.id], scope.names[target.id + "'"]
        assert isinstance(state, Array) and state.tensor
        assert isinstance(following, Array) and following.tensor
        self.updates[state.tensor.name] = following.tensor.name

    # --- accumulation --------------------------------------------------------------------------

    def accumulation(self, node: s.Equation, scope: Scope) -> None:
        """`table[token[b] < 65, j < 16] += sum(b < 32, j < 16) body`: every place on the left
        says how far it goes; the right side is a sum over all that is added."""
        name = node.targets[0].id
        if not isinstance(node.value, s.Reduce) or node.value.op != "sum":
            text = node.value.span.text
            raise self.error(
                "E0315",
                "after `+=` stands a sum over all that is added",
                node.span,
                help="like `count[token[b] < 65] += sum(b < 32) 1.0`"
                if node.indices
                else f"a new value has a name of its own: `{name}_2 = {name} + {text}`",
            )
        inner, over = self.introduce(node.value.axes, node.value.body, scope, node.span)
        places, shape = [], []
        for item in node.indices or ():
            place = item.left if isinstance(item, s.Binary) and item.op == "<" else item
            bound = (
                item.right
                if isinstance(item, s.Binary) and item.op == "<"
                else (item.bound if isinstance(item, s.Axis) else None)
            )
            if bound is None:
                raise self.error(
                    "E0315",
                    "how far this place goes is not said",
                    item.span,
                    label=f"a size of `{name}`",
                    help=f"say it: `{item.span.text} < 10`",
                )
            if isinstance(place, s.Axis):
                place = s.Name(place.span, place.name)
            places.append(self.scalar(place, inner))
            shape.append(self.size(bound, scope, "the range of a place"))
        body = self.scalar(node.value.body, inner)
        full = self.unique(scope.prefix + name)
        scope.names[name] = self.declare(full, tuple(shape), body.dtype, "temp", node.span)
        span = self.used(node.span)
        self.equations.append(Equation(full, (), body, "sum", over, tuple(places), span))
