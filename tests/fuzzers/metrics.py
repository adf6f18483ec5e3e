"""Random metrics of random data: training's line, evaluation and NumPy in float64 must agree.

A program has up to eight metrics and a loss, built at random from sums, means, extremes and masks
over the examples, from deviations from a mean of the set, from pairs of examples, and from numbers
made of those. Each is written twice: as text of the language and as a function of NumPy arrays in
float64. The weights do not move (`lr = 0`), so that the line of an epoch is of one function. The
same numbers must come out for batches of 1, 7, 32 and all examples, in training and in evaluation.

    python tests/fuzzers/metrics.py --programs 5000 --seed 1 [--device cpu] [--log FILE]

appends a line for each hundred programs to FILE, so that runs add up; a program that fails is
printed with its seed. The short form is tests/fuzzers/test_metrics.py.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import nnc
from nnc.runtime.training import executor

STEPS = 5  # of the sequences
CLASSES = 4
RELATIVE, ABSOLUTE = 2e-5, 2e-6  # of float32 sums of some tens of numbers
Arrays = Mapping[str, np.ndarray]

MODEL = """
model M(x: f32[B, 3]) -> p: f32[B], q: f32[B, 5], c: f32[B, 4] {
    param s: [] = 1
    p[b] = s * x[b, 0]
    q[b, t < 5] = s * x[b, 1] + 0.25 * t
    c[b, k < 4] = s * x[b, 2] * (k - 1.5)
}
train M {
    input y: f32[B]
    input z: f32[B, 5]
    input label: i32[B]
    input length: i32[B]
    optimizer = sgd(lr = 0)
"""


@dataclass(frozen=True)
class Term:
    """A text of the language, and its value in NumPy."""

    text: str
    value: Callable[[Arrays], np.ndarray]


def rows(rng: random.Random, depth: int, name: str) -> Term:
    """A value for each example, or for each of its steps: [n] of `p`, `y`, [n, 5] of `q`, `z`."""
    one, two = ("p", "y") if name == "p" else ("q", "z")
    if depth == 0 or rng.random() < 0.2:
        leaf = rng.choice((one, two))
        return Term(leaf, lambda a: a[leaf])
    a, b = rows(rng, depth - 1, name), rows(rng, depth - 1, name)
    number = rng.choice((0.25, 0.5, 1.5, 2))
    match rng.randrange(8):
        case 0:
            return Term(f"({a.text} + {b.text})", lambda v: a.value(v) + b.value(v))
        case 1:
            return Term(f"({a.text} - {b.text})", lambda v: a.value(v) - b.value(v))
        case 2:
            return Term(f"tanh({a.text} * {b.text})", lambda v: np.tanh(a.value(v) * b.value(v)))
        case 3:
            return Term(f"abs({a.text} - {number})", lambda v: np.abs(a.value(v) - number))
        case 4:
            return Term(f"({a.text})^2", lambda v: a.value(v) ** 2)
        case 5:
            return Term(f"max({a.text}, {number})", lambda v: np.maximum(a.value(v), number))
        case 6:
            # a mask: leaves alone are compared, which are the same in float32 and float64
            text = f"(if {one} > {two} then {a.text} else 0)"
            return Term(text, lambda v: np.where(v[one] > v[two], a.value(v), 0.0))
        case _:
            return Term(f"({a.text} / {number})", lambda v: a.value(v) / number)


def number(rng: random.Random, depth: int) -> Term:
    """A number of the whole set."""
    name = rng.choice(("p", "q"))
    if depth == 0 or rng.random() < 0.15:
        return aggregate(rng, name)
    a, b = number(rng, depth - 1), number(rng, depth - 1)
    match rng.randrange(7):
        case 0:
            return Term(f"({a.text} + {b.text})", lambda v: a.value(v) + b.value(v))
        case 1:
            text = f"({a.text} / max(abs({b.text}), 0.5))"
            return Term(text, lambda v: a.value(v) / np.maximum(np.abs(b.value(v)), 0.5))
        case 2:
            return Term(f"tanh({a.text})^2", lambda v: np.tanh(a.value(v)) ** 2)
        case 3:
            return Term(f"exp(tanh({a.text}))", lambda v: np.exp(np.tanh(a.value(v))))
        case 4:
            return Term(f"sqrt(1 + abs({a.text}))", lambda v: np.sqrt(1 + np.abs(a.value(v))))
        case 5:
            return Term(f"max({a.text}, {b.text})", lambda v: np.maximum(a.value(v), b.value(v)))
        case _:
            return Term(f"({a.text} - 0.5 * {b.text})", lambda v: a.value(v) - 0.5 * b.value(v))


def aggregate(rng: random.Random, name: str) -> Term:
    """A number made of the examples: distributive, or one that has to see all of them."""
    a = rows(rng, rng.randint(0, 2), name)
    one, two = ("p", "y") if name == "p" else ("q", "z")
    match rng.randrange(14):
        case 0:
            return Term(f"sum({a.text})", lambda v: a.value(v).sum())
        case 1:
            return Term(f"max({a.text})", lambda v: a.value(v).max())
        case 2:
            return Term(f"min({a.text})", lambda v: a.value(v).min())
        case 3:  # a count, which is exact
            return Term(f"sum({one} > {two})", lambda v: (v[one] > v[two]).sum())
        case 4:  # a mean by hand: the number of examples is a constant of the program
            return Term(f"(sum({a.text}) / count({one}))", lambda v: a.value(v).mean())
        case 5:  # the same constant within the sum
            return Term(f"sum({a.text} / count({one}))", lambda v: a.value(v).mean())
        case 6:  # a mean of what a mask leaves
            text = f"(sum(if {one} > {two} then {a.text} else 0) / max(sum({one} > {two}), 1))"
            return Term(text, lambda v: masked(a.value(v), v[one] > v[two]))
        case 7:  # without padding
            text = (
                "(sum(i, t) (if t < length[i] then q[i, t] * z[i, t] else 0) / max(sum(length), 1))"
            )
            steps = np.arange(STEPS)
            return Term(text, lambda v: masked(v["q"] * v["z"], steps < v["length"][:, None]))
        case 8:  # a deviation from the mean of the set
            text = f"mean(({one} - mean({a.text}))^2)"
            return Term(text, lambda v: ((v[one] - a.value(v).mean()) ** 2).mean())
        case 9:  # pairs of examples: the area under the curve, but for its divisor
            text = "(sum(i, j) (if y[i] > y[j] and p[i] > p[j] then 1 else 0) / count(p)^2)"
            return Term(
                text,
                lambda v: (
                    ((v["y"][:, None] > v["y"]) & (v["p"][:, None] > v["p"])).sum()
                    / len(v["p"]) ** 2
                ),
            )
        case 10:
            return Term(
                "mean(argmax(c) == label)", lambda v: (v["c"].argmax(-1) == v["label"]).mean()
            )
        case 11:
            return Term("perplexity(c, label)", lambda v: np.exp(cross_entropy(v)))
        case 12:  # an array of numbers: how often each class is met, and the largest share
            text = "(max(k < 4) (sum(i) (label[i] == k)))"
            return Term(text, lambda v: np.bincount(v["label"], minlength=CLASSES).max())
        case _:
            return Term(f"mean({a.text})", lambda v: a.value(v).mean())


def masked(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.where(mask, values, 0.0).sum() / max(mask.sum(), 1)


def cross_entropy(v: Arrays) -> np.ndarray:
    logits = v["c"]
    shifted = logits - logits.max(-1, keepdims=True)
    chances = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return -np.take_along_axis(chances, v["label"][:, None], -1).mean()


@dataclass(frozen=True)
class Program:
    """A program, its data, and what NumPy says of its loss and metrics."""

    text: str
    arrays: Arrays
    wanted: Mapping[str, float]


def program(seed: int) -> Program:
    """The program of a seed."""
    rng, draws = random.Random(seed), np.random.default_rng(seed)
    n = rng.randint(33, 70)
    arrays = {
        "x": draws.uniform(-2, 2, (n, 3)).astype(np.float32),
        "y": draws.uniform(-2, 2, n).astype(np.float32),
        "z": draws.uniform(-2, 2, (n, STEPS)).astype(np.float32),
        "label": draws.integers(0, CLASSES, n).astype(np.int32),
        "length": draws.integers(0, STEPS + 1, n).astype(np.int32),
    }
    x = arrays["x"].astype(np.float64)
    wide = {name: a.astype(np.float64) if a.dtype.kind == "f" else a for name, a in arrays.items()}
    wide["p"] = x[:, 0]
    # as the model rounds it, for what is compared
    wide["q"] = (
        arrays["x"][:, 1:2] + np.float32(0.25) * np.arange(STEPS, dtype=np.float32)
    ).astype(np.float64)
    wide["c"] = x[:, 2:] * (np.arange(CLASSES) - 1.5)
    # the loss is a mean with a masked or squared part at times: it must reach the parameter
    extra = number(rng, 1)
    loss = Term(f"mse(p, y) + tanh({extra.text})", lambda v: mse(v) + np.tanh(extra.value(v)))
    terms = {"loss": loss} | {
        f"m{n}": number(rng, rng.randint(0, 2)) for n in range(rng.randint(3, 8))
    }
    lines = [f"    {'' if k == 'loss' else 'metric '}{k} = {t.text}" for k, t in terms.items()]
    text = MODEL + "\n".join(lines) + "\n}\n"
    return Program(
        text,
        arrays,
        {name: float(term.value(wide)) for name, term in terms.items()},
    )


def mse(v: Arrays) -> np.ndarray:
    return ((v["p"] - v["y"]) ** 2).mean()


def sizes(n: int) -> tuple[int, ...]:
    return 1, 7, 32, n


def faults(found: Program, folder: Path, device: str) -> Iterator[str]:
    """What differs, for every batch size."""
    file = folder / "program.nn"
    file.write_text(found.text)
    for size in sizes(len(found.arrays["x"])):
        model = nnc.load(file, device=device, threads=1, settings={"batch": size, "epochs": 1})
        (line,) = model.fit(**found.arrays)
        whole = executor.evaluation_batch
        try:
            executor.evaluation_batch = lambda count, size=size: min(count, size)
            measured = model.evaluate(**found.arrays)
        finally:
            executor.evaluation_batch = whole
        for name, wanted in found.wanted.items():
            for where, value in (("training", line[name]), ("evaluation", measured[name])):
                if not np.isclose(value, wanted, rtol=RELATIVE, atol=ABSOLUTE):
                    yield f"{name} in {where}, batch {size}: {value!r}, right is {wanted!r}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the first program")
    parser.add_argument("--device", default="reference")
    parser.add_argument("--log", type=Path)
    given = parser.parse_args()
    wrong = 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for done, seed in enumerate(range(given.seed, given.seed + given.programs), 1):
            found = program(seed)
            told = list(faults(found, Path(folder), given.device))
            if told:
                wrong += 1
                print(f"seed {seed}:", *told, found.text, sep="\n", flush=True)
            if given.log and (done % 100 == 0 or done == given.programs):
                with given.log.open("a") as log:
                    log.write(
                        f"seeds {given.seed} to {seed} on {given.device}: {done} programs, "
                        f"{wrong} wrong, {time.monotonic() - began:.0f} s\n"
                    )
    print(f"{given.programs} programs from seed {given.seed}, {wrong} wrong")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
