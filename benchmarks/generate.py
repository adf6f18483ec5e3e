"""Text token by token beside the whole window for every token: `python benchmarks/generate.py`.

In: a model that maps tokens to logits (examples/char_gpt.nn), with its first weights; which weights
they are makes no difference to the time. Out: tokens per second of what `nnc generate` does, and of
nnc's own compiled prediction of all T positions, of which one is used; and their ratio: for a text
as long as the window, and for a longer one, where the cache of a model with positions begins anew
whenever it is full. Both draw in the same way, one example at a time, in turns, on as many threads;
the figures are medians.
"""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import numpy as np

from nnc.compiler.programs import prediction
from nnc.runtime.data import Search
from nnc.runtime.device import DEVICES
from nnc.runtime.inference.generate import Generator, Sampling, text_roles
from nnc.runtime.project import open_project, planned_setup, with_batch
from nnc.runtime.training.executor import Executor

EXAMPLE = Path(__file__).parent.parent / "examples" / "char_gpt.nn"
PROMPT = [0]
REPEATED = 3  # texts in a turn


def main() -> None:
    options = arguments()
    project = open_project(options.model)
    search = Search(options.data, options.model.parent, offline=True)
    setup = with_batch(planned_setup(project, search), 1)
    one, every = (Executor(setup, DEVICES["cpu"](options.threads), 0) for _ in range(2))
    window = text_roles(prediction(setup))[0].window
    print(f"{options.model.name}, T = {window}, {options.threads} threads, {options.rounds} rounds")
    for count in (window - len(PROMPT), options.tokens):
        compare(count, options.rounds, one, every)


def compare(count: int, rounds: int, one: Executor, every: Executor) -> None:
    """So many tokens in each round, by one and by the other."""
    ways = {"token by token": Incremental(one), "whole window": Windows(every)}
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            begin = time.perf_counter()
            for _ in range(REPEATED):
                way.write(count)
            speeds[name].append(REPEATED * count / (time.perf_counter() - begin))
    print(f"\n{count} tokens:")
    for name, values in speeds.items():
        print(f"{name:<16}{median(values):>10,.0f} tokens per second")
    ratios = [a / b for a, b in zip(*speeds.values(), strict=True)]
    print(f"{'ratio':<16}{median(ratios):>10.1f}    (from {min(ratios):.1f} to {max(ratios):.1f})")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--model", type=Path, default=EXAMPLE, help="another model of tokens")
    add("--data", type=Path, help="a folder with the model's data, for its sizes")
    add("--tokens", type=int, default=500, help="of the longer text")
    add("--rounds", type=int, default=7)
    add("--threads", type=int, default=1)
    return parser.parse_args()


class Incremental:
    """What `nnc generate` does."""

    def __init__(self, executor: Executor):
        system = prediction(executor.setup)
        self.generator = Generator(system, executor.weights(), executor.device)

    def write(self, count: int) -> None:
        self.generator.restart()
        for _ in self.generator.tokens(PROMPT, count, Sampling(), 0):
            pass


class Windows:
    """The prediction of a whole window for each token; once it is full, it moves on by one."""

    def __init__(self, executor: Executor):
        self.borrowed = ExitStack()
        self.bound = self.borrowed.enter_context(executor.prediction(1))
        found = text_roles(self.bound.system)[0]
        self.token = self.bound.program.arrays[found.source.name][0]
        self.logits = self.bound.results[found.output.name][0]

    def write(self, count: int) -> None:
        generator, sampling, past = np.random.default_rng(0), Sampling(), list(PROMPT)
        self.token[...] = 0
        for _ in range(count):
            recent = past[-len(self.token) :]
            self.token[: len(recent)] = recent
            self.bound.program.run()
            past.append(sampling.draw(self.logits[len(recent) - 1], generator))


if __name__ == "__main__":
    main()
