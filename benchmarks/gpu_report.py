"""What `gpu.py` found, as tables: measured beside predicted, met or missed.

In: the figures of all parts. Out: Markdown. Predictions are by arithmetic and from before any run:
launches at 2 µs, products in f32 at 12 TFLOP/s and of bf16 operands at 350 (tensor cores without
the newest instructions), the rest at 2.5 TB/s, on an H100.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

PREDICTED_MS = {"mlp32": 0.06, "mlp128": 0.08, "cnn32": 0.5, "cnn128": 1.2, "rnn": 0.5,
                "lstm": 0.6, "gpt": 1.0}  # fmt: skip
PREDICTED_TOKENS = {"batch 4": 150e3, "batch 16": 250e3}  # of GPT-2 by the second
PREDICTED_SHARE = {"map": 0.9, "softmax": 0.85, "layer norm": 0.85, "row sums": 0.85,
                   "column sums": 0.8, "Adam": 0.9}  # fmt: skip
PREDICTED_TFLOPS = {"f32": 12.0, "bf16": 350.0}

# what is measured → what it should reach, and whether less is better
GOALS = {
    "MLP, batch 128, ms": (0.040, True),
    "CNN, batch 128, ms": (0.5, True),
    "MLP, batch 128, times as fast as PyTorch compiled": (3.0, False),
    "bf16 product of 4096, of cuBLAS": (0.45, False),
    **{f"{name}, of a copy": (0.85, False) for name in ("map", "softmax", "layer norm", "Adam")},
    "GPT-2, batch 4, of PyTorch compiled": (1.0, False),
}

Results = dict[str, dict[str, Any]]


def report(results: Results) -> str:
    found = results.get("machine", {})
    gpu = found.get("device")
    head = f"{gpu}, CUDA {found['driver']}" if gpu else "No GPU: no figure means anything"
    lines = [f"# {head}", ""]
    for table in (_goals, _steps, _resources, _gpt2, _memory, _products):
        lines += [*table(results), ""]
    for name, result in results.items():
        failed = f"failed: {result['failed']}" if "failed" in result else "done"
        seconds = f", {result['seconds']} s" if "seconds" in result else ""
        lines.append(f"- {name}: {failed}{seconds}")
    return "\n".join(lines) + "\n"


def _table(head: str, rows: Iterable[Iterable[object]]) -> Iterator[str]:
    yield f"| {head} |"
    yield "|" + "---|" * (head.count("|") + 1)
    for row in rows:
        yield "| " + " | ".join(_text(cell) for cell in row) + " |"


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def _at(results: Results, *keys: str) -> Any:
    """The figure at that place; None if it was not measured."""
    found: Any = results
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _ratio(one: float | None, two: float | None) -> float | None:
    return None if one is None or not two else one / two


# --- tables ---------------------------------------------------------------------------------------


def measured(results: Results) -> dict[str, float | None]:
    """What the goals speak of."""
    mlp = _at(results, "steps", "steps", "mlp128", "median_ms")
    compiled = _at(results, "torch", "steps", "mlp128 compiled", "ms")
    tokens = _at(results, "gpt2", "batch 4", "tokens/s")
    bf16 = "bf16 4096 TFLOP/s"
    return {
        "MLP, batch 128, ms": mlp,
        "CNN, batch 128, ms": _at(results, "steps", "steps", "cnn128", "median_ms"),
        "MLP, batch 128, times as fast as PyTorch compiled": _ratio(compiled, mlp),
        "bf16 product of 4096, of cuBLAS": _ratio(
            _at(results, "products", bf16), _at(results, "cublas", bf16)
        ),
        **{
            f"{name}, of a copy": _at(results, "bandwidth", f"{name} of copy")
            for name in ("map", "softmax", "layer norm", "Adam")
        },
        "GPT-2, batch 4, of PyTorch compiled": _ratio(
            tokens, _at(results, "torch", "steps", "gpt2 compiled", "tokens/s")
        ),
    }


def verdict(value: float | None, goal: float, less: bool) -> str:
    if value is None:
        return "not measured"
    return "met" if (value <= goal if less else value >= goal) else "missed"


def _goals(results: Results) -> Iterator[str]:
    found = measured(results)
    yield from _table(
        "goal | measured | wanted |  ",
        (
            (
                name,
                found[name],
                f"{'≤' if less else '≥'} {goal:g}",
                verdict(found[name], goal, less),
            )
            for name, (goal, less) in GOALS.items()
        ),
    )


def _steps(results: Results) -> Iterator[str]:
    def row(name: str, predicted: float) -> list[object]:
        own = _at(results, "steps", "steps", name, "median_ms")
        peers = [
            _at(results, "torch", "steps", f"{name} {way}", "ms") for way in ("eager", "compiled")
        ]
        peers.append(_at(results, "jax", "steps", name, "ms"))
        best = min((p for p in peers if p is not None), default=None)
        return [
            name,
            predicted,
            own,
            _at(results, "steps", "steps", f"{name} bf16", "median_ms"),
            *peers,
            _ratio(best, own),
        ]

    head = "step, ms | predicted | nnc | nnc bf16 | torch | torch compiled | jax | best peer / nnc"
    yield from _table(head, (row(*item) for item in PREDICTED_MS.items()))


def _resources(results: Results) -> Iterator[str]:
    def row(name: str) -> list[object]:
        def own(key: str) -> object:
            return _at(results, "steps", "steps", name, key)

        return [
            name,
            own("launches"),
            own("together"),
            own("first_step_s"),
            own("first_step_again_s"),
            *(
                _at(results, "torch", "steps", f"{name} {way}", "first_step_s")
                for way in ("eager", "compiled")
            ),
            _at(results, "jax", "steps", name, "first_step_s"),
            own("arena_mb"),
            _at(results, "torch", "steps", f"{name} eager", "peak_mb"),
        ]

    head = (
        "model | kernels | steps a launch | first step s | again | torch | compiled | jax | "
        "arena MB | torch MB"
    )
    yield from _table(head, map(row, PREDICTED_MS))


def _gpt2(results: Results) -> Iterator[str]:
    def rows() -> Iterator[list[object]]:
        for batch, predicted in PREDICTED_TOKENS.items():
            own = _at(results, "gpt2", batch) or {}
            yield [
                f"nnc, {batch}",
                predicted,
                own.get("tokens/s"),
                own.get("median_ms"),
                own.get("first_step_s"),
                own.get("arena_mb"),
            ]
        for name, place in (
            ("PyTorch eager", ("torch", "steps", "gpt2 eager")),
            ("PyTorch compiled", ("torch", "steps", "gpt2 compiled")),
            ("JAX", ("jax", "steps", "gpt2")),
        ):
            peer = _at(results, *place) or {}
            yield [
                f"{name}, batch 4",
                None,
                peer.get("tokens/s"),
                peer.get("ms"),
                peer.get("first_step_s"),
                peer.get("peak_mb"),
            ]

    yield from _table(
        "GPT-2 124M, bf16 | predicted tokens/s | tokens/s | ms | first step s | MB", rows()
    )


def _memory(results: Results) -> Iterator[str]:
    copied = _at(results, "bandwidth", "copy GB/s")
    yield from _table(
        f"of a copy's {_text(copied)} GB/s | predicted | measured",
        (
            (name, share, _at(results, "bandwidth", f"{name} of copy"))
            for name, share in PREDICTED_SHARE.items()
        ),
    )


def _products(results: Results) -> Iterator[str]:
    found = (
        {**_at(results, "products"), **_at(results, "cublas")}
        if "products" in results and ("cublas" in results)
        else _at(results, "products") or {}
    )
    names = [name for name in found if name.endswith("TFLOP/s")]

    def row(name: str) -> list[object]:
        own, peer = _at(results, "products", name), _at(results, "cublas", name)
        return [name, PREDICTED_TFLOPS[name.partition(" ")[0]], own, peer, _ratio(own, peer)]

    yield from _table("product | predicted | nnc | cuBLAS | share", map(row, names))
