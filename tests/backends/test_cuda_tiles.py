"""Tiles of the CUDA backend: every layout of the operands, sizes that fit and odd ones, beside the
evaluator; what is copied how; registers of the large ones."""

from __future__ import annotations

import re

import numpy as np
import pytest
from gpu_simulator import SimulatedProgram, available
from support import NO_ATTENTION, cuda_module, gpu_plan, mostly_slow, round_contractions, system

from nnc.compiler.codegen.cuda.module import Module
from nnc.compiler.ir.equation import System
from nnc.compiler.passes.gpu.grid_ir import Grid, MatmulTile
from nnc.compiler.reference.evaluator import evaluate
from nnc.compiler.targets import GpuTarget

from .gates import check_usage, nvrtc_or_skip
from .systems import values
from .whole_steps import LARGE, model_step

needs_gpp = pytest.mark.skipif(not available(), reason="needs g++")

H100 = GpuTarget()
LONE = GpuTarget(processors=1, threads=64)  # one block is enough for it: it gets the largest tiles

PRODUCTS = {
    "left deep": "y[i, j] = sum(k) a[i, k]*b[k, j]",
    "both wide": "y[i, j] = sum(k) at[k, i]*b[k, j]",
    "both deep": "y[i, j] = sum(k) a[i, k]*bt[j, k]",
    "right deep": "y[i, j] = sum(k) at[k, i]*bt[j, k]",
    "computed": "y[i, j] = sum(k) tanh(a[i, k])*(b[k, j] + 1)",
    "guarded": "y[i, j] = sum(k) (at[k + 2, i] else 0)*b[k, j]",
    "elsewhere 1": "y[i, j] = sum(k) (at[k + 2, i] else 1)*b[k, j]",
    "moved": "y[i, j < {n}] = sum(k) a[i, k]*wide[k, j + 3]",
    "gathered": "y[i, j] = sum(k) a[i, k]*bt[at_row[j], k]",
    "batched": "y[n, i, j] = sum(k) u[n, i, k]*v[n, k, j]",
    "continued": "y[i, j] = max(sum(k) a[i, k]*b[k, j], 0) + c[j]",
    "windows": "y[n, i < {m}, o] = sum(p < 3, k) (u[n, i + p - 1, k] else 0)*w[p, k, o]",
    "of windows": "y[p < 3, k, o] = sum(n, i) (u[n, i + p - 1, k] else 0)*v[n, o, i]",
}
HEAD = (
    "model M(a: f32[{m}, {k}], at: f32[{k}, {m}], b: f32[{k}, {n}], bt: f32[{n}, {k}], "
    "c: f32[{n}], at_row: i32[{n}], wide: f32[{k}, {wider}], u: f32[2, {m}, {k}], "
    "v: f32[2, {k}, {m}], w: f32[3, {k}, {n}]) -> y {{\n{line}\n}}"
)
SIZES = {"even": (128, 128, 40), "odd": (130, 125, 37)}


def product(name: str, size: str, float_type: str = "f32") -> System:
    m, n, k = SIZES[size]
    line = PRODUCTS[name].format(m=m, n=n)
    text = HEAD.format(m=m, n=n, k=k, wider=n + 3, line=line)
    return system(text.replace("f32", float_type), float_type=float_type)


def run(given: System, target: GpuTarget = LONE) -> tuple[SimulatedProgram, np.ndarray, np.ndarray]:
    """The program, and its result beside the evaluator's in f64."""
    inputs = {name: abs(v) if v.dtype.kind == "i" else v for name, v in values(given, 0).items()}
    program = SimulatedProgram(given, (0, 1, 2), target)
    for name, value in inputs.items():
        program.arrays[name][...] = value
    program.run()
    return program, program.arrays["y"], evaluate(given, inputs, wide=True)["y"]


def tiles(program: SimulatedProgram | Module) -> list[Grid]:
    made = program if isinstance(program, Module) else program.module
    return [g for g in made.grids.values() if isinstance(g.how, MatmulTile)]


@needs_gpp
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", mostly_slow(PRODUCTS, [*PRODUCTS][::3]))
def test_products(name: str, size: str):
    program, found, expected = run(product(name, size))
    assert tiles(program)
    scale = float(np.abs(expected).max())
    np.testing.assert_allclose(found, expected, rtol=0, atol=scale * 40 * 2.0**-24)


@needs_gpp
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", mostly_slow(PRODUCTS, [*PRODUCTS][::3]))
def test_products_of_bf16(name: str, size: str):
    """Operands are rounded as the evaluator's, sums are of f32."""
    program, found, expected = run(round_contractions(product(name, size)))
    (grid,) = tiles(program)
    assert isinstance(grid.how, MatmulTile) and grid.how.tensor_cores
    scale = float(np.abs(expected).max())
    off = np.abs(found - expected)
    assert off.max() <= scale * 2.0**-6  # where what is computed in f32 lies at a tie
    assert np.quantile(off, 0.9) <= scale * 40 * 2.0**-24


@needs_gpp
def test_products_of_f64():
    for name in ("left deep", "both wide", "windows"):
        program, found, expected = run(product(name, "even", "f64"))
        assert tiles(program)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@needs_gpp
def test_layers_take_whole_steps():
    """Points are divided among layers of blocks, and each layer's first step is aligned."""
    text = "model M(a: f32[5000, 64], b: f32[5000, 64]) -> y { y[i, j] = sum(k) a[k, i]*b[k, j] }"
    program, found, expected = run(system(text, float_type="f32"), GpuTarget(processors=7))
    (grid,) = tiles(program)
    assert grid.part is not None and grid.part.size == 7 and grid.chunk % 16 == 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


COPIES = {  # elements that are copied at once, of the operand with `down` and of that with `across`
    ("left deep", "even"): (1, 4), ("left deep", "odd"): (1, 1),
    ("both wide", "even"): (4, 4), ("both wide", "odd"): (2, 1),
    ("both deep", "even"): (1, 1), ("computed", "even"): (0, 0),
    ("guarded", "even"): (4, 4), ("elsewhere 1", "even"): (0, 4),
    ("moved", "even"): (1, 1), ("gathered", "even"): (1, 0),
    ("windows", "even"): (1, 4),
}  # fmt: skip


@pytest.mark.parametrize(("name", "size"), COPIES)
def test_what_is_copied_how(name: str, size: str):
    (grid,) = tiles(cuda_module(gpu_plan(product(name, size), without=NO_ATTENTION), LONE))
    assert isinstance(grid.how, MatmulTile)
    found = grid.how.left.copy_width, grid.how.rights[0].copy_width
    assert found == COPIES[name, size]
    assert grid.how.stages == (3 if any(found) else 2)
    assert f"{grid.how.stages} stages" in str(grid)


def test_small_products_of_bf16_have_no_tensor_cores():
    """The source says which and why, and what the others do."""
    text = "model M(a: f32[80, 80], b: f32[80, 12]) -> y { y[i, j] = sum(k) a[i, k]*b[k, j] }"
    for width, words in (
        ("12", "// of bf16, but a side is below 16: no tensor cores\n// tiles of 16"),
        ("32", "16x16 per warp by mma.sync m16n8k16 of bf16, left rounded as it is loaded"),
    ):
        given = round_contractions(system(text.replace("12", width), float_type="f32"))
        made = cuda_module(gpu_plan(given, without=NO_ATTENTION))
        assert words in made.source
        assert ("MMA(sum" in made.kernels) == (width == "32")


def test_the_largest_tile_that_leaves_nobody_idle():
    def sides(m: int, n: int, k: int, target: GpuTarget = H100) -> tuple:
        text = f"model M(a: f32[{m}, {k}], b: f32[{k}, {n}]) -> y {{ {PRODUCTS['left deep']} }}"
        (grid,) = tiles(
            cuda_module(gpu_plan(system(text, float_type="f32"), without=NO_ATTENTION), target)
        )
        assert isinstance(grid.how, MatmulTile)
        return grid.how.height, grid.how.rows, grid.part.size if grid.part else 1

    assert sides(2048, 2048, 512) == (128, 8, 1)  # 256 blocks for 132 processors
    assert sides(1024, 1024, 200) == (64, 4, 1)
    assert sides(1024, 1024, 2000) == (128, 8, 2)  # 64 blocks, twice
    assert sides(300, 300, 200) == (32, 2, 1)
    assert sides(40, 40, 200) == (16, 1, 1)  # half of a tile of 64 would be empty


# --- NVRTC ----------------------------------------------------------------------------------------


def test_asynchronous_copies_are_instructions():
    library = nvrtc_or_skip()
    made = cuda_module(gpu_plan(product("left deep", "even"), without=NO_ATTENTION), LONE)
    ptx = library.ptx(made.source, "sm_80")
    assert re.search(r"cp\.async\.cg\.shared\.global .*, 16,", ptx)
    assert re.search(r"cp\.async\.ca\.shared\.global .*, 4,", ptx)
    assert "cp.async.wait_group 1;" in ptx


@pytest.mark.parametrize("name", PRODUCTS)
def test_tensor_cores_are_instructions(name: str):
    library = nvrtc_or_skip()
    made = cuda_module(
        gpu_plan(round_contractions(product(name, "even")), without=NO_ATTENTION), LONE
    )
    (grid,) = tiles(made)
    assert isinstance(grid.how, MatmulTile)
    ptx = library.ptx(made.source, "sm_80")
    assert "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32" in ptx
    assert "cvt.rn.bf16x2.f32" in ptx
    sides = grid.how.left.along_points, grid.how.rights[0].along_points
    assert ("ldmatrix.sync.aligned.m8n8.x4.shared" in ptx) == any(sides)
    assert ("ldmatrix.sync.aligned.m8n8.x4.trans.shared" in ptx) == (not all(sides))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.parametrize("name", LARGE)
def test_large_tiles_do_not_spill(name: str, precision: str):
    nvrtc_or_skip()
    made = cuda_module(gpu_plan(model_step(name, precision=precision)[0], without=NO_ATTENTION))
    assert any(isinstance(g.how, MatmulTile) and g.how.height == 128 for g in made.grids.values())
    check_usage(made)
