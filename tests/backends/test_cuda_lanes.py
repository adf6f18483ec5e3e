"""Which lane holds what: the stand-in's tensor cores beside the tables of the PTX ISA.

The tables are written here as the PTX ISA gives them for `mma.m16n8k16` and `ldmatrix`; the
stand-in has its own form of them, and the tiles a third.
"""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from gpu_simulator import available, library

from nnc.compiler.codegen.cuda.module import Module
from nnc.compiler.passes.gpu.launch_ir import Launch

pytestmark = pytest.mark.skipif(not available(), reason="needs g++")


def kernel(body: str, shared: int) -> ctypes.CDLL:
    """One block of 32 threads with the arrays `in` and `out` of 256 words each."""
    text = f"KERNEL(32, 1) probe(const u32* in, u32* out) {{\n{body}\n}}\n"
    return library(Module(text, (Launch("probe", 1, 1, 32, shared, (0, 1024)),), 2048))


def run(lib: ctypes.CDLL, given: np.ndarray) -> np.ndarray:
    """What the block makes of `in`, the same in every order of threads."""
    results = []
    for schedule in (0, 1, 2):
        arena = np.zeros(512, np.uint32)
        arena[: given.nbytes // 4] = given.ravel().view(np.uint32)
        lib.nnc_begin(schedule, False)
        lib.run(ctypes.c_void_p(arena.ctypes.data))
        assert not lib.nnc_error()
        results.append(arena[256:].copy())
    assert all(np.array_equal(results[0], r) for r in results)
    return results[0]


@pytest.mark.parametrize("turned", [False, True])
def test_ldmatrix(turned: bool):
    """Row r of matrix m is at lane 8m + r's address; lane l holds elements 2(l % 4) and the next of
    row l / 4, or of column l / 4 where matrices are turned."""
    lib = kernel(
        "SHARED(u32, s, 0, 128);\n"
        "for (i32 k = 0; k < 4; ++k) AT(s, THREAD * 4 + k, 128) = AT(in, THREAD * 4 + k, 256);\n"
        f"BARRIER();\nu32 r[4];\nMATRICES({str(turned).lower()}, r, s, THREAD * 4, 128);\n"
        "for (i32 m = 0; m < 4; ++m) AT(out, m * 32 + THREAD, 256) = r[m];",
        512,
    )
    elements = np.random.default_rng(0).integers(0, 1 << 16, (4, 8, 8)).astype(np.uint16)
    found = run(lib, elements)[:128].view(np.uint16).reshape(4, 32, 2)
    for m in range(4):
        matrix = elements[m].T if turned else elements[m]
        for lane in range(32):
            for half in range(2):
                assert found[m, lane, half] == matrix[lane // 4, lane % 4 * 2 + half]


def test_mma():
    """D = A B + C with the fragments of the ISA: group = lane / 4, number = lane % 4.

    a_i: row = group + (8 if i in 2, 3, 6, 7), column = 2 number + i % 2 + (8 if i >= 4)
    b_i: row = 2 number + i % 2 + (8 if i >= 2), column = group
    c_i: row = group + (8 if i >= 2), column = 2 number + i % 2
    """
    lib = kernel(
        "u32 a[4], b[2];\nf32 c[4];\n"
        "for (i32 k = 0; k < 4; ++k) a[k] = AT(in, THREAD * 4 + k, 256), c[k] = THREAD + k;\n"
        "for (i32 k = 0; k < 2; ++k) b[k] = AT(in, 128 + THREAD * 2 + k, 256);\n"
        "MMA(c, a, b);\n"
        "union { f32 value; u32 bits; } x;\n"
        "for (i32 k = 0; k < 4; ++k) x.value = c[k], AT(out, THREAD * 4 + k, 256) = x.bits;",
        0,
    )
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-8, 9, shape).astype(np.float32) for shape in ((16, 16), (16, 8)))
    words_a, words_b = np.zeros((32, 8), np.uint16), np.zeros((32, 4), np.uint16)
    c = np.zeros((16, 8), np.float32)
    for lane in range(32):
        group, number = lane // 4, lane % 4
        for i in range(8):
            row, column = group + 8 * (i in (2, 3, 6, 7)), 2 * number + i % 2 + 8 * (i >= 4)
            words_a[lane, i] = a[row, column].view(np.uint32) >> 16
        for i in range(4):
            row = 2 * number + i % 2 + 8 * (i >= 2)
            words_b[lane, i] = b[row, group].view(np.uint32) >> 16
            c[group + 8 * (i >= 2), 2 * number + i % 2] = lane + i
    given = np.concatenate([words_a.ravel(), words_b.ravel()])
    found = run(lib, given)[:128].view(np.float32).reshape(32, 4)
    expected = a @ b + c
    for lane in range(32):
        for i in range(4):
            assert found[lane, i] == expected[lane // 4 + 8 * (i >= 2), lane % 4 * 2 + i % 2]


def test_pairs_are_rounded_as_the_evaluator_rounds():
    from nnc.compiler.ir.functions import TABLE

    lib = kernel(
        "union { u32 bits; f32 value; } a, b;\n"
        "for (i32 k = 0; k < 4; ++k) {\n"
        "  const i32 at = THREAD * 8 + k * 2;\n"
        "  a.bits = AT(in, at, 256), b.bits = AT(in, at + 1, 256);\n"
        "  AT(out, THREAD * 4 + k, 256) = PAIR(a.value, b.value);\n}",
        0,
    )
    rng = np.random.default_rng(0)
    x = rng.integers(0, 1 << 32, 256, np.uint64).astype(np.uint32)
    x[:64] = x[:64] & 0xFFFF0000 | 0x8000  # ties
    x[64:70] = [0x7F800001, 0xFFC00000, 0x7F800000, 0xFF800000, 0x7F7FFFFF, 0]
    found = run(lib, x)[:128].view(np.uint16).astype(np.uint32) << 16
    expected = TABLE["bf16"].numpy(x.view(np.float32))
    np.testing.assert_array_equal(found.view(np.float32), expected)
