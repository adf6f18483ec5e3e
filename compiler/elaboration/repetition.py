"""What is elaborated again and again, such as the blocks of a deep model, elaborated once.

In: work to do, what decides its outcome, and the tensors that it is given. Out: its results. The
first time it is done; after that, what it added to the system is written down under other names.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ...dsl.syntax import ast as s
from ..ir.build import literal, renamed, rewrite
from ..ir.equation import Equation, Tensor
from ..ir.expr import Apply, Const, Expr
from .builder import MAX_EQUATIONS, Application, Block, Builder, Scope
from .values import Array, Value, is_static, of_tensor

SHARED = ("step", "seed")  # the compiler's own inputs, which any equation may read


@dataclass(frozen=True)
class Recording:
    """What one elaboration added. The names of its `tensors` begin with `stem`; it was `given`
    others. `own` are the parameters that `use`, around it all, is to blame for."""

    stem: str
    given: tuple[str, ...]
    tensors: tuple[tuple[Tensor, tuple[str, ...]], ...]  # with the names of their dimensions
    equations: tuple[Equation, ...]
    blocks: tuple[Block, ...]
    updates: Mapping[str, str]
    inits: Mapping[str, tuple[s.Expr, Scope]]
    origins: Mapping[str, Application | None]
    streams: range
    statements: int
    results: tuple[Value, ...]

    def names(self, stem: str, given: Sequence[str]) -> dict[str, str]:
        """What its tensors are called under another stem, and what is given in place of others."""
        own = {t.name: stem + t.name[len(self.stem) :] for t, _ in self.tensors}
        return own | dict(zip(self.given, given, strict=True))


class Repetition(Builder):
    """`once` does work, or repeats what it did."""

    inits: dict[str, tuple[s.Expr, Scope]]
    statements: int

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.recordings: dict[Hashable, Recording] = {}

    def once(
        self, key: Hashable, stem: str, given: Sequence[str], make: Callable[[], tuple[Value, ...]]
    ) -> tuple[Value, ...]:
        """The results of `make`, which reads the tensors `given`, gives new ones names that begin
        with `stem`, and whose work is the same for every equal `key` but for those names."""
        known = self.recordings.get(key)
        if known is not None:
            names = known.names(stem, given)
            if self.fits_again(known, names):
                return self.again(known, names)
        before = self.mark()
        results = make()
        recording = self.recorded(stem, given, before, results)
        if recording is not None:
            self.recordings.setdefault(key, recording)
        return results

    # --- the first time ------------------------------------------------------------------------

    def mark(self) -> tuple[int, ...]:
        return (
            len(self.tensors),
            len(self.equations),
            len(self.blocks),
            len(self.updates),
            len(self.inits),
            self.streams,
            self.statements,
            len(self.report.diagnostics),
        )

    def recorded(
        self, stem: str, given: Sequence[str], before: tuple[int, ...], results: tuple[Value, ...]
    ) -> Recording | None:
        """What was added since; None if there were mistakes, or if it cannot be said again."""
        tensors, equations, blocks, updates, inits, streams, statements, mistakes = before
        added = [n for n in _since(self.tensors, tensors) if n not in SHARED]
        sayable = all(n.startswith(stem) for n in added) and all(map(_sayable, results))
        if len(self.report.diagnostics) != mistakes or not sayable:
            return None
        use = self.use()
        origins = {n: self.origins[n] for n in added if n in self.origins}
        return Recording(
            stem,
            tuple(given),
            tuple((self.tensors[n], self.axes[n]) for n in added),
            tuple(self.equations[equations:]),
            tuple(self.blocks[blocks:]),
            {n: self.updates[n] for n in _since(self.updates, updates)},
            {n: self.inits[n] for n in _since(self.inits, inits)},
            {n: None if origin is use else origin for n, origin in origins.items()},
            range(streams, self.streams),
            self.statements - statements,
            results,
        )

    # --- once more -----------------------------------------------------------------------------

    def fits_again(self, known: Recording, names: Mapping[str, str]) -> bool:
        """Whether the new names are free, and no limit is near that has to be told of."""
        return (
            not any(
                names[t.name] in self.tensors or names[t.name] in self.reserved
                for t, _ in known.tensors
            )
            and len(self.equations) + len(known.equations) < MAX_EQUATIONS
        )

    def again(self, known: Recording, names: Mapping[str, str]) -> tuple[Value, ...]:
        """The recording under other names, with random draws of its own."""
        use, shift = self.use(), self.streams - known.streams.start
        for tensor, axes in known.tensors:
            name = names[tensor.name]
            self.tensors[name] = replace(tensor, name=name)
            self.axes[name] = axes
        for name, origin in known.origins.items():
            blamed = origin or use
            if blamed is not None:
                self.origins[names[name]] = blamed
        self.inits |= {names[n]: init for n, init in known.inits.items()}
        self.updates |= {names[n]: names[following] for n, following in known.updates.items()}

        def change(expr: Expr) -> Expr:
            return _redrawn(renamed(expr, names), known.streams, shift)

        for eq in known.equations:
            at = None if eq.at is None else tuple(map(change, eq.at))
            self.equations.append(
                Equation(
                    names[eq.target], eq.indices, change(eq.body), eq.reduce, eq.over, at, eq.span
                )
            )
        for block in known.blocks:
            targets = tuple(names.get(t, t) for t in block.targets)
            self.blocks.append(replace(block, targets=targets))
        self.streams += len(known.streams)
        self.statements += known.statements
        return tuple(self.result_again(value, names) for value in known.results)

    def result_again(self, value: Value, names: Mapping[str, str]) -> Value:
        if not isinstance(value, Array) or value.tensor is None:
            return value
        name = value.tensor.name
        found = of_tensor(self.tensors[names.get(name, name)], value.axes)
        return found if value.hint == name else replace(found, hint=value.hint)


def outline(values: Mapping[str, Value]) -> tuple[Hashable, tuple[str, ...]] | None:
    """What elaboration can see of named values, and the tensors among them in order of their first
    use; None if one is an expression, which has no name to stand for it."""
    seen: dict[str, int] = {}
    parts: list[Hashable] = []
    for name, value in values.items():
        if is_static(value):
            parts.append((name, type(value), repr(value)))  # 0.0 is not -0.0
        elif isinstance(value, Array) and value.tensor is not None:
            tensor = value.tensor
            number = seen.setdefault(tensor.name, len(seen))
            parts.append((name, number, tensor.shape, tensor.dtype, tensor.kind, value.axes))
        else:
            return None
    return tuple(parts), tuple(seen)


def _redrawn(expr: Expr, streams: range, shift: int) -> Expr:
    """The expression with its random draws from other streams."""
    if not streams or not shift:
        return expr

    def change(node: Expr) -> Expr | None:
        if not isinstance(node, Apply) or node.fn != "random":
            return None
        seed, step, stream, place = node.args
        if not isinstance(stream, Const) or stream.value not in streams:
            return None
        return Apply(node.fn, (seed, step, literal(int(stream.value) + shift), place), node.dtype)

    return rewrite(expr, change)


def _sayable(value: Value) -> bool:
    return is_static(value) or (isinstance(value, Array) and value.tensor is not None)


def _since(names: Iterable[str], count: int) -> list[str]:
    return list(names)[count:]
