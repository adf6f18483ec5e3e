"""Everything there is to know about the device `cuda` on a machine with a GPU, by one command:

    python benchmarks/gpu.py --out DIR

In: nothing else; it asks nothing and needs no data. Out: DIR/gpu.md and DIR/gpu.json, rewritten
after every part, and DIR/primitives.npz. Each part runs in a process of its own with a time limit,
so that one that fails or hangs leaves the others. All limits together are under 25 minutes.
`--device cuda-shim` runs the parts that need no GPU, to test this script.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

LIMITS = {  # seconds
    "machine": 60, "primitives": 90, "check": 240, "repeat": 90, "meetings": 60, "copies": 60,
    "steps": 240,
    "peers torch": 300, "peers jax": 150, "gpt2": 200,
}  # fmt: skip
WITHOUT_GPU = ("machine", "primitives", "check", "repeat", "meetings")

# milliseconds per step on an H100, by arithmetic and before any run: launches at 2 µs, products at
# 12 TFLOP/s (simple f32 tiles), the rest at 2.5 TB/s, recurrences by the estimates above their text
PREDICTED = {"mlp32": 0.06, "mlp128": 0.08, "cnn32": 0.5, "cnn128": 1.2, "rnn": 0.5, "lstm": 0.6,
             "gpt": 1.0, "gpt2": 420.0}  # fmt: skip


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu-results"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--parts", help="some of: " + ", ".join(LIMITS))
    parser.add_argument("--part", choices=list(LIMITS), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.part:
        print(json.dumps(PARTS[given.part](given.device, given.out)))
        return 0
    given.out.mkdir(parents=True, exist_ok=True)
    default = list(LIMITS) if given.device == "cuda" else list(WITHOUT_GPU)
    names = given.parts.split(",") if given.parts else default
    results: dict[str, dict] = {}
    for name in names:
        results[name] = in_process(name, given.device, given.out)
        print(f"{name}: {json.dumps(results[name])[:300]}", flush=True)
        write(given.out, results)
        if name == "machine" and results[name].get("problem"):
            print(results[name]["problem"], results[name]["remedy"], sep="\n", file=sys.stderr)
            return 1
    return int(any("failed" in r for r in results.values()))


def in_process(name: str, device: str, out: Path) -> dict:
    """The part's result, or why there is none."""
    command = [sys.executable, __file__, "--part", name, "--device", device, "--out", str(out)]
    started = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMITS[name])
    except subprocess.TimeoutExpired:
        return {"failed": f"not done in {LIMITS[name]} s"}
    if done.returncode:
        return {"failed": done.stderr[-2000:]}
    result = json.loads(done.stdout.splitlines()[-1])
    return {**result, "seconds": round(time.monotonic() - started, 1)}


# --- parts: each gives plain figures --------------------------------------------------------------


def machine(device: str, out: Path) -> dict:
    """Versions, and what is missing."""
    from dataclasses import asdict

    from nnc.runtime.device.gpu.found import look

    found = asdict(look())
    if device != "cuda":
        found |= {"problem": "", "remedy": ""}
    return found


def primitives(device: str, out: Path) -> dict:
    """Every scalar function on fixed numbers, kept, and its largest distance from float64 in units
    of the last place. A remainder is left out: it is as exact as the quotient's last place;
    and so is what takes pairs of bf16 numbers, not numbers."""
    from nnc.compiler.evaluate import evaluate
    from nnc.compiler.ir import Equation, Idx, Index, Read, System, Tensor
    from nnc.compiler.scalar import CASTS, TABLE, call

    size, kept, worst = 4096, {}, {}
    values = {"a": np.linspace(-9, 9, size), "b": np.linspace(0.01, 5, size)[::-1]}
    wide = {}
    for dtype in ("f32", "f64"):
        a, b = (Tensor(n, (size,), dtype, "input") for n in "ab")
        operands = [Read(n, (Idx("i"),), None, dtype) for n in "ab"]
        tensors, equations = {"a": a, "b": b}, []
        for name, row in TABLE.items():
            left_out = row.arity > 2 or name in (*CASTS, "mod", "bf16_dot")
            if left_out or row.type(*[dtype] * row.arity) != dtype:
                continue
            body = call(name, *operands[: row.arity])
            tensors[f"y_{name}"] = Tensor(f"y_{name}", (size,), body.dtype)
            equations.append(Equation(f"y_{name}", (Index("i", size),), body))
        system = System("primitives", tensors, tuple(equations), tuple(e.target for e in equations))
        if dtype == "f64":
            wide = evaluate(system, {n: v.astype(np.float32) for n, v in values.items()})
            continue
        program = device_of(device)(system)
        for name, value in values.items():
            program.arrays[name][...] = value
        program.run()
        kept = {name: program.arrays[name].copy() for name in system.outputs}
    np.savez_compressed(out / "primitives.npz", **kept)
    for name, found in kept.items():
        exact = np.asarray(wide[name])
        fine = np.isfinite(exact)
        unit = np.spacing(np.abs(exact[fine]).astype(np.float32)).astype(float)
        worst[name[2:]] = round(float((np.abs(found[fine] - exact[fine]) / unit).max(initial=0)), 2)
    return {"units in the last place": worst}


def check(device: str, out: Path) -> dict:
    """Two steps of every model against the evaluator: the averages of gradients that Adam keeps,
    for where there is no gradient but rounding, Adam's steps are of no certain sign."""
    worst = {}
    for name in SMALL:
        bound, other = bound_of(name, device, True), bound_of(name, "reference", True)
        for step in (1, 2):
            for each in (bound, other):
                each.step[...] = step
                each.program.run()
        worst[name] = max(
            float(np.abs(bound.kept[t.name] - other.kept[t.name]).max(initial=0)
                  / max(np.abs(other.kept[t.name]).max(initial=0), 1e-3))
            for t in bound.system.of_kind("state")
        )  # fmt: skip
    assert max(worst.values()) < 1e-3, worst
    return {"largest relative difference": worst}


def repeat(device: str, out: Path) -> dict:
    """Five steps twice from the same start: the same bits."""
    for name in SMALL:
        runs = []
        for _ in range(2):
            bound = bound_of(name, device, device != "cuda")
            for step in range(1, 6):
                bound.step[...] = step
                bound.program.run()
            runs.append({n: a.tobytes() for n, a in bound.kept.items()})
        assert runs[0] == runs[1], name
    return {"models": list(SMALL)}


def meetings(device: str, out: Path) -> dict:
    """A recurrence whose blocks wait for each other, against the evaluator, and 2,000 runs to the
    same bits. A meeting that does not hold shows here, or never ends."""
    from nnc.compiler.codegen.cuda.module import CPU_PASSES, module
    from nnc.compiler.evaluate import evaluate
    from nnc.compiler.pipeline import plan
    from nnc.compiler.program import forward
    from nnc.runtime.project import project_of_text

    steps, runs = (64, 2000) if device == "cuda" else (3, 2)
    text = f"model M(x: f32[B, {steps}, 8]) -> h: f32[B, {steps}, 256] {{ h, _ = LSTM(256)(x) }}"
    project = project_of_text(text, "meetings.nn")
    system = forward(project.checked.definitions, "M", {"B": 8}, training=False)
    sweeps = module(plan(system, without=CPU_PASSES)).sweeps.values()
    assert any(sweep.members > 1 for sweep in sweeps)
    rng = np.random.default_rng(0)
    given = {t.name: rng.normal(0, 0.1, t.shape).astype(np.float32)
             for t in system.tensors.values() if t.kind != "temp"}  # fmt: skip
    program = device_of(device)(system)
    for name, value in given.items():
        program.arrays[name][...] = value
    (output,) = system.outputs
    found = set()
    for _ in range(runs):
        program.run()
        found.add(program.arrays[output].tobytes())
    apart = float(np.abs(program.arrays[output] - evaluate(system, given)[output]).max())
    assert len(found) == 1 and apart < 1e-5, (len(found), apart)
    return {"runs": runs, "largest difference": apart}


def copies(device: str, out: Path) -> dict:
    """Bytes per second of a copy on the device, and of maps that read one tensor and write one."""
    import cupy

    from nnc.compiler.ir import Equation, Idx, Index, Read, System, Tensor
    from nnc.compiler.scalar import call

    size = 1 << 26
    a, b = cupy.zeros(size, cupy.float32), cupy.zeros(size, cupy.float32)
    plain = timed(lambda: cupy.copyto(b, a), cupy.cuda.Device().synchronize, 20)
    read = Read("w", (Idx("i"),), None, "f32")
    body = call("add", call("mul", read, 0.5), 1.0)
    tensors = {"w": Tensor("w", (size,), "f32", "state"), "w'": Tensor("w'", (size,), "f32")}
    system = System("map", tensors, (Equation("w'", (Index("i", size),), body),), (), {"w": "w'"})
    program = device_of(device)(system)
    own = timed(program.run, lambda: None, 20)
    rate = 8 * size / 1e6
    return {"copy GB/s": rate / plain, "map GB/s": rate / own, "share": plain / own}


def steps(device: str, out: Path) -> dict:
    """Milliseconds of a training step, one graph launch each."""
    found = {}
    for name in PREDICTED:
        if name != "gpt2":
            bound = bound_of(name, device)
            found[name] = timed(bound.program.run, lambda: None, 100)
    return {"ms": found}


def gpt2(device: str, out: Path) -> dict:
    """Tokens per second in f32; there is no bf16 yet."""
    started = time.monotonic()
    bound = bound_of("gpt2", device)
    bound.program.run()
    ready = time.monotonic() - started
    taken = timed(bound.program.run, lambda: None, 5)
    return {"ms": taken, "tokens/s": 4 * 1024 / taken * 1e3, "first step s": ready}


def peers_torch(device: str, out: Path) -> dict:
    """The same models in PyTorch on the GPU: eager, and compiled with CUDA graphs."""
    import peers_torch as peers
    import torch
    from nnc_side import executor_of
    from workloads import TRAINING, canonical

    found: dict[str, dict] = {"eager": {}, "compiled": {}}
    for workload in TRAINING:
        values = executor_of(workload, 1)
        weights = [values.values[t.name] for t in values.system.of_kind("param")]
        for way in found:
            given = [torch.from_numpy(w.copy()) for w in canonical(workload.model, weights)]
            bound = bound_of(workload.name, "reference")
            fields = [torch.from_numpy(a.copy()).cuda() for _, a in bound.fields]
            net = peers.NETS[workload.model](given).cuda()
            runner = peers.TrainingRunner(net, fields, False)
            if way == "compiled":
                runner.forward = torch.compile(runner.compute, mode="reduce-overhead")
            found[way][workload.name] = timed(runner.step, torch.cuda.synchronize, 100)
    return {"ms": found, "version": torch.__version__}


def peers_jax(device: str, out: Path) -> dict:
    """The same models in JAX, compiled, on whatever device JAX finds."""
    import jax
    import peers_jax as peers
    from nnc_side import executor_of
    from workloads import TRAINING

    found = {}
    for workload in TRAINING:
        values = executor_of(workload, 1)
        names = [t.name for t in values.system.of_kind("param")]
        arrays = {f"weight{n:03}": values.values[name] for n, name in enumerate(names)}
        arrays |= {n: a.copy() for n, a in bound_of(workload.name, "reference").fields}
        path = out / "peer.npz"
        np.savez(path, **arrays)
        runner = peers.runner(workload, path, 1, True)
        found[workload.name] = timed(runner.step, lambda: None, 100)
    return {"ms": found, "version": jax.__version__, "device": str(jax.devices()[0])}


PARTS: dict[str, Callable[[str, Path], dict]] = {
    "machine": machine, "primitives": primitives, "check": check, "repeat": repeat,
    "meetings": meetings, "copies": copies, "steps": steps, "peers torch": peers_torch,
    "peers jax": peers_jax, "gpt2": gpt2,
}  # fmt: skip


# --- what parts share -----------------------------------------------------------------------------

SMALL = {"mlp": 6, "cnn": 2, "rnn": 2, "lstm": 2, "gpt": 2}  # model and batch
SHORT = {"64]": "5]", "64, 65]": "5, 65]", "LSTM(256)": "LSTM(20)", "RNN(256)": "RNN(20)",
         "repeat 4": "repeat 1", "LearnedPositions(64)": "LearnedPositions(5)"}  # fmt: skip


def device_of(name: str):
    from nnc.runtime.device import DEVICES

    return DEVICES[name](1)


def bound_of(name: str, device: str, small: bool = False):
    """The training step of a workload, or of a model in small, with its first values and random
    data."""
    from nnc_side import SEED
    from workloads import TRAINING, Workload

    from nnc.runtime.bench import draw
    from nnc.runtime.executor import Executor
    from nnc.runtime.project import project_of_text, setup_of
    from nnc.runtime.settings import Assignment

    workloads = {w.name: w for w in (*TRAINING, Workload("gpt2", "gpt2", 4))}
    small = small or name not in workloads
    workload = Workload(name, name, SMALL[name]) if small else workloads[name]
    text = workload.text
    if small and name != "mlp" and name != "cnn":
        for old, new in SHORT.items():
            text = text.replace(old, new)
    batch = [Assignment("batch", str(workload.batch))]
    project = project_of_text(text, f"{workload.model}.nn", None, batch)
    executor = Executor(setup_of(project, None), device_of(device), SEED)
    bound = executor.training(workload.batch)
    draw(bound.system, dict(bound.fields), np.random.default_rng(SEED))
    return bound


def timed(step: Callable[[], object], wait: Callable[[], object], count: int) -> float:
    """The median of `count` steps in milliseconds, after three that do not count."""
    times = []
    for number in range(count + 3):
        wait()
        started = time.perf_counter()
        step()
        wait()
        if number >= 3:
            times.append(time.perf_counter() - started)
    return float(np.median(times)) * 1e3


def write(out: Path, results: dict[str, dict]) -> None:
    (out / "gpu.json").write_text(json.dumps(results, indent=1))
    (out / "gpu.md").write_text(table(results))


def table(results: dict[str, dict]) -> str:
    """The figures beside what was predicted."""
    found = results.get("machine", {})
    lines = [f"# {found.get('device') or 'no GPU'}, CUDA {found.get('driver') or '-'}", "",
             "| step | predicted ms | nnc ms | torch ms | torch compiled ms | jax ms |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    own = dict(results.get("steps", {}).get("ms", {}))
    own["gpt2"] = results.get("gpt2", {}).get("ms")
    torch = results.get("peers torch", {}).get("ms", {})
    jax = results.get("peers jax", {}).get("ms", {})
    for name, predicted in PREDICTED.items():
        measured = (own.get(name), *(torch.get(w, {}).get(name) for w in ("eager", "compiled")),
                    jax.get(name))  # fmt: skip
        shown = " | ".join("-" if x is None else f"{x:.3f}" for x in measured)
        lines.append(f"| {name} | {predicted} | {shown} |")
    lines.append("")
    for name, result in results.items():
        verdict = f"failed: {result['failed']}" if "failed" in result else json.dumps(result)
        lines.append(f"- {name}: {verdict}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
