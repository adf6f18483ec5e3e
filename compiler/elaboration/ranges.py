"""The ranges of indices: how far each goes, from where it is used, as declared, or as it says.

In: the indices of an equation or a reduction and the text that they stand in. Out: their sizes.
"""

from __future__ import annotations

from ...dsl.diagnostics.diagnostic import Note
from ...dsl.syntax import ast as s
from ...dsl.syntax.ast import walk
from ...dsl.syntax.source import Span
from ..ir.equation import Index
from .builder import MAX_ELEMENTS, Abort, Scope
from .names import Names
from .values import Array, Poison, Shape, Use


class Ranges(Names):
    """Adds ranges to names."""

    def introduce(
        self, axes: tuple[s.Axis, ...], body: s.Node, scope: Scope, span: Span
    ) -> tuple[Scope, tuple[Index, ...]]:
        """The scope inside a reduction, and the indices reduced over with their sizes. An index
        whose name is taken (by the equation, or by the caller of this fn) gets another one."""
        sizes: dict[str, int] = {}
        renamed: dict[str, str] = {}
        dots: tuple[str, ...] | None = None
        for axis in axes:
            if axis.name == "...":
                dots, extents = self.ellipsis_range(body, scope, axis.span)
                sizes.update(zip(dots, extents, strict=True))
                continue
            if axis.name in sizes or axis.name in renamed:
                raise self.error(
                    "E0215", f"index `{axis.name}` stands twice in one list", axis.span
                )
            size = self.range_of(axis, body, scope)
            if size > MAX_ELEMENTS:
                raise self.error(
                    "E0311",
                    f"`{axis.name}` would run over {size:,}",
                    axis.span,
                    label="too far",
                    help=f"the limit is {MAX_ELEMENTS:,}",
                )
            (own,) = self.distinct((axis.name,), (*scope.indices, *sizes))
            if own != axis.name:
                renamed[axis.name] = own
            sizes[own] = size
        return scope.inner(sizes, dots, renamed), tuple(Index(n, size) for n, size in sizes.items())

    def range_of(
        self, axis: s.Axis, body: s.Node, scope: Scope, declared: int | None = None
    ) -> int:
        """The size of an index: as it says itself, as declared, or from where it is used."""
        if axis.bound is not None:
            return self.size(axis.bound, scope, f"the range of `{axis.name}`")
        uses = self.uses(axis.name, body, scope)
        if declared is not None:
            uses = [Use(declared, axis.span, "the result"), *uses]
        if not uses:
            if self.reads_poison(body, scope):
                raise Abort()
            raise self.error(
                "E0305",
                f"the range of `{axis.name}` is not known",
                axis.span,
                label="it is not used as an index by itself",
                help=f"say it: `{axis.name} < 3`",
            )
        first = uses[0]
        for use in uses[1:]:
            if use.size != first.size:
                raise self.error(
                    "E0304",
                    f"sizes of `{axis.name}` disagree",
                    use.span,
                    label=f"here `{axis.name}` runs over {use.size} (`{use.tensor}`)",
                    notes=(
                        Note(
                            first.span,
                            f"here `{axis.name}` runs over {first.size} ({first.tensor})"
                            if first.tensor == "the result"
                            else f"here `{axis.name}` runs over {first.size} (`{first.tensor}`)",
                        ),
                    ),
                    help=f"`{use.tensor}` has shape {list(use.shape)}: are two of its indices "
                    "exchanged?"
                    if first.size in use.shape
                    else "",
                )
        return first.size

    def reads_poison(self, body: s.Node, scope: Scope) -> bool:
        """Whether it reads a tensor whose definition was wrong: nothing more is said then."""
        return any(
            isinstance(node, s.Index) and isinstance(scope.names.get(node.tensor.id), Poison)
            for node in walk(body)
        )

    def uses(self, name: str, body: s.Node, scope: Scope) -> list[Use]:
        """Where the index stands alone as an index of a tensor whose shape is known."""
        found: list[Use] = []
        if isinstance(body, s.Reduce) and any(a.name == name for a in body.axes):
            return found
        if isinstance(body, s.Index):
            array = self.shape_of(body.tensor, scope)
            explicit = sum(not isinstance(i, s.Ellipsis_) for i in body.indices)
            if array is not None and explicit <= array.rank:
                written = self.written(body, array)
                for item, size in zip(written, array.shape, strict=False):
                    if isinstance(item, s.Name) and item.id == name and not item.primed:
                        found.append(Use(size, item.span, body.tensor.id, array.shape))
        for child in vars(body).values():
            for item in child if isinstance(child, tuple) else (child,):
                if isinstance(item, s.Node):
                    found += self.uses(name, item, scope)
        return found

    def written(self, node: s.Index, array: Array) -> list[s.Node]:
        """The syntax that stands for each dimension."""
        result: list[s.Node] = []
        for item in node.indices:
            dots = isinstance(item, s.Ellipsis_)
            result += [item] * (array.rank - len(node.indices) + 1 if dots else 1)
        return result

    # --- leading dimensions --------------------------------------------------------------------

    def ellipsis_range(
        self, body: s.Node, scope: Scope, span: Span
    ) -> tuple[tuple[str, ...], Shape]:
        """What `...` stands for in an equation: names and sizes, from the tensors it indexes."""
        found: list[tuple[Shape, tuple[str, ...], s.Index]] = []
        for node in walk(body):
            if isinstance(node, s.Index) and any(isinstance(i, s.Ellipsis_) for i in node.indices):
                array = self.shape_of(node.tensor, scope)
                if array is not None:
                    count = array.rank - len(node.indices) + 1
                    if count >= 0:
                        found.append((array.shape[:count], array.axes[:count], node))
        if not found:
            if "..." in scope.names:
                outer: Shape = scope.names["..."]  # type: ignore[assignment]
                return self.fresh_dots(scope, body, ("b",) * len(outer)), outer
            raise self.error(
                "E0305",
                "what `...` stands for is not known",
                span,
                label="no tensor here is indexed with `...`",
            )
        shape, axes, first = found[0]
        for other, _, node in found[1:]:
            if other != shape:
                raise self.error(
                    "E0304",
                    "the dimensions of `...` disagree",
                    node.span,
                    label=f"here they are {list(other)} (`{node.tensor.id}`)",
                    notes=(Note(first.span, f"here they are {list(shape)} (`{first.tensor.id}`)"),),
                )
        return self.fresh_dots(scope, body, axes), shape

    def fresh_dots(self, scope: Scope, body: s.Node, axes: tuple[str, ...]) -> tuple[str, ...]:
        """Names for the indices behind `...` that nothing in the equation uses."""
        heads = {id(n.tensor) for n in walk(body) if isinstance(n, s.Index)}
        taken = {n.id for n in walk(body) if isinstance(n, s.Name) and id(n) not in heads}
        taken |= {a.name for n in walk(body) if isinstance(n, s.Reduce) for a in n.axes}
        return self.distinct(axes, (*taken, *scope.indices))
