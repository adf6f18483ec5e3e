"""Matmul tiles multiplied by single threads (SIMT).

In: a `Grid` whose `how` is a `MatmulTile` without tensor cores. Out: lines of its kernel, by
`tile_loader`. In shared memory every point has a row of elements; a thread loads adjacent ones at
once.
"""

from __future__ import annotations

from ...passes.gpu.grid_ir import Grid, MatmulTile
from .expressions import Writer
from .tile_loader import MatmulWriter, Side


class SimtMatmul(MatmulWriter):
    """A thread accumulates `rows` by `columns` results, in groups of a vector or less."""

    elements_per_word = 1

    def __init__(self, w: Writer, grid: Grid, how: MatmulTile):
        super().__init__(w, grid, how)
        self.word = grid.dtype

    def start(self) -> None:
        # threads across the tile; neighbours take neighbouring columns
        how, across = self.how, self.how.width // self.how.columns
        self.w.line(f"const i32 row = THREAD / {across}, column = THREAD % {across};")
        self.w.line(f"{self.word} sum[{len(how.rights)}][{how.rows}][{how.columns}] = {{}};")

    def element(self, side: Side, slot: str, k: str, x: str) -> str:
        size = self.how.stage_words(side.length)
        return (
            f"{side.array}, {slot} * {size} + {k} * {self.how.row(side.length)} + {x}, "
            f"{self.how.stages * size}"
        )

    def multiply(self) -> None:
        w, how = self.w, self.how
        w.line(f"#pragma unroll {how.unroll}")
        with w.block(f"for (i32 k = 0; k < {how.depth}; ++k)"):
            # an outer product of a column of the left tile and a row of the right one
            self._load(self.left, "a", "row", how.rows)
            for n, right in enumerate(self.rights):
                self._load(right, f"b{n}", "column", how.columns)
                w.line("#pragma unroll")
                with w.block(f"for (i32 r = 0; r < {how.rows}; ++r)"):
                    w.line("#pragma unroll")
                    w.line(
                        f"for (i32 c = 0; c < {how.columns}; ++c) sum[{n}][r][c] += a[r] * b{n}[c];"
                    )

    def _load(self, side: Side, name: str, number: str, count: int) -> None:
        """The thread's elements of one operand at the point `k`, in vectors."""
        n = min(count, self.how.vector)
        self.w.line(f"{self.word} {name}[{count}];")
        # A thread's elements are vectors far apart: those of neighbouring threads lie side by side,
        # so that a warp reads whole rows of banks.
        for start in range(0, count, n):
            own = number if n == 1 else f"{number} * {n}"
            x = f"{own} + {start * (side.length // count)}" if start else own
            into = f"{name} + {start}" if start else name
            self.w.line(f"GET({n}, {into}, {self.element(side, 'slot', 'k', x)});")

    def store(self) -> None:
        w, how = self.w, self.how
        w.line("#pragma unroll")
        with w.block(f"for (i32 r = 0; r < {how.rows}; ++r)"):
            # the same layout as in `_load`
            m = w.let("i32", f"m0 + {self._position('row', 'r', how.height, how.rows)}", "m")
            w.line("#pragma unroll")
            with w.block(f"for (i32 c = 0; c < {how.columns}; ++c)"):
                x = w.let(
                    "i32", f"n0 + {self._position('column', 'c', how.width, how.columns)}", "n"
                )
                self.result(m, x, [f"sum[{n}][r][c]" for n, _ in enumerate(how.rights)])

    def _position(self, number: str, at: str, length: int, count: int) -> str:
        """Where the thread's element `at` lies along a side."""
        n = min(count, self.how.vector)
        if n == 1:
            # a single element, then the next one a row of threads further
            return f"{number} + {at} * {length // count}"
        return f"{number} * {n} + {at} % {n} + {at} / {n} * {n * (length // count)}"
