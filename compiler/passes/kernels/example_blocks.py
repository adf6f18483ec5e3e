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
    for part in _stretches(plan.items[plan.prologue :]):
        if not isinstance(part, list):
            items.append(part)
            continue
        for group in _groups(part, traffic):
            if len(group) == 1:
                items += group
                continue
            items.append(_blocks(group, system.batch))
            for name in traffic.inside(group):
                tensors[name] = _held(tensors[name], dimensions[name])
    return replace(plan, items=tuple(items), system=system.replace(tensors=tensors))


def _stretches(items: Sequence[Item]) -> Iterator[list[Kernel] | Item]:
    """Neighbouring kernels over examples; everything else by itself."""
    found: list[Kernel] = []
    for item in items:
        if isinstance(item, Kernel) and _is_of_examples(item):
            found.append(item)
            continue
        if found:
            yield found
        yield item
        found = []
    if found:
        yield found


def _is_of_examples(kernel: Kernel) -> bool:
    # Where examples are side by side in memory, vectors run along them.
    innermost = {i.name for eq in kernel.equations for i in eq.indices[1:][-1:]}
    plain = not kernel.fixed and kernel.window is None
    return plain and bool(kernel.examples) and kernel.examples not in innermost


def _groups(kernels: Sequence[Kernel], traffic: _Traffic) -> Iterator[list[Kernel]]:
    """The kernels in groups that move fewer bytes together, each grown as long as that holds."""
    tally = _Tally(traffic)
    for kernel in kernels:
        alone = traffic.alone(kernel)
        before, grown = tally.bytes, tally.with_kernel(kernel)
        if tally.group and grown > before + alone:
            yield from tally.groups()
            tally = _Tally(traffic)
            tally.with_kernel(kernel)
        tally.take(kernel, alone)
    yield from tally.groups()


def _blocks(group: Sequence[Kernel], batch: int) -> Blocks:
    kernels = tuple(replace(kernel, fixed=(kernel.examples,)) for kernel in group)
    reason = "an example at a time, which stays in the cache"
    return Blocks((Index(kernels[0].examples, batch),), None, 1, kernels, reason)


def _held(tensor: Tensor, dimension: int) -> Tensor:
    shape = (1 if n == dimension else size for n, size in enumerate(tensor.shape))
    return replace(tensor, held=tuple(shape))


class _Traffic:
    """What kernels move between the cores' caches and what is behind them."""

    def __init__(self, plan: Plan, dimensions: Mapping[str, int], target: CpuTarget):
        self.views, self.dimensions = plan.views, dimensions
        self.system, self.batch = plan.system, plan.system.batch
        self.near = target.example_blocks.cache_share * target.l2.bytes
        self.families: dict[str, set[str]] = {}  # by homes, with the views of them
        for view in plan.views:
            self.families.setdefault(self.home(view), set()).add(view)
        self.touched: dict[str, tuple[str, ...]] = {}  # by kernels, what they read and store
        self.readers: dict[str, set[str]] = {}  # of that, which kernels do
        for item in plan.items:
            for kernel in (item,) if isinstance(item, Kernel) else item.every:
                names = {s for eq in kernel.equations for s in eq.sources} | set(kernel.stored)
                homes = sorted({self.home(name) for name in names - kernel.local})
                self.touched[kernel.name] = tuple(homes)
                for name in homes:
                    self.readers.setdefault(name, set()).add(kernel.name)

    def home(self, name: str) -> str:
        """The tensor whose memory it is."""
        while name in self.views:
            name = self.views[name]
        return name

    def family(self, home: str) -> set[str]:
        """The tensor with all views of it."""
        return {home, *self.families.get(home, ())}

    def bytes(self, name: str) -> int:
        return self.system.tensors[name].bytes

    def is_far(self, name: str) -> bool:
        """Whether the tensor of a whole batch has left the caches when it is needed again."""
        return name in self.dimensions and self.bytes(name) > self.near

    def alone(self, kernel: Kernel) -> int:
        """The bytes that a kernel by itself moves: large tensors of examples, and all weights."""
        names = self.touched[kernel.name]
        return sum(self.bytes(n) for n in names if n not in self.dimensions or self.is_far(n))

    def may_be_held(self, home: str) -> bool:
        """Whether one example of it can be all that there is of it in memory: of a view, where
        examples are the first dimension of both."""
        family = self.family(home)
        first = len(family) == 1 or all(self.dimensions.get(n) == 0 for n in family)
        return first and self.system.roots.isdisjoint(family)

    def inside(self, group: Sequence[Kernel]) -> set[str]:
        """The temps that no other kernel touches, with the views of them."""
        names = {kernel.name for kernel in group}
        made = {name for kernel in group for name in kernel.stored}
        own = {n for n in made if self.readers[n] <= names and self.may_be_held(n)}
        return set[str]().union(*map(self.family, own))


class _Tally:
    """The bytes that a growing group moves, kept up to date kernel by kernel."""

    def __init__(self, traffic: _Traffic):
        self.traffic = traffic
        self.group: list[Kernel] = []
        self.bytes = self.apart = 0  # of the group, and of its kernels by themselves
        self.made: set[str] = set()
        self.readers: dict[str, int] = {}  # how many kernels of the group touch a tensor
        self.last: dict[str, int] = {}  # the number of the last one
        self.alive: list[int] = []  # bytes of an example that are in use, at every kernel
        self.weights = self.outside = self.inside = 0

    def take(self, kernel: Kernel, alone: int) -> None:
        """Adds the kernel that was asked for last."""
        self.bytes = self._moved() if self.group else alone
        self.group.append(kernel)
        self.apart += alone

    def groups(self) -> Iterator[list[Kernel]]:
        """The group, or each kernel by itself if no more is moved so."""
        yield from [self.group] if self.bytes < self.apart else ([k] for k in self.group)

    def with_kernel(self, kernel: Kernel) -> int:
        """The bytes with one more kernel."""
        self.made.update(kernel.stored)
        self.alive.append(0)
        for name in self.traffic.touched[kernel.name]:
            self._touch(name)
        return self._moved()

    def _moved(self) -> int:
        """What is inside counts where an example is too large; weights count for every example
        where they do not stay in the cache beside it."""
        near, most = self.traffic.near, max(self.alive)
        runs = 1 if most + self.weights <= near else self.traffic.batch
        return self.outside + self.weights * runs + (self.inside if most > near else 0)

    def _touch(self, name: str) -> None:
        traffic, now = self.traffic, len(self.alive) - 1
        size = traffic.bytes(name)
        count = self.readers[name] = self.readers.get(name, 0) + 1
        if name not in traffic.dimensions:
            self.weights += size if count == 1 else 0
            return
        for time in range(self.last.get(name, now - 1) + 1, now + 1):
            self.alive[time] += size // traffic.batch
        self.last[name] = now
        if not traffic.is_far(name):
            return
        self.outside += size
        every = count == len(traffic.readers[name])
        if every and name in self.made and traffic.may_be_held(name):
            self.inside += size * count
            self.outside -= size * count
