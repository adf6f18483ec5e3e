"""Random numbers as a pure function of where they are used: Threefry2x32-20 in NumPy.

In: four 32-bit integers (arrays broadcast). Out: uniform float32 in [0, 1). There is no state, so
the numbers do not depend on tiling, on threads or on resuming. `codegen/llvm/threefry.py` emits the
same function as LLVM IR, bit for bit; this file is its meaning. It does not shape distributions.

Definition, the language's own: with all arithmetic modulo 2^32,

    (w0, w1) = threefry2x32_20(counter=(index, stream), key=(seed, step))
    uniform  = float(w0 >> 8) * 2^-24           (w1 is not used)

`index` numbers the elements of one random tensor, `stream` the random tensor in the program,
`seed` the run and `step` the training step. The generator (Salmon, Moraes, Dror, Shaw: "Parallel
Random Numbers: As Easy as 1, 2, 3", SC 2011, section 3.3) has three key words
k0, k1, k2 = PARITY ^ k0 ^ k1. It starts from x = counter + (k0, k1) and runs 20 rounds

    x0 += x1;  x1 = rotate_left(x1, ROTATIONS[round % 8]) ^ x0

and after each fourth round, as the j-th time (j = 1 … 5), x0 += k[j % 3], x1 += k[(j+1) % 3] + j.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .lazy_numpy import np

ROUNDS = 20
ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
PARITY = 0x1BD11BDA
UNIFORM_SHIFT = 8  # keeps 24 bits, as many as a float32 significand holds
UNIFORM_SCALE = 2.0**-24

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Words = NDArray[np.uint32]


def threefry_words(
    counter: tuple[ArrayLike, ArrayLike], key: tuple[ArrayLike, ArrayLike]
) -> tuple[Words, Words]:
    """Both output words of Threefry2x32-20, elementwise over the broadcast operands."""
    k0, k1 = _word(key[0]), _word(key[1])
    keys = (k0, k1, k0 ^ k1 ^ np.uint32(PARITY))
    start = np.broadcast_arrays(_word(counter[0]) + k0, _word(counter[1]) + k1)
    x0, x1 = (word.copy() for word in start)
    high = np.empty_like(x1)
    for done in range(ROUNDS):  # in place: new memory would take longer than the arithmetic
        left = ROTATIONS[done % 8]
        x0 += x1
        np.left_shift(x1, np.uint32(left), out=high)
        x1 >>= np.uint32(32 - left)
        x1 |= high
        x1 ^= x0
        if done % 4 == 3:
            j = done // 4 + 1
            x0 += keys[j % 3]
            x1 += keys[(j + 1) % 3] + np.array([j], np.uint32)
    return x0, x1


def threefry_numpy(
    seed: ArrayLike, step: ArrayLike, stream: ArrayLike, index: ArrayLike
) -> NDArray[np.float32]:
    """Uniform float32 in [0, 1), of the operands' broadcast shape."""
    shape = np.broadcast_shapes(*(np.shape(part) for part in (seed, step, stream, index)))
    first, _ = threefry_words((index, stream), (seed, step))
    uniform = (first >> np.uint32(UNIFORM_SHIFT)).astype(np.float32) * np.float32(UNIFORM_SCALE)
    return uniform.reshape(shape)  # drops the one axis that scalars were given


def _word(value: ArrayLike) -> Words:
    """Integers of any width modulo 2^32; at least 1-d, where NumPy wraps without a warning."""
    if isinstance(value, int):
        value = value & 0xFFFFFFFF
    return np.atleast_1d(np.asarray(value).astype(np.uint32))
