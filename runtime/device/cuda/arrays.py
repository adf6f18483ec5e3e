"""A tensor's place in memory as an array of NumPy's.

In: the bytes of a tensor. Out: an array that shares them or, of numbers that are stored as bf16 and
so have no type of NumPy's, a copy in f32.
"""

from __future__ import annotations

import numpy as np

from ....compiler.ir.dtypes import NUMPY
from ....compiler.ir.equation import Tensor


def array(raw: np.ndarray, tensor: Tensor) -> np.ndarray:
    """`raw` are the tensor's bytes."""
    if tensor.storage != "bf16":
        return raw.view(NUMPY[tensor.dtype]).reshape(tensor.shape)
    # NumPy has no bf16: its 16 bits are the upper half of an f32's
    halves = raw.view(np.uint16)
    # strides count elements; NumPy's count bytes
    steps = [stride * halves.itemsize for stride in tensor.strides]
    own: np.ndarray = np.ndarray(tensor.shape, halves.dtype, halves, strides=steps)
    return (own.astype(np.uint32) << np.uint32(16)).view(np.float32)
