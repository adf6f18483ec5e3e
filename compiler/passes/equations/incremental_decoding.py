"""Incremental decoding: a causal system evaluated at one new position, with the past as state.

    k[t, i] = sum(j) x[t, j] * w[j, i]           k[i]         = sum(j) x[j] * w[j, i]
    y[t, i] = sum(s) p[t, s] * k[s, i]    →      k_kept'[s,i] = if s == position then k[i] else …
                                                 y[i]         = sum(s) p[s] * k_kept'[s, i]

Every tensor along time shrinks to its slice at `position`, and what later positions read becomes
state: the last step of a recurrence (`h_back1`), the keys and values of attention, the window of a
causal convolution (`k_kept`). The key-value cache follows from the equations. What does not depend
on the position, such as an encoder, becomes a system of its own (`once`).

The time axis of a tensor is found from both ends: backwards from the output, an index that steps
with the output's; and where all of time is read at once (the `s` of a softmax), the one axis that
the input's time runs along, or the index that it is compared with (`if s <= t`). That no output
depends on later inputs is not proven here: callers test it on the system itself.
Tests: tests/passes/test_incremental_decoding.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ...ir.affine import affine
from ...ir.build import call, literal, rewrite, substitute
from ...ir.equation import Equation, Index, System, Tensor, unused_name
from ...ir.expr import Apply, Expr, Idx, Read, index_names, walk

POSITION = "'position"  # the name of an input that no program can have


class NotIncremental(ValueError):
    """The system cannot be evaluated position by position; says which tensor is why."""


def incremental_decoding(system: System, source: str, axis: int, output: str) -> System:
    """The system for one position. Its inputs are `position` (a number) and those of the system,
    `source` without its time axis; its output is `output` without its time axis.

    Raises NotIncremental if a tensor is needed along two different times, ahead of time, or whole
    in a way that no single axis explains.
    """
    work = _Derivation(system, _forward(system, source, axis))
    work.times[source] = axis
    candidates = work.along.get(output, set())
    # Of the axes that step with the input's time, the time axis is one of its length.
    length = system.tensors[source].shape[axis]
    fitting = [a for a in sorted(candidates) if system.tensors[output].shape[a] == length]
    if not fitting:
        raise NotIncremental(f"`{output}` has no axis along which `{source}` runs")
    work.demand(output, fitting[0])
    return work.system_of(output).in_order()


def once(step: System, source: str) -> tuple[System, System]:
    """A step of `incremental` in two: what is the same at every position, such as an encoder or a
    table of angles, and the rest, which takes the results of the first as inputs."""
    fresh = {source, POSITION, *step.updates, *step.updates.values()}
    # The closure of what depends on the input, the position or a state, to a fixed point, so that
    # the order of the equations does not matter.
    while True:
        found = {eq.target for eq in step.equations if not fresh.isdisjoint(eq.sources)}
        if found <= fresh:
            break
        fresh |= found
    # An output stays in the step even if it never changes: the step must yield it.
    changing = tuple(eq for eq in step.equations if eq.target in fresh or eq.target in step.outputs)
    same = tuple(eq for eq in step.equations if eq not in changing)
    read = {name for eq in changing for name in eq.sources}
    handed = tuple(eq.target for eq in same if eq.target in read)
    inputs = {n: replace(step.tensors[n], kind="input") for n in handed}
    first = System(step.name, _used(same, step.tensors), same, handed, {})
    rest = System(
        step.name, _used(changing, {**step.tensors, **inputs}), changing, step.outputs, step.updates
    )
    return first, rest


def _used(equations: tuple[Equation, ...], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = {name for eq in equations for name in (eq.target, *eq.sources)}
    return {name: tensor for name, tensor in tensors.items() if name in names}


def _forward(system: System, source: str, axis: int) -> dict[str, set[int]]:
    """For every tensor that depends on the input, the axes that step with the input's time."""
    # To a fixed point, for recurrences: axes of later equations may lead back to earlier ones.
    along: dict[str, set[int]] = {source: {axis}}
    grew = True
    while grew:
        grew = False
        for eq in system.equations:
            reads = [r for r in eq.reads if r.tensor in along]
            if not reads:
                continue
            # `along` has an entry as soon as a tensor depends on the input, even with no axis.
            found = along.setdefault(eq.target, set())
            before = len(found)
            # i is a time axis if the read's time index is i plus an offset, or the taps of a
            # window.
            for read in reads:
                for a in along[read.tensor]:
                    found |= {
                        n
                        for n, i in enumerate(eq.indices)
                        if _reach(read.index[a], i, eq) is not None
                    }
            # Attention: `score[t, s]` steps with t by its queries; only if nothing steps are axes
            # taken that are compared with the summed index.
            for read in reads if not found else ():
                for a in along[read.tensor]:
                    found |= {
                        n for n, i in enumerate(eq.indices) if _is_compared(read.index[a], i, eq)
                    }
            grew |= len(found) > before
    return along


def _offset(expr: Expr, index: Index) -> int | None:
    """c if the expression is the index plus c."""
    rest = affine(expr) - affine(Idx(index.name))
    return None if rest.coefficients else rest.constant


def _reach(expr: Expr, index: Index, eq: Equation) -> int | None:
    """The most by which the expression is ahead of the index, if it steps with it: 0 for the taps
    `t + u - 2` of a causal convolution, where u < 3 is summed over, and for those of a window
    `score[t, u] = … x[t - u]`."""
    rest = affine(expr) - affine(Idx(index.name))
    # What may stand beside the index: constants and the other indices, each a tap.
    taps: dict[Expr, int] = {Idx(i.name): i.size for i in (*eq.indices, *eq.over) if i != index}
    if not rest.coefficients.keys() <= taps.keys():
        return None
    # A tap u with factor c reaches c * (size - 1) ahead; a negative factor looks back.
    furthest = [max(0, factor * (taps[i] - 1)) for i, factor in rest.coefficients.items()]
    return rest.constant + sum(furthest)


def _is_compared(expr: Expr, index: Index, eq: Equation) -> bool:
    """Whether the equation asks how the expression, over which it reduces, lies to the index."""
    if not index_names(expr) & {i.name for i in eq.over}:
        return False
    wanted = affine(expr) - affine(Idx(index.name))
    # `s <= t`, `t >= s` and shifted by constants all have the same coefficients up to sign.
    for node in walk(eq.body):
        if isinstance(node, Apply) and node.fn in ("lt", "le", "gt", "ge"):
            left, right = map(affine, node.args)
            if (left - right).coefficients in (
                wanted.coefficients,
                wanted.scaled(-1).coefficients,
            ):
                return True
    return False


@dataclass
class _Derivation:
    system: System
    along: dict[str, set[int]]
    times: dict[str, int] = field(default_factory=dict)  # the time axis of what is needed
    kept: set[str] = field(default_factory=set)  # needed for all positions so far
    back: dict[str, int] = field(default_factory=dict)  # needed this many positions back
    names: dict[str, str] = field(default_factory=dict)  # of the states that are added

    # --- what is needed -----------------------------------------------------------------------

    def demand(self, name: str, axis: int) -> None:
        """The tensor's slice at the new position is needed along this axis."""
        if name in self.times:
            if self.times[name] != axis:
                raise NotIncremental(f"`{name}` is needed along two different times")
            return
        self.times[name] = axis
        eq = self.system.definition.get(name)
        # No equation for one position: an input, or a scatter.
        if eq is None or eq.at is not None:
            raise NotIncremental(f"`{name}` cannot be computed for one position")
        for read in eq.reads:
            if read.tensor in self.along:
                self.demand_read(read, eq.indices[axis], eq)

    def demand_read(self, read: Read, time: Index, eq: Equation) -> None:
        # `x[t - 1]` steps along time, `k[s]` of attention does not.
        stepping = [a for a, e in enumerate(read.index) if time.name in index_names(e)]
        if stepping:
            axis = stepping[0]
            ahead = _reach(read.index[axis], time, eq)
            # Twice along time (a diagonal), not by an offset, or from later positions.
            if len(stepping) > 1 or ahead is None or ahead > 0:
                raise NotIncremental(f"`{eq.target}` reads `{read}`, which may not be of the past")
            # A constant offset needs that many old values; a window of taps needs all of them.
            offset = _offset(read.index[axis], time)
            if offset is None:
                self.kept.add(read.tensor)
            elif offset < 0:
                self.back[read.tensor] = max(self.back.get(read.tensor, 0), -offset)
            self.demand(read.tensor, axis)
            return
        # Read whole: one axis must be time, and all of its positions so far are kept.
        axes = self.along[read.tensor]
        if len(axes) != 1:
            raise NotIncremental(f"`{eq.target}` reads all of `{read.tensor}`, and no axis is time")
        self.kept.add(read.tensor)
        self.demand(read.tensor, next(iter(axes)))

    # --- the system for one position ----------------------------------------------------------

    def system_of(self, output: str) -> System:
        tensors: dict[str, Tensor] = {POSITION: Tensor(POSITION, (), "i32", "input")}
        equations: list[Equation] = []
        updates: dict[str, str] = {}
        # What does not depend on the input stays as it is; what does and is not needed, goes.
        for name, tensor in self.system.tensors.items():
            if name in self.times:
                tensors[name] = self.slice(tensor)
            elif name not in self.along:
                tensors[name] = tensor
        for eq in self.system.equations:
            if eq.target in self.times:
                equations.append(self.at_position(eq))
            elif eq.target not in self.along:
                equations.append(eq)
        for name in self.kept:
            self.keep(name, tensors, equations, updates)
        for name, count in self.back.items():
            self.remember(name, count, tensors, equations, updates)
        return System(self.system.name, tensors, tuple(equations), (output,), updates)

    def slice(self, tensor: Tensor) -> Tensor:
        axis = self.times[tensor.name]
        shape = tensor.shape[:axis] + tensor.shape[axis + 1 :]
        return Tensor(tensor.name, shape, tensor.dtype, tensor.kind, tensor.init, tensor.span)

    def at_position(self, eq: Equation) -> Equation:
        """The equation at the new position: its time index is no index any more."""
        axis = self.times[eq.target]
        time = eq.indices[axis]
        # The position is an input, so one compiled step serves every position.
        now: Expr = Read(POSITION, (), None, "i32")
        body = rewrite(eq.body, lambda node: self.past(node, time))
        body = substitute(body, {time.name: now})
        indices = eq.indices[:axis] + eq.indices[axis + 1 :]
        return Equation(eq.target, indices, body, eq.reduce, eq.over, None, eq.span)

    def past(self, node: Expr, time: Index) -> Expr | None:
        """A read along time: of the new slice, of one some positions back, or of all positions."""
        if not isinstance(node, Read) or node.tensor not in self.times:
            return None
        axis = self.times[node.tensor]
        place, others = node.index[axis], node.index[:axis] + node.index[axis + 1 :]
        offset = _offset(place, time)
        if time.name not in index_names(place) or offset is None:
            # Taps of a window, or all of time: read from all positions so far. A time index that is
            # left in the place becomes the position in `at_position`.
            return Read(self.named(f"{node.tensor}_kept") + "'", node.index, node.other, node.dtype)
        if offset == 0:
            return Read(node.tensor, others, node.other if others else None, node.dtype)
        found = Read(self.named(f"{node.tensor}_back{-offset}"), others, None, node.dtype)
        if node.other is None:
            return found
        # Before enough positions exist, the guarded read of `t - 2` fell outside.
        early = call("lt", Read(POSITION, (), None, "i32"), literal(-offset))
        return call("select", early, node.other, found)

    def keep(
        self,
        name: str,
        tensors: dict[str, Tensor],
        equations: list[Equation],
        updates: dict[str, str],
    ) -> None:
        """x_kept'[…, t, …] = if t == position then x[…] else x_kept[…, t, …]."""
        whole, axis = self.system.tensors[name], self.times[name]
        indices = tuple(Index(f"i{n}", size) for n, size in enumerate(whole.shape))
        places: tuple[Expr, ...] = tuple(Idx(i.name) for i in indices)
        fresh = Read(name, places[:axis] + places[axis + 1 :], None, whole.dtype)
        kept = self.named(f"{name}_kept")
        old = Read(kept, places, None, whole.dtype)
        # Readers read the cache with the new slice in it, so attention sees its own position.
        here = call("eq", places[axis], Read(POSITION, (), None, "i32"))
        self.state(kept, whole.shape, whole.dtype, tensors, updates)
        equations.append(Equation(f"{kept}'", indices, call("select", here, fresh, old)))

    def remember(
        self,
        name: str,
        count: int,
        tensors: dict[str, Tensor],
        equations: list[Equation],
        updates: dict[str, str],
    ) -> None:
        """x_back1' = x, x_back2' = x_back1, …"""
        tensor = tensors[name]
        indices = tuple(Index(f"i{n}", size) for n, size in enumerate(tensor.shape))
        places = tuple(Idx(i.name) for i in indices)
        # A shift register: each state takes the value of the one before it.
        newer = name
        for distance in range(1, count + 1):
            own = self.named(f"{name}_back{distance}")
            self.state(own, tensor.shape, tensor.dtype, tensors, updates)
            body = Read(newer, places, None, tensor.dtype)
            equations.append(Equation(f"{own}'", indices, body))
            newer = own

    def named(self, name: str) -> str:
        """The state of this name, or of one like it that the program has not."""
        if name not in self.names:
            self.names[name] = unused_name(name, {*self.system.tensors, *self.names.values()})
        return self.names[name]

    @staticmethod
    def state(
        name: str,
        shape: tuple[int, ...],
        dtype: str,
        tensors: dict[str, Tensor],
        updates: dict[str, str],
    ) -> None:
        zero = "0.0" if dtype.startswith("f") else "0"
        tensors[name] = Tensor(name, shape, dtype, "state", f"= {zero}")
        tensors[f"{name}'"] = Tensor(f"{name}'", shape, dtype)
        updates[name] = f"{name}'"
