"""The memory of params and states that all programs of an exported model share.

In: the systems of a model and the values of its params and states. Out: the place of each, the same
in every program, and the bytes that stand there at first.

    head (64 bytes)   magic, layout, bytes of the weights, step, seed, hash of the weights
    weights           what a prediction and an evaluation read, in the order of the program
    states            what only training needs: those of optimizers, params that have an average

An average stands in the place of its param among the weights: what is predicted with lies together,
and a file of weights is the beginning of the memory of training.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...compiler.codegen.llvm.library_body import HEAD_BYTES
from ...compiler.codegen.llvm.library_shared import Fill
from ...compiler.ir.equation import Tensor
from ...compiler.passes.kernels.memory import aligned
from ..device.bf16_arrays import memory_array

FORMAT = 1  # of the head, and of how C calls the functions
MAGIC = int.from_bytes(b"nncw", "little") | FORMAT << 32


@dataclass(frozen=True)
class Layout:
    """The places of params and states in bytes: in training, and, of those that are weights, in
    programs that only read them."""

    tensors: Mapping[str, Tensor]  # of training, or of the prediction
    places: Mapping[str, int]
    weights: Mapping[str, int]
    weights_bytes: int
    bytes: int

    @property
    def hash(self) -> int:
        """A number that other layouts do not have."""
        rows = [
            (name, list(self.tensors[name].shape), self.tensors[name].storage_dtype, place)
            for name, place in self.weights.items()
        ]
        return number_of(repr((FORMAT, rows)))


def number_of(text: str) -> int:
    """64 bits of the hash of a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def layout_of(
    weights: Sequence[Tensor], training: Sequence[Tensor], averages: Mapping[str, str]
) -> Layout:
    """Where the weights stand, and what else training has; `averages` by their params."""
    tensors = {t.name: t for t in (*weights, *training)}
    places, shared, end = {}, {}, HEAD_BYTES
    for tensor in weights:
        shared[tensor.name] = places[averages.get(tensor.name, tensor.name)] = end
        end += aligned(tensor.bytes)
    weights_bytes = end
    for tensor in training:
        if tensor.name not in places:
            places[tensor.name] = end
            end += aligned(tensor.bytes)
    return Layout(tensors, places, shared, weights_bytes, end)


def weights_file(layout: Layout, values: Mapping[str, np.ndarray], seed: int) -> bytes:
    """The head and the weights."""
    image = np.zeros(layout.weights_bytes, np.uint8)
    for name, place in layout.weights.items():
        data = bytes_of(layout.tensors[name], values[name])
        image[place : place + len(data)] = np.frombuffer(data, np.uint8)
    content = hashlib.sha256(image.tobytes()).digest()[:8]
    head = struct.pack("<QQQii8s", MAGIC, layout.hash, layout.weights_bytes, 0, seed, content)
    image[: len(head)] = np.frombuffer(head, np.uint8)
    return image.tobytes()


def begun(
    layout: Layout, values: Mapping[str, np.ndarray], averages: Mapping[str, str]
) -> list[Fill]:
    """What training begins with besides the weights, where that is not zero."""
    found = []
    weights = {*layout.weights, *averages.values()}
    for name, place in layout.places.items():
        if place < layout.weights_bytes:
            continue
        size, data = (
            aligned(layout.tensors[name].bytes),
            bytes_of(layout.tensors[name], values[name]),
        )
        source = averages.get(name)
        if source is not None and data == bytes_of(layout.tensors[name], values[source]):
            found.append(Fill(place, size, copied=layout.places[source]))
        elif any(data):
            same = (n for n in weights if n in layout.places and n in values)
            equal = next((n for n in same if _equals(layout, n, values[n], data)), None)
            if equal is not None:
                found.append(Fill(place, size, copied=layout.places[equal]))
            else:
                found.append(Fill(place, size, data=data.ljust(size, b"\0")))
    return found


def _equals(layout: Layout, name: str, array: np.ndarray, data: bytes) -> bool:
    return layout.tensors[name].bytes == len(data) and bytes_of(layout.tensors[name], array) == data


def bytes_of(tensor: Tensor, array: np.ndarray) -> bytes:
    """An array as the memory of programs holds it."""
    raw = np.zeros(tensor.bytes, np.uint8)
    memory = memory_array(raw, tensor)
    if memory.dtype != array.dtype and tensor.storage == "bf16":
        from ...compiler.ir.functions import halves

        memory[...] = halves(array, "bf16")
    else:
        memory[...] = array
    return raw.tobytes()
