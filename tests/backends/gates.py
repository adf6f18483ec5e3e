"""What must hold of every kernel's machine code: by NVRTC's log nothing is spilled and registers
are few; by the disassembler's listing no thread has memory of its own, and the instructions are
there that a tile is made for."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from nnc.compiler.codegen.cuda.module import Module
from nnc.compiler.ir.dtypes import BYTES
from nnc.compiler.passes.gpu.attention.attention_tile import AttentionTile
from nnc.compiler.passes.gpu.attention.mma_operands import COPIED
from nnc.compiler.passes.gpu.grid_ir import Grid, MatmulTile
from nnc.compiler.targets import GpuTarget
from nnc.runtime.device.cuda.nvrtc import Nvrtc, NvrtcNotFound, nvrtc

from .machine_code import instructions_or_skip

MAPS = GpuTarget.block_threads * GpuTarget.min_blocks_per_sm  # threads that share registers
REGISTERS, MOST = 1 << 16, 255  # of a processor, and of a thread


def nvrtc_or_skip() -> Nvrtc:
    try:
        return nvrtc()
    except NvrtcNotFound as error:
        pytest.skip(str(error))


def has_sine(source: str, kernel: str) -> bool:
    """Whether a kernel, or a function that it calls, takes a sine or cosine."""
    texts = {}
    for text in re.split(r"\n(?=KERNEL|DEVICE void)", source):
        if found := re.match(r"(?:KERNEL\([\d, ]+\)|DEVICE void) (\w+)\(", text):
            texts[found[1]] = text.partition("\n}")[0]
    own = texts[kernel]
    called = [text for name, text in texts.items() if f" {name}(" in own]
    return any(re.search(r"\b(sin|cos)f?\(", text) for text in called)


def check_usage(made: Module, *architectures: str) -> None:
    """On each of the architectures, by default on those of an A100 and of an H100."""
    for architecture in architectures or ("sm_80", "sm_90a"):
        _check_usage(made, architecture)


def _check_usage(made: Module, architecture: str) -> None:
    """Of the log, then of the listing. A processor has registers for all `resident` blocks of a
    grid at once: of 256 threads a thread has 128 where there are two, and the 255 that one can have
    where a block is alone."""
    compiled = nvrtc_or_skip().cubin(made.source, architecture)
    usage = compiled.usage
    assert set(usage) == made.entries
    for name, used in usage.items():
        assert used.spilled == 0, (architecture, name, used)
        # sines of large numbers multiply by many digits of 2/pi, which CUDA keeps in an array
        assert used.stack <= 32 * has_sine(made.source, name), (architecture, name, used)
        grid = made.grids.get(name)
        threads = grid.threads * grid.resident if grid else MAPS
        assert used.registers <= min(REGISTERS // threads, MOST), (architecture, name, used)
    found = instructions_or_skip(compiled.code)
    assert set(found) == made.entries
    for name, counts in found.items():
        check_instructions(name, counts, made.grids.get(name), has_sine(made.source, name))


def check_instructions(name: str, counts: Counter[str], grid: Grid | None, sine: bool) -> None:
    """Nothing is read from or written to memory of a thread's own. In a tile or a stream, tensor
    cores multiply and ldmatrix takes where the grid says so, and copies are of as many bytes as it
    says."""
    assert counts, name
    kinds = {instruction.partition(".")[0] for instruction in counts}
    assert sine or not kinds & {"LDL", "STL"}, (name, counts)
    match grid.how if grid else None:
        case AttentionTile() as tile:
            cores = tile.tensor_cores
            copies = {COPIED * BYTES["bf16"]} if cores else set()
        case MatmulTile() as tile:
            cores = tile.tensor_cores
            size = BYTES["bf16" if cores else grid.dtype]
            copies = {o.copy_width * size for o in (tile.left, *tile.rights)} - {0}
        case _:
            return
    assert kinds & {"HMMA", "LDSM"} == ({"HMMA", "LDSM"} if cores else set()), (name, counts)
    assert {bytes_copied(i) for i in counts if i.startswith("LDGSTS")} == copies, (name, counts)


def bytes_copied(instruction: str) -> int:
    """By one LDGSTS, which says its bits if they are not 32."""
    bits = re.search(r"\.(64|128)\b", instruction)
    return int(bits[1]) // 8 if bits else 4
