"""The gates of machine code see what they are there for."""

from __future__ import annotations

from collections import Counter

import pytest

from nnc.runtime.device.cuda.nvrtc import CompilationError

from .gates import bytes_copied, check_instructions, nvrtc_or_skip
from .machine_code import counted, instructions_or_skip

SPILLING = """extern "C" __global__ void bad(float* x, int n) {
  float a[64]; for (int i = 0; i < 64; ++i) a[i] = x[i * n];
  for (int i = 0; i < n; ++i) a[(int)x[i] & 63] += a[i & 63];
  x[0] = a[n & 63]; }"""


def test_the_log_shows_spills_and_mistakes():
    """A kernel with an array too large for registers, and one that is not C++."""
    library = nvrtc_or_skip()
    assert library.cubin(SPILLING, "sm_80").usage["bad"].stack > 0
    with pytest.raises(CompilationError, match=r"nnc\.cu"):
        library.cubin("__global__ void k( {", "sm_80")


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90a"])
def test_the_listing_shows_memory_of_a_thread(architecture: str):
    """Of the same kernel; a sine would be an excuse."""
    counts = instructions_or_skip(nvrtc_or_skip().cubin(SPILLING, architecture).code)["bad"]
    assert {"LDL", "STL"} <= {i.partition(".")[0] for i in counts}
    check_instructions("bad", counts, None, sine=True)
    with pytest.raises(AssertionError, match="STL"):
        check_instructions("bad", counts, None, sine=False)


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90a"])
def test_the_listing_shows_copies(architecture: str):
    """Of 4, 8 and 16 bytes, and zeros instead."""
    lines = [
        f'asm volatile("cp.async.{cache}.shared.global [%0], [%1], {n}, %2;" '
        f':: "r"(n * 16), "l"(x + {n}), "r"({read}));'
        for cache, n, read in (("ca", 4, "4"), ("ca", 8, "8"), ("cg", 16, "16"), ("ca", 4, "n"))
    ]
    source = "\n".join(['extern "C" __global__ void copies(float* x, int n) {', *lines, "}"])
    found = instructions_or_skip(nvrtc_or_skip().cubin(source, architecture).code)["copies"]
    copies = [i for i in found.elements() if i.startswith("LDGSTS")]
    assert sorted(map(bytes_copied, copies)) == [4, 4, 8, 16], copies


def test_the_listing_is_read_whole():
    """Predicates, suffixes and several kernels; labels and data are no instructions."""
    assert counted("""
\t.section\t.text.k0,"ax",@progbits
.text.k0:
        /*0010*/                   MOV R1, c[0x0][0x28] ;
        /*0020*/              @!P0 LDGSTS.E.BYPASS.128 [R4], [R2.64] ;
        /*0030*/             @!UP1 UMOV UR4, 0x1 ;
.L_x_1:
        /*0040*/               @P3 LDGSTS.E.BYPASS.128 [R4], [R2.64+0x10] ;
\t.section\t.nv.constant0.k0,"a",@progbits
        /*0000*/ \t.byte\t0x00
\t.section\t.text.k1,"ax",@progbits
        /*0000*/                   EXIT ;
""") == {"k0": Counter({"MOV": 1, "LDGSTS.E.BYPASS.128": 2, "UMOV": 1}), "k1": Counter(EXIT=1)}
