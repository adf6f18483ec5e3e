"""Teaches an exported network two drawings, a ring (0) and a bar (1), in Python without nnc, by the
package cffi:

    nnc export examples/cnn_digits.nn --to digits_c
    python with_cffi.py digits_c
"""

import json
import sys
from pathlib import Path

import cffi

folder = Path(sys.argv[1])
about = json.loads((folder / "manifest.json").read_text())
ffi = cffi.FFI()
ffi.cdef("""
    int digits_check(uint64_t abi);
    const char *digits_message(int code);
    int digits_init(void *values, size_t, const void *weights, size_t);
    int digits_predict(void *arena, size_t, const void *values, size_t, size_t examples);
    int digits_train_step(void *arena, size_t, void *values, size_t);
""")
library = ffi.dlopen(str(folder.resolve() / "libdigits.so"))
memories = []  # what C sees lives as long as this list


def memory(size: int) -> tuple:
    """The address of so many bytes, and their number: what every function is given."""
    memories.append(ffi.new("unsigned char[]", size + about["alignment"]))
    start = -int(ffi.cast("uintptr_t", memories[-1])) % about["alignment"]
    return memories[-1] + start, size


def check(code: int) -> None:
    if code:
        raise SystemExit(ffi.string(library.digits_message(code)).decode())


def place(function: str, name: str, arena: tuple, kind: str) -> object:
    """The address of an input or a result in the arena of a function."""
    described = about["functions"][f"digits_{function}"]
    one = next(p for p in described["inputs"] + described["outputs"] if p["name"] == name)
    return ffi.cast(f"{kind} *", arena[0] + one["offset"])


def draw(image: object, digit: int) -> None:
    for row in range(8):
        for column in range(8):
            far = (2 * row - 7) ** 2 + (2 * column - 7) ** 2
            image[8 * row + column] = 8 < far < 40 if digit == 0 else column in (3, 4)


check(library.digits_check(int(about["abi"], 16)))
weights, values = memory(about["bytes"]["weights"]), memory(about["bytes"]["values"])
ffi.memmove(weights[0], (folder / "weights.bin").read_bytes(), weights[1])
check(library.digits_init(*values, *weights))

training = memory(about["functions"]["digits_train_step"]["arena_bytes"])
image = place("train_step", "image", training, "float")
label = place("train_step", "label", training, "int32_t")
for step in range(1, 21):
    for n in range(about["batch"]):
        draw(image + 64 * n, n % 2)
        label[n] = n % 2
    check(library.digits_train_step(*training, *values))
    if step % 10 == 0:
        print(f"step {step} loss {place('train_step', 'loss', training, 'float')[0]:.6f}")

arena = memory(about["functions"]["digits_predict"]["arena_bytes"])
logits = place("predict", "logits", arena, "float")
for digit in range(2):
    draw(place("predict", "image", arena, "float"), digit)
    check(library.digits_predict(*arena, *values, 1))
    best = max(range(10), key=lambda n: logits[n])
    print(f"{digit} is read as {best}, logit {logits[best]:.6f}")
