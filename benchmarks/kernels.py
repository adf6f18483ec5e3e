"""The time of every kernel of a training step, or of a prediction, by itself.

In: a `.nn` file, as for `nnc bench`, or the name of a workload. Out: a table on stdout: each kernel
of the plan, its milliseconds, GFLOP/s and share of the measured peak, slowest first. A kernel of a
scan is timed over all steps of its scan. What a kernel reads is as near as it can be, which in a
whole step it may not be. A product's epilogue counts as part of it. Times are of the fastest run.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from nnc_side import executor_of, work
from workloads import ALL, Workload

from nnc.compiler.passes.kernels.kernel import Blocks, Item, Kernel, Plan
from nnc.runtime.device.cpu.program import CpuProgram
from nnc.runtime.inspect.bench import fill_random
from nnc.runtime.inspect.peak import peak
from nnc.runtime.training.bound_program import BoundProgram


@dataclass(frozen=True)
class Timed:
    """One kernel's figures; `turns` is how often a step runs it. Kernels of the same work whose
    names differ in digits alone are one line: `count` of them, `ms` and `gflop` for all."""

    name: str
    ms: float
    gflop: float
    turns: int
    count: int = 1


def alone(items: tuple[Item, ...], turns: int = 1) -> Iterator[tuple[Item, Kernel, int]]:
    """Every kernel, with the item that runs nothing else and how often that runs it."""
    for item in items:
        if isinstance(item, Kernel):
            yield item, item, turns
        elif isinstance(item, Blocks):  # each for all blocks at once
            yield from (
                (replace(item, kernels=(kernel,)), kernel, turns) for kernel in item.kernels
            )
        else:
            for inner, kernel, count in alone(item.kernels, turns * item.index.size):
                yield replace(item, kernels=(inner,)), kernel, count


class Bench:
    """One plan, and the values on which its kernels run."""

    def __init__(self, workload: Workload, threads: int, seconds: float):
        executor = executor_of(workload, threads)
        self.borrowed = ExitStack()
        bound: BoundProgram = (
            self.borrowed.enter_context(executor.prediction(workload.batch))
            if workload.kind == "predict"
            else executor.training(workload.batch)
        )
        fill_random(bound.system, dict(bound.fields), np.random.default_rng(1))
        bound.step[...] = 1
        self.program, self.threads, self.seconds = bound.program, threads, seconds
        self.plan: Plan = self.program.plan
        self.overhead = 0.0
        self.values = {
            name: array.copy()
            for name, array in self.program.arrays.items()
            if self.plan.system.tensors[name].kind != "temp"
        }

    def step(self) -> float:
        """Milliseconds of the whole step."""
        return self.time(self.program)

    def kernel(self, item: Item, kernel: Kernel, turns: int) -> Timed:
        """One kernel, without what a call costs that does nothing."""
        ms = max(self.time(self.only((item,))) - self.overhead, 1e-4)
        return Timed(kernel.name, ms, work(kernel.equations, self.plan.system), turns)

    def all(self) -> list[Timed]:
        self.overhead = self.time(self.only(()))
        return [self.kernel(*each) for each in alone(self.plan.items)]

    def only(self, items: tuple[Item, ...]) -> CpuProgram:
        program = CpuProgram(replace(self.plan, items=items), self.threads)
        self.fill(program)
        return program

    def fill(self, program: CpuProgram) -> None:
        """Numbers that are neither zero nor denormal in temps, true ones elsewhere."""
        program.arena[: program.arena.size // 4 * 4].view(np.float32)[...] = 0.5
        for name, value in self.values.items():
            np.copyto(program.arrays[name], value)

    def time(self, program: CpuProgram) -> float:
        """The fastest of the runs that fit into the time, in milliseconds: what others do to the
        computer meanwhile only ever adds."""
        for _ in range(3):
            program.run()
        times: list[float] = []
        end = time.perf_counter() + self.seconds
        while len(times) < 5 or time.perf_counter() < end:
            begin = time.perf_counter()
            program.run()
            times.append((time.perf_counter() - begin) * 1e3)
        return min(times)


def main() -> None:
    options = arguments()
    bench = Bench(workload_of(options), options.threads, options.seconds)
    limit = peak(options.threads)
    found = bench.all()
    whole, total = bench.step(), sum(t.ms for t in found)
    products = sum(t.ms for t in found if t.gflop)
    print(
        f"peak {limit:.0f} GFLOP/s, step {whole:.3f} ms; {len(found)} kernels {total:.3f} ms, "
        f"of which products {products:.3f} ms\n"
    )
    print(f"{'kernel':44} {'ms':>8} {'share':>6} {'GFLOP/s':>8} {'peak':>5} {'runs':>6}")
    for t in grouped(found)[: options.count]:
        speed = t.gflop / t.ms * 1e3
        runs = f"{t.count}×{t.turns}" if t.turns > 1 and t.count > 1 else t.count * t.turns
        print(
            f"{t.name[:44]:44} {t.ms:8.3f} {t.ms / total:6.1%} {speed:8.1f} "
            f"{speed / limit:5.0%} {runs:>6}"
        )


def grouped(found: list[Timed]) -> list[Timed]:
    """Equal kernels as one, slowest first."""
    groups: dict[tuple, list[Timed]] = {}
    for timed in found:
        key = re.sub(r"\d+", "#", timed.name), timed.gflop, timed.turns
        groups.setdefault(key, []).append(timed)
    joined = [
        Timed(
            name if len(same) > 1 else same[0].name,
            sum(t.ms for t in same),
            sum(t.gflop for t in same),
            turns,
            len(same),
        )
        for (name, _, turns), same in groups.items()
    ]
    return sorted(joined, key=lambda t: -t.ms)


def workload_of(options: argparse.Namespace) -> Workload:
    """A workload of the benchmark, or a file of somebody's own."""
    if options.model in ALL:
        return ALL[options.model]
    return Workload(
        options.model, str(Path(options.model).resolve().with_suffix("")), options.batch or 32
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("model", help="a workload such as mlp128, or a .nn file")
    add("--batch", type=int, help="of a file")
    add("--threads", type=int, default=min(2, os.cpu_count() or 1))
    add("--seconds", type=float, default=0.2, help="for each kernel")
    add("--count", type=int, default=30, help="how many to show")
    return parser.parse_args()


if __name__ == "__main__":
    main()
