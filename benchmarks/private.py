"""What differential privacy costs, beside Opacus and JAX-privacy: `python benchmarks/private.py`.

In: the network of Opacus' MNIST example (examples/private_mnist.nn), batches of examples drawn at
random, SGD. Out: milliseconds of a plain and of a private step of every system that is installed
(`pip install opacus jax-privacy`), medians over rounds in which the systems take turns, and what
the private step takes in plain ones. Every system has a process of its own on the same cores.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from contest import environment

EXAMPLE = Path(__file__).parent.parent / "examples" / "private_mnist.nn"
CLIP, NOISE, RATE, SEED = 1.0, 1.1, 0.15, 1
WARMUP, KINDS = 3, ("plain", "private")
NEEDS = {"nnc": "nnc", "opacus": "opacus", "opacus ghost": "opacus", "jax": "jax_privacy"}
Step = Callable[[], None]


def main() -> None:
    options = arguments()
    if options.side:
        serve(options.side, options.batch, options.threads)
        return
    installed = [s for s, module in NEEDS.items() if importlib.util.find_spec(module)]
    workers = {system: Side(system, options.batch, options.threads) for system in installed}
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(options.rounds):
        for system, side in workers.items():
            for kind in KINDS:
                times.setdefault((system, kind), []).append(side.run(kind, options.steps))
    print(
        f"batch {options.batch}, {options.threads} threads, {options.rounds} rounds, milliseconds"
    )
    print(f"{'':<14}{'plain':>9}{'private':>9}{'ratio':>8}{'÷ nnc':>8}")
    least = median(times["nnc", "private"])
    for system, side in workers.items():
        side.end()
        plain, private = (times[system, kind] for kind in KINDS)
        ratio = median(b / a for a, b in zip(plain, private, strict=True))
        print(f"{system:<14}{median(plain):>9.2f}{median(private):>9.2f}{ratio:>8.2f}"
              f"{median(private) / least:>8.2f}")  # fmt: skip
    for system in NEEDS.keys() - workers.keys():
        print(f"{system:<14} is not installed")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=10, help="in each turn")
    parser.add_argument("--side", choices=NEEDS, help=argparse.SUPPRESS)
    return parser.parse_args()


class Side:
    """A process with one system."""

    def __init__(self, system: str, batch: int, threads: int):
        options = ["--side", system, "--batch", str(batch), "--threads", str(threads)]
        self._process = subprocess.Popen(
            [sys.executable, __file__, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(threads, Path.home()) | {"XDG_CACHE_HOME": ""},
        )

    def run(self, kind: str, steps: int) -> float:
        """The median of so many steps."""
        assert self._process.stdin and self._process.stdout
        print(kind, steps, file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def end(self) -> None:
        self._process.communicate()


def serve(system: str, batch: int, threads: int) -> None:
    """Answer lines `kind steps` with the median milliseconds of so many steps."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:threads]))
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print
    rng = np.random.default_rng(SEED)
    x = rng.random((batch, 28, 28, 1), np.float32)
    label = rng.integers(0, 10, batch).astype(np.int32)
    steps = SYSTEMS[system](x, label, threads)
    for step in steps.values():
        for _ in range(WARMUP):
            step()
    for line in sys.stdin:
        kind, count = line.split()
        found = []
        for _ in range(int(count)):
            begin = time.perf_counter()
            steps[kind]()
            found.append(1e3 * (time.perf_counter() - begin))
        answers.write(f"{median(found)}\n")


# --- the systems ----------------------------------------------------------------------------------


def nnc_steps(x: np.ndarray, label: np.ndarray, threads: int) -> dict[str, Step]:
    from nnc.runtime.assignments import Assignment
    from nnc.runtime.device import DEVICES
    from nnc.runtime.project import project_of_text, setup_of
    from nnc.runtime.training.executor import Executor

    # the example without its data, whose types are then stated
    text = EXAMPLE.read_text("utf-8").replace("data      = mnist()", "input label: i32[B]")
    plain = "".join(line for line in text.splitlines(True) if not line.startswith("    private"))
    steps: dict[str, Step] = {}
    for kind, program in zip(KINDS, (plain, text), strict=True):
        batch = [Assignment("batch", str(len(x)))]
        project = project_of_text(program, "private_mnist.nn", None, batch)
        executor = Executor(setup_of(project, None), DEVICES["cpu"](threads), SEED)
        steps[kind] = _nnc_step(executor.training(len(x)), {"image": x, "label": label})
    return steps


def _nnc_step(bound, given: dict[str, np.ndarray]) -> Step:
    for name, array in bound.fields:
        # a private step may have drawn fewer examples than there is room for: here it has all
        array[...] = given[name] if name in given else len(given["image"])
    rows, number = np.arange(len(given["image"])), 0

    def step() -> None:
        nonlocal number
        number += 1
        bound.step[...] = number
        bound.compute(rows, number)

    return step


def torch_steps(x: np.ndarray, label: np.ndarray, threads: int, mode: str) -> dict[str, Step]:
    import torch
    from opacus import PrivacyEngine
    from torch import nn

    torch.set_num_threads(threads)
    images = torch.tensor(np.moveaxis(x, 3, 1).copy())
    labels = torch.tensor(label.astype(np.int64))

    def network() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 16, 8, 2, padding=3), nn.ReLU(), nn.MaxPool2d(2, 1),
            nn.Conv2d(16, 32, 4, 2), nn.ReLU(), nn.MaxPool2d(2, 1),
            nn.Flatten(), nn.Linear(512, 32), nn.ReLU(), nn.Linear(32, 10),
        )  # fmt: skip

    def step_of(net: nn.Module, optimizer, loss) -> Step:
        def step() -> None:
            optimizer.zero_grad()
            loss(net(images), labels).backward()
            optimizer.step()

        return step

    plain = network()
    optimizer = torch.optim.SGD(plain.parameters(), lr=RATE)
    steps = {"plain": step_of(plain, optimizer, nn.CrossEntropyLoss())}
    net = network()
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(images, labels), batch_size=len(x)
    )
    made = PrivacyEngine().make_private(
        module=net,
        optimizer=torch.optim.SGD(net.parameters(), lr=RATE),
        criterion=nn.CrossEntropyLoss(),
        data_loader=loader,
        noise_multiplier=NOISE,
        max_grad_norm=CLIP,
        poisson_sampling=False,
        grad_sample_mode=mode,
    )
    net, optimizer = made[:2]
    loss = made[2] if mode == "ghost" else nn.CrossEntropyLoss()
    return steps | {"private": step_of(net, optimizer, loss)}


def jax_steps(x: np.ndarray, label: np.ndarray, threads: int) -> dict[str, Step]:
    import jax
    import jax.numpy as jnp
    from jax import lax
    from jax_privacy.clipping import clipped_grad

    shapes = [(8, 8, 1, 16), (16,), (4, 4, 16, 32), (32,), (512, 32), (32,), (32, 10), (10,)]
    rng = np.random.default_rng(SEED)
    first = [jnp.asarray(rng.normal(0, 0.05, shape), jnp.float32) for shape in shapes]

    def conv(y, k, b, margin):
        kinds = ("NHWC", "HWIO", "NHWC")
        edges = [(margin, margin)] * 2
        y = lax.conv_general_dilated(y, k, (2, 2), edges, dimension_numbers=kinds)
        y = jax.nn.relu(y + b)
        return lax.reduce_window(y, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 1, 1, 1), "VALID")

    def loss(p, x, label):
        y = conv(conv(x, p[0], p[1], 3), p[2], p[3], 0).reshape(len(x), -1)
        y = jax.nn.relu(y @ p[4] + p[5]) @ p[6] + p[7]
        return -jnp.take_along_axis(jax.nn.log_softmax(y), label[:, None], 1).mean()

    clipped = clipped_grad(loss, l2_clip_norm=CLIP, batch_argnums=(1, 2))

    def moved(p, g):
        return [w - RATE * d for w, d in zip(p, g, strict=True)]

    def plain(p, key, x, label):
        return moved(p, jax.grad(loss)(p, x, label)), key

    def private(p, key, x, label):
        key, *own = jax.random.split(key, len(p) + 1)
        drawn = [NOISE * CLIP * jax.random.normal(k, w.shape) for k, w in zip(own, p, strict=True)]
        total = [g + n for g, n in zip(clipped(p, x, label), drawn, strict=True)]
        return moved(p, [g / len(x) for g in total]), key

    data = (jnp.asarray(x), jnp.asarray(label))
    steps: dict[str, Step] = {}
    for kind, function in zip(KINDS, (plain, private), strict=True):
        steps[kind] = _jax_step(jax, jax.jit(function), first, data)
    return steps


def _jax_step(jax, compiled, first, data) -> Step:
    state = (first, jax.random.key(SEED))

    def step() -> None:
        nonlocal state
        state = jax.block_until_ready(compiled(*state, *data))

    return step


SYSTEMS = {
    "nnc": nnc_steps,
    "opacus": lambda x, label, threads: torch_steps(x, label, threads, "hooks"),
    "opacus ghost": lambda x, label, threads: torch_steps(x, label, threads, "ghost"),
    "jax": jax_steps,
}

if __name__ == "__main__":
    main()
