"""Example blocks: a thread computes several layers of one example before it begins the next.

    for b: h[b] = f(x[b])
    for b: y[b] = g(h[b])   →   for b: { h = f(x[b]); y[b] = g(h) }

In a prediction examples are independent of each other. Layer by layer, what a layer makes of a
whole batch has left the caches before the next one reads it; example by example it stays there, has
memory for one example alone, and no thread waits for another one between layers. Against it are the
weights, which are read again for every example. So neighbouring kernels are put together as long as
fewer bytes are moved between the cores' caches and memory, by a closed form.

Cf. Alwani et al., "Fused-layer CNN accelerators", 2016; depth-first schedules of inference engines;
tile and fuse in Halide (`compute_at`). Tests: tests/passes/test_example_blocks.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from ...ir.equation import Index, Tensor
from ...targets import CpuTarget
from .dynamic_batch import example_dimensions
from .kernel import Blocks, Item, Kernel, Plan


def example_blocks(plan: Plan, target: CpuTarget) -> Plan:
    """The plan of a prediction with kernels in blocks of an example where that saves traffic."""
    system = plan.system
    if system.batch < target.example_blocks.least_examples:
        return plan
    dimensions = example_dimensions(system)
    if dimensions is None:
        return plan
    traffic = _Traffic(plan, dimensions, target)
    items: list[Item] = list(plan.items[: plan.prologue])
    tensors = dict(system.tensors)
    for part in _stretches(plan.items[plan.prologue :], dimensions):
        for group in _groups(part, traffic):
            if len(group) == 1:
                items += group
                continue
            items.append(_blocks(group, system.batch))
            for name in traffic.inside(group):
                tensors[name] = _held(tensors[name], dimensions[name])
    return replace(plan, items=tuple(items), system=system.replace(tensors=tensors))


def _stretches(items: Sequence[Item], dimensions: Mapping[str, int]) -> Iterator[list[Item]]:
    """Neighbouring kernels over examples; everything else by itself."""
    found: list[Item] = []
    for item in items:
        if _is_of_examples(item, dimensions):
            found.append(item)
            continue
        if found:
            yield found
        yield [item]
        found = []
    if found:
        yield found


def _is_of_examples(item: Item, dimensions: Mapping[str, int]) -> bool:
    return (
        isinstance(item, Kernel)
        and bool(item.examples)
        and not item.fixed
        and item.window is None
        # where examples are side by side in memory, vectors run along them
        and all(i.name != item.examples for eq in item.equations for i in eq.indices[1:][-1:])
    )


def _groups(part: Sequence[Item], traffic: _Traffic) -> Iterator[list[Item]]:
    """The kernels in groups that move fewer bytes together, each grown as long as that holds."""
    group: list[Item] = [part[0]]
    for item in part[1:]:
        if traffic.bytes([*group, item]) <= traffic.bytes(group) + traffic.bytes([item]):
            group.append(item)
            continue
        yield from traffic.worth(group)
        group = [item]
    yield from traffic.worth(group)


def _blocks(group: Sequence[Item], batch: int) -> Blocks:
    kernels = tuple(replace(k, fixed=(k.examples,)) for k in group if isinstance(k, Kernel))
    reason = "an example at a time, which stays in the cache"
    return Blocks((Index(kernels[0].examples, batch),), None, 1, kernels, reason)


def _held(tensor: Tensor, dimension: int) -> Tensor:
    shape = (1 if n == dimension else size for n, size in enumerate(tensor.shape))
    return replace(tensor, held=tuple(shape))


class _Traffic:
    """How many bytes kernels move between the cores' caches and what is behind them."""

    def __init__(self, plan: Plan, dimensions: Mapping[str, int], target: CpuTarget):
        self.plan, self.dimensions = plan, dimensions
        self.system, self.batch = plan.system, plan.system.batch
        self.near = target.example_blocks.cache_share * target.l2.bytes
        self._readers: dict[str, set[str]] = {}  # by homes, the anchors of kernels
        for item in plan.items:
            for kernel in (item,) if isinstance(item, Kernel) else item.every:
                for name in self._touched(kernel):
                    self._readers.setdefault(name, set()).add(kernel.name)

    def home(self, name: str) -> str:
        """The tensor whose memory it is."""
        while name in self.plan.views:
            name = self.plan.views[name]
        return name

    def worth(self, group: list[Item]) -> Iterator[list[Item]]:
        """The group, or each kernel by itself if less is moved so."""
        if self.bytes(group) < sum(self.bytes([item]) for item in group):
            yield group
        else:
            yield from ([item] for item in group)

    def inside(self, group: Sequence[Item]) -> set[str]:
        """The temps that no other kernel touches, with the views of them, where examples are the
        first dimension of all."""
        names = {item.name for item in group if isinstance(item, Kernel)}
        made = {n for item in group if isinstance(item, Kernel) for n in item.stored}
        own = {n for n in made if self._readers[n] <= names and n not in self.system.roots}
        views = [(name, self.home(name)) for name in self.plan.views]
        family = {home: {home, *(n for n, h in views if h == home)} for home in own}
        return {
            name
            for members in family.values()
            if len(members) == 1
            or (
                all(self.dimensions.get(n) == 0 for n in members)
                and self.system.roots.isdisjoint(members)
            )
            for name in members
        }

    def bytes(self, group: Sequence[Item]) -> float:
        """Those of a group, or of a kernel by itself."""
        if len(group) == 1:
            return self._alone(group[0])
        kernels = [item for item in group if isinstance(item, Kernel)]
        inside = {name for name in self.inside(group) if name not in self.plan.views}
        total, weights = 0.0, dict[str, int]()
        alive = self._alive(kernels, inside)
        for kernel in kernels:
            for name in self._touched(kernel):
                size = self.system.tensors[name].bytes
                if name not in self.dimensions:
                    weights[name] = size
                elif size > self.near and (name not in inside or alive > self.near):
                    total += size
        read = sum(weights.values())
        return total + read * (1 if alive + read <= self.near else self.batch)

    def _alone(self, item: Item) -> float:
        if not isinstance(item, Kernel):
            return 0.0
        sizes = {name: self.system.tensors[name].bytes for name in self._touched(item)}
        return sum(n for name, n in sizes.items() if n > self.near or name not in self.dimensions)

    def _alive(self, kernels: Sequence[Kernel], inside: set[str]) -> float:
        """The most bytes of an example that are in use at once."""
        first: dict[str, int] = {}
        last: dict[str, int] = {}
        for time, kernel in enumerate(kernels):
            for name in self._touched(kernel):
                if name in self.dimensions:
                    first.setdefault(name, time)
                    last[name] = time
        changes = [0] * (len(kernels) + 1)
        for name, time in first.items():
            each = self.system.tensors[name].bytes // self.batch
            changes[time] += each
            changes[last[name] + 1] -= each
        most = now = 0
        for change in changes:
            now += change
            most = max(most, now)
        return most

    def _touched(self, kernel: Kernel) -> set[str]:
        """What a kernel reads and stores, by homes."""
        names = {s for eq in kernel.equations for s in eq.sources} | set(kernel.stored)
        return {self.home(name) for name in names - kernel.local}
