"""Cache blocks: products in blocks and with packed panels compute the same, on any number of
threads; and where they pay."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from support import TARGET, gradients, plan, system, values

from nnc.compiler.ir.equation import System
from nnc.compiler.passes.cpu.cache_blocks import _Product
from nnc.compiler.passes.cpu.loop_ir import Nest
from nnc.compiler.passes.cpu.packed_panels import Panels
from nnc.compiler.passes.cpu.tiling import outer_tilings
from nnc.compiler.pipeline import LlvmCode
from nnc.compiler.reference.evaluator import evaluate
from nnc.compiler.targets import CPU_TARGETS, Cache, CpuTarget
from nnc.runtime.device.cpu.program import CpuProgram

# Caches so small that small products have several panels, blocks and stretches of rows, and costs
# for which all are blocked that can be.
SMALL = replace(
    TARGET,
    l1=Cache(4 << 10, 4),
    l2=Cache(16 << 10, 8),
    costs=replace(TARGET.costs, worth_packing=100.0),
    tiling=replace(TARGET.tiling, partial_bytes=12 << 10, long_block=64, parallel_cycles=1),
)

PRODUCTS = {
    "matrices": "(a: f32[70, 131], b: f32[131, 150]) -> y { y[i, j] = sum(k) a[i, k] * b[k, j] }",
    "transposed": "(a: f32[131, 70], b: f32[131, 96]) -> y { y[i, j] = sum(k) a[k, i] * b[k, j] }",
    "across": "(a: f32[70, 131], b: f32[150, 131]) -> y { y[i, j] = sum(k) a[i, k] * b[j, k] }",
    "across heads": "(a: f32[70, 3, 50], b: f32[90, 3, 50]) -> y"
    " { y[i, j] = sum(h, k) a[i, h, k] * b[j, h, k] }",
    "batched": "(a: f32[3, 40, 90], b: f32[3, 90, 64]) -> y"
    " { y[n, i, j] = sum(k) a[n, i, k] * b[n, k, j] }",
    "heads": "(a: f32[30, 4, 50], b: f32[4, 50, 64]) -> y"
    " { y[t, i] = sum(h, k) a[t, h, k] * b[h, k, i] }",
    "convolution": "(a: f32[3, 12, 12, 32], b: f32[3, 3, 32, 40]) -> y"
    " { y[n, i < 10, j < 10, o] = sum(u, v, c) a[n, i + u, j + v, c] * b[u, v, c, o] }",
    "border": "(a: f32[2, 9, 9, 32], b: f32[3, 3, 32, 64]) -> y { y[n, i < 9, j < 9, o] ="
    " sum(u, v, c) (a[n, i + u - 1, j + v - 1, c] else 0) * b[u, v, c, o] }",
    "kernel": "(a: f32[3, 12, 12, 17], b: f32[3, 10, 10, 64]) -> y { y[u < 3, v < 3, c, o] ="
    " sum(n, i, j) a[n, i + u, j + v, c] * b[n, i, j, o] }",
    "kernel at a border": "(a: f32[2, 9, 9, 256], b: f32[2, 9, 9, 64]) -> y {"
    " y[u < 3, v < 3, c, o] = sum(n, i, j)"
    " (a[n, i + u - 1, j + v - 1, c] else 0) * b[n, i, j, o] }",
    "long": "(a: f32[40, 700], b: f32[700, 64]) -> y { y[i, j] = sum(k) a[i, k] * b[k, j] }",
    "epilogue": "(a: f32[70, 131], b: f32[131, 150], c: f32[150], r: f32[70, 150]) -> y"
    " { z[i, j] = sum(k) a[i, k] * b[k, j]\n  y[i, j] = r[i, j] + max(z[i, j] + c[j], 0) }",
    "rounded": "(a: f32[70, 131], b: f32[131, 150]) -> y"
    " { y[i, j] = sum(k) bf16(a[i, k]) * bf16(b[k, j]) }",
    "across, rounded": "(a: f32[70, 131], b: f32[150, 131]) -> y"
    " { y[i, j] = sum(k) bf16(a[i, k]) * bf16(b[j, k]) }",
    "long epilogue": "(a: f32[70, 131], b: f32[131, 150], c: f32[150]) -> y, z"
    " { z[i, j] = sum(k) a[i, k] * b[k, j]\n  y[i, j] = tanh(exp(z[i, j] + c[j]) - sin(c[j])) }",
}  # fmt: skip


def _run(source: System, threads: int, target: CpuTarget) -> dict[str, np.ndarray]:
    program = CpuProgram(plan(source, target=target), threads, target)
    for name, value in values(source).items():
        program.arrays[name][...] = value
    program.run()
    return {name: np.array(program.arrays[name]) for name in source.outputs}


def _cycles_of_all(product: _Product) -> list[float]:
    """Of every tiling and every stretch of rows, with no limit."""
    found = []
    order = [i.name for i in product.work.over]
    for tiling in product._tilings():
        along, cut = product._along(tiling.vector), product._cut(tiling)
        if along is None or (along and order.index(along) < cut.loop):
            continue
        tiles = product._tile_cycles(tiling)
        for stretch in product._stretches(tiling, cut):
            found.append(product._cycles(tiles, tiling, cut, stretch, along))
    return found


@pytest.mark.parametrize("name", ["matrices", "across", "kernel"])
def test_the_cheapest_of_all_candidates_is_chosen(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[tuple[_Product, float, Panels | None]] = []
    panels = _Product.panels

    def noted(product: _Product, most: float) -> Panels | None:
        found = panels(product, most)
        chosen.append((product, most, found))
        return found

    monkeypatch.setattr(_Product, "panels", noted)
    _nests(system(f"model M{PRODUCTS[name]}", float_type="f32"), SMALL)
    assert any(found for _, _, found in chosen)
    for product, most, found in chosen:
        cheapest = min((c for c in _cycles_of_all(product) if c < most), default=None)
        assert (found and found.cycles) == cheapest
        for index in product.work.outputs:
            every = outer_tilings(product.work, index, False)
            wanted = [t for t in every if product._in_panels(t.vectors, t.rows)]
            assert [*outer_tilings(product.work, index, False, product._in_panels)] == wanted


def _nests(source: System, target: CpuTarget) -> list[Nest]:
    code = LlvmCode(plan(source, target=target), target)
    return [code.nest(kernel) for kernel in code.plan.kernels]


@pytest.mark.parametrize("name", PRODUCTS)
def test_blocks_compute_the_same_on_any_number_of_threads(name: str) -> None:
    source = system(f"model M{PRODUCTS[name]}", float_type="f32")
    blocks = [nest.blocks for nest in _nests(source, SMALL) if nest.blocks is not None]
    assert blocks, "no product is blocked"
    assert any(b.along for b in blocks) == name.startswith("across")
    assert any(b.rounds for b in blocks) == name.endswith("rounded")
    long = name in ("long", "convolution", "border", "kernel")  # more than four blocks of 64 terms
    assert any(b.narrow is not None for b in blocks) == (
        name in ("transposed", "kernel at a border")
    )
    # Windows, and rows that are neighbours in memory, are read by more tiles than the next.
    windows = name in ("transposed", "convolution", "border", "kernel", "kernel at a border")
    assert any(b.next_tile is not None for b in blocks) == (not windows)
    assert any(b.partial == ("f64" if long else "f32") for b in blocks)
    exact = evaluate(source, values(source), wide=True)
    first, *others = (_run(source, threads, SMALL) for threads in (1, 2, 3))
    for output in source.outputs:
        np.testing.assert_allclose(first[output], exact[output], rtol=2e-5, atol=2e-5)
        assert all(other[output].tobytes() == first[output].tobytes() for other in others)


# Lines of the other factor are so far away that a block stays for several panels.
FAR = replace(
    SMALL,
    costs=replace(SMALL.costs, memory_line=100.0),
    tiling=replace(SMALL.tiling, partial_bytes=64 << 10),
)
WIDE = "(a: f32[131, 70], b: f32[131, 272]) -> y { y[i, j] = sum(k) a[k, i] * b[k, j] }"


@pytest.mark.parametrize("text", [PRODUCTS["across heads"], PRODUCTS["border"], WIDE])
def test_panels_that_pass_a_block_in_turn_compute_the_same(text: str) -> None:
    source = system(f"model M{text}", float_type="f32")
    blocks = [nest.blocks for nest in _nests(source, FAR) if nest.blocks is not None]
    assert any(b.panels > 1 and b.partial for b in blocks)
    assert any(b.next_panel or b.along for b in blocks)
    assert any(b.narrow and b.next_rows for b in blocks) == (text is WIDE)
    exact = evaluate(source, values(source), wide=True)
    first, *others = (_run(source, threads, FAR) for threads in (1, 2, 3))
    np.testing.assert_allclose(first["y"], exact["y"], rtol=2e-5, atol=2e-5)
    assert all(other["y"].tobytes() == first["y"].tobytes() for other in others)


def test_blocks_of_a_gradient_stay_in_cache_for_all_panels() -> None:
    """Its sum is over so many rows that both factors come from memory."""
    text = """model M(a: f32[25088, 64], b: f32[25088, 256]) -> y {
        y[i, j] = sum(k) a[k, i] * b[k, j]
    }"""
    (nest,) = _nests(system(text, float_type="f32"), CPU_TARGETS["icelake-server"])
    assert nest.blocks is not None and nest.blocks.panels == nest.loops[0].steps == 4
    assert "4 panels in turn" in str(nest)


def test_sums_between_blocks_stay_in_cache_with_what_the_next_block_reads() -> None:
    target = CPU_TARGETS["icelake-server"]
    blocks = _product(25088, 256, 64).blocks
    assert blocks is not None and blocks.partial == "f32" and blocks.panels == 1
    rows = 4 * blocks.rows
    assert 128 << 10 < rows * (64 + blocks.steps) * 4 <= target.l2.bytes // 2


def test_gradients_of_two_layers() -> None:
    text = """model M(x: f32[70, 90], w: f32[90, 80], v: f32[80, 64], t: f32[70, 64]) -> loss {
        h[n, j] = max(sum(i) x[n, i] * w[i, j], 0)
        y[n, o] = sum(j) h[n, j] * v[j, o]
        loss = mean(...) (y[...] - t[...])^2
    }"""
    whole, names = gradients(system(text, float_type="f32"), "loss", ["w", "v"])
    assert sum(nest.blocks is not None for nest in _nests(whole, SMALL)) >= 3
    exact = evaluate(whole, values(whole), wide=True)
    found = _run(whole, 2, SMALL)
    for name in ("loss", *names.values()):
        scale = np.abs(exact[name]).max()
        np.testing.assert_allclose(found[name], exact[name], rtol=0, atol=1e-5 * scale)


def _product(m: int, k: int, n: int) -> Nest:
    text = f"model M(a: f32[{m}, {k}], b: f32[{k}, {n}]) -> y"
    source = system(text + " { y[i, j] = sum(k) a[i, k] * b[k, j] }", float_type="f32")
    return _nests(source, CPU_TARGETS["icelake-server"])[-1]


def test_rows_a_power_of_two_apart_are_packed() -> None:
    nest = _product(128, 784, 512)
    assert nest.blocks is not None
    columns = max(s.tile for s in nest.loops[0].segments) * nest.lanes
    # panel and what is read beside it: most of the 48 KB of the cache
    assert 16 << 10 < nest.blocks.steps * columns * 4 < 42 << 10
    assert "of peak predicted" in nest.blocks.note and nest.blocks.note in str(nest)
    assert "pack b[k * 512 + j]" in str(nest)


@pytest.mark.parametrize("rows", [32, 128, 1024])
@pytest.mark.parametrize("factor", ["w[k, j]", "w[j, k]"])
def test_a_weight_is_rounded_on_its_way_into_panels(rows: int, factor: str) -> None:
    """Not in a kernel of its own, and not for every tile of rows."""
    text = f"model M(a: f32[{rows}, 512], w: f32[512, 512]) -> y"
    text += f" {{ y[i, j] = sum(k) bf16(a[i, k]) * bf16({factor}) }}"
    nests = _nests(system(text, float_type="f32"), CPU_TARGETS["icelake-server"])
    assert [nest.statements[0].target for nest in nests] == ["a_bf16", "y"]
    assert nests[-1].blocks is not None and nests[-1].blocks.rounds
    assert "pack bf16(w[" in str(nests[-1])
    assert "acc = sum(acc, a_bf16[i * 512 + k] * %panel[k" in str(nests[-1])


def test_a_weight_that_is_read_across_memory_is_transposed_into_panels_not_copied() -> None:
    text = "model M(a: f32[128, 512], w: f32[512, 512]) -> y"
    source = system(text + " { y[i, j] = sum(k) a[i, k] * w[j, k] }", float_type="f32")
    (nest,) = _nests(source, CPU_TARGETS["icelake-server"])
    assert nest.blocks is not None and nest.blocks.along == "k"
    assert "pack w[j * 512 + k], transposed" in str(nest)


def test_a_factor_that_leaves_the_cache_between_panels_is_read_in_blocks() -> None:
    text = "model M(a: f32[1024, 1536], b: f32[1024, 384]) -> y"
    source = system(text + " { y[i, j] = sum(k) a[k, i] * b[k, j] }", float_type="f32")
    *_, nest = _nests(source, CPU_TARGETS["icelake-server"])
    assert nest.blocks is not None
    # Where both factors belong to a batch, so much of them stays.
    text = "model M(a: f32[24, 256, 384], b: f32[24, 256, 64]) -> y"
    source = system(text + " { y[n, i, j] = sum(k) a[n, k, i] * b[n, k, j] }", float_type="f32")
    *_, nest = _nests(source, CPU_TARGETS["icelake-server"])
    assert nest.blocks is None


def test_gradients_of_kernels_are_blocked_rather_than_split_into_parts() -> None:
    text = """model M(a: f32[8, 14, 14, 256], b: f32[8, 14, 14, 256]) -> y {
        y[u < 3, v < 3, c, o] = sum(n, i, j) (a[n, i + u - 1, j + v - 1, c] else 0) * b[n, i, j, o]
    }"""
    source = system(text, float_type="f32")
    *_, nest = _nests(source, CPU_TARGETS["icelake-server"])
    assert nest.reduce == "sum" and nest.blocks is not None and nest.blocks.partial == "f64"


@pytest.mark.parametrize("sizes", [(4, 784, 512), (128, 784, 10), (512, 16, 32), (1, 512, 512)])
def test_few_rows_or_what_stays_in_cache_is_not_packed(sizes: tuple[int, int, int]) -> None:
    assert _product(*sizes).blocks is None


def test_blocks_come_from_the_named_target() -> None:
    text = "model M(a: f32[512, 1024], b: f32[1024, 1024]) -> y"
    source = system(text + " { y[i, j] = sum(k) a[i, k] * b[k, j] }", float_type="f32")
    for target in CPU_TARGETS.values():
        for nest in _nests(source, target):
            if nest.blocks is None:
                continue
            columns = max(s.tile for s in nest.loops[0].segments) * nest.lanes
            assert nest.blocks.steps * columns * 4 < target.l1.bytes, target.name


@pytest.mark.parametrize("sizes", [(784, 128, 512), (6272, 128, 128), (512, 512, 512)])
def test_tiles_load_at_most_once_for_two_products_where_a_load_takes_as_long(
    sizes: tuple[int, int, int],
) -> None:
    nest = _product(*sizes)
    vectors, rows = (
        max(s.tile for loop in nest.loops if loop.index.name == name for s in loop.segments)
        for name in "ji"
    )
    assert 2 * (vectors + rows) <= vectors * rows


def test_what_clipped_loops_leave_out_does_not_count_as_peak() -> None:
    text = """model M(d: f32[64, 7, 7, 512], w: f32[3, 3, 512, 512]) -> y {
        y[n, i < 7, j < 7, c] = sum(u, v, o) (d[n, i - u + 1, j - v + 1, o] else 0) * w[u, v, c, o]
    }"""
    source = system(text, float_type="f32")
    for target in CPU_TARGETS.values():
        notes = [n.blocks.note for n in _nests(source, target) if n.blocks is not None]
        assert all(0.5 < float(re.search(r"(\d+)% of peak", n)[1]) / 100 < 1 for n in notes)
