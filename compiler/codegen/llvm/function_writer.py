"""One LLVM function as text, with local value numbering and loop-invariant code motion.

LLVM's own optimizers are not run on what is written here; two rules replace them. An operation
equal to an earlier one returns the earlier result (common-subexpression elimination). And an
operation is placed in the outermost open loop in which all its operands are known, so address
arithmetic, broadcasts and loads leave loops by themselves (cf. the early schedule of Click, "Global
code motion, global value numbering", 1995). What has an effect stays where it is.

It knows nothing of tensors or equations. Tests: tests/backends/test_assembly.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class _Region:
    """The body of a loop or of a condition, open for appending."""

    block: str  # the label of the basic block that text now goes to
    lines: list[str] = field(default_factory=list)
    known: dict[tuple, str] = field(default_factory=dict)  # operation → its result


@dataclass
class OpenLoop:
    """What the body of an open loop reads, and its results once it is closed."""

    index: str
    carried: list[str]
    results: Sequence[str] = ()

    def close(self, *results: str) -> None:
        self.results = results


class FunctionWriter:
    """Writes one function. Operands are SSA names or constants; both are plain strings."""

    def __init__(self, declarations: dict[str, None]):
        self.declarations = declarations
        self._levels: dict[str, int] = {}  # of SSA names; what is not here is known everywhere
        self._regions = [_Region("entry")]
        self._names = 0
        self._labels = 0
        self.at = ""  # what follows every operation: the place in the source that it comes from

    # --- operations ----------------------------------------------------------------------------

    def op(self, text: str, *operands: str, type: str) -> str:
        """A pure operation: `{0}`, `{1}` … stand for operands, `{T}` for the result type."""
        level = 0  # a loop, as this is the hottest place of the compiler
        for operand in operands:
            depth = self._levels.get(operand, 0)
            if depth > level:
                level = depth
        region = self._regions[level]
        # It is appended to an outer region while inner ones are still open: their text is added to
        # the outer region's only when they close, so it comes before them.
        key = (text, type, operands)
        found = region.known.get(key)
        if found is None:
            found = region.known[key] = self._name(level)
            region.lines.append(f"  {found} = {text.format(*operands, T=type)}{self.at}")
        return found

    def effect(self, text: str, *operands: str) -> None:
        """An operation for its effect, in its place."""
        self._regions[-1].lines.append(f"  {text.format(*operands)}{self.at}")

    def pinned(self, text: str, *operands: str, type: str) -> str:
        """An operation whose result depends on when it runs: neither shared nor moved."""
        name = self._name(len(self._regions) - 1)
        self._regions[-1].lines.append(f"  {name} = {text.format(*operands, T=type)}{self.at}")
        return name

    def declare(self, line: str) -> None:
        self.declarations[line] = None

    def level(self, name: str) -> int:
        """How many open loops and conditions a value depends on."""
        return self._levels.get(name, 0)

    def _name(self, level: int) -> str:
        self._names += 1
        name = f"%v{self._names}"
        self._levels[name] = level
        return name

    # --- control -------------------------------------------------------------------------------

    @contextmanager
    def loop(
        self,
        start: str,
        stop: str,
        step: int,
        carried: Sequence[tuple[str, str]] = (),
        maybe_empty: bool = False,
    ) -> Iterator[OpenLoop]:
        """A loop that runs at least once, unless `maybe_empty`. `carried` are (type, first value);
        the body ends with `loop.close(next values)`, which are the results after the loop."""
        self._labels += 1
        label, done = f"loop{self._labels}", f"done{self._labels}"
        outer, level = self._regions[-1], len(self._regions)
        index = self._name(level)
        phis = [self._name(level) for _ in carried]
        inner = _Region(label)
        self._regions.append(inner)
        loop = OpenLoop(index, phis)
        yield loop
        # Pinned to the end of the body, where the latch of the loop belongs.
        following = self.pinned(f"add nsw {{T}} {{0}}, {step}", index, type="i64")
        again = self.pinned("icmp slt i64 {0}, {1}", following, stop, type="i1")
        self._regions.pop()
        # The predecessors of the phis: the block that enters the loop, and the last one of its
        # body, which need not be the first if there are loops inside.
        before, last = f"%{outer.block}", f"%{inner.block}"
        enter = f"br label %{label}"
        if maybe_empty:
            some = self.pinned("icmp slt i64 {0}, {1}", start, stop, type="i1")
            enter = f"br i1 {some}, label %{label}, label %{done}"
        counted = f"phi i64 [ {start}, {before} ], [ {following}, {last} ]"
        outer.lines += [f"  {enter}", f"{label}:", f"  {index} = {counted}"]
        outer.lines += [
            f"  {phi} = phi {type} [ {first}, {before} ], [ {result}, {last} ]"
            for phi, (type, first), result in zip(phis, carried, loop.results, strict=True)
        ]
        outer.lines += inner.lines
        outer.lines += [f"  br i1 {again}, label %{label}, label %{done}", f"{done}:"]
        outer.block = done
        if maybe_empty:
            # Without a single iteration the results are the first values.
            loop.results = [
                self.pinned(f"phi {{T}} [ {first}, {before} ], [ {result}, {last} ]", type=type)
                for (type, first), result in zip(carried, loop.results, strict=True)
            ]
        for result in loop.results:  # the last values live on after the loop
            if result in self._levels:
                self._levels[result] = min(self._levels[result], level - 1)

    @contextmanager
    def when(self, condition: str) -> Iterator[None]:
        """Effects that happen only if the condition holds."""
        self._labels += 1
        yes, end = f"then{self._labels}", f"end{self._labels}"
        outer, inner = self._regions[-1], _Region(yes)
        self._regions.append(inner)
        yield
        self._regions.pop()
        outer.lines += [f"  br i1 {condition}, label %{yes}, label %{end}", f"{yes}:"]
        outer.lines += inner.lines
        outer.lines += [f"  br label %{end}", f"{end}:"]
        outer.block = end

    # --- text ----------------------------------------------------------------------------------

    def function(self, head: str) -> str:
        """The finished function: `define … {` head, entry block and all that was written."""
        (region,) = self._regions
        return "\n".join([f"{head} {{", "entry:", *region.lines, "  ret void", "}", ""])
