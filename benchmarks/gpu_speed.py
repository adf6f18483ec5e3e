"""The parts of `gpu.py` that measure nnc by itself.

In: the device, a folder. Out: plain figures. Milliseconds of kernels are the GPU's own events.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
from gpu_checks import Note
from gpu_side import (
    SEED,
    WORKLOADS,
    Plain,
    device_of,
    filled,
    project_of,
    resident,
    setup_of,
    small,
    timed,
)

from nnc.compiler.ir.equation import System
from nnc.runtime.inspect.bench import measure

RUNS = 10


def kernel_ms(system: System, device: str) -> float:
    """A run of a system that stays on the device."""
    program = filled(system, device)
    if device != "cuda":
        return timed(program.run, lambda: None, 1)
    from nnc.runtime.device.cuda.timing import Timer

    timer = Timer(program)
    times = [sum(timer.step().values()) for _ in range(RUNS + 3)]
    return float(np.median(times[3:]))


# --- memory ---------------------------------------------------------------------------------------

# what is read and written once, in numbers of f32 for each of the rows times columns
ROWS, COLUMNS = 16384, 4096
BOUND = {
    "map": (2, "model M(x: f32[R, C]) -> y: f32[R, C] { y = 0.5 * x + 1.0 }"),
    "softmax": (2, "model M(x: f32[R, C]) -> y: f32[R, C] { y = softmax(x) }"),
    "layer norm": (2, "model M(x: f32[R, C]) -> y: f32[R, C] { y = x |> LayerNorm }"),
    "row sums": (1, "model M(x: f32[R, C]) -> y: f32[R] { y[r] = sum(c) x[r, c] }"),
    "column sums": (1, "model M(x: f32[R, C]) -> y: f32[C] { y[c] = sum(r) x[r, c] }"),
    "Adam": (7, """model M(p: f32[R, C], g: f32[R, C], m: f32[R, C], v: f32[R, C])
        -> q: f32[R, C], n: f32[R, C], w: f32[R, C] {
    n = 0.9 * m + 0.1 * g
    w = 0.999 * v + 0.001 * g * g
    q = p - 0.001 * n / (sqrt(w) + 1e-8)
}"""),
}  # fmt: skip


def bandwidth(device: str, out: Path, data: Path | None, note: Note) -> None:
    """GB/s of a copy on the device, and of kernels that memory limits, each as a share of it."""
    rows, columns = (64, 96) if small(device) else (ROWS, COLUMNS)
    copied = copy_rate(device, rows * columns)
    found: Plain = {"copy GB/s": copied}
    note(found)
    for name, (count, text) in BOUND.items():
        sized = text.replace("R", str(rows)).replace("C]", f"{columns}]")
        rate = 4 * count * rows * columns / 1e6 / kernel_ms(resident(sized), device)
        found |= {f"{name} GB/s": rate, f"{name} of copy": rate / copied}
        note(found)


def copy_rate(device: str, count: int) -> float:
    """GB/s of copying so many f32, read and written; on the simulator, NumPy's."""
    if device != "cuda":
        a, b = np.zeros(count, np.float32), np.zeros(count, np.float32)
        return 8 * count / 1e6 / timed(lambda: np.copyto(b, a), lambda: None, RUNS)
    import cupy

    memory = [cupy.cuda.Memory(4 * count) for _ in range(2)]
    stream = cupy.cuda.Stream(non_blocking=True)
    first, last = cupy.cuda.Event(), cupy.cuda.Event()
    times = []
    for _ in range(RUNS + 3):
        first.record(stream)
        cupy.cuda.runtime.memcpyAsync(memory[0].ptr, memory[1].ptr, 4 * count, 3, stream.ptr)
        last.record(stream)
        stream.synchronize()
        times.append(cupy.cuda.get_elapsed_time(first, last))
    return 8 * count / 1e6 / float(np.median(times[3:]))


# --- products -------------------------------------------------------------------------------------

# M, N, K: a large square; GPT-2's products at 4,096 tokens
SHAPES = {"4096": (4096, 4096, 4096), "GPT-2 up": (4096, 3072, 768),
          "GPT-2 head": (4096, 50257, 768)}  # fmt: skip


def products(device: str, out: Path, data: Path | None, note: Note) -> None:
    """TFLOP/s of matrix products in f32 and of operands rounded to bf16, rounding included."""
    found: Plain = {}
    for name, shape in SHAPES.items():
        m, n, k = (min(size, 40) for size in shape) if small(device) else shape
        text = (
            f"model P(a: f32[{m}, {k}], b: f32[{k}, {n}]) -> y: f32[{m}, {n}] "
            "{ y[i, j] = sum(l) a[i, l] * b[l, j] }"
        )
        for precision in ("f32", "bf16"):
            ms = kernel_ms(resident(text, precision), device)
            found[f"{precision} {name} TFLOP/s"] = 2 * m * n * k / 1e9 / ms
            note(found)


# --- steps ----------------------------------------------------------------------------------------


def steps(device: str, out: Path, data: Path | None, note: Note) -> None:
    """`nnc bench` of every workload: a step as training takes it, compiled now and read from the
    cache."""
    found: dict[str, Plain] = {}
    for name in ["mlp32"] if small(device) else WORKLOADS:
        for precision in ("f32", "bf16"):
            setup = setup_of(project_of(name, device, precision=precision))
            assert setup is not None
            key = name if precision == "f32" else f"{name} bf16"
            found[key] = _bench(setup, device, 2 if small(device) else 200)
            found[key]["first_step_again_s"] = _bench(setup, device, 1)["first_step_s"]
            note({"steps": found})


def _bench(setup, device: str, count: int) -> Plain:
    figures = asdict(measure(setup, device_of(device), count, SEED, time.perf_counter()))
    on_gpu = figures.pop("gpu") or {}
    return {**figures, **on_gpu}


def gpt2(device: str, out: Path, data: Path | None, note: Note) -> None:
    """GPT-2 124M, windows of 1,024 tokens: a whole training step with operands in bf16."""
    found: Plain = {}
    for batch in (4, 16):
        project = project_of("gpt2", device, batch, "bf16")
        setup = setup_of(project)
        assert setup is not None
        figures = _bench(setup, device, 2 if small(device) else 10)
        tokens = setup.batch * (5 if small(device) else 1024)
        rate = tokens / float(str(figures["median_ms"])) * 1e3
        found[f"batch {batch}"] = {"tokens/s": rate, **figures}
        note(found)


# --- where the time goes --------------------------------------------------------------------------


def profiles(device: str, out: Path, data: Path | None, note: Note) -> None:
    """The ten slowest launches of some models: what to look at next."""
    if device != "cuda":
        note({"left out": "events are the GPU's"})
        return
    from nnc.runtime.inspect.gpu_profiling import profile

    found: Plain = {}
    for name in ["mlp32", "gpt2"] if small(device) else ["mlp128", "cnn128", "lstm", "gpt", "gpt2"]:
        project = project_of(name, device, precision="bf16" if name == "gpt2" else "f32")
        setup = setup_of(project)
        assert setup is not None
        measured = profile(name, setup, 2 if small(device) else 10, SEED)
        slowest = sorted(measured.kernels, key=lambda timed: -timed.ms)[:10]
        found[name] = {
            "kernels ms": measured.kernel_ms,
            "step ms": measured.step_ms,
            "slowest": [
                {
                    "kernel": each.name,
                    "runs": each.runs,
                    "ms": each.ms,
                    "GFLOP/s": each.gflop / each.ms * 1e3,
                    "GB/s": each.mb / each.ms,
                    **(asdict(each.use) if each.use else {}),
                }
                for each in slowest
            ],
        }
        note(found)
