"""ONNX Runtime, for predictions: PyTorch's network, exported, with the same weights.

In: a workload and a file with data and nnc's first weights. Out: runners as in `nnc_side.py`.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from peers_torch import fields, net
from workloads import Workload


def runner(workload: Workload, path: Path, threads: int, compiled: bool):
    """A runner for the workload."""
    arrays = dict(np.load(path))
    given = fields(arrays)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
    model = exported(net(workload, arrays).eval(), given)
    session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    return PredictingRunner(session, given)


def exported(module: torch.nn.Module, given: list[torch.Tensor]) -> bytes:
    """The network as an ONNX model for these sizes."""
    names = [f"x{number}" for number in range(len(given))]
    file = io.BytesIO()
    with torch.inference_mode():
        torch.onnx.export(module, tuple(given), file, input_names=names, dynamo=False)
    return file.getvalue()


class PredictingRunner:
    """The model's result."""

    def __init__(self, session: onnxruntime.InferenceSession, given: list[torch.Tensor]):
        self.session = session
        names = [i.name for i in session.get_inputs()]
        self.given = {name: t.numpy() for name, t in zip(names, given, strict=True)}

    def step(self) -> None:
        (self.last,) = self.session.run(None, self.given)

    def loss(self) -> float:
        return float(np.abs(self.last).mean())

    def reset(self) -> None:
        """Nothing changes."""
