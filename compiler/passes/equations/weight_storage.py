"""Weights in 16 bits: memory has the params of a prediction in f16 or bf16.

    param w: f32[n, k]   →   param w: f16[n, k]

Half of the memory and of the file; a load widens a number to f32, exactly, and what is computed is
as before. Applies to all params and states in f32 or f64 that the system only reads: a training
step adds updates to its params that are smaller than the distance of numbers of 16 bits, for which
reason Micikevicius et al. 2018 (arXiv:1710.03740, section 3.1) keep them in f32. It changes values,
so that it is no pass of the pipeline; `runtime/training/weight_formats.py` asks for it.
Tests: tests/runtime/test_weight_formats.py.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir.dtypes import is_float
from ...ir.equation import System, Tensor


def store_weights(system: System, storage: str) -> System:
    """The system with its weights stored as f16 or bf16."""
    tensors = {
        name: replace(tensor, storage=storage) if _is_weight(tensor, system) else tensor
        for name, tensor in system.tensors.items()
    }
    return system.replace(tensors=tensors)


def _is_weight(tensor: Tensor, system: System) -> bool:
    kept = tensor.kind in ("param", "state") and tensor.name not in system.updates
    return kept and is_float(tensor.dtype) and not tensor.storage
