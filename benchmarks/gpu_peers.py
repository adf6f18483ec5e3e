"""The parts of `gpu.py` that measure PyTorch, JAX and cuBLAS, on the same models and data.

In: the device, a folder. Out: plain figures. A peer that is not installed is said to be missing.
Without a GPU they run on the CPU and on small models: to test this file, not to measure anything.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from gpu_checks import Note
from gpu_side import SEED, WORKLOADS, Plain, project_of, setup_of, small, timed
from gpu_speed import SHAPES
from workloads import canonical

from nnc.compiler.ir.dtypes import NUMPY
from nnc.compiler.programs import training_step
from nnc.compiler.reference.initial_values import initial_values
from nnc.runtime.device.data_inputs import fields_of
from nnc.runtime.inspect.bench import fill_random

Wait = Callable[[], object]


def given(name: str, device: str) -> tuple[str, list[np.ndarray], list[np.ndarray]]:
    """The model that peers know, its first weights in their order, and a batch."""
    setup = setup_of(project_of(name, device))
    assert setup is not None
    system, drawn = training_step(setup)
    rng = np.random.default_rng(SEED)
    params = list(system.of_kind("param"))
    if name == "gpt2":  # any numbers do
        weights = [0.02 * rng.standard_normal(t.shape, np.float32) for t in params]
    else:
        first = initial_values(system, drawn, SEED)
        weights = [first[t.name] for t in params]
    arrays = {t.name: np.zeros(t.shape, NUMPY[t.dtype]) for t in fields_of(system)}
    fill_random(system, arrays, rng)
    model = WORKLOADS[name].model if name in WORKLOADS else name
    return model, canonical(model, weights), list(arrays.values())


def _names(device: str) -> list[str]:
    return ["mlp32", "gpt2"] if small(device) else [*WORKLOADS, "gpt2"]


# --- PyTorch --------------------------------------------------------------------------------------


def torch_steps(device: str, out: Path, data: Path | None, note: Note) -> None:
    """Eager, and compiled with CUDA graphs; float32 without TF32, and GPT-2 in bf16 by autocast."""
    if find_spec("torch") is None:
        note({"missing": "torch"})
        return
    import torch

    where, wait = _torch_place(device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    note({"version": torch.__version__, "device": _torch_name(where)})
    found: Plain = {}
    for way in ("eager", "compiled"):
        for name in _names(device):
            if small(device) and way == "compiled" and name != "mlp32":
                continue
            try:
                found[f"{name} {way}"] = _torch_step(name, device, way, where, wait)
            except Exception as error:  # of one model: the others are measured all the same
                found[f"{name} {way}"] = {"failed": f"{type(error).__name__}: {error}"[:300]}
            note({"steps": found})


def _torch_place(device: str) -> tuple[str, Wait]:
    import torch

    if device == "cuda" and torch.cuda.is_available():
        return "cuda", torch.cuda.synchronize
    return "cpu", lambda: None


def _torch_name(where: str) -> str:
    import torch

    return torch.cuda.get_device_name(0) if where == "cuda" else where


def _torch_step(name: str, device: str, way: str, where: str, wait: Wait) -> Plain:
    import peers_torch as peers
    import torch

    if where == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    model, weights, arrays = given(name, device)
    began = time.perf_counter()
    net = peers.NETS[model]([torch.from_numpy(w.copy()) for w in weights]).to(where)
    fields = [torch.from_numpy(a).to(where) for a in arrays]
    runner = peers.TrainingRunner(net, fields, False)
    runner.first.clear()  # nothing is reset: the copy would count as memory
    if name == "gpt2":
        runner.optimizer = torch.optim.AdamW(net.parameters(), lr=3e-4, fused=True)
        runner.forward = torch.autocast(where, torch.bfloat16)(runner.compute)
    step = runner.step
    if way == "compiled":
        runner.forward = torch.compile(runner.forward, mode="reduce-overhead")
        step = partial(_marked, torch.compiler.cudagraph_mark_step_begin, runner.step)
    step()
    wait()
    first = time.perf_counter() - began
    ms = timed(step, wait, 2 if small(device) else 10 if name == "gpt2" else 100)
    peak = torch.cuda.max_memory_allocated() / 1e6 if where == "cuda" else None
    return {"ms": ms, "first_step_s": first, "peak_mb": peak, **_tokens(name, arrays, ms)}


def _marked(mark: Callable[[], None], step: Callable[[], None]) -> None:
    """A compiled step may overwrite what the one before it gave."""
    mark()
    step()


def _tokens(name: str, arrays: list[np.ndarray], ms: float) -> Plain:
    return {"tokens/s": arrays[0].size / ms * 1e3} if name == "gpt2" else {}


# --- cuBLAS ---------------------------------------------------------------------------------------


def cublas(device: str, out: Path, data: Path | None, note: Note) -> None:
    """TFLOP/s of the products of `gpu_speed.products`, through PyTorch, or else CuPy (f32 only)."""
    found: Plain = {}
    for name, (m, n, k) in SHAPES.items():
        for precision in ("f32", "bf16"):
            sizes = (40, 40, 40) if small(device) else (m, n, k)
            ms = _product_ms(device, *sizes, precision)
            if ms is not None:
                found[f"{precision} {name} TFLOP/s"] = 2 * sizes[0] * sizes[1] * sizes[2] / 1e9 / ms
            note(found)


def _product_ms(device: str, m: int, n: int, k: int, precision: str) -> float | None:
    """Of twenty products, one after the other: a launch is not measured."""
    turns = 20
    if find_spec("torch") is not None:
        import torch

        where, wait = _torch_place(device)
        kind = torch.float32 if precision == "f32" else torch.bfloat16
        a, b = (torch.rand(shape, device=where).to(kind) for shape in ((m, k), (k, n)))
        y = a @ b

        def products() -> None:
            for _ in range(turns):
                torch.matmul(a, b, out=y)

        return timed(products, wait, 10) / turns
    if precision == "bf16" or device != "cuda":
        return None
    import cupy

    p, q = cupy.random.rand(m, k, dtype="f4"), cupy.random.rand(k, n, dtype="f4")
    z = p @ q

    def same() -> None:
        for _ in range(turns):
            cupy.matmul(p, q, out=z)

    return timed(same, cupy.cuda.Device().synchronize, 10) / turns


# --- JAX ------------------------------------------------------------------------------------------


def jax_steps(device: str, out: Path, data: Path | None, note: Note) -> None:
    """The same models in JAX, one function for the whole step, on whatever device JAX finds;
    float32 without TF32, and GPT-2 in bf16."""
    if find_spec("jax") is None:
        note({"missing": "jax"})
        return
    import jax
    import peers_jax as peers

    jax.config.update("jax_default_matmul_precision", "highest")  # that of the operands' own type
    note({"version": jax.__version__, "device": str(jax.devices()[0])})
    found: Plain = {}
    for name in _names(device):
        model, weights, arrays = given(name, device)
        began = time.perf_counter()
        fields = [jax.numpy.asarray(a) for a in arrays]
        try:
            runner = peers.TrainingRunner(peers.NETS[model], weights, fields)
            runner.step()
            first = time.perf_counter() - began
            ms = timed(runner.step, lambda: None, 2 if small(device) else 50)
            found[name] = {"ms": ms, "first_step_s": first, **_tokens(name, arrays, ms)}
        except Exception as error:  # of one model: the others are measured all the same
            found[name] = {"failed": f"{type(error).__name__}: {error}"[:300]}
        stats = jax.devices()[0].memory_stats() or {}
        note({"steps": found, "peak_mb": stats.get("peak_bytes_in_use", 0) / 1e6})
