"""Teaches an exported network two drawings, a ring (0) and a bar (1), in Python without nnc:

    nnc export examples/cnn_digits.nn --to digits_c
    python with_ctypes.py digits_c

Sizes and places are in the folder's manifest.json; nothing but Python itself is needed.
"""

import ctypes
import json
import sys
from pathlib import Path

folder = Path(sys.argv[1])
about = json.loads((folder / "manifest.json").read_text())
library = ctypes.CDLL(str(folder.resolve() / "libdigits.so"))
library.digits_message.restype = ctypes.c_char_p


def memory(size: int) -> ctypes.Array:
    """Bytes that begin where the library wants them to."""
    raw = (ctypes.c_ubyte * (size + about["alignment"]))()
    start = -ctypes.addressof(raw) % about["alignment"]
    return (ctypes.c_ubyte * size).from_buffer(raw, start)


def call(name: str, *memories: ctypes.Array, more: tuple = ()) -> None:
    """A function of the library, which is given memories with their sizes."""
    given = [x for m in memories for x in (ctypes.byref(m), ctypes.c_size_t(len(m)))]
    code = library[f"digits_{name}"](*given, *map(ctypes.c_size_t, more))
    if code:
        raise SystemExit(library.digits_message(code).decode())


def place(function: str, name: str, arena: ctypes.Array, kind: type) -> ctypes.Array:
    """An input or a result, as an array in the arena of a function."""
    described = about["functions"][f"digits_{function}"]
    one = next(p for p in described["inputs"] + described["outputs"] if p["name"] == name)
    return (kind * (one["bytes"] // ctypes.sizeof(kind))).from_buffer(arena, one["offset"])


def drawing(digit: int) -> list:
    def ink(row: int, column: int) -> bool:
        far = (2 * row - 7) ** 2 + (2 * column - 7) ** 2
        return 8 < far < 40 if digit == 0 else column in (3, 4)

    return [float(ink(row, column)) for row in range(8) for column in range(8)]


if library.digits_check(ctypes.c_uint64(int(about["abi"], 16))):
    raise SystemExit("the manifest belongs to another library, or the processor is too old")
weights, values = memory(about["bytes"]["weights"]), memory(about["bytes"]["values"])
weights[:] = (folder / "weights.bin").read_bytes()
call("init", values, weights)

training = memory(about["functions"]["digits_train_step"]["arena_bytes"])
image = place("train_step", "image", training, ctypes.c_float)
label = place("train_step", "label", training, ctypes.c_int32)
loss = place("train_step", "loss", training, ctypes.c_float)
for step in range(1, 21):
    image[:] = [x for n in range(about["batch"]) for x in drawing(n % 2)]
    label[:] = [n % 2 for n in range(about["batch"])]
    call("train_step", training, values)
    if step % 10 == 0:
        print(f"step {step} loss {loss[0]:.6f}")

arena = memory(about["functions"]["digits_predict"]["arena_bytes"])
logits = place("predict", "logits", arena, ctypes.c_float)
for digit in range(2):
    place("predict", "image", arena, ctypes.c_float)[:64] = drawing(digit)
    call("predict", arena, values, more=(1,))
    best = max(range(10), key=lambda n: logits[n])
    print(f"{digit} is read as {best}, logit {logits[best]:.6f}")
